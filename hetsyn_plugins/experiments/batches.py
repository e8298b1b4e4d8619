"""The batches of a run, where it needs them: made here or by workers, and on a card copied ahead of their use.

Which samples a batch has is a pure function of (seed, index) and the same on every device. On a card, what comes again
and again stays there: the samples of a task whose samples are the same in every epoch, of which batches are then picked
by index, and held-out batches; together a quarter of what is free (KEPT), what does not fit is copied each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hetsyn_plugins.core.processes import deaf_to_ctrl_c, worker_ends_with_parent
from hetsyn_plugins.experiments.config import TrainingConfig
from hetsyn_plugins.experiments.tasks.task import (
    AT_A_TIME,
    Activity,
    AnyBatch,
    DataTask,
    Task,
    checked_batch,
    each_part,
    shuffled,
)
from hetsyn_plugins.ops import devices

KEPT = 4  # a quarter of what is free on a card


def moved(batch: AnyBatch, device: torch.device) -> AnyBatch:
    """The batch on a device; on a card the copy is not waited for."""
    return each_part(batch, lambda part, _: part.to(device, non_blocking=True))


class OnCard:
    """What a run needs of a task, as `Task` has it, with batches for a card, of which some stay there as far as `room`.

    room   bytes; None: a quarter of what is free
    """

    def __init__(self, task: Task, device: torch.device, room: int | None = None) -> None:
        self.task, self.device, self.label_count = task, device, task.label_count
        self.room = devices.free(device) // KEPT if room is None else room
        self.samples: AnyBatch | None = None
        self.held: dict[tuple[str, int, int], list[AnyBatch]] = {}
        if isinstance(task, DataTask) and task.samples_stay and self._fits(_bytes_of_samples(task)):
            self.samples = _all_samples(task, device)

    def _fits(self, size: int) -> bool:
        """Is there room for so many bytes? Then it is taken."""
        fits = size <= self.room
        self.room -= size if fits else 0
        return fits

    def training(self, settings: TrainingConfig, seed: int, start: int, total: int) -> Iterator[AnyBatch]:
        """The training batches start..total-1: the ones of `prepared`."""
        if self.samples is None:
            return ahead(prepared(self.task, settings, seed, start, total))
        return (self._picked(index, settings.batch, seed) for index in range(start, total))

    def _picked(self, index: int, batch: int, seed: int) -> AnyBatch:
        assert self.samples is not None
        order = torch.from_numpy(shuffled(len(self.samples.target), index, batch, seed))
        order = order.to(self.device, non_blocking=True)
        return each_part(self.samples, lambda part, axis: part.index_select(axis, order))

    def held_out(self, split: str, batch: int, seed: int) -> Iterator[AnyBatch]:
        """As `Task.held_out`; batches are made once where there is room for all of them."""
        key = (split, batch, seed)
        if key in self.held:
            yield from self.held[key]
            return
        kept: list[AnyBatch] | None = []
        for made in self.task.held_out(split, batch, seed):
            checked_batch(made, self.label_count)  # there nobody looks
            on_card = moved(made, self.device)
            if kept is not None:
                kept = [*kept, on_card] if self._fits(sum(part.nbytes for part in made)) else None
            yield on_card
        if kept is not None:
            self.held[key] = kept

    def loss(self, activity: Activity, target: Tensor) -> Tensor:
        """As `Task.loss`."""
        return self.task.loss(activity, target)

    def score(self, activity: Activity, target: Tensor) -> Tensor:
        """As `Task.score`."""
        return self.task.score(activity, target)


def _bytes_of_samples(task: DataTask) -> int:
    return len(task.split[0]) * (task.steps * task.lines * 4 + 8)


def _all_samples(task: DataTask, device: torch.device) -> AnyBatch:
    """Everything to train on as one batch, in the order of `DataTask.split`."""
    rows, labels = task.split[0], task.label_count

    def empty(part: Tensor, axis: int) -> Tensor:
        shape = (*part.shape[:axis], len(rows), *part.shape[axis + 1 :])
        return torch.empty(shape, dtype=part.dtype, device=device)

    whole = each_part(task.samples_of(rows[:1]), empty)
    for at in range(0, len(rows), AT_A_TIME):  # never twice on the host or the card
        some = checked_batch(task.samples_of(rows[at : at + AT_A_TIME]), labels)  # there nobody looks
        for all_of_it, part in zip(whole, some, strict=True):
            axis = min(part.ndim - 1, 1)
            all_of_it.narrow(axis, at, part.shape[axis]).copy_(part)
    return whole


class _Batches(Dataset[AnyBatch]):
    """Item i is the i-th training batch."""

    def __init__(self, task: Task, batch: int, seed: int) -> None:
        self.task, self.batch, self.seed = task, batch, seed

    def __getitem__(self, index: int) -> AnyBatch:
        return self.task.training_batch(index, self.batch, self.seed)


def prepared(task: Task, settings: TrainingConfig, seed: int, start: int, total: int) -> Iterator[AnyBatch]:
    """The training batches start..total-1, made here or ahead in `settings.workers` processes: the same ones."""
    batches = _Batches(task, settings.batch, seed)
    if not settings.workers:
        return (batches[index] for index in range(start, total))
    # spawned, not forked: this process runs threads
    options: dict[str, Any] = {"num_workers": settings.workers, "multiprocessing_context": "spawn"}
    options |= {"worker_init_fn": worker_ends_with_parent}
    with deaf_to_ctrl_c():
        return iter(DataLoader(batches, batch_size=None, sampler=range(start, total), **options))


def ahead(batches: Iterator[AnyBatch]) -> Iterator[AnyBatch]:
    """The batches for a card: while one is used the next is made, in memory that the card can copy from by itself."""

    def pinned() -> AnyBatch | None:
        batch = next(batches, None)
        return None if batch is None else each_part(batch, lambda part, _: part.pin_memory())

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(pinned)
        while (batch := coming.result()) is not None:
            coming = thread.submit(pinned)
            yield batch
