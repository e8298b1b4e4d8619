"""The cost of small calls: what is timed is what it says, and ours equals plain autograd before it is timed."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("snntorch")
pytest.importorskip("norse")

from hetsyn_plugins import cli
from hetsyn_plugins.benchmark import bench, calls


def test_every_call_stands_beside_its_kernel(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "LOOP", 2)
    threads = torch.get_num_threads()
    assert cli.main(["bench", "--calls", "--runs", "1"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "20 -> 5 neurons, 3 rows, T = 50, one thread" in head and torch.get_num_threads() == threads
    beside = {line[:22].strip(): line.partition(" times ")[2].partition(",")[0] for line in lines}
    steps, sequences = ("snnTorch, a step", "Norse, a step"), ("snnTorch, a sequence", "Norse, a sequence")
    assert beside == {**dict.fromkeys(steps, "cpu step"), **dict.fromkeys(sequences, "cpu sequence")}


def test_a_cost_is_the_calls_time_over_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """With calls of known lengths on a clock that only they move."""
    clock = [0.0]

    def lasts(seconds: float) -> object:
        def call() -> None:
            clock[0] += seconds

        return call

    prepared = {"kernel": lasts(1e-6)}, {"a": ("kernel", lasts(3e-6)), "b": ("kernel", lasts(2.5e-6))}
    monkeypatch.setattr(calls, "_prepared", lambda: prepared)
    monkeypatch.setattr(calls.time, "perf_counter", lambda: clock[0])
    costs = {cost.call: cost for cost in calls.measure(3)}
    assert costs["a"].microseconds == pytest.approx(3) and costs["a"].times == pytest.approx(3)
    assert costs["b"].times == pytest.approx(2.5) and costs["b"].kernel_microseconds == pytest.approx(1)


def test_shapes_are_not_of_small_calls(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "--calls", "--shape", "A"]) == 2
    assert "--calls: expected without --shape" in capsys.readouterr().err


def test_what_is_timed_equals_plain_autograd() -> None:
    bench.gate()
