"""What lies side by side in a vector of the CPU kernels, rows of the batch or neurons: known from sizes alone."""

from __future__ import annotations


def up(n: int, multiple: int) -> int:
    """The least multiple that is no less than n."""
    return -(-n // multiple) * multiple


def neurons_are_lanes(batch: int, neurons: int, lanes: int) -> bool:
    """Is a layout with lanes = neurons the one that computes fewer vectors? An empty lane is work for nothing."""
    by_batch, by_neuron = up(batch, lanes) * up(neurons, 4), batch * up(neurons, lanes)
    return by_neuron * 1.25 < by_batch  # where it is close, lanes = batch: it loads less for each multiply-add


def written_as(steps: int, batch: int, inputs: int, neurons: int, lanes: int) -> tuple[tuple[int, int, int], str]:
    """How the last currents (B, N, M) of a sequence are written: the shape of their memory, and its axes in order."""
    if steps == 1 or batch == 0:
        return (batch, neurons, inputs), "BNM"
    if neurons_are_lanes(batch, neurons, lanes):
        return (batch, inputs, up(neurons, lanes)), "BMN"
    return (neurons, inputs, up(batch, lanes)), "NMB"
