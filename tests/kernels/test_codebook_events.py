"""Layers with a codebook on the CPU: from the events of their inputs, or as any layer; the reference is the judge."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from planting import caught, planted
from torch import Tensor

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.conformance import cases
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import ARRAYS, HetSynState
from hetsyn_plugins.core.surrogate import MultiGaussian
from hetsyn_plugins.kernels.interface import LayerTensors, NeedsGrad, OutputGradients

shared_layout: Any = pytest.importorskip("hetsyn_plugins.kernels.cpu.shared_layout")
from hetsyn_plugins.kernels.cpu import codebook, layout, sequence  # noqa: E402  after the skip
from hetsyn_plugins.kernels.cpu.layout import BatchLanes, NeuronLanes  # noqa: E402

LAYOUTS = [BatchLanes, NeuronLanes]
EVERYTHING = NeedsGrad(*(name not in ("delay", "recurrent_delay", "decay_index") for name in NeedsGrad._fields))
AROUND = [module.__name__ for module in (codebook, shared_layout, sequence)]


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events whatever they cost, unless a test says otherwise."""
    monkeypatch.setattr(shared_layout, "SMALL", 0)
    for name in ("FORWARD", "BACKWARD"):
        monkeypatch.setattr(sequence, name, shared_layout.Limit(100.0, 0))


@pytest.fixture(params=LAYOUTS, ids=lambda kind: kind.__name__)
def only(request: pytest.FixtureRequest) -> Iterator[Any]:
    token = layout.ONLY.set(request.param)
    yield request.param
    layout.ONLY.reset(token)


def drawn(n: int, m: int, k: int, kind: str) -> tuple[HetSynParams, NDArray[np.int32]]:
    """A layer of the checks with k decays, the first 0 and the last 1, and who has which."""
    rng = np.random.default_rng(n * m + k)
    decays = np.linspace(0.0, 1.0, k) if k > 1 else np.array([0.8])
    index = rng.integers(0, k, (n, m)).astype(np.int32)
    index[-1, -1] = k - 1
    return cases.KINDS[kind](rng, n, m).replace(decay=decays[index]), index


def as_tensors(params: HetSynParams, index: NDArray[np.int32], dtype: torch.dtype) -> LayerTensors:
    full = params.expanded()
    fields = {name: None if (a := getattr(full, name)) is None else torch.tensor(a, dtype=dtype) for name in ARRAYS}
    if not params.spiking:
        fields["threshold"] = None
    return LayerTensors(**fields, decay_index=torch.from_numpy(index))  # type: ignore[arg-type]  # it has a weight


def inputs(steps: int, batch: int, m: int, kind: str) -> NDArray[np.float64]:
    rng = np.random.default_rng(steps + batch + m)
    x = (rng.random((steps, batch, m)) < 0.15).astype(np.float64)
    if kind == "graded":
        x *= rng.normal(size=x.shape)
    if kind == "silent":
        x *= 0
    return x


def state_of(layer: LayerTensors, batch: int, seed: int = 0) -> HetSynState:
    """A drawn first state, or gradients of the last."""
    generator = torch.Generator().manual_seed(seed)
    n, m = layer.weight.shape
    has = {
        "current": (True, (batch, n, m)),
        "recurrent_current": (layer.recurrent_weight is not None, (batch, n, n)),
        "reset": (layer.reset_decay is not None, (batch, n)),
        "adaptation": (layer.adaptation_decay is not None, (batch, n)),
        "spikes": (layer.threshold is not None, (batch, n)),
        "v": (True, (batch, n)),
    }
    parts = {
        p: torch.rand(shape, generator=generator, dtype=torch.float64) for p, (there, shape) in has.items() if there
    }
    if "spikes" in parts:
        parts["spikes"] = (parts["spikes"] > 0.5).double()
    return HetSynState(**{part: t.to(layer.weight.dtype) for part, t in parts.items()})


