"""The contract: checks that every backend must pass, run alike by `hetsyn verify` and by the tests.

A backend takes a Case and gives an Outcome, both in NumPy, so that a kernel and a framework's layer are the same kind
of thing. A check draws cases, runs them, compares, and raises Mismatch or returns a Tally of what was compared and how
far apart it was. Judges: closed forms and plain recursions written here, and `reference.py` (whose own judges are the
same closed forms and, for its gradients, finite differences: `tests/core/test_reference.py`).

Spikes are compared exactly. They may differ only where |v - threshold| is below `rounding_bound`, and cases are drawn
again until no neuron-step lies there; cases that hit the threshold use dyadic numbers, exact in any order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from hetsyn_plugins.conformance.cases import (
    INPUTS,
    KINDS,
    Backend,
    Case,
    Mismatch,
    Outcome,
    draw_at_threshold,
    rounding_bound,
)
from hetsyn_plugins.conformance.comparison import (
    Tally,
    close,
    compare,
    compare_gradients,
    expected,
    same_spikes,
    same_state,
    taken,
    tolerance,
)
from hetsyn_plugins.conformance.failures import result_of
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import ARRAYS, Array
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import Arctan, FastSigmoid, MultiGaussian, Sigmoid, Triangular

Check = Callable[[Backend], Tally]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check under its name, without the leading check_."""
    CHECKS[function.__name__.removeprefix("check_").replace("_", "-")] = function
    return function


@check
def check_hand_table(backend: Backend) -> Tally:
    """Two neurons worked out by hand, in dyadic numbers: every term, its order, and v == threshold, which is silent.

    Neuron 0: w = (1/2, 1/4), r = (1/2, 1/4), kappa = 1/2, theta = 1. Neuron 1 sees line 0 with w = 1, r = 0,
    kappa = 1/4, theta = 1/2. u[0, 1] = 1/2, p[0, 1] = 1/2: neuron 1's spikes reach neuron 0 one step later.

        x          I_00   I_01   L_01   J_0    v_0      z_0   v_1           z_1
        (1, 1)     1/2    1/4    0      0      3/4      0     1             1     first spike of neuron 1
        (1, 0)     3/4    1/16   1/2    0      21/16    1     1 - 1/2       0     v_1 == theta: silent; L arrives
        (0, 0)     3/8    1/64   1/4    1     -23/64    0     0 - 1/8       0     J_0 = theta_0 z_0[t-1]
        (1, 1)     11/16  65/256 1/8    1/2    145/256  0     1 - 1/32      1
    """
    params = HetSynParams(
        [[0.5, 0.25], [1.0, 0.0]],
        [[0.5, 0.25], [0.0, 0.5]],
        reset_decay=[0.5, 0.25],
        threshold=[1.0, 0.5],
        recurrent_weight=[[0.0, 0.5], [0.0, 0.0]],
        recurrent_decay=[[0.5, 0.5], [0.5, 0.5]],
    )
    x = np.array([[[1.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]], [[1.0, 1.0]]])
    v = np.array([[[3 / 4, 1.0]], [[21 / 16, 1 / 2]], [[-23 / 64, -1 / 8]], [[145 / 256, 31 / 32]]])
    spikes = np.array([[[0.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]], [[0.0, 1.0]]])
    tally = Tally()
    for dtype in backend.dtypes:
        case = Case("hand table", params.astype(dtype), x.astype(dtype))
        if not taken(backend, case, tally):
            continue
        got = backend.run(case)
        same_spikes("hand table", got.spikes, spikes, tally)
        close("hand table: v", got.v, v, tally, 0.0)  # dyadic numbers are exact
        if got.state is not None:
            close("hand table: J", got.state.reset, np.array([[1 / 2, 1 / 32]]), tally, 0.0)
    return tally


@check
def check_threshold(backend: Backend) -> Tally:
    """v == threshold does not fire, the next number above it does; exact in float32 and float64."""
    tally = Tally()
    for dtype in backend.dtypes:
        for theta in (1.0, 0.75):
            above = float(np.nextafter(dtype(theta), dtype(2)))
            params = HetSynParams(np.eye(3), 0.0, reset_decay=0.0, threshold=theta).astype(dtype)
            x: Array = np.array([[[theta, above, theta / 2]], [[0.0, 0.0, 0.0]], [[theta, above, theta]]], dtype)
            want = np.array([[[0, 1, 0]], [[0, 0, 0]], [[0, 1, 0]]], np.float64)
            case = Case(f"threshold {theta}", params, x)
            if not taken(backend, case, tally):
                continue
            got = backend.run(case)
            same_spikes(f"threshold {theta}, {np.dtype(dtype)}", got.spikes, want, tally)
            reset = np.concatenate([np.zeros((1, 1, 3)), theta * want[:-1]])
            close(f"threshold {theta}, {np.dtype(dtype)}: v", got.v, x - reset, tally, 0.0)
    return tally


