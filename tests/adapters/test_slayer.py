"""HetSyn in slayer: blocks against the integer core, the float64 reference and slayer's own CUBA; slayer's tools."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from planting import caught, changed, in_place

import hetsyn_plugins
from hetsyn_plugins import HetSynParams
from hetsyn_plugins.core import masks, reference
from hetsyn_plugins.core.initialisers import UniformTau
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.exchange import frameworks
from hetsyn_plugins.fixed_point import run as run_integers
from hetsyn_plugins.fixed_point.network import FixedNetwork
from hetsyn_plugins.ops.foreign_inputs import NO_TRACE

pytest.importorskip("lava.lib.dl.slayer", reason="lava-dl is not installed (it ends at Python 3.10)")

import lava.lib.dl.slayer as slayer
from torch.fx.experimental.proxy_tensor import make_fx

from hetsyn_plugins.adapters.lava_dl import slayer as hetsyn

NEURON = {"threshold": 1.0, "reset_decay": 0.9}
KINDS = ("Dense", "Recurrent", "Affine")


@pytest.fixture(name="adapter")
def _adapter() -> Any:
    return hetsyn


@pytest.fixture
def registered() -> Any:
    hetsyn_plugins.register("lava_dl")
    yield slayer
    hetsyn_plugins.unregister("lava_dl")


def spikes_in(batch: int = 3, m: int = 12, steps: int = 40, seed: int = 1) -> torch.Tensor:
    """(B, M, T)."""
    return torch.from_numpy(np.random.default_rng(seed).random((batch, m, steps)) < 0.3).float()


def decays(*values: float) -> Callable[..., Any]:
    """An initialiser that draws from a few values; none given: from everything in [0, 1]."""
    rng = np.random.default_rng(3)
    return lambda shape, generator=None: rng.choice(values, shape) if values else rng.uniform(0, 1, shape)


def block(adapter: Any, kind: str, m: int = 12, n: int = 9, neuron: Any = None, **options: Any) -> Any:
    torch.manual_seed(5)
    options = {"decay": decays(), "weight_scale": 4, **options}
    if kind == "Recurrent":
        options.setdefault("recurrent_decay", decays())
    return getattr(adapter, kind)({**NEURON, **(neuron or {})}, m, n, **options)


def core_says(net: list[Any], x: torch.Tensor, latency: int) -> Any:
    """What the integer core gives for the last block, NCT: spikes, or v in float units."""
    layers = tuple(b.to_fixed(str(i)) for i, b in enumerate(net))
    last = list(FixedNetwork(layers).run(x.permute(2, 0, 1).numpy(), latency=latency).values())[-1]
    p = layers[-1].params
    out = last.v * (p.unit / (1 << p.fraction)) if last.spikes is None else last.spikes
    return out.transpose(1, 2, 0)


# ---- tracers ----------------------------------------------------------------------------------------------------

TRACERS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "trace": lambda net, x: torch.jit.trace(net, (x,), check_trace=False),
    "fx": lambda net, x: torch.fx.symbolic_trace(net),
    "make_fx": lambda net, x: make_fx(net)(x),
    "export": lambda net, x: torch.export.export(net, (x,)),
    "export without dynamo": lambda net, x: torch.export.export(net, (x,), strict=False),
}


@pytest.mark.parametrize("tool", TRACERS)
@pytest.mark.parametrize("kind", KINDS)
def test_tracers_are_told_in_one_sentence(adapter: Any, kind: str, tool: str) -> None:
    net, x = block(adapter, kind), torch.ones(2, 12, 5)
    with pytest.raises(RuntimeError) as error:
        TRACERS[tool](net, x)
    assert str(error.value).split("\n")[0] == NO_TRACE
    torch._dynamo.reset()


# ---- start values -----------------------------------------------------------------------------------------------


def level(weight: Any, decay: Any, rate: float) -> Any:
    """What the lines bring v of each neuron after 50 steps: the mean, relative to the sum of its terms, and the s.d."""
    r = np.asarray(decay, np.float64)
    kernel, square = (sum(r ** (power * k) for k in range(50)) for power in (1, 2))
    mean = (weight * kernel).sum(1) / np.abs(weight * kernel).sum(1)
    return mean, np.sqrt((weight**2 * rate * (1 - rate) * square).sum(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", ["synapse", "neuron", "layer"])
@pytest.mark.parametrize("weight_norm", [False, True])
def test_a_rate_draws_fluctuation_driven_weights(adapter: Any, kind: str, share: str, weight_norm: bool) -> None:
    neuron = {"threshold": 2.0, "reset_decay": 0.9}
    options = {"decay": UniformTau(2e-3, 0.5, 1e-3), "recurrent_decay": UniformTau(2e-3, 0.5, 1e-3)}
    options |= {"share": share, "weight_norm": weight_norm, "dtype": torch.float64, "weight_scale": 1}
    if kind != "Recurrent":
        del options["recurrent_decay"]
    params = block(adapter, kind, 40, 7, neuron, input_rate=0.03, quantised=False, **options).to_params().expanded()
    wanted = 1.0 if kind == "Affine" else 2.0 * (1 + 0.05 * sum(0.9**k for k in range(50)))
    mean, deviation = level(params.weight, params.decay, 0.03)
    np.testing.assert_allclose(deviation, wanted * (0.9**0.5 if kind == "Recurrent" else 1), rtol=1e-6)
    assert (np.abs(mean) < 1e-9).all()
    if kind == "Recurrent":
        mean, deviation = level(params.recurrent_weight, params.recurrent_decay, 0.05)
        np.testing.assert_allclose(deviation, wanted * 0.1**0.5, rtol=1e-6)
        assert (np.abs(mean) < 1e-9).all()


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("kind", ["Dense", "Recurrent"])
def test_a_stack_with_rates_fires_from_the_first_pass_on(adapter: Any, kind: str, quantised: bool) -> None:
    torch.manual_seed(0)
    x, layer = (torch.rand(8, 100, 100) < 0.02).float(), getattr(adapter, kind)
    with torch.no_grad():
        for rate in (0.02, 0.05, 0.05):
            x = layer({"threshold": 1.0, "reset_decay": 0.9}, x.shape[1], 60, input_rate=rate, quantised=quantised)(x)
            assert 0.01 < x.mean() < 0.55


def test_a_rate_that_means_nothing_here_is_refused(adapter: Any) -> None:
    with pytest.raises(ValueError, match="input_rate: expected a number above 0 and below 1, got 20"):
        adapter.Dense(NEURON, 12, 9, input_rate=20)
    with pytest.raises(ValueError, match=r"input_rate: expected None beside a weight_scale, got 0.1"):
        adapter.Dense(NEURON, 12, 9, weight_scale=4, input_rate=0.1)
    with pytest.raises(ValueError, match=r"input_rate: expected None beside a mask, got 0.1"):
        adapter.Dense(NEURON, 12, 9, mask=torch.ones(9, 12), input_rate=0.1)


# ---- forward ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["synapse", "cluster"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_block_is_the_integer_core(adapter: Any, kind: str, form: str) -> None:
    adaptation = {"adaptation_decay": 0.8, "adaptation_strength": 0.2, "bias": np.linspace(-0.1, 0.2, 9)}
    for neuron in ({}, adaptation if kind != "Affine" else {"bias": np.linspace(-0.1, 0.2, 9)}, {"reset_decay": None}):
        for k in ((), (0.9,), (0.5, 0.8, 0.95)):
            b = block(adapter, kind, neuron=neuron, form=form, decay=decays(*k), delay_shift=False)
            out = b(spikes_in()).detach().numpy()
            assert out.any() and np.array_equal(out, core_says([b], spikes_in(), 0))


@pytest.mark.parametrize("shift", [True, False])
def test_a_net_with_delays_and_masks_is_a_fixed_network(adapter: Any, shift: bool) -> None:
    mask = torch.from_numpy(np.random.default_rng(0).random((9, 12)) < 0.7)
    net = [
        block(adapter, "Dense", delay=True, mask=mask, delay_shift=shift),
        block(adapter, "Recurrent", 9, 8, delay=True, weight_scale=8, delay_shift=shift),
        block(adapter, "Affine", 8, 5, delay_shift=shift),
    ]
    with torch.no_grad():
        net[0].delay.delay.copy_(torch.tensor([0.0, 1.0, 2.9, 70.0, 3.0, 0.5, 1.0, 1.0, 7.0]))
    x = spikes_in(steps=80)
    y = x
    for b in net:
        y = b(y)
    assert y.any() and np.array_equal(y.detach().numpy(), core_says(net, x, int(shift))), "the net is the integer core"
    assert net[0].to_fixed().delay.tolist() == [0, 1, 2, 62, 3, 0, 1, 1, 7]


def test_weights_are_slayers_eight_bits(adapter: Any) -> None:
    b = block(adapter, "Dense", weight_scale=30)  # beyond 8 bits, too
    with torch.no_grad():
        b.synapse.weight[0, :4, 0, 0, 0] = torch.tensor([-5.0, -4.0, 5.0, -0.02])
    cuba = slayer.block.cuba.Dense({"threshold": 1, "current_decay": 1, "voltage_decay": 1}, 12, 9)
    want = cuba.neuron.quantize_8bit(b.synapse.weight, descale=True).flatten(1).detach().numpy()
    p = b.to_fixed().params
    assert p.weight_exp == 1, "slayer's weights are even"
    assert np.array_equal(p.weight << 1, want) and want.min() == -256 and want.max() == 254
    assert p.unit == 1 / 64 and p.threshold.tolist() == [64] * 9


@pytest.mark.parametrize("kind", KINDS)
def test_a_float_block_is_the_reference(adapter: Any, kind: str) -> None:
    b = block(adapter, kind, quantised=False, dtype=torch.float64, delay_shift=False, neuron={"bias": np.full(9, 0.05)})
    x = spikes_in().double()
    spikes, v, _ = reference.run(b.to_params(), x.permute(2, 0, 1).numpy())
    out = b(x).detach().numpy()
    np.testing.assert_allclose(out, (v if spikes is None else spikes).transpose(1, 2, 0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("quantised", [True, False])
def test_a_block_is_its_neuron_behind_its_synapse(adapter: Any, quantised: bool) -> None:
    neuron = {"adaptation_decay": 0.8, "adaptation_strength": 0.2, "bias": np.linspace(-0.1, 0.2, 9)}
    b = block(adapter, "Dense", neuron=neuron, quantised=quantised, delay_shift=False, dtype=torch.float64)
    x = spikes_in().double()
    parts = b.neuron(b.synapse(x))
    assert torch.equal(parts, b(x)) and parts.any()
    if quantised:
        p = b.to_fixed().params
        v = run_integers(p, x.permute(2, 0, 1).numpy()).v.transpose(1, 2, 0) * (p.unit / (1 << p.fraction))
        assert np.array_equal(b.neuron.dynamics(b.synapse(x))[1].detach().numpy(), v), "v is the integer core's"
    b.zero_grad()
    parts.sum().backward()
    apart = {name: p.grad.clone() for name, p in b.named_parameters()}
    b.zero_grad()
    b(x).sum().backward()
    for name, p in b.named_parameters():  # quantised: v differs from the float one that autograd goes through
        torch.testing.assert_close(apart[name], p.grad, rtol=0.05 if quantised else 1e-9, atol=1e-3)


def test_nchwt_is_flattened(adapter: Any) -> None:
    b = block(adapter, "Dense", (3, 2, 2))
    x = spikes_in()
    out = b(x.reshape(3, 2, 2, 3, 40))
    assert out.shape == (3, 9, 1, 1, 40) and torch.equal(out[:, :, 0, 0], b(x))
    flat = adapter.Flatten()
    assert torch.equal(flat(x.reshape(3, 2, 2, 3, 40)), x)
    with pytest.raises(ValueError, match=r"input: expected shape \(B, 12, T\)"):
        b(x[:, :5])


def test_affine_without_dynamics_does_not_leak(adapter: Any) -> None:
    b = block(adapter, "Affine", dynamics=False, quantised=False, delay_shift=False)
    want = torch.einsum("nm,bmt->bnt", b.synapse.weight.flatten(1), spikes_in())
    torch.testing.assert_close(b(spikes_in()), want)
    assert not any(name.endswith("decay") for name, _ in b.named_parameters())


def test_input_shifts_and_counts(adapter: Any) -> None:
    x = spikes_in()
    out, rate = adapter.Input(count_log=True)(x)
    assert torch.equal(out[..., 1:], x[..., :-1]) and not out[..., 0].any()
    assert rate.item() == pytest.approx(out.mean().item())
    encoder = adapter.Input(NEURON, weight=2.0, bias=0.5, delay_shift=False)
    assert encoder.weight.requires_grad
    levels = torch.tensor([[[0.0, 0.25, 0.3125, 0.3125]]])  # v = 2 x + 0.5: 0.5, 1, 1.125, 1.125 - 1
    assert encoder(levels).tolist() == [[[0.0, 0.0, 1.0, 0.0]]]


# ---- gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantised", [True, False])
def test_the_decay_gradient_has_the_sign_that_slayers_has_not(adapter: Any, quantised: bool) -> None:
    """One line, one neuron: L = sum of v after two spikes. More decay kept, more v."""
    b = adapter.Affine(NEURON, 1, 1, decay=0.75, quantised=quantised, delay_shift=False)
    b.synapse.set_weight([[0.5]])
    x = torch.zeros(1, 1, 30)
    x[..., 2] = x[..., 7] = 1
    b(x).sum().backward()

    def total(r: float) -> float:
        return float(reference.run(HetSynParams.readout([[0.5]], r), x.permute(2, 0, 1).numpy())[1].sum())

    slope = (total(0.75 + 1e-6) - total(0.75 - 1e-6)) / 2e-6
    assert b.synapse.decay.grad.item() == pytest.approx(slope, rel=1e-5) and slope > 0
    cuba = slayer.block.cuba.Affine(
        {"threshold": 1, "current_decay": 0.25, "voltage_decay": 1.0, "requires_grad": True}, 1, 1
    )
    with torch.no_grad():
        cuba.synapse.weight.fill_(0.5)
    cuba(x).sum().backward()  # by the fraction lost, in units of 1 / 4096: should be -slope / 4096
    assert cuba.neuron.current_decay.grad.item() > 0, "slayer was mended: say so in the documentation"


def test_training_moves_decays_and_weights(adapter: Any) -> None:
    b = block(adapter, "Recurrent", neuron={"requires_grad": True}, learn_decay=True)
    before = {name: p.detach().clone() for name, p in b.named_parameters()}
    assert set(before) == {
        "neuron.reset_decay", "input_synapse.weight", "input_synapse.decay", "recurrent_synapse.weight",
        "recurrent_synapse.decay",
    }  # fmt: skip
    optimiser = torch.optim.Adam(b.parameters(), lr=0.05)
    losses = []
    for _ in range(25):
        loss = (b(spikes_in()).mean((0, 2)) - 0.3).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        b.clamp_()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in b.named_parameters())
    assert 0 <= b.input_synapse.decay.min() and b.input_synapse.decay.max() <= 1


@pytest.mark.parametrize("learn", [True, False])
def test_tie_reset_uses_one_tensor(adapter: Any, learn: bool) -> None:
    for share, shape in (("layer", ()), ("neuron", (9,))):
        options = {"share": share, "tie_reset": True, "decay": 0.8, "recurrent_decay": 0.1, "learn_decay": learn}
        b = copy.deepcopy(block(adapter, "Recurrent", **options))
        p = b.to_params()
        assert p.is_neuron_heterogeneous(), "all decays of a neuron are one"
        assert np.shape(p.decay) == shape
        assert sum("decay" in name for name, _ in b.named_parameters()) == int(learn)
    with pytest.raises(ValueError, match="tie_reset: expected share"):
        block(adapter, "Dense", tie_reset=True)


@pytest.mark.parametrize("parametrization", ["tau", "log_tau"])
def test_other_parametrizations(adapter: Any, parametrization: str) -> None:
    b = block(adapter, "Dense", decay=UniformTau(0.002, 0.1, dt=0.001), parametrization=parametrization, dt=0.001)
    b(spikes_in()).sum().backward()
    assert getattr(b.synapse, f"decay_{parametrization}").grad.any()
    assert b.synapse.decay.min() > 0.5


def test_tau_grad_and_scale_grad_stretch_the_surrogate(adapter: Any) -> None:
    neuron = adapter.Neuron(1.0, tau_grad=0.5, scale_grad=3)
    plain = adapter.Neuron(1.0).surrogate
    d = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(neuron.surrogate.derivative(d), 3 * plain.derivative(d / 0.5))
    area = neuron.surrogate.primitive(d[1:]) - neuron.surrogate.primitive(d[:1])
    torch.testing.assert_close(area, 1.5 * (plain.primitive(2 * d[1:]) - plain.primitive(2 * d[:1])))


@pytest.mark.filterwarnings("ignore:a Dense of 9 neurons did not fire once")
def test_cubas_tau_grad_does_not_starve_a_net_in_silence(adapter: Any) -> None:
    """The tutorials' 0.03 is 3 thresholds there; here it would leave a neuron at rest without any gradient."""
    neuron, options = {"threshold": 1.25, "tau_grad": 0.03, "scale_grad": 3}, {"quantised": False, "weight_scale": 0.01}
    with pytest.warns(UserWarning, match=r"tau_grad: 0\.03 makes .* no gradient, .* by 0\.03 it is by about 3\.75$"):
        starved = block(adapter, "Dense", neuron=neuron, **options)
    assert not starved(spikes_in()).any()
    starved(spikes_in()).sum().backward()
    fed = block(adapter, "Dense", neuron={**neuron, "tau_grad": 3.75}, **options)  # a warning would be an error
    fed(spikes_in()).sum().backward()
    assert fed.synapse.grad_norm > 1e6 * starved.synapse.grad_norm


