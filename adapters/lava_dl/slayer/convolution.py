"""The blocks whose neurons see patches of images: `slayer.block.hetsyn.Conv` and `Pool`.

A neuron at a position sees what lies under the kernel there, so these are the dense block with a row of the batch for
every position (`ops.convolution`); hooks of their parts see those rows, (B P, M, T). A chip's layers have a synapse for
each pair of a line and a neuron: what is exported is the dense layer that the kernels stand for, for images of the size
that the block saw last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.adapters.lava_dl.slayer.block import Layer
from hetsyn_plugins.adapters.lava_dl.slayer.names import signature_of
from hetsyn_plugins.core.convolution import checked_convolution, whole
from hetsyn_plugins.core.fields import ARRAYS
from hetsyn_plugins.core.masks import as_mask
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.ops.convolution import Patching


class Patches(Layer):
    """What Conv and Pool share: (B, C, H, W, T) -> (B, N, H', W', T).

    convolution   of one group of channels; a block whose images have more holds its kernels for each group
    image         (C, H, W) of the last call, None before
    """

    convolution: Patching
    image: tuple[int, ...] | None = None

    @property
    def shape(self) -> torch.Size:
        """Shape of the output without batch and time, for images as of the last call."""
        if self.image is None:
            return super().shape
        n = self._groups() * self.convolution.out_channels
        return torch.Size([n, *self.convolution.output_size(self.image[1:])])

    def forward(self, x: Tensor) -> Any:
        """(B, C, H, W, T) -> (B, N, H', W', T); with count_log also the mean spike rate."""
        self._check(x)
        size, batch = self.convolution.output_size(x.shape[2:-1]), x.shape[0]
        self.image = tuple(x.shape[1:-1])
        rows = x.unflatten(1, (-1, self.convolution.in_channels)).flatten(0, 1)
        out = super().forward(self.convolution.patches(rows.permute(4, 0, 1, 2, 3)).permute(1, 2, 0))
        out, rate = out if self.count_log else (out, None)
        out = out.unflatten(0, (-1, *size)).movedim(3, 1).unflatten(0, (batch, -1)).flatten(1, 2)
        return (out, rate) if self.count_log else out

    def _check(self, x: Tensor) -> None:
        channels = self.convolution.in_channels
        if x.ndim != 5 or x.shape[1] != channels:
            raise ValueError(f"input: expected shape (B, {channels}, H, W, T), got {tuple(x.shape)}")

    def _groups(self) -> int:
        assert self.image is not None  # asked for after a call
        return self.image[0] // self.convolution.in_channels

    # ---- the dense layer that it stands for ----

    def to_params(self, hook: bool = True) -> HetSynParams:
        """The dense layer from images of the last call's size to its neurons, both flattened, (C, H, W) in this order.

        Raises ValueError before the first call.
        """
        if self.image is None:
            raise ValueError("to_params: expected a block that was called, for the size of its images, got a new one")
        groups, (c, n) = self._groups(), self.convolution[:2]
        kernels = self.own_params(hook).expanded()
        fields = {name: getattr(kernels, name) for name in ARRAYS}
        copies = {name: np.concatenate([value] * groups) for name, value in fields.items() if value is not None}
        kernels = dataclasses.replace(kernels, **copies)
        whole_image = self.convolution._replace(in_channels=groups * c, out_channels=groups * n, groups=groups)
        return whole_image.unrolled(kernels, self.image[1:])

    def axon_delays(self) -> Any:
        delays = super().axon_delays()
        return None if delays is None else np.tile(delays, self._groups()).repeat(prod(self.shape[1:]))

    @classmethod
    def from_params(cls, params: HetSynParams, **options: Any) -> Any:
        """There is none: parameters are those of a dense layer."""
        raise ValueError(f"params: expected Dense.from_params for them, got {cls.__name__}, which is made of kernels")


class Conv(Patches):
    """HetSyn neurons behind a kernel, a synapse with its own decay for each of its places.

    Arguments as slayer's and, by keyword, those of `Layer`. kernel_size, stride, padding and dilation are numbers, or
    (height, width). synapse.weight has the kernels as (out_features, in_features * height * width, 1, 1, 1).

    groups   1 alone: a mask with zeros between the groups says the same
    mask     (out_features, in_features, height, width), zeros where there is no synapse

    Example:
        >>> block = Conv({"threshold": 1.0, "reset_decay": 0.9}, 2, 8, 3, stride=2, padding=1)
        >>> block(torch.zeros(4, 2, 34, 34, 50)).shape
        torch.Size([4, 8, 17, 17, 50])
    """

    def __init__(
        self,
        neuron_params: Mapping[str, Any],
        in_features: int,
        out_features: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable[[Tensor], Tensor] | None = None,
        delay: bool = False,
        delay_shift: bool = True,
        count_log: bool = False,
        **options: Any,
    ) -> None:
        channels = whole("in_features", in_features), whole("out_features", out_features)
        if groups != 1:
            raise ValueError(f"groups: expected 1, got {groups!r}; a mask with zeros between the groups says the same")
        convolution = checked_convolution(2, channels, kernel_size, stride, padding, dilation, groups)
        if options.get("mask") is not None:
            mask = as_mask("mask", options["mask"])
            if mask.shape != convolution.weight_shape:
                raise ValueError(f"mask: expected shape {convolution.weight_shape}, got {mask.shape}")
            options["mask"] = mask.reshape(len(mask), -1)
        n, m = convolution.sizes
        options.update(delay=delay, delay_shift=delay_shift, count_log=count_log)
        super().__init__(neuron_params, m, n, weight_scale, weight_norm, pre_hook_fx, **options)
        self.convolution = Patching(*convolution)


class Pool(Patches):
    """A HetSyn neuron behind each window of each channel; its weights are weight_scale and stay so.

    Arguments as slayer's and, by keyword, those of `Layer`, whose decays are of the window's places and those of all
    channels: decay=0 and a threshold below 1 put a spike out where one came in. stride None: windows side by side.

    Example:
        >>> Pool({"threshold": 0.5}, 2, decay=0.0)(torch.zeros(4, 8, 17, 17, 50)).shape
        torch.Size([4, 8, 8, 8, 50])
    """

    def __init__(
        self,
        neuron_params: Mapping[str, Any],
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable[[Tensor], Tensor] | None = None,
        delay: bool = False,
        delay_shift: bool = True,
        count_log: bool = False,
        **options: Any,
    ) -> None:
        if weight_norm:
            raise ValueError(f"weight_norm: expected False, got {weight_norm!r}: the weights of a Pool are not learned")
        stride = kernel_size if stride is None else stride
        convolution = checked_convolution(2, (1, 1), kernel_size, stride, padding, dilation, 1)
        n, m = convolution.sizes
        options.update(delay=delay, delay_shift=delay_shift, count_log=count_log)
        super().__init__(neuron_params, m, n, weight_scale, weight_norm, pre_hook_fx, **options)
        self.convolution = Patching(*convolution)
        self._input.set_weight(np.full((n, m), float(weight_scale)))
        self._input.weight.requires_grad_(False)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 5:
            raise ValueError(f"input: expected shape (B, C, H, W, T), got {tuple(x.shape)}")


_block: Any
for _block in (Conv, Pool):
    _block.__signature__ = signature_of(_block, Layer)  # what help() and editors read
