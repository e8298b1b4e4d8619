"""Networks as plain data: widths that meet, running them, carrying them between frameworks, keeping them in files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

import hetsyn_plugins
from hetsyn_plugins import HetSynParams, NormalTau
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.network import Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.core.surrogate import Arctan, Surrogate, Triangular
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.exchange.conversion import AlwaysOn

snn = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

from hetsyn_plugins.adapters import norse as norse_adapter  # noqa: E402  after the skip
from hetsyn_plugins.adapters import snntorch as snntorch_adapter  # noqa: E402  after the skip

T, B, M, N, OUT = 60, 3, 7, 6, 4


def params(dtype: Any = np.float64, **changes: Any) -> HetSynParams:
    rng = np.random.default_rng(1)
    values: dict[str, Any] = {
        "weight": rng.normal(0.2, 0.5, (N, M)),
        "decay": rng.uniform(0.5, 0.98, (N, M)),
        "reset_decay": rng.uniform(0.5, 0.9, N),
        "threshold": rng.uniform(0.7, 1.1, N),
        "recurrent_weight": rng.normal(0, 0.3, (N, N)),
        "recurrent_decay": rng.uniform(0.5, 0.95, (N, N)),
        "adaptation_decay": rng.uniform(0.8, 0.99, N),
        "adaptation_strength": rng.uniform(0.01, 0.1, N),
        "bias": rng.normal(0, 0.05, N),
        **changes,
    }
    return HetSynParams(**values).astype(dtype)


def plain(dtype: Any = np.float64) -> Network:
    rng = np.random.default_rng(2)
    readout = HetSynParams.readout(rng.normal(0, 0.5, (OUT, N)), rng.uniform(0.5, 0.99, (OUT, N))).astype(dtype)
    return Network(
        (
            Linear("mix", rng.normal(0, 0.5, (M, M)).astype(dtype), rng.normal(0, 0.2, M).astype(dtype)),
            HetSynLayer("hidden", params(dtype), dt=1e-3, surrogate=Triangular(0.5, 2.0)),
            Dropout("drop", 0.25),
            HetSynLayer("out", readout, dt=1e-3),
        )
    )


def spike_trains(width: int = M, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.rand(T, B, width) < 0.4).to(dtype)


def run_hidden(net: Any, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Spikes of every HetSyn layer that spikes, and the output, in whichever framework the net is."""
    spikes: list[torch.Tensor] = []

    def note(module: nn.Module, _: Any, out: Any) -> None:
        z = out[0] if isinstance(out, tuple) else out
        if module.to_params().spiking:  # type: ignore[operator]
            spikes.append(z)

    hooks = [m.register_forward_hook(note) for m in net.modules() if hasattr(m, "to_params")]
    out = net.eval()(x)
    for hook in hooks:
        hook.remove()
    return spikes, out[0] if isinstance(out, tuple) else out


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


def trained(net: nn.Module) -> set[str]:
    return {name for name, tensor in net.named_parameters() if tensor.requires_grad}


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
        (nn.Sequential(nn.Conv1d(3, 3, 3)), "norse", "module '0' is a torch.nn.modules.conv.Conv1d"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), "reference", "module '1' is a torch.nn.modules.activation.ReLU"),
        (nn.Sequential(nn.Linear(3, 3)), "brian2", "to: expected one of reference, snntorch, norse, got 'brian2'"),
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


def test_widths_and_names_must_meet() -> None:
    layer = HetSynLayer("a", params())
    with pytest.raises(ValueError, match="layer 'b': expected 6 lines in, as come out before it, got 7"):
        Network((layer, HetSynLayer("b", params())))
    with pytest.raises(ValueError, match="layers: expected different names, got a, a"):
        Network((layer, layer))


