"""How torch calls the neuron: a whole sequence, a leaky readout, one step, and what chooses a kernel."""

from hetsyn_plugins.ops.dispatch import Choice, choose_backend
from hetsyn_plugins.ops.lif import hetsyn_li, hetsyn_lif, hetsyn_lif_step

__all__ = ["Choice", "choose_backend", "hetsyn_li", "hetsyn_lif", "hetsyn_lif_step"]
