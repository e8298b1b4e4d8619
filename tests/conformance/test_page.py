"""docs/CONFORMANCE.md: its files, commands and what it says they print, run one after the other in one folder."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from hetsyn_plugins import _markers
from hetsyn_plugins.cli.main import main
from hetsyn_plugins.conformance import checks, integers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = Path(__file__).resolve().parents[2] / "docs" / "CONFORMANCE.md"
TEXT = PAGE.read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.S)


class Reports:
    """A plugin of pytest that keeps what came of every item."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            known = hasattr(report, "wasxfail")
            self.outcomes.setdefault(report.nodeid.partition("[")[2][:-1], "xfailed" if known else report.outcome)


def pytest_run(arguments: list[str]) -> dict[str, str]:
    """What came of every item, warnings being errors."""
    reports = Reports()
    options = ["-W", "error", "-p", "no:cacheprovider", "-p", "no:terminal", "--strict-markers"]
    assert pytest.main([*options, *arguments], plugins=[reports, _markers]) == 0
    return reports.outcomes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's reader is, with its files written."""
    pytest.importorskip("snntorch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the suite around it has what it needs
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for block in (block for kind, block in BLOCKS if kind == "python"):
        name = block.split("\n")[0].removeprefix("# ")
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
        (tmp_path / name).write_text(block)
    return tmp_path


def test_the_page_runs_as_it_stands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [shlex.split(line) for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
    assert {line[0] for line in lines} == {"hetsyn", "pytest"}
    assert all(main(arguments) == 0 for command, *arguments in lines if command == "hetsyn")
    assert "stock-leaky    random             ok " in capsys.readouterr().out
    outcomes: dict[str, str] = {}
    for arguments in (arguments for command, *arguments in lines if command == "pytest"):
        outcomes |= pytest_run(arguments)
    assert len(outcomes) == 2 * len(checks.CHECKS)
    assert outcomes["stock-leaky-random"] == "passed" and outcomes["stock-leaky-gradients"] == "skipped"
    assert outcomes["to-zero-random"] == "xfailed"
    assert {"leaky.json", "leaky.xml", "pytest.xml"} <= {path.name for path in folder.iterdir()}


def test_the_failure_that_it_shows_is_what_comes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = re.findall(r"`hetsyn (verify [^`]*)` says", TEXT)
    assert main(command.split()) == 1
    (shown,) = (block for kind, block in BLOCKS if kind == "text")
    assert capsys.readouterr().out.startswith(shown)


def test_its_entry_point_leads_to_its_backend() -> None:
    (block,) = (block for kind, block in BLOCKS if kind == "toml")
    (points,) = tomllib.loads(block)["project"]["entry-points"].values()
    assert points == {"stock-leaky": "leaky:backend"} and 'Backend("stock-leaky"' in TEXT


@pytest.mark.parametrize("module", [checks, integers], ids=["floats", "integers"])
def test_its_table_has_every_check(module: Any) -> None:
    rows = [f"| `{name}` | {check.__doc__.splitlines()[0]} |" for name, check in module.CHECKS.items()]
    assert "\n".join(["|---|---|", *rows]) in TEXT


def test_no_kind_of_block_is_left_untested() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "sh", "toml", "text"}
