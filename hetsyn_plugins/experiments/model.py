"""A network in one framework's layers, with one face for training: inputs (T, B, M) -> Activity.

Nothing is computed here: every layer is the adapter's own, called as its framework calls it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from hetsyn_plugins.core.fields import DECAYS, DELAYS, SYNAPTIC
from hetsyn_plugins.core.network import Dropout, HetSynLayer, Layer, Network
from hetsyn_plugins.exchange.conversion import convert
from hetsyn_plugins.exchange.frameworks import adapter
from hetsyn_plugins.experiments.batch_norm import BatchNorm
from hetsyn_plugins.experiments.ranks import Share
from hetsyn_plugins.experiments.tasks.task import Activity
from hetsyn_plugins.ops.trainable import TrainableFields


class Model(nn.Module):
    """A Network of HetSyn layers, Dropout and a readout at the end, in the layers of a framework.

    framework   "snntorch", "norse" or "lava_dl" (slayer's blocks, without the chip's step of delay between layers)
    quantised   lava_dl: forward in the chip's integers, weights and decays rounded and bounded to what it has
    one_decay   all synaptic decays of the network are one tensor, which every layer shares already
    batch_norm  behind each hidden layer, to train with; `to_network` gives a network without

    Raises ImportError where the framework is not installed.
    """

    def __init__(
        self,
        network: Network,
        framework: str,
        *,
        quantised: bool = False,
        one_decay: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.start, self.framework = network, framework
        self.spiking = [layer.name for layer in network.layers[:-1] if isinstance(layer, HetSynLayer)]
        if framework == "lava_dl":
            self.net: Any = nn.Sequential(OrderedDict(_slayer_blocks(network, quantised)))
        else:
            self.net = convert(network, to=framework)
        if one_decay:
            self._share_one_decay()
        widths = {layer.name: layer.widths[1] for layer in network.layers if isinstance(layer, HetSynLayer)}
        self.norms = nn.ModuleDict({name: BatchNorm(widths[name]) for name in self.spiking if batch_norm})

    def forward(self, inputs: Tensor, share: Share | None = None, lengths: Tensor | None = None) -> Activity:
        """What the network does with these inputs (T, B, M), which may be a rank's share of a batch.

        lengths   (B,) of the samples, where they have some of their own
        """
        x, spikes = inputs, []
        for layer, module in zip(self.start.layers, self.net.children(), strict=True):
            x = self._output(module, x, share)
            if layer.name in self.spiking:
                spikes.append(x)
            if layer.name in self.norms:
                x = self.norms[layer.name](x, lengths)
        return Activity(x, tuple(spikes), lengths)

    def _output(self, module: Any, x: Tensor, share: Share | None) -> Tensor:
        """One layer over the sequence from fresh states, by the idiom of its framework."""
        if isinstance(module, nn.Dropout):
            out = dropped(module, x, share)
        elif self.framework == "snntorch":
            module.reset_mem()
            out = module(x)
        elif self.framework == "norse":
            out, _ = module(x)
        else:
            out = module(x.permute(1, 2, 0)).permute(2, 0, 1)
        return out

    def decays(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """Name of the layer, field and tensor of every decay that is trained, each tensor once."""
        seen = set()
        for name, fields in self.fields():
            for field in DECAYS:
                stored = fields.stored(field) if field in fields.names else None
                if isinstance(stored, nn.Parameter) and stored.requires_grad and id(stored) not in seen:
                    seen.add(id(stored))
                    yield name, field, stored

    def delays(self) -> Iterator[nn.Parameter]:
        """Every delay that is trained."""
        for _, fields in self.fields():
            for field in DELAYS:
                stored = fields.stored(field) if field in fields.names else None
                if isinstance(stored, nn.Parameter) and stored.requires_grad:
                    yield stored

    def fields(self) -> Iterator[tuple[str, TrainableFields]]:
        """Everything that holds fields of the core, with the name of its layer."""
        for layer, module in zip(self.start.layers, self.net.children(), strict=True):
            for part in module.modules():
                if isinstance(part, TrainableFields):
                    yield layer.name, part

    def layer_of(self, parameter: str) -> str:
        """The layer that a name of `named_parameters` belongs to."""
        _, child, *_ = parameter.split(".")
        children = [name for name, _ in self.net.named_children()]
        return self.start.layers[children.index(child)].name

    def clamp_(self) -> None:
        """Project decays (and thresholds) that an optimiser pushed out of range back, as the paper does every step."""
        for _, fields in self.fields():
            fields.clamp_()

    def to_network(self) -> Network:
        """The network as it is now, as plain data."""
        layers: list[Layer] = []
        norm: Any = None  # that of the hidden layer before
        for layer in self._layers():
            if isinstance(layer, HetSynLayer):
                layers.append(layer if norm is None else norm.folded(layer))
                norm = self.norms[layer.name] if layer.name in self.norms else None
            else:
                layers.append(layer)
        return Network(tuple(layers))

    def _layers(self) -> list[Layer]:
        """Its layers as plain data, without batch norm."""
        if self.framework != "lava_dl":
            now: Network = convert(self.net, to="reference")
            named: Any = zip(self.start.layers, now.layers, strict=True)  # HetSynLayer and Dropout
            return [replace(layer, name=before.name) for before, layer in named]
        pairs = zip(self.start.layers, self.net.children(), strict=True)
        return [layer if isinstance(layer, Dropout) else _plain(layer, block) for layer, block in pairs]

    def _share_one_decay(self) -> None:
        first: nn.Parameter | None = None
        for _, fields in self.fields():
            for field in (*SYNAPTIC, "reset_decay"):
                if field in fields.names and field not in fields.tied:
                    name = fields.stored_name(field)
                    if isinstance(getattr(fields, name), nn.Parameter):
                        first = first if first is not None else getattr(fields, name)
                        setattr(fields, name, first)


def dropped(dropout: nn.Dropout, x: Tensor, share: Share | None) -> Tensor:
    """Dropout of (T, B, N); of a share of a batch with its rows of the mask that the whole batch has."""
    if share is None or not dropout.training:
        out: Tensor = dropout(x)
        return out
    steps, _, neurons = x.shape
    return x * share.rows(dropout(x.new_ones(steps, share.total, neurons)), 1)


def _slayer_blocks(network: Network, quantised: bool) -> Iterator[tuple[str, nn.Module]]:
    slayer = adapter("lava_dl")
    for layer in network.layers:
        if isinstance(layer, Dropout):
            yield layer.name, nn.Dropout(layer.p)
            continue
        yield layer.name, slayer.build_layer(layer, quantised=quantised)


def _plain(layer: Layer, block: Any) -> HetSynLayer:
    """A layer with what a slayer block has learned; trained taus as they are stored, so that nothing is rounded."""
    assert isinstance(layer, HetSynLayer)
    synapses = zip(SYNAPTIC, (block._input, *block._others), strict=False)
    tensors = {field: synapse.stored("decay") for field, synapse in synapses if field not in tied_fields(layer)}
    stored = (
        {} if layer.parametrization == "decay" else {f: t.detach().cpu().numpy().copy() for f, t in tensors.items()}
    )
    return replace(layer, params=block.to_params(hook=False), stored=stored)


def tied_fields(layer: HetSynLayer) -> tuple[str, ...]:
    """The decays that are the same tensor as the synapses' `decay`."""
    return ("recurrent_decay", "reset_decay") if layer.tie_reset else ()
