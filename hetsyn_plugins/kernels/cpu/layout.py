"""How one call lies in memory, and which kernels work on it: lanes = rows of the batch, or lanes = neurons.

Both layouts offer the same methods to `cpu.py`. Arrays are flat NumPy; `rows` is a padded number of lines or neurons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetsyn_plugins.kernels.cpu import batch_lanes as cpu_batch
from hetsyn_plugins.kernels.cpu import buffers as scratch
from hetsyn_plugins.kernels.cpu import neuron_lanes as cpu_neuron
from hetsyn_plugins.kernels.cpu import state_gradients as cpu_states
from hetsyn_plugins.kernels.cpu.simd import lanes_of
from hetsyn_plugins.kernels.cpu.threads import parallel

Array = NDArray[Any]
Arrays = tuple[Array, ...]
CACHE_BYTES = 1 << 19  # half of a core's L2 cache: what a kernel should work on at a time
ONLY: ContextVar[type[Layout] | None] = ContextVar("ONLY", default=None)  # the checks set it: each on every case


def layout(inputs: Tensor, neurons: int) -> Layout:
    """The one that computes fewer vectors: lanes that hold no row, or no neuron, are work for nothing."""
    steps, batch, width = inputs.shape
    dtype = np.dtype(np.float64 if inputs.dtype == torch.float64 else np.float32)
    lanes = lanes_of(dtype)
    by_batch, by_neuron = _up(batch, lanes) * _up(neurons, 4), batch * _up(neurons, lanes)
    # where it is close, lanes = batch: it loads less for each multiply-add
    kind = ONLY.get() or (NeuronLanes if by_neuron * 1.25 < by_batch else BatchLanes)
    return kind((steps, batch, width), neurons, dtype)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


class Layout(ABC):
    """What both share: the sizes of a call, and everything that does not depend on what the lanes are.

    n, m     the neurons and the inputs, padded
    vectors  how many vectors a step of the neurons is, in all
    tile     how many of them lie side by side (`cpu_common.py`)
    """

    tile: int
    vectors: int

    def __init__(self, sizes: tuple[int, int, int], neurons: int, dtype: np.dtype[Any]) -> None:
        self.steps, self.batch, self.inputs = sizes
        self.neurons, self.dtype, self.lanes = neurons, dtype, lanes_of(dtype)
        self.n, self.m = self.padded(neurons), self.padded(self.inputs)

    @abstractmethod
    def padded(self, rows: int) -> int:
        """A number of lines or neurons with the padding of this layout."""

    @abstractmethod
    def sequence(self, rows: int) -> Array:
        """Memory for a packed sequence, not filled."""

    @abstractmethod
    def pack(self, x: Tensor, rows: int) -> Array:
        """A tensor (T, B, K) packed."""

    @abstractmethod
    def unpack(self, packed: Array, rows: int, width: int) -> Tensor:
        """The tensor (T, B, width) of a packed sequence."""

    @abstractmethod
    def own(self, x: Tensor | None, fill: float = 0.0) -> Array:
        """A parameter (N,) for `cpu_common.py`; None: `fill`."""

    @abstractmethod
    def rows(self, x: Tensor | None) -> Array:
        """A state (B, N) for `cpu_common.py`; None: zeros."""

    @abstractmethod
    def from_rows(self, packed: Array) -> Tensor:
        """The inverse of `rows`."""

    @abstractmethod
    def over_batch(self, packed: Array) -> Tensor:
        """(N,): the sum of what lies as a state (B, N) does, over the batch."""

    @abstractmethod
    def scan(self, s: Array, p: tuple[Tensor, Tensor], bias: Tensor | None) -> tuple[Array, Tensor]:
        """u of synapses p = (decay, weight), (N, K), with sources s, and their last currents (B, N, K)."""

    @abstractmethod
    def scan_back(self, g: Array, p: tuple[Tensor, Tensor]) -> Array:
        """What synapses p = (decay, weight) owe to their sources, for what is owed to their neurons."""

    @abstractmethod
    def free_decay(self, u: Array, state: Tensor, decay: Tensor) -> None:
        """Add to u what is left of first currents (B, N, K)."""

    @abstractmethod
    def gradients(
        self, s: Array, g: Array, decay: Tensor, start: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """sum g x and sum g y of synapses with sources s, (N, K), and what first currents add to the decay's."""

    @abstractmethod
    def fire_recurrent(self, u: Array, state: Arrays, own: Arrays, p: tuple[Tensor, Tensor]) -> Tensor:
        """As `cpu_common.fire` with recurrent synapses p = (decay, weight); return the last traces (B, N, N)."""

    @abstractmethod
    def adjoint_recurrent(self, g: Array, others: Arrays, state: Arrays, own: Arrays, p: tuple[Tensor, Tensor]) -> None:
        """As `cpu_common.adjoint` with recurrent synapses p = (decay, weight)."""

    def narrow(self) -> NeuronLanes:
        """The layout with lanes = neurons, which alone works on whole currents."""
        return NeuronLanes((self.steps, self.batch, self.inputs), self.neurons, self.dtype)

    def zeros(self, *sizes: int) -> Array:
        """A flat array of zeros."""
        out = scratch.empty(int(np.prod(sizes)), self.dtype)
        out[...] = 0
        return out

    def empty(self, *sizes: int) -> Array:
        """A flat array, not filled."""
        return scratch.empty(int(np.prod(sizes)), self.dtype)

    def matrix(self, x: Tensor, rows: int, columns: int) -> Array:
        """A parameter (N, M) padded with zeros to (rows, columns)."""
        full = np.zeros((rows, columns), self.dtype)
        full[: x.shape[0], : x.shape[1]] = x.detach().numpy()
        return full

    def vector(self, x: Tensor | None, size: int, fill: float = 0.0) -> Array:
        """A parameter (N,) padded to `size`."""
        full = np.full(size, fill, self.dtype)
        if x is not None:
            full[: len(x)] = x.detach().numpy()
        return full


