"""What every reader of a file shares: one error, and the digest by which a file vouches for what it holds.

    read      FileFormatError where the file is not what it should be: damaged, of another kind, of a later version
    write     the digest of the content goes into the file beside it
    load      check_digest: the digest of what was read is the one that stands there

The digest is over the values (names, types, shapes, numbers, texts), not over the bytes of the container: two files of
the same content have the same one, in whatever order a library writes the entries.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

LONGEST = 200  # characters of a value that a message shows
LATER = "it is of another version of hetsyn_plugins: read it with that one"
SAID = re.compile(r"(?:(?P<name>.*?): )?expected (?P<expected>.*?), got (?P<got>.*)", re.DOTALL)  # by a check


class FileFormatError(ValueError):
    """A file does not hold what it should; the message is "FILE: FIELD: expected X, got Y; what to do".

    path       the file
    expected   what should be there
    got        what is there, in words or as it is
    field      where in the file; "": the file as a whole
    to_do      what mends it
    """

    def __init__(self, path: str | Path, expected: str, got: Any, *, field: str = "", to_do: str = "") -> None:
        where = f"{path}: {field}: " if field else f"{path}: "
        message = f"{where}expected {expected}, got {shown(got)}{to_do and f'; {to_do}'}"
        super().__init__(_printable(message))
        self.path, self.field, self.expected, self.got, self.to_do = Path(path), field, expected, got, to_do

    def __reduce__(self) -> Any:
        """As pickle makes it again: exceptions go from process to process."""
        return _again, (self.args[0], self.path, self.field, self.expected, shown(self.got), self.to_do)


def from_check(path: str | Path, error: Exception, *, field: str = "", to_do: str = "") -> FileFormatError:
    """What a check said of a value, "name: expected X, got Y", as the error of the file that the value came from.

    field   where in the file the value stands; its name is put behind
    """
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)  # which quotes its text
    said = SAID.fullmatch(text)
    if said is None:
        return FileFormatError(path, "values that can be used", text, field=field, to_do=to_do)
    where = ": ".join(filter(None, (field, said["name"])))
    return FileFormatError(path, said["expected"], said["got"], field=where, to_do=to_do)


def check_is_file(path: Path, what: str) -> None:
    """Raise FileNotFoundError where nothing is there, FileFormatError where it is a folder, a device or a pipe."""
    if not path.exists():
        raise FileNotFoundError(f"path: expected {what}, got {path}, which does not exist")
    if not path.is_file():
        raise FileFormatError(path, what, "what is no file")


class UncheckedFileWarning(UserWarning):
    """A file of before files carried a digest: it is read, and damage to its values would not be seen."""


def _again(message: str, path: Path, field: str, expected: str, got: str, to_do: str) -> FileFormatError:
    error = FileFormatError(path, expected, got, field=field, to_do=to_do)
    error.args = (message,)
    return error


@contextmanager
def mended_by(to_do: str) -> Iterator[None]:
    """A FileFormatError from within says what mends the file, where it does not say so yet."""
    try:
        yield
    except FileFormatError as error:
        if not error.to_do:
            error.to_do, error.args = to_do, (f"{error.args[0]}; {to_do}",)
        raise


def shown(value: Any) -> str:
    """A value as a message shows it: words as they are, anything else by its repr, neither without end."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deep to be shown"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"


def _printable(text: str) -> str:
    """Without what no terminal shows: half characters of a damaged file, line ends, control characters."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# ---- the digest ----------------------------------------------------------------------------------------------------


def digest(content: Any) -> str:
    """SHA-256, in hexadecimal, of arrays, numbers, texts, None, and dicts, lists and tuples of them.

    The same on every machine: arrays count as little-endian bytes with their dtype and shape, entries of a dict in the
    order of their keys; a tuple counts as a list. Raises TypeError for anything else.
    """
    sha = hashlib.sha256()
    waiting = [content]  # a stack, not recursion: a damaged file may nest without end
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            keys = sorted(value, key=lambda key: (type(key).__name__, key))
            sha.update(b"dict %d " % len(keys))
            waiting += [part for key in reversed(keys) for part in (value[key], key)]
        elif isinstance(value, (list, tuple)):
            sha.update(b"list %d " % len(value))
            waiting += reversed(value)
        else:
            _feed(sha, value)
    return sha.hexdigest()


def _feed(sha: Any, value: Any) -> None:
    """Add one value that holds no others, such that no other value adds the same bytes."""
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        array = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        sha.update(f"array {array.dtype.str} {array.shape} ".encode())
        sha.update(array.reshape(-1).view(np.uint8))  # not a copy: arrays may be large
    elif value is None or isinstance(value, (bool, int, float, str)):
        # not the repr of a text: which characters it escapes changes with the version of Python
        text = (value if isinstance(value, str) else repr(value)).encode("utf-8", "surrogatepass")
        sha.update(b"%s %d " % (type(value).__name__.encode(), len(text)))
        sha.update(text)
    else:
        raise TypeError(f"content: expected arrays, numbers and texts, got {type(value).__name__}")


def check_digest(path: str | Path, content: Any, stated: Any, *, to_do: str) -> None:
    """Raise FileFormatError where the content read from a file is not what its digest states.

    stated   what stands in the file; None: a file of before, for which an UncheckedFileWarning says so
    to_do    what the user should do about a damaged one
    """
    if stated is None:
        _tell_unchecked([str(path)])
        return
    found = digest(content)
    if stated != found:
        expected = f"the content that it was written with (digest {shown(stated)[:16]})"
        raise FileFormatError(path, expected, f"other values (digest {found[:16]})", field="digest", to_do=to_do)


# ---- files of before -----------------------------------------------------------------------------------------------

_unchecked: ContextVar[list[str] | None] = ContextVar("_unchecked", default=None)


@contextmanager
def unchecked_told_once() -> Iterator[None]:
    """Files of before that are read within are told of in one warning at the end, not each in one of its own."""
    paths: list[str] = []
    token = _unchecked.set(paths)
    try:
        yield
    finally:
        _unchecked.reset(token)
    if paths:
        _tell_unchecked(list(dict.fromkeys(paths)))


def _tell_unchecked(paths: list[str]) -> None:
    waiting = _unchecked.get()
    if waiting is not None:
        waiting += paths
        return
    which = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    what = "written before files carried a digest: damage to the values could not be seen"
    warnings.warn(f"{which}: {what}", UncheckedFileWarning, stacklevel=5)
