"""How a call of a layer with delays lies in memory: lanes = rows of the batch, the past in front (`delayed.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetsyn_plugins.kernels.cpu import delayed
from hetsyn_plugins.kernels.cpu.layout import CACHE_BYTES, Array, Arrays, BatchLanes, SynapseGradients, Synapses
from hetsyn_plugins.kernels.cpu.threads import parallel

Pieces = tuple[NDArray[np.int64], Array, Array]  # k, f and 1 - f of `delayed.py`, padded


def delayed_layout(inputs: Tensor, neurons: int, past: int) -> DelayedLanes:
    """That of a layer whose state keeps `past` steps."""
    dtype = np.dtype(np.float64 if inputs.dtype == torch.float64 else np.float32)
    return DelayedLanes((inputs.shape[0], inputs.shape[1], inputs.shape[2]), neurons, dtype, past)


class DelayedLanes(BatchLanes):
    """`BatchLanes` whose delayed synapses read sources with `past` more steps in front.

    Where no step is kept, no delay can be longer than 0: synapses as those without.
    """

    def __init__(self, sizes: tuple[int, int, int], neurons: int, dtype: np.dtype[Any], past: int) -> None:
        super().__init__(sizes, neurons, dtype)
        self.past = past
        self.tile_bytes += past * 4 * self.lanes * self.dtype.itemsize

    def _pieces(self, delay: Tensor, rows: int, columns: int, as_fractional: bool = False) -> tuple[Pieces, bool]:
        """k, f and 1 - f of delays (N, K), and are they whole? Those of `delays.pieces` where they are not."""
        d = delay.detach().numpy()
        k = np.clip(np.nan_to_num(np.floor(d)), 0, self.past)  # whatever nobody has looked at stays inside of memory
        whole = not as_fractional and bool((d == k).all())
        if not whole:
            k = np.minimum(k, self.past - 1)
        steps, rest = np.zeros((rows, columns), np.int64), np.zeros((rows, columns), self.dtype)
        steps[: d.shape[0], : d.shape[1]], rest[: d.shape[0], : d.shape[1]] = k, d - k
        return (steps, rest, 1 - rest), whole

    def currents_fwd(self, s: Array, synapses: Synapses, bias: Tensor | None) -> tuple[Array, Tensor]:
        decay, weight, delay, _ = synapses
        if delay is None or self.past == 0:
            return super().currents_fwd(s, synapses, bias)
        columns, (n, k) = self.pad(decay.shape[1]), decay.shape
        r, w = (self.matrix(x, self.n, columns) for x in (decay, weight))
        u, current = self.sequence(self.n), self.empty(n, k, self.blocks, self.lanes)
        pieces = self._pieces(delay, self.n, columns)
        self._delayed_fwd(s, u, (r, w), pieces, self.vector(bias, self.n), current, (self.blocks, n, k), False)
        by_row = current.reshape(n, k, self.blocks * self.lanes).transpose(2, 0, 1)
        return u, torch.from_numpy(by_row[: self.batch])

    def inputs_bwd(self, g: Array, synapses: Synapses) -> Array:
        decay, weight, delay, _ = synapses
        if delay is None or self.past == 0:
            return super().inputs_bwd(g, synapses)
        r, w = (self.matrix(x.T, self.m, self.n) for x in (decay, weight))
        out, pieces = self.sequence(self.m), self._pieces(delay.T, self.m, self.n)
        later = np.zeros((self.blocks * self.n // 4, self.steps + self.past, 4 * self.lanes), self.dtype)
        later[:, : self.steps] = g.reshape(len(later), self.steps, -1)
        self._delayed_fwd(later.ravel(), out, (r, w), pieces, self.zeros(self.m), self.zeros(1), (0, 0, 0), True)
        return out

    def _delayed_fwd(
        self,
        s: Array,
        u: Array,
        matrices: Arrays,
        pieces: tuple[Pieces, bool],
        bias: Array,
        current: Array,
        sizes: tuple[int, int, int],
        reverse: bool,
    ) -> None:
        delays, whole = pieces
        kernel = delayed.whole_fwd if whole else delayed.fractional_fwd
        group = max(1, CACHE_BYTES // self.tile_bytes)
        units = self.blocks * -(-(len(matrices[0]) // 4) // group)
        arrays = (s, u, *matrices, *delays, bias, current)
        parallel(kernel, units, *arrays, sizes, self.steps, self.past, group, reverse)

    def synapses_bwd(
        self, s: Array, g: Array, synapses: Synapses, initial: Tensor | None, needs_delay: bool = False
    ) -> SynapseGradients:
        decay, _, delay, _ = synapses
        if delay is None or self.past == 0:
            g_weight, g_decay, from_initial, _ = super().synapses_bwd(s, g, synapses, initial)
            return g_weight, g_decay, from_initial, torch.zeros_like(decay) if needs_delay else None
        n, k = decay.shape
        r = self.matrix(decay, self.n, self.pad(k))
        delays, whole = self._pieces(delay, len(r), r.shape[1], as_fractional=needs_delay)
        gw, gr, gd = (np.zeros_like(r) for _ in range(3))
        group = max(1, min(8, CACHE_BYTES // 2 // self.tile_bytes))
        units = -(-(len(r) // 4) // group) * -(-(r.shape[1] // 4) // group)
        kernel = delayed.whole_bwd if whole else delayed.fractional_bwd
        parallel(kernel, units, s, g, r, *delays, gw, gr, gd, self.steps, self.past, self.blocks, group)
        from_initial = None if initial is None else self._from_initial(initial, g, decay)
        g_weight, g_decay, g_delay = (torch.from_numpy(x[:n, :k]) for x in (gw, gr, gd))
        return g_weight, g_decay, from_initial, g_delay if needs_delay else None

    def recurrent_fwd(
        self, u: Array, state: Arrays, soma: Arrays, synapses: Synapses, past: Tensor | None = None
    ) -> Tensor:
        decay, weight, delay, _ = synapses
        if delay is None or past is None or self.past == 0:
            return super().recurrent_fwd(u, state, soma, synapses)
        X = self.zeros(self.blocks, self.n, self.n, self.lanes)
        r, w = (self.matrix(x, self.n, self.n) for x in (decay, weight))
        delays, _ = self._pieces(delay, self.n, self.n)
        Z = self.zeros(self.past + 2 + self.steps, self.vectors, self.lanes).reshape(self.past + 2 + self.steps, -1)
        for row, spikes in enumerate(past.unbind(0)):
            Z[1 + row] = self.pack_state(spikes)
        Z[1 + self.past] = state[0]
        sizes = (self.steps, self.past)
        parallel(delayed.recurrent_fwd, self.blocks, u, X, Z, *state, *soma, r, w, *delays, *sizes)
        return self._unpack_traces(X)

    def recurrent_bwd(self, g: Array, gz_and_d: Arrays, state: Arrays, soma: Arrays, synapses: Synapses) -> None:
        decay, weight, delay, _ = synapses
        if delay is None or self.past == 0:
            super().recurrent_bwd(g, gz_and_d, state, soma, synapses)
            return
        a, rows = self.zeros(self.blocks, self.n, self.n, self.lanes), self.past + 1 + self.steps
        G = self.zeros(rows, self.vectors, self.lanes).reshape(rows, -1)
        between = (self.zeros(self.vectors, self.lanes) for _ in range(2))
        rT, wT = (self.matrix(x.T, self.n, self.n) for x in (decay, weight))
        delays, _ = self._pieces(delay.T, self.n, self.n)
        arrays = (g, *gz_and_d, a, G, *between, *state, *soma, rT, wT, *delays)
        parallel(delayed.recurrent_bwd, self.blocks, *arrays, self.steps, self.past)
