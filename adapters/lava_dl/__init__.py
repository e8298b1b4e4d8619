"""HetSynLIF in Lava-DL and Lava. Importing this loads neither; `slayer`, `netx` and `runtime` do."""
