"""The configuration of a training run: a task, a network and how it is trained, from and to TOML.

    load_config("dms", ["network.hidden=[100]", "task.delay=2.5"])   # a task by name: the paper's settings, two changed
    load_config("mydata.npz")                                        # own data, with the task's usual settings
    load_config("runs/dms/config.toml")                              # as it was written beside a result

What is written is resolved: it holds every setting, so that a later default cannot change what it means.
"""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hetsyn_plugins.core.bounded import parse_toml, read_toml
from hetsyn_plugins.core.file_format import FileFormatError, from_check, mended_by, shown
from hetsyn_plugins.exchange.frameworks import FRAMEWORKS
from hetsyn_plugins.experiments.checks import check, check_among
from hetsyn_plugins.experiments.data.own import SUFFIXES
from hetsyn_plugins.experiments.imported import FORM, is_path
from hetsyn_plugins.experiments.tasks import TASKS, name_of, task_class
from hetsyn_plugins.experiments.tasks.own import OwnData
from hetsyn_plugins.experiments.tasks.task import Task
from hetsyn_plugins.experiments.variants import NetworkConfig
from hetsyn_plugins.ops.devices import checked_name
from hetsyn_plugins.ops.pruning import check_pruning

RATES = (
    "decay_lr",
    "delay_lr",
    "weight_decay",
    "decay_weight_decay",
    "schedule_factor",
    "schedule_floor",
)  # they may be 0
MOST_RATE = 1e9  # so that products of two rates and the weights are numbers of float32


