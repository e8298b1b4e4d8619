"""What a small call costs beside its kernel alone: one thread, and so few neurons that no arithmetic hides the rest.

Layers have the default options and train their decays; a step is given its states without a graph, a sequence starts
from zeros. The kernels run on the very tensors that the layers hand them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from hetsyn_plugins.exchange import frameworks
from hetsyn_plugins.ops import dispatch
from hetsyn_plugins.ops.arguments import OP, checked_state

N, M, B, T = 5, 20, 3, 50
LOOP = 100  # calls a timing


class CallCost(NamedTuple):
    """A call and the kernel beside which it is taken, microseconds (medians), and how many times the kernel's."""

    call: str
    kernel: str
    microseconds: float
    kernel_microseconds: float
    times: float


def measure(runs: int) -> list[CallCost]:
    """The cost of calls through the adapters that are installed, in turns with their kernels."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        kernels, calls = _prepared()
        every = {**kernels, **{name: call for name, (_, call) in calls.items()}}
        seconds: dict[str, list[float]] = {name: [] for name in every}
        for turn in range(runs + 1):
            for name, call in every.items():
                start = time.perf_counter()
                for _ in range(LOOP):
                    call()
                if turn > 0:  # the first warms up
                    seconds[name].append((time.perf_counter() - start) / LOOP)
    finally:
        torch.set_num_threads(threads)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return [CallCost(n, k, 1e6 * median[n], 1e6 * median[k], median[n] / median[k]) for n, (k, _) in calls.items()]


def _prepared() -> tuple[dict[str, Callable[[], Any]], dict[str, tuple[str, Callable[[], Any]]]]:
    """The kernels by name, and the calls by name with the kernel that each is taken beside."""
    torch.manual_seed(0)
    x = (torch.rand(T, B, M) < 0.3).float()
    backend = dispatch.choose_backend(x, torch.zeros(N, M)).backend
    on_steps, on_sequences = f"{backend} step", f"{backend} sequence"
    calls: dict[str, tuple[str, Callable[[], Any]]] = {}
    layers = []
    if frameworks.is_installed("snntorch"):
        lif = frameworks.adapter("snntorch").HetSynLeaky(M, N)
        states = [state.detach() for state in lif(x[0])[1:]]
        calls["snnTorch, a step"] = on_steps, lambda: lif(x[0], *states)
        calls["snnTorch, a sequence"] = on_sequences, lambda: lif(x)
        layers.append(lif)
    if frameworks.is_installed("norse"):
        norse = frameworks.adapter("norse")
        cell, sequence = norse.HetSynLIFCell(M, N), norse.HetSynLIF(M, N)
        state = type(s := cell(x[0])[1])(*(part.detach() for part in s))
        calls["Norse, a step"] = on_steps, lambda: cell(x[0], state)
        calls["Norse, a sequence"] = on_sequences, lambda: sequence(x)
        layers.append(cell)
    if not layers:
        raise ImportError(frameworks.how_to_install("snntorch"))
    layer = layers[0].layer_tensors(OP.names)
    initial = checked_state(None, layer, B, OP.names)
    kernel = dispatch.kernel_for("auto", x, layer.weight)
    return {
        on_steps: torch.no_grad()(lambda: kernel.forward(x[:1], layer, initial)),
        on_sequences: torch.no_grad()(lambda: kernel.forward(x, layer, initial)),
    }, calls


def table(costs: list[CallCost]) -> str:
    """The costs, a line each."""
    head = f"{M} -> {N} neurons, {B} rows, T = {T}, one thread; medians"
    lines = [
        f"{c.call:22} {c.microseconds:7.1f} us   {c.times:4.2f} times {c.kernel}, {c.kernel_microseconds:.1f} us"
        for c in costs
    ]
    return "\n".join([head, *lines])
