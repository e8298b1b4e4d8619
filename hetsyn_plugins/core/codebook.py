"""K decays that the synapses of a layer share: the best ones on a line, and which synapse has which (NumPy only).

How far apart are two decays? As far as their exchange moves v: the energy of the difference of their responses to one
spike, sum_s (r^s - c^s)^2 over the T steps that a run has. For neighbours that is (f'(r) dr)^2 with

    f'(r)^2 = sum_{s = 1}^{T - 1} s^2 r^(2 s - 2)

so in the coordinate f, weighted by w^2, it is ordinary k-means. On a line dynamic programming solves that exactly: no
start values, nothing random. Measured against k-means in log(1 - r) weighted by |w|, the error of v is 11 to 58 %
smaller (both layers of the digits network, a drawn 700-64 with taus of 2 to 100 steps; K = 4, 8, 16).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hetsyn_plugins.core.fields import Array

MAX_POINTS = 1024  # places on the line of f that the dynamic programme tells apart
LONGEST = 4096  # steps: nothing a decay word of a chip can say is longer
RUN = 256  # steps of a run, where nobody has spoken of one

Index = NDArray[np.int32]
INDICES = {"decay": "input_index", "recurrent_decay": "recurrent_index"}  # a field's in `Codebook`


class Codebook(NamedTuple):
    """The decays of a layer whose synapses share them.

    decays           (K,) in [0, 1]
    input_index      (N, M) which of them a synapse has, 0 to K - 1
    recurrent_index  (N, N) the same of recurrent synapses; None without
    """

    decays: Array
    input_index: Index
    recurrent_index: Index | None = None


def check_index(name: str, index: Any, decay: Any, k: int) -> None:
    """Raise ValueError unless these are whole numbers below k, one for each decay; None where there is none."""
    if (index is None) != (decay is None):
        expected, came = ("one", "none") if index is None else ("none", "one")
        raise ValueError(f"{name}: expected {expected}, as the layer's decays, got {came}")
    if index is None:
        return
    array, shape = np.asarray(index), tuple(decay.shape)
    if array.dtype.kind not in "iu" or array.shape != shape:
        raise ValueError(f"{name}: expected whole numbers of shape {shape}, got {array.dtype} of {array.shape}")
    if array.size and (array.min() < 0 or array.max() >= k):
        ends = f"{array.min()} to {array.max()}"
        raise ValueError(f"{name}: expected numbers of the codebook's {k} decays, 0 to {k - 1}, got {ends}")


class Scale:
    """The coordinate f of the module's docstring for runs of so many steps, tabulated; both ways."""

    def __init__(self, steps: int) -> None:
        s = np.arange(1, max(2, min(steps, LONGEST)))
        self.decays = 1.0 - np.append(np.geomspace(1.0, 1e-5, 1000), 0.0)
        slopes = np.array([np.linalg.norm(s * r ** (s - 1.0)) for r in self.decays])
        self.places = np.append(0.0, np.cumsum(np.diff(self.decays) * (slopes[1:] + slopes[:-1]) / 2))

    def place(self, decay: Array) -> Array:
        """Where decays lie on the line."""
        return np.interp(decay, self.decays, self.places)

    def decay(self, place: Array) -> Array:
        """Which decays lie there."""
        return np.interp(place, self.places, self.decays)

    def nearest(self, decay: Array, codebook: Array) -> NDArray[np.intp]:
        """The index of the nearest of the codebook's ascending decays, in the shape of `decay`."""
        places = self.place(codebook)
        return np.searchsorted((places[1:] + places[:-1]) / 2, self.place(decay))


def different(*decays: Any) -> Array:
    """The different decays of these arrays (None: none), ascending, in float64."""
    return np.unique(np.concatenate([np.ravel(d).astype(np.float64) for d in decays if d is not None]))


def exact(decay: Array, recurrent_decay: Array | None, dtype: Any) -> Codebook:
    """The codebook of decays as they are: (N, M), and (N, N) or None."""
    decays = different(decay, recurrent_decay)
    return Codebook(decays.astype(dtype), *_indices(decays, decay, recurrent_decay))


def start(
    decays: list[Array], weights: list[Array], k: int, argument: str = "clusters", masks: list[Any] | None = None
) -> tuple[Array, list[Index]]:
    """K decays to begin with, ascending in float64, and the index of every synapse, as int32.

    decays, weights  of the inputs' synapses (N, M), and of recurrent ones (N, N) where there are any
    argument         what a caller calls k, for messages
    masks            which of them there are; None: all, of one or of both

    No more different decays than K: those themselves; and where they are fewer, one that many synapses share is
    there several times, and its synapses are dealt out to the copies, which training can then tell apart. Else the
    best K of `best`. Absent synapses have no say, and the decay that is nearest to theirs. Raises ValueError for a K
    below 1 or above the number of synapses.
    """
    flat = np.concatenate([np.ravel(d).astype(np.float64) for d in decays])
    masks = [None] * len(decays) if masks is None else masks
    there = np.concatenate([np.full(d.size, m is None or m.ravel()) for d, m in zip(decays, masks, strict=True)])
    present = flat[there]
    if k > present.size:
        raise ValueError(f"{argument}: expected at most {present.size}, as many as there are synapses, got {k}")
    book, scale = np.unique(present), Scale(RUN)
    if len(book) > k:
        weight = np.concatenate([np.ravel(w).astype(np.float64) for w in weights])[there]
        book = best(present, weight * weight, k, scale, argument)[-1]
        present = moved(present, book, scale)
    flat = book[scale.nearest(flat, book)]
    flat[there] = present
    copies, index = _dealt(np.searchsorted(book, flat), len(book), k)
    ends = np.cumsum([d.size for d in decays])[:-1]
    return book.repeat(copies), [i.reshape(d.shape) for i, d in zip(np.split(index, ends), decays, strict=True)]


