"""What the neuron is: HetSynLIF and its gradients in NumPy float64, to be read and believed, not to be fast.

For neuron i, presynaptic line j, recurrent line k (Deng et al. 2025, Eqs. 2 to 5; `fields.py` has the legend):

    I_ij[t] = r_ij I_ij[t-1] + w_ij x_j[t]            synaptic currents
    L_ik[t] = p_ik L_ik[t-1] + u_ik z_k[t-1]          recurrent synaptic currents
    J_i[t]  = kappa_i J_i[t-1] + theta_i z_i[t-1]     reset current
    A_i[t]  = rho_i A_i[t-1] + a_i z_i[t-1]           adaptation current
    v_i[t]  = sum_j I_ij[t] + sum_k L_ik[t] - J_i[t] - A_i[t] + b_i
    z_i[t]  = 1 if v_i[t] > theta_i else 0            strict; the readout has v only

The recursion of A is lost in the text of the paper that we have; this form fits the strengths it reports.
Indices in einsum: b batch, n neuron, m input line, k recurrent line. Every step is kept: O(T B N M) memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetsyn_plugins.core.fields import ARRAYS, Array, HetSynState
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import Surrogate, resolve
from hetsyn_plugins.core.validation import check_inputs_shape, check_state, host_array, state_shapes


class Gradients(NamedTuple):
    """dLoss/d(argument), each in the shape of what it belongs to; None where there is no such field."""

    inputs: Array
    params: dict[str, Array | None]
    state: HetSynState


def step(params: HetSynParams, inputs: ArrayLike, state: HetSynState | None = None) -> HetSynState:
    """One step: inputs x[t] of shape (B, M) and the state after step t-1 (None: zeros) give the state after step t."""
    x = host_array("inputs", inputs)
    if x.ndim != 2:
        raise ValueError(f"inputs: expected shape (B, {params.weight.shape[1]}), got {x.shape}")
    initial_state = _checked_state(params, state, len(x))
    return advance(params.astype(np.float64).expanded(), _checked_inputs(params, x[None])[0], initial_state)


def advance(p: HetSynParams, x: Array, state: HetSynState) -> HetSynState:
    """The equations above for expanded float64 parameters and inputs (B, M) that were checked."""
    current = p.decay * state.current + p.weight * x[:, None, :]
    v = current.sum(-1)
    recurrent = reset = adaptation = None
    if p.recurrent_weight is not None:
        recurrent = p.recurrent_decay * state.recurrent_current + p.recurrent_weight * state.spikes[:, None, :]
        v = v + recurrent.sum(-1)
    if p.reset_decay is not None:
        reset = p.reset_decay * state.reset + p.threshold * state.spikes
        v = v - reset
    if p.adaptation_decay is not None:
        adaptation = p.adaptation_decay * state.adaptation + p.adaptation_strength * state.spikes
        v = v - adaptation
    if p.bias is not None:
        v = v + p.bias
    spikes = (v > p.threshold).astype(np.float64) if p.spiking else None
    return HetSynState(current, recurrent, reset, adaptation, spikes, v)


def zero_state(params: HetSynParams, batch: int) -> HetSynState:
    """The state before the first step: all zeros."""
    shapes = state_shapes(_fields(params), params.spiking, batch)
    return HetSynState(**{name: None if shape is None else np.zeros(shape) for name, shape in shapes.items()})


def run(
    params: HetSynParams, inputs: ArrayLike, state: HetSynState | None = None
) -> tuple[Array | None, Array, HetSynState]:
    """Run T steps.

    inputs  (T, B, M), any real dtype          state  as returned by an earlier run, or None: zeros

    Returns spikes (T, B, N) (None for the readout), v (T, B, N) and the state after the last step.
    Raises ValueError for inputs or a state that do not fit, or inputs with NaN or infinity.
    """
    v, states = trajectory(params, inputs, state)
    spikes = np.stack([s.spikes for s in states[1:]]) if params.spiking and len(v) else v.copy()
    return (spikes if params.spiking else None), v, states[-1]


def trajectory(
    params: HetSynParams, inputs: ArrayLike, state: HetSynState | None = None
) -> tuple[Array, list[HetSynState]]:
    """v (T, B, N) and the T + 1 states before, between and after the steps."""
    x = _checked_inputs(params, host_array("inputs", inputs))
    p = params.astype(np.float64).expanded()
    states = [_checked_state(params, state, x.shape[1])]
    for x_t in x:
        states.append(advance(p, x_t, states[-1]))
    v = np.array([s.v for s in states[1:]]).reshape(len(x), x.shape[1], len(params.weight))
    return v, states


# longer than a screen: these are the equations of backpropagation, and they are read as one
def gradients(
    params: HetSynParams,
    inputs: ArrayLike,
    state: HetSynState | None = None,
    *,
    grad_spikes: ArrayLike | None = None,
    grad_v: ArrayLike | None = None,
    grad_state: HetSynState | None = None,
    surrogate: Surrogate | str | None = None,
    detach_reset: bool = False,
) -> Gradients:
    """Full backpropagation through time, with the surrogate's derivative in place of dz/dv.

    grad_spikes, grad_v  dLoss/dspikes and dLoss/dv, (T, B, N); None: zero
    grad_state           dLoss/d(returned state); None, or None in a field: zero
    detach_reset         no gradient through z in J (it still flows through L and A)

    With g* = dLoss/d*, all terms of step t, from the last step to the first:

        gd = gz s(d), d = v - theta       gv = grad_v + gd           gtheta = -gd + sum_t gJ[t] z[t-1]
        gI = r gI[t+1] + gv               gw += gI x[t]              gr += gI I[t-1]        gx = sum_i w gI
        gL = p gL[t+1] + gv               gu += gL z[t-1]            gp += gL L[t-1]
        gJ = kappa gJ[t+1] - gv           gA = rho gA[t+1] - gv      likewise
        gz[t-1] = grad_spikes + sum_i u gL + theta gJ + a gA
    """
    surrogate = resolve(surrogate)
    v, states = trajectory(params, inputs, state)
    x = host_array("inputs", inputs, np.float64)
    p = params.astype(np.float64).expanded()
    g = {name: np.zeros(getattr(p, name).shape) for name in ARRAYS if getattr(p, name) is not None}
    g_inputs = np.zeros(x.shape)
    g_spikes = np.zeros(v.shape) if grad_spikes is None else np.asarray(grad_spikes, np.float64)
    g_v = np.zeros(v.shape) if grad_v is None else np.asarray(grad_v, np.float64)

    # dLoss/d(state after step t) by what comes later; to begin with: through the returned state
    zeros = [None if s is None else np.zeros(s.shape) for s in states[-1]]
    final = zeros if grad_state is None else grad_state
    gI, gL, gJ, gA, g_z, g_v_state = (
        zero if g is None else np.array(g, np.float64) for g, zero in zip(final, zeros, strict=True)
    )
    for t in reversed(range(len(x))):
        before = states[t]
        gv = g_v[t] + g_v_state
        if p.spiking:
            gz = g_spikes[t] + g_z
            gd = gz * surrogate.derivative(v[t] - p.threshold, p.threshold)
            gv = gv + gd
            g["threshold"] -= gd.sum(0)
        g_z, g_v_state = np.zeros_like(gv), np.zeros_like(gv)  # v[t-1] itself has no influence on step t

        gI = gI + gv[:, :, None]
        g["weight"] += np.einsum("bnm,bm->nm", gI, x[t])
        g["decay"] += (gI * before.current).sum(0)
        g_inputs[t] = np.einsum("bnm,nm->bm", gI, p.weight)
        gI = p.decay * gI
        if p.recurrent_weight is not None:
            gL = gL + gv[:, :, None]
            g["recurrent_weight"] += np.einsum("bnk,bk->nk", gL, before.spikes)
            g["recurrent_decay"] += (gL * before.recurrent_current).sum(0)
            g_z = g_z + np.einsum("bnk,nk->bk", gL, p.recurrent_weight)
            gL = p.recurrent_decay * gL
        if p.reset_decay is not None:
            gJ = gJ - gv
            g["threshold"] += (gJ * before.spikes).sum(0)
            g["reset_decay"] += (gJ * before.reset).sum(0)
            g_z = g_z + (0 if detach_reset else p.threshold * gJ)
            gJ = p.reset_decay * gJ
        if p.adaptation_decay is not None:
            gA = gA - gv
            g["adaptation_strength"] += (gA * before.spikes).sum(0)
            g["adaptation_decay"] += (gA * before.adaptation).sum(0)
            g_z = g_z + p.adaptation_strength * gA
            gA = p.adaptation_decay * gA
        if p.bias is not None:
            g["bias"] += gv.sum(0)
    state_gradient = HetSynState(gI, gL, gJ, gA, g_z if p.spiking else None, g_v_state)
    return Gradients(g_inputs, {name: _to_shape(g.get(name), getattr(params, name)) for name in ARRAYS}, state_gradient)


def _to_shape(gradient: Array | None, field: Any) -> Array | None:
    """Sum the gradient of an expanded field over the entries that share a value."""
    if gradient is None or field is None:
        return None
    shape = field.shape
    if gradient.ndim == 2 and len(shape) == 1:
        return gradient.sum(1)
    padded = (1,) * (gradient.ndim - len(shape)) + shape
    axes = tuple(axis for axis, size in enumerate(padded) if size == 1)
    return gradient.sum(axes).reshape(shape)


def _fields(params: HetSynParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in ARRAYS}


def _checked_state(params: HetSynParams, state: HetSynState | None, batch: int) -> HetSynState:
    if state is None:
        return zero_state(params, batch)
    check_state(state, state_shapes(_fields(params), params.spiking, batch))
    return HetSynState(*(None if s is None else np.asarray(s, np.float64) for s in state))


def _checked_inputs(params: HetSynParams, array: NDArray[Any]) -> Array:
    if (array.dtype != bool and not np.issubdtype(array.dtype, np.number)) or np.iscomplexobj(array):
        raise ValueError(f"inputs: expected real numbers, got {array.dtype}")
    check_inputs_shape(array, params.weight)
    x = array.astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"inputs: expected finite values, got {int((~np.isfinite(x)).sum())} NaN or infinite ones")
    return x
