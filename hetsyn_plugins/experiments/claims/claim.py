"""What a claim of the paper is here: the runs it needs, the numbers that come of them beside the paper's, pictures.

FOLDER/runs/ARM/      the runs (`run_folder`), shared by all claims; what is there already is not run again
FOLDER/NAME/          claim.json, results.json and the pictures of one claim
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.files import make_folder
from hetsyn_plugins.experiments import plots, sweep
from hetsyn_plugins.experiments.affordable import check_costs
from hetsyn_plugins.experiments.claims.evidence import Arm, Evidence, Unmeasured, read_recorded, record
from hetsyn_plugins.experiments.claims.verdicts import NOT_JUDGED, Judgement
from hetsyn_plugins.experiments.config import Config
from hetsyn_plugins.experiments.launchers import Cluster, Job
from hetsyn_plugins.experiments.run_folder import (
    CLAIM,
    NUMBERS,
    ClaimResult,
    ClaimRow,
    PictureFile,
    mean_sd,
    seeds_text,
    write_content,
)
from hetsyn_plugins.ops import devices

LONG = 600  # seconds: a claim that takes more says so


class Picture(NamedTuple):
    """A picture of a claim: file name, caption, and what draws it from the evidence (returns an axes)."""

    file: str
    caption: str
    draw: Callable[[Evidence], Any]


class Short(NamedTuple):
    """The short form of a claim: fewer seeds, other settings, and in words how long it takes on two cores.

    arms   the names of those that it has; None: all
    """

    seeds: Sequence[int]
    settings: tuple[str, ...] = ()
    what: str = ""
    arms: frozenset[str] | None = None


FIRST_SEEDS = Short(range(3), (), "three seeds")


@dataclass(frozen=True)
class Claim:
    """title and statement in the paper's sense; rows and pictures are made of the evidence; tried: for what differs.

    short   the form that takes at most an hour on two cores
    """

    title: str
    statement: str
    arms: Mapping[str, Arm]
    seeds: Sequence[int]
    rows: Callable[[Evidence], list[ClaimRow]]
    pictures: Sequence[Picture] = ()
    tried: str = ""
    short: Short = FIRST_SEEDS


def row(
    label: str,
    values: Array,
    paper: float | None = None,
    judged: Judgement = NOT_JUDGED,
    *,
    unit: str = "",
    note: str = "",
) -> ClaimRow:
    """A line of numbers by seed, in the row's unit: mean, s.d., and what was judged of them."""
    by_seed = mean_sd([float(value) for value in values])
    assert by_seed.mean is not None  # a claim has seeds
    notes = "; ".join(text for text in (judged.note, note) if text)
    return ClaimRow(
        label, paper, by_seed.mean, by_seed.sd, len(values), unit, judged.holds, notes, judged.undecided or None
    )


def per_cent(label: str, values: Array, *rest: Any, **options: Any) -> ClaimRow:
    """A line of shares by seed, in per cent."""
    return row(label, 100 * values, *rest, unit="%", **options)


