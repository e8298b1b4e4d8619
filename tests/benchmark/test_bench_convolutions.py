"""The cost of convolutions: every form does the same work, and what is printed is what was measured."""

from __future__ import annotations

import pytest

from hetsyn_plugins import cli
from hetsyn_plugins.benchmark import convolutions
from hetsyn_plugins.benchmark.convolutions import STOCK, Cost, Size

pytest.importorskip("snntorch")


def test_the_table_names_every_form_and_its_multiple(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolutions, "SIZES", [Size((2, 4), 3, 6, groups=2, batch=2, steps=3)])
    assert cli.main(["bench", "--convolutions", "--runs", "1", "--no-memory"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "2 -> 4, 3 x 3, 2 groups, images 6 x 6, 2 rows, T = 3; currents 0.0 MB, patches 0.0 MB"
    assert [line.split("  ")[1] for line in lines] == ["sequence", "steps", STOCK] and "1.00 x stock" in lines[2]


def test_memory_and_multiples_are_those_that_were_measured() -> None:
    size = Size((8, 16), 3, 12)
    costs = [Cost(size, "sequence", 30.0, 12.5), Cost(size, STOCK, 12.0, None)]
    _, ours, stock = convolutions.table(costs).splitlines()
    assert ours.split() == "sequence 30.00 ms 2.50 x stock 12.5 MB".split() and stock.endswith("1.00 x stock")
    assert size.arrays == pytest.approx((4e-6 * 16 * 100 * 16 * 72, 4e-6 * 25 * 16 * 100 * 72))
