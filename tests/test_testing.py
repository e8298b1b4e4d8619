"""`hetsyn_plugins.testing`: items, ids, marks, skips, expected failures; and a plugin of pytest that loads nothing."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import planting
import pytest

from hetsyn_plugins import testing
from hetsyn_plugins.conformance import integers, loading
from hetsyn_plugins.conformance.checks import CHECKS
from hetsyn_plugins.testing import Backend, Case, Mismatch, Outcome, expected, parametrize_with_checks

ROOT = Path(__file__).resolve().parent.parent


def off(case: Case) -> Outcome:
    right = expected(case)
    return replace(right, v=right.v + 1e-3)


RIGHT = Backend("right", expected, gradients=False)
WRONG = Backend("wrong", off, gradients=False, known={"hand-table": "a bit off", "threshold": "also"})


def a_factory() -> Backend:
    return replace(RIGHT, name="made")


@parametrize_with_checks([RIGHT, a_factory, f"{__name__}:RIGHT"], checks=["hand-table", "threshold"])
def test_items_run_as_of_any_suite(backend: Backend, check: testing.NamedCheck) -> None:
    """What is left out and what is known to fail stand in docs/CONFORMANCE.md: tests/conformance/test_page.py."""
    check(backend)


def items(*arguments: Any, **options: Any) -> dict[str, Any]:
    """The parameters that a test would get, by id."""
    mark = parametrize_with_checks(*arguments, **options).mark
    assert mark.args[0] == ("backend", "check")
    return {parameters.id: parameters for parameters in mark.args[1]}


def marks(parameters: Any) -> dict[str, Any]:
    return {mark.name: mark.kwargs for mark in parameters.marks}


def test_every_check_of_every_backend_is_an_item() -> None:
    core = integers.Backend("core", integers.run_core)
    every = items([RIGHT, a_factory, core])
    assert list(every)[:2] == ["right-hand-table", "right-threshold"] and "made-random" in every
    assert len(every) == 2 * len(CHECKS) + len(integers.CHECKS) and "core-delays" in every
    assert all("hetsyn" in marks(parameters) for parameters in every.values())
    every["core-delays"].values[1](core)


def test_what_is_known_not_to_hold_is_an_expected_failure_with_its_reason() -> None:
    every = items([WRONG], expected_failed_checks=lambda backend: {"random": f"so is {backend.name}"})
    reasons = {name: marks(p)["xfail"]["reason"] for name, p in every.items() if "xfail" in marks(p)}
    assert reasons == {"wrong-hand-table": "a bit off", "wrong-threshold": "also", "wrong-random": "so is wrong"}
    assert marks(every["wrong-random"])["xfail"] == {"reason": "so is wrong", "raises": Mismatch, "strict": True}
    with planting.caught("expected_failed_checks of right: known: expected checks (hand-table, ", ValueError):
        items([RIGHT], expected_failed_checks=lambda backend: {"randon": "a typo"})


def test_one_that_is_not_installed_is_an_item_that_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    there = loading.Known({"eager": replace(RIGHT, name="eager")}, {"norse": "norse is not installed"})
    monkeypatch.setattr(testing, "known", lambda: there)
    every = items(["norse", "eager"], checks=["rows"])
    assert list(every) == ["norse-absent", "eager-rows"]
    assert marks(every["norse-absent"])["skip"] == {"reason": "norse is not installed"}
    with planting.caught("backends[0]: expected one of eager, or package.module:attribute, got 'brian2'", ValueError):
        items(["brian2"])


def test_what_cannot_be_meant_is_refused() -> None:
    with planting.caught("checks: expected some of hand-table, threshold, ", ValueError):
        items([RIGHT], checks=["randon"])
    with planting.caught("backends[1]: expected a Backend, or an object with a method run(case), got int", ValueError):
        items([RIGHT, 7])
    for alone in (RIGHT, "eager"):
        with planting.caught("backends: expected a list of backends, got ", ValueError):
            items(alone)
    with planting.caught("check: expected one of hand-table, threshold, ", ValueError):
        testing.run_check(RIGHT, "delays")


def test_a_check_that_is_left_out_is_skipped_and_says_why() -> None:
    with pytest.raises(pytest.skip.Exception, match="right: 32 left out: no gradients"):
        testing.NamedCheck("gradients")(RIGHT)


def test_a_check_that_fails_shows_the_smallest_case_also_where_that_is_known() -> None:
    with planting.caught("wrong, hand-table: hand table: v is off by 1.00e-03, allowed 0.0e+00\nsmallest", Mismatch):
        testing.NamedCheck("hand-table")(WRONG)


def test_where_a_backend_can_be_imported_its_snippets_say_so() -> None:
    """A global by its module and name, a factory by its own; what is local cannot be imported."""
    assert items([a_factory])["made-rows"].values[0].origin == f"{__name__}:a_factory"
    with planting.caught(f'backend = load_backend("{__name__}:WRONG")', Mismatch):
        testing.run_check(WRONG, "hand-table")
    local = replace(WRONG, name="local")
    with planting.caught('load_backend("local")  # or where it is, package.module:attribute', Mismatch):
        testing.run_check(local, "hand-table")


def test_one_case_is_compared() -> None:
    case = RIGHT.draw(0, "LIF", sizes=(5, 1, 2, 3))
    testing.check_case(RIGHT, case)
    with planting.caught("v is off by", Mismatch):
        testing.check_case(WRONG, case)


def test_a_backend_of_ones_own_needs_no_torch() -> None:
    """Nor numba: the whole way, from the path to the line of a check."""
    code = """
import sys
from hetsyn_plugins.cli.main import main
assert main(["verify", "--backend", "own_backend:mine", "--check", "hand-table"]) == 0
import hetsyn_plugins.testing
print("torch" in sys.modules, "numba" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT / "examples", env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["False False"], done.stderr


# ---- the plugin ---------------------------------------------------------------------------------------------------


def test_the_plugin_registers_a_marker_and_loads_nothing(tmp_path: Path) -> None:
    """A real start of pytest with the plugin: what it loads of ours, of torch and of NumPy, and how long that takes."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    code = """
import sys, pytest
status = pytest.main(["--markers", "--strict-markers", "-p", "hetsyn_plugins._markers"])
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("hetsyn_plugins", "torch", "numpy")))
start = __import__("time").process_time()
for name in [name for name in sys.modules if name.startswith("hetsyn_plugins")]:
    del sys.modules[name]
import hetsyn_plugins._markers
print(__import__("time").process_time() - start)
sys.exit(status)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    *markers, loaded, seconds = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert loaded == "hetsyn_plugins hetsyn_plugins._markers hetsyn_plugins._version" and float(seconds) < 0.1
    assert any(line.startswith("@pytest.mark.hetsyn: a check of the HetSynLIF contract") for line in markers)


def test_the_distribution_names_the_plugin() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.entry_points"]["pytest11"].strip() == "hetsyn_plugins = hetsyn_plugins._markers"
