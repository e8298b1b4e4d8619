"""Which kernel computes a call: what was asked for, or what fits best, and why."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.kernels.interface import Kernel

# backend -> module in kernels/; "integers" is no backend of the op but the forward of `straight_through`
MODULES = {"eager": "eager", "cpu": "cpu.sequence", "gpu": "gpu.sequence", "integers": "cpu.fixed_point"}


class Way(NamedTuple):
    """How a layer is run, beside its tensors."""

    surrogate: Surrogate
    detach_reset: bool = False
    backend: str = "auto"


class Choice(NamedTuple):
    """A backend and why it was chosen."""

    backend: str
    reason: str


def choose_backend(inputs: Tensor, weight: Tensor) -> Choice:
    """What backend="auto" takes for these tensors, and why."""
    device = weight.device.type
    if device == "cpu":
        missing = why_no_cpu_kernel()
        return Choice("eager", missing) if missing else Choice("cpu", "CPU tensors: the compiled kernel")
    if device != "cuda":
        return Choice("eager", f"there are kernels for cpu and cuda tensors, these are on {device}")
    if weight.dtype == torch.float64:
        return Choice("eager", "the gpu kernel is float32 only, these tensors are float64")
    missing = why_no_gpu_kernel()
    return Choice("eager", missing) if missing else Choice("gpu", "CUDA tensors: the Triton kernel")


@functools.cache
def why_no_cpu_kernel() -> str | None:
    """None where the cpu kernel works here; else what is wrong, said once as a warning too."""
    return _why_not("cpu", "numba")


@functools.cache
def why_no_gpu_kernel() -> str | None:
    """None where the gpu kernel can be loaded; else what is wrong, said once as a warning too."""
    return _why_not("gpu", "triton")


def _why_not(backend: str, library: str) -> str | None:
    try:
        kernel: Any = _import(backend)
        if backend == "gpu" and torch.cuda.is_available():
            kernel.trial()  # Triton imports where nothing can be compiled, or on a card that it does not know
    except Exception as error:  # many kinds: missing, broken, too old
        why = f"{type(error).__name__}: {error}"
        reason = f"the {backend} kernel needs {library}, which does not work here: {why}"
        warnings.warn(f"{reason}; backend='eager' is used instead, far slower", RuntimeWarning, stacklevel=5)
        return reason
    return None


def check_backend(backend: str) -> None:
    """Raise ValueError for a name that is no backend."""
    if backend not in ("auto", "eager", "cpu", "gpu"):
        raise ValueError(f"backend: expected 'auto', 'eager', 'cpu' or 'gpu', got {backend!r}")


def kernel_for(backend: str, inputs: Tensor, weight: Tensor) -> Kernel:
    """The module that computes a backend, or ValueError where it cannot run what it is given."""
    check_backend(backend)
    if backend == "auto":
        backend = choose_backend(inputs, weight).backend
    elif backend == "cpu":
        if weight.device.type != "cpu":
            raise ValueError(f"backend: expected CPU tensors for 'cpu', got {weight.device}; use 'auto' or 'eager'")
        if missing := why_no_cpu_kernel():
            raise ValueError(f"backend: 'cpu' cannot run, {missing}; use 'auto' or 'eager'")
    elif backend == "gpu":
        _check_gpu(weight)
    return cast(Kernel, load(backend))


def load(backend: str) -> ModuleType:
    """The kernel's module: numba and Triton are imported when they are asked for, and looked up at each call."""
    # to import what is imported takes a twentieth of a small call
    return sys.modules.get(f"hetsyn_plugins.kernels.{MODULES[backend]}") or _import(backend)


def _import(backend: str) -> ModuleType:
    return importlib.import_module(f"hetsyn_plugins.kernels.{MODULES[backend]}")


def _check_gpu(weight: Tensor) -> None:
    if weight.dtype == torch.float64:
        raise ValueError("backend: expected float32 or half tensors for 'gpu', got float64; use 'auto' or 'eager'")
    if missing := why_no_gpu_kernel():
        raise ValueError(f"backend: 'gpu' cannot run, {missing}; use 'auto' or 'eager'")
    interpreted = load("gpu").interpreted()
    if weight.device.type != ("cpu" if interpreted else "cuda"):
        kind = "CPU tensors for 'gpu' in Triton's interpreter" if interpreted else "CUDA tensors for 'gpu'"
        raise ValueError(f"backend: expected {kind}, got {weight.device}; use 'auto' or 'eager'")
