"""What a loop of single steps costs beside one call with the whole sequence, and beside a stock layer's loop.

Forward and backward pass, weights and decays trained, from reset states: HetSyn layers in the idioms of snnTorch
(hidden states, states passed on) and Norse (cells), and Linear with the frameworks' own neurons, in turns.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hetsyn_plugins.benchmark.bench import print_peak_of, printed_number
from hetsyn_plugins.exchange import frameworks

Step = Callable[[], None]


class Size(NamedTuple):
    """A stack of layers and its batch: the inputs and the neurons of each layer, rows, steps."""

    widths: tuple[int, ...]
    batch: int
    steps: int

    def __str__(self) -> str:
        return f"{' -> '.join(map(str, self.widths))}, {self.batch} rows, T = {self.steps}"

    @property
    def arrays(self) -> tuple[float, float]:
        """MB of the currents (B, N, M) of all layers, and of what has T B (N + M) numbers."""
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        currents, sequences = sum(n * m for m, n in pairs), sum(n + m for m, n in pairs)
        return 4e-6 * self.batch * currents, 4e-6 * self.steps * self.batch * sequences


SIZES = [Size((784, 200), 64, 25), Size((64, 64), 32, 25), Size((784, 200, 200, 10), 64, 25)]


class Cost(NamedTuple):
    """A form's milliseconds (median), and MB at its peak in a process of its own (None: Linux does not say)."""

    size: Size
    form: str
    milliseconds: float
    megabytes: float | None


def measure(runs: int, memory: bool) -> list[Cost]:
    """The cost of every form at every size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # loops that cost much, layers that do not fire: known here
        return [cost for size in SIZES for cost in _measure(size, runs, memory)]


def _measure(size: Size, runs: int, memory: bool) -> list[Cost]:
    times = medians({form: build(size) for form, build in forms().items()}, runs)
    peaks = {form: peak_memory(size, form) if memory else None for form in times}
    return [Cost(size, form, milliseconds, peaks[form]) for form, milliseconds in times.items()]


def medians(steps: dict[str, Step], runs: int) -> dict[str, float]:
    """Milliseconds of each step, taken in turns."""
    seconds: dict[str, list[float]] = {form: [] for form in steps}
    for turn in range(runs + 1):
        for form, step in steps.items():
            start = time.perf_counter()
            step()
            if turn > 0:  # the first warms up
                seconds[form].append(time.perf_counter() - start)
    return {form: 1e3 * statistics.median(values) for form, values in seconds.items()}


def table(costs: list[Cost]) -> str:
    """The costs, a line each, with the multiples of the sequence's time and of the stock loops'."""
    lines = []
    for size in dict.fromkeys(cost.size for cost in costs):
        of_size = {cost.form: cost for cost in costs if cost.size == size}
        currents, sequences = size.arrays
        lines.append(f"{size}; currents {currents:.1f} MB, T B (N + M) {sequences:.1f} MB")
        for cost in of_size.values():
            times = f"{cost.milliseconds / of_size['sequence'].milliseconds:5.2f} x sequence"
            stock = [c.milliseconds for form, c in of_size.items() if form.startswith("stock")]
            times += f"  {cost.milliseconds / min(stock):5.2f} x stock" if stock else ""
            peak = "" if cost.megabytes is None else f"  {cost.megabytes:6.1f} MB"
            lines.append(f"  {cost.form:22} {cost.milliseconds:8.2f} ms  {times}{peak}")
    return "\n".join(lines)


def forms() -> dict[str, Callable[[Size], Step]]:
    """Every form whose framework is installed: size -> one forward and backward pass."""
    available: dict[str, Callable[[Size], Step]] = {}
    if frameworks.is_installed("snntorch"):
        available |= {
            "sequence": lambda size: snntorch_step(size, hidden_call),
            "hidden states": lambda size: snntorch_step(size, hidden_loop),
            "states passed on": lambda size: snntorch_step(size, explicit_loop),
        }
    if frameworks.is_installed("norse"):
        available["Norse cells"] = norse_step
    if frameworks.is_installed("snntorch"):
        available["stock snnTorch"] = stock_snntorch_step
    if frameworks.is_installed("norse"):
        available["stock Norse"] = stock_norse_step
    if "sequence" not in available:
        raise ImportError(frameworks.how_to_install("snntorch"))
    return available


def inputs(size: Size) -> Tensor:
    """Random 0/1 inputs (T, B, M)."""
    return (torch.rand(size.steps, size.batch, size.widths[0]) < 0.1).float()


def snntorch_step(size: Size, run: Callable[[list[Any], Tensor], Tensor]) -> Step:
    """HetSynLeaky layers; `run` gives the sum of the last one's spikes over all steps."""
    lif, x = frameworks.adapter("snntorch").HetSynLeaky, inputs(size)
    pairs = zip(size.widths, size.widths[1:], strict=False)
    layers = [lif(m, n, init_hidden=run is not explicit_loop) for m, n in pairs]

    def step() -> None:
        for layer in layers:
            layer.zero_grad()
            layer.reset_mem()
        run(layers, x).backward()

    return step


