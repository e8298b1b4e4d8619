"""The one door for checks: what a call was given becomes tensors that a kernel can take, or a ValueError.

The op and every adapter come through here, each with the names of its own (`Caller`), so that a message speaks of the
arguments that the user wrote. Nothing behind the door checks again.

dtypes: everything float32 or everything float64. Half inputs and weights (float16, bfloat16) run in float32 on the
rounded values, with decays and states in float32, and give half spikes and v. Under autocast any float is cast here.
bool and uint8 inputs count as 0/1 or counts. Other mixtures raise ValueError, as do mixed devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core import memory
from hetsyn_plugins.core.autograd import refuse_forward_mode, transforming
from hetsyn_plugins.core.fields import (
    ARRAYS,
    DECAYS,
    DELAYS,
    FIELDS,
    MASKS,
    STATE,
    HetSynState,
    full_shapes,
)
from hetsyn_plugins.core.masks import as_mask, say_empty_rows, without_absent
from hetsyn_plugins.core.validation import (
    check_fields,
    check_no_max_delay,
    check_part,
    check_shape,
    check_values,
    checked_max_delay,
    expand,
    state_shapes,
)
from hetsyn_plugins.kernels import zeros
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.ops.foreign_inputs import check_layout, plain_tensor, shape_hint, usable

HALF = (torch.float16, torch.bfloat16)
PRECISE = (*DECAYS, *DELAYS)  # what stays float32 beside half types
COUNTS = (torch.bool, torch.uint8)
AT_ONCE = 1 << 15  # numbers that torch sums in one thread (at::internal::GRAIN_SIZE)


class ArgumentNames(dict[str, str]):
    """What a caller's arguments are called, ours -> its own ("inputs", "decay", "state.reset", ...), else as ours."""

    def __missing__(self, name: str) -> str:
        return name


class Caller(NamedTuple):
    """How the one who calls speaks of its arguments.

    shapes   rank of the inputs that it takes -> what it says of their shape, with {m} for the number of lines and
             {first} for the first two axes of a sequence
    dtype    what it says of their dtype, with {} for it
    owner    whose device they must be on
    tuple_hint   what it says, after ";", to a tuple as input
    first    what {first} stands for; "B, T" where sequences are batch first
    """

    names: ArgumentNames = ArgumentNames()
    shapes: Mapping[int, str] = {3: "(T, B, {m}), time first"}
    dtype: str = "the weight's dtype, {},"
    owner: str = "weight"
    tuple_hint: str = ""
    first: str = "T, B"


OP = Caller()
OP_STEP = Caller(shapes={2: "(B, {m}), one step"})


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of states, decays and arithmetic: float64 for float64 weights, else float32."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def output_dtype(inputs: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of spikes and v: half for half inputs (for bool and uint8 inputs: half weights), else the weight's."""
    if inputs.dtype in HALF:
        return inputs.dtype
    if inputs.dtype.is_floating_point and weight.dtype in HALF:  # under autocast
        return compute_dtype(weight)
    return weight.dtype


def checked_layer(fields: Mapping[str, Any], spiking: bool, check: bool | None, names: ArgumentNames) -> LayerTensors:
    """A layer's fields, tensors or numbers, as kernels take them: one dtype, full shapes.

    check  look for values out of range; None: on the CPU
    """
    weight = fields["weight"]
    if not isinstance(weight, Tensor):
        raise ValueError(f"{names['weight']}: expected a torch tensor, got {type(weight).__name__}")
    if not weight.dtype.is_floating_point:
        raise ValueError(f"{names['weight']}: expected a floating dtype, got {weight.dtype}")
    autocast = autocast_enabled(weight.device)
    tensors = {name: _as_tensor(name, fields[name], weight, autocast, names) for name in ARRAYS}
    check_fields(tensors, spiking, names)
    if check or (check is None and weight.device.type == "cpu"):
        check_ranges(tensors, names)
    return in_full(tensors, spiking, names)


