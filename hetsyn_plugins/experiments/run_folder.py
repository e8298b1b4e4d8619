"""What the folders of runs and claims hold: the files' names, their shape, and how they are written and read.

RUN/config.toml     the resolved configuration
RUN/seed-3/         what `training.train` writes for a seed: result.json or failure.json, networks, log, checkpoint
RUN/summary.json    mean and s.d. over the seeds
CLAIM/claim.json    what came of a claim; its pictures lie beside it

The shape of a JSON file stands here once, as a dataclass: who writes it makes one, who reads it gets one.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar

import numpy as np

from hetsyn_plugins.core.files import write_json
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments.config import Config, load_config

CONFIG, SUMMARY, CLAIM = "config.toml", "summary.json", "claim.json"
START, STATE, NETWORK = "start.safetensors", "state.pt", "network.safetensors"
RESULT, FAILURE = "result.json", "failure.json"

Content = TypeVar("Content")


# ---- the shape of the files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedResult:
    """result.json: what came of the training of a seed; `test` and `validation` are means of the measure."""

    seed: int
    measure: str
    validation: float | None
    test: float
    iterations: int
    selected_iteration: int
    select: str
    seconds: float
    peak_memory_mb: float
    threads: int
    framework: str
    parameters: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Failure:
    """failure.json: where the training of a seed stopped, and why."""

    iteration: int
    message: str


@dataclass(frozen=True)
class MeanSd:
    """Mean, s.d. (n - 1; None of a single value) and median of values by seed; all None where there are none."""

    mean: float | None
    sd: float | None
    median: float | None
    values: list[float]


@dataclass(frozen=True)
class RunSummary:
    """summary.json: the seeds of a run together, and the command that trains it again."""

    task: str
    variant: str
    measure: str
    select: str
    seeds: list[int]
    test: MeanSd
    validation: MeanSd
    seconds: MeanSd
    peak_memory_mb: float
    command: str


@dataclass(frozen=True)
class ClaimRow:
    """A line of a claim's table: the paper's number (None: it gives a figure only, or nothing) and ours.

    ours, sd   in `unit` ("%", "ms", ""); the mean over n seeds and its s.d. (None of one seed)
    holds      whether ours says what the paper says; None where there is nothing to compare
    """

    label: str
    paper: float | None
    ours: float
    sd: float | None
    n: int
    unit: str = ""
    holds: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class PictureFile:
    """A picture beside claim.json."""

    file: str
    caption: str


@dataclass(frozen=True)
class ClaimResult:
    """claim.json; `runs` are the folders of the runs it is of, as seen from its own."""

    name: str
    title: str
    statement: str
    command: str
    rows: list[ClaimRow]
    verdict: str
    tried: str
    pictures: list[PictureFile]
    runs: list[str]


def write_content(path: Path, content: Any) -> None:
    """Write one of these as JSON, whole or not at all."""
    write_json(path, asdict(content))


def parse(
    kind: type[Content],
    content: Any,
    path: Path,
    argument: str,
    *,
    needed: Sequence[str] | None = None,
    within: str = "",
) -> Content:
    """What was read from a file as one of these; keys that it does not know are left out.

    argument   what the folder is called in messages
    needed     the entries that the reader goes by; others are taken as they are, None where they are missing
    within     the place of this object in the file

    Raises ValueError, naming the file, the key and what is there, where a needed key is missing or has another type.
    """
    hints = typing.get_type_hints(kind)
    needed = list(hints) if needed is None else needed
    checked_entries({name: hints[name] for name in needed}, content, path, argument, within)
    values: dict[str, Any] = {name: content.get(name) for name in hints}
    for name in needed:
        value, (part, *_) = content[name], (*typing.get_args(hints[name]), None)
        if is_dataclass(hints[name]):
            values[name] = parse(hints[name], value, path, argument, within=f"{within}{name}.")
        elif typing.get_origin(hints[name]) is list and is_dataclass(part):
            places = (f"{within}{name}[{index}]." for index in range(len(value)))
            pairs = zip(value, places, strict=True)
            values[name] = [parse(part, entry, path, argument, within=at) for entry, at in pairs]  # type: ignore[arg-type]
    return kind(**values)


def checked_entries(
    hints: Mapping[str, Any], content: Any, path: Path, argument: str, within: str = ""
) -> dict[str, Any]:
    """What was read from a file, if it is an object with these entries of these types; ValueError as `parse`."""
    if not isinstance(content, dict):
        raise ValueError(f"{argument}: expected an object {within} in {path}, got {content!r}")
    for key, hint in hints.items():
        types, value = _types(hint), content.get(key, "nothing")
        if key not in content or not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            names = " or ".join("nothing" if t is NoneType else t.__name__ for t in types)
            raise ValueError(f"{argument}: expected {within}{key} to be {names} in {path}, got {value!r}")
    return content


def _types(hint: Any) -> tuple[type, ...]:
    """What a value of this declared type may be in JSON."""
    if isinstance(hint, UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _types(part))
    if is_dataclass(hint):
        return (dict,)
    return (int, float) if hint is float else (typing.get_origin(hint) or hint,)


# ---- runs --------------------------------------------------------------------------------------------------------


def seed_folder(folder: Path, seed: int) -> Path:
    """Where the run of a seed is."""
    return folder / f"seed-{seed}"


def load_run_config(folder: Path) -> Config:
    """The configuration of a run folder; FileNotFoundError where it is none."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"RUN: expected a folder that `hetsyn train` wrote, got {folder}, without a {CONFIG}")
    return load_config(folder / CONFIG)


def trained_seeds(folder: Path) -> list[int]:
    """The seeds of a run folder that have a result, in order."""
    names = [path.parent.name.partition("-")[2] for path in folder.glob(f"seed-*/{RESULT}")]
    return sorted(int(name) for name in names if name.isdecimal())


def load_result(folder: Path) -> SeedResult:
    """What came of a seed, from its folder; FileNotFoundError where it is not done, ValueError where it is damaged."""
    path = folder / RESULT
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"RUN: expected a result in JSON, got {path}: {error}; delete it to finish the seed"
        ) from error
    return parse(SeedResult, content, path, "RUN")


def load_networks(folder: Path) -> tuple[Network, Network]:
    """The network of a seed before and after training, from the seed's folder."""
    return checkpoint.load(folder / START), checkpoint.load(folder / NETWORK)


def mean_sd(values: Sequence[float]) -> MeanSd:
    """Values by seed in few numbers."""
    if not values:
        return MeanSd(None, None, None, [])
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return MeanSd(float(np.mean(values)), sd, float(np.median(values)), list(values))


# ---- seeds as a user writes them ---------------------------------------------------------------------------------


def parse_seeds(text: str) -> list[int]:
    """ "0-9", "3" or "0,2,5-7" as numbers. Raises ValueError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
            raise ValueError(f"--seeds: expected numbers and ranges like 0-9 or 0,2,5-7, got {text!r}")
        if int(last or first) - int(first) not in range(1 << 16) or int(last or first) >= 1 << 32:
            raise ValueError(f"--seeds: expected ascending ranges of numbers of 32 bits, got {text!r}")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"--seeds: expected every seed once, got {text!r}")
    return seeds


def seeds_text(seeds: Iterable[int]) -> str:
    """Seeds as `parse_seeds` reads them."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts) or "0"
