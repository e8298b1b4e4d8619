"""Damage to texts that hold trees of values: JSON and TOML, as files or inside of other files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from fuzzing.cases import MARKUP, Kind

DEEP = 100_000
Path = tuple[Any, ...]


class Raw(str):
    """A value that is written as it stands, without quotes."""


class Text(NamedTuple):
    """A text with a tree in it, in a file: how it is taken out, put back, read and written."""

    name: str
    extract: Callable[[bytes], str]
    implant: Callable[[bytes, str], bytes]
    loads: Callable[[str], Any]
    dumps: Callable[[Any], str]
    raw: Sequence[str]  # what stands for a value and cannot be told by Python's json
    comment: str


# what takes the place of a value: one of each type, and what is next to being right
OTHERS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 0.5, -1.5, 2.0, 1e308, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), "", "x", "0",
    "1.0", "nan", " ", "a\nb", "a\tb\x1b[31m", "\x00", "é", "\u202e", "\U0001f600", MARKUP, "../canary.png",
    "../canary.txt", "/etc/passwd", "..", ".", "/", "C:\\x", "{{ 7*7 }}", "%s%n", "x" * 300, [], [[]], [None], [1, "a"],
    {}, {"a": 1}, {"": {}}, [0] * 1000,
)  # fmt: skip
JSON_RAW = (
    "NaN", "Infinity", "-Infinity", "-0", "-0.0", "1e400", "-1e400", "1e-400", "1" + "0" * 400, "9" * 5000, "0x10",
    "1_0", "+1", ".5", "01", '"\\ud800"', '"\\ud800\\udc00"', '"\\u0000"', "'x'", "", "nul", "[1,]", '{"a":1,}', '"a',
    "\ufeff1",
)  # fmt: skip
TOML_RAW = (
    "nan", "-nan", "inf", "-inf", "-0", "-0.0", "1e400", "1" + "0" * 400, "9" * 5000, "0x10", "0b1", "1_0", "+1", ".5",
    "01", '"\\ud800"', '"\\u0000"', "'x'", "", "nul", "[1,]", "{a = 1}", '"a', "1979-05-27", "07:32:00",
    "1979-05-27T07:32:00Z", '"""a\nb"""', "true", "[true]", "[[1]]", "[1, 2.5]",
)  # fmt: skip


def places(tree: Any, path: Path = ()) -> Iterator[Path]:
    """The paths to all values below the top, but for digests."""
    for key, value in _items(tree):
        if not is_digest(key):
            yield (*path, key)
            yield from places(value, (*path, key))


def _items(tree: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(tree, dict):
        return tree.items()
    return enumerate(tree) if isinstance(tree, list) else ()


def is_digest(key: Any) -> bool:
    """It names what a file vouches with."""
    return isinstance(key, str) and ("digest" in key.lower() or "sha256" in key.lower())


def without_digest(tree: Any) -> Any:
    """The tree as if there had never been a digest."""
    if isinstance(tree, dict):
        return {key: without_digest(value) for key, value in tree.items() if not is_digest(key)}
    return [without_digest(value) for value in tree] if isinstance(tree, list) else tree


def digests(tree: Any, path: Path = ()) -> Iterator[Path]:
    """The paths to all digests."""
    for key, value in _items(tree):
        if is_digest(key):
            yield (*path, key)
        yield from digests(value, (*path, key))


def at(tree: Any, path: Path) -> Any:
    """The value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def put(tree: Any, path: Path, value: Any) -> Any:
    """A copy of the tree with another value there."""
    tree = copy.deepcopy(tree)
    at(tree, path[:-1])[path[-1]] = value
    return tree


