"""Codebook training: a clustered layer learns its K decays, which its synapses share; with integers in the loop or not.

After `clusters.cluster_network`, or with share="codebook" from the start, a layer has K synaptic decays. Here they are
the codebook of `ops/trainable.py`: one tensor, and every synapse has an index into it. The indices stay as they are;
or, where a layer has latent decays, `reassign_` moves every synapse to the decay that is nearest to its latent one.

With a `unit` the forward pass is the chip's arithmetic (`straight_through.py`), in that unit and no other: quantise
with the same one afterwards, or the weights are rounded otherwise than in training. Delays, which are whole then, stay
as they are. Decays are trained as numbers in
[0, 1], not as decay words, whose steps would swallow small changes; `to_network` rounds them, as the integer forward
pass does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hetsyn_plugins.core.codebook import INDICES, exact
from hetsyn_plugins.core.fields import ARRAYS, DECAYS, DELAYS, SYNAPTIC
from hetsyn_plugins.core.network import AlwaysOn as PlainAlwaysOn
from hetsyn_plugins.core.network import Dropout, HetSynLayer, Layer, Network, check_flat
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.validation import check_samples
from hetsyn_plugins.exchange.conversion import AlwaysOn
from hetsyn_plugins.fixed_point.neuron import DECAY_ONE
from hetsyn_plugins.fixed_point.rounding import decay_to_word, quantise
from hetsyn_plugins.ops import stack
from hetsyn_plugins.ops.codebook import LATENTS
from hetsyn_plugins.ops.straight_through import hetsyn_lif_quantised
from hetsyn_plugins.ops.trainable import TrainableFields, to_hetsyn_params

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
DECAY_NAMES = ("_codebook", "_latent", *DECAYS)  # what the names of decays end in


class CodebookHetSyn(TrainableFields):
    """A HetSyn layer or readout whose synapses share K decays: inputs (T, B, M) -> spikes (T, B, N), or v of a readout.

    layer   what to train; `layer.learned` says which fields are (the codebook where "decay" is)
    unit    run in integers, one weight unit being this much of the threshold's unit; None: in float
    latent  the layer before it was clustered, whose decays are the first latent ones; None: no `reassign_`

    Parameters or buffers are those of share="codebook" (`ops/trainable.py`), under the core's names: weight,
    decay_codebook (K,), decay_index (N, M) and recurrent_decay_index (N, N), decay_latent, ...
    """

    names = {field: field for field in ARRAYS}  # noqa: RUF012  declared as a ClassVar where it comes from

    def __init__(self, layer: HetSynLayer, *, unit: float | None = None, latent: HetSynParams | None = None) -> None:
        super().__init__()
        self.layer, self.unit, self.max_delay = layer, unit, layer.params.max_delay
        full = layer.params.expanded()
        book = layer.codebook or exact(full.decay, full.recurrent_decay, full.decay.dtype)
        self.set_options(
            share="codebook",
            parametrization="decay",
            tie_reset=False,
            dt=layer.dt,
            clusters=len(book.decays),
            reassign=latent is not None,
        )
        values: dict[str, Any] = {field: getattr(full, field) for field in ARRAYS}
        for field in SYNAPTIC:
            values[INDICES[field]] = getattr(book, INDICES[field])
            values[LATENTS[field]] = None if latent is None else getattr(latent.expanded(), field)
            if values[field] is not None:
                values[field] = book.decays
        learned = layer.learned if full.spiking else layer.learned - {"threshold"}  # a readout has none to learn
        if unit is not None:
            learned = learned - set(DELAYS)
        tensors = {name: None if value is None else torch.tensor(np.array(value)) for name, value in values.items()}
        self.add_fields(tensors, {field: field in learned for field in ARRAYS})

    def forward(self, inputs: Tensor) -> Tensor:
        fields = self.tensors()
        options: dict[str, Any] = {"surrogate": self.layer.surrogate, "detach_reset": self.layer.detach_reset}
        spiking = self.layer.params.spiking
        if self.unit is None:
            spikes, v, _ = stack.run_layer(inputs, fields, spiking, **options)
        else:
            name = self.layer.name
            spikes, v = hetsyn_lif_quantised(inputs, **fields, spiking=spiking, unit=self.unit, name=name, **options)
        return v if spikes is None else spikes

    def to_layer(self, words: bool = True) -> HetSynLayer:
        """The plain layer; words: synaptic decays rounded to decay words, as the quantised forward pass rounds them."""
        with torch.no_grad():
            fields = self.tensors()
        if words:
            for field in SYNAPTIC:
                decay = fields[field]
                if decay is not None:
                    rounded = 1.0 - decay_to_word(decay.double().cpu().numpy()) / DECAY_ONE
                    fields[field] = torch.from_numpy(rounded).to(decay)
        params = to_hetsyn_params(fields, self.layer.params.spiking, self.max_delay or None)
        share = "codebook" if self.layer.codebook is not None else "synapse"
        plain: dict[str, Any] = {"parametrization": "decay", "tie_reset": False, "stored": {}, "codebook": None}
        return replace(self.layer, params=params, share=share, **plain)


def from_network(
    network: Network, *, units: Mapping[str, float] | None = None, latent: Network | None = None
) -> nn.Sequential:
    """A clustered network as torch modules, CodebookHetSyn for its HetSyn layers, in their dtype.

    units   layer name -> unit, for layers that run in integers (`units_of`); None: all in float
    latent  the same network before it was clustered, for `reassign_`

    Raises ValueError for a Linear, which a chip does not hold.
    """
    check_flat(network, "a chip")
    before = {layer.name: layer for layer in (latent.layers if latent is not None else ())}
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for layer in network.layers:
        if isinstance(layer, HetSynLayer):
            unclustered = before.get(layer.name)
            params = unclustered.params if isinstance(unclustered, HetSynLayer) else None
            module: nn.Module = CodebookHetSyn(layer, unit=(units or {}).get(layer.name), latent=params)
        elif isinstance(layer, PlainAlwaysOn):
            module = AlwaysOn()
        elif isinstance(layer, Dropout):
            module = nn.Dropout(layer.p)
        else:
            kind = type(layer).__name__
            raise ValueError(f"layer {layer.name!r}: expected HetSyn layers, Dropout and AlwaysOn only, got a {kind}")
        modules[layer.name.replace(".", "_")] = module
    return nn.Sequential(modules)


def to_network(net: nn.Sequential, *, words: bool = True) -> Network:
    """The plain network of what `from_network` made, as it is trained now; words as in `CodebookHetSyn.to_layer`."""
    layers: list[Layer] = []
    for name, module in net.named_children():
        if isinstance(module, CodebookHetSyn):
            layers.append(module.to_layer(words))
        elif isinstance(module, nn.Dropout):
            layers.append(Dropout(name, module.p))
        else:
            layers.append(PlainAlwaysOn(name))
    return Network(tuple(layers))


def units_of(network: Network) -> dict[str, float]:
    """The unit that fits each HetSyn layer best as it is now (`rounding.quantise`), by name."""
    layers = [layer for layer in network.layers if isinstance(layer, HetSynLayer)]
    return {layer.name: quantise(layer.params, clip=True)[0].unit for layer in layers}


class FineTuned(NamedTuple):
    """A network, the units to quantise its layers in (empty where it was trained in float), the mean loss an epoch."""

    network: Network
    units: dict[str, float]
    losses: list[float]


def last_step(output: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the readout's v at the last step: output (T, B, classes), labels (B,)."""
    check_samples("labels", labels, output)
    return nn.functional.cross_entropy(output[-1], labels)


