"""Synthetic spoken digits: the ear against closed forms, the kinds against their promises, files never half there."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from math import comb
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import needs

from hetsyn_plugins.core.file_format import FileFormatError, UncheckedFileWarning
from hetsyn_plugins.core.hdf5 import DIGEST
from hetsyn_plugins.experiments.data import cochlea, get, speakers, spoken_digits
from hetsyn_plugins.experiments.data.cochlea import Spikes
from hetsyn_plugins.experiments.data.speakers import Utterance

RATE = 22050
ROOT = Path(__file__).resolve().parents[2]

needs_espeak = needs("espeak-ng", shutil.which("espeak-ng") is not None)


def tone(frequency: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


# --- the ear


def test_centres_are_evenly_spaced_on_glasberg_and_moores_scale() -> None:
    centres = cochlea.centres()
    assert centres[[0, -1]] == pytest.approx([60, 7400])
    numbers = 21.4 * np.log10(4.37 * centres / 1000 + 1)  # their equation 4
    assert np.diff(numbers) == pytest.approx((numbers[-1] - numbers[0]) / 699)


@pytest.mark.parametrize(("frequency", "bandwidth"), [(100, 35.5), (1000, 132.6), (4000, 456.5)])
def test_bandwidths_are_glasberg_and_moores(frequency: float, bandwidth: float) -> None:
    assert cochlea.erb(np.array(frequency)) == pytest.approx(bandwidth, abs=0.05)


@pytest.mark.parametrize("centre", [60.0, 80.0, 1000.0, 7400.0])
def test_gain_of_a_filter_is_one_at_its_centre(centre: float) -> None:
    """60 and 80 Hz guard against one section of order 8, whose rounding changes the gain there by a third."""
    cells = cochlea.hair_cells(tone(centre, 1.0), RATE, np.array([centre]))[500:, 0]
    assert np.mean(cells**2) == pytest.approx(1 / np.pi, rel=0.01)  # the mean of a rectified sine


def test_gain_of_a_filter_falls_to_both_sides_as_a_gammatones() -> None:
    centre = 2000.0
    bandwidth = cochlea.erb(np.array(centre))
    for offset in (-bandwidth, bandwidth):
        cells = cochlea.hair_cells(tone(centre + offset, 0.5), RATE, np.array([centre]))[250:, 0]
        gain = (1 + 1 / 1.019**2) ** -2  # of order 4, one bandwidth beside the centre
        assert np.mean(cells**2) * np.pi == pytest.approx(gain, rel=0.03)


def test_a_filter_answers_a_click_as_four_poles_do() -> None:
    click = np.zeros(60)
    click[0] = 1
    rate, centre = cochlea.FRAMES, 100.0  # a frame is a sample
    p = np.exp((-1.019 * 24.7 * 1.437 + 1j * centre) * 2 * np.pi / rate)
    answer = [2 * (1 - abs(p)) ** 4 * comb(n + 3, 3) * (p**n).real for n in range(60)]
    cells = cochlea.hair_cells(click, rate, np.array([centre]))[:, 0]
    assert cells**2 == pytest.approx(np.maximum(answer, 0), abs=1e-15)


@pytest.mark.parametrize("centre", [500.0, 2000.0, 7400.0])
def test_filters_agree_with_scipys_gammatone(centre: float) -> None:
    signal = pytest.importorskip("scipy.signal")
    noise = np.random.default_rng(0).standard_normal(RATE // 10)
    filtered = np.maximum(signal.lfilter(*signal.gammatone(centre, "iir", fs=RATE), noise), 0)
    expected = [filtered[k * RATE // 1000 : (k + 1) * RATE // 1000].mean() for k in range(100)]
    cells = cochlea.hair_cells(noise, RATE, np.array([centre]))[:, 0]
    assert cells**2 == pytest.approx(np.array(expected), abs=1e-3 * max(expected))


def test_a_fibre_that_is_driven_hard_fires_every_2_ms_and_never_faster() -> None:
    assert np.nonzero(cochlea.fibres(np.full((100, 1), 1e3))[:, 0])[0].tolist() == list(range(0, 100, 2))
    fired = cochlea.fibres(np.random.default_rng(0).exponential(5.0, (500, 50)))
    assert fired.any() and not (fired[1:] & fired[:-1]).any()


def test_a_fibre_under_a_constant_sound_fires_at_onset_and_adapts_as_its_equations_say() -> None:
    sound = 0.5
    forget, keep = np.exp(-1 / 30), np.exp(-1 / 10)
    fired = np.nonzero(cochlea.fibres(np.full((600, 1), sound))[:, 0])[0]
    drive = sound * (1 - 0.6 * (1 - forget ** np.arange(1, 20)))  # the mean of the last 30 ms is sound (1 - forget^n)
    v = [sum(keep ** (n - i) * drive[i] for i in range(n + 1)) for n in range(19)]
    assert fired[0] == next(n for n in range(19) if v[n] >= 1.2)
    adapted = 0.4 * sound
    steps = int(np.ceil(np.log1p(-1.2 * (1 - keep) / adapted) / np.log(keep)))  # adapted (1 - keep^n) / (1 - keep)
    assert set(np.diff(fired[-10:])) == {steps + 1}  # and one more frame of refractory time
    assert np.diff(fired)[0] < np.diff(fired)[-1]


def test_a_tone_is_heard_where_its_frequency_is_and_not_before_it_comes() -> None:
    frequency, onset = 1000.0, 0.1
    sound = np.concatenate([np.zeros(round(onset * RATE)), tone(frequency, 0.2)])
    heard = cochlea.spikes(sound, RATE)
    assert heard.times.min() > onset
    assert (np.diff(heard.times) >= 0).all()
    loudest = cochlea.centres()[np.bincount(heard.units).argmax()]
    assert abs(loudest - frequency) < cochlea.erb(np.array(frequency))


def test_what_is_heard_depends_neither_on_loudness_nor_on_the_sample_rate() -> None:
    heard, louder = (cochlea.spikes(gain * tone(440, 0.2), RATE) for gain in (1, 8))
    assert np.array_equal(heard.times, louder.times) and np.array_equal(heard.units, louder.units)
    finer = cochlea.spikes(tone(440, 0.2, 2 * RATE), 2 * RATE)
    assert len(finer.times) == pytest.approx(len(heard.times), rel=0.05)
    assert finer.times.mean() == pytest.approx(heard.times.mean(), abs=1e-3)


@pytest.mark.parametrize("sound", [np.zeros(1000), np.full(1000, np.nan), np.ones(10), np.ones((1000, 2))])
def test_sounds_that_cannot_be_heard_are_refused(sound: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^sound: expected"):
        cochlea.spikes(sound, RATE)


# --- the kinds


def plain_spikes(seed: int, spikes: int = 3000, seconds: float = spoken_digits.LONGEST) -> Spikes:
    rng = np.random.default_rng(seed)
    return Spikes(np.sort(rng.uniform(0, seconds, spikes)), rng.integers(0, 700, spikes))


def test_hard_scales_puts_off_and_moves_all_spikes_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken_digits, "THINNING", 0.0)
    monkeypatch.setattr(spoken_digits, "NOISE_RATE", 0.0)
    plain = Spikes(np.array([0.1, 0.2, 0.5]), np.array([100, 350, 600]))
    warps, onsets, shifts = [], [], []
    for seed in range(500):
        times, units = spoken_digits.hard(plain, np.random.default_rng(seed))
        warp = (times[1] - times[0]) / 0.1
        assert times[2] - times[0] == pytest.approx(0.4 * warp)
        warps.append(warp)
        onsets.append(times[0] - 0.1 * warp)
        assert len(set(units - plain.units)) == 1
        shifts.append(units[0] - plain.units[0])
    assert 0.8 <= min(warps) < 0.81 and 1.24 < max(warps) <= 1.25
    assert np.median(warps) == pytest.approx(1, abs=0.03)
    assert 0 <= min(onsets) < 0.01 and 0.24 < max(onsets) <= 0.25
    assert (min(shifts), max(shifts)) == (-30, 30)


def test_hard_loses_half_of_the_spikes_and_has_2_hz_of_noise() -> None:
    plain = Spikes(np.linspace(0, 0.5, 4000), np.full(4000, 350))
    counted, noise = [], []
    for seed in range(200):
        times, units = spoken_digits.hard(plain, np.random.default_rng(seed))
        assert units.min() >= 0 and units.max() < 700
        assert times.min() >= 0 and times.max() <= 0.99 and (np.diff(times) >= 0).all()
        counts = np.bincount(units, minlength=700)
        counted.append(counts.max())
        noise.append(counts.sum() - counts.max())
    assert np.mean(counted) == pytest.approx(2000 + 2, abs=5 * np.sqrt(1000 / 200))
    assert np.mean(noise) == pytest.approx(2 * 0.99 * 699, abs=5 * np.sqrt(1384 / 200))


def test_hard_drops_what_leaves_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken_digits, "THINNING", 0.0)
    monkeypatch.setattr(spoken_digits, "NOISE_RATE", 0.0)
    plain = Spikes(np.linspace(0, 0.5, 700), np.arange(700))
    sizes = [len(spoken_digits.hard(plain, np.random.default_rng(seed)).units) for seed in range(200)]
    assert min(sizes) == 670 and max(sizes) == 700


@pytest.mark.parametrize("spikes", [0, 1, 3, 50, 3000])
@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.75])
def test_norm_leaves_nothing_to_count(spikes: int, seconds: float, tmp_path: Path) -> None:
    """Not even how many bins of a channel hold a spike, as a network sees the file."""
    normed = [spoken_digits.norm(plain_spikes(s, spikes, seconds), np.random.default_rng(s)) for s in range(20)]
    path = tmp_path / "norm.h5"
    spoken_digits.write_digits(path, spoken_digits.SpokenDigits(normed, np.zeros(20), np.zeros(20)))
    expected = np.zeros(700)
    expected[np.arange(0, 689, 8)] = 4
    with h5py.File(path) as file:
        for times, units in zip(file["spikes/times"][:], file["spikes/units"][:], strict=True):
            assert len(times) == 4 * 87
            seen = times.astype(np.float64)
            assert seen.min() >= 0 and seen.max() < 1
            assert (np.diff(seen) >= 0).all()
            for width in (1e-3, 4e-3, 10e-3):
                bins = np.unique(np.stack([units, np.floor(seen / width).astype(int)]), axis=1)
                assert np.array_equal(np.bincount(bins[0], minlength=700), expected)


def test_norm_takes_the_odd_eighths_of_a_groups_spikes_and_spreads_those_of_a_silent_one() -> None:
    eighths = np.arange(16) * 0.03 + 0.01  # 16 spikes in group 2, over its eight channels; nothing elsewhere
    plain = Spikes(eighths, 16 + np.arange(16) % 8)
    times, units = spoken_digits.norm(plain, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    warp = 1.25 ** rng.uniform(-1, 1)
    onset = times[units == 16][0] - warp * eighths[2]
    assert 0 <= onset <= 0.25
    assert times[units == 16] == pytest.approx(onset + warp * eighths[[2, 6, 10, 14]])
    for silent in (0, 8, 24, 688):
        assert times[units == silent] == pytest.approx(onset + warp * 0.46 * np.array([1, 3, 5, 7]) / 8)


def test_the_longest_utterance_ends_before_1_s_in_every_kind() -> None:
    plain = plain_spikes(0)
    for alter in (spoken_digits.hard, spoken_digits.norm):
        last = max(alter(plain, np.random.default_rng(seed)).times.max() for seed in range(200))
        assert 0.94 < last <= 0.99


# --- speakers


def test_every_speaker_says_every_word_in_different_manners() -> None:
    said = speakers.utterances(8, seed=0)
    assert len(said) == len(set(said)) == 1920
    assert set(Counter((u.speaker, u.label) for u in said).values()) == {8}
    assert said != speakers.utterances(8, seed=1)
    assert all(0 <= u.pitch <= 99 and 80 <= u.speed for u in said)
    assert len(set(speakers.SPEAKERS)) == 12 and len(set(speakers.WORDS)) == 20


def test_without_espeak_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt install espeak-ng"):
        spoken_digits.files("norm", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_says_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "espeak-ng"
    program.write_text("#!/bin/sh\necho no such voice >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(RuntimeError, match="no such voice"):
        speakers.speak(Utterance(0, 0, 50, 170))
    with pytest.raises(RuntimeError, match=r"^espeak-ng: expected its version"):
        speakers.version()


@needs_espeak
def test_every_speaker_has_a_voice_of_its_own_in_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    """espeak-ng takes a voice that it half knows, such as en-gb+f2, and leaves out the variant without a word."""
    said = [Utterance(speaker, label, 50, 170) for label in (7, 13) for speaker in range(12)]
    sounds = [speakers.speak(utterance)[0].tobytes() for utterance in said]
    assert len(set(sounds[:12])) == len(set(sounds[12:])) == 12
    others = tuple(speaker._replace(variant="whisper") for speaker in speakers.SPEAKERS)
    monkeypatch.setattr(speakers, "SPEAKERS", others)
    assert all(speakers.speak(utterance)[0].tobytes() != sound for utterance, sound in zip(said, sounds, strict=True))


@needs_espeak
def test_every_word_is_a_word_long() -> None:
    lengths = [len(speakers.speak(Utterance(0, label, 50, 170))[0]) / RATE for label in range(20)]
    assert 0.2 < min(lengths) and max(lengths) < spoken_digits.LONGEST


@needs_espeak
def test_espeak_hears_umlauts_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    said, rate = speakers.speak(Utterance(0, 15, 50, 170))  # fünf
    monkeypatch.setenv("LC_ALL", "C")
    again, _ = speakers.speak(Utterance(0, 15, 50, 170))
    assert rate == RATE and np.array_equal(said, again)
    assert np.abs(said).max() <= 1 and np.abs(said).max() > 0.1


@needs_espeak
def test_takes_of_a_word_are_different_sounds() -> None:
    said = [Utterance(0, 3, 45 + pitch, 165 + speed) for pitch, speed in speakers.MANNERS]
    assert len({speakers.speak(utterance)[0].tobytes() for utterance in said}) == len(said)


@needs_espeak
def test_words_are_heard_alike_by_any_number_of_workers() -> None:
    said = [Utterance(speaker, label, 50, 170) for speaker in (0, 4) for label in (1, 6, 11, 15)]
    one, two = (spoken_digits.listen(said, workers) for workers in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.times, b.times) and np.array_equal(a.units, b.units)
        assert 1000 < len(a.times) < 20000 and a.times.max() <= spoken_digits.LONGEST


# --- files


def chirp(utterance: Utterance) -> tuple[np.ndarray, int]:
    """A short sound in place of a word, another one for every utterance."""
    start = 200 + 150 * utterance.label + 10 * utterance.speaker
    t = np.arange(RATE * utterance.speed // 8000) / RATE
    return np.sin(2 * np.pi * (start + 20 * utterance.pitch * t) * t), RATE


@pytest.fixture
def chirps(monkeypatch: pytest.MonkeyPatch) -> list[Utterance]:
    """Chirps in place of espeak-ng; what was spoken so far."""
    spoken: list[Utterance] = []

    def speak(utterance: Utterance) -> tuple[np.ndarray, int]:
        spoken.append(utterance)
        return chirp(utterance)

    monkeypatch.setattr(speakers, "speak", speak)
    monkeypatch.setattr(speakers, "version", lambda: "1.0")
    return spoken


def generated(folder: Path, kind: str = "plain", seed: int = 0, workers: int = 2) -> tuple[Path, Path]:
    return spoken_digits.files(kind, folder, seed=seed, takes=1, workers=workers, quiet=True)


def test_files_have_shds_layout(tmp_path: Path) -> None:
    path = tmp_path / "two.h5"
    two = [Spikes(np.array([0.25, 0.75]), np.array([3, 699])), Spikes(np.array([0.1]), np.array([0]))]
    spoken_digits.write_digits(path, spoken_digits.SpokenDigits(two, np.array([0, 19]), np.array([4, 11])))
    with h5py.File(path) as file:
        assert h5py.check_vlen_dtype(file["spikes/times"].dtype) == np.float16
        assert h5py.check_vlen_dtype(file["spikes/units"].dtype) == np.uint16
        assert file["spikes/times"][0].tobytes() == b"\x00\x34\x00\x3a"  # float16: 0.25 = 2^-2, 0.75 = 1.5 * 2^-1
        assert file["spikes/units"][0].tobytes() == b"\x03\x00\xbb\x02"
        assert file["spikes/times"][1].tolist() == [np.float16(0.1)]
        for name, values in (("labels", [0, 19]), ("extra/speaker", [4, 11])):
            assert file[name].dtype == np.uint16 and file[name][:].tolist() == values
        keys = file["extra/keys"]
        assert keys.dtype.kind == "S" and [key.decode() for key in keys[:]] == list(speakers.WORDS)
        assert keys[[0, 9]].tolist() == [b"zero", b"nine"] and keys[15] == "fünf".encode()
        meta = file["extra/meta_info"]
        assert set(meta) == {"gender", "age", "body_height"} and all(len(meta[name]) == 12 for name in meta)
        assert set(meta["gender"][:]) == {b"female", b"male"}


def test_test_file_has_the_held_out_speakers_and_one_in_twenty_of_the_others(
    tmp_path: Path, chirps: list[Utterance]
) -> None:
    train, test = (spoken_digits.read_digits(path) for path in generated(tmp_path))
    assert (len(train.labels), len(test.labels)) == (190, 50)
    assert not np.isin(train.speakers, (4, 5)).any()
    assert Counter(test.speakers.tolist())[4] == Counter(test.speakers.tolist())[5] == 20
    labels = np.concatenate([train.labels, test.labels])
    assert (np.bincount(labels) == 12).all()
    for shuffled in (train.labels, train.speakers, test.labels, test.speakers):
        assert len(np.unique(shuffled[:25])) > 5
    said = Counter((u.speaker, u.label) for u in chirps)
    assert said == Counter(zip(np.concatenate([train.speakers, test.speakers]), labels, strict=True))


def test_every_row_holds_the_spikes_of_its_own_label_and_speaker(tmp_path: Path, chirps: list[Utterance]) -> None:
    train, _ = (spoken_digits.read_digits(path) for path in generated(tmp_path))
    said = {(u.speaker, u.label): u for u in chirps}
    for row in (0, 100, 189):
        expected = cochlea.spikes(*chirp(said[train.speakers[row], train.labels[row]]))
        assert np.array_equal(train.spikes[row].units, expected.units)
        assert train.spikes[row].times == pytest.approx(expected.times, abs=2.5e-4)


def test_files_depend_on_seed_and_kind_and_never_on_workers(tmp_path: Path, chirps: list[Utterance]) -> None:
    for kind in spoken_digits.KINDS:
        one, two = (generated(tmp_path / str(workers), kind, workers=workers) for workers in (1, 2))
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    sums = [spoken_digits.checksum(generated(tmp_path / "1", kind)[0]) for kind in spoken_digits.KINDS]
    sums.append(spoken_digits.checksum(generated(tmp_path / "1", seed=1)[0]))
    assert len(set(sums)) == 4


def test_every_utterance_is_altered_by_a_generator_of_its_own(
    tmp_path: Path, chirps: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(plain: Spikes, rng: np.random.Generator) -> Spikes:
        return Spikes(plain.times[:1], rng.integers(0, 2**16, 1))

    for kind in ("hard", "norm"):
        monkeypatch.setattr(spoken_digits, kind, draw)
    paths = [path for kind in ("hard", "norm") for seed in (0, 1) for path in generated(tmp_path, kind, seed)]
    drawn = [spikes.units[0] for path in paths for spikes in spoken_digits.read_digits(path).spikes]
    assert len(drawn) == 960 and len(set(drawn)) > 930  # of 65,536: about 7 coincide


def test_the_recipe_is_the_one_that_was_counted(tmp_path: Path, chirps: list[Utterance]) -> None:
    """Whoever changes what a seed gives counts RECIPE up, or old files in caches would pass for new ones."""
    sums = {kind: spoken_digits.checksum(generated(tmp_path, kind)[1])[:16] for kind in spoken_digits.KINDS}
    assert sums == {"plain": "9afa6fd9d1ef2b98", "hard": "ca0ea2df74a07726", "norm": "d282efbc664a5a0a"}
    assert spoken_digits.RECIPE == 1


def test_plain_sounds_are_spoken_once_for_all_kinds(tmp_path: Path, chirps: list[Utterance]) -> None:
    paths = [generated(tmp_path, kind) for kind in ("norm", "hard", "plain", "norm")]
    assert len(chirps) == 240
    assert paths[0] == paths[3] and len({path for pair in paths for path in pair}) == 6


def test_checksum_sees_every_part_of_the_contents(tmp_path: Path) -> None:
    half, three_quarters = 0x3800, 0x3A00  # 0.5 and 0.75 as float16
    spikes = [Spikes(np.array([0.25]), np.array([half])), Spikes(np.array([0.75]), np.array([5]))]
    base = spoken_digits.SpokenDigits(spikes, np.array([0, 1]), np.array([2, 3]))
    same_bytes = [Spikes(np.array([0.25, 0.5]), np.array([three_quarters, 5])), Spikes(np.empty(0), np.empty(0))]
    others = [
        base,
        base._replace(labels=np.array([0, 2])),
        base._replace(speakers=np.array([2, 4])),
        base._replace(spikes=[spikes[0]._replace(times=np.array([0.2505])), spikes[1]]),
        base._replace(spikes=[spikes[0]._replace(units=np.array([3])), spikes[1]]),
        base._replace(spikes=same_bytes),
    ]
    sums = set()
    for recordings in others:
        spoken_digits.write_digits(tmp_path / "some.h5", recordings)
        sums.add(spoken_digits.checksum(tmp_path / "some.h5"))
    assert len(sums) == len(others)


def test_a_cache_of_before_is_taken_and_says_so(tmp_path: Path, chirps: list[Utterance]) -> None:
    """Its manifest has no digest, its files have none; their sums are compared as then."""
    paths = generated(tmp_path)
    manifest = paths[0].parent / "plain.json"
    content = json.loads(manifest.read_text())
    for path in paths:
        with h5py.File(path, "r+") as file:
            del file.attrs[DIGEST], file["extra/hetsyn_version"]
        content["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps({key: content[key] for key in content if key not in ("digest", "file_format")}))
    with pytest.warns(UncheckedFileWarning, match=r"plain\.json: written before files carried a digest"):
        assert generated(tmp_path) == paths
    assert len(spoken_digits.read_digits(paths[0]).labels) == 190 and len(chirps) == 240


def test_digits_are_compared_with_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "some.h5"
    spikes = [Spikes(np.array([0.25]), np.array([3])), Spikes(np.array([0.75, 0.8]), np.array([5, 6]))]
    spoken_digits.write_digits(path, spoken_digits.SpokenDigits(spikes, np.array([0, 1]), np.array([2, 3])))
    with h5py.File(path, "r+") as file:
        file["spikes/units"][1] = [5, 7]
    with pytest.raises(FileFormatError, match=r"some\.h5: digest: expected the content .*; remove it"):
        spoken_digits.read_digits(path)
    with h5py.File(path, "r+") as file:
        del file["extra/speaker"]
    with pytest.raises(FileFormatError, match=r"some\.h5: "):
        spoken_digits.read_digits(path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "foreign manifest", "changed manifest"])
def test_a_damaged_file_is_noticed_and_generated_anew(damage: str, tmp_path: Path, chirps: list[Utterance]) -> None:
    paths = generated(tmp_path, "norm")
    unbroken = [path.read_bytes() for path in paths]
    if damage == "flip":
        flip(paths[1])
    elif damage == "truncate":
        paths[0].write_bytes(unbroken[0][:-100])
    elif damage == "remove":
        paths[0].unlink()
    elif damage == "changed manifest":
        manifest = paths[0].parent / "norm.json"
        manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    else:
        (paths[0].parent / "norm.json").write_text("{" if damage == "manifest" else "[1]")
    with pytest.warns(RuntimeWarning, match="the norm digits are generated anew"):
        assert generated(tmp_path, "norm") == paths
    assert [path.read_bytes() for path in paths] == unbroken
    generated(tmp_path, "norm")  # pytest makes a warning an error: all is well again
    assert len(chirps) == 240


def test_a_write_that_is_cut_short_leaves_no_half_file(
    tmp_path: Path, chirps: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path) -> str:
        raise OSError("No space left on device")

    paths = generated(tmp_path)
    unbroken = [path.read_bytes() for path in paths]
    flip(paths[0])
    damaged = paths[0].read_bytes()
    with monkeypatch.context() as patch, pytest.warns(RuntimeWarning), pytest.raises(KeyboardInterrupt):
        patch.setattr(h5py.Dataset, "__setitem__", interrupt_after(100, h5py.Dataset.__setitem__))
        generated(tmp_path)
    assert paths[0].read_bytes() == damaged
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["plain.json", "plain_test.h5", "plain_train.h5"]
    with pytest.warns(RuntimeWarning):
        generated(tmp_path)
    assert [path.read_bytes() for path in paths] == unbroken
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(spoken_digits, "checksum", full_disk)
        generated(tmp_path, seed=1)
    assert not list(tmp_path.glob("*seed-1*/plain.json"))  # the files are not finished without it


def interrupt_after(calls: int, method):
    left = iter(range(calls))

    def interrupted(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return method(*arguments)

    return interrupted


TWO = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/tests", {root!r} + "/tests/experiments"]
from test_spoken_digits import chirp, generated
from hetsyn_plugins.experiments.data import speakers
speakers.speak, speakers.version = chirp, lambda: "1.0"
generated(Path(sys.argv[1]), "norm")
"""


