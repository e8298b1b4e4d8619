"""The commands of the paper's experiments: `hetsyn train`, `evaluate`, `analyse`, `claim`, `data` and `report`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetsyn_plugins.exchange.frameworks import FRAMEWORKS

if TYPE_CHECKING:
    from hetsyn_plugins.core.network import Network
    from hetsyn_plugins.experiments.claims.claim import Claim
    from hetsyn_plugins.experiments.config import Config
    from hetsyn_plugins.experiments.run_folder import MeanSd, RunSummary
    from hetsyn_plugins.experiments.tasks.task import Task


WHAT = (
    "patterns, dms, speech, images; data of your own: .npz (inputs (T, B, M), labels (B,), maybe lengths (B,); the "
    "same with _test) or .h5 like SHD's; or a configuration"
)
DEVICES = "cpu (default), cuda or a card by its number, cuda:1"


def add_commands(commands: Any) -> None:
    """Add them to the parser's commands; each sets `handler` and `less` as in `main.parser`."""
    add_train(commands)
    evaluate = commands.add_parser(
        "evaluate", help="run trained networks on their test set, maybe under other settings"
    )
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.add_argument("--set", action="append", default=[], metavar="task.KEY=VALUE", help="change the task")
    evaluate.add_argument("--framework", choices=FRAMEWORKS, help="whose layers run it (those that were trained)")
    evaluate.add_argument("--device", default="cpu", help=f"where they run, whatever they were trained on: {DEVICES}")
    add_despite_cost(evaluate)
    evaluate.set_defaults(handler=run_evaluate, less="--set")

    analyse = commands.add_parser("analyse", help="time constants, what resetting the long ones costs, controls")
    analyse.add_argument("folder", type=Path, metavar="RUN")
    analyse.add_argument("--bound", type=float, default=0.7, help="taus above so many seconds are long (0.7)")
    analyse.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the pictures (RUN/analysis)")
    analyse.add_argument("--device", default="cpu", help=f"where the networks run: {DEVICES}")
    analyse.set_defaults(handler=run_analyse, less="RUN")

    claim = commands.add_parser(
        "claim", help="the paper's number beside ours, with the s.d. over seeds, and the picture"
    )
    claim.add_argument("name", nargs="?", metavar="CLAIM", help="which, or package.module:CLAIM (none: list them)")
    claim.add_argument("--short", action="store_true", help="its short form, of at most an hour on two cores")
    claim.add_argument("--seeds", metavar="0-9", help="other seeds than the claim's own")
    claim.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of all its runs"
    )
    claim.add_argument("--jobs", type=int, default=0)
    claim.add_argument("--out", type=Path, default=Path("claims"), metavar="FOLDER", help="folder of all claims")
    claim.add_argument("--device", help=f"as training.device of all its runs, and where networks are judged: {DEVICES}")
    claim.add_argument("--quiet", action="store_true", help="no progress bars")
    add_launcher(claim)
    add_despite_cost(claim)
    claim.set_defaults(handler=run_claim, less="--set")

    add_data(commands)
    report = commands.add_parser("report", help="one self-contained HTML page that compares runs and claims")
    report.add_argument("folders", type=Path, nargs="+", metavar="RUN|CLAIM")
    report.add_argument("-o", "--out", type=Path, default=Path("report.html"), metavar="FILE.html")
    report.set_defaults(handler=run_report, less="RUN|CLAIM")


def add_train(commands: Any) -> None:
    """Add `train`."""
    train = commands.add_parser("train", help="train on a task of the paper, on your own data, or as a file says")
    train.add_argument("config", nargs="?", metavar="TASK|DATA|FILE.toml", help=WHAT)
    train.add_argument("--task", metavar="package.module:Class", help="a task of your own, in the place of TASK")
    what = "a network of your own: a function of (lines, outputs, dt, seed); as --set network.builder=..."
    train.add_argument("--network", metavar="package.module:build", help=what)
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting (repeatable)")
    what = "a run for each of several values, in a folder of its own, of several settings for each combination"
    train.add_argument("--sweep", action="append", default=[], metavar="KEY=V1,V2", help=f"{what} (repeatable)")
    train.add_argument("--preset", metavar="NAME", help="a task's set of settings: paper (images: triangular too)")
    train.add_argument("--framework", choices=FRAMEWORKS, help="whose layers are trained (snntorch)")
    train.add_argument(
        "--seeds", default="0", metavar="0-9", help="0 (default), 0-9 or 0,2,5-7: one run a seed, spread over the cores"
    )
    train.add_argument(
        "--jobs", type=int, default=0, help="seeds at a time (0: as many as there are cores; on a card one)"
    )
    train.add_argument("--device", help=f"as --set training.device=...: {DEVICES}")
    train.add_argument("--out", type=Path, metavar="RUN", help="folder (runs/TASK)")
    train.add_argument("--tensorboard", action="store_true", help="write the log for TensorBoard too")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    add_launcher(train)
    add_despite_cost(train)
    train.add_argument("--show", action="store_true", help="print the resolved configuration and stop")
    train.set_defaults(handler=run_train, less="--set")


