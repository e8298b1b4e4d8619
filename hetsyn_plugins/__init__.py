"""HetSynLIF, the spiking neuron whose every synapse has its own time constant, for snnTorch, Norse and Lava-DL."""

__version__ = "0.1.0"
