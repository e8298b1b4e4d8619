"""What may be given for a field, a state or inputs, and what is said where it does not fit.

The checks take NumPy arrays and torch tensors alike, because they use attributes and operators only. Every message is
"name: expected X, got Y"; `argument_names` says what the caller calls a thing, ours -> the caller's, where it differs.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from math import ceil, inf, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetsyn_plugins.core.fields import DELAY, FIELDS, NAMES, POSITIVE, STATE, Array, HetSynState, Range, full_shapes


def checked_dt(dt: float | None) -> float:
    """Return dt, in seconds, or raise where it is missing, not finite or not positive."""
    number = dt if type(dt) is float else as_number(dt)
    if not 0 < number < inf:
        raise ValueError(f"dt: expected a step length in seconds, finite and > 0, got {dt}")
    return number


def as_number(value: Any) -> float:
    """A real number as a float; NaN for anything else, a text or a bool too."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        return nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return nan


def checked_number(name: str, value: Any, allowed: Range) -> float:
    """A number in a range as a float; ValueError for one outside, and for anything that is no number."""
    number = as_number(value)
    if not allowed.holds(number):
        raise ValueError(f"{name}: expected {allowed.expected}, got {value!r}")
    return number


def checked_bool(name: str, value: Any) -> bool:
    """True or False, of Python or NumPy; ValueError for anything else, 0 and 1 too."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def full_shape(name: str, weight: Any) -> tuple[int, ...]:
    """The shape of a field when nothing is shared, for a weight of shape (N, M)."""
    return full_shapes(*weight.shape)[FIELDS[name].axes]


def expand(value: Any, shape: tuple[int, ...]) -> Any:
    """A field written out to its full shape; a one-dimensional decay of a synapse means one a neuron."""
    if len(shape) == 2 and value.ndim == 1:
        value = value[:, None]
    return np.broadcast_to(value, shape) if isinstance(value, np.ndarray) else value.expand(shape)


def check_has_values(name: str, tensor: Any) -> None:
    """Raise ValueError for a tensor of the meta device."""
    if tensor.is_meta:
        raise ValueError(f"{name}: expected values, got a tensor on the meta device, which holds none")


def host_array(name: str, value: Any, dtype: Any = None) -> NDArray[Any]:
    """The values as NumPy has them, of an array or of a tensor on any device; ValueError where it has none (meta)."""
    if hasattr(value, "detach"):
        check_has_values(name, value)
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype)


def as_array(name: str, value: Any, dtype: Any) -> Array:
    """A copy of the value as float32 or float64; `dtype` is that of the weight, None for the weight itself."""
    if value is None:
        raise ValueError(f"{name}: expected float32 or float64 numbers, got None")
    if hasattr(value, "detach"):
        value = host_array(name, value)
    typed = isinstance(value, np.ndarray)
    try:
        array = np.array(value, None if typed or dtype is None else dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected float32 or float64 numbers, got {value!r}: {error}") from error
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name}: expected float32 or float64 numbers, got {array.dtype}")
    if dtype is not None and array.dtype != dtype:
        raise ValueError(f"{name}: expected the weight's dtype, {dtype}, got {array.dtype}")
    return array


def allowed_shapes(name: str, weight: Any) -> list[tuple[int, ...]]:
    """The shapes that a field may have beside a weight of shape (N, M)."""
    full = full_shape(name, weight)
    if not FIELDS[name].shared:
        return [full]
    n = full[0]
    return [full, (), (n,), (n, 1), (1, full[1])] if len(full) == 2 else [full, ()]


def check_fields(fields: Mapping[str, Any], spiking: bool, argument_names: Mapping[str, str] = NAMES) -> None:
    """Raise ValueError unless the fields, None where there is none, belong together and fit the weight's (N, M)."""
    weight = fields["weight"]
    if weight.ndim != 2 or 0 in weight.shape:
        argument = argument_names.get("weight", "weight")
        raise ValueError(f"{argument}: expected shape (N, M), got {tuple(weight.shape)}")
    shapes = full_shapes(*weight.shape)
    for name, field in FIELDS.items():
        value = fields[name]
        if value is None:
            _check_absent(name, fields, argument_names)
        elif field.reads_spikes and not spiking:
            why = "expected None where spiking=False (the readout has no spikes), got a value"
            raise ValueError(f"{argument_names.get(name, name)}: {why}")
        else:
            _check_whole(name, fields, argument_names)
            if value.shape != shapes[field.axes]:
                check_shape(name, value, weight, argument_names)


