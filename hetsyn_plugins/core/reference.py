"""What the neuron is: HetSynLIF and its gradients in NumPy float64, to be read and believed, not to be fast.

For neuron i, presynaptic line j, recurrent line k (Deng et al. 2025, Eqs. 2 to 5; `fields.py` has the legend):

    I_ij[t] = r_ij I_ij[t-1] + w_ij x_j[t-d_ij]       synaptic currents
    L_ik[t] = p_ik L_ik[t-1] + u_ik z_k[t-1-e_ik]     recurrent synaptic currents
    J_i[t]  = kappa_i J_i[t-1] + theta_i z_i[t-1]     reset current
    A_i[t]  = rho_i A_i[t-1] + a_i z_i[t-1]           adaptation current
    v_i[t]  = sum_j I_ij[t] + sum_k L_ik[t] - J_i[t] - A_i[t] + b_i
    z_i[t]  = 1 if v_i[t] > theta_i else 0            strict; the readout has v only

The recursion of A is lost in the text of the paper that we have; this form fits the strengths it reports. The delays d
and e are ours, 0 in the paper; between two steps, x and z are interpolated linearly (`taps`). A synapse that is masked
out has w = r = 0, and no gradient.
Indices in einsum: b batch, n neuron, m input line, k recurrent line. Every step is kept: O(T B N M) memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetsyn_plugins.core.fields import ARRAYS, MASKS, NUMBERS, Array, HetSynState
from hetsyn_plugins.core.masks import without_absent
from hetsyn_plugins.core.memory import check_fits
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import Surrogate, resolve
from hetsyn_plugins.core.validation import check_inputs_shape, check_state, host_array, state_shapes

TAP = 34  # bytes that `taps` takes a synapse and step: two booleans and up to four numbers


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
    return advance(in_full(params), _checked_inputs(params, x[None])[0], initial_state)


def advance(p: HetSynParams, x: Array, state: HetSynState) -> HetSynState:
    """The equations above for expanded float64 parameters and inputs (B, M) that were checked."""
    inputs = _with_past(state.past_inputs, x[None])
    current = p.decay * state.current + p.weight * delayed(inputs, p.delay)
    v = current.sum(-1)
    recurrent = reset = adaptation = fired = None
    if p.recurrent_weight is not None:
        fired = _with_past(state.past_spikes, state.spikes[None])
        recurrent = p.recurrent_decay * state.recurrent_current + p.recurrent_weight * delayed(fired, p.recurrent_delay)
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
    past_inputs = None if p.delay is None else inputs[1:]
    past_spikes = None if p.recurrent_delay is None or fired is None else fired[1:]
    return HetSynState(current, recurrent, reset, adaptation, spikes, v, past_inputs, past_spikes)


def in_full(params: HetSynParams) -> HetSynParams:
    """What `advance` takes: float64, every shared field written out, absent synapses without a decay."""
    full = params.astype(np.float64).expanded()
    decays = without_absent(_fields(full), ("decay",))
    return full.replace(decay=decays["decay"], recurrent_decay=decays["recurrent_decay"])


def taps(delay: Array, most: int) -> tuple[Array, Array]:
    """What a delayed synapse takes of the source of 0, 1, ..., `most` steps ago, and the derivative by the delay.

    Both are (most + 1, N, K). A delay d = k + f takes 1 - f of k steps ago and f of k + 1; a whole one has the
    derivative of the piece to its right, `most` that of the piece to its left.
    """
    if most == 0:
        return np.ones((1, *delay.shape)), np.zeros((1, *delay.shape))
    earlier = np.minimum(np.floor(delay), most - 1)
    of_earlier, of_later = (np.arange(most + 1)[:, None, None] == k for k in (earlier, earlier + 1))
    fraction = delay - earlier
    return of_earlier * (1 - fraction) + of_later * fraction, 1.0 * of_later - of_earlier


def delayed(sources: Array, delay: Array | None) -> Array:
    """What each synapse gets, (B, N, K), of the sources (D + 1, B, K) of the last steps, the latest last."""
    if delay is None:
        return sources[-1][:, None, :]
    weights, _ = taps(delay, len(sources) - 1)
    return np.asarray(np.einsum("lnk,lbk->bnk", weights, sources[::-1]))


def _with_past(past: Array | None, latest: Array) -> Array:
    return latest if past is None else np.concatenate([past, latest])


def zero_state(params: HetSynParams, batch: int) -> HetSynState:
    """The state before the first step: all zeros. ValueError where a past of max_delay steps does not fit memory."""
    n, m = params.weight.shape
    lines = (m if params.delay is not None else 0) + (n if params.recurrent_delay is not None else 0)
    expected = "max_delay: expected so few steps that the past of a state and `taps` fit memory"
    check_fits(f"{expected}, got {params.max_delay}", params.max_delay * lines * (8 * batch + TAP * n))
    shapes = state_shapes(_fields(params), params.spiking, batch, params.max_delay)
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
    p = in_full(params)
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
        gI = r gI[t+1] + gv               gw += gI x[t-d]            gr += gI I[t-1]        gx[t-d] += sum_i w gI
        gL = p gL[t+1] + gv               gu += gL z[t-1-e]          gp += gL L[t-1]        gd += w gI dx[t-d]/dd
        gJ = kappa gJ[t+1] - gv           gA = rho gA[t+1] - gv      likewise
        gz[t-1] = grad_spikes + theta gJ + a gA                      gz[t-1-e] += sum_i u gL
    """
    surrogate = resolve(surrogate)
    v, states = trajectory(params, inputs, state)
    x = host_array("inputs", inputs, np.float64)
    p = in_full(params)
    g: dict[str, Any] = {name: np.zeros(getattr(p, name).shape) for name in NUMBERS if getattr(p, name) is not None}
    g_spikes = np.zeros(v.shape) if grad_spikes is None else np.asarray(grad_spikes, np.float64)
    g_v = np.zeros(v.shape) if grad_v is None else np.asarray(grad_v, np.float64)

    # dLoss/d(state after step t) by what comes later; to begin with: through the returned state
    zeros = [None if s is None else np.zeros(s.shape) for s in states[-1]]
    final = zeros if grad_state is None else grad_state
    gI, gL, gJ, gA, g_z, g_v_state, g_past_x, g_past_z = (
        zero if g is None else np.array(g, np.float64) for g, zero in zip(final, zeros, strict=True)
    )
    # of the sources from the first that a synapse reads on: inputs x[-D], ..., x[T-1] and spikes z[-1-D], ..., z[T-1]
    all_x, g_x = _source_gradients(states[0].past_inputs, x, g_past_x)
    first_z = np.zeros_like(v[:1].sum(0)) if states[0].spikes is None else states[0].spikes
    fired = [s.spikes if p.spiking else np.zeros_like(first_z) for s in states[1:]]
    all_z, gz_all = _source_gradients(states[0].past_spikes, np.stack([first_z, *fired]), g_past_z, 1)
    if g_z is not None:
        gz_all[-1] += g_z
    for t in reversed(range(len(x))):
        before = states[t]
        gv = g_v[t] + g_v_state
        if p.spiking:
            gz = g_spikes[t] + gz_all[len(gz_all) - len(x) + t]
            gd = gz * surrogate.derivative(v[t] - p.threshold, p.threshold)
            gv = gv + gd
            g["threshold"] -= gd.sum(0)
        g_v_state = np.zeros_like(gv)  # v[t-1] itself has no influence on step t
        g_z = gz_all[len(gz_all) - len(x) + t - 1]  # of z[t-1]: a view

        gI = gI + gv[:, :, None]
        g["decay"] += (gI * before.current).sum(0)
        _through_synapses(gI, p, "", all_x, g_x, t, g)
        gI = p.decay * gI
        if p.recurrent_weight is not None:
            gL = gL + gv[:, :, None]
            g["recurrent_decay"] += (gL * before.recurrent_current).sum(0)
            _through_synapses(gL, p, "recurrent_", all_z, gz_all, t, g)
            gL = p.recurrent_decay * gL
        if p.reset_decay is not None:
            gJ = gJ - gv
            g["threshold"] += (gJ * before.spikes).sum(0)
            g["reset_decay"] += (gJ * before.reset).sum(0)
            g_z += 0 if detach_reset else p.threshold * gJ
            gJ = p.reset_decay * gJ
        if p.adaptation_decay is not None:
            gA = gA - gv
            g["adaptation_strength"] += (gA * before.spikes).sum(0)
            g["adaptation_decay"] += (gA * before.adaptation).sum(0)
            g_z += p.adaptation_strength * gA
            gA = p.adaptation_decay * gA
        if p.bias is not None:
            g["bias"] += gv.sum(0)
    g |= {name: getattr(p, name) for name in MASKS}
    g = {**without_absent(g, ("weight", "decay")), **dict.fromkeys(MASKS)}
    first = len(gz_all) - len(x) - 1  # of z[-1], the `spikes` of the first state
    state_gradient = HetSynState(
        gI,
        gL,
        gJ,
        gA,
        gz_all[first] if p.spiking else None,
        g_v_state,
        None if p.delay is None else g_x[: p.max_delay],
        None if p.recurrent_delay is None else gz_all[:first],
    )
    return Gradients(
        g_x[len(g_x) - len(x) :],
        {name: _to_shape(g.get(name), getattr(params, name)) for name in ARRAYS},
        state_gradient,
    )


