"""Damage to zip files and to the NumPy arrays in them."""

from __future__ import annotations

import functools
import io
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

from fuzzing.cases import MARKUP, RAN, Kind

Members = dict[str, bytes]
BOMB = 1 << 30  # bytes
END, CENTRAL, LOCAL = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"


class Payload:
    """Makes a file where it is unpickled."""

    def __reduce__(self) -> Any:
        return open, (RAN, "w")


def members(data: bytes) -> Members:
    """The unpacked members of a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {info.filename: file.read(info) for info in file.infolist()}


def zipped(parts: Members, method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file, without times."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, content in parts.items():
            file.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


@functools.cache
def deflated_zeros(size: int) -> tuple[bytes, int]:
    """So many zeros packed, and their CRC, without holding them."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # after which every block packs alike
    return block * (size >> 20) + packer.flush(), crc_of_zeros(b"", size)


@functools.cache
def crc_of_zeros(beginning: bytes, size: int) -> int:
    """The CRC of a beginning and then so many zeros."""
    block, crc = bytes(1 << 20), zlib.crc32(beginning)
    for _ in range(size >> 20):
        crc = zlib.crc32(block, crc)
    return crc


def bomb(parts: Members, name: str, beginning: bytes = b"") -> bytes:
    """The zip with one member more, or another one, of a gigabyte of zeros after its beginning."""
    packed, _ = deflated_zeros(BOMB)
    # a stored block (type 00, not the last) of the beginning, then the zeros; the CRC of both
    head = b"\x00" + struct.pack("<HH", len(beginning), len(beginning) ^ 0xFFFF) + beginning if beginning else b""
    stored = zipped({**{key: value for key, value in parts.items() if key != name}, name: b""}, zipfile.ZIP_STORED)
    return _with_member(stored, name, head + packed, crc_of_zeros(beginning, BOMB), BOMB + len(beginning))


def _with_member(stored: bytes, name: str, packed: bytes, crc: int, size: int) -> bytes:
    """The last, empty member of a zip filled with data that are packed already."""
    encoded = name.encode()
    central = stored.rindex(CENTRAL)
    start = struct.unpack("<I", stored[-6:-2])[0]
    local = struct.unpack("<I", stored[central + 42 : central + 46])[0]
    sizes = struct.pack("<III", crc, len(packed), size)
    method = struct.pack("<H", zipfile.ZIP_DEFLATED)
    entry = stored[local : local + 8] + method + stored[local + 10 : local + 14] + sizes + stored[local + 26 : start]
    assert entry.endswith(encoded)
    directory = stored[start:central] + stored[central : central + 10] + method + stored[central + 12 : central + 16]
    directory += sizes + stored[central + 28 : stored.rindex(END)]
    end = stored[stored.rindex(END) :]
    begins = local + len(entry) + len(packed)
    return (
        stored[:local] + entry + packed + directory + end[:12] + struct.pack("<II", len(directory), begins) + end[20:]
    )


def of_members(name: str, change: Callable[[Random, Members], Members]) -> Kind:
    """Damage to what is in a zip, whose container is sound."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        return zipped(change(rng, members(data)), method)

    return Kind(f"zip: {name}", make)


def of_headers(name: str, sizes: Callable[[Random], tuple[int, bytes]]) -> Kind:
    """Damage to a field, by its place in the central directory, of one member's headers, or of one header alone."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        place, new = sizes(rng)
        found = [i for i in range(len(data)) if data.startswith(CENTRAL, i)]
        at = rng.choice(found)
        local = struct.unpack("<I", data[at + 42 : at + 46])[0]
        where = (
            [at + place]
            if place >= 28
            else rng.choice(([at + place, local + place - 2], [at + place], [local + place - 2]))
        )
        for here in where:
            data = data[:here] + new + data[here + len(new) :]
        return data  # fmt: skip

    return Kind(f"zip: {name}", make)


def _renamed(rng: Random, parts: Members) -> Members:
    name = rng.choice(list(parts))
    others = (
        "../canary.npy",
        "/elsewhere/x.npy",
        "C:\\x",
        name.upper(),
        name + "/",
        "a/" + name,
        "é.npy",
        "x.npy",
        name[:-1],
    )
    new = rng.choice(others)
    return {new if key == name else key: value for key, value in parts.items()}


def _exchanged(rng: Random, parts: Members) -> Members:
    a, b = rng.choice(list(parts)), rng.choice(list(parts))
    return {**parts, a: parts[b], b: parts[a]}


def _without(rng: Random, parts: Members) -> Members:
    return {key: value for key, value in parts.items() if key != rng.choice(list(parts))}


def _more(rng: Random, parts: Members) -> Members:
    return {**parts, rng.choice(("x.npy", "x", ".npy", "dir/", "x.pkl", MARKUP)): rng.randbytes(100)}


def _many(rng: Random, parts: Members) -> Members:
    return {**parts, **{f"x{i}.npy": b"" for i in range(20_000)}}


def _twice(rng: Random, data: bytes, other: bytes) -> bytes:
    """A member twice, with other content the second time."""
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as file:
        info = rng.choice(file.infolist())
        content = bytearray(file.read(info))
        content[-1] ^= 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile says that the name is there
            file.writestr(zipfile.ZipInfo(info.filename), bytes(content))
    return out.getvalue()


def _bomb(asked_for: bool) -> Callable[[Random, bytes, bytes], bytes]:
    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        parts = members(data)
        return bomb(parts, rng.choice(list(parts)) if asked_for else "unasked.npy")

    return make


def _around(rng: Random, data: bytes, other: bytes) -> bytes:
    """The zip after something else, with a comment, or inside of another zip."""
    comment = data[:-2] + struct.pack("<H", 5) + b"hello"
    return rng.choice((b"#!/bin/sh\n" + data, comment, zipped({"inputs.npy": data}), data + END + bytes(18)))


