"""Integer networks in files: netx's HDF5 layout with our fields beside the stock ones, by h5py alone.

A layer is a group `layer/<i>`, as Lava-DL's slayer writes it and netx reads it:

    type                    (1,) S10        dense, or dense_rec with recurrent synapses
    shape, inFeatures, outFeatures          N, M, N: M counts an always-on line, which is the last column of `weight`
    weight                  (N, M) float32  weight units, mantissa << exponent; weight_rec (N, N) likewise
    delay                   (N,) float32    steps by which spikes leave later; only where there are such delays
    neuron/type             HETSYN          stock netx knows no such neuron and raises, instead of dropping the layer
    neuron/vThMant          (N,) int64      weight units
    neuron/refDelay, neuron/gradedSpike     1, False

FIELDS has what is ours. There a field that a layer does not have is an empty dataset (null dataspace), so that a
missing one is an error and not another network. `input` and `flatten` groups may stand in front of the layers where
they only pass spikes on. The file is written atomically; `read` builds the whole network or raises FileFormatError that
names the file, the layer and the dataset.

A file vouches for itself: an attribute, which netx does not look at, has the digest of all datasets, dt among them. A
layer that slayer writes into a file of its own has one itself, of its datasets and its place in the file. Version 1 had
none: it is read with an UncheckedFileWarning. Version 3 is a layer whose synapses have delays (DELAYS); one without is
of version 2, as before.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hetsyn_plugins.core import fields, hdf5
from hetsyn_plugins.core.file_format import FileFormatError, check_digest, from_check
from hetsyn_plugins.core.files import write_bytes
from hetsyn_plugins.core.hdf5_rows import read_rows
from hetsyn_plugins.core.validation import checked_dt
from hetsyn_plugins.fixed_point.network import FixedLayer, FixedNetwork
from hetsyn_plugins.fixed_point.neuron import EXPONENTS, MANTISSA, MAX_EXP, FixedParams

NEURON = "HETSYN"
UNCHECKED, VERSION, DELAYED = 1, 2, 3  # of before there were digests; what is written; where synapses have delays
TYPES = ("dense", "dense_rec")
PASSING = ("input", "flatten")  # group types that may stand in front
TO_DO = "export the network anew"


class Dataset(NamedTuple):
    """Where a field of FixedParams stands and in what dtype; its shape is that of the field, or () of one number."""

    path: str
    dtype: str


FIELDS = {
    "decay": Dataset("synapse/decay", "int16"),
    "weight_exp": Dataset("synapse/exponent", "int64"),
    "recurrent_decay": Dataset("synapse/decay_rec", "int16"),
    "recurrent_exp": Dataset("synapse/exponent_rec", "int64"),
    "threshold": Dataset("neuron/vThMant", "int64"),
    "reset_decay": Dataset("neuron/resetDecay", "int16"),
    "adaptation_decay": Dataset("neuron/adaptationDecay", "int16"),
    "adaptation_strength": Dataset("neuron/adaptationStrength", "int64"),
    "bias": Dataset("neuron/bias", "int64"),
    "spiking": Dataset("neuron/spiking", "bool"),
    "fraction": Dataset("neuron/fraction", "int64"),
    "unit": Dataset("neuron/unit", "float64"),
}
DELAYS = {
    "delay": Dataset("synapse/delay", "int16"),
    "recurrent_delay": Dataset("synapse/delay_rec", "int16"),
}
WEIGHTS = {"weight": Dataset("weight", "float32"), "recurrent_weight": Dataset("weight_rec", "float32")}  # as in netx
OPTIONAL = {name for name in (*FIELDS, *DELAYS) if name in fields.FIELDS and not fields.FIELDS[name].required}
TEXTS = ("type", "name", "neuron/type", "neuron/form")


def write(network: FixedNetwork, path: str | os.PathLike[str], *, dt: float | None = None) -> None:
    """Write a network to a file, and dt, the length of a step in seconds, where it is known.

    A file that exists is replaced only by a whole one. Raises FileNotFoundError where the folder does not exist.
    """
    if not isinstance(network, FixedNetwork):
        raise ValueError(
            f"network: expected a FixedNetwork, got {type(network).__name__}; `fixed_point.network.quantise`"
        )
    dt = None if dt is None else checked_dt(dt)
    content = io.BytesIO()  # HDF5 that meets a full disk breaks off when the process ends
    with h5py.File(content, "w") as file:
        for index, layer in enumerate(network.layers):
            _put(file.create_group(f"layer/{index}"), layer)
        if dt is not None:
            file["dt"] = dt
        hdf5.write_digest(file, _content(file))
    write_bytes(Path(path), content.getvalue())


def write_layer(group: h5py.Group, layer: FixedLayer) -> None:
    """Write one layer into an empty group: `layer/<i>` of a file; it has a digest of its own."""
    _put(group, layer)
    hdf5.write_digest(group, _content(group))


def _put(group: h5py.Group, layer: FixedLayer) -> None:
    p = layer.params
    group.create_dataset("type", (1,), "S10", [TYPES[p.recurrent_weight is not None].encode()])
    for dataset, text in (("name", layer.name), ("neuron/type", NEURON), ("neuron/form", p.form)):
        # of fixed length: HDF5 may hang on a damaged heap, where the others are kept
        group[dataset] = np.array(text.encode(), h5py.string_dtype("utf-8", max(1, len(text.encode()))))
    version = VERSION if p.delay is None and p.recurrent_delay is None else DELAYED
    n, m = p.weight.shape
    for dataset, value in _stated(n, m, version).items():
        group[dataset] = value
    group["alwaysOn"] = bool(layer.always_on)
    for name, at in _fields(version).items():
        value = getattr(p, name)
        group[at.path] = h5py.Empty(at.dtype) if value is None else np.asarray(value, at.dtype)
    group["weight"] = (p.weight << p.weight_exp).astype(np.float32)
    if p.recurrent_weight is not None:
        group["weight_rec"] = (p.recurrent_weight << p.recurrent_exp).astype(np.float32)
    if layer.delay is not None:
        group["delay"] = layer.delay.astype(np.float32)


def read(path: str | os.PathLike[str]) -> FixedNetwork:
    """Read a network. Raises FileNotFoundError, or FileFormatError where the file is no such network or damaged."""

    def network(file: h5py.File) -> FixedNetwork:
        groups, passing = list(layer_groups(file)), []
        while groups and read_text(groups[0], "type") in PASSING:
            passing.append(groups.pop(0))
        layers = tuple(map(checked_layer, groups))
        with _told(file):
            built = FixedNetwork(layers)
        for group in passing:
            _check_passes(group, built.layers[0].widths[0])
        _dt(file)
        check_layers(file, groups)
        return built

    return opened(path, network)


def read_dt(path: str | os.PathLike[str]) -> float | None:
    """The length of a step in seconds, or None where the file does not say."""
    return opened(path, _dt)


def read_layer(group: h5py.Group) -> FixedLayer:
    """Read one layer from its group. Raises FileFormatError naming the file, the group and the dataset."""
    layer = checked_layer(group)
    check_layers(group.file, [group])
    return layer


def check_layers(file: h5py.File, groups: Sequence[h5py.Group]) -> None:
    """Raise FileFormatError where layers of ours are not as they were written, by the file's digest or else their own.

    Those of version 1 have none: then an UncheckedFileWarning says so.
    """
    with _told(file):
        vouched = hdf5.DIGEST in file.attrs
        before = [] if vouched else [group for group in groups if _is_of_before(group)]
        for owner in [file] if vouched else groups:
            if owner not in before:
                hdf5.check_written(owner, _content(owner), to_do=TO_DO)
        if before:
            check_digest(file.filename, None, None, to_do=TO_DO)


def _is_of_before(group: h5py.Group) -> bool:
    """Whether nothing tells if a layer is as it was written."""
    return hdf5.DIGEST not in group.attrs and _array(group, "version", np.dtype("int64"), ()) == UNCHECKED


def _content(group: h5py.Group) -> dict[str, Any]:
    """What a digest is made of: all datasets, and where the group stands."""
    return {"at": group.name, "datasets": hdf5.contents(group)}


def _dt(file: h5py.File) -> float | None:
    if "dt" not in file:
        return None
    with _told(file):
        return checked_dt(_array(file, "dt", np.dtype("float64"), ()).item())


def checked_layer(group: h5py.Group) -> FixedLayer:
    """The layer of a group, its values checked, its digest not."""
    with _told(group):
        kind, neuron = read_text(group, "type"), read_text(group, "neuron/type") if "neuron/type" in group else "none"
        if kind not in TYPES:
            raise ValueError(f"type: expected {' or '.join(TYPES)} (input and flatten in front of them), got {kind!r}")
        if neuron != NEURON:
            raise ValueError(f"neuron/type: expected {NEURON}, got {neuron}, which the integer core does not know")
        n, m, version = _stated_there(group)
        _check_known(group, kind, version)
        values = {name: _value(group, name, at, n, m) for name, at in _fields(version).items()}
        for name in ("weight", "recurrent_weight") if kind == "dense_rec" else ("weight",):
            shifted = _value(group, name, WEIGHTS[name], n, m)
            values[name] = _mantissas(WEIGHTS[name].path, shifted, values[EXPONENTS[name]])
        delay = _array(group, "delay", np.dtype("float32"), (n,)) if "delay" in group else None
        form = read_text(group, "neuron/form")
        try:
            params = FixedParams(**values, form=form)
        except ValueError as error:
            raise ValueError(_by_dataset(error)) from error
        always_on = bool(_array(group, "alwaysOn", np.dtype(bool), ()))
        return FixedLayer(read_text(group, "name"), params, always_on, delay)


def _fields(version: int) -> dict[str, Dataset]:
    """Where the fields of FixedParams stand in a layer of this version."""
    return FIELDS | DELAYS if version == DELAYED else FIELDS


def _stated_there(group: h5py.Group) -> tuple[int, int, int]:
    """The shape (N, M) of the weight and the version, once all that follows from them is as it should be."""
    shape = _dataset(group, "weight").shape
    if len(shape or ()) != 2:
        raise ValueError(f"weight: expected shape (N, M), got {shape}")
    version = _array(group, "version", np.dtype("int64"), ()).item()
    if version not in (UNCHECKED, VERSION, DELAYED):
        raise ValueError(f"version: expected {UNCHECKED}, {VERSION} or {DELAYED}, got {version}")
    n, m = shape
    for dataset, stated in _stated(n, m, version).items():
        there = _array(group, dataset, stated.dtype, stated.shape)
        if not np.array_equal(there, stated):
            raise ValueError(f"{dataset}: expected {stated} beside a weight of {shape}, got {there}")
    return n, m, version


def _value(group: h5py.Group, name: str, at: Dataset, n: int, m: int) -> Any:
    """A field of FixedParams, in its own shape; None where the layer does not have it."""
    shape = fields.full_shapes(n, m)[fields.FIELDS[name].axes] if name in fields.FIELDS else ()
    value = _array(group, at.path, np.dtype(at.dtype), shape, name in OPTIONAL)
    return value.item() if value is not None and shape == () else value


def _stated(n: int, m: int, version: int) -> dict[str, Any]:
    """The datasets whose value follows from the shape of the weight, or is the same everywhere."""
    return {
        "version": np.int64(version),
        "shape": np.array([n], np.int64),
        "inFeatures": np.int64(m),
        "outFeatures": np.int64(n),
        "neuron/refDelay": np.int64(1),
        "neuron/gradedSpike": np.bool_(False),
    }


def _mantissas(name: str, weight: Any, exponent: int) -> Any:
    """What was shifted left, as whole numbers; ValueError where there is no such mantissa."""
    if not 0 <= exponent <= MAX_EXP:
        raise ValueError(f"{name}: expected an exponent of 0..{MAX_EXP} beside it, got {exponent}")
    low, high = MANTISSA
    mantissa = weight / np.float64(1 << exponent)
    good = (mantissa == np.rint(mantissa)) & (mantissa >= low) & (mantissa <= high)
    if not good.all():
        wrong = int((~good).sum())
        one = weight[~good][0]
        raise ValueError(f"{name}: expected mantissas {low}..{high} << {exponent}, got {wrong} others, first {one}")
    return mantissa.astype(np.int64)


@contextmanager
def _told(group: h5py.Group) -> Iterator[None]:
    """What goes wrong within is told as of this group: HDF5's own errors, and "name: expected X, got Y" of a check."""
    try:
        yield
    except FileFormatError:
        raise
    except hdf5.HDF5_ERRORS as error:
        raise from_check(group.file.filename, error, field=group.name.strip("/"), to_do=TO_DO) from error


