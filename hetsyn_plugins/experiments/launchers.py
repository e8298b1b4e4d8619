"""Where the seeds of runs are trained: in processes of this machine, or as jobs of a cluster (submitit, Slurm).

Either way a seed's files are in its folder, and a seed that is stopped goes on from its checkpoint. A cluster's job
that is preempted or out of time asks for another turn itself; one that ended without a word, killed or with its
machine, is submitted again, at most RESUBMISSIONS times.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from hetsyn_plugins.core.bounded import parse_toml
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.processes import deaf_to_ctrl_c, killed_with_parent
from hetsyn_plugins.experiments import training
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.progress import Expected, Progress
from hetsyn_plugins.experiments.run_folder import CONFIG, FAILURE, RESULT, Failure, read_content, seed_folder

LAUNCHERS = ("local", "submitit")
RESUBMISSIONS = 3
TURNS = 1000  # that a job may have which is out of time
HOURS = 4  # of a turn
JOBS = "jobs"  # the folder of a run in which submitit keeps what jobs print
SHARED = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout")  # without "slurm_" in submitit


class Job(NamedTuple):
    """The training of a seed of the run in a folder."""

    run: Path
    seed: int

    @property
    def folder(self) -> Path:
        """Its own."""
        return seed_folder(self.run, self.seed)


class Started(Protocol):
    """A job on its way."""

    def ended(self) -> bool:
        """Is it over?"""

    def why(self) -> str | None:
        """What went wrong with it, when it is over; None: nothing."""

    def stop(self) -> None:
        """End it, and let go of what it holds here."""


def launch(
    jobs: Sequence[Job],
    start: Callable[[Job], Started],
    at_a_time: int,
    *,
    name: str,
    quiet: bool,
    expected: Mapping[Path, Expected] | None = None,
    done: int = 0,
) -> dict[Job, str]:
    """Start the jobs, so many at a time, and wait for all; what went wrong, by job.

    expected   what each takes, by its folder (`progress.Progress`); None: all the same
    done       jobs that are done already
    """
    waiting, running, failed = list(jobs), dict[Job, Started](), dict[Job, str]()
    expected = expected or {job.folder: Expected(1.0, 0) for job in jobs}
    with Progress(name, expected, done=done, quiet=quiet) as progress:
        try:
            while waiting or running:
                while waiting and len(running) < at_a_time:
                    job = waiting.pop(0)
                    running[job] = start(job)
                for job in [job for job, started in running.items() if started.ended()]:
                    started = running.pop(job)
                    why = started.why()
                    failed |= {} if why is None else {job: why}
                    started.stop()
                    progress.ended(job.folder)
                progress.look([job.folder for job in running])
                time.sleep(0.05)
        finally:  # of an interrupted launch: they go on from their checkpoints when asked again
            for started in running.values():
                started.stop()
    return failed


# ---- processes ---------------------------------------------------------------------------------------------------


@dataclass
class Process:
    """A job in a process of this machine, which ends with this one."""

    job: Job
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def ended(self) -> bool:
        return self.process.poll() is not None

    def why(self) -> str | None:
        return why(self.job.folder, self.errors, self.process.returncode) if self.process.returncode else None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def start_process(job: Job, device: str, tensorboard: bool, line: Mapping[str, Any]) -> Process:
    """Train in a process of its own; `line` is a `lifeline`."""
    words = [sys.executable, "-m", "hetsyn_plugins.cli", "train", str(job.run / CONFIG)]
    words += ["--seeds", str(job.seed), "--out", str(job.run), "--quiet", *(["--tensorboard"] if tensorboard else [])]
    words += ["--device", device]  # of the file it may be another
    words += ["--despite-cost"]  # it was checked here, when the seeds before did not hold memory yet
    errors = tempfile.TemporaryFile(dir=job.run)  # which can be written to; where else nobody knows
    with deaf_to_ctrl_c():  # this process ends it
        return Process(job, subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors, **line), errors)


def why(folder: Path, errors: IO[bytes], status: int) -> str:
    """What a failed seed left: its failure.json, else the last line it wrote."""
    if (folder / FAILURE).exists():
        return failure_of(folder)
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    if status == -9:  # SIGKILL, which not every system has a name for
        return "killed from outside, as Linux does where memory runs out; fewer --jobs need less"
    return lines[-1] if lines else f"ended with status {status}"


def failure_of(folder: Path) -> str:
    """What the failure.json of a seed says."""
    try:
        return read_content(Failure, folder / FAILURE).message
    except FileFormatError as error:
        return str(error)


# ---- a cluster ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedJob:
    """What a job does; where its turn ends it asks for another one."""

    job: Job
    device: str  # of the file it may be another
    tensorboard: bool
    despite_cost: bool

    def __call__(self) -> None:
        """Train."""
        killed_with_parent()  # submitit's process that looks after it
        options = {"quiet": True, "tensorboard": self.tensorboard, "despite_cost": self.despite_cost}
        config = load_config(self.job.run / CONFIG, [f"training.device={self.device}"])
        training.train(config, self.job.seed, self.job.folder, **options)

    def checkpoint(self) -> Any:
        """What submitit is to do in the next turn: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass
