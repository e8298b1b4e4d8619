"""Notebooks are committed with what comes out of them, small; `tools/notebooks --check` runs them and compares."""

from __future__ import annotations

import json
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra docs)")
pytest.importorskip("nbclient", reason="nbclient is not installed (extra docs)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra docs)")

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def tool() -> Any:
    """tools/notebooks as a module."""
    loader = SourceFileLoader("notebooks", str(ROOT / "tools" / "notebooks"))
    spec = spec_from_loader("notebooks", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def notebook(*cells: str) -> Any:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 5


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_small_whole_and_as_the_tool_writes_it(file: Path, tool: Any) -> None:
    committed = nbformat.read(file, as_version=4)
    nbformat.validate(committed)
    assert file.stat().st_size <= tool.MOST_BYTES
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "/tmp/" not in "".join(output.get("text", "") for output in outputs)
    assert json.loads(nbformat.writes(tool.plain(nbformat.read(file, as_version=4)))) == json.loads(file.read_text())


@pytest.fixture(scope="module")
def ran(tool: Any) -> Any:
    """A notebook that prints in pieces, warns, and gives a value."""
    cells = ("import sys\nprint('one', 1)\nsys.stdout.flush()\nprint(2)", "print('hm', file=sys.stderr)\n3.5", "4")
    return tool.executed(notebook(*cells))


def test_what_is_printed_in_pieces_is_one_text_and_a_warning_is_told(tool: Any, ran: Any) -> None:
    assert [output.text for output in ran.cells[0].outputs] == ["one 1\n2\n"]
    assert list(tool.faults(ran, ran)) == ["cell 1: warns: hm\n"]


@pytest.mark.parametrize(
    ("old", "new", "cells"),
    [("one 1", "one 7", []), ("4", "-0.25", []), ("one 1", "two 1", [0]), ("4", "four", [2]), ("4", "", [2])],
)
def test_another_text_is_told_and_another_number_is_not(tool: Any, ran: Any, old: str, new: str, cells: Any) -> None:
    text = nbformat.writes(ran)
    committed = nbformat.reads(text.replace(f'"{old}', f'"{new}'), as_version=4)
    told = [fault for fault in tool.faults(committed, ran) if "is committed" in fault]
    assert [int(fault.split()[1].rstrip(":")) for fault in told] == cells


def test_outputs_that_are_missing_and_cells_that_are_new_are_told(tool: Any, ran: Any) -> None:
    committed = nbformat.reads(nbformat.writes(ran), as_version=4)
    committed.cells[2].outputs = []
    assert [fault for fault in tool.faults(committed, ran) if fault.startswith("cell 2: [] is committed")]
