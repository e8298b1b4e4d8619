"""Files written before the package had rooms load as they did: a checkpoint, a chip file, a run folder.

`tests/data/before_rooms` was written by the state of the repository before (commit 78a18e6): an adapting recurrent
layer with trained log taus, Dropout, Linear and a readout; a network of three clusters; `hetsyn train dms` with four
hidden neurons over four iterations. `expected.npz` holds inputs and what both networks gave for them then.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hetsyn_plugins import cli
from hetsyn_plugins.core.file_format import UncheckedFileWarning
from hetsyn_plugins.core.surrogate import Triangular
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.exchange import checkpoint

DATA = Path(__file__).parent / "data" / "before_rooms"
EXPECTED = np.load(DATA / "expected.npz")


def test_a_checkpoint_gives_what_it_gave() -> None:
    with pytest.warns(UncheckedFileWarning, match=r"network\.safetensors"):
        network = checkpoint.load(DATA / "network.safetensors")
    results = list(network.run(EXPECTED["x"]).values())
    spikes = results[0][0]
    assert spikes is not None and spikes.any()
    np.testing.assert_array_equal(spikes, EXPECTED["spikes"])
    np.testing.assert_allclose(results[-1][1], EXPECTED["v"], rtol=1e-13)  # float64 sums, maybe in another order
    hidden = network.layers[0]
    assert (hidden.parametrization, hidden.dt, hidden.surrogate) == ("log_tau", 1e-3, Triangular())
    assert set(hidden.stored) >= {"decay", "recurrent_decay"} and network.layers[1].p == 0.2


@pytest.mark.parametrize("framework", ["snntorch", "norse"])
def test_a_checkpoint_goes_into_a_framework(framework: str) -> None:
    pytest.importorskip(framework)
    with pytest.warns(UncheckedFileWarning):
        net = checkpoint.load(DATA / "network.safetensors", to=framework)
    assert len(list(net.parameters())) > 4


def test_a_chip_file_gives_what_it_gave() -> None:
    with pytest.warns(UncheckedFileWarning, match=r"network\.net: written before"):
        network = chip_file.read(DATA / "network.net")
    runs = list(network.run(EXPECTED["x"].astype(int)).values())
    np.testing.assert_array_equal(runs[0].spikes, EXPECTED["chip_spikes"])
    np.testing.assert_array_equal(runs[-1].v, EXPECTED["chip_v"])


def test_a_run_is_evaluated_analysed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    shutil.copytree(DATA / "run", run)
    then = json.loads((run / "seed-0" / "result.json").read_text())
    with pytest.warns(UncheckedFileWarning):
        assert cli.main(["evaluate", str(run)]) == 0
    assert f"{then['test']:.2%}" in capsys.readouterr().out
    with pytest.warns(UncheckedFileWarning) as told:
        assert cli.main(["report", str(run), "-o", str(tmp_path / "page.html")]) == 0
    assert len(told) == 1, "of all files at once"
    assert "dms" in (tmp_path / "page.html").read_text()


def test_a_finished_run_is_not_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    shutil.copytree(DATA / "run", run)
    state = (run / "seed-0" / "state.pt").read_bytes()
    with pytest.warns(UncheckedFileWarning):
        assert cli.main(["train", str(run / "config.toml"), "--out", str(run), "--quiet"]) == 0
    assert (run / "seed-0" / "state.pt").read_bytes() == state


def test_a_run_goes_on_from_its_state(tmp_path: Path) -> None:
    """Two more iterations of the same run: the state of before is read, not begun anew."""
    run = tmp_path / "run"
    shutil.copytree(DATA / "run", run)
    (run / "seed-0" / "result.json").unlink()  # as if it had been killed before the end
    with pytest.warns(UncheckedFileWarning):
        assert cli.main(["train", str(run / "config.toml"), "--out", str(run), "--quiet"]) == 0
    then = json.loads((DATA / "run" / "seed-0" / "result.json").read_text())
    now = json.loads((run / "seed-0" / "result.json").read_text())
    assert now["test"] == then["test"]
    lines = (run / "seed-0" / "log.jsonl").read_text().splitlines()
    assert len(lines) == len((DATA / "run" / "seed-0" / "log.jsonl").read_text().splitlines())
