"""The claim that sets delays beside time constants: equal parameters, learned delays, and what its short form has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hetsyn_plugins.core.network import HetSynLayer
from hetsyn_plugins.experiments import training, variants
from hetsyn_plugins.experiments.claims import CLAIMS, delays
from hetsyn_plugins.experiments.claims.evidence import Evidence
from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.data.shd import Recordings
from hetsyn_plugins.experiments.run_folder import load_networks
from hetsyn_plugins.experiments.tasks.speech import Data, Speech

SMALL = [network for network in delays.NETWORKS if network.budget == 2_000]


@pytest.mark.parametrize("network", SMALL, ids=lambda n: f"{n.data}, {n.budget}: {n.title}")
def test_a_network_has_the_parameters_that_it_is_counted_with(network: delays.Network, monkeypatch: Any) -> None:
    monkeypatch.setattr(Speech, "outputs", property(lambda task: delays.DATA[network.data].outputs))
    arm = next(iter(network.arms.values()))
    config = load_config(arm.task, arm.settings)
    model = training.model_of(variants.build_for(config.task, config.network, 0), config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == network.parameters(network.neurons) <= network.budget < network.parameters(network.neurons + 1)
    optimised = training.make_optimiser(model, config.training).param_groups
    assert sum(p.numel() for group in optimised for p in group["params"]) == trained
    rates = {p.shape: group["lr"] for group in optimised for p in group["params"] if group["lr"] == 0.05}
    assert bool(rates) is network.delayed


def test_arms_differ_and_the_short_form_is_the_first_part() -> None:
    claim = CLAIMS["delays"]
    assert len(claim.arms) == 3 * 2 * 3 * (6 + 1 + 1)
    assert claim.short.arms is not None and len(claim.short.arms) == 6 * 6  # networks, speakers
    assert all(name.startswith("delays-fsdd-10000") for name in claim.short.arms)


def test_rows_pair_each_network_with_the_coarser_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = CLAIMS["delays"]
    arms = {name: arm for name, arm in claim.arms.items() if name in (claim.short.arms or ())}
    evidence = Evidence(tmp_path, arms, [0, 1])

    def values(self: Evidence, arm: str) -> Any:
        good = 0.5 + 0.1 * ("-delays-" in arm) + 0.01 * int(arm[-1])
        return np.array([good, good + 0.02])

    monkeypatch.setattr(Evidence, "values", values)
    rows = {row.label: row for row in delays.rows(evidence)}
    assert len(rows) == 6
    label = "real voices, 10,000 parameters: a tau a synapse, delays"
    assert rows[label].ours == pytest.approx(63.5) and rows[label].n == 6  # folds
    note = rows[label].note
    assert "20 neurons" in note and "better than without delays in 6 of 6 pairs" in note
    assert "better than with a tau a neuron in 0 of 6 pairs" in note


def test_delays_are_learned_bounded_and_kept(tmp_path: Path) -> None:
    settings = ("network.hidden=[6]", "network.max_delay=50e-3", "training.iterations=4", "training.delay_lr=0.5")
    config = load_config("dms", (*settings, "task.test_samples=4", "training.batch=4"))
    start = variants.build_for(config.task, config.network, 0)
    hidden, readout = (layer for layer in start.layers if isinstance(layer, HetSynLayer))
    assert hidden.params.max_delay == 10 and readout.params.delay is None  # steps of 5 ms
    assert {"delay", "recurrent_delay"} <= hidden.learned
    training.train(config, 0, tmp_path, quiet=True)
    _, network = load_networks(tmp_path)
    (after,) = (layer for layer in network.layers if layer.name == "hidden1")
    assert isinstance(after, HetSynLayer) and (after.params.delay != hidden.params.delay).any()
    assert 0 <= after.params.delay.min() and after.params.delay.max() <= 10
    again = variants.build_for(config.task, config.network, 0).layers[0]
    assert isinstance(again, HetSynLayer) and np.array_equal(again.params.delay, hidden.params.delay)


def test_weights_are_the_same_with_delays_and_without() -> None:
    with_delays, without = (
        variants.build_for(config.task, config.network, 3).layers[0]
        for config in (load_config("dms", ("network.max_delay=0.1",)), load_config("dms"))
    )
    assert isinstance(with_delays, HetSynLayer) and isinstance(without, HetSynLayer)
    assert np.array_equal(with_delays.params.weight, without.params.weight)


def test_pooled_channels_are_sums_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, spikes = np.random.default_rng(0), 300
    units, ends = rng.integers(0, 700, spikes).astype(np.uint16), np.array([0, 100, 180, spikes])
    some = Recordings(rng.uniform(0, 0.9, spikes), units, ends, np.zeros(3, np.int64), None)
    monkeypatch.setattr(Speech, "data", Data(some, some))
    plain, pooled = Speech(dt=10e-3), Speech(dt=10e-3, pool=5)
    rows = np.arange(3)
    fine, coarse = plain.samples_of(rows).inputs, pooled.samples_of(rows).inputs
    assert coarse.shape[2] == pooled.lines == 140
    torch.testing.assert_close(coarse, fine.reshape(*fine.shape[:2], 140, 5).sum(3), rtol=0, atol=0)
    with pytest.raises(ValueError, match="pool: expected 1 to 700 channels, got 0"):
        Speech(pool=0)
