"""`hetsyn verify` over backends of one's own: which run, what is required, what is written, and the exit status."""

from __future__ import annotations

import importlib
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from hetsyn_plugins.cli.main import main
from hetsyn_plugins.conformance import backends, integers, loading

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MINE, MISTAKEN = "own_backend:mine", "own_backend:mistaken"
FAST = ["--check", "hand-table", "--check", "gradients"]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the example is; nothing else leads to it. Ours are not asked for, since torch would be loaded."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "own_backend", raising=False)
    monkeypatch.setattr(backends, "available", lambda: ([], {"norse": "norse is not installed"}))
    monkeypatch.setattr(integers, "available", lambda: ([], {}))
    importlib.invalidate_caches()


def verify(*arguments: str) -> int:
    return main(["verify", *arguments])


def test_the_example_passes_and_its_wrong_twin_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("--backend", MINE, *FAST) == 0
    out = capsys.readouterr().out
    assert "mine           hand-table         ok       2 cases" in out and "1 of 2 passed, 1 left out in " in out
    assert "absent" not in out  # nobody asked for ours
    assert verify("--backend", MINE, "--backend", MISTAKEN, *FAST) == 1
    out = capsys.readouterr().out
    assert "mistaken       hand-table         FAILED   hand table: 1 of 8 spikes differ" in out
    assert "    first difference at step 1, row 0, neuron 0: spike expected 0, got 1" in out
    assert 'backend = load_backend("own_backend:mistaken")\n        check_case(backend, case)\n' in out


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("own_backend:nine", "--backend 'own_backend:nine': expected nine in own_backend, got none; there is mine"),
        ("own_backends:mine", "expected a module to import, got ModuleNotFoundError: No module named 'own_backends'"),
        ("own_backend:loop", "expected a factory without arguments, got loop(case: "),
        ("own_backend:CHECKS", "expected a Backend, or an object with a method run(case), got list, which has no run"),
        ("norse", "--backend: expected one that runs here, got 'norse': norse is not installed"),
    ],
)
def test_what_is_no_backend_is_a_wrong_request(path: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("--backend", path) == 2
    err = capsys.readouterr().err
    assert says in err and err.startswith("hetsyn verify: --backend") and err.count("\n") == 1


def test_a_backend_of_an_installed_distribution_is_verified_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "kits-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kits\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{loading.GROUP}]\nkit = {MINE}\nlost = own_backend:lost\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    assert verify("--backend", "kit", "--require", "kit", *FAST) == 0
    out = capsys.readouterr().out
    assert "kit            hand-table         ok" in out
    assert "lost           absent: entry point 'lost' of kits: expected lost in own_backend, got none" in out
    assert verify("--check", "hand-table") == 0  # all that is there
    assert "kit            hand-table         ok" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("required", "status", "why"),
    [
        ("hand-table", 0, ""),
        ("mine", 0, ""),
        (MINE, 0, ""),
        ("gradients", 1, "left out by mine (32 left out: no gradients)"),
        ("random", 1, "no backend ran this check"),
        ("norse", 1, "there is no backend or check of this name"),
    ],
)
def test_what_is_required_must_have_run(
    required: str, status: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify("--backend", MINE, *FAST, "--require", required) == status
    assert (f"{required:14} required           FAILED   {why}" in capsys.readouterr().out) is bool(status)


def test_what_is_required_and_not_to_be_had_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("--backend", "norse", "--backend", MINE, *FAST, "--require", "norse") == 1
    out = capsys.readouterr().out
    assert "mine           hand-table         ok" in out
    assert "norse          required           FAILED   --backend: expected one that runs here, got 'norse': " in out
    assert verify("--backend", "own_backend:lost", "--require", "own_backend:lost") == 1


def test_two_backends_of_one_name_cannot_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "twin.py").write_text("from own_backend import mine")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert verify("--backend", MINE, "--backend", "twin:mine") == 2
    assert "--backend: expected backends of different names, got 2 called 'mine'" in capsys.readouterr().err


def test_files_are_written_and_their_folder_is_looked_for_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {option: tmp_path / f"results.{option}" for option in ("json", "junit")}
    options = [part for option, file in files.items() for part in (f"--{option}", str(file))]
    assert verify("--backend", MISTAKEN, *FAST, *options) == 1
    assert json.loads(files["json"].read_text())["counts"] == {"ok": 0, "FAILED": 1, "left out": 1, "known": 0}
    (suite,) = ET.parse(files["junit"]).getroot()
    assert (suite.get("name"), suite.get("failures"), suite.get("skipped")) == ("mistaken", "1", "1")
    capsys.readouterr()
    assert verify("--backend", MINE, "--junit", str(tmp_path / "nowhere" / "results.xml")) == 2
    said = capsys.readouterr()
    assert "--junit: expected a file in a folder that is there, got " in said.err and said.out == ""