# ---- slayer's conventions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_no_state_leaks_unless_it_is_asked_for(adapter: Any, kind: str, quantised: bool) -> None:
    x = spikes_in(steps=60)
    b = block(adapter, kind, quantised=quantised)
    first = b(x)
    assert torch.equal(b(x), first), "no state is kept"
    kept = block(adapter, kind, quantised=quantised, neuron={"persistent_state": True})
    parts = torch.cat([kept(x[..., :25]), kept(x[..., 25:])], -1)
    torch.testing.assert_close(parts, first, rtol=1e-5, atol=1e-5, msg="in two parts as in one")
    assert not torch.equal(kept(x[..., :25]), first[..., :25])
    kept.reset()
    torch.testing.assert_close(kept(x[..., :25]), first[..., :25], msg="reset() starts from zeros")
    torch.testing.assert_close(kept(x[:2, :, :25]), first[:2, :, :25])  # another batch size: from zeros
    kept(x[:2]).sum().backward()  # no graph of an earlier call


@pytest.mark.parametrize("kind", KINDS)
def test_the_callers_dict_stays_as_it_was(adapter: Any, kind: str) -> None:
    neuron = dict(NEURON)
    getattr(adapter, kind)(neuron, 12, 9)
    assert neuron == NEURON


def test_count_log(adapter: Any) -> None:
    out, rate = block(adapter, "Dense", count_log=True)(spikes_in())
    assert rate.item() == pytest.approx(out.mean().item()), "the rate is the mean of the spikes"
    assert 0 < rate < 1
    _, nothing = block(adapter, "Affine", count_log=True)(spikes_in())
    assert nothing is None


