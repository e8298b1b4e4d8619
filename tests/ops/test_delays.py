"""Synapses with delays: closed forms, what trains, what is refused. Values and gradients: `conformance/`."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hetsyn_plugins import HetSynParams, HetSynState, UniformDelay, ops, round_delays_
from hetsyn_plugins.conformance import cases
from hetsyn_plugins.core import memory, reference
from hetsyn_plugins.core.fields import ARRAYS, DELAYS
from hetsyn_plugins.kernels.cpu import delayed, delayed_layout
from hetsyn_plugins.ops import operators, steps

T, B, N, M = 40, 3, 5, 4
BACKENDS = ["eager", "cpu"]


def layer(**delays: Any) -> dict[str, Any]:
    """A recurrent layer's arguments, float64, without gradients but for weights and decays."""
    params = cases.KINDS["recurrent"](np.random.default_rng(3), N, M)
    given = {name: getattr(params, name) for name in ARRAYS}
    made = {name: None if a is None else torch.tensor(np.array(a), requires_grad=True) for name, a in given.items()}
    return {**made, **delays}


def train(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.rand(*shape, generator=generator, dtype=torch.float64) < 0.5).double()


# ---- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("delay", [0, 1, 7])
def test_one_whole_delay_is_a_shift_of_the_inputs(backend: str, delay: int) -> None:
    """To the bit, gradients too: of the layer without delays on inputs that begin with zeros."""
    x, given = train(T, B, M), layer()
    late = torch.cat([torch.zeros(delay, B, M, dtype=x.dtype), x])[:T]
    want, _, _ = ops.hetsyn_lif(late, **given, backend="eager")
    got, _, state = ops.hetsyn_lif(x, **{**given, "delay": float(delay), "max_delay": 9}, backend=backend)
    assert torch.equal(got, want) and got.any()
    assert torch.equal(state.past_inputs, x[-9:]) and state.past_spikes is None


def test_a_delay_between_two_steps_is_their_interpolation() -> None:
    """v of a perfect integrator that a single spike reaches 0.75 at one step, and whole a step later."""
    x = torch.zeros(6, 1, 1, dtype=torch.float64)
    x[1] = 1.0
    weight = torch.ones(1, 1, dtype=torch.float64)
    for backend in BACKENDS:
        v, _ = ops.hetsyn_li(x, weight, 1.0, delay=2.25, backend=backend)
        assert v.flatten().tolist() == [0.0, 0.0, 0.0, 0.75, 1.0, 1.0]


