"""How one call lies in memory, and which kernels work on it: lanes = rows of the batch, or lanes = neurons.

Both layouts offer the same methods to `sequence.py`; names say part and direction. Arrays are flat NumPy; `padded` is a
number of lines or neurons with the padding of a layout; `soma` are what `soma.py` calls theta, reset_strength, kappa,
adaptation_strength, rho (backwards without theta).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetsyn_plugins.kernels.cpu import batch_lanes, buffers, neuron_lanes, state_gradients
from hetsyn_plugins.kernels.cpu.lanes import neurons_are_lanes, up
from hetsyn_plugins.kernels.cpu.simd import lanes_of
from hetsyn_plugins.kernels.cpu.threads import parallel

Array = NDArray[Any]
Arrays = tuple[Array, ...]
SynapseGradients = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # see `Layout.synapses_bwd`
CACHE_BYTES = 1 << 19  # half of a core's L2 cache: what a kernel should work on at a time
ONLY: ContextVar[type[Layout] | None] = ContextVar("ONLY", default=None)  # the checks set it: each on every case


class Synapses(NamedTuple):
    """What synapses (N, K) are; delays are what `delayed_layout.py` reads, masks `sparse_layout.py`."""

    decay: Tensor
    weight: Tensor
    delay: Tensor | None = None
    mask: Tensor | None = None


def layout(inputs: Tensor, neurons: int) -> Layout:
    """The one that computes fewer vectors."""
    steps, batch, width = inputs.shape
    dtype = np.dtype(np.float64 if inputs.dtype == torch.float64 else np.float32)
    kind = ONLY.get() or (NeuronLanes if neurons_are_lanes(batch, neurons, lanes_of(dtype)) else BatchLanes)
    return kind((steps, batch, width), neurons, dtype)


def known_zero(x: Tensor | None) -> bool:
    """Is this state absent or all zeros? Those that were never written out (an expanded scalar) cost no look at them.

    A first state that is not zero costs much more than the look: it is a current of its own, from the first step on.
    """
    if x is None:
        return True
    values = x.detach().numpy()
    if not any(x.stride()):
        values = values[:1, :1, :1]
    return not (values[:1].any() or values.any())


class Layout(ABC):
    """What both share: the sizes of a call, and everything that does not depend on what the lanes are.

    n, m     the neurons and the inputs, padded
    vectors  how many vectors a step of the neurons is, in all
    tile     how many of them lie side by side (`soma.py`)
    """

    tile: int
    vectors: int

    def __init__(self, sizes: tuple[int, int, int], neurons: int, dtype: np.dtype[Any]) -> None:
        self.steps, self.batch, self.inputs = sizes
        self.neurons, self.dtype, self.lanes = neurons, dtype, lanes_of(dtype)
        self.n, self.m = self.pad(neurons), self.pad(self.inputs)

    @abstractmethod
    def pad(self, count: int) -> int:
        """A number of lines or neurons with the padding of this layout."""

    @abstractmethod
    def sequence(self, padded: int) -> Array:
        """Memory for a packed sequence, not filled."""

    @abstractmethod
    def pack(self, x: Tensor, padded: int) -> Array:
        """A tensor (T, B, K) packed."""

    @abstractmethod
    def unpack(self, packed: Array, padded: int, width: int) -> Tensor:
        """The tensor (T, B, width) of a packed sequence."""

    @abstractmethod
    def pack_neuron(self, x: Tensor | None, fill: float = 0.0) -> Array:
        """A parameter (N,) for `soma.py`; None: `fill`."""

    @abstractmethod
    def pack_state(self, x: Tensor | None) -> Array:
        """A state (B, N) for `soma.py`; None: zeros."""

    @abstractmethod
    def unpack_state(self, packed: Array) -> Tensor:
        """The inverse of `pack_state`."""

    @abstractmethod
    def sum_batch(self, packed: Array) -> Tensor:
        """(N,): the sum of what lies as a state (B, N) does, over the batch."""

    @abstractmethod
    def currents_fwd(self, s: Array, synapses: Synapses, bias: Tensor | None) -> tuple[Array, Tensor]:
        """u of synapses (N, K) with sources s, and their last currents (B, N, K)."""

    @abstractmethod
    def inputs_bwd(self, g: Array, synapses: Synapses) -> Array:
        """The gradients of the sources of synapses, from those of v."""

    @abstractmethod
    def initial_current_fwd(self, u: Array, state: Tensor, decay: Tensor) -> None:
        """Add to u what is left of initial currents (B, N, K)."""

    @abstractmethod
    def synapses_bwd(
        self, s: Array, g: Array, synapses: Synapses, initial: Tensor | None, needs_delay: bool = False
    ) -> SynapseGradients:
        """sum g x and sum g y of synapses with sources s, (N, K), what initial currents add to the decay's, and, where
        that is needed, sum g dx/ddelay.
        """

    @abstractmethod
    def _from_initial(self, initial: Tensor, g: Array, decay: Tensor) -> Tensor:
        """What initial currents (B, N, K) add to the gradient of the decay, (N, K)."""

    @abstractmethod
    def recurrent_fwd(
        self, u: Array, state: Arrays, soma: Arrays, synapses: Synapses, past: Tensor | None = None
    ) -> Tensor:
        """As `soma.neurons_fwd` with recurrent synapses; return the last traces (B, N, N).

        past  (D, B, N), spikes before the first ones, of synapses with delays
        """

    @abstractmethod
    def recurrent_bwd(self, g: Array, gz_and_d: Arrays, state: Arrays, soma: Arrays, synapses: Synapses) -> None:
        """As `soma.neurons_bwd` with recurrent synapses."""

    def sources(self, x: Tensor) -> Array:
        """The inputs (T, B, M) as `currents_fwd` and `synapses_bwd` take them."""
        return self.pack(x, self.m)

    def neuron_lanes(self) -> NeuronLanes:
        """The layout with lanes = neurons, which alone works on currents (B, N, K)."""
        return NeuronLanes((self.steps, self.batch, self.inputs), self.neurons, self.dtype)

    def zeros(self, *sizes: int) -> Array:
        """A flat array of zeros."""
        return buffers.zeros(int(np.prod(sizes)), self.dtype)

    def empty(self, *sizes: int) -> Array:
        """A flat array, not filled."""
        return buffers.empty(int(np.prod(sizes)), self.dtype)

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
    """Lanes = rows of the batch: [block][K / 4][T][4][lanes], see `batch_lanes.py`."""

    tile = 4

    def __init__(self, sizes: tuple[int, int, int], neurons: int, dtype: np.dtype[Any]) -> None:
        super().__init__(sizes, neurons, dtype)
        self.blocks = -(-self.batch // self.lanes)
        self.vectors = self.blocks * self.n
        self.chunks = self.blocks * -(-self.steps // batch_lanes.CHUNK)
        self.tile_bytes = self.steps * 4 * self.lanes * self.dtype.itemsize

    def pad(self, count: int) -> int:
        return up(count, 4)

    def sequence(self, padded: int) -> Array:
        return self.empty(self.blocks, padded, self.steps, self.lanes)

    def pack(self, x: Tensor, padded: int) -> Array:
        steps = len(x)  # more than those of the call where a past stands in front
        packed, sizes = self.empty(self.blocks, padded, steps, self.lanes), (steps, self.batch, x.shape[2])
        units = self.blocks * -(-steps // batch_lanes.CHUNK)
        parallel(batch_lanes.pack, units, np.ascontiguousarray(x.detach().numpy()).ravel(), *sizes, padded, packed)
        return packed

    def unpack(self, packed: Array, padded: int, width: int) -> Tensor:
        x = self.empty(self.steps, self.batch, width)
        parallel(batch_lanes.unpack, self.chunks, packed, padded, x, self.steps, self.batch, width)
        return torch.from_numpy(x.reshape(self.steps, self.batch, width))

    def pack_neuron(self, x: Tensor | None, fill: float = 0.0) -> Array:
        return self.vector(x, self.n, fill).repeat(self.lanes)

    def pack_state(self, x: Tensor | None) -> Array:
        full = np.zeros((self.blocks * self.lanes, self.n), self.dtype)
        if x is not None:
            full[: self.batch, : self.neurons] = x.detach().numpy()
        return np.ascontiguousarray(full.reshape(self.blocks, self.lanes, self.n).transpose(0, 2, 1)).ravel()

    def unpack_state(self, packed: Array) -> Tensor:
        full = packed.reshape(self.blocks, self.n, self.lanes).transpose(0, 2, 1).reshape(-1, self.n)
        return torch.from_numpy(np.ascontiguousarray(full[: self.batch, : self.neurons]))

    def sum_batch(self, packed: Array) -> Tensor:
        return torch.from_numpy(packed.reshape(self.blocks, self.n, self.lanes).sum((0, 2))[: self.neurons])

    def currents_fwd(self, s: Array, synapses: Synapses, bias: Tensor | None) -> tuple[Array, Tensor]:
        columns = self.pad(synapses[0].shape[1])
        r, w = (self.matrix(x, self.n, columns) for x in synapses[:2])
        u, (n, k) = self.sequence(self.n), synapses[0].shape
        current = self.empty(n, k, self.blocks, self.lanes)
        self._currents_fwd(s, u, r, w, self.vector(bias, self.n), current, (self.blocks, n, k), False)
        # as the kernel writes it, rows innermost: to turn it round would take a tenth of a short sequence
        by_row = current.reshape(n, k, self.blocks * self.lanes).transpose(2, 0, 1)
        return u, torch.from_numpy(by_row[: self.batch])

    def inputs_bwd(self, g: Array, synapses: Synapses) -> Array:
        r, w = (self.matrix(x.T, self.m, self.n) for x in synapses[:2])
        out = self.sequence(self.m)
        self._currents_fwd(g, out, r, w, self.zeros(self.m), self.zeros(1), (0, 0, 0), True)
        return out

    def _currents_fwd(
        self, s: Array, u: Array, r: Array, w: Array, bias: Array, current: Array, sizes: Any, reverse: bool
    ) -> None:
        group = max(1, CACHE_BYTES // self.tile_bytes)
        units = self.blocks * -(-(len(r) // 4) // group)
        parallel(batch_lanes.currents_fwd, units, s, u, r, w, bias, current, sizes, self.steps, group, reverse)

    def _pack_currents(self, x: Tensor) -> Array:
        """A state (B, N, K) as [block][i][j][lanes]."""
        full = np.zeros((self.blocks * self.lanes, self.n, self.pad(x.shape[2])), self.dtype)
        full[: self.batch, : self.neurons, : x.shape[2]] = x.detach().numpy()
        return np.ascontiguousarray(full.reshape(self.blocks, self.lanes, -1).transpose(0, 2, 1)).ravel()

    def initial_current_fwd(self, u: Array, state: Tensor, decay: Tensor) -> None:
        r = self.matrix(decay, self.n, self.pad(state.shape[2]))
        parallel(batch_lanes.initial_current_fwd, self.vectors, self._pack_currents(state), u, r, self.steps)

    def synapses_bwd(
        self, s: Array, g: Array, synapses: Synapses, initial: Tensor | None, needs_delay: bool = False
    ) -> SynapseGradients:
        decay, (n, k) = synapses.decay, synapses.decay.shape
        r = self.matrix(decay, self.n, self.pad(k))
        gw, gr = np.zeros_like(r), np.zeros_like(r)
        group = max(1, min(8, CACHE_BYTES // 2 // self.tile_bytes))
        units = -(-(len(r) // 4) // group) * -(-(r.shape[1] // 4) // group)
        parallel(batch_lanes.synapses_bwd, units, s, g, r, gw, gr, self.steps, self.blocks, group)
        from_initial = None if initial is None else self._from_initial(initial, g, decay)
        return torch.from_numpy(gw[:n, :k]), torch.from_numpy(gr[:n, :k]), from_initial, None

    def _from_initial(self, initial: Tensor, g: Array, decay: Tensor) -> Tensor:
        r = self.matrix(decay, self.n, self.pad(decay.shape[1]))
        out = np.zeros_like(r)
        arguments = (self._pack_currents(initial), g, r, out, self.steps, self.blocks)
        parallel(batch_lanes.initial_current_bwd, self.n, *arguments)
        return torch.from_numpy(out[: decay.shape[0], : decay.shape[1]])

    def recurrent_fwd(
        self, u: Array, state: Arrays, soma: Arrays, synapses: Synapses, past: Tensor | None = None
    ) -> Tensor:
        X = self.zeros(self.blocks, self.n, self.n, self.lanes)
        r, w = (self.matrix(x, self.n, self.n) for x in synapses[:2])
        z_odd = self.zeros(self.vectors, self.lanes)
        parallel(batch_lanes.recurrent_fwd, self.blocks, u, X, z_odd, *state, *soma, r, w, self.steps)
        return self._unpack_traces(X)

    def _unpack_traces(self, X: Array) -> Tensor:
        """Traces [block][i tile][k][4][lanes] as (B, N, N)."""
        tiles = X.reshape(self.blocks, self.n // 4, self.n, 4, self.lanes).transpose(0, 4, 1, 3, 2)
        full = tiles.reshape(-1, self.n, self.n)[: self.batch, : self.neurons, : self.neurons]
        return torch.from_numpy(np.ascontiguousarray(full))

    def recurrent_bwd(self, g: Array, gz_and_d: Arrays, state: Arrays, soma: Arrays, synapses: Synapses) -> None:
        a = self.zeros(self.blocks, self.n, self.n, self.lanes)
        steps = (self.zeros(self.vectors, self.lanes) for _ in range(3))
        rT, wT = (self.matrix(x.T, self.n, self.n) for x in synapses[:2])
        parallel(batch_lanes.recurrent_bwd, self.blocks, g, *gz_and_d, a, *steps, *state, *soma, rT, wT, self.steps)


class NeuronLanes(Layout):
    """Lanes = neurons: [b][K / lanes][T][lanes], see `neuron_lanes.py`."""

    tile = 1

    def __init__(self, sizes: tuple[int, int, int], neurons: int, dtype: np.dtype[Any]) -> None:
        super().__init__(sizes, neurons, dtype)
        self.vectors = self.batch * self.n // self.lanes

    def pad(self, count: int) -> int:
        return up(count, max(4, self.lanes))

    def sequence(self, padded: int) -> Array:
        return self.empty(self.batch, padded, self.steps)

    def pack(self, x: Tensor, padded: int) -> Array:
        packed, sizes = self.sequence(padded), (self.steps, self.batch, x.shape[2])
        parallel(
            neuron_lanes.pack, self.batch, np.ascontiguousarray(x.detach().numpy()).ravel(), *sizes, padded, packed
        )
        return packed

    def unpack(self, packed: Array, padded: int, width: int) -> Tensor:
        x = self.empty(self.steps, self.batch, width)
        parallel(neuron_lanes.unpack, self.batch, packed, padded, x, self.steps, self.batch, width)
        return torch.from_numpy(x.reshape(self.steps, self.batch, width))

    def pack_neuron(self, x: Tensor | None, fill: float = 0.0) -> Array:
        return self.vector(x, self.n, fill)

    def pack_state(self, x: Tensor | None) -> Array:
        full = np.zeros((self.batch, self.n), self.dtype)
        if x is not None:
            full[:, : self.neurons] = x.detach().numpy()
        return full.ravel()

    def unpack_state(self, packed: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(packed.reshape(self.batch, self.n)[:, : self.neurons]))

    def sum_batch(self, packed: Array) -> Tensor:
        return torch.from_numpy(packed.reshape(self.batch, self.n).sum(0)[: self.neurons])

    def currents_fwd(self, s: Array, synapses: Synapses, bias: Tensor | None) -> tuple[Array, Tensor]:
        sources = self.pad(synapses[0].shape[1])
        rT, wT = (self.matrix(x.T, sources, self.n).ravel() for x in synapses[:2])
        u, k = self.sequence(self.n), synapses[0].shape[1]
        current = self.empty(self.batch, k, self.n)
        arrays = (s, u, rT, wT, self.vector(bias, self.n), current)
        parallel(neuron_lanes.currents_fwd, self.vectors, *arrays, k, sources, self.steps, False)
        # as the kernel writes it, neurons innermost
        by_neuron = current.reshape(self.batch, k, self.n).transpose(0, 2, 1)
        return u, torch.from_numpy(by_neuron[:, : self.neurons])

    def inputs_bwd(self, g: Array, synapses: Synapses) -> Array:
        r, w = (self.matrix(x, self.n, self.m).ravel() for x in synapses[:2])
        out, units = self.sequence(self.m), self.batch * self.m // self.lanes
        none = (self.zeros(self.m), self.zeros(1), 0)
        parallel(neuron_lanes.currents_fwd, units, g, out, r, w, *none, self.n, self.steps, True)
        return out

    def _pack_currents(self, x: Tensor) -> Array:
        """A state (B, N, K) as [b][K][N]."""
        full = np.zeros((self.batch, self.pad(x.shape[2]), self.n), self.dtype)
        full[:, : x.shape[2], : self.neurons] = x.detach().numpy().transpose(0, 2, 1)
        return full.ravel()

    def initial_current_fwd(self, u: Array, state: Tensor, decay: Tensor) -> None:
        sources = self.pad(state.shape[2])
        rT = self.matrix(decay.T, sources, self.n).ravel()
        parallel(neuron_lanes.initial_current_fwd, self.vectors, self._pack_currents(state), u, rT, sources, self.steps)

    def synapses_bwd(
        self, s: Array, g: Array, synapses: Synapses, initial: Tensor | None, needs_delay: bool = False
    ) -> SynapseGradients:
        decay, k = synapses.decay, synapses.decay.shape[1]
        sources = self.pad(k)
        rT = self.matrix(decay.T, sources, self.n).ravel()
        gw, gr = self.empty(rT.size), self.empty(rT.size)
        sizes = (sources, self.steps, self.batch)
        parallel(neuron_lanes.synapses_bwd, rT.size // 4 // self.lanes, s, g, rT, gw, gr, *sizes)
        from_initial = None if initial is None else self._from_initial(initial, g, decay)
        return self._to_matrix(gw, k), self._to_matrix(gr, k), from_initial, None

    def _to_matrix(self, x: Array, width: int) -> Tensor:
        """A matrix (sources, neurons), padded, as (N, K)."""
        return torch.from_numpy(np.ascontiguousarray(x.reshape(-1, self.n)[:width, : self.neurons].T))

    def _from_initial(self, initial: Tensor, g: Array, decay: Tensor) -> Tensor:
        sources = self.pad(decay.shape[1])
        rT = self.matrix(decay.T, sources, self.n).ravel()
        out = np.zeros_like(rT)
        arguments = (self._pack_currents(initial), g, rT, out, sources, self.steps, self.batch)
        parallel(neuron_lanes.initial_current_bwd, self.n // self.lanes, *arguments)
        return self._to_matrix(out, decay.shape[1])

    def recurrent_fwd(
        self, u: Array, state: Arrays, soma: Arrays, synapses: Synapses, past: Tensor | None = None
    ) -> Tensor:
        X = self.zeros(self.batch, self.n, self.n)
        rT, wT = (self.matrix(x.T, self.n, self.n).ravel() for x in synapses[:2])
        parallel(neuron_lanes.recurrent_fwd, self.batch, u, X, *state, *soma, rT, wT, self.steps)
        full = X.reshape(self.batch, self.n, self.n).transpose(0, 2, 1)[:, : self.neurons, : self.neurons]
        return torch.from_numpy(np.ascontiguousarray(full))

    def recurrent_bwd(self, g: Array, gz_and_d: Arrays, state: Arrays, soma: Arrays, synapses: Synapses) -> None:
        a = self.zeros(self.batch, self.n, self.n)
        r, w = (self.matrix(x, self.n, self.n).ravel() for x in synapses[:2])
        parallel(neuron_lanes.recurrent_bwd, self.batch, g, *gz_and_d, a, *state, *soma, r, w, self.steps)

    def states_bwd(
        self, x: Tensor, g: Tensor, synapses: Synapses, initial: Tensor | None, grad_final: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the initial currents (B, N, K), and what those of the final ones add to weight's and decay's."""
        n, k = synapses[0].shape
        columns = self.pad(k)
        s, packed = self.pack(x, columns), self.pack(g, self.n)
        r, w = (self.matrix(t, n, columns).ravel() for t in synapses[:2])
        dI0, gw, gr = self.empty(self.batch, n, columns), self.empty(r.size), self.empty(r.size)
        ends = (self._pad_currents(initial, n, columns), self._pad_currents(grad_final, n, columns))
        parallel(state_gradients.currents_bwd, n, s, packed, r, w, *ends, dI0, gw, gr, self.n, self.steps, self.batch)
        g_initial = torch.from_numpy(dI0).view(self.batch, n, columns)[..., :k]
        g_weight, g_decay = (torch.from_numpy(a).view(n, columns)[:, :k] for a in (gw, gr))
        return g_initial, g_weight, g_decay

    def final_current_bwd(self, grad_final: Tensor, synapses: Synapses) -> Tensor:
        """What gradients of the final currents, (B, N, K), add to those of the sources, (T, B, K)."""
        n, k = synapses[0].shape
        columns = self.pad(k)
        r, w = (self.matrix(t, n, columns).ravel() for t in synapses[:2])
        ds, lam = self.sequence(columns), self._pad_currents(grad_final, n, columns)
        parallel(state_gradients.sources_bwd, self.batch * columns // self.lanes, lam, r, w, ds, self.steps, columns)
        return self.unpack(ds, columns, k)

    def _pad_currents(self, x: Tensor | None, n: int, columns: int) -> Array:
        """Currents (B, N, K), K padded; None: zeros."""
        full = np.zeros((self.batch, n, columns), self.dtype)
        if x is not None:
            full[:, :, : x.shape[2]] = x.detach().numpy()
        return full.ravel()
