"""A stack of integer layers: what is exported, simulated and run in Lava. `core/network.py` is the same in float.

Each layer is a `FixedParams` with what belongs to its place in a stack: an always-on input line, delays of
its outgoing spikes, and the step that a chip takes from layer to layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Network, check_flat, check_name
from hetsyn_plugins.core.validation import host_array
from hetsyn_plugins.fixed_point import neuron
from hetsyn_plugins.fixed_point.neuron import MAX_DELAY, FixedParams, FixedRun, Integers, checked_integers
from hetsyn_plugins.fixed_point.rounding import Rounding
from hetsyn_plugins.fixed_point.rounding import quantise as quantise_neuron


@dataclass(frozen=True, eq=False)
class FixedLayer:
    """A layer in its place.

    always_on  the last of the M lines is 1 at every step and comes from nowhere: M - 1 lines come in
    delay      (N,) steps, 0..62, by which the spikes leave later (not those that the layer itself sees), or None
    """

    name: str
    params: FixedParams
    always_on: bool = False
    delay: Any = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.delay is not None:
            if not self.params.spiking:
                raise ValueError(f"layer {self.name!r}: delay: expected None for a readout, got a value")
            n = len(self.params.weight)
            delay = checked_integers(f"layer {self.name!r}: delay", self.delay, (0, MAX_DELAY), (n,))
            object.__setattr__(self, "delay", delay)

    @property
    def widths(self) -> tuple[int, int]:
        """Lines in, lines out."""
        n, m = self.params.weight.shape
        return m - self.always_on, n


@dataclass(frozen=True, eq=False)
class FixedNetwork:
    """Layers from input to output; a readout can only be the last. Raises ValueError where they do not fit together."""

    layers: tuple[FixedLayer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers: expected at least one, got none")
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise ValueError(f"layers: expected different names, got {', '.join(names)}")
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            if not before.params.spiking:
                raise ValueError(f"layer {before.name!r}: expected the readout to be the last layer")
            if before.widths[1] != after.widths[0]:
                came = f"{before.widths[1]} come out of {before.name!r}"
                raise ValueError(f"layer {after.name!r}: expected {after.widths[0]} lines in, {came}")
            _check_whole_delay(before, after)

    def run(self, inputs: ArrayLike, *, latency: int = 0, allow_overflow: bool = False) -> dict[str, FixedRun]:
        """Run every layer from zero states on inputs (T, B, M) of the first; returns name -> FixedRun, in order.

        latency  steps from a layer's input to its output beyond the neuron's own: 0 as everywhere in this package; 1 as
                 on a chip and in slayer's blocks (`delay_shift`), where every layer's spikes and v come one step later
        """
        x = host_array("inputs", inputs)
        runs: dict[str, FixedRun] = {}
        for layer in self.layers:
            if layer.always_on:
                x = np.concatenate([x, np.ones((*x.shape[:2], 1), x.dtype)], axis=2)
            result = neuron.run(layer.params, x, name=layer.name, allow_overflow=allow_overflow)
            spikes, v = result.spikes, shifted(result.v, latency)
            if spikes is not None:
                delay = 0 if layer.delay is None else layer.delay
                spikes = shifted(spikes, latency + delay)
            runs[layer.name] = result._replace(spikes=spikes, v=v)
            x = v if spikes is None else spikes
        return runs

    def output(self, inputs: ArrayLike, **options: Any) -> Integers:
        """What the last layer gives, (T, B, N): v of a readout, else spikes."""
        *_, readout = self.run(inputs, **options).values()
        return readout.v if readout.spikes is None else readout.spikes


def _check_whole_delay(before: FixedLayer, after: FixedLayer) -> None:
    """Raise ValueError where a spike's delays, as it leaves and as it arrives, are longer together than an axon's."""
    if before.delay is None or after.params.delay is None:
        return
    longest = int((before.delay + after.params.delay[:, : before.widths[1]]).max())
    if longest > MAX_DELAY:
        expected = f"at most {MAX_DELAY} steps together with those by which the spikes of {before.name!r} leave later"
        raise ValueError(f"layer {after.name!r}: delay: expected {expected}, got {longest}")


def shifted(x: Integers, steps: Any) -> Integers:
    """x (T, B, N) later by so many steps, one number or one a neuron (N,); zeros come in front."""
    out = np.zeros_like(x)
    steps = np.broadcast_to(steps, x.shape[2])
    for by in np.unique(steps):
        out[by:, :, steps == by] = x[: max(len(x) - by, 0), :, steps == by]
    return out


def quantise(
    network: Network, *, form: str = "cluster", clip: bool = False, units: Mapping[str, float] | None = None
) -> tuple[FixedNetwork, dict[str, Rounding]]:
    """Round every layer of a float network to integers; also name -> what that did (`rounding.quantise`).

    units  layer name -> unit, as training used it (`finetune.py`); a layer without one gets the unit that fits it best

    Dropout does nothing here; an AlwaysOn is taken into the layer behind it. A Linear has no place on such a chip
    (its output is not spikes) and raises ValueError, as do an AlwaysOn with no HetSyn layer behind it and a unit of no
    layer.
    """
    check_flat(network, "the integer core")
    units = units or {}
    names = [layer.name for layer in network.layers if isinstance(layer, HetSynLayer)]
    if strangers := set(units) - set(names):
        raise ValueError(f"units: expected names of layers ({', '.join(names)}), got {', '.join(sorted(strangers))}")
    layers: list[FixedLayer] = []
    reports: dict[str, Rounding] = {}
    always_on = False
    for layer in network.layers:
        if isinstance(layer, HetSynLayer):
            unit = units.get(layer.name)
            try:
                fixed, reports[layer.name] = quantise_neuron(layer.params, form=form, clip=clip, unit=unit)
            except ValueError as error:
                raise ValueError(f"layer {layer.name!r}: {error}") from error
            layers.append(FixedLayer(layer.name, fixed, always_on))
            always_on = False
        elif isinstance(layer, AlwaysOn) and not always_on:
            always_on = True
        elif not isinstance(layer, Dropout):
            kind = type(layer).__name__
            raise ValueError(
                f"layer {layer.name!r}: expected HetSyn layers only, got a {kind}, which no chip layer holds"
            )
    if always_on:
        raise ValueError("network: expected a HetSyn layer behind the last AlwaysOn, got none")
    return FixedNetwork(tuple(layers)), reports
