"""What readers of NIR can hold, and what a graph has that a certain one cannot: to be known before a file is shipped.

The table is of released versions, as their sources and maintainers say: snnTorch 1.0.0, Norse 1.1.0, nirtorch 2.6 (its
own map of nodes), Spyx 1.0, Rockpool 2.9, sinabs 3, the Nengo importer of NIR's paper, snn-mlir 1.0.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.exchange.nir import reading
from hetsyn_plugins.exchange.nir.nodes import INPUT, OUTPUT, Node
from hetsyn_plugins.exchange.nir.writing import STEP

TIMED = ("LI", "LIF", "CubaLI", "CubaLIF")  # whose constants are for a step
CONSTANTS = ("tau", "tau_mem", "tau_syn")


class Reader(NamedTuple):
    """What a reader takes.

    types      of nodes, beside Input and Output
    loops      it closes loops one step later; else it takes what goes straight on, and
    back       at most weights from a neuron to itself
    graphs     it opens graphs in the graph
    only_dt    the one step for which it takes constants; None: it can be told, or finds it out
    steps      how it steps: "euler", or "exponential", by exp(-dt / tau)
    alike      fields that must be one number for all neurons of a node
    unit       fields by type of node that it passes over, and that must be 1
    by_name    it goes from the node called "input" to that called "output"
    but        why not, of a type that it takes for something else, or has from another version on
    """

    types: tuple[str, ...]
    loops: bool = False
    back: bool = False
    graphs: bool = False
    only_dt: float | None = None
    steps: str = "euler"
    alike: tuple[str, ...] = ()
    unit: tuple[tuple[str, str], ...] = ()
    by_name: bool = False
    but: dict[str, str] = {}  # noqa: RUF012  never written to


SPYX = "it spikes on the v of the step before and takes the threshold off, whatever v_reset says"
READERS = {
    "snntorch": Reader(
        ("Conv2d", "Flatten", "Affine", "Linear", "CubaLIF", "IF", "LIF", "AvgPool2d"),
        loops=True, graphs=True, only_dt=STEP, alike=("v_threshold",),
        but={"IF": "it is imported as a LIF that decays by 0.9"},
    ),
    "norse": Reader(
        ("Conv2d", "Flatten", "Affine", "Linear", "CubaLIF", "IF", "LIF", "SumPool2d"),
        loops=True, graphs=True, unit=(("LIF", "r"), ("IF", "r")),
        but={"LI": "Norse 1.1 has no LI; what comes after it has"},
    ),
    "nirtorch": Reader(
        ("Affine", "AvgPool2d", "Conv1d", "Conv2d", "Flatten", "Linear", "SumPool2d"),
        loops=True, graphs=True, but={"Affine": "its bias stays random: map nir.Affine yourself"},
    ),
    "spyx": Reader(
        (
            "Conv2d", "Flatten", "Affine", "Linear", "SumPool2d", "IF", "LIF", "CubaLIF", "Threshold", "Scale", "Delay",
            "I",
        ),
        back=True, by_name=True, but=dict.fromkeys(("IF", "LIF", "CubaLIF"), SPYX),
    ),
    "rockpool": Reader(("Affine", "Linear", "CubaLIF", "LI", "LIF"), back=True, steps="exponential"),
    "sinabs": Reader(
        ("Conv1d", "Conv2d", "Flatten", "Affine", "IF", "LI", "LIF", "SumPool2d"),
        loops=True, graphs=True, steps="exponential", unit=(("LI", "r"), ("LIF", "r")),
    ),
    "nengo": Reader(("Affine", "LI", "LIF"), steps="exponential", unit=(("LIF", "r"),)),
    "snn-mlir": Reader(
        ("Linear", "Affine", "LIF", "CubaLIF", "LI", "IF", "I"), back=True, by_name=True,
        alike=("tau", "tau_syn", "tau_mem", "r", "v_threshold", "v_reset"),
    ),
}  # fmt: skip


CALLS = {
    "snntorch": "snntorch.import_nir.import_from_nir(nir.read({path!r}))",
    "norse": "norse.torch.from_nir(nir.read({path!r}), dt={dt:g})",
}


class Finding(NamedTuple):
    """What a reader cannot hold: which node, of what type, and why."""

    node: str
    type: str
    why: str


def findings(graph: Node, reader: str, path: Path) -> list[Finding]:
    """Everything in a graph that a reader cannot hold; none: it runs the graph as it is meant.

    Raises ValueError for an unknown reader, FileFormatError where the graph is none.
    """
    if reader not in READERS:
        raise ValueError(f"reader: expected one of {', '.join(READERS)}, got {reader!r}")
    takes = READERS[reader]
    said = graph.get("metadata", {})  # of the whole, what its constants are for
    found = list(_of_graph(graph, takes, path, "node", said))
    if takes.by_name:
        missing = [name for name in (INPUT, OUTPUT) if name not in graph["nodes"]]
        found += [Finding(name, "", f"it looks for a node called {name!r}, and there is none") for name in missing]
    return found


def call(graph: Node, reader: str, path: Path) -> str:
    """The call by which a reader takes a file that it can hold, with the step that it must be told; "" for others."""
    dt = graph.get("metadata", {}).get("dt")
    known = isinstance(dt, np.ndarray) and dt.ndim == 0 and dt.dtype.kind == "f"
    return CALLS[reader].format(path=str(path), dt=dt.item()) if known and reader in CALLS else ""


def _of_graph(graph: Node, takes: Reader, path: Path, field: str, said: dict[str, Any]) -> Iterator[Finding]:
    nodes = reading.checked_nodes(graph, path, field)
    following, before = reading.neighbours(graph, nodes, path, field)
    back = reading.coming_back(nodes, following, before) if takes.back else {}
    for name, node in nodes.items():
        inside, kind = f"{field}/nodes/{name}", node["type"]
        where = inside.removeprefix("node/nodes/")
        if kind == "NIRGraph":
            if not takes.graphs:
                yield Finding(where, kind, "the reader opens no graph in the graph")
            yield from _of_graph(node, takes, path, inside, said)
        elif kind not in ("Input", "Output"):
            yield from (Finding(where, kind, why) for why in _of_node(node, takes, said))
        for what, ends in (("lead on from", following[name]), ("lead to", before[name])):
            straight = [end for end in ends if nodes[end] is not back.get(name)]
            if len(straight) > 1 and not takes.loops:
                yield Finding(where, kind, f"{len(straight)} edges {what} it, and the reader takes chains")


def _of_node(node: Node, takes: Reader, said: dict[str, Any]) -> Iterator[str]:
    """Why a reader cannot hold a node that is no graph."""
    kind = node["type"]
    if kind not in takes.types:
        yield takes.but.get(kind, f"the reader knows {', '.join(takes.types)}")
        return
    if kind in takes.but:
        yield takes.but[kind]
    yield from (f"{field} differs between neurons" for field in takes.alike if np.unique(node.get(field, 0)).size > 1)
    for field in (field for of, field in takes.unit if of == kind):
        if not np.allclose(node.get(field, 1), 1):
            yield f"{field} is not 1, which the reader passes over"
    if kind in TIMED:
        yield from _of_time(node, takes, said)


def _of_time(node: Node, takes: Reader, said: dict[str, Any]) -> Iterator[str]:
    """Why the constants of a neuron mean something else to the reader."""
    fields = [field for field in CONSTANTS if field in node]
    if any(np.ndim(node[field]) == 0 for field in fields):
        yield "its constants have no axis, from which nir cannot infer a shape"
    scheme, dt = said.get("scheme"), said.get("dt")
    if isinstance(scheme, str) and scheme == "euler" and takes.steps != "euler":
        yield "its constants are for Euler steps, and the reader decays by exp(-dt / tau)"
    if takes.only_dt is None or not isinstance(dt, np.ndarray) or dt.ndim or dt.dtype.kind != "f":
        return
    if not np.isclose(dt, takes.only_dt, rtol=1e-6, atol=0):
        yield f"its constants are for dt = {float(dt):g} s, and the reader takes them for {takes.only_dt:g} s"
