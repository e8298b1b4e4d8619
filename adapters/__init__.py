"""How each framework calls the neuron: its layouts, states and reset idioms, and no equation. One file a framework."""
