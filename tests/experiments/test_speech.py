"""Speech: what is read from a file, which bins its spikes fall into, what noise does, and what is refused."""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
from planting import caught, changed

from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.hdf5 import DIGEST
from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.data import shd, spoken_digits
from hetsyn_plugins.experiments.data.cochlea import Spikes
from hetsyn_plugins.experiments.tasks import speech
from hetsyn_plugins.experiments.tasks.speech import Speech
from hetsyn_plugins.experiments.tasks.task import Activity, Batch, generator

STEPS, LINES, CLASSES = 250, 700, 20
Rows = Sequence[Any]

TASK, SPEECH = "hetsyn_plugins.experiments.tasks.task", "hetsyn_plugins.experiments.tasks.speech"
READER = "hetsyn_plugins.experiments.data.shd"


@pytest.fixture
def module() -> Any:
    """The task under test; the planted bugs at the end run the same checks on changed ones."""
    return speech


@pytest.fixture
def reader() -> Any:
    """The reader under test."""
    return shd


def write(path: Path, times: Rows, units: Rows, labels: Rows | None = None, **other: Any) -> Path:
    """A file in SHD's layout; `other`: the types of times and units, and datasets to be put there too."""
    kinds = {"times": other.pop("times_type", np.float16), "units": other.pop("units_type", np.uint16)}
    with h5py.File(path, "w") as file:
        for name, rows in (("times", times), ("units", units)):
            dataset = file.create_dataset(f"spikes/{name}", len(rows), h5py.vlen_dtype(kinds[name]))
            for i, row in enumerate(rows):
                dataset[i] = np.asarray(row, kinds[name])
        file["labels"] = np.asarray(range(len(times)) if labels is None else labels, np.uint16)
        for name, value in other.items():
            file[name.replace("__", "/")] = value
    return path


def noisy(path: Path, seed: int, samples: int = CLASSES, latest: float = 1.2) -> Path:
    """Recordings of 0 to 400 spikes in no order, often several in a bin, some after 1 s; label i is recording i's."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 400, samples)
    counts[3] = 0
    times = [rng.uniform(0, latest, n) for n in counts]
    units = [rng.integers(0, LINES, n) // 300 * 300 + rng.integers(0, 3, n) for n in counts]
    return write(path, times, units, np.arange(samples) % CLASSES)


def recorded(folder: Path) -> Path:
    """20 recordings to train on and 20 to test."""
    noisy(folder / "shd_train.h5", 1)
    noisy(folder / "shd_test.h5", 2)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return recorded(tmp_path)


def binned(path: Path, row: int, dt: float = 4e-3, factor: float = 1.0, duration: float = 1.0) -> np.ndarray:
    """What a recording's inputs are to be, spike by spike: (T, 700)."""
    with h5py.File(path) as file:
        times, units = file["spikes/times"][row], file["spikes/units"][row]
    inputs = np.zeros((round(duration * factor / dt), LINES))
    for time, unit in zip(times, units, strict=True):
        step = int(float(time) * factor / dt)
        if step < len(inputs):
            inputs[step, unit] = 1
    return inputs


def by_label(batches: Any) -> dict[int, np.ndarray]:
    """The inputs of each recording, in files where a label is there once."""
    recordings: dict[int, np.ndarray] = {}
    for inputs, labels in batches:
        assert inputs.dtype == torch.float32 and labels.dtype == torch.int64 and inputs.shape[1] == len(labels)
        for sample, label in enumerate(labels.tolist()):
            assert label not in recordings
            recordings[label] = inputs[:, sample].numpy()
    return recordings


# ---- the reader --------------------------------------------------------------------------------------------------


def test_read_gives_what_h5py_gives_row_by_row(reader: Any, tmp_path: Path) -> None:
    """300 recordings: more than are read at a time. The times are float16's, exactly, in the file's order."""
    path = noisy(tmp_path / "a.h5", 3, 300)
    with h5py.File(path, "a") as file:
        file["extra/speaker"] = np.arange(300, dtype=np.uint16) % 12
    recordings = reader.read_recordings(path)
    assert (
        len(recordings) == 300
        and recordings.offsets.shape == (301,)
        and recordings.offsets[-1] == len(recordings.times)
    )
    types = (
        recordings.times.dtype,
        recordings.units.dtype,
        recordings.offsets.dtype,
        recordings.labels.dtype,
        recordings.speakers.dtype,
    )
    assert types == (np.float64, np.uint16, np.int64, np.int64, np.int64)
    with h5py.File(path) as file:
        for row in range(300):
            spikes = slice(recordings.offsets[row], recordings.offsets[row + 1])
            np.testing.assert_array_equal(recordings.times[spikes], [float(time) for time in file["spikes/times"][row]])
            np.testing.assert_array_equal(recordings.units[spikes], file["spikes/units"][row])
            assert (recordings.labels[row], recordings.speakers[row]) == (
                file["labels"][row],
                file["extra/speaker"][row],
            )
    assert recordings.offsets[3] == recordings.offsets[4], "recording 3 is empty"


