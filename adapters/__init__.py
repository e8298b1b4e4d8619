"""How each framework calls the neuron: its layouts, states and reset idioms. One file or folder a framework.

No equation of the neuron stands here: layers, cells and blocks call the op, slayer's neuron by itself the core's step,
and Lava's processes the reference or the integer core. `lava_dl/stock.py` wires the neuron up from Lava's own parts.
"""
