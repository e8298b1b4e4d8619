"""Who called a layer: the Sequentials that hand it a sequence, the exporter that asks for it.

A module knows nothing of what it stands in; the stack of calls does. Only frames are looked at that stand between the
layer and its caller in torch's own files, so that what a user's own module does with time stays that module's affair.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

from torch import nn

_CALL_FILE = nn.Module._call_impl.__code__.co_filename  # frames of a module's call, with hooks and without
_SEQUENTIAL = nn.Sequential.forward.__code__
# What keeps something from one step to the next says how to forget it: snnTorch's neurons and its SynapticDelay,
# SpikingJelly's neurons. (nn.Module's own are reset_parameters and reset_running_stats.)
_FORGETS = ("reset_mem", "reset_hidden", "reset_delay", "reset_state", "reset")
_CELLS = ("SNNCell", "SNNRecurrentCell")  # Norse's base classes of what takes one step


def call_above(count: int) -> FrameType:
    """The frame so many calls above the one that asks."""
    return sys._getframe(count + 1)


def sequentials(of_call: FrameType | None) -> list[nn.Sequential]:
    """The Sequentials that hand a layer its input, innermost first; `of_call` is the frame that called its forward."""
    found: list[nn.Sequential] = []
    frame = of_call
    while frame is not None:
        if frame.f_code is _SEQUENTIAL:
            found.append(frame.f_locals["self"])
        elif frame.f_code.co_filename != _CALL_FILE:
            break
        frame = frame.f_back
    return found


def owner(of_call: FrameType | None) -> nn.Module | None:
    """The module of a user's own whose method made this call; None where it was no module's."""
    frame = of_call
    while frame is not None and frame.f_code.co_filename == _CALL_FILE:
        frame = frame.f_back
    self = None if frame is None else frame.f_locals.get("self")
    return self if isinstance(self, nn.Module) else None


def parts(container: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Name and module of all that a Sequential runs one after the other, at any depth of Sequentials."""
    for name, module in container.named_children():
        if type(module).forward is nn.Sequential.forward:
            yield from parts(module, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", module


def keeps_state(module: nn.Module) -> bool:
    """Does a module of another library keep a state between calls, and so mean one step by a call?"""
    if getattr(module, "step_mode", True) in (False, "m"):  # snnTorch's SynapticDelay, SpikingJelly: whole sequences
        return False
    is_cell = any(cls.__name__ in _CELLS for cls in type(module).__mro__)
    return is_cell or any(callable(getattr(module, name, None)) for name in _FORGETS)


def is_called_by(module: str, function: str) -> bool:
    """Is this function of this module among the callers?"""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function and frame.f_globals.get("__name__") == module:
            return True
        frame = frame.f_back
    return False
