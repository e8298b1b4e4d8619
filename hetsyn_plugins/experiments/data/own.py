"""A user's own samples from a file: frames from .npz, or events in SHD's layout from HDF5 (`shd`).

.npz of frames

    inputs    (T, B, M)   numbers, finite: 0 and 1, counts or graded
    labels    (B,)        whole numbers from 0
    lengths   (B,)        optional: steps of each sample, 1 to T; what stands behind them does not count
    groups    (B,)        optional: whole numbers, who or what a sample is of; whole groups are held out

and, optional, the same names with _validation and with _test behind them: those sets are given then, and not split off.
T may differ between sets, M may not.

HDF5 of events: spikes/times in seconds and in order, spikes/units from 0, labels, and maybe extra/speaker, which are
its groups. A sample lasts as long as its last event.

Anything else is a FileFormatError, which names the file, the array and the sample.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from hetsyn_plugins.core import npz
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.validation import layout_hint
from hetsyn_plugins.experiments.data import shd
from hetsyn_plugins.experiments.data.shd import Recordings

FRAMES, EVENTS = (".npz",), (".h5", ".hdf5")
SUFFIXES = FRAMES + EVENTS
NAMES, SETS = ("inputs", "labels", "lengths", "groups"), ("", "_validation", "_test")
MOST_UNITS = 1 << 24  # input lines; the unit of an event decides how many there are
ROUNDING = 1e-7  # of a time, which may have been rounded to float32


@dataclass(frozen=True, eq=False)
class Frames:
    """n samples as steps: inputs (T, n, M), labels (n,) int64, lengths (n,) int64, groups (n,) or None."""

    inputs: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    groups: np.ndarray | None

    @property
    def lines(self) -> int:
        """M."""
        return self.inputs.shape[2]

    def steps(self, dt: float) -> np.ndarray:
        """Of each sample: (n,)."""
        return self.lengths

    def batch(self, rows: np.ndarray, steps: int, lines: int, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """The first so many steps of these samples (steps, B, lines), float32, and their lengths (B,)."""
        inputs = np.zeros((steps, len(rows), lines), np.float32)
        lengths = np.minimum(self.lengths[rows], steps)
        inputs[:, :, : self.lines] = self.inputs[:steps, rows]
        inputs[np.arange(steps)[:, None] >= lengths] = 0.0
        return inputs, lengths


@dataclass(frozen=True, eq=False)
class Events:
    """n samples as events."""

    recordings: Recordings

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64."""
        return self.recordings.labels

    @property
    def groups(self) -> np.ndarray | None:
        """(n,), or None where the file does not tell."""
        return self.recordings.speakers

    @cached_property
    def lines(self) -> int:
        """One a unit, up to the largest that occurs."""
        return int(self.recordings.units.max()) + 1

    def steps(self, dt: float) -> np.ndarray:
        """Of each sample, up to its last event: (n,)."""
        last = self.recordings.times[self.recordings.offsets[1:] - 1]
        return steps_at(last, dt) + 1

    def batch(self, rows: np.ndarray, steps: int, lines: int, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """The same: counts of the events of these samples in each step, by unit."""
        part = self.recordings.take(rows)
        sample = np.repeat(np.arange(len(rows)), np.diff(part.offsets))
        step = steps_at(part.times, dt)
        kept = step < steps
        counts = np.zeros((steps, len(rows), lines), np.float32)
        np.add.at(counts, (step[kept], sample[kept], part.units[kept]), 1.0)
        return counts, np.minimum(Events(part).steps(dt), steps)


Samples = Frames | Events


def steps_at(times: np.ndarray, dt: float) -> np.ndarray:
    """The steps in which events at these times (n,) in seconds are: int64. One on a border is in the later one."""
    return np.floor(times / dt * (1 + ROUNDING)).astype(np.int64)


class Data(NamedTuple):
    """What files hold; validation and test are None where they are to be split off."""

    train: Samples
    validation: Samples | None
    test: Samples | None


def read(source: Path, test_source: Path | None) -> Data:
    """The samples of a file, and of one with a test set where there is one.

    Raises FileNotFoundError, and FileFormatError as the head of this module says.
    """
    data = _read(source)
    if test_source is not None:
        test = _read(test_source)
        if data.test is not None or test.test is not None or test.validation is not None:
            raise FileFormatError(test_source, "a test set in one file only, alone in its own", "more")
        data = data._replace(test=test.train)
    for name, part in (("validation", data.validation), ("test", data.test)):
        if isinstance(part, Frames) and isinstance(data.train, Frames) and part.lines != data.train.lines:
            place, field = (source, f"inputs_{name}") if test_source is None else (test_source, "inputs")
            raise FileFormatError(place, f"{data.train.lines} lines, as for training", f"{part.lines}", field=field)
        if part is not None and type(part) is not type(data.train):
            raise FileFormatError(str(test_source), f"a file like {source}", "one of another kind")
    return data


def _read(path: Path) -> Data:
    if path.suffix.lower() in EVENTS:
        return Data(_events(path), None, None)
    if path.suffix.lower() not in FRAMES:
        raise FileFormatError(path, f"a file of data, which ends in {', '.join(SUFFIXES)}", path.suffix or "no ending")
    arrays = npz.read(path, [name + which for which in SETS for name in NAMES])
    sets = {which: {n: arrays[n + which] for n in NAMES if n + which in arrays} for which in SETS}
    if "inputs" not in arrays:
        raise FileFormatError(path, "an array of this name, inputs (T, B, M)", _members(path), field="inputs")
    train, validation, test = (_frames(path, of, which) if of or not which else None for which, of in sets.items())
    assert train is not None  # it has inputs
    return Data(train, validation, test)


def _members(path: Path) -> str:
    """What a .npz file holds, in words."""
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as file:
        return f"only {', '.join(name.removesuffix('.npy') for name in file.namelist()[:10]) or 'an empty file'}"
    return "none"


def check_lines(path: Path, part: Samples, channels: int | None, field: str) -> None:
    """Raise FileFormatError for more input lines than were said."""
    if channels is None or part.lines <= channels:
        return
    expected = f"input lines 0 to {channels - 1}, as task.channels={channels} has it"
    if isinstance(part, Frames):
        raise FileFormatError(path, expected, f"{part.lines} lines", field=field)
    shd.Check(path, part.recordings.offsets).spikes(part.recordings.units < channels, expected, part.recordings.units)


# ---- frames --------------------------------------------------------------------------------------------------------


def _frames(path: Path, arrays: Mapping[str, np.ndarray], which: str) -> Frames:
    """A set of samples; `which` is what stands behind its names."""
    inputs, labels = arrays.get("inputs"), arrays.get("labels")
    for name, array in (("inputs", inputs), ("labels", labels)):
        if array is None:
            raise FileFormatError(path, f"{name}{which} beside {', '.join(n + which for n in arrays)}", "none")
    assert inputs is not None and labels is not None
    if inputs.ndim != 3:
        hint = {2: "; a single input line is inputs[:, :, None]"}.get(inputs.ndim, "")
        expected = "shape (T, B, M): steps, samples, input lines"
        raise FileFormatError(path, expected, f"{inputs.shape}{hint}", field=f"inputs{which}")
    steps, samples, _ = inputs.shape
    columns = {name: arrays[name] for name in ("labels", "lengths", "groups") if name in arrays}
    whole = {name: _whole(path, f"{name}{which}", column, inputs.shape) for name, column in columns.items()}
    inputs = inputs if inputs.dtype in (np.bool_, np.uint8) else _float32(inputs)
    if not (finite := np.isfinite(inputs)).all():
        step, sample, line = map(int, np.unravel_index(finite.argmin(), finite.shape))
        got = f"{inputs[step, sample, line]} in sample {sample}, step {step}, line {line}"
        raise FileFormatError(path, "finite numbers of float32", got, field=f"inputs{which}")
    lengths = whole.get("lengths", np.full(samples, steps))
    if not (fits := (lengths >= 1) & (lengths <= steps)).all():
        sample = int(fits.argmin())
        got = f"{lengths[sample]} of sample {sample}"
        raise FileFormatError(path, f"1 to T = {steps} steps", got, field=f"lengths{which}")
    return Frames(inputs, whole["labels"], lengths, whole.get("groups"))


def _float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is infinite then is told
        return array.astype(np.float32, copy=False)


def _whole(path: Path, name: str, column: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A whole number a sample, int64."""
    if column.shape != shape[1:2]:
        got = f"{column.shape}{layout_hint(column.shape, shape)}"
        raise FileFormatError(path, f"shape ({shape[1]},), one a sample of inputs {shape}", got, field=name)
    with np.errstate(invalid="ignore"):  # NaN, which is found by the comparison
        whole = column.astype(np.int64)
    if not (same := whole == column).all():
        sample = int(same.argmin())
        raise FileFormatError(path, "whole numbers", f"{column[sample]} of sample {sample}", field=name)
    return whole


# ---- events --------------------------------------------------------------------------------------------------------


def _events(path: Path) -> Events:
    """The recordings of an HDF5 file, each with an event, in order, of units that can be lines."""
    found = shd.read_columns(path)
    check = shd.Check(path, found.offsets)
    times = found.times.astype(np.float64)
    units = found.units.astype(np.int64)
    check(np.diff(found.offsets) > 0, "at least one event", lambda i: "none")
    check.spikes((times >= 0) & (times < np.inf), "finite times >= 0, in seconds", times)
    late = np.concatenate([[True], times[1:] >= times[:-1]])
    late[found.offsets[:-1]] = True
    check.spikes(late, "events in the order of their times", times)
    check.spikes((units >= 0) & (units < MOST_UNITS), f"units from 0 to {MOST_UNITS - 1}", units)
    speakers = None if found.speakers is None else found.speakers.astype(np.int64)
    return Events(Recordings(times, units, found.offsets, found.labels.astype(np.int64), speakers))


# ---- written -------------------------------------------------------------------------------------------------------


def packed_frames(frames: Sequence[np.ndarray], labels: np.ndarray) -> bytes:
    """The bytes of a .npz file of samples (T, M), of which each may have a T of its own."""
    lengths = np.array([len(frame) for frame in frames])
    inputs = np.zeros((lengths.max(), len(frames), frames[0].shape[1]), _smallest(frames))
    for i, frame in enumerate(frames):
        inputs[: len(frame), i] = frame
    content = io.BytesIO()
    np.savez(content, inputs=inputs, labels=labels, lengths=lengths)
    return content.getvalue()


def _smallest(frames: Sequence[np.ndarray]) -> type[np.generic]:
    """The type for all of them: counts are bytes."""
    counts = all(frame.min() >= 0 and frame.max() <= 255 and (frame == np.floor(frame)).all() for frame in frames)
    return np.uint8 if counts else np.float32


def packed_events(times: Sequence[np.ndarray], units: Sequence[np.ndarray], labels: np.ndarray) -> bytes:
    """The bytes of an HDF5 file of events: times in seconds and units of each sample."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, columns, dtype in (("times", times, np.float64), ("units", units, np.uint32)):
            rows = file.create_dataset(f"spikes/{name}", len(columns), h5py.vlen_dtype(dtype))
            for i, column in enumerate(columns):
                rows[i] = column.astype(dtype)
        file["labels"] = labels
    return content.getvalue()
