"""Memory of large arrays, used again: a training step needs the same sizes as the one before.

The system hands memory out in pages that it clears at their first use. For arrays of tens of MB that costs more than
some of the kernels, the more so with several threads. A block goes back to the shelf when the last array on it is gone,
whoever held it, and the shelf keeps at most KEPT bytes.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGE = 1 << 20  # bytes; below, the allocator of NumPy does well
KEPT = 1 << 29

_shelf: list[mmap.mmap] = []
_lock = threading.RLock()  # a finalizer may run in the middle of anything, also of what holds the lock


def empty(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A flat array, not filled."""
    size = count * dtype.itemsize
    if size < LARGE or not hasattr(mmap, "MAP_PRIVATE"):
        return np.empty(count, dtype)
    block = _taken(size) or _new(size)
    # an object between block and arrays: views of views hold on to it, and not to each other
    holder: Any = (ctypes.c_char * size).from_buffer(block)
    weakref.finalize(holder, _put_back, block).atexit = False
    array: NDArray[Any] = np.frombuffer(holder, dtype, count)
    return array


def zeros(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A flat array of zeros."""
    array = empty(count, dtype)
    ctypes.memset(array.ctypes.data, 0, array.nbytes)  # of what no cache holds it reads nothing, unlike NumPy
    return array


def _new(size: int) -> mmap.mmap:
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # private: a fork must not share it
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _taken(size: int) -> mmap.mmap | None:
    with _lock:
        for index, block in enumerate(_shelf):
            if len(block) == size:
                return _shelf.pop(index)
    return None


def _put_back(block: mmap.mmap) -> None:
    """The oldest blocks make room: their sizes are those of layers or batches that are no more."""
    with _lock:
        _shelf.append(block)
        while sum(map(len, _shelf)) > KEPT:
            _shelf.pop(0)
