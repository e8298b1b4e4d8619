"""What a report is made of: the folders of runs and claims, read and checked; what is damaged is told with its name."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from hetsyn_plugins.core.bounded import LONGEST_TOML, parse_toml, read_text
from hetsyn_plugins.core.declared import Count, Word, checked
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import analysis
from hetsyn_plugins.experiments.config import flattened
from hetsyn_plugins.experiments.report import picture_files
from hetsyn_plugins.experiments.run_folder import (
    CLAIM,
    CONFIG,
    FAILURE,
    NETWORK,
    RESULT,
    START,
    SUMMARY,
    ClaimResult,
    Failure,
    RunSummary,
    SeedResult,
    read_content,
)
from hetsyn_plugins.experiments.tasks import TASKS
from hetsyn_plugins.experiments.training_log import LOG, read_log
from hetsyn_plugins.experiments.variants import VARIANTS

# what a page shows of a configuration
SETTINGS = {"framework": Word, "task.name": Word, "network.variant": Word, "network.hidden": list[Count]}
MAYBE = {"network.builder": Word, "network.variants": list[Word]}
MOST_NAMED = 200  # pictures, and runs, that a claim may name
# of the files, in this order; what is not shown need not be there
SHOWN: dict[type, tuple[str, ...]] = {
    SeedResult: (
        "measure",
        "test",
        "validation",
        "iterations",
        "selected_iteration",
        "select",
        "seconds",
        "peak_memory_mb",
        "threads",
        "framework",
        "parameters",
        "versions",
    ),
    Failure: ("message",),
    RunSummary: ("command",),
    ClaimResult: ("title", "statement", "command", "verdict", "tried", "rows", "pictures", "runs"),
}

Content = TypeVar("Content")


class SeedFolder:
    """One seed of a run: its log, and its result or what became of it instead."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, folder.name.removeprefix("seed-")
        self.log = read_log(folder / LOG)
        self.result = _read_if_there(SeedResult, folder / RESULT)
        self.failure = _read_if_there(Failure, folder / FAILURE)

    @property
    def done(self) -> bool:
        """It ended with a measure that is a number."""
        return self.result is not None and math.isfinite(self.result.test)

    @property
    def state(self) -> str:
        """ "done", or what became of it."""
        if self.done:
            return "done"
        if self.result is not None:
            return f"failed: the measure on the test set is {self.result.test}"
        if self.failure is not None:
            return f"failed: {self.failure.message}"
        return f"not ended, logged up to iteration {self.log[-1]['iteration']}" if self.log else "not ended, no log yet"

    def taus(self, file: str) -> dict[str, Array]:
        """Time constants in seconds of each layer of a network file; none where there is no such file."""
        path = self.folder / file
        if not path.exists():
            return {}
        network = checkpoint.load(path)
        try:
            return analysis.taus(network)
        except ValueError as error:
            raise FileFormatError(path, "a network with time constants", str(error)) from error


class RunFolder:
    """A folder as `hetsyn train` leaves it; `label` tells it from the others on the page, `anchor` is where it is."""

    def __init__(self, folder: Path, label: str, anchor: str) -> None:
        self.folder, self.label, self.anchor = folder, label, anchor
        self.toml, self.config = _config(folder)
        self.summary = _read_if_there(RunSummary, folder / SUMMARY)
        paths = sorted(folder.glob("seed-*"), key=lambda path: (len(path.name), path.name))  # 2 before 10
        self.seeds = [SeedFolder(path) for path in paths if path.is_dir()]
        self.done = [seed for seed in self.seeds if seed.done]
        self.results = [seed.result for seed in self.done if seed.result is not None]
        self.shown = self.done or self.seeds  # in pictures: a mean would jump where a seed that is not done leaves it

    @property
    def network(self) -> str:
        """The variant as the paper writes it: R-HetSynLIF."""
        if self.config.get("network.builder"):
            return str(self.config["network.builder"])
        variant = self.config["network.variant"]
        variants = dict.fromkeys(self.config.get("network.variants") or [variant])
        title = "+".join(VARIANTS[name].title if name in VARIANTS else name for name in variants)
        return f"{'R' if self.config.get('network.recurrent') else 'F'}-{title}"

    @property
    def measure(self) -> str:
        """What its score is."""
        task = self.config["task.name"]
        if self.results:
            return self.results[0].measure
        return TASKS[task].measure if task in TASKS else "score"

    @property
    def problems(self) -> list[str]:
        """The seeds that are not done, and why."""
        return [f"seed {seed.number} {seed.state}" for seed in self.seeds if not seed.done]

    @property
    def command(self) -> str:
        """What made it, or what goes on with it where it has not ended."""
        if self.summary is not None:
            return self.summary.command
        seeds = ",".join(seed.number for seed in self.seeds) or "0"
        return shlex.join(["hetsyn", "train", str(self.folder / CONFIG), "--seeds", seeds, "--out", str(self.folder)])

    @property
    def versions(self) -> dict[str, str]:
        """What its results were made with; several where its seeds differ."""
        names = dict.fromkeys(name for result in self.results for name in result.versions)
        by_name = {name: [result.versions.get(name, "none") for result in self.results] for name in names}
        return {name: ", ".join(dict.fromkeys(versions)) for name, versions in by_name.items()}

    @cached_property
    def taus(self) -> dict[str, dict[str, Array]]:
        """Synapses -> "before" and "after" training, as far as there are files -> seconds, flat, of all seeds shown."""
        parts: dict[str, dict[str, list[Array]]] = {}
        for seed in self.shown:
            for when, file in (("before", START), ("after", NETWORK)):
                for layer, tau in seed.taus(file).items():
                    parts.setdefault(layer, {}).setdefault(when, []).append(tau.ravel())
        return {layer: {when: np.concatenate(taus) for when, taus in p.items()} for layer, p in parts.items()}

    @property
    def tau_summaries(self) -> dict[str, dict[str, analysis.TauSummary]]:
        """The same in few numbers."""
        return {layer: {when: analysis.summarise(t) for when, t in parts.items()} for layer, parts in self.taus.items()}

    def values(self, key: str) -> list[float]:
        """An entry of the results of all seeds that are done, where it is a number."""
        return numbers(getattr(result, key) for result in self.results)


