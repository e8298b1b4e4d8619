"""Batch norm between layers: against nn.BatchNorm1d, folded into plain weights, over ranks (`test_ranks`)."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, planted
from torch import nn

from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.experiments import batch_norm as module
from hetsyn_plugins.experiments import model, training
from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.run_folder import load_networks
from hetsyn_plugins.experiments.variants import NetworkConfig, build

SETTINGS = (
    "network.hidden=[6, 5]", "network.batch_norm=true", "network.dropout=0.2", "training.iterations=4",
    "training.batch=4", "training.validate_every=2", "task.test_samples=6",
)  # fmt: skip


def signed(steps: int, batch: int, neurons: int) -> torch.Tensor:
    """Inputs whose mean over steps and batch is 0, where batch norm has nothing to take away."""
    half = torch.randn(steps // 2, batch, neurons, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.cat([half, -half])


def check_is_torchs_where_means_are_zero(norms: Any = module) -> None:
    """Outputs, gradients and running squares; torch's running variance has n / (n - 1)."""
    x = signed(10, 3, 4).requires_grad_()
    ours, theirs = norms.BatchNorm(4).double(), nn.BatchNorm1d(4, norms.EPSILON, norms.MOMENTUM).double()
    ours.gain.data[:] = theirs.weight.data[:] = torch.tensor([1.0, 0.5, -2.0, 3.0])
    for training_ in (True, False):
        ours.train(training_)
        theirs.train(training_)
        if not training_:
            theirs.running_var.copy_(ours.running)
        mine, stock = ours(x), theirs(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        torch.testing.assert_close(mine, stock, rtol=1e-12, atol=1e-12)  # 30 numbers summed in float64
        weights = torch.arange(mine.numel(), dtype=torch.float64).view_as(mine).cos()
        gradients = [torch.autograd.grad((y * weights).sum(), [x, gain])
                     for y, gain in ((mine, ours.gain), (stock, theirs.weight))]  # fmt: skip
        # torch's takes the gradient of the mean off too, which a mean that is no part of the norm does not have
        mean = (gradients[0][0] - gradients[1][0]).mean((0, 1), keepdim=True)
        torch.testing.assert_close(gradients[0][0] - mean, gradients[1][0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-10, atol=1e-10)
    expected = 1 - norms.MOMENTUM + norms.MOMENTUM * x.detach().square().mean((0, 1))
    torch.testing.assert_close(ours.running, expected, rtol=1e-12, atol=0)


def test_is_torchs_where_means_are_zero() -> None:
    check_is_torchs_where_means_are_zero()


def check_is_folded(models: Any = model) -> None:
    """In float64: spikes of a trained model, and those of its plain network in the reference, every one."""
    start = build(NetworkConfig(hidden=(6, 5), dropout=0.2), 8, 3, 1e-3, 0)
    double = [
        replace(layer, params=layer.params.astype(np.float64)) if isinstance(layer, HetSynLayer) else layer
        for layer in start.layers
    ]
    trained = models.Model(Network(tuple(double)), "snntorch", batch_norm=True).double()
    rng = np.random.default_rng(0)
    x = torch.from_numpy((rng.random((60, 4, 8)) < 0.4).astype(np.float64))
    for norm in trained.norms.values():
        norm.gain.data[:] = torch.from_numpy(rng.uniform(0.5, 2.0, len(norm.gain)))
    trained(x)  # running means move
    trained.eval()
    activity = trained(x)
    plain = trained.to_network()
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in start.layers]
    run = plain.run(x.numpy())
    for name, spikes in zip(("hidden1", "hidden2"), activity.spikes, strict=True):
        assert spikes.sum() > 20
        np.testing.assert_array_equal(spikes.detach().numpy(), run[name][0])
    np.testing.assert_allclose(activity.readout.detach().numpy(), run["readout"][1], rtol=1e-10, atol=1e-12)


def test_a_trained_network_is_a_plain_one() -> None:
    check_is_folded()


def test_a_run_judges_the_network_that_it_leaves(tmp_path: Path) -> None:
    config = load_config("dms", SETTINGS)
    result = training.train(config, 3, tmp_path, quiet=True)
    _, network = load_networks(tmp_path)
    assert training.evaluate_network(network, config, 3) == result.test


def test_the_chips_integers_have_no_batch_norm() -> None:
    with pytest.raises(ValueError, match=r"network\.quantised: expected network\.batch_norm=false with it, got true"):
        load_config("dms", ["network.quantised=true", "network.batch_norm=true"], "lava_dl")


BUGS = {
    "a mean square a step": ("mean_of_steps(x.square(), lengths)", "x.square().mean(0)[0]"),
    "another epsilon": ("(squares + EPSILON)", "(squares + 2 * EPSILON)"),
    "no gain": ("self.gain * (squares", "1 * (squares"),
    "the batch's own squares where it is judged": ("squares = self.running", "squares = x.square().mean((0, 1)) * 2"),
    "a momentum of what was": ("(squares, MOMENTUM", "(squares, 1 - MOMENTUM"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_caught(bug: str) -> None:
    with planted(module.__name__, *BUGS[bug]) as norms, caught("Tensor-likes are not close"):
        check_is_torchs_where_means_are_zero(norms)


def test_a_gain_that_is_not_folded_is_caught() -> None:
    name, around = module.__name__, [module.__name__, model.__name__]
    with planted(name, "scale = (self.gain * ", "scale = (1 * ", around=around), caught("Arrays are not equal"):
        check_is_folded(import_module(model.__name__))
