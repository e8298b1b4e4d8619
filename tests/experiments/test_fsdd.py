"""The Free Spoken Digit Dataset: recordings read and heard, which are for testing, and which a fold leaves out."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsyn_plugins.cli import main
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.experiments.data import cochlea, fsdd
from hetsyn_plugins.experiments.tasks.speech import Speech

DIGITS, SPEAKERS, TAKES = 2, ("ann", "bo", "cy"), 6


def write_wav(path: Path, samples: Any, rate: int = 8_000, width: int = 2, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setframerate(rate)
        sound.setsampwidth(width)
        sound.setnchannels(channels)
        sound.writeframes(np.asarray(samples, "<i2").tobytes())
    return path


def sound(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9_000, 9_000, length)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small set: 2 digits by 3 speakers, 6 takes each, every one of another length."""
    monkeypatch.setenv("HETSYN_CACHE", str(tmp_path / "cache"))
    names = tuple(f"{digit}_{who}_{take}.wav" for digit in range(DIGITS) for who in SPEAKERS for take in range(TAKES))
    for name, value in (("RECORDINGS", names), ("DIGITS", DIGITS), ("SPEAKERS", SPEAKERS), ("TAKES", TAKES)):
        monkeypatch.setattr(fsdd, name, value)
    (tmp_path / "set" / "recordings").mkdir(parents=True)
    for i, name in enumerate(names):
        write_wav(tmp_path / "set" / "recordings" / name, sound(i, 800 + 16 * i))
    return tmp_path / "set"


def test_a_recording_is_read_sample_by_sample(tmp_path: Path) -> None:
    read = fsdd.read_wav(write_wav(tmp_path / "x.wav", [0, 1, -32768, 32767]))
    assert read.tolist() == [0.0, 2**-15, -1.0, 1 - 2**-15]


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: write_wav(path, sound(0, 9), rate=16_000), "got 16 bits, 1 channels, 16000 Hz"),
        (lambda path: write_wav(path, sound(0, 8), channels=2), "got 16 bits, 2 channels, 8000 Hz"),
        (lambda path: write_wav(path, sound(0, 8), width=1), "got 8 bits, 1 channels, 8000 Hz"),
        (lambda path: path.write_bytes(b"RIFF"), "got one that cannot be read"),
        (lambda path: path.write_bytes(b""), "got one that cannot be read"),
        (lambda path: path.write_bytes(bytes(2 << 20)), "expected .*bytes"),
        (lambda path: path.mkdir(), "got what is no file"),
    ],
)
def test_what_is_no_such_recording_is_refused(tmp_path: Path, write: Callable[[Path], Any], says: str) -> None:
    write(tmp_path / "x.wav")
    with pytest.raises(FileFormatError, match=rf"x\.wav: expected .*{says}" if says.startswith("got") else says):
        fsdd.read_wav(tmp_path / "x.wav")


@pytest.mark.parametrize("length", [40, 41])
def test_twice_the_rate_is_the_same_sound(length: int) -> None:
    """Sines that fit into the sound are known in between, up to half the sample rate."""
    at = np.arange(2 * length) / 2
    for cycles in range(length // 2 + 1):
        both = [np.cos(2 * np.pi * cycles * t / length + phase) for t, phase in ((at, 0.0), (at, 0.7))]
        whole = both if 2 * cycles < length else both[:1]  # at half the rate only its cosine is in the samples
        for sine in whole:
            np.testing.assert_allclose(fsdd.doubled(sine[::2]), sine, atol=1e-12)


def test_each_recording_has_its_own_spikes_label_and_speaker(folder: Path) -> None:
    train, test = fsdd.load(folder, quiet=True)
    assert len(train) == 6 and len(test) == 30
    assert train.labels.tolist() == [0] * 3 + [1] * 3 and train.speakers is not None
    assert train.speakers.tolist() == [0, 1, 2] * 2
    assert np.bincount(test.labels).tolist() == [15, 15]
    heard = fsdd.read_wav(folder / "recordings" / "1_bo_5.wav")
    spikes = cochlea.spikes(fsdd.doubled(heard), 16_000)
    row = train.take(np.array([4]))
    np.testing.assert_array_equal(row.times, spikes.times.astype(np.float16))
    np.testing.assert_array_equal(row.units, spikes.units)


def test_recordings_are_heard_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fsdd.load(folder, quiet=True)
    monkeypatch.setattr(fsdd, "listen", lambda *_: pytest.fail("heard again"))
    for one, other in zip(first, fsdd.load(folder / "recordings"), strict=True):
        np.testing.assert_array_equal(one.times, other.times)


@pytest.mark.parametrize("more", [[], ["--quiet"]])
def test_a_quiet_command_hears_without_a_bar(
    folder: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"task.source={folder}", "training.epochs=1", "training.batch=6", "network.hidden=[4]"]
    options = [word for setting in settings for word in ("--set", setting)]
    assert (
        main(["train", "speech", "--jobs", "1", "--seeds", "0", "--out", str(tmp_path / "run"), *options, *more]) == 0
    )
    said = capsys.readouterr().err
    assert ("listening" in said) is (not more) and ("it/s" in said) is (not more)


def test_other_recordings_are_heard_anew(folder: Path) -> None:
    before, _ = fsdd.load(folder, quiet=True)
    write_wav(folder / "recordings" / "0_ann_5.wav", sound(99, 900))
    after, _ = fsdd.load(folder, workers=1, quiet=True)
    assert before.times[: before.offsets[1]].tolist() != after.times[: after.offsets[1]].tolist()
    np.testing.assert_array_equal(before.times[before.offsets[1] :], after.times[after.offsets[1] :])


def test_a_recording_that_is_missing_is_named(folder: Path) -> None:
    (folder / "recordings" / "1_cy_0.wav").unlink()
    (folder / "recordings" / "1_cy_1.wav").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"the 36 recordings of FSDD in .*, got none of 1_cy_0\.wav and 1 others"
    ):
        fsdd.load(folder)


