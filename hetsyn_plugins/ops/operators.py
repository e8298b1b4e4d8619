"""The sequence and the step as operators of torch: the one node of a layer that torch.compile and torch.export see.

    hetsyn_plugins::sequence   inputs (T, B, M) -> spikes, v, and the last current, recurrent, reset, adaptation
    hetsyn_plugins::step       inputs (B, M), the same after one step
    hetsyn_plugins::sequence_backward, ::step_backward   the gradients that are asked for

They run the kernels that eager calls run, so spikes are the same to the bit. A graph can hold tensors and numbers only:
what a layer lacks comes out as a tensor without elements, a surrogate goes in by its name and its parameters, and a
state of zeros as no state. On the CPU steps that follow each other are a loop (`graph_loops.py`); elsewhere a step
keeps the state before it for its backward pass. To currents that leave a graph autograd gives a gradient of their size,
of zeros if there is none; where the graph holds the loss too, they do not leave it.

From torch 2.4 on, which has `torch.library.custom_op`; before, AVAILABLE is False, and the graph breaks at a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hetsyn_plugins.core.autograd import one_by_one
from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.surrogate import OURS
from hetsyn_plugins.kernels.cpu.lanes import written_as
from hetsyn_plugins.kernels.cpu.threads import check_fork
from hetsyn_plugins.kernels.delays import kept
from hetsyn_plugins.kernels.interface import Kernel, LayerTensors, NeedsGrad, OutputGradients
from hetsyn_plugins.ops import graph_loops
from hetsyn_plugins.ops.arguments import (
    OP,
    ArgumentNames,
    autocast_enabled,
    check_finite,
    check_ranges,
    checked_state,
    steps_of,
)
from hetsyn_plugins.ops.dispatch import Way, kernel_for, why_no_cpu_kernel
from hetsyn_plugins.ops.foreign_inputs import refuse_export, refuse_in_graph, refuse_transformations
from hetsyn_plugins.ops.steps import Record

AVAILABLE = hasattr(torch.library, "custom_op")
NO_FOREIGN = (
    "surrogate: expected one of hetsyn_plugins.surrogate ("
    + ", ".join(OURS)
    + ") in a compiled graph, got {}, of which "
    "a graph cannot hold the code: take one of those, or torch.compile without fullgraph=True, which leaves the layer "
    "out of its graph"
)
NO_DELAYS = (
    "delay: expected None in single steps of a compiled graph, which has delays in whole sequences only: torch.compile "
    "without fullgraph=True leaves the steps out of its graph"
)
GONE = (
    "HetSyn steps: what a compiled step keeps for its backward pass is gone: hooks on saved tensors "
    "(torch.autograd.graph.save_on_cpu) put copies in their place; compile without them"
)
FIELDS, PARTS = LayerTensors._fields, HetSynState._fields
CURRENTS = PARTS[:4]  # what a state has beside spikes and v
TENSORS = ("inputs", *FIELDS, *PARTS)
OPTIONS = "str surrogate, float[] parameters, bool detach_reset, str backend, int lanes"
OPTION_COUNT = 5


class Call(NamedTuple):
    """What an operator was given, as kernels take it; `fired` says that the first spikes are those of the first v."""

    kernel: Kernel
    inputs: Tensor
    layer: LayerTensors
    state: HetSynState
    way: Way
    fired: bool


# ---- what layers call while they are compiled ----------------------------------------------------------------------


def sequence(
    x: Tensor, layer: LayerTensors, state: HetSynState, way: Way, checked: str
) -> tuple[Tensor | None, Tensor, HetSynState]:
    """As `lif.run_sequence`; of a state without current, all is zero, and without spikes those of its v.

    checked  "" or the `names_to_check` of the caller: values are looked at when the graph runs
    """
    # a copy that the graph can make together with what is in front; the kernels would make it by themselves
    operator = torch.ops.hetsyn_plugins.sequence
    *options, lanes = _options(way, x)
    outputs = operator(x.contiguous(), *layer, *_read(state, layer), *options, lanes, checked)
    spikes, v, final = _without_empty(outputs, layer)
    current = _memory(x, layer.weight, lanes).view(final.current, x.shape[1], len(layer.weight))
    last = None if spikes is None else spikes[-1]
    before = (
        state if state.spikes is not None or spikes is None else state._replace(spikes=_fired(state, spikes, layer))
    )
    past_inputs, past_spikes = kept(before, x, spikes)
    past = {"past_inputs": past_inputs, "past_spikes": past_spikes}
    return spikes, v, final._replace(current=current, spikes=last, v=v[-1], **past)


def _fired(state: HetSynState, spikes: Tensor, layer: LayerTensors) -> Tensor:
    """The spikes before the first step, where no state has them: of its v, which the node fires too, or none."""
    if state.v is None or layer.threshold is None:
        return torch.zeros_like(spikes[0])
    return (state.v > layer.threshold).to(state.v.dtype)


def step(x: Tensor, layer: LayerTensors, state: HetSynState, way: Way, checked: str) -> HetSynState:
    """As `lif.run_step`, with `checked` as in `sequence`."""
    operator = torch.ops.hetsyn_plugins.step
    tensors = (x.contiguous(), *layer, *_read(state, layer))
    records = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    *outputs, _ = operator(*tensors, *_options(way, x), records, x.requires_grad, checked)
    spikes, v, final = _without_empty(outputs, layer)
    return final._replace(spikes=spikes, v=v)


def takes(surrogate: Any) -> bool:
    """Can a graph hold this surrogate? Not another library's, or one of a user's own."""
    return OURS.get(type(surrogate).__name__) is type(surrogate)


def keeps_out_of_graph(surrogate: Any, delayed_step: bool = False) -> bool:
    """Must a call with this surrogate, or function, be left out of the graph that is being compiled?

    delayed_step  is it a single step of synapses with delays?

    Under torch.compile with fullgraph=True raises RuntimeError where a graph cannot hold the surrogate, or the step.
    """
    if not AVAILABLE:
        refuse_export()
        return True
    refuse_transformations(needs_grad=False)
    if delayed_step:
        refuse_in_graph(NO_DELAYS)
        return True
    if not takes(surrogate):
        name = getattr(surrogate, "__name__", type(surrogate).__name__)
        refuse_in_graph(NO_FOREIGN.format(getattr(surrogate, "shown", name)))
        return True
    return False


def names_to_check(check: bool | None, names: ArgumentNames) -> str:
    """What an operator that checks values calls them, "inputs=x weight=w ..."; nothing where it does not."""
    return " ".join(f"{name}={names[name]}" for name in ("inputs", *FIELDS)) if check else ""


@torch.compiler.assume_constant_result
def _cpu_lanes(double: bool) -> int:
    """The lanes of the CPU kernel's vectors, part of a graph since the order of its currents is; 0 without it."""
    if why_no_cpu_kernel() is not None:
        return 0
    from hetsyn_plugins.kernels.cpu.simd import VECTOR_BYTES  # numba, which is imported where it is used

    return VECTOR_BYTES // (8 if double else 4)


