"""A NIR graph as a network: layers that nodes say they stand for, and stock nodes where they have a counterpart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hetsyn_plugins.core.declared import LONGEST_WORD
from hetsyn_plugins.core.file_format import LATER, FileFormatError, from_check
from hetsyn_plugins.core.network import Layer, Network
from hetsyn_plugins.exchange.nir.nodes import Node
from hetsyn_plugins.exchange.nir.sealing import is_sealed, unsealed
from hetsyn_plugins.exchange.nir.stock import Step, Stock
from hetsyn_plugins.exchange.nir.writing import FORMAT, FORMAT_VERSION

DEEPEST = 8  # graphs in graphs
WEIGHTS = ("Linear", "Affine")


def nodes_to_network(graph: Node, path: Path, dt: float | None, reset: str) -> Network:
    """The network of a graph, in which nothing is left out; arguments and errors as of `hetsyn_plugins.nir.read`.

    path   what to call the graph in messages
    """
    if _type(graph, path, "node") != "NIRGraph":
        raise FileFormatError(path, "a NIRGraph", f"a {graph['type']}", field="node")
    metadata = _checked_metadata(graph, path)
    told = metadata.get("dt")
    if dt is None and isinstance(told, np.ndarray) and told.ndim == 0 and told.dtype.kind == "f":
        dt = float(told)
    if is_sealed(graph):
        return _network(unsealed(graph, path, "node"), path)
    way = list(steps(graph, path))  # the graph is looked through before anything is made of it
    stock = Stock(path, dt, reset, _shape_in(graph))
    layers: list[Layer] = []
    for step in way:
        if is_sealed(step.node):
            layers += [*stock.layers(), *unsealed(step.node, path, step.field)]
        else:
            stock.add(step)
    return _network((*layers, *stock.layers()), path)


def _shape_in(graph: Node) -> tuple[int, ...] | None:
    """What the graph's Input says of what comes in, without the batch of one that some exporters leave there."""
    ends = [node for node in graph["nodes"].values() if node["type"] == "Input"]
    shape = np.ravel(ends[0].get("shape", ())) if ends else np.zeros(0)
    if not shape.size or shape.dtype.kind not in "iu" or (shape < 1).any() or (shape > 1 << 20).any():
        return None
    return tuple(map(int, shape[1:] if shape.size in (2, 4) and shape[0] == 1 else shape))


def _network(layers: tuple[Layer, ...], path: Path) -> Network:
    try:
        return Network(layers)
    except ValueError as error:
        raise from_check(path, error) from error


def _checked_metadata(graph: Node, path: Path) -> dict[str, Any]:
    """The metadata of a whole graph, which may be of a format of ours."""
    metadata = _dict(graph.get("metadata", {}), path, "node: metadata")
    if "hetsyn_format" in metadata and metadata["hetsyn_format"] != FORMAT:
        raise FileFormatError(path, FORMAT, metadata["hetsyn_format"], field="hetsyn_format")
    version = metadata.get("hetsyn_format_version", FORMAT_VERSION)
    if np.ndim(version) != 0 or version != FORMAT_VERSION:
        raise FileFormatError(path, f"format {FORMAT_VERSION}", version, field="hetsyn_format_version", to_do=LATER)
    return metadata


# ---- the way from input to output ----------------------------------------------------------------------------------


def steps(graph: Node, path: Path, field: str = "node", levels: int = DEEPEST) -> Iterator[Step]:
    """The nodes from input to output, one behind the other, graphs in the graph opened unless they say what they are.

    Raises FileFormatError, naming the node, where the way forks, ends, or leaves one out. Weights by which a neuron's
    spikes come back to it belong to the neuron.
    """
    if levels == 0:
        raise FileFormatError(path, f"graphs in graphs, {DEEPEST} deep at most", "more", field=field)
    nodes = checked_nodes(graph, path, field)
    following, before = neighbours(graph, nodes, path, field)
    back = coming_back(nodes, following, before)
    at, seen = _end("Input", nodes, path, field), 1 + len(back)
    while nodes[at]["type"] != "Output":
        ahead = [name for name in following[at] if nodes[name] is not back.get(at)]
        if len(ahead) != 1:
            raise FileFormatError(path, "one edge on to the output", f"{len(ahead)}", field=_where(field, at, nodes))
        here, at = at, ahead[0]
        came = [name for name in before[at] if nodes[name] is not back.get(at)]
        if came != [here] or nodes[at]["type"] == "Input":
            raise FileFormatError(
                path, "one edge to it, and none to an Input", f"{len(came)}", field=_where(field, at, nodes)
            )
        seen += 1
        where, node = _where(field, at, nodes), nodes[at]
        if node["type"] == "NIRGraph" and not is_sealed(node):
            if at in back:
                raise FileFormatError(path, "a neuron before weights that lead back", "a graph", field=where)
            yield from steps(node, path, where, levels - 1)
        elif node["type"] != "Output":
            yield Step(at.replace(".", "_"), where, node, back.get(at))  # a module's name has no dot
    _end("Output", nodes, path, field)
    if seen != len(nodes):
        raise FileFormatError(path, f"{len(nodes)} nodes on the way from Input to Output", f"{seen}", field=field)


def checked_nodes(graph: Node, path: Path, field: str) -> dict[str, Node]:
    """The nodes of a graph, each of which is a group and says its type."""
    nodes = _dict(graph.get("nodes"), path, f"{field}/nodes")
    for name, node in nodes.items():
        _type(node, path, f"{field}/nodes/{name}")
        _dict(node.get("metadata", {}), path, f"{field}/nodes/{name}: metadata")
    return nodes


def neighbours(
    graph: Node, nodes: dict[str, Node], path: Path, field: str
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Where edges lead from each node, and where those to it come from."""
    edges = graph.get("edges")
    if not isinstance(edges, list):
        raise FileFormatError(path, "pairs of names", edges, field=f"{field}/edges")
    following: dict[str, list[str]] = {name: [] for name in nodes}
    before: dict[str, list[str]] = {name: [] for name in nodes}
    for start, end in edges:
        if start not in nodes or end not in nodes:
            raise FileFormatError(path, "edges between nodes of the graph", f"{start} to {end}", field=f"{field}/edges")
        following[start].append(end)
        before[end].append(start)
    return following, before


def coming_back(
    nodes: dict[str, Node], following: dict[str, list[str]], before: dict[str, list[str]]
) -> dict[str, Node]:
    """Of each neuron that has such, the weights that only it leads to and that lead to nothing else."""
    return {
        following[name][0]: node
        for name, node in nodes.items()
        if node["type"] in WEIGHTS
        and len(following[name]) == 1
        and following[name] == before[name]
        and nodes[following[name][0]]["type"] not in WEIGHTS
    }


def _end(kind: str, nodes: dict[str, Node], path: Path, field: str) -> str:
    found = [name for name, node in nodes.items() if node["type"] == kind]
    if len(found) != 1:
        raise FileFormatError(path, f"one {kind}", f"{len(found)}", field=field)
    return found[0]


def _where(field: str, name: str, nodes: dict[str, Node]) -> str:
    """A node in a message: where it is, and of what type."""
    return f"{field}/nodes/{name} ({nodes[name]['type']})"


def _type(node: Any, path: Path, field: str) -> str:
    kind = _dict(node, path, field).get("type")
    if not isinstance(kind, str) or len(kind) > LONGEST_WORD or not kind.isprintable():
        raise FileFormatError(path, "the type of a node", "none" if kind is None else kind, field=field)
    return kind


def _dict(value: Any, path: Path, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FileFormatError(path, "a group", "none" if value is None else value, field=field)
    return value
