"""Tasks, networks and claims of one's own by import path, and what is said where they are none."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hetsyn_plugins import cli
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import run_folder, training, variants
from hetsyn_plugins.experiments.config import load_config, to_toml
from hetsyn_plugins.experiments.costs import layer_sizes
from hetsyn_plugins.experiments.tasks import name_of
from hetsyn_plugins.experiments.variants import NetworkConfig

MODULE = '''
from dataclasses import dataclass

import numpy as np
import torch

from hetsyn_plugins.core.network import Network
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.experiments.claims.claim import Arm, Claim, per_cent
from hetsyn_plugins.experiments.tasks.task import Batch, DrawnTask, accuracy_of, generator
from hetsyn_plugins.experiments.variants import NetworkConfig, build as build_variant


@dataclass(frozen=True)
class Sides(DrawnTask):
    """Which of two lines is busier?"""

    name = "sides"
    steps: int = 8
    test_samples: int = 10
    dt: float = 2e-3

    lines = 2
    outputs = 2

    def drawn_batch(self, samples, seed, rng):
        labels = rng.integers(0, 2, samples)
        x = rng.random((self.steps, samples, 2)) < np.where(np.arange(2) == labels[:, None], 0.8, 0.1)
        return Batch(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels))

    def held_out(self, split, batch, seed):
        whole = self.drawn_batch(self.test_samples, seed, generator(seed, split, 0))
        yield from (Batch(whole.inputs[:, at : at + batch], whole.target[at : at + batch])
                    for at in range(0, self.test_samples, batch))

    def loss(self, activity, target):
        return torch.nn.functional.cross_entropy(activity.readout.mean(0), target)

    def score(self, activity, target):
        return accuracy_of(activity.readout.mean(0), target)


class Lossless(Sides):
    loss = DrawnTask.loss
    drawn_batch = DrawnTask.drawn_batch


class Undecorated(Sides):
    busier: float = 0.9


class Tuples(Sides):
    def drawn_batch(self, samples, seed, rng):
        return (1, 2)


class OneOutput(Sides):
    outputs = 1


class Arrays(Sides):
    def drawn_batch(self, samples, seed, rng):
        return Batch(*(part.numpy() for part in super().drawn_batch(samples, seed, rng)))


class LossOfEach(Sides):
    def loss(self, activity, target):
        return torch.nn.functional.cross_entropy(activity.readout.mean(0), target, reduction="none")


class Constant(Sides):
    def loss(self, activity, target):
        return 0.5


class Mean(Sides):
    def score(self, activity, target):
        return super().score(activity, target).mean()


class OneTooMany(Sides):
    def drawn_batch(self, samples, seed, rng):
        batch = super().drawn_batch(samples, seed, rng)
        return batch._replace(target=batch.target + (torch.arange(samples) == 3))


class OneTooManyInTheTest(Sides):
    def held_out(self, split, batch, seed):
        for each in super().held_out(split, batch, seed):
            yield each._replace(target=each.target - 9 * (split == "test"))


def build(lines, outputs, dt, seed):
    return build_variant(NetworkConfig(hidden=(3, 5), variants=("alif", "hetneu")), lines, outputs, dt, seed)


def other_end(lines, outputs, dt, seed):
    return build(lines, outputs + 1, dt, seed)


def other_start(lines, outputs, dt, seed):
    return build(lines + 1, outputs, dt, seed)


def other_step(lines, outputs, dt, seed):
    return build(lines, outputs, 2 * dt, seed)


def hidden_only(lines, outputs, dt, seed):
    return Network(build(lines, 5, dt, seed).layers[:2][:1] + build(3, outputs, dt, seed).layers[1:2])


def module(lines, outputs, dt, seed):
    from hetsyn_plugins.exchange.conversion import convert

    return convert(build(lines, outputs, dt, seed), to="snntorch")


def in_float64(lines, outputs, dt, seed):
    from dataclasses import replace

    layers = build(lines, outputs, dt, seed).layers
    return Network(tuple(replace(layer, params=layer.params.astype(np.float64)) for layer in layers))


def number(lines, outputs, dt, seed):
    return 5


def one_argument(lines):
    return 5


claim = Claim("Sides", "the busier side is found", {"sides": Arm("mine:Sides", ("network.hidden=[3]",
              "training.iterations=2", "training.batch=4"))}, [0, 1],
              lambda evidence: [per_cent("sides", evidence.values("sides"))])
'''
FAST = ["--set", "training.iterations=2", "--set", "training.batch=4", "--quiet"]


@pytest.fixture(autouse=True)
def mine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder has the module `mine`, and another that does not run."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MODULE)
    (folder / "broken.py").write_text("x = 1 / 0\n")
    (folder / "needs.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    sys.modules.pop("mine", None)


def test_a_task_of_ones_own_goes_through_every_command(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, claims = tmp_path / "run", tmp_path / "claims"
    words = ["--network", "mine:build", "--set", "task.steps=9"]
    assert cli.main(["train", "--task", "mine:Sides", *words, *FAST, "--seeds", "0-1", "--out", str(run)]) == 0
    assert "sides, mine:build, snntorch" in capsys.readouterr().out
    config = run_folder.load_run_config(run)
    assert name_of(config.task) == "mine:Sides" and config.task.steps == 9 and run_folder.trained_seeds(run) == [0, 1]
    assert cli.main(["evaluate", str(run), "--set", "task.test_samples=4"]) == 0
    assert cli.main(["analyse", str(run)]) == 0
    assert cli.main(["claim", "mine:claim", "--out", str(claims), "--quiet", "--seeds", "0"]) == 0
    assert cli.main(["report", str(run), str(claims / "claim"), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "mine:build" in page and "hetsyn train mine:Sides" in page


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("mine:Lossless", ValueError, "expected a task with loss, drawn_batch, got mine:Lossless without"),
        ("mine:Undecorated", ValueError, r"expected @dataclass\(frozen=True\) above a class with settings, busier"),
        ("mine:build", ValueError, "expected a subclass of .*:Task, got mine:build, which is <function"),
        ("mine:Sidse", ValueError, "expected Sidse in the module mine, got none"),
        ("mien:Sides", ImportError, "expected a module mien that is installed or lies in .*mine"),
        ("mine.tasks:Sides", ImportError, "expected a module mine.tasks that is installed"),
        ("broken:Sides", ImportError, "expected to import broken, got ZeroDivisionError: division by zero"),
        ("needs:Sides", ImportError, "expected to import needs, got: No module named 'nothing_of_this_name'"),
    ],
)
def test_what_is_no_task_is_told(path: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^task.name: {message}"):
        load_config(path)


def test_wrong_words_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for words, message in {
        ("train",): "TASK: expected a task, data or a file, or --task, got neither",
        ("train", "dms", "--task", "mine:Sides"): "got dms and mine:Sides",
        ("train", "--task", "mine"): "config: expected one of patterns, .*package.module:Name",
        ("claim", "mine:build"): "CLAIM: expected a .*:Claim, got mine:build",
        ("claim", "nothing"): "CLAIM: expected one of",
        ("train", "mine:Tuples", *FAST): r"task: expected a Batch\(inputs, target\) of it, got tuple",
        ("train", "mine:OneOutput", *FAST): r"target\[[0-9]\]: expected a label from 0 to 0, .* 1 outputs .*, got 1\n",
        ("train", "mine:Arrays", *FAST): "task: expected a Batch of tensors, got ndarray; torch.from_numpy",
        ("train", "mine:LossOfEach", *FAST): r"task.loss: expected a tensor of shape \(\), got \([0-9]+,\)\n",
        ("train", "mine:Constant", *FAST): r"task.loss: expected a tensor of shape \(\), got float\n",
        ("train", "mine:Mean", *FAST): r"task.score: expected a tensor of shape \([0-9]+,\), got \(\)\n",
        ("train", "mine:OneTooMany", *FAST): r"target\[3\]: expected a label from 0 to 1, .* 2 outputs .*, got 2\n",
        ("train", "mine:OneTooManyInTheTest", *FAST): r"target\[0\]: expected a label from 0 to 1, .*, got -[89]\n",
        ("train", "dms", "--network", "mine"): "network.builder: expected package.module:Name, got 'mine'",
    }.items():
        assert cli.main([*words, "--out", str(tmp_path / "-".join(words[:2]))]) == 2
        assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other_end", "layer 'readout': expected 2 neurons, the task's outputs, got 3"),
        ("other_start", "layer 'hidden1': expected 2 lines in, the task's, got 3"),
        ("other_step", "layer 'hidden1': expected steps of 0.002 s, as the task has, got 0.004"),
        ("hidden_only", "layer 'hidden2': expected"),
        ("number", "expected a core.network.Network, or layers that convert takes, of mine:number, got int"),
        ("one_argument", r"expected a function of \(lines, outputs, dt, seed\), got mine:one_argument"),
    ],
)
def test_a_builder_that_returns_something_else_is_told(name: str, message: str, tmp_path: Path) -> None:
    config = load_config("mine:Sides", [f"network.builder=mine:{name}"])
    with pytest.raises(ValueError, match=f"^network.builder: .*{message}"):
        variants.build_for(config.task, config.network, 0)


def test_a_builder_may_return_layers_of_a_framework() -> None:
    by_name = {}
    for name in ("build", "module", "in_float64"):
        config = load_config("mine:Sides", [f"network.builder=mine:{name}"])
        network = variants.build_for(config.task, config.network, 3)
        by_name[name] = checkpoint_of(network)
        assert [size.neurons for size in layer_sizes(config)] == [3, 5, 2]
        assert [size.synapses for size in layer_sizes(config)] == [2 * 3 + 9, 3 * 5 + 25, 10]
        x = next(config.task.held_out("test", 10, 0)).inputs
        assert training.model_of(network, config)(x).readout.shape == (8, 10, 2)
    for plain, *others in zip(*by_name.values(), strict=True):
        for other in others:
            np.testing.assert_array_equal(plain, other)
            assert other.dtype == np.float32


def checkpoint_of(network: checkpoint.Network) -> list[np.ndarray]:
    """The weights of its layers."""
    return [layer.params.weight for layer in network.layers if hasattr(layer, "params")]


# ---- a stack -------------------------------------------------------------------------------------------------------


def test_a_stack_has_layers_of_their_own(tmp_path: Path) -> None:
    settings = ["network.hidden=[4, 3, 2]", 'network.variants=["hetsyn", "alif", "hetneu"]',
                'network.kinds=["feedforward", "recurrent", "feedforward"]']  # fmt: skip
    config = load_config("dms", settings)
    (tmp_path / "stack.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "stack.toml") == config and config.network.title == "hetsyn+alif+hetneu"
    *hidden, readout = variants.build_for(config.task, config.network, 0).layers
    for layer, share, recurs, adapts in zip(
        hidden, ("synapse", "layer", "neuron"), (False, True, False), (False, True, False), strict=True
    ):
        assert layer.share == share  # type: ignore[union-attr]
        assert (layer.params.recurrent_weight is not None) == recurs  # type: ignore[union-attr]
        assert (layer.params.adaptation_decay is not None) == adapts  # type: ignore[union-attr]
    assert readout.share == "synapse"  # type: ignore[union-attr]
    assert [size.synapses for size in layer_sizes(config)] == [30 * 4, 4 * 3 + 9, 3 * 2, 2 * 2]
    same = NetworkConfig(hidden=(4, 3), variants=("hetneu",) * 2, variant="hetneu", kinds=("recurrent",) * 2)
    plain = NetworkConfig(hidden=(4, 3), variant="hetneu")
    for one, other in zip(variants.build(same, 5, 2, 1e-3, 0).layers, variants.build(plain, 5, 2, 1e-3, 0).layers,
                          strict=True):  # fmt: skip
        assert one.share == other.share and (one.params.weight == other.params.weight).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('network.variants=["hetsyn", "alif"]', "network.variants: expected none, or one for each of 1 hidden layers"),
        ('network.variants=["single_tau"]', "network.variants: expected one of hetsyn, hetneu, homneu, alif"),
        ('network.kinds=["both"]', "network.kinds: expected one of recurrent, feedforward, got 'both'"),
        ('network.kinds="recurrent"', "network.kinds: expected a list"),
    ],
)
def test_a_stack_that_is_none_is_told(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        load_config("dms", ["network.hidden=[4]", setting])