def test_processes_that_generate_at_once_do_not_spoil_each_other(tmp_path: Path, chirps: list[Utterance]) -> None:
    alone = [path.read_bytes() for path in generated(tmp_path / "alone", "norm")]
    command = [sys.executable, "-W", "error", "-c", TWO.format(root=str(ROOT)), str(tmp_path / "shared")]
    racing = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in racing] == [0, 0]
    assert [path.read_bytes() for path in generated(tmp_path / "shared", "norm")] == alone
    assert len(chirps) == 240  # what the processes left was whole: nothing was spoken again


def test_generation_shows_progress_and_checksums(
    tmp_path: Path, chirps: list[Utterance], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = spoken_digits.files("plain", tmp_path, takes=1)
    captured = capsys.readouterr()
    assert "240/240" in captured.err and captured.out == ""
    assert all(f"{path}: contents have sha256 {spoken_digits.checksum(path)}" in captured.err for path in paths)
    generated(tmp_path, seed=1)
    assert capsys.readouterr() == ("", "")


def test_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HETSYN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert get.place("spoken_digits") == tmp_path / ".cache" / "hetsyn_plugins" / "spoken_digits"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert get.place("spoken_digits") == Path("/x/hetsyn_plugins/spoken_digits")
    monkeypatch.setenv("HETSYN_CACHE", "/own")
    assert get.place("spoken_digits") == Path("/own/spoken_digits")


def test_default_folder_is_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chirps: list[Utterance]) -> None:
    monkeypatch.setenv("HETSYN_CACHE", str(tmp_path))
    for path in spoken_digits.files(takes=1, quiet=True):
        assert path.is_relative_to(tmp_path / "spoken_digits") and path.name.startswith("norm_")


@pytest.mark.parametrize(
    ("name", "value"),
    [("kind", "easy"), ("takes", 0), ("takes", 64), ("takes", 1.5), ("seed", -1), ("workers", 0)],
)
def test_wrong_arguments_are_named(name: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        spoken_digits.files(**{"folder": tmp_path, name: value})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
