"""HetSynLeaky and RHetSynLeaky inside snnTorch: its own facilities, its own neuron as the judge in the special case."""

from __future__ import annotations

import copy
import gc
import pickle
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ddp_worker
import planting
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.card

snn = pytest.importorskip("snntorch")

from snntorch import functional, spikegen, surrogate, utils  # noqa: E402  after the skip

import hetsyn_plugins  # noqa: E402
from hetsyn_plugins import HetSynParams  # noqa: E402
from hetsyn_plugins.adapters import snntorch as adapter  # noqa: E402
from hetsyn_plugins.adapters import snntorch_host  # noqa: E402
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky  # noqa: E402
from hetsyn_plugins.core.surrogate import Triangular  # noqa: E402
from hetsyn_plugins.ops import dispatch  # noqa: E402

T, B, M, N = 12, 3, 6, 5


@pytest.fixture
def registered() -> Iterator[None]:
    hetsyn_plugins.register("snntorch")
    yield
    hetsyn_plugins.unregister("snntorch")


def spike_trains(*shape: int, p: float = 0.5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(*shape) < p).to(dtype)


def nan_sequence() -> torch.Tensor:
    x = torch.zeros(T, B, M)
    x[2, 1, 0] = torch.nan
    return x


def lively(layer: Any, gain: float = 3.0) -> Any:
    with torch.no_grad():
        layer.weight.abs_().mul_(gain)
    return layer


# ---- against the stock neuron ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reset", ["subtract", "none"])
def test_vanilla_special_case_equals_stock_leaky_step_by_step(dtype: torch.dtype, reset: str) -> None:
    beta, theta = torch.tensor(0.9, dtype=dtype), torch.tensor(0.83, dtype=dtype)
    linear = nn.Linear(M, N, bias=False).to(dtype)
    with torch.no_grad():
        linear.weight.mul_(2)
    stock = snn.Leaky(beta=beta, threshold=theta, reset_mechanism=reset)
    ours = HetSynLeaky(
        M, N, alpha=beta, beta=beta, threshold=theta, weight=linear.weight, reset_mechanism=reset, dtype=dtype
    )
    mem, states, fired = stock.reset_mem(), (), 0.0
    for x in spike_trains(500, B, M, dtype=dtype):
        spk, mem = stock(linear(x), mem)
        mine, *states = ours(x, *states)
        assert torch.equal(spk, mine)
        fired += float(mine.detach().mean())
    assert 10 < fired < 450


def test_beta_and_threshold_tensors_make_a_float64_layer() -> None:
    """A float64 0.9 must not pass through float32, where it would be 0.89999998."""
    layer = HetSynLeaky(M, N, alpha=torch.tensor(0.9, dtype=torch.float64))
    assert layer.weight.dtype == torch.float64 and (layer.alpha == 0.9).all()


# ---- the idiom ---------------------------------------------------------------------------------------------------


def test_outputs_follow_init_hidden_and_output() -> None:
    x = spike_trains(B, M)
    assert [tuple(s.shape) for s in HetSynLeaky(M, N)(x)] == [(B, N), (B, N, M), (B, N), (B, N)]
    assert [tuple(s.shape) for s in RHetSynLeaky(M, N)(x)] == [(B, N), (B, N, M), (B, N, N), (B, N), (B, N)]
    assert HetSynLeaky(M, N, init_hidden=True)(x).shape == (B, N)
    assert len(HetSynLeaky(M, N, init_hidden=True, output=True)(x)) == 4
    adaptive = {"adaptation_decay": 0.9, "adaptation_strength": 0.1}
    assert len(HetSynLeaky(M, N, **adaptive)(x)) == 5
    spk, _, rst, mem = HetSynLeaky(M, N, spiking=False)(x)
    assert not spk.any() and not rst.any() and mem.any()
    readout = HetSynLeaky(M, N, spiking=False, init_hidden=True)
    assert torch.equal(readout(x), readout.mem)


@pytest.mark.parametrize("cls", [HetSynLeaky, RHetSynLeaky])
@pytest.mark.parametrize("init_hidden", [False, True])
def test_steps_equal_the_sequence(cls: Any, init_hidden: bool) -> None:
    layer = lively(cls(M, N, init_hidden=init_hidden, output=True, bias=True, dtype=torch.float64), 0.5)
    x = spike_trains(T, B, M, dtype=torch.float64)
    spk, *others, mem = layer(x)
    assert 0.02 < spk.mean() < 0.95
    layer.reset_mem()
    states: Any = ()
    for t in range(T):
        out = layer(x[t]) if init_hidden else layer(x[t], *states)
        states = out if cls.recurrent else out[1:]
        assert torch.equal(out[0], spk[t])
        torch.testing.assert_close(out[-1], mem[t], rtol=0, atol=1e-12)
    for mine, last in zip(out[1:-1], others, strict=True):
        torch.testing.assert_close(mine, last, rtol=0, atol=1e-12)


def test_a_sequence_is_continued_with_the_last_mem() -> None:
    for cls in (HetSynLeaky, RHetSynLeaky):
        layer = lively(cls(M, N, dtype=torch.float64))
        x = spike_trains(T, B, M, dtype=torch.float64)
        whole = layer(x)
        spk, *others, mem = layer(x[:5])
        first = [spk[-1]] if cls.recurrent else []
        rest = layer(x[5:], *first, *others, mem[-1])
        assert torch.equal(torch.cat([spk, rest[0]]), whole[0])


