"""Functions whose numbers are not torch's to batch or to differentiate twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hetsyn_plugins.core.autograd import differentiable_once, one_by_one


class Parts(torch.autograd.Function):
    """Of (n, k): the sums of rows, nothing, and the squares."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, None, Tensor]:
        return x.sum(-1), None, x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @differentiable_once("parts")
    def backward(ctx: Any, g_sum: Tensor, _: None, g_square: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g_sum[..., None] + 2 * x * g_square

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return one_by_one(Parts, info, in_dims, arguments)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_batch_is_its_calls(at: int) -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)

    def sums_and_squares(row: Tensor) -> tuple[Tensor, Tensor]:
        total, _, squares = Parts.apply(row)
        return total, squares

    total, squares = torch.func.vmap(sums_and_squares, in_dims=at)(x)
    rows = x.movedim(at, 0)
    assert torch.equal(total, rows.sum(-1)) and torch.equal(squares, rows * rows)


def test_gradients_are_there_once() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    total, _, squares = Parts.apply(x)
    (gradient,) = torch.autograd.grad(total.sum() + squares.sum(), x, create_graph=True)
    assert torch.equal(gradient, 1 + 2 * x)
    with pytest.raises(RuntimeError, match="parts: its gradients cannot be differentiated again"):
        torch.autograd.grad(gradient.sum(), x)
