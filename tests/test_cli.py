"""The command line: exit statuses, what is printed, and a short run of the demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hetsyn_plugins import backends, checkpoint, conformance, plots
from hetsyn_plugins.cli import main
from hetsyn_plugins.tasks import digits


def test_verify_prints_a_line_a_check_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--backend", "eager", "--check", "hand-table", "--check", "threshold"]) == 0
    out = capsys.readouterr().out
    assert "eager          hand-table" in out and "2 of 2 passed" in out


def test_verify_fails_where_a_backend_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(case: conformance.Case) -> conformance.Outcome:
        right = conformance.expected(case)
        return conformance.Outcome(right.spikes, right.v + 1e-3, right.state, right.gradients)

    absent = {"norse": "norse is not installed"}
    monkeypatch.setattr(backends, "available", lambda: ([conformance.Backend("wrong", wrong)], absent))
    assert main(["verify", "--check", "random"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out and "off by 1.0" in out and "absent: norse is not installed" in out


def test_unknown_names_are_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--backend", "brian2"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("hetsyn verify: --backend: expected one of reference, eager") and err.count("\n") == 1
    assert main(["demo", "--epochs", "0"]) == 2


def test_demo_runs_and_leaves_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("snntorch")
    pytest.importorskip("norse")
    assert main(["demo", "--out", str(tmp_path / "out"), "--epochs", "1", "--samples", "128"]) == 0
    out = capsys.readouterr().out
    assert "Norse, float64" in out and " 0 of 919,552 spikes differ from snnTorch's" in out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "raster.png",
        "neuron.png",
        "taus.png",
        "digits.safetensors",
    }
    assert len(checkpoint.load(tmp_path / "out" / "digits.safetensors").layers) == 2


def test_digits_are_coded_as_described() -> None:
    image = np.zeros((1, 8, 8))
    image[0, 3, 5], image[0, 0, 0] = 16.0, 3.0  # full: all four steps; 3 / 16 > 1/8 only: one step
    spikes = digits.encode(image)
    assert spikes.shape == (32, 1, 8)
    assert {tuple(at) for at in np.argwhere(spikes[:, 0])} == {(0, 0), (12, 5), (13, 5), (14, 5), (15, 5)}


def test_digits_are_split_without_overlap_and_by_seed() -> None:
    pytest.importorskip("sklearn")
    data, again, other = digits.load(0), digits.load(0), digits.load(1)
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert np.array_equal(data.test_spikes, again.test_spikes)
    assert not np.array_equal(data.test_labels, other.test_labels)


def test_plots_draw_the_numbers_they_are_given() -> None:
    pytest.importorskip("matplotlib")
    spikes = np.zeros((10, 3))
    spikes[4, 1] = spikes[7, 2] = 1
    assert plots.raster(spikes).collections[0].get_offsets().tolist() == [[4, 1], [7, 2]]
    v = np.linspace(0, 2, 10)
    ax = plots.membrane(v, np.float64(v > 1), 1.0)
    assert np.array_equal(ax.lines[0].get_ydata(), v) and set(ax.lines[1].get_ydata()) == {1.0}
    assert plots.traces(np.ones((5, 2)), ax) is ax
    histogram = plots.tau_histogram({"all": np.array([0.0, 0.01, 0.02, np.inf])})
    assert sum(p.get_height() for p in histogram.patches) == 2
    assert "25.0% at r = 0, 25.0% at r = 1" in histogram.get_legend().get_texts()[0].get_text()
