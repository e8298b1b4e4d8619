"""Delayed match-to-sample: when which lines spike, how often, what the label is, and how decisions are judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from planting import caught, changed

from hetsyn_plugins.experiments.tasks import dms
from hetsyn_plugins.experiments.tasks.task import Activity

LEFT, RIGHT, NOISE = slice(0, 10), slice(10, 20), slice(20, 30)
CUES = [slice(10, 30), slice(190, 210)]

TASK, DMS = "hetsyn_plugins.experiments.tasks.task", "hetsyn_plugins.experiments.tasks.dms"


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
        by_side = shares(data.spikes, cue)
        assert (by_side.min(0) == 0).all() and abs(by_side.max(0).mean() - 0.2) < 0.005
        assert 0.4 < (by_side[0] > 0).mean() < 0.6
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
    differ = (one.spikes != other.spikes).any() and (one.labels != other.labels).any()
    assert differ, "another seed, other samples"


def test_what_a_seed_gives_stays_what_it_was(module: Any) -> None:
    """From one generator: the sides of both cues, then a number for every step, sample, group and line."""
    for seed, source in ((3, 3), (3, np.random.default_rng(3)), (4, 4)):
        rng = np.random.default_rng(seed)
        sides, uniform = rng.integers(0, 2, (2, 5)), rng.random((210, 5, 3, 10))
        data = module.draw(5, source)
        for sample in range(5):
            chance = np.zeros((210, 3, 10))
            chance[:, 2] = 10.0 * 5e-3
            for cue, side in zip(CUES, sides[:, sample], strict=True):
                chance[cue, side] = 40.0 * 5e-3
            expected = (uniform[:, sample] < chance).reshape(210, 30)
            np.testing.assert_array_equal(data.spikes[:, sample], expected)
            assert data.labels[sample] == (sides[0, sample] == sides[1, sample])


def test_batches_are_draws_with_the_tasks_settings(module: Any) -> None:
    task = module.DelayedMatchToSample(group=3, delay=50e-3, noise_rate=200.0, test_samples=7)
    batch = task.training_batch(0, 4, 0)
    assert (task.lines, task.outputs, task.batches(32), task.measure) == (9, 2, 1, "accuracy")
    assert batch.inputs.shape == (60, 4, 9) and batch.inputs.dtype == torch.float32
    assert batch.target.shape == (4,) and batch.target.dtype == torch.int64
    assert (batch.inputs[:, :, 6:] == 1).all(), "one a step"
    for split in ("validation", "test"):
        (full,) = task.held_out(split, 100, 4)
        parts = list(task.held_out(split, 3, 4))
        assert [tuple(part.inputs.shape) for part in parts] == [(60, 3, 9), (60, 3, 9), (60, 1, 9)]
        assert torch.equal(torch.cat([part.inputs for part in parts], 1), full.inputs), (
            "held-out samples whatever the batch size"
        )
        assert torch.equal(torch.cat([part.target for part in parts]), full.target), (
            "held-out labels whatever the batch size"
        )


def test_no_two_samples_of_a_run_are_the_same(module: Any) -> None:
    task = module.DelayedMatchToSample(test_samples=20)
    batches = [task.training_batch(index, 20, seed) for index in range(3) for seed in (0, 1)]
    batches += [batch for split in ("validation", "test") for seed in (0, 1) for batch in task.held_out(split, 9, seed)]
    samples = torch.cat([batch.inputs for batch in batches], 1)
    assert samples.shape[1] == 200 and len({sample.numpy().tobytes() for sample in samples.unbind(1)}) == 200
    assert torch.equal(task.training_batch(2, 20, 1).inputs, batches[5].inputs)


def test_loss_and_score_against_numpy(module: Any) -> None:
    """Cross-entropy of the last step's v, and 0.01 * the mean over the neurons of ((rate - 10 Hz) / 10 Hz)^2."""
    rng = np.random.default_rng(0)
    readout, labels = rng.standard_normal((40, 3, 2)), np.array([0, 1, 1])
    readout[-1] = [[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]]
    layers = [rng.random((40, 3, n)) < p for n, p in ((4, 0.2), (2, 0.5))]
    activity = Activity(torch.from_numpy(readout), tuple(torch.from_numpy(z).double() for z in layers))
    task = module.DelayedMatchToSample(dt=2e-3)
    np.testing.assert_array_equal(task.score(activity, torch.from_numpy(labels)), [0.0, 0.0, 1.0])
    entropy = np.log(1 + np.exp([1.0, 1.5, -3.0])).mean()  # log(1 + exp(v of the other - v of the label))
    rates = [z[:, :, i].sum() / (3 * 40 * 2e-3) for z in layers for i in range(z.shape[2])]  # of 40 steps of 2 ms
    penalty = sum(((rate - 10) / 10) ** 2 for rate in rates) / 6
    loss = task.loss(activity, torch.from_numpy(labels))
    np.testing.assert_allclose(loss, entropy + 0.01 * penalty)


def test_every_number_is_an_argument(module: Any) -> None:
    long = module.draw(50, delay=2.5, noise_rate=20.0)
    assert long.spikes.shape == (550, 50, 30)
    np.testing.assert_allclose(long.spikes[:, :, NOISE].mean(), 0.1, atol=0.003)
    assert not long.spikes[30:530, :, :20].any() and long.spikes[530:550, :, :20].any()
    small = module.draw(50, dt=1e-3, group=3, onset=0.0, cue=20e-3, delay=0.0, cue_rate=500.0, noise_rate=0.0)
    assert small.spikes.shape == (40, 50, 9) and not small.spikes[:, :, 6:].any()
    np.testing.assert_allclose(small.spikes[:, :, :6].mean(), 0.25, atol=0.02)


