"""What the folders of runs and claims hold: the files' names, their shape, and how they are written and read.

RUN/config.toml     the resolved configuration
RUN/inputs.json     what was drawn once for the inputs of all seeds (the permutation of permuted pixels)
RUN/seed-3/         what `training.train` writes for a seed: result.json or failure.json, networks, log, checkpoint
RUN/summary.json    mean and s.d. over the seeds
CLAIM/claim.json    what came of a claim; its pictures lie beside it
CLAIM/results.json  what was measured of its runs, without which they would be run again

The shape of a JSON file stands here once, as a dataclass: who writes it makes one, who reads it gets one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from operator import index
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hetsyn_plugins.core.declared import Count, Finite, Word, parse
from hetsyn_plugins.core.file_format import mended_by, shown
from hetsyn_plugins.core.files import read_json, write_json
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments.config import Config, load_config

CONFIG, INPUTS, SUMMARY, CLAIM = "config.toml", "inputs.json", "summary.json", "claim.json"
NUMBERS = "results.json"
START, NETWORK = "start.safetensors", "network.safetensors"
STATE, PREVIOUS_STATE = "state.safetensors", "state.previous.safetensors"
RESULT, FAILURE = "result.json", "failure.json"
TO_DO = {  # what mends a damaged one
    RESULT: "delete it to finish the seed",
    FAILURE: "delete it to train the seed on",
    SUMMARY: "delete it, and the same command makes it anew",
    CLAIM: "delete it, and the same command makes it anew",
    NUMBERS: "delete it, and the same command runs anew what is not here",
}

Content = TypeVar("Content")


# ---- the shape of the files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedResult:
    """result.json: what came of the training of a seed; `test` and `validation` are means of the measure."""

    seed: Count
    measure: Word
    validation: float | None
    test: float
    iterations: Count
    selected_iteration: Count
    select: Word
    seconds: Finite
    peak_memory_mb: Finite
    threads: Count
    framework: Word
    parameters: Count
    versions: dict[str, Word]
    device: Word | None = None  # None: written before there was another one than the CPU
    peak_card_memory_mb: Finite | None = None  # None: on the CPU
    density: Finite | None = None  # what part of the synapses is left; None: nothing was pruned


LATER = ("device", "peak_card_memory_mb", "density")  # what a result of before does not have


@dataclass(frozen=True)
class Failure:
    """failure.json: where the training of a seed stopped, and why."""

    iteration: Count
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

    task: Word
    variant: Word
    measure: Word
    select: Word
    seeds: list[Count]
    test: MeanSd
    validation: MeanSd
    seconds: MeanSd
    peak_memory_mb: Finite
    command: str
    devices: list[Word] | None = None  # on which its seeds ended, each once


@dataclass(frozen=True)
class ClaimRow:
    """A line of a claim's table: the paper's number (None: it gives a figure only, or nothing) and ours.

    ours, sd   in `unit` ("%", "ms", ""); the mean over n seeds (or folds) and its s.d. (None of one)
    holds      whether ours says what the paper says (`claims.verdicts`); None where there is nothing to compare, or
    undecided  where n is too small, or the spread too large, to tell; None: not so
    """

    label: str
    paper: float | None
    ours: float
    sd: float | None
    n: Count
    unit: Word = ""
    holds: bool | None = None
    note: str = ""
    undecided: bool | None = None


@dataclass(frozen=True)
class PictureFile:
    """A picture beside claim.json."""

    file: Word
    caption: str


@dataclass(frozen=True)
class ClaimResult:
    """claim.json; `runs` are the folders of the runs it is of, as seen from its own."""

    name: Word
    title: str
    statement: str
    command: str
    rows: list[ClaimRow]
    verdict: str
    tried: str
    pictures: list[PictureFile]
    runs: list[Word]


@dataclass(frozen=True)
class RunNumbers:
    """What was measured of a seed of a run, by what is said of it (`claims.evidence.Evidence.each`).

    fingerprint   of its settings and its seed (`claims.evidence.fingerprint`)
    seconds       that its training took, on `device`
    numbers       None: infinite (a mark that was never reached), which JSON has no word for; files of before have one
    """

    fingerprint: Word
    arm: Word
    seed: Count
    seconds: Finite
    device: Word
    numbers: dict[str, float | None]


@dataclass(frozen=True)
class ClaimNumbers:
    """results.json: the runs of a claim in numbers, which are small enough to be kept where the runs are not."""

    runs: list[RunNumbers]


def write_content(path: Path, content: Any) -> None:
    """Write one of these as JSON, whole or not at all."""
    write_json(path, asdict(content))


def read_content(kind: type[Content], path: Path, *, needed: Iterable[str] | None = None) -> Content:
    """What `write_content` wrote; `needed` as `declared.parse` has it.

    Raises FileNotFoundError, or FileFormatError, naming file and entry, where it is damaged or of another shape.
    """
    to_do = TO_DO.get(path.name, "delete it")
    with mended_by(to_do):
        return parse(kind, read_json(path, f"a {path.name}", to_do=to_do), path, needed=needed)


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
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def load_result(folder: Path) -> SeedResult:
    """What came of a seed, from its folder; FileNotFoundError where it is not done, FileFormatError where damaged."""
    needed = [entry.name for entry in fields(SeedResult) if entry.name not in LATER]
    return read_content(SeedResult, folder / RESULT, needed=needed)


def load_networks(folder: Path) -> tuple[Network, Network]:
    """The network of a seed before and after training, from the seed's folder."""
    return checkpoint.load(folder / START), checkpoint.load(folder / NETWORK)


def mean_sd(values: Sequence[float]) -> MeanSd:
    """Values by seed in few numbers."""
    if not values:
        return MeanSd(None, None, None, [])
    with np.errstate(invalid="ignore"):  # of what is infinite
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


def checked_seeds(seeds: Any) -> list[int]:
    """Seeds as Python has them; ValueError for none, for one twice, and for what is no whole number of 32 bits."""
    expected = "whole numbers of 32 bits, one or more, each once"
    try:
        found = [index(seed) for seed in seeds]
    except TypeError:
        raise ValueError(f"seeds: expected {expected}, got {shown(repr(seeds))}") from None
    if not found or len(set(found)) != len(found) or not all(0 <= seed < 1 << 32 for seed in found):
        raise ValueError(f"seeds: expected {expected}, got {shown(repr(seeds))}")
    return found


def seeds_text(seeds: Iterable[int]) -> str:
    """Seeds as `parse_seeds` reads them."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts) or "0"
