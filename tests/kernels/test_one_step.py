"""The CPU kernel's own way for a sequence of one step, against the eager kernel: every size beside a vector's and 4."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.surrogate import MultiGaussian, Surrogate
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.interface import LayerTensors, NeedsGrad, OutputGradients

cpu = pytest.importorskip("hetsyn_plugins.kernels.cpu.sequence")

KINDS = {"readout": (False, False, False), "feed-forward": (True, False, False), "everything": (True, True, True)}
FIELDS = dict.fromkeys(NeedsGrad._fields, True)


class OddSurrogate(Surrogate):
    """Not one of those that the kernel knows."""

    def derivative(self, d: Tensor, threshold: float | Tensor = 1.0) -> Tensor:
        return 0.3 / (1 + d * d)


def draw(*shape: int, low: float = 0.0) -> Tensor:
    return low + (1 - low) * torch.rand(shape, dtype=torch.float64)


def drawn_layer(n: int, m: int, kind: str) -> LayerTensors:
    spiking, recurrent, adaptive = KINDS[kind]
    return LayerTensors(
        draw(n, m, low=-0.5),
        draw(n, m),
        draw(n) if spiking else None,
        draw(n, low=0.2) if spiking else None,
        draw(n, n, low=-0.5) if recurrent else None,
        draw(n, n) if recurrent else None,
        draw(n) if adaptive else None,
        draw(n) if adaptive else None,
        draw(n),
    )


def drawn_state(b: int, n: int, m: int, kind: str) -> HetSynState:
    spiking, recurrent, adaptive = KINDS[kind]
    return HetSynState(
        draw(b, n, m),
        draw(b, n, n) if recurrent else None,
        draw(b, n) if spiking else None,
        draw(b, n) if adaptive else None,
        (draw(b, n) > 0.5).double() if spiking else None,
        draw(b, n),
    )


def assert_close(name: str, result: Tensor | None, want: Tensor | None) -> None:
    if result is None or want is None:
        assert (want if result is None else result) is None or not (want if result is None else result).any(), name
        return
    # sums of at most 60 terms below 4 in another order: 60 * 60 * 4 eps / 2 = 1.6e-12
    torch.testing.assert_close(result, want, rtol=0, atol=2e-12, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fresh", [False, True], ids=["from a state", "from zeros"])
@pytest.mark.parametrize("surrogate", [MultiGaussian(), OddSurrogate()], ids=["own surrogate", "foreign surrogate"])
def test_one_step_is_the_eager_step(kind: str, fresh: bool, surrogate: Surrogate) -> None:
    torch.manual_seed(0)
    for b, n, m in product((1, 4, 7), (1, 9, 33), (1, 8, 16, 41)):
        layer, state, x = drawn_layer(n, m, kind), drawn_state(b, n, m, kind), draw(1, b, m)
        if fresh:
            zeros = (None if part is None else torch.zeros((), dtype=x.dtype).expand(part.shape) for part in state)
            state = HetSynState(*zeros)
        (v, after), (want_v, want_after) = cpu.forward(x, layer, state), eager.forward(x, layer, state)
        assert_close("v", v, want_v)
        for name, part, want in zip(HetSynState._fields, after, want_after, strict=True):
            assert_close(name, part, want)
        for detach_reset, at_the_end in product((False, True), repeat=2):
            lam = drawn_state(b, n, m, kind)._replace(spikes=None, v=None) if at_the_end else HetSynState(None)
            grads = OutputGradients(draw(1, b, n) if layer.threshold is not None else None, draw(1, b, n), lam)
            arguments = (x, layer, state, v, grads, surrogate, detach_reset, NeedsGrad(**FIELDS))
            result, expected = cpu.backward(*arguments), eager.backward(*arguments)
            assert_close("inputs", result.inputs, expected.inputs)
            for name in LayerTensors._fields:
                assert_close(name, result.layer.get(name), expected.layer.get(name))
            for name, part, want in zip(HetSynState._fields, result.state, expected.state, strict=True):
                assert_close(f"state.{name}", part, want)
