"""Kernels over several threads: torch's own where it has GNU's OpenMP (Linux), else ordinary Python threads.

After each piece of work torch's threads spin for some milliseconds, waiting for the next. Threads of ours beside them
would share their cores with that; so the same threads are asked. The kernels release the GIL, so a thread holds it only
to fetch its next piece. `torch.get_num_threads()` says how many; any thread may call.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

PIECES = 4  # a thread: enough to balance, few enough that starting one (some microseconds) does not show
BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_pools: dict[int, ThreadPoolExecutor] = {}
_parallel_in: set[int] = set()  # processes, by id, whose torch has threads running
_forked = False


def _after_fork() -> None:
    """A parent's threads do not exist in its child."""
    global _forked
    _forked = True
    _pools.clear()


if hasattr(os, "register_at_fork"):  # a Unix
    os.register_at_fork(after_in_child=_after_fork)


def parallel(kernel: Callable[..., None], units: int, *arguments: Any) -> None:
    """Run a kernel over its units on torch's number of threads, this one included.

    The units are cut into more pieces than threads, and a thread takes the next piece when it has done one: a core that
    is busy elsewhere then does fewer.
    """
    threads = max(1, min(torch.get_num_threads(), units))
    if threads == 1:
        kernel(*arguments, 0, units)
        return
    _parallel_in.add(os.getpid())
    pieces = min(units, PIECES * threads)
    remaining = iter([(units * i // pieces, units * (i + 1) // pieces) for i in range(pieces)])

    def work() -> None:
        for first, last in remaining:  # a list's iterator hands out each item once, to whichever thread asks
            kernel(*arguments, first, last)

    openmp = None if _forked else _openmp()
    if openmp is None:
        _on_python_threads(work, threads)
    else:
        _on_openmp(openmp, work, threads)


@functools.cache
def _openmp() -> Any:
    """GOMP_parallel of the library that torch has loaded; None where torch has none of that kind."""
    try:
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line}
        (library,) = [name for name in loaded if "torch" in name] or loaded
        start = ctypes.CDLL(library).GOMP_parallel
    except (OSError, ValueError, AttributeError):
        return None
    start.argtypes, start.restype = [BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return start


def _on_openmp(start: Any, work: Callable[[], None], threads: int) -> None:
    errors: list[BaseException] = []

    def body(_: Any) -> None:
        try:
            work()
        except BaseException as error:  # it must not be lost on a thread that is not Python's
            errors.append(error)

    start(BODY(body), None, threads, 0)
    if errors:
        raise errors[0]


def _on_python_threads(work: Callable[[], None], threads: int) -> None:
    if threads not in _pools:
        _pools.setdefault(threads, ThreadPoolExecutor(threads - 1, thread_name_prefix="hetsyn"))
    others = []
    with contextlib.suppress(RuntimeError):  # an interpreter on its way out starts no threads: then this one does all
        others = [_pools[threads].submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        other.result()


def check_fork() -> None:
    """Raise RuntimeError in a forked child where torch would hang: its parent's OpenMP threads are gone."""
    if _parallel_in and os.getpid() not in _parallel_in and torch.get_num_threads() > 1:
        raise RuntimeError(
            "this process was forked after its parent had computed on several threads, and torch would hang: start it "
            "with multiprocessing.get_context('spawn'), or call torch.set_num_threads(1) in it first"
        )
