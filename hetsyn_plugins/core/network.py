"""A stack of layers as plain data, NumPy only: what `convert` and checkpoints exchange, and the reference can run.

A Network is a tuple of layers from input to output. HetSynLayer holds a layer of HetSyn neurons with what is needed to
go on training it; the others are what stands between such layers: Linear, Dropout, AlwaysOn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import MultiGaussian, Surrogate
from hetsyn_plugins.core.validation import check_inputs_shape

CHUNK = 1 << 22  # numbers of synaptic currents kept at a time


@dataclass(frozen=True)
class HetSynLayer:
    """HetSyn neurons or a leaky readout, M lines in, N out.

    dt        step length in seconds; None where nobody has spoken of seconds yet
    learned   the core fields that are trained
    autapses  False: no neuron has a synapse to itself, in training neither: the diagonal of recurrent_weight is zero
    stored    core field -> the tensor that is trained, where that is tau or log tau: kept so that nothing is rounded
    batch_first   how a layer of an adapter takes its sequences; plain data run on (T, B, M) always
    others    as the layers of the adapters take them (`trainable.py`)
    """

    name: str
    params: HetSynParams
    dt: float | None = None
    share: str = "synapse"
    parametrization: str = "decay"
    tie_reset: bool = False
    detach_reset: bool = False
    surrogate: Surrogate = field(default_factory=MultiGaussian)
    learned: frozenset[str] = frozenset({"weight", "decay", "recurrent_weight", "recurrent_decay", "bias"})
    stored: Mapping[str, Array] = field(default_factory=dict)
    autapses: bool = True
    batch_first: bool = False

    def __post_init__(self) -> None:
        recurrent = self.params.recurrent_weight
        if not self.autapses and recurrent is not None and np.diagonal(recurrent).any():
            raise ValueError(f"layer {self.name!r}: expected a zero diagonal with autapses=False, got weights there")

    @property
    def widths(self) -> tuple[int, int]:
        """Lines in, lines out."""
        n, m = self.params.weight.shape
        return m, n

    @property
    def options(self) -> dict[str, Any]:
        """The options of OPTIONS, by name."""
        return {name: getattr(self, name) for name in OPTIONS}


# the options that the layers of every adapter have, under these names, and a checkpoint keeps
OPTIONS = ("dt", "share", "parametrization", "tie_reset", "detach_reset", "batch_first")


@dataclass(frozen=True)
class Linear:
    """y = W x + b at every step: weight (N, M), bias (N,) or None; `learned` says which of the two are trained."""

    name: str
    weight: Array
    bias: Array | None = None
    learned: frozenset[str] = frozenset({"weight", "bias"})

    @property
    def widths(self) -> tuple[int, int]:
        """Lines in, lines out."""
        n, m = self.weight.shape
        return m, n


@dataclass(frozen=True)
class Dropout:
    """Drops entries with probability p in training; nothing here, where networks are only run."""

    name: str
    p: float

    widths = None


@dataclass(frozen=True)
class AlwaysOn:
    """Appends one line that is 1 at every step.

    A Linear's bias in front of a leaky neuron is filtered by that neuron: it is the weight of such a line.
    """

    name: str

    widths = None


Layer = HetSynLayer | Linear | Dropout | AlwaysOn


@dataclass(frozen=True)
class Network:
    """Layers from input to output. Raises ValueError where names repeat or widths do not meet."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise ValueError(f"layers: expected different names, got {', '.join(names)}")
        width = None
        for layer in self.layers:
            if isinstance(layer, AlwaysOn):
                width = None if width is None else width + 1
            elif not isinstance(layer, Dropout):
                lines_in, lines_out = layer.widths
                if width not in (None, lines_in):
                    raise ValueError(
                        f"layer {layer.name!r}: expected {width} lines in, as come out before it, got {lines_in}"
                    )
                width = lines_out

    def run(self, inputs: ArrayLike) -> dict[str, tuple[Array | None, Array]]:
        """Run every HetSyn layer in float64 through the reference on inputs (T, B, M) of the first layer.

        Returns name -> (spikes, v), each (T, B, N), spikes None for a readout, in the order of the layers.
        """
        passes = self.walk(inputs)
        return {p.layer.name: (p.spikes, p.v) for p in passes if isinstance(p.layer, HetSynLayer)}

    def walk(self, inputs: ArrayLike) -> Iterator[Pass]:
        """Go through the layers from input to output, in float64 through the reference; inputs (T, B, M)."""
        x = np.asarray(inputs, np.float64)
        for layer in self.layers:
            spikes = None
            if isinstance(layer, HetSynLayer):
                spikes, v = outputs(layer.params, x)
            elif isinstance(layer, Linear):
                v = x @ layer.weight.astype(np.float64).T
                v = v if layer.bias is None else v + layer.bias
            elif isinstance(layer, AlwaysOn):
                v = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2)
            else:
                v = x
            yield Pass(layer, x, spikes, v)
            x = v if spikes is None else spikes


class Pass(NamedTuple):
    """A layer in a walk: what comes in, (T, B, M), and what goes out: its spikes if it has any, else v, (T, B, N)."""

    layer: Layer
    inputs: Array
    spikes: Array | None
    v: Array


def outputs(params: HetSynParams, inputs: ArrayLike) -> tuple[Array | None, Array]:
    """Spikes (T, B, N), None for a readout, and v (T, B, N) of a layer on inputs (T, B, M), from zeros.

    They are those of `reference.run`, made a piece of time after another: it keeps every state of its steps.
    """
    x = np.asarray(inputs)
    check_inputs_shape(x, params.weight)
    n, m = params.weight.shape
    at_once = max(1, CHUNK // (x.shape[1] * (n + m) * n or 1))
    state = None
    spikes: list[Any] = []
    v: list[Array] = []
    for t in range(0, max(len(x), 1), at_once):
        z, piece, state = reference.run(params, x[t : t + at_once], state)
        spikes.append(z)
        v.append(piece)
    return (np.concatenate(spikes) if params.spiking else None), np.concatenate(v)
