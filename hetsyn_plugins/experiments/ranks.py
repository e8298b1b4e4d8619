"""Several processes that train one network together, as torchrun starts them: gloo between them, NCCL on cards.

All of them make the same step. What is drawn (the batch, its noise, its dropout) is drawn for the whole batch, a pure
function of seed and iteration, and a rank takes its rows of it. A rank's loss is the mean over its rows; gradients are
averaged over ranks by their shares of the batch. What is no mean over samples takes its means over the whole batch
(`whole_mean`). The first rank writes files. A process that nobody started with others is the only rank.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from itertools import chain, zip_longest
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from hetsyn_plugins.core.processes import is_rank

TIMEOUT = timedelta(
    minutes=30
)  # for an answer of a rank whose machine hangs; of one that has ended it is known at once
PATIENCE = timedelta(seconds=2)  # of the others with the first rank, which says what has gone wrong if it can
SAYING = 0.5  # seconds for the one that says it, before a launcher sees another one end and ends all
GONE = ("gloo", "nccl", "closed by peer", "connection reset", "broken pipe", "timed out waiting")  # in torch's words

Value = TypeVar("Value")
Item = TypeVar("Item")


class RankLost(ConnectionError):
    """Another rank has ended, or does not answer."""


class Share(NamedTuple):
    """Rows start..stop-1 of a batch of `total` samples."""

    start: int
    stop: int
    total: int

    def rows(self, tensor: Tensor, axis: int) -> Tensor:
        """These rows of a tensor that has those of the whole batch."""
        if self.stop - self.start == self.total:
            return tensor
        return tensor.narrow(axis, self.start, self.stop - self.start).contiguous()

    @property
    def weight(self) -> float:
        """Of a mean over these rows in the mean over all."""
        return (self.stop - self.start) / self.total


@dataclass(frozen=True)
class Ranks:
    """How many processes train together, and which of them this one is, from 0."""

    index: int
    size: int

    @property
    def is_first(self) -> bool:
        """Is this the one that writes?"""
        return self.index == 0

    def share(self, total: int) -> Share:
        """This rank's rows of a batch. Raises ValueError for one of fewer rows than ranks."""
        check_rows("batch", total, self.size)
        return Share(total * self.index // self.size, total * (self.index + 1) // self.size, total)

    def together(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over ranks; its weights become those of the first rank."""
        if self.size == 1:
            return model
        kind = nn.parallel.DistributedDataParallel
        newer, before = "forward_sync_buffers", "broadcast_buffers"  # torch gave the option another name
        option = newer if newer in signature(kind).parameters else before
        buffers: dict[str, Any] = {option: False}  # they are no state here: every rank has the same ones
        return kind(model, gradient_as_bucket_view=True, **buffers)

    def for_average(self, loss: Tensor, share: Share) -> Tensor:
        """A rank's mean loss, weighted so that the plain average over ranks is the mean over the whole batch."""
        return loss if self.size == 1 else loss * (share.weight * self.size)

    def mean(self, values: Sequence[Tensor], share: Share) -> list[Tensor]:
        """Means () over a rank's rows as means over the whole batch."""
        if self.size == 1:
            return list(values)
        sums = torch.stack([value.detach().double() for value in values]) * share.weight
        dist.all_reduce(sums)
        return list(sums)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What the first rank makes, there alone. Where that fails, the others lose it."""
        if self.size == 1:
            return make()
        packed: list[Any] = [_packed(make()) if self.is_first else None]
        dist.broadcast_object_list(packed)
        value: Value = torch.load(io.BytesIO(packed[0]), map_location="cpu", weights_only=False)  # a rank's own
        return value

    def in_turn(self, items: list[Item]) -> list[Item]:
        """The items of all ranks in order, where this one has those at index, index + size, ..."""
        if self.size == 1:
            return items
        lists: list[Any] = [None] * self.size
        dist.all_gather_object(lists, items)
        missing = object()
        return [item for item in chain(*zip_longest(*lists, fillvalue=missing)) if item is not missing]


def current() -> Ranks:
    """The ranks that this process is one of."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks(0, 1)


def check_rows(name: str, rows: int, ranks: int) -> None:
    """Raise ValueError unless a batch of so many rows has one for every rank."""
    if rows < ranks:
        raise ValueError(f"{name}: expected at least {ranks} samples in every batch, one a rank, got {rows}")


def check_cards(argument: str, device: str) -> None:
    """Raise ValueError where ranks would share a card, which NCCL does not take."""
    here, cards = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if device != "cpu" and (device != "cuda" or here > cards):
        expected = f"cpu, or cuda and a card for each of {here} ranks"
        raise ValueError(f"{argument}: expected {expected}, got {device} and {cards} cards")


def whole_mean(mean: Tensor, samples: int) -> Tensor:
    """Means over the whole batch of what has these means over so many samples of this rank: (N,) -> (N,).

    What each rank makes of them it makes of all ranks' samples: gradients of the means are summed over ranks.
    """
    return mean if _APART.get() or current().size == 1 else _WholeMean.apply(mean, samples)


@contextmanager
def apart() -> Iterator[None]:
    """Inside, a rank's means are those of its own samples: where ranks compute different things, none waits."""
    before = _APART.set(True)
    try:
        yield
    finally:
        _APART.reset(before)


_APART = ContextVar("apart", default=False)


class _WholeMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, samples: int) -> Tensor:
        sums = torch.cat([mean * samples, mean.new_tensor([samples])])
        dist.all_reduce(sums)
        ctx.share = samples / sums[-1]
        return sums[:-1] / sums[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].clone()
        dist.all_reduce(whole)
        return whole * ctx.share, None


# ---- beginning and end -------------------------------------------------------------------------------------------


@contextmanager
def joined() -> Iterator[Ranks]:
    """Inside, the processes that were launched together are ranks.

    What goes wrong on one of them ends all. One says it: the others end here, in silence.
    """
    if not is_rank():
        yield current()
        return
    ranks, store = _join()
    try:
        yield ranks
        dist.all_reduce(torch.zeros(1))  # nobody leaves while another still talks to it, or writes
    except BaseException as error:
        if not _is_to_say(ranks, store):
            sys.stdout.flush()
            os._exit(1)
        if is_lost(error):
            raise RankLost(_lost(ranks)) from error
        raise
    # the group is left to the end of the process: to destroy gloo's, where the other one is gone, may take for ever


def _join() -> tuple[Ranks, dist.Store]:
    """Meet the other ranks. Raises ConnectionError where that fails."""
    devices = torch.cuda.device_count()
    if devices:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % devices)
    try:
        store, index, size = next(rendezvous("env://", timeout=TIMEOUT))
        group = {"store": dist.PrefixStore("group", store), "rank": index, "world_size": size, "timeout": TIMEOUT}
        dist.init_process_group("cpu:gloo,cuda:nccl" if devices else "gloo", **group)
    except RuntimeError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConnectionError(f"ranks: expected to meet at {where}, got: {error}") from error
    return Ranks(index, size), dist.PrefixStore("said", store)