# ---- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_checkpoint_returns_the_same_bits(tmp_path: Path, dtype: Any) -> None:
    network, path = plain(dtype), tmp_path / "net.safetensors"
    checkpoint.save(network, path)
    loaded = checkpoint.load(path)
    x = spike_trains().numpy()
    for name, (spikes, v) in network.run(x).items():
        np.testing.assert_array_equal(loaded.run(x)[name][1], v)
        assert spikes is None or (loaded.run(x)[name][0] == spikes).all()
    for was, now in zip(network.layers, loaded.layers, strict=True):
        assert type(was) is type(now) and was.name == now.name
        if isinstance(was, HetSynLayer):
            for option in ("dt", "share", "parametrization", "tie_reset", "detach_reset", "surrogate", "learned"):
                assert getattr(was, option) == getattr(now, option), option
            assert now.params.weight.dtype == dtype


def test_checkpoint_of_a_trained_net_loads_into_both_frameworks(tmp_path: Path) -> None:
    alpha = NormalTau(20e-3, 5e-3, dt=1e-3)
    net = nn.Sequential(
        snntorch_adapter.RHetSynLeaky(
            M, N, alpha=alpha, parametrization="tau", dt=1e-3, init_hidden=True, dtype=torch.float64
        ),
        snntorch_adapter.HetSynLeaky(N, OUT, spiking=False, dt=1e-3, init_hidden=True, dtype=torch.float64),
    )
    path = tmp_path / "net.safetensors"
    checkpoint.save(net, path)
    x = spike_trains()
    want = run_hidden(net, x)
    for framework in ("snntorch", "norse"):
        got = run_hidden(checkpoint.load(path, to=framework), x)
        assert torch.equal(got[0][0], want[0][0]) and torch.equal(got[1], want[1]), framework
    back = checkpoint.load(path, to="snntorch")
    assert torch.equal(back[0].alpha_tau, net[0].alpha_tau)


def test_checkpoint_keeps_options_that_are_not_the_defaults(tmp_path: Path) -> None:
    one_decay = np.random.default_rng(0).uniform(0.5, 0.97, N)
    shared = params(decay=one_decay, recurrent_decay=one_decay, reset_decay=one_decay)
    layer = HetSynLayer(
        "a",
        shared,
        dt=2e-3,
        share="neuron",
        parametrization="tau",
        tie_reset=True,
        detach_reset=True,
        surrogate=Arctan(np.float32(3.0)),  # type: ignore[arg-type]  # a NumPy number, as a search over values gives
        learned=frozenset({"weight"}),
        stored={"decay": np.full(N, 123.456789)},  # no rounding of the decays gives it back
    )
    linear = Linear("b", np.ones((OUT, N)), np.ones(OUT), learned=frozenset({"bias"}))
    path = tmp_path / "net.safetensors"
    checkpoint.save(Network((layer, linear)), path)
    loaded = checkpoint.load(path).layers
    for option in ("dt", "share", "parametrization", "tie_reset", "detach_reset", "surrogate", "learned"):
        assert getattr(loaded[0], option) == getattr(layer, option), option
    np.testing.assert_array_equal(loaded[0].stored["decay"], layer.stored["decay"])
    assert loaded[1].learned == {"bias"}
    back = checkpoint.load(path, to="snntorch")
    assert trained(back) == {"a.weight", "b.bias"}
    assert (back[0].alpha_tau == 123.456789).all()


def test_checkpoints_written_before_there_was_more_to_say_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    with safe_open(path, framework="numpy") as file:
        metadata, arrays = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
    entries = json.loads(metadata["architecture"])
    del entries[0]["learned"], entries[1]["autapses"]
    save_file(arrays, path, {**metadata, "architecture": json.dumps(entries)})
    loaded = checkpoint.load(path).layers
    assert loaded[0].learned == {"weight", "bias"} and loaded[1].autapses


