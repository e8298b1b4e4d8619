"""The judge is judged: a table by hand, closed forms, plain recursions, and finite differences of the smooth twin.

The contract's checks (`conformance/checks.py`, run on the reference too) hold the table, the closed forms and the three
reductions. Here are the gradients: the spike of the smooth twin is the primitive of the surrogate, whose derivative the
backward pass uses, so that finite differences of the twin are the gradients of the twin exactly, and the reference's
backward is the same code run on the twin's trajectory.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hetsyn_plugins import HetSynParams, HetSynState
from hetsyn_plugins.conformance import cases
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import DELAYS, NUMBERS
from hetsyn_plugins.core.surrogate import Arctan, FastSigmoid, MultiGaussian, Sigmoid, Surrogate, Triangular

T, B, N, M = 6, 2, 3, 4


def twin(
    p: HetSynParams, x: Any, state: HetSynState, surrogate: Surrogate, detached: list[Any] | None = None
) -> tuple[Any, Any, list[HetSynState]]:
    """The neuron written anew, line by line, with the surrogate's primitive for the spike.

    detached  z of every step as the reset sees it, held constant; None: the reset sees z itself
    """
    there, recurrent_there = (1.0 if mask is None else 1.0 * mask for mask in (p.mask, p.recurrent_mask))
    decay, recurrent_decay = there * wide(p.decay), wide(p.recurrent_decay)
    current, recurrent, reset, adaptation, z, v, past_inputs, past_spikes = state
    delay, recurrent_delay = wide(p.delay), wide(p.recurrent_delay)
    spikes, vs, states = [], [], [state]
    for t in range(len(x)):
        z_reset = z if detached is None or t == 0 else detached[t - 1]
        inputs = x[t][:, None, :]
        if delay is not None:
            inputs, past_inputs = line_of(past_inputs, x[t], delay)
        current = decay * current + there * p.weight * inputs
        v = current.sum(-1) + (0 if p.bias is None else p.bias)
        if p.recurrent_weight is not None:
            fired = z[:, None, :]
            if recurrent_delay is not None:
                fired, past_spikes = line_of(past_spikes, z, recurrent_delay)
            recurrent = recurrent_there * (recurrent_decay * recurrent + p.recurrent_weight * fired)
            v = v + recurrent.sum(-1)
        if p.reset_decay is not None:
            reset = p.reset_decay * reset + p.threshold * z_reset
            v = v - reset
        if p.adaptation_decay is not None:
            adaptation = p.adaptation_decay * adaptation + p.adaptation_strength * z
            v = v - adaptation
        z = surrogate.primitive(v - p.threshold, 1.0) if p.spiking else None
        spikes.append(z)
        vs.append(v)
        states.append(HetSynState(current, recurrent, reset, adaptation, z, v, past_inputs, past_spikes))
    return spikes, vs, states


def line_of(past: Any, now: Any, delay: Any) -> tuple[Any, Any]:
    """What synapses with these delays get, (B, N, K), by np.interp over the steps kept, and what is kept then."""
    kept = np.concatenate([past, now[None]])
    ago = np.arange(len(kept))[::-1]
    got = np.empty((now.shape[0], *np.broadcast_shapes(delay.shape, (N, now.shape[1]))))
    full = np.broadcast_to(delay, got.shape[1:])
    for b, n, k in np.ndindex(got.shape):
        got[b, n, k] = np.interp(-full[n, k], -ago, kept[:, b, k])
    return got, kept[1:]


def wide(decay: Any) -> Any:
    """(N,) means one a neuron."""
    return decay[:, None] if decay is not None and decay.ndim == 1 else decay


def smooth(monkeypatch: pytest.MonkeyPatch, surrogate: Surrogate) -> None:
    """Let the reference itself run the smooth twin: its own step, with the primitive in place of the comparison."""
    honest = reference.advance

    def advance(p: HetSynParams, x: Any, state: HetSynState) -> HetSynState:
        after = honest(p, x, state)
        return after._replace(spikes=surrogate.primitive(after.v - p.threshold, 1.0)) if p.spiking else after

    monkeypatch.setattr(reference, "advance", advance)


def case(kind: str, shared: tuple[int, ...] | None = None) -> tuple[HetSynParams, Any, HetSynState, dict[str, Any]]:
    rng = np.random.default_rng(5)
    params = cases.KINDS[kind](rng, N, M)
    if shared is not None:
        params = params.replace(decay=rng.uniform(0.3, 0.9, shared))
    params = params.replace(**{name: inside_pieces(getattr(params, name)) for name in DELAYS})
    x = rng.normal(size=(T, B, M))
    zero = reference.zero_state(params, B)
    state = HetSynState(*(None if s is None else rng.normal(size=s.shape) * 0.5 for s in zero))
    output_gradients = {
        "grad_spikes": rng.normal(size=(T, B, N)) if params.spiking else None,
        "grad_v": rng.normal(size=(T, B, N)),
        "grad_state": HetSynState(*(None if s is None else rng.normal(size=s.shape) for s in zero)),
    }
    return params, x, state, output_gradients


def inside_pieces(delay: Any) -> Any:
    """Delays moved off whole steps, where their derivative jumps."""
    return None if delay is None else np.where(delay == np.round(delay), np.abs(delay - 0.3), delay)


def loss(outcome: tuple[Any, Any, list[HetSynState]], output_gradients: dict[str, Any]) -> float:
    spikes, v, states = outcome
    total = (np.array(v) * output_gradients["grad_v"]).sum()
    if output_gradients["grad_spikes"] is not None:
        total += (np.array(spikes) * output_gradients["grad_spikes"]).sum()
    for part, gradient in zip(states[-1], output_gradients["grad_state"], strict=True):
        if part is not None:
            total += (part * gradient).sum()
    return float(total)


def arguments(params: HetSynParams, x: Any, state: HetSynState) -> Iterator[tuple[str, Any]]:
    """Every differentiable argument of a run, by name."""
    yield "inputs", x
    for name in NUMBERS:
        if getattr(params, name) is not None and not (name == "threshold" and not params.spiking):
            yield name, getattr(params, name)
    for name, value in state._asdict().items():
        if value is not None:
            yield f"state.{name}", value


def replaced(params: HetSynParams, x: Any, state: HetSynState, name: str, value: Any) -> tuple[Any, Any, Any]:
    if name == "inputs":
        return params, value, state
    if name.startswith("state."):
        return params, x, state._replace(**{name[6:]: value})
    moved = copy.copy(params)
    object.__setattr__(moved, name, value)  # past the validation: a decay of 1 is moved to both sides
    return moved, x, state


def gradient_of(grads: reference.Gradients, name: str) -> Any:
    if name == "inputs":
        return grads.inputs
    return getattr(grads.state, name[6:]) if name.startswith("state.") else grads.params[name]


@pytest.mark.parametrize("detach_reset", [False, True], ids=["attached", "detached"])
@pytest.mark.parametrize("kind", cases.KINDS)
def test_gradients_are_finite_differences_of_the_smooth_twin(
    kind: str, detach_reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every element of every argument, central differences with h = 1e-5.

    Truncation is h^2 / 6 times a third derivative (below 1e3 here), rounding eps / h times the loss (below 1e2): 1e-7.
    """
    judge(*case(kind), Arctan(), detach_reset, monkeypatch)


