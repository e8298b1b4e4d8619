"""HetSyn layers in Lava's runtime: processes, netx, the stock lowering, and runs that fail and must not hang.

Equality with the integer core over every kind of layer is in `tests/conformance`. Whatever imports Lava runs in a
child process (`runtime.isolated`), as users' runs do: the functions named in_child_ are what it calls.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import lava_misbehaving
import numpy as np
import pytest
from planting import planted

import hetsyn_plugins
from hetsyn_plugins import HetSynParams
from hetsyn_plugins.adapters.lava_dl import runtime, stock
from hetsyn_plugins.conformance import integers
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.fixed_point import decayed
from hetsyn_plugins.fixed_point.network import FixedLayer, FixedNetwork
from hetsyn_plugins.fixed_point.neuron import FixedParams, FixedPointOverflow

WHY_NOT = runtime.why_no_lava()
needs_lava = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
TIMEOUT = 90.0  # a run here takes seconds


def stack(seed: int = 0) -> FixedNetwork:
    """Feed-forward with delays, then recurrent with everything, then a readout: 7 -> 6 -> 6 -> 6."""
    kinds: list[dict[str, Any]] = [{"delays": 4}, integers.EVERYTHING, {"spiking": False, "bias": True}]
    return integers.draw(seed, "stack", kinds).network


def spike_trains(steps: int = 30, samples: int = 1, lines: int = 7, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).random((steps, samples, lines)) < 0.3).astype(np.int64)


def shown(result: Any) -> Any:
    return result.v if result.spikes is None else result.spikes


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process is over, or not ours
        return ""


def runs_of(folder: Path) -> list[str]:
    """The command lines of processes of runs whose temporary files are in this folder."""
    lines = [read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [line for line in lines if "runtime._child" in line and str(folder) in line]


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No process of this test's runs is still there, and no shared memory that nobody uses (seen on Linux only)."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # so its name is in the command lines of this test's runs
    before = set(Path("/dev/shm").glob("psm_*"))
    yield
    assert runs_of(tmp_path) == []
    new = set(Path("/dev/shm").glob("psm_*")) - before
    used = "".join(read(path) for path in Path("/proc").glob("[0-9]*/maps")) if new else ""
    assert {path for path in new if path.exists() and path.name not in used} == set()


# ---- without Lava -------------------------------------------------------------------------------------------------


def test_a_newer_python_is_told_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "sys", SimpleNamespace(version_info=(3, 12, 1)))
    with pytest.raises(ImportError, match=r"ends at Python 3.10, this is 3.12.*hetsyn_plugins\[lava\].*integer core"):
        runtime.run_network(stack(), spike_trains())


def test_a_missing_lava_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "sys", SimpleNamespace(version_info=(3, 10, 1)))
    monkeypatch.setattr(runtime, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))
    with pytest.raises(
        ImportError, match=r"not installed: pip install 'hetsyn_plugins\[lava\]' \(Python 3.10\).*loihi"
    ):
        runtime.run_file("net.net", spike_trains())
    with pytest.raises(ImportError, match="not installed"):
        stock.run([HetSynParams.readout(np.ones((1, 1)), 0.5)], np.ones((3, 1, 1)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": np.ones((3, 1, 6))}, r"inputs: expected shape \(T, B, 7\), none of them 0, got \(3, 1, 6\)"),
        ({"inputs": np.ones((3, 7))}, r"inputs: expected shape \(T, B, 7\)"),
        ({"inputs": np.ones((0, 1, 7))}, "none of them 0"),
        ({"inputs": np.full((3, 1, 7), 0.5)}, "inputs: expected whole numbers"),
        ({"precision": "float"}, "precision: expected fixed_pt or floating_pt, got 'float'"),
        ({"network": "net.net"}, "network: expected a FixedNetwork, got str"),
    ],
)
def test_wrong_arguments(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        runtime.run_network(**{"network": stack(), "inputs": spike_trains(), **changes})


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_a_timeout_is_a_time(timeout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "require_lava", lambda: pytest.fail("the timeout is looked at first"))
    words = re.escape(f"timeout: expected seconds > 0, got {timeout}")
    for call in (
        lambda: runtime.isolated(time.sleep, 0, timeout=timeout),
        lambda: runtime.run_network(stack(), spike_trains(), timeout=timeout),
        lambda: runtime.run_file("net.net", spike_trains(), timeout=timeout),
        lambda: runtime.checked_timeout(timeout),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def in_child_start_method_is_set(name: str) -> str:
    """What an import says once somebody used multiprocessing, as a DataLoader with workers does."""
    multiprocessing.Pool(1).terminate()
    with pytest.raises(RuntimeError) as caught:
        importlib.import_module(name)
    return str(caught.value)


@needs_lava
@pytest.mark.parametrize("name", ["netx", "proc.hetsyn.process"])
def test_an_import_too_late_says_what_to_do(name: str) -> None:
    name = f"hetsyn_plugins.adapters.lava_dl.{name}"
    said = runtime.isolated(in_child_start_method_is_set, name, timeout=TIMEOUT)
    assert re.search(r"DataLoader with workers.*import this module before the first.*runtime\.run_file", said), said


# ---- the process --------------------------------------------------------------------------------------------------


def in_child_without_reset(network: FixedNetwork, x: Any) -> tuple[dict[str, Any], Any, Any]:
    """Processes built by hand, no reset: what each sends; and v of the readout, by Lava's Monitor and by Var.get."""
    from lava.proc.monitor.process import Monitor

    from hetsyn_plugins.adapters.lava_dl.proc.hetsyn.process import HetSyn
    from hetsyn_plugins.adapters.lava_dl.proc.io.process import Sink, Source

    source = Source(x[:, 0])
    port, sinks = source.out, {}
    for layer in network.layers:
        process = HetSyn(layer.params, always_on=layer.always_on, delay=layer.delay)
        port.connect(process.inp)
        port, sinks[layer.name] = process.out, Sink(layer.widths[1], len(x))
        port.connect(sinks[layer.name].inp)
    monitor = Monitor()
    monitor.probe(process.v, len(x))
    with runtime.running(source, timeout=TIMEOUT) as run:
        run(len(x) - 1)
        run(1)  # in two pieces is as in one
        last = process.v.get()
        (probed,) = monitor.get_data().values()
    return {name: sink.data for name, sink in sinks.items()}, probed["v"], last


