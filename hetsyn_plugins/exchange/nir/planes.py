"""Conv2d and pooling nodes as functions of torch, (B, C, H, W) in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.exchange.nir.nodes import Node


def matrix_of(node: Node, weight: Array | None, shape: tuple[int, ...], largest: int) -> tuple[Array, tuple[int, ...]]:
    """What a node does to what comes in, as a matrix (N, M) on (C, H, W) in one row, and the shape of what goes out.

    weight    of a Conv2d, which is linear without its bias; None: pooling
    largest   bytes of a matrix
    Raises ValueError where shapes and options do not fit, or a matrix would be larger.
    """
    lines = int(np.prod(shape))
    if lines * lines * 4 > largest:
        raise ValueError(f"input: expected at most {largest // 4} ** 0.5 lines for a matrix, got {shape}")
    dtype = np.float32 if weight is None else weight.dtype
    one_each = torch.tensor(np.eye(lines, dtype=dtype).reshape(lines, *shape))
    try:
        with torch.no_grad():
            out = _convolved(node, weight, one_each) if weight is not None else _pooled(node, one_each)
    except (RuntimeError, TypeError, IndexError, OverflowError) as error:  # torch's, of shapes and options
        line = str(error).splitlines()[0][:120]
        raise ValueError(f"expected options that fit what comes in, {shape}, got others: {line}") from error
    if out.nbytes > largest or not out.numel():
        raise ValueError(f"expected 1 to {largest} bytes of a matrix, got {out.nbytes}")
    return np.ascontiguousarray(out.reshape(lines, -1).numpy().T), tuple(out.shape[1:])


def _convolved(node: Node, weight: Array, inputs: Any) -> Any:
    padding = named if isinstance(named := node.get("padding"), str) else _pair(node, "padding")
    stride, dilation, (groups, _) = (_pair(node, name) for name in ("stride", "dilation", "groups"))
    return functional.conv2d(inputs, torch.tensor(weight), None, stride, padding, dilation, groups)


def _pooled(node: Node, inputs: Any) -> Any:
    size = _pair(node, "kernel_size")
    means = functional.avg_pool2d(inputs, size, _pair(node, "stride"), _pair(node, "padding"))
    return means * (size[0] * size[1]) if node["type"] == "SumPool2d" else means


def _pair(node: Node, name: str) -> tuple[int, int]:
    """One or two small whole numbers of a node."""
    values = np.ravel(node.get(name, ()))
    if values.size not in (1, 2) or values.dtype.kind not in "iu" or (values < 0).any() or (values > 1 << 12).any():
        raise ValueError(f"{name}: expected one or two whole numbers from 0, got {node.get(name)!r}")
    return int(values[0]), int(values[-1])