class BatchLanes(Layout):
    """Lanes = rows of the batch: [block][K / 4][T][4][lanes], see `cpu_batch.py`."""

    tile = 4

    def __init__(self, sizes: tuple[int, int, int], neurons: int, dtype: np.dtype[Any]) -> None:
        super().__init__(sizes, neurons, dtype)
        self.blocks = -(-self.batch // self.lanes)
        self.vectors = self.blocks * self.n
        self.chunks = self.blocks * -(-self.steps // cpu_batch.CHUNK)
        self.tile_bytes = self.steps * 4 * self.lanes * self.dtype.itemsize

    def padded(self, rows: int) -> int:
        return _up(rows, 4)

    def sequence(self, rows: int) -> Array:
        return self.empty(self.blocks, rows, self.steps, self.lanes)

    def pack(self, x: Tensor, rows: int) -> Array:
        packed, sizes = self.sequence(rows), (self.steps, self.batch, x.shape[2])
        parallel(cpu_batch.pack, self.chunks, np.ascontiguousarray(x.detach().numpy()).ravel(), *sizes, rows, packed)
        return packed

    def unpack(self, packed: Array, rows: int, width: int) -> Tensor:
        x = self.empty(self.steps, self.batch, width)
        parallel(cpu_batch.unpack, self.chunks, packed, rows, x, self.steps, self.batch, width)
        return torch.from_numpy(x).view(self.steps, self.batch, width)

    def own(self, x: Tensor | None, fill: float = 0.0) -> Array:
        return self.vector(x, self.n, fill).repeat(self.lanes)

    def rows(self, x: Tensor | None) -> Array:
        full = np.zeros((self.blocks * self.lanes, self.n), self.dtype)
        if x is not None:
            full[: self.batch, : self.neurons] = x.detach().numpy()
        return np.ascontiguousarray(full.reshape(self.blocks, self.lanes, self.n).transpose(0, 2, 1)).ravel()

    def from_rows(self, packed: Array) -> Tensor:
        full = packed.reshape(self.blocks, self.n, self.lanes).transpose(0, 2, 1).reshape(-1, self.n)
        return torch.from_numpy(np.ascontiguousarray(full[: self.batch, : self.neurons]))

    def over_batch(self, packed: Array) -> Tensor:
        return torch.from_numpy(packed.reshape(self.blocks, self.n, self.lanes).sum((0, 2))[: self.neurons])

    def scan(self, s: Array, p: tuple[Tensor, Tensor], bias: Tensor | None) -> tuple[Array, Tensor]:
        columns = self.padded(p[0].shape[1])
        r, w = (self.matrix(x, self.n, columns) for x in p)
        u, sizes = self.sequence(self.n), (self.batch, *p[0].shape)
        current = self.empty(*sizes)
        self._scan(s, u, r, w, self.vector(bias, self.n), current, sizes, False)
        return u, torch.from_numpy(current).view(sizes)

    def scan_back(self, g: Array, p: tuple[Tensor, Tensor]) -> Array:
        r, w = (self.matrix(x.T, self.m, self.n) for x in p)
        out = self.sequence(self.m)
        self._scan(g, out, r, w, self.zeros(self.m), self.zeros(1), (0, 0, 0), True)
        return out

    def _scan(
        self, s: Array, u: Array, r: Array, w: Array, bias: Array, current: Array, sizes: Any, reverse: bool
    ) -> None:
        group = max(1, CACHE_BYTES // self.tile_bytes)
        units = self.blocks * -(-(len(r) // 4) // group)
        parallel(cpu_batch.scan, units, s, u, r, w, bias, current, sizes, self.steps, group, reverse)

    def _currents(self, x: Tensor) -> Array:
        """A state (B, N, K) as [block][i][j][lanes]."""
        full = np.zeros((self.blocks * self.lanes, self.n, self.padded(x.shape[2])), self.dtype)
        full[: self.batch, : self.neurons, : x.shape[2]] = x.detach().numpy()
        return np.ascontiguousarray(full.reshape(self.blocks, self.lanes, -1).transpose(0, 2, 1)).ravel()

    def free_decay(self, u: Array, state: Tensor, decay: Tensor) -> None:
        r = self.matrix(decay, self.n, self.padded(state.shape[2]))
        parallel(cpu_batch.free_decay, self.vectors, self._currents(state), u, r, self.steps)

    def gradients(
        self, s: Array, g: Array, decay: Tensor, start: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        n, k = decay.shape
        r = self.matrix(decay, self.n, self.padded(k))
        gw, gr = np.zeros_like(r), np.zeros_like(r)
        group = max(1, min(8, CACHE_BYTES // 2 // self.tile_bytes))
        units = -(-(len(r) // 4) // group) * -(-(r.shape[1] // 4) // group)
        parallel(cpu_batch.gradients, units, s, g, r, gw, gr, self.steps, self.blocks, group)
        extra = None
        if start is not None:
            more = np.zeros_like(r)
            free = (self._currents(start), g, r, more, self.steps, self.blocks)
            parallel(cpu_batch.free_decay_gradients, self.n, *free)
            extra = torch.from_numpy(more[:n, :k])
        return torch.from_numpy(gw[:n, :k]), torch.from_numpy(gr[:n, :k]), extra

    def fire_recurrent(
        self, u: Array, state: tuple[Array, ...], own: tuple[Array, ...], p: tuple[Tensor, Tensor]
    ) -> Tensor:
        X = self.zeros(self.blocks, self.n, self.n, self.lanes)
        r, w = (self.matrix(x, self.n, self.n) for x in p)
        early = self.zeros(self.vectors, self.lanes)
        parallel(cpu_batch.fire_recurrent, self.blocks, u, X, early, *state, *own, r, w, self.steps)
        tiles = X.reshape(self.blocks, self.n // 4, self.n, 4, self.lanes).transpose(0, 4, 1, 3, 2)
        full = tiles.reshape(-1, self.n, self.n)[: self.batch, : self.neurons, : self.neurons]
        return torch.from_numpy(np.ascontiguousarray(full))

    def adjoint_recurrent(self, g: Array, others: Arrays, state: Arrays, own: Arrays, p: tuple[Tensor, Tensor]) -> None:
        a = self.zeros(self.blocks, self.n, self.n, self.lanes)
        scratch = (self.zeros(self.vectors, self.lanes) for _ in range(3))
        rT, wT = (self.matrix(x.T, self.n, self.n) for x in p)
        parallel(cpu_batch.adjoint_recurrent, self.blocks, g, *others, a, *scratch, *state, *own, rT, wT, self.steps)


class NeuronLanes(Layout):
    """Lanes = neurons: [b][K / lanes][T][lanes], see `cpu_neuron.py`."""

    tile = 1

    def __init__(self, sizes: tuple[int, int, int], neurons: int, dtype: np.dtype[Any]) -> None:
        super().__init__(sizes, neurons, dtype)
        self.vectors = self.batch * self.n // self.lanes

    def padded(self, rows: int) -> int:
        return _up(rows, max(4, self.lanes))

    def sequence(self, rows: int) -> Array:
        return self.empty(self.batch, rows, self.steps)

    def pack(self, x: Tensor, rows: int) -> Array:
        packed, sizes = self.sequence(rows), (self.steps, self.batch, x.shape[2])
        parallel(cpu_neuron.pack, self.batch, np.ascontiguousarray(x.detach().numpy()).ravel(), *sizes, rows, packed)
        return packed

    def unpack(self, packed: Array, rows: int, width: int) -> Tensor:
        x = self.empty(self.steps, self.batch, width)
        parallel(cpu_neuron.unpack, self.batch, packed, rows, x, self.steps, self.batch, width)
        return torch.from_numpy(x).view(self.steps, self.batch, width)

    def own(self, x: Tensor | None, fill: float = 0.0) -> Array:
        return self.vector(x, self.n, fill)

    def rows(self, x: Tensor | None) -> Array:
        full = np.zeros((self.batch, self.n), self.dtype)
        if x is not None:
            full[:, : self.neurons] = x.detach().numpy()
        return full.ravel()

    def from_rows(self, packed: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(packed.reshape(self.batch, self.n)[:, : self.neurons]))

    def over_batch(self, packed: Array) -> Tensor:
        return torch.from_numpy(packed.reshape(self.batch, self.n).sum(0)[: self.neurons])

    def scan(self, s: Array, p: tuple[Tensor, Tensor], bias: Tensor | None) -> tuple[Array, Tensor]:
        sources = self.padded(p[0].shape[1])
        rT, wT = (self.matrix(x.T, sources, self.n).ravel() for x in p)
        u, sizes = self.sequence(self.n), (self.batch, *p[0].shape)
        current = self.empty(*sizes)
        own = self.vector(bias, self.n)
        parallel(cpu_neuron.scan, self.vectors, s, u, rT, wT, own, current, sizes, sources, self.steps, False)
        return u, torch.from_numpy(current).view(sizes)

    def scan_back(self, g: Array, p: tuple[Tensor, Tensor]) -> Array:
        r, w = (self.matrix(x, self.n, self.m).ravel() for x in p)
        out, units = self.sequence(self.m), self.batch * self.m // self.lanes
        none = (self.zeros(self.m), self.zeros(1), (0, 0, 0))
        parallel(cpu_neuron.scan, units, g, out, r, w, *none, self.n, self.steps, True)
        return out

    def _currents(self, x: Tensor) -> Array:
        """A state (B, N, K) as [b][K][N]."""
        full = np.zeros((self.batch, self.padded(x.shape[2]), self.n), self.dtype)
        full[:, : x.shape[2], : self.neurons] = x.detach().numpy().transpose(0, 2, 1)
        return full.ravel()

    def free_decay(self, u: Array, state: Tensor, decay: Tensor) -> None:
        sources = self.padded(state.shape[2])
        rT = self.matrix(decay.T, sources, self.n).ravel()
        parallel(cpu_neuron.free_decay, self.vectors, self._currents(state), u, rT, sources, self.steps)

    def gradients(
        self, s: Array, g: Array, decay: Tensor, start: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        n, k = decay.shape
        sources = self.padded(k)
        rT = self.matrix(decay.T, sources, self.n).ravel()
        gw, gr = self.empty(rT.size), self.empty(rT.size)
        sizes = (sources, self.steps, self.batch)
        parallel(cpu_neuron.gradients, rT.size // 4 // self.lanes, s, g, rT, gw, gr, *sizes)
        extra = None
        if start is not None:
            extra = np.zeros_like(rT)
            parallel(cpu_neuron.free_decay_gradients, self.n // self.lanes, self._currents(start), g, rT, extra, *sizes)

        def back(x: Array) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(x.reshape(sources, self.n)[:k, :n].T))

        return back(gw), back(gr), None if extra is None else back(extra)

    def fire_recurrent(
        self, u: Array, state: tuple[Array, ...], own: tuple[Array, ...], p: tuple[Tensor, Tensor]
    ) -> Tensor:
        X = self.zeros(self.batch, self.n, self.n)
        rT, wT = (self.matrix(x.T, self.n, self.n).ravel() for x in p)
        parallel(cpu_neuron.fire_recurrent, self.batch, u, X, *state, *own, rT, wT, self.steps)
        full = X.reshape(self.batch, self.n, self.n).transpose(0, 2, 1)[:, : self.neurons, : self.neurons]
        return torch.from_numpy(np.ascontiguousarray(full))

    def adjoint_recurrent(self, g: Array, others: Arrays, state: Arrays, own: Arrays, p: tuple[Tensor, Tensor]) -> None:
        a = self.zeros(self.batch, self.n, self.n)
        r, w = (self.matrix(x, self.n, self.n).ravel() for x in p)
        parallel(cpu_neuron.adjoint_recurrent, self.batch, g, *others, a, *state, *own, r, w, self.steps)

    def through_currents(
        self, x: Tensor, g: Tensor, p: tuple[Tensor, Tensor], start: Tensor | None, owed: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of first currents (B, N, K), and what `owed` to the last adds to those of weight and decay."""
        n, k = p[0].shape
        columns = self.padded(k)
        s, packed = self.pack(x, columns), self.pack(g, self.n)
        r, w = (self.matrix(t, n, columns).ravel() for t in p)
        first, gw, gr = self.empty(self.batch, n, columns), self.empty(r.size), self.empty(r.size)
        given = (self._wide(start, n, columns), self._wide(owed, n, columns))
        parallel(cpu_states.currents, n, s, packed, r, w, *given, first, gw, gr, self.n, self.steps, self.batch)
        whole = torch.from_numpy(first).view(self.batch, n, columns)[..., :k]
        g_weight, g_decay = (torch.from_numpy(a).view(n, columns)[:, :k] for a in (gw, gr))
        return whole, g_weight, g_decay

    def owed_to_sources(self, owed: Tensor, p: tuple[Tensor, Tensor]) -> Tensor:
        """(T, B, K): what synapses with `owed` (B, N, K) to their last currents owe to their sources."""
        n, k = p[0].shape
        columns = self.padded(k)
        r, w = (self.matrix(t, n, columns).ravel() for t in p)
        ds, lam = self.sequence(columns), self._wide(owed, n, columns)
        parallel(cpu_states.back, self.batch * columns // self.lanes, lam, r, w, ds, self.steps, columns)
        return self.unpack(ds, columns, k)

    def _wide(self, x: Tensor | None, n: int, columns: int) -> Array:
        """Currents (B, N, K), K padded; None: zeros."""
        full = np.zeros((self.batch, n, columns), self.dtype)
        if x is not None:
            full[:, :, : x.shape[2]] = x.detach().numpy()
        return full.ravel()