@needs_lava
def test_every_layer_takes_a_step() -> None:
    """Without resets a stack is FixedNetwork.run(latency=1) bin by bin, bias and always-on line included."""
    network, x = stack(), spike_trains(40)
    sent, probed, last = runtime.isolated(in_child_without_reset, network, x, timeout=TIMEOUT)
    want = network.run(x, latency=1)
    for name, result in want.items():
        assert shown(result).any()
        np.testing.assert_array_equal(sent[name], shown(result)[:, 0], err_msg=name)
    readout = shown(list(want.values())[-1])[:, 0]
    np.testing.assert_array_equal(probed[:-1], readout[1:])  # v is computed a step before it is sent
    np.testing.assert_array_equal(probed[-1], last)


def in_child_float_params(params: HetSynParams, x: Any) -> Any:
    from hetsyn_plugins.adapters.lava_dl.proc.hetsyn.process import HetSyn
    from hetsyn_plugins.adapters.lava_dl.proc.io.process import Sink, Source

    def graph() -> tuple[Any, Any]:
        source, process, sink = Source(x[:, 0]), HetSyn(params), Sink(len(params.weight), len(x) + 1)
        source.out.connect(process.inp)
        process.out.connect(sink.inp)
        return source, sink

    source, sink = graph()
    with runtime.running(source, "floating_pt", TIMEOUT) as run:
        run(len(x) + 1)
    refused = None
    try:
        with runtime.running(graph()[0], "fixed_pt", TIMEOUT) as run:
            run(1)
    except ValueError as error:
        refused = str(error)
    wrong = []
    for options in ({"reset_interval": 0}, {"delay": 63}, {"delay": [1, 2]}, {"params": 3}):
        try:
            HetSyn(**{"params": params, **options})
        except ValueError as error:
            wrong.append(str(error))
    return sink.data[1:, None], refused, wrong


@needs_lava
def test_float_parameters_run_in_float_only() -> None:
    rng = np.random.default_rng(2)
    params = HetSynParams(
        rng.normal(0.2, 0.6, (5, 4)), 0.93, reset_decay=0.8, recurrent_weight=rng.normal(0, 0.3, (5, 5)),
        recurrent_decay=0.7, adaptation_decay=0.9, adaptation_strength=0.1, bias=np.full(5, 0.05),
    )  # fmt: skip
    x = rng.normal(0.3, 1, (60, 1, 4))  # graded
    sent, refused, wrong = runtime.isolated(in_child_float_params, params, x, timeout=TIMEOUT)
    spikes = reference.run(params, x)[0]
    assert spikes is not None and 0.02 < spikes.mean() < 0.9
    np.testing.assert_array_equal(sent, spikes)
    assert refused == "params: expected FixedParams for fixed_pt, got HetSynParams; floating_pt takes it"
    interval, delay, shape, kind = wrong
    assert interval == "reset_interval: expected at least 1 step or None, got 0"
    assert "delay: expected 0..62" in delay and "delay: expected shape (5,)" in shape
    assert kind == "params: expected FixedParams or HetSynParams, got int"


