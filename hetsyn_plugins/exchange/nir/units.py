"""A layer as leaky units: one for every decay that a neuron has, and v their sum. NumPy only.

Every current of the neuron is a leaky sum: of weighted inputs, of weighted spikes of the step before, of -theta z (the
reset) and -a z (the adaptation). Those of a neuron that decay alike are one unit a:

    u_a[t] = d_a u_a[t-1] + sum_j W_aj x_j[t] + sum_k R_ak z_k[t-1]          v_i[t] = sum_a S_ia u_a[t] + b_i

K decays that the synapses of a layer share make K units a neuron (and one for the reset, unless it is among them); a
decay of its own for every synapse makes a unit a synapse. A vanilla LIF has one unit a neuron. Absent synapses, of
weight 0, make none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.params import HetSynParams


class Units(NamedTuple):
    """U units of a layer of N neurons with M lines in; arrays in the layer's dtype, decays in float64.

    decay      (U,)
    weight     (U, M)   W
    recurrent  (U, N)   R; None where spikes do nothing
    sum        (N, U)   S: 1 where the unit is the neuron's, 1 / theta_i where neurons differ in their thresholds
    bias       (N,)     b, over theta_i likewise; None without
    threshold  one for all neurons: 1 where they differ, and S is over theta_i; None for a readout
    """

    decay: Array
    weight: Array
    recurrent: Array | None
    sum: Array
    bias: Array | None
    threshold: float | None


class Terms(NamedTuple):
    """What goes into units, a row each: neuron, decay, column (inputs first, then spikes), weight."""

    neuron: NDArray[np.intp]
    decay: Array
    column: NDArray[np.intp]
    weight: Array


def terms_of(params: HetSynParams) -> Terms:
    """Every synapse, reset and adaptation of a layer whose weight is not 0."""
    p = params.astype(np.float64).expanded()
    n, m = p.weight.shape
    each, own = np.arange(n), np.arange(m, m + n)
    blocks = [_of_matrix(p.weight, p.decay, 0)]
    if p.recurrent_weight is not None:
        blocks.append(_of_matrix(p.recurrent_weight, p.recurrent_decay, m))
    if p.reset_decay is not None:
        blocks.append(Terms(each, p.reset_decay, own, -p.threshold))
    if p.adaptation_decay is not None:
        blocks.append(Terms(each, p.adaptation_decay, own, -p.adaptation_strength))
    return Terms(*map(np.concatenate, zip(*blocks, strict=True)))


def _of_matrix(weight: Array, decay: Array, first: int) -> Terms:
    neuron, column = np.nonzero(weight)
    return Terms(neuron, decay[neuron, column], column + first, weight[neuron, column])


def _numbered(terms: Terms) -> tuple[NDArray[np.intp], Array, NDArray[np.intp]]:
    """The units, by neuron and then by decay, and which of them each term goes into. A layer without terms has one."""
    if not len(terms.neuron):
        return np.zeros(1, np.intp), np.zeros(1), np.zeros(0, np.intp)
    order = np.lexsort((terms.decay, terms.neuron))
    neuron, decay = terms.neuron[order], terms.decay[order]
    is_new = np.r_[True, (np.diff(neuron) != 0) | (np.diff(decay) != 0)]
    unit = np.empty(len(order), np.intp)
    unit[order] = np.cumsum(is_new) - 1
    return neuron[is_new], decay[is_new], unit


def count(params: HetSynParams) -> int:
    """How many units a layer has."""
    return len(_numbered(terms_of(params))[0])


def units_of(params: HetSynParams) -> Units:
    """The units of a layer."""
    n, m = params.weight.shape
    dtype = params.weight.dtype
    terms = terms_of(params)
    neuron, decay, unit = _numbered(terms)
    weight = np.zeros((len(neuron), m + n))
    np.add.at(weight, (unit, terms.column), terms.weight)
    theta = np.broadcast_to(params.threshold, (n,)).astype(np.float64)
    alike = not params.spiking or bool((theta == theta[0]).all())
    scale = np.ones(n) if alike else 1 / theta
    total = np.zeros((n, len(neuron)), dtype)
    total[neuron, np.arange(len(neuron))] = scale[neuron]
    bias = None if params.bias is None else (params.bias * scale).astype(dtype)
    recurrent = weight[:, m:].astype(dtype) if weight[:, m:].any() else None
    threshold = float(theta[0]) if alike else 1.0
    return Units(decay, weight[:, :m].astype(dtype), recurrent, total, bias, threshold if params.spiking else None)
