"""A network with all that plain data can say, for tests of conversion, checkpoints and the walk through it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.core.network import Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.core.surrogate import Triangular

T, B, M, N, OUT = 60, 3, 7, 6, 4


def params(dtype: Any = np.float64, **changes: Any) -> HetSynParams:
    rng = np.random.default_rng(1)
    values: dict[str, Any] = {
        "weight": rng.normal(0.2, 0.5, (N, M)),
        "decay": rng.uniform(0.5, 0.98, (N, M)),
        "reset_decay": rng.uniform(0.5, 0.9, N),
        "threshold": rng.uniform(0.7, 1.1, N),
        "recurrent_weight": rng.normal(0, 0.3, (N, N)),
        "recurrent_decay": rng.uniform(0.5, 0.95, (N, N)),
        "adaptation_decay": rng.uniform(0.8, 0.99, N),
        "adaptation_strength": rng.uniform(0.01, 0.1, N),
        "bias": rng.normal(0, 0.05, N),
        **changes,
    }
    return HetSynParams(**values).astype(dtype)


def plain(dtype: Any = np.float64) -> Network:
    rng = np.random.default_rng(2)
    readout = HetSynParams.readout(rng.normal(0, 0.5, (OUT, N)), rng.uniform(0.5, 0.99, (OUT, N))).astype(dtype)
    return Network(
        (
            Linear("mix", rng.normal(0, 0.5, (M, M)).astype(dtype), rng.normal(0, 0.2, M).astype(dtype)),
            HetSynLayer("hidden", params(dtype), dt=1e-3, surrogate=Triangular(0.5, 2.0)),
            Dropout("drop", 0.25),
            HetSynLayer("out", readout, dt=1e-3),
        )
    )


def spike_trains(width: int = M, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.rand(T, B, width) < 0.4).to(dtype)


def run_hidden(net: Any, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Spikes of every HetSyn layer that spikes, and the output, in whichever framework the net is."""
    spikes: list[torch.Tensor] = []

    def note(module: nn.Module, _: Any, out: Any) -> None:
        z = out[0] if isinstance(out, tuple) else out
        if module.to_params().spiking:  # type: ignore[operator]
            spikes.append(z)

    hooks = [m.register_forward_hook(note) for m in net.modules() if hasattr(m, "to_params")]
    out = net.eval()(x)
    for hook in hooks:
        hook.remove()
    return spikes, out[0] if isinstance(out, tuple) else out


def trained(net: nn.Module) -> set[str]:
    return {name for name, tensor in net.named_parameters() if tensor.requires_grad}
