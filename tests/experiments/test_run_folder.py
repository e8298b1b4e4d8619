"""Folders of runs: seeds over processes, what is kept, what is refused, and the commands that do it."""

import itertools
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hetsyn_plugins.cli import experiments
from hetsyn_plugins import cli
from hetsyn_plugins.experiments import config
from hetsyn_plugins.experiments import run_folder as runs
from hetsyn_plugins.experiments.training_log import LOG, read_log

SMALL = [
    "network.hidden=[6]", "training.iterations=6", "training.batch=4", "training.log_every=1",
    "training.validate_every=3", "task.test_samples=20", "task.delay=0.1",
]  # fmt: skip
SET = [word for text in SMALL for word in ("--set", text)]


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [3]), ("0-3", [0, 1, 2, 3]), ("0,2,5-7", [0, 2, 5, 6, 7]), ("4-4", [4])]
)
def test_seeds_are_read_and_written(text: str, seeds: list[int]) -> None:
    assert runs.seeds_of(text) == seeds
    assert runs.seeds_of(runs.ranges(seeds)) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "3-1", "1,1", "0-3,2", "1.5", "0--2", "5000000000"])
def test_wrong_seeds_are_told(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds: expected"):
        runs.seeds_of(text)


def test_a_sweep_gives_what_single_runs_give_and_sums_up(tmp_path: Path) -> None:
    own = config.load("dms", SMALL)
    together = runs.run(own, [0, 1, 4], tmp_path / "together", quiet=True)
    for seed in (4, 0, 1):
        single = runs.run(own, [seed], tmp_path / "single", quiet=True)
    values = [json.loads((tmp_path / f"together/seed-{s}/result.json").read_text())["test"] for s in (0, 1, 4)]
    assert together["seeds"] == single["seeds"] == [0, 1, 4]
    assert together["test"] == single["test"]
    assert together["test"]["values"] == values
    assert together["test"]["mean"] == pytest.approx(np.mean(values))
    assert together["test"]["sd"] == pytest.approx(np.std(values, ddof=1))
    for seed in (0, 1, 4):
        logs = [read_log(tmp_path / where / f"seed-{seed}" / LOG) for where in ("together", "single")]
        kept = [[{k: v for k, v in record.items() if k != "seconds"} for record in log] for log in logs]
        assert kept[0] == kept[1]


def test_only_what_is_missing_is_run(tmp_path: Path) -> None:
    own = config.load("dms", SMALL)
    runs.run(own, [0], tmp_path, quiet=True)
    written = (tmp_path / "seed-0/result.json").stat().st_mtime_ns
    runs.run(own, [0, 1], tmp_path, quiet=True)
    assert (tmp_path / "seed-0/result.json").stat().st_mtime_ns == written
    assert runs.trained(tmp_path) == [0, 1]


def test_a_folder_holds_one_configuration(tmp_path: Path) -> None:
    runs.run(config.load("dms", SMALL), [3], tmp_path, quiet=True)
    other = config.load("dms", [*SMALL, "task.delay=0.2"])
    with pytest.raises(ValueError, match=r"--out: expected a new folder .*: task\.delay = 0\.1 there, 0\.2 asked for"):
        runs.run(other, [0], tmp_path)
    assert runs.trained(tmp_path) == [3]


def test_seeds_that_fail_are_told_and_the_others_kept(tmp_path: Path) -> None:
    own = config.load("dms", SMALL)
    runs.prepare(tmp_path, own)
    for seed in (1, 2):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}/state.pt").write_bytes(b"no checkpoint")
    with pytest.raises(
        ValueError, match=r"2 of 3 seeds failed\nseed 1: .*checkpoint: expected a whole one.*\nseed 2: "
    ):
        runs.run(own, [0, 1, 2], tmp_path, quiet=True)
    assert json.loads((tmp_path / "summary.json").read_text())["seeds"] == [0]