def a_bit_off(rng: Random, value: Any) -> Any:
    """Nearly the same value, of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1))
    if isinstance(value, float):
        return value * (1 + 2**-40) if value else 5e-324
    return f"{value[:-1]}_" if isinstance(value, str) else value


def kinds(text: Text) -> list[Kind]:
    """Damage to the values and to the text itself."""

    def of_tree(name: str, change: Callable[[Random, Any], Any], unsigned: bool = False) -> Kind:
        def make(rng: Random, data: bytes, other: bytes) -> bytes:
            tree = change(rng, text.loads(text.extract(data)))
            return text.implant(data, text.dumps(tree))

        return Kind(f"{text.name}: {name}", make, unsigned)

    def of_text(name: str, change: Callable[[Random, str], str]) -> Kind:
        def make(rng: Random, data: bytes, other: bytes) -> bytes:
            return text.implant(data, change(rng, text.extract(data)))

        return Kind(f"{text.name}: {name}", make)

    return [
        of_tree("another type", lambda rng, tree: put(tree, _leaf(rng, tree), rng.choice(OTHERS))),
        of_tree("another type in place of a branch", lambda rng, tree: put(tree, _any(rng, tree), rng.choice(OTHERS))),
        of_tree("odd literal", lambda rng, tree: put(tree, _leaf(rng, tree), Raw(rng.choice(text.raw)))),
        of_tree("value a bit off", _one_off),
        of_tree("digest away", lambda rng, tree: without_digest(tree), unsigned=True),
        of_tree("digest away and a value off", lambda rng, tree: _one_off(rng, without_digest(tree)), unsigned=True),
        of_tree("digest damaged", _damaged_digest),
        of_tree("key missing", _without_one),
        of_tree("key renamed", _renamed),
        of_tree("key more", lambda rng, tree: {**tree, rng.choice(("", "x", "__class__")): rng.choice(OTHERS)}
                if isinstance(tree, dict) else [*tree, rng.choice(OTHERS)]),
        of_tree("list shorter, longer or turned", _other_list),
        of_tree("nested deep", lambda rng, tree: put(tree, _any(rng, tree), Raw(_deep(rng)))),
        of_tree("huge string", lambda rng, tree: put(tree, _any(rng, tree), "y" * 10_000_000)),
        of_tree("huge list", lambda rng, tree: put(tree, _any(rng, tree), Raw(f"[{'0,' * 2_000_000}0]"))),
        of_tree("keys in another order", _shuffled),
        of_tree("another thing at the top", lambda rng, tree: Raw(rng.choice(("[]", "null", "1", '""', "{}")))),
        of_text("key twice", _key_twice),
        of_text("comment", lambda rng, old: f"{text.comment} x\n{old}"),
        of_text("text after the end", lambda rng, old: old + rng.choice(("x", "{}", "\x00", "]", "\n[x]\n"))),
        of_text("NUL inside", lambda rng, old: _inserted(rng, old, "\x00")),
        of_text("half a character inside", lambda rng, old: _inserted(rng, old, "\ud800")),
        of_text("BOM", lambda rng, old: "\ufeff" + old),
    ]  # fmt: skip


def encodings(text: Text) -> list[Kind]:
    """Damage to how a text file is encoded."""

    def coded(name: str) -> Kind:
        def make(rng: Random, data: bytes, other: bytes) -> bytes:
            return text.extract(data).replace("0", "é").encode(name)

        return Kind(f"{text.name}: {name}", make)

    return [coded("utf-16"), coded("latin-1"), coded("utf-32")]


def _leaf(rng: Random, tree: Any) -> Path:
    leaves = [path for path in places(tree) if not isinstance(at(tree, path), (dict, list))]
    return rng.choice(leaves or list(places(tree)))


def _any(rng: Random, tree: Any) -> Path:
    return rng.choice(list(places(tree)))


def _one_off(rng: Random, tree: Any) -> Any:
    path = _leaf(rng, tree)
    return put(tree, path, a_bit_off(rng, at(tree, path)))


def _damaged_digest(rng: Random, tree: Any) -> Any:
    """Another digest and, so that it shows, another value."""
    found = list(digests(tree))
    if found:
        tree = put(tree, rng.choice(found), rng.choice((None, "", 0, "0" * 64, [], Raw("NaN"))))
    return _one_off(rng, tree)


def _without_one(rng: Random, tree: Any) -> Any:
    *above, key = _any(rng, tree)
    tree = copy.deepcopy(tree)
    del at(tree, tuple(above))[key]
    return tree


def _renamed(rng: Random, tree: Any) -> Any:
    """A key has another name, which may be that of the digest."""
    branches = [path for path in ((), *places(tree)) if isinstance(at(tree, path), dict) and at(tree, path)]
    if not branches:
        return tree
    tree = copy.deepcopy(tree)
    branch = at(tree, rng.choice(branches))
    key = rng.choice(list(branch))
    branch[rng.choice((f"{key}_", key.upper(), key[:-1], f" {key}"))] = branch.pop(key)
    return tree


def _other_list(rng: Random, tree: Any) -> Any:
    lists = [path for path in places(tree) if isinstance(at(tree, path), list)]
    if not lists:
        return _without_one(rng, tree)
    path = rng.choice(lists)
    old = at(tree, path)
    return put(tree, path, rng.choice((old[1:], old[:-1], old + old, old[::-1], [], old * 500)))


def _deep(rng: Random) -> str:
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ("{a=", "}")))
    depth = rng.choice((500, 2_000, DEEP))
    return opening * depth + "1" + closing * depth


def _shuffled(rng: Random, tree: Any) -> Any:
    """The same content in another order."""
    if isinstance(tree, dict):
        keys = list(tree)
        rng.shuffle(keys)
        return {key: _shuffled(rng, tree[key]) for key in keys}
    return [_shuffled(rng, value) for value in tree] if isinstance(tree, list) else tree


def _key_twice(rng: Random, old: str) -> str:
    """Some line with a key once more, with another value."""
    lines = old.split("\n")
    keyed = [index for index, line in enumerate(lines) if "=" in line or (":" in line and line.rstrip().endswith(","))]
    if not keyed:
        return old.replace("{", '{"name": 5, ', 1)
    index = rng.choice(keyed)
    sign = "=" if "=" in lines[index] else ":"
    key = lines[index].split(sign)[0]
    return "\n".join([*lines[:index], f"{key}{sign} 5{',' if sign == ':' else ''}", *lines[index:]])


def _inserted(rng: Random, old: str, new: str) -> str:
    index = rng.randrange(len(old) + 1)
    return old[:index] + new + old[index:]


# ---- JSON and TOML -----------------------------------------------------------------------------------------------


def json_dumps(tree: Any) -> str:
    """JSON as our writers indent it, with what is raw as it stands."""
    raws: dict[str, str] = {}

    def marked(value: Any) -> Any:
        if isinstance(value, Raw):
            mark = f"@raw{len(raws)}@"
            raws[mark] = value
            return mark
        if isinstance(value, dict):
            return {key: marked(entry) for key, entry in value.items()}
        return [marked(entry) for entry in value] if isinstance(value, list) else value

    written = json.dumps(marked(tree), indent=1)
    for mark, raw in raws.items():
        written = written.replace(f'"{mark}"', raw)
    return written + "\n"


def toml_dumps(tree: Any) -> str:
    """TOML, with what is raw as it stands."""
    if not isinstance(tree, dict):
        return f"{toml_value(tree)}\n"
    lines = [f"{_toml_key(key)} = {toml_value(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for table, entries in tree.items():
        if isinstance(entries, dict):
            lines += ["", f"[{_toml_key(table)}]"]
            lines += [f"{_toml_key(key)} = {toml_value(value)}" for key, value in entries.items()]
    return "\n".join(lines) + "\n"


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").isalnum() and key.isascii() else json.dumps(key)


def toml_value(value: Any) -> str:
    """One value of TOML."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {toml_value(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return '"none"' if value is None else json.dumps(value)


def _decode(data: bytes) -> str:
    return data.decode("utf-8")


def _replace(data: bytes, new: str) -> bytes:
    return new.encode("utf-8", "surrogatepass")


def _toml_loads(text: str) -> Any:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    return tomllib.loads(text)


def _middle_line(data: bytes) -> int:
    return data.count(b"\n") // 2


def _line(data: bytes) -> str:
    return data.split(b"\n")[_middle_line(data)].decode()


def _other_line(data: bytes, new: str) -> bytes:
    lines = data.split(b"\n")
    lines[_middle_line(data)] = _replace(b"", new).strip()
    return b"\n".join(lines)


JSON = Text("json", _decode, _replace, json.loads, json_dumps, JSON_RAW, "//")
JSON_LINE = Text("json line", _line, _other_line, json.loads, lambda t: json_dumps(t).replace("\n", ""), JSON_RAW, "//")
TOML = Text("toml", _decode, _replace, _toml_loads, toml_dumps, TOML_RAW, "#")
