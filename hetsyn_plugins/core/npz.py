"""Arrays of numbers from a .npz file of strangers: only those asked for are unpacked, and none beyond its size.

A member is the text that numpy.save writes (magic, version, length, {'descr': ..., 'fortran_order': ..., 'shape': ...})
and the numbers behind it; nothing of it is run, and nothing allocated before the sizes agree.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hetsyn_plugins.core.bounded import checked_members, read_member
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.file_format import FileFormatError

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {(1, 0): 2, (2, 0): 4}  # of the header's length, by version; 3.0 is for names of fields, not for numbers
LONGEST_HEADER, MOST_AXES, LARGEST_SIZE = 10_000, 8, 1 << 40
NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
INSTEAD = {  # letters of a type -> what to do where an array is of it
    "US": "np.unique(texts, return_inverse=True)[1] numbers texts from 0",
    "O": "rows of unequal length are padded to one array of numbers",
    "c": "take real and imaginary part, or the absolute value",
}
KEYS = {"descr", "fortran_order", "shape"}


def read(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Those of the named arrays that the file has: numbers or truth values, at least one each.

    Raises FileNotFoundError, or FileFormatError where the file is no .npz, or one of these arrays is no such array.
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"path: expected a .npz file, got {path}, which {what}")
    members = {f"{name}.npy": name for name in names}
    with checked_members(path, members.__contains__) as file:
        there = [member for member in members if member in file.namelist()]
        return {members[member]: _array(read_member(file, member, path), path, members[member]) for member in there}


def _array(content: bytes, path: Path, name: str) -> Array:
    """The array of a member."""
    size = LENGTH_BYTES.get(tuple(content[6:8]))  # type: ignore[arg-type]
    if not content.startswith(MAGIC) or size is None:
        raise FileFormatError(path, "an array of numbers as numpy.save writes it", "something else", field=name)
    start = 8 + size
    length = int.from_bytes(content[8:start], "little")
    if length > LONGEST_HEADER:
        raise FileFormatError(path, f"a header of at most {LONGEST_HEADER} bytes", f"{length}", field=name)
    dtype, fortran, shape = _header(content[start : start + length], path, name)
    expected, found = math.prod(shape) * dtype.itemsize, len(content) - start - length
    if found != expected:
        raise FileFormatError(path, f"{expected} bytes for the shape {shape}", f"{found}", field=name)
    flat = np.frombuffer(content, dtype, offset=start + length)
    if dtype.kind == "b" and flat.view(np.uint8).max() > 1:
        raise FileFormatError(path, "truth values of 0 and 1", "others", field=name)
    return flat.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="), order="C")


def _header(text: bytes, path: Path, name: str) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """What a header says: the kind of numbers, whether the first axis runs fastest, and the shape."""
    try:
        header = ast.literal_eval(text.decode("latin1").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        what = f"what cannot be read: {error or type(error).__name__}"
        raise FileFormatError(path, "a header", what, field=name) from error
    if not isinstance(header, dict) or set(header) != KEYS:
        raise FileFormatError(path, f"a header with {', '.join(sorted(KEYS))}", header, field=name)
    descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    if not isinstance(descr, str) or not NUMBERS.fullmatch(descr):
        to_do = next((hint for kinds, hint in INSTEAD.items() if re.match(f"[<>|=]?[{kinds}]", str(descr))), "")
        raise FileFormatError(
            path, "numbers or truth values of up to 8 bytes", descr, field=f"{name}: descr", to_do=to_do
        )
    if not isinstance(fortran, bool):
        raise FileFormatError(path, "True or False", fortran, field=f"{name}: fortran_order")
    whole = isinstance(shape, tuple) and all(type(size) is int and 0 < size < LARGEST_SIZE for size in shape)
    if not whole or len(shape) > MOST_AXES:
        raise FileFormatError(path, f"up to {MOST_AXES} sizes from 1", shape, field=f"{name}: shape")
    return np.dtype(descr), fortran, shape
