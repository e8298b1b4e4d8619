"""The neuron on a GPU: the order of the Triton kernels in `gpu_kernels.py`, forward and backward; float32 only.

Memory is that of `eager` plus the scans' parts, T B N numbers for each tile of sources (`TILE_J`). Every sum is made in
one fixed order: two runs give the same bits. With TRITON_INTERPRET=1 the same code runs on CPU tensors, for tests.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels import gpu_kernels as k
from hetsyn_plugins.kernels.eager import Gradients, Terms, fire
from hetsyn_plugins.params import HetSynState
from hetsyn_plugins.surrogate import Surrogate

__all__ = ["backward", "fire", "forward", "interpreted"]

TILE_I, TILE_J = 16, 128  # a tile of synapses: 16 numbers a thread of a program with 4 warps, three such arrays
TILE_OWN = 64  # neurons of a program without synapses
WHOLE = 128  # recurrent neurons whose synapses fit one program's registers: 3 x 128 x 128 numbers of 256 KB
TILE_STEP = 32


def interpreted() -> bool:
    """Do the kernels run in Triton's interpreter, on CPU tensors? (Asked of Triton when they were decorated.)"""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _cells(n: int, tile: int) -> int:
    return -(-n // tile)


def _power(n: int) -> int:
    """The power of two from 16 up that holds n."""
    return max(16, 1 << (n - 1).bit_length())


def _scan(
    s: Tensor, r: Tensor, w: Tensor, start: Tensor | None, want_last: bool, reverse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """u (T, B, N) of synapses r, w (N, K) with sources s (T, B, K), and their last currents."""
    steps, batch, m = s.shape
    n = len(r)
    tiles = _cells(m, TILE_J)
    u, last = s.new_empty((tiles, steps, batch, n)), s.new_empty((batch, n, m)) if want_last else None
    nothing = s.new_empty(1)
    k.scan[(batch, _cells(n, TILE_I), tiles)](
        s.contiguous(),
        u,
        r.contiguous(),
        w.contiguous(),
        nothing if start is None else start.contiguous(),
        nothing if last is None else last,
        steps,
        batch,
        m,
        n,
        REVERSE=reverse,
        HAS_START=start is not None,
        WANT_LAST=want_last,
        BI=TILE_I,
        BJ=TILE_J,
    )
    return (u[0] if tiles == 1 else u.sum(0)), last


def _own(p: Terms) -> tuple[Tensor, ...]:
    """threshold, kick, kappa, strength, rho, each (N,); a part that the layer lacks has coefficients 0."""
    nothing = p.weight.new_zeros(len(p.weight))
    theta = nothing + 1 if p.threshold is None else p.threshold
    kick = nothing if p.reset_decay is None else theta
    rest = (p.reset_decay, p.adaptation_strength, p.adaptation_decay)
    return tuple(x.contiguous() for x in (theta, kick, *(nothing if x is None else x for x in rest)))


def _copy(x: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A contiguous copy that a kernel may overwrite; None: zeros."""
    return like.new_zeros(shape) if x is None else x.detach().clone(memory_format=torch.contiguous_format)


def forward(inputs: Tensor, p: Terms, state: HetSynState, surrogate: Surrogate) -> tuple[Tensor, HetSynState]:
    """As `eager.forward`: v (T, B, N) and the state after the last step."""
    steps, batch, _ = inputs.shape
    if batch == 0:  # no program to start
        return eager.forward(inputs, p, state, surrogate)
    n = len(p.weight)
    u, current = _scan(inputs, p.decay, p.weight, state.current, want_last=True)
    if p.bias is not None:
        u += p.bias
    if p.threshold is None:
        return u, HetSynState(current, v=u[-1])
    z, J, A = (_copy(x, u, (batch, n)) for x in (state.spikes, state.reset, state.adaptation))
    own, recurrent = _own(p), None
    if p.recurrent_weight is None or p.recurrent_decay is None:
        k.fire[(batch, _cells(n, TILE_OWN))](u, z, J, A, *own, steps, batch, n, BI=TILE_OWN)
    else:
        recurrent = _copy(state.recurrent_current, u, (batch, n, n))
        synapses = (p.recurrent_decay.contiguous(), p.recurrent_weight.contiguous())
        if n <= WHOLE:
            size = _power(n)
            options = {"num_warps": 8 if size > 64 else 4}
            k.fire_recurrent[(batch,)](u, recurrent, z, J, A, *own, *synapses, steps, batch, n, NP=size, **options)
        else:
            for t in range(steps):
                z_new = torch.empty_like(z)
                k.fire_step[(batch, _cells(n, TILE_STEP))](
                    u, recurrent, z, z_new, J, A, *own, *synapses, t, batch, n, BI=TILE_STEP, BK=TILE_STEP
                )
                z = z_new
    reset = None if p.reset_decay is None else J
    adaptation = None if p.adaptation_decay is None else A
    return u, HetSynState(current, recurrent, reset, adaptation, z, u[-1])


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
    """As `eager.backward`."""
    if inputs.shape[1] == 0:
        return eager.backward(inputs, p, state, v, owed_spikes, owed_v, owed_state, surrogate, detach_reset, wanted)
    w = wanted.terms
    g = torch.zeros_like(v) if owed_v is None else owed_v.clone(memory_format=torch.contiguous_format)
    first, found = dict[str, Any](), dict[str, Any]()
    if p.threshold is not None:
        first, found["threshold"] = _adjoint(g, p, v, owed_spikes, owed_state, surrogate, detach_reset)
    if any((w.threshold, w.reset_decay, w.adaptation_decay, w.adaptation_strength, w.bias)):
        _own_gradients(g, p, state, v, owed_state, found)
    if w.weight or w.decay or wanted.state.current:
        feed = (inputs, p.decay, p.weight, state.current, owed_state.current)
        found["weight"], found["decay"], first["current"] = _synapses(g, *feed, bool(wanted.state.current))
    of_loop = w.recurrent_weight or w.recurrent_decay or wanted.state.recurrent_current
    if p.recurrent_weight is not None and p.threshold is not None and of_loop:
        before = torch.cat([state.spikes[None].to(v.dtype), fire(v[:-1], p.threshold)])
        loop = (before, p.recurrent_decay, p.recurrent_weight, state.recurrent_current, owed_state.recurrent_current)
        weight, decay, current = _synapses(g, *loop, bool(wanted.state.recurrent_current))
        found["recurrent_weight"], found["recurrent_decay"], first["recurrent_current"] = weight, decay, current
    g_inputs = None
    if wanted.inputs:
        late = None if owed_state.current is None else (p.weight * owed_state.current).transpose(1, 2)
        g_inputs, _ = _scan(g, p.decay.T, p.weight.T, late, want_last=False, reverse=True)
    terms = Terms(**{"weight": None, "decay": None, **found})
    return Gradients(g_inputs, terms, HetSynState(first.pop("current", None), **first))


def _adjoint(
    g: Tensor,
    p: Terms,
    v: Tensor,
    owed_spikes: Tensor | None,
    owed_state: HetSynState,
    surrogate: Surrogate,
    detach_reset: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """Turn g from what is owed to v into dLoss/dv; return the first state's gradients and the threshold's part."""
    steps, batch, n = v.shape
    gz = torch.zeros_like(v) if owed_spikes is None else owed_spikes.contiguous()
    d = surrogate.derivative(v - p.threshold, p.threshold).contiguous()
    _, kick, *rest = _own(p)
    own = (torch.zeros_like(kick) if detach_reset else kick, *rest)
    z, fired = v.new_zeros((batch, n)), v.new_zeros((batch, n))
    J, A = (_copy(x, v, (batch, n)) for x in (owed_state.reset, owed_state.adaptation))
    if p.recurrent_weight is None or p.recurrent_decay is None:
        k.adjoint[(batch, _cells(n, TILE_OWN))](g, gz, d, z, J, A, fired, *own, steps, batch, n, BI=TILE_OWN)
    else:
        owed = owed_state.recurrent_current
        c = v.new_zeros((batch, n, n)) if owed is None else (p.recurrent_weight * owed).contiguous()
        synapses = (p.recurrent_decay.contiguous(), p.recurrent_weight.contiguous())
        if n <= WHOLE:
            size = _power(n)
            options = {"num_warps": 8 if size > 64 else 4}
            k.adjoint_recurrent[(batch,)](
                g, gz, d, c, z, J, A, fired, *own, *synapses, steps, batch, n, NP=size, **options
            )
        else:
            through = gz[-1] * d[-1]
            g[-1] += through
            fired -= through
            for t in reversed(range(steps)):
                k.adjoint_step[(batch, _cells(n, TILE_STEP))](
                    g,
                    gz,
                    d,
                    c,
                    z,
                    J,
                    A,
                    fired,
                    *own,
                    *synapses,
                    t,
                    batch,
                    n,
                    BI=TILE_STEP,
                    BK=TILE_STEP,
                    FIRST=t == 0,
                    LAST=t == steps - 1,
                )
    first = {"spikes": z}
    if p.reset_decay is not None:
        first["reset"] = J
    if p.adaptation_decay is not None:
        first["adaptation"] = A
    return first, fired.sum(0)


def _own_gradients(
    g: Tensor, p: Terms, state: HetSynState, v: Tensor, owed: HetSynState, found: dict[str, Tensor]
) -> None:
    """Gradients of everything that a neuron has once, into `found`."""
    steps, batch, n = v.shape
    given = (state.spikes, state.reset, state.adaptation, owed.reset, owed.adaptation)
    states = [_copy(x, v, (batch, n)) for x in given]
    out = v.new_empty((5, batch, n))
    grid = (batch, _cells(n, TILE_OWN))
    k.own_gradients[grid](v.contiguous(), g, *states, *_own(p), out, steps, batch, n, BI=TILE_OWN)
    g_kick, g_kappa, g_strength, g_rho, g_bias = out.sum(1)
    if p.reset_decay is not None:
        found["threshold"] = found["threshold"] + g_kick
        found["reset_decay"] = g_kappa
    if p.adaptation_decay is not None:
        found["adaptation_strength"], found["adaptation_decay"] = g_strength, g_rho
    found["bias"] = g_bias


def _synapses(
    g: Tensor, s: Tensor, decay: Any, weight: Tensor, start: Tensor | None, owed: Tensor | None, want_first: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of weight and decay (N, K) and of the first currents (B, N, K), for sources s (T, B, K)."""
    steps, batch, m = s.shape
    n = len(weight)
    gw, gr = g.new_empty((batch, n, m)), g.new_empty((batch, n, m))
    first = g.new_empty((batch, n, m)) if want_first else None
    nothing = g.new_empty(1)
    k.gradients[(batch, _cells(n, TILE_I), _cells(m, TILE_J))](
        s.contiguous(),
        g,
        decay.contiguous(),
        weight.contiguous(),
        nothing if start is None else start.contiguous(),
        nothing if owed is None else owed.contiguous(),
        gw,
        gr,
        nothing if first is None else first,
        steps,
        batch,
        m,
        n,
        HAS_START=start is not None,
        HAS_OWED=owed is not None,
        WANT_FIRST=want_first,
        BI=TILE_I,
        BJ=TILE_J,
    )
    return gw.sum(0), gr.sum(0), first
