"""Pruning while a network trains: its schedule, runs that are killed, chosen, made longer, and what cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, changed

from hetsyn_plugins import cli
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import sweep, training, training_state
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.pruning import pruning_of
from hetsyn_plugins.experiments.run_folder import NETWORK, RESULT, load_result
from hetsyn_plugins.experiments.training_log import LOG, read_log

SMALL = [
    "network.hidden=[6]", "training.iterations=12", "training.batch=4", "training.log_every=1",
    "training.validate_every=2", "training.checkpoint_every=3", "task.test_samples=20", "task.delay=0.1",
]  # fmt: skip
PRUNED = ["training.density=0.25", "training.prune_from=2", "training.prune_until=8"]
BEST = "training.select=best_validation"


def small(*settings: str, framework: str = "snntorch") -> Config:
    return load_config("dms", [*SMALL, *settings], framework)


def left(folder: Path) -> dict[str, Any]:
    """What a seed left, but for the times that it took."""
    log = [{key: value for key, value in record.items() if key != "seconds"} for record in read_log(folder / LOG)]
    result = json.loads((folder / RESULT).read_text())
    for key in ("seconds", "peak_memory_mb", "digest"):
        result.pop(key)
    return {"log": log, "result": result, "network": (folder / NETWORK).read_bytes()}


def masks_of(network: Network) -> list[Any]:
    layers = [layer.params for layer in network.layers if isinstance(layer, HetSynLayer)]
    return [mask for p in layers for mask in (p.mask, p.recurrent_mask) if mask is not None]


# ---- the schedule --------------------------------------------------------------------------------------------------


def test_the_schedule_is_that_of_zhu_and_gupta() -> None:
    """Their eq. 1, of sparsities: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, with s_i = 0."""
    given = pruning_of(small("training.iterations=1000", "training.density=0.1", "training.prune_from=100"))
    t_0, t_1 = 100, 100 + 900 * 3 // 4
    assert max(given) == t_1 and given[t_1] == 0.1 and min(given) > t_0 and len(given) == 100
    for t, density in given.items():
        sparsity = 0.9 + (0.0 - 0.9) * (1 - (t - t_0) / (t_1 - t_0)) ** 3
        assert density == pytest.approx(1 - sparsity, abs=1e-12)
    assert list(given) == sorted(given) and list(given.values()) == sorted(given.values(), reverse=True)
    assert pruning_of(small(*PRUNED)).keys() == set(range(3, 9)), "fewer iterations than times: each of them"
    assert pruning_of(small("training.prune_from=3")) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("training.density=0",), "training.density: expected a part of the synapses, > 0 and at most 1, got 0.0"),
        (("training.density=1.5",), "training.density: expected a part of the synapses, > 0 and at most 1, got 1.5"),
        (("training.prune_by=size",), "training.prune_by: expected one of magnitude, gain, got 'size'"),
        (("training.prune_from=-1",), "training.prune_from: expected at least 0, got -1"),
        (
            ("training.density=0.5", "training.prune_from=12"),
            "training.prune_from: expected less than the 12 epochs of the training, got 12",
        ),
        (
            ("training.density=0.5", "training.prune_until=13"),
            "training.prune_until: expected more than training.prune_from, 0, and at most the 12 epochs of .* got 13",
        ),
        (
            ("training.density=0.5", "training.prune_from=3", "training.prune_until=3"),
            "training.prune_until: expected more than training.prune_from, 3, and at most the 12 epochs of .* got 3",
        ),
    ],
)
def test_what_is_no_pruning_is_said_before_a_folder_is_made(
    settings: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        sweep.train_seeds(small(*settings), [0], tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_slayers_blocks_do_not_prune() -> None:
    with pytest.raises(ValueError, match=r"training\.density: expected 1 with framework 'lava_dl', whose blocks"):
        small(*PRUNED, framework="lava_dl")


# ---- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["snntorch", "norse"])
@pytest.mark.parametrize(
    "settings", [(), ("network.variant=hetneu", "training.prune_by=gain"), ("network.clusters=3",)]
)
@pytest.mark.filterwarnings("ignore:.*have no synapse in it")
def test_a_run_ends_with_the_density_asked_for(framework: str, settings: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip(framework)
    config = small(*PRUNED, *settings, framework=framework)
    result = training.train(config, 0, tmp_path, quiet=True)
    masks = masks_of(checkpoint.load(tmp_path / NETWORK))
    assert [mask.sum() for mask in masks] == [45, 9, 3] and [mask.size for mask in masks] == [180, 36, 12]
    assert result.density == load_result(tmp_path).density == 57 / 228
    logged = [record["density"] for record in read_log(tmp_path / LOG)]
    assert logged[:3] == [None] * 3 and logged[3:9] == sorted(logged[3:9], reverse=True) and len(set(logged)) == 7
    assert set(logged[8:]) == {57 / 228}
    model = training.model_of(checkpoint.load(tmp_path / NETWORK), config)
    assert training.evaluate_test(model, config.task, 0) == result.test


def test_a_run_without_pruning_has_no_density(tmp_path: Path) -> None:
    result = training.train(small("training.iterations=1"), 0, tmp_path, quiet=True)
    assert result.density is None and {record["density"] for record in read_log(tmp_path / LOG)} == {None}
    assert not masks_of(checkpoint.load(tmp_path / NETWORK))


class Killed(BaseException):
    """Nothing catches this."""


def killed_at(iteration: int, config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Any = None) -> None:
    """Train until an iteration begins."""
    kind = kind or training.Trainer

    class Dying(kind):  # type: ignore[misc]  # of the kind asked for
        def step(self, batch: Any) -> Any:
            if self.iteration == iteration:
                raise Killed
            return super().step(batch)

    with monkeypatch.context() as patch:
        patch.setattr(training, "Trainer", Dying)
        with pytest.raises(Killed):
            training.train(config, 0, folder, quiet=True)


@pytest.mark.parametrize("framework", ["snntorch", "norse"])
def test_a_killed_run_ends_as_if_it_had_not_been(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every stage: before it is pruned, in between, and behind that, with a network that was chosen."""
    pytest.importorskip(framework)
    config = small(*PRUNED, BEST, "training.weight_decay=0.01", framework=framework)
    training.train(config, 0, tmp_path / "unbroken", quiet=True)
    for iteration in (2, 5, 7, 11):
        killed_at(iteration, config, tmp_path / "killed", monkeypatch)
    training.train(config, 0, tmp_path / "killed", quiet=True)
    assert left(tmp_path / "killed") == left(tmp_path / "unbroken")


