"""`hetsyn report`: runs and claims side by side on one HTML page that needs neither network nor other files.

    write([Path("runs/hetsyn"), Path("runs/homneu"), Path("claims/table4")], Path("report.html"))

What the page says stands in report.html (Jinja, which escapes whatever comes from files), how it looks in report.css.
"""

from __future__ import annotations

import base64
import io
import json
import math
import shlex
import struct
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

import hetsyn_plugins
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.files import replacing
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import analysis, plots
from hetsyn_plugins.experiments.run_folder import CONFIG, SUMMARY
from hetsyn_plugins.experiments.tasks import TASKS
from hetsyn_plugins.experiments.training import FAILURE, NETWORK, RESULT, START
from hetsyn_plugins.experiments.training_log import LOG, read_log
from hetsyn_plugins.experiments.variants import VARIANTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What has to be in the files that are read: key -> types.
Kinds = Mapping[str, tuple[type, ...]]
NUMBER, TEXT, NUMBER_OR_NONE = (int, float), (str,), (int, float, NoneType)
SETTINGS: Kinds = {"framework": TEXT, "task.name": TEXT, "network.variant": TEXT, "network.hidden": (list,)}
RECORD: Kinds = {"iteration": (int,), "score": NUMBER, "validation": NUMBER_OR_NONE}
OF_SEED: Kinds = {
    "measure": TEXT, "test": NUMBER, "validation": NUMBER_OR_NONE, "iterations": (int,), "selected_iteration": (int,),
    "select": TEXT, "seconds": NUMBER, "peak_memory_mb": NUMBER, "threads": (int,), "framework": TEXT,
    "parameters": (int,), "versions": (dict,),
}  # fmt: skip
CLAIM: Kinds = {
    "title": TEXT, "statement": TEXT, "command": TEXT, "verdict": TEXT, "tried": TEXT,
    "rows": (list,), "pictures": (list,), "runs": (list,),
}  # fmt: skip
ROW: Kinds = {
    "label": TEXT, "paper": NUMBER_OR_NONE, "ours": NUMBER, "sd": NUMBER_OR_NONE, "n": (int,), "unit": TEXT,
    "holds": (bool, NoneType), "note": TEXT,
}  # fmt: skip
PICTURE: Kinds = {"file": TEXT, "caption": TEXT}


def write(folders: Sequence[Path], out: Path) -> Path:
    """Write the page that compares these folders to `out`, atomically, and return `out`.

    folders  each a run (config.toml and seed-*/, as `hetsyn train` leaves it, ended or not) or a claim (claim.json);
             the runs that a claim names come with it

    Raises ValueError or FileNotFoundError, naming the file, where a folder is neither, or a file is damaged or missing.
    """
    if not folders:
        raise ValueError("folders: expected at least one run or claim, got none")
    claims = [Claim(folder) for folder in folders if (folder / "claim.json").is_file()]
    paths = [folder for folder in folders if not (folder / "claim.json").is_file()]
    paths += [path for claim in claims for path in claim.runs]
    paths = list(dict.fromkeys(path.resolve() for path in paths))
    runs = [Run(p, label, f"run-{i}") for i, (p, label) in enumerate(zip(paths, _labels(paths), strict=True), 1)]
    command = shlex.join(["hetsyn", "report", *map(str, folders), "--out", str(out)])
    page = _template().render(
        title=_title(claims, runs),
        claims=claims,
        runs=runs,
        differences=_differences(runs),
        versions=_shared_versions(runs),
        curves=[_learning_curves(group, command) for group in _comparable(runs)],
        histograms=[picture for run in runs for picture in _tau_histograms(run, command)],
        command=command,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        by=hetsyn_plugins.__version__,
    )
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


# ---- what the folders hold ---------------------------------------------------------------------------------------