def zeros_of(layer: LayerTensors, batch: int) -> HetSynState:
    return HetSynState(*(None if part is None else 0 * part for part in state_of(layer, batch)))


def numpy(state: HetSynState) -> HetSynState:
    return HetSynState(*(None if part is None else part.double().numpy() for part in state))


def check_against_the_reference(
    sizes: tuple[int, int, int, int],
    k: int,
    kind: str = "everything",
    of: str = "spikes",
    from_state: bool = False,
    run: Any = sequence,
) -> None:
    """Forward and backward in float64, every gradient that there is; v within rounding, spikes exactly."""
    steps, batch, n, m = sizes
    params, index = drawn(n, m, k, kind)
    layer, x = as_tensors(params, index, torch.float64), inputs(steps, batch, m, of)
    state = state_of(layer, batch) if from_state else zeros_of(layer, batch)
    v, final = run.forward(torch.from_numpy(x), layer, state)
    spikes, want, last = reference.run(params, x, numpy(state))
    np.testing.assert_allclose(v, want, rtol=0, atol=1e-11, err_msg="v")
    if spikes is not None:
        np.testing.assert_array_equal(v > layer.threshold, spikes, err_msg="spikes")
    for part in HetSynState._fields[:4]:
        if getattr(last, part) is not None:
            np.testing.assert_allclose(getattr(final, part), getattr(last, part), rtol=0, atol=1e-11, err_msg=part)
    generator = torch.Generator().manual_seed(1)
    g_v, g_z = (torch.randn(steps, batch, n, generator=generator, dtype=torch.float64) for _ in range(2))
    lam = state_of(layer, batch, 2)._replace(spikes=None, v=None) if from_state else HetSynState(None)
    given = OutputGradients(g_z if params.spiking else None, g_v, lam)
    got = run.backward(torch.from_numpy(x), layer, state, v, given, MultiGaussian(), False, EVERYTHING)
    expected = reference.gradients(
        params,
        x,
        numpy(state),
        grad_spikes=g_z.numpy() if params.spiking else None,
        grad_v=g_v.numpy(),
        grad_state=numpy(lam) if from_state else None,
        surrogate=MultiGaussian(),
    )
    assert {"weight", "decay"} <= {name for name, gradient in got.layer.items() if gradient is not None}
    np.testing.assert_allclose(got.inputs, expected.inputs, rtol=1e-9, atol=1e-10, err_msg="inputs")
    for name in ("weight", "decay", "recurrent_weight", "recurrent_decay", "bias"):
        gradient = expected.params.get(name)
        if gradient is not None and got.layer.get(name) is not None:
            np.testing.assert_allclose(got.layer[name], gradient, rtol=1e-9, atol=1e-9, err_msg=f"gradient of {name}")


@pytest.mark.parametrize("k", [1, 5, 8, 19])
def test_events_give_what_the_reference_gives(only: Any, k: int) -> None:
    for sizes, kind in product(
        [(13, 5, 21, 70), (9, 2, 33, 129), (12, 1, 3, 2)], ["feed-forward", "everything", "readout"]
    ):
        check_against_the_reference(sizes, min(k, sizes[2] * sizes[3]), kind)


@pytest.mark.parametrize("of", ["graded", "silent"])
def test_events_have_values_and_there_may_be_none(only: Any, of: str) -> None:
    check_against_the_reference((13, 5, 21, 70), 5, of=of)


def test_first_states_and_gradients_of_last_ones_are_as_without(only: Any) -> None:
    check_against_the_reference((13, 5, 21, 70), 5, from_state=True)