@needs_lava
def test_overflow_comes_back_as_what_it_is() -> None:
    layer = FixedLayer("integrator", FixedParams([[127]], [[0]], weight_exp=7, spiking=False))
    network, x = FixedNetwork((layer,)), np.ones((12, 2, 1), int)
    with pytest.raises(FixedPointOverflow, match="layer 'integrator': the synaptic current of neuron 0") as caught:
        runtime.run_network(network, x, timeout=TIMEOUT)
    assert "run_spk" in str(caught.value.__cause__)
    got = runtime.run_network(network, x, timeout=TIMEOUT, allow_overflow=True)
    np.testing.assert_array_equal(got["integrator"], network.run(x, allow_overflow=True)["integrator"].v)


# ---- netx ---------------------------------------------------------------------------------------------------------


def write_stock(group: h5py.Group, kind: str, neuron: dict[str, int], weight: Any = None) -> None:
    """A stock layer as slayer writes it, of CUBA neurons."""
    group.create_dataset("type", (1,), "S10", [kind.encode()])
    group["shape"] = np.array([7 if weight is None else len(weight)])
    if weight is not None:
        group["weight"] = weight.astype(np.float32)
    group["neuron/type"], group["neuron/refDelay"], group["neuron/gradedSpike"] = "CUBA", 1, False
    for name, value in neuron.items():
        group["neuron"][name] = value


def cuba(drive: Any, neuron: dict[str, int]) -> Any:
    """Lava's stock neuron in plain NumPy, every sample from zero: summed weights (T, B, N) -> spikes."""
    u = v = np.zeros(drive.shape[1:], np.int64)
    out = np.zeros(drive.shape, np.int64)
    for t, x in enumerate(drive):
        u = decayed(u, np.int64(neuron["iDecay"])) + (x << 6)
        v = decayed(v, np.int64(neuron["vDecay"])) + u
        out[t] = v > neuron["vThMant"] << 6
        v = np.where(out[t], 0, v)
    return out


CUBA = {"iDecay": 400, "vDecay": 200, "vThMant": 300}
INPUT = {"iDecay": 4096, "vDecay": 300, "vThMant": 2}
WEIGHTS = [2 * np.random.default_rng(0).integers(-20, 60, shape) for shape in ((6, 7), (4, 6))]
MIDDLE = stack(3).layers[1]
BEHIND_INPUT = FixedNetwork((stack(4).layers[0], stack(4).layers[2]))
SAMPLES = spike_trains(20, 3)
SAMPLES[-4:] = 1  # active until the last step: what is left then would reach the next sample


def replaced(dataset: str, value: Any) -> Callable[[h5py.File], None]:
    """A change of a file: another value in the same dtype and shape."""

    def change(file: h5py.File) -> None:
        shape, dtype = file[dataset].shape, file[dataset].dtype
        del file[dataset]
        file.create_dataset(dataset, shape, dtype, data=np.full(shape, value, dtype))

    return change


def elsewhere(file: h5py.File) -> None:
    """Weights that lie in another file, good ones."""
    del file["layer/2/weight"]
    file["layer/2/weight"] = h5py.ExternalLink("mixed.net", "layer/2/weight")


def of_any_length(file: h5py.File) -> None:
    """Weights in rows of any length, for which HDF5 itself may hang."""
    del file["layer/2/weight"]
    file.create_dataset("layer/2/weight", (4,), h5py.vlen_dtype(np.float32))[0] = [1.0]


DAMAGE: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "unknown.net": (replaced("layer/1/type", b"pool"), "layer/1: type: expected one of input, .* got 'pool'"),
    "neuron.net": (
        replaced("layer/0/neuron/type", "ALIF"),
        "neuron/type: expected one of HETSYN, .* got 'ALIF'",
    ),
    "word.net": (replaced("layer/0/synapse/decay", 4097), "synapse/decay: expected 0..4096"),
    "missing.net": (lambda file: file["layer/2"].pop("weight"), "layer/2.*weight: expected a dataset, got nothing"),
    "other.net": (replaced("layer/0/synapse/decay", 7), "digest: expected the content that it was written with"),
    "stock other.net": (replaced("layer/1/synapse/decay", 7), "digest: expected the content that it was written with"),
    "stock nan.net": (replaced("layer/0/weight", np.nan), "layer/0: weight: expected finite numbers or a text"),
    "stock wide.net": (replaced("layer/0/shape", 10**9), "layer/0: shape: expected 1 to 1,000,000 neurons"),
    "stock none.net": (replaced("layer/0/shape", 0), "layer/0: shape: expected 1 to 1,000,000 neurons"),
    "stock less.net": (lambda file: file["layer/2/neuron"].pop("iDecay"), "expected a network that netx can build"),
    "stock link.net": (elsewhere, "layer/2/weight: expected what lies in the file itself, got ExternalLink"),
    "stock rows.net": (of_any_length, "layer/2: weight: expected finite numbers or a text, got object"),
}
OTHERS = {name: "expected a network file, got one that cannot be read" for name in ("half.net", "text.net")} | {
    "none.net": "does not exist"
}


