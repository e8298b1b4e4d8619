"""HetSynParams and HetSynState: what is kept, what is refused, the special cases, tau <-> decay."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, planted

from hetsyn_plugins import HetSynParams, HetSynState, decay_to_tau, tau_to_decay
from hetsyn_plugins.core import initialisers, reference
from hetsyn_plugins.core.fields import ARRAYS
from hetsyn_plugins.core.validation import checked_max_delay

N, M = 3, 4
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(N, M))
SQUARE = RNG.normal(size=(N, N))


def layer(**changes: Any) -> HetSynParams:
    return HetSynParams(**{"weight": WEIGHT, "decay": 0.9, "reset_decay": 0.8, **changes})


# ---- what is kept -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (N,), (N, 1), (1, M), (N, M)])
def test_the_shape_given_is_kept_and_written_out_on_request(shape: tuple[int, ...]) -> None:
    decay = RNG.uniform(size=shape)
    params = layer(decay=decay)
    assert params.decay.shape == shape
    full = params.expanded().decay
    for i in range(N):
        for j in range(M):
            entry = {(): (), (N,): (i,), (N, 1): (i, 0), (1, M): (0, j), (N, M): (i, j)}[shape]
            assert full[i, j] == decay[entry]


def test_where_n_equals_m_one_dimension_means_one_a_neuron() -> None:
    full = HetSynParams(np.ones((2, 2)), np.array([0.1, 0.2]), reset_decay=None).expanded()
    np.testing.assert_array_equal(full.decay, [[0.1, 0.1], [0.2, 0.2]])


def test_arrays_are_copies_that_nobody_can_change() -> None:
    weight = WEIGHT.copy()
    params = layer(weight=weight)
    weight[0, 0] = 99.0
    assert params.weight[0, 0] == WEIGHT[0, 0]
    with pytest.raises(ValueError, match="read-only"):
        params.weight[0, 0] = 1.0
    with pytest.raises(FrozenInstanceError):
        params.weight = weight  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_take_the_weight_dtype(dtype: Any) -> None:
    params = layer(weight=WEIGHT.astype(dtype), threshold=0.1, bias=[0.1, 0.2, 0.3])
    assert {getattr(params, name).dtype for name in ARRAYS if getattr(params, name) is not None} == {np.dtype(dtype)}
    assert params.threshold == dtype(0.1)


def test_torch_tensors_are_taken() -> None:
    params = layer(weight=torch.from_numpy(WEIGHT).requires_grad_(), decay=torch.full((N,), 0.5, dtype=torch.float64))
    np.testing.assert_array_equal(params.weight, WEIGHT)
    assert params.decay.shape == (N,)


def test_pickle_replace_astype_and_repr() -> None:
    params = layer(recurrent_weight=SQUARE, recurrent_decay=0.7)
    again = pickle.loads(pickle.dumps(params))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(params, name))
    assert params.replace(threshold=2.0).threshold == 2.0
    assert params.astype(np.float32).recurrent_weight.dtype == np.float32
    assert repr(params).startswith("HetSynParams(4 -> 3, float64, decay () 0.")
    assert "readout" in repr(HetSynParams.readout(WEIGHT, 0.9))


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": np.ones(3)}, r"weight: expected shape \(N, M\), got \(3,\)"),
        ({"weight": np.ones((0, 3))}, r"weight: expected shape \(N, M\), got \(0, 3\)"),
        ({"weight": np.ones((N, M), int)}, "weight: expected float32 or float64 numbers, got int64"),
        ({"weight": np.ones((N, M), np.float16)}, "weight: expected float32 or float64 numbers, got float16"),
        ({"delay": "a"}, "delay: expected float32 or float64 numbers, got 'a'"),
        ({"decay": {}}, "decay: expected float32 or float64 numbers, got {}"),
        ({"bias": [[1.0], [1.0, 2.0]]}, "bias: expected float32 or float64 numbers, got "),
        ({"weight": np.full((N, M), np.nan)}, "weight: expected finite values, got no number and 12 NaN"),
        ({"weight": np.full((N, M), np.inf)}, "weight: expected finite values, got values from inf to inf"),
        (
            {"decay": np.full(M, 0.5)},
            r"decay: expected shape \(3, 4\) or \(\) or \(3,\) or \(3, 1\) or \(1, 4\).*\(4,\)",
        ),
        ({"decay": None}, "decay: expected a number, an array or an initialiser, got None"),
        ({"decay": 1.0001}, r"decay: expected decays in \[0, 1\], got 1.0001"),
        ({"decay": -1e-9}, r"decay: expected decays in \[0, 1\], got -1e-09"),
        ({"decay": float("nan")}, r"decay: expected decays in \[0, 1\], got nan"),
        ({"decay": np.full((N, M), 0.5, np.float32)}, "decay: expected the weight's dtype, float64, got float32"),
        ({"reset_decay": 2.0}, "reset_decay: expected decays"),
        ({"reset_decay": np.full(M, 0.5)}, r"reset_decay: expected shape \(3,\) or \(\) beside"),
        ({"threshold": 0.0}, "threshold: expected finite values > 0, got 0"),
        ({"threshold": [1.0, -1.0, 2.0]}, "threshold: expected finite values > 0, got values from -1 to 2"),
        ({"threshold": float("inf")}, "threshold: expected finite values > 0, got inf"),
        ({"threshold": None}, "threshold: expected a number > 0, got None"),
        ({"recurrent_weight": SQUARE}, "recurrent_decay: expected together with recurrent_weight, got None"),
        ({"recurrent_decay": 0.5}, "recurrent_weight: expected together with recurrent_decay, got None"),
        ({"recurrent_weight": WEIGHT, "recurrent_decay": 0.5}, r"recurrent_weight: expected shape \(3, 3\)"),
        ({"adaptation_decay": 0.5}, "adaptation_strength: expected together with adaptation_decay, got None"),
        ({"bias": 0.1}, r"bias: expected shape \(3,\) beside a weight of \(3, 4\), got \(\)"),
        ({"spiking": False}, "reset_decay: expected None where spiking=False"),
        (
            {"spiking": False, "reset_decay": None, "recurrent_weight": SQUARE, "recurrent_decay": 0.5},
            "recurrent_weight: expected None where spiking=False",
        ),
        (
            {"spiking": False, "reset_decay": None, "adaptation_decay": 0.5, "adaptation_strength": 0.1},
            "adaptation_decay: expected None where spiking=False",
        ),
    ],
)
def test_wrong_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(**changes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes_are_taken_and_the_next_number_is_not(dtype: Any) -> None:
    """0 and 1 of a decay, the smallest and largest threshold, the largest weight."""
    weight = WEIGHT.astype(dtype)
    tiny, most = np.nextafter(dtype(0), dtype(1)), np.finfo(dtype).max
    for end, beyond in ((dtype(0), -tiny), (dtype(1), np.nextafter(dtype(1), dtype(2)))):
        for name in ("decay", "reset_decay"):
            value = np.array(end)
            assert getattr(layer(weight=weight, **{name: value}), name) == end
            with pytest.raises(ValueError, match=rf"{name}: expected decays in \[0, 1\]"):
                layer(weight=weight, **{name: np.array(beyond)})
        assert initialisers.ConstantDecay(float(end))((2,)).tolist() == [end, end]
    for threshold in (tiny, most):
        assert layer(weight=weight, threshold=np.array(threshold)).threshold == threshold
    assert layer(weight=np.full((N, M), most)).weight.max() == most


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"current": np.zeros((2, N, M + 1))}, r"state.current: expected shape \(2, 3, 4\), got \(2, 3, 5\)"),
        ({"reset": None}, r"state.reset: expected shape \(2, 3\), got None; is the state another layer's or batch's\?"),
        ({"adaptation": np.zeros((2, N))}, r"state.adaptation: expected shape None, got \(2, 3\)"),
    ],
)
def test_a_state_of_another_layer_is_refused(state: dict[str, Any], message: str) -> None:
    params = layer()
    start = reference.zero_state(params, 2)._replace(**state)
    with pytest.raises(ValueError, match=message):
        reference.run(params, np.zeros((1, 2, M)), start)


def test_a_state_that_is_none_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="state: expected a HetSynState or None, got tuple"):
        reference.run(layer(), np.zeros((1, 2, M)), tuple(reference.zero_state(layer(), 2)))  # type: ignore[arg-type]


def test_state_defaults() -> None:
    assert HetSynState(current=1.0) == (1.0, *[None] * 7)


# ---- tau <-> decay ------------------------------------------------------------------------------------------------


def test_tau_and_decay_at_the_ends_and_between() -> None:
    np.testing.assert_array_equal(tau_to_decay([0.0, np.inf], 1e-3), [0.0, 1.0])
    np.testing.assert_array_equal(decay_to_tau([0.0, 1.0], 1e-3), [0.0, np.inf])
    assert tau_to_decay(20e-3, 1e-3) == pytest.approx(0.951229424500714, rel=1e-15)  # exp(-1/20)
    assert decay_to_tau(np.exp(-0.1), 5e-3) == pytest.approx(50e-3, rel=1e-14)


def test_float32_decays_return_exactly() -> None:
    """Every float32 decay comes back through tau in float64: the error of exp(log r) is far below eps of float32."""
    decay = np.concatenate([RNG.uniform(1e-6, 1, 5000), 1 - np.logspace(-7, -1, 5000)]).astype(np.float32)
    again = tau_to_decay(decay_to_tau(decay, 1e-3), 1e-3).astype(np.float32)
    np.testing.assert_array_equal(again, decay)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tau_to_decay(-1.0, 1e-3), "tau: expected seconds >= 0, got -1"),
        (lambda: tau_to_decay(float("nan"), 1e-3), "tau: expected seconds >= 0, got nan"),
        (lambda: tau_to_decay(1.0, 0.0), "dt: expected a step length in seconds, finite and > 0, got 0"),
        (lambda: tau_to_decay(1.0, None), "dt: expected .* got None"),  # type: ignore[arg-type]
        (lambda: decay_to_tau(1.5, 1e-3), r"decay: expected values in \[0, 1\], got 1.5"),
        (lambda: layer().tau(dt=-1.0), "dt: expected"),
    ],
)
def test_wrong_taus_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_from_tau_and_back() -> None:
    taus = RNG.uniform(1e-3, 1.0, (N, M))
    params = HetSynParams.from_tau(
        WEIGHT,
        taus,
        dt=1e-3,
        reset_tau=20e-3,
        recurrent_weight=SQUARE,
        recurrent_tau=np.inf,
        adaptation_tau=0.0,
        adaptation_strength=0.1,
    )
    np.testing.assert_array_equal(params.decay, np.exp(-1e-3 / taus))
    assert params.recurrent_decay == 1 and params.adaptation_decay == 0
    back = params.tau(1e-3)
    # tau = -dt / log r: an eps / 2 error of r is one of eps / 2 / |log r| of log r, here at most 1000 eps / 2
    np.testing.assert_allclose(back.decay, taus, rtol=1000 * np.finfo(float).eps)
    assert back.reset_decay == pytest.approx(20e-3, rel=1e-14)
    assert back.recurrent_decay == np.inf and back.adaptation_decay == 0
    assert layer().tau(1e-3).recurrent_decay is None


def test_from_tau_rounds_once_to_the_weight_dtype() -> None:
    params = HetSynParams.from_tau(WEIGHT.astype(np.float32), 37e-3, dt=1e-3, reset_tau=None)
    assert params.decay == np.float32(np.exp(-1 / 37)) and params.reset_decay is None


# ---- special cases ------------------------------------------------------------------------------------------------


def test_constructors_of_the_special_cases_say_what_they_are() -> None:
    lif = HetSynParams.lif(WEIGHT, 0.9, recurrent_weight=SQUARE)
    assert (lif.is_lif(), lif.is_alif(), lif.is_neuron_heterogeneous()) == (True, False, True)
    alif = HetSynParams.alif(WEIGHT, 0.9, adaptation_decay=0.99, adaptation_strength=0.1)
    assert (alif.is_lif(), alif.is_alif(), alif.is_neuron_heterogeneous()) == (False, True, False)
    het = HetSynParams.neuron_heterogeneous(WEIGHT, [0.7, 0.8, 0.9])
    assert (het.is_lif(), het.is_alif(), het.is_neuron_heterogeneous()) == (False, False, True)
    general = layer(decay=RNG.uniform(size=(N, M)))
    assert (general.is_lif(), general.is_alif(), general.is_neuron_heterogeneous()) == (False, False, False)


def test_a_vanilla_lif_is_recognised_however_it_is_written() -> None:
    assert layer(decay=np.full((N, M), 0.8)).is_lif()
    assert not layer(decay=0.9, reset_decay=0.8).is_lif()
    assert not layer(decay=0.8, reset_decay=None).is_lif()
    assert not layer(decay=0.8, recurrent_weight=SQUARE, recurrent_decay=0.7).is_lif()


def test_a_bias_is_a_lif_only_where_nothing_is_remembered() -> None:
    bias = np.full(N, 0.1)
    assert not layer(decay=0.8, bias=bias).is_lif()
    assert layer(decay=0.8, bias=np.zeros(N)).is_lif()
    assert layer(decay=0.0, reset_decay=0.0, bias=bias).is_lif()


def test_wrong_decays_of_special_cases_are_named() -> None:
    with pytest.raises(ValueError, match=r"decay: expected one number for a vanilla LIF, got shape \(3,\)"):
        HetSynParams.lif(WEIGHT, [0.9] * 3)
    with pytest.raises(ValueError, match=r"decay: expected one a neuron, shape \(3,\), got shape \(\)"):
        HetSynParams.neuron_heterogeneous(WEIGHT, 0.9)


# ---- initialisers -------------------------------------------------------------------------------------------------


def test_initialisers_fill_every_synapse_from_their_distribution() -> None:
    dt, size = 5e-3, (200, 300)
    weight = np.zeros(size)

    def taus(initialiser: Any) -> Any:
        return HetSynParams(weight, initialiser, reset_decay=None).tau(dt).decay

    generator = np.random.default_rng(0)
    n, normal_tail = 60_000, 5.0  # five standard errors: one false alarm in 1.7 million
    uniform = taus(initialisers.UniformTau(5e-3, 20e-3, dt, generator))
    assert 5e-3 * (1 - 1e-12) <= uniform.min() and uniform.max() <= 20e-3 * (1 + 1e-12)
    assert abs(uniform.mean() - 12.5e-3) < normal_tail * 15e-3 / np.sqrt(12 * n)
    normal = taus(initialisers.NormalTau(40e-3, 4e-3, dt, generator))
    assert abs(normal.mean() - 40e-3) < normal_tail * 4e-3 / np.sqrt(n)
    assert abs(normal.std() - 4e-3) < normal_tail * 4e-3 / np.sqrt(2 * n)
    log = np.log(taus(initialisers.LogNormalTau(50e-3, 0.5, dt, generator)))
    assert abs(log.mean() - np.log(50e-3)) < normal_tail * 0.5 / np.sqrt(n)
    assert abs(log.std() - 0.5) < normal_tail * 0.5 / np.sqrt(2 * n)
    assert (taus(initialisers.ConstantTau(30e-3, dt)).round(15) == 30e-3).all()
    assert (HetSynParams(weight, initialisers.ConstantDecay(0.25), reset_decay=None).decay == 0.25).all()


def test_a_wide_normal_draws_again_what_is_not_positive() -> None:
    wide = initialisers.NormalTau(1e-3, 10e-3, 1e-3, np.random.default_rng(0))
    decay = wide((1000,))
    assert ((decay > 0) & (decay < 1)).all()
    assert all(0 < wide(()) < 1 and np.shape(wide(())) == () for _ in range(20))


def check_normal(module: Any) -> None:
    """tau ~ N(mean, sd^2) given that tau > 0, by its whole distribution function, where a sixth and a half are redrawn.

    The largest distance of the drawn distribution from the exact one is above sqrt(log(2 / p) / 2 n) with probability p
    at most (Dvoretzky, Kiefer, Wolfowitz; Massart); p = 1e-6. Folding is 0.07 away, clipping 0.16, and more.
    """
    n, dt = 20_000, 1e-3
    bound = np.sqrt(np.log(2 / 1e-6) / (2 * n))
    for mean, sd in ((1e-2, 1e-2), (1e-4, 1e-2)):
        draw = module.NormalTau(mean, sd, dt, np.random.default_rng(0))((n,))
        tau = np.sort(decay_to_tau(draw, dt))
        normal = np.vectorize(NormalDist(mean, sd).cdf)
        exact = (normal(tau) - normal(0.0)) / (1 - normal(0.0))
        assert np.abs(exact - np.arange(n) / n).max() < bound, "draws are those of a normal restricted to tau > 0"


def test_a_wide_normal_has_the_restricted_distribution() -> None:
    check_normal(initialisers)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("folded", "tau[bad] = self.mean + self.sd * _draw(", "tau[bad] = -tau[bad] + 0 * _draw("),
        ("clipped", "tau[bad] = self.mean + self.sd * _draw(", "tau[bad] = 1e-9 + 0 * _draw("),
        ("uniform", 'self.sd * _draw("normal", shape', 'self.sd * _draw("uniform", shape'),
    ],
)
def test_planted_distributions_are_caught(name: str, old: str, new: str) -> None:
    with planted(initialisers.__name__, old, new) as module, caught("draws are those of a normal"):
        check_normal(module)


@pytest.mark.parametrize("kind", [initialisers.UniformTau, initialisers.NormalTau, initialisers.LogNormalTau])
def test_seeds_of_both_libraries_fix_the_draw(kind: Any) -> None:
    for seeded in (np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)):
        first, second, other = (kind(10e-3, 20e-3, 1e-3, seeded(seed))((5,)) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, second)
        assert (first != other).any()
    drawn = kind(10e-3, 20e-3, 1e-3)((5,), np.random.default_rng(1))
    np.testing.assert_array_equal(drawn, kind(10e-3, 20e-3, 1e-3, np.random.default_rng(1))((5,)))


def test_initialisers_serve_every_decay() -> None:
    start = initialisers.UniformTau(5e-3, 20e-3, 1e-3, np.random.default_rng(0))
    params = layer(
        decay=start,
        reset_decay=start,
        recurrent_weight=SQUARE,
        recurrent_decay=start,
        adaptation_decay=start,
        adaptation_strength=0.1,
    )
    assert [params.decay.shape, params.recurrent_decay.shape, params.reset_decay.shape] == [(N, M), (N, N), (N,)]
    assert params.adaptation_decay.shape == (N,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: initialisers.ConstantDecay(1.5), "decay: expected a value in"),
        (lambda: initialisers.ConstantTau(-1.0, 1e-3), "tau: expected seconds >= 0"),
        (lambda: initialisers.UniformTau(2e-3, 1e-3, 1e-3), "low, high: expected 0 <= low <= high"),
        (lambda: initialisers.UniformTau(1e-3, float("inf"), 1e-3), "low, high: expected"),
        (lambda: initialisers.NormalTau(0.0, 1e-3, 1e-3), "mean: expected a finite value > 0, got 0"),
        (lambda: initialisers.NormalTau(1e-3, -1.0, 1e-3), "sd: expected a finite value >= 0, got -1"),
        (lambda: initialisers.LogNormalTau(1e-3, float("nan"), 1e-3), "sigma: expected .* got nan"),
        (lambda: initialisers.LogNormalTau(1e-3, 1.0, 0.0), "dt: expected"),
        (lambda: initialisers.UniformTau(1e-3, 2e-3, 1e-3, 7)((2,)), "generator: expected .* got int"),
    ],
)
def test_wrong_initialisers_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_how_long_states_keep_what_came() -> None:
    """As long as the longest delay, rounded up, or longer; delays without values cannot say."""
    delays = {"delay": np.array([0.0, 2.2]), "recurrent_delay": None}
    assert [checked_max_delay(most, delays) for most in (None, 3, 7)] == [3, 3, 7]
    with pytest.raises(ValueError, match=r"delay: expected delays of at most max_delay = 2 steps, got 2\.2"):
        checked_max_delay(2, delays)
    absent = {"delay": torch.empty(2, device="meta")}
    assert checked_max_delay(7, absent) == 7
    with pytest.raises(ValueError, match="max_delay: expected a whole number of steps beside delays without values"):
        checked_max_delay(None, absent)


# ---- units


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tau_to_decay(20.0, 1e-3), "tau: expected seconds, as dt, got 20 with dt=0.001, 2e[+]04 steps"),
        (lambda: tau_to_decay([5.0, 20.0, 0.0, np.inf], 1e-3), "tau: expected seconds, as dt, got 12.5 with dt=0.001"),
        (lambda: tau_to_decay(20e-3, 1.0), "tau: expected seconds, as dt, got 0.02 with dt=1, 0.02 steps"),
        (lambda: HetSynParams.from_tau(WEIGHT, 20.0, dt=1e-3, reset_tau=None), "tau: expected seconds"),
        (lambda: initialisers.ConstantTau(20.0, 1e-3), "tau: expected seconds"),
        (lambda: initialisers.UniformTau(5.0, 20.0, 1e-3), "high: expected seconds"),
        (lambda: initialisers.NormalTau(20.0, 5.0, 1e-3), "mean: expected seconds"),
        (lambda: initialisers.NormalTau(20e-3, 5e-3, 1.0), "mean: expected seconds"),
        (lambda: initialisers.LogNormalTau(20.0, 0.5, 1e-3), "median: expected seconds"),
    ],
)
def test_taus_in_milliseconds_are_named(call: Any, says: str) -> None:
    with pytest.warns(UserWarning, match=says):
        call()


def test_taus_in_seconds_pass_without_a_word() -> None:
    """Warnings are errors here: 0 and infinity, whole steps as unit, adaptation, and the tails of wide draws."""
    tau_to_decay([0.0, np.inf], 1e-3)
    tau_to_decay([2.0, 500.0], 1.0)
    tau_to_decay([20e-3, 4.0, 100.0, 1e-5, 5e-3], 1e-3)
    tau_to_decay(3.0, 1e-3)
    tau_to_decay(0.5, 1e-5)
    initialisers.UniformTau(0.0, 0.5, 1e-3)((9,))
    initialisers.LogNormalTau(20e-3, 3.0, 1e-3)((9_999,))
    HetSynParams.from_tau(WEIGHT, np.inf, dt=1e-3, reset_tau=0.0)


def test_a_decay_that_was_pushed_out_names_what_brings_it_back() -> None:
    with pytest.raises(ValueError, match=r"decay: expected values in \[0, 1\], got 1.01; .*clamp_\(\).*clamp_\(net\)"):
        decay_to_tau(1.01, 1e-3)
