"""Clusters of decays: the best ones (by brute force), what is kept, what the report says, and how K is chosen."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest
from planting import caught, planted

from hetsyn_plugins import HetSynParams, fixed_point
from hetsyn_plugins.core import codebook, network, reference
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.deployment import clusters

N, M = 6, 9


@pytest.fixture
def module() -> Any:
    """The module under test; the planted bugs at the end run the same checks on changed ones."""
    return clusters


def params(seed: int = 0, **changes: Any) -> HetSynParams:
    """Decays over the whole range, both ends among them, the largest weights where decays are long."""
    rng = np.random.default_rng(seed)
    decay = np.exp(-1 / np.exp(rng.uniform(0, 5, (N, M))))
    decay[0, :2] = [0.0, 1.0]
    fields: dict[str, Any] = {
        "weight": rng.normal(0.15, 0.4, (N, M)) * (decay + 0.1),
        "decay": decay,
        "reset_decay": rng.uniform(0.5, 0.9, N),
        "threshold": rng.uniform(0.7, 1.1, N),
        "recurrent_weight": rng.normal(0, 0.2, (N, N)),
        "recurrent_decay": rng.uniform(0.2, 0.99, (N, N)),
        "adaptation_decay": rng.uniform(0.8, 0.99, N),
        "adaptation_strength": rng.uniform(0.01, 0.1, N),
        "bias": rng.normal(0, 0.05, N),
        **changes,
    }
    return HetSynParams(**fields)


def feed_forward(decay: Any, seed: int = 0) -> HetSynParams:
    return HetSynParams(np.random.default_rng(seed).normal(0.2, 0.4, (N, M)), decay, reset_decay=0.8)


def spikes(seed: int = 1, steps: int = 60, batch: int = 3, m: int = M) -> Any:
    return (np.random.default_rng(seed).random((steps, batch, m)) < 0.2).astype(np.float64)


# ---- the best clusters -------------------------------------------------------------------------------------------


def test_better_than_k_means_in_log_one_minus_r(module: Any) -> None:
    """On a layer as SHD's: taus of 2 to 100 steps, log-uniform, 5 % of the lines spike."""
    rng = np.random.default_rng(0)
    n, m = 64, 300
    decay = np.exp(-1 / np.exp(rng.uniform(np.log(2), np.log(100), (n, m))))
    p = HetSynParams(rng.normal(0, 1 / m**0.5, (n, m)), decay, reset_decay=0.9)
    for k in (4, 8):
        ours, report = module.cluster(p, k)
        x = np.log(1 - decay)
        centres = codebook.kmeans(x.ravel(), np.abs(p.weight).ravel(), k)[-1]
        other = p.replace(decay=1 - np.exp(centres[np.abs(x[..., None] - centres).argmin(-1)]))
        measure = clusters._OpenLoop(p, None, None)
        assert report.error == measure.error(ours)
        assert report.error < 0.9 * measure.error(other), "better than in log(1 - r)"


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_codebook_is_weighted_by_the_square_of_the_weight(module: Any, recurrent: bool) -> None:
    """One decay for two synapses of weights 1 and -2: the mean of their places, weighted 1 to 4 (|w|: 1 to 2)."""
    fields: dict[str, Any] = {"weight": [[1.0, -2.0]], "decay": np.array([[0.5, 0.9]])}
    if recurrent:
        fields = {"weight": [[1.0]], "decay": [[0.5]], "recurrent_weight": [[-2.0]], "recurrent_decay": [[0.9]]}
    _, report = module.cluster(HetSynParams(**fields, reset_decay=0.8), 1, words=False)
    scale = module.Scale(clusters.CALIBRATION[0])
    place = (1 * scale.place(0.5) + 4 * scale.place(0.9)) / 5
    # what has no weight has one of 1e-9 of the largest: it moves the mean by less than 1e-8 of the distance
    np.testing.assert_allclose(report.codebook, [scale.decay(place)], rtol=1e-7, err_msg="weighted 1 to 4")


# ---- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_synaptic_decays_change_and_the_ends_stay(module: Any, dtype: Any) -> None:
    p = params().astype(dtype)
    clustered, report = module.cluster(p, 7)
    for name in (
        "weight",
        "recurrent_weight",
        "reset_decay",
        "threshold",
        "bias",
        "adaptation_decay",
        "adaptation_strength",
    ):
        np.testing.assert_array_equal(getattr(clustered, name), getattr(p, name), err_msg=name)
    used = np.unique(np.concatenate([clustered.decay.ravel(), clustered.recurrent_decay.ravel()]))
    assert clustered.decay.dtype == dtype
    assert len(used) == 7, "as many decays as were allowed"
    np.testing.assert_array_equal(report.codebook, used)
    for end in (0.0, 1.0):
        np.testing.assert_array_equal(clustered.decay == end, p.decay == end)
    np.testing.assert_allclose(report.tau[1:-1], -1 / np.log(report.codebook[1:-1]))
    assert report.tau[0] == 0 and report.tau[-1] == np.inf
    # every synapse has the decay of the codebook whose response is nearest to its own
    scale = module.Scale(clusters.CALIBRATION[0])
    inside = report.codebook[1:-1]
    for before, after in zip(p.decay.ravel(), clustered.decay.ravel(), strict=True):
        if 0 < before < 1:
            assert after == inside[np.abs(scale.place(inside) - scale.place(before)).argmin()]


