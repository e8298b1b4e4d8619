"""K decays that the synapses of a layer share, as tensors: which synapse has which, and what trains them.

`core/codebook.py` says with which decays training begins; `trainable.py` stores them under the names of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core import codebook
from hetsyn_plugins.core.autograd import differentiable_once, transforming
from hetsyn_plugins.core.codebook import INDICES, Scale
from hetsyn_plugins.core.fields import MASKS, SYNAPTIC

WEIGHT_OF = {"decay": "weight", "recurrent_decay": "recurrent_weight"}
MASK_OF = {f"{kind}decay": name for name, kind in MASKS.items()}
LATENTS = {field: f"latent_{field}" for field in SYNAPTIC}


class Shared(torch.autograd.Function):
    """codebook[index]; backwards the sum over all that share a decay, added up in float64.

    Torch's own backward of an index takes as long as a whole layer.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(decays: Tensor, index: Tensor) -> Tensor:
        return decays.index_select(0, index.flatten()).view(index.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @differentiable_once("the decays of a codebook")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        decays, index = ctx.saved_tensors
        if gradient.device.type == "cpu" and not transforming():
            sums = torch.bincount(index.flatten(), gradient.flatten().double(), minlength=len(decays))
            return sums.to(decays.dtype), None
        of_each = [gradient.masked_fill(index != k, 0.0).sum(dtype=torch.float64) for k in range(len(decays))]
        return torch.stack(of_each).to(decays.dtype), None


def shared(decays: Tensor, index: Tensor, latent: Tensor | None = None) -> Tensor:
    """The decay of every synapse; with latent ones, in the shape of the index, they get its gradient as it is."""
    decay: Tensor = Shared.apply(decays, index)
    return decay if latent is None else decay + (latent - latent.detach())


def start(tensors: Mapping[str, Tensor | None], clusters: int) -> dict[str, Tensor | None]:
    """Of the fields of a layer, decays (N, M) and (N, N): the codebook in their place, indices and latent decays.

    Both decays become the same tensor (K,). Raises ValueError for more clusters than synapses.
    """
    decays = {field: decay for field in SYNAPTIC if (decay := tensors.get(field)) is not None}
    started: dict[str, Tensor | None] = {LATENTS[field]: decay for field, decay in decays.items()}
    arrays = [_array(decay) for decay in decays.values()]
    weights = [_array(tensors[WEIGHT_OF[field]]) for field in decays]
    masks = [None if (mask := tensors.get(MASK_OF[field])) is None else mask.numpy() for field in decays]
    book, indices = codebook.start(arrays, weights, clusters, masks=masks)
    like = next(iter(decays.values()))
    shared_decays = torch.from_numpy(book).to(like)
    for field, index in zip(decays, indices, strict=True):
        started[field] = shared_decays
        started[INDICES[field]] = torch.from_numpy(index).to(like.device)
    return started


def nearest(latent: Tensor, decays: Tensor, scale: Scale) -> Tensor:
    """The index of the decay, of those in any order, that is nearest to each latent one."""
    ascending, order = decays.detach().double().cpu().sort()
    found = scale.nearest(latent.detach().double().cpu().numpy(), ascending.numpy())
    return order[torch.from_numpy(found)].to(latent.device, torch.int32)


def _array(tensor: Any) -> Any:
    """In float64; one without values has as many different ones as it has entries."""
    if tensor.is_meta:
        return np.linspace(0.1, 0.9, tensor.numel()).reshape(tensor.shape)
    return tensor.detach().double().cpu().numpy()
