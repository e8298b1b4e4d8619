"""Time constants in numbers, resetting the long ones, and inputs without timing: closed forms and planted values."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isnan, log, nan
from typing import Any

import numpy as np
import pytest

import hetsyn_plugins
from hetsyn_plugins import HetSynParams, decay_to_tau
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.network import Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.experiments import analysis
from hetsyn_plugins.experiments.analysis import VarianceComponents

DT, N, M, OUT = 5e-3, 4, 6, 2


def network(dtype: Any = np.float64, **options: Any) -> Network:
    """A recurrent layer and a readout, every third tau or so above 700 ms, and the reset's too."""
    rng = np.random.default_rng(0)
    taus = [rng.uniform(0.02, 1.0, shape) for shape in ((N, M), (N, N), (OUT, N))]
    taus[0][0, :3] = 0, inf, 30  # always there, and twice far beyond the bound
    hidden = HetSynParams.from_tau(
        rng.normal(0, 1, (N, M)).astype(dtype),
        taus[0],
        dt=DT,
        reset_tau=0.9,
        recurrent_weight=rng.normal(0, 1, (N, N)).astype(dtype),
        recurrent_tau=taus[1],
    )
    readout = HetSynParams.from_tau(
        rng.normal(0, 1, (OUT, N)).astype(dtype), taus[2], dt=DT, reset_tau=None, spiking=False
    )
    return Network(
        (
            HetSynLayer("hidden", hidden, dt=DT, **options),
            Dropout("drop", 0.1),
            HetSynLayer("out", readout, dt=DT, **options),
        )
    )


def hidden_layer(**changes: Any) -> HetSynLayer:
    layer = network().layers[0]
    assert isinstance(layer, HetSynLayer)
    return replace(layer, **changes)


# ---- which synapses there are ------------------------------------------------------------------------------------


def test_taus_are_in_seconds_a_kind_of_synapse_each() -> None:
    tau = np.array([[0.01, 0.02, 0.0], [0.4, inf, 0.05]])
    params = HetSynParams.from_tau(np.array([[1.0, -2, 3], [4, 5, -6]]), tau, dt=DT, reset_tau=0.02)
    result = analysis.synapses(Network((Linear("mix", np.ones((3, 3))), HetSynLayer("a", params, dt=DT))))
    assert list(result) == ["a input"]
    np.testing.assert_allclose(result["a input"].tau, tau, rtol=1e-12)
    assert np.array_equal(result["a input"].weight, params.weight)
    assert list(analysis.taus(network())) == ["hidden input", "hidden recurrent", "out input"]
    assert [t.shape for t in analysis.taus(network()).values()] == [(N, M), (N, N), (OUT, N)]
    assert list(analysis.taus(hidden_layer())) == ["hidden input", "hidden recurrent"]


@pytest.mark.parametrize("shape", [(), (N,), (N, 1), (1, M)])
def test_shared_decays_are_written_out(shape: tuple[int, ...]) -> None:
    decay = np.array(np.random.default_rng(0).uniform(0.1, 0.9, shape))
    params = HetSynParams(np.ones((N, M)), decay, reset_decay=0.5)
    tau = analysis.taus(HetSynLayer("a", params, dt=DT))["a input"]
    place = {(): lambda i, j: (), (N,): lambda i, j: i, (N, 1): lambda i, j: (i, 0), (1, M): lambda i, j: (0, j)}[shape]
    assert tau.shape == (N, M)
    for i, j in np.ndindex(N, M):
        assert tau[i, j] == pytest.approx(-DT / log(decay[place(i, j)]), rel=1e-12)


def test_where_no_neuron_has_a_synapse_to_itself_the_diagonal_is_no_synapse() -> None:
    square = np.arange(1.0, 10).reshape(3, 3)
    params = HetSynParams.from_tau(
        np.ones((3, 2)), 0.1, dt=DT, reset_tau=0.1, recurrent_weight=square - np.diag([1, 5, 9]), recurrent_tau=square
    )
    result = analysis.synapses(HetSynLayer("a", params, dt=DT, autapses=False))["a recurrent"]
    np.testing.assert_allclose(result.tau, [[2, 3], [4, 6], [7, 8]], rtol=1e-9)
    assert result.weight.tolist() == [[2, 3], [4, 6], [7, 8]]
    one = HetSynParams(np.ones((1, 2)), 0.5, reset_decay=0.5, recurrent_weight=[[0.0]], recurrent_decay=0.5)
    assert analysis.taus(HetSynLayer("a", one, dt=DT, autapses=False))["a recurrent"].shape == (1, 0)


