"""The one door for checks: what a call of the op was given becomes tensors that a kernel can take, or a ValueError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core.fields import DECAYS, HetSynState
from hetsyn_plugins.core.validation import (
    check_fields,
    check_inputs_shape,
    check_state,
    check_values,
    expand,
    full_shape,
    state_shapes,
)
from hetsyn_plugins.kernels.interface import LayerTensors

HALF = (torch.float16, torch.bfloat16)


def output_dtype(inputs: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of spikes and v: half for half inputs (for bool and uint8 inputs: half weights), else the weight's."""
    if inputs.dtype.is_floating_point and inputs.dtype in HALF:
        return inputs.dtype
    if inputs.dtype.is_floating_point and weight.dtype in HALF:  # under autocast
        return compute_dtype(weight)
    return weight.dtype


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of states, decays and arithmetic: float64 for float64 weights, else float32."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def prepare(
    inputs: Tensor,
    given: dict[str, Any],
    spiking: bool,
    state: HetSynState | None,
    check: bool | None,
    argument_names: Mapping[str, str] | None = None,
    one_step: bool = False,
) -> tuple[Tensor, LayerTensors, HetSynState]:
    """Check all arguments of a call; return inputs (T, B, M), expanded terms and first state in one dtype.

    one_step  the inputs given are (B, M): T = 1;  `argument_names` as in `hetsyn_lif`
    """
    try:
        return _prepare(inputs, given, spiking, state, check, one_step)
    except ValueError as error:
        name, colon, rest = str(error).partition(":")
        if argument_names is None or name not in argument_names:
            raise
        raise ValueError(f"{argument_names[name]}{colon}{rest}") from None


def _prepare(
    inputs: Tensor,
    given: dict[str, Any],
    spiking: bool,
    state: HetSynState | None,
    check: bool | None,
    one_step: bool,
) -> tuple[Tensor, LayerTensors, HetSynState]:
    weight = given["weight"]
    for name, value in (("inputs", inputs), ("weight", weight)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}: expected a torch tensor, got {type(value).__name__}")
    if not weight.dtype.is_floating_point:
        raise ValueError(f"weight: expected a floating dtype, got {weight.dtype}")
    dtype, autocast = compute_dtype(weight), autocast_enabled(weight.device)
    tensors = {name: _as_tensor(name, value, weight, dtype, autocast) for name, value in given.items()}
    check_fields(tensors, spiking)
    if one_step:
        if inputs.ndim != 2 or inputs.shape[1] != weight.shape[1]:
            raise ValueError(f"inputs: expected shape (B, {weight.shape[1]}), one step, got {tuple(inputs.shape)}")
        inputs = inputs[None]
    check_inputs_shape(inputs, weight)
    x = _cast_inputs(inputs, weight, dtype, autocast)
    shapes = state_shapes(tensors, spiking, inputs.shape[1])
    if state is None:
        state = HetSynState(
            **{k: None if s is None else weight.new_zeros((), dtype=dtype).expand(s) for k, s in shapes.items()}
        )
    else:
        _check_state_tensors(state, shapes, weight, dtype)
    if check or (check is None and weight.device.type == "cpu"):
        check_values({name: None if t is None else _plain(t) for name, t in tensors.items()})
        _check_finite(x, "inputs")
    if not spiking:
        tensors["threshold"] = None
    full = {k: None if t is None else expand(t, full_shape(k, weight)).to(dtype) for k, t in tensors.items()}
    return x, LayerTensors(**full), state  # type: ignore[arg-type]  # weight and decay are never None


def _plain(t: Tensor) -> Any:
    """What a check reads: NumPy for CPU tensors, since torch's threads would spin on into the kernel's first part."""
    t = t.detach()
    return t if t.device.type != "cpu" else (t.float() if t.dtype in HALF else t).numpy()


def check_inputs(x: Tensor, name: str = "inputs") -> None:
    """Raise ValueError for NaN or infinity in a whole sequence on the CPU: for layers that then go step by step.

    As for a sequence with check=None, nothing is looked at on other devices, nor under torch.compile.
    """
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_finite(x.detach(), name)


def _check_finite(x: Tensor, name: str) -> None:
    """Raise ValueError for NaN or infinity: one of them makes the sum so, which is one pass and no copy."""
    plain = _plain(x)
    with np.errstate(all="ignore"):
        if np.isfinite(float(plain.sum())):
            return
    wrong = int((~torch.isfinite(x)).sum())
    if wrong:
        raise ValueError(f"{name}: expected finite values, got {wrong} NaN or infinite")


def _autocast_takes_a_device() -> bool:
    try:
        ask: Any = torch.is_autocast_enabled  # its argument came with torch 2.4
        ask("cpu")
        return True
    except TypeError:
        return False


# asked once, here: torch.compile cannot trace the question where it raises
_AUTOCAST_TAKES_A_DEVICE = _autocast_takes_a_device()


def autocast_enabled(device: torch.device) -> bool:
    """Is autocast on for this device? Before torch 2.4 the question had one function a device."""
    if _AUTOCAST_TAKES_A_DEVICE:
        ask: Any = torch.is_autocast_enabled
        enabled: bool = ask(device.type)
        return enabled
    return torch.is_autocast_cpu_enabled() if device.type == "cpu" else torch.is_autocast_enabled()


def _as_tensor(name: str, value: Any, weight: Tensor, dtype: torch.dtype, autocast: bool) -> Tensor | None:
    if value is None:
        return None
    if not isinstance(value, Tensor):
        try:
            return torch.tensor(value, dtype=dtype, device=weight.device)
        except (TypeError, ValueError, RuntimeError):
            hint = ": draw from an initialiser once, with its shape" if callable(value) else ""
            raise ValueError(f"{name}: expected a number or a torch tensor, got {type(value).__name__}{hint}") from None
    if value.device != weight.device:
        raise ValueError(f"{name}: expected on the weight's device, {weight.device}, got {value.device}")
    allowed = {dtype} if name in DECAYS else {dtype, weight.dtype}
    if value.dtype not in allowed and not (autocast and value.dtype.is_floating_point and name not in DECAYS):
        names = " or ".join(sorted(str(d) for d in allowed))
        raise ValueError(f"{name}: expected {names} beside a weight of {weight.dtype}, got {value.dtype}")
    return value


def _cast_inputs(inputs: Tensor, weight: Tensor, dtype: torch.dtype, autocast: bool) -> Tensor:
    if inputs.device != weight.device:
        raise ValueError(f"inputs: expected on the weight's device, {weight.device}, got {inputs.device}")
    counts = inputs.dtype in (torch.bool, torch.uint8)
    if not counts and inputs.dtype != weight.dtype and not (autocast and inputs.dtype.is_floating_point):
        raise ValueError(f"inputs: expected the weight's dtype, {weight.dtype}, or bool or uint8, got {inputs.dtype}")
    return inputs.to(dtype)


def _check_state_tensors(state: Any, shapes: dict[str, Any], weight: Tensor, dtype: torch.dtype) -> None:
    if isinstance(state, HetSynState):
        for name, value in state._asdict().items():
            if value is not None and not isinstance(value, Tensor):
                raise ValueError(f"state.{name}: expected a torch tensor, got {type(value).__name__}")
    check_state(state, shapes)
    for name, value in state._asdict().items():
        if value is not None and (value.dtype != dtype or value.device != weight.device):
            came = f"{value.dtype} on {value.device}"
            raise ValueError(f"state.{name}: expected {dtype} on {weight.device}, got {came}")
