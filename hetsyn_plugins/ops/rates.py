"""Does a layer fire? What is said, once, where one stays silent, or fires at every step, while it is trained.

Neither has spikes that could carry a difference, and of a surrogate's gradient little is left so far from threshold.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from hetsyn_plugins.ops.lengths import past_end

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
    spikes   (T, B, N), or images (T, B, N, ...); None for a readout

    Looked at on the CPU in eager mode; on CUDA and under compile with the layer's check=True only.
    """
    if spikes is not None and spikes.requires_grad and torch.is_grad_enabled() and _is_watched(layer, spikes):
        _look(layer, inputs, spikes.detach(), f"{spikes[0, 0].numel()} neurons", "sequence")


def watch_loop(layer: Any, inputs: Tensor, v: Tensor, threshold: Tensor) -> None:
    """The same of a loop of steps, in its backward pass: only there is it whole, and known to be training.

    inputs   (T, B, M)
    v        (T, B, N): a spike where it is above the threshold (N,)
    """
    if _is_watched(layer, v):
        # the sizes tell which layer it is: a backward pass has no line of its own in the program
        _look(layer, inputs, v > threshold, f"{inputs.shape[2]} -> {v.shape[2]} neurons", "loop")


def _is_watched(layer: Any, of_spikes: Tensor) -> bool:
    """Is this layer still to be told, by enough places for spikes (T, B, N), whose values may be looked at?"""
    if not layer.training or layer.__dict__.get("_rate_was_said") or len(_said) >= MAX_MESSAGES:
        return False
    is_near = of_spikes.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
    if not (is_near or getattr(layer, "check", None)):
        return False
    return len(of_spikes) >= MIN_STEPS and of_spikes.numel() >= MIN_SPIKES


@torch.compiler.disable
def _look(layer: Any, inputs: Tensor, spikes: Tensor, neurons: str, form: str) -> None:
    try:
        found = fault(spikes[:, 0]) and fault(spikes)  # a layer that fires is told by one sample of the batch
        if found is None or not inputs.any():
            return
    except RuntimeError:  # a tensor whose values nobody may see: torch.func's, and those of meta and fake tensors
        return
    steps, samples = spikes.shape[:2]
    layer.__dict__["_rate_was_said"] = True
    _said.append(type(layer).__name__)
    warnings.warn(
        f"a {type(layer).__name__} of {neurons} {found} in a {form} of {steps} steps and {samples} samples; what "
        f"helps: {WHAT_TO_DO[found]}",
        stacklevel=7,
    )


def fault(spikes: Tensor, lengths: Tensor | None = None) -> str | None:
    """What is wrong with these spikes (T, B, N), a key of WHAT_TO_DO; None where some came and some did not.

    lengths   (B,) of the rows, where they have some of their own
    """
    least, most = torch.aminmax(spikes)
    if lengths is not None:
        past = past_end(spikes, lengths)
        least, most = spikes.masked_fill(past, 1.0).min(), spikes.masked_fill(past, 0.0).max()
    if most.item() == 0:
        return "did not fire once"
    return "fired at every step" if least.item() > 0 else None
