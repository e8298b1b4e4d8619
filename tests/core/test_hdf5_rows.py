"""Rows of variable length, read from the file's bytes: equal to what HDF5 reads, and no damage hangs or swells.

The judge is h5py, which wrote the rows; damage is put at the places that the format has, and at random.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from planting import caught, planted

from hetsyn_plugins.core import hdf5, hdf5_rows
from hetsyn_plugins.core.file_format import FileFormatError

LENGTHS = (0, 3, 4000, 1, 0, 2, 77)
KEPT: dict[str, dict[str, Any]] = {
    "together": {},
    "in chunks": {"chunks": (2,), "maxshape": (None,)},
    "in one large chunk": {"chunks": (1000,), "maxshape": (None,)},
    "gzipped": {"chunks": (3,), "compression": "gzip"},
    "shuffled in vain": {"chunks": (3,), "compression": "gzip", "shuffle": True},
}
FILES: dict[str, dict[str, Any]] = {
    "old": {},
    "new": {"libver": "latest"},
    "behind a block": {"userblock_size": 512},
    "new behind a block": {"libver": "latest", "userblock_size": 1024},
}


def written(path: Path, kind: str = "<f2", kept: str = "together", file: str = "old") -> list[np.ndarray]:
    """A file of rows x and a text; the rows."""
    rng = np.random.default_rng(0)
    rows = [(rng.random(n) * 9).astype(kind) for n in LENGTHS]
    with h5py.File(path, "w", **FILES[file]) as opened:
        x = opened.create_dataset("x", (len(rows),), h5py.vlen_dtype(np.dtype(kind)), **KEPT[kept])
        for index, row in enumerate(rows):
            x[index] = row
        opened["text"] = "häl"
    return rows


def read(module: Any, path: Path, name: str = "x") -> tuple[np.ndarray, np.ndarray]:
    values: tuple[np.ndarray, np.ndarray] = hdf5.opened(path, "a file", lambda file: module.read_rows(file[name]))
    return values


def check_rows(module: Any, tmp_path: Path, kind: str = "<f2", kept: str = "together", file: str = "old") -> None:
    rows = written(tmp_path / "x.h5", kind, kept, file)
    values, lengths = read(module, tmp_path / "x.h5")
    assert values.dtype == kind and lengths.dtype == np.int64
    np.testing.assert_array_equal(lengths, LENGTHS)
    np.testing.assert_array_equal(values, np.concatenate(rows))
    assert read(module, tmp_path / "x.h5", "text")[0].tobytes() == "häl".encode()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8", "u1", ">i8"])
def test_rows_are_those_that_h5py_wrote(kind: str, kept: str, file: str, tmp_path: Path) -> None:
    check_rows(hdf5_rows, tmp_path, kind, kept, file)


def test_rows_that_were_written_twice(tmp_path: Path) -> None:
    """The collections then have objects that nobody refers to, and holes."""
    path = tmp_path / "x.h5"
    rows = written(path)
    with h5py.File(path, "r+") as file:
        for index in (2, 3, 1, 2):
            rows[index] = np.arange(10 * index + 5, dtype="<f2")
            file["x"][index] = rows[index]
    np.testing.assert_array_equal(read(hdf5_rows, path)[0], np.concatenate(rows))


def test_many_rows_in_many_collections(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    rows = [np.arange(n % 50, dtype=np.uint16) for n in range(3000)]
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (3000,), h5py.vlen_dtype(np.uint16), maxshape=(None,))
        x[:] = np.array([*rows, None], object)[:-1]
    assert path.read_bytes().count(b"GCOL") > 3
    np.testing.assert_array_equal(read(hdf5_rows, path)[0], np.concatenate(rows))


@pytest.mark.parametrize("size", [4063, 4064, 4065, 10_000])
def test_a_row_that_fills_its_collection(size: int, tmp_path: Path) -> None:
    """Of 4,096 bytes a collection's head and an object's take 16 each; longer rows have their own."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (1,), h5py.vlen_dtype(np.uint8))[0] = np.arange(size) % 251
    np.testing.assert_array_equal(read(hdf5_rows, tmp_path / "x.h5")[0], np.arange(size) % 251)


