"""A network of one's own: what a user's function builds, as plain data that can be trained on a task."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from hetsyn_plugins.core.network import Dropout, HetSynLayer, Layer, Network
from hetsyn_plugins.exchange.conversion import convert
from hetsyn_plugins.experiments.imported import imported

CALL = "(lines, outputs, dt, seed)"
KIND = "a core.network.Network, or layers that convert takes"


def built(path: str, lines: int, outputs: int, dt: float, seed: int, *, spiking_output: bool = False) -> Network:
    """What the function under an import path builds, float32, ready to be trained.

    lines, outputs   that the task has
    dt               seconds
    spiking_output   whether the last layer must spike

    Raises ValueError, naming the function, for anything but such a network; ImportError as `imported`.
    """
    function = imported("network.builder", path)
    try:
        inspect.signature(function).bind(lines=lines, outputs=outputs, dt=dt, seed=seed)
    except (TypeError, ValueError) as error:
        raise ValueError(f"network.builder: expected a function of {CALL}, got {path}: {error}") from error
    made = function(lines=lines, outputs=outputs, dt=dt, seed=seed)
    if not isinstance(made, Network | nn.Module):
        raise ValueError(f"network.builder: expected {KIND}, of {path}, got {type(made).__name__}")
    try:
        network: Network = convert(made, to="reference", dt=dt)
        layers = tuple(_layer(layer, dt) for layer in network.layers)
        _check_ends(layers, lines, outputs, spiking_output)
    except ValueError as error:
        raise ValueError(f"network.builder: {path}: {error}") from error
    return Network(layers)


def _layer(layer: Layer, dt: float) -> Layer:
    """A layer that can be trained here, which takes (T, B, M)."""
    if isinstance(layer, Dropout):
        return layer
    if not isinstance(layer, HetSynLayer):
        raise ValueError(f"layer {layer.name!r}: expected a HetSyn layer or Dropout, got {type(layer).__name__}")
    if layer.dt != dt:
        raise ValueError(f"layer {layer.name!r}: expected steps of {dt} s, as the task has, got {layer.dt}")
    stored = {name: value.astype(np.float32) for name, value in layer.stored.items()}
    return replace(layer, params=layer.params.astype(np.float32), stored=stored, batch_first=False)


def _check_ends(layers: tuple[Layer, ...], lines: int, outputs: int, spiking_output: bool) -> None:
    """Raise ValueError where a network does not begin and end as the task does."""
    hetsyn = [layer for layer in layers if isinstance(layer, HetSynLayer)]
    last: Any = layers[-1]
    if not hetsyn or last is not hetsyn[-1]:
        raise ValueError(f"layer {last.name!r}: expected a HetSyn layer at the end, got {type(last).__name__}")
    if hetsyn[0].widths[0] != lines:
        raise ValueError(f"layer {hetsyn[0].name!r}: expected {lines} lines in, the task's, got {hetsyn[0].widths[0]}")
    if last.widths[1] != outputs:
        raise ValueError(f"layer {last.name!r}: expected {outputs} neurons, the task's outputs, got {last.widths[1]}")
    for layer in hetsyn:
        spikes = spiking_output or layer is not last
        if layer.params.spiking != spikes:
            kinds = ("a leaky readout", "neurons that spike")
            expected, got = kinds[spikes], kinds[not spikes]
            raise ValueError(f"layer {layer.name!r}: expected {expected} with this task and in this place, got {got}")
