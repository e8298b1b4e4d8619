"""Every backend passes every check; every planted bug is caught by the check it names; every check catches one."""

from __future__ import annotations

import ast
import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import planting
import pytest
from bugs import BUGS, CHAINS, SURROGATE, Bug

from hetsyn_plugins.conformance import backends, checks, comparison, integers
from hetsyn_plugins.conformance.cases import Backend, Case, Mismatch, Outcome

AVAILABLE, ABSENT = backends.available()


@pytest.mark.parametrize("check", checks.CHECKS)
@pytest.mark.parametrize("backend", AVAILABLE, ids=lambda backend: backend.name)
def test_backend_keeps_the_contract(
    backend: Backend, check: str, poisoned_empty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend.name.endswith(("-step", "-cell")):  # these have no edges in time, and another check has long loops
        monkeypatch.setattr(checks, "EDGES", [sizes for sizes in checks.EDGES if sizes[0] < 100])
    tally = checks.CHECKS[check](backend)
    assert tally.cases > 0 or set(tally.left_out) <= {"no codebook", "no convolution"}


PLAIN = {"threshold", "special-cases", "random", "thousand-steps", "rows", "arguments-kept"}


@pytest.mark.parametrize("check", checks.CHECKS)
@pytest.mark.parametrize("plain", [True, False], ids=["plain neurons", "all neurons"])
def test_a_backend_is_asked_for_nothing_that_it_lacks(plain: bool, check: str) -> None:
    """One with a forward pass in float64 from zeros, of plain neurons or of all; what it is not asked for is told."""

    def run(case: Case) -> Outcome:
        assert little.why_not(case) is None
        return dataclasses.replace(comparison.expected(case), state=None)

    def is_plain(case: Case) -> bool:
        return case.params.is_neuron_heterogeneous()

    options: dict[str, Any] = {"gradients": False, "states": False, "takes": is_plain if plain else None}
    little = Backend("little", run, dtypes=(np.float64,), **options)
    tally = checks.CHECKS[check](little)
    runs = PLAIN if plain else PLAIN | {"hand-table", "closed-forms", "sizes"}
    assert (tally.cases > 0) is (check in runs) and (tally.cases > 0 or len(tally.left_out) > 0)


# ---- planted bugs -------------------------------------------------------------------------------------------------


def around(bug: Bug) -> list[str]:
    """The bug's module, and which of its backend's modules import it, directly or by way of each other."""
    names = CHAINS[bug.backend]
    anew = [bug.module]
    for name in names[names.index(bug.module) + 1 :]:
        if imported(name) & set(anew):
            anew.append(name)
    return anew


def imported(module: str) -> set[str]:
    """The modules that a module imports anything from at its top."""
    tree = ast.parse(Path(str(import_module(module).__file__)).read_text())
    nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {str(n.module) for n in nodes} | {f"{n.module}.{alias.name}" for n in nodes for alias in n.names}


def planted(bug: Bug) -> Backend:
    """The backend of the bug's name with the bug in it."""
    changed = planting.changed(bug.module, bug.old, bug.new, around=around(bug), times=bug.times)
    (real,) = [backend for backend in AVAILABLE if backend.name == bug.backend]

    def run(case: Case) -> Outcome:
        with planting.in_place(changed):  # a backend finds its modules at each call
            return real.run(dataclasses.replace(case, surrogate=again(case.surrogate)))

    return dataclasses.replace(real, run=run)


def again(surrogate: object) -> object:
    """The surrogate, made by the module that is in place now (its classes are executed anew too)."""
    return getattr(import_module(SURROGATE), type(surrogate).__name__)(**vars(surrogate))


def framework(bug: Bug) -> str:
    """What `ABSENT` calls the bug's backend."""
    return bug.backend.split("-")[0]


def available(bugs: list[Bug]) -> list[object]:
    """The bugs as parameters, those of a framework that is not installed marked as skipped."""
    marks = [pytest.mark.skip(reason=ABSENT[framework(b)]) if framework(b) in ABSENT else () for b in bugs]
    return [pytest.param(b, id=b.name, marks=m) for b, m in zip(bugs, marks, strict=True)]


@pytest.mark.parametrize("bug", available(BUGS))
def test_planted_bug_is_caught(bug: Bug, poisoned_empty: None) -> None:
    backend = planted(bug)
    with planting.caught(bug.says, Mismatch):
        checks.CHECKS[bug.check](backend)


# of every module the first bug
@pytest.mark.parametrize("bug", available(list({bug.module: bug for bug in reversed(BUGS)}.values())))
def test_an_unchanged_module_executed_anew_passes(bug: Bug) -> None:
    """The planting itself breaks nothing: text replaced by itself is not caught."""
    backend = planted(bug._replace(new=bug.old))
    for name in ("hand-table", "state-gradients"):
        checks.CHECKS[name](backend)


@pytest.mark.parametrize("module", [checks, integers], ids=["floats", "integers"])
def test_every_check_is_in_the_table(module: Any) -> None:
    """One without its decorator would never run."""
    functions = {name: f for name, f in vars(module).items() if name.startswith("check_")}
    own = {name for name, function in functions.items() if function.__module__ == module.__name__}
    assert {name.removeprefix("check_").replace("_", "-") for name in own} == set(module.CHECKS)


def test_every_check_is_tripped_by_a_planted_bug() -> None:
    assert set(checks.CHECKS) == {bug.check for bug in BUGS}


def test_there_are_at_least_twenty_bugs_with_names_of_their_own() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 20
