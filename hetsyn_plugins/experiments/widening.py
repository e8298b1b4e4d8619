"""Delays that are wide while a network trains: synapses see a Gaussian window of steps, which narrows to their delay.

At every training step each delay is used with a number drawn for it from N(0, sigma) on top. A current is linear in
what its synapse gets, so its mean over draws is that of a window, Gaussian of width sigma (beside the interpolation
that all delays have), at the cost of a layer without one. The gradient of such a delay is that of the delay itself.
sigma falls to 0, from where on nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from hetsyn_plugins.experiments.config import Config
from hetsyn_plugins.experiments.costs import iterations_of
from hetsyn_plugins.experiments.model import Model

USE = 2000  # of a run's seed, apart from those of its network (`variants.stream`) and its batches


class Widening(NamedTuple):
    """sigma in steps at the first iteration, and the iteration from which on it is 0; between them it falls evenly."""

    sigma: float
    last: int

    def at(self, iteration: int) -> float:
        """sigma at an iteration, from 0."""
        return self.sigma * (1 - iteration / self.last) if iteration < self.last else 0.0


def widening_of(config: Config) -> Widening:
    """How a training widens delays. Raises ValueError for an end that it does not reach."""
    settings, total = config.training, iterations_of(config)
    if settings.delay_sigma == 0:
        return Widening(0.0, 0)
    epoch = config.task.batches(settings.batch)
    last = settings.delay_sigma_until * epoch or total * 3 // 4
    if last > total:
        expected = f"at most the {total / epoch:g} epochs of the training"
        raise ValueError(f"training.delay_sigma_until: expected {expected}, got {settings.delay_sigma_until}")
    return Widening(settings.delay_sigma, last)


@contextmanager
def widened(model: Model, sigma: float, seed: int, iteration: int) -> Iterator[None]:
    """Inside, the delays of a model that are trained are what is drawn; behind it, with their gradients, themselves."""
    delays = list(model.delays()) if sigma else []
    kept = [delay.detach().clone() for delay in delays]
    rng = np.random.default_rng([seed, USE, iteration])
    try:
        with torch.no_grad():
            for delay in delays:
                drawn = rng.normal(0, sigma, tuple(delay.shape))
                delay.add_(torch.from_numpy(np.asarray(drawn)).to(delay.device, delay.dtype))
        yield
    finally:
        with torch.no_grad():
            for delay, own in zip(delays, kept, strict=True):
                delay.copy_(own)
