"""Delays that are wide while a network trains: the window, what stays as it is, runs that are killed or made longer."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, planted

from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import sweep, training, widening
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.model import Model
from hetsyn_plugins.experiments.run_folder import NETWORK, STATE
from hetsyn_plugins.experiments.widening import Widening, widened, widening_of

SMALL = [
    "network.hidden=[5]", "network.max_delay=0.03", "network.dropout=0.2", "training.iterations=8", "training.batch=4",
    "training.log_every=1", "training.checkpoint_every=3", "task.test_samples=10", "task.delay=0.05",
]  # fmt: skip
WIDE = "training.delay_sigma=2.5"


def small(*settings: str, framework: str = "snntorch") -> Config:
    return load_config("dms", [*SMALL, *settings], framework)


def test_sigma_falls_evenly_to_0() -> None:
    wide = widening_of(small(WIDE))
    assert wide == Widening(2.5, 6) and widening_of(small(WIDE, "training.delay_sigma_until=4")).last == 4
    assert [wide.at(i) for i in range(8)] == pytest.approx([2.5 * max(0, 1 - i / 6) for i in range(8)])
    assert widening_of(small()).at(0) == 0


def readout(delay: float, most: int, neurons: int = 1) -> Model:
    """Of neurons with one synapse each, whose v is what it gets."""
    params = HetSynParams(np.ones((neurons, 1)), 0.0, reset_decay=None, spiking=False,
                          delay=np.full((neurons, 1), delay), max_delay=most)  # fmt: skip
    learned = frozenset({"weight", "delay"})
    return Model(Network((HetSynLayer("readout", params, dt=1e-3, learned=learned),)), "snntorch")


def check_window(drawing: Any) -> None:
    """The mean over draws, one a neuron, is the Gaussian window, convolved with the hat of interpolation.

    What a draw gives is at most 1, so that its variance is at most its mean: within 5 standard errors of that.
    """
    pytest.importorskip("snntorch")
    delay, sigma, draws, steps = 9.3, 1.7, 10_000, 20
    model, x = readout(delay, 30, draws), torch.zeros(steps, 1, 1, dtype=torch.float64)
    x[0] = 1
    with torch.no_grad(), drawing(model, sigma, 7, 0):
        got = model(x).readout[:, 0].mean(1).numpy()
    at = np.linspace(-8 * sigma, 8 * sigma, 20_001)
    gauss = np.exp(-0.5 * (at / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    hat = np.maximum(0, 1 - np.abs(np.arange(steps)[:, None] - delay - at))
    window = (hat * gauss).sum(1) * (at[1] - at[0])
    assert np.all(np.abs(got - window) < 5 * np.sqrt(window / draws)), "the window"
    assert torch.all(next(model.delays()) == delay), "the delay itself"


def test_the_mean_over_draws_is_a_gaussian_window() -> None:
    check_window(widened)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("rng.normal(0, sigma,", "rng.uniform(-sigma, sigma,", "the window"),
        ("delay.copy_(own)", "pass", "the delay itself"),
    ],
)
def test_planted_bugs_are_caught(old: str, new: str, says: str) -> None:
    with planted(widening.__name__, old, new) as module, caught(says):
        check_window(module.widened)


def test_the_gradient_is_that_of_the_delay() -> None:
    pytest.importorskip("snntorch")
    model, x = readout(4.25, 10), torch.randn(15, 1, 1, dtype=torch.float64)
    delay = next(model.delays())
    with widened(model, 1.5, 3, 0):
        moved = delay.item()
        model(x).readout.square().sum().backward()
    gradient = delay.grad.item()
    assert delay.item() == 4.25 != moved and gradient != 0
    again = readout(moved, 10)
    again(x).readout.square().sum().backward()
    assert next(again.delays()).grad.item() == gradient


@pytest.mark.parametrize("framework", ["snntorch", "norse"])
def test_without_a_width_nothing_changes(framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit; and a width changes delays alone, no drawn number of anything else."""
    pytest.importorskip(framework)
    for name, setting in {"none": "training.delay_sigma=0", "wide": WIDE}.items():
        training.train(small(setting, framework=framework), 0, tmp_path / name, quiet=True)
    monkeypatch.setattr(training, "widened", lambda *_: nullcontext())
    training.train(small(WIDE, framework=framework), 0, tmp_path / "plain", quiet=True)
    networks = {name: (tmp_path / name / NETWORK).read_bytes() for name in ("none", "wide", "plain")}
    assert networks["none"] == networks["plain"] != networks["wide"]
    start = [checkpoint.load(tmp_path / name / "start.safetensors").layers[0].params for name in ("none", "wide")]
    np.testing.assert_array_equal(start[0].delay, start[1].delay)


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    class Dying(training.Trainer):
        def step(self, batch: Any) -> Any:
            if self.iteration == 5:
                raise Killed
            return super().step(batch)

    training.train(small(WIDE), 0, tmp_path / "unbroken", quiet=True)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "Trainer", Dying)
        training.train(small(WIDE), 0, tmp_path / "killed", quiet=True)
    assert (tmp_path / "killed" / STATE).exists()
    training.train(small(WIDE), 0, tmp_path / "killed", quiet=True)
    assert (tmp_path / "killed" / NETWORK).read_bytes() == (tmp_path / "unbroken" / NETWORK).read_bytes()


def test_longer_runs(tmp_path: Path) -> None:
    until = "training.delay_sigma_until=4"
    for settings in ((WIDE, until), (WIDE, until, "training.iterations=10")):
        sweep.train_seeds(small(*settings), [0], tmp_path / "two", quiet=True)
    sweep.train_seeds(small(WIDE, until, "training.iterations=10"), [0], tmp_path / "one", quiet=True)
    one, two = ((tmp_path / name / "seed-0" / NETWORK).read_bytes() for name in ("one", "two"))
    assert one == two
    sweep.train_seeds(small(WIDE), [0], tmp_path / "open", quiet=True)
    with pytest.raises(ValueError, match=r"training\.delay_sigma_until: expected epochs, .* to train on, got 0"):
        sweep.train_seeds(small(WIDE, "training.iterations=10"), [0], tmp_path / "open", quiet=True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("training.delay_sigma=-1",), r"training\.delay_sigma: expected at least 0, got -1"),
        ((WIDE, "training.delay_sigma_until=9"), r"training\.delay_sigma_until: expected at most the 8 epochs"),
        ((WIDE, "network.max_delay=0"), r"training\.delay_sigma: expected 0 without delays that are trained"),
    ],
)
def test_what_is_no_widening(settings: tuple[str, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        sweep.train_seeds(small(*settings), [0], tmp_path, quiet=True)