def _source_gradients(
    past: Array | None, sources: Array, grad_past: Array | None, beyond: int = 0
) -> tuple[Array, Array]:
    """Sources with those of earlier steps in front, and their gradients: what comes through the last state's past.

    beyond  how many of the last are no part of that past
    """
    sources = _with_past(past, sources)
    g = np.zeros(sources.shape)
    if grad_past is not None:
        end = len(g) - beyond
        g[end - len(grad_past) : end] += grad_past
    return sources, g


def _through_synapses(
    g_current: Array, p: HetSynParams, kind: str, sources: Array, g_sources: Array, t: int, g: dict[str, Any]
) -> None:
    """What dLoss/dcurrent at step t gives weights, delays and the sources; kind is "" or "recurrent_"."""
    weight, delay = getattr(p, f"{kind}weight"), getattr(p, f"{kind}delay")
    if delay is None:
        g[f"{kind}weight"] += np.einsum("bnk,bk->nk", g_current, sources[t])
        g_sources[t] += np.einsum("bnk,nk->bk", g_current, weight)
        return
    weights, slopes = taps(delay, p.max_delay)
    of_lag, g_of_lag = (x[t : t + len(weights)][::-1] for x in (sources, g_sources))  # views: 0, 1, ... steps ago
    g[f"{kind}weight"] += np.einsum("bnk,lnk,lbk->nk", g_current, weights, of_lag)
    g_of_lag += np.einsum("bnk,nk,lnk->lbk", g_current, weight, weights)
    g[f"{kind}delay"] += weight * np.einsum("bnk,lnk,lbk->nk", g_current, slopes, of_lag)


