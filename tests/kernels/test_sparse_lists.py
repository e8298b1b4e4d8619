"""Lists of the synapses that are there on the CPU: chunks, quads, groups and threads against the dense kernels.

With inputs of 0 and 1, which lists read as bits, and with others, which they read as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, changed

sparse_layout: Any = pytest.importorskip("hetsyn_plugins.kernels.cpu.sparse_layout")
from hetsyn_plugins.core.fields import HetSynState  # noqa: E402  after the skip
from hetsyn_plugins.core.surrogate import MultiGaussian  # noqa: E402
from hetsyn_plugins.kernels.cpu import buffers, layout, sequence, sparse, spike_bits  # noqa: E402
from hetsyn_plugins.kernels.interface import Gradients, LayerTensors, NeedsGrad, OutputGradients  # noqa: E402

SIZES = [
    (23, 17, 9, 13),
    (8, 5, 3, 4),
    (40, 33, 6, 31),
    (16, 16, 40, 70),
    (2, 1, 5, 1),
    (4, 3, 1, 5),
]  # the last has no synapse
ASKED = NeedsGrad(*(name.endswith(("inputs", "weight", "decay")) for name in NeedsGrad._fields))
AROUND = [module.__name__ for module in (sparse, spike_bits, sparse_layout, sequence)]
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def by_rows() -> Iterator[None]:
    token = layout.ONLY.set(layout.BatchLanes)
    yield
    layout.ONLY.reset(token)


def drawn(sizes: tuple[int, int, int, int], density: float, dtype: torch.dtype) -> tuple[torch.Tensor, LayerTensors]:
    """Inputs and a recurrent layer whose first neuron has no synapse."""
    steps, batch, n, m = sizes
    rng = np.random.default_rng(sum(sizes))
    masks = [torch.tensor(rng.random(shape) < density) for shape in ((n, m), (n, n))]
    for mask in masks:
        mask[0] = False
    weight, decay, recurrent_weight, recurrent_decay = (
        torch.tensor(values, dtype=dtype) * mask
        for (k, mask) in zip((m, n), masks, strict=True)
        for values in (rng.normal(0.1, 1, (n, k)), rng.uniform(0.3, 1, (n, k)))
    )
    one = torch.ones(n, dtype=dtype)
    layer = LayerTensors(weight, decay, 0.9 * one, one, recurrent_weight, recurrent_decay)
    x = torch.tensor(rng.random((steps, batch, m)) < 0.4, dtype=dtype)
    return x, layer._replace(mask=masks[0], recurrent_mask=masks[1])


def everything(module: Any, x: torch.Tensor, layer: LayerTensors) -> tuple[torch.Tensor, HetSynState, Gradients]:
    n, m = layer.weight.shape
    batch, zeros = x.shape[1], x.new_zeros
    state = HetSynState(zeros(batch, n, m), zeros(batch, n, n), zeros(batch, n), None, zeros(batch, n), zeros(batch, n))
    v, last = module.forward(x, layer, state)
    gradients = OutputGradients(torch.sin(v), torch.cos(v), HetSynState(None))
    return v, last, module.backward(x, layer, state, v, gradients, MultiGaussian(), False, ASKED)


def everything_on(threads: int, *arguments: Any) -> list[torch.Tensor]:
    """v, the last currents and the gradients."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        v, last, g = everything(*arguments)
    finally:
        torch.set_num_threads(before)
    parts = (v, last.current, last.recurrent_current, g.inputs, *g.layer.values())
    return [part for part in parts if part is not None]


def at_once(x: torch.Tensor, layer: LayerTensors, module: Any = sparse_layout) -> Any:
    """The layout of a call."""
    return module.sparse_layout(layout.layout(x, len(layer.weight)), layer)


def check_lists(modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float64) -> None:
    """Chunks of 8 and 5 steps, units of 4 neurons and 2 quads: every edge is crossed."""
    lists = modules[sparse_layout.__name__]
    for name, value in {"CACHE_BYTES": 1, "CHUNK": 5, "GROUP": 4, "QUADS": 2, "CELL": 3}.items():
        monkeypatch.setattr(lists, name, value)
    for sizes in SIZES:
        for scale in (1, 0.75):
            x, layer = drawn(sizes, 0.25, dtype)
            close_to_dense(modules[sequence.__name__], scale * x, layer)


