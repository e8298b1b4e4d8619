"""What masks save beside the layer whose synapses are all there: forward and backward pass, weights and decays trained.

At shapes A and D, with a part of the synapses there, in turns with all of them, with and without a mask that says so.
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
from hetsyn_plugins.ops.lif import hetsyn_lif

DENSITIES = (1.0, 0.5, 0.3, 0.1, 0.05)
NAMES = ("A", "D")


class Cost(NamedTuple):
    """Milliseconds of a layer at a shape, median; density None: without a mask."""

    shape: str
    density: float | None
    milliseconds: float


def measure(runs: int) -> list[Cost]:
    """Every density at every shape."""
    costs = []
    for name in NAMES:
        steps = layers(SHAPES[name])
        seconds: dict[float | None, list[float]] = {density: [] for density in steps}
        for turn in range(runs + 1):
            for density, step in steps.items():
                start = time.perf_counter()
                step()
                if turn > 0:  # the first warms up
                    seconds[density].append(time.perf_counter() - start)
        costs += [Cost(name, density, 1e3 * statistics.median(values)) for density, values in seconds.items()]
    return costs


def layers(shape: Shape) -> dict[float | None, Callable[[], None]]:
    """Density -> one forward and backward pass."""
    torch.manual_seed(0)
    size = (shape.neurons, shape.inputs)
    x = shape.spikes()
    weight = (torch.randn(size) / shape.inputs**0.5).requires_grad_()
    decay = torch.empty(size).uniform_(0.7, 0.98).requires_grad_()
    masks: dict[float | None, torch.Tensor | None] = {
        None: None,
        **{density: torch.rand(size) < density for density in DENSITIES},
    }

    def step(mask: torch.Tensor | None) -> None:
        spikes, _, _ = hetsyn_lif(x, weight, decay, reset_decay=0.9, mask=mask)
        spikes.sum().backward()

    return {density: partial(step, mask) for density, mask in masks.items()}


def table(costs: list[Cost]) -> str:
    """A line each, with the multiple of the time without a mask."""
    without = {cost.shape: cost.milliseconds for cost in costs if cost.density is None}
    lines = ["masks, by the part of the synapses that are there"]
    for cost in costs:
        kind = "no mask" if cost.density is None else f"{cost.density:.0%}"
        times = cost.milliseconds / without[cost.shape]
        lines.append(f"  {cost.shape}: {kind:8} {cost.milliseconds:8.1f} ms  {times:5.2f} x without")
    return "\n".join(lines)
