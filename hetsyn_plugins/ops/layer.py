"""What the layers of all adapters share: their tensors as kernels take them, and the way to plain data and back.

An adapter's layer is a torch module with `HetSynModule` among its bases. What it adds is its framework's idiom: names,
layout, what a state is, when one is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hetsyn_plugins.core.codebook import different
from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.network import HetSynLayer
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.ops import arguments, lif, operators
from hetsyn_plugins.ops.arguments import ArgumentNames, Caller, check_finite, check_ranges, in_full
from hetsyn_plugins.ops.copies import Copied
from hetsyn_plugins.ops.dispatch import Way
from hetsyn_plugins.ops.foreign_inputs import NO_SCRIPT
from hetsyn_plugins.ops.lengths import Run, run_rows
from hetsyn_plugins.ops.steps import mark_of
from hetsyn_plugins.ops.trainable import check_tied, recompute, share_of, start_values, to_hetsyn_params


class Origin(NamedTuple):
    """What a layer's fields were made from: registered tensors, how often each was written to, and those of hooks."""

    registered: list[Tensor]
    versions: list[int]
    set_by_hooks: list[Tensor]

    def is_same(self, other: Any) -> bool:
        """Are the fields still those made from the other? What hooks set is another tensor each time: by its values."""
        if not isinstance(other, Origin) or self.versions != other.versions:
            return False
        if any(a is not b for a, b in zip(self.registered, other.registered, strict=True)):
            return False
        return all(map(torch.equal, self.set_by_hooks, other.set_by_hooks))


