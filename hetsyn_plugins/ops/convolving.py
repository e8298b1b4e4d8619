"""Layers whose neurons see patches: the dense neuron, with a row of the batch for every position of the output.

A neuron of channel n at a position sees the M lines under the kernel there through the weights and decays of its
channel. So a layer over images is the dense layer over their patches, and what an adapter's dense layer does holds here
too; `Convolving` is what lies between the two. Every position of every channel is a neuron with states of its own:

    what                          as users have it              as the op has it, of each group
    inputs                        (T, B, C, H, W)               (T, B P, M)
    v, spikes, reset, adaptation  (B, N, H', W')                (B P, N / groups)
    current                       (B, *weight's shape, H', W')  (B P, N / groups, M)
    past inputs, with delays      (max_delay, B, C, H, W)       (max_delay, B P, M)

States that a layer hands out are views of the op's (with groups, put together from theirs), and a step that gets them
back finds the op's again: so a loop of steps stays one loop (`steps.py`). Patches take T B P M numbers, k * k times
those of the images: large ones, and those of steps, which are many, are made anew for the backward pass.
The current, a state, takes B P N M.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hetsyn_plugins.core.autograd import transforming
from hetsyn_plugins.core.convolution import Convolution, checked_convolution, checked_size
from hetsyn_plugins.core.fields import STATE, HetSynState
from hetsyn_plugins.core.masks import as_mask
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.kernels import delays
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.ops import arguments, lif
from hetsyn_plugins.ops.arguments import ArgumentNames, Caller
from hetsyn_plugins.ops.convolution import Patching
from hetsyn_plugins.ops.dispatch import Way
from hetsyn_plugins.ops.layer import HetSynModule
from hetsyn_plugins.ops.steps import is_watched, mark_of, versions_of

AXES = {1: "L", 2: "H, W"}  # what the axes of an image are called
KERNELS = ("weight", "decay", "delay", "mask")  # the fields that have the kernel's shape
LARGE = 1 << 24  # numbers of a sequence's patches: to make them anew takes a tenth of the time of a training step


class Returned(NamedTuple):
    """What is known of a current that a step has returned: the state beside it, and what the op has in its place.

    state, versions   as images, and how often each was written to; without the current
    groups            each group's own state
    layer, layers     the layer, and each group's part of it
    """

    state: HetSynState
    versions: tuple[int, ...] | None
    groups: tuple[HetSynState, ...]
    layer: LayerTensors
    layers: tuple[LayerTensors, ...]

    @property
    def owner(self) -> Any:
        """As `steps.Mark.owner`."""
        mark = mark_of(self.groups[0].current)
        return None if mark is None else mark.owner

    def goes_on(self, state: HetSynState, layer: LayerTensors, way: Way) -> bool:
        """As `steps.Mark.goes_on`."""
        if layer is not self.layer or any(map(is_watched, state)) or versions_of(state) != self.versions:
            return False
        if any(a is not b for a, b in zip(state[1:], self.state[1:], strict=True)):
            return False
        marks = [mark_of(group.current) for group in self.groups]
        parts = zip(marks, self.groups, self.layers, strict=True)
        return all(mark is not None and mark.goes_on(group, part, way) for mark, group, part in parts)


_returned: Any = WeakTensorKeyDictionary()  # of currents, as images


class Convolving(HetSynModule):
    """A layer over images; stands before an adapter's dense layer among the bases, and gives it N and M.

    axes   of an image, beside its channels
    """

    axes: int
    convolution: Patching

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *arguments: Any,
        **options: Any,
    ) -> None:
        channels = in_channels, out_channels
        # before the dense layer's constructor, which makes tensors of this shape
        checked = checked_convolution(self.axes, channels, kernel_size, stride, padding, dilation, groups)
        self.convolution = Patching(*checked)
        n, m = self.convolution.sizes
        super().__init__(m, n, *arguments, **options)  # type: ignore[call-arg]  # the dense layer's

    @property
    def sequence_rank(self) -> int:  # type: ignore[override]  # a number, of dense layers
        return 3 + self.axes

    def shape_shown(self) -> str:
        return str(self.convolution)

    # ---- tensors of the kernel's shape

    def tensors(self) -> dict[str, Any]:
        fields = super().tensors()
        kernels = {name: t for name in KERNELS if (t := fields[name]) is not None and t.ndim > 2}
        return fields | {name: t.flatten(1) for name, t in kernels.items()}

    def start_values(self, values: Mapping[str, Any], **options: Any) -> dict[str, Tensor | None]:
        shape, names = self.convolution.weight_shape, options["names"]
        flat = {field: _flat(names[field], values.get(field), shape, field) for field in KERNELS}
        start = super().start_values({**values, **flat}, **options)
        kernels = {field: t for field in KERNELS if (t := start.get(field)) is not None and t.ndim == 2}
        return {**start, **{field: t.reshape(shape) for field, t in kernels.items()}}

    # ---- what comes in

    def checked_inputs(self, inputs: Any, check: bool | None, caller: Caller) -> Tensor:
        """Images (T, B, C, *size), or (B, C, *size) where the caller takes single steps."""
        arguments.refuse_forward_mode()
        name, weight = caller.names["inputs"], self.stored("weight")
        assert weight is not None  # every layer has one
        inputs = arguments.plain_tensor(inputs, name, caller.tuple_hint)
        channels, ranks = self.convolution.in_channels, [rank + self.axes for rank in caller.shapes]
        if inputs.ndim not in ranks or inputs.shape[-1 - self.axes] != channels:
            leading = {2: "B", 3: caller.first}
            shapes = " or ".join(f"({leading[rank]}, {channels}, {AXES[self.axes]})" for rank in caller.shapes)
            hint = self._hint(tuple(inputs.shape), caller)
            raise ValueError(f"{name}: expected shape {shapes}, got {tuple(inputs.shape)}{hint}")
        self.convolution.output_size(inputs.shape[-self.axes :])
        return arguments.checked_numbers(inputs, weight, check, caller)

    def _hint(self, shape: tuple[int, ...], caller: Caller) -> str:
        """What to do with inputs of a shape that does not fit, where it looks like a known one; with ";" before it."""
        channels, rank = self.convolution.in_channels, len(shape) - self.axes
        if rank == 1 and shape[0] == channels:
            return "; one image: x.unsqueeze(0)" if 2 in caller.shapes else "; one image: x[None, None]"
        if rank in (2, 3) and shape[-1 - self.axes] == channels:  # a step, a sequence
            return "; a step is x[t]: loop over them" if rank == 3 else "; one step of a sequence: x.unsqueeze(0)"
        if len(shape) in caller.shapes and shape[-1] % channels == 0:
            image = f"{channels}, {AXES[self.axes]}"
            return f"; an image is ({image}): x.unflatten(-1, ({image}))"
        return ""

    def soma_shape(self, x: Tensor) -> tuple[int, ...]:
        """(B, N, H', W')."""
        size = self.convolution.output_size(x.shape[-self.axes :])
        return (x.shape[-2 - self.axes], self.convolution.out_channels, *size)

    def beside_soma(self, per_neuron: Tensor) -> Tensor:
        """(N,) as (N, 1, 1)."""
        return per_neuron.reshape(-1, *[1] * self.axes) if per_neuron.ndim > 0 else per_neuron

    def checked_state(self, state: Any, layer: LayerTensors, x: Tensor, names: ArgumentNames) -> HetSynState:
        batch, _, *size = shape = self.soma_shape(x)
        past = None if layer.delay is None else (self.max_delay, *self.step_shape(x))
        if state is None:
            rows = arguments.checked_state(None, layer, batch * prod(size), names, self.max_delay)
            past_inputs = None if past is None else layer.weight.new_zeros(()).expand(past)
            if rows.current is None:  # in a graph zeros are no tensors
                return rows._replace(past_inputs=past_inputs)
            return self._images([rows], shape, past_inputs)
        of_rows = arguments.state_shapes(layer._asdict(), layer.threshold is not None, 1)
        shapes = {part: None if rows is None else shape for part, rows in of_rows.items()}
        shapes |= {"current": (batch, *self.convolution.weight_shape, *size), "past_inputs": past}
        return arguments.check_parts(state, shapes, layer.weight, names)

    # ---- between images and rows

    def _images(self, groups: Sequence[HetSynState], shape: tuple[int, ...], past_inputs: Tensor | None) -> HetSynState:
        """The state of every group, as the op has it, as one of images; v has this shape, past inputs are images."""
        of_groups = zip(STATE, zip(*groups, strict=True), strict=True)
        rows = {name: joined(parts, 1) for name, parts in of_groups if parts[0] is not None and name != "past_inputs"}
        images = {name: imaged(part.flatten(1), shape) for name, part in rows.items()}
        current = images.pop("current").unflatten(1, self.convolution.weight_shape)
        return HetSynState(current, **images, past_inputs=past_inputs)

    def _rows(self, state: HetSynState) -> tuple[HetSynState, ...]:
        """The state of every group, as the op has it, of one of images."""
        groups, (n, m) = self.convolution.groups, self.convolution.sizes
        parts: dict[str, Any] = dict.fromkeys(STATE, [None] * groups)
        for name, images in state._asdict().items():
            if images is None:
                continue
            if name == "past_inputs":
                parts[name] = list(map(self.convolution.patches, self.convolution.by_group(images)))
            elif name == "current":
                rows = flat_rows(images.flatten(1, -1 - self.axes), n * m)
                parts[name] = rows.unflatten(1, (n, m)).chunk(groups, 1)
            else:
                parts[name] = flat_rows(images, n).chunk(groups, 1)
        return tuple(HetSynState(*group) for group in zip(*parts.values(), strict=True))

    def _layers(self, layer: LayerTensors) -> tuple[LayerTensors, ...]:
        """The parts of a layer that are the groups'."""
        groups = self.convolution.groups
        if groups == 1:
            return (layer,)
        parts = [[None] * groups if t is None else t.chunk(groups) for t in layer]
        return tuple(LayerTensors(*group) for group in zip(*parts, strict=True))

    # ---- how it is run

    def mark_of(self, current: Any) -> Returned | None:
        if torch.compiler.is_compiling() or not isinstance(current, Tensor):
            return None
        found: Returned | None = _returned.get(current)
        return found

    def run_sequence(
        self, x: Tensor, layer: LayerTensors, state: HetSynState, way: Way, checked: str
    ) -> tuple[Tensor | None, Tensor, HetSynState]:
        shape, by_group = self.soma_shape(x), self.convolution.by_group(x)
        runs = []
        for images, part, start in zip(by_group, self._layers(layer), self._rows(state), strict=True):
            patches = self.convolution.patches(images)
            with remade(patches, self.convolution.patches, images) if patches.numel() > LARGE else nullcontext():
                runs.append(lif.run_sequence(patches, part, start, way, checked))
        spikes, v, finals = zip(*runs, strict=True)
        z = None if spikes[0] is None else imaged(joined(spikes, 2), shape)
        past_inputs, _ = delays.kept(state, x, None)
        return z, imaged(joined(v, 2), shape), self._images(finals, shape, past_inputs)

    def run_step(self, x: Tensor, layer: LayerTensors, state: HetSynState, way: Way, **options: Any) -> HetSynState:
        kept = self.mark_of(state.current)
        if kept is not None and kept.goes_on(state, layer, way):
            groups, layers = kept.groups, kept.layers
        else:
            groups, layers = self._rows(state), self._layers(layer)
        after = []
        for images, part, start in zip(self.convolution.by_group(x[None]), layers, groups, strict=True):
            patches = self.convolution.patches(images)[0]
            with remade(patches, self.convolution.patches, images):
                after.append(lif.run_step(patches, part, start, way, **options))
        past_inputs, _ = delays.kept(state, x[None], None)
        result = self._images(after, self.soma_shape(x), past_inputs)
        if mark_of(after[0].current) is not None:
            beside = result._replace(current=None)
            _returned[result.current] = Returned(beside, versions_of(result), tuple(after), layer, layers)
        return result

    # ---- plain data

    def to_params(self) -> HetSynParams:
        """Raises ValueError: which layer it is depends on the size of the inputs (`to_dense`)."""
        raise ValueError(
            f"{type(self).__name__}: a convolution's weights are no matrix; layer.to_dense(({AXES[self.axes]})) gives "
            "the parameters of the dense layer that it is on inputs of that size, and HetSynLeaky.from_params or "
            "HetSynLIF.from_params such a layer, for inputs that are flattened"
        )

    def of_a_position(self) -> HetSynParams:
        """The parameters of the neurons at one position: (N, M), kernels flattened."""
        return super().to_params()

    @classmethod
    def from_position(cls, params: HetSynParams, convolution: Convolution, **options: Any) -> Any:
        """The layer whose neurons have these parameters at each position; options as of the dense `from_params`."""
        dense: Any = super()
        return dense.from_params(params, _sizes=convolution, **options)

    def to_dense(self, input_size: Any) -> HetSynParams:
        """The dense layer that this one is on images of that size, H, W or L.

        Its inputs are the images (C, H, W) and its neurons (N, H', W'), both flattened; a mask leaves out what lies
        outside of the kernels. So it has N H' W' C H W weights.
        """
        size = checked_size("input_size", input_size, self.axes)
        self.convolution.output_size(size)
        return self.convolution.unrolled(self.of_a_position(), size)

    @classmethod
    def from_params(cls, *_: Any, **__: Any) -> Any:
        """Raises ValueError: parameters (N, M) are a dense layer's."""
        raise ValueError(
            f"{cls.__name__}: expected weights and decays as arguments, in the kernel's shape, got parameters (N, M) "
            "of a dense layer"
        )


