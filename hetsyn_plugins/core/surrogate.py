"""Surrogate derivatives of the spike: what stands for dz/dv in the backward pass.

A spike is z = H(d), d = v - threshold, H the Heaviside step with H(0) = 0. Every surrogate here is a small frozen
dataclass with two functions of (d, threshold), NumPy arrays or torch tensors alike:

    derivative(d, threshold)    used for dz/dv; and dz/dthreshold = -dz/dv, also where the width depends on threshold
    primitive(d, threshold)     its integral over d, the smooth function whose gradient the backward pass takes

They compare equal by value, pickle, and are themselves torch spike functions: `surrogate(d)` is H(d) with this
derivative in the backward pass, so they also serve as `spike_grad` of a stock snnTorch neuron.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from types import ModuleType
from typing import Any

import numpy as np

from hetsyn_plugins.core.fields import POSITIVE
from hetsyn_plugins.core.validation import checked_number


@dataclass(frozen=True)
class Surrogate:
    """What all surrogates share; `derivative` and `primitive` are each one's own."""

    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        """The stand-in for dz/dv at d = v - threshold, shaped as d."""
        raise NotImplementedError

    def primitive(self, d: Any, threshold: Any = 1.0) -> Any:
        """The integral of `derivative` over d, up to a constant."""
        raise NotImplementedError

    def __call__(self, d: Any, threshold: Any = 1.0) -> Any:
        """The spike of a torch tensor: 1 where d > 0, else 0, in d's dtype, with this derivative in backward."""
        from hetsyn_plugins.core.autograd import spike  # torch is not needed before a spike is

        return spike(d, threshold, self)


@dataclass(frozen=True)
class Triangular(Surrogate):
    """gamma * max(0, 1 - |d| / (zeta * threshold)): the paper's for pattern generation and DMS."""

    gamma: float = 1.0
    zeta: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(gamma=self.gamma, zeta=self.zeta)

    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        rest = 1 - abs(d) / (self.zeta * threshold)
        return self.gamma * rest * (rest > 0)

    def primitive(self, d: Any, threshold: Any = 1.0) -> Any:
        width = self.zeta * threshold
        x = d / width
        x = x * (abs(x) < 1) + 1.0 * (x >= 1) - 1.0 * (x <= -1)
        return self.gamma * width * (x - 0.5 * x * abs(x))


@dataclass(frozen=True)
class MultiGaussian(Surrogate):
    """0.5 * (1.15 N(d; 0, 0.5) - 0.15 N(d; 0.5, 3) - 0.15 N(d; -0.5, 3)): the paper's for SHD; our default."""

    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        exp = _library(d).exp
        total = 0.0
        for weight, mean, sigma in self._terms():
            total = total + weight / (sigma * math.sqrt(2 * math.pi)) * exp(-0.5 * ((d - mean) / sigma) ** 2)
        return total

    def primitive(self, d: Any, threshold: Any = 1.0) -> Any:
        erf = _erf(d)
        return sum(0.5 * weight * erf((d - mean) / (sigma * math.sqrt(2))) for weight, mean, sigma in self._terms())

    @staticmethod
    def _terms() -> tuple[tuple[float, float, float], ...]:
        """Weight, mean and standard deviation of the three normal densities."""
        return (0.5 * 1.15, 0.0, 0.5), (-0.5 * 0.15, 0.5, 3.0), (-0.5 * 0.15, -0.5, 3.0)


@dataclass(frozen=True)
class Arctan(Surrogate):
    """(alpha / 2) / (1 + (pi / 2 * alpha * d)^2), as snnTorch's and SpikingJelly's (Fang et al. 2021)."""

    alpha: float = 2.0

    def __post_init__(self) -> None:
        _check_positive(alpha=self.alpha)

    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        return 0.5 * self.alpha / (1 + (0.5 * math.pi * self.alpha * d) ** 2)

    def primitive(self, d: Any, threshold: Any = 1.0) -> Any:
        return _library(d).arctan(0.5 * math.pi * self.alpha * d) / math.pi


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """1 / (1 + slope |d|)^2: SuperSpike's (Zenke and Ganguli 2018, section 3.3.2)."""

    slope: float = 25.0

    def __post_init__(self) -> None:
        _check_positive(slope=self.slope)

    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        return 1 / (1 + self.slope * abs(d)) ** 2

    def primitive(self, d: Any, threshold: Any = 1.0) -> Any:
        return d / (1 + self.slope * abs(d))


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """slope * s * (1 - s) with s = 1 / (1 + exp(-slope d)), as snnTorch's sigmoid."""

    slope: float = 25.0

    def __post_init__(self) -> None:
        _check_positive(slope=self.slope)

    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        e = _library(d).exp(-self.slope * abs(d))  # cannot overflow, and is exact far out, where 1 - s is not
        return self.slope * e / (1 + e) ** 2

    def primitive(self, d: Any, threshold: Any = 1.0) -> Any:
        return 0.5 * _library(d).tanh(0.5 * self.slope * d)


