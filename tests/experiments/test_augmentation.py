"""Recordings shifted in channels and blended: against loops over their spikes; in training only; planted bugs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import caught, planted

from hetsyn_plugins.experiments.data import augmentation as module
from hetsyn_plugins.experiments.data.cochlea import Spikes
from hetsyn_plugins.experiments.data.shd import Recordings, write_recordings
from hetsyn_plugins.experiments.tasks.speech import Speech

EMPTY = 3, 4  # a recording without spikes, and one whose partner has none


def recordings(seed: int, n: int = 6, empty: int = EMPTY[0]) -> Recordings:
    """Some with their spikes at the edges of the ear, one with none."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(20, 40, n)
    counts[empty] = 0
    offsets = np.concatenate([[0], np.cumsum(counts)])
    units = rng.integers(0, 700, offsets[-1]).astype(np.uint16)
    units[:8] = [0, 1, 2, 3, 699, 698, 697, 696]
    return Recordings(rng.uniform(0, 1, offsets[-1]), units, offsets, np.arange(n) % 2, np.arange(n))


def rows(all_of_them: Recordings) -> Iterator[tuple[list[float], list[int]]]:
    """Times and channels, recording by recording."""
    for start, stop in zip(all_of_them.offsets[:-1], all_of_them.offsets[1:], strict=True):
        yield all_of_them.times[start:stop].tolist(), all_of_them.units[start:stop].tolist()


def check_shift(augmentation: Any = module) -> None:
    """Every spike of a recording moves by the same whole number of channels; what leaves the ear is lost."""
    before, seen = recordings(0, 200), Counter[int]()
    after = augmentation.shifted(before, 3, np.random.default_rng(1))
    assert after.units.dtype == before.units.dtype
    for (times, units), (new_times, new_units) in zip(rows(before), rows(after), strict=True):
        fits = []
        for by in range(-3, 4):
            moved = [(t, u + by) for t, u in zip(times, units, strict=True) if 0 <= u + by < 700]
            fits += [by] if moved == list(zip(new_times, new_units, strict=True)) else []
        assert fits, "no such shift"
        seen.update(fits if len(fits) == 1 else [])
    assert sorted(seen) == [-3, -2, -1, 0, 1, 2, 3], "all shifts alike"
    assert max(seen.values()) < 60, "all shifts alike"  # 199 draws of 1 in 7: mean 28, s.d. 5


def check_blend(augmentation: Any = module) -> None:
    """Of either half of the spikes, the partner's moved so that mean times and channels meet; others are left alone."""
    before, partners = recordings(0), recordings(7, empty=EMPTY[1])
    chosen = np.array([True, True, False, True, True, True])
    after = augmentation.blended(before, partners, chosen, np.random.default_rng(2))
    assert after.labels is before.labels
    total = taken = 0
    for index, (mine, theirs, mixed) in enumerate(zip(rows(before), rows(partners), rows(after), strict=True)):
        if not chosen[index] or index in EMPTY:
            assert mixed == mine, "left alone"
            continue
        own = list(zip(*mine, strict=True))
        later, higher = np.mean(mine[0]) - np.mean(theirs[0]), round(np.mean(mine[1]) - np.mean(theirs[1]))
        moved = [(t + later, u + higher) for t, u in zip(*theirs, strict=True)]
        heard = [spike for spike in moved if spike[0] >= 0 and 0 <= spike[1] < 700]
        for time, unit in zip(*mixed, strict=True):
            near = [spike for spike in own + heard if spike[1] == unit and abs(spike[0] - time) < 1e-12]
            assert near, "a spike of neither"
        assert len(set(zip(*mixed, strict=True))) == len(mixed[0]), "a spike twice"
        total += len(own) + len(heard)
        taken += len(mixed[0])
    assert abs(taken - total / 2) < 4 * np.sqrt(total) / 2, "half of the spikes"


def check_partners(augmentation: Any = module) -> None:
    """Of the same class, of those to train on, and never the recording itself but where it is alone."""
    labels = np.array([0, 0, 0, 1, 1, 2, 0])
    drawn: dict[int, set[int]] = {row: set() for row in (0, 3, 5)}
    for seed in range(50):
        found = augmentation.partners_of(np.array([0, 3, 5]), np.arange(6), labels, np.random.default_rng(seed))
        for row, partner in zip(drawn, found.tolist(), strict=True):
            drawn[row].add(partner)
    assert drawn == {0: {1, 2}, 3: {4}, 5: {5}}


