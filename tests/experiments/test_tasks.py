"""What all tasks promise of their batches: pure functions of seed, split and index, in any order and any process."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_images import idx_files
from test_own import arrays, written
from test_speech import recorded
from torch.utils.data import DataLoader, Dataset

from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.tasks import TASKS
from hetsyn_plugins.experiments.tasks.dms import DelayedMatchToSample
from hetsyn_plugins.experiments.tasks.images import SequentialImages
from hetsyn_plugins.experiments.tasks.own import OwnData
from hetsyn_plugins.experiments.tasks.patterns import PatternGeneration
from hetsyn_plugins.experiments.tasks.speech import Speech
from hetsyn_plugins.experiments.tasks.task import Batch, Padded, Task, checked_batch

DRAWN: dict[str, Callable[[], Task]] = {
    "patterns": lambda: PatternGeneration(lines=10, test_samples=7),
    "dms": lambda: DelayedMatchToSample(test_samples=7),
}


def tasks(folder: Path) -> dict[str, Task]:
    """Every task, small; with noise in time where it has some."""
    noise: dict[str, Any] = {"deletion": 0.3, "test_deletion": 0.3, "test_warp": 0.5}
    made = {name: make() for name, make in DRAWN.items()}
    return made | {
        "images": SequentialImages(source=str(folder)),
        "speech": Speech(source=str(folder), validation=0.25, **noise),
        "own": OwnData(source=str(folder / "mine.npz"), validation=0.25),
    }


class Batches(Dataset[list[Batch]]):
    """Item i: the i-th training batch and the i-th held-out ones of every task; at module level, for workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> list[Batch]:
        batches = []
        for task in tasks(self.folder).values():
            batches.append(task.training_batch(index, 4, 5))
            batches += [list(task.held_out(split, 2, 5))[index // 2] for split in ("validation", "test")]
        return batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, recordings and own data, few of each."""
    made = recorded(idx_files(tmp_path_factory.mktemp("data")))
    written(made, **arrays(lengths=True))
    return made


def test_every_task_is_here(folder: Path) -> None:
    assert set(tasks(folder)) == set(TASKS)


def test_batches_do_not_depend_on_order_workers_or_process(folder: Path) -> None:
    """Spawned workers are processes of their own, with hash seeds of their own."""
    items = Batches(folder)
    expected = [items[index] for index in reversed(range(len(items)))][::-1]
    loaded = list(DataLoader(items, batch_size=None, num_workers=2, multiprocessing_context="spawn"))
    assert len(loaded) == len(items)
    for ours, theirs in zip(expected, loaded, strict=True):
        for batch, other in zip(ours, theirs, strict=True):
            assert isinstance(other, Batch | Padded)
            assert torch.equal(batch.inputs, other.inputs) and torch.equal(batch.target, other.target)
    assert not torch.equal(expected[0][0].inputs, expected[1][0].inputs)


def test_a_label_beyond_the_outputs_is_named_where_whole_numbers_are_labels() -> None:
    inputs = torch.zeros(6, 4, 3)
    for label in (-1, 3):
        for kind in (torch.int64, torch.int8):
            batch = Batch(inputs, torch.tensor([0, 2, label, 7], dtype=kind))
            with pytest.raises(ValueError, match=rf"^target\[2\]: expected a label from 0 to 2, .*, got {label}$"):
                checked_batch(batch, 3)
            assert checked_batch(batch) is batch
    for no_label in (torch.full((4,), 7.0), torch.full((6, 4, 1), 7)):
        checked_batch(Batch(inputs, no_label), 3)
    assert load_config("dms").task.label_count == 2 and load_config("patterns").task.label_count is None


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (torch.zeros(6), "target: expected 4, one a sample .* got shape \\(6,\\); 6 is T: .* batch_first=True"),
        (torch.zeros(5), "target: expected 4, one a sample .* got shape \\(5,\\)$"),
        (torch.zeros(4, 6, 1), "target: expected .* got \\(4, 6, 1\\); time and batch look swapped in one of them"),
        (torch.zeros(5, 4, 1), "target: expected .* got \\(5, 4, 1\\)$"),
    ],
    ids=["labels-swapped", "labels", "curve-swapped", "curve"],
)
def test_a_batch_whose_target_does_not_fit_is_refused(target: torch.Tensor, says: str) -> None:
    inputs = torch.zeros(6, 4, 3)
    for fits in (torch.zeros(4), torch.zeros(6, 4, 1)):
        assert checked_batch(Batch(inputs, fits)).target is fits
    with pytest.raises(ValueError, match=says):
        checked_batch(Batch(inputs, target))


def test_the_steps_of_a_task_are_those_of_a_batch_that_is_one() -> None:
    class Tuples(Task):
        def training_batch(self, index: int, batch: int, seed: int) -> Any:
            return torch.zeros(6, batch, 3), torch.zeros(batch)

    with pytest.raises(ValueError, match=r"^task: expected a Batch\(inputs, target\) of it, got tuple$"):
        Tuples().steps  # noqa: B018


@pytest.mark.parametrize("shape", [(0, 4, 3), (6, 0, 3), (6, 4, 0), (6, 4)])
def test_a_batch_of_nothing_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^inputs: expected \(T, B, M\), .* got {re.escape(str(shape))}$"):
        checked_batch(Batch(torch.zeros(shape), torch.zeros(shape[1])))
