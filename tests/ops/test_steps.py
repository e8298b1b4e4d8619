"""A loop of single steps: values, gradients and memory of the sequence, whatever happens between two steps.

The judge of gradients is torch's autograd through the native step (`kernels/eager.py`), which keeps every current.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.ops import hetsyn_lif, hetsyn_lif_step, loop_costs, steps

pytestmark = pytest.mark.card

T, B, M, N = 6, 3, 5, 4
Step = Callable[[Tensor, HetSynState | None], HetSynState]


def native_step(x: Tensor, layer: Any, state: HetSynState, way: Any, *_: Any) -> HetSynState:
    return eager.step(x, state, layer, way.surrogate, way.detach_reset)


def drawn_fields(recurrent: bool, adaptive: bool, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        values = low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64)
        return values.requires_grad_()

    fields: dict[str, Any] = {
        "weight": draw(N, M, high=0.8),
        "decay": draw(N, M),
        "reset_decay": draw(N),
        "threshold": draw(N, low=0.5),
        "bias": draw(N, high=0.2),
    }
    if recurrent:
        fields |= {"recurrent_weight": draw(N, N, low=-0.5, high=0.5), "recurrent_decay": draw(N, N)}
    if adaptive:
        fields |= {"adaptation_strength": draw(N, high=0.3), "adaptation_decay": draw(N)}
    return fields


def drawn_inputs(needs_grad: bool) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return (torch.rand((T, B, M), generator=g) < 0.5).double().requires_grad_(needs_grad)


def scaled(state: HetSynState, **factors: float) -> HetSynState:
    return state._replace(**{name: getattr(state, name) * factor for name, factor in factors.items()})


def detached(state: HetSynState) -> HetSynState:
    return HetSynState(*(None if part is None else part.detach() for part in state))


# ---- what may happen in a loop: each a function of (step, inputs) -> the losses to be added ----


def plain(step: Step, x: Tensor) -> Tensor:
    state, loss = None, torch.zeros((), dtype=torch.float64)
    for t, x_t in enumerate(x.unbind(0)):
        state = step(x_t, state)
        loss = loss + (t + 1) * (state.spikes.sum() + 0.3 * state.v.square().sum())
    return loss


def last_only(step: Step, x: Tensor) -> Tensor:
    state = None
    for x_t in x.unbind(0):
        state = step(x_t, state)
    assert state is not None
    return state.v.square().sum()


def early_only(step: Step, x: Tensor) -> Tensor:
    states: list[Any] = [None]
    for x_t in x.unbind(0):
        states.append(step(x_t, states[-1]))
    return states[4].v.square().sum()


def states_read(step: Step, x: Tensor) -> Tensor:
    state, loss = None, torch.zeros((), dtype=torch.float64)
    for t, x_t in enumerate(x.unbind(0)):
        state = step(x_t, state)
        loss = loss + state.spikes.sum()
        if t in (1, 3, T - 1):
            loss = loss + sum((part.square().sum() for part in state if part is not None), loss.new_zeros(()))
    return loss


def states_replaced(step: Step, x: Tensor) -> Tensor:
    state, loss = None, torch.zeros((), dtype=torch.float64)
    for t, x_t in enumerate(x.unbind(0)):
        state = step(x_t, state)
        loss = loss + state.v.square().sum()
        if t == 1:
            state = scaled(state, current=0.5)
        if t == 2:
            state = scaled(state, reset=0.5)
        if t == 3:
            state = state._replace(current=state.current.detach())
    return loss


def written_to_in_place(step: Step, x: Tensor) -> Tensor:
    state, loss = None, torch.zeros((), dtype=torch.float64)
    for t, x_t in enumerate(x.unbind(0)):
        state = step(x_t, state)
        loss = loss + state.v.square().sum()
        if t == 2:
            state.current[:, 0] *= 0.5
        if t == 3:
            state.reset.mul_(0.5)
    return loss


def truncated(step: Step, x: Tensor) -> Tensor:
    state, loss = None, torch.zeros((), dtype=torch.float64)
    for t, x_t in enumerate(x.unbind(0)):
        state = step(x_t, state)
        loss = loss + state.v.square().sum()
        if t % 2:
            state = detached(state)
    return loss


def branched(step: Step, x: Tensor) -> Tensor:
    trunk = step(x[1], step(x[0], None))
    left, right = step(x[2], trunk), step(x[3], trunk)
    return step(x[4], left).v.square().sum() + 2 * step(x[4], right).v.square().sum() + step(x[5], left).v.sum()


def two_at_once(step: Step, x: Tensor) -> Tensor:
    a, b, loss = None, None, torch.zeros((), dtype=torch.float64)
    for x_t in x.unbind(0):
        a, b = step(x_t, a), step(2 * x_t, b)
        loss = loss + (a.v * b.v).sum()
    return loss


def without_gradients_between(step: Step, x: Tensor) -> Tensor:
    state, loss = None, torch.zeros((), dtype=torch.float64)
    for t, x_t in enumerate(x.unbind(0)):
        with torch.set_grad_enabled(t not in (2, 3)):
            state = step(x_t, state)
        loss = loss + state.v.square().sum()
    return loss


def fed_back(step: Step, x: Tensor) -> Tensor:
    state = step(x[0], None)
    for x_t in x[1:].unbind(0):
        state = step(x_t + 0.1 * state.v.mean(1, keepdim=True), state)
    return state.v.square().sum()


PROGRAMS = [
    plain,
    last_only,
    early_only,
    states_read,
    states_replaced,
    written_to_in_place,
    truncated,
    branched,
    two_at_once,
    without_gradients_between,
    fed_back,
]


def gradients(program: Any, fields: dict[str, Any], x: Tensor) -> list[Tensor | None]:
    leaves = [t for t in (*fields.values(), x) if t.requires_grad]

    def step(x_t: Tensor, state: HetSynState | None) -> HetSynState:
        return hetsyn_lif_step(x_t, **fields, state=state)

    return list(torch.autograd.grad(program(step, x), leaves, allow_unused=True))


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("needs_grad", [False, True], ids=["inputs fixed", "inputs with gradient"])
@pytest.mark.parametrize(("recurrent", "adaptive"), [(False, False), (True, True)], ids=["plain", "recurrent adaptive"])
def test_gradients_are_those_of_autograd(
    program: Any, needs_grad: bool, recurrent: bool, adaptive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, x = drawn_fields(recurrent, adaptive), drawn_inputs(needs_grad)
    result = gradients(program, fields, x)
    monkeypatch.setattr(steps, "step", native_step)
    expected = gradients(program, fields, x)
    assert sum(g is not None and bool(g.any()) for g in expected) >= len(expected) - 1
    for g, want in zip(result, expected, strict=True):
        if want is None:
            assert g is None or not g.any()
        else:
            # two orders of summation of at most T B N M terms: T B N M eps = 8e-14, of sums that do not cancel
            torch.testing.assert_close(g, want, rtol=1e-11, atol=1e-11 * float(want.abs().max()))


def loop(step: Step, x: Tensor) -> list[HetSynState]:
    states: list[Any] = [None]
    for x_t in x.unbind(0):
        states.append(step(x_t, states[-1]))
    return states[1:]


def step_of(fields: dict[str, Any]) -> Step:
    return lambda x, state: hetsyn_lif_step(x, **fields, state=state)


def test_a_loop_is_the_sequence() -> None:
    fields, x = drawn_fields(True, True), drawn_inputs(True)
    states = loop(step_of(fields), x)
    spikes, v, final = hetsyn_lif(x, **fields)
    assert torch.equal(torch.stack([s.spikes for s in states]), spikes)
    torch.testing.assert_close(torch.stack([s.v for s in states]), v, rtol=0, atol=1e-13)
    leaves = [*fields.values(), x]
    one = torch.autograd.grad((torch.stack([s.v for s in states]) ** 2).sum() + states[-1].current.sum(), leaves)
    other = torch.autograd.grad((v**2).sum() + final.current.sum(), leaves)
    for g, want in zip(one, other, strict=True):
        torch.testing.assert_close(g, want, rtol=1e-11, atol=1e-11 * float(want.abs().max()))


def test_losses_of_every_step_may_go_back_one_by_one() -> None:
    fields, x = drawn_fields(True, False), drawn_inputs(True)
    leaves = [*fields.values(), x]
    want = torch.autograd.grad(plain(step_of(fields), x), leaves)
    total = [torch.zeros_like(leaf) for leaf in leaves]
    for t, state in enumerate(loop(step_of(fields), x)):
        loss = (t + 1) * (state.spikes.sum() + 0.3 * state.v.square().sum())
        for sum_of, g in zip(total, torch.autograd.grad(loss, leaves, retain_graph=True), strict=True):
            sum_of += g
    for g, expected in zip(total, want, strict=True):
        torch.testing.assert_close(g, expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max()))


def test_gradients_of_some_inputs_alone_are_right_and_leave_nothing_to_the_next_pass() -> None:
    fields, x = drawn_fields(True, False), drawn_inputs(True)
    leaves = [*fields.values(), x]
    want = torch.autograd.grad(plain(step_of(fields), x), leaves)
    loss = plain(step_of(fields), x)
    (g_x,) = torch.autograd.grad(loss, [x], retain_graph=True)
    torch.testing.assert_close(g_x, want[-1], rtol=1e-11, atol=1e-11 * float(want[-1].abs().max()))
    for g, expected in zip(torch.autograd.grad(loss, leaves), want, strict=True):
        torch.testing.assert_close(g, expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max()))


def test_a_second_backward_and_a_second_derivative_are_refused() -> None:
    fields = drawn_fields(False, False)
    loss = plain(step_of(fields), drawn_inputs(False))
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()
    (g,) = torch.autograd.grad(plain(step_of(fields), drawn_inputs(False)), [fields["weight"]], create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        g.sum().backward()


@pytest.mark.parametrize("needs_grad", [False, True])
def test_a_parameter_written_to_before_backward_is_refused(needs_grad: bool) -> None:
    fields, x = drawn_fields(False, False), drawn_inputs(needs_grad)
    loss = plain(step_of(fields), x)
    with torch.no_grad():
        fields["weight"].mul_(0.9)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, [x] if needs_grad else [fields["weight"]])


def test_no_current_is_kept_for_the_backward_pass() -> None:
    fields, x = drawn_fields(True, False), drawn_inputs(True)
    state, alive, loss = None, [], torch.zeros((), dtype=torch.float64)
    for x_t in x.unbind(0):
        state = hetsyn_lif_step(x_t, **fields, state=state)
        alive += [weakref.ref(state.current), weakref.ref(state.recurrent_current)]
        loss = loss + state.v.sum()
    assert [ref() is not None for ref in alive] == [False] * (2 * T - 2) + [True] * 2
    del state
    loss.backward()
    assert not any(ref() is not None for ref in alive)


def test_a_loop_goes_when_its_states_and_losses_go(monkeypatch: pytest.MonkeyPatch) -> None:
    fields, x = drawn_fields(True, False), drawn_inputs(True)
    loops: list[weakref.ref[steps.Loop]] = []
    born = steps.Loop.__init__

    def counted(loop: steps.Loop, *arguments: Any) -> None:
        born(loop, *arguments)
        loops.append(weakref.ref(loop))

    monkeypatch.setattr(steps.Loop, "__init__", counted)
    gc.disable()
    try:
        for program in (fed_back, plain):
            loss = program(step_of(fields), x)
            torch.autograd.grad(loss, [x])  # Start is not reached: what the steps left must not hold the graph
            (loop_of_it,) = loops
            assert loop_of_it() is not None
            del loss
            assert loop_of_it() is None
            loops.clear()
    finally:
        gc.enable()


# ---- hooks, and gradients of states ----


@pytest.mark.parametrize("part", ["current", "recurrent_current", "reset", "spikes"])
def test_a_state_that_keeps_its_gradient_has_that_of_the_loop_too(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge: the gradient of a copy that alone is handed on to the next step."""
    fields, x = drawn_fields(True, False), drawn_inputs(False)

    def kept(copied: bool) -> list[Tensor]:
        state, seen = None, []
        for t, x_t in enumerate(x.unbind(0)):
            state = hetsyn_lif_step(x_t, **fields, state=state)
            if t == 2:
                handed_on = getattr(state, part)
                handed_on = handed_on.clone() if copied else handed_on
                state = state._replace(**{part: handed_on})
                handed_on.retain_grad()
                handed_on.register_hook(seen.append)
        (state.v.square().sum() + state.current.sum()).backward()
        return [*seen, handed_on.grad]

    result = kept(copied=False)
    monkeypatch.setattr(steps, "step", native_step)
    for g, want in zip(result, kept(copied=True), strict=True):
        torch.testing.assert_close(g, want, rtol=1e-11, atol=1e-11)


