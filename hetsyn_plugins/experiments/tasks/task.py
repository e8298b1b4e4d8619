"""What a task is: where its batches come from, what a network is to make of them, and how well it did.

Every batch is a pure function of (seed, split, index): nothing is drawn from a global generator and nothing depends on
what was drawn before, so batches are the same in any process, in any order and with any number of workers, and a run
that was killed goes on with the very batches it would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core.validation import check_samples, checked_size
from hetsyn_plugins.experiments.data import digits
from hetsyn_plugins.experiments.ranks import whole_mean
from hetsyn_plugins.ops.lengths import checked_lengths, past_end

SPLITS = ("train", "validation", "test")
AT_A_TIME = 100  # samples, where networks are evaluated: faster than one by one, and no result depends on it
DRAWN_EPOCH = 100  # iterations from validation to validation where samples are drawn and there is no epoch
MOST_STEPS = 1 << 62  # what memory does not hold `costs` says; these could not even be counted


class Batch(NamedTuple):
    """Inputs (T, B, M), float32, and the target: labels (B,), int64, or a curve (T, B, K), float32."""

    inputs: Tensor
    target: Tensor

    @property
    def lengths(self) -> None:
        """Every sample lasts all of the steps."""
        return None


class Padded(NamedTuple):
    """A batch whose samples have lengths (B,) of their own, int64, 1 to T: what stands behind them does not count."""

    inputs: Tensor
    target: Tensor
    lengths: Tensor


AnyBatch: TypeAlias = Batch | Padded


def checked_batch(batch: AnyBatch, labels: int | None = None) -> AnyBatch:
    """The batch; ValueError where its target is not one of its inputs (T, B, M): time and batch swapped, say.

    Where B = T that cannot be seen.

    labels   `Task.label_count`: others are refused too, unless they are on a card, where looking would mean waiting
    """
    if not hasattr(batch, "lengths"):
        raise ValueError(f"task: expected a Batch(inputs, target) of it, got {type(batch).__name__}")
    if other := [type(part).__name__ for part in batch if not isinstance(part, Tensor)]:
        raise ValueError(f"task: expected a Batch of tensors, got {other[0]}; torch.from_numpy makes them of arrays")
    inputs, target = batch.inputs, batch.target
    if inputs.ndim < 3 or not inputs.numel():
        raise ValueError(
            f"inputs: expected (T, B, M), at least one of each, of a task's batch, got {tuple(inputs.shape)}"
        )
    if batch.lengths is not None:
        checked_lengths(batch.lengths, inputs)
    if target.ndim == 1:
        check_samples("target", target, inputs)
        check_labels(target, labels)
    elif target.shape[:2] != inputs.shape[:2]:
        expected, came = tuple(inputs.shape[:2]), tuple(target.shape)
        hint = "; time and batch look swapped in one of them" if target.shape[:2] == inputs.shape[1::-1] else ""
        raise ValueError(f"target: expected (T, B, K) with T and B of the inputs, {expected}, got {came}{hint}")
    return batch


def check_labels(target: Tensor, labels: int | None) -> None:
    """Raise ValueError for a label (B,) that is none of so many: torch would tell neither item nor range."""
    if labels is None or target.is_floating_point() or target.device.type != "cpu":
        return
    beyond = ((target < 0) | (target >= labels)).nonzero()
    if len(beyond):
        item = int(beyond[0])
        expected = f"a label from 0 to {labels - 1}, one of the {labels} outputs of the task"
        raise ValueError(f"target[{item}]: expected {expected}, got {int(target[item])}")


Judge: TypeAlias = "Callable[[Activity, Tensor], Tensor]"  # `Task.loss` or `Task.score`


def checked_loss(loss: Judge, activity: Activity, target: Tensor) -> Tensor:
    """A task's loss, (); ValueError where it is something else, or where a label has no readout."""
    try:
        value = loss(activity, target)
    except IndexError:
        check_labels(target, activity.readout.shape[-1])
        raise
    return _of_shape("loss", (), value)


