"""Network: the layers of a file as Lava processes, ours and stock ones, connected by stock netx."""

from __future__ import annotations

import inspect
from typing import Any

import h5py
import numpy as np
from lava.lib.dl.netx import hdf5
from lava.lib.dl.netx.blocks.process import Input, RecurrentDense

from hetsyn_plugins.adapters.lava_dl.proc.hetsyn.process import HetSyn
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.hdf5 import HDF5_ERRORS
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.fixed_point.network import FixedLayer

LAYERS = ("input", "flatten", "dense", "dense_rec", "conv")  # what stock netx builds, of what it says it knows
NEURONS = (chip_file.NEURON, "CUBA", "LOIHI", "SDNN", "RF")
MOST = 1_000_000  # neurons of a stock layer, which its shape alone may say: a chip has as many


class Network(hdf5.Network):
    """The network of a file as Lava processes; arguments as those of the stock class, and

    allow_overflow  let the states of HetSyn layers wrap or clip instead of raising

    layers, layer_names, latencies  of each layer its process (block), its name (of a stock one its number in the file)
                    and the steps from the network's input to its output

    parts_samples   whether samples that follow each other in a run share nothing

    `reset_interval` starts every layer anew, each a step after the one before it: in HetSyn layers the states and what
    is on its way, in stock layers u and v of CUBA neurons and no more (`parts_samples` is then False: what a loop or a
    delay still carries, or the state of another neuron, reaches the next sample). Raises FileNotFoundError, and
    FileFormatError naming the file where it cannot be built as it stands there: nothing is run then.
    """

    _runtime: Any = None  # Lava's destructor looks for it, also where the file was refused

    def __init__(self, net_config: str, *arguments: Any, allow_overflow: bool = False, **options: Any) -> None:
        inspect.signature(hdf5.Network).bind(net_config, *arguments, **options)  # what fails below is the file's fault
        chip_file.opened(net_config, _check)
        self.allow_overflow = allow_overflow
        self.built: dict[int, str] = {}  # process id -> name
        self.at_once = False  # an input block stands in front, which sends in the step in which it receives
        self.parts_samples = True
        try:
            super().__init__(str(net_config), *arguments, **options)
        except FileFormatError:
            raise
        except (*HDF5_ERRORS, LookupError, ArithmeticError) as error:  # whatever Lava makes of a stock layer
            what = f"what it cannot build: {type(error).__name__}: {error}"
            raise FileFormatError(net_config, "a network that netx can build", what) from error
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
        return self._stock(layer_config, super().create_input(layer_config, **options))

    def create_conv(self, layer_config: Any, **options: Any) -> Any:
        options["reset_offset"] += 1 - self.at_once  # as in a dense layer
        return self._stock(layer_config, super().create_conv(layer_config, **options))

    def create_dense(self, layer_config: Any, **options: Any) -> Any:
        group = layer_config.f
        options["reset_offset"] -= self.at_once  # netx counts an input block as a step
        if _neuron(group) != chip_file.NEURON:
            # the synapses of a stock layer send a step late: its neurons then still get the last of a sample
            options["reset_offset"] += 1
            return self._stock(layer_config, super().create_dense(layer_config, **options))
        when = {name: options[name] for name in ("reset_interval", "reset_offset")}
        layer = chip_file.checked_layer(group)
        process, row = hetsyn_process(layer, **when, allow_overflow=self.allow_overflow)
        self.built[process.id] = layer.name
        return process, row

    def _stock(self, layer_config: Any, made: Any) -> Any:
        group = layer_config.f
        self.built[made[0].id] = group.name.rpartition("/")[2]
        cuba = _neuron(group) in (None, "CUBA", "LOIHI")
        self.parts_samples &= cuba and "delay" not in group and not isinstance(made[0], RecurrentDense)
        return made


def hetsyn_process(layer: FixedLayer, *, allow_overflow: bool = False, **when: Any) -> tuple[HetSyn, str]:
    """The process of a layer of ours, and its row in the table that stock netx prints.

    when   reset_interval and reset_offset
    """
    options: dict[str, Any] = {"always_on": layer.always_on, "delay": layer.delay, "name": layer.name}
    process = HetSyn(layer.params, allow_overflow=allow_overflow, **options, **when)
    kind = "HetSyn" if layer.params.recurrent_weight is None else "HetSynRec"
    row = {"width": 1, "height": 1, "channel": layer.widths[1], "delay": layer.delay is not None}
    return process, hdf5.Network._table_str(type_str=kind, **row)


def _check(file: h5py.File) -> None:
    """Raise FileFormatError where a layer is damaged, or of a kind that netx would leave out or fail in."""
    ours = []
    for group in chip_file.layer_groups(file):
        where, kind, neuron = group.name.strip("/"), chip_file.read_text(group, "type"), _neuron(group)
        if kind not in LAYERS:
            raise FileFormatError(file.filename, f"one of {', '.join(LAYERS)}", repr(kind), field=f"{where}: type")
        if neuron is not None and not any(known in neuron for known in NEURONS):
            expected = f"one of {', '.join(NEURONS)}"
            raise FileFormatError(file.filename, expected, repr(neuron), field=f"{where}: neuron/type")
        if neuron == chip_file.NEURON:
            chip_file.checked_layer(group)
            ours.append(group)
        else:
            _check_stock(group)
    chip_file.check_layers(file, ours)


def _check_stock(group: h5py.Group) -> None:
    """Raise FileFormatError where a stock layer holds what netx would hang, swell or silently go wrong with."""
    path, where = group.file.filename, group.name.strip("/")
    datasets: dict[str, h5py.Dataset] = {}
    group.visititems(lambda name, item: datasets.update({name: item} if isinstance(item, h5py.Dataset) else {}))
    for name, dataset in datasets.items():
        if h5py.check_string_dtype(dataset.dtype) is not None:
            chip_file.read_text(group, name)
        elif dataset.dtype.kind not in "biuf" or not np.isfinite(dataset[()]).all():
            raise FileFormatError(path, "finite numbers or a text", str(dataset.dtype), field=f"{where}: {name}")
    if "shape" in datasets:
        shape = chip_file.read_numbers(group, "shape")
        if (shape < 1).any() or np.prod(shape.astype(float)) > MOST:
            raise FileFormatError(path, f"1 to {MOST:,} neurons", str(shape), field=f"{where}: shape")


def _neuron(group: h5py.Group) -> str | None:
    return chip_file.read_text(group, "neuron/type") if "neuron/type" in group else None


def _signature() -> inspect.Signature:
    """The stock constructor's arguments and ours: Lava's metaclass shows none."""
    stock, own = (inspect.signature(cls.__init__).parameters for cls in (hdf5.Network, Network))
    return inspect.Signature([*list(stock.values())[1:], own["allow_overflow"]])


Network.__signature__ = _signature()
