"""Sequential images (the paper's S-MNIST and its kin): an image comes in pixel by pixel, or row by row.

    order "row"        a line a column, a step a row: 28 lines, 28 steps
    order "pixel"      1 line, 784 steps, row after row: S-MNIST
    order "permuted"   the same in another order, one for all images: permuted S-MNIST

Coding: a pixel is input current, its intensity in [0, 1]; nothing is random. A step shows a row or a pixel only, so the
class can be told only by remembering what came before.

Images come from a folder with the four files of MNIST and its successors,

    {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]

Fashion-MNIST (Xiao et al. 2017) as Debian packages it by default, or from scikit-learn's 1,797 digits of 8 x 8.

The paper reads S-MNIST from spike counts of ten output neurons and trains with the multi-Gaussian surrogate: preset
"paper". Preset "triangular" is that with the triangular surrogate and clipped gradients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.validation import checked_dt
from hetsyn_plugins.experiments.data import digits, get, idx
from hetsyn_plugins.experiments.tasks.evidence import READOUTS, SPIKING
from hetsyn_plugins.experiments.tasks.task import Activity, Batch, DataTask, accuracy_of, check_held_out

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 10
ORDERS = ("row", "pixel", "permuted")
PAPER: Mapping[str, Any] = {  # the task of 784 steps as the paper's text has it
    "task.order": "pixel",
    "task.readout": "counts",
    "training.epochs": 150,
    "training.optimiser": "adamw",
    "training.lr": 1e-3,
    "training.schedule": "cosine",
    "training.warmup": 0.05,
}
HELP = (
    "hetsyn data get mnist (or fashion_mnist, which apt install dataset-fashion-mnist brings too), or take a folder "
    "with MNIST's files (--set task.source=FOLDER) or scikit-learn's digits (--set task.source=digits)"
)


class Images(NamedTuple):
    """Images (n, height, width) and labels (n,), both uint8."""

    images: np.ndarray
    labels: np.ndarray


class Data(NamedTuple):
    """A data set as it is given, and the intensity that is 1: 255, or 16 of scikit-learn's digits."""

    train: Images
    test: Images
    white: int