@dataclass(frozen=True)
class TrainingConfig:
    """How it is trained (`training.py`).

    iterations        optimiser steps; 0: `epochs` over the data
    batch             samples a step
    optimiser         "adam" or "adamw" (which decouples weight decay)
    lr, decay_lr      learning rates of weights and of what stands for decays, in its own units (r, seconds, e-folds);
                      decay_lr 0: as lr
    delay_lr          learning rate of delays, in steps
    delay_sigma, delay_sigma_until   width in steps of a Gaussian window that synapses with delays see at first
                      (`widening`); it falls evenly to 0 at that epoch (of samples that are drawn: iteration; 0: after
                      three quarters of the training)
    weight_decay, decay_weight_decay   of weights, and of what stands for decays: not 0 shrinks the taus
    schedule          "constant"; "step": times schedule_factor every schedule_every iterations; "cosine": `warmup`
                      (share of the span) up, then half a cosine down to schedule_floor over schedule_span epochs
                      (0: all of them), then constant
    clip              largest norm of the gradient; 0: not clipped
    density           what part of each layer's synapses is left when training ends, above 0; 1: all (`pruning`). Those
                      that are taken out are the weakest, between two points of training
    prune_by          "magnitude": |w|; "gain": |w| / (1 - r), what a constant input comes to
    prune_from, prune_until   the two points, in epochs (of samples that are drawn: iterations); until 0: three quarters
                      of what comes after prune_from. From the second one on networks are selected
    select            which network is kept: "last", "best_validation", or "best_test", the paper's way on some tasks,
                      which flatters the figure and is labelled so
    patience          validations without a better one after which the training stops, with "best_validation"; 0: never
    validate_every    iterations; 0: every epoch, or every 100 where samples are drawn
    checkpoint_every  iterations; 0: as often as it is validated
    log_every         iterations
    explosion         a loss above so many times the first one (or 1, where that is more) stops the run
    device            "cpu", "cuda" or a card by its number, "cuda:1"; a run may go on, and its networks be judged, on
                      another one: the result of a seed says where it ended
    threads, workers  threads of the computation; processes that prepare batches (0: none). Neither changes a batch;
                      another number of threads may change the last bits of a sum
    """

    iterations: int = 0
    epochs: int = 10
    batch: int = 32
    optimiser: str = "adam"
    lr: float = 1e-3
    decay_lr: float = 0.0
    delay_lr: float = 0.05
    delay_sigma: float = 0.0
    delay_sigma_until: int = 0
    weight_decay: float = 0.0
    decay_weight_decay: float = 0.0
    schedule: str = "constant"
    schedule_every: int = 100
    schedule_factor: float = 0.8
    schedule_floor: float = 0.01
    schedule_span: int = 0
    warmup: float = 0.0
    clip: float = 0.0
    density: float = 1.0
    prune_by: str = "magnitude"
    prune_from: int = 0
    prune_until: int = 0
    select: str = "last"
    patience: int = 0
    validate_every: int = 0
    checkpoint_every: int = 0
    log_every: int = 10
    explosion: float = 1e4
    device: str = "cpu"
    threads: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        checked_name("training.device", self.device)
        check_among("training.optimiser", self.optimiser, ("adam", "adamw"))
        check_among("training.schedule", self.schedule, ("constant", "step", "cosine"))
        check_among("training.select", self.select, ("last", "best_validation", "best_test"))
        for name in ("batch", "schedule_every", "log_every", "threads"):
            check(f"training.{name}", getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in (
            "iterations",
            "epochs",
            "patience",
            "validate_every",
            "checkpoint_every",
            "workers",
            "schedule_span",
            "prune_from",
            "prune_until",
            "delay_sigma_until",
        ):
            check(f"training.{name}", getattr(self, name), "at least 0", getattr(self, name) >= 0)
        for name in (*RATES, "clip", "delay_sigma"):
            check(f"training.{name}", getattr(self, name), "at least 0", 0 <= getattr(self, name) < math.inf)
        check("training.lr", self.lr, "> 0", 0 < self.lr < math.inf)
        for name in ("lr", *RATES):
            check(f"training.{name}", getattr(self, name), f"at most {MOST_RATE:g}", getattr(self, name) <= MOST_RATE)
        expected = "0 without training.select='best_validation'"
        check("training.patience", self.patience, expected, not self.patience or self.select == "best_validation")
        check("training.explosion", self.explosion, "> 1", self.explosion > 1)
        check_pruning(self.density, self.prune_by, {"density": "training.density", "by": "training.prune_by"})
        check("training.warmup", self.warmup, "0 to below 1", 0 <= self.warmup < 1)
        check("training.iterations", 0, "iterations or epochs > 0", bool(self.iterations or self.epochs))


@dataclass(frozen=True)
class Config:
    """All of it; `framework` is the adapter that trains: "snntorch", "norse" or "lava_dl"."""

    task: Task
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = TrainingConfig()
    framework: str = "snntorch"

    def __post_init__(self) -> None:
        check_among("framework", self.framework, FRAMEWORKS)
        if self.network.quantised and self.framework != "lava_dl":
            raise ValueError(f"network.quantised: expected framework 'lava_dl' with it, got {self.framework!r}")
        if self.network.clusters and self.framework == "lava_dl":
            raise ValueError(
                "network.clusters: expected 0 with framework 'lava_dl', whose blocks have no codebook, got "
                f"{self.network.clusters}"
            )
        if self.network.max_delay and self.framework == "lava_dl":
            raise ValueError(
                "network.max_delay: expected 0 with framework 'lava_dl', whose blocks delay whole axons (train in "
                f"snntorch or norse, and export), got {self.network.max_delay}"
            )
        if self.training.density < 1 and self.framework == "lava_dl":
            raise ValueError(
                "training.density: expected 1 with framework 'lava_dl', whose blocks do not prune (train in snntorch "
                f"or norse, and convert), got {self.training.density}"
            )


def load_config(
    source: str | Path, settings: Sequence[str] = (), framework: str | None = None, preset: str | None = None
) -> Config:
    """The configuration of a task by its name (the paper's settings) or import path, of a file of own data
    (`data.own`), or of a TOML file, with "key=value" changes.

    preset   one of `Task.presets`, of a task by its name; "paper" is one of every task of the paper

    Raises ValueError for unknown names, tasks and keys (naming the nearest), wrong types and values out of range:
    FileFormatError, naming the file, for what stands in a file; FileNotFoundError where the file is missing;
    ImportError where a module of an import path cannot be imported.
    """
    if str(source) in TASKS or (is_path(str(source)) and not Path(source).exists()):
        values: dict[str, Any] = {"task.name": str(source), **_preset(str(source), preset)}
    elif Path(source).suffix.lower() in SUFFIXES:
        values = {"task.name": OwnData.name, "task.source": str(source), **_preset(OwnData.name, preset)}
    else:
        if preset is not None:
            raise ValueError(f"preset: expected none with a file, which has every setting, got {preset!r}")
        values = _settings_of(Path(source))
        if any(text.partition("=")[0].strip() == "task.name" for text in settings):
            raise ValueError(f"task.name: expected it unchanged, the settings in {source} are those of its task")
    values |= dict(parsed_setting(text) for text in settings)
    if framework is not None:
        values["framework"] = framework
    return resolve_config(values)


def _preset(task: str, preset: str | None) -> Mapping[str, Any]:
    """The settings of a task's preset; of "paper" none, where a task of the paper has them anyway."""
    kind = task_class(task)
    presets = {**({"paper": {}} if kind.paper and kind is not OwnData else {}), **kind.presets}
    if preset is not None and not presets:
        raise ValueError(f"preset: expected none for {task}, which has none, got {shown(repr(preset))}")
    if preset is not None and preset not in presets:
        raise ValueError(f"preset: expected one of {', '.join(presets)} for {task}, got {shown(repr(preset))}")
    return {} if preset is None else presets[preset]


def changed_config(config: Config, settings: Sequence[str]) -> Config:
    """The same configuration but for "key=value" changes, of which a task's name is none."""
    changes, name = dict(parsed_setting(text) for text in settings), name_of(config.task)
    if changes.get("task.name", name) != name:
        raise ValueError(f"task.name: expected {name}, as configured, got {changes['task.name']!r}")
    return resolve_config(flattened(_tables(config)) | changes)


def resolve_config(values: Mapping[str, Any]) -> Config:
    """The configuration of "table.key" -> value; what is not there is the task's paper setting, else the default."""
    name = values.get("task.name")
    if not isinstance(name, str) or (name not in TASKS and not is_path(name)):
        near = _nearest(shown(name), TASKS)
        raise ValueError(f"task.name: expected one of {', '.join(TASKS)} or {FORM}, got {shown(repr(name))}{near}")
    kind = task_class(name)
    _check_keys(values, kind)
    task = _task(kind, _section("task", values, kind))
    full = {**task.paper, **values}
    network = NetworkConfig(**_section("network", full, NetworkConfig))
    training = TrainingConfig(**_section("training", full, TrainingConfig))
    return Config(task, network, training, _typed("framework", values.get("framework", Config.framework), str))


def _task(kind: type[Task], values: Mapping[str, Any]) -> Task:
    """The task of these settings; what is wrong with one is told with its key."""
    try:
        return kind(**values)
    except ValueError as error:
        name = str(error).partition(":")[0]
        raise ValueError(f"task.{error}" if name in values else str(error)) from error


def to_toml(config: Config) -> str:
    """Every setting, as `load_config` reads it."""
    tables = _tables(config)
    lines = [f"framework = {toml_value(tables.pop('framework'))}"]
    for table, entries in tables.items():
        lines += ["", f"[{table}]", *(f"{key} = {toml_value(value)}" for key, value in entries.items())]
    return "\n".join(lines) + "\n"


def differences(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """The keys in which two configurations differ, with both values (None: not there)."""
    a, b = flattened(_tables(one)), flattened(_tables(other))
    return {key: (a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)}


def _tables(config: Config) -> dict[str, Any]:
    """As nested tables; settings that are None are left out, TOML has no such value."""
    tables: dict[str, Any] = {"framework": config.framework, "task": {"name": name_of(config.task)}}
    for table in ("task", "network", "training"):
        part: Any = getattr(config, table)
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        tables.setdefault(table, {}).update({key: value for key, value in values.items() if value is not None})
    return tables


def flattened(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables as "table.key" -> value."""
    flat: dict[str, Any] = {}
    for table, entries in tables.items():
        flat |= {f"{table}.{k}": v for k, v in entries.items()} if isinstance(entries, Mapping) else {table: entries}
    return flat


def _settings_of(path: Path) -> dict[str, Any]:
    """What stands in a file, as "table.key" -> value, each a setting that there is, with a value that it can have."""
    if not path.is_file():
        what = f"one of {', '.join(TASKS)}, {FORM}, a file of data ({', '.join(SUFFIXES)}) or a TOML file"
        near = _nearest(str(path), TASKS)
        lacks = "is no file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"config: expected {what}, got {path}, which {lacks}{near}")
    hint = "" if path.suffix == ".toml" else f"data of your own are taken from {', '.join(SUFFIXES)}"
    with mended_by(hint) if hint else nullcontext():
        values = flattened(read_toml(path, "a configuration in TOML"))
    values = {**_of_before(values), **values}
    try:
        resolve_config(values)
    except FileFormatError:  # of another file, which a setting names
        raise
    except ValueError as error:
        raise from_check(path, error) from error
    return values


def _of_before(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What settings of the task were before they were ones, where the file is of before: it has all the others."""
    name = values.get("task.name")
    kind = TASKS.get(name) if isinstance(name, str) else None
    if kind is None:
        return {}
    written = {f"task.{field.name}" for field in fields(kind) if field.default is not None}
    later = {f"task.{name}": value for name, value in kind.before.items()}
    return later if written - later.keys() <= values.keys() else {}


def parsed_setting(text: str) -> tuple[str, Any]:
    """ "key=value", the value in TOML; a bare word is a string, and none is None."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set: expected key=value, got {shown(text)!r}")
    key, value = key.strip(), value.strip()
    if value.lower() == "none":
        return key, None
    try:
        content = parse_toml(f"value = {value}", Path(key))
    except FileFormatError:
        return key, value
    return key, content["value"] if len(content) == 1 else value


def _check_keys(keys: Iterable[str], kind: type) -> None:
    parts: dict[str, Any] = {"task": kind, "network": NetworkConfig, "training": TrainingConfig}
    known = ["framework", "task.name", *(f"{t}.{f.name}" for t, part in parts.items() for f in fields(part))]
    for key in keys:
        if key not in known:
            what, near = "a known key (--show prints all)", _nearest(shown(key), known)
            raise ValueError(f"setting: expected {what}, got {shown(repr(key))}{near}")


def _nearest(word: str, known: Iterable[str]) -> str:
    """ "; nearest: ..." of a word that may be mistyped, also where its table was left out; "" where nothing is near."""
    known = list(known)
    tails = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    near += [tails[tail] for tail in difflib.get_close_matches(word.rpartition(".")[2], tails, n=3, cutoff=0.6)]
    return f"; nearest: {', '.join(dict.fromkeys(near))}" if near else ""


def _section(table: str, values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The values of a table for the fields of a dataclass, of the types that it declares."""
    hints = typing.get_type_hints(kind)
    names = {f"{table}.{field.name}": field.name for field in fields(kind)}
    return {names[key]: _typed(key, value, hints[names[key]]) for key, value in values.items() if key in names}


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
            raise ValueError(f"{key}: expected {expected}, got {shown(repr(value))}")
        return tuple(_typed(key, entry, parts[0]) for entry in value)  # all our tuples are of one type
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{key}: expected numbers of 64 bits, got {shown(repr(value))}")
    if hint is float and whole:
        return float(value)
    if not isinstance(value, hint) or (hint is int and not whole):
        raise ValueError(f"{key}: expected a value of type {hint.__name__}, got {shown(repr(value))}")
    if hint is str and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{key}: expected a text in UTF-8 without NUL, got {shown(repr(value))}")
    return value


def toml_value(value: Any) -> str:
    """A number, truth value, string or list as TOML writes it; None as `--set` reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str):  # JSON lets one control character stand that TOML does not
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
