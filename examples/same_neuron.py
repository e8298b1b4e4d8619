"""One set of parameters through every way there is to run the neuron; prints the largest differences."""

import numpy as np

from hetsyn_plugins.conformance import backends, cases, comparison

case = cases.draw(0, "everything", sizes=(250, 4, 20, 30))
want = comparison.expected(case)
assert want.spikes is not None  # the layer is a spiking one
print(f"{case.params}\n{case.inputs.shape[0]} steps, {want.spikes.mean():.1%} of neuron-steps spike")
present, absent = backends.available()
for backend in present:
    got = backend.run(case)
    assert got.spikes is not None
    differing = int((got.spikes != want.spikes).sum())
    print(f"{backend.name:14} {differing} spikes differ, v within {np.abs(got.v - want.v).max():.1e}")
for name, reason in absent.items():
    print(f"{name:14} absent: {reason}")