def test_hooks_of_outputs_run_where_these_get_a_gradient() -> None:
    fields, x = drawn_fields(True, False), drawn_inputs(False)
    states = loop(step_of(fields), x)
    seen: list[int] = []
    for t, state in enumerate(states):
        state.spikes.register_hook(lambda g, t=t: seen.append(t))
        state.v.register_hook(lambda g, t=t: seen.append(t))
    (states[-1].v.sum() + states[-1].spikes.sum() + states[1].v.sum()).backward()
    assert sorted(seen) == [1, T - 1, T - 1]


def test_two_threads_may_go_back_through_one_loop() -> None:
    fields, x = drawn_fields(True, False), drawn_inputs(True)
    leaves = [*fields.values(), x]
    loss = plain(step_of(fields), x)
    want = torch.autograd.grad(loss, leaves, retain_graph=True)
    together, results = threading.Barrier(2), {}

    def go_back(name: int) -> None:
        together.wait()
        for _ in range(20):
            results[name] = torch.autograd.grad(loss, leaves, retain_graph=True)

    threads = [threading.Thread(target=go_back, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in range(2):
        assert all(map(torch.equal, results[name], want))


# ---- what a loop costs ----


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_costs, "_told", False)


def test_a_slow_loop_names_the_sequence_once(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, x = drawn_fields(False, False), drawn_inputs(False)
    loop(step_of(fields), x)  # fast: a warning would be an error
    monkeypatch.setattr(loop_costs, "MAX_SECONDS", 0.0)
    with pytest.warns(UserWarning, match=r"5 -> 4 neurons and 3 rows, has taken .* one call .*\(T, B, M\)"):
        loop(step_of(fields), x)
    loop(step_of(fields), x)
    with torch.no_grad():
        monkeypatch.setattr(loop_costs, "_told", False)
        loop(step_of(fields), x)  # a stream: there is no sequence to give


def test_loops_that_keep_much_say_so_and_are_forgotten_with_their_graph(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, x = drawn_fields(False, False), drawn_inputs(False)
    gc.collect()
    before = loop_costs._kept
    loss = states_replaced(step_of(fields), x)  # three new loops from given currents
    assert loop_costs._kept == before + 3 * 8 * B * N * M
    del loss
    assert loop_costs._kept == before
    monkeypatch.setattr(loop_costs, "_kept", 7 << 29)
    with pytest.warns(UserWarning, match="holds 3.5 GiB of first currents for the backward pass"):
        loss = states_replaced(step_of(fields), x)
    assert torch.isfinite(loss)
    del loss
    assert loop_costs._kept == 7 << 29


def test_constants_of_a_loop_are_the_same_by_their_values() -> None:
    """What is trained is the same only where it is the very tensor."""
    layer = LayerTensors(torch.rand(N, M), torch.rand(N, M).requires_grad_(), threshold=torch.rand(N))
    assert steps._same(layer, layer._replace(weight=layer.weight.clone()))
    for other in (layer.weight + 1, layer.weight.double(), layer.weight.bfloat16(), layer.weight[:1]):
        assert not steps._same(layer, layer._replace(weight=other))
        assert not steps._same(layer._replace(weight=other), layer)
    assert not steps._same(layer, layer._replace(decay=layer.decay.detach().clone().requires_grad_()))
    assert not steps._same(layer, layer._replace(threshold=None))
