"""A module that knows no time, at every step of a sequence."""

from __future__ import annotations

from torch import Tensor, nn


class OverSteps(nn.Module):
    """(T, B, ...) -> (T, B, ...): the module on (T B, ...), all steps and samples alike in one call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.module(inputs.flatten(0, 1))
        return out.unflatten(0, inputs.shape[:2])
