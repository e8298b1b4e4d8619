"""What a codebook saves beside the layer with a decay a synapse: forward and backward pass, weights and decays trained.

In turns: snnTorch's layers, the free one and one with K decays, and its nearest stock neuron, with a time constant a
neuron. On the CPU at shapes A and D, on the shape's share of spikes, on half of the inputs and on graded ones; on a
card at those of large recurrent layers, on spikes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from hetsyn_plugins.benchmark import peers
from hetsyn_plugins.benchmark.bench import ON_CARD, SHAPES
from hetsyn_plugins.benchmark.peers import Shape
from hetsyn_plugins.ops import devices

CLUSTERS = 8
NAMES = ("A", "D")
INPUTS = ("spikes", "half", "graded")
NAMES_ON_CARD = ("rec 256", "rec 512", "rec 1024")


class Cost(NamedTuple):
    """Milliseconds of a layer at a shape, medians: with a codebook, without, and of the stock neuron."""

    shape: str
    inputs: str
    codebook: float
    free: float
    stock: float


def measure(runs: int, device: str = "cpu") -> list[Cost]:
    """Every kind of inputs at every shape. Raises ValueError where there is no such device."""
    device = str(devices.usable("--device", device))
    costs, names = [], NAMES if device == "cpu" else NAMES_ON_CARD
    for name in names:
        for inputs in INPUTS if device == "cpu" else INPUTS[:1]:
            steps = layers(replace({**SHAPES, **ON_CARD}[name], device=device), inputs)
            seconds: dict[str, list[float]] = {kind: [] for kind in steps}
            for turn in range(runs + 1):
                in_turn = list(steps.items())
                for kind, step in in_turn if turn % 2 else reversed(in_turn):  # none always comes after the same one
                    start = time.perf_counter()
                    step()
                    if device != "cpu":
                        torch.cuda.synchronize()
                    if turn > 0:  # the first warms up
                        seconds[kind].append(time.perf_counter() - start)
            costs.append(Cost(name, inputs, **{k: 1e3 * statistics.median(values) for k, values in seconds.items()}))
    return costs


def layers(shape: Shape, inputs: str) -> dict[str, Callable[[], None]]:
    """Kind of layer -> one forward and backward pass."""
    from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky

    torch.manual_seed(0)
    shape = shape if inputs == "spikes" else replace(shape, rate=0.5)
    x = shape.spikes() if inputs != "graded" else torch.rand(shape.steps, shape.batch, shape.inputs)
    n, weight = shape.neurons, torch.randn(shape.neurons, shape.inputs) / shape.inputs**0.5
    start = {"alpha": torch.empty_like(weight).uniform_(0.7, 0.98), "weight": weight, "init_hidden": True}
    if shape.recurrent:
        start |= {"rec_weight": torch.randn(n, n) / n**0.5, "rec_alpha": torch.empty(n, n).uniform_(0.7, 0.98)}
    make = RHetSynLeaky if shape.recurrent else HetSynLeaky
    free = make(shape.inputs, n, **start).to(shape.device)
    shared = make(shape.inputs, n, share="codebook", clusters=CLUSTERS, **start).to(shape.device)

    def step(layer: HetSynLeaky) -> None:
        layer.reset_mem()
        layer(x).sum().backward()

    return {"codebook": lambda: step(shared), "free": lambda: step(free), "stock": peers.snntorch(shape)}


def table(costs: list[Cost]) -> str:
    """A line each, as multiples of the free layer and of the stock neuron."""
    lines = [f"codebooks of {CLUSTERS} decays"]
    for cost in costs:
        of_free, of_stock = cost.codebook / cost.free, cost.codebook / cost.stock
        lines.append(
            f"  {cost.shape}: {cost.inputs:7} {cost.codebook:8.1f} ms  {of_free:5.2f} x a decay a synapse  "
            f"{of_stock:5.2f} x snnTorch, one a neuron"
        )
    return "\n".join(lines)
