"""What a node stands for, in its metadata: layers as a checkpoint has them, with a digest over node and layers.

    hetsyn_layer               the name of the layer that the node is, or is a part of
    dt, scheme                 the step that the node's constants are for, seconds, and how: "euler"
    hetsyn_layers              JSON: the layers' entries, as in a checkpoint (`exchange/checkpoint.py`)
    hetsyn_layer_<i>.<field>   an array of layer i
    hetsyn_digest              of the node with all this

Stock readers run the node and pass the metadata by; ours takes the layers, bit for bit, once the digest says that node
and layers still belong together: a node that another tool has trained on since is refused, not read as what it was.
All entries are texts, numbers and arrays, side by side: earlier versions of nir cannot read metadata in groups.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hetsyn_plugins.core.array_file import ArrayFile
from hetsyn_plugins.core.bounded import parse_json
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.file_format import FileFormatError, check_digest, digest
from hetsyn_plugins.core.network import Layer
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.exchange.nir.nodes import Node

LAYER = "hetsyn_layer"
ARRAY, LAYERS, DIGEST = "hetsyn_layer_", "hetsyn_layers", "hetsyn_digest"
SCHEME = "euler"
STALE = "it was changed since: take the metadata away to read the node as it stands, or export the network anew"


def seal(node: Node, layers: Sequence[Layer], dt: float) -> Node:
    """The node with what it stands for."""
    arrays: dict[str, Array] = {}
    entries = [checkpoint.describe(index, layer, arrays) for index, layer in enumerate(layers)]
    said = {"dt": dt, "scheme": SCHEME, LAYERS: json.dumps(entries, sort_keys=True, allow_nan=False)}
    metadata: dict[str, Any] = {**node.get("metadata", {}), **said}
    # of no axes: a number, which HDF5 does not want to pack
    metadata |= {ARRAY + name: array if array.ndim else array[()] for name, array in arrays.items()}
    sealed = {**node, "metadata": metadata}
    metadata[DIGEST] = digest(content_of(sealed))
    return sealed


def is_sealed(node: Node) -> bool:
    """Does a node say what layers it stands for?"""
    return LAYERS in node.get("metadata", {})


def unsealed(node: Node, path: Path, field: str) -> tuple[Layer, ...]:
    """The layers that a node stands for. Raises FileFormatError where they are no longer those."""
    metadata = dict(node["metadata"])
    stated = metadata.pop(DIGEST, None)
    if not isinstance(stated, str):
        raise FileFormatError(path, "a digest beside hetsyn_layers", "none", field=f"{field}: metadata")
    check_digest(path, content_of({**node, "metadata": metadata}), stated, to_do=STALE)
    where = f"{field}: {LAYERS}"
    if not isinstance(metadata[LAYERS], str):
        raise FileFormatError(path, "a text", metadata[LAYERS], field=where)
    entries = parse_json(metadata.pop(LAYERS), path, "layers in JSON", where)
    arrays: dict[str, Any] = {
        name[len(ARRAY) :]: np.asarray(value) for name, value in metadata.items() if name.startswith(ARRAY)
    }
    return checkpoint.network_of(ArrayFile(path, {}, arrays), entries).layers


def content_of(node: Any) -> Any:
    """A node as a file gives it back: whatever is no text, group or edges is an array.

    What goes without saying is left out, a v_reset of 0, too: nir 1.0.4 does not know it, and later ones put it in.
    """
    if isinstance(node, dict):
        return {name: content_of(value) for name, value in node.items() if not _is_default(name, value)}
    if isinstance(node, list):
        return [[str(end) for end in edge] for edge in node]
    return node if isinstance(node, str) else np.asarray(node)


def _is_default(name: str, value: Any) -> bool:
    return (name == "metadata" and not value) or (name == "v_reset" and not np.any(value))
