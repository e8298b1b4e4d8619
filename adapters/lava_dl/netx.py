"""netx that knows our layers: `Network(net_config=...)` builds Lava processes from a file, stock layers stay stock.

Differences from `lava.lib.dl.netx.hdf5.Network`: layers with HETSYN neurons become HetSyn processes; a layer or neuron
that nobody knows raises, where stock netx leaves the layer out; `layer_names` and `latencies` say what was built.
"""

from __future__ import annotations

from typing import Any

import h5py

from hetsyn_plugins import loihi
from hetsyn_plugins.adapters.lava_dl.runtime import require_lava

require_lava()  # says what to install

from lava.lib.dl.netx import hdf5  # noqa: E402
from lava.lib.dl.netx.blocks.models import AbstractPyBlockModel  # noqa: E402
from lava.lib.dl.netx.blocks.process import Input  # noqa: E402
from lava.magma.core.decorator import implements  # noqa: E402
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol  # noqa: E402

from hetsyn_plugins.adapters.lava_dl.proc.hetsyn.process import HetSyn  # noqa: E402

LAYERS = ("input", "flatten", "dense", "dense_rec", "conv")  # what stock netx builds, of what it says it knows
NEURONS = (loihi.NEURON, "CUBA", "LOIHI", "SDNN", "RF")


class Network(hdf5.Network):
    """The network of a file as Lava processes; arguments as those of the stock class, and

    allow_overflow  let the states of HetSyn layers wrap or clip instead of raising

    layers, layer_names, latencies  of each layer its process (block), its name (of a stock one its number in the file)
                    and the steps from the network's input to its output

    `reset_interval` starts every layer anew, each a step after the one before it; in HetSyn layers that includes what
    is on its way, so samples that follow each other share nothing. Raises FileNotFoundError, and ValueError naming the
    file and the layer where it cannot be built as it stands there: nothing is built then.
    """

    def __init__(self, net_config: str, *arguments: Any, allow_overflow: bool = False, **options: Any) -> None:
        loihi.opened(net_config, _check)
        self.allow_overflow = allow_overflow
        self.built: dict[int, str] = {}  # process id -> name
        self.at_once = False  # an input block stands in front, which sends in the step in which it receives
        super().__init__(str(net_config), *arguments, **options)
        self.layer_names = [self.built[layer.id] for layer in self.layers]
        delays = [not isinstance(layer, Input) for layer in self.layers]
        self.latencies = [sum(delays[: index + 1]) for index in range(len(delays))]

    def entry(self) -> Any:
        """The port that takes the input: `inp`, which stock netx leaves unconnected in front of an input block.

        A method, because Lava would take a port among the attributes for one of this process.
        """
        first = self.layers[0]
        return first.neuron.a_in if isinstance(first, Input) else self.inp

    def create_input(self, layer_config: Any, **options: Any) -> Any:
        self.at_once = self.skip_layers == 0
        return self._named(layer_config, super().create_input(layer_config, **options))

    def create_conv(self, layer_config: Any, **options: Any) -> Any:
        return self._named(layer_config, super().create_conv(layer_config, **options))

    def create_dense(self, layer_config: Any, **options: Any) -> Any:
        group = layer_config.f
        if _neuron(group) != loihi.NEURON:
            return self._named(layer_config, super().create_dense(layer_config, **options))
        layer = loihi.read_layer(group)
        process = HetSyn(
            layer.params,
            always_on=layer.always_on,
            delay=layer.delay,
            reset_interval=options["reset_interval"],
            reset_offset=options["reset_offset"] - self.at_once,  # netx counts an input block as a step
            allow_overflow=self.allow_overflow,
            name=layer.name,
        )
        self.built[process.id] = layer.name
        row = {"width": 1, "height": 1, "channel": layer.widths[1], "delay": layer.delay is not None}
        return process, self._table_str(type_str="HetSynRec" if options["rec"] else "HetSyn", **row)

    def _named(self, layer_config: Any, made: Any) -> Any:
        self.built[made[0].id] = layer_config.f.name.rpartition("/")[2]
        return made


@implements(proc=Network, protocol=LoihiProtocol)
class PyNetworkModel(AbstractPyBlockModel):
    """Makes `network.run(...)` possible: Lava looks for a model of this very class."""


def _check(file: h5py.File) -> None:
    """Raise ValueError where a layer is of a kind that netx would leave out or fail in."""
    for group in loihi._groups(file):
        where, kind, neuron = group.name.strip("/"), loihi._text(group, "type"), _neuron(group)
        if kind not in LAYERS:
            raise ValueError(f"{where}: type: expected one of {', '.join(LAYERS)}, got {kind!r}")
        if neuron is not None and not any(known in neuron for known in NEURONS):
            raise ValueError(f"{where}: neuron/type: expected one of {', '.join(NEURONS)}, got {neuron!r}")
        if neuron == loihi.NEURON:
            loihi.read_layer(group)


def _neuron(group: h5py.Group) -> str | None:
    return loihi._text(group, "neuron/type") if "neuron/type" in group else None
