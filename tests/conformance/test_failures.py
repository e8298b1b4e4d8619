"""What a failure shows: a case as small as the mistake allows, its first difference, and code that runs it again."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import planting
import pytest

import hetsyn_plugins
from hetsyn_plugins.conformance import checks, failures, shrinking
from hetsyn_plugins.conformance.cases import KINDS, Backend, Case, Mismatch, Outcome, draw
from hetsyn_plugins.conformance.comparison import expected
from hetsyn_plugins.conformance.failures import Failure, Place
from hetsyn_plugins.core.surrogate import Triangular

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "own_backend.py"


@pytest.fixture(scope="module")
def own() -> Any:
    """The example, as a module; its twins are made by changing its text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE.parent))
        yield importlib.import_module("own_backend")


def failure(backend: Backend, check: str) -> Failure:
    result = failures.result_of(checks.CHECKS[check], check, backend)
    assert isinstance(result, Mismatch) and isinstance(result.failure, Failure), result
    return result.failure


def twin(name: str, old: str, new: str) -> str:
    """The text of the example with one mistake."""
    text = EXAMPLE.read_text()
    assert text.count(old) == 1, name
    return text.replace(old, new)


# mistake -> the check that catches it, T, B, N and M of the smallest case, what differs first
TWINS: dict[str, tuple[str, str, str, tuple[int, ...]]] = {
    "reset one step late": (
        "        z = fires(v, p.threshold).astype(float) if p.spiking else None\n",
        "        z, late = fires(v, p.threshold).astype(float) if p.spiking else None, z\n",
        "random",
        (2, 1, 1, 1),
    ),
    "decays of the wrong synapse": (
        "current = p.decay * current",
        "current = np.roll(p.decay, 1, axis=1) * current",
        "random",
        (2, 1, 1, 2),
    ),
    "reset of 1, not of the threshold": (
        "p.reset_decay * reset + p.threshold * z",
        "p.reset_decay * reset + 1.0 * z",
        "random",
        (2, 1, 1, 1),
    ),
    "adaptation added": ("v = v - adaptation", "v = v + adaptation", "random", (2, 1, 1, 1)),
    "a neuron sees its neighbour's spikes": (
        "p.recurrent_weight * z[:, None, :]",
        "np.roll(p.recurrent_weight, 1, axis=1) * z[:, None, :]",
        "random",
        (2, 1, 2, 1),
    ),
    "the first state is forgotten": (
        "case.state or zero_state(p, case.inputs.shape[1])",
        "zero_state(p, case.inputs.shape[1])",
        "states",
        (0, 1, 1, 1),
    ),
    "only for many rows": (
        "voltages[t], spikes[t] = v,",
        "voltages[t], spikes[t] = v + (len(v) > 1),",
        "random",
        (1, 2, 1, 1),
    ),
}
LATE = ("p.reset_decay * reset + p.threshold * z", "p.reset_decay * reset + p.threshold * late")


def mistaken(name: str) -> Backend:
    old, new, _, _ = TWINS[name]
    text = twin(name, old, new)
    if "late" in name:
        text = text.replace(*LATE).replace(
            "spikes = np.empty_like(voltages)", "spikes, late = np.empty_like(voltages), z"
        )
    module: dict[str, Any] = {"__name__": "twin"}
    exec(compile(text, "twin", "exec"), module)
    return replace(module["mine"], origin="own_backend:mistaken")


@pytest.mark.parametrize("name", TWINS)
def test_a_mistake_is_shown_in_its_smallest_case(name: str, own: Any) -> None:
    """The snippet fails for the twin, and passes for the right one."""
    backend, (_, _, check, sizes) = mistaken(name), TWINS[name]
    shown = failure(backend, check)
    assert shown.case is not None
    assert tuple(shrinking.sizes(shown.case).values()) == sizes, shown
    assert (shown.place.step if shown.place else -1) == sizes[0] - 1
    assert failure(backend, check).snippet == shown.snippet
    with planting.caught("smallest failing case", Mismatch):
        run(shown.snippet, backend)
    run(shown.snippet, own.mine)