def check_claim(
    name: str,
    claim: Claim,
    folder: Path,
    seeds: Sequence[int] | None = None,
    *,
    settings: Sequence[str] = (),
    short: bool = False,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> ClaimResult:
    """Train what is missing, and write and return the claim's table; its pictures lie beside claim.json.

    short     in its short form, whose folder is NAME-short
    say       is told before it begins how long it will take, where that is more than LONG
    options   `Options`

    What was measured of runs is kept in results.json; of runs whose settings are in one of the folder's it is taken
    from there, and they are not run again. Pictures that need runs which are not here are left as they are.

    Raises ValueError where a run failed, or before the first one for one that cannot be (`sweep.train_seeds`).
    """
    arms = claim.arms
    if short:
        kept = arms if claim.short.arms is None else claim.short.arms
        arms = {arm: how for arm, how in arms.items() if arm in kept}
        seeds = claim.short.seeds if seeds is None else seeds
        settings, name = [*claim.short.settings, *settings], f"{name}-short"
    chosen = claim.seeds if seeds is None else seeds
    evidence = Evidence(folder, arms, chosen, settings, read_recorded(folder))
    how = Options(**options)
    train = partial(_train, name, evidence, how, folder / name / NUMBERS)
    _check(evidence, how)
    say_how_long(name, claim, evidence, how.jobs, say)
    make_folder(folder / name, "--out")
    train()
    rows = _rows(claim, evidence, train)
    record(evidence, folder / name / NUMBERS)
    result = _result(name, claim, evidence, rows, folder / name, short)
    write_content(folder / name / CLAIM, result)
    return result


def _result(name: str, claim: Claim, evidence: Evidence, rows: list[ClaimRow], place: Path, short: bool) -> ClaimResult:
    """What claim.json holds; its pictures are drawn."""
    pictures = [picture for picture in claim.pictures if _drawn(picture, evidence, place)]
    of = ", ".join([*(["the short form"] if short else []), *evidence.settings])
    return ClaimResult(
        name=name,
        title=claim.title,
        statement=claim.statement,
        command=_command(name.removesuffix("-short"), short, claim, evidence),
        rows=rows,
        verdict=verdict(rows) + (f" But with {of}." if of else ""),
        tried=claim.tried,
        pictures=[PictureFile(picture.file, picture.caption) for picture in pictures],
        runs=[f"../runs/{evidence.folder_of(arm).name}" for arm in evidence.arms if evidence.folder_of(arm).exists()],
    )


@dataclass(frozen=True)
class Options:
    """How a claim's runs are trained, as `sweep.train_seeds` has it."""

    jobs: int = 0
    quiet: bool = False
    despite_cost: bool = False
    cluster: Cluster | None = None


def say_how_long(name: str, claim: Claim, evidence: Evidence, jobs: int, say: Callable[[str], None]) -> None:
    """Say what lies ahead, where it is more than LONG."""
    missing = evidence.missing()
    seconds = time_needed(evidence, missing, jobs)
    if seconds > LONG:
        runs = len(evidence.arms) * len(evidence.seeds)
        text = f"{name}: {runs} runs, {runs - len(missing)} of them done; the others take about {duration(seconds)}"
        again = "stopped, it goes on with the same command"
        is_short = name.endswith("-short")
        say(f"{text} here; {again}" + ("" if is_short else f"; --short: {claim.short.what}"))


def time_needed(evidence: Evidence, missing: Sequence[Job], jobs: int = 0) -> float:
    """Seconds that runs which are missing take on this machine, so many at a time, as estimated."""
    configs = _configs(evidence, missing)
    by_run = {run: sweep.expected(config).seconds for run, config in configs.items()}
    at_a_time = jobs or min(map(sweep.default_jobs, configs.values()), default=1)
    return sum(by_run[job.run] for job in missing) / at_a_time


def duration(seconds: float) -> str:
    """Minutes or hours for a reader."""
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.0f} h"


def _configs(evidence: Evidence, jobs: Sequence[Job]) -> dict[Path, Config]:
    """The configurations of these jobs, by the folders of their runs."""
    runs = {job.run for job in jobs}
    configs = {evidence.folder_of(arm): config for arm, config in evidence.configs.items()}
    return {run: config for run, config in configs.items() if run in runs}


def _check(evidence: Evidence, options: Options) -> None:
    """Raise ValueError for a run that cannot be, before the first one."""
    missing = evidence.missing()
    for config in _configs(evidence, missing).values():
        devices.usable("training.device", config.training.device)
        if not options.despite_cost and options.cluster is None:
            check_costs(config, min(options.jobs, len(missing)))


