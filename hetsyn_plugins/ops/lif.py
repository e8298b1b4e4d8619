"""The neuron as a torch op over a whole sequence: autograd around the kernel that was chosen.

`hetsyn_lif` mirrors `reference.run` argument by argument, `hetsyn_li` is the leaky readout, `hetsyn_lif_step` the
one-step form. Nothing of shape (T, B, N, M) is kept between forward and backward: memory is O(B T (N + M) + B N M).

Each comes in through the one door for checks (`arguments.py`, which also says what dtypes go together) and then runs;
adapters, whose layers hold tensors that fit each other, go through the door themselves and call `run_sequence` and
`run_step`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from hetsyn_plugins.core.autograd import differentiable_once, one_by_one, transforming
from hetsyn_plugins.core.fields import ARRAYS, DELAYS, HetSynState
from hetsyn_plugins.core.surrogate import Surrogate, resolve
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.cpu.threads import check_fork
from hetsyn_plugins.kernels.delays import kept
from hetsyn_plugins.kernels.interface import Kernel, LayerTensors, NeedsGrad, OutputGradients
from hetsyn_plugins.ops import operators, steps
from hetsyn_plugins.ops.arguments import (
    OP,
    OP_STEP,
    ArgumentNames,
    autocast_enabled,
    checked_inputs,
    checked_layer,
    checked_state,
    output_dtype,
    steps_kept,
    written_out,
)
from hetsyn_plugins.ops.dispatch import Way, kernel_for
from hetsyn_plugins.ops.foreign_inputs import outside_of_graph

Result = TypeVar("Result")


def in_graph(function: Callable[..., Result]) -> Callable[..., Result]:
    """A function of a layer's tensors that torch.compile traces to its operator; outside, where a graph cannot hold it.

    Before torch 2.4, and for another library's surrogate, the graph breaks at it, once.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Result:
        if torch.compiler.is_compiling():
            surrogate = named.get("surrogate")
            known = surrogate is None or isinstance(surrogate, (str, Surrogate))
            delayed = any(named.get(name) is not None for name in DELAYS)
            # how many steps are kept depends on values where neither says so
            unknown = named.get("max_delay") is None and named.get("state") is None
            in_steps = delayed and (unknown or function.__name__ == "hetsyn_lif_step")
            if operators.keeps_out_of_graph(resolve(surrogate) if known else surrogate, in_steps):
                result: Result = outside_of_graph(function, *arguments, **named)
                return result
        return function(*arguments, **named)

    return call


# long: most of it says what the arguments are
@in_graph
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
    delay: Tensor | float | None = None,
    recurrent_delay: Tensor | float | None = None,
    mask: Tensor | None = None,
    recurrent_mask: Tensor | None = None,
    max_delay: int | None = None,
    state: HetSynState | None = None,
    surrogate: Any = None,
    detach_reset: bool = False,
    backend: str = "auto",
    check: bool | None = None,
    argument_names: Mapping[str, str] | None = None,
) -> tuple[Tensor, Tensor, HetSynState]:
    """A HetSynLIF layer over a sequence (Deng et al. 2025, Eqs. 2 to 5; equations in `reference.py`).

    inputs        (T, B, M), spikes or any graded values
    weight ... recurrent_delay   shapes and units as in `core/fields.py`: decays in [0, 1], (N, M) or shared;
                  threshold > 0; delays >= 0 in steps, whole or not
    mask, recurrent_mask   (N, M) and (N, N) booleans, or a sparse tensor: which synapses there are; the others have no
                  current and no gradient. May change from call to call; None: all
    max_delay     for how many steps the state keeps inputs and spikes, at least the longest delay; None: as the state
                  given does, or the longest delay asks for
    state         HetSynState of tensors from an earlier call, or None: zeros
    surrogate     a Surrogate, its name, or another library's spike function; None: the paper's multi-Gaussian
    detach_reset  no gradient through z in the reset current, as in the stock neurons of snnTorch, Norse and slayer
    backend       "auto", "eager", "cpu" or "gpu" (`choose_backend` tells what "auto" takes, and why)
    check         look for NaN and infinity in inputs and for values out of range in parameters;
                  None: on the CPU
    argument_names   what the caller's own arguments are called, for messages: "inputs", "state.reset", ... -> name

    Returns spikes (T, B, N), v (T, B, N) and the state after the last step, all differentiable once.
    Raises ValueError naming the argument, what was expected and what came.
    """
    fields = fields_of(locals())
    names = ArgumentNames(argument_names or {})
    layer = checked_layer(fields, True, check, names)
    x = checked_inputs(inputs, weight, check, OP._replace(names=names))
    initial = checked_state(state, layer, x.shape[1], names, steps_kept(max_delay, layer, state, names))
    checked = operators.names_to_check(check, names)
    spikes, v, final = run_sequence(x, layer, initial, Way(resolve(surrogate), detach_reset, backend), checked)
    out = output_dtype(inputs, weight)
    assert spikes is not None  # only the readout has none
    return spikes.to(out), v.to(out), final


