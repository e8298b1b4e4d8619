"""The neuron in numba: order of kernels, layouts, kernels of synapses and soma; float32, float64 and integers."""
