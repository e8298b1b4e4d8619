"""What was read, as one fingerprint of its values, and what is wrong with it whatever the file says."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from fuzzing.cases import MARKUP, SECRET
from fuzzing.loaders import Page, Resumed
from hetsyn_plugins.core.fields import PARAMETRIZATIONS, SHARES
from hetsyn_plugins.core.network import AlwaysOn, Dropout, Flatten, HetSynConv, HetSynLayer, Network, Pool
from hetsyn_plugins.experiments.data.shd import CHANNELS, Recordings
from hetsyn_plugins.fixed_point.network import FixedNetwork

LARGEST = 1 << 28  # bytes of an array that are looked at
PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]*)")


def fingerprint(value: Any) -> str:
    """Equal for equal values, types, shapes and bits, whatever the file that they came from looked like."""
    sha = hashlib.sha256()
    for part in parts(value):
        sha.update(b"%d " % len(part))
        sha.update(part)
    return sha.hexdigest()


def leaks(value: Any) -> bool:
    """Whether the canary's secret stands anywhere in it."""
    return any(SECRET in part for part in parts(value))


def parts(value: Any) -> Iterator[bytes]:
    """All that a value is made of."""
    if isinstance(value, Page):
        yield value.html.encode("utf-8", "surrogatepass")
        yield from (base64.b64decode(picture) for picture in PICTURE.findall(value.html))
    elif isinstance(value, torch.Tensor):
        yield from parts(value.detach().to_dense().numpy() if value.device.type == "cpu" else str(value))
    elif isinstance(value, (np.ndarray, np.generic)):
        yield from _parts_of_array(np.asarray(value))
    elif is_dataclass(value):
        yield type(value).__name__.encode()
        yield from parts({field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            yield from parts(key)
            yield from parts(value[key])
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield f"{type(value).__name__} {len(value)}".encode()
        entries = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        if all(isinstance(entry, (int, float)) for entry in entries):  # at once: a file may hold millions
            yield repr(entries).encode()
            return
        for entry in entries:
            yield from parts(entry)
    else:
        yield value if isinstance(value, bytes) else f"{type(value).__name__} {value!r}".encode("utf-8", "replace")


def _parts_of_array(array: Any) -> Iterator[bytes]:
    yield f"{array.dtype.newbyteorder('<').str} {array.shape}".encode()
    if array.dtype.hasobject:
        yield from parts(array.tolist())
    elif array.nbytes <= LARGEST:
        yield np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()


# ---- what cannot be ----------------------------------------------------------------------------------------------


def wrong(value: Any) -> str:
    """Why no such thing may come out of a file, or ""."""
    return next(_faults(value), "")


def _faults(value: Any) -> Iterator[str]:
    if isinstance(value, Network):
        yield from _of_network(value)
    elif isinstance(value, Resumed):
        yield from _of_state(value)
    elif isinstance(value, Recordings):
        yield from _of_recordings(value)
    elif isinstance(value, Page) and MARKUP in value.html:
        yield "markup of a file stands in the page as it is"
    elif isinstance(value, tuple) and value and isinstance(value[0], FixedNetwork):
        yield from _of_chip(*value)
    elif isinstance(value, tuple) and value and isinstance(value[0], Network):
        yield from _of_network(value[0])
        yield from (f"v of {name} NaN" for name, (_, v) in value[1].items() if np.isnan(v).any())


def _of_network(network: Network) -> Iterator[str]:
    if not network.layers:
        yield "no layers"
    for layer in network.layers:
        if not isinstance(layer.name, str):
            yield f"the name {layer.name!r}"
        if isinstance(layer, HetSynLayer):
            yield from _of_hetsyn(layer)
        elif isinstance(layer, Dropout):
            if isinstance(layer.p, bool) or not isinstance(layer.p, (int, float)) or not 0 <= layer.p <= 1:
                yield f"p = {layer.p!r}"
        elif isinstance(layer, HetSynConv):
            yield from _of_hetsyn(layer.layer)
        elif isinstance(layer, Pool):
            yield from _of_pool(layer)
        elif not isinstance(layer, (AlwaysOn, Flatten)):
            yield from (f"{n} not finite" for n in ("weight", "bias") if not _finite(getattr(layer, n)))


def _of_pool(pool: Pool) -> Iterator[str]:
    sizes = (*pool.kernel_size, *pool.stride, *pool.padding)
    if pool.kind not in ("average", "largest") or not all(type(size) is int and size >= 0 for size in sizes):
        yield f"a pool {pool!r}"


def _of_hetsyn(layer: HetSynLayer) -> Iterator[str]:
    params, dt = layer.params, layer.dt
    if dt is not None and (isinstance(dt, bool) or not isinstance(dt, (int, float)) or not 0 < dt < math.inf):
        yield f"dt = {dt!r}"
    for field in fields(params):
        array = getattr(params, field.name)
        if isinstance(array, np.ndarray):
            if not _finite(array):
                yield f"{field.name} not finite"
            if field.name.endswith("decay") and not ((array >= 0) & (array <= 1)).all():
                yield f"{field.name} outside [0, 1]"
    for name, kind in (("mask", ""), ("recurrent_mask", "recurrent_")):
        mask = getattr(params, name)
        if mask is not None and (mask.dtype != bool or getattr(params, f"{kind}weight")[~mask].any()):
            yield f"a weight where {name} has no synapse"
    for name in ("delay", "recurrent_delay"):
        delay = getattr(params, name)
        if delay is not None and not ((delay >= 0) & (delay <= params.max_delay)).all():
            yield f"{name} outside [0, {params.max_delay}]"
    for name, array in layer.stored.items():
        if np.isnan(array).any():
            yield f"stored {name} NaN"
    for name in ("tie_reset", "detach_reset", "autapses", "batch_first"):
        if not isinstance(getattr(layer, name), bool):
            yield f"{name} = {getattr(layer, name)!r}"
    if layer.share not in SHARES or layer.parametrization not in PARAMETRIZATIONS:
        yield f"share {layer.share!r}, parametrization {layer.parametrization!r}"


def _finite(array: Any) -> bool:
    return array is None or bool(np.isfinite(array).all())


def _of_chip(network: FixedNetwork, dt: Any) -> Iterator[str]:
    if not network.layers:
        yield "no layers"
    if dt is not None and not 0 < dt < math.inf:
        yield f"dt = {dt!r}"


def _of_state(state: Resumed) -> Iterator[str]:
    if type(state.iteration) is not int or not 0 <= state.iteration <= state.total:
        yield f"iteration {state.iteration!r} of {state.total}"
    if not isinstance(state.seconds, (int, float)) or not 0 <= state.seconds < math.inf:
        yield f"seconds {state.seconds!r}"
    for name, tensor in state.model.items():
        if not bool(tensor.isfinite().all()):
            yield f"{name} not finite"


def _of_recordings(found: Recordings) -> Iterator[str]:
    if not (np.isfinite(found.times).all() and (found.times >= 0).all() and (found.units < CHANNELS).all()):
        yield "times or units out of range"
    if len(found.offsets) != len(found.labels) + 1 or found.offsets[-1] != len(found.times) or len(found.labels) == 0:
        yield "offsets that do not fit"