def test_a_file_of_empty_recordings_and_one_of_other_numbers(reader: Any, tmp_path: Path) -> None:
    empty = reader.read_recordings(write(tmp_path / "a.h5", [[], []], [[], []]))
    assert len(empty) == 2 and not len(empty.times) and empty.speakers is None
    wide = {"times_type": np.float64, "units_type": np.int32}
    by_row = reader.read_recordings(write(tmp_path / "b.h5", [[0.1, 1 / 3]], [[5, 699]], [19], **wide))
    assert (
        by_row.times.tolist() == [0.1, 1 / 3] and by_row.units.tolist() == [5, 699] and by_row.units.dtype == np.uint16
    )


def test_take_and_keep_against_lists(reader: Any, tmp_path: Path) -> None:
    recordings = reader.read_recordings(noisy(tmp_path / "a.h5", 4))
    rows = np.array([7, 3, 0, 7, 19])
    taken = recordings.take(rows)
    kept = np.random.default_rng(0).random(len(taken.times)) < 0.5
    thinned = taken.keep(kept)
    assert taken.keep(np.ones(len(kept), bool)) is taken
    np.testing.assert_array_equal(taken.labels, rows)
    for at, row in enumerate(rows):
        of_row, of_taken = (slice(r.offsets[i], r.offsets[i + 1]) for r, i in ((recordings, row), (taken, at)))
        of_thinned = slice(thinned.offsets[at], thinned.offsets[at + 1])
        for name in ("times", "units"):
            expected = getattr(recordings, name)[of_row]
            np.testing.assert_array_equal(getattr(taken, name)[of_taken], expected)
            np.testing.assert_array_equal(getattr(thinned, name)[of_thinned], expected[kept[of_taken]])


