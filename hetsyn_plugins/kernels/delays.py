"""Synapses with delays, in torch: what each gets of the sources of earlier steps, and where its gradient goes.

d = k + f steps, f in [0, 1]: a synapse gets (1 - f) s[t-k] + f s[t-k-1]. A whole delay is the beginning of a piece, the
longest one the end of it, so that its neighbours are steps that are kept (`core/reference.py`, `taps`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState


def pieces(delay: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """k, whole steps, and f, differentiable by the delay, of delays (N, K) up to `most` steps."""
    k = delay.detach().floor().clamp(max=max(most - 1, 0))
    return k.long(), delay - k


def delayed(sources: Tensor, delay: Tensor) -> Tensor:
    """What each synapse gets, (B, N, K), of the sources (D + 1, B, K) of the last steps, the latest last."""
    most = len(sources) - 1
    if most == 0:
        return sources[0][:, None, :].expand(-1, *delay.shape)
    k, f = pieces(delay, most)
    earlier, later = (_taken(sources, most - lag) for lag in (k, k + 1))
    return (1 - f) * earlier + f * later


def _taken(sources: Tensor, at: Tensor) -> Tensor:
    """Of sources (T, B, K) those at the steps (N, K), as (B, N, K)."""
    lines = torch.arange(at.shape[1], device=at.device)
    return sources[at, :, lines].permute(2, 0, 1)


def with_past(past: Tensor | None, sources: Tensor) -> Tensor:
    """Sources (T, B, K) with those that a state keeps in front."""
    return sources if past is None else torch.cat([past, sources])


def kept(state: HetSynState, inputs: Tensor, spikes: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """`past_inputs` and `past_spikes` after the steps of inputs (T, B, M), which fired spikes (T, B, N)."""
    past_inputs = past_spikes = None
    if state.past_inputs is not None:
        past_inputs = with_past(state.past_inputs, inputs)[len(inputs) :]
    if state.past_spikes is not None and spikes is not None:
        fired = torch.cat([state.past_spikes, state.spikes[None], spikes])
        past_spikes = fired[len(spikes) : len(fired) - 1]
    return past_inputs, past_spikes


def through_past(
    grad_state: HetSynState, inputs: Tensor, neurons: int
) -> tuple[Tensor | None, Tensor | None, HetSynState]:
    """What gradients of the last state's past give the inputs (T, B, M), the spikes (T, B, N) and the first state."""
    steps, batch, lines = inputs.shape
    of_inputs = of_spikes = None
    first = HetSynState(None)
    if grad_state.past_inputs is not None:
        most = len(grad_state.past_inputs)
        sources = grad_state.past_inputs.new_zeros((most + steps, batch, lines))
        sources[steps:] = grad_state.past_inputs
        first, of_inputs = first._replace(past_inputs=sources[:most]), sources[most:]
    if grad_state.past_spikes is not None:
        most = len(grad_state.past_spikes)
        sources = grad_state.past_spikes.new_zeros((most + 1 + steps, batch, neurons))
        sources[steps : steps + most] = grad_state.past_spikes
        first, of_spikes = first._replace(past_spikes=sources[:most], spikes=sources[most]), sources[most + 1 :]
    return of_inputs, of_spikes, first


class DelayLine:
    """The sources of delayed synapses over a sequence, step by step, and the gradients that they are given.

    sources  (D + T, B, K), those of the D steps before in front
    delay    (N, K), up to D
    """

    def __init__(self, sources: Tensor, delay: Tensor, most: int) -> None:
        self.sources, self.most = sources, most
        self.k, self.f = pieces(delay, most)
        self.of_lines = torch.zeros_like(sources.transpose(1, 2))
        self.lines = torch.arange(delay.shape[1], device=delay.device)

    def at(self, t: int) -> tuple[Tensor, Tensor]:
        """What each synapse gets at step t, and its derivative by the delay, (B, N, K)."""
        earlier = _taken(self.sources, t + self.most - self.k)
        if self.most == 0:
            return earlier, torch.zeros_like(earlier)
        later = _taken(self.sources, t + self.most - self.k - 1)
        return (1 - self.f) * earlier + self.f * later, later - earlier

    def back(self, t: int, gradient: Tensor) -> None:
        """Hand the gradient of what was got at step t, (B, N, K), on to the sources."""
        g = gradient.permute(1, 2, 0)
        at = t + self.most - self.k
        self.of_lines.index_put_((at, self.lines), (1 - self.f)[:, :, None] * g, accumulate=True)
        if self.most:
            self.of_lines.index_put_((at - 1, self.lines), self.f[:, :, None] * g, accumulate=True)

    @property
    def gradients(self) -> Tensor:
        """dLoss/dsources so far, (D + T, B, K): a view."""
        return self.of_lines.transpose(1, 2)