@check
def check_threshold_gradients(backend: Backend) -> Tally:
    """v == threshold does not fire in backward either, where kernels ask v again who fired.

    Neurons at the threshold feed the others, their reset and their adaptation: a spike too many moves those gradients.
    """
    tally = Tally()
    for dtype in backend.dtypes:
        for kind in ("feed-forward", "adaptation", "everything"):
            compare(backend, draw_at_threshold(kind, dtype), tally)
    return tally


@check
def check_closed_forms(backend: Backend) -> Tally:
    """Without spikes, constant input: v[t] = sum_j w_j x_j (1 + r_j + ... + r_j^t) + b; r = 0 forgets, r = 1 counts."""
    w, r, x = np.array([[0.01, -0.02, 0.03]]), np.array([[0.0, 0.5, 1.0]]), np.array([1.0, 2.0, -1.0])
    steps, dtype = 50, backend.dtypes[0]
    t = np.arange(steps)[:, None]
    gain = np.where(r == 1, t + 1.0, (1 - r ** (t + 1.0)) / np.where(r == 1, 1.0, 1 - r))  # (T, M)
    v = (w * x * gain).sum(1)[:, None, None] + 0.125
    tally = Tally()
    for spiking in (True, False):
        params = HetSynParams(w, r, reset_decay=1.0 if spiking else None, threshold=10.0, bias=[0.125], spiking=spiking)
        case = Case("closed form", params.astype(dtype), np.tile(x, (steps, 1, 1)).astype(dtype))
        if not taken(backend, case, tally):
            continue
        got = backend.run(case)
        close("closed form: v", got.v, v, tally, tolerance(case))
        same_spikes("closed form", got.spikes, np.zeros(v.shape) if spiking else None, tally)
    return tally


@check
def check_special_cases(backend: Backend) -> Tally:
    """LIF, ALIF and HetNeuLIF equal their one-membrane recursions (the paper's propositions), written here."""
    tally = Tally()
    for kind in ("LIF", "ALIF", "HetNeuLIF"):
        for seed in range(2):
            case = backend.draw(seed, kind, sizes=(120, 2, 5, 6))
            if not taken(backend, case, tally):
                continue
            spikes, v = one_membrane(case.params, case.inputs)
            got = backend.run(case)
            same_spikes(case.label, got.spikes, spikes, tally)
            close(f"{case.label}: v", got.v, v, tally, tolerance(case))
    return tally


def one_membrane(p: HetSynParams, x: Array) -> tuple[Array, Array]:
    """A plain LIF with one decay a neuron, and its adaptation: v[t] = rho v[t-1] + W x[t] + U z[t-1] - theta z[t-1]."""
    v = z = a = np.zeros((x.shape[1], len(p.weight)))
    spikes, membranes = [], []
    for x_t in x:
        v = p.reset_decay * v + x_t @ p.weight.T - p.threshold * z
        if p.recurrent_weight is not None:
            v = v + z @ p.recurrent_weight.T
        if p.adaptation_decay is not None:
            a = p.adaptation_decay * a + p.adaptation_strength * z
        z = (v - a > p.threshold).astype(np.float64)
        spikes.append(z)
        membranes.append(v - a)
    return np.array(spikes), np.array(membranes)


@check
def check_random(backend: Backend) -> Tally:
    """Every kind of layer on dense, sparse, silent and graded inputs: spikes, v and final state, float64."""
    tally = Tally()
    for seed, kind in enumerate(KINDS):
        for inputs in ("dense", "graded") if kind != "everything" else INPUTS:
            compare(backend, backend.draw(seed, kind, inputs, sizes=(60, 2, 6, 7)), tally)
    compare(backend, backend.draw(3, "recurrent", "sparse", sizes=(60, 2, 6, 40)), tally)
    return tally


@check
def check_thousand_steps(backend: Backend) -> Tally:
    """1,000 steps in float64: spikes equal, states within 1e-10."""
    tally = Tally()
    for seed, kind in enumerate(("everything", "tau 0 to infinity", "LIF")):
        compare(backend, backend.draw(seed, kind, sizes=(1000, 1, 4, 5)), tally)
    return tally


