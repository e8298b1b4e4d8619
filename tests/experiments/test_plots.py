"""What is drawn are the numbers given, in the axes given, and it can be read: nothing small, cut off or overlapping."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from math import exp, inf, log, nan, pi, sqrt
from typing import Any, NamedTuple

import numpy as np
import pytest
from planting import caught, changed

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.experiments import plots
from hetsyn_plugins.experiments.analysis import Synapses, VarianceComponents, between_ends

pytest.importorskip("matplotlib")

from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.text import Text

VARIANTS = ("HetSynLIF", "HetNeuLIF", "one learned tau", "HomNeuLIF", "HomNeuALIF")
LAYERS = ("hidden1 input", "hidden1 recurrent", "readout input")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def tau(mean: float, sigma: float, *shape: int) -> Array:
    """Log-normal taus with some at either end."""
    values = np.exp(rng().normal(log(mean), sigma, shape))
    values.flat[:3] = 0
    values.flat[-5:] = inf
    return values


def records(seed: int, key: str, at: list[int]) -> list[dict[str, Any]]:
    """A log of a seed in which `key` falls and the rest is not measured."""
    return [{"iteration": i, key: (1 + 0.1 * seed) / i, "other": None} for i in at]


BEFORE, AFTER = ({name: tau(mean, s, 20, 10) for name in LAYERS} for mean, s in ((0.04, 0.1), (0.05, 0.8)))
GROUPS = {"cue": tau(0.05, 0.8, 20, 6), "noise": tau(0.03, 0.5, 20, 4)}
SYNAPSES = {name: Synapses(t, rng().normal(0, 1, t.shape)) for name, t in AFTER.items()}
LOGS = {v: [records(s, "loss", list(range(10, 210, 10))) for s in range(3)] for v in VARIANTS}
BY_SEED = {v: 0.97 - 0.1 * i + 0.03 * rng().random(5) for i, v in enumerate(VARIANTS)}
STARTS = {f"start {ms} ms": 0.7 + 0.1 * rng().random(5) for ms in (100, 200, 400)}
CURVE = np.sin(np.arange(2000) / 300)

ONE = LAYERS[0]
COMPONENTS = {name: VarianceComponents(0.2 + i, 0.1) for i, name in enumerate(LAYERS)}
SIZES = {v: [x - 0.01 * k for k in range(4)] for v, x in BY_SEED.items()}
CONTROLS = {name: STARTS["start 100 ms"] for name in ("as they are", "counts only", "time shuffled")}
AXES: dict[str, Any] = {"xlabel": "x", "ylabel": "y"}

PICTURES: Mapping[str, Callable[[Any], Any]] = {
    "tau_histogram": lambda ax: plots.tau_histogram({"before training": BEFORE[ONE], "after": AFTER[ONE]}, ax, ONE),
    "tau_scatter": lambda ax: plots.tau_scatter(SYNAPSES[ONE], ax, ONE),
    "tau_channels": lambda ax: plots.tau_channels({k: t[:, :3] for k, t in GROUPS.items()}, GROUPS, ax, "channels"),
    "tau_variance": lambda ax: plots.tau_variance(COMPONENTS, ax, "spread"),
    "learning_curves": lambda ax: plots.learning_curves(LOGS, "loss", ax, ylabel="MSE", log=True, title="learning"),
    "pattern": lambda ax: plots.pattern(CURVE, {"a": CURVE / 2, "b": 0 * CURVE}, [slice(500, 750)], 1e-3, ax, "p"),
    "against_condition": lambda ax: plots.against_condition(
        (5, 20, 50, 100), SIZES, ax, xlabel="hidden neurons", ylabel="accuracy", log=True, title="size"
    ),
    "variants": lambda ax: plots.variants(BY_SEED | {"HetSynLIF, 80 % of its taus frozen": [0.9]}, ax, title="a"),
    "controls": lambda ax: plots.controls(CONTROLS, ax, lines={"chance": 0.1}),
    "reset_effect": lambda ax: plots.reset_effect({n: x + 0.2 for n, x in STARTS.items()}, STARTS, ax, title="reset"),
}
FIGURES: Mapping[str, Callable[[], Any]] = {
    **{name: lambda draw=draw: draw(None) for name, draw in PICTURES.items()},  # type: ignore[misc]
    "tau_change": lambda: plots.tau_change(BEFORE, AFTER),
    "tau_weight": lambda: plots.tau_weight(SYNAPSES),
}


# ---- every picture -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PICTURES))
def test_a_picture_is_drawn_into_the_axes_given(name: str) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert PICTURES[name](right) is right and len(figure.axes) == 2
    assert right.has_data() and not left.has_data()


@pytest.mark.parametrize("name", list(FIGURES))
def test_a_picture_can_be_read(name: str) -> None:
    figure = FIGURES[name]().figure
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    assert all(ax.get_ylabel() for ax in figure.axes)
    undrawn = beyond(figure)
    boxes = {t: t.get_window_extent() for t in texts if t not in undrawn}
    assert len(boxes) > 5
    for text, box in boxes.items():
        assert text.get_fontsize() >= 8, text
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    listed = list(boxes.items())
    for i, (text, box) in enumerate(listed):
        for other, second in listed[i + 1 :]:
            shared = min(box.x1, second.x1) - max(box.x0, second.x0), min(box.y1, second.y1) - max(box.y0, second.y0)
            assert min(shared) <= 1, (text, other)  # in pixels of 1/100 inch


def beyond(figure: Any) -> set[Any]:
    """Labels of ticks that lie outside their axis: they are not drawn."""
    labels = set()
    for ax in figure.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = sorted(limits)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    labels |= {tick.label1, tick.label2}
    return labels


# ---- time constants ----------------------------------------------------------------------------------------------


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_histograms_hold_every_synapse_and_the_ends_stand_apart() -> None:
    ax = plots.tau_histogram(BEFORE | {"shared": np.full((4, 5), 0.04)})
    counts = [sum(patch.get_height() for patch in bars) for bars in ax.containers]
    assert counts == [192, 192, 192, 20]  # of 200, three at r = 0 and five at r = 1
    stems = [line for line in ax.lines if line.get_linestyle() == "-"]
    assert [line.get_ydata()[1] for line in stems] == [3, 5] * 3
    ticks = dict(zip((t.get_text() for t in ax.get_xticklabels()), ax.get_xticks(), strict=True))
    edges = ax.patches[0].get_x(), max(patch.get_x() + patch.get_width() for patch in ax.patches)
    for line, end in zip(stems, ("r = 0", "r = 1") * 3, strict=True):
        assert line.get_xdata()[0] == pytest.approx(ticks[end], rel=0.2)
    assert max(line.get_xdata()[0] for line in stems[::2]) < edges[0]
    assert min(line.get_xdata()[0] for line in stems[1::2]) > edges[1]
    logs = np.log(between_ends(BEFORE[ONE]) * 1e3)
    fit = rf"fit {exp(np.median(logs)):.3g} ms, $\sigma$ {(np.diff(np.quantile(logs, (0.25, 0.75))) / 1.349)[0]:.2f}"
    assert legend(ax)[0] == f"{ONE} (1.5% at r = 0, 2.5% at r = 1; {fit})"
    assert legend(ax)[3] == r"shared (0.0% at r = 0, 0.0% at r = 1; fit 40 ms, $\sigma$ 0.00)"


def test_published_quartiles_stand_where_the_axis_has_them() -> None:
    spans = {"fast": (1e-3, 1.5e-3, 2.4e-3), "slow": (0.4, 0.5, 2.0)}
    ax = plots.tau_histogram({"learned": np.array([0.02, 0.03, 0.05])}, quartiles=spans)
    bars = {line.get_label(): line for line in ax.lines if line.get_marker() in ("o", "s")}
    for name, span in spans.items():
        bar = bars[f"{name}: median, quartiles"]
        assert bar.get_xdata() == pytest.approx(1e3 * np.array(span))  # not cut off at the learned taus' ends
        assert bar.get_markevery() == [1]
    assert len({bar.get_ydata()[0] for bar in bars.values()}) == 2, "one beside the other"
    left, right = ax.get_xlim()
    assert left < 1 and right > 2000


def test_the_fit_is_drawn_as_the_count_that_a_log_normal_puts_in_a_bin() -> None:
    values = np.exp(rng().normal(log(0.04), 0.5, 5000))
    first, mu, third = np.quantile(np.log(values * 1e3), (0.25, 0.5, 0.75))
    sigma = (third - first) / 1.3489795
    ax = plots.tau_histogram({"all": np.concatenate([values, np.zeros(500), np.full(2000, inf)])})
    (fit,) = (line for line in ax.lines if line.get_linestyle() == "--" and len(line.get_xdata()))
    width = log((ax.patches[0].get_x() + ax.patches[0].get_width()) / ax.patches[0].get_x())
    x = np.log(fit.get_xdata())
    density = np.exp(-((x - mu) ** 2) / (2 * sigma**2)) / (sigma * sqrt(2 * pi))
    # the mean of a density over a bin differs from its middle by width^2 / 24 times its curvature, at most 1 / sigma^2
    bound = 5000 * width * width**2 / 24 / sigma**2 / (sigma * sqrt(2 * pi))
    assert abs(fit.get_ydata() - 5000 * width * density).max() < 1.1 * bound
    heights = np.array([patch.get_height() for patch in ax.patches])
    middles = np.array([sqrt(p.get_x() * (p.get_x() + p.get_width())) for p in ax.patches])
    expected = np.interp(np.log(middles), x, fit.get_ydata())
    # counts are Poisson to the eye: within five s.d., but for the outermost bins, which also hold the rest
    assert (abs(heights - expected)[1:-1] < 5 * np.sqrt(expected[1:-1]) + 1).all()


@pytest.mark.parametrize("low", [0.03, 20.6, 2000.0])
@pytest.mark.parametrize("ratio", [1.01, 4.0, 100.0, 3e3, 1e5, 1e7])
def test_labels_of_a_tau_axis_never_touch(low: float, ratio: float) -> None:
    """Nor r = 0 and r = 1, in the figure as it is drawn for a page."""
    ax = Figure(figsize=(6, 3.6)).add_subplot()
    plots.TauAxis([np.geomspace(low, low * ratio, 50) / 1e3]).apply(ax, "x")
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.get_xticklabels() if text.get_text()]
    boxes.sort(key=lambda box: box.x0)
    assert len(boxes) >= 3 and all(left.x1 + 2 <= right.x0 for left, right in pairwise(boxes))


def test_histograms_beyond_the_colours_are_drawn_too() -> None:
    many = {f"layer {i}": np.full(3, 0.01 * (i + 1)) for i in range(9)}
    assert len(plots.tau_histogram(many).containers) == 9


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.full((3, 4), inf), "x (0.0% at r = 0, 100.0% at r = 1; none between)"),
        (np.zeros((3, 4)), "x (100.0% at r = 0, 0.0% at r = 1; none between)"),
        (np.empty((1, 0)), "x (no synapses)"),
        (np.array([[0.02]]), r"x (0.0% at r = 0, 0.0% at r = 1; fit 20 ms, $\sigma$ 0.00)"),
    ],
)
def test_time_constants_that_have_no_histogram_say_so(values: Array, says: str) -> None:
    ax = plots.tau_histogram({"x": values})
    assert legend(ax) == [says]
    ax.figure.draw_without_rendering()
    scatter = plots.tau_scatter(Synapses(values, np.ones(values.shape)))
    assert scatter.get_title() == ("no rank correlation" if values.size else "no synapses")
    scatter.figure.draw_without_rendering()


def test_tau_change_is_a_panel_a_name_before_and_after() -> None:
    first = plots.tau_change(BEFORE, AFTER)
    axes = first.figure.axes
    assert axes[0] is first and [ax.get_title() for ax in axes] == list(LAYERS)
    assert [text.split()[0] for text in legend(first)] == ["before", "after", "log-normal"]
    for ax, name in zip(axes, LAYERS, strict=True):
        alone = plots.tau_histogram({"before": BEFORE[name], "after": AFTER[name]})
        assert legend(ax) == legend(alone) and legend(ax)[0] != legend(ax)[1]
        assert [bar.get_height() for bar in ax.patches] == [bar.get_height() for bar in alone.patches]


def test_a_synapse_is_a_dot_at_its_weight_and_time_constant() -> None:
    values = np.array([[0.01, 0.0], [inf, 0.1]])
    ax = plots.tau_scatter(Synapses(values, np.array([[-1.0, 2], [-3, 4]])), title="a")
    ticks = dict(zip((t.get_text() for t in ax.get_yticklabels()), ax.get_yticks(), strict=True))
    between, ends = (dots.get_offsets().tolist() for dots in ax.collections)
    assert between == [[1, pytest.approx(10)], [4, pytest.approx(100)]]
    assert ends == [[2, ticks["r = 0"]], [3, ticks["r = 1"]]]
    assert ax.get_title() == "a: rank correlation +0.60"  # 1 - 6 * 4 / (4 * 15)
    assert len(plots.tau_weight(SYNAPSES).figure.axes) == len(SYNAPSES)


def test_channels_draw_median_quartiles_and_clipped_mean() -> None:
    before = {"cue": np.array([[0.01, 0.02, 0.04]]), "noise": np.full((2, 2), 0.03)}
    after = {"cue": np.array([[0.02, 0.08, inf]]), "noise": np.full((2, 2), 0.03)}
    ax = plots.tau_channels(before, after)
    medians = [float(line.get_ydata()[0]) for line in ax.lines if line.get_linewidth() == 2]
    assert medians == pytest.approx([20, 30, 80, 30])
    diamonds = [float(line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "D" and len(line.get_ydata())]
    assert diamonds == pytest.approx([70 / 3, 30, 5100 / 3, 30])
    boxes = [patch.get_path().vertices[:-1, 1] for patch in ax.patches if isinstance(patch, PathPatch)]
    edges = [(float(box.min()), float(box.max())) for box in boxes]
    assert [edge for pair in edges for edge in pair] == pytest.approx([10, 40, 30, 30, 20, 5000, 30, 30])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cue\nr = 1: 0.0% → 33.3%", "noise\nr = 1: 0.0% → 0.0%"]


def test_spread_stacks_the_variances_and_names_the_share() -> None:
    ax = plots.tau_variance({"a": VarianceComponents(0.3, 0.1), "b": VarianceComponents(nan, nan)})
    within, between = ax.containers
    assert [bar.get_height() for bar in [*within, *between]] == pytest.approx([0.3, 0, 0.1, 0])
    assert [bar.get_y() for bar in between] == [0.3, 0]
    assert [text.get_text() for text in ax.texts] == ["25% between", "no spread"]


# ---- results -----------------------------------------------------------------------------------------------------


def band(ax: Any, index: int) -> Array:
    """Lower and upper edge of a band, by x: (2, P)."""
    vertices = ax.collections[index].get_paths()[0].vertices
    at = np.unique(vertices[:, 0])
    return np.array([[edge(vertices[vertices[:, 0] == x, 1]) for x in at] for edge in (np.min, np.max)])


def test_learning_curves_are_mean_and_sd_over_the_seeds_where_all_logged() -> None:
    logs = {
        "a": [records(0, "score", [1, 2, 4]), records(1, "score", [1, 2, 3, 4])],
        "b": [records(0, "score", [1, 2])],
    }
    logs["a"][1][1]["score"] = None  # not measured at 2
    logs["c"] = [[], records(0, "score", [1])]
    ax = plots.learning_curves(logs, "score", ylabel="MSE")
    first, second = ax.lines[:2]
    assert first.get_xdata().tolist() == [0, 3] and second.get_xdata().tolist() == [0, 1]  # before their updates
    np.testing.assert_allclose(first.get_ydata(), [1.05, 1.05 / 4])
    sd = 0.1 / 2 * sqrt(2)  # of 1 and 1.1, n - 1
    np.testing.assert_allclose(band(ax, 0), [[1.05 - sd, (1.05 - sd) / 4], [1.05 + sd, (1.05 + sd) / 4]])
    np.testing.assert_allclose(band(ax, 1), [[1, 0.5], [1, 0.5]])
    assert legend(ax) == ["a (n = 2)", "b (n = 1)", "c (nothing logged)"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("iteration", "MSE", "linear")


def test_losses_are_of_training_and_of_validation_from_the_start() -> None:
    logs = [{"iteration": i, "loss": loss, "validation_loss": of} for i, loss, of in
            ((0, None, 5.0), (1, 4.0, None), (10, 2.0, 3.0))]  # fmt: skip
    ax = plots.loss_curves({"a": [logs], "of before": [[{"iteration": 10, "loss": 1.0}]]})
    drawn = [(line.get_xdata().tolist(), line.get_ydata().tolist(), line.get_linestyle()) for line in ax.lines]
    assert drawn[:3] == [([0, 9], [4, 2], "-"), ([0, 10], [5, 3], "--"), ([9], [1], "-")]
    assert legend(ax) == ["a (n = 1)", "of before (n = 1)", "on the validation set"]
    at = plots.learning_curves({"a": [logs]}, "validation_loss", ylabel="loss").lines[0].get_xdata()
    assert at.tolist() == [0, 10]


def test_learning_curves_on_a_log_axis_are_means_of_logarithms() -> None:
    logs = {"a": [[{"iteration": 1, "loss": value}, {"iteration": 2, "loss": 1.0}] for value in (0.01, 1.0)]}
    ax = plots.learning_curves(logs, "loss", ylabel="loss", log=True)
    assert ax.get_yscale() == "log" and ax.lines[0].get_ydata()[0] == pytest.approx(0.1)
    sd = abs(log(0.01)) / 2 * sqrt(2)
    np.testing.assert_allclose(band(ax, 0)[:, 0], [0.1 * exp(-sd), 0.1 * exp(sd)])
    logs["a"][0][0]["loss"] = 0.0
    with pytest.raises(ValueError, match=r"^log: expected values > 0 for a log axis, got 0.0"):
        plots.learning_curves(logs, "loss", ylabel="loss", log=True)


def test_accuracy_is_in_per_cent_and_ends_at_100() -> None:
    logs = {"a": [[{"iteration": i, "score": score} for i in (1, 2)] for score in (1.0, 0.5)]}
    ax = plots.learning_curves(logs, "score", ylabel="accuracy of the training batches")
    assert ax.get_ylim()[1] == 1.03 and ax.yaxis.get_major_formatter()(0.5) == "50%"


def test_pattern_draws_curves_in_ms_and_shades_the_silences() -> None:
    ax = plots.pattern(np.arange(8.0), {"a": np.ones(8)}, [slice(2, 4), slice(6, 7)], 5e-3)
    target, output = ax.lines
    np.testing.assert_allclose(target.get_xdata(), np.arange(8) * 5)
    assert target.get_ydata().tolist() == list(range(8)) and output.get_ydata().tolist() == [1] * 8
    spans = [patch.get_extents().transformed(ax.transData.inverted()) for patch in ax.patches]
    np.testing.assert_allclose([(span.x0, span.x1) for span in spans], [(10, 20), (30, 35)])
    assert legend(ax) == ["silence", "target", "a"]


@pytest.mark.parametrize("scale", [False, True])
def test_results_against_a_condition_are_mean_and_sd(scale: bool) -> None:
    curves = {"a": [[0.8, 1.0], [0.5]], "b": [[0.4, 0.4, 0.4], [0.1, 0.3]]}
    ax = plots.against_condition((10, 1000), curves, xlabel="size", ylabel="MSE", log=scale)
    (a, _, (bars,)), (b, _, _) = ax.containers
    np.testing.assert_allclose(a.get_ydata(), [0.9, 0.5])
    np.testing.assert_allclose(b.get_ydata(), [0.4, 0.2])
    sd = 0.1 * sqrt(2)
    heights = [(segment[0][1], segment[1][1]) for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, [(0.9 - sd, 0.9 + sd), (0.5, 0.5)])
    place = np.log if scale else np.float64
    apart = abs(place(a.get_xdata()) - place(b.get_xdata())) / np.ptp(place([10.0, 1000]))
    np.testing.assert_allclose(apart, 0.01)
    assert abs(place(a.get_xdata()) - place([10.0, 1000])).max() <= 0.0051 * np.ptp(place([10.0, 1000]))
    assert ax.get_xticks().tolist() == [10, 1000] and ax.get_xscale() == ("log" if scale else "linear")


def test_bars_are_means_with_their_sd_and_a_dot_for_every_seed() -> None:
    ax = plots.reset_effect({"x": [1.0, 0.8], "y": [0.5]}, {"x": [0.2, 0.4], "y": [0.1]})
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.9, 0.5, 0.3, 0.1])
    dots = [dots.get_offsets().tolist() for dots in ax.collections if isinstance(dots, PathCollection)]
    assert [[y for _, y in by_seed] for by_seed in dots] == [[1.0, 0.8], [0.5], [0.2, 0.4], [0.1]]
    for bar, by_seed in zip(ax.patches, dots, strict=True):
        assert all(bar.get_x() < x < bar.get_x() + bar.get_width() for x, _ in by_seed)
    assert [text.get_text() for text in ax.texts] == ["90.0%", "50.0%", "30.0%", "10.0%"]
    assert legend(ax) == ["as trained", "long time constants reset"]
    assert same_color(ax.patches[0].get_facecolor()[:3], ax.patches[1].get_facecolor()[:3])
    assert not same_color(ax.patches[0].get_facecolor()[:3], ax.patches[2].get_facecolor()[:3])
    errors = [s for lines in ax.collections if isinstance(lines, LineCollection) for s in lines.get_segments()]
    sd = 0.1 * sqrt(2)
    np.testing.assert_allclose([(s[0][1], s[1][1]) for s in errors], [(0.9 - sd, 0.9 + sd), (0.3 - sd, 0.3 + sd)])


def test_bars_of_one_series_have_no_legend_and_other_units() -> None:
    ax = plots.variants({"a": [0.0525, 0.0527]}, ylabel="MSE")
    assert ax.get_legend() is None and ax.texts[0].get_text() == "0.0526" and ax.get_ylabel() == "MSE"
    assert plots.controls({"as they are": [1.0]}).get_xlabel() == "inputs"


@pytest.mark.parametrize("draw", [plots.variants, plots.controls, lambda v, **lines: plots.reset_effect(v, v, **lines)])
def test_chance_is_drawn_across_the_bars(draw: Any) -> None:
    ax = draw({"a": [0.3], "b": [0.2]}, lines={"chance": 0.5})
    (line,) = [line for line in ax.lines if line.get_label() == "chance: 50%"]
    assert set(line.get_ydata()) == {0.5} and ax.get_ylim()[1] > 0.5 and "chance: 50%" in legend(ax)
    assert "limit: 0.5" in legend(plots.variants({"a": [0.3]}, ylabel="MSE", lines={"limit": 0.5}))


def test_iterations_are_whole() -> None:
    ax = plots.learning_curves(
        {"a": [[{"iteration": i, "accuracy": 0.5} for i in (1, 2, 3)]]}, "accuracy", ylabel="accuracy"
    )
    assert all(tick == round(tick) for tick in ax.get_xticks())


@pytest.fixture
def module() -> Any:
    """The module under test; the planted bugs below run the same check on changed ones."""
    return plots


class Measured(NamedTuple):
    """A line of the benchmark, as far as it is drawn."""

    shape: str
    peer: str
    median: float
    memory: float | None


def test_scaling_draws_times_above_and_memory_below(module: Any) -> None:
    """Every panel has the numbers of its own axis, peer and quantity; memory that was not measured is left out."""
    peers, sizes = ("ours", "plain autograd", "snnTorch"), {"T": (10, 20), "B": (1, 4), "N": (3, 9), "M": (5, 6)}
    rows = [
        Measured(f"{axis}={n}", peer, 100.0 * i + 10 * j + k, None if peer == "snnTorch" else 1000.0 * i + 10 * j + k)
        for i, axis in enumerate(sizes, 1)
        for j, peer in enumerate(peers, 1)
        for k, n in enumerate(sizes[axis], 1)
    ]
    axes = np.reshape(module.scaling(rows).figure.axes, (2, 4))
    for i, (axis, (above, below)) in enumerate(zip(sizes, axes.T, strict=True), 1):
        assert (above.get_title(), below.get_xlabel()) == (f"over {axis}", axis)
        for ax, scale, shown in ((above, 100.0, peers), (below, 1000.0, peers[:2])):
            assert [line.get_label() for line in ax.lines] == list(shown)
            for j, line in enumerate(ax.lines, 1):
                assert tuple(line.get_xdata()) == sizes[axis]
                assert list(line.get_ydata()) == [scale * i + 10 * j + k for k in (1, 2)], "a panel's own numbers"
            assert [text.get_text() for text in ax.get_xticklabels()] == [str(n) for n in sizes[axis]]
    assert (axes[0, 0].get_ylabel(), axes[1, 0].get_ylabel()) == ("time of a step (ms)", "peak memory (MB)")


@pytest.mark.parametrize(
    ("old", "new"),
    [("[r.memory for r in", "[r.median for r in"), ("[r.median for r in", "[r.memory or 0 for r in")],
    ids=["memory shows time", "time shows memory"],
)
def test_planted_bugs_are_caught(old: str, new: str) -> None:
    fresh = changed(plots.__name__, old, new)[plots.__name__]
    with caught("a panel's own numbers"):
        test_scaling_draws_times_above_and_memory_below(fresh)


# ---- nothing to draw ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plots.tau_histogram({}), "taus: expected something to draw, got nothing"),
        (lambda: plots.tau_change({}, {}), "after: expected something to draw"),
        (lambda: plots.tau_change({"a": np.ones(2)}, {"b": np.ones(2)}), "after: expected the names a, got b"),
        (lambda: plots.tau_weight({}), "synapses: expected something to draw"),
        (
            lambda: plots.tau_channels({"cue": np.ones(2)}, {"noise": np.ones(2)}),
            "after: expected the names cue, got noise",
        ),
        (
            lambda: plots.tau_channels({"cue": np.ones(2)}, {"cue": np.ones(0)}),
            "before, after: expected synapses of 'cue'",
        ),
        (lambda: plots.tau_variance({}), "parts: expected something to draw"),
        (lambda: plots.learning_curves({}, "loss", ylabel=""), "logs: expected something to draw"),
        (
            lambda: plots.pattern(np.ones(3), {"a": np.ones(4)}, [], 1),
            "outputs['a']: expected the target's shape, (3,)",
        ),
        (lambda: plots.against_condition([1], {}, **AXES), "curves: expected something to draw"),
        (lambda: plots.against_condition([1], {"a": [1, 2]}, **AXES), "curves['a']: expected results for 1 conditions"),
        (
            lambda: plots.against_condition([0], {"a": [1]}, log=True, **AXES),
            "condition: expected values > 0 for a log",
        ),
        (
            lambda: plots.against_condition([1], {"a": [[]]}, **AXES),
            "values['a']: expected the results of at least one",
        ),
        (lambda: plots.variants({}), "values: expected something to draw"),
        (lambda: plots.variants({"a": []}), "values['a']: expected the results of at least one seed, got none"),
        (lambda: plots.reset_effect({"a": [1]}, {"b": [1]}), "reset: expected the names a, got b"),
    ],
)
def test_nothing_to_draw_is_said(draw: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}"):
        draw()


def test_a_curve_of_one_point_is_seen() -> None:
    ax = plots.learning_curves({"a": [[{"iteration": 5, "loss": 1.0}]]}, "loss", ylabel="loss")
    two = [{"iteration": i, "loss": 1.0} for i in (5, 6)]
    assert ax.lines[0].get_marker() == "o"
    assert plots.learning_curves({"a": [two]}, "loss", ylabel="loss").lines[0].get_marker() in ("", "None")
