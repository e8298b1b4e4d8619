"""Commands on a card that is not there (`pretended_card`): nothing is left on the CPU, and bits are the CPU's."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planting import changed
from pretended_card import CARD, pretended_card
from test_own import arrays, written

from hetsyn_plugins.cli import demo, main
from hetsyn_plugins.experiments import training
from hetsyn_plugins.experiments.claims.claim import Arm, Evidence
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.data import digits
from hetsyn_plugins.experiments.run_folder import NETWORK, RESULT
from hetsyn_plugins.experiments.training import Trainer, train
from hetsyn_plugins.ops import devices

SMALL = [
    "network.hidden=[6]", "network.dropout=0.2", "network.frozen=0.5", "training.iterations=3", "training.batch=4",
    "training.validate_every=2", "training.checkpoint_every=1", "training.clip=1.0", "training.select=best_validation",
    "task.test_samples=4", "task.onset=0.005", "task.cue=0.015", "task.delay=0.0",
]  # fmt: skip
TIMES = ("seconds", "peak_memory_mb", "peak_card_memory_mb", "device", "digest")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretended_card(monkeypatch), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*did not fire once")  # some steps of some spikes
        yield


def small(device: str, *settings: str, framework: str = "snntorch") -> Config:
    return load_config("dms", [*SMALL, f"training.device={device}", *settings], framework)


def left(folder: Path) -> Any:
    result = json.loads((folder / RESULT).read_text())
    return {k: v for k, v in result.items() if k not in TIMES}, (folder / NETWORK).read_bytes()


OTHER = ("network.frozen=0.0", "network.dropout=0.0")  # what only hetsyn, and only floats, can have
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "snntorch": ("snntorch", ()),
    "norse": ("norse", ("network.parametrization=tau", "training.optimiser=adamw", "training.decay_weight_decay=0.1")),
    "lava_dl": ("lava_dl", ()),
    "one tau": ("snntorch", (*OTHER, "network.variant=single_tau")),
    "tied": ("lava_dl", (*OTHER, "network.variant=hetneu", "network.parametrization=log_tau")),
    "adapting": ("norse", (*OTHER, "network.variant=alif")),
    "integers": ("lava_dl", (*OTHER, "network.quantised=true")),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_a_run_on_a_card_is_that_on_the_cpu(name: str, card: None, tmp_path: Path) -> None:
    framework, settings = RUNS[name]
    pytest.importorskip({"lava_dl": "lava.lib.dl.slayer"}.get(framework, framework))
    results = {
        device: train(small(device, *settings, framework=framework), 3, tmp_path / device, quiet=True)
        for device in ("cpu", "cuda")
    }
    assert left(tmp_path / "cpu") == left(tmp_path / "cuda")
    assert (results["cuda"].device, results["cuda"].peak_card_memory_mb) == ("cuda:0", 1.5)
    assert results["cpu"].device == "cpu"


@pytest.mark.parametrize("places", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_where_it_is_asked_to(places: tuple[str, str], card: None, tmp_path: Path) -> None:
    every, broken = "training.validate_every=1", tmp_path / "broken"
    train(small("cuda", every), 3, tmp_path / "unbroken", quiet=True)
    broken.mkdir()
    first = Trainer(small(places[0], every), 3, broken)
    first.total = 2
    first.go(quiet=True)
    assert first.best is not None
    second = Trainer(small(places[1], every), 3, broken)
    assert second.iteration == 2 and second.best is not None
    moments = [t for state in second.optimiser.state.values() for n, t in state.items() if n != "step"]
    assert {t.device.type for t in [*moments, *second.best.model.values()]} == {places[1]}
    second.go(quiet=True)
    second.finish()
    assert left(broken) == left(tmp_path / "unbroken")


def test_data_that_stay_on_the_card_change_nothing(card: None, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    settings = ["task.source=digits", "task.samples=20", "network.hidden=[4]", "training.iterations=3"]
    settings += ["training.batch=8", "training.select=last"]
    for device in ("cpu", "cuda"):
        (tmp_path / device).mkdir()
        trainer = Trainer(load_config("images", [*settings, f"training.device={device}"]), 3, tmp_path / device)
        if device == "cuda":
            assert trainer.on_card is not None and trainer.on_card.samples is not None
            assert trainer.on_card.samples.inputs.device == CARD
        trainer.go(quiet=True)
        trainer.finish()
    assert left(tmp_path / "cpu") == left(tmp_path / "cuda")


def test_samples_of_unequal_length_are_the_same_on_a_card(card: None, tmp_path: Path) -> None:
    source = str(written(tmp_path, **arrays(lengths=True)))
    settings = ["network.hidden=[4]", "training.iterations=2", "training.batch=4", "task.rate_weight=0.1"]
    for readout in ("last", "softmax"):
        places = {device: tmp_path / f"{device}-{readout}" for device in ("cpu", "cuda")}
        for device, place in places.items():
            train(load_config(source, [*settings, f"task.readout={readout}", f"training.device={device}"]), 3, place,
                  quiet=True)  # fmt: skip
        assert left(places["cpu"]) == left(places["cuda"])


def test_what_a_card_does_not_hold_is_refused_before_anything_is_made(
    card: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the setting that holds most, with what it needs and what half of it does; so are seeds side by side."""
    run = ["train", "dms", "--set", "training.device=cuda", "--out", str(tmp_path / "run"), "--quiet"]
    monkeypatch.setattr(devices, "free", lambda device: 400 << 20)
    assert main([*run, "--set", "training.batch=2000"]) == 2
    expected = r"training\.batch: expected what fits into 300 MiB of memory on cuda, got 2000, which needs 1\.\d GiB; "
    said = capsys.readouterr().err
    assert re.search(expected + r"1000 needs \d+ MiB; --despite-cost", said) and said.count("\n") == 1
    monkeypatch.setattr(devices, "free", lambda device: 1 << 30)
    assert main([*run, "--seeds", "0-3", "--jobs", "4"]) == 2
    assert (
        "--jobs: expected as many as fit into 768 MiB of memory on cuda, got 4, which needs" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def test_without_a_card_nothing_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    commands = [["train", "dms"], ["claim", "dms-frozen"], ["demo"]]
    for words in commands:
        assert main([*words, "--device", "cuda", "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert ": expected a CUDA device, got none: " in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_claims_runs_are_those_of_every_device(tmp_path: Path) -> None:
    arms = {"a": Arm("dms")}
    folders = [
        Evidence(tmp_path, arms, [0], settings).folder_of("a")
        for settings in (
            (),
            ("training.device=cuda",),
            ("training.lr=0.1",),
            ("training.lr=0.1", "training.device=cpu"),
        )
    ]
    assert folders[0] == folders[1] != folders[2] == folders[3]


def test_the_demo_trains_on_a_card_as_on_the_cpu(card: None) -> None:
    pytest.importorskip("sklearn")
    data = digits.load_spikes(0)
    data = data._replace(train_spikes=data.train_spikes[:, :4], train_labels=data.train_labels[:4])
    outputs = []
    for device in (torch.device("cpu"), CARD):
        torch.manual_seed(0)
        net = demo.build().to(device)
        demo.train(net, data, 2, quiet=True)
        x = torch.from_numpy(data.train_spikes).to(device)
        outputs.append(demo.spikes_and_output(net, x))
    for on_cpu, on_card in zip(*outputs, strict=True):
        np.testing.assert_array_equal(on_cpu, on_card)


PLANTED = [
    ("masks left on the CPU", ".to(tensor.device)", ""),
    ("a batch left on the CPU", "moved(each_part(batch, share.rows), self.device)", "each_part(batch, share.rows)"),
    ("held-out batches left on the CPU", "part = moved(batch, device)", "part = batch"),
]


@pytest.mark.parametrize(("old", "new"), [bug[1:] for bug in PLANTED], ids=[bug[0] for bug in PLANTED])
def test_what_is_left_on_the_cpu_is_caught(old: str, new: str, card: None, tmp_path: Path) -> None:
    name = training.__name__
    trainer = changed(name, old, new)[name].Trainer(small("cuda"), 3, tmp_path)
    trainer.judged_by = trainer.config.task  # else they are on the card already
    with pytest.raises((RuntimeError, ValueError), match="device"):
        trainer.go(quiet=True)


def test_a_run_of_a_card_is_judged_on_the_cpu_and_back(card: None, tmp_path: Path) -> None:
    settings = [word for text in SMALL for word in ("--set", text)]
    run = str(tmp_path / "run")
    assert main(["train", "dms", *settings, "--device", "cuda", "--out", run, "--quiet"]) == 0
    assert "cuda:0" in (tmp_path / "run/summary.json").read_text()
    assert main(["train", "dms", *settings, "--out", run, "--quiet"]) == 0, "the same run, whatever the device"
    for device in ("cpu", "cuda"):
        assert main(["evaluate", run, "--device", device]) == 0
    assert main(["analyse", run, "--bound", "0.03", "--device", "cuda"]) == 0
