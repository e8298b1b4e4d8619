"""Random small networks, `hetsyn verify --networks`: layers that combine what the kinds in `cases.py` have one by one.

The spikes of a layer are the inputs of the next. A backend whose spikes are those of the reference hands on the same
ones, so that every layer is a case, and what fails can be made small.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from hetsyn_plugins.conformance.cases import INPUTS, Backend, Case, Mismatch, clear_of_threshold
from hetsyn_plugins.conformance.comparison import Tally, compare
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.params import HetSynParams

ATTEMPTS = 200


def compare_layers(backend: Backend, layers: list[Case], tally: Tally) -> Tally:
    """Run the layers of a network that the backend takes; one that has no codebooks gets their decays written out."""
    for case in layers:
        with warnings.catch_warnings():  # what masks leave out is drawn as it comes
            warnings.filterwarnings("ignore", ".*have no synapse in it")
            compare(backend, case if backend.codebooks else replace(case, codebook=False), tally)
    return tally


def draw_network(seed: int) -> list[Case]:
    """One to four layers of 1 to 12 neurons, the last a readout in every third network; float64, from zeros.

    A layer is drawn again, with larger weights, until it spikes, but not always, and stays clear of the threshold (see
    `rounding_bound`).
    """
    rng = np.random.default_rng(seed)
    count, steps, batch, m = (int(rng.integers(low, high)) for low, high in ((1, 5), (5, 41), (1, 5), (1, 13)))
    has_readout = rng.random() < 1 / 3
    x = INPUTS[str(rng.choice(["dense", "sparse", "graded"]))](rng, (steps, batch, m))
    layers = []
    for at in range(count):
        label = f"network {seed}, layer {at + 1} of {count}"
        case, spikes = _draw_layer(rng, label, x, spiking=not (has_readout and at == count - 1))
        layers.append(case)
        x = spikes
    return layers


def _draw_layer(rng: np.random.Generator, label: str, x: Array, spiking: bool) -> tuple[Case, Any]:
    """A layer over these inputs, and its spikes."""
    n, m, codebook = int(rng.integers(1, 13)), x.shape[2], bool(rng.random() < 1 / 6)
    for attempt in range(ATTEMPTS):
        params = _params(rng, n, m, spiking, codebook, gain=1 + attempt / 10)
        case = Case(label, params, x, codebook=codebook)
        spikes, v, _ = reference.run(params, x)
        alive = spikes is None or not x.any() or 0 < spikes.mean() < 0.95
        if alive and clear_of_threshold(case, spikes, v):
            return case, spikes
    raise Mismatch(f"{label}: none of {ATTEMPTS} draws spikes and stays clear of the threshold")


def _params(rng: np.random.Generator, n: int, m: int, spiking: bool, codebook: bool, gain: float) -> HetSynParams:
    """Each part that a layer may lack is there or not by itself."""

    def there(chance: float = 0.5) -> bool:
        return bool(rng.random() < chance)

    def soma(low: float, high: float) -> Any:
        return rng.uniform(low, high, n if there() else ())

    fields: dict[str, Any] = _synapses(rng, n, m, gain, codebook)
    fields |= {"bias": rng.normal(0, 0.05, n)} if there() else {}
    fields |= {"reset_decay": soma(0.0, 1.0) if spiking and there(0.8) else None, "spiking": spiking}
    if not spiking:
        return HetSynParams(**fields)
    fields["threshold"] = soma(0.5, 1.5)
    if there():
        fields |= {f"recurrent_{k}": value for k, value in _synapses(rng, n, n, 0.5, codebook).items()}
    if there(0.3):
        fields |= {"adaptation_decay": soma(0.5, 1.0), "adaptation_strength": soma(0.02, 0.3)}
    return HetSynParams(**fields)


def _synapses(rng: np.random.Generator, n: int, m: int, gain: float, codebook: bool) -> dict[str, Any]:
    """Weights with decays, and maybe delays, of one of the shapes in which synapses share them; maybe a mask."""

    def shape() -> tuple[int, ...]:
        shapes: list[tuple[int, ...]] = [(n, m), (n, m), (n,), (n, 1), (1, m), ()]
        return shapes[rng.integers(len(shapes))]

    drawn: dict[str, Any] = {"weight": gain * rng.normal(0.2, 1, (n, m)) / np.sqrt(m)}
    # also synapses that forget at once, and some that nearly never do
    drawn["decay"] = rng.choice([0.0, 0.4, 0.95], (n, m)) if codebook else rng.uniform(0, 1, shape()) ** 0.5
    if rng.random() < 0.3:
        delay = rng.uniform(0, 5, shape())
        drawn["delay"] = np.where(rng.random(delay.shape) < 0.5, np.round(delay), delay)
    if rng.random() < 0.3:
        drawn["mask"] = rng.random((n, m)) < rng.uniform(0.1, 1)
    return drawn
