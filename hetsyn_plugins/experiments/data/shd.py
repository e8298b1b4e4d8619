"""Spiking Heidelberg Digits (SHD), Spiking Speech Commands (SSC), and files in the same HDF5 layout: read, written.

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
negative or not finite, channels or labels out of range) is a FileFormatError that names the file and the recording.
Nothing is read that the file's size does not explain (`core.hdf5_rows`); files with a digest, those that we write
(`spoken_digits`), are compared with it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hetsyn_plugins.core import hdf5
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.files import write_bytes
from hetsyn_plugins.core.hdf5_rows import read_rows
from hetsyn_plugins.experiments.data.cochlea import Spikes

CHANNELS = 700
FORMAT = 2  # of the files that we write: the first with a digest
TO_DO = "remove it, and it is generated anew"
CLASSES = {"shd": 20, "ssc": 35, "fsdd": 10}
HELP = (
    "SHD and SSC (CC BY 4.0) are got by `hetsyn data get shd` and `... ssc`; or take the synthetic digits instead "
    "(--set task.source=norm)"
)
FLAT = ("times", "units", "labels")
SPEAKER, VERSION = "extra/speaker", "extra/hetsyn_version"  # the latter where there is a digest
LAYOUT = (  # name, kinds of numbers, a row of them or one a recording
    ("spikes/times", "f", True),
    ("spikes/units", "iu", True),
    ("labels", "iu", False),
    (SPEAKER, "iu", False),
)


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

    @staticmethod
    def joined(parts: Sequence[Recordings]) -> Recordings:
        """The recordings of several files, one after another; speakers only where all files tell."""
        columns: dict[str, list[Any]] = {name: [getattr(part, name) for part in parts] for name in FLAT}
        speakers = [part.speakers for part in parts if part.speakers is not None]
        return Recordings(
            **{name: np.concatenate(column) for name, column in columns.items()},
            offsets=np.cumsum(np.concatenate([[0], *(np.diff(part.offsets) for part in parts)])),
            speakers=np.concatenate(speakers) if len(speakers) == len(parts) else None,
        )

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

    Raises FileNotFoundError, which says where to get the file, and FileFormatError as the head of this module says.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: expected {path.name} in {path.parent.absolute()}, got no such file; {HELP}")
    columns = read_columns(path)
    times, units, labels = columns.times, columns.units, columns.labels
    check = Check(path, columns.offsets)
    check((labels >= 0) & (labels < classes), f"a label from 0 to {classes - 1}", lambda i: labels[i])
    check.spikes((times >= 0) & (times < np.inf), "finite times >= 0", times)
    check.spikes((units >= 0) & (units < CHANNELS), f"units from 0 to {CHANNELS - 1}", units)
    return Recordings(
        times.astype(np.float64),
        units.astype(np.uint16),
        columns.offsets,
        labels.astype(np.int64),
        None if columns.speakers is None else columns.speakers.astype(np.int64),
    )


def write_recordings(
    path: Path,
    spikes: Sequence[Spikes],
    labels: np.ndarray,
    speakers: np.ndarray,
    *,
    words: Sequence[str],
    genders: Sequence[str],
) -> None:
    """Write recordings in SHD's layout, with a digest, whole or not at all.

    labels, speakers   (n,) of each recording
    words, genders     of each label, and of each speaker; ages and heights, which SHD has, are 0
    """
    content = io.BytesIO()
    flat = {"labels": labels.astype(np.uint16), "speakers": speakers.astype(np.uint16)}
    with h5py.File(content, "w") as file:
        for name, dtype in (("times", np.float16), ("units", np.uint16)):
            rows = file.create_dataset(f"spikes/{name}", len(spikes), h5py.vlen_dtype(dtype))
            parts = [getattr(one, name).astype(dtype) for one in spikes]
            for i, part in enumerate(parts):
                rows[i] = part
            flat[name] = np.concatenate(parts)
        offsets = np.cumsum([0, *(len(one.times) for one in spikes)])
        file["labels"], file[SPEAKER] = flat["labels"], flat["speakers"]
        file["extra/keys"] = np.array([word.encode() for word in words])
        file["extra/meta_info/gender"] = np.array([gender.encode() for gender in genders])
        for name in ("age", "body_height"):
            file[f"extra/meta_info/{name}"] = np.zeros(len(genders), np.uint16)
        file[VERSION] = FORMAT
        hdf5.write_digest(file, vars(Recordings(offsets=offsets, **flat)))
    write_bytes(path, content.getvalue())


def read_columns(path: Path) -> Recordings:
    """The recordings of a file as they stand there, of whatever type and value. Raises as `read_recordings`."""

    def columns(file: h5py.File) -> Recordings:
        found = {layout[0]: _column(file, *layout) for layout in LAYOUT if layout[0] != SPEAKER or SPEAKER in file}
        for name, column in found.items():  # before anything is read: a damaged file may promise any number of rows
            if len(column) != len(found["spikes/times"]):
                expected = f"a row of {name} for each of {len(found['spikes/times'])} recordings"
                raise FileFormatError(path, expected, f"{len(column)}")
        times, lengths = read_rows(found["spikes/times"])
        units, others = read_rows(found["spikes/units"])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        Check(path, offsets)(lengths == others, "as many units as times", lambda i: f"{others[i]} and {lengths[i]}")
        speakers = found[SPEAKER][:] if SPEAKER in found else None
        read = Recordings(times, units, offsets, found["labels"][:], speakers)
        if hdf5.DIGEST in file.attrs or VERSION in file:
            hdf5.check_written(file, vars(read), to_do=TO_DO)
        return read

    return hdf5.opened(path, "a whole HDF5 file", columns)


@dataclass
class Check:
    """Raises FileFormatError that names the file and the first recording for which something does not hold."""

    path: Path
    offsets: np.ndarray

    def __call__(self, holds: np.ndarray, expected: str, got: Callable[[int], object]) -> None:
        if not holds.all():
            i = int(holds.argmin())
            raise FileFormatError(self.path, f"{expected} in every recording", f"{got(i)} in recording {i}")

    def spikes(self, holds: np.ndarray, expected: str, values: np.ndarray) -> None:
        """The same, of something that holds for every spike."""
        if not holds.all():
            spike = int(holds.argmin())
            recording = np.searchsorted(self.offsets, spike, side="right") - 1
            raise FileFormatError(self.path, expected, f"{values[spike]} in recording {recording}")


def _column(file: h5py.File, name: str, kinds: str, ragged: bool) -> h5py.Dataset:
    """The dataset of this name, one row a recording, with a number of one of these kinds or any number of them."""
    column, path = file.get(name), file.filename
    numbers = ("rows of variable length of " if ragged else "") + ("floats" if kinds == "f" else "integers")
    expected = f"the dataset {name} with {numbers}"
    if not isinstance(column, h5py.Dataset):
        names: list[str] = []
        file.visit(lambda other: names.append(str(other)))
        raise FileFormatError(path, expected, f"only {', '.join(names) or 'an empty file'}")
    dtype = h5py.check_vlen_dtype(column.dtype) if ragged else column.dtype
    if column.shape is None or column.ndim != 1 or getattr(dtype, "kind", None) not in [*kinds]:
        raise FileFormatError(path, expected, f"the shape {column.shape} of {column.dtype}")
    if not len(column):
        raise FileFormatError(path, "at least one recording", "none")
    return column
