"""The LI-bank form: a unit is an LI, whose Euler step v + dt / tau (x - v) is d v + (1 - d) x.

    input -> weight -> units (LI) -> sum -> spikes -> recurrent -> units        spikes -> output

tau = dt / (1 - d), and what goes in is over 1 - d: Norse passes an LI's r over. Closer to what NIR means than the loop
form; it needs a reader that knows LI and takes Euler steps of dt (nirtorch's interpreter with Norse's LIBoxCell, Norse
after 1.1). There is no tau for d = 1.
"""

from __future__ import annotations

from hetsyn_plugins.exchange.nir.nodes import INPUT, OUTPUT, Edges, Node, fire, graph, linear, neuron
from hetsyn_plugins.exchange.nir.units import Units


def li_bank(units: Units, dt: float) -> Node:
    """The graph of a layer whose decays are below 1; `dt` is the step with which readers take LI and LIF."""
    n, m = len(units.sum), units.weight.shape[1]
    dtype, gain = units.weight.dtype, 1 / (1 - units.decay)[:, None]
    last = "n2_sum"
    nodes: dict[str, Node] = {
        "n0_weight": linear((units.weight * gain).astype(dtype)),
        "n1_units": neuron("LI", len(units.decay), tau=dt / (1 - units.decay), r=1, v_leak=0),
        last: linear(units.sum, units.bias),
    }
    edges: Edges = [(INPUT, "n0_weight"), ("n0_weight", "n1_units"), ("n1_units", last)]
    if units.threshold is not None:
        last = "n3_spikes"
        nodes[last] = fire(n, units.threshold, dt)
        edges.append(("n2_sum", last))
    if units.recurrent is not None:
        nodes["n4_recurrent"] = linear((units.recurrent * gain).astype(dtype))
        edges += [(last, "n4_recurrent"), ("n4_recurrent", "n1_units")]
    return graph(nodes, [*edges, (last, OUTPUT)], m, n)


def li_size(units: int, m: int, n: int, itemsize: int) -> int:
    """Bytes of its arrays, at most."""
    return units * (m + 2 * n) * itemsize + 24 * units + 40 * n
