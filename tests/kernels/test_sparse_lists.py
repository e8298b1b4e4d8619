"""Lists of the synapses that are there on the CPU: chunks, quads, groups and threads against the dense kernels."""

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
from hetsyn_plugins.kernels.cpu import layout, sequence, sparse  # noqa: E402
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
AROUND = [module.__name__ for module in (sparse, sparse_layout, sequence)]


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


def check_lists(modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float64) -> None:
    """Chunks of 8 and 5 steps, units of 4 neurons and 2 quads: every edge is crossed."""
    lists = modules[sparse_layout.__name__]
    for name, value in {"CACHE_BYTES": 1, "CHUNK": 5, "GROUP": 4, "QUADS": 2, "CELL": 3}.items():
        monkeypatch.setattr(lists, name, value)
    for sizes in SIZES:
        x, layer = drawn(sizes, 0.25, dtype)
        v, last, g = everything(modules[sequence.__name__], x, layer)
        dense_v, dense_last, dense = everything(sequence, x, layer._replace(mask=None, recurrent_mask=None))
        # as many sums as there are terms, in another order: relative to the largest, a few roundings for each
        limit = 1e3 * torch.finfo(dtype).eps * float(max(1, *(t.abs().max() for t in (dense_v, dense.inputs))))
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lists_are_the_synapses_that_are_there(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {module.__name__: module for module in (sparse_layout, sequence)}
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            check_lists(modules, monkeypatch, dtype)
        finally:
            torch.set_num_threads(before)


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
]


@pytest.mark.parametrize(("name", "module", "old", "new", "says"), BUGS, ids=[bug[0] for bug in BUGS])
def test_planted_bugs_are_caught(
    name: str, module: Any, old: str, new: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = changed(module.__name__, old, new, around=AROUND)
    with caught(says):
        check_lists(modules, monkeypatch)
