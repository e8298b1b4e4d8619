"""`hetsyn bench`: time and memory of a layer's training step against its peers, side by side; see `peers.py`.

First the gate: ours must give the spikes and gradients of plain autograd. Then all peers of a shape run in turns, round
after round in another order, so that what else the machine does, and what one of them leaves to the next, hits all;
medians with the smallest and largest. Memory is the peak of the resident set during one step minus what was resident
before it, each in a process of its own whose kernels are loaded already. On a card times are those of the clock, to the
end of the last kernel, and beside them the card's own, between events; memory is what the allocator says. What was
measured goes to a CSV, a PNG and the lines printed; these alone tell what gradients that skip silent sources take
(`skipping.py`).
"""

from __future__ import annotations

import csv
import io
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hetsyn_plugins.adapters.lava_dl import runtime
from hetsyn_plugins.benchmark import peers, skipping
from hetsyn_plugins.benchmark.peers import PEERS, Shape
from hetsyn_plugins.core.allocations import OutOfMemory, asked_for
from hetsyn_plugins.core.files import make_folder, write_bytes
from hetsyn_plugins.core.memory import of_process
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.processes import lifeline
from hetsyn_plugins.fixed_point.network import FixedNetwork, quantise
from hetsyn_plugins.ops import devices

SHAPES = {
    "A": Shape(250, 32, 700, 128),
    "B": Shape(250, 32, 700, 128, recurrent=True),
    "R": Shape(250, 32, 128, 128, recurrent=True, input_gradients=True, rate=0.1),
    "C": Shape(100, 128, 40, 64, recurrent=True, rate=0.1),
    "D": Shape(100, 128, 784, 256, rate=0.1),
    "A, B = 1": Shape(250, 1, 700, 128),
    "patterns": Shape(2000, 1, 100, 100, rate=0.01, readout=True),
}
# The field's shared benchmark (Open Neuromorphic, 2024): Linear(n, n) and LIF, forward and backward; ours is n -> n.
SHARED = {"n = 512": Shape(500, 16, 512, 512, plain=True)}
ON_CARD = {
    "BIG": Shape(250, 256, 700, 512),
    "rec 256": Shape(250, 128, 700, 256, recurrent=True),
    "rec 512": Shape(250, 128, 700, 512, recurrent=True),
    "rec 1024": Shape(250, 256, 140, 1024, recurrent=True),
    "S-MNIST": Shape(784, 256, 1, 64, recurrent=True, network=True),
    "n = 4096": Shape(500, 16, 4096, 4096, plain=True),
}
BASE = Shape(100, 32, 200, 64, rate=0.05)
SCALING = {
    "T": (25, 50, 100, 200, 400),
    "B": (1, 4, 16, 64, 128),
    "N": (16, 32, 64, 128, 256),
    "M": (50, 100, 200, 400),
}
FIELDS = {"T": "steps", "B": "batch", "N": "neurons", "M": "inputs"}


class Row(NamedTuple):
    """One peer at one shape: milliseconds of a step, MB of its peak, and, if it could not run, why.

    times_ours, memory_times_ours  its median and its peak over ours
    share                          of the multiply-adds a second that the machine can do, for ours
    card                           milliseconds between events on the card, median; None on a CPU
    """

    shape: str
    peer: str
    median: float | None = None
    least: float | None = None
    most: float | None = None
    memory: float | None = None
    times_ours: float | None = None
    memory_times_ours: float | None = None
    share: float | None = None
    note: str = ""
    card: float | None = None


class Seconds(NamedTuple):
    """What the steps of a peer took, by the clock and between events on the card (empty on a CPU)."""

    clock: list[float]
    card: list[float]


def shapes_on(device: str) -> dict[str, Shape]:
    """The shapes of the table."""
    return {**SHAPES, **SHARED, **({} if device == "cpu" else ON_CARD)}


