"""What every backend is asked to run: cases, and how they are drawn."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import ARRAYS, DECAYS, MASKS, Array, HetSynState
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import MultiGaussian, Surrogate


@dataclass(frozen=True)
class OutputGradients:
    """dLoss/d(outputs) of a case: of spikes and v, (T, B, N), and of the returned state.

    state  None: training as it mostly is, the loss sees spikes and v only, and a given first state is a constant
    """

    spikes: Array | None
    v: Array
    state: HetSynState | None


@dataclass(frozen=True)
class Case:
    """What a backend is asked to run: without output gradients forward only; the dtype is that of the parameters.

    codebook  the different decays of the synapses are to be shared, a codebook: `Outcome.gradients` has in the place of
              `decay` the one of each of them, ascending, inputs' and recurrent synapses' together
    convolution  the parameters are those of the dense layer that this one is (`convolutions.Over`), and inputs and
              outputs flat images; `Outcome.gradients` has those of the kernels and of each channel
    """

    label: str
    params: HetSynParams
    inputs: Array
    state: HetSynState | None = None
    output_gradients: OutputGradients | None = None
    surrogate: Surrogate = field(default_factory=MultiGaussian)
    detach_reset: bool = False
    codebook: bool = False
    convolution: Any = None


@dataclass(frozen=True)
class Outcome:
    """What came out: spikes (None for a readout) and v (T, B, N), the last state, gradients where they were asked.

    state  None: of a backend that shows none (`Backend.states`)
    """

    spikes: Array | None
    v: Array
    state: HetSynState | None
    gradients: reference.Gradients | None = None


def _full(rng: np.random.Generator, n: int, m: int, **more: Any) -> HetSynParams:
    values = {
        "weight": rng.normal(0.1, 1, (n, m)) / np.sqrt(m),
        "decay": rng.uniform(0.3, 0.98, (n, m)),
        "reset_decay": rng.uniform(0.5, 0.95, n),
        "threshold": rng.uniform(0.6, 1.2, n),
        **more,
    }
    return HetSynParams(**values)


def _recurrence(rng: np.random.Generator, n: int) -> dict[str, Any]:
    return {
        "recurrent_weight": rng.normal(0, 0.5, (n, n)) / np.sqrt(n),
        "recurrent_decay": rng.uniform(0.3, 0.95, (n, n)),
    }


def _adaptation(rng: np.random.Generator, n: int) -> dict[str, Any]:
    return {"adaptation_decay": rng.uniform(0.8, 0.99, n), "adaptation_strength": rng.uniform(0.02, 0.2, n)}


def _weights(rng: np.random.Generator, n: int, m: int) -> Array:
    return np.asarray(rng.normal(0.1, 1, (n, m)) / np.sqrt(m))


def _delays(rng: np.random.Generator, n: int, m: int) -> dict[str, Any]:
    """Delays of 0 to 5 steps, some of them whole, the shortest and the longest among these; 6 steps are kept."""

    def draw(columns: int) -> Array:
        delay = rng.uniform(0, 5, (n, columns))
        return np.where(rng.random(delay.shape) < 0.4, np.round(delay), delay).astype(np.float32).astype(np.float64)

    return {"delay": draw(m), "recurrent_delay": draw(n), "max_delay": 6}


def _masks(rng: np.random.Generator, n: int, m: int) -> dict[str, Any]:
    """A fifth of the synapses are there, at least one a neuron."""

    def draw(columns: int) -> Any:
        mask = rng.random((n, columns)) < 0.2
        mask[np.arange(n), rng.integers(0, columns, n)] = True
        return mask

    return {"mask": draw(m), "recurrent_mask": draw(n)}


Draw = Callable[[np.random.Generator, int, int], HetSynParams]


KINDS: dict[str, Draw] = {
    "feed-forward": _full,
    "recurrent": lambda rng, n, m: _full(rng, n, m, **_recurrence(rng, n)),
    "adaptation": lambda rng, n, m: _full(rng, n, m, **_adaptation(rng, n)),
    "everything": lambda rng, n, m: _full(
        rng, n, m, **_recurrence(rng, n), **_adaptation(rng, n), bias=rng.normal(0, 0.05, n)
    ),
    "no reset": lambda rng, n, m: _full(rng, n, m, reset_decay=None, **_recurrence(rng, n)),
    "readout": lambda rng, n, m: HetSynParams.readout(
        _weights(rng, n, m), rng.uniform(0.3, 0.98, (n, m)), bias=rng.normal(0, 0.1, n)
    ),
    "one decay a neuron": lambda rng, n, m: _full(rng, n, m, decay=rng.uniform(0.3, 0.98, n), reset_decay=0.8),
    "one decay a line": lambda rng, n, m: _full(rng, n, m, decay=rng.uniform(0.3, 0.98, (1, m)), threshold=0.9),
    "one decay": lambda rng, n, m: _full(
        rng, n, m, decay=0.9, recurrent_weight=_weights(rng, n, n) / 2, recurrent_decay=0.7
    ),
    "tau 0 to infinity": lambda rng, n, m: _full(
        rng,
        n,
        m,
        weight=_weights(rng, n, m) / 3,  # perfect integrators: smaller steps, or v runs away
        decay=rng.choice([0.0, 0.5, 0.99, 1.0], (n, m)),
        reset_decay=rng.choice([0.0, 0.9, 1.0], n),
        recurrent_weight=rng.normal(0, 0.1, (n, n)),
        recurrent_decay=rng.choice([0.0, 0.5, 0.99], (n, n)),
    ),
    "LIF": lambda rng, n, m: HetSynParams.lif(_weights(rng, n, m), 0.9, recurrent_weight=_weights(rng, n, n) / 4),
    "ALIF": lambda rng, n, m: HetSynParams.alif(
        _weights(rng, n, m), 0.9, adaptation_decay=0.97, adaptation_strength=0.1
    ),
    "HetNeuLIF": lambda rng, n, m: HetSynParams.neuron_heterogeneous(_weights(rng, n, m), rng.uniform(0.5, 0.98, n)),
    "delays": lambda rng, n, m: _full(
        rng, n, m, **_recurrence(rng, n), **_adaptation(rng, n), bias=rng.normal(0, 0.05, n), **_delays(rng, n, m)
    ),
    "whole delays": lambda rng, n, m: _full(rng, n, m, delay=rng.choice([0.0, 1.0, 2.0, 7.0], (n, m))),
    "masks": lambda rng, n, m: _full(
        rng, n, m, **_recurrence(rng, n), **_adaptation(rng, n), bias=rng.normal(0, 0.05, n), **_masks(rng, n, m)
    ),
}


def _shared(rng: np.random.Generator, *shape: int) -> Array:
    """Decays of which there are three."""
    return rng.choice([0.4, 0.8, 0.95], shape)


DRAWS: dict[str, Draw] = {  # of one check each, which asks for them by name
    "codebook": lambda rng, n, m: _full(rng, n, m, decay=_shared(rng, n, m)),
    "recurrent codebook": lambda rng, n, m: _full(
        rng,
        n,
        m,
        **_adaptation(rng, n),
        decay=_shared(rng, n, m),
        recurrent_weight=rng.normal(0, 0.5, (n, n)) / np.sqrt(n),
        recurrent_decay=_shared(rng, n, n),
    ),
    "convolution, 2d": lambda rng, n, m: _convolution(rng, "2d"),
    "convolution, 1d": lambda rng, n, m: _convolution(rng, "1d", late=True),
}


def _convolution(rng: np.random.Generator, name: str, late: bool = False) -> HetSynParams:
    from hetsyn_plugins.conformance import convolutions  # torch's, which other kinds do without

    return convolutions.draw(rng, convolutions.CONVOLUTIONS[name], late)


INPUTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "dense": lambda rng, shape: (rng.random(shape) < 0.6).astype(np.float64),
    "sparse": lambda rng, shape: (rng.random(shape) < 0.08).astype(np.float64),
    "silent": lambda rng, shape: np.zeros(shape),
    "graded": lambda rng, shape: rng.normal(0.2, 0.7, shape),
}


def draw(
    seed: int,
    kind: str,
    inputs: str = "dense",
    *,
    sizes: tuple[int, int, int, int] = (40, 3, 6, 7),
    dtype: Any = np.float64,
    with_state: bool = False,
    with_gradients: bool = False,
    through_state: bool = False,
    **options: Any,
) -> Case:
    """A random case of T, B, N, M = sizes, drawn again until it spikes and stays clear of the threshold.

    Spikes: in 2 to 90 % of neuron-steps, or it would prove nothing. Clear: see `rounding_bound`.
    """
    case, outputs, rng = _draw(seed, kind, inputs, sizes, dtype, with_state)
    case, outputs, rng = copy.deepcopy((replace(case, **options), outputs, rng))
    if not with_gradients:
        return case
    return replace(case, output_gradients=draw_gradients(rng, outputs, dtype, through_state))


Outputs = tuple[Array | None, Array, HetSynState]  # what `reference.run` gives


@functools.lru_cache(maxsize=512)  # every backend asks for the same ones
def _draw(
    seed: int, kind: str, inputs: str, sizes: tuple[int, int, int, int], dtype: Any, with_state: bool
) -> tuple[Case, Outputs, np.random.Generator]:
    """The case without gradients, what the reference makes of it, and the generator, which goes on."""
    steps, batch, n, m = sizes
    for attempt in range(50):
        rng = np.random.default_rng([seed, attempt])
        params = (DRAWS.get(kind) or KINDS[kind])(rng, n, m).astype(dtype)
        x = INPUTS[inputs](rng, (steps, batch, m)).astype(dtype)
        state = None
        if with_state:
            state = _rounded(reference.run(params, INPUTS["dense"](rng, (9, batch, m)))[2], dtype)
            state = _of_other_masks(params, state)
        case = Case(f"{kind}, {inputs}, seed {seed}", params, x, state)
        outputs = spikes, v, _ = reference.run(params, x, state)
        alive = spikes is None or inputs == "silent" or steps < 20 or 0.02 < spikes.mean() < 0.9
        if alive and clear_of_threshold(case, spikes, v):
            return case, outputs, rng
    raise Mismatch(f"{kind}, {inputs}: none of 50 draws spikes and stays clear of the threshold")


def draw_gradients(rng: np.random.Generator, outputs: Outputs, dtype: Any, through_state: bool) -> OutputGradients:
    """Random gradients for what `reference.run` gave."""

    def like(x: Any) -> Any:
        return None if x is None else rng.normal(size=x.shape).astype(dtype)

    spikes, v, end = outputs
    return OutputGradients(like(spikes), like(v), HetSynState(*map(like, end)) if through_state else None)


def draw_at_threshold(kind: str, dtype: Any) -> Case:
    """A case in which v is the threshold, to the bit, in many neuron-steps, among them the last of the first state.

    Weights and thresholds are multiples of 1/4, decays 0 or 1/2, inputs 0 or 1, in 5 steps behind 3: every sum, in any
    order, is a multiple of 2^-10 below 2^6, exact in float32.
    """
    n, m = 7, 5
    for seed in range(1000):
        rng = np.random.default_rng([seed, n])
        drawn = KINDS[kind](rng, n, m)
        fields: dict[str, Any] = {name: _dyadic(rng, name, getattr(drawn, name)) for name in ARRAYS}
        params = HetSynParams(**fields).astype(dtype)
        x = rng.integers(0, 2, (8, 2, m)).astype(dtype)
        state = _rounded(reference.run(params, x[:3])[2], dtype)
        outputs = reference.run(params, x[3:], state)
        spikes, v, _ = outputs
        hits = (v[:-1] == params.threshold).sum()  # of the last step nothing later depends on
        if hits >= 5 and (state.v == params.threshold).any() and spikes is not None and spikes.mean() > 0.1:
            gradients = draw_gradients(rng, outputs, dtype, through_state=False)
            return Case(f"at the threshold, {kind}", params, x[3:], state, gradients)
    raise Mismatch(f"{kind}: none of 1000 draws hits the threshold")


def _dyadic(rng: np.random.Generator, name: str, like: Array | None) -> Array | None:
    if like is None:
        return None
    if name in MASKS:
        return like
    if name in DECAYS:
        return rng.choice([0.0, 0.5], like.shape)
    low, high = {"threshold": (2, 5), "adaptation_strength": (1, 2)}.get(name, (-2, 5))
    return rng.integers(low, high, like.shape) / 4


def _of_other_masks(params: HetSynParams, state: HetSynState) -> HetSynState:
    """The state of a layer whose masks were others a step ago: currents of 0.25 where now no synapse is."""
    parts = {"current": params.mask, "recurrent_current": params.recurrent_mask}
    currents = {
        name: np.where(m, i, i.dtype.type(0.25))
        for name, m in parts.items()
        if (i := getattr(state, name)) is not None and m is not None
    }
    return state._replace(**currents)


def _rounded(state: HetSynState, dtype: Any) -> HetSynState:
    """A state in another dtype, with its spikes fired from the rounded v (they are the same: v is clear of theta)."""
    return HetSynState(*(None if s is None else s.astype(dtype) for s in state))


def clear_of_threshold(case: Case, spikes: Array | None, v: Array) -> bool:
    """Is every neuron-step, and the v of the first state, further from the threshold than rounding can move it?"""
    if spikes is None:
        return True
    threshold = np.broadcast_to(case.params.threshold, v.shape[2:]).astype(np.float64)
    bound = rounding_bound(case, spikes)
    clear = bool((np.abs(v - threshold) > 2 * bound).all())
    if case.state is not None:
        clear = clear and bool((np.abs(case.state.v - threshold) > 1e-4).all())
    return clear


def rounding_bound(case: Case, spikes: Array) -> Array:
    """How far rounding can move v, (T, B, N), in arithmetic of the case's dtype, with these spikes imposed.

    With u = eps / 2, a current C[t] = r C[t-1] + c[t] takes three roundings a step (two products, one sum), so its
    error obeys E[t] <= r E[t-1] + 3 u |C|[t], |C| the recursion of the absolute values; what a delay takes of two steps
    takes up to four more (1 - f, two products, one sum). A sum of K terms in any order adds at most K u times the sum
    of their absolute values.
    """
    eps = float(np.finfo(case.params.weight.dtype).eps)
    p = reference.in_full(case.params)
    absolute = p.replace(
        weight=np.abs(p.weight),
        recurrent_weight=None if p.recurrent_weight is None else np.abs(p.recurrent_weight),
        adaptation_strength=None if p.adaptation_strength is None else np.abs(p.adaptation_strength),
        bias=None if p.bias is None else np.abs(p.bias),
    )
    state = reference.zero_state(p, case.inputs.shape[1])
    if case.state is not None:
        state = HetSynState(*(None if s is None else np.abs(s.astype(np.float64)) for s in case.state))
    # twice N: a kernel may add the part of a recurrent current that it knew a step earlier, and the new spike, apart
    terms = p.weight.shape[1] + (0 if p.recurrent_weight is None else 2 * len(p.weight)) + 3
    errors, roundings = [0.0, 0.0, 0.0, 0.0], 7 if p.has_delays() else 3
    bounds = np.zeros(spikes.shape)
    for t, x in enumerate(np.abs(case.inputs.astype(np.float64))):
        state = reference.advance(absolute, x, state)
        if p.spiking:
            state = state._replace(spikes=spikes[t].astype(np.float64))
        currents = (state.current, state.recurrent_current, state.reset, state.adaptation)
        decays = (p.decay, p.recurrent_decay, p.reset_decay, p.adaptation_decay)
        magnitude, error = np.zeros(spikes.shape[1:]), np.zeros(spikes.shape[1:])
        for k, (current, decay) in enumerate(zip(currents, decays, strict=True)):
            if current is None:
                continue
            errors[k] = decay * errors[k] + 0.5 * roundings * eps * current
            axis = tuple(range(2, current.ndim))
            magnitude, error = magnitude + current.sum(axis), error + np.sum(errors[k], axis)
        magnitude = magnitude + (0 if p.bias is None else np.abs(p.bias))
        bounds[t] = error + 0.5 * eps * terms * magnitude
    return bounds


class Mismatch(AssertionError):
    """A backend broke the contract; the message says what was compared and what came.

    failure  what the smallest failing case shows (`failures.Failure`), where somebody looked for it
    """

    failure: Any = None


@dataclass(frozen=True)
class Backend:
    """One way to run the neuron, and what it can and cannot do: a case that it cannot run is left out, and counted.

    name       what it is called in reports
    run        gives the Outcome of a Case, NumPy in and out
    dtypes     that it computes in, the widest first
    z_from_v   the state of a layer without recurrence has no spikes of its own: the last z is fired from v, so
               gradients of z[-1] reach v and the threshold
    gradients  False: it has a forward pass only
    states     False: it starts from zeros and shows spikes and v only; `Outcome.state` is not looked at
    delays     False: it has no synapses with delays
    masks      False: it has no masks: gradients of absent weights, and first currents of absent synapses
    codebooks  False: it has no synapses that share a codebook
    convolutions   False: it has no layers over images
    takes      of which cases it can hold the parameters; None: of all
    known      check -> why it is known not to hold; one that holds all the same is reported
    origin     where `loading.load` finds it, for what reproduces a failure
    """

    name: str
    run: Callable[[Case], Outcome]
    dtypes: tuple[type, ...] = (np.float64, np.float32)
    z_from_v: bool = False
    gradients: bool = True
    states: bool = True
    delays: bool = False
    masks: bool = False
    codebooks: bool = False
    convolutions: bool = False
    takes: Callable[[Case], bool] | None = None
    known: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""

    def draw(self, *arguments: Any, **options: Any) -> Case:
        """A case as `draw` draws it, in the widest dtype that this backend has."""
        return draw(*arguments, **{"dtype": self.dtypes[0], **options})

    def why_not(self, case: Case) -> str | None:
        """None where it takes this case, else what it lacks."""
        if case.params.weight.dtype not in [np.dtype(dtype) for dtype in self.dtypes]:
            return f"no {case.params.weight.dtype}"
        wanted = case.output_gradients
        if wanted is not None and not self.gradients:
            return "no gradients"
        if not self.states and (case.state is not None or (wanted is not None and wanted.state is not None)):
            return "no states"
        if case.params.has_delays() and not self.delays:
            return "no delays"
        if (case.params.mask is not None or case.params.recurrent_mask is not None) and not self.masks:
            return "no masks"
        if case.codebook and not self.codebooks:
            return "no codebook"
        if case.convolution is not None and not self.convolutions:
            return "no convolution"
        if self.takes is not None and not self.takes(case):
            return "no such layers"
        return None
