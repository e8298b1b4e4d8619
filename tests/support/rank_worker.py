"""One rank of the tests of `experiments.ranks`; a module of its own because processes of a fork server import it."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import conftest  # noqa: F401  puts the checkout's adapters in their place
import planting
import pytest
import torch
import torch.distributed as dist

from hetsyn_plugins.experiments import model, training
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.tasks import task as tasks
from hetsyn_plugins.experiments.tasks.task import Batch

Work = Callable[..., Any]
LOADED = ["hetsyn_plugins.experiments.training", "snntorch"]  # once, in the fork server: seconds


def together(size: int, work: Work, *arguments: Any) -> list[Any]:
    """What work(*arguments) returns on each of so many ranks, or what it raised there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=_rank, args=(i, size, folder, work, arguments)) for i in range(size)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(120)
            rank.kill()
        return [torch.load(Path(folder, f"{i}.pt"), weights_only=False) for i in range(size)]


def _rank(index: int, size: int, folder: str, work: Work, arguments: Any) -> None:
    torch.set_num_threads(1)
    if size > 1:
        meet = {"init_method": f"file://{folder}/meet", "timeout": timedelta(seconds=60)}
        dist.init_process_group("gloo", rank=index, world_size=size, **meet)
    try:
        result = work(*arguments)
    except Exception as error:
        result = error
    torch.save(result, f"{folder}/{index}.pt")
    # at once: a thread of gloo's that still runs when C++ tidies up ends the process with std::terminate, now and then
    os._exit(0)


def in_float64(config: Config) -> Config:
    """The same configuration; from now on this process trains in float64."""
    kind, model_of = type(config.task), training.model_of

    class Doubled(kind):  # type: ignore[valid-type, misc]
        def training_batch(self, index: int, batch: int, seed: int) -> Batch:
            return doubled(super().training_batch(index, batch, seed))

        def held_out(self, split: str, batch: int, seed: int) -> Iterator[Batch]:
            return map(doubled, super().held_out(split, batch, seed))

    if training.model_of.__module__ == training.__name__:
        training.model_of = lambda network, config, **options: model_of(network, config, **options).double()
    task = Doubled(**{field.name: getattr(config.task, field.name) for field in fields(config.task)})
    return replace(config, task=task)


def doubled(batch: Batch) -> Batch:
    """A batch in float64; labels stay."""
    inputs, target = batch
    return Batch(inputs.double(), target.double() if target.is_floating_point() else target)


def trained(task: str, settings: list[str], *, double: bool, folder: Path | None = None) -> dict[str, Any]:
    """Train, and return the losses and scores of all steps, the gradients of the first one, and the weights."""
    config = load_config(task, settings)
    config = in_float64(config) if double else config
    with tempfile.TemporaryDirectory() as scratch:
        trainer = training.Trainer(config, 3, folder or Path(scratch))
        steps, gradients = [], {}
        for index in range(trainer.total):
            steps.append(trainer.step(config.task.training_batch(index, config.training.batch, 3))[:2])
            trainer.iteration += 1
            gradients = gradients or {n: p.grad.clone() for n, p in trainer.model.named_parameters()}
        validation = trainer.validate()
        if trainer.log is not None:
            trainer.log.close()
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    return {"steps": steps, "gradients": gradients, "weights": weights, "validation": validation}


def all_trained(cases: dict[str, tuple[str, list[str]]], *, double: bool) -> dict[str, dict[str, Any]]:
    """Each of these cases."""
    return {name: trained(task, settings, double=double) for name, (task, settings) in cases.items()}


def both_trained(cases: dict[str, tuple[str, list[str]]]) -> list[dict[str, dict[str, Any]]]:
    """Each of these cases in float32, then in float64."""
    return [all_trained(cases, double=double) for double in (False, True)]


def trained_with(bugs: list[tuple[str, str, str]], task: str, settings: list[str]) -> list[dict[str, Any]]:
    """The same with each of these bugs planted: (module, text, what it becomes)."""
    results = []
    for module, old, new in bugs:
        fresh = planting.changed(module, old, new)[module]
        with pytest.MonkeyPatch.context() as patch:
            if module == model.__name__:
                patch.setattr(model, "dropped", fresh.dropped)
            else:
                patch.setattr(training, "ranks", fresh)
                patch.setattr(tasks, "whole_mean", fresh.whole_mean)
            results.append(trained(task, settings, double=True))
    return results


def all_resumed(runs: dict[Path, Config], seeds: list[int]) -> None:
    """Train all of these runs in this process."""
    for folder, config in runs.items():
        for seed in seeds:
            training.train(config, seed, folder / f"seed-{seed}", quiet=True)


def resumed(task: str, settings: list[str], folder: Path) -> Any:
    """Train, from what the folder holds, and return the result."""
    return training.train(load_config(task, settings), 3, folder, quiet=True)
