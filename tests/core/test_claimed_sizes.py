"""Sizes that are claimed and not held: refused by name, with the bytes they would take, before anything is made."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import forge

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.core import memory
from hetsyn_plugins.core.convolution import Convolution
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.network import HetSynConv, HetSynLayer, Network, Pool
from hetsyn_plugins.core.unrolling import unrolled
from hetsyn_plugins.core.validation import LONGEST_DELAY
from hetsyn_plugins.exchange import checkpoint

FAR = (1 << 19, 1 << 19)
BYTES = r"which needs [\d.]+ \w+ \(\d+ bytes\) where there are [\d.]+ \w+$"
MEGABYTES = 4  # that a refusal may take


def layer(m: int = 9, **fields: Any) -> HetSynLayer:
    return HetSynLayer("a", HetSynParams(np.ones((2, m)), 0.5, reset_decay=0.5, **fields), dt=1e-3)


def conv(**changes: Any) -> HetSynConv:
    return HetSynConv(layer(), Convolution(1, 2, (3, 3), (1, 1), (1, 1), (1, 1), 1)._replace(**changes))


def pool(kind: str, size: tuple[int, int] = FAR) -> Pool:
    return Pool("p", kind, size, (1, 1), (size[0] // 2, size[1] // 2))


def run(*layers: Any, m: tuple[int, ...] = (1, 8, 8)) -> Callable[[], Any]:
    return lambda: list(Network(layers).walk(np.zeros((1, 1, *m))))


def dense(*layers: Any, size: int = 8) -> Callable[[], Any]:
    return lambda: unrolled(Network(layers), (1, size, size))


@contextmanager
def nothing_made(more: int = 0) -> Iterator[None]:
    """Inside, no more than MEGABYTES, and so many bytes more, are allocated at a time."""
    tracemalloc.start()
    try:
        yield
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < (MEGABYTES << 20) + more, f"{taken} bytes were made"


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        (dense(conv(), size=10**5), rf"unrolled: expected images with a dense .*, {BYTES}"),
        (dense(conv(), size=10**30), "unrolled: expected images with a dense matrix that"),
        (dense(conv(padding=FAR)), rf"unrolled: .* padding=\(524288, 524288\), {BYTES}"),
        (run(conv(padding=FAR)), rf"inputs: .* padding=\(524288, 524288\), {BYTES}"),
        (run(pool("largest")), rf"inputs: expected images with a table of positions that fits memory, .*, {BYTES}"),
        (dense(pool("average"), conv()), rf"unrolled: .* a table of .*, {BYTES}"),
        (run(Pool("p", "average", (30, 3), (1, 1), (1, 1))), "kernel_size: expected at most the padded input, "),
        (lambda: conv(kernel_size=3), "kernel_size: expected tuple, got int"),
        (lambda: layer(delay=1.0, max_delay=10**12), "max_delay: expected at most 16777216 steps, got 10{12}$"),
        (lambda: layer(delay=1.0, max_delay=10**5000), "max_delay: expected at most 16777216 steps, got a number of m"),
        (lambda: layer(delay=1e30), r"delay: expected delays of at most 16777216 steps, got 1e\+30"),
        (run(layer(1000, delay=1.0, max_delay=LONGEST_DELAY), m=(1000,)), rf"max_delay: .*, got 16777216, {BYTES}"),
    ],
)  # fmt: skip
def test_claims_beyond_memory(claim: Callable[[], Any], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 8 << 30)
    with nothing_made(), pytest.raises(ValueError, match=f"^{says}"):
        claim()


# ---- checkpoints: a mask has a bit for a synapse, what comes of it many bytes --------------------------------------


def masked_file(path: Path, lines: int) -> None:
    """A layer of two neurons with so many lines, of which it says that none is there."""
    checkpoint.save(Network((layer(mask=np.zeros((2, 9), bool)),)), path)

    def claim(content: dict[str, Any], arrays: dict[str, Any]) -> None:
        content["architecture"][0]["inputs"] = lines
        arrays["0.mask"] = np.zeros((2, lines // 8), np.uint8)

    forge(path, claim)


def test_a_mask_that_claims_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masked_file(path := tmp_path / "net.safetensors", 16_000_000)  # 4 MB for 32 million synapses
    monkeypatch.setattr(memory, "available", lambda: 1 << 29)
    says = rf"mask: expected synapses whose matrices fit memory, got \(2, 16000000\), {BYTES}"
    before = 3 * path.stat().st_size  # as it is read
    with nothing_made(before), pytest.raises(FileFormatError, match=says):
        checkpoint.load(path)


def test_a_mask_that_fits_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is near what it takes: not much more is asked for than that."""
    masked_file(path := tmp_path / "net.safetensors", 1 << 20)
    monkeypatch.setattr(memory, "LARGE", 0)
    monkeypatch.setattr(memory, "available", lambda: 0)
    with pytest.raises(FileFormatError, match="mask: expected") as refused:
        checkpoint.load(path)
    asked_for = int(str(refused.value).partition("(")[2].partition("(")[2].partition(" bytes")[0])
    monkeypatch.setattr(memory, "available", lambda: asked_for)
    tracemalloc.start()
    try:
        (read,) = checkpoint.load(path).layers
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read.params.mask.shape == (2, 1 << 20) and not read.params.mask.any()
    assert 0.5 * taken < asked_for < 2 * taken