def in_child_netx(folder: Path, names: list[str], x: Any) -> tuple[dict[str, Any], list[Any], list[str]]:
    """What comes of each file, the layers' outputs or the error; what `network.run` gives in both precisions; and what
    Lava and Python complained of."""
    from hetsyn_plugins.adapters.lava_dl.proc.hetsyn.process import HetSyn
    from hetsyn_plugins.adapters.lava_dl.proc.io.process import Source

    complaints: list[str] = []
    sys.unraisablehook = lambda what: complaints.append(str(what.exc_value))
    hetsyn_plugins.register("lava_dl")
    imported = "lava.lib.dl.netx" in sys.modules
    from hetsyn_plugins.adapters.lava_dl import netx

    results: dict[str, Any] = {}
    for name in names:
        try:
            results[name] = runtime.simulate(folder / name, SAMPLES, "fixed_pt", False, TIMEOUT)
        except (ValueError, FileNotFoundError) as error:
            results[name] = error.with_traceback(None)  # which would hold the refused network
    try:
        runtime.simulate(folder / "mixed.net", SAMPLES, "floating_pt", False, TIMEOUT)
    except ValueError as error:
        results["mixed in float"] = error.with_traceback(None)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        good = folder / "good.net"
        itself = [in_child_network_runs_itself(netx.Network, good, x, precision) for precision in runtime.PRECISIONS]
        stock_netx = netx.Network.__mro__[1]
        itself.append(in_child_network_runs_itself(stock_netx, good, x, "fixed_pt"))
        itself.append((imported, *in_child_known(stock_netx, good)))
    for wrong in (lambda: HetSyn(3), lambda: Source(np.zeros(3))):
        with suppress(ValueError):
            wrong()
    gc.collect()
    return results, itself, complaints + [str(w.message) for w in warned if "Cannot import" in str(w.message)]


def in_child_known(stock_netx: Any, good: Path) -> list[bool]:
    """Does stock netx build a file of ours: without register, with it, with it twice, and after all without?"""
    known = []
    for changes in ("unregister", "register", "register", "unregister"):
        getattr(hetsyn_plugins, changes)("lava_dl")
        try:
            stock_netx(str(good))
        except AttributeError:  # on the way into layers that it does not know
            known.append(False)
        else:
            known.append(True)
    return known


