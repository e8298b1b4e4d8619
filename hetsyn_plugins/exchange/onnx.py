"""Networks as ONNX models: one step with its states in and out, or a whole sequence as a Scan over such steps.

    inputs                     (B, M), or (T, B, M) of a sequence
    LAYER.STATE                (B, ...) of each HetSyn layer, in and, as next.LAYER.STATE, out: current (B, N, M),
                               recurrent_current (B, N, N), reset, adaptation, spikes (B, N), where the layer has them
    spikes, v                  (B, N), or (T, B, N), of the last HetSyn layer; no spikes of a readout

All are float32 or float64, as the network's weights; B and T are free. A fresh start is zeros. Written from plain data
by the `onnx` library, operation for operation as `core.reference.advance`; nothing is traced.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hetsyn_plugins.core.fields import ARRAYS, Array
from hetsyn_plugins.core.files import write_bytes
from hetsyn_plugins.core.network import AlwaysOn, HetSynLayer, Linear, Network, check_flat, check_undelayed
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.validation import state_shapes

OPSET, IR_VERSION = 17, 8
STATES = ("current", "recurrent_current", "reset", "adaptation", "spikes")
INPUTS, NEXT, BODY = "inputs", "next.", "step."


def write(net: Any, path: str | os.PathLike[str], *, sequence: bool = False) -> None:
    """Write a network as an ONNX model of opset 17, whole or not at all.

    net        a Network, or what `convert` takes
    sequence   a model of (T, B, M) instead of one step

    Raises ValueError as `convert` does, ImportError where the onnx library is missing (`hetsyn_plugins[onnx]`).
    """
    write_bytes(Path(path), model(net, sequence=sequence).SerializeToString())


def model(net: Any, *, sequence: bool = False) -> Any:
    """The same as an `onnx.ModelProto`, checked by onnx's own checker."""
    onnx = _library()
    network = net if isinstance(net, Network) else _convert(net)
    graph = _scan(onnx, network) if sequence else _Step(onnx, network).graph("step")
    made = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], producer_name="hetsyn_plugins"
    )
    made.ir_version = IR_VERSION
    onnx.checker.check_model(made, full_check=True)
    return made


def _scan(onnx: Any, network: Network) -> Any:
    """The graph of a sequence: a Scan whose body is a step."""
    step = _Step(onnx, network, BODY)
    inputs, outputs = step.faces(steps=("T",))
    names = [[value.name for value in side] for side in (inputs, outputs)]
    node = onnx.helper.make_node("Scan", *names, num_scan_inputs=1, body=step.graph("step"))
    return onnx.helper.make_graph([node], "sequence", inputs, outputs)


def _states(layer: HetSynLayer) -> dict[str, list[Any]]:
    """Name -> shape of the states of a layer, with "B" for the batch."""
    check_undelayed(layer, "an ONNX file")
    fields = {name: getattr(layer.params, name) for name in ARRAYS}
    shapes = state_shapes(fields, layer.params.spiking, 1)
    present = ((name, shape) for name, shape in shapes.items() if name in STATES and shape is not None)
    return {f"{layer.name}.{name}": ["B", *shape[1:]] for name, shape in present}


def _library() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ImportError("onnx: expected the onnx library, got none: pip install 'hetsyn_plugins[onnx]'") from error
    return onnx


def _convert(net: Any) -> Network:
    from hetsyn_plugins.exchange.conversion import convert  # plain data need no torch

    network: Network = convert(net, to="reference")
    return network