def test_a_layer_without_dt_is_named() -> None:
    with pytest.raises(ValueError, match=r"^dt: expected a step length in seconds in layer 'hidden', got None"):
        analysis.taus(hidden_layer(dt=None))


def test_channels_are_columns() -> None:
    layer = hidden_layer()
    result = analysis.taus_of_channels(layer, {"cue": range(4), "noise": [5, 4]})
    tau = decay_to_tau(layer.params.decay, DT)
    assert np.array_equal(result["cue"], tau[:, :4]) and np.array_equal(result["noise"], tau[:, [5, 4]])


@pytest.mark.parametrize("lines", [(), range(4, 7), [-1]])
def test_channels_that_are_not_there_are_refused(lines: Any) -> None:
    with pytest.raises(ValueError, match=r"^groups\['cue'\]: expected some of the lines 0 to 5, got "):
        analysis.taus_of_channels(hidden_layer(), {"cue": lines})


# ---- in numbers --------------------------------------------------------------------------------------------------


def test_summary_of_values_by_hand() -> None:
    result = analysis.summarise([0.01, 0.0, 10.0, inf, 0.1, 0.7], bound=0.7)
    assert (result.n, result.at_zero, result.at_one, result.long) == (6, 1 / 6, 1 / 6, 2 / 6)
    assert result.median == pytest.approx(0.4) and result.quartiles == (0.01, 10.0)
    assert result.mean == inf and result.clipped_mean == pytest.approx((0.01 + 5 + 5 + 0.1 + 0.7) / 6)
    first, second, third, fourth = log(0.01), log(0.1), log(0.7), log(10)
    assert result.mu == pytest.approx((second + third) / 2)
    quartiles = (0.25 * first + 0.75 * second, 0.75 * third + 0.25 * fourth)  # 3 / 4 of a place from either end
    assert result.sigma == pytest.approx((quartiles[1] - quartiles[0]) / 1.3489795)


def test_the_fit_recovers_a_planted_log_normal_beside_masses_at_the_ends() -> None:
    n, mu, sigma = 20_000, log(0.04), 0.8
    inside = np.exp(np.random.default_rng(0).normal(mu, sigma, n))
    result = analysis.summarise(np.concatenate([inside, np.zeros(1000), np.full(3000, inf)]))
    # five standard errors of a normal distribution's median, sqrt(pi / 2) sigma / sqrt(n), and of its quartiles'
    # distance in s.d., sqrt(p / (2 f^2)) / 1.349 sigma / sqrt(n) with p = 1 / 4 and f its density there, 0.3178: 1.166
    assert abs(result.mu - mu) < 5 * 1.2533 * sigma / n**0.5
    assert abs(result.sigma - sigma) < 5 * 1.166 * sigma / n**0.5
    assert result.at_zero == 1000 / 24_000 and result.at_one == 3000 / 24_000


def test_a_few_taus_near_one_do_not_pull_the_fit() -> None:
    """Decays that are clamped a bit below 1 have taus of hours: 2 % of them change a mean of logarithms by 0.25."""
    inside = np.exp(np.random.default_rng(0).normal(log(0.04), 0.5, 5000))
    alone, beside = analysis.summarise(inside), analysis.summarise(np.append(inside, np.full(100, 1e4)))
    assert abs(beside.mu - alone.mu) < 0.02 and abs(beside.sigma - alone.sigma) < 0.02


