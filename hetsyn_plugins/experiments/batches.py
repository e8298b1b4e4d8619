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
    Batch,
    DataTask,
    Task,
    shuffled,
)
from hetsyn_plugins.ops import devices

KEPT = 4  # a quarter of what is free on a card


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; on a card the copy is not waited for."""
    return Batch(*(part.to(device, non_blocking=True) for part in batch))


class OnCard:
    """What a run needs of a task, as `Task` has it, with batches for a card, of which some stay there as far as `room`.

    room   bytes; None: a quarter of what is free
    """

    def __init__(self, task: Task, device: torch.device, room: int | None = None) -> None:
        self.task, self.device = task, device
        self.room = devices.free(device) // KEPT if room is None else room
        self.samples: Batch | None = None
        self.held: dict[tuple[str, int, int], list[Batch]] = {}
        if isinstance(task, DataTask) and task.samples_stay and self._fits(_bytes_of_samples(task)):
            self.samples = _all_samples(task, device)

    def _fits(self, size: int) -> bool:
        """Is there room for so many bytes? Then it is taken."""
        fits = size <= self.room
        self.room -= size if fits else 0
        return fits

    def training(self, settings: TrainingConfig, seed: int, start: int, total: int) -> Iterator[Batch]:
        """The training batches start..total-1: the ones of `prepared`."""
        if self.samples is None:
            return ahead(prepared(self.task, settings, seed, start, total))
        return (self._picked(index, settings.batch, seed) for index in range(start, total))

    def _picked(self, index: int, batch: int, seed: int) -> Batch:
        assert self.samples is not None
        inputs, target = self.samples
        order = torch.from_numpy(shuffled(len(target), index, batch, seed)).to(self.device, non_blocking=True)
        return Batch(inputs.index_select(1, order), target.index_select(0, order))

    def held_out(self, split: str, batch: int, seed: int) -> Iterator[Batch]:
        """As `Task.held_out`; batches are made once where there is room for all of them."""
        key = (split, batch, seed)
        if key in self.held:
            yield from self.held[key]
            return
        kept: list[Batch] | None = []
        for made in self.task.held_out(split, batch, seed):
            on_card = moved(made, self.device)
            if kept is not None:
                kept = [*kept, on_card] if self._fits(sum(part.nbytes for part in made)) else None
            yield on_card
        if kept is not None:
            self.held[key] = kept

    def score(self, activity: Activity, target: Tensor) -> Tensor:
        """As `Task.score`."""
        return self.task.score(activity, target)


def _bytes_of_samples(task: DataTask) -> int:
    return len(task.split[0]) * (task.steps * task.lines * 4 + 8)


def _all_samples(task: DataTask, device: torch.device) -> Batch:
    """Everything to train on as one batch, in the order of `DataTask.split`."""
    rows = task.split[0]
    inputs = torch.empty((task.steps, len(rows), task.lines), device=device)
    target = torch.empty(len(rows), dtype=torch.int64, device=device)
    for at in range(0, len(rows), AT_A_TIME):  # never twice on the host or the card
        part = task.samples_of(rows[at : at + AT_A_TIME])
        inputs[:, at : at + AT_A_TIME], target[at : at + AT_A_TIME] = part
    return Batch(inputs, target)


class _Batches(Dataset[Batch]):
    """Item i is the i-th training batch."""

    def __init__(self, task: Task, batch: int, seed: int) -> None:
        self.task, self.batch, self.seed = task, batch, seed

    def __getitem__(self, index: int) -> Batch:
        return self.task.training_batch(index, self.batch, self.seed)


def prepared(task: Task, settings: TrainingConfig, seed: int, start: int, total: int) -> Iterator[Batch]:
    """The training batches start..total-1, made here or ahead in `settings.workers` processes: the same ones."""
    batches = _Batches(task, settings.batch, seed)
    if not settings.workers:
        return (batches[index] for index in range(start, total))
    # spawned, not forked: this process runs threads
    options: dict[str, Any] = {"num_workers": settings.workers, "multiprocessing_context": "spawn"}
    options |= {"worker_init_fn": worker_ends_with_parent}
    with deaf_to_ctrl_c():
        return iter(DataLoader(batches, batch_size=None, sampler=range(start, total), **options))


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches for a card: while one is used the next is made, in memory that the card can copy from by itself."""

    def pinned() -> Batch | None:
        batch = next(batches, None)
        return None if batch is None else Batch(*(part.pin_memory() for part in batch))

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(pinned)
        while (batch := coming.result()) is not None:
            coming = thread.submit(pinned)
            yield batch
