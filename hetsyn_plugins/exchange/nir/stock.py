"""Stock nodes of NIR as layers: each where HetSyn, or a Linear, is exactly that; refused by name and type where not.

A neuron's node is a sum of exponential paths (`membranes.py`), and so is a HetSyn neuron. A LIF's reset to v_reset is
no case of HetSyn's, unless the membrane forgets (tau = dt), where it does nothing. But snnTorch exports its neurons
that subtract, which are its default, as LIF with v_reset = 0: with reset="subtract" a file is read as what was exported
there, v[t] = d v[t-1] + ... - theta z[t-1].

Weights in front go into the layer; a constant that is filtered (the bias of an Affine, v_leak) is the weight of an
always-on line; two paths are two synapses from each line. Conv2d and pooling become a Linear on what comes in, (C, H,
W) in one row.
"""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.file_format import FileFormatError, from_check
from hetsyn_plugins.core.memory import size_text
from hetsyn_plugins.core.network import AlwaysOn, HetSynLayer, Layer, Linear
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.validation import checked_dt
from hetsyn_plugins.exchange.nir.membranes import NEURONS, Membrane, each, membrane_of, numbers
from hetsyn_plugins.exchange.nir.nodes import Node
from hetsyn_plugins.exchange.nir.writing import LARGEST

RESETS = ("to_value", "subtract")
PLANES = ("Conv2d", "AvgPool2d", "SumPool2d")
TIMELESS = ("I", "IF", "Threshold")  # neurons for which no step is needed


class Step(NamedTuple):
    """A node on the way from input to output, where it stands, and the weights by which its spikes come back to it."""

    name: str
    field: str
    node: Node
    back: Node | None = None


