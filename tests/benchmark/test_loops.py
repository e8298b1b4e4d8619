"""The cost of loops: every form does the same work, and what is printed is what was measured."""

from __future__ import annotations

import pytest
import torch

from hetsyn_plugins import cli
from hetsyn_plugins.benchmark import loops

pytest.importorskip("snntorch")
pytest.importorskip("norse")

SMALL = [loops.Size((6, 4), 3, 5), loops.Size((6, 4, 2), 3, 5)]


def test_the_table_names_every_form_and_its_multiples(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "SIZES", SMALL)
    assert cli.main(["bench", "--loops", "--runs", "1", "--no-memory"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("  ")] and len(lines) == 2 * (1 + len(loops.forms()))
    assert all("x sequence" in line and "x stock" in line for line in lines if line.startswith("  "))
    assert lines[0].startswith("6 -> 4, 3 rows, T = 5") and "1.00 x sequence" in lines[1]


def test_all_idioms_of_hetsyn_layers_have_the_same_outputs_and_gradients() -> None:
    """Where only the order of sums differs: T B N M = 360 float32 terms below 2."""
    gradients = []
    adapter = loops.frameworks.adapter("snntorch")
    weight, x = torch.rand(4, 6), loops.inputs(SMALL[0])
    for run in (loops.hidden_call, loops.hidden_loop, loops.explicit_loop):
        layer = adapter.HetSynLeaky(6, 4, weight=weight, init_hidden=run is not loops.explicit_loop)
        total = run([layer], x)
        total.backward()
        gradients.append((total.item(), layer.weight.grad, layer.alpha.grad))
    for total, g_weight, g_alpha in gradients[1:]:
        assert total == gradients[0][0]
        torch.testing.assert_close(g_weight, gradients[0][1], rtol=0, atol=1e-4)
        torch.testing.assert_close(g_alpha, gradients[0][2], rtol=0, atol=1e-4)


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    size = loops.Size((200, 100), 64, 3)
    peak = loops.peak_memory(size, "hidden states")
    currents, sequences = size.arrays
    assert peak is None or currents < peak < 3 * currents + 3 * sequences + 8  # 8 MB: what Python and torch add


def test_shapes_are_not_of_loops(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "--loops", "--shape", "A"]) == 2
    assert "--loops: expected without --shape" in capsys.readouterr().err
