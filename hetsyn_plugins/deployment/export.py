"""From a trained network to a file for a Loihi-style chip: cluster, quantise, try out, write, and say what it took.

`export` writes nothing unless all of it held. The report tells, layer by layer, what was lost (time constants, weights,
spikes, accuracy) and what it costs (memory, messages; `chip_costs.py`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetsyn_plugins.core.network import HetSynLayer, Network, check_flat
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.validation import host_array, layout_hint
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.deployment.chip_costs import chip_costs
from hetsyn_plugins.deployment.clusters import ClusterReport, cluster_network
from hetsyn_plugins.deployment.losses import losses, weight_loss
from hetsyn_plugins.deployment.report import Report, layer_report, with_rates
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.fixed_point.network import FixedLayer, FixedNetwork, quantise
from hetsyn_plugins.fixed_point.neuron import FixedRun, whole_numbers
from hetsyn_plugins.fixed_point.rounding import Rounding, refuse_clipped, rounding

REPORT_SAMPLES = 64  # samples that the report on clustering is measured on


FloatRun = tuple[Any, Any]  # tensors: spikes, None of a readout, and v


class Source(NamedTuple):
    """A trained network: as floats, and as the integers that it was trained in, where it was.

    used   layers as they computed, weights rounded where that was done in training; None: those of the network
    """

    network: Network
    fixed: FixedNetwork | None = None
    used: tuple[HetSynParams, ...] | None = None


# longer than a screen: half of it says what the arguments are
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
    """Bring a trained network to integers, write them to `path` (`chip_file.py`) and report.

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

    Warns (UserWarning, and in the report) where a layer lost weights, neurons or time constants that it cannot do
    without (`losses.py`).

    Raises ValueError for a network that cannot be brought to integers, naming what does not fit, delays that are not
    whole or longer than 62 steps among it, and FixedPointOverflow. Then nothing is written.
    """
    source, path = _source(net), Path(path)
    check_flat(source.network, "a chip file")
    x, truth = _checked_data(calibration, labels)
    network, reports = source.network, dict[str, ClusterReport]()
    if clusters is not None or tolerance is not None:
        samples = None if x is None else x[:, :REPORT_SAMPLES]
        network, reports = cluster_network(network, clusters, tolerance=tolerance, inputs=samples, argument="clusters")
    fixed, roundings = _fixed(source, network, form, units, clip)
    runs = {} if x is None else fixed.run(x, allow_overflow=allow_overflow)
    before = {} if x is None else _run(source.network, x)
    floats = {"float": before, **({"clustered": _run(network, x)} if reports and truth is not None else {})}
    accuracy = {} if truth is None else _accuracies(floats, runs, truth)
    trained = [layer for layer in source.network.layers if isinstance(layer, HetSynLayer)]
    used = source.used or tuple(layer.params for layer in trained)
    dt = _common_dt(trained)
    layers = tuple(
        layer_report(
            layer,
            was.params,
            roundings.get(layer.name),
            reports.get(layer.name),
            weight_loss(computed, layer.params),
            runs.get(layer.name),
            _spikes_a_sample(before.get(was.name)),
            losses(computed, layer.params, reports.get(layer.name)),
        )
        for layer, was, computed in zip(fixed.layers, trained, used, strict=True)
    )
    chip_file.write(fixed, path, dt=dt)
    for layer in layers:
        for sentence in layer.warnings:
            warnings.warn(f"layer {layer.name!r}: {sentence}", stacklevel=2)
    report = Report(path, fixed.layers[0].params.form, dt, layers, tuple(chip_costs(fixed)), accuracy)
    return report if x is None else with_rates(report, fixed, x, runs)


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
    return Source(Network(layers), fixed, tuple(block.to_params() for _, block in blocks))


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
        forms_made = [layer.params.form for layer in made.values()] if network is source.network else []
        form = next(iter(forms_made), "cluster")  # what was clustered is to share accumulators
    known = {name: layer.params.unit for name, layer in made.items()} | dict(units or {})
    stack, roundings = quantise(network, form=form, clip=clip, units=known)
    delays = {name: layer.delay for name, layer in made.items()}
    return FixedNetwork(tuple(replace(layer, delay=delays.get(layer.name)) for layer in stack.layers)), roundings


def _roundings(network: Network, made: Mapping[str, FixedLayer], clip: bool) -> dict[str, Rounding]:
    """What blocks lost that brought their own integers."""
    roundings = {}
    for layer in network.layers:
        assert isinstance(layer, HetSynLayer)  # blocks are nothing else
        roundings[layer.name] = rounding(layer.params, made[layer.name].params)
        try:
            if not clip:
                refuse_clipped(roundings[layer.name])
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from error
    return roundings


def _checked_data(calibration: ArrayLike | None, labels: ArrayLike | None) -> tuple[Any, Any]:
    if calibration is None:
        if labels is not None:
            raise ValueError("labels: expected together with calibration, got labels alone")
        return None, None
    x = host_array("calibration", calibration)
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"calibration: expected shape (T, B, M), none of them 0, got {x.shape}")
    truth = None if labels is None else host_array("labels", labels)
    if truth is not None and truth.shape != (x.shape[1],):
        hint = layout_hint(truth.shape, x.shape)
        raise ValueError(f"labels: expected shape ({x.shape[1]},), one a sample, got {truth.shape}{hint}")
    if truth is not None and (truth != np.floor(truth)).any():
        raise ValueError("labels: expected whole numbers, the classes, got fractions")
    return whole_numbers(x), truth


# ---- measuring ---------------------------------------------------------------------------------------------------


def _common_dt(layers: list[HetSynLayer]) -> float | None:
    """Seconds a step, where all layers say the same."""
    dts = {layer.dt for layer in layers}
    return dts.pop() if len(dts) == 1 else None


def _run(network: Network, x: Any) -> dict[str, FloatRun]:
    """A network of floats through the kernels: the reference is slow."""
    import torch

    from hetsyn_plugins.ops import stack

    return dict(stack.run(network, torch.tensor(x)))


def _spikes_a_sample(run: FloatRun | None) -> float | None:
    if run is None or run[0] is None:
        return None
    return float(run[0].sum() / run[0].shape[1])


def _accuracies(
    floats: Mapping[str, dict[str, FloatRun]], runs: Mapping[str, FixedRun], labels: Any
) -> dict[str, float]:
    """Shares of samples decided as labelled, by networks of floats and by the integers, whose runs these are."""
    accuracy = {}
    for name, layers in floats.items():
        *_, (spikes, v) = layers.values()
        decided = v[-1].argmax(1) if spikes is None else spikes.sum(0).argmax(1)
        accuracy[name] = float((decided.numpy() == labels).mean())
    *_, output = runs.values()
    accuracy["quantised"] = float((decisions(output) == labels).mean())
    return accuracy
