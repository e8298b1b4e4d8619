"""Running networks in Lava: built, run, stopped whatever happens, and never longer than a timeout.

Lava's runtime waits where others raise: for a worker that died, for one that raised in `run_spk`, at exit when nobody
called `stop`. So a run has two guards. `running` watches the workers of a graph in this process and kills them when one
fails or time is up; `isolated` calls a function in a child process with a process group of its own, and kills that.
`run_file` and `run_network` use both: nothing hangs, nothing is left behind, the caller never imports Lava.

This module itself needs no Lava; running does (`require_lava`).
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetsyn_plugins.core.processes import end_with_parent, lifeline
from hetsyn_plugins.exchange import frameworks
from hetsyn_plugins.fixed_point.network import FixedNetwork
from hetsyn_plugins.fixed_point.neuron import Integers, whole_numbers

PRECISIONS = ("fixed_pt", "floating_pt")  # Lava's tags of process models
POLL = 0.005  # seconds between two looks at the workers
LAST_WORDS = 1.0  # seconds after a worker's end in which an exception, its own or another's, may still arrive
GRACE = 2.0  # seconds in which what was asked to end may end by itself; of short timeouts a quarter


class LavaError(RuntimeError):
    """A run in Lava failed; the message has what is known, a traceback of the worker included."""


class LavaTimeout(LavaError, TimeoutError):
    """A run in Lava took longer than it may; it was killed."""


def why_no_lava() -> str | None:
    """None where Lava can run, else the reason."""
    if sys.version_info >= (3, 11):
        version = ".".join(map(str, sys.version_info[:2]))
        there = f"pip install 'hetsyn_plugins[lava]' there; {frameworks.WITHOUT_LAVA}"
        return f"Lava ends at Python 3.10, this is {version}: {there}"
    if importlib.util.find_spec("lava") is None or importlib.util.find_spec("lava.magma") is None:
        return f"{frameworks.how_to_install('lava_dl')} (Python 3.10); {frameworks.WITHOUT_LAVA}"
    return None


def require_lava() -> None:
    """Raise ImportError, with the extra to install and what works without it, where Lava cannot run."""
    why = why_no_lava()
    if why is not None:
        raise ImportError(why)


def require_lava_here() -> None:
    """`require_lava`, and RuntimeError where this process can no longer import it, which `run_file` need not."""
    require_lava()
    imported = "lava.magma.runtime.message_infrastructure.multiprocessing" in sys.modules
    if not imported and multiprocessing.get_start_method(allow_none=True) is not None:
        raise RuntimeError(
            "Lava sets multiprocessing's start method at import, but in this process that is set, by a DataLoader "
            "with workers for example: import this module before the first of them, or use runtime.run_file or "
            "run_network, which run Lava in a child process"
        )


def checked_timeout(timeout: float) -> float:
    """timeout itself; ValueError where it is no time in seconds. Needs no Lava."""
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout: expected seconds > 0, got {timeout}")
    return timeout


# ---- networks -----------------------------------------------------------------------------------------------------


def run_network(
    network: FixedNetwork,
    inputs: ArrayLike,
    *,
    timeout: float = 120.0,
    precision: str = "fixed_pt",
    allow_overflow: bool = False,
) -> dict[str, NDArray[Any]]:
    """Run an integer network in Lava, one process a layer, in a child process.

    inputs     (T, B, M) whole numbers; the B samples follow each other in one run, nothing passes from one to the next
    timeout    seconds for everything, Lava's start included
    precision  "fixed_pt": equal to `FixedNetwork.run(inputs)`; "floating_pt": to `reference.run` layer by layer
    allow_overflow  let states wrap and clip (`fixed_pt`)

    Returns layer name -> spikes, or v of a readout, (T, B, N), every layer aligned with its input (latency 0).
    Raises ImportError without Lava, ValueError for wrong inputs, FixedPointOverflow, LavaError, LavaTimeout.
    """
    if not isinstance(network, FixedNetwork):
        came = type(network).__name__
        raise ValueError(f"network: expected a FixedNetwork, got {came}; `fixed_point.network.quantise` makes one")
    checked_timeout(timeout)
    x = _checked(inputs, precision, network.layers[0].widths[0])
    require_lava()
    return _arrays(isolated(simulate, network, x, precision, allow_overflow, timeout, timeout=timeout))


def run_file(
    path: str | os.PathLike[str],
    inputs: ArrayLike,
    *,
    timeout: float = 120.0,
    precision: str = "fixed_pt",
    allow_overflow: bool = False,
) -> dict[str, NDArray[Any]]:
    """The same for a netx file, built by `netx.Network`: stock layers run as stock processes, named by their number.

    M is what the first layer takes. Samples that stock layers would mix (`Network.parts_samples`) run one by one, which
    takes longer. Stock layers have parameters for "fixed_pt" only. Also raises FileNotFoundError, and ValueError for a
    file that is not whole.
    """
    checked_timeout(timeout)
    x = _checked(inputs, precision)
    require_lava()
    return _arrays(isolated(simulate, Path(path), x, precision, allow_overflow, timeout, timeout=timeout))


def _checked(inputs: ArrayLike, precision: str, lines: int | None = None) -> Integers:
    x = whole_numbers(inputs)
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected {' or '.join(PRECISIONS)}, got {precision!r}")
    if x.ndim != 3 or 0 in x.shape or lines not in (None, x.shape[2]):
        raise ValueError(f"inputs: expected shape (T, B, {lines or 'M'}), none of them 0, got {x.shape}")
    return x


def _arrays(outputs: Any) -> dict[str, NDArray[Any]]:
    return dict(outputs)


class Tap(NamedTuple):
    """Where a layer's output is read, and how many steps after the network's input it comes."""

    name: str
    port: Any
    latency: int


def simulate(
    what: FixedNetwork | Path, inputs: Integers, precision: str, allow_overflow: bool, timeout: float
) -> dict[str, NDArray[Any]]:
    """What `run_network` and `run_file` do in their child process: build, run, stop, read."""
    from hetsyn_plugins.adapters.lava_dl.proc.io.process import Sink, Source

    steps, samples, lines = inputs.shape
    build = _from_file if isinstance(what, Path) else _direct
    entry, taps, parted = build(what, steps, precision, allow_overflow)
    if np.prod(entry.shape) != lines:
        raise ValueError(f"inputs: expected shape (T, B, {np.prod(entry.shape)}), got {inputs.shape}")
    if samples > 1 and not parted:
        runs = [simulate(what, inputs[:, [b]], precision, allow_overflow, timeout) for b in range(samples)]
        return {tap.name: np.concatenate([run[tap.name] for run in runs], axis=1) for tap in taps}
    source = Source(inputs.transpose(1, 0, 2).reshape(-1, lines))
    source.out.reshape(entry.shape).connect(entry)
    total = samples * steps + max(tap.latency for tap in taps)
    sinks = [Sink(int(np.prod(tap.port.shape)), total) for tap in taps]
    for tap, sink in zip(taps, sinks, strict=True):
        tap.port.flatten().connect(sink.inp)
    with running(source, precision, timeout) as run:
        run(total)
    outputs = {}
    for tap, sink in zip(taps, sinks, strict=True):
        data = sink.data[tap.latency :][: samples * steps].reshape(samples, steps, -1).transpose(1, 0, 2)
        outputs[tap.name] = data.astype(np.int64 if precision == "fixed_pt" else np.float64)
    return outputs


def _direct(network: Any, period: int, precision: str, allow_overflow: bool) -> tuple[Any, list[Tap], bool]:
    """A process a layer; returns the port of the first, a tap of each, and that samples share nothing."""
    from hetsyn_plugins.adapters.lava_dl.proc.hetsyn.process import HetSyn

    layers = []
    for index, layer in enumerate(network.layers):
        options: dict[str, Any] = {"always_on": layer.always_on, "delay": layer.delay, "name": layer.name}
        reset: dict[str, Any] = {"reset_interval": period, "reset_offset": 1 + index}
        layers.append(HetSyn(layer.params, allow_overflow=allow_overflow, **options, **reset))
    for before, after in itertools.pairwise(layers):
        before.out.connect(after.inp)
    return layers[0].inp, [Tap(process.name, process.out, 1 + index) for index, process in enumerate(layers)], True


def _from_file(path: Any, period: int, precision: str, allow_overflow: bool) -> tuple[Any, list[Tap], bool]:
    """What netx builds."""
    from hetsyn_plugins.adapters.lava_dl import netx
    from hetsyn_plugins.adapters.lava_dl.proc.hetsyn.process import HetSyn

    network = netx.Network(str(path), reset_interval=period, allow_overflow=allow_overflow)
    stock = [
        name for name, layer in zip(network.layer_names, network.layers, strict=True) if not isinstance(layer, HetSyn)
    ]
    if stock and precision != "fixed_pt":  # netx hands their 12-bit decays to Lava's float neurons as they are
        raise ValueError(
            f"precision: expected 'fixed_pt' with stock layers ({', '.join(stock)}), whose parameters netx gives "
            f"in the chip's integers, got {precision!r}"
        )
    # the last layer through the network's own port, which Lava would else take for an end of the graph
    ports = [*(layer.out for layer in network.layers[:-1]), network.out]
    return network.entry(), list(map(Tap, network.layer_names, ports, network.latencies)), network.parts_samples


# ---- a graph in this process ----------------------------------------------------------------------------------------


@contextmanager
def running(process: Any, precision: str = "fixed_pt", timeout: float = 120.0) -> Iterator[Callable[[int], None]]:
    """Build the graph that a Lava process belongs to, give a function that runs it for so many steps, and stop it.

        with running(source, "fixed_pt", timeout=60) as run:
            run(1000)

    timeout  seconds from here on for all runs together

    A worker's exception is raised here, as what it was, from a LavaError with its traceback; LavaError where a worker
    died, LavaTimeout where time is up. Whatever is raised, the workers are then dead. A graph cannot be run again.
    """
    require_lava()
    from lava.magma.core.run_configs import Loihi2SimCfg

    deadline = time.monotonic() + timeout
    try:
        process.create_runtime(run_cfg=Loihi2SimCfg(select_tag=precision))
        yield lambda steps: _run(process, steps, deadline)
    except BaseException:
        _kill(process.runtime)
        raise
    process.stop()


def _run(process: Any, steps: int, deadline: float) -> None:
    """Run so many steps without waiting inside Lava, where nobody would look at the workers."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal

    runtime = process.runtime
    alive_until = time.monotonic()
    process.run(RunSteps(num_steps=steps, blocking=False))
    while not all(port.probe() and enum_equal(port.peek(), MGMT_RESPONSE.DONE) for port in runtime.service_to_runtime):
        workers = runtime._messaging_infrastructure.actors
        for error, text in filter(None, (worker.exception for worker in workers)):
            raise error from LavaError(f"in a Lava worker:\n{text}")
        dead = [worker.exitcode for worker in workers if not worker.is_alive()]
        alive_until = alive_until if dead else time.monotonic()
        if time.monotonic() > alive_until + LAST_WORDS:
            raise LavaError(f"a Lava worker died with exit status {min(dead)}")
        if time.monotonic() > deadline:
            raise LavaTimeout(f"{steps} steps did not end in time, all workers alive: one hangs or is slow")
        time.sleep(POLL)
    process.wait()


