"""Every arm, seed and condition of a claim has a value of its own, each seen where it belongs, and only there."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from planting import caught, changed

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.experiments.claims import CLAIMS, evidence, patterns
from hetsyn_plugins.experiments.claims.evidence import Evidence
from hetsyn_plugins.experiments.run_folder import SeedResult
from hetsyn_plugins.experiments.tasks.task import Activity
from hetsyn_plugins.experiments.variants import VARIANTS

pytest.importorskip("matplotlib")

SEEDS = (3, 1, 10)
LOGGED = range(10, 310, 10)
PAPERS = ("hetsyn", "hetneu", "homneu", "alif")
STARTS = (100, 200, 400)
PACKAGE = "hetsyn_plugins.experiments.claims"


def value(arm: str, seed: int, what: str = "") -> float:
    """A number of (0, 1) that no other arm, seed or condition has."""
    return zlib.crc32(f"{arm} {seed} {what}".encode()) / 2**32


def values(arm: str, what: str = "") -> Array:
    return np.array([value(arm, seed, what) for seed in SEEDS])


def result(evidence: Evidence, arm: str, seed: int) -> SeedResult:
    """What came of a seed: its accuracy, and its number of parameters."""
    parameters = round(1e6 * value(arm, seed))
    return SeedResult(seed, "", None, value(arm, seed), 0, 0, "", 0.0, 0.0, 1, "", parameters, {})


def reached(arm: str, seed: int) -> int:
    """The logged iteration from which every training batch of a seed is right."""
    return 10 * (1 + int(20 * value(arm, seed, "reached")))


def log(evidence: Evidence, arm: str, seed: int) -> list[dict[str, Any]]:
    """Wrong before `reached`, right from there on; validation has values that are no score."""
    right = [float(i >= reached(arm, seed)) for i in LOGGED]
    validation = [1 + value(arm, seed, f"validation {i}") for i in LOGGED]
    lines = zip(LOGGED, right, validation, strict=True)
    return [{"iteration": i, "score": score, "validation": measure} for i, score, measure in lines]


def tau(arm: str, seed: int, when: str) -> Array:
    """Time constants (40, 30) in seconds: 20 lines of cues, 10 of noise, and some of 2 s."""
    taus = np.empty((40, 30))
    taus[:, :20], taus[:, 20:] = (0.05 + 0.5 * value(arm, seed, f"{when} {group}") for group in ("cue", "noise"))
    taus.flat[: 1 + int(90 * value(arm, seed, f"{when} long"))] = 2.0
    return taus


def networks(evidence: Evidence, arm: str, seed: int) -> tuple[Network, Network]:
    """One layer, before and after."""
    before, after = (network(tau(arm, seed, when)) for when in ("before", "after"))
    return before, after


def network(taus: Array) -> Network:
    params = HetSynParams.from_tau(np.ones((40, 30)), taus, reset_tau=0.04, dt=5e-3)
    return Network((HetSynLayer("hidden1", params, dt=5e-3),))


def evaluate(evidence: Evidence, arm: str, seed: int, network: Any = None, task: Any = None) -> float:
    """The measure of another network or under other settings: told by the network's longest tau, and the settings."""
    if network is not None:
        return value(arm, seed, f"longest {network.layers[0].params.tau(5e-3).decay.max():.9f}")
    if task.name == "dms":
        return value(arm, seed, f"delay {task.delay}")
    return value(arm, seed, f"deleted {task.test_deletion}, warped {task.test_warp}, stretched {task.test_stretch}")


