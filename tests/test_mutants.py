"""tools/mutants on a package of three mutants: what it finds, that it goes on, and that it tries changed code again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "mutants"
LIST = tomllib.loads((ROOT / "tests" / "data" / "equivalent_mutants.toml").read_text())

pytest.importorskip("cosmic_ray", reason="the extra [dev] is not installed")
pytest.importorskip("coverage", reason="the extra [dev] is not installed")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

CODE = """from __future__ import annotations
from typing import Literal

def seen() -> Literal[True]:
    return True

def overlooked():
    return True

def same():
    return bool([True])
"""
TESTS = """import tiny.code

def test_seen():
    assert tiny.code.seen() is True

def test_called():
    tiny.code.overlooked(), tiny.code.same()
"""
LISTED = """[[mutant]]
module = "tiny/code.py"
was = "return bool([True])"
becomes = "return bool([False])"
reason = "a list of one entry is true, whatever the entry"
"""
DRIVER = f"""
import json, pathlib, runpy, sys
tool = runpy.run_path({str(TOOL)!r})
sample = int(sys.argv[2]) if len(sys.argv) > 2 else None
print(json.dumps(tool["judged"](pathlib.Path(sys.argv[1]), "tiny", tool["Package"]("tiny", "", "checks"), sample, 0)))
"""


def judged(root: Path, *sample: str) -> tuple[dict[str, int], list[str]]:
    """What it counts, and what it says about survivors."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(root), *sample], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    *said, counts = done.stdout.splitlines()
    return json.loads(counts), said


def test_three_mutants_are_judged_each_once(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    elsewhere = f"def test_elsewhere():\n    open({str(ran)!r}, 'a').write('once ')\n"
    files = {"tiny/__init__.py": "", "tiny/code.py": CODE, "checks/test_code.py": TESTS, "checks/test_a.py": elsewhere}
    for name, text in {**files, "tests/data/equivalent_mutants.toml": LISTED}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    results = tmp_path / "build" / "mutants" / "tiny.jsonl"

    assert sum(judged(tmp_path, "1")[0].values()) == 1
    first = results.read_text()
    results.write_text(first + '{"mutant": ["tiny/co')  # the next one was being written when it was killed
    counts, said = judged(tmp_path)
    assert counts == {"killed": 1, "survived": 1, "equivalent": 1}
    assert said == ["tiny/code.py:8: return True", "    survived as  return False"]
    whole = results.read_text()
    assert whole.startswith(first) and whole.count("\n") == 3
    assert ran.read_text() == "once ", "a test that reaches no mutant is run for the map of lines and tests alone"

    assert judged(tmp_path)[0] == counts and results.read_text() == whole  # nothing is tried again
    better = TESTS + "\ndef test_more():\n    assert tiny.code.overlooked()\n"
    (tmp_path / "checks" / "test_code.py").write_text(better)
    assert judged(tmp_path)[0] == {"killed": 2, "equivalent": 1}
    assert results.read_text().count("\n") == 5  # those that had survived
    (tmp_path / "tiny" / "code.py").write_text(CODE + "\n")
    assert judged(tmp_path)[0] == {"killed": 2, "equivalent": 1}
    assert results.read_text().count("\n") == 8  # all of the changed module
    assert (tmp_path / "tiny" / "code.py").read_text() == CODE + "\n"


def test_what_is_listed_as_equivalent_is_in_the_code() -> None:
    for entry in LIST["mutant"]:
        lines = (ROOT / entry["module"]).read_text().splitlines()
        assert entry["was"] in map(str.strip, lines), f"{entry['module']} has no line {entry['was']!r}"
        assert entry["becomes"] != entry["was"] and entry["reason"]
