"""Sweeps over settings: every combination of their values, each a run in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from hetsyn_plugins.core.bounded import parse_toml
from hetsyn_plugins.core.file_format import FileFormatError, shown
from hetsyn_plugins.experiments.config import Config, flattened, toml_value
from hetsyn_plugins.experiments.run_folder import RunSummary
from hetsyn_plugins.experiments.sweep import train_seeds
from hetsyn_plugins.experiments.training import TrainingStopped

MOST = 1000  # points


def points(sweeps: Sequence[str]) -> dict[str, list[str]]:
    """The points of a sweep by the names of their folders: the settings of each, as `load_config` takes them.

    sweeps   "network.hidden=[64],[128]", say: a setting with its values, in TOML or bare words; none: a point ""

    Raises ValueError for anything else, for a setting twice, and for values that one folder would be for.
    """
    axes = dict(_axis(text) for text in sweeps)
    if len(axes) != len(sweeps):
        raise ValueError(f"--sweep: expected every setting once, got {', '.join(map(shown, sweeps))}")
    return _combined(axes)


def points_of(sweep: Mapping[str, Any]) -> dict[str, list[str]]:
    """The same of values by setting, {"network.hidden": [[64], [128]]}, or in nested tables; at least one of each.

    Raises ValueError and TypeError likewise.
    """
    if not isinstance(sweep, Mapping) or not sweep:
        raise TypeError(f"sweep: expected settings with the values of each, got {shown(repr(sweep))}")
    return _combined({key: _texts(key, values) for key, values in flattened(sweep).items()})


def _texts(key: str, values: Any) -> list[str]:
    """The values of a setting as TOML."""
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, Sequence) or isinstance(values, str) or not len(values):
        raise TypeError(f"sweep: expected a list of values for {key}, got {shown(repr(values))}")
    return [toml_value(value.item() if isinstance(value, np.generic) else value) for value in values]


def _combined(axes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Every combination."""
    names: dict[str, list[str]] = {}
    total = 1
    for values in axes.values():
        total *= len(values)
    if total > MOST:
        raise ValueError(f"sweep: expected at most {MOST} points, got {total}")
    for point in product(*axes.values()):
        settings = [f"{key}={value}" for key, value in zip(axes, point, strict=True)]
        name = ",".join(re.sub(r"[^\w.=+-]+", "-", setting).replace("=-", "=").strip("-") for setting in settings)
        if name in names:
            raise ValueError(f"sweep: expected values that differ, got {settings} beside {names[name]}")
        names[name] = settings
    return names


def _axis(text: str) -> tuple[str, list[str]]:
    """A setting and the texts of its values."""
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise ValueError(f"--sweep: expected key=value,value, got {shown(repr(text))}")
    try:
        content = parse_toml(f"values = [{values}]", Path(key.strip()))
    except FileFormatError:  # bare words
        return key.strip(), [value.strip() for value in values.split(",")]
    return key.strip(), [toml_value(value) for value in content["values"]]


def train_points(
    configs: Mapping[str, Config], seeds: Sequence[int], folder: Path, **options: Any
) -> dict[str, RunSummary]:
    """Train the seeds of every configuration in a folder of its name ("" is the folder itself), as `train_seeds` takes
    options. Raises what that raises of a single one; of several ValueError, after all were trained.
    """
    if len(configs) == 1:
        ((name, config),) = configs.items()
        return {name: train_seeds(config, seeds, folder / name, **options)}
    summaries, failed = dict[str, RunSummary](), []
    for name, config in configs.items():
        try:
            summaries[name] = train_seeds(config, seeds, folder / name, **options)
        except (ValueError, TrainingStopped) as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(configs)} points failed\n" + "\n".join(failed))
    return summaries
