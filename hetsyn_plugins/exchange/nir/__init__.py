"""NIR, the field's format for spiking networks: ours as standard nodes that stock importers run, and theirs as ours.

write, to_graph      a HetSyn network in one of three forms (`units.py` says how a layer becomes nodes)
read, from_graph     our files, bit for bit, and stock nodes where there is an exact counterpart
check                what a file has that a certain reader cannot hold
write_recording      spikes and v of a network's layers as NIRData, under the names of the file's nodes
read_recording       NIRData of anybody's: recordings of chips stand beside the graphs that NIR publishes
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from hetsyn_plugins.core.network import Network
from hetsyn_plugins.exchange.nir import file, recordings
from hetsyn_plugins.exchange.nir.readers import Finding, findings
from hetsyn_plugins.exchange.nir.reading import nodes_to_network
from hetsyn_plugins.exchange.nir.recordings import Recording
from hetsyn_plugins.exchange.nir.sealing import content_of
from hetsyn_plugins.exchange.nir.writing import LARGEST, STEP, network_to_nodes

__all__ = ["check", "from_graph", "read", "read_recording", "to_graph", "write", "write_recording"]


def write(
    net: Any, path: str | os.PathLike[str], *, form: str = "loop", dt: float = STEP, largest: int = LARGEST
) -> None:
    """Write a network as a NIR file, whole or not at all; it needs no package of NIR.

    net       a Network, or a net of any adapter that `convert` takes
    form      "loop"     leaks are loops: stock snnTorch and Norse run it, recurrent and with any decay
              "li_bank"  leaks are LI nodes, closer to what NIR means, for readers that know LI and take Euler steps
              "chain"    no loops, for readers of chains: layers without reset, recurrence and adaptation
    dt        seconds: the step with which the reader takes the nodes' constants. snnTorch always takes 1e-4; Norse what
              it is told: `norse.torch.from_nir(nir.read(path), dt=1e-4)`. It is no dt of the layers
    largest   bytes that the arrays of the file may take in a reader: a neuron has a unit for every decay of its own,
              and the loop form is quadratic in units

    The file's spikes are those of the network wherever v is further from the threshold than rounding. The layers stand
    in its metadata, for `read`. Raises ValueError for a layer that the form cannot have or that would be larger,
    OSError where the file cannot be written.
    """
    file.write_node(network_to_nodes(_network(net), form, dt, largest), Path(path))


def to_graph(net: Any, *, form: str = "loop", dt: float = STEP, largest: int = LARGEST) -> Any:
    """The same as a `nir.NIRGraph`; ImportError without the package nir."""
    return _nir().dict2NIRNode(network_to_nodes(_network(net), form, dt, largest))


def read(
    path: str | os.PathLike[str],
    to: str = "reference",
    *,
    dt: float | None = None,
    reset: str = "to_value",
    largest: int = LARGEST,
) -> Any:
    """Read a NIR file: as plain data (to="reference", a Network) or as `convert(..., to)` makes it.

    dt      the step of stock neurons, seconds, where the file does not say it; and that of layers that have none
    reset   how stock LIF neurons of the file reset: "to_value", as NIR says, which no HetSyn neuron does unless it
            forgets; "subtract": they take off their threshold, as those of snnTorch that it exports so
    largest bytes that the arrays of the file may take

    A file of ours gives the network that was written, bit for bit. Stock nodes (Linear, Affine, LI, LIF, CubaLIF,
    Threshold, Conv2d, pooling, Flatten) become layers where they have an exact counterpart (`stock.py`). Raises
    FileNotFoundError, or FileFormatError (a ValueError) that names node and type where the file is damaged, too large,
    or has what no layer is equal to.
    """
    path = Path(path)
    return _converted(nodes_to_network(file.read_node(path, largest), path, dt, reset), to, dt)


def from_graph(graph: Any, to: str = "reference", *, dt: float | None = None, reset: str = "to_value") -> Any:
    """The same from a `nir.NIRGraph`, which messages call "graph"."""
    return _converted(nodes_to_network(content_of(graph.to_dict()), Path("graph"), dt, reset), to, dt)


def check(path: str | os.PathLike[str], reader: str) -> list[Finding]:
    """What a NIR file has that a reader cannot hold, node by node; empty: it runs the file as it is meant.

    reader   snntorch, norse, nirtorch, spyx, rockpool, sinabs, nengo or snn-mlir

    Raises FileNotFoundError, FileFormatError where the file is damaged, ValueError for an unknown reader.
    """
    path = Path(path)
    return findings(file.read_node(path, LARGEST), reader, path)


def write_recording(
    net: Any, inputs: ArrayLike, path: str | os.PathLike[str], *, form: str = "loop", dt: float = STEP
) -> None:
    """Run a network in float64 on inputs (T, B, M) and write spikes and v of its layers as NIRData.

    form   of the file that it stands beside (see `write`)      dt   seconds of a step
    """
    network = _network(net)
    graph = network_to_nodes(network, form, dt, LARGEST)
    recordings.write_recording(network, graph, inputs, Path(path), dt)


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """What a file of NIRData holds: node -> observable -> Gridded, data (T, B, N), or Events (`recordings.py`).

    Raises FileNotFoundError, or FileFormatError where it is no such file, is damaged, or too large.
    """
    return recordings.read_recording(Path(path), LARGEST)


def _network(net: Any) -> Network:
    plain = _converted(net, "reference", None)
    assert isinstance(plain, Network)
    return plain


def _converted(net: Any, to: str, dt: float | None) -> Any:
    if isinstance(net, Network) and to == "reference" and dt is None:
        return net
    from hetsyn_plugins.exchange.conversion import convert  # plain data need no torch

    return convert(net, to=to, dt=dt)


def _nir() -> Any:
    try:
        import nir
    except ImportError as error:
        raise ImportError(
            "nir is not installed: pip install 'hetsyn_plugins[nir]'; write and read need none"
        ) from error
    return nir
