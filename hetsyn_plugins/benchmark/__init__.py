"""Time and memory of a training step beside plain autograd and other libraries."""