def _read(state: HetSynState, layer: LayerTensors) -> HetSynState:
    """What of a state is read: its v only where the spikes are fired from it."""
    fires = layer.threshold is not None and state.spikes is None
    return state if fires else state._replace(v=None)


def _without_empty(outputs: Any, layer: LayerTensors) -> tuple[Tensor | None, Tensor, HetSynState]:
    spikes, v, current, recurrent, reset, adaptation = outputs
    final = HetSynState(
        current,
        None if layer.recurrent_weight is None else recurrent,
        None if layer.reset_decay is None else reset,
        None if layer.adaptation_decay is None else adaptation,
    )
    return None if layer.threshold is None else spikes, v, final


def _options(way: Way, x: Tensor) -> tuple[str, list[float], bool, str, int]:
    kind: Any = type(way.surrogate)
    parameters = [float(getattr(way.surrogate, name)) for name in kind.__match_args__]
    on_cpu = x.device.type == "cpu" and way.backend in ("auto", "cpu")
    lanes = _cpu_lanes(x.dtype == torch.float64) if on_cpu else 0
    return kind.__name__, parameters, way.detach_reset, way.backend, lanes


# ---- the operators -------------------------------------------------------------------------------------------------


def _call(arguments: Sequence[Any]) -> Call:
    """The arguments of an operator, in the order of its schema, as kernels take them."""
    inputs, *tensors = arguments[: len(TENSORS)]
    surrogate, parameters, detach_reset, backend, _ = arguments[len(TENSORS) :][:OPTION_COUNT]
    layer, state = LayerTensors(*tensors[: len(FIELDS)]), HetSynState(*tensors[len(FIELDS) :])
    kernel = kernel_for(backend, inputs, layer.weight)
    way = Way(OURS[surrogate](*parameters), detach_reset, backend)
    if state.current is None:
        zeros = checked_state(None, layer, inputs.shape[1], OP.names, steps_of(state))
        return Call(kernel, inputs, layer, zeros, way, False)
    if state.v is None or layer.threshold is None:
        return Call(kernel, inputs, layer, state, way, False)
    fired = kernel.spikes_of(state.v[None], layer.threshold)[0]
    return Call(kernel, inputs, layer, state._replace(spikes=fired), way, True)