class Ramp:
    """A network whose output rises in time, by its arm's and seed's own number."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __call__(self, x: torch.Tensor) -> Activity:
        ramp = torch.linspace(0, 1, x.shape[0], dtype=torch.float64)
        return Activity((self.slope * ramp)[:, None, None].expand(-1, x.shape[1], 1), ())


def evidence_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Evidence:
    """The evidence of a claim; two samples are enough, where a task is asked for some."""
    for method in (result, log, networks, evaluate):
        monkeypatch.setattr(Evidence, method.__name__, method)
    monkeypatch.setattr(Evidence, "model", lambda evidence, arm, seed: Ramp(value(arm, seed, "slope")))
    monkeypatch.setattr(Evidence, "chance", lambda evidence, arm: {"chance": 0.125})  # which asks the data
    arms = CLAIMS[name].arms
    few = ("task.test_samples=2",) if name.startswith(("patterns", "dms")) else ()
    return Evidence(Path("none"), arms, SEEDS, few)


# ---- what the rows must be -----------------------------------------------------------------------------------------


def accuracies(arms: Mapping[str, str]) -> dict[str, Array]:
    """Label -> accuracy in per cent of the arm."""
    return {label: 100 * values(arm) for label, arm in arms.items()}


def successes(arm: str) -> Array:
    return 100 * (values(arm) >= 0.9)


def of_dms() -> dict[str, Array]:
    rows = accuracies({f"{v.title}: accuracy": f"dms-{name}-50" for name, v in VARIANTS.items()})
    rows |= {f"{v.title}: successful runs": successes(f"dms-{name}-50") for name, v in VARIANTS.items()}
    return rows | {"HetSynLIF: runs that reach 99 %": 100 * (values("dms-hetsyn-50") >= 0.99)}


def of_sizes() -> dict[str, Array]:
    rows = {}
    for n in (5, 20, 50, 100):
        for name, variant in VARIANTS.items():
            rows[f"{n} hidden, {variant.title}: accuracy"] = 100 * values(f"dms-{name}-{n}")
            rows[f"{n} hidden, {variant.title}: successful runs"] = successes(f"dms-{name}-{n}")
    return rows


def of_condition(arm: str, what: str) -> dict[str, Array]:
    taken = {name: np.array([reached(name, seed) + 40 for seed in SEEDS]) for name in (arm, "dms-hetsyn-50")}
    return {
        f"{what}: accuracy": 100 * values(arm),
        f"{what}: successful runs": successes(arm),
        "usual conditions: accuracy": 100 * values("dms-hetsyn-50"),
        f"{what}: iterations to 95 %": taken[arm],  # the fifth of five right ones
        "usual conditions: iterations to 95 %": taken["dms-hetsyn-50"],
    }


def reset(arm: str, start: int) -> Array:
    """The accuracy of each seed's network with its taus of 2 s back at the start."""
    taus = [tau(arm, seed, "after") for seed in SEEDS]
    longest = [np.where(t > 0.7, start / 1e3, t).max() for t in taus]
    return np.array([value(arm, seed, f"longest {t:.9f}") for seed, t in zip(SEEDS, longest, strict=True)])


def of_table4() -> dict[str, Array]:
    rows = {}
    for start in STARTS:
        arm, label = f"dms-table4-tau-{start}", f"start {start} ms"
        taus = [tau(arm, seed, "after") for seed in SEEDS]
        rows[f"{label}: mean tau, cue"] = np.array([1e3 * t[:, :20].mean() for t in taus])
        rows[f"{label}: mean tau, noise"] = np.array([1e3 * t[:, 20:].mean() for t in taus])
        rows[f"{label}: cue slower by"] = rows[f"{label}: mean tau, cue"] - start
        rows[f"{label}: noise faster by"] = start - rows[f"{label}: mean tau, noise"]
        rows[f"{label}: taus above 700 ms"] = np.array([100 * (t > 0.7).mean() for t in taus])
        rows[f"{label}: accuracy"] = 100 * values(arm)
        rows[f"{label}: accuracy, those reset"] = 100 * reset(arm, start)
        arm, label = f"dms-table4-r-{start}", f"r trained, start {start} ms"
        taus = [tau(arm, seed, "after") for seed in SEEDS]
        rows[f"{label}: median tau, cue"] = np.array([1e3 * np.median(t[:, :20]) for t in taus])
        rows[f"{label}: median tau, noise"] = np.array([1e3 * np.median(t[:, 20:]) for t in taus])
        rows[f"{label}: accuracy"] = 100 * values(arm)
        rows[f"{label}: accuracy, those reset"] = 100 * reset(arm, start)
    return rows


def of_patterns() -> dict[str, Array]:
    ramp, rows = np.linspace(0, 1, 2000), {}
    gap = np.concatenate([ramp[500:750], ramp[1250:1500]]).mean()
    apart = np.mean([(ramp[a] - ramp[b]) ** 2 for a, b in ((0, 750), (0, 1500), (750, 1500))])
    for kind in ("F", "R"):
        for name, variant in VARIANTS.items():
            arm = f"patterns-{kind}-{name}-2hz"
            rows[f"{kind}-{variant.title}: MSE"] = values(arm)
            slopes = values(arm, "slope")
            rows[f"{kind}-{variant.title}: mean |output| in the silences"] = slopes * gap
            targets = np.array([between_targets(seed) for seed in SEEDS])
            rows[f"{kind}-{variant.title}: distance between repeats"] = slopes**2 * apart / targets
    return rows


