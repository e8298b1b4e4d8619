"""Start values for decays: constant, or drawn as time constants (uniform, normal, log-normal), usable as a decay.

    HetSynParams(weight, NormalTau(40e-3, 4e-3, dt=5e-3, generator=np.random.default_rng(0)), ...)
    HetSynLeaky(700, 128, alpha=UniformTau(5e-3, 20e-3, dt=4e-3))

An initialiser is called with a shape and returns decays r = exp(-dt / tau) in float64. Its `generator` is a NumPy
Generator or a torch.Generator; without one the core draws from fresh NumPy entropy, and the layers of the adapters
from torch's global generator, so that `torch.manual_seed` governs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.params import tau_to_decay
from hetsyn_plugins.core.validation import checked_dt, describe_values


@dataclass(frozen=True)
class ConstantDecay:
    """Every decay the same r in [0, 1]."""

    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay: expected a value in [0, 1], got {self.decay}")

    def __call__(self, shape: tuple[int, ...], generator: Any = None) -> Array:
        return np.full(shape, self.decay)


@dataclass(frozen=True)
class ConstantTau:
    """Every time constant the same tau, in seconds, 0 to inf, for a step of dt seconds."""

    tau: float
    dt: float

    def __post_init__(self) -> None:
        tau_to_decay(self.tau, self.dt)

    def __call__(self, shape: tuple[int, ...], generator: Any = None) -> Array:
        return np.full(shape, tau_to_decay(self.tau, self.dt))


@dataclass(frozen=True)
class UniformTau:
    """tau ~ U(low, high), seconds."""

    low: float
    high: float
    dt: float
    generator: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < inf:
            raise ValueError(f"low, high: expected 0 <= low <= high in seconds, got {self.low}, {self.high}")
        checked_dt(self.dt)

    def __call__(self, shape: tuple[int, ...], generator: Any = None) -> Array:
        uniform = _draw("uniform", shape, generator if self.generator is None else self.generator)
        return tau_to_decay(self.low + (self.high - self.low) * uniform, self.dt)


@dataclass(frozen=True)
class NormalTau:
    """tau ~ N(mean, sd^2), seconds, restricted to tau > 0: a draw that is not positive is drawn again."""

    mean: float
    sd: float
    dt: float
    generator: Any = None

    def __post_init__(self) -> None:
        _check_moments("mean", self.mean, "sd", self.sd)
        checked_dt(self.dt)

    def __call__(self, shape: tuple[int, ...], generator: Any = None) -> Array:
        source = generator if self.generator is None else self.generator
        tau = np.array(self.mean + self.sd * _draw("normal", shape, source))  # an array, to write to, for () too
        while (bad := tau <= 0).any():  # mean > 0, so at least every second draw is good
            tau[bad] = self.mean + self.sd * _draw("normal", (int(bad.sum()),), source)
        return tau_to_decay(tau, self.dt)


@dataclass(frozen=True)
class LogNormalTau:
    """log tau ~ N(log median, sigma^2): median in seconds, sigma in e-folds."""

    median: float
    sigma: float
    dt: float
    generator: Any = None

    def __post_init__(self) -> None:
        _check_moments("median", self.median, "sigma", self.sigma)
        checked_dt(self.dt)

    def __call__(self, shape: tuple[int, ...], generator: Any = None) -> Array:
        normal = _draw("normal", shape, generator if self.generator is None else self.generator)
        return tau_to_decay(self.median * np.exp(self.sigma * normal), self.dt)


def _check_moments(centre_name: str, centre: float, width_name: str, width: float) -> None:
    if not 0 < centre < inf:
        raise ValueError(f"{centre_name}: expected a finite value > 0, got {describe_values(np.float64(centre))}")
    if not 0 <= width < inf:
        raise ValueError(f"{width_name}: expected a finite value >= 0, got {describe_values(np.float64(width))}")


def _draw(kind: str, shape: tuple[int, ...], generator: Any) -> Array:
    """Standard uniform or normal numbers in float64 from a NumPy or a torch generator (None: fresh NumPy entropy)."""
    if generator is None or isinstance(generator, np.random.Generator):
        rng = generator or np.random.default_rng()
        return np.array(rng.random(shape) if kind == "uniform" else rng.standard_normal(shape))
    import torch

    if not isinstance(generator, torch.Generator):
        name = type(generator).__name__
        raise ValueError(f"generator: expected a numpy.random.Generator or torch.Generator, got {name}")
    draw = torch.rand if kind == "uniform" else torch.randn
    return draw(shape, generator=generator, device=generator.device, dtype=torch.float64).cpu().numpy()
