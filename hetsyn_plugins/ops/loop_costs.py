"""What loops of single steps cost, and one message a process where it is much: the sequence form is several times less.

Time: that of the steps forward, which is less than half of the whole. Memory: the first currents (B, N, M) that loops
keep for their backward pass; a loop whose states are handed on as they came keeps one, or none where it began at zero.
"""

from __future__ import annotations

import warnings

from torch import Tensor

MAX_SECONDS, MAX_BYTES = 0.5, 1 << 30
_kept = 0  # bytes, of all loops that live
_told = False


def keep(current: Tensor | None) -> int:
    """Count a first current that a loop keeps; returns its bytes, for `let_go`. Zeros not written out have none."""
    global _kept
    if current is None or not any(current.stride()):
        return 0
    size = current.nbytes
    _kept += size
    if _kept > MAX_BYTES:
        _tell(current, f"holds {_kept / 2**30:.1f} GiB of first currents for the backward pass")
    return size


def let_go(size: int) -> None:
    """The loop that kept so many bytes is no more."""
    global _kept
    _kept -= size


def took(current: Tensor, seconds: float) -> None:
    """Look at the time that a loop's steps have taken so far, forward."""
    if seconds > MAX_SECONDS:
        _tell(current, f"has taken {seconds:.1f} s forward")


def _tell(current: Tensor, what: str) -> None:
    global _told
    if not _told:
        _told = True
        batch, n, m = current.shape
        warnings.warn(
            f"a loop of single steps, {m} -> {n} neurons and {batch} rows, {what}: where the inputs are known before, "
            "one call with the whole sequence, (T, B, M), gives the same outputs and gradients in a fraction of that",
            stacklevel=6,
        )