# T, B, N, M: every dimension crosses the edges of lanes (2 to 16), tiles (4) and blocks (of lanes, of the cache);
# and above 128 neurons time crosses that of a chunk of steps
EDGES = [
    (0, 2, 3, 4),
    (0, 17, 33, 31),
    (1, 2, 3, 4),
    (2, 1, 1, 1),
    (15, 1, 5, 1),
    (16, 3, 1, 9),
    (9, 5, 17, 3),
    (2, 17, 15, 63),
    (3, 31, 2, 16),
    (2, 33, 16, 2),
    (3, 63, 31, 15),
    (1, 65, 33, 17),
    (4, 2, 63, 65),
    (3, 15, 65, 31),
    (2, 3, 127, 33),
    (3, 1, 129, 127),
    (2, 127, 3, 129),
    (2, 129, 4, 5),
    (17, 2, 131, 2),
    (250, 16, 5, 4),
    (1000, 1, 17, 3),
]


@check
def check_sizes(backend: Backend) -> Tally:
    """Sizes from 0 (T only) or 1 up that cross every edge of lanes, tiles and blocks; gradients too.

    In every dtype, since a vector holds twice as many float32.
    """
    tally = Tally()
    for seed, sizes in enumerate(EDGES):
        for dtype in backend.dtypes:
            more = ["delays"] * (seed in (4, 10, 16)) + ["masks"] * (seed == 10)
            for kind in ("everything", "readout", *more):
                through_state = backend.states and seed % 4 == 0
                options = {"with_gradients": backend.gradients, "through_state": through_state, "dtype": dtype}
                compare(backend, backend.draw(seed, kind, sizes=sizes, **options), tally)
    return tally


@check
def check_states(backend: Backend) -> Tally:
    """All of a first state is used, and the state returned is the last one."""
    tally = Tally()
    for seed, kind in enumerate(("feed-forward", "everything", "no reset", "readout", "delays", "masks")):
        for steps in (0, 1, 25):
            compare(backend, backend.draw(seed, kind, "sparse", sizes=(steps, 2, 5, 6), with_state=True), tally)
    return tally


@check
def check_chunks(backend: Backend) -> Tally:
    """Running T1 then T2 steps with the state carried equals running T1 + T2 steps at once."""
    tally = Tally()
    for seed, kind in enumerate(("everything", "no reset", "readout", "delays", "masks")):
        case = backend.draw(seed, kind, sizes=(37, 2, 5, 6))
        for cut in (1, 20, 37):
            start = reference.zero_state(case.params, 2)  # asks for states
            if taken(backend, replace(case, state=start), tally):
                _same_in_two_chunks(backend, case, cut, tally)
    return tally


def _same_in_two_chunks(backend: Backend, case: Case, cut: int, tally: Tally) -> None:
    label = f"{case.label}, cut at {cut}"
    unbroken = backend.run(case)
    first = backend.run(replace(case, inputs=case.inputs[:cut]))
    second = backend.run(replace(case, inputs=case.inputs[cut:], state=first.state))
    if unbroken.spikes is not None and first.spikes is not None and second.spikes is not None:
        same_spikes(label, np.concatenate([first.spikes, second.spikes]), unbroken.spikes, tally)
    close(f"{label}: v", np.concatenate([first.v, second.v]), unbroken.v, tally, tolerance(case))
    same_state(label, second.state, unbroken.state, tally, tolerance(case))


@check
def check_rows(backend: Backend) -> Tally:
    """Rows of a batch do not see each other, and a step does not see later inputs."""
    tally = Tally()
    for kind in ("everything", "HetNeuLIF", "delays"):
        case = backend.draw(5, kind, sizes=(30, 4, 5, 6))
        if taken(backend, case, tally):
            _same_alone(backend, case, tally)
    return tally


def _same_alone(backend: Backend, case: Case, tally: Tally) -> None:
    together = backend.run(case)
    for row in range(4):
        alone = backend.run(replace(case, inputs=case.inputs[:, row : row + 1]))
        if together.spikes is not None:
            same_spikes(f"row {row} alone", alone.spikes, together.spikes[:, row : row + 1], tally)
        close(f"row {row} alone: v", alone.v, together.v[:, row : row + 1], tally, tolerance(case))
    changed = case.inputs.copy()
    changed[20:] = 1 - changed[20:]
    before = backend.run(replace(case, inputs=changed))
    close("v before a later input changed", before.v[:20], together.v[:20], tally, 0.0)
    if np.array_equal(before.v[20], together.v[20]):
        raise Mismatch("v at the step of a changed input is unchanged: input at t must reach v at t")


