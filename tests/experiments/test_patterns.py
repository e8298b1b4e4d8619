"""Pattern generation: when which lines spike, what the curve is made of, and how outputs are judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from planting import caught, changed

from hetsyn_plugins.experiments.tasks import patterns
from hetsyn_plugins.experiments.tasks.patterns import PatternGeneration
from hetsyn_plugins.experiments.tasks.task import Activity

SEGMENTS = [slice(0, 500), slice(750, 1250), slice(1500, 2000)]  # of 1 ms, as the paper describes them
SILENCES = [slice(500, 750), slice(1250, 1500)]

TASK, PATTERNS = "hetsyn_plugins.experiments.tasks.task", "hetsyn_plugins.experiments.tasks.patterns"


@pytest.fixture
def module() -> Any:
    """The module under test; the planted bugs at the end run the same checks on changed ones."""
    return patterns


def assert_share(events: Any, p: float) -> None:
    """So many of these booleans are true; 5 standard deviations of a binomial share, sqrt(p (1 - p) / n), of room."""
    assert abs(events.mean() - p) < 5 * np.sqrt(p * (1 - p) / events.size), f"{events.mean()}, not {p}"


def test_layout(module: Any) -> None:
    """One segment three times, and nothing in between, before the noise."""
    task = module.PatternGeneration()
    spikes, target = task.pattern(0)
    assert spikes.shape == (2000, 100) and target.shape == (2000,)
    assert (task.segments, task.silences, task.steps) == (SEGMENTS, SILENCES, 2000)
    first, second, third = (spikes[segment] for segment in SEGMENTS)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    assert_share(first, 10 * 1e-3)
    for silence in SILENCES:
        assert not spikes[silence].any()
    assert (task.lines, task.outputs, task.batches(1), task.measure) == (100, 1, 1, "MSE")


def test_noise_is_on_every_line_at_every_step_and_takes_no_spike_away(module: Any) -> None:
    task = module.PatternGeneration()
    spikes, target = task.pattern(0)
    batch = task.training_batch(0, 20, 0)
    assert batch.inputs.shape == (2000, 20, 100) and batch.inputs.dtype == torch.float32
    assert batch.target.shape == (2000, 20, 1) and batch.target.dtype == torch.float32
    assert set(np.unique(batch.inputs)) == {0.0, 1.0}
    inputs = batch.inputs.numpy().astype(bool)
    added = inputs[~spikes[:, None].repeat(20, 1)]
    assert inputs.transpose(0, 2, 1)[spikes].all(), "no spike is taken away"
    assert_share(added, 2 * 1e-3)
    for silence in SILENCES:
        assert_share(inputs[silence], 2 * 1e-3)
        assert inputs[silence].any((0, 1)).all(), "all lines: 20 * 250 steps, one has no spike with p = 4e-5"
    assert (batch.target.numpy() == target.astype(np.float32)[:, None, None]).all()


def test_noise_is_drawn_anew_and_the_pattern_is_not(module: Any) -> None:
    task = module.PatternGeneration()
    one, other = (task.training_batch(index, 2, 0) for index in (0, 1))
    drawn = [one.inputs[:, 0], one.inputs[:, 1], other.inputs[:, 0], other.inputs[:, 1]]
    spikes = torch.from_numpy(task.pattern(0)[0]).float()
    for i, sample in enumerate(drawn):
        assert (sample >= spikes).all(), "the pattern of the run"
        for earlier in drawn[:i]:
            both = ((sample > spikes) & (earlier > spikes)).sum()
            assert both < 12, "of 0.002^2 * 200,000 = 0.8 expected"
    assert torch.equal(one.target, other.target)
    assert torch.equal(one.inputs, task.training_batch(0, 2, 0).inputs), "the same batch again"


def test_a_seed_has_its_own_pattern_whatever_the_noise(module: Any) -> None:
    (spikes, target), (others, other) = (module.PatternGeneration().pattern(seed) for seed in (0, 1))
    assert (spikes != others).any() and np.abs(target - other).max() > 0.1, "another seed, another pattern"
    loud, loud_target = module.PatternGeneration(noise_rate=4.0, test_samples=3).pattern(0)
    np.testing.assert_array_equal(loud, spikes)
    np.testing.assert_array_equal(loud_target, target)
    np.testing.assert_array_equal(module.PatternGeneration(lines=3, segment_rate=50.0).pattern(0)[1], target)


@pytest.mark.parametrize("dt", [1e-3, 5e-3])
def test_the_target_is_five_cosines_between_minus_one_and_one(module: Any, dt: float) -> None:
    """2 s are whole periods of all five: their spectrum is in the bins 1 to 5 of 0.5 Hz, and in bin 0, from scaling."""
    target = module.PatternGeneration(dt=dt).pattern(3)[1]
    assert (target.min(), target.max()) == (-1.0, 1.0)
    spectrum = np.abs(np.fft.rfft(target)) / len(target)
    assert (spectrum[1:6] > 1e-3).all(), "all of 0.5 to 2.5 Hz"
    assert (spectrum[6:] < 1e-12).all(), "nothing above 2.5 Hz"
    batch = module.PatternGeneration(dt=dt).training_batch(0, 1, 3)
    assert (batch.target.min(), batch.target.max()) == (-1.0, 1.0)


def test_amplitudes_and_phases_are_uniform(module: Any) -> None:
    """Of two amplitudes ~ U(0, 1), one is below half of the other with p = 1/4, whatever both are scaled by."""
    task = module.PatternGeneration(dt=10e-3, lines=1)
    waves = np.array([np.fft.rfft(task.pattern(seed)[1])[1:6] for seed in range(1000)])
    for k in range(4):
        assert_share(np.abs(waves[:, k]) < np.abs(waves[:, k + 1]) / 2, 1 / 4)
        assert_share(np.abs(waves[:, k + 1]) < np.abs(waves[:, k]) / 2, 1 / 4)
    for quarter in range(4):
        assert_share(np.floor(np.angle(waves) / (np.pi / 2)) == quarter - 2, 1 / 4)


def test_every_number_is_a_setting(module: Any) -> None:
    task = module.PatternGeneration(
        dt=2e-3, lines=7, segment=20e-3, silence=10e-3, segment_rate=100.0, noise_rate=50.0, test_samples=300
    )
    assert task.segments == [slice(0, 10), slice(15, 25), slice(30, 40)]
    spikes = np.array([task.pattern(seed)[0] for seed in range(300)])
    assert spikes.shape == (300, 40, 7)
    assert_share(spikes[:, :10], 0.2)
    (batch,) = task.held_out("test", 1000, 0)
    assert batch.inputs.shape == (40, 300, 7)
    assert_share(batch.inputs.numpy()[task.silences[0]], 0.1)


def test_held_out_samples_are_the_same_in_batches_of_any_size(module: Any) -> None:
    task = module.PatternGeneration(lines=5, test_samples=7)
    for split in ("validation", "test"):
        (full,) = task.held_out(split, 100, 4)
        parts = list(task.held_out(split, 3, 4))
        assert [part.inputs.shape[1] for part in parts] == [3, 3, 1]
        assert torch.equal(torch.cat([part.inputs for part in parts], 1), full.inputs), (
            "held-out samples whatever the batch size"
        )
        assert torch.equal(torch.cat([part.target for part in parts], 1), full.target)
        assert torch.equal(full.target[:, :1], task.training_batch(0, 1, 4).target)


def test_no_two_samples_of_a_run_share_their_noise(module: Any) -> None:
    task = module.PatternGeneration(test_samples=5)
    batches = [task.training_batch(index, 5, 0) for index in range(3)]
    batches += [batch for split in ("validation", "test") for batch in task.held_out(split, 2, 0)]
    silent = torch.cat([batch.inputs for batch in batches], 1)[SILENCES[0]]
    assert silent.shape[1] == 25 and len({sample.numpy().tobytes() for sample in silent.unbind(1)}) == 25


def test_repeat_distance_against_numbers_by_hand(module: Any) -> None:
    """Outputs 0, 1, 3 and targets 0, 2, 2 in the three repeats: (1 + 9 + 4) / (4 + 4 + 0). No silence counts."""
    task = module.PatternGeneration()
    readout, target = torch.full((2000, 3, 1), torch.nan), torch.full((2000, 3, 1), torch.nan)
    for segment, y, aim in zip(SEGMENTS, (0.0, 1.0, 3.0), (0.0, 2.0, 2.0), strict=True):
        readout[segment, 0], readout[segment, 1], readout[segment, 2] = y, torch.rand(1), aim
        target[segment] = aim
    readout[:, 1] = readout[:500, 1].repeat(4, 1)  # one and the same answer to all repeats
    distances = module.repeat_distance(readout, target, task)
    np.testing.assert_allclose(distances, [14 / 8, 0.0, 1.0], rtol=1e-6)
    half = readout.clone()
    half[:250] += 2.0  # the first half of the first repeat: outputs 2, 1, 3 there
    np.testing.assert_allclose(module.repeat_distance(half, target, task)[0], (14 + 6) / 2 / 8, rtol=1e-6)


def test_gap_output_against_numbers_by_hand(module: Any) -> None:
    readout = torch.full((2000, 2, 1), torch.nan)
    readout[SILENCES[0]], readout[SILENCES[1], 0], readout[SILENCES[1], 1] = -1.0, 3.0, 0.0
    np.testing.assert_array_equal(module.gap_output(readout, module.PatternGeneration()), [2.0, 0.5])


def test_loss_and_score_against_numpy(module: Any) -> None:
    """The mean squared error, and 0.01 * the mean over the neurons of both layers of ((rate - 10 Hz) / 10 Hz)^2."""
    rng = np.random.default_rng(0)
    readout, target = rng.standard_normal((2, 40, 3, 1))
    layers = [rng.random((40, 3, n)) < p for n, p in ((4, 0.2), (2, 0.5))]
    activity = Activity(torch.from_numpy(readout), tuple(torch.from_numpy(z).double() for z in layers))
    task = module.PatternGeneration(dt=2e-3)
    errors = [sum((readout[t, b, 0] - target[t, b, 0]) ** 2 for t in range(40)) / 40 for b in range(3)]
    np.testing.assert_allclose(task.score(activity, torch.from_numpy(target)), errors)
    rates = [z[:, :, i].sum() / (3 * 40 * 2e-3) for z in layers for i in range(z.shape[2])]  # of 40 steps of 2 ms
    penalty = sum(((rate - 10) / 10) ** 2 for rate in rates) / 6
    loss = task.loss(activity, torch.from_numpy(target))
    np.testing.assert_allclose(loss, sum(errors) / 3 + 0.01 * penalty)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dt": 0.0}, "dt: expected a step length in seconds"),
        ({"dt": float("nan")}, "dt: expected a step length in seconds"),
        ({"lines": 0}, "lines: expected a whole number > 0, got 0"),
        ({"lines": 2.5}, "lines: expected a whole number > 0, got 2.5"),
        ({"test_samples": -1}, "test_samples: expected a whole number > 0, got -1"),
        ({"segment": 0.0}, "segment: expected at least 1 steps of 0.001 s, got 0.0 s"),
        ({"segment": float("inf")}, "segment: expected at least 1 steps of 0.001 s, got inf s"),
        ({"silence": 1e-4}, "silence: expected at least 1 steps of 0.001 s, got 0.0001 s"),
        ({"silence": float("nan")}, "silence: expected at least 1 steps of 0.001 s, got nan s"),
        ({"segment_rate": 1001.0}, "segment_rate: expected 0 to 1000 spikes a second"),
        ({"noise_rate": -1.0}, "noise_rate: expected 0 to 1000 spikes a second"),
        ({"noise_rate": float("nan")}, "noise_rate: expected 0 to 1000 spikes a second"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        PatternGeneration(**settings)


def five_cosines(module: Any) -> None:
    test_the_target_is_five_cosines_between_minus_one_and_one(module, 5e-3)


ANEW, OWN = test_noise_is_drawn_anew_and_the_pattern_is_not, test_a_seed_has_its_own_pattern_whatever_the_noise
NOISE = test_noise_is_on_every_line_at_every_step_and_takes_no_spike_away
SIZES, APART = test_held_out_samples_are_the_same_in_batches_of_any_size, test_no_two_samples_of_a_run_share_their_noise
SPREAD, SETTINGS = test_amplitudes_and_phases_are_uniform, test_every_number_is_a_setting
DISTANCE, GAP = test_repeat_distance_against_numbers_by_hand, test_gap_output_against_numbers_by_hand
LOSS = test_loss_and_score_against_numpy
PATTERN, DRAW = "default_rng([seed, len(SPLITS)])", "rng.random(spikes.shape)"


class Bug(NamedTuple):
    """A piece of source text replaced, the check that must notice, and what its error must say."""

    name: str
    old: str
    new: str
    check: Callable[..., None]
    says: str
    error: type[BaseException] = AssertionError
    module: str = PATTERNS
    times: int = 1


BUGS = [
    Bug(
        "other spikes in each repeat",
        "= segment\n",
        "= rng.permutation(segment)\n",
        test_layout,
        "Mismatched elements: 1050 / 50000",
    ),
    Bug(
        "no silence",
        "range(0, REPEATS * (length + gap), length + gap)",
        "range(0, 3 * length, length)",
        test_layout,
        "1500 != 2000",
    ),
    Bug(
        "segments at the rate of the noise", "< self.segment_rate", "< self.noise_rate", test_layout, "0.0021, not 0.01"
    ),
    Bug("noise removes spikes", "spikes | (rng", "spikes ^ (rng", NOISE, "no spike is taken away"),
    Bug(
        "noise in the segments only", DRAW, f"np.where(spikes.any(1, keepdims=True), {DRAW}, 1)", NOISE, "0.00090502641"
    ),
    Bug(
        "noise outside of the segments only",
        DRAW,
        f"np.where(spikes.any(1, keepdims=True), 1, {DRAW})",
        NOISE,
        "0.0010698516",
    ),
    Bug("one noise for all lines", DRAW, "rng.random((len(spikes), 1))", NOISE, "0.0018486128"),
    Bug(
        "one noise for a batch",
        "[rng] * samples",
        "[np.random.default_rng(0) for _ in range(samples)]",
        ANEW,
        "of 0.002^2 * 200,000 = 0.8 expected",
    ),
    Bug(
        "the index is ignored", '"train", index', '"train", 0', ANEW, "of 0.002^2 * 200,000 = 0.8 expected", module=TASK
    ),
    Bug(
        "no batch is the same twice", DRAW, "np.random.default_rng().random(spikes.shape)", ANEW, "the same batch again"
    ),
    Bug("no pattern is the same twice", PATTERN, "default_rng()", ANEW, "the pattern of the run"),
    Bug("one pattern for all seeds", PATTERN, "default_rng(len(SPLITS))", OWN, "another seed, another pattern"),
    Bug(
        "the curve comes after the spikes",
        "target = self._curve(rng)",
        "rng.random(self.lines); target = self._curve(rng)",
        OWN,
        "Mismatched elements: 2000 / 2000",
    ),
    Bug("steps of 1 ms for good", "* self.dt * np.arange", "* 1e-3 * np.arange", five_cosines, "nothing above 2.5 Hz"),
    Bug("six cosines", "COSINES, BASE = 3, 5, 0.5", "COSINES, BASE = 3, 6, 0.5", five_cosines, "nothing above 2.5 Hz"),
    Bug("base 1 Hz", "COSINES, BASE = 3, 5, 0.5", "COSINES, BASE = 3, 5, 1.0", five_cosines, "all of 0.5 to 2.5 Hz"),
    Bug(
        "scaled by the largest value only",
        "2 * (curve - low) / (high - low) - 1",
        "curve / abs(curve).max()",
        five_cosines,
        "(-1.0, 1.0)",
    ),
    Bug("all amplitudes alike", "= rng.random(COSINES),", "= np.ones(COSINES),", SPREAD, "0.0, not 0.25"),
    Bug("half the phases", "2 * np.pi * rng.random(COSINES)", "np.pi * rng.random(COSINES)", SPREAD, "0.0, not 0.25"),
    Bug("noise of 2 Hz for good", "< self.noise_rate", "< 2.0", SETTINGS, ", not 0.1"),
    Bug(
        "samples depend on the batch size",
        "split, sample) for",
        "split, sample % batch) for",
        SIZES,
        "held-out samples whatever the batch size",
    ),
    Bug(
        "the last batch is left out",
        "range(0, self.test_samples, batch)",
        "range(0, self.test_samples - 1, batch)",
        SIZES,
        "[3, 3] == [3, 3, 1]",
    ),
    Bug("the test set is the validation set", "split, sample)", '"test", sample)', APART, "and 20 == 25"),
    Bug("one held-out sample", "split, sample)", "split, 0)", APART, "and 17 == 25"),
    Bug(
        "neighbouring repeats only",
        "combinations(task.segments, 2)",
        "zip(task.segments, task.segments[1:])",
        DISTANCE,
        "1.25",
    ),
    Bug("distances and not their squares", "curve[b]).square()", "curve[b]).abs()", DISTANCE, "1.5"),
    Bug("not normalised", "return between_outputs / between_targets", "return between_outputs", DISTANCE, "4.666667"),
    Bug(
        "positive and negative cancel", ".abs().mean((0, 2))", ".mean((0, 2)).abs()", GAP, "Mismatched elements: 1 / 2"
    ),
    Bug(
        "the first silence only",
        "for gap in task.silences]",
        "for gap in task.silences[:1]]",
        GAP,
        "Mismatched elements: 2 / 2",
    ),
    Bug("the rate term in full", "0.01 * rate_penalty", "rate_penalty", LOSS, "array(233.404702)"),
    Bug("rates of 1 ms for good", "activity.spikes, self.dt", "activity.spikes, 1e-3", LOSS, "array(11.998035)"),
    Bug(
        "the error of the batch, not of a sample",
        "square().mean((0, 2))",
        "square().mean()[None]",
        LOSS,
        "shapes (1,), (3,) mismatch",
        times=2,
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug) -> None:
    fresh = changed(bug.module, bug.old, bug.new, around=(TASK, PATTERNS), times=bug.times)
    with caught(bug.says, bug.error):
        bug.check(fresh[PATTERNS])
