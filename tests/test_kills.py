"""A short form of tools/kills, and that it sees what it is there for."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "kills"

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc to see processes in")


@pytest.fixture(scope="module")
def kills() -> Any:
    loader = importlib.machinery.SourceFileLoader("kills", str(TOOL))
    spec = importlib.util.spec_from_loader("kills", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module
    loader.exec_module(module)
    return module


def test_a_run_that_is_killed_ends_as_if_it_had_not_been() -> None:
    command = [sys.executable, str(TOOL), "--kills", "1", "--only", "train"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    name, sent, hit, *_, equal, orphans, _ = done.stdout.splitlines()[2].split()
    assert (name, hit, equal, orphans) == ("train", "1", "yes", "0") and int(sent) >= 1


def test_what_differs_is_seen(kills: Any, tmp_path: Path) -> None:
    for name, loss in (("one", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text(f'{{"loss": {loss}, "seconds": {loss}}}\n')
        (tmp_path / name / "log.csv").write_text(f"loss,seconds\n1,{loss}\n")
        (tmp_path / name / "result.json").write_text(f'{{"runs": [{{"loss": 3, "seconds": {loss}}}]}}')
        (tmp_path / name / "state.pt").write_text(name)
    (tmp_path / "other" / ".log.csv.0123456789abcdef").write_text("")
    (tmp_path / "one" / "net").write_text("")
    expected, found = kills.contents(tmp_path / "one"), kills.contents(tmp_path / "other")
    assert kills.differences(expected, expected) == []
    assert kills.differences(expected, found) == [
        "net: not there",
        ".log.csv.0123456789abcdef: should not be there",
        "log.jsonl: differs",
    ]


def test_who_remains_is_seen(kills: Any) -> None:
    environment = {**os.environ, kills.MARK: "0123"}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environment) as process:
        time.sleep(0.2)
        assert kills.marked("0123") == [process.pid] and kills.marked("4567") == []
        process.kill()
    assert kills.marked("0123") == []
