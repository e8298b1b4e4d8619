"""`hetsyn report`: runs and claims side by side on one HTML page that needs neither network nor other files.

    write_report([Path("runs/hetsyn"), Path("runs/homneu"), Path("claims/table4")], Path("report.html"))

What the page says stands in report.html (Jinja, which escapes whatever comes from files), how it looks in report.css.
"""

from __future__ import annotations

import base64
import json
import math
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from hetsyn_plugins._version import __version__
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.file_format import unchecked_told_once
from hetsyn_plugins.core.files import write_bytes
from hetsyn_plugins.experiments import analysis, plots
from hetsyn_plugins.experiments.report import picture_files
from hetsyn_plugins.experiments.report.reading import ClaimFolder, RunFolder, is_claim, numbers, runs_in
from hetsyn_plugins.experiments.training_log import Record


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write the page that compares these folders to `out`, atomically, and return `out`.

    folders  each a run (config.toml and seed-*/, as `hetsyn train` leaves it, ended or not), a sweep, a folder of them,
             or a claim (claim.json); the runs that a claim names come with it

    Raises FileNotFoundError or ValueError where a folder is neither or a file is missing, FileFormatError, naming the
    file, where one is damaged. Files of before, which cannot be checked, are told of in one UncheckedFileWarning.
    """
    if not folders:
        raise ValueError("folders: expected at least one run or claim, got none")
    with unchecked_told_once():
        page = _page(folders, out)
    write_bytes(out, page.encode(errors="backslashreplace"))  # of names that are not UTF-8
    return out


def _page(folders: Sequence[Path], out: Path) -> str:
    claims = [ClaimFolder(folder) for folder in folders if is_claim(folder)]
    paths = [path for folder in folders if not is_claim(folder) for path in runs_in(folder)]
    paths += [path for claim in claims for path in claim.runs]
    paths = list(dict.fromkeys(path.resolve() for path in paths))
    runs = [RunFolder(p, label, f"run-{i}") for i, (p, label) in enumerate(zip(paths, _labels(paths), strict=True), 1)]
    command = shlex.join(["hetsyn", "report", *map(str, folders), "--out", str(out)])
    return _template().render(
        title=_title(claims, runs),
        claims=[(claim, _claim_figures(claim)) for claim in claims],
        runs=runs,
        differences=_differences(runs),
        versions=_shared_versions(runs),
        curves=[draw(group, command) for group in _comparable(runs) for draw in (_learning_curves, _loss_curves)],
        histograms=[picture for run in runs for picture in _tau_histograms(run, command)],
        command=command,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        by=__version__,
    )


LONGEST_LABEL, MOST_PANELS = 300, 20  # characters; groups of synapses: what a picture has room for


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
        return picture_files.size(self.png)


def _labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""

    def end(path: Path, parts: int) -> str:
        return "/".join(path.parts[-parts:])

    def told_apart(path: Path) -> str:
        lengths = range(1, len(path.parts) + 1)
        return next(end(path, n) for n in lengths if sum(end(other, n) == end(path, n) for other in paths) == 1)

    return [told_apart(path) for path in paths]


def _title(claims: Sequence[ClaimFolder], runs: Sequence[RunFolder]) -> str:
    counts = (len(claims), "claim"), (len(runs), "run")
    return " and ".join(f"{count} {what}{'s' * (count > 1)}" for count, what in counts if count)


def _shared_versions(runs: Sequence[RunFolder]) -> dict[str, str]:
    """The versions that all results have in common."""
    by_run = [run.versions for run in runs if run.results]
    first = by_run[0] if by_run else {}
    return {name: v for name, v in first.items() if all(versions.get(name) == v for versions in by_run)}


def _differences(runs: Sequence[RunFolder]) -> dict[str, list[str]]:
    """The settings, and versions of what they ran with, in which runs differ: key -> each run's."""
    shared = _shared_versions(runs)
    settings = [
        run.config | {f"version of {name}": v for name, v in run.versions.items() if name not in shared} for run in runs
    ]
    keys = dict.fromkeys(key for run in settings for key in run)
    rows = {key: [_setting(run.get(key)) for run in settings] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def _claim_figures(claim: ClaimFolder) -> list[Figure]:
    """The pictures that lie beside claim.json."""
    content = claim.content
    return [Figure(png, f"{content.title}: {caption}", caption, [content.command]) for png, caption in claim.pictures]


def _comparable(runs: Sequence[RunFolder]) -> list[list[RunFolder]]:
    """Runs in groups whose curves have an axis in common: same task, same measure, anything logged."""
    groups: dict[tuple[str, str], list[RunFolder]] = {}
    for run in runs:
        if any(seed.log for seed in run.seeds):
            groups.setdefault((run.config["task.name"], run.measure), []).append(run)
    return list(groups.values())


def _learning_curves(runs: Sequence[RunFolder], command: str) -> Figure:
    """All runs in the same axes, mean and s.d. over seeds: on validation where it was measured, else in training."""
    validated = any(r["validation"] is not None for run in runs for seed in run.seeds for r in seed.log)
    key, where = ("validation", "validation samples") if validated else ("score", "training batches")
    logs = {run.label: [seed.log for seed in run.shown] for run in runs}
    ylabel = f"{_plain(runs[0].measure)} ({where})"
    ax = plots.learning_curves(_named(logs), key, ylabel=ylabel)
    ax.figure.set_figheight(3.2 + 0.09 * _legend_lines(ax))
    caption = f"{runs[0].config['task.name']}: {runs[0].measure} on {where}, mean and s.d. over seeds"
    ends = [f"{label} {_mean_sd(_last(by_seed, key), runs[0].measure)}" for label, by_seed in logs.items()]
    return Figure(
        _drawn(ax), f"{caption}. At the end: {'; '.join(ends)}", caption, [*(run.command for run in runs), command]
    )


def _loss_curves(runs: Sequence[RunFolder], command: str) -> Figure:
    """The loss of all runs in the same axes, in training and on validation."""
    logs = {run.label: [seed.log for seed in run.shown] for run in runs}
    ax = plots.loss_curves(_named(logs))
    ax.figure.set_figheight(3.2 + 0.09 * _legend_lines(ax))
    caption = f"{runs[0].config['task.name']}: loss of training batches and of validation, mean and s.d. over seeds"
    ends = [f"{label} {_mean_sd(_last(by_seed, 'loss'), 'loss')}" for label, by_seed in logs.items()]
    return Figure(
        _drawn(ax), f"{caption}. At the end: {'; '.join(ends)}", caption, [*(run.command for run in runs), command]
    )


def _named(logs: Mapping[str, list[list[Record]]]) -> dict[str, list[list[Record]]]:
    """The same by what a legend has room for."""
    return {_in_legend(label): by_seed for label, by_seed in logs.items()}


def _legend_lines(ax: Any) -> int:
    """Lines of a legend of two columns, twice."""
    return sum(1 + text.get_text().count("\n") for text in ax.get_legend().get_texts())


def _in_legend(label: str) -> str:
    """In lines short enough for half a picture."""
    return "\n".join(_plain(line) for line in textwrap.wrap(label, 22))


def _plain(text: str) -> str:
    """As matplotlib draws it: no formula where there are dollars, nothing that has no shape, not without end."""
    return "".join(c if c.isprintable() else "?" for c in text[:LONGEST_LABEL]).replace("$", r"\$")


def _last(logs: Sequence[list[Record]], key: str) -> list[float]:
    """The last number that each log has for an entry."""
    by_seed = [numbers(record[key] for record in log) for log in logs]  # type: ignore[literal-required]
    return [values[-1] for values in by_seed if values]


def _tau_histograms(run: RunFolder, command: str) -> list[Figure]:
    """One picture of all synapses whose time constants are not all the same; none where there are no such synapses."""
    changed = {name: parts for name, parts in run.taus.items() if len(parts) == 2 and _differ(parts)}
    drawn = dict(list(changed.items())[:MOST_PANELS])
    if not drawn:
        return []
    by_time = ({_plain(name): parts[when] for name, parts in drawn.items()} for when in ("before", "after"))
    ax = plots.tau_change(*by_time)
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
    """The figure of an axes as a PNG."""
    return plots.png(ax.figure)


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"mean_sd": _mean_sd, "number": _number, "duration": _duration, "average": fmean}
    return environment.get_template("report.html")


def _number(value: float | None) -> str:
    """Two digits after the point, four that count below 1, whole numbers as they are."""
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:.4g}"


def _mean_sd(values: Sequence[float], measure: str) -> str:
    """Mean and s.d. over seeds, accuracies in percent, errors to four digits of the mean."""
    if not values:
        return "none"
    percent = measure == "accuracy"
    scaled = [100 * value if percent else value for value in values]
    mean = fmean(scaled)
    if not math.isfinite(mean):
        return str(mean)
    digits = 2 if percent else max(0, 3 - math.floor(math.log10(abs(mean) or 1)))
    sd = f" ± {stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{mean:.{digits}f}{sd} {'%' if percent else measure}"


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
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)