def in_full(tensors: Mapping[str, Any], spiking: bool, names: ArgumentNames) -> LayerTensors:
    """Tensors that fit each other, written out to their full shapes in the dtype of the arithmetic: for kernels.

    Raises ValueError for one of a layer that was replaced by what does not fit.
    """
    dtype, shapes = compute_dtype(tensors["weight"]), full_shapes(*tensors["weight"].shape)
    layer = dict(tensors)
    for name, t in tensors.items():
        if t is None or name in MASKS:
            continue
        if t.dtype != dtype:
            layer[name] = t = t.to(dtype)
        if t.shape != shapes[FIELDS[name].axes]:
            check_shape(name, t, tensors["weight"], names)
            layer[name] = expand(t, shapes[FIELDS[name].axes])
    if not spiking:
        layer["threshold"] = None
    for name in MASKS:
        if layer.get(name) is not None:
            layer[name] = _absent(layer[name], shapes[FIELDS[name].axes], names[name])
    return LayerTensors(**without_absent(layer, ("weight", "decay")))


def _absent(mask: Tensor, shape: tuple[int, ...], name: str) -> Tensor | None:
    """A mask, which may have been replaced since a layer was built; None where no synapse is seen to be absent."""
    if mask.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(mask.shape)}")
    is_seen = mask.device.type == "cpu" and not torch.compiler.is_compiling() and not transforming()
    if mask.dtype != torch.bool:
        mask = torch.from_numpy(as_mask(name, mask)) if is_seen else mask != 0
    return None if is_seen and bool(mask.numpy().all()) else mask


def check_ranges(tensors: Mapping[str, Tensor | None], names: ArgumentNames) -> None:
    """Raise ValueError where a field's values are out of range, NaN among them; not inside a transformation.

    What a mask leaves without synapses is said. What compiles has its operator look, as in `check_finite`.
    """
    if torch.compiler.is_compiling() or transforming():
        return
    say_empty_rows(tensors, names)
    check_values({name: None if t is None else _plain(t) for name, t in tensors.items() if name in FIELDS}, names)


def checked_inputs(inputs: Any, weight: Tensor, check: bool | None, caller: Caller) -> Tensor:
    """Inputs (T, B, M), or (B, M) where the caller takes single steps, in the dtype of the arithmetic.

    weight  (N, M), as the user has it: half weights want half inputs
    check   look for NaN and infinity; None: on the CPU
    """
    refuse_forward_mode()
    name = caller.names["inputs"]
    inputs = plain_tensor(inputs, name, caller.tuple_hint)
    m = weight.shape[1]
    if inputs.ndim not in caller.shapes or inputs.shape[-1] != m:
        shapes = " or ".join(shape.format(m=m, first=caller.first) for shape in caller.shapes.values())
        hint = shape_hint(tuple(inputs.shape), m, caller.first, tuple(caller.shapes))
        raise ValueError(f"{name}: expected shape {shapes}, got {tuple(inputs.shape)}{hint}")
    return checked_numbers(inputs, weight, check, caller)


def checked_numbers(inputs: Tensor, weight: Tensor, check: bool | None, caller: Caller) -> Tensor:
    """Inputs of a shape that fits, in the dtype of the arithmetic; ValueError for another device or dtype, or NaN."""
    name = caller.names["inputs"]
    if inputs.device != weight.device:
        raise ValueError(f"{name}: expected on the {caller.owner}'s device, {weight.device}, got {inputs.device}")
    if inputs.dtype != weight.dtype and inputs.dtype not in COUNTS:
        if not (inputs.dtype.is_floating_point and autocast_enabled(weight.device)):
            dtype = caller.dtype.format(weight.dtype)
            raise ValueError(f"{name}: expected {dtype} or bool or uint8, got {inputs.dtype}")
    x = inputs.to(compute_dtype(weight))
    check_finite(x, check, name)
    return x


def check_finite(x: Tensor, check: bool | None, name: str) -> None:
    """Raise ValueError for NaN or infinity; `check` None: on the CPU. What compiles has its operator look."""
    if torch.compiler.is_compiling():
        return
    if check:
        _check_finite(x, name)
    elif check is None:
        check_inputs(x, name)


def check_inputs(x: Tensor, name: str = "inputs") -> None:
    """Raise ValueError for NaN or infinity on the CPU; elsewhere, and in a transformation, nothing is looked at."""
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and not transforming():
        _check_finite(x.detach(), name)


def steps_kept(max_delay: Any, layer: LayerTensors, state: Any, names: ArgumentNames) -> int:
    """For how many steps a state of this layer keeps inputs and spikes: max_delay; None: as the state given does, or
    as the longest delay asks for. Raises ValueError where a delay is longer.
    """
    if not layer.has_delays:
        check_no_max_delay(max_delay, names["max_delay"])
        return 0
    delays = {"delay": layer.delay, "recurrent_delay": layer.recurrent_delay}
    past = None
    if isinstance(state, HetSynState):
        past = state.past_spikes if layer.delay is None else state.past_inputs
    if max_delay is None and isinstance(past, Tensor) and past.ndim > 0:
        max_delay = len(past)
    if transforming() or torch.compiler.is_compiling():  # where nobody can look at a value
        return checked_max_delay(max_delay, {}, names)
    return checked_max_delay(max_delay, {name: None if d is None else d.detach() for name, d in delays.items()}, names)