def in_child_network_runs_itself(reader: Any, path: Path, x: Any, precision: str) -> Any:
    """`network.run`, between Lava's own ring buffers."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source

    network = reader(net_config=str(path), reset_interval=len(x))
    source, sink = Source(data=x[:, 0].T), Sink(shape=network.out.shape, buffer=len(x))
    source.s_out.connect(network.inp)
    network.out.connect(sink.a_in)
    try:
        network.run(condition=RunSteps(len(x)), run_cfg=Loihi2SimCfg(select_tag=precision))
        ours = {name: getattr(network, name, None) for name in ("layer_names", "latencies")}
        return sink.data.get().T[:, None], str(network), *ours.values()
    finally:
        network.stop()


@pytest.fixture(scope="module")
def netx(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any], list[str]]:
    """One child process for all files: netx takes seconds to import."""
    folder = tmp_path_factory.mktemp("files")
    good = folder / "good.net"
    chip_file.write(stack(), good)
    with h5py.File(folder / "mixed.net", "w") as file:
        write_stock(file.create_group("layer/0"), "dense", CUBA, WEIGHTS[0])
        chip_file.write_layer(file.create_group("layer/1"), MIDDLE)
        write_stock(file.create_group("layer/2"), "dense", CUBA, WEIGHTS[1])
    with h5py.File(folder / "input stock.net", "w") as file:
        write_stock(file.create_group("layer/0"), "input", INPUT)
        write_stock(file.create_group("layer/1"), "dense", CUBA, WEIGHTS[0])
        chip_file.write_layer(file.create_group("layer/2"), MIDDLE)
        write_stock(file.create_group("layer/3"), "dense", CUBA, WEIGHTS[1])
    with h5py.File(folder / "input.net", "w") as file:
        write_stock(file.create_group("layer/0"), "input", INPUT)
        for index, layer in enumerate(BEHIND_INPUT.layers):
            chip_file.write_layer(file.create_group(f"layer/{index + 1}"), layer)
    for name, (change, _) in DAMAGE.items():
        base = folder / "mixed.net" if name.startswith("stock") else good
        (folder / name).write_bytes(base.read_bytes())
        with h5py.File(folder / name, "r+") as file:
            change(file)
    (folder / "half.net").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (folder / "text.net").write_text("not HDF5")
    names = ["mixed.net", "input.net", "input stock.net", *DAMAGE, *OTHERS]
    results: tuple[dict[str, Any], list[Any], list[str]] = runtime.isolated(
        in_child_netx, folder, names, spike_trains(30), timeout=TIMEOUT
    )
    return results


@needs_lava
def test_stock_layers_stay_stock(netx: Any) -> None:
    """CUBA -> HetSyn -> CUBA; three samples, none of which sees another."""
    mixed = netx[0]["mixed.net"]
    assert list(mixed) == ["0", MIDDLE.name, "2"]
    assert all(0.02 < spikes.mean() < 0.9 for spikes in mixed.values())
    np.testing.assert_array_equal(mixed["0"], cuba(SAMPLES @ WEIGHTS[0].T, CUBA))
    np.testing.assert_array_equal(mixed[MIDDLE.name], FixedNetwork((MIDDLE,)).output(mixed["0"]))
    np.testing.assert_array_equal(mixed["2"], cuba(mixed[MIDDLE.name] @ WEIGHTS[1].T, CUBA))


@needs_lava
def test_stock_layers_have_no_float_parameters(netx: Any) -> None:
    """Lava's float neurons would take netx's decays of 12 bits for shares, and give spikes of nothing."""
    words = r"precision: expected 'fixed_pt' with stock layers \(0, 2\).*got 'floating_pt'"
    assert re.search(words, str(netx[0]["mixed in float"]))


@needs_lava
def test_an_input_block_takes_no_step(netx: Any) -> None:
    """netx counts it as one when it places the resets; HetSyn layers behind it still start with their first input."""
    behind = netx[0]["input.net"]
    assert list(behind) == ["0", *(layer.name for layer in BEHIND_INPUT.layers)]
    assert 0.02 < behind["0"].mean() < 0.9
    for name, result in BEHIND_INPUT.run(behind["0"]).items():
        np.testing.assert_array_equal(behind[name], shown(result), err_msg=name)


@needs_lava
def test_stock_layers_behind_an_input_block(netx: Any) -> None:
    behind = netx[0]["input stock.net"]
    assert list(behind) == ["0", "1", MIDDLE.name, "3"]
    assert all(0.02 < spikes.mean() < 0.9 for spikes in behind.values())
    np.testing.assert_array_equal(behind["0"], netx[0]["input.net"]["0"])
    np.testing.assert_array_equal(behind["1"], cuba(behind["0"] @ WEIGHTS[0].T, CUBA))
    np.testing.assert_array_equal(behind[MIDDLE.name], FixedNetwork((MIDDLE,)).output(behind["1"]))
    np.testing.assert_array_equal(behind["3"], cuba(behind[MIDDLE.name] @ WEIGHTS[1].T, CUBA))


@needs_lava
@pytest.mark.parametrize("name", [*DAMAGE, *OTHERS])
def test_a_file_that_cannot_be_built_is_an_error(netx: Any, name: str) -> None:
    error, words = netx[0][name], OTHERS[name] if name in OTHERS else DAMAGE[name][1]
    assert isinstance(error, FileNotFoundError if name == "none.net" else FileFormatError), error
    assert re.search(words, str(error)) and name in str(error), error


@needs_lava
def test_a_network_is_used_as_a_stock_one(netx: Any) -> None:
    network, (got, table, names, latencies) = stack(), netx[1][0]
    np.testing.assert_array_equal(got[3:], network.output(spike_trains(30))[:-3])
    assert table.count("HetSyn") == 3 and "HetSynRec" in table
    assert names == [layer.name for layer in network.layers] and latencies == [1, 2, 3]


@needs_lava
def test_a_network_runs_itself_in_float_too(netx: Any) -> None:
    case = integers.Case("stack", stack(), spike_trains(30))
    (*_, readout) = integers.expected_in_float(case).values()
    np.testing.assert_allclose(netx[1][1][0][3:], readout.v[:-3], rtol=0, atol=1e-12)


@needs_lava
def test_stock_netx_knows_our_layers_while_we_are_registered(netx: Any) -> None:
    """And what it builds gives the same bins; registering alone imports no netx."""
    (ours, table, *_), (stock_bins, stock_table, *_) = netx[1][0], netx[1][2]
    assert ours.any() and stock_table == table
    np.testing.assert_array_equal(stock_bins, ours)
    imported, *known = netx[1][3]
    assert not imported and known == [False, True, True, False]


@needs_lava
def test_nobody_complains_behind_the_scenes(netx: Any) -> None:
    """Not of a file that was refused, when it is thrown away, nor of files that Lava tries to run as models."""
    assert netx[2] == []


# ---- stock layers beside ours, as slayer trains them ----------------------------------------------------------------

# C CUBA, R recurrent CUBA, S CUBA with delays, H HetSyn, D HetSyn with delays, A convolution, F flatten
SEEDS = {"CCC": 1, "CHCC": 2, "CDC": 1, "CHCHC": 1, "CRC": 1, "CSC": 1, "AAFHC": 1}
NETWORK = "hetsyn_plugins.adapters.lava_dl.proc.network.process"
A_STEP_EARLY = ('options["reset_offset"] += 1\n', 'options["reset_offset"] += 0\n')
A_STEP_EARLY_IN_CONVOLUTIONS = ('options["reset_offset"] += 1 - self', 'options["reset_offset"] += 0 - self')
ALL_IN_ONE_RUN = ("self.parts_samples &=", "self.parts_samples |=")


def slayer_blocks(net: str) -> list[Any]:
    import torch
    from lava.lib.dl.slayer.block import cuba as stock_block

    from hetsyn_plugins.adapters.lava_dl import slayer

    neuron = {"threshold": 0.5, "current_decay": 0.25, "voltage_decay": 0.1, "requires_grad": True}
    blocks: list[Any] = []
    for index, kind in enumerate(net):
        sizes, options = (20 if index == 0 else 16, 16), {"weight_scale": 4, "delay": kind in "SD"}
        if net[index - 1] == "F":
            sizes = (2 * 2, 16)  # 2 channels of 2 x 1, what two convolutions leave of 6 x 5
        if kind in "HD":
            blocks.append(slayer.Dense({"threshold": 0.5, "reset_decay": 0.9}, *sizes, **options))
        elif kind in "CS":
            blocks.append(stock_block.Dense(neuron, *sizes, **options))
        elif kind == "R":
            blocks.append(stock_block.Recurrent(neuron, *sizes, weight_scale=4))
        elif kind == "A":
            blocks.append(stock_block.Conv(neuron, 1 if index == 0 else 2, 2, 3, weight_scale=12))
        else:
            blocks.append(stock_block.Flatten())
        if options["delay"]:
            blocks[-1].delay.delay.data = torch.arange(16) % 7 + 0.5
            blocks[-1].delay.init = True  # or the first input would draw others
    return blocks


def as_lava(x: Any) -> Any:
    """slayer's (B, N, T) or (B, C, H, W, T) as Lava's (T, B, lines), which of an image are (W, H, C)."""
    return x.permute(2, 0, 1).numpy() if x.ndim == 3 else x.permute(4, 0, 3, 2, 1).flatten(2).numpy()


def trained(path: Path, net: str, seed: int) -> tuple[Any, list[Any]]:
    """Write a network to a file; returns three samples and what slayer makes of them layer by layer."""
    import torch

    torch.manual_seed(seed)
    x = (torch.rand(3, *((1, 6, 5) if net[0] == "A" else (20,)), 30) < 0.3).float()
    inputs, outputs = as_lava(x).astype(np.int64), []
    with h5py.File(path, "w") as file, torch.no_grad():
        if net[0] == "A":
            image = file.create_group("layer/0")
            image.create_dataset("type", (1,), "S10", [b"input"])
            image["shape"] = np.array([1, 6, 5])
        for index, block in enumerate(slayer_blocks(net)):
            x = block(x)
            if net[index] != "F":
                outputs.append(as_lava(x))
            block.export_hdf5(file.create_group(f"layer/{index + (net[0] == 'A')}"))
    return inputs, outputs


def in_child_trained(runs: list[tuple[Path, Any, tuple[str, str] | None]]) -> list[Any]:
    """What Lava makes of each file, a piece of the network's source text replaced."""
    from hetsyn_plugins.adapters.lava_dl import netx

    real, outputs = netx.Network, []
    for path, x, bug in runs:
        with ExitStack() as stack:
            if bug is not None:
                netx.Network = stack.enter_context(planted(NETWORK, *bug)).Network
            outputs.append(list(runtime.simulate(path, x, "fixed_pt", False, TIMEOUT).values()))
        netx.Network = real
    return outputs