class ClusterJob:
    """A job of submitit's, submitted again where it ended without a word."""

    work: SeedJob
    executor: Any
    submitted: Any = None
    again: int = field(default=RESUBMISSIONS)

    def ended(self) -> bool:
        if self.submitted is not None and not self.submitted.done():
            return False
        is_lost = not (self.work.job.folder / RESULT).exists() and not self._has_spoken()
        if self.submitted is not None and not (is_lost and self.again):
            return True
        self.again -= self.submitted is not None
        self.submitted = self.executor.submit(self.work)
        return False

    def why(self) -> str | None:
        folder = self.work.job.folder
        if (folder / RESULT).exists():
            return None
        if (folder / FAILURE).exists():
            return failure_of(folder)
        if not self._has_spoken():
            return f"its job ended {RESUBMISSIONS + 1} times without a word; see {self.submitted.paths.stderr}"
        return str(self.submitted.exception()).strip().splitlines()[-1]

    def stop(self) -> None:
        if not self.submitted.done():
            self.submitted.cancel()

    def _has_spoken(self) -> bool:
        return self.submitted is not None and bool(self.submitted.paths.result_pickle.exists())


@dataclass(frozen=True)
class Cluster:
    """Slurm where there is one, else processes that submitit starts; `settings` are "key=value", as `--slurm` has them.

    Raises ImportError without submitit, ValueError for a setting that it does not know.
    """

    settings: Sequence[str] = ()

    def __post_init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.executor(Path(folder), threads=1)

    @property
    def is_remote(self) -> bool:
        """Are the jobs other machines'?"""
        return bool(_submitit().AutoExecutor.which() != "local")

    def executor(self, run: Path, threads: int) -> Any:
        """submitit's executor of the jobs of a run."""
        turns = {"slurm_max_num_timeout": TURNS, "local_max_num_timeout": TURNS}
        executor = _submitit().AutoExecutor(run / JOBS, **turns)
        plain = {"name": f"hetsyn-{run.name}", "timeout_min": 60 * HOURS, "cpus_per_task": threads}
        try:
            executor.update_parameters(**plain | dict(map(_setting, self.settings)))
        except (NameError, ValueError, AssertionError) as error:
            what = str(error).partition("\n")[0]
            raise ValueError(f"--slurm: expected settings that submitit takes, got: {what}") from error
        return executor

    def starter(
        self, runs: Mapping[Path, Config], tensorboard: bool, despite_cost: bool
    ) -> Callable[[Job], ClusterJob]:
        """What starts the jobs of these runs."""
        settings = {run: config.training for run, config in runs.items()}
        executors = {run: self.executor(run, each.threads + each.workers) for run, each in settings.items()}

        def start(job: Job) -> ClusterJob:
            work = SeedJob(job, settings[job.run].device, tensorboard, despite_cost)
            return ClusterJob(work, executors[job.run])

        return start


def cluster_of(launcher: str, settings: Sequence[str]) -> Cluster | None:
    """The cluster that `--launcher` and `--slurm` ask for; None: this machine."""
    if launcher not in LAUNCHERS:
        raise ValueError(f"--launcher: expected one of {', '.join(LAUNCHERS)}, got {launcher!r}")
    if launcher == "local" and settings:
        raise ValueError(f"--slurm: expected with --launcher submitit, got {settings[0]!r} with local")
    return Cluster(tuple(settings)) if launcher == "submitit" else None


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--launcher submitit needs submitit: pip install 'hetsyn_plugins[cluster]'") from error
    return submitit


def _setting(text: str) -> tuple[str, Any]:
    """ "key=value" as submitit calls it, with the value in TOML or a bare word."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"no key=value in {text!r}")
    key, value = key.strip(), value.strip()
    with suppress(FileFormatError):  # a bare word
        value = parse_toml(f"value = {value}", Path(key))["value"]
    return key if key in SHARED or key.startswith("slurm_") else f"slurm_{key}", value