def test_an_empty_sequence_changes_no_hidden_state() -> None:
    torch.manual_seed(0)
    layer = lively(RHetSynLeaky(M, N, init_hidden=True, dtype=torch.float64))
    x = spike_trains(T, B, M, dtype=torch.float64)
    whole = layer(x)
    layer.reset_mem()
    assert whole[4].any() and torch.equal(torch.cat([layer(x[:5]), layer(x[5:5]), layer(x[5:])]), whole)


@pytest.mark.cpu_only
def test_a_move_that_changes_nothing_keeps_the_hidden_states() -> None:
    layer = lively(HetSynLeaky(M, N, init_hidden=True))
    layer(spike_trains(B, M))
    mem = layer.mem
    assert layer.to("cpu").float().mem is mem and mem.any()
    assert layer.double().mem.numel() == 0


@pytest.mark.cpu_only
def test_a_layer_can_be_made_without_storage() -> None:
    options: dict[str, Any] = {"bias": True, "learn_graded_spikes_factor": True}
    layer = RHetSynLeaky(M, N, device="meta", **options)
    with torch.device("meta"):
        other = RHetSynLeaky(M, N, parametrization="tau", dt=1e-3, **options)
    for one in (layer, other):
        assert {t.device.type for t in one.parameters()} == {"meta"}
    layer.to_empty(device="cpu").load_state_dict(RHetSynLeaky(M, N, **options).state_dict())
    assert layer(spike_trains(T, B, M))[-1].isfinite().all()


def test_the_reset_mechanism_is_fixed() -> None:
    layer = HetSynLeaky(M, N)
    layer.reset_mechanism = "subtract"
    with pytest.raises(ValueError, match="reset_mechanism: expected 'subtract', as the layer was built, got 'none'"):
        layer.reset_mechanism = "none"
    assert layer.reset_mechanism == "subtract"


def test_no_state_means_zeros_never_the_last_call() -> None:
    layer, x = lively(HetSynLeaky(M, N)), spike_trains(B, M)
    first, second = layer(x), layer(x)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    empty = [torch.zeros(0)] * 3
    assert torch.equal(layer(x, *empty)[-1], first[-1])
    assert torch.equal(layer(x, *HetSynLeaky(M, N).reset_mem())[-1], first[-1])


def test_hidden_state_is_kept_and_restarts_with_another_batch() -> None:
    layer, x = lively(HetSynLeaky(M, N, init_hidden=True, output=True)), spike_trains(B, M)
    first = layer(x)[-1]
    assert not torch.equal(layer(x)[-1], first)
    assert layer(x[:2])[-1].shape == (2, N)
    assert torch.equal(layer(x)[-1], first)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: HetSynLeaky(M, N)(torch.rand(B, M + 1)), ValueError, r"input_: expected shape \(B, 6\) or"),
        (lambda: HetSynLeaky(M, N)(torch.rand(M)), ValueError, "input_: expected shape"),
        (lambda: HetSynLeaky(M, N)(torch.ones(B, M, dtype=torch.int64)), ValueError, "input_: expected torch.float32"),
        (lambda: HetSynLeaky(M, N)(torch.rand(B, M).double()), ValueError, "input_: expected torch.float32"),
        (lambda: HetSynLeaky(M, N)(torch.rand(B, M), torch.zeros(B, N, M)), ValueError, "states: expected all of"),
        (
            lambda: HetSynLeaky(M, N)(torch.rand(B, M), torch.zeros(2, N, M), torch.zeros(B, N), torch.zeros(B, N)),
            ValueError,
            r"syn: expected shape \(3, 5, 6\), got \(2, 5, 6\)",
        ),
        (
            lambda: HetSynLeaky(M, N, init_hidden=True)(torch.rand(B, M), torch.zeros(B, N, M)),
            TypeError,
            "init_hidden=True",
        ),
        (lambda: HetSynLeaky(M, N, reset_mechanism="zero"), ValueError, "reset_mechanism: expected"),
        (lambda: HetSynLeaky(M, N, reset_delay=False), ValueError, "reset_delay: expected True"),
        (lambda: HetSynLeaky(M, N, alpha=1.5), ValueError, r"alpha: expected decays in \[0, 1\], got 1.5"),
        (lambda: HetSynLeaky(M, N, alpha=float("nan")), ValueError, "alpha: expected decays"),
        (lambda: HetSynLeaky(M, N, threshold=0.0), ValueError, "threshold: expected finite values > 0"),
        (lambda: HetSynLeaky(M, N, share="all"), ValueError, "share: expected one of synapse"),
        (lambda: HetSynLeaky(M, N, parametrization="tau"), ValueError, "dt: expected a step length"),
        (lambda: HetSynLeaky(M, N, tie_reset=True), ValueError, "tie_reset: expected share="),
        (lambda: HetSynLeaky(M, N, backend="tpu"), ValueError, "backend: expected"),
        (lambda: HetSynLeaky(M, N, spike_grad="relu"), ValueError, "spike_grad: expected one of"),
        (lambda: HetSynLeaky(M, N, spike_grad=3), ValueError, "spike_grad: expected one of .* got 3"),
        (lambda: HetSynLeaky(2.5, N), ValueError, "in_features: expected a whole number > 0, got 2.5"),
        (lambda: HetSynLeaky(M, 0), ValueError, "out_features: expected a whole number > 0, got 0"),
        (lambda: HetSynLeaky(M, N, graded_spikes_factor=0.0), ValueError, "graded_spikes_factor: expected finite"),
        (lambda: HetSynLeaky(M, N, graded_spikes_factor=[1.0, torch.nan]), ValueError, "graded_spikes_factor: exp"),
        (lambda: HetSynLeaky(M, N, graded_spikes_factor=torch.ones(M)), ValueError, r"factor: expected shape \(\) or"),
        (lambda: HetSynLeaky(M, N)(nan_sequence()), ValueError, "input_: expected finite values, got 1 NaN"),
        (lambda: HetSynLeaky(M, N, spiking=False)(nan_sequence()), ValueError, "input_: expected finite values"),
        (lambda: HetSynLeaky(M, N, state_quant=abs)(nan_sequence()), ValueError, "input_: expected finite values"),
        (lambda: HetSynLeaky(M, N)(nan_sequence().numpy()), ValueError, "input_: expected a torch tensor, got ndarray"),
        (
            lambda: nn.Sequential(HetSynLeaky(M, N), HetSynLeaky(N, 2))(torch.rand(B, M)),
            ValueError,
            "input_: expected a torch tensor, got tuple; .*init_hidden=True",
        ),
        (
            lambda: HetSynLeaky(M, N)(torch.rand(B, M, device="meta")),
            ValueError,
            "input_: expected on the layer's device, cpu, got meta",
        ),
        (
            lambda: HetSynLeaky(M, N)(torch.rand(B, M), [0.0], [0.0], [0.0]),
            ValueError,
            "syn: expected a torch tensor or None, got list",
        ),
    ],
)
@pytest.mark.cpu_only
def test_wrong_input_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ---- facilities --------------------------------------------------------------------------------------------------