@pytest.fixture(scope="module")
def beside_slayer(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, tuple[list[int], list[Any]]]:
    """(net, seed or bug) -> bins of each sample that differ from slayer's, all layers; and slayer's outputs."""
    pytest.importorskip("lava.lib.dl.slayer")
    folder = tmp_path_factory.mktemp("trained")
    bugs = {
        "CHCC": A_STEP_EARLY, "CDC": A_STEP_EARLY, "CHCHC": A_STEP_EARLY, "AAFHC": A_STEP_EARLY_IN_CONVOLUTIONS,
        "CRC": ALL_IN_ONE_RUN, "CSC": ALL_IN_ONE_RUN,
    }  # fmt: skip
    drawn = {
        (net, seed): trained(folder / f"{net}{seed}.net", net, seed) for net in SEEDS for seed in range(SEEDS[net])
    }
    jobs = [(key, None) for key in drawn] + [((net, 0), bug) for net, bug in bugs.items()]
    runs = [(folder / f"{net}{seed}.net", drawn[net, seed][0], bug) for (net, seed), bug in jobs]
    compared = {}
    for (key, bug), layers in zip(jobs, runtime.isolated(in_child_trained, runs, timeout=TIMEOUT), strict=True):
        differing = [0, 0, 0]
        for index, (got, want) in enumerate(zip(layers, drawn[key][1], strict=True)):
            latency = index + 1  # slayer's blocks take a step each
            differing = [n + int((got[:-latency, b] != want[latency:, b]).sum()) for b, n in enumerate(differing)]
        compared[key if bug is None else (key[0], "planted")] = differing, drawn[key][1]
    return compared


