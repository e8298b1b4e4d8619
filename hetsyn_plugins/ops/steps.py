"""A loop of single steps, with the gradients and the memory of the sequence that it is.

A step by itself would have to keep its synaptic currents, (B, N, M), for its backward pass. But steps that follow each
other from one state on are a sequence, cut at every step. So the first of them is a `Start`, a node of the graph that
holds the layer and the initial state, and every step is a `Step`, a node that holds its inputs and v alone:

    Start(layer, initial state) --> Step 0 (x[0]) --> Step 1 (x[1]) --> ...      values: one pass over the synapses each

Backwards the steps come in turn, last to first, and leave what they were given (dLoss/dz[t], dLoss/dv[t]) with the
loop; `Start`, which comes after them all, has the sequence kernel compute the gradients of the layer and of the initial
state from all that at once. A step whose inputs need gradients (or one after such a step) also takes the adjoint of the
state, one array (B, N, M) for the whole loop, a step back, which gives its dLoss/dx[t].

The edges between the nodes carry no value: they are there for the order. A state that is read or given elsewhere is an
output of its step like others; its gradient counts as that of the last state of the sequence up to there (one more
sequence for each state read: T reads of a loop cost T^2 / 2 steps). What torch says of the gradient of such a state is
that of what was made of it; who wants that of the loop too, calls `retain_grad` or `register_hook` on it before the
next step, which then starts a new loop, and gets the gradient of the state as it was handed on.

Which loop a state belongs to is known of its current. It goes on with the next call where that gets this state as it
was returned, and the same layer, unchanged; anything else (a state detached, replaced, written to or used before;
another weight) starts a new loop, from the state given, whose graph then is an ordinary one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hetsyn_plugins.core.autograd import backward_pass, differentiable_once
from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.kernels.delays import kept, through_past
from hetsyn_plugins.kernels.interface import Gradients, Kernel, LayerTensors, NeedsGrad, OutputGradients
from hetsyn_plugins.ops import loop_costs
from hetsyn_plugins.ops.arguments import OP, checked_state, steps_of
from hetsyn_plugins.ops.dispatch import Way, kernel_for
from hetsyn_plugins.ops.rates import watch_loop

_marks: Any = WeakTensorKeyDictionary()  # of currents: which step of which loop they come from


class Record(NamedTuple):
    """What a step leaves behind in a backward pass: its inputs and v, and the gradients that its outputs got."""

    x: Tensor
    v: Tensor
    grad_spikes: Tensor | None
    grad_v: Tensor | None
    grad_state: HetSynState


class BackwardPass:
    """What the steps of a loop have left behind in one backward pass; `adjoint` is dLoss/d(state) of the last one."""

    def __init__(self) -> None:
        self.records: list[Record] = []  # last step first
        self.adjoint = HetSynState(None)


class Loop:
    """Steps that follow each other: the kernel, the layer, and how it is run.

    owner    what the layer's tensors were made from, for the one who made them
    module   the module whose steps they are, or None: it is told where it does not fire (`rates.py`)
    length   steps so far
    seconds  that they took, forward
    """

    def __init__(
        self, kernel: Kernel, layer: LayerTensors, way: Way, initial: HetSynState, owner: Any, module: Any
    ) -> None:
        self.kernel, self.layer, self.way = kernel, layer, way
        self.owner, self.length, self.seconds = owner, 0, 0.0
        # weakly: a module that keeps a state keeps its loop, by a way through the graph that no collector sees
        self.module = None if module is None else ref(module)
        self.versions = versions_of(layer)
        self.born_in = backward_pass()
        self.passes: dict[int, BackwardPass] = {}
        self.kept = loop_costs.keep(initial.current)
        self.max_delay = steps_of(initial)

    def __del__(self) -> None:
        loop_costs.let_go(self.kept)

    def in_this_pass(self) -> BackwardPass:
        """What is gathered in the backward pass that runs now; it goes when that pass ends."""
        now = backward_pass()
        if now not in self.passes:
            self.passes[now] = BackwardPass()
            if now >= 0:  # in the engine, not in a graph of it
                torch.autograd.Variable._execution_engine.queue_callback(lambda: self.forget(now))
        return self.passes[now]

    def forget_this_pass(self) -> None:
        """Drop what was gathered in the backward pass that runs now."""
        self.forget(backward_pass())

    def forget(self, which: int) -> None:
        """Drop what was gathered in a backward pass."""
        self.passes.pop(which, None)

    def check_unchanged(self) -> None:
        """Raise RuntimeError, as torch does for a tensor that it saved, where the layer was written to meanwhile."""
        if versions_of(self.layer) != self.versions:
            raise RuntimeError(
                "HetSyn steps: a parameter was modified by an inplace operation (an optimiser's step?) between these "
                "steps and their backward(): detach or reset the states before the next step"
            )

    def watch(self, whole: Record) -> None:
        """Tell the module where it was silent, or fired at every step, in all the steps of a backward pass."""
        module = None if self.module is None else self.module()
        if module is not None and self.layer.threshold is not None:
            watch_loop(module, whole.x, whole.v, self.layer.threshold)

    def backward(self, inputs: Tensor, state: HetSynState, record: Record, needs_grad: NeedsGrad) -> Gradients:
        """The kernel's backward pass from a record whose tensors have a leading time, with what the past was given."""
        _, v, grad_spikes, grad_v, grad_state = record
        of_inputs, of_spikes, of_first = through_past(grad_state, inputs, v.shape[-1])
        gradients = OutputGradients(sum_of(grad_spikes, of_spikes), grad_v, grad_state)
        (surrogate, detach_reset, _) = self.way
        g = self.kernel.backward(inputs, self.layer, state, v, gradients, surrogate, detach_reset, needs_grad)
        g_inputs = sum_of(g.inputs, of_inputs) if needs_grad.inputs else g.inputs
        return Gradients(g_inputs, g.layer, HetSynState(*map(sum_of, g.state, of_first)))


