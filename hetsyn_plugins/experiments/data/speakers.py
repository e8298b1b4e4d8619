"""Who says which digit, and how: twelve synthetic speakers, the voices of espeak-ng, called as a program.

A speaker is an English dialect (German has but one) with a variant, a pitch and a speed. Every take of a word is said
at another pitch and speed near them, so no two takes are the same sound.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import wave
from itertools import product
from typing import NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array

ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GERMAN = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")
WORDS = ENGLISH + GERMAN  # the labels 0 to 19


class Speaker(NamedTuple):
    """An English dialect and a variant of espeak-ng, pitch (0 to 99) and speed in words a minute."""

    dialect: str
    variant: str
    pitch: int
    speed: int

    @property
    def gender(self) -> str:
        """The variant's."""
        return "female" if self.variant.startswith("f") else "male"


SPEAKERS = (
    Speaker("en", "m1", 45, 165),
    Speaker("en-US", "f2", 55, 175),
    Speaker("en-GB-scotland", "m3", 40, 155),
    Speaker("en-GB-x-rp", "f1", 60, 170),
    Speaker("en-US", "m7", 50, 185),
    Speaker("en-GB-x-gbclan", "f4", 50, 160),
    Speaker("en-029", "m2", 55, 170),
    Speaker("en-US-nyc", "f3", 50, 180),
    Speaker("en-GB-x-gbcwmd", "m4", 45, 175),
    Speaker("en", "f5", 45, 150),
    Speaker("en-GB-x-rp", "m5", 35, 165),
    Speaker("en-US", "m8", 60, 190),
)
MANNERS = tuple(product(range(-9, 10, 3), range(-20, 21, 5)))  # what a take adds to a speaker's pitch and speed


class Utterance(NamedTuple):
    """Which speaker says which word, at which pitch and speed."""

    speaker: int
    label: int
    pitch: int
    speed: int


def utterances(takes: int, seed: int) -> list[Utterance]:
    """Every speaker saying every word so many times, the order shuffled."""
    rng = np.random.default_rng([seed, takes])
    said = []
    for speaker, label in product(range(len(SPEAKERS)), range(len(WORDS))):
        for manner in rng.choice(len(MANNERS), takes, replace=False):
            pitch, speed = MANNERS[manner]
            said.append(Utterance(speaker, label, SPEAKERS[speaker].pitch + pitch, SPEAKERS[speaker].speed + speed))
    return [said[i] for i in rng.permutation(len(said))]


def speak(utterance: Utterance) -> tuple[Array, int]:
    """The sound (samples,) from -1 to 1, and its sample rate in Hz; the same bytes every time.

    Raises FileNotFoundError naming the package where espeak-ng is missing, RuntimeError where it says nothing.
    """
    speaker = SPEAKERS[utterance.speaker]
    language = speaker.dialect if utterance.label < len(ENGLISH) else "de"
    voice = f"gmw/{language}+{speaker.variant}"  # with the folder: else espeak-ng ignores the variant and says nothing
    manner = ("-v", voice, "-p", str(utterance.pitch), "-s", str(utterance.speed))
    run = _espeak(*manner, "-z", "-b", "1", "--stdin", "--stdout", text=WORDS[utterance.label])
    try:
        with wave.open(io.BytesIO(run.stdout)) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
            return samples / 2**15, sound.getframerate()
    except (EOFError, wave.Error) as error:
        raise RuntimeError(f"espeak-ng: expected a sound of {utterance}, got {run.stderr.decode().strip()}") from error


def version() -> str:
    """Of espeak-ng, such as 1.51. Raises FileNotFoundError as `speak` does."""
    output = _espeak("--version").stdout.decode()
    match = re.search(r"text-to-speech: *(\S+)", output)
    if match is None:
        raise RuntimeError(f"espeak-ng: expected its version, got {output.strip()}")
    return match[1]


def _espeak(*arguments: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError(
            "espeak-ng: expected this program, which speaks the synthetic digits, on PATH, got none: "
            "apt install espeak-ng (or brew install espeak-ng), or use the Spiking Heidelberg Digits' own files"
        )
    return subprocess.run([program, *arguments], input=text.encode(), capture_output=True, timeout=60, check=False)