class Stock:
    """Stock nodes as they come, and the layers that they make together."""

    def __init__(self, path: pathlib.Path, dt: float | None, reset: str, shape: tuple[int, ...] | None) -> None:
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
        weight = numbers(step.node, "weight")
        if weight.ndim != 2:
            raise ValueError(f"weight: expected shape (N, M), got {weight.shape}")
        self._linear(step.name, weight, numbers(step.node, "bias") if "bias" in step.node else None)
        self.shape = None

    def _linear(self, name: str, weight: Array, bias: Array | None) -> None:
        if self.waiting is not None:
            self.made.append(self.waiting)
        some = bias is not None and bias.any()  # for readers that know Affine alone, zeros are written
        self.waiting = Linear(name, weight, bias.astype(weight.dtype) if some and bias is not None else None)

    def _plane(self, step: Step) -> None:
        """Conv2d or pooling as the matrix that it is: what comes out for each number that comes in."""
        if self.shape is None or len(self.shape) != 3:
            raise ValueError("input: expected (C, H, W), as the graph's Input says it, got none")
        from hetsyn_plugins.exchange.nir.planes import matrix_of  # nothing else here needs torch

        weight = numbers(step.node, "weight") if step.node["type"] == "Conv2d" else None
        matrix, out = matrix_of(step.node, weight, self.shape, LARGEST)
        bias = None
        if "bias" in step.node:
            bias = np.repeat(each(step.node, "bias", out[0]), int(np.prod(out[1:])))
        self._linear(step.name, matrix, bias)
        self.shape = out

    # ---- neurons ----

    def _neuron(self, step: Step) -> None:
        """The layer that a neuron is, with the weights in front of it and those that lead back."""
        if self.dt is None and step.node["type"] not in TIMELESS:
            raise ValueError(
                "dt: expected the step in seconds with which its time constants are taken (snnTorch writes for 1e-4, "
                "Norse for 1e-3), got none"
            )
        weight, bias = self._in_front(step)
        membrane = membrane_of(step.node, len(weight), self.dt or 1.0)
        if membrane.resets and self.reset != "subtract":
            raise ValueError(
                f"expected a neuron that forgets (tau = dt) or does not spike, got a {step.node['type']} that sets v "
                "to v_reset, which no HetSyn neuron does; reset='subtract' reads it as one that subtracts its "
                "threshold, which snnTorch exports so"
            )
        back, constant = _back(step, membrane, weight.dtype)
        self._append(step.name, membrane, weight, bias + constant, back)
        if self.shape is not None and int(np.prod(self.shape)) != len(weight):
            self.shape = None

    def _in_front(self, step: Step) -> tuple[Array, Array]:
        """The weights of what waits, (N, M), and their bias, (N,); without such every line goes to its neuron."""
        if self.waiting is not None:
            weight, bias = self.waiting.weight, self.waiting.bias
            self.waiting = None
            return weight, np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
        sizes = [np.size(value) for name, value in step.node.items() if name not in ("type", "metadata")]
        n = int(np.prod(self.shape)) if self.shape is not None else max(sizes, default=1)
        if n * n * 4 > LARGEST:
            got = f"{n:,}: {size_text(n * n * 4)} of weights"
            raise ValueError(f"expected fewer neurons without weights in front of them, got {got}")
        return np.eye(n, dtype=np.float32), np.zeros(n)

    def _append(self, name: str, membrane: Membrane, weight: Array, bias: Array, back: dict[str, Any]) -> None:
        """Add the layer of a membrane behind weights (N, M) and their bias (N,)."""
        dtype, m = weight.dtype, weight.shape[1]
        parts = [gain[:, None] * np.column_stack([weight, bias]) for _, gain in membrane.paths]
        parts[-1][:, m] += membrane.leak
        if any(part[:, m].any() for part in parts):
            self.made.append(AlwaysOn(f"{name}_always_on"))
            m += 1
        weight = np.hstack([part[:, :m] for part in parts])
        decay: Any = membrane.paths[-1].decay
        shared: Any = decay[0] if (decay == decay[0]).all() else decay
        share = "neuron" if np.ndim(shared) else "layer"
        synaptic = shared
        if len(parts) > 1:  # both synapses of a line
            self.made.append(Linear(f"{name}_twice", np.vstack([np.eye(m, dtype=dtype)] * 2), learned=frozenset()))
            synaptic = np.repeat(np.column_stack([path.decay for path in membrane.paths]), m, axis=1)
            share = "synapse"
        params = HetSynParams(
            weight.astype(dtype),
            synaptic.astype(dtype),
            reset_decay=shared.astype(dtype) if membrane.resets else None,
            threshold=1.0 if membrane.threshold is None else membrane.threshold.astype(dtype),
            bias=membrane.bias.astype(dtype) if membrane.bias.any() else None,
            spiking=membrane.threshold is not None,
            **back,
        )
        tied = membrane.resets and share != "synapse"
        # the reset of stock neurons has no gradient
        layer = HetSynLayer(name, params, dt=self.dt, share=share, tie_reset=tied, detach_reset=membrane.resets)
        self.made.append(layer)


def _back(step: Step, membrane: Membrane, dtype: Any) -> tuple[dict[str, Any], Array]:
    """The recurrent fields of weights that lead back, none without; and the constant, (N,), that they add."""
    n = len(membrane.leak)
    if step.back is None:
        return {}, np.zeros(n)
    if len(membrane.paths) > 1:
        raise ValueError(
            "expected one time constant before weights that lead back, got two: such a spike is filtered twice"
        )
    weight = numbers(step.back, "weight")
    if weight.shape != (n, n):
        raise ValueError(f"weights that lead back: expected shape ({n}, {n}), got {weight.shape}")
    decay, gain = membrane.paths[0]
    shared: Any = decay[0] if (decay == decay[0]).all() else decay
    fields = {"recurrent_weight": (gain[:, None] * weight).astype(dtype), "recurrent_decay": shared.astype(dtype)}
    return fields, each(step.back, "bias", n) if "bias" in step.back else np.zeros(n)
