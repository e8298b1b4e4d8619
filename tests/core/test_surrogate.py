"""Surrogates: each derivative against finite differences of its primitive, alike in NumPy and torch, picklable."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from hetsyn_plugins.core.surrogate import (
    NAMED,
    Arctan,
    FastSigmoid,
    Foreign,
    MultiGaussian,
    NoGradient,
    Sigmoid,
    Surrogate,
    Triangular,
    resolve,
)

ALL = [
    MultiGaussian(),
    Triangular(),
    Triangular(gamma=0.3, zeta=2.0),
    Arctan(),
    Arctan(alpha=5.0),
    FastSigmoid(),
    FastSigmoid(slope=3.0),
    Sigmoid(),
    Sigmoid(slope=4.0),
]
D = np.concatenate([np.linspace(-4, 4, 161) + 0.0123, [-1e-3, 1e-3]])


@pytest.mark.parametrize("surrogate", ALL, ids=repr)
@pytest.mark.parametrize("threshold", [1.0, 0.37])
def test_derivative_is_that_of_the_primitive(surrogate: Surrogate, threshold: float) -> None:
    """Central differences with h = 1e-5: truncation is h^2 / 6 |f'''| <= 2e-11 * 25^3 and rounding eps / h = 2e-11."""
    h = 1e-5
    difference = surrogate.primitive(D + h, threshold) - surrogate.primitive(D - h, threshold)
    kinks = (
        np.abs(np.abs(D) - getattr(surrogate, "zeta", np.inf) * threshold) > 2 * h
    )  # of the triangle, none elsewhere
    slope = surrogate.derivative(D, threshold)
    np.testing.assert_allclose(slope[kinks], (difference / (2 * h))[kinks], atol=1e-6)
    assert slope.max() > 0.1


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "2", True, None, [1.0]])
@pytest.mark.parametrize(
    ("cls", "name"),
    [(Triangular, "gamma"), (Triangular, "zeta"), (Arctan, "alpha"), (FastSigmoid, "slope"), (Sigmoid, "slope")],
)
def test_parameters_are_finite_and_positive(cls: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected finite values > 0, got "):
        cls(**{name: value})


def test_derivatives_are_the_published_ones() -> None:
    """Values by hand: the formulas of the paper's appendix and of the libraries named in the docstrings, at d = 0.5."""

    def normal(x: float, mean: float, sigma: float) -> float:
        return math.exp(-0.5 * ((x - mean) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))

    paper = 0.5 * (1.15 * normal(0.5, 0, 0.5) - 0.15 * normal(0.5, 0.5, 3) - 0.15 * normal(0.5, -0.5, 3))
    expected = {
        MultiGaussian(): paper,
        Triangular(gamma=0.3, zeta=1.0): 0.3 * (1 - 0.5 / 0.8),
        Arctan(alpha=2.0): 1 / (1 + (math.pi * 0.5) ** 2),
        FastSigmoid(slope=25.0): 1 / (1 + 12.5) ** 2,
        Sigmoid(slope=4.0): 4 * math.exp(-2) / (1 + math.exp(-2)) ** 2,
    }
    for surrogate, value in expected.items():
        assert surrogate.derivative(np.float64(0.5), 0.8) == pytest.approx(value, rel=1e-14)


def test_the_triangle_has_the_width_of_the_threshold() -> None:
    triangle = Triangular(gamma=1.0, zeta=2.0)
    np.testing.assert_allclose(triangle.derivative(np.array([-1.1, -1.0, 0.0, 0.5, 1.1]), 0.5), [0, 0, 1, 0.5, 0])


@pytest.mark.parametrize("surrogate", ALL, ids=repr)
def test_torch_and_numpy_agree(surrogate: Surrogate) -> None:
    d = torch.from_numpy(D)
    for function in (surrogate.derivative, surrogate.primitive):
        np.testing.assert_allclose(function(d, 0.7).numpy(), function(D, 0.7), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("surrogate", ALL, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_the_threshold_nothing_overflows(surrogate: Surrogate, dtype: torch.dtype) -> None:
    far = torch.tensor([-1e6, -1e4, 1e4, 1e6], dtype=dtype)
    assert torch.isfinite(surrogate.derivative(far, 1.0)).all()
    assert (surrogate.derivative(far, 1.0).abs() < 1e-6).all()


@pytest.mark.parametrize("surrogate", ALL, ids=repr)
def test_a_surrogate_is_a_strict_spike_function(surrogate: Surrogate) -> None:
    d = torch.tensor([-1.0, -1e-300, 0.0, 1e-300, 1.0], dtype=torch.float64, requires_grad=True)
    spikes = surrogate(d)
    assert spikes.tolist() == [0, 0, 0, 1, 1]
    (gradient,) = torch.autograd.grad(spikes.sum(), d)
    torch.testing.assert_close(gradient, surrogate.derivative(d.detach(), 1.0), rtol=0, atol=0)


def test_the_threshold_gets_minus_the_gradient_of_v() -> None:
    """dz/dthreshold = -dz/dv, also where the width of the surrogate depends on the threshold."""
    v = torch.linspace(0, 2, 9, dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    Triangular(gamma=0.3)(v - threshold, threshold).sum().backward()
    assert v.grad is not None and threshold.grad is not None and v.grad.any()
    torch.testing.assert_close(threshold.grad, -v.grad.sum(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("surrogate", ALL, ids=repr)
def test_pickled_ones_are_equal_and_hashable(surrogate: Surrogate) -> None:
    again = pickle.loads(pickle.dumps(surrogate))
    assert again == surrogate and hash(again) == hash(surrogate)


def test_names_none_and_functions_are_resolved() -> None:
    assert resolve(None) == MultiGaussian()
    assert resolve("superspike") == FastSigmoid()
    assert {type(resolve(name)) for name in NAMED} == set(NAMED.values())
    assert resolve(Arctan(3.0)) == Arctan(3.0)


@pytest.mark.parametrize("wrong", ["multigaussian", 3, Arctan])
def test_an_unknown_surrogate_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"surrogate: expected one of multi_gaussian, triangular, .* got"):
        resolve(wrong)


def test_what_is_wrong_has_the_name_of_the_argument() -> None:
    with pytest.raises(ValueError, match=r"spike_grad: expected one of"):
        resolve("relu", "spike_grad")
    with pytest.raises(ValueError, match=r"spike_grad: expected a spike function with forward"):
        resolve(torch.sigmoid, "spike_grad")
    with pytest.raises(ValueError, match=r"spike_grad: expected a deterministic derivative"):
        resolve(Noisy.apply, "spike_grad")


def test_no_gradient_is_a_spike_without_one() -> None:
    d = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    spikes = NoGradient()(d)
    assert spikes.tolist() == [0, 0, 1]
    assert torch.autograd.grad(spikes.sum(), d)[0].tolist() == [0, 0, 0]
    assert not NoGradient().derivative(D).any() and not np.ptp(NoGradient().primitive(D))


class Straight(torch.autograd.Function):
    """A foreign spike function: Heaviside forward, the gradient passed on."""

    @staticmethod
    def forward(ctx: Any, d: torch.Tensor) -> torch.Tensor:
        return (d > 0).to(d.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 3 * gradient


def test_a_foreign_spike_function_lends_its_derivative() -> None:
    surrogate = resolve(Straight.apply)
    assert isinstance(surrogate, Foreign)
    assert surrogate.derivative(torch.randn(4, 5), 1.0).eq(3.0).all()
    assert surrogate(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda d: (d >= 0).to(d.dtype) + 0 * d, "expected a spike function with forward"),
        (lambda d: ((d > 0) | ((d + 0.3).abs() < 0.1)).to(d.dtype) + 0 * d, "expected a spike function with forward"),
        (lambda d: torch.sigmoid(d), "expected a spike function with forward"),
        (lambda d: (d > 0).to(d.dtype) + d * torch.rand_like(d) - (d * torch.rand_like(d)).detach() * 0, "surrogate: "),
    ],
)
def test_foreign_functions_that_are_no_heaviside_are_refused(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(function)


class Noisy(torch.autograd.Function):
    """Heaviside forward, a random derivative: no function of d."""

    @staticmethod
    def forward(ctx: Any, d: torch.Tensor) -> torch.Tensor:
        return (d > 0).to(d.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.rand_like(gradient)


def test_stochastic_functions_are_refused_and_no_random_number_is_used_up() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="expected a deterministic derivative"):
        resolve(Noisy.apply)
    assert torch.equal(torch.get_rng_state(), before)