def test_a_sweep_that_is_killed_takes_its_seeds_with_it(tmp_path: Path) -> None:
    """Seeds that trained on would write to the same folders as those of the next call."""
    runs.prepare(tmp_path, config.load("dms", [*SMALL, "training.iterations=100000"]))
    words = ["train", str(tmp_path / "config.toml"), "--seeds", "0,1", "--out", str(tmp_path), "--quiet"]
    sweep = subprocess.Popen([sys.executable, "-m", "hetsyn_plugins.cli", *words])
    logs = [tmp_path / f"seed-{seed}" / LOG for seed in (0, 1)]
    try:
        deadline = time.time() + 120
        while not all(read_log(log) for log in logs) and time.time() < deadline:
            time.sleep(0.05)
        assert all(read_log(log) for log in logs)
    finally:
        sweep.terminate()
        assert sweep.wait(30) == 128 + signal.SIGTERM
    sizes = [log.stat().st_size for log in logs]
    time.sleep(0.5)
    assert [log.stat().st_size for log in logs] == sizes


def test_the_command_of_a_summary_trains_the_same_configuration(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own = config.load("dms", [*SMALL, "network.tau_start=[0.1, 0.01]", "network.variant=homneu"], "norse")
    words = shlex.split(runs.command(tmp_path / "dms", own, [0, 1, 2, 5]))
    assert words[-4:] == ["--seeds", "0-2,5", "--out", str(tmp_path / "dms")]
    assert cli.main([*words[1:], "--show"]) == 0
    (tmp_path / "shown.toml").write_text(capsys.readouterr().out)
    assert config.load(tmp_path / "shown.toml") == own


def test_a_command_gives_what_hangs_on_the_task_too(tmp_path: Path) -> None:
    """Speech from a folder brings other settings with it than the synthetic digits do."""
    own = config.load("speech", [f'task.source="{tmp_path}"', "training.epochs=15"])
    words = shlex.split(runs.command(tmp_path, own, [0]))
    settings = [setting for flag, setting in itertools.pairwise(words) if flag == "--set"]
    assert config.load("speech", settings) == own and "training.epochs=15" in settings


# ---- the commands ------------------------------------------------------------------------------------------------


def test_train_and_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "run")
    assert cli.main(["train", "dms", *SET, "--seeds", "0,1", "--out", out, "--quiet"]) == 0
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
    own = config.load("dms", [*SMALL, "training.iterations=40"])
    runs.run(own, [0], tmp_path, quiet=True)
    network, accuracies = runs.networks(tmp_path, 0)[1], []
    for settings in ([], ["task.cue_rate=0"], ["task.noise_rate=150", "task.delay=0.4"]):
        words = [word for text in settings for word in ("--set", text)]
        assert cli.main(["evaluate", str(tmp_path), *words]) == 0
        right = []
        for x, labels in config.changed(own, settings).task.held_out("test", 20, 0):
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


def test_a_damaged_result_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs.run(config.load("dms", SMALL), [0], tmp_path, quiet=True)
    (tmp_path / "seed-0/result.json").write_text('{"seed": 0, "tes')
    with pytest.raises(ValueError, match=r"RUN: expected a result in JSON, got .*result\.json.*delete it"):
        runs.summarise(tmp_path)


def test_a_task_of_other_sizes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs.run(config.load("dms", SMALL), [0], tmp_path, quiet=True)
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


def test_a_folder_without_a_seed_takes_another_configuration(tmp_path: Path) -> None:
    runs.prepare(tmp_path, config.load("dms"))
    runs.prepare(tmp_path, config.load("patterns"))
    assert runs.load(tmp_path).task.name == "patterns"


def test_the_papers_way_to_choose_is_labelled(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["train", "dms", *SET, "--set", "training.select=best_test", "--out", str(tmp_path / "run"), "--quiet"]
    assert cli.main(words) == 0
    assert "chosen ON THE TEST SET" in capsys.readouterr().out


def test_the_parser_knows_the_frameworks_without_loading_them() -> None:
    assert experiments.FRAMEWORKS == config.FRAMEWORKS


def test_wrong_requests_end_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    empty = str(tmp_path / "empty")
    Path(empty).mkdir()
    runs.prepare(tmp_path / "untrained", config.load("dms", SMALL))
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