def test_summaries_of_nothing_between_the_ends() -> None:
    infinite, zero, nothing, one = (analysis.summarise(t) for t in (np.full((2, 3), inf), [0.0], [], [0.04]))
    assert (infinite.at_one, infinite.median, infinite.clipped_mean, infinite.long) == (1, inf, 5, 1)
    assert isnan(infinite.mu) and isnan(infinite.sigma) and infinite.quartiles == (inf, inf)
    assert (zero.at_zero, zero.median, zero.mean, zero.long) == (1, 0, 0, 0) and isnan(zero.mu)
    assert nothing.n == 0 and isnan(nothing.at_one) and isnan(nothing.median) and isnan(nothing.long)
    assert (one.n, one.median, one.sigma) == (1, 0.04, 0) and one.mu == pytest.approx(log(0.04))
    assert analysis.summarise(np.full(1000, 0.0421)).sigma == 0  # not what rounding leaves of it


@pytest.mark.parametrize("tau", [[-0.01, 0.02], [nan, 0.02]])
def test_summaries_refuse_what_is_no_time_constant(tau: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^tau: expected seconds >= 0, got "):
        analysis.summarise(tau)


def test_rank_correlation_without_ties_is_spearmans_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.permutation(50), rng.permutation(50)
    assert analysis.spearman(np.exp(a), b**3) == pytest.approx(1 - 6 * ((a - b) ** 2).sum() / (50 * (50**2 - 1)))


def test_rank_correlation_of_ties_ends_and_nothing() -> None:
    assert analysis.spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)  # ranks 1 2.5 2.5 4
    assert analysis.spearman([[0.0, 0.1], [0.2, inf]], [[9, 8], [7, 6]]) == pytest.approx(-1)
    assert isnan(analysis.spearman([inf, inf], [1, 2])) and isnan(analysis.spearman([1], [2]))
    with pytest.raises(ValueError, match=r"^b: expected 3 values, one for each of a, got 2"):
        analysis.spearman([1, 2, 3], [1, 2])


def test_spread_of_values_by_hand() -> None:
    result = analysis.variance_components(np.exp([[0.0, 2.0], [4.0, 6.0]]))
    assert (result.within, result.between) == (pytest.approx(2), pytest.approx(7))  # (16 - 2) / 2
    assert result.share == pytest.approx(7 / 9)
    # unequal groups, once r = 0 and r = 1 are out: mean squares 2 and 6, (3 - 5 / 3) / 1 synapses a neuron
    uneven = analysis.variance_components(np.exp([[0.0, 2.0], [4.0, inf], [-inf, inf]]))
    assert (uneven.within, uneven.between) == (pytest.approx(2), pytest.approx(3))


def test_spread_recovers_planted_variances() -> None:
    rng = np.random.default_rng(0)
    neurons, each, within, between = 400, 50, 0.25, 0.09
    logs = rng.normal(-3, between**0.5, (neurons, 1)) + rng.normal(0, within**0.5, (neurons, each))
    result = analysis.variance_components(np.exp(logs))
    # five standard errors: of a variance v from k degrees of freedom, v sqrt(2 / k)
    assert abs(result.within - within) < 5 * within * (2 / (neurons * (each - 1))) ** 0.5
    assert abs(result.between - between) < 5 * (between + within / each) * (2 / (neurons - 1)) ** 0.5


def test_spread_tells_neuronal_from_synaptic_heterogeneity() -> None:
    rng = np.random.default_rng(0)
    neuronal = np.repeat(rng.uniform(0.01, 0.1, (20, 1)), 7, 1)
    by_neuron = analysis.variance_components(neuronal)
    assert by_neuron.share == pytest.approx(1) and by_neuron.within < 1e-25
    assert analysis.variance_components(rng.permuted(neuronal.ravel()).reshape(20, 7)).share < 0.2
    alike = analysis.variance_components(np.full((20, 7), 0.02))
    assert (alike.within, alike.between) == (0, 0) and isnan(alike.share)
    # means closer than chance: an estimate below 0
    negative = analysis.variance_components(np.exp([[0.0, 1.0], [1.0, 0.0]]))
    assert negative.between == 0 and negative.share == 0


@pytest.mark.parametrize("tau", [[[0.01, 0.02]], [[0.01], [0.02]], [[inf, 0.0], [0.0, 0.0]], np.empty((3, 0))])
def test_spread_needs_two_neurons_and_one_with_two_synapses(tau: Any) -> None:
    result = analysis.variance_components(np.array(tau))
    assert isnan(result.within) and isnan(result.between) and isnan(result.share)