def close_to_dense(module: Any, x: torch.Tensor, layer: LayerTensors) -> None:
    """Raise AssertionError, saying what differs, unless lists give what all synapses give."""
    v, last, g = everything(module, x, layer)
    dense_v, dense_last, dense = everything(sequence, x, layer._replace(mask=None, recurrent_mask=None))
    # as many sums as there are terms, in another order: relative to the largest, a few roundings for each
    limit = 1e3 * torch.finfo(x.dtype).eps * float(max(1, *(t.abs().max() for t in (dense_v, dense.inputs))))
    assert torch.equal(v > 1, dense_v > 1), "spikes"
    assert torch.allclose(v, dense_v, rtol=0, atol=limit), "v"
    for name in ("current", "recurrent_current"):
        assert torch.allclose(getattr(last, name), getattr(dense_last, name), rtol=0, atol=limit), "last currents"
    assert torch.allclose(g.inputs, dense.inputs, rtol=0, atol=limit), "gradients of the inputs"
    for name, mask in zip(("", "recurrent_"), (layer.mask, layer.recurrent_mask), strict=True):
        for part in ("weight", "decay"):
            got, want = (grads.layer[f"{name}{part}"] * mask for grads in (g, dense))
            close = torch.allclose(got, want, rtol=0, atol=limit * float(1 + want.abs().max()))
            assert close, "gradients of synapses"


