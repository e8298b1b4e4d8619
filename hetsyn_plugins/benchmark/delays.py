"""What delays of synapses cost beside the same layer without: forward and backward pass, weights and decays trained.

At shapes A and D, delays of 0 to LONGEST steps, in turns: none, whole and fixed, learned. On the CPU or on a card.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from hetsyn_plugins.benchmark.bench import SHAPES
from hetsyn_plugins.benchmark.peers import Shape
from hetsyn_plugins.ops import devices
from hetsyn_plugins.ops.lif import hetsyn_lif

LONGEST = 30  # steps
NAMES = ("A", "D")


class Cost(NamedTuple):
    """Milliseconds of a kind of layer at a shape, median."""

    shape: str
    kind: str
    milliseconds: float


def measure(runs: int, device: str = "cpu") -> list[Cost]:
    """Every kind at every shape. Raises ValueError where there is no such device."""
    costs, device = [], str(devices.usable("--device", device))
    for name in NAMES:
        steps = kinds(SHAPES[name], device)
        seconds: dict[str, list[float]] = {kind: [] for kind in steps}
        for turn in range(runs + 1):
            for kind, step in steps.items():
                start = time.perf_counter()
                step()
                if device != "cpu":
                    torch.cuda.synchronize()
                if turn > 0:  # the first warms up
                    seconds[kind].append(time.perf_counter() - start)
        costs += [Cost(name, kind, 1e3 * statistics.median(values)) for kind, values in seconds.items()]
    return costs


def kinds(shape: Shape, device: str = "cpu") -> dict[str, Callable[[], None]]:
    """Kind of delays -> one forward and backward pass."""
    torch.manual_seed(0)
    size = (shape.neurons, shape.inputs)
    x = (torch.rand(shape.steps, shape.batch, shape.inputs) < shape.rate).float().to(device)
    weight = (torch.randn(size) / shape.inputs**0.5).to(device).requires_grad_()
    decay = torch.empty(size).uniform_(0.7, 0.98).to(device).requires_grad_()
    delays = {
        "no delays": None,
        "whole, fixed": torch.randint(LONGEST + 1, size).float().to(device),
        "learned": torch.empty(size).uniform_(0, LONGEST).to(device).requires_grad_(),
    }

    def step(delay: torch.Tensor | None) -> None:
        most = None if delay is None else LONGEST
        spikes, _, _ = hetsyn_lif(x, weight, decay, reset_decay=0.9, delay=delay, max_delay=most)
        spikes.sum().backward()

    return {kind: partial(step, delay) for kind, delay in delays.items()}


def table(costs: list[Cost]) -> str:
    """A line each, with the multiple of the time without delays."""
    without = {cost.shape: cost.milliseconds for cost in costs if cost.kind == "no delays"}
    lines = [f"delays of 0 to {LONGEST} steps"]
    for cost in costs:
        times = cost.milliseconds / without[cost.shape]
        lines.append(f"  {cost.shape}: {cost.kind:14} {cost.milliseconds:8.1f} ms  {times:5.2f} x without")
    return "\n".join(lines)
