"""The chain form: nodes one behind the other, for readers that know no loops. Exact, or refused.

    every decay 0              Affine -> LIF that forgets
    one decay a neuron         Affine -> CubaLIF whose membrane forgets        readout: Affine -> LI
    others, or with a bias     Affine -> LI -> Affine (the sum) -> LIF that forgets

Constants follow the convention of those readers, in which r = tau / dt and w_in = tau_syn / dt, so that what comes in
goes in undiluted.

What spikes do to a later step goes back along an edge, which a chain has not: a reset, recurrent synapses, adaptation
are refused. A LIF's own reset sets v to v_reset; HetSyn's takes theta off and decays, which is no case of it.
"""

from __future__ import annotations

import numpy as np

from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.exchange.nir.nodes import Node, fire, linear, neuron
from hetsyn_plugins.exchange.nir.units import Units

LOOPS = {"reset_decay": "a reset", "recurrent_decay": "recurrent synapses", "adaptation_decay": "adaptation"}


def check_chain(name: str, params: HetSynParams) -> None:
    """Raise ValueError for a layer that no chain of NIR's nodes is equal to."""
    found = [what for field, what in LOOPS.items() if getattr(params, field) is not None]
    if found:
        raise ValueError(
            f"net: expected layers whose spikes do nothing to later steps for form='chain', got layer {name!r} with "
            f"{' and '.join(found)}: NIR's LIF sets v to v_reset, which is another neuron; form='loop' is equal"
        )


def chain(units: Units, dt: float) -> dict[str, Node]:
    """The nodes of a layer in their order; `dt` is the step with which readers take them."""
    n, u = units.sum.shape
    dtype = units.weight.dtype
    one_each = ((units.sum != 0).sum(1) <= 1).all() and units.bias is None
    if not units.decay.any():
        nodes = {"weight": linear(units.sum @ units.weight, _or_zeros(units.bias, n, dtype))}
    elif one_each and units.threshold is not None:
        decay = (units.sum != 0) @ units.decay  # of a neuron without synapses: 0
        weight = linear(units.sum @ units.weight, np.zeros(n, dtype))
        return {"weight": weight, "spikes": _filtering_fire(decay, units.threshold, dt)}
    else:
        gain = 1 / (1 - units.decay)
        filters = neuron("LI", u, tau=dt * gain, r=gain, v_leak=0)
        nodes = {"weight": linear(units.weight, np.zeros(u, dtype)), "units": filters}
        if not np.array_equal(units.sum, np.eye(n, u)) or units.bias is not None:
            nodes["sum"] = linear(units.sum, _or_zeros(units.bias, n, dtype))
    return nodes if units.threshold is None else {**nodes, "spikes": fire(n, units.threshold, dt)}


def _or_zeros(bias: np.ndarray | None, n: int, dtype: np.dtype) -> np.ndarray:
    return np.zeros(n, dtype) if bias is None else bias


def _filtering_fire(decay: np.ndarray, threshold: float, dt: float) -> Node:
    """CubaLIF of i[t] = d i[t-1] + x[t], v[t] = i[t]: a spike where v > threshold; the reset meets nothing."""
    gain = 1 / (1 - decay)
    fields = {"tau_syn": dt * gain, "tau_mem": dt, "r": 1, "w_in": gain, "v_leak": 0}
    return neuron("CubaLIF", len(decay), **fields, v_threshold=threshold)
