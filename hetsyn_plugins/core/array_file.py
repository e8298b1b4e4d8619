"""Arrays in a file, with what is to be said of them: safetensors, whose one metadata entry is a JSON text.

    hetsyn_plugins    the entry: format, format_version, version (of the package), digest, and what the writer adds

The JSON is canonical (keys sorted, no spaces) and alone, so that the same content gives the same bytes in every
process; the library writes several entries in random order. The digest is over the arrays and the JSON. The header of
a file is read here, not by the library, so that nothing is allocated which the file's size does not explain.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from hetsyn_plugins._version import __version__
from hetsyn_plugins.core.bounded import parse_json
from hetsyn_plugins.core.file_format import LATER, FileFormatError, check_digest, check_is_file, digest
from hetsyn_plugins.core.files import write_bytes

ENTRY, DIGEST = "hetsyn_plugins", "digest"
FORMAT_VERSION = 2  # the first with a digest
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
LONGEST_HEADER = 4_000_000  # bytes: a thousand layers have one of these
MOST_AXES = 8


class ArrayFile(NamedTuple):
    """What a safetensors file holds: the texts of its metadata, and its arrays (read-only) by name."""

    path: Path
    metadata: dict[str, str]
    arrays: dict[str, NDArray[Any]]


def write(path: Path, kind: str, content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays (float32, float64, int32, int64 or uint8) and what JSON can say of them, whole or not at all.

    kind   what the file is, for `checked_content`
    Raises ValueError where the content holds NaN or infinity, TypeError where it or an array is of another type.
    """
    plain = {**content, "format": kind, "format_version": FORMAT_VERSION, "version": __version__}
    plain = json.loads(_canonical(plain))  # as it will be read: tuples are lists
    whole = {name: np.array(array, order="C") for name, array in arrays.items()}
    for name, array in whole.items():
        if array.dtype not in DTYPES.values() or array.ndim > MOST_AXES:
            what = f"float32, float64, int32, int64 or uint8 numbers of at most {MOST_AXES} axes"
            raise TypeError(f"{name}: expected {what}, got {array.dtype} of {array.ndim}")
    stated = digest({"content": plain, "arrays": whole})
    whole_file = save(whole, {ENTRY: _canonical({**plain, DIGEST: stated})})
    if (length := int.from_bytes(whole_file[:8], "little")) > LONGEST_HEADER:
        raise ValueError(
            f"content: expected what is said in {LONGEST_HEADER} bytes, got {length}: it could not be read"
        )
    write_bytes(path, whole_file)


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def checked_content(file: ArrayFile, kind: str, what: str) -> dict[str, Any]:
    """What `write` was given beside the arrays, with the version that wrote it, once the digest holds.

    Raises FileFormatError where the file is of another kind or version, or not as it was written.
    """
    if set(file.metadata) != {ENTRY}:
        raise FileFormatError(file.path, what, "a safetensors file of another kind")
    content = parse_json(file.metadata[ENTRY], file.path, "a JSON object", ENTRY)
    if not isinstance(content, dict) or content.get("format") != kind:
        raise FileFormatError(file.path, what, "a safetensors file of another kind")
    version = content.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        expected = f"format {FORMAT_VERSION} or earlier"
        raise FileFormatError(file.path, expected, version, field="format_version", to_do=LATER)
    stated = content.pop(DIGEST, "none")
    to_do = "it is damaged: use a copy, or write it anew"
    check_digest(file.path, {"content": content, "arrays": file.arrays}, stated or "none", to_do=to_do)
    if not isinstance(content.get("version"), str):
        raise FileFormatError(file.path, "a text", content.get("version"), field="version")
    return content


# ---- the container -------------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str], what: str) -> ArrayFile:
    """What a safetensors file holds; its header is checked before anything else is read.

    what   what the file should be, for messages
    Raises FileNotFoundError, or FileFormatError where it is no whole safetensors file of these dtypes.
    """
    path = Path(path)
    check_is_file(path, what)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            limit = min(max(size - 8, 0), LONGEST_HEADER)
            raise FileFormatError(
                path, f"a whole safetensors file, with a header of at most {limit} bytes", f"{length}"
            )
        header = _header(file.read(length), path)
        metadata = _metadata(header.pop("__metadata__", {}), path)
        places = {name: _place(entry, path, name) for name, entry in header.items()}
        _check_filled(places, size - 8 - length, path)
        data = _rest(file, size, path)
    try:
        arrays: dict[str, NDArray[Any]] = {
            name: np.ndarray(p.shape, p.dtype, data, p.begin) for name, p in places.items()
        }
    except (TypeError, ValueError) as error:  # it became shorter meanwhile; an empty array is too large to be counted
        raise FileFormatError(path, "arrays of the shapes of its header", f"others: {error}") from error
    return ArrayFile(path, metadata, arrays)


def _rest(file: BinaryIO, size: int, path: Path) -> bytes:
    try:
        return file.read()
    except MemoryError as error:  # a file of holes takes no room on a disk
        raise FileFormatError(path, "a file that fits into memory", f"one of {size} bytes") from error


class _Place(NamedTuple):
    """Where an array lies in the data, and what it is."""

    begin: int
    end: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def _header(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FileFormatError(path, "a whole safetensors file", f"a header that is no text: {error}") from error
    header = parse_json(text, path, "a whole safetensors file, with a header in JSON", "header")
    if not isinstance(header, dict):
        raise FileFormatError(path, "a JSON object", header, field="header")
    return header


def _metadata(entry: Any, path: Path) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(text, str) for text in entry.values()):
        raise FileFormatError(path, "texts by name", entry, field="__metadata__")
    return entry


def _place(entry: Any, path: Path, name: str) -> _Place:
    """A checked entry of the header."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FileFormatError(path, "dtype, shape and data_offsets", entry, field=name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FileFormatError(path, f"numbers of {', '.join(DTYPES)}", dtype, field=name)
    if not _sizes(shape) or len(shape) > MOST_AXES:
        raise FileFormatError(path, f"a shape of at most {MOST_AXES} axes", shape, field=name)
    if not _sizes(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise FileFormatError(path, f"the begin and end of {dtype} numbers of shape {shape}", offsets, field=name)
    return _Place(offsets[0], offsets[1], DTYPES[dtype], tuple(shape))


def _sizes(value: Any) -> bool:
    """Is it a list of whole numbers that a size can be?"""
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 48 for size in value)


def _check_filled(places: Mapping[str, _Place], size: int, path: Path) -> None:
    """Raise FileFormatError unless the arrays lie one behind the other and fill the data."""
    end = 0
    for name, place in sorted(places.items(), key=lambda item: item[1][:2]):
        if place.begin != end:
            raise FileFormatError(path, f"an array that begins at {end}", f"one at {place.begin}", field=name)
        end = place.end
    if end != size:
        raise FileFormatError(path, f"a whole safetensors file, with {end} bytes of arrays", f"{size}")
