"""Seeds as jobs of a cluster, by submitit's local executor: nothing lost, nothing twice; and what is refused."""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import rank_worker

from hetsyn_plugins import cli
from hetsyn_plugins.core.locks import LOCK
from hetsyn_plugins.experiments import launchers, sweep
from hetsyn_plugins.experiments.claims import CLAIMS
from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.launchers import Job
from hetsyn_plugins.experiments.run_folder import FAILURE, NETWORK, RESULT, Failure, load_result, write_content
from hetsyn_plugins.experiments.training_log import LOG, read_log

SMALL = [
    "network.hidden=[6]", "training.iterations=100", "training.batch=4", "training.log_every=1",
    "training.validate_every=20", "task.test_samples=20", "task.delay=0.1",
]  # fmt: skip
VARIANTS = ("hetsyn", "hetneu", "homneu")
SEEDS = list(range(int(os.environ.get("HETSYN_JOBS", "3")) // len(VARIANTS)))  # a job takes seconds to begin


def stopped_at_random(job: Job, number: int, parent: bool) -> None:
    """Send a signal to the process that trains a job, or to submitit's that looks after it, somewhere on its way."""
    least, until = random.randint(2, 60), time.monotonic() + 120
    while time.monotonic() < until:
        if (job.folder / LOCK).exists() and len(read_log(job.folder / LOG)) >= least:
            process = int((job.folder / LOCK).read_text().split()[1])
            status = Path(f"/proc/{process}/stat").read_text()
            os.kill(int(status.rpartition(")")[2].split()[1]) if parent else process, number)
            return
        time.sleep(0.005)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see processes in")
def test_jobs_of_which_three_are_stopped_at_random(tmp_path: Path) -> None:
    """Three of them here, twelve with HETSYN_JOBS=12."""
    pytest.importorskip("submitit")
    runs = {tmp_path / variant: load_config("dms", [*SMALL, f"network.variant={variant}"]) for variant in VARIANTS}
    unbroken = {tmp_path / f"unbroken-{folder.name}": config for folder, config in runs.items()}
    jobs = [Job(folder, seed) for folder in runs for seed in SEEDS]
    ways = [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGUSR2, False)]  # the last one: preempted
    chosen = random.sample(jobs, 3)
    threads = [
        threading.Thread(target=stopped_at_random, args=(job, *way)) for job, way in zip(chosen, ways, strict=True)
    ]
    for thread in threads:
        thread.start()
    failed = sweep.train_on(launchers.Cluster(), runs, jobs, jobs=3, quiet=True, tensorboard=False, despite_cost=False)
    for thread in threads:
        thread.join()
    rank_worker.together(1, rank_worker.all_resumed, unbroken, SEEDS)
    assert failed == {}, chosen
    for job in jobs:
        expected = tmp_path / f"unbroken-{job.run.name}" / job.folder.name
        assert (job.folder / NETWORK).read_bytes() == (expected / NETWORK).read_bytes(), job
        assert load_result(job.folder).test == load_result(expected).test
        assert [record["iteration"] for record in read_log(job.folder / LOG)] == list(range(101))
    submitted = {folder: len(list((folder / "jobs").glob("*_submitted.pkl"))) for folder in runs}
    assert sum(submitted.values()) == len(jobs) + 2, "once more for each that was killed"
    for folder in runs:
        assert json.loads((folder / "summary.json").read_text())["seeds"] == SEEDS


class Submitted:
    """What submitit gives for a job, of one that ended."""

    def __init__(self, folder: Path, text: str | None) -> None:
        self.paths, self.text = self, text
        self.result_pickle, self.stderr = folder / ("there" if text else "missing"), folder / "err"
        (folder / "there").touch()

    def done(self) -> bool:
        return True

    def exception(self) -> str | None:
        return self.text


@pytest.mark.parametrize(
    ("text", "submissions", "why"),
    [("Traceback\nValueError: task.delay: no", 1, "ValueError: task.delay: no"), (None, 4, "4 times without a word")],
)
def test_a_job_that_fails_is_told_and_one_that_is_lost_tried_again(
    text: str | None, submissions: int, why: str, tmp_path: Path
) -> None:
    made = []

    class Executor:
        def submit(self, work: Any) -> Submitted:
            made.append(work)
            return Submitted(tmp_path, text)

    work = launchers.SeedJob(Job(tmp_path / "run", 3), "cpu", False, False)
    failed = launchers.launch([work.job], lambda job: launchers.ClusterJob(work, Executor()), 1, name="", quiet=True)
    assert why in failed[work.job] and made == [work] * submissions
    work.job.folder.mkdir(parents=True)
    write_content(work.job.folder / FAILURE, Failure(3, "the loss exploded"))
    assert launchers.ClusterJob(work, Executor(), Submitted(tmp_path, text), 0).why() == "the loss exploded"
    (work.job.folder / RESULT).touch()
    assert launchers.ClusterJob(work, Executor(), Submitted(tmp_path, text), 0).why() is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--launcher", "slurm"], "--launcher: expected one of local, submitit, got 'slurm'"),
        (["--slurm", "time=3"], "--slurm: expected with --launcher submitit, got 'time=3' with local"),
        (
            ["--launcher", "submitit", "--slurm", "part=a"],
            "--slurm: expected settings that submitit takes, got: Unknown",
        ),
        (["--launcher", "submitit", "--slurm", "part"], "--slurm: expected settings that submitit takes, got: no key="),
        (
            ["--launcher", "submitit", "--slurm", "mem_gb=a"],
            "--slurm: expected settings that submitit takes, got: Param",
        ),
    ],
)
def test_what_no_launcher_takes_is_told_before_anything_is_made(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if "submitit" in options:
        pytest.importorskip("submitit")
    claim = next(iter(CLAIMS))
    for command, what in (("train", "dms"), ("claim", claim)):
        assert cli.main([command, what, "--out", str(tmp_path / "run"), *options]) == 2
        assert capsys.readouterr().err.startswith(f"hetsyn {command}: {says}")
    assert not (tmp_path / "run").exists()


def test_submitit_that_is_missing_is_told(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cli.main(["train", "dms", "--out", str(tmp_path / "run"), "--launcher", "submitit"]) == 2
    says = "hetsyn train: --launcher submitit needs submitit: pip install 'hetsyn_plugins[cluster]'\n"
    assert capsys.readouterr().err == says and not (tmp_path / "run").exists()