# ---- damage --------------------------------------------------------------------------------------------------------


def spot(path: Path, what: str) -> int:
    """Where in a file a part of the rows lies."""
    heap = path.read_bytes().index(b"GCOL")
    with h5py.File(path) as file:
        rows = file["x"].id.get_offset()
    free = heap + 8304  # behind five rows and the text
    return {
        "free": free,
        "heap": heap,
        "first object": heap + 16,
        "row 1": rows + 16,
        "row 3": rows + 48,
        "row 4": rows + 64,
    }[what]


def damaged(path: Path, what: str, at: int, form: str, value: Any) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, spot(path, what) + at, value)
    path.write_bytes(content)


DAMAGE = {
    "another signature": ("heap", 0, "4s", b"GCOK"),
    "another version": ("heap", 4, "B", 2),
    "a collection of nothing": ("heap", 8, "<Q", 0),
    "a collection beyond the file": ("heap", 8, "<Q", 10**6),
    "a collection without end": ("heap", 8, "<Q", 2**64 - 1),
    "another number": ("first object", 0, "<H", 9),
    "an object beyond its collection": ("first object", 8, "<Q", 2**63),
    "a longer object": ("first object", 8, "<Q", 8),
    "an object of nothing": ("first object", 8, "<Q", 0),
    "free space that is not all the rest": ("free", 8, "<Q", 64),
    "free space of nothing": ("free", 8, "<Q", 0),
    "a longer row": ("row 1", 0, "<I", 4),
    "a row without end": ("row 1", 0, "<I", 2**32 - 1),
    "an empty row that has values": ("row 4", 0, "<I", 1),
    "rows elsewhere": ("row 1", 4, "<Q", 96),
    "rows beyond the file": ("row 1", 4, "<Q", 2**40),
    "rows nowhere": ("row 1", 4, "<Q", 2**64 - 1),
    "no such object": ("row 3", 12, "<I", 0),
    "an object of another row": ("row 3", 12, "<I", 1),
}