def test_one_codebook_for_inputs_and_recurrent_synapses(module: Any) -> None:
    clustered, report = module.cluster(params(), 5)
    both = set(np.unique(clustered.decay)) | set(np.unique(clustered.recurrent_decay))
    assert len(both) == 5, "one codebook for both"
    assert both == set(report.codebook)
    assert fixed_point.quantise(clustered)[0].codebook.size == 5


def test_absent_synapses_take_no_place_in_a_codebook(module: Any) -> None:
    """A layer of eight decays, four of them of absent synapses alone: four clusters lose nothing, nor do integers."""
    words = 1 - np.array([50, 100, 200, 400, 800, 1600, 4096, 0]) / 4096  # r = 0 and 1 among those of no synapse
    decay = np.resize(words, (6, 8))
    mask = np.zeros((6, 8), bool)
    mask[:, :4] = True
    params = HetSynParams(np.linspace(0.1, 1, 48).reshape(6, 8), decay, threshold=1.0, reset_decay=0.9, mask=mask)
    clustered, report = module.cluster(params, 4)
    np.testing.assert_array_equal(report.codebook, np.sort(words[:4]))
    np.testing.assert_array_equal(clustered.decay[mask], decay[mask])
    assert report.error < 1e-12  # sums in another order
    fixed, _ = fixed_point.quantise(params)
    assert len(fixed.codebook) == 4


@pytest.mark.parametrize("shape", [(), (N,), (N, 1), (1, M)])
def test_shared_decays_stay_shared(module: Any, shape: tuple[int, ...]) -> None:
    clustered, report = module.cluster(feed_forward(np.random.default_rng(0).uniform(0.2, 0.99, shape)), 3)
    assert clustered.decay.shape == shape and len(report.codebook) <= 3
    assert len(np.unique(clustered.decay)) == min(3, int(np.prod(shape)))


def test_words_leave_nothing_to_round(module: Any) -> None:
    """Also where the taus are beyond what 12 bits hold: the longest word, and the shortest but one, are taken."""
    p = feed_forward(np.random.default_rng(0).choice([1e-6, 1 - 1e-7, 0.123456, 0.987654], (N, M)))
    with pytest.raises(ValueError, match="whose tau does not fit 12 bits"):
        fixed_point.quantise(p)
    clustered, report = module.cluster(p.replace(reset_decay=0.75), 4)
    assert ((report.codebook * 4096) % 1 == 0).all()
    assert report.codebook[[0, -1]].tolist() == [1 / 4096, 4095 / 4096], "no word is an end"
    fixed, rounding = fixed_point.quantise(clustered)
    assert rounding.decay_error == 0 and len(fixed.codebook) == 4
    report = module.cluster(p, 4, words=False)[1]
    np.testing.assert_allclose(report.codebook, [1e-6, 0.123456, 0.987654, 1 - 1e-7], rtol=0, atol=2e-6)


def test_what_is_clustered_already_stays_to_the_bit(module: Any) -> None:
    once, _ = module.cluster(params(), 6)
    again, report = module.cluster(once, 6, inputs=spikes())
    np.testing.assert_array_equal(again.decay, once.decay)
    np.testing.assert_array_equal(again.recurrent_decay, once.recurrent_decay)
    assert report.error < 1e-12 and report.changed == 0


def test_nothing_is_random(module: Any) -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002  the generator that must not be touched
    one, other = (module.cluster(params(), 6) for _ in range(2))
    np.testing.assert_array_equal(one[0].decay, other[0].decay)
    assert one[1].error == other[1].error
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_layers_with_little_to_cluster(module: Any) -> None:
    ends = feed_forward(np.random.default_rng(0).integers(0, 2, (N, M)).astype(float))
    clustered, report = module.cluster(ends, 2)
    np.testing.assert_array_equal(clustered.decay, ends.decay)
    assert report.codebook.tolist() == [0, 1] and report.error < 1e-12
    silent = params(weight=np.zeros((N, M)), recurrent_weight=np.zeros((N, N)))
    clustered, report = module.cluster(silent, 4)
    assert len(report.codebook) == 4 and report.error == 0


