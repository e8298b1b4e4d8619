"""Networks leave from any device that holds values, as from the CPU; from none that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planting import changed
from pretended_card import CARD, pretended_card
from torch import nn

from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.deployment.clusters import cluster_network
from hetsyn_plugins.deployment.export import export
from hetsyn_plugins.exchange import checkpoint, frameworks
from hetsyn_plugins.exchange.conversion import convert
from hetsyn_plugins.fixed_point.network import quantise

T, B, M, N = 6, 3, 5, 4
X = (np.random.default_rng(0).random((T, B, M)) < 0.5).astype(np.float32)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretended_card(monkeypatch):
        yield


def plain() -> Network:
    rng = np.random.default_rng(1)

    def layer(name: str, n: int, m: int, **options: Any) -> HetSynLayer:
        weight = rng.normal(0.1, 1, (n, m)).astype(np.float32)
        decay = rng.uniform(0.5, 0.95, (n, m)).astype(np.float32)
        return HetSynLayer(name, HetSynParams(weight, decay, **options), dt=1e-3, parametrization="tau")

    return Network((layer("a", N, M, reset_decay=0.9), layer("b", 2, N, reset_decay=None, spiking=False)))


def snntorch_net() -> Any:
    return checkpoint._convert(plain(), "snntorch")


def norse_net() -> Any:
    return checkpoint._convert(plain(), "norse")


def slayer_blocks() -> Any:
    dense = frameworks.adapter("lava_dl").Dense
    torch.manual_seed(0)
    return nn.Sequential(dense({"threshold": 1.0, "reset_decay": 0.9}, M, N, quantised=True))


NETS: dict[str, tuple[str, Callable[[], Any]]] = {
    "snntorch": ("snntorch", snntorch_net),
    "norse": ("norse", norse_net),
    "lava_dl": ("lava_dl", slayer_blocks),
}
in_each = pytest.mark.parametrize("name", list(NETS))


def net_of(name: str) -> Any:
    framework, make = NETS[name]
    if why := frameworks.why_not_installed(framework):
        pytest.skip(why)
    return make()


def moved(net: Any, only_last: bool = False) -> Any:
    if only_last:
        list(net)[-1].to(CARD)
        return net
    return net.to(CARD)


@in_each
@pytest.mark.parametrize("only_last", [False, True], ids=["whole", "the last layer"])
def test_a_network_leaves_a_card_as_it_leaves_the_cpu(name: str, only_last: bool, card: None, tmp_path: Path) -> None:
    """Checkpoint, chip file and report, byte by byte; inputs and labels may be on the card too."""
    labels = torch.tensor([0, 1, 0])
    for place, device in (("cpu", "cpu"), ("card", "cuda:0")):
        net, folder = net_of(name), tmp_path / place
        folder.mkdir()
        net = net if place == "cpu" else moved(net, only_last)
        if name != "lava_dl":
            checkpoint.save(net, folder / "net.safetensors")
        x = torch.from_numpy(X).to(device)
        report = export(net, folder / "net.net", clip=True, calibration=x, labels=labels.to(device))
        (folder / "report").write_text(str(report).replace(str(folder), ""))
    for path in (tmp_path / "cpu").iterdir():
        assert path.read_bytes() == (tmp_path / "card" / path.name).read_bytes(), path.name


def test_plain_data_run_on_inputs_from_a_card(card: None) -> None:
    network, x = plain(), torch.from_numpy(X)
    fixed = quantise(network, clip=True)[0]
    for on_card, on_cpu in zip(network.run(x.to(CARD)).values(), network.run(X).values(), strict=True):
        np.testing.assert_array_equal(on_card[1], on_cpu[1])
    for of_card, of_cpu in zip(fixed.run(x.to(CARD)).values(), fixed.run(X).values(), strict=True):
        np.testing.assert_array_equal(of_card.v, of_cpu.v)
    reports = [cluster_network(network, 2, inputs=inputs)[1] for inputs in (x.to(CARD), X)]
    assert [r.error for r in reports[0].values()] == [r.error for r in reports[1].values()]


def test_an_array_that_is_not_fetched_is_caught(card: None) -> None:
    name = "hetsyn_plugins.ops.trainable"
    planted = changed(name, "            t = t.detach().cpu()\n", "            t = t.detach()\n")[name]
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        planted.to_hetsyn_params({"weight": torch.ones(1, 1, device=CARD)}, True)


# ---- the meta device -----------------------------------------------------------------------------------------------


@in_each
def test_a_network_without_values_is_refused_by_name(name: str, tmp_path: Path) -> None:
    net = net_of(name).to("meta")
    path, layer = tmp_path / "net", next(iter(net))
    calls: list[Callable[[], Any]] = [lambda: layer.to_params(), lambda: export(net, path)]
    if name != "lava_dl":
        calls += [lambda: convert(net, to="reference"), lambda: checkpoint.save(net, path)]
    for call in calls:
        with pytest.raises(ValueError, match="expected values, got a tensor on the meta device, which holds none"):
            call()
    assert not path.exists()


def test_a_layer_without_values_among_others_is_named() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")))
    with pytest.raises(ValueError, match=r"^net: 1\.1\.weight: expected values, got a tensor on the meta device"):
        convert(net, to="reference")


def test_inputs_without_values_are_refused_by_name(tmp_path: Path) -> None:
    x, network = torch.zeros(T, B, M, device="meta"), plain()
    calls: dict[str, Callable[[], Any]] = {
        "inputs": lambda: network.run(x),
        "calibration": lambda: export(network, tmp_path / "net", calibration=x),
        "labels": lambda: export(network, tmp_path / "net", calibration=X, labels=x[0, :, 0]),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"^{name}: expected values, got a tensor on the meta device"):
            call()
