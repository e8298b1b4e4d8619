"""Convolutions in the conformance suite: what a layer over images must give is what the dense layer gives.

A case has the dense layer as its parameters, which every judge here knows, and beside them the convolution that it
unrolls; torch's own says which synapses that makes. A backend makes the kernels out of the matrix, runs its own layer
over images, and shows what came flat.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hetsyn_plugins.core.convolution import Convolution, checked_convolution
from hetsyn_plugins.core.fields import FIELDS, HetSynState
from hetsyn_plugins.core.params import HetSynParams


class Over(NamedTuple):
    """A convolution over images of a size: (T, B, C * prod(size)) -> (T, B, N P), P positions of N channels."""

    convolution: Convolution
    size: tuple[int, ...]

    @property
    def images(self) -> tuple[int, ...]:
        """The shape of an image."""
        return (self.convolution.in_channels, *self.size)

    @property
    def positions(self) -> int:
        """P."""
        return prod(self.convolution.output_size(self.size))

    @property
    def sizes(self) -> tuple[int, int]:
        """Neurons and lines of the dense layer."""
        return self.convolution.out_channels * self.positions, prod(self.images)

    def places(self) -> NDArray[np.int64]:
        """Which number of the kernels each synapse of the dense layer has, counted from 1; 0 where there is none."""
        shape, lines = self.convolution.weight_shape, prod(self.images)
        numbers = torch.arange(1.0, prod(shape) + 1, dtype=torch.float64).reshape(shape)
        pixels = torch.eye(lines, dtype=torch.float64).reshape(lines, *self.images)
        conv: Any = nn.functional.conv1d if self.convolution.axes == 1 else nn.functional.conv2d
        _, _, _, *options = self.convolution
        return conv(pixels, numbers, None, *options).flatten(1).T.long().numpy()

    def field(self, name: str, dense: Any) -> Any:
        """A field of the dense layer as the convolution has it: of the kernels' shape, or one a channel."""
        if dense is None or dense.ndim == 0:
            return dense
        if FIELDS[name].axes == "N":
            return dense.reshape(-1, self.positions)[:, 0]
        kernels = np.zeros(1 + prod(self.convolution.weight_shape), dense.dtype)
        kernels[self.places()] = dense
        return kernels[1:].reshape(self.convolution.weight_shape)

    def summed(self, name: str, gradient: Any) -> Any:
        """The gradient of such a field: the sum over the dense layer's that are the same number."""
        if gradient is None or gradient.ndim == 0:
            return gradient
        if FIELDS[name].axes == "N":
            return gradient.reshape(-1, self.positions).sum(1)
        sums = np.bincount(self.places().ravel(), gradient.ravel())
        return sums[1:].reshape(self.convolution.weight_shape)

    def dense_state(self, state: HetSynState) -> HetSynState:
        """A state of images as the dense layer has it; NumPy. Synapses that it lacks have no current."""
        batch, positions = state.v.shape[0], self.positions
        current = state.current.reshape(batch, -1, positions)
        numbered = np.concatenate([np.zeros((batch, 1, positions), current.dtype), current], axis=1)
        at = np.arange(self.sizes[0])[:, None] % positions
        flat = {name: None if part is None else part.reshape(batch, -1) for name, part in state._asdict().items()}
        past = state.past_inputs
        flat["past_inputs"] = None if past is None else past.reshape(*past.shape[:2], -1)
        return HetSynState(**{**flat, "current": numbered[:, self.places(), at]})


CONVOLUTIONS = {  # with everything that torch's have; the second with delays
    "2d": Over(checked_convolution(2, (2, 4), (3, 2), (2, 1), (1, 0), (1, 2), 2), (5, 6)),
    "1d": Over(checked_convolution(1, (3, 3), 3, 1, 1, 2, 1), (8,)),
}


def draw(rng: np.random.Generator, over: Over, late: bool) -> HetSynParams:
    """The dense layer of a random convolution with adaptation and bias; of whole and other delays, if `late`."""
    n, m = over.convolution.sizes
    kernels = {"weight": rng.normal(0.1, 1, (n, m)) / np.sqrt(m), "decay": rng.uniform(0.3, 0.98, (n, m))}
    if late:
        kernels["delay"] = rng.choice([0.0, 0.25, 1.5, 3.0], (n, m))
    channels: dict[str, Any] = {
        "reset_decay": rng.uniform(0.5, 0.95, n),
        "threshold": rng.uniform(0.6, 1.2, n),
        "adaptation_decay": rng.uniform(0.8, 0.99, n),
        "adaptation_strength": rng.uniform(0.02, 0.2, n),
        "bias": rng.normal(0, 0.05, n),
    }
    matrices: dict[str, Any] = {name: np.append(0.0, kernel)[over.places()] for name, kernel in kernels.items()}
    return HetSynParams(**matrices, **{name: each.repeat(over.positions) for name, each in channels.items()})
