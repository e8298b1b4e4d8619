"""Steps of compiled graphs that follow each other, as the loop that they are: `steps.py` for what torch.compile runs.

A compiled step is a graph by itself. Autograd hands each the gradients of all that it returned, the currents (B, N, M)
among them, and a step has no place but tensors for what `steps.py` keeps. So the operator of a step looks, when the
graph runs, where its state comes from: memory that a step has written is known by its address for as long as it lives
(`Ticket`). A state that comes as it was returned, beside an unchanged layer, goes on with its loop. Backwards such a
step leaves its record with the loop; the gradients that it returns are zeros, those of currents in memory that nobody
has touched, or has to look at: the step before knows it by its address too. The first step has those of the layer
computed for all of them at once.

What goes on must come from outside of the graph, which a `grad_fn` shows, the same one for all parts of the state. What
a graph computes has none, and may lie in the memory of something that the graph has done with. It starts a new loop, as
whatever else is not known does, and its gradient goes through the graph. That keeps the first currents of each loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.kernels.interface import Kernel, LayerTensors, NeedsGrad
from hetsyn_plugins.ops.dispatch import Way
from hetsyn_plugins.ops.steps import BackwardPass, Loop, Record, is_watched, sequences, step_back, sum_of

Place = tuple[int, int, tuple[int, ...], tuple[int, ...]]


class Ticket(np.ndarray):
    """Memory of a tensor that somebody else has to know again; it dies with the last tensor on it."""

    link: Any = None


_tickets: WeakValueDictionary[int, Ticket] = WeakValueDictionary()


class GraphLoop(Loop):
    """A loop that keeps copies of its layer, whose memory is the graph's, and its first currents, if there are any."""

    def __init__(self, kernel: Kernel, layer: LayerTensors, way: Way, state: HetSynState) -> None:
        own = LayerTensors(*(None if t is None else t.detach().clone() for t in layer))  # type: ignore[arg-type]  # a weight
        super().__init__(kernel, own, way, state, None, None)
        self.trained = [_place(t) for t in layer]
        currents = (state.current, state.recurrent_current)
        self.currents = [None if t is None else _lasting(t) for t in currents]
        self.places = [_place(t) for t in self.currents]

    def check_currents(self) -> None:
        """Raise RuntimeError, as torch does for a tensor that it saved, where first currents were written to."""
        if self.places != [_place(t) for t in self.currents]:
            raise RuntimeError(
                "HetSyn steps: a first current was modified by an inplace operation between a compiled step and its "
                "backward()"
            )


def _lasting(t: Tensor) -> Tensor:
    """What needs a gradient is the graph's input, whose memory stays; of anything else only a copy does."""
    return t.detach() if t.requires_grad else t.clone()


class Link(NamedTuple):
    """Which step of which loop a tensor comes from.

    carries    did this step or an earlier one have inputs that need a gradient?
    returned   where the state after it lies
    """

    loop: GraphLoop
    step: int
    carries: bool
    returned: dict[str, Place | None]


def known(t: Tensor, link: Any) -> Tensor:
    """The same values in memory that is known by its address; on the CPU, with elements."""
    ticket: Ticket = t.numpy().view(Ticket)
    ticket.link = link
    out = torch.from_numpy(ticket)
    _tickets[out.data_ptr()] = ticket
    return out


def link_of(t: Tensor) -> Any:
    """What the memory of a tensor is known for; None for other memory."""
    ticket = _tickets.get(t.data_ptr())
    return None if ticket is None else ticket.link


def _place(t: Tensor | None) -> Place | None:
    return None if t is None else (t.data_ptr(), t._version, tuple(t.shape), t.stride())


