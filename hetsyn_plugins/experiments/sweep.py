"""Seeds of configurations over cores or a cluster, and what came of them together (`run_folder` has the files)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from hetsyn_plugins.core.files import make_folder, write_bytes, write_json
from hetsyn_plugins.core.memory import available_to_all
from hetsyn_plugins.core.processes import lifeline
from hetsyn_plugins.experiments import training, variants
from hetsyn_plugins.experiments.affordable import check_costs, spending
from hetsyn_plugins.experiments.config import Config, differences, load_config, to_toml, toml_value
from hetsyn_plugins.experiments.costs import PROCESS, cores, iterations_of, likely_time, memory_needed
from hetsyn_plugins.experiments.extension import LENGTH, PRUNING, check_extends, put_aside
from hetsyn_plugins.experiments.launchers import Cluster, Job, Process, launch, start_process
from hetsyn_plugins.experiments.progress import Expected, Progress
from hetsyn_plugins.experiments.pruning import pruning_of
from hetsyn_plugins.experiments.ranks import current
from hetsyn_plugins.experiments.run_folder import (
    CONFIG,
    INPUTS,
    RESULT,
    SUMMARY,
    RunSummary,
    load_result,
    load_run_config,
    mean_sd,
    seed_folder,
    seeds_text,
    trained_seeds,
    write_content,
)
from hetsyn_plugins.experiments.tasks import name_of
from hetsyn_plugins.experiments.widening import widening_of
from hetsyn_plugins.ops import devices


def train_seeds(
    config: Config,
    seeds: Sequence[int],
    folder: Path,
    *,
    jobs: int = 0,
    quiet: bool = False,
    tensorboard: bool = False,
    despite_cost: bool = False,
    cluster: Cluster | None = None,
) -> RunSummary:
    """Train every seed that has no result in the folder yet, and return the summary of all of them.

    jobs           seeds at a time, each in a process of its own; 0: as many as the cores hold at training.threads each
    despite_cost   train also where more is needed than there is (`affordable.check_costs`)
    cluster        train as its jobs (`train_on`)

    Raises ValueError where the folder holds another configuration, a seed failed (the others are trained first), or the
    configuration cannot be; OutOfMemory where memory runs out.
    """
    if jobs < 0:
        raise ValueError(f"--jobs: expected at least 0, got {jobs}")
    if current().size > 1 and cluster is not None:
        raise ValueError(f"--launcher: expected local where {current().size} ranks train, got submitit")
    if current().size > 1:
        return _train_by_ranks(config, seeds, folder, jobs, quiet, tensorboard, despite_cost)
    if cluster is not None:
        work = [Job(folder, seed) for seed in seeds_to_train(folder, config, seeds)]
        failed = train_on(cluster, {folder: config}, work, jobs, quiet, tensorboard, despite_cost)
    else:
        failed = _train_here(config, seeds, folder, jobs, quiet, tensorboard, despite_cost)
    summary = summarise(folder)
    if failed:
        lines = "\n".join(f"seed {job.seed}: {why}" for job, why in failed.items())
        raise ValueError(f"{len(failed)} of {len(seeds)} seeds failed\n{lines}")
    return summary


def _train_here(
    config: Config,
    seeds: Sequence[int],
    folder: Path,
    jobs: int,
    quiet: bool,
    tensorboard: bool,
    despite_cost: bool,
) -> dict[Job, str]:
    """On this machine: a single seed in this process, several in processes of their own; what went wrong, by job."""
    missing = seeds_to_train(folder, config, seeds)
    if missing:
        devices.usable("training.device", config.training.device)
    if missing and not despite_cost:
        check_costs(config, min(jobs, len(missing)))
    if missing:
        _try(config, missing[0])
    prepare(folder, config)
    jobs = jobs or default_jobs(config)
    if len(missing) > 1:
        work = [Job(folder, seed) for seed in missing]
        done = len(set(seeds)) - len(missing)
        return _in_processes(folder.name, {folder: config}, work, jobs, quiet, tensorboard, done)
    for seed in missing:
        options = {"quiet": quiet, "tensorboard": tensorboard, "despite_cost": True}  # checked above, with the others
        training.train(config, seed, seed_folder(folder, seed), **options)
    return {}


def _in_processes(
    name: str,
    runs: Mapping[Path, Config],
    work: Sequence[Job],
    at_a_time: int,
    quiet: bool,
    tensorboard: bool = False,
    done: int = 0,
) -> dict[Job, str]:
    """Train seeds of runs whose folders are prepared, each in a process of its own; what went wrong, by job."""
    by_run = {run: expected(config) for run, config in runs.items()}

    with lifeline() as line:

        def start(job: Job) -> Process:
            device = runs[job.run].training.device
            return start_process(job, device=device, tensorboard=tensorboard, line=line)

        each = {job.folder: by_run[job.run] for job in work}
        return launch(work, start, at_a_time, name=name, quiet=quiet, expected=each, done=done)


def train_runs(
    name: str, runs: Mapping[Path, Config], work: Sequence[Job], *, jobs: int = 0, quiet: bool = False, done: int = 0
) -> dict[Job, str]:
    """Train these seeds of several runs on this machine, all of them as one queue; what went wrong, by job.

    jobs   seeds at a time, each in a process of its own; 0: as many as the cores hold; 1: in this process
    done   seeds that are done already, for the bar

    What they need is not checked here. Raises FileNotFoundError where data are missing.
    """
    failed: dict[Job, str] = {}
    for folder in dict.fromkeys(job.run for job in work):
        mine = [job for job in work if job.run == folder]
        try:
            _try(runs[folder], mine[0].seed)
            prepare(folder, runs[folder])
        except ValueError as error:
            failed |= dict.fromkeys(mine, str(error))
    ready = [job for job in work if job not in failed]
    if not ready:
        return failed
    at_a_time = jobs or min(default_jobs(runs[job.run]) for job in ready)
    if at_a_time > 1 and len(ready) > 1:
        failed |= _in_processes(name, runs, ready, at_a_time, quiet, done=done)
    else:
        failed |= _one_by_one(name, runs, ready, quiet, done)
    for folder in dict.fromkeys(job.run for job in ready):
        summarise(folder)
    return failed


def _one_by_one(name: str, runs: Mapping[Path, Config], work: Sequence[Job], quiet: bool, done: int) -> dict[Job, str]:
    """The same in this process, each with a bar of its own below the one over all."""
    failed: dict[Job, str] = {}
    each = {job.folder: expected(runs[job.run]) for job in work}
    with Progress(name, each, done=done, quiet=quiet) as progress:
        for job in work:
            try:
                training.train(runs[job.run], job.seed, job.folder, quiet=quiet, despite_cost=True)
            except (ValueError, training.TrainingStopped) as error:
                failed[job] = str(error)
            progress.ended(job.folder)
    return failed


def expected(config: Config) -> Expected:
    """What the training of a seed likely takes."""
    return Expected(likely_time(config) / 1e6, iterations_of(config))


def train_on(
    cluster: Cluster,
    runs: Mapping[Path, Config],
    missing: Sequence[Job],
    jobs: int,
    quiet: bool,
    tensorboard: bool,
    despite_cost: bool,
) -> dict[Job, str]:
    """Train these seeds of several runs as jobs of a cluster, all of them at once; what went wrong, by job.

    What a job needs it is refused for on its own machine (`affordable.check_costs`).

    jobs   at a time; 0: as many as there are, and without Slurm as many as the cores hold

    Raises ValueError where a folder holds another configuration, or a configuration cannot be.
    """
    for job in {job.run: job for job in missing}.values():
        _try(runs[job.run], job.seed)
    for folder, config in runs.items():
        prepare(folder, config)
    here = len(missing) if cluster.is_remote else min(map(default_jobs, runs.values()), default=1)
    start = cluster.starter(runs, tensorboard, despite_cost)
    failed = launch(missing, start, jobs or here, name="jobs", quiet=quiet)
    for folder in runs:
        summarise(folder)
    return failed


def _train_by_ranks(
    config: Config,
    seeds: Sequence[int],
    folder: Path,
    jobs: int,
    quiet: bool,
    tensorboard: bool,
    despite_cost: bool,
) -> RunSummary:
    """The same where this process is one of several ranks: one seed after another, by all of them."""
    here = current()
    if jobs > 1:
        raise ValueError(f"--jobs: expected 1 seed at a time where {here.size} ranks train it, got {jobs}")
    missing = here.from_first(lambda: seeds_to_train(folder, config, seeds))
    if missing and not despite_cost:
        check_costs(training.of_a_rank(config))
    if missing:
        training.check_shares(config)
        _try(config, missing[0])
    here.from_first(lambda: prepare(folder, config))
    for seed in missing:
        options = {"quiet": quiet, "tensorboard": tensorboard, "despite_cost": True}  # checked above
        training.train(config, seed, seed_folder(folder, seed), **options)
    return here.from_first(lambda: summarise(folder))


def _try(config: Config, seed: int) -> None:
    """Make the data and the network: what they lack is said before a folder is made, and not by every seed."""
    task = config.task
    with spending(config, "reading the data"):
        task.batches(config.training.batch)
    with spending(config, "building the network"):
        variants.build_for(task, config.network, seed)
    pruning_of(config)
    widening_of(config)


def missing_seeds(folder: Path, seeds: Sequence[int]) -> list[int]:
    """Those without a result."""
    return [seed for seed in seeds if not (seed_folder(folder, seed) / RESULT).exists()]


def seeds_to_train(folder: Path, config: Config, seeds: Sequence[int]) -> list[int]:
    """Those without a result, or all where the run is to be longer. Raises ValueError as `prepare`."""
    return list(seeds) if is_extended(folder, config, seeds) else missing_seeds(folder, seeds)


def is_extended(folder: Path, config: Config, seeds: Sequence[int] | None = None) -> bool:
    """Is the run in a folder to be longer? Raises ValueError where it is another one, or cannot be longer.

    seeds   which are to be trained; None: all of them
    """
    if not is_begun(folder):
        return False
    there = load_run_config(folder)
    differing = differences(there, config)
    differing.pop("training.device", None)
    if not differing.keys() <= {*LENGTH, *PRUNING}:
        pairs = ", ".join(f"{key} = {old!r} there, {new!r} asked for" for key, (old, new) in differing.items())
        raise ValueError(f"--out: expected a new folder or a run of this configuration, got {folder}: {pairs}")
    if differing:
        check_extends(folder, there, config, trained_seeds(folder) if seeds is None else seeds)
    return bool(differing)


def is_begun(folder: Path) -> bool:
    """Has a seed of a run left something?"""
    return (folder / CONFIG).exists() and any(folder.glob("seed-*/*"))


def default_jobs(config: Config) -> int:
    """As many seeds at a time as the cores hold, and memory; one on a card, which one fills or is shared on request."""
    if config.training.device != "cpu":
        return 1
    fit = available_to_all() // (memory_needed(config) + PROCESS)
    return max(1, min(cores() // config.training.threads, fit))


def prepare(folder: Path, config: Config) -> None:
    """Make the folder and write the configuration; ValueError where seeds of another one are in it.

    Seeds of one run may be trained on different devices: the configuration keeps the first. One that makes a run longer
    takes the place of the one before.
    """
    extended, begun = is_extended(folder, config), is_begun(folder)
    make_folder(folder, "--out")
    if extended:
        put_aside(folder)  # first: who is stopped in between asks again, and the run is to be longer still
    if extended or not begun:
        write_bytes(folder / CONFIG, to_toml(config).encode())
        if drawn := config.task.drawn_once:
            write_json(folder / INPUTS, drawn)


def summarise(folder: Path) -> RunSummary:
    """Mean and s.d. (n - 1) over the seeds that are done; written to summary.json and returned."""
    config = load_run_config(folder)
    results = [load_result(seed_folder(folder, seed)) for seed in trained_seeds(folder)]
    summary = RunSummary(
        task=config.task.name,
        variant=config.network.title,
        measure=config.task.measure,
        select=config.training.select,
        seeds=[result.seed for result in results],
        test=mean_sd([result.test for result in results]),
        validation=mean_sd([result.validation for result in results if result.validation is not None]),
        seconds=mean_sd([result.seconds for result in results]),
        peak_memory_mb=max((result.peak_memory_mb for result in results), default=0.0),
        command=train_command(folder, config, [result.seed for result in results]),
        devices=sorted({result.device or "cpu" for result in results}),
    )
    write_content(folder / SUMMARY, summary)
    return summary


def train_command(folder: Path, config: Config, seeds: Sequence[int]) -> str:
    """The command that trains this run again: the task's name and what differs from its settings."""
    name = name_of(config.task)
    words = ["hetsyn", "train", name]
    if config.framework != Config.framework:
        words += ["--framework", config.framework]
    settings: list[str] = []
    for table in ("task.", "network.", "training."):  # a task's settings first: what it brings with it hangs on them
        plain = load_config(name, settings, config.framework)
        changes = differences(plain, config).items()
        settings += [f"{key}={toml_value(value)}" for key, (_, value) in changes if key.startswith(table)]
    for setting in settings:
        words += ["--set", setting]
    return shlex.join([*words, "--seeds", seeds_text(seeds), "--out", str(folder)])
