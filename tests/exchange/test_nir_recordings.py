"""NIRData: what nir's own reader finds in our files, what ours finds in its, and what is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from test_nir import drawn

from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.exchange import nir
from hetsyn_plugins.exchange.nir.recordings import Events, Gridded

stock = pytest.importorskip("nir")


@pytest.mark.parametrize(
    ("form", "kind"), [("loop", "everything"), ("chain", "one decay a neuron"), ("chain", "no loops")]
)
def test_a_recording_is_nirs_own_and_fits_the_graph(form: str, kind: str, tmp_path: Path) -> None:
    network, x, _ = drawn(kind)
    nir.write(network, tmp_path / "net.nir", form=form)
    nir.write_recording(network, x, tmp_path / "data.nir", form=form, dt=1e-3)
    theirs = stock.read_data(tmp_path / "data.nir")
    theirs.check_nodes(stock.read(tmp_path / "net.nir"))
    ours = nir.read_recording(tmp_path / "data.nir")
    for (name, observables), (spikes, v) in zip(ours.items(), network.run(x).values(), strict=True):
        node = theirs
        for part in name.split("/"):
            node = node.nodes[part]
        np.testing.assert_array_equal(node.observables["v"].data, v.swapaxes(0, 1))
        grid = node.observables["spikes"].to_time_gridded(1e-3).data
        np.testing.assert_array_equal(grid, spikes.swapaxes(0, 1))
        recorded, events = observables["v"], observables["spikes"]
        assert isinstance(recorded, Gridded) and isinstance(events, Events)
        np.testing.assert_array_equal(recorded.data, v)
        np.testing.assert_array_equal(events.gridded(recorded.dt), spikes)


def test_recordings_of_others_are_read_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    events = stock.EventData(np.array([[0, 2, -1]]), np.array([[1e-3, 4e-3, np.inf]]), 3, 1e-2)
    grid = stock.TimeGriddedData(np.ones((1, 4, 2), bool), 1e-3)
    data = stock.NIRGraphData({"lif": stock.NIRNodeData({"spikes": events, "input": grid})})
    stock.write_data(tmp_path / "data.nir", data)
    found = nir.read_recording(tmp_path / "data.nir")["lif"]
    assert isinstance(found["input"], Gridded) and isinstance(found["spikes"], Events)
    assert found["input"].data.shape == (4, 1, 2)
    assert np.argwhere(found["spikes"].gridded(1e-3)).tolist() == [[1, 0, 0], [4, 0, 2]]
    with pytest.raises(ValueError, match=r"dt: expected a step that makes 1 to 256000000 bytes of 0\.01 s, got 1e-30"):
        found["spikes"].gridded(1e-30)
    with h5py.File(tmp_path / "data.nir", "r+") as file:
        file["nodes/lif/observables/spikes/idx"][0, 0] = 3
    with pytest.raises(FileFormatError, match=r"data\.nir: lif: spikes: expected neurons below 3 at times from 0"):
        nir.read_recording(tmp_path / "data.nir")
