"""`print(layer)` of every framework: what there is to know of a layer, and never an error."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

from hetsyn_plugins import HetSynParams

HOSTS = {"snntorch": "HetSynLeaky", "norse": "HetSynLIF"}
SHOWN = {
    "snntorch": ("share='neuron'", "alpha=0.5 to 0.75", "threshold=1.5", "spike_grad=MultiGaussian", "delay=2"),
    "norse": ("share='neuron'", "tau_syn=1.44 to 3.48 ms", "v_th=1.5", "method=", "delay=2"),
}


def layer_of(host: str, **options: Any) -> Any:
    pytest.importorskip(host, reason=f"{host} is not installed")
    return getattr(importlib.import_module(f"hetsyn_plugins.adapters.{host}"), HOSTS[host])


@pytest.mark.parametrize("host", HOSTS)
def test_decays_threshold_surrogate_share_and_delays_are_shown(host: str) -> None:
    decay = np.array([[0.5], [0.75]])
    params = HetSynParams(np.ones((2, 3)), decay, reset_decay=0.5, threshold=1.5, delay=np.full((2, 3), 2.0))
    options = {"dt": 1e-3} if host == "norse" else {}
    text = repr(layer_of(host).from_params(params, **options))
    assert [part for part in SHOWN[host] if part not in text] == []


def meta(layer: Any) -> None:
    layer.to("meta")


def of_nan(layer: Any) -> None:
    for parameter in layer.parameters():
        parameter.data.fill_(float("nan"))


def emptied(layer: Any) -> None:
    for parameter in layer.parameters():
        parameter.data = parameter.data.flatten()[:0]


def of_other_shapes(layer: Any) -> None:
    for parameter in layer.parameters():
        parameter.data = torch.zeros(7, 1, 5)


@pytest.mark.parametrize("state", [meta, of_nan, emptied, of_other_shapes])
@pytest.mark.parametrize("host", HOSTS)
def test_odd_states_are_printed_too(host: str, state: Any) -> None:
    for options in ({}, {"share": "neuron"}, {"share": "codebook", "clusters": 2}, {"parametrization": "log_tau"}):
        layer = layer_of(host)(3, 2, dt=1e-3, **options)
        state(layer)
        assert type(layer).__name__ in repr(layer)


def test_blocks_of_lava_show_their_parts() -> None:
    slayer = pytest.importorskip("lava.lib.dl.slayer", reason="lava-dl is not installed") and importlib.import_module(
        "hetsyn_plugins.adapters.lava_dl.slayer"
    )
    block = slayer.Recurrent({"threshold": 1.5}, 3, 2, decay=0.75, share="layer")
    for part in ("threshold=1.5", "surrogate=MultiGaussian()", "quantised=True", "decay=0.75, share='layer'"):
        assert part in repr(block)
    for state in (of_nan, emptied, meta):
        state(block)
        assert "Recurrent" in repr(block)


def test_plain_parameters_show_ranges() -> None:
    params = HetSynParams(np.ones((2, 3)), np.array([[0.5], [0.75]]), reset_decay=0.5)
    assert "decay (2, 1) 0.5 to 0.75" in repr(params) and "threshold () 1" in repr(params)
