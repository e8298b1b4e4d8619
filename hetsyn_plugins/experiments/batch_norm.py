"""Batch norm between layers of spiking neurons: it scales, and takes nothing away.

    y_j = g_j x_j / sqrt(q_j + EPSILON),    q_j = mean over steps and batch of x_j^2

(Ioffe & Szegedy 2015, arXiv 1502.03167, without its shift.) A shift would be a current through each synapse with its
own time constant, and no network of these neurons is equal to that; a scale is one of the weights behind it, and so a
trained network is one without batch norm (`folded`). No spike, no input: what is silent stays silent.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from hetsyn_plugins.core.network import HetSynLayer
from hetsyn_plugins.experiments.tasks.task import mean_of_steps

EPSILON = 1e-3  # a neuron that fires at one step of a thousand
MOMENTUM = 0.1


class BatchNorm(nn.Module):
    """Scales (T, B, N) by the batch's own mean squares in training, else by their running means."""

    running: Tensor

    def __init__(self, neurons: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(neurons))
        self.register_buffer("running", torch.ones(neurons))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.training:
            squares = mean_of_steps(x.square(), lengths)
            with torch.no_grad():
                self.running.lerp_(squares, MOMENTUM)
        else:
            squares = self.running
        return x * (self.gain * (squares + EPSILON).rsqrt())

    def folded(self, layer: HetSynLayer) -> HetSynLayer:
        """The layer behind it as one that does the scaling itself, with the running means."""
        scale = (self.gain * (self.running + EPSILON).rsqrt()).detach().cpu().numpy()
        return replace(layer, params=replace(layer.params, weight=layer.params.weight * scale))