def run(snippet: str, backend: Backend) -> None:
    """Run a snippet whose backend is this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hetsyn_plugins.testing.load_backend", lambda name: backend)
        exec(compile(snippet, "snippet", "exec"), {})


def test_a_snippet_runs_by_itself(own: Any, tmp_path: Path) -> None:
    """Copied into a file beside the backend: it ends in the mismatch, and well with the right twin's name."""
    snippet = failure(own.mistaken, "hand-table").snippet
    assert 'load_backend("own_backend:mistaken")' in snippet
    prepare = f"import hetsyn_plugins; hetsyn_plugins.__path__[:] = {list(hetsyn_plugins.__path__)!r}\n"
    for code, status in ((snippet, 1), (snippet.replace(":mistaken", ":mine"), 0)):
        command = [sys.executable, "-W", "error", "-c", prepare + code]
        done = subprocess.run(command, cwd=EXAMPLE.parent, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert ("Mismatch: smallest failing case: 1 of 2 spikes differ" in done.stderr) is bool(status)


def test_what_is_at_the_threshold_stays_there(own: Any) -> None:
    shown = failure(own.mistaken, "threshold")
    assert shown.place == Place(0, 0, 0, (0.0, 1.0), (1.0, 1.0), 1.0, 0.0)
    assert "v belongs at the threshold 1, to the bit, where nothing fires" in str(shown)


def test_the_distance_from_the_threshold_is_in_rounding_bounds() -> None:
    """One input of weight 3/4, no memory: three roundings of v, so 1/4 below a threshold of 1 is 1 / (6 eps) bounds."""
    params = hetsyn_plugins.HetSynParams([[0.75]], [[0.0]], reset_decay=None)
    case = Case("one", params, np.ones((1, 1, 1)))

    def fires(case: Case) -> Outcome:
        right = expected(case)
        return replace(right, spikes=np.ones_like(right.v))

    place = failures.place_of(Backend("fires", fires), case)
    assert place is not None and place.spikes == (0.0, 1.0)
    bound = (1.5 + 0.5 * 4) * np.finfo(float).eps * 0.75
    assert place.margin == pytest.approx(0.25 / bound)
    assert f"v belongs 0.25 below the threshold 1, {0.25 / bound:.2g} times what rounding can move it" in str(place)


def wrong_gradient(name: str, case: Case) -> Outcome:
    right = expected(case)
    if right.gradients is not None and right.gradients.params[name] is not None:
        right.gradients.params[name] *= 1.01
    return right


@pytest.mark.parametrize("check", ["gradients", "surrogates", "state-gradients"])
def test_a_wrong_gradient_keeps_what_it_needs(check: str) -> None:
    backend = Backend("off", partial(wrong_gradient, "decay"))
    shown = failure(backend, check)
    assert shown.case is not None and shown.case.output_gradients is not None and shown.place is None
    assert "gradient of decay is off by" in str(shown)
    assert np.prod([*shrinking.sizes(shown.case).values()]) <= 4
    with planting.caught("gradient of decay", Mismatch):
        run(shown.snippet, backend)
    run(shown.snippet, Backend("right", expected))


def test_a_surrogate_is_kept_where_it_is_what_is_wrong() -> None:
    def run_without(case: Case) -> Outcome:
        wrong = replace(case, surrogate=Triangular()) if isinstance(case.surrogate, Triangular) else case
        return expected(wrong)

    backend = Backend("triangular", run_without)
    shown = failure(backend, "surrogates")
    assert shown.case is not None and shown.case.surrogate == Triangular(0.5, 2.0)
    assert "surrogate=Triangular(gamma=0.5, zeta=2.0)" in shown.snippet
    with planting.caught("gradient of", Mismatch):
        run(shown.snippet, backend)


def test_a_crash_is_shown_in_its_smallest_case_too() -> None:
    def run_or_crash(case: Case) -> Outcome:
        if case.params.adaptation_decay is not None and len(case.inputs) > 2:
            raise ZeroDivisionError("a third step")
        return expected(case)

    shown = failure(Backend("crash", run_or_crash), "random")
    assert shown.says == "ZeroDivisionError: a third step" and shown.case is not None
    assert list(shrinking.sizes(shown.case).values()) == [3, 1, 1, 1]
    params = shown.case.params
    assert params.recurrent_weight is None and params.reset_decay is None and params.bias is None


def test_who_leaves_does_not_end_the_others_in_peace() -> None:
    """sys.exit(0) in a backend would else be the exit status of the command."""

    def leaves(case: Case) -> Outcome:
        sys.exit(0)

    assert failure(Backend("leaves", leaves), "random").says == "SystemExit: 0"


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (lambda right: (right.spikes, right.v), "TypeError: run: expected an Outcome, got tuple"),
        (
            lambda right: replace(right, state=right.state._replace(current=[0.5])),
            "TypeError: Outcome.state.current: expected a NumPy array, got list",
        ),
        (lambda right: replace(right, v=list(right.v)), "TypeError: Outcome.v: expected a NumPy array, got list"),
        (
            lambda right: replace(right, state=None),
            "expected a state, got None; a Backend with states=False shows none",
        ),
        (lambda right: replace(right, v=right.v[:, :1]), "v has shape"),
        (lambda right: replace(right, v=right.v * np.nan), "v is off by nan"),
    ],
)
def test_what_is_no_outcome_is_said(gives: Callable[[Outcome], Any], says: str) -> None:
    backend = Backend("odd", lambda case: gives(expected(case)))
    assert says in str(failure(backend, "random"))


