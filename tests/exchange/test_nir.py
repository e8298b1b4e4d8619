"""NIR files of ours in stock readers: the file is run, not the graph; spikes exactly, clear of the threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import plain

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.conformance.cases import Case, rounding_bound
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.exchange import checkpoint, nir

stock_nir = pytest.importorskip("nir")
pytest.importorskip("nirtorch")
pytest.importorskip("snntorch")
pytest.importorskip("norse")

from nir_readers import READERS, run  # noqa: E402  after the skips

T, B, M = 200, 3, 7


def hidden(rng: Any, name: str, n: int, m: int, **changes: Any) -> HetSynLayer:
    """Neurons with three decays, recurrent, whose thresholds differ, in float32: what readers compute in."""
    codebook = rng.uniform(0.3, 0.97, 3)
    values = {
        "weight": rng.normal(0.15, 1, (n, m)) / np.sqrt(m),
        "decay": codebook[rng.integers(0, 3, (n, m))],
        "reset_decay": rng.uniform(0.5, 0.95, n),
        "threshold": rng.uniform(0.6, 1.2, n),
        "recurrent_weight": rng.normal(0, 0.5, (n, n)) / np.sqrt(n),
        "recurrent_decay": codebook[rng.integers(0, 3, (n, n))],
        **changes,
    }
    return HetSynLayer(name, HetSynParams(**values).astype(np.float32))


NO_LOOPS = {"reset_decay": None, "recurrent_weight": None, "recurrent_decay": None}
KINDS: dict[str, Any] = {
    "two recurrent layers": lambda rng: (hidden(rng, "first", 6, M), Dropout("d", 0.2), hidden(rng, "second", 5, 6)),
    "everything": lambda rng: (
        AlwaysOn("on"),
        hidden(
            rng, "all of it", 5, M + 1, adaptation_decay=0.9, adaptation_strength=0.1, bias=rng.normal(0, 0.05, 5)
        ),
        Linear("mix", rng.normal(0, 0.4, (4, 5)).astype(np.float32), rng.normal(0, 0.1, 4).astype(np.float32)),
        hidden(rng, "last", 3, 4, threshold=0.8),
    ),
    "a decay a synapse": lambda rng: (
        hidden(rng, "free", 5, M, decay=rng.uniform(0.3, 0.97, (5, M)), recurrent_decay=rng.uniform(0.3, 0.97, (5, 5))),
    ),
    "LIF": lambda rng: (HetSynLayer("lif", HetSynParams.lif(rng.normal(0.2, 0.4, (5, M)).astype(np.float32), 0.9)),),
    "r = 0 and r = 1": lambda rng: (
        hidden(
            rng, "ends", 5, M, weight=rng.normal(0, 0.2, (5, M)), decay=rng.choice([0.0, 0.5, 1.0], (5, M)),
            recurrent_weight=rng.normal(0, 0.1, (5, 5)), recurrent_decay=0.0,
        ),
    ),
    "no loops": lambda rng: (hidden(rng, "a", 6, M, **NO_LOOPS), hidden(rng, "b", 4, 6, **NO_LOOPS)),
    "one decay a neuron": lambda rng: (
        hidden(rng, "a", 6, M, **NO_LOOPS, decay=rng.uniform(0.5, 0.95, 6)),
        hidden(rng, "b", 4, 6, **NO_LOOPS, decay=0.8, threshold=0.7),
        hidden(rng, "c", 4, 4, **NO_LOOPS, decay=0.0, bias=rng.normal(0, 0.1, 4)),
    ),
}  # fmt: skip


def drawn(kind: str) -> tuple[Network, Any, Any]:
    """A network, inputs, and the spikes that its last layer owes: no neuron-step within rounding of a threshold."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        network = Network(KINDS[kind](rng))
        x = (rng.random((T, B, M)) < 0.3).astype(np.float64)
        passes = list(network.walk(x))
        layers = [p for p in passes if isinstance(p.layer, HetSynLayer)]
        if all(0.02 < p.spikes.mean() < 0.9 and is_clear(p) for p in layers):
            return network, x, layers[-1].spikes
    raise AssertionError(f"{kind}: none of 60 draws spikes and is clear of the threshold")


def is_clear(p: Any) -> bool:
    """As the checks of the contract draw their cases."""
    bound = rounding_bound(Case("", p.layer.params, p.inputs.astype(np.float32)), p.spikes)
    return bool((np.abs(p.v - p.layer.params.threshold.astype(np.float64)) > 2 * bound).all())


@pytest.mark.parametrize(
    ("form", "kind", "reader"),
    [("loop", kind, reader) for kind in KINDS for reader in READERS]
    + [("li_bank", kind, "nirtorch") for kind in KINDS if kind != "r = 0 and r = 1"]
    + [("chain", kind, "nirtorch") for kind in ("no loops",)]
    + [("chain", "one decay a neuron", reader) for reader in ("snntorch", "norse")],
)
def test_a_stock_reader_runs_the_file_with_the_same_spikes(form: str, kind: str, reader: str, tmp_path: Path) -> None:
    network, x, spikes = drawn(kind)
    nir.write(network, tmp_path / "net.nir", form=form)
    assert (run(tmp_path / "net.nir", reader, x) != spikes).sum() == 0


def test_a_file_gives_the_network_back_bit_for_bit(tmp_path: Path) -> None:
    network = plain()
    for form in ("loop", "li_bank"):
        nir.write(network, tmp_path / "net.nir", form=form)
        for back in (nir.read(tmp_path / "net.nir"), nir.from_graph(stock_nir.read(tmp_path / "net.nir"))):
            assert_equal(back, network)
        assert_equal(nir.from_graph(nir.to_graph(network, form=form)), network)
    one = nir.read(tmp_path / "net.nir", to="norse")
    assert [type(module).__name__ for module in one.children()] == [
        "Linear",
        "HetSynLIFRecurrent",
        "Dropout",
        "HetSynLI",
    ]


def assert_equal(one: Network, other: Network) -> None:
    """The same layers, options and bits: as a checkpoint writes them."""
    described = []
    for network in (one, other):
        arrays: dict[str, Any] = {}
        described.append([[checkpoint.describe(i, layer, arrays) for i, layer in enumerate(network.layers)], arrays])
    (entries, arrays), (others, more) = described
    assert entries == others and set(arrays) == set(more)
    for name, array in arrays.items():
        assert array.dtype == more[name].dtype and array.shape == more[name].shape
        np.testing.assert_array_equal(array, more[name], err_msg=name)