def test_pre_hook_and_mask(adapter: Any) -> None:
    mask = torch.ones(9, 12)
    mask[:, 4:] = 0
    b = block(adapter, "Dense", pre_hook_fx=torch.relu, mask=mask, weight_norm=True, quantised=False)
    used = b.to_params().weight
    assert not used[:, 4:].any(), "a masked weight is not there"
    assert (used >= 0).all() and used[:, :4].any()
    b(spikes_in()).sum().backward()
    assert b.synapse.grad_norm > 0
    b = block(adapter, "Dense", mask=mask)
    b(spikes_in()).sum().backward()
    assert not b.synapse.weight.grad[:, 4:].any(), "a masked weight has no gradient"
    assert b.synapse.weight.grad[:, :4].any()
    with pytest.raises(ValueError, match=r"mask: expected shape \(9, 12\)"):
        block(adapter, "Dense", mask=mask.T)
    with pytest.raises(ValueError, match=r"mask: expected booleans, or 0 and 1, got values from 0 to 0.5"):
        block(adapter, "Dense", mask=mask / 2)
    with pytest.raises(ValueError, match="delay: expected True or False, got tensor"):
        block(adapter, "Dense", delay=mask)
    assert torch.equal(block(adapter, "Dense", mask=mask.to_sparse()).mask, mask)
    mask[3] = 0
    masks._said.clear()
    with pytest.warns(UserWarning, match="mask: 1 of 9 neurons have no synapse in it"):
        block(adapter, "Dense", mask=mask)