@dataclass(frozen=True)
class SequentialImages(DataTask):
    """Ten outputs, one a class; the decision is the class with the most evidence (`evidence.READOUTS`).

    source       "fashion_mnist" (Debian's package, else as `hetsyn data get` got it), "mnist" (as got), "digits"
                 (scikit-learn's; a quarter is the test set), or a folder
    order        "row", "pixel" or "permuted"
    order_seed   which permutation "permuted" is
    readout      "last", "mean" or "softmax" of leaky readouts' v, or "counts" of output neurons' spikes
    validation   share of the training set that is held out, 0 to below 1; the same images for every run and seed
    split_seed   which ones
    samples      train on so many images only; None: on all. Validation and test stay as they are

    By default a readout leaks, as in the paper's other tasks, and 15 epochs at 5e-3 take minutes; presets have 150.

    Data are loaded at the first use and kept. Raises ValueError for settings that give no such task, and at the first
    use FileNotFoundError for files that are missing, ValueError for files that are not such a data set, ImportError for
    "digits" without scikit-learn.
    """

    name: ClassVar[str] = "images"
    noun: ClassVar[str] = "images"
    paper: ClassVar[Mapping[str, Any]] = {
        "network.hidden": [64, 64],
        "network.recurrent": True,
        "network.tau_distribution": "uniform",
        "network.tau_start": [5e-3, 20e-3],
        "network.tau_reset": 20e-3,
        "network.surrogate": "multi_gaussian",
        "training.epochs": 15,
        "training.batch": 256,
        "training.optimiser": "adam",
        "training.lr": 5e-3,
        "training.schedule": "cosine",
        "training.select": "best_validation",
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": PAPER,
        "triangular": {**PAPER, "network.surrogate": "triangular", "training.clip": 1.0},
    }

    source: str = "fashion_mnist"
    order: str = "row"
    order_seed: int = 0
    readout: str = "last"
    validation: float = 0.1
    split_seed: int = 0
    samples: int | None = None

    def __post_init__(self) -> None:
        checked_dt(self.dt)
        if self.order not in ORDERS:
            raise ValueError(f"order: expected one of {', '.join(ORDERS)}, got {self.order!r}")
        if self.order_seed < 0:
            raise ValueError(f"order_seed: expected at least 0, got {self.order_seed}")
        if self.readout not in READOUTS:
            raise ValueError(f"readout: expected one of {', '.join(READOUTS)}, got {self.readout!r}")
        self.check_split_settings()

    @property
    def lines(self) -> int:
        """The width of the images row by row, else 1."""
        return self.data.train.images.shape[2] if self.order == "row" else 1

    @property
    def outputs(self) -> int:
        """One a class."""
        return CLASSES

    @property
    def spiking_output(self) -> bool:
        """Whether spikes are counted."""
        return self.readout == SPIKING

    @property
    def drawn_once(self) -> dict[str, list[int]]:
        """The pixels, row after row, in the order in which "permuted" shows them."""
        return {} if self.permutation is None else {"permutation": self.permutation.tolist()}

    def samples_of(self, rows: np.ndarray) -> Batch:
        """Images of the training set by their rows: inputs (T, B, lines), labels (B,)."""
        return self._batch(self.data.train, rows)

    def held_out(self, split: str, batch: int, seed: int) -> Iterator[Batch]:
        """All images of "validation" or "test", in the same order whatever the seed."""
        check_held_out(split)
        _, validation = self.split
        source, rows = (self.data.train, validation) if split == "validation" else (self.data.test, None)
        rows = np.arange(len(source.labels)) if rows is None else rows
        return (self._batch(source, rows[at : at + batch]) for at in range(0, len(rows), batch))

    def loss(self, activity: Activity, target: Tensor) -> Tensor:
        """Cross-entropy of the evidence."""
        return nn.functional.cross_entropy(READOUTS[self.readout](activity.readout), target)

    def score(self, activity: Activity, target: Tensor) -> Tensor:
        """1 where the decision is right: (B,)."""
        return accuracy_of(READOUTS[self.readout](activity.readout), target)

    @cached_property
    def permutation(self) -> np.ndarray | None:
        """Pixels in the order in which they are shown; None: row after row."""
        pixels = self.data.train.images[0].size
        return permutation(pixels, self.order_seed) if self.order == "permuted" else None

    @property
    def data(self) -> Data:
        """All images; every task with this source has the same ones in memory."""
        return load_images(self.source)

    @cached_property
    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices into `data.train`: of the images to train on, and of those held out for validation."""
        return self.split_of(len(self.data.train.labels), self.validation)

    def _batch(self, source: Images, rows: np.ndarray) -> Batch:
        images = source.images[rows]
        by_pixel = images.reshape(len(rows), -1).T[:, :, None]
        if self.permutation is not None:
            by_pixel = by_pixel[self.permutation]
        shown = images.transpose(1, 0, 2) if self.order == "row" else by_pixel
        inputs = torch.from_numpy(np.ascontiguousarray(shown, np.float32)) / self.data.white
        return Batch(inputs, torch.from_numpy(source.labels[rows].astype(np.int64)))


def permutation(pixels: int, seed: int) -> np.ndarray:
    """The permutation (pixels,) of a seed: the same for ever, which no library's generator promises."""
    keys = [hashlib.sha256(f"{seed} {pixel}".encode()).digest() for pixel in range(pixels)]
    return np.array(sorted(range(pixels), key=keys.__getitem__))


def load_images(source: str) -> Data:
    """The data set of this name, or in this folder; raises as `SequentialImages` says."""
    if source == "digits":
        return _digits()
    if source == "mnist" or (source == "fashion_mnist" and not FASHION_MNIST.is_dir()):
        return _folder(get.place(source))
    return _folder(FASHION_MNIST if source == "fashion_mnist" else Path(source).expanduser().resolve())


@lru_cache(maxsize=1)
def _digits() -> Data:
    images, labels = (values.astype(np.uint8) for values in digits.raw())
    test, train = digits.split(len(labels), seed=0, share=0.25)
    return Data(Images(images[train], labels[train]), Images(images[test], labels[test]), white=16)


@lru_cache(maxsize=1)
def _folder(folder: Path) -> Data:
    train, test = _read_split(folder, "train"), _read_split(folder, "t10k")
    ours, theirs = ("{1} x {2}".format(*part.images.shape) for part in (train, test))
    if ours != theirs:
        raise FileFormatError(folder, f"test images of {ours} pixels, as for training", theirs, field="source")
    return Data(train, test, white=255)


def _read_split(folder: Path, split: str) -> Images:
    """The images and labels of "train" or "t10k"."""
    files = [_find(folder, f"{split}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    images, labels = map(idx.read_idx, files)
    if images.ndim != 3 or not images.size:
        raise FileFormatError(files[0], "images (n, height, width)", f"the shape {images.shape}")
    if labels.shape != images.shape[:1]:
        expected = f"a label for each of {len(images)} images"
        raise FileFormatError(files[1], expected, f"the shape {labels.shape}")
    if labels.max() >= CLASSES:
        raise FileFormatError(files[1], f"labels 0 to {CLASSES - 1}", f"{labels.max()}")
    return Images(images, labels)


def _find(folder: Path, name: str) -> Path:
    """The file, plain or gzipped."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise FileNotFoundError(f"source: expected {name} or {name}.gz in {folder}, got neither; {HELP}")
