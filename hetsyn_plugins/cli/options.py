"""Checks that options of several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def check_known(option: str, names: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raise ValueError where a name is none of those that are known."""
    for name in names or []:
        if name not in known:
            raise ValueError(f"{option}: expected one of {', '.join(known)}, got {name!r}")


def check_file_to_write(option: str, path: Path | None) -> None:
    """Raise ValueError, before the work, where a file could not be written for want of its folder."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        what = "a folder" if path.is_dir() else "none"
        raise ValueError(f"{option}: expected a file in a folder that is there, got {path}, {what}")
