"""The short form of `tools/soak`: nothing stays of networks that are dropped; and the judge sees what would stay."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from typing import Any

import pytest
import soaking
import torch
from torch import nn

LEFT: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    yield
    for thing in LEFT:
        if hasattr(thing, "close"):
            thing.close()
        if isinstance(thing, threading.Event):
            thing.set()
    LEFT.clear()


@pytest.mark.filterwarnings("ignore")
def test_nothing_stays_of_networks_that_are_dropped() -> None:
    samples = soaking.soak(5.0)
    assert samples[-1].networks > samples[0].networks + 30, soaking.table(samples)
    assert not soaking.faults(samples), soaking.table(samples)


def waits(event: threading.Event) -> threading.Event:
    threading.Thread(target=event.wait, daemon=True).start()
    return event


def written(size: int) -> mmap.mmap:
    """Memory of its own: an allocation could be given what is free, and resident, in the heap of a long test run."""
    memory = mmap.mmap(-1, size)
    memory.write(b"x" * size)
    return memory


@pytest.mark.parametrize(
    ("leak", "says"),
    [
        (lambda work: LEFT.append(torch.zeros(3)), "tensors: "),
        (lambda work: LEFT.append(nn.Dropout()), "modules: "),
        (lambda work: LEFT.append(waits(threading.Event())), "threads: "),
        (lambda work: LEFT.append(open(__file__)), "files: "),
        (lambda work: LEFT.append(written(8_000_000)), "memory: "),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_stays_is_seen(leak: Callable[[Any], Any], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soaking.Work, "one", lambda work: setattr(work, "networks", work.networks + 1))
    monkeypatch.setattr(soaking, "SAMPLES", 12)
    found = soaking.faults(soaking.soak(0.0, leak=leak))
    assert len(found) == 1 and found[0].startswith(says), found


def test_the_table_says_what_was_and_whether_it_is_flat() -> None:
    samples = [soaking.Sample(n, n / 10, 500.0 + n / 1_000, 5, 2, 3, 6) for n in range(100, 4_100, 100)]
    text = soaking.table(samples)
    assert "+1.00 MB in 1,000 networks" in text and text.endswith(": flat") and "4,000" in text