def in_shape(fields: Mapping[str, Any], sizes: tuple[Any, ...]) -> dict[str, Any]:
    """Fields (N, M) as a layer of these sizes takes them: of a convolution in the kernel's shape."""
    if not isinstance(sizes, Convolution):
        return dict(fields)
    shape, kernels = sizes.weight_shape, {f: v for f in KERNELS if (v := fields.get(f)) is not None and v.ndim == 2}
    whole = {f: np.broadcast_to(v, sizes.sizes).reshape(shape) for f, v in kernels.items() if v.shape[1] > 1}
    one_a_channel = {f: v.reshape(-1) for f, v in kernels.items() if v.shape[1] == 1 and f != "weight"}
    return {**fields, **one_a_channel, **whole}


def remade(t: Tensor, make: Callable[[Tensor], Tensor], source: Tensor) -> AbstractContextManager[Any]:
    """In this block a graph keeps, in the place of the tensor t, which is make(source), the source.

    All that it keeps it keeps without its graph: an output that a node kept as it is would hold that very node, by a
    way that no collector sees, and with it all steps before.
    """
    if torch.compiler.is_compiling() or transforming() or not torch.is_grad_enabled():
        return nullcontext()
    place, shape, of_source = t.data_ptr(), t.shape, (source.detach(), source._version)

    def pack(saved: Tensor) -> tuple[bool, Tensor, int]:
        is_made = saved.data_ptr() == place and saved.shape == shape
        return (True, *of_source) if is_made else (False, saved.detach(), saved._version)

    def unpack(packed: tuple[bool, Tensor, int]) -> Tensor:
        is_made, kept, version = packed
        if kept._version != version:
            what = "inputs" if is_made else "tensors"
            raise RuntimeError(f"{what} of a convolution were modified by an inplace operation before its backward()")
        return make(kept).reshape(shape) if is_made else kept

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def joined(groups: Sequence[Tensor], dim: int) -> Tensor:
    """What the groups have, as one."""
    return groups[0] if len(groups) == 1 else torch.cat(tuple(groups), dim)


