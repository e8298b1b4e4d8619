"""Fluctuation-driven weights: the moments of v that they promise, and stacks that fire from the first pass on."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, planted
from torch import Tensor

pytest.importorskip("snntorch")

from hetsyn_plugins import FluctuationDriven, HetSynParams, NormalTau, UniformTau, reference
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.core import initialisers

N, M, RATE, STEPS = 6, 40, 0.03, 30
FIVE_ERRORS = 5.0  # standard errors: one false alarm in 1.7 million


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def decays(shape: tuple[int, ...], low: float = 2, high: float = 500, seed: int = 1) -> Any:
    """Of taus from low to high, in steps, alike in their logarithm."""
    return np.exp(-1 / np.exp(rng(seed).uniform(np.log(low), np.log(high), shape)))


# ---- the moments, by the reference: a readout, which has v and nothing that takes away from it


def check_moments(module: Any) -> None:
    """Mean 0 and s.d. theta / xi of v at step `steps`, over samples, for every neuron and each shape of decays.

    Of B samples the mean is known to sd / sqrt(B), the variance to sqrt(2 / B) of itself (more where v is not normal:
    the excess of a sum of traces at this rate is below 1, hence 3 for 2).
    """
    samples, xi, theta = 4_000, 1.5, 2.0
    x = (rng().random((STEPS, samples, M)) < RATE).astype(float)
    for shape in ((N, M), (N, 1), (N,), (1, M), ()):
        r = decays(shape)
        start = module.FluctuationDriven(RATE, xi=xi, steps=STEPS)
        w = start((N, M), rng(2), decay=r, threshold=theta)
        *_, v = last_v(HetSynParams.readout(w, r), x)
        error = np.abs(v.mean(0)) / v.std(0) * np.sqrt(samples)
        assert (error < FIVE_ERRORS).all(), "the means of v cancel"
        wanted = (theta / xi) ** 2
        assert (np.abs(v.var(0) / wanted - 1) < FIVE_ERRORS * np.sqrt(3 / samples)).all(), "the variance of v"


def last_v(params: HetSynParams, x: Any) -> Any:
    _, v, _ = reference.run(params, x)
    return v


def check_closed_form(module: Any) -> None:
    """One line, two neurons: w = sigma / sqrt(rate (1 - rate) (1 + r^2 + ...)), either sign, by hand."""
    r, kappa, rho, rate, own = np.array([0.5, 0.8]), 0.75, 0.5, 0.25, 0.1
    start = module.FluctuationDriven(rate, xi=2.0, own_rate=own, steps=3)
    w = start((2, 1), rng(), decay=r, threshold=3.0, reset_decay=kappa, adaptation_decay=rho, adaptation_strength=0.5)
    level = 3.0 + own * (3.0 * (1 + kappa + kappa**2) + 0.5 * (1 + rho + rho**2))
    wanted = level / 2.0 / np.sqrt(rate * (1 - rate) * (1 + r**2 + r**4))
    np.testing.assert_allclose(np.abs(w[:, 0]), wanted, rtol=1e-13, err_msg="sigma of the closed form")
    half = start((2, 1), rng(), decay=r, threshold=3.0, part=0.25)
    np.testing.assert_allclose(np.abs(half[:, 0]), 1.5 / 2 * wanted / (level / 2), rtol=1e-13, err_msg="its part")


def test_weights_give_v_the_moments_they_promise() -> None:
    check_moments(initialisers)


def test_weights_are_those_of_the_closed_form() -> None:
    check_closed_form(initialisers)


@pytest.mark.parametrize(
    ("check", "old", "new", "says"),
    [
        (check_moments, "weight -= kernel *", "weight -= 0 * kernel *", "the means of v cancel"),
        (check_moments, "self._sum(r * r)", "self._sum(r)", "the variance of v"),
        (check_closed_form, "self.rate * (1 - self.rate)", "self.rate", "sigma of the closed form"),
        (check_closed_form, "self._own_rate() * away", "away", "sigma of the closed form"),
        (check_closed_form, "away = away + np", "away = 0 * away + np", "sigma of the closed form"),
        (check_closed_form, "np.sqrt(part / variance)", "part / np.sqrt(variance)", "its part"),
    ],
)
def test_planted_moments_are_caught(check: Any, old: str, new: str, says: str) -> None:
    with planted(initialisers.__name__, old, new) as module, caught(says):
        check(module)


def test_an_infinite_tau_counts_for_what_it_gathers_and_has_no_stationary_variance() -> None:
    """1 + 1 + ... = steps; just below 1 the sum is the same, to the digits that r has."""
    sums = FluctuationDriven(0.1, steps=20)._sum(np.array([0.0, 1.0, 1 - 1e-12]))
    np.testing.assert_allclose(sums, [1, 20, 20], rtol=1e-10)
    stationary = FluctuationDriven(0.1, steps=np.inf)
    np.testing.assert_allclose(stationary._sum(np.array([0.0, 0.9])), [1, 10], rtol=1e-12)
    with pytest.raises(ValueError, match=r"steps: expected a finite number beside a decay of 1"):
        stationary((2, 3), rng(), decay=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate: expected a number above 0 and below 1, got 0"),
        ({"rate": 10.0}, "rate: expected a number above 0 and below 1, got 10"),
        ({"rate": float("nan")}, "rate: expected"),
        ({"rate": 0.1, "xi": 0.0}, "xi: expected a number finite and > 0, got 0"),
        ({"rate": 0.1, "own_rate": 1.0}, "own_rate: expected a number above 0 and below 1, or None, got 1"),
        ({"rate": 0.1, "steps": 0}, "steps: expected a number of steps >= 1, or inf, got 0"),
        ({"rate": 0.1, "recurrent_part": 1.0}, "recurrent_part: expected"),
    ],
)
def test_wrong_numbers_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FluctuationDriven(**options)


# ---- layers


def test_a_layer_draws_with_its_own_decays() -> None:
    """Per share, from the seed; the weights are those of the initialiser for the decays that the layer then has."""
    for share, kind in itertools.product(("synapse", "neuron", "layer"), (HetSynLeaky, RHetSynLeaky)):
        rec = {"rec_alpha": UniformTau(5e-3, 50e-3, 1e-3)} if kind is RHetSynLeaky else {}
        torch.manual_seed(0)
        one = kind(M, N, UniformTau(2e-3, 0.5, 1e-3), share=share, threshold=2.0, input_rate=RATE, **rec)
        torch.manual_seed(0)
        other = kind(
            M, N, UniformTau(2e-3, 0.5, 1e-3), share=share, threshold=2.0, weight=FluctuationDriven(RATE), **rec
        )
        assert torch.equal(one.weight, other.weight)
        params = one.double().to_params().expanded()
        part = 0.9 if kind is RHetSynLeaky else 1.0
        check_variance(params.weight, params.decay, RATE, part * (2.0 * (1 + 0.05 * partial_sum(0.9))) ** 2)
        if kind is RHetSynLeaky:
            level = 2.0 * (1 + 0.05 * partial_sum(0.9))
            check_variance(params.recurrent_weight, params.recurrent_decay, 0.05, 0.1 * level**2)


def partial_sum(r: Any, steps: int = 50) -> Any:
    return sum(np.asarray(r, np.float64) ** k for k in range(steps))


def check_variance(weight: Any, decay: Any, rate: float, wanted: float) -> None:
    """Float32 weights and decays: 1e-4 of a sum of 40 terms."""
    variance = (weight.astype(float) ** 2 * rate * (1 - rate) * partial_sum(decay.astype(float) ** 2)).sum(1)
    np.testing.assert_allclose(variance, wanted, rtol=1e-4)
    mean = (weight.astype(float) * partial_sum(decay)).sum(1)
    assert (np.abs(mean) < 1e-4 * np.abs(weight * partial_sum(decay)).sum(1)).all()


def test_a_tied_reset_counts_with_the_decay_that_it_is_tied_to() -> None:
    layer = HetSynLeaky(M, N, 0.5, beta=0.99, share="layer", tie_reset=True, input_rate=RATE, dtype=torch.float64)
    check_variance(*weights(layer), RATE, (1 + 0.05 * partial_sum(0.5)) ** 2)


def weights(layer: Any) -> tuple[Any, Any]:
    params = layer.to_params().expanded()
    return params.weight, params.decay


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_has_the_same_weights_rounded(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    wide = HetSynLeaky(M, N, 0.95, input_rate=RATE, dtype=torch.float64)
    torch.manual_seed(3)
    layer = HetSynLeaky(
        M, N, torch.full((), 0.95, dtype=torch.float64).to(wide_enough(dtype)), input_rate=RATE, dtype=dtype
    )
    assert layer.weight.dtype == dtype
    torch.testing.assert_close(layer.weight.double(), wide.weight, rtol=2 * torch.finfo(dtype).eps + 1e-6, atol=0)


def wide_enough(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def test_layers_without_values_have_weights_without_values() -> None:
    with torch.device("meta"):
        assert HetSynLeaky(M, N, input_rate=RATE).weight.is_meta
    layer = RHetSynLeaky(M, N, input_rate=RATE, device="meta")
    assert layer.weight.is_meta and layer.rec_weight.shape == (N, N)


def test_the_default_without_a_rate_stays() -> None:
    torch.manual_seed(0)
    layer = HetSynLeaky(M, N, NormalTau(20e-3, 5e-3, 1e-3))
    torch.manual_seed(0)
    torch.testing.assert_close(layer.weight.detach(), torch.randn(N, M) / M**0.5)


def test_parameters_keep_their_order() -> None:
    plain, driven = (RHetSynLeaky(M, N, input_rate=rate) for rate in (None, RATE))
    assert list(plain.state_dict()) == list(driven.state_dict())


def test_one_input_is_not_balanced_away() -> None:
    assert (HetSynLeaky(1, N, input_rate=RATE).weight != 0).all()
    assert (RHetSynLeaky(M, 1, input_rate=RATE).rec_weight != 0).all()


@pytest.mark.parametrize("recurrent", [False, True])
def test_norse_has_the_same(recurrent: bool) -> None:
    norse = pytest.importorskip("hetsyn_plugins.adapters.norse")
    kind = norse.HetSynLIFRecurrent if recurrent else norse.HetSynLIF
    torch.manual_seed(0)
    p = norse.HetSynLIFParameters(UniformTau(2e-3, 0.5, 1e-3), v_th=2.0)
    layer = kind(M, N, p, input_rate=RATE)
    reset = partial_sum(np.exp(-1 / 20))
    part = 0.9 if recurrent else 1.0
    check_variance(*weights(layer), RATE, part * (2.0 * (1 + 0.05 * reset)) ** 2)
    if recurrent:
        params = layer.to_params().expanded()
        check_variance(params.recurrent_weight, params.recurrent_decay, 0.05, 0.1 * (2 * (1 + 0.05 * reset)) ** 2)
    explicit = kind(M, N, p, input_weights=FluctuationDriven(RATE))
    assert explicit.input_weights.shape == (N, M)
    with pytest.raises(ValueError, match=r"input_rate: expected None where input_weights is given, got 0.03"):
        kind(M, N, p, input_rate=RATE, input_weights=torch.ones(N, M))


def test_wrong_layers_are_named() -> None:
    with pytest.raises(ValueError, match=r"input_rate: expected None where weight is given, got 0.03"):
        HetSynLeaky(M, N, input_rate=RATE, weight=torch.ones(N, M))
    with pytest.raises(ValueError, match=r"input_rate: expected a number above 0 and below 1, got 20"):
        HetSynLeaky(M, N, input_rate=20)
    with pytest.raises(ValueError, match=r"alpha: expected no FluctuationDriven, which is for weights"):
        HetSynLeaky(M, N, alpha=FluctuationDriven(RATE))
    with pytest.raises(ValueError, match=r"alpha: expected shape"):
        HetSynLeaky(M, N, alpha=torch.ones(7), input_rate=RATE)


# ---- stacks: the band that the documentation states

BAND = (0.01, 0.55)  # spikes a neuron and step, every layer, sequences of `steps` (50) and more


class Taus:
    """Alike in their logarithm from low to high, in steps."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Any:
        u = torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
        return np.exp(-1 / (self.low * (self.high / self.low) ** u))


