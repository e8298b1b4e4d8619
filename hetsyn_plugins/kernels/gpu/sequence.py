"""The neuron on a GPU: the order of the Triton kernels in `kernels.py`, forward and backward; float32 only.

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

from hetsyn_plugins.core.fields import NEURON_FIELDS, HetSynState
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.eager import spikes_of
from hetsyn_plugins.kernels.gpu import kernels
from hetsyn_plugins.kernels.interface import Gradients, LayerTensors, NeedsGrad, OutputGradients

__all__ = ["backward", "forward", "interpreted", "spikes_of", "trial"]

TILE_I, TILE_J = 16, 128  # a tile of synapses: 16 numbers a thread of a program with 4 warps, three such arrays
TILE_NEURONS, NEURON_WARPS = 64, 2  # neurons of a program without synapses: one a thread
MAX_FUSED_NEURONS = 128  # recurrent neurons whose synapses fit one program's registers: 3 x 128 x 128 numbers of 256 KB
TILE_STEP = 32


def interpreted() -> bool:
    """Do the kernels run in Triton's interpreter, on CPU tensors? That was settled when they were decorated."""
    return not isinstance(kernels.currents_fwd, triton.JITFunction)


def trial() -> None:
    """Run one tiny kernel: raises whatever it is that this machine lacks to compile and start it."""
    x = torch.zeros((1, 1, 1), device="cpu" if interpreted() else "cuda")
    _currents_fwd(x, x[0], x[0], None, needs_final=False)


