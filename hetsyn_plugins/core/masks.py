"""Which synapses of a layer there are: boolean masks, of whatever says so, and what is absent set to 0."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetsyn_plugins.core.fields import BOOLEAN, MASKS, NAMES
from hetsyn_plugins.core.validation import describe_values, host_array

Mask = NDArray[np.bool_]
_said: set[str] = set()


def as_mask(name: str, value: Any) -> Mask:
    """A copy of a mask as booleans.

    value   booleans, or numbers that are 0 and 1, as an array, a list or a tensor; or a sparse tensor of torch, which
            has a synapse where it has a value that is not 0

    Raises ValueError naming what came otherwise.
    """
    if getattr(value, "is_sparse", False) or "sparse" in str(getattr(value, "layout", "")):
        return host_array(name, value.detach().to_dense()) != 0
    array = host_array(name, value)
    if array.dtype != bool and (array.dtype.kind not in "iuf" or not np.isin(array, (0, 1)).all()):
        came = describe_values(array) if array.dtype.kind in "iuf" else str(array.dtype)
        raise ValueError(f"{name}: expected {BOOLEAN.expected}, got {came}")
    return np.array(array, bool)


def say_empty_rows(fields: Mapping[str, Any], names: Mapping[str, str] = NAMES) -> None:
    """Say, once for each mask of the kind, that some neurons of a layer have no synapses: that may be meant."""
    for name in MASKS:
        mask = fields.get(name)
        if mask is None or getattr(mask, "is_meta", False):
            continue
        empty = int((~mask.any(1)).sum())
        what = f"{names.get(name, name)}: {empty} of {len(mask)} neurons have no synapse in it"
        if empty and what not in _said:
            _said.add(what)
            warnings.warn(f"{what}: nothing reaches them there", stacklevel=3)


def without_absent(fields: Mapping[str, Any], parts: tuple[str, ...] = ("weight",)) -> dict[str, Any]:
    """The fields, arrays or tensors, with these parts of absent synapses, written out in full, set to 0."""
    present = dict(fields)
    for name, kind in MASKS.items():
        mask = fields.get(name)
        for part in parts if mask is not None else ():
            present[f"{kind}{part}"] = _where(mask, present[f"{kind}{part}"])
    return present


def _where(mask: Any, values: Any) -> Any:
    """The values where the mask is True, else 0, whatever stands there."""
    if isinstance(values, np.ndarray):
        return np.where(mask, values, values.dtype.type(0))
    return values.where(mask, 0.0)