def gate(device: str = "cpu") -> None:
    """Raise AssertionError unless ours gives plain autograd's spikes and, within rounding, its gradients.

    Plain autograd is in float64, on the CPU; ours on a card in float32, its kernels' type. No v of these comes so near
    to the threshold that this could flip a spike.
    """
    ours, tolerance = (torch.float64, 1e-10) if device == "cpu" else (torch.float32, 1e-4)
    for recurrent in (False, True):
        torch.manual_seed(0)
        shape = Shape(60, 19, 50, 33, recurrent=recurrent, rate=0.1)
        x, fields = shape.spikes(), {k: t.detach() for k, t in peers.fields(shape).items()}
        results = []
        for run, place in ((peers.plain_run, ("cpu", torch.float64)), (peers.our_run, (device, ours))):
            leaves = {k: t.clone().to(*place).requires_grad_() for k, t in fields.items()}
            spikes = run(x.to(*place), leaves)
            weights = torch.linspace(0.5, 1.5, spikes.numel()).to(spikes).reshape(spikes.shape)
            (spikes * weights).sum().backward()
            results.append((spikes.detach().to("cpu", torch.float64), {k: t.grad for k, t in leaves.items()}))
        (spikes, gradients), (our_spikes, our_gradients) = results
        assert spikes.any() and torch.equal(spikes, our_spikes), "ours spikes differently from plain autograd"
        for name, gradient in gradients.items():
            # sums of T * B products of states, each off by some eps: of the largest this is far above
            off = (gradient - our_gradients[name].to(gradient)).abs().max() / gradient.abs().max()
            assert off < tolerance, f"gradient of {name} is off by {off:.1e} of its largest entry"


