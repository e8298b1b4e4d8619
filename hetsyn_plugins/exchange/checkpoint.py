"""Networks in files: the arrays, with the architecture as JSON beside them (`core/array_file.py`).

No pickle, written atomically (a file that exists is replaced only by a whole one), the same bytes for the same network,
checked by a digest when it is read back into plain data, and from there into any framework that is installed.

    <i>.<field>           a field of layer i (`core/fields.py`), or weight and bias of a Linear
    <i>.stored.<field>    tau or log tau, where that is what is trained
    <i>.codebook.<part>   decays (K,) and indices (`core.codebook.Codebook`), with share="codebook" in the place of the
                          decays of synapses; indices of one byte where they fit
    <i>.mask              of a layer with masks, as <i>.recurrent_mask: bits, a row a neuron (numpy.packbits)
    <i>.values.<name>     in the place of an array with an entry a synapse: those of synapses that are there, row by row
    architecture          a list of layers: type, name, options

Files of format 1 had several entries of metadata and no digest: format, format_version, hetsyn_plugins (the version)
and architecture; they are read with a warning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, fields
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.core import array_file
from hetsyn_plugins.core.array_file import ArrayFile
from hetsyn_plugins.core.bounded import parse_json
from hetsyn_plugins.core.codebook import INDICES, Codebook, check_index
from hetsyn_plugins.core.convolution import Convolution
from hetsyn_plugins.core.fields import ARRAYS, DECAYS, MASKS, NUMBERS, SYNAPTIC, Array
from hetsyn_plugins.core.file_format import LATER, FileFormatError, check_digest, from_check
from hetsyn_plugins.core.memory import check_fits
from hetsyn_plugins.core.network import (
    OPTIONS,
    AlwaysOn,
    Dropout,
    Flatten,
    HetSynConv,
    HetSynLayer,
    Layer,
    Linear,
    Network,
    Pool,
)
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import NAMED, Foreign, MultiGaussian, Surrogate

FORMAT = "hetsyn_plugins network"
POOLING = ("kind", "kernel_size", "stride", "padding")
MOST = 1 << 20  # of a kernel's, a stride's, ... numbers
WHAT = "a checkpoint of hetsyn_plugins"


def save(net: Any, path: str | os.PathLike[str]) -> None:
    """Write a Network, or a net of any adapter that `convert` takes, to a file.

    A spike function or surrogate that is not this package's is not written (it is code): a warning says so, and the
    default takes its place on load.
    """
    network = net if isinstance(net, Network) else _convert(net, "reference")
    arrays: dict[str, Array] = {}
    architecture = [describe(index, layer, arrays) for index, layer in enumerate(network.layers)]
    array_file.write(Path(path), FORMAT, {"architecture": architecture}, arrays)


def load(path: str | os.PathLike[str], to: str = "reference", dt: float | None = None) -> Any:
    """Read a network from a file: as plain data (to="reference", a Network) or as `convert(..., to, dt)` makes it.

    Raises FileNotFoundError, or FileFormatError (a ValueError) where the file is not such a checkpoint, is damaged, of
    a later format, or holds what the target cannot have. Warns (UncheckedFileWarning) of a file without a digest.
    """
    file = array_file.read(path, WHAT)
    is_checked = set(file.metadata) == {array_file.ENTRY}
    entries = array_file.checked_content(file, FORMAT, WHAT).get("architecture") if is_checked else _of_before(file)
    network = network_of(file, entries)
    if not is_checked:
        check_digest(file.path, None, None, to_do="")
    return _convert(network, to, dt, file.path)


def _convert(net: Any, to: str, dt: float | None = None, path: Path | None = None) -> Any:
    """`convert`, where there is anything to do; what it says against a network of a file names the file."""
    if isinstance(net, Network) and to == "reference" and dt is None:
        return net
    from hetsyn_plugins.exchange.conversion import check_target, convert  # plain data need no torch

    check_target(to, dt)
    try:
        return convert(net, to=to, dt=dt)
    except ValueError as error:
        if path is None:
            raise
        raise from_check(path, error) from error


# ---- written -------------------------------------------------------------------------------------------------------


def describe(index: int, layer: Layer, arrays: dict[str, Array]) -> dict[str, Any]:
    """The layer's entry in the architecture; its arrays go to `arrays`."""
    if isinstance(layer, HetSynConv):
        neurons = describe(index, layer.layer, arrays)
        return {**neurons, "type": "HetSynConv", "convolution": layer.convolution._asdict()}
    entry: dict[str, Any] = {"type": type(layer).__name__, "name": layer.name}
    if isinstance(layer, HetSynLayer):
        parts = {name: getattr(layer.params, name) for name in ARRAYS}
        if layer.codebook is not None:
            parts |= {**dict.fromkeys(SYNAPTIC), **_codebook_parts(layer.codebook)}
        parts |= {f"stored.{name}": array for name, array in layer.stored.items()}
        there = _without_absent({name: array for name, array in parts.items() if array is not None})
        arrays |= {f"{index}.{name}": array for name, array in there.items()}
        entry |= {name: getattr(layer, name) for name in OPTIONS}
        entry |= {"learned": sorted(layer.learned), "autapses": layer.autapses}
        entry |= {"spiking": layer.params.spiking, "surrogate": _describe_surrogate(layer.surrogate)}
        entry |= {"max_delay": layer.params.max_delay}
        if layer.params.mask is not None:
            entry["inputs"] = layer.params.weight.shape[1]
    elif isinstance(layer, Linear):
        arrays[f"{index}.weight"] = layer.weight
        if layer.bias is not None:
            arrays[f"{index}.bias"] = layer.bias
        entry["learned"] = sorted(layer.learned)
    elif isinstance(layer, Dropout):
        entry["p"] = layer.p
    elif isinstance(layer, Pool):
        entry |= {name: getattr(layer, name) for name in POOLING}
    return entry


