"""The commands of the experiments: what they print, what they refuse, and that both are one line where it is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hetsyn_plugins import cli
from hetsyn_plugins.experiments import run_folder, sweep
from hetsyn_plugins.experiments.config import changed_config, load_config

SMALL = [
    "network.hidden=[6]", "training.iterations=6", "training.batch=4", "training.log_every=1",
    "training.validate_every=3", "task.test_samples=20", "task.delay=0.1",
]  # fmt: skip
SET = [word for text in SMALL for word in ("--set", text)]


def test_train_and_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "run")
    for seed in ("1", "0"):
        capsys.readouterr()
        assert cli.main(["train", "dms", *SET, "--seeds", seed, "--out", out, "--quiet"]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    for seed, value in zip(summary["seeds"], summary["test"]["values"], strict=True):
        assert f"seed {seed}    test accuracy {value:.2%}" in printed
    assert cli.main(["evaluate", out]) == 0
    again = capsys.readouterr().out
    for seed, value in zip(summary["seeds"], summary["test"]["values"], strict=True):
        assert f"seed {seed}    test accuracy {value:.2%}" in again
    pytest.importorskip("norse")
    assert cli.main(["evaluate", out, "--framework", "norse"]) == 0
    assert capsys.readouterr().out == again


def test_evaluate_takes_the_changed_task(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Judged by the reference; a network that always says match or mismatch would not notice, so it is asked."""
    config = load_config("dms", [*SMALL, "training.iterations=40"])
    sweep.train_seeds(config, [0], tmp_path, quiet=True)
    network, accuracies = run_folder.load_networks(run_folder.seed_folder(tmp_path, 0))[1], []
    for settings in ([], ["task.cue_rate=0"], ["task.noise_rate=150", "task.delay=0.4"]):
        words = [word for text in settings for word in ("--set", text)]
        assert cli.main(["evaluate", str(tmp_path), *words]) == 0
        right = []
        for x, labels in changed_config(config, settings).task.held_out("test", 20, 0):
            *_, (_, v) = network.run(x.numpy()).values()
            right += list(v[-1].argmax(1) == labels.numpy())
        assert f"test accuracy {np.mean(right):.2%}" in capsys.readouterr().out
        accuracies.append(np.mean(right))
    assert len(set(accuracies)) > 1
    wrong = {
        "task.dt=0.001": "--set: expected task.dt=0.005, as trained",
        "task.name=patterns": "task.name: expected dms",
    }
    for setting, message in wrong.items():
        assert cli.main(["evaluate", str(tmp_path), "--set", setting]) == 2
        assert message in capsys.readouterr().err


def test_a_task_of_other_sizes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sweep.train_seeds(load_config("dms", SMALL), [0], tmp_path, quiet=True)
    assert cli.main(["evaluate", str(tmp_path), "--set", "task.group=5"]) == 2
    assert "expected a task of 30 lines and 2 readouts, as trained, got 15 and 2" in capsys.readouterr().err


def test_a_request_that_fails_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Or the advice that it gives could not be followed with the same --out."""
    out = tmp_path / "run"
    assert cli.main(["train", "images", "--set", "task.source=nowhere", "--out", str(out)]) == 2
    assert "source: expected" in capsys.readouterr().err and not out.exists()


def test_a_folder_that_cannot_be_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert cli.main(["train", "dms", "--out", str(out), "--quiet"]) == 2
        assert f"--out: expected a folder to write to, got {out}: " in capsys.readouterr().err


def test_the_papers_way_to_choose_is_labelled(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["train", "dms", *SET, "--set", "training.select=best_test", "--out", str(tmp_path / "run"), "--quiet"]
    assert cli.main(words) == 0
    assert "chosen ON THE TEST SET" in capsys.readouterr().out


def test_wrong_requests_end_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    empty = str(tmp_path / "empty")
    Path(empty).mkdir()
    sweep.prepare(tmp_path / "untrained", load_config("dms", SMALL))
    wrong = {
        ("train", "dsm"): "config: expected one of",
        ("train", "dms", "--set", "network.hiden=3"): "nearest: network.hidden",
        ("train", "dms", "--seeds", "x"): "--seeds: expected",
        ("train", "dms", "--jobs", "-1"): "--jobs: expected",
        ("evaluate", empty): "RUN: expected a folder that `hetsyn train` wrote",
        ("evaluate", str(tmp_path / "untrained")): "RUN: expected a run with at least one trained seed",
        ("evaluate", empty, "--set", "network.hidden=[3]"): "--set: expected task.KEY=VALUE",
        ("analyse", empty): "RUN: expected a folder",
        ("claim", "nothing"): "CLAIM: expected one of",
    }
    for words, message in wrong.items():
        assert cli.main(list(words)) == 2, words
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error, words


def test_a_name_that_the_terminal_cannot_show_ends_nothing() -> None:
    command = [
        sys.executable,
        "-m",
        "hetsyn_plugins.cli",
        "train",
        "images",
        "--show",
        "--set",
        "task.source=/bilder/öl",
    ]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=120)
    assert done.returncode == 0 and rb'source = "/bilder/\xf6l"' in done.stdout, done.stderr