def limits(device: str) -> tuple[float, float]:
    """Multiply-adds a second (float32, all threads) and bytes a second of a copy: what this machine can do at most."""
    source = torch.zeros(64 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = min(_seconds(lambda: target.copy_(source), device) for _ in range(5))
    fastest = _cpu_multiply_adds() if device == "cpu" else _gpu_multiply_adds(device)
    return fastest, 2 * source.numel() / copied


def _gpu_multiply_adds(device: str, n: int = 8192) -> float:
    """Of a large matrix product in full float32."""
    x, before = torch.rand(n, n, device=device), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # no TF32
    try:
        return n**3 / min(_seconds(lambda: x @ x, device) for _ in range(5))
    finally:
        torch.set_float32_matmul_precision(before)


def _cpu_multiply_adds() -> float:
    """Of a kernel with nothing but independent multiply-adds in registers."""
    from hetsyn_plugins.kernels.cpu.simd import lanes_of
    from hetsyn_plugins.kernels.cpu.soma import multiply_adds
    from hetsyn_plugins.kernels.cpu.threads import parallel

    count, units, lanes = 200_000, 64, lanes_of(np.dtype(np.float32))
    out = np.zeros(units * 12 * lanes, np.float32)
    best = min(_seconds(lambda: parallel(multiply_adds, units, out, count)) for _ in range(5))
    return units * count * 12 * lanes / best


def _seconds(run: Callable[[], Any], device: str = "cpu") -> float:
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _timed(run: Callable[[], Any], device: str, seconds: Seconds) -> None:
    """Run once, and add how long it took."""
    if device == "cpu":
        seconds.clock.append(_seconds(run))
        return
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def between_events() -> None:
        events[0].record()
        run()
        events[1].record()

    torch.cuda.synchronize()
    seconds.clock.append(_seconds(between_events, device))
    seconds.card.append(1e-3 * events[0].elapsed_time(events[1]))


def measure(shape: Shape, names: Sequence[str], runs: int) -> dict[str, Seconds | str]:
    """Seconds of each peer's steps, taken in turns; or why it cannot run."""
    steps: dict[str, Any] = {}
    absent: dict[str, Seconds | str] = {}
    for name in names:
        torch.manual_seed(0)
        if name == "plain autograd" and shape.plain_bytes > 0.8 * _memory(shape.device):
            absent[name] = f"would need about {shape.plain_bytes / 1e9:.0f} GB"
            continue
        try:
            steps[name] = PEERS[name](shape)
            _seconds(steps[name], shape.device)  # compiles, fills caches
        except (ImportError, torch.cuda.OutOfMemoryError) as error:
            absent[name] = (asked_for(error) or str(error)).replace("more memory", "more memory needed")
            steps.pop(name, None)
    times = {name: Seconds([], []) for name in steps}
    order = random.Random(0)
    for _ in range(runs):
        # whoever follows plain autograd finds the memory in disorder
        for name in order.sample(list(steps), len(steps)):
            _timed(steps[name], shape.device, times[name])
    return {**absent, **times}


def _memory(device: str) -> float:
    """Bytes of memory that are free, as Linux says; elsewhere 8 GB."""
    if device != "cpu":
        return float(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except OSError:
        return 8e9


def peak_memory(shape: Shape, name: str) -> float | None:
    """MB that one step adds at its peak to the resident set, in a process of its own; None where Linux does not say."""
    if shape.device != "cpu":
        step = PEERS[name](shape)
        step()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    return printed_number(
        f"from hetsyn_plugins.benchmark import bench, peers; bench.print_peak(peers.{shape!r}, {name!r})"
    )


def printed_number(code: str) -> float | None:
    """The number that a process of its own prints last; None where it prints none, or Linux does not tell of memory."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    guard = "from hetsyn_plugins.core.processes import end_with_parent; end_with_parent()"
    command = [sys.executable, "-W", "ignore", "-c", f"{guard}; {code}"]
    with lifeline() as line:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, **line)
    try:
        return float(done.stdout.split()[-1])
    except (IndexError, ValueError):
        return None


def print_peak(shape: Shape, name: str) -> None:
    """The body of `peak_memory`'s process."""
    for batch in (min(shape.batch, 32), 1):  # kernels loaded, pools made
        PEERS[name](replace(shape, steps=3, batch=batch, inputs=8, neurons=8))()
    print_peak_of(PEERS[name](shape))


def print_peak_of(step: Callable[[], Any]) -> None:
    """MB that one call adds at its peak to the resident set of this process, printed."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = of_process("VmRSS")
    step()
    peak = of_process("VmHWM")
    assert before is not None and peak is not None  # Linux, as `printed_number` has seen
    print((peak - before) / 2**20)


def table(names: list[str], runs: int, memory: bool, fma_limit: float, device: str) -> list[Row]:
    """Every shape with every peer, printed as a shape is done."""
    rows: list[Row] = []
    for label in names:
        shape = replace(shapes_on(device)[label], device=device)
        names_here = peers.peers_of(shape)
        times = measure(shape, names_here, runs)
        peaks = {peer: peak_memory(shape, peer) for peer, s in times.items() if memory and not isinstance(s, str)}
        our_seconds = times["ours"]
        if isinstance(our_seconds, str):
            raise OutOfMemory(f"shape {label}: expected {our_seconds} by ours, got none; other --shape need less")
        for peer in names_here:
            seconds, peak = times[peer], peaks.get(peer)
            if isinstance(seconds, str):
                row = Row(label, peer, note=seconds)
            else:
                row, our_peak = _row(label, peer, seconds), peaks.get("ours")
                median = statistics.median(seconds.clock)
                row = row._replace(memory=peak, times_ours=median / statistics.median(our_seconds.clock))
                if peak and our_peak:
                    row = row._replace(memory_times_ours=peak / our_peak)
                if peer == "ours":
                    row = row._replace(share=shape.multiply_adds / fma_limit / median)
            rows.append(row)
            print(describe(row), flush=True)
    return rows


def _row(label: str, peer: str, seconds: Seconds) -> Row:
    """The times of a peer, in ms."""
    clock = [1e3 * s for s in seconds.clock]
    card = 1e3 * statistics.median(seconds.card) if seconds.card else None
    return Row(label, peer, statistics.median(clock), min(clock), max(clock), card=card)


def describe(row: Row) -> str:
    """A line of the table."""
    head = f"{row.shape:9} {row.peer:15}"
    if row.median is None:
        return f"{head} -  ({row.note})"
    digits = 1 if row.card is None else 2
    line = f"{head} {row.median:8.{digits}f} ms ({row.least:.{digits}f} to {row.most:.{digits}f})".ljust(56)
    line += "" if row.card is None else f" card {row.card:8.2f} ms"
    line += f" {row.times_ours:6.2f} x ours"
    if row.memory is not None:
        line += f" {row.memory:8.0f} MB"
    if row.memory_times_ours is not None:
        line += f" {row.memory_times_ours:6.1f} x ours"
    return line + ("" if row.share is None else f"   {row.share:.0%} of the FMA limit")


def varied(axis: str, value: int, device: str = "cpu") -> Shape:
    """The base shape with one size changed."""
    changed: dict[str, Any] = {FIELDS[axis]: value}
    return replace(BASE, device=device, **changed)


def scaling(runs: int, memory: bool, device: str) -> list[Row]:
    """Ours, plain autograd and snnTorch around one base shape, one size varied at a time."""
    rows = []
    for axis, values in SCALING.items():
        for value in values:
            shape = varied(axis, value, device)
            installed = [name for name in ("ours", "plain autograd", "snnTorch") if name in peers.peers_of(shape)]
            times = measure(shape, installed, runs)
            for peer, seconds in times.items():
                if isinstance(seconds, str):
                    continue
                peak = peak_memory(shape, peer) if memory and peer != "snnTorch" else None
                rows.append(_row(f"{axis}={value}", peer, seconds)._replace(memory=peak))
    return rows


def fit_memory(rows: list[Row]) -> tuple[float, float, float]:
    """Bytes per B T (N + M), a constant in MB, and the largest distance from this fit in MB, over the runs of ours."""
    sizes, peaks = [], []
    for row in rows:
        if row.peer == "ours" and row.memory is not None:
            axis, value = row.shape.split("=")
            shape = varied(axis, int(value))
            sizes.append(shape.batch * shape.steps * (shape.neurons + shape.inputs) / 2**20)
            peaks.append(row.memory)
    slope, constant = np.polyfit(sizes, peaks, 1)
    off = np.abs(np.polyval((slope, constant), sizes) - peaks).max()
    return float(slope), float(constant), float(off)


def deployed() -> FixedNetwork:
    """700 -> 128 -> 128 recurrent -> 20 readouts in integers, 8 decays a layer."""
    rng, decays = np.random.default_rng(0), 1 - np.geomspace(0.01, 0.3, 8)

    def layer(name: str, n: int, m: int, recurrent: bool = False, spiking: bool = True) -> HetSynLayer:
        weight, decay = rng.normal(0.05, 1, (n, m)) / m**0.5, rng.choice(decays, (n, m))
        of_recurrent: dict[str, Any] = {}
        if recurrent:
            of_recurrent = {
                "recurrent_weight": rng.normal(size=(n, n)) / n**0.5,
                "recurrent_decay": rng.choice(decays, (n, n)),
            }
        reset = 0.9 if spiking else None
        return HetSynLayer(name, HetSynParams(weight, decay, reset_decay=reset, spiking=spiking, **of_recurrent))

    stack = (layer("1", 128, 700), layer("2", 128, 128, recurrent=True), layer("out", 20, 128, spiking=False))
    return quantise(Network(stack))[0]


def chip_rates() -> None:
    """Steps a second of the integer core, and of Lava's runtime without its start, printed."""
    network, (few, many) = deployed(), (1, 9)
    x = np.random.default_rng(1).random((250, 32, 700)) < 0.02
    fired = ", ".join(f"{r.spikes.mean():.1%}" for r in network.run(x).values() if r.spikes is not None)
    rates = []
    for batch in (1, 32):
        seconds = statistics.median(_seconds(partial(network.run, x[:, :batch])) for _ in range(3))
        rates.append(f"{len(x) * batch / seconds:,.0f} steps/s ({batch} at a time)")
    print(f"integers, 700-128-128rec-20, 8 decays a layer, {fired} of neuron-steps fire: core {', '.join(rates)}")
    try:
        times = [_seconds(partial(runtime.run_network, network, x[:, :n])) for n in (few, many)]
        print(f"    Lava's runtime {len(x) * (many - few) / (times[1] - times[0]):,.0f} steps/s, its start not counted")
    except ImportError as error:
        print(f"    Lava left out: {error}")


def main(names: list[str], runs: int, out: Path, memory: bool, with_scaling: bool, device: str = "cpu") -> int:
    """Gate, table, scaling; then the files."""
    device = str(devices.usable("--device", device))
    make_folder(out, "--out")
    gate(device)
    print("gate: spikes and gradients equal plain autograd's")
    fma, copy = limits(device)
    on = f"{_processor()}, {torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    print(f"machine: {on}, Python {platform.python_version()}, torch {torch.__version__}, {date.today()}")
    print(f"limits: {fma / 1e9:.0f} G multiply-adds/s (float32), copy {copy / 1e9:.1f} GB/s")
    print(f"time: median of {runs} runs in turns (least to most); memory: peak of one step, in a process of its own")
    for peer, how in peers.left_out().items():
        print(f"{peer} left out: {how}")
    rows = table(names, runs, memory, fma, device)
    if device != "cpu":
        large = {
            name: shape for name, shape in shapes_on(device).items() if name in ("A", "D", "BIG") and name in names
        }
        for line in skipping.report(large, min(runs, 7), device):
            print(line, flush=True)
    if with_scaling:
        more = scaling(max(3, runs // 2), memory, device)
        if memory and any(r.memory is not None for r in more):
            slope, constant, residual = fit_memory(more)
            print(f"memory of ours: {slope:.1f} bytes per B T (N + M) + {constant:.1f} MB, the worst of")
            print(f"    {sum(r.peer == 'ours' for r in more)} runs {residual:.1f} MB off this fit")
        rows += more
    if device == "cpu":
        chip_rates()
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(Row._fields)
    writer.writerows(rows)
    write_bytes(out / "bench.csv", text.getvalue().encode())
    print(f"table: {out / 'bench.csv'}")
    if not with_scaling:
        return 0
    try:
        from hetsyn_plugins.experiments import plots

        print(f"picture: {plots.save(plots.scaling(rows).figure, out / 'bench.png')}")
    except ImportError as error:
        print(error)
    return 0


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
