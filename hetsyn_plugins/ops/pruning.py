"""Take synapses out of a network that trains: `prune_` sets the masks of its layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hetsyn_plugins.core.fields import MASKS
from hetsyn_plugins.core.validation import as_number
from hetsyn_plugins.ops.layer import HetSynModule
from hetsyn_plugins.ops.trainable import fields_of

BY = ("magnitude", "gain")


@torch.no_grad()
def prune_(net: nn.Module, density: float, by: str = "magnitude") -> int:
    """Keep the strongest synapses of every HetSyn layer in net, input and recurrent ones apart, and mask out the rest.

    net      a network of any framework, at any depth: the layer itself, a Sequential, ...
    density  what part of all synapses of a layer stays, above 0 and at most 1; those masked out before stay out
    by       "magnitude": |w|; "gain": |w| / (1 - r), what a constant input comes to (r = 1: beyond all others)

    Call it again with less as training goes on. Returns how many synapses are left. Weights and decays stay stored;
    optimisers with momentum go on moving what is masked out, where it has no effect.

    Raises ValueError for a net without such layers, a density or a `by` that is none of these.
    """
    if by not in BY:
        raise ValueError(f"by: expected one of {', '.join(BY)}, got {by!r}")
    if not 0 < as_number(density) <= 1:
        raise ValueError(f"density: expected a part of the synapses, > 0 and at most 1, got {density!r}")
    modules = net.modules() if isinstance(net, nn.Module) else ()
    layers = [module for module in modules if isinstance(module, HetSynModule) and "mask" in fields_of(module).names]
    if not layers:
        raise ValueError(f"net: expected a torch module with HetSyn layers that have masks, got {type(net).__name__}")
    return sum(_prune(layer, density, by) for layer in layers)


def _prune(layer: HetSynModule, density: float, by: str) -> int:
    tensors, fields, left = layer.tensors(), fields_of(layer), 0
    for name, kind in MASKS.items():
        weight = tensors[f"{kind}weight"]
        if weight is None:
            continue
        strength = _strength(weight, tensors[f"{kind}decay"], by)
        if tensors[name] is not None:
            strength = strength.masked_fill(~tensors[name].bool(), -1.0)
        count = max(1, round(density * strength.numel()))
        mask = torch.zeros(strength.numel(), dtype=torch.bool, device=strength.device)
        mask[strength.flatten().topk(count).indices] = True
        mask = mask.view(strength.shape) & (strength >= 0)
        setattr(fields, fields.stored_name(name), mask)
        left += int(mask.sum())
    return left


def _strength(weight: Tensor, decay: Tensor, by: str) -> Tensor:
    if by == "magnitude":
        return weight.abs()
    decay = decay[:, None] if decay.ndim == 1 else decay
    # beyond all others, and 0 for a weight of 0, where the division would give infinity and NaN
    return (weight.abs().double() / (1 - decay.double()).clamp(min=1e-12)).expand(weight.shape)
