"""The networks that the paper compares, and the control that it lacks, as plain data ready to train.

| variant    | synaptic decays                                     | reset decay        | adaptation |
|------------|-----------------------------------------------------|--------------------|------------|
| hetsyn     | learned, one a synapse                              | fixed at tau_reset | none       |
| hetneu     | learned, one a neuron (r_ij = p_ik = kappa_i)       | the neuron's       | none       |
| single_tau | learned, one for all synapses of the network        | the same           | none       |
| homneu     | fixed at tau_reset                                  | the same           | none       |
| alif       | fixed at tau_reset                                  | the same           | A, fixed   |

Tied decays are one tensor, so the conditions of the paper's propositions hold through training. Readouts leak as the
variant's neurons do. Weights start N(0, 1 / fan_in), threshold 1, no bias; a seed gives all variants the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.core.codebook import Codebook, start
from hetsyn_plugins.core.fields import PARAMETRIZATIONS, SYNAPTIC, Array
from hetsyn_plugins.core.initialisers import ConstantTau, LogNormalTau, NormalTau, UniformTau
from hetsyn_plugins.core.network import Dropout, HetSynLayer, Layer, Network
from hetsyn_plugins.core.params import HetSynParams, tau_to_decay
from hetsyn_plugins.core.surrogate import MultiGaussian, Surrogate, Triangular
from hetsyn_plugins.experiments.builder import built
from hetsyn_plugins.experiments.checks import check, check_among
from hetsyn_plugins.experiments.imported import FORM, is_path
from hetsyn_plugins.experiments.tasks.task import Task

DISTRIBUTIONS: dict[str, Callable[..., Any]] = {"normal": NormalTau, "uniform": UniformTau, "log_normal": LogNormalTau}
SURROGATES: dict[str, Surrogate] = {"triangular": Triangular(), "multi_gaussian": MultiGaussian()}


KINDS = ("recurrent", "feedforward")
USES = ("weights", "taus", "frozen", "delays")  # of a run's seed


class Variant(NamedTuple):
    """What sets a variant apart: its name in the paper, how decays are shared, whether they are learned and drawn."""

    title: str
    share: str
    learned: bool
    drawn: bool
    adapts: bool = False


VARIANTS = {
    "hetsyn": Variant("HetSynLIF", "synapse", learned=True, drawn=True),
    "hetneu": Variant("HetNeuLIF", "neuron", learned=True, drawn=True),
    "single_tau": Variant("one learned tau", "layer", learned=True, drawn=False),
    "homneu": Variant("HomNeuLIF", "layer", learned=False, drawn=False),
    "alif": Variant("HomNeuALIF", "layer", learned=False, drawn=False, adapts=True),
}


@dataclass(frozen=True)
class NetworkConfig:
    """What network (`build` makes it). Times in seconds.

    variant           "hetsyn": a learned tau a synapse; "hetneu": one a neuron, its reset's too; "single_tau": one
                      learned tau for the whole network; "homneu": tau_reset everywhere, fixed; "alif": that, with
                      threshold adaptation
    recurrent         hidden layers have recurrent synapses ("R-"; False: "F-")
    hidden            neurons in each hidden layer
    variants          of each hidden layer, in the place of `variant`, which the readout keeps; []: the same of all
    kinds             of each hidden layer, in the place of `recurrent`: "recurrent" or "feedforward"; []: the same
    builder           "package.module:function", called with lines, outputs, dt and seed: it returns the network, a
                      core.network.Network or layers that `convert` takes. Of the other settings only `frozen`,
                      `batch_norm` and `quantised` count then. "": none
    frozen            share of the taus of synapses that stay as they start, 0 to 1
    parametrization   what is trained: "decay" (r), "tau" or "log_tau"
    tau_distribution  "normal" (mean, s.d.), "uniform" (low, high) or "log_normal" (median, e-folds): the two numbers of
    tau_start         how hetsyn and hetneu start; the others start at tau_reset
    tau_reset         of the reset current; learned only where it is the synapses' (hetneu, single_tau)
    tau_adaptation, adaptation   of alif
    surrogate         "triangular" or "multi_gaussian"
    clusters          of hetsyn: so many learned decays a layer, the readout too, which its synapses share (a codebook);
                      0: one a synapse
    max_delay         learned delays of the synapses of hidden layers, one each whatever the variant, of up to so many
                      seconds, which start uniform; 0: none
    dropout           on the spikes of hidden layers
    batch_norm        their spikes are scaled by their mean squares in training (`batch_norm`)
    quantised         lava_dl only: the forward pass in the chip's integers (spikes or counts in, no dropout and no
                      batch norm)
    """

    variant: str = "hetsyn"
    recurrent: bool = True
    hidden: tuple[int, ...] = (64,)
    frozen: float = 0.0
    parametrization: str = "decay"
    tau_distribution: str = "normal"
    tau_start: tuple[float, float] = (20e-3, 5e-3)
    tau_reset: float = 20e-3
    tau_adaptation: float = 100e-3
    adaptation: float = 0.05
    surrogate: str = "multi_gaussian"
    max_delay: float = 0.0
    dropout: float = 0.0
    batch_norm: bool = False
    quantised: bool = False
    variants: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    builder: str = ""
    clusters: int = 0

    def __post_init__(self) -> None:
        check_among("network.variant", self.variant, VARIANTS)
        check_among("network.parametrization", self.parametrization, PARAMETRIZATIONS)
        check_among("network.tau_distribution", self.tau_distribution, DISTRIBUTIONS)
        check_among("network.surrogate", self.surrogate, SURROGATES)
        check("network.hidden", self.hidden, "at least one layer of at least 1 neuron", bool(self.hidden))
        check("network.hidden", self.hidden, "at least 1 neuron a layer", all(n >= 1 for n in self.hidden))
        check("network.frozen", self.frozen, "0 to 1", 0 <= self.frozen <= 1)
        check("network.dropout", self.dropout, "0 to below 1", 0 <= self.dropout < 1)
        check("network.max_delay", self.max_delay, "seconds, 0 or more", 0 <= self.max_delay < inf)
        for name in ("tau_reset", "tau_adaptation"):
            check(f"network.{name}", getattr(self, name), "seconds > 0", 0 < getattr(self, name) < inf)
        check("network.adaptation", self.adaptation, "a finite number", isfinite(self.adaptation))
        try:
            DISTRIBUTIONS[self.tau_distribution](*self.tau_start, dt=1e-3)  # a usual step: the task has it
        except ValueError as error:
            raise ValueError(f"network.tau_start: {error}, in {list(self.tau_start)}") from error
        if self.quantised and self.dropout:
            raise ValueError(f"network.quantised: expected network.dropout=0 with it, got {self.dropout}")
        if self.quantised and self.batch_norm:
            raise ValueError("network.quantised: expected network.batch_norm=false with it, got true")
        if self.quantised and self.max_delay:
            raise ValueError(f"network.quantised: expected network.max_delay=0 with it, got {self.max_delay}")
        if self.frozen and (self.variant != "hetsyn" or self.variants):
            raise ValueError(f"network.frozen: expected 0 with variant {self.title!r}, got {self.frozen}")
        self._check_clusters()
        self._check_stack()

    def _check_clusters(self) -> None:
        """Raise ValueError for a codebook where there is none."""
        check("network.clusters", self.clusters, "at least 0", self.clusters >= 0)
        if self.clusters and (self.variant != "hetsyn" or self.variants):
            raise ValueError(f"network.clusters: expected 0 with variant {self.title!r}, got {self.clusters}")
        if self.clusters and self.frozen:
            raise ValueError(f"network.clusters: expected 0 with network.frozen={self.frozen}, got {self.clusters}")

    def _check_stack(self) -> None:
        """Raise ValueError for what is said layer by layer and is not of these layers."""
        of_layers = [name for name in VARIANTS if name != "single_tau"]  # which is one of all layers
        for name, known in (("variants", of_layers), ("kinds", KINDS)):
            given, layers = getattr(self, name), len(self.hidden)
            expected = f"none, or one for each of {layers} hidden layers"
            check(f"network.{name}", given, expected, len(given) in (0, layers))
            for one in given:
                check_among(f"network.{name}", one, known)
        if self.variants and self.variant == "single_tau":
            raise ValueError(f"network.variants: expected none with variant 'single_tau', got {list(self.variants)}")
        if self.builder and not is_path(self.builder):
            raise ValueError(f"network.builder: expected {FORM}, got {self.builder!r}")

    @property
    def title(self) -> str:
        """What it is in a word: who builds it, or its variants."""
        return self.builder or "+".join(dict.fromkeys(self.variants)) or self.variant

    @property
    def stack(self) -> list[NetworkConfig]:
        """The same for each hidden layer alone: its neurons, variant and kind."""
        variants = self.variants or (self.variant,) * len(self.hidden)
        recurrent = [kind == "recurrent" for kind in self.kinds] or [self.recurrent] * len(self.hidden)
        return [
            replace(self, hidden=(n,), variant=variant, recurrent=is_recurrent, variants=(), kinds=())
            for n, variant, is_recurrent in zip(self.hidden, variants, recurrent, strict=True)
        ]


def build(
    config: NetworkConfig, lines: int, outputs: int, dt: float, seed: int, *, spiking_output: bool = False
) -> Network:
    """The network before training, float32: hidden layers, dropout behind each where asked for, and a readout.

    spiking_output   the readout's neurons spike, without recurrent synapses
    """
    draws = _Draws(stream(seed, "weights"), stream(seed, "taus"), stream(seed, "delays"))
    layers: list[Layer] = []
    for index, layer in enumerate(config.stack, 1):
        (n,) = layer.hidden
        layers.append(_layer(f"hidden{index}", layer, (n, lines), dt, draws, recurrent=layer.recurrent))
        if config.dropout:
            layers.append(Dropout(f"dropout{index}", config.dropout))
        lines = n
    layers.append(_layer("readout", config, (outputs, lines), dt, draws, spiking=spiking_output))
    return Network(tuple(layers))


def build_for(task: Task, config: NetworkConfig, seed: int) -> Network:
    """The network for a task, before training."""
    if config.builder:
        return built(config.builder, task.lines, task.outputs, task.dt, seed, spiking_output=task.spiking_output)
    return build(config, task.lines, task.outputs, task.dt, seed, spiking_output=task.spiking_output)


def stream(seed: int, use: str) -> np.random.Generator:
    """A generator of a run's seed for one of USES, apart from those of its batches (`tasks.task`)."""
    return np.random.default_rng([seed, 1000 + USES.index(use)])


