"""`hetsyn bench --delays`: every kind at every shape, with multiples of the layer without delays."""

from __future__ import annotations

import re

import pytest
import torch
from pretended_card import pretended_card

from hetsyn_plugins import cli
from hetsyn_plugins.benchmark import delays
from hetsyn_plugins.benchmark.peers import Shape


def test_every_kind_is_timed_at_every_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delays, "SHAPES", dict.fromkeys(delays.NAMES, Shape(35, 4, 5, 6)))
    assert cli.main(["bench", "--delays", "--runs", "1"]) == 0
    printed = capsys.readouterr().out
    lines = re.findall(r"([AD]): (no delays|whole, fixed|learned) +[\d.]+ ms +([\d.]+) x without", printed)
    assert [line[:2] for line in lines] == [(s, k) for s in "AD" for k in ("no delays", "whole, fixed", "learned")]
    assert all(float(times) == 1.0 for _, kind, times in lines if kind == "no delays")


def test_a_card_is_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    waits: list[None] = []
    monkeypatch.setattr(delays, "SHAPES", dict.fromkeys(delays.NAMES, Shape(3, 2, 5, 6)))
    with pretended_card(monkeypatch):
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(None))
        assert cli.main(["bench", "--delays", "--runs", "1", "--device", "cuda"]) == 0
    assert capsys.readouterr().out.count(" ms ") == 6 and len(waits) == 2 * 6, "once to warm up"


def test_without_a_card_it_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--delays", "--device", "cuda"]) == 2
    assert "--device: expected a CUDA device, got none" in capsys.readouterr().err


def test_shapes_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--delays", "--shape", "A"]) == 2
    assert "--delays: expected without --shape" in capsys.readouterr().err