@pytest.mark.parametrize("quantised", [True, False])
def test_dropout_drops_whole_neurons(adapter: Any, quantised: bool) -> None:
    b = block(adapter, "Dense", neuron={"dropout": slayer.neuron.Dropout(0.5)}, quantised=quantised)
    undropped = b.eval()(spikes_in())
    dropped = b.train()(spikes_in())
    ratio = dropped.sum(-1) / undropped.sum(-1)
    assert set(ratio[~ratio.isnan()].unique().tolist()) == {0.0, 1.0 if quantised else 2.0}


@pytest.mark.parametrize("weight_norm", [True, False])
def test_copies_and_state_dicts(adapter: Any, weight_norm: bool) -> None:
    b = block(adapter, "Recurrent", weight_norm=weight_norm, delay=True)
    b.delay.delay.data += 3
    out = b(spikes_in())
    assert torch.equal(copy.deepcopy(b)(spikes_in()), out)
    file = io.BytesIO()
    torch.save(b.state_dict(), file)
    file.seek(0)
    torch.manual_seed(99)
    fresh = adapter.Recurrent(NEURON, 12, 9, weight_norm=weight_norm, delay=True, decay=0.3, recurrent_decay=0.2)
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh(spikes_in()), out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_params_there_and_back(adapter: Any, kind: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {"reset_decay": 0.7, "threshold": np.linspace(0.5, 1.5, 4), "bias": np.full(4, 0.1)}
    if kind == "Affine":
        fields = {"reset_decay": None, "spiking": False, "bias": np.full(4, 0.1)}
    if kind == "Recurrent":
        fields.update(recurrent_weight=rng.normal(size=(4, 4)), recurrent_decay=rng.uniform(size=4))
        fields.update(adaptation_decay=0.9, adaptation_strength=0.1)
    params = HetSynParams(rng.normal(size=(4, 6)), rng.uniform(size=(4, 6)), **fields).astype(dtype)
    back = getattr(adapter, kind).from_params(params, quantised=False).to_params()
    for name in ("weight", "decay", "reset_decay", "recurrent_weight", "bias", "adaptation_strength"):
        one, other = getattr(params, name), getattr(back, name)
        assert (one is None) == (other is None) and (one is None or (one == other).all()), name
    assert kind == "Affine" or (back.threshold == params.threshold).all()
    if kind == "Recurrent":
        assert (back.expanded().recurrent_decay == params.expanded().recurrent_decay).all()
        with pytest.raises(ValueError, match="params: expected feed-forward neurons for Dense"):
            adapter.Dense.from_params(params)


@pytest.mark.parametrize("kind", KINDS)
def test_export_leaves_the_block_as_it_was(adapter: Any, kind: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    options = {"delay": True} if kind != "Affine" else {}
    b = block(adapter, kind, weight_norm=True, **options)
    optimiser = torch.optim.SGD(b.parameters(), lr=1.0)
    out = b(spikes_in())
    with h5py.File(tmp_path / "net.net", "w") as file:
        b.export_hdf5(file.create_group("layer/0"))
    with h5py.File(tmp_path / "net.net", "r") as file:
        read = chip_file.read_layer(file["layer/0"])
    want = b.to_fixed()
    for name in ("weight", "decay", "weight_exp", "threshold", "reset_decay", "recurrent_weight", "recurrent_decay"):
        one, other = getattr(read.params, name), getattr(want.params, name)
        assert np.array_equal(one, other) or (one is None and other is None), name
    assert np.array_equal(read.delay, want.delay) or (read.delay is None and want.delay is None)
    assert torch.equal(b(spikes_in()), out)
    synapses = [getattr(b, name) for name in b.synapses]
    assert all(s.weight_norm_enabled for s in synapses)
    out.sum().backward()
    optimiser.step()  # the optimiser still holds what the block uses
    assert not torch.equal(b(spikes_in()), out)


def test_a_file_of_blocks_is_the_net(adapter: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    net = [
        adapter.Input(delay_shift=False),
        block(adapter, "Dense", delay=True),
        block(adapter, "Recurrent", 9, 8, weight_scale=8),
        block(adapter, "Affine", 8, 5),
    ]
    x = y = spikes_in()
    for b in net:
        y = b(y)
    with h5py.File(tmp_path / "net.net", "w") as file:
        for i, b in enumerate(net):
            b.export_hdf5(file.create_group(f"layer/{i}"))
    read = chip_file.read(tmp_path / "net.net")
    v = read.output(x.permute(2, 0, 1).numpy(), latency=1) / (64 << 12)
    assert y.any() and np.array_equal(y.detach().numpy(), v.transpose(1, 2, 0))


def test_input_and_flatten_export(adapter: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    first, flat = adapter.Input(), adapter.Flatten()
    flat(first(spikes_in().reshape(3, 2, 2, 3, 40)))
    with h5py.File(tmp_path / "net.net", "w") as file:
        first.export_hdf5(file.create_group("layer/0"))
        flat.export_hdf5(file.create_group("layer/1"))
        assert file["layer/0/type"][0] == b"input" and file["layer/0/shape"][()].tolist() == [2, 2, 3]
        assert file["layer/1/type"][0] == b"flatten"
        with pytest.raises(ValueError, match="neuron_params: expected None"):
            adapter.Input(NEURON).export_hdf5(file.create_group("layer/2"))


def test_device_params(adapter: Any) -> None:
    params = adapter.Neuron(0.8125, 0.75).device_params
    assert params == {"type": "HETSYN", "vThMant": 52, "refDelay": 1, "gradedSpike": False, "resetDecay": 1024}
    assert adapter.neuron_params(params) == {"threshold": 0.8125, "reset_decay": 0.75}
    assert adapter.neuron_params(adapter.Neuron(1.0, None).device_params)["reset_decay"] is None


def test_wrong_arguments(adapter: Any) -> None:
    with pytest.raises(ValueError, match="form: expected one of cluster, synapse"):
        block(adapter, "Dense", form="other")
    with pytest.raises(ValueError, match=r"decay: expected decays in \[0, 1\]"):
        block(adapter, "Dense", decay=1.5)
    with pytest.raises(ValueError, match=r"neuron_params: v_th: expected a number or shape \(9,\), got \(4,\)"):
        block(adapter, "Dense", neuron={"threshold": [1.0] * 4})
    with pytest.raises(ValueError, match="inputs: expected whole numbers"):
        block(adapter, "Dense")(spikes_in() / 2)


@pytest.mark.parametrize(
    ("neuron", "options", "says"),
    [
        (
            {"current_decay": 0.25},
            {},
            r"neuron_params: .*got 'current_decay': synapses have a decay each.*decay=1 - curr",
        ),
        (
            {"voltage_decay": 0.25},
            {},
            r"neuron_params: .*got 'voltage_decay': synapses have a decay each.*decay=1 - volt",
        ),
        ({"curent_decay": 0.25}, {}, r"got 'curent_decay': 'current_decay'\? synapses have a decay each"),
        ({"norm": None}, {}, "got 'norm': there is none.*bias in neuron_params.*weight_norm=True"),
        ({"shared_param": True}, {}, "got 'shared_param': the block's share='synapse', 'neuron' or 'layer'"),
        ({"graded_spike": True}, {}, "got 'graded_spike': spikes are 0 or 1"),
        ({"threshold_step": 0.1}, {}, "got 'threshold_step': .*adaptation_strength"),
        ({"tresholds": 1.0}, {}, r"neuron_params: .*got 'tresholds': did you mean 'threshold'\?"),
        ({"quantised": False}, {}, "neuron_params: .*got 'quantised': it belongs to {kind} itself"),
        ({"decay": 0.9}, {}, "neuron_params: .*got 'decay': it belongs to {kind} itself"),
        ({"swirl": 0.9}, {}, "got 'swirl': there are threshold, reset_decay"),
        ({}, {"current_decay": 0.25}, "{kind}: .*got 'current_decay': synapses have a decay each"),
        ({}, {"quantized": False}, r"{kind}: .*got 'quantized': did you mean 'quantised'\?"),
        ({}, {"reset_decay": 0.9}, "{kind}: .*got 'reset_decay': it belongs in neuron_params"),
    ],
)
def test_arguments_that_are_not_there_are_answered(adapter: Any, neuron: Any, options: Any, says: str) -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match=says.replace("{kind}", kind)):
            getattr(adapter, kind)({**NEURON, **neuron}, 12, 9, **options)


def test_a_neuron_a_synapse_and_an_input_answer_too(adapter: Any) -> None:
    with pytest.raises(ValueError, match=r"Neuron: .*'decay': it belongs in the block or synapse"):
        adapter.Neuron(1.0, decay=0.9)
    with pytest.raises(ValueError, match=r"Synapse: .*got 'learn_decays': did you mean 'learn_decay'\?"):
        adapter.Synapse(3, 2, learn_decays=False)
    with pytest.raises(ValueError, match=r"Input: .*got 'threshold': it belongs in neuron_params"):
        adapter.Input(threshold=1.0)
    with pytest.raises(ValueError, match=r"Neuron: .*got 'voltage_decay'"):
        adapter.Input({**NEURON, "voltage_decay": 0.1})
    with pytest.raises(ValueError, match=r"neuron_params: expected a threshold in it, got \['reset_decay'\]"):
        adapter.Dense({"reset_decay": 0.9}, 3, 2)
    with pytest.raises(ValueError, match="neuron_params: expected a dict of the neuron's arguments, got NoneType"):
        adapter.Dense(None, 3, 2)


def test_what_neuron_and_block_both_have_means_each_its_own(adapter: Any) -> None:
    b = adapter.Recurrent({**NEURON, "requires_grad": True}, 3, 2, requires_grad=False)
    assert isinstance(b.neuron.reset_decay, torch.nn.Parameter) and not b.recurrent_synapse.weight.requires_grad


def test_norm_says_what_there_is_instead(adapter: Any) -> None:
    b = copy.deepcopy(block(adapter, "Dense"))
    for module in (b, b.neuron):
        with pytest.raises(AttributeError, match=r"norm: there is none.*bias in neuron_params.*weight_norm=True"):
            module.norm.reset_parameters()
        with pytest.raises(ValueError, match="norm: expected None, got MeanOnlyBatchNorm: there is none"):
            module.norm = slayer.neuron.norm.MeanOnlyBatchNorm()
    with pytest.raises(AttributeError, match="no attribute 'swirl'"):
        _ = b.swirl


# ---- slayer's tools, registration -------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """As slayer's tutorials build one."""

    def __init__(self, blocks: Any) -> None:
        super().__init__()
        neuron = {**NEURON, "dropout": slayer.neuron.Dropout(0.05)}
        self.blocks = torch.nn.ModuleList(
            [
                blocks.Dense(neuron, 12, 16, weight_norm=True, delay=True, decay=0.8, weight_scale=4, count_log=True),
                blocks.Recurrent(neuron, 16, 16, decay=0.8, weight_scale=4, count_log=True),
                blocks.Dense(neuron, 16, 2, decay=0.8, weight_scale=4, count_log=True),
            ]
        )

    def forward(self, spike: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts = []
        for layer in self.blocks:
            spike, count = layer(spike)
            counts.append(count.item())
        return spike, torch.tensor(counts)


def test_assistant_and_stats(registered: Any, tmp_path: Path) -> None:
    net = Net(registered.block.hetsyn)
    stats = slayer.utils.LearningStats()
    loss = slayer.loss.SpikeRate(true_rate=0.5, false_rate=0.05, reduction="sum")
    assistant = slayer.utils.Assistant(
        net, loss, torch.optim.Adam(net.parameters(), lr=0.03), stats, slayer.classifier.Rate.predict, count_log=True
    )
    x, label = spikes_in(8), torch.arange(8) % 2
    x[label == 1, :6] = 0
    for _ in range(10):
        assistant.train(x, label)
        stats.update()
    out, count = assistant.test(x, label)
    assert out.shape == (8, 2, 40) and count.shape == (3,)
    losses = stats.training.loss_log
    assert losses[-1] < losses[0]


def test_registration(registered: Any) -> None:
    from lava.lib.dl.slayer.block import hetsyn as theirs

    assert theirs.Dense is hetsyn.Dense and slayer.synapse.hetsyn.Dense is hetsyn.Synapse
    assert slayer.neuron.hetsyn.Neuron is hetsyn.Neuron and slayer.neuron.hetsyn.neuron_params is hetsyn.neuron_params
    assert {"Input", "Flatten", "Dense", "Recurrent", "Affine"} <= set(vars(theirs))
    hetsyn_plugins.register("lava_dl")  # again
    assert slayer.block.hetsyn is theirs
    hetsyn_plugins.unregister("lava_dl")
    assert not hasattr(slayer.block, "hetsyn") and "lava.lib.dl.slayer.block.hetsyn" not in sys.modules
    slayer.neuron.hetsyn = "taken"
    with pytest.raises(ValueError, match=r"lava.lib.dl.slayer.neuron.hetsyn: expected to be free"):
        hetsyn_plugins.register("lava_dl")
    assert not hasattr(slayer.block, "hetsyn")
    del slayer.neuron.hetsyn


def test_without_lava_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'hetsyn_plugins\[lava\]' \(Python 3.10 only\).*work without"):
        hetsyn_plugins.register("lava_dl")
    assert hetsyn_plugins.register() == ()


def test_importing_is_light() -> None:
    code = (
        "import sys; import hetsyn_plugins.adapters.lava_dl.slayer, lava.lib.dl.slayer as slayer; "
        "heavy = [n for n in sys.modules if n.startswith(('lava.magma', 'lava.proc', 'lava.lib.dl.netx'))]; "
        "assert not heavy, heavy; assert not hasattr(slayer.block, 'hetsyn')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


# ---- planted bugs -----------------------------------------------------------------------------------------------


ADAPTER = "hetsyn_plugins.adapters.lava_dl.slayer"
MODULES = [
    f"{ADAPTER}.{name}" for name in ("arithmetic", "names", "synapse", "neuron", "hooks", "block")
]  # in the order of their imports


class Bug(NamedTuple):
    """In a module of the adapter `old` becomes `new`; the check must then fail with an error that says `says`."""

    name: str
    module: str
    old: str
    new: str
    check: Callable[[Any], None]
    says: str


def quantised(kind: str, form: str) -> Callable[[Any], None]:
    return lambda adapter: test_a_quantised_block_is_the_integer_core(adapter, kind, form)


BUGS = [
    Bug(
        "weights of exponent 0",
        "arithmetic",
        "exponent: 1}",
        "exponent: 0}",
        test_weights_are_slayers_eight_bits,
        says="slayer's weights are even",
    ),
    Bug(
        "state kept always",
        "block",
        "if last is None or not self.neuron.persistent_state:",
        "if last is None:",
        lambda a: test_no_state_leaks_unless_it_is_asked_for(always_keeping(a), "Recurrent", True),
        says="no state is kept",
    ),
    Bug(
        "the shift forgets its step",
        "block",
        "torch.zeros_like(out[..., :1]) if before is None else before",
        "torch.zeros_like(out[..., :1])",
        lambda a: test_no_state_leaks_unless_it_is_asked_for(a, "Dense", False),
        says="in two parts as in one",
    ),
    Bug(
        "reset() does nothing",
        "block",
        "self.state = self.last_output = self.words = None",
        "[vars(self).setdefault(n) for n in ('state', 'last_output', 'words')]",
        lambda a: test_no_state_leaks_unless_it_is_asked_for(a, "Dense", True),
        says="reset() starts from zeros",
    ),
    Bug(
        "mask only in float",
        "synapse",
        "* mask.flatten(1)",
        "* mask.flatten(1).ceil().clamp(min=1)",
        test_pre_hook_and_mask,
        says="a masked weight has no gradient",
    ),
    Bug(
        "delays started late",
        "block",
        "delays.init = True",
        "delays.init = False",
        lambda a: test_a_net_with_delays_and_masks_is_a_fixed_network(a, True),
        says="At index 1 diff: 0 != 1",
    ),
    Bug(
        "delays rounded",
        "block",
        "clamp(0, MAX_DELAY).floor()",
        "clamp(0, MAX_DELAY).round()",
        lambda a: test_a_net_with_delays_and_masks_is_a_fixed_network(a, True),
        says="the net is the integer core",
    ),
    Bug(
        "no shift of the readout",
        "block",
        "if self.delay_shift:\n            out",
        "if self.delay_shift and self.spiking:\n            out",
        lambda a: test_a_net_with_delays_and_masks_is_a_fixed_network(a, True),
        says="the net is the integer core",
    ),
    Bug(
        "rates of the wrong thing",
        "block",
        "out, (out > 0).to(out).mean()",
        "out, out.sum()",
        test_count_log,
        says="the rate is the mean of the spikes",
    ),
    Bug(
        "reset not tied",
        "block",
        "if tie_reset:\n            self._tie()",
        "if tie_reset:\n            pass",
        lambda a: test_tie_reset_uses_one_tensor(a, True),
        says="all decays of a neuron are one",
    ),
    Bug(
        "the recurrent decay is the inputs'",
        "block",
        'synapse.tensor("decay")',
        'self._input.tensor("decay")[:, :1]',
        lambda a: test_a_float_block_is_the_reference_at(a),
        says="the recurrent decay is the one given",
    ),
    Bug(
        "the neuron rounds its leak to nearest",
        "neuron",
        "_through(left, torch.trunc",
        "_through(left, torch.round",
        lambda a: test_a_block_is_its_neuron_behind_its_synapse(a, True),
        says="v is the integer core's",
    ),
]


def always_keeping(adapter: Any) -> Any:
    """The adapter whose blocks write their state down although nobody asked."""

    class Recurrent(adapter.Recurrent):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> Any:
            before, self.neuron.persistent_state = self.neuron.persistent_state, True
            out = super().forward(x)
            self.neuron.persistent_state = before
            return out

    return SimpleNamespace(Recurrent=Recurrent)


def test_a_float_block_is_the_reference_at(adapter: Any) -> None:
    """The recurrent decays are the ones given."""
    b = block(adapter, "Recurrent", recurrent_decay=0.25)
    assert (b.to_params().recurrent_decay == 0.25).all(), "the recurrent decay is the one given"


def planted(bug: Bug) -> tuple[Any, dict[str, Any]]:
    """The adapter with the bug in it, and its modules by name."""
    fresh = changed(f"{ADAPTER}.{bug.module}", bug.old, bug.new, around=MODULES)
    names = {name: value for module in fresh.values() for name, value in vars(module).items()}
    return SimpleNamespace(**{name: names[name] for name in hetsyn.__all__ if name in names}), fresh


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug) -> None:
    adapter, modules = planted(bug)
    with in_place(modules), caught(bug.says):
        bug.check(adapter)


def test_convert_says_where_blocks_can_go() -> None:
    net = torch.nn.Sequential(hetsyn.Dense({"threshold": 1.0}, 3, 4))
    with pytest.raises(ValueError, match=r"net: block '0' computes in integers.*quantised=False.*fixed_point"):
        hetsyn_plugins.convert(net, to="reference")


def test_a_kept_state_belongs_to_its_codebook() -> None:
    """Accumulators are kept by decay word: where training moved the decays, they are no more what they were."""
    neuron = {"threshold": 1.0, "reset_decay": 0.5, "persistent_state": True}
    options = {"weight_scale": 3, "form": "cluster", "delay_shift": False}
    block = hetsyn.Affine(neuron, 2, 1, decay=np.array([[0.5, 0.9]]), **options)
    x = torch.ones(1, 2, 3)
    first = block(x)
    assert not torch.equal(block(x), first)  # it goes on
    with torch.no_grad():
        block.synapse.decay.copy_(torch.tensor([[0.95, 0.9]]))
    fresh = copy.deepcopy(block)
    fresh.reset()
    assert torch.equal(block(x), fresh(x))


def test_export_warns_of_what_it_clips(tmp_path: Path) -> None:
    import h5py

    block = hetsyn.Dense({"threshold": 1.0}, 3, 4, decay=0.9999, quantised=False, dtype=torch.float64)
    block.synapse.weight.data[0, 0] = 6.5
    with h5py.File(tmp_path / "layer.net", "w") as file:
        with pytest.warns(UserWarning, match="clipped 1 weights to 8 bits and 12 taus to 12 bits"):
            block.export_hdf5(file.create_group("layer/0"))


def test_delays_of_synapses_are_refused_by_name() -> None:
    params = HetSynParams(np.ones((2, 3)), 0.9, reset_decay=0.5, delay=np.full((2, 3), 4.5))
    message = r"delay: expected None for a block of slayer's \(which delays whole axons\), got values from 4\.5 to 4\.5"
    with pytest.raises(ValueError, match=message):
        hetsyn.Dense.from_params(params)
