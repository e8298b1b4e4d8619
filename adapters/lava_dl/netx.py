"""netx that knows our layers: `Network(net_config=...)` builds Lava processes from a file, stock layers stay stock.

Differences from `lava.lib.dl.netx.hdf5.Network`: layers with HETSYN neurons become HetSyn processes; a layer or neuron
that nobody knows raises, where stock netx leaves the layer out; `layer_names` and `latencies` say what was built; and a
reset parts the samples. The class is in `proc/network`, apart from the files here, which Lava would run to find models.
"""

from hetsyn_plugins.adapters.lava_dl.proc.network.process import Network

__all__ = ["Network"]
