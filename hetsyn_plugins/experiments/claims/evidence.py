"""What a claim is judged by: finished runs, here as folders or known by numbers that were measured of them before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.experiments import training
from hetsyn_plugins.experiments.analyse import chance
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.launchers import Job
from hetsyn_plugins.experiments.model import Model
from hetsyn_plugins.experiments.run_folder import (
    NUMBERS,
    RESULT,
    ClaimNumbers,
    RunNumbers,
    SeedResult,
    load_networks,
    load_result,
    read_content,
    seed_folder,
    write_content,
)
from hetsyn_plugins.experiments.tasks.task import Task
from hetsyn_plugins.experiments.training_log import LOG, Record, read_log

# settings that no result depends on, but for the last bits
WITHOUT_EFFECT = ("training.device", "training.threads", "training.workers", "training.checkpoint_every")


class Arm(NamedTuple):
    """A configuration that a claim compares: a task by name, what is changed in it, and the preset it begins with."""

    task: str
    settings: tuple[str, ...] = ()
    preset: str | None = None


class Unmeasured(LookupError):
    """A number was asked for of runs that are not here, and are known by other numbers only."""

    def __init__(self, arm: str) -> None:
        super().__init__(arm)
        self.arm = arm


@dataclass(frozen=True)
class Evidence:
    """The runs of a claim, by the names of its arms; `recorded`: by their fingerprints those that are known in numbers.

    A run that is here is measured anew; its recorded numbers may be those of another machine.
    """

    folder: Path
    arms: Mapping[str, Arm]
    seeds: Sequence[int]
    settings: Sequence[str] = ()
    recorded: dict[str, RunNumbers] = field(default_factory=dict)
    _cache: dict[Any, Any] = field(default_factory=dict)

    def folder_of(self, arm: str) -> Path:
        """The folder of an arm's run: another one under other settings, but for the device."""
        settings = [text for text in self.settings if text.partition("=")[0].strip() != "training.device"]
        mark = hashlib.sha256("\n".join(settings).encode()).hexdigest()[:8] if settings else ""
        return self.folder / "runs" / (f"{arm}+{mark}" if mark else arm)

    @cached_property
    def configs(self) -> dict[str, Config]:
        """The configuration of every arm."""
        return {
            name: load_config(arm.task, [*arm.settings, *self.settings], preset=arm.preset)
            for name, arm in self.arms.items()
        }

    def chance(self, arm: str) -> dict[str, float]:
        """The line of chance for a picture of an arm, where there is one."""
        return chance(self.configs[arm].task)

    # ---- which runs there are ------------------------------------------------------------------------------------

    def is_here(self, arm: str, seed: int) -> bool:
        """Has the folder of a seed a result?"""
        return (seed_folder(self.folder_of(arm), seed) / RESULT).exists()

    def missing(self) -> list[Job]:
        """The seeds that are neither here nor recorded, those of all arms."""
        runs = [(arm, seed) for seed in self.seeds for arm in self.arms]
        return [Job(self.folder_of(arm), seed) for arm, seed in runs if not self._is_known(arm, seed)]

    def _is_known(self, arm: str, seed: int) -> bool:
        return self.is_here(arm, seed) or fingerprint(self.configs[arm], seed) in self.recorded

    def forget(self, arm: str) -> None:
        """Take what is recorded of an arm for not enough: it is to be run again."""
        for seed in self.seeds:
            self.recorded.pop(fingerprint(self.configs[arm], seed), None)

    def in_numbers(self) -> list[RunNumbers]:
        """All runs that are known, with all that was measured of them so far."""
        known = [(arm, seed) for arm in self.arms for seed in self.seeds if self._is_known(arm, seed)]
        return [self._run_in_numbers(arm, seed) for arm, seed in known]

    def _run_in_numbers(self, arm: str, seed: int) -> RunNumbers:
        mark = fingerprint(self.configs[arm], seed)
        if not self.is_here(arm, seed):
            return self.recorded[mark]
        result = self.result(arm, seed)
        basic = {"test": result.test, "parameters": float(result.parameters)}
        numbers: dict[str, float | None] = {**basic, **self._numbers(arm, seed)}
        return RunNumbers(mark, arm, seed, result.seconds, result.device or "cpu", numbers)

    # ---- what is measured of them --------------------------------------------------------------------------------

    def values(self, arm: str) -> Array:
        """The measure on the test set, by seed."""
        return self.each(arm, "test", lambda seed: self.result(arm, seed).test)

    def parameters(self, arm: str) -> int:
        """How many numbers are trained, the same for all seeds."""
        return round(float(self.each(arm, "parameters", lambda seed: float(self.result(arm, seed).parameters))[0]))

    def each(self, arm: str, what: Any, of_seed: Callable[[int], float]) -> Array:
        """A number of every seed of an arm, measured once: `what` says which, in words that stay the same for ever.

        Raises Unmeasured where the run of a seed is not here, and the number is not among those recorded of it.
        """
        return np.array([self._number(arm, seed, _words(what), of_seed) for seed in self.seeds])

    def _number(self, arm: str, seed: int, what: str, of_seed: Callable[[int], float]) -> float:
        numbers = self._numbers(arm, seed)
        if what not in numbers:
            try:
                numbers[what] = float(of_seed(seed))
            except FileNotFoundError as error:
                if self.is_here(arm, seed):
                    raise
                raise Unmeasured(arm) from error
        return numbers[what]

    def _numbers(self, arm: str, seed: int) -> dict[str, float]:
        """What is known of a seed by now, to be added to."""
        if (arm, seed) not in self._cache:
            known = None if self.is_here(arm, seed) else self.recorded.get(fingerprint(self.configs[arm], seed))
            numbers = {} if known is None else known.numbers
            self._cache[arm, seed] = {what: np.inf if number is None else number for what, number in numbers.items()}
        by_words: dict[str, float] = self._cache[arm, seed]
        return by_words

    def result(self, arm: str, seed: int) -> SeedResult:
        """What came of a seed."""
        return load_result(seed_folder(self.folder_of(arm), seed))

    def log(self, arm: str, seed: int) -> list[Record]:
        """The log's records of a seed; FileNotFoundError where it is not here."""
        self.result(arm, seed)
        return read_log(seed_folder(self.folder_of(arm), seed) / LOG)

    def networks(self, arm: str, seed: int) -> tuple[Network, Network]:
        """Before and after training."""
        if ("networks", arm, seed) not in self._cache:
            self._cache["networks", arm, seed] = load_networks(seed_folder(self.folder_of(arm), seed))
        networks: tuple[Network, Network] = self._cache["networks", arm, seed]
        return networks

    def model(self, arm: str, seed: int) -> Model:
        """The trained network of a seed, ready to run on the CPU."""
        return training.model_of(self.networks(arm, seed)[1], self.configs[arm]).eval().cpu()

    def under(self, arm: str, **changes: Any) -> Array:
        """The measure on the test set under other settings of the task, by seed."""
        task = replace(self.configs[arm].task, **changes)
        return self.each(arm, tuple(changes.items()), lambda seed: self.evaluate(arm, seed, task=task))

    def evaluate(self, arm: str, seed: int, network: Network | None = None, task: Task | None = None) -> float:
        """The measure on the test set of another network in its place, or of another task."""
        trained = self.networks(arm, seed)[1] if network is None else network
        return training.evaluate_network(trained, self.configs[arm], seed, task)


