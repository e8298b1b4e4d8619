"""Does a layer fire? What is said, once, where one stays silent, or fires at every step, while it is trained.

Neither has spikes that could carry a difference, and of a surrogate's gradient little is left so far from threshold.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

MIN_STEPS, MIN_SPIKES = 10, 1_000  # shorter sequences, and fewer places for a spike, may be without one by chance
MAX_MESSAGES = 5  # a process; a layer has one
WHAT_TO_DO = {
    "did not fire once": "larger weights (input_rate=... draws them, where the layer has it) or a lower threshold",
    "fired at every step": "smaller weights (input_rate=... draws them, where the layer has it) or a higher threshold",
}
_said: list[str] = []


def watch_rates(layer: Any, inputs: Tensor, spikes: Tensor | None) -> None:
    """Warn where a layer that is being trained did not fire at all in a whole sequence, or at every step of it.

    layer    the module; it is told once, by an attribute `_rate_was_said`
    inputs   of any layout; silent inputs are no fault of the layer's
    spikes   (T, B, N), None for a readout

    Looked at on the CPU in eager mode; on CUDA and under compile with the layer's check=True only.
    """
    if spikes is None or not (spikes.requires_grad and layer.training and torch.is_grad_enabled()):
        return
    values_are_near = spikes.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
    if not (values_are_near or getattr(layer, "check", None)) or layer.__dict__.get("_rate_was_said"):
        return
    if len(spikes) >= MIN_STEPS and spikes.numel() >= MIN_SPIKES and len(_said) < MAX_MESSAGES:
        _look(layer, inputs, spikes)


@torch.compiler.disable
def _look(layer: Any, inputs: Tensor, spikes: Tensor) -> None:
    z = spikes.detach()
    try:
        found = fault(z[:, 0]) and fault(z)  # a layer that fires is told by one sample of the batch
        if found is None or not inputs.any():
            return
    except RuntimeError:  # a tensor whose values nobody may see: torch.func's, and those of meta and fake tensors
        return
    t, b, n = z.shape
    layer.__dict__["_rate_was_said"] = True
    _said.append(type(layer).__name__)
    what = f"a {type(layer).__name__} of {n} neurons {found} in a sequence of {t} steps and {b} samples"
    warnings.warn(f"{what}; what helps: {WHAT_TO_DO[found]}", stacklevel=5)


def fault(spikes: Tensor) -> str | None:
    """What is wrong with these spikes, a key of WHAT_TO_DO; None where some came and some did not."""
    least, most = torch.aminmax(spikes)
    if most.item() == 0:
        return "did not fire once"
    return "fired at every step" if least.item() > 0 else None