def _kill(runtime: Any) -> None:
    """End the workers of a graph that cannot stop by itself, and give back its shared memory."""
    infrastructure = None if runtime is None else runtime._messaging_infrastructure
    if infrastructure is None:
        return
    for worker in infrastructure.actors:
        with suppress(ValueError):  # it was joined and closed before
            worker.kill()
    runtime._is_started = False  # or Lava's own destructor would ask the dead to stop, and wait
    infrastructure.stop()


# ---- a function in a child process ----------------------------------------------------------------------------------

# the child finds the packages where this process found them, in a checkout as installed
CHILD = """
import sys
import hetsyn_plugins
hetsyn_plugins.__path__[:] = sys.argv[2:]
from hetsyn_plugins.adapters.lava_dl import runtime
runtime._child(sys.argv[1])
"""


def isolated(function: Callable[..., Any], *arguments: Any, timeout: float) -> Any:
    """function(*arguments) in a child process that is over, with all it started, when this returns or raises.

    function   found by its module and name (no lambda); what goes in and out must pickle
    timeout    seconds; by then the child's process group is killed, politely first, and LavaTimeout raised

    An exception of the function is raised here, from a LavaError with the child's traceback; a child that dies without
    a word is a LavaError with what it printed last.
    """
    checked_timeout(timeout)
    with tempfile.TemporaryDirectory(prefix="hetsyn_lava_") as folder:
        job, answer = Path(folder, "job"), Path(folder, "answer")
        job.write_bytes(pickle.dumps((function, arguments)))
        command = [sys.executable, "-c", CHILD, folder, *sys.modules["hetsyn_plugins"].__path__]
        printed, status, timed_out = _in_own_group(command, timeout)
        answered = pickle.loads(answer.read_bytes()) if answer.exists() else None
    if answered is not None:
        value, error, text = answered
        if error is not None:
            raise error from LavaError(f"in the child process that ran Lava:\n{text}")
        return value
    tail = "\n".join(printed.splitlines()[-15:])
    output = f"; it printed:\n{tail}" if tail else ""
    if timed_out:
        raise LavaTimeout(
            f"no result within {timeout:g} s, so the run was killed: too many steps for the time, or a Lava worker "
            f"hangs{output}"
        )
    raise LavaError(f"the child process that ran Lava died with exit status {status}{output}")