class Mark(NamedTuple):
    """What is known of a current: its step, the edge to the next one, and the state as it was returned.

    carries   did this step or an earlier one have inputs that need a gradient?
    """

    loop: Loop
    step: int
    edge: Tensor
    carries: bool
    state: HetSynState  # without the current, which would refer to itself
    versions: tuple[int, ...]

    @property
    def owner(self) -> Any:
        """As in `Loop`."""
        return self.loop.owner

    @property
    def layer(self) -> LayerTensors:
        """As in `Loop`."""
        return self.loop.layer

    def goes_on(self, state: HetSynState, layer: LayerTensors, way: Way) -> bool:
        """Is this state the one that was returned, the last of its loop, and the layer the loop's?"""
        if any(a is not b for a, b in zip(state[1:], self.state[1:], strict=True)) or any(map(is_watched, state)):
            return False
        if self.versions != versions_of(state):
            return False
        # a checkpoint's recomputation, in a backward pass, takes the same steps once more
        is_last = self.loop.length == self.step + 1 or backward_pass() != self.loop.born_in
        return is_last and way == self.loop.way and _same(layer, self.loop.layer)


def mark_of(current: Any) -> Mark | None:
    """What is known of a current; None for one that no step has returned, and under torch.compile."""
    if torch.compiler.is_compiling():
        return None
    return _marks.get(current) if isinstance(current, Tensor) else None


def step(
    x: Tensor, layer: LayerTensors, state: HetSynState, way: Way, owner: Any = None, module: Any = None
) -> HetSynState:
    """The state after one step, inputs (B, M), as a step of the loop that `state` comes from, or of a new one.

    owner, module   as in `Loop`
    """
    if not torch.is_grad_enabled():
        return _values(kernel_for(way.backend, x, layer.weight), x, layer, state)
    mark = mark_of(state.current)
    if mark is not None and mark.goes_on(state, layer, way):
        loop, index, edge, carries = mark.loop, mark.step + 1, mark.edge, mark.carries or x.requires_grad
    else:
        kernel = kernel_for(way.backend, x, layer.weight)
        loop, index, carries = Loop(kernel, layer, way, state, owner, module), 0, x.requires_grad
        edge = Start.apply(loop, *layer, *state)
    start = time.perf_counter()
    *parts, edge = Step.apply(loop, carries, state, x, edge)
    after = HetSynState(*parts)
    # what is returned is a node of its own: its hooks run where it gets a gradient, not whenever the step is passed
    after = after._replace(v=after.v.view_as(after.v))
    if after.spikes is not None:
        after = after._replace(spikes=after.spikes.view_as(after.spikes))
    if index > 0:  # the first may have had kernels compiled
        loop.seconds += time.perf_counter() - start
        loop_costs.took(after.current, loop.seconds)
    if backward_pass() == loop.born_in:
        loop.length = index + 1
    if edge.requires_grad and (versions := versions_of(after)) is not None:
        _marks[after.current] = Mark(loop, index, edge, carries, after._replace(current=None), versions)
    return after


def _values(kernel: Kernel, x: Tensor, layer: LayerTensors, state: HetSynState) -> HetSynState:
    """The state after a step, without a graph."""
    _, after = kernel.forward(x[None], layer, state)
    past_inputs, past_spikes = kept(state, x[None], None if after.spikes is None else after.spikes[None])
    after = after._replace(past_inputs=past_inputs, past_spikes=past_spikes)
    # a view of another tensor could not be written to in place
    return HetSynState(*(t.clone() if t is not None and t._is_view() else t for t in after))


def is_watched(t: Tensor | None) -> bool:
    """Does somebody want the whole gradient of a state, which the edges of a loop do not carry?"""
    return t is not None and (t.retains_grad or bool(t._backward_hooks))


