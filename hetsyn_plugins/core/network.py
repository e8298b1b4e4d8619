"""A stack of layers as plain data, NumPy only: what `convert` and checkpoints exchange, and the reference can run.

A Network is a tuple of layers from input to output. HetSynLayer holds a layer of HetSyn neurons with what is needed to
go on training it; the others are what stands between such layers: Linear, Dropout, AlwaysOn. Over images there are
HetSynConv, and between such layers Pool and Flatten; what takes lines alone refuses these by name (`check_flat`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hetsyn_plugins.core import reference
from hetsyn_plugins.core.codebook import INDICES, Codebook, check_index, exact
from hetsyn_plugins.core.convolution import Convolution, checked_convolution
from hetsyn_plugins.core.fields import ARRAYS, DECAY, DECAYS, PARAMETRIZATIONS, SHARES, SYNAPTIC, Array, Range
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import MultiGaussian, Surrogate
from hetsyn_plugins.core.validation import (
    as_array,
    check_inputs_shape,
    checked_bool,
    checked_dt,
    checked_number,
    describe_values,
    expand,
    full_shape,
    host_array,
)

PROBABILITY = Range(0.0, 1.0, True, "a probability in [0, 1]")
CHUNK = 1 << 22  # numbers of synaptic currents kept at a time


@dataclass(frozen=True)
class HetSynLayer:
    """HetSyn neurons or a leaky readout, M lines in, N out.

    dt        step length in seconds; None where nobody has spoken of seconds yet
    learned   the core fields that are trained
    autapses  False: no neuron has a synapse to itself, in training neither: the diagonal of recurrent_weight is zero
    stored    core field -> the tensor that is trained, where that is tau or log tau: kept so that nothing is rounded
    batch_first   how a layer of an adapter takes its sequences; plain data run on (T, B, M) always
    codebook  with share="codebook" the decays that are shared; None: the different ones of params. With any other: None
    others    as the layers of the adapters take them (`trainable.py`)

    Raises ValueError, naming the argument, for what no layer can have.
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
    codebook: Codebook | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_kind("params", self.params, HetSynParams)
        _check_kind("surrogate", self.surrogate, Surrogate)
        if self.dt is not None:
            object.__setattr__(self, "dt", checked_dt(self.dt))
        for name in ("tie_reset", "detach_reset", "autapses", "batch_first"):
            object.__setattr__(self, name, checked_bool(name, getattr(self, name)))
        _check_among("share", self.share, SHARES)
        _check_among("parametrization", self.parametrization, PARAMETRIZATIONS)
        _check_learned(self.learned, ARRAYS)
        object.__setattr__(self, "codebook", _codebook_of(self))
        _check_kind("stored", self.stored, Mapping)
        _check_stored(self)
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
        """The options of OPTIONS, by name, and how many decays are shared."""
        clusters = {} if self.codebook is None else {"clusters": len(self.codebook.decays)}
        return {**{name: getattr(self, name) for name in OPTIONS}, **clusters}


# the options that the layers of every adapter have, under these names, and a checkpoint keeps
OPTIONS = ("dt", "share", "parametrization", "tie_reset", "detach_reset", "batch_first")


@dataclass(frozen=True)
class Linear:
    """y = W x + b at every step: weight (N, M), bias (N,) or None; `learned` says which of the two are trained."""

    name: str
    weight: Array
    bias: Array | None = None
    learned: frozenset[str] = frozenset({"weight", "bias"})

    def __post_init__(self) -> None:
        check_name(self.name)
        weight = as_array("weight", self.weight, None)
        bias = None if self.bias is None else as_array("bias", self.bias, weight.dtype)
        if weight.ndim != 2 or 0 in weight.shape:
            raise ValueError(f"weight: expected shape (N, M), got {weight.shape}")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(
                f"bias: expected shape {weight.shape[:1]} beside a weight of {weight.shape}, got {bias.shape}"
            )
        for name, array in {"weight": weight, "bias": bias}.items():
            if array is not None and not np.isfinite(array).all():
                raise ValueError(f"{name}: expected finite values, got {describe_values(array)}")
            object.__setattr__(self, name, array)
        _check_learned(self.learned, ("weight", "bias"))

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

    def __post_init__(self) -> None:
        check_name(self.name)
        object.__setattr__(self, "p", checked_number("p", self.p, PROBABILITY))