def imaged(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(..., B P, K) as (..., B, K, *size), where v has the shape (B, N, *size)."""
    batch, _, *size = shape
    return rows.reshape(*rows.shape[:-2], batch, *size, rows.shape[-1]).movedim(-1, -1 - len(size))


def flat_rows(images: Tensor, k: int) -> Tensor:
    """(B, K, *size) as (B P, K)."""
    return images.movedim(1, -1).reshape(-1, k)


def _flat(name: str, value: Any, shape: tuple[int, ...], field: str) -> Any:
    """A start value in the kernel's shape as (N, M); numbers, one decay a channel and initialisers as they are."""
    if value is None or (callable(value) and not isinstance(value, Tensor)):
        return value
    if field == "mask":
        value = as_mask(name, value)
    value = value if isinstance(value, Tensor) else np.asarray(value)
    allowed = [shape] if field in ("weight", "mask") else [shape, (), shape[:1]]
    if tuple(value.shape) not in allowed:
        raise ValueError(f"{name}: expected shape {' or '.join(map(str, allowed))}, got {tuple(value.shape)}")
    return value.reshape(shape[0], -1) if tuple(value.shape) == shape else value


def signature(dense: Callable[..., Any], without: Sequence[str] = ()) -> inspect.Signature:
    """What the constructor of a layer over images takes, its own words being *arguments and **options.

    dense    the dense layer, whose arguments follow but for its first two, M and N
    without  arguments that it does not have
    """
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = [p for p in inspect.signature(Convolving).parameters.values() if p.kind not in variable]
    rest = list(inspect.signature(dense).parameters.values())[2:]
    return inspect.Signature([*own, *(p for p in rest if p.name not in without)])
