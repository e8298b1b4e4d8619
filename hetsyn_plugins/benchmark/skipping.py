"""Gradients that skip silent sources, on a card: the dense ones' bits, and the time of both at shares of spikes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hetsyn_plugins.benchmark.peers import Shape

RATES = (0.02, 0.1, 0.5)
LOOP = 10  # calls a timing, so that the card does not wait for the host


class Case(NamedTuple):
    """Sizes; whether first currents, and gradients of the last, are given, and those of the first wanted.

    infinite  one of the gradients that come in is
    """

    steps: int
    batch: int
    m: int
    n: int
    has_initial: bool = False
    has_final: bool = False
    needs_initial: bool = False
    infinite: bool = False


# one step, and one to either side of a word's end; tiles of sources and of neurons that are not full; more tiles than a
# program of `activity` looks at
CASES = [
    Case(1, 2, 9, 4),
    Case(2, 1, 260, 4, has_final=True),
    Case(65, 2, 8, 4, has_initial=True),
    Case(40, 3, 17, 8, infinite=True),
    Case(31, 1, 1, 132, has_initial=True, has_final=True, needs_initial=True),
    Case(32, 3, 7, 8, needs_initial=True),
    Case(33, 2, 10, 4, has_initial=True, has_final=True, infinite=True),
]


def sources(steps: int, batch: int, m: int, device: str) -> Tensor:
    """Few, graded and of both signs; in the first row none for a while at first and at last, in the last row none."""
    s = torch.where(torch.rand(steps, batch, m) < 0.04, torch.randn(steps, batch, m), 0.0)
    s[: steps // 3, 0] = s[steps - steps // 4 :, 0] = 0
    s[:, 1:][:, -1:] = 0
    return s.to(device)


def differences(silence: Any, synapses: Any, device: str = "cpu") -> Iterator[str]:
    """What these modules of the GPU's kernels give otherwise, skipping, than dense, or say wrongly of who is active.

    On the CPU they have to be interpreted.
    """
    for seed, case in enumerate(CASES):
        torch.manual_seed(seed)
        s, g = sources(case.steps, case.batch, case.m, device), torch.randn(case.steps, case.batch, case.n)
        if case.infinite:
            g[case.steps // 2, 0, 0] = float("inf")
        found = silence.activity_of(s)
        if not (torch.equal(found.words.cpu(), words_of(s.cpu())) and found.counts.sum() == bits_of(s.cpu()).sum()):
            yield f"activity, {case}"
        first, last = torch.randn(2, case.batch, case.n, case.m).to(device)
        ends = (first if case.has_initial else None, last if case.has_final else None)
        pair = (torch.rand(case.n, case.m).to(device), torch.randn(case.n, case.m).to(device))
        both = (synapses.gradients(g.to(device), s, pair, ends, case.needs_initial, w) for w in (None, found.words))
        for name, one, other in zip(("weight", "decay", "first currents"), *both, strict=True):
            if one is not None and not same(one, other):
                yield f"gradient of {name}, {case}"


def same(one: Tensor, other: Tensor) -> bool:
    """The same numbers, NaN in the same places, zeros of the same sign."""
    signs = torch.where(one.isnan(), False, one.signbit()), torch.where(other.isnan(), False, other.signbit())
    return torch.equal(*signs) and torch.equal(one.nan_to_num(7.0, 8.0, 9.0), other.nan_to_num(7.0, 8.0, 9.0))


def bits_of(s: Tensor) -> Tensor:
    """(B, tiles of 8 sources, words, 32): is a source of the tile active?"""
    steps, batch, m = s.shape
    whole = s.new_zeros(steps + -steps % 32, batch, m + -m % 8)
    whole[:steps, :, :m] = s != 0
    return whole.reshape(-1, 32, batch, whole.shape[2] // 8, 8).amax(4).permute(2, 3, 0, 1).to(torch.int64)


def words_of(s: Tensor) -> Tensor:
    """The same, packed."""
    bits = bits_of(s)
    words = (bits << torch.arange(32, device=s.device)).sum(3)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


class Cost(NamedTuple):
    """Milliseconds of a layer's gradients, dense and skipping, medians; packing the words is part of the latter.

    active  the share of steps of tiles that are
    skips   what a layer does, by itself, from its second call on
    """

    shape: str
    rate: float
    dense: float
    skipping: float
    active: float
    skips: bool


def measure(label: str, shape: Shape, runs: int) -> Iterator[Cost]:
    """Both of a shape at every rate, in turns. Raises AssertionError if their bits differ."""
    from hetsyn_plugins.kernels.gpu import silence, synapses

    for rate in RATES:
        torch.manual_seed(0)
        s, g = replace(shape, rate=rate).spikes().detach(), torch.randn(shape.steps, shape.batch, shape.neurons)
        g, pair = g.to(s), tuple(torch.rand(2, shape.neurons, shape.inputs).to(s))

        def dense(g: Tensor = g, s: Tensor = s, pair: Any = pair) -> Any:
            return synapses.gradients(g, s, pair, (None, None), False)

        def skipping(g: Tensor = g, s: Tensor = s, pair: Any = pair) -> Any:
            return synapses.gradients(g, s, pair, (None, None), False, silence.activity_of(s).words)

        assert all(map(torch.equal, dense()[:2], skipping()[:2])), f"{label}: skipping gives other bits than dense"
        times = [(_milliseconds(dense, s.is_cuda), _milliseconds(skipping, s.is_cuda)) for _ in range(runs)]
        words, counts = silence.activity_of(s)
        active = counts.sum().item() / (words.shape[0] * words.shape[1] * shape.steps)
        medians = [statistics.median(of_one) for of_one in zip(*times, strict=True)]
        yield Cost(label, rate, medians[0], medians[1], active, _chosen(s, g))


def _chosen(s: Tensor, g: Tensor) -> bool:
    """Does a layer skip, that has seen such sources once?"""
    from hetsyn_plugins.kernels.gpu import silence

    silence.forget()
    silence.words_if_it_pays(s, g)
    if s.is_cuda:
        torch.cuda.synchronize()
    return silence.words_if_it_pays(s, g) is not None


def _milliseconds(run: Callable[[], Any], on_card: bool) -> float:
    """Of a call, one of LOOP: between events on a card, else by the clock."""
    if not on_card:
        began = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - began)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(LOOP):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / LOOP


def report(shapes: dict[str, Shape], runs: int, device: str) -> Iterator[str]:
    """A line a shape and rate. Raises AssertionError if what skips gives other bits than what is dense."""
    from hetsyn_plugins.kernels.gpu import silence, synapses

    if not (shapes and silence.HAS_STAGES):  # without them, in Triton 2, it is never chosen
        return
    wrong = next(differences(silence, synapses, device), None)
    assert wrong is None, f"skipping silent sources: {wrong} is not as it should be"
    for label, shape in shapes.items():
        for cost in measure(label, replace(shape, device=device), runs):
            chosen = "skips" if cost.skips else "dense"
            times = f"dense {cost.dense:.3f} ms, skipping {cost.skipping:.3f} ms"
            active = f"{cost.active:.0%} of tiles' steps active"
            yield f"gradients {label}, {cost.rate:.0%} spikes: {times}; {active}, chosen: {chosen}"
