"""The neuron on the CPU: the order of the kernels, forward and backward; float32 and float64.

`cpu_layout.py` says how a call lies in memory; `cpu_batch.py` and `cpu_neuron.py` are the kernels of synapses,
`cpu_states.py` those of gradients through whole currents, `cpu_common.py` those of what a neuron has once. On the way
from kernel to kernel stands NumPy, not torch, whose threads spin for milliseconds after each piece of work and would
take a core from ours.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.surrogate import Arctan, FastSigmoid, MultiGaussian, Sigmoid, Surrogate, Triangular
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.cpu import soma as cpu_common
from hetsyn_plugins.kernels.cpu.layout import Array, Layout, layout
from hetsyn_plugins.kernels.cpu.threads import parallel
from hetsyn_plugins.kernels.interface import Gradients, LayerTensors


def cached() -> bool:
    """Is there compiled code of these kernels on disk, and none of it from an earlier source?"""
    folder, sources = Path(str(cpu_common.fire.stats.cache_path)), Path(__file__).parent
    newest: dict[str, float] = {}  # module -> when a kernel of it was last written
    for module in ("soma", "batch_lanes", "neuron_lanes", "state_gradients"):
        written = [file.stat().st_mtime for file in folder.glob(f"{module}.*.nbi")]
        newest |= {module: max(written)} if written else {}
    return bool(newest) and all(t >= (sources / f"{module}.py").stat().st_mtime for module, t in newest.items())


if not cached():
    logging.getLogger("hetsyn_plugins").warning("compiling the CPU kernels, once: each takes a second at its first use")


def known_zero(x: Tensor | None) -> bool:
    """Is this state absent, or zeros that were never written out (an expanded scalar of 0)?"""
    return x is None or (not any(x.stride()) and not float(x.detach().as_strided((1,), (1,))))


def add_free_decay(current: Tensor, state: Tensor, decay: Tensor, steps: int) -> None:
    """current += r^T I[-1], in place: what is left of the first currents after the last step."""
    current.numpy()[...] += decay.detach().numpy() ** steps * state.detach().numpy()


def forward(inputs: Tensor, p: LayerTensors, state: HetSynState, surrogate: Surrogate) -> tuple[Tensor, HetSynState]:
    """As `eager.forward`: v (T, B, N) and the state after the last step."""
    if inputs.shape[1] == 0:
        return eager.forward(inputs, p, state, surrogate)
    at = layout(inputs, len(p.weight))
    u, current = at.scan(at.pack(inputs, at.m), (p.decay, p.weight), p.bias)
    if not known_zero(state.current):
        at.free_decay(u, state.current, p.decay)
        add_free_decay(current, state.current, p.decay, at.steps)
    if p.threshold is None:
        v = at.unpack(u, at.n, at.neurons)
        return v, HetSynState(current, v=v[-1])

    z, J, A = last = (at.rows(state.spikes), at.rows(state.reset), at.rows(state.adaptation))
    recurrent = None
    if p.recurrent_weight is None or p.recurrent_decay is None:
        parallel(cpu_common.fire, at.vectors, u, *last, *_own(at, p), at.steps, at.tile)
    else:
        if not known_zero(state.recurrent_current):
            at.free_decay(u, state.recurrent_current, p.recurrent_decay)
        traces = at.fire_recurrent(u, last, _own(at, p), (p.recurrent_decay, p.recurrent_weight))
        np.multiply(traces.numpy(), p.recurrent_weight.detach().numpy(), out=traces.numpy())
        recurrent = traces
        if not known_zero(state.recurrent_current):
            add_free_decay(recurrent, state.recurrent_current, p.recurrent_decay, at.steps)
    v = at.unpack(u, at.n, at.neurons)
    reset = None if p.reset_decay is None else at.from_rows(J)
    adaptation = None if p.adaptation_decay is None else at.from_rows(A)
    return v, HetSynState(current, recurrent, reset, adaptation, at.from_rows(z), v[-1])


def fire(v: Tensor, threshold: Tensor) -> Tensor:
    """z = H(v - threshold), (T, B, N)."""
    spikes = np.empty(v.shape, v.numpy().dtype)
    rows = v.shape[0] * v.shape[1]
    theta = np.ascontiguousarray(threshold.numpy())  # one for all neurons is expanded: a stride of 0
    parallel(cpu_common.heaviside, rows, v.contiguous().numpy().ravel(), theta, spikes.ravel())
    return torch.from_numpy(spikes)


def _own(at: Layout, p: LayerTensors) -> tuple[Array, ...]:
    """threshold, reset_strength, kappa, strength, rho; a part that the layer lacks has coefficients 0."""
    reset_strength = at.own(None if p.reset_decay is None else p.threshold)
    own = (p.reset_decay, p.adaptation_strength, p.adaptation_decay)
    return (at.own(p.threshold, fill=1.0), reset_strength, *map(at.own, own))


def backward(
    inputs: Tensor,
    p: LayerTensors,
    state: HetSynState,
    v: Tensor,
    grad_spikes: Tensor | None,
    grad_v: Tensor | None,
    grad_state: HetSynState,
    surrogate: Surrogate,
    detach_reset: bool,
    needs_grad: Gradients,
) -> Gradients:
    """As `eager.backward`."""
    if inputs.shape[1] == 0:
        return eager.backward(inputs, p, state, v, grad_spikes, grad_v, grad_state, surrogate, detach_reset, needs_grad)
    at = layout(inputs, len(p.weight))
    feed, loop = (_synapses(name, p, state, grad_state, needs_grad) for name in ("", "recurrent_"))
    first, found = dict[str, Any](), dict[str, Any]()
    packed = at.pack(v, at.n)
    g = at.zeros(len(packed)) if grad_v is None else at.pack(grad_v, at.n)
    if p.threshold is not None:
        late = None if loop is None or loop.owed is None else at.narrow().owed_to_sources(loop.owed, loop.pair)
        if late is not None:
            grad_spikes = torch.zeros_like(v) if grad_spikes is None else grad_spikes.clone()
            grad_spikes[:-1] += late[1:]
        d = _derivative(at, p, v, packed, surrogate)
        first, found["threshold"] = _adjoint(at, g, d, p, loop, grad_spikes, grad_state, detach_reset)
        if late is not None:
            first["spikes"] += late[0]
    if any(getattr(needs_grad.terms, name) for name in OWN):
        _own_gradients(at, g, p, state, packed, grad_state, found)
    g_v = at.unpack(g, at.n, at.neurons) if any(x is not None and x.through for x in (feed, loop)) else None
    _synapse_gradients(at, feed, at.pack(inputs, at.m) if feed.needs_grad else None, g, inputs, g_v, first, found)
    if loop is not None and (loop.needs_grad or loop.through):
        before, theta = at.sequence(at.n), at.own(p.threshold, fill=1.0)
        parallel(cpu_common.previous, at.vectors, packed, at.rows(state.spikes), theta, before, at.steps, at.tile)
        sources = at.unpack(before, at.n, at.neurons) if loop.through else None
        _synapse_gradients(at, loop, before, g, sources, g_v, first, found)
    g_inputs = None
    if needs_grad.inputs:
        g_inputs = at.unpack(at.scan_back(g, feed.pair), at.m, at.inputs)
        if feed.owed is not None:
            g_inputs += at.narrow().owed_to_sources(feed.owed, feed.pair)
    terms = LayerTensors(**{"weight": None, "decay": None, **found})
    return Gradients(g_inputs, terms, HetSynState(first.pop("current", None), **first))


OWN = ("threshold", "reset_decay", "adaptation_decay", "adaptation_strength", "bias")


class Synapses(NamedTuple):
    """One set of synapses, those of the inputs ("") or the "recurrent_" ones, and what is asked of it.

    start    first currents (B, N, K), None where they are zero
    owed     dLoss/d(last currents) (B, N, K), or None
    needs_grad   are gradients of weight or decay asked for?
    through  are gradients of the first currents asked for, or any through the last?
    """

    name: str
    decay: Tensor
    weight: Tensor
    start: Tensor | None
    owed: Tensor | None
    needs_grad: bool
    through: bool

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Decay and weight."""
        return self.decay, self.weight