CHECKS = [check_shift, check_blend, check_partners]


@pytest.mark.parametrize("check", CHECKS)
def test_against_loops(check: Any) -> None:
    check()


def test_classes_do_not_blend() -> None:
    one, other = recordings(0), recordings(0).take(np.array([1, 0, 2, 3, 4, 5]))
    with pytest.raises(ValueError, match="partners: expected recordings of the same classes"):
        module.blended(one, other, np.ones(6, bool), np.random.default_rng(0))


def test_training_has_it_anew_in_every_batch_and_held_out_sets_never(tmp_path: Path) -> None:
    """And without it training's batches are what they were."""
    rng = np.random.default_rng(0)
    spikes = [Spikes(np.sort(rng.uniform(0, 0.2, 60)), rng.integers(0, 700, 60)) for _ in range(12)]
    for part in ("train", "test"):
        path = tmp_path / f"shd_{part}.h5"
        labels, speakers = np.arange(12) % 3, np.arange(12) // 4
        write_recordings(path, spikes, labels, speakers, words=["a", "b", "c"], genders=["f", "m", "f"])
    plain = Speech(source=str(tmp_path), deletion=0.1)
    for changes in ({"shift": 40}, {"blend": 1.0}):
        task = Speech(source=str(tmp_path), deletion=0.1, **changes)
        assert not Speech(source=str(tmp_path), **changes).samples_stay
        first, again, next_epoch = (task.training_batch(index, 8, 0).inputs for index in (0, 0, 1))
        assert (first == again).all() and not (first == plain.training_batch(0, 8, 0).inputs).all()
        assert not (first == next_epoch).all()
        for split in ("validation", "test"):
            for ours, theirs in zip(task.held_out(split, 12, 0), plain.held_out(split, 12, 0), strict=True):
                assert (ours.inputs == theirs.inputs).all()


@pytest.mark.parametrize(
    "changes, says",
    [({"shift": -1}, "shift: expected 0 to 699 channels, got -1"), ({"shift": 700}, "shift: expected 0 to 699"),
     ({"blend": 1.5}, "blend: expected a chance from 0 to 1, got 1.5")],
)  # fmt: skip
def test_settings_that_are_refused(changes: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Speech(**changes)


BUGS = [
    ("shifts go up only", "integers(-most, most", "integers(0, most", check_shift, "all shifts alike"),
    ("one shift for all", "rng.integers(-most, most, len(recordings), endpoint=True)",
     "np.full(len(recordings), rng.integers(-most, most))", check_shift, "all shifts alike"),
    ("channels wrap around", "heard = (times >= 0) & (units >= 0) & (units < shd.CHANNELS)",
     "units = units % shd.CHANNELS; heard = times >= 0", check_shift, "no such shift"),
    ("middles stay apart", "_moved(partners, times, np", "_moved(partners, 0 * times, np", check_blend, "of neither"),
    ("all spikes of both", "< 0.5", "< 1.5", check_blend, "half of the spikes"),
    ("everything is blended", "ours |= ~chosen[_sample(recordings)]", "ours |= False", check_blend, "left alone"),
    ("the empty one is blended", "chosen = chosen & with_spikes", "pass", check_blend, "left alone"),
    ("own partner", " & (among != row)", "", check_partners, "assert"),
    ("any class", "(labels[among] == labels[row])", "(labels[among] >= 0)", check_partners, "assert"),
    ("partners of all rows", "others = among[(labels[among] == labels[row]) & (among != row)]",
     "others = np.flatnonzero((labels == labels[row]) & (np.arange(len(labels)) != row))", check_partners, "assert"),
]  # fmt: skip


@pytest.mark.parametrize("name, old, new, check, says", BUGS, ids=[bug[0] for bug in BUGS])
def test_planted_bugs_are_caught(name: str, old: str, new: str, check: Any, says: str) -> None:
    with planted(module.__name__, old, new) as augmentation, caught(says):
        check(augmentation)
