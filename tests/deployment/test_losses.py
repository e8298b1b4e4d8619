"""What export says where rounding empties a layer, and that it says nothing of ordinary ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, planted

from hetsyn_plugins import HetSynParams, deployment
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.deployment import losses as real
from hetsyn_plugins.fixed_point.rounding import quantise

LOSSES = "hetsyn_plugins.deployment.losses"
SIZES = ((10, 20), (128, 700), (10, 128))


def weights(n: int = 10, m: int = 20, seed: int = 5) -> Any:
    return np.random.default_rng(seed).random((n, m)) * 0.2


def net(weight: Any, decay: Any = 0.9, **fields: Any) -> Network:
    return Network((HetSynLayer("hidden", HetSynParams(weight, decay, **{"reset_decay": 0.9, **fields})),))


def drawn(kind: str, n: int, m: int) -> HetSynParams:
    """Layers as training leaves them: taus of 2 to 500 steps."""
    rng = np.random.default_rng(n + m)
    normal = rng.normal(size=(n, m)) / np.sqrt(m)
    weight = {
        "normal": normal,
        "uniform": rng.uniform(-1, 1, (n, m)) / np.sqrt(m),
        "heavy tails": rng.laplace(size=(n, m)) / np.sqrt(m),
        "pruned": np.where(rng.random((n, m)) < 0.9, 0.0, normal),
        "L1": np.where(rng.random((n, m)) < 0.8, 1e-3 * normal, normal),
        "dead neurons": np.where(rng.random((n, 1)) < 0.2, 1e-3 * normal, normal),
        "nothing": np.zeros((n, m)),
    }[kind]
    return HetSynParams(weight, np.exp(-1 / np.exp(rng.uniform(np.log(2), np.log(500), (n, m)))), reset_decay=0.9)


# ---- weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"form": "synapse"}, {"clusters": 1}])
def test_an_outlier_that_empties_a_layer_is_told_with_numbers(tmp_path: Path, options: dict[str, Any]) -> None:
    weight = weights()
    weight[0, 0] = 80.0  # the last bit is 80 / 127 = 0.63, all the others are below half of it
    median = np.median(weight)
    with pytest.warns(UserWarning, match=r"layer 'hidden': 199 of 200 nonzero weights became 0") as told:
        report = deployment.export(net(weight), tmp_path / "net.net", **options)
    kept = chip_file.read(tmp_path / "net.net").layers[0].params.weight
    assert (kept != 0).sum() == 1
    (sentence,) = report.layers[0].warnings
    assert f"the largest, 80, is {80 / median:,.0f} times the median of {median:.3g}" in sentence
    assert "9 of 10 neurons lost more than half" in sentence and "one unit of the 8 bits is 0.63" in sentence
    assert f"weight.clamp_(-{16 * median:.2g}" in sentence
    assert [str(w.message) for w in told] == [f"layer 'hidden': {sentence}"] and sentence in str(report)


def test_what_the_warning_says_to_do_helps(tmp_path: Path) -> None:
    """Clamped as it says, the layer spikes as in float, and nothing is told any more."""
    x = (np.random.default_rng(1).random((100, 8, 20)) < 0.3).astype(float)
    weight = weights()
    weight[0, 0] = 80.0
    weight = np.clip(weight, None, 16 * np.median(weight))
    report = deployment.export(net(weight), tmp_path / "net.net")
    rate = reference.run(net(weight).layers[0].params, x)[0].mean()  # type: ignore[union-attr, union-attr]
    assert report.layers[0].warnings == ()
    assert chip_file.read(tmp_path / "net.net").output(x).mean() == pytest.approx(rate, rel=0.05)


def check_outliers_everywhere(module: Any) -> None:
    """One a neuron: no neuron loses half of its sum, and yet all that it had beside the outlier."""
    weight = weights()
    weight[range(10), range(10)] = 80.0
    params = HetSynParams(weight, 0.9, reset_decay=0.9)
    (sentence,) = module.losses(params, quantise(params)[0]) or ("no outliers",)
    assert sentence.startswith("190 of 200 nonzero weights became 0 in 8 bits, 0 of 10 neurons lost"), "outliers"


def check_one_neuron(module: Any) -> None:
    """One neuron of a hundred, at a twelfth of the median neuron's sum."""
    weight = np.full((100, 20), 1.2)
    weight[0] = 0.1
    weight[1, 0] = 40.0
    params = HetSynParams(weight, 0.9, reset_decay=0.9)
    (sentence,) = module.losses(params, quantise(params)[0]) or ("not one neuron",)
    assert sentence.startswith("20 of 2,000 nonzero weights became 0 in 8 bits, 1 of 100 neurons lost"), "one neuron"


