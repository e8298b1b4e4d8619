"""What claims share that set the five variants beside each other under the same conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.experiments import plots
from hetsyn_plugins.experiments.claims.claim import per_cent
from hetsyn_plugins.experiments.claims.verdicts import NOT_JUDGED, Judgement, better
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


def bars(values: Callable[[str], Array], lines: Mapping[str, float]) -> Any:
    """A bar a variant, with a dot for every seed or fold."""
    return plots.variants({variant.title: values(name) for name, variant in VARIANTS.items()}, lines=lines)


def curves(
    condition: Sequence[float], values: Callable[[str, float], Array], lines: Mapping[str, float], xlabel: str
) -> Any:
    """Accuracy of every variant against a condition, on a log axis."""
    drawn = {variant.title: [values(name, at) for at in condition] for name, variant in VARIANTS.items()}
    return plots.against_condition(condition, drawn, xlabel=xlabel, ylabel="accuracy", log=True, lines=lines)
