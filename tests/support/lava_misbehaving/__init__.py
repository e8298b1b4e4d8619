"""A Lava process that does what must not hang a test; alone in its folder, since Lava runs every file there."""

from __future__ import annotations


def run(how: str, timeout: float) -> float:
    """Three steps of a Source into a Misbehaving process; returns the sum of what arrived, if it gets there."""
    import numpy as np

    from hetsyn_plugins.adapters.lava_dl import runtime
    from hetsyn_plugins.adapters.lava_dl.proc.io.process import Sink, Source
    from lava_misbehaving.process import Misbehaving

    source, process, sink = Source(np.ones((3, 2), np.int64)), Misbehaving(how), Sink(2, 3)
    source.out.connect(process.inp)
    process.out.connect(sink.inp)
    with runtime.running(source, "fixed_pt", timeout) as go:
        go(3)
    return float(sink.data.sum())
