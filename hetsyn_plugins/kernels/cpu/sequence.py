"""The neuron on the CPU: the order of the kernels, forward and backward; float32 and float64.

`layout.py` says how a call lies in memory; `batch_lanes.py` and `neuron_lanes.py` are the kernels of synapses,
`state_gradients.py` those of gradients through currents (B, N, K), `soma.py` those of what a neuron has once, which has
the legend of the letters here too: u, z, J, A, g, d. A single step goes its own way, in `one_step.py`. On the way from
kernel to kernel stands NumPy, not torch, whose threads spin for milliseconds after each piece of work and would take a
core from ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core.fields import NEURON_FIELDS, HetSynState
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.cpu import buffers, one_step, soma
from hetsyn_plugins.kernels.cpu.delayed_layout import delayed_layout
from hetsyn_plugins.kernels.cpu.layout import ONLY, Array, Layout, Synapses, known_zero
from hetsyn_plugins.kernels.cpu.neurons import derivative, soma_arrays, soma_gradients
from hetsyn_plugins.kernels.cpu.shared_layout import BACKWARD, FORWARD, Limit, layout_of
from hetsyn_plugins.kernels.cpu.sparse_layout import sparse_layout
from hetsyn_plugins.kernels.cpu.threads import parallel
from hetsyn_plugins.kernels.delays import with_past
from hetsyn_plugins.kernels.interface import Gradients, LayerTensors, NeedsGrad, OutputGradients


def forward(inputs: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, HetSynState]:
    """See `Kernel.forward`."""
    if inputs.shape[1] == 0:
        return eager.forward(inputs, layer, state)
    if _is_one_step(inputs) and not layer.has_delays:
        return one_step.forward(inputs, layer, state)
    at = _layout(inputs, layer, state, FORWARD, layer.recurrent_weight is not None)
    sources = at.sources(with_past(state.past_inputs, inputs))
    u, current = at.currents_fwd(sources, _synapses("", layer), layer.bias)
    if not known_zero(state.current):
        at.initial_current_fwd(u, state.current, layer.decay)
        _add_initial(current, state.current, layer.decay, at.steps)
    if layer.threshold is None:
        v = at.unpack(u, at.n, at.neurons)
        return v, HetSynState(current, v=v[-1])

    z, J, A = packed = (at.pack_state(state.spikes), at.pack_state(state.reset), at.pack_state(state.adaptation))
    recurrent = None
    if layer.recurrent_weight is None or layer.recurrent_decay is None:
        parallel(soma.neurons_fwd, at.vectors, u, *packed, *soma_arrays(at, layer), at.steps, at.tile)
    else:
        if not known_zero(state.recurrent_current):
            at.initial_current_fwd(u, state.recurrent_current, layer.recurrent_decay)
        synapses = _synapses("recurrent_", layer)
        recurrent = at.recurrent_fwd(u, packed, soma_arrays(at, layer), synapses, state.past_spikes)
        np.multiply(recurrent.numpy(), layer.recurrent_weight.detach().numpy(), out=recurrent.numpy())
        if not known_zero(state.recurrent_current):
            _add_initial(recurrent, state.recurrent_current, layer.recurrent_decay, at.steps)
    v = at.unpack(u, at.n, at.neurons)
    reset = None if layer.reset_decay is None else at.unpack_state(J)
    adaptation = None if layer.adaptation_decay is None else at.unpack_state(A)
    return v, HetSynState(current, recurrent, reset, adaptation, at.unpack_state(z), v[-1])


def _layout(inputs: Tensor, layer: LayerTensors, state: HetSynState, limit: Limit, turns: bool) -> Layout:
    """How a call of this layer lies in memory; `limit` and `turns` as in `shared_layout.layout_of`."""
    if not layer.has_delays:
        return sparse_layout(layout_of(inputs, layer, limit, turns), layer)
    past = state.past_spikes if layer.delay is None else state.past_inputs
    return delayed_layout(inputs, len(layer.weight), len(past))


def _is_one_step(inputs: Tensor) -> bool:
    return len(inputs) == 1 and ONLY.get() is None


def _add_initial(current: Tensor, initial: Tensor, decay: Tensor, steps: int) -> None:
    """current += r^T I[-1], in place: what is left of the initial currents after the last step."""
    current.numpy()[...] += decay.detach().numpy() ** steps * initial.detach().numpy()


def spikes_of(v: Tensor, threshold: Tensor) -> Tensor:
    """See `Kernel.spikes_of`."""
    if v.numel() < 1 << 12:  # to start a kernel takes longer
        return eager.spikes_of(v, threshold)
    spikes = buffers.empty(v.numel(), v.numpy().dtype)
    rows = v.shape[0] * v.shape[1]
    theta = np.ascontiguousarray(threshold.numpy())  # one for all neurons is expanded: a stride of 0
    parallel(soma.spikes_fwd, rows, v.contiguous().numpy().ravel(), theta, spikes)
    return torch.from_numpy(spikes.reshape(v.shape))


# ---- backward -----------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """One set of synapses, those of the inputs ("") or the "recurrent_" ones, and what is asked of it.

    initial       first currents (B, N, K), None where they are zero
    grad_final    dLoss/d(last currents) (B, N, K), or None
    needs_grad    are gradients of weight, decay or delay asked for?
    needs_delay   are gradients of the delay asked for?
    needs_states  are gradients of the first currents asked for, or any through the last?
    """

    name: str
    synapses: Synapses
    initial: Tensor | None
    grad_final: Tensor | None
    needs_grad: bool
    needs_states: bool
    needs_delay: bool


def _synapses(name: str, layer: LayerTensors) -> Synapses:
    return Synapses(*(getattr(layer, f"{name}{part}") for part in Synapses._fields))


def _asked(name: str, layer: LayerTensors, state: HetSynState, grad_state: HetSynState, needs_grad: NeedsGrad) -> Any:
    if getattr(layer, f"{name}weight") is None:
        return None
    initial = getattr(state, f"{name}current")
    of_fields = any(getattr(needs_grad, f"{name}{field}") for field in ("weight", "decay", "delay"))
    grad_final = getattr(grad_state, f"{name}current")
    needs_states = grad_final is not None or getattr(needs_grad, f"{name}current")
    initial, needs_delay = None if known_zero(initial) else initial, getattr(needs_grad, f"{name}delay")
    return Asked(name, _synapses(name, layer), initial, grad_final, of_fields, needs_states, needs_delay)


# long: the order of the kernels, to be read as one
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
    if _is_one_step(inputs) and not layer.has_delays:
        return one_step.backward(inputs, layer, state, v, output_gradients, surrogate, detach_reset, needs_grad)
    turns = needs_grad.inputs or layer.recurrent_weight is not None
    at, grad_state = _layout(inputs, layer, state, BACKWARD, turns), output_gradients.state
    of_inputs, recurrent = (_asked(name, layer, state, grad_state, needs_grad) for name in ("", "recurrent_"))
    if layer.has_delays and _through_states(needs_grad, of_inputs, recurrent):  # which few ask for
        return eager.backward(inputs, layer, state, v, output_gradients, surrogate, detach_reset, needs_grad)
    grads, grads_initial = dict[str, Any](), dict[str, Any]()
    packed_v = at.pack(v, at.n)
    g = at.zeros(len(packed_v)) if output_gradients.v is None else at.pack(output_gradients.v, at.n)
    if layer.threshold is not None:
        d = derivative(at, layer.threshold, v, packed_v, surrogate)
        grads_initial, grads["threshold"] = _neurons_bwd(at, g, d, layer, recurrent, output_gradients, detach_reset)
    if any(getattr(needs_grad, name) for name in NEURON_FIELDS):
        grads |= soma_gradients(at, g, layer, state, packed_v, grad_state, grads.get("threshold"))
    in_states = [x for x in (of_inputs, recurrent) if x is not None and x.needs_states]
    g_v = at.unpack(g, at.n, at.neurons) if in_states else None
    if of_inputs.needs_grad or of_inputs.needs_states:
        packed = at.sources(with_past(state.past_inputs, inputs)) if of_inputs.needs_grad else None
        _synapse_gradients(at, of_inputs, packed, g, inputs, g_v, grads_initial, grads)
    if recurrent is not None and (recurrent.needs_grad or recurrent.needs_states):
        sources, theta = at.sequence(at.n), at.pack_neuron(layer.threshold, fill=1.0)
        z_initial = at.pack_state(state.spikes)
        parallel(soma.shifted_spikes, at.vectors, packed_v, z_initial, theta, sources, at.steps, at.tile)
        if state.past_spikes is not None:
            sources = at.pack(with_past(state.past_spikes, at.unpack(sources, at.n, at.neurons)), at.n)
        z_prev = at.unpack(sources, at.n, at.neurons) if recurrent.needs_states else None
        _synapse_gradients(at, recurrent, sources, g, z_prev, g_v, grads_initial, grads)
    g_inputs = None
    if needs_grad.inputs:
        g_inputs = at.unpack(at.inputs_bwd(g, of_inputs.synapses), at.m, at.inputs)
        if of_inputs.grad_final is not None:
            g_inputs += at.neuron_lanes().final_current_bwd(of_inputs.grad_final, of_inputs.synapses)
    return Gradients(g_inputs, grads, HetSynState(grads_initial.pop("current", None), **grads_initial))


def _through_states(needs_grad: NeedsGrad, *asked: Asked | None) -> bool:
    """Are gradients asked for of the first currents and the past, or any through the last currents?"""
    of_past = needs_grad.past_inputs or needs_grad.past_spikes
    return of_past or any(each is not None and each.needs_states for each in asked)


def _synapse_gradients(
    at: Layout,
    asked: Asked,
    packed: Array | None,
    g: Array,
    sources: Tensor | None,
    g_v: Tensor | None,
    grads_initial: dict[str, Any],
    grads: dict[str, Any],
) -> None:
    """Gradients of weight and decay (N, K) into `grads`, of first currents (B, N, K) into `grads_initial`.

    packed, sources   the sequence of the sources, packed and as a tensor (T, B, K), where each is needed
    g, g_v            dLoss/dv, likewise
    """
    name, synapses = asked.name, asked.synapses
    g_weight = g_decay = None
    if asked.needs_grad and packed is not None:
        g_weight, g_decay, from_initial, g_delay = at.synapses_bwd(
            packed, g, synapses, asked.initial, asked.needs_delay
        )
        if g_delay is not None:
            grads[f"{name}delay"] = g_delay * synapses.weight.detach()
        np.multiply(g_decay.numpy(), synapses.weight.detach().numpy(), out=g_decay.numpy())
        g_decay = g_decay if from_initial is None else g_decay + from_initial
    if asked.needs_states and sources is not None and g_v is not None:
        ends = (asked.initial, asked.grad_final)
        grads_initial[f"{name}current"], from_final_weight, from_final_decay = at.neuron_lanes().states_bwd(
            sources, g_v, synapses, *ends
        )
        if g_weight is not None and g_decay is not None:
            g_weight, g_decay = g_weight + from_final_weight, g_decay + from_final_decay
    grads[f"{name}weight"], grads[f"{name}decay"] = g_weight, g_decay


def _neurons_bwd(
    at: Layout,
    g: Array,
    d: Array,
    layer: LayerTensors,
    recurrent: Asked | None,
    output_gradients: OutputGradients,
    detach_reset: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """Turn g from the gradient given for v into dLoss/dv; return those of the first state, and the threshold's part."""
    grad_spikes, grad_state, from_final = output_gradients.spikes, output_gradients.state, None
    gz = at.zeros(len(g)) if grad_spikes is None else at.pack(grad_spikes, at.n)
    if recurrent is not None and recurrent.grad_final is not None:  # of z[t-1], at t
        from_final = at.neuron_lanes().final_current_bwd(recurrent.grad_final, recurrent.synapses)
        shifted = torch.cat([from_final[1:], torch.zeros_like(from_final[:1])])
        gz = at.pack(shifted if grad_spikes is None else grad_spikes + shifted, at.n)
    _, reset_strength, *decays = soma_arrays(at, layer)
    constants = (reset_strength * 0 if detach_reset else reset_strength, *decays)
    z, J, A, grad_threshold = packed = (
        at.pack_state(None),
        at.pack_state(grad_state.reset),
        at.pack_state(grad_state.adaptation),
        at.pack_state(None),
    )
    if recurrent is None:
        parallel(soma.neurons_bwd, at.vectors, g, gz, d, *packed, *constants, at.steps, at.tile)
    else:
        at.recurrent_bwd(g, (gz, d), packed, constants, recurrent.synapses)
    grads_initial = {"spikes": at.unpack_state(z)}
    if from_final is not None:
        grads_initial["spikes"] += from_final[0]
    if layer.reset_decay is not None:
        grads_initial["reset"] = at.unpack_state(J)
    if layer.adaptation_decay is not None:
        grads_initial["adaptation"] = at.unpack_state(A)
    return grads_initial, at.sum_batch(grad_threshold)