def _is_to_say(ranks: Ranks, store: dist.Store) -> bool:
    """Is this the rank that says what has gone wrong: the first one, and another where that one does not."""
    if not ranks.is_first:
        with suppress(RuntimeError):  # it waits for us, or is gone
            store.wait(["said"], PATIENCE)
    try:
        if store.add("said", 1) == 1:
            _let_others_hear(ranks, store)
            return True
        store.add("heard", 1)
    except RuntimeError:  # the first one held the store, and is gone
        return ranks.index == 1
    time.sleep(SAYING)
    return False


def _let_others_hear(ranks: Ranks, store: dist.Store) -> None:
    """Go on when the others know that they need not say anything, and when they do not answer."""
    # they may wait for this rank; in a thread, since one of them may be gone (see `joined`)
    leaving = threading.Thread(target=dist.destroy_process_group, daemon=True)
    leaving.start()
    leaving.join(PATIENCE.total_seconds())
    until = time.monotonic() + 2 * PATIENCE.total_seconds()
    while store.add("heard", 0) < ranks.size - 1 and time.monotonic() < until:
        time.sleep(0.01)


def is_lost(error: BaseException) -> bool:
    """Is this how torch says that another rank is gone? It has no type of its own for it in all versions."""
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in GONE)


def _lost(ranks: Ranks) -> str:
    got = f"one lost, which has ended or hangs (rank {ranks.index} tells)"
    return f"ranks: expected {ranks.size} that answer, got {got}; the same command goes on from the last checkpoint"


def _packed(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
