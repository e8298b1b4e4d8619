"""Delayed match-to-sample (Deng et al. 2025): was the second cue on the same side as the first, a long pause ago?

Lines: 10 left, 10 right, 10 noise. A cue is Poisson spikes on the left or the right group; the noise group fires
throughout, and during the pause nothing else does. With the paper's numbers and steps of 5 ms:

    0 ms        50 ms       150 ms                        950 ms      1050 ms
    |  nothing  |   cue 1   |   pause of 800 ms           |   cue 2   |  decision

A line spikes at most once a step, with probability rate * dt.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hetsyn_plugins.params import Array, checked_dt


class DMS(NamedTuple):
    """Spikes (T, B, 3 * group) of 0 and 1, float32, and labels (B,): 1 match, 0 mismatch."""

    spikes: Array
    labels: np.ndarray


def draw(
    samples: int,
    seed: int = 0,
    *,
    dt: float = 5e-3,
    group: int = 10,
    onset: float = 50e-3,
    cue: float = 100e-3,
    delay: float = 800e-3,
    cue_rate: float = 40.0,
    noise_rate: float = 10.0,
) -> DMS:
    """So many samples, the same ones for the same seed.

    dt, onset, cue, delay   seconds: a step, from the start to cue 1, the length of a cue, from cue 1's end to cue 2
    group                   lines on the left, on the right, and of noise
    cue_rate, noise_rate    spikes a second, at most one a step

    The decision is due at the last step, the last one of cue 2. Raises ValueError for numbers that give no such task.
    """
    checked_dt(dt)
    for name, number in (("samples", samples), ("group", group)):
        if number != int(number) or number < 1:
            raise ValueError(f"{name}: expected a whole number, at least 1, got {number}")
    before, shown, pause = (round(seconds / dt) for seconds in (onset, cue, delay))
    for name, steps, least in (("onset", before, 0), ("cue", shown, 1), ("delay", pause, 0)):
        if steps < least:
            raise ValueError(f"{name}: expected at least {least} steps of {dt} s, got {steps}")
    for name, rate in (("cue_rate", cue_rate), ("noise_rate", noise_rate)):
        if not 0 <= rate * dt <= 1:
            raise ValueError(f"{name}: expected 0 to {1 / dt:g} spikes a second (one a step of {dt} s), got {rate}")
    rng = np.random.default_rng(seed)
    sides = rng.integers(0, 2, (2, samples))  # of the two cues: 0 left, 1 right
    chance = np.zeros((before + 2 * shown + pause, samples, 3, group))
    chance[:, :, 2] = noise_rate * dt
    for start, side in zip((before, before + shown + pause), sides, strict=True):
        chance[start : start + shown, np.arange(samples), side] = cue_rate * dt
    spikes = rng.random(chance.shape) < chance
    return DMS(spikes.reshape(len(spikes), samples, -1).astype(np.float32), (sides[0] == sides[1]).astype(np.int64))