def test_registration_is_idempotent_undone_and_refuses_a_taken_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (utils._layer_check, utils._final_layer_check)
    assert hetsyn_plugins.register("snntorch") == hetsyn_plugins.register("snntorch") == ("snntorch",)
    assert snn.HetSynLeaky is HetSynLeaky and HetSynLeaky.__module__ == "hetsyn_plugins.adapters.snntorch"
    hetsyn_plugins.unregister("snntorch")
    assert not hasattr(snn, "HetSynLeaky") and (utils._layer_check, utils._final_layer_check) == before
    monkeypatch.setattr(snn, "HetSynLeaky", object, raising=False)
    with pytest.raises(ValueError, match=r"snntorch.HetSynLeaky: expected to be free"):
        hetsyn_plugins.register("snntorch")
    with pytest.raises(ValueError, match="framework: expected one of"):
        hetsyn_plugins.register("brian2")


def test_reset_reaches_nested_and_copied_neurons_of_this_net_only(registered: None) -> None:
    net = nn.Sequential(nn.Sequential(lively(snn.HetSynLeaky(M, N, init_hidden=True))), nn.Linear(N, N))
    other, x = copy.deepcopy(net), spike_trains(B, M)
    net(x)
    other(x)
    utils.reset(net)
    assert not net[0][0].mem.any() and not net[0][0].syn.any() and other[0][0].mem.any()
    utils.reset(other)
    assert not other[0][0].mem.any()
    lone = lively(HetSynLeaky(M, N, init_hidden=True))
    lone(x)
    adapter.reset(lone)
    assert not lone.mem.any() and lone.mem.shape == (B, N)


def test_training_with_losses_accuracies_and_spikegen(registered: None) -> None:
    net = nn.Sequential(
        lively(snn.HetSynLeaky(M, 8, init_hidden=True)), snn.HetSynLeaky(8, 2, init_hidden=True, output=True)
    )
    x = spikegen.rate(torch.rand(B, M), num_steps=T)
    targets = torch.tensor([0, 1, 0])
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(2):
        utils.reset(net)
        spk, *_, mem = net(x)
        loss = functional.ce_rate_loss()(spk, targets) + functional.mse_count_loss()(spk, targets)
        loss = loss + functional.ce_max_membrane_loss()(mem, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert 0 <= functional.accuracy_rate(spk, targets) <= 1


@pytest.mark.cpu_only
def test_backprop_bptt(registered: None) -> None:
    from snntorch import backprop

    net = nn.Sequential(
        lively(snn.HetSynLeaky(M, 4, init_hidden=True)), snn.HetSynLeaky(4, 2, init_hidden=True, output=True)
    )
    data = [(torch.rand(T, B, M), torch.zeros(B, dtype=torch.long))]
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net[0].weight.detach().clone()
    loss = backprop.BPTT(net, data, optimiser, functional.ce_rate_loss(), time_var=True, time_first=True)
    assert loss.isfinite() and not torch.equal(before, net[0].weight)
    options: dict[str, Any] = {"time_var": True, "time_first": True}
    nested = nn.Sequential(net[0], nn.Sequential(net[1]))
    assert backprop.BPTT(nested, data, optimiser, functional.ce_rate_loss(), **options).isfinite()
    for last, message in (
        (snn.RHetSynLeaky(M, 2, init_hidden=True, output=True), "returns 2 to 4 values"),
        (snn.HetSynLeaky(M, 2, init_hidden=True), "with output=True .*, got output=False"),
        (snn.HetSynLeaky(M, 2), "with init_hidden=True .*, got init_hidden=False"),
    ):
        with pytest.raises(ValueError, match=message):
            backprop.BPTT(nn.Sequential(last), data, optimiser, functional.ce_rate_loss(), **options)


def test_probe_monitors() -> None:
    from snntorch.functional import probe

    net = nn.Sequential(lively(HetSynLeaky(M, N, init_hidden=True)))
    outputs, mems = (
        probe.OutputMonitor(net, instance=HetSynLeaky),
        probe.AttributeMonitor("mem", False, net, instance=HetSynLeaky),
    )
    x = spike_trains(B, M)
    spk = net(x)
    assert torch.equal(outputs.records[0], spk) and torch.equal(mems.records[0], net[0].mem)


@pytest.mark.parametrize("cls", [HetSynLeaky, RHetSynLeaky])
@pytest.mark.cpu_only
def test_deepcopy_and_pickle_after_a_forward(cls: Any) -> None:
    layer = lively(cls(M, N, init_hidden=True, learn_threshold=True))
    x = spike_trains(B, M)
    layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin.mem, layer.mem) and not twin.mem.requires_grad
        assert torch.equal(twin(x), copy.deepcopy(layer)(x))
        assert twin in snntorch_host.LIVING


