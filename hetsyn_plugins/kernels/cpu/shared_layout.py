"""How a call of a layer with a codebook lies in memory, where its inputs are mostly 0 (`codebook.py`).

The synapses of the inputs have a layout with lanes = neurons of their own; all else is as without a codebook, so what
they give is turned round where that has rows of the batch side by side. The gradients of the inputs, for which every
synapse counts at every step, and recurrent synapses take the decays of each synapse.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.kernels.cpu import codebook
from hetsyn_plugins.kernels.cpu.lanes import up
from hetsyn_plugins.kernels.cpu.layout import (
    CACHE_BYTES,
    ONLY,
    Array,
    Arrays,
    BatchLanes,
    Layout,
    NeuronLanes,
    SynapseGradients,
    Synapses,
    layout,
)
from hetsyn_plugins.kernels.cpu.threads import parallel
from hetsyn_plugins.kernels.interface import LayerTensors

TILE = 400  # sources at most: their gradients, of 16 neurons in float32, are 50 KB
GROUP = 8  # entries of a codebook that the kernels hold in registers
SMALL = 1 << 20  # synapse-steps: below, nothing is worth a look
SAMPLE = 8  # steps that are looked at before all are counted


class Limit(NamedTuple):
    """Up to which share of inputs that are not 0 their events are faster than all inputs: share / groups - each / M.

    each   what a step costs each neuron without any event, in sources
    """

    share: float
    each: float


FORWARD, BACKWARD = Limit(0.12, 6), Limit(0.25, 8)  # measured


def layout_of(inputs: Tensor, layer: LayerTensors, limit: Limit, turns: bool) -> Layout:
    """The one for a layer without delays: for events, where it is known who shares a decay and they are few enough.

    limit   FORWARD or BACKWARD
    turns   there is more to do than these synapses, for which the plain layout is better, if need be
    """
    plain, index = layout(inputs, len(layer.weight)), layer.decay_index
    if index is None or inputs.numel() * len(layer.weight) < SMALL:
        return plain
    groups = int(index.numpy().max()) // GROUP + 1
    events = list_events(inputs, limit.share / groups - limit.each * (1 + turns) / plain.inputs)
    if events is None:
        return plain
    book = Book(index.numpy(), groups, layer.decay.detach().numpy())
    by_neuron = isinstance(plain, NeuronLanes) or (not turns and ONLY.get() is None)
    return (NeuronEvents if by_neuron else BatchEvents)(plain, events, book)


class Events(NamedTuple):
    """The inputs that are not 0, as the kernels of `codebook.py` take them."""

    starts: Array
    source: Array
    value: Array
    tiles: int
    rows: int

    @property
    def arrays(self) -> Arrays:
        """What the kernels take first."""
        return self[:3]


def list_events(inputs: Tensor, most: float) -> Events | None:
    """The events of inputs (T, B, M); None where their share is more than `most`."""
    steps, batch, width = inputs.shape
    some = inputs[:: max(1, steps // SAMPLE)].detach().numpy()
    if np.count_nonzero(some != 0) > 1.5 * most * some.size:  # of floats NumPy counts a tenth as fast
        return None
    x = np.ascontiguousarray(inputs.detach().numpy()).ravel()
    tiles = -(-width // TILE)
    starts = np.zeros(batch * steps * tiles + 1, np.int64)
    parallel(codebook.count_events, steps, x, steps, batch, width, -(-width // tiles), starts[1:])
    np.cumsum(starts, out=starts)
    count = int(starts[-1])
    if count > most * x.size:
        return None
    source, value = np.empty(count, np.int32), np.empty(count, x.dtype)
    parallel(codebook.list_events, steps, x, steps, batch, width, tiles, starts, source, value)
    bytes_a_row = max(1, count * (source.itemsize + value.itemsize) // batch)
    return Events(starts, source, value, tiles, max(1, min(batch, CACHE_BYTES // bytes_a_row)))


class Book:
    """A codebook: of which synapses it is, (N, M), and its decays, in whole groups."""

    def __init__(self, index: Array, groups: int, decay: Array) -> None:
        self.index, self.groups, self.decays = index, groups, np.zeros(groups * GROUP, decay.dtype)
        self.decays[index] = decay

    def marks(self, blocks: int, lanes: int) -> Array:
        """`marks` of the kernels, of so many blocks of the neurons."""
        neurons, width = self.index.shape
        marks = np.zeros(self.groups * blocks * width * 8, np.uint16)
        parallel(codebook.mark, width, np.ascontiguousarray(self.index.T).ravel(), marks, neurons, blocks, lanes)
        return marks


class _Events(Layout):
    """What `Layout` gives for the inputs' synapses, from events."""

    def __init__(self, plain: Layout, events: Events, book: Book) -> None:
        super().__init__((plain.steps, plain.batch, plain.inputs), plain.neurons, plain.dtype)
        self.events, self.book, self.own = events, book, self.neuron_lanes()
        self.of_lanes = self.own.n // self.lanes
        self.marks = book.marks(self.of_lanes, self.lanes)

    def sources(self, x: Tensor) -> Any:
        return self.events

    def _from_own(self, packed: Array) -> Array:
        """A sequence of the neurons, from the layout with lanes = neurons."""
        return self.pack(self.own.unpack(packed, self.own.n, self.neurons), self.n)

    def _to_own(self, packed: Array) -> Array:
        """The inverse."""
        return self.own.pack(self.unpack(packed, self.n, self.neurons), self.own.n)

    def _by_block(self, x: Tensor) -> Array:
        """A matrix (N, M) as [block][j][lanes]."""
        full = self.matrix(x, self.own.n, self.inputs)
        return np.ascontiguousarray(full.reshape(self.of_lanes, self.lanes, self.inputs).transpose(0, 2, 1)).ravel()

    def _of_blocks(self, by_block: Array) -> Tensor:
        """The inverse."""
        by_lane = by_block.reshape(self.of_lanes, self.inputs, self.lanes).transpose(0, 2, 1)
        return torch.from_numpy(np.ascontiguousarray(by_lane.reshape(-1, self.inputs)[: self.neurons]))

    def currents_fwd(self, s: Any, synapses: Synapses, bias: Tensor | None) -> tuple[Array, Tensor]:
        w, u, events = self._by_block(synapses.weight), self.own.sequence(self.own.n), self.events
        arrays = (*events.arrays, w, self.marks, self.book.decays, self.vector(bias, self.own.n), u)
        sizes = (self.steps, self.batch, self.inputs, events.tiles, events.rows)
        parallel(codebook.currents_fwd, self.of_lanes * self.batch, *arrays, *sizes)
        return self._from_own(u), self._last_currents(w)

    def _last_currents(self, w: Array) -> Tensor:
        padded = up(len(self.book.decays), self.lanes)
        decays, traces = np.zeros(padded, self.dtype), self.zeros(self.batch, self.inputs, padded)
        decays[: len(self.book.decays)] = self.book.decays
        sizes = (self.steps, self.inputs, self.events.tiles)
        parallel(codebook.last_traces, self.batch, *self.events.arrays, decays, traces, *sizes)
        current = self.empty(self.batch, self.inputs, self.own.n)
        arrays = (traces, w, self.marks, current)
        parallel(codebook.last_currents, self.batch, *arrays, self.inputs, padded, self.of_lanes)
        by_neuron = current.reshape(self.batch, self.inputs, self.own.n).transpose(0, 2, 1)
        return torch.from_numpy(by_neuron[:, : self.neurons])

    def synapses_bwd(
        self, s: Any, g: Array, synapses: Synapses, initial: Tensor | None, needs_delay: bool = False
    ) -> SynapseGradients:
        if not isinstance(s, Events):  # of recurrent synapses
            plain: Any = super()
            gradients: SynapseGradients = plain.synapses_bwd(s, g, synapses, initial, needs_delay)
            return gradients
        gw, gr = (self.zeros(self.of_lanes, self.inputs, self.lanes) for _ in range(2))
        arrays = (*s.arrays, self._to_own(g), self.marks, self.book.decays, gw, gr)
        sizes = (self.steps, self.batch, self.inputs, s.tiles, s.rows)
        parallel(codebook.synapses_bwd, self.of_lanes * s.tiles, *arrays, *sizes)
        from_initial = None if initial is None else self._from_initial(initial, g, synapses.decay)
        return self._of_blocks(gw), self._of_blocks(gr), from_initial, None


class BatchEvents(_Events, BatchLanes):
    """Events beside lanes = rows of the batch."""


class NeuronEvents(_Events, NeuronLanes):
    """Events beside lanes = neurons, which they have themselves."""

    def _from_own(self, packed: Array) -> Array:
        return packed

    def _to_own(self, packed: Array) -> Array:
        return packed