def versions_of(tensors: Iterable[Tensor | None]) -> tuple[int, ...] | None:
    """How often each was written to; None for tensors made in inference mode, which have no such count."""
    try:
        return tuple(-1 if t is None else t._version for t in tensors)
    except RuntimeError:
        return None


def _same(layer: LayerTensors, other: LayerTensors) -> bool:
    """Are these the same tensors, or, where none of two has a gradient, the same values?"""
    return all(a is b or _equal_constants(a, b) for a, b in zip(layer, other, strict=True))


def _equal_constants(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.requires_grad or b.requires_grad:
        return False
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


class Start(torch.autograd.Function):
    """Where a loop begins; its backward, which comes after those of all steps, has the gradients computed."""

    @staticmethod
    def forward(ctx: Any, loop: Loop, *tensors: Tensor | None) -> Tensor:
        ctx.loop = loop
        ctx.save_for_backward(*tensors)
        return loop.layer.weight.new_zeros(())

    @staticmethod
    @differentiable_once("a loop of HetSyn steps")
    def backward(ctx: Any, _: Tensor) -> Any:
        loop, count = ctx.loop, len(LayerTensors._fields)
        state = HetSynState(*ctx.saved_tensors[count:])
        records = loop.in_this_pass().records[::-1]
        needs_grad = NeedsGrad(False, *ctx.needs_input_grad[1:])
        grads: list[Tensor | None] = [None] * (len(needs_grad) - 1)
        whole, *others = sequences(records)  # views of the first
        loop.watch(whole)
        for sequence in (whole, *others):
            g = loop.backward(sequence.x, state, sequence, needs_grad)
            grads = list(map(sum_of, grads, (*map(g.layer.get, LayerTensors._fields), *g.state)))
        return None, *(g if needed else None for g, needed in zip(grads, needs_grad[1:], strict=True))


class Step(torch.autograd.Function):
    """One step of a loop: the state after it, and the edge to the next one."""

    @staticmethod
    def forward(ctx: Any, loop: Loop, carries: bool, state: HetSynState, x: Tensor, edge: Tensor) -> Any:
        ctx.loop, ctx.carries = loop, carries
        ctx.set_materialize_grads(False)
        after = _values(loop.kernel, x, loop.layer, state)
        ctx.save_for_backward(x, after.v)
        return (*after, edge.new_zeros(()))

    @staticmethod
    @differentiable_once("a HetSyn step")
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        # without their graphs: what is gathered must not keep alive what keeps it
        x, v = (t.detach() for t in ctx.saved_tensors)
        given = HetSynState(*(None if g is None else g.detach() for g in grads[:-1]))
        currents = given._replace(spikes=None, v=None)
        gathered, record = ctx.loop.in_this_pass(), Record(x, v, given.spikes, given.v, currents)
        gathered.records.append(record)
        grad_x = None
        if ctx.carries:
            ctx.loop.check_unchanged()
            grad_x, gathered.adjoint = step_back(ctx.loop, record, gathered.adjoint)
        return None, None, None, grad_x, v.new_zeros(())


ADJOINT = NeedsGrad(inputs=True, **dict.fromkeys(HetSynState._fields, True))


def step_back(loop: Loop, record: Record, adjoint: HetSynState) -> tuple[Tensor, HetSynState]:
    """dLoss/dx (B, M) of a step and dLoss/d(state before it), from dLoss/d(state) of later steps."""
    x, v, grad_spikes, grad_v, grad_state = record
    later = HetSynState(*map(sum_of, grad_state, adjoint))
    spikes, of_v = (None if g is None else g[None] for g in (sum_of(grad_spikes, adjoint.spikes), grad_v))
    zeros = checked_state(None, loop.layer, len(x), OP.names, loop.max_delay)  # the adjoint does not depend on it
    g = loop.backward(x[None], zeros, Record(x, v[None], spikes, of_v, later), ADJOINT)
    assert g.inputs is not None  # asked for
    return g.inputs[0], g.state


def sequences(records: list[Record]) -> Iterator[Record]:
    """The steps as one sequence, then, for each step before the last whose state was read, the sequence up to it."""
    x, v = (torch.stack(column) for column in zip(*(record[:2] for record in records), strict=True))
    grad_spikes = _stacked([record.grad_spikes for record in records], v)
    grad_v = _stacked([record.grad_v for record in records], v)
    yield Record(x, v, grad_spikes, grad_v, records[-1].grad_state)
    for t, record in enumerate(records[:-1]):
        if any(g is not None for g in record.grad_state):
            yield Record(x[: t + 1], v[: t + 1], None, None, record.grad_state)


def _stacked(grads: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """Gradients of every step (T, B, N), zeros where a step got none; None where none got one."""
    if all(g is None for g in grads):
        return None
    zero = torch.zeros_like(like[0])
    return torch.stack([zero if g is None else g for g in grads])


def sum_of(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two gradients, None for zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b
