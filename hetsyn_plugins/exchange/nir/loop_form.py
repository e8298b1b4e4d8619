"""The loop form: a unit's leak is a loop through a diagonal matrix, which every executor closes one step later.

    input -> weight -> units -> sum -> spikes -> output      units -> decay -> units      spikes -> recurrent -> units

Of Linear nodes (an Affine with a bias) and a LIF that forgets, so that no tau and no dt decide about the decays, r = 1
among them. Stock snnTorch and Norse run it. By NIR's own words an edge has no delay; that a loop takes one step is how
these executors are built.

The order of edges matters to Norse's executor, which goes depth first and returns the last node that it ran: loops
before what goes on, the output last.
"""

from __future__ import annotations

import numpy as np

from hetsyn_plugins.exchange.nir.nodes import INPUT, OUTPUT, Edges, Node, fire, graph, linear
from hetsyn_plugins.exchange.nir.units import Units


def loop_form(units: Units, dt: float) -> Node:
    """The graph of a layer; `dt` is the step with which readers take the LIF."""
    (u, m), n = units.weight.shape, len(units.sum)
    dtype = units.weight.dtype
    nodes: dict[str, Node] = {"n0_weight": linear(units.weight), "n1_units": linear(np.eye(u, dtype=dtype))}
    edges: Edges = [(INPUT, "n0_weight"), ("n0_weight", "n1_units")]
    if units.decay.any():
        nodes["n2_decay"] = linear(np.diag(units.decay.astype(dtype)))
        edges += [("n1_units", "n2_decay"), ("n2_decay", "n1_units")]
    last = "n3_sum"
    nodes[last] = linear(units.sum, units.bias)
    edges.append(("n1_units", last))
    if units.threshold is not None:
        last = "n4_spikes"
        nodes[last] = fire(n, units.threshold, dt)
        edges.append(("n3_sum", last))
    if units.recurrent is not None:
        nodes["n5_recurrent"] = linear(units.recurrent)
        edges += [(last, "n5_recurrent"), ("n5_recurrent", "n1_units")]
    return graph(nodes, [*edges, (last, OUTPUT)], m, n)


def loop_size(units: int, m: int, n: int, itemsize: int) -> int:
    """Bytes of its arrays, at most."""
    return units * (2 * units + m + 2 * n) * itemsize + 40 * n