@needs_lava
@pytest.mark.parametrize("net", SEEDS)
def test_samples_of_mixed_networks_share_nothing(beside_slayer: Any, net: str) -> None:
    for seed in range(SEEDS[net]):
        differing, outputs = beside_slayer[net, seed]
        assert all(0.02 < spikes.mean() < 0.9 for spikes in outputs)
        assert differing == [0, 0, 0], seed


@needs_lava
@pytest.mark.parametrize("net", ["CHCC", "CDC", "CHCHC", "AAFHC", "CRC", "CSC"])
def test_samples_that_leak_are_seen(beside_slayer: Any, net: str) -> None:
    """Stock neurons reset a step early; loops and delays in one run."""
    first, second, third = beside_slayer[net, "planted"][0]
    assert second + third > 0, f"of what the sample before left behind; {first} bins of the first differ"


# ---- stock processes only -----------------------------------------------------------------------------------------


def float_layer(rng: Any, n: int, m: int, recurrent: bool = False, **fields: Any) -> HetSynParams:
    """Three decays, a soft reset."""
    decays = rng.uniform(0.5, 0.97, 3)
    if recurrent:
        fields |= {"recurrent_weight": rng.normal(0, 0.4, (n, n)), "recurrent_decay": rng.choice(decays, (n, n))}
    weight, decay = rng.normal(0.2, 1, (n, m)) / np.sqrt(m), rng.choice(decays, (n, m))
    return HetSynParams(weight, decay, reset_decay=0.8, threshold=rng.uniform(0.6, 1, n), **fields)


@needs_lava
def test_stock_processes_give_the_same_spikes() -> None:
    """Feed-forward, then recurrent with reset, adaptation and bias, then a readout: 0 differing bins in 250 steps."""
    rng = np.random.default_rng(3)
    adaptation = {"adaptation_decay": 0.95, "adaptation_strength": 0.1, "bias": rng.uniform(-0.2, 0.2, 5)}
    layers = [float_layer(rng, 6, 8), float_layer(rng, 5, 6, recurrent=True, **adaptation)]
    layers.append(HetSynParams.readout(rng.normal(0, 1, (3, 5)), rng.choice([0.5, 0.9], (3, 5))))
    x = (rng.random((250, 1, 8)) < 0.4).astype(float)
    sent = x
    for params, got in zip(layers, stock.run(layers, x, timeout=TIMEOUT), strict=True):
        spikes, v, _ = reference.run(params, sent)
        if spikes is None:
            np.testing.assert_allclose(got, v, rtol=0, atol=1e-12)
            continue
        assert np.abs(v - params.threshold).min() > 1e-9  # so that no rounding decides
        assert 0.02 < spikes.mean() < 0.9
        np.testing.assert_array_equal(got, spikes)
        sent = spikes


def test_the_stock_lowering_refuses_what_its_fields_do_not_hold() -> None:
    ends = HetSynParams([[1.0, 1.0, 1.0]], np.array([[0.0, 1.0, 0.5]]), reset_decay=1.0)
    with pytest.raises(ValueError, match=r"inside \(0, 1\).* got 3 of exactly 0 or 1; nearest=True"):
        stock.representable(ends)
    taken = stock.representable(ends, nearest=True)
    np.testing.assert_array_equal(taken.decay, [[1 / 4096, 4095 / 4096, 0.5]])
    np.testing.assert_array_equal(taken.reset_decay, [4095 / 4096])
    with pytest.raises(ValueError, match=r"params\.bias: expected none above its threshold"):
        stock.representable(HetSynParams([[1.0]], 0.5, reset_decay=0.5, bias=np.array([1.5])))
    with pytest.raises(ValueError, match=r"params\.bias: expected None for a readout"):
        stock.representable(HetSynParams.readout(np.ones((1, 1)), 0.5, bias=np.array([0.5])))
    with pytest.raises(ValueError, match=r"inputs: expected one sample, \(T, 1, M\), got \(3, 2, 3\)"):
        stock.run([ends], np.ones((3, 2, 3)))


