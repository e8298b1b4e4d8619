"""The fields of one HetSynLIF layer: the one table that everything which lists them derives from, or is tested against.

Notation of the paper (Deng et al., "HetSyn", NeurIPS 2025), N neurons with M inputs each, B rows of a batch, step dt:

    field                symbol   shape                       range    unit
    weight               w_ij     (N, M)                      finite   threshold's
    decay                r_ij     (N, M), or shared           [0, 1]   exp(-dt / tau)
    reset_decay          kappa_i  (N,) or (), or None         [0, 1]   exp(-dt / tau)
    threshold            theta_i  (N,) or ()                  > 0      threshold's
    recurrent_weight     u_ik     (N, N), or None             finite   threshold's
    recurrent_decay      p_ik     (N, N), or shared, or None  [0, 1]   exp(-dt / tau)
    adaptation_decay     rho_i    (N,) or (), or None         [0, 1]   exp(-dt / tau)
    adaptation_strength  a_i      (N,) or (), or None         finite   threshold's
    bias                 b_i      (N,), or None               finite   threshold's
    delay                d_ij     (N, M), or shared, or None  >= 0     steps
    recurrent_delay      e_ik     (N, N), or shared, or None  >= 0     steps
    mask                 c_ij     (N, M), or None             0 or 1   boolean
    recurrent_mask       h_ik     (N, N), or None             0 or 1   boolean

A decay or delay of synapses is shared by its shape: () for the whole layer, (N,) or (N, 1) a neuron, (1, M) a
presynaptic line. None says that the layer has no such part; `Field.beside` names the field that must then be None too,
`Field.part_of` one that it cannot be without. The bias is added to v at every step, unfiltered. A recurrent delay
comes on top of the one step that recurrence takes. A synapse that is masked out has no current and no gradient; without
a mask all are there.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


class Range(NamedTuple):
    """The values that a field may have: from least to most, these two among them where `closed`; no NaN.

    expected  the same in the words of a message
    """

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
BOOLEAN = Range(0.0, 1.0, True, "booleans, or 0 and 1")
DELAY = Range(0.0, float(np.finfo(np.float32).max), True, "delays of 0 steps or more, finite")


class Field(NamedTuple):
    """A row of the table.

    symbol        in the equations (`reference.py`)
    axes          of the full shape: N neurons, M inputs
    shared        may one value serve several entries: () for all, and for synapses one a row or a column
    range, unit   what values it may have, and of what
    required      every layer has it; else None says that the layer has no such part
    beside        the field that it comes together with
    part_of       the field that it cannot be without, which can be without it
    reads_spikes  it works on spikes of the layer itself, so that a readout, which has none, cannot have it
    """

    symbol: str
    axes: str
    shared: bool
    range: Range
    unit: str
    required: bool = False
    beside: str | None = None
    part_of: str | None = None
    reads_spikes: bool = False


def full_shapes(n: int, m: int) -> dict[str, tuple[int, ...]]:
    """The shape that axes stand for, of N neurons with M inputs: of a field when nothing is shared."""
    return {"NM": (n, m), "NN": (n, n), "N": (n,), "M": (m,)}


OF_THRESHOLD, PER_STEP, STEPS, BOOLEANS = "threshold's", "exp(-dt / tau)", "steps", "boolean"  # units

FIELDS: dict[str, Field] = {
    "weight": Field("w_ij", "NM", False, FINITE, OF_THRESHOLD, required=True),
    "decay": Field("r_ij", "NM", True, DECAY, PER_STEP, required=True),
    "reset_decay": Field("kappa_i", "N", True, DECAY, PER_STEP, reads_spikes=True),
    "threshold": Field("theta_i", "N", True, POSITIVE, OF_THRESHOLD, required=True),
    "recurrent_weight": Field("u_ik", "NN", False, FINITE, OF_THRESHOLD, beside="recurrent_decay", reads_spikes=True),
    "recurrent_decay": Field("p_ik", "NN", True, DECAY, PER_STEP, beside="recurrent_weight", reads_spikes=True),
    "adaptation_decay": Field("rho_i", "N", True, DECAY, PER_STEP, beside="adaptation_strength", reads_spikes=True),
    "adaptation_strength": Field("a_i", "N", True, FINITE, OF_THRESHOLD, beside="adaptation_decay", reads_spikes=True),
    "bias": Field("b_i", "N", False, FINITE, OF_THRESHOLD),
    "delay": Field("d_ij", "NM", True, DELAY, STEPS),
    "recurrent_delay": Field("e_ik", "NN", True, DELAY, STEPS, part_of="recurrent_weight", reads_spikes=True),
    "mask": Field("c_ij", "NM", False, BOOLEAN, BOOLEANS),
    "recurrent_mask": Field("h_ik", "NN", False, BOOLEAN, BOOLEANS, part_of="recurrent_weight", reads_spikes=True),
}
ARRAYS = tuple(FIELDS)
MATRICES = tuple(name for name, field in FIELDS.items() if len(field.axes) == 2)  # the synapses'
NEURON_FIELDS = tuple(name for name, field in FIELDS.items() if field.axes == "N")  # what a soma has once
NAMES = {name: name for name in FIELDS}  # what arguments are called where nobody calls them otherwise
# how decays are trained: how many of a layer's synapses share one, and which tensor stands for it
SHARES = ("synapse", "neuron", "layer", "codebook")
PARAMETRIZATIONS = ("decay", "tau", "log_tau")
# the fields that come together, each pair once
PAIRS = tuple(
    (name, field.beside)
    for at, (name, field) in enumerate(FIELDS.items())
    if field.beside is not None and field.beside not in ARRAYS[:at]
)


class Taus(NamedTuple):
    """Time constants in seconds, in the shapes of the decays they belong to; None where there is no such decay."""

    decay: Array
    recurrent_decay: Array | None
    reset_decay: Array | None
    adaptation_decay: Array | None


DECAYS = Taus._fields  # the fields whose range is DECAY, in the order in which they are shown
SYNAPTIC = tuple(name for name in MATRICES if name in DECAYS)  # the decays that a share is about
DELAYS = tuple(name for name, field in FIELDS.items() if field.range is DELAY)
MASKS = {"mask": "", "recurrent_mask": "recurrent_"}  # and what the names of their synapses' fields begin with
NUMBERS = tuple(name for name in FIELDS if name not in MASKS)  # the fields that have a dtype, and gradients


class HetSynState(NamedTuple):
    """The state of a layer between two steps; NumPy arrays or torch tensors; None where the layer has no such part.

    current             I  (B, N, M)   synaptic currents
    recurrent_current   L  (B, N, N)   recurrent synaptic currents
    reset               J  (B, N)      reset current
    adaptation          A  (B, N)      adaptation current
    spikes              z  (B, N)      spikes of the step before: what recurrence, reset and adaptation see next
    v                   v  (B, N)      membrane of the step before: the next step does not depend on it
    past_inputs         s  (D, B, M)   inputs of the last D = max_delay steps, the latest last
    past_spikes         z  (D, B, N)   spikes of the D steps before those in `spikes`, the latest last
    """

    current: Any
    recurrent_current: Any = None
    reset: Any = None
    adaptation: Any = None
    spikes: Any = None
    v: Any = None
    past_inputs: Any = None
    past_spikes: Any = None


class StatePart(NamedTuple):
    """A part of the state: its symbol, its axes behind the batch, and what a layer without it lacks.

    needs  a field, or "spiking": a readout has no spikes
    kept   has it one entry, in front of the batch, for each of the last D steps?
    """

    symbol: str
    axes: str
    needs: str
    kept: bool = False


STATE: dict[str, StatePart] = {
    "current": StatePart("I", "NM", "weight"),
    "recurrent_current": StatePart("L", "NN", "recurrent_weight"),
    "reset": StatePart("J", "N", "reset_decay"),
    "adaptation": StatePart("A", "N", "adaptation_decay"),
    "spikes": StatePart("z", "N", "spiking"),
    "v": StatePart("v", "N", "weight"),
    "past_inputs": StatePart("s", "M", "delay", kept=True),
    "past_spikes": StatePart("z", "N", "recurrent_delay", kept=True),
}