def _off(inputs: Tensor) -> Any:
    """Kernels choose their dtypes themselves."""
    enabled = autocast_enabled(inputs.device)
    return torch.autocast(inputs.device.type, enabled=False) if enabled else nullcontext()


def _run_sequence(*arguments: Any) -> tuple[Tensor, ...]:
    check_fork()
    with _off(arguments[0]):
        call = _call(arguments)
        _check(call, arguments[-1])
        v, final = call.kernel.forward(call.inputs, call.layer, call.state)
        spikes = None if call.layer.threshold is None else call.kernel.spikes_of(v, call.layer.threshold)
    current, *others = final[:4]
    of_spikes, v, *others = _own((spikes, v, *others), v)
    return of_spikes, v, _memory(call.inputs, call.layer.weight, arguments[-2]).of(current), *others


def _run_step(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    check_fork()
    *_, records, carries, checked = arguments
    with _off(x):
        call = _call((x[None], *arguments))
        _check(call, checked)
        _, final = call.kernel.forward(call.inputs, call.layer, call.state)
    outputs = _own((final.spikes, final.v, *final[:4]), x)
    if not records or x.device.type != "cpu" or x.numel() == 0:
        return *outputs, x.new_zeros((), dtype=torch.int64)
    given = HetSynState(*arguments[len(FIELDS) : len(TENSORS) - 1])
    return graph_loops.linked(outputs, call.kernel, call.layer, call.way, given, carries)


def _run_step_backward(*arguments: Any) -> list[Tensor]:
    """As `_run_backward`; x and the gradients without a time, and behind v the step's link."""
    tensors, options, (v, itself, *gradients, needs) = _split(arguments)
    x, link = tensors[0], graph_loops.link_of(itself)
    of_spikes, of_v, *others = map(graph_loops.given, gradients)
    if link is None and x.device.type == "cpu" and x.numel() > 0:
        raise RuntimeError(GONE)
    if link is not None and link.step == 0:
        tensors = _with_currents(tensors, link.loop)
    if link is None or (link.step == 0 and not link.loop.in_this_pass().records):  # by itself
        in_time = (None if g is None else g[None] for g in (of_spikes, of_v))
        grads = _run_backward(x[None], *tensors[1:], *options, v[None], *in_time, *others, needs)
        return [grads[0][0], *grads[1:]] if needs[0] else grads
    with _off(x):
        grad_x, gathered = graph_loops.leave(link, Record(x, v, of_spikes, of_v, HetSynState(*others)))
        if link.step > 0:
            return _nothing_but(grad_x, tensors, needs)
        call, needs_grad = _call((x[None], *tensors[1:], *options)), NeedsGrad(False, *needs[1:])
        asked = needs_grad._replace(spikes=needs_grad.spikes or (call.fired and needs_grad.v))
        fields, state = graph_loops.gradients(link.loop, gathered, call.state, asked)
        fields, state = _through_firing(call, needs_grad, fields, state)
    return _wanted(tensors, (grad_x, *map(fields.get, FIELDS), *state), needs, v)


def _nothing_but(grad_x: Tensor | None, tensors: Sequence[Any], needs: Sequence[bool]) -> list[Tensor]:
    """The gradients that a step which goes on returns: its own of x, and zeros."""
    gradients, x = [], tensors[0]
    for name, shape, needed in zip(TENSORS, _shapes_of(tensors), needs, strict=True):
        if needed and grad_x is not None and name == "inputs":
            gradients.append(grad_x)
        elif needed:  # currents are large
            is_current = name in CURRENTS[:2]
            gradients.append(graph_loops.untouched_zeros(shape, x.dtype) if is_current else x.new_zeros(shape))
    return gradients


def _run_backward(*arguments: Any) -> list[Tensor]:
    """The gradients that are asked for, in the order of TENSORS."""
    tensors, options, (v, *gradients, needs) = _split(arguments)
    grad_spikes, grad_v, grad_current, *grad_others = map(graph_loops.given, gradients)
    with _off(tensors[0]):
        call = kernel, inputs, layer, state, way, fired = _call(arguments)
        needs_grad = NeedsGrad(*needs)
        asked = needs_grad._replace(spikes=needs_grad.spikes or (fired and needs_grad.v))
        if grad_current is not None:
            grad_current = _memory(inputs, layer.weight, options[-1]).view(
                grad_current, inputs.shape[1], len(layer.weight)
            )
        output_gradients = OutputGradients(grad_spikes, grad_v, HetSynState(grad_current, *grad_others))
        g = kernel.backward(inputs, layer, state, v, output_gradients, way.surrogate, way.detach_reset, asked)
        fields, state = _through_firing(call, needs_grad, g.layer, g.state)
    return _wanted(tensors, (g.inputs, *map(fields.get, FIELDS), *state), needs, v)


def _split(arguments: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """Tensors, options, and what else a backward operator was given."""
    end = len(TENSORS) + OPTION_COUNT
    return arguments[: len(TENSORS)], arguments[len(TENSORS) : end], arguments[end:]


def _through_firing(
    call: Call, needs_grad: NeedsGrad, fields: dict[str, Tensor | None], state: HetSynState
) -> tuple[dict[str, Tensor | None], HetSynState]:
    """Where the first spikes were fired from the first v, their gradient is that of v, and of the threshold."""
    if not (call.fired and needs_grad.v):
        return fields, state
    grad_d = state.spikes * call.way.surrogate.derivative(call.state.v - call.layer.threshold, call.layer.threshold)
    if needs_grad.threshold:
        fields["threshold"] = fields["threshold"] - grad_d.sum(0)
    return fields, state._replace(v=grad_d)


def _wanted(
    given: Sequence[Tensor | None], gradients: Sequence[Tensor | None], needs: Sequence[bool], like: Tensor
) -> list[Tensor]:
    """Of the gradients those that are needed, zeros where there is none."""
    wanted = [
        torch.zeros_like(t) if gradient is None else gradient  # type: ignore[arg-type]  # what needs one is there
        for t, gradient, needed in zip(given, gradients, needs, strict=True)
        if needed
    ]
    return list(_own(wanted, like))


def _with_currents(tensors: Sequence[Any], loop: graph_loops.GraphLoop) -> Sequence[Any]:
    """With the first currents of a loop, which its steps do not keep in the graph."""
    loop.check_currents()
    start = len(TENSORS) - len(PARTS)
    return *tensors[:start], *loop.currents, *tensors[start + 2 :]


def _check(call: Call, checked: str) -> None:
    if checked:
        names = ArgumentNames(pair.split("=") for pair in checked.split())
        check_finite(call.inputs, True, names["inputs"])
        check_ranges(call.layer._asdict(), names)


class Memory(NamedTuple):
    """How the last currents (B, N, M) lie: as the CPU kernel writes them, since to turn them round costs time.

    shape, axes   of the memory, padded: "NMB" has rows of the batch side by side
    """

    shape: tuple[int, int, int]
    axes: str

    def view(self, memory: Tensor, batch: int, neurons: int) -> Tensor:
        """The currents (B, N, M) in it."""
        return memory.permute(*map(self.axes.index, "BNM"))[:batch, :neurons]

    def of(self, current: Tensor) -> Tensor:
        """The memory of currents; a copy where a kernel, or another machine, has written them in another order."""
        batch, neurons, _ = current.shape
        a, b, _ = self.shape
        strides = (b * self.shape[2], self.shape[2], 1)
        in_order = tuple(strides[self.axes.index(axis)] for axis in "BNM")
        whole = current.untyped_storage().nbytes() == a * strides[0] * current.itemsize
        if whole and current.stride() == in_order and current.storage_offset() == 0:
            return current.as_strided(self.shape, strides)
        memory = current.new_zeros(self.shape)
        self.view(memory, batch, neurons).copy_(current)
        return memory


def _memory(inputs: Tensor, weight: Tensor, lanes: int) -> Memory:
    """That of a sequence (T, B, M) or a step (B, M), which is plain."""
    (n, m), batch = weight.shape, inputs.shape[-2]
    if lanes == 0 or inputs.ndim == 2:
        return Memory((batch, n, m), "BNM")
    steps = inputs.shape[0]
    return Memory(*written_as(steps, batch, m, n, lanes))


def _own(tensors: Sequence[Tensor | None], like: Tensor) -> tuple[Tensor, ...]:
    """Each with memory of its own in the order that the graph counts on; no elements where there is nothing."""
    whole = (like.new_empty(0) if t is None else t.contiguous() for t in tensors)
    return tuple(t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for t in whole)


# ---- what torch has to know of them --------------------------------------------------------------------------------


def _sequence_shapes(inputs: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, ...]:
    spikes, v, _, *rest = _shapes(inputs, weight, *others)
    return spikes, v, inputs.new_empty(_memory(inputs, weight, others[-2]).shape), *rest


def _shapes(inputs: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, ...]:
    """What an operator returns, without values: of a sequence (T, B, M), or of a step (B, M)."""
    layer = LayerTensors(weight, *others[: len(FIELDS) - 1])
    batch, n, m = inputs.shape[-2], *weight.shape
    spiking = layer.threshold is not None

    def empty(is_there: bool, *shape: Any) -> Tensor:
        return inputs.new_empty(shape if is_there else 0)

    return (
        empty(spiking, *inputs.shape[:-1], n),
        empty(True, *inputs.shape[:-1], n),
        empty(True, batch, n, m),
        empty(layer.recurrent_weight is not None, batch, n, n),
        empty(layer.reset_decay is not None, batch, n),
        empty(layer.adaptation_decay is not None, batch, n),
    )


def _step_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    return *_shapes(*arguments), arguments[0].new_empty((), dtype=torch.int64)


def _gradient_shapes(*arguments: Any) -> list[Tensor]:
    tensors = arguments[: len(TENSORS)]
    given = zip(_shapes_of(tensors), arguments[-1], strict=True)
    return [tensors[0].new_empty(shape) for shape, needed in given if needed]


def _shapes_of(tensors: Sequence[Any]) -> list[Any]:
    """Of the tensors of an operator, currents among them that a step's backward pass is not given."""
    inputs, weight = tensors[:2]
    batch, (n, m) = inputs.shape[-2], weight.shape
    currents = {"current": (batch, n, m), "recurrent_current": (batch, n, n)}
    return [currents.get(name, None if t is None else t.shape) for name, t in zip(TENSORS, tensors, strict=True)]


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    """Put aside what the backward pass needs."""
    ctx.set_materialize_grads(False)
    ctx.options = inputs[len(TENSORS) :][:OPTION_COUNT]
    ctx.save_for_backward(output[1], *inputs[: len(TENSORS)])


def _keep_step(ctx: Any, inputs: Any, output: Any) -> None:
    """The same of a step, which on the CPU keeps no currents: its loop has the first ones."""
    ctx.set_materialize_grads(False)
    ctx.options = inputs[len(TENSORS) :][:OPTION_COUNT]
    tensors, start = list(inputs[: len(TENSORS)]), len(TENSORS) - len(PARTS)
    if inputs[0].device.type == "cpu":
        tensors[start : start + 2] = None, None
    ctx.save_for_backward(output[1], output[-1], *tensors)


def _sequence_gradients(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    v, *tensors = ctx.saved_tensors
    return _gradients(ctx, torch.ops.hetsyn_plugins.sequence_backward, tensors, (v, *gradients))


def _step_gradients(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    v, itself, *tensors = ctx.saved_tensors
    return _gradients(ctx, torch.ops.hetsyn_plugins.step_backward, tensors, (v, itself, *gradients[:-1]))


def _gradients(ctx: Any, operator: Any, tensors: Sequence[Tensor | None], rest: Sequence[Tensor | None]) -> Any:
    needs = list(ctx.needs_input_grad[: len(TENSORS)])
    in_turn = iter(operator(*tensors, *ctx.options, *rest, needs))
    grads = [next(in_turn) if needed else None for needed in needs]
    return *grads, *(None for _ in ctx.needs_input_grad[len(TENSORS) :])


class _OneByOne:
    """An operator as `one_by_one` takes a function."""

    def __init__(self, operator: Any) -> None:
        self.apply = operator


def _register(name: str, schema: str, run: Any, fake: Any, gradients: Any = None, keep: Any = None) -> None:
    custom_op: Any = torch.library.custom_op  # type: ignore[attr-defined]  # torch 2.4
    operator = custom_op(f"hetsyn_plugins::{name}", run, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    if gradients is not None:
        operator.register_autograd(gradients, setup_context=keep)
    if hasattr(operator, "register_vmap"):  # torch 2.5
        operator.register_vmap(lambda info, in_dims, *args: one_by_one(_OneByOne(operator), info, in_dims, args))


def _register_all() -> None:
    required = ("inputs", "weight", "decay")
    tensors = ", ".join(f"Tensor{'' if name in required else '?'} {name}" for name in TENSORS)
    gradients = ", ".join(f"Tensor? grad_{name}" for name in ("spikes", "v", *CURRENTS))
    outputs = ", ".join(["Tensor"] * (2 + len(CURRENTS)))
    saved, needs = tensors.replace(" v", " initial_v"), "bool[] needs"
    _register(
        "sequence",
        f"({tensors}, {OPTIONS}, str checked) -> ({outputs})",
        _run_sequence,
        _sequence_shapes,
        _sequence_gradients,
        _keep,
    )
    _register(
        "step",
        f"({tensors}, {OPTIONS}, bool records, bool carries, str checked) -> ({outputs}, Tensor)",
        _run_step,
        _step_shapes,
        _step_gradients,
        _keep_step,
    )
    backward = f"({saved}, {OPTIONS}, Tensor v, {gradients}, {needs}) -> Tensor[]"
    _register("sequence_backward", backward, _run_backward, _gradient_shapes)
    backward = f"({saved}, {OPTIONS}, Tensor v, Tensor itself, {gradients}, {needs}) -> Tensor[]"
    _register("step_backward", backward, _run_step_backward, _gradient_shapes)


if AVAILABLE:
    _register_all()