def _check_absent(name: str, fields: Mapping[str, Any], argument_names: Mapping[str, str]) -> None:
    """Raise ValueError where a field that the layer needs is None."""
    field, argument = FIELDS[name], argument_names.get(name, name)
    if field.required:
        what = "a number > 0" if field.range is POSITIVE else "a number, an array or an initialiser"
        raise ValueError(f"{argument}: expected {what}, got None")
    if field.beside is not None and fields[field.beside] is not None:
        beside = argument_names.get(field.beside, field.beside)
        raise ValueError(f"{argument}: expected together with {beside}, got None")


def _check_whole(name: str, fields: Mapping[str, Any], argument_names: Mapping[str, str]) -> None:
    """Raise ValueError where a field is there without the one that it is a part of."""
    whole = FIELDS[name].part_of
    if whole is not None and fields[whole] is None:
        argument, of = (argument_names.get(each, each) for each in (name, whole))
        raise ValueError(f"{argument}: expected None where there is no {of}, got a value")


def check_shape(name: str, value: Any, weight: Any, argument_names: Mapping[str, str]) -> None:
    """Raise ValueError where a field has a shape that it may not have."""
    allowed = allowed_shapes(name, weight)
    if tuple(value.shape) not in allowed:
        shapes = " or ".join(dict.fromkeys(str(shape) for shape in allowed))
        beside = f"beside a weight of {tuple(weight.shape)}"
        argument = argument_names.get(name, name)
        raise ValueError(f"{argument}: expected shape {shapes} {beside}, got {tuple(value.shape)}")


def check_values(fields: Mapping[str, Any], argument_names: Mapping[str, str] = NAMES) -> None:
    """Raise ValueError unless every field's values lie in its range."""
    for name, field in FIELDS.items():
        value = fields[name]
        if value is not None and not field.range.holds(value).all():
            argument = argument_names.get(name, name)
            raise ValueError(f"{argument}: expected {field.range.expected}, got {describe_values(value)}")


def describe_values(value: Any) -> str:
    """What came, in few words: the number itself or how many are NaN and the range of the rest."""
    array = as_plain(value)
    if array.size == 1:
        return str(array.item())
    nan = int(np.isnan(array).sum())
    rest = array[~np.isnan(array)]
    limits = f"values from {rest.min():.6g} to {rest.max():.6g}" if rest.size else "no number"
    return f"{limits} and {nan} NaN" if nan else limits


def as_plain(value: Any) -> Array:
    """A float64 NumPy view of an array or tensor, for messages."""
    return np.asarray(value.detach().double().cpu() if hasattr(value, "detach") else value, np.float64)


def state_shapes(
    fields: Mapping[str, Any], spiking: bool, batch: int, max_delay: int = 0
) -> dict[str, tuple[int, ...] | None]:
    """The shape of every part of a HetSynState for these fields; None where the layer has no such part."""
    full = {axes: (batch, *shape) for axes, shape in full_shapes(*fields["weight"].shape).items()}
    shapes: dict[str, tuple[int, ...] | None] = {}
    for name, part in STATE.items():
        has = spiking if part.needs == "spiking" else fields.get(part.needs) is not None
        shape = (max_delay, *full[part.axes]) if part.kept else full[part.axes]
        shapes[name] = shape if has else None
    return shapes


LONGEST_DELAY = 1 << 24  # steps: beyond it float32 does not tell one from the next


def checked_max_delay(max_delay: Any, delays: Mapping[str, Any], argument_names: Mapping[str, str] = NAMES) -> int:
    """For how many steps a layer keeps what it was given: max_delay, or what these delays (name -> values) need.

    Raises ValueError where it is no whole number or less than one of the delays, and for delays out of their range or
    of more than LONGEST_DELAY: they say where kernels read.
    """
    argument = argument_names.get("max_delay", "max_delay")
    if max_delay is None and any(value is not None and getattr(value, "is_meta", False) for value in delays.values()):
        raise ValueError(f"{argument}: expected a whole number of steps beside delays without values (meta), got None")
    steps, needed = LONGEST_DELAY if max_delay is None else _steps(argument, max_delay), 0
    for name, value in delays.items():
        if value is None or 0 in value.shape or getattr(value, "is_meta", False):
            continue
        whose, (least, most) = argument_names.get(name, name), (float(value.min()), float(value.max()))
        if not (DELAY.holds(least) and DELAY.holds(most)):  # NaN is both
            raise ValueError(f"{whose}: expected {DELAY.expected}, got {describe_values(value)}")
        if most > steps:
            limit = steps if max_delay is None else f"{argument} = {steps}"
            raise ValueError(f"{whose}: expected delays of at most {limit} steps, got {most:.6g}")
        needed = max(needed, ceil(most))
    return needed if max_delay is None else steps