# ---- the report --------------------------------------------------------------------------------------------------


def open_loop_v(p: HetSynParams, lines: Any) -> Any:
    """v of the input and recurrent synapses alone, by the reference's readout."""
    p = p.expanded()
    weight, decay = p.weight, p.decay
    if p.recurrent_weight is not None:
        weight, decay = np.hstack([weight, p.recurrent_weight]), np.hstack([decay, p.recurrent_decay])
    return reference.run(HetSynParams.readout(weight, decay), lines)[1]


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_error_is_that_of_v_with_the_same_spikes(module: Any, recurrent: bool) -> None:
    p, x = (params() if recurrent else feed_forward(params().decay)), spikes()
    clustered, report = module.cluster(p, 5, inputs=x)
    z = reference.run(p, x)[0]
    lines = np.concatenate([x, np.concatenate([np.zeros_like(z[:1]), z[:-1]])], 2) if recurrent else x
    before, after = open_loop_v(p, lines), open_loop_v(clustered, lines)
    error = np.sqrt(((after - before) ** 2).mean()) / before.std()
    np.testing.assert_allclose(report.error, error, rtol=1e-10, err_msg="the error of v")
    assert 0.001 < report.error < 1
    without = module.cluster(p, 5)[1]
    assert without.changed is None and without.spikes is None and without.error != report.error


