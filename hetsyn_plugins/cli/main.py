"""The command `hetsyn`: demo, verify, bench, export, simulate and nir; convert and card (`exchange.py`); train,
evaluate, analyse, claim, data and report (`experiments.py`); prune; doctor. `listing.py` shows them in groups."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from hetsyn_plugins._version import __version__
from hetsyn_plugins.cli import exchange, experiments, signals
from hetsyn_plugins.cli.doctor import add_doctor
from hetsyn_plugins.cli.listing import listed
from hetsyn_plugins.cli.options import check_known
from hetsyn_plugins.cli.prune import add_prune
from hetsyn_plugins.cli.verify import add_verify
from hetsyn_plugins.core.allocations import OutOfMemory, told
from hetsyn_plugins.core.processes import is_first, is_rank

DESCRIPTION = (
    "HetSynLIF, the spiking neuron whose every synapse has its own time constant, for snnTorch, Norse, Lava-DL"
)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED_PIPE = 128 + 13  # as a shell says of SIGPIPE
RESUMED = ("train", "claim", "data")  # commands that go on where they were


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit status: 0 all held, 1 a promise was broken, 2 the request was wrong or a disk full.

    Without argv it is the process's command, whose signals it takes: 130 after Ctrl-C, 143 after SIGTERM. Where what is
    printed cannot be written: 2, or as of a process that a closed pipe has ended.
    """
    if argv is None:
        signals.handle()
    try:
        try:
            status = _run(argv)
        finally:
            _flush()
    except OSError as error:
        _drop(sys.stdout)
        status = CLOSED_PIPE if isinstance(error, BrokenPipeError) else 2
        if status == 2:
            _say(f"hetsyn: standard output: {error.strerror}")
    if argv is None:
        signals.done(status)
    return status


def _run(argv: Sequence[str] | None) -> int:
    """Parse and run; what goes wrong is one line, but for what is wrong with standard output, which raises OSError."""
    arguments = argparse.Namespace(command="")
    try:
        from hetsyn_plugins.core.file_format import unchecked_told_once  # loads NumPy: after signals are taken

        commands = parser()
        if not (sys.argv[1:] if argv is None else argv):
            print(commands.format_help(), end="", file=sys.stderr)
            return 2
        commands.parse_args(argv, arguments)
        if is_rank() and arguments.command != "train":
            raise ValueError(f"torchrun: expected with it the command train, got {arguments.command}")
        if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show ends nothing
            sys.stdout.reconfigure(errors="backslashreplace")
        with unchecked_told_once(), told(arguments.command, lambda: f"less of {arguments.less} needs less"):
            status: int = arguments.handler(arguments)
        return status
    except BrokenPipeError:
        raise
    except BaseException as error:
        return said(error, arguments.command)


def said(error: BaseException, command: str) -> int:
    """Say in a line what an error means, and return the exit status; what is no user's affair is raised again."""
    status, how = 2, f"{error}"
    if signals.asked() or isinstance(error, KeyboardInterrupt):  # asked: an import, say, that broke off says otherwise
        goes_on = "goes on from there" if command in RESUMED else "starts anew"
        status, how = signals.status(), f"stopped; the same command {goes_on}"
        if not is_first():  # as torchrun stops it when another one has ended, and that one says why
            return status
    elif isinstance(error, ArithmeticError) and not isinstance(error, OverflowError):  # training out of bounds
        status, how = 1, f"stopped: {error}"
    elif isinstance(error, OSError) and error.errno in FULL:
        how += "; make room and give the same command again"
    elif not isinstance(error, ValueError | ImportError | OSError | OverflowError | OutOfMemory):
        raise error
    _flush()
    _say(f"hetsyn {command}: {how}")
    return status


def _flush() -> None:
    if sys.stdout is not None:  # None: it was closed before we began
        sys.stdout.flush()


