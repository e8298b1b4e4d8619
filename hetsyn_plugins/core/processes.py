"""Child processes that end with whoever started them, however that went, `kill -9` included.

The parent holds the one writing end of a pipe and writes nothing. When it is gone, the child's read comes to an end.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LIFELINE = "HETSYN_LIFELINE"  # in a child's environment: its end of the pipe
RANKED = ("RANK", "WORLD_SIZE")  # in the environment of processes that torchrun starts
PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when the thread that started it ends


@contextmanager
def lifeline() -> Iterator[dict[str, Any]]:
    """Options of `subprocess.Popen` for children that call `end_with_parent`: they end with this block, too.

    Where children cannot be handed a pipe (Windows) they outlive a parent that is killed.
    """
    if os.name != "posix":
        yield {"env": {**os.environ}}
        return
    reading, writing = os.pipe()
    try:
        yield {"pass_fds": (reading,), "env": {**os.environ, LIFELINE: str(reading)}}
    finally:
        os.close(writing)
        os.close(reading)


def end_with_parent(end: Callable[[], None] | None = None) -> None:
    """From now on this process is over, or `end` called, once the one that started it with a `lifeline` is gone."""
    reading = os.environ.pop(LIFELINE, None)  # not for children of this one
    if reading is None:
        return
    if end is None:
        killed_with_parent()  # at once, where an import holds up the thread below for seconds
    watch(lambda: os.read(int(reading), 1), end or (lambda: os._exit(1)))


def killed_with_parent() -> None:
    """From now on this process is killed when the one that started it ends, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def worker_ends_with_parent(worker: int) -> None:
    """The same in a worker that multiprocessing spawned, as `worker_init_fn` of a DataLoader."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    watch(parent.join, lambda: os._exit(1))


def watch(wait: Callable[[], Any], end: Callable[[], None]) -> None:
    """Call `end` when `wait` is over, in a thread that holds up nobody's exit."""

    def watching() -> None:
        wait()
        end()

    threading.Thread(target=watching, name="hetsyn_parent", daemon=True).start()


def is_rank() -> bool:
    """Was this process started, by torchrun for one, as one of several that are to work together?"""
    return all(name in os.environ for name in RANKED) and os.environ["WORLD_SIZE"] != "1"


def is_first() -> bool:
    """Is this process no rank, or the first one, which speaks for all?"""
    return not is_rank() or os.environ["RANK"] == "0"


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that are started within never hear Ctrl-C, which a terminal sends to all; this one does afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # not a Unix
        yield
        return
    multiprocessing.get_context("spawn").Lock()  # the first one starts multiprocessing's tracker, which undoes the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
