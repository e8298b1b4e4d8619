"""What a report is made of: the folders of runs and claims, read and checked; what is damaged is told with its name."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import analysis
from hetsyn_plugins.experiments.config import flattened
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
    checked_entries,
    parse,
)
from hetsyn_plugins.experiments.tasks import TASKS
from hetsyn_plugins.experiments.training_log import LOG, Record, read_log
from hetsyn_plugins.experiments.variants import VARIANTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS = {"framework": str, "task.name": str, "network.variant": str, "network.hidden": list}  # what a page shows
RECORD = {name: get_type_hints(Record)[name] for name in ("iteration", "score", "validation")}
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
        self.log = _log(folder / LOG)
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
        try:
            return analysis.taus(checkpoint.load(path))
        except ValueError as error:
            raise ValueError(f"folders: expected a network with time constants, got {path}: {error}") from error


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
        variant = self.config["network.variant"]
        title = VARIANTS[variant].title if variant in VARIANTS else variant
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
        self.pictures = [(_png(folder / picture.file), picture.caption) for picture in self.content.pictures]
        for name in self.content.runs:
            if not isinstance(name, str):
                raise ValueError(f"folders: expected runs to be names of folders in {path}, got {name!r}")
        self.runs = [folder / name for name in self.content.runs]

    @property
    def outcome(self) -> tuple[str, str]:
        """Whether it holds, in words, and as a class of the style sheet."""
        judged = [row.holds for row in self.content.rows if row.holds is not None]
        if not judged:
            return "not judged", "open"
        if all(judged):
            return "holds", "good"
        where = "" if not any(judged) else f" in {judged.count(False)} of {len(judged)} rows"
        return f"differs from the paper{where}", "bad"


def is_claim(folder: Path) -> bool:
    """It has a claim's file."""
    return (folder / CLAIM).is_file()


def numbers(values: Iterable[float | None]) -> list[float]:
    """Those of the values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def _log(path: Path) -> list[Record]:
    """The records of a log; the last line may be cut off, where a run was killed."""
    try:
        records = read_log(path)
    except ValueError as error:
        raise ValueError(f"folders: expected a whole log, got {path}: {error}") from error
    for record in records:
        checked_entries(RECORD, record, path, "folders")
    return records


def _config(folder: Path) -> tuple[str, dict[str, Any]]:
    """config.toml as it stands, and as "table.key" -> value."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise FileNotFoundError(f"folders: expected a run or a claim, got {folder}, which is no folder")
    if not path.is_file():
        raise ValueError(f"folders: expected a run (config.toml) or a claim (claim.json), got {folder} with neither")
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"folders: expected TOML, got {path}: {error}") from error
    return text, checked_entries(SETTINGS, flattened(tables), path, "folders")


def _read_if_there(kind: type[Content], path: Path) -> Content | None:
    return _read(kind, path) if path.exists() else None


def _read(kind: type[Content], path: Path) -> Content:
    """The content of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"folders: expected JSON, got {path}: {error}") from error
    return parse(kind, content, path, "folders", needed=SHOWN[kind])


def _png(path: Path) -> bytes:
    """The bytes of a picture that a claim names."""
    if not path.is_file():
        raise FileNotFoundError(f"folders: expected a picture that claim.json names, got {path}, which does not exist")
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) < 24:
        raise ValueError(f"folders: expected a PNG, got {path}, which is none")
    return content