def _codebook_parts(codebook: Codebook) -> dict[str, Any]:
    parts: dict[str, Any] = {f"codebook.{name}": array for name, array in codebook._asdict().items()}
    kind = np.uint8 if len(codebook.decays) <= 256 else np.int64
    return {name: a if a is None or a.dtype != np.int32 else a.astype(kind) for name, a in parts.items()}


def _without_absent(parts: dict[str, Array]) -> dict[str, Array]:
    """The arrays of a layer, without the entries of synapses that are masked out."""
    kept = dict(parts)
    for name, kind in MASKS.items():
        if name not in parts:
            continue
        mask: Any = parts[name]
        kept[name] = np.packbits(mask, axis=1)  # type: ignore[assignment]  # bytes
        for key in _of_synapses(kind):
            if key in kept and kept[key].shape == mask.shape:
                kept[f"values.{key}"] = kept.pop(key)[mask]
    return kept


def _of_synapses(kind: str) -> tuple[str, ...]:
    """What arrays may have an entry a synapse, of kind "" or "recurrent_"."""
    return f"{kind}weight", f"{kind}decay", f"{kind}delay", f"stored.{kind}decay"


def _describe_surrogate(surrogate: Surrogate) -> dict[str, Any] | None:
    if type(surrogate) not in NAMED.values():
        code = surrogate.spike_grad if isinstance(surrogate, Foreign) else surrogate
        warnings.warn(
            f"{code!r} is code and is not written to the checkpoint; "
            "a network loaded from it spikes alike, and trains on with the multi-Gaussian surrogate",
            stacklevel=4,
        )
        return None
    return {"type": type(surrogate).__name__, **{name: float(value) for name, value in asdict(surrogate).items()}}


# ---- read ----------------------------------------------------------------------------------------------------------


def _of_before(file: ArrayFile) -> Any:
    """The architecture of a file of format 1."""
    metadata = file.metadata
    if metadata.get("format") != FORMAT:
        raise FileFormatError(file.path, WHAT, "a safetensors file of another kind")
    if metadata.get("format_version") != "1":
        expected, version = "format 1, or one metadata entry", metadata.get("format_version", "none")
        raise FileFormatError(file.path, expected, version, field="format_version", to_do=LATER)
    if set(metadata) != {"format", "format_version", "hetsyn_plugins", "architecture"}:
        expected = "format, format_version, hetsyn_plugins and architecture"
        raise FileFormatError(file.path, expected, ", ".join(sorted(metadata)), field="__metadata__")
    return parse_json(metadata["architecture"], file.path, "an architecture in JSON", "architecture")