def between_targets(seed: int) -> float:
    """Mean squared difference of a run's target between the repeats of the segment."""
    _, target = patterns.PatternGeneration().pattern(seed)
    target = target.astype(np.float32).astype(np.float64)
    parts = [target[start : start + 500] for start in (0, 750, 1500)]
    return float(np.mean([(parts[a] - parts[b]) ** 2 for a, b in ((0, 1), (0, 2), (1, 2))]))


def of_noise() -> dict[str, Array]:
    return {
        f"{kind}-{VARIANTS[name].title}, {noise} Hz: MSE": values(f"patterns-{kind}-{name}-{noise}hz")
        for kind in ("F", "R")
        for noise in (1, 2, 3, 4)
        for name in PAPERS
    }


def under(name: str, deleted: float = 0.0, warped: float = 0.0) -> Array:
    return values(f"speech-{name}", f"deleted {deleted}, warped {warped}, stretched 1.0")


def folds(variant: str, what: str = "") -> Array:
    """The mean over the seeds of each fold."""
    return np.array([values(f"fsdd-{fold}-{variant}", what).mean() for fold in range(6)])


def of_folds() -> dict[str, Array]:
    rows = {f"{v.title}: accuracy over the folds": 100 * folds(name) for name, v in VARIANTS.items()}
    for name, v in VARIANTS.items():
        spread = [100 * values(f"fsdd-{fold}-{name}").std(ddof=1) for fold in range(6)]
        rows[f"{v.title}: s.d. over the seeds of a fold"] = np.array(spread)
    return rows


def of_folds_under() -> dict[str, Array]:
    rows = {}
    for name, v in VARIANTS.items():
        for chance in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64):
            changed = folds(name, f"deleted {chance}, warped 0.0, stretched 1.0")
            rows[f"{v.title}: {chance:.0%} of the spikes deleted"] = 100 * changed
        rows[f"{v.title}: time warped by 2^U(-0.5, 0.5)"] = 100 * folds(name, "deleted 0.0, warped 0.5, stretched 1.0")
    return rows


def stretched(name: str, times: float) -> Array:
    return folds(name) if times == 1 else folds(name, f"deleted 0.0, warped 0.0, stretched {times}")


def of_delays() -> dict[str, Array]:
    return {
        f"{v.title}: {1e3 * delay:g} ms": 100 * values(f"dms-{name}-50", f"delay {delay}")
        for name, v in VARIANTS.items()
        for delay in DELAYS
    }


def with_delays(data: str, budget: int, variant: str, delayed: bool) -> Array:
    arm = f"delays-{data}-{budget}-{variant}{'-delays' if delayed else ''}"
    if data != "fsdd":
        return values(arm)
    return np.array([values(f"{arm}-{fold}").mean() for fold in range(6)])


def of_learned_delays() -> dict[str, Array]:
    return {
        f"{title}, {budget:,} parameters: {taus}{', delays' if delayed else ''}": 100
        * with_delays(data, budget, variant, delayed)
        for data, title in (("fsdd", "real voices"), ("digits", "synthetic digits"), ("dms", "DMS"))
        for budget in (2_000, 10_000, 50_000)
        for variant, taus in TAUS.items()
        for delayed in (False, True)
    }


TAUS = {"single_tau": "one tau", "hetneu": "a tau a neuron", "hetsyn": "a tau a synapse"}
DELAYS = (0.2, 0.4, 0.8, 1.6, 2.5, 5.0)
SPEEDS = (0.5, 0.71, 1.0, 1.41, 2.0)
LEARNED = {
    "pattern generation": "patterns-R-hetsyn-2hz",
    "delayed match-to-sample": "dms-hetsyn-50",
    "spoken digits": "fsdd-0-hetsyn",
    "MNIST by rows": "smnist-row-hetsyn",
}