CONTAINER = (
    of_members("member renamed", _renamed),
    of_members("members exchanged", _exchanged),
    of_members("member missing", _without),
    of_members("member more", _more),
    of_members("members by the thousand", _many),
    of_members("members in another order", lambda rng, parts: dict(rng.sample(list(parts.items()), len(parts)))),
    Kind("zip: member twice", _twice),
    Kind("zip: bomb that is asked for", _bomb(True)),
    Kind("zip: bomb that is not asked for", _bomb(False)),
    Kind("zip: around it", _around),
    of_headers("encrypted", lambda rng: (8, struct.pack("<H", rng.choice((1, 65, 8193))))),
    of_headers("unknown method", lambda rng: (10, struct.pack("<H", rng.choice((1, 8, 9, 12, 14, 95, 99))))),
    of_headers("wrong CRC", lambda rng: (16, rng.randbytes(4))),
    of_headers("packed size lies", lambda rng: (20, struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1))))),
    of_headers("size lies", lambda rng: (24, struct.pack("<I", rng.choice((0, 1, 200, 2**31, 2**32 - 1))))),
    of_headers("name's length lies", lambda rng: (28, struct.pack("<H", rng.choice((0, 3, 500, 65535))))),
    of_headers("offset lies", lambda rng: (42, struct.pack("<I", rng.choice((0, 7, 2**31, 2**32 - 1))))),
)


# ---- npy ---------------------------------------------------------------------------------------------------------


def npy(header: str, numbers: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """An array file with whatever header."""
    text = header.encode("latin-1") + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text


def of_npy(name: str, change: Callable[[Random, str, bytes], bytes]) -> Kind:
    """Damage to one array of a zip: change(rng, header, numbers) gives the member."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        parts = members(data)
        name = rng.choice(list(parts))
        length = struct.unpack("<H", parts[name][8:10])[0]
        header, numbers = parts[name][10 : 10 + length].decode().strip(), parts[name][10 + length :]
        return zipped({**parts, name: change(rng, header, numbers)}, zipfile.ZIP_DEFLATED)

    return Kind(f"npy: {name}", make)


def _entry(key: str, *values: str) -> Callable[[Random, str, bytes], bytes]:
    """Another value in the header's place of this key."""

    def change(rng: Random, header: str, numbers: bytes) -> bytes:
        old = eval(header)  # of our own file
        texts = {name: repr(value) for name, value in old.items()} | {key: rng.choice(values)}
        return npy("{" + ", ".join(f"'{name}': {text}" for name, text in texts.items()) + "}", numbers) + numbers

    return change


def _header(*headers: str) -> Callable[[Random, str, bytes], bytes]:
    return lambda rng, header, numbers: npy(rng.choice((*headers, header + " # x", header[:-1])), numbers) + numbers


def _pickled(rng: Random, header: str, numbers: bytes) -> bytes:
    return npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"") + pickle.dumps([Payload()], protocol=2)


def _version(rng: Random, header: str, numbers: bytes) -> bytes:
    return npy(header, numbers, rng.choice(((2, 0), (3, 0), (0, 0), (9, 9)))) + numbers


def _no_npy(rng: Random, data: bytes, other: bytes) -> bytes:
    """Something else than a zip that numpy.load takes, or nearly."""
    single = next(iter(members(data).values()))
    return rng.choice((single, pickle.dumps(Payload(), protocol=2), b"\x93NUMPY", b"PK\x03\x04", END + bytes(18)))


def _npy_bomb(rng: Random, data: bytes, other: bytes) -> bytes:
    """Inputs of a gigabyte of zeros, with a header that says so: in a megabyte of file."""
    steps = BOMB // (1 << 20)
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({steps}, 1024, 1024), }}".ljust(117)
    return bomb(members(data), "inputs.npy", npy(header, b""))


NPY = (
    of_npy("shape", _entry("shape", "(10**9,)", "(2**62, 4)", "(0, 3, 2)", "(-1, 3, 2)", "(5,)", "()", "5", "(2.0, 3)",
                           "(True, 3, 2)", "[4, 3, 2]", "'x'", "None", "(1000000000, 1000000000, 1)")),
    of_npy("dtype", _entry("descr", "'|O'", "'<U4'", "'|S8'", "'|V8'", "'<M8[s]'", "'<c16'", "'>f4'", "'<f2'", "'|b1'",
                           "'x'", "5", "[('a', '<f4')]", "('<f4', (2,))", "'<f16'", "'<i8'", "''", "None")),
    of_npy("order", _entry("fortran_order", "True", "1", "'x'", "None")),
    of_npy("keys", _header("{}", "{'descr': '<f4'}", "[]", "", "{'a': 1}", "None")),
    of_npy("code for a header", _header("__import__('os')", "().__class__", "9**9**9", "lambda: 0", "{'a': open}")),
    of_npy("header nested deep", _header("(" * 60_000, "[" * 200 + "]" * 200, "-" * 60_000 + "1", "{" * 5_000)),
    of_npy("header long", _header("{" + " " * 60_000 + "}", "'" + "x" * 20_000 + "'")),
    of_npy("version", _version),
    of_npy("objects", _pickled),
    of_npy("numbers missing", lambda rng, header, numbers: npy(header, b"") + numbers[: rng.randrange(len(numbers))]),
    of_npy("numbers more", lambda rng, header, numbers: npy(header, b"") + numbers + bytes(8)),
    of_npy("no array", lambda rng, header, numbers: rng.choice((b"", b"text", b"\x80\x02N.", b"\x93NUMPY\x01"))),
    Kind("npy: no zip", _no_npy),
    Kind("npy: bomb that says so", _npy_bomb),
)  # fmt: skip
