"""A network as a NIR graph of standard nodes, in one of three forms, with the layers that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hetsyn_plugins._version import __version__
from hetsyn_plugins.core.network import AlwaysOn, HetSynLayer, Layer, Linear, Network, check_flat, check_undelayed
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.validation import checked_dt
from hetsyn_plugins.exchange.nir import units
from hetsyn_plugins.exchange.nir.chain import chain, check_chain
from hetsyn_plugins.exchange.nir.li_bank import li_bank, li_size
from hetsyn_plugins.exchange.nir.loop_form import loop_form, loop_size
from hetsyn_plugins.exchange.nir.nodes import INPUT, OUTPUT, Edges, Node, graph, linear, numbered
from hetsyn_plugins.exchange.nir.sealing import LAYER, SCHEME, seal

FORMAT, FORMAT_VERSION = "hetsyn_plugins nir", 1
STEP = 1e-4  # seconds: what snnTorch takes every file for
LARGEST = 256_000_000  # bytes that the arrays of a file may take in a reader


class Form(NamedTuple):
    """How units become nodes, by the parts of their names, and how many bytes (units, M, N, itemsize) that takes."""

    make: Callable[[units.Units, float], dict[str, Node]]
    size: Callable[[int, int, int, int], int]


FORMS = {
    "loop": Form(lambda u, dt: {"": loop_form(u, dt)}, loop_size),
    "li_bank": Form(lambda u, dt: {"": li_bank(u, dt)}, li_size),
    "chain": Form(chain, li_size),
}


class Group(NamedTuple):
    """A layer that becomes nodes, and all that these stand for: Dropout beside it becomes none."""

    layer: Layer
    layers: tuple[Layer, ...]


def network_to_nodes(network: Network, form: str, dt: float, largest: int) -> Node:
    """The graph of a network; arguments and errors as of `hetsyn_plugins.nir.write`."""
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    check_flat(network, "a NIR file of this package")
    dt, groups = checked_dt(dt), _groups(network)
    for group in groups:
        if isinstance(group.layer, HetSynLayer):
            check_undelayed(group.layer, "a NIR file")
            _check_form(group.layer.name, group.layer.params, form)
    _check_size(network, form, largest)
    width = lines_in = _lines_in(groups)
    parts: list[tuple[str, Node]] = []
    for layer, layers in groups:
        made, width = _nodes_of(layer, width, form, dt)
        for part, node in made.items():
            name = f"{layer.name}_{part}" if part else layer.name
            node["metadata"] = {LAYER: layer.name}
            parts.append((name, node if form == "chain" else seal(node, layers, dt)))
    nodes = {numbered(at, name, len(parts)): node for at, (name, node) in enumerate(parts)}
    names = [INPUT, *nodes, OUTPUT]
    edges: Edges = list(pairwise(names))
    whole = graph(nodes, edges, lines_in, width)
    whole["metadata"] = {
        "dt": dt,
        "scheme": SCHEME,
        "hetsyn_format": FORMAT,
        "hetsyn_format_version": FORMAT_VERSION,
        "hetsyn_version": __version__,
        "hetsyn_form": form,
    }
    return seal(whole, network.layers, dt) if form == "chain" else whole


def _groups(network: Network) -> list[Group]:
    """The layers that become nodes, in order, each with the Dropout behind it; the first with that in front, too."""
    groups: list[Group] = []
    waiting: tuple[Layer, ...] = ()
    for layer in network.layers:
        if isinstance(layer, HetSynLayer | Linear | AlwaysOn):
            groups.append(Group(layer, (*waiting, layer)))
            waiting = ()
        elif groups:
            groups[-1] = Group(groups[-1].layer, (*groups[-1].layers, layer))
        else:
            waiting += (layer,)
    return groups


def _lines_in(groups: list[Group]) -> int:
    """How many lines come into the network: an AlwaysOn in front takes any number."""
    for at, (layer, _) in enumerate(groups):
        if isinstance(layer, HetSynLayer | Linear) and layer.widths[0] > at:
            return layer.widths[0] - at
    raise ValueError("net: expected a HetSyn layer or a Linear, with lines in, got a network without")


def _check_form(name: str, params: HetSynParams, form: str) -> None:
    """Raise ValueError for a layer that this form cannot have."""
    if form == "chain":
        check_chain(name, params)
    if form != "loop" and (units.terms_of(params).decay == 1).any():
        raise ValueError(
            f"net: expected decays below 1 for form={form!r}, got 1 in layer {name!r}: its time constant is infinite, "
            "which NIR's LI has not; form='loop' has it"
        )


def _check_size(network: Network, form: str, largest: int) -> None:
    """Raise ValueError where the nodes, and the layers beside them, take more than a reader has room for."""
    sizes = {layer.name: _size(layer, form) for layer in network.layers}
    name, most = max(sizes.items(), key=lambda item: item[1][0])
    total = sum(size for size, _ in sizes.values())
    if total > largest:
        raise ValueError(
            f"net: expected at most {largest / 1e6:,.0f} MB in the reader, got {total / 1e6:,.0f} MB with "
            f"form={form!r}, {most[0] / 1e6:,.0f} MB of them for layer {name!r}, {most[1]:,} units, one for each decay "
            "that a neuron has; let synapses share decays, hetsyn_plugins.clusters.cluster_network(network, 8) of the "
            "Network of convert(net, to='reference'), whose report says what that changes, or give a larger `largest`"
        )


def _size(layer: Layer, form: str) -> tuple[int, int]:
    """Bytes of a layer's nodes, at most, with those of the layer itself, and how many units it has."""
    if isinstance(layer, HetSynLayer):
        count, (n, m) = units.count(layer.params), layer.params.weight.shape
        own = sum(array.nbytes for array in vars(layer.params).values() if isinstance(array, np.ndarray))
        stored = sum(array.nbytes for array in layer.stored.values())
        return FORMS[form].size(count, m, n, layer.params.weight.itemsize) + own + stored, count
    return (2 * layer.weight.nbytes if isinstance(layer, Linear) else 0), 0


def _nodes_of(layer: Layer, width: int, form: str, dt: float) -> tuple[dict[str, Node], int]:
    """The nodes of a layer that gets so many lines, by the parts of their names, and how many lines leave it."""
    if isinstance(layer, HetSynLayer):
        return FORMS[form].make(units.units_of(layer.params), dt), layer.widths[1]
    if isinstance(layer, Linear):
        bias = layer.bias
        if bias is None and form == "chain":  # of its readers some know Affine alone
            bias = np.zeros(len(layer.weight), layer.weight.dtype)
        return {"": linear(layer.weight, bias)}, layer.widths[1]
    more = np.eye(width + 1, dtype=np.float32)  # AlwaysOn: one line more, which is 1
    return {"": linear(more[:, :width], more[:, width])}, width + 1
