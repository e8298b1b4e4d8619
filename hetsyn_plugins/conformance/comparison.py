"""How an outcome is compared with what the reference says, and how far apart the two may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hetsyn_plugins.conformance.cases import Backend, Case, Mismatch, Outcome
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.codebook import exact
from hetsyn_plugins.core.fields import ARRAYS, Array, HetSynState

# Promise 1: |state - reference| <= 1e-10 * max(1, sum of |terms|) in float64, over 1,000 steps. The gradients are sums
# of T * B products of such states, each off by a few eps: the same bound holds for them, relative to their largest.
FLOAT64_TOLERANCE = 1e-10


@dataclass
class Tally:
    """What was compared so far, and the largest distances found.

    left_out  why -> how many cases the backend cannot run
    """

    cases: int = 0
    spikes: int = 0
    flips: int = 0
    distance: float = 0.0
    gradient: float | None = None
    left_out: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.cases} cases", f"{self.spikes:,} spikes equal", f"states within {self.distance:.1e}"]
        if self.flips:
            parts[1] = f"{self.spikes:,} spikes compared, {self.flips} within rounding of the threshold differ"
        if self.gradient is not None:
            parts.append(f"gradients within {self.gradient:.1e}")
        return ", ".join(parts + self._reasons()) if self.cases else ", ".join(self._reasons()) or "no cases"

    def _reasons(self) -> list[str]:
        return [f"{count} left out: {why}" for why, count in self.left_out.items()]


def expected(case: Case, z_from_v: bool = False) -> Outcome:
    """What the reference says, gradients included where they are asked."""
    spikes, v, state = reference.run(case.params, case.inputs, case.state)
    if case.output_gradients is None:
        return Outcome(spikes, v, state)
    output_gradients = case.output_gradients
    g = reference.gradients(
        case.params,
        case.inputs,
        case.state,
        grad_spikes=output_gradients.spikes,
        grad_v=output_gradients.v,
        grad_state=output_gradients.state,
        surrogate=case.surrogate,
        detach_reset=case.detach_reset,
    )
    through_z = case.state is not None and output_gradients.state is not None and case.params.spiking
    if z_from_v and through_z and case.params.recurrent_weight is None:
        g = _through_v(case, g)
    if case.convolution is not None:
        g = g._replace(params={name: case.convolution.summed(name, each) for name, each in g.params.items()})
    return Outcome(spikes, v, state, g._replace(params=_summed(case, g.params)) if case.codebook else g)


def _summed(case: Case, gradients: dict[str, Any]) -> dict[str, Any]:
    """The same gradients where synapses share their decays: of each different one the sum over all that have it."""
    p = case.params.expanded()
    book = exact(p.decay, p.recurrent_decay, p.decay.dtype)
    of_decays = np.bincount(book.input_index.ravel(), gradients["decay"].ravel(), len(book.decays))
    if book.recurrent_index is not None:
        of_decays += np.bincount(book.recurrent_index.ravel(), gradients["recurrent_decay"].ravel(), len(book.decays))
    return {**gradients, "decay": of_decays, "recurrent_decay": None}


def _through_v(case: Case, g: reference.Gradients) -> reference.Gradients:
    """The same gradients where the first state's spikes are fired from its v: z[-1] = H(v[-1] - theta)."""
    assert case.state is not None
    theta = np.broadcast_to(np.float64(case.params.threshold), case.state.v.shape[1:])
    moved = g.state.spikes * case.surrogate.derivative(case.state.v.astype(np.float64) - theta, theta)
    g_theta = moved.sum(0) if np.ndim(case.params.threshold) else moved.sum()
    params = {**g.params, "threshold": g.params["threshold"] - g_theta}
    return g._replace(params=params, state=g.state._replace(spikes=np.zeros_like(moved), v=g.state.v + moved))


def tolerance(case: Case) -> float:
    """What rounding may move a state or a gradient by, relative to the largest it should be, or to 1.

    float32: 64 (T + M + N) eps. A gradient is a sum of T * B products of states whose relative error grows at most like
    (T + M) eps; 64 leaves room for cancellation in the sum and for a surrogate's steepness (below 25 here), and is far
    below any of the planted bugs.
    """
    if case.params.weight.dtype == np.float64:
        return FLOAT64_TOLERANCE
    return 64.0 * (len(case.inputs) + sum(case.params.weight.shape)) * float(np.finfo(np.float32).eps)


