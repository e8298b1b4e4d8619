"""Networks over images as plain data: checkpoints, between hosts, through the reference; and who refuses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import planting
import pytest
import torch
from torch import Tensor, nn

import hetsyn_plugins
from hetsyn_plugins import convert, deployment, nir
from hetsyn_plugins.core.convolution import Convolution
from hetsyn_plugins.core.network import Dropout, Flatten, HetSynConv, HetSynLayer, Linear, Network, Pool
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.deployment import clusters
from hetsyn_plugins.exchange import checkpoint, conversion
from hetsyn_plugins.fixed_point.network import quantise
from hetsyn_plugins.ops import stack
from hetsyn_plugins.ops.pruning import pruned

ours = pytest.importorskip("hetsyn_plugins.adapters.snntorch")
norses = pytest.importorskip("hetsyn_plugins.adapters.norse")
norse = pytest.importorskip("norse.torch")

T, B, DT = 12, 2, 1e-3
KINDS = {
    "plain": {},
    "taus": {"parametrization": "log_tau"},
    "one decay a channel": {"share": "neuron", "tie_reset": True},
    "codebook": {"share": "codebook", "clusters": 3},
    "delays": {"delay": hetsyn_plugins.UniformDelay(0, 3), "max_delay": 3, "learn_delay": True},
}


def net_of(**options: Any) -> nn.Sequential:
    """A convolution with everything, average and largest values, and dense layers behind them; float64."""
    torch.manual_seed(0)
    tau = hetsyn_plugins.NormalTau(10e-3, 4e-3, dt=DT)
    tau = 0.8 if options.get("share") == "neuron" else tau
    both = {"dt": DT, "init_hidden": True, "dtype": torch.float64}
    return nn.Sequential(
        ours.HetSynConv2d(2, 4, 3, (2, 1), 1, groups=2, alpha=tau, weight=2 * torch.randn(4, 1, 3, 3).double(),
                          threshold=torch.tensor([0.5, 0.8, 1.0, 1.2]).double(), **both, **options),
        nn.MaxPool2d(2, stride=1, padding=1),
        ours.HetSynConv2d(4, 3, 2, dilation=2, alpha=0.9, mask=torch.arange(48).reshape(3, 4, 2, 2) % 3 > 0, **both),
        nn.AvgPool2d((2, 1)),
        nn.Flatten(),
        nn.Dropout(0.1),
        ours.HetSynLeaky(3 * 1 * 6, 5, spiking=False, **both),
    ).eval()  # fmt: skip


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(T, B, 2, 7, 7, generator=generator) < 0.4).double()


def run(net: Any, x: Tensor) -> list[Tensor]:
    """What each layer of a net gives."""
    seen: list[Tensor] = []
    hooks = [child.register_forward_hook(lambda *a: seen.append(a[2][0] if isinstance(a[2], tuple) else a[2]))
             for child in net.children()]  # fmt: skip
    for child in net.children():
        if hasattr(child, "reset_mem"):
            child.reset_mem()
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return seen


def check_alike(one: list[Any], other: list[Any]) -> None:
    """Spikes exactly, v, which is the last, as float64 has it; sums are of different orders."""
    for a, b in zip(one[:-1], other[:-1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=0, err_msg="spikes differ")
    np.testing.assert_allclose(one[-1], other[-1], rtol=0, atol=1e-11, err_msg="v")


def check_reference(options: dict[str, Any]) -> None:
    net, x = net_of(**options), images()
    passes = list(convert(net, to="reference").walk(x.numpy()))
    outs = [p.v if p.spikes is None else p.spikes for p in passes]
    assert 0.02 < float(outs[0].mean()) < 0.9 and outs[2].any()
    check_alike(run(net, x), outs)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_data_run_as_the_layers(kind: str) -> None:
    check_reference(KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_brings_back_the_net_and_its_training(kind: str, tmp_path: Path) -> None:
    """To the bit: the same spikes, and the same parameters, trained and fixed ones."""
    net, x, path = net_of(**KINDS[kind]), images(), tmp_path / "net.safetensors"
    checkpoint.save(net, path)
    again = checkpoint.load(path, to="snntorch").eval()
    assert [type(module) for module in again] == [type(module) for module in net]
    for a, b in zip(run(net, x), run(again, x), strict=True):
        assert torch.equal(a, b)
    parameters = dict(again.named_parameters())
    for name, tensor in net.named_parameters():
        there = net[2].mask if name in ("2.weight", "2.alpha") else torch.ones_like(tensor, dtype=torch.bool)
        assert torch.equal(tensor[there], parameters[name][there]), name
    assert torch.equal(again[2].mask, net[2].mask)
    trained = [{name for name, p in each.named_parameters() if p.requires_grad} for each in (net, again)]
    assert trained[0] == trained[1]
    first = path.read_bytes()
    checkpoint.save(again, path)
    assert path.read_bytes() == first, "the same network is the same file"


@pytest.mark.parametrize("kind", KINDS)
def test_from_host_to_host(kind: str) -> None:
    net, x = net_of(**KINDS[kind]), images()
    over = convert(net, to="norse").eval()
    assert isinstance(over, norse.SequentialState) and isinstance(over[0], norses.HetSynConv2d)
    check_alike(run(net, x), run(over, x))
    back = convert(over, to="snntorch").eval()
    check_alike(run(net, x), run(back, x))


def test_one_axis_and_cells() -> None:
    torch.manual_seed(0)
    p = norses.HetSynLIFParameters(dtype=torch.float64, v_th=0.3)
    cell = norses.HetSynConv1dCell(2, 3, 3, 2, p=p, dtype=torch.float64)
    net = convert(norse.SequentialState(cell, nn.AvgPool1d(2)), to="snntorch")
    assert isinstance(net[0], ours.HetSynConv1d)
    x, state, outs = (torch.rand(T, B, 2, 11) < 0.5).double(), None, []
    for x_t in x:
        z, state = cell(x_t, state)
        outs.append(z)
    assert torch.equal(run(net, x)[0], torch.stack(outs)) and torch.stack(outs).any()


def test_the_largest_and_mean_values_are_torchs() -> None:
    """By torch's own, with padding and windows that overlap."""
    x = torch.randn(3, 2, 2, 6, 7, dtype=torch.float64)
    for kind, module in {"average": nn.AvgPool2d, "largest": nn.MaxPool2d}.items():
        pool = Pool("pool", kind, (3, 2), (2, 1), (1, 1))
        want = module((3, 2), (2, 1), (1, 1))(x.flatten(0, 1)).unflatten(0, (3, 2))
        np.testing.assert_allclose(pool(x.numpy()), want, rtol=1e-14)


