"""Training from Python, as `hetsyn train` does it, with what came of it at hand.

from hetsyn_plugins import experiments

result = experiments.train({"network.hidden": [64], "training.epochs": 5}, data, out="runs/mine")
print(result.test, result.history[0][-1])
before, after = result.networks[0]
found = experiments.train_sweep({"training.epochs": 5}, {"network.hidden": [[64], [128]]}, data, out="runs/grid")
best = max(found, key=lambda name: found[name].summary.validation.mean)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from hetsyn_plugins.core.files import make_folder, write_bytes
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.experiments import analyse, plots, training
from hetsyn_plugins.experiments.config import (
    Config,
    changed_config,
    flattened,
    load_config,
    parsed_setting,
    resolve_config,
)
from hetsyn_plugins.experiments.data import items
from hetsyn_plugins.experiments.data.quiet import quietly
from hetsyn_plugins.experiments.grid import points_of, train_points
from hetsyn_plugins.experiments.model import Model
from hetsyn_plugins.experiments.run_folder import RunSummary, checked_seeds, load_networks, seed_folder
from hetsyn_plugins.experiments.tasks.own import OwnData
from hetsyn_plugins.experiments.training_log import LOG, Record, read_log

KINDS = {".npz": "frames", ".h5": "events"}


@dataclass(frozen=True)
class Trained:
    """A run that has ended: its folder, which every command takes, its configuration, and its summary over seeds."""

    folder: Path
    config: Config
    summary: RunSummary

    @property
    def test(self) -> dict[int, float]:
        """The measure on the test set, by seed."""
        return dict(zip(self.summary.seeds, self.summary.test.values, strict=True))

    @cached_property
    def history(self) -> dict[int, list[Record]]:
        """The records of the log, by seed: iteration, epoch, loss, score, validation, lr, seconds."""
        return {seed: read_log(seed_folder(self.folder, seed) / LOG) for seed in self.summary.seeds}

    @cached_property
    def networks(self) -> dict[int, tuple[Network, Network]]:
        """Before and after training, by seed."""
        return {seed: load_networks(seed_folder(self.folder, seed)) for seed in self.summary.seeds}

    def model(self, seed: int) -> Model:
        """The trained network of a seed in its framework's layers, an nn.Module: inputs (T, B, M) -> Activity."""
        return training.model_of(self.networks[seed][1], self.config).eval()

    @cached_property
    def pictures(self) -> list[Path]:
        """Learning curves of all seeds, and the time constants of the first: PNG files, drawn when first asked for."""
        out = self.folder / "pictures"
        make_folder(out, "out")
        curves = {self.config.task.name: list(self.history.values())}
        keys = {"score": f"{self.config.task.measure} (training batches)"}
        if self.summary.validation.values:
            keys["validation"] = f"{self.config.task.measure} (validation samples)"
        drawn = [plots.save(plots.loss_curves(curves).figure, out / "loss.png")]
        drawn += [plots.save(plots.learning_curves(curves, key, ylabel=label).figure, out / f"{key}.png")
                 for key, label in keys.items()]  # fmt: skip
        return [*drawn, *analyse.pictures(*self.networks[self.summary.seeds[0]], out)]


def train(
    config: Config | Mapping[str, Any] | str | Path,
    data: Any = None,
    test: Any = None,
    *,
    out: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    sensor_size: Sequence[int] | None = None,
    jobs: int = 0,
    quiet: bool = False,
) -> Trained:
    """Train every seed that has no result in the folder yet, and return what came of all of them.

    config        a Config; settings, {"task.name": "dms", "training.lr": 1e-3} or in nested tables; or what `hetsyn
                  train` takes: a task's name, a file of data, a configuration in TOML
    data, test    a torch Dataset of (events or array, label), or anything like it (`data.items`); without `test` that
                  is split off. They are written into the folder, from where the run and every command has them
    out           the folder; None: runs/TASK
    seeds         of several each is trained in a process of its own, `jobs` at a time (0: as many as the cores hold)
    sensor_size   of events: width, height, polarities; None: as the data set says (tonic's do)

    Raises ValueError and TypeError, which name the setting or the item; TrainingStopped where the loss breaks.
    """
    of_data = Given(data, test, sensor_size)
    return _trained(config, {"": []}, of_data, out, seeds, jobs=jobs, quiet=quiet)[""]


