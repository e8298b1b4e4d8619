"""Who holds a folder: by locks of the kernel, which end with their process, however that went (Unix)."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"  # in the folder that is held: the kernel's lock counts, its text only says whose it is

_held: set[int] = set()  # descriptors of this process


def _after_fork() -> None:
    """A child that kept them open would hold its parent's folders when the parent is gone."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):  # a Unix
    os.register_at_fork(after_in_child=_after_fork)


def take(handle: int, *, shared: bool = False) -> bool | None:
    """Lock an open file, `shared` with others that do: True; False where somebody holds it, None without such locks."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
    except BlockingIOError:
        return False
    except OSError:  # of a network's file system, for one
        return None
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else holds this folder meanwhile; ValueError, naming the process, where another one does.

    Where the file system has no locks a warning says so, and the work goes on.
    """
    handle, taken = _open(folder / LOCK)
    if taken is False:
        owner = os.read(handle, 200).decode(errors="replace")  # nothing was read or written before: from the start
        os.close(handle)
        by = f" by {owner}" if owner else ""
        raise ValueError(f"folder: expected one that nobody else trains in, got {folder}, in use{by}")
    if taken is None:
        what = "two processes that train there at once would spoil each other's files"
        warnings.warn(f"{folder}: its file system has no locks; {what}", stacklevel=4)
    _held.add(handle)
    try:
        with suppress(OSError):  # it is only words, and a full disk is told of where something is lost
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        if handle in _held:  # else this is a child, and the folder its parent's
            _held.remove(handle)
            with suppress(
                PermissionError
            ):  # of Windows, which removes no file that is open: it stays, empty of meaning
                (folder / LOCK).unlink(missing_ok=True)  # before it is let go: the next one makes another
            os.close(handle)


def _open(path: Path) -> tuple[int, bool | None]:
    """The open file of a lock, and what `take` said."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        taken = take(handle)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle, taken
        os.close(handle)  # its owner went, and took the file along
