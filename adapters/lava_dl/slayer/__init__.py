"""HetSynLIF as slayer modules: a synapse, a neuron, the blocks Input, Flatten, Dense, Recurrent, Affine, Conv and Pool.

Importing this changes nothing in Lava-DL; `hetsyn_plugins.register("lava_dl")` makes them
`slayer.synapse.hetsyn.Dense`, `slayer.neuron.hetsyn.Neuron` and `slayer.block.hetsyn.*`. Only slayer is imported, never
Lava's runtime.

They are used as slayer's CUBA ones: NCT (batch, channel, time), `neuron_params`, pre_hook_fx, a step of delay a layer.
What differs, on purpose:

* A leak belongs to a synapse, so `decay` is an argument of the synapse or block. It is r, what is *kept* in a step, as
  everywhere in this package; slayer's `current_decay` is what is lost, 1 - r.
* A block computes the whole sequence in one op. `quantised=True`: forward in the chip's integers, bit for bit as
  `fixed_point.run`; backward through the float neuron. `quantised=False`: float.
* State is kept between calls only with `persistent_state=True` in neuron_params, recurrent blocks included, and
  `reset()` clears it; it starts from zeros too where the batch size changes, or, in the cluster form, a decay word.
* v of an Affine comes in the block's dtype: float32 holds 24 of the synapse form's 32 bits, so beyond |v| of 64 its
  last ones are rounded (`dtype=torch.float64` keeps them).
* Hooks of a block's synapses and neuron fire once a call and see whole sequences (`hooks.py` says what, and what they
  may change), so torch's pruning and norms work as on CUBA's.
* CUBA's argument names, typos and `norm` are answered with what to use here (`names.py`); `tau_grad` has another scale.
* `export_hdf5` leaves the module as it was, and a mask also holds under weight_norm.
"""

from hetsyn_plugins.adapters.lava_dl.slayer.arithmetic import Arithmetic, Scaled
from hetsyn_plugins.adapters.lava_dl.slayer.block import Affine, Dense, Flatten, Input, Layer, Recurrent
from hetsyn_plugins.adapters.lava_dl.slayer.carry import (
    build_layer,
    carry_training,
    container,
    merge_stock,
    plain_layer,
)
from hetsyn_plugins.adapters.lava_dl.slayer.convolution import Conv, Pool
from hetsyn_plugins.adapters.lava_dl.slayer.neuron import Neuron, neuron_params
from hetsyn_plugins.adapters.lava_dl.slayer.register import install, uninstall
from hetsyn_plugins.adapters.lava_dl.slayer.synapse import Synapse

__all__ = [
    "Affine",
    "Arithmetic",
    "Conv",
    "Dense",
    "Flatten",
    "Input",
    "Layer",
    "Neuron",
    "Pool",
    "Recurrent",
    "Scaled",
    "Synapse",
    "build_layer",
    "carry_training",
    "container",
    "install",
    "merge_stock",
    "neuron_params",
    "plain_layer",
    "uninstall",
]
