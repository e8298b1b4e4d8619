"""Layouts and padding of sequences, both adapters: batch first, and rows of different lengths.

The judge of a padded batch is each of its rows, run alone for its own length.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("snntorch")
pytest.importorskip("norse")

from planting import caught, planted

from hetsyn_plugins import checkpoint, convert
from hetsyn_plugins.adapters import norse as norse_adapter
from hetsyn_plugins.adapters.norse import HetSynLIF, HetSynLIFParameters
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.ops.lengths import at_end, past_end

pytestmark = pytest.mark.card

T, B, M, N = 14, 6, 5, 4
LENGTHS = (9, 3, 14, 3, 1, 14)  # unsorted, some twice, the whole and a single step


class Case(NamedTuple):
    """A kind of layer, and how one is built with further options."""

    name: str
    build: Callable[..., Any]


def snn_layer(cls: Any, **fixed: Any) -> Callable[..., Any]:
    def build(**options: Any) -> Any:
        if cls is RHetSynLeaky:
            options["rec_weight"] = weights(N)
        return cls(M, N, weight=weights(M), threshold=0.4, learn_beta=True, dtype=torch.float64, **fixed, **options)

    return build


def norse_layer(cls: Any, delays: Any = None, **fixed: Any) -> Callable[..., Any]:
    def build(**options: Any) -> Any:
        if cls.recurrent:
            options["recurrent_weights"] = weights(N)
        adapt = {"tau_adapt_inv": 60.0, "adapt_strength": 0.2} if cls.spiking else {}
        p = HetSynLIFParameters(
            v_th=0.4, bias=[0.05] * N, learn_reset=True, dtype=torch.float64, **adapt, **(delays or {})
        )
        return cls(M, N, p, input_weights=weights(M), dtype=torch.float64, **fixed, **options)

    return build


def weights(lines: int) -> Tensor:
    return torch.randn(N, lines, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 2 + 0.1


def all_cases() -> Iterator[Case]:
    for cls in (HetSynLeaky, RHetSynLeaky):
        yield Case(cls.__name__, snn_layer(cls))
        yield Case(f"{cls.__name__}-hidden", snn_layer(cls, init_hidden=True, output=True))
        yield Case(f"{cls.__name__}-adapting", snn_layer(cls, adaptation_decay=0.9, adaptation_strength=0.2, bias=True))
        yield Case(f"{cls.__name__}-delays", snn_layer(cls, delay=1.5, max_delay=4))
        yield Case(f"{cls.__name__}-inhibited", snn_layer(cls, inhibition=True, graded_spikes_factor=2.0))
    yield Case("HetSynLeaky-readout", snn_layer(HetSynLeaky, spiking=False))
    for name in ("HetSynLIF", "HetSynLIFRecurrent", "HetSynLI"):
        cls = getattr(norse_adapter, name)
        yield Case(name, norse_layer(cls))
        yield Case(f"{name}-delays", norse_layer(cls, {"delay": 1.5, "max_delay": 4}))
        yield Case(f"{name}-recording", norse_layer(cls, record_states=True, record_current=True))


CASES = list(all_cases())
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
kinds = pytest.mark.parametrize("build", [snn_layer(HetSynLeaky), norse_layer(HetSynLIF)], ids=["snntorch", "norse"])


def trains(batch: int = B) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return (torch.rand(T, batch, M, generator=rng) < 0.5).double()


def call(layer: Any, x: Tensor, state: Any = None, **options: Any) -> list[Tensor]:
    """Everything that a call returns, one tensor after another: the output of every step, then states."""
    if isinstance(layer, HetSynLeaky):
        if layer.init_hidden:
            layer.reset_mem()
        return list(layer(x, *(state or ()), **options))
    out, states = layer(x, state, **options)
    return [out, *states]


def over_time(layer: Any, index: int, parts: list[Tensor]) -> bool:
    """Does this part have a value for every step?"""
    if isinstance(layer, HetSynLeaky):
        return index in (0, len(parts) - 1)
    return index == 0 or (layer.record_states and not is_past(layer, index))


def first_state(layer: Any, rng: torch.Generator) -> Any:
    """Some state of the whole batch, as the layer would return it."""
    parts = call(layer, trains()[torch.randperm(T, generator=rng)])
    if isinstance(layer, HetSynLeaky):
        states = [p[-1] if over_time(layer, i, parts) else p for i, p in enumerate(parts)]
        return [s.detach() for s in (states if layer.recurrent else states[1:])]
    states = [p[-1] if layer.record_states else p for p in parts[1:]]
    return layer.state_class(*(s.detach() for s in states))


def is_past(layer: Any, index: int) -> bool:
    """Is this part of what a call returns what the state keeps of earlier steps, (D, B, ...)?"""
    states = [s for s in layer._states if s != "spk"] if isinstance(layer, HetSynLeaky) else layer.state_class._fields
    return index > 0 and states[index - 1].startswith("past")


def rows_of(layer: Any, state: Any, row: int) -> Any:
    first = 0 if isinstance(state, list) and layer.recurrent else 1  # spk is a state too
    pasts = [is_past(layer, index + first) for index in range(len(state))]
    parts = [part.narrow(int(past), row, 1) for part, past in zip(state, pasts, strict=True)]
    return parts if isinstance(state, list) else state._make(parts)


def gradients(layer: Any, loss: Tensor, x: Tensor) -> list[Tensor]:
    tensors = [x, *(p for p in layer.parameters() if p.requires_grad)]
    grads = torch.autograd.grad(loss, tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, tensors, strict=True)]


def valid(layer: Any, parts: list[Tensor], row: int, steps: int) -> list[Tensor]:
    """What a row has: so many steps of what has a value for every step, and its states."""
    columns = [p[:, row] if is_past(layer, i) else p[row] for i, p in enumerate(parts)]
    return [p[:steps, row] if over_time(layer, i, parts) else columns[i] for i, p in enumerate(parts)]


def loss_of(parts: list[Tensor]) -> Tensor:
    """A number that every value in these counts in, each with another weight."""
    waves = [torch.cos(torch.arange(p.numel()).double() + index).reshape(p.shape) for index, p in enumerate(parts)]
    return torch.stack([(p * w).sum() for p, w in zip(parts, waves, strict=True)]).sum()


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def check_rows_are_as_alone(case: Case, with_state: bool) -> None:
    layer = case.build()
    x = trains()
    for row, steps in enumerate(LENGTHS):
        x[steps:, row] = torch.nan if row % 2 else 1e9
    x.requires_grad_()
    state = first_state(layer, torch.Generator().manual_seed(3)) if with_state else None
    parts = call(layer, x, state, lengths=torch.tensor(LENGTHS))
    together, alone = [valid(layer, parts, row, steps) for row, steps in enumerate(LENGTHS)], []
    for row, steps in enumerate(LENGTHS):
        own = call(layer, x[:steps, row : row + 1], None if state is None else rows_of(layer, state, row))
        alone.append(valid(layer, own, 0, steps))
        assert torch.equal(together[row][0] > 0, alone[row][0] > 0), f"row {row}: spikes differ"
        assert all(map(close, together[row], alone[row])), f"row {row}: a state differs"
    loss, expected = (torch.stack([loss_of(parts) for parts in rows]).sum() for rows in (together, alone))
    for of_batch, of_rows in zip(gradients(layer, loss, x), gradients(layer, expected, x), strict=True):
        assert close(of_batch, of_rows), "a gradient differs"


# ---- rows of different lengths


@cases
@pytest.mark.parametrize("with_state", [False, True], ids=["from-zeros", "from-a-state"])
@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
def test_a_padded_row_is_what_it_is_alone(case: Case, with_state: bool) -> None:
    if with_state and case.name.endswith("hidden"):
        pytest.skip("a layer that keeps its states is given none")
    check_rows_are_as_alone(case, with_state)


@cases
@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
def test_behind_its_end_a_row_is_silent_stands_still_and_has_no_gradient(case: Case) -> None:
    layer, x = case.build(), trains().requires_grad_()
    parts = call(layer, x, lengths=LENGTHS)
    if layer.spiking:
        assert parts[0].any()
    for row, steps in enumerate(LENGTHS):
        for index, part in enumerate(parts):
            if over_time(layer, index, parts):
                is_spikes = index == 0 and layer.spiking
                last = torch.zeros_like(part[0, row]) if is_spikes else part[steps - 1, row]
                assert torch.equal(part[steps:, row], last.expand_as(part[steps:, row]))
    (grad,) = torch.autograd.grad(loss_of(parts), x)
    for row, steps in enumerate(LENGTHS):
        assert grad[:steps, row].any()
        assert not grad[steps:, row].any()


@pytest.mark.parametrize("cls", [HetSynLeaky, RHetSynLeaky])
def test_hidden_states_are_those_after_each_rows_last_valid_step(cls: Any) -> None:
    layer, x, more = snn_layer(cls, init_hidden=True)(), trains(), trains()[:, :1]
    layer(x, lengths=LENGTHS)
    goes_on = layer(more.expand(T, B, M))
    for row, steps in enumerate(LENGTHS):
        layer.reset_mem()
        layer(x[:steps, row : row + 1])
        assert torch.equal(goes_on[:, row], layer(more)[:, 0])


@pytest.mark.parametrize("cls", [HetSynLeaky, RHetSynLeaky])
def test_given_states_go_on_from_each_rows_last_valid_step(cls: Any) -> None:
    layer, x, at = snn_layer(cls)(), trains(), (torch.tensor(LENGTHS) - 1, torch.arange(B))
    spk, *states, mem = layer(x, lengths=LENGTHS)
    states = [spk[at], *states] if layer.recurrent else states
    goes_on, *_ = layer(x, *states, mem[-1])
    for row, steps in enumerate(LENGTHS):
        both = torch.cat([x[:steps, row : row + 1], x[:, row : row + 1]])
        assert torch.equal(goes_on[:, row], layer(both)[0][steps:, 0])


def test_norse_goes_on_from_the_state() -> None:
    layer, x = norse_layer(HetSynLIF)(), trains()
    _, state = layer(x, lengths=LENGTHS)
    goes_on, _ = layer(x, state)
    for row, steps in enumerate(LENGTHS):
        both = torch.cat([x[:steps, row : row + 1], x[:, row : row + 1]])
        assert torch.equal(goes_on[:, row], layer(both)[0][steps:, 0])


@kinds
def test_lengths_may_be_any_integers_and_all_whole_ones_change_nothing(build: Any) -> None:
    layer, x = build(), trains()
    expected = call(layer, x, lengths=list(LENGTHS))
    for lengths in (np.array(LENGTHS), torch.tensor(LENGTHS, dtype=torch.int32), torch.tensor(LENGTHS).byte()):
        assert all(map(torch.equal, call(layer, x, lengths=lengths), expected))
    assert all(map(torch.equal, call(layer, x, lengths=[T] * B), call(layer, x)))
    assert call(layer, x[:, :0], lengths=torch.tensor([], dtype=torch.long))[0].shape == (T, 0, N)


@kinds
@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ([1.0] * B, "lengths: expected integers, got torch.float32"),
        ([True] * B, "lengths: expected integers, got torch.bool"),
        ("all", "lengths: expected integers (B,), got str 'all'"),
        (3, "lengths: expected shape (6,), one a row, got ()"),
        ([3] * (B + 1), "lengths: expected shape (6,), one a row, got (7,)"),
        ([3] * T, "lengths: expected shape (6,), one a row, got (14,); 14 is T: time and batch look swapped"),
        ([3] * (B - 1) + [0], "lengths: expected 1 to T = 14, got 0 to 3"),
        ([3] * (B - 1) + [T + 1], "lengths: expected 1 to T = 14, got 3 to 15"),
    ],
    ids=str,
)
def test_lengths_that_do_not_fit_are_refused(build: Any, lengths: Any, says: str) -> None:
    with caught(says, ValueError):
        call(build(), trains(), lengths=lengths)


@kinds
@pytest.mark.cpu_only
def test_what_is_valid_must_still_be_finite(build: Any) -> None:
    x = trains()
    x[2, 1, 0] = torch.nan
    with caught("expected finite values, got 1 NaN or infinite", ValueError):
        call(build(), x, lengths=LENGTHS)


def test_a_step_has_no_lengths() -> None:
    with caught("lengths: expected with a sequence only, got them with one step", ValueError):
        snn_layer(HetSynLeaky)()(trains()[0], lengths=LENGTHS)


@kinds
def test_a_state_of_another_batch_is_refused_with_lengths_too(build: Any) -> None:
    for options in ({}, {"record_states": True, "record_current": True}):
        if not (options and isinstance(build(), HetSynLeaky)):
            layer = build(**options)
            state = first_state(layer, torch.Generator().manual_seed(3))
            state = [torch.cat([s, s]) for s in state]
            state = state if isinstance(layer, HetSynLeaky) else layer.state_class(*state)
            with caught("expected shape (6, 4, 5), got (12, 4, 5)", ValueError):
                call(layer, trains(), state, lengths=LENGTHS)


# ---- batch first


@cases
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "padded"])
@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
def test_batch_first_swaps_what_goes_in_and_out_and_nothing_else(case: Case, lengths: Any) -> None:
    time_first, batch_first, x = case.build(), case.build(batch_first=True), trains().requires_grad_()
    expected = call(time_first, x, lengths=lengths)
    parts = call(batch_first, x.transpose(0, 1), lengths=lengths)
    for index, (part, want) in enumerate(zip(parts, expected, strict=True)):
        assert torch.equal(part.transpose(0, 1) if over_time(time_first, index, expected) else part, want)
    back = [p.transpose(0, 1) if over_time(time_first, i, expected) else p for i, p in enumerate(parts)]
    grads = zip(gradients(batch_first, loss_of(back), x), gradients(time_first, loss_of(expected), x), strict=True)
    assert all(torch.equal(a, b) for a, b in grads)


@pytest.mark.parametrize("cls", [HetSynLeaky, RHetSynLeaky])
def test_one_step_is_not_touched_by_batch_first(cls: Any) -> None:
    x = trains()[0]
    assert all(map(torch.equal, call(snn_layer(cls)(batch_first=True), x), call(snn_layer(cls)(), x)))


def test_a_batch_first_stack_is_the_time_first_one() -> None:
    def stack(**options: Any) -> nn.Sequential:
        torch.manual_seed(0)
        hidden = HetSynLeaky(M, 8, threshold=0.4, init_hidden=True, **options)
        return nn.Sequential(hidden, nn.Linear(8, 8), HetSynLeaky(8, N, spiking=False, init_hidden=True, **options))

    x = trains().float()
    assert torch.equal(stack(batch_first=True)(x.transpose(0, 1)).transpose(0, 1), stack()(x))


@kinds
@pytest.mark.parametrize(("options", "shape"), [({}, "(T, B, 5)"), ({"batch_first": True}, "(B, T, 5)")], ids=str)
def test_a_message_names_the_shape_in_the_users_layout(build: Any, options: Any, shape: str) -> None:
    with caught(f"{shape}", ValueError):
        call(build(**options), trains()[:, :, :2])


@kinds
@pytest.mark.parametrize(
    ("lines", "options", "shape", "says"),
    [
        (6, {}, (3, 6, 25), "; this looks like (B, 6, T): x.permute(2, 0, 1)"),
        (6, {"batch_first": True}, (3, 6, 25), "; this looks like (B, 6, T): x.transpose(1, 2)"),
        (12, {}, (25, 4, 1, 3, 4), "; x.flatten(2) is (T, B, 12)"),
        (12, {}, (25, 4, 1, 12), "; x.flatten(2) is (T, B, 12)"),
        (12, {"batch_first": True}, (4, 25, 3, 4), "; x.flatten(2) is (B, T, 12)"),
        (1, {}, (25, 4), "; if these are (T, B), of one line: x.unsqueeze(-1)"),
        (6, {}, (25, 3, 7), "got (25, 3, 7)"),
    ],
    ids=str,
)
def test_a_shape_of_another_library_is_told_its_way_out(
    build: Any, lines: int, options: Any, shape: Any, says: str
) -> None:
    cls = HetSynLeaky if isinstance(build(), HetSynLeaky) else HetSynLIF
    with pytest.raises(ValueError, match=re.escape(says) + "$"):
        cls(lines, N, **options)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("cls", "shape", "says"),
    [
        (HetSynLeaky, (4, 1, 3, 4), "; x.flatten(1) is (B, 12)"),
        (HetSynLeaky, (4, 3, 4), "; x.flatten(1) is (B, 12)"),
        (norse_adapter.HetSynLIFCell, (4, 1, 3, 4), "; x.flatten(1) is (B, 12)"),
        (norse_adapter.HetSynLIFCell, (25, 4, 12), "; a step is x[t]: loop over them, or take a layer for sequences"),
        (norse_adapter.HetSynLIFCell, (12,), "; one row: x.unsqueeze(0)"),
        (HetSynLeaky, (12,), "; one row: x.unsqueeze(0)"),
        (HetSynLIF, (4, 12), "; one step of a sequence: x.unsqueeze(0)"),
    ],
    ids=str,
)
def test_a_step_and_a_sequence_are_told_apart(cls: Any, shape: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says) + "$"):
        cls(12, N)(torch.zeros(shape))


@kinds
def test_zeros_for_a_batch_first_input_are_of_its_batch(build: Any) -> None:
    layer = build(batch_first=True)
    if not isinstance(layer, HetSynLeaky):
        assert layer.initial_state(trains().transpose(0, 1)).v.shape == (B, N)


@kinds
@pytest.mark.cpu_only
def test_a_layer_stays_batch_first_wherever_it_goes(build: Any, tmp_path: Path) -> None:
    layer = build(batch_first=True)
    x = trains().transpose(0, 1)
    expected = call(layer, x)[0]
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    copies.append(type(layer).from_params(layer.to_params(), batch_first=True))
    for copied in copies:
        assert "batch_first=True" in repr(copied)
        assert torch.equal(call(copied, x)[0], expected)
    assert "batch_first" not in repr(build())
    checkpoint.save(layer, tmp_path / "net.safetensors")
    for to in ("snntorch", "norse"):
        for net in (convert(layer, to=to, dt=1e-3), checkpoint.load(tmp_path / "net.safetensors", to=to, dt=1e-3)):
            out = net(x)
            assert torch.equal(out[0] if isinstance(out, tuple) else out, expected)
            assert "batch_first" not in repr(convert(build(), to=to, dt=1e-3))


@pytest.mark.cpu_only
def test_a_layer_from_before_there_was_batch_first_is_time_first() -> None:
    layer = snn_layer(HetSynLeaky)()
    del layer.__dict__["batch_first"]
    assert call(pickle.loads(pickle.dumps(layer)), trains())[0].shape == (T, B, N)


# ---- bugs that these tests must see

BUGS = [
    ("x[:steps].index_select(1, rows)", "x.index_select(1, rows)", "expected finite values", ValueError),
    ("steps = int(lengths[rows[0]])", "steps = int(lengths.max())", "expected finite values", ValueError),
    ("torch.cat(groups).argsort()", "torch.cat(groups)", "row 0: spikes differ", AssertionError),
    (
        "part.index_select(axis, rows) if any",
        "part.narrow(axis, 0, len(rows)) if any",
        "row 1: spikes differ",
        AssertionError,
    ),
]


@pytest.mark.parametrize(("old", "new", "says", "error"), BUGS, ids=[old for old, *_ in BUGS])
@pytest.mark.cpu_only
def test_planted_bugs_are_caught(old: str, new: str, says: str, error: Any) -> None:
    lengths, layer = "hetsyn_plugins.ops.lengths", "hetsyn_plugins.ops.layer"
    with planted(lengths, old, new) as changed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{layer}.run_rows", changed.run_rows)
        with caught(says, error):
            check_rows_are_as_alone(Case("HetSynLIF", norse_layer(HetSynLIF)), True)


def test_where_a_row_ends() -> None:
    column, rows = torch.arange(8.0).reshape(4, 2), torch.tensor([2, 4])
    assert past_end(column, rows)[..., 0].tolist() == [[False] * 2, [False] * 2, [True, False], [True, False]]
    assert at_end(column, rows).tolist() == [2, 7] and at_end(column, None).tolist() == [6, 7]
