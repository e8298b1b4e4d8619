"""K shared decays a layer: from HetSynParams to HetSynParams, with a report of what that did (NumPy only).

A chip has no state for every synapse; it has one accumulator a neuron for every decay that its synapses share. So the
synaptic decays of a layer, recurrent ones too, are replaced by a codebook of K. Reset and adaptation decays, one a
neuron anyway, stay as they are. r = 0 and r = 1 stay exactly what they are, and take a place of the K each.

How far apart two decays are, and which K are the best, is in `core/codebook.py`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hetsyn_plugins.core.codebook import RUN, Scale, best, different, moved
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.network import HetSynLayer, Layer, Network, check_flat, outputs
from hetsyn_plugins.core.params import HetSynParams, decay_to_tau
from hetsyn_plugins.core.validation import check_inputs_shape, host_array
from hetsyn_plugins.fixed_point.neuron import DECAY_ONE
from hetsyn_plugins.fixed_point.rounding import decay_to_word

MAX_DECAYS = 64  # decays that a tolerance may ask for
CALIBRATION = (RUN, 2, 0.05)  # steps, samples, spikes a step of the Poisson inputs where none are given
CHUNK = 1 << 22  # numbers of synaptic currents kept at a time


class ClusterReport(NamedTuple):
    """What clustering did to a layer.

    codebook  (K,) the shared decays, ascending; tau (K,) the same as time constants in steps, 0 to infinity
    error     of v: root mean square of its change over its standard deviation, open loop: every line, recurrent ones
              too, brings the same spikes as before, and nothing resets
    changed   share of neuron-steps whose spike came or went, closed loop; None for a readout or without inputs
    spikes    how many there were before and after; None likewise
    """

    codebook: Array
    tau: Array
    error: float
    changed: float | None = None
    spikes: tuple[int, int] | None = None


def cluster(
    params: HetSynParams,
    k: int | None = None,
    *,
    tolerance: float | None = None,
    inputs: ArrayLike | None = None,
    words: bool = True,
    argument: str = "k",
) -> tuple[HetSynParams, ClusterReport]:
    """The same layer with at most k different synaptic decays.

    k          how many; or `tolerance`: the smallest number with which the report's error is at most that
    inputs     (T, B, M) to measure on; None: Poisson spikes on every line, always the same ones
    words      the codebook consists of decay words d / 4096, 0 < d < 4096, so that `fixed_point.quantise` finds nothing
               to round and nothing to refuse; False: of the centres themselves
    argument   what a caller that hands k on calls it, for messages

    The decays keep their shapes and dtype. Raises ValueError where k has no room for r = 0 and r = 1 beside the others,
    or where 64 decays do not reach the tolerance.
    """
    if (k is None) == (tolerance is None):
        got = f"{argument}={k} and tolerance={tolerance}"
        raise ValueError(f"{argument}: expected either {argument} or tolerance, got {got}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: expected a number > 0, got {tolerance}")
    params, x = params.with_decays_there(), None if inputs is None else host_array("inputs", inputs)
    if x is not None:
        check_inputs_shape(x, params.weight)
    scale = Scale(CALIBRATION[0] if x is None else len(x))
    books = _codebooks(params, MAX_DECAYS if k is None else k, scale, words, argument)
    before = None if x is None else outputs(params, x)[0]
    open_loop = _OpenLoop(params, x, before)
    for book in books if tolerance is not None else books[-1:]:
        clustered = with_codebook(params, book, scale)
        error = open_loop.error(clustered)
        if tolerance is None or error <= tolerance:
            break
    else:
        raise ValueError(f"tolerance: expected at least {error:.3g}, which {MAX_DECAYS} decays reach, got {tolerance}")
    report = ClusterReport(codebook := synaptic_decays(clustered), decay_to_tau(codebook, 1.0), error)
    if x is not None and before is not None:
        after: Any = outputs(clustered, x)[0]
        counts = (int(before.sum()), int(after.sum()))
        report = report._replace(changed=float((before != after).mean()), spikes=counts)
    return clustered, report


def cluster_network(
    network: Network,
    k: int | None = None,
    *,
    tolerance: float | None = None,
    inputs: ArrayLike | None = None,
    words: bool = True,
    argument: str = "k",
) -> tuple[Network, dict[str, ClusterReport]]:
    """`cluster` for every HetSyn layer of a network; returns it and name -> report.

    inputs  (T, B, M) of the first layer. Every layer is measured on what reaches it in the network as it was, so a
            report is that layer's alone. None: every layer is measured on Poisson spikes

    Decays that were tied to the reset are so no more (`tie_reset` False), and taus that were stored for training go.
    """
    check_flat(network, "clustering")
    reaching = repeat(None) if inputs is None else (each.inputs for each in network.walk(inputs))
    options: dict[str, Any] = {"tolerance": tolerance, "words": words, "argument": argument}
    layers: list[Layer] = []
    reports: dict[str, ClusterReport] = {}
    for layer, x in zip(network.layers, reaching, strict=False):
        if isinstance(layer, HetSynLayer):
            params, reports[layer.name] = cluster(layer.params, k, **options, inputs=x)
            stored = {f: a for f, a in layer.stored.items() if f not in ("decay", "recurrent_decay")}
            layers.append(replace(layer, params=params, stored=stored, tie_reset=False))
        else:
            layers.append(layer)
    return Network(tuple(layers)), reports


# ---- the codebook ------------------------------------------------------------------------------------------------


def synaptic_decays(params: HetSynParams) -> Array:
    """The different decays of a layer's synapses, recurrent ones too, ascending, in float64."""
    return different(params.decay, params.recurrent_decay)


