"""The paper's experiments: tasks, networks to compare, training, analysis, claims and their numbers, reports.

From Python: `train`, `train_sweep` and what they return (`notebook`), `collate` for a DataLoader of one's own
(`data.items`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetsyn_plugins.experiments.data.items import collate
    from hetsyn_plugins.experiments.notebook import Trained, train, train_sweep

__all__ = ["Trained", "collate", "train", "train_sweep"]


def __getattr__(name: str) -> Any:
    """At first use: they load all the rest."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hetsyn_plugins.experiments import notebook
    from hetsyn_plugins.experiments.data import items

    return getattr(items if name == "collate" else notebook, name)
