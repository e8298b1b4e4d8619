"""Start values: for decays, constant or drawn as time constants (uniform, normal, log-normal); for weights that fire.

    HetSynParams(weight, NormalTau(40e-3, 4e-3, dt=5e-3, generator=np.random.default_rng(0)), ...)
    HetSynLeaky(700, 128, alpha=UniformTau(5e-3, 20e-3, dt=4e-3), weight=FluctuationDriven(rate=0.01))

An initialiser is called with a shape and returns decays r = exp(-dt / tau), or weights, in float64. Its `generator` is
a NumPy Generator or a torch.Generator; without one the core draws from fresh NumPy entropy, and the layers of the
adapters from torch's global generator, so that `torch.manual_seed` governs them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.params import decay_of, tau_to_decay, warn_of_units
from hetsyn_plugins.core.validation import checked_dt, describe_values, expand


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
        return np.full(shape, decay_of(self.tau, self.dt))


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
        warn_of_units("high", self.high, checked_dt(self.dt))

    def __call__(self, shape: tuple[int, ...], generator: Any = None) -> Array:
        uniform = _draw("uniform", shape, generator if self.generator is None else self.generator)
        return decay_of(self.low + (self.high - self.low) * uniform, self.dt)


@dataclass(frozen=True)
class NormalTau:
    """tau ~ N(mean, sd^2), seconds, restricted to tau > 0: a draw that is not positive is drawn again."""

    mean: float
    sd: float
    dt: float
    generator: Any = None

    def __post_init__(self) -> None:
        _check_moments("mean", self.mean, "sd", self.sd)
        warn_of_units("mean", self.mean, checked_dt(self.dt))

    def __call__(self, shape: tuple[int, ...], generator: Any = None) -> Array:
        source = generator if self.generator is None else self.generator
        tau = np.array(self.mean + self.sd * _draw("normal", shape, source))  # an array, to write to, for () too
        while (bad := tau <= 0).any():  # mean > 0, so at least every second draw is good
            tau[bad] = self.mean + self.sd * _draw("normal", (int(bad.sum()),), source)
        return decay_of(tau, self.dt)


@dataclass(frozen=True)
class LogNormalTau:
    """log tau ~ N(log median, sigma^2): median in seconds, sigma in e-folds."""

    median: float
    sigma: float
    dt: float
    generator: Any = None

    def __post_init__(self) -> None:
        _check_moments("median", self.median, "sigma", self.sigma)
        warn_of_units("median", self.median, checked_dt(self.dt))

    def __call__(self, shape: tuple[int, ...], generator: Any = None) -> Array:
        normal = _draw("normal", shape, generator if self.generator is None else self.generator)
        return decay_of(self.median * np.exp(self.sigma * normal), self.dt)


@dataclass(frozen=True)
class UniformDelay:
    """delay ~ U(low, high), steps, whole or not."""

    low: float
    high: float
    generator: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < inf:
            raise ValueError(f"low, high: expected 0 <= low <= high in steps, got {self.low}, {self.high}")

    def __call__(self, shape: tuple[int, ...], generator: Any = None) -> Array:
        uniform = _draw("uniform", shape, generator if self.generator is None else self.generator)
        return self.low + (self.high - self.low) * uniform


USUAL_RATE = 0.05  # spikes a neuron and step that a layer is expected to have; what is behind it is built for that


@dataclass(frozen=True)
class FluctuationDriven:
    """Weights with which a layer fires at first: v fluctuates around its mean, xi standard deviations below threshold.

    After Rossbroich, Gygax and Zenke 2022, with every synapse's own kernel r^k. An input line spikes at a step with
    probability `rate`, apart from the others. Synapse (i, j) then brings v_i, `steps` steps after the start,

        a mean  w_ij rate k_ij,  k = 1 + r + ... + r^(steps-1),   and a variance  w_ij^2 rate (1 - rate) (1 + r^2 + ...)

    Weights are normal and balanced: for each neuron the means cancel, sum_j w_ij k_ij = 0 (not where it has one input
    only), and the variances add up to sigma^2, so that xi sigma = threshold - mean of v. What is left of that mean is
    what reset and adaptation take away where the neuron fires at `own_rate`. Balanced, since a mean that differs from
    neuron to neuron grows with r faster than the fluctuation, and leaves half a layer silent, the other saturated.

    rate            spikes an input line and step, above 0 and below 1; of graded inputs only the variance at a step
                    matters: give the rate for which rate (1 - rate) is that
    xi              1, the lower end of the paper's 1 to 3: with 2, rates fall from layer to layer until none is left
    own_rate        what the layer itself is expected to fire; None: 0.05, or the rate where that is higher
    steps           the time at which v has its variance; longer taus count for what they gather by then. At most the
                    length of a sequence; inf: the stationary variance, which decays of 1 do not have
    recurrent_part  of the variance, what recurrent synapses bring, whose lines fire at own_rate

    A layer behind another takes the rate of that one: 0.05, where that has not been measured.
    """

    rate: float
    xi: float = 1.0
    own_rate: float | None = None
    steps: float = 50
    recurrent_part: float = 0.1
    generator: Any = None

    def __post_init__(self) -> None:
        for name, low, high in (("rate", 0, 1), ("xi", 0, inf), ("recurrent_part", 0, 1)):
            value = getattr(self, name)
            if not low < value < high:
                expected = f"above {low} and below {high}" if high < inf else "finite and > 0"
                raise ValueError(f"{name}: expected a number {expected}, got {value}")
        if self.own_rate is not None and not 0 < self.own_rate < 1:
            raise ValueError(f"own_rate: expected a number above 0 and below 1, or None, got {self.own_rate}")
        if not self.steps >= 1:
            raise ValueError(f"steps: expected a number of steps >= 1, or inf, got {self.steps}")

    def recurrent(self) -> FluctuationDriven:
        """The same for the recurrent synapses of the layer, whose lines are its own neurons."""
        rate = self._own_rate()
        return replace(self, rate=rate, own_rate=rate)

    def __call__(
        self,
        shape: tuple[int, ...],
        generator: Any = None,
        *,
        decay: ArrayLike,
        threshold: ArrayLike = 1.0,
        reset_decay: ArrayLike | None = None,
        adaptation_decay: ArrayLike | None = None,
        adaptation_strength: ArrayLike | None = None,
        part: float = 1.0,
    ) -> Array:
        """Weights of `shape` (N, M) for the fields of a layer.

        decay      (N, M), or shared: (), (N,), (N, 1), (1, M)
        others     () or (N,), or None where the layer has no such part
        part       of the variance of v, what these synapses bring

        Raises ValueError for a decay of 1 beside steps=inf.
        """
        weight = _draw("normal", shape, generator if self.generator is None else self.generator)
        r = np.asarray(decay, np.float64)
        kernel = expand(self._sum(r), shape)
        if shape[1] > 1:
            weight -= kernel * ((weight * kernel).sum(1) / (kernel * kernel).sum(1))[:, None]
        variance = self.rate * (1 - self.rate) * (weight * weight * expand(self._sum(r * r), shape)).sum(1)
        theta = np.asarray(threshold, np.float64)
        away = 0.0 if reset_decay is None else theta * self._sum(reset_decay)
        if adaptation_decay is not None and adaptation_strength is not None:
            away = away + np.maximum(adaptation_strength, 0.0) * self._sum(adaptation_decay)
        sigma = (theta + self._own_rate() * away) / self.xi
        return np.asarray(weight * (sigma * np.sqrt(part / variance))[:, None])

    def _own_rate(self) -> float:
        return max(self.rate, USUAL_RATE) if self.own_rate is None else self.own_rate

    def _sum(self, decay: ArrayLike) -> Array:
        """1 + r + r^2 + ..., `steps` terms."""
        r = np.asarray(decay, np.float64)
        if self.steps == inf and (r == 1).any():
            raise ValueError("steps: expected a finite number beside a decay of 1 (an infinite tau), got inf")
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(r)
            total = np.expm1(self.steps * log) / np.expm1(log)  # keeps its digits for r near 1
        return np.where(r == 1, self.steps, total)


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
