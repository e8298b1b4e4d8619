"""Arrays in files: the same bytes for the same content, damage seen, and headers that lie refused before all else."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import forge
from planting import caught, planted
from safetensors.numpy import load_file, save

from hetsyn_plugins.core import array_file
from hetsyn_plugins.core.file_format import FileFormatError

CONTENT = {"rate": 0.1, "names": ["a", "b"], "deep": {"z": None, "y": True, "x": 3}}


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "b": rng.normal(size=(3, 4)),
        "a": rng.normal(size=5).astype(np.float32),
        "steps": np.array(7),
        "none": np.zeros((0, 3)),
        "turned": np.asfortranarray(rng.normal(size=(2, 3))),
    }


def written(path: Path) -> Path:
    array_file.write(path, "numbers", CONTENT, arrays())
    return path


def loaded(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    file = array_file.read(path, "numbers")
    return array_file.checked_content(file, "numbers", "numbers"), file.arrays


def test_what_was_written_is_read(tmp_path: Path) -> None:
    content, read = loaded(written(tmp_path / "x"))
    assert {name: content[name] for name in CONTENT} == CONTENT
    assert list(read) != [] and read.keys() == arrays().keys()
    for name, array in arrays().items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
    for name, array in load_file(tmp_path / "x").items():  # the library reads it too
        np.testing.assert_array_equal(read[name], array)


def test_the_same_content_is_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """In whatever order it is given: the library writes several entries of metadata as its hash map has them."""
    code = (
        "import sys, random, pathlib; sys.path[:0] = sys.argv[2:]\n"
        "import test_array_file as t\n"
        "entries, content = list(t.arrays().items()), list(t.CONTENT.items())\n"
        "random.shuffle(entries); random.shuffle(content)\n"
        "t.array_file.write(pathlib.Path(sys.argv[1]), 'numbers', dict(content), dict(entries))"
    )
    here = Path(__file__).parent
    paths = [str(here), str(here.parent / "support"), str(here.parent)]
    for seed in range(4):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, str(tmp_path / f"{seed}"), *paths]
        subprocess.run(command, check=True, env=environment)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def damaged_bytes(whole: bytes, seed: int) -> bytes:
    """One to three bytes changed, bytes left out or put in, the end cut off."""
    rng, raw = random.Random(seed), bytearray(whole)
    kind = rng.randrange(4)
    at = rng.randrange(len(raw))
    if kind == 0:
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del raw[at : at + rng.randint(1, 9)]
    elif kind == 2:
        raw[at:at] = rng.randbytes(rng.randint(1, 9))
    else:
        del raw[at:]
    return bytes(raw)


def check_damage(module: Any, folder: Path) -> None:
    """None of 400 damaged files is read as anything but what was written."""
    path = folder / "x"
    whole = written(path).read_bytes()
    want = loaded(path)
    seen = 0
    for seed in range(400):
        path.write_bytes(damaged_bytes(whole, seed))
        try:
            file = module.read(path, "numbers")
            content = module.checked_content(file, "numbers", "numbers")
        except FileFormatError as error:
            assert str(path) in str(error)
            seen += 1
            continue
        assert content == want[0], "other content was read"
        for name, array in want[1].items():
            np.testing.assert_array_equal(file.arrays[name], array, err_msg="other arrays were read")
    assert seen > 350


def test_damage_is_seen(tmp_path: Path) -> None:
    check_damage(array_file, tmp_path)


def test_a_digest_is_needed(tmp_path: Path) -> None:
    path = written(tmp_path / "x")
    for digest in (None, "", "0" * 64, 3, [], {}):
        file = array_file.read(path, "numbers")
        content = {**json.loads(file.metadata[array_file.ENTRY]), "digest": digest}
        with pytest.raises(FileFormatError, match=r"x: digest: expected .*; it is damaged: use a copy"):
            metadata = {array_file.ENTRY: json.dumps(content)}
            array_file.checked_content(file._replace(metadata=metadata), "numbers", "numbers")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", "other numbers", "expected numbers, got a safetensors file of another kind"),
        ("format_version", 3, "format_version: expected format 2 or earlier, got 3; .* another version"),
        ("format_version", 1, "format_version: expected format 2"),
        ("format_version", True, "format_version: expected format 2"),
        ("format_version", "2", "format_version: expected format 2"),
        ("format_version", 2.0, "format_version: expected format 2"),
        ("version", 3, "version: expected a text, got 3"),
        ("version", None, "version: expected a text, got None"),
    ],
)
def test_other_formats_are_refused(name: str, value: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x")
    forge(path, lambda content, arrays: content.update({name: value}))
    with pytest.raises(FileFormatError, match=message):
        loaded(path)


def test_what_cannot_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(TypeError, match=r"a: expected float32, float64, int32, int64 or uint8 numbers .* got float16"):
        array_file.write(path, "numbers", {}, {"a": np.zeros(2, np.float16)})
    with pytest.raises(TypeError, match=r"a: expected .* of at most 8 axes, got float64 of 9"):
        array_file.write(path, "numbers", {}, {"a": np.zeros((1,) * 9)})
    with pytest.raises(ValueError, match="Out of range"):
        array_file.write(path, "numbers", {"a": float("nan")}, {})
    with pytest.raises(ValueError, match="content: expected what is said in 4000000 bytes"):
        array_file.write(path, "numbers", {"a": "x" * 4_000_000}, {})
    assert not path.exists()


# ---- headers that lie ----------------------------------------------------------------------------------------------


def with_header(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


EIGHT = b"\0" * 8
LIES: list[tuple[str, Callable[[], bytes], str]] = [
    ("nothing", lambda: b"", "a header of at most 0 bytes"),
    ("seven bytes", lambda: b"\0" * 7, "a header of at most 0 bytes"),
    ("no header", lambda: with_header(b""), "header: expected|header in JSON"),
    ("all of memory", lambda: with_header(one(), EIGHT, 2**64 - 1), "a header of at most"),
    ("a long header", lambda: with_header(b" " * 5_000_000), "a header of at most 4000000 bytes, got 5000000"),
    ("brackets", lambda: with_header(b"[" * 3_000_000), "header: expected .*(levels|values)"),
    ("lists", lambda: with_header(b"[" + b"[]," * 100_000 + b"[]]"), "header: expected .*"),
    ("no text", lambda: with_header(b"\xff\xfe{}"), "a header that is no text"),
    ("no object", lambda: with_header([1]), "header: expected a JSON object"),
    ("digits", lambda: with_header(b'{"a":' + b"1" * 9999 + b"}"), "header: expected"),
    ("no entry", lambda: with_header({"a": 3}), "a: expected dtype, shape and data_offsets, got 3"),
    ("one more", lambda: with_header(one(more=1), EIGHT), "a: expected dtype, shape and data_offsets"),
    ("a dtype", lambda: with_header(one(dtype="F16", data_offsets=[0, 4]), b"1234"), "a: expected numbers of F32, "),
    ("a list for it", lambda: with_header(one(dtype=["F32"]), EIGHT), "a: expected numbers of F32"),
    ("a huge shape", lambda: with_header(one(shape=[10**12]), EIGHT), "a: expected the begin and end"),
    (
        "huge and empty",
        lambda: with_header(one(shape=[10**14, 0, 10**14], data_offsets=[0, 0])),
        "expected arrays of the shapes",
    ),
    ("huger", lambda: with_header(one(shape=[10**100]), EIGHT), "a: expected a shape"),
    ("many axes", lambda: with_header(one(shape=[1] * 9, data_offsets=[0, 4]), b"1234"), "a: expected a shape"),
    ("negative", lambda: with_header(one(shape=[-1, -2]), EIGHT), "a: expected a shape"),
    ("a bool", lambda: with_header(one(shape=[2, True]), EIGHT), "a: expected a shape"),
    ("half", lambda: with_header(one(shape=[2.0]), EIGHT), "a: expected a shape"),
    ("a text", lambda: with_header(one(shape="2"), EIGHT), "a: expected a shape"),
    ("offsets", lambda: with_header(one(data_offsets=[8, 0]), EIGHT), "a: expected the begin and end"),
    ("one offset", lambda: with_header(one(data_offsets=[8]), EIGHT), "a: expected the begin and end"),
    ("behind the end", lambda: with_header(one(data_offsets=[8, 16]), EIGHT), "a: expected an array that begins at 0"),
    ("too much", lambda: with_header(one(), EIGHT * 2), "with 8 bytes of arrays, got 16"),
    ("too little", lambda: with_header(one(), b""), "with 8 bytes of arrays, got 0"),
    ("twice", lambda: with_header({**one(), "b": one()["a"]}, EIGHT), "b: expected an array that begins at 8, got one"),
    ("no texts", lambda: with_header({"__metadata__": {"a": 1}}), "__metadata__: expected texts by name"),
    ("no metadata", lambda: with_header({"__metadata__": []}), "__metadata__: expected texts by name"),
]


@pytest.mark.parametrize(("name", "raw", "message"), LIES, ids=[lie[0] for lie in LIES])
def test_a_header_that_lies_is_refused(name: str, raw: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw())
    began = time.process_time()
    with pytest.raises(FileFormatError, match=message):
        loaded(path)
    assert time.process_time() - began < 3
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError):
            loaded(path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_a_file_of_holes_is_refused(tmp_path: Path) -> None:
    """Hundred terabytes that take no room on the disk."""
    path = tmp_path / "x"
    count = 25 * 10**12
    path.write_bytes(with_header(one(shape=[count], data_offsets=[0, 4 * count])))
    try:
        os.truncate(path, path.stat().st_size + 4 * count)
    except OSError:
        os.truncate(path, path.stat().st_size + 8)  # this file system has no such files
    with pytest.raises(FileFormatError, match=r"fits into memory, got one of 10|bytes of arrays, got 8"):
        array_file.read(path, "numbers")


@pytest.mark.parametrize("entry", ["", "3", "[", "[" * 100, '{"format": NaN}', "null", '{"format":"numbers"}'])
def test_an_entry_that_is_none_is_refused(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(save({}, {array_file.ENTRY: entry}))
    with pytest.raises(FileFormatError):
        loaded(path)


BUGS = [
    (
        "the arrays are not in it",
        '"arrays": file.arrays}, stated',
        '"arrays": {}}, digest({"content": content, "arrays": {}})',
        "other",
    ),
    ("no check", "check_digest(file.path", "(lambda *content, to_do: None)(file.path", "other"),
]


@pytest.mark.parametrize(("name", "old", "new", "says"), BUGS, ids=[bug[0] for bug in BUGS])
def test_planted_bugs_are_caught(name: str, old: str, new: str, says: str, tmp_path: Path) -> None:
    with planted(array_file.__name__, old, new) as module, caught(says):
        check_damage(module, tmp_path)
