"""What a layer lost on its way to integers that its user should hear of: weights that became 0, taus that moved.

All weights of a layer share one last bit, and the largest must fit 8 bits: one outlier makes the last bit coarse, and
whatever is below half of it becomes 0. Some weights always do. Of normal ones whose largest is 4 deviations, 1 in 80,
with 0.01 % of the sum of |w|; they are missed by nobody. An alarm is

* a neuron that loses more than half of its sum of |w|: what is left of it is no more what was trained. A normal neuron
  does so where its weights are all 100 times smaller than the layer's largest. But for neurons that were faint before,
  beside the median neuron of the layer: with no outlier (largest weight up to 12 mean |w|) none with more than 1/20 of
  the median sum can be lost
* a layer that loses half of its weights, though in the median neuron these moved v by a tenth of the threshold: their
  sum of |w| / (1 - r), which is what v comes to, where every line spikes at one step in 50. Training with an L1 penalty
  leaves many weights just beside 0, which move it by less
* a tau that 12 bits move by a quarter: some of more than 2,560 steps, where the decay word is 1 or 2
* clustering that moves v by more than half of its deviation
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import DECAYS
from hetsyn_plugins.core.params import HetSynParams, decay_to_tau
from hetsyn_plugins.deployment.clusters import ClusterReport
from hetsyn_plugins.fixed_point.neuron import DECAY_ONE, EXPONENTS, FixedParams
from hetsyn_plugins.fixed_point.rounding import beyond_words, decay_to_word

LOST_SHARE = 0.5  # of a neuron's sum of |w|, and of a layer's weights
FAINT = 1 / 20  # of the median neuron's sum of |w|
FELT, RATE = 0.1, 0.02  # of the threshold, where so many spikes a step come in on every line
OUTLIER = 16  # times the median |w|: there the last bit is an eighth of the median
MOVED_TAU = 0.25  # of 1 - r
MOVED_V = 0.5  # of v's deviation


class WeightLoss(NamedTuple):
    """What 8 bits did to the weights of a layer, recurrent ones too.

    zeroed           share of its nonzero weights that became 0
    mean, largest    of its neurons: the sum of |w - w in 8 bits|, as a share of the neuron's sum of |w|
    """

    zeroed: float
    mean: float
    largest: float


def weight_loss(used: HetSynParams, fixed: FixedParams) -> WeightLoss:
    """The loss from the weights that a layer computed with to those of its integers; zeros where it has none."""
    p, rounded = used.astype(np.float64).expanded(), fixed.to_params()
    names = [name for name in EXPONENTS if getattr(p, name) is not None]
    weight, kept = (np.concatenate([getattr(of, name) for name in names], axis=1) for of in (p, rounded))
    sums = np.abs(weight).sum(1)
    share = np.abs(weight - kept).sum(1)[sums > 0] / sums[sums > 0]
    if not share.size:
        return WeightLoss(0.0, 0.0, 0.0)
    zeroed = np.count_nonzero((weight != 0) & (kept == 0)) / np.count_nonzero(weight)
    return WeightLoss(float(zeroed), float(share.mean()), float(share.max()))


def losses(used: HetSynParams, fixed: FixedParams, clustering: ClusterReport | None = None) -> tuple[str, ...]:
    """Sentences, none where nothing is to be said.

    used        the layer as it computed before it was brought to integers: a layer that was trained in integers loses
                nothing where its own were 0
    fixed       the integers
    clustering  what clustering did before that, None where there was none
    """
    p, rounded = used.astype(np.float64).expanded(), fixed.to_params()
    said = [*_weights(p, rounded, fixed)]
    if clustering is None:
        said += _taus(p)
    elif clustering.error > MOVED_V:
        said.append(
            f"clustering moved v by {clustering.error:.0%} of its deviation, so that most of what the time constants "
            "did is gone; take more clusters, or tolerance=0.1 for as many as that needs"
        )
    return tuple(said)


def _weights(p: HetSynParams, rounded: HetSynParams, fixed: FixedParams) -> Iterator[str]:
    for name, exponent in EXPONENTS.items():
        weight = getattr(p, name)
        if weight is None or not weight.any():
            continue
        size = np.abs(weight)
        zeroed = (weight != 0) & (getattr(rounded, name) == 0)
        sums, lost_sums = size.sum(1), np.where(zeroed, size, 0.0).sum(1)
        faint = sums < FAINT * np.median(sums[sums > 0])
        lost = (lost_sums > LOST_SHARE * sums) & ~faint
        left = np.maximum(1 - getattr(p, name.replace("weight", "decay")), 1 / DECAY_ONE)
        moved = RATE * np.where(zeroed, size / left, 0.0).sum(1)
        felt = np.median(moved / p.threshold) > FELT
        emptied = zeroed.sum() >= LOST_SHARE * (weight != 0).sum() and felt
        if emptied or lost.any():
            what = "weights" if name == "weight" else "recurrent weights"
            gone = f"{zeroed.sum():,} of {(weight != 0).sum():,} nonzero {what} became 0 in 8 bits"
            neurons = f"{lost.sum():,} of {len(weight):,} neurons lost more than half of their sum of |w|"
            yield f"{gone}, {neurons}: {_cause(size[size > 0], fixed.unit * (1 << getattr(fixed, exponent)))}"


def _cause(size: Any, last_bit: float) -> str:
    """Why a matrix of these nonzero |w| became empty, and what to do about it."""
    largest, median = size.max(), np.median(size)
    if largest > OUTLIER * median:
        return (
            f"the largest, {largest:.3g}, is {largest / median:,.0f} times the median of {median:.3g}, and one unit of "
            f"the 8 bits is {last_bit:.2g}; bring it down before the export, as weight.clamp_(-{OUTLIER * median:.2g}, "
            f"{OUTLIER * median:.2g}) does ({OUTLIER} times the median), and train on, or leave that line out"
        )
    return (
        f"one unit of the 8 bits is {last_bit:.2g}, the largest of them {largest:.3g}: the threshold, the layer's "
        "other weights or the unit that was given ask for so large a unit; bring them nearer to each other"
    )


def _taus(p: HetSynParams) -> Iterator[str]:
    """Decays that fit 12 bits and still become others; those that do not fit are counted where they are clipped."""
    decay = np.concatenate([getattr(p, name).ravel() for name in DECAYS if getattr(p, name) is not None])
    decay = decay[(decay > 0) & (decay < 1) & ~beyond_words(decay)]
    kept = 1 - decay_to_word(decay) / DECAY_ONE
    moved = np.abs((1 - kept) / (1 - decay) - 1)
    if (moved > MOVED_TAU).any():
        worst = moved.argmax()
        was, became = decay_to_tau([decay[worst], kept[worst]], 1.0)
        yield (
            f"{(moved > MOVED_TAU).sum():,} time constants moved by more than a quarter in 12 bits, one of {was:,.0f} "
            f"steps to {became:,.0f}; take longer steps (dt), or bound tau in training"
        )
