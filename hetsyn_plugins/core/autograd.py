"""What torch's autograd needs of the neuron: the spike, and gradients that cannot be differentiated again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from hetsyn_plugins.core.surrogate import Surrogate


def transforming() -> bool:
    """Is this call inside a transformation of torch.func, or traced by torch.jit?"""
    return torch._C._are_functorch_transforms_active() or torch.jit.is_tracing()


def refuse_forward_mode() -> None:
    """Raise RuntimeError inside torch's forward-mode differentiation (jvp, jacfwd, dual numbers)."""
    if not torch.compiler.is_compiling() and forward_ad._current_level >= 0:
        raise RuntimeError("HetSyn layers have no forward-mode derivative (jvp, jacfwd): use grad, vjp or jacrev")


def backward_pass() -> int:
    """Which backward pass this call runs in, as torch counts them; -1: none, or traced by torch.compile."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


class Once(torch.autograd.Function):
    """Gradients, as a function of tensors computes them without autograd; differentiating them raises an error."""

    @staticmethod
    def forward(op: str, compute: Callable[..., Any], *tensors: Tensor | None) -> Any:
        with torch.no_grad():
            return compute(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.op = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        raise RuntimeError(
            f"{ctx.op}: its gradients cannot be differentiated again: "
            "detach them, or call backward() and grad() without create_graph"
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return one_by_one(Once, info, in_dims, arguments)


class _Context:
    """What a backward reads of its node, with tensors in the place of those saved."""

    def __init__(self, ctx: Any, saved_tensors: tuple[Tensor | None, ...]) -> None:
        self._ctx, self.saved_tensors = ctx, saved_tensors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def differentiable_once(op: str) -> Callable[[Any], Any]:
    """For the backward of an autograd.Function: without autograd, and a second differentiation raises.

    Torch's once_differentiable does not name the op, and where the incoming gradient is a constant (v.sum()), it lets
    a second derivative be zero without a word. Under torch.func the backward gets plain tensors too.
    """

    def decorate(backward: Any) -> Any:
        @functools.wraps(backward)
        def wrapped(ctx: Any, *output_gradients: Tensor | None) -> Any:
            if not torch.is_grad_enabled() and not transforming():
                return backward(ctx, *output_gradients)
            saved = ctx.saved_tensors

            def compute(*tensors: Tensor | None) -> Any:
                return backward(_Context(ctx, tensors[: len(saved)]), *tensors[len(saved) :])

            return Once.apply(op, compute, *saved, *output_gradients)

        return wrapped

    return decorate


def one_by_one(function: Any, info: Any, in_dims: Any, arguments: tuple[Any, ...]) -> Any:
    """The vmap of an autograd.Function whose numbers are not torch's to batch: its calls, one after the other."""
    calls = []
    for i in range(info.batch_size):
        picked = [
            a.select(d, i) if isinstance(a, Tensor) and d is not None else a
            for a, d in zip(arguments, in_dims, strict=True)
        ]
        calls.append(function.apply(*picked))
    if isinstance(calls[0], Tensor):
        return torch.stack(calls), 0
    columns = list(zip(*calls, strict=True))
    stacked = tuple(None if column[0] is None else torch.stack(column) for column in columns)
    return stacked, tuple(None if column is None else 0 for column in stacked)


class Spike(torch.autograd.Function):
    """z = 1 where d > 0, else 0; backward: the surrogate's derivative at (d, threshold)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(d: Tensor, threshold: Tensor, surrogate: Surrogate) -> Tensor:
        return (d > 0).to(d.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        d, threshold, ctx.surrogate = inputs
        ctx.save_for_backward(d, threshold)

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
