"""Matrix products in all of float32, whatever a process has said about TF32.

TF32 keeps 10 bits of a factor's mantissa, and spikes flip. The setting is the process's: a product that another thread
makes at the same time is made in full precision too, and what it sets meanwhile is lost. A product that a CUDA graph
captures stays as it was captured.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """In this block no float32 product uses TF32; after it all settings are what they were."""
    if not _uses_tf32():
        yield
        return
    restore = _restoring()
    torch.backends.cuda.matmul.allow_tf32 = False  # of all setters the one that agrees with every way to read it
    try:
        yield
    finally:
        restore()


def _uses_tf32() -> bool:
    """Would a product use it? Since torch 2.9 `fp32_precision` decides; the older ways to ask fail beside it."""
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)
    return bool(matmul.allow_tf32) if precision is None else bool(precision == "tf32")


def _restoring() -> Callable[[], None]:
    """What sets TF32 as it is set now, of three ways to set it; to read another than was used may be an error."""
    matmul = torch.backends.cuda.matmul
    with contextlib.suppress(RuntimeError):
        if torch.get_float32_matmul_precision() == "medium":  # other than "high", that is the CPU's setting too
            return functools.partial(torch.set_float32_matmul_precision, "medium")
    with contextlib.suppress(RuntimeError):
        return functools.partial(setattr, matmul, "allow_tf32", matmul.allow_tf32)
    return _restore_fp32_precision


def _restore_fp32_precision() -> None:
    """TF32 by torch's newest setting: inherited from the setting above it, where that says so, or this one's own."""
    matmul = torch.backends.cuda.matmul
    for precision in ("none", "tf32"):
        if not _uses_tf32():
            matmul.fp32_precision = precision