@in_graph
def hetsyn_li(
    inputs: Tensor,
    weight: Tensor,
    decay: Tensor | float,
    *,
    bias: Tensor | None = None,
    delay: Tensor | float | None = None,
    mask: Tensor | None = None,
    max_delay: int | None = None,
    state: HetSynState | None = None,
    backend: str = "auto",
    check: bool | None = None,
    argument_names: Mapping[str, str] | None = None,
) -> tuple[Tensor, HetSynState]:
    """The leaky readout over a sequence: v[t] = sum_j I_ij[t] + b_i, no spike, no reset.

    Arguments as in `hetsyn_lif`. Returns v (T, B, N) and the state after the last step.
    """
    names = ArgumentNames(argument_names or {})
    given = {"weight": weight, "decay": decay, "threshold": 1.0, "bias": bias, "delay": delay, "mask": mask}
    fields = {**dict.fromkeys(ARRAYS), **given}
    layer = checked_layer(fields, False, check, names)
    x = checked_inputs(inputs, weight, check, OP._replace(names=names))
    initial = checked_state(state, layer, x.shape[1], names, steps_kept(max_delay, layer, state, names))
    checked = operators.names_to_check(check, names)
    _, v, final = run_sequence(x, layer, initial, Way(resolve(None), False, backend), checked)
    return v.to(output_dtype(inputs, weight)), final


@in_graph
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
    delay: Tensor | float | None = None,
    recurrent_delay: Tensor | float | None = None,
    mask: Tensor | None = None,
    recurrent_mask: Tensor | None = None,
    max_delay: int | None = None,
    spiking: bool = True,
    state: HetSynState | None = None,
    surrogate: Any = None,
    detach_reset: bool = False,
    backend: str = "auto",
    check: bool | None = False,
    quantise: Callable[[Tensor], Tensor] | None = None,
    argument_names: Mapping[str, str] | None = None,
) -> HetSynState:
    """One step: inputs (B, M) and the state before it (None: zeros) give the state after it.

    Arguments as in `hetsyn_lif`; `spiking=False` is the readout; `quantise` is applied to every state. The state
    returned holds the output: `.spikes` and `.v`, (B, N), in the states' dtype.

    A loop that hands each state on as it came has the gradients and the memory of the sequence (`steps.py`), and a few
    times its cost: every step passes once over the currents, (B, N, M). A state replaced or written to in between
    starts a new loop, which keeps that state for the backward pass. With `quantise`, autograd keeps the currents of
    every step.
    """
    fields = fields_of(locals())
    names = ArgumentNames(argument_names or {})
    layer = checked_layer(fields, spiking, bool(check), names)
    x = checked_inputs(inputs, weight, bool(check), OP_STEP._replace(names=names))
    initial = checked_state(state, layer, len(x), names, steps_kept(max_delay, layer, state, names))
    checked = operators.names_to_check(check, names)
    return run_step(x, layer, initial, Way(resolve(surrogate), detach_reset, backend), quantise, checked=checked)