def fingerprint(config: Config, seed: int) -> str:
    """Of the settings that a result depends on, as far as they are not the defaults, and of the seed.

    So a setting that a later version adds changes no fingerprint, unless it is used.
    """
    changes = {"framework": config.framework, "task.name": config.task.name, "seed": seed}
    for table in ("task", "network", "training"):
        part: Any = getattr(config, table)
        for entry in fields(part):
            key, value = f"{table}.{entry.name}", getattr(part, entry.name)
            usual = entry.default is not MISSING and value == entry.default
            if not usual and key not in WITHOUT_EFFECT:
                changes[key] = value
    return hashlib.sha256(json.dumps(changes, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_recorded(folder: Path) -> dict[str, RunNumbers]:
    """The runs that the claims in a folder have in numbers, by their fingerprints; of one run all numbers together.

    Raises FileFormatError, naming the file, where one is damaged.
    """
    recorded: dict[str, RunNumbers] = {}
    for path in sorted(folder.glob(f"*/{NUMBERS}")):
        for run in read_content(ClaimNumbers, path).runs:
            before = recorded.setdefault(run.fingerprint, run).numbers
            if before.get("test") == run.numbers.get("test"):  # else another training of the same settings
                recorded[run.fingerprint] = replace(run, numbers={**before, **run.numbers})
    return recorded


def record(evidence: Evidence, path: Path) -> None:
    """Add the runs that are known to those in a results.json, whatever their seeds and settings."""
    before = read_content(ClaimNumbers, path).runs if path.exists() else []
    runs = {run.fingerprint: _as_json(run) for run in [*before, *evidence.in_numbers()]}
    write_content(path, ClaimNumbers(sorted(runs.values(), key=lambda run: (run.arm, run.seed, run.fingerprint))))


def _as_json(run: RunNumbers) -> RunNumbers:
    """Without infinite numbers, as `RunNumbers` has it."""
    finite = {what: None if number in (None, np.inf) else number for what, number in run.numbers.items()}
    return replace(run, numbers=finite)


def _words(what: Any) -> str:
    """A key as a text."""
    return " ".join(map(_words, what)) if isinstance(what, tuple) else str(what)