def _by_dataset(error: ValueError) -> str:
    """The message of FixedParams, which begins with its own name of a field, with the dataset's name instead."""
    name, colon, rest = str(error).partition(": ")
    datasets = {"form": "neuron/form", **{field: at.path for field, at in (FIELDS | DELAYS).items()}}
    return f"{datasets.get(name, name)}{colon}{rest}"


# ---- groups and datasets ----------------------------------------------------------------------------------------


def layer_groups(file: h5py.File) -> Iterator[h5py.Group]:
    """The groups layer/0, layer/1, ... in order."""
    layers = file.get("layer")
    if not isinstance(layers, h5py.Group) or not len(layers):
        raise FileFormatError(file.filename, "groups layer/0, layer/1, ... as netx reads them", "none", field="layer")
    for index in range(len(layers)):
        group = layers.get(str(index))
        if not isinstance(group, h5py.Group):
            got = ", ".join(map(str, layers))
            raise FileFormatError(file.filename, f"groups 0 to {len(layers) - 1}", got, field="layer")
        yield group


def _check_passes(group: h5py.Group, lines: int) -> None:
    """Raise FileFormatError unless an input or flatten group does nothing and has as many lines as follow."""
    with _told(group):
        for name in group:
            if name not in ("type", "shape"):
                kind = read_text(group, "type")
                raise ValueError(
                    f"{name}: expected an {kind} that only passes spikes on (type and shape), got one that computes: "
                    "give the integer core what comes out of it"
                )
        shape = read_numbers(group, "shape")
        if np.prod(shape.astype(float)) != lines:
            raise ValueError(f"shape: expected {lines} lines, as go into the next layer, got {shape}")


