"""The neuron in plain torch: the step, and the forward and backward pass over a whole sequence.

The step is the one place in torch where the equations of `reference.py` stand. The backward pass keeps no current of
any step. With gv[t] = dLoss/dv[t], it needs two sweeps whose memory does not grow with T beyond (T, B, N + M):

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
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.kernels.interface import Gradients, LayerTensors


def step(
    x: Tensor,
    state: HetSynState,
    p: LayerTensors,
    surrogate: Surrogate,
    detach_reset: bool = False,
    quantise: Callable[[Tensor], Tensor] | None = None,
) -> HetSynState:
    """One step, differentiable by autograd: inputs (B, M) and the state before it give the state after it.

    Kept by autograd for backward: the currents, (B, N, M) and (B, N, N), of every step taken this way.
    `quantise` is applied to every current and to v, before the spike.
    """
    q = quantise or (lambda t: t)
    current = q(torch.addcmul(p.decay * state.current, p.weight, x[:, None, :]))
    v = current.sum(-1)
    recurrent = reset = adaptation = spikes = None
    z = state.spikes
    if p.recurrent_weight is not None:
        recurrent = q(torch.addcmul(p.recurrent_decay * state.recurrent_current, p.recurrent_weight, z[:, None, :]))
        v = v + recurrent.sum(-1)
    if p.reset_decay is not None:
        reset = q(p.reset_decay * state.reset + p.threshold * (z.detach() if detach_reset else z))
        v = v - reset
    if p.adaptation_decay is not None:
        adaptation = q(p.adaptation_decay * state.adaptation + p.adaptation_strength * z)
        v = v - adaptation
    if p.bias is not None:
        v = v + p.bias
    v = q(v)
    if p.threshold is not None:
        spikes = spike(v - p.threshold, p.threshold, surrogate)
    return HetSynState(current, recurrent, reset, adaptation, spikes, v)


def forward(inputs: Tensor, p: LayerTensors, state: HetSynState, surrogate: Surrogate) -> tuple[Tensor, HetSynState]:
    """v of every step, (T, B, N), and the state after the last, for inputs (T, B, M); called without autograd."""
    v = inputs.new_empty((*inputs.shape[:2], len(p.weight)))
    for t, x in enumerate(inputs.unbind(0)):
        state = step(x, state, p, surrogate)
        v[t] = state.v
    return v, state


class Filter:
    """One leaky current of the neuron, C[t] = decay C[t-1] + weight s[t], of shape (B, N, K), in the backward pass.

    Synapses have K lines, which all neurons share: s is (B, 1, K). Reset and adaptation have K = 1, s is (B, N, 1).
    `sign` is that of C in v, `start` is C before the first step, `owed` is dLoss/dC after the last (or None: 0).
    """

    def __init__(self, weight: Tensor, decay: Tensor, start: Tensor, owed: Tensor | None, sign: int) -> None:
        self.weight, self.decay, self.start, self.owed, self.sign = weight, decay, start, owed, sign
        self.adjoint = torch.zeros_like(start) if owed is None else owed.clone()

    def step_back(self, gv: Tensor) -> Tensor:
        """Take the adjoint from t+1 to t, given dLoss/dv[t] (B, N), and return dLoss/dC[t]; `adjoint` moves on."""
        at_t = self.adjoint + self.sign * gv[:, :, None]
        self.adjoint = self.decay * at_t
        return at_t

    def parameter_gradients(self, sources: Tensor, gv: Tensor) -> tuple[Tensor, Tensor]:
        """dLoss/dweight and dLoss/ddecay, (N, K), from s (T, B, 1 or N, K) and dLoss/dv (T, B, N)."""
        current, trace, sensitivity = self.start, torch.zeros_like(self.start), torch.zeros_like(self.start)
        g_weight, g_decay = torch.zeros_like(self.weight), torch.zeros_like(self.decay)
        for s, g in zip(sources.unbind(0), gv.unbind(0), strict=True):
            sensitivity = torch.addcmul(current, self.decay, sensitivity)
            current = torch.addcmul(self.decay * current, self.weight, s)
            trace = torch.addcmul(s, self.decay, trace)
            g_weight += torch.einsum("bn,bnk->nk", g, trace)
            g_decay += torch.einsum("bn,bnk->nk", g, sensitivity)
        g_weight, g_decay = self.sign * g_weight, self.sign * g_decay
        if self.owed is not None:
            g_weight += (self.owed * trace).sum(0)
            g_decay += (self.owed * sensitivity).sum(0)
        return g_weight, g_decay


def filters(p: LayerTensors, state: HetSynState, owed: HetSynState) -> dict[str, Filter]:
    """The leaky currents that this layer has, by the name of their state."""

    def own(weight: Tensor, decay: Tensor, start: Tensor, late: Tensor | None) -> Filter:
        late = None if late is None else late[:, :, None]
        return Filter(weight[:, None], decay[:, None], start[:, :, None], late, sign=-1)

    found = {"current": Filter(p.weight, p.decay, state.current, owed.current, sign=1)}
    if p.recurrent_weight is not None and p.recurrent_decay is not None:
        found["recurrent_current"] = Filter(
            p.recurrent_weight, p.recurrent_decay, state.recurrent_current, owed.recurrent_current, sign=1
        )
    if p.reset_decay is not None and p.threshold is not None:
        found["reset"] = own(p.threshold, p.reset_decay, state.reset, owed.reset)
    if p.adaptation_decay is not None and p.adaptation_strength is not None:
        found["adaptation"] = own(p.adaptation_strength, p.adaptation_decay, state.adaptation, owed.adaptation)
    return found


# which terms are the weight and the decay of a current; the reset current's weight is the threshold
TERMS_OF = {
    "current": ("weight", "decay"),
    "recurrent_current": ("recurrent_weight", "recurrent_decay"),
    "reset": ("threshold", "reset_decay"),
    "adaptation": ("adaptation_strength", "adaptation_decay"),
}


def fire(v: Tensor, threshold: Tensor) -> Tensor:
    """z = H(v - threshold), (T, B, N)."""
    return torch.gt(v, threshold, out=torch.empty_like(v))


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
    """Backpropagation through time, from what `forward` took and gave.

    grad_spikes, grad_v  dLoss/dspikes and dLoss/dv, (T, B, N), or None: zero
    grad_state           dLoss/d(returned currents), None in a field: zero; its spikes and v are not read
    needs_grad               booleans in the place of the gradients
    """
    found = filters(p, state, grad_state)
    gv = torch.zeros_like(v) if grad_v is None else grad_v.clone()
    gz = torch.zeros_like(v) if grad_spikes is None else grad_spikes.clone()
    gz_first = torch.zeros_like(v[:1].sum(0))
    g_inputs = torch.zeros_like(inputs) if needs_grad.inputs else None
    derivative = None if p.threshold is None else surrogate.derivative(v - p.threshold, p.threshold)
    in_reverse = [name for name in found if name != "current" or needs_grad.inputs or needs_grad.state.current]

    for t in reversed(range(len(v))):
        if derivative is not None:
            gv[t] += gz[t] * derivative[t]
        gz_before = gz[t - 1] if t > 0 else gz_first
        for name in in_reverse:
            at_t, weight = found[name].step_back(gv[t]), found[name].weight
            if name == "current":
                if g_inputs is not None:
                    g_inputs[t] = torch.einsum("bnm,nm->bm", at_t, weight)
            elif name == "recurrent_current":
                gz_before += torch.einsum("bnk,nk->bk", at_t, weight)
            elif name == "adaptation" or not detach_reset:
                gz_before += (weight * at_t)[:, :, 0]

    g = _term_gradients(found, inputs, p, state, v, gv, needs_grad.terms)
    if needs_grad.terms.threshold and derivative is not None:
        fired = -(gz * derivative).sum((0, 1))
        g["threshold"] = fired + g["threshold"] if "threshold" in g else fired
    if needs_grad.terms.bias:
        g["bias"] = gv.sum((0, 1))
    adjoints = {name: f.adjoint.reshape(getattr(state, name).shape) for name, f in found.items()}
    terms = LayerTensors(**{"weight": None, "decay": None, **g})  # type: ignore[arg-type]  # None: not needs_grad
    return Gradients(g_inputs, terms, HetSynState(**{**adjoints, "spikes": gz_first}))


def _term_gradients(
    found: dict[str, Filter],
    inputs: Tensor,
    p: LayerTensors,
    state: HetSynState,
    v: Tensor,
    gv: Tensor,
    needs_grad: LayerTensors,
) -> dict[str, Tensor]:
    """Gradients of the weights and decays of all currents for which one of the two is needs_grad."""
    g: dict[str, Tensor] = {}
    for name, current in found.items():
        weight, decay = TERMS_OF[name]
        if not (getattr(needs_grad, weight) or getattr(needs_grad, decay)):
            continue
        if name == "current":
            sources = inputs[:, :, None, :]
        else:
            z = torch.cat([state.spikes[None], (v > p.threshold).to(v.dtype)])[:-1]
            sources = z[:, :, None, :] if name == "recurrent_current" else z[:, :, :, None]
        g_weight, g_decay = current.parameter_gradients(sources, gv)
        g[weight] = g_weight.reshape(getattr(p, weight).shape)
        g[decay] = g_decay.reshape(getattr(p, decay).shape)
    return g