@check
def check_arguments_kept(backend: Backend) -> Tally:
    """Nothing that comes in is written to: inputs, state, parameters, gradients of the outputs.

    And a strided view of the inputs gives what a copy gives.
    """
    tally = Tally()
    for dtype in backend.dtypes:
        for kind in ("everything", "readout", "HetNeuLIF", "delays"):
            case = _all_that_it_takes(backend, kind, dtype)
            wide: Array = np.zeros((18, 3, 12), dtype)
            wide[::2, :, ::2] = case.inputs
            for view in (case, replace(case, inputs=wide[::2, :, ::2])):
                if backend.why_not(view) is None:
                    before = {name: array.copy() for name, array in arrays_of(view).items()}
                    backend.run(view)
                    for name, array in arrays_of(view).items():
                        if not np.array_equal(before[name], array):
                            raise Mismatch(f"{case.label}: {name} was written to")
                compare(backend, view, tally)
    return tally


def _all_that_it_takes(backend: Backend, kind: str, dtype: Any) -> Case:
    """A case with a first state and gradients of all outputs, as far as the backend has them."""
    options = {"with_state": backend.states, "with_gradients": backend.gradients, "through_state": backend.states}
    case = backend.draw(6, kind, sizes=(9, 3, 5, 6), dtype=dtype, **options)
    if case.output_gradients is None or case.output_gradients.state is None:
        return case
    # gradients of the last spikes and v would be added to those of all: what is handed on were then a sum
    of_currents = case.output_gradients.state._replace(spikes=None, v=None)
    return replace(case, output_gradients=replace(case.output_gradients, state=of_currents))


def arrays_of(case: Case) -> dict[str, Array]:
    """Every array of a case, by name."""
    arrays: dict[str, Any] = {"inputs": case.inputs}
    arrays |= {name: getattr(case.params, name) for name in ARRAYS}
    if case.state is not None:
        arrays |= {f"state.{name}": array for name, array in case.state._asdict().items()}
    if case.output_gradients is not None:
        spikes, v, state = (getattr(case.output_gradients, name) for name in ("spikes", "v", "state"))
        arrays |= {"gradient of spikes": spikes, "gradient of v": v}
        arrays |= {} if state is None else {f"gradient of state.{name}": a for name, a in state._asdict().items()}
    return {name: array for name, array in arrays.items() if array is not None}


@check
def check_gradients(backend: Backend) -> Tally:
    """Full BPTT of every kind of layer: inputs and all parameters, with losses on spikes, v and the returned state."""
    tally = Tally()
    for seed, kind in enumerate(KINDS):
        for through_state in (False, True):
            options: dict[str, Any] = {"with_gradients": True, "through_state": through_state}
            compare(backend, backend.draw(seed, kind, "graded", sizes=(30, 2, 5, 6), **options), tally)
    return tally


@check
def check_state_gradients(backend: Backend) -> Tally:
    """Gradients with a first state: of everything else where it is a constant, and of it too where it is not."""
    tally = Tally()
    for seed, kind in enumerate(
        ("feed-forward", "everything", "no reset", "readout", "tau 0 to infinity", "delays", "masks")
    ):
        for through_state in (False, True):
            options: dict[str, Any] = {"with_gradients": True, "through_state": through_state}
            compare(backend, backend.draw(seed, kind, "graded", sizes=(12, 2, 5, 6), with_state=True, **options), tally)
    return tally


@check
def check_codebook(backend: Backend) -> Tally:
    """Synapses that share three decays: the layer written out; a shared decay's gradient is the sum over all of them.

    Large enough, with few spikes, for what is fast where synapses share their decays.
    """
    tally = Tally()
    for seed, (kind, sizes, *drawn_inputs) in enumerate(SHARED):
        for inputs in drawn_inputs:
            drawn = backend.draw(seed, kind, inputs, sizes=sizes, with_gradients=backend.gradients)
            compare(backend, replace(drawn, codebook=True), tally)
    return tally


SHARED: list[Any] = [  # T, B, N, M; the last for GPU kernels
    ("codebook", (20, 12, 11, 420), "sparse", "graded"),
    ("recurrent codebook", (22, 13, 9, 420), "sparse", "graded"),
    ("recurrent codebook", (9, 12, 129, 5), "graded"),
]


@check
def check_convolutions(backend: Backend) -> Tally:
    """Layers over images, with stride, padding, dilation, groups, delays: the dense layer of the unrolled matrix."""
    from hetsyn_plugins.conformance.convolutions import CONVOLUTIONS  # torch's, which other checks do without

    tally = Tally()
    for seed, (kind, over) in enumerate(CONVOLUTIONS.items()):
        sizes = (15, 2, *over.sizes)
        drawn = backend.draw(seed, f"convolution, {kind}", sizes=sizes, with_gradients=backend.gradients)
        compare(backend, replace(drawn, convolution=over), tally)
    return tally


