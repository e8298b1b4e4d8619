"""NIRData: spikes and v beside a graph, in the file format of nir (from 1.0.7 on) for what was recorded of its nodes.

    nodes/<name>/observables/<observable>    of a node;  nodes/<name>/nodes/...  of a graph in the graph
    data (B, T, N), attribute dt             TimeGriddedData
    idx, time (B, events), n_neurons, t_max  EventData: -1 and infinity fill the rows; value (B, events), where it has

Arrays here are time first, (T, B, N), as everywhere in this package.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetsyn_plugins.core import hdf5
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.files import write_bytes
from hetsyn_plugins.core.network import HetSynLayer, Network, check_flat
from hetsyn_plugins.exchange.nir.nodes import OUTPUT, Node
from hetsyn_plugins.exchange.nir.sealing import LAYER

WHAT = "a file of NIRData"
DEEPEST = 8  # graphs in graphs
LARGEST = 256_000_000  # bytes of a grid


class Gridded(NamedTuple):
    """What was measured at every step: data (T, B, N); dt, seconds."""

    data: Array
    dt: float


class Events(NamedTuple):
    """Spikes, one row of a batch behind the other: row, neuron and time, seconds, of each; batch, neurons and t_max."""

    row: NDArray[np.intp]
    neuron: NDArray[np.int64]
    time: Array
    shape: tuple[int, int]
    t_max: float

    def gridded(self, dt: float, largest: int = LARGEST) -> Array:
        """0 or 1 at every step of dt, (T, B, N), float32. Raises ValueError where that is more than `largest` bytes."""
        steps = round(self.t_max / dt) if 0 < self.t_max / dt < 1e9 else 0
        size = 4 * steps * self.shape[0] * self.shape[1]
        if not steps or size > largest:
            raise ValueError(f"dt: expected a step that makes 1 to {largest} bytes of {self.t_max:g} s, got {dt:g}")
        grid = np.zeros((steps, *self.shape), np.float32)
        step = np.floor(self.time / dt + 1e-6).astype(np.int64)
        grid[np.clip(step, 0, steps - 1), self.row, self.neuron] = 1
        return grid


Recording = dict[str, dict[str, Gridded | Events]]


# ---- written -------------------------------------------------------------------------------------------------------


def write_recording(network: Network, graph: Node, inputs: ArrayLike, path: Path, dt: float) -> None:
    """Run a network in float64 and write spikes and v of every layer under the names of the nodes that give them."""
    check_flat(network, "a recording")
    buffer = io.BytesIO()
    places = dict(_places(graph))
    with h5py.File(buffer, "w") as file:
        file.attrs["__type__"] = "NIRGraphData"
        file.create_group("nodes")
        for p in network.walk(inputs):
            if isinstance(p.layer, HetSynLayer):
                observables = _place(file, places[p.layer.name])
                _grid(observables.create_group("v"), p.v, dt)
                if p.spikes is not None:
                    _events(observables.create_group("spikes"), p.spikes, dt)
    write_bytes(path, buffer.getvalue())


def _places(graph: Node) -> Iterator[tuple[str, tuple[str, ...]]]:
    """By a layer's name, the way to the node that gives what the layer gives: of a chain's the last comes last."""
    for name, node in graph["nodes"].items():
        layer = node.get("metadata", {}).get(LAYER)
        if layer is not None and node["type"] == "NIRGraph":
            yield layer, (name, next(start for start, end in node["edges"] if end == OUTPUT))
        elif layer is not None:
            yield layer, (name,)


def _place(file: h5py.File, names: tuple[str, ...]) -> h5py.Group:
    group = file
    for at, name in enumerate(names):
        group = group["nodes"].create_group(name)
        is_node = at == len(names) - 1
        group.attrs["__type__"] = "NIRNodeData" if is_node else "NIRGraphData"
        group.create_group("observables" if is_node else "nodes")
    return group["observables"]


def _grid(group: h5py.Group, v: Array, dt: float) -> None:
    group.attrs["__type__"], group.attrs["dt"] = "TimeGriddedData", dt
    group.create_dataset("data", data=v.swapaxes(0, 1), compression="gzip", shuffle=True)


def _events(group: h5py.Group, spikes: Array, dt: float) -> None:
    """Spikes at the middle of their steps, where no rounding of a division takes them to another."""
    batch, neurons = spikes.shape[1:]
    rows, steps, who = np.nonzero(spikes.swapaxes(0, 1))
    counts = np.bincount(rows, minlength=batch)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    idx, time = np.full((batch, max(1, *counts)), -1), np.full((batch, max(1, *counts)), np.inf)
    idx[rows, place], time[rows, place] = who, (steps + 0.5) * dt
    group["idx"], group["time"] = idx, time
    t_max = len(spikes) * dt
    while int(t_max / dt) < len(spikes):  # as nir counts the steps
        t_max = float(np.nextafter(t_max, np.inf))
    attributes = {"__type__": "EventData", "n_neurons": neurons, "t_max": t_max}
    group.attrs.update(attributes)


# ---- read ----------------------------------------------------------------------------------------------------------


def read_recording(path: Path, largest: int) -> Recording:
    """What was recorded, by the nodes' names ("graph/node" within a graph) and observables.

    Raises FileNotFoundError, or FileFormatError where it is no such file, is damaged, or takes more than `largest`.
    """
    return hdf5.opened(path, WHAT, lambda file: dict(_nodes(file, path, "", DEEPEST)), largest=largest)


def _nodes(group: Any, path: Path, prefix: str, levels: int) -> Iterator[tuple[str, dict[str, Gridded | Events]]]:
    nodes = group.get("nodes")
    if not isinstance(nodes, h5py.Group) or levels == 0:
        raise FileFormatError(path, WHAT, "no nodes" if levels else "graphs nested deeper", field=f"{prefix}nodes")
    for name, node in nodes.items():
        where = f"{prefix}{name}"
        observables = node.get("observables") if isinstance(node, h5py.Group) else None
        if isinstance(observables, h5py.Group):
            yield where, {key: _observable(item, path, f"{where}: {key}") for key, item in observables.items()}
        elif isinstance(node, h5py.Group):
            yield from _nodes(node, path, f"{where}/", levels - 1)
        else:
            raise FileFormatError(path, "a node", "values", field=where)


def _observable(group: Any, path: Path, where: str) -> Gridded | Events:
    """An observable, by what it holds: its attribute __type__ is a text on HDF5's heap, which damage makes a trap."""
    if not isinstance(group, h5py.Group):
        raise FileFormatError(path, "a group", "values", field=where)
    if "data" in group:
        data = _array(group, "data", 3, "biuf", path, where)
        dt = _number(group, "dt", path, where)
        if not 0 < dt < np.inf:
            raise FileFormatError(path, "dt > 0", dt, field=where)
        return Gridded(data.swapaxes(0, 1), dt)
    idx = _array(group, "idx", 2, "iu", path, where)
    time = _array(group, "time", 2, "f", path, where)
    neurons, t_max = _number(group, "n_neurons", path, where), _number(group, "t_max", path, where)
    there = idx >= 0 if idx.dtype.kind == "i" else np.ones(idx.shape, bool)
    if time.shape != idx.shape or not (neurons > 0 and 0 <= t_max < np.inf) or neurons != int(neurons):
        raise FileFormatError(path, "an idx for each time, n_neurons > 0 and t_max", "others", field=where)
    if (idx[there] >= neurons).any() or not ((time[there] >= 0) & (time[there] <= t_max)).all():
        raise FileFormatError(path, f"neurons below {neurons:g} at times from 0 to {t_max:g}", "others", field=where)
    rows = np.nonzero(there)[0]
    return Events(rows, idx[there].astype(np.int64), time[there].astype(float), (len(idx), int(neurons)), t_max)


def _array(group: h5py.Group, name: str, axes: int, kinds: str, path: Path, where: str) -> Any:
    item = group.get(name)
    if not isinstance(item, h5py.Dataset) or item.shape is None or item.ndim != axes or item.dtype.kind not in kinds:
        raise FileFormatError(path, f"{name} of {axes} axes", "none or another", field=where)
    return np.asarray(item[()])


def _number(group: h5py.Group, name: str, path: Path, where: str) -> float:
    """An attribute, which is looked at before it is read: it may be anything."""
    attribute = group.attrs.get_id(name) if name in group.attrs else None
    if attribute is None or attribute.shape != () or attribute.dtype.kind not in "iuf":
        raise FileFormatError(path, f"a number {name}", "none or another", field=where)
    return float(group.attrs[name])
