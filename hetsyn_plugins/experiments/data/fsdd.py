"""The Free Spoken Digit Dataset: ten digits, six speakers, 50 takes each, as recordings and as spikes of our ear.

    recordings/{digit}_{speaker}_{take}.wav     16 bits, mono, 8 kHz

A recording is brought to 16 kHz, whose upper half is empty, because the ear hears up to 7.4 kHz (`cochlea`). Its spikes
are kept in a file of SHD's layout, made at the first use: `load`. By the set's own README the takes 0 to 4 are the test
set; all speakers are in both.
"""

from __future__ import annotations

import io
import os
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hetsyn_plugins.core.bounded import read_bytes
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.files import make_folder
from hetsyn_plugins.experiments.data import cochlea, get, shd
from hetsyn_plugins.experiments.data.cochlea import Spikes
from hetsyn_plugins.experiments.data.publishers import DIGITS, RECORDINGS, SPEAKERS, TAKES
from hetsyn_plugins.experiments.data.quiet import is_quiet
from hetsyn_plugins.experiments.data.shd import Recordings

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_TAKES = 5
RATE, HEARD_AT = 8_000, 16_000  # Hz
LONGEST = 1 << 20  # bytes of a recording; the longest has 36,560
RECIPE = 1  # counts the changes to what a recording gives, here or in the cochlea


def folder_of(source: Path) -> Path | None:
    """The folder with recordings, if it is this one or `recordings` in it."""
    folders = (source, source / "recordings")
    return next((folder for folder in folders if any((folder / name).is_file() for name in RECORDINGS)), None)


def load(source: Path, *, workers: int | None = None, quiet: bool = False) -> tuple[Recordings, Recordings]:
    """The spikes of the training and of the test recordings in a folder; heard once, then kept in the cache.

    workers   threads that listen, None: one a core; they change nothing

    Raises FileNotFoundError where recordings are missing, FileFormatError for what is no such recording.
    """
    folder = folder_of(source) or source
    missing = [name for name in RECORDINGS if not (folder / name).is_file()]
    if missing:
        what = f"the {len(RECORDINGS):,} recordings of FSDD in {folder}"
        raise FileNotFoundError(f"source: expected {what}, got none of {missing[0]} and {len(missing) - 1:,} others")
    path = get.place("fsdd_spikes") / f"recipe-{RECIPE}_{get.digest_of(folder, RECORDINGS)[:16]}.h5"
    if not path.exists():
        make_folder(path.parent, "$HETSYN_CACHE")  # before a minute of work
        heard = listen([folder / name for name in RECORDINGS], workers, quiet or is_quiet())
        labels = np.repeat(np.arange(DIGITS), len(SPEAKERS) * TAKES)
        speakers = np.tile(np.repeat(np.arange(len(SPEAKERS)), TAKES), DIGITS)
        shd.write_recordings(path, heard, labels, speakers, words=WORDS, genders=("male",) * len(SPEAKERS))
    everything = shd.read_recordings(path, len(WORDS))
    take = np.arange(len(everything)) % TAKES
    return everything.take(np.flatnonzero(take >= TEST_TAKES)), everything.take(np.flatnonzero(take < TEST_TAKES))


def listen(paths: list[Path], workers: int | None = None, quiet: bool = True) -> list[Spikes]:
    """The spikes of each recording, in this order for any number of threads."""

    def hear(path: Path) -> Spikes:
        return cochlea.spikes(doubled(read_wav(path)), HEARD_AT)

    pool = ThreadPoolExecutor(workers or os.cpu_count())  # threads: the filter bank releases the GIL
    try:
        return list(tqdm(pool.map(hear, paths), "listening", len(paths), unit="recording", disable=quiet))
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all of them


def read_wav(path: Path) -> Array:
    """The sound (samples,) of a recording, from -1 to 1; FileFormatError where it is not 16 bits, mono, 8 kHz."""
    what = f"a recording of 16 bits, mono, {RATE} Hz, as a wav file"
    data = read_bytes(path, LONGEST, what)
    try:
        with wave.open(io.BytesIO(data)) as sound:
            came = (8 * sound.getsampwidth(), sound.getnchannels(), sound.getframerate())
            samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2") if came[0] == 16 else np.empty(0)
    except (EOFError, wave.Error) as error:
        raise FileFormatError(path, what, f"one that cannot be read: {error}") from error
    if came != (16, 1, RATE):
        raise FileFormatError(path, what, "{} bits, {} channels, {} Hz".format(*came))
    return samples / 2**15


def doubled(sound: Array) -> Array:
    """Sound (n,) at twice the sample rate, (2 n,): the same spectrum, with nothing above it."""
    spectrum = np.fft.rfft(sound)
    if len(sound) % 2 == 0:
        spectrum[-1] /= 2  # the half of the sample rate, which is two frequencies from here on
    return np.asarray(2 * np.fft.irfft(spectrum, 2 * len(sound)))
