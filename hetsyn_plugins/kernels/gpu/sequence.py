"""The neuron on a GPU: the order of the Triton kernels in `gpu_kernels.py`, forward and backward; float32 only.

Memory is that of `eager` plus the scans' parts, T B N numbers for each tile of sources (`TILE_J`). Every sum is made in
one fixed order: two runs give the same bits. With TRITON_INTERPRET=1 the same code runs on CPU tensors, for tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.eager import fire
from hetsyn_plugins.kernels.gpu import kernels as k
from hetsyn_plugins.kernels.interface import Gradients, LayerTensors

__all__ = ["backward", "fire", "forward", "interpreted", "trial"]

TILE_I, TILE_J = 16, 128  # a tile of synapses: 16 numbers a thread of a program with 4 warps, three such arrays
TILE_OWN, OWN_WARPS = 64, 2  # neurons of a program without synapses: one a thread
WHOLE = 128  # recurrent neurons whose synapses fit one program's registers: 3 x 128 x 128 numbers of 256 KB
TILE_STEP = 32


def interpreted() -> bool:
    """Do the kernels run in Triton's interpreter, on CPU tensors? That was settled when they were decorated."""
    return not isinstance(k.scan, triton.JITFunction)


def trial() -> None:
    """Run one tiny kernel: raises whatever it is that this machine lacks to compile and start it."""
    x = torch.zeros((1, 1, 1), device="cpu" if interpreted() else "cuda")
    _scan(x, x[0], x[0], None, want_last=False)


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


def _own(p: LayerTensors, size: int | None = None) -> tuple[Tensor, ...]:
    """threshold, reset_strength, kappa, strength, rho, each (N,), or padded to `size`; 0 for what the layer lacks."""
    nothing = p.weight.new_zeros(len(p.weight))
    theta = nothing + 1 if p.threshold is None else p.threshold
    reset_strength = nothing if p.reset_decay is None else theta
    rest = (p.reset_decay, p.adaptation_strength, p.adaptation_decay)
    own = (theta, reset_strength, *(nothing if x is None else x for x in rest))
    return tuple(_padded(x.contiguous(), len(nothing) if size is None else size) for x in own)


def _padded(x: Tensor, size: int) -> Tensor:
    """x with every dimension but that of a batch padded with zeros to `size`: (N,), (N, N) or (B, N, N)."""
    missing = size - x.shape[-1]
    return torch.nn.functional.pad(x, (0, missing) * min(x.ndim, 2)).contiguous()


