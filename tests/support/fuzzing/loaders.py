"""How files are read: each by what a user's command calls. `read(folder, target)` gives what came out of the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hetsyn_plugins.cli.main import load_data
from hetsyn_plugins.core.network import HetSynConv, HetSynLayer, Linear
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.exchange import checkpoint, nir
from hetsyn_plugins.exchange.conversion import convert
from hetsyn_plugins.experiments.claims.evidence import read_recorded
from hetsyn_plugins.experiments.config import load_config, to_toml
from hetsyn_plugins.experiments.data import own
from hetsyn_plugins.experiments.data.idx import read_idx
from hetsyn_plugins.experiments.data.shd import read_recordings
from hetsyn_plugins.experiments.report.page import write_report
from hetsyn_plugins.experiments.report.reading import ClaimFolder
from hetsyn_plugins.experiments.run_folder import load_result
from hetsyn_plugins.experiments.training import Trainer

# a run that is made in a moment: of which the state is
SMALL = (
    "network.hidden=[4]", "training.iterations=6", "training.batch=2", "task.test_samples=4", "task.delay=0.02",
    "training.validate_every=2",
)  # fmt: skip
WRITTEN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")  # when a page was made


@dataclass(frozen=True)
class Resumed:
    """What a training run goes on from."""

    iteration: Any
    total: int
    seconds: Any
    first_loss: Any
    model: dict[str, Any]
    optimiser: dict[str, Any]
    best: Any


@dataclass(frozen=True)
class Page:
    """A report, but for when it was written."""

    html: str


def checkpoint_of(folder: Path, target: str) -> Any:
    return checkpoint.load(folder / target)


def checkpoint_to_snntorch(folder: Path, target: str) -> Any:
    return convert(checkpoint.load(folder / target, to="snntorch"), to="reference")


def checkpoint_run(folder: Path, target: str) -> Any:
    """The network, and what it makes of two steps of ones; what is said then knows no file."""
    network = checkpoint.load(folder / target)
    try:
        return network, network.run(np.ones((2, 1, *shape_before(network.layers[0]))))
    except ValueError as error:
        raise ValueError(f"{target}: {error}") from error


def shape_before(layer: Any) -> tuple[int, ...]:
    """Of what comes into a layer: lines, or images of 8 along each axis."""
    if isinstance(layer, HetSynConv):
        return layer.convolution.in_channels, *(8,) * layer.convolution.axes
    return (layer.widths[0],) if isinstance(layer, (HetSynLayer, Linear)) else (2, 8, 8)


def chip(folder: Path, target: str) -> Any:
    return chip_file.read(folder / target), chip_file.read_dt(folder / target)


def nir_graph(folder: Path, target: str) -> Any:
    return nir.read(folder / target, dt=1e-4, reset="subtract")


def nir_check(folder: Path, target: str) -> Any:
    return [list(map(str, finding)) for finding in nir.check(folder / target, "snn-mlir")]


def nir_recording(folder: Path, target: str) -> Any:
    return nir.read_recording(folder / target)


def idx(folder: Path, target: str) -> Any:
    return read_idx(folder / target)


def shd(folder: Path, target: str) -> Any:
    return read_recordings(folder / target)


def npz(folder: Path, target: str) -> Any:
    return load_data(str(folder / target), None)


def own_data(folder: Path, target: str) -> Any:
    parts = own.read(folder / target, None)
    frames = [part for part in parts if isinstance(part, own.Frames)]
    found = [(part.inputs, part.labels, part.lengths, part.groups) for part in frames]
    return found, [part.recordings for part in parts if isinstance(part, own.Events)]


def toml(folder: Path, target: str) -> Any:
    """The configuration, which must be the same when it is written and read again."""
    config = load_config(folder / target)
    (folder / "again.toml").write_text(to_toml(config), encoding="utf-8")
    again = load_config(folder / "again.toml")
    assert repr(again) == repr(config), f"{config} became {again}"
    return config


def state(folder: Path, target: str) -> Any:
    trainer = trainer_of(folder, (folder / "select.txt").read_text())
    trainer.log.close()
    model, optimiser = trainer.model.state_dict(), trainer.optimiser.state_dict()
    of_it = (trainer.iteration, trainer.total, trainer.seconds, trainer.first_loss)
    return Resumed(*of_it, model, optimiser, trainer.best)


def trainer_of(folder: Path, settings: str) -> Trainer:
    """A trainer in a folder, which goes on from the state that is there; settings: what is selected, and others."""
    select, *more = settings.split()
    return Trainer(load_config("dms", [*SMALL, f"training.select={select}", *more]), 0, folder)


def result(folder: Path, target: str) -> Any:
    return load_result(folder)


def claim(folder: Path, target: str) -> Any:
    found = ClaimFolder(folder)
    return found.content, found.pictures, [str(path) for path in found.runs], found.outcome


def numbers(folder: Path, target: str) -> Any:
    return read_recorded(folder)


def page(folder: Path, target: str) -> Any:
    out = write_report([folder / "claim", folder / "run"], folder / "page.html")
    return Page(WRITTEN.sub("", out.read_text(encoding="utf-8")))


LOADERS: dict[str, Callable[[Path, str], Any]] = {
    "checkpoint": checkpoint_of,
    "checkpoint to snnTorch": checkpoint_to_snntorch,
    "checkpoint run": checkpoint_run,
    "chip": chip,
    "nir": nir_graph,
    "nir check": nir_check,
    "nir recording": nir_recording,
    "idx": idx,
    "shd": shd,
    "npz": npz,
    "own": own_data,
    "toml": toml,
    "state": state,
    "result": result,
    "claim": claim,
    "numbers": numbers,
    "page": page,
}