class ClaimFolder:
    """A folder with one claim of the paper put to the test: claim.json, and pictures beside it."""

    def __init__(self, folder: Path) -> None:
        path = folder / CLAIM
        self.folder, self.content = folder, _read(ClaimResult, path)
        files = [picture.file for picture in self.content.pictures]
        for field, names in (("pictures", files), ("runs", self.content.runs)):
            if len(names) > MOST_NAMED or len(set(names)) < len(names):
                what = f"at most {MOST_NAMED}, each once"
                raise FileFormatError(path, what, f"{len(names)}, {len(set(names))} different", field=field)
        pngs = [picture_files.read(folder, file) for file in files]
        self.pictures = [(of, p.caption) for of, p in zip(pngs, self.content.pictures, strict=True)]
        self.runs = [_run_of(folder, name, index) for index, name in enumerate(self.content.runs)]

    @property
    def outcome(self) -> tuple[str, str]:
        """Whether it holds, in words, and as a class of the style sheet."""
        judged = [row.holds for row in self.content.rows if row.holds is not None or row.undecided]
        if not judged:
            return "not judged", "open"
        if all(judged):
            return "holds", "good"
        which, how = (False, "differs from the paper") if False in judged else (None, "undecided")
        where = f" in {judged.count(which)} of {len(judged)} rows" if judged.count(which) < len(judged) else ""
        return f"{how}{where}", "open" if which is None else "bad"


def is_claim(folder: Path) -> bool:
    """It has a claim's file."""
    return (folder / CLAIM).is_file()


def runs_in(folder: Path) -> list[Path]:
    """The runs of a sweep's folder; of any other folder itself."""
    inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
    return inside if inside and not (folder / CONFIG).is_file() else [folder]


def numbers(values: Iterable[float | None]) -> list[float]:
    """Those of the values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def _config(folder: Path) -> tuple[str, dict[str, Any]]:
    """config.toml as it stands, and as "table.key" -> value."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise FileNotFoundError(f"folders: expected a run or a claim, got {folder}, which is no folder")
    if not path.is_file():
        raise ValueError(f"folders: expected a run (config.toml) or a claim (claim.json), got {folder} with neither")
    text = read_text(path, LONGEST_TOML, "a configuration")
    settings = flattened(parse_toml(text, path, "a configuration in TOML"))
    hints = {key: hint for key, hint in {**SETTINGS, **MAYBE}.items() if key in SETTINGS or key in settings}
    for key, hint in hints.items():
        checked(hint, settings.get(key), path, key)
    return text, settings


def _read_if_there(kind: type[Content], path: Path) -> Content | None:
    return _read(kind, path) if path.exists() else None


def _read(kind: type[Content], path: Path) -> Content:
    """The content of a JSON file."""
    return read_content(kind, path, needed=SHOWN[kind])


def _run_of(claim: Path, name: str, index: int) -> Path:
    """The folder of a run that a claim names: within the claim's folder or beside it, as `hetsyn claim` leaves it."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts[1:] or "\\" in name:
        expected = "a folder beside or within that of the claim, like ../runs/NAME"
        raise FileFormatError(claim / CLAIM, expected, name, field=f"runs[{index}]")
    return claim / name