GOOD: dict[str, Any] = {"times": [[0.1, 0.2], [0.3]], "units": [[1, 2], [3]], "labels": [4, 5]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"times": [[0.1, 0.2], []]}, "as many units as times in every recording, got 1 and 0 in recording 1"),
        ({"labels": [4, 20]}, "a label from 0 to 19 in every recording, got 20 in recording 1"),
        ({"times": [[0.1, 0.2], [-0.5]]}, "finite times >= 0, got -0.5 in recording 1"),
        ({"times": [[0.1, np.nan], [0.3]]}, "finite times >= 0, got nan in recording 0"),
        ({"times": [[0.1, 0.2], [np.inf]]}, "finite times >= 0, got inf in recording 1"),
        ({"units": [[1, 2], [700]]}, "units from 0 to 699, got 700 in recording 1"),
        ({"units": [[1, -2], [3]], "units_type": np.int64}, "units from 0 to 699, got -2 in recording 0"),
        ({"units": [[1, 2]]}, "a row of spikes/units for each of 2 recordings, got 1"),
        ({"labels": [4, 5, 6]}, "a row of labels for each of 2 recordings, got 3"),
        ({"extra__speaker": np.arange(3)}, "a row of extra/speaker for each of 2 recordings, got 3"),
        ({"times": [], "units": [], "labels": []}, "at least one recording, got none"),
        (
            {"times_type": np.int64, "times": [[1, 2], [3]]},
            r"the dataset spikes/times with rows of variable length of floats, got the shape \(2,\) of object",
        ),
        ({"units_type": np.float32}, "the dataset spikes/units with rows of variable length of integers, got"),
        ({"extra__speaker": [0.5, 1]}, r"the dataset extra/speaker with integers, got the shape \(2,\) of float64"),
    ],
)
def test_contents_that_are_refused(reader: Any, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(ValueError, match=f"^{path}: expected {words}"):
        reader.read_recordings(write(path, **{**GOOD, **changes}))


@pytest.mark.parametrize("name", ["spikes/times", "spikes/units", "labels"])
def test_a_missing_dataset(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", **GOOD)
    with h5py.File(path, "a") as file:
        del file[name]
    with pytest.raises(ValueError, match=f"^{path}: expected the dataset {name} .* got only labels|spikes"):
        shd.read_recordings(path)
    with h5py.File(path, "a") as file:
        file.create_group(name)
    with pytest.raises(ValueError, match=f"^{path}: expected the dataset {name}"):
        shd.read_recordings(path)
    with h5py.File(path, "w") as file:
        file["spikes"] = 1
    with pytest.raises(ValueError, match=f"^{path}: expected the dataset spikes/times .* got only spikes"):
        shd.read_recordings(path)
    h5py.File(path, "w").close()
    with pytest.raises(ValueError, match="got only an empty file"):
        shd.read_recordings(path)


def test_files_that_are_cut_short_damaged_or_foreign(reader: Any, tmp_path: Path) -> None:
    unbroken = noisy(tmp_path / "whole.h5", 5).read_bytes()
    path = tmp_path / "x.h5"
    broken = [unbroken[:size] for size in (*range(0, len(unbroken), len(unbroken) // 40), len(unbroken) - 1)]
    broken += [b"label,times\n1,0.5\n" * 100, unbroken.replace(b"GCOL", b"GCOK")]  # GCOL: where HDF5 keeps such rows
    for contents in broken:
        path.write_bytes(contents)
        words = "(expected a whole HDF5 file, got one that cannot be read: |spikes/times: expected)"
        with pytest.raises(FileFormatError, match=f"^{path}: {words}"):
            reader.read_recordings(path)


def digested(path: Path) -> Path:
    """Recordings as the synthetic digits are written."""
    rng = np.random.default_rng(0)
    spikes = [Spikes(np.sort(rng.random(n)), rng.integers(0, LINES, n)) for n in (5, 0, 30)]
    spoken_digits.write_digits(path, spoken_digits.SpokenDigits(spikes, np.arange(3), np.arange(3)))
    return path


def test_a_file_with_a_digest_is_compared_with_it(reader: Any, tmp_path: Path) -> None:
    path = digested(tmp_path / "x.h5")
    assert len(reader.read_recordings(path)) == 3
    for name, value in (("labels", 7), ("extra/speaker", 7), ("spikes/times", [0.5] * 5), ("spikes/units", [3] * 5)):
        with h5py.File(digested(path), "r+") as file:
            file[name][0] = value
            if name == "labels":  # the digest is missed where it is missing
                del file.attrs[DIGEST]
        with pytest.raises(FileFormatError, match=f"^{path}: digest: expected the content .*; remove it, and it is"):
            reader.read_recordings(path)


@pytest.mark.parametrize("chunks", [None, (1000,), (10**5,)])
@pytest.mark.parametrize("count", [10**5, 10**7, 10**12])
def test_rows_that_a_small_file_promises_are_not_read(count: int, chunks: Any, tmp_path: Path) -> None:
    """Nor are they made: 31 s and 760 MB for 3 kB, when the library read them."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name, kind in (("times", np.float16), ("units", np.uint16)):
            file.create_dataset(f"spikes/{name}", (count,), h5py.vlen_dtype(kind), chunks=chunks)
        file.create_dataset("labels", (count,), np.uint16, chunks=(1000,), compression="gzip")
    assert path.stat().st_size < 20_000
    start = perf_counter()
    with pytest.raises(FileFormatError, match=f"^{path}: "):
        shd.read_recordings(path)
    assert perf_counter() - start < 1


def test_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("shd_train.h5", tmp_path):  # a folder is no file
        with pytest.raises(FileNotFoundError) as raised:
            shd.read_recordings(path)
        for word in (
            "path: expected",
            "in " + str(Path(path).parent.absolute()),
            "hetsyn data get shd",
            "CC BY 4.0",
            "norm",
        ):
            assert word in str(raised.value)


# ---- bins --------------------------------------------------------------------------------------------------------


def test_bins_against_a_loop_over_the_spikes(module: Any, folder: Path) -> None:
    """Binary, cut at 1 s, an empty recording is silence; training, validation and test alike."""
    task = module.Speech(source=str(folder), validation=0.25)
    assert (task.lines, task.outputs, task.steps, task.batches(4)) == (LINES, CLASSES, STEPS, 4)
    training = by_label(task.training_batch(index, 4, 7) for index in range(4))
    validation, test = (by_label(task.held_out(split, 3, 7)) for split in ("validation", "test"))
    assert len(validation) == 5 and {*training} | {*validation} == {*test} == {*range(CLASSES)}
    several = 0
    for file, recordings in (("train", training | validation), ("test", test)):
        for row, inputs in recordings.items():
            path = folder / f"shd_{file}.h5"
            np.testing.assert_array_equal(inputs, binned(path, row))
            with h5py.File(path) as opened:
                several += (opened["spikes/times"][row] < 1).sum() - inputs.sum()
    assert several > 100, "spikes that share a bin"
    with h5py.File(folder / "shd_test.h5") as opened:
        too_late = sum((times >= 1).sum() for times in opened["spikes/times"])
    assert task.dropped["test"] == too_late > 100


@pytest.mark.parametrize(("dt", "duration"), [(10e-3, 1.0), (4e-3, 0.5), (3e-3, 1.0), (1e-3, 1.4)])
def test_other_bins_and_windows(dt: float, duration: float, folder: Path) -> None:
    task = Speech(source=str(folder), dt=dt, duration=duration)
    by_row = by_label(task.held_out("test", 100, 0))
    for row, inputs in by_row.items():
        np.testing.assert_array_equal(inputs, binned(folder / "shd_test.h5", row, dt, duration=duration))


def test_every_float16_time_falls_into_its_bin(module: Any, tmp_path: Path) -> None:
    """Judged with fractions: all 15,360 float16 from 0 to below 1, half of them further apart than 0.1 ms."""
    times = np.arange(0x3C00, dtype=np.uint16).view(np.float16)
    rows = np.array_split(times, 24)
    units = [np.arange(len(row)) for row in rows]
    for name in ("train", "test"):
        write(tmp_path / f"shd_{name}.h5", rows, units, np.zeros(24))
    (batch,) = module.Speech(source=str(tmp_path)).held_out("test", 24, 0)
    for sample, row in enumerate(rows):
        expected = [int(Fraction(float(time)) / Fraction(4, 1000)) for time in row]
        steps, lines = np.nonzero(batch.inputs[:, sample].numpy())
        np.testing.assert_array_equal(steps[np.argsort(lines)], expected)


@pytest.mark.parametrize("dt", [4e-3, 1e-3, 0.7e-3, 0.1])
def test_a_spike_on_a_border_is_in_the_later_bin(module: Any, dt: float, tmp_path: Path) -> None:
    """0.3 / 0.1 is 2.9999999999999996 in float64."""
    steps = round(0.5 / dt)
    for name in ("train", "test"):
        times = [np.round(np.arange(steps) * dt, 4)] * 2
        write(tmp_path / f"shd_{name}.h5", times, [np.arange(steps) % LINES] * 2, times_type=np.float64)
    by_row = by_label(module.Speech(source=str(tmp_path), dt=dt, duration=0.5).held_out("test", 2, 0))
    for inputs in by_row.values():
        np.testing.assert_array_equal(np.nonzero(inputs), (np.arange(steps), np.arange(steps) % LINES))


def test_a_time_beyond_all_integers_is_late(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write(tmp_path / f"shd_{name}.h5", [[1e300, 0.5]], [[1, 2]], times_type=np.float64)
    task = Speech(source=str(tmp_path), validation=0.0)
    (batch,) = task.held_out("test", 1, 0)
    assert batch.inputs.nonzero().tolist() == [[125, 0, 2]] and task.dropped == {"train": 1, "test": 1}


# ---- noise -------------------------------------------------------------------------------------------------------


def full(path: Path, samples: int = CLASSES) -> Path:
    """3,500 spikes in a recording, each in a bin of its config: after deletion, as many ones as spikes are left."""
    steps, lines = np.meshgrid(np.arange(0, STEPS, 5), np.arange(0, LINES, 10))
    return write(path, [(steps.ravel() + 0.5) * 4e-3] * samples, [lines.ravel()] * samples)


@pytest.mark.parametrize("chance", [0.01, 0.08, 0.64])
def test_each_spike_is_deleted_with_this_chance(module: Any, chance: float, tmp_path: Path) -> None:
    """n independent spikes leave B(n, 1 - p), whose s.d. is sqrt(n p (1 - p)); more than 5 s.d. from its mean it is
    once in a million seeds, and of 20 recordings one is more than 4.5 s.d. from its mean once in 7,000 seeds."""
    for name in ("train", "test"):
        full(tmp_path / f"shd_{name}.h5")
    task = module.Speech(source=str(tmp_path), validation=0.0, deletion=chance, test_deletion=chance)
    (tested,) = task.held_out("test", 100, 3)
    trained = [task.training_batch(index, 20, 3) for index in range(3)]  # a batch an epoch
    for batch in (tested, *trained):
        left = batch.inputs.sum((0, 2)).numpy()
        assert abs(left - 3500 * (1 - chance)).max() < 4.5 * (3500 * chance * (1 - chance)) ** 0.5
        n = 3500 * 20
        assert abs(left.sum() - n * (1 - chance)) < 5 * (n * chance * (1 - chance)) ** 0.5
    for one, other in itertools.combinations((tested, *trained), 2):  # every recording is the same but for its label
        assert (one.inputs != other.inputs).any(), "anew in every batch"
        assert (by_label([one])[0] != by_label([other])[0]).any(), "anew for every recording"
    assert digest([task.training_batch(1, 20, 3)]) == digest([trained[1]])
    assert digest([*task.held_out("test", 100, 4)]) != digest([tested]), "another seed, other noise"


def test_deletion_is_where_it_is_asked_for(module: Any, folder: Path) -> None:
    plain = module.Speech(source=str(folder), validation=0.25)
    trained = module.Speech(source=str(folder), validation=0.25, deletion=1.0)
    tested = module.Speech(source=str(folder), validation=0.25, test_deletion=1.0, test_warp=0.5)
    assert trained.training_batch(0, 15, 0).inputs.sum() == 0
    for split in ("validation", "test"):
        same = digest([*trained.held_out(split, 9, 0)]) == digest([*plain.held_out(split, 9, 0)])
        assert same, "training's deletion is in no held-out split"
    assert digest([tested.training_batch(0, 9, 0)]) == digest([plain.training_batch(0, 9, 0)])
    same = digest([*tested.held_out("validation", 9, 0)]) == digest([*plain.held_out("validation", 9, 0)])
    assert same, "the test's deletion is in the test only"
    assert sum(batch.inputs.sum() for batch in tested.held_out("test", 9, 0)) == 0


def test_a_larger_chance_takes_what_a_smaller_one_takes(module: Any, folder: Path) -> None:
    before = None
    for chance in (0.0, 0.02, 0.16, 0.64):
        left = by_label(module.Speech(source=str(folder), test_deletion=chance).held_out("test", 7, 0))
        for row, inputs in left.items():
            assert before is None or (inputs <= before[row]).all(), "what a smaller chance takes"
        before = left


def test_warp_against_a_loop_over_the_spikes(module: Any, folder: Path) -> None:
    """Times and the number of steps times 2^u, cut to 1 s before; whatever the size of the batches."""
    factors = 2.0 ** generator(5, "test", 0).uniform(-0.5, 0.5, CLASSES)
    for size in (1, 3, 100):
        batches = list(module.Speech(source=str(folder), test_warp=0.5).held_out("test", size, 5))
        assert max(len(batch.target) for batch in batches) <= size
        by_row = by_label(batches)
        assert {*by_row} == {*range(CLASSES)}
        for row, inputs in by_row.items():
            np.testing.assert_array_equal(inputs, binned(folder / "shd_test.h5", row, factor=factors[row]))


def test_a_test_set_twice_as_long_is_that_of_bins_half_as_long(folder: Path) -> None:
    slow = Speech(source=str(folder), dt=4e-3, test_stretch=2.0)
    fine = Speech(source=str(folder), dt=2e-3)
    assert slow.longest == fine.longest == 500 and slow.steps == 250
    for one, other in zip(slow.held_out("test", 8, 0), fine.held_out("test", 8, 0), strict=True):
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.target, other.target)
    usual = Speech(source=str(folder), dt=4e-3)
    for one, other in zip(slow.held_out("validation", 8, 0), usual.held_out("validation", 8, 0), strict=True):
        assert torch.equal(one.inputs, other.inputs), "of the test set alone"


def test_warps_are_even_on_a_log_scale(tmp_path: Path) -> None:
    """u is even on (-a, a): each quarter of it holds B(n, 1/4), and the steps are at most half a step off."""
    n = 400
    for name in ("train", "test"):
        write(tmp_path / f"shd_{name}.h5", [[0.5]] * n, [[0]] * n, np.zeros(n))
    batches = list(Speech(source=str(tmp_path), test_warp=0.5).held_out("test", 8, 0))
    steps = np.concatenate([[len(batch.inputs)] * len(batch.target) for batch in batches])
    assert len(steps) == n and (abs(steps - 250) > 0).mean() > 0.9
    quarters, _ = np.histogram(np.log2(steps / STEPS), [-0.505, -0.25, 0, 0.25, 0.505])
    assert quarters.sum() == n and (abs(quarters - n / 4) < 4.5 * (n * 3 / 16) ** 0.5).all()
    for batch in batches:
        assert {*batch.inputs[:, :, 0].argmax(0).tolist()} <= {(len(batch.inputs) - 1) // 2, len(batch.inputs) // 2}


def digest(batches: Sequence[Batch]) -> str:
    """One number for the bits of these batches."""
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for batch in batches for tensor in batch)).hexdigest()


# ---- splits, sources, loss ---------------------------------------------------------------------------------------


def test_splits_are_disjoint_complete_and_fixed(module: Any, folder: Path) -> None:
    task = module.Speech(source=str(folder), validation=0.25)
    epochs = []
    for first in (0, 4):
        labels = [task.training_batch(first + index, 4, 0).target for index in range(4)]
        assert [len(part) for part in labels] == [4, 4, 4, 3]
        epochs.append(torch.cat(labels).tolist())
    held_out = torch.cat([batch.target for batch in task.held_out("validation", 2, 0)]).tolist()
    assert sorted(epochs[0]) == sorted(epochs[1]) and epochs[0] != epochs[1]
    assert sorted(epochs[0] + held_out) == [*range(CLASSES)]
    again = module.Speech(source=str(folder), validation=0.25).held_out("validation", 9, 8)  # another seed of training
    assert torch.cat([batch.target for batch in again]).tolist() == held_out
    other = module.Speech(source=str(folder), validation=0.25, split_seed=1).held_out("validation", 9, 0)
    assert torch.cat([batch.target for batch in other]).tolist() != held_out, "another split_seed, another split"
    few = module.Speech(source=str(folder), validation=0.25, samples=6)
    assert few.batches(4) == 2 and torch.cat([b.target for b in few.held_out("validation", 9, 0)]).tolist() == held_out
    assert {*few.training_batch(0, 6, 0).target.tolist()} < {*epochs[0]}
    assert not [*module.Speech(source=str(folder), validation=0.0).held_out("validation", 9, 0)]


def test_speech_commands_have_35_classes_and_a_validation_file(module: Any, tmp_path: Path) -> None:
    for name, samples in (("train", 35), ("test", 3)):
        write(tmp_path / f"ssc_{name}.h5", [[0.1]] * samples, [[1]] * samples)
    task = module.Speech(source=str(tmp_path), validation=0.2)
    assert task.outputs == 35 and sum(len(batch.target) for batch in task.held_out("validation", 4, 0)) == 7
    write(tmp_path / "ssc_valid.h5", [[0.2]] * 5, [[2]] * 5, np.arange(30, 35))
    module._folder.cache_clear()
    task = module.Speech(source=str(tmp_path), validation=0.2)
    (batch,) = task.held_out("validation", 9, 0)
    assert batch.target.tolist() == [30, 31, 32, 33, 34] and task.batches(35) == 1
    assert {*task.training_batch(0, 35, 0).target.tolist()} == {*range(35)}
    for name in ("train", "test"):  # where there are both
        write(tmp_path / f"shd_{name}.h5", [[0.1]] * 2, [[1]] * 2)
    assert Speech(source=str(tmp_path)).outputs == 20


def test_synthetic_digits_are_made_when_they_are_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[str] = []

    def files(kind: str) -> tuple[Path, Path]:
        requested.append(kind)
        return folder / "shd_train.h5", folder / "shd_test.h5"

    monkeypatch.setattr(spoken_digits, "files", files)
    speech._synthetic.cache_clear()
    for kind in ("norm", "hard", "plain"):
        task = Speech(source=kind)
        assert task.outputs == CLASSES and requested[-1:] != [kind]
        for _ in range(2):
            by_label(task.held_out("test", 9, 0))
        assert requested[-1] == kind
    assert requested == ["norm", "hard", "plain"]
    speech._synthetic.cache_clear()


def test_loss_and_score_against_numpy(module: Any, folder: Path) -> None:
    """Softmax over the readouts at every step, summed over the steps, taken for logits."""
    v = np.random.default_rng(0).standard_normal((30, 4, CLASSES)) * 3
    labels = np.array([0, 5, 19, 7])
    activity = Activity(torch.from_numpy(v), ())
    for skip in (0, 11):
        task = module.Speech(source=str(folder), skip=skip)
        summed = np.zeros((4, CLASSES))
        for step in v[skip:]:
            summed += np.exp(step) / np.exp(step).sum(1, keepdims=True)
        right = summed[range(4), labels]
        loss = float(task.loss(activity, torch.from_numpy(labels)))
        np.testing.assert_allclose(loss, np.mean(np.log(np.exp(summed).sum(1)) - right))
        best = summed.argmax(1)
        np.testing.assert_array_equal(task.score(activity, torch.from_numpy(best)), np.ones(4))
        np.testing.assert_array_equal(task.score(activity, torch.from_numpy((best + 1) % CLASSES)), np.zeros(4))
    assert (v.sum(0).argmax(1) != best).any(), "this tells v from its softmax"


def test_the_papers_settings(folder: Path) -> None:
    """It has tau from 5 to 20 ms, 20 ms for the reset and 100 ms for adaptation, with a step of 1 ms."""
    files, synthetic = load_config("speech", [f"task.source={folder}"]), load_config("speech")
    network, dt = files.network, files.task.dt
    real = (*network.tau_start, network.tau_reset, network.tau_adaptation)
    np.testing.assert_allclose(np.exp(-dt / np.array(real)), np.exp(-1 / np.array([5.0, 20.0, 20.0, 100.0])))
    assert (network.hidden, network.dropout, dt) == ((128, 64), 0.2, 4e-3) and network == synthetic.network
    assert (files.training.epochs, files.training.lr, files.training.decay_lr) == (100, 2e-3, 4e-3)
    assert synthetic.training.epochs < 20, "a run of minutes"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dt": 0.0}, "dt: expected a step length in seconds"),
        ({"duration": 1e-3}, "duration: expected at least 1 steps of 0.004 s"),
        ({"duration": float("nan")}, "duration: expected at least 1 steps"),
        ({"validation": 1.0}, "validation: expected a share from 0 to below 1, got 1.0"),
        ({"split_seed": -1}, "split_seed: expected at least 0, got -1"),
        ({"samples": 0}, "samples: expected a whole number > 0, got 0"),
        ({"deletion": 1.5}, "deletion: expected a chance from 0 to 1, got 1.5"),
        ({"test_deletion": float("nan")}, "test_deletion: expected a chance from 0 to 1, got nan"),
        ({"test_warp": -0.5}, "test_warp: expected 0 to 4 octaves, got -0.5"),
        ({"test_warp": float("nan")}, "test_warp: expected 0 to 4 octaves, got nan"),
        ({"test_stretch": 0.0}, "test_stretch: expected 0.0625 to 16 times as long, got 0.0"),
        ({"skip": 125, "test_stretch": 0.5}, "skip: expected 0 to 124 of 125 steps, got 125"),
        ({"skip": 250}, "skip: expected 0 to 249 of 250 steps, got 250"),
        ({"skip": 125, "test_warp": 1.0}, "skip: expected 0 to 124 of 125 steps, got 125"),
        ({"duration": 8e-3, "test_warp": 3.0}, "skip: expected"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        Speech(**settings)


def test_data_that_settings_do_not_fit(folder: Path) -> None:
    task = Speech(source=str(folder), validation=0.01)
    with pytest.raises(ValueError, match=r"^validation: expected a share of 20 recordings that leaves some, got 0.01"):
        task.batches(4)
    with pytest.raises(ValueError, match=r"^validation: expected a share of 20 recordings that leaves some, got 0.99"):
        Speech(source=str(folder), validation=0.99).batches(4)
    with pytest.raises(ValueError, match=r"^samples: expected at most 18 recordings, got 19"):
        Speech(source=str(folder), samples=19).batches(4)
    with pytest.raises(ValueError, match=r"^split: expected validation or test, got 'train'"):
        Speech(source=str(folder)).held_out("train", 4, 0)


def test_missing_data(tmp_path: Path) -> None:
    for source in ("nrom", str(tmp_path)):
        with pytest.raises(FileNotFoundError) as raised:
            Speech(source=source).batches(4)
        for word in ("source: expected norm, hard, plain, fsdd, shd, ssc or a folder", source, "data get shd"):
            assert word in str(raised.value)
    noisy(tmp_path / "shd_train.h5", 1)
    with pytest.raises(FileNotFoundError) as raised:
        Speech(source=str(tmp_path)).batches(4)
    for word in ("source: expected shd_test.h5", f"in {tmp_path}", "data get shd", "task.source=norm"):
        assert word in str(raised.value)


# ---- planted bugs ------------------------------------------------------------------------------------------------

BINS, BORDER = test_bins_against_a_loop_over_the_spikes, partial(test_a_spike_on_a_border_is_in_the_later_bin, dt=0.1)
FLOAT16, SPLITS = test_every_float16_time_falls_into_its_bin, test_splits_are_disjoint_complete_and_fixed
DELETED, ASKED = (
    partial(test_each_spike_is_deleted_with_this_chance, chance=0.08),
    test_deletion_is_where_it_is_asked_for,
)
NESTED, WARP = test_a_larger_chance_takes_what_a_smaller_one_takes, test_warp_against_a_loop_over_the_spikes
SSC, LOSS = test_speech_commands_have_35_classes_and_a_validation_file, test_loss_and_score_against_numpy
READ, TAKE = test_read_gives_what_h5py_gives_row_by_row, test_take_and_keep_against_lists
DIGESTED = test_a_file_with_a_digest_is_compared_with_it


def refused(words: str, **changes: Any) -> Callable[..., None]:
    return partial(test_contents_that_are_refused, changes=changes, words=words)


PAIRS = refused("as many units", times=[[0.1, 0.2], []])
TIMES = [refused("finite times >= 0", times=[[0.1, 0.2], [time]]) for time in (-0.5, np.inf)]
LABELS, UNITS = (
    refused("a label from 0", labels=[4, 20]),
    refused("units from 0 to 699, got 700 in recording 1", units=[[1, 2], [700]]),
)


class Bug(NamedTuple):
    """A piece of source text replaced, the check that must notice, and what its error must say."""

    name: str
    old: str
    new: str
    check: Callable[..., None]
    says: str
    error: type[BaseException] = AssertionError
    module: str = SPEECH
    times: int = 1


SUMMED = 'READOUTS["softmax"](activity.readout[self.skip :])'
BUGS = [
    Bug(
        "the spikes of a bin are counted",
        "inputs[bins[kept].astype(np.int64), sample[kept], recordings.units[kept]] = 1.0",
        "np.add.at(inputs, (bins[kept].astype(np.int64), sample[kept], recordings.units[kept]), 1.0)",
        BINS,
        "Mismatched elements: 17 / 175000",
    ),
    Bug("bins are centred", "self.dt + ROUNDING", "self.dt + 0.5", BINS, "Mismatched elements: 239 / 175000"),
    Bug(
        "late spikes end up in the last bin",
        "self.dt + ROUNDING",
        "self.dt; bins[bins > steps] = steps - 1",
        BINS,
        "Mismatched elements: 7 / 175000",
    ),
    Bug("late spikes are not counted", "part.times >= end", "part.times >= 2 * end", BINS, "assert 0 == "),
    Bug(
        "arithmetic in float16",
        "times / self.dt",
        "times.astype(np.float16) / np.float16(self.dt)",
        FLOAT16,
        "Mismatched elements: 1 / 640",
    ),
    Bug(
        "borders are where float64 has them", "ROUNDING = 1e-9", "ROUNDING = 0.0", BORDER, "Mismatched elements: 1 / 10"
    ),
    Bug("nothing is deleted in training", ">= self.deletion", ">= 0", DELETED, "280.0"),
    Bug("all but the share is deleted", ">= self.deletion", ">= 1 - self.deletion", DELETED, "2973.0"),
    Bug(
        "the same is deleted from every batch",
        '"train", index).spawn',
        '"train", 0).spawn',
        DELETED,
        "anew in every batch",
    ),
    Bug(
        "the seed of the test's noise is ignored",
        "generator(seed, split, 1)",
        "generator(0, split, 1)",
        DELETED,
        "another seed, other noise",
    ),
    Bug(
        "training's noise in the test",
        "self.test_deletion, self.test_warp",
        "self.deletion, self.test_warp",
        ASKED,
        "training's deletion is in no held-out split",
    ),
    Bug(
        "the test's noise in the validation",
        "self._validation, 0.0",
        "self._validation, self.test_deletion",
        ASKED,
        "the test's deletion is in the test only",
    ),
    Bug(
        "another draw for another chance",
        "split, 1)",
        "split, round(100 * deletion))",
        NESTED,
        "what a smaller chance takes",
    ),
    Bug(
        "warps are even on a linear scale",
        "2.0 ** generator(seed, split, 0)",
        "1 + generator(seed, split, 0)",
        WARP,
        "(138, 700), (183, 700) mismatch",
    ),
    Bug(
        "the number of steps stays",
        "self._steps(factors)",
        "self._steps(factors * 0 + 1)",
        WARP,
        "(250, 700), (208, 700) mismatch",
    ),
    Bug(
        "times shrink where steps grow",
        "recordings.times * np",
        "recordings.times / np",
        WARP,
        "Mismatched elements: 168 / 128100",
    ),
    Bug(
        "a factor by the place in the batch",
        "n, factors[rows])",
        "n, factors[: len(rows)])",
        WARP,
        "Mismatched elements: 203 / 128100",
    ),
    Bug(
        "a held-out recording is lost",
        "range(0, len(rows), batch)",
        "range(0, len(rows) - 1, batch)",
        WARP,
        "{7} == {0, 1, 2, 3",
    ),
    Bug(
        "validation is trained on",
        "return self.limited(train), held_out",
        "return self.limited(np.r_[train, held_out]), held_out",
        SPLITS,
        "[4, 4, 4, 4] == [4, 4, 4, 3]",
        module=TASK,
    ),
    Bug(
        "one split for good",
        "digits.split(total, self.split_seed, share)",
        "digits.split(total, 0, share)",
        SPLITS,
        "another split_seed, another split",
        module=TASK,
    ),
    Bug("all samples are used", "return train[: self.samples]", "return train", SPLITS, "4 == 2", module=TASK),
    Bug("the validation file is left out", 'name == "ssc" and', 'name == "scs" and', SSC, "== [30, 31, 32, 33, 34]"),
    Bug(
        "a share is held out beside the file",
        "if self.data.validation is None else 0.0",
        "",
        SSC,
        "Extra items in the right set",
    ),
    Bug("SHD's classes for good", "shd.CLASSES[_set_of(self.source)]", "20", SSC, "20 == 35"),
    Bug("the mean of softmax", SUMMED, "activity.readout[self.skip :].softmax(-1).mean(0)", LOSS, "array(3.005034)"),
    Bug("no softmax", SUMMED, "activity.readout[self.skip :].sum(0)", LOSS, "array(36.183356)"),
    Bug("no step is left out", "[self.skip :]", "", LOSS, "array(3.634556)"),
]
READER_BUGS = [
    Bug("times stay in float16", "times.astype(np.float64)", "times", READ, "dtype('<f2') != ", module=READER),
    Bug(
        "labels are in the order of speakers",
        "labels.astype(np.int64)",
        "np.sort(labels).astype(np.int64)",
        READ,
        "At index 0 diff",
        module=READER,
    ),
    Bug(
        "spikes of the recording before",
        "starts - offsets[:-1]",
        "starts - offsets[1:]",
        TAKE,
        "Mismatched elements: 32 / 32",
        module=READER,
    ),
    Bug(
        "offsets before the deletion",
        "np.cumsum(kept)])[self.offsets]",
        "np.cumsum(kept)]); offsets = self.offsets",
        TAKE,
        "(32,), (12,) mismatch",
        module=READER,
    ),
    Bug(
        "units are kept where times are not",
        "self.units[kept], offsets",
        "self.units[: kept.sum()], offsets",
        TAKE,
        "Mismatched elements: 12 / 12",
        module=READER,
    ),
    Bug(
        "times and units need not pair",
        "(lengths == others, ",
        "(others == others, ",
        PAIRS,
        "DID NOT RAISE",
        error=pytest.fail.Exception,
        module=READER,
    ),
    Bug(
        "negative times",
        "(times >= 0) & (times < np.inf)",
        "times < np.inf",
        TIMES[0],
        "DID NOT RAISE",
        error=pytest.fail.Exception,
        module=READER,
    ),
    Bug(
        "infinite times",
        "(times >= 0) & (times < np.inf)",
        "times >= 0",
        TIMES[1],
        "DID NOT RAISE",
        error=pytest.fail.Exception,
        module=READER,
    ),
    Bug(
        "one label too many",
        "labels < classes",
        "labels <= classes",
        LABELS,
        "DID NOT RAISE",
        error=pytest.fail.Exception,
        module=READER,
    ),
    Bug(
        "one unit too many",
        "units < CHANNELS",
        "units <= CHANNELS",
        UNITS,
        "DID NOT RAISE",
        error=pytest.fail.Exception,
        module=READER,
    ),
    Bug("the recording after is blamed", 'side="right") - 1', 'side="right")', UNITS, "in recording 2", module=READER),
    Bug(
        "the digest is not asked for",
        "if hdf5.DIGEST in file.attrs or VERSION in file:",
        "if False:",
        DIGESTED,
        "DID NOT RAISE",
        error=pytest.fail.Exception,
        module=READER,
    ),
]


@pytest.mark.parametrize("bug", BUGS + READER_BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug, tmp_path: Path) -> None:
    around = (READER,) if bug.module == READER else (TASK, SPEECH)
    fresh = changed(bug.module, bug.old, bug.new, around=around, times=bug.times)[around[-1]]
    arguments = {"module": fresh, "reader": fresh, "folder": tmp_path, "tmp_path": tmp_path}
    names = inspect.signature(bug.check).parameters
    if "folder" in names:
        recorded(tmp_path)
    with caught(bug.says, bug.error):
        bug.check(**{name: value for name, value in arguments.items() if name in names})