def test_the_task_takes_it_from_a_folder_and_from_the_cache(folder: Path, tmp_path: Path) -> None:
    task = Speech(source=str(folder), validation=0.0)
    assert task.outputs == 10 and len(task.data.train) == 6 and len(task.data.test) == 30
    with pytest.raises(FileNotFoundError, match=r"source: expected the files of fsdd in .*: hetsyn data get fsdd"):
        assert Speech(source="fsdd").outputs
    (tmp_path / "cache" / "fsdd").symlink_to(folder)
    assert len(Speech(source="fsdd").data.test) == 30


# ---- who is tested -------------------------------------------------------------------------------------------------


def test_a_fold_tests_one_speaker_and_trains_on_all_takes_of_the_others(folder: Path) -> None:
    for who in range(3):
        task = Speech(source=str(folder), fold=who, validation=0.0)
        train, test = task.data.train.speakers, task.data.test.speakers
        assert train is not None and test is not None
        assert test.tolist() == [who] * 12 and len(train) == 24 and who not in train
        assert np.bincount(task.data.test.labels).tolist() == [6, 6]


@pytest.mark.parametrize(("share", "speakers"), [(0.01, 1), (0.3, 1), (0.5, 1), (0.9, 1)])
def test_validation_is_on_whole_speakers(folder: Path, share: float, speakers: int) -> None:
    task = Speech(source=str(folder), fold=0, validation=share)  # two are left, and one must stay
    train, held_out = task.split
    who = task.data.train.speakers
    assert who is not None and not set(who[train]) & set(who[held_out])
    assert len(set(who[held_out])) == speakers and sorted([*train, *held_out]) == list(range(24))
    seeds = {tuple(who[Speech(source=str(folder), fold=0, split_seed=s).split[1]]) for s in range(8)}
    assert len(seeds) == 2


def test_validation_comes_as_near_to_its_share_as_whole_speakers_can(folder: Path) -> None:
    for share, speakers in ((0.1, 1), (0.4, 1), (0.55, 2), (0.9, 2)):
        train, held_out = Speech(source=str(folder), validation=share).split
        assert len(held_out) == 2 * speakers and len(train) == 6 - 2 * speakers


def test_validation_may_be_on_recordings_of_all_speakers(folder: Path) -> None:
    task = Speech(source=str(folder), fold=0, validation=0.5, validate_on="recordings")
    who = task.data.train.speakers
    assert who is not None and set(who[task.split[0]]) == set(who[task.split[1]]) == {1, 2}


def test_samples_limits_what_is_trained_on_and_no_more(folder: Path) -> None:
    every, few = Speech(source=str(folder), fold=0), Speech(source=str(folder), fold=0, samples=5)
    assert len(few.split[0]) == 5 and set(few.split[0]) <= set(every.split[0])
    np.testing.assert_array_equal(few.split[1], every.split[1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"fold": -1}, "^fold: expected a speaker from 0, got -1"),
        ({"fold": 3}, "^fold: expected a speaker, one of 0, 1, 2, got 3"),
        ({"validate_on": "speaker"}, "^validate_on: expected one of speakers, recordings, got 'speaker'"),
        ({"fold": 0, "samples": 13}, "^samples: expected at most 12 recordings, got 13"),
    ],
)
def test_a_fold_that_there_is_not_is_refused(folder: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        assert Speech(source=str(folder), **settings).split