def train_sweep(
    config: Config | Mapping[str, Any] | str | Path,
    sweep: Mapping[str, Any],
    data: Any = None,
    test: Any = None,
    *,
    out: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    sensor_size: Sequence[int] | None = None,
    jobs: int = 0,
    quiet: bool = False,
) -> dict[str, Trained]:
    """The same for every combination of some settings' values; what came of each, by the name of its folder in `out`.

    sweep   {"network.hidden": [[64], [128]], "training.lr": [1e-3, 5e-3]}, or in nested tables

    All of them are trained, also where one raises; then ValueError says which did.
    """
    of_data = Given(data, test, sensor_size)
    return _trained(config, points_of(sweep), of_data, out, seeds, jobs=jobs, quiet=quiet)


class Given(NamedTuple):
    """Data as they were given."""

    data: Any
    test: Any
    sensor_size: Sequence[int] | None


def _trained(
    config: Config | Mapping[str, Any] | str | Path,
    settings: Mapping[str, Sequence[str]],
    given: Given,
    out: str | Path | None,
    seeds: Sequence[int],
    **options: Any,
) -> dict[str, Trained]:
    """What came of a configuration with further settings, by the names of their folders in `out`."""
    seeds = checked_seeds(seeds)
    configs = {name: _resolved(config, given.data is not None, more) for name, more in settings.items()}
    first = next(iter(configs.values()))
    folder = Path(out) if out is not None else Path("runs", first.task.name)
    if given.data is not None:
        configs = _with_data(configs, folder, given)
    elif given.test is not None:
        raise ValueError("test: expected with data only, got it alone")
    with quietly(options["quiet"]):
        summaries = train_points(configs, seeds, folder, **options)
    return {name: Trained(folder / name, configs[name], summary) for name, summary in summaries.items()}


def _resolved(config: Config | Mapping[str, Any] | str | Path, has_data: bool, settings: Sequence[str]) -> Config:
    if isinstance(config, Config):
        return changed_config(config, settings) if settings else config
    if isinstance(config, Mapping):
        usual = {"task.name": OwnData.name} if has_data else {}
        return resolve_config({**usual, **flattened(config), **dict(map(parsed_setting, settings))})
    if isinstance(config, (str, Path)):
        return load_config(config, settings)
    raise TypeError(f"config: expected a Config, settings, or a task's or file's name, got {type(config).__name__}")


def _with_data(configs: Mapping[str, Config], folder: Path, given: Given) -> dict[str, Config]:
    """The configurations of the data's files, which are written into the folder."""
    for config in configs.values():
        if not isinstance(config.task, OwnData) or config.task.source:
            raise ValueError(f"data: expected none with a task that has its own, got some with {config.task.name!r}")
    sets = {"data": given.data} if given.test is None else {"data": given.data, "test": given.test}
    sensor = given.sensor_size
    packed = {
        name: items.packed(dataset, getattr(dataset, "sensor_size", None) if sensor is None else sensor)
        for name, dataset in sets.items()
    }
    first, last = packed["data"], packed[[*packed][-1]]
    if (first.suffix, first.width) != (last.suffix, last.width):
        kinds = [f"{KINDS[each.suffix]} of {each.width} input lines" for each in (first, last)]
        raise ValueError(f"test: expected {kinds[0]}, as data are, got {kinds[1]}")
    files = {name: folder.absolute() / f"{name}{each.suffix}" for name, each in packed.items()}
    begun = any(folder.glob("**/seed-*/*"))  # else they may be those of a first try that was refused
    for name, path in files.items():
        if begun and path.exists() and path.read_bytes() != packed[name].content:
            raise ValueError(f"{name}: expected the samples that are in {path}, got others; train in another folder")
    make_folder(folder, "out")
    for name, path in files.items():
        write_bytes(path, packed[name].content)
    changes: dict[str, Any] = {"source": str(files["data"])}
    changes |= {"test_source": str(files["test"]) if given.test is not None else None}
    return {name: _of_files(config, first.width, changes) for name, config in configs.items()}


def _of_files(config: Config, width: int, changes: Mapping[str, Any]) -> Config:
    assert isinstance(config.task, OwnData)
    return replace(config, task=replace(config.task, channels=config.task.channels or width, **changes))
