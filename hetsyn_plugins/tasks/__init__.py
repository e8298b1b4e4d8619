"""Data to try networks on, as spikes in time."""