def _say(line: str) -> None:
    try:
        print(line, file=sys.stderr)
    except OSError:  # that it cannot be said is no reason for another exit status
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """What is still to be printed there goes nowhere: the interpreter would meet the fault again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Listed(argparse.ArgumentParser):
    """A parser whose help is the list of commands in groups; each command's help is argparse's."""

    def format_help(self) -> str:
        return listed(self.format_usage(), DESCRIPTION)

    def format_usage(self) -> str:
        return "usage: hetsyn COMMAND ...\n"


def parser() -> argparse.ArgumentParser:
    """The parser; each command sets `handler`, which takes the arguments and returns the exit status, and `less`: the
    option of which less needs less memory."""
    top = Listed(prog="hetsyn", description=DESCRIPTION)
    top.add_argument("--version", action="version", version=f"hetsyn_plugins {__version__}")
    commands = top.add_subparsers(dest="command", required=True, parser_class=argparse.ArgumentParser)

    add_doctor(commands)

    demo = commands.add_parser("demo", help="train on real digits in snnTorch, carry the network to Norse, compare")
    demo.add_argument("--out", type=Path, default=Path("hetsyn_demo"), help="folder for pictures and checkpoint")
    demo.add_argument("--epochs", type=int, default=50)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--samples", type=int, help="train on so many digits only (then no accuracy is promised)")
    demo.add_argument(
        "--device", default="cpu", help="where it trains: cpu (default), cuda or cuda:1; the rest on the CPU"
    )
    demo.set_defaults(handler=run_demo, less="--samples")

    add_verify(commands)
    bench = commands.add_parser("bench", help="time and memory of a training step against plain autograd and others")
    bench.add_argument("--shape", action="append", help="only this shape of the table (may be repeated)")
    bench.add_argument("--runs", type=int, default=9)
    bench.add_argument("--out", type=Path, default=Path("hetsyn_bench"), help="folder for the CSV and the picture")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    bench.add_argument("--no-memory", action="store_true", help="times only")
    bench.add_argument("--no-scaling", action="store_true", help="the table only")
    bench.add_argument("--calls", action="store_true", help="only what small calls cost beside their kernels")
    bench.add_argument("--loops", action="store_true", help="only what loops of single steps cost beside sequences")
    bench.add_argument("--delays", action="store_true", help="only what delays of synapses cost")
    bench.add_argument("--masks", action="store_true", help="only what masks of synapses save")
    bench.add_argument("--convolutions", action="store_true", help="only what HetSynConv2d costs beside Conv2d, Leaky")
    bench.add_argument("--codebook", action="store_true", help="only what shared decays save (with snntorch)")
    bench.add_argument("--compiled", action="store_true", help="only what torch.compile makes of calls of layers")
    bench.set_defaults(handler=run_bench, less="--shape")

    add_export(commands)
    add_simulate(commands)
    exchange.add_commands(commands)
    add_nir(commands)
    experiments.add_commands(commands)
    add_prune(commands)
    return top


def add_export(commands: Any) -> None:
    """Add `export`."""
    export = commands.add_parser("export", help="bring a checkpoint to integers and write it for a Loihi-style chip")
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    export.add_argument("--clusters", type=int, metavar="K", help="let the synapses of a layer share K decays")
    export.add_argument("--tolerance", type=float, metavar="X", help="as few decays as move v by less than this share")
    export.add_argument("--form", choices=("cluster", "synapse"), help="an accumulator a decay, or one a synapse")
    export.add_argument("--clip", action="store_true", help="take the nearest where a weight or tau does not fit")
    export.add_argument(
        "--data", help="try it on the test digits ('digits') or FILE.npz: inputs (T, B, M), labels (B,)"
    )
    export.add_argument("--samples", type=int, help="only so many of them")
    export.add_argument("--allow-overflow", action="store_true", help="count states that leave their bits")
    export.add_argument("-o", "--out", type=Path, required=True, metavar="NET")
    export.set_defaults(handler=run_export, less="--samples")


def add_simulate(commands: Any) -> None:
    """Add `simulate`."""
    simulate = commands.add_parser("simulate", help="run an exported network in integers, and in Lava beside it")
    simulate.add_argument("net", type=Path, metavar="NET")
    simulate.add_argument("--data", required=True, help="'digits' (the test set) or FILE.npz: inputs, maybe labels")
    simulate.add_argument("--samples", type=int, help="only so many of them")
    simulate.add_argument("--allow-overflow", action="store_true", help="let states wrap and clip, and count")
    simulate.add_argument("--lava", action="store_true", help="also run it in Lava and compare every bin")
    simulate.add_argument("--timeout", type=float, default=300, help="seconds that Lava may take in all")
    simulate.set_defaults(handler=run_simulate, less="--samples")


def add_nir(commands: Any) -> None:
    """Add `nir`."""
    nir = commands.add_parser("nir", help="NIR files: what a reader cannot hold")
    actions = nir.add_subparsers(dest="action", required=True)
    check = actions.add_parser("check", help="name each node of a file that a reader cannot hold, and why")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--for", dest="reader", required=True, metavar="READER", help="norse, snntorch, spyx, ...")
    check.set_defaults(handler=run_nir_check, less="FILE")


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demo; its options are checked before what it needs is loaded."""
    if arguments.epochs < 1:
        raise ValueError(f"--epochs: expected at least 1, got {arguments.epochs}")
    from hetsyn_plugins.cli.demo import demo

    return demo(arguments.out, arguments.epochs, arguments.seed, arguments.samples, device=arguments.device)


