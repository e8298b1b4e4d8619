"""scikit-learn's handwritten digits (1,797 real images of 8 x 8) as spike sequences: one row of pixels after another.

Coding: 8 lines, one a column; every row is shown for 4 steps, 32 steps in all. A pixel of intensity p (0 to 16) spikes
at those of its row's 4 steps k = 0..3 where p / 16 > (k + 1/2) / 4: brighter pixels spike longer. Nothing is random.
A single step shows one row only, so the class can be told only by remembering what came before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array

STEPS_PER_ROW, ROWS, LINES, CLASSES = 4, 8, 8, 10
STEPS = STEPS_PER_ROW * ROWS


class Digits(NamedTuple):
    """Spikes (T, B, 8) of 0 and 1, float32, and labels (B,), for training and for testing."""

    train_spikes: Array
    train_labels: np.ndarray
    test_spikes: Array
    test_labels: np.ndarray


def load_spikes(seed: int = 0, test_share: float = 0.25) -> Digits:
    """The digits, split by a seeded permutation. Raises ImportError naming the extra without scikit-learn."""
    images, labels = raw()
    test, train = split(len(labels), seed, test_share)
    spikes = encode(images)
    return Digits(spikes[:, train], labels[train], spikes[:, test], labels[test])


def raw() -> tuple[Array, np.ndarray]:
    """Images (1797, 8, 8) of whole intensities 0 to 16, float64, and labels (1797,). Raises as `load_spikes`."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits need scikit-learn: pip install 'hetsyn_plugins[data]'") from error
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, ROWS, LINES), labels


def split(samples: int, seed: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a share of so many samples, and of all the others: a permutation by the seed, cut in two."""
    order = np.random.default_rng(seed).permutation(samples)
    cut = round(samples * share)
    return order[:cut], order[cut:]


def encode(images: Array) -> Array:
    """Images (B, 8, 8) of intensities 0 to 16 -> spikes (32, B, 8); the coding is described above."""
    bounds = (np.arange(STEPS_PER_ROW) + 0.5) / STEPS_PER_ROW
    shown = images[:, :, None, :] / 16 > bounds[None, None, :, None]  # (B, row, step in row, column)
    return shown.reshape(len(images), STEPS, LINES).transpose(1, 0, 2).astype(np.float32)
