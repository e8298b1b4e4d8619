"""The neuron on a GPU: the order of the Triton kernels beside this file, forward and backward; float32 only.

Memory is O(B T (N + M)), with the last currents, and the parts and groups of `synapses.py` on top. Every sum is made in
one fixed order: two runs give the same bits. Nothing is read back to the host: a step can be captured in a CUDA graph.
Sums are Triton's or torch's, never a matrix product, so that no setting of TF32 reaches them. With TRITON_INTERPRET=1
the same code runs on CPU tensors, for tests.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from hetsyn_plugins.core.fields import NEURON_FIELDS, HetSynState
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.eager import spikes_of
from hetsyn_plugins.kernels.gpu import kernels, neurons, recurrent, synapses
from hetsyn_plugins.kernels.gpu.launch import INTERPRETED, cells
from hetsyn_plugins.kernels.interface import Gradients, LayerTensors, NeedsGrad, OutputGradients
from hetsyn_plugins.kernels.zeros import is_zero

__all__ = ["backward", "forward", "interpreted", "spikes_of", "trial"]

TILE_STEP = 32


def interpreted() -> bool:
    """Do the kernels run in Triton's interpreter, on CPU tensors?"""
    return INTERPRETED


def trial() -> None:
    """Run one tiny kernel: raises whatever it is that this machine lacks to compile and start it."""
    x = torch.zeros((1, 1, 1), device="cpu" if interpreted() else "cuda")
    synapses.currents(x, x[0], x[0], None, None, None)


def forward(inputs: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, HetSynState]:
    """See `Kernel.forward`."""
    if inputs.shape[1] == 0:  # no program to start
        return eager.forward(inputs, layer, state)
    inputs, layer, state = _not_counted(inputs, layer, state)
    initial = None if is_zero(state.current) else state.current
    with _on(inputs):
        current = synapses.states(inputs, inputs.shape[1], *layer.weight.shape)
        matrices = synapses.transposed(layer.decay, layer.weight)
        u = synapses.currents(inputs, *matrices, layer.bias, initial, current)
        if layer.threshold is None:
            return u, HetSynState(current, v=u[-1])
        v, (z, J, A), recurrent_current = _neurons_fwd(u, layer, state)
    return v, HetSynState(current, recurrent_current, J, A, z, v[-1])


def _not_counted(inputs: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, LayerTensors, HetSynState]:
    """The same memory; in the interpreter, which copies every argument back, without torch counting that as writing."""
    if not interpreted():
        return inputs, layer, state
    fields, parts = ([None if t is None else t.data for t in tensors] for tensors in (layer, state))
    return inputs.data, LayerTensors(*fields), HetSynState(*parts)  # type: ignore[arg-type]  # has a weight


def _on(x: Tensor) -> Any:
    """Kernels start on the current device, which need not be the tensors'."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _neurons_fwd(u: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, tuple[Any, ...], Tensor | None]:
    """v of u, the last z, J, A, and the last recurrent currents."""
    if layer.recurrent_weight is None:
        return *neurons.forward(u, layer, state), None
    if u.shape[2] <= recurrent.MAX_NEURONS:
        return recurrent.forward(u, layer, state)
    v, (z, J, A), L = _recurrent_steps_fwd(u, layer, state)
    return v, (z, None if layer.reset_decay is None else J, None if layer.adaptation_decay is None else A), L


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
    with _on(inputs):
        if layer.threshold is None:
            g, grads_initial, through_z = _dense(output_gradients.v, v, v.shape), dict[str, Any](), None
        else:
            g, grads_initial, through_z = _neurons_bwd(v, layer, output_gradients, surrogate, detach_reset)
        grads = _soma_gradients(g, layer, state, v, output_gradients.state, through_z, needs_grad)
        if needs_grad.weight or needs_grad.decay or needs_grad.current:
            of = _synapses_bwd(g, inputs, "", layer, state, output_gradients.state, needs_grad.current)
            grads["weight"], grads["decay"], grads_initial["current"] = of
        of_recurrent = needs_grad.recurrent_weight or needs_grad.recurrent_decay or needs_grad.recurrent_current
        if of_recurrent and layer.recurrent_weight is not None:
            z, needs_initial = _spikes_before(state, v, layer), needs_grad.recurrent_current
            of = _synapses_bwd(g, z, "recurrent_", layer, state, output_gradients.state, needs_initial)
            grads["recurrent_weight"], grads["recurrent_decay"], grads_initial["recurrent_current"] = of
        g_inputs = None
        if needs_grad.inputs:
            final = output_gradients.state.current
            g_inputs = synapses.input_gradients(g, layer.decay, layer.weight, final)
    return Gradients(g_inputs, grads, HetSynState(grads_initial.pop("current", None), **grads_initial))


def _neurons_bwd(
    v: Tensor, layer: LayerTensors, output_gradients: OutputGradients, surrogate: Surrogate, detach_reset: bool
) -> tuple[Tensor, dict[str, Any], Tensor]:
    """dLoss/dv, the first state's gradients, and the threshold's part through the spikes, of every row (B, N)."""
    if layer.recurrent_weight is not None and v.shape[2] > recurrent.MAX_NEURONS:
        return _large_recurrent_bwd(v, layer, output_gradients, surrogate, detach_reset)
    call = neurons.backwards(v, layer, output_gradients, surrogate, detach_reset)
    if layer.recurrent_weight is None:
        neurons.backward(call)
    else:
        recurrent.backward(call, layer, output_gradients.state.recurrent_current)
    return call.g, call.grads_initial, call.grad_threshold


def _spikes_before(state: HetSynState, v: Tensor, layer: LayerTensors) -> Tensor:
    """z[t-1] of every step, (T, B, N): what the recurrent synapses were given."""
    assert layer.threshold is not None
    assert state.spikes is not None
    return torch.cat([state.spikes[None].to(v.dtype), spikes_of(v[:-1], layer.threshold)])


def _synapses_bwd(
    g: Tensor,
    s: Tensor,
    name: str,
    layer: LayerTensors,
    state: HetSynState,
    grad_state: HetSynState,
    needs_initial: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of weight and decay, and of the first currents, of the synapses whose fields begin with `name`."""
    pair = (getattr(layer, f"{name}decay"), getattr(layer, f"{name}weight"))
    initial, grad_final = (getattr(x, f"{name}current") for x in (state, grad_state))
    ends = (None if is_zero(initial) else initial, grad_final)
    return synapses.gradients(g, s.contiguous(), pair, ends, needs_initial)