def test_tiles_and_rows_add_up(only: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles of sources, and rows in several goes, the last of them smaller."""
    monkeypatch.setattr(shared_layout, "TILE", 70)
    monkeypatch.setattr(shared_layout, "CACHE_BYTES", 10_000)
    x = torch.from_numpy(inputs(13, 5, 201, "spikes"))
    events = shared_layout.list_events(x, 1.0)
    assert events.tiles == 3 and 1 < events.rows < 5
    for b, t in product(range(5), range(13)):
        start, stop = events.starts[[(b * 13 + t) * 3, (b * 13 + t) * 3 + 3]]
        np.testing.assert_array_equal(events.source[start:stop], x[t, b].nonzero()[:, 0])
        np.testing.assert_array_equal(events.value[start:stop], x[t, b][x[t, b] != 0])
    check_against_the_reference((13, 5, 21, 201), 8)


@pytest.mark.parametrize(("lanes", "blocks"), [(2, 4), (4, 2), (16, 1)])
def test_marks_say_which_lanes_have_which_entry(lanes: int, blocks: int) -> None:
    """For any width of vectors, with blocks that are there for the padding only."""
    index = np.random.default_rng(0).integers(0, 19, (5, 7)).astype(np.int32)
    marks = shared_layout.Book(index, 3, np.zeros((5, 7))).marks(blocks, lanes).reshape(3, blocks, 7, 8)
    for group, j, i, bit in product(range(3), range(7), range(blocks * lanes), range(8)):
        k = index[i, j] if i < 5 else -1
        entry = k - 8 * group
        is_inside = 0 <= entry < 8
        wanted = [entry % 4 == bit] if bit < 4 else [entry & 1, entry & 2, entry & 4, True][bit - 4 : bit - 3]
        is_set = marks[group, i // lanes, j, bit] >> (i % lanes) & 1
        assert is_set == (is_inside and bool(wanted[0])), (group, j, i, bit)


def all_of(layer: LayerTensors, x: Tensor) -> dict[str, Tensor]:
    """Everything that a forward and a backward pass give."""
    state = zeros_of(layer, x.shape[1])
    v, final = sequence.forward(x, layer, state)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v.dtype)
    given = OutputGradients(grad, None, HetSynState(None))
    got = sequence.backward(x, layer, state, v, given, MultiGaussian(), False, EVERYTHING)
    outputs = {"v": v, "current": final.current, "inputs": got.inputs, **got.layer}
    return {name: t for name, t in outputs.items() if t is not None}


def test_float32_is_as_near_as_without_a_codebook(only: Any) -> None:
    """Relative errors against float64 of the same numbers, feed-forward: a few eps, and no spike of 30,000 flips."""
    params, index = drawn(40, 120, 8, "feed-forward")
    params = params.astype(np.float32).astype(np.float64)
    x = torch.from_numpy(inputs(50, 15, 120, "spikes"))
    exact = all_of(as_tensors(params, index, torch.float64), x)
    for known in (True, False):
        layer = as_tensors(params, index, torch.float32)
        got = all_of(layer if known else layer._replace(decay_index=None), x.float())
        flipped = ((exact["v"] > layer.threshold.double()) != (got["v"] > layer.threshold)).sum()
        assert flipped == 0
        for name, value in exact.items():
            error = (got[name].double() - value).abs().max() / value.abs().max()
            assert error < 3e-6, (known, name, float(error))


def test_any_number_of_threads_gives_the_same_bits(only: Any) -> None:
    layer = as_tensors(*drawn(40, 120, 11, "everything"), torch.float32)
    x = torch.from_numpy(inputs(20, 15, 120, "graded")).float()
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 8):
            torch.set_num_threads(count)
            results.append(all_of(layer, x))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), name


# ---- who is taken


def test_the_choice_is_by_size_and_by_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    forward, backward = shared_layout.FORWARD, shared_layout.BACKWARD

    def kind_of(share: float, limit: Any, k: int = 8, m: int = 700, turns: bool = False, known: bool = True) -> str:
        x = torch.zeros(20, 32, m)
        x.view(-1)[:: round(1 / share)] = 1
        params, index = drawn(32, m, k, "feed-forward")
        layer = as_tensors(params, index, torch.float32)
        layer = layer if known else layer._replace(decay_index=None)
        return type(shared_layout.layout_of(x, layer, limit, turns)).__name__

    assert kind_of(0.02, forward) == kind_of(0.2, backward) == "NeuronEvents"
    assert kind_of(0.02, forward, turns=True) == "BatchEvents", "beside recurrent synapses rows stay side by side"
    assert kind_of(0.2, forward) == kind_of(0.5, backward) == "BatchLanes", "too many events"
    assert kind_of(0.2, backward, k=16) == "BatchLanes", "each group goes through them again"
    assert kind_of(0.02, forward, m=40) == "BatchLanes", "so few sources are done sooner than the filters"
    assert kind_of(0.02, forward, known=False) == "BatchLanes"
    monkeypatch.setattr(shared_layout, "SMALL", 1 << 40)
    assert kind_of(0.02, forward) == "BatchLanes"


def test_a_layer_tells_its_kernel_who_shares_a_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the gradient of the codebook is then made of the events, of latent decays too."""
    HetSynLeaky: Any = pytest.importorskip("hetsyn_plugins.adapters.snntorch").HetSynLeaky
    used = []
    monkeypatch.setattr(
        shared_layout, "list_events", lambda *a, real=shared_layout.list_events: used.append(1) or real(*a)
    )
    torch.manual_seed(0)
    layer = HetSynLeaky(70, 21, alpha=torch.rand(21, 70), share="codebook", clusters=5, reassign=True, init_hidden=True)
    free = HetSynLeaky(70, 21, alpha=layer.alpha.detach(), weight=layer.weight.detach(), init_hidden=True)
    x = (torch.rand(13, 5, 70) < 0.2).float()
    for one in (layer, free):
        one(x).square().sum().backward()
    assert len(used) == 2, "forward and backward of the one that shares"
    torch.testing.assert_close(layer.alpha_latent.grad, free.alpha.grad, rtol=1e-4, atol=1e-5)
    sums = torch.zeros(5).index_add_(0, layer.alpha_index.long().flatten(), free.alpha.grad.flatten())
    torch.testing.assert_close(layer.alpha_codebook.grad, sums, rtol=1e-4, atol=1e-5)


# ---- planted bugs

BUGS = [
    (codebook, "f4, f5, f6, f7 = mul(c4, f4), mul(c5, f5)", "f4, f5, f6, f7 = mul(c4, f4), mul(c4, f5)", 8, "v"),
    (codebook, "pick(is_high, zero, x), pick(is_high, x, zero)", "x, pick(is_high, x, zero)", 8, "v"),
    (
        codebook,
        "before = load(bias, block * L) if group == 0 else load(u, q)",
        "before = load(bias, block * L)",
        19,
        "v",
    ),
    (codebook, "marks[m + 7] |= bit", "marks[m + 7] |= 65535", 19, "current"),
    (codebook, "power = mul(power, decay)", "power = decay", 5, "current"),
    (codebook, "fma(c2, q2, a2)", "fma(c2, q2, a3)", 5, "gradient of decay"),
    (codebook, "fma(c1, a1, g_t)", "fma(c1, a1, a0)", 5, "gradient of weight"),
    (codebook, "pick(inside, fma(s, a, x), x)", "fma(s, a, x)", 19, "gradient of weight"),
    (
        shared_layout,
        "decays[: len(self.book.decays)] = self.book.decays",
        "decays[:3] = self.book.decays[:3]",
        5,
        "current",
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug[1])
def test_planted_bugs_are_caught(bug: Any) -> None:
    module, old, new, k, says = bug
    with planted(module.__name__, old, new, around=AROUND) as changed, caught(says):
        import sys

        fresh = sys.modules[sequence.__name__]
        here: Any = sys.modules[shared_layout.__name__]
        here.SMALL, fresh.FORWARD, fresh.BACKWARD = 0, here.Limit(100.0, 0), here.Limit(100.0, 0)  # type: ignore[attr-defined]
        assert changed
        check_against_the_reference((13, 5, 21, 70), k, run=fresh)