class Seed:
    """One seed of a run: its log, and its result or what became of it instead."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, folder.name.removeprefix("seed-")
        self.log = _log(folder / LOG)
        self.result = _read_if_there(folder / RESULT, OF_SEED)
        self.failure = _read_if_there(folder / FAILURE, {"message": TEXT})

    @property
    def done(self) -> bool:
        """It ended with a measure that is a number."""
        return self.result is not None and math.isfinite(self.result["test"])

    @property
    def state(self) -> str:
        """ "done", or what became of it."""
        if self.done:
            return "done"
        if self.result is not None:
            return f"failed: the measure on the test set is {self.result['test']}"
        if self.failure is not None:
            return f"failed: {self.failure['message']}"
        return f"not ended, logged up to iteration {self.log[-1]['iteration']}" if self.log else "not ended, no log yet"

    def taus(self, file: str) -> dict[str, Array]:
        """Time constants in seconds of each layer of a network file; none where there is no such file."""
        path = self.folder / file
        if not path.exists():
            return {}
        try:
            return analysis.taus(checkpoint.load(path))
        except ValueError as error:
            raise ValueError(f"folders: expected a network with time constants, got {path}: {error}") from error


class Run:
    """A folder as `hetsyn train` leaves it; `label` tells it from the others on the page, `anchor` is where it is."""

    def __init__(self, folder: Path, label: str, anchor: str) -> None:
        self.folder, self.label, self.anchor = folder, label, anchor
        self.toml, self.config = _config(folder)
        self.summary = _read_if_there(folder / SUMMARY, {"command": TEXT})
        found = sorted(folder.glob("seed-*"), key=lambda path: (len(path.name), path.name))
        self.seeds = [Seed(path) for path in found if path.is_dir()]
        self.done = [seed for seed in self.seeds if seed.done]
        self.results = [seed.result for seed in self.done if seed.result is not None]
        self.shown = self.done or self.seeds  # in pictures: a mean would jump where a seed that is not done leaves it

    @property
    def network(self) -> str:
        """The variant as the paper writes it: R-HetSynLIF."""
        variant = self.config["network.variant"]
        title = VARIANTS[variant].title if variant in VARIANTS else variant
        return f"{'R' if self.config.get('network.recurrent') else 'F'}-{title}"

    @property
    def measure(self) -> str:
        """What its score is."""
        task = self.config["task.name"]
        return self.results[0]["measure"] if self.results else TASKS[task].measure if task in TASKS else "score"

    @property
    def problems(self) -> list[str]:
        """The seeds that are not done, and why."""
        return [f"seed {seed.number} {seed.state}" for seed in self.seeds if not seed.done]

    @property
    def command(self) -> str:
        """What made it, or what goes on with it where it has not ended."""
        if self.summary is not None:
            return str(self.summary["command"])
        seeds = ",".join(seed.number for seed in self.seeds) or "0"
        return shlex.join(["hetsyn", "train", str(self.folder / CONFIG), "--seeds", seeds, "--out", str(self.folder)])

    @property
    def versions(self) -> dict[str, str]:
        """What its results were made with; several where its seeds differ."""
        names = dict.fromkeys(name for result in self.results for name in result["versions"])
        found = {name: [result["versions"].get(name, "none") for result in self.results] for name in names}
        return {name: ", ".join(dict.fromkeys(versions)) for name, versions in found.items()}

    @cached_property
    def taus(self) -> dict[str, dict[str, Array]]:
        """Synapses -> "before" and "after" training, as far as there are files -> seconds, flat, of all seeds shown."""
        found: dict[str, dict[str, list[Array]]] = {}
        for seed in self.shown:
            for when, file in (("before", START), ("after", NETWORK)):
                for layer, tau in seed.taus(file).items():
                    found.setdefault(layer, {}).setdefault(when, []).append(tau.ravel())
        return {layer: {when: np.concatenate(t) for when, t in parts.items()} for layer, parts in found.items()}

    @property
    def tau_summaries(self) -> dict[str, dict[str, analysis.TauSummary]]:
        """The same in few numbers."""
        return {layer: {when: analysis.summarise(t) for when, t in parts.items()} for layer, parts in self.taus.items()}

    def values(self, key: str) -> list[float]:
        """An entry of the results of all seeds that are done, where it is a number."""
        return _numbers(result[key] for result in self.results)


class Claim:
    """A folder with one claim of the paper put to the test: claim.json, and pictures beside it."""

    def __init__(self, folder: Path) -> None:
        path = folder / "claim.json"
        self.folder, self.content = folder, _read(path, CLAIM)
        self.rows = [_checked(path, row, ROW, f"rows[{index}].") for index, row in enumerate(self.content["rows"])]
        found = [_checked(path, p, PICTURE, f"pictures[{index}].") for index, p in enumerate(self.content["pictures"])]
        self.figures = [
            Figure(_png(folder / p["file"]), f"{self.content['title']}: {p['caption']}", p["caption"], [self.command])
            for p in found
        ]
        for name in self.content["runs"]:
            if not isinstance(name, str):
                raise ValueError(f"folders: expected runs to be names of folders in {path}, got {name!r}")
        self.runs = [folder / name for name in self.content["runs"]]

    @property
    def command(self) -> str:
        """What made it."""
        return str(self.content["command"])

    @property
    def outcome(self) -> tuple[str, str]:
        """Whether it holds, in words, and as a class of the style sheet."""
        judged = [row["holds"] for row in self.rows if row["holds"] is not None]
        if not judged:
            return "not judged", "open"
        if all(judged):
            return "holds", "good"
        where = "" if not any(judged) else f" in {judged.count(False)} of {len(judged)} rows"
        return f"differs from the paper{where}", "bad"


def _log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; the last line may be cut off, where a run was killed."""
    try:
        records = read_log(path)
    except ValueError as error:
        raise ValueError(f"folders: expected a whole log, got {path}: {error}") from error
    return [_checked(path, record, RECORD) for record in records]


