"""Synthetic spoken digits: generated utterances in the file layout of the Spiking Heidelberg Digits (SHD).

Twelve voices of espeak-ng (`speakers`) say zero to nine in English and null to neun in German, 20 classes; a filter
bank (`cochlea`) makes spikes of them. With 8 takes there are 1,920 utterances. As in SHD speakers 4 and 5 are in the
test file only, and so is one in twenty utterances of the others: 1,520 for training, 400 for testing.

plain  what the cochlea makes of them, which counting the spikes nearly solves
hard   plain, its time scaled by 0.8 to 1.25, its start put off by up to 250 ms, its channels moved by -30 to 30, half
       of its spikes lost, and noise of 2 Hz in every channel
norm   plain, scaled and put off in the same way, with 4 spikes in each of 87 channels, the same ones in every
       utterance: counts carry nothing, only timing does

Everything ends before 1 s. The same seed gives the same contents on any machine; with seed 0, 8 takes and espeak-ng
1.51 their `checksum` begins

       train             test
plain  05e00db4dfa5749e  575598de3668d247
hard   e0a28c4f03e025fb  7abca6f6b44b863b
norm   3a47025e2c59791b  276edba502feb765
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.files import make_folder, read_json, write_json
from hetsyn_plugins.experiments.data import cochlea, get, shd, speakers
from hetsyn_plugins.experiments.data.cochlea import CHANNELS, Spikes
from hetsyn_plugins.experiments.data.quiet import is_quiet
from hetsyn_plugins.experiments.data.speakers import SPEAKERS, WORDS, Utterance

KINDS = ("plain", "hard", "norm")
RECIPE = 1  # counts the changes to what a seed gives, here or in the modules that this one calls
HELD_OUT, TEST_SHARE = (4, 5), 0.05  # speakers in the test file only; of the others' utterances

LONGEST = 0.75  # s: what an utterance is cut to
END = 0.99  # s: the last spike of hard and norm, a little before 1 s, to which float16 could round it
WARP, ONSET = 1.25, 0.25  # s
SHIFT, THINNING, NOISE_RATE = 30, 0.5, 2.0  # channels, share of the spikes, Hz
GROUP, A_CHANNEL = 8, 4  # norm: channels that become one, spikes that it has
GAP = 11e-3  # s: norm: from spike to spike, so that bins of up to 10 ms never hold two of a channel


class SpokenDigits(NamedTuple):
    """What a file holds: the spikes of every utterance, its label and its speaker, (utterances,) each."""

    spikes: list[Spikes]
    labels: np.ndarray
    speakers: np.ndarray


def files(
    kind: str = "norm",
    folder: Path | None = None,
    *,
    seed: int = 0,
    takes: int = 8,
    workers: int | None = None,
    quiet: bool = False,
) -> tuple[Path, Path]:
    """Paths of the training and the test file of a kind, generated if they are not there yet or are damaged.

    folder    where they are kept; None: `get.place`
    takes     how often each of the 12 speakers says each of the 20 words, at most 63
    workers   threads that speak and listen, None: one a core; they change nothing in the files
    quiet     neither a progress bar nor checksums on stderr

    Raises ValueError for another kind, or numbers out of range, FileNotFoundError naming the package without espeak-ng.
    """
    _check(kind, seed, takes, workers)
    quiet = quiet or is_quiet()
    made_by = {"recipe": RECIPE, "espeak-ng": speakers.version(), "seed": seed, "takes": takes}
    place = (get.place("spoken_digits") if folder is None else Path(folder)) / "_".join(
        f"{key}-{value}" for key, value in made_by.items()
    )
    manifest = place / f"{kind}.json"
    paths = place / f"{kind}_train.h5", place / f"{kind}_test.h5"
    if manifest.exists():
        damage = _damage(manifest, paths)
        if damage is None:
            return paths
        warnings.warn(f"{damage}; the {kind} digits are generated anew", RuntimeWarning, stacklevel=2)
    make_folder(place, "$HETSYN_CACHE" if folder is None else "folder")  # before minutes of work
    if kind == "plain":
        parts = _spoken(takes, seed, workers, quiet)
    else:
        plain = files("plain", folder, seed=seed, takes=takes, workers=workers, quiet=quiet)
        parts = [_altered(read_digits(path), kind, part, seed) for part, path in enumerate(plain)]
    for path, recordings in zip(paths, parts, strict=True):
        write_digits(path, recordings)
    sums = {path.name: {"sha256": _sha256(path), "sha256 of contents": checksum(path)} for path in paths}
    write_json(manifest, {**made_by, "kind": kind, "files": sums})  # last: without it, files count for nothing
    if not quiet:
        for path in paths:
            print(f"{path}: contents have sha256 {sums[path.name]['sha256 of contents']}", file=sys.stderr)
    return paths


def _check(kind: str, seed: int, takes: int, workers: int | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind}")
    for name, number, least, most in (
        ("seed", seed, 0, np.inf),
        ("takes", takes, 1, len(speakers.MANNERS)),
        ("workers", 1 if workers is None else workers, 1, np.inf),
    ):
        if number != int(number) or not least <= number <= most:
            raise ValueError(f"{name}: expected a whole number from {least} to {most}, got {number}")


def _damage(manifest: Path, paths: tuple[Path, Path]) -> str | None:
    """What is wrong with files that were finished once, None if nothing is."""
    try:
        sums = read_json(manifest, "a manifest", to_do="remove it")["files"]
        for path in paths:
            if _sha256(path) != sums[path.name]["sha256"]:
                return f"{path}: expected what was generated, got a file that has changed since"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{manifest}: expected it and its files whole, got {type(error).__name__}: {error}"
    return None


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            sha.update(part)
    return sha.hexdigest()


def _spoken(takes: int, seed: int, workers: int | None, quiet: bool) -> list[SpokenDigits]:
    """The plain kind: training and test."""
    every = speakers.utterances(takes, seed)
    known = [u for u in every if u.speaker not in HELD_OUT]
    kept = set(known[: round(len(known) * TEST_SHARE)])
    split = [u for u in known if u not in kept], [u for u in every if u in kept or u.speaker in HELD_OUT]
    heard = dict(zip(every, listen(every, workers, quiet), strict=True))
    return [
        SpokenDigits([heard[u] for u in part], np.array([u.label for u in part]), np.array([u.speaker for u in part]))
        for part in split
    ]


def listen(said: list[Utterance], workers: int | None = None, quiet: bool = True) -> list[Spikes]:
    """The plain spikes of each utterance, cut to 750 ms, in this order for any number of threads."""

    def hear(utterance: Utterance) -> Spikes:
        sound, sample_rate = speakers.speak(utterance)
        return cochlea.spikes(sound[: round(LONGEST * sample_rate)], sample_rate)

    # threads: espeak-ng is a process of its own, and the filter bank releases the GIL
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        return list(tqdm(pool.map(hear, said), "speaking digits", len(said), unit="word", disable=quiet))
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all words


def _altered(plain: SpokenDigits, kind: str, part: int, seed: int) -> SpokenDigits:
    """The hard or norm kind of plain utterances: each has a generator of its own."""
    alter = {"hard": hard, "norm": norm}[kind]
    rngs = (np.random.default_rng([seed, KINDS.index(kind), part, i]) for i in range(len(plain.labels)))
    return plain._replace(spikes=[alter(spikes, rng) for spikes, rng in zip(plain.spikes, rngs, strict=True)])


def hard(plain: Spikes, rng: np.random.Generator) -> Spikes:
    """Scaled, put off, moved to other channels, thinned and with noise; what leaves the 700 channels is lost."""
    times = _moved(plain.times, rng)
    units = plain.units + rng.integers(-SHIFT, SHIFT + 1)
    kept = (rng.random(len(times)) >= THINNING) & (units >= 0) & (units < CHANNELS)
    noise = rng.poisson(NOISE_RATE * END * CHANNELS)
    times = np.concatenate([times[kept], rng.uniform(0, END, noise)])
    units = np.concatenate([units[kept], rng.integers(0, CHANNELS, noise)])
    return _sorted(times, units)


def norm(plain: Spikes, rng: np.random.Generator) -> Spikes:
    """Eight neighbouring channels become one, with 4 spikes, when an eighth, 3, 5 and 7 eighths of theirs have come.

    Channels 0, 8, ..., 688, so the last four of 700 are in no group. A group without spikes gets those that it would
    have had if they were evenly spread over the utterance. Spikes less than 11 ms after the one before are put off.
    """
    length = plain.times.max(initial=0.0)
    eighths = np.arange(1, 2 * A_CHANNEL, 2)
    groups = CHANNELS // GROUP
    times = np.empty((groups, A_CHANNEL))
    for group in range(groups):
        come = plain.times[plain.units // GROUP == group]
        times[group] = come[eighths * len(come) // (2 * A_CHANNEL)] if len(come) else eighths / (2 * A_CHANNEL) * length
    times = _moved(times, rng, (A_CHANNEL - 1) * GAP)
    for k in range(1, A_CHANNEL):
        times[:, k] = np.maximum(times[:, k], times[:, k - 1] + GAP)
    return _sorted(times.ravel(), np.repeat(np.arange(groups) * GROUP, A_CHANNEL))


def _moved(times: np.ndarray, rng: np.random.Generator, spare: float = 0.0) -> np.ndarray:
    """Times scaled by 0.8 to 1.25, evenly on a log scale, and put off by up to 250 ms, or what leaves `spare` s."""
    times = times * WARP ** rng.uniform(-1, 1)
    return times + rng.uniform(0, min(ONSET, END - spare - times.max(initial=0.0)))


def _sorted(times: np.ndarray, units: np.ndarray) -> Spikes:
    order = np.lexsort((units, times))
    return Spikes(times[order], units[order])


def write_digits(path: Path, recordings: SpokenDigits) -> None:
    """Write a file in SHD's layout, whole or not at all."""
    genders = [speaker.gender for speaker in SPEAKERS]
    shd.write_recordings(path, recordings.spikes, recordings.labels, recordings.speakers, words=WORDS, genders=genders)


def read_digits(path: Path) -> SpokenDigits:
    """What `write_digits` wrote, the times as float16 has them; FileFormatError where it is not."""
    columns = shd.read_columns(path)
    if columns.speakers is None:
        raise FileFormatError(path, "speakers", "none", field=shd.SPEAKER, to_do=shd.TO_DO)
    ends = columns.offsets[1:-1]
    rows = zip(np.split(columns.times, ends), np.split(columns.units, ends), strict=True)
    spikes = [Spikes(times.astype(np.float64), units.astype(np.int64)) for times, units in rows]
    return SpokenDigits(spikes, columns.labels, columns.speakers)


def checksum(path: Path) -> str:
    """SHA-256, in hexadecimal, of the contents: times, units, labels and speakers, whatever the bytes of the file."""
    recordings = read_digits(path)
    digest = hashlib.sha256()
    for spikes in recordings.spikes:
        digest.update(len(spikes.times).to_bytes(8, "little"))
        digest.update(spikes.times.astype("<f2").tobytes())
        digest.update(spikes.units.astype("<u2").tobytes())
    digest.update(recordings.labels.astype("<u2").tobytes())
    digest.update(recordings.speakers.astype("<u2").tobytes())
    return digest.hexdigest()
