"""The contract in a test suite of one's own: every check over every backend, an item of pytest each.

    from hetsyn_plugins.testing import parametrize_with_checks

    @parametrize_with_checks(["my_package.neurons:backend"])
    def test_the_neuron_is_hetsyn(backend, check):
        check(backend)

`docs/CONFORMANCE.md` says what is promised and how a backend is wrapped. pytest is needed by `parametrize_with_checks`
and what it gives only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from hetsyn_plugins.conformance import results
from hetsyn_plugins.conformance.cases import Backend, Case, Mismatch, Outcome, OutputGradients
from hetsyn_plugins.conformance.comparison import Tally, compare, expected
from hetsyn_plugins.conformance.failures import watched
from hetsyn_plugins.conformance.loading import AnyBackend, Known, as_backend, checked, known, load
from hetsyn_plugins.core.fields import HetSynState

if TYPE_CHECKING:
    import pytest

__all__ = [
    "Backend",
    "Case",
    "HetSynState",
    "Mismatch",
    "NamedCheck",
    "Outcome",
    "OutputGradients",
    "Tally",
    "check_case",
    "expected",
    "load_backend",
    "parametrize_with_checks",
    "run_check",
]


def load_backend(name: str) -> AnyBackend:
    """The backend of a name that `hetsyn verify` lists, or at an import path `package.module:attribute`.

    Raises ValueError where there is none: what was expected, and what came.
    """
    return load(name)


def check_case(backend: Backend, case: Case) -> None:
    """Run one case and compare all that comes with the reference. Raises Mismatch where it differs."""
    compare(watched(backend, []), case, Tally())


def run_check(backend: AnyBackend, check: str) -> results.Result:
    """Run a check by its name, and return what came of it: its `status`, and what it `says`.

    Raises Mismatch, with the smallest failing case, where it does not hold; ValueError for a check that is none.
    """
    names = results.checks_of(backend)
    if check not in names:
        raise ValueError(f"check: expected one of {', '.join(names)}, got {check!r}")
    (result,) = results.run([replace(backend, known={})], [check])
    if result.status == results.FAILED:
        shown = "" if result.failure is None else f"\n{result.failure}"
        raise Mismatch(f"{backend.name}, {check}: {result.says}{shown}")
    return result


class NamedCheck(NamedTuple):
    """A check, to be called with a backend; pytest skips it where the backend can run none of its cases."""

    name: str

    def __call__(self, backend: AnyBackend) -> None:
        import pytest

        result = run_check(backend, self.name)
        if result.status == results.LEFT_OUT:
            pytest.skip(f"{backend.name}: {result.says}")


def parametrize_with_checks(
    backends: Sequence[Any],
    *,
    checks: Sequence[str] | None = None,
    expected_failed_checks: Callable[[AnyBackend], Mapping[str, str]] | None = None,
) -> pytest.MarkDecorator:
    """Give a test the arguments `backend` and `check`: every check (or only `checks`) of every backend, an item each.

    backends                each a Backend, a factory of one, an object with run(case), or a name for `load_backend`.
                            One of ours whose framework is not installed is one item that is skipped, and says why.
    checks                  names, as `hetsyn verify` prints them
    expected_failed_checks  of a backend, check -> why it is known not to hold, beside what the backend says itself
                            (`Backend.known`): such an item must fail, and shows the reason

    An item's id is `backend-check`, and its marker `hetsyn`. Raises ValueError for a backend or check that is none.
    """
    import pytest

    if isinstance(backends, str | AnyBackend):
        raise ValueError(f"backends: expected a list of backends, got {backends!r}")
    every = [*results.checks.CHECKS, *results.integers.CHECKS]
    for name in checks or ():
        if name not in every:
            raise ValueError(f"checks: expected some of {', '.join(every)}, got {name!r}")
    items = []
    named = any(isinstance(item, str) and ":" not in item for item in backends)
    ours = known() if named else Known({}, {})  # which loads torch, and numba
    for index, item in enumerate(backends):
        if isinstance(item, str) and item in ours.absent:
            marks = [pytest.mark.hetsyn, pytest.mark.skip(reason=ours.absent[item])]
            items.append(pytest.param(None, None, id=f"{item}-absent", marks=marks))
            continue
        backend = _backend(item, f"backends[{index}]", ours)
        if expected_failed_checks is not None:
            backend = replace(backend, known={**backend.known, **expected_failed_checks(backend)})
            checked(backend, f"expected_failed_checks of {backend.name}")
        items += _items(backend, checks)
    return pytest.mark.parametrize(("backend", "check"), items)


def _backend(item: Any, what: str, ours: Known) -> AnyBackend:
    if isinstance(item, str):
        return load(item, what, ours)
    module, name = getattr(item, "__module__", ""), getattr(item, "__qualname__", type(item).__name__)
    backend = as_backend(item, name, what)
    importable = callable(item) and name.isidentifier()  # not <lambda>, not <locals>
    return replace(backend, origin=f"{module}:{name}") if importable and not backend.origin else backend


def _items(backend: AnyBackend, only: Sequence[str] | None) -> list[Any]:
    """The items of a backend; those known to fail are marked so."""
    import pytest

    names = results.checks_of(backend)
    items = []
    for name in names if only is None else [name for name in names if name in only]:
        marks = [pytest.mark.hetsyn]
        if name in backend.known:
            marks.append(pytest.mark.xfail(reason=backend.known[name], raises=Mismatch, strict=True))
        items.append(pytest.param(backend, NamedCheck(name), id=f"{backend.name}-{name}", marks=marks))
    return items
