"""Take synapses out of a network: `prune_` sets the masks of layers that train, `pruned` those of plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hetsyn_plugins.core.fields import MASKS, NAMES
from hetsyn_plugins.core.network import HetSynConv, HetSynLayer, Layer, Network
from hetsyn_plugins.core.validation import as_number
from hetsyn_plugins.ops.layer import HetSynModule
from hetsyn_plugins.ops.trainable import fields_of

BY = ("magnitude", "gain")


def check_pruning(density: float, by: str, names: Mapping[str, str] = NAMES) -> None:
    """Raise ValueError, by these names, for a density or a `by` that is none."""
    if by not in BY:
        raise ValueError(f"{names.get('by', 'by')}: expected one of {', '.join(BY)}, got {by!r}")
    if not 0 < as_number(density) <= 1:
        what = f"a part of the synapses, > 0 and at most 1, got {density!r}"
        raise ValueError(f"{names.get('density', 'density')}: expected {what}")


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
    check_pruning(density, by)
    left = 0
    for layer in _layers(net):
        tensors, fields = layer.tensors(), fields_of(layer)
        for name, mask in _masks(tensors, density, by):
            like: Any = layer.stored(f"{MASKS[name]}weight")  # which of a convolution is a kernel
            setattr(fields, fields.stored_name(name), mask.view(like.shape))
            left += int(mask.sum())
    return left


def density_of(net: nn.Module) -> float:
    """What part of the synapses of all HetSyn layers in net is there. Raises ValueError as `prune_`."""
    there, total = 0, 0
    for layer in _layers(net):
        for name, kind in MASKS.items():
            weight = layer.stored(f"{kind}weight")
            if weight is not None:
                mask = layer.stored(name)
                total += weight.numel()
                there += weight.numel() if mask is None else int(mask.bool().sum())
    return there / total


def pruned(network: Network, density: float, by: str = "magnitude") -> Network:
    """The same of plain data: a copy of the network whose layers have masks.

    Raises ValueError for one without HetSyn layers, and as `prune_`.
    """
    check_pruning(density, by)
    if not any(isinstance(layer, HetSynLayer | HetSynConv) for layer in network.layers):
        raise ValueError("network: expected one with HetSyn layers, got none")
    return Network(tuple(_pruned(layer, density, by) for layer in network.layers))


def _pruned(layer: Layer, density: float, by: str) -> Layer:
    if isinstance(layer, HetSynConv):
        neurons: Any = _pruned(layer.layer, density, by)
        return replace(layer, layer=neurons)
    if not isinstance(layer, HetSynLayer):
        return layer
    tensors = {name: getattr(layer.params, name) for name in (*MASKS, *_synapses())}
    tensors = {name: None if array is None else torch.tensor(array) for name, array in tensors.items()}
    masks: dict[str, Any] = {name: mask.numpy() for name, mask in _masks(tensors, density, by)}
    return replace(layer, params=layer.params.replace(**masks))


def _synapses() -> Iterator[str]:
    return (f"{kind}{part}" for kind in MASKS.values() for part in ("weight", "decay"))


def _layers(net: Any) -> Sequence[HetSynModule]:
    modules = net.modules() if isinstance(net, nn.Module) else ()
    layers = [module for module in modules if isinstance(module, HetSynModule) and "mask" in fields_of(module).names]
    if not layers:
        raise ValueError(f"net: expected a torch module with HetSyn layers that have masks, got {type(net).__name__}")
    return layers


def _masks(tensors: Mapping[str, Tensor | None], density: float, by: str) -> Iterator[tuple[str, Tensor]]:
    """The mask of each kind of synapses that a layer has, by its field."""
    for name, kind in MASKS.items():
        weight, decay, before = tensors[f"{kind}weight"], tensors[f"{kind}decay"], tensors[name]
        if weight is None or decay is None:
            continue
        strength = _strength(weight, decay, by)
        if before is not None:
            strength = strength.masked_fill(~before.bool(), -1.0)
        count = max(1, round(density * strength.numel()))
        mask = torch.zeros(strength.numel(), dtype=torch.bool, device=strength.device)
        mask[strength.flatten().topk(count).indices] = True
        yield name, mask.view(strength.shape) & (strength >= 0)


def _strength(weight: Tensor, decay: Tensor, by: str) -> Tensor:
    if by == "magnitude":
        return weight.abs()
    decay = decay[:, None] if decay.ndim == 1 else decay
    # beyond all others, and 0 for a weight of 0, where the division would give infinity and NaN
    return (weight.abs().double() / (1 - decay.double()).clamp(min=1e-12)).expand(weight.shape)
