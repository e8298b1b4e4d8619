"""The state before a first step: zeros that are written nowhere, and are known without a look at them.

A look costs a kernel on a GPU a wait for it, and makes a CUDA graph impossible.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hetsyn_plugins.core.autograd import transforming


def new_zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    """A zero, ()."""
    return torch.zeros((), dtype=dtype, device=device)


def zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The one zero of which such states are expanded, (); within a transformation, which would keep it, another one."""
    return new_zero(dtype, device) if transforming() else _kept(dtype, device)


@functools.cache
def _kept(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept for ever, so that nothing else gets its address."""
    with torch.inference_mode(False):  # it must serve training too
        return new_zero(dtype, device)


def is_zero(x: Tensor | None) -> bool:
    """Is this state absent, or `zero` expanded? False: it may be anything."""
    return x is None or (not any(x.stride()) and x.data_ptr() == zero(x.dtype, x.device).data_ptr())
