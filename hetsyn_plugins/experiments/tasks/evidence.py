"""What a network's output says of each class, when all steps have passed: what a classifier decides by.

    last      v of the leaky readouts at the last step
    mean      v of the leaky readouts, mean over the steps
    softmax   softmax(v) of the leaky readouts, summed over the steps
    counts    spikes of output neurons, summed over the steps

All serve as logits, as they do in the paper's experiments.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hetsyn_plugins.ops.lengths import at_end, past_end

READOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # (T, B, K) -> (B, K)
    "last": lambda v: v[-1],
    "mean": lambda v: v.mean(0),
    "softmax": lambda v: v.softmax(-1).sum(0),
    "counts": lambda z: z.sum(0),
}
SPIKING = "counts"  # the one whose output neurons spike


def evidence(readout: str, output: Tensor, lengths: Tensor | None = None) -> Tensor:
    """What one of READOUTS makes of an output (T, B, K): (B, K).

    lengths   (B,) of the samples, where they have some of their own: each as if it stood alone
    """
    if lengths is None:
        return READOUTS[readout](output)
    if readout == "last":
        return at_end(output, lengths)
    past = past_end(output, lengths)
    valid = output.masked_fill(past, 0.0)
    total = (valid.softmax(-1).masked_fill(past, 0.0) if readout == "softmax" else valid).sum(0)
    return total / lengths[:, None] if readout == "mean" else total
