"""Writing a file so that it is never half there: checkpoints, results and chip files use this; JSON with a digest."""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from hetsyn_plugins.core import bounded, locks
from hetsyn_plugins.core.file_format import LATER, FileFormatError, check_digest, digest, mended_by

DIGEST, FORMAT = "digest", "file_format"  # entries of a JSON file beside its content
FORMAT_VERSION = 2  # the first with a digest


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole and on the disk, or not at all: where that fails, what was there before stays.

    A device or a pipe has no before: it is written to. Raises OSError, with its errno and the path, where there is no
    room or no permission; FileNotFoundError where the folder is missing, ValueError where the path is a folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: expected a file in a folder, got {path}, whose folder does not exist")
    if path.is_dir():
        raise ValueError(f"path: expected a file, got {path}, which is a folder")
    with said_of(path, f"{len(content):,} bytes to write; what was there before stays"):
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    """Put a temporary file beside `path` in its place, once it is whole and on the disk."""
    clear(path.parent, path.name)
    temporary, file = _held(path)
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # it has taken its place, or the folder cannot be written
            temporary.unlink()


def _held(path: Path) -> tuple[Path, BinaryIO]:
    """A new temporary file beside `path`, held while it is open: one that nobody holds was left by somebody killed."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        file = temporary.open("xb")
        if locks.take(file.fileno(), shared=True) is not False and temporary.exists():
            return temporary, file
        file.close()  # taken for such a one before it was held


def clear(folder: Path, name: str = "") -> None:
    """Remove from a folder what writers that were killed left there: of the file `name`, or of all."""
    pattern = rf"\.{re.escape(name) or '.+'}\.[0-9a-f]{{16}}"
    with suppress(OSError):  # a folder that cannot be listed can be written to all the same
        for left in [entry for entry in folder.iterdir() if re.fullmatch(pattern, entry.name)]:
            with suppress(OSError), left.open("rb") as file:  # somebody else removes it, or it is no file
                if locks.take(file.fileno()):
                    left.unlink()


def make_folder(folder: Path, argument: str) -> None:
    """Make a folder, and see that files can be made in it; OSError, with its errno, names the argument that said it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        expected = f"{argument}: expected a folder to write to, got {folder}"
        raise OSError(error.errno, f"{expected}: {os.strerror(error.errno or 0)}") from error


def user_cache() -> Path:
    """hetsyn_plugins in $XDG_CACHE_HOME or ~/.cache. Raises OSError where this user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hetsyn_plugins")
    except RuntimeError as error:
        raise FileNotFoundError(f"{error} Set XDG_CACHE_HOME to a folder for what is kept between runs") from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all; OSError as `write_bytes`."""
    left = memoryview((line + "\n").encode())
    with said_of(path, "a line to add; what was there before stays"), open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[file.write(left) :]
        except BaseException:
            file.truncate(end)
            raise


@contextmanager
def said_of(path: Path, what: str) -> Iterator[None]:
    """OSError names this path, and what was to be done, with the errno that it had."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error} ({what})", str(path)) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as a JSON file, whole or not at all, with a digest of its content."""
    # as it will be read: tuples are lists; format first and digest last, so that no one gap takes both
    plain = {FORMAT: FORMAT_VERSION, **json.loads(json.dumps(content))}
    write_bytes(path, (json.dumps({**plain, DIGEST: digest(plain)}, indent=1) + "\n").encode())


def read_json(path: Path, what: str, *, to_do: str) -> Any:
    """What `write_json` wrote, its digest checked and taken out; `to_do` is what mends a damaged file.

    Raises FileNotFoundError, or FileFormatError where the file is no such JSON or not as it was written; a file
    of before, without format and digest, is taken with a warning.
    """
    with mended_by(to_do):
        content = bounded.read_json(path, what)
    if isinstance(content, dict):
        before = DIGEST not in content and FORMAT not in content
        stated = content.pop(DIGEST, "none")
        check_digest(path, content, None if before else str(stated), to_do=to_do)
        version = content.pop(FORMAT, FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise FileFormatError(path, f"{what} of format {FORMAT_VERSION}", version, field=FORMAT, to_do=LATER)
    return content
