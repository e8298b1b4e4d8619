"""Delayed match-to-sample (Deng et al. 2025): was the second cue on the same side as the first, a long pause ago?

Lines: 10 left, 10 right, 10 noise. A cue is Poisson spikes on the left or the right group; the noise group fires
throughout, and during the pause nothing else does. With the paper's numbers and steps of 5 ms:

    0 ms        50 ms       150 ms                        950 ms      1050 ms
    |  nothing  |   cue 1   |   pause of 800 ms           |   cue 2   |  decision

A line spikes at most once a step, with probability rate * dt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.validation import checked_dt, checked_size
from hetsyn_plugins.experiments.tasks.task import (
    Activity,
    Batch,
    DrawnTask,
    accuracy_of,
    check_rate,
    check_steps,
    generator,
    rate_penalty,
)


class DMS(NamedTuple):
    """Spikes (T, B, 3 * group) of 0 and 1, float32, and labels (B,): 1 match, 0 mismatch."""

    spikes: Array
    labels: np.ndarray


@dataclass(frozen=True)
class DelayedMatchToSample(DrawnTask):
    """Two readouts, mismatch and match; the decision is the larger v at the last step, the last one of cue 2.

    dt, onset, cue, delay   seconds: a step, from the start to cue 1, the length of a cue, from cue 1's end to cue 2
    group                   lines on the left, on the right, and of noise
    cue_rate, noise_rate    spikes a second, at most one a step
    cue_noise               spikes a second of noise on the cues' lines too, throughout, beside the cue's (paper: none)
    test_samples            in the validation set and in the test set; the s.d. of an accuracy of 0.95 is then 0.007

    The defaults are the paper's, where it has one. Raises ValueError for settings that give no such task.
    """

    name: ClassVar[str] = "dms"
    line_bytes: ClassVar[int] = 20  # two of float64 while it is drawn, then one of float32
    paper: ClassVar[Mapping[str, Any]] = {
        "network.hidden": [50],
        "network.recurrent": True,
        "network.tau_distribution": "normal",
        "network.tau_start": [40e-3, 4e-3],
        "network.tau_reset": 40e-3,
        "network.tau_adaptation": 800e-3,
        "network.adaptation": 0.15,
        "network.surrogate": "triangular",
        "training.iterations": 1000,
        "training.batch": 32,
        "training.optimiser": "adam",
        "training.lr": 5e-3,
        "training.schedule": "step",
        "training.schedule_every": 100,
        "training.schedule_factor": 0.8,
        "training.select": "last",
    }

    dt: float = 5e-3
    group: int = 10
    onset: float = 50e-3
    cue: float = 100e-3
    delay: float = 800e-3
    cue_rate: float = 40.0
    noise_rate: float = 10.0
    cue_noise: float = 0.0
    test_samples: int = 1000

    def __post_init__(self) -> None:
        checked_dt(self.dt)
        for name in ("group", "test_samples"):
            checked_size(name, getattr(self, name))
        for name, least in (("onset", 0), ("cue", 1), ("delay", 0)):
            check_steps(name, getattr(self, name), self.dt, least)
        for name in ("cue_rate", "noise_rate", "cue_noise"):
            check_rate(name, getattr(self, name), self.dt)
        check_rate("cue_noise + cue_rate", self.cue_noise + self.cue_rate, self.dt)

    @property
    def lines(self) -> int:
        """Left, right and noise."""
        return 3 * self.group

    @property
    def outputs(self) -> int:
        """Mismatch and match."""
        return 2

    @property
    def steps(self) -> int:
        """Steps T of a sample."""
        before, shown, pause = self._parts
        return before + 2 * shown + pause

    @property
    def _parts(self) -> tuple[int, int, int]:
        """Steps before the first cue, of a cue and of the pause."""
        return round(self.onset / self.dt), round(self.cue / self.dt), round(self.delay / self.dt)

    def held_at_once(self, batch: int) -> int:
        """All of them: they are drawn together."""
        return self.test_samples

    def drawn_batch(self, samples: int, seed: int, rng: np.random.Generator) -> Batch:
        """So many samples: inputs (T, B, lines), labels (B,)."""
        return Batch(*map(torch.from_numpy, self.draw(samples, rng)))

    def held_out(self, split: str, batch: int, seed: int) -> Iterator[Batch]:
        """The `test_samples` samples of "validation" or "test", the same ones whatever the batch size."""
        inputs, labels = self.drawn_batch(self.test_samples, seed, generator(seed, split, 0))
        return map(Batch, inputs.split(batch, 1), labels.split(batch))

    def loss(self, activity: Activity, target: Tensor) -> Tensor:
        """Cross-entropy of the readouts v at the last step + 0.01 * the rate term, as in the paper."""
        return nn.functional.cross_entropy(activity.readout[-1], target) + 0.01 * rate_penalty(activity.spikes, self.dt)

    def score(self, activity: Activity, target: Tensor) -> Tensor:
        """1 where the decision is right: (B,)."""
        return accuracy_of(activity.readout[-1], target)

    def draw(self, samples: int, rng: np.random.Generator) -> DMS:
        """So many samples from this generator."""
        before, shown, pause = self._parts
        sides = rng.integers(0, 2, (2, samples))  # of the two cues: 0 left, 1 right
        chance = np.zeros((self.steps, samples, 3, self.group))
        chance[:, :, :2] = self.cue_noise * self.dt
        chance[:, :, 2] = self.noise_rate * self.dt
        for start, side in zip((before, before + shown + pause), sides, strict=True):
            chance[start : start + shown, np.arange(samples), side] += self.cue_rate * self.dt
        spikes = rng.random(chance.shape) < chance
        labels = (sides[0] == sides[1]).astype(np.int64)
        return DMS(spikes.reshape(len(spikes), samples, -1).astype(np.float32), labels)


def draw(samples: int, seed: int | np.random.Generator = 0, **settings: Any) -> DMS:
    """So many samples, the same ones for the same seed; the settings are those of `DelayedMatchToSample`."""
    return DelayedMatchToSample(**settings).draw(checked_size("samples", samples), np.random.default_rng(seed))
