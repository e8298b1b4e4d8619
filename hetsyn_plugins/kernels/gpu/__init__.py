"""The neuron in Triton: order of kernels, and the kernels; float32."""
