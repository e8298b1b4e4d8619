"""What training did to the time constants of synapses, and what to take from a network to see whether it needs them.

* A synapse's time constant is tau = -dt / log(r) in seconds: 0 where r = 0 (no memory), inf where r = 1 (a perfect
  integrator). Shared decays are written out: every synapse counts once.
* A log-normal distribution is what cortical decay constants follow; its fit is the mean and the s.d. of log tau over
  the synapses strictly between r = 0 and r = 1.
* Nothing here draws a picture (`plots.py`), trains, or runs a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, nan
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import ArrayLike

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.network import HetSynLayer, Layer, Network
from hetsyn_plugins.core.params import decay_to_tau, tau_to_decay
from hetsyn_plugins.core.validation import checked_dt, describe_values, expand
from hetsyn_plugins.ops.trainable import decay_from_stored

CLIP = 5.0  # seconds: one tau of r just below 1 would otherwise decide a mean
LONG = 0.7  # seconds: what the paper's Table 4 calls long
SYNAPTIC = {"input": ("weight", "decay"), "recurrent": ("recurrent_weight", "recurrent_decay")}


@dataclass(frozen=True, eq=False)
class Synapses:
    """Synapses of one kind, a row a neuron: tau in seconds and weight in the threshold's unit, both (N, M)."""

    tau: Array
    weight: Array


def synapses(net: Network | HetSynLayer) -> dict[str, Synapses]:
    """The synapses of every HetSyn layer: "NAME input" -> (N, M), and "NAME recurrent" -> (N, N) where there are such.

    Where a neuron has no synapse to itself (`autapses=False`), the recurrent ones are (N, N - 1).
    Raises ValueError where a layer has no dt.
    """
    layers = net.layers if isinstance(net, Network) else (net,)
    groups: dict[str, Synapses] = {}
    for layer in layers:
        if not isinstance(layer, HetSynLayer):
            continue
        for kind, (weight_name, decay_name) in SYNAPTIC.items():
            weight, decay = getattr(layer.params, weight_name), getattr(layer.params, decay_name)
            if weight is not None:
                tau = expand(decay_to_tau(decay, _dt(layer)), weight.shape)
                kept = _without_diagonal if kind == "recurrent" and not layer.autapses else np.array
                groups[f"{layer.name} {kind}"] = Synapses(kept(tau), kept(weight.astype(np.float64)))
    return groups


def taus(net: Network | HetSynLayer) -> dict[str, Array]:
    """The time constants of `synapses` alone, in seconds."""
    return {name: group.tau for name, group in synapses(net).items()}


