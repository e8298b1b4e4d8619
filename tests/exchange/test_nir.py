"""NIR files of ours in stock readers: the file is run, not the graph; spikes exactly, clear of the threshold."""

from __future__ import annotations

import functools
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import plain
from planting import planted

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.cli.main import main
from hetsyn_plugins.conformance.cases import Case, rounding_bound
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.exchange import checkpoint, nir
from hetsyn_plugins.exchange.nir import chain, file, li_bank, loop_form, units, writing

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


@functools.cache
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
    """Also when nir has read it and written it again."""
    for form, network in (("chain", drawn("no loops")[0]), ("li_bank", plain()), ("loop", plain())):
        nir.write(network, tmp_path / "net.nir", form=form)
        for back in (nir.read(tmp_path / "net.nir"), nir.from_graph(stock_nir.read(tmp_path / "net.nir"))):
            assert_equal(back, network)
        stock_nir.write(tmp_path / "again.nir", nir.to_graph(network, form=form))
        assert_equal(nir.read(tmp_path / "again.nir"), network)
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


def test_nodes_keep_their_names_and_stand_in_the_order_in_which_they_run(tmp_path: Path) -> None:
    nir.write(drawn("everything")[0], tmp_path / "net.nir", dt=1e-3)
    graph = stock_nir.read(tmp_path / "net.nir")
    names = ["input", "n0_on", "n1_all_of_it", "n2_mix", "n3_last", "output"]
    assert list(graph.nodes) == names == sorted(names)
    inside = graph.nodes["n3_last"]
    assert list(inside.nodes) == sorted(inside.nodes) and inside.metadata["hetsyn_layers"].startswith("[{")
    for metadata in (graph.metadata, inside.metadata):
        assert (metadata["dt"], metadata["scheme"]) == (1e-3, "euler")


def test_eight_decays_a_layer_make_small_files_quickly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes, layers = (700, 128, 64, 20), []
    for at, (m, n) in enumerate(pairwise(sizes)):
        decay = rng.uniform(0.5, 0.98, 8)[rng.integers(0, 8, (n, m))]
        layers.append(hidden(rng, f"layer {at}", n, m, decay=decay, recurrent_decay=0.9, reset_decay=0.9))
    start = time.perf_counter()
    nir.write(Network(tuple(layers)), tmp_path / "net.nir")
    nir.read(tmp_path / "net.nir")
    assert time.perf_counter() - start < 5
    assert (tmp_path / "net.nir").stat().st_size < 3_000_000


def test_what_cannot_be_written_is_refused_with_the_way_out(tmp_path: Path) -> None:
    rng, out = np.random.default_rng(0), tmp_path / "net.nir"
    free = Network((hidden(rng, "big", 128, 700, decay=rng.uniform(0.5, 0.98, (128, 700))),))
    says = (
        "at most 256 MB in the reader, got 65,3.. MB with form='loop', 65,3.. MB of them for layer 'big', 90,109 units"
    )
    with pytest.raises(ValueError, match=says):
        nir.write(free, out)
    small = Network((hidden(rng, "ends", 4, M, reset_decay=1.0, recurrent_decay=0.9, recurrent_weight=np.eye(4)),))
    with pytest.raises(ValueError, match="expected decays below 1 for form='li_bank', got 1 in layer 'ends'"):
        nir.write(small, out, form="li_bank")
    with pytest.raises(ValueError, match="got layer 'ends' with a reset and recurrent synapses: NIR's LIF sets v"):
        nir.write(small, out, form="chain")
    with pytest.raises(ValueError, match="form: expected one of loop, li_bank, chain, got 'x'"):
        nir.write(small, out, form="x")
    with pytest.raises(ValueError, match="dt: expected"):
        nir.write(small, out, dt=0.0)
    with pytest.raises(ValueError, match="net: expected a HetSyn layer or a Linear"):
        nir.write(Network((Dropout("d", 0.5),)), out)
    assert not out.exists()


BUGS = [
    (units, "p.reset_decay, own, -p.threshold", "p.reset_decay, own, p.threshold", "loop", "snntorch"),
    (units, "column + first", "column", "loop", "snntorch"),
    (units, "scale = np.ones(n) if alike else 1 / theta", "scale = np.ones(n)", "loop", "snntorch"),
    (loop_form, "[*edges, (last, OUTPUT)]", "[(last, OUTPUT), *edges]", "loop", "norse"),
    (li_bank, "units.recurrent * gain", "units.recurrent", "li_bank", "nirtorch"),
    (li_bank, "tau=dt / (1 - units.decay)", "tau=dt / (1 - units.decay**2)", "li_bank", "nirtorch"),
    (chain, "r=gain", "r=1", "chain", "nirtorch"),
]


@pytest.mark.parametrize(("module", "old", "new", "form", "reader"), BUGS)
def test_the_comparison_notices(module: Any, old: str, new: str, form: str, reader: str, tmp_path: Path) -> None:
    kind = "no loops" if form == "chain" else "two recurrent layers"
    network, x, spikes = drawn("LIF" if reader == "norse" else kind)  # as many units as neurons: shapes fit anyhow
    around = [part.__name__ for part in (units, loop_form, li_bank, chain, writing)]
    with planted(module.__name__, old, new, around=around):
        node = sys.modules[writing.__name__].network_to_nodes(network, form, 1e-4, writing.LARGEST)
    file.write_node(node, tmp_path / "net.nir")
    assert (run(tmp_path / "net.nir", reader, x) != spikes).any()


def test_check_names_what_a_reader_cannot_hold(tmp_path: Path, capsys: Any) -> None:
    network = drawn("two recurrent layers")[0]
    for form in ("loop", "li_bank"):
        nir.write(network, tmp_path / f"{form}.nir", form=form)
    nir.write(drawn("one decay a neuron")[0], tmp_path / "chain.nir", form="chain")
    nir.write(network, tmp_path / "other dt.nir", dt=1e-3)

    def told(name: str, reader: str) -> str:
        status = main(["nir", "check", str(tmp_path / f"{name}.nir"), "--for", reader])
        out = capsys.readouterr().out
        assert status == (0 if f"nothing that {reader} cannot hold" in out else 1)
        return str(out)

    for reader in ("snntorch", "norse"):
        assert "nothing" in told("loop", reader) and "nothing" in told("chain", reader)
    assert "read it with norse.torch.from_nir(nir.read('" in (out := told("loop", "norse")) and ", dt=0.0001)" in out
    assert "n0_first/nodes/n1_units (LI): the reader knows" in told("li_bank", "snntorch")
    assert "n0_first/nodes/n1_units (LI): Norse 1.1 has no LI" in told("li_bank", "norse")
    assert "are for dt = 0.001 s, and the reader takes them for 0.0001 s" in told("other dt", "snntorch")
    assert "n0_first (NIRGraph): the reader opens no graph" in told("loop", "rockpool")
    assert "n1_units (Linear): 2 edges lead on from it, and the reader takes chains" in told("loop", "snn-mlir")
    assert "(Linear): the reader knows" in told("loop", "nengo") and "exp(-dt / tau)" in told("loop", "sinabs")
    assert "(LIF): it spikes on the v of the step before" in told("loop", "spyx")
    assert "tau_syn differs between neurons" in told("chain", "snn-mlir")
    assert main(["nir", "check", str(tmp_path / "loop.nir"), "--for", "x"]) == 2
    assert "--for: expected one of snntorch, norse, nirtorch, spyx" in capsys.readouterr().err
