"""The neuron as a torch op over a whole sequence: checks, autograd, choice of kernel.

`hetsyn_lif` mirrors `reference.run` argument by argument, `hetsyn_li` is the leaky readout, `hetsyn_lif_step` the
one-step form. Nothing of shape (T, B, N, M) is kept between forward and backward: memory is O(B T (N + M) + B N M).

dtypes: everything float32 or everything float64. Half inputs and weights (float16, bfloat16) run in float32 on the
rounded values, with decays and states in float32, and give half spikes and v. Under autocast any float is cast here.
bool and uint8 inputs count as 0/1 or counts. Other mixtures raise ValueError, as do mixed devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hetsyn_plugins.core.autograd import differentiable_once
from hetsyn_plugins.core.fields import ARRAYS, HetSynState
from hetsyn_plugins.core.surrogate import Surrogate, resolve
from hetsyn_plugins.kernels import eager, interface
from hetsyn_plugins.kernels.cpu.threads import check_fork
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.ops.arguments import output_dtype, prepare
from hetsyn_plugins.ops.dispatch import _kernel


@torch.compiler.disable  # a clean graph break: the loop over time is the kernel's, not the compiler's
def hetsyn_lif(
    inputs: Tensor,
    weight: Tensor,
    decay: Tensor | float,
    *,
    reset_decay: Tensor | float | None,
    threshold: Tensor | float = 1.0,
    recurrent_weight: Tensor | None = None,
    recurrent_decay: Tensor | float | None = None,
    adaptation_decay: Tensor | float | None = None,
    adaptation_strength: Tensor | float | None = None,
    bias: Tensor | None = None,
    state: HetSynState | None = None,
    surrogate: Any = None,
    detach_reset: bool = False,
    backend: str = "auto",
    check: bool | None = None,
    argument_names: Mapping[str, str] | None = None,
) -> tuple[Tensor, Tensor, HetSynState]:
    """A HetSynLIF layer over a sequence (Deng et al. 2025, Eqs. 2 to 5; equations in `reference.py`).

    inputs        (T, B, M), spikes or any graded values
    weight ... bias   shapes and units as in `params.py`: decays in [0, 1], (N, M) or shared; threshold > 0
    state         HetSynState of tensors from an earlier call, or None: zeros
    surrogate     a Surrogate, its name, or another library's spike function; None: the paper's multi-Gaussian
    detach_reset  no gradient through z in the reset current
    backend       "auto", "eager", "cpu" or "gpu" (`choose_backend` tells what "auto" takes, and why)
    check         look for NaN and infinity in inputs and for values out of range in parameters;
                  None: on the CPU
    argument_names        what the caller's own arguments are called, for messages: "inputs", "state.reset", ... -> name

    Returns spikes (T, B, N), v (T, B, N) and the state after the last step, all differentiable once.
    Raises ValueError naming the argument, what was expected and what came.
    """
    given = {
        "weight": weight,
        "decay": decay,
        "reset_decay": reset_decay,
        "threshold": threshold,
        "recurrent_weight": recurrent_weight,
        "recurrent_decay": recurrent_decay,
        "adaptation_decay": adaptation_decay,
        "adaptation_strength": adaptation_strength,
        "bias": bias,
    }
    spikes, v, state = _run(
        inputs, given, True, state, resolve(surrogate), detach_reset, backend, check, argument_names
    )
    assert spikes is not None  # only the readout has none
    return spikes, v, state


@torch.compiler.disable
def hetsyn_li(
    inputs: Tensor,
    weight: Tensor,
    decay: Tensor | float,
    *,
    bias: Tensor | None = None,
    state: HetSynState | None = None,
    backend: str = "auto",
    check: bool | None = None,
    argument_names: Mapping[str, str] | None = None,
) -> tuple[Tensor, HetSynState]:
    """The leaky readout over a sequence: v[t] = sum_j I_ij[t] + b_i, no spike, no reset.

    Arguments as in `hetsyn_lif`. Returns v (T, B, N) and the state after the last step.
    """
    given = {**dict.fromkeys(ARRAYS), "weight": weight, "decay": decay, "threshold": 1.0, "bias": bias}
    _, v, state = _run(inputs, given, False, state, resolve(None), False, backend, check, argument_names)
    return v, state


def hetsyn_lif_step(
    inputs: Tensor,
    weight: Tensor,
    decay: Tensor | float,
    *,
    reset_decay: Tensor | float | None,
    threshold: Tensor | float = 1.0,
    recurrent_weight: Tensor | None = None,
    recurrent_decay: Tensor | float | None = None,
    adaptation_decay: Tensor | float | None = None,
    adaptation_strength: Tensor | float | None = None,
    bias: Tensor | None = None,
    spiking: bool = True,
    state: HetSynState | None = None,
    surrogate: Any = None,
    detach_reset: bool = False,
    check: bool | None = False,
    quantise: Callable[[Tensor], Tensor] | None = None,
    argument_names: Mapping[str, str] | None = None,
) -> HetSynState:
    """One step in native torch: inputs (B, M) and the state before it (None: zeros) give the state after it.

    Arguments as in `hetsyn_lif`; `spiking=False` is the readout; `quantise` is applied to every state. The state
    returned holds the output: `.spikes` and
    `.v`, (B, N), in the states' dtype. Autograd keeps the currents, (B, N, M), of every step: where the whole
    sequence is known, `hetsyn_lif` needs T times less.
    """
    given = {
        "weight": weight,
        "decay": decay,
        "reset_decay": reset_decay,
        "threshold": threshold,
        "recurrent_weight": recurrent_weight,
        "recurrent_decay": recurrent_decay,
        "adaptation_decay": adaptation_decay,
        "adaptation_strength": adaptation_strength,
        "bias": bias,
    }
    x, terms, start = prepare(inputs, given, spiking, state, check, argument_names, one_step=True)
    with torch.autocast(x.device.type, enabled=False):
        return eager.step(x[0], start, terms, resolve(surrogate), detach_reset, quantise)


def _run(
    inputs: Tensor,
    given: dict[str, Any],
    spiking: bool,
    state: HetSynState | None,
    surrogate: Surrogate,
    detach_reset: bool,
    backend: str,
    check: bool | None,
    argument_names: Mapping[str, str] | None,
) -> tuple[Tensor | None, Tensor, HetSynState]:
    check_fork()
    x, terms, start = prepare(inputs, given, spiking, state, check, argument_names)
    kernel = _kernel(backend, inputs, given["weight"])
    spikes, v, end = _sequence(kernel, x, terms, start, surrogate, detach_reset)
    out = output_dtype(inputs, given["weight"])
    return (None if spikes is None else spikes.to(out)), v.to(out), end


def _sequence(
    kernel: ModuleType, x: Tensor, terms: LayerTensors, start: HetSynState, surrogate: Surrogate, detach_reset: bool
) -> tuple[Tensor | None, Tensor, HetSynState]:
    """Spikes and v of every step and the last state; the spikes and v of a state are those of its last step."""
    if len(x) == 0:
        v = x.new_zeros((0, x.shape[1], len(terms.weight)))
        return (None if terms.threshold is None else v.clone()), v, start
    with torch.autocast(x.device.type, enabled=False):
        spikes, v, *currents = Sequence.apply(kernel, surrogate, detach_reset, x, *terms, *start)
    current, recurrent, reset, adaptation = currents
    last = None if spikes is None else spikes[-1]
    return spikes, v, HetSynState(current, recurrent, reset, adaptation, last, v[-1])


class Sequence(torch.autograd.Function):
    """A whole sequence as one node of the graph; its backward recomputes what it needs (see the kernels)."""

    @staticmethod
    def forward(
        ctx: Any, kernel: ModuleType, surrogate: Surrogate, detach_reset: bool, inputs: Tensor, *rest: Tensor | None
    ) -> Any:
        terms, start = LayerTensors(*rest[: len(LayerTensors._fields)]), HetSynState(*rest[len(LayerTensors._fields) :])  # type: ignore[arg-type]
        v, end = kernel.forward(inputs, terms, start, surrogate)
        ctx.kernel, ctx.surrogate, ctx.detach_reset = kernel, surrogate, detach_reset
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs, v, *rest)
        spikes = None if terms.threshold is None else kernel.fire(v, terms.threshold)
        return spikes, v, *end[:4]

    @staticmethod
    @differentiable_once("hetsyn_lif / hetsyn_li")
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None, *owed: Tensor | None) -> Any:
        inputs, v, *rest = ctx.saved_tensors
        cut = len(LayerTensors._fields)
        terms, start = LayerTensors(*rest[:cut]), HetSynState(*rest[cut:])
        _, _, _, needs_inputs, *needs = ctx.needs_input_grad
        needs_grad = interface.Gradients(needs_inputs, LayerTensors(*needs[:cut]), HetSynState(*needs[cut:]))
        g = ctx.kernel.backward(
            inputs,
            terms,
            start,
            v,
            grad_spikes,
            grad_v,
            HetSynState(*owed),
            ctx.surrogate,
            ctx.detach_reset,
            needs_grad,
        )
        found = (g.inputs, *g.terms, *g.state)
        return None, None, None, *(x if want else None for x, want in zip(found, ctx.needs_input_grad[3:], strict=True))
