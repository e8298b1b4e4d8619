"""An implementation of your own in the conformance suite: a NumPy loop passes, the same with one mistake does not.

A backend takes a Case and gives an Outcome, both NumPy. This one gives no gradients and says so, so that the checks
that ask for them are left out, and neither has it synapses with delays. In a shell, in this folder:

    hetsyn verify --backend own_backend:mine --backend own_backend:mistaken
"""

from functools import partial
from typing import Any

import numpy as np

from hetsyn_plugins import HetSynState
from hetsyn_plugins.conformance import Backend, Case, Mismatch, Outcome, verify
from hetsyn_plugins.core.reference import zero_state

CHECKS = ["hand-table", "threshold", "closed-forms", "special-cases", "random", "states", "chunks", "rows", "gradients"]


def loop(case: Case, fires: Any) -> Outcome:
    """The neuron, step by step; a part that the layer lacks has the state None."""
    p: Any = case.params.expanded()
    current, recurrent, reset, adaptation, z, v, *_ = case.state or zero_state(p, case.inputs.shape[1])
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


mine = Backend("mine", partial(loop, fires=np.greater), gradients=False)
# the mistake: v == threshold must not fire; random numbers never hit it, two checks do on purpose
mistaken = Backend("mistaken", partial(loop, fires=np.greater_equal), gradients=False)

if __name__ == "__main__":
    for backend, check, result in verify([mine, mistaken], CHECKS):
        if isinstance(result, Mismatch):
            print(f"{backend:9} {check:14} CAUGHT: {result}\n{result.failure}")
        else:
            print(f"{backend:9} {check:14} {'passed' if result.cases else 'has no case'}: {result}")
