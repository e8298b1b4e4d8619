"""The paper's claims on sequences of pixels, on data that can be had: accuracy, and how few neurons it takes."""

from __future__ import annotations

from typing import Any

from hetsyn_plugins.experiments import plots
from hetsyn_plugins.experiments.claims import paper
from hetsyn_plugins.experiments.claims.claim import Arm, Claim, Evidence, Picture, per_cent
from hetsyn_plugins.experiments.claims.verdicts import NOT_JUDGED, best
from hetsyn_plugins.experiments.run_folder import ClaimRow
from hetsyn_plugins.experiments.variants import VARIANTS

HIDDEN = (8, 16, 32, 64)  # in each of two layers
COMPARED = ("hetsyn", "hetneu", "homneu")
REPORTED = f"{paper.S_MNIST.percent:.2f} %"
OTHER_DATA = f"the paper's {REPORTED} is S-MNIST: --set task.source=FOLDER --set task.order=pixel"


def arm(variant: str = "hetsyn", hidden: int = 64) -> Arm:
    """Two recurrent layers of so many neurons."""
    return Arm("images", (f"network.variant={variant}", f"network.hidden=[{hidden}, {hidden}]"))


def name_of(variant: str, hidden: int = 64) -> str:
    """The name of an arm."""
    return f"images-{variant}-{hidden}"


def accuracy_rows(evidence: Evidence) -> list[ClaimRow]:
    """Accuracy of every variant."""
    rows = []
    for name, variant in VARIANTS.items():
        values = evidence.values(name_of(name))
        note = OTHER_DATA if name == "hetsyn" else ""
        rows.append(per_cent(f"{variant.title}: accuracy", values, note=note))
    return rows


def hidden_rows(evidence: Evidence) -> list[ClaimRow]:
    """Accuracy by size; HetSynLIF's also in trained parameters, of which it has about twice as many a neuron."""
    rows = []
    for n in HIDDEN:
        for name in COMPARED:
            values = evidence.values(name_of(name, n))
            count = evidence.parameters(name_of(name, n))
            others = {VARIANTS[other].title: evidence.values(name_of(other, n)) for other in COMPARED[1:]}
            judged = best(values, others) if name == "hetsyn" else NOT_JUDGED
            label = f"[{n}, {n}], {VARIANTS[name].title}: accuracy"
            rows.append(per_cent(label, values, None, judged, note=f"{count:,} trained parameters"))
    return rows


def draw_hidden(evidence: Evidence) -> Any:
    """Accuracy against the size of the layers."""
    curves = {VARIANTS[name].title: [evidence.values(name_of(name, n)) for n in HIDDEN] for name in COMPARED}
    lines = evidence.chance(name_of("hetsyn"))
    return plots.against_condition(
        HIDDEN, curves, xlabel="neurons in each hidden layer", ylabel="accuracy", log=True, lines=lines
    )


def draw_variants(evidence: Evidence) -> Any:
    """Accuracy of every variant, a dot a seed."""
    values = {v.title: evidence.values(name_of(name)) for name, v in VARIANTS.items()}
    return plots.variants(values, lines=evidence.chance(name_of("hetsyn")))


CLAIMS = {
    "visual": Claim(
        "Sequential images: accuracy of the variants on Fashion-MNIST, row by row",
        f"R-HetSynLIF with two layers of 64 reads images that come in piece by piece (S-MNIST: {REPORTED})",
        {name_of(name): arm(name) for name in VARIANTS},
        range(6),
        accuracy_rows,
        [Picture("variants.png", "Accuracy on the test set: mean, and each seed", draw_variants)],
    ),
    "visual-small": Claim(
        "Sequential images: how few neurons it takes",
        "HetSynLIF gets there with few neurons",
        {name_of(name, n): arm(name, n) for n in HIDDEN for name in COMPARED},
        range(6),
        hidden_rows,
        [Picture("hidden.png", "Accuracy on the test set, mean and s.d. over the seeds", draw_hidden)],
    ),
}
