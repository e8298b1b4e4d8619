"""Networks in files: safetensors for the arrays, with the architecture, dt and versions as JSON in its metadata.

No pickle, written atomically (a file that exists is replaced only by a whole one), read back into plain data and from
there into any framework that is installed.

    <i>.<field>           a field of layer i (`core/fields.py`), or weight and bias of a Linear
    <i>.stored.<field>    tau or log tau, where that is what is trained
    metadata              format, format_version, hetsyn_plugins (its version), architecture: a JSON list of layers
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from hetsyn_plugins._version import __version__
from hetsyn_plugins.core.fields import ARRAYS, Array
from hetsyn_plugins.core.files import write_bytes
from hetsyn_plugins.core.network import OPTIONS, AlwaysOn, Dropout, HetSynLayer, Layer, Linear, Network
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import NAMED, Foreign, MultiGaussian, Surrogate

FORMAT = "hetsyn_plugins network"
FORMAT_VERSION = 1


def save(net: Any, path: str | os.PathLike[str]) -> None:
    """Write a Network, or a net of any adapter that `convert` takes, to a file.

    A spike function or surrogate that is not this package's is not written (it is code): a warning says so, and the
    default takes its place on load.
    """
    network = net if isinstance(net, Network) else _convert(net, "reference")
    arrays: dict[str, Array] = {}
    architecture = [_describe(index, layer, arrays) for index, layer in enumerate(network.layers)]
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "hetsyn_plugins": __version__,
        "architecture": json.dumps(architecture),
    }
    write_bytes(Path(path), to_bytes({k: np.array(a, order="C") for k, a in arrays.items()}, metadata))


def load(path: str | os.PathLike[str], to: str = "reference", dt: float | None = None) -> Any:
    """Read a network from a file: as plain data (to="reference", a Network) or as `convert(..., to, dt)` makes it.

    Raises FileNotFoundError, or ValueError where the file is not such a checkpoint, is damaged, or of a later format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: expected a checkpoint file, got {path}, which does not exist")
    if not path.is_file():
        raise ValueError(f"path: expected a checkpoint file, got {path}, which is no file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"path: expected a whole safetensors file, got {path}: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"path: expected a checkpoint of hetsyn_plugins, got {path}, a safetensors file of another kind"
        )
    version = metadata.get("format_version", "none")
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        expected = f"format {FORMAT_VERSION} or earlier"
        raise ValueError(f"path: expected {expected}, got {version} in {path}: update hetsyn_plugins")
    try:
        entries = json.loads(metadata["architecture"])
        network = Network(tuple(_layer(index, entry, arrays) for index, entry in enumerate(entries)))
    except json.JSONDecodeError as error:
        raise ValueError(f"path: expected an architecture in JSON, got {path}, where it is damaged: {error}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"path: expected a complete checkpoint, got {path}, which lacks {error}") from error
    return _convert(network, to, dt)


def _convert(net: Any, to: str, dt: float | None = None) -> Any:
    if isinstance(net, Network) and to == "reference" and dt is None:
        return net
    from hetsyn_plugins.exchange.conversion import convert  # plain data need no torch

    return convert(net, to=to, dt=dt)


def _describe(index: int, layer: Layer, arrays: dict[str, Array]) -> dict[str, Any]:
    """The layer's entry in the architecture; its arrays go to `arrays`."""
    entry: dict[str, Any] = {"type": type(layer).__name__, "name": layer.name}
    if isinstance(layer, HetSynLayer):
        fields = {name: getattr(layer.params, name) for name in ARRAYS}
        arrays |= {f"{index}.{name}": array for name, array in fields.items() if array is not None}
        arrays |= {f"{index}.stored.{name}": array for name, array in layer.stored.items()}
        entry |= {name: getattr(layer, name) for name in OPTIONS}
        entry |= {"learned": sorted(layer.learned), "autapses": layer.autapses}
        entry |= {"spiking": layer.params.spiking, "surrogate": _describe_surrogate(layer.surrogate)}
    elif isinstance(layer, Linear):
        arrays[f"{index}.weight"] = layer.weight
        if layer.bias is not None:
            arrays[f"{index}.bias"] = layer.bias
        entry["learned"] = sorted(layer.learned)
    elif isinstance(layer, Dropout):
        entry["p"] = layer.p
    return entry


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


def _layer(index: int, entry: dict[str, Any], arrays: dict[str, Array]) -> Layer:
    kind, name = entry["type"], entry["name"]
    if kind == "HetSynLayer":
        entry = {"autapses": True, "batch_first": False, **entry}  # the first files had neither
        fields = {field: arrays.get(f"{index}.{field}") for field in ARRAYS}
        prefix = f"{index}.stored."
        return HetSynLayer(
            name,
            HetSynParams(**fields, spiking=entry["spiking"]),
            surrogate=_surrogate(entry["surrogate"]),
            learned=frozenset(entry["learned"]),
            stored={key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)},
            autapses=entry["autapses"],
            **{option: entry[option] for option in OPTIONS},
        )
    if kind == "Linear":
        learned = frozenset(entry.get("learned", Linear.learned))  # which the first files had not
        return Linear(name, arrays[f"{index}.weight"], arrays.get(f"{index}.bias"), learned)
    if kind == "Dropout":
        return Dropout(name, entry["p"])
    if kind == "AlwaysOn":
        return AlwaysOn(name)
    raise ValueError(f"architecture: expected a known layer, got {kind!r} for layer {name!r}")


def _surrogate(entry: dict[str, Any] | None) -> Surrogate:
    if entry is None:
        return MultiGaussian()
    values = dict(entry)
    classes = {cls.__name__: cls for cls in NAMED.values()}
    return classes[values.pop("type")](**values)
