"""Around the kernels of `codebook.py`: which inputs are not 0, and how a layer's codebook lies in memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.kernels.cpu import codebook
from hetsyn_plugins.kernels.cpu.lanes import up
from hetsyn_plugins.kernels.cpu.layout import CACHE_BYTES, Array, Arrays, NeuronLanes
from hetsyn_plugins.kernels.cpu.threads import parallel

TILE = 400  # sources at most: their gradients, of 16 neurons in float32, are 50 KB
GROUP = 8  # entries of a codebook that the kernels hold in registers


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
    per_row = max(1, count * (4 + x.itemsize) // max(1, batch))
    return Events(starts, source, value, tiles, max(1, min(batch, CACHE_BYTES // per_row)))


class Shared:
    """The synapses of a layer with a codebook, in a layout with lanes = neurons.

    decays  (K,), index (N, M), weight (N, M)
    """

    def __init__(self, at: NeuronLanes, decays: Tensor, index: Tensor, weight: Tensor) -> None:
        self.at, self.decays, self.index, self.weight = at, decays, index, weight
        self.entries, self.width = len(decays), weight.shape[1]
        self.groups, self.blocks = -(-self.entries // GROUP), at.n // at.lanes
        self.one_hot = np.zeros(self.groups * self.blocks * self.width * GROUP, np.uint16)
        self.codes = np.zeros(self.groups * self.blocks * self.width * 4, np.uint16)
        sources = np.ascontiguousarray(index.numpy().T).ravel()
        codebook.mark(sources, self.one_hot, self.codes, at.neurons, at.lanes, 0, self.width)

    def _by_block(self, x: Tensor) -> Array:
        """A matrix (N, M) as [block][j][lanes]."""
        full = self.at.matrix(x, self.at.n, self.width)
        return np.ascontiguousarray(full.reshape(self.blocks, self.at.lanes, self.width).transpose(0, 2, 1)).ravel()

    def currents_fwd(self, events: Events, bias: Tensor | None) -> tuple[Array, Tensor]:
        """As `Layout.currents_fwd`."""
        at, w = self.at, self._by_block(self.weight)
        u, c = at.sequence(at.n), at.vector(self.decays, self.groups * GROUP)
        sizes = (at.steps, at.batch, self.width, events.tiles, events.rows)
        units = self.blocks * at.batch
        parallel(codebook.currents_fwd, units, *events.arrays, w, self.one_hot, c, at.vector(bias, at.n), u, *sizes)
        padded = up(up(self.entries, GROUP), at.lanes)
        traces = at.zeros(at.batch, self.width, padded)
        arrays = (*events.arrays, at.vector(self.decays, padded), traces)
        parallel(codebook.last_traces, at.batch, *arrays, at.steps, self.width, events.tiles)
        current = at.empty(at.batch, self.width, at.n)
        parallel(codebook.last_currents, at.batch, traces, w, self.codes, current, self.width, padded, self.blocks)
        by_neuron = current.reshape(at.batch, self.width, at.n).transpose(0, 2, 1)
        return u, torch.from_numpy(by_neuron[:, : at.neurons])

    def synapses_bwd(self, events: Events, g: Array) -> tuple[Tensor, Tensor]:
        """Gradients of the weights (N, M) and of the codebook (K,)."""
        at = self.at
        c = at.vector(self.decays, self.groups * GROUP)
        gw, gr = (at.zeros(self.blocks, self.width, at.lanes) for _ in range(2))
        sizes = (at.steps, at.batch, self.width, events.tiles, events.rows)
        units = self.blocks * events.tiles
        parallel(codebook.synapses_bwd, units, *events.arrays, g, self.codes, c, gw, gr, *sizes)
        g_weight, g_decay = map(self._to_matrix, (gw, gr))
        shares = (g_decay * self.weight.detach().numpy()).ravel()
        by_entry = np.bincount(self.index.numpy().ravel(), shares, minlength=self.entries)
        return torch.from_numpy(g_weight), torch.from_numpy(by_entry.astype(at.dtype))

    def _to_matrix(self, by_block: Array) -> Array:
        """[block][j][lanes] as (N, M)."""
        by_lane = by_block.reshape(self.blocks, self.width, self.at.lanes).transpose(0, 2, 1)
        return np.ascontiguousarray(by_lane.reshape(-1, self.width)[: self.at.neurons])