def checked_score(score: Judge, activity: Activity, target: Tensor) -> Tensor:
    """A task's score, (B,); ValueError where it is something else."""
    return _of_shape("score", target.shape[:2][-1:], score(activity, target))


def _of_shape(name: str, shape: tuple[int, ...], value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"task.{name}: expected a tensor of shape {tuple(shape)}, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"task.{name}: expected a tensor of shape {tuple(shape)}, got {tuple(value.shape)}")
    return value


def each_part(batch: AnyBatch, change: Callable[[Tensor, int], Tensor]) -> AnyBatch:
    """The batch with each of its tensors changed; `change` is told along which axis its samples lie."""
    return type(batch)(*(change(part, min(part.ndim - 1, 1)) for part in batch))


class Activity(NamedTuple):
    """What a network did: v of the readout, or spikes where it spikes, (T, B, K), and those of each hidden layer.

    lengths   (B,) where the samples of a batch have lengths of their own: the steps behind them do not count
    """

    readout: Tensor
    spikes: tuple[Tensor, ...]
    lengths: Tensor | None = None


def run_on(batch: AnyBatch, model: Any, *others: Any) -> Activity:
    """What a network does on a batch, with the lengths of its samples where they have some."""
    lengths = {} if batch.lengths is None else {"lengths": batch.lengths}
    activity: Activity = model(batch.inputs, *others, **lengths)
    return activity


@dataclass(frozen=True)
class Task:
    """The base of all tasks; the fields of a subclass are its settings (`hetsyn train NAME --set task.FIELD=VALUE`).

    dt   length of a step in seconds

    A subclass gives `name`, `lines`, `outputs`, `loss`, `score` and its batches: drawn (`DrawnTask`) or taken from data
    (`DataTask`). `paper` has the paper's settings of network and training where they differ from the general defaults.
    What it needs (`costs`) is told by `steps` and where it differs by `longest`, `held_at_once` and `line_bytes`; none
    of them may take memory that grows with the settings.
    """

    name: ClassVar[str]
    measure: ClassVar[str] = "accuracy"  # what `score` is: "accuracy" (more is better) or "MSE" (less is)
    drawn: ClassVar[bool] = False  # every batch is drawn anew, and there is no epoch but a batch
    line_bytes: ClassVar[int] = 8  # that making a batch takes at most, a line, step and sample
    paper: ClassVar[Mapping[str, Any]] = {}  # "network.tau_reset": 40e-3, ...
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    before: ClassVar[Mapping[str, Any]] = {}

    dt: float = 1e-3

    @property
    def lines(self) -> int:
        """Input lines M."""
        raise NotImplementedError

    @property
    def outputs(self) -> int:
        """Readouts K."""
        raise NotImplementedError

    @property
    def spiking_output(self) -> bool:
        """Whether the output neurons spike, or are leaky readouts."""
        return False

    @property
    def chance(self) -> float | None:
        """The measure of who guesses; None where guessing has none. Raises as the data do."""
        return 1 / self.outputs if self.measure == "accuracy" else None

    @property
    def label_count(self) -> int | None:
        """How many labels there are, where targets (B,) of whole numbers are labels, of an output each; else None."""
        return self.outputs if self.measure == "accuracy" and self.outputs > 1 else None

    @property
    def drawn_once(self) -> dict[str, list[int]]:
        """What was drawn for all samples alike, by name: it is written down beside the results."""
        return {}

    @property
    def steps(self) -> int:
        """Steps T of a sample for training; here of the first one."""
        return len(checked_batch(self.training_batch(0, 1, 0)).inputs)

    @property
    def longest(self) -> int:
        """Steps of the longest sample that is held out."""
        return self.steps

    def held_at_once(self, batch: int) -> int:
        """Samples that `held_out` has in memory at once where it gives so many in a batch."""
        return batch

    def batches(self, batch: int) -> int:
        """Training batches of this size in an epoch; a task that draws its samples calls every batch an epoch."""
        raise NotImplementedError

    def smallest(self, batch: int) -> int:
        """Samples in the smallest of those batches."""
        return batch

    def training_batch(self, index: int, batch: int, seed: int) -> AnyBatch:
        """The index-th batch of the training of this seed, counted over all epochs."""
        raise NotImplementedError

    def held_out(self, split: str, batch: int, seed: int) -> Iterator[AnyBatch]:
        """All samples of "validation" or "test", in batches of at most this size."""
        raise NotImplementedError

    def loss(self, activity: Activity, target: Tensor) -> Tensor:
        """What training makes small: (). A mean over samples; what is not takes its means by `ranks.whole_mean`."""
        raise NotImplementedError

    def score(self, activity: Activity, target: Tensor) -> Tensor:
        """How each sample came out, (B,): 1 right and 0 wrong, or its error; the mean over samples is the measure."""
        raise NotImplementedError


class DrawnTask(Task):
    """The base of tasks whose every batch is drawn anew, and is an epoch of its own; a subclass gives `drawn_batch`.

    test_samples   in the validation set and in the test set
    """

    drawn: ClassVar[bool] = True
    test_samples: int

    def drawn_batch(self, samples: int, seed: int, rng: np.random.Generator) -> Batch:
        """So many samples for a run of this seed, drawn from this generator."""
        raise NotImplementedError

    def batches(self, batch: int) -> int:
        """Every batch is drawn, and an epoch of its own."""
        return 1

    def training_batch(self, index: int, batch: int, seed: int) -> Batch:
        """The index-th batch: inputs (T, B, lines) and the target."""
        return self.drawn_batch(batch, seed, generator(seed, "train", index))


class DataTask(Task):
    """The base of tasks that take their samples from data, each once an epoch; a subclass has these settings.

    validation   share of the training set that is held out, 0 to below 1; the same samples for every run and seed
    split_seed   which ones
    samples      train on so many samples only; None: on all. Validation and test stay as they are
    """

    noun: ClassVar[str]  # what its samples are called in messages
    validation: float
    split_seed: int
    samples: int | None

    @property
    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the training set: to train on, and held out for validation."""
        raise NotImplementedError

    @property
    def samples_stay(self) -> bool:
        """Is a sample the same in every epoch?"""
        return True

    def samples_of(self, rows: np.ndarray) -> AnyBatch:
        """Samples of the training set by their rows: inputs (T, B, lines) and labels (B,), int64."""
        raise NotImplementedError

    def batches(self, batch: int) -> int:
        """In an epoch, which visits every sample once; the last one may be short."""
        return -(-len(self.split[0]) // batch)

    def smallest(self, batch: int) -> int:
        """The last one of an epoch has what is left."""
        return len(self.split[0]) % batch or batch

    def training_rows(self, index: int, batch: int, seed: int) -> np.ndarray:
        """The rows of the samples in the index-th batch."""
        train, _ = self.split
        return train[shuffled(len(train), index, batch, seed)]

    def training_batch(self, index: int, batch: int, seed: int) -> AnyBatch:
        """The index-th batch: inputs (T, B, lines), labels (B,)."""
        return self.samples_of(self.training_rows(index, batch, seed))

    def check_split_settings(self) -> None:
        """Raise ValueError for settings of the split that no data could meet."""
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation: expected a share from 0 to below 1, got {self.validation}")
        if self.split_seed < 0:
            raise ValueError(f"split_seed: expected at least 0, got {self.split_seed}")
        if self.samples is not None:
            checked_size("samples", self.samples)

    def split_of(self, total: int, share: float, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and rows held out, of so many; ValueError where there are too few for the settings.

        groups   (total,) of a speaker, say: whole ones are held out, where there are two or more
        """
        train, held_out = self.parts_of("validation", total, share, groups)
        return self.limited(train), held_out

    def parts_of(
        self, setting: str, total: int, share: float, groups: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of all samples; `setting` is the one that says the share."""
        held_out, train = digits.split(total, self.split_seed, share)
        if share and groups is not None and len(np.unique(groups)) > 1:
            return by_group(groups, self.split_seed, share)
        if not len(train) or (share and not len(held_out)):
            raise ValueError(f"{setting}: expected a share of {total} {self.noun} that leaves some, got {share}")
        return train, held_out

    def limited(self, train: np.ndarray) -> np.ndarray:
        """The first `samples` of rows to train on; ValueError where there are fewer."""
        if self.samples is not None and self.samples > len(train):
            raise ValueError(f"samples: expected at most {len(train)} {self.noun}, got {self.samples}")
        return train[: self.samples]


def by_group(groups: np.ndarray, seed: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n,) without whole groups, and those of the groups: shuffled, and held out one after another as comes
    nearest to the share, at least one of two or more."""
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    sizes = np.cumsum([np.count_nonzero(groups == group) for group in order[:-1]])
    held_out = np.isin(groups, order[: 1 + int(np.abs(sizes - share * len(groups)).argmin())])
    _, rows = digits.split(len(groups), seed, 0.0)
    return rows[~held_out[rows]], np.flatnonzero(held_out)


def generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The generator of the index-th batch (or epoch) of a split: streams of different splits never meet.

    Raises ValueError for a split that is none of SPLITS, and for a seed that is no number of 32 bits.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"seed: expected 0 to {(1 << 32) - 1}, got {seed}")
    return np.random.default_rng([seed, SPLITS.index(split), index])


def mean_of_steps(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The mean over time and the whole batch, of all ranks, of x (T, B, N): (N,).

    lengths   (B,) of the samples, where they have some of their own: the steps behind them do not count
    """
    samples = x.shape[1]
    if lengths is None:
        return whole_mean(x.mean((0, 1)), samples)
    sums = x.masked_fill(past_end(x, lengths), 0.0).sum((0, 1))
    means = whole_mean(torch.cat([sums, lengths.sum()[None].to(sums)]) / samples, samples)
    return means[:-1] / means[-1]


def rate_penalty(spikes: tuple[Tensor, ...], dt: float, rate: float = 10.0, lengths: Tensor | None = None) -> Tensor:
    """Mean over hidden neurons of ((rate_i - rate) / rate)^2, rates in spikes a second over time and batch: the term
    that the paper adds to the loss of pattern generation and DMS, there times 0.01.

    lengths   (B,) of the samples, where they have some of their own (`Activity.lengths`)
    """
    rates = torch.cat([mean_of_steps(z, lengths) for z in spikes]) / dt
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
    """Raise ValueError where the nearest whole number of steps to so many seconds is below `least` or past counting."""
    steps = min(max(seconds / dt, -1.0), MOST_STEPS)
    if not (isfinite(seconds) and round(steps) >= least):
        raise ValueError(f"{name}: expected at least {least} steps of {dt} s, got {seconds} s; task.dt is the step")
    if steps == MOST_STEPS:
        raise ValueError(f"{name}: expected fewer than 2^62 steps of {dt} s, got {seconds} s; task.dt is the step")


def check_rate(name: str, rate: float, dt: float) -> None:
    """Raise ValueError where Poisson spikes at this rate would need more than one a step."""
    if not 0 <= rate * dt <= 1:
        raise ValueError(f"{name}: expected 0 to {1 / dt:g} spikes a second (one a step of {dt} s), got {rate}")


def check_held_out(split: str) -> None:
    """Raise ValueError for a split that holds no samples back from training."""
    if split not in ("validation", "test"):
        raise ValueError(f"split: expected validation or test, got {split!r}")
