"""Devices by name, "cpu", "cuda" or "cuda:1": is there one, do our kernels run on it, what is it, what does it hold."""

from __future__ import annotations

import re
import warnings

import torch

from hetsyn_plugins.ops import dispatch

NAMES, NAMES_TEXT = re.compile(r"cpu|cuda(:\d{1,3})?"), "cpu, cuda or a card by its number, cuda:0"
OLDEST = (7, 0)  # the compute capability from which on Triton compiles


def checked_name(argument: str, name: str) -> str:
    """The name, if a device can be called so; ValueError otherwise. Whether there is one `usable` says."""
    if not NAMES.fullmatch(name):
        raise ValueError(f"{argument}: expected {NAMES_TEXT}, got {name!r}")
    return name


def usable(argument: str, name: str) -> torch.device:
    """The device of this name, on which our kernels run; what "cuda" is, is settled here: the current card.

    Raises ValueError, naming the argument and what is missing: CUDA, such a card, a newer one, or Triton.
    """
    if checked_name(argument, name) == "cpu":
        return torch.device("cpu")
    if missing := _why_no_cuda():
        raise ValueError(f"{argument}: expected a CUDA device, got none: {missing}; cpu runs everywhere")
    count = torch.cuda.device_count()
    device = torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else torch.device(name)
    if device.index >= count:
        raise ValueError(f"{argument}: expected cuda:0 to cuda:{count - 1}, which are there, got {name}")
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < OLDEST:
        expected = f"a card of compute capability {OLDEST[0]}.{OLDEST[1]} or later, which Triton needs"
        raise ValueError(f"{argument}: expected {expected}, got {described(device)}, of {major}.{minor}")
    with torch.cuda.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that eager will do, which is not so here
        missing = dispatch.why_no_gpu_kernel()
    if missing:
        raise ValueError(f"{argument}: expected a card that our kernels run on, got {described(device)}: {missing}")
    return device


def _why_no_cuda() -> str | None:
    """None where torch finds a card; else why it does not."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")  # of drivers that are too old
        if torch.cuda.is_available():
            return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return str(said[0].message).strip() if said else "no card is seen, or no driver of it (nvidia-smi lists them)"


def described(device: torch.device) -> str:
    """A device for a reader: cpu, or cuda:0 (NVIDIA H100 80GB HBM3)."""
    return "cpu" if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"


def free(device: torch.device) -> int:
    """Bytes of a card that nobody has, and those that torch here holds and does not use."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def peak_megabytes(device: torch.device) -> float | None:
    """The most that tensors of this process took of a card so far, in MB; None of a CPU."""
    return None if device.type == "cpu" else round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
