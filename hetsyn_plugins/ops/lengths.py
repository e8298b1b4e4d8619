"""Padded batches: every row of a sequence (T, B, M) stops at a length of its own.

The rows of one length are run together, by themselves, for so many steps. So what stands behind a row's end is neither
read nor run: it may be anything, its gradient is zero, and a row's spikes, states and gradients are those that it has
alone. Only valid steps cost time, and every length that occurs costs a call. Measured with T 250, B 32, 700 -> 128, a
training step beside that of the whole rectangle, for 5 lengths in the batch (70 % of the steps valid) and for 32 (half
of them): 0.8 and 0.9 of its time on one thread, recurrent 1.0 and 1.0; on two threads, of which small calls make less
use, 0.8 and 1.1, recurrent 1.4 and 1.8. A machine that others use, or a GPU, where the calls wait for each other, has
more to gain from batches of samples that are sorted by length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hetsyn_plugins.core.validation import layout_hint

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Run = tuple[Any, ...]  # spikes (T, B, N) or None, whatever else there is a step, (T, B, ...), and the state at the end


def checked_lengths(lengths: Any, x: Tensor) -> Tensor:
    """Lengths (B,) of the rows of x (T, B, M), as int64 on the CPU, each 1 to T; ValueError for anything else."""
    if x.ndim != 3:
        raise ValueError("lengths: expected with a sequence only, got them with one step")
    steps, batch, _ = x.shape
    try:
        given = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"lengths: expected integers (B,), got {type(lengths).__name__} {lengths!r}") from None
    if given.dtype not in INTEGERS:
        raise ValueError(f"lengths: expected integers, got {given.dtype}")
    if given.shape != (batch,):
        hint = layout_hint(given.shape, x.shape)
        raise ValueError(f"lengths: expected shape ({batch},), one a row, got {tuple(given.shape)}{hint}")
    given = given.detach().to("cpu", torch.int64)
    if batch > 0 and not (given.min() >= 1 and given.max() <= steps):
        least, most = int(given.min()), int(given.max())
        raise ValueError(f"lengths: expected 1 to T = {steps}, got {least} to {most}")
    return given


@torch.compiler.disable  # which calls are made depends on the lengths
def run_rows(run: Callable[[Tensor, Any], Run], x: Tensor, state: Any, lengths: Tensor) -> Run:
    """What `run(x, state)` gives, every row run for its own length (B,).

    x        (T, B, M)
    state    a NamedTuple of tensors (B, ...) or None, (D, B, ...) where its name begins with past_, or None itself, as
             the one that `run` gives

    Behind a row's end its spikes are zero, and what else there is a step stays what it was at its last step.
    """
    if bool((lengths == len(x)).all()):
        return run(x, state)
    groups = [(lengths == length).nonzero()[:, 0].to(x.device) for length in lengths.unique()]
    runs = []
    for rows in groups:
        steps = int(lengths[rows[0]])
        spikes, *columns, final = run(x[:steps].index_select(1, rows), _rows(state, rows))
        rest = len(x) - steps
        spikes = None if spikes is None else torch.cat([spikes, spikes.new_zeros((rest, *spikes.shape[1:]))])
        runs.append((spikes, *(torch.cat([c, c[-1:].expand(rest, *c.shape[1:])]) for c in columns), final))
    back = torch.cat(groups).argsort()
    *columns, finals = zip(*runs, strict=True)
    named = zip(finals[0]._fields, zip(*finals, strict=True), strict=True)
    final = finals[0]._make(_together(parts, _axis(name), back) for name, parts in named)
    return (*(_together(parts, 1, back) for parts in columns), final)


def _rows(state: Any, rows: Tensor) -> Any:
    """These rows of a state."""
    named = {} if state is None else state._asdict()
    return None if state is None else state._make(_of(part, rows, _axis(name)) for name, part in named.items())


def _axis(name: str) -> int:
    """Where a part of a state has its rows."""
    return 1 if name.startswith("past_") else 0


def _of(part: Tensor | None, rows: Tensor, axis: int) -> Tensor | None:
    """These rows of a part; of zeros that are not written out, as many."""
    if part is None:
        return None
    return part.index_select(axis, rows) if any(part.stride()) else part.narrow(axis, 0, len(rows))


def _together(parts: Sequence[Tensor | None], dim: int, back: Tensor) -> Tensor | None:
    """What the groups have, in the order of the batch; None where the layer has no such thing."""
    there = [part for part in parts if part is not None]
    return torch.cat(there, dim).index_select(dim, back) if there else None


def at_end(column: Tensor, lengths: Tensor | None) -> Tensor:
    """The last valid step of every row of (T, B, ...): (B, ...)."""
    if lengths is None:
        return column[-1]
    return column[lengths.to(column.device) - 1, torch.arange(len(lengths), device=column.device)]


def past_end(x: Tensor, lengths: Tensor) -> Tensor:
    """Which steps of x (T, B, ...) lie behind the end of their row: (T, B, 1), on its device."""
    steps = torch.arange(len(x), device=x.device)
    return (steps[:, None] >= lengths.to(x.device))[:, :, None]
