"""Speech of real voices: the Free Spoken Digit Dataset (`hetsyn data get fsdd`), each speaker left out once.

The test set is a speaker of whom nothing was heard, validation is on another one. Bins of 10 ms, a tenth of the spikes
deleted in training. What is compared, pair by pair, are folds: each is the mean over its seeds.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.experiments.claims import by_variant, verdicts
from hetsyn_plugins.experiments.claims.claim import Claim, Picture, Short, per_cent
from hetsyn_plugins.experiments.claims.evidence import Arm, Evidence
from hetsyn_plugins.experiments.claims.paper import DELETION
from hetsyn_plugins.experiments.run_folder import ClaimRow
from hetsyn_plugins.experiments.variants import VARIANTS

FOLDS = range(6)  # its speakers
# logistic regression on the same spikes, 70 groups of channels, mean over the folds; bins of 50 ms, 10 of a recording
LINEAR = {"linear, fixed bins": 0.588, "linear, relative bins": 0.667}
SETTINGS = (
    "task.source=fsdd",
    "task.dt=10e-3",
    "task.deletion=0.1",
    "training.epochs=30",
    "training.schedule_span=0",
)
SPEEDS = (0.5, 0.71, 1.0, 1.41, 2.0)  # times as long


def name_of(variant: str, fold: int) -> str:
    """The name of an arm."""
    return f"fsdd-{fold}-{variant}"


def arm(variant: str, fold: int) -> Arm:
    """A variant, tested on this speaker."""
    return Arm("speech", (*SETTINGS, f"task.fold={fold}", f"network.variant={variant}"))


ARMS = {name_of(name, fold): arm(name, fold) for fold, name in product(FOLDS, VARIANTS)}


def by_fold(evidence: Evidence, variant: str, **changes: Any) -> Array:
    """Accuracy on each fold's speaker, mean over the seeds, maybe under other settings of the task: (folds,)."""
    names = [name_of(variant, fold) for fold in FOLDS]
    values = (evidence.under(name, **changes) if changes else evidence.values(name) for name in names)
    return np.array([of_fold.mean() for of_fold in values])


def accuracy_rows(evidence: Evidence) -> list[ClaimRow]:
    """Every variant over the folds; HetSynLIF is to be above both linear models, our own target."""
    values = {name: by_fold(evidence, name) for name in VARIANTS}
    judged = verdicts.above(100 * values["hetsyn"], 100 * max(LINEAR.values()))
    rows = by_variant.rows(values, None, judged, "accuracy over the folds")
    for name, variant in VARIANTS.items():
        of_fold = [evidence.values(name_of(name, fold)) for fold in FOLDS]
        if len(evidence.seeds) > 1:
            spread = np.array([values.std(ddof=1) for values in of_fold])
            rows.append(per_cent(f"{variant.title}: s.d. over the seeds of a fold", spread))
    return rows


def robust_rows(evidence: Evidence) -> list[ClaimRow]:
    """With spikes deleted and time warped."""
    return by_variant.noise_rows(partial(by_fold, evidence))


def speed_rows(evidence: Evidence) -> list[ClaimRow]:
    """At other speeds than that of training."""
    conditions = {f"{times:g} times as long": {"test_stretch": times} for times in SPEEDS if times != 1}
    return by_variant.loss_rows(partial(by_fold, evidence), conditions)


def lines(evidence: Evidence) -> dict[str, float]:
    """What results are to be seen against."""
    return {**evidence.chance(name_of("hetsyn", 0)), **LINEAR}


def draw_variants(evidence: Evidence) -> Any:
    """Accuracy of every variant, a dot a fold."""
    return by_variant.bars(lambda name: by_fold(evidence, name), lines(evidence))


def draw_deletion(evidence: Evidence) -> Any:
    """Accuracy against the share of spikes deleted."""
    return by_variant.curves(
        DELETION,
        lambda name, chance: by_fold(evidence, name, test_deletion=chance),
        lines(evidence),
        "chance of deletion",
    )


def draw_speeds(evidence: Evidence) -> Any:
    """Accuracy against the speed."""
    return by_variant.curves(
        SPEEDS,
        lambda name, times: by_fold(evidence, name, **({} if times == 1 else {"test_stretch": times})),
        lines(evidence),
        "times as long as in training",
    )


SHORT = Short([0], ("training.epochs=8", "task.dt=20e-3"), "one seed a fold, 8 epochs, bins of 20 ms: 20 min")
CLAIMS = {
    "fsdd": Claim(
        "Digits of real voices, one speaker left out: accuracy of the variants",
        "not reported for this neuron; our own target is to be above a linear model on bins relative to the length",
        ARMS,
        range(3),
        accuracy_rows,
        [Picture("variants.png", "Accuracy on the speaker left out: mean and s.d., and each fold", draw_variants)],
        short=SHORT,
    ),
    "fsdd-robustness": Claim(
        "Digits of real voices: deleted spikes and warped time, at test time only",
        "HetSynLIF loses the least (figures only, on other data)",
        ARMS,
        range(3),
        robust_rows,
        [Picture("deletion.png", "Accuracy on the speaker left out, mean and s.d. over the folds", draw_deletion)],
        short=SHORT,
    ),
    "fsdd-speed": Claim(
        "Digits of real voices: trained at one speed, tested at others",
        "time constants of many lengths serve many speeds: HetSynLIF loses the least (no figures)",
        ARMS,
        range(3),
        speed_rows,
        [Picture("speeds.png", "Accuracy on the speaker left out, mean and s.d. over the folds", draw_speeds)],
        short=SHORT,
    ),
}
