"""What a kernel is: the requirements on a backend, and what goes in and out.

A backend is a module, found by its name (`ops/dispatch.py`), that fulfils `Kernel`:

* `forward` computes v of every step and the last state, without autograd;
* `spikes_of` says of any v who fired, strictly above the threshold;
* `backward` is backpropagation through time, from what `forward` was given and gave. It does not see the spikes: v says
  who fired, and v at the threshold is silent there too;
* nothing that comes in is written to;
* with delays, the state has `past_inputs` and `past_spikes`, as long as the longest delay that there may be; those of
  the last state are the caller's (`delays.kept`);
* one row of a batch does not depend on another, T >= 1, and B = 0 is allowed.

What it computes is `core/reference.py`; that it does is checked by `conformance/`, for backends of others as well.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.surrogate import Surrogate


class LayerTensors(NamedTuple):
    """A layer's parameters as a kernel takes them: one device, float32 or float64, decays and (N,) fields expanded.

    Fields as in `core/fields.py`; None where the layer has no such part; `threshold` is None for the readout. Where a
    mask is False, weight and decay are 0, and nobody reads their gradients: a kernel need not look at masks.
    decay_index, recurrent_decay_index   (N, M) and (N, N) whole numbers from 0 on: synapses with the same one have the
                                         same decay; None: nobody knows
    codebook                             (K,) the decays whose places in it these numbers are; None with them
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
    delay: Tensor | None = None
    recurrent_delay: Tensor | None = None
    mask: Tensor | None = None
    recurrent_mask: Tensor | None = None
    decay_index: Tensor | None = None
    recurrent_decay_index: Tensor | None = None
    codebook: Tensor | None = None

    @property
    def has_delays(self) -> bool:
        """Do synapses read sources of earlier steps?"""
        return self.delay is not None or self.recurrent_delay is not None

    @property
    def is_masked(self) -> bool:
        """Are there masks, of synapses that are absent?"""
        return self.mask is not None or self.recurrent_mask is not None


class OutputGradients(NamedTuple):
    """Gradients of what a sequence gave.

    spikes, v  (T, B, N)       dLoss/dspikes and dLoss/dv; None: zero
    state      a HetSynState   dLoss/d(last currents); None in a field: zero; its spikes and v are not read
    """

    spikes: Tensor | None
    v: Tensor | None
    state: HetSynState


class NeedsGrad(NamedTuple):
    """Which gradients are asked for: of the inputs, of a layer's fields, of the parts of the first state."""

    inputs: bool = False
    weight: bool = False
    decay: bool = False
    reset_decay: bool = False
    threshold: bool = False
    recurrent_weight: bool = False
    recurrent_decay: bool = False
    adaptation_decay: bool = False
    adaptation_strength: bool = False
    bias: bool = False
    delay: bool = False
    recurrent_delay: bool = False
    mask: bool = False
    recurrent_mask: bool = False
    decay_index: bool = False
    recurrent_decay_index: bool = False
    codebook: bool = False
    current: bool = False
    recurrent_current: bool = False
    reset: bool = False
    adaptation: bool = False
    spikes: bool = False
    v: bool = False
    past_inputs: bool = False
    past_spikes: bool = False


class Gradients(NamedTuple):
    """Gradients of what a sequence was given; what nobody asked for may be there or not.

    inputs  (T, B, M) or None
    layer   by field, each in the shape of its tensor in LayerTensors
    state   of the first state; None in a field: zero
    """

    inputs: Tensor | None
    layer: dict[str, Tensor | None]
    state: HetSynState


class Kernel(Protocol):
    """A backend. T steps, B rows, N neurons, M inputs."""

    def forward(self, inputs: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, HetSynState]:
        """v of every step, (T, B, N), and the state after the last, for inputs (T, B, M); called without autograd."""

    def spikes_of(self, v: Tensor, threshold: Tensor) -> Tensor:
        """z = H(v - threshold), (T, B, N), in the dtype of v."""

    def backward(
        self,
        inputs: Tensor,
        layer: LayerTensors,
        state: HetSynState,
        v: Tensor,
        output_gradients: OutputGradients,
        surrogate: Surrogate,
        detach_reset: bool,
        needs_grad: NeedsGrad,
    ) -> Gradients:
        """Backpropagation through time, from what `forward` was given and the v that it gave.

        surrogate     its derivative stands for dz/dv
        detach_reset  no gradient through z in the reset current
        """
