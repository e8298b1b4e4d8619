"""A data set of one's own in tonic's form, structured arrays of events, without tonic: trained on, and as batches.

Each sample is a dot that moves over 16 pixels, to the right or to the left, at a speed of its own: (events, label) with
t in microseconds, x, and p, the polarity: on where the dot arrives, off where it has been.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hetsyn_plugins import experiments

WIDTH = 16
EVENT = np.dtype([("t", np.int64), ("x", np.int16), ("p", np.int8)])


class Moving(torch.utils.data.Dataset):
    sensor_size = (WIDTH, 1, 2)  # width, height, polarities: 32 input lines

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        rng, label = np.random.default_rng(index), index % 2
        at = np.cumsum(rng.integers(1500, 4500, WIDTH))  # microseconds until it stands on the next pixel
        path = np.arange(WIDTH) if label else np.arange(WIDTH)[::-1]
        events = np.zeros(2 * WIDTH, EVENT)
        events["t"], events["x"], events["p"] = np.tile(at, 2), np.tile(path, 2), np.repeat([1, 0], WIDTH)
        events["t"][WIDTH:] += rng.integers(1000, 3000, WIDTH)
        return np.sort(events, order="t"), label


data = Moving(300)
with tempfile.TemporaryDirectory() as folder:
    settings = {"network.hidden": [24], "training.epochs": 8, "training.lr": 5e-3, "task.dt": 2e-3}
    result = experiments.train(settings, data, out=Path(folder, "moving"), quiet=True)
    print(f"left or right: {result.test[0]:.0%} of the test samples, chance 50%")

batches = torch.utils.data.DataLoader(
    data, batch_size=20, collate_fn=partial(experiments.collate, sensor_size=data.sensor_size, dt=2e-3)
)
x, labels, lengths = next(iter(batches))
print(
    f"in a loop of one's own: inputs {tuple(x.shape)}, lengths {lengths.min().item()} to {lengths.max().item()} steps"
)