@pytest.mark.parametrize("shape", [(), (N,), (N, 1), (1, M)])
def test_gradients_of_shared_decays_have_the_shape_given(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(*case("everything", shape), Arctan(), False, monkeypatch)


@pytest.mark.parametrize("surrogate", [MultiGaussian(), FastSigmoid(3.0), Sigmoid(4.0)], ids=repr)
def test_gradients_with_every_smooth_surrogate(surrogate: Surrogate, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(*case("everything"), surrogate, False, monkeypatch)


def judge(
    params: HetSynParams,
    x: Any,
    state: HetSynState,
    output_gradients: dict[str, Any],
    surrogate: Surrogate,
    detach_reset: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = twin(params, x, state, surrogate)[0] if detach_reset else None
    smooth(monkeypatch, surrogate)
    grads = reference.gradients(params, x, state, surrogate=surrogate, detach_reset=detach_reset, **output_gradients)
    h, checked = 1e-5, 0
    for name, value in arguments(params, x, state):
        if detach_reset and name == "state.spikes":
            continue  # the reset's path of z before the first step is cut too: a twin of its own, below
        numeric = np.zeros(value.shape)
        for index in np.ndindex(value.shape):
            sides = []
            for sign in (1, -1):
                moved = np.array(value)
                moved[index] += sign * h
                sides.append(loss(twin(*replaced(params, x, state, name, moved), surrogate, held), output_gradients))
            numeric[index] = (sides[0] - sides[1]) / (2 * h)
        np.testing.assert_allclose(gradient_of(grads, name), numeric, rtol=1e-6, atol=1e-7, err_msg=name)
        checked += value.size
    assert checked > 50


def test_detached_reset_cuts_only_the_path_through_j(monkeypatch: pytest.MonkeyPatch) -> None:
    """z before the first step reaches L and A still; of a layer that has only a reset, nothing is left."""
    params, x, state, output_gradients = case("feed-forward")
    smooth(monkeypatch, Arctan())
    gone = reference.gradients(params, x, state, surrogate=Arctan(), detach_reset=True, **output_gradients).state
    assert not gone.spikes.any() and gone.reset.any()
    params, x, state, output_gradients = case("everything")
    kept = reference.gradients(params, x, state, surrogate=Arctan(), detach_reset=True, **output_gradients).state
    attached = reference.gradients(params, x, state, surrogate=Arctan(), detach_reset=False, **output_gradients).state
    assert kept.spikes.any() and (kept.spikes != attached.spikes).any()


def test_the_triangular_width_is_a_constant_for_the_gradient() -> None:
    """dz/dtheta = -dz/dv, not the derivative through the width zeta * theta as well."""
    params = HetSynParams(np.array([[1.0]]), 0.5, reset_decay=None, threshold=0.8)
    triangle = Triangular(gamma=0.3, zeta=1.0)
    grads = reference.gradients(params, [[[0.5]]], grad_spikes=[[[1.0]]], surrogate=triangle)
    slope = 0.3 * (1 - 0.3 / 0.8)
    assert grads.params["threshold"] == pytest.approx(-slope, rel=1e-14)
    assert grads.params["weight"] == pytest.approx(0.5 * slope, rel=1e-14)


@pytest.mark.parametrize("kind", ["everything", "readout"])
def test_no_steps_return_the_state_and_pass_its_gradient_on(kind: str) -> None:
    params, x, state, output_gradients = case(kind)
    spikes, v, end = reference.run(params, x[:0], state)
    assert v.shape == (0, B, N) and (spikes is None) == (not params.spiking)
    for before, after in zip(state, end, strict=True):
        np.testing.assert_array_equal(after, before)
    grads = reference.gradients(params, x[:0], state, grad_state=output_gradients["grad_state"])
    for final, back in zip(output_gradients["grad_state"], grads.state, strict=True):
        np.testing.assert_array_equal(back, final)
    assert grads.inputs.shape == (0, B, M) and not np.any(grads.params["weight"])


def test_step_equals_one_step_of_run() -> None:
    params, x, state, _ = case("everything")
    after = reference.step(params, x[0], state)
    _, _, end = reference.run(params, x[:1], state)
    for one, other in zip(after, end, strict=True):
        np.testing.assert_array_equal(one, other)


def test_inputs_of_any_real_dtype_and_no_argument_changed() -> None:
    params, _, state, _ = case("everything")
    x = np.random.default_rng(0).integers(0, 2, (T, B, M))
    copies = [None if s is None else s.copy() for s in state]
    expected = reference.run(params, x.astype(np.float64), state)[1]
    for dtype in (bool, np.uint8, np.int64, np.float32):
        np.testing.assert_array_equal(reference.run(params, x.astype(dtype), state)[1], expected)
    for before, kept in zip(copies, state, strict=True):
        np.testing.assert_array_equal(before, kept)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((T, M)), r"inputs: expected shape \(T, B, 4\), time first, got \(6, 4\)"),
        (np.zeros((T, B, M + 1)), r"inputs: expected shape \(T, B, 4\), time first, got \(6, 2, 5\)"),
        (np.full((T, B, M), np.nan), "inputs: expected finite values, got 48 NaN or infinite ones"),
        (np.full((T, B, M), np.inf), "inputs: expected finite values"),
        (np.zeros((T, B, M), complex), "inputs: expected real numbers, got complex128"),
        (np.zeros((T, B, M), object), "inputs: expected real numbers, got object"),
    ],
)
def test_wrong_inputs_are_named(inputs: Any, message: str) -> None:
    params, _, _, _ = case("feed-forward")
    with pytest.raises(ValueError, match=message):
        reference.run(params, inputs)
    with pytest.raises(ValueError, match=r"inputs: expected shape \(B, 4\), got"):
        reference.step(params, np.zeros((T, B, M)))
