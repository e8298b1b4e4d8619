"""What holds of a layer whatever it has: drawn by hypothesis, on both CPU kernels, to the bit.

The numbers are dyadic: weights and thresholds multiples of 1/4, decays 0 or 1/2, delays multiples of 1/2, inputs 0 or
1, over at most 3 + 8 steps. So every v is a multiple of 2^-14 below 2^8, exact in float32 in any order of summation,
and many of them are the threshold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from planting import caught, planted
from torch import Tensor

from hetsyn_plugins import HetSynParams, HetSynState
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import ARRAYS, DELAYS, FIELDS, MASKS, SYNAPTIC
from hetsyn_plugins.core.surrogate import MultiGaussian
from hetsyn_plugins.kernels.cpu import sequence, shared_layout
from hetsyn_plugins.ops import lif as ops
from hetsyn_plugins.ops.arguments import ArgumentNames

pytestmark = pytest.mark.filterwarnings("ignore:.*have no synapse in it")  # masks are drawn as they come

BEFORE, STEPS = 3, 8  # the first state is that after so many steps, or zeros; and the most that follow


few = settings(max_examples=30)


class Call(NamedTuple):
    """What a layer is called with: tensors of one dtype, and which kernel."""

    x: Tensor
    fields: dict[str, Any]
    state: HetSynState | None
    backend: str

    def run(self, **changes: Any) -> tuple[Tensor, Tensor, HetSynState]:
        """Spikes, v and the last state, with some of x, state and the fields changed."""
        given = {**self.fields, "x": self.x, "state": self.state, **changes}
        return ops.hetsyn_lif(given.pop("x"), **given, backend=self.backend)


@st.composite
def calls(draw: Any, needs: str = "") -> Call:
    """A layer with or without each part that it may lack; `needs` names one that it has.

    How many of each and which parts is hypothesis', so that it makes them few; the values are of a seed.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m, batch = draw(st.integers(1, 19)), draw(st.integers(1, 9)), draw(st.integers(1, 5))
    recurrent = draw(st.booleans()) or needs.startswith("recurrent")
    optional = [name for name, field in FIELDS.items() if not field.required and field.beside is None]
    present = {name for name in optional if draw(st.booleans()) or name == needs}
    present |= {"adaptation_decay", "adaptation_strength"} if draw(st.booleans()) else set()
    present |= {"recurrent_weight", "recurrent_decay"} if recurrent else set()
    present -= set() if recurrent else {"recurrent_delay", "recurrent_mask"}
    values: dict[str, Any] = {"weight": rng.integers(-2, 5, (n, m)) / 4, "reset_decay": None}
    for name, field in FIELDS.items():
        if name != "weight" and (field.required or name in present):
            values[name] = dyadic(rng, name, draw(st.sampled_from(shapes(name, n, m))))
    params = HetSynParams(**values).astype(draw(st.sampled_from([np.float64, np.float32])))
    x = rng.integers(0, 2, (BEFORE + draw(st.integers(1, STEPS)), batch, m)).astype(params.weight.dtype)
    fields = {name: None if (a := getattr(params, name)) is None else torch.tensor(a) for name in ARRAYS}
    fields["max_delay"] = params.max_delay or None
    state = None
    if draw(st.booleans()):
        parts = reference.run(params, x[:BEFORE])[2]
        state = HetSynState(*(None if a is None else torch.tensor(a.astype(x.dtype)) for a in parts))
    return Call(torch.tensor(x[BEFORE:]), fields, state, draw(st.sampled_from(["eager", "cpu"])))


def shapes(name: str, n: int, m: int) -> list[tuple[int, ...]]:
    """Those that a field may have."""
    full = {"NM": (n, m), "NN": (n, n), "N": (n,)}[FIELDS[name].axes]
    if not FIELDS[name].shared:
        return [full]
    return [full, ()] if len(full) == 1 else [full, (n,), (n, 1), (1, full[1]), ()]