def _in_own_group(command: list[str], timeout: float) -> tuple[str, int | None, bool]:
    """Run a command; returns what it printed, its exit status, and whether it had to be killed.

    All that it starts inherits the pipe of its output, so the pipe's end says that nobody is left.
    """
    grace = min(GRACE, timeout / 4)
    with (
        lifeline() as line,
        subprocess.Popen(
            command,
            **{**line, "env": {**line["env"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as child,
    ):
        timed_out = False
        try:
            printed, _ = child.communicate(timeout=timeout - grace)
        except subprocess.TimeoutExpired:
            timed_out = child.poll() is None  # else it died, and what it had started hangs
            printed = _ended(child, grace)
        except BaseException:  # this process is interrupted
            _ended(child, grace)
            raise
    return printed, child.returncode, timed_out


def _ended(child: subprocess.Popen[str], grace: float) -> str:
    """End a child's process group, and return what it printed.

    First politely: Python's resource tracker ignores SIGTERM and outlives the others to free shared memory.
    """
    _end_group(child.pid)
    try:
        return child.communicate(timeout=grace)[0]
    except BaseException as error:
        _signal(child.pid, signal.SIGKILL)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
    return child.communicate()[0]


def _end_group(group: int = 0) -> None:
    _signal(group, signal.SIGTERM)
    _signal(group, signal.SIGCONT)  # the stopped do not hear the first before they hear this


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, where only zombies are left
        os.killpg(group, number)


def _child(folder: str) -> None:
    """The child's side of `isolated`."""

    def end() -> None:
        shutil.rmtree(folder, ignore_errors=True)  # its owner cannot any more
        _end_group()

    end_with_parent(end)
    value = error = text = None
    try:
        function, arguments = pickle.loads(Path(folder, "job").read_bytes())
        value = function(*arguments)
    except Exception as caught:
        error, text = caught, traceback.format_exc()
    try:
        answer = pickle.dumps((value, error, text))
        pickle.loads(answer)  # an exception may pickle and not come back
    except Exception:
        answer = pickle.dumps((None, LavaError(f"{type(error or value).__name__}, which does not pickle"), text))
    part = Path(folder, "part")
    part.write_bytes(answer)
    part.replace(Path(folder, "answer"))
    sys.stdout.flush()
    os._exit(0)  # nothing of Lava's may hold up the exit
