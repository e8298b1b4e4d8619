"""What a kernel takes and gives."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState


class LayerTensors(NamedTuple):
    """A layer's parameters as a kernel takes them: one device, float32 or float64, decays and (N,) fields expanded.

    Fields as in `params.py`; None where the layer has no such part; `threshold` is None for the readout.
    """

    weight: Tensor
    decay: Tensor
    reset_decay: Tensor | None = None
    threshold: Tensor | None = None
    recurrent_weight: Tensor | None = None
    recurrent_decay: Tensor | None = None
    adaptation_decay: Tensor | None = None
    adaptation_strength: Tensor | None = None
    bias: Tensor | None = None


class Gradients(NamedTuple):
    """Gradients of the inputs, of the terms and of the first state; None where not needs_grad. Or: which are needs_grad."""

    inputs: Any
    terms: LayerTensors
    state: HetSynState
