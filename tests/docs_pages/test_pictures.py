"""The pictures of docs/explanation/neuron.md are what their script draws: there, small, and the same each time."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def drawing() -> Any:
    spec = importlib.util.spec_from_file_location("draw_pictures", ROOT / "docs" / "_ext" / "draw_pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pictures_are_small_and_the_same_each_time(drawing: Any, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        drawing.draw(folder)
    first, second = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert first == second and max(map(len, first.values())) < 60_000
    assert set(first) == {file.name for file in (ROOT / "docs" / "pictures").iterdir()}


def test_one_time_constant_loses_what_three_keep(drawing: Any) -> None:
    """What the second picture is there to show."""
    spikes = [drawing.reference.run(drawing.params(*taus), drawing.INPUTS)[0] for taus in ((20, 20, 20), (5, 20, 80))]
    assert not (spikes[0] == spikes[1]).all()
