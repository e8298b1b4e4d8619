"""The paper's claims on speech: order of the variants, deleted spikes, warped time, time constants.

Run on synthetic spoken digits (not the paper's data), in bins of 10 ms and with a tenth of the spikes deleted in
training, which did best on speakers held out of the training file. On SHD's files, as the paper has it:
`--set task.source=FOLDER --set task.dt=4e-3 --set task.deletion=0.0`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.experiments import analysis, plots
from hetsyn_plugins.experiments.claims import by_variant, paper, verdicts
from hetsyn_plugins.experiments.claims.claim import Claim, Picture, Short, per_cent
from hetsyn_plugins.experiments.claims.evidence import Arm, Evidence
from hetsyn_plugins.experiments.claims.paper import DELETION, ORDER
from hetsyn_plugins.experiments.claims.verdicts import NOT_JUDGED
from hetsyn_plugins.experiments.run_folder import ClaimRow
from hetsyn_plugins.experiments.variants import VARIANTS

REPORTED = f"{paper.SHD.percent:.2f} %"
OTHER_DATA = f"the paper's {REPORTED} is SHD's, and chosen on its test set"


def name_of(variant: str) -> str:
    """The name of an arm."""
    return f"speech-{variant}"


SETTINGS = ("task.dt=10e-3", "task.deletion=0.1")
ARMS = {name_of(variant): Arm("speech", (*SETTINGS, f"network.variant={variant}")) for variant in VARIANTS}


def accuracy_rows(evidence: Evidence) -> list[ClaimRow]:
    """Accuracy of every variant, and whether it is above the next one of the paper's order."""
    values = {name: evidence.values(name_of(name)) for name in VARIANTS}
    follows = dict(pairwise(ORDER))
    rows = []
    for name, variant in VARIANTS.items():
        judged = NOT_JUDGED
        if name in follows:
            judged = verdicts.better(values[name], values[follows[name]], VARIANTS[follows[name]].title)
        note = OTHER_DATA if name == "hetsyn" else ""
        rows.append(per_cent(f"{variant.title}: accuracy", values[name], None, judged, note=note))
    return rows


def robust_rows(evidence: Evidence) -> list[ClaimRow]:
    """Accuracy as spikes are deleted and time is warped, at test time only; HetSynLIF is to lose the least."""
    return by_variant.noise_rows(partial(under, evidence))


def under(evidence: Evidence, variant: str, **changes: Any) -> Array:
    """Accuracy on the test set, maybe under other settings of the task, by seed."""
    arm = name_of(variant)
    return evidence.under(arm, **changes) if changes else evidence.values(arm)


def draw_variants(evidence: Evidence) -> Any:
    """Accuracy of every variant, a dot a seed."""
    values = {v.title: evidence.values(name_of(name)) for name, v in VARIANTS.items()}
    return plots.variants(values, lines=evidence.chance(name_of("hetsyn")))


def draw_taus(evidence: Evidence) -> Any:
    """Time constants of HetSynLIF before and after training, of the first seed."""
    before, after = evidence.networks(name_of("hetsyn"), evidence.seeds[0])
    return plots.tau_change(analysis.taus(before), analysis.taus(after))


def draw_deletion(evidence: Evidence) -> Any:
    """Accuracy against the share of spikes deleted."""
    curves: dict[str, Sequence[Array]] = {
        variant.title: [under(evidence, name, test_deletion=chance) for chance in DELETION]
        for name, variant in VARIANTS.items()
    }
    lines = evidence.chance(name_of("hetsyn"))
    return plots.against_condition(
        DELETION, curves, xlabel="chance of deletion", ylabel="accuracy", log=True, lines=lines
    )


SHORT = Short(range(6), ("training.epochs=5",), "six seeds, 5 epochs: 5 min")
CLAIMS = {
    "speech": Claim(
        "Spoken digits: accuracy of the variants",
        f"R-, [128, 64]: {' > '.join(VARIANTS[name].title for name in ORDER)} (SHD: {REPORTED})",
        ARMS,
        range(6),
        accuracy_rows,
        [
            Picture("variants.png", "Accuracy on the test set: mean and s.d., and each seed", draw_variants),
            Picture("taus.png", "Time constants of HetSynLIF before and after training, one seed", draw_taus),
        ],
        short=SHORT,
    ),
    "speech-robustness": Claim(
        "Spoken digits: deleted spikes and warped time, at test time only",
        "HetSynLIF loses the least (figures only)",
        ARMS,
        range(6),
        robust_rows,
        [Picture("deletion.png", "Accuracy on the test set, mean and s.d. over the seeds", draw_deletion)],
        short=SHORT,
    ),
}