def dyadic(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
    if name in MASKS:
        return rng.random(shape) < 0.6
    if name in DELAYS:
        return rng.integers(0, 8, shape) / 2
    if name.endswith("decay"):
        return rng.choice([0.0, 0.5], shape)
    low, high = {"threshold": (2, 7), "adaptation_strength": (1, 3)}.get(name, (-2, 3))
    return rng.integers(low, high, shape) / 4


def same(one: Any, other: Any) -> None:
    """Spikes, v and states, to the bit."""
    assert torch.equal(one[0], other[0]), "spikes differ"
    assert torch.equal(one[1], other[1]), "v differs"
    for name, a, b in zip(HetSynState._fields, one[2], other[2], strict=True):
        assert (a is None and b is None) or torch.equal(a, b), f"state.{name} differs"


# ---- in pieces


CUTS = st.lists(st.integers(0, STEPS), max_size=4)


def in_chunks(call: Call, cuts: list[int]) -> Any:
    """Each piece, an empty one too, goes on from the state before it."""
    ends = sorted(min(cut, len(call.x)) for cut in cuts)
    state, parts = call.state, []
    for first, end in zip([0, *ends], [*ends, len(call.x)], strict=True):
        spikes, v, state = call.run(x=call.x[first:end], state=state)
        parts.append((spikes, v))
    spikes, v = map(torch.cat, zip(*parts, strict=True))
    return spikes, v, state


def in_steps(call: Call) -> Any:
    states = [call.state]
    for x in call.x:
        states.append(ops.hetsyn_lif_step(x, **call.fields, state=states[-1], backend=call.backend))
    return torch.stack([s.spikes for s in states[1:]]), torch.stack([s.v for s in states[1:]]), states[-1]


@few
@given(call=calls(), cuts=CUTS)
def test_a_sequence_is_its_chunks_and_a_loop_of_its_steps(call: Call, cuts: list[int]) -> None:
    whole = call.run()
    same(in_chunks(call, cuts), whole)
    same(in_steps(call), whole)


@few
@given(call=calls(), cuts=CUTS)
def test_gradients_go_through_the_states_between_chunks(call: Call, cuts: list[int]) -> None:
    """Relative to the largest, or 1, within 64 (T + M + N) eps: `conformance.comparison.tolerance` derives it."""
    found = []
    for run in (Call.run, lambda call: in_chunks(call, cuts)):
        made = {name: t for name, t in call.fields.items() if isinstance(t, Tensor) and t.is_floating_point()}
        leaves = {"x": call.x, **made}
        leaves = {name: t.clone().requires_grad_() for name, t in leaves.items()}
        spikes, v, state = run(call._replace(x=leaves.pop("x"), fields={**call.fields, **leaves}))
        weights = torch.linspace(0.5, 1.5, v.numel(), dtype=v.dtype).reshape(v.shape)
        loss = (v * weights).sum() + (spikes * weights.flip(0)).sum() + state.current.sum()
        found.append(torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True))
    allowed = 64 * (len(call.x) + sum(call.fields["weight"].shape)) * torch.finfo(call.x.dtype).eps
    for name, whole, chunked in zip(leaves, *found, strict=True):
        assert (whole - chunked).abs().max() <= allowed * max(1.0, whole.abs().max()), f"gradient of {name}"


# ---- as it is given


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t.contiguous(),
    "transposed": lambda t: t.permute(*range(t.ndim)[::-1]).contiguous().permute(*range(t.ndim)[::-1]),
    "sliced": lambda t: torch.stack([t, torch.ones_like(t)], -1)[..., 0],
    "of a larger one": lambda t: torch.cat([torch.ones_like(t), t])[len(t) :],
    "expanded": lambda t: t[:1].expand_as(t),
}


@few
@given(call=calls(), layouts=st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=1, max_size=7))
def test_strides_change_nothing(call: Call, layouts: list[str]) -> None:
    """Inputs, fields and parts of the state in turn get the layouts."""
    at = iter(layouts * 30)

    def laid(t: Any) -> Any:
        return LAYOUTS[next(at)](t) if isinstance(t, Tensor) and t.ndim and len(t) else t

    def all_of(call: Call, change: Callable[[Any], Any]) -> Call:
        state = None if call.state is None else HetSynState(*map(change, call.state))
        return Call(change(call.x), {k: change(t) for k, t in call.fields.items()}, state, call.backend)

    def contiguous(t: Any) -> Any:
        return t.contiguous() if isinstance(t, Tensor) else t

    strided = all_of(call, laid)
    same(strided.run(), all_of(strided, contiguous).run())


@few
@given(call=calls(), dtype=st.sampled_from([torch.bool, torch.uint8, None]))
def test_it_is_the_reference(call: Call, dtype: torch.dtype | None) -> None:
    """In float64 as in float32, of inputs in whole numbers too."""

    def numpy(t: Any) -> Any:
        return t.numpy() if isinstance(t, Tensor) else t

    params = HetSynParams(**{name: numpy(t) for name, t in call.fields.items()})
    state = None if call.state is None else HetSynState(*map(numpy, call.state))
    spikes, v, end = reference.run(params, call.x.numpy(), state)
    parts = HetSynState(*(None if a is None else torch.tensor(a).to(call.x.dtype) for a in end))
    want = torch.tensor(spikes).to(call.x.dtype), torch.tensor(v).to(call.x.dtype), parts
    same(call.run(x=call.x if dtype is None else call.x.to(dtype)), want)


# ---- said in two ways


