"""The first minutes: the list of commands, and `hetsyn doctor` over what is, is not and only seems to be installed."""

from __future__ import annotations

import argparse
import json
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from hetsyn_plugins.cli import doctor
from hetsyn_plugins.cli.doctor import Library, Row, of_library, on_this_python, wanted
from hetsyn_plugins.cli.listing import GROUPS
from hetsyn_plugins.cli.main import main, parser

LISTED = {name: example for group in GROUPS.values() for name, (_, example) in group.items()}


def commands() -> dict[str, argparse.ArgumentParser]:
    (actions,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return actions.choices


def test_no_command_and_help_show_the_same_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    alone = capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert capsys.readouterr().out == alone
    assert all(f"  {name} " in alone for name in LISTED)


def test_every_command_is_in_the_list_once() -> None:
    assert set(LISTED) == set(commands()) and sum(map(len, GROUPS.values())) == len(LISTED)


@pytest.mark.parametrize("name", LISTED)
def test_an_example_is_one_that_the_parser_takes(name: str) -> None:
    prog, *arguments = shlex.split(LISTED[name])
    assert prog == "hetsyn" and parser().parse_args(arguments).command == name


def test_doctor_finds_what_is_here_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json", str(tmp_path / "found.json")])
    out = capsys.readouterr().out
    found = {row["name"]: row for row in json.loads((tmp_path / "found.json").read_text())["findings"]}
    assert status == 0, out
    assert found["torch"]["what"].startswith(metadata.version("torch"))
    assert {found[name]["verdict"] for name in ("eager", "cpu")} == {"works"}
    assert "vectors of" in found["cpu"]["what"] and "can be written" in found["kernels"]["what"]
    assert out.endswith("what is installed works\n")


def test_a_kernel_that_computes_something_else_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    from hetsyn_plugins.kernels import eager

    right = eager.spikes_of
    monkeypatch.setattr(eager, "spikes_of", lambda *arguments: 1 - right(*arguments))
    assert doctor.tried("eager", "cpu", "").verdict == "BROKEN"


def test_what_is_installed_and_cannot_be_imported_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "half_of_it.py").write_text("import no_such_module_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    row = of_library(Library("half-of-it", "half_of_it"))
    assert row.verdict == "BROKEN" and "no_such_module_at_all" in row.what
    assert row.fix.endswith("-m pip install --force-reinstall --no-deps half-of-it")


@pytest.mark.parametrize(("extra", "verdict"), [("nir", "missing"), ("", "BROKEN")])
def test_what_is_missing_has_the_command_that_installs_it(
    extra: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing is broken only where the core needs it."""
    needs = [
        "absent-thing>=1.0",
        'absent-thing>=1.0; extra == "nir"',
        'other>=2; python_version < "3.0" and extra == "nir"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    row = of_library(Library("absent-thing", "absent_thing", extra))
    assert row.verdict == verdict and row.fix.endswith("-m pip install 'absent-thing>=1.0'")


def test_something_broken_is_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("kernels", "cpu", "BROKEN", "numba: no", "pip install numba"), Row("kernels", "gpu", "missing", "none")]
    monkeypatch.setattr(doctor, "findings", lambda: iter(rows))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert out.endswith("cpu: broken\n") and "pip install numba" in out


def test_a_folder_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file stands in its place, which stops root too."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HETSYN_CACHE", str(tmp_path / "file"))
    row = {row.name: row for row in doctor.caches()}["data sets"]
    assert row.verdict == "look" and "cannot be written" in row.what and "HETSYN_CACHE" in row.fix


def test_markers_of_other_pythons_are_left_out() -> None:
    assert on_this_python('extra == "x"') and on_this_python('python_version >= "3.10"')
    assert not on_this_python('python_version < "3.10" and extra == "lava"')


def test_without_metadata_the_name_itself_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    assert wanted(Library("norse", "norse", "norse")) == ["norse"]
