"""What the neuron is in integers: the judge of deployment. NumPy only.

The words: *fixed* is what holds integers (FixedParams, FixedNetwork, FixedRun), to *quantise* is to make integers of a
float layer or network, and a *Rounding* says what that lost.
"""

from hetsyn_plugins.fixed_point.neuron import (
    CHUNK,
    DECAY_ONE,
    FORMS,
    MANTISSA,
    MAX_EXP,
    MAX_INPUT,
    MAX_THRESHOLD,
    Accumulators,
    FixedParams,
    FixedPointOverflow,
    FixedRun,
    FixedState,
    Integers,
    Neurons,
    Synapses,
    Watch,
    decayed,
    fitting_state,
    run,
    truncation_bound,
    whole_numbers,
    wrapped,
    zero_state,
)
from hetsyn_plugins.fixed_point.rounding import Rounding, decay_to_word, quantise, refuse_clipped, rounding

__all__ = [
    "CHUNK",
    "DECAY_ONE",
    "FORMS",
    "MANTISSA",
    "MAX_EXP",
    "MAX_INPUT",
    "MAX_THRESHOLD",
    "Accumulators",
    "FixedParams",
    "FixedPointOverflow",
    "FixedRun",
    "FixedState",
    "Integers",
    "Neurons",
    "Rounding",
    "Synapses",
    "Watch",
    "decay_to_word",
    "decayed",
    "fitting_state",
    "quantise",
    "refuse_clipped",
    "rounding",
    "run",
    "truncation_bound",
    "whole_numbers",
    "wrapped",
    "zero_state",
]