def of_biology() -> dict[str, Array]:
    """Judged by scipy's distance, and by a one-way analysis of variance of equal groups."""
    stats, rows = pytest.importorskip("scipy.stats"), {}
    for task, arm in LEARNED.items():
        after = [np.log(tau(arm, seed, "after")) for seed in SEEDS]
        sigmas = np.array([np.subtract(*np.quantile(logs, (0.75, 0.25))) / (2 * 0.6744897501960817) for logs in after])
        fits = [(np.median(logs), sigma) for logs, sigma in zip(after, sigmas, strict=True)]
        rows[f"{task}: median tau"] = np.array([1e3 * np.exp(middle) for middle, _ in fits])
        rows[f"{task}: sigma of log tau"] = sigmas
        distances = [
            stats.kstest(logs.ravel(), stats.norm(middle, max(sigma, 1e-13)).cdf).statistic
            for logs, (middle, sigma) in zip(after, fits, strict=True)
        ]
        rows[f"{task}: largest distance from the log-normal fit"] = np.array(distances)
        rows[f"{task}: taus above 500 ms"] = np.array([100 * (np.exp(logs) > 0.5).mean() for logs in after])
        before = [np.log(tau(arm, seed, "before")) for seed in SEEDS]
        rows[f"{task}: spread between neurons"] = np.array([100 * between(logs) for logs in after])
        rows[f"{task}: spread between neurons before training"] = np.array([100 * between(logs) for logs in before])
    return rows


def between(logs: Array) -> float:
    """The intra-class correlation of rows of one length, from the mean squares."""
    m = logs.shape[1]
    within = logs.var(1, ddof=1).mean()
    spread = max(0.0, logs.mean(1).var(ddof=1) - within / m)
    return float(spread / (spread + within))


def of_robustness() -> dict[str, Array]:
    rows = {}
    for name, variant in VARIANTS.items():
        for chance in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64):
            rows[f"{variant.title}: {chance:.0%} of the spikes deleted"] = 100 * under(name, deleted=chance)
        rows[f"{variant.title}: time warped by 2^U(-0.5, 0.5)"] = 100 * under(name, warped=0.5)
    return rows