def test_state_dict_round_trip_and_bad_values() -> None:
    first, second = RHetSynLeaky(M, N, bias=True), RHetSynLeaky(M, N, bias=True)
    first(spike_trains(B, M))
    second.load_state_dict(first.state_dict())
    x = spike_trains(T, B, M)
    assert torch.equal(first(x)[-1], second(x)[-1])
    broken = {**first.state_dict(), "alpha": torch.full((N, M), float("nan"))}
    kept = second.alpha.detach().clone()
    with pytest.raises(RuntimeError, match="alpha: expected finite values"):
        second.load_state_dict(broken)
    assert torch.equal(second.alpha, kept)
    for value in (torch.nan, 0.0):
        with pytest.raises(RuntimeError, match=r"graded_spikes_factor: expected finite values other than 0, got"):
            second.load_state_dict({**first.state_dict(), "graded_spikes_factor": torch.tensor(value)})
    assert second.graded_spikes_factor == 1


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sequence", [True, False])
@pytest.mark.cpu_only
def test_half_types_equal_the_float32_run_on_rounded_values(half: torch.dtype, sequence: bool) -> None:
    layer = lively(RHetSynLeaky(M, N, alpha=0.997, bias=True)).to(half)
    assert layer.alpha.dtype == torch.float32 and layer.weight.dtype == half and (layer.alpha == 0.997).all()
    x = torch.rand(T, B, M).to(half)
    single = RHetSynLeaky.from_params(layer.to_params())
    if sequence:
        spk, *_, mem = layer(x)
        want = single(x.float())
    else:
        states: Any = ()
        reference: Any = ()
        for x_t in x:
            states, reference = layer(x_t, *states), single(x_t.float(), *reference)
        spk, *_, mem = states
        want = reference
    assert spk.dtype == half and mem.dtype == torch.float32
    assert torch.equal(spk.float(), want[0]) and torch.equal(mem, want[-1])
    assert layer.double().alpha.dtype == torch.float64


def test_neurons_are_not_kept_alive() -> None:
    layer = HetSynLeaky(M, N, init_hidden=True)
    layer(spike_trains(B, M))
    assert layer not in snn.SpikingNeuron.instances
    dead = weakref.ref(layer)
    del layer
    gc.collect()
    assert dead() is None


@pytest.mark.parametrize("cls", [HetSynLeaky, RHetSynLeaky])
def test_detach_hidden_cuts_the_graph(cls: Any) -> None:
    layer = lively(cls(M, N, init_hidden=True, adaptation_decay=0.9, adaptation_strength=0.1, learn_adaptation=True))
    layer(spike_trains(2, B, M)).sum()
    states = {name: getattr(layer, name) for name in layer._states}
    assert {"syn", "rst", "ada", "mem"} <= states.keys() and all(s.requires_grad for s in states.values())
    cls.detach_hidden()
    assert not any(getattr(layer, name).requires_grad for name in states)
    layer(spike_trains(B, M)).sum().backward()
    HetSynLeaky.reset_hidden()
    assert not layer.mem.any()


@pytest.mark.cpu_only
def test_inference_and_then_training() -> None:
    layer, x = lively(HetSynLeaky(M, N, init_hidden=True)), spike_trains(T, B, M)
    with torch.inference_mode():
        layer(x)
    layer.reset_mem()
    layer(x).sum().backward()
    assert layer.alpha.grad is not None


def test_graded_spikes_scale_the_output_and_not_the_dynamics() -> None:
    weight = torch.rand(N, M)
    for cls in (HetSynLeaky, RHetSynLeaky):
        extra = {"rec_weight": torch.rand(N, N) * 0.1} if cls.recurrent else {}
        plain, graded = (cls(M, N, weight=weight, graded_spikes_factor=f, **extra) for f in (1.0, 3.0))
        x = spike_trains(T, B, M)
        assert torch.equal(plain(x)[0] * 3, graded(x)[0]) and plain(x)[0].any()
        states: Any = ()
        for x_t in x:
            out = graded(x_t, *states)
            states = out if cls.recurrent else out[1:]
        assert torch.equal(out[0], graded(x)[0][-1])