def test_changed_spikes_are_counted_in_the_closed_loop(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    p, x = params(), spikes()
    clustered, report = module.cluster(p, 4, inputs=x)
    before, after = reference.run(p, x)[0], reference.run(clustered, x)[0]
    assert before is not None and after is not None
    assert report.changed == (before != after).mean() > 0
    assert report.spikes == (before.sum(), after.sum())
    monkeypatch.setattr(network, "CHUNK", 7 * 3 * (N + M) * N)  # seven steps at a time
    assert module.cluster(p, 4, inputs=x)[1].changed == report.changed
    readout = HetSynParams.readout(p.weight, p.decay)
    assert module.cluster(readout, 4, inputs=x)[1].spikes is None


# ---- how many ----------------------------------------------------------------------------------------------------


def test_a_tolerance_takes_the_smallest_number(module: Any) -> None:
    p, x = params(), spikes()
    errors = {k: module.cluster(p, k, inputs=x)[1].error for k in range(3, 12)}
    for tolerance in (1.01 * errors[3], errors[5], 1.01 * errors[9]):
        smallest = min(k for k, error in errors.items() if error <= tolerance)
        clustered, report = module.cluster(p, tolerance=tolerance, inputs=x)
        assert len(report.codebook) == smallest, "the smallest number that the tolerance allows"
        assert report.error == errors[smallest]
        np.testing.assert_array_equal(clustered.decay, module.cluster(p, smallest, inputs=x)[0].decay)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "k: expected either k or tolerance, got k=None and tolerance=None"),
        ({"k": 3, "tolerance": 0.1}, "k: expected either k or tolerance"),
        ({"k": 2}, r"k: expected a whole number of decays, at least 3 here \(r = 0 and r = 1 are kept\), got 2"),
        ({"k": 3.5}, "k: expected a whole number of decays"),
        ({"tolerance": 0.0}, "tolerance: expected a number > 0, got 0.0"),
        ({"tolerance": float("nan")}, "tolerance: expected a number > 0, got nan"),
        ({"tolerance": 1e-12}, "tolerance: expected at least .*, which 64 decays reach, got 1e-12"),
        ({"k": 4, "inputs": np.zeros((5, 2, M + 1))}, r"inputs: expected shape \(T, B, 9\)"),
        ({"k": 4, "inputs": np.full((5, 2, M), np.nan)}, "inputs: expected finite values"),
    ],
)
def test_wrong_requests(module: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        module.cluster(params(), **arguments)


# ---- a network ---------------------------------------------------------------------------------------------------


def test_a_network_is_measured_layer_by_layer(module: Any) -> None:
    """Each layer gets what reaches it in the float network; what stands between layers is as it was."""
    rng = np.random.default_rng(2)
    tied = rng.uniform(0.5, 0.97, 4)
    out = HetSynParams(rng.normal(0.2, 0.5, (4, N + 1)), tied, reset_decay=tied)
    hidden = HetSynLayer(
        "hidden",
        params(),
        parametrization="log_tau",
        dt=1e-3,
        stored={"decay": params().decay, "reset_decay": params().reset_decay},
    )
    mix = Linear("mix", rng.normal(0, 0.5, (M, 3)), rng.normal(0, 0.1, M))
    last = HetSynLayer("out", out, share="neuron", tie_reset=True)
    net = Network((mix, hidden, Dropout("drop", 0.5), AlwaysOn("on"), last))
    x = spikes(m=3)
    clustered, reports = module.cluster_network(net, 4, inputs=x)
    assert [layer.name for layer in clustered.layers] == ["mix", "hidden", "drop", "on", "out"]
    assert list(reports) == ["hidden", "out"]

    mixed = x @ mix.weight.T + mix.bias
    z = net.run(x)["hidden"][0]
    assert z is not None
    for layer, reaching in ((hidden, mixed), (last, np.concatenate([z, np.ones((60, 3, 1))], 2))):
        alone, report = module.cluster(layer.params, 4, inputs=reaching)
        assert reports[layer.name].error == report.error and reports[layer.name].spikes == report.spikes
        (same,) = (each for each in clustered.layers if each.name == layer.name)
        np.testing.assert_array_equal(same.params.decay, alone.decay)
    assert set(clustered.layers[1].stored) == {"reset_decay"} and clustered.layers[1].dt == 1e-3
    assert not clustered.layers[4].tie_reset and clustered.layers[4].share == "neuron"
    _, without = module.cluster_network(net, tolerance=0.5)
    assert without["out"].changed is None and without["out"].error <= 0.5


# ---- planted bugs ------------------------------------------------------------------------------------------------


class Bug(NamedTuple):
    """In `file` `old` becomes `new`; `check` must then fail with an error that says `says`."""

    name: str
    old: str
    new: str
    check: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    says: str = ""
    error: type[BaseException] = AssertionError
    file: Any = clusters


BUGS = [
    Bug(
        "k-means in r",
        "return np.interp(decay, self.decays, self.places)",
        "return 1.0 * np.asarray(decay)",
        test_better_than_k_means_in_log_one_minus_r,
        (),
        says="better than in log(1 - r)",
        file=codebook,
    ),
    Bug(
        "the ends are clustered too",
        "np.where((decay > 0) & (decay < 1), nearest",
        "np.where(decay >= 0, nearest",
        test_only_synaptic_decays_change_and_the_ends_stay,
        (np.float64,),
        says="as many decays as were allowed",
        file=codebook,
    ),
    Bug(
        "float64 creeps in",
        ".astype(decay.dtype)",
        "",
        test_only_synaptic_decays_change_and_the_ends_stay,
        (np.float32,),
        says="decay: expected the weight's dtype, float32, got float64",
        error=ValueError,
        file=codebook,
    ),
    Bug(
        "the recurrent decays are left",
        "recurrent_decay=recurrent)",
        "recurrent_decay=params.recurrent_decay)",
        test_one_codebook_for_inputs_and_recurrent_synapses,
        (),
        says="one codebook for both",
    ),
    Bug(
        "words that are ends",
        "np.clip(decay_to_word(decay), 1, DECAY_ONE - 1)",
        "decay_to_word(decay)",
        test_words_leave_nothing_to_round,
        (),
        says="no word is an end",
    ),
    Bug(
        "z of the same step",
        "np.concatenate([0 * spikes[:1], spikes[:-1]])",
        "spikes",
        test_the_error_is_that_of_v_with_the_same_spikes,
        (True,),
        says="the error of v",
    ),
    Bug(
        "the change is not squared",
        "(u.sum(-1) - v_t) ** 2",
        "np.abs(u.sum(-1) - v_t)",
        test_the_error_is_that_of_v_with_the_same_spikes,
        (False,),
        says="the error of v",
    ),
    Bug(
        "the first number that comes",
        "error <= tolerance",
        "error <= 2 * tolerance",
        test_a_tolerance_takes_the_smallest_number,
        (),
        says="the smallest number that the tolerance allows",
    ),
    Bug(
        "layers all get the network's inputs",
        "(each.inputs for each in network.walk(inputs))",
        "repeat(np.asarray(inputs))",
        test_a_network_is_measured_layer_by_layer,
        (),
        says="inputs: expected shape (T, B, 9), time first, got (60, 3, 3)",
        error=ValueError,
    ),
    Bug(
        "old taus stay",
        'if f not in ("decay", "recurrent_decay")',
        "",
        test_a_network_is_measured_layer_by_layer,
        (),
        says="'decay'",
    ),
    Bug(
        "a codebook weighted by |w|",
        "np.concatenate([w.ravel() for _, w in pairs]) ** 2",
        "np.abs(np.concatenate([w.ravel() for _, w in pairs]))",
        test_a_codebook_is_weighted_by_the_square_of_the_weight,
        (True,),
        says="weighted 1 to 4",
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug) -> None:
    around = [codebook.__name__, clusters.__name__]
    with planted(bug.file.__name__, bug.old, bug.new, around=around), caught(bug.says, bug.error):
        bug.check(import_module(clusters.__name__), *bug.arguments)
