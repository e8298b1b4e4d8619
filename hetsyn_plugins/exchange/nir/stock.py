"""Stock nodes of NIR as layers: each where HetSyn, or a Linear, is exactly that; refused by name and type where not.

With Euler steps of dt, as the readers of NIR take them, d = 1 - dt / tau:

    LI        v[t] = d v[t-1] + dt/tau (r x[t] + v_leak)              a readout with one decay a neuron
    LIF       the same, z = v > theta; then v = v_reset                a LIF; see below
    CubaLIF   i[t] = d_syn i[t-1] + dt/tau_syn w_in x[t], and LIF of r i[t], whose own d is d_mem
    Threshold z = x > theta

A LIF's reset to v_reset is no case of HetSyn's, unless the membrane forgets (tau = dt), where it does nothing. But
snnTorch exports its neurons that subtract, which are its default, as LIF with v_reset = 0: with reset="subtract" a file
is read as what was exported there, v[t] = d v[t-1] + ... - theta z[t-1]. Linear weights in front go into the layer; a
constant that is filtered (the bias of an Affine, v_leak) is the weight of an always-on line. Conv2d and pooling become
a Linear on what comes in, (C, H, W) in one row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.file_format import FileFormatError, from_check
from hetsyn_plugins.core.memory import size_text
from hetsyn_plugins.core.network import AlwaysOn, HetSynLayer, Layer, Linear
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.validation import checked_dt
from hetsyn_plugins.exchange.nir.nodes import Node
from hetsyn_plugins.exchange.nir.planes import matrix_of
from hetsyn_plugins.exchange.nir.writing import LARGEST

RESETS = ("to_value", "subtract")
NEURONS = ("LI", "LIF", "CubaLI", "CubaLIF", "Threshold")
PLANES = ("Conv2d", "AvgPool2d", "SumPool2d")


class Step(NamedTuple):
    """A node on the way from input to output, where it stands, and the weights by which its spikes come back to it."""

    name: str
    field: str
    node: Node
    back: Node | None = None


class Membrane(NamedTuple):
    """What a neuron's node comes to: v[t] = decay v[t-1] + gain x[t] + drive, each (N,); bias is added to v unfiltered.

    threshold   (N,), None: no spikes       resets   its spikes do something to v
    """

    decay: Array
    gain: Array
    drive: Array
    bias: Array
    threshold: Array | None
    resets: bool


class Stock:
    """Stock nodes as they come, and the layers that they make together."""

    def __init__(self, path: Path, dt: float | None, reset: str, shape: tuple[int, ...] | None) -> None:
        if reset not in RESETS:
            raise ValueError(f"reset: expected one of {', '.join(RESETS)}, got {reset!r}")
        self.path, self.dt, self.reset = path, None if dt is None else checked_dt(dt), reset
        self.made: list[Layer] = []
        self.waiting: Linear | None = None  # in front of a neuron it goes into its layer
        self.shape = shape  # of what comes in, for what is in planes

    def layers(self) -> list[Layer]:
        """What the nodes since the last call make."""
        made = [*self.made, *([] if self.waiting is None else [self.waiting])]
        self.made, self.waiting = [], None
        return made

    def add(self, step: Step) -> None:
        """Take the next node. Raises FileFormatError, naming it, where there is no counterpart."""
        kind = step.node["type"]
        try:
            if kind in ("Linear", "Affine"):
                self._weights(step)
            elif kind in NEURONS:
                self._neuron(step)
            elif kind in PLANES:
                self._plane(step)
            elif kind == "Flatten":
                self.shape = None if self.shape is None else (int(np.prod(self.shape)),)
            else:
                known = ", ".join(("Linear", "Affine", *PLANES, "Flatten", *NEURONS))
                raise ValueError(f"expected a node that a layer here is equal to ({known}), got a {kind}")
        except FileFormatError:
            raise
        except ValueError as error:
            raise from_check(self.path, error, field=step.field) from error

    # ---- weights ----

    def _weights(self, step: Step) -> None:
        weight = _numbers(step.node, "weight")
        if weight.ndim != 2:
            raise ValueError(f"weight: expected shape (N, M), got {weight.shape}")
        self._linear(step.name, weight, _numbers(step.node, "bias") if "bias" in step.node else None)

    def _linear(self, name: str, weight: Array, bias: Array | None) -> None:
        if self.waiting is not None:
            self.made.append(self.waiting)
        bias = bias if bias is not None and bias.any() else None  # who reads Affine alone is written zeros
        self.waiting, self.shape = Linear(name, weight, None if bias is None else bias.astype(weight.dtype)), None

    def _plane(self, step: Step) -> None:
        """Conv2d or pooling as the matrix that it is: what comes out for each number that comes in."""
        if self.shape is None or len(self.shape) != 3:
            raise ValueError("input: expected (C, H, W), as the graph's Input says it, got none")
        weight = _numbers(step.node, "weight") if step.node["type"] == "Conv2d" else None
        matrix, out = matrix_of(step.node, weight, self.shape, LARGEST)
        bias = None
        if "bias" in step.node:
            bias = np.repeat(_each(step.node, "bias", out[0]), int(np.prod(out[1:])))
        self._linear(step.name, matrix, bias)
        self.shape = out

    # ---- neurons ----

    def _neuron(self, step: Step) -> None:
        """The layer that a neuron is, with the weights in front of it and those that lead back."""
        weight, bias = self._in_front(step)
        n, dtype = len(weight), weight.dtype
        membrane = _membrane(step.node, n, self._dt(step.node))
        if membrane.resets and self.reset != "subtract":
            raise ValueError(
                f"expected a neuron that forgets (tau = dt) or does not spike, got a {step.node['type']} that sets v "
                "to v_reset, which no HetSyn neuron does; reset='subtract' reads it as one that subtracts its "
                "threshold, which snnTorch exports so"
            )
        drive = membrane.drive + membrane.gain * bias
        back = self._back(step, n)
        if back is not None:
            drive = drive + membrane.gain * back.bias
        weight = membrane.gain[:, None] * weight
        if drive.any():
            self.made.append(AlwaysOn(f"{step.name}_always_on"))
            weight = np.column_stack([weight, drive])
        shared: Any = membrane.decay[0] if (membrane.decay == membrane.decay[0]).all() else membrane.decay
        params = HetSynParams(
            weight.astype(dtype),
            shared.astype(dtype),
            reset_decay=shared.astype(dtype) if membrane.resets else None,
            threshold=1.0 if membrane.threshold is None else membrane.threshold.astype(dtype),
            recurrent_weight=None if back is None else (membrane.gain[:, None] * back.weight).astype(dtype),
            recurrent_decay=None if back is None else shared.astype(dtype),
            bias=membrane.bias.astype(dtype) if membrane.bias.any() else None,
            spiking=membrane.threshold is not None,
        )
        share = "neuron" if np.ndim(shared) else "layer"
        layer = HetSynLayer(
            step.name, params, dt=self.dt, share=share, tie_reset=membrane.resets, detach_reset=membrane.resets
        )
        self.made.append(layer)
        if self.shape is not None and int(np.prod(self.shape)) != n:
            self.shape = None

    def _in_front(self, step: Step) -> tuple[Array, Array]:
        """The weights of what waits, (N, M), and their bias, (N,); without such every line goes to its neuron."""
        if self.waiting is not None:
            weight, bias = self.waiting.weight, self.waiting.bias
            self.waiting = None
            return weight, np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
        sizes = [np.size(value) for name, value in step.node.items() if name not in ("type", "metadata")]
        n = int(np.prod(self.shape)) if self.shape is not None else max(sizes)
        return np.eye(_small(n, n, np.float32)[0], dtype=np.float32), np.zeros(n)

    def _back(self, step: Step, n: int) -> Back | None:
        """The weights that lead back, (N, N), and their bias, (N,)."""
        if step.back is None:
            return None
        weight = _numbers(step.back, "weight")
        if weight.shape != (n, n):
            raise ValueError(f"weights that lead back: expected shape ({n}, {n}), got {weight.shape}")
        if "tau_syn" in step.node:
            raise ValueError(
                "expected a LIF before weights that lead back, got a CubaLIF, whose spikes it filters twice"
            )
        return Back(weight, _each(step.back, "bias", n) if "bias" in step.back else np.zeros(n))

    def _dt(self, node: Node) -> float:
        if self.dt is None and node["type"] != "Threshold":
            raise ValueError(
                "dt: expected the step in seconds with which these time constants are taken (snnTorch writes for 1e-4, "
                "Norse for 1e-3), got none"
            )
        return 1.0 if self.dt is None else self.dt


class Back(NamedTuple):
    """Weights (N, N) by which spikes come back, and their bias (N,)."""

    weight: Array
    bias: Array


def _membrane(node: Node, n: int, dt: float) -> Membrane:
    """The arithmetic of a neuron's node with Euler steps of dt."""
    zero, kind = np.zeros(n), node["type"]
    if kind == "Threshold":
        return Membrane(zero, zero + 1, zero, zero, _each(node, "threshold", n), False)
    threshold = _each(node, "v_threshold", n) if kind.endswith("LIF") else None
    step = dt / _tau(node, "tau_mem" if "Cuba" in kind else "tau", n, dt)
    decay, r, leak = 1 - step, _each(node, "r", n), _each(node, "v_leak", n)
    if kind.endswith("LIF") and "v_reset" in node and _each(node, "v_reset", n).any() and decay.any():
        raise ValueError(f"v_reset: expected 0, got {node['v_reset']}")
    if "Cuba" not in kind:
        return Membrane(decay, step * r, step * leak, zero, threshold, threshold is not None and bool(decay.any()))
    synapse = dt / _tau(node, "tau_syn", n, dt)
    gain = synapse * (_each(node, "w_in", n) if "w_in" in node else 1.0) * step * r
    if not decay.any():  # v = r i: what leaks is the synapse
        return Membrane(1 - synapse, gain, zero, leak, threshold, False)
    if (synapse == 1).all():
        return Membrane(decay, gain, step * leak, zero, threshold, threshold is not None)
    raise ValueError("tau_syn, tau_mem: expected one of them to be dt, got two that filter one behind the other")