@pytest.mark.parametrize("factor", [-1.0, -2.5, 2.0**-10, 1024.0])
@pytest.mark.parametrize("way", ["sequence", "steps", "loop"])
def test_odd_graded_factors_are_ones_to_the_recurrence(factor: float, way: str) -> None:
    """A negative factor's spikes are spikes all the same."""
    torch.manual_seed(0)
    plain = lively(RHetSynLeaky(M, N, dtype=torch.float64), 0.7)
    options: dict[str, Any] = {"state_quant": lambda s: s} if way == "loop" else {}
    graded = RHetSynLeaky.from_params(plain.to_params(), graded_spikes_factor=factor, **options)
    x = spike_trains(T, B, M, dtype=torch.float64)
    want, states = plain(x), ()
    if way == "steps":
        spikes = []
        for x_t in x:
            states = graded(x_t, *states)
            spikes.append(states[0])
        got = torch.stack(spikes)
    else:
        got = graded(x)[0]
    assert 0.1 < want[0].mean() < 0.9 and torch.equal(got, want[0] * factor)


def test_inhibition_lets_the_neuron_furthest_above_its_threshold_fire() -> None:
    theta = torch.tensor([0.3, 0.6, 0.9, 1.2, 1.5])
    with pytest.warns(UserWarning, match="Inhibition"):
        layer = lively(HetSynLeaky(M, N, inhibition=True, threshold=theta))
    spk, *_, mem = layer(spike_trains(T, B, M))
    fired = spk.any(-1)
    assert spk.sum(-1).max() == 1
    assert torch.equal(spk.argmax(-1)[fired], (mem - theta).argmax(-1)[fired])
    assert not torch.equal(spk.argmax(-1)[fired], mem.argmax(-1)[fired])


def test_state_quant_is_applied_to_every_state() -> None:
    layer = lively(HetSynLeaky(M, N, state_quant=lambda s: (s * 8).round() / 8))
    spk, syn, rst, mem = layer(spike_trains(T, B, M))
    for state in (syn, rst, mem):
        assert torch.equal(state, (state * 8).round() / 8)
    assert spk.any() and torch.equal(spk, (mem > 1).float())


