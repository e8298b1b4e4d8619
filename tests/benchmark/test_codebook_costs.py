"""`hetsyn bench --codebook`: every kind of inputs at every shape, beside the free layer and a stock neuron."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("snntorch")

from hetsyn_plugins import cli
from hetsyn_plugins.benchmark import codebook
from hetsyn_plugins.benchmark.peers import Shape


def test_every_kind_of_inputs_is_timed_at_every_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(codebook, "SHAPES", dict.fromkeys(codebook.NAMES, Shape(15, 4, 5, 6)))
    assert cli.main(["bench", "--codebook", "--runs", "1"]) == 0
    printed = capsys.readouterr().out
    line = r"([AD]): (\w+) +[\d.]+ ms +[\d.]+ x a decay a synapse +[\d.]+ x snnTorch, one a neuron"
    assert re.findall(line, printed) == [(s, i) for s in "AD" for i in ("spikes", "half", "graded")]


def test_shapes_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--codebook", "--shape", "A"]) == 2
    assert "--codebook: expected without --shape" in capsys.readouterr().err
