"""Speech as spikes in 700 channels of a cochlea: which digit or word is said, and does noise in time matter?

    source "norm", "hard", "plain"   synthetic spoken digits (`spoken_digits`), generated at the first use
    source "fsdd", "shd", "ssc"      what `hetsyn data get` has got
    source FOLDER                    shd_train.h5 and shd_test.h5 (Spiking Heidelberg Digits, 20 classes); or else
                                     ssc_train.h5, ssc_test.h5 and maybe ssc_valid.h5 (Spiking Speech Commands, 35); or
                                     the recordings of the Free Spoken Digit Dataset (10), which our ear hears (`fsdd`)

Who is tested: by default the set's own test file; with `fold` one speaker, whom the network never heard. Validation is
on speakers that are held out of training, where it is known who speaks.

Coding (Deng et al. 2025): a recording is cut or padded with silence to 1 s and put into bins of 4 ms, 250 steps of 700
lines; a line is 1 where at least one spike fell into the bin. A spike on the border of two bins is in the later one,
also where the quotient of its time and dt is too small by a rounding error.

A bin has its true length here. The paper computes decays as if a bin lasted 1 ms, so every time constant that it gives
for this task is a fourth of what it is in real time; `Speech.paper` has the real ones, which give the paper's decays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.validation import checked_dt
from hetsyn_plugins.experiments.data import augmentation, fsdd, get, shd
from hetsyn_plugins.experiments.data.shd import Recordings
from hetsyn_plugins.experiments.tasks.evidence import READOUTS
from hetsyn_plugins.experiments.tasks.task import (
    Activity,
    Batch,
    DataTask,
    accuracy_of,
    check_held_out,
    check_steps,
    generator,
)

SYNTHETIC = ("norm", "hard", "plain")
GOT = ("fsdd", "shd", "ssc")
VALIDATE_ON = ("speakers", "recordings")
ROUNDING = 1e-9  # of a bin: far more than float64 rounds off, far less than float16 can tell apart
OCTAVES = 4.0  # a recording 16 times as long is past anything that is asked here
PAPER: Mapping[str, Any] = {
    "network.hidden": [128, 64],
    "network.recurrent": True,
    "network.dropout": 0.2,
    "network.tau_distribution": "uniform",
    "network.tau_start": [20e-3, 80e-3],  # the paper's 5 to 20 ms, and so on
    "network.tau_reset": 80e-3,
    "network.tau_adaptation": 400e-3,
    "network.adaptation": 0.05,
    "network.surrogate": "multi_gaussian",
    "training.epochs": 100,
    "training.batch": 32,
    "training.optimiser": "adamw",
    "training.lr": 2e-3,
    "training.decay_lr": 4e-3,
    "training.weight_decay": 4e-3,
    "training.decay_weight_decay": 0.0,
    "training.schedule": "cosine",
    "training.schedule_span": 40,
    "training.warmup": 0.05,
    "training.select": "best_validation",
}
SHORT: Mapping[str, Any] = {  # synthetic digits: a run of minutes, and rates to match
    "training.epochs": 15,
    "training.lr": 5e-3,
    "training.decay_lr": 10e-3,
    "training.schedule_span": 0,
}


class Data(NamedTuple):
    """A data set as its files have it; validation is None where it has no file of its own."""

    train: Recordings
    test: Recordings
    validation: Recordings | None = None


@dataclass(frozen=True)
class Speech(DataTask):
    """A readout a class; the decision is the largest of softmax(v), summed over the steps.

    source                 a name or a folder, as above; of a folder with several sets SHD is taken
    dt, duration           seconds: a bin, and what a recording is cut or padded to
    pool                   how many neighbouring channels are one line, whose value is the number of them that spiked
    fold                   leave one speaker out: of all recordings those of this one (0, 1, ...) are the test set;
                           None: the official split
    validation             share of the training recordings that is held out, 0 to below 1, the same ones for every run
    validate_on            "speakers": whole speakers, as many as come nearest to the share and at least one, where they
                           are known; "recordings": of all speakers alike
    split_seed             which ones; all three are without effect where the data have a validation file (ssc_valid.h5)
    samples                train on so many recordings only; None: on all. Validation and test stay as they are
    deletion               chance of each spike to be deleted in training, anew in every batch ("thinning")
    shift                  in training every recording is moved by -shift to shift channels, anew in every batch
    blend                  chance of a recording to be blended, in training, with another of its class (`augmentation`)
    test_deletion          the same of the test set
    test_stretch           how many times as long the test set's recordings are, all of them: 0.5 is twice as fast
    test_warp              a: the test set's spike times are scaled by 2^U(-a, a), a factor a recording, after it was
                           cut or padded, and the number of steps with them (paper: 0.5)
    skip                   steps at the start that the decision leaves out (the paper's code: 11)

    Noise is a function of the seed and the recording's place, and so the same in any process and for any batch size;
    the spikes that a chance of deletion takes are among those that a larger one takes. Warped recordings of as many
    steps share a batch, so none is padded and none has steps past its own end.

    Data are loaded at the first use and kept. Raises ValueError for settings that give no such task, and at the first
    use FileNotFoundError for files that are missing, ValueError for files that `shd.read_recordings` refuses.
    """

    name: ClassVar[str] = "speech"
    noun: ClassVar[str] = "recordings"
    before: ClassVar[Mapping[str, Any]] = {"validate_on": "recordings", "test_stretch": 1.0}

    source: str = "norm"
    dt: float = 4e-3
    duration: float = 1.0
    pool: int = 1
    fold: int | None = None
    validation: float = 0.1
    validate_on: str = "speakers"
    split_seed: int = 0
    samples: int | None = None
    deletion: float = 0.0
    shift: int = 0
    blend: float = 0.0
    test_deletion: float = 0.0
    test_stretch: float = 1.0
    test_warp: float = 0.0
    skip: int = 0

    def __post_init__(self) -> None:
        checked_dt(self.dt)
        check_steps("duration", self.duration, self.dt, 1)
        self.check_split_settings()
        if self.validate_on not in VALIDATE_ON:
            raise ValueError(f"validate_on: expected one of {', '.join(VALIDATE_ON)}, got {self.validate_on!r}")
        if not 1 <= self.pool <= shd.CHANNELS:
            raise ValueError(f"pool: expected 1 to {shd.CHANNELS} channels, got {self.pool}")
        if self.fold is not None and self.fold < 0:
            raise ValueError(f"fold: expected a speaker from 0, got {self.fold}")
        if not 0 <= self.shift < shd.CHANNELS:
            raise ValueError(f"shift: expected 0 to {shd.CHANNELS - 1} channels, got {self.shift}")
        for name in ("deletion", "blend", "test_deletion"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a chance from 0 to 1, got {getattr(self, name)}")
        if not 0 <= self.test_warp <= OCTAVES:
            raise ValueError(f"test_warp: expected 0 to {OCTAVES:g} octaves, got {self.test_warp}")
        if not 2**-OCTAVES <= self.test_stretch <= 2**OCTAVES:
            expected = f"{2**-OCTAVES:g} to {2**OCTAVES:g} times as long"
            raise ValueError(f"test_stretch: expected {expected}, got {self.test_stretch}")
        shortest = round(2**-self.test_warp * min(self.test_stretch, 1.0) * (self.duration / self.dt))
        if not 0 <= self.skip < shortest:
            raise ValueError(f"skip: expected 0 to {shortest - 1} of {shortest} steps, got {self.skip}")

    @property
    def paper(self) -> Mapping[str, Any]:  # type: ignore[override]  # of other tasks it is the same for all settings
        """The paper's settings for files; the synthetic digits have a shorter training at higher rates."""
        return {**PAPER, **SHORT} if self.source in SYNTHETIC else PAPER

    @property
    def lines(self) -> int:
        """One a channel, or one for every `pool` of them."""
        return -(-shd.CHANNELS // self.pool)

    @property
    def outputs(self) -> int:
        """One a class. Raises FileNotFoundError where the source is a folder without a data set."""
        return shd.CLASSES[_set_of(self.source)]

    @property
    def samples_stay(self) -> bool:
        """What is drawn is drawn anew in every epoch, where it is."""
        return self.deletion == self.shift == self.blend == 0

    def samples_of(self, rows: np.ndarray) -> Batch:
        """Recordings of the training set by their rows, whole: inputs (T, B, lines), labels (B,)."""
        return self._batch(self.data.train.take(rows), self.steps)

    def training_batch(self, index: int, batch: int, seed: int) -> Batch:
        """The index-th batch: inputs (T, B, lines), labels (B,)."""
        rows = self.training_rows(index, batch, seed)
        if self.samples_stay:
            return self.samples_of(rows)
        thinning, shifting, blending = generator(seed, "train", index).spawn(3)  # apart from those that shuffle
        recordings = self.data.train.take(rows)
        if self.blend:
            partners = augmentation.partners_of(rows, self.split[0], self.data.train.labels, blending)
            chosen = blending.random(len(rows)) < self.blend
            recordings = augmentation.blended(recordings, self.data.train.take(partners), chosen, blending)
        if self.shift:
            recordings = augmentation.shifted(recordings, self.shift, shifting)
        kept = thinning.random(len(recordings.times)) >= self.deletion
        return self._batch(recordings.keep(kept), self.steps)

    def held_out(self, split: str, batch: int, seed: int) -> Iterator[Batch]:
        """All recordings of "validation" or "test", the shortest first and otherwise in their own order."""
        check_held_out(split)
        if split == "test":
            recordings, deletion, warp, stretch = self.data.test, self.test_deletion, self.test_warp, self.test_stretch
        else:
            recordings, deletion, warp, stretch = self._validation, 0.0, 0.0, 1.0
        factors = stretch * 2.0 ** generator(seed, split, 0).uniform(-warp, warp, len(recordings))
        kept = generator(seed, split, 1).random(len(recordings.times), np.float32) >= deletion
        recordings, steps = recordings.keep(kept), self._steps(factors)
        groups = ((n, np.flatnonzero(steps == n)) for n in np.unique(steps))
        parts = ((n, rows[at : at + batch]) for n, rows in groups for at in range(0, len(rows), batch))
        return (self._batch(recordings.take(rows), n, factors[rows]) for n, rows in parts)

    def loss(self, activity: Activity, target: Tensor) -> Tensor:
        """Cross-entropy of the summed softmax(v), which the paper takes for logits."""
        return nn.functional.cross_entropy(self._summed(activity), target)

    def score(self, activity: Activity, target: Tensor) -> Tensor:
        """1 where the decision is right: (B,)."""
        return accuracy_of(self._summed(activity), target)

    @property
    def steps(self) -> int:
        """T of a recording that is not warped."""
        return round(self.duration / self.dt)

    @property
    def longest(self) -> int:
        """T of a recording that is warped as far as it may be."""
        return round(2**self.test_warp * max(self.test_stretch, 1.0) * (self.duration / self.dt))

    @property
    def dropped(self) -> dict[str, int]:
        """How many spikes of each file come after `duration` and are dropped."""
        end = (self.steps - ROUNDING) * self.dt
        files = {name: part for name, part in self.data._asdict().items() if part is not None}
        return {name: int(np.count_nonzero(part.times >= end)) for name, part in files.items()}

    @property
    def data(self) -> Data:
        """All recordings; every task with this source has the same ones in memory."""
        return _data(self.source) if self.fold is None else _without(self.source, self.fold)

    @cached_property
    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `data.train`: to train on, and held out for validation (none where that has a file of its own)."""
        share = self.validation if self.data.validation is None else 0.0
        speakers = self.data.train.speakers
        if self.validate_on == "recordings":
            speakers = None
        if share and speakers is not None and len(np.unique(speakers)) < 2:
            raise ValueError("validate_on: expected 'recordings' of a single speaker, got 'speakers'")
        return self.split_of(len(self.data.train), share, speakers)

    @property
    def _validation(self) -> Recordings:
        file = self.data.validation
        return self.data.train.take(self.split[1]) if file is None else file

    def _steps(self, factor: Array) -> np.ndarray:
        """Steps of recordings whose time is scaled by these factors."""
        return np.rint(np.multiply(factor, self.duration / self.dt)).astype(np.int64)

    def _batch(self, recordings: Recordings, steps: int, factors: Array | float = 1.0) -> Batch:
        """All of these recordings, their time scaled by these factors, in so many bins."""
        inputs = np.zeros((steps, len(recordings), shd.CHANNELS), np.float32)
        sample = np.repeat(np.arange(len(recordings)), np.diff(recordings.offsets))
        times = recordings.times * np.broadcast_to(factors, len(recordings))[sample]
        bins = times / self.dt + ROUNDING
        kept = bins < steps
        inputs[bins[kept].astype(np.int64), sample[kept], recordings.units[kept]] = 1.0
        if self.pool > 1:
            inputs = np.add.reduceat(inputs, np.arange(0, shd.CHANNELS, self.pool), axis=2)
        return Batch(torch.from_numpy(inputs), torch.from_numpy(recordings.labels))

    def _summed(self, activity: Activity) -> Tensor:
        """Sum over the steps of softmax(v): (B, K)."""
        return READOUTS["softmax"](activity.readout[self.skip :])


def _data(source: str) -> Data:
    return _synthetic(source) if source in SYNTHETIC else _folder(_place(source).resolve())


@lru_cache(maxsize=1)
def _synthetic(kind: str) -> Data:
    from hetsyn_plugins.experiments.data import spoken_digits

    return Data(*map(shd.read_recordings, spoken_digits.files(kind)))


@lru_cache(maxsize=1)
def _folder(folder: Path) -> Data:
    name = _set_of(str(folder))
    if name == "fsdd":
        return Data(*fsdd.load(folder))
    train, test, valid = (folder / f"{name}_{part}.h5" for part in ("train", "test", "valid"))
    for path in (train, test):
        if not path.is_file():
            raise FileNotFoundError(f"source: expected {path.name} in {folder}, got no such file; {shd.HELP}")
    paths = (train, test, valid) if name == "ssc" and valid.is_file() else (train, test)
    return Data(*(shd.read_recordings(path, shd.CLASSES[name]) for path in paths))


@lru_cache(maxsize=1)
def _without(source: str, speaker: int) -> Data:
    """All recordings, with those of one speaker as the test set."""
    everything = Recordings.joined([part for part in _data(source) if part is not None])
    if everything.speakers is None:
        raise ValueError("fold: expected None, it is not known who speaks, got a speaker")
    known = np.unique(everything.speakers)
    if speaker not in known:
        raise ValueError(f"fold: expected a speaker, one of {', '.join(map(str, known))}, got {speaker}")
    theirs = everything.speakers == speaker
    return Data(everything.take(np.flatnonzero(~theirs)), everything.take(np.flatnonzero(theirs)))


def _place(source: str) -> Path:
    """The folder of a source that is not synthetic."""
    return get.place(source) if source in GOT else Path(source).expanduser()


def _set_of(source: str) -> str:
    """ "shd", "ssc" or "fsdd": what the files of a source are, or are like."""
    if source in SYNTHETIC:
        return "shd"
    folder = _place(source).absolute()
    for name in ("shd", "ssc"):
        if any((folder / f"{name}_{part}.h5").is_file() for part in ("train", "test")):
            return name
    if fsdd.folder_of(folder) is not None:
        return "fsdd"
    if source in GOT:
        raise FileNotFoundError(
            f"source: expected the files of {source} in {folder}, got none: hetsyn data get {source}"
        )
    known = (
        f"{', '.join((*SYNTHETIC, *GOT))} or a folder with shd_train.h5 and shd_test.h5 (or ssc_train.h5 and "
        "ssc_test.h5), or with the recordings of FSDD"
    )
    raise FileNotFoundError(f"source: expected {known}, got {source!r}, and {folder} has none of them; {shd.HELP}")
