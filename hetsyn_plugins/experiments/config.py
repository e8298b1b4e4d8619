"""The configuration of a training run: a task, a network and how it is trained, from and to TOML.

    load("dms", ["network.hidden=[100]", "task.delay=2.5"])   # a task by name: the paper's settings, two changed
    load("runs/dms/config.toml")                              # as it was written beside a result

What is written is resolved: it holds every setting, so that a later default cannot change what it means.
"""

from __future__ import annotations

import difflib
import json
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hetsyn_plugins.experiments.tasks import TASKS
from hetsyn_plugins.experiments.tasks.task import Task
from hetsyn_plugins.experiments.variants import DISTRIBUTIONS, SURROGATES, VARIANTS
from hetsyn_plugins.ops.trainable import PARAMETRIZATIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FRAMEWORKS = ("snntorch", "norse", "lava_dl")


def _among(name: str, value: str, known: Iterable[str]) -> None:
    _check(name, value, f"one of {', '.join(known)}", value in known)


def _check(name: str, value: Any, expected: str, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


@dataclass(frozen=True)
class NetworkConfig:
    """What network (`variants.py` builds it). Times in seconds.

    variant           "hetsyn": a learned tau a synapse; "hetneu": one a neuron, its reset's too; "single_tau": one
                      learned tau for the whole network; "homneu": tau_reset everywhere, fixed; "alif": that, with
                      threshold adaptation
    recurrent         hidden layers have recurrent synapses ("R-"; False: "F-")
    hidden            neurons in each hidden layer
    frozen            share of the taus of synapses that stay as they start, 0 to 1
    parametrization   what is trained: "decay" (r), "tau" or "log_tau"
    tau_distribution  "normal" (mean, s.d.), "uniform" (low, high) or "log_normal" (median, e-folds): the two numbers of
    tau_start         how hetsyn and hetneu start; the others start at tau_reset
    tau_reset         of the reset current; learned only where it is the synapses' (hetneu, single_tau)
    tau_adaptation, adaptation   of alif
    surrogate         "triangular" or "multi_gaussian"
    dropout           on the spikes of hidden layers
    quantised         lava_dl only: the forward pass in the chip's integers (spikes or counts in, no dropout)
    """

    variant: str = "hetsyn"
    recurrent: bool = True
    hidden: tuple[int, ...] = (64,)
    frozen: float = 0.0
    parametrization: str = "decay"
    tau_distribution: str = "normal"
    tau_start: tuple[float, float] = (20e-3, 5e-3)
    tau_reset: float = 20e-3
    tau_adaptation: float = 100e-3
    adaptation: float = 0.05
    surrogate: str = "multi_gaussian"
    dropout: float = 0.0
    quantised: bool = False

    def __post_init__(self) -> None:
        _among("network.variant", self.variant, VARIANTS)
        _among("network.parametrization", self.parametrization, PARAMETRIZATIONS)
        _among("network.tau_distribution", self.tau_distribution, DISTRIBUTIONS)
        _among("network.surrogate", self.surrogate, SURROGATES)
        _check("network.hidden", self.hidden, "at least one layer of at least 1 neuron", bool(self.hidden))
        _check("network.hidden", self.hidden, "at least 1 neuron a layer", all(n >= 1 for n in self.hidden))
        _check("network.frozen", self.frozen, "0 to 1", 0 <= self.frozen <= 1)
        _check("network.dropout", self.dropout, "0 to below 1", 0 <= self.dropout < 1)
        for name in ("tau_reset", "tau_adaptation"):
            _check(f"network.{name}", getattr(self, name), "seconds > 0", 0 < getattr(self, name) < math.inf)
        _check("network.adaptation", self.adaptation, "a finite number", math.isfinite(self.adaptation))
        try:
            DISTRIBUTIONS[self.tau_distribution](*self.tau_start, dt=1.0)
        except ValueError as error:
            raise ValueError(f"network.tau_start: {error}, in {list(self.tau_start)}") from error
        if self.quantised and self.dropout:
            raise ValueError(f"network.quantised: expected network.dropout=0 with it, got {self.dropout}")
        if self.frozen and self.variant != "hetsyn":
            raise ValueError(f"network.frozen: expected 0 with variant {self.variant!r}, got {self.frozen}")


@dataclass(frozen=True)
class TrainingConfig:
    """How it is trained (`training.py`).

    iterations        optimiser steps; 0: `epochs` over the data
    batch             samples a step
    optimiser         "adam" or "adamw" (which decouples weight decay)
    lr, decay_lr      learning rates of weights and of what stands for decays, in its own units (r, seconds, e-folds);
                      decay_lr 0: as lr
    weight_decay, decay_weight_decay   of weights, and of what stands for decays: not 0 shrinks the taus
    schedule          "constant"; "step": times schedule_factor every schedule_every iterations; "cosine": `warmup`
                      (share of the span) up, then half a cosine down to schedule_floor over schedule_span epochs
                      (0: all of them), then constant
    clip              largest norm of the gradient; 0: not clipped
    select            which network is kept: "last", "best_validation", or "best_test", the paper's way on some tasks,
                      which flatters the figure and is labelled so
    validate_every    iterations; 0: every epoch, or every 100 where samples are drawn
    checkpoint_every  iterations; 0: as often as it is validated
    log_every         iterations
    explosion         a loss above so many times the first one (or 1, where that is more) stops the run
    threads, workers  threads of the computation; processes that prepare batches (0: none). Neither changes a batch;
                      another number of threads may change the last bits of a sum
    """

    iterations: int = 0
    epochs: int = 10
    batch: int = 32
    optimiser: str = "adam"
    lr: float = 1e-3
    decay_lr: float = 0.0
    weight_decay: float = 0.0
    decay_weight_decay: float = 0.0
    schedule: str = "constant"
    schedule_every: int = 100
    schedule_factor: float = 0.8
    schedule_floor: float = 0.01
    schedule_span: int = 0
    warmup: float = 0.0
    clip: float = 0.0
    select: str = "last"
    validate_every: int = 0
    checkpoint_every: int = 0
    log_every: int = 10
    explosion: float = 1e4
    threads: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        _among("training.optimiser", self.optimiser, ("adam", "adamw"))
        _among("training.schedule", self.schedule, ("constant", "step", "cosine"))
        _among("training.select", self.select, ("last", "best_validation", "best_test"))
        for name in ("batch", "schedule_every", "log_every", "threads"):
            _check(f"training.{name}", getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("iterations", "epochs", "validate_every", "checkpoint_every", "workers", "schedule_span"):
            _check(f"training.{name}", getattr(self, name), "at least 0", getattr(self, name) >= 0)
        for name in ("decay_lr", "weight_decay", "decay_weight_decay", "clip", "schedule_factor", "schedule_floor"):
            _check(f"training.{name}", getattr(self, name), "at least 0", 0 <= getattr(self, name) < math.inf)
        _check("training.lr", self.lr, "> 0", 0 < self.lr < math.inf)
        _check("training.explosion", self.explosion, "> 1", self.explosion > 1)
        _check("training.warmup", self.warmup, "0 to below 1", 0 <= self.warmup < 1)
        _check("training.iterations", 0, "iterations or epochs > 0", bool(self.iterations or self.epochs))


@dataclass(frozen=True)
class Config:
    """All of it; `framework` is the adapter that trains: "snntorch", "norse" or "lava_dl"."""

    task: Task
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    framework: str = "snntorch"

    def __post_init__(self) -> None:
        _among("framework", self.framework, FRAMEWORKS)
        if self.network.quantised and self.framework != "lava_dl":
            raise ValueError(f"network.quantised: expected framework 'lava_dl' with it, got {self.framework!r}")


def load(source: str | Path, settings: Sequence[str] = (), framework: str | None = None) -> Config:
    """The configuration of a task by its name (the paper's settings), or of a TOML file, with "key=value" changes.

    Raises ValueError for unknown names, tasks and keys (naming the nearest), wrong types and values out of range;
    FileNotFoundError where the file is missing.
    """
    if str(source) in TASKS:
        given: dict[str, Any] = {"task.name": str(source)}
    else:
        given = _flat(_read(Path(source)))
        if any(text.partition("=")[0].strip() == "task.name" for text in settings):
            raise ValueError(f"task.name: expected it unchanged, the settings in {source} are those of its task")
    given |= dict(_setting(text) for text in settings)
    if framework is not None:
        given["framework"] = framework
    return resolve(given)


def changed(config: Config, settings: Sequence[str]) -> Config:
    """The same configuration but for "key=value" changes, of which a task's name is none."""
    changes = dict(_setting(text) for text in settings)
    if changes.get("task.name", config.task.name) != config.task.name:
        raise ValueError(f"task.name: expected {config.task.name}, as configured, got {changes['task.name']!r}")
    return resolve(_flat(_tables(config)) | changes)


def resolve(given: Mapping[str, Any]) -> Config:
    """The configuration of "table.key" -> value; what is not given is the task's paper setting, else the default."""
    name = given.get("task.name")
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"task.name: expected one of {', '.join(TASKS)}, got {name!r}{_nearest(str(name), TASKS)}")
    kind = TASKS[name]
    _check_keys(given, kind)
    task = kind(**_section("task", given, kind))
    full = {**task.paper, **given}
    network = NetworkConfig(**_section("network", full, NetworkConfig))
    training = TrainingConfig(**_section("training", full, TrainingConfig))
    return Config(task, network, training, given.get("framework", Config.framework))


def to_toml(config: Config) -> str:
    """Every setting, as `load` reads it."""
    tables = _tables(config)
    lines = [f"framework = {toml_value(tables.pop('framework'))}"]
    for table, entries in tables.items():
        lines += ["", f"[{table}]", *(f"{key} = {toml_value(value)}" for key, value in entries.items())]
    return "\n".join(lines) + "\n"


def differences(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """The keys in which two configurations differ, with both values (None: not there)."""
    a, b = _flat(_tables(one)), _flat(_tables(other))
    return {key: (a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)}


def _tables(config: Config) -> dict[str, Any]:
    """As nested tables; settings that are None are left out, TOML has no such value."""
    tables: dict[str, Any] = {"framework": config.framework, "task": {"name": config.task.name}}
    for table in ("task", "network", "training"):
        part: Any = getattr(config, table)
        found = {field.name: getattr(part, field.name) for field in fields(part)}
        tables.setdefault(table, {}).update({key: value for key, value in found.items() if value is not None})
    return tables


def _flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for table, entries in tables.items():
        flat |= {f"{table}.{k}": v for k, v in entries.items()} if isinstance(entries, Mapping) else {table: entries}
    return flat


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        what = f"one of {', '.join(TASKS)} or a TOML file"
        near = _nearest(str(path), TASKS)
        lacks = "is no file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"config: expected {what}, got {path}, which {lacks}{near}")
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config: expected a TOML file, got {path}: {error}") from error


def _setting(text: str) -> tuple[str, Any]:
    """ "key=value", the value in TOML; a bare word is a string, and none is None."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set: expected key=value, got {text!r}")
    key, value = key.strip(), value.strip()
    if value.lower() == "none":
        return key, None
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _check_keys(given: Iterable[str], kind: type) -> None:
    parts: dict[str, Any] = {"task": kind, "network": NetworkConfig, "training": TrainingConfig}
    known = ["framework", "task.name", *(f"{t}.{f.name}" for t, part in parts.items() for f in fields(part))]
    for key in given:
        if key not in known:
            raise ValueError(f"setting: expected a known key (--show prints all), got {key!r}{_nearest(key, known)}")


def _nearest(word: str, known: Iterable[str]) -> str:
    """ "; nearest: ..." of a word that may be mistyped, also where its table was left out; "" where nothing is near."""
    known = list(known)
    tails = {name.rpartition(".")[2]: name for name in known}
    found = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    found += [tails[tail] for tail in difflib.get_close_matches(word.rpartition(".")[2], tails, n=3, cutoff=0.6)]
    return f"; nearest: {', '.join(dict.fromkeys(found))}" if found else ""


def _section(table: str, given: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The values given for the fields of a dataclass, of the types that it declares."""
    hints = typing.get_type_hints(kind)
    own = {field.name for field in fields(kind)}
    found = {key.partition(".")[2]: (key, value) for key, value in given.items() if key.startswith(f"{table}.")}
    return {name: _typed(key, value, hints[name]) for name, (key, value) in found.items() if name in own}


def _typed(key: str, value: Any, hint: Any) -> Any:
    """A value of the declared type (whole numbers pass for floats, lists for tuples), or ValueError."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        if not isinstance(value, (list, tuple)) or (parts[-1] is not ... and len(value) != len(parts)):
            expected = "a list" if parts[-1] is ... else f"a list of {len(parts)}"
            raise ValueError(f"{key}: expected {expected}, got {value!r}")
        return tuple(_typed(key, entry, parts[0]) for entry in value)  # all our tuples are of one type
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{key}: expected a value of type {hint.__name__}, got {value!r}")
    return value


def toml_value(value: Any) -> str:
    """A number, truth value, string or list as TOML writes it; None as `--set` reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