def with_codebook(params: HetSynParams, codebook: Array, scale: Scale) -> HetSynParams:
    """The layer with every decay inside (0, 1) moved to the nearest such one of the codebook; 0 and 1 stay."""
    decay, recurrent = (
        None if d is None else moved(d, codebook, scale) for d in (params.decay, params.recurrent_decay)
    )
    return params.replace(decay=decay, recurrent_decay=recurrent)


def _codebooks(params: HetSynParams, most: int, scale: Scale, words: bool, argument: str) -> list[Array]:
    """The best codebooks of as few decays as there can be, of one more, ... and of `most` (or all there are)."""
    p = params.astype(np.float64).expanded()
    pairs = [(p.decay, p.weight)]
    if p.recurrent_decay is not None:
        pairs.append((p.recurrent_decay, p.recurrent_weight))
    decay = np.concatenate([d.ravel() for d, _ in pairs])
    weight = np.concatenate([w.ravel() for _, w in pairs]) ** 2
    options = {"rounded": _to_words} if words else {}
    return best(decay, weight, most, scale, argument, **options)


def _to_words(decay: Array) -> Array:
    """The nearest decays that are words and no ends."""
    return 1.0 - np.clip(decay_to_word(decay), 1, DECAY_ONE - 1) / DECAY_ONE


# ---- what it does to v and to spikes -----------------------------------------------------------------------------


class _OpenLoop:
    """v of a layer's synapses alone, before and after: every line brings the same spikes, recurrent ones too.

    Delays are left out: they move what a synapse adds to v, and what clustering changes of it, by the same steps.

    inputs   (T, B, M), or None: Poisson spikes on every line
    spikes   (T, B, N), what the recurrent lines bring one step later; None without inputs or recurrent lines
    """

    def __init__(self, params: HetSynParams, inputs: Any, spikes: Any) -> None:
        self.recurrent = params.recurrent_weight is not None
        if inputs is None:
            steps, batch, rate = CALIBRATION
            width = sum(params.weight.shape) if self.recurrent else params.weight.shape[1]
            x = np.random.default_rng(0).random((steps, batch, width)) < rate
        elif self.recurrent:
            x = np.concatenate([inputs, np.concatenate([0 * spikes[:1], spikes[:-1]])], axis=2)
        else:
            x = inputs
        self.lines = x.astype(np.float64)
        weight, decay = self._synapses(params)
        u = np.zeros((x.shape[1], *weight.shape))
        v = []
        for x_t in self.lines:
            u = decay * u + weight * x_t[:, None, :]
            v.append(u.sum(-1))
        self.v = np.array(v)

    def _synapses(self, params: HetSynParams) -> tuple[Array, Array]:
        p = params.astype(np.float64).expanded()
        if not self.recurrent:
            return p.weight, p.decay
        return np.hstack([p.weight, p.recurrent_weight]), np.hstack([p.decay, p.recurrent_decay])

    def error(self, clustered: HetSynParams) -> float:
        """Root mean square of the change of v over the standard deviation of v."""
        weight, decay = self._synapses(clustered)
        shared, index = np.unique(decay, return_inverse=True)
        n, lines = weight.shape
        by_decay = np.zeros((lines, n, len(shared)))
        neuron, line = np.indices(weight.shape)
        by_decay[line, neuron, index.reshape(weight.shape)] = weight
        steps, batch, _ = self.lines.shape
        u = np.zeros((batch, n, len(shared)))
        at_once, change = max(1, CHUNK // (u.size or 1)), 0.0
        for t in range(0, steps, at_once):
            drive = self.lines[t : t + at_once] @ by_decay.reshape(lines, -1)
            for x_t, v_t in zip(drive, self.v[t:], strict=False):
                u = shared * u + x_t.reshape(u.shape)
                change += float(((u.sum(-1) - v_t) ** 2).sum())
        deviation = float(self.v.std())
        return float(np.sqrt(change / max(self.v.size, 1))) / deviation if deviation else 0.0
