"""The paper's claims on timescales: learned taus beside those of cortical synapses, and other delays at test time."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.experiments import analysis, plots
from hetsyn_plugins.experiments.claims import by_variant, dms, images, patterns, verdicts, voices
from hetsyn_plugins.experiments.claims.claim import Claim, Picture, Short, per_cent, row
from hetsyn_plugins.experiments.claims.evidence import Arm, Evidence
from hetsyn_plugins.experiments.claims.paper import CORTEX, CORTEX_TAIL, ORDER
from hetsyn_plugins.experiments.claims.verdicts import NOT_JUDGED
from hetsyn_plugins.experiments.run_folder import ClaimRow
from hetsyn_plugins.experiments.variants import VARIANTS

# ---- other delays ------------------------------------------------------------------------------------------------

DELAYS = (0.2, 0.4, 0.8, 1.6, 2.5, 5.0)  # seconds
TRAINED = 0.8


def dms_name(variant: str) -> str:
    """The name of an arm, which other claims have too."""
    return f"dms-{variant}-50"


def at_delay(evidence: Evidence, variant: str, delay: float) -> Array:
    """Accuracy at a delay, by seed."""
    return evidence.under(dms_name(variant), delay=delay)


def delay_rows(evidence: Evidence) -> list[ClaimRow]:
    """Accuracy of every variant at every delay; where it was not trained, HetSynLIF's is to be the highest."""
    rows = []
    for delay in DELAYS:
        values = {name: at_delay(evidence, name, delay) for name in VARIANTS}
        others = {VARIANTS[name].title: values[name] for name in ORDER[1:]}
        for name, variant in VARIANTS.items():
            is_judged = name == "hetsyn" and delay != TRAINED
            judged = verdicts.best(values[name], others) if is_judged else NOT_JUDGED
            rows.append(per_cent(f"{variant.title}: {delay * 1e3:g} ms", values[name], None, judged))
    return rows


def draw_delays(evidence: Evidence) -> Any:
    """Accuracy against the delay."""
    lines = evidence.chance(dms_name("hetsyn"))
    return by_variant.curves(DELAYS, lambda name, delay: at_delay(evidence, name, delay), lines, "delay (s)")


# ---- beside cortical synapses ------------------------------------------------------------------------------------

# Decay of excitatory currents under voltage clamp, mouse cortex: first quartile, median, third, seconds. Read (to 3 %)
# off the boxes in the Allen Institute's notebook on its Synaptic Physiology data, "psc decay tau" of 144, 118 and 30
# synapses: github.com/AllenInstitute/aisynphys, doc/synaptic_kinetics.ipynb.
CURRENTS = {
    "mouse cortex, currents onto Pvalb cells": (1.0e-3, 1.5e-3, 2.4e-3),
    "onto Sst cells": (1.8e-3, 3.0e-3, 5.0e-3),
    "onto Vip cells": (2.8e-3, 3.2e-3, 4.1e-3),
}
LEARNED = {  # what a picture calls it -> arm, of a claim on that task
    "pattern generation": (patterns.name_of("hetsyn", "R"), patterns.arm("hetsyn", "R")),
    "delayed match-to-sample": (dms_name("hetsyn"), dms.arm()),
    "spoken digits": (voices.name_of("hetsyn", 0), voices.arm("hetsyn", 0)),
    "MNIST by rows": (images.mnist_name("row", "hetsyn"), images.MNIST_CLAIMS["smnist-row"].arms["smnist-row-hetsyn"]),
}
LEARNED_ARMS: dict[str, Arm] = dict(LEARNED.values())