def test_spread_refuses_what_has_no_rows() -> None:
    with pytest.raises(ValueError, match=r"^tau: expected shape \(N, M\), a row a neuron, got \(3,\)"):
        analysis.variance_components(np.ones(3))
    assert VarianceComponents(1.0, 3.0).share == 0.75


# ---- resetting ---------------------------------------------------------------------------------------------------

DECAYS = ("decay", "recurrent_decay", "reset_decay")


def decays(net: Network) -> dict[str, Array]:
    """ "layer field" -> r as float64, one entry a decay."""
    result = {}
    for layer in net.layers:
        if isinstance(layer, HetSynLayer):
            for field in DECAYS:
                if getattr(layer.params, field) is not None:
                    result[f"{layer.name} {field}"] = getattr(layer.params, field)
    return result


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parametrization", ["decay", "tau", "log_tau"])
def test_reset_moves_the_long_synapses_and_nothing_else(parametrization: str, dtype: Any) -> None:
    pytest.importorskip("snntorch")
    through = hetsyn_plugins.convert(network(dtype, parametrization=parametrization), to="snntorch")
    before = hetsyn_plugins.convert(through, to="reference")  # with the stored taus that a trained network has
    after = analysis.reset_long_taus(before, 0.7, 0.1)
    moved = 0
    for name, r in decays(before).items():
        long = (decay_to_tau(r, DT) > 0.7) & ("reset_decay" not in name)
        now = decays(after)[name]
        assert now.dtype == dtype and np.array_equal(now[~long], r[~long])
        # r is rounded once, and so is the stored tau or log tau, of size 2.3: tau is off by eps (tau / dt + 2.3)
        np.testing.assert_allclose(decay_to_tau(now[long], DT), 0.1, rtol=float(np.finfo(dtype).eps) * 25)
        moved += int(long.sum())
    assert moved > 5
    for old, new in zip(before.layers, after.layers, strict=True):
        if isinstance(old, HetSynLayer) and isinstance(new, HetSynLayer):
            fields = {field: getattr(old.params, field) for field in DECAYS}
            assert replace(new, params=old.params, stored=old.stored) == old
            for field in ("weight", "recurrent_weight", "threshold", "bias"):
                assert np.array_equal(getattr(new.params, field), getattr(old.params, field))
            assert set(new.stored) == set(old.stored) <= set(fields)
        else:
            assert new == old


@pytest.mark.parametrize("parametrization", ["decay", "tau", "log_tau"])
def test_a_network_with_reset_taus_is_carried_over_and_trains_on_from_them(parametrization: str) -> None:
    pytest.importorskip("snntorch")
    before = hetsyn_plugins.convert(network(np.float32, parametrization=parametrization), to="snntorch")
    after = analysis.reset_long_taus(hetsyn_plugins.convert(before, to="reference"), 0.7, 0.1)
    again = hetsyn_plugins.convert(hetsyn_plugins.convert(after, to="snntorch"), to="reference")
    for name, r in decays(after).items():
        assert np.array_equal(decays(again)[name], r), name


@pytest.mark.parametrize("parametrization", ["decay", "tau", "log_tau"])
@pytest.mark.parametrize("share", ["neuron", "layer"])
def test_reset_keeps_tied_decays_tied(share: str, parametrization: str) -> None:
    pytest.importorskip("snntorch")
    tau = np.array([0.8, 0.3, 2.0, 0.1], np.float32) if share == "neuron" else np.float32(0.8)
    weights = np.ones((N, M), np.float32), np.ones((N, N), np.float32)
    params = HetSynParams.from_tau(
        weights[0], tau, dt=DT, reset_tau=tau, recurrent_weight=weights[1], recurrent_tau=tau
    )
    tied = HetSynLayer("a", params, dt=DT, share=share, parametrization=parametrization, tie_reset=True)
    before = hetsyn_plugins.convert(hetsyn_plugins.convert(Network((tied,)), to="snntorch"), to="reference")
    result = decays(analysis.reset_long_taus(before, 0.7, 0.123))
    a, b, c = (result[f"a {field}"] for field in DECAYS)
    assert np.array_equal(a, b) and np.array_equal(a, c)
    np.testing.assert_allclose(decay_to_tau(a, DT), np.where(tau > 0.7, 0.123, tau), rtol=1e-5)