class _Draws(NamedTuple):
    """The generators of a network's weights, taus and delays, apart: the same weights whatever else is drawn."""

    weights: np.random.Generator
    taus: np.random.Generator
    delays: np.random.Generator


def _layer(
    name: str,
    config: NetworkConfig,
    shape: tuple[int, int],
    dt: float,
    draws: _Draws,
    *,
    recurrent: bool = False,
    spiking: bool = True,
) -> HetSynLayer:
    """A layer of `shape` (N, M); a readout where it does not spike."""
    variant, n = VARIANTS[config.variant], shape[0]
    tied = variant.share != "synapse"
    adapts = spiking and variant.adapts
    fields: dict[str, Any] = {"weight": _weights(draws.weights, *shape), "reset_decay": None}
    if recurrent:
        fields["recurrent_weight"] = _weights(draws.weights, n, n)
    fields["decay"] = decay = _decays(config, shape, dt, draws.taus)
    if recurrent:
        fields["recurrent_decay"] = decay if tied else _decays(config, (n, n), dt, draws.taus)
    if spiking:
        fields["reset_decay"] = decay if tied else np.float32(tau_to_decay(config.tau_reset, dt))
    if adapts:
        fields["adaptation_decay"] = np.float32(tau_to_decay(config.tau_adaptation, dt))
        fields["adaptation_strength"] = np.float32(config.adaptation)
    learned = {"weight"} | ({"recurrent_weight"} if recurrent else set())
    if config.max_delay and spiking:
        fields |= _delays(config, shape, dt, draws.delays, recurrent)
        learned |= {"delay"} | ({"recurrent_delay"} if recurrent else set())
    if variant.learned:
        learned |= {"decay"} | ({"recurrent_decay"} if recurrent and not tied else set())
    codebook = _codebook(config.clusters, fields) if config.clusters else None
    return HetSynLayer(
        name,
        HetSynParams(**fields, spiking=spiking),
        dt=dt,
        share=variant.share if codebook is None else "codebook",
        codebook=codebook,
        parametrization=config.parametrization,
        tie_reset=tied and spiking,  # a readout has no reset
        surrogate=SURROGATES[config.surrogate],
        learned=frozenset(learned),
    )