def biology_rows(evidence: Evidence) -> list[ClaimRow]:
    """Of every task the log-normal fit, the tail, and how much of the spread lies between neurons."""
    rows = []
    for task, (arm, _) in LEARNED.items():

        def of(what: str, measure: Callable[[Network], float], after: bool = True, arm: str = arm) -> Array:
            return evidence.each(arm, what, lambda seed: measure(evidence.networks(arm, seed)[after]))

        log_normal, normal = of("from a log-normal", from_log_normal), of("from a normal", from_normal)
        like = verdicts.better(log_normal, normal, "a normal distribution", more=False)
        tail = 100 * of(f"above {CORTEX_TAIL} s", lambda network: summary(network).long)
        rows += [
            row(f"{task}: median tau", 1e3 * of("median", lambda network: np.exp(summary(network).mu)), unit="ms"),
            row(f"{task}: sigma of log tau", of("sigma", lambda network: summary(network).sigma)),
            row(f"{task}: largest distance from the log-normal fit", log_normal, None, like),
            row(f"{task}: taus above 500 ms", tail, None, verdicts.above(tail, 0.0), unit="%"),
            per_cent(f"{task}: spread between neurons before training", of("between, before", between, after=False)),
            per_cent(f"{task}: spread between neurons", of("between", between)),
        ]
    return rows


def taus(network: Network) -> Array:
    """All time constants of the synapses of hidden layers, flat, in seconds."""
    return np.concatenate([tau.ravel() for name, tau in analysis.taus(network).items() if name.startswith("hidden")])


def summary(network: Network) -> analysis.TauSummary:
    """Those in few numbers."""
    return analysis.summarise(taus(network), CORTEX_TAIL)


def from_log_normal(network: Network) -> float:
    """How far the distribution of log tau is from a normal one at most."""
    return from_fit(np.log(analysis.between_ends(taus(network))))


def from_normal(network: Network) -> float:
    """How far that of tau itself is."""
    return from_fit(analysis.between_ends(taus(network)))


def from_fit(values: Array) -> float:
    """The largest distance of the values' distribution function from that of their normal fit, by quartiles."""
    values = np.sort(values)
    first, middle, third = np.quantile(values, (0.25, 0.5, 0.75))
    fit = NormalDist(middle, max(third - first, 1e-12) / analysis.QUARTILES)
    expected = np.array([fit.cdf(value) for value in values])
    steps = np.arange(len(values) + 1) / len(values)
    return float(max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max()))


def between(network: Network) -> float:
    """Share of the variance of log tau between neurons, mean over the kinds of synapses of hidden layers."""
    parts = [analysis.variance_components(tau) for name, tau in analysis.taus(network).items() if "hidden" in name]
    return float(np.mean([np.nan_to_num(part.share) for part in parts]))


def draw_taus(evidence: Evidence) -> Any:
    """Learned taus of every task in the same axes, of the first seed, and from where cortical synapses have a tail."""
    learned = {task: taus(evidence.networks(arm, evidence.seeds[0])[1]) for task, (arm, _) in LEARNED.items()}
    marks = {"cortical synapses have a tail past 500 ms": CORTEX_TAIL}
    return plots.tau_histogram(learned, marks=marks, quartiles=CURRENTS)


def draw_spread(evidence: Evidence) -> Any:
    """Variance within and between neurons after training, input synapses of the first hidden layer, the first seed."""
    parts = {}
    for task, (arm, _) in LEARNED.items():
        tau = analysis.taus(evidence.networks(arm, evidence.seeds[0])[1])["hidden1 input"]
        parts[task] = analysis.variance_components(tau)
    return plots.tau_variance(parts)


CLAIMS = {
    "dms-timescales": Claim(
        "Delayed match-to-sample: trained at a delay of 800 ms, tested at 200 ms to 5 s",
        "time constants of many lengths serve many delays (no figures; ours: HetSynLIF is above the paper's others)",
        {dms_name(name): dms.arm(name) for name in VARIANTS},
        range(10),
        delay_rows,
        [Picture("delays.png", "Accuracy on the test set, mean and s.d. over the seeds", draw_delays)],
        short=Short(range(6), (), "six seeds: 6 min"),
    ),
    "biology": Claim(
        "Learned time constants beside those of cortical synapses",
        CORTEX,
        LEARNED_ARMS,
        range(6),
        biology_rows,
        [
            Picture("taus.png", "Time constants of hidden layers after training, one seed a task", draw_taus),
            Picture("spread.png", "Spread of log tau, first layer's inputs, one seed a task", draw_spread),
        ],
        short=Short([0], (), "one seed: 8 min"),
    ),
}
