"""What a network of integers would cost on a chip, for each way to map it there: numbers from its shapes and rates.

    a stock     stock neurons only: K accumulators a neuron, one for its reset, one for its adaptation, and a soma.
                Feedback within a step needs two paths, one direct and one through the accumulator (of weight -r): so a
                reset or adaptation takes 4 synapses a neuron, and recurrent weights are stored twice
    b traces    K traces of every incoming line, sent as graded spikes: every synapse works at every step
    c microcode a neuron whose program holds the K accumulators itself: what a HetSyn neuron on the chip would be
    d synapse   a state for every synapse: in simulation only
    e taps      no states but delayed synapses, one for every step back that the chip's delays reach (62)

A chip delays axons, not synapses: a line sends each spike on as many axons as there are different delays with which
synapses read it, and each of these is a message.

These are estimates of what must be stored and sent, not of what a vendor's compiler does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.fixed_point.network import MAX_DELAY, FixedLayer, FixedNetwork
from hetsyn_plugins.fixed_point.neuron import FixedRun, Integers

MAPPINGS = {
    "a stock": "on stock neurons, K accumulators each as neurons of their own",
    "b traces": "K traces of every incoming line, sent as numbers to every synapse at every step",
    "c microcode": "neurons programmed with K accumulators each: HetSyn as the chip would have it",
    "d synapse": "a state for every synapse, in simulation only",
    "e taps": f"no synaptic states, but {MAX_DELAY} delayed synapses for each, one a step back",
}


class ChipCost(NamedTuple):
    """What a network costs, mapped in one way.

    name                which mapping, of MAPPINGS
    neurons, synapses   how many are to be placed
    axons               on which spikes are sent, inputs included
    state_bits          memory of the states, bits, without the synapses' weights
    spikes              messages a step that are spikes, inputs included: as measured; None where nothing was measured
    graded              messages a step that carry a number, at most: nothing is sent where it is 0
    """

    name: str
    neurons: int
    synapses: int
    axons: int
    state_bits: int
    spikes: float | None
    graded: int


class LayerSizes(NamedTuple):
    """A layer in numbers: N neurons, M lines in, recurrent lines, their axons, synapses, K decays, other states."""

    neurons: int
    lines: int
    recurrent: int
    axons: int
    synapses: int
    clusters: int
    feedback: int
    bits: int


def layer_sizes(layer: FixedLayer) -> LayerSizes:
    """The numbers that the costs of a layer follow from; `feedback` counts its reset and its adaptation."""
    p = layer.params
    n, m = p.weight.shape
    recurrent = 0 if p.recurrent_weight is None else n
    feedback = (p.reset_decay is not None) + (p.adaptation_decay is not None)
    axons = int(_different(_delays(p.delay, (n, m))).sum())
    if recurrent:
        axons += int(_different(_delays(p.recurrent_delay, (n, n))).sum())
    return LayerSizes(n, m, recurrent, axons, n * (m + recurrent), len(p.codebook), feedback, p.state_bits)


def _delays(delay: Any, shape: tuple[int, int]) -> Integers:
    """Delays written out."""
    return np.zeros(shape, np.int64) if delay is None else np.asarray(delay)


def _different(delays: Integers) -> Integers:
    """How many different ones a line has, column by column."""
    return np.asarray(1 + (np.diff(np.sort(delays, axis=0), axis=0) != 0).sum(0))


def axons(network: FixedNetwork) -> list[Integers]:
    """On how many axons each line sends: those that come in first, then the neurons of each layer that spikes.

    A neuron has one for each delay with which the next layer or its own reads it; an output is read without.
    """
    counts = []
    for before, after in zip((None, *network.layers), (*network.layers, None), strict=True):
        if before is not None and not before.params.spiking:
            continue
        lines = network.layers[0].widths[0] if before is None else before.widths[1]
        read = np.zeros((1, lines), np.int64)
        if after is not None:
            read = _delays(after.params.delay, after.params.weight.shape)[:, :lines]
        if before is not None and before.delay is not None:
            read = read + before.delay
        if before is not None and before.params.recurrent_weight is not None:
            read = np.vstack([read, _delays(before.params.recurrent_delay, (lines, lines))])
        counts.append(_different(read))
    return counts


def messages(network: FixedNetwork, inputs: Integers, runs: Mapping[str, FixedRun]) -> float:
    """How many spikes a step were sent on axons, a sample: of inputs (T, B, M) and what the layers made of them."""
    sources = [inputs != 0, *(run.spikes for run in runs.values() if run.spikes is not None)]
    sent = sum(int(np.sum(x, (0, 1)) @ each) for x, each in zip(sources, axons(network), strict=True))
    return sent / (inputs.shape[0] * inputs.shape[1])


def state_bits(layer: FixedLayer) -> int:
    """Bits of state of a layer as its form has it: accumulators, v, reset and adaptation currents."""
    s = layer_sizes(layer)
    accumulators = s.neurons * s.clusters if layer.params.form == "cluster" else s.synapses
    return (accumulators + s.neurons * (1 + s.feedback)) * s.bits


def weight_bits(layer: FixedLayer) -> int:
    """Bits of the synapses: 8 for the weight, and the index of its decay in the codebook (or 12, the decay word).

    Where they have delays, also the 6 bits of each axon's.
    """
    s = layer_sizes(layer)
    index = math.ceil(math.log2(s.clusters)) if layer.params.form == "cluster" else 12
    delays = s.axons * 6 if layer.params.max_delay else 0
    return s.synapses * (8 + index) + delays


def chip_costs(network: FixedNetwork, spikes: float | None = None) -> list[ChipCost]:
    """The costs of the five mappings; spikes: how many a step are sent on all axons, as measured (`messages`)."""
    layers = [layer_sizes(layer) for layer in network.layers]

    def total(count: Callable[[LayerSizes], int]) -> int:
        return sum(count(s) for s in layers)

    neurons, synapses = total(lambda s: s.neurons), total(lambda s: s.synapses)
    accumulators = total(lambda s: s.neurons * s.clusters)
    feedback = total(lambda s: s.neurons * s.feedback)
    traces = total(lambda s: (s.lines + s.recurrent) * s.clusters)
    sent = total(lambda s: s.axons * s.clusters)  # a trace on each axon of its line
    on_axons = sum(int(of.sum()) for of in axons(network))
    doubled = total(lambda s: s.neurons * s.recurrent)
    somas = total(lambda s: s.neurons * (1 + s.feedback) * s.bits)
    held = total(lambda s: s.neurons * s.clusters * s.bits)
    traced = total(lambda s: (s.lines + s.recurrent) * s.clusters * s.bits)
    every = total(lambda s: s.synapses * s.bits)
    stock = synapses + 2 * accumulators + 4 * feedback + doubled
    costs = (
        (neurons + accumulators + feedback, stock, on_axons, somas + held, spikes, accumulators + feedback),
        (neurons + traces, synapses, on_axons, somas + traced, spikes, sent),
        (neurons, synapses, on_axons, somas + held, spikes, 0),
        (neurons, synapses, on_axons, somas + every, spikes, 0),
        (neurons, synapses * MAX_DELAY, on_axons, somas, spikes, 0),
    )
    return [ChipCost(name, *cost) for name, cost in zip(MAPPINGS, costs, strict=True)]