def run_bench(arguments: argparse.Namespace) -> int:
    """Check the request, then measure."""
    from hetsyn_plugins.benchmark import bench, calls, codebook, compiled, convolutions, delays, loops, masks
    from hetsyn_plugins.experiments.affordable import check_rounds

    shapes = list(bench.shapes_on(arguments.device))
    check_known("--shape", arguments.shape, shapes)
    if arguments.runs < 1:
        raise ValueError(f"--runs: expected at least 1, got {arguments.runs}")
    check_rounds("--runs", arguments.runs)
    for option in ("calls", "loops", "compiled", "delays", "masks", "convolutions", "codebook"):
        if getattr(arguments, option) and arguments.shape is not None:
            raise ValueError(f"--{option}: expected without --shape, it has shapes of its own, got both")
        if getattr(arguments, option) and option not in ("delays", "codebook") and arguments.device != "cpu":
            raise ValueError(f"--{option}: expected --device cpu, where it measures, got {arguments.device}")
    if arguments.calls:
        print(calls.table(calls.measure(arguments.runs)))
        return 0
    if arguments.loops:
        print(loops.table(loops.measure(arguments.runs, not arguments.no_memory)))
        return 0
    if arguments.masks:
        print(masks.table(masks.measure(arguments.runs)))
        return 0
    if arguments.delays:
        print(delays.table(delays.measure(arguments.runs, arguments.device)))
        return 0
    if arguments.convolutions:
        print(convolutions.table(convolutions.measure(arguments.runs, not arguments.no_memory)))
        return 0
    if arguments.codebook:
        print(codebook.table(codebook.measure(arguments.runs, arguments.device)))
        return 0
    if arguments.compiled:
        print(compiled.table(compiled.measure(arguments.runs)))
        return 0
    names = [name for name in shapes if arguments.shape is None or name in arguments.shape]
    memory, scaling = not arguments.no_memory, not arguments.no_scaling
    return bench.main(names, arguments.runs, arguments.out, memory, scaling, arguments.device)


def run_export(arguments: argparse.Namespace) -> int:
    """Export and print the report; what cannot be exported as asked is a wrong request."""
    from hetsyn_plugins.deployment.export import export

    inputs, labels = (None, None) if arguments.data is None else load_data(arguments.data, arguments.samples)
    report = export(
        arguments.checkpoint,
        arguments.out,
        clusters=arguments.clusters,
        tolerance=arguments.tolerance,
        form=arguments.form,
        clip=arguments.clip,
        calibration=inputs,
        labels=labels,
        allow_overflow=arguments.allow_overflow,
    )
    print(report)
    return 0


def run_simulate(arguments: argparse.Namespace) -> int:
    """Run the integer core, print what it did, and compare Lava with it; 1 where a bin differs."""
    from hetsyn_plugins.deployment import chip_file
    from hetsyn_plugins.deployment.export import decisions

    if arguments.lava:
        from hetsyn_plugins.adapters.lava_dl import runtime

        runtime.require_lava()  # before the integer core takes its time
        runtime.checked_timeout(arguments.timeout)
    network = chip_file.read(arguments.net)
    inputs, labels = load_data(arguments.data, arguments.samples)
    steps, samples, _ = inputs.shape
    start = time.perf_counter()
    runs = network.run(inputs, allow_overflow=arguments.allow_overflow)
    rate = steps * samples / (time.perf_counter() - start)
    print(f"{arguments.net}: {len(runs)} layers, {samples:,} samples of {steps:,} steps")
    for name, run in runs.items():
        activity = "readout"
        if run.spikes is not None:
            total = run.spikes.sum()
            activity = f"{total:,} spikes, {total / samples:,.1f} a sample, {run.spikes.mean():.2%} of neuron-steps"
        print(f"{name:14} {activity}" + (f", {run.overflows:,} overflows" if run.overflows else ""))
    if labels is not None:
        right = decisions(runs[network.layers[-1].name]) == labels
        print(f"{'accuracy':14} {right.mean():.1%}")
    print(f"{'integer core':14} {rate:,.0f} steps/s, {samples:,} samples at a time")
    return compare_with_lava(arguments, inputs, runs) if arguments.lava else 0