def _to_shape(gradient: Array | None, field: Any) -> Array | None:
    """Sum the gradient of an expanded field over the entries that share a value."""
    if gradient is None or field is None:
        return None
    shape = field.shape
    if gradient.ndim == 2 and len(shape) == 1:
        return np.asarray(gradient.sum(1))
    padded = (1,) * (gradient.ndim - len(shape)) + shape
    axes = tuple(axis for axis, size in enumerate(padded) if size == 1)
    return np.asarray(gradient.sum(axes)).reshape(shape)


def _fields(params: HetSynParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in ARRAYS}


def _checked_state(params: HetSynParams, state: HetSynState | None, batch: int) -> HetSynState:
    if state is None:
        return zero_state(params, batch)
    check_state(state, state_shapes(_fields(params), params.spiking, batch, params.max_delay))
    return HetSynState(*(None if s is None else np.asarray(s, np.float64) for s in state))


def _checked_inputs(params: HetSynParams, array: NDArray[Any]) -> Array:
    if (array.dtype != bool and not np.issubdtype(array.dtype, np.number)) or np.iscomplexobj(array):
        raise ValueError(f"inputs: expected real numbers, got {array.dtype}")
    check_inputs_shape(array, params.weight)
    x = array.astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"inputs: expected finite values, got {int((~np.isfinite(x)).sum())} NaN or infinite ones")
    return x
