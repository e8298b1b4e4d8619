"""From a trained network to a file for a Loihi-style chip: cluster, quantise, try out, write, and say what it took.

`export` writes nothing unless all of it held. The report tells, layer by layer, what was lost (time constants, weights,
spikes, accuracy) and what it costs (memory, messages; `mappings.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log2
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetsyn_plugins.core.network import AlwaysOn, HetSynLayer, Network
from hetsyn_plugins.core.params import ARRAYS, DECAYS, Array, HetSynParams, decay_to_tau
from hetsyn_plugins.deployment import chip_costs as mappings
from hetsyn_plugins.deployment import chip_file as loihi
from hetsyn_plugins.deployment.clusters import ClusterReport, cluster_network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.fixed_point import network as fixed_network
from hetsyn_plugins.fixed_point.network import FixedLayer, FixedNetwork
from hetsyn_plugins.fixed_point.neuron import (
    ONE,
    FixedRun,
    Rounding,
    decay_to_word,
    refuse_clipped,
    rounding,
    whole_numbers,
)

FEW = 64  # samples that the report on clustering is measured on
OWN = (1 / ONE, 1 - 1 / ONE)  # the decays of a chip's own field: words 4095 to 1


@dataclass(frozen=True)
class LayerReport:
    """A layer of the deployment.

    synapses        all pairs, recurrent ones too; clusters: how many different decay words they have
    state_bits, weight_bits   what is to be stored, as `mappings.py` counts
    tau_wanted      the smallest and largest time constant of the trained layer, in steps, 0 and infinity left out; None
                    where there is none. tau_kept: the same of the integers
    beyond          trained decays between 0 and 1 whose tau 12 bits cannot hold (clustering may have brought them in)
    ends            decay words of 4096 and 0 (r = 0, r = 1), which our format has and Loihi's own field, 1..4095, lacks
    rounding        what rounding to integers clipped and moved
    clustering      what clustering did; None where it was not asked for
    spikes          a sample, on average; None for a readout or without calibration data
    peak, headroom  the largest |state|, and how often it could double before it leaves its bits; None without data
    overflows       states that left their bits (then `peak` is the largest of them, and headroom negative)
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
    spikes: float | None = None
    peak: int | None = None
    headroom: float | None = None
    overflows: int = 0


@dataclass(frozen=True)
class Report:
    """What `export` did. `str()` is a table to read.

    accuracy   "float", "clustered" (where it was), "quantised": shares of the calibration samples; empty without labels
    spikes     of all layers a sample; inputs: what came in a sample; None without calibration data
    mappings   `mappings.mappings` of the network
    dt         seconds a step, or None
    """

    path: Path
    form: str
    dt: float | None
    layers: tuple[LayerReport, ...]
    mappings: tuple[mappings.Mapping, ...]
    accuracy: Mapping[str, float]
    samples: int = 0
    steps: int = 0
    spikes: float | None = None
    inputs: float | None = None

    def __str__(self) -> str:
        return "\n".join([*_layer_lines(self), *_loss_lines(self), *_data_lines(self), *_mapping_lines(self)])


class Source(NamedTuple):
    """A trained network: as floats, and as the integers that it was trained in, where it was."""

    network: Network
    fixed: FixedNetwork | None = None


