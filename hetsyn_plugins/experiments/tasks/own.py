"""A user's own data: samples with a label each, from a file (`data.own` says how it is laid out)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.validation import checked_dt, checked_size
from hetsyn_plugins.experiments.data import own
from hetsyn_plugins.experiments.data.own import Data, Samples
from hetsyn_plugins.experiments.tasks.evidence import READOUTS, SPIKING, evidence
from hetsyn_plugins.experiments.tasks.task import (
    Activity,
    AnyBatch,
    Batch,
    DataTask,
    Padded,
    accuracy_of,
    check_held_out,
    check_steps,
    rate_penalty,
)

CHUNK = 1 << 20  # bytes
Stamps: TypeAlias = tuple[tuple[int, int], ...]  # size and time of change of each file


@dataclass(frozen=True)
class OwnData(DataTask):
    """One output a class; the decision is the class with the most evidence (`evidence.READOUTS`) within its length.

    source        a file: .npz of frames, or .h5 or .hdf5 of events
    test_source   another one, with the test set; None: it is in the first, or split off it
    checksum      SHA-256 of the source's bytes, and the test source's behind them; None: as they are now. Files that
                  have changed since are refused
    dt            seconds: a step of frames, and the bin of events, which are counted
    duration      seconds; what of a sample is later is left out. None: nothing
    channels      input lines M, where not all of them occur; None: as many as the data have
    classes       likewise
    readout       "last", "mean" or "softmax" of leaky readouts' v, or "counts" of output neurons' spikes
    rate_weight   of a term of the loss that draws hidden neurons to 10 spikes a second (`rate_penalty`)
    test          share that is split off as the test set where none is given, above 0 and below 1
    validation    share of the rest that is held out, 0 to below 1, where no validation set is given
    split_seed    which ones, the same for every run; whole groups, where they are known and there are enough
    samples       train on so many samples only; None: on all. Validation and test stay as they are

    Data are read at the first use and kept. Raises ValueError for settings that give no such task, FileNotFoundError
    for a file that is missing, FileFormatError for one that holds no such data.
    """

    name: ClassVar[str] = "own"
    noun: ClassVar[str] = "samples"
    line_bytes: ClassVar[int] = 12
    paper: ClassVar[Mapping[str, Any]] = {
        "network.tau_distribution": "log_normal",
        "network.tau_start": [20e-3, 0.7],
        "training.epochs": 20,
        "training.lr": 2e-3,
        "training.clip": 1.0,
        "training.select": "best_validation",
    }

    source: str = ""
    test_source: str | None = None
    checksum: str | None = None
    dt: float = 1e-3
    duration: float | None = None
    channels: int | None = None
    classes: int | None = None
    readout: str = "mean"
    rate_weight: float = 0.0
    test: float = 0.2
    validation: float = 0.1
    split_seed: int = 0
    samples: int | None = None

    def __post_init__(self) -> None:
        checked_dt(self.dt)
        if self.duration is not None:
            check_steps("duration", self.duration, self.dt, 1)
        for name in ("channels", "classes"):
            if getattr(self, name) is not None:
                checked_size(name, getattr(self, name))
        if self.readout not in READOUTS:
            raise ValueError(f"readout: expected one of {', '.join(READOUTS)}, got {self.readout!r}")
        if not 0 <= self.rate_weight < np.inf:
            raise ValueError(f"rate_weight: expected at least 0, got {self.rate_weight}")
        if not 0 < self.test < 1:
            raise ValueError(f"test: expected a share above 0 and below 1, got {self.test}")
        self.check_split_settings()
        if self.source and self.checksum is None:
            self._find_files()

    def _find_files(self) -> None:
        """Note where the files are, whatever folder is the current one later, and what they hold now."""
        for name in ("source", "test_source"):
            if getattr(self, name):
                object.__setattr__(self, name, str(Path(getattr(self, name)).expanduser().absolute()))
        object.__setattr__(self, "checksum", checksum(self._paths, stamps(self._paths)))

    @property
    def _paths(self) -> tuple[Path, ...]:
        return tuple(Path(name) for name in (self.source, self.test_source) if name)

    @property
    def lines(self) -> int:
        """One an input line; of events one a unit, up to the largest."""
        if self.channels is not None:
            return self.channels
        return max(part.lines for part in self.data if part is not None)

    @property
    def outputs(self) -> int:
        """One a class."""
        if self.classes is not None:
            return self.classes
        return 1 + max(int(part.labels.max()) for part in self.data if part is not None)

    @property
    def spiking_output(self) -> bool:
        """Whether spikes are counted."""
        return self.readout == SPIKING

    @property
    def chance(self) -> float:
        """The accuracy on the test set of the class that is most frequent in training, at least that of guessing."""
        part, rows = self._held_out("test")
        labels, counts = np.unique(self.data.train.labels[self.split[0]], return_counts=True)
        return max(float(np.mean(part.labels[rows] == labels[counts.argmax()])), 1 / self.outputs)

    @cached_property
    def steps(self) -> int:
        """T of training: the longest sample's, or of the duration."""
        return self._longest(self.data.train)

    @cached_property
    def longest(self) -> int:
        """T of the longest sample of all."""
        return max(self._longest(part) for part in self.data if part is not None)

    def _longest(self, part: Samples) -> int:
        longest = int(part.steps(self.dt).max())
        return longest if self.duration is None else min(longest, round(self.duration / self.dt))

    @property
    def data(self) -> Data:
        """What the files hold; every task with this source has the same in memory."""
        if not self.source:
            raise ValueError("source: expected a file, .npz or HDF5, got none: --set task.source=FILE")
        return _checked(self._paths, self._stamps, str(self.checksum), self.channels, self.classes)

    @cached_property
    def _stamps(self) -> Stamps:
        """Of the files as they are at the first use."""
        return stamps(self._paths)

    @cached_property
    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `data.train`: to train on, and held out for validation (none where that set is given)."""
        rows, _ = self._rest_and_test
        share = self.validation if self.data.validation is None else 0.0
        train, held_out = self.split_of(len(rows), share, self._groups(rows))
        found = np.unique(self.data.train.labels[rows[train]])
        if len(found) == 1:
            raise ValueError(f"labels: expected two classes or more to train on, got class {found[0]} alone")
        return rows[train], rows[held_out]

    @cached_property
    def _rest_and_test(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `data.train` that are not the test set, and those that are (none where that set is given)."""
        rows = np.arange(len(self.data.train.labels))
        if self.data.test is not None:
            return rows, rows[:0]
        rest, test = self.parts_of("test", len(rows), self.test, self._groups(rows))
        return rest, test

    def _groups(self, rows: np.ndarray) -> np.ndarray | None:
        """Those of some rows of `data.train`, where they are known."""
        groups = self.data.train.groups
        return None if groups is None else groups[rows]

    def samples_of(self, rows: np.ndarray) -> AnyBatch:
        """Samples of `data.train` by their rows: inputs (T, B, lines), labels (B,), lengths where they differ."""
        return self._batch(self.data.train, rows)

    def held_out(self, split: str, batch: int, seed: int) -> Iterator[AnyBatch]:
        """All samples of "validation" or "test", in the same order whatever the seed."""
        check_held_out(split)
        part, rows = self._held_out(split)
        return (self._batch(part, rows[at : at + batch]) for at in range(0, len(rows), batch))

    def _held_out(self, split: str) -> tuple[Samples, np.ndarray]:
        """Where the samples of a split are, and their rows there."""
        given = self.data.validation if split == "validation" else self.data.test
        if given is not None:
            return given, np.arange(len(given.labels))
        return self.data.train, self.split[1] if split == "validation" else self._rest_and_test[1]

    def _batch(self, part: Samples, rows: np.ndarray) -> AnyBatch:
        arrays = part.batch(rows, self._longest(part), self.lines, self.dt)
        inputs, lengths, labels = map(torch.from_numpy, (*arrays, part.labels[rows]))
        return Padded(inputs, labels, lengths) if self.lengths_differ else Batch(inputs, labels)

    @cached_property
    def lengths_differ(self) -> bool:
        """Have samples of a set lengths of their own?"""
        return any(len(np.unique(part.steps(self.dt))) > 1 for part in self.data if part is not None)

    def loss(self, activity: Activity, target: Tensor) -> Tensor:
        """Cross-entropy of the evidence, and the rates' term where it has a weight."""
        loss = nn.functional.cross_entropy(self._evidence(activity), target)
        if self.rate_weight:
            loss = loss + self.rate_weight * rate_penalty(activity.spikes, self.dt, lengths=activity.lengths)
        return loss

    def score(self, activity: Activity, target: Tensor) -> Tensor:
        """1 where the decision is right: (B,)."""
        return accuracy_of(self._evidence(activity), target)

    def _evidence(self, activity: Activity) -> Tensor:
        return evidence(self.readout, activity.readout, activity.lengths)


