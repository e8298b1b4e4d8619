"""Backends by name, import path and entry point; what is none is refused with what was expected and what came."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import planting
import pytest

from hetsyn_plugins.conformance import backends, integers, loading
from hetsyn_plugins.conformance.cases import Backend, Case, Outcome
from hetsyn_plugins.conformance.comparison import expected

MODULE = """
import numpy as np
from hetsyn_plugins.conformance import comparison
from hetsyn_plugins.testing import Backend, Outcome

a_backend = Backend("by itself", comparison.expected)

def factory():
    return a_backend

class Runs:
    gradients = False
    dtypes = (np.float64,)

    def run(self, case):
        return comparison.expected(case)

an_object = Runs()
needs_arguments = lambda case: comparison.expected(case)

def gives_a_number():
    return 7

def gives_nothing():
    pass

def breaks():
    raise OSError("no licence")

def half():
    return Backend("half", comparison.expected, dtypes=(np.float16,))

def mistyped():
    return Backend("mistyped", comparison.expected, known={"randon": "a typo"})

class Lacks:
    def walk(self, case):
        pass

class Nested:
    inner = a_backend
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder, which is not on the path of modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "kits").mkdir()
    (tmp_path / "kits" / "__init__.py").touch()
    (tmp_path / "kits" / "neurons.py").write_text(MODULE)
    (tmp_path / "kits" / "broken.py").write_text("import not_there_at_all")
    (tmp_path / "kits" / "leaves.py").write_text("raise SystemExit('bye')")
    (tmp_path / "kits" / "old.py").write_text("import sys\nsys.no_such_thing")
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == "kits"]:
        monkeypatch.delitem(sys.modules, name)
    return "kits.neurons"


@pytest.mark.parametrize(
    ("attribute", "name"),
    [
        ("a_backend", "by itself"),
        ("factory", "by itself"),
        ("an_object", "an_object"),
        ("Runs", "Runs"),
        ("Nested.inner", "by itself"),
    ],
)
def test_a_backend_is_found_at_its_import_path(module: str, attribute: str, name: str) -> None:
    backend: Any = loading.load(f"{module}:{attribute}")
    assert (backend.name, backend.origin) == (name, f"{module}:{attribute}")
    case = backend.draw(0, "LIF", sizes=(4, 1, 2, 2))
    assert np.array_equal(backend.run(case).v, expected(case).v)


def test_an_objects_attributes_are_the_backends_fields(module: str) -> None:
    backend: Any = loading.load(f"{module}:Runs")
    assert backend.dtypes == (np.float64,) and not backend.gradients and backend.states


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("kits.neurons:factry", "'kits.neurons:factry': expected factry in kits.neurons, got none; there is factory"),
        ("kits.neuron:factory", "expected a module to import, got ModuleNotFoundError: No module named 'kits.neuron'"),
        ("kits.broken:x", "expected a module to import, got ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("kits.leaves:x", "expected a module to import, got SystemExit: bye"),
        ("kits.old:x", "expected a module to import, got AttributeError: module 'sys' has no attribute"),
        ("kits.neurons:needs_arguments", "expected a factory without arguments, got <lambda>(case); one that runs"),
        (
            "kits.neurons:gives_a_number",
            "object with a method run(case), got int from gives_a_number(), which has no run",
        ),
        ("kits.neurons:gives_nothing", "object with a method run(case), got None from gives_nothing()"),
        ("kits.neurons:Lacks", "object with a method run(case), got Lacks from Lacks(), which has no run"),
        ("builtins:dict", "object with a method run(case), got dict from dict(), which has no run"),
        ("builtins:max", "expected a backend from it, got TypeError: max expected at least 1 argument, got 0"),
        ("kits.neurons:breaks", "expected a backend from it, got OSError: no licence"),
        ("kits.neurons:half", "dtypes: expected of numpy.float64 and numpy.float32, got (<class 'numpy.float16'>,)"),
        ("kits.neurons:mistyped", "known: expected checks (hand-table, threshold, "),
        ("kits.neurons:", "mine: expected package.module:attribute, got 'kits.neurons:'"),
        (":factory", "mine: expected package.module:attribute, got ':factory'"),
        ("kits/neurons.py:factory", "mine: expected package.module:attribute, got 'kits/neurons.py:factory'"),
    ],
)
def test_what_leads_to_no_backend_is_said(module: str, path: str, says: str) -> None:
    with planting.caught(says, ValueError) as caught:
        loading.load(path, "mine")
    assert str(caught.value).startswith("mine")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("run", 7),
        ("gradients", 1),
        ("takes", "all"),
        ("dtypes", ()),
        ("z_from_v", None),
        ("known", ["random"]),
    ],
)
def test_a_field_that_cannot_be_meant_is_named(field: str, value: Any) -> None:
    backend = replace(Backend("one", expected), **{field: value})
    with planting.caught(f"backend: {field}: expected ", ValueError):
        loading.as_backend(backend, "one", "backend")


# ---- installed distributions --------------------------------------------------------------------------------------


@pytest.fixture
def distribution(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution on the path of modules, not installed by anything: its folder of metadata."""
    info = tmp_path / "neuron_kits-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: neuron-kits\nVersion: 1.0\n")
    points = [f"kit = {module}:factory", f"eager = {module}:factory", "broken = kits.broken:x"]
    (info / "entry_points.txt").write_text("\n".join([f"[{loading.GROUP}]", *points]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(backends, "available", lambda: ([Backend("eager", expected)], {"norse": "not installed"}))
    monkeypatch.setattr(integers, "available", lambda: ([], {}))
    return info


def test_a_backend_of_an_installed_distribution_is_known_by_its_name(distribution: Path) -> None:
    present, absent = loading.known()
    assert list(present) == ["eager", "kit"] and present["kit"].origin == "kits.neurons:factory"
    assert loading.load("kit").name == "kit"
    assert absent["norse"] == "not installed"


def test_one_that_cannot_be_loaded_is_absent_and_why(distribution: Path) -> None:
    _, absent = loading.known()
    assert absent["broken"].startswith("entry point 'broken' of neuron-kits: expected a module to import, got Mod")
    taken = "entry point 'eager' of neuron-kits: expected a name of its own, got one that is taken"
    assert absent["eager (kits.neurons:factory)"] == taken
    with planting.caught("backend: expected one that runs here, got 'broken': entry point 'broken'", ValueError):
        loading.load("broken")


def test_a_dot_for_the_colon_is_guessed(distribution: Path) -> None:
    with planting.caught("got 'kits.neurons.factory'; an import path has a colon, kits.neurons:factory", ValueError):
        loading.load("kits.neurons.factory")


def test_a_case_that_a_backend_cannot_run_is_told_with_what_it_lacks() -> None:
    def run(case: Case) -> Outcome:
        raise AssertionError("must not be asked")

    backend = Backend("little", run, dtypes=(np.float64,), gradients=False, states=False, takes=lambda case: False)
    cases = {
        "no float32": backend.draw(0, "LIF", dtype=np.float32),
        "no gradients": backend.draw(0, "LIF", with_gradients=True),
        "no states": backend.draw(0, "LIF", with_state=True),
        "no such layers": backend.draw(0, "LIF"),
    }
    assert [backend.why_not(case) for case in cases.values()] == list(cases)
    through_state = backend.draw(0, "LIF", with_gradients=True, through_state=True)
    assert replace(backend, gradients=True, takes=None).why_not(through_state) == "no states"