def export(
    net: Any,
    path: str | os.PathLike[str],
    *,
    clusters: int | None = None,
    tolerance: float | None = None,
    form: str | None = None,
    units: Mapping[str, float] | None = None,
    clip: bool = False,
    calibration: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    allow_overflow: bool = False,
) -> Report:
    """Bring a trained network to integers, write them to `path` (`loihi.py`) and report.

    net          a Network, a net that `convert` reads (snnTorch, Norse), the path of a checkpoint, or slayer's HetSyn
                 blocks: a list, Sequential or a module with `.blocks`. Blocks are integers already and are written as
                 they are, unless their decays are to be clustered: then weights keep their values
    clusters     decays a layer; or `tolerance`: as few as keep the error of v below it (`clusters.cluster`);
                 neither: those that are there
    form         "cluster" or "synapse" (`fixed_point`); None: what the blocks have if they are not clustered, else
                 "cluster"
    units        layer name -> what one weight unit stands for, where it was trained with one (`finetune.py`)
    clip         take the nearest where a weight or a tau does not fit; the report counts them
    calibration  (T, B, M) whole numbers to try the integers on, and labels (B,) to say how well they decide: by the
                 largest v of the readout at the last step, or by the most spikes where the last layer spikes
    allow_overflow   states that leave their bits on the calibration data are counted instead of refused

    Raises ValueError for a network that cannot be brought to integers, naming what does not fit, and
    FixedPointOverflow. Then nothing is written.
    """
    source, path = _source(net), Path(path)
    x, truth = _checked_data(calibration, labels)
    network, reports = source.network, dict[str, ClusterReport]()
    if clusters is not None or tolerance is not None:
        few = None if x is None else x[:, :FEW]
        network, reports = cluster_network(network, clusters, tolerance=tolerance, inputs=few)
    fixed, roundings = _fixed(source, network, form, units, clip)
    runs = {} if x is None else fixed.run(x, allow_overflow=allow_overflow)
    accuracy: dict[str, float] = {}
    if x is not None and truth is not None:
        accuracy["float"] = _accuracy(source.network, x, truth)
        if reports:
            accuracy["clustered"] = _accuracy(network, x, truth)
        accuracy["quantised"] = float((decisions(list(runs.values())[-1]) == truth).mean())
    wanted = [layer for layer in source.network.layers if isinstance(layer, HetSynLayer)]
    dts = {layer.dt for layer in wanted}
    dt = dts.pop() if len(dts) == 1 else None
    layers = [
        _layer_report(layer, was.params, roundings.get(layer.name), reports.get(layer.name), runs.get(layer.name))
        for layer, was in zip(fixed.layers, wanted, strict=True)
    ]
    loihi.write(fixed, path, dt=dt)
    form = fixed.layers[0].params.form
    report = Report(path, form, dt, tuple(layers), tuple(mappings.mappings(fixed)), accuracy)
    return report if x is None else _with_rates(report, fixed, x)


def decisions(run: FixedRun) -> NDArray[np.int64]:
    """The class that the last layer decides for, (B,): most spikes, or the largest v of a readout at the last step."""
    return np.asarray(run.v[-1].argmax(1) if run.spikes is None else run.spikes.sum(0).argmax(1))


# ---- where networks come from -----------------------------------------------------------------------------------


def _source(net: Any) -> Source:
    if isinstance(net, (str, os.PathLike)):
        return Source(checkpoint.load(net))
    blocks = _blocks(net)
    if blocks is None:
        from hetsyn_plugins.exchange.conversion import convert

        return Source(convert(net, to="reference"))
    fixed = FixedNetwork(tuple(block.to_fixed(name) for name, block in blocks))
    layers = tuple(HetSynLayer(name, block.to_params(hook=False)) for name, block in blocks)
    return Source(Network(layers), fixed)


def _blocks(net: Any) -> list[tuple[str, Any]] | None:
    """Slayer's HetSyn blocks with their names; None where the net is of another kind."""
    net = getattr(net, "blocks", net)
    if hasattr(net, "to_fixed"):
        return [("0", net)]
    try:
        blocks = [(str(index), block) for index, block in enumerate(net)]
    except TypeError:
        return None
    if not any(hasattr(block, "to_fixed") for _, block in blocks):
        return None
    for name, block in blocks:
        passing = type(block).__name__ in ("Input", "Flatten") and getattr(block, "neuron", None) is None
        if not passing and not hasattr(block, "to_fixed"):
            kind = type(block).__name__
            raise ValueError(f"net: expected HetSyn blocks (Input and Flatten that only pass on), got {kind} as {name}")
    return [(name, block) for name, block in blocks if hasattr(block, "to_fixed")]