@dataclass(frozen=True)
class AlwaysOn:
    """Appends one line that is 1 at every step.

    A Linear's bias in front of a leaky neuron is filtered by that neuron: it is the weight of such a line.
    """

    name: str

    widths = None

    def __post_init__(self) -> None:
        check_name(self.name)


@dataclass(frozen=True)
class HetSynConv:
    """HetSyn neurons over images: (T, B, C, *size) in, (T, B, N, *output_size) out.

    layer         the neurons of one position, which sees M = C / groups k... lines; its name and options are this one's
    convolution   which lines each position sees

    Raises ValueError for neurons that are recurrent or of other sizes.
    """

    layer: HetSynLayer
    convolution: Convolution

    widths = None  # which depend on the size of the images

    def __post_init__(self) -> None:
        _check_kind("layer", self.layer, HetSynLayer)
        _check_kind("convolution", self.convolution, Convolution)
        _check_kind("kernel_size", self.convolution.kernel_size, tuple)  # its length says how many axes there are
        checked = checked_convolution(self.convolution.axes, self.convolution[:2], *self.convolution[2:])
        object.__setattr__(self, "convolution", checked)
        params = self.layer.params
        if params.recurrent_weight is not None:
            raise ValueError(f"layer {self.name!r}: expected no recurrent_weight in a convolution, got one")
        if params.weight.shape != checked.sizes:
            raise ValueError(f"layer {self.name!r}: expected a weight of {checked.sizes}, got {params.weight.shape}")

    @property
    def name(self) -> str:
        """That of the neurons."""
        return self.layer.name


@dataclass(frozen=True)
class Pool:
    """Averages ("average") or largest values ("largest") under a window, as torch's AvgPool and MaxPool have them.

    kernel_size, stride, padding   a number for each axis of an image; padding is 0 in averages, nothing in the others
    """

    name: str
    kind: str
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    widths = None

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_among("kind", self.kind, ("average", "largest"))
        sizes = (self.kernel_size, self.stride, self.padding)
        if not all(isinstance(size, tuple) and len(size) in (1, 2) for size in sizes):
            raise ValueError(f"kernel_size: expected one or two whole numbers, got {self.kernel_size!r}")
        window = checked_convolution(len(self.kernel_size), (1, 1), *sizes, 1, 1)
        if any(2 * p > k for p, k in zip(window.padding, window.kernel_size, strict=True)):
            raise ValueError(f"padding: expected at most half of {window.kernel_size}, got {window.padding}")
        for name in ("kernel_size", "stride", "padding"):
            object.__setattr__(self, name, getattr(window, name))

    @property
    def window(self) -> Convolution:
        """What each position sees of a channel."""
        return Convolution(1, 1, self.kernel_size, self.stride, self.padding, (1,) * len(self.kernel_size), 1)

    def __call__(self, x: Array) -> Array:
        """(T, B, C, *size) pooled."""
        size, window = x.shape[3:], self.window
        seen = window.places(size, "inputs")[0]  # (P, M)
        nothing = 0.0 if self.kind == "average" else -inf
        flat = x.reshape(*x.shape[:3], -1)
        lines = np.concatenate([np.full((*flat.shape[:3], 1), nothing), flat], axis=3)[..., seen]
        pooled = lines.mean(-1) if self.kind == "average" else lines.max(-1)
        return pooled.reshape(*x.shape[:3], *window.output_size(size))


@dataclass(frozen=True)
class Flatten:
    """Images (T, B, C, *size) -> lines (T, B, M)."""

    name: str

    widths = None

    def __post_init__(self) -> None:
        check_name(self.name)


Layer = HetSynLayer | Linear | Dropout | AlwaysOn | HetSynConv | Pool | Flatten
OF_IMAGES = (HetSynConv, Pool, Flatten)