def add_data(commands: Any) -> None:
    """Add `data`."""
    data = commands.add_parser("data", help="get public data sets from their publishers, when asked to; check them")
    what = data.add_subparsers(dest="what", required=True)
    what.add_parser("list", help="which there are: size, licence, and whether they are here").set_defaults(
        handler=run_data_list, less="NAME"
    )
    get = what.add_parser("get", help="get one; a broken connection is gone on with")
    get.add_argument("name", metavar="NAME", help="mnist, fashion_mnist, fsdd, shd or ssc")
    get.add_argument("--out", type=Path, metavar="FOLDER", help="folder (in the cache, where tasks look for it)")
    get.add_argument("--quiet", action="store_true", help="no progress bar")
    get.set_defaults(handler=run_data_get, less="NAME")
    check = what.add_parser("check", help="compare the files of a folder with those that were published")
    check.add_argument("folder", type=Path, metavar="FOLDER")
    check.set_defaults(handler=run_data_check, less="FOLDER")


def add_launcher(command: Any) -> None:
    """Add `--launcher` and its options."""
    where = "where seeds are trained: processes of this machine (local) or jobs of a cluster (submitit)"
    command.add_argument("--launcher", default="local", metavar="local|submitit", help=where)
    what = "a Slurm option of submitit's jobs: partition=gpu, timeout_min=240, mem_gb=8, gpus_per_node=1 (repeatable)"
    command.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help=what)


def add_despite_cost(command: Any) -> None:
    """Add `--despite-cost`."""
    what = "run also what needs more memory, threads or time than there is"
    command.add_argument("--despite-cost", action="store_true", help=what)


def run_train(arguments: argparse.Namespace) -> int:
    """Train, and print what came of it."""
    from hetsyn_plugins.experiments.config import load_config, to_toml
    from hetsyn_plugins.experiments.data.quiet import quietly
    from hetsyn_plugins.experiments.grid import points, train_points
    from hetsyn_plugins.experiments.launchers import cluster_of
    from hetsyn_plugins.experiments.ranks import joined
    from hetsyn_plugins.experiments.run_folder import parse_seeds

    with joined() as here:
        if (arguments.config is None) == (arguments.task is None):
            got = "neither" if arguments.task is None else f"{arguments.config} and {arguments.task}"
            raise ValueError(f"TASK: expected a task, data or a file, or --task, got {got}")
        settings = with_device(arguments.set, arguments.device)
        settings += [] if arguments.network is None else [f"network.builder={arguments.network}"]
        source = arguments.config or arguments.task
        configs = {
            name: load_config(source, [*settings, *point], arguments.framework, arguments.preset)
            for name, point in points(arguments.sweep).items()
        }
        if arguments.show:
            print("\n".join(map(to_toml, configs.values())) if here.is_first else "", end="")
            return 0
        folder = arguments.out or Path("runs", run_name(next(iter(configs.values()))))
        seeds = parse_seeds(arguments.seeds)
        options: dict[str, Any] = {"cluster": cluster_of(arguments.launcher, arguments.slurm)}
        options |= {name: getattr(arguments, name) for name in ("jobs", "quiet", "tensorboard", "despite_cost")}
        with quietly(arguments.quiet):
            summaries = train_points(configs, seeds, folder, **options)
    if here.is_first and not arguments.sweep:
        say_trained(folder, configs[""], summaries[""])
    elif here.is_first:
        say_swept(folder, summaries)
    return 0


def run_name(config: Config) -> str:
    """What a run's folder is called where nobody says it: as its task, or as its data's file."""
    from hetsyn_plugins.experiments.tasks.own import OwnData

    return Path(config.task.source).stem if isinstance(config.task, OwnData) else config.task.name