@dataclass(frozen=True)
class NoGradient(Surrogate):
    """0: no gradient through the spike, as snnTorch's surrogate_disable has it."""

    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        return _library(d).zeros_like(d)

    def primitive(self, d: Any, threshold: Any = 1.0) -> Any:
        return _library(d).zeros_like(d)


@dataclass(frozen=True)
class Foreign(Surrogate):
    """A spike function of another library, z = spike_grad(d) (snnTorch's, say), used for its derivative.

    Raises ValueError where its forward fails or is not the Heaviside step, or where two backward passes differ
    (stochastic); warns where the derivative is NaN or infinite far from the threshold, as it is wherever it is used.
    `name` is what the caller's argument is called, for the messages.
    """

    spike_grad: Callable[[Any], Any]
    name: InitVar[str] = "surrogate"

    def __post_init__(self, name: str) -> None:
        import torch

        object.__setattr__(self, "shown", repr(self))  # torch.compile cannot trace how it is found out
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            d = torch.tensor([-3.0, -1.0, -0.3, -1e-3, 0.0, 1e-3, 0.3, 1.0, 3.0], device="cpu").repeat(8)
            far = torch.tensor([-100.0, -10.0, 10.0, 100.0], device="cpu")
            try:
                forward = self.spike_grad(d.clone().requires_grad_())
                first, second = self.derivative(d), self.derivative(d)
                is_finite = bool(self.derivative(far).isfinite().all())
            except Exception as error:
                raise ValueError(f"{name}: expected a spike function of d, {self!r} fails itself: {error}") from error
        if not torch.equal(forward.detach().to(d.dtype), (d > 0).to(d.dtype)):
            raise ValueError(f"{name}: expected a spike function with forward (d > 0), got {self!r}")
        if not torch.equal(first, second):
            raise ValueError(f"{name}: expected a deterministic derivative, {self!r} is stochastic")
        if not is_finite:
            warnings.warn(
                f"{name}: the derivative of {self!r} is NaN or infinite where |v - threshold| is large, and so are "
                f"gradients, in any neuron that uses it; those of hetsyn_plugins.surrogate ({', '.join(NAMED)}) not",
                stacklevel=5,
            )

    def __repr__(self) -> str:
        """Where it comes from: the function itself, or that which made it, as `snntorch.surrogate.atan` makes one."""
        module, name = (getattr(self.spike_grad, part, None) for part in ("__module__", "__qualname__"))
        return f"{module}.{name.partition('.<locals>')[0]}" if module and name else repr(self.spike_grad)

    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        import torch

        with torch.enable_grad():
            leaf = d.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.spike_grad(leaf).sum(), leaf)
        return gradient.to(d.dtype)


NAMED: dict[str, type[Surrogate]] = {
    "multi_gaussian": MultiGaussian,
    "triangular": Triangular,
    "arctan": Arctan,
    "fast_sigmoid": FastSigmoid,
    "superspike": FastSigmoid,
    "sigmoid": Sigmoid,
}


# ours by their own names: what a graph can hold of one is such a name and its numbers
OURS: dict[str, type[Surrogate]] = {kind.__name__: kind for kind in (*NAMED.values(), NoGradient)}


def resolve(surrogate: Any, name: str = "surrogate") -> Surrogate:
    """The surrogate meant by None (the paper's multi-Gaussian), a name, one of ours, or a foreign spike function.

    name  what the caller's argument is called, for messages
    """
    if surrogate is None:
        return MultiGaussian()
    if isinstance(surrogate, Surrogate):
        return surrogate
    if isinstance(surrogate, str) and surrogate in NAMED:
        return NAMED[surrogate]()
    if callable(surrogate) and not isinstance(surrogate, type):
        return Foreign(surrogate, name)
    names = ", ".join(NAMED)
    raise ValueError(f"{name}: expected one of {names}, a Surrogate or a spike function, got {surrogate!r}")


def _check_positive(**parameters: Any) -> None:
    for name, value in parameters.items():
        checked_number(name, value, POSITIVE)


def _library(x: Any) -> ModuleType:
    """The module whose functions take x: torch for tensors (already imported then), else NumPy."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(x, torch.Tensor) else np


def _erf(x: Any) -> Callable[[Any], Any]:
    library = _library(x)
    return np.vectorize(math.erf, otypes=[np.float64]) if library is np else library.erf