def _fixed(
    source: Source, network: Network, form: str | None, units: Mapping[str, float] | None, clip: bool
) -> tuple[FixedNetwork, dict[str, Rounding]]:
    """The integers of a (clustered) network, each layer in its unit if it has one, and what rounding did."""
    made = {} if source.fixed is None else {layer.name: layer for layer in source.fixed.layers}
    if source.fixed is not None and units is None and network is source.network:
        forms = {layer.params.form for layer in source.fixed.layers}
        if form is None or forms == {form}:
            return source.fixed, _roundings(source.network, made, clip)
    if form is None:
        kept = None if network is not source.network else next((layer.params.form for layer in made.values()), None)
        form = kept or "cluster"  # what was clustered is to share accumulators
    known = {name: layer.params.unit for name, layer in made.items()} | dict(units or {})
    stack, roundings = fixed_network.quantise(network, form=form, clip=clip, units=known)
    delays = {name: layer.delay for name, layer in made.items()}
    return FixedNetwork(tuple(replace(layer, delay=delays.get(layer.name)) for layer in stack.layers)), roundings


def _roundings(network: Network, made: Mapping[str, FixedLayer], clip: bool) -> dict[str, Rounding]:
    """What blocks lost that brought their own integers."""
    found = {}
    for layer in network.layers:
        assert isinstance(layer, HetSynLayer)  # blocks are nothing else
        found[layer.name] = rounding(layer.params, made[layer.name].params)
        try:
            if not clip:
                refuse_clipped(found[layer.name])
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from error
    return found


def _checked_data(calibration: ArrayLike | None, labels: ArrayLike | None) -> tuple[Any, Any]:
    if calibration is None:
        if labels is not None:
            raise ValueError("labels: expected together with calibration, got labels alone")
        return None, None
    x = np.asarray(calibration)
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"calibration: expected shape (T, B, M), none of them 0, got {x.shape}")
    truth = None if labels is None else np.asarray(labels)
    if truth is not None and truth.shape != (x.shape[1],):
        raise ValueError(f"labels: expected shape ({x.shape[1]},), one a sample, got {truth.shape}")
    if truth is not None and (truth != np.floor(truth)).any():
        raise ValueError("labels: expected whole numbers, the classes, got fractions")
    return whole_numbers(x), truth


# ---- measuring ---------------------------------------------------------------------------------------------------


def _accuracy(network: Network, x: Any, labels: Any) -> float:
    """Share of samples that the float network decides as labelled, through the kernels (the reference is slow)."""
    import torch

    from hetsyn_plugins.ops.lif import hetsyn_li, hetsyn_lif

    signal = torch.tensor(x)
    decided = None
    for layer in network.layers:
        if isinstance(layer, AlwaysOn):
            signal = torch.cat([signal, signal.new_ones((*signal.shape[:2], 1))], dim=2)
        elif isinstance(layer, HetSynLayer):
            found = {name: getattr(layer.params, name) for name in ARRAYS}
            fields: dict[str, Any] = {k: None if a is None else torch.tensor(np.array(a)) for k, a in found.items()}
            signal = signal.to(fields["weight"].dtype)
            if layer.params.spiking:
                signal, _, _ = hetsyn_lif(signal, **fields)
                decided = signal.sum(0).argmax(1)
            else:
                signal, _ = hetsyn_li(signal, fields["weight"], fields["decay"], bias=fields["bias"])
                decided = signal[-1].argmax(1)
    assert decided is not None  # quantise found HetSyn layers
    return float((decided.numpy() == labels).mean())


def _layer_report(
    layer: FixedLayer,
    wanted: HetSynParams,
    rounding: Rounding | None,
    clustering: ClusterReport | None,
    run: FixedRun | None,
) -> LayerReport:
    s, p = mappings.sizes(layer), layer.params
    asked = _decays(wanted)
    words = decay_to_word(kept := _decays(p.to_params()))
    report = LayerReport(
        name=layer.name,
        neurons=s.neurons,
        synapses=s.synapses,
        clusters=s.clusters,
        state_bits=mappings.state_bits(layer),
        weight_bits=mappings.weight_bits(layer),
        tau_wanted=_tau_range(asked),
        tau_kept=_tau_range(kept),
        beyond=int(((decay_to_word(asked) % ONE == 0) & (asked > 0) & (asked < 1)).sum()),
        ends=int((words % ONE == 0).sum()),
        rounding=rounding,
        clustering=clustering,
    )
    if run is None:
        return report
    spikes = None if run.spikes is None else float(run.spikes.sum() / run.v.shape[1])
    headroom = p.state_bits - 1 - log2(run.peak) if run.peak else float(p.state_bits - 1)
    return replace(report, spikes=spikes, peak=run.peak, headroom=headroom, overflows=run.overflows)


