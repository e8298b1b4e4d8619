"""Damage to idx files and to gzip around them."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from random import Random

from fuzzing.by_zip import BOMB, crc_of_zeros, deflated_zeros
from fuzzing.cases import Kind

GZIP = b"\x1f\x8b"


def packed(data: bytes) -> bytes:
    """Gzipped, without a time."""
    return gzip.compress(data, mtime=0)


def plain(data: bytes) -> bytes:
    """What a good file holds, unpacked if need be."""
    return gzip.decompress(data) if data.startswith(GZIP) else data


def of_idx(name: str, change: Callable[[Random, bytes], bytes]) -> Kind:
    """Damage to the idx file, gzipped again where it was."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        changed = change(rng, plain(data))
        return packed(changed) if data.startswith(GZIP) else changed

    return Kind(f"idx: {name}", make)


def of_gzip(name: str, change: Callable[[Random, bytes, bytes], bytes]) -> Kind:
    """Damage to the gzip file: change(rng, gzip file, idx file)."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        return change(rng, packed(plain(data)), plain(data))

    return Kind(f"gzip: {name}", make)


def _magic(rng: Random, data: bytes) -> bytes:
    return rng.choice((b"\0\0\x09", b"\0\0\x0d", b"\0\1\x08", b"\x08\0\0", b"\0\0\0", b"PK\3")) + data[3:]


def _dimensions(rng: Random, data: bytes) -> bytes:
    return data[:3] + bytes([rng.choice((0, 1, 2, 4, 33, 64, 65, 255))]) + data[4:]


def _sizes(rng: Random, data: bytes) -> bytes:
    """One size lies, or all of them."""
    count = data[3]
    sizes = list(struct.unpack(f">{count}I", data[4 : 4 + 4 * count]))
    lie = rng.choice((0, 1, 2**31, 2**32 - 1, sizes[0] + 1, sizes[0] * 2))
    sizes = rng.choice((sizes[::-1], [lie] * count, [lie, *sizes[1:]], [2**16] * count))
    return data[:4] + struct.pack(f">{count}I", *sizes) + data[4 + 4 * count :]


def _consistent(rng: Random, data: bytes) -> bytes:
    """Sizes that agree with the number of bytes and are others: what no reader can tell from a good file, or none."""
    size = len(data) - 4 - 4 * data[3]
    return rng.choice((
        b"\0\0\x08\x01" + struct.pack(">I", size) + data[-size:],
        b"\0\0\x08\x02" + struct.pack(">II", 0, 28),
        b"\0\0\x08\x00\x05",
        b"\0\0\x08\x40" + struct.pack(">I", 1) * 64 + b"\x05",  # more dimensions than NumPy has
        b"\0\0\x08\xff" + struct.pack(">I", 1) * 255 + b"\x05",
        b"\0\0\x08\x02" + struct.pack(">II", 0, 2**32 - 1),
    ))  # fmt: skip


def _bomb(rng: Random, gzipped: bytes, data: bytes) -> bytes:
    """A gigabyte of zeros behind an idx header that says so, or does not."""
    sizes = struct.pack(">III", BOMB >> 20, 1024, 1024)
    head = rng.choice((b"\0\0\x08\x03" + sizes, b"\0\0\x08\x03" + struct.pack(">III", 5, 28, 28), bytes(16)))
    zeros, _ = deflated_zeros(BOMB)
    block = b"\x00" + struct.pack("<HH", len(head), len(head) ^ 0xFFFF) + head
    end = struct.pack("<II", crc_of_zeros(head, BOMB), (BOMB + len(head)) & 0xFFFFFFFF)
    return gzipped[:10] + block + zeros + end


def _members(rng: Random, gzipped: bytes, data: bytes) -> bytes:
    """Several members, which together are the file, or more."""
    half = len(data) // 2
    whole = packed(data[:half]) + packed(data[half:])
    empty = packed(b"")
    return rng.choice((whole, gzipped + gzipped, gzipped + empty, empty * 50_000 + gzipped, gzipped + bytes(100)))


def _nested(rng: Random, gzipped: bytes, data: bytes) -> bytes:
    for _ in range(rng.choice((1, 2, 20))):
        gzipped = packed(gzipped)
    return gzipped


def _header(rng: Random, gzipped: bytes, data: bytes) -> bytes:
    """Flags with fields that are not there or do not end, another method."""
    flags, rest = gzipped[3], gzipped[10:]
    name = gzipped[:3] + b"\x08" + gzipped[4:10] + b"x" * rng.choice((5, 5_000_000))
    return rng.choice((
        gzipped[:2] + b"\x07" + gzipped[3:],
        gzipped[:3] + bytes([flags | rng.choice((2, 4, 8, 16, 0xE0))]) + gzipped[4:],
        name + b"\0" + rest,
        name,
        gzipped[:3] + b"\x04" + gzipped[4:10] + b"\xff\xff" + rest,
    ))  # fmt: skip


def _end(rng: Random, gzipped: bytes, data: bytes) -> bytes:
    """A CRC or a length that lies, or none."""
    lies = (gzipped[:-8] + rng.randbytes(4) + gzipped[-4:], gzipped[:-4] + struct.pack("<I", 2**31), gzipped[:-8])
    return rng.choice(lies)


KINDS = (
    of_idx("magic", _magic),
    of_idx("dimensions lie", _dimensions),
    of_idx("sizes lie", _sizes),
    of_idx("other sizes that agree", _consistent),
    of_idx("data missing", lambda rng, data: data[: -rng.choice((1, 28, len(data) // 2))]),
    of_idx("data more", lambda rng, data: data + bytes(rng.choice((1, 28, 784)))),
    of_gzip("bomb", _bomb),
    of_gzip("members", _members),
    of_gzip("nested", _nested),
    of_gzip("header", _header),
    of_gzip("end", _end),
    Kind("gzip: zlib instead", lambda rng, data, other: zlib.compress(plain(data))),
)
