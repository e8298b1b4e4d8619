"""A network over images as the dense network that it is on images of one size: what takes lines alone can hold that.

A convolution becomes the layer with its unrolled matrix. Averages go into the weights behind them: a synapse from each
of K pixels, with the weight's K-th part and the same decay, gives what one from their mean gave. So windows may not
overlap, where a pixel would need two decays; and the largest value of a window is no sum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hetsyn_plugins.core.convolution import checked_size
from hetsyn_plugins.core.fields import FIELDS, MATRICES
from hetsyn_plugins.core.network import Flatten, HetSynConv, HetSynLayer, Layer, Network, Pool
from hetsyn_plugins.core.params import HetSynParams


def unrolled(network: Network, image: Any) -> Network:
    """The network on images of this shape, (C, H, W) or (C, L), flattened: inputs (T, B, C * H * W).

    Its layers have the names and what is learned; decays of those that become others are trained one a synapse, as r.

    Raises ValueError, naming the layer, for images that do not fit, and for pooling of another kind than averages of
    windows that do not overlap, in front of a HetSyn layer.
    """
    shape = checked_size("unrolled", image, len(image) if isinstance(image, (tuple, list)) else 0)
    layers: list[Layer] = []
    pools: list[tuple[Pool, tuple[int, ...]]] = []  # that no layer has taken in yet, with the shapes in front of them
    for layer in network.layers:
        if isinstance(layer, (HetSynConv, HetSynLayer)):
            neurons, shape = _dense(layer, shape, is_whole=not pools)
            for pool, before in reversed(pools):
                neurons = replace(neurons, params=_averaging(neurons.params, pool, before))
            layers.append(neurons)
            pools = []
        elif isinstance(layer, Pool):
            pools.append((layer, shape))
            _check_image(layer, shape, len(layer.kernel_size))
            shape = (shape[0], *layer.window.output_size(shape[1:]))
        elif not isinstance(layer, Flatten):
            layers.append(layer)
    for pool, _ in pools:
        raise ValueError(f"layer {pool.name!r}: expected a HetSyn layer behind pooling, which takes it in, got none")
    return Network(tuple(layers))


def _dense(
    layer: HetSynConv | HetSynLayer, shape: tuple[int, ...], is_whole: bool
) -> tuple[HetSynLayer, tuple[int, ...]]:
    """The dense layer that one is on images of this shape, and the shape behind it.

    is_whole   nothing will be taken into it: a dense layer stays what it is
    """
    if isinstance(layer, HetSynLayer) and is_whole:
        return layer, layer.params.weight.shape[:1]
    own: dict[str, Any] = {"share": "synapse", "codebook": None, "stored": {}}
    own |= {"parametrization": "decay", "tie_reset": False}
    if isinstance(layer, HetSynLayer):
        return replace(layer, params=layer.params.expanded(), **own), layer.params.weight.shape[:1]
    convolution = layer.convolution
    _check_image(layer, shape, convolution.axes, convolution.in_channels)
    dense = replace(layer.layer, params=convolution.unrolled(layer.layer.params, shape[1:], "unrolled"), **own)
    return dense, (convolution.out_channels, *convolution.output_size(shape[1:]))


def _check_image(layer: Layer, shape: tuple[int, ...], axes: int, channels: int | None = None) -> None:
    if len(shape) != 1 + axes or channels not in (None, shape[0]):
        expected = f"images of {axes} axes" + ("" if channels is None else f" and {channels} channels")
        raise ValueError(f"unrolled: expected {expected} for layer {layer.name!r}, got (C, ...) = {shape}")


def _averaging(params: HetSynParams, pool: Pool, shape: tuple[int, ...]) -> HetSynParams:
    """The layer behind pooling as one of what is in front of it, images of this shape."""
    if pool.kind != "average":
        raise ValueError(f"layer {pool.name!r}: expected averages, which are sums, got the {pool.kind} values")
    (channels, *size), (seen,) = shape, pool.window.places(shape[1:], "unrolled")
    pixels, positions = int(np.prod(size)), len(seen)
    if len(np.unique(seen[seen > 0])) < (seen > 0).sum():
        raise ValueError(f"layer {pool.name!r}: expected windows that do not overlap, got stride {pool.stride}")
    position = np.full(1 + pixels, positions)  # of each pixel; the last stands for none
    position[seen] = np.arange(positions)[:, None]
    column = np.where(position[1:] < positions, position[1:] + positions * np.arange(channels)[:, None], -1).ravel()
    matrices = {name: a for name in MATRICES if "M" in FIELDS[name].axes and (a := getattr(params, name)) is not None}
    taken = {name: np.where(column >= 0, a[:, column], a.dtype.type(0)) for name, a in matrices.items()}
    return params.replace(**{**taken, "weight": taken["weight"] / params.weight.dtype.type(seen.shape[1])})
