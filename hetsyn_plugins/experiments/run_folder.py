"""Folders of runs: one configuration, several seeds over the cores, and what came of them together.

RUN/config.toml     the resolved configuration
RUN/seed-3/         what `training.train` writes for a seed
RUN/summary.json    mean and s.d. over the seeds
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from hetsyn_plugins.core.files import replacing, write_json
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import config, training, variants
from hetsyn_plugins.experiments.config import Config
from hetsyn_plugins.experiments.tasks.task import Task
from hetsyn_plugins.experiments.training import FAILURE, NETWORK, RESULT, START

CONFIG, SUMMARY = "config.toml", "summary.json"


def seeds_of(text: str) -> list[int]:
    """ "0-9", "3" or "0,2,5-7" as numbers. Raises ValueError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
            raise ValueError(f"--seeds: expected numbers and ranges like 0-9 or 0,2,5-7, got {text!r}")
        if int(last or first) - int(first) not in range(1 << 16) or int(last or first) >= 1 << 32:
            raise ValueError(f"--seeds: expected ascending ranges of numbers of 32 bits, got {text!r}")
        found += range(int(first), int(last or first) + 1)
    if len(set(found)) != len(found):
        raise ValueError(f"--seeds: expected every seed once, got {text!r}")
    return found


def run(
    wanted: Config, seeds: Sequence[int], folder: Path, *, jobs: int = 0, quiet: bool = False, tensorboard: bool = False
) -> dict[str, Any]:
    """Train every seed that has no result in the folder yet, and return the summary of all of them.

    jobs   seeds at a time, each in a process of its own; 0: as many as the cores hold at training.threads each

    Raises ValueError where the folder holds another configuration or a seed failed: the others are trained first.
    """
    if jobs < 0:
        raise ValueError(f"--jobs: expected at least 0, got {jobs}")
    task = wanted.task  # what it lacks is told, or its data made, before a folder is, and not by every seed
    task.batches(wanted.training.batch)
    variants.build(wanted.network, task.lines, task.outputs, task.dt, seeds[0])
    prepare(folder, wanted)
    missing = [seed for seed in seeds if not (seed_folder(folder, seed) / RESULT).exists()]
    jobs = jobs or max(1, cores() // wanted.training.threads)
    if len(missing) > 1:
        failed = _sweep(folder, missing, jobs, quiet, tensorboard)
        if failed:
            summarise(folder)
            told = "\n".join(f"seed {seed}: {why}" for seed, why in failed.items())
            raise ValueError(f"{len(failed)} of {len(seeds)} seeds failed\n{told}")
    for seed in missing if len(missing) == 1 else ():
        training.train(wanted, seed, seed_folder(folder, seed), quiet=quiet, tensorboard=tensorboard)
    return summarise(folder)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(folder: Path, wanted: Config) -> None:
    """Make the folder and write the configuration; ValueError where seeds of another one are in it."""
    path = folder / CONFIG
    if path.exists() and any(folder.glob("seed-*/*")):
        found = config.differences(config.load(path), wanted)
        if found:
            told = ", ".join(f"{key} = {old!r} there, {new!r} asked for" for key, (old, new) in found.items())
            raise ValueError(f"--out: expected a new folder or a run of this configuration, got {folder}: {told}")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(config.to_toml(wanted))
    except OSError as error:
        raise OSError(f"--out: expected a folder to write to, got {folder}: {error.strerror or error}") from error


def seed_folder(folder: Path, seed: int) -> Path:
    """Where the run of a seed is."""
    return folder / f"seed-{seed}"


def load(folder: Path) -> Config:
    """The configuration of a run folder; FileNotFoundError where it is none."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"RUN: expected a folder that `hetsyn train` wrote, got {folder}, without a {CONFIG}")
    return config.load(folder / CONFIG)


def trained(folder: Path) -> list[int]:
    """The seeds of a run folder that have a result, in order."""
    found = [path.parent.name.partition("-")[2] for path in folder.glob(f"seed-*/{RESULT}")]
    return sorted(int(seed) for seed in found if seed.isdecimal())


def result(folder: Path, seed: int) -> dict[str, Any]:
    """What `training.train` found for a seed; errors as `training.read_result`."""
    return training.read_result(seed_folder(folder, seed))


def networks(folder: Path, seed: int) -> tuple[Network, Network]:
    """The network of a seed before and after training."""
    own = seed_folder(folder, seed)
    return checkpoint.load(own / START), checkpoint.load(own / NETWORK)


def measured(network: Network, own: Config, seed: int, task: Task | None = None) -> float:
    """The measure of a network on the test set of its task, or of the same task under other settings."""
    torch.set_num_threads(own.training.threads)
    found = training.evaluate(training.model_of(network, own), task or own.task, "test", seed)
    if found is None:
        raise ValueError("task: expected a test set with samples, got none")
    return found


def summarise(folder: Path) -> dict[str, Any]:
    """Mean and s.d. (n - 1) over the seeds that are done; written to summary.json and returned."""
    own = load(folder)
    results = [result(folder, seed) for seed in trained(folder)]
    summary = {
        "task": own.task.name,
        "variant": own.network.variant,
        "measure": own.task.measure,
        "select": own.training.select,
        "seeds": [r["seed"] for r in results],
        "test": spread([r["test"] for r in results]),
        "validation": spread([r["validation"] for r in results if r["validation"] is not None]),
        "seconds": spread([r["seconds"] for r in results]),
        "peak_memory_mb": max((r["peak_memory_mb"] for r in results), default=0.0),
        "command": command(folder, own, [r["seed"] for r in results]),
    }
    write_json(folder / SUMMARY, summary)
    return summary


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, s.d. (n - 1; None of a single one), median and the values themselves."""
    if not values:
        return {"mean": None, "sd": None, "median": None, "values": []}
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "median": float(np.median(values)), "values": list(values)}


