"""`hetsyn analyse RUN`: what training did to the time constants of a run, and whether its networks need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core.files import make_folder
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.experiments import analysis, plots, training
from hetsyn_plugins.experiments.batches import moved
from hetsyn_plugins.experiments.config import Config, changed_config
from hetsyn_plugins.experiments.run_folder import load_networks, load_run_config, seed_folder, seeds_text
from hetsyn_plugins.experiments.tasks.task import AnyBatch, Task, run_on
from hetsyn_plugins.ops import devices


def analyse(
    folder: Path, out: Path, seeds: Sequence[int], *, bound: float = analysis.LONG, device: str = "cpu"
) -> Iterator[str]:
    """Lines of text as they come; the pictures, of the first seed where they show one network, go to `out`.

    bound    seconds: taus above it are long, and are set back to the start's median
    device   where networks run, whatever they were trained on
    """
    if not 0 < bound < np.inf:
        raise ValueError(f"--bound: expected seconds > 0, got {bound}")
    devices.usable("--device", device)
    config = changed_config(load_run_config(folder), [f"training.device={device}"])
    make_folder(out, "--out")
    before, after = load_networks(seed_folder(folder, seeds[0]))
    yield f"{folder}: {config.task.name}, {config.network.title}, seeds {seeds_text(seeds)}"
    yield from _constants(before, after, bound, seeds[0])
    for path in pictures(before, after, out):
        yield f"picture: {path}"
    yield from _resetting(folder, config, seeds, bound, out)
    yield from _controls(folder, config, seeds, out)


def _constants(before: Network, after: Network, bound: float, seed: int) -> Iterator[str]:
    """A line a group of synapses: before and after."""
    yield f"taus of seed {seed}, ms: median (quartiles), mean of min(tau, 5 s), share above {bound * 1e3:.0f} ms"
    earlier = analysis.taus(before)
    for name, synapses in analysis.synapses(after).items():
        yield f"  {name:18} before {tau_text(analysis.summarise(earlier[name], bound))}"
        now = analysis.summarise(synapses.tau, bound)
        parts = analysis.variance_components(synapses.tau)
        correlation = analysis.spearman(synapses.tau, np.abs(synapses.weight))
        yield f"  {'':18} after  {tau_text(now)}"
        yield (
            f"  {'':18} log-normal: median {np.exp(now.mu) * 1e3:.1f} ms, sigma {now.sigma:.2f}; "
            f"{now.at_zero:.2%} at r = 0, {now.at_one:.2%} at r = 1; "
            f"{_or_none(parts.share, '.0%')} of the variance between neurons; "
            f"rank correlation with |w| {_or_none(correlation, '+.2f')}"
        )


def _or_none(value: float, form: str) -> str:
    """A number, or "none" where it is not defined: nothing differs, or there is one neuron."""
    return "none" if np.isnan(value) else format(value, form)


def tau_text(tau: analysis.TauSummary) -> str:
    """A summary in a line, ms."""
    low, high = (quartile * 1e3 for quartile in tau.quartiles)
    clipped = tau.clipped_mean * 1e3
    return f"{tau.median * 1e3:8.1f} ({low:.1f} to {high:.1f}), mean {clipped:.1f}, {tau.long:.2%} long"


def pictures(before: Network, after: Network, out: Path) -> Iterator[Path]:
    """Pictures of the time constants of a network before and after training, drawn to a folder."""
    drawn = {
        "taus.png": plots.tau_change(analysis.taus(before), analysis.taus(after)),
        "tau_weight.png": plots.tau_weight(analysis.synapses(after)),
        "spread.png": plots.tau_variance(
            {name: analysis.variance_components(tau) for name, tau in analysis.taus(after).items()}
        ),
    }
    for name, ax in drawn.items():
        yield plots.save(ax.figure, out / name)


def _resetting(folder: Path, config: Config, seeds: Sequence[int], bound: float, out: Path) -> Iterator[str]:
    """What it costs to set the long taus of a network back to the median that its synapses started from."""
    unmodified, reset, long = [], [], 0
    for seed in seeds:
        before, after = load_networks(seed_folder(folder, seed))
        start = float(np.median(np.concatenate([tau.ravel() for tau in analysis.taus(before).values()])))
        if start > bound:
            yield f"taus start at {start * 1e3:.0f} ms, above the bound of {bound * 1e3:.0f} ms: none is reset"
            return
        long += sum(int((tau > bound).sum()) for tau in analysis.taus(after).values())
        unmodified.append(training.evaluate_network(after, config, seed))
        reset.append(training.evaluate_network(analysis.reset_long_taus(after, bound, start), config, seed))
    measure = config.task.measure
    if not long:
        yield f"no tau is above {bound * 1e3:.0f} ms: nothing to set back (--bound)"
        return
    back = f"taus above {bound * 1e3:.0f} ms back at their start"
    yield f"{measure} {np.mean(unmodified):.4f}; {back}: {np.mean(reset):.4f}"
    name = config.task.name
    values = {name: np.array(unmodified)}, {name: np.array(reset)}
    ax = plots.reset_effect(*values, ylabel=measure, lines=chance(config.task))
    yield f"picture: {plots.save(ax.figure, out / 'reset.png')}"


def _controls(folder: Path, config: Config, seeds: Sequence[int], out: Path) -> Iterator[str]:
    """The measure where inputs keep their counts only, or have their steps in a random order."""
    by_control: dict[str, list[float]] = {"as they are": [], **{name: [] for name in analysis.CONTROLS}}
    for seed in seeds:
        network = load_networks(seed_folder(folder, seed))[1]
        for name, values in by_control.items():
            values.append(_controlled(network, config, seed, name))
    for name, values in by_control.items():
        yield f"inputs {name}: {config.task.measure} {np.mean(values):.4f}"
    drawn = {name: np.array(values) for name, values in by_control.items()}
    ax = plots.controls(drawn, ylabel=config.task.measure, lines=chance(config.task))
    yield f"picture: {plots.save(ax.figure, out / 'controls.png')}"


def _changed(batch: AnyBatch, change: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """The inputs of a batch after a change of their steps, of which samples of one length are together."""
    if batch.lengths is None:
        return torch.from_numpy(change(batch.inputs.numpy()))
    inputs = batch.inputs.clone()
    for length in batch.lengths.unique():
        rows = batch.lengths == length
        inputs[:length, rows] = torch.from_numpy(change(inputs[:length, rows].numpy()))
    return inputs


def chance(task: Task) -> dict[str, float]:
    """The line of chance for a picture, where there is one."""
    return {} if task.chance is None else {"chance": task.chance}


@torch.no_grad()
def _controlled(network: Network, config: Config, seed: int, control: str) -> float:
    model, rng = training.model_of(network, config).eval(), np.random.default_rng(seed)
    device = devices.usable("training.device", config.training.device)
    change: Any = analysis.CONTROLS.get(control, lambda inputs, _: inputs)
    scores = []
    for whole in config.task.held_out("test", training.AT_A_TIME, seed):
        changed = moved(whole._replace(inputs=_changed(whole, lambda inputs: change(inputs, rng))), device)
        scores.append(config.task.score(run_on(changed, model), changed.target))
    return training.numbers(torch.cat(scores).double().mean())[0]
