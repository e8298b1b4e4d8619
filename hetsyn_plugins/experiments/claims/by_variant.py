"""What claims share that set the five variants beside each other under the same conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.experiments import plots
from hetsyn_plugins.experiments.claims.claim import per_cent
from hetsyn_plugins.experiments.claims.paper import DELETION, ORDER, WARP
from hetsyn_plugins.experiments.claims.verdicts import NOT_JUDGED, Judgement, best, better
from hetsyn_plugins.experiments.run_folder import ClaimRow
from hetsyn_plugins.experiments.variants import VARIANTS

OURS = "hetsyn"


def rows(
    values: Mapping[str, Array], paper: float | None = None, judged: Judgement = NOT_JUDGED, what: str = "accuracy"
) -> list[ClaimRow]:
    """A row a variant, of shares by seed or by fold; the others' notes set HetSynLIF beside them, pair by pair.

    paper, judged   of HetSynLIF's: the paper's figure in per cent, and what was judged
    """
    lines = []
    for name, variant in VARIANTS.items():
        label = f"{variant.title}: {what}"
        if name == OURS:
            lines.append(per_cent(label, values[name], paper, judged))
        else:
            beside = better(values[OURS], values[name], variant.title)
            lines.append(per_cent(label, values[name], note=f"HetSynLIF {beside.note}"))
    return lines


def loss_rows(values: Callable[..., Array], conditions: Mapping[str, Mapping[str, float]]) -> list[ClaimRow]:
    """Accuracy under other settings at test time, words -> settings; HetSynLIF is to lose the least of the paper's.

    values   of a variant, by seed or by fold, under such settings (none: as usual)
    """
    usual, lines = {name: values(name) for name in VARIANTS}, []
    for what, changes in conditions.items():
        under = {name: values(name, **changes) for name in VARIANTS}
        loss = {name: usual[name] - under[name] for name in VARIANTS}
        others = {VARIANTS[name].title: loss[name] for name in ORDER[1:]}
        for name, variant in VARIANTS.items():
            least = best(loss[name], others, more=False) if name == OURS else NOT_JUDGED
            note = f"{loss[name].mean() * 100:.1f} points lost"
            lines.append(per_cent(f"{variant.title}: {what}", under[name], None, least, note=note))
    return lines


def noise_rows(values: Callable[..., Array]) -> list[ClaimRow]:
    """`loss_rows` with spikes deleted and time warped."""
    conditions = {f"{chance:.0%} of the spikes deleted": {"test_deletion": chance} for chance in DELETION}
    return loss_rows(values, {**conditions, f"time warped by 2^U(-{WARP}, {WARP})": {"test_warp": WARP}})


def bars(values: Callable[[str], Array], lines: Mapping[str, float]) -> Any:
    """A bar a variant, with a dot for every seed or fold."""
    return plots.variants({variant.title: values(name) for name, variant in VARIANTS.items()}, lines=lines)


def curves(
    condition: Sequence[float], values: Callable[[str, float], Array], lines: Mapping[str, float], xlabel: str
) -> Any:
    """Accuracy of every variant against a condition, on a log axis."""
    drawn = {variant.title: [values(name, at) for at in condition] for name, variant in VARIANTS.items()}
    return plots.against_condition(condition, drawn, xlabel=xlabel, ylabel="accuracy", log=True, lines=lines)
