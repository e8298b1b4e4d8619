"""What torch's autograd needs of the neuron: the spike, and gradients that cannot be differentiated again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hetsyn_plugins.core.surrogate import Surrogate


def transforming() -> bool:
    """Is this call inside a transformation of torch.func, or traced by torch.jit?"""
    return torch._C._are_functorch_transforms_active() or torch.jit.is_tracing()


class NoSecondDerivative(torch.autograd.Function):
    """Gradients as they are; differentiating them raises an error that names the op."""

    @staticmethod
    def forward(ctx: Any, op: str, *gradients: Tensor | None) -> Any:
        ctx.op = op
        return tuple(None if g is None else g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        raise RuntimeError(
            f"{ctx.op}: its gradients cannot be differentiated again: "
            "detach them, or call backward() and grad() without create_graph"
        )


def differentiable_once(op: str) -> Callable[[Any], Any]:
    """For the backward of an autograd.Function: without autograd, and a second differentiation raises.

    Torch's once_differentiable does not name the op, and where the incoming gradient is a constant (v.sum()), it lets
    a second derivative be zero without a word.
    """

    def decorate(backward: Any) -> Any:
        @functools.wraps(backward)
        def wrapped(ctx: Any, *output_gradients: Tensor | None) -> Any:
            with torch.no_grad():
                grads = backward(ctx, *output_gradients)
            if not torch.is_grad_enabled():
                return grads
            leaves = (None if g is None else g.detach().requires_grad_() for g in grads)
            return NoSecondDerivative.apply(op, *leaves)

        return wrapped

    return decorate


class Spike(torch.autograd.Function):
    """z = 1 where d > 0, else 0; backward: the surrogate's derivative at (d, threshold)."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, threshold: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.surrogate = surrogate
        ctx.save_for_backward(d, threshold)
        return (d > 0).to(d.dtype)

    @staticmethod
    @differentiable_once("HetSyn spike")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        d, threshold = ctx.saved_tensors
        return gradient * ctx.surrogate.derivative(d, threshold), None, None


def spike(d: Tensor, threshold: Tensor | float, surrogate: Surrogate) -> Tensor:
    """The spike of d = v - threshold (differentiable in both through d); the threshold given sets the width only."""
    threshold = torch.as_tensor(threshold, dtype=d.dtype, device=d.device).detach()
    spikes: Tensor = Spike.apply(d, threshold, surrogate)
    return spikes