def test_pruned_kernels() -> None:
    network = convert(net_of(), to="reference")
    first = pruned(network, 0.5).layers[0]
    assert first.layer.params.mask.sum() == 18


# ---- unrolled


def averaging(**options: Any) -> nn.Sequential:
    """Without what has no sum: averages in front of a convolution and of a dense layer, some pixels in no window."""
    net = net_of(**options)
    parts = [net[0], nn.AvgPool2d((2, 3), stride=(2, 4), padding=(1, 0)), net[2], nn.AvgPool2d(1, 1), *net[4:]]
    torch.manual_seed(1)
    parts[2] = ours.HetSynConv2d(4, 3, 2, alpha=0.9, threshold=0.3, mask=net[2].mask, dt=DT, init_hidden=True,
                                 dtype=torch.float64, weight=2 * net[2].weight.detach())  # fmt: skip
    parts[-1] = ours.HetSynLeaky(6, 5, spiking=False, dt=DT, init_hidden=True, dtype=torch.float64)
    return nn.Sequential(*parts).eval()


def check_unrolled(options: dict[str, Any]) -> None:
    """Every layer's spikes and v are those of the net, which the reference has of dense layers."""
    net, x = averaging(**options), images()
    plain = convert(net, to="reference", unrolled=(2, 7, 7))
    assert [type(layer) for layer in plain.layers] == [HetSynLayer, HetSynLayer, Dropout, HetSynLayer]
    found = [v if z is None else z for z, v in plain.run(x.flatten(2).numpy()).values()]
    wanted = run(net, x)
    assert found[1].any() and found[1].shape[-1] == 6, "spikes differ"
    check_alike([wanted[0].flatten(2), wanted[2].flatten(2), wanted[-1]], found)


@pytest.mark.parametrize("kind", KINDS)
def test_unrolled_networks_are_alike(kind: str) -> None:
    check_unrolled(KINDS[kind])


