"""Writing a file so that it is never half there: checkpoints, results and chip files use this."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
