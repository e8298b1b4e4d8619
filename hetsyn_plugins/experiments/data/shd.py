"""Reads the Spiking Heidelberg Digits (SHD), the Spiking Speech Commands (SSC), and files in the same HDF5 layout.

    spikes/times    (n,) of variable length, float16   seconds
    spikes/units    (n,) of variable length, uint16    channels, 0 to 699
    labels          (n,) uint16                        classes, 0 to 19 (SHD) or 34 (SSC)
    extra/speaker   (n,) uint16                        SHD only

(Cramer, Stradmann, Schemmel & Zenke 2022, IEEE Trans. Neural Netw. Learn. Syst. 33, 2744-2757.)

A file is read once, into memory: 10 bytes a spike. Times become float64 at once, because in float16 they are too coarse
to be computed with (t * 1e6 is inf). What is not quite like SHD's own files:

* numbers of other widths, floats for times and integers for the rest, are read alike;
* a recording without spikes is kept;
* the spikes of a recording need no order, and stay in the file's: bins do not care;
* spikes later than a task's window are read: the task drops them, and counts what it drops (`Speech.dropped`).

Anything else (another layout, a file that is cut short or damaged, times and units that do not pair, times that are
negative or not finite, channels or labels out of range) is a ValueError that names the file and the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

CHANNELS = 700
CLASSES = {"shd": 20, "ssc": 35}
HELP = (
    "SHD and SSC (CC-BY 4.0) are to be had from zenkelab.org/datasets as shd_train.h5.gz and so on, which gunzip "
    "unpacks; or take the synthetic digits instead (--set task.source=norm)"
)
SPEAKER = "extra/speaker"
LAYOUT = (  # name, kinds of numbers, a row of them or one a recording
    ("spikes/times", "f", True),
    ("spikes/units", "iu", True),
    ("labels", "iu", False),
    (SPEAKER, "iu", False),
)
TOGETHER = 256  # recordings that h5py reads at a time, each into an array of its own


@dataclass(frozen=True, eq=False)
class Recordings:
    """n recordings in flat arrays: the spikes of recording i are those from offsets[i] to before offsets[i + 1].

    times      (spikes,) seconds, float64
    units      (spikes,) channels, uint16
    offsets    (n + 1,) int64
    labels     (n,) int64
    speakers   (n,) int64, or None where the file does not tell
    """

    times: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray | None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Recordings:
        """These recordings alone, in this order."""
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(counts)])
        spikes = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        speakers = None if self.speakers is None else self.speakers[rows]
        return Recordings(self.times[spikes], self.units[spikes], offsets, self.labels[rows], speakers)

    def keep(self, kept: np.ndarray) -> Recordings:
        """All recordings, of their spikes only those for which `kept` (spikes,) is true."""
        if kept.all():
            return self
        offsets = np.concatenate([[0], np.cumsum(kept)])[self.offsets]
        return Recordings(self.times[kept], self.units[kept], offsets, self.labels, self.speakers)


def read_recordings(path: str | Path, classes: int = CLASSES["shd"]) -> Recordings:
    """All recordings of a file, its labels from 0 to below `classes`.

    Raises FileNotFoundError, which says where to get the file, and ValueError as the head of this module says.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: expected {path.name} in {path.parent.absolute()}, got no such file; {HELP}")
    try:
        with h5py.File(path, "r") as file:
            columns = [_column(file, *layout) for layout in LAYOUT if layout[0] != SPEAKER or SPEAKER in file]
            for column in columns:  # before anything is read: a damaged file may promise any number of rows
                if len(column) != len(columns[0]):
                    expected = f"{path}: expected a row of {column.name[1:]} for each of {len(columns[0])} recordings"
                    raise ValueError(f"{expected}, got {len(column)}")
            times, lengths = _flat(columns[0])
            units, others = _flat(columns[1])
            labels, speakers = columns[2][:], columns[3][:] if len(columns) > 3 else None
    except (OSError, RuntimeError) as error:  # what h5py raises for what it cannot decode
        raise ValueError(f"{path}: expected a whole HDF5 file, got one that cannot be read: {error}") from error
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    check = _Check(path, offsets)
    check(lengths == others, "as many units as times", lambda i: f"{others[i]} and {lengths[i]}")
    check((labels >= 0) & (labels < classes), f"a label from 0 to {classes - 1}", lambda i: labels[i])
    check.spikes((times >= 0) & (times < np.inf), "finite times >= 0", times)
    check.spikes((units >= 0) & (units < CHANNELS), f"units from 0 to {CHANNELS - 1}", units)
    return Recordings(
        times.astype(np.float64),
        units.astype(np.uint16),
        offsets,
        labels.astype(np.int64),
        None if speakers is None else speakers.astype(np.int64),
    )


@dataclass
class _Check:
    """Raises ValueError that names the file and the first recording for which something does not hold."""

    path: Path
    offsets: np.ndarray

    def __call__(self, holds: np.ndarray, expected: str, got: Callable[[int], object]) -> None:
        if not holds.all():
            i = int(holds.argmin())
            raise ValueError(f"{self.path}: expected {expected} in every recording, got {got(i)} in recording {i}")

    def spikes(self, holds: np.ndarray, expected: str, values: np.ndarray) -> None:
        """The same, of something that holds for every spike."""
        if not holds.all():
            spike = int(holds.argmin())
            recording = np.searchsorted(self.offsets, spike, side="right") - 1
            raise ValueError(f"{self.path}: expected {expected}, got {values[spike]} in recording {recording}")


def _column(file: h5py.File, name: str, kinds: str, ragged: bool) -> h5py.Dataset:
    """The dataset of this name, one row a recording, with a number of one of these kinds or any number of them."""
    column = file.get(name)
    numbers = ("rows of variable length of " if ragged else "") + ("floats" if kinds == "f" else "integers")
    expected = f"{file.filename}: expected the dataset {name} with {numbers}"
    if not isinstance(column, h5py.Dataset):
        names: list[str] = []
        file.visit(lambda other: names.append(str(other)))
        raise ValueError(f"{expected}, got only {', '.join(names) or 'an empty file'}")
    dtype = h5py.check_vlen_dtype(column.dtype) if ragged else column.dtype
    if column.ndim != 1 or getattr(dtype, "kind", None) not in [*kinds]:
        raise ValueError(f"{expected}, got the shape {column.shape} of {column.dtype}")
    if not len(column):
        raise ValueError(f"{file.filename}: expected at least one recording, got none")
    return column


def _flat(rows: h5py.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The values of all rows, one row after another, in the file's own precision, and how many each row has."""
    parts: list[np.ndarray] = []
    lengths: list[int] = []
    for start in range(0, len(rows), TOGETHER):
        some = rows[start : start + TOGETHER]
        lengths += map(len, some)
        parts.append(np.concatenate(some))
    return np.concatenate(parts), np.array(lengths)
