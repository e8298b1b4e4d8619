"""A run that is to be trained for longer than it was asked for before: whether that gives what one run gives.

It does where what was done does not depend on how long the training is: a seed goes on from its last checkpoint, and
ends as if it had been trained so long at once. What came of it before is kept beside the new result.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from hetsyn_plugins.experiments.config import Config, TrainingConfig
from hetsyn_plugins.experiments.costs import iterations_of
from hetsyn_plugins.experiments.pruning import pruning_of
from hetsyn_plugins.experiments.run_folder import RESULT, load_result, seed_folder, seeds_text, trained_seeds
from hetsyn_plugins.experiments.widening import widening_of

LENGTH = ("training.epochs", "training.iterations", "training.patience")  # the settings that say how long
PRUNING = ("training.density", "training.prune_by", "training.prune_from", "training.prune_until")


def check_extends(folder: Path, before: Config, now: Config, seeds: Iterable[int]) -> None:
    """Raise ValueError, naming the setting, where a run of one configuration cannot go on as that of another, which
    differs in LENGTH and PRUNING alone."""
    ended, total = iterations_of(before), iterations_of(now)
    key = "training.iterations" if now.training.iterations else "training.epochs"
    if total < ended:
        got = f"{total} with {key}={getattr(now.training, key.partition('.')[2])}"
        raise ValueError(f"{key}: expected at least the {ended} iterations of the run in {folder}, got {got}")
    if total > ended and not schedule_goes_on(now.training):
        expected = "'constant', 'step', or 'cosine' with a schedule_span: rates that do not depend on the run's length"
        got = (
            "'cosine' over all of it, whose rates would have been others from the start; train anew, in another folder"
        )
        raise ValueError(f"training.schedule: expected {expected}, to train on, got {got}")
    pruned = pruning_of(before, ended)
    if pruned != pruning_of(now, ended) or (pruned and before.training.prune_by != now.training.prune_by):
        expected = (
            f"the same pruning in the {ended} iterations of the run in {folder}, and more of it behind them alone"
        )
        raise ValueError(f"training.density: expected {expected}, to train on (training.prune_from), got another")
    if widening_of(before) != widening_of(now):
        expected = "epochs, so that what was trained does not depend on the length, to train on"
        raise ValueError(f"training.delay_sigma_until: expected {expected}, got {now.training.delay_sigma_until}")
    if patience(now.training) < patience(before.training):
        least = f"no less than {before.training.patience}"
        raise ValueError(f"training.patience: expected {least}, to train on, got {now.training.patience}")
    done = trained_seeds(folder)
    if not set(done) <= set(seeds):
        raise ValueError(f"--seeds: expected all that are trained, {seeds_text(done)}, to train on, got fewer")
    for seed in done:
        stopped = load_result(seed_folder(folder, seed)).iterations
        if stopped < ended and patience(now.training) == patience(before.training):
            got = f"{now.training.patience}, with which seed {seed} stopped at iteration {stopped}"
            raise ValueError(f"training.patience: expected more of it (or 0), to train on, got {got}")


def schedule_goes_on(settings: TrainingConfig) -> bool:
    """Are the learning rates the same, however long the training is?"""
    return settings.schedule != "cosine" or settings.schedule_span > 0


def patience(settings: TrainingConfig) -> float:
    """Validations that are waited for."""
    return settings.patience or math.inf


def put_aside(folder: Path) -> None:
    """Results of before get names of their own, so that their seeds are trained on."""
    for seed in trained_seeds(folder):
        place = seed_folder(folder, seed)
        os.replace(place / RESULT, place / f"result.{load_result(place).iterations}.json")