def _cells(n: int, tile: int) -> int:
    return -(-n // tile)


def _power(n: int) -> int:
    """The power of two from 16 up that holds n."""
    return max(16, 1 << (n - 1).bit_length())


def _currents_fwd(
    s: Tensor, r: Tensor, w: Tensor, initial: Tensor | None, needs_final: bool, reverse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """u (T, B, N) of synapses r, w (N, K) with sources s (T, B, K), and their last currents."""
    steps, batch, m = s.shape
    n = len(r)
    tiles = _cells(m, TILE_J)
    u, final = s.new_empty((tiles, steps, batch, n)), s.new_empty((batch, n, m)) if needs_final else None
    nothing = s.new_empty(1)
    kernels.currents_fwd[(batch, _cells(n, TILE_I), tiles)](
        s.contiguous(),
        u,
        r.contiguous(),
        w.contiguous(),
        nothing if initial is None else initial.contiguous(),
        nothing if final is None else final,
        steps,
        batch,
        m,
        n,
        REVERSE=reverse,
        HAS_INITIAL=initial is not None,
        NEEDS_FINAL=needs_final,
        BI=TILE_I,
        BJ=TILE_J,
    )
    return (u[0] if tiles == 1 else u.sum(0)), final


def _soma(layer: LayerTensors, size: int | None = None) -> tuple[Tensor, ...]:
    """theta, reset_strength, kappa, adaptation_strength, rho, each (N,) or padded to `size`; 0 where there is none."""
    nothing = layer.weight.new_zeros(len(layer.weight))
    theta = nothing + 1 if layer.threshold is None else layer.threshold
    reset_strength = nothing if layer.reset_decay is None else theta
    others = (layer.reset_decay, layer.adaptation_strength, layer.adaptation_decay)
    constants = (theta, reset_strength, *(nothing if x is None else x for x in others))
    return tuple(_padded(x.contiguous(), len(nothing) if size is None else size) for x in constants)


def _padded(x: Tensor, size: int) -> Tensor:
    """x with every dimension but that of a batch padded with zeros to `size`: (N,), (N, N) or (B, N, N)."""
    missing = size - x.shape[-1]
    return torch.nn.functional.pad(x, (0, missing) * min(x.ndim, 2)).contiguous()


def _dense(x: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The contiguous values of a state; None: zeros."""
    return like.new_zeros(shape) if x is None else x.detach().contiguous()


def _fused(n: int) -> dict[str, int]:
    """How a program with all recurrent synapses of n neurons is compiled: as many warps as need no spills."""
    size = _power(n)
    return {"NP": size, "num_warps": 8 if size > 64 else 4}


def forward(inputs: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, HetSynState]:
    """See `Kernel.forward`."""
    if inputs.shape[1] == 0:  # no program to start
        return eager.forward(inputs, layer, state)
    inputs, layer, state = _not_counted(inputs, layer, state)
    with _on(inputs):
        u, current = _currents_fwd(inputs, layer.decay, layer.weight, state.current, needs_final=True)
        if layer.bias is not None:
            u += layer.bias
        if layer.threshold is None:
            return u, HetSynState(current, v=u[-1])
        v, (z, J, A), recurrent = _neurons_fwd(u, layer, state)
    reset = None if layer.reset_decay is None else J
    adaptation = None if layer.adaptation_decay is None else A
    return v, HetSynState(current, recurrent, reset, adaptation, z, v[-1])


def _not_counted(inputs: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, LayerTensors, HetSynState]:
    """The same memory; in the interpreter, which copies every argument back, without torch counting that as writing."""
    if not interpreted():
        return inputs, layer, state
    fields, parts = ([None if t is None else t.data for t in tensors] for tensors in (layer, state))
    return inputs.data, LayerTensors(*fields), HetSynState(*parts)  # type: ignore[arg-type]  # has a weight


def _on(x: Tensor) -> Any:
    """Kernels start on the current device, which need not be the tensors'."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _neurons_fwd(u: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
    """v of u, the last z, J, A, and the last recurrent currents."""
    steps, batch, n = u.shape
    v = torch.empty_like(u)
    initial = [_dense(x, u, (batch, n)) for x in (state.spikes, state.reset, state.adaptation)]
    final = [torch.empty_like(x) for x in initial]
    if layer.recurrent_weight is None or layer.recurrent_decay is None:
        grid, sizes = (batch, _cells(n, TILE_NEURONS)), (steps, batch, n)
        kernels.neurons_fwd[grid](
            u, v, *initial, *final, *_soma(layer), *sizes, BI=TILE_NEURONS, num_warps=NEURON_WARPS
        )
        return v, final, None
    L = _dense(state.recurrent_current, u, (batch, n, n))
    if n <= MAX_FUSED_NEURONS:
        size = _power(n)
        matrices = [_padded(x.transpose(-1, -2), size) for x in (L, layer.recurrent_decay, layer.recurrent_weight)]
        last_L = torch.empty_like(matrices[0])
        arrays = (u, v, *initial, *final, *_soma(layer, size), matrices[0], last_L, *matrices[1:])
        kernels.recurrent_fwd[(batch,)](*arrays, steps, batch, n, **_fused(n))
        return v, final, last_L[:, :n, :n].transpose(1, 2).contiguous()
    before, after = [*initial, L], [*final, torch.empty_like(L)]
    soma, synapses = _soma(layer), (layer.recurrent_decay.contiguous(), layer.recurrent_weight.contiguous())
    grid = (batch, _cells(n, TILE_STEP))
    for t in range(steps):
        states = (*before[:3], *after[:3], *soma, before[3], after[3])
        kernels.recurrent_step_fwd[grid](u, v, *states, *synapses, t, batch, n, BI=TILE_STEP, BK=TILE_STEP)
        if t == 0:  # the arguments stay as they were
            before = [torch.empty_like(x) for x in before]
        before, after = after, before
    return v, before[:3], before[3]


# ---- backward -----------------------------------------------------------------------------------------------------


def backward(
    inputs: Tensor,
    layer: LayerTensors,
    state: HetSynState,
    v: Tensor,
    output_gradients: OutputGradients,
    surrogate: Surrogate,
    detach_reset: bool,
    needs_grad: NeedsGrad,
) -> Gradients:
    """See `Kernel.backward`."""
    if inputs.shape[1] == 0:
        return eager.backward(inputs, layer, state, v, output_gradients, surrogate, detach_reset, needs_grad)
    inputs, layer, state = _not_counted(inputs, layer, state)
    need, grad_state = needs_grad, output_gradients.state
    g = _dense(output_gradients.v, v, v.shape)
    grads_initial, grads = dict[str, Any](), dict[str, Any]()
    with _on(inputs):
        if layer.threshold is not None:
            d = surrogate.derivative(v - layer.threshold, layer.threshold).contiguous()
            g, grads_initial, grads["threshold"] = _neurons_bwd(g, d, layer, output_gradients, detach_reset)
        if any(getattr(need, name) for name in NEURON_FIELDS):
            grads |= _soma_gradients(g, layer, state, v, grad_state, grads.get("threshold"))
        if need.weight or need.decay or need.current:
            synapses, ends = (layer.decay, layer.weight), (state.current, grad_state.current)
            g_weight, g_decay, g_initial = _synapses_bwd(g, inputs, synapses, ends, need.current)
            grads["weight"], grads["decay"], grads_initial["current"] = g_weight, g_decay, g_initial
        of_recurrent = need.recurrent_weight or need.recurrent_decay or need.recurrent_current
        if of_recurrent and layer.recurrent_weight is not None and layer.threshold is not None:
            z_prev = torch.cat([state.spikes[None].to(v.dtype), spikes_of(v[:-1], layer.threshold)])
            recurrent, ends = (
                (layer.recurrent_decay, layer.recurrent_weight),
                (state.recurrent_current, grad_state.recurrent_current),
            )
            g_weight, g_decay, g_initial = _synapses_bwd(g, z_prev, recurrent, ends, need.recurrent_current)
            grads["recurrent_weight"], grads["recurrent_decay"] = g_weight, g_decay
            grads_initial["recurrent_current"] = g_initial
        g_inputs = None
        if need.inputs:
            from_final = None if grad_state.current is None else (layer.weight * grad_state.current).transpose(1, 2)
            g_inputs, _ = _currents_fwd(g, layer.decay.T, layer.weight.T, from_final, needs_final=False, reverse=True)
    return Gradients(g_inputs, grads, HetSynState(grads_initial.pop("current", None), **grads_initial))


def _neurons_bwd(
    grad_v: Tensor, d: Tensor, layer: LayerTensors, output_gradients: OutputGradients, detach_reset: bool
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """dLoss/dv, the first state's gradients, and the threshold's part; d is the surrogate's derivative."""
    steps, batch, n = d.shape
    g, grad_state = torch.empty_like(d), output_gradients.state
    sequences = (grad_v, _dense(output_gradients.spikes, d, d.shape), d, g)
    final = [_dense(x, d, (batch, n)) for x in (grad_state.reset, grad_state.adaptation)]
    z, J, A, grad_threshold = (torch.empty_like(final[0]) for _ in range(4))

    def soma(size: int) -> tuple[Tensor, ...]:
        _, reset_strength, *decays = _soma(layer, size)
        return (torch.zeros_like(reset_strength) if detach_reset else reset_strength, *decays)

    states = (z, *final, J, A, grad_threshold)
    if layer.recurrent_weight is None or layer.recurrent_decay is None:
        grid, sizes = (batch, _cells(n, TILE_NEURONS)), (steps, batch, n)
        kernels.neurons_bwd[grid](*sequences, *states, *soma(n), *sizes, BI=TILE_NEURONS, num_warps=NEURON_WARPS)
    else:
        grad_final = grad_state.recurrent_current
        c = d.new_zeros((batch, n, n)) if grad_final is None else layer.recurrent_weight * grad_final
        synapses = [c, layer.recurrent_decay, layer.recurrent_weight]
        if n <= MAX_FUSED_NEURONS:
            size = _power(n)
            padded = [_padded(x, size) for x in synapses]
            kernels.recurrent_bwd[(batch,)](*sequences, *states, *soma(size), *padded, steps, batch, n, **_fused(n))
        else:
            synapses = [x.contiguous() for x in synapses]
            J, A, grad_threshold = _recurrent_steps_bwd(sequences, z, final, soma(n), synapses)
    grads_initial = {"spikes": z}
    if layer.reset_decay is not None:
        grads_initial["reset"] = J
    if layer.adaptation_decay is not None:
        grads_initial["adaptation"] = A
    return g, grads_initial, grad_threshold.sum(0)


def _recurrent_steps_bwd(
    sequences: tuple[Tensor, ...], z: Tensor, final: list[Tensor], soma: tuple[Tensor, ...], synapses: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """`recurrent_bwd` for any N, a launch a step; returns the first J and A, and `grad_threshold`."""
    grad_v, grad_spikes, d, g = sequences
    steps, batch, n = g.shape
    grad_z_d = grad_spikes[-1] * d[-1]  # nothing later depends on the last spikes
    torch.add(grad_v[-1], grad_z_d, out=g[-1])
    c, *matrices = synapses
    before = [*final, -grad_z_d, c]
    after = [torch.empty_like(x) for x in before]
    for t in reversed(range(steps)):
        states = (z, *before[:2], *after[:2], before[2], after[2], *soma, before[3], after[3], *matrices)
        tiles = {"BI": TILE_STEP, "BK": TILE_STEP, "FIRST": t == 0}
        kernels.recurrent_step_bwd[(batch, _cells(n, TILE_STEP))](*sequences, *states, t, batch, n, **tiles)
        if t == steps - 1:  # the arguments stay as they were
            before = [torch.empty_like(x) for x in before]
        before, after = after, before
    return before[0], before[1], before[2]


def _soma_gradients(
    g: Tensor,
    layer: LayerTensors,
    state: HetSynState,
    v: Tensor,
    grad_state: HetSynState,
    through_z: Tensor | None,
) -> dict[str, Tensor]:
    """Gradients of everything that a neuron has once; `through_z` is the threshold's by way of the spikes."""
    steps, batch, n = v.shape
    ends = (state.spikes, state.reset, state.adaptation, grad_state.reset, grad_state.adaptation)
    out = v.new_empty((5, batch, n))
    arrays = (v.contiguous(), g, *(_dense(x, v, (batch, n)) for x in ends), *_soma(layer), out)
    grid = (batch, _cells(n, TILE_NEURONS))
    kernels.soma_parameters_bwd[grid](*arrays, steps, batch, n, BI=TILE_NEURONS, num_warps=NEURON_WARPS)
    g_reset, g_kappa, g_adapt, g_rho, g_bias = out.sum(1)
    grads = {"bias": g_bias}
    if layer.reset_decay is not None and through_z is not None:
        grads["threshold"], grads["reset_decay"] = through_z + g_reset, g_kappa
    if layer.adaptation_decay is not None:
        grads["adaptation_strength"], grads["adaptation_decay"] = g_adapt, g_rho
    return grads


def _synapses_bwd(
    g: Tensor,
    s: Tensor,
    synapses: tuple[Any, Tensor],
    ends: tuple[Tensor | None, Tensor | None],
    needs_initial: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of weight and decay (N, K) and of the first currents (B, N, K), for sources s (T, B, K).

    synapses  decay and weight         ends  the first currents, and the gradients of the last
    """
    (decay, weight), (initial, grad_final) = synapses, ends
    steps, batch, m = s.shape
    n = len(weight)
    gw, gr = g.new_empty((batch, n, m)), g.new_empty((batch, n, m))
    grad_initial = g.new_empty((batch, n, m)) if needs_initial else None
    nothing = g.new_empty(1)
    kernels.synapses_bwd[(batch, _cells(n, TILE_I), _cells(m, TILE_J))](
        s.contiguous(),
        g,
        decay.contiguous(),
        weight.contiguous(),
        nothing if initial is None else initial.contiguous(),
        nothing if grad_final is None else grad_final.contiguous(),
        gw,
        gr,
        nothing if grad_initial is None else grad_initial,
        steps,
        batch,
        m,
        n,
        HAS_INITIAL=initial is not None,
        HAS_GRAD_FINAL=grad_final is not None,
        NEEDS_INITIAL=needs_initial,
        BI=TILE_I,
        BJ=TILE_J,
    )
    return gw.sum(0), gr.sum(0), grad_initial
