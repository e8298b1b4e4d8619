"""A network of plain data through the op: `Network.run`, the float64 reference, is the judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, planted

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.ops import stack

T, B, M, N = 25, 3, 4, 5


def every_kind(dtype: Any = np.float64) -> Network:
    """Linear with and without a bias, Dropout, AlwaysOn, a recurrent layer with everything, a readout with a bias."""
    rng = np.random.default_rng(0)
    hidden = HetSynParams(
        rng.normal(0.3, 0.5, (N, M + 1)),
        rng.uniform(0.5, 0.95, (N, M + 1)),
        reset_decay=0.8,
        threshold=rng.uniform(0.7, 1.2, N),
        recurrent_weight=rng.normal(0, 0.3, (N, N)),
        recurrent_decay=0.7,
        adaptation_decay=0.9,
        adaptation_strength=rng.uniform(0, 0.1, N),
        bias=rng.normal(0, 0.1, N),
    )
    readout = HetSynParams.readout(rng.normal(0, 1, (2, 2)), 0.9, bias=np.array([0.5, -0.5]))
    layers = (
        Linear("mix", rng.normal(0, 0.7, (M, M)).astype(dtype), rng.normal(0, 0.3, M).astype(dtype)),
        Dropout("drop", 0.5),
        AlwaysOn("on"),
        HetSynLayer("hidden", hidden.astype(dtype)),
        Linear("thin", rng.normal(0, 1, (2, N)).astype(dtype)),
        HetSynLayer("out", readout.astype(dtype)),
    )
    return Network(layers)


def check_run(module: Any) -> None:
    net, x = every_kind(), np.random.default_rng(1).random((T, B, M)) < 0.4
    got, want = module.run(net, torch.from_numpy(x)), net.run(x)
    assert list(got) == list(want) == ["hidden", "out"]
    for name, (spikes, v) in want.items():
        # float64 sums of at most 12 terms below 10: 12 * 10 * 2^-53 < 2e-14 a step, carried over 25 of them
        np.testing.assert_allclose(got[name][1].numpy(), v, rtol=0, atol=1e-12, err_msg=f"v of {name}")
        assert (got[name][0] is None) == (spikes is None), name
        if spikes is not None:
            np.testing.assert_array_equal(got[name][0].numpy(), spikes)
    spikes = want["hidden"][0]
    assert spikes is not None and 0.05 < spikes.mean() < 0.9
    # no v is nearer to its threshold than the tolerance, so that spikes are comparable
    hidden = net.layers[3]
    assert isinstance(hidden, HetSynLayer)
    assert np.abs(want["hidden"][1] - hidden.params.threshold).min() > 1e-9


def test_a_network_through_the_op_is_the_reference() -> None:
    check_run(stack)


def test_layers_keep_their_dtype() -> None:
    for dtype in (np.float32, np.float64):
        _, v = stack.run(every_kind(dtype), torch.zeros(T, B, M, dtype=torch.int64))["out"]
        assert v.dtype == getattr(torch, np.dtype(dtype).name)


def test_one_layer_goes_on_from_a_state() -> None:
    """Of neurons and of a readout: in two parts as in one."""
    net = every_kind()
    for layer in (net.layers[3], net.layers[5]):
        assert isinstance(layer, HetSynLayer)
        fields, spiking = stack.tensors(layer.params), layer.params.spiking
        x = torch.rand(T, B, layer.widths[0], dtype=torch.float64)
        z, v, end = stack.run_layer(x, fields, spiking)
        z1, v1, state = stack.run_layer(x[:10], fields, spiking)
        z2, v2, end2 = stack.run_layer(x[10:], fields, spiking, state=state)
        torch.testing.assert_close(torch.cat([v1, v2]), v, rtol=0, atol=1e-12)
        torch.testing.assert_close(end2.current, end.current, rtol=0, atol=1e-12)
        assert (z is None) == (not spiking)
        assert z is None or torch.equal(torch.cat([z1, z2]), z)  # type: ignore[list-item]


BUGS = [
    (
        "no bias of a Linear",
        "x = x if layer.bias is None else x + torch.tensor(np.array(layer.bias))",
        "pass",
        "v of hidden",
    ),
    ("no bias of a readout", '("weight", "decay", "bias", "delay")', '("weight", "decay", "delay")', "v of out"),
    ("v goes on", "x = v if spikes is None else spikes", "x = v", "v of out"),
    ("the line is off", "x.new_ones(", "x.new_zeros(", "v of hidden"),
]


@pytest.mark.parametrize(("name", "old", "new", "says"), BUGS, ids=[bug[0] for bug in BUGS])
def test_planted_bugs_are_caught(name: str, old: str, new: str, says: str) -> None:
    with planted(stack.__name__, old, new) as module, caught(says):
        check_run(module)