@pytest.mark.parametrize("dtype", DTYPES)
def test_lists_are_the_synapses_that_are_there(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check_lists({module.__name__: module for module in (sparse_layout, sequence)}, monkeypatch, dtype)


# ---- bits

# T: one step, a line of the cache and one more; B: rows that fill vectors, and one beyond; M: the fewest, and others
BIT_SIZES = [(1, 1, 0), (32, 16, 0), (33, 17, 5), (65, 33, 21)]  # M beside the lanes


def with_bits(
    sizes: tuple[int, int, int], dtype: torch.dtype, density: float = 0.25
) -> tuple[torch.Tensor, LayerTensors]:
    steps, batch, more = sizes
    return drawn((steps, batch, 9, layout.lanes_of(np.empty(0, str(dtype).split(".")[1]).dtype) + more), density, dtype)


def check_bits(modules: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """A bit is set where the input of its row is 1, at every step of its source."""
    for sizes in BIT_SIZES:
        x, layer = with_bits(sizes, dtype)
        at = at_once(x, layer, modules[sparse_layout.__name__])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(buffers, "empty", np.ones)
            bits = at.sources(x)
        assert bits.dtype == sparse_layout.BITS, "inputs of 0 and 1 are numbers"
        lines = bits.reshape(at.blocks, at.inputs, at.steps).transpose(2, 0, 1)
        rows = [lines >> row & 1 for row in range(at.lanes)]
        found = np.stack(rows, 2).reshape(at.steps, at.blocks * at.lanes, at.inputs)
        assert np.array_equal(found[:, : at.batch], x.numpy()) and not found[:, at.batch :].any(), "bits"


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_the_inputs(dtype: torch.dtype) -> None:
    check_bits({sparse_layout.__name__: sparse_layout}, dtype)


def check_numbers(modules: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """One input that is neither 0 nor 1, wherever, and all are packed as numbers."""
    tiny = torch.finfo(dtype).tiny / 4
    for value in (0.5, 2.0, -1.0, 1 + torch.finfo(dtype).eps, tiny, float("nan"), float("inf")):
        for place in ((0, 0, 0), (-1, -1, -1), (40, 3, -1), (31, 16, 4)):
            x, layer = with_bits(BIT_SIZES[-1], dtype)
            x[place] = value
            packed = at_once(x, layer, modules[sparse_layout.__name__]).sources(x)
            plain = layout.layout(x, len(layer.weight)).sources(x)
            assert packed.dtype == plain.dtype, f"{value} at {place} is a bit"
            assert np.array_equal(packed, plain, equal_nan=True)
    x[place] = 0
    x[0, :4, 0] = torch.tensor([0.5, 0.5, 0.5, -0.5])  # of x (x - 1) the sum is 0
    assert at_once(x, layer, modules[sparse_layout.__name__]).sources(x).dtype == plain.dtype, "sums of 0 are bits"


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_inputs_are_numbers(dtype: torch.dtype) -> None:
    check_numbers({sparse_layout.__name__: sparse_layout}, dtype)


def check_same_currents(modules: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Bits give the bits of numbers, forwards: a sequence cut where graded inputs begin is the whole one."""
    module = modules[sequence.__name__]
    for sizes in BIT_SIZES:
        x, layer = with_bits(sizes, dtype)
        layer = layer._replace(bias=torch.tensor([0, float("inf"), *[0.1] * 7], dtype=dtype))
        (v, last, _), lists = everything(module, x, layer), modules[sparse_layout.__name__].SparseLanes
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lists, "_bits", lambda *_: None)
            numbers_v, numbers_last, _ = everything(module, x, layer)
        assert torch.equal(v, numbers_v), "v is not that of numbers"
        assert torch.equal(last.current, numbers_last.current), "last currents are not those of numbers"


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_and_numbers_give_the_same_currents(dtype: torch.dtype) -> None:
    check_same_currents({module.__name__: module for module in (sparse_layout, sequence)}, dtype)


def test_more_synapses_are_listed_for_bits_than_for_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them: bits are read by lists, numbers by all synapses."""
    x, layer = with_bits(BIT_SIZES[-1], torch.float32, 0.5)
    assert sparse_layout.MOST < layer.mask.float().mean() < sparse_layout.MOST_OF_BITS
    assert at_once(x, layer).sources(x).dtype == sparse_layout.BITS
    for scale in (1, 0.75):
        close_to_dense(sequence, scale * x, layer)
    monkeypatch.setattr(sparse_layout, "by_row", None)
    everything(sequence, 0.75 * x, layer._replace(recurrent_mask=None))  # asks for no list


def check_threads(modules: dict[str, Any]) -> None:
    for scale in (1, 0.75):
        x, layer = with_bits((33, 40, 5), torch.float32)
        one, *more = (everything_on(n, modules[sequence.__name__], scale * x, layer) for n in (1, 2, 3))
        assert all(torch.equal(a, b) for other in more for a, b in zip(one, other, strict=True)), "threads"


def test_threads_give_the_same_bits() -> None:
    check_threads({sequence.__name__: sequence})


BUGS = [
    (
        "traces start anew with every chunk",
        sparse,
        "if t0 > 0:\n                        x0, x1, x2, x3 = load_four(X, x)",
        "if t0 < 0:\n                        x0, x1, x2, x3 = load_four(X, x)",
        "spikes",
    ),
    (
        "sums start anew with every chunk",
        sparse,
        "is_first = block == 0 and t0 == 0",
        "is_first = t0 == 0",
        "gradients of synapses",
    ),
    (
        "inputs get the gradients of other neurons",
        sparse_layout,
        "turned = Synapses(synapses.decay.T, synapses.weight.T)\n        self._sparse",
        "turned = Synapses(synapses.decay.T, synapses.weight.flip(0).T)\n        self._sparse",
        "gradients of the inputs",
    ),
    (
        "recurrent lists do not swap the steps",
        sparse,
        "now, before = before, now",
        "now, before = now, before",
        "gradients",
    ),
    (
        "bits give sums of the traces a step too early",
        spike_bits,
        "fma(r0, b0, a0), fma(r1, b1, a1)",
        "fma(r0, b0, a1), fma(r1, b1, a0)",
        "gradients of synapses",
    ),
    (
        "sums start anew with every block of rows",
        spike_bits,
        "a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = sub(r0, r0)",
        "a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = gw0 = gr0 = sub(r0, r0)",
        "gradients of synapses",
    ),
]


@pytest.mark.parametrize(("name", "module", "old", "new", "says"), BUGS, ids=[bug[0] for bug in BUGS])
def test_planted_bugs_are_caught(
    name: str, module: Any, old: str, new: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = changed(module.__name__, old, new, around=AROUND)
    with caught(says):
        check_lists(modules, monkeypatch)


BIT_BUGS = [
    ("rows are swapped", check_bits, spike_bits, "1 << row", "1 << (row ^ 1)", "bits"),
    (
        "a chunk ends a step early",
        check_bits,
        spike_bits,
        "range(t0, min(t0 + CHUNK, steps))",
        "range(t0, min(t0 + CHUNK - 1, steps))",
        "bits",
    ),
    ("the first unit speaks for all", check_numbers, sparse_layout, "graded.any()", "graded[0]", "is a bit"),
    (
        "what is too large hides what is too small",
        check_numbers,
        spike_bits,
        "magnitude(mul(value, sub(value, one)))",
        "mul(value, sub(value, one))",
        "sums of 0 are bits",
    ),
    (
        "currents in another order",
        check_same_currents,
        spike_bits,
        "add(fma(w1, x1, fma(w0, x0, load(u, q))), fma(w3, x3, mul(w2, x2)))",
        "add(fma(w3, x3, fma(w2, x2, load(u, q))), fma(w1, x1, mul(w0, x0)))",
        "v is not that of numbers",
    ),
    (
        "traces begin at what is left of the bias",
        check_same_currents,
        spike_bits,
        "x0 = x1 = x2 = x3 = zero",
        "x0 = x1 = x2 = x3 = sub(value, value)",
        "v is not that of numbers",
    ),
    (
        "last currents are traces",
        check_same_currents,
        spike_bits,
        "enumerate((mul(w0, x0), ",
        "enumerate((x0, ",
        "last currents are not those of numbers",
    ),
    (
        "each piece begins otherwise",
        check_threads,
        spike_bits,
        "splat(bias[i])",
        "splat(bias[i] + (start > 0))",
        "threads",
    ),
]


@pytest.mark.parametrize(("name", "check", "module", "old", "new", "says"), BIT_BUGS, ids=[bug[0] for bug in BIT_BUGS])
def test_planted_bugs_of_bits_are_caught(name: str, check: Any, module: Any, old: str, new: str, says: str) -> None:
    modules = changed(module.__name__, old, new, around=AROUND)
    with caught(says):
        check(modules)
