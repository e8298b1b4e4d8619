"""A model card: what a trained network is, what it was measured to do, and how it is loaded, as a README.md.

The front matter is that of the Hugging Face hub (library_name, tags, datasets, model-index), in YAML whose texts are
JSON's, which YAML reads alike.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np

from hetsyn_plugins._version import __version__
from hetsyn_plugins.core.fields import SYNAPTIC, Array
from hetsyn_plugins.core.network import HetSynConv, HetSynLayer, Layer, Network
from hetsyn_plugins.core.params import decay_to_tau

LIBRARY, FILE = "hetsyn_plugins", "model.safetensors"
TAGS = ("spiking-neural-network", "neuromorphic", "hetsyn")
PAPER = (
    "Deng et al., *HetSyn: Versatile Timescale Integration in Spiking Neural Networks via Heterogeneous Synapses*, "
    "NeurIPS 2025"
)


class Measured(NamedTuple):
    """What a network was measured to do.

    task, dataset   by name; measure: "accuracy" (a share) or "MSE"
    how             how it was trained and selected, in sentences
    command         that trains it again
    """

    task: str
    dataset: str
    measure: str
    test: float
    how: str
    command: str


def card(network: Network, name: str, measured: Measured | None = None, file: str = FILE) -> str:
    """The text of README.md for a network; without `measured` it says that nothing is known of what it does.

    file   the checkpoint beside it; FILE is where `from_pretrained` looks
    """
    lines = ["---", *_front_matter(name, measured), "---", "", f"# {name}", ""]
    lines += [
        "A spiking network whose synapses have time constants of their own (HetSynLIF), "
        f"written by {LIBRARY} {__version__}. {PAPER}.",
        "",
        "| layer | lines | neurons | synapses | time constants |",
        "|---|---|---|---|---|",
        *(_row(layer) for layer in network.layers),
        "",
        "## How it is loaded",
        "",
        "```python",
        *_loading(file),
        "```",
        "",
        "## What it does",
        "",
        *_results(measured),
    ]
    return "\n".join(lines) + "\n"


def _loading(file: str) -> list[str]:
    frameworks = 'or "norse", "lava_dl", "reference"'
    if file != FILE:
        load = f'net = checkpoint.load("{file}", to="snntorch")  # {frameworks}'
        return [f"from {LIBRARY} import checkpoint", "", load]
    load = f'net = from_pretrained(".", to="snntorch")  # {frameworks}; this folder, or its name on the hub'
    return [f"from {LIBRARY}.exchange.pretrained import from_pretrained", "", load]


def _front_matter(name: str, measured: Measured | None) -> list[str]:
    lines = [f"library_name: {LIBRARY}", "tags:", *(f"- {tag}" for tag in TAGS)]
    if measured is None:
        return lines
    task, dataset = json.dumps(measured.task), json.dumps(measured.dataset)
    return [
        *lines,
        "datasets:",
        f"- {dataset}",
        "model-index:",
        f"- name: {json.dumps(name)}",
        "  results:",
        "  - task:",
        f"      type: {task}",
        "    dataset:",
        f"      name: {dataset}",
        f"      type: {dataset}",
        "    metrics:",
        f"    - type: {json.dumps(measured.measure.lower())}",
        f"      name: {json.dumps('test ' + measured.measure)}",
        f"      value: {measured.test!r}",
    ]


def _results(measured: Measured | None) -> list[str]:
    if measured is None:
        return ["Nothing is known: this card was written of the network alone."]
    value = f"{measured.test:.2%}" if measured.measure == "accuracy" else f"{measured.test:.4g}"
    return [
        f"{measured.measure} on the test set of {measured.task} ({measured.dataset}): **{value}**. {measured.how}",
        "",
        f"    {measured.command}",
    ]


def _row(layer: Layer) -> str:
    if isinstance(layer, HetSynConv):
        _, channels, kernel, *_ = convolution = layer.convolution
        sees = f"{convolution.in_channels} channels, {' x '.join(map(str, kernel))}"
        size = f"{layer.layer.params.weight.size:,}"
        return f"| {layer.name} | {sees} | {channels} channels | {size} | {_taus(layer.layer)} |"
    if not isinstance(layer, HetSynLayer):
        return f"| {layer.name} | {type(layer).__name__} | | | |"
    (lines, neurons), p = layer.widths, layer.params
    matrices = [matrix for matrix in (p.weight, p.recurrent_weight) if matrix is not None]
    kind = "" if p.spiking else " (readout)"
    return f"| {layer.name}{kind} | {lines} | {neurons} | {sum(m.size for m in matrices):,} | {_taus(layer)} |"


def _taus(layer: HetSynLayer) -> str:
    """The quartiles of the synapses' time constants; what lasts for ever, or for no step, is counted."""
    decays: Array = np.concatenate([np.ravel(d) for n in SYNAPTIC if (d := getattr(layer.params, n)) is not None])
    inside = decays[(decays > 0) & (decays < 1)].astype(np.float64)
    step, unit = (1.0, "steps") if layer.dt is None else (layer.dt * 1e3, "ms")
    ends = f"; {len(decays) - len(inside):,} of r = 0 or 1" if len(inside) < len(decays) else ""
    if not len(inside):
        return f"none between 0 and infinity{ends}"
    low, median, high = np.quantile(decay_to_tau(inside, step), (0.25, 0.5, 0.75))
    return f"{median:.3g} {unit} (quartiles {low:.3g}, {high:.3g}){ends}"
