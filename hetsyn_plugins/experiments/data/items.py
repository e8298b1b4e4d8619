"""Samples of one's own in Python: items (events or frames, label) of any torch Dataset, as batches and as files.

    frames    (T, ...) numbers, an array or a tensor; axes behind the first become the input lines: (T, M)
    events    a structured array with t in microseconds and in order, x, and maybe y and p, as tonic has them. The
              sensor size (width, height, polarities) makes one line of each pixel and polarity, in the order of
              tonic's frames: line = (p * height + y) * width + x
    label     a whole number from 0

What does not fit is a ValueError or TypeError that names the item.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from hetsyn_plugins.core.file_format import shown
from hetsyn_plugins.core.validation import checked_dt, checked_size, host_array
from hetsyn_plugins.experiments.data import own
from hetsyn_plugins.experiments.tasks.task import Padded

MICROSECOND, MOST_CLASSES = 1e-6, 1 << 31
ITEM = "(events or array, label)"


class Happened(NamedTuple):
    """The events of an item: times (n,) in seconds, float64, and lines (n,), int64."""

    times: np.ndarray
    lines: np.ndarray


class Sample(NamedTuple):
    """An item: frames (T, M) or events, its label, and how many input lines it has."""

    content: np.ndarray | Happened
    label: int
    width: int


def collate(
    items: Iterable[Any], *, sensor_size: Sequence[int] | None = None, dt: float = 1e-3, steps: int | None = None
) -> Padded:
    """Items as a batch: inputs (T, B, M), float32, labels (B,), int64, and lengths (B,), for a DataLoader's
    `collate_fn` (`functools.partial` gives it options). T is that of the longest; zeros stand behind the others' ends.

    sensor_size   of events: width, height, polarities
    dt            seconds: the bin in which events are counted
    steps         at most; what of an item is later is left out. None: all of it

    Raises ValueError and TypeError, naming the item in the batch.
    """
    checked_dt(dt)
    if steps is not None:
        checked_size("steps", steps)
    samples = list(checked(items, sensor_size))
    frames = [counted(sample, dt) for sample in samples]
    lengths = [min(len(frame), steps or len(frame)) for frame in frames]
    inputs = np.zeros((max(lengths), len(frames), samples[0].width), np.float32)
    for i, (frame, length) in enumerate(zip(frames, lengths, strict=True)):
        inputs[:length, i] = frame[:length]
    labels = torch.tensor([sample.label for sample in samples])
    return Padded(torch.from_numpy(inputs), labels, torch.tensor(lengths))


def counted(sample: Sample, dt: float) -> np.ndarray:
    """Frames (T, M) of a sample, events counted in bins."""
    if not isinstance(sample.content, Happened):
        return sample.content
    at = own.steps_at(sample.content.times, dt)
    frames = np.zeros((at[-1] + 1, sample.width), np.float32)
    np.add.at(frames, (at, sample.content.lines), 1.0)
    return frames


class Packed(NamedTuple):
    """A data set as the content of a file that `own` reads: the file's ending, its bytes, and how many input lines."""

    suffix: str
    content: bytes
    width: int


def packed(dataset: Any, sensor_size: Sequence[int] | None = None) -> Packed:
    """All items of a data set. Raises as `collate`."""
    samples = list(checked(items_of(dataset), sensor_size))
    labels, width = np.array([sample.label for sample in samples]), samples[0].width
    events = [sample.content for sample in samples if isinstance(sample.content, Happened)]
    if events:
        columns = [e.times for e in events], [e.lines for e in events]
        return Packed(".h5", own.packed_events(*columns, labels), width)
    frames = [sample.content for sample in samples if not isinstance(sample.content, Happened)]
    return Packed(".npz", own.packed_frames(frames, labels), width)


def items_of(dataset: Any) -> Iterator[Any]:
    """Those of a data set by index, as torch has them, or of anything that can be gone through."""
    if isinstance(dataset, Mapping) or not (hasattr(dataset, "__getitem__") or isinstance(dataset, Iterable)):
        raise TypeError(f"data: expected a Dataset of {ITEM}, got {type(dataset).__name__}")
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        return (dataset[index] for index in range(len(dataset)))
    return iter(dataset)


# ---- one item ------------------------------------------------------------------------------------------------------