@few
@given(call=calls())
def test_a_shared_value_is_the_same_one_everywhere(call: Call) -> None:
    """Of stride 0 and written out."""
    n, m = call.fields["weight"].shape
    for change in (lambda t: t, Tensor.contiguous):
        changes = {}
        for name in (*SYNAPTIC, *DELAYS, "reset_decay", "threshold", "adaptation_decay", "adaptation_strength"):
            if (t := call.fields[name]) is not None:
                t, full = t[:, None] if t.ndim == 1 and len(FIELDS[name].axes) == 2 else t, shapes(name, n, m)[0]
                changes[name] = change(t.expand(full))
        same(call.run(**changes), call.run())


@few
@given(call=calls())
def test_a_mask_of_ones_is_none(call: Call) -> None:
    """Where a first state has no currents of synapses that were absent."""
    ones = {name: torch.ones_like(t) for name, t in call.fields.items() if name in MASKS and t is not None}
    n, m = call.fields["weight"].shape
    ones |= {"mask": torch.ones(n, m, dtype=torch.bool)}
    same(call.run(**ones), call.run(**dict.fromkeys(MASKS)))


@few
@given(call=calls(needs="delay"))
def test_delays_of_no_steps_are_none(call: Call) -> None:
    fields = {name: t if t is None else torch.zeros_like(t) for name, t in call.fields.items() if name in DELAYS}
    state = None if call.state is None else call.state._replace(past_inputs=None, past_spikes=None)
    spikes, v, end = call.run(**fields)
    without = call.run(**dict.fromkeys(DELAYS), max_delay=None, state=state)
    same((spikes, v, end._replace(past_inputs=None, past_spikes=None)), without)


@few
@given(call=calls())
def test_who_shares_a_decay_changes_nothing(call: Call) -> None:
    """A codebook: layers without delays and masks take it from the events of their inputs, here whatever they cost."""
    names = ArgumentNames({})
    layer = ops.checked_layer({**call.fields, **dict.fromkeys((*DELAYS, *MASKS))}, True, None, names)
    zeros = ops.checked_state(None, layer, call.x.shape[1], names)
    state = zeros if call.state is None else call.state._replace(past_inputs=None, past_spikes=None)
    index = (2 * layer.decay).to(torch.int32)  # of decays of 0 and 1/2
    found = []
    for of in (layer._replace(decay_index=index), layer):
        leaves = {name: getattr(of, name).clone().requires_grad_() for name in ("weight", "decay")}
        x = call.x.clone().requires_grad_()
        with from_events():
            out = ops.run_sequence(x, of._replace(**leaves), state, ops.Way(MultiGaussian(), False, "cpu"))
            spikes, v, _ = out
            loss = (v * torch.linspace(0.5, 1.5, v.numel(), dtype=v.dtype).reshape(v.shape)).sum() + spikes.sum()
            found.append((out, torch.autograd.grad(loss, [x, *leaves.values()])))
    (known, of_known), (unknown, of_unknown) = found
    same(known, unknown)
    allowed = 64 * (len(call.x) + sum(layer.weight.shape)) * torch.finfo(call.x.dtype).eps
    for a, b in zip(of_known, of_unknown, strict=True):
        assert (a - b).abs().max() <= allowed * max(1.0, b.abs().max()), "gradients differ"


@contextmanager
def from_events() -> Iterator[None]:
    """Inside, layers with a codebook are computed from the events of their inputs, however many there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_layout, "SMALL", 0)
        for name in ("FORWARD", "BACKWARD"):
            patch.setattr(sequence, name, shared_layout.Limit(100.0, 0))
        yield


# ---- planted bugs


DELAYED, EAGER, LIF = "hetsyn_plugins.kernels.delays", "hetsyn_plugins.kernels.eager", "hetsyn_plugins.ops.lif"
BUGS = [
    (DELAYED, "len(inputs) :]", "len(inputs) - 1 : -1]", test_a_sequence_is_its_chunks_and_a_loop_of_its_steps),
    (DELAYED, "k, f = pieces(delay, most)", "k, f = pieces(delay + 0.5, most)", test_delays_of_no_steps_are_none),
    (EAGER, "v = v - reset\n", "v = v + reset\n", test_it_is_the_reference),
]


@pytest.mark.parametrize(("module", "old", "new", "trips"), BUGS)
def test_planted_bugs_are_caught(module: str, old: str, new: str, trips: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without making the example small."""
    values = {"call": calls("delay"), "cuts": CUTS, "dtype": st.none()}
    inner = trips.hypothesis.inner_test
    asked = {name: values[name] for name in inner.__annotations__ if name in values}
    once = settings(few, phases=[Phase.generate], report_multiple_bugs=False)
    with planted(module, old, new, around=[DELAYED, EAGER, LIF]), caught("differ"):
        monkeypatch.setattr(sys.modules[__name__], "ops", sys.modules[LIF])
        once(given(**asked)(inner))()