def test_what_is_unrolled_goes_where_lines_are_known(tmp_path: Path) -> None:
    net, x = averaging(), images()
    dense = convert(net, to="snntorch", unrolled=(2, 7, 7)).eval()
    check_alike([run(net, x)[-1]], [run(dense, x.flatten(2))[-1]])
    fixed = convert(net, to="fixed_point", unrolled=(2, 7, 7))
    assert fixed.run(x.flatten(2).numpy().astype(np.int64))["0"].spikes.any()
    nir.write(convert(net, to="reference", unrolled=(2, 7, 7)), tmp_path / "net.nir")
    check_alike([run(net, x)[-1]], [list(nir.read(tmp_path / "net.nir").run(x.flatten(2).numpy()).values())[-1][1]])


def test_what_lies_outside_of_a_kernel_is_no_synapse() -> None:
    """It neither trains nor costs a chip a decay of its own: one decay in the kernel is one in the integers."""
    net = nn.Sequential(ours.HetSynConv2d(1, 2, 3, alpha=0.9, init_hidden=True))
    (layer,) = convert(net, to="reference", unrolled=(1, 5, 5)).layers
    assert layer.params.mask.sum() == 2 * 9 * 9  # synapses of a position, positions, kernels
    assert np.array_equal(layer.params.mask, layer.params.weight != 0)
    (fixed,) = convert(net, to="fixed_point", unrolled=(1, 5, 5)).layers
    assert len(fixed.params.codebook) == 1


@pytest.mark.parametrize(
    ("pool", "image", "says"),
    [
        (nn.MaxPool2d(2), (2, 7, 7), "layer '1': expected averages, which are sums, got the largest values"),
        (nn.AvgPool2d(2, stride=1), (2, 7, 7), "layer '1': expected windows that do not overlap, got stride"),
        (nn.AvgPool2d(2), (7, 7), "unrolled: expected images of 2 axes and 2 channels for layer '0', got"),
        (nn.AvgPool2d(2), (3, 7, 7), "unrolled: expected images of 2 axes and 2 channels for layer '0', got"),
        (nn.AvgPool2d(2), (2, 1, 0), "unrolled: expected a whole number >= 1, got 0"),
        (nn.AvgPool2d(2), 7, "unrolled: expected"),
        (nn.AvgPool2d(9), (2, 7, 7), "kernel_size: expected at most the padded input"),
    ],
)
def test_what_cannot_be_unrolled(pool: nn.Module, image: Any, says: str) -> None:
    net = nn.Sequential(net_of()[0], pool, nn.Flatten(), ours.HetSynLeaky(48, 2, dt=DT, init_hidden=True))
    with pytest.raises(ValueError, match=says):
        convert(net, to="reference", unrolled=image)
    with pytest.raises(ValueError, match="layer '1': expected a HetSyn layer behind pooling"):
        convert(nn.Sequential(net_of()[0], nn.AvgPool2d(2)), to="reference", unrolled=(2, 7, 7))


# ---- what is refused


def conv(name: str = "conv", channels: tuple[int, int] = (1, 2), axes: int = 2) -> HetSynConv:
    one = (1,) * axes
    n, m = channels[1], channels[0] * 2**axes
    params = HetSynParams(np.ones((n, m)), np.full((n, m), 0.5), reset_decay=0.5)
    return HetSynConv(HetSynLayer(name, params, dt=DT), Convolution(*channels, (2,) * axes, one, (0,) * axes, one, 1))