def _codebook(clusters: int, fields: dict[str, Any]) -> Codebook:
    """The codebook that is best for the decays drawn, which become those that it has."""
    weights = {"decay": "weight", "recurrent_decay": "recurrent_weight"}
    names = [name for name in SYNAPTIC if name in fields]
    decays, index = start(
        [fields[name] for name in names], [fields[weights[name]] for name in names], clusters, "network.clusters"
    )
    decays = decays.astype(np.float32)
    fields |= {name: decays[each] for name, each in zip(names, index, strict=True)}
    return Codebook(decays, *index)


def _delays(
    config: NetworkConfig, shape: tuple[int, int], dt: float, rng: np.random.Generator, recurrent: bool
) -> dict[str, Any]:
    """Start values of delays in steps, and the most that they may become."""
    most, (n, _) = steps_of(config.max_delay, dt), shape
    delays: dict[str, Any] = {"delay": rng.uniform(0, most, shape).astype(np.float32), "max_delay": most}
    if recurrent:
        delays["recurrent_delay"] = rng.uniform(0, most, (n, n)).astype(np.float32)
    return delays


def steps_of(max_delay: float, dt: float) -> int:
    """A longest delay of so many seconds in steps, one at least."""
    return round(min(max(1.0, max_delay / dt), 1e300))  # more is more than there is of anything


def _weights(rng: np.random.Generator, n: int, m: int) -> Array:
    return (rng.standard_normal((n, m)) / np.sqrt(m)).astype(np.float32)


def _decays(config: NetworkConfig, shape: tuple[int, int], dt: float, taus: np.random.Generator) -> Array:
    """Start values in the shape that is learned."""
    variant = VARIANTS[config.variant]
    shared = {"synapse": shape, "neuron": shape[:1], "layer": ()}[variant.share]
    start = DISTRIBUTIONS[config.tau_distribution](*config.tau_start, dt=dt) if variant.drawn else None
    draw = start or ConstantTau(config.tau_reset, dt)
    return np.asarray(draw(shared, taus), np.float32)
