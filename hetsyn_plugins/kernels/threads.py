"""Kernels over ordinary Python threads: they release the GIL, so no threading layer is needed that could collide.

`torch.get_num_threads()` says how many. Any thread may call; a forked child makes threads of its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

PIECES = 4  # a thread: enough to balance, few enough that starting one (some microseconds) does not show

_pools: dict[int, ThreadPoolExecutor] = {}
_parallel_in: set[int] = set()  # processes, by id, whose torch has threads running
os.register_at_fork(after_in_child=_pools.clear)  # a parent's threads do not exist in its child


def parallel(kernel: Callable[..., None], units: int, *arguments: Any) -> None:
    """Run a kernel over its units on torch's number of threads, this one included.

    The units are cut into more pieces than threads, and a thread takes the next piece when it has done one: a core that
    is busy elsewhere (torch's own threads spin for a while after their work) then does fewer.
    """
    threads = max(1, min(torch.get_num_threads(), units))
    if threads == 1:
        kernel(*arguments, 0, units)
        return
    _parallel_in.add(os.getpid())
    if threads not in _pools:
        _pools.setdefault(threads, ThreadPoolExecutor(threads - 1, thread_name_prefix="hetsyn"))
    pieces = min(units, PIECES * threads)
    remaining = iter([(units * i // pieces, units * (i + 1) // pieces) for i in range(pieces)])

    def work() -> None:
        for first, last in remaining:  # a list's iterator hands out each item once, to whichever thread asks
            kernel(*arguments, first, last)

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