def taken(backend: Backend, case: Case, tally: Tally) -> bool:
    """Does the backend take this case? Counts it, or why it is left out."""
    why = backend.why_not(case)
    if why is None:
        tally.cases += 1
    else:
        tally.left_out[why] = tally.left_out.get(why, 0) + 1
    return why is None


def compare(backend: Backend, case: Case, tally: Tally) -> None:
    """Run a case, if the backend takes it, and compare all that came with the reference."""
    if not taken(backend, case, tally):
        return
    want = expected(case, backend.z_from_v)  # before somebody could write to the inputs
    got = backend.run(case)
    same_spikes(case.label, got.spikes, want.spikes, tally)
    close(f"{case.label}: v", got.v, want.v, tally, tolerance(case))
    if backend.states:
        same_state(case.label, got.state, want.state, tally, tolerance(case))
    compare_gradients(case, got, want, tally, tolerance(case))


def same_state(label: str, got: HetSynState | None, want: HetSynState | None, tally: Tally, allowed: float) -> None:
    """Every part of a state must be there in both, or in neither, and close."""
    if got is None or want is None:
        raise Mismatch(f"{label}: expected a state, got None; a Backend with states=False shows none")
    for name in HetSynState._fields:
        same_field(f"{label}: state.{name}", getattr(got, name), getattr(want, name), tally, allowed)


def compare_gradients(case: Case, got: Outcome, want: Outcome, tally: Tally, allowed: float) -> None:
    """Compare every gradient that was asked for, each relative to the largest entry it should have (or to 1)."""
    if want.gradients is None:
        return
    if got.gradients is None:
        raise Mismatch(f"{case.label}: expected gradients, got none")
    pairs: list[tuple[str, Any, Any]] = [("inputs", got.gradients.inputs, want.gradients.inputs)]
    pairs += [(name, got.gradients.params[name], want.gradients.params[name]) for name in ARRAYS]
    if case.state is not None and case.output_gradients is not None and case.output_gradients.state is not None:
        fields = HetSynState._fields
        pairs += [(f"state.{n}", getattr(got.gradients.state, n), getattr(want.gradients.state, n)) for n in fields]
    for name, g, w in pairs:
        if w is None or (name == "threshold" and not case.params.spiking):
            continue
        if g is None:
            g = np.zeros_like(w)
        if g.shape != w.shape:
            raise Mismatch(f"{case.label}: gradient of {name} has shape {g.shape}, expected {w.shape}")
        distance = float(np.max(np.abs(g - w), initial=0)) / max(1.0, float(np.max(np.abs(w), initial=0)))
        if not distance <= allowed:
            raise Mismatch(f"{case.label}: gradient of {name} is off by {distance:.2e}, allowed {allowed:.1e}")
        tally.gradient = max(tally.gradient or 0.0, distance)


def same_spikes(label: str, got: Array | None, want: Array | None, tally: Tally) -> None:
    """Spikes must be equal, every one, and be 0 or 1."""
    if (got is None) != (want is None):
        raise Mismatch(f"{label}: spikes expected {'none' if want is None else 'some'}, got the opposite")
    if got is None or want is None:
        return
    if got.shape != want.shape:
        raise Mismatch(f"{label}: spikes have shape {got.shape}, expected {want.shape}")
    wrong = np.argwhere(~(got == want))
    if len(wrong):
        t, b, n = wrong[0]
        raise Mismatch(
            f"{label}: {len(wrong)} of {want.size} spikes differ, the first at step {t}, row {b}, neuron {n}"
        )
    tally.spikes += want.size


def same_field(label: str, got: Any, want: Any, tally: Tally, allowed: float) -> None:
    """A field of a state must be there in both, or in neither, and close."""
    if (got is None) != (want is None):
        raise Mismatch(f"{label}: expected {'nothing' if want is None else 'a value'}, got the opposite")
    if want is not None:
        close(label, got, want, tally, allowed)


def close(label: str, got: Array, want: Array, tally: Tally, allowed: Any) -> None:
    """|got - want| <= allowed * max(1, |want|), NaN nowhere."""
    if got.shape != want.shape:
        raise Mismatch(f"{label} has shape {got.shape}, expected {want.shape}")
    if not want.size:
        return
    distance = np.abs(got.astype(np.float64) - want) / np.maximum(1.0, np.abs(want))
    if not (distance <= allowed).all():
        raise Mismatch(f"{label} is off by {np.max(distance):.2e}, allowed {np.max(allowed):.1e}")
    tally.distance = max(tally.distance, float(distance.max()))
