"""Pictures of networks and neurons. Every function takes an `ax` (None: a new figure) and returns it."""

from __future__ import annotations

from typing import Any

import numpy as np

from hetsyn_plugins.params import Array

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#888888"  # told apart by colour-blind readers too


def _axes(ax: Any, **size: Any) -> Any:
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'hetsyn_plugins[plot]'") from error
    return Figure(layout="constrained", **size).add_subplot()


def raster(spikes: Array, ax: Any = None, title: str = "") -> Any:
    """Spikes (T, N) of 0 and 1: one dot a spike, steps to the right, neurons upwards."""
    ax = _axes(ax, figsize=(6, 3))
    steps, neurons = np.nonzero(spikes)
    ax.scatter(steps, neurons, s=8, marker="|", color=BLUE, linewidths=1.2)
    ax.set(xlim=(-0.5, len(spikes) - 0.5), ylim=(-0.7, spikes.shape[1] - 0.3), ylabel="neuron", title=title)
    return ax


def traces(values: Array, ax: Any = None, labels: list[str] | None = None, title: str = "", ylabel: str = "v") -> Any:
    """Curves (T, K) over the steps."""
    ax = _axes(ax, figsize=(6, 3))
    for k, curve in enumerate(values.T):
        ax.plot(curve, linewidth=1.2, label=labels[k] if labels else None)
    ax.set(xlim=(-0.5, len(values) - 0.5), ylabel=ylabel, title=title)
    if labels:
        ax.legend(fontsize=7, ncols=2, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def membrane(v: Array, spikes: Array, threshold: float, ax: Any = None, title: str = "") -> Any:
    """Membrane (T,) of one neuron, its threshold, and its spikes as marks on top."""
    ax = _axes(ax, figsize=(6, 2.5))
    ax.plot(v, color=BLUE, linewidth=1.2, label="membrane v")
    ax.axhline(threshold, color=GREY, linestyle="--", linewidth=1, label="threshold")
    (at,) = np.nonzero(spikes)
    ax.scatter(at, np.full(len(at), max(v.max(), threshold) * 1.1), marker="v", s=22, color=ORANGE, label="spike")
    ax.set(xlim=(-0.5, len(v) - 0.5), ylabel="v", title=title)
    ax.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def tau_histogram(taus: dict[str, Array], ax: Any = None, title: str = "") -> Any:
    """Histograms of time constants in seconds on a log axis, one a name; r = 0 and r = 1 are counted in the legend.

    The outermost bins also hold what lies beyond them: decays just below 1 would stretch the axis by decades.
    """
    ax = _axes(ax, figsize=(6, 3))
    inside = np.concatenate([t[(t > 0) & np.isfinite(t)].ravel() for t in taus.values()]) * 1e3
    low, high = np.percentile(inside, [0.1, 99])
    bins = np.geomspace(low * 0.9, high * 1.1, 40)
    for (name, tau), colour in zip(taus.items(), (GREY, ORANGE, BLUE, GREEN), strict=False):
        kept = np.clip(tau[(tau > 0) & np.isfinite(tau)].ravel() * 1e3, bins[0], bins[-1])
        label = f"{name} ({np.mean(tau == 0):.1%} at r = 0, {np.mean(np.isinf(tau)):.1%} at r = 1)"
        ax.hist(kept, bins=bins, alpha=0.6, color=colour, label=label)
    ax.set(xscale="log", xlabel="time constant (ms)", ylabel="synapses", title=title)
    ax.legend(fontsize=8, frameon=False)
    return ax


def scaling(rows: list[Any]) -> Any:
    """Time of a step over T, B, N and M, one panel each, and peak memory where it was measured (`bench.Row`s)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes = figure.subplots(2, 4, sharey="row")
    colours = {"ours": BLUE, "plain autograd": ORANGE, "snnTorch": GREEN}
    for column, axis in zip(axes.T, "TBNM", strict=True):
        for peer, colour in colours.items():
            found = [r for r in rows if r.peer == peer and r.shape.startswith(f"{axis}=")]
            sizes = [int(r.shape.split("=")[1]) for r in found]
            column[0].plot(sizes, [r.median for r in found], marker="o", color=colour, label=peer)
            if found and found[0].memory is not None:
                column[1].plot(sizes, [r.memory for r in found], marker="o", color=colour, label=peer)
        for ax in column:
            ax.set(xscale="log", yscale="log")
            ax.set_xticks(sizes, [str(size) for size in sizes])
            ax.set_xticks([], minor=True)
        column[0].set_title(f"over {axis}")
        column[1].set_xlabel(axis)
    axes[0, 0].set_ylabel("time of a step (ms)")
    axes[1, 0].set_ylabel("peak memory (MB)")
    axes[0, 0].legend(fontsize=8, frameon=False)
    return axes[0, 0]
