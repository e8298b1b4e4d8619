"""What a network of integers would cost on a chip, for each way to map it there: numbers from its shapes and rates.

    a stock     stock neurons only: K accumulators a neuron, one for its reset, one for its adaptation, and a soma.
                Feedback within a step needs two paths, one direct and one through the accumulator (of weight -r): so a
                reset or adaptation takes 4 synapses a neuron, and recurrent weights are stored twice
    b traces    K traces of every incoming line, sent as graded spikes: every synapse works at every step
    c microcode a neuron whose program holds the K accumulators itself: what a HetSyn neuron on the chip would be
    d synapse   a state for every synapse: in simulation only
    e taps      no states but delayed synapses, one for every step back that the chip's delays reach (62)

These are estimates of what must be stored and sent, not of what a vendor's compiler does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from hetsyn_plugins.fixed_point.network import MAX_DELAY, FixedLayer, FixedNetwork

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
    state_bits          memory of the states, bits, without the synapses' weights
    spikes              messages a step that are spikes, inputs included: as measured; None where nothing was measured
    graded              messages a step that carry a number, at most: nothing is sent where it is 0
    """

    name: str
    neurons: int
    synapses: int
    state_bits: int
    spikes: float | None
    graded: int


class LayerSizes(NamedTuple):
    """A layer in numbers: N neurons, M lines in, recurrent lines, synapses, K decays, states a neuron beside those."""

    neurons: int
    lines: int
    recurrent: int
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
    return LayerSizes(n, m, recurrent, n * (m + recurrent), len(p.codebook), feedback, p.state_bits)


def state_bits(layer: FixedLayer) -> int:
    """Bits of state of a layer as its form has it: accumulators, v, reset and adaptation currents."""
    s = layer_sizes(layer)
    accumulators = s.neurons * s.clusters if layer.params.form == "cluster" else s.synapses
    return (accumulators + s.neurons * (1 + s.feedback)) * s.bits


def weight_bits(layer: FixedLayer) -> int:
    """Bits of the synapses: 8 for the weight, and the index of its decay in the codebook (or 12, the decay word)."""
    s = layer_sizes(layer)
    index = math.ceil(math.log2(s.clusters)) if layer.params.form == "cluster" else 12
    return s.synapses * (8 + index)


def chip_costs(network: FixedNetwork, spikes: float | None = None) -> list[ChipCost]:
    """The costs of the five mappings; spikes: how many a step come in or are sent by a layer, as measured."""
    layers = [layer_sizes(layer) for layer in network.layers]

    def total(count: Callable[[LayerSizes], int]) -> int:
        return sum(count(s) for s in layers)

    neurons, synapses = total(lambda s: s.neurons), total(lambda s: s.synapses)
    accumulators = total(lambda s: s.neurons * s.clusters)
    feedback = total(lambda s: s.neurons * s.feedback)
    traces = total(lambda s: (s.lines + s.recurrent) * s.clusters)
    doubled = total(lambda s: s.neurons * s.recurrent)
    somas = total(lambda s: s.neurons * (1 + s.feedback) * s.bits)
    held = total(lambda s: s.neurons * s.clusters * s.bits)
    traced = total(lambda s: (s.lines + s.recurrent) * s.clusters * s.bits)
    every = total(lambda s: s.synapses * s.bits)
    stock = synapses + 2 * accumulators + 4 * feedback + doubled
    costs = (
        (neurons + accumulators + feedback, stock, somas + held, spikes, accumulators + feedback),
        (neurons + traces, synapses, somas + traced, spikes, traces),
        (neurons, synapses, somas + held, spikes, 0),
        (neurons, synapses, somas + every, spikes, 0),
        (neurons, synapses * MAX_DELAY, somas, spikes, 0),
    )
    return [ChipCost(name, *cost) for name, cost in zip(MAPPINGS, costs, strict=True)]
