"""Nodes of a NIR graph as plain dictionaries, as `nir.NIRNode.to_dict` has them: no package of NIR is needed.

    node     {"type": "Linear", "weight": (N, M), "metadata": {...}}
    graph    {"type": "NIRGraph", "nodes": {name: node}, "edges": [(from, to)], "metadata": {...}}

Nodes go by their names when a file is read (HDF5 lists them so), and the executor of nirtorch wires loops in that
order: names here are numbered along the flow, between "input" and "output", which readers of chains look for.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from hetsyn_plugins.core.fields import Array

Node = dict[str, Any]
Edges = list[tuple[str, str]]
INPUT, OUTPUT = "input", "output"


def graph(nodes: dict[str, Node], edges: Edges, lines_in: int, lines_out: int) -> Node:
    """A graph of nodes between an Input and an Output of so many lines."""
    ends = {INPUT: {"type": "Input", "shape": np.array([lines_in])}}
    ends |= {**nodes, OUTPUT: {"type": "Output", "shape": np.array([lines_out])}}
    return {"type": "NIRGraph", "nodes": ends, "edges": edges, "metadata": {}}


def numbered(position: int, name: str, of: int = 10) -> str:
    """A node's name: n0_weight; what is no letter or digit, which some reader cannot have, becomes _."""
    return f"n{position:0{len(str(max(of - 1, 1)))}d}_{re.sub(r'[^0-9A-Za-z]', '_', name)}"


def linear(weight: Array, bias: Array | None = None) -> Node:
    """y = W x, a Linear; y = W x + b, an Affine."""
    if bias is None:
        return {"type": "Linear", "weight": weight}
    return {"type": "Affine", "weight": weight, "bias": bias}


def fire(count: int, threshold: float, dt: float) -> Node:
    """LIF with tau = dt: its Euler step forgets, so that it spikes where x[t] > threshold; its reset is idle."""
    return neuron("LIF", count, tau=dt, r=1, v_leak=0, v_threshold=threshold)


def neuron(kind: str, count: int, **fields: Any) -> Node:
    """A node of so many neurons, with these fields in float64."""
    return {"type": kind, **{name: np.full(count, value, np.float64) for name, value in fields.items()}}
