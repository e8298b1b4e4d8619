"""Draws the pictures of docs/explanation/neuron.md into docs/pictures, the same bytes each time for a matplotlib.

    python docs/_ext/draw_pictures.py

Every curve is what `core.reference.run` gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hetsyn_plugins import HetSynParams, reference, tau_to_decay
from hetsyn_plugins.core.surrogate import MultiGaussian

FOLDER = Path(__file__).resolve().parents[1] / "pictures"
STEPS = 120
BLUE, ORANGE, GREEN, GREY = "#3465a4", "#ce5c00", "#4e9a06", "#777777"
COLOURS = (BLUE, ORANGE, GREEN)
STYLE = {"svg.hashsalt": "hetsyn", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
STYLE |= {"axes.spines.right": False, "font.family": "sans-serif", "lines.linewidth": 1.4}
INPUTS = np.zeros((STEPS, 1, 3))
for line, times in enumerate(([10, 60], [14, 20, 64, 70], [8, 16, 24, 58, 62, 66, 72])):
    INPUTS[times, 0, line] = 1.0
WEIGHT = np.array([[0.5, 0.35, 0.3]])


def decays(*taus: float) -> Any:
    """Decays of time constants in steps."""
    return tau_to_decay(np.array([taus]), dt=1.0)


def params(*taus: float) -> HetSynParams:
    """One neuron with three synapses of these time constants, in steps."""
    return HetSynParams(WEIGHT, decays(*taus), reset_decay=float(decays(15.0)[0, 0]))


def trains(axis: Any) -> None:
    """The inputs, a row a line."""
    axis.eventplot(
        [np.flatnonzero(INPUTS[:, 0, j]) for j in range(3)], colors=COLOURS, lineoffsets=[2, 1, 0], linelengths=0.7
    )
    axis.set(yticks=[2, 1, 0], yticklabels=["x1", "x2", "x3"], ylabel="inputs")


def current(line: int, tau: float) -> Any:
    """The current of one synapse: v of a readout that has only this one."""
    weight = np.where(np.arange(3) == line, WEIGHT, 0.0)
    readout = HetSynParams(weight, decays(tau, tau, tau), reset_decay=None, spiking=False)
    return reference.run(readout, INPUTS)[1][:, 0, 0]


def neuron() -> Figure:
    """Inputs, a current a synapse, v with threshold and reset, spikes."""
    taus = (5.0, 20.0, 80.0)
    spikes, v, _ = reference.run(params(*taus), INPUTS)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[1, 2, 2])
    trains(top)
    for line, (tau, colour) in enumerate(zip(taus, COLOURS, strict=True)):
        middle.plot(current(line, tau), color=colour, label=f"synapse {line + 1}, tau {tau:.0f} steps")
    middle.set(ylabel="currents I")
    middle.legend(frameon=False, fontsize=8)
    bottom.plot(v[:, 0, 0], color="black", label="v = sum of I - J")
    bottom.plot(sum(current(line, tau) for line, tau in enumerate(taus)) - v[:, 0, 0], color=GREY, label="reset J")
    bottom.axhline(1.0, color=GREY, linestyle=":", label="threshold")
    fired = np.flatnonzero(spikes[:, 0, 0])
    bottom.plot(fired, np.full(len(fired), 1.75), "|", color="black", markersize=9, label="spikes")
    bottom.set(xlabel="step", ylabel="v")
    bottom.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    bottom.set_ylim(-0.6, 2.6)
    return figure


def three_kinds() -> Figure:
    """v of the same weights and inputs with one time constant, and with one a synapse."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
    trains(top)
    kinds = (
        ("one tau, 20 steps (LIF)", (20.0, 20.0, 20.0), GREY),
        ("a tau a synapse: 5, 20, 80", (5.0, 20.0, 80.0), BLUE),
    )
    for row, (label, taus, colour) in enumerate(kinds):
        spikes, v, _ = reference.run(params(*taus), INPUTS)
        bottom.plot(v[:, 0, 0], color=colour, label=label)
        fired = np.flatnonzero(spikes[:, 0, 0])
        bottom.plot(fired, np.full(len(fired), 1.9 - 0.25 * row), "|", color=colour, markersize=8)
    bottom.axhline(1.0, color=GREY, linestyle=":")
    bottom.set(xlabel="step", ylabel="v, spikes above")
    bottom.legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def surrogate() -> Figure:
    """What takes the place of the spike's derivative."""
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    axis = figure.subplots()
    d = np.linspace(-3.5, 3.5, 281)
    axis.plot(d, (d > 0).astype(float), color=GREY, label="spike: 1 where v > threshold")
    axis.plot(d, MultiGaussian().derivative(d, 1.0), color=BLUE, label="its derivative in training (multi-Gaussian)")
    axis.set(xlabel="v - threshold")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


PICTURES = {"neuron": neuron, "one-or-many": three_kinds, "surrogate": surrogate}


def draw(folder: Path) -> None:
    """All pictures as SVG."""
    with matplotlib.rc_context(STYLE):
        for name, picture in PICTURES.items():
            picture().savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    draw(FOLDER)