def taus_of_channels(layer: HetSynLayer, groups: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """Time constants (N, lines) in seconds of a layer's input synapses by groups of lines, {"cue": range(20), ...}.

    Raises ValueError for a group without lines, or with lines that the layer does not have.
    """
    tau = taus(layer)[f"{layer.name} input"]
    for name, lines in groups.items():
        if not len(lines) or not set(lines) <= set(range(tau.shape[1])):
            raise ValueError(f"groups[{name!r}]: expected some of the lines 0 to {tau.shape[1] - 1}, got {lines}")
    return {name: tau[:, list(lines)] for name, lines in groups.items()}


# ---- in numbers --------------------------------------------------------------------------------------------------


QUARTILES = 2 * NormalDist().inv_cdf(0.75)  # from the first to the third of a normal distribution of s.d. 1


@dataclass(frozen=True)
class TauSummary:
    """Time constants in few numbers; seconds, and shares of the synapses. NaN where no synapse has a say.

    at_zero, at_one     shares with r = 0 (tau 0) and r = 1 (tau infinite)
    quartiles           the first and the third, values that occur
    mean, clipped_mean  inf as soon as one tau is; every tau above 5 s taken as 5 s
    mu, sigma           log-normal fit over 0 < tau < inf, by quartiles, which a few taus near r = 1 do not pull: median
                        of log(tau / 1 s), and its quartiles' distance in those of a normal distribution of s.d. 1
    long                share with a tau above the bound
    """

    n: int
    at_zero: float
    at_one: float
    median: float
    quartiles: tuple[float, float]
    mean: float
    clipped_mean: float
    mu: float
    sigma: float
    long: float


def summarise(tau: ArrayLike, bound: float = LONG) -> TauSummary:
    """Time constants in seconds, any shape, in few numbers; `bound` in seconds. No synapse at all: n = 0 and NaN."""
    tau = np.ravel(np.asarray(tau, np.float64))
    if not (tau >= 0).all():
        raise ValueError(f"tau: expected seconds >= 0, got {describe_values(tau)}")
    if not tau.size:
        return TauSummary(0, nan, nan, nan, (nan, nan), nan, nan, nan, nan, nan)
    low, high = np.quantile(tau, (0.25, 0.75), method="inverted_cdf")  # interpolation towards inf would give NaN
    logs = np.log(between_ends(tau))
    first, middle, third = np.quantile(logs, (0.25, 0.5, 0.75)) if logs.size else (nan, nan, nan)
    return TauSummary(
        n=tau.size,
        at_zero=float(np.mean(tau == 0)),
        at_one=float(np.mean(tau == inf)),
        median=float(np.median(tau)),
        quartiles=(float(low), float(high)),
        mean=float(tau.mean()),
        clipped_mean=float(np.minimum(tau, CLIP).mean()),
        mu=float(middle),
        sigma=float((third - first) / QUARTILES),
        long=float(np.mean(tau > bound)),
    )


def between_ends(tau: Array) -> Array:
    """Those of the time constants that lie strictly between r = 0 and r = 1, flat."""
    return tau[(tau > 0) & (tau < inf)]


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of two arrays of one size, ties ranked in their middle, inf ranked last.

    NaN where there are fewer than two pairs or either side is all the same.
    """
    a, b = np.ravel(a), np.ravel(b)
    if a.size != b.size:
        raise ValueError(f"b: expected {a.size} values, one for each of a, got {b.size}")
    if a.size < 2:
        return nan
    x, y = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale else nan


@dataclass(frozen=True)
class VarianceComponents:
    """Variance of log tau within and between neurons, and the share of the latter in the sum (intra-class correlation).

    A share of 1: time constants differ from neuron to neuron only (HetNeuLIF). 0: a neuron's synapses differ as much
    as any. NaN where nothing differs.
    """

    within: float
    between: float

    @property
    def share(self) -> float:
        """between / (within + between)."""
        total = self.within + self.between
        return self.between / total if total else nan


def variance_components(tau: Array) -> VarianceComponents:
    """Variance components of log tau for time constants (N, M) in seconds, a row a neuron; r = 0 and r = 1 left out.

    The one-way random-effects analysis of variance with unequal groups: `within` is the mean square within neurons;
    the variance of the neurons' means exceeds `between` by within / M, which is taken off (for unequal groups M is
    (n - sum n_i^2 / n) / (N - 1)); a negative difference is 0. Searle, Casella & McCulloch, Variance Components, ch. 3.
    NaN where fewer than two neurons, or no neuron with two synapses, are left.
    """
    if np.ndim(tau) != 2:
        raise ValueError(f"tau: expected shape (N, M), a row a neuron, got {np.shape(tau)}")
    rows = [np.log(row) for row in map(between_ends, tau) if between_ends(row).size]
    sizes = np.array([row.size for row in rows], np.float64)
    n, neurons = sizes.sum(), len(rows)
    if neurons < 2 or n == neurons:
        return VarianceComponents(nan, nan)
    rows = [row - rows[0][0] for row in rows]  # equal taus become exact zeros, not rounding that has a share
    means = np.array([row.mean() for row in rows])
    within = sum(((row - mean) ** 2).sum() for row, mean in zip(rows, means, strict=True)) / (n - neurons)
    mean_square = (sizes * (means - sizes @ means / n) ** 2).sum() / (neurons - 1)
    per_neuron = (n - (sizes**2).sum() / n) / (neurons - 1)
    return VarianceComponents(float(within), float(max(0.0, (mean_square - within) / per_neuron)))


# ---- does the network need them? ---------------------------------------------------------------------------------


def reset_long_taus(network: Network, bound: float, to: float) -> Network:
    """The network with every synapse of every layer whose tau is above `bound` set to the tau `to`; both in seconds.

    What the paper's Table 4 does with 700 ms and the mean that taus started from. All other decays keep their bits;
    a reset decay changes only where it is tied to the synapses'.
    Raises ValueError unless 0 < to <= bound, or where a layer has no dt.
    """
    if not 0 < to <= bound < inf:
        raise ValueError(f"to: expected 0 < to <= bound, in seconds, got {to} with a bound of {bound}")
    layers = (_reset(layer, bound, to) if isinstance(layer, HetSynLayer) else layer for layer in network.layers)
    return Network(tuple(layers))


def counts_only(inputs: Array, generator: np.random.Generator) -> Array:
    """Inputs (T, B, M) with the steps of every line of every sample in an order of its own.

    How often a line spikes stays, and that it spikes at most once a step; when it spikes, and with whom, goes.
    """
    return generator.permuted(_sequences(inputs), axis=0)


def time_shuffled(inputs: Array, generator: np.random.Generator) -> Array:
    """Inputs (T, B, M) with the steps of every sample in a random order, the same for all its lines.

    What happens at one step stays together; the order of the steps goes.
    """
    inputs = _sequences(inputs)
    steps, samples, _ = inputs.shape
    order = generator.permuted(np.tile(np.arange(steps)[:, None], samples), axis=0)
    return np.take_along_axis(inputs, order[:, :, None], axis=0)


# a network that keeps its accuracy under the first needs no timing, under the second no order
CONTROLS: Mapping[str, Callable[[Array, np.random.Generator], Array]] = {
    "counts only": counts_only,
    "time shuffled": time_shuffled,
}


# ---- helpers -----------------------------------------------------------------------------------------------------


def _dt(layer: HetSynLayer) -> float:
    if layer.dt is None:
        raise ValueError(f"dt: expected a step length in seconds in layer {layer.name!r}, got None")
    return checked_dt(layer.dt)


def _without_diagonal(square: Array) -> Array:
    """(N, N) -> (N, N - 1)."""
    n = len(square)
    return square[~np.eye(n, dtype=bool)].reshape(n, n - 1)


def _ranks(values: Array) -> Array:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _reset(layer: HetSynLayer, bound: float, to: float) -> Layer:
    dt, dtype = _dt(layer), layer.params.weight.dtype
    kept = np.array(np.log(to) if layer.parametrization == "log_tau" else to, dtype)
    if layer.parametrization == "decay":
        value = tau_to_decay(to, dt).astype(dtype)
    else:  # what the stored tau stands for, to the bit
        value = decay_from_stored(torch.from_numpy(kept), layer.parametrization, dt).numpy()
    decays, stored = {}, dict(layer.stored)
    for field in ("decay", "recurrent_decay", *(["reset_decay"] if layer.tie_reset else [])):
        decay = getattr(layer.params, field)
        if decay is not None:
            long = decay_to_tau(decay, dt) > bound
            decays[field] = np.where(long, value, decay)
            if field in stored:
                stored[field] = np.where(long, kept, stored[field])
    return replace(layer, params=layer.params.replace(**decays), stored=stored)


def _sequences(inputs: Array) -> Array:
    inputs = np.asarray(inputs)
    if inputs.ndim != 3:
        raise ValueError(f"inputs: expected shape (T, B, M), time first, got {inputs.shape}")
    return inputs
