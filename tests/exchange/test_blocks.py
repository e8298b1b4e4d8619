"""`convert` to slayer's blocks and back, and to the chip's integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planting import planted
from torch import nn

import hetsyn_plugins
from hetsyn_plugins import HetSynParams
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.core.surrogate import Arctan
from hetsyn_plugins.fixed_point.network import FixedNetwork, quantise

slayer = pytest.importorskip("lava.lib.dl.slayer")

from hetsyn_plugins.adapters.lava_dl import slayer as ours  # noqa: E402  after the skip

T, B, M, N, OUT = 40, 3, 7, 6, 4
OPTIONS: dict[str, dict[str, Any]] = {
    "synapse": {},
    "log tau": {"parametrization": "log_tau", "dt": 1e-3, "detach_reset": True, "surrogate": Arctan(3.0)},
    "a neuron": {"share": "neuron", "tie_reset": True},
}


def network(**options: Any) -> Network:
    """A feed-forward layer, a recurrent one with adaptation, a readout; dropout between."""
    rng = np.random.default_rng(0)
    by_neuron = options.get("share") == "neuron"

    def layer(name: str, n: int, m: int, recurrent: bool) -> HetSynLayer:
        decay = rng.uniform(0.5, 0.95, n if by_neuron else (n, m))
        fields: dict[str, Any] = {"reset_decay": decay if by_neuron else 0.8, "threshold": rng.uniform(0.5, 1.5, n)}
        if recurrent:
            own = decay if by_neuron else rng.uniform(0.5, 0.95, (n, n))
            fields |= {"recurrent_weight": rng.normal(0, 0.3, (n, n)), "recurrent_decay": own}
            fields |= {"adaptation_decay": 0.9, "adaptation_strength": 0.1}
        return HetSynLayer(name, HetSynParams(rng.normal(0.1, 0.6, (n, m)), decay, **fields), **options)

    last = replace(layer("out", OUT, N, False), tie_reset=False)
    readout = replace(last, params=HetSynParams.readout(last.params.weight, last.params.decay))
    return Network((layer("a", N, M, False), Dropout("drop", 0.3), layer("b", N, N, True), readout))


def spike_trains() -> Any:
    return (np.random.default_rng(1).random((T, B, M)) < 0.4).astype(float)


def run(blocks: nn.Module, x: Any) -> Any:
    with torch.no_grad():
        return blocks.eval()(torch.from_numpy(x).permute(1, 2, 0)).permute(2, 0, 1).numpy()


@pytest.mark.parametrize("kind", OPTIONS)
def test_there_and_back_gives_the_same_bits_and_spikes(kind: str) -> None:
    plain, x = network(**OPTIONS[kind]), spike_trains()
    blocks = hetsyn_plugins.convert(plain, to="lava_dl")
    want = plain.run(x)
    spikes = run(blocks[:3], x)
    assert 0.02 < spikes.mean() < 0.9
    np.testing.assert_array_equal(spikes, want["b"][0])
    np.testing.assert_allclose(run(blocks, x), want["out"][1], rtol=0, atol=1e-10)
    back = hetsyn_plugins.convert(blocks, to="reference")
    for before, after in zip(plain.layers, back.layers, strict=True):
        if isinstance(before, HetSynLayer) and isinstance(after, HetSynLayer):
            assert (after.name, after.options, after.surrogate) == (before.name, before.options, before.surrogate)
            for name, array in vars(before.params).items():
                kept, expected = getattr(after.params, name), array
                same = kept is None if expected is None else np.allclose(kept, expected, rtol=1e-15, atol=0)
                assert same, (before.name, name)
    again = hetsyn_plugins.convert(back, to="lava_dl")
    states = blocks.state_dict(), again.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("frozen", ["weight", "decay", "recurrent_weight", "recurrent_decay"])
def test_exactly_what_was_trained_is_trained(frozen: str) -> None:
    plain = network()
    layers = [replace(at, learned=at.learned - {frozen}) if isinstance(at, HetSynLayer) else at for at in plain.layers]
    blocks = hetsyn_plugins.convert(Network(tuple(layers)), to="lava_dl")
    back = hetsyn_plugins.convert(blocks, to="reference")
    for before, after in zip(layers, back.layers, strict=True):
        if isinstance(before, HetSynLayer) and isinstance(after, HetSynLayer):
            has = {name for name in before.learned if getattr(before.params, name) is not None}
            assert after.learned == has, before.name


def test_a_step_of_delay_is_left_out_and_integers_keep_theirs() -> None:
    x = spike_trains()
    late = ours.Dense({"threshold": 1.0, "reset_decay": 0.8}, M, N, decay=0.9, quantised=False, weight_scale=4).double()
    plain = hetsyn_plugins.convert(nn.Sequential(late), to="reference")
    np.testing.assert_array_equal(run(late, x)[1:], plain.run(x)["0"][0][:-1])
    chip = ours.Dense({"threshold": 1.0, "reset_decay": 0.8}, M, N, decay=0.9, weight_scale=4, delay_shift=False)
    fixed = hetsyn_plugins.convert(nn.Sequential(chip), to="fixed_point")
    assert isinstance(fixed, FixedNetwork) and run(chip, x.astype(np.float32)).any()
    np.testing.assert_array_equal(run(chip, x.astype(np.float32)), fixed.run(x)["0"].spikes)


def test_any_network_goes_to_the_chips_integers() -> None:
    plain, x = network(), spike_trains()
    want = quantise(plain)[0].run(x)["out"].v
    for net in (plain, hetsyn_plugins.convert(plain, to="snntorch")):
        np.testing.assert_array_equal(hetsyn_plugins.convert(net, to="fixed_point").run(x)["out"].v, want)


PLAIN = HetSynLayer("a", HetSynParams(np.ones((2, 2)), 0.5, reset_decay=0.5))
WIDER = replace(PLAIN, params=HetSynParams(np.ones((2, 3)), 0.5, reset_decay=0.5))
NEURON = {"threshold": 1.0}


def block(**options: Any) -> nn.Module:
    return nn.Sequential(ours.Dense(NEURON, M, N, **options))


@pytest.mark.parametrize(
    "net, to, says",
    [
        (block, "norse", "'0' computes in integers.*quantised=False"),
        (lambda: block(quantised=False, delay=True), "norse", "axonal delays"),
        (lambda: Network((Linear("fc", np.ones((2, 2))), PLAIN)), "lava_dl", "expected HetSyn layers.*'fc', a Linear"),
        (lambda: Network((AlwaysOn("on"), WIDER)), "lava_dl", "expected HetSyn layers.*'on', a AlwaysOn"),
        (lambda: Network((replace(PLAIN, batch_first=True),)), "lava_dl", "has batch_first=True, which slayer's"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_named(net: Any, to: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        hetsyn_plugins.convert(net(), to=to, dt=1e-3)


def test_a_tau_that_is_not_carried_is_caught() -> None:
    """Planted: stored taus would be made anew from r, and rounded."""
    name = "hetsyn_plugins.adapters.lava_dl.slayer.carry"
    layer = network(**OPTIONS["log tau"]).layers[0]
    assert isinstance(layer, HetSynLayer)
    layer = replace(layer, stored={"decay": np.full((N, M), np.log(123.456789e-3))})
    layer = replace(layer, params=replace(layer.params, decay=np.exp(-1e-3 / np.exp(layer.stored["decay"]))))
    with planted(name, "for field, array in layer.stored.items():", "for field, array in ():") as bad:
        changed = bad.build_layer(layer)
        bad.carry_training(layer, changed)
    good = hetsyn_plugins.convert(Network((layer,)), to="lava_dl")[0]
    held = [made._input.stored("decay").detach().numpy() for made in (good, changed)]
    np.testing.assert_array_equal(held[0], layer.stored["decay"])
    assert not np.array_equal(held[1], layer.stored["decay"])