def dense(m: int, name: str = "dense") -> HetSynLayer:
    return HetSynLayer(name, HetSynParams(np.ones((2, m)), 0.5, reset_decay=0.5), dt=DT)


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ((conv(), dense(3)), "layer 'dense': expected a Flatten between it and images, got none"),
        ((conv(), Linear("line", np.ones((2, 3)))), "layer 'line': expected a Flatten between"),
        ((dense(3), conv()), "layer 'conv': expected images of 2 axes in front of it, got others"),
        ((conv(), Flatten("flat"), conv("more")), "layer 'more': expected images of 2 axes in front of it"),
        ((conv(), conv("more", (2, 1), 1)), "layer 'more': expected images of 1 axes in front of it"),
        ((conv(), Dropout("off", 0.5), conv("more", (3, 1))), "layer 'more': expected 2 channels, as come out before"),
    ],
)
def test_networks_that_are_none(layers: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Network(layers)


@pytest.mark.parametrize(
    ("who", "call"),
    [
        ("the integer core", quantise),
        ("clustering", lambda network: clusters.cluster_network(network, 2)),
        ("this run", lambda network: stack.run(network, images())),
        ("a NIR file of this package", lambda network: nir.write(network, "net.nir")),
        ("the integer core", lambda network: convert(network, to="fixed_point")),
        ("ONNX here", lambda network: hetsyn_plugins.onnx.write(network, "net.onnx")),
        ("slayer", lambda network: convert(network, to="lava_dl")),
        ("a chip file", lambda network: deployment.export(network, "net.net", calibration=images())),
    ],
)
def test_who_takes_lines_alone_says_so(
    who: str, call: Callable[[Network], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if who == "slayer":
        pytest.importorskip("lava.lib.dl.slayer")
    if who == "ONNX here":
        pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    says = (
        rf"layer 'conv': expected layers that take lines \(T, B, M\), as {who} has them, got a HetSynConv over images"
    )
    with pytest.raises(ValueError, match=says):
        call(Network((conv(), Flatten("flat"), dense(2))))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.AvgPool2d(2, ceil_mode=True), "module '1': expected ceil_mode=False, got True"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), "module '1': expected count_include_pad=True, got False"),
        (nn.MaxPool2d(2, dilation=2), "module '1': expected dilation"),
        (nn.AdaptiveAvgPool2d(2), "module '1' is a torch.nn.modules.pooling.AdaptiveAvgPool2d"),
        (nn.Flatten(3), "module '1': expected a Flatten of whole images"),
    ],
)
def test_modules_that_plain_data_have_no_place_for(module: nn.Module, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        convert(nn.Sequential(net_of()[0], module), to="reference")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"convolution": {"groups": 1}}, "convolution: expected in_channels, "),
        ({"convolution": {"stride": [0, 1]}}, "stride: expected a whole number >= 1, got 0"),
        ({"convolution": {"stride": [1, 1, 1]}}, "stride: expected whole numbers"),
        ({"convolution": {"kernel_size": [2, 3]}}, "expected a weight of"),
        ({"convolution": {"padding": [1 << 40, 0]}}, "padding: expected whole numbers below"),
        ({"convolution": {"in_channels": "2"}}, "in_channels: expected whole numbers"),
    ],
)
def test_files_that_lie(change: dict[str, Any], says: str) -> None:
    arrays: dict[str, Any] = {}
    entry = json.loads(json.dumps(checkpoint.describe(0, conv(), arrays)))  # as it is read
    new = change["convolution"]
    entry["convolution"] = new if new == {"groups": 1} else {**entry["convolution"], **new}
    own = {name.removeprefix("0."): array for name, array in arrays.items()}
    with pytest.raises(ValueError, match=says):
        checkpoint._layer(Path("net"), 0, entry, own)


BUGS = {
    "the stride is that of the other axis": (
        "hetsyn_plugins.core.convolution", "for s in self.stride)", "for s in reversed(self.stride))", "differ"
    ),
    "padding counts as nothing": ("hetsyn_plugins.core.network", "else -inf", "else 0.5", "spikes differ"),
    "a mean is a sum": (
        "hetsyn_plugins.core.unrolling", " / params.weight.dtype.type(seen.shape[1])", "", "differ"
    ),
    "every channel is the first": ("hetsyn_plugins.core.unrolling", "np.arange(channels)", "np.zeros(channels, int)",
                                   "differ"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_planted_bugs_are_caught(bug: tuple[str, str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    module, old, new, says = bug
    fresh: Any = planting.changed(module, old, new)[module]
    if module.endswith("network"):
        monkeypatch.setattr(Pool, "__call__", fresh.Pool.__call__)
    elif module.endswith("unrolling"):
        monkeypatch.setattr(conversion, "unrolled_network", fresh.unrolled)
    else:
        monkeypatch.setattr(Convolution, "places", fresh.Convolution.places)
    with pytest.raises((AssertionError, ValueError), match=says):
        (check_unrolled if module.endswith("unrolling") else check_reference)({})
