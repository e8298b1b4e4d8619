"""How the neuron is computed: one file a backend, each with the same two functions, `forward` and `backward`."""
