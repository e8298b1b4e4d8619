"""Pruning while a network trains: from all synapses to a part of them, by the schedule of Zhu and Gupta (2017).

    d(t) = d_end + (1 - d_end) (1 - (t - t_0) / (t_1 - t_0))^3,   t_0 <= t <= t_1          (arXiv 1710.01878, eq. 1)

with densities in the place of their sparsities: many synapses go early, while there are many, and few at the end. When
and how many is a function of the iteration alone, and masks are in a training's state: a run that was killed goes on
exactly.
"""

from __future__ import annotations

from hetsyn_plugins.experiments.config import Config
from hetsyn_plugins.experiments.costs import iterations_of

TIMES = 100  # at most so often: what is left has time to make up for what is gone


def pruning_of(config: Config, until: int | None = None) -> dict[int, float]:
    """The iterations after which a training prunes, and what part of all synapses is then to be left; in order.

    until   only what is done up to this iteration; None: all

    Raises ValueError for points of training that it does not have.
    """
    settings, total = config.training, iterations_of(config)
    if settings.density == 1:
        return {}
    epoch = config.task.batches(settings.batch)
    first = settings.prune_from * epoch
    last = settings.prune_until * epoch or first + (total - first) * 3 // 4
    epochs = f"{total / epoch:g} epochs of the training"
    if not first < total:
        raise ValueError(f"training.prune_from: expected less than the {epochs}, got {settings.prune_from}")
    if not first < last <= total:
        expected = f"more than training.prune_from, {settings.prune_from}, and at most the {epochs}"
        raise ValueError(f"training.prune_until: expected {expected}, got {settings.prune_until}")
    span = last - first
    times = sorted({first + span * (i + 1) // TIMES for i in range(TIMES)} - {first})
    densities = {t: settings.density + (1 - settings.density) * (1 - (t - first) / span) ** 3 for t in times}
    return {t: density for t, density in densities.items() if until is None or t <= until}