def network_of(file: ArrayFile, entries: Any) -> Network:
    """The network that the entries of an architecture and the arrays are, all of them used."""
    if not isinstance(entries, list):
        raise FileFormatError(file.path, "a list of layers", entries, field="architecture")
    arrays: dict[str, dict[str, Array]] = {}
    for name, array in file.arrays.items():
        index, _, field = name.partition(".")
        arrays.setdefault(index, {})[field] = array
    layers = [_layer(file.path, index, entry, arrays.get(str(index), {})) for index, entry in enumerate(entries)]
    for index, left in arrays.items():
        for field in left:
            raise FileFormatError(file.path, "an array of a layer", "one that no layer has", field=f"{index}.{field}")
    try:
        return Network(tuple(layers))
    except ValueError as error:
        raise from_check(file.path, error) from error


def _layer(path: Path, index: int, entry: Any, arrays: dict[str, Array]) -> Layer:
    """The layer of an entry that has what such a layer needs and nothing else; it takes its arrays out of `arrays`."""
    where = f"layer {index}"
    kind = entry.get("type") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise FileFormatError(path, f"a layer of type {', '.join(KINDS)}", entry, field=where)
    make, needed, added = KINDS[kind]
    entry = {**added, **entry}
    if set(entry) != {"type", "name", *needed}:
        raise FileFormatError(path, ", ".join(("type", "name", *needed)), ", ".join(entry), field=where)
    try:
        return make(entry, arrays)
    except ValueError as error:
        raise from_check(path, error, field=where) from error


def _hetsyn(entry: dict[str, Any], arrays: dict[str, Array]) -> HetSynLayer:
    codebook = _codebook(arrays) if entry["share"] == "codebook" else None
    masks = _put_back(arrays, entry["inputs"], entry["parametrization"])
    fields: dict[str, Any] = {**{field: arrays.pop(field, None) for field in NUMBERS}, **masks}
    if codebook is not None:
        fields |= {
            field: None if i is None else codebook.decays[i] for field, i in zip(SYNAPTIC, codebook[1:], strict=True)
        }
    return HetSynLayer(
        entry["name"],
        HetSynParams(**fields, spiking=entry["spiking"], max_delay=entry["max_delay"]),
        surrogate=_surrogate(entry["surrogate"]),
        learned=_learned(entry["learned"]),
        stored={field: arrays.pop(f"stored.{field}") for field in DECAYS if f"stored.{field}" in arrays},
        autapses=entry["autapses"],
        codebook=codebook,
        **{option: entry[option] for option in OPTIONS},
    )


def _conv(entry: dict[str, Any], arrays: dict[str, Array]) -> HetSynConv:
    given = entry["convolution"]
    if not isinstance(given, dict) or set(given) != set(Convolution._fields):
        raise ValueError(f"convolution: expected {', '.join(Convolution._fields)}, got {given!r}")
    numbers = {name: _whole_numbers(name, given[name]) for name in Convolution._fields}
    return HetSynConv(_hetsyn(entry, arrays), Convolution(**numbers))


def _pool(entry: dict[str, Any], arrays: dict[str, Array]) -> Pool:
    sizes = (_whole_numbers(name, entry[name]) for name in POOLING[1:])
    return Pool(entry["name"], entry["kind"], *sizes)


def _whole_numbers(name: str, value: Any) -> Any:
    """A whole number, or one or two of them in a list as a tuple; not so large that a position has no number."""
    each = value if isinstance(value, list) else [value]
    if not 1 <= len(each) <= 2 or not all(type(v) is int and 0 <= v < MOST for v in each):
        raise ValueError(f"{name}: expected whole numbers below {MOST}, got {value!r}")
    return tuple(each) if isinstance(value, list) else value


def _flatten(entry: dict[str, Any], arrays: dict[str, Array]) -> Flatten:
    return Flatten(entry["name"])


