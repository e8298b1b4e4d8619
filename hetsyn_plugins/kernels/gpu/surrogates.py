"""The surrogates of `core/surrogate.py` in Triton, for use inside the kernels that go backwards; float32."""

import dataclasses

import triton
import triton.language as tl

from hetsyn_plugins.core.surrogate import (
    Arctan,
    FastSigmoid,
    MultiGaussian,
    NoGradient,
    Sigmoid,
    Surrogate,
    Triangular,
)


@triton.jit
def triangular(d, theta, gamma, zeta):
    """`core.surrogate.Triangular.derivative`."""
    rest = 1 - tl.abs(d) / (zeta * theta)
    return gamma * rest * tl.where(rest > 0, 1.0, 0.0)


@triton.jit
def multi_gaussian(d):
    """`core.surrogate.MultiGaussian.derivative`."""
    return normal(d, 0.5 * 1.15, 0.0, 0.5) + normal(d, -0.5 * 0.15, 0.5, 3.0) + normal(d, -0.5 * 0.15, -0.5, 3.0)


@triton.jit
def normal(d, weight: tl.constexpr, mean: tl.constexpr, sigma: tl.constexpr):
    """`weight` times the normal density of d."""
    x = (d - mean) / sigma
    return weight / (sigma * 2.5066282746310002) * tl.exp(-0.5 * x * x)  # sqrt(2 pi)


@triton.jit
def arctan(d, alpha):
    """`core.surrogate.Arctan.derivative`."""
    x = 0.5 * 3.141592653589793 * alpha * d
    return 0.5 * alpha / (1 + x * x)


@triton.jit
def fast_sigmoid(d, slope):
    """`core.surrogate.FastSigmoid.derivative`."""
    x = 1 + slope * tl.abs(d)
    return 1 / (x * x)


@triton.jit
def sigmoid(d, slope):
    """`core.surrogate.Sigmoid.derivative`."""
    e = tl.exp(-slope * tl.abs(d))
    return slope * e / ((1 + e) * (1 + e))


GIVEN = "given"  # in the place of a kind: the derivative comes in an array
KINDS = {
    Triangular: "triangular",
    MultiGaussian: "multi_gaussian",
    Arctan: "arctan",
    FastSigmoid: "fast_sigmoid",
    Sigmoid: "sigmoid",
    NoGradient: "no_gradient",
}


@triton.jit
def derivative_bwd(v_or_d, theta, first, second, KIND: tl.constexpr):
    """dz/dv at v; `first` and `second` are the parameters of the surrogate. KIND "given": d is that already."""
    out = v_or_d
    if KIND == "triangular":
        out = triangular(v_or_d - theta, theta, first, second)
    if KIND == "multi_gaussian":
        out = multi_gaussian(v_or_d - theta)
    if KIND == "arctan":
        out = arctan(v_or_d - theta, first)
    if KIND == "fast_sigmoid":
        out = fast_sigmoid(v_or_d - theta, first)
    if KIND == "sigmoid":
        out = sigmoid(v_or_d - theta, first)
    if KIND == "no_gradient":
        out = v_or_d * 0.0
    return out


def kind_of(surrogate: Surrogate) -> tuple[str, float, float]:
    """KIND and two parameters for `derivative_bwd`; GIVEN for what is not ours, a subclass of one of ours too."""
    kind = KINDS.get(type(surrogate))
    if kind is None:
        return GIVEN, 0.0, 0.0
    first, second, *_ = (*map(float, dataclasses.astuple(surrogate)), 0.0, 0.0)
    return kind, first, second
