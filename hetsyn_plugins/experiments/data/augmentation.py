"""Recordings as they might have been said otherwise, for training only: other voices, other takes.

A shift in channels is another pitch; a blend of two recordings of a class, each spike of either kept with chance 1/2,
is a take between them ("shift" and "blend" of Nowotny, Turner & Knight, arXiv 2212.01232).
"""

from __future__ import annotations

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.experiments.data import shd
from hetsyn_plugins.experiments.data.shd import Recordings


def shifted(recordings: Recordings, most: int, rng: np.random.Generator) -> Recordings:
    """Every recording moved by its own whole number of channels, -most to most alike; what leaves the ear is lost."""
    by = rng.integers(-most, most, len(recordings), endpoint=True)
    return _moved(recordings, np.zeros(len(recordings)), by)


def blended(recordings: Recordings, partners: Recordings, chosen: np.ndarray, rng: np.random.Generator) -> Recordings:
    """The chosen recordings (n,) blended with their partners, whose mean time and channel are brought to theirs first.

    Raises ValueError for other than a partner of the same class for each.
    """
    if not np.array_equal(recordings.labels, partners.labels):
        raise ValueError("partners: expected recordings of the same classes, got others")
    with_spikes = (np.diff(recordings.offsets) > 0) & (np.diff(partners.offsets) > 0)
    chosen = chosen & with_spikes  # there is no middle of nothing
    times, channels = (_means(recordings, name) - _means(partners, name) for name in ("times", "units"))
    partners = _moved(partners, times, np.rint(channels).astype(np.int64))
    both = Recordings.joined([recordings, partners])
    kept = rng.random(len(both.times)) < 0.5
    ours, theirs = np.split(kept, [len(recordings.times)])
    ours |= ~chosen[_sample(recordings)]
    theirs &= chosen[_sample(partners)]
    return _side_by_side(recordings.keep(ours), partners.keep(theirs))


def partners_of(rows: np.ndarray, among: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each of these rows another one of `among` with its label; itself where there is none."""
    drawn = rng.random(len(rows))
    partners = rows.copy()
    for at, row in enumerate(rows):
        others = among[(labels[among] == labels[row]) & (among != row)]
        if len(others):
            partners[at] = others[int(drawn[at] * len(others))]
    return partners


def _moved(recordings: Recordings, seconds: Array, channels: np.ndarray) -> Recordings:
    """Recordings moved in time and by whole channels, a number each; what leaves the window or the ear is lost."""
    sample = _sample(recordings)
    times = recordings.times + seconds[sample]
    units = recordings.units.astype(np.int64) + channels[sample]
    heard = (times >= 0) & (units >= 0) & (units < shd.CHANNELS)
    units = np.where(heard, units, 0).astype(recordings.units.dtype)
    moved = Recordings(times, units, recordings.offsets, recordings.labels, recordings.speakers)
    return moved.keep(heard)


def _side_by_side(ours: Recordings, theirs: Recordings) -> Recordings:
    """The spikes of both, recording by recording."""
    both = Recordings.joined([ours, theirs])
    n = len(ours)
    pairs = both.take(np.stack([np.arange(n), np.arange(n) + n], axis=1).ravel())
    return Recordings(pairs.times, pairs.units, pairs.offsets[::2], ours.labels, ours.speakers)


def _means(recordings: Recordings, name: str) -> Array:
    """The mean time or channel of each recording, 0 of one without spikes."""
    sums = np.bincount(_sample(recordings), getattr(recordings, name), len(recordings))
    means: Array = sums / np.maximum(np.diff(recordings.offsets), 1)
    return means


def _sample(recordings: Recordings) -> np.ndarray:
    """The recording of each spike."""
    return np.repeat(np.arange(len(recordings)), np.diff(recordings.offsets))
