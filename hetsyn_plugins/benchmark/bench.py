"""`hetsyn bench`: time and memory of a layer's training step against its peers, side by side; see `peers.py`.

First the gate: ours must give the spikes and gradients of plain autograd. Then all peers of a shape run in turns, round
after round in another order, so that what else the machine does, and what one of them leaves to the next, hits all;
medians with the smallest and largest. Memory is the peak of the resident set during one step minus what was resident
before it, each in a process of its own whose kernels are loaded already; on a GPU, what the allocator says. What was
measured goes to a CSV, a PNG and the lines printed.
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
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hetsyn_plugins.adapters.lava_dl import runtime
from hetsyn_plugins.benchmark import peers
from hetsyn_plugins.benchmark.peers import PEERS, Shape
from hetsyn_plugins.core.files import make_folder, write_bytes
from hetsyn_plugins.core.memory import of_process
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.processes import lifeline
from hetsyn_plugins.fixed_point.network import FixedNetwork, quantise

SHAPES = {
    "A": Shape(250, 32, 700, 128),
    "B": Shape(250, 32, 700, 128, recurrent=True),
    "R": Shape(250, 32, 128, 128, recurrent=True, input_gradients=True, rate=0.1),
    "C": Shape(100, 128, 40, 64, recurrent=True, rate=0.1),
    "D": Shape(100, 128, 784, 256, rate=0.1),
    "A, B = 1": Shape(250, 1, 700, 128),
    "patterns": Shape(2000, 1, 100, 100, rate=0.01, readout=True),
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


def gate() -> None:
    """Raise AssertionError unless ours gives plain autograd's spikes and, within rounding, its gradients."""
    for recurrent in (False, True):
        torch.manual_seed(0)
        shape = Shape(60, 19, 50, 33, recurrent=recurrent, rate=0.1)
        x, fields = shape.spikes().double(), {k: t.detach().double() for k, t in peers.fields(shape).items()}
        results = []
        for run in (peers.plain_run, peers.our_run):
            leaves = {k: t.clone().requires_grad_() for k, t in fields.items()}
            spikes = run(x, leaves)
            weights = torch.linspace(0.5, 1.5, spikes.numel(), dtype=spikes.dtype).reshape(spikes.shape)
            (spikes * weights).sum().backward()
            results.append((spikes.detach(), {k: t.grad for k, t in leaves.items()}))
        (spikes, gradients), (our_spikes, our_gradients) = results
        assert spikes.any() and torch.equal(spikes, our_spikes), "ours spikes differently from plain autograd"
        for name, gradient in gradients.items():
            # sums of T * B products of states, each off by some eps: 1e-10 of the largest is far above
            off = (gradient - our_gradients[name]).abs().max() / gradient.abs().max()
            assert off < 1e-10, f"gradient of {name} is off by {off:.1e} of its largest entry"


def limits(device: str) -> tuple[float, float]:
    """Multiply-adds a second (float32, all threads) and bytes a second of a copy: what this machine can do at most."""
    source = torch.zeros(64 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = min(_seconds(lambda: target.copy_(source), device) for _ in range(5))
    fastest = _gpu_multiply_adds(device) if device == "cuda" else _cpu_multiply_adds()
    return fastest, 2 * source.numel() / copied


def _gpu_multiply_adds(device: str, n: int = 8192) -> float:
    """Of a large matrix product in full float32."""
    x = torch.rand(n, n, device=device)
    torch.backends.cuda.matmul.allow_tf32 = False
    return n**3 / min(_seconds(lambda: x @ x, device) for _ in range(5))


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
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(shape: Shape, names: list[str], runs: int) -> dict[str, list[float] | str]:
    """Seconds of each peer's steps, taken in turns; or why it cannot run."""
    steps: dict[str, Any] = {}
    absent: dict[str, list[float] | str] = {}
    for name in names:
        torch.manual_seed(0)
        if name == "plain autograd" and shape.plain_bytes > 0.8 * _memory(shape.device):
            absent[name] = f"would need about {shape.plain_bytes / 1e9:.0f} GB"
            continue
        try:
            steps[name] = PEERS[name](shape)
            _seconds(steps[name], shape.device)  # compiles, fills caches
        except ImportError as error:
            absent[name] = str(error)
            steps.pop(name, None)
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    for _ in range(runs):
        # whoever follows plain autograd finds the memory in disorder
        for name in order.sample(list(steps), len(steps)):
            times[name].append(_seconds(steps[name], shape.device))
    return {**absent, **times}


def _memory(device: str) -> float:
    """Bytes of memory that are free, as Linux says; elsewhere 8 GB."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except OSError:
        return 8e9


def peak_memory(shape: Shape, name: str) -> float | None:
    """MB that one step adds at its peak to the resident set, in a process of its own; None where Linux does not say."""
    if shape.device == "cuda":
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
        shape = replace(SHAPES[label], device=device)
        times = measure(shape, list(PEERS), runs)
        peaks = {peer: peak_memory(shape, peer) for peer, s in times.items() if memory and not isinstance(s, str)}
        our_seconds = times["ours"]
        assert not isinstance(our_seconds, str)  # ours runs everywhere
        for peer in PEERS:
            seconds, peak = times[peer], peaks.get(peer)
            if isinstance(seconds, str):
                row = Row(label, peer, note=seconds)
            else:
                median, ours, our_peak = statistics.median(seconds), statistics.median(our_seconds), peaks.get("ours")
                row = Row(label, peer, 1e3 * median, 1e3 * min(seconds), 1e3 * max(seconds), peak, median / ours)
                if peak and our_peak:
                    row = row._replace(memory_times_ours=peak / our_peak)
                if peer == "ours":
                    row = row._replace(share=shape.multiply_adds / fma_limit / median)
            rows.append(row)
            print(describe(row), flush=True)
    return rows


def describe(row: Row) -> str:
    """A line of the table."""
    head = f"{row.shape:9} {row.peer:15}"
    if row.median is None:
        return f"{head} -  ({row.note})"
    line = f"{head} {row.median:8.1f} ms ({row.least:.1f} to {row.most:.1f})".ljust(56)
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
            times = measure(shape, ["ours", "plain autograd", "snnTorch"], runs)
            for peer, seconds in times.items():
                if isinstance(seconds, str):
                    continue
                ms = [1e3 * s for s in seconds]
                peak = peak_memory(shape, peer) if memory and peer != "snnTorch" else None
                rows.append(Row(f"{axis}={value}", peer, statistics.median(ms), min(ms), max(ms), peak))
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
    make_folder(out, "--out")
    gate()
    print("gate: spikes and gradients equal plain autograd's")
    fma, copy = limits(device)
    on = torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, {torch.get_num_threads()} threads"
    print(f"machine: {on}, Python {platform.python_version()}, torch {torch.__version__}, {date.today()}")
    print(f"limits: {fma / 1e9:.0f} G multiply-adds/s (float32), copy {copy / 1e9:.1f} GB/s")
    print(f"time: median of {runs} runs in turns (least to most); memory: peak of one step, in a process of its own")
    rows = table(names, runs, memory, fma, device)
    if with_scaling:
        more = scaling(max(3, runs // 2), memory, device)
        if memory and any(r.memory is not None for r in more):
            slope, constant, residual = fit_memory(more)
            print(f"memory of ours: {slope:.1f} bytes per B T (N + M) + {constant:.1f} MB, the worst of")
            print(f"    {sum(r.peer == 'ours' for r in more)} runs {residual:.1f} MB off this fit")
        rows += more
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