ROWS: dict[str, Callable[[], dict[str, Array]]] = {
    "dms": of_dms,
    "dms-hidden": of_sizes,
    "dms-frozen": lambda: of_condition("dms-frozen", "80 % frozen"),
    "dms-delay": lambda: of_condition("dms-delay", "2500 ms"),
    "dms-noise": lambda: of_condition("dms-noise", "20 Hz"),
    "dms-table4": of_table4,
    "patterns": of_patterns,
    "patterns-noise": of_noise,
    "speech": lambda: accuracies({f"{v.title}: accuracy": f"speech-{name}" for name, v in VARIANTS.items()}),
    "speech-robustness": of_robustness,
    "fsdd": of_folds,
    "fsdd-robustness": of_folds_under,
    "fsdd-speed": lambda: {
        f"{v.title}: {times:g} times as long": 100 * stretched(name, times)
        for name, v in VARIANTS.items()
        for times in SPEEDS
        if times != 1
    },
    **{
        f"smnist-{order}": lambda order=order: accuracies(  # type: ignore[misc]
            {f"{v.title}: accuracy": f"smnist-{order}-{name}" for name, v in VARIANTS.items()}
        )
        for order in ("pixel", "permuted", "row")
    },
    "dms-timescales": of_delays,
    "biology": of_biology,
    "delays": of_learned_delays,
    "visual": lambda: accuracies({f"{v.title}: accuracy": f"images-{name}-64" for name, v in VARIANTS.items()}),
    "visual-small": lambda: accuracies(
        {
            f"[{n}, {n}], {VARIANTS[name].title}: accuracy": f"images-{name}-{n}"
            for n in (8, 16, 32, 64)
            for name in ("hetsyn", "hetneu", "homneu")
        }
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_row_is_of_its_own_arm_seeds_and_condition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, expected = evidence_of(name, monkeypatch), ROWS[name]()
    rows = CLAIMS[name].rows(evidence)
    assert sorted(row.label for row in rows) == sorted(expected)
    for row in rows:
        numbers = expected[row.label]
        assert row.ours == pytest.approx(numbers.mean(), rel=1e-6), row.label
        if row.sd is not None:
            assert row.sd == pytest.approx(numbers.std(ddof=1), rel=1e-6, abs=1e-9), row.label


def test_the_parameters_are_the_arms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = {row.label: row.note for row in CLAIMS["visual-small"].rows(evidence_of("visual-small", monkeypatch))}
    for n in (8, 16, 32, 64):
        for name in ("hetsyn", "hetneu", "homneu"):
            count = round(1e6 * value(f"images-{name}-{n}", SEEDS[0]))
            assert notes[f"[{n}, {n}], {VARIANTS[name].title}: accuracy"].endswith(f"{count:,} trained parameters")


def test_networks_are_kept_by_arm_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "load_networks", lambda folder: (folder, folder))
    runs = Evidence(Path("all"), {}, SEEDS)
    for arm in ("a", "b", "a"):
        for seed in (1, 2, 1):
            assert runs.networks(arm, seed)[1] == Path("all/runs", arm, f"seed-{seed}")


# ---- what the pictures must show -----------------------------------------------------------------------------------


def drawn(ax: Any) -> dict[str, list[float]]:
    """Label -> heights, of error bars, curves and bars."""
    heights = {
        line.get_label().partition(" (n =")[0].partition(":")[0]: list(line.get_ydata())
        for line in ax.lines
        if len(line.get_ydata())
    }
    for container in ax.containers:
        if hasattr(container, "has_yerr") and container.has_yerr:
            heights[container.get_label()] = list(container[0].get_ydata())
    return heights


def bars(ax: Any) -> list[float]:
    return [bar.get_height() for bar in ax.patches]


def curves(arm_of: Callable[[str, Any], str], names: Any, conditions: Any) -> dict[str, list[float]]:
    return {VARIANTS[name].title: [values(arm_of(name, c)).mean() for c in conditions] for name in names}


def learned(arms: Mapping[str, str], key: str, log_mean: bool = False) -> dict[str, list[float]]:
    """The mean over the seeds at every logged iteration."""
    shown = {}
    for label, arm in arms.items():
        by_seed = np.array([[record[key] for record in log(None, arm, seed)] for seed in SEEDS])  # type: ignore[arg-type]
        shown[label] = list(np.exp(np.log(by_seed).mean(0)) if log_mean else by_seed.mean(0))
    return shown


# long: a picture of every claim
def pictures_of(name: str) -> dict[str, dict[str, list[float]] | list[float]]:
    """File -> what is to be seen in it."""
    variants = {v.title: name for name, v in VARIANTS.items()}
    conditions = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
    arms = {arm: arm for arm in CLAIMS[name].arms}
    usual: Any = {"learning.png": learned(arms, "score")}
    return {
        "dms": usual,
        "dms-frozen": usual,
        "dms-delay": usual,
        "dms-noise": usual,
        "dms-hidden": {"hidden.png": curves(lambda v, n: f"dms-{v}-{n}", VARIANTS, (5, 20, 50, 100))},
        "dms-table4": {
            "reset.png": [values(f"dms-table4-tau-{s}").mean() for s in STARTS]
            + [reset(f"dms-table4-tau-{s}", s).mean() for s in STARTS]
        },
        "patterns": {
            f"learning-{k}.png": learned({t: f"patterns-{k}-{v}-2hz" for t, v in variants.items()}, "validation", True)
            for k in "FR"
        },
        "patterns-noise": {
            f"noise-{k}.png": curves(lambda v, n, k=k: f"patterns-{k}-{v}-{n}hz", PAPERS, (1, 2, 3, 4)) for k in "FR"
        },
        "delays": {
            f"{data}.png": [
                with_delays(data, 50_000, variant, delayed).mean() for variant in TAUS for delayed in (False, True)
            ]
            for data in ("fsdd", "digits", "dms")
        },
        "speech": {"variants.png": [values(f"speech-{v}").mean() for v in VARIANTS]},
        "speech-robustness": {
            "deletion.png": {t: [under(v, deleted=c).mean() for c in conditions] for t, v in variants.items()}
        },
        "fsdd": {"variants.png": [folds(v).mean() for v in VARIANTS]},
        "fsdd-robustness": {
            "deletion.png": {
                t: [folds(v, f"deleted {c}, warped 0.0, stretched 1.0").mean() for c in conditions]
                for t, v in variants.items()
            }
        },
        "fsdd-speed": {"speeds.png": {t: [stretched(v, s).mean() for s in SPEEDS] for t, v in variants.items()}},
        **{
            f"smnist-{order}": {
                "variants.png": [values(f"smnist-{order}-{v}").mean() for v in VARIANTS],
            }
            for order in ("pixel", "permuted", "row")
        },
        "dms-timescales": {
            "delays.png": {t: [values(f"dms-{v}-50", f"delay {d}").mean() for d in DELAYS] for t, v in variants.items()}
        },
        "biology": {},
        "visual": {"variants.png": [values(f"images-{v}-64").mean() for v in VARIANTS]},
        "visual-small": {
            "hidden.png": curves(lambda v, n: f"images-{v}-{n}", ("hetsyn", "hetneu", "homneu"), (8, 16, 32, 64))
        },
    }[name]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_picture_shows_what_belongs_to_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, draw = evidence_of(name, monkeypatch), {p.file: p.draw for p in CLAIMS[name].pictures}
    for file, expected in pictures_of(name).items():
        ax = draw[file](evidence)
        if isinstance(expected, list):
            assert bars(ax) == pytest.approx(expected), file
        else:
            shown = drawn(ax)
            assert {label: shown[label] for label in expected} == {k: pytest.approx(e) for k, e in expected.items()}


def test_the_output_of_a_pattern_is_each_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    (draw,) = (p.draw for p in CLAIMS["patterns"].pictures if p.file == "output.png")
    lines = drawn(draw(evidence_of("patterns", monkeypatch)))
    ramp = np.linspace(0, 1, 2000)
    for kind, name in (("F", "hetsyn"), ("R", "hetsyn"), ("R", "homneu")):
        slope = value(f"patterns-{kind}-{name}-2hz", SEEDS[0], "slope")
        np.testing.assert_allclose(lines[f"{kind}-{VARIANTS[name].title}"], slope * ramp)
    np.testing.assert_allclose(lines["target"], patterns.PatternGeneration().pattern(SEEDS[0])[1], atol=1e-7)


def test_channels_are_of_the_first_seed_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    (draw,) = (p.draw for p in CLAIMS["dms-table4"].pictures if p.file == "channels.png")
    ax = draw(evidence_of("dms-table4", monkeypatch))
    medians = [float(line.get_ydata()[0]) for line in ax.lines if line.get_linewidth() == 2]
    parts = [tau("dms-table4-tau-400", SEEDS[0], when)[:, lines] for when in ("before", "after")
             for lines in (slice(20), slice(20, 30))]  # fmt: skip
    assert medians == pytest.approx([1e3 * np.median(part) for part in parts])


# ---- planted bugs ----------------------------------------------------------------------------------------------------


class Bug(NamedTuple):
    """A piece of a claim's source replaced, and the row of which claim must be found to differ."""

    name: str
    module: str
    old: str
    new: str
    claim: str
    says: str


BUGS = [
    Bug(
        "one arm for all",
        "evidence",
        "        if (arm, seed) not in self._cache:",
        '        arm = "dms-hetsyn-50"\n        if (arm, seed) not in self._cache:',
        "dms",
        "HetNeuLIF: accuracy",
    ),
    Bug(
        "one seed for all",
        "evidence",
        "float(of_seed(seed))",
        "float(of_seed(self.seeds[0]))",
        "dms",
        "HetSynLIF: accuracy",
    ),
    Bug("one deletion for all", "evidence", "tuple(changes.items())", "tuple(changes)", "speech-robustness", "2% of"),
    Bug(
        "one fold for all",
        "voices",
        "variant, fold) for fold in FOLDS]",
        "variant, 0) for fold in FOLDS]",
        "fsdd",
        "folds",
    ),
    Bug(
        "one noise for all",
        "patterns",
        "name_of(name, kind, noise)) for name in COMPARED}",
        "name_of(name, kind)) for name in COMPARED}",
        "patterns-noise",
        "1 Hz: MSE",
    ),
    Bug("one group for all", "dms", "(group, what), of_seed", "what, of_seed", "dms-table4", "mean tau, noise"),
    Bug(
        "one figure for all",
        "patterns",
        "each(name, what, of_seed)",
        'each(name, "it", of_seed)',
        "patterns",
        "distance between",
    ),
    Bug(
        "one start for all",
        "dms",
        'f"dms-table4-tau-{start}", f"start {start} ms", TABLE4[start]',
        'f"dms-table4-tau-100", f"start {start} ms", TABLE4[start]',
        "dms-table4",
        "start 200 ms: mean tau, cue",
    ),
    Bug(
        "reset to another start",
        "dms",
        "analysis.LONG, to)",
        "analysis.LONG, 0.69)",
        "dms-table4",
        "accuracy, those reset",
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    around = [
        f"{PACKAGE}.{name}" for name in ("evidence", "claim", "by_variant", "dms", "patterns", "speech", "voices")
    ]
    fresh = changed(f"{PACKAGE}.{bug.module}", bug.old, bug.new, around=around)
    claims = {name: claim for module in around[3:] for name, claim in fresh[module].CLAIMS.items()}
    monkeypatch.setitem(CLAIMS, bug.claim, claims[bug.claim])
    monkeypatch.setitem(globals(), "Evidence", fresh[around[0]].Evidence)
    with caught(bug.says):
        test_a_row_is_of_its_own_arm_seeds_and_condition(bug.claim, monkeypatch)
