"""What a neuron has once, around the kernels of `soma.py`: its parameters as they take them, and their gradients."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.surrogate import Arctan, FastSigmoid, MultiGaussian, Sigmoid, Surrogate, Triangular
from hetsyn_plugins.kernels.cpu import soma
from hetsyn_plugins.kernels.cpu.layout import Array, Layout
from hetsyn_plugins.kernels.cpu.threads import parallel
from hetsyn_plugins.kernels.interface import LayerTensors


def soma_arrays(at: Layout, layer: LayerTensors) -> tuple[Array, ...]:
    """theta, reset_strength, kappa, adaptation_strength, rho; a part that the layer lacks has coefficients 0."""
    reset_strength = at.pack_neuron(None if layer.reset_decay is None else layer.threshold)
    others = (layer.reset_decay, layer.adaptation_strength, layer.adaptation_decay)
    return (at.pack_neuron(layer.threshold, fill=1.0), reset_strength, *map(at.pack_neuron, others))


def derivative(at: Layout, threshold: Tensor, v: Tensor, packed_v: Array, surrogate: Surrogate) -> Array:
    """The surrogate's derivative at every v, packed; a foreign one is asked in torch."""
    constants = _constants(surrogate)
    if constants is None:
        return at.pack(surrogate.derivative(v - threshold, threshold), at.n)
    kind, values = constants
    d, c, theta = at.empty(len(packed_v)), np.array(values, at.dtype), at.pack_neuron(threshold, fill=1.0)
    parallel(soma.surrogate_bwd, at.vectors, kind, c, packed_v, theta, d, at.steps, at.tile)
    return d


def _constants(surrogate: Surrogate) -> tuple[int, list[float]] | None:
    """Which formula of `soma.surrogate_bwd`, and its five constants (the last must be > 0)."""
    if type(surrogate) is MultiGaussian:
        (w0, _, s0), (w1, mean, s1), _ = surrogate._terms()
        scale = math.sqrt(2 * math.pi)
        return soma.MULTI_GAUSSIAN, [w0 / (s0 * scale), -0.5 / s0**2, w1 / (s1 * scale), -0.5 / s1**2, mean]
    if type(surrogate) is Triangular:
        return soma.TRIANGULAR, [surrogate.gamma, surrogate.zeta, 0.0, 0.0, 1.0]
    if type(surrogate) is Arctan:
        return soma.ARCTAN, [0.5 * surrogate.alpha, 0.5 * math.pi * surrogate.alpha, 0.0, 0.0, 1.0]
    if type(surrogate) is FastSigmoid:
        return soma.FAST_SIGMOID, [surrogate.slope, 0.0, 0.0, 0.0, 1.0]
    if type(surrogate) is Sigmoid:
        return soma.SIGMOID, [surrogate.slope, 0.0, 0.0, 0.0, 1.0]
    return None


def soma_gradients(
    at: Layout,
    g: Array,
    layer: LayerTensors,
    state: HetSynState,
    packed_v: Array,
    grad_state: HetSynState,
    through_z: Tensor | None,
) -> dict[str, Tensor]:
    """Gradients of everything that a neuron has once; `through_z` is the threshold's by way of the spikes."""
    initial = (at.pack_state(state.spikes), at.pack_state(state.reset), at.pack_state(state.adaptation))
    grad_final = (at.pack_state(grad_state.reset), at.pack_state(grad_state.adaptation))
    out = at.empty(5, at.vectors, at.lanes)
    arrays = (packed_v, g, *initial, *grad_final, *soma_arrays(at, layer), out)
    parallel(soma.soma_parameters_bwd, at.vectors, *arrays, at.steps, at.tile)
    g_reset, g_kappa, g_adapt, g_rho, g_bias = map(at.sum_batch, out.reshape(5, -1))
    grads = {"bias": g_bias}
    if layer.reset_decay is not None and through_z is not None:
        grads["threshold"], grads["reset_decay"] = through_z + g_reset, g_kappa
    if layer.adaptation_decay is not None:
        grads["adaptation_strength"], grads["adaptation_decay"] = g_adapt, g_rho
    return grads