# ---- files ---------------------------------------------------------------------------------------------------------


def stamps(paths: tuple[Path, ...]) -> Stamps:
    """By which files that have changed are known. Raises FileNotFoundError, naming a file that is missing."""
    for path in paths:
        if not path.is_file():
            what = "is no file" if path.exists() else "does not exist"
            raise FileNotFoundError(f"source: expected a file of data, .npz or HDF5, got {path}, which {what}")
    return tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


@lru_cache(maxsize=8)
def checksum(paths: tuple[Path, ...], as_of: Stamps) -> str:
    """SHA-256 of the bytes of files, one behind another."""
    sha = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                sha.update(chunk)
    return sha.hexdigest()


@lru_cache(maxsize=2)
def _read(paths: tuple[Path, ...], as_of: Stamps, stated: str) -> Data:
    found = checksum(paths, as_of)
    if found != stated:
        to_do = "train in a new folder, or put the files back; task.checksum=none takes them as they are"
        expected = f"the data that the run is of (SHA-256 {stated[:12]}...)"
        raise FileFormatError(paths[0], expected, f"others ({found[:12]}...)", to_do=to_do)
    return own.read(paths[0], paths[1] if len(paths) > 1 else None)


@lru_cache(maxsize=2)
def _checked(paths: tuple[Path, ...], as_of: Stamps, stated: str, channels: int | None, classes: int | None) -> Data:
    """The data, of no more lines and classes than were said."""
    data = _read(paths, as_of, stated)
    for name, part in data._asdict().items():
        if part is not None:
            path = paths[-1] if name == "test" else paths[0]
            in_path = "" if name == "train" or (name == "test" and len(paths) > 1) else f"_{name}"
            own.check_lines(path, part, channels, f"inputs{in_path}")
            check_labels(path, part.labels, classes, data.train.labels, f"labels{in_path}")
    labels = np.unique(np.concatenate([part.labels for part in data if part is not None]))
    if classes is None and len(labels) <= labels[-1]:
        missing = int((labels != np.arange(len(labels))).argmax())
        expected = f"every label from 0 to {labels[-1]}, the largest"
        to_do = "count from 0, or say with task.classes how many there are"
        raise FileFormatError(paths[0], expected, f"no sample of {missing}", field="labels", to_do=to_do)
    return data


def check_labels(path: Path, labels: np.ndarray, classes: int | None, in_training: np.ndarray, field: str) -> None:
    """Raise FileFormatError for a label below 0, or beyond the classes, by default those that are trained on."""
    largest = int(in_training.max()) if classes is None else classes - 1
    wrong = (labels < 0) | (labels > largest)
    if wrong.any():
        sample = int(wrong.argmax())
        as_said = "as the training set has them" if classes is None else f"as task.classes={classes} has it"
        expected = "labels from 0" + (f" to {largest}, {as_said}" if labels[sample] >= 0 else "")
        raise FileFormatError(path, expected, f"{labels[sample]} of sample {sample}", field=field)