def _check_known(group: h5py.Group, kind: str, version: int) -> None:
    """Raise ValueError for a dataset that nobody here would read: it says something of another network."""
    ours = (at.path for at in _fields(version).values())
    known = {*TEXTS, *_stated(1, 1, version), "alwaysOn", "weight", "delay", *ours}
    known |= {"weight_rec"} if kind == "dense_rec" else set()
    datasets: list[str] = []
    group.visititems(lambda name, item: datasets.append(name) if isinstance(item, h5py.Dataset) else None)
    for name in datasets:
        if name not in known:
            raise ValueError(f"{name}: expected no such dataset in a {kind} layer of {NEURON} neurons, got one")


def _dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name}: expected a dataset, got {'nothing' if dataset is None else 'a group'}")
    return dataset


def _array(group: h5py.Group, name: str, dtype: Any, shape: tuple[int, ...], optional: bool = False) -> Any:
    """A dataset of just this dtype (in any byte order) and shape; None where it is optional and empty."""
    dataset = _dataset(group, name)
    if dataset.dtype.newbyteorder("=") != dtype:
        raise ValueError(f"{name}: expected {dtype}, got {dataset.dtype}")
    if dataset.shape is None and optional:
        return None
    if dataset.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {dataset.shape}")
    return np.asarray(dataset[()])


