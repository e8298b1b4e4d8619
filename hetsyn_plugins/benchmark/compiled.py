"""What torch.compile makes of a layer's time: compiled beside eager calls, in turns, from reset states.

A compiled call is a graph by itself, and what it returns leaves the graph, or stays inside where a net hands out its
spikes alone. Training is a forward and backward pass, weights and decays trained.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hetsyn_plugins.benchmark.loops import Size, inputs
from hetsyn_plugins.exchange import frameworks
from hetsyn_plugins.ops import operators

SIZES = [Size((784, 200), 64, 25), Size((64, 64), 32, 25)]
BACKEND = "inductor"


class Form(NamedTuple):
    """How a layer is made, of M and N, and how it, or what torch.compile made of it, gives the sum of its spikes."""

    build: Callable[[int, int], nn.Module]
    run: Callable[[Any, Tensor], Tensor]


class Cost(NamedTuple):
    """A form, training or not, and milliseconds of eager and compiled calls (medians)."""

    size: Size
    form: str
    training: bool
    eager: float
    compiled: float


class Spikes(nn.Module):
    """A net that hands out the spikes of its layer alone: the state stays inside."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of a sequence (T, B, M)."""
        spikes: Tensor = self.layer(x)[0]
        return spikes


def forms() -> dict[str, Form]:
    """Every form whose framework is installed."""
    available: dict[str, Form] = {}
    if frameworks.is_installed("snntorch"):
        layer = frameworks.adapter("snntorch").HetSynLeaky
        available |= {
            "snnTorch, a sequence": Form(lambda m, n: Spikes(layer(m, n)), lambda net, x: net(x).sum()),
            "snnTorch, hidden, a sequence": Form(
                lambda m, n: layer(m, n, init_hidden=True), lambda net, x: net(x).sum()
            ),
            "snnTorch, hidden, steps": Form(lambda m, n: layer(m, n, init_hidden=True), hidden_steps),
            "snnTorch, steps": Form(layer, steps),
        }
    if frameworks.is_installed("norse"):
        norse = frameworks.adapter("norse")
        available |= {
            "Norse, a sequence": Form(lambda m, n: Spikes(norse.HetSynLIF(m, n)), lambda net, x: net(x).sum()),
            "Norse, a sequence and state": Form(norse.HetSynLIF, lambda net, x: net(x)[0].sum()),
            "Norse, cells": Form(norse.HetSynLIFCell, steps),
        }
    if not available:
        raise ImportError(frameworks.how_to_install("snntorch"))
    return available


def hidden_steps(net: Any, x: Tensor) -> Tensor:
    """A loop over single steps; the layer keeps its states."""
    return torch.stack([net(x_t).sum() for x_t in x.unbind(0)]).sum()


def steps(net: Any, x: Tensor) -> Tensor:
    """A loop over single steps, states passed on."""
    states: Any = []
    sums = []
    for x_t in x.unbind(0):
        out, *states = net(x_t, *states)
        sums.append(out.sum())
    return torch.stack(sums).sum()


def measure(runs: int) -> list[Cost]:
    """The cost of every form at every size."""
    if not operators.AVAILABLE:
        raise ValueError(f"--compiled: expected torch 2.4 or later, got {torch.__version__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, and of layers that do not fire or loops that cost much
        return [
            _measure(size, name, form, training, runs)
            for size in SIZES
            for name, form in forms().items()
            for training in (True, False)
        ]


def _measure(size: Size, name: str, form: Form, training: bool, runs: int) -> Cost:
    torch._dynamo.reset()
    net, x = form.build(*size.widths), inputs(size)
    layer: Any = next(module for module in net.modules() if hasattr(module, "surrogate"))
    calls = {"eager": net, "compiled": torch.compile(net, fullgraph=True, backend=BACKEND)}
    seconds: dict[str, list[float]] = {call: [] for call in calls}
    for turn in range(runs + 2):
        for call, function in calls.items():
            if hasattr(layer, "reset_mem"):
                layer.reset_mem()
            net.zero_grad()
            start = time.perf_counter()
            with contextlib.nullcontext() if training else torch.no_grad():
                total = form.run(function, x)
            if training:
                total.backward()
            if turn > 1:  # the first two compile
                seconds[call].append(time.perf_counter() - start)
    return Cost(size, name, training, *(1e3 * statistics.median(values) for values in seconds.values()))


def table(costs: list[Cost]) -> str:
    """The costs, a line each."""
    lines = []
    for size in dict.fromkeys(cost.size for cost in costs):
        lines.append(f"{size}; {torch.get_num_threads()} threads, torch {torch.__version__}")
        for c in (cost for cost in costs if cost.size == size):
            kind = "training" if c.training else "forward"
            times = f"{c.compiled / c.eager:5.2f} x eager"
            lines.append(f"  {c.form:29} {kind:9} compiled {c.compiled:8.2f} ms  {times}, {c.eager:.2f} ms")
    return "\n".join(lines)
