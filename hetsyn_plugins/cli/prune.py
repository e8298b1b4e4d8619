"""`hetsyn prune`: the strongest synapses of trained networks are kept, in new checkpoints."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetsyn_plugins.cli import exchange
from hetsyn_plugins.cli.experiments import (
    DEVICES,
    add_despite_cost,
    mean_sd_text,
    score_text,
    seeds_with_result,
    with_device,
)
from hetsyn_plugins.cli.options import check_file_to_write

if TYPE_CHECKING:
    from hetsyn_plugins.core.network import Network

NAMES = {"density": "--density", "by": "--by"}


def add_prune(commands: Any) -> None:
    """Add `prune`."""
    prune = commands.add_parser("prune", help="keep the strongest synapses of a network; of a run, judge it with them")
    what = "a run's folder, all seeds of it; or a network in a file, as `convert` takes it"
    prune.add_argument("source", type=Path, metavar="RUN|CHECKPOINT", help=what)
    prune.add_argument(
        "--density", type=float, required=True, metavar="PART", help="of each layer's synapses that stays, 0.1 say"
    )
    what = "what is strong: magnitude, |w| (default), or gain, |w| / (1 - r), what a constant input comes to"
    prune.add_argument("--by", default="magnitude", metavar="magnitude|gain", help=what)
    what = "the checkpoint (CHECKPOINT.pruned.safetensors); of a run the folder of its seeds' (RUN/pruned)"
    prune.add_argument("-o", "--out", type=Path, metavar="FILE|FOLDER", help=what)
    prune.add_argument("--device", default="cpu", help=f"where a run's networks are judged: {DEVICES}")
    add_despite_cost(prune)
    prune.set_defaults(handler=run_prune, less="RUN|CHECKPOINT")


def run_prune(arguments: argparse.Namespace) -> int:
    """Prune, write, and say what is left; nothing is trained."""
    from hetsyn_plugins.experiments.run_folder import CONFIG
    from hetsyn_plugins.ops.pruning import check_pruning

    check_pruning(arguments.density, arguments.by, NAMES)
    if (arguments.source / CONFIG).is_file():
        return prune_run(arguments)
    source, out = arguments.source, arguments.out or arguments.source.with_suffix(".pruned.safetensors")
    if out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f"--out: expected another file than the one to be pruned, got {out}")
    check_file_to_write("--out", out)
    network = pruned(exchange.read(source), arguments)
    say_left(network)
    write(network, out)
    print(f"{out}: {out.stat().st_size:,} bytes")
    return 0


def prune_run(arguments: argparse.Namespace) -> int:
    """Every trained seed: pruned, and run on the test set before and after."""
    from hetsyn_plugins.core.files import make_folder
    from hetsyn_plugins.experiments.affordable import check_evaluation, spending
    from hetsyn_plugins.experiments.config import changed_config
    from hetsyn_plugins.experiments.run_folder import load_networks, load_run_config, mean_sd, seed_folder
    from hetsyn_plugins.experiments.training import evaluate_network
    from hetsyn_plugins.ops import devices

    devices.usable("--device", arguments.device)
    run, seeds = arguments.source, seeds_with_result(arguments.source)
    config = changed_config(load_run_config(run), with_device([], arguments.device))
    if not arguments.despite_cost:
        check_evaluation(config)
    out = arguments.out or run / "pruned"
    make_folder(out, "--out")
    measure, scores = config.task.measure, list[tuple[float, ...]]()
    for seed in seeds:
        _, trained = load_networks(seed_folder(run, seed))
        network = pruned(trained, arguments)
        if not scores:
            say_left(network)
        with spending(config, "evaluation"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*have no synapse in it")  # which is said above
            scores.append(tuple(evaluate_network(each, config, seed) for each in (trained, network)))
        write(network, path := out / f"seed-{seed}.safetensors")
        before, after = (score_text(measure, score) for score in scores[-1])
        print(f"seed {seed:<4} test {measure} {before} before, {after} after: {path}", flush=True)
    for when, values in zip(("before", "after"), zip(*scores, strict=True), strict=True):
        print(f"test {measure} {mean_sd_text(measure, mean_sd(values))} {when}")
    setting = f"--set training.density={arguments.density:g}"
    print(f"a network that is trained as it is pruned loses less: hetsyn train ... {setting}")
    return 0


def pruned(network: Network, arguments: argparse.Namespace) -> Network:
    """The network with the strongest synapses, as the options say."""
    from hetsyn_plugins.ops import pruning

    return pruning.pruned(network, arguments.density, arguments.by)


def write(network: Network, out: Path) -> None:
    """Write the checkpoint."""
    from hetsyn_plugins.exchange import checkpoint

    checkpoint.save(network, out)


def say_left(network: Network) -> None:
    """A line a layer and kind of synapses: how many there are, of how many."""
    from hetsyn_plugins.core.fields import MASKS
    from hetsyn_plugins.core.network import HetSynConv, HetSynLayer

    for each in network.layers:
        layer = each.layer if isinstance(each, HetSynConv) else each
        if not isinstance(layer, HetSynLayer):
            continue
        for name, kind in MASKS.items():
            if (mask := getattr(layer.params, name)) is not None:
                what = f"{layer.name}, {kind.rstrip('_') or 'input'}"
                without = int((~mask.any(1)).sum())
                alone = f"; {without:,} of {len(mask):,} neurons without one" if without else ""
                print(f"{what:28} {mask.sum():>10,} of {mask.size:>10,} synapses, {mask.mean():.1%}{alone}")
