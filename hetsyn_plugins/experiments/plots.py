"""Pictures of networks and neurons, of time constants and of results.

A function of data draws its arguments into `ax` (None: a new figure) and returns it. `tau_change`, `tau_weight` and
`scaling` draw a panel for each name or axis, in a new figure, and return its first axes. Time constants come in
seconds and are drawn in milliseconds.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from math import erf, inf, isnan, sqrt
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.files import write_bytes
from hetsyn_plugins.experiments.analysis import (
    CLIP,
    Synapses,
    TauSummary,
    VarianceComponents,
    between_ends,
    spearman,
    summarise,
)

# Okabe and Ito's, told apart by colour-blind readers too
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
GREY, BLACK = "#888888", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY)
STYLES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v", "P")
SMALL = 8  # points; the smallest print
WIDTH = 4.8  # inches: so narrow that it can be read on a telephone
LETTER, HANDLE = 0.58 * SMALL, 36  # points that a legend takes a letter, and beside that a column


def _axes(ax: Any, **size: Any) -> Any:
    return _figure(**size).add_subplot() if ax is None else ax


def _figure(**size: Any) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'hetsyn_plugins[plot]'") from error
    return Figure(layout="constrained", **size)


def png(figure: Any, dpi: int = 160) -> bytes:
    """A figure as the bytes of a PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def save(figure: Any, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all; its path. Raises as `core.files.write_bytes`."""
    write_bytes(path, png(figure))
    return path


def raster(spikes: Array, ax: Any = None, title: str = "") -> Any:
    """Spikes (T, N) of 0 and 1: one dot a spike, steps to the right, neurons upwards."""
    ax = _axes(ax, figsize=(WIDTH, 3))
    steps, neurons = np.nonzero(spikes)
    ax.scatter(steps, neurons, s=8, marker="|", color=BLUE, linewidths=1.2)
    ax.set(xlim=(-0.5, len(spikes) - 0.5), ylim=(-0.7, spikes.shape[1] - 0.3), ylabel="neuron", title=title)
    return ax


def traces(values: Array, ax: Any = None, labels: list[str] | None = None, title: str = "", ylabel: str = "v") -> Any:
    """Curves (T, K) over the steps."""
    ax = _axes(ax, figsize=(WIDTH, 3))
    for k, curve in enumerate(values.T):
        ax.plot(curve, linewidth=1.2, label=labels[k] if labels else None)
    ax.set(xlim=(-0.5, len(values) - 0.5), ylabel=ylabel, title=title)
    if labels:
        ax.legend(fontsize=SMALL, ncols=2, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def membrane(v: Array, spikes: Array, threshold: float, ax: Any = None, title: str = "") -> Any:
    """Membrane (T,) of one neuron, its threshold, and its spikes as marks on top."""
    ax = _axes(ax, figsize=(WIDTH, 2.5))
    ax.plot(v, color=BLUE, linewidth=1.2, label="membrane v")
    ax.axhline(threshold, color=GREY, linestyle="--", linewidth=1, label="threshold")
    (at,) = np.nonzero(spikes)
    ax.scatter(at, np.full(len(at), max(v.max(), threshold) * 1.1), marker="v", s=22, color=ORANGE, label="spike")
    ax.set(xlim=(-0.5, len(v) - 0.5), ylabel="v", title=title)
    ax.legend(fontsize=SMALL, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


# ---- time constants ----------------------------------------------------------------------------------------------


def tau_histogram(
    taus: Mapping[str, Array],
    ax: Any = None,
    title: str = "",
    marks: Mapping[str, float] | None = None,
    quartiles: Mapping[str, tuple[float, float, float]] | None = None,
) -> Any:
    """Histograms of time constants in seconds on a log axis, one a name, each with its log-normal fit (dashed).

    marks       time constants in seconds that are marked by a dotted line, by what the legend calls them
    quartiles   (first, median, third) in seconds of other distributions: a bar each with its median, near the top

    The masses at r = 0 and r = 1 stand at the ends as lines with a dot, in the histogram's colour, and in the legend.
    The outermost bins also hold what lies beyond them: decays just below 1 would stretch the axis by decades.
    """
    _check_some("taus", taus)
    marks, quartiles = marks or {}, quartiles or {}
    ax = _axes(ax, figsize=(WIDTH, 3.6 + 0.5 * len(quartiles)))
    scale = TauAxis([*taus.values(), *map(np.array, quartiles.values())])
    bins = np.geomspace(scale.low, scale.high, 41)
    for index, ((name, tau), colour) in enumerate(zip(taus.items(), cycle((GREY, *COLOURS[1:], BLUE)), strict=False)):
        tau, summary = np.ravel(tau), summarise(tau)
        inside = between_ends(tau)
        ax.hist(scale.place(inside), bins=bins, alpha=0.5, color=colour, label=_histogram_label(name, summary))
        if summary.sigma > 0:
            expected = _log_normal(bins, summary.mu + np.log(1e3), summary.sigma) * inside.size
            ax.plot(np.geomspace(scale.low, scale.high, len(expected)), expected, color=colour, linestyle="--")
        shift = np.exp(0.02 * scale.span * (index - (len(taus) - 1) / 2))  # side by side
        for end, count in ((scale.zero, np.sum(tau == 0)), (scale.one, np.sum(tau == inf))):
            if count:
                ax.plot([end * shift] * 2, [0, count], color=colour, marker="o", markevery=[1])
    if any(summarise(tau).sigma > 0 for tau in taus.values()):
        ax.plot(
            [], [], color=BLACK, linestyle="--", label=r"log-normal fit by quartiles: its median, $\sigma$ of log tau"
        )
    for name, at in marks.items():
        ax.axvline(scale.place(np.array(at)), color=BLACK, linestyle=":", label=name)
    _draw_quartiles(ax, scale, quartiles)
    scale.apply(ax, "x")
    ax.set(xlabel="time constant (ms)", ylabel="synapses", title=title)
    ax.set_ylim(bottom=0)
    _legend_below(ax)
    return ax


def tau_change(before: Mapping[str, Array], after: Mapping[str, Array]) -> Any:
    """`tau_histogram` before and after training, a panel for each name of `analysis.taus`."""
    _check_alike("after", after, before)
    return _panels(before, lambda name, ax: tau_histogram({"before": before[name], "after": after[name]}, ax, name))


def tau_scatter(synapses: Synapses, ax: Any = None, title: str = "") -> Any:
    """Time constants (log axis) against |w|, a dot a synapse; the rank correlation is in the title.

    r = 0 and r = 1 have places of their own at the ends; dots beyond the axis are drawn at its edge.
    """
    ax = _axes(ax, figsize=(WIDTH, 3.4))
    tau, weight = np.ravel(synapses.tau), np.abs(np.ravel(synapses.weight))
    scale, at_end = TauAxis([tau]), (tau == 0) | (tau == inf)
    for chosen, colour in ((~at_end, BLUE), (at_end, VERMILION)):
        shown = weight[chosen], scale.place(tau[chosen])
        ax.scatter(*shown, s=6, alpha=0.4, color=colour, linewidths=0, rasterized=True)
    rho = spearman(tau, weight)
    correlation = "no synapses"
    if tau.size:
        correlation = "no rank correlation" if isnan(rho) else f"rank correlation {rho:+.2f}"
    scale.apply(ax, "y")
    ax.set(xlabel="|w|", ylabel="time constant (ms)", title=f"{title}: {correlation}" if title else correlation)
    return ax


def tau_weight(synapses: Mapping[str, Synapses]) -> Any:
    """`tau_scatter`, a panel for each name (`analysis.synapses`)."""
    _check_some("synapses", synapses)
    return _panels(synapses, lambda name, ax: tau_scatter(synapses[name], ax, name))


def tau_channels(before: Mapping[str, Array], after: Mapping[str, Array], ax: Any = None, title: str = "") -> Any:
    """Time constants in seconds of groups of lines (`analysis.taus_of_channels`) before and after, on a log axis.

    A box is the quartiles with the median in it, whiskers reach to 5 and 95 %, the diamond is the mean of
    min(tau, 5 s); the share at r = 1 is under the name.
    """
    _check_alike("after", after, before)
    for name, tau in [*before.items(), *after.items()]:
        if not np.size(tau):
            raise ValueError(f"before, after: expected synapses of {name!r}, got none")
    ax = _axes(ax, figsize=(WIDTH, 3.6))
    scale = TauAxis([*before.values(), *after.values()])
    sides = (("before training", before, GREY, -0.2), ("after training", after, ORANGE, 0.2))
    for label, groups, colour, offset in sides:
        ax.bxp(
            [_box(groups[name], scale.low) for name in before],
            positions=np.arange(len(before)) + offset,
            widths=0.3,
            patch_artist=True,
            showfliers=False,
            showmeans=True,
            manage_ticks=False,
            boxprops={"facecolor": colour, "alpha": 0.6},
            medianprops={"color": BLACK, "linewidth": 2},
            meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": BLACK},
        )
        ax.bar([0], [0], color=colour, alpha=0.6, label=label)  # for the legend
    ax.plot([], [], "D", markerfacecolor="white", markeredgecolor=BLACK, label=f"mean of min(tau, {CLIP:g} s)")
    shares = {name: [f"{summarise(groups[name]).at_one:.1%}" for groups in (before, after)] for name in before}
    ax.set_xticks(range(len(before)), [f"{name}\nr = 1: {a} → {b}" for name, (a, b) in shares.items()])
    ax.set(yscale="log", xlim=(-0.6, len(before) - 0.4), ylabel="time constant (ms)", title=title)
    _set_ticks(ax, "y", _log_ticks(*ax.get_ylim()))
    _legend_below(ax, columns=3)
    return ax


def tau_variance(parts: Mapping[str, VarianceComponents], ax: Any = None, title: str = "") -> Any:
    """Variance of log tau within neurons, and on top of it between them (`analysis.variance_components`), a bar a name.

    The share between neurons is above the bar: 0 % where heterogeneity is the synapses', 100 % where the neurons'.
    """
    _check_some("parts", parts)
    ax = _axes(ax, figsize=(WIDTH, 3.2))
    within, between = np.nan_to_num([(part.within, part.between) for part in parts.values()]).T
    at = np.arange(len(parts))
    ax.bar(at, within, 0.6, color=BLUE, label="within a neuron")
    ax.bar(at, between, 0.6, bottom=within, color=ORANGE, label="between neurons")
    for x, height, part in zip(at, within + between, parts.values(), strict=True):
        label = "no spread" if isnan(part.share) else f"{part.share:.0%} between"
        ax.annotate(label, (x, height), (0, 3), textcoords="offset points", ha="center", fontsize=SMALL)
    _name_bars(ax, list(parts))
    ax.set(ylabel="variance of log tau", title=title, ylim=(0, 1.15 * max((within + between).max(), 1e-9)))
    _legend_below(ax, columns=2)
    return ax


# ---- results -----------------------------------------------------------------------------------------------------


def learning_curves(
    logs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    key: str,
    ax: Any = None,
    *,
    ylabel: str,
    log: bool = False,
    title: str = "",
) -> Any:
    """An entry of the log over the iterations, mean and s.d. (n - 1) over the seeds, all names in the same axes.

    logs   name -> for each seed its records (`training_log.read_log`)
    key    "loss", "score", "validation" or "validation_loss"; drawn where every seed of a name logged it, those of a
           training batch at the updates that were made before it: the first one at 0
    log    a log axis for the values, which must be > 0; mean and s.d. are then those of the logarithms
    """
    _check_some("logs", logs)
    ax = _axes(ax, figsize=(WIDTH, 3.8))
    for (name, seeds), colour, style in zip(logs.items(), cycle(COLOURS), cycle(STYLES), strict=False):
        _draw_curve(ax, name, seeds, key, {"color": colour, "linestyle": style}, log)
    return _finished_curves(ax, ylabel, title, log)


def loss_curves(
    logs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], ax: Any = None, *, title: str = "", log: bool = False
) -> Any:
    """The loss in training and on the validation set (dashed) over the iterations, drawn as `learning_curves` does."""
    _check_some("logs", logs)
    ax = _axes(ax, figsize=(WIDTH, 3.8))
    validated = False
    for (name, seeds), colour in zip(logs.items(), cycle(COLOURS), strict=False):
        _draw_curve(ax, name, seeds, "loss", {"color": colour, "linewidth": 1}, log)
        if any(record.get("validation_loss") is not None for records in seeds for record in records):
            _draw_curve(ax, "", seeds, "validation_loss", {"color": colour, "linestyle": "--"}, log)
            validated = True
    if validated:
        ax.plot([], [], color=BLACK, linestyle="--", label="on the validation set")
    return _finished_curves(ax, "loss", title, log)


def pattern(
    target: Array,
    outputs: Mapping[str, Array],
    silences: Sequence[slice],
    dt: float,
    ax: Any = None,
    title: str = "",
) -> Any:
    """A target (T,) and what networks put out for it, name -> (T,), over time; silent inputs (slices of steps) shaded.

    dt   seconds
    """
    ax = _axes(ax, figsize=(WIDTH, 3.6))
    time = np.arange(len(target)) * dt * 1e3
    for index, silence in enumerate(silences):
        label = None if index else "silence"
        ax.axvspan(silence.start * dt * 1e3, silence.stop * dt * 1e3, color="#E8E8E8", linewidth=0, label=label)
    ax.plot(time, target, color=BLACK, linewidth=2, label="target")
    for (name, output), colour in zip(outputs.items(), cycle(COLOURS), strict=False):
        if np.shape(output) != np.shape(target):
            raise ValueError(
                f"outputs[{name!r}]: expected the target's shape, {np.shape(target)}, got {np.shape(output)}"
            )
        ax.plot(time, output, color=colour, linewidth=1, label=name)
    ax.set(xlabel="time (ms)", ylabel="readout v", xlim=(0, len(target) * dt * 1e3), title=title)
    _legend_below(ax, columns=4)
    return ax


def against_condition(
    condition: Sequence[float],
    curves: Mapping[str, Sequence[ArrayLike]],
    ax: Any = None,
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    title: str = "",
    lines: Mapping[str, float] | None = None,
) -> Any:
    """Results against a condition (noise, delay, size): mean and s.d. (n - 1) over seeds, all names in the same axes.

    curves   name -> for each value of the condition the results by seed
    log      a log axis for the condition, which must be > 0
    lines    what is drawn across: {"chance": 0.1}

    Names stand side by side, a hundredth of the axis apart, so that no error bar hides another.
    """
    _check_some("curves", curves)
    ax = _axes(ax, figsize=(WIDTH, 3.8))
    x = np.asarray(condition, np.float64)
    if log and not (x > 0).all():
        raise ValueError(f"condition: expected values > 0 for a log axis, got {list(condition)}")
    place = np.log(x) if log else x
    step = 0.01 * (np.ptp(place) or 1.0)
    for index, (name, results) in enumerate(curves.items()):
        if len(results) != len(x):
            raise ValueError(f"curves[{name!r}]: expected results for {len(x)} conditions, got {len(results)}")
        mean, sd = np.array([_mean_sd(_by_seed(name, values)) for values in results]).T
        at = place + step * (index - (len(curves) - 1) / 2)
        look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        ax.errorbar(np.exp(at) if log else at, mean, sd, capsize=3, markersize=5, linewidth=1.3, label=name, **look)
    _draw_lines(ax, lines or {}, ylabel)
    ax.set(xscale="log" if log else "linear", xlabel=xlabel, ylabel=ylabel, title=title)
    _set_ticks(ax, "x", x.tolist())
    _shares(ax, ylabel)
    _legend_below(ax, columns=3)
    return ax


def variants(
    values: Mapping[str, ArrayLike],
    ax: Any = None,
    *,
    ylabel: str = "accuracy",
    title: str = "",
    lines: Mapping[str, float] | None = None,
) -> Any:
    """A bar a name: the mean over seeds, which is written above it, with the s.d. (n - 1), and a dot for every seed.

    lines   what is drawn across: {"chance": 0.1}
    """
    return _bars({"": values}, ax, ylabel, title, lines or {})


def controls(
    values: Mapping[str, ArrayLike],
    ax: Any = None,
    *,
    ylabel: str = "accuracy",
    title: str = "",
    lines: Mapping[str, float] | None = None,
) -> Any:
    """Results by seed on inputs "as they are" and under `analysis.CONTROLS`, drawn as `variants` does."""
    ax = _bars({"": values}, ax, ylabel, title, lines or {})
    ax.set_xlabel("inputs")
    return ax


def reset_effect(
    unmodified: Mapping[str, ArrayLike],
    reset: Mapping[str, ArrayLike],
    ax: Any = None,
    *,
    ylabel: str = "accuracy",
    title: str = "",
    lines: Mapping[str, float] | None = None,
) -> Any:
    """Results by seed of networks as trained and after `analysis.reset_long_taus`, side by side for every name."""
    _check_alike("reset", reset, unmodified)
    return _bars({"as trained": unmodified, "long time constants reset": reset}, ax, ylabel, title, lines or {})


def scaling(rows: list[Any]) -> Any:
    """Time of a step over T, B, N and M, one panel each, and peak memory where it was measured (`bench.Row`s)."""
    figure = _figure(figsize=(11, 5.5))
    axes = figure.subplots(2, 4, sharey="row")
    colours = {"ours": BLUE, "plain autograd": ORANGE, "snnTorch": GREEN}
    for column, axis in zip(axes.T, "TBNM", strict=True):
        for peer, colour in colours.items():
            measured = [r for r in rows if r.peer == peer and r.shape.startswith(f"{axis}=")]
            sizes = [int(r.shape.split("=")[1]) for r in measured]
            column[0].plot(sizes, [r.median for r in measured], marker="o", color=colour, label=peer)
            if measured and measured[0].memory is not None:
                column[1].plot(sizes, [r.memory for r in measured], marker="o", color=colour, label=peer)
        for ax in column:
            ax.set(xscale="log", yscale="log")
            ax.set_xticks(sizes, [str(size) for size in sizes])
            ax.set_xticks([], minor=True)
        column[0].set_title(f"over {axis}")
        column[1].set_xlabel(axis)
    axes[0, 0].set_ylabel("time of a step (ms)")
    axes[1, 0].set_ylabel("peak memory (MB)")
    axes[0, 0].legend(fontsize=SMALL, frameon=False)
    return axes[0, 0]


# ---- helpers -----------------------------------------------------------------------------------------------------


def _check_some(argument: str, named: Mapping[str, Any]) -> None:
    if not named:
        raise ValueError(f"{argument}: expected something to draw, got nothing")


def _check_alike(argument: str, named: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    _check_some(argument, named)
    if set(named) != set(other):
        raise ValueError(f"{argument}: expected the names {', '.join(other)}, got {', '.join(named)}")


def _by_seed(name: str, values: ArrayLike) -> Array:
    """Results (S,) of at least one seed."""
    results = np.ravel(np.asarray(values, np.float64))
    if not results.size:
        raise ValueError(f"values[{name!r}]: expected the results of at least one seed, got none")
    return results


def _panels(names: Mapping[str, Any], draw: Callable[[str, Any], Any]) -> Any:
    """A figure with a panel for each name, one below the other; returns the first axes."""
    axes = _figure(figsize=(WIDTH, 2.9 * len(names))).subplots(len(names), 1, squeeze=False)[:, 0]
    for name, ax in zip(names, axes, strict=True):
        draw(name, ax)
    return axes[0]


APART = 0.12  # from r = 0 to r = 1: what a label of five figures takes, and some more
FAR = 100.0  # times the 99.5th percentile: what is beyond is drawn at the edge


class TauAxis:
    """A log axis in ms over nearly all taus strictly between r = 0 and r = 1, with a place for r = 0 and r = 1.

    low, high   ms: the edges; span is the log of their ratio
    zero, one   where r = 0 and r = 1 are drawn
    """

    def __init__(self, taus: Sequence[Array]) -> None:
        inside = between_ends(np.concatenate([np.ravel(tau) for tau in taus] or [np.empty(0)])) * 1e3
        low, high = np.percentile(inside, [0.1, 99.5]) if inside.size else (1.0, 1e3)
        if inside.size:  # all of them, unless the last few would stretch the axis by decades
            low, high = max(inside.min(), low / FAR), min(inside.max(), high * FAR)
        self.low, self.high = float(low) * 0.9, float(high) * 1.1
        self.span = np.log(self.high / self.low)
        self.zero, self.one = self.low * np.exp(-0.12 * self.span), self.high * np.exp(0.12 * self.span)

    def place(self, tau: Array) -> Array:
        """Seconds -> ms on the axis, the edge for what lies beyond it."""
        inside = np.clip(tau * 1e3, self.low, self.high)
        return np.where(tau == 0, self.zero, np.where(tau == inf, self.one, inside))

    def apply(self, ax: Any, axis: str) -> None:
        """Make the x or the y axis this one."""
        margin = np.exp(0.06 * self.span)
        ax.set(**{f"{axis}scale": "log", f"{axis}lim": (self.zero / margin, self.one * margin)})
        ticks = self.spaced(_log_ticks(self.low, self.high))
        _set_ticks(ax, axis, [self.zero, *ticks, self.one], ["r = 0", *map(_number, ticks), "r = 1"])

    def spaced(self, ticks: Sequence[float]) -> list[float]:
        """Those of rising ticks whose labels touch neither each other nor those of the ends."""
        whole, kept = np.log(self.one / self.zero), [self.zero]
        for tick in ticks:
            if min(np.log(tick / kept[-1]), np.log(self.one / tick)) >= APART * whole:
                kept.append(tick)
        return kept[1:]


LONG_NAME = 15  # letters: with a longer one what a legend says of a histogram takes two lines


def _histogram_label(name: str, summary: TauSummary) -> str:
    """A histogram's entry in the legend."""
    if not summary.n:
        return f"{name} (no synapses)"
    fit = (
        "none between" if isnan(summary.mu) else rf"fit {np.exp(summary.mu) * 1e3:.3g} ms, $\sigma$ {summary.sigma:.2f}"
    )
    apart = "\n" if len(name) > LONG_NAME else " "
    return f"{name}{apart}({summary.at_zero:.1%} at r = 0, {summary.at_one:.1%} at r = 1; {fit})"


def _draw_quartiles(ax: Any, scale: TauAxis, quartiles: Mapping[str, tuple[float, float, float]]) -> None:
    """A bar from the first quartile to the third, with a dot at the median, for each name, from the top downwards."""
    for index, (name, span) in enumerate(quartiles.items()):
        dot = {"marker": MARKERS[index % len(MARKERS)], "markevery": [1], "markersize": 4}
        x, height, label = scale.place(np.array(span)), 0.95 - 0.07 * index, f"{name}: median, quartiles"
        ax.plot(x, [height] * 3, color=BLACK, label=label, transform=ax.get_xaxis_transform(), **dot)


def _log_normal(bins: Array, mu: float, sigma: float) -> Array:
    """The share of a log-normal in a bin centred at each of 400 places from first to last edge, equal on a log axis."""
    x, half = np.linspace(np.log(bins[0]), np.log(bins[-1]), 400), np.log(bins[1] / bins[0]) / 2
    below, above = ([erf((at - mu) / (sigma * sqrt(2))) for at in x + side] for side in (-half, half))
    return (np.array(above) - np.array(below)) / 2


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a log axis: powers of ten where four fit in, else 1-2-5 or 1-3, else evenly spaced ones."""
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), (1, 3)):
        ticks = np.outer(powers, steps).ravel()
        inside = ticks[(ticks >= low) & (ticks <= high)]
        if len(inside) >= 4 and (len(steps) == 1 or len(inside) <= 7):
            return [float(tick) for tick in inside]
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]


def _number(value: float) -> str:
    """A tick's label, at most five figures wide."""
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    times = "" if mantissa == "1" else rf"{mantissa}\cdot"
    return rf"${times}10^{{{int(exponent)}}}$"


def _set_ticks(ax: Any, axis: str, at: Sequence[float], labels: Sequence[str] = ()) -> None:
    """These ticks and no minor ones."""
    setter = ax.set_xticks if axis == "x" else ax.set_yticks
    setter(at, labels or [f"{tick:g}" for tick in at])
    setter([], minor=True)


def _box(tau: Array, floor: float) -> dict[str, Any]:
    """Statistics of a box in ms, for `Axes.bxp`; r = 0 is drawn at the floor."""
    summary = summarise(tau)
    whiskers = np.percentile(np.minimum(tau, CLIP), [5, 95])
    names = ("med", "q1", "q3", "mean", "whislo", "whishi")
    values = (summary.median, *summary.quartiles, summary.clipped_mean, *whiskers)
    return {name: float(np.clip(value * 1e3, floor, CLIP * 1e3)) for name, value in zip(names, values, strict=True)}


def _band(values: Array, log: bool) -> tuple[Array, Array, Array]:
    """Mean - s.d., mean and mean + s.d. over the first axis; for a log axis those of the logarithms, taken back."""
    if log and not (values > 0).all():
        raise ValueError(f"log: expected values > 0 for a log axis, got {values.min()}")
    mean, sd = _mean_sd(np.log(values) if log else values)
    low, mean, high = (np.exp(part) if log else part for part in (mean - sd, mean, mean + sd))
    return low, mean, high


def _mean_sd(values: Array) -> tuple[Array, Array]:
    """Mean and s.d. (n - 1) over the first axis; an s.d. of 0 for one value."""
    with np.errstate(invalid="ignore"):  # of what is infinite
        return values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _bars(
    series: Mapping[str, Mapping[str, ArrayLike]], ax: Any, ylabel: str, title: str, lines: Mapping[str, float]
) -> Any:
    """Series beside each other for every name, lines across; a legend where there is something to tell apart."""
    _check_some("values", next(iter(series.values())))
    names, width = list(next(iter(series.values()))), 0.7 / len(series)
    ax = _axes(ax, figsize=(max(WIDTH, 0.85 * len(names)), 3.6))  # for names of ten letters side by side
    top = 0.0
    for index, ((label, groups), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        at = np.arange(len(names)) + width * (index - (len(series) - 1) / 2)
        for x, name in zip(at, names, strict=True):
            values = _by_seed(name, groups[name])
            mean, sd = (float(part) for part in _mean_sd(values))
            first = label if x == at[0] else None
            ax.bar(x, mean, width * 0.9, color=colour, alpha=0.6, label=first, yerr=sd or None, capsize=3)
            ax.scatter(x + width * np.linspace(-0.25, 0.25, len(values)), values, s=10, color=BLACK, zorder=3)
            high = max(values.max(), mean + sd)
            written = f"{mean:.1%}" if _is_share(ylabel) else f"{mean:.3g}"
            ax.annotate(written, (x, high), (0, 4), textcoords="offset points", ha="center", fontsize=SMALL)
            top = max(top, high)
    _draw_lines(ax, lines, ylabel)
    _name_bars(ax, names)
    ax.set(ylabel=ylabel, title=title, ylim=(0, max(top, *lines.values(), 0) * 1.12))
    _per_cent(ax, ylabel)
    if len(series) > 1 or lines:
        _legend_below(ax, columns=2)
    return ax


def _draw_lines(ax: Any, lines: Mapping[str, float], ylabel: str) -> None:
    """Figures that results are to be seen against, across all of the axes."""
    for (name, height), style in zip(lines.items(), cycle((":", "--", "-.")), strict=False):
        figure = f"{100 * height:.3g}%" if _is_share(ylabel) else f"{height:.3g}"
        ax.axhline(height, color=BLACK, linestyle=style, linewidth=1, label=f"{name}: {figure}", zorder=0)


def _draw_curve(
    ax: Any, name: str, seeds: Sequence[Sequence[Mapping[str, Any]]], key: str, look: Mapping[str, Any], log: bool
) -> None:
    """Mean and s.d. over the seeds of an entry of their logs."""
    before = 1 if key in ("loss", "score") else 0  # of a batch before its update
    curves = [{r["iteration"] - before: r[key] for r in records if r.get(key) is not None} for records in seeds]
    at = sorted(set.intersection(*map(set, curves))) if curves else []
    if not at:
        ax.plot([], [], **look, label=f"{name} (nothing logged)" if name else None)
        return
    low, mean, high = _band(np.array([[values[i] for i in at] for values in curves]), log)
    dot = "o" if len(at) == 1 else ""  # a line of one point is not seen
    ax.plot(at, mean, **look, marker=dot, label=f"{name} (n = {len(curves)})" if name else None)
    ax.fill_between(at, low, high, color=look["color"], alpha=0.2, linewidth=0)


def _finished_curves(ax: Any, ylabel: str, title: str, log: bool) -> Any:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))  # also of a run of three iterations
    ax.set(xlabel="iteration", ylabel=ylabel, title=title, yscale="log" if log else "linear")
    _shares(ax, ylabel)
    _legend_below(ax, columns=2)
    return ax