def say_trained(folder: Path, config: Config, summary: RunSummary) -> None:
    """Print what came of a training."""
    print(f"{folder}: {config.task.name}, {config.network.title}, {config.framework}")
    measure = summary.measure
    for seed, value in zip(summary.seeds, summary.test.values, strict=True):
        print(f"seed {seed:<4} test {measure} {score_text(measure, value)}")
    chosen = "; its iteration was chosen ON THE TEST SET" if summary.select == "best_test" else ""
    print(f"test {measure} {mean_sd_text(measure, summary.test)}{chosen}")
    print(f"validation {measure} {mean_sd_text(measure, summary.validation)}")
    if config.training.density < 1:
        print(f"synapses left {', '.join(dict.fromkeys(f'{density:.2%}' for density in densities(folder)))}")
    if (chance := config.task.chance) is not None:
        print(f"chance {score_text(measure, chance)}")
    print(
        f"{summary.seconds.median:.0f} s a seed (median), at most {summary.peak_memory_mb:,.0f} MB, "
        f"on {', '.join(summary.devices or [])}"
    )


def densities(folder: Path) -> list[float]:
    """What part of the synapses is left in each seed of a run."""
    from hetsyn_plugins.experiments.run_folder import load_result, seed_folder, trained_seeds

    found = [load_result(seed_folder(folder, seed)).density for seed in trained_seeds(folder)]
    return [density for density in found if density is not None]


def say_swept(folder: Path, summaries: Mapping[str, RunSummary]) -> None:
    """Print what came of a sweep: a line a point, and how they are compared further."""
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        scores = [mean_sd_text(summary.measure, scores) for scores in (summary.validation, summary.test)]
        print(f"{name:{width}}  validation {scores[0]}  test {scores[1]}")
    print(f"compare: hetsyn report {folder}; choose by validation, the test set is for what was chosen")


