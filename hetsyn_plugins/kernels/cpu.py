"""The neuron on the CPU: packing, threads, and the order of the kernels in `cpu_kernels.py`; float32 and float64.

The kernels release the GIL and split their work over a pool of Python threads, `torch.get_num_threads()` of them, so
there is no threading layer to collide with torch's, any thread may call, and a forked child makes its own pool.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetsyn_plugins.kernels import cpu_kernels as k
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.eager import Gradients, Terms
from hetsyn_plugins.kernels.simd import lanes_of
from hetsyn_plugins.params import HetSynState
from hetsyn_plugins.surrogate import Surrogate

Array = NDArray[Any]
GROUP_BYTES = 1 << 19  # what of a scan's output should stay in a core's L2 cache

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # a parent's threads do not exist in its child


def parallel(kernel: Callable[..., None], units: int, *arguments: Any) -> None:
    """Run a kernel over its units, split among torch's number of threads."""
    threads = max(1, min(torch.get_num_threads(), units))
    if threads == 1:
        kernel(*arguments, 0, units)
        return
    pool = _pools.setdefault(threads, ThreadPoolExecutor(threads, thread_name_prefix="hetsyn"))
    cuts = [units * i // threads for i in range(threads + 1)]
    futures = [pool.submit(kernel, *arguments, a, b) for a, b in itertools.pairwise(cuts[1:])]
    kernel(*arguments, cuts[0], cuts[1])
    for future in futures:
        future.result()


class Layout:
    """The sizes of one call, and the way between tensors and packed arrays."""

    def __init__(self, inputs: Tensor, p: Terms) -> None:
        self.steps, self.batch, self.inputs = inputs.shape
        self.neurons = len(p.weight)
        self.n, self.m = -(-self.neurons // 4) * 4, -(-self.inputs // 4) * 4
        self.dtype = np.dtype(np.float64 if inputs.dtype == torch.float64 else np.float32)
        self.lanes = lanes_of(self.dtype)
        self.blocks = -(-self.batch // self.lanes)
        self.group = max(1, GROUP_BYTES // (self.steps * 4 * self.lanes * self.dtype.itemsize))

    def empty(self, rows: int) -> Array:
        """Memory for a packed sequence of so many rows."""
        return np.empty(self.blocks * rows * self.steps * self.lanes, self.dtype)

    def pack(self, x: Tensor | None, rows: int) -> Array:
        """A tensor (T, B, K) packed; None: zeros."""
        if x is None:
            return np.zeros(self.blocks * rows * self.steps * self.lanes, self.dtype)
        packed = self.empty(rows)
        parallel(k.pack, self.blocks * self.steps, x.detach().contiguous().numpy(), rows, packed)
        return packed

    def unpack(self, packed: Array, rows: int, width: int) -> Tensor:
        """The tensor (T, B, width) of a packed sequence."""
        x = np.empty((self.steps, self.batch, width), self.dtype)
        parallel(k.unpack, self.blocks * self.steps, packed, rows, x)
        return torch.from_numpy(x)

    def matrix(self, x: Tensor | None, rows: int, columns: int, transposed: bool = False) -> Array:
        """A parameter (N, M) padded with zeros."""
        full = np.zeros((rows, columns), self.dtype)
        if x is not None:
            a = x.detach().numpy()
            a = a.T if transposed else a
            full[: a.shape[0], : a.shape[1]] = a
        return full

    def vector(self, x: Tensor | None, fill: float = 0.0) -> Array:
        """A parameter (N,) padded."""
        full = np.full(self.n, fill, self.dtype)
        if x is not None:
            full[: self.neurons] = x.detach().numpy()
        return full

    def rows(self, x: Tensor | None) -> Array:
        """A state (B, N) as [block][i][lanes]; None: zeros."""
        full = np.zeros((self.blocks * self.lanes, self.n), self.dtype)
        if x is not None:
            full[: self.batch, : self.neurons] = x.detach().numpy()
        return np.ascontiguousarray(full.reshape(self.blocks, self.lanes, self.n).transpose(0, 2, 1)).ravel()

    def from_rows(self, packed: Array) -> Tensor:
        """The inverse of `rows`."""
        full = packed.reshape(self.blocks, self.n, self.lanes).transpose(0, 2, 1).reshape(-1, self.n)
        return torch.from_numpy(np.ascontiguousarray(full[: self.batch, : self.neurons]))

    def currents(self, x: Tensor, columns: int) -> Array:
        """A state (B, N, M) as [block][i][j][lanes]."""
        full = np.zeros((self.blocks * self.lanes, self.n, columns), self.dtype)
        full[: self.batch, : self.neurons, : x.shape[2]] = x.detach().numpy()
        return np.ascontiguousarray(full.reshape(self.blocks, self.lanes, -1).transpose(0, 2, 1)).ravel()


def known_zero(x: Tensor | None) -> bool:
    """Is this state absent, or zeros that were never written out (an expanded scalar)?"""
    return x is None or not any(x.stride())


def _own(at: Layout, p: Terms) -> tuple[Array, ...]:
    """threshold, kick, kappa, strength, rho, each (n,); a part that the layer lacks has coefficients 0."""
    kick = at.vector(None if p.reset_decay is None else p.threshold)
    own = (p.reset_decay, p.adaptation_strength, p.adaptation_decay)
    return (at.vector(p.threshold, fill=1.0), kick, *map(at.vector, own))


def forward(inputs: Tensor, p: Terms, state: HetSynState, surrogate: Surrogate) -> tuple[Tensor, HetSynState]:
    """As `eager.forward`: v (T, B, N) and the state after the last step."""
    at = Layout(inputs, p)
    s, u = at.pack(inputs, at.m), at.empty(at.n)
    r, w = at.matrix(p.decay, at.n, at.m), at.matrix(p.weight, at.n, at.m)
    ends = np.empty(at.blocks * at.n * at.m * at.lanes, at.dtype)
    groups = at.blocks * -(-(at.n // 4) // at.group)
    parallel(k.scan, groups, s, u, r, w, at.vector(p.bias), ends, True, at.steps, at.group, False)
    current = _end_state(at, ends, w, at.inputs)
    if not known_zero(state.current):
        parallel(k.free_decay, at.blocks * at.n, at.currents(state.current, at.m), u, r, at.steps)
        current += p.decay.detach() ** at.steps * state.current.detach()
    if p.threshold is None:
        v = at.unpack(u, at.n, at.neurons)
        return v, HetSynState(current, v=v[-1])

    z, J, A = at.rows(state.spikes), at.rows(state.reset), at.rows(state.adaptation)
    recurrent = None
    if p.recurrent_weight is None or p.recurrent_decay is None:
        parallel(k.fire, at.blocks * at.n, u, z, J, A, *_own(at, p), at.steps)
    else:
        rr, rw = at.matrix(p.recurrent_decay, at.n, at.n), at.matrix(p.recurrent_weight, at.n, at.n)
        if not known_zero(state.recurrent_current):
            parallel(k.free_decay, at.blocks * at.n, at.currents(state.recurrent_current, at.n), u, rr, at.steps)
        X = np.zeros(at.blocks * at.n * at.n * at.lanes, at.dtype)
        parallel(k.fire_recurrent, at.blocks, u, X, z, J, A, *_own(at, p), rr, rw, at.steps)
        tiles = X.reshape(at.blocks, at.n // 4, at.n, 4, at.lanes).transpose(0, 1, 3, 2, 4)
        recurrent = _end_state(at, np.ascontiguousarray(tiles).ravel(), rw, at.neurons)
        if not known_zero(state.recurrent_current):
            recurrent += p.recurrent_decay.detach() ** at.steps * state.recurrent_current.detach()
    v = at.unpack(u, at.n, at.neurons)
    reset = None if p.reset_decay is None else at.from_rows(J)
    adaptation = None if p.adaptation_decay is None else at.from_rows(A)
    return v, HetSynState(current, recurrent, reset, adaptation, at.from_rows(z), v[-1])


def _end_state(at: Layout, ends: Array, w: Array, width: int) -> Tensor:
    current = np.empty((at.batch, at.neurons, width), at.dtype)
    parallel(k.unpack_state, at.blocks * at.neurons, ends, w, current)
    return torch.from_numpy(current)


def covered(owed_state: HetSynState, wanted: Gradients) -> bool:
    """Does this file compute these gradients? Those of and through whole currents (B, N, M) are left to `eager`."""
    through = (owed_state.current, owed_state.recurrent_current)
    return all(x is None for x in through) and not (wanted.state.current or wanted.state.recurrent_current)


def backward(
    inputs: Tensor,
    p: Terms,
    state: HetSynState,
    v: Tensor,
    owed_spikes: Tensor | None,
    owed_v: Tensor | None,
    owed_state: HetSynState,
    surrogate: Surrogate,
    detach_reset: bool,
    wanted: Gradients,
) -> Gradients:
    """As `eager.backward`, which it calls where a gradient of or through a current (B, N, M) itself is asked for."""
    if not covered(owed_state, wanted):
        return eager.backward(inputs, p, state, v, owed_spikes, owed_v, owed_state, surrogate, detach_reset, wanted)
    at, w = Layout(inputs, p), wanted.terms
    g, first, found = at.pack(owed_v, at.n), dict[str, Any](), dict[str, Any]()
    if p.threshold is not None:
        first, fired = _adjoint(at, g, p, v, owed_spikes, owed_state, surrogate, detach_reset)
        found["threshold"] = fired
        if any((w.threshold, w.reset_decay, w.adaptation_decay, w.adaptation_strength, w.bias)):
            _own_gradients(at, g, p, state, v, owed_state, found)
    elif w.bias:
        found["bias"] = at.unpack(g, at.n, at.neurons).sum((0, 1))
    if w.weight or w.decay or wanted.inputs:
        r = at.matrix(p.decay, at.n, at.m)
    if w.weight or w.decay:
        found["weight"], found["decay"] = _synapses(at, at.pack(inputs, at.m), g, r, p.weight, state.current)
    if p.recurrent_weight is not None and (w.recurrent_weight or w.recurrent_decay):
        before = torch.cat([state.spikes[None].to(v.dtype), (v[:-1] > p.threshold).to(v.dtype)])
        rr = at.matrix(p.recurrent_decay, at.n, at.n)
        found["recurrent_weight"], found["recurrent_decay"] = _synapses(
            at, at.pack(before, at.n), g, rr, p.recurrent_weight, state.recurrent_current
        )
    g_inputs = None
    if wanted.inputs:
        ds, none, nothing = at.empty(at.m), np.empty(1, at.dtype), np.zeros(at.m, at.dtype)
        rT, wT = np.ascontiguousarray(r.T), at.matrix(p.weight, at.m, at.n, transposed=True)
        groups = at.blocks * -(-(at.m // 4) // at.group)
        parallel(k.scan, groups, g, ds, rT, wT, nothing, none, False, at.steps, at.group, True)
        g_inputs = at.unpack(ds, at.m, at.inputs)
    terms = Terms(**{"weight": None, "decay": None, **found})
    return Gradients(g_inputs, terms, HetSynState(first.pop("current", None), **first))


def _adjoint(
    at: Layout,
    g: Array,
    p: Terms,
    v: Tensor,
    owed_spikes: Tensor | None,
    owed_state: HetSynState,
    surrogate: Surrogate,
    detach_reset: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """Turn g from what is owed to v into dLoss/dv; return the first state's gradients and the threshold's part."""
    gz = at.pack(owed_spikes, at.n)
    derivative = at.pack(surrogate.derivative(v - p.threshold, p.threshold), at.n)
    _, kick, *own = _own(at, p)
    if detach_reset:
        kick = np.zeros_like(kick)
    z, J, A = at.rows(None), at.rows(owed_state.reset), at.rows(owed_state.adaptation)
    fired = at.rows(None)
    if p.recurrent_weight is None:
        parallel(k.adjoint, at.blocks * at.n, g, gz, derivative, z, J, A, fired, kick, *own, at.steps)
    else:
        rr, rw = at.matrix(p.recurrent_decay, at.n, at.n), at.matrix(p.recurrent_weight, at.n, at.n)
        a = np.zeros(at.blocks * at.n * at.n * at.lanes, at.dtype)
        parallel(k.adjoint_recurrent, at.blocks, g, gz, derivative, a, z, J, A, fired, kick, *own, rr, rw, at.steps)
    first = {"spikes": at.from_rows(z)}
    if p.reset_decay is not None:
        first["reset"] = at.from_rows(J)
    if p.adaptation_decay is not None:
        first["adaptation"] = at.from_rows(A)
    return first, at.from_rows(fired).sum(0)


def _own_gradients(
    at: Layout, g: Array, p: Terms, state: HetSynState, v: Tensor, owed: HetSynState, found: dict[str, Tensor]
) -> None:
    """Gradients of everything that a neuron has once, into `found`."""
    start = (at.rows(state.spikes), at.rows(state.reset), at.rows(state.adaptation))
    late = (at.rows(owed.reset), at.rows(owed.adaptation))
    out = np.empty((5, at.n), at.dtype)
    parallel(k.own_gradients, at.n, at.pack(v, at.n), g, *start, *late, *_own(at, p), out, at.steps, at.blocks)
    g_kick, g_kappa, g_strength, g_rho, g_bias = torch.from_numpy(out)[:, : at.neurons]
    if p.reset_decay is not None:
        found["threshold"] = found["threshold"] + g_kick
        found["reset_decay"] = g_kappa
    if p.adaptation_decay is not None:
        found["adaptation_strength"], found["adaptation_decay"] = g_strength, g_rho
    found["bias"] = g_bias


def _synapses(at: Layout, s: Array, g: Array, r: Array, weight: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight and decay of synapses with sources s, (N, K)."""
    gw, gr = np.empty_like(r), np.empty_like(r)
    parallel(k.gradients, r.size // 16, s, g, r, gw, gr, at.steps, at.blocks)
    width = weight.shape[1]
    g_weight, g_decay = (torch.from_numpy(x[: at.neurons, :width]) for x in (gw, gr))
    g_decay = g_decay * weight.detach()
    if not known_zero(start):
        extra = np.zeros_like(r)
        parallel(k.free_decay_gradients, at.n, at.currents(start, r.shape[1]), g, r, extra, at.steps, at.blocks)
        g_decay = g_decay + torch.from_numpy(extra[: at.neurons, :width])
    return g_weight, g_decay
