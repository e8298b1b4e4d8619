"""What is read from a file as a declared type: what passes, and what is named."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hetsyn_plugins.core.declared import LONGEST_WORD, Count, Finite, Word, checked, parse
from hetsyn_plugins.core.file_format import FileFormatError

FILE = Path("result.json")


@dataclass
class Inner:
    values: list[Finite]
    note: str | None = None


@dataclass
class Outer:
    name: Word
    inner: Inner
    counts: dict[str, Count]
    share: float


CONTENT = {"name": "a", "inner": {"values": [1, 2.5]}, "counts": {"of": 3}, "share": math.inf, "unknown": 1}


def test_what_is_declared_comes_back() -> None:
    assert parse(Outer, CONTENT, FILE) == Outer("a", Inner([1, 2.5]), {"of": 3}, math.inf)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (float, math.nan), (float, -math.inf), (float, 3), (float, -9e99), (int, -(1 << 63)), (int, (1 << 63) - 1),
        (bool, False), (str | None, None), (Word, "w" * LONGEST_WORD), (Count, 0),
    ],
)  # fmt: skip
def test_ends_are_inside(hint: Any, value: Any) -> None:
    assert checked(hint, value, FILE, "x") is value


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (float, 1e100, "a number"), (float, -1e200, "a number"), (float, True, "a number"), (float, "1", "a number"),
        (Finite, math.nan, "a finite number"), (Count, -1, "a whole number from 0"), (Count, 1.0, "a whole number of"),
        (int, 1 << 63, "a whole number of 64 bits"), (int, -(1 << 63) - 1, "a whole number of 64 bits"),
        (Word, "w" * (LONGEST_WORD + 1), "a word of up to"), (Word, "a\nb", "a word of up to"), (bool, 1, "true or"),
    ],
)  # fmt: skip
def test_what_is_none_of_it_is_named(hint: Any, value: Any, expected: str) -> None:
    with pytest.raises(FileFormatError, match=f"result.json: x: expected {expected}"):
        checked(hint, value, FILE, "x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"share": None}, "share: expected a number, got null|share: expected a number, got None"),
        ({"inner": {"values": [1, "x"]}}, r"inner.values\[1\]: expected a number, got"),
        ({"inner": {"note": "n"}}, "inner.values: expected a list, got nothing"),
        ({"counts": {"of": -1}}, "counts.of: expected a whole number from 0, got -1"),
        ({"counts": {"a\n": 1}}, "counts: key: expected a word of up to"),
    ],
)
def test_the_entry_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FileFormatError, match=says):
        parse(Outer, {**CONTENT, **change}, FILE)
    with pytest.raises(FileFormatError, match="counts: expected an object, got nothing"):
        parse(Outer, {name: value for name, value in CONTENT.items() if name != "counts"}, FILE)
