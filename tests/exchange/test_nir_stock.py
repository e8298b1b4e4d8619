"""Stock NIR graphs as networks of ours: spikes as of the framework that exported, v by NIR's own equations."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.exchange import nir

stock = pytest.importorskip("nir")

T, B, M, N = 60, 2, 5, 4
DT = 1e-4


def by_euler(nodes: list[Any], x: Any) -> Any:
    """A chain of NIR's nodes by their equations, in Euler steps of DT: what comes out, (T, B, N), for x (T, B, M)."""
    for node in nodes:
        kind = type(node).__name__
        if kind in ("Linear", "Affine"):
            x = x @ node.weight.T + getattr(node, "bias", 0.0)
            continue
        v, i, out = np.zeros(x.shape[1:]), np.zeros(x.shape[1:]), []
        for drive in x:
            if "Cuba" in kind:
                i = i + DT / node.tau_syn * (node.w_in * drive - i)
                drive = i
            tau = node.tau_mem if "Cuba" in kind else node.tau
            v = v + DT / tau * (node.v_leak - v + node.r * drive)
            fires = kind.endswith("LIF")
            out.append((v > node.v_threshold).astype(float) if fires else v)
            v = np.where(v > node.v_threshold, node.v_reset, v) if fires else v
        x = np.array(out)
    return x


def neuron(kind: str, n: int = N, **fields: Any) -> Any:
    values = {"r": 1.0, "v_leak": 0.0, **fields}
    return getattr(stock, kind)(**{name: np.broadcast_to(value, (n,)).astype(float) for name, value in values.items()})


def graph(*nodes: Any, lines: int = M) -> Any:
    return stock.NIRGraph.from_list(stock.Input({"input": np.array([lines])}), *nodes)


RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(0.3, 1, (N, M))
AFFINE = stock.Affine(WEIGHT, RNG.normal(0, 0.3, N))
TAU = RNG.uniform(2, 9, N) * DT
CHAINS = {
    "LI": (stock.Linear(WEIGHT), neuron("LI", tau=TAU, r=TAU / DT)),
    "LI, driven": (AFFINE, neuron("LI", tau=TAU, v_leak=0.2)),
    "LI alone": (neuron("LI", M, tau=3 * DT),),
    "LIF that forgets": (AFFINE, neuron("LIF", tau=DT, v_threshold=0.71, v_leak=0.1)),
    "CubaLIF whose membrane forgets": (AFFINE, neuron("CubaLIF", tau_mem=DT, tau_syn=TAU, v_threshold=0.3, w_in=2.0)),
    "CubaLI": (AFFINE, neuron("CubaLI", tau_mem=TAU, tau_syn=TAU * 3, v_leak=0.1, w_in=2.0)),
    "CubaLI, one synapse": (AFFINE, neuron("CubaLI", tau_mem=TAU, tau_syn=DT)),
    "two weights": (AFFINE, stock.Linear(RNG.normal(0, 1, (3, N))), neuron("LI", 3, tau=5 * DT)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_stock_chain_gives_what_its_equations_give(name: str, tmp_path: Path) -> None:
    nodes = list(CHAINS[name])
    stock.write(tmp_path / "g.nir", graph(*nodes))
    network = nir.read(tmp_path / "g.nir", dt=DT)
    x = np.random.default_rng(1).normal(0.2, 0.7, (T, B, M))
    spikes, v = list(network.run(x).values())[-1]
    want = by_euler(nodes, x)
    if spikes is not None:
        assert 0.02 < want.mean() < 0.98
    np.testing.assert_allclose(v if spikes is None else spikes, want, rtol=0, atol=1e-5 * np.abs(v).max())


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated")
def test_what_snntorch_exports_of_its_default_neurons_spikes_as_they_do(tmp_path: Path) -> None:
    """Its own importer does not: it makes neurons of them that go to zero."""
    snn = pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(0)
    first = snn.Leaky(beta=torch.rand(N) * 0.5 + 0.4, threshold=torch.ones(N), init_hidden=True)
    second = snn.RLeaky(beta=0.7, linear_features=3, init_hidden=True)
    net = nn.Sequential(nn.Linear(M, N), first, nn.Linear(N, 3), second)
    x = (torch.rand(T, B, M) < 0.5).float() * 2
    out = torch.stack([net(step) for step in x])
    stock.write(tmp_path / "g.nir", export_to_nir(net, x[0], ignore_dims=[0]))
    network = nir.read(tmp_path / "g.nir", dt=DT, reset="subtract")
    spikes = list(network.run(x.numpy()).values())[-1][0]
    assert 0.02 < out.mean() < 0.9
    np.testing.assert_array_equal(spikes, out.detach().numpy())
    with pytest.raises(FileFormatError, match=r"\(LIF\): expected a neuron that forgets .*reset='subtract' reads it"):
        nir.read(tmp_path / "g.nir", dt=DT)
    with pytest.raises(FileFormatError, match=r"\(LIF\): dt: expected the step in seconds"):
        nir.read(tmp_path / "g.nir", reset="subtract")


def test_planes_become_a_matrix_on_one_row(tmp_path: Path) -> None:
    conv, pool = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.AvgPool2d(2)
    weight, bias = (tensor.detach().numpy() for tensor in (conv.weight, conv.bias))
    nodes = [
        stock.Input({"input": np.array([2, 7, 6])}),
        stock.Conv2d((7, 6), weight, 2, 1, 1, 1, bias),
        stock.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        stock.Flatten({"input": np.array([3, 2, 1])}, 0, 2),
        stock.Linear(np.eye(6)),
        neuron("LI", 6, tau=3 * DT),
    ]
    names = [*(f"n{i}" for i in range(5)), "n5.li"]
    whole = stock.NIRGraph(dict(zip(names, nodes, strict=True)), list(pairwise(names)), type_check=False)
    whole.nodes["out"] = stock.Output({"output": np.array([6])})
    whole.edges.append(("n5.li", "out"))
    x = torch.randn(T, B, 2, 7, 6)
    with torch.no_grad():
        want = (4 * pool(conv(x.flatten(0, 1)))).reshape(T, B, 6)
    v = nir.from_graph(whole, dt=DT).run(x.reshape(T, B, -1).numpy())["n5_li"][1]
    np.testing.assert_allclose(v, by_euler([nodes[-1]], want.numpy()), atol=1e-5)


REFUSED = [
    (stock.Delay(np.ones(N)), r"node/nodes/delay \(Delay\): expected a node that a layer here is equal to"),
    (neuron("CubaLI", tau_mem=3 * DT, tau_syn=3 * DT), r"\(CubaLI\): tau_syn, tau_mem: expected decays 0.001 apart"),
    (neuron("LI", tau=DT / 2), r"\(LI\): tau: expected at least dt = 0.0001 s, got 5e-05"),
    (neuron("LIF", tau=TAU, v_threshold=1, v_reset=0.5), r"\(LIF\): v_reset: expected 0"),
    (neuron("LIF", tau=TAU, v_threshold=1), r"\(LIF\): expected a neuron that forgets"),
]


@pytest.mark.parametrize(("node", "says"), REFUSED)
def test_what_no_layer_is_equal_to_is_refused_by_name_and_type(node: Any, says: str, tmp_path: Path) -> None:
    stock.write(tmp_path / "g.nir", graph(stock.Linear(WEIGHT), node))
    with pytest.raises(FileFormatError, match=says):
        nir.read(tmp_path / "g.nir", dt=DT)


def test_a_graph_that_forks_is_refused_where_it_does() -> None:
    two = {"a": stock.Linear(WEIGHT), "b": stock.Linear(WEIGHT), "c": neuron("LI", tau=TAU)}
    ends = {"input": stock.Input({"input": np.array([M])}), "output": stock.Output({"output": np.array([N])})}
    edges = [("input", "a"), ("input", "b"), ("a", "c"), ("b", "c"), ("c", "output")]
    with pytest.raises(
        FileFormatError, match=r"graph: node/nodes/input \(Input\): expected one edge on to the output, got 2"
    ):
        nir.from_graph(stock.NIRGraph({**ends, **two}, edges), dt=DT)
    circle = [("input", "a"), ("a", "c"), ("c", "input")]
    with pytest.raises(FileFormatError, match=r"input \(Input\): expected one edge to it, and none to an Input"):
        nir.from_graph(stock.NIRGraph({**ends, **two}, circle, type_check=False), dt=DT)


def test_ours_and_stock_nodes_stand_side_by_side(tmp_path: Path) -> None:
    """A node of ours, put into another's graph, is still the layer that it was."""
    from test_nir import hidden

    layer = hidden(np.random.default_rng(3), "ours", N, M)
    ours = nir.to_graph(Network((layer,)))
    whole = graph(stock.Linear(np.eye(M)), ours.nodes["n0_ours"], stock.Linear(np.eye(N)))
    stock.write(tmp_path / "g.nir", whole)
    back = nir.read(tmp_path / "g.nir").layers
    assert [type(one).__name__ for one in back] == ["Linear", "HetSynLayer", "Linear"]
    assert isinstance(back[1], HetSynLayer)
    np.testing.assert_array_equal(back[1].params.decay, layer.params.decay)
    ours.nodes["n0_ours"].nodes["n0_weight"].weight[0, 0] += 1  # as if another tool had trained on
    with pytest.raises(FileFormatError, match="digest: expected the content that it was written with"):
        nir.from_graph(ours)
