"""Training with the integers in the loop: forward the chip's arithmetic bit for bit, backward the float neuron's.

`straight_through` runs a layer of integers and passes gradients on to the float tensors that it was rounded from, as if
rounding did nothing: backpropagation through time of the float neuron, at the rounded parameters and at the v that the
integers gave. So the decays get the gradient of the neuron, not one of the rounding. `hetsyn_lif_quantised` rounds
(`rounding.quantise`) and calls it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hetsyn_plugins.core.fields import ARRAYS, HetSynState
from hetsyn_plugins.core.surrogate import Surrogate, resolve
from hetsyn_plugins.fixed_point import neuron as fixed_point
from hetsyn_plugins.fixed_point.neuron import MANTISSA, MAX_EXP, FixedParams, FixedRun, FixedState
from hetsyn_plugins.fixed_point.rounding import quantise
from hetsyn_plugins.kernels.cpu.threads import check_fork
from hetsyn_plugins.kernels.interface import LayerTensors, NeedsGrad, OutputGradients
from hetsyn_plugins.ops import arguments, dispatch
from hetsyn_plugins.ops.lif import fields_of
from hetsyn_plugins.ops.trainable import Bounded, to_hetsyn_params


@torch.compiler.disable
def hetsyn_lif_quantised(  # long for its arguments: those of `hetsyn_lif`, written out as there
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
    spiking: bool = True,
    unit: float,
    form: str = "cluster",
    fraction: int | None = None,
    surrogate: Any = None,
    detach_reset: bool = False,
    allow_overflow: bool = False,
    name: str = "",
) -> tuple[Tensor | None, Tensor]:
    """A HetSynLIF layer over a sequence, rounded to integers in the forward pass.

    inputs              (T, B, M), whole numbers
    weight ... recurrent_mask   as in `ops.hetsyn_lif`, delays whole and of at most 62 steps; spiking=False: the leaky
                        readout
    unit                what one weight unit stands for; weights that do not fit 8 bits in it, and taus that do not fit
                        12, take the nearest value that does (`rounding.quantise`, clip=True); such a weight gets
                        only gradient that moves it back
    form, fraction      as in `fixed_point`
    surrogate, detach_reset   as in `ops.hetsyn_lif`
    allow_overflow, name      as in `fixed_point.run`

    Returns spikes (T, B, N), None for a readout, and v (T, B, N) in float units, both equal to `fixed_point.run` of the
    rounded layer; differentiable once. Raises ValueError, and FixedPointOverflow where a state leaves its bits.
    """
    fields = fields_of(locals())
    layer = arguments.checked_layer(fields, spiking, None, arguments.OP.names)
    x = arguments.checked_inputs(inputs, weight, None, arguments.OP)
    params = to_hetsyn_params(layer._asdict(), spiking)
    fixed, _ = quantise(params, form=form, fraction=fraction, unit=unit, clip=True)
    spikes, v, _ = straight_through(
        fixed,
        x,
        _moved_back(layer, unit),
        surrogate=resolve(surrogate),
        detach_reset=detach_reset,
        allow_overflow=allow_overflow,
        name=name,
    )
    out = arguments.output_dtype(inputs, weight)
    return (None if spikes is None else spikes.to(out)), v.to(out)


def _moved_back(layer: LayerTensors, unit: float) -> LayerTensors:
    """The layer whose weights beyond 8 bits, where the exponent can grow no more, get gradient that leads back only."""
    low, high = ((m + half) * unit * (1 << MAX_EXP) for m, half in zip(MANTISSA, (-0.5, 0.5), strict=True))
    weights = {name: getattr(layer, name) for name in ("weight", "recurrent_weight")}
    return layer._replace(**{name: Bounded.apply(w, low, high) for name, w in weights.items() if w is not None})


def straight_through(
    fixed: FixedParams,
    inputs: Tensor,
    layer: LayerTensors,
    *,
    surrogate: Surrogate,
    detach_reset: bool = False,
    state: FixedState | None = None,
    keep_state: bool = False,
    allow_overflow: bool = False,
    name: str = "",
) -> tuple[Tensor | None, Tensor, FixedState | None]:
    """Run integers, with gradients for the tensors that they were rounded from.

    fixed       the layer in integers
    inputs      (T, B, M), whole numbers, in the dtype of the terms
    terms       the same layer's tensors, each in its full shape ((N, M), (N, N), (N,)), None where it has no such part
    state       as an earlier run returned it, or None: zeros. It is a constant: the decays get no gradient through the
                synaptic currents carried over in the cluster form, whose accumulators are no synapse's own
    keep_state  return the last state (None otherwise: it takes time to write out)

    Returns spikes (T, B, N) or None, v (T, B, N) in float units, and the state.
    """
    check_fork()
    x = inputs.detach().cpu()
    options: dict[str, Any] = {"name": name, "allow_overflow": allow_overflow}
    if dispatch.why_no_cpu_kernel():
        result = fixed_point.run(fixed, x.numpy(), state, **options)
    else:
        result = dispatch.load("integers").run(fixed, x, state, keep_state=keep_state, **options)
    spikes, v = Rounded.apply(fixed, result, state, surrogate, detach_reset, inputs, *layer)
    return spikes, v, result.state


class Rounded(torch.autograd.Function):
    """What the integers gave as a node of the graph; backward: the float kernel's, at the rounded parameters."""

    @staticmethod
    def forward(
        ctx: Any,
        fixed: FixedParams,
        result: FixedRun,
        state: FixedState | None,
        surrogate: Surrogate,
        detach_reset: bool,
        inputs: Tensor,
        *layer: Tensor | None,
    ) -> tuple[Tensor | None, Tensor]:
        dtype = np.float64 if inputs.dtype == torch.float64 else np.float32
        v = torch.from_numpy((result.v * (fixed.unit / (1 << fixed.fraction))).astype(dtype)).to(inputs)
        spikes = None if result.spikes is None else torch.from_numpy(result.spikes.astype(dtype)).to(inputs)
        ctx.fixed, ctx.state, ctx.surrogate, ctx.detach_reset = fixed, state, surrogate, detach_reset
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs, spikes, v)
        return spikes, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None) -> Any:
        inputs, spikes, v = ctx.saved_tensors
        layer = _rounded_layer(ctx.fixed, inputs)
        if spikes is not None:
            v = _agreeing(v, spikes, layer.threshold)
        needs_grad = NeedsGrad(*ctx.needs_input_grad[5:])
        kernel = dispatch.kernel_for("auto", inputs, layer.weight)
        initial = _float_state(ctx.fixed, ctx.state, inputs)
        output_gradients = OutputGradients(grad_spikes, grad_v, HetSynState(None))
        g = kernel.backward(inputs, layer, initial, v, output_gradients, ctx.surrogate, ctx.detach_reset, needs_grad)
        grads = (g.inputs, *map(g.layer.get, LayerTensors._fields))
        return *(None,) * 5, *(x if needed else None for x, needed in zip(grads, needs_grad, strict=False))