def _put_back(arrays: dict[str, Array], inputs: Any, parametrization: str) -> dict[str, Array]:
    """The masks of a layer, of which the arrays get whole matrices again: 0, and decays of 0, where no synapse is."""
    masks: dict[str, Array] = {}
    for name, kind in MASKS.items():
        if name not in arrays:
            continue
        bits: Any = arrays.pop(name)
        columns = inputs if kind == "" else len(bits)
        if bits.dtype != np.uint8 or bits.ndim != 2 or type(columns) is not int or bits.shape[1] != -(-columns // 8):
            raise ValueError(f"{name}: expected bits of {columns} inputs, got {bits.dtype} of {bits.shape}")
        _check_fits(name, (len(bits), columns), [arrays.get(f"values.{key}") for key in _of_synapses(kind)])
        masks[name] = mask = np.unpackbits(bits, axis=1, count=columns).astype(bool)
        for key in _of_synapses(kind):
            values = arrays.pop(f"values.{key}", None)
            if values is None:
                continue
            if values.shape != (mask.sum(),):
                raise ValueError(f"values.{key}: expected shape ({mask.sum()},), got {values.shape}")
            nothing = -np.inf if key.startswith("stored") and parametrization == "log_tau" else 0.0
            arrays[key] = np.full(mask.shape, nothing, values.dtype)
            arrays[key][mask] = values
    return masks


def _check_fits(mask: str, shape: tuple[int, int], values: list[Array | None]) -> None:
    """Raise ValueError where the whole matrices of a mask are more than there is memory: it has a bit a synapse."""
    a_synapse = 4 + 2 * sum(array.itemsize for array in values if array is not None)  # as they are read, and in a layer
    check_fits(f"{mask}: expected synapses whose matrices fit memory, got {shape}", prod(shape) * a_synapse)


def _codebook(arrays: dict[str, Array]) -> Codebook:
    """The codebook among the arrays of a layer, its indices among its decays."""
    decays, *indices = (arrays.pop(f"codebook.{name}", None) for name in Codebook._fields)
    if decays is None or decays.ndim != 1 or decays.dtype.kind != "f":
        came = "none" if decays is None else f"{decays.dtype} of {decays.shape}"
        raise ValueError(f"codebook.decays: expected floating-point numbers of shape (K,), got {came}")
    for name, index in zip(INDICES.values(), indices, strict=True):
        check_index(f"codebook.{name}", index, index, len(decays))
    return Codebook(decays, *(None if i is None else i.astype(np.int32) for i in indices))  # type: ignore[arg-type]  # None is told of


def _linear(entry: dict[str, Any], arrays: dict[str, Array]) -> Linear:
    weight: Any = arrays.pop("weight", None)
    return Linear(entry["name"], weight, arrays.pop("bias", None), _learned(entry["learned"]))


def _dropout(entry: dict[str, Any], arrays: dict[str, Array]) -> Dropout:
    return Dropout(entry["name"], entry["p"])


def _always_on(entry: dict[str, Any], arrays: dict[str, Array]) -> AlwaysOn:
    return AlwaysOn(entry["name"])


def _learned(names: Any) -> frozenset[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"learned: expected a list of names, got {names!r}")
    return frozenset(names)


def _surrogate(entry: Any) -> Surrogate:
    """The surrogate of an entry; None stands for code that was not written."""
    if entry is None:
        return MultiGaussian()
    classes = {cls.__name__: cls for cls in NAMED.values()}
    values = dict(entry) if isinstance(entry, dict) else {}
    kind = values.pop("type", None)
    if not isinstance(kind, str) or kind not in classes:
        raise ValueError(f"surrogate: expected None or one of type {', '.join(classes)}, got {entry!r}")
    needed = [parameter.name for parameter in fields(classes[kind])]
    if set(values) != set(needed):
        raise ValueError(f"surrogate: expected {kind} with {', '.join(needed) or 'nothing'}, got {entry!r}")
    return classes[kind](**values)


class Kind(NamedTuple):
    """How a kind of layer is made of its entry, which has type, name and these; `added` later than the first files."""

    make: Callable[[dict[str, Any], dict[str, Array]], Layer]
    needed: tuple[str, ...] = ()
    added: dict[str, Any] = {}  # noqa: RUF012  never written to


NEURONS = (*OPTIONS, "learned", "autapses", "spiking", "surrogate", "max_delay", "inputs")
KINDS = {
    "HetSynLayer": Kind(_hetsyn, NEURONS, {"autapses": True, "batch_first": False, "max_delay": 0, "inputs": None}),
    "Linear": Kind(_linear, ("learned",), {"learned": sorted(Linear.learned)}),
    "Dropout": Kind(_dropout, ("p",)),
    "AlwaysOn": Kind(_always_on),
    "HetSynConv": Kind(_conv, (*NEURONS, "convolution"), {"inputs": None}),
    "Pool": Kind(_pool, POOLING),
    "Flatten": Kind(_flatten),
}