def moved(decay: Array, codebook: Array, scale: Scale) -> Array:
    """Every decay inside (0, 1) moved to the nearest such one of the codebook; 0 and 1 stay."""
    inside = codebook[(codebook > 0) & (codebook < 1)]
    if not len(inside):
        return decay
    nearest = inside[scale.nearest(decay, inside)]
    return np.where((decay > 0) & (decay < 1), nearest, decay).astype(decay.dtype)


def best(
    decay: Array,
    mass: Any,
    most: int,
    scale: Scale,
    argument: str,
    rounded: Callable[[Array], Array] = lambda centres: centres,
) -> list[Array]:
    """The best codebooks of as few decays as there can be, of one more, ... and of `most` (or all there are).

    decay, mass  flat: decays, and how much each counts
    argument     what a caller calls `most`, for messages
    rounded      what becomes of decays inside (0, 1); r = 0 and r = 1 are kept as they are, in a place of `most` each
    """
    ends = [end for end in (0.0, 1.0) if (decay == end).any()]
    inner = (decay > 0) & (decay < 1)
    least = len(ends) + bool(inner.any())
    if most != int(most) or most < least:
        kept = f" (r = {' and r = '.join(f'{end:.0f}' for end in ends)} are kept)" if ends else ""
        raise ValueError(f"{argument}: expected a whole number of decays, at least {least} here{kept}, got {most}")
    if not inner.any():
        return [np.array(ends)]
    centres = kmeans(scale.place(decay[inner]), mass[inner], int(most) - len(ends))
    return [np.unique(np.concatenate([rounded(scale.decay(places)), ends])) for places in centres]


def kmeans(x: Array, weight: Array, most: int) -> list[Array]:
    """The centres of the best 1, 2, ... `most` clusters on a line (fewer where there are fewer different x).

    They minimise the weighted sum of squared distances exactly, by dynamic programming over the sorted x: clusters on
    a line are intervals. Where there are more than 1024 different x they are first put together in as many bins.
    """
    weight = weight + (weight.max() or 1.0) * 1e-9  # also what has no weight has a nearest centre
    x, weight = _merged(x, weight)
    n = len(x)
    mass, sums, squares = (np.append(0.0, np.cumsum(weight * x**power)) for power in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):  # [a, b) of nothing, set to infinity below
        between = mass - mass[:, None]
        cost = (squares - squares[:, None]) - (sums - sums[:, None]) ** 2 / between
    cost = np.where(np.tri(n + 1, dtype=bool), np.inf, np.maximum(cost, 0.0))
    best = np.append(0.0, np.full(n, np.inf))  # of the first b points, in no cluster yet
    starts: list[Any] = []  # where the cluster that ends at b begins, for every b
    centres: list[Array] = []
    for _ in range(min(most, n)):
        total = best[:, None] + cost
        starts.append(total.argmin(0))
        best = total.min(0)
        cuts = [n]
        for start in reversed(starts):
            cuts.append(int(start[cuts[-1]]))
        centres.append(np.array([(sums[b] - sums[a]) / (mass[b] - mass[a]) for a, b in pairwise(reversed(cuts))]))
    return centres


def _merged(x: Array, weight: Array) -> tuple[Array, Array]:
    """The different x in ascending order with their weights, at most MAX_POINTS of them."""
    x, index = np.unique(x, return_inverse=True)
    mass: Array = np.bincount(index.ravel(), weight).astype(np.float64)
    if len(x) <= MAX_POINTS:
        return x, mass
    bins = np.minimum(((x - x[0]) / (x[-1] - x[0]) * MAX_POINTS).astype(np.intp), MAX_POINTS - 1)
    total: Array = np.bincount(bins, mass).astype(np.float64)
    moment = np.bincount(bins, mass * x)
    return moment[total > 0] / total[total > 0], total[total > 0]


def _indices(codebook: Array, *decays: Array | None) -> list[Any]:
    """Where decays stand in an ascending codebook that has them all."""
    return [None if d is None else np.searchsorted(codebook, d.astype(np.float64)).astype(np.int32) for d in decays]


def _dealt(index: NDArray[np.intp], entries: int, k: int) -> tuple[NDArray[np.intp], Index]:
    """How often each entry is there when k are wanted, and the index of every synapse among all of them.

    The next copy is of the entry with the most synapses a copy. Which copy a synapse has is drawn, always alike: dealt
    in turns, the same lines would have the same decay in every neuron.
    """
    count, copies = np.bincount(index, minlength=entries), np.ones(entries, np.intp)
    for _ in range(k - entries):
        copies[(count / copies).argmax()] += 1
    order = np.lexsort((np.random.default_rng(0).permutation(index.size), index))
    turn = np.empty_like(index)
    turn[order] = np.arange(index.size) - (np.cumsum(count) - count)[index[order]]
    first = np.cumsum(copies) - copies
    return copies, (first[index] + turn % copies[index]).astype(np.int32)
