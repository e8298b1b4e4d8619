"""State dicts of the paper's script: against a loop over its equations, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hetsyn_plugins
from hetsyn_plugins.core.network import AlwaysOn
from hetsyn_plugins.exchange.authors import import_authors

M, N, OUT, T, B = 5, 6, 3, 40, 2
DT, THETA, TAU_RESET = 4e-3, 0.9, 30e-3


def state_dict(share: str = "synapse") -> dict[str, torch.Tensor]:
    """Two hidden layers, the second recurrent, and a readout that comes first, as nothing says where it stands."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}

    def part(name: str, n: int, m: int) -> None:
        shape = (n, m) if share == "synapse" else (n,)
        made[f"{name}.w"] = torch.tensor(rng.normal(0.1, 0.6, (n, m)))
        made[f"{name}.rho"] = torch.tensor(rng.uniform(0.3, 0.95, shape))
        made[f"{name}.b"] = torch.zeros(shape, dtype=torch.float64)

    part("layer_out.layer_in", OUT, N)
    part("layer_hidden1.layer_in", N, M)
    part("layer_hidden2.layer_in", N, N)
    part("layer_hidden2.layer_rec", N, N)
    return {**made, "w_out": made["layer_out.layer_in.w"], "layer_hidden1.w_in": made["layer_hidden1.layer_in.w"]}


def by_loop(state: dict[str, torch.Tensor], x: Any) -> tuple[Any, Any]:
    """Spikes of the second hidden layer, and v of the readout: the equations of the paper, synapse by synapse."""
    p = {name: value.numpy() for name, value in state.items()}
    full = {name: np.broadcast_to(v[:, None] if v.ndim == 1 else v, p[name.replace("rho", "w")].shape)
            for name, v in p.items() if name.endswith(".rho")}  # fmt: skip
    reset_decay = np.exp(-DT / TAU_RESET)
    current = {name: np.zeros((B, *full[name].shape)) for name in full}
    fired = {name: np.zeros((B, N)) for name in ("layer_hidden1", "layer_hidden2")}
    reset = {name: np.zeros((B, N)) for name in fired}
    spikes, readout = [], []

    def summed(name: str, into: Any) -> Any:
        key, bias = f"{name}.rho", p[f"{name}.b"]
        leak, one = (full[key], p[f"{name}.w"])
        current[key] = leak * current[key] + one * into[:, None, :]
        if bias.ndim == 1 and bias.any():
            extra[name] = p[key] * extra.get(name, 0.0) + bias
        return current[key].sum(2) + extra.get(name, 0.0)

    extra: dict[str, Any] = {}
    for step in x:
        into = step
        for name in fired:
            v = summed(f"{name}.layer_in", into)
            if f"{name}.layer_rec.w" in p:
                v = v + summed(f"{name}.layer_rec", fired[name])
            reset[name] = reset_decay * reset[name] + THETA * fired[name]
            fired[name] = (v - reset[name] > THETA).astype(float)
            into = fired[name]
        spikes.append(into)
        readout.append(summed("layer_out.layer_in", into))
    return np.array(spikes), np.array(readout)


@pytest.mark.parametrize(("share", "biased"), [("synapse", False), ("neuron", False), ("neuron", True)])
def test_a_network_of_the_script_gives_its_spikes(share: str, biased: bool) -> None:
    state = state_dict(share)
    if biased:
        state["layer_hidden1.layer_in.b"] = torch.linspace(0.01, 0.1, N, dtype=torch.float64)
    x = (np.random.default_rng(1).random((T, B, M)) < 0.4).astype(float)
    network = import_authors(state, dt=DT, threshold=THETA, tau_reset=TAU_RESET)
    run, (spikes, readout) = network.run(x), by_loop(state, x)
    assert list(run) == ["layer_hidden1", "layer_hidden2", "layer_out"]
    assert 0.02 < spikes.mean() < 0.9
    np.testing.assert_array_equal(run["layer_hidden2"][0], spikes)
    np.testing.assert_allclose(run["layer_out"][1], readout, rtol=0, atol=1e-12)
    assert isinstance(network.layers[0], AlwaysOn) == biased
    assert all(layer.share == share and layer.dt == DT for layer in network.layers if not isinstance(layer, AlwaysOn))


def test_it_goes_on_into_a_framework() -> None:
    pytest.importorskip("snntorch")
    net = hetsyn_plugins.convert(hetsyn_plugins.import_authors(state_dict()), to="snntorch")
    assert [name for name, _ in net.named_children()] == ["layer_hidden1", "layer_hidden2", "layer_out"]


def changed(name: str, value: Any) -> dict[str, Any]:
    state: dict[str, Any] = state_dict()
    if value is None:
        del state[name]
    else:
        state[name] = value
    return state


@pytest.mark.parametrize(
    "state, says",
    [
        ({}, "state_dict: expected LAYER.layer_in.w, .rho and .b of one layer or more, got nothing"),
        ({"fc1.weight": torch.zeros(1)}, "got fc1.weight"),
        (changed("layer_hidden1.layer_in.rho", None), "state_dict: expected layer_hidden1.layer_in.rho, got none"),
        (changed("layer_hidden1.layer_in.b", torch.ones(N, M)), "layer_hidden1.layer_in.b: expected 0, a synapse here"),
        (changed("layer_hidden1.layer_in.rho", torch.ones(M, N)), r"got \(6, 5\) and \(5, 6\)"),
        (changed("layer_hidden1.layer_in.w", torch.full((N, M), np.nan)), "layer_hidden1.layer_in.w: expected finite"),
        (changed("layer_hidden1.layer_in.rho", torch.full((N, M), 1.5).double()), "decay: expected"),
        (changed("layer_out.layer_in.b", torch.zeros(OUT)), r"layer_out.layer_in.b: expected shape \(3, 6\)"),
    ],
)  # fmt: skip
def test_other_state_dicts_are_refused(state: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        import_authors(state)
