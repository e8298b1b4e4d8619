"""What a convolution connects: shapes, what each position of its output sees, and the dense matrix that it stands for.

Images are (T, B, C, *size), size being H, W or one length L. With groups, as in torch.nn.Conv2d, the channels in and
out are cut into so many parts, and those of one part see each other.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import MATRICES, NEURON_FIELDS
from hetsyn_plugins.core.memory import check_fits
from hetsyn_plugins.core.params import HetSynParams


class Convolution(NamedTuple):
    """Arguments as of torch.nn.Conv1d and Conv2d; a number for each axis of an image. N is out_channels."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def axes(self) -> int:
        """How many axes an image has beside its channels."""
        return len(self.kernel_size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(N, C / groups, k...)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def sizes(self) -> tuple[int, int]:
        """N, and M, the lines that a neuron sees."""
        n, *patch = self.weight_shape
        return n, prod(patch)

    @property
    def reach(self) -> tuple[int, ...]:
        """What a kernel spans, with the gaps that dilation makes."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """How many positions there are along each axis of images of this size; ValueError where there is none."""
        padded = tuple(s + 2 * p for s, p in zip(size, self.padding, strict=True))
        if any(r > p for r, p in zip(self.reach, padded, strict=True)):
            dilated = "" if self.reach == self.kernel_size else f", {self.reach} with dilation {self.dilation}"
            raise ValueError(
                f"kernel_size: expected at most the padded input, {padded}, got {self.kernel_size}{dilated}"
            )
        return tuple((p - r) // s + 1 for p, r, s in zip(padded, self.reach, self.stride, strict=True))

    def places(self, size: Sequence[int], argument: str = "size") -> Any:
        """Which line of images of this size, flattened and counted from 1, each position sees under each place of its
        kernel: (groups, P, M) whole numbers, 0 in the padding. ValueError where there is no position, or no memory for
        all of them; `argument` is what said the size.
        """
        numbers = self.in_channels * prod(s + 2 * p for s, p in zip(size, self.padding, strict=True))
        numbers += self.groups * prod(self.output_size(size)) * self.sizes[1]
        self._check_fits(argument, "a table of positions", size, 8 * numbers)
        lines = np.arange(1, self.in_channels * prod(size) + 1).reshape(self.groups, -1, *size)
        padded = np.pad(lines, [(0, 0), (0, 0), *((p, p) for p in self.padding)])
        at: Any = tuple(range(2, 2 + self.axes))
        seen = np.lib.stride_tricks.sliding_window_view(padded, self.reach, axis=at)
        steps: Any = (..., *(slice(None, None, s) for s in self.stride), *(slice(None, None, d) for d in self.dilation))
        seen = np.moveaxis(seen[steps], 1, 1 + self.axes)
        return seen.reshape(self.groups, -1, self.sizes[1])

    def unrolled(self, params: HetSynParams, size: Sequence[int], argument: str = "size") -> HetSynParams:
        """The dense layer from images of this size, flattened, to neurons (N, *output_size), flattened.

        params  (N, M), those of a patch

        Its mask has what lies under the kernel: else the rest would train, and cost a chip a decay of its own.
        ValueError as of `places`.
        """
        params, (n, _) = params.expanded(), self.sizes
        lines, positions = self.in_channels * prod(size), prod(self.output_size(size))
        matrices = [a for name in MATRICES if (a := getattr(params, name)) is not None]
        each = 1 + 2 * sum(a.itemsize for a in matrices)  # bytes a synapse: as they are made, and as they are kept
        self._check_fits(argument, "a dense matrix", size, n * positions * lines * each)
        seen = self.places(size, argument).repeat(n // self.groups, axis=0)  # (N, P, M)
        soma = {field: getattr(params, field) for field in NEURON_FIELDS}
        return HetSynParams(
            _matrix(params.weight, seen, lines),
            _matrix(params.decay, seen, lines),
            delay=None if params.delay is None else _matrix(params.delay, seen, lines),
            mask=_matrix(np.ones((n, seen.shape[2]), bool) if params.mask is None else params.mask, seen, lines),
            **{field: None if value is None else value.repeat(seen.shape[1]) for field, value in soma.items()},
            spiking=params.spiking,
            max_delay=params.max_delay or None,
        )

    def _check_fits(self, argument: str, what: str, size: Sequence[int], needed: int) -> None:
        """Raise ValueError where what is made for images of this size is more than there is memory."""
        check_fits(f"{argument}: expected images with {what} that fits memory, got {tuple(size)} for {self}", needed)

    def __str__(self) -> str:
        """As torch shows its own: channels, the kernel, and what is not usual."""
        usual = {"stride": (1,) * self.axes, "padding": (0,) * self.axes, "dilation": (1,) * self.axes, "groups": 1}
        unusual = (f", {name}={value}" for name, value in self._asdict().items() if value != usual.get(name, value))
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}{''.join(unusual)}"


def _matrix(kernels: Any, seen: Any, lines: int) -> Any:
    """(N, M) of patches as (N P, lines), 0 outside of them; seen (N, P, M) is each place's line, counted from 1."""
    n, positions, m = seen.shape
    matrix = np.zeros((n * positions, lines + 1), kernels.dtype)
    np.put_along_axis(matrix, seen.reshape(-1, m), np.repeat(kernels, positions, axis=0), axis=1)
    return matrix[:, 1:]


def checked_convolution(  # the arguments of a layer, one by one
    axes: int, channels: tuple[Any, Any], kernel_size: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Convolution:
    """The convolution that these say, channels being those in and out; ValueError naming the one that is wrong."""
    n_in, n_out = whole("in_channels", channels[0]), whole("out_channels", channels[1])
    parts = whole("groups", groups)
    for name, count in (("in_channels", n_in), ("out_channels", n_out)):
        if count % parts:
            raise ValueError(f"groups: expected a divisor of {name}, {count}, got {parts}")
    return Convolution(
        n_in,
        n_out,
        checked_size("kernel_size", kernel_size, axes),
        checked_size("stride", stride, axes),
        checked_size("padding", padding, axes, least=0),
        checked_size("dilation", dilation, axes),
        parts,
    )


def checked_size(name: str, value: Any, axes: int, least: int = 1) -> tuple[int, ...]:
    """A whole number for each axis, of one for all or of one each, or ValueError."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
    if len(values) != axes:
        raise ValueError(f"{name}: expected a whole number, or {axes} of them, got {value!r}")
    return tuple(whole(name, v, least) for v in values)


def whole(name: str, value: Any, least: int = 1) -> int:
    """The value as an int, or ValueError where it is no whole number, or a smaller one."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name}: expected a whole number >= {least}, got {value!r}")
    return number