def _dense(x: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The contiguous values of a state; None: zeros."""
    return like.new_zeros(shape) if x is None else x.detach().contiguous()


def _whole(n: int) -> dict[str, int]:
    """How a program with all recurrent synapses of up to WHOLE neurons is compiled: as many warps as need no spills."""
    size = _power(n)
    return {"NP": size, "num_warps": 8 if size > 64 else 4}


def forward(inputs: Tensor, p: LayerTensors, state: HetSynState, surrogate: Surrogate) -> tuple[Tensor, HetSynState]:
    """As `eager.forward`: v (T, B, N) and the state after the last step."""
    if inputs.shape[1] == 0:  # no program to start
        return eager.forward(inputs, p, state, surrogate)
    with _on(inputs):
        u, current = _scan(inputs, p.decay, p.weight, state.current, want_last=True)
        if p.bias is not None:
            u += p.bias
        if p.threshold is None:
            return u, HetSynState(current, v=u[-1])
        v, (z, J, A), recurrent = _fire(u, p, state)
    reset = None if p.reset_decay is None else J
    adaptation = None if p.adaptation_decay is None else A
    return v, HetSynState(current, recurrent, reset, adaptation, z, v[-1])


def _on(x: Tensor) -> Any:
    """Kernels start on the current device, which need not be the tensors'."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _fire(u: Tensor, p: LayerTensors, state: HetSynState) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
    """v of u, the last z, J, A, and the last recurrent currents."""
    steps, batch, n = u.shape
    v = torch.empty_like(u)
    first = [_dense(x, u, (batch, n)) for x in (state.spikes, state.reset, state.adaptation)]
    last = [torch.empty_like(x) for x in first]
    if p.recurrent_weight is None or p.recurrent_decay is None:
        grid = (batch, _cells(n, TILE_OWN))
        k.fire[grid](u, v, *first, *last, *_own(p), steps, batch, n, BI=TILE_OWN, num_warps=OWN_WARPS)
        return v, last, None
    L = _dense(state.recurrent_current, u, (batch, n, n))
    if n <= WHOLE:
        size = _power(n)
        matrices = [_padded(x.transpose(-1, -2), size) for x in (L, p.recurrent_decay, p.recurrent_weight)]
        end = torch.empty_like(matrices[0])
        synapses = (matrices[0], end, *matrices[1:])
        k.fire_recurrent[(batch,)](u, v, *first, *last, *_own(p, size), *synapses, steps, batch, n, **_whole(n))
        return v, last, end[:, :n, :n].transpose(1, 2).contiguous()
    before, after = [*first, L], [*last, torch.empty_like(L)]
    own, synapses = _own(p), (p.recurrent_decay.contiguous(), p.recurrent_weight.contiguous())
    grid = (batch, _cells(n, TILE_STEP))
    for t in range(steps):
        states = (*before[:3], *after[:3], *own, before[3], after[3])
        k.fire_step[grid](u, v, *states, *synapses, t, batch, n, BI=TILE_STEP, BK=TILE_STEP)
        if t == 0:  # what was given stays as it was
            before = [torch.empty_like(x) for x in before]
        before, after = after, before
    return v, before[:3], before[3]


def backward(
    inputs: Tensor,
    p: LayerTensors,
    state: HetSynState,
    v: Tensor,
    grad_spikes: Tensor | None,
    grad_v: Tensor | None,
    grad_state: HetSynState,
    surrogate: Surrogate,
    detach_reset: bool,
    needs_grad: Gradients,
) -> Gradients:
    """As `eager.backward`."""
    if inputs.shape[1] == 0:
        return eager.backward(inputs, p, state, v, grad_spikes, grad_v, grad_state, surrogate, detach_reset, needs_grad)
    w = needs_grad.terms
    g = _dense(grad_v, v, v.shape)
    first, found = dict[str, Any](), dict[str, Any]()
    with _on(inputs):
        if p.threshold is not None:
            g, first, found["threshold"] = _adjoint(g, p, v, grad_spikes, grad_state, surrogate, detach_reset)
        if any((w.threshold, w.reset_decay, w.adaptation_decay, w.adaptation_strength, w.bias)):
            _own_gradients(g, p, state, v, grad_state, found)
        if w.weight or w.decay or needs_grad.state.current:
            feed = (inputs, p.decay, p.weight, state.current, grad_state.current)
            found["weight"], found["decay"], first["current"] = _synapses(g, *feed, bool(needs_grad.state.current))
        of_loop = w.recurrent_weight or w.recurrent_decay or needs_grad.state.recurrent_current
        if p.recurrent_weight is not None and p.threshold is not None and of_loop:
            before = torch.cat([state.spikes[None].to(v.dtype), fire(v[:-1], p.threshold)])
            loop = (before, p.recurrent_decay, p.recurrent_weight, state.recurrent_current)
            weight, decay, current = _synapses(
                g, *loop, grad_state.recurrent_current, bool(needs_grad.state.recurrent_current)
            )
            found["recurrent_weight"], found["recurrent_decay"], first["recurrent_current"] = weight, decay, current
        g_inputs = None
        if needs_grad.inputs:
            late = None if grad_state.current is None else (p.weight * grad_state.current).transpose(1, 2)
            g_inputs, _ = _scan(g, p.decay.T, p.weight.T, late, want_last=False, reverse=True)
    terms = LayerTensors(**{"weight": None, "decay": None, **found})
    return Gradients(g_inputs, terms, HetSynState(first.pop("current", None), **first))


def _adjoint(
    grad_v: Tensor,
    p: LayerTensors,
    v: Tensor,
    grad_spikes: Tensor | None,
    grad_state: HetSynState,
    surrogate: Surrogate,
    detach_reset: bool,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """dLoss/dv, the first state's gradients, and the threshold's part."""
    steps, batch, n = v.shape
    d = surrogate.derivative(v - p.threshold, p.threshold).contiguous()
    g = torch.empty_like(d)
    sequences = (grad_v, _dense(grad_spikes, v, v.shape), d, g)
    last = [_dense(x, v, (batch, n)) for x in (grad_state.reset, grad_state.adaptation)]
    z, J, A, fired = (torch.empty_like(last[0]) for _ in range(4))

    def own(size: int) -> tuple[Tensor, ...]:
        _, reset_strength, *rest = _own(p, size)
        return (torch.zeros_like(reset_strength) if detach_reset else reset_strength, *rest)

    if p.recurrent_weight is None or p.recurrent_decay is None:
        grid, states = (batch, _cells(n, TILE_OWN)), (z, *last, J, A, fired)
        k.adjoint[grid](*sequences, *states, *own(n), steps, batch, n, BI=TILE_OWN, num_warps=OWN_WARPS)
    else:
        owed = grad_state.recurrent_current
        c = v.new_zeros((batch, n, n)) if owed is None else p.recurrent_weight * owed
        synapses = [c, p.recurrent_decay, p.recurrent_weight]
        if n <= WHOLE:
            size = _power(n)
            padded = [_padded(x, size) for x in synapses]
            states = (z, *last, J, A, fired)
            k.adjoint_recurrent[(batch,)](*sequences, *states, *own(size), *padded, steps, batch, n, **_whole(n))
        else:
            J, A, fired = _adjoint_steps(sequences, z, last, own(n), [x.contiguous() for x in synapses])
    first = {"spikes": z}
    if p.reset_decay is not None:
        first["reset"] = J
    if p.adaptation_decay is not None:
        first["adaptation"] = A
    return g, first, fired.sum(0)


def _adjoint_steps(
    sequences: tuple[Tensor, ...], z: Tensor, last: list[Tensor], own: tuple[Tensor, ...], synapses: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """`adjoint_recurrent` for any N, a launch a step; returns the first J and A, and `fired`."""
    grad_v, grad_spikes, d, g = sequences
    steps, batch, n = g.shape
    through = grad_spikes[-1] * d[-1]  # nothing later owes the last spikes anything
    torch.add(grad_v[-1], through, out=g[-1])
    c, *matrices = synapses
    before = [*last, -through, c]
    after = [torch.empty_like(x) for x in before]
    for t in reversed(range(steps)):
        states = (z, *before[:2], *after[:2], before[2], after[2], *own, before[3], after[3], *matrices)
        tiles = {"BI": TILE_STEP, "BK": TILE_STEP, "FIRST": t == 0}
        k.adjoint_step[(batch, _cells(n, TILE_STEP))](*sequences, *states, t, batch, n, **tiles)
        if t == steps - 1:  # what was given stays as it was
            before = [torch.empty_like(x) for x in before]
        before, after = after, before
    return before[0], before[1], before[2]


def _own_gradients(
    g: Tensor, p: LayerTensors, state: HetSynState, v: Tensor, owed: HetSynState, found: dict[str, Tensor]
) -> None:
    """Gradients of everything that a neuron has once, into `found`."""
    steps, batch, n = v.shape
    given = (state.spikes, state.reset, state.adaptation, owed.reset, owed.adaptation)
    states = [_dense(x, v, (batch, n)) for x in given]
    out = v.new_empty((5, batch, n))
    grid = (batch, _cells(n, TILE_OWN))
    k.own_gradients[grid](v.contiguous(), g, *states, *_own(p), out, steps, batch, n, BI=TILE_OWN, num_warps=OWN_WARPS)
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
