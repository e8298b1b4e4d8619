"""The idx format of MNIST's files: 0, 0, type, number of dimensions, each size as 4 bytes big-endian, then the data."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

UINT8 = 0x08  # the type of every file of MNIST and its successors
GZIP = b"\x1f\x8b"


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an idx file of uint8, gzipped or not whatever its name; read-only.

    Raises FileNotFoundError where there is no file, ValueError where it is anything but one whole idx file of uint8.
    """
    data = _bytes(Path(path))
    if len(data) < 4 or data[:3] != bytes([0, 0, UINT8]):
        raise ValueError(f"{path}: expected an idx file of uint8, beginning 00 00 08, got {_beginning(data)}")
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise ValueError(f"{path}: expected {header} bytes for the header of {data[3]} sizes, got {len(data)}")
    sizes = [int.from_bytes(data[at : at + 4], "big") for at in range(4, header, 4)]
    size = math.prod(sizes)
    if len(data) - header != size:
        shape = " x ".join(map(str, sizes))
        raise ValueError(f"{path}: expected {size} bytes of data ({shape}), got {len(data) - header}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(sizes)


def _bytes(path: Path) -> bytes:
    """What the file holds, unpacked where it is gzipped."""
    if path.is_dir():
        raise ValueError(f"{path}: expected an idx file, got a folder")
    data = path.read_bytes()
    if not data.startswith(GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, got one that does not unpack: {error}") from error


def _beginning(data: bytes) -> str:
    return data[:4].hex(" ") if data else "an empty file"