def _synapses(name: str, p: LayerTensors, state: HetSynState, grad_state: HetSynState, needs_grad: Gradients) -> Any:
    weight, start = getattr(p, f"{name}weight"), getattr(state, f"{name}current")
    if weight is None:
        return None
    own = getattr(needs_grad.terms, f"{name}weight") or getattr(needs_grad.terms, f"{name}decay")
    owed = getattr(grad_state, f"{name}current")
    through = owed is not None or bool(getattr(needs_grad.state, f"{name}current"))
    start = None if known_zero(start) else start
    return Synapses(name, getattr(p, f"{name}decay"), weight, start, owed, bool(own), through)


def _synapse_gradients(
    at: Layout,
    synapses: Synapses,
    packed: Array | None,
    g: Array,
    sources: Tensor | None,
    g_v: Tensor | None,
    first: dict[str, Any],
    found: dict[str, Any],
) -> None:
    """Gradients of weight and decay (N, K) into `found`, of first currents (B, N, K) into `first`.

    packed, sources   the sequence of the sources, packed and as a tensor (T, B, K), where each is needed
    g, g_v            dLoss/dv, likewise
    """
    name = synapses.name
    g_weight = g_decay = None
    if synapses.needs_grad and packed is not None:
        g_weight, g_decay, extra = at.gradients(packed, g, synapses.decay, synapses.start)
        np.multiply(g_decay.numpy(), synapses.weight.detach().numpy(), out=g_decay.numpy())
        g_decay = g_decay if extra is None else g_decay + extra
    if synapses.through and sources is not None and g_v is not None:
        start, owed = synapses.start, synapses.owed
        first[f"{name}current"], late_weight, late_decay = at.narrow().through_currents(
            sources, g_v, synapses.pair, start, owed
        )
        if g_weight is not None and g_decay is not None:
            g_weight, g_decay = g_weight + late_weight, g_decay + late_decay
    found[f"{name}weight"], found[f"{name}decay"] = g_weight, g_decay