def test_pruning_that_is_forgotten_at_a_start_anew_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(*PRUNED)
    training.train(config, 0, tmp_path / "unbroken", quiet=True)
    killed_at(11, config, tmp_path / "killed", monkeypatch)
    forgetful = changed(training_state.__name__, "weights[name] = new =", "weights[name] = tensor; new =")
    monkeypatch.setattr(training_state, "load", forgetful[training_state.__name__].load)
    training.train(config, 0, tmp_path / "killed", quiet=True)
    with caught("the same network"):
        assert left(tmp_path / "killed") == left(tmp_path / "unbroken"), "the same network"


def test_networks_are_chosen_from_what_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best one of all, that of the first validation, has more synapses."""

    def falling(*_: Any) -> float:
        return next(values)

    def chosen(config: Config, kind: Any, folder: Path) -> Any:
        monkeypatch.setattr(training, "Trainer", kind)
        return training.train(config, 0, folder, quiet=True)

    config = small(*PRUNED, BEST)
    monkeypatch.setattr(training, "evaluate", falling)
    monkeypatch.setattr(training, "evaluate_test", lambda *_: 0.5)
    values = iter(np.linspace(1, 0, 20))
    assert chosen(config, training.Trainer, tmp_path / "right").selected_iteration == 8
    values = iter(np.linspace(1, 0, 20))
    planted = changed(training.__name__, 'if select != "last" and self.is_pruned():', 'if select != "last":')
    planted[training.__name__].__dict__.update(evaluate=falling, evaluate_test=lambda *_: 0.5)
    assert chosen(config, planted[training.__name__].Trainer, tmp_path / "wrong").selected_iteration != 8


def test_patience_begins_when_it_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "evaluate", lambda *_: 0.5)
    result = training.train(small(*PRUNED, BEST, "training.patience=1"), 0, tmp_path, quiet=True)
    assert (result.selected_iteration, result.iterations) == (8, 10)


# ---- longer --------------------------------------------------------------------------------------------------------


def test_a_dense_run_goes_on_to_be_pruned(tmp_path: Path) -> None:
    """As if it had been trained so at once; the network that was the best without pruning is none of it."""
    more = ["training.iterations=16", "training.density=0.25", "training.prune_from=12", "training.prune_until=14"]
    for name, steps in {"two": [(), more], "one": [more]}.items():
        for settings in steps:
            sweep.train_seeds(small(BEST, *settings), [0], tmp_path / name, quiet=True)
    assert left(tmp_path / "two/seed-0") == left(tmp_path / "one/seed-0")
    assert (tmp_path / "two/seed-0/result.12.json").exists()
    with pytest.raises(ValueError, match=r"training\.density: expected the same pruning in the 16 iterations"):
        sweep.train_seeds(small(BEST, *more, "training.prune_from=11"), [0], tmp_path / "two", quiet=True)


@pytest.mark.parametrize(
    "settings",
    [
        ("training.prune_from=11",),
        ("training.prune_by=gain", "training.prune_from=2"),
        ("training.density=0.5", "training.prune_from=2"),
    ],
)
def test_a_run_that_was_pruned_otherwise_is_another(settings: tuple[str, ...], tmp_path: Path) -> None:
    first = () if "training.prune_from=11" in settings else PRUNED
    sweep.train_seeds(small(*first), [0], tmp_path, quiet=True)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"training\.density: expected the same pruning in the 12 iterations"):
        changes = ("training.iterations=16", *PRUNED, "training.prune_until=14" if not first else PRUNED[-1], *settings)
        sweep.train_seeds(small(*changes), [0], tmp_path, quiet=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


# ---- states --------------------------------------------------------------------------------------------------------


def test_a_state_whose_synapses_come_back_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of the network says which there can be."""
    config = small(*PRUNED, "network.builder=test_pruning:masked")
    killed_at(5, config, tmp_path, monkeypatch)
    training.Trainer(config, 0, tmp_path)
    save = training_state._array

    def all_there(tensor: torch.Tensor) -> Any:
        return save(torch.ones_like(tensor) if tensor.dtype == torch.bool else tensor)

    monkeypatch.setattr(training_state, "_array", all_there)
    shutil.rmtree(tmp_path)
    killed_at(5, config, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="mask: expected no synapse that was taken out before, got some"):
        training.Trainer(config, 0, tmp_path)


