"""Every backend passes every check; every planted bug is caught by the check it names; every check catches one."""

from __future__ import annotations

import pytest
from planted import BUGS, Bug, planted

from hetsyn_plugins.conformance import backends, comparison
from hetsyn_plugins.conformance import checks as conformance

AVAILABLE, ABSENT = backends.available()


@pytest.mark.parametrize("check", conformance.CHECKS)
@pytest.mark.parametrize("backend", AVAILABLE, ids=lambda backend: backend.name)
def test_backend_keeps_the_contract(backend: comparison.Backend, check: str, poisoned_empty: None) -> None:
    tally = conformance.CHECKS[check](backend)
    assert tally.cases > 0


def bugs() -> list[object]:
    """The planted bugs, those of a framework that is not installed marked as skipped."""
    marks = [pytest.mark.skip(reason=ABSENT[b.backend.split("-")[0]]) if _absent(b) else () for b in BUGS]
    return [pytest.param(b, id=b.name, marks=m) for b, m in zip(BUGS, marks, strict=True)]


def _absent(bug: Bug) -> bool:
    return bug.backend.split("-")[0] in ABSENT


@pytest.mark.parametrize("bug", bugs())
def test_planted_bug_is_caught(bug: Bug, poisoned_empty: None) -> None:
    with pytest.raises(comparison.Mismatch):
        conformance.CHECKS[bug.check](planted(bug))


def test_an_unchanged_module_executed_anew_passes() -> None:
    """The planting itself breaks nothing: text replaced by itself is not caught."""
    for bug in {b.backend: b for b in BUGS if not _absent(b)}.values():
        same = Bug("nothing", bug.backend, bug.check, bug.module, bug.old, bug.old)
        for name in ("hand-table", "gradients", "states"):
            conformance.CHECKS[name](planted(same))


def test_every_check_is_tripped_by_a_planted_bug() -> None:
    assert set(conformance.CHECKS) == {bug.check for bug in BUGS}


def test_there_are_at_least_twenty_bugs_with_names_of_their_own() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 20