def test_the_longest_delay_is_the_end_of_a_piece() -> None:
    """Its gradient is that of the step before it: exact inputs, since f = 1 takes nothing of the other step."""
    x = torch.tensor([0.1, 0.7, 0.3, 0.0], dtype=torch.float64).reshape(4, 1, 1)
    weight = torch.ones(1, 1, dtype=torch.float64)
    for backend in BACKENDS:
        delay = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
        v, _ = ops.hetsyn_li(x, weight, 0.0, delay=delay, max_delay=2, backend=backend)
        assert v.flatten().tolist() == [0.0, 0.0, 0.1, 0.7]
        v[3].sum().backward()
        assert delay.grad is not None and delay.grad.item() == pytest.approx(0.7 - 0.3, rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_delays_that_are_not_trained_have_gradients_of_their_own_kernel(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of everything else, against the reference; the kernel of fractions is not asked."""
    monkeypatch.setattr(delayed, "fractional_bwd", None)
    monkeypatch.setattr(delayed, "fractional_fwd", None)
    params = cases.draw(1, "whole delays", sizes=(T, 19, 9, 10)).params.astype(str(dtype)[6:])
    rng = np.random.default_rng(0)
    x, grad_v = (rng.normal(size=(T, 19, width)).astype(params.weight.dtype) for width in (10, 9))
    want = reference.gradients(params, x, grad_v=grad_v)
    given = {name: getattr(params, name) for name in ARRAYS}
    leaves = {name: None if a is None else torch.tensor(np.array(a)) for name, a in given.items()}
    for name in ("weight", "decay"):
        leaves[name].requires_grad_()  # type: ignore[union-attr]
    inputs = torch.tensor(x, requires_grad=True)
    _, v, _ = ops.hetsyn_lif(inputs, **leaves, backend="cpu")  # type: ignore[arg-type]
    v.backward(torch.tensor(grad_v))
    # as `conformance.comparison.tolerance`: 64 (T + M + N) eps of the largest
    allowed = 64 * (T + 19) * float(np.finfo(params.weight.dtype).eps)
    for got, expected in (
        (inputs.grad, want.inputs),
        (leaves["weight"].grad, want.params["weight"]),  # type: ignore[union-attr]
        (leaves["decay"].grad, want.params["decay"]),  # type: ignore[union-attr]
    ):
        assert expected is not None
        np.testing.assert_allclose(got, expected, rtol=0, atol=allowed * np.abs(expected).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_delays_of_zero_are_no_delays(backend: str) -> None:
    x = train(T, B, M)
    plain = ops.hetsyn_lif(x, **layer(), backend=backend)
    given = layer(delay=torch.zeros(N, M).double().requires_grad_(), recurrent_delay=0)
    none = ops.hetsyn_lif(x, **given, backend=backend)
    assert torch.equal(plain[0], none[0])
    torch.testing.assert_close(plain[1], none[1], rtol=1e-12, atol=1e-12)  # rows in another order than neurons
    assert none[2].past_inputs.shape == (0, B, M) and none[2].past_spikes.shape == (0, B, N)
    none[1].sum().backward()
    assert not given["delay"].grad.any()


def test_a_past_that_is_given_says_how_many_steps_are_kept() -> None:
    given = layer(delay=2.0)
    *_, state = ops.hetsyn_lif(train(T, B, M), **given, max_delay=6)
    assert state.past_inputs.shape == (6, B, M)
    *_, state = ops.hetsyn_lif(train(T, B, M), **given, state=state)
    assert state.past_inputs.shape == (6, B, M)
    with pytest.raises(ValueError, match=r"delay: expected delays of at most max_delay = 6 steps, got 7"):
        ops.hetsyn_lif(train(T, B, M), **{**given, "delay": 7.0}, state=state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_truncated_training_goes_on_from_a_detached_past(backend: str) -> None:
    """The gradients of the second half, states cut off, are the reference's."""
    case = cases.draw(4, "delays", sizes=(30, 2, N, M), with_state=True, with_gradients=True)
    assert case.output_gradients is not None and case.state is not None
    given = {name: getattr(case.params, name) for name in ARRAYS}
    leaves = {k: None if a is None else torch.tensor(np.array(a), requires_grad=True) for k, a in given.items()}
    state = HetSynState(*(None if s is None else torch.tensor(s) for s in case.state))
    _, v, _ = ops.hetsyn_lif(torch.tensor(case.inputs), **leaves, state=state, backend=backend)  # type: ignore[arg-type]
    v.backward(torch.tensor(case.output_gradients.v))
    want = reference.gradients(case.params, case.inputs, case.state, grad_v=case.output_gradients.v).params
    for name in DELAYS:
        np.testing.assert_allclose(leaves[name].grad, want[name], rtol=1e-9, atol=1e-10)  # type: ignore[union-attr]


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delays", "message"),
    [
        ({"delay": -1.0}, r"delay: expected delays of 0 steps or more, finite, got -1\.0"),
        ({"delay": float("nan")}, "delay: expected delays of 0 steps or more, finite, got nan"),
        ({"delay": torch.full((N, M), float("inf")).double()}, "delay: expected delays of 0 steps or more, finite"),
        ({"delay": torch.ones(N + 1, M).double()}, r"delay: expected shape \(5, 4\) or \(\) or"),
        ({"delay": 3.5, "max_delay": 3}, r"delay: expected delays of at most max_delay = 3 steps, got 3\.5"),
        ({"recurrent_delay": 4.0, "max_delay": 3}, "recurrent_delay: expected delays of at most max_delay = 3 steps"),
        ({"delay": 1.0, "max_delay": -1}, "max_delay: expected a whole number of steps, 0 or more, got -1"),
        ({"delay": 1.0, "max_delay": 2.5}, r"max_delay: expected a whole number of steps, 0 or more, got 2\.5"),
    ],
)
def test_wrong_delays_are_named(delays: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.hetsyn_lif(train(T, B, M), **layer(**delays))


@pytest.mark.parametrize("call", ["lif", "li", "step", "params"])
def test_a_max_delay_wants_delays(call: str) -> None:
    given = layer()
    with pytest.raises(ValueError, match="max_delay: expected None where there are no delays, got 3"):
        if call == "lif":
            ops.hetsyn_lif(train(T, B, M), **given, max_delay=3)
        elif call == "li":
            ops.hetsyn_li(train(T, B, M), given["weight"], 0.9, max_delay=3)
        elif call == "step":
            ops.hetsyn_lif_step(train(B, M), **given, max_delay=3)
        else:
            HetSynParams(np.ones((N, M)), 0.9, reset_decay=0.9, max_delay=3)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_step_looks_at_its_delays(value: float) -> None:
    """Which say where it reads: also without `check`, which looks at all other values."""
    message = "delay: expected delays of 0 steps or more, finite, got"
    one_wrong = torch.ones(N, M).double()
    one_wrong[2, 1] = value
    for delays in ({"delay": one_wrong}, {"delay": 1.0, "recurrent_delay": torch.full((N, N), value).double()}):
        with pytest.raises(ValueError, match=message):
            ops.hetsyn_lif_step(train(B, M), **layer(**delays), max_delay=3)
        with pytest.raises(ValueError, match=message):
            ops.hetsyn_lif(train(T, B, M), **layer(**delays), max_delay=3, check=False)


def test_a_recurrent_delay_wants_recurrent_synapses() -> None:
    given = layer(recurrent_weight=None, recurrent_decay=None, recurrent_delay=1.0)
    with pytest.raises(ValueError, match="recurrent_delay: expected None where there is no recurrent_weight, got"):
        ops.hetsyn_lif(train(T, B, M), **given)


def test_a_past_of_another_length_is_named() -> None:
    given = layer(delay=2.0)
    *_, state = ops.hetsyn_lif(train(T, B, M), **given, max_delay=6)
    with pytest.raises(ValueError, match=r"state\.past_inputs: expected shape \(4, 3, 4\), got \(6, 3, 4\)"):
        ops.hetsyn_lif(train(T, B, M), **given, state=state, max_delay=4)


def test_a_past_beyond_memory_is_refused_with_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1000)
    ops.hetsyn_lif(train(T, B, M), **layer(delay=1.0), max_delay=100)  # so small that nobody asks
    monkeypatch.setattr(memory, "LARGE", 10)
    message = r"max_delay: expected so few steps that a state fits memory, got 100, which needs .* \(9600 bytes\)"
    with pytest.raises(ValueError, match=message):
        ops.hetsyn_lif(train(T, B, M), **layer(delay=1.0), max_delay=100)
    monkeypatch.setattr(memory, "available", lambda: 9600)
    ops.hetsyn_lif(train(T, B, M), **layer(delay=1.0), max_delay=100)  # it just fits


def test_delays_that_nobody_has_looked_at_stay_inside_of_memory() -> None:
    """Where values cannot be checked (a compiled graph): what is read is of the past, and NaN comes out as NaN."""
    lanes = delayed_layout.DelayedLanes((T, B, 4), 4, np.dtype(np.float64), past=3)
    wild = torch.tensor([[-7.0, 1e30, float("nan"), float("inf")], [0.0, 1.5, 3.0, 2.0]], dtype=torch.float64)
    (k, f, h), whole = lanes._pieces(wild, 4, 4)
    assert not whole and k.min() >= 0 and k.max() <= 2 and np.isnan(f[0, 2]) and np.isnan(h[0, 2])
    assert f[1].tolist() == [0.0, 0.5, 1.0, 0.0] and k[1].tolist() == [0, 1, 2, 2]


def test_params_know_how_many_steps_they_need() -> None:
    weight = np.ones((N, M))
    params = HetSynParams(weight, 0.5, reset_decay=0.5, delay=np.full((N, M), 3), recurrent_weight=np.ones((N, N)),
                          recurrent_decay=0.5, recurrent_delay=4.25)  # fmt: skip
    assert params.max_delay == 5 and params.delay.dtype == np.float64 and params.has_delays()
    assert params.replace(delay=None, recurrent_delay=None).max_delay == 0
    longer = params.replace(max_delay=9)
    assert longer.replace(recurrent_delay=None).max_delay == 9, "as it was, where there are delays still"
    assert longer.replace(delay=None, recurrent_delay=None).replace(delay=2.0).max_delay == 2
    assert not HetSynParams(weight, 0.5, reset_decay=0.5).has_delays()
    with pytest.raises(ValueError, match=r"recurrent_delay: expected delays of at most max_delay = 4 steps, got 4\.25"):
        params.replace(max_delay=4)
    assert not HetSynParams(weight, 0.5, reset_decay=0.5, delay=1.0).is_lif()


# ---- layers -------------------------------------------------------------------------------------------------------


def snntorch_layer(**options: Any) -> Any:
    adapter = pytest.importorskip("hetsyn_plugins.adapters.snntorch")
    return adapter.RHetSynLeaky(M, N, 0.9, 0.8, weight=torch.randn(N, M), **options)


def test_uniform_delays_are_drawn_between_their_ends() -> None:
    net = snntorch_layer(delay=UniformDelay(2.0, 5.0), max_delay=9)
    assert 2 <= net.delay.min() < net.delay.max() <= 5 and net.max_delay == 9
    with pytest.raises(ValueError, match="low, high: expected 0 <= low <= high in steps, got 3, 1"):
        UniformDelay(3, 1)


def test_delays_are_trained_bounded_and_rounded() -> None:
    torch.manual_seed(0)
    net = snntorch_layer(delay=UniformDelay(0, 5), rec_delay=2.5, max_delay=6)
    assert {"delay", "rec_delay"} < dict(net.named_parameters()).keys()
    optimiser = torch.optim.SGD([net.delay, net.rec_delay], lr=1.0)
    before = copy.deepcopy(net.state_dict())
    spk, *_ = net(train(T, B, M).float())
    spk.sum().backward()
    optimiser.step()
    assert (net.delay != before["delay"]).any() and (net.rec_delay != before["rec_delay"]).any()
    with torch.no_grad():
        net.delay += 100
        net.rec_delay -= 100
    assert (net.tensor("delay") == 6).all() and (net.tensor("recurrent_delay") == 0).all()
    net.clamp_()
    assert (net.delay == 6).all() and (net.rec_delay == 0).all()
    with torch.no_grad():
        net.delay.copy_(torch.linspace(0.4, 5.6, N * M).reshape(N, M))
    round_delays_(torch.nn.Sequential(net))
    assert torch.equal(net.delay, torch.linspace(0.4, 5.6, N * M).reshape(N, M).round())
    with pytest.raises(ValueError, match="net: expected a torch module, got int"):
        round_delays_(3)  # type: ignore[arg-type]


def test_fixed_delays_are_buffers_and_shares_are_theirs_too() -> None:
    fixed = snntorch_layer(delay=3, learn_delay=False)
    assert "delay" not in dict(fixed.named_parameters()) and fixed.delay.shape == (N, M) and fixed.max_delay == 3
    a_neuron = snntorch_layer(delay=2.0, rec_delay=1.0, share="neuron")
    assert a_neuron.delay.shape == (N,) and a_neuron.rec_delay.shape == (N,)
    spk, *_ = a_neuron(train(T, B, M).float())
    spk.sum().backward()
    assert a_neuron.delay.grad.shape == (N,)


def test_delays_stay_precise_beside_half_types() -> None:
    net = snntorch_layer(delay=2.25, max_delay=4).bfloat16()
    assert net.delay.dtype == torch.float32 and net.weight.dtype == torch.bfloat16


def test_a_longest_delay_needs_delays() -> None:
    with pytest.raises(ValueError, match="max_delay: expected None where there are no delays, got 4"):
        snntorch_layer(max_delay=4)


def test_a_loop_of_steps_is_one_loop_and_keeps_no_currents() -> None:
    net, x = snntorch_layer(delay=UniformDelay(0, 5), rec_delay=2.5), train(T, B, M).float().requires_grad_()
    state: tuple[Any, ...] = ()
    outs = []
    for x_t in x:
        state = net(x_t, *state)
        outs.append(state[0])
    mark = steps.mark_of(state[1])
    assert mark is not None and mark.step == T - 1
    torch.stack(outs).sum().backward()
    stepwise = [p.grad.clone() for p in net.parameters()], x.grad
    net.zero_grad()
    x.grad = None
    net(x)[0].sum().backward()
    for got, parameter in zip(stepwise[0], net.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stepwise[1], x.grad, rtol=1e-4, atol=1e-5)


def test_compiled_sequences_are_those_of_eager_calls_and_steps_are_refused_by_name() -> None:
    net, x = snntorch_layer(delay=UniformDelay(0, 5), rec_delay=2.5, learn_delay=True), train(T, B, M).float()
    want = net(x)
    (want[0].sum() + want[-1].sum()).backward()
    grads = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=operators.AVAILABLE)
    got = compiled(x)
    (got[0].sum() + got[-1].sum()).backward()
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for parameter, grad in zip(net.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-5, atol=1e-6)
    states = [s.detach() for s in (want[0][-1], *want[1:-1], want[-1][-1])]
    for one, other in zip(compiled(x, *states), net(x, *states), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    says = "single steps of a compiled graph" if operators.AVAILABLE else "cannot be traced yet"
    with pytest.raises(Exception, match=says):
        torch.compile(net, backend="eager", fullgraph=True)(x[0])
