"""Carrying networks between frameworks: spikes alike, bits kept, and what cannot be carried named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import OUT, B, M, N, params, plain, run_hidden, spike_trains, trained
from torch import nn

import hetsyn_plugins
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import Arctan
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.exchange.conversion import AlwaysOn

snn = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

from hetsyn_plugins.adapters import norse as norse_adapter  # noqa: E402  after the skip
from hetsyn_plugins.adapters import snntorch as snntorch_adapter  # noqa: E402  after the skip


@pytest.mark.parametrize("to", ["snntorch", "norse"])
def test_a_network_spikes_alike_in_every_framework(to: str) -> None:
    network, x = plain(), spike_trains()
    want = network.run(x.numpy())
    spikes, out = run_hidden(hetsyn_plugins.convert(network, to=to), x)
    assert want["hidden"][0] is not None and want["hidden"][0].mean() > 0.02
    np.testing.assert_array_equal(spikes[0].detach().numpy(), want["hidden"][0])
    np.testing.assert_allclose(out.detach().numpy(), want["out"][1], rtol=0, atol=1e-10)


def test_there_and_back_returns_the_same_bits_and_options() -> None:
    options: dict[str, Any] = {"share": "neuron", "parametrization": "log_tau", "dt": 2e-3, "tie_reset": True}
    one_decay = np.random.default_rng(0).uniform(0.5, 0.97, N)
    shared = params(decay=one_decay, recurrent_decay=one_decay, reset_decay=one_decay)
    layer = snntorch_adapter.RHetSynLeaky.from_params(shared, spike_grad=Arctan(3.0), detach_reset=True, **options)
    with torch.no_grad():  # a tau that no rounding of r would give back
        layer.stored("decay")[0] = np.log(123.456789)
    there = hetsyn_plugins.convert(nn.Sequential(layer), to="norse")
    back = hetsyn_plugins.convert(there, to="snntorch")[0]
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
    for name in ("share", "parametrization", "tie_reset", "dt", "detach_reset"):
        assert getattr(back, name) == getattr(layer, name), name
    assert back.surrogate == layer.surrogate == Arctan(3.0)
    learned = [{n for n, _ in module.named_parameters()} for module in (layer, back)]
    assert learned[0] == learned[1]


def test_what_is_learned_is_carried_over() -> None:
    source = snn_net = nn.Sequential(
        snntorch_adapter.HetSynLeaky(M, N, learn_alpha=False, learn_beta=True, learn_threshold=True, init_hidden=True)
    )
    there = hetsyn_plugins.convert(source, to="norse", dt=1e-3)
    back = hetsyn_plugins.convert(there, to="snntorch")
    assert {n for n, _ in back.named_parameters()} == {n for n, _ in snn_net.named_parameters()}


def adaptive(**options: Any) -> Any:
    given = {"adaptation_decay": 0.95, "adaptation_strength": 0.1, "init_hidden": True, "dt": 1e-3, **options}
    return snntorch_adapter.RHetSynLeaky(M, N, bias=True, **given)


SOME = {"learn_beta": True, "learn_threshold": True, "learn_adaptation": True}


@pytest.mark.parametrize("options", [{}, SOME, {"learn_alpha": False}, {"learn_rec_alpha": False}])
@pytest.mark.parametrize("frozen", ["", "weight", "rec_weight", "bias", "adaptation_decay", "adaptation_strength"])
def test_exactly_what_was_trained_is_trained(tmp_path: Path, options: dict[str, Any], frozen: str) -> None:
    """Through both frameworks and a file, whether it is not learned by option or was frozen later."""
    net = nn.Sequential(nn.Linear(M, M), adaptive(**options))
    net[0].bias.requires_grad_(False)
    if frozen and isinstance(tensor := getattr(net[1], frozen), nn.Parameter):
        tensor.requires_grad_(False)
    learned = hetsyn_plugins.convert(net, to="reference").layers[1].learned
    assert {net[1].stored_name(field) for field in learned} == trained(net[1]) and trained(net) >= {"0.weight"}
    there = hetsyn_plugins.convert(net, to="norse")
    assert hetsyn_plugins.convert(there, to="reference").layers[1].learned == learned
    expected = {"input_weights" if f == "weight" else "recurrent_weights" for f in learned if f.endswith("weight")}
    expected |= {f"p.{there[1].p.stored_name(f)}" for f in learned if not f.endswith("weight")}
    assert trained(there[1]) == expected and trained(there[0]) == {"weight"}
    checkpoint.save(there, tmp_path / "net.safetensors")
    back = checkpoint.load(tmp_path / "net.safetensors", to="snntorch")
    assert trained(back) == trained(net)
    if not frozen:  # what an option leaves fixed is a buffer again, and no frozen parameter
        assert {n for n, _ in back[1].named_parameters()} == {n for n, _ in net[1].named_parameters()}


def test_no_autapses_stays_so_or_is_refused(tmp_path: Path) -> None:
    net = norse.SequentialState(norse_adapter.HetSynLIFRecurrent(M, N, autapses=False, dtype=torch.float64))
    checkpoint.save(net, tmp_path / "net.safetensors")
    back = checkpoint.load(tmp_path / "net.safetensors", to="norse")
    back(spike_trains())[1][0].v.square().sum().backward()
    gradient = back[0].recurrent_weights.grad
    assert not gradient.diagonal().any() and gradient.any()
    with pytest.raises(ValueError, match="layer '0' has autapses=False, which a RHetSynLeaky has no option for"):
        hetsyn_plugins.convert(net, to="snntorch")
    hetsyn_plugins.convert(norse.SequentialState(norse_adapter.HetSynLIF(M, N, autapses=False)), to="snntorch")
    with pytest.raises(ValueError, match="layer 'a': expected a zero diagonal with autapses=False"):
        HetSynLayer("a", params(), autapses=False)


@pytest.mark.parametrize("parametrization", ["decay", "tau", "log_tau"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trained_norse_net_carries_over_exactly(parametrization: str, dtype: torch.dtype) -> None:
    net = norse.SequentialState(
        norse_adapter.HetSynLIFRecurrent(M, N, parametrization=parametrization, dt=1e-3, dtype=dtype),
        norse_adapter.HetSynLI(N, OUT, parametrization=parametrization, dt=1e-3, dtype=dtype),
    )
    with torch.no_grad():
        net[0].input_weights.mul_(4)
    x = spike_trains(dtype=dtype)
    there = hetsyn_plugins.convert(net, to="snntorch")
    mine, theirs = run_hidden(net, x), run_hidden(there, x)
    assert mine[0][0].mean() > 0.02
    assert torch.equal(mine[0][0], theirs[0][0])  # the same op on the same bits
    assert torch.equal(mine[1], theirs[1])


@pytest.mark.parametrize("reset_mechanism", ["subtract", "none"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_neuron", [False, True])
def test_linear_and_stock_leaky_become_a_vanilla_layer(bias: bool, per_neuron: bool, reset_mechanism: str) -> None:
    """A bias in front of a leaky neuron is filtered by it; unfiltered it would give other spikes."""
    beta = torch.rand(N, dtype=torch.float64) * 0.3 + 0.6 if per_neuron else torch.tensor(0.9, dtype=torch.float64)
    linear = nn.Linear(M, N, bias=bias).double()
    leaky = snn.Leaky(beta=beta, threshold=torch.tensor(0.8, dtype=torch.float64), reset_mechanism=reset_mechanism)
    network = hetsyn_plugins.convert(nn.Sequential(linear, leaky), to="reference")
    assert [type(layer) for layer in network.layers] == [hetsyn_plugins.network.AlwaysOn] * bias + [HetSynLayer]
    params = network.layers[-1].params
    if reset_mechanism == "subtract":
        assert params.is_neuron_heterogeneous() and params.is_lif() != per_neuron
    else:
        assert params.reset_decay is None and np.shape(params.decay) == ((N,) if per_neuron else ())
    there = hetsyn_plugins.convert(network, to="snntorch")
    assert [type(module) for module in there] == [AlwaysOn] * bias + [snntorch_adapter.HetSynLeaky]

    x = (torch.rand(500, B, M) < 0.3).double() * 2
    mem, stock = leaky.reset_mem(), []
    for x_t in x:
        spk, mem = leaky(linear(x_t), mem)
        stock.append(spk)
    spikes, _ = network.run(x.numpy())["1"]
    assert 0.02 < torch.stack(stock).mean() < 0.9
    np.testing.assert_array_equal(spikes, torch.stack(stock).detach().numpy())
    np.testing.assert_array_equal(there(x).detach().numpy(), spikes)


def test_a_stock_beta_above_one_counts_as_one() -> None:
    """snnTorch clamps beta to [0, 1] at every step."""
    linear = nn.Linear(M, N, bias=False).double()
    leaky = snn.Leaky(beta=torch.tensor(1.2, dtype=torch.float64), threshold=torch.tensor(1.0, dtype=torch.float64))
    x, mem, stock = spike_trains(), leaky.reset_mem(), []
    for x_t in x:
        spk, mem = leaky(linear(x_t), mem)
        stock.append(spk.detach())
    spikes, _ = hetsyn_plugins.convert(nn.Sequential(linear, leaky), to="reference").run(x.numpy())["1"]
    assert torch.stack(stock).mean() > 0.02
    np.testing.assert_array_equal(spikes, torch.stack(stock).numpy())


@pytest.mark.parametrize("learned", [True, False])
def test_a_merged_stock_neuron_trains_as_before(learned: bool) -> None:
    """Its surrogate, its reset without gradient and what it learns: gradients are the stock pair's (spikes float32)."""
    linear = nn.Linear(M, N, bias=False).double()
    one = {"beta": 0.8, "threshold": 0.75}
    leaky = snn.Leaky(
        **{name: torch.tensor(value, dtype=torch.float64) for name, value in one.items()},
        learn_beta=learned,
        learn_threshold=learned,
        spike_grad=snn.surrogate.fast_sigmoid(slope=5),
    )
    there = hetsyn_plugins.convert(nn.Sequential(linear, leaky), to="snntorch")
    x, mem, total = spike_trains(), leaky.reset_mem(), torch.zeros((), dtype=torch.float64)
    for x_t in x:
        spk, mem = leaky(linear(x_t), mem)
        total = total + (spk * torch.linspace(1, 2, N)).sum()
    total.backward()
    (there(x) * torch.linspace(1, 2, N)).sum().backward()
    layer = there[0]
    pairs = {"weight": linear.weight, "decay": leaky.beta, "threshold": leaky.threshold}
    for field, stock in pairs.items():
        mine = layer.stored(field)
        assert mine.requires_grad == stock.requires_grad, field
        if stock.requires_grad:
            torch.testing.assert_close(mine.grad, stock.grad.reshape(mine.shape), rtol=1e-5, atol=1e-5, msg=field)
    assert linear.weight.grad.any()


