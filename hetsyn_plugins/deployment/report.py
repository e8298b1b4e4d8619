"""What an export did, layer by layer, as a table to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log2
from pathlib import Path
from typing import Any

import numpy as np

from hetsyn_plugins.core.fields import DECAYS, Array
from hetsyn_plugins.core.params import HetSynParams, decay_to_tau
from hetsyn_plugins.deployment.chip_costs import (
    MAPPINGS,
    ChipCost,
    chip_costs,
    layer_sizes,
    messages,
    state_bits,
    weight_bits,
)
from hetsyn_plugins.deployment.clusters import ClusterReport
from hetsyn_plugins.deployment.losses import WeightLoss
from hetsyn_plugins.fixed_point.network import FixedLayer, FixedNetwork
from hetsyn_plugins.fixed_point.neuron import DECAY_ONE, FixedRun
from hetsyn_plugins.fixed_point.rounding import Rounding, beyond_words, decay_to_word

DECAY_RANGE = (1 / DECAY_ONE, 1 - 1 / DECAY_ONE)  # the decays of Loihi's own field: words 4095 to 1


@dataclass(frozen=True)
class LayerReport:
    """A layer of the deployment.

    synapses        all pairs, recurrent ones too; clusters: how many different decay words they have
    max_delay       the longest delay of a synapse, in steps; axons: how many its lines need, one for each delay
    state_bits, weight_bits   what is to be stored, as `chip_costs.py` counts
    tau_wanted      the smallest and largest time constant of the trained layer, in steps, 0 and infinity left out; None
                    where there is none. tau_kept: the same of the integers
    beyond          trained decays between 0 and 1 whose tau 12 bits cannot hold (clustering may have brought them in)
    ends            decay words of 4096 and 0 (r = 0, r = 1), which our format has and Loihi's own field, 1..4095, lacks
    rounding        what rounding to integers clipped and moved
    weights         what 8 bits did to the weights that the layer computed with
    clustering      what clustering did; None where there was none
    spikes          a sample, on average; None for a readout or without calibration data. spikes_before: those of the
                    layer as it was trained, behind layers as they were trained
    peak, headroom  the largest |state|, and how often it could double before it leaves its bits; None without data
    overflows       states that left their bits (then `peak` is the largest of them, and headroom negative)
    warnings        sentences on what was lost that changes what the layer does (`losses.py`)
    """

    name: str
    neurons: int
    synapses: int
    clusters: int
    state_bits: int
    weight_bits: int
    tau_wanted: tuple[float, float] | None
    tau_kept: tuple[float, float] | None
    beyond: int
    ends: int
    rounding: Rounding | None
    clustering: ClusterReport | None
    weights: WeightLoss
    spikes: float | None = None
    spikes_before: float | None = None
    peak: int | None = None
    headroom: float | None = None
    overflows: int = 0
    warnings: tuple[str, ...] = ()
    max_delay: int = 0
    axons: int = 0


@dataclass(frozen=True)
class Report:
    """What `export` did. `str()` is a table to read.

    accuracy   "float", "clustered" (where it was), "quantised": shares of the calibration samples; empty without labels
    spikes     of all layers a sample; inputs: what came in a sample; None without calibration data
    mappings   what the network costs in each of five mappings, `chip_costs.chip_costs`
    dt         seconds a step, or None
    """

    path: Path
    form: str
    dt: float | None
    layers: tuple[LayerReport, ...]
    mappings: tuple[ChipCost, ...]
    accuracy: Mapping[str, float]
    samples: int = 0
    steps: int = 0
    spikes: float | None = None
    inputs: float | None = None

    def __str__(self) -> str:
        return "\n".join(
            [*_layer_lines(self), *_bits_lines(self), *_loss_lines(self), *_data_lines(self), *_mapping_lines(self)]
        )


def layer_report(
    layer: FixedLayer,
    trained: HetSynParams,
    rounding: Rounding | None,
    clustering: ClusterReport | None,
    weights: WeightLoss,
    run: FixedRun | None,
    spikes_before: float | None = None,
    warnings: tuple[str, ...] = (),
) -> LayerReport:
    """The report of one layer: the integers that are deployed beside the layer as it was trained.

    run           what the integers did on the calibration data, and spikes_before the trained layer; None without them
    weights, warnings   what `losses.py` has to say
    """
    size, p = layer_sizes(layer), layer.params
    trained_decays, kept_decays = _decays(trained), _decays(p.to_params())
    report = LayerReport(
        name=layer.name,
        neurons=size.neurons,
        synapses=size.synapses,
        clusters=size.clusters,
        state_bits=state_bits(layer),
        weight_bits=weight_bits(layer),
        tau_wanted=_tau_range(trained_decays),
        tau_kept=_tau_range(kept_decays),
        beyond=int(beyond_words(trained_decays).sum()),
        ends=int((decay_to_word(kept_decays) % DECAY_ONE == 0).sum()),
        rounding=rounding,
        clustering=clustering,
        weights=weights,
        spikes_before=spikes_before,
        warnings=warnings,
        max_delay=p.max_delay,
        axons=size.axons,
    )
    if run is None:
        return report
    spikes = None if run.spikes is None else float(run.spikes.sum() / run.v.shape[1])
    headroom = p.state_bits - 1 - log2(run.peak) if run.peak else float(p.state_bits - 1)
    return replace(report, spikes=spikes, peak=run.peak, headroom=headroom, overflows=run.overflows)


def with_rates(report: Report, fixed: FixedNetwork, x: Any, runs: Mapping[str, FixedRun]) -> Report:
    """The report with what the calibration data x, (T, B, M), and the runs on them tell of traffic."""
    steps, samples, _ = x.shape
    spikes = sum(layer.spikes or 0.0 for layer in report.layers)
    inputs = float(np.count_nonzero(x) / samples)
    costs = tuple(chip_costs(fixed, messages(fixed, x, runs)))
    return replace(report, mappings=costs, samples=samples, steps=steps, spikes=spikes, inputs=inputs)


def _decays(params: HetSynParams) -> Array:
    """Every decay of a layer, written out, float64, in one row."""
    full = params.astype(np.float64).expanded()
    return np.concatenate([getattr(full, name).ravel() for name in DECAYS if getattr(full, name) is not None])


def _tau_range(decays: Array) -> tuple[float, float] | None:
    """The smallest and the largest time constant in steps, 0 and infinity left out."""
    inside = decays[(decays > 0) & (decays < 1)]
    return tuple(decay_to_tau([inside.min(), inside.max()], 1.0).tolist()) if inside.size else None


# ---- the report as text ------------------------------------------------------------------------------------------

LAYER_LEGEND = (
    "K: different decays; state, weights: memory, 1 kB = 1,000 bytes; spikes: fired a sample; headroom: how often the "
    "largest state could double"
)
BITS_LEGEND = (
    "error: of a neuron's weights, as a share of their sum of |w|; spikes: fired a sample, by the trained network and "
    "by the integers"
)
MAPPING_LEGEND = (
    "neurons, synapses: how many the whole network takes on the chip; state: memory of their states, without weights;",
    "axons: what spikes are sent on, one for each delay with which synapses read a line; a spike is a message on each",
    "spikes, graded a step: messages sent a time step, inputs among the spikes; graded ones carry a number (at most)",
    *(f"{name}: {what}" for name, what in MAPPINGS.items()),
)


def _layer_lines(r: Report) -> list[str]:
    rows = [["layer", "neurons", "synapses", "K", "state", "weights", "tau wanted", "tau kept", "spikes", "headroom"]]
    for at in r.layers:
        memory = [_bytes(at.state_bits), _bytes(at.weight_bits)]
        taus = [_taus(at.tau_wanted), _taus(at.tau_kept)]
        spikes = "-" if at.spikes is None else f"{at.spikes:,.1f}"
        headroom = "-" if at.headroom is None else f"{at.headroom:.1f} bits"
        rows.append(
            [at.name, f"{at.neurons:,}", f"{at.synapses:,}", f"{at.clusters:,}", *memory, *taus, spikes, headroom]
        )
    low, high = decay_to_tau(DECAY_RANGE, 1.0)
    unit = "" if r.dt is None else f", a step is {r.dt * 1e3:g} ms"
    held = f"tau in steps{unit}; 12 bits hold {low:.2g} to {high:.0f} steps"
    if r.dt is not None:
        held += f" ({low * r.dt * 1e3:.2g} to {high * r.dt * 1e3:.0f} ms)"
    return [f"{r.path}: {len(r.layers)} layers, {r.form} form", *_table(rows), LAYER_LEGEND, held]


def _bits_lines(r: Report) -> list[str]:
    rows = [["8 bits", "weights to 0", "error, mean", "largest", "spikes before", "after"]]
    for at in r.layers:
        spikes = ["-" if count is None else f"{count:,.1f}" for count in (at.spikes_before, at.spikes)]
        rows.append([at.name, *(f"{share:.1%}" for share in at.weights), *spikes])
    return [*_table(rows), BITS_LEGEND]


def _loss_lines(r: Report) -> list[str]:
    lines = []
    for at in r.layers:
        losses = []
        if at.max_delay:
            losses.append(f"delays of up to {at.max_delay} steps take {at.axons:,} axons")
        if at.clustering is not None:
            losses.append(f"clustering moved v by {at.clustering.error:.1%} of its deviation")
            if at.clustering.changed is not None:
                losses.append(f"{at.clustering.changed:.2%} of spikes changed")
        if at.rounding is not None and at.rounding.clipped_weights:
            losses.append(f"{at.rounding.clipped_weights:,} weights clipped to 8 bits")
        if at.rounding is not None and at.rounding.clipped_taus:
            losses.append(f"{at.rounding.clipped_taus:,} taus clipped to 12 bits")
        if at.beyond:
            losses.append(f"{at.beyond:,} trained taus beyond 12 bits")
        if at.ends:
            losses.append(f"{at.ends:,} decays of exactly 0 or 1, outside Loihi's own field")
        if at.overflows:
            losses.append(f"{at.overflows:,} OVERFLOWS, peak {at.peak:,}")
        lines += [f"{at.name}: {', '.join(losses)}"] if losses else []
        lines += [f"{at.name}: WARNING: {sentence}" for sentence in at.warnings]
    return lines


def _data_lines(r: Report) -> list[str]:
    if r.spikes is None:
        return ["no calibration data: headroom, spikes and accuracy are not known"]
    lines = [
        f"on {r.samples:,} samples of {r.steps:,} steps: {r.inputs:,.1f} spikes in, {r.spikes:,.1f} fired a sample"
    ]
    if r.accuracy:
        lines.append("accuracy: " + ", ".join(f"{name} {share:.1%}" for name, share in r.accuracy.items()))
    return lines


def _mapping_lines(r: Report) -> list[str]:
    rows = [["mapping", "neurons", "synapses", "axons", "state", "spikes a step", "graded a step"]]
    for m in r.mappings:
        spikes = "-" if m.spikes is None else f"{m.spikes:,.1f}"
        graded = f"up to {m.graded:,}" if m.graded else "0"
        rows.append([m.name, f"{m.neurons:,}", f"{m.synapses:,}", f"{m.axons:,}", _bytes(m.state_bits), spikes, graded])
    return [*_table(rows), *MAPPING_LEGEND]


def _table(rows: list[list[str]]) -> list[str]:
    """Columns of equal width, the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _bytes(bits: int) -> str:
    size = bits / 8
    for limit, factor, unit in ((1e4, 1.0, "B"), (1e7, 1e3, "kB")):
        if size < limit:
            return f"{size / factor:,.0f} {unit}"
    return f"{size / 1e6:,.0f} MB"


def _taus(limits: tuple[float, float] | None) -> str:
    return "-" if limits is None else f"{limits[0]:.3g}..{limits[1]:.4g}"