def test_a_network_with_masks_that_stay_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("network.builder=test_pruning:masked")
    training.train(config, 0, tmp_path / "unbroken", quiet=True)
    killed_at(7, config, tmp_path / "killed", monkeypatch)
    training.train(config, 0, tmp_path / "killed", quiet=True)
    assert left(tmp_path / "killed") == left(tmp_path / "unbroken")
    assert [mask.mean() for mask in masks_of(checkpoint.load(tmp_path / "killed" / NETWORK))] == [0.5]


def masked(lines: int, outputs: int, dt: float, seed: int) -> Any:
    """A network of one's own, of whose hidden neurons each sees every other line."""
    from hetsyn_plugins.adapters.snntorch import HetSynLeaky

    torch.manual_seed(seed)
    hidden = HetSynLeaky(lines, 6, mask=torch.arange(lines).remainder(2).expand(6, lines), dt=dt, init_hidden=True)
    readout = HetSynLeaky(6, outputs, spiking=False, dt=dt, init_hidden=True)
    return torch.nn.Sequential(hidden, readout)


# ---- commands ------------------------------------------------------------------------------------------------------


def test_a_sweep_over_densities_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [word for text in SMALL for word in ("--set", text)]
    swept = ["--sweep", "training.density=1,0.5", "--out", str(tmp_path), "--quiet"]
    assert cli.main(["train", "dms", *words, *swept]) == 0
    assert load_result(tmp_path / "training.density=0.5/seed-0").density == 0.5
    capsys.readouterr()
    words += ["--set", "training.density=0.5", "--out", str(tmp_path / "training.density=0.5"), "--quiet"]
    assert cli.main(["train", "dms", *words]) == 0
    assert "\nsynapses left 50.00%\n" in capsys.readouterr().out
