"""Networks as plain data: widths that meet, and the walk through them."""

from __future__ import annotations

import numpy as np
import pytest
from networks import params, plain, spike_trains

from hetsyn_plugins.core import reference
from hetsyn_plugins.core.network import HetSynLayer, Network


def test_widths_and_names_must_meet() -> None:
    layer = HetSynLayer("a", params())
    with pytest.raises(ValueError, match="layer 'b': expected 6 lines in, as come out before it, got 7"):
        Network((layer, HetSynLayer("b", params())))
    with pytest.raises(ValueError, match="layers: expected different names, got a, a"):
        Network((layer, layer))


def test_reference_runs_the_layers_one_after_the_other() -> None:
    network, x = plain(), spike_trains().numpy()
    mix, hidden, _, out = network.layers
    z, _, _ = reference.run(hidden.params, x @ mix.weight.T + mix.bias)
    np.testing.assert_array_equal(network.run(x)["out"][1], reference.run(out.params, z)[1])
