"""What a task is: where its batches come from, what a network is to make of them, and how well it did.

Every batch is a pure function of (seed, split, index): nothing is drawn from a global generator and nothing depends on
what was drawn before, so batches are the same in any process, in any order and with any number of workers, and a run
that was killed goes on with the very batches it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


class Batch(NamedTuple):
    """Inputs (T, B, M), float32, and the target: labels (B,), int64, or a curve (T, B, K), float32."""

    inputs: Tensor
    target: Tensor


class Activity(NamedTuple):
    """What a network did: v of the readout (T, B, K), and the spikes (T, B, N) of each hidden layer."""

    readout: Tensor
    spikes: tuple[Tensor, ...]


@dataclass(frozen=True)
class Task:
    """The base of all tasks; the fields of a subclass are its settings (`hetsyn train NAME --set task.FIELD=VALUE`).

    dt   length of a step in seconds

    A subclass gives `name`, `lines`, `outputs`, `loss`, `score` and either kind of batches: drawn (`draw`) or taken
    from data. `paper` has the paper's settings of network and training where they differ from the general defaults.
    """

    name: ClassVar[str]
    measure: ClassVar[str] = "accuracy"  # what `score` is: "accuracy" (more is better) or "MSE" (less is)
    drawn: ClassVar[bool] = False  # every batch is drawn anew, and there is no epoch but a batch
    paper: ClassVar[Mapping[str, Any]] = {}  # "network.tau_reset": 40e-3, ...

    dt: float = 1e-3

    @property
    def lines(self) -> int:
        """Input lines M."""
        raise NotImplementedError

    @property
    def outputs(self) -> int:
        """Readouts K."""
        raise NotImplementedError

    def batches(self, batch: int) -> int:
        """Training batches of this size in an epoch; a task that draws its samples calls every batch an epoch."""
        raise NotImplementedError

    def training_batch(self, index: int, batch: int, seed: int) -> Batch:
        """The index-th batch of the training of this seed, counted over all epochs."""
        raise NotImplementedError

    def held_out(self, split: str, batch: int, seed: int) -> Iterator[Batch]:
        """All samples of "validation" or "test", in batches of at most this size."""
        raise NotImplementedError

    def loss(self, activity: Activity, target: Tensor) -> Tensor:
        """What training makes small: ()."""
        raise NotImplementedError

    def score(self, activity: Activity, target: Tensor) -> Tensor:
        """How each sample came out, (B,): 1 right and 0 wrong, or its error; the mean over samples is the measure."""
        raise NotImplementedError


def generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The generator of the index-th batch (or epoch) of a split: streams of different splits never meet.

    Raises ValueError for a split that is none of SPLITS, and for a seed that is no number of 32 bits.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"seed: expected 0 to {(1 << 32) - 1}, got {seed}")
    return np.random.default_rng([seed, SPLITS.index(split), index])


def rate_penalty(spikes: tuple[Tensor, ...], dt: float, rate: float = 10.0) -> Tensor:
    """Mean over hidden neurons of ((rate_i - rate) / rate)^2, rates in spikes a second over time and batch: the term
    that the paper adds to the loss of pattern generation and DMS, there times 0.01."""
    rates = torch.cat([z.mean((0, 1)) for z in spikes]) / dt
    return ((rates - rate) / rate).square().mean()


def shuffled(samples: int, index: int, batch: int, seed: int) -> np.ndarray:
    """Which samples are in the index-th batch: every epoch is a permutation of its own, its last batch maybe short."""
    an_epoch = -(-samples // batch)
    epoch, within = divmod(index, an_epoch)
    order = generator(seed, "train", epoch).permutation(samples)
    return order[within * batch : (within + 1) * batch]


def accuracy_of(v: Tensor, target: Tensor) -> Tensor:
    """1 where the largest of v (B, K) is the target's, else 0: (B,)."""
    return (v.argmax(1) == target).float()


def check_steps(name: str, seconds: float, dt: float, least: int) -> None:
    """Raise ValueError where the whole number of steps nearest to so many seconds is below `least`."""
    if not (isfinite(seconds / dt) and round(seconds / dt) >= least):
        raise ValueError(f"{name}: expected at least {least} steps of {dt} s, got {seconds} s")


def check_rate(name: str, rate: float, dt: float) -> None:
    """Raise ValueError where Poisson spikes at this rate would need more than one a step."""
    if not 0 <= rate * dt <= 1:
        raise ValueError(f"{name}: expected 0 to {1 / dt:g} spikes a second (one a step of {dt} s), got {rate}")