def read_numbers(group: h5py.Group, name: str) -> np.ndarray:
    """A dataset of whole numbers, of any width and shape. Raises FileFormatError where it is none."""
    with _told(group):
        dataset = _dataset(group, name)
        if dataset.dtype.kind not in "iu" or dataset.shape is None:
            raise ValueError(f"{name}: expected whole numbers, got {dataset.dtype}")
        return np.asarray(dataset[()])


def read_text(group: h5py.Group, name: str) -> str:
    """A dataset of one string, () or (1,), as text. Raises FileFormatError where it is none."""
    with _told(group):
        dataset = _dataset(group, name)
        kind = h5py.check_string_dtype(dataset.dtype)
        if kind is None or dataset.size != 1:
            raise ValueError(f"{name}: expected one string, got {dataset.dtype} of shape {dataset.shape}")
        # as stock layers have it, a text is a row of variable length, for which HDF5 may hang
        raw = read_rows(dataset)[0].tobytes() if kind.length is None else bytes(np.ravel(dataset[()])[0])
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: expected UTF-8, got {raw!r}") from error


# ---- files ------------------------------------------------------------------------------------------------------


def opened(path: str | os.PathLike[str], reader: Callable[[h5py.File], Any]) -> Any:
    """What `reader` makes of the file, looked through before (`core.hdf5`)."""
    return hdf5.opened(path, "a network file", reader)