def check_no_max_delay(max_delay: Any, argument: str) -> None:
    """Raise ValueError for a max_delay of a layer without delays; 0 is what such a layer has."""
    if max_delay is not None and not (isinstance(max_delay, int) and max_delay == 0):
        raise ValueError(f"{argument}: expected None where there are no delays, got {max_delay!r}")


def _steps(argument: str, max_delay: Any) -> int:
    """max_delay as an int, or ValueError."""
    try:
        steps = operator.index(max_delay)
    except TypeError:
        steps = -1
    if steps < 0:
        raise ValueError(f"{argument}: expected a whole number of steps, 0 or more, got {max_delay!r}")
    if steps > LONGEST_DELAY:
        raise ValueError(f"{argument}: expected at most {LONGEST_DELAY} steps, got {_shortened(steps)}")
    return steps


def _shortened(number: int) -> str:
    """A whole number, in few words where it has many digits."""
    return str(number) if abs(number) < 10**30 else "a number of more than 30 digits"


def check_state(state: Any, shapes: Mapping[str, tuple[int, ...] | None]) -> None:
    """Raise ValueError unless the state is a HetSynState of this layer and of the inputs' batch."""
    if not isinstance(state, HetSynState):
        raise ValueError(f"state: expected a HetSynState or None, got {type(state).__name__}")
    for part, shape in shapes.items():
        check_part(None, part, getattr(state, part), shape)


def check_part(argument_names: Mapping[str, str] | None, part: str, value: Any, shape: tuple[int, ...] | None) -> None:
    """Raise ValueError unless a part of a state has the shape that the layer's has; None: it has none.

    argument_names  has "state.reset", ... where the caller calls them otherwise
    """
    if (None if value is None else value.shape) != shape:
        argument = (argument_names or NAMES).get(f"state.{part}", f"state.{part}")
        came = None if value is None else tuple(value.shape)
        raise ValueError(f"{argument}: expected shape {shape}, got {came}; is the state another layer's or batch's?")


def check_inputs_shape(inputs: Any, weight: Any) -> None:
    """Raise ValueError unless the inputs are (T, B, M) with the weight's M."""
    m = weight.shape[1]
    if inputs.ndim != 3 or inputs.shape[2] != m:
        raise ValueError(f"inputs: expected shape (T, B, {m}), time first, got {tuple(inputs.shape)}")


def check_samples(name: str, value: Any, sequence: Any) -> None:
    """Raise ValueError unless a value has an entry (a row) for each sample of a sequence (T, B, ...)."""
    if value.shape[:1] != sequence.shape[1:2]:
        expected = f"{sequence.shape[1]}, one a sample of (T, B, ...) = {tuple(sequence.shape)}"
        hint = layout_hint(value.shape[:1], sequence.shape)
        raise ValueError(f"{name}: expected {expected}, got shape {tuple(value.shape)}{hint}")


def layout_hint(shape: tuple[int, ...], sequence: tuple[int, ...]) -> str:
    """What to say where something has the shape (B,), beside a sequence (T, B, ...): of one that fits T and not B.

    Where B = T, time and batch that are swapped cannot be seen.
    """
    steps, batch = sequence[:2]
    if tuple(shape) != (steps,) or steps == batch:
        return ""
    return (
        f"; {steps} is T: time and batch look swapped, sequences are (T, B, ...), or (B, T, ...) for layers that are "
        "built with batch_first=True"
    )


def checked_size(name: str, value: Any) -> int:
    """The number of lines or neurons as an int, or ValueError where it is not a whole number > 0."""
    try:
        size = operator.index(value)
    except TypeError:
        size = 0
    if size < 1:
        raise ValueError(f"{name}: expected a whole number > 0, got {value!r}")
    return size
