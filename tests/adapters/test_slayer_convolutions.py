"""slayer's Conv and Pool blocks: torch's own convolution, the dense layer in float64 and in integers, and the chip."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, changed
from torch import Tensor, nn

import hetsyn_plugins
from hetsyn_plugins import deployment
from hetsyn_plugins.core import reference
from hetsyn_plugins.fixed_point.network import FixedNetwork

pytest.importorskip("lava.lib.dl.slayer", reason="lava-dl is not installed (it ends at Python 3.10)")

import lava.lib.dl.slayer as slayer

from hetsyn_plugins.adapters.lava_dl import runtime
from hetsyn_plugins.adapters.lava_dl import slayer as hetsyn

NEURON = {"threshold": 1.0, "reset_decay": 0.9}
KERNELS: list[tuple[Any, dict[str, Any]]] = [
    (3, {"padding": 1}),
    ((3, 2), {"stride": (2, 1)}),
    (2, {"dilation": (1, 2), "padding": (1, 0), "stride": 2}),
]
CALLED = "to_params: expected a block that was called, for the size of its images, got a new one"


def images(batch: int = 3, channels: int = 2, steps: int = 12, seed: int = 1) -> Tensor:
    """(B, C, H, W, T)."""
    shape = (batch, channels, 7, 6, steps)
    return torch.from_numpy(np.random.default_rng(seed).random(shape) < 0.3).float()


def decays(shape: Any, generator: Any = None) -> Any:
    return np.random.default_rng(3).uniform(0, 1, shape)


def conv(kernel: Any = 3, neuron: Any = None, made: Any = hetsyn, **options: Any) -> Any:
    torch.manual_seed(5)
    options = {"decay": decays, "weight_scale": 6, "delay_shift": False, **options}
    return made.Conv({**NEURON, **(neuron or {})}, 2, 4, kernel, **options)


def flat(x: Tensor) -> Any:
    """(B, C, H, W, T) -> (T, B, C H W)."""
    return x.flatten(1, -2).permute(2, 0, 1).detach().numpy()


@pytest.mark.parametrize(("kernel", "options"), KERNELS, ids=str)
def test_without_memory_it_is_torchs_convolution(kernel: Any, options: dict[str, Any]) -> None:
    block = conv(kernel, decay=0.0, quantised=False, neuron={"reset_decay": 0.0}, **options)
    x, weight = images(), block.synapse.weight.detach()
    shape = (4, 2, *kernel) if isinstance(kernel, tuple) else (4, 2, kernel, kernel)
    each = [nn.functional.conv2d(x[..., t], weight.reshape(shape), **options) for t in range(x.shape[-1])]
    v, out = torch.stack(each, -1), block(x)
    spikes = torch.zeros_like(v)  # v = W x - threshold * last spike
    for t in range(v.shape[-1]):
        spikes[..., t] = v[..., t] - (spikes[..., t - 1] if t else 0) > 1
    assert torch.equal(out, spikes) and out.mean() > 0.05
    assert tuple(block.shape) == tuple(out.shape[1:-1])


@pytest.mark.parametrize(("kernel", "options"), KERNELS, ids=str)
def test_it_is_the_dense_layer_that_it_gives(kernel: Any, options: dict[str, Any]) -> None:
    block, x = conv(kernel, quantised=False, dtype=torch.float64, **options), images().double()
    with pytest.raises(ValueError, match=f"^{CALLED}$"):
        block.to_params()
    out = block(x)
    spikes, *_ = reference.run(block.to_params(), flat(x))
    assert np.array_equal(spikes, flat(out)) and spikes.mean() > 0.05


def test_masks_say_what_groups_would() -> None:
    mask = torch.zeros(4, 2, 3, 3)
    mask[:2, 0], mask[2:, 1] = 1, 1
    block, x = conv(mask=mask, quantised=False, dtype=torch.float64), images().double()
    out = block(x)
    alone = x.clone()
    alone[:, 1] = 0
    assert torch.equal(block(alone)[:, :2], out[:, :2]) and not torch.equal(block(alone)[:, 2:], out[:, 2:])
    params = block.to_params()
    assert np.array_equal(reference.run(params, flat(x))[0], flat(block(x)))
    assert params.mask is not None and params.mask.sum() == 2 * 9 * 2 * 20  # synapses a group, kernels, positions


def pool(made: Any = hetsyn, **options: Any) -> Any:
    return made.Pool({"threshold": 0.5, "reset_decay": 0.0}, 2, **{"decay": 0.0, "delay_shift": False, **options})


@pytest.mark.parametrize("quantised", [False, True])
def test_a_pool_of_decay_0_is_an_or_of_its_window_and_learns_no_weight(quantised: bool) -> None:
    block, x = pool(quantised=quantised), images(channels=5)
    out, sums = block(x), nn.functional.avg_pool3d(x, (2, 2, 1)) * 4
    expected = torch.zeros_like(sums)
    for t in range(sums.shape[-1]):
        expected[..., t] = sums[..., t] - (0.5 * expected[..., t - 1] if t else 0) > 0.5
    assert torch.equal(out, expected)
    assert [name for name, p in block.named_parameters() if p.requires_grad] == ["synapse.decay"]


@pytest.mark.parametrize("form", ["synapse", "cluster"])
@pytest.mark.parametrize("kind", ["conv", "conv with delays", "pool"])
def test_integers_are_the_cores(kind: str, form: str) -> None:
    options: dict[str, Any] = {"form": form, "decay": lambda shape, g=None: np.resize([0.5, 0.8, 0.9], shape)}
    block = pool(**options) if kind == "pool" else conv(delay="delays" in kind, **options)
    if "delays" in kind:
        block.delay.delay.data = torch.tensor([0.0, 1.0, 2.7, 5.0])
    x = images()
    out = flat(block(x))
    (core,) = FixedNetwork((block.to_fixed("a"),)).run(flat(x)).values()
    assert core.spikes is not None and np.array_equal(core.spikes, out) and out.mean() > 0.02


def network() -> nn.Sequential:
    """Two layers of images and a readout, as a user has them."""
    torch.manual_seed(1)
    return nn.Sequential(
        hetsyn.Input(delay_shift=False),
        hetsyn.Conv(NEURON, 2, 3, 3, stride=2, padding=1, decay=0.8, weight_scale=6),
        hetsyn.Pool(NEURON, 2, decay=0.3),
        hetsyn.Flatten(),
        hetsyn.Affine(NEURON, 3 * 2 * 1, 4, weight_scale=4),
    )


def test_a_network_reaches_the_chip_and_runs_in_lava(tmp_path: Path) -> None:
    net, x = network(), images(batch=1)
    out = net(x)
    report = deployment.export(net, tmp_path / "net.net", calibration=flat(x))
    assert [(layer.neurons, layer.synapses) for layer in report.layers] == [(36, 36 * 84), (6, 6 * 36), (4, 24)]
    assert [layer.clusters for layer in report.layers] == [1, 1, 1]  # what is no synapse brings no decay
    fixed = FixedNetwork(tuple(block.to_fixed(str(i)) for i, block in enumerate(net) if hasattr(block, "to_fixed")))
    wanted, says = fixed.run(flat(x)), runtime.run_file(tmp_path / "net.net", flat(x))
    for (name, run), lava in zip(wanted.items(), says.values(), strict=True):
        assert np.array_equal(lava, run.v if run.spikes is None else run.spikes) and lava.any(), name
    params = fixed.layers[-1].params
    v = list(fixed.run(flat(x), latency=1).values())[-1].v * (params.unit / (1 << params.fraction))
    assert np.array_equal(v.transpose(1, 2, 0), out.detach().numpy())


def test_training_moves_kernels_and_decays_and_copies_are_whole() -> None:
    net = network()
    start = copy.deepcopy(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        net(images()).pow(2).sum().backward()
        optimiser.step()
        hetsyn_plugins.clamp_(net)
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, start.get_parameter(name))}
    assert {"1.synapse.weight", "1.synapse.decay", "2.synapse.decay", "4.synapse.weight"} <= moved
    assert "2.synapse.weight" not in moved
    other = network()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(images()), net(images()))


def test_state_goes_on_between_calls() -> None:
    block, x = conv(neuron={"persistent_state": True}, delay_shift=True), images()
    whole = conv(delay_shift=True)(x)
    parts = torch.cat([block(x[..., :5]), block(x[..., 5:])], -1)
    assert torch.equal(parts, whole) and whole.mean() > 0.02


def test_registered_blocks_are_slayers() -> None:
    hetsyn_plugins.register("lava_dl")
    try:
        assert slayer.block.hetsyn.Conv is hetsyn.Conv and slayer.block.hetsyn.Pool is hetsyn.Pool
    finally:
        hetsyn_plugins.unregister("lava_dl")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conv(3, groups=2), "groups: expected 1, got 2; a mask with zeros between the groups says the same"),
        (lambda: conv(0), "kernel_size: expected a whole number >= 1, got 0"),
        (lambda: conv(9)(images()), "kernel_size: expected at most the padded input, (7, 6), got (9, 9)"),
        (lambda: conv(3, mask=torch.ones(4, 18)), "mask: expected shape (4, 2, 3, 3), got (4, 18)"),
        (lambda: conv()(images(channels=3)), "input: expected shape (B, 2, H, W, T), got (3, 3, 7, 6, 12)"),
        (lambda: conv()(images()[:, 0]), "input: expected shape (B, 2, H, W, T), got (3, 7, 6, 12)"),
        (lambda: pool()(images()[:, 0]), "input: expected shape (B, C, H, W, T), got (3, 7, 6, 12)"),
        (
            lambda: pool(weight_norm=True),
            "weight_norm: expected False, got True: the weights of a Pool are not learned",
        ),
        (lambda: conv(3, current_decay=0.1), "Conv: expected arguments that it has, got 'current_decay': "),
        (lambda: hetsyn.Conv(NEURON, 0, 4, 3), "in_features: expected a whole number >= 1, got 0"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_wrong_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value).startswith(message)


def test_convert_names_what_it_has_no_form_for() -> None:
    block = conv(quantised=False)
    block(images())
    with pytest.raises(ValueError, match=r"is a Conv over images: expected blocks of dense layers; its to_params\(\)"):
        hetsyn_plugins.convert(nn.Sequential(block), to="reference")
    with pytest.raises(
        ValueError, match=r"params: expected Dense.from_params for them, got Conv, which is made of ker"
    ):
        hetsyn.Conv.from_params(block.to_params())


CONVOLUTION = "hetsyn_plugins.adapters.lava_dl.slayer.convolution"
BUGS = {
    "the axes of an image swapped": ("movedim(3, 1)", "movedim(3, 1).flip(2)"),
    "channels of a pool mixed": (
        "unflatten(0, (batch, -1)).flatten",
        "unflatten(0, (-1, batch)).transpose(0, 1).flatten",
    ),
    "lines of a group mixed": ("in_channels=groups * c, ", "in_channels=groups * c, padding=(1, 0), "),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_caught(bug: str) -> None:
    def check(made: Any) -> None:
        options: dict[str, Any] = {"made": made, "quantised": False, "dtype": torch.float64}
        for block, x in ((conv(**options), images()), (pool(**options), images(channels=3))):
            x = x.double()
            out = block(x)
            assert np.array_equal(reference.run(block.to_params(), flat(x))[0], flat(out)), "spikes differ"

    check(hetsyn)
    modules = changed(CONVOLUTION, *BUGS[bug])
    with caught("spikes differ"):
        check(modules[CONVOLUTION])