def _name_bars(ax: Any, names: Sequence[str]) -> None:
    """Names under bars at 0, 1, ..., broken to fit."""
    wide = max(8, 56 // max(len(names), 1))
    ax.set_xticks(range(len(names)), [fill(name, wide) for name in names], fontsize=SMALL)
    ax.set_xlim(-0.6, len(names) - 0.4)


def _is_share(ylabel: str) -> bool:
    return ylabel.startswith("accuracy")


def _per_cent(ax: Any, ylabel: str) -> None:
    if _is_share(ylabel):
        from matplotlib.ticker import PercentFormatter

        ax.yaxis.set_major_formatter(PercentFormatter(1))


def _shares(ax: Any, ylabel: str) -> None:
    """Per cent, and no room above 100 % or far below 0 for an s.d. that reaches there."""
    _per_cent(ax, ylabel)
    if _is_share(ylabel):
        low, high = ax.get_ylim()
        ax.set_ylim(min(max(low, -1), 0.99), min(max(high, 0), 1.03))


def _legend_below(ax: Any, columns: int = 1) -> None:
    """The legend under the axis label, where nothing is drawn; in points, so that no height of the axes moves it."""
    from matplotlib.transforms import ScaledTranslation

    labels = ax.get_legend_handles_labels()[1]
    longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    fit = int(72 * ax.figure.get_figwidth() / (LETTER * longest + HANDLE))
    columns = max(1, min(columns, fit))
    under = ax.transAxes + ScaledTranslation(0, -38 / 72, ax.figure.dpi_scale_trans)
    place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": under, "borderaxespad": 0}
    ax.legend(fontsize=SMALL, frameon=False, ncols=columns, handlelength=1.5, handletextpad=0.5, borderpad=0, **place)