class HetSynModule(Copied):
    """A layer of HetSynLIF neurons, or a leaky readout, in some framework.

    A subclass gives `tensors()`, every field as the op takes it, and `stored(field)`, the tensor that is trained.

    spiking, recurrent   which kind of layer it is
    surrogate, detach_reset, backend, check   as in `hetsyn_plugins.ops.hetsyn_lif`
    batch_first          sequences are (B, T, M) in and (B, T, N) out, as in torch.nn.RNN
    has_delays           are there delays of synapses?
    max_delay            for how many steps states then keep inputs and spikes
    sequence_rank        how many axes a sequence has, which a step has one less of
    """

    has_delays: bool = False
    max_delay: int = 0
    spiking: bool
    recurrent: bool
    surrogate: Surrogate
    detach_reset: bool
    backend: str
    check: bool | None
    batch_first: bool = False
    sequence_rank: int = 3

    def tensors(self) -> dict[str, Any]:
        """Every field as the op takes it, in the shape that is trained; None where the layer has no such field."""
        raise NotImplementedError

    def stored(self, field: str) -> Tensor | None:
        """The tensor that is registered for a field, None where the layer has no such field."""
        raise NotImplementedError

    def registered(self) -> list[Tensor | None]:
        """All parameters and buffers that the fields are made from."""
        raise NotImplementedError

    def set_by_hooks(self) -> list[Tensor]:
        """Fields that are no parameter or buffer: what pruning's and weight_norm's hooks set anew before every call."""
        raise NotImplementedError

    def layer_tensors(self, names: ArgumentNames) -> LayerTensors:
        """Every field as a kernel takes it: in full, half types as float32; and who is known to share a decay.

        Raises ValueError, by these names, for a field that was replaced by one that does not fit.
        """
        layer = in_full(self.tensors(), self.spiking, names)
        # what is masked out decays by 0, which is none of a codebook's
        return layer if layer.is_masked else layer._replace(**self.codebook_tensors(layer.decay.dtype))

    def codebook_tensors(self, dtype: torch.dtype) -> dict[str, Any]:
        """The fields of `LayerTensors` that only a layer with a codebook has."""
        return {}

    def origin(self) -> Origin | None:
        """What the fields are made from just now; None where torch cannot tell whether it changes."""
        registered = [t for t in self.registered() if t is not None]
        try:
            return Origin(registered, [t._version for t in registered], self.set_by_hooks())
        except RuntimeError:  # tensors made in inference mode have no such count
            return None

    def step_layer(self, current: Any, names: ArgumentNames) -> tuple[LayerTensors, Origin | None]:
        """The layer for a step from this current: while nothing of it has changed, that of the loop it comes from.

        Raises ValueError for a part on another device than the weight.
        """
        if torch.compiler.is_compiling():
            return self.layer_tensors(names), None
        origin, mark = self.origin(), self.mark_of(current)
        if mark is not None and origin is not None and origin.is_same(mark.owner):
            return mark.layer, origin
        layer = self.layer_tensors(names)
        check_one_device(layer, names)
        if origin is not None and origin.set_by_hooks:  # which have just set them anew
            origin = self.origin()
        return layer, origin

    # ---- how the op sees the layer, which is otherwise where its neurons see no rows but patches (`convolving.py`)

    def shape_shown(self) -> str:
        """What `repr` says first: M and N."""
        weight = self.stored("weight")
        return ", ".join(map(str, reversed(weight.shape))) if weight is not None else ""  # also where it was flattened

    def start_values(self, values: Mapping[str, Any], **options: Any) -> dict[str, Tensor | None]:
        """As the function of that name."""
        return start_values(values, **options)

    def checked_inputs(self, inputs: Any, check: bool | None, caller: Caller) -> Tensor:
        """As the function of that name."""
        weight: Any = self.stored("weight")
        return arguments.checked_inputs(inputs, weight, check, caller)

    def soma_shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape of v after a step, (B, N), for inputs (T, B, M) or (B, M)."""
        weight: Any = self.stored("weight")
        return (x.shape[-2], len(weight))

    def step_shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape of the inputs of a step, (B, M)."""
        return tuple(x.shape[1 - self.sequence_rank :])

    def beside_soma(self, per_neuron: Tensor) -> Tensor:
        """What there is once a neuron, (N,), as it goes together with v."""
        return per_neuron

    def checked_state(self, state: Any, layer: LayerTensors, x: Tensor, names: ArgumentNames) -> HetSynState:
        """As the function of that name, for inputs x."""
        return arguments.checked_state(state, layer, x.shape[-2], names, self.max_delay)

    def mark_of(self, current: Any) -> Any:
        """As the function of that name: what has `state`, `owner`, `layer` and `goes_on` of a `steps.Mark`, or None."""
        return mark_of(current)

    def run_sequence(
        self, x: Tensor, layer: LayerTensors, state: HetSynState, way: Way, checked: str
    ) -> tuple[Tensor | None, Tensor, HetSynState]:
        """As the function of that name."""
        return lif.run_sequence(x, layer, state, way, checked)

    def run_step(self, x: Tensor, layer: LayerTensors, state: HetSynState, way: Way, **options: Any) -> HetSynState:
        """As the function of that name."""
        return lif.run_step(x, layer, state, way, **options)

    # ---- layouts

    def swapped(self, sequence: Tensor) -> Tensor:
        """A sequence from the user's layout to (T, B, ...), and back; a view."""
        return sequence.transpose(0, 1) if self.batch_first else sequence

    def speaking(self, caller: Caller) -> Caller:
        """The caller, with this layer's layout in its messages."""
        return caller._replace(first="B, T") if self.batch_first else caller

    def layout_shown(self) -> str:
        """What `repr` says of the layout, behind other options."""
        return ", batch_first=True" if self.batch_first else ""

    def checks_values(self, is_sequence: bool, lengths: Any = None) -> bool | None:
        """The `check` of `checked_inputs`: steps with check=True only, padded sequences in `run_rows`."""
        if not is_sequence:
            return bool(self.check)
        return self.check if lengths is None else False

    def run_rows(self, run: Callable[..., Run], x: Tensor, state: Any, lengths: Tensor | None, caller: Caller) -> Run:
        """`run(x, state)` over a sequence (T, B, M), each row for its own length where there are any (`lengths.py`)."""
        if lengths is None:
            return run(x, state)

        def checked(rows: Tensor, start: Any) -> Run:
            check_finite(rows, self.check, caller.names["inputs"])
            return run(rows, start)

        return run_rows(checked, x, state, lengths)

    def keeps_out_of_graph(self, lengths: Any, in_steps: bool) -> bool:
        """Must a call be left out of the graph that is being compiled? So are rows with lengths, which are data.

        in_steps  does it run step by step?

        Under torch.compile with fullgraph=True raises RuntimeError where a graph cannot hold the surrogate, or a step.
        """
        return operators.keeps_out_of_graph(self.surrogate, self.has_delays and in_steps) or lengths is not None

    def checked(self, names: ArgumentNames) -> str:
        """What a compiled graph has to look at, as in `operators.sequence`."""
        return operators.names_to_check(self.check, names)

    def way(self) -> Way:
        """How the op runs this layer."""
        return Way(self.surrogate, self.detach_reset, self.backend)

    def check_changed(self, layer: LayerTensors, names: ArgumentNames) -> None:
        """Raise ValueError for parameters out of range, looked at where they have changed since they were last.

        As all values, on the CPU, elsewhere with check=True only; by its operator in a compiled graph. Torch counts
        what is written to a tensor, so that an unchanged layer costs a look at the counts; what goes around them
        (`.data`) is seen with the next change.
        """
        if torch.compiler.is_compiling():
            return
        if layer.weight.device.type != "cpu":
            check_one_device(layer, names)  # no value is looked at
        if self.check is False or (self.check is None and layer.weight.device.type != "cpu"):
            return
        origin = self.origin()
        if origin is None or not origin.is_same(self.__dict__.get("_seen")):
            check_one_device(layer, names)
            check_ranges(layer._asdict(), names)
            self.__dict__["_seen"] = origin

    def without_graph(self) -> dict[str, Any]:
        return {name: value for name, value in super().without_graph().items() if name != "_seen"}

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script asks for first."""
        raise RuntimeError(NO_SCRIPT)

    def to_params(self) -> HetSynParams:
        """The layer's parameters as the core has them: decays bounded to [0, 1], half types as float32."""
        if isinstance(self, nn.Module):
            recompute(self)
        return to_hetsyn_params(self.tensors(), self.spiking, self.max_delay or None)

    def why_not_plain(self) -> str | None:
        """What of this layer plain data (`core.network.HetSynLayer`) has no place for; None where there is nothing."""
        return None