def check_damage(module: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.h5"
    written(path)
    damaged(path, *DAMAGE[name])
    start = time.perf_counter()
    with pytest.raises(FileFormatError, match=r"x\.h5: x: expected "):
        read(module, path)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_seen_at_once(name: str, tmp_path: Path) -> None:
    check_damage(hdf5_rows, tmp_path, name)


def check_shared(module: Any, tmp_path: Path) -> None:
    """Two rows of one object: a small file would unpack to a large one."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (300,), h5py.vlen_dtype(np.uint8))
        for index in range(300):
            x[index] = np.zeros(5, np.uint8)
        offset = x.id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset : offset + 4800] = content[offset : offset + 16] * 300
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="x: expected 5 bytes for row 1, and for it alone, got none"):
        read(module, path)


def test_an_object_is_of_one_row(tmp_path: Path) -> None:
    check_shared(hdf5_rows, tmp_path)


def check_nested(module: Any, tmp_path: Path) -> None:
    """Collections within collections: each has the rest of the file in its only object, and would be read anew."""
    path, count, size = tmp_path / "x.h5", 2000, 400_000
    with h5py.File(path, "w") as file:
        file.create_dataset("room", data=np.zeros(size, np.uint8))
        x = file.create_dataset("x", (count,), h5py.vlen_dtype(np.uint8))
        x[0] = [1]
        room, offset = file["room"].id.get_offset(), x.id.get_offset()
    content = bytearray(path.read_bytes())
    for index in range(count):
        at = room + 64 * index
        content[at : at + 16] = b"GCOL\1\0\0\0" + struct.pack("<Q", room + size - at)
        content[at + 16 : at + 33] = struct.pack("<HHIQB", 1, 1, 0, 1, 7)
        content[at + 40 : at + 56] = struct.pack("<HHIQ", 0, 0, 0, room + size - at - 40)
        content[offset + 16 * index : offset + 16 * index + 16] = struct.pack("<IQI", 1, at, 1)
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="x: expected collections that lie side by side"):
        read(module, path)


def test_collections_do_not_overlap(tmp_path: Path) -> None:
    check_nested(hdf5_rows, tmp_path)


@pytest.mark.parametrize("kept", ["together", "in chunks", "gzipped"])
def test_rows_that_were_never_written_are_none(kept: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (7,), h5py.vlen_dtype(np.uint8), **KEPT[kept])
    with pytest.raises(FileFormatError, match=r"x\.h5: x: expected (112|56|rows that were written)"):
        read(hdf5_rows, path)


def test_what_is_packed_otherwise_or_damaged_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (3,), h5py.vlen_dtype(np.uint8), compression="lzf", chunks=(3,))[0] = [1]
    with pytest.raises(FileFormatError, match="x: expected rows that are not packed, or by gzip, got filters"):
        read(hdf5_rows, path)
    written(path, kept="gzipped")
    with h5py.File(path) as file:
        chunk = file["x"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="x: expected"):
        read(hdf5_rows, path)


@pytest.mark.parametrize("name", ["numbers", "texts"])
def test_what_has_no_such_rows_is_said(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["numbers"] = [1, 2]
        file.create_dataset("texts", (2,), h5py.vlen_dtype(np.dtype("S3")), chunks=(2,))
    with pytest.raises(FileFormatError, match=f"{name}: expected rows of variable length of numbers"):
        read(hdf5_rows, path, name)


def test_mutants_are_read_as_they_were_or_refused(tmp_path: Path) -> None:
    """Values themselves have no digest here: only those may differ, never the lengths."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (20,), h5py.vlen_dtype(np.uint8))
        for index in range(20):
            x[index] = np.arange(index)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        content[rng.choice(used)] = rng.integers(256)
        path.write_bytes(content)
        try:
            np.testing.assert_array_equal(read(hdf5_rows, path)[1], range(20))
        except FileFormatError:
            refused += 1
    assert refused > 50


# ---- planted bugs --------------------------------------------------------------------------------------------------


class Bug(NamedTuple):
    """In hdf5_rows.py `old` becomes `new`; `check` must then fail with an error that says `says`."""

    name: str
    old: str
    new: str
    check: Callable[[Any, Path], None]
    says: str
    error: type[BaseException] = AssertionError


def damage(name: str) -> Callable[[Any, Path], None]:
    return partial(check_damage, name=name)


def rows(**options: str) -> Callable[[Any, Path], None]:
    return partial(check_rows, **options)


MISSED = ("DID NOT RAISE", pytest.fail.Exception)
BEHIND, CHUNKS = rows(file="behind a block"), rows(kept="in chunks")
BUGS = [
    Bug("blocks in front are forgotten", "dataset.file.userblock_size", "0", BEHIND, "at byte", FileFormatError),
    Bug("objects are not padded", "-(-length // 8) * 8", "length", rows(), "x: expected", FileFormatError),
    Bug("the first chunk again", "starts[start], part", "starts[0], part", CHUNKS, "for it alone", FileFormatError),
    Bug("rows in the order of addresses", "out[end - size : end]", "out[:size]", rows(), "not equal"),
    Bug("lengths are not compared", " or len(found) != size", "", damage("a longer row"), "memoryview assignment"),
    Bug("objects are found again", "objects.pop(number, None)", "objects.get(number)", check_shared, *MISSED),
    Bug("overlaps are read", "if read > self.size:", "if False:", check_nested, *MISSED),
    Bug("another version is read", "(b\"GCOL\", 1)", "(b\"GCOL\", version)", damage("another version"), *MISSED),
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug, tmp_path: Path) -> None:
    with planted(hdf5_rows.__name__, bug.old, bug.new) as module, caught(bug.says, bug.error):
        bug.check(module, tmp_path)
