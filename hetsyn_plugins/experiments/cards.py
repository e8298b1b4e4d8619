"""What a run's folder says of a network, for its model card."""

from __future__ import annotations

from pathlib import Path

from hetsyn_plugins.core.network import Network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.exchange.card import Measured, card
from hetsyn_plugins.experiments.run_folder import CONFIG, RESULT, load_result, load_run_config

SELECTED = {
    "best_validation": "The best iteration on validation data was kept",
    "best_test": "The best iteration ON THE TEST SET was kept, as some papers do, so this is no estimate for new data",
    "last": "The last iteration was kept",
}


def card_of(path: Path, name: str | None = None) -> str:
    """The card of a checkpoint; of one in a run's folder (RUN/seed-0/network.safetensors) with what came of it."""
    network: Network = checkpoint.load(path)
    known, place = measured(path), path.resolve().parent
    usual = path.stem if known is None else f"{place.parent.name}-{place.name}"
    return card(network, name or usual, known, path.name)


def measured(path: Path) -> Measured | None:
    """What is known of a checkpoint from the files of its run; None where it lies in none."""
    seed, run = path.resolve().parent, path.resolve().parent.parent
    if not ((seed / RESULT).is_file() and (run / CONFIG).is_file()):
        return None
    result, config = load_result(seed), load_run_config(run)
    source = str(getattr(config.task, "source", "drawn by the task"))
    kept = SELECTED.get(result.select, f"Selected by {result.select}")
    how = (
        f"One network, of seed {result.seed}; other seeds differ. {kept} ({result.selected_iteration:,} of "
        f"{result.iterations:,}). Trained in {result.seconds:,.0f} s with {result.framework}."
    )
    command = f"hetsyn train {run.name}/{CONFIG} --seeds {result.seed}"
    dataset = Path(source).name if "/" in source else source  # no path of a machine
    return Measured(config.task.name, dataset, result.measure, result.test, how, command)
