"""Compiled beside eager calls: both do the same work, and what is printed is what was measured."""

from __future__ import annotations

import copy

import pytest
import torch

from hetsyn_plugins import cli
from hetsyn_plugins.benchmark import compiled
from hetsyn_plugins.benchmark.loops import Size, inputs
from hetsyn_plugins.ops import operators

pytest.importorskip("snntorch")
pytest.importorskip("norse")
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # newer torch's own
SMALL = Size((6, 4), 3, 5)
with_operators = pytest.mark.skipif(not operators.AVAILABLE, reason="operators need torch 2.4")


@with_operators
def test_the_table_has_a_line_for_training_and_one_for_forward_calls(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "SIZES", [SMALL])
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    two = {name: compiled.forms()[name] for name in ("snnTorch, hidden, a sequence", "Norse, a sequence and state")}
    monkeypatch.setattr(compiled, "forms", lambda: two)
    assert cli.main(["bench", "--compiled", "--runs", "1"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("6 -> 4, 3 rows, T = 5") and len(lines) == 4
    assert all("x eager" in line for line in lines)


@with_operators
@pytest.mark.parametrize("name", ["snnTorch, a sequence", "snnTorch, hidden, steps", "Norse, cells"])
def test_both_sums_are_the_same(name: str) -> None:
    form, x = compiled.forms()[name], inputs(SMALL)
    net = form.build(6, 4)
    torch._dynamo.reset()
    twin = torch.compile(copy.deepcopy(net), fullgraph=True, backend="eager")
    assert form.run(twin, x) == form.run(net, x)


def test_a_cost_is_compiled_over_eager() -> None:
    line = compiled.table([compiled.Cost(SMALL, "a form", False, 2.0, 3.0)]).splitlines()[1]
    assert "a form" in line and "forward" in line and "3.00 ms" in line and " 1.50 x eager, 2.00 ms" in line


@pytest.mark.skipif(operators.AVAILABLE, reason="torch has operators")
def test_without_operators_it_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "--compiled"]) == 2
    assert "--compiled: expected torch 2.4 or later" in capsys.readouterr().err


def test_shapes_are_not_of_compiled_calls(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "--compiled", "--shape", "A"]) == 2
    assert "--compiled: expected without --shape" in capsys.readouterr().err
