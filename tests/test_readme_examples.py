"""The README's code blocks and the examples run as they stand."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("snntorch")
pytest.importorskip("norse")

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
PREPARE = f"import hetsyn_plugins; hetsyn_plugins.__path__.append({str(ROOT)!r})\n"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(code: str, folder: Path = ROOT) -> str:
    command = [sys.executable, "-W", "ignore", "-c", PREPARE + code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_readme_block_runs(block: str, tmp_path: Path) -> None:
    if "import lava" in block and importlib.util.find_spec("lava") is None:
        pytest.skip("Lava ends at Python 3.10")
    run(block, tmp_path)


def test_readme_has_a_block_for_each_framework() -> None:
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path) -> None:
    assert run(example.read_text()).strip()


def test_same_neuron_finds_no_differing_spike() -> None:
    lines = [line for line in run((ROOT / "examples" / "same_neuron.py").read_text()).splitlines() if "differ" in line]
    assert len(lines) >= 8 and all(" 0 spikes differ" in line for line in lines)