# ---- runs that fail -----------------------------------------------------------------------------------------------


@needs_lava
def test_a_process_that_behaves_gets_there() -> None:
    assert runtime.isolated(lava_misbehaving.run, "nothing", 30.0, timeout=TIMEOUT) == 6


@needs_lava
@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("raise", ZeroDivisionError, "in run_spk"),
        ("refuse", KeyError, "refused to be built"),
        ("die", runtime.LavaError, "a Lava worker died with exit status -9"),
        ("hang", runtime.LavaTimeout, "3 steps did not end in time, all workers alive"),
    ],
)
def test_a_worker_that_fails_is_an_exception(how: str, error: type[Exception], words: str) -> None:
    """In Lava alone the first three wait forever, the second at exit. The suite goes on, nothing is left behind."""
    start, patience = time.monotonic(), 2.0 if how == "hang" else 15.0  # seconds; others are seen at once, load or not
    with pytest.raises(error, match=words) as caught:
        runtime.isolated(lava_misbehaving.run, how, patience, timeout=TIMEOUT)
    assert time.monotonic() - start < 30
    assert "Traceback" in str(caught.value.__cause__)
    if how == "raise":
        assert "models.py" in str(caught.value.__cause__)  # the worker's own lines


@needs_lava
def test_what_hangs_is_killed_from_outside() -> None:
    """Although the child itself would wait a minute: the group is ended within the timeout."""
    start = time.monotonic()
    with pytest.raises(runtime.LavaTimeout, match="no result within 3 s, so the run was killed"):
        runtime.isolated(lava_misbehaving.run, "hang", 60.0, timeout=3.0)
    assert time.monotonic() - start < 3.5


@needs_lava
def test_what_is_stopped_is_killed_in_time() -> None:
    """A stopped worker does not hear SIGTERM; the shared memory of its graph is freed all the same."""
    start = time.monotonic()
    with pytest.raises(runtime.LavaTimeout, match="no result within 6 s"):
        runtime.isolated(lava_misbehaving.run, "stop", 60.0, timeout=6.0)
    assert time.monotonic() - start < 6.0


def stop_and_ignore() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)


def test_the_timeout_is_an_upper_bound() -> None:
    """Also of what hears nothing but SIGKILL."""
    start = time.monotonic()
    with pytest.raises(runtime.LavaTimeout, match="no result within 4 s"):
        runtime.isolated(stop_and_ignore, timeout=4.0)
    assert 3.9 < time.monotonic() - start < 4.5


def die_silently(status: int) -> None:
    print("last words", flush=True)
    os._exit(status)


def raise_what_does_not_pickle() -> None:
    raise type("Local", (ValueError,), {})("a class of nowhere")


def test_a_child_that_dies_says_so() -> None:
    with pytest.raises(runtime.LavaError, match=r"died with exit status 3; it printed:\nlast words"):
        runtime.isolated(die_silently, 3, timeout=TIMEOUT)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc to see processes in")
def test_a_run_does_not_outlive_who_asked_for_it(tmp_path: Path) -> None:
    call = "runtime.isolated(time.sleep, 3600, timeout=3600)"
    script = runtime.CHILD.replace("runtime._child(sys.argv[1])", f"import time; {call}")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", script, "", *hetsyn_plugins.__path__], env=environment) as caller:
        until(lambda: runs_of(tmp_path))
        caller.kill()
    until(lambda: not runs_of(tmp_path))
    assert not list(tmp_path.glob("hetsyn_lava_*"))


def until(true: Callable[[], Any]) -> None:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < 20
        time.sleep(0.1)


def die_and_leave_somebody() -> None:
    if os.fork():
        os._exit(5)
    time.sleep(3600)


def test_what_a_dead_child_left_is_ended() -> None:
    with pytest.raises(runtime.LavaError, match="died with exit status 5"):
        runtime.isolated(die_and_leave_somebody, timeout=2.0)


def test_an_exception_that_does_not_pickle_is_told_of() -> None:
    with pytest.raises(runtime.LavaError, match="Local, which does not pickle") as caught:
        runtime.isolated(raise_what_does_not_pickle, timeout=TIMEOUT)
    assert "a class of nowhere" in str(caught.value.__cause__)


def test_no_answer_of_a_killed_run_is_none() -> None:
    with pytest.raises(runtime.LavaTimeout, match=r"no result within 0\.5 s"):
        runtime.isolated(time.sleep, 60, timeout=0.5)
