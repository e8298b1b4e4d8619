"""`hetsyn bench --codebook`: every kind of inputs at every shape, beside the free layer and a stock neuron."""

from __future__ import annotations

import re

import pytest
import torch
from pretended_card import pretended_card

pytest.importorskip("snntorch")

from hetsyn_plugins import cli
from hetsyn_plugins.benchmark import codebook
from hetsyn_plugins.benchmark.peers import Shape

LARGE = ("rec 256", "rec 512", "rec 1024")


def test_every_kind_of_inputs_is_timed_at_every_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(codebook, "SHAPES", dict.fromkeys(codebook.NAMES, Shape(15, 4, 5, 6)))
    assert cli.main(["bench", "--codebook", "--runs", "1"]) == 0
    printed = capsys.readouterr().out
    line = r"([AD]): (\w+) +[\d.]+ ms +[\d.]+ x a decay a synapse +[\d.]+ x snnTorch, one a neuron"
    assert re.findall(line, printed) == [(s, i) for s in "AD" for i in ("spikes", "half", "graded")]


def test_large_recurrent_layers_are_timed_on_a_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[None] = []
    assert all(codebook.ON_CARD[name].recurrent and codebook.ON_CARD[name].neurons > 128 for name in LARGE)
    monkeypatch.setattr(codebook, "ON_CARD", dict.fromkeys(LARGE, Shape(3, 2, 5, 6, recurrent=True)))
    with pretended_card(monkeypatch):
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(None))
        assert cli.main(["bench", "--codebook", "--runs", "1", "--device", "cuda"]) == 0
    assert re.findall(r"(rec \d+): (\w+) +[\d.]+ ms ", capsys.readouterr().out) == [(name, "spikes") for name in LARGE]
    assert len(waits) == 2 * 3 * 3, "of three layers, once to warm up"


def test_without_a_card_it_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--codebook", "--device", "cuda"]) == 2
    assert "--device: expected a CUDA device, got none" in capsys.readouterr().err


def test_shapes_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--codebook", "--shape", "A"]) == 2
    assert "--codebook: expected without --shape" in capsys.readouterr().err
