"""The neuron on a GPU: the order of the Triton kernels beside this file, forward and backward; float32 only.

Memory is O(B T (N + M)), with the last currents, the parts and groups of `synapses.py`, and the chunks of `lags.py` on
top. Every sum is made in one fixed order: two runs give the same bits. Nothing waits for the device: a step can be
captured in a CUDA graph. Matrix products, in `lags.py` only, never run in TF32. With TRITON_INTERPRET=1 the same code
runs on CPU tensors, for tests.
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
from hetsyn_plugins.kernels.gpu import lags, neurons, recurrent, silence, synapses
from hetsyn_plugins.kernels.gpu.launch import INTERPRETED
from hetsyn_plugins.kernels.interface import Gradients, LayerTensors, NeedsGrad, OutputGradients
from hetsyn_plugins.kernels.zeros import is_zero

__all__ = ["backward", "forward", "interpreted", "spikes_of", "trial"]


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
    return _recurrent(u).forward(u, layer, state)


def _recurrent(v: Tensor) -> Any:
    """The kernels for so many neurons: with all synapses of a row in one program, or several steps at a time."""
    return recurrent if v.shape[2] <= recurrent.MAX_NEURONS else lags


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
    call = neurons.backwards(v, layer, output_gradients, surrogate, detach_reset)
    if layer.recurrent_weight is None:
        neurons.backward(call)
    else:
        _recurrent(v).backward(call, layer, output_gradients.state.recurrent_current)
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
    s = s.contiguous()
    return synapses.gradients(g, s, pair, ends, needs_initial, silence.words_if_it_pays(s, g))


def _dense(x: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The contiguous values of a state; None: zeros."""
    return like.new_zeros(shape) if x is None else x.detach().contiguous()


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