def _derivative(at: Layout, p: LayerTensors, v: Tensor, packed: Array, surrogate: Surrogate) -> Array:
    """The surrogate's derivative at every v, packed; a foreign one is asked in torch."""
    constants = _constants(surrogate)
    if constants is None:
        return at.pack(surrogate.derivative(v - p.threshold, p.threshold), at.n)
    kind, values = constants
    d, c = at.empty(len(packed)), np.array(values, at.dtype)
    parallel(cpu_common.derivative, at.vectors, kind, c, packed, at.own(p.threshold, fill=1.0), d, at.steps, at.tile)
    return d


def _constants(surrogate: Surrogate) -> tuple[int, list[float]] | None:
    """Which formula of `cpu_common.derivative`, and its five constants (the last must be > 0)."""
    if type(surrogate) is MultiGaussian:
        (w0, _, s0), (w1, mean, s1), _ = surrogate._terms()
        scale = math.sqrt(2 * math.pi)
        return cpu_common.MULTI_GAUSSIAN, [w0 / (s0 * scale), -0.5 / s0**2, w1 / (s1 * scale), -0.5 / s1**2, mean]
    if type(surrogate) is Triangular:
        return cpu_common.TRIANGULAR, [surrogate.gamma, surrogate.zeta, 0.0, 0.0, 1.0]
    if type(surrogate) is Arctan:
        return cpu_common.ARCTAN, [0.5 * surrogate.alpha, 0.5 * math.pi * surrogate.alpha, 0.0, 0.0, 1.0]
    if type(surrogate) is FastSigmoid:
        return cpu_common.FAST_SIGMOID, [surrogate.slope, 0.0, 0.0, 0.0, 1.0]
    if type(surrogate) is Sigmoid:
        return cpu_common.SIGMOID, [surrogate.slope, 0.0, 0.0, 0.0, 1.0]
    return None


def _adjoint(
    at: Layout,
    g: Array,
    d: Array,
    p: LayerTensors,
    loop: Synapses | None,
    grad_spikes: Tensor | None,
    grad_state: HetSynState,
    detach_reset: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """Turn g from what is owed to v into dLoss/dv; return the first state's gradients and the threshold's part."""
    others = (at.zeros(len(g)) if grad_spikes is None else at.pack(grad_spikes, at.n), d)
    _, reset_strength, *rest = _own(at, p)
    own = (reset_strength * 0 if detach_reset else reset_strength, *rest)
    z, J, A, fired = at.rows(None), at.rows(grad_state.reset), at.rows(grad_state.adaptation), at.rows(None)
    if loop is None:
        parallel(cpu_common.adjoint, at.vectors, g, *others, z, J, A, fired, *own, at.steps, at.tile)
    else:
        at.adjoint_recurrent(g, others, (z, J, A, fired), own, loop.pair)
    first = {"spikes": at.from_rows(z)}
    if p.reset_decay is not None:
        first["reset"] = at.from_rows(J)
    if p.adaptation_decay is not None:
        first["adaptation"] = at.from_rows(A)
    return first, at.over_batch(fired)


def _own_gradients(
    at: Layout,
    g: Array,
    p: LayerTensors,
    state: HetSynState,
    packed: Array,
    owed: HetSynState,
    found: dict[str, Tensor],
) -> None:
    """Gradients of everything that a neuron has once, into `found`."""
    start = (at.rows(state.spikes), at.rows(state.reset), at.rows(state.adaptation))
    late = (at.rows(owed.reset), at.rows(owed.adaptation))
    out = at.empty(5, at.vectors, at.lanes)
    parallel(cpu_common.own_gradients, at.vectors, packed, g, *start, *late, *_own(at, p), out, at.steps, at.tile)
    g_kick, g_kappa, g_strength, g_rho, g_bias = map(at.over_batch, out.reshape(5, -1))
    if p.reset_decay is not None:
        found["threshold"] = found["threshold"] + g_kick
        found["reset_decay"] = g_kappa
    if p.adaptation_decay is not None:
        found["adaptation_strength"], found["adaptation_decay"] = g_strength, g_rho
    found["bias"] = g_bias