def checked_state(state: Any, layer: LayerTensors, batch: int, names: ArgumentNames, max_delay: int = 0) -> HetSynState:
    """The state before the first step, in the dtype and on the device of the layer; None: zeros.

    max_delay  as `steps_kept` gives it

    In a graph that is compiled, zeros are no tensors: a state with nothing but a past (`written_out` makes them of it).
    """
    weight = layer.weight
    if state is None:
        return _no_state(layer, batch, max_delay) if torch.compiler.is_compiling() else _zeros(layer, batch, max_delay)
    shapes = state_shapes(layer._asdict(), layer.threshold is not None, batch, max_delay)
    return check_parts(state, shapes, weight, names)


def check_parts(
    state: Any, shapes: Mapping[str, tuple[int, ...] | None], weight: Tensor, names: ArgumentNames
) -> HetSynState:
    """A state whose parts have these shapes and this weight's dtype and device, or ValueError."""
    if not isinstance(state, HetSynState):
        raise ValueError(f"{names['state']}: expected a HetSynState or None, got {type(state).__name__}")
    for part, value, shape in zip(STATE, state, shapes.values(), strict=True):
        if value is None and shape is None:
            continue
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{names[f'state.{part}']}: expected a torch tensor, got {type(value).__name__}")
        check_part(names, part, value, shape)
        assert value is not None  # where a shape is wanted, None has just been refused
        check_layout(value, names[f"state.{part}"])
        if value.dtype != weight.dtype or value.device != weight.device:
            came = f"{value.dtype} on {value.device}"
            raise ValueError(f"{names[f'state.{part}']}: expected {weight.dtype} on {weight.device}, got {came}")
    return HetSynState(*(None if part is None else usable(part) for part in state))


def _no_state(layer: LayerTensors, batch: int, max_delay: int) -> HetSynState:
    """Zeros in a graph: nothing, but the past, by which an operator knows how many steps are kept."""
    (n, m), new = layer.weight.shape, layer.weight.new_zeros
    past_inputs = None if layer.delay is None else new((max_delay, batch, m))
    past_spikes = None if layer.recurrent_delay is None else new((max_delay, batch, n))
    return HetSynState(None, past_inputs=past_inputs, past_spikes=past_spikes)


def written_out(state: HetSynState, layer: LayerTensors, batch: int) -> HetSynState:
    """The state, zeros as tensors of their own."""
    if state.current is not None:
        return state
    shapes = state_shapes(layer._asdict(), layer.threshold is not None, batch, steps_of(state))
    return HetSynState(**{part: None if s is None else layer.weight.new_zeros(s) for part, s in shapes.items()})


def steps_of(state: HetSynState) -> int:
    """How many steps the past of a state has."""
    past = state.past_spikes if state.past_inputs is None else state.past_inputs
    return 0 if past is None else len(past)


def _zeros(layer: LayerTensors, batch: int, max_delay: int) -> HetSynState:
    """The state before the first step: zeros that are not written out.

    To ask `state_shapes` for them took 3 % of a short call; a test holds the two to each other.
    """
    weight = layer.weight
    lacks = tuple(f is None for f in (layer.recurrent_weight, layer.reset_decay, layer.adaptation_decay))
    arguments = (*weight.shape, batch, lacks, layer.threshold is not None, weight.dtype, weight.device)
    # a single number could be written to in place; what is made in a transformation belongs to it
    zeros_of = _expanded_zeros if batch * len(weight) == 1 or transforming() else _kept_zeros
    state = zeros_of(*arguments)
    if not layer.has_delays:
        return state
    n, m = weight.shape
    alone = max_delay * batch * min(n, m) == 1
    zero = (zeros.new_zero if alone else zeros.zero)(weight.dtype, weight.device)
    _check_past_fits(max_delay, batch * ((layer.delay is not None) * m + (layer.recurrent_delay is not None) * n), zero)
    past_inputs = None if layer.delay is None else zero.expand(max_delay, batch, m)
    past_spikes = None if layer.recurrent_delay is None else zero.expand(max_delay, batch, n)
    return state._replace(past_inputs=past_inputs, past_spikes=past_spikes)


