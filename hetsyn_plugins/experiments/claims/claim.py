"""What a claim of the paper is here: the runs it needs, the numbers that come of them beside the paper's, pictures.

FOLDER/runs/ARM/      the runs (`run_folder`), shared by all claims; what is there already is not run again
FOLDER/NAME/          claim.json and the pictures of one claim
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.files import make_folder
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.experiments import plots, sweep, training
from hetsyn_plugins.experiments.affordable import check_costs
from hetsyn_plugins.experiments.analyse import chance
from hetsyn_plugins.experiments.claims.verdicts import NOT_JUDGED, Judgement
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.launchers import Cluster
from hetsyn_plugins.experiments.model import Model
from hetsyn_plugins.experiments.run_folder import (
    CLAIM,
    ClaimResult,
    ClaimRow,
    PictureFile,
    SeedResult,
    load_networks,
    load_result,
    mean_sd,
    seed_folder,
    seeds_text,
    write_content,
)
from hetsyn_plugins.experiments.tasks.task import Task
from hetsyn_plugins.experiments.training_log import LOG, Record, read_log
from hetsyn_plugins.ops import devices


class Arm(NamedTuple):
    """A configuration that a claim compares: a task by name and what is changed in it."""

    task: str
    settings: tuple[str, ...] = ()


class Picture(NamedTuple):
    """A picture of a claim: file name, caption, and what draws it from the evidence (returns an axes)."""

    file: str
    caption: str
    draw: Callable[[Evidence], Any]


@dataclass(frozen=True)
class Claim:
    """title and statement in the paper's sense; rows and pictures are made of the evidence; tried: for what differs."""

    title: str
    statement: str
    arms: Mapping[str, Arm]
    seeds: Sequence[int]
    rows: Callable[[Evidence], list[ClaimRow]]
    pictures: Sequence[Picture] = ()
    tried: str = ""


@dataclass(frozen=True)
class Evidence:
    """The finished runs of a claim, by the names of its arms."""

    folder: Path
    arms: Mapping[str, Arm]
    seeds: Sequence[int]
    settings: Sequence[str] = ()
    _cache: dict[Any, Any] = field(default_factory=dict)

    def folder_of(self, arm: str) -> Path:
        """The folder of an arm's run: another one under other settings, but for the device."""
        settings = [text for text in self.settings if text.partition("=")[0].strip() != "training.device"]
        mark = hashlib.sha256("\n".join(settings).encode()).hexdigest()[:8] if settings else ""
        return self.folder / "runs" / (f"{arm}+{mark}" if mark else arm)

    @cached_property
    def configs(self) -> dict[str, Config]:
        """The configuration of every arm."""
        return {name: load_config(arm.task, [*arm.settings, *self.settings]) for name, arm in self.arms.items()}

    def chance(self, arm: str) -> dict[str, float]:
        """The line of chance for a picture of an arm, where there is one."""
        return chance(self.configs[arm].task)

    def values(self, arm: str) -> Array:
        """The measure on the test set, by seed."""
        return self.each(arm, "test", lambda seed: self.result(arm, seed).test)

    def parameters(self, arm: str) -> int:
        """How many numbers are trained, the same for all seeds."""
        return round(float(self.each(arm, "parameters", lambda seed: float(self.result(arm, seed).parameters))[0]))

    def result(self, arm: str, seed: int) -> SeedResult:
        """What came of a seed."""
        return load_result(seed_folder(self.folder_of(arm), seed))

    def log(self, arm: str, seed: int) -> list[Record]:
        """The log's records of a seed."""
        return read_log(seed_folder(self.folder_of(arm), seed) / LOG)

    def networks(self, arm: str, seed: int) -> tuple[Network, Network]:
        """Before and after training."""
        place = seed_folder(self.folder_of(arm), seed)
        networks: tuple[Network, Network] = self._once(("networks", arm, seed), lambda: load_networks(place))
        return networks

    def model(self, arm: str, seed: int) -> Model:
        """The trained network of a seed, ready to run on the CPU."""
        return training.model_of(self.networks(arm, seed)[1], self.configs[arm]).eval().cpu()

    def evaluate(self, arm: str, seed: int, network: Network | None = None, task: Task | None = None) -> float:
        """The measure on the test set of another network in its place, or of another task."""
        trained = self.networks(arm, seed)[1] if network is None else network
        return training.evaluate_network(trained, self.configs[arm], seed, task)

    def each(self, arm: str, what: Any, of_seed: Callable[[int], float]) -> Array:
        """A number of every seed of an arm, computed once: `what` is its key."""
        numbers: Array = self._once((arm, what), lambda: np.array([of_seed(seed) for seed in self.seeds]))
        return numbers

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


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
    jobs: int = 0,
    quiet: bool = False,
    despite_cost: bool = False,
    cluster: Cluster | None = None,
) -> ClaimResult:
    """Train what is missing, and write and return the claim's table; its pictures lie beside claim.json.

    Raises ValueError where a run failed, or before the first one for one that cannot be (`sweep.train_seeds`).
    """
    evidence = Evidence(folder, claim.arms, claim.seeds if seeds is None else seeds, settings)
    for arm, config in evidence.configs.items():
        devices.usable("training.device", config.training.device)
        missing = sweep.missing_seeds(evidence.folder_of(arm), evidence.seeds)
        if missing and not despite_cost and cluster is None:
            check_costs(config, min(jobs, len(missing)))
    if cluster is None:
        _train_arms(evidence, jobs, quiet)
    else:
        _train_on(cluster, evidence, jobs, quiet, despite_cost)
    rows = claim.rows(evidence)
    make_folder(folder / name, "--out")
    for picture in claim.pictures:
        plots.save(picture.draw(evidence).figure, folder / name / picture.file)
    words = ["hetsyn", "claim", name, *(word for text in settings for word in ("--set", text))]
    words += ["--seeds", seeds_text(evidence.seeds)] if seeds is not None else []
    result = ClaimResult(
        name=name,
        title=claim.title,
        statement=claim.statement,
        command=shlex.join(words),
        rows=rows,
        verdict=verdict(rows) + (f" But with {', '.join(settings)}." if settings else ""),
        tried=claim.tried,
        pictures=[PictureFile(picture.file, picture.caption) for picture in claim.pictures],
        runs=[f"../runs/{evidence.folder_of(arm).name}" for arm in claim.arms],
    )
    write_content(folder / name / CLAIM, result)
    return result


def _train_arms(evidence: Evidence, jobs: int, quiet: bool) -> None:
    """Train what is missing of every arm; ValueError where one failed, after the others were trained all the same."""
    failed = []
    for arm, config in evidence.configs.items():
        try:
            sweep.train_seeds(
                config, evidence.seeds, evidence.folder_of(arm), jobs=jobs, quiet=quiet, despite_cost=True
            )
        except (ValueError, training.TrainingStopped) as error:
            failed.append(f"{arm}: {error}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(evidence.arms)} runs failed\n" + "\n".join(failed))


def _train_on(cluster: Cluster, evidence: Evidence, jobs: int, quiet: bool, despite_cost: bool) -> None:
    """The same as jobs of a cluster, those of all arms at once."""
    runs = {evidence.folder_of(arm): config for arm, config in evidence.configs.items()}
    failed = sweep.train_on(cluster, runs, evidence.seeds, jobs, quiet, False, despite_cost)
    if failed:
        lines = [f"{job.run.name}: seed {job.seed}: {why}" for job, why in failed.items()]
        raise ValueError(f"{len(failed)} of {len(runs) * len(evidence.seeds)} seeds failed\n" + "\n".join(lines))


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
