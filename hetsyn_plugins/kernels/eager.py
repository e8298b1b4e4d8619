"""The neuron in plain torch: the step, and the forward and backward pass over a whole sequence.

The step is the one place in torch where the equations of `core/reference.py` (Deng et al. 2025, Eqs. 2 to 5) stand;
what a neuron has once, J, A, v and z, is its `soma_step`. The backward pass keeps no current of any step. With
gv[t] = dLoss/dv[t], it needs two sweeps whose memory does not grow with T beyond (T, B, N + M):

    backwards in time   a[t] = gv[t] + r a[t+1]                                 a = dLoss/dI, gives gx, gz and gv[t-1]
    forwards in time    X[t] = r X[t-1] + x[t]                                  X = dI/dw:  gw = sum_t gv[t] X[t]
                        I[t] = r I[t-1] + w x[t],  S[t] = r S[t-1] + I[t-1]     S = dI/dr:  gr = sum_t gv[t] S[t]

The same holds for recurrent synapses (x[t] is z[t-1], w is u, r is p). A gradient that comes in through the returned
current I[T-1] starts a, and joins the last term of the two sums.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hetsyn_plugins.core.autograd import spike
from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.surrogate import NoGradient, Surrogate
from hetsyn_plugins.kernels.delays import DelayLine, delayed, kept, with_past
from hetsyn_plugins.kernels.interface import Gradients, LayerTensors, NeedsGrad, OutputGradients


def step(
    x: Tensor,
    state: HetSynState,
    layer: LayerTensors,
    surrogate: Surrogate,
    detach_reset: bool = False,
    quantise: Callable[[Tensor], Tensor] | None = None,
) -> HetSynState:
    """One step, differentiable by autograd: inputs (B, M) and the state before it give the state after it.

    Kept by autograd for backward: the currents, (B, N, M) and (B, N, N), of every step taken this way.
    `quantise` is applied to every current and to v, before the spike.
    """
    q = quantise or (lambda t: t)
    s = x[:, None, :] if layer.delay is None else delayed(with_past(state.past_inputs, x[None]), layer.delay)
    current = q(torch.addcmul(layer.decay * state.current, layer.weight, s))
    u = current.sum(-1)
    recurrent = None
    if layer.recurrent_weight is not None:
        z = state.spikes[:, None, :]
        if layer.recurrent_delay is not None:
            z = delayed(with_past(state.past_spikes, state.spikes[None]), layer.recurrent_delay)
        recurrent = q(torch.addcmul(layer.recurrent_decay * state.recurrent_current, layer.recurrent_weight, z))
        u = u + recurrent.sum(-1)
    # by name: torch.compile cannot go on behind a spike that is among the arguments of a call
    reset, adaptation, spikes, v = soma_step(u, state, layer, surrogate, detach_reset, q)
    after = HetSynState(current, recurrent, reset, adaptation, spikes, v)
    if not layer.has_delays:
        return after
    past_inputs, past_spikes = kept(state, x[None], None if spikes is None else spikes[None])
    return after._replace(past_inputs=past_inputs, past_spikes=past_spikes)


def soma_step(
    u: Tensor,
    state: HetSynState,
    layer: LayerTensors,
    surrogate: Surrogate,
    detach_reset: bool = False,
    quantise: Callable[[Tensor], Tensor] = lambda t: t,
    leak: Callable[[Tensor, Tensor], Tensor] = torch.mul,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """What a neuron does once a step: J, A, z and v from its summed synaptic currents u, (B, N) or (B, N, ...).

    `leak(decay, current)` is what is left of a current after a step. The synapses of the layer are not read.
    """
    q, v, z = quantise, u, state.spikes
    reset = adaptation = spikes = None
    if layer.reset_decay is not None:
        reset = q(leak(layer.reset_decay, state.reset) + layer.threshold * (z.detach() if detach_reset else z))
        v = v - reset
    if layer.adaptation_decay is not None:
        adaptation = q(leak(layer.adaptation_decay, state.adaptation) + layer.adaptation_strength * z)
        v = v - adaptation
    if layer.bias is not None:
        v = v + layer.bias
    v = q(v)
    if layer.threshold is not None:
        spikes = spike(v - layer.threshold, layer.threshold, surrogate)
    return reset, adaptation, spikes, v


def forward(inputs: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, HetSynState]:
    """See `Kernel.forward`."""
    v = inputs.new_empty((*inputs.shape[:2], len(layer.weight)))
    for t, x in enumerate(inputs.unbind(0)):
        state = step(x, state, layer, NoGradient())
        v[t] = state.v
    return v, state


def spikes_of(v: Tensor, threshold: Tensor) -> Tensor:
    """See `Kernel.spikes_of`."""
    return torch.gt(v, threshold, out=torch.empty_like(v))


# ---- backward -----------------------------------------------------------------------------------------------------


class Filter:
    """One leaky current of the neuron, C[t] = decay C[t-1] + weight s[t], of shape (B, N, K), in the backward pass.

    Synapses have K lines, which all neurons share: s is (B, 1, K); with a delay line, (B, N, K). Reset and adaptation
    have K = 1, s is (B, N, 1). `sign` is that of C in v, `initial` C before the first step, `grad_final` dLoss/dC after
    the last (or None: 0).
    """

    line: DelayLine | None = None

    def __init__(self, weight: Tensor, decay: Tensor, initial: Tensor, grad_final: Tensor | None, sign: int) -> None:
        self.weight, self.decay, self.initial, self.grad_final, self.sign = weight, decay, initial, grad_final, sign
        self.adjoint = torch.zeros_like(initial) if grad_final is None else grad_final.clone()

    def step_back(self, gv: Tensor) -> Tensor:
        """Take the adjoint from t+1 to t, given dLoss/dv[t] (B, N), and return dLoss/dC[t]; `adjoint` moves on."""
        at_t = self.adjoint + self.sign * gv[:, :, None]
        self.adjoint = self.decay * at_t
        return at_t

    def parameter_gradients(self, sources: Tensor, gv: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """dLoss/dweight, dLoss/ddecay and dLoss/ddelay, (N, K), from s (T, B, 1 or N, K) and dLoss/dv (T, B, N).

        With a delay line, s is that of the line, and the sources are not read.
        """
        current, trace, sensitivity = self.initial, torch.zeros_like(self.initial), torch.zeros_like(self.initial)
        moved = torch.zeros_like(self.initial)  # the trace's derivative by the delay
        g_weight, g_decay, g_delay = (torch.zeros_like(self.weight) for _ in range(3))
        for t, g in enumerate(gv.unbind(0)):
            s, slope = (sources[t], None) if self.line is None else self.line.at(t)
            sensitivity = torch.addcmul(current, self.decay, sensitivity)
            current = torch.addcmul(self.decay * current, self.weight, s)
            trace = torch.addcmul(s, self.decay, trace)
            g_weight += torch.einsum("bn,bnk->nk", g, trace)
            g_decay += torch.einsum("bn,bnk->nk", g, sensitivity)
            if slope is not None:
                moved = torch.addcmul(slope, self.decay, moved)
                g_delay += torch.einsum("bn,bnk->nk", g, moved)
        g_weight, g_decay = self.sign * g_weight, self.sign * g_decay
        if self.grad_final is not None:
            g_weight += (self.grad_final * trace).sum(0)
            g_decay += (self.grad_final * sensitivity).sum(0)
            g_delay += (self.grad_final * moved).sum(0)
        return g_weight, g_decay, None if self.line is None else self.weight * g_delay


# of each current: the fields that are its weight and its decay; the reset current's weight is the threshold
FIELDS_OF = {
    "current": ("weight", "decay"),
    "recurrent_current": ("recurrent_weight", "recurrent_decay"),
    "reset": ("threshold", "reset_decay"),
    "adaptation": ("adaptation_strength", "adaptation_decay"),
}
DELAY_OF = {"current": "delay", "recurrent_current": "recurrent_delay"}


def filters(layer: LayerTensors, state: HetSynState, grad_state: HetSynState) -> dict[str, Filter]:
    """The leaky currents that this layer has, by the name of their state."""
    currents = {}
    for name, fields in FIELDS_OF.items():
        weight, decay = (getattr(layer, field) for field in fields)
        if weight is None or decay is None:
            continue
        initial, grad_final, sign = getattr(state, name), getattr(grad_state, name), 1
        if weight.ndim == 1:  # what a neuron has once
            weight, decay, initial, sign = weight[:, None], decay[:, None], initial[:, :, None], -1
            grad_final = None if grad_final is None else grad_final[:, :, None]
        currents[name] = Filter(weight, decay, initial, grad_final, sign)
    return currents


# long: a step backwards through every current, to be read as one
def backward(
    inputs: Tensor,
    layer: LayerTensors,
    state: HetSynState,
    v: Tensor,
    output_gradients: OutputGradients,
    surrogate: Surrogate,
    detach_reset: bool,
    needs_grad: NeedsGrad,
) -> Gradients:
    """See `Kernel.backward`."""
    currents = filters(layer, state, output_gradients.state)
    of_inputs, of_spikes = _add_delay_lines(currents, inputs, layer, state, v)
    gv, gz = (torch.zeros_like(v) if g is None else g.clone() for g in (output_gradients.v, output_gradients.spikes))
    gz_initial = torch.zeros_like(v[:1].sum(0))
    g_inputs = torch.zeros_like(inputs) if needs_grad.inputs or needs_grad.past_inputs else None
    derivative = None if layer.threshold is None else surrogate.derivative(v - layer.threshold, layer.threshold)
    in_reverse = [name for name in currents if name != "current" or g_inputs is not None or needs_grad.current]

    for t in reversed(range(len(v))):
        if of_spikes is not None and t < len(v) - 1:
            gz[t] += of_spikes.gradients[of_spikes.most + t + 1]  # what synapses of later steps have taken
        if derivative is not None:
            gv[t] += gz[t] * derivative[t]
        gz_prev = gz[t - 1] if t > 0 else gz_initial
        for name in in_reverse:
            current = currents[name]
            at_t, weight = current.step_back(gv[t]), current.weight
            if current.line is not None:
                current.line.back(t, at_t * weight)
            elif name == "current":
                if g_inputs is not None:
                    g_inputs[t] = torch.einsum("bnm,nm->bm", at_t, weight)
            elif name == "recurrent_current":
                gz_prev += torch.einsum("bnk,nk->bk", at_t, weight)
            elif name == "adaptation" or not detach_reset:
                gz_prev += (weight * at_t)[:, :, 0]

    g_layer = _layer_gradients(currents, inputs, layer, state, v, gv, needs_grad)
    if needs_grad.threshold and derivative is not None:
        grad_threshold = -(gz * derivative).sum((0, 1))
        g_layer["threshold"] = grad_threshold + g_layer["threshold"] if "threshold" in g_layer else grad_threshold
    if needs_grad.bias:
        g_layer["bias"] = gv.sum((0, 1))
    g_state = {name: f.adjoint.reshape(getattr(state, name).shape) for name, f in currents.items()}
    if of_inputs is not None:
        g_state["past_inputs"], g_inputs = of_inputs.gradients.tensor_split([of_inputs.most])
    if of_spikes is not None:
        g_state["past_spikes"], g_first = of_spikes.gradients[: of_spikes.most + 1].tensor_split([of_spikes.most])
        gz_initial = gz_initial + g_first[0]
    return Gradients(g_inputs, g_layer, HetSynState(**{**g_state, "spikes": gz_initial}))


def _add_delay_lines(
    currents: dict[str, Filter], inputs: Tensor, layer: LayerTensors, state: HetSynState, v: Tensor
) -> tuple[DelayLine | None, DelayLine | None]:
    """Give the currents whose synapses have delays their lines, and return those of the inputs and of the spikes."""
    if layer.delay is not None:
        sources = with_past(state.past_inputs, inputs)
        currents["current"].line = DelayLine(sources, layer.delay, len(state.past_inputs))
    if layer.recurrent_delay is not None:
        sources = with_past(state.past_spikes, _spikes_before(layer, state, v))
        currents["recurrent_current"].line = DelayLine(sources, layer.recurrent_delay, len(state.past_spikes))
    of_spikes = currents["recurrent_current"].line if "recurrent_current" in currents else None
    return currents["current"].line, of_spikes


def _spikes_before(layer: LayerTensors, state: HetSynState, v: Tensor) -> Tensor:
    """z[t-1] of every step, (T, B, N)."""
    return torch.cat([state.spikes[None], (v > layer.threshold).to(v.dtype)])[:-1]


def _layer_gradients(
    currents: dict[str, Filter],
    inputs: Tensor,
    layer: LayerTensors,
    state: HetSynState,
    v: Tensor,
    gv: Tensor,
    needs_grad: NeedsGrad,
) -> dict[str, Tensor | None]:
    """Gradients of the weights and decays of all currents where one of the two is asked for."""
    g: dict[str, Tensor | None] = {}
    for name, current in currents.items():
        weight, decay = FIELDS_OF[name]
        delay = DELAY_OF.get(name, "")
        if not any(getattr(needs_grad, field, False) for field in (weight, decay, delay)):
            continue
        if name == "current":
            sources = inputs[:, :, None, :]
        else:
            z = _spikes_before(layer, state, v)
            sources = z[:, :, None, :] if name == "recurrent_current" else z[:, :, :, None]
        g_weight, g_decay, g_delay = current.parameter_gradients(sources, gv)
        g[weight] = g_weight.reshape(getattr(layer, weight).shape)
        g[decay] = g_decay.reshape(getattr(layer, decay).shape)
        if g_delay is not None:
            g[delay] = g_delay
    return g
