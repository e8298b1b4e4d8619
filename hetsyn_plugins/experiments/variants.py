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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.initialisers import ConstantTau, LogNormalTau, NormalTau, UniformTau
from hetsyn_plugins.core.network import Dropout, HetSynLayer, Layer, Network
from hetsyn_plugins.core.params import HetSynParams, tau_to_decay
from hetsyn_plugins.core.surrogate import MultiGaussian, Surrogate, Triangular

if TYPE_CHECKING:
    from hetsyn_plugins.experiments.config import NetworkConfig

DISTRIBUTIONS: dict[str, Callable[..., Any]] = {"normal": NormalTau, "uniform": UniformTau, "log_normal": LogNormalTau}
SURROGATES: dict[str, Surrogate] = {"triangular": Triangular(), "multi_gaussian": MultiGaussian()}


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


def build(config: NetworkConfig, lines: int, outputs: int, dt: float, seed: int) -> Network:
    """The network before training, float32: hidden layers, dropout behind each where asked for, and a readout."""
    rng, taus = stream(seed, "weights"), stream(seed, "taus")  # apart: the same weights whatever taus are drawn
    layers: list[Layer] = []
    for index, n in enumerate(config.hidden, 1):
        layers.append(_layer(f"hidden{index}", config, n, lines, dt, rng, taus, spiking=True))
        if config.dropout:
            layers.append(Dropout(f"dropout{index}", config.dropout))
        lines = n
    layers.append(_layer("readout", config, outputs, lines, dt, rng, taus, spiking=False))
    return Network(tuple(layers))


def stream(seed: int, use: str) -> np.random.Generator:
    """A generator of a run's seed for "weights", "taus" or "frozen", apart from those of its batches (`tasks.task`)."""
    return np.random.default_rng([seed, 1000 + ("weights", "taus", "frozen").index(use)])


def _layer(
    name: str,
    config: NetworkConfig,
    n: int,
    m: int,
    dt: float,
    rng: np.random.Generator,
    taus: np.random.Generator,
    *,
    spiking: bool,
) -> HetSynLayer:
    variant = VARIANTS[config.variant]
    recurrent, tied = spiking and config.recurrent, variant.share != "synapse"
    weight, loop = _weights(rng, n, m), _weights(rng, n, n) if recurrent else None
    decay = _decays(config, variant, (n, m), dt, taus)
    reset = decay if tied else np.float32(tau_to_decay(config.tau_reset, dt))
    adapts = spiking and variant.adapts
    params = HetSynParams(
        weight,
        decay,
        reset_decay=reset if spiking else None,
        recurrent_weight=loop,
        recurrent_decay=None if not recurrent else decay if tied else _decays(config, variant, (n, n), dt, taus),
        adaptation_decay=np.float32(tau_to_decay(config.tau_adaptation, dt)) if adapts else None,
        adaptation_strength=np.float32(config.adaptation) if adapts else None,
        spiking=spiking,
    )
    learned = {"weight"} | ({"recurrent_weight"} if recurrent else set())
    if variant.learned:
        learned |= {"decay"} | ({"recurrent_decay"} if recurrent and not tied else set())
    return HetSynLayer(
        name,
        params,
        dt=dt,
        share=variant.share,
        parametrization=config.parametrization,
        tie_reset=tied and spiking,  # a readout has no reset
        surrogate=SURROGATES[config.surrogate],
        learned=frozenset(learned),
    )


def _weights(rng: np.random.Generator, n: int, m: int) -> Array:
    return (rng.standard_normal((n, m)) / np.sqrt(m)).astype(np.float32)


def _decays(
    config: NetworkConfig, variant: Variant, shape: tuple[int, int], dt: float, taus: np.random.Generator
) -> Array:
    """Start values in the shape that is learned."""
    shared = {"synapse": shape, "neuron": shape[:1], "layer": ()}[variant.share]
    start = DISTRIBUTIONS[config.tau_distribution](*config.tau_start, dt=dt) if variant.drawn else None
    draw = start or ConstantTau(config.tau_reset, dt)
    return np.asarray(draw(shared, taus), np.float32)
