"""The digest of a file's content and the one error of all readers, against damage of every value."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsyn_plugins.core import file_format, files
from hetsyn_plugins.core.file_format import FileFormatError, UncheckedFileWarning, digest

CONTENT: dict[str, Any] = {
    "names": ["a", "b"],
    "numbers": [1, 2.5, math.nan, math.inf, -0.0, 10**30],
    "nothing": None,
    "truth": True,
    "nested": {"x": {"y": []}, "z": {}},
}


# ---- the digest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (1, "1"),
        (0.0, -0.0),
        (None, "None"),
        ("", None),
        ([], {}),
        ([[1], 2], [[1, 2]]),
        (["ab", "c"], ["a", "bc"]),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"a": {"b": 1}}, {"a": {}, "b": 1}),
        ([1, []], [[], 1]),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(4), -np.zeros(4)),
        (np.float64(1), 1.0),
        (np.array(["ab", "c"]), np.array(["a", "bc"])),
    ],
)
def test_different_content_has_another_digest(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)


def test_the_order_of_entries_strides_and_bytes_do_not_count() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert digest({"a": 1, "b": array}) == digest({"b": np.asfortranarray(array), "a": 1})
    assert digest(array) == digest(array.astype(">f8"))
    assert digest((1, "x")) == digest([1, "x"])


def test_every_bit_of_an_array_counts() -> None:
    array = np.arange(3, dtype=np.float32)
    plain = digest(array)
    for bit in range(8 * array.nbytes):
        raw = bytearray(array.tobytes())
        raw[bit // 8] ^= 1 << bit % 8
        assert digest(np.frombuffer(bytes(raw), np.float32)) != plain


def test_the_digest_is_the_same_in_every_process() -> None:
    code = f"from math import nan, inf\nfrom hetsyn_plugins.core.file_format import digest\nprint(digest({CONTENT!r}))"
    for seed in ("1", "2"):
        run = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True)
        assert run.stdout.strip() == digest(CONTENT), run.stderr


def test_content_nested_without_end_has_a_digest() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert len(digest(deep)) == 64


def test_what_is_no_content_is_refused() -> None:
    with pytest.raises(TypeError, match="content: expected arrays, numbers and texts, got set"):
        digest({"a": {1, 2}})


# ---- the error -----------------------------------------------------------------------------------------------------


def test_the_error_names_file_field_expected_and_what_came_in_one_line() -> None:
    error = FileFormatError(
        "runs/x.json", "a number", "two\nlines \ud800 \x07", field="rows[0].ours", to_do="delete it"
    )
    message = str(error)
    assert message == "runs/x.json: rows[0].ours: expected a number, got two\\nlines \\ud800 \\x07; delete it"
    assert isinstance(error, ValueError)
    assert (error.path, error.field, error.expected) == (Path("runs/x.json"), "rows[0].ours", "a number")


def test_what_mends_a_file_is_said_once() -> None:
    for own, said in (("", "copy it anew"), ("train again", "train again")):
        with pytest.raises(FileFormatError) as error, file_format.mended_by("copy it anew"):
            raise FileFormatError(Path("a.json"), "a number", "x", field="b", to_do=own)
        assert error.value.to_do == said
        assert str(error.value) == f"a.json: b: expected a number, got x; {said}"


def test_the_error_is_as_long_as_a_line_whatever_came() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for got in ("x" * 10**6, list(range(10**5)), deep):
        assert len(str(FileFormatError("x", "a number", got))) < 300


def test_the_error_goes_from_process_to_process() -> None:
    error = FileFormatError("x", "a number", "none", field="a.b", to_do="c")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.field, back.path) == (FileFormatError, str(error), "a.b", Path("x"))


# ---- JSON files that vouch for themselves --------------------------------------------------------------------------


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, CONTENT)
    assert repr(files.read_json(path, "a thing", to_do="")) == repr(CONTENT)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["names"].reverse(),
        lambda content: content["numbers"].pop(),
        lambda content: content.update(truth=1),
        lambda content: content.update(more=0),
        lambda content: content.pop("nothing"),
        lambda content: content.update(digest="0" * 64),
        lambda content: content.update(digest=0),
        lambda content: content.pop("digest"),
        lambda content: content.update(file_format=3),
    ],
)
def test_a_changed_json_file_is_refused(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, CONTENT)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=r"x\.json: digest: expected the content .*; delete it"):
        files.read_json(path, "a thing", to_do="delete it")


def test_a_json_file_of_before_is_read_and_said_to_be_unchecked(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(CONTENT))
    with pytest.warns(UncheckedFileWarning, match=r"x\.json: written before files carried a digest"):
        assert repr(files.read_json(path, "a thing", to_do="")) == repr(CONTENT)