def hidden_call(layers: list[Any], x: Tensor) -> Tensor:
    """The whole sequence at once."""
    return torch.as_tensor(nn.Sequential(*layers)(x).sum())


def hidden_loop(layers: list[Any], x: Tensor) -> Tensor:
    """Step by step, the layers keep their states."""
    net = nn.Sequential(*layers)
    return torch.stack([net(x_t).sum() for x_t in x.unbind(0)]).sum()


def explicit_loop(layers: list[Any], x: Tensor) -> Tensor:
    """Step by step, states in and out."""
    states: list[Any] = [() for _ in layers]
    sums = []
    for spk in x.unbind(0):
        for i, layer in enumerate(layers):
            spk, *states[i] = layer(spk, *states[i])
        sums.append(spk.sum())
    return torch.stack(sums).sum()


def norse_step(size: Size) -> Step:
    """HetSynLIFCells in a loop."""
    cell = frameworks.adapter("norse").HetSynLIFCell
    pairs = zip(size.widths, size.widths[1:], strict=False)
    return cell_step([cell(m, n) for m, n in pairs], inputs(size))


def stock_norse_step(size: Size) -> Step:
    """Linear and Norse's LIFCell in a loop."""
    import norse.torch

    pairs = zip(size.widths, size.widths[1:], strict=False)
    layers = [norse.torch.SequentialState(nn.Linear(m, n), norse.torch.LIFCell()) for m, n in pairs]
    return cell_step(layers, inputs(size))


def cell_step(layers: list[Any], x: Tensor) -> Step:
    """One pass of layers that give (z, state) for (x, state)."""

    def step() -> None:
        states: list[Any] = [None for _ in layers]
        sums = []
        for z in x.unbind(0):
            for i, layer in enumerate(layers):
                z, states[i] = layer(z, states[i])
            sums.append(z.sum())
        for layer in layers:
            layer.zero_grad()
        torch.stack(sums).sum().backward()

    return step


def stock_snntorch_step(size: Size) -> Step:
    """Linear and snnTorch's Leaky in a loop."""
    import snntorch

    pairs = list(zip(size.widths, size.widths[1:], strict=False))
    neurons = [snntorch.Leaky(beta=0.9, init_hidden=True) for _ in pairs]
    net, x = nn.Sequential(), inputs(size)
    for (m, n), neuron in zip(pairs, neurons, strict=True):
        net.extend([nn.Linear(m, n), neuron])

    def step() -> None:
        net.zero_grad()
        for neuron in neurons:
            neuron.reset_mem()
        torch.stack([net(x_t).sum() for x_t in x.unbind(0)]).sum().backward()

    return step


def peak_memory(size: Size, form: str) -> float | None:
    """MB that one pass adds at its peak to the resident set, in a process of its own; None where Linux does not say."""
    return printed_number(f"from hetsyn_plugins.benchmark import loops; loops.print_peak(loops.{size!r}, {form!r})")


def print_peak(size: Size, form: str) -> None:
    """The body of `peak_memory`'s process."""
    forms()[form](Size(tuple(min(w, 8) for w in size.widths), 2, 3))()  # kernels loaded, pools made
    print_peak_of(forms()[form](size))