def test_where_only_a_comparison_of_runs_fails_the_check_is_run_again() -> None:
    runs = iter(range(1000))

    def drifts(case: Case) -> Outcome:
        right = expected(case)
        return replace(right, v=right.v + 1e-13 * next(runs))

    shown = failure(Backend("drifts", drifts), "rows")
    assert shown.case is None and "no single case fails alone" in str(shown)
    assert 'run_check(backend, "rows")' in shown.snippet


def test_who_writes_to_the_inputs_is_compared_with_what_they_were() -> None:
    def zeroes(case: Case) -> Outcome:
        case.inputs[:] = 0
        return expected(case)

    backend = Backend("zeroes", zeroes)
    shown = failure(backend, "random")
    assert shown.case is not None and shown.case.inputs.any()
    with planting.caught("v is off by", Mismatch):
        run(shown.snippet, backend)


def test_what_is_shrunk_stays_clear_of_the_threshold() -> None:
    """Else rounding, which is no mistake, could be what fails in the end: v is an ulp too large, always."""

    def late(case: Case) -> Outcome:
        right = expected(case)
        v = np.nextafter(right.v, np.inf)
        spikes = (v > case.params.threshold).astype(float)
        return replace(right, spikes=spikes, v=v + 1e-3 * (spikes.sum() > 4))

    found = shrinking.smallest(Backend("late", late), draw(3, "LIF"))
    assert found is not None and "v is off by" in str(found[1])
    assert late(found[0]).spikes.sum() == 5


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_case_can_be_cut_along_every_axis(kind: str) -> None:
    """And what is cut is the same as what a smaller layer gives: rows and steps at the end do not matter to others."""
    case = draw(2, kind, sizes=(8, 3, 4, 5), with_state=True, with_gradients=True, through_state=True)
    small = case
    for axis, keep in zip("TBNM", ([0, 1, 2], [1], [0, 2], [1, 3, 4]), strict=True):
        small = shrinking.chosen(small, axis, np.array(keep))
    assert list(shrinking.sizes(small).values()) == [3, 1, 2, 3]
    assert expected(small).gradients is not None
    rows = shrinking.chosen(case, "B", np.array([1]))
    assert np.array_equal(expected(rows).v[:, 0], expected(case).v[:, 1])
    for simpler in [*shrinking.without_options(case), *shrinking.rounder(case)]:
        expected(simpler)


@pytest.mark.parametrize(("check", "says"), [("codebook", "codebook=True"), ("convolutions", "convolution=Over(Conv")])
def test_what_fails_only_with_a_codebook_or_over_images_keeps_that(check: str, says: str) -> None:
    def wrong(case: Case) -> Outcome:
        right = expected(case)
        plain = not case.codebook and case.convolution is None
        return right if plain else replace(right, v=right.v + (right.v > 0.5))

    backend = Backend("wrong", wrong, delays=True, codebooks=True, convolutions=True)
    shown = failure(backend, check)
    assert says in shown.snippet and shown.case is not None
    assert shrinking.sizes(shown.case)["T"] == shrinking.sizes(shown.case)["B"] == 1
    with planting.caught("smallest failing case", Mismatch):
        run(shown.snippet, backend)
    run(shown.snippet, Backend("right", expected, delays=True, codebooks=True, convolutions=True))


def test_a_snippet_has_every_bit_of_its_case() -> None:
    options: dict[str, Any] = {"with_state": True, "with_gradients": True, "through_state": True}
    for dtype in (np.float64, np.float32):
        case = draw(
            1, "everything", sizes=(3, 2, 2, 3), dtype=dtype, surrogate=Triangular(), detach_reset=True, **options
        )
        again: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hetsyn_plugins.testing.load_backend", lambda name: None)
            patch.setattr("hetsyn_plugins.testing.check_case", lambda backend, case, to=again: to.append(case))
            exec(failures.case_again(Backend("any", expected), case), {})
        assert checks.arrays_of(again[0]).keys() == checks.arrays_of(case).keys()
        for name, array in checks.arrays_of(case).items():
            copy = checks.arrays_of(again[0])[name]
            assert copy.dtype == array.dtype and np.array_equal(copy, array), name
        assert (again[0].surrogate, again[0].detach_reset) == (Triangular(), True)