def with_device(settings: Sequence[str], device: str | None) -> list[str]:
    """The settings of `--set` with that of `--device`, where it was given."""
    return [*settings, *([] if device is None else [f"training.device={device}"])]


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Run every trained seed on the test set."""
    from hetsyn_plugins.experiments.affordable import check_evaluation, spending
    from hetsyn_plugins.experiments.run_folder import load_networks, load_run_config, mean_sd, seed_folder
    from hetsyn_plugins.experiments.training import evaluate_network
    from hetsyn_plugins.ops import devices

    for text in arguments.set:
        if not text.strip().startswith("task."):
            raise ValueError(f"--set: expected task.KEY=VALUE (the network is trained already), got {text!r}")
    devices.usable("--device", arguments.device)
    settings = with_device(arguments.set, arguments.device)
    config = evaluated_config(load_run_config(arguments.folder), settings, arguments.framework)
    seeds = seeds_with_result(arguments.folder)
    check_sizes(config.task, load_networks(seed_folder(arguments.folder, seeds[0]))[1])
    if not arguments.despite_cost:
        check_evaluation(config)
    measure = config.task.measure
    values: list[float] = []
    for seed in seeds:
        _, network = load_networks(seed_folder(arguments.folder, seed))
        with spending(config, "evaluation"):
            values.append(evaluate_network(network, config, seed))
        print(f"seed {seed:<4} test {measure} {score_text(measure, values[-1])}", flush=True)
    print(f"test {measure} {mean_sd_text(measure, mean_sd(values))}")
    return 0


def evaluated_config(trained: Config, settings: Sequence[str], framework: str | None) -> Config:
    """The configuration under which a trained network is to be run; ValueError where it could not be that network."""
    from dataclasses import replace

    from hetsyn_plugins.experiments.config import changed_config

    config = changed_config(trained, settings)
    if config.task.dt != trained.task.dt:
        what = f"task.dt={trained.task.dt}, as trained (the decays are those of a step)"
        raise ValueError(f"--set: expected {what}, got {config.task.dt}")
    return replace(config, framework=framework) if framework else config


def check_sizes(task: Task, network: Network) -> None:
    """Raise ValueError where a task is none for a trained network."""
    from hetsyn_plugins.core.network import HetSynLayer

    weights = [layer.params.weight for layer in network.layers if isinstance(layer, HetSynLayer)]
    lines, outputs = weights[0].shape[1], weights[-1].shape[0]
    if (task.lines, task.outputs) != (lines, outputs):
        sizes = f"{lines} lines and {outputs} readouts, as trained"
        raise ValueError(f"--set: expected a task of {sizes}, got {task.lines} and {task.outputs}")


def run_analyse(arguments: argparse.Namespace) -> int:
    """Analyse a run: numbers to the terminal, pictures to the folder."""
    from hetsyn_plugins.experiments.analyse import analyse

    out = arguments.out or arguments.folder / "analysis"
    options = {"bound": arguments.bound, "device": arguments.device}
    for line in analyse(arguments.folder, out, seeds_with_result(arguments.folder), **options):
        print(line, flush=True)
    return 0


def run_claim(arguments: argparse.Namespace) -> int:
    """Run what a claim needs that has not been run yet, and print its table."""
    from hetsyn_plugins.experiments.claims import CLAIMS
    from hetsyn_plugins.experiments.claims.claim import check_claim, table
    from hetsyn_plugins.experiments.data.quiet import quietly
    from hetsyn_plugins.experiments.launchers import cluster_of
    from hetsyn_plugins.experiments.run_folder import parse_seeds

    if arguments.name is None:
        for name, claim in CLAIMS.items():
            print(f"{name:18} {claim.title} ({len(claim.arms)} x {len(claim.seeds)} runs; --short: {claim.short.what})")
        return 0
    claim = CLAIMS[arguments.name] if arguments.name in CLAIMS else claim_of_own(arguments.name)
    name = arguments.name.rpartition(":")[2]
    seeds = None if arguments.seeds is None else parse_seeds(arguments.seeds)
    options: dict[str, Any] = {name: getattr(arguments, name) for name in ("short", "jobs", "quiet", "despite_cost")}
    options["say"] = lambda text: print(text, file=sys.stderr, flush=True)
    options["settings"] = with_device(arguments.set, arguments.device)
    options["cluster"] = cluster_of(arguments.launcher, arguments.slurm)
    with quietly(arguments.quiet):
        result = check_claim(name, claim, arguments.out, seeds, **options)
    print(table(result))
    print(f"\n{arguments.out / result.name}: claim.json, results.json{''.join(', ' + p.file for p in result.pictures)}")
    return 0


def claim_of_own(path: str) -> Claim:
    """A claim under an import path."""
    from hetsyn_plugins.experiments.claims import CLAIMS
    from hetsyn_plugins.experiments.claims.claim import Claim
    from hetsyn_plugins.experiments.imported import FORM, imported, is_path

    if not is_path(path):
        raise ValueError(f"CLAIM: expected one of {', '.join(CLAIMS)} or {FORM}, got {path!r}")
    claim = imported("CLAIM", path)
    if not isinstance(claim, Claim):
        raise ValueError(f"CLAIM: expected a {Claim.__module__}:Claim, got {path}, which is {claim!r}")
    return claim


def run_data_list(arguments: argparse.Namespace) -> int:
    """Say of every data set what it is, and whether it is here."""
    from hetsyn_plugins.experiments.data import get

    for name in get.DATA_SETS:
        here = "here" if get.is_here(name) else f"not here: hetsyn data get {name}"
        print(f"{name}: {get.told(name)}\n{here}\n")
    return 0


def run_data_get(arguments: argparse.Namespace) -> int:
    """Say what comes under which licence, get it, and say where it is."""
    from hetsyn_plugins.experiments.data import get

    if arguments.name in get.DATA_SETS:
        print(get.told(arguments.name, arguments.out), flush=True)
    folder = get.get(arguments.name, arguments.out, quiet=arguments.quiet)
    return print_findings(folder, arguments.name)


def run_data_check(arguments: argparse.Namespace) -> int:
    """Compare, and return 1 where a file is missing or not as it was published."""
    return print_findings(arguments.folder, None)


def print_findings(folder: Path, name: str | None) -> int:
    """A line a file; 1 where one is wrong."""
    from hetsyn_plugins.experiments.data import get

    findings = get.check(folder, name)
    for finding in findings:
        print(f"{folder}: {finding.name}: {get.VERDICTS[finding.right]}, {finding.what}")
    return int(any(finding.right is False for finding in findings))


def run_report(arguments: argparse.Namespace) -> int:
    """Write the page."""
    from hetsyn_plugins.experiments.report.page import write_report

    print(f"report: {write_report(arguments.folders, arguments.out)}")
    return 0


def seeds_with_result(folder: Path) -> Sequence[int]:
    """The seeds of a run that are done, or ValueError where there is none."""
    from hetsyn_plugins.experiments.run_folder import load_run_config, trained_seeds

    load_run_config(folder)
    seeds = trained_seeds(folder)
    if not seeds:
        raise ValueError(f"RUN: expected a run with at least one trained seed, got {folder}, where none has a result")
    return seeds


def score_text(measure: str, value: float) -> str:
    """An accuracy in per cent, an error as it is."""
    return f"{value:.2%}" if measure == "accuracy" else f"{value:.4f}"


def mean_sd_text(measure: str, scores: MeanSd) -> str:
    """Mean and s.d. over seeds, as far as there are any."""
    if scores.mean is None:
        return "of no seed yet"
    if scores.sd is None:
        return score_text(measure, scores.mean)
    sd = score_text(measure, scores.sd)
    return f"{score_text(measure, scores.mean)} (mean of {len(scores.values)}, s.d. {sd})"