@dataclass(frozen=True)
class Network:
    """Layers from input to output, at least one. Raises ValueError where names repeat or widths do not meet."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.layers, tuple) or not self.layers:
            raise ValueError(f"layers: expected a tuple of one layer or more, got {self.layers!r}")
        for layer in self.layers:
            _check_kind("layers", layer, (HetSynLayer, Linear, Dropout, AlwaysOn, *OF_IMAGES))
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise ValueError(f"layers: expected different names, got {', '.join(names)}")
        _check_images(self.layers)
        width = None
        for layer in self.layers:
            if isinstance(layer, OF_IMAGES):
                width = None  # which depends on the size of the images
            elif isinstance(layer, AlwaysOn):
                width = None if width is None else width + 1
            elif not isinstance(layer, Dropout):
                lines_in, lines_out = layer.widths
                if width not in (None, lines_in):
                    raise ValueError(
                        f"layer {layer.name!r}: expected {width} lines in, as come out before it, got {lines_in}"
                    )
                width = lines_out

    def run(self, inputs: ArrayLike) -> dict[str, tuple[Array | None, Array]]:
        """Run every HetSyn layer in float64 through the reference on inputs (T, B, M) of the first layer; over images
        (T, B, C, *size).

        Returns name -> (spikes, v), each (T, B, N) or images, spikes None for a readout, in the order of the layers.
        """
        passes = self.walk(inputs)
        return {p.layer.name: (p.spikes, p.v) for p in passes if isinstance(p.layer, HetSynLayer | HetSynConv)}

    def walk(self, inputs: ArrayLike) -> Iterator[Pass]:
        """Go through the layers from input to output, in float64 through the reference; inputs (T, B, M)."""
        x = host_array("inputs", inputs, np.float64)
        for layer in self.layers:
            spikes = None
            if isinstance(layer, HetSynLayer):
                spikes, v = outputs(layer.params, x)
            elif isinstance(layer, HetSynConv):
                spikes, v = _images_of(layer, x)
            elif isinstance(layer, Pool):
                v = layer(x)
            elif isinstance(layer, Flatten):
                v = x.reshape(*x.shape[:2], -1)
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


def _images_of(layer: HetSynConv, x: Array) -> tuple[Array | None, Array]:
    """Spikes and v, (T, B, N, *output_size), of a convolution on images: `outputs` of the dense layer that it is."""
    channels, axes = layer.convolution.in_channels, layer.convolution.axes
    if x.ndim != 3 + axes or x.shape[2] != channels:
        expected = f"(T, B, {channels}, {', '.join(('H', 'W') if axes == 2 else ('L',))})"
        raise ValueError(f"inputs: expected shape {expected} for layer {layer.name!r}, got {x.shape}")
    size = x.shape[3:]
    shape = (*x.shape[:2], layer.convolution.out_channels, *layer.convolution.output_size(size))
    spikes, v = outputs(layer.convolution.unrolled(layer.layer.params, size, "inputs"), x.reshape(*x.shape[:2], -1))
    return None if spikes is None else spikes.reshape(shape), v.reshape(shape)


def check_flat(network: Network, who: str) -> None:
    """Raise ValueError for layers over images, of which `who` has none."""
    for layer in network.layers:
        if isinstance(layer, OF_IMAGES):
            raise ValueError(
                f"layer {layer.name!r}: expected layers that take lines (T, B, M), as {who} has them, got a "
                f"{type(layer).__name__} over images; convert(net, to='reference', unrolled=(C, H, W)), or hetsyn "
                "convert --unrolled C,H,W, gives the dense ones that they are on images of that shape"
            )


def check_undelayed(layer: HetSynLayer, who: str) -> None:
    """Raise ValueError, naming the layer, where its synapses have delays, of which `who` has none."""
    try:
        layer.params.refuse_delays(who)
    except ValueError as error:
        raise ValueError(f"layer {layer.name!r}: {error}") from error


def _check_images(layers: tuple[Layer, ...]) -> None:
    """Raise ValueError where lines come to a layer over images, images to another, or of other channels."""
    before: int | None = None  # axes of the images, 0 of lines; None: not known yet
    channels: int | None = None
    for layer in layers:
        if isinstance(layer, HetSynConv | Pool):
            axes = layer.convolution.axes if isinstance(layer, HetSynConv) else len(layer.kernel_size)
            if before not in (None, axes):
                raise ValueError(f"layer {layer.name!r}: expected images of {axes} axes in front of it, got others")
            before = axes
        elif isinstance(layer, Flatten):
            before, channels = 0, None
        elif not isinstance(layer, Dropout):
            if before:
                raise ValueError(f"layer {layer.name!r}: expected a Flatten between it and images, got none")
            before = 0
        if isinstance(layer, HetSynConv):
            if channels not in (None, layer.convolution.in_channels):
                expected = f"{channels} channels, as come out before it"
                raise ValueError(f"layer {layer.name!r}: expected {expected}, got {layer.convolution.in_channels}")
            channels = layer.convolution.out_channels


# ---- what a layer may be made of -----------------------------------------------------------------------------------


def check_name(name: Any) -> None:
    """Raise ValueError where a layer's name is none that a line can show."""
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ValueError(f"name: expected a printable text, got {name!r}")