def test_a_quantiser_that_changes_nothing_changes_nothing() -> None:
    """Graded spikes too: the loop over time and the fused run see the same z."""
    torch.manual_seed(0)
    fused = lively(RHetSynLeaky(M, N, graded_spikes_factor=3.0, dtype=torch.float64), 0.7)
    stepped = RHetSynLeaky.from_params(fused.to_params(), graded_spikes_factor=3.0, state_quant=lambda s: s)
    x = spike_trains(T, B, M, dtype=torch.float64)
    (one, *_, mem), (other, *_, other_mem) = fused(x), stepped(x)
    assert 0.1 < one.mean() / 3 < 0.9 and torch.equal(one, other)
    torch.testing.assert_close(mem, other_mem, rtol=0, atol=1e-12)
    want = gradients(fused, mem.square().sum())
    for name, gradient in gradients(stepped, other_mem.square().sum()).items():
        torch.testing.assert_close(gradient, want[name], rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.cpu_only
def test_graded_spikes_are_ones_to_the_recurrence_under_autocast() -> None:
    """A bfloat16 spike of factor 3.3 is not 3.3: divided by the float32 factor it would not be 1."""
    torch.manual_seed(0)
    layer = lively(RHetSynLeaky(M, N, graded_spikes_factor=3.3))
    x, states = spike_trains(T, B, M), ()
    with torch.autocast("cpu", torch.bfloat16):
        whole = layer(x.bfloat16())
        for x_t in x.bfloat16():
            states = layer(x_t, *states)
    assert whole[0].any() and torch.equal(states[0], whole[0][-1])
    torch.testing.assert_close(states[-1], whole[-1][-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("learn", [False, True])
def test_gradients_through_graded_spikes_are_those_of_the_sequence(learn: bool) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"graded_spikes_factor": 0.7, "learn_graded_spikes_factor": learn}
    layer = lively(RHetSynLeaky(M, N, dtype=torch.float64, **options))
    x = spike_trains(T, B, M, dtype=torch.float64)
    sequence = gradients(layer, layer(x)[-1].square().sum() + layer(x)[0].sum())
    states: Any = ()
    loss = torch.zeros((), dtype=torch.float64)
    for x_t in x:
        states = layer(x_t, *states)
        loss = loss + states[-1].square().sum() + states[0].sum()
    for name, gradient in gradients(layer, loss).items():
        torch.testing.assert_close(gradient, sequence[name], rtol=1e-10, atol=1e-10, msg=name)


def gradients(layer: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    named = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def test_a_disabled_surrogate_passes_no_gradient_in_steps_or_sequence() -> None:
    """The judge is the stock neuron; x = 1, w = 1.5 and four steps, two of which spike."""
    linear = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(linear.weight, 1.5)
    options: dict[str, Any] = {"beta": torch.tensor(0.9, dtype=torch.float64), "surrogate_disable": True}
    stock, ours = snn.Leaky(**options), HetSynLeaky(1, 1, weight=linear.weight, **options)
    x, mem, states, stock_sum, own_sum = torch.ones(4, 1, 1).double(), stock.reset_mem(), (), 0.0, 0.0
    for x_t in x:
        _, mem = stock(linear(x_t), mem)
        _, *states = ours(x_t, *states)
        stock_sum, own_sum = stock_sum + mem.sum(), own_sum + states[-1].sum()
    (want,) = torch.autograd.grad(stock_sum, linear.weight)
    assert want.item() == pytest.approx(9.049)
    for loss in (own_sum, ours(x)[-1].sum()):
        torch.testing.assert_close(gradients(ours, loss)["weight"], want, rtol=0, atol=1e-12)


def test_the_threshold_of_frozen_weights_learns_in_steps_as_in_the_sequence() -> None:
    """mem of the first step has no graph then, and yet z[0], which adaptation remembers, depends on the threshold."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"adaptation_decay": 0.9, "adaptation_strength": 0.3, "reset_mechanism": "none"}
    layer = HetSynLeaky(M, N, learn_alpha=False, learn_threshold=True, dtype=torch.float64, **options)
    lively(layer).weight.requires_grad_(False)
    x = spike_trains(T, B, M, dtype=torch.float64)
    whole = gradients(layer, layer(x)[-1].square().sum())["threshold"]
    states: Any = ()
    loss = torch.zeros((), dtype=torch.float64)
    for x_t in x:
        _, *states = layer(x_t, *states)
        loss = loss + states[-1].square().sum()
    torch.testing.assert_close(gradients(layer, loss)["threshold"], whole, rtol=1e-10, atol=1e-10)
    start = [s.detach() for s in states]  # a given first state is a value: nothing reaches the threshold through it
    assert not torch.autograd.grad(layer(x[0], *start)[-1].sum(), layer.threshold, allow_unused=True)[0]


def test_rewritten_buffers_do_not_break_a_graph() -> None:
    """DistributedDataParallel broadcasts the buffers, in place, at every forward: also within a loop over time."""
    options: dict[str, Any] = {"adaptation_decay": 0.9, "adaptation_strength": 0.1, "learn_alpha": False, "bias": True}
    layer = lively(RHetSynLeaky(M, N, init_hidden=True, learn_threshold=True, graded_spikes_factor=2.0, **options))
    loss = torch.zeros(())
    for x_t in spike_trains(3, B, M):
        loss = loss + layer(x_t).sum()
        for buffer in layer.buffers():
            buffer.copy_(buffer.clone())
    loss.backward()
    assert layer.weight.grad.any()


@pytest.mark.cpu_only
def test_our_surrogate_serves_a_stock_neuron() -> None:
    stock = snn.Leaky(0.9, spike_grad=hetsyn_plugins.surrogate.Triangular())
    x = torch.tensor([[1.5]], requires_grad=True)
    stock(x, torch.zeros(1, 1))[0].sum().backward()
    assert x.grad is not None and x.grad.item() == 0.5
    pickle.loads(pickle.dumps(stock))


@pytest.mark.cpu_only
def test_compiled_step_gives_the_same() -> None:
    layer, x = lively(HetSynLeaky(M, N)), spike_trains(B, M)
    compiled = torch.compile(layer, backend="aot_eager")
    for mine, theirs in zip(layer(x), compiled(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


# ---- parameters --------------------------------------------------------------------------------------------------


def test_params_round_trip_keeps_every_field() -> None:
    full = HetSynParams(
        torch.rand(N, M),
        torch.rand(N, M),
        reset_decay=torch.rand(N),
        threshold=torch.rand(N) + 0.5,
        recurrent_weight=torch.rand(N, N),
        recurrent_decay=torch.rand(N, N),
        adaptation_decay=torch.rand(N),
        adaptation_strength=torch.rand(N),
        bias=torch.rand(N),
    )
    for parametrization in ("decay", "tau", "log_tau"):
        layer = RHetSynLeaky.from_params(full, parametrization=parametrization, dt=1e-3)
        again = RHetSynLeaky.from_params(layer.to_params(), parametrization=parametrization, dt=1e-3).to_params()
        for name in ("weight", "recurrent_weight", "threshold", "bias", "adaptation_strength"):
            assert (getattr(layer.to_params(), name) == getattr(full, name)).all()
        for name in ("decay", "recurrent_decay", "reset_decay", "adaptation_decay"):
            # 4 spacings of float32 at 1: three roundings of -dt / log r, weighed by x exp(-x) <= 0.37, x = dt / tau,
            # and up to |log tau| = 7 e-folds of one more
            assert abs(getattr(layer.to_params(), name) - getattr(full, name)).max() <= 4 * 1.2e-7, parametrization
            assert (getattr(again, name) == getattr(layer.to_params(), name)).all(), parametrization
    with pytest.raises(ValueError, match="use RHetSynLeaky"):
        HetSynLeaky.from_params(full)
    with pytest.raises(ValueError, match="tie_reset: expected one decay a neuron"):
        RHetSynLeaky.from_params(full, tie_reset=True, share="neuron")


def test_tied_reset_keeps_the_lif_condition_through_training() -> None:
    layer = lively(RHetSynLeaky(M, N, share="neuron", tie_reset=True))
    optimiser = torch.optim.SGD(layer.parameters(), lr=1e-6)
    for _ in range(3):
        optimiser.zero_grad()
        layer(spike_trains(T, B, M))[-1].square().sum().backward()
        optimiser.step()
    params = layer.to_params()
    assert params.is_neuron_heterogeneous() and not params.is_lif()
    assert torch.equal(layer.beta, layer.alpha) and torch.equal(layer.rec_alpha, layer.alpha)


def test_an_overshooting_optimiser_neither_raises_nor_sticks() -> None:
    layer = lively(HetSynLeaky(M, N))
    with torch.no_grad():
        layer.alpha.fill_(1.2)
        layer.alpha[0] = -0.3
    x = spike_trains(T, B, M)
    assert ((layer.to_params().decay == 1) | (layer.to_params().decay == 0)).all()
    layer(x)[-1].sum().backward()
    back_in = layer.alpha.grad
    assert (back_in[1:] >= 0).all() and (back_in[0] <= 0).all()
    layer.clamp_()
    assert layer.alpha.min() == 0 and layer.alpha.max() == 1


def test_initialisers_follow_torch_manual_seed() -> None:
    tau = hetsyn_plugins.NormalTau(20e-3, 5e-3, dt=1e-3)
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(HetSynLeaky(M, N, alpha=tau).alpha.detach())
    assert torch.equal(*draws) and draws[0].std() > 0


@pytest.mark.filterwarnings("ignore:a HetSynLeaky of 30 neurons fired at every step")
@pytest.mark.cpu_only
def test_sequence_saves_no_currents() -> None:
    layer, x = lively(HetSynLeaky(40, 30)), spike_trains(50, 8, 40)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        layer(x)[0].sum()
    assert max(sizes) <= max(50 * 8 * 40, 8 * 30 * 40)
    assert dispatch.choose_backend(x, layer.weight).backend == "cpu"


# ---- plain data and stock neurons


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, None),
        ({"graded_spikes_factor": 3.0}, "graded_spikes_factor 3.0"),
        ({"learn_graded_spikes_factor": True}, "learn_graded_spikes_factor True"),
        ({"inhibition": True}, "inhibition True"),
        ({"state_quant": abs}, "state_quant <built-in function abs>"),
        ({"surrogate_disable": True}, "surrogate_disable True"),
        ({"state_quant": abs, "graded_spikes_factor": 2.0}, "graded_spikes_factor 2.0, state_quant <built-in"),
    ],
)
@pytest.mark.filterwarnings("ignore:Inhibition")
def test_what_is_no_plain_data_is_named(options: dict[str, Any], why: str | None) -> None:
    reason = adapter.why_not_plain(HetSynLeaky(M, N, **options))
    assert reason is None if why is None else reason is not None and reason.startswith(why)


def test_what_is_learned_survives_conversion_field_by_field() -> None:
    options: dict[str, Any] = {"adaptation_decay": 0.9, "adaptation_strength": 0.1, "learn_adaptation": True}
    layer = RHetSynLeaky(M, N, init_hidden=True, learn_rec_alpha=False, learn_beta=True, **options)
    built = hetsyn_plugins.convert(nn.Sequential(layer), to="snntorch")[0]
    assert {n for n, _ in built.named_parameters()} == {n for n, _ in layer.named_parameters()}
    layer.adaptation_decay.requires_grad_(False)
    built = adapter.build_layer(hetsyn_plugins.convert(nn.Sequential(layer), to="reference").layers[0])
    assert "adaptation_strength" in dict(built.named_parameters())


@pytest.mark.parametrize("reset", ["subtract", "none"])
@pytest.mark.parametrize("beta", [0.9, 1.2])  # a stock Leaky clamps what its optimiser pushed out of range
def test_a_stock_leaky_is_merged_with_all_that_it_is(reset: str, beta: float) -> None:
    linear, value = nn.Linear(M, N, bias=False).double(), torch.tensor(beta, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.mul_(2)
    # 3/4: the stock neuron rounds threshold * spike to float32
    leaky = snn.Leaky(value, threshold=torch.tensor(0.75, dtype=torch.float64), reset_mechanism=reset)
    merged = adapter.merge_stock(linear, leaky)
    assert merged is not None
    params, learned, spike_grad = merged
    assert learned == {"weight"} and spike_grad == hetsyn_plugins.surrogate.Arctan(2.0)  # snnTorch's default
    assert (params.reset_decay is None) == (reset == "none")
    ours = HetSynLeaky.from_params(params, spike_grad=spike_grad, detach_reset=True)
    x, mem, spks = spike_trains(100, B, M, dtype=torch.float64), leaky.reset_mem(), []
    for x_t in x:
        spk, mem = leaky(linear(x_t), mem)
        spks.append(spk)
    spikes = ours(x)[0]
    assert torch.equal(torch.stack(spks), spikes) and 0.05 < spikes.detach().mean() < 0.95
    (want,) = torch.autograd.grad(torch.stack(spks).sum(), linear.weight)
    torch.testing.assert_close(gradients(ours, spikes.sum())["weight"], want, rtol=1e-10, atol=1e-10)


def test_what_a_stock_leaky_learns_is_learned() -> None:
    linear = nn.Linear(M, N)
    for tensor in linear.parameters():
        tensor.requires_grad_(False)
    spike_grad = surrogate.fast_sigmoid(slope=5)
    leaky = snn.Leaky(torch.rand(N), learn_beta=True, learn_threshold=True, spike_grad=spike_grad)
    merged = adapter.merge_stock(linear, leaky)
    assert merged is not None and merged[1] == {"decay", "reset_decay", "threshold"}
    assert merged[2] == hetsyn_plugins.surrogate.Foreign(spike_grad)
    leaky.threshold.requires_grad_(False)
    again = adapter.merge_stock(linear, leaky)
    assert again is not None and again[1] == {"decay", "reset_decay"}
    assert adapter.merge_stock(linear, snn.Lapicque(0.9)) is None
    with pytest.raises(
        ValueError, match=r"a snn\.Synaptic's alpha of 0\.9, a synaptic current that is filtered once more"
    ):
        adapter.merge_stock(linear, snn.Synaptic(0.9, 0.8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_mechanism": "zero"}, "reset_mechanism 'zero'"),
        ({"reset_delay": False}, "reset_delay False"),
        ({"graded_spikes_factor": 3.0}, "graded_spikes_factor 3.0"),
        ({"learn_graded_spikes_factor": True}, "learn_graded_spikes_factor True"),
        ({"inhibition": True}, "inhibition True"),
        ({"state_quant": abs}, "state_quant <built-in function abs>"),
        ({"surrogate_disable": True}, "surrogate_disable True"),
    ],
)
@pytest.mark.filterwarnings("ignore:Inhibition")
def test_a_stock_leaky_that_is_no_vanilla_neuron_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"net: a snn.Leaky's {message} cannot be carried over"):
        adapter.merge_stock(nn.Linear(M, N), snn.Leaky(0.9, **options))


def test_a_bias_frozen_apart_from_its_weight_is_refused() -> None:
    linear = nn.Linear(M, N)
    linear.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"net: a Linear in front of a snn\.Leaky, expected weight and bias both"):
        adapter.merge_stock(linear, snn.Leaky(0.9))


# ---- several processes


@pytest.mark.parametrize("init_hidden", [True, False])
@pytest.mark.cpu_only
def test_two_ddp_ranks_equal_one_process(tmp_path: Path, init_hidden: bool) -> None:
    """The mean of two ranks' gradients is that of the whole batch: 1e-12 is rounding, in another order of summation."""
    context = torch.multiprocessing.spawn(ddp_worker.rank, args=(2, str(tmp_path), init_hidden), nprocs=2, join=False)
    deadline = time.monotonic() + 120
    while not context.join(timeout=5):
        assert time.monotonic() < deadline, "the ranks hang"
    net = ddp_worker.network(init_hidden)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    ddp_worker.train(net, ddp_worker.data())
    for index in range(2):
        state = torch.load(tmp_path / f"{index}.pt")
        for name, value in net.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12, msg=name)
    assert any((t != before[n]).any() for n, t in net.state_dict().items())


# ---- states by name


def test_states_may_be_given_by_name() -> None:
    layer = lively(HetSynLeaky(M, N))
    x = spike_trains(B, M)
    _, syn, rst, mem = layer(x)
    for one, other in zip(layer(x, syn, rst, mem), layer(x, mem=mem, syn=syn, rst=rst), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(TypeError, match=r"forward: expected states syn, rst, mem, each once, got spk"):
        layer(x, spk=mem)
    with pytest.raises(TypeError, match=r"forward: expected states syn, rst, mem, each once, got syn"):
        layer(x, syn, syn=syn)
    with pytest.raises(ValueError, match=r"states: expected all of syn, rst, mem or none, got 1"):
        layer(x, mem=mem)


# ---- z[t-1] of a mem that was not returned by the step before ----

FIRES_AT_THRESHOLD = (
    "surrogate(mem - threshold, threshold)",
    "surrogate(mem - threshold + 1e-30, threshold)",
)
WIDTH_OF_ONE = (
    "surrogate(mem - threshold, threshold)",
    "surrogate(mem - threshold, torch.ones_like(threshold))",
)


def check_spikes_of_a_given_mem(module: Any) -> None:
    """rst[1] = beta rst[0] + theta H(mem - theta), and drst/dmem = theta f(mem - theta), of a triangle theta wide."""
    layer = module.HetSynLeaky(1, 3, threshold=0.5, spike_grad=Triangular())
    mem = torch.tensor([[0.5, 0.6, 0.4]], requires_grad=True)
    zero = torch.zeros(1, 3)
    _, _, rst, _ = layer(torch.zeros(1, 1), zero[:, :, None], zero, mem)
    assert rst.tolist() == [[0.0, 0.5, 0.0]], "fired"
    (slope,) = torch.autograd.grad(rst.sum(), mem)
    torch.testing.assert_close(slope, 0.5 * torch.tensor([[1.0, 0.8, 0.8]]), msg="slope")


def test_a_given_mem_fires_strictly_and_with_the_width_of_its_threshold() -> None:
    check_spikes_of_a_given_mem(adapter)


@pytest.mark.parametrize(("bug", "says"), [(FIRES_AT_THRESHOLD, "fired"), (WIDTH_OF_ONE, "slope")])
def test_planted_bugs_in_what_a_given_mem_fires_are_caught(bug: tuple[str, str], says: str) -> None:
    with planting.planted(adapter.__name__, *bug) as changed, planting.caught(says):
        check_spikes_of_a_given_mem(changed)
