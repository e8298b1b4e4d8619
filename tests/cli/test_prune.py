"""`hetsyn prune`: what is left of a network in a file and of a run, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import caught, planted

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.cli.main import main
from hetsyn_plugins.core.network import Dropout, HetSynLayer, Network
from hetsyn_plugins.exchange import checkpoint, nir
from hetsyn_plugins.experiments import run_folder, sweep, training
from hetsyn_plugins.experiments.config import load_config

pytest.importorskip("snntorch")
SMALL = ["network.hidden=[12]", "training.iterations=30", "task.test_samples=40", "task.delay=0.1"]


def network(**more: Any) -> Network:
    rng = np.random.default_rng(0)
    fields = {"weight": rng.normal(0, 1, (10, 20)), "decay": rng.uniform(0.3, 0.99, (10, 20)), "reset_decay": 0.8}
    fields |= {"recurrent_weight": rng.normal(0, 1, (10, 10)), "recurrent_decay": rng.uniform(0.3, 0.9, (10, 10))}
    readout = HetSynParams(rng.normal(0, 1, (3, 10)), np.float64(0.9), reset_decay=None, spiking=False)
    hidden = HetSynLayer("hidden", HetSynParams(**fields, **more), dt=1e-3)
    return Network((hidden, Dropout("off", 0.1), HetSynLayer("readout", readout, dt=1e-3)))


def check_strongest(before: Network, after: Network, density: float, by: str) -> None:
    """Every synapse that is left is stronger than all that went, and there are as many as were asked for."""
    for one, other in zip(before.layers, after.layers, strict=True):
        if not isinstance(one, HetSynLayer):
            assert one == other
            continue
        for kind in ("", "recurrent_"):
            weight, mask = getattr(one.params, f"{kind}weight"), getattr(other.params, f"{kind}mask")
            if weight is None:
                assert mask is None
                continue
            r = np.broadcast_to(getattr(one.params, f"{kind}decay"), weight.shape)
            strength = np.abs(weight) / (1 - r if by == "gain" else 1)
            assert mask.sum() == round(density * mask.size)
            assert strength[mask].min() > strength[~mask].max(), "the strongest are left"
            np.testing.assert_array_equal(getattr(other.params, f"{kind}weight")[mask], weight[mask])


@pytest.mark.parametrize("by", ["magnitude", "gain"])
def test_a_file(by: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, out = tmp_path / "net.safetensors", tmp_path / "net.pruned.safetensors"
    checkpoint.save(network(), path)
    before = path.read_bytes()
    assert main(["prune", str(path), "--density", "0.2", "--by", by]) == 0
    check_strongest(network(), checkpoint.load(out), 0.2, by)
    assert path.read_bytes() == before and out.stat().st_size < len(before)
    hidden, recurrent, readout, written = capsys.readouterr().out.splitlines()
    assert hidden.startswith("hidden, input ") and "40 of        200 synapses, 20.0%" in hidden
    assert recurrent.startswith("hidden, recurrent ") and "20 of        100 synapses, 20.0%" in recurrent
    assert readout.startswith("readout, input ") and "6 of         30 synapses, 20.0%" in readout
    assert written == f"{out}: {out.stat().st_size:,} bytes"
    assert main(["prune", str(out), "--density", "0.1", "--by", by, "-o", str(path)]) == 0
    check_strongest(network(), checkpoint.load(path), 0.1, by)


def test_other_files_that_hold_a_network(tmp_path: Path) -> None:
    (hidden, _, readout) = network().layers
    nir.write(Network((hidden, readout)), tmp_path / "net.nir")
    assert main(["prune", str(tmp_path / "net.nir"), "--density", "0.5"]) == 0
    assert checkpoint.load(tmp_path / "net.pruned.safetensors").layers[0].params.mask.sum() == 100


def test_a_run_is_judged_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """By the reference, on the same samples."""
    config = load_config("dms", SMALL)
    for seed in (0, 1):
        sweep.train_seeds(config, [seed], tmp_path, quiet=True)
    capsys.readouterr()
    assert main(["prune", str(tmp_path), "--density", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "36 of        360 synapses, 10.0%" in lines[0] and "14 of        144 synapses" in lines[1]
    for seed, line in zip((0, 1), lines[3:5], strict=True):
        trained = run_folder.load_networks(run_folder.seed_folder(tmp_path, seed))[1]
        path, right = tmp_path / f"pruned/seed-{seed}.safetensors", []
        check_strongest(trained, checkpoint.load(path), 0.1, "magnitude")
        for net in (trained, checkpoint.load(path)):
            ((x, labels),) = config.task.held_out("test", 40, seed)
            *_, (_, v) = net.run(x.numpy()).values()
            right.append((v[-1].argmax(1) == labels.numpy()).mean())
        assert line == f"seed {seed}    test accuracy {right[0]:.2%} before, {right[1]:.2%} after: {path}"
    assert [line.split()[-1] for line in lines[5:7]] == ["before", "after"] and "mean of 2" in lines[5]
    assert "--set training.density=0.1" in lines[7]


def test_stopped_between_seeds_it_leaves_whole_files_and_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Ctrl-C while the second seed is judged."""
    for seed in (0, 1):
        sweep.train_seeds(load_config("dms", [*SMALL, "training.iterations=2"]), [seed], tmp_path, quiet=True)
    capsys.readouterr()
    words = ["prune", str(tmp_path), "--density", "0.1"]
    with monkeypatch.context() as patch:
        evaluate = training.evaluate_network
        patch.setattr(training, "evaluate_network", lambda *of: evaluate(*of) if of[2] == 0 else stop())
        assert main(words) == 130
    assert capsys.readouterr().err == "hetsyn prune: stopped; the same command starts anew\n"
    (left,) = (tmp_path / "pruned").iterdir()
    first = left.read_bytes()
    assert main(words) == 0 and left.read_bytes() == first and len(list((tmp_path / "pruned").iterdir())) == 2


def stop() -> None:
    """Ctrl-C, as Python has it."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["net.safetensors", "--density", "0"], "--density: expected a part of the synapses, > 0 and at most 1, got 0"),
        (["net.safetensors", "--density", "nan"], "--density: expected a part of the synapses, > 0 and at most 1, got"),
        (["net.safetensors", "--density", "0.5", "--by", "size"], "--by: expected one of magnitude, gain, got 'size'"),
        (["net.safetensors", "--density", "0.5", "-o", "net.safetensors"], "--out: expected another file than the one"),
        (["net.safetensors", "--density", "0.5", "-o", "no/where"], "--out: expected a file in a folder that is there"),
        (["none.safetensors", "--density", "0.5"], "none.safetensors, which does not exist"),
        (["run", "--density", "0.5"], "RUN: expected a run with at least one trained seed, got run"),
        (["run/none", "--density", "0.5"], "run/none"),
    ],
)
def test_what_is_refused_leaves_nothing(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.save(network(), Path("net.safetensors"))
    sweep.prepare(Path("run"), load_config("dms", SMALL))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["prune", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hetsyn prune: ") and says in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_weakest_that_are_kept_are_noticed() -> None:
    with planted("hetsyn_plugins.ops.pruning", ".topk(count)", ".topk(count, largest=False)") as module:
        after = module.pruned(network(), 0.2, "gain")
    with caught("the strongest are left"):
        check_strongest(network(), after, 0.2, "gain")
