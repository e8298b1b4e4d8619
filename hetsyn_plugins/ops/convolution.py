"""What each position of a convolution's output sees of images, as tensors."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from hetsyn_plugins.core.convolution import Convolution


class Patching(Convolution):
    """A convolution over tensors (T, B, C, *size)."""

    def by_group(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (T, B, C, *size) -> those of each group, (T, B, C / groups, *size)."""
        return x.unflatten(2, (self.groups, -1)).unbind(2)

    def patches(self, x: Tensor) -> Tensor:
        """Of a group, (T, B, C / groups, *size) -> (T, B P, M): what lies under a kernel at each of P positions."""
        steps, batch = x.shape[:2]
        positions, axes = prod(self.output_size(x.shape[3:])), self.axes
        if any(self.padding):
            x = nn.functional.pad(x, [p for padding in reversed(self.padding) for p in (padding, padding)])
        for axis, (reach, stride, dilation) in enumerate(zip(self.reach, self.stride, self.dilation, strict=True)):
            x = x.unfold(3 + axis, reach, stride)[..., ::dilation]
        at, under = range(3, 3 + axes), range(3 + axes, 3 + 2 * axes)
        return x.permute(0, 1, *at, 2, *under).reshape(steps, batch * positions, self.sizes[1])
