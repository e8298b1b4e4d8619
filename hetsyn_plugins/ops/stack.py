"""A network of plain data through the op: `core.network.Network.run` in torch, through the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core.fields import ARRAYS, HetSynState
from hetsyn_plugins.core.network import AlwaysOn, HetSynLayer, Linear, Network, check_flat
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.ops.lif import hetsyn_li, hetsyn_lif


def run(network: Network, inputs: Tensor) -> dict[str, tuple[Tensor | None, Tensor]]:
    """Run every HetSyn layer of a network on inputs (T, B, M) of the first layer, each in its own dtype.

    Returns name -> (spikes, v), each (T, B, N), spikes None for a readout, in the order of the layers.
    """
    check_flat(network, "this run")
    x = inputs
    results: dict[str, tuple[Tensor | None, Tensor]] = {}
    for layer in network.layers:
        if isinstance(layer, HetSynLayer):
            fields = tensors(layer.params)
            spikes, v, _ = run_layer(x.to(fields["weight"].dtype), fields, layer.params.spiking)
            results[layer.name] = (spikes, v)
            x = v if spikes is None else spikes
        elif isinstance(layer, Linear):
            weight = torch.tensor(np.array(layer.weight))
            x = x.to(weight.dtype) @ weight.T
            x = x if layer.bias is None else x + torch.tensor(np.array(layer.bias))
        elif isinstance(layer, AlwaysOn):
            x = torch.cat([x, x.new_ones((*x.shape[:2], 1))], dim=2)
    return results


def run_layer(
    inputs: Tensor,
    fields: dict[str, Any],
    spiking: bool,
    *,
    state: HetSynState | None = None,
    surrogate: Surrogate | None = None,
    detach_reset: bool = False,
) -> tuple[Tensor | None, Tensor, HetSynState]:
    """Spikes (T, B, N), None for a readout, v (T, B, N) and the state after the last step, of a layer or a readout.

    fields  all fields of the core, as `hetsyn_lif` takes them; the rest as there
    """
    if spiking:
        return hetsyn_lif(inputs, **fields, state=state, surrogate=surrogate, detach_reset=detach_reset)
    parts = {name: fields[name] for name in ("weight", "decay", "bias", "delay")}
    v, state = hetsyn_li(inputs, **parts, state=state)
    return None, v, state


def tensors(params: HetSynParams) -> dict[str, Any]:
    """The fields of a layer as tensors of their own, None where it has no such field."""
    arrays = {name: getattr(params, name) for name in ARRAYS}
    return {name: None if array is None else torch.tensor(np.array(array)) for name, array in arrays.items()}
