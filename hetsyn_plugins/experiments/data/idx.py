"""The idx format of MNIST's files: 0, 0, type, number of dimensions, each size as 4 bytes big-endian, then the data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from hetsyn_plugins.core.bounded import gunzip, read_bytes
from hetsyn_plugins.core.file_format import FileFormatError

UINT8 = 0x08  # the type of every file of MNIST and its successors
GZIP = b"\x1f\x8b"
LONGEST, MOST_SIZES = 1 << 31, 8  # bytes of a file; MNIST's have 3 sizes


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an idx file of uint8, gzipped or not whatever its name; read-only.

    Raises FileNotFoundError where there is no file, FileFormatError where it is anything but one whole idx file of
    uint8 with at least one number.
    """
    path = Path(path)
    data = read_bytes(path, LONGEST, "an idx file")
    if data.startswith(GZIP):
        data = gunzip(path, data)
    if len(data) < 4 or data[:3] != bytes([0, 0, UINT8]):
        raise FileFormatError(path, "an idx file of uint8, beginning 00 00 08", _beginning(data))
    header = 4 + 4 * data[3]
    if not 1 <= data[3] <= MOST_SIZES or len(data) < header:
        expected = f"1 to {MOST_SIZES} sizes, and the bytes of their header"
        raise FileFormatError(path, expected, f"{data[3]} sizes in {len(data)} bytes")
    sizes = [int.from_bytes(data[at : at + 4], "big") for at in range(4, header, 4)]
    size = math.prod(sizes)
    shape = " x ".join(map(str, sizes))
    if not size:
        raise FileFormatError(path, "sizes from 1", shape)
    if len(data) - header != size:
        raise FileFormatError(path, f"{size} bytes of data ({shape})", f"{len(data) - header}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(sizes)


def _beginning(data: bytes) -> str:
    return data[:4].hex(" ") if data else "an empty file"
