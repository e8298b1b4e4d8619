"""Reading within bounds: no file makes a reader take more memory or time than its own size can explain.

What a file unpacks to is bounded by UNPACKED_LEAST bytes or UNPACKED_TIMES its size, whichever is more; a text by its
length, its values and DEEPEST levels. All raise FileFormatError.
"""

from __future__ import annotations

import json
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hetsyn_plugins.core.file_format import FileFormatError, check_is_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

UNPACKED_LEAST, UNPACKED_TIMES = 64_000_000, 32  # bytes; times the file's size: spikes and images pack less well
LONGEST_JSON, LONGEST_TOML = 8_000_000, 200_000  # bytes: what a program writes, and what a person does
MOST_VALUES, DEEPEST = 500_000, 32  # in a JSON text: an object takes 40 times its text in memory; levels of nesting
MOST_GZIP_MEMBERS = 100
# what the zip module raises for damaged files, its own and others'
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    LookupError,
    ValueError,
    OverflowError,
)

# Texts (their ends may be missing) and comments of TOML: what is in them is neither key nor bracket
TOML_TEXTS = re.compile(
    r'''"""(?:\\.?|[^\\])*?(?:"""|\Z)|\'{3}.*?(?:\'{3}|\Z)|"(?:\\.|[^"\\\n])*"?|'[^'\n]*'?|\#[^\n]*''', re.DOTALL
)


def read_bytes(path: Path, longest: int, what: str) -> bytes:
    """The bytes of a file of at most `longest`; FileNotFoundError where it does not exist."""
    check_is_file(path, what)
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(min(size, longest) + 1)  # what the system makes up as it is read has no size
    if len(content) > longest:
        raise FileFormatError(path, f"{what} of at most {longest} bytes", f"{max(size, len(content))}")
    return content


def unpacked_limit(path: Path) -> int:
    """How many bytes the file may unpack to."""
    return max(UNPACKED_LEAST, UNPACKED_TIMES * path.stat().st_size)


# ---- texts ---------------------------------------------------------------------------------------------------------


def read_json(path: Path, what: str = "a JSON file") -> Any:
    """What a JSON file holds."""
    return parse_json(read_text(path, LONGEST_JSON, what), path, what)


def parse_json(text: str, path: Path, what: str = "JSON", field: str = "") -> Any:
    """What a JSON text of a file holds, at most MOST_VALUES values, nested at most DEEPEST levels."""
    if sum(map(text.count, ",[]{}")) > MOST_VALUES:  # before anything goes through them one by one
        raise FileFormatError(path, f"{what} of at most {MOST_VALUES} values", "more", field=field)
    _check_depth(_depths(text), path, what, field)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, what, f"what cannot be read: {error}", field=field) from error


def read_toml(path: Path, what: str = "a TOML file") -> dict[str, Any]:
    """What a TOML file holds."""
    return parse_toml(read_text(path, LONGEST_TOML, what), path, what)


def parse_toml(text: str, path: Path, what: str = "TOML") -> dict[str, Any]:
    """What a TOML text of a file holds, nested at most DEEPEST levels, dotted keys counted."""
    bare = TOML_TEXTS.sub("_", text)
    _check_depth(_depths(bare), path, what, "")
    dotted = re.sub(r"[ \t]+", "", bare)
    _check_depth((key.group().count(".") for key in re.finditer(r"[^\s\[\]{},=]+", dotted)), path, what, "")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of digits without end
        raise FileFormatError(path, what, f"what cannot be read: {error}") from error


def read_text(path: Path, longest: int, what: str) -> str:
    """The text of a file in UTF-8 of at most `longest` bytes."""
    try:
        return read_bytes(path, longest, what).decode()
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"{what} in UTF-8", f"other bytes: {error}") from error


def _depths(text: str) -> Iterator[int]:
    """How deep each bracket stands; those within texts of JSON count too, which are few."""
    depth = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth = depth + 1 if bracket.group() in "[{" else max(0, depth - 1)
        yield depth


def _check_depth(depths: Iterator[int], path: Path, what: str, field: str) -> None:
    if any(depth > DEEPEST for depth in depths):
        raise FileFormatError(path, f"{what} of at most {DEEPEST} levels", "one that is nested deeper", field=field)


# ---- packed --------------------------------------------------------------------------------------------------------


def gunzip(path: Path, packed: bytes, limit: int | None = None) -> bytes:
    """What gzipped bytes of a file unpack to, at most `limit` (None: `unpacked_limit`) bytes, member after member."""
    limit = unpacked_limit(path) if limit is None else limit
    parts: list[bytes] = []
    left = limit
    for _ in range(MOST_GZIP_MEMBERS):
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            parts.append(member.decompress(packed, left + 1))
        except zlib.error as error:
            raise FileFormatError(path, "a whole gzip file", f"one that does not unpack: {error}") from error
        left -= len(parts[-1])
        if left < 0:
            raise FileFormatError(path, f"what unpacks to at most {limit} bytes", "more", to_do="store it unpacked")
        if not member.eof:
            raise FileFormatError(path, "a whole gzip file", "one that is cut short")
        packed = member.unused_data.lstrip(b"\0")  # zeros may fill the end
        if not packed:
            return b"".join(parts)
    raise FileFormatError(path, f"at most {MOST_GZIP_MEMBERS} gzip members", "more")


def checked_members(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> zipfile.ZipFile:
    """A zip file, opened, of whose wanted members none unpacks beyond the limit, alone or together.

    What a member says of its own size may lie: read it by `read_member`.
    """
    try:
        file = zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        raise FileFormatError(path, "a whole zip file", f"one that cannot be read: {error}") from error
    members = [member for member in file.infolist() if wanted(member.filename)]
    total, limit = sum(member.file_size for member in members), unpacked_limit(path)
    if total > limit:
        file.close()
        got = f"{total} in {len(members)} members"
        raise FileFormatError(path, f"what unpacks to at most {limit} bytes", got, to_do="store it unpacked")
    return file


def read_member(file: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """The bytes of a member of a zip file, stored or deflated, no more than it says that it has."""
    try:
        entry = file.getinfo(name)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NotImplementedError("it is packed in another way than deflated")
        size = entry.file_size
        with file.open(entry) as member:
            content = member.read(size + 1)
    except ZIP_ERRORS as error:
        raise FileFormatError(path, "a whole member", f"one that does not unpack: {error}", field=name) from error
    if len(content) != size:
        raise FileFormatError(path, f"{size} bytes, as its entry says", "another number", field=name)
    return content
