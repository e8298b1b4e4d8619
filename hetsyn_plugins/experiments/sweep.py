"""Several seeds of one configuration over the cores, and what came of them together (`run_folder` has the files)."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.files import make_folder, write_bytes, write_json
from hetsyn_plugins.core.memory import available_to_all
from hetsyn_plugins.core.processes import deaf_to_ctrl_c, lifeline
from hetsyn_plugins.experiments import training, variants
from hetsyn_plugins.experiments.affordable import check_costs, spending
from hetsyn_plugins.experiments.config import Config, differences, load_config, to_toml, toml_value
from hetsyn_plugins.experiments.costs import PROCESS, cores, memory_needed
from hetsyn_plugins.experiments.ranks import current
from hetsyn_plugins.experiments.run_folder import (
    CONFIG,
    FAILURE,
    INPUTS,
    RESULT,
    SUMMARY,
    Failure,
    RunSummary,
    load_result,
    load_run_config,
    mean_sd,
    read_content,
    seed_folder,
    seeds_text,
    trained_seeds,
    write_content,
)
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
) -> RunSummary:
    """Train every seed that has no result in the folder yet, and return the summary of all of them.

    jobs           seeds at a time, each in a process of its own; 0: as many as the cores hold at training.threads each
    despite_cost   train also where more is needed than there is (`affordable.check_costs`)

    Raises ValueError where the folder holds another configuration, a seed failed (the others are trained first), or the
    configuration cannot be; OutOfMemory where memory runs out.
    """
    if jobs < 0:
        raise ValueError(f"--jobs: expected at least 0, got {jobs}")
    if current().size > 1:
        return _train_by_ranks(config, seeds, folder, jobs, quiet, tensorboard, despite_cost)
    missing = missing_seeds(folder, seeds)
    if missing:
        devices.usable("training.device", config.training.device)
    if missing and not despite_cost:
        check_costs(config, min(jobs, len(missing)))
    if missing:
        _try(config, missing[0])
    prepare(folder, config)
    jobs = jobs or default_jobs(config)
    if len(missing) > 1:
        failed = _sweep(folder, missing, jobs, quiet, tensorboard, config.training.device)
        if failed:
            summarise(folder)
            lines = "\n".join(f"seed {seed}: {why}" for seed, why in failed.items())
            raise ValueError(f"{len(failed)} of {len(seeds)} seeds failed\n{lines}")
    for seed in missing if len(missing) == 1 else ():
        options = {"quiet": quiet, "tensorboard": tensorboard, "despite_cost": True}  # checked above, with the others
        training.train(config, seed, seed_folder(folder, seed), **options)
    return summarise(folder)


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
    missing = here.from_first(lambda: missing_seeds(folder, seeds))
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


def missing_seeds(folder: Path, seeds: Sequence[int]) -> list[int]:
    """Those without a result."""
    return [seed for seed in seeds if not (seed_folder(folder, seed) / RESULT).exists()]


def default_jobs(config: Config) -> int:
    """As many seeds at a time as the cores hold, and memory; one on a card, which one fills or is shared on request."""
    if config.training.device != "cpu":
        return 1
    fit = available_to_all() // (memory_needed(config) + PROCESS)
    return max(1, min(cores() // config.training.threads, fit))


def prepare(folder: Path, config: Config) -> None:
    """Make the folder and write the configuration; ValueError where seeds of another one are in it.

    Seeds of one run may be trained on different devices: the configuration keeps the first.
    """
    path = folder / CONFIG
    begun = path.exists() and any(folder.glob("seed-*/*"))
    if begun:
        differing = differences(load_config(path), config)
        differing.pop("training.device", None)
        if differing:
            pairs = ", ".join(f"{key} = {old!r} there, {new!r} asked for" for key, (old, new) in differing.items())
            raise ValueError(f"--out: expected a new folder or a run of this configuration, got {folder}: {pairs}")
    make_folder(folder, "--out")
    if not begun:
        write_bytes(path, to_toml(config).encode())
        if drawn := config.task.drawn_once:
            write_json(folder / INPUTS, drawn)


def summarise(folder: Path) -> RunSummary:
    """Mean and s.d. (n - 1) over the seeds that are done; written to summary.json and returned."""
    config = load_run_config(folder)
    results = [load_result(seed_folder(folder, seed)) for seed in trained_seeds(folder)]
    summary = RunSummary(
        task=config.task.name,
        variant=config.network.variant,
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
    words = ["hetsyn", "train", config.task.name]
    if config.framework != Config.framework:
        words += ["--framework", config.framework]
    settings: list[str] = []
    for table in ("task.", "network.", "training."):  # a task's settings first: what it brings with it hangs on them
        plain = load_config(config.task.name, settings, config.framework)
        changes = differences(plain, config).items()
        settings += [f"{key}={toml_value(value)}" for key, (_, value) in changes if key.startswith(table)]
    for setting in settings:
        words += ["--set", setting]
    return shlex.join([*words, "--seeds", seeds_text(seeds), "--out", str(folder)])


def _sweep(
    folder: Path, seeds: Sequence[int], jobs: int, quiet: bool, tensorboard: bool, device: str
) -> dict[int, str]:
    """Train the seeds in processes of their own, `jobs` at a time; what went wrong, by seed."""
    waiting, running, failed = list(seeds), dict[int, tuple[subprocess.Popen[bytes], IO[bytes]]](), dict[int, str]()
    bar = tqdm(total=len(seeds), desc=folder.name, unit="seed", disable=quiet)
    with lifeline() as line, bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    seed = waiting.pop(0)
                    running[seed] = _start(folder, seed, tensorboard, device, line)
                for seed, (process, errors) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[seed]
                    if process.returncode:
                        failed[seed] = _why(seed_folder(folder, seed), errors, process.returncode)
                    errors.close()
                    bar.update()
                time.sleep(0.05)
        finally:  # of an interrupted sweep: they go on from their checkpoints when asked again
            for process, errors in running.values():
                process.kill()
                process.wait()
                errors.close()
    return failed


def _start(
    folder: Path, seed: int, tensorboard: bool, device: str, line: Mapping[str, Any]
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    words = [sys.executable, "-m", "hetsyn_plugins.cli", "train", str(folder / CONFIG)]
    words += ["--seeds", str(seed), "--out", str(folder), "--quiet", *(["--tensorboard"] if tensorboard else [])]
    words += ["--device", device]  # of the file it may be another
    words += ["--despite-cost"]  # it was checked here, when the seeds before did not hold memory yet
    errors = tempfile.TemporaryFile(dir=folder)  # which can be written to; where else nobody knows
    with deaf_to_ctrl_c():  # this process ends it
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors, **line), errors


def _why(folder: Path, errors: IO[bytes], status: int) -> str:
    """What a failed seed left: its failure.json, else the last line it wrote."""
    if (folder / FAILURE).exists():
        try:
            return read_content(Failure, folder / FAILURE).message
        except FileFormatError as error:
            return str(error)
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    if status == -9:  # SIGKILL, which not every system has a name for
        return "killed from outside, as Linux does where memory runs out; fewer --jobs need less"
    return lines[-1] if lines else f"ended with status {status}"
