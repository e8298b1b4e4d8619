"""The state before a first step: zeros that are written nowhere, and are known without a look at them.

A look costs a kernel on a GPU a wait for it, and makes a CUDA graph impossible.
"""

from __future__ import annotations

import functools
import threading

import torch
from torch import Tensor


def new_zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    """A zero, ()."""
    return torch.zeros((), dtype=dtype, device=device)


@functools.cache
def zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The one zero of which such states are expanded, (); kept for ever, so that nothing else gets its address.

    Made in a thread of its own: what transformation, mode or inference is on in this one would stay with it.
    """
    made: list[Tensor] = []
    thread = threading.Thread(target=lambda: made.append(new_zero(dtype, device)))
    try:
        thread.start()
    except RuntimeError:  # the interpreter is on its way out
        return new_zero(dtype, device)
    thread.join()
    return made[0] if made else new_zero(dtype, device)  # which raises what went wrong there


def is_zero(x: Tensor | None) -> bool:
    """Is this state absent, or `zero` expanded? False: it may be anything."""
    return x is None or (not any(x.stride()) and x.data_ptr() == zero(x.dtype, x.device).data_ptr())
