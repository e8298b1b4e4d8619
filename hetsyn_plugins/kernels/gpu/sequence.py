"""The neuron on a GPU: the order of the Triton kernels beside this file, forward and backward; float32 only.

Memory is O(B T (N + M)), with the last currents, the parts and groups of `synapses.py`, and the chunks of `lags.py` or
the matrices of `codebook.py` on top; with delays up to D also O(B D (N + M)). Every sum is made in one fixed order: two
runs give the same bits. Nothing waits for the device: a step can be captured in a CUDA graph. Matrix products, in these
two files only, never run in TF32. With TRITON_INTERPRET=1 the same code runs on CPU tensors, for tests.
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
from hetsyn_plugins.kernels.gpu import codebook, delayed, lags, neurons, recurrent, silence, synapses
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
    with _on(inputs):
        current = synapses.states(inputs, inputs.shape[1], *layer.weight.shape)
        u = _currents(inputs, layer, state, current)
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


def _currents(inputs: Tensor, layer: LayerTensors, state: HetSynState, final: Tensor) -> Tensor:
    """The summed currents of the inputs' synapses and the bias, (T, B, N); `final` gets the last currents."""
    late = delayed.of("", layer, state)
    if late is None:
        initial = None if is_zero(state.current) else state.current
        return synapses.currents(inputs, *synapses.transposed(layer.decay, layer.weight), layer.bias, initial, final)
    initial, sources = _late_sources(inputs, state.past_inputs, state.current)
    return delayed.currents(sources, len(inputs), late.split(), layer.bias, initial, final)


def _late_sources(s: Tensor, past: Tensor | None, current: Tensor) -> tuple[Tensor | None, delayed.Packed]:
    """The first currents, None where these and the past are zeros, and sources (T, B, K) behind their past."""
    assert past is not None
    if is_zero(current) and is_zero(past):
        return None, delayed.packed(s, len(past))
    return current, delayed.packed(s, past)


def _on(x: Tensor) -> Any:
    """Kernels start on the current device, which need not be the tensors'."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _neurons_fwd(u: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, tuple[Any, ...], Tensor | None]:
    """v of u, the last z, J, A, and the last recurrent currents."""
    if layer.recurrent_weight is None:
        return *neurons.forward(u, layer, state), None
    if _fits_a_program(u, layer, state):
        return recurrent.forward(u, layer, state)
    if _has_traces(u, layer, state):
        return codebook.forward(u, layer, state)
    return lags.forward(u, layer, state)


def _fits_a_program(v: Tensor, layer: LayerTensors, state: HetSynState) -> bool:
    """Has one program place for all recurrent synapses of a row? Else several steps are taken at a time."""
    return v.shape[2] <= recurrent.MAX_NEURONS and delayed.of("recurrent_", layer, state) is None


def _has_traces(v: Tensor, layer: LayerTensors, state: HetSynState) -> bool:
    """Is there a trace for each decay that a large layer's recurrent synapses share, in the place of one for each?"""
    steps, batch, _ = v.shape
    return delayed.of("recurrent_", layer, state) is None and codebook.serves(steps, batch, layer)


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
    if layer.has_delays and _through_states(needs_grad, output_gradients.state):  # which few ask for
        return eager.backward(inputs, layer, state, v, output_gradients, surrogate, detach_reset, needs_grad)
    inputs, layer, state = _not_counted(inputs, layer, state)
    with _on(inputs):
        if layer.threshold is None:
            g, grads_initial, through_z = _dense(output_gradients.v, v, v.shape), dict[str, Any](), None
        else:
            g, grads_initial, through_z = _neurons_bwd(v, layer, state, output_gradients, surrogate, detach_reset)
        grads = _soma_gradients(g, layer, state, v, output_gradients.state, through_z, needs_grad)
        if _asked("", needs_grad):
            of = _synapses_bwd(g, inputs, "", layer, state, output_gradients.state, needs_grad.current)
            grads["weight"], grads["decay"], grads["delay"], grads_initial["current"] = of
        if _asked("recurrent_", needs_grad) and layer.recurrent_weight is not None:
            z, needs_initial = _spikes_before(state, v, layer), needs_grad.recurrent_current
            of = _synapses_bwd(g, z, "recurrent_", layer, state, output_gradients.state, needs_initial)
            grads |= zip(("recurrent_weight", "recurrent_decay", "recurrent_delay"), of[:3], strict=True)
            grads_initial["recurrent_current"] = of[3]
        g_inputs = None
        if needs_grad.inputs and (late := delayed.of("", layer, state)) is not None:
            g_inputs = delayed.input_gradients(g, late)
        elif needs_grad.inputs:
            g_inputs = synapses.input_gradients(g, layer.decay, layer.weight, output_gradients.state.current)
    return Gradients(g_inputs, grads, HetSynState(grads_initial.pop("current", None), **grads_initial))


def _through_states(needs_grad: NeedsGrad, grad_state: HetSynState) -> bool:
    """Are gradients asked for of the first currents and the past, or any through the last currents?"""
    of_first = needs_grad.current, needs_grad.recurrent_current, needs_grad.past_inputs, needs_grad.past_spikes
    return any(of_first) or grad_state.current is not None or grad_state.recurrent_current is not None


def _asked(name: str, needs_grad: NeedsGrad) -> bool:
    """Are gradients asked for of synapses whose fields begin with `name`?"""
    return any(getattr(needs_grad, f"{name}{field}") for field in ("weight", "decay", "delay", "current"))


def _neurons_bwd(
    v: Tensor,
    layer: LayerTensors,
    state: HetSynState,
    output_gradients: OutputGradients,
    surrogate: Surrogate,
    detach_reset: bool,
) -> tuple[Tensor, dict[str, Any], Tensor]:
    """dLoss/dv, the first state's gradients, and the threshold's part through the spikes, of every row (B, N)."""
    call, grad_final = neurons.backwards(v, layer, output_gradients, surrogate, detach_reset), output_gradients.state
    if layer.recurrent_weight is None:
        neurons.backward(call)
    elif _fits_a_program(v, layer, state):
        recurrent.backward(call, layer, grad_final.recurrent_current)
    elif grad_final.recurrent_current is None and _has_traces(v, layer, state):
        codebook.backward(call, layer)
    else:
        lags.backward(call, layer, grad_final.recurrent_current, delayed.of("recurrent_", layer, state))
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
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of weight, decay, delay and first currents, of the synapses whose fields begin with `name`."""
    if (late := delayed.of(name, layer, state)) is not None:
        past, current = (state.past_spikes, state.recurrent_current) if name else (state.past_inputs, state.current)
        initial, sources = _late_sources(s, past, current)
        return *delayed.gradients(g, sources, late, initial), None
    pair = (getattr(layer, f"{name}decay"), getattr(layer, f"{name}weight"))
    initial, grad_final = (getattr(x, f"{name}current") for x in (state, grad_state))
    ends = (None if is_zero(initial) else initial, grad_final)
    s = s.contiguous()
    words = silence.words_if_it_pays(s, g)
    g_weight, g_decay, g_initial = synapses.gradients(g, s, pair, ends, needs_initial, words)
    no_delay = torch.zeros_like(g_weight) if getattr(layer, f"{name}delay") is not None else None
    return g_weight, g_decay, no_delay, g_initial


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