def _soma_gradients(
    g: Tensor,
    layer: LayerTensors,
    state: HetSynState,
    v: Tensor,
    grad_state: HetSynState,
    through_z: Tensor | None,
    needs_grad: NeedsGrad,
) -> dict[str, Any]:
    """Gradients of everything that a neuron has once; `through_z` (B, N) is the threshold's by way of the spikes."""
    grads = dict[str, Any]()
    if through_z is not None and needs_grad.threshold:
        grads["threshold"] = through_z.sum(0)
    if not any(getattr(needs_grad, name) for name in NEURON_FIELDS):
        return grads
    g_reset, g_kappa, g_adapt, g_rho, g_bias = neurons.parameter_gradients(g, layer, state, v, grad_state)
    grads["bias"] = g_bias
    if layer.reset_decay is not None and needs_grad.threshold:
        grads["threshold"] = grads["threshold"] + g_reset
    if layer.reset_decay is not None:
        grads["reset_decay"] = g_kappa
    if layer.adaptation_decay is not None:
        grads["adaptation_strength"], grads["adaptation_decay"] = g_adapt, g_rho
    return grads


def _dense(x: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The contiguous values of a state; None: zeros."""
    return like.new_zeros(shape) if x is None else x.detach().contiguous()


# ---- recurrent layers of more neurons than fit one program ----------------------------------------------------------


def _soma(layer: LayerTensors) -> tuple[Tensor, ...]:
    """theta, reset_strength, kappa, adaptation_strength, rho, each (N,); 0 where there is none."""
    nothing = layer.weight.new_zeros(len(layer.weight))
    theta = nothing + 1 if layer.threshold is None else layer.threshold
    reset_strength = nothing if layer.reset_decay is None else theta
    others = (layer.reset_decay, layer.adaptation_strength, layer.adaptation_decay)
    constants = (theta, reset_strength, *(nothing if x is None else x for x in others))
    return tuple(x.contiguous() for x in constants)


def _recurrent_steps_fwd(
    u: Tensor, layer: LayerTensors, state: HetSynState
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """As `recurrent.forward` for any N, a launch a step."""
    (steps, batch, n), v = u.shape, torch.empty_like(u)
    initial = [_dense(x, u, (batch, n)) for x in (state.spikes, state.reset, state.adaptation)]
    before = [*initial, _dense(state.recurrent_current, u, (batch, n, n))]
    after = [torch.empty_like(x) for x in before]
    assert layer.recurrent_weight is not None and layer.recurrent_decay is not None
    soma, matrices = _soma(layer), (layer.recurrent_decay.contiguous(), layer.recurrent_weight.contiguous())
    grid = (batch, cells(n, TILE_STEP))
    for t in range(steps):
        states = (*before[:3], *after[:3], *soma, before[3], after[3])
        kernels.recurrent_step_fwd[grid](u, v, *states, *matrices, t, batch, n, BI=TILE_STEP, BK=TILE_STEP)
        if t == 0:  # the arguments stay as they were
            before = [torch.empty_like(x) for x in before]
        before, after = after, before
    return v, tuple(before[:3]), before[3]


def _large_recurrent_bwd(
    v: Tensor, layer: LayerTensors, output_gradients: OutputGradients, surrogate: Surrogate, detach_reset: bool
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """As `_neurons_bwd`, for any N."""
    (_, batch, n), grad_state = v.shape, output_gradients.state
    assert layer.recurrent_weight is not None and layer.recurrent_decay is not None
    d = surrogate.derivative(v - layer.threshold, layer.threshold).contiguous()
    grad_v, grad_spikes = (_dense(x, d, d.shape) for x in (output_gradients.v, output_gradients.spikes))
    g, z = torch.empty_like(d), d.new_empty((batch, n))
    final = [_dense(x, d, (batch, n)) for x in (grad_state.reset, grad_state.adaptation)]
    _, reset_strength, *others = _soma(layer)
    soma = (torch.zeros_like(reset_strength) if detach_reset else reset_strength, *others)
    grad_final = grad_state.recurrent_current
    c = d.new_zeros((batch, n, n)) if grad_final is None else layer.recurrent_weight * grad_final
    arrays = [x.contiguous() for x in (c, layer.recurrent_decay, layer.recurrent_weight)]
    J, A, grad_threshold = _recurrent_steps_bwd((grad_v, grad_spikes, d, g), z, final, soma, arrays)
    grads_initial = {"spikes": z}
    if layer.reset_decay is not None:
        grads_initial["reset"] = J
    if layer.adaptation_decay is not None:
        grads_initial["adaptation"] = A
    return g, grads_initial, grad_threshold


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
        kernels.recurrent_step_bwd[(batch, cells(n, TILE_STEP))](*sequences, *states, t, batch, n, **tiles)
        if t == steps - 1:  # the arguments stay as they were
            before = [torch.empty_like(x) for x in before]
        before, after = after, before
    return before[0], before[1], before[2]
