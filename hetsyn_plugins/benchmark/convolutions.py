"""What a HetSynConv2d costs beside the stock layers nearest to it: a loop of nn.Conv2d and snn.Leaky, one decay in all.

Forward and backward pass of one layer, weights and decays trained, gradients of the inputs too, from reset states, in
turns; memory at the peak, in processes of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hetsyn_plugins.benchmark.bench import print_peak_of, printed_number
from hetsyn_plugins.benchmark.loops import Step, medians
from hetsyn_plugins.exchange import frameworks

STOCK = "Conv2d, stock Leaky"


class Size(NamedTuple):
    """A layer and its images, which are square."""

    channels: tuple[int, int]
    kernel: int
    image: int
    groups: int = 1
    batch: int = 16
    steps: int = 25

    def __str__(self) -> str:
        groups = "" if self.groups == 1 else f", {self.groups} groups"
        layer = f"{self.channels[0]} -> {self.channels[1]}, {self.kernel} x {self.kernel}{groups}"
        return f"{layer}, images {self.image} x {self.image}, {self.batch} rows, T = {self.steps}"

    @property
    def arrays(self) -> tuple[float, float]:
        """MB of the currents, B N M a position, and of the patches, T B M a position of each group."""
        positions = self.batch * (self.image - self.kernel + 1) ** 2
        lines = self.channels[0] * self.kernel**2
        return 4e-6 * positions * self.channels[1] * lines / self.groups, 4e-6 * self.steps * positions * lines


SIZES = [Size((1, 8), 5, 28), Size((8, 16), 3, 12), Size((16, 32), 3, 14), Size((32, 32), 3, 14, groups=32)]


class Cost(NamedTuple):
    """A form's milliseconds (median), and MB at its peak in a process of its own (None: Linux does not say)."""

    size: Size
    form: str
    milliseconds: float
    megabytes: float | None


def measure(runs: int, memory: bool) -> list[Cost]:
    """The cost of every form at every size."""
    frameworks.require("snntorch")
    costs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # loops that cost much, layers that do not fire: known here
        for size in SIZES:
            times = medians({form: build(size) for form, build in FORMS.items()}, runs)
            peaks = {form: peak_memory(size, form) if memory else None for form in times}
            costs += [Cost(size, form, milliseconds, peaks[form]) for form, milliseconds in times.items()]
    return costs


def table(costs: list[Cost]) -> str:
    """The costs, a line each, with the multiple of the stock layers' time."""
    lines = []
    for size in dict.fromkeys(cost.size for cost in costs):
        of_size = {cost.form: cost for cost in costs if cost.size == size}
        currents, patches = size.arrays
        lines.append(f"{size}; currents {currents:.1f} MB, patches {patches:.1f} MB")
        for cost in of_size.values():
            times = f"{cost.milliseconds / of_size[STOCK].milliseconds:5.2f} x stock"
            peak = "" if cost.megabytes is None else f"  {cost.megabytes:6.1f} MB"
            lines.append(f"  {cost.form:22} {cost.milliseconds:8.2f} ms  {times}{peak}")
    return "\n".join(lines)


def inputs(size: Size) -> Tensor:
    """Random 0/1 images (T, B, C, H, W)."""
    shape = (size.steps, size.batch, size.channels[0], size.image, size.image)
    return (torch.rand(shape) < 0.2).float().requires_grad_()


def ours(size: Size, is_sequence: bool) -> Step:
    """A HetSynConv2d, with the whole sequence at once or step by step."""
    conv = frameworks.adapter("snntorch").HetSynConv2d
    layer, x = conv(*size.channels, size.kernel, groups=size.groups, init_hidden=True), inputs(size)

    def step() -> None:
        layer.zero_grad()
        layer.reset_mem()
        spikes = layer(x) if is_sequence else torch.stack([layer(x_t) for x_t in x.unbind(0)])
        spikes.sum().backward()

    return step


def stock(size: Size) -> Step:
    """nn.Conv2d and a Leaky, step by step."""
    import snntorch

    net: Any = nn.Sequential(
        nn.Conv2d(*size.channels, size.kernel, groups=size.groups),
        snntorch.Leaky(0.9, learn_beta=True, init_hidden=True),
    )
    x = inputs(size)

    def step() -> None:
        net.zero_grad()
        net[1].reset_mem()
        torch.stack([net(x_t) for x_t in x.unbind(0)]).sum().backward()

    return step


FORMS: dict[str, Callable[[Size], Step]] = {
    "sequence": lambda size: ours(size, True),
    "steps": lambda size: ours(size, False),
    STOCK: stock,
}


def peak_memory(size: Size, form: str) -> float | None:
    """MB that one pass adds at its peak to the resident set, in a process of its own; None where Linux does not say."""
    return printed_number(f"from hetsyn_plugins.benchmark import convolutions as c; c.print_peak(c.{size!r}, {form!r})")


def print_peak(size: Size, form: str) -> None:
    """The body of `peak_memory`'s process."""
    FORMS[form](size._replace(batch=1, steps=3))()  # kernels loaded, pools made
    print_peak_of(FORMS[form](size))