def test_nested_stacks_keep_their_order() -> None:
    net = nn.Sequential(
        nn.Sequential(snntorch_adapter.HetSynLeaky(M, N, init_hidden=True), nn.Dropout(0.1)),
        nn.Sequential(nn.Identity(), nn.Sequential(snntorch_adapter.HetSynLeaky(N, OUT, init_hidden=True))),
    )
    network = hetsyn_plugins.convert(net, to="reference")
    assert [layer.name for layer in network.layers] == ["0_0", "0_1", "1_1_0"]


@pytest.mark.parametrize(
    ("net", "to", "message"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.Conv1d(3, 3, 3)), "norse", "module '1' is a torch.nn.modules.conv.Conv1d"),
        (nn.Sequential(nn.Conv1d(3, 3, 3)), "norse", "net: expected at least one layer behind '0', a Conv1d, got none"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), "reference", "module '1' is a torch.nn.modules.activation.ReLU"),
        (
            nn.Sequential(nn.Linear(3, 3)),
            "brian2",
            "to: expected one of reference, snntorch, norse, lava_dl, fixed_point, got",
        ),
        ("net", "norse", "net: expected a torch module or a Network, got str"),
    ],
)
def test_what_cannot_be_carried_over_is_named(net: Any, to: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        hetsyn_plugins.convert(net, to=to)


STOCK_ODD = [{"reset_mechanism": "zero"}, {"reset_delay": False}]
ODD = [
    {"graded_spikes_factor": 3.0},
    {"learn_graded_spikes_factor": True},
    {"inhibition": True},
    {"state_quant": torch.round},
    {"surrogate_disable": True},
]


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")  # snnTorch's
@pytest.mark.parametrize("option", STOCK_ODD + ODD)
def test_a_stock_neuron_that_plain_data_cannot_express_is_refused(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=f"net: .*{name.removeprefix('learn_')}"):
        hetsyn_plugins.convert(nn.Sequential(nn.Linear(3, 3), snn.Leaky(0.9, **option)), to="reference")


class OwnLayer(snntorch_adapter.HetSynLeaky):
    """A user's subclass, in no module of ours."""


@pytest.mark.parametrize("cls", [snntorch_adapter.HetSynLeaky, snntorch_adapter.RHetSynLeaky, OwnLayer])
@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
@pytest.mark.parametrize("option", ODD)
def test_a_layer_that_plain_data_cannot_express_is_refused(tmp_path: Path, cls: Any, option: dict[str, Any]) -> None:
    """Else the network carried over, or loaded from a file, would give other outputs."""
    (name,) = option
    plain_one, odd = (cls(M, M, init_hidden=True, **chosen) for chosen in ({}, option))
    net = nn.Sequential(plain_one, odd)
    message = f"net: module '1', a {cls.__name__}, cannot be carried over: .*{name.removeprefix('learn_')}"
    for to in ("reference", "snntorch"):
        with pytest.raises(ValueError, match=message):
            hetsyn_plugins.convert(net, to=to)
    with pytest.raises(ValueError, match=message):
        checkpoint.save(net, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())
    hetsyn_plugins.convert(net[:1], to="reference")


def test_dt_is_asked_for_where_the_target_needs_it() -> None:
    net = nn.Sequential(snntorch_adapter.HetSynLeaky(M, N, init_hidden=True))
    with pytest.raises(ValueError, match="dt: expected a step length in seconds"):
        hetsyn_plugins.convert(net, to="norse")
    assert hetsyn_plugins.convert(net, to="norse", dt=2e-3)[0].dt == 2e-3
    net[0].dt = 3e-3  # a layer's own stays
    assert hetsyn_plugins.convert(net, to="norse", dt=2e-3)[0].dt == 3e-3
    assert hetsyn_plugins.convert(net, to="reference", dt=2e-3).layers[0].dt == 3e-3


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_parameters_become_float32_exactly(half: torch.dtype) -> None:
    net = nn.Sequential(snntorch_adapter.HetSynLeaky(M, N, init_hidden=True)).to(half)
    weight = hetsyn_plugins.convert(net, to="norse", dt=1e-3)[0].input_weights
    assert weight.dtype == torch.float32 and torch.equal(weight, net[0].weight.float())


@pytest.mark.parametrize(("delay", "to_do"), [(3.0, "without them it is another network"), (0.0, "all are 0: .* same")])
@pytest.mark.parametrize("who", ["a NIR file", "an ONNX file", "a block of slayer's"])
def test_who_holds_no_delays_names_the_layer(who: str, delay: float, to_do: str, tmp_path: Path) -> None:
    pytest.importorskip({"a NIR file": "h5py", "an ONNX file": "onnx"}.get(who, "lava.lib.dl.slayer"))
    late = replace(HetSynParams.readout(np.ones((OUT, N)), 0.9), delay=np.float64(delay), max_delay=None)
    network = Network((HetSynLayer("first", params(), dt=1e-3), HetSynLayer("late", late, dt=1e-3)))
    calls = {
        "a NIR file": lambda: hetsyn_plugins.nir.write(network, tmp_path / "net.nir"),
        "an ONNX file": lambda: hetsyn_plugins.onnx.write(network, tmp_path / "net.onnx"),
        "a block of slayer's": lambda: hetsyn_plugins.convert(network, to="lava_dl"),
    }
    with pytest.raises(ValueError, match=f"^layer 'late': delay: expected None for {who}.*, got .* steps; {to_do}"):
        calls[who]()
    assert not list(tmp_path.iterdir())