def command(folder: Path, own: Config, seeds: Sequence[int]) -> str:
    """The command that trains this run again: the task's name and what differs from its settings."""
    words = ["hetsyn", "train", own.task.name]
    if own.framework != config.Config.framework:
        words += ["--framework", own.framework]
    settings: list[str] = []
    for table in ("task.", "network.", "training."):  # a task's settings first: what it brings with it hangs on them
        plain = config.load(own.task.name, settings, own.framework)
        changed = config.differences(plain, own).items()
        settings += [f"{key}={config.toml_value(value)}" for key, (_, value) in changed if key.startswith(table)]
    for setting in settings:
        words += ["--set", setting]
    return shlex.join([*words, "--seeds", ranges(seeds), "--out", str(folder)])


def ranges(seeds: Iterable[int]) -> str:
    """Seeds as `seeds_of` reads them."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts) or "0"


def _sweep(folder: Path, seeds: Sequence[int], jobs: int, quiet: bool, tensorboard: bool) -> dict[int, str]:
    """Train the seeds in processes of their own, `jobs` at a time; what went wrong, by seed."""
    waiting, running, failed = list(seeds), dict[int, tuple[subprocess.Popen[bytes], IO[bytes]]](), dict[int, str]()
    bar = tqdm(total=len(seeds), desc=folder.name, unit="seed", disable=quiet)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                seed = waiting.pop(0)
                running[seed] = _start(folder, seed, tensorboard)
            for seed, (process, errors) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[seed]
                if process.returncode:
                    failed[seed] = _why(seed_folder(folder, seed), errors, process.returncode)
                errors.close()
                bar.update()
            time.sleep(0.05)
    finally:  # a Ctrl-C or a kill stops them too; they go on from their checkpoints when asked again
        for process, errors in running.values():
            process.terminate()
            process.wait()
            errors.close()
        signal.signal(signal.SIGTERM, before)
        bar.close()
    return failed


def _start(folder: Path, seed: int, tensorboard: bool) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    words = [sys.executable, "-m", "hetsyn_plugins.cli", "train", str(folder / CONFIG)]
    words += ["--seeds", str(seed), "--out", str(folder), "--quiet", *(["--tensorboard"] if tensorboard else [])]
    errors = tempfile.TemporaryFile()
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors), errors


def _why(folder: Path, errors: IO[bytes], status: int) -> str:
    """What a failed seed left: its failure.json, else the last line it wrote."""
    if (folder / FAILURE).exists():
        return str(json.loads((folder / FAILURE).read_text())["message"])
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ended with status {status}"