def check_recurrent(module: Any) -> None:
    recurrent = weights(10, 10)
    recurrent[3, 3] = 80.0
    params = HetSynParams(weights(10, 10), 0.9, reset_decay=0.9, recurrent_weight=recurrent, recurrent_decay=0.5)
    (sentence,) = module.losses(params, quantise(params)[0]) or ("nothing recurrent",)
    assert "99 of 100 nonzero recurrent weights became 0" in sentence, "recurrent"


def test_other_shapes_of_the_same_loss() -> None:
    check_outliers_everywhere(real)
    check_one_neuron(real)
    check_recurrent(real)


def test_where_no_weight_is_the_cause_none_is_blamed() -> None:
    small = 1e-4 * np.random.default_rng(0).normal(size=(3, 4))
    beside = {"recurrent_weight": np.full((3, 3), 1e3), "recurrent_decay": 0.9}
    for fields in ({"threshold": 1e4}, beside):
        params = HetSynParams(small, 0.99, reset_decay=0.9, **fields)
        (sentence,) = real.losses(params, quantise(params)[0])
        assert "3 of 3 neurons" in sentence and "the threshold, the layer's other weights or the unit" in sentence


def test_an_outlier_beyond_the_threshold_s_bits_is_refused_by_name(tmp_path: Path) -> None:
    weight = weights()
    weight[0, 0] = 400.0  # a unit of 3.1, in which a threshold of 1 is 0
    says = "threshold: expected more than half a weight unit of 3.15, got 1; the largest weight is 400: "
    with pytest.raises(ValueError, match=says):
        deployment.export(net(weight), tmp_path / "net.net")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["normal", "uniform", "heavy tails", "pruned", "L1", "dead neurons", "nothing"])
def test_ordinary_layers_raise_no_alarm(kind: str, size: tuple[int, int]) -> None:
    params = drawn(kind, *size)
    for form in ("synapse", "cluster"):
        assert real.losses(params, quantise(params, form=form)[0]) == (), f"no alarm about {kind}"


def test_blocks_that_were_trained_in_integers_lose_nothing(tmp_path: Path) -> None:
    """Their weights of 0 were 0 in training; a float block's were not."""
    slayer = pytest.importorskip("hetsyn_plugins.adapters.lava_dl.slayer")
    h5py = pytest.importorskip("h5py")
    for quantised in (True, False):
        block = slayer.Dense({"threshold": 1.0}, 20, 10, quantised=quantised)
        with torch.no_grad():
            block.synapse.weight.copy_(torch.from_numpy(0.07 * weights()).reshape(block.synapse.weight.shape))
        with warnings.catch_warnings(record=True) as told, h5py.File(tmp_path / "block.net", "w") as file:
            warnings.simplefilter("always")
            report = deployment.export([block], tmp_path / "net.net")
            block.export_hdf5(file.create_group("layer/0"))
        assert len(told) == (0 if quantised else 2), [str(w.message) for w in told]
        assert bool(report.layers[0].warnings) is not quantised


# ---- time constants ---------------------------------------------------------------------------------------------


def check_taus(module: Any) -> None:
    weight = weights(3, 4)
    for tau, moved in ((500, False), (2500, False), (3000, True), (4095, False), (6000, True)):
        params = HetSynParams(weight, np.exp(-1 / tau), reset_decay=0.9)
        told = module.losses(params, quantise(params)[0])
        assert bool(told) is moved, f"tau {tau}"
        if moved:
            assert told[0].startswith(f"12 time constants moved by more than a quarter in 12 bits, one of {tau:,} ")
            assert "steps to 4,095" in told[0]


def test_a_tau_that_becomes_another_is_told() -> None:
    check_taus(real)


def test_clustering_that_leaves_little_of_v_is_told(tmp_path: Path) -> None:
    decay = np.where(np.arange(20) % 2, 0.1, 0.998) * np.ones((10, 1))
    with pytest.warns(UserWarning, match=r"layer 'hidden': clustering moved v by \d+% .* more clusters"):
        report = deployment.export(net(weights(), decay), tmp_path / "net.net", clusters=1)
    assert "WARNING: clustering moved v" in str(report)
    assert deployment.export(net(weights(), decay), tmp_path / "net.net", clusters=2).layers[0].warnings == ()


# ---- planted bugs -----------------------------------------------------------------------------------------------

BUGS: list[tuple[str, str, Callable[[Any], None], str]] = [
    ("if emptied or lost.any()", "if lost.any()", check_outliers_everywhere, "outliers"),
    ("if emptied or lost.any()", "if emptied", check_one_neuron, "one neuron"),
    ("getattr(rounded, name)", "rounded.weight", check_recurrent, "recurrent"),
    ("(1 - kept) / (1 - decay) - 1", "kept - decay", check_taus, "tau 3000"),
]


@pytest.mark.parametrize(("old", "new", "check", "says"), BUGS, ids=[old for old, *_ in BUGS])
def test_planted_bugs_are_caught(old: str, new: str, check: Callable[[Any], None], says: str) -> None:
    with planted(LOSSES, old, new) as module, caught(says):
        check(module)
