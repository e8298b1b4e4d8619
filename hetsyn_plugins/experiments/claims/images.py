"""The paper's claims on sequences of pixels: accuracy on S-MNIST and its kin, and how few neurons it takes.

On MNIST (`hetsyn data get mnist`) with the paper's settings but for the triangular surrogate and clipped gradients,
without which they do not get there; of 784 steps a seed takes hours on 2 cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.experiments import plots
from hetsyn_plugins.experiments.claims import by_variant, paper, verdicts
from hetsyn_plugins.experiments.claims.claim import Claim, Picture, Short, per_cent
from hetsyn_plugins.experiments.claims.evidence import Arm, Evidence
from hetsyn_plugins.experiments.claims.verdicts import NOT_JUDGED, Judgement, best
from hetsyn_plugins.experiments.run_folder import ClaimRow
from hetsyn_plugins.experiments.variants import VARIANTS

HIDDEN = (8, 16, 32, 64)  # in each of two layers
COMPARED = ("hetsyn", "hetneu", "homneu")
REPORTED = f"{paper.S_MNIST.percent:.2f} %"
OTHER_DATA = f"the paper's {REPORTED} is S-MNIST's: hetsyn claim smnist-pixel"


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


SHORT = Short(range(6), ("training.epochs=3", "task.samples=10000"), "10,000 images, 3 epochs: 3 min")


# ---- MNIST -------------------------------------------------------------------------------------------------------


def mnist_name(order: str, variant: str) -> str:
    """The name of an arm."""
    return f"smnist-{order}-{variant}"


def mnist_arms(order: str, *settings: str) -> dict[str, Arm]:
    """The variants on MNIST in this order."""
    chosen = ("task.source=mnist", f"task.order={order}", *settings)
    return {
        mnist_name(order, name): Arm("images", (*chosen, f"network.variant={name}"), "triangular") for name in VARIANTS
    }


def mnist_rows(order: str, judge: Callable[[Array], Judgement], reported: float | None) -> Callable[..., Any]:
    """Rows of every variant; `judge` takes HetSynLIF's accuracies in per cent."""

    def rows(evidence: Evidence) -> list[ClaimRow]:
        values = {name: evidence.values(mnist_name(order, name)) for name in VARIANTS}
        return by_variant.rows(values, reported, judge(100 * values["hetsyn"]))

    return rows


def mnist_claim(order: str, title: str, statement: str, arms: dict[str, Arm], rows: Any, short: Short) -> Claim:
    """A claim on MNIST, three seeds."""

    def draw(evidence: Evidence) -> Any:
        lines = evidence.chance(mnist_name(order, "hetsyn"))
        return by_variant.bars(lambda name: evidence.values(mnist_name(order, name)), lines)

    def learning(evidence: Evidence) -> Any:
        logs = {
            variant.title: [evidence.log(mnist_name(order, name), seed) for seed in evidence.seeds]
            for name, variant in VARIANTS.items()
        }
        return plots.learning_curves(logs, "validation", ylabel="accuracy (validation)")

    pictures = [
        Picture("variants.png", "Accuracy on the test set: mean and s.d., and each seed", draw),
        Picture("learning.png", "Accuracy on the validation images, mean and s.d. over the seeds", learning),
    ]
    return Claim(title, statement, arms, range(3), rows, pictures, short=short)


FEW = ("task.samples=5000", "task.validation=0.02", "training.batch=64", "training.epochs=12")
FEW_SAID = "5,000 images, 12 epochs, three seeds"
PERMUTED = 96.2  # per cent; our own target, the paper has no such figure

MNIST_CLAIMS = {
    "smnist-pixel": mnist_claim(
        "pixel",
        "S-MNIST: MNIST pixel by pixel, 784 steps",
        f"R-HetSynLIF, [64, 64], read from spike counts: {REPORTED}",
        mnist_arms("pixel"),
        mnist_rows(
            "pixel",
            lambda values: verdicts.near(values, paper.S_MNIST.percent, verdicts.CLOSE),
            paper.S_MNIST.percent,
        ),
        Short(range(3), FEW, f"{FEW_SAID}: 45 min"),
    ),
    "smnist-permuted": mnist_claim(
        "permuted",
        "Permuted S-MNIST: the 784 pixels in another order, the same for all images",
        f"never reported for this neuron; our own target is {PERMUTED} %",
        mnist_arms("permuted"),
        mnist_rows("permuted", lambda values: verdicts.above(values, PERMUTED), None),
        Short(range(3), FEW, f"{FEW_SAID}: 45 min"),
    ),
    "smnist-row": mnist_claim(
        "row",
        "MNIST row by row, 28 steps",
        "not reported for this neuron",
        mnist_arms("row", "training.epochs=50"),
        mnist_rows("row", lambda values: NOT_JUDGED, None),
        Short(range(3), FEW, f"{FEW_SAID}: 2 min"),
    ),
}
CLAIMS = {
    **MNIST_CLAIMS,
    "visual": Claim(
        "Sequential images: accuracy of the variants on Fashion-MNIST, row by row",
        f"R-HetSynLIF with two layers of 64 reads images that come in piece by piece (S-MNIST: {REPORTED})",
        {name_of(name): arm(name) for name in VARIANTS},
        range(6),
        accuracy_rows,
        [Picture("variants.png", "Accuracy on the test set: mean, and each seed", draw_variants)],
        short=SHORT,
    ),
    "visual-small": Claim(
        "Sequential images: how few neurons it takes",
        "HetSynLIF gets there with few neurons",
        {name_of(name, n): arm(name, n) for n in HIDDEN for name in COMPARED},
        range(6),
        hidden_rows,
        [Picture("hidden.png", "Accuracy on the test set, mean and s.d. over the seeds", draw_hidden)],
        short=SHORT,
    ),
}