def _train(name: str, evidence: Evidence, options: Options, numbers: Path) -> None:
    """Train what is missing; ValueError where one failed, after the others were trained all the same.

    What has ended is recorded in any case, so that it need not be run again where the runs are lost.
    """
    missing = evidence.missing()
    configs = _configs(evidence, missing)
    done = len(evidence.arms) * len(evidence.seeds) - len(missing)
    try:
        if options.cluster is None:
            failed = sweep.train_runs(name, configs, missing, jobs=options.jobs, quiet=options.quiet, done=done)
        else:
            on = (options.jobs, options.quiet, False, options.despite_cost)
            failed = sweep.train_on(options.cluster, configs, missing, *on)
    finally:
        record(evidence, numbers)
    if failed:
        lines = [f"{job.run.name}: seed {job.seed}: {why}" for job, why in failed.items()]
        raise ValueError(f"{len(failed)} of {len(missing)} runs failed\n" + "\n".join(lines))


def _rows(claim: Claim, evidence: Evidence, train: Callable[[], None]) -> list[ClaimRow]:
    """The claim's rows; runs whose recorded numbers are not enough for them are run again."""
    while True:
        try:
            return claim.rows(evidence)
        except Unmeasured as lack:
            evidence.forget(lack.arm)
            train()


def _drawn(picture: Picture, evidence: Evidence, folder: Path) -> bool:
    """Draw a picture, if the runs that it needs are here; is there one, be it of before?"""
    try:
        plots.save(picture.draw(evidence).figure, folder / picture.file)
    except (FileNotFoundError, Unmeasured):
        return (folder / picture.file).exists()
    return True


def _command(name: str, short: bool, claim: Claim, evidence: Evidence) -> str:
    """The command that makes this again."""
    form = claim.short if short else Short(claim.seeds)
    settings = list(evidence.settings)[len(form.settings) :]
    words = ["hetsyn", "claim", name, *(["--short"] if short else [])]
    words += [word for text in settings for word in ("--set", text)]
    words += ["--seeds", seeds_text(evidence.seeds)] if list(evidence.seeds) != list(form.seeds) else []
    return shlex.join(words)


def verdict(rows: Sequence[ClaimRow]) -> str:
    """In plain words: what is as in the paper and what is not."""
    named = {True: [], False: [], None: []}  # type: dict[bool | None, list[str]]
    for line in rows:
        if line.holds is not None or line.undecided:
            named[line.holds].append(line.label)
    total = sum(map(len, named.values()))
    if not total:
        return "Not judged: the paper has no numbers for this."
    said = [f"as in the paper in {len(named[True])}"] if named[True] else []
    said += [f"differs in {len(named[False])} ({'; '.join(named[False])})"] if named[False] else []
    said += [f"undecided in {len(named[None])} ({'; '.join(named[None])})"] if named[None] else []
    return f"Of {total} comparisons: {', '.join(said)}."


def table(result: ClaimResult) -> str:
    """The claim as text: a line a row."""
    width = max(len(line.label) for line in result.rows)
    lines = [result.title, f"The paper: {result.statement}", ""]
    lines.append(f"{'':{width}}  {'paper':>10}  {'ours':>10}  {'s.d.':>8}  {'n':>3}")
    for line in result.rows:
        holds = {True: "as in the paper", False: "DIFFERS", None: "undecided" if line.undecided else ""}[line.holds]
        numbers = f"{number(line.paper, line.unit):>10}  {number(line.ours, line.unit):>10}"
        notes = "  ".join(word for word in (holds, line.note) if word)
        lines.append(f"{line.label:{width}}  {numbers}  {number(line.sd, line.unit):>8}  {line.n:>3}  {notes}".rstrip())
    lines += ["", result.verdict, *([f"Tried: {result.tried}"] if result.tried else [])]
    return "\n".join(lines)


def number(value: float | None, unit: str) -> str:
    """A number as its unit is read."""
    if value is None:
        return "-"
    form = {"%": "{:.2f} %", "ms": "{:.1f} ms"}.get(unit, "{:.4g}")
    return form.format(value)
