"""What was read from a file as a declared type: a dataclass, or the hints of one, checked all the way down.

    checked(list[Finite], [1.0, "x"], path, "values")     FileFormatError: FILE: values[1]: expected a number, got x

A hint is bool, int, float, str, a dataclass, list, dict (of words to values), one of these or None, or `Annotated`
with a `Rule`. Inside another one, a dataclass need not have the entries whose default is None: files of before do not.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar

from hetsyn_plugins.core.file_format import FileFormatError

LARGEST, LARGEST_WHOLE = 1e100, 1 << 63  # numbers beyond cannot be meant, and their squares are infinite
LONGEST_WORD = 200  # characters
WORDS = {
    bool: "true or false",
    int: "a whole number of 64 bits",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}

Content = TypeVar("Content")


class Rule(NamedTuple):
    """What a value must be beside its type, in words, and whether it is."""

    expected: str
    holds: Callable[[Any], bool]


Finite = Annotated[float, Rule("a finite number", math.isfinite)]
Count = Annotated[int, Rule("a whole number from 0", lambda number: number >= 0)]
Word = Annotated[
    str,
    Rule(f"a word of up to {LONGEST_WORD} characters", lambda text: len(text) <= LONGEST_WORD and text.isprintable()),
]


def parse(
    kind: type[Content], content: Any, path: Path, *, needed: Iterable[str] | None = None, field: str = ""
) -> Content:
    """An object of a file as a dataclass; keys that it does not know are left out.

    needed   the entries that must be there; of the others those that are missing are None. None: all
    field    where in the file the object is

    Raises FileFormatError, naming the entry, where a needed one is missing or any is not of its type.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    needed = set(hints if needed is None else needed)
    content = _of_kind(dict, content, path, field)
    values: dict[str, Any] = dict.fromkeys(hints)
    for name, hint in hints.items():
        where = f"{field}.{name}" if field else name
        if name in content:
            values[name] = checked(hint, content[name], path, where)
        elif name in needed:
            raise FileFormatError(path, _words(hint), "nothing", field=where)
    return kind(**values)


def checked(hint: Any, value: Any, path: Path, field: str) -> Any:
    """The value, if it is what the hint declares; FileFormatError otherwise."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = checked(parts[0], value, path, field)
        for rule in parts[1:]:
            if not rule.holds(value):
                raise FileFormatError(path, rule.expected, value, field=field)
        return value
    if origin in (UnionType, typing.Union):  # of a type and None
        return None if value is None else checked(_other_than_none(parts), value, path, field)
    if is_dataclass(hint):
        needed = [entry.name for entry in fields(hint) if entry.default is not None]
        return parse(typing.cast(type, hint), value, path, needed=needed, field=field)
    value = _of_kind(origin or hint, value, path, field)
    if origin is list:
        return [checked(parts[0], entry, path, f"{field}[{index}]") for index, entry in enumerate(value)]
    if origin is dict:
        keys = (checked(Word, key, path, f"{field}: key") for key in value)
        return {key: checked(parts[1], value[key], path, f"{field}.{key}") for key in keys}
    return value


def _of_kind(kind: type, value: Any, path: Path, field: str) -> Any:
    """The value, if it is of this type as JSON has it, and can be meant."""
    kinds = (int, float) if kind is float else (kind,)
    right = isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))
    if not right or not _sensible(value):
        raise FileFormatError(path, WORDS[kind], value, field=field)
    return value


def _sensible(value: Any) -> bool:
    """No number beyond what can be meant."""
    if isinstance(value, int):
        return -LARGEST_WHOLE <= value < LARGEST_WHOLE
    if isinstance(value, float):
        return not math.isfinite(value) or abs(value) < LARGEST
    return True


def _other_than_none(parts: tuple[Any, ...]) -> Any:
    return next(part for part in parts if part is not NoneType)


def _words(hint: Any) -> str:
    """What is expected, where nothing is there."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (UnionType, typing.Union):
        return f"{_words(_other_than_none(parts))} or null"
    if origin is Annotated:
        return str(parts[1].expected)
    return WORDS[dict if is_dataclass(hint) else origin or hint]
