"""The fields of one HetSynLIF layer: the one table that everything which lists them derives from, or is tested against.

Notation of the paper (Deng et al., "HetSyn", NeurIPS 2025), N neurons with M inputs each, B rows of a batch, step dt:

    field                  symbol     shape                            unit
    weight                 w_ij       (N, M)                           threshold's
    decay                  r_ij       (N, M), or shared (below)        exp(-dt / tau), in [0, 1]
    reset_decay            kappa_i    () or (N,); None: no reset       exp(-dt / tau), in [0, 1]
    threshold              theta_i    () or (N,)                       > 0
    recurrent_weight       u_ik       (N, N)                           threshold's
    recurrent_decay        p_ik       (N, N), or shared                exp(-dt / tau), in [0, 1]
    adaptation_decay       rho_i      () or (N,)                       exp(-dt / tau), in [0, 1]
    adaptation_strength    a_i        () or (N,)                       threshold's
    bias                   b_i        (N,)                             threshold's, added to v every step, unfiltered

A decay of synapses is shared by its shape: () for the whole layer, (N,) or (N, 1) a neuron, (1, M) a presynaptic line.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


class Range(NamedTuple):
    """The values that a field may have: from least to most, these two among them where `closed`; no NaN."""

    least: float
    most: float
    closed: bool
    expected: str

    def holds(self, values: Any) -> Any:
        """Where values, an array or a tensor, lie in the range."""
        if self.closed:
            return (values >= self.least) & (values <= self.most)
        return (values > self.least) & (values < self.most)


FINITE = Range(-inf, inf, False, "finite values")
POSITIVE = Range(0.0, inf, False, "finite values > 0")
DECAY = Range(0.0, 1.0, True, "decays in [0, 1]")


class Field(NamedTuple):
    """A row of the table.

    symbol       in the equations (`reference.py`)
    axes         of the full shape: N neurons, M inputs
    shared       may one value serve several entries: () for all, and for synapses one a row or a column
    range, unit  what values it may have, and of what
    required     every layer has it; else None says that the layer has no such part
    beside       the field that it comes together with
    reads_spikes it works on spikes of the layer itself, so that a readout, which has none, cannot have it
    """

    symbol: str
    axes: str
    shared: bool
    range: Range
    unit: str
    required: bool = False
    beside: str | None = None
    reads_spikes: bool = False


def full_shapes(n: int, m: int) -> dict[str, tuple[int, ...]]:
    """The shape that axes stand for, of N neurons with M inputs."""
    return {"NM": (n, m), "NN": (n, n), "N": (n,)}


THRESHOLDS, PER_STEP = "threshold's", "exp(-dt / tau)"

FIELDS: dict[str, Field] = {
    "weight": Field("w_ij", "NM", False, FINITE, THRESHOLDS, required=True),
    "decay": Field("r_ij", "NM", True, DECAY, PER_STEP, required=True),
    "reset_decay": Field("kappa_i", "N", True, DECAY, PER_STEP, reads_spikes=True),
    "threshold": Field("theta_i", "N", True, POSITIVE, THRESHOLDS, required=True),
    "recurrent_weight": Field("u_ik", "NN", False, FINITE, THRESHOLDS, beside="recurrent_decay", reads_spikes=True),
    "recurrent_decay": Field("p_ik", "NN", True, DECAY, PER_STEP, beside="recurrent_weight"),
    "adaptation_decay": Field("rho_i", "N", True, DECAY, PER_STEP, beside="adaptation_strength", reads_spikes=True),
    "adaptation_strength": Field("a_i", "N", True, FINITE, THRESHOLDS, beside="adaptation_decay"),
    "bias": Field("b_i", "N", False, FINITE, THRESHOLDS),
}
ARRAYS = tuple(FIELDS)
DECAYS = tuple(name for name, field in FIELDS.items() if field.range is DECAY)
MATRICES = tuple(name for name, field in FIELDS.items() if len(field.axes) == 2)
NAMES = {name: name for name in FIELDS}  # what arguments are called where nobody calls them otherwise


class Taus(NamedTuple):
    """Time constants in seconds, in the shapes of the decays they belong to; None where there is no such decay."""

    decay: Array
    recurrent_decay: Array | None
    reset_decay: Array | None
    adaptation_decay: Array | None


class HetSynState(NamedTuple):
    """The state of a layer between two steps; NumPy arrays or torch tensors; None where the layer has no such part.

    current             I  (B, N, M)   synaptic currents
    recurrent_current   L  (B, N, N)   recurrent synaptic currents
    reset               J  (B, N)      reset current
    adaptation          A  (B, N)      adaptation current
    spikes              z  (B, N)      spikes of the last step: what recurrence, reset and adaptation see next
    v                      (B, N)      membrane of the last step: the next step does not depend on it
    """

    current: Any
    recurrent_current: Any = None
    reset: Any = None
    adaptation: Any = None
    spikes: Any = None
    v: Any = None


# part of the state -> its axes behind the batch, and the field without which a layer does not have it
STATE = {
    "current": ("NM", "weight"),
    "recurrent_current": ("NN", "recurrent_weight"),
    "reset": ("N", "reset_decay"),
    "adaptation": ("N", "adaptation_decay"),
    "spikes": ("N", "threshold"),
    "v": ("N", "weight"),
}