def _tau(node: Node, name: str, n: int, dt: float) -> Array:
    """A time constant of at least dt: shorter ones have no Euler step."""
    tau = _each(node, name, n)
    if not (tau >= dt * (1 - 1e-6)).all():
        raise ValueError(f"{name}: expected at least dt = {dt:g} s, got {tau.min():g}")
    return np.maximum(tau, dt)


def _each(node: Node, name: str, n: int) -> Array:
    """A field of a neuron's node in float64, (N,): one for all, or one each."""
    values = _numbers(node, name).astype(np.float64).ravel()
    if values.size not in (1, n):
        raise ValueError(f"{name}: expected 1 or {n} values, got {values.size}")
    return np.broadcast_to(values, (n,)).copy()


def _numbers(node: Node, name: str) -> Array:
    """A field of a node: finite numbers, in float32 where they are, else in float64."""
    value = node.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected numbers, got {'none' if value is None else value!r}")
    numbers: Array = value.astype(np.float32 if value.dtype.itemsize <= 4 and value.dtype.kind == "f" else np.float64)
    if not numbers.size or not np.isfinite(numbers).all():
        raise ValueError(f"{name}: expected finite numbers, got others or none")
    return numbers


def _small(n: int, m: int, dtype: Any) -> tuple[int, int]:
    """The shape of a matrix, if it is none that no reader should make."""
    size = n * m * np.dtype(dtype).itemsize
    if size > LARGEST:
        raise ValueError(f"expected what fits into a matrix of {size_text(LARGEST)}, got {n} x {m}: {size_text(size)}")
    return n, m