def _check_past_fits(max_delay: int, numbers: int, like: Tensor) -> None:
    """Raise ValueError where the past that a state keeps, so many numbers a step, is more than there is memory."""
    if like.device.type == "cpu":
        expected = "max_delay: expected so few steps that a state fits memory"
        memory.check_fits(f"{expected}, got {max_delay}", max_delay * numbers * like.itemsize)


@functools.lru_cache(maxsize=64)
def _kept_zeros(
    n: int, m: int, batch: int, lacks: tuple[bool, ...], spiking: bool, dtype: torch.dtype, device: torch.device
) -> HetSynState:
    return _expanded_zeros(n, m, batch, lacks, spiking, dtype, device, zeros.zero)


def _expanded_zeros(
    n: int,
    m: int,
    batch: int,
    lacks: tuple[bool, ...],
    spiking: bool,
    dtype: torch.dtype,
    device: torch.device,
    zero_of: Callable[[torch.dtype, torch.device], Tensor] = zeros.new_zero,
) -> HetSynState:
    with torch.inference_mode(False):  # kept ones must serve training too
        zero = zero_of(dtype, device)
        no_recurrence, no_reset, no_adaptation = lacks
        one = zero.expand(batch, n)
        return HetSynState(
            zero.expand(batch, n, m),
            None if no_recurrence else zero.expand(batch, n, n),
            None if no_reset else one,
            None if no_adaptation else one,
            one if spiking else None,
            one,
        )


def _as_tensor(name: str, value: Any, weight: Tensor, autocast: bool, names: ArgumentNames) -> Tensor | None:
    """A field as a tensor beside this weight; numbers take its device and the dtype of the arithmetic."""
    if value is None:
        return None
    if name in MASKS:
        return _as_mask(name, value, weight, names)
    dtype = compute_dtype(weight)
    if not isinstance(value, Tensor):
        try:
            return torch.tensor(value, dtype=dtype, device=weight.device)
        except (TypeError, ValueError, RuntimeError):
            hint = ": draw from an initialiser once, with its shape" if callable(value) else ""
            came = f"{type(value).__name__}{hint}"
            raise ValueError(f"{names[name]}: expected a number or a torch tensor, got {came}") from None
    if name in DELAYS and not value.dtype.is_floating_point and value.dtype != torch.bool:
        value = value.to(dtype)  # whole steps
    if value.device != weight.device:
        raise ValueError(f"{names[name]}: expected on the weight's device, {weight.device}, got {value.device}")
    allowed = {dtype} if name in PRECISE else {dtype, weight.dtype}
    if value.dtype not in allowed and not (autocast and value.dtype.is_floating_point and name not in PRECISE):
        dtypes = " or ".join(sorted(str(d) for d in allowed))
        raise ValueError(f"{names[name]}: expected {dtypes} beside a weight of {weight.dtype}, got {value.dtype}")
    return usable(value)


def _as_mask(name: str, value: Any, weight: Tensor, names: ArgumentNames) -> Tensor:
    if isinstance(value, Tensor) and value.dtype == torch.bool and value.layout == torch.strided:
        if value.device != weight.device:
            raise ValueError(f"{names[name]}: expected on the weight's device, {weight.device}, got {value.device}")
        return value
    return torch.from_numpy(as_mask(names[name], value)).to(weight.device)


def _plain(t: Tensor) -> Any:
    """What a check reads: NumPy for CPU tensors, since torch's threads would spin on into the kernel's first part."""
    t = t.detach()
    if t.device.type != "cpu":
        return t
    return (t.float() if t.dtype in HALF else t).numpy()


def _check_finite(x: Tensor, name: str) -> None:
    """One NaN or infinity makes the sum so, which is one pass and no copy."""
    if x.numel() < AT_ONCE or x.device.type != "cpu":
        total = x.detach().sum().item()
    else:
        with np.errstate(all="ignore"):
            total = np.add.reduce(_plain(x), axis=None)
    if isfinite(total):
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
    if device.type == "meta":  # which no autocast knows
        return False
    if _AUTOCAST_TAKES_A_DEVICE:
        ask: Any = torch.is_autocast_enabled
        enabled: bool = ask(device.type)
        return enabled
    return torch.is_autocast_cpu_enabled() if device.type == "cpu" else torch.is_autocast_enabled()