def _with_rates(report: Report, fixed: FixedNetwork, x: Any) -> Report:
    """The report with what the calibration data tell of traffic."""
    steps, samples, _ = x.shape
    fired = sum(layer.spikes or 0.0 for layer in report.layers)
    inputs = float(np.count_nonzero(x) / samples)
    costs = tuple(mappings.mappings(fixed, (fired + inputs) / steps))
    return replace(report, mappings=costs, samples=samples, steps=steps, spikes=fired, inputs=inputs)


def _decays(params: HetSynParams) -> Array:
    """Every decay of a layer, written out, float64, in one row."""
    full = params.astype(np.float64).expanded()
    return np.concatenate([getattr(full, name).ravel() for name in DECAYS if getattr(full, name) is not None])


def _tau_range(decays: Array) -> tuple[float, float] | None:
    inside = decays[(decays > 0) & (decays < 1)]
    return tuple(decay_to_tau([inside.min(), inside.max()], 1.0).tolist()) if inside.size else None


# ---- the report as text ------------------------------------------------------------------------------------------


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
    low, high = decay_to_tau(OWN, 1.0)
    unit = "" if r.dt is None else f", a step is {r.dt * 1e3:g} ms"
    held = f"tau in steps{unit}; 12 bits hold {low:.2g} to {high:.0f} steps"
    if r.dt is not None:
        held += f" ({low * r.dt * 1e3:.2g} to {high * r.dt * 1e3:.0f} ms)"
    return [f"{r.path}: {len(r.layers)} layers, {r.form} form", *_table(rows), held]


def _loss_lines(r: Report) -> list[str]:
    lines = []
    for at in r.layers:
        said = []
        if at.clustering is not None:
            said.append(f"clustering moved v by {at.clustering.error:.1%} of its deviation")
            if at.clustering.changed is not None:
                said.append(f"{at.clustering.changed:.2%} of spikes changed")
        if at.rounding is not None and at.rounding.clipped_weights:
            said.append(f"{at.rounding.clipped_weights:,} weights clipped to 8 bits")
        if at.rounding is not None and at.rounding.clipped_taus:
            said.append(f"{at.rounding.clipped_taus:,} taus clipped to 12 bits")
        if at.beyond:
            said.append(f"{at.beyond:,} trained taus beyond 12 bits")
        if at.ends:
            said.append(f"{at.ends:,} decays of exactly 0 or 1, outside Loihi's own field")
        if at.overflows:
            said.append(f"{at.overflows:,} OVERFLOWS, peak {at.peak:,}")
        lines += [f"{at.name}: {', '.join(said)}"] if said else []
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
    rows = [["mapping", "neurons", "synapses", "state", "spikes a step", "graded a step"]]
    for m in r.mappings:
        spikes = "-" if m.spikes is None else f"{m.spikes:,.1f}"
        graded = f"up to {m.graded:,}" if m.graded else "0"
        rows.append([m.name, f"{m.neurons:,}", f"{m.synapses:,}", _bytes(m.state_bits), spikes, graded])
    return _table(rows)


def _table(rows: list[list[str]]) -> list[str]:
    """Columns of equal width, the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _bytes(bits: int) -> str:
    size = bits / 8
    return f"{size:,.0f} B" if size < 1e4 else f"{size / 1e3:,.0f} kB" if size < 1e7 else f"{size / 1e6:,.0f} MB"


def _taus(found: tuple[float, float] | None) -> str:
    return "-" if found is None else f"{found[0]:.3g}..{found[1]:.4g}"