@pytest.mark.skipif(os.name != "posix", reason="file modes and the umask are POSIX")
def test_the_umask_decides_who_may_read_a_checkpoint(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint.save(plain(), tmp_path / "net.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o640


def test_checkpoint_has_architecture_dt_and_version_and_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["hetsyn_plugins"] == hetsyn_plugins.__version__
    hidden = json.loads(metadata["architecture"])[1]
    assert hidden["dt"] == 1e-3 and hidden["name"] == "hidden"
    code = f"from hetsyn_plugins import checkpoint; print(checkpoint.load({str(path)!r}).layers[1].params)"
    guard = "import pickle; pickle.Unpickler = pickle.loads = pickle.load = None; "
    out = subprocess.run([sys.executable, "-c", guard + code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("HetSynParams(7 -> 6")


def test_a_failed_save_keeps_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    before = path.read_bytes()

    def full_disk(arrays: Any, filename: str, metadata: Any) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(plain(np.float32), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(FileNotFoundError, match="expected a checkpoint file"):
        checkpoint.load(path)
    checkpoint.save(plain(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="expected a whole safetensors file"):
        checkpoint.load(path)
    save_file({"x": np.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="expected a checkpoint of hetsyn_plugins"):
        checkpoint.load(path)
    with pytest.raises(ValueError, match=r"path: expected a checkpoint file, got .*, which is no file"):
        checkpoint.load(tmp_path)


def test_changed_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    with safe_open(path, framework="numpy") as file:
        metadata, arrays = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
    save_file(arrays, path, {**metadata, "format_version": "2"})
    with pytest.raises(ValueError, match="expected format 1 or earlier, got 2"):
        checkpoint.load(path)
    save_file(arrays, path, {**metadata, "format_version": "x"})
    with pytest.raises(ValueError, match="path: expected format 1 or earlier, got x"):
        checkpoint.load(path)
    save_file(arrays, path, {**metadata, "architecture": metadata["architecture"][:-5]})
    with pytest.raises(ValueError, match=r"path: expected an architecture in JSON, got .* damaged"):
        checkpoint.load(path)
    save_file(arrays, path, {k: v for k, v in metadata.items() if k != "architecture"})
    with pytest.raises(ValueError, match=r"path: expected a complete checkpoint, got .* lacks 'architecture'"):
        checkpoint.load(path)
    save_file({k: a for k, a in arrays.items() if k != "1.weight"}, path, metadata)
    with pytest.raises(ValueError, match="weight"):
        checkpoint.load(path)
    save_file({**arrays, "1.decay": arrays["1.decay"] + 1}, path, metadata)
    with pytest.raises(ValueError, match=r"decay: expected decays in \[0, 1\]"):
        checkpoint.load(path)


def test_a_foreign_surrogate_is_left_out_with_a_warning(tmp_path: Path) -> None:
    net = nn.Sequential(snntorch_adapter.HetSynLeaky(M, N, spike_grad=snn.surrogate.atan(), init_hidden=True))
    with pytest.warns(UserWarning, match="is not written to the checkpoint"):
        checkpoint.save(net, tmp_path / "net.safetensors")
    assert checkpoint.load(tmp_path / "net.safetensors").layers[0].surrogate == hetsyn_plugins.surrogate.MultiGaussian()


class OwnSurrogate(Surrogate):
    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        return 1 / (1 + d * d)


class OwnArctan(Arctan):
    """Even a subclass of ours is code that another process may not have."""


@pytest.mark.parametrize("own", [OwnSurrogate(), OwnArctan(3.0)])
def test_a_users_own_surrogate_is_left_out_with_a_warning(tmp_path: Path, own: Surrogate) -> None:
    net = nn.Sequential(snntorch_adapter.HetSynLeaky(M, N, spike_grad=own, init_hidden=True))
    with pytest.warns(UserWarning, match=f"{type(own).__name__}.* is not written to the checkpoint"):
        checkpoint.save(net, tmp_path / "net.safetensors")
    assert checkpoint.load(tmp_path / "net.safetensors").layers[0].surrogate == hetsyn_plugins.surrogate.MultiGaussian()


def test_reference_runs_the_layers_one_after_the_other() -> None:
    network, x = plain(), spike_trains().numpy()
    mix, hidden, _, out = network.layers
    z, _, _ = reference.run(hidden.params, x @ mix.weight.T + mix.bias)
    np.testing.assert_array_equal(network.run(x)["out"][1], reference.run(out.params, z)[1])
