"""A sequence of one step: what loops of single calls run, with the currents of synapses in the state from call to call.

Sequences packed for lanes = neurons are, with T = 1, rows (B, padded N): what `soma.py` works on. The kernels of
synapses, `step_synapses.py`, take the tensors of currents and parameters as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core.fields import NEURON_FIELDS, HetSynState
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.kernels.cpu import buffers, soma, step_synapses
from hetsyn_plugins.kernels.cpu.layout import Array, NeuronLanes, known_zero
from hetsyn_plugins.kernels.cpu.neurons import derivative, soma_arrays, soma_gradients
from hetsyn_plugins.kernels.cpu.threads import parallel
from hetsyn_plugins.kernels.interface import Gradients, LayerTensors, NeedsGrad, OutputGradients

AT_ONCE = 1 << 18  # synapses, over all rows, that one thread does sooner than two are started


def forward(inputs: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, HetSynState]:
    """See `Kernel.forward`; inputs (1, B, M)."""
    at = _layout(inputs, layer)
    u = at.pack_state(None if layer.bias is None else layer.bias.detach().expand(at.batch, at.neurons))
    current = _currents_fwd(at, u, _flat(inputs), state.current, layer.decay, layer.weight)
    if layer.threshold is None:
        v = at.unpack_state(u)
        return v[None], HetSynState(current, v=v)
    z, J, A = (at.pack_state(x) for x in (state.spikes, state.reset, state.adaptation))
    recurrent = None
    if layer.recurrent_weight is not None and layer.recurrent_decay is not None:
        sources = _flat(state.spikes)
        recurrent = _currents_fwd(
            at, u, sources, state.recurrent_current, layer.recurrent_decay, layer.recurrent_weight
        )
    _run(soma.neurons_fwd, at.vectors, at, u, z, J, A, *soma_arrays(at, layer), 1, 1)
    v = at.unpack_state(u)
    reset = None if layer.reset_decay is None else at.unpack_state(J)
    adaptation = None if layer.adaptation_decay is None else at.unpack_state(A)
    return v[None], HetSynState(current, recurrent, reset, adaptation, at.unpack_state(z), v)


def _layout(inputs: Tensor, layer: LayerTensors) -> NeuronLanes:
    dtype = np.dtype(np.float64 if inputs.dtype == torch.float64 else np.float32)
    _, batch, width = inputs.shape
    return NeuronLanes((1, batch, width), len(layer.weight), dtype)


def _run(kernel: Callable[..., None], units: int, at: NeuronLanes, *arguments: Any) -> None:
    """On several threads, where there is enough to do for them."""
    if at.batch * at.neurons * at.inputs < AT_ONCE:
        kernel(*arguments, 0, units)
    else:
        parallel(kernel, units, *arguments)


def _flat(x: Tensor) -> Array:
    flat: Array = np.ascontiguousarray(x.detach().numpy()).reshape(-1)
    return flat


def _sizes(at: NeuronLanes, weight: Tensor) -> tuple[int, int, int, int]:
    return at.batch, at.neurons, at.n, weight.shape[1]


def _currents_fwd(at: NeuronLanes, u: Array, sources: Array, current: Tensor, decay: Tensor, weight: Tensor) -> Tensor:
    """The currents (B, N, K) after the step; u gets their sums on top."""
    fresh, shape = known_zero(current), (at.batch, *weight.shape)
    out = buffers.empty(at.batch * weight.numel(), at.dtype)
    before = out if fresh else _flat(current)
    rows, neurons = -(-at.batch // step_synapses.ROWS), -(-at.neurons // step_synapses.NEURONS)
    arrays = (sources, before, _flat(decay), _flat(weight), out, u)
    _run(step_synapses.synapses_fwd, rows * neurons, at, *arrays, *_sizes(at, weight), fresh)
    return torch.from_numpy(out.reshape(shape))


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
    """See `Kernel.backward`; inputs (1, B, M)."""
    at = _layout(inputs, layer)
    grad_state, grads, grads_initial = output_gradients.state, dict[str, Any](), dict[str, Any]()
    packed_v = at.pack_state(v[0])
    g = at.pack_state(None if output_gradients.v is None else output_gradients.v[0])
    if layer.threshold is not None:
        gz = at.pack_state(None if output_gradients.spikes is None else output_gradients.spikes[0])
        d = derivative(at, layer.threshold, v, packed_v, surrogate)
        from_final = (at.pack_state(x) for x in (None, grad_state.reset, grad_state.adaptation, None))
        z, J, A, grad_threshold = packed = tuple(from_final)
        _, reset_strength, *others = soma_arrays(at, layer)
        constants = (reset_strength * 0 if detach_reset else reset_strength, *others)
        _run(soma.neurons_bwd, at.vectors, at, g, gz, d, *packed, *constants, 1, 1)
        grads_initial = {"spikes": at.unpack_state(z)}
        grads_initial |= {} if layer.reset_decay is None else {"reset": at.unpack_state(J)}
        grads_initial |= {} if layer.adaptation_decay is None else {"adaptation": at.unpack_state(A)}
        grads["threshold"] = at.sum_batch(grad_threshold)
    if any(getattr(needs_grad, name) for name in NEURON_FIELDS):
        grads |= soma_gradients(at, g, layer, state, packed_v, grad_state, grads.get("threshold"))
    g_inputs = None
    grads |= _parameters_bwd(at, "", layer, inputs[0], g, state, grad_state, needs_grad)
    if needs_grad.inputs or needs_grad.current:
        g_inputs, grads_initial["current"] = _currents_bwd(at, "", layer, g, grad_state)
        g_inputs = g_inputs[None]
    if layer.recurrent_weight is not None:
        grads |= _parameters_bwd(at, "recurrent_", layer, state.spikes, g, state, grad_state, needs_grad)
        g_spikes, grads_initial["recurrent_current"] = _currents_bwd(at, "recurrent_", layer, g, grad_state)
        grads_initial["spikes"] += g_spikes
    return Gradients(g_inputs, grads, HetSynState(grads_initial.pop("current", None), **grads_initial))


def _currents_bwd(
    at: NeuronLanes, name: str, layer: LayerTensors, g: Array, grad_state: HetSynState
) -> tuple[Tensor, Tensor]:
    """Gradients of the sources (B, K) and of the currents before the step (B, N, K)."""
    decay, weight = getattr(layer, f"{name}decay"), getattr(layer, f"{name}weight")
    lam, shape = getattr(grad_state, f"{name}current"), (at.batch, *weight.shape)
    out, ds = buffers.empty(at.batch * weight.numel(), at.dtype), np.zeros(at.batch * weight.shape[1], at.dtype)
    after = out if lam is None else _flat(lam)
    arrays = (g, after, _flat(decay), _flat(weight), out, ds)
    _run(step_synapses.synapses_bwd, at.batch, at, *arrays, *_sizes(at, weight), lam is None)
    return torch.from_numpy(ds.reshape(at.batch, -1)), torch.from_numpy(out.reshape(shape))


def _parameters_bwd(
    at: NeuronLanes,
    name: str,
    layer: LayerTensors,
    sources: Tensor,
    g: Array,
    state: HetSynState,
    grad_state: HetSynState,
    needs_grad: NeedsGrad,
) -> dict[str, Any]:
    """Gradients of weights and decays (N, K), where they are asked for."""
    if not (getattr(needs_grad, f"{name}weight") or getattr(needs_grad, f"{name}decay")):
        return {}
    weight, current = getattr(layer, f"{name}weight"), getattr(state, f"{name}current")
    lam, fresh = getattr(grad_state, f"{name}current"), known_zero(current)
    gw, gr = at.zeros(weight.numel()), at.zeros(weight.numel())
    arrays = (g, gw if lam is None else _flat(lam), _flat(sources), gw if fresh else _flat(current), gw, gr)
    _run(step_synapses.parameters_bwd, at.neurons, at, *arrays, *_sizes(at, weight), lam is None, fresh)
    return {f"{name}{field}": torch.from_numpy(g.reshape(weight.shape)) for field, g in (("weight", gw), ("decay", gr))}
