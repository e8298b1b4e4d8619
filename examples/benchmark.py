"""Time and memory of a HetSyn layer, forward and backward, against plain autograd of the same neuron, side by side.

Gate first: all three must give the same spikes. Then interleaved runs; medians with min and max. Memory is what
autograd saves for backward. The shape is small on purpose: plain autograd keeps every current of every step.
"""

import statistics
import time

import torch

from hetsyn_plugins import ops

STEPS, BATCH, LINES, NEURONS, RUNS = 100, 32, 200, 64, 7
torch.manual_seed(0)
weight = (torch.randn(NEURONS, LINES) / LINES**0.5 * 2).requires_grad_()
decay = (torch.rand(NEURONS, LINES) * 0.2 + 0.75).requires_grad_()
inputs = (torch.rand(STEPS, BATCH, LINES) < 0.05).float()


def plain() -> torch.Tensor:
    """The obvious version: one step after another, autograd keeps what it needs."""
    state, spikes = None, []
    for x in inputs:
        state = ops.hetsyn_lif_step(x, weight, decay, reset_decay=0.9, state=state)
        spikes.append(state.spikes)
    return torch.stack(spikes)


def fused(backend: str) -> torch.Tensor:
    return ops.hetsyn_lif(inputs, weight, decay, reset_decay=0.9, backend=backend)[0]


WAYS = {"plain autograd": plain, "eager": lambda: fused("eager"), "cpu": lambda: fused("cpu")}


def saved_megabytes(run) -> float:
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run().sum()
    return sum(sizes.values()) / 1e6


first = plain()
assert 0.01 < first.mean() < 0.9, "the layer must spike"
for name, run in WAYS.items():
    assert torch.equal(run(), first), f"{name} gives other spikes"

times: dict[str, list[float]] = {name: [] for name in WAYS}
for _ in range(RUNS):
    for name, run in WAYS.items():
        start = time.perf_counter()
        run().sum().backward()
        times[name].append((time.perf_counter() - start) * 1e3)

print(f"T {STEPS}, B {BATCH}, {LINES} -> {NEURONS}, float32, {torch.get_num_threads()} threads, {RUNS} runs")
base = statistics.median(times["plain autograd"])
for name, found in times.items():
    median = statistics.median(found)
    spread = f"({min(found):.1f} to {max(found):.1f})"
    memory = saved_megabytes(WAYS[name])
    print(f"{name:15} {median:7.1f} ms {spread:20} plain / this {base / median:5.1f}   saved {memory:7.1f} MB")
