"""Pattern generation (Deng et al. 2025): a curve of 2 s out of three repeats of the same half second of spikes.

    0 ms             500 ms      750 ms           1250 ms     1500 ms          2000 ms
    |  the segment   |  silence  |  the segment   |  silence  |  the segment   |      + noise throughout

The segment is Poisson spikes at 10 Hz on every line, the noise at 2 Hz; a line spikes at most once a step, with
probability rate * dt, and a step in which both spike counts once. The target is a sum of five cosines. What has to be
put out differs from repeat to repeat and in the silences, so that only a memory of seconds helps.

A run's seed fixes its segment and its target; the noise is drawn anew for every sample. Where the paper is silent, this
is our reading: the cosines are at 0.5, 1, 1.5, 2 and 2.5 Hz (it says: base 0.5 Hz); the curve is scaled by its smallest
and its largest value, which become -1 and 1; steps are of 1 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.validation import checked_dt, checked_size
from hetsyn_plugins.experiments.tasks.task import (
    SPLITS,
    Activity,
    Batch,
    DrawnTask,
    check_rate,
    check_steps,
    generator,
    rate_penalty,
)

REPEATS, COSINES, BASE = 3, 5, 0.5  # of the segment; in the target; Hz


@dataclass(frozen=True)
class PatternGeneration(DrawnTask):
    """One readout whose v is to follow the target.

    lines                      with a segment and noise each
    segment, silence           seconds; a sample is three segments with a silence between
    segment_rate, noise_rate   spikes a second, at most one a step
    test_samples               in the validation set and in the test set: the run's pattern under other noise

    The defaults are the paper's, where it has one. Raises ValueError for settings that give no such task.
    """

    name: ClassVar[str] = "patterns"
    measure: ClassVar[str] = "MSE"
    paper: ClassVar[Mapping[str, Any]] = {
        "network.hidden": [100],
        "network.recurrent": False,
        "network.tau_distribution": "normal",
        "network.tau_start": [20e-3, 5e-3],
        "network.tau_reset": 20e-3,
        "network.tau_adaptation": 500e-3,
        "network.adaptation": 0.01,
        "network.surrogate": "triangular",
        "training.iterations": 1000,
        "training.batch": 1,
        "training.optimiser": "adam",
        "training.lr": 1e-3,
        "training.schedule": "step",
        "training.schedule_every": 100,
        "training.schedule_factor": 0.8,
        "training.select": "last",
    }

    lines: int = 100
    segment: float = 500e-3
    silence: float = 250e-3
    segment_rate: float = 10.0
    noise_rate: float = 2.0
    test_samples: int = 50

    def __post_init__(self) -> None:
        checked_dt(self.dt)
        for name in ("lines", "test_samples"):
            checked_size(name, getattr(self, name))
        for name in ("segment", "silence"):
            check_steps(name, getattr(self, name), self.dt, 1)
        for name in ("segment_rate", "noise_rate"):
            check_rate(name, getattr(self, name), self.dt)

    @property
    def outputs(self) -> int:
        """The curve."""
        return 1

    @property
    def segments(self) -> list[slice]:
        """The steps of each repeat of the segment."""
        length, gap = (round(seconds / self.dt) for seconds in (self.segment, self.silence))
        return [slice(start, start + length) for start in range(0, REPEATS * (length + gap), length + gap)]

    @property
    def silences(self) -> list[slice]:
        """The steps of the silences between the repeats."""
        return [slice(a.stop, b.start) for a, b in zip(self.segments, self.segments[1:], strict=False)]

    @property
    def steps(self) -> int:
        """Steps T of a sample."""
        return self.segments[-1].stop

    def drawn_batch(self, samples: int, seed: int, rng: np.random.Generator) -> Batch:
        """The pattern of this seed so many times: inputs (T, B, lines), the target (T, B, 1)."""
        return self._batch(seed, [rng] * samples)  # the noise of one after another, out of the same stream

    def held_out(self, split: str, batch: int, seed: int) -> Iterator[Batch]:
        """The `test_samples` samples of "validation" or "test", the same ones whatever the batch size."""
        for start in range(0, self.test_samples, batch):
            samples = range(start, min(start + batch, self.test_samples))
            yield self._batch(seed, (generator(seed, split, sample) for sample in samples))

    def pattern(self, seed: int) -> tuple[NDArray[np.bool_], Array]:
        """What a run of this seed is to learn: the spikes without noise (T, lines), bool, and the target (T,)."""
        rng = np.random.default_rng([seed, len(SPLITS)])  # a stream beside those of the splits
        target = self._curve(rng)  # first, so that it does not depend on the spikes' settings
        segment = rng.random((self.segments[0].stop, self.lines)) < self.segment_rate * self.dt
        spikes = np.zeros((self.steps, self.lines), bool)
        for repeat in self.segments:
            spikes[repeat] = segment
        return spikes, target

    def _curve(self, rng: np.random.Generator) -> Array:
        amplitudes, phases = rng.random(COSINES), 2 * np.pi * rng.random(COSINES)
        cycles = BASE * np.arange(1, COSINES + 1) * self.dt * np.arange(self.steps)[:, None]
        curve = np.cos(2 * np.pi * cycles + phases) @ amplitudes
        low, high = curve.min(), curve.max()
        return 2 * (curve - low) / (high - low) - 1

    def _batch(self, seed: int, noise: Iterable[np.random.Generator]) -> Batch:
        """The pattern of this seed, once for every generator, with noise from it."""
        spikes, target = self.pattern(seed)
        noisy = [spikes | (rng.random(spikes.shape) < self.noise_rate * self.dt) for rng in noise]
        inputs = torch.from_numpy(np.stack(noisy, 1).astype(np.float32))
        curve = torch.from_numpy(target.astype(np.float32))
        return Batch(inputs, curve[:, None, None].repeat(1, len(noisy), 1))

    def loss(self, activity: Activity, target: Tensor) -> Tensor:
        """The squared error, mean over time and batch, + 0.01 * the rate term, as in the paper."""
        return self.score(activity, target).mean() + 0.01 * rate_penalty(activity.spikes, self.dt)

    def score(self, activity: Activity, target: Tensor) -> Tensor:
        """The squared error of each sample, mean over time: (B,)."""
        return (activity.readout - target).square().mean((0, 2))


def repeat_distance(readout: Tensor, target: Tensor, task: PatternGeneration) -> Tensor:
    """How well the repeats of the segment are told apart: readout and target (T, B, 1) -> (B,), dimensionless.

    mean (y_a - y_b)^2 / mean (target_a - target_b)^2, each mean over the steps of the segment and the three pairs of
    repeats: 0 for one answer to all of them, 1 for the target itself.
    """
    between_outputs, between_targets = (
        torch.stack([(curve[a] - curve[b]).square().mean((0, 2)) for a, b in combinations(task.segments, 2)]).mean(0)
        for curve in (readout, target)
    )
    return between_outputs / between_targets


def gap_output(readout: Tensor, task: PatternGeneration) -> Tensor:
    """Mean |v| of the readout (T, B, 1) in the silences: (B,). Without a memory of what came before it is near 0."""
    return torch.cat([readout[gap] for gap in task.silences]).abs().mean((0, 2))