def first_rates(kind: Any, lines: int, rate: float, taus: Taus, beta: float, behind: float, steps: int) -> list[float]:
    """The rates of four layers of 60 neurons at the first pass; a stack of fewer is the first of them."""
    x: Tensor = (torch.rand(steps, 8, lines) < rate).float()
    rates = []
    with torch.no_grad():
        for depth in range(4):
            layer = kind(x.shape[2], 60, taus, beta, input_rate=behind if depth else rate, init_hidden=True)
            x = layer(x)
            rates.append(x.mean().item())
    return rates


CORNERS = [  # lines, their rate, reset decay, the rate that layers behind take, steps
    (20, 0.005, 0.95, 0.05, 60),
    (20, 0.2, 0.6, 0.05, 200),
    (20, 0.005, 0.998, 0.005, 200),  # the rate of the input for all layers is a guess, which still fires
    (700, 0.02, 0.9, 0.05, 100),
    (700, 0.2, 0.998, 0.2, 60),
    (2000, 0.005, 0.6, 0.05, 60),
    (2000, 0.2, 0.95, 0.05, 60),
]


@pytest.mark.parametrize("kind", [HetSynLeaky, RHetSynLeaky])
@pytest.mark.parametrize("low_high", [(2, 2.001), (20, 20.001), (500, 500.1), (2, 500)])
def test_every_layer_of_a_stack_fires(kind: Any, low_high: tuple[float, float]) -> None:
    torch.manual_seed(0)
    for corner in CORNERS:
        lines, rate, beta, behind, steps = corner
        found = first_rates(kind, lines, rate, Taus(*low_high), beta, behind, steps)
        assert all(BAND[0] < one < BAND[1] for one in found), (corner, found)


def test_700_inputs_at_1_percent_are_heard() -> None:
    """What fell silent: a default layer; with the rate given every neuron fires."""
    torch.manual_seed(0)
    x = (torch.rand(250, 16, 700) < 0.01).float()
    with torch.no_grad():
        silent, heard = (HetSynLeaky(700, 128, init_hidden=True, input_rate=rate)(x) for rate in (None, 0.01))
    assert silent.mean() < 1e-4 and (heard.mean((0, 1)) > 0).all()