def _rounded_layer(fixed: FixedParams, like: Tensor) -> LayerTensors:
    """The parameters that the integers stand for, as the float kernels take them."""
    params = fixed.to_params()
    arrays = {name: getattr(params, name) for name in ARRAYS}
    if not params.spiking:
        arrays["threshold"] = None
    tensors = {name: None if a is None else torch.tensor(np.array(a)).to(like) for name, a in arrays.items()}
    return LayerTensors(**tensors)  # type: ignore[arg-type]  # weight and decay are never None


def _agreeing(v: Tensor, spikes: Tensor, threshold: Any) -> Tensor:
    """v on the side of the threshold where the integers were, should float32 have rounded it onto the threshold.

    The kernels ask v, not the spikes, who fired.
    """
    z, theta = spikes.cpu().numpy() > 0, threshold.cpu().numpy()
    wrong = (v.cpu().numpy() > theta) != z
    if not wrong.any():
        return v
    right = np.where(z, np.nextafter(theta, np.inf, dtype=theta.dtype), theta)
    return torch.where(torch.from_numpy(wrong).to(v.device), torch.from_numpy(right).to(v), v)


def _float_state(fixed: FixedParams, state: FixedState | None, like: Tensor) -> HetSynState:
    """The first state in float units; zeros that are not written out where there is none."""
    scale = fixed.unit / (1 << fixed.fraction)
    batch, (n, m) = like.shape[1], fixed.weight.shape
    parts: dict[str, Any] = {} if state is None else state._asdict()
    if fixed.form == "cluster":
        parts = {**parts, "current": None}

    def part(name: str, has: bool, *shape: int) -> Any:
        if not has:
            return None
        if parts.get(name) is None:
            return like.new_zeros(()).expand(batch, *shape)
        value = torch.from_numpy(parts[name]).to(like)
        return value if name == "spikes" else value * scale

    def past(name: str, delay: Any, lines: int) -> Any:
        if delay is None:
            return None
        if parts.get(name) is None:
            return like.new_zeros((fixed.max_delay, batch, lines))
        return torch.from_numpy(parts[name]).to(like)

    loop = fixed.recurrent_weight is not None
    return HetSynState(
        part("current", True, n, m),
        part("recurrent_current", loop, n, n),
        part("reset", fixed.reset_decay is not None, n),
        part("adaptation", fixed.adaptation_decay is not None, n),
        part("spikes", fixed.spiking, n),
        None,
        past("past_inputs", fixed.delay, m),
        past("past_spikes", fixed.recurrent_delay, n),
    )
