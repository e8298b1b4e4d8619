"""`hetsyn analyse`: what it prints is what the networks have and do."""

import re
from pathlib import Path

import numpy as np
import pytest

from hetsyn_plugins import cli
from hetsyn_plugins.experiments import analysis, run_folder, sweep, training
from hetsyn_plugins.experiments.config import load_config

SMALL = ["network.hidden=[6]", "training.iterations=30", "training.batch=8", "task.delay=0.1", "task.test_samples=40"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a small network that has learned something, with taus that start long."""
    folder = tmp_path_factory.mktemp("run")
    for seed in (0, 1):
        sweep.train_seeds(load_config("dms", [*SMALL, "network.tau_start=[0.2, 0.02]"]), [seed], folder, quiet=True)
    return folder


def printed(run: Path, capsys: pytest.CaptureFixture, *options: str) -> str:
    assert cli.main(["analyse", str(run), *options]) == 0
    return str(capsys.readouterr().out)


def test_numbers_are_the_networks(run: Path, capsys: pytest.CaptureFixture) -> None:
    text = printed(run, capsys, "--bound", "0.3")
    before, after = run_folder.load_networks(run_folder.seed_folder(run, 0))
    for name in analysis.taus(after):
        for network, word in ((before, "before"), (after, "after ")):
            tau = np.sort(np.ravel(analysis.taus(network)[name]))
            long = np.mean(tau > 0.3)
            assert re.search(rf"{word} +{np.median(tau) * 1e3:.1f} \(.*, {long:.2%} long", text), (name, word)
    results = [run_folder.load_result(run_folder.seed_folder(run, seed)).test for seed in (0, 1)]
    assert f"inputs as they are: accuracy {np.mean(results):.4f}" in text


@pytest.mark.parametrize("at_a_time", [1, 7])
def test_a_control_is_a_mean_over_samples(
    at_a_time: int, run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 samples in batches of 7 the last one has 5: they count no more than the others."""
    monkeypatch.setattr(training, "AT_A_TIME", at_a_time)
    test = [run_folder.load_result(run_folder.seed_folder(run, seed)).test for seed in (0, 1)]
    assert f"inputs as they are: accuracy {np.mean(test):.4f}" in printed(run, capsys, "--bound", "0.1")


def test_resetting_is_judged_by_the_reference(run: Path, capsys: pytest.CaptureFixture) -> None:
    text = printed(run, capsys, "--bound", "0.21")
    task, accuracies = run_folder.load_run_config(run).task, []
    for seed in (0, 1):
        before, after = run_folder.load_networks(run_folder.seed_folder(run, seed))
        start = np.median(np.concatenate([tau.ravel() for tau in analysis.taus(before).values()]))
        reset = analysis.reset_long_taus(after, 0.21, float(start))
        ((inputs, labels),) = task.held_out("test", 40, seed)
        *_, (_, v) = reset.run(inputs.numpy()).values()
        accuracies.append(np.mean(v[-1].argmax(1) == labels.numpy()))
    assert f"back at their start: {np.mean(accuracies):.4f}" in text


def test_pictures_are_written_where_asked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = printed(run, capsys, "--out", str(tmp_path / "pictures"))
    for name in ("taus", "tau_weight", "spread", "reset", "controls"):
        path = tmp_path / "pictures" / f"{name}.png"
        assert f"picture: {path}" in text and path.read_bytes()[:4] == b"\x89PNG"


def test_a_bound_below_the_start_is_said(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert "above the bound of 100 ms: none is reset" in printed(run, capsys, "--bound", "0.1")


@pytest.mark.parametrize("bound", ["0", "-1", "inf", "nan"])
def test_a_wrong_bound_is_told(run: Path, bound: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["analyse", str(run), "--bound", bound]) == 2
    assert "--bound: expected seconds > 0" in capsys.readouterr().err


def test_homogeneous_networks_have_nothing_to_correlate(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sweep.train_seeds(load_config("dms", [*SMALL, "network.variant=homneu"]), [0], tmp_path, quiet=True)
    text = printed(tmp_path, capsys)
    assert "median 40.0 ms, sigma 0.00" in text and "0.00% at r = 1" in text


def test_curves_have_the_same_controls(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = ["network.hidden=[5]", "training.iterations=3", "task.test_samples=3"]
    sweep.train_seeds(load_config("patterns", settings), [0], tmp_path, quiet=True)
    text = printed(tmp_path, capsys)
    assert f"inputs as they are: MSE {run_folder.load_result(run_folder.seed_folder(tmp_path, 0)).test:.4f}" in text
