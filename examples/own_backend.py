"""An implementation of your own in the conformance suite: a NumPy loop passes, the same with one mistake does not.

A backend takes a Case and gives an Outcome, both NumPy. This one gives no gradients, so it takes the checks that ask
for none; with gradients it would take all of `conformance.CHECKS`.
"""

from functools import partial
from typing import Any

import numpy as np

from hetsyn_plugins import HetSynState
from hetsyn_plugins.conformance import Backend, Case, Mismatch, Outcome, verify
from hetsyn_plugins.core.reference import zero_state

CHECKS = ["hand-table", "threshold", "closed-forms", "special-cases", "random", "states", "chunks", "rows", "float32"]


def loop(case: Case, fires: Any) -> Outcome:
    """The neuron, step by step; a part that the layer lacks has the state None."""
    p: Any = case.params.expanded()
    current, recurrent, reset, adaptation, z, v = case.state or zero_state(p, case.inputs.shape[1])
    voltages = np.empty((*case.inputs.shape[:2], len(p.weight)))
    spikes = np.empty_like(voltages)
    for t, x in enumerate(case.inputs):
        current = p.decay * current + p.weight * x[:, None, :]
        v = current.sum(2) + (0 if p.bias is None else p.bias)
        if recurrent is not None:
            recurrent = p.recurrent_decay * recurrent + p.recurrent_weight * z[:, None, :]
            v = v + recurrent.sum(2)
        if reset is not None:
            reset = p.reset_decay * reset + p.threshold * z
            v = v - reset
        if adaptation is not None:
            adaptation = p.adaptation_decay * adaptation + p.adaptation_strength * z
            v = v - adaptation
        z = fires(v, p.threshold).astype(float) if p.spiking else None
        voltages[t], spikes[t] = v, 0 if z is None else z
    state = HetSynState(current, recurrent, reset, adaptation, z, v)
    return Outcome(spikes if p.spiking else None, voltages, state)


# the mistake: v == threshold must not fire; random numbers never hit it, two checks do on purpose
for name, fires in (("mine", np.greater), ("mistaken", np.greater_equal)):
    for backend, check, result in verify([Backend(name, partial(loop, fires=fires))], CHECKS):
        print(f"{backend:9} {check:14} {'CAUGHT' if isinstance(result, Mismatch) else 'passed'}: {result}")