def run_nir_check(arguments: argparse.Namespace) -> int:
    """A line for each node that the reader cannot hold; 1 where there is one, else how it reads the file."""
    from hetsyn_plugins.exchange.nir import LARGEST, file, readers

    check_known("--for", [arguments.reader], list(readers.READERS))
    node = file.read_node(arguments.file, LARGEST)
    found = readers.findings(node, arguments.reader, arguments.file)
    for name, kind, why in found:
        print(f"{name} ({kind}): {why}" if kind else f"{name}: {why}")
    print(f"{arguments.file}: {len(found) or 'nothing'} that {arguments.reader} cannot hold")
    if not found and (call := readers.call(node, arguments.reader, arguments.file)):
        print(f"read it with {call}")
    return 1 if found else 0


def compare_with_lava(arguments: argparse.Namespace, inputs: Any, runs: dict[str, Any]) -> int:
    """Run the file in Lava and compare every bin of every layer with the integer core's; 1 where any differs."""
    from hetsyn_plugins.adapters.lava_dl import runtime

    start = time.perf_counter()
    try:
        options = {"timeout": arguments.timeout, "allow_overflow": arguments.allow_overflow}
        in_lava = runtime.run_file(arguments.net, inputs, **options)
    except runtime.LavaError as error:
        print(f"{'Lava':14} FAILED: {error}")
        return 1
    rate = inputs.shape[0] * inputs.shape[1] / (time.perf_counter() - start)
    outputs = {name: run.v if run.spikes is None else run.spikes for name, run in runs.items()}
    wrong = {name: differing(in_lava.get(name), output) for name, output in outputs.items()}
    total, bins = sum(wrong.values()), sum(output.size for output in outputs.values())
    print(f"{'Lava':14} {total:,} of {bins:,} bins differ, {rate:,.0f} steps/s, its start included")
    for name, count in wrong.items():
        if count:
            print(f"{'FAILED':14} {name}: {count:,} of {outputs[name].size:,}")
    return 1 if total else 0


def differing(array: Any, expected: Any) -> int:
    """In how many bins an array differs from another; in all of them where it is missing or has another shape."""
    if array is None or array.shape != expected.shape:
        return int(expected.size)
    return int((array != expected).sum())


def load_data(source: str, samples: int | None) -> tuple[Any, Any]:
    """Inputs (T, B, M) and labels (B,) or None: of the test digits, or from a .npz file; the first so many samples."""
    if samples is not None and samples < 1:
        raise ValueError(f"--samples: expected at least 1, got {samples}")
    if source == "digits":
        from hetsyn_plugins.experiments.data import digits

        data = digits.load_spikes()
        return data.test_spikes[:, :samples], data.test_labels[:samples]
    inputs, labels = _samples_of(Path(source))
    return inputs[:, :samples], None if labels is None else labels[:samples]


def _samples_of(path: Path) -> tuple[Any, Any]:
    """The arrays inputs (T, B, M) and, where it has them, labels (B,) of a .npz file: finite, and whole numbers."""
    import numpy as np

    from hetsyn_plugins.core import npz
    from hetsyn_plugins.core.file_format import FileFormatError
    from hetsyn_plugins.core.validation import layout_hint

    if not path.is_file():
        raise FileNotFoundError(f"--data: expected 'digits' or a .npz file, got {path}, which does not exist")
    arrays = npz.read(path, ("inputs", "labels"))
    inputs, labels = arrays.get("inputs"), arrays.get("labels")
    if inputs is None or inputs.ndim != 3:
        got = "none" if inputs is None else f"shape {inputs.shape}"
        raise FileFormatError(path, "inputs (T, B, M)", got, field="inputs")
    if not np.isfinite(inputs).all():
        raise FileFormatError(path, "finite numbers", "NaN or infinity", field="inputs")
    if labels is not None and labels.shape != inputs.shape[1:2]:
        hint = layout_hint(labels.shape, inputs.shape)
        raise FileFormatError(path, f"labels of shape ({inputs.shape[1]},)", f"{labels.shape}{hint}", field="labels")
    if labels is not None and (labels.dtype.kind == "b" or not np.array_equal(labels, np.round(labels))):
        raise FileFormatError(path, "whole numbers", "others", field="labels")
    return inputs, labels