def _config(folder: Path) -> tuple[str, dict[str, Any]]:
    """config.toml as it stands, and as "table.key" -> value."""
    path = folder / "config.toml"
    if not folder.is_dir():
        raise FileNotFoundError(f"folders: expected a run or a claim, got {folder}, which is no folder")
    if not path.is_file():
        raise ValueError(f"folders: expected a run (config.toml) or a claim (claim.json), got {folder} with neither")
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"folders: expected TOML, got {path}: {error}") from error
    flat: dict[str, Any] = {}
    for table, entries in tables.items():
        flat |= {f"{table}.{k}": v for k, v in entries.items()} if isinstance(entries, dict) else {table: entries}
    return text, _checked(path, flat, SETTINGS)


def _read_if_there(path: Path, kinds: Kinds) -> dict[str, Any] | None:
    return _read(path, kinds) if path.exists() else None


def _read(path: Path, kinds: Kinds) -> dict[str, Any]:
    """The content of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"folders: expected JSON, got {path}: {error}") from error
    return _checked(path, content, kinds)


def _checked(path: Path, content: Any, kinds: Kinds, within: str = "") -> dict[str, Any]:
    """What was read from a file, if it is an object with these entries of these types."""
    if not isinstance(content, dict):
        raise ValueError(f"folders: expected an object {within} in {path}, got {content!r}")
    for key, types in kinds.items():
        value = content.get(key, "nothing")
        if key not in content or not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            names = " or ".join("nothing" if t is NoneType else t.__name__ for t in types)
            raise ValueError(f"folders: expected {within}{key} to be {names} in {path}, got {value!r}")
    return content


def _png(path: Path) -> bytes:
    """The bytes of a picture that a claim names."""
    if not path.is_file():
        raise FileNotFoundError(f"folders: expected a picture that claim.json names, got {path}, which does not exist")
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) < 24:
        raise ValueError(f"folders: expected a PNG, got {path}, which is none")
    return content


# ---- what is made of it -------------------------------------------------------------------------------------------


class Figure(NamedTuple):
    """A picture as the bytes of a PNG, what it shows in words, its caption, and the commands that make it."""

    png: bytes
    alt: str
    caption: str
    commands: list[str]

    @property
    def uri(self) -> str:
        """The picture itself as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the header of the PNG: the page does not jump when it is decoded."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height


def _labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""

    def end(path: Path, parts: int) -> str:
        return "/".join(path.parts[-parts:])

    def told_apart(path: Path) -> str:
        lengths = range(1, len(path.parts) + 1)
        return next(end(path, n) for n in lengths if sum(end(other, n) == end(path, n) for other in paths) == 1)

    return [told_apart(path) for path in paths]


def _title(claims: Sequence[Claim], runs: Sequence[Run]) -> str:
    parts = [
        f"{len(found)} {what}{'s' * (len(found) > 1)}" for found, what in ((claims, "claim"), (runs, "run")) if found
    ]
    return " and ".join(parts)


def _shared_versions(runs: Sequence[Run]) -> dict[str, str]:
    """The versions that all results have in common."""
    found = [run.versions for run in runs if run.results]
    return {name: v for name, v in found[0].items() if all(f.get(name) == v for f in found)} if found else {}


