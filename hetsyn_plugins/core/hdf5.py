"""HDF5 files of strangers: opened so that nothing outside the file is read and nothing beyond its size is allocated.

A file may hold links to other files, data sets whose bytes lie in other files, data sets that promise more than is
there, and groups within groups without end. `opened` looks at all that before anything is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from hetsyn_plugins.core.file_format import FileFormatError, check_digest, check_is_file, digest

DEEPEST, MOST = 16, 10_000  # levels of groups; groups and data sets in a file
UNPACKED_LEAST, UNPACKED_TIMES = 16_000_000, 4  # bytes; times the file's size: readers make int64 of int16
DIGEST = "hetsyn_digest"  # an attribute: h5py alone looks for it
HDF5_ERRORS = (
    OSError,
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    NotImplementedError,
)  # h5py's own

Read = TypeVar("Read")


def opened(path: str | os.PathLike[str], what: str, reader: Callable[[h5py.File], Read], *, largest: int = 0) -> Read:
    """What `reader` makes of the file, once it is looked through.

    largest   bytes that its data may take, however small the file is (matrices of zeros pack to nothing)

    Raises FileNotFoundError where there is no such file, FileFormatError where it is damaged or reaches out of itself.
    """
    path = Path(path)
    check_is_file(path, what)
    try:
        with h5py.File(path, "r") as file:
            _look_through(file, path, largest)
            return reader(file)
    except FileFormatError:
        raise
    except HDF5_ERRORS as error:
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise FileFormatError(path, what, f"one that cannot be read: {reason}") from error


def _look_through(file: h5py.File, path: Path, largest: int) -> None:
    """Raise FileFormatError for what no file of ours has, whether or not anybody asks for it."""
    waiting: list[tuple[str, h5py.Group, int]] = [("", file, 0)]
    found, total, limit = 0, 0, max(largest, UNPACKED_LEAST, UNPACKED_TIMES * path.stat().st_size)
    while waiting:
        prefix, group, depth = waiting.pop()
        for name in group:
            where, found = f"{prefix}{name}", found + 1
            if found > MOST or depth >= DEEPEST:
                raise FileFormatError(path, f"at most {MOST} entries, {DEEPEST} deep", "more", field=where)
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise FileFormatError(path, "what lies in the file itself", type(link).__name__, field=where)
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((f"{where}/", item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                total += _checked_size(item, path, where)
        if total > limit:
            raise FileFormatError(path, f"data of at most {limit} bytes in a file of this size", f"{total}")


def _checked_size(dataset: h5py.Dataset, path: Path, where: str) -> int:
    """The bytes that a data set takes in memory; its rows of variable length count as references."""
    if dataset.is_virtual or dataset.external:
        raise FileFormatError(path, "data in the file itself", "data that lie elsewhere", field=where)
    if dataset.shape is None:
        return 0
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > stored and dataset.chunks is None:
        raise FileFormatError(path, f"{dataset.nbytes} bytes, as its shape says", f"{stored}", field=where)
    return int(dataset.nbytes)


# ---- the digest ----------------------------------------------------------------------------------------------------


def contents(group: h5py.Group) -> dict[str, Any]:
    """All data sets in a group, by their paths in it; one without values counts as its type.

    Raises ValueError for rows of variable length, which no file with a digest has as they are.
    """
    found: dict[str, Any] = {}

    def add(name: str | bytes, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[str(name)] = item.dtype.str if item.shape is None else _values(str(name), item)

    group.visititems(add)
    return found


def _values(name: str, dataset: h5py.Dataset) -> np.ndarray:
    if dataset.dtype.hasobject:
        raise ValueError(f"{name}: expected numbers and texts of a fixed length, got {dataset.dtype}")
    return np.asarray(dataset[()])


def write_digest(group: h5py.Group, content: Any) -> None:
    """Put the digest of what a group holds beside it."""
    group.attrs.create(DIGEST, np.bytes_(digest(content)))


def check_written(group: h5py.Group, content: Any, *, to_do: str) -> None:
    """Raise FileFormatError where what a group holds is not what its digest states, or where it has none."""
    stated = "none"
    if DIGEST in group.attrs:
        attribute = group.attrs.get_id(DIGEST)  # looked at before it is read: it may be anything
        whole = attribute.dtype == np.dtype("S64") and attribute.shape == ()
        stated = group.attrs[DIGEST].decode("ascii", "replace") if whole else "not one"
    check_digest(group.file.filename, content, stated, to_do=to_do)
