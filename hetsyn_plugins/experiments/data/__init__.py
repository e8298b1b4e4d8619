"""Data as spikes in time: real digits, idx images, SHD files, synthetic spoken digits."""