class _Step:
    """The nodes of one step of a network, and the numbers that they use.

    prefix   of the names of inputs and outputs: those of a body of a Scan must not be those around it
    """

    def __init__(self, onnx: Any, network: Network, prefix: str = "") -> None:
        check_flat(network, "ONNX here")
        layers = [layer for layer in network.layers if isinstance(layer, HetSynLayer)]
        if not layers:
            raise ValueError("net: expected at least one HetSyn layer, got none")
        self.onnx, self.network, self.last, self.prefix = onnx, network, layers[-1], prefix
        self.dtype = max((layer.params.weight.dtype for layer in layers), key=lambda dtype: dtype.itemsize)
        self.type = onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.names = 0
        first = next(layer for layer in network.layers if isinstance(layer, (HetSynLayer, Linear)))
        self.lines = first.widths[0] - sum(
            isinstance(layer, AlwaysOn) for layer in network.layers[: network.layers.index(first)]
        )
        self.states = {name: shape for layer in layers for name, shape in _states(layer).items()}
        self.outputs = ["spikes", "v"] if self.last.params.spiking else ["v"]
        self._run()

    def graph(self, name: str) -> Any:
        """The graph of a step."""
        inputs, outputs = self.faces(self.prefix)
        return self.onnx.helper.make_graph(self.nodes, name, inputs, outputs, self.constants)

    def faces(self, prefix: str = "", steps: tuple[str, ...] = ()) -> tuple[list[Any], list[Any]]:
        """Inputs and outputs by name and shape; of a sequence those without the states have the steps in front."""
        neurons = self.last.widths[1]
        states = [(name, shape) for name, shape in self.states.items()]
        inputs = [*states, (INPUTS, [*steps, "B", self.lines])]
        after = [(NEXT + name, shape) for name, shape in states]
        outputs = [*after, *((name, [*steps, "B", neurons]) for name in self.outputs)]
        info = self.onnx.helper.make_tensor_value_info
        sides = ([info(prefix + name, self.type, shape) for name, shape in side] for side in (inputs, outputs))
        return next(sides), next(sides)

    # ---- a step ----

    def _run(self) -> None:
        """Add the nodes of all layers."""
        x = self.prefix + INPUTS
        for layer in self.network.layers:
            if isinstance(layer, HetSynLayer):
                x = self._neurons(layer, x)
            elif isinstance(layer, Linear):
                x = self._add("MatMul", x, self._number(layer.weight.T))
                x = x if layer.bias is None else self._add("Add", x, self._number(layer.bias))
            elif isinstance(layer, AlwaysOn):
                first = self._add("Slice", x, self._whole(0), self._whole(1), self._whole(1))
                one = self._add("Add", self._add("Mul", first, self._number(0.0)), self._number(1.0))
                x = self._add("Concat", x, one, axis=1)

    def _neurons(self, layer: HetSynLayer, x: str) -> str:
        """The nodes of `core.reference.advance`; returns the name of what the layer gives."""
        p: HetSynParams = layer.params.expanded()
        name, fired = f"{self.prefix}{layer.name}", f"{self.prefix}{layer.name}.spikes"
        v = self._currents(f"{name}.current", p.decay, p.weight, x)
        if p.bias is not None:
            v = self._add("Add", v, self._number(p.bias))
        if p.recurrent_weight is not None:
            assert p.recurrent_decay is not None  # the one with the other
            state = f"{name}.recurrent_current"
            v = self._add("Add", v, self._currents(state, p.recurrent_decay, p.recurrent_weight, fired))
        for state, decay, kick in (
            ("reset", p.reset_decay, p.threshold),
            ("adaptation", p.adaptation_decay, p.adaptation_strength),
        ):
            if decay is not None:
                assert kick is not None  # likewise
                v = self._add(
                    "Sub", v, self._leak(f"{name}.{state}", decay, self._add("Mul", self._number(kick), fired))
                )
        if layer is self.last:
            self._add("Identity", v, into=f"{self.prefix}v")
        if not p.spiking:
            return v
        above = self._add("Greater", v, self._number(p.threshold))
        spikes = self._add("Cast", above, into=self._next(fired), to=self.type)
        if layer is self.last:
            self._add("Identity", spikes, into=f"{self.prefix}spikes")
        return spikes

    def _currents(self, state: str, decay: Array, weight: Array, x: str) -> str:
        """I' = r I + w x, a synapse each, and the sum over the lines (B, N)."""
        lines = self._add("Unsqueeze", x, self._whole(1))
        current = self._leak(state, decay, self._add("Mul", self._number(weight), lines))
        return self._add("ReduceSum", current, self._whole(2), keepdims=0)

    def _leak(self, state: str, decay: Array, kick: str) -> str:
        """The next state: r times this one, and what comes in."""
        left = self._add("Mul", self._number(decay), state)
        return self._add("Add", left, kick, into=self._next(state))

    def _next(self, state: str) -> str:
        return f"{self.prefix}{NEXT}{state.removeprefix(self.prefix)}"

    # ---- nodes ----

    def _add(self, kind: str, *inputs: str, into: str = "", **options: Any) -> str:
        """A node; returns the name of its output."""
        output = into or self._name()
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], **options))
        return output

    def _name(self) -> str:
        self.names += 1
        return f"{self.prefix}_{self.names}"

    def _number(self, value: Any) -> str:
        return self._constant(np.asarray(value, self.dtype))

    def _whole(self, value: int) -> str:
        return self._constant(np.array([value], np.int64))

    def _constant(self, value: np.ndarray) -> str:
        name = self._name()
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name