@check
def check_detached_reset(backend: Backend) -> Tally:
    """detach_reset cuts the gradient through z in the reset current, and nothing else; the forward pass is the same."""
    tally = Tally()
    for kind in ("feed-forward", "everything"):
        case = backend.draw(7, kind, sizes=(25, 2, 5, 6), with_gradients=True, detach_reset=True)
        compare(backend, case, tally)
    return tally


@check
def check_surrogates(backend: Backend) -> Tally:
    """Every surrogate's derivative, with thresholds other than 1 (the triangular's width depends on it).

    Without recurrence too: a layer may then fire the spikes of its first state from v.
    """
    tally = Tally()
    surrogates = (MultiGaussian(), Triangular(), Triangular(0.5, 2.0), Arctan(), FastSigmoid(5.0), Sigmoid(4.0))
    for surrogate in surrogates:
        for kind in ("recurrent", "adaptation"):
            options: dict[str, Any] = {"with_gradients": True, "surrogate": surrogate}
            case = backend.draw(8, kind, "graded", sizes=(20, 2, 5, 6), **options)
            compare(backend, replace(case, label=f"{surrogate}, {kind}"), tally)
    return tally


@check
def check_float32(backend: Backend) -> Tally:
    """float32 against the reference on the same rounded parameters (promise 2).

    v[t] must lie within `rounding_bound` of the reference driven by the backend's own spikes z[t-1], and z[t] must be
    what that v says, except where it lies within the bound of the threshold: up to the first permitted flip this is
    equality with the reference, after it equality with the backend's z imposed.
    """
    tally = Tally()
    for seed, kind in enumerate(KINDS):
        case = backend.draw(seed, kind, "graded", sizes=(250, 2, 5, 6), dtype=np.float32)
        if not taken(backend, case, tally):
            continue
        got = backend.run(case)
        v, bound = driven(case, got)
        close(f"{case.label}: v", got.v, v, tally, bound)
        if got.spikes is None:
            continue
        theta = np.float64(case.params.threshold)
        wrong = got.spikes != (v > theta)
        if (wrong & (np.abs(v - theta) > bound)).any():
            raise Mismatch(f"{case.label}: {int(wrong.sum())} spikes differ further than rounding from the threshold")
        tally.spikes, tally.flips = tally.spikes + wrong.size, tally.flips + int(wrong.sum())
    return tally


def driven(case: Case, got: Outcome) -> tuple[Array, Array]:
    """v of the reference with the outcome's spikes imposed on it, and the bound of what rounding may add to it."""
    spikes = np.zeros(got.v.shape) if got.spikes is None else got.spikes
    if got.spikes is None:
        return reference.run(case.params, case.inputs)[1], rounding_bound(case, spikes)
    p, state = reference.in_full(case.params), reference.zero_state(case.params, case.inputs.shape[1])
    v = np.zeros(got.v.shape)
    for t, x in enumerate(case.inputs.astype(np.float64)):
        state = reference.advance(p, x, state)
        v[t] = state.v
        state = state._replace(spikes=spikes[t].astype(np.float64))
    return v, rounding_bound(case, spikes)


@check
def check_float32_gradients(backend: Backend) -> Tally:
    """float32 gradients, relative to each one's largest entry, within `tolerance`."""
    tally = Tally()
    for seed, kind in enumerate(KINDS):
        sizes = (20, 2, 5, 6) if seed % 3 else (20, 19, 18, 21)
        case = backend.draw(
            seed, kind, "graded", sizes=sizes, dtype=np.float32, with_state=seed % 2 == 0, with_gradients=True
        )
        if not taken(backend, case, tally):
            continue
        got, want = backend.run(case), expected(case, backend.z_from_v)
        same_spikes(case.label, got.spikes, want.spikes, tally)
        compare_gradients(case, got, want, tally, tolerance(case))
    return tally


def verify(backends: list[Backend], only: list[str] | None = None) -> Iterator[tuple[str, str, Tally | Mismatch]]:
    """Run every check (or only these) over every backend; yields backend, check and what came of it.

    A Mismatch has its `failure`: the smallest failing case. A Tally of no cases is of a check that was left out.
    """
    for backend in backends:
        for name, function in CHECKS.items():
            if only is None or name in only:
                yield backend.name, name, result_of(function, name, backend)