def test_noise_on_the_cues_lines_is_throughout_and_beside_the_cues(module: Any) -> None:
    noisy, usual = module.draw(200, cue_noise=20.0), module.draw(200)
    pause = noisy.spikes[30:190]
    np.testing.assert_allclose(pause[:, :, :20].mean(), 0.1, atol=0.003)
    np.testing.assert_allclose(shares(noisy.spikes, CUES[0]).max(0).mean(), 0.3, atol=0.01)
    np.testing.assert_array_equal(noisy.spikes[:, :, NOISE], usual.spikes[:, :, NOISE])
    np.testing.assert_array_equal(noisy.labels, usual.labels)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"samples": 0}, "samples: expected a whole number > 0, got 0"),
        ({"group": 1.5}, "group: expected a whole number > 0, got 1.5"),
        ({"dt": 0.0}, "dt: expected a step length in seconds"),
        ({"dt": float("inf")}, "dt: expected a step length in seconds"),
        ({"cue": 1e-3}, "cue: expected at least 1 steps of 0.005 s, got 0.001 s"),
        ({"cue": float("nan")}, "cue: expected at least 1 steps of 0.005 s, got nan s"),
        ({"onset": -0.1}, "onset: expected at least 0 steps"),
        ({"delay": -0.1}, "delay: expected at least 0 steps"),
        ({"cue_rate": 201.0}, "cue_rate: expected 0 to 200 spikes a second"),
        ({"noise_rate": -1.0}, "noise_rate: expected 0 to 200 spikes a second"),
        ({"noise_rate": float("nan")}, "noise_rate: expected 0 to 200 spikes a second"),
        ({"cue_noise": 161.0}, r"cue_noise \+ cue_rate: expected 0 to 200 spikes a second"),
        ({"test_samples": 0}, "test_samples: expected a whole number > 0, got 0"),
    ],
)
def test_wrong_numbers(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        dms.draw(**{"samples": 2, **arguments})


WAS, BATCHES = test_what_a_seed_gives_stays_what_it_was, test_batches_are_draws_with_the_tasks_settings
APART, LOSS = test_no_two_samples_of_a_run_are_the_same, test_loss_and_score_against_numpy


class Bug(NamedTuple):
    """A piece of source text replaced, the check that must notice, and what its error must say."""

    name: str
    old: str
    new: str
    check: Callable[..., None]
    says: str
    error: type[BaseException] = AssertionError
    module: str = DMS
    times: int = 1


BUGS = [
    Bug(
        "the label is turned round",
        "sides[0] == sides[1]",
        "sides[0] != sides[1]",
        test_the_label_says_whether_the_sides_match,
        "Mismatched elements: 300 / 300",
    ),
    Bug(
        "always the same side",
        "strict=True):\n            chance",
        "strict=True):\n            side = 0\n            chance",
        test_the_papers_numbers,
        "< 0.6",
    ),
    Bug(
        "the second cue starts with the pause",
        "before + shown + pause), sides",
        "before + shown), sides",
        test_the_papers_numbers,
        "< 0.005",
    ),
    Bug(
        "no noise in the cues",
        "= self.cue_rate * self.dt",
        "= self.cue_rate * self.dt; chance[start : start + shown, :, 2] = 0",
        test_the_papers_numbers,
        "atol=0.02",
    ),
    Bug(
        "the seed is ignored",
        "default_rng(seed)",
        "default_rng(0)",
        test_a_seed_draws_the_same_samples,
        "another seed, other samples",
    ),
    Bug(
        "nothing is the same twice",
        "default_rng(seed)",
        "default_rng()",
        test_a_seed_draws_the_same_samples,
        "Arrays are not equal",
    ),
    Bug("noise of 10 Hz for good", "= self.noise_rate *", "= 10.0 *", test_every_number_is_an_argument, "atol=0.003"),
    Bug(
        "a number is drawn before the sides",
        "sides = rng",
        "rng.random(9); sides = rng",
        WAS,
        "Mismatched elements: 327 / 6300",
    ),
    Bug(
        "a batch of another size",
        "self.drawn_batch(batch,",
        "self.drawn_batch(batch + 1,",
        BATCHES,
        "60, 5, 9",
        module=TASK,
    ),
    Bug(
        "held-out labels of the first batch",
        "labels.split(batch)",
        "[labels[:batch]] * 3",
        BATCHES,
        "held-out labels whatever the batch size",
    ),
    Bug(
        "a held-out set of its own for each batch size",
        "split, 0)",
        "split, batch)",
        BATCHES,
        "held-out samples whatever the batch size",
    ),
    Bug("the index is ignored", '"train", index)', '"train", 0)', APART, "and 120 == 200", module=TASK),
    Bug("the run's seed is ignored", "generator(seed, ", "generator(0, ", APART, "and 160 == 200"),
    Bug(
        "the test set is the validation set", "generator(seed, split", 'generator(seed, "test"', APART, "and 160 == 200"
    ),
    Bug("decided at the first step", "readout[-1]", "readout[0]", LOSS, "Mismatched elements: 1 / 3", times=2),
    Bug("the rate term in full", "0.01 * rate_penalty", "rate_penalty", LOSS, "array(232.229421)"),
    Bug("rates of 5 ms for good", "activity.spikes, self.dt", "activity.spikes, 5e-3", LOSS, "array(1.329421)"),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug) -> None:
    fresh = changed(bug.module, bug.old, bug.new, around=(TASK, DMS), times=bug.times)
    with caught(bug.says, bug.error):
        bug.check(fresh[DMS])
