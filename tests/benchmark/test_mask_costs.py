"""`hetsyn bench --masks`: every density at every shape, with multiples of the layer without a mask."""

from __future__ import annotations

import re

import pytest

from hetsyn_plugins import cli
from hetsyn_plugins.benchmark import masks
from hetsyn_plugins.benchmark.peers import Shape


def test_every_density_is_timed_at_every_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(masks, "SHAPES", dict.fromkeys(masks.NAMES, Shape(35, 4, 5, 6)))
    monkeypatch.setattr(masks, "DENSITIES", (1.0, 0.7))  # an empty row would be told of
    assert cli.main(["bench", "--masks", "--runs", "1"]) == 0
    printed = capsys.readouterr().out
    lines = re.findall(r"([AD]): (no mask|100%|70%) +[\d.]+ ms +([\d.]+) x without", printed)
    assert [line[:2] for line in lines] == [(s, k) for s in "AD" for k in ("no mask", "100%", "70%")]
    assert all(float(times) == 1.0 for _, kind, times in lines if kind == "no mask")


def test_shapes_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--masks", "--shape", "A"]) == 2
    assert "--masks: expected without --shape" in capsys.readouterr().err
