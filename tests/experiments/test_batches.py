"""Batches on their way to a card, without one: the same ones on every way, and what stays there stays within bounds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from planting import caught, changed
from torch import Tensor

from hetsyn_plugins.experiments import batches
from hetsyn_plugins.experiments.batches import OnCard, ahead, prepared
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.tasks.task import Batch, Task

CPU = torch.device("cpu")  # in the place of a card
IMAGES = ["task.source=digits", "task.samples=50", "training.batch=16"]


def digits(*settings: str) -> Config:
    pytest.importorskip("sklearn")
    return load_config("images", [*IMAGES, *settings])


def equal(some: Iterator[Batch], others: Iterator[Batch]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(a.equal(b) and a.dtype == b.dtype for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("order", ["row", "pixel"])
def test_samples_that_stay_give_the_batches_that_are_made(order: str) -> None:
    """Of several epochs, from the middle of one on, the last batch of each short."""
    config = digits(f"task.order={order}")
    on_card = OnCard(config.task, CPU, room=1 << 30)
    assert on_card.samples is not None and on_card.samples.inputs.shape[1] == 50
    span = (config.training, 3, 2, 11)
    assert equal(on_card.training(*span), prepared(config.task, *span))


def test_samples_without_room_are_copied_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config, pinned = digits(), []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    size = 50 * (8 * 8 * 4 + 8)
    assert OnCard(config.task, CPU, room=size).samples is not None
    on_card = OnCard(config.task, CPU, room=size - 1)
    assert on_card.samples is None and on_card.room == size - 1
    span = (config.training, 3, 0, 5)
    assert equal(on_card.training(*span), prepared(config.task, *span))
    assert len(pinned) == 10


def test_what_is_drawn_anew_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    config = load_config("dms", ["training.batch=3", "task.delay=0.1"])
    on_card, span = OnCard(config.task, CPU, room=1 << 30), (config.training, 3, 0, 4)
    assert on_card.samples is None and equal(on_card.training(*span), prepared(config.task, *span))
    assert not load_config("speech", ["task.deletion=0.1"]).task.samples_stay


def test_held_out_batches_are_made_once_where_there_is_room() -> None:
    config = load_config("dms", ["task.test_samples=20", "task.delay=0.1"])
    size = sum(part.nbytes for batch in config.task.held_out("test", 7, 3) for part in batch)
    for room, made_once in ((size, True), (size - 1, False)):
        on_card = OnCard(config.task, CPU, room=room)
        first, second = list(on_card.held_out("test", 7, 3)), list(on_card.held_out("test", 7, 3))
        assert equal(iter(first), config.task.held_out("test", 7, 3)) and equal(iter(second), iter(first))
        assert (first[0] is second[0]) == made_once and on_card.room >= 0
        assert not equal(on_card.held_out("test", 7, 4), iter(first)), "of another seed"


def test_labels_are_looked_at_before_they_are_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a label beyond the outputs would end the process's use of the card."""
    images, drawn = digits().task, load_config("dms", ["task.test_samples=20", "task.delay=0.1"]).task
    monkeypatch.setattr(Task, "label_count", 1)
    with pytest.raises(ValueError, match=r"target.* expected a label"):
        OnCard(images, CPU, room=1 << 30)
    with pytest.raises(ValueError, match=r"target.* expected a label"):
        list(OnCard(drawn, CPU, room=0).held_out("test", 7, 3))


def test_a_batch_that_cannot_be_made_is_no_end_of_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)

    def broken() -> Iterator[Batch]:
        yield Batch(torch.zeros(1), torch.zeros(1))
        raise MemoryError("of the second")

    coming = ahead(broken())
    next(coming)
    with pytest.raises(MemoryError, match="of the second"):
        next(coming)


def test_a_wrong_order_on_the_card_is_caught() -> None:
    config = digits()
    span = (config.training, 3, 0, 4)
    name = batches.__name__
    planted = changed(name, "index_select(axis, order)", "index_select(axis, order.flip(0) if axis == 0 else order)")[
        name
    ]
    with caught("the labels of others"):
        assert equal(planted.OnCard(config.task, CPU, room=1 << 30).training(*span), prepared(config.task, *span)), (
            "the labels of others"
        )
