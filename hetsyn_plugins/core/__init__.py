"""What the neuron is: fields, parameters, surrogates, the float64 reference, networks as plain data. NumPy only."""
