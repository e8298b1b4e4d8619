"""The paper's claims on pattern generation: error of the variants, under noise, in the silences, between repeats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.experiments import plots
from hetsyn_plugins.experiments.claims.claim import Claim, Picture, Short, row
from hetsyn_plugins.experiments.claims.evidence import Arm, Evidence
from hetsyn_plugins.experiments.claims.verdicts import NOT_JUDGED, best, better
from hetsyn_plugins.experiments.run_folder import ClaimRow
from hetsyn_plugins.experiments.tasks.patterns import PatternGeneration, gap_output, repeat_distance
from hetsyn_plugins.experiments.variants import VARIANTS

KINDS = {"F": False, "R": True}
NOISE = (1, 2, 3, 4)  # Hz
COMPARED = ("hetsyn", "hetneu", "homneu", "alif")  # under noise, the paper's four


def arm(variant: str, kind: str = "F", noise: int = 2) -> Arm:
    """A variant, feed-forward or recurrent, under noise of so many Hz."""
    settings = [f"network.variant={variant}", f"network.recurrent={str(KINDS[kind]).lower()}"]
    return Arm("patterns", (*settings, f"task.noise_rate={noise}"))


def name_of(variant: str, kind: str = "F", noise: int = 2) -> str:
    """The name of an arm."""
    return f"patterns-{kind}-{variant}-{noise}hz"


def error_rows(evidence: Evidence) -> list[ClaimRow]:
    """Test error, output in the silences and distance between repeats of every variant, F- and R-.

    Judged of the paper's variants: HetSynLIF's error is below theirs; the homogeneous ones put out less than a third of
    what HetSynLIF does in the silences; HetSynLIF's repeats are farther apart.
    """
    rows = []
    for kind in KINDS:
        ours = {what: figure(evidence, name_of("hetsyn", kind), what) for what in ("MSE", "silences", "distance")}
        for name, variant in VARIANTS.items():
            theirs = {what: figure(evidence, name_of(name, kind), what) for what in ours}
            label, below, less, apart = f"{kind}-{variant.title}", NOT_JUDGED, NOT_JUDGED, NOT_JUDGED
            if name in COMPARED[1:]:
                below = better(ours["MSE"], theirs["MSE"], variant.title, more=False)
                apart = better(ours["distance"], theirs["distance"], variant.title)
            if name in ("homneu", "alif"):
                less = better(ours["silences"] / 3, theirs["silences"], variant.title)
            rows += [
                row(f"{label}: MSE", theirs["MSE"], None, below),
                row(f"{label}: mean |output| in the silences", theirs["silences"], None, less),
                row(f"{label}: distance between repeats", theirs["distance"], None, apart),
            ]
    return rows


def figure(evidence: Evidence, name: str, what: str) -> Array:
    """A figure of the outputs on the test set, by seed: "MSE", or "silences" or "distance" (`tasks.patterns`)."""
    if what == "MSE":
        return evidence.values(name)
    task = evidence.configs[name].task
    assert isinstance(task, PatternGeneration)
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "silences": lambda readout, target: gap_output(readout, task),
        "distance": lambda readout, target: repeat_distance(readout, target, task),
    }

    @torch.no_grad()
    def of_seed(seed: int) -> float:
        model, measure = evidence.model(name, seed), measures[what]
        batches = task.held_out("test", task.test_samples, seed)
        return float(torch.cat([measure(model(x).readout, target) for x, target in batches]).mean())

    return evidence.each(name, what, of_seed)


def noise_rows(evidence: Evidence) -> list[ClaimRow]:
    """HetSynLIF's error against the others' at every noise level, F- and R-."""
    rows = []
    for kind in KINDS:
        for noise in NOISE:
            values = {name: evidence.values(name_of(name, kind, noise)) for name in COMPARED}
            others = {VARIANTS[other].title: values[other] for other in COMPARED[1:]}
            for name, errors in values.items():
                lowest = best(errors, others, more=False) if name == "hetsyn" else NOT_JUDGED
                rows.append(row(f"{kind}-{VARIANTS[name].title}, {noise} Hz: MSE", errors, None, lowest))
    return rows


def draw_learning(kind: str) -> Callable[[Evidence], Any]:
    """Validation error over the iterations, the variants in the same axes."""

    def draw(evidence: Evidence) -> Any:
        logs = {
            variant.title: [evidence.log(name_of(name, kind), seed) for seed in evidence.seeds]
            for name, variant in VARIANTS.items()
        }
        return plots.learning_curves(logs, "validation", ylabel="MSE", log=True)

    return draw


def draw_output(evidence: Evidence) -> Any:
    """Target and outputs for the first test sample of the first seed: F- and R-HetSynLIF, and R-HomNeuLIF."""
    seed, task = evidence.seeds[0], evidence.configs[name_of("hetsyn")].task
    assert isinstance(task, PatternGeneration)
    x, target = next(task.held_out("test", 1, seed))
    with torch.no_grad():
        outputs = {
            f"{kind}-{VARIANTS[name].title}": evidence.model(name_of(name, kind), seed)(x).readout[:, 0, 0].numpy()
            for kind, name in (("F", "hetsyn"), ("R", "hetsyn"), ("R", "homneu"))
        }
    return plots.pattern(target[:, 0, 0].numpy(), outputs, task.silences, task.dt)


def draw_noise(kind: str) -> Callable[[Evidence], Any]:
    """Error against the noise."""

    def draw(evidence: Evidence) -> Any:
        curves = {
            VARIANTS[name].title: [evidence.values(name_of(name, kind, noise)) for noise in NOISE] for name in COMPARED
        }
        return plots.against_condition(NOISE, curves, xlabel="noise (Hz)", ylabel="MSE")

    return draw


CLAIMS = {
    "patterns": Claim(
        "Pattern generation: error of the variants, feed-forward and recurrent",
        "HetSynLIF converges fastest to the lowest MSE, F- and R-; the homogeneous variants put out about 0 in the "
        "silences; HetSynLIF's outputs to the repeats are the farthest apart (figures only; for convergence see ours)",
        {name_of(name, kind): arm(name, kind) for kind in KINDS for name in VARIANTS},
        range(10),
        error_rows,
        [
            Picture("learning-F.png", "Validation error, F-: mean and s.d. over the seeds", draw_learning("F")),
            Picture("learning-R.png", "Validation error, R-: mean and s.d. over the seeds", draw_learning("R")),
            Picture("output.png", "Target and outputs for one test sample, the silences shaded", draw_output),
        ],
        short=Short(range(6), (), "six seeds: 10 min"),
    ),
    "patterns-noise": Claim(
        "Pattern generation: error under noise of 1 to 4 Hz",
        "HetSynLIF has the lowest MSE at every noise level (figures only)",
        {name_of(n, kind, noise): arm(n, kind, noise) for kind in KINDS for noise in NOISE for n in COMPARED},
        range(6),
        noise_rows,
        [Picture(f"noise-{k}.png", f"Test error, {k}-: mean and s.d. over the seeds", draw_noise(k)) for k in KINDS],
        short=Short(range(6), ("training.iterations=400",), "400 iterations: 15 min"),
    ),
}  # fmt: skip
