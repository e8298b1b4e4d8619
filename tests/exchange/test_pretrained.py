"""Model cards, and networks in folders as the hub has them, read by the hub's own library."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hetsyn_plugins
from hetsyn_plugins import HetSynParams
from hetsyn_plugins.cli.main import main
from hetsyn_plugins.core.network import AlwaysOn, HetSynLayer, Network
from hetsyn_plugins.exchange.card import Measured, card
from hetsyn_plugins.exchange.pretrained import from_pretrained, save_pretrained
from hetsyn_plugins.experiments import cards, training
from hetsyn_plugins.experiments.cards import measured
from hetsyn_plugins.experiments.config import load_config, to_toml

M = 7
MEASURED = Measured("dms", 'a "set": of 1', "accuracy", 0.9375, "One network, of seed 3.", "hetsyn train x/config.toml")


def network() -> Network:
    rng = np.random.default_rng(0)
    hidden = HetSynParams(rng.normal(0, 1, (5, M + 1)), rng.uniform(0.3, 0.99, (5, M + 1)), reset_decay=0.9)
    readout = HetSynParams.readout(rng.normal(0, 1, (2, 5)), [[1.0] * 5, [0.0] * 5])
    return Network((AlwaysOn("on"), HetSynLayer("hidden", hidden, dt=1e-3), HetSynLayer("out", readout)))


def test_the_hubs_library_reads_the_card() -> None:
    hub = pytest.importorskip("huggingface_hub")
    text = card(network(), "mine", MEASURED)
    read = hub.ModelCard(text).data
    assert read.library_name == "hetsyn_plugins" and "neuromorphic" in read.tags and read.datasets == ['a "set": of 1']
    (result,) = read.eval_results
    assert (read.model_name, result.task_type, result.dataset_name) == ("mine", "dms", 'a "set": of 1')
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.9375)
    assert hub.ModelCard(card(network(), "mine")).data.eval_results is None


def test_a_card_tells_layers_taus_and_how_it_was_measured() -> None:
    text = card(network(), "mine", MEASURED)
    taus = -1 / np.log(network().layers[1].params.decay)  # type: ignore[union-attr]  # the hidden layer
    low, median, high = np.quantile(taus, (0.25, 0.5, 0.75))
    assert f"| hidden | 8 | 5 | 40 | {median:.3g} ms (quartiles {low:.3g}, {high:.3g}) |" in text
    assert "| out (readout) | 5 | 2 | 10 | none between 0 and infinity; 10 of r = 0 or 1 |" in text
    assert "| on | AlwaysOn | | | |" in text
    assert "accuracy on the test set of dms" in text and "**93.75%**. One network, of seed 3." in text
    assert "    hetsyn train x/config.toml" in text
    assert "Nothing is known" in card(network(), "mine")


def test_a_folder_gives_the_network_back_in_any_framework(tmp_path: Path) -> None:
    pytest.importorskip("snntorch")
    net = hetsyn_plugins.convert(network(), to="snntorch")
    save_pretrained(net, tmp_path / "mine", measured=MEASURED)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    x = (np.random.default_rng(1).random((30, 3, M)) < 0.4).astype(float)
    want = network().run(x)["out"][1]
    np.testing.assert_array_equal(from_pretrained(tmp_path / "mine").run(x)["out"][1], want)
    back = hetsyn_plugins.convert(from_pretrained(tmp_path / "mine", to="snntorch"), to="reference")
    np.testing.assert_array_equal(back.run(x)["out"][1], want)
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert config["library_name"] == "hetsyn_plugins" and config["layers"][1]["widths"] == [M + 1, 5]
    (tmp_path / "mine" / "README.md").write_text("my own words")
    save_pretrained(net, tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "my own words"


def test_a_name_of_the_hub_goes_through_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    save_pretrained(network(), tmp_path)
    asked: list[Any] = []

    def download(name: str, file: str, **options: Any) -> str:
        asked.append((name, file, options))
        return str(tmp_path / file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert isinstance(from_pretrained("owner/mine", revision="v1", local_files_only=True), Network)
    assert asked == [
        ("owner/mine", "model.safetensors", {"revision": "v1", "cache_dir": None, "local_files_only": True})
    ]


def test_what_is_no_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"source: expected a folder with a model\.safetensors"):
        from_pretrained(tmp_path)
    for wrong in ("nowhere", "./a/b", "/a/b", "~/b"):
        with pytest.raises(FileNotFoundError, match="source: expected a folder, or owner/name on the hub, got"):
            from_pretrained(wrong)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(
        ImportError, match=r"source: expected huggingface_hub, to get owner/mine.*hetsyn_plugins\[hub\]"
    ):
        from_pretrained("owner/mine")


def test_a_card_has_the_test_set_and_not_the_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text(to_toml(load_config("dms", ["network.hidden=[5]", "training.iterations=1"])))
    settings = load_config("dms", ["network.hidden=[5]", "training.iterations=1", "task.test_samples=2"])
    result = training.train(settings, 0, tmp_path / "seed-0", quiet=True)
    monkeypatch.setattr(cards, "load_result", lambda folder: replace(result, test=0.75, validation=0.25))
    known = measured(tmp_path / "seed-0" / "network.safetensors")
    assert known is not None and known.test == 0.75


def test_the_card_of_a_run_tells_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["network.hidden=[5]", "training.iterations=2", "task.test_samples=4", "task.delay=0.1"]
    config = load_config("dms", settings)
    (tmp_path / "config.toml").write_text(to_toml(config))
    result = training.train(config, 3, tmp_path / "seed-3", quiet=True)
    checkpoint, out = tmp_path / "seed-3" / "network.safetensors", tmp_path / "README.md"
    known = measured(checkpoint)
    assert known is not None and (known.task, known.test) == ("dms", result.test) and "of seed 3" in known.how
    assert main(["card", str(checkpoint), "--name", "mine", "-o", str(out)]) == 0
    text = out.read_text()
    assert 'checkpoint.load("network.safetensors", to="snntorch")' in text
    assert "# mine" in text and f"**{result.test:.2%}**" in text and str(tmp_path) not in text
    assert main(["card", str(checkpoint), "-o", str(out)]) == 2
    assert "--out: expected a file that is not there yet" in capsys.readouterr().err and out.read_text() == text
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(checkpoint.read_bytes())
    assert measured(alone) is None