def _check_kind(name: str, value: Any, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise ValueError(f"{name}: expected {names}, got {type(value).__name__}")


def _check_among(name: str, value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")


def _check_learned(learned: Any, known: tuple[str, ...]) -> None:
    if not isinstance(learned, frozenset) or not learned <= set(known):
        raise ValueError(f"learned: expected a frozenset of {', '.join(known)}, got {learned!r}")


def _codebook_of(layer: HetSynLayer) -> Codebook | None:
    """The codebook of a layer that has one, as arrays. Raises ValueError where its decays are not those of the params.

    Whoever changes the share of a layer, or with it the decays, need not think of the codebook.
    """
    if layer.share != "codebook":
        return None
    full = layer.params.expanded()
    if layer.codebook is None:
        return exact(full.decay, full.recurrent_decay, full.decay.dtype)
    decays = as_array("codebook.decays", layer.codebook.decays, full.decay.dtype)
    if decays.ndim != 1 or not DECAY.holds(decays).all():
        raise ValueError(f"codebook.decays: expected shape (K,) and {DECAY.expected}, got {describe_values(decays)}")
    indices: list[Any] = []
    for name, index in zip(SYNAPTIC, layer.codebook[1:], strict=True):
        decay = getattr(full, name)
        check_index(f"codebook.{INDICES[name]}", index, decay, len(decays))
        if decay is not None and not np.array_equal(decays[index], decay):
            raise ValueError(f"codebook.{INDICES[name]}: expected the decays of params, got others")
        indices.append(None if index is None else np.asarray(index, np.int32))
    return Codebook(decays, *indices)


def _check_stored(layer: HetSynLayer) -> None:
    """Raise ValueError unless what is stored can be the tensors that such a layer trains in the place of its decays."""
    tied: tuple[str, ...] = ("recurrent_decay", "reset_decay") if layer.tie_reset else ()
    if layer.codebook is not None:
        tied = ("recurrent_decay",)
    has = [name for name in DECAYS if getattr(layer.params, name) is not None and name not in tied]
    for name, value in layer.stored.items():
        if name not in has or layer.parametrization == "decay":
            expected = f"decays that are trained as tau or log tau, of {', '.join(has)}"
            raise ValueError(f"stored: expected {expected}, got {name!r} with {layer.parametrization!r}")
        decay, full = getattr(layer.params, name), full_shape(name, layer.params.weight)
        if name in SYNAPTIC and layer.codebook is not None:
            decay = layer.codebook.decays
            full = decay.shape
        array = as_array(f"stored {name}", value, decay.dtype)
        trained = {"neuron": full[:1], "layer": ()}.get(layer.share, full) if name in SYNAPTIC else decay.shape
        if array.shape != trained:
            raise ValueError(f"stored {name}: expected shape {trained} with share={layer.share!r}, got {array.shape}")
        array, decay = expand(array, full), expand(decay, full)
        means = np.isfinite(array) | ((array == inf) & (decay == 1)) | ((array == -inf) & (decay == 0))
        if not means.all():  # an infinite tau is a decay of 1 and nothing else
            raise ValueError(f"stored {name}: expected finite values for decays between 0 and 1, got others")


def outputs(params: HetSynParams, inputs: ArrayLike) -> tuple[Array | None, Array]:
    """Spikes (T, B, N), None for a readout, and v (T, B, N) of a layer on inputs (T, B, M), from zeros.

    They are those of `reference.run`, made a piece of time after another: it keeps every state of its steps.
    """
    x = host_array("inputs", inputs)
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
