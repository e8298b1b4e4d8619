"""NIR files: a node as groups and data sets of HDF5, in NIR's own layout, read within bounds and written whole.

    version              a text
    node                 a group: the entries of the node; type, and arrays as data sets
    node/nodes/<name>    the nodes of a graph, groups alike;  node/edges (E, 2) texts;  node/metadata a group

A file of ours has a digest as an attribute of the file, which NIR's own reader does not look for. Texts are written
with a fixed length: those of variable length, as others write them, lie on a heap that damage makes a trap.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hetsyn_plugins.core import hdf5
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.files import write_bytes
from hetsyn_plugins.core.hdf5_rows import read_rows
from hetsyn_plugins.exchange.nir.nodes import Node
from hetsyn_plugins.exchange.nir.sealing import content_of

WHAT = "a NIR file"
NIR_VERSION = "1.0.8"  # of nir, whose layout this is
PACKED_FROM = 1 << 10  # bytes: smaller ones grow when they are packed
MOST_ENDS = 100_000  # of edges
DAMAGED = "it is damaged or was changed: use a copy, or write it anew"


def write_node(node: Node, path: Path) -> None:
    """Write a node with its digest, whole or not at all."""
    buffer = io.BytesIO()
    content = content_of(node)
    with h5py.File(buffer, "w") as file:
        file["version"] = np.bytes_(NIR_VERSION)
        _write(file.create_group("node"), content)
        hdf5.write_digest(file, content)
    write_bytes(path, buffer.getvalue())


def _write(group: h5py.Group, node: dict[str, Any]) -> None:
    for name, value in node.items():
        if isinstance(value, dict):
            _write(group.create_group(name), value)
        elif isinstance(value, str):
            group[name] = np.bytes_(value.encode())
        elif isinstance(value, list):
            group[name] = np.array([[end.encode() for end in edge] for edge in value] or np.zeros((0, 2), "S1"))
        else:
            packed = {"compression": "gzip", "shuffle": True} if value.nbytes >= PACKED_FROM else {}
            group.create_dataset(name, data=value, **packed)


def read_node(path: Path, largest: int) -> Node:
    """The node that a file holds, its arrays of at most `largest` bytes together.

    Its digest must hold where it has one: a file of ours that nir has read and written again has only those of its
    nodes. Raises FileNotFoundError, or FileFormatError where it is no NIR file, is damaged, or larger than that.
    """
    return hdf5.opened(path, WHAT, _node_of, largest=largest)


def _node_of(file: h5py.File) -> Node:
    path = Path(file.filename)
    node = file.get("node")
    if not isinstance(node, h5py.Group):
        raise FileFormatError(path, WHAT, "an HDF5 file of another kind", field="node")
    content = {name: _read(item, path, f"node/{name}") for name, item in node.items()}
    if hdf5.DIGEST in file.attrs:
        hdf5.check_written(file, content, to_do=DAMAGED)
    return content


def _read(item: Any, path: Path, where: str) -> Any:
    """A group as a dict, a data set as a text, an array or edges."""
    if isinstance(item, h5py.Group):
        return {name: _read(inner, path, f"{where}/{name}") for name, inner in item.items()}
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        raise FileFormatError(path, "values", "none", field=where)
    kind = item.dtype.kind
    if kind == "S" or h5py.check_string_dtype(item.dtype) is not None:
        return _texts(item, path, where)
    if kind not in "iufb" or item.dtype.itemsize > 8 or item.dtype.subdtype is not None:
        raise FileFormatError(path, "texts or real numbers", f"{item.dtype}", field=where)
    return np.asarray(item[()])


def _texts(item: h5py.Dataset, path: Path, where: str) -> Any:
    """A text, or the pairs of texts that edges are."""
    if item.shape != () and (item.ndim != 2 or item.shape[1] != 2 or item.size > MOST_ENDS):
        raise FileFormatError(path, f"a text, or pairs of texts, at most {MOST_ENDS}", f"{item.shape}", field=where)
    if item.dtype.kind == "S":
        raw = [bytes(value) for value in np.asarray(item[()]).ravel()]
    else:
        packed, lengths = read_rows(item)
        whole, ends = packed.tobytes(), np.cumsum(lengths)
        raw = [whole[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    try:
        texts = [value.decode() for value in raw]
    except UnicodeDecodeError as error:
        raise FileFormatError(path, "texts in UTF-8", f"other bytes: {error}", field=where) from error
    if item.shape == ():
        return texts[0]
    return [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