@pytest.mark.parametrize(("bound", "to"), [(0.7, 0.8), (0.7, 0.0), (0.7, nan), (inf, 0.1), (nan, 0.1), (-1, -2)])
def test_reset_refuses_a_bound_below_the_start(bound: float, to: float) -> None:
    with pytest.raises(ValueError, match=r"^to: expected 0 < to <= bound, in seconds, got "):
        analysis.reset_long_taus(network(), bound, to)


def test_reset_names_a_layer_without_dt() -> None:
    with pytest.raises(ValueError, match=r"^dt: expected a step length in seconds in layer 'hidden', got None"):
        analysis.reset_long_taus(Network((hidden_layer(dt=None),)), 0.7, 0.1)


# ---- controls ----------------------------------------------------------------------------------------------------


def trains(steps: int = 40, samples: int = 5, lines: int = 7) -> Array:
    return (np.random.default_rng(0).random((steps, samples, lines)) < 0.3).astype(np.float32)


@pytest.mark.parametrize("name", list(analysis.CONTROLS))
def test_controls_keep_every_count_and_the_input_itself(name: str) -> None:
    x, control = trains(), analysis.CONTROLS[name]
    shown = control(x, np.random.default_rng(1))
    assert np.array_equal(x, trains()) and shown.dtype == x.dtype and set(np.unique(shown)) == {0, 1}
    assert np.array_equal(shown.sum(0), x.sum(0)) and not np.array_equal(shown, x)
    assert np.array_equal(shown, control(x, np.random.default_rng(1)))
    assert not np.array_equal(shown, control(x, np.random.default_rng(2)))
    with pytest.raises(ValueError, match=r"^inputs: expected shape \(T, B, M\), time first, got \(40, 5\)"):
        control(x[:, :, 0], np.random.default_rng(1))


def test_counts_only_parts_what_was_together() -> None:
    alike = np.repeat(trains()[:, :1, :1], 2, 2).repeat(2, 1)  # two samples of two lines, all the same
    shown = analysis.counts_only(alike, np.random.default_rng(1)).reshape(len(alike), 4)
    assert len(np.unique(shown, axis=1).T) == 4


def test_time_shuffled_keeps_what_was_together_in_every_sample_of_its_own() -> None:
    x = trains()
    shown = analysis.time_shuffled(x, np.random.default_rng(1))
    for b in range(x.shape[1]):
        assert sorted(map(tuple, shown[:, b])) == sorted(map(tuple, x[:, b]))
    step = np.broadcast_to(np.arange(40.0)[:, None, None], (40, 2, 3))  # which step it was
    order = analysis.time_shuffled(step, np.random.default_rng(1))
    assert (order == order[:, :, :1]).all() and not np.array_equal(order[:, 0], order[:, 1])


@pytest.mark.parametrize("name", list(analysis.CONTROLS))
def test_controls_put_a_spike_at_any_step_alike(name: str) -> None:
    steps, samples = 10, 5000
    x = np.zeros((steps, samples, 1))
    x[0] = 1
    result = analysis.CONTROLS[name](x, np.random.default_rng(1))[:, :, 0].sum(1)
    # a count of B(5000, 1/10): five s.d. of sqrt(450)
    assert (abs(result - samples / steps) < 5 * 450**0.5).all()


def test_an_integrator_needs_no_timing_and_a_neuron_without_memory_no_order() -> None:
    x, weight = trains(), np.arange(-3.0, 4)[None]
    counting, instant = (Network((HetSynLayer("out", HetSynParams.readout(weight, r)),)) for r in (1.0, 0.0))
    shown = analysis.counts_only(x, np.random.default_rng(1))
    assert np.array_equal(counting.run(shown)["out"][1][-1], counting.run(x)["out"][1][-1])
    shown = analysis.time_shuffled(x, np.random.default_rng(1))
    v, expected = instant.run(shown)["out"][1], instant.run(x)["out"][1]
    assert np.array_equal(np.sort(v, 0), np.sort(expected, 0)) and not np.array_equal(v, expected)
