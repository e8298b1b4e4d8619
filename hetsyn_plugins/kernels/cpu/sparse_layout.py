"""How a call of a layer lies in memory of whose synapses many are masked out: lanes = rows of the batch.

What is there is listed, for the kernels of `spike_bits.py` where all inputs are 0 or 1, else for those of `sparse.py`.
Where lists are not faster, synapses that are not there are computed too, with decay and weight 0, and so is a batch of
which one neuron's rows would not fill a vector.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetsyn_plugins.kernels.cpu import buffers, sparse, spike_bits
from hetsyn_plugins.kernels.cpu.layout import CACHE_BYTES, Array, Arrays, BatchLanes, Layout, SynapseGradients, Synapses
from hetsyn_plugins.kernels.cpu.threads import parallel
from hetsyn_plugins.kernels.interface import LayerTensors

Places = NDArray[np.int64]
BITS = np.dtype(np.uint16)  # of the rows of a block
MOST = 0.38  # of the synapses: with more of them there, all are faster (measured)
MOST_OF_BITS = 0.6
GROUP = 128  # neurons a unit of work, of those that read the same chunk of time
QUADS = 256  # a unit of work backwards, which are a CELL of sources and one of neurons wide
CELL = 32
CHUNK = 256  # steps at most that these read before they come to the next synapses


def sparse_layout(plain: Layout, layer: LayerTensors) -> Layout:
    """That of a layer with masks, where it may be worth it; else the one for all synapses."""
    of_few = is_sparse(layer.mask, MOST_OF_BITS) or is_sparse(layer.recurrent_mask)
    return SparseLanes(plain, layer) if of_few and type(plain) is BatchLanes else plain


def is_sparse(mask: Tensor | None, most: float = MOST) -> bool:
    """Are so few synapses there that lists of them are faster than all?"""
    return mask is not None and float(np.count_nonzero(mask.numpy())) <= most * mask.numel()


class Quads(NamedTuple):
    """The synapses that are there, in fours, as `sparse.py` has them.

    slot   of each synapse its place in the lists, and `row` and `column` in the matrix
    first  of each row, where it has quads of its own
    """

    slot: Places
    row: Places
    column: Places
    size: int
    first: Places

    def listed(self, matrix: Tensor, dtype: np.dtype[Any]) -> Array:
        """The values of a matrix in the lists, 0 where there is no synapse."""
        values = np.zeros(self.size, dtype)
        values[self.slot] = matrix.detach().numpy()[self.row, self.column]
        return values

    def placed(self, lines: Places, of: Places, fill: int = 0) -> Places:
        """Of each in the lists, what `lines` says of its row or column."""
        places = np.full(self.size, fill, np.int64)
        places[self.slot] = lines[of]
        return places


def by_row(mask: Array, rows: int) -> Quads:
    """Every row has whole quads, so many rows with those that are padding."""
    row, column = _there(mask)
    counts = np.bincount(row, minlength=rows)
    first = np.zeros(rows + 1, np.int64)
    np.cumsum(-(-counts // 4), out=first[1:])
    slot = np.arange(len(row)) + (first[:-1] * 4 - np.cumsum(counts) + counts)[row]
    return Quads(slot, row, column, int(first[-1]) * 4, first)


def _there(mask: Array) -> tuple[Places, Places]:
    """Rows and columns, as np.nonzero gives them, which takes longer with two dimensions."""
    row, column = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return row, column


def by_cell(mask: Array) -> Quads:
    """One after the other, those close to each other in the matrix together."""
    row, column = _there(mask)
    cells = row // CELL * (mask.shape[1] // CELL + 1) + column // CELL
    order = np.argsort(cells.astype(np.uint16 if cells.size and cells.max() < 1 << 16 else np.int64), kind="stable")
    size = -(-len(row) // 4) * 4
    return Quads(np.arange(len(row)), row[order], column[order], size, np.zeros(0, np.int64))


class SparseLanes(BatchLanes):
    """`BatchLanes` that computes synapses which are there, where these are few."""

    def __init__(self, plain: BatchLanes, layer: LayerTensors) -> None:
        super().__init__((plain.steps, plain.batch, plain.inputs), plain.neurons, plain.dtype)
        self.takes_bits = self.inputs >= self.lanes and is_sparse(layer.mask, MOST_OF_BITS)

    def sources(self, x: Tensor) -> Array:
        """Bits, where lists of synapses read them and all inputs are 0 or 1; else packed numbers."""
        bits = self._bits(x) if self.takes_bits else None
        return super().sources(x) if bits is None else bits

    def _bits(self, x: Tensor) -> Array | None:
        bits = buffers.empty(self.blocks * self.inputs * self.steps, BITS)
        units = self.blocks * -(-self.steps // spike_bits.CHUNK)
        numbers, graded = np.empty(units * (self.inputs + self.lanes), self.dtype), np.empty(units, np.int64)
        flat = np.ascontiguousarray(x.detach().numpy()).ravel()
        parallel(spike_bits.pack, units, flat, self.steps, self.batch, self.inputs, bits, numbers, graded)
        return None if graded.any() else bits

    def _line_places(self, padded: int) -> Places:
        """Where the line of each source, or neuron, begins in a block of a packed sequence."""
        lines = np.arange(padded)
        return (lines // 4 * self.steps * 4 + lines % 4) * self.lanes

    def _bit_places(self, quads: Quads) -> Places:
        """Where the bits of each synapse's source begin in a block."""
        return quads.placed(np.arange(self.inputs) * self.steps, quads.column)

    def currents_fwd(self, s: Array, synapses: Synapses, bias: Tensor | None) -> tuple[Array, Tensor]:
        mask = synapses.mask
        if mask is None or not (s.dtype == BITS or is_sparse(mask)):
            return super().currents_fwd(s, synapses, bias)
        (n, k), u, quads = mask.shape, self.sequence(self.n), by_row(mask.numpy(), self.n)
        target = quads.placed(quads.row * k + quads.column, np.arange(len(quads.row)), fill=-1)
        current, full_bias = self.zeros(n, k, self.blocks, self.lanes), self.vector(bias, self.n)
        if s.dtype == BITS:
            r, w = (quads.listed(x, self.dtype) for x in synapses[:2])
            arrays = (s, u, quads.first, self._bit_places(quads), r, w, full_bias, target, current)
            parallel(spike_bits.currents_fwd, self.n * self.blocks, *arrays, k, self.steps, self.blocks)
        else:
            X, w = self._sparse_fwd(s, u, quads, synapses, full_bias, self.pad(k), False)
            parallel(sparse.last_currents, quads.size, X, w, target, current, self.blocks)
        by_batch = current.reshape(n, k, self.blocks * self.lanes).transpose(2, 0, 1)
        return u, torch.from_numpy(by_batch[: self.batch])

    def inputs_bwd(self, g: Array, synapses: Synapses) -> Array:
        mask = synapses.mask
        if mask is None or not is_sparse(mask):
            return super().inputs_bwd(g, synapses)
        out, quads = self.sequence(self.m), by_row(mask.numpy().T, self.m)
        turned = Synapses(synapses.decay.T, synapses.weight.T)
        self._sparse_fwd(g, out, quads, turned, self.zeros(self.m), self.n, True)
        return out

    def _sparse_fwd(
        self, s: Array, u: Array, quads: Quads, synapses: Synapses, bias: Array, sources: int, reverse: bool
    ) -> Arrays:
        """The last traces, and the weights in the lists."""
        r, w = (quads.listed(x, self.dtype) for x in synapses[:2])
        X = self.empty(self.blocks, quads.size, self.lanes)
        place = quads.placed(self._line_places(sources), quads.column)
        chunk = max(8, CACHE_BYTES * 2 // (sources * self.lanes * self.dtype.itemsize))
        units = self.blocks * -(-len(bias) // GROUP)
        arrays = (s, u, quads.first, place, r, w, X, bias)
        parallel(sparse.currents_fwd, units, *arrays, sources, self.steps, chunk, GROUP, reverse)
        return X, w

    def synapses_bwd(
        self, s: Array, g: Array, synapses: Synapses, initial: Tensor | None, needs_delay: bool = False
    ) -> SynapseGradients:
        mask = synapses.mask
        if mask is None or not (s.dtype == BITS or is_sparse(mask)):
            return super().synapses_bwd(s, g, synapses, initial, needs_delay)
        of_bits = s.dtype == BITS
        quads = by_row(mask.numpy(), self.n) if of_bits else by_cell(mask.numpy())
        r, (gw, gr) = quads.listed(synapses.decay, self.dtype), (np.empty(quads.size, self.dtype) for _ in range(2))
        if of_bits:
            lists = (quads.first, self._bit_places(quads), r, gw, gr)
            parallel(spike_bits.synapses_bwd, self.n, s, g, *lists, self.inputs, self.steps, self.blocks)
        else:
            sources, S = self.pad(mask.shape[1]), self.empty(quads.size, 4, self.lanes)
            place = quads.placed(self._line_places(sources), quads.column)
            neuron = quads.placed(self._line_places(self.n), quads.row)
            units, arrays = -(-quads.size // 4 // QUADS), (s, g, place, neuron, r, S, gw, gr)
            parallel(sparse.synapses_bwd, units, *arrays, sources, self.n, self.steps, self.blocks, CHUNK, QUADS)
        g_weight, g_decay = (np.zeros(mask.shape, self.dtype) for _ in range(2))
        g_weight[quads.row, quads.column], g_decay[quads.row, quads.column] = gw[quads.slot], gr[quads.slot]
        from_initial = None if initial is None else self._from_initial(initial, g, synapses.decay)
        return torch.from_numpy(g_weight), torch.from_numpy(g_decay), from_initial, None

    def recurrent_fwd(
        self, u: Array, state: Arrays, soma: Arrays, synapses: Synapses, past: Tensor | None = None
    ) -> Tensor:
        mask = synapses.mask
        if mask is None or not is_sparse(mask):
            return super().recurrent_fwd(u, state, soma, synapses, past)
        quads = by_row(mask.numpy(), self.n)
        X, lists = self._recurrent(quads, synapses)
        z_next = self.zeros(self.vectors, self.lanes)
        parallel(sparse.recurrent_fwd, self.blocks, u, X, z_next, *state, *soma, *lists, self.steps)
        rows = self.blocks * self.lanes
        traces = np.zeros((rows, self.neurons, self.neurons), self.dtype)
        by_block = X.reshape(self.blocks, quads.size, self.lanes).transpose(0, 2, 1).reshape(rows, quads.size)
        traces[:, quads.row, quads.column] = by_block[:, quads.slot]
        return torch.from_numpy(traces[: self.batch])

    def recurrent_bwd(self, g: Array, gz_and_d: Arrays, state: Arrays, soma: Arrays, synapses: Synapses) -> None:
        mask = synapses.mask
        if mask is None or not is_sparse(mask):
            super().recurrent_bwd(g, gz_and_d, state, soma, synapses)
            return
        turned = Synapses(synapses.decay.T, synapses.weight.T)
        a, lists = self._recurrent(by_row(mask.numpy().T, self.n), turned)
        between = (self.zeros(self.vectors, self.lanes) for _ in range(2))
        parallel(sparse.recurrent_bwd, self.blocks, g, *gz_and_d, a, *between, *state, *soma, *lists, self.steps)

    def _recurrent(self, quads: Quads, synapses: Synapses) -> tuple[Array, Arrays]:
        """Traces of 0, and the lists."""
        place = quads.placed(np.arange(self.n) * self.lanes, quads.column)
        r, w = (quads.listed(x, self.dtype) for x in synapses[:2])
        return self.zeros(self.blocks, quads.size, self.lanes), (quads.first, place, r, w)
