"""Networks as plain data: widths that meet, running them, carrying them between frameworks, keeping them in files."""

from __future__ import annotations

import json
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
from hetsyn_plugins import HetSynParams, NormalTau, checkpoint, reference
from hetsyn_plugins.conversion import AlwaysOn
from hetsyn_plugins.network import Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.surrogate import Arctan, Triangular

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


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_neuron", [False, True])
def test_linear_and_stock_leaky_become_a_vanilla_layer(bias: bool, per_neuron: bool) -> None:
    """A bias in front of a leaky neuron is filtered by it; unfiltered it would give other spikes."""
    beta = torch.rand(N, dtype=torch.float64) * 0.3 + 0.6 if per_neuron else torch.tensor(0.9, dtype=torch.float64)
    linear = nn.Linear(M, N, bias=bias).double()
    leaky = snn.Leaky(beta=beta, threshold=torch.tensor(0.8, dtype=torch.float64))
    network = hetsyn_plugins.convert(nn.Sequential(linear, leaky), to="reference")
    assert [type(layer) for layer in network.layers] == [hetsyn_plugins.network.AlwaysOn] * bias + [HetSynLayer]
    assert network.layers[-1].params.is_neuron_heterogeneous() and network.layers[-1].params.is_lif() != per_neuron
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
        (nn.Sequential(nn.Linear(3, 3), snn.Leaky(0.9, reset_mechanism="zero")), "reference", "reset_mechanism"),
        (nn.Sequential(nn.Linear(3, 3), snn.Leaky(0.9, reset_delay=False)), "reference", "reset_delay"),
        (nn.Sequential(nn.Linear(3, 3), snn.Leaky(0.9, graded_spikes_factor=2.0)), "reference", "graded_spikes_factor"),
    ],
)
def test_what_cannot_be_carried_over_is_named(net: Any, to: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        hetsyn_plugins.convert(net, to=to)


def test_dt_is_asked_for_where_the_target_needs_it() -> None:
    net = nn.Sequential(snntorch_adapter.HetSynLeaky(M, N, init_hidden=True))
    with pytest.raises(ValueError, match="dt: expected a step length in seconds"):
        hetsyn_plugins.convert(net, to="norse")
    assert hetsyn_plugins.convert(net, to="norse", dt=2e-3)[0].dt == 2e-3


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


def test_changed_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    with safe_open(path, framework="numpy") as file:
        metadata, arrays = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
    save_file(arrays, path, {**metadata, "format_version": "2"})
    with pytest.raises(ValueError, match="expected format 1 or earlier, got 2"):
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


def test_reference_runs_the_layers_one_after_the_other() -> None:
    network, x = plain(), spike_trains().numpy()
    mix, hidden, _, out = network.layers
    z, _, _ = reference.run(hidden.params, x @ mix.weight.T + mix.bias)
    np.testing.assert_array_equal(network.run(x)["out"][1], reference.run(out.params, z)[1])
