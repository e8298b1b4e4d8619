"""How a Triton kernel is made and started: compiled for its constants and for nothing else, and kept.

Triton would compile a kernel anew for what it sees in the arguments: integers that are 1 or multiples of 16, addresses
that are multiples of 16 bytes. `kernel` has it look at none of them, because

* a compiler that knows rows of N numbers to be aligned gives a lane four neighbours, and then a sum over sources
  crosses warps; prototypes of these kernels were 2 to 4 times slower so on an H100;
* a new size of a batch compiles nothing;
* a compiled kernel is found again by its constants and the device alone: arrays are float32, sizes are below 2^31.

Nothing here waits for the device or reads from it, so that what calls it can be captured in a CUDA graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

Grid = tuple[int, int, int]


@triton.jit
def _nothing() -> None:
    pass


INTERPRETED = not isinstance(_nothing, triton.JITFunction)  # Triton settles that where a function is decorated
IS_TRITON_3 = hasattr(tl, "range")
# a compiled kernel can be started by itself, with the constants among its arguments; measured with 3.6
KEEPS_COMPILED = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 6)
_KEPT: dict[Any, Any] = {}


def _interpreted_range(*bounds: Any, num_stages: int = 1) -> range:
    return range(*map(int, bounds))


# `for t in range(0, T, num_stages=4)`: what step t + 3 loads is copied to shared memory during step t. Triton 2 has no
# such loop; it ignores the stages of a plain one, which it knows by its name only. So a file with such loops says
# `if HAS_STAGES: range = staged_range`, and its other code has no use for `range`.
HAS_STAGES = IS_TRITON_3 or INTERPRETED
staged_range: Any = _interpreted_range if INTERPRETED else getattr(tl, "range", range)
# `for n in unrolled(4)`: four times the same code, in which n is a constant
unrolled: Any = _interpreted_range if INTERPRETED else tl.static_range


def _interpreted_truth(x: Any) -> bool:
    return bool(int(x))


@triton.jit
def _compiled_truth(x):
    return x


def _interpreted_whole(x: Any) -> Any:
    return x.to(tl.int64)


@triton.jit
def _compiled_whole(x):
    return x.to(tl.int32)


def _no_hint(x: Any, value: int) -> Any:
    return x


# `if truth(x):` of what is known only when a kernel runs. Triton 2's interpreter takes all that for true, makes no
# 32-bit integers (`whole`), and has no place for the compiler's hint `multiple_of`.
truth: Any = _interpreted_truth if INTERPRETED else _compiled_truth
whole: Any = _interpreted_whole if INTERPRETED else _compiled_whole
multiple_of: Any = _no_hint if INTERPRETED else tl.multiple_of


def kernel(function: Callable[..., None]) -> Any:
    """`triton.jit` for a kernel: looks at the arguments that are tl.constexpr only."""
    parameters = inspect.signature(function).parameters.values()
    return triton.jit(do_not_specialize=[p.name for p in parameters if p.annotation is not tl.constexpr])(function)


def launch(
    kernel: Any, grid: Grid, *arguments: Any, num_warps: int = 1, registers: int | None = None, **constants: Any
) -> None:
    """Start a kernel on the current device and stream; constants, by name, are its last parameters.

    registers  how many a thread may take at most, from Triton 3 on: so few let so many programs run beside each other
    """
    device = None if INTERPRETED else torch.cuda.current_device()
    key = (kernel.fn, device, num_warps, registers, *constants.values())  # the hash of a kernel is one of its source
    kept = _KEPT.get(key)
    if kept is not None:
        compiled, names = kept
        compiled[grid](*arguments, *(constants[name] for name in names))
        return
    limit = {} if registers is None or INTERPRETED or not IS_TRITON_3 else {"maxnreg": registers}
    compiled = kernel[grid](*arguments, **constants, num_warps=num_warps, **limit)
    if KEEPS_COMPILED and not INTERPRETED:
        _KEPT[key] = compiled, [name for name in kernel.arg_names if name in constants]


def cells(n: int, size: int) -> int:
    """How many tiles of a size cover n numbers."""
    return -(-n // size)


def pieces(n: int, size: int) -> list[tuple[int, int]]:
    """(first, length) of the pieces of a size, but for the last, that n numbers fall into."""
    return [(first, min(size, n - first)) for first in range(0, n, size)]


def or_any(x: Tensor | None, other: Tensor) -> Tensor:
    """What stands in the place of an argument that a kernel, by its constants, will not read."""
    return other if x is None else x