def linked(
    outputs: tuple[Tensor, ...], kernel: Kernel, layer: LayerTensors, way: Way, given: HetSynState, carries: bool
) -> tuple[Tensor, ...]:
    """What a step returns, spikes, v and currents, in memory that is known, and a tensor by which it knows itself.

    given    the state before it as it came into the graph
    carries  do its inputs need a gradient?
    """
    before = _goes_on(given, layer, way)
    if before is None:
        loop, step = GraphLoop(kernel, layer, way, given), 0
    else:
        loop, step, carries = before.loop, before.step + 1, before.carries or carries
    loop.length = step + 1
    spikes, v, *currents = outputs
    link = Link(loop, step, carries, {})
    parts = (known(currents[0], link), *currents[1:], spikes, v)
    link.returned.update(zip(HetSynState._fields, map(_place, parts), strict=False))  # delays have no graph yet
    itself = known(torch.zeros((), dtype=torch.int64), link)
    return spikes, v, *parts[:4], itself


def _goes_on(state: HetSynState, layer: LayerTensors, way: Way) -> Link | None:
    """The step that this state comes from, as it was returned, the last of its loop, which has this very layer."""
    link = None if state.current is None else link_of(state.current)
    if not isinstance(link, Link) or link.step + 1 != link.loop.length or way != link.loop.way:
        return None
    parts = {name: t for name, t in state._asdict().items() if t is not None}
    nodes = {id(t.grad_fn) for t in parts.values()}
    if len(nodes) != 1 or parts["current"].grad_fn is None or any(map(is_watched, parts.values())):
        return None
    if any(_place(t) != link.returned[name] for name, t in parts.items()):
        return None
    same = map(_is_same, layer, link.loop.layer, link.loop.trained)
    return link if all(same) else None


def _is_same(field: Tensor | None, before: Tensor | None, place: Place | None) -> bool:
    """Is a field of the layer what it was before? A parameter, which comes from outside, is known by its place."""
    if field is None or before is None:
        return field is before
    return (field.requires_grad and _place(field) == place) or torch.equal(field, before)


# ---- backward ------------------------------------------------------------------------------------------------------


def untouched_zeros(shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    """A gradient of zeros in memory as the system hands it out: it costs nothing until somebody looks."""
    return known(torch.from_numpy(np.zeros(tuple(shape), str(dtype).removeprefix("torch."))), "zeros")


def given(gradient: Tensor | None) -> Tensor | None:
    """A gradient that came; None for zeros, which autograd makes where a graph ends without one.

    On the CPU a look at them costs less than a gradient through currents; a GPU is not waited for.
    """
    if gradient is None or gradient.numel() == 0:
        return None
    if gradient.device.type == "cpu":
        is_untouched = gradient._version == 0 and link_of(gradient) == "zeros"
        if is_untouched or not gradient.numpy().any():
            return None
    return gradient


def leave(link: Link, record: Record) -> tuple[Tensor | None, BackwardPass]:
    """Leave a step's record with its loop; its dLoss/dx (B, M), where the loop carries it, and all that is left there.

    What comes in is copied: the graph uses the memory again.
    """
    loop, gathered = link.loop, link.loop.in_this_pass()
    grad_state = HetSynState(*map(_copied, record.grad_state))
    spikes, of_v = _copied(record.grad_spikes), _copied(record.grad_v)
    record = Record(record.x.clone(), record.v.clone(), spikes, of_v, grad_state)
    gathered.records.append(record)
    grad_x = None
    if link.carries:
        grad_x, gathered.adjoint = step_back(loop, record, gathered.adjoint)
    return grad_x, gathered


def _copied(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.clone()


def gradients(
    loop: GraphLoop, gathered: BackwardPass, state: HetSynState, needs_grad: NeedsGrad
) -> tuple[dict[str, Tensor | None], HetSynState]:
    """The gradients of the layer, by field, and of its first state, from what all steps have left."""
    total: list[Tensor | None] = [None] * (len(needs_grad) - 1)
    for sequence in sequences(gathered.records[::-1]):
        g = loop.backward(sequence.x, state, sequence, needs_grad)
        total = list(map(sum_of, total, (*map(g.layer.get, LayerTensors._fields), *g.state)))
    loop.forget_this_pass()
    count = len(LayerTensors._fields)
    return dict(zip(LayerTensors._fields, total, strict=False)), HetSynState(*total[count:])
