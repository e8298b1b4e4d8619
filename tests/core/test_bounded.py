"""Texts that nest, and archives that unpack, without end: refused in the time and memory of their own size."""

from __future__ import annotations

import gzip
import io
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hetsyn_plugins.core import bounded
from hetsyn_plugins.core.file_format import FileFormatError


@contextmanager
def refused(message: str) -> Iterator[None]:
    """FileFormatError, within a second and 100 MB."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(FileFormatError, match=message):
            yield
        assert time.perf_counter() - began < 1
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


# ---- texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (bounded.read_json, "[" * 100_000),
        (bounded.read_json, '{"a":' * 100_000),
        (bounded.read_json, '{"a":' * 40 + "1" + "}" * 40),
        (bounded.read_toml, "a = " + "[" * 90_000),
        (bounded.read_toml, "a = " + "{a=" * 30_000),
        (bounded.read_toml, "a" + ".a" * 90_000 + " = 1"),
        (bounded.read_toml, "a" + " . a" * 40_000 + " = 1"),
        (bounded.read_toml, "[a" + ".a" * 90_000 + "]"),
        (bounded.read_toml, 'a = {b = 1, "c"' + '."c"' * 40_000 + " = 1}"),
    ],
)
def test_what_nests_without_end_is_refused(read: Callable[[Path], Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "deep"
    path.write_text(text)
    with refused(r"deep: expected .* of at most 32 levels, got one that is nested deeper"):
        read(path)


@pytest.mark.parametrize(
    ("read", "raw", "message"),
    [
        (bounded.read_json, b"\xff\xfe{\x00}\x00", "in UTF-8"),
        (bounded.read_json, b"", "cannot be read"),
        (bounded.read_json, b'{"a": 1', "cannot be read"),
        (bounded.read_json, b"1" * 100_000, "cannot be read"),  # Python's own bound on digits
        (bounded.read_toml, b"a = " + b"1" * 100_000, "cannot be read"),
        (bounded.read_toml, b"a = 1\na = 2", "cannot be read"),
        (bounded.read_toml, b"#" * 300_000, "at most 200000 bytes"),
    ],
)
def test_what_is_no_such_text_is_refused(read: Callable[[Path], Any], raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(raw)
    with refused(message):
        read(path)


def test_ordinary_texts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "good"
    path.write_text('a.b = [0.1, 0.2]\n[c]\nd = "a. b. c [[{{"\n[[e]]\nf = {g = 1.5}\n')
    expected = {"a": {"b": [0.1, 0.2]}, "c": {"d": "a. b. c [[{{"}, "e": [{"f": {"g": 1.5}}]}
    assert bounded.read_toml(path) == expected
    path.write_text('{"a": [[[1, {"b": "[[[["}]]]}')
    assert bounded.read_json(path) == {"a": [[[1, {"b": "[[[["}]]]}


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path: expected a JSON file, got .*none, which does not exist"):
        bounded.read_json(tmp_path / "none")
    with refused("expected a JSON file, got what is no file"):
        bounded.read_json(tmp_path)


# ---- packed --------------------------------------------------------------------------------------------------------


def test_gzip_of_several_members_is_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two") + b"\0" * 5
    path = tmp_path / "x.gz"
    path.write_bytes(packed)
    assert bounded.gunzip(path, packed) == gzip.decompress(packed) == b"onetwo"


@pytest.mark.parametrize("members", [1, 20])
def test_a_gzip_bomb_stops_at_the_limit(members: int, tmp_path: Path) -> None:
    packed = gzip.compress(bytes(200_000_000 // members)) * members
    path = tmp_path / "bomb.gz"
    path.write_bytes(packed)
    with refused(r"bomb\.gz: expected what unpacks to at most 1000000 bytes, got more"):
        bounded.gunzip(path, packed, 1_000_000)


@pytest.mark.parametrize("cut", [1, 5, 9, 15, -1, -8])
def test_gzip_that_is_cut_or_followed_by_other_bytes_is_refused(cut: int, tmp_path: Path) -> None:
    packed = gzip.compress(b"some text that packs to more than a header")
    path = tmp_path / "x.gz"
    for raw in (packed[:cut], packed + b"other bytes"):
        path.write_bytes(raw)
        with refused("expected a whole gzip file"):
            bounded.gunzip(path, raw)


def zipped(path: Path, **members: bytes) -> bytes:
    """A compressed zip file of these members; its bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path.read_bytes()


def test_a_zip_bomb_is_refused_by_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    zipped(path, a=bytes(40_000_000), b=bytes(40_000_000), c=b"")
    with refused(r"bomb\.zip: expected what unpacks to at most 64000000 bytes, got 80000000 in 3 members"):
        bounded.checked_members(path)
    with bounded.checked_members(path, lambda name: name == "c") as file:  # the others are not unpacked
        assert bounded.read_member(file, "c", path) == b""


@pytest.mark.parametrize(("true", "stated"), [(200_000_000, 1_000), (1_000, 200_000), (1_000, 0)])
def test_a_member_that_lies_about_its_size_is_refused(true: int, stated: int, tmp_path: Path) -> None:
    path = tmp_path / "lies.zip"
    raw = zipped(path, a=bytes(true))
    path.write_bytes(raw.replace(struct.pack("<I", true), struct.pack("<I", stated)))
    with refused(r"lies\.zip: a: expected"), bounded.checked_members(path) as file:
        bounded.read_member(file, "a", path)


@pytest.mark.parametrize("change", ["no zip", "cut", "flipped", "encrypted", "method"])
def test_a_damaged_zip_file_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    raw = bytearray(zipped(path, a=b"some text, some text, some text, some text"))
    central = raw.index(b"PK\1\2")
    if change == "no zip":
        raw = bytearray(io.BytesIO(b"not a zip").getvalue())
    elif change == "cut":
        raw = raw[: len(raw) // 2]
    elif change == "flipped":
        raw[40] ^= 0xFF
    elif change == "encrypted":
        raw[6] |= 1
        raw[central + 8] |= 1
    else:
        raw[8:10] = raw[central + 10 : central + 12] = b"\x63\0"
    path.write_bytes(raw)
    with refused(r"x\.zip: "), bounded.checked_members(path) as file:
        bounded.read_member(file, "a", path)