def _differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings, and versions of what they ran with, in which runs differ: key -> each run's."""
    shared = _shared_versions(runs)
    settings = [
        run.config | {f"version of {name}": v for name, v in run.versions.items() if name not in shared} for run in runs
    ]
    keys = dict.fromkeys(key for run in settings for key in run)
    rows = {key: [_setting(run.get(key)) for run in settings] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def _comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs in groups whose curves have an axis in common: same task, same measure, anything logged."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if any(seed.log for seed in run.seeds):
            groups.setdefault((run.config["task.name"], run.measure), []).append(run)
    return list(groups.values())


def _learning_curves(runs: Sequence[Run], command: str) -> Figure:
    """All runs in the same axes, mean and s.d. over seeds: on validation where it was measured, else in training."""
    validated = any(r["validation"] is not None for run in runs for seed in run.seeds for r in seed.log)
    key, where = ("validation", "validation samples") if validated else ("score", "training batches")
    logs = {run.label: [seed.log for seed in run.shown] for run in runs}
    names = [_in_legend(label) for label in logs]
    ax = plots.learning_curves(dict(zip(names, logs.values(), strict=True)), key, ylabel=f"{runs[0].measure} ({where})")
    ax.figure.set_figheight(3.2 + 0.09 * sum(1 + name.count("\n") for name in names))  # two columns of names
    caption = f"{runs[0].config['task.name']}: {runs[0].measure} on {where}, mean and s.d. over seeds"
    ends = [f"{label} {_spread(_last(found, key), runs[0].measure)}" for label, found in logs.items()]
    return Figure(
        _drawn(ax), f"{caption}. At the end: {'; '.join(ends)}", caption, [*(run.command for run in runs), command]
    )


def _in_legend(label: str) -> str:
    """In lines short enough for half a picture, and no formula where there are dollars."""
    return "\n".join(textwrap.wrap(label, 22)).replace("$", r"\$")


def _last(logs: Sequence[list[dict[str, Any]]], key: str) -> list[float]:
    """The last number that each log has for an entry."""
    found = [_numbers(record[key] for record in log) for log in logs]
    return [values[-1] for values in found if values]


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _tau_histograms(run: Run, command: str) -> list[Figure]:
    """One picture of all synapses whose time constants are not all the same; none where there are no such synapses."""
    drawn = {name: parts for name, parts in run.taus.items() if len(parts) == 2 and _differ(parts)}
    if not drawn:
        return []
    ax = plots.tau_change(*({name: parts[when] for name, parts in drawn.items()} for when in ("before", "after")))
    caption = f"{run.label}: time constants before and after training, all seeds together"
    medians = [
        f"{name} {when} {_ms(float(np.median(t)))}" for name, parts in drawn.items() for when, t in parts.items()
    ]
    return [Figure(_drawn(ax), f"{caption}. Medians: {'; '.join(medians)}", caption, [run.command, command])]


def _differ(parts: Mapping[str, Array]) -> bool:
    """Time constants that are neither 0 nor infinite, and not all the same."""
    inside = analysis.between_ends(np.concatenate(list(parts.values())))
    return inside.size > 0 and bool(inside.min() < inside.max())


def _drawn(ax: Any) -> bytes:
    """The figure of an axes as a PNG, so narrow that its print can be read on a telephone."""
    ax.figure.set_size_inches(4.8, ax.figure.get_figheight())
    png = io.BytesIO()
    ax.figure.savefig(png, format="png", dpi=160)
    return png.getvalue()


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"spread": _spread, "number": _number, "duration": _duration, "average": fmean}
    return environment.get_template("report.html")


def _number(value: float | None) -> str:
    """Two digits after the point, four that count below 1, whole numbers as they are."""
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:.4g}"


def _spread(values: Sequence[float], measure: str) -> str:
    """Mean and s.d. over seeds, accuracies in percent, errors to four digits of the mean."""
    if not values:
        return "none"
    percent = measure == "accuracy"
    scaled = [100 * value if percent else value for value in values]
    mean = fmean(scaled)
    if not math.isfinite(mean):
        return str(mean)
    digits = 2 if percent else max(0, 3 - math.floor(math.log10(abs(mean) or 1)))
    spread = f" ± {stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{mean:.{digits}f}{spread} {'%' if percent else measure}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"


def _duration(seconds: float) -> str:
    """The two largest of hours, minutes and seconds that are needed."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _setting(value: Any) -> str:
    """A setting as TOML has it, but for quotes."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
