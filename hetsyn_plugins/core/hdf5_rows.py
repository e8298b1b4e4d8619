"""Rows of variable length in HDF5 files, read so that no damaged file makes the reader hang or swell.

HDF5 keeps such rows in its global heap: the data set itself has 16 bytes a row, a reference to an object of a
collection, and the library follows a damaged one for ever, or into gigabytes. Here the references and the collections
are read from the file's bytes, every address and size compared with the file's size before anything is allocated:

    reference    length in values u32, address of the collection u64, number of the object u32
    collection   "GCOL", version 1, three zeros, size u64; then objects: number u16, references u16, four zeros,
                 size in bytes u64, the bytes, up to a multiple of 8; number 0 is the rest, with this head, free

The other way would be a child process with a deadline. It costs half a second a file, needs a deadline that no busy
machine misses and no small file is worth, and can only say "it took too long"; this is as quick as the library and
says which row is damaged. An object that is not as long as its row, or that two rows share, is damage as well; what is
read here without complaint, the library reads too.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from hetsyn_plugins.core.file_format import FileFormatError

REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("number", "<u4")])
COLLECTION, OBJECT = struct.Struct("<4sB3xQ"), struct.Struct("<HH4xQ")


def read_rows(dataset: h5py.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The values of all rows, one row after another, as the file has them (texts: as bytes), and how many each has.

    dataset   of one axis or none, with rows of variable length, in a file that was opened by its path for reading

    Raises FileFormatError, which names the file and the data set, where they are not whole.
    """
    dtype = _dtype(dataset)
    with open(dataset.file.filename, "rb") as file:
        rows = _Rows(dataset, file)
        references = rows.references()
        lengths = references["length"].astype(np.int64)
        packed = rows.follow(references, lengths * dtype.itemsize)
    return np.frombuffer(packed, dtype), lengths


def _dtype(dataset: h5py.Dataset) -> np.dtype:
    """The type of the values, just as they lie in the file."""
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.dtype(np.uint8)
    dtype = h5py.check_vlen_dtype(dataset.dtype)
    if not isinstance(dtype, np.dtype) or dtype.kind not in "iuf":
        raise _damage(dataset, "rows of variable length of numbers", f"{dataset.dtype}")
    if dataset.id.get_type().get_super() != h5py.h5t.py_create(dtype):  # h5py takes the nearest type that NumPy has
        raise _damage(dataset, f"rows of {dtype} as NumPy has it", "numbers of another kind")
    return dtype


def _damage(dataset: h5py.Dataset, expected: str, got: str) -> FileFormatError:
    return FileFormatError(Path(dataset.file.filename), expected, got, field=dataset.name.strip("/"))


class _Rows:
    """A data set and the bytes of its file."""

    def __init__(self, dataset: h5py.Dataset, file: BinaryIO) -> None:
        self.dataset, self.file = dataset, file
        self.size = os.fstat(file.fileno()).st_size
        self.base = dataset.file.userblock_size  # addresses count from there

    def references(self) -> np.ndarray:
        """A REFERENCE a row."""
        offset = self.dataset.id.get_offset()
        if offset is not None:
            return np.frombuffer(self._bytes(offset, self.dataset.size * REFERENCE.itemsize), REFERENCE)
        if self.dataset.chunks is None or self.dataset.ndim != 1:
            raise _damage(self.dataset, "rows that were written", "none")
        chunks: list[Any] = []
        self.dataset.id.chunk_iter(chunks.append)
        (step,), rows = self.dataset.chunks, len(self.dataset)
        references = np.zeros(rows, REFERENCE)
        starts = {chunk.chunk_offset[0]: chunk for chunk in chunks}
        for start in range(0, rows, step):
            if start not in starts:
                raise _damage(self.dataset, "rows that were written", f"none from row {start} on")
            part = references[start : start + step]
            part[:] = np.frombuffer(self._unpacked(starts[start], part.nbytes), REFERENCE)
        return references

    def _unpacked(self, chunk: Any, wanted: int) -> bytes:
        """The first so many bytes of a chunk, which may be gzipped."""
        plan = self.dataset.id.get_create_plist()
        filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters()) if not chunk.filter_mask >> i & 1]
        if not filters:
            return self._bytes(chunk.byte_offset, wanted)
        if filters != [h5py.h5z.FILTER_DEFLATE]:
            raise _damage(self.dataset, "rows that are not packed, or by gzip", f"filters {filters}")
        try:
            unpacked = zlib.decompressobj().decompress(self._bytes(chunk.byte_offset, chunk.size), wanted)
        except zlib.error as error:
            raise _damage(self.dataset, "whole rows", f"what does not unpack: {error}") from error
        if len(unpacked) < wanted:
            raise _damage(self.dataset, f"a chunk of {wanted} bytes", f"{len(unpacked)}")
        return unpacked

    def follow(self, references: np.ndarray, sizes: np.ndarray) -> bytearray:
        """The bytes of all rows, so many each, one row after another."""
        total = int(sizes.sum())
        if total > self.size:
            raise _damage(self.dataset, f"rows of at most {self.size} bytes, as the file has", f"{total}")
        ends = np.cumsum(sizes)
        filled = np.flatnonzero(sizes)
        filled = filled[np.argsort(references["address"][filled], kind="stable")]  # each collection is read once
        columns = (filled, references["address"][filled], references["number"][filled], ends[filled], sizes[filled])
        packed = bytearray(total)
        out, here, read = memoryview(packed), -1, 0
        objects: dict[int, memoryview] = {}
        for row, address, number, end, size in zip(*(column.tolist() for column in columns), strict=True):
            if address != here:
                objects, length = self._collection(address)
                here, read = address, read + length
                if read > self.size:
                    raise _damage(self.dataset, "collections that lie side by side", "some that overlap")
            found = objects.pop(number, None)
            if found is None or len(found) != size:
                got = "none" if found is None else f"{len(found)}"
                raise _damage(self.dataset, f"{size} bytes for row {row}, and for it alone", got)
            out[end - size : end] = found
        return packed

    def _collection(self, address: int) -> tuple[dict[int, memoryview], int]:
        """The objects of a collection by their numbers, and its size."""
        start = self.base + address
        signature, version, size = COLLECTION.unpack(self._bytes(start, COLLECTION.size))
        if (signature, version) != (b"GCOL", 1) or size < COLLECTION.size:
            raise _damage(self.dataset, f"a collection of rows at byte {start}", "something else")
        content = memoryview(self._bytes(start, size))
        objects: dict[int, memoryview] = {}
        at = COLLECTION.size
        while at + OBJECT.size <= size:
            number, _, length = OBJECT.unpack_from(content, at)
            if number == 0 and length == size - at:
                break
            at += OBJECT.size
            if number == 0 or length > size - at or number in objects:
                raise _damage(self.dataset, f"whole objects in the collection at byte {start}", f"object {number}")
            objects[number] = content[at : at + length]
            at += -(-length // 8) * 8
        return objects, size

    def _bytes(self, start: int, count: int) -> bytes:
        """These bytes of the file, which must have them."""
        if start + count > self.size:
            raise _damage(self.dataset, f"bytes {start} to {start + count}", f"a file of {self.size}")
        self.file.seek(start)
        return self.file.read(count)
