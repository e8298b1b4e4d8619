"""Delays of synapses beside their time constants: what each brings, where both cost the same parameters.

Delays and time constants are said to trade off (arXiv 2510.27434); at the synapse nobody has set them side by side. Six
networks, with learned delays and without, of one learned tau, one a neuron or one a synapse; of each as many hidden
neurons as the parameters pay for. On real voices, each speaker left out in turn, on the synthetic digits (bins of 10 ms
and 140 groups of channels, both), and on delayed match-to-sample.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.experiments import plots
from hetsyn_plugins.experiments.claims import verdicts
from hetsyn_plugins.experiments.claims.claim import Claim, Picture, Short, per_cent
from hetsyn_plugins.experiments.claims.evidence import Arm, Evidence, Unmeasured
from hetsyn_plugins.experiments.run_folder import ClaimRow

BUDGETS = (2_000, 10_000, 50_000)  # parameters
TAUS = {"single_tau": "one tau", "hetneu": "a tau a neuron", "hetsyn": "a tau a synapse"}
SPEECH = ("task.dt=10e-3", "task.pool=5", "task.deletion=0.1", "training.schedule_span=0")


class Data(NamedTuple):
    """What a network is tried on: words, lines in, classes, task, settings, longest delay in s, and the folds."""

    title: str
    lines: int
    outputs: int
    task: str
    settings: tuple[str, ...]
    longest: float
    folds: tuple[int | None, ...] = (None,)


DATA = {
    "fsdd": Data(
        "real voices", 140, 10, "speech", ("task.source=fsdd", "training.epochs=30", *SPEECH), 0.3, tuple(range(6))
    ),
    "digits": Data("synthetic digits", 140, 20, "speech", SPEECH, 0.3),
    "dms": Data("DMS", 30, 2, "dms", (), 0.3),
}


class Network(NamedTuple):
    """One of those that are set beside each other, on some data."""

    data: str
    variant: str
    delayed: bool
    budget: int

    @property
    def title(self) -> str:
        """What pictures call it."""
        return f"{TAUS[self.variant]}{', delays' if self.delayed else ''}"

    @property
    def neurons(self) -> int:
        """As many hidden ones as the parameters pay for."""
        return max(n for n in range(1, 1_000) if self.parameters(n) <= self.budget)

    def parameters(self, n: int) -> int:
        """What is trained with n recurrent hidden neurons: weights, taus, delays of the hidden synapses."""
        data = DATA[self.data]
        hidden, readout = n * (data.lines + n), n * data.outputs
        taus = {"single_tau": 1, "hetneu": n + data.outputs, "hetsyn": hidden + readout}[self.variant]
        return hidden + readout + taus + self.delayed * hidden

    @property
    def arms(self) -> dict[str, Arm]:
        """Its arms by name, one a fold."""
        data = DATA[self.data]
        chosen = [f"network.variant={self.variant}", f"network.hidden=[{self.neurons}]"]
        chosen += [f"network.max_delay={data.longest}"] if self.delayed else []
        name = f"delays-{self.data}-{self.budget}-{self.variant}{'-delays' if self.delayed else ''}"
        if data.folds == (None,):
            return {name: Arm(data.task, (*data.settings, *chosen))}
        return {f"{name}-{n}": Arm(data.task, (*data.settings, *chosen, f"task.fold={n}")) for n in data.folds}


NETWORKS = [Network(*each) for each in product(DATA, TAUS, (False, True), BUDGETS)]
FIRST = [network for network in NETWORKS if network.data == "fsdd" and network.budget == 10_000]


def accuracy(evidence: Evidence, network: Network) -> Array:
    """By fold, means over the seeds, where the data have folds; else by seed."""
    values = [evidence.values(name) for name in network.arms if name in evidence.arms]
    return values[0] if len(values) == 1 else np.array([of_fold.mean() for of_fold in values])


def measured(evidence: Evidence) -> list[Network]:
    """The networks that this evidence has arms of."""
    return [network for network in NETWORKS if not evidence.arms.keys().isdisjoint(network.arms)]


def rows(evidence: Evidence) -> list[ClaimRow]:
    """Each network, and in its note what its delays and its finer taus bring, pair by pair."""
    values = {network: accuracy(evidence, network) for network in measured(evidence)}
    lines = []
    for network, ours in values.items():
        notes = [f"{network.neurons} neurons"]
        for what, other in coarser(network).items():
            notes.append(verdicts.better(ours, values[other], what).note)
        label = f"{DATA[network.data].title}, {network.budget:,} parameters: {network.title}"
        lines.append(per_cent(label, ours, note="; ".join(notes)))
    return lines


def coarser(network: Network) -> dict[str, Network]:
    """The same without delays, and the same with taus that more synapses share, as far as there are such."""
    taus = list(TAUS)
    at = taus.index(network.variant)
    others = {"without delays": network._replace(delayed=False)} if network.delayed else {}
    return others | ({f"with {TAUS[taus[at - 1]]}": network._replace(variant=taus[at - 1])} if at else {})


def draw(data: str) -> Any:
    """What draws a bar a network of the most parameters on these data, with a dot for each fold or seed."""

    def bars(evidence: Evidence) -> Any:
        networks = [network for network in measured(evidence) if network.data == data]
        if not networks:
            raise Unmeasured(data)
        most = [network for network in networks if network.budget == max(n.budget for n in networks)]
        lines = evidence.chance(next(iter(most[0].arms)))
        return plots.variants({network.title: accuracy(evidence, network) for network in most}, lines=lines)

    return bars


CLAIMS = {
    "delays": Claim(
        "Delays beside one tau, a tau a neuron, a tau a synapse, at equal parameters",
        "not reported: at the synapse delays and time constants were never set side by side",
        {name: arm for network in NETWORKS for name, arm in network.arms.items()},
        range(3),
        rows,
        [
            Picture(f"{name}.png", f"Accuracy, {data.title}: mean and s.d., and each fold or seed", draw(name))
            for name, data in DATA.items()
        ],
        short=Short(
            range(2),
            (),
            "real voices, each speaker left out in turn, 10,000 parameters, two seeds: 40 min",
            frozenset(name for network in FIRST for name in network.arms),
        ),
    ),
}