def checked(items: Iterable[Any], sensor_size: Sequence[int] | None) -> Iterator[Sample]:
    """Items as samples of one kind and width, at least one."""
    sensor = None if sensor_size is None else checked_sensor(sensor_size)
    first: Sample | None = None
    for index, item in enumerate(items):
        sample = checked_item(f"item {index}", item, sensor)
        first = first or sample
        if sample.width != first.width:
            raise ValueError(f"item {index}: expected {first.width} input lines, as item 0 has, got {sample.width}")
        if isinstance(sample.content, Happened) != isinstance(first.content, Happened):
            kinds = ("events", "frames") if isinstance(first.content, Happened) else ("frames", "events")
            raise ValueError(f"item {index}: expected {kinds[0]}, as item 0 has, got {kinds[1]}")
        yield sample
    if first is None:
        raise ValueError(f"data: expected at least one item {ITEM}, got none")


def checked_sensor(size: Any) -> tuple[int, int, int]:
    """Width, height and polarities; ValueError for anything else."""
    if np.shape(size) != (3,) or not all(isinstance(n, (int, np.integer)) and n >= 1 for n in size):
        raise ValueError(f"sensor_size: expected three numbers (width, height, polarities) from 1, got {shown(size)}")
    width, height, polarities = map(int, size)
    return width, height, polarities


def checked_item(name: str, item: Any, sensor: tuple[int, int, int] | None) -> Sample:
    """An item as a sample; `name` is what messages call it."""
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
        raise TypeError(f"{name}: expected {ITEM}, got {shown(type(item).__name__)}")
    content, label = item
    number = checked_label(name, label)
    fields = getattr(getattr(content, "dtype", None), "names", None)
    if fields is None:
        frames = checked_frames(name, content)
        return Sample(frames, number, frames.shape[1])
    if sensor is None:
        raise ValueError(f"{name}: expected a sensor_size=(width, height, polarities) for its events, got none")
    return Sample(checked_events(name, content, fields, sensor), number, int(np.prod(sensor)))


def checked_label(name: str, label: Any) -> int:
    """A whole number from 0."""
    value = host_array(name, label)
    is_number = value.size == 1 and value.dtype.kind in "iuf"
    if not is_number or not 0 <= value.item() < MOST_CLASSES or value.item() != int(value.item()):
        raise ValueError(f"{name}: expected a label, a whole number from 0, got {shown(repr(label))}")
    return int(value.item())


def checked_frames(name: str, content: Any) -> np.ndarray:
    """Numbers (T, ...), finite, as (T, M)."""
    if isinstance(content, torch.Tensor) and content.layout != torch.strided:
        content = content.to_dense()
    frames = host_array(name, content)
    if frames.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers (T, M) or events, got {frames.dtype}")
    if frames.ndim < 2 or not frames.size:
        hint = "; a single input line is x[:, None]" if frames.ndim == 1 and frames.size else ""
        raise ValueError(f"{name}: expected frames (T, M), at least one of each, got shape {frames.shape}{hint}")
    if frames.dtype.kind == "f" and not (finite := np.isfinite(frames)).all():
        at = tuple(int(i) for i in np.unravel_index(finite.argmin(), finite.shape))
        raise ValueError(f"{name}: expected finite numbers, got {frames[at]} at {at}")
    return frames.reshape(len(frames), -1)


def checked_events(name: str, events: np.ndarray, fields: Sequence[str], sensor: tuple[int, int, int]) -> Happened:
    """Events on the sensor and in order."""
    width, height, polarities = sensor
    for field, size in (("t", 1), ("x", 1), ("y", height), ("p", polarities)):
        if field not in fields and (size > 1 or field in "tx"):
            raise ValueError(f"{name}: expected events with the fields t, x, y, p, got {', '.join(fields)}")
    if events.ndim != 1 or not len(events):
        raise ValueError(f"{name}: expected at least one event, got {events.shape}; leave out items that have none")
    times = events["t"].astype(np.float64)
    _each(name, "t from 0, finite, in microseconds", (times >= 0) & (times < np.inf), times)
    _each(
        name,
        "events in the order of t (np.sort(events, order='t') puts them so)",
        np.diff(times, prepend=0) >= 0,
        times,
    )
    lines = np.zeros(len(events), np.int64)
    for field, size in (("p", polarities), ("y", height), ("x", width)):
        if size > 1 or field == "x":
            values = events[field].astype(np.int64)
            _each(
                name,
                f"{field} from 0 to {size - 1}, as the sensor_size {sensor} has it",
                (values >= 0) & (values < size),
                values,
            )
            lines = lines * size + values
    return Happened(times * MICROSECOND, lines)


def _each(name: str, expected: str, holds: np.ndarray, values: np.ndarray) -> None:
    """Raise ValueError, naming the first event for which something does not hold."""
    if not holds.all():
        event = int(holds.argmin())
        raise ValueError(f"{name}: expected {expected}, got {values[event]:g} of event {event}")
