"""Several seeds of a configuration: over processes, what is kept, what is refused, and the command that does it."""

import contextlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from hetsyn_plugins import cli
from hetsyn_plugins.core.locks import locked
from hetsyn_plugins.experiments import launchers, run_folder, sweep
from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.training_log import LOG, read_log

SMALL = [
    "network.hidden=[6]", "training.iterations=6", "training.batch=4", "training.log_every=1",
    "training.validate_every=3", "task.test_samples=20", "task.delay=0.1",
]  # fmt: skip


def test_a_sweep_gives_what_single_runs_give_and_sums_up(tmp_path: Path) -> None:
    config = load_config("dms", SMALL)
    together = sweep.train_seeds(config, [0, 4], tmp_path / "together", quiet=True)
    for seed in (4, 0):
        single = sweep.train_seeds(config, [seed], tmp_path / "single", quiet=True)
    values = [json.loads((tmp_path / f"together/seed-{s}/result.json").read_text())["test"] for s in (0, 4)]
    assert together.seeds == single.seeds == [0, 4]
    assert together.test == single.test
    assert together.test.values == values
    assert together.test.mean == pytest.approx(np.mean(values))
    assert together.test.sd == pytest.approx(np.std(values, ddof=1))
    for seed in (0, 4):
        logs = [read_log(tmp_path / where / f"seed-{seed}" / LOG) for where in ("together", "single")]
        kept = [[{k: v for k, v in record.items() if k != "seconds"} for record in log] for log in logs]
        assert kept[0] == kept[1]


def test_only_what_is_missing_is_run(tmp_path: Path) -> None:
    config = load_config("dms", SMALL)
    sweep.train_seeds(config, [0], tmp_path, quiet=True)
    written = (tmp_path / "seed-0/result.json").stat().st_mtime_ns
    sweep.train_seeds(config, [0, 1], tmp_path, quiet=True)
    assert (tmp_path / "seed-0/result.json").stat().st_mtime_ns == written
    assert run_folder.trained_seeds(tmp_path) == [0, 1]


def test_a_folder_holds_one_configuration(tmp_path: Path) -> None:
    sweep.train_seeds(load_config("dms", SMALL), [3], tmp_path, quiet=True)
    other = load_config("dms", [*SMALL, "task.delay=0.2"])
    with pytest.raises(ValueError, match=r"--out: expected a new folder .*: task\.delay = 0\.1 there, 0\.2 asked for"):
        sweep.train_seeds(other, [0], tmp_path)
    assert run_folder.trained_seeds(tmp_path) == [3]


def test_seeds_that_fail_are_told_and_the_others_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))  # a container may have none to write to
    config = load_config("dms", SMALL)
    sweep.prepare(tmp_path, config)
    for seed in (1, 3):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}" / run_folder.STATE).write_bytes(b"no checkpoint")
    why = f"{run_folder.STATE}: expected a whole .*; delete it to train from the start"
    message = rf"^2 of 3 seeds failed\nseed 1: .*{why}.*\nseed 3: .*{why}.*$"
    with pytest.raises(ValueError, match=message):
        sweep.train_seeds(config, [1, 2, 3], tmp_path, quiet=True)
    assert json.loads((tmp_path / "summary.json").read_text())["seeds"] == [2]


@pytest.mark.parametrize(
    ("number", "status", "says"),
    [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGTERM, 128 + signal.SIGTERM, "hetsyn train: stopped; the same command goes on from there\n"),
        (signal.SIGINT, 128 + signal.SIGINT, "hetsyn train: stopped; the same command goes on from there\n"),
    ],
)
def test_a_sweep_that_is_stopped_takes_its_seeds_with_it(number: int, status: int, says: str, tmp_path: Path) -> None:
    """Seeds that trained on would hold the folders of the next call. A terminal sends Ctrl-C to all of them."""
    sweep.prepare(tmp_path, load_config("dms", [*SMALL, "training.iterations=100000"]))
    words = ["train", str(tmp_path / "config.toml"), "--seeds", "0,1", "--jobs", "2", "--out", str(tmp_path), "--quiet"]
    command = [sys.executable, "-m", "hetsyn_plugins.cli", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    logs = [tmp_path / f"seed-{seed}" / LOG for seed in (0, 1)]
    try:
        deadline = time.monotonic() + 120
        while not all(read_log(log) for log in logs) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert all(read_log(log) for log in logs)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        assert process.communicate(timeout=30)[1] == says and process.returncode == status
        deadline = time.monotonic() + 4
        while not free(tmp_path / "seed-0", tmp_path / "seed-1") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert free(tmp_path / "seed-0", tmp_path / "seed-1")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free(*folders: Path) -> bool:
    """Does nobody train there?"""
    try:
        for folder in folders:
            with locked(folder):
                pass
    except ValueError:
        return False
    return True


def test_a_seed_that_the_system_kills_says_what_may_help(tmp_path: Path) -> None:
    """It leaves no word of its own, or one that is about something else."""
    with (tmp_path / "errors").open("w+b") as errors:
        errors.write(b"UserWarning: a warning\n")
        assert "--jobs" in launchers.why(tmp_path, errors, -signal.SIGKILL)
        assert launchers.why(tmp_path, errors, 1) == "UserWarning: a warning"


def test_the_command_of_a_summary_trains_the_same_configuration(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = load_config("dms", [*SMALL, "network.tau_start=[0.1, 0.01]", "network.variant=homneu"], "norse")
    words = shlex.split(sweep.train_command(tmp_path / "dms", config, [0, 1, 2, 5]))
    assert words[-4:] == ["--seeds", "0-2,5", "--out", str(tmp_path / "dms")]
    assert cli.main([*words[1:], "--show"]) == 0
    (tmp_path / "shown.toml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "shown.toml") == config


def test_a_command_gives_what_hangs_on_the_task_too(tmp_path: Path) -> None:
    """Speech from a folder brings other settings with it than the synthetic digits do."""
    config = load_config("speech", [f'task.source="{tmp_path}"', "training.epochs=15"])
    words = shlex.split(sweep.train_command(tmp_path, config, [0]))
    settings = [setting for flag, setting in itertools.pairwise(words) if flag == "--set"]
    assert load_config("speech", settings) == config and "training.epochs=15" in settings


def test_a_damaged_result_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sweep.train_seeds(load_config("dms", SMALL), [0], tmp_path, quiet=True)
    (tmp_path / "seed-0/result.json").write_text('{"seed": 0, "tes')
    with pytest.raises(
        ValueError, match=r"result\.json: expected a result\.json, got .*; delete it to finish the seed"
    ):
        sweep.summarise(tmp_path)


def test_a_folder_without_a_seed_takes_another_configuration(tmp_path: Path) -> None:
    sweep.prepare(tmp_path, load_config("dms"))
    sweep.prepare(tmp_path, load_config("patterns"))
    assert run_folder.load_run_config(tmp_path).task.name == "patterns"