def check_one_device(layer: LayerTensors, names: ArgumentNames) -> None:
    """Raise ValueError for a part of a layer on another device than its weight: one that `.to` was called on alone."""
    device = layer.weight.device
    for field, tensor in zip(layer._fields, layer, strict=True):
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{names[field]}: expected on the weight's device, {device}, got {tensor.device}")


def options_from_params(
    params: HetSynParams, share: str | None, tie_reset: bool, clusters: int | None = None
) -> dict[str, Any]:
    """What `from_params` of every adapter derives: share (None: the one that keeps the shapes), clusters (None with a
    codebook: as many as there are different decays), tie_reset, dtype.

    Raises ValueError where tie_reset is True and does not hold.
    """
    if tie_reset:
        check_tied(params)
    share = share_of(params) if share is None else share
    shared: dict[str, Any] = {"share": share, "clusters": clusters}
    if share == "codebook" and clusters is None:
        shared["clusters"] = len(different(params.decay, params.recurrent_decay))
    return {**shared, "tie_reset": tie_reset, "dtype": getattr(torch, str(params.weight.dtype))}


def span(values: Callable[[], Tensor | None], unit: str = "", digits: int = 3, unknown: str = "not known") -> str:
    """The least and largest of some values for a repr, "5 to 20 ms"; one of them where they read alike; "" for None.

    A print never fails: `unknown` where they cannot be had (on meta, fake, empty, of shapes that do not fit).
    """
    try:
        with torch.no_grad():
            tensor = values()
            if tensor is None:
                return ""
            least, most = (f"{float(end):.{digits}g}" for end in (tensor.min(), tensor.max()))
    except Exception:  # of every kind of tensor its own
        return unknown
    return f"{least}{unit}" if least == most else f"{least} to {most}{unit}"


def learned_options(layer: HetSynLayer, **flags: str) -> dict[str, Any]:
    """The learn_... options of a layer of plain data: option=field -> is that field learned?"""
    return {option: field in layer.learned for option, field in flags.items()}