def as_before(output: Tensor, wanted: Tensor) -> Tensor:
    """How far the readout's classes at the last step are from another's: output (T, B, classes), wanted (B, classes).

    The Kullback-Leibler divergence of their softmaxes. With the float network's own v wanted ("distillation"), training
    brings back what clustering and rounding moved, and does not fit the labels once more.
    """
    check_samples("wanted", wanted, output)
    log_shares, wanted_shares = output[-1].log_softmax(1), wanted.log_softmax(1)
    return nn.functional.kl_div(log_shares, wanted_shares, log_target=True, reduction="batchmean")


def fine_tune(
    network: Network,
    batches: Batches,
    *,
    epochs: int,
    loss: Callable[[Tensor, Tensor], Tensor] = last_step,
    lr: float = 2e-3,
    decay_lr: float = 2e-4,
    quantised: bool = True,
    latent: Network | None = None,
) -> FineTuned:
    """Train a clustered network on: its weights, its codebooks, and what else its layers say is learned.

    batches        called every epoch: pairs of inputs (T, B, M) and whatever `loss` takes beside the output (T, B, N)
    lr, decay_lr   Adam's rates of weights (and bias, threshold, strength) and of decays, by a cosine to 0 at the end
    quantised      integers forward, in the units that fit the network best as it comes; False: float
    latent         the network before it was clustered: synapses then move to the nearest decay after every epoch

    Trains in float32 and returns that; see FineTuned. In integers no Dropout acts: what it leaves would not be whole
    numbers. Raises FixedPointOverflow where a state leaves its bits.
    """
    if epochs < 1:
        raise ValueError(f"epochs: expected at least 1, got {epochs}")
    units = units_of(network) if quantised else {}
    net = from_network(network, units=units, latent=latent).float().train(not quantised)
    layers = [module for module in net if isinstance(module, CodebookHetSyn)]
    optimiser = _optimiser(net, lr, decay_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    losses = []
    for _ in range(epochs):
        total = count = 0.0
        for inputs, labels in batches():
            value = loss(net(inputs.float()), labels)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            for layer in layers:
                layer.clamp_()
            total, count = total + float(value.detach()), count + 1
        schedule.step()
        losses.append(total / max(count, 1))
        if latent is not None:
            for layer in layers:
                layer.reassign_(len(inputs))
    return FineTuned(to_network(net), units, losses)


def _optimiser(net: nn.Sequential, lr: float, decay_lr: float) -> torch.optim.Optimizer:
    """Adam, with a rate of their own for decays: codebooks, latent ones, those of reset and adaptation."""
    parameters = list(net.named_parameters())
    decays = [p for name, p in parameters if name.endswith(DECAY_NAMES)]
    others = [p for name, p in parameters if not name.endswith(DECAY_NAMES)]
    return torch.optim.Adam([{"params": others, "lr": lr}, {"params": decays, "lr": decay_lr}])
