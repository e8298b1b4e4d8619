"""Layers of plain data as slayer's blocks and back, for `convert`.

Blocks that are made compute in float, without slayer's step of delay between layers, so that a network gives the same
values as everywhere; they take (B, M, T), as all of slayer. `deployment.export` brings them to the chip's integers as
any network. Blocks that are read may have that step of delay: what they give comes as many steps later as there are
such blocks. Blocks that compute in integers are not read: no float layer gives their values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hetsyn_plugins.adapters.lava_dl.slayer.block import Affine, Dense, Layer, Recurrent
from hetsyn_plugins.adapters.lava_dl.slayer.convolution import Patches
from hetsyn_plugins.core.fields import DECAYS, SYNAPTIC
from hetsyn_plugins.core.network import HetSynLayer
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.ops.trainable import TrainableFields


def build_layer(layer: HetSynLayer, *, quantised: bool = False) -> Layer:
    """The block of a layer, with what is trained of it as it is stored. Raises ValueError for what no block has."""
    if not layer.autapses or layer.batch_first:
        option = "autapses=False" if not layer.autapses else "batch_first=True"
        raise ValueError(f"net: layer {layer.name!r} has {option}, which slayer's blocks have no option for")
    if layer.codebook is not None:
        raise ValueError(
            f"net: layer {layer.name!r} has share='codebook', which slayer's blocks have no option for; "
            "dataclasses.replace(layer, share='synapse', stored={}) in the Network of to='reference' lets every "
            "synapse train its own decay"
        )
    kind: Any = Affine
    if layer.params.spiking:
        kind = Dense if layer.params.recurrent_weight is None else Recurrent
    options: dict[str, Any] = {name: getattr(layer, name) for name in ("share", "parametrization", "tie_reset", "dt")}
    options["neuron_params"] = {"surrogate": layer.surrogate, "detach_reset": layer.detach_reset}
    options["learn_decay"] = not layer.learned.isdisjoint(SYNAPTIC)
    try:
        block: Layer = kind.from_params(layer.params, delay_shift=False, quantised=quantised, **options)
    except ValueError as error:
        raise ValueError(f"layer {layer.name!r}: {error}") from error
    return block


def carry_training(layer: HetSynLayer, block: Layer) -> None:
    """Give a block the tensors that the layer trains in the place of its decays, and train what the layer trains."""
    with torch.no_grad():
        for field, array in layer.stored.items():
            part, name = _holder(block, field)
            getattr(part, part.stored_name(name)).copy_(torch.tensor(np.array(array)))
    for field, tensor in _trained(block):
        tensor.requires_grad_(field in layer.learned)


def container(layers: list[tuple[str, nn.Module]]) -> nn.Sequential:
    """What holds the blocks of a network. Raises ValueError for a layer that has no place between blocks."""
    for name, module in layers:
        if not isinstance(module, (Layer, nn.Dropout)):
            kind = type(module).__name__
            raise ValueError(
                f"net: expected HetSyn layers and Dropout for slayer, got {name!r}, a {kind}, in front of one"
            )
    return nn.Sequential(OrderedDict(layers))


def merge_stock(linear: nn.Linear, neuron: nn.Module) -> tuple[HetSynParams, frozenset[str], Surrogate] | None:
    """None: slayer's neurons stand in blocks, with two decays each, and no HetSyn layer is exactly one of them."""
    return None


def plain_layer(name: str, block: Layer) -> HetSynLayer:
    """The layer of a float block. Raises ValueError for one that gives other values than such a layer."""
    if block.neuron.arithmetic.quantised:
        raise ValueError(
            f"net: block {name!r} computes in integers, which no float layer does: expected quantised=False, got True; "
            'to="fixed_point" has its integers'
        )
    if isinstance(block, Patches):
        raise ValueError(
            f"net: block {name!r} is a {type(block).__name__} over images: expected blocks of dense layers; its "
            "to_params() is the dense layer that it stands for"
        )
    if block.delay is not None:
        raise ValueError(
            f"net: block {name!r} has axonal delays, which only the chip's layers have: expected delay=False"
        )
    synapse, tied = block._input, ("recurrent_decay", "reset_decay") if block.tie_reset else ()
    trained = dict(_trained(block))
    held = {field: _holder(block, field) for field in DECAYS if field not in tied}
    there = {field: part.stored(own) for field, (part, own) in held.items() if part is not None}
    stored = {} if synapse.parametrization == "decay" else {k: v for k, v in there.items() if v is not None}
    return HetSynLayer(
        name,
        block.to_params(),
        dt=synapse.dt,
        share=synapse.share,
        parametrization=synapse.parametrization,
        tie_reset=block.tie_reset,
        detach_reset=block.neuron.detach_reset,
        surrogate=block.surrogate,
        learned=frozenset(field for field, tensor in trained.items() if tensor.requires_grad),
        stored={field: tensor.detach().cpu().numpy().copy() for field, tensor in stored.items()},
    )


def _holder(block: Layer, field: str) -> tuple[Any, str]:
    """The part of a block that holds a decay, and its name there; (None, ...) where it has none."""
    synapses: dict[str, TrainableFields] = dict(zip(SYNAPTIC, (block._input, *block._others), strict=False))
    if field in SYNAPTIC:
        return synapses.get(field), "decay"
    return (block.neuron if block.spiking and block.neuron.stored(field) is not None else None), field


def _trained(block: Layer) -> Iterator[tuple[str, Tensor]]:
    """Core field and parameter of all that a block may train."""
    for field, synapse in zip(("weight", "recurrent_weight"), (block._input, *block._others), strict=False):
        yield field, synapse._learned()
    for field in (*DECAYS, "threshold", "adaptation_strength", "bias"):
        part, name = _holder(block, field) if field in SYNAPTIC else (block.neuron, field)
        tensor = None if part is None else part.stored(name)
        if isinstance(tensor, nn.Parameter):
            yield field, tensor
