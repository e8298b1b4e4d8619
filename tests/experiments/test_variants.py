"""The variants: what they share, what they learn, and that the paper's conditions hold after training steps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hetsyn_plugins.core.network import Dropout, HetSynLayer, Network
from hetsyn_plugins.core.params import tau_to_decay
from hetsyn_plugins.experiments import training, variants
from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.model import Model
from hetsyn_plugins.experiments.run_folder import load_networks
from hetsyn_plugins.experiments.variants import NetworkConfig
from hetsyn_plugins.fixed_point.network import quantise

DT = 5e-3
BASE = NetworkConfig(hidden=(6, 5), tau_start=(40e-3, 4e-3), tau_reset=40e-3, surrogate="triangular", adaptation=0.15)


def network(variant: str, seed: int = 0, **changes: object) -> Network:
    return variants.build(replace(BASE, variant=variant, **changes), 7, 3, DT, seed)  # type: ignore[arg-type]


def layers(net: Network) -> list[HetSynLayer]:
    return [layer for layer in net.layers if isinstance(layer, HetSynLayer)]


def after_steps(net: Network, framework: str, variant: str, steps: int = 3) -> Network:
    """The network after a few optimiser steps that move everything that may move."""
    model = Model(net, framework, one_decay=variant == "single_tau")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.002)  # three steps of 2 ms, where tau is trained
    for step in range(steps):
        x = (torch.rand(40, 4, 7, generator=torch.Generator().manual_seed(step)) < 0.3).float()
        optimiser.zero_grad()
        model(x).readout.square().mean().backward()
        optimiser.step()
        model.clamp_()
    return model.to_network()


@pytest.mark.parametrize("framework", ["snntorch", "norse", "lava_dl"])
@pytest.mark.parametrize("parametrization", ["decay", "tau", "log_tau"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_the_papers_conditions_hold_through_training(framework: str, parametrization: str, recurrent: bool) -> None:
    """Judged on the written-out decays of the network that comes back from the framework."""
    require(framework)
    rho = np.float32(tau_to_decay(40e-3, DT))
    for variant in variants.VARIANTS:
        start = network(variant, parametrization=parametrization, recurrent=recurrent)
        now = after_steps(start, framework, variant)
        for before, layer in zip(layers(start), layers(now), strict=True):
            full = layer.params.expanded()
            decays = [d for d in (full.decay, full.recurrent_decay) if d is not None]
            resets = [] if full.reset_decay is None else [full.reset_decay]
            assert not np.array_equal(before.params.weight, layer.params.weight)
            if variant == "hetsyn":
                assert np.unique(full.decay).size > full.weight.size // 2
                assert not np.array_equal(before.params.expanded().decay, full.decay)
                # a tau of 40 ms has no float32 of its config: the nearest gives r within 2 ulp
                assert all(np.abs(part - rho).max() <= 2 * np.spacing(rho) for part in resets)
            elif variant == "hetneu":
                assert np.unique(full.decay).size > 1 and not np.array_equal(before.params.expanded().decay, full.decay)
                assert all((d == full.decay[:, :1]).all() for d in decays)
                assert all((r == full.decay[:, 0]).all() for r in resets)
            elif variant == "single_tau":
                everywhere = {float(d) for lay in layers(now) for d in np.ravel(lay.params.expanded().decay)}
                assert len(everywhere) == 1 and everywhere != {float(rho)}
                assert all((part == full.decay[0, 0]).all() for part in (*decays, *resets))
            else:
                assert all(np.abs(part - rho).max() <= 2 * np.spacing(rho) for part in (*decays, *resets))
            assert (full.adaptation_strength is not None) == (variant == "alif" and layer.params.spiking)


@pytest.mark.parametrize("framework", ["snntorch", "norse", "lava_dl"])
def test_frameworks_give_the_same_numbers(framework: str) -> None:
    require(framework)
    x = (torch.rand(60, 4, 7) < 0.3).float()
    for variant in variants.VARIANTS:
        net = network(variant)
        spikes, v = zip(*net.run(x.numpy()).values(), strict=True)
        activity = Model(net, framework).eval()(x)
        for z, want in zip(activity.spikes, spikes, strict=False):
            assert want.any() and np.array_equal(z.detach().numpy(), want)  # no v of this draw is near the threshold
        # float32: sums of at most 60 * 6 terms of size below 1 and a few decays between
        np.testing.assert_allclose(activity.readout.detach().numpy(), v[-1], atol=60 * 6 * np.finfo(np.float32).eps)


def test_dropout_stands_behind_every_hidden_layer() -> None:
    names = [layer.name for layer in network("hetsyn", dropout=0.3).layers]
    assert names == ["hidden1", "dropout1", "hidden2", "dropout2", "readout"]
    assert [layer.p for layer in network("hetsyn", dropout=0.3).layers if isinstance(layer, Dropout)] == [0.3, 0.3]


def test_a_seed_gives_all_variants_the_same_weights_and_another_seed_others() -> None:
    for one, other in zip(layers(network("hetsyn")), layers(network("homneu")), strict=True):
        assert np.array_equal(one.params.weight, other.params.weight)
    assert not np.array_equal(layers(network("hetsyn"))[0].params.weight, layers(network("hetsyn", 1))[0].params.weight)


def test_start_values_are_the_papers() -> None:
    """Weights N(0, 1 / fan_in), taus N(40, 4^2) ms: 5 standard errors of mean and s.d. on each side."""
    big = NetworkConfig(hidden=(200,), tau_start=(40e-3, 4e-3), tau_reset=30e-3)
    layer = layers(variants.build(big, 300, 2, DT, 3))[0]
    n = layer.params.weight.size
    assert abs(layer.params.weight.std() * np.sqrt(300) - 1) < 5 / np.sqrt(2 * n)
    tau = layer.params.tau(DT).decay
    assert abs(tau.mean() - 40e-3) < 5 * 4e-3 / np.sqrt(n) and abs(tau.std() - 4e-3) < 5 * 4e-3 / np.sqrt(2 * n)
    assert layer.params.reset_decay == np.float32(np.exp(-DT / 30e-3)) and layer.params.threshold == 1


def test_frozen_taus_stay_to_the_bit_and_the_others_move() -> None:
    settings = [
        "network.frozen=0.8",
        "network.hidden=[10]",
        "training.decay_weight_decay=0.1",
        "training.optimiser=adamw",
    ]
    config = load_config("dms", settings)
    start = variants.build(config.network, config.task.lines, config.task.outputs, config.task.dt, 0)
    model = training.model_of(start, config)
    frozen = training.frozen_decays(model, 0.8, 0)
    optimiser = training.make_optimiser(model, config.training)
    before = [tensor.detach().clone() for _, _, tensor in model.decays()]
    for index in range(3):
        batch = config.task.training_batch(index, 8, 0)
        optimiser.zero_grad()
        config.task.loss(model(batch.inputs), batch.target).backward()
        for tensor, stays, _ in frozen.held:  # or clipping would count them
            assert tensor.grad is not None and not tensor.grad[stays].any()
        optimiser.step()
        model.clamp_()
        frozen.restore()
    for (_, _, tensor), start_tensor in zip(model.decays(), before, strict=True):
        moved = (tensor != start_tensor).sum().item()
        # a synapse that no gradient reached moves too, by the weight decay
        assert moved == tensor.numel() - round(0.8 * tensor.numel())


def require(framework: str) -> None:
    pytest.importorskip({"lava_dl": "lava.lib.dl.slayer"}.get(framework, framework))


def test_synapses_share_a_codebook_that_is_trained_and_kept(tmp_path: Path) -> None:
    """Also by a run that goes on from its state; what it leaves needs no clustering on its way to a chip."""
    settings = ["network.hidden=[6]", "network.clusters=3", "task.test_samples=4", "training.batch=4"]
    config = load_config("dms", [*settings, "training.iterations=4", "training.checkpoint_every=2"])
    start = layers(variants.build_for(config.task, config.network, 0))
    assert [(layer.share, len(layer.codebook.decays)) for layer in start] == [("codebook", 3)] * 2  # type: ignore[union-attr]
    for folder, at_once in (("whole", [4]), ("parts", [2, 4])):
        for iterations in at_once:
            part = replace(config, training=replace(config.training, iterations=iterations))
            (tmp_path / folder / "result.json").unlink(missing_ok=True)
            training.train(part, 0, tmp_path / folder, quiet=True)
    whole, parts = (layers(load_networks(tmp_path / folder)[1]) for folder in ("whole", "parts"))
    for before, now, other in zip(start, whole, parts, strict=True):
        assert now.codebook is not None and before.codebook is not None and other.codebook is not None
        assert np.array_equal(now.codebook.input_index, before.codebook.input_index)
        assert (now.codebook.decays != before.codebook.decays).all(), "the codebook is trained"
        assert np.array_equal(now.codebook.decays, other.codebook.decays)
    fixed, _ = quantise(load_networks(tmp_path / "whole")[1])
    assert all(len(layer.params.codebook) <= 3 for layer in fixed.layers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network.variant=hetneu"], "network.clusters: expected 0 with variant 'hetneu', got 3"),
        (["network.frozen=0.5"], "network.clusters: expected 0 with network.frozen=0.5, got 3"),
        (["network.clusters=-1"], "network.clusters: expected at least 0, got -1"),
        (["framework=lava_dl"], "network.clusters: expected 0 with framework 'lava_dl', whose blocks have no codebook"),
    ],
)
def test_a_codebook_where_there_is_none_is_named(settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("dms", ["network.clusters=3", *settings])


def test_delays_where_blocks_have_none_are_named() -> None:
    with pytest.raises(ValueError, match=r"^network\.max_delay: expected 0 with framework 'lava_dl', .*, got 0\.02$"):
        load_config("dms", ["network.max_delay=0.02"], "lava_dl")
