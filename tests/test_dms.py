"""Delayed match-to-sample: when which lines spike, how often, and what the label is."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsyn_plugins.tasks import dms

LEFT, RIGHT, NOISE = slice(0, 10), slice(10, 20), slice(20, 30)
CUES = [slice(10, 30), slice(190, 210)]


@pytest.fixture
def module() -> Any:
    """The module under test; the planted bugs at the end run the same checks on changed ones."""
    return dms


def shares(spikes: Any, when: slice) -> Any:
    """Spikes a step and line of each sample's left and right group in these steps, (2, B)."""
    return np.array([spikes[when, :, group].mean((0, 2)) for group in (LEFT, RIGHT)])


def test_the_papers_numbers(module: Any) -> None:
    """30 lines, 210 steps of 5 ms; 40 Hz in a cue is 0.2 spikes a step, 10 Hz of noise 0.05, throughout."""
    data = module.draw(400)
    assert data.spikes.shape == (210, 400, 30) and data.spikes.dtype == np.float32
    assert set(np.unique(data.spikes)) == {0.0, 1.0}
    quiet = np.ones(210, bool)
    for cue in CUES:
        quiet[cue] = False
        # 20 steps of 10 lines: 40 spikes in one group of a sample, none in the other
        found = shares(data.spikes, cue)
        assert (found.min(0) == 0).all() and abs(found.max(0).mean() - 0.2) < 0.005
        assert 0.4 < (found[0] > 0).mean() < 0.6
        assert (data.spikes[cue][[0, -1], :, :20].sum((1, 2)) > 400 * 10 * 0.2 * 0.8).all(), "all of the cue's steps"
    assert not data.spikes[quiet][:, :, :20].any()
    np.testing.assert_allclose(data.spikes[:, :, NOISE].mean((1, 2)), 0.05, atol=0.02)
    np.testing.assert_allclose(data.spikes[:, :, NOISE].mean(), 0.05, atol=0.001)


def test_the_label_says_whether_the_sides_match(module: Any) -> None:
    data = module.draw(300, 5)
    first, second = (shares(data.spikes, cue).argmax(0) for cue in CUES)
    np.testing.assert_array_equal(data.labels, (first == second).astype(int))
    assert 0.4 < data.labels.mean() < 0.6
    assert {(a, b) for a, b in zip(first, second, strict=True)} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_seed_draws_the_same_samples(module: Any) -> None:
    one, same, other = module.draw(20, 1), module.draw(20, 1), module.draw(20, 2)
    np.testing.assert_array_equal(one.spikes, same.spikes)
    np.testing.assert_array_equal(one.labels, same.labels)
    assert (one.spikes != other.spikes).any() and (one.labels != other.labels).any()


def test_every_number_is_an_argument(module: Any) -> None:
    long = module.draw(50, delay=2.5, noise_rate=20.0)
    assert long.spikes.shape == (550, 50, 30)
    np.testing.assert_allclose(long.spikes[:, :, NOISE].mean(), 0.1, atol=0.003)
    assert not long.spikes[30:530, :, :20].any() and long.spikes[530:550, :, :20].any()
    small = module.draw(50, dt=1e-3, group=3, onset=0.0, cue=20e-3, delay=0.0, cue_rate=500.0, noise_rate=0.0)
    assert small.spikes.shape == (40, 50, 9) and not small.spikes[:, :, 6:].any()
    np.testing.assert_allclose(small.spikes[:, :, :6].mean(), 0.25, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"samples": 0}, "samples: expected a whole number, at least 1, got 0"),
        ({"group": 1.5}, "group: expected a whole number, at least 1, got 1.5"),
        ({"dt": 0.0}, "dt: expected a step length in seconds"),
        ({"cue": 1e-3}, "cue: expected at least 1 steps of 0.005 s, got 0"),
        ({"onset": -0.1}, "onset: expected at least 0 steps"),
        ({"delay": -0.1}, "delay: expected at least 0 steps"),
        ({"cue_rate": 201.0}, "cue_rate: expected 0 to 200 spikes a second"),
        ({"noise_rate": -1.0}, "noise_rate: expected 0 to 200 spikes a second"),
    ],
)
def test_wrong_numbers(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dms.draw(**{"samples": 2, **arguments})


BUGS: list[tuple[str, str, str, Callable[..., None]]] = [
    (
        "the label is turned round",
        "sides[0] == sides[1]",
        "sides[0] != sides[1]",
        test_the_label_says_whether_the_sides_match,
    ),
    (
        "always the same side",
        "strict=True):\n        chance",
        "strict=True):\n        side = 0\n        chance",
        test_the_papers_numbers,
    ),
    (
        "the second cue starts with the pause",
        "before + shown + pause), sides",
        "before + shown), sides",
        test_the_papers_numbers,
    ),
    (
        "no noise in the cues",
        "= cue_rate * dt",
        "= cue_rate * dt; chance[start : start + shown, :, 2] = 0",
        test_the_papers_numbers,
    ),
    ("the seed is ignored", "default_rng(seed)", "default_rng(0)", test_a_seed_draws_the_same_samples),
    ("nothing is the same twice", "default_rng(seed)", "default_rng()", test_a_seed_draws_the_same_samples),
    ("noise of 10 Hz for good", "= noise_rate * dt", "= 10.0 * dt", test_every_number_is_an_argument),
]


@pytest.mark.parametrize(("name", "old", "new", "check"), BUGS, ids=[bug[0] for bug in BUGS])
def test_planted_bugs_are_caught(name: str, old: str, new: str, check: Callable[..., None]) -> None:
    source = Path(dms.__file__).read_text()
    assert old in source, f"{name}: {old!r} is not in dms.py any more"
    changed = types.ModuleType(dms.__name__)
    exec(compile(source.replace(old, new), f"<{name}>", "exec"), changed.__dict__)
    with pytest.raises(AssertionError):
        check(changed)