def fields_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a layer among the arguments of a function."""
    return {name: arguments[name] for name in ARRAYS}


def run_sequence(
    x: Tensor, layer: LayerTensors, state: HetSynState, way: Way, checked: str = ""
) -> tuple[Tensor | None, Tensor, HetSynState]:
    """Spikes (None for a readout) and v, (T, B, N), and the last state, of what came through the door.

    checked  what a compiled graph has to look at, as in `operators.sequence`; an eager call has looked by itself
    """
    if len(x) == 0:
        return _no_steps(x, layer, written_out(state, layer, x.shape[1]))
    if torch.compiler.is_compiling():
        return operators.sequence(x, layer, state, way, checked)
    check_fork()
    kernel = kernel_for(way.backend, x, layer.weight)
    return _sequence(kernel, x, layer, state, way)


def _no_steps(x: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor | None, Tensor, HetSynState]:
    v = x.new_zeros((0, x.shape[1], len(layer.weight)))
    own = HetSynState(*(None if part is None else part.clone() for part in state))  # zeros are everybody's
    return (None if layer.threshold is None else v.clone()), v, own


def run_step(
    x: Tensor,
    layer: LayerTensors,
    state: HetSynState,
    way: Way,
    quantise: Callable[[Tensor], Tensor] | None = None,
    owner: Any = None,
    module: Any = None,
    checked: str = "",
) -> HetSynState:
    """The state after one step, of what came through the door: inputs (B, M).

    owner, module   as in `steps.Loop`
    checked         as in `run_sequence`
    """
    if torch.compiler.is_compiling() and quantise is None:
        return operators.step(x, layer, state, way, checked)
    off = torch.autocast(x.device.type, enabled=False) if autocast_enabled(x.device) else nullcontext()
    with off:
        if quantise is not None or transforming():
            state = written_out(state, layer, len(x))
            return eager.step(x, state, layer, way.surrogate, way.detach_reset, quantise)
        check_fork()
        return steps.step(x, layer, state, way, owner, module)


def _sequence(
    kernel: Kernel, x: Tensor, layer: LayerTensors, initial: HetSynState, way: Way
) -> tuple[Tensor | None, Tensor, HetSynState]:
    """Spikes and v of every step and the last state; the spikes and v of a state are those of its last step."""
    off = torch.autocast(x.device.type, enabled=False) if autocast_enabled(x.device) else nullcontext()
    with off:
        function = TransformedSequence if transforming() else Sequence
        spikes, v, *currents = function.apply(kernel, way, x, *layer, *initial)
    current, recurrent, reset, adaptation = currents
    last = None if spikes is None else spikes[-1]
    final = HetSynState(current, recurrent, reset, adaptation, last, v[-1])
    past_inputs, past_spikes = kept(initial, x, spikes)
    return spikes, v, final._replace(past_inputs=past_inputs, past_spikes=past_spikes)


def _computed(kernel: Kernel, way: Way, inputs: Tensor, *tensors: Tensor | None) -> Any:
    """Spikes and v of every step, and the last currents."""
    layer, initial = _layer_and_state(tensors)
    v, final = kernel.forward(inputs, layer, initial)
    spikes = None if layer.threshold is None else kernel.spikes_of(v, layer.threshold)
    return spikes, v, *final[:4]


def _kept(ctx: Any, inputs: Any, output: Any) -> None:
    """Put aside what the backward pass needs."""
    ctx.kernel, ctx.way, *tensors = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], *tensors)


class Sequence(torch.autograd.Function):
    """A whole sequence as one node of the graph; its backward recomputes what it needs (see the kernels)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        output = _computed(*arguments)
        _kept(ctx, arguments, output)
        return output

    @staticmethod
    @differentiable_once("hetsyn_lif / hetsyn_li")
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None, *grad_currents: Tensor | None) -> Any:
        v, inputs, *tensors = ctx.saved_tensors
        layer, initial = _layer_and_state(tensors)
        output_gradients = OutputGradients(grad_spikes, grad_v, HetSynState(*grad_currents))
        needs_grad, (surrogate, detach_reset, _) = NeedsGrad(*ctx.needs_input_grad[2:]), ctx.way
        g = ctx.kernel.backward(inputs, layer, initial, v, output_gradients, surrogate, detach_reset, needs_grad)
        grads = (g.inputs, *map(g.layer.get, LayerTensors._fields), *g.state)
        return None, None, *(x if needed else None for x, needed in zip(grads, needs_grad, strict=True))


class TransformedSequence(Sequence):
    """The same in the form that torch.func asks for, which takes a tenth of a small call longer."""

    forward = staticmethod(_computed)  # type: ignore[assignment]  # without the ctx, as torch.func wants it
    setup_context = staticmethod(_kept)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return one_by_one(TransformedSequence, info, in_dims, arguments)


def _layer_and_state(tensors: Iterable[Tensor | None]) -> tuple[LayerTensors, HetSynState]:
    """What `Sequence` was given behind the inputs."""
    fields, state = tuple(tensors), len(LayerTensors._fields)
    return LayerTensors(*fields[:state]), HetSynState(*fields[state:])  # type: ignore[arg-type]  # has a weight
