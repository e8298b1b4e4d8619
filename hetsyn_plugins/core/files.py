"""Writing a file so that it is never half there: checkpoints, results and chip files use this; JSON with a digest."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hetsyn_plugins.core import bounded
from hetsyn_plugins.core.file_format import check_digest, digest

DIGEST, FORMAT = "digest", "file_format"  # entries of a JSON file beside its content
FORMAT_VERSION = 2  # the first with a digest


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place once it is whole and on the disk.

    Raises FileNotFoundError where the folder is missing, ValueError where the path is a folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: expected a file in a folder, got {path}, whose folder does not exist")
    if path.is_dir():
        raise ValueError(f"path: expected a file, got {path}, which is a folder")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with temporary.open("xb") as new:
        mode = os.stat(new.fileno()).st_mode  # as the umask has it: safetensors lets nobody else read
    try:
        yield temporary
        os.chmod(temporary, mode)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else holds this folder meanwhile; ValueError where another process does. It ends with the process."""
    try:
        import fcntl
    except ImportError:  # not a Unix: without a lock
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"folder: expected one that nobody else trains in, got {folder}, in use") from error
        yield
    finally:
        os.close(handle)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as a JSON file, whole or not at all, with a digest of its content."""
    plain = {**json.loads(json.dumps(content)), FORMAT: FORMAT_VERSION}  # as it will be read: tuples are lists
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**plain, DIGEST: digest(plain)}, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path, what: str, *, to_do: str) -> Any:
    """What `write_json` wrote, its digest checked and taken out; `to_do` is what mends a damaged file.

    Raises FileNotFoundError, or FileFormatError where the file is no such JSON or not as it was written; a file
    of before, without format and digest, is taken with a warning.
    """
    content = bounded.read_json(path, what)
    if isinstance(content, dict):
        stated = content.pop(DIGEST, None if FORMAT not in content else "none")
        check_digest(path, content, stated, to_do=to_do)
        content.pop(FORMAT, None)
    return content
