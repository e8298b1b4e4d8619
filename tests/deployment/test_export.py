"""Export: what a deployment costs, keeps and refuses, against numbers computed by hand and the integer core itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from math import exp, log, log2
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from planting import caught, changed, in_place, planted

import hetsyn_plugins
from hetsyn_plugins import HetSynParams, deployment
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.deployment import chip_costs, chip_file
from hetsyn_plugins.deployment.clusters import cluster_network
from hetsyn_plugins.deployment.report import DECAY_RANGE
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.fixed_point.network import FixedLayer, FixedNetwork, quantise
from hetsyn_plugins.fixed_point.neuron import FixedParams, FixedPointOverflow

INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("snntorch", "norse", "lava")}


# ---- what a mapping costs ----------------------------------------------------------------------------------------


def layer(name: str, m: int, n: int, k: int = 8, *, recurrent: bool = False, spiking: bool = True) -> FixedLayer:
    """K decay words, each of which occurs; a reset where there are spikes."""
    draw = np.random.default_rng(n + m)
    words = np.arange(1, k + 1) * 100

    def decays(*shape: int) -> Any:
        drawn = words[draw.integers(0, k, shape)]
        drawn.ravel()[:k] = words
        return drawn

    square: dict[str, Any] = {}
    if recurrent:
        square = {"recurrent_weight": draw.integers(-128, 128, (n, n)), "recurrent_decay": decays(n, n)}
    reset = 300 if spiking else None
    weight = draw.integers(-128, 128, (n, m))
    return FixedLayer(name, FixedParams(weight, decays(n, m), reset_decay=reset, spiking=spiking, **square))


def check_costs(module: Any) -> None:
    """The table of the notes: 700 -> 128 -> 128 recurrent -> 20, K = 8; its numbers, written out."""
    net = FixedNetwork((layer("a", 700, 128), layer("b", 128, 128, recurrent=True), layer("c", 128, 20)))
    a, b, c, d, e = module.chip_costs(net, 30.0)
    assert a.neurons == 276 + 2208 + 276
    assert a.synapses == 124_928 + 2208 + 2208 + 1104 + 16_384, "synapses of a"
    assert a.graded == 2208 + 276, "graded of a"
    assert (b.neurons, b.synapses, b.graded) == (276 + 8672, 124_928, 8672), "b traces"
    assert (c.neurons, c.synapses, c.graded, c.state_bits) == (276, 124_928, 0, 276 * (8 + 2) * 24), "c microcode"
    assert (d.neurons, d.synapses, d.state_bits) == (276, 124_928, 124_928 * 24 + 276 * 2 * 24), "d synapse"
    assert (e.neurons, e.synapses) == (276, 124_928 * 62), "e taps"
    assert {at.axons for at in (a, b, c, d, e)} == {700 + 128 + 128 + 20}, "an axon a line"
    assert a.state_bits == c.state_bits and b.state_bits == (8672 + 276 * 2) * 24
    assert {at.spikes for at in (a, b, c, d, e)} == {30.0}
    rounded = [f"{c.state_bits / 8e3:.0f} kB", f"{d.state_bits / 8e3:.0f} kB", f"{e.synapses / 1e6:.1f} M"]
    assert rounded == ["8 kB", "376 kB", "7.7 M"]  # the notes have 375 kB: without v and reset

    last = net.layers[-1].params.replace(spiking=False, reset_decay=None)
    readout = FixedNetwork((*net.layers[:2], FixedLayer("c", last)))
    without = module.chip_costs(readout)[0]
    assert (without.neurons, without.synapses) == (a.neurons - 20, a.synapses - 80), "a readout has no reset"
    assert without.spikes is None
    adapting = net.layers[0].params.replace(adaptation_decay=5, adaptation_strength=5)
    (more, *_), (less, *_) = (
        module.chip_costs(FixedNetwork((FixedLayer("x", p),))) for p in (adapting, net.layers[0].params)
    )
    assert (more.neurons - less.neurons, more.synapses - less.synapses) == (128, 4 * 128)
    assert more.state_bits - less.state_bits == 128 * 24

    first, second, _ = net.layers
    assert module.state_bits(first) == 128 * 10 * 24
    assert module.weight_bits(first) == 128 * 700 * (8 + 3), "11 bits a synapse"
    assert module.weight_bits(second) == 128 * 256 * 11
    synapse = FixedLayer("x", first.params.replace(form="synapse", fraction=None))
    assert module.state_bits(synapse) == (128 * 700 + 2 * 128) * 32, "the synapse form"
    assert module.weight_bits(synapse) == 128 * 700 * 20
    assert module.weight_bits(layer("one", 3, 4, k=1)) == 12 * 8
    assert module.weight_bits(layer("5", 3, 4, k=5)) == 12 * 11, "5 decays take 3 bits"
    check_axons(module)


def late() -> FixedNetwork:
    """Two neurons behind two lines, recurrent, and one behind those; delays everywhere, of the axons too."""
    square = {"recurrent_weight": [[1, 1], [1, 1]], "recurrent_decay": 5, "recurrent_delay": [[3, 1], [3, 0]]}
    first = FixedParams([[1, 1, 9], [1, 1, 9]], 5, delay=[[0, 4, 7], [2, 4, 8]], **square)
    second = FixedParams([[1, 1], [1, 1]], 5, delay=[[0, 0], [1, 0]])
    return FixedNetwork((FixedLayer("first", first, always_on=True, delay=[2, 0]), FixedLayer("second", second)))


def check_axons(module: Any) -> None:
    """By hand. Line 0 is read with 0 and 2 steps, line 1 with 4. Neuron 0: by the next layer with 2 and 3, by its own
    with 3; neuron 1: with 0, and with 1 and 0. What comes out has an axon for each."""
    assert [at.tolist() for at in module.axons(late())] == [[2, 1], [2, 2], [1, 1]], "axons by hand"
    costs = module.chip_costs(late())
    assert {at.axons for at in costs} == {9}
    # with the always-on line: 2 + 1 + 2 and, of the loop, 1 + 2; 2 + 1 in the second; of one decay each
    assert costs[1].graded == 8 + 3, "a trace on each axon"
    first = late().layers[0]
    assert module.weight_bits(first) == 10 * 8 + 8 * 6, "6 bits an axon"
    x, runs = np.zeros((4, 1, 2), np.int64), {"first": SimpleNamespace(spikes=np.zeros((4, 1, 2), np.int64))}
    x[0], runs["first"].spikes[:, 0, 0] = [5, 1], 1
    runs["second"] = SimpleNamespace(spikes=np.ones((4, 1, 2), np.int64))
    assert module.messages(late(), x, runs) == (2 + 1 + 4 * 2 + 4 * 2) / 4, "a message on each axon"


def test_costs_are_those_of_the_table() -> None:
    check_costs(chip_costs)


BUGS = [
    ("loops of accumulators forgotten", "2 * accumulators", "accumulators", "synapses of a"),
    ("reset takes two synapses", "4 * feedback", "2 * feedback", "synapses of a"),
    ("recurrent weights stored once", "+ doubled", "", "synapses of a"),
    ("recurrent lines have no traces", "(s.lines + s.recurrent) * s.clusters)", "s.lines * s.clusters)", "b traces"),
    ("recurrent synapses not counted", "n * (m + recurrent)", "n * m", "synapses of a"),
    ("v is no state", "lambda s: s.neurons * (1 + s.feedback)", "lambda s: s.neurons * s.feedback", "c microcode"),
    (
        "adaptation forgotten",
        "(p.reset_decay is not None) + (p.adaptation_decay is not None)",
        "1",
        "a readout has no reset",
    ),
    ("index in whole bytes", "math.ceil(math.log2(s.clusters))", "8", "11 bits a synapse"),
    ("index rounded down", "math.ceil(math.log2(s.clusters))", "int(math.log2(s.clusters))", "5 decays take 3 bits"),
    ("24 bits in both forms", ", p.state_bits)", ", 24)", "the synapse form"),
    ("63 taps", "synapses * MAX_DELAY", "synapses * (MAX_DELAY + 1)", "e taps"),
    (
        "a delay for all lines",
        "np.sort(delays, axis=0), axis=0) != 0).sum(0)",
        "np.sort(delays, axis=0), axis=0) < 0).sum(0)",
        "axons by hand",
    ),
    ("delays of the axon forgotten", "read = read + before.delay", "pass", "axons by hand"),
    ("a loop has no axons", "axons += int(", "axons += 0 * int(", "b traces"),
    ("delays take no memory", "s.axons * 6", "0", "6 bits an axon"),
    ("counts sent as many spikes", "inputs != 0,", "inputs,", "a message on each axon"),
    ("accumulators not sent", "spikes, accumulators + feedback)", "spikes, feedback)", "graded of a"),
]


@pytest.mark.parametrize(("name", "old", "new", "says"), BUGS, ids=[bug[0] for bug in BUGS])
def test_planted_bugs_in_the_costs_are_caught(name: str, old: str, new: str, says: str) -> None:
    with planted(chip_costs.__name__, old, new) as module, caught(says):
        check_costs(module)


# ---- the report --------------------------------------------------------------------------------------------------


def small(dt: float | None = 1e-3) -> Network:
    """Two neurons that see one line each, and two readouts that see one neuron each; taus at all ends."""
    hidden = HetSynParams(
        [[2.0, 0.0, 0.1], [0.0, 2.0, -0.1]],
        [[0.5, 0.0, 1.0], [1.0, exp(-1 / 40), exp(-1 / 8)]],
        reset_decay=0.25,
        adaptation_decay=0.0,
        adaptation_strength=0.5,
    )
    readout = HetSynParams.readout([[1.0, 0.0], [0.0, 1.0]], [[exp(-1 / 100), 0.5], [0.5, exp(-1 / 300)]])
    layers = (HetSynLayer("hidden", hidden, dt=dt), Dropout("drop", 0.5), HetSynLayer("out", readout, dt=dt))
    return Network((AlwaysOn("on"), *layers))


def samples() -> tuple[Any, Any]:
    """Eight samples of six steps: line 0 or line 1 spikes; the label is which, but wrong for the last."""
    x = np.zeros((6, 8, 2))
    labels = np.array([0, 1] * 4)
    x[:3, np.arange(8), labels] = 1
    labels[-1] = 0
    return x, labels


def test_report_has_the_numbers_computed_by_hand(tmp_path: Path) -> None:
    x, labels = samples()
    report = deployment.export(small(), tmp_path / "net.net", calibration=x, labels=labels)
    hidden, out = report.layers
    assert (hidden.name, hidden.neurons, hidden.synapses, hidden.clusters) == ("hidden", 2, 6, 5)
    assert (out.name, out.neurons, out.synapses, out.clusters) == ("out", 2, 4, 3)
    # five accumulators, v, reset and adaptation; an index of three bits for five decays, of two for three
    assert (hidden.state_bits, hidden.weight_bits) == (2 * 8 * 24, 6 * 11)
    assert (out.state_bits, out.weight_bits) == (2 * 4 * 24, 4 * 10)
    # the reset has the shortest tau, 1 / log 4; the words of 40 and 300 steps are 4096 / 40.5 = 101 and 4096 / 300.5
    assert hidden.tau_wanted == pytest.approx((1 / log(4), 40)), "taus as trained"
    assert hidden.tau_kept == pytest.approx((1 / log(4), -1 / log(1 - 101 / 4096))), "taus of the integers"
    assert out.tau_wanted == pytest.approx((1 / log(2), 300))
    assert out.tau_kept == pytest.approx((1 / log(2), -1 / log(1 - 14 / 4096)))
    # r = 0 once and r = 1 twice in the synapses, and the adaptation of two neurons
    assert (hidden.ends, out.ends, hidden.beyond, out.beyond) == (5, 0, 0, 0)
    assert hidden.rounding is not None and hidden.rounding.clipped_taus == 0 and hidden.clustering is None
    assert report.dt == 1e-3 and report.form == "cluster" and (report.samples, report.steps) == (8, 6)
    assert report.inputs == 3.0
    assert report.accuracy == {"float": 7 / 8, "quantised": 7 / 8}


def test_rates_and_headroom_are_those_of_the_integer_core(tmp_path: Path) -> None:
    x, _ = samples()
    report = deployment.export(small(), tmp_path / "net.net", calibration=x)
    runs = chip_file.read(tmp_path / "net.net").run(x)
    hidden, out = report.layers
    sent = sum(int(runs["hidden"].spikes[:, b].sum()) for b in range(8)) / 8
    assert sent > 1 and out.spikes is None
    assert hidden.spikes == sent == report.spikes, "spikes a sample"
    for at in (hidden, out):
        assert at.peak == runs[at.name].peak and at.overflows == 0
        assert at.headroom == pytest.approx(23 - log2(at.peak)), "doublings before 24 bits are left"
    assert report.mappings[2].spikes == pytest.approx((sent + 3) / 6), "inputs are messages too"
    assert report.accuracy == {}


def with_delays(**delays: Any) -> Network:
    """The same two neurons, with a loop."""
    hidden, *others = (layer for layer in small().layers if isinstance(layer, HetSynLayer))
    params = hidden.params.replace(recurrent_weight=np.full((2, 2), 0.5), recurrent_decay=0.5, **delays)
    return Network((AlwaysOn("on"), HetSynLayer("hidden", params, dt=1e-3), *others))


def test_whole_delays_are_deployed_and_counted(tmp_path: Path) -> None:
    x, _ = samples()
    delays = {"delay": np.array([[0.0, 2.0, 0.0], [1.0, 2.0, 0.0]]), "recurrent_delay": 1.0}
    report = deployment.export(with_delays(**delays), tmp_path / "net.net", calibration=x)
    net = chip_file.read(tmp_path / "net.net")
    params = net.layers[0].params
    assert params.delay.tolist() == [[0, 2, 0], [1, 2, 0]] and params.recurrent_delay.tolist() == [[1, 1], [1, 1]]
    hidden, out = report.layers
    assert (hidden.max_delay, hidden.axons, out.max_delay, out.axons) == (2, 2 + 1 + 1 + 2, 0, 2)
    assert "hidden: delays of up to 2 steps take 6 axons" in str(report) and "out: delays" not in str(report)
    fired, sent = net.run(x)["hidden"].spikes.sum((0, 1)), x.sum((0, 1)) @ [2, 1]
    assert fired.sum() > 8 and report.mappings[0].axons == 2 + 1 + 2 * 2
    # a neuron's spikes go to the readout at once and to the loop a step later: two messages
    assert report.mappings[0].spikes == pytest.approx((sent + 2 * fired.sum()) / (6 * 8))


def test_delays_that_no_chip_holds_are_refused(tmp_path: Path) -> None:
    for delays, message in (
        ({"delay": 1.5}, r"layer 'hidden': delay: expected whole steps for integers, got 1\.5; round_delays_\(net\)"),
        ({"recurrent_delay": 63.0}, "layer 'hidden': recurrent_delay: expected at most 62 steps, as a chip's axons"),
    ):
        with pytest.raises(ValueError, match=message):
            deployment.export(with_delays(**delays), tmp_path / "net.net")
    assert not list(tmp_path.iterdir())


def test_what_eight_bits_did_is_told_as_it_acts(tmp_path: Path) -> None:
    """By hand: the last bit of the layer is 1; a row is 100, 0.4, 0.4, another 2.25, one 1, and one is empty."""
    weight = np.array([[100.0, 0.4, 0.4], [2.25, 2.25, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    params = HetSynParams(weight, 0.5, threshold=1.0, reset_decay=0.5)
    x = np.ones((4, 2, 3))
    net = Network((HetSynLayer("only", params),))
    (only,) = deployment.export(net, tmp_path / "net.net", units={"only": 1.0}, calibration=x).layers
    assert only.weights.zeroed == pytest.approx(2 / 7), "of nonzero weights"
    shares = [0.8 / 100.8, 0.5 / 4.5, 0.0]
    assert only.weights.mean == pytest.approx(np.mean(shares)) and only.weights.largest == pytest.approx(0.5 / 4.5)
    before, after = net.run(x)["only"][0], chip_file.read(tmp_path / "net.net").run(x)["only"].spikes
    assert before is not None and after is not None
    assert (only.spikes_before, only.spikes) == (before.sum() / 2, after.sum() / 2), "spikes before and after"
    assert only.spikes_before > 0


def test_an_outlier_is_seen_in_the_spikes_before_and_after(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weight = rng.random((10, 20)) * 0.2
    weight[0, 0] = 80.0
    net = Network((HetSynLayer("only", HetSynParams(weight, 0.9, reset_decay=0.9)),))
    x = (rng.random((50, 4, 20)) < 0.3).astype(float)
    with pytest.warns(UserWarning, match="became 0 in 8 bits"):
        report = deployment.export(net, tmp_path / "net.net", calibration=x)
    (only,) = report.layers
    assert only.weights.zeroed == 199 / 200 and only.weights.largest == 1.0
    assert only.spikes is not None and only.spikes_before is not None and only.spikes < 0.3 * only.spikes_before
    row = next(line for line in str(report).splitlines() if "99.5%" in line)
    assert row.split() == [
        "only", "99.5%", f"{only.weights.mean:.1%}", "100.0%", f"{only.spikes_before:,.1f}", f"{only.spikes:,.1f}",
    ]  # fmt: skip


def test_without_calibration_data_nothing_is_claimed(tmp_path: Path) -> None:
    report = deployment.export(small(None), tmp_path / "net.net")
    assert report.dt is None and report.spikes is None and report.accuracy == {}
    assert {at.headroom for at in report.layers} == {at.peak for at in report.layers} == {None}
    assert "no calibration data" in str(report) and "ms" not in str(report)


def test_the_last_layer_may_spike(tmp_path: Path) -> None:
    """Then the class with the most spikes is decided for: line 0 spikes more often here than line 1."""
    params = HetSynParams([[2.0, 0.0], [0.0, 2.0]], 0.0, reset_decay=0.0)
    x = np.zeros((6, 2, 2))
    x[::2, 0, 0] = x[5, 0, 1] = 1
    x[5, 1, 1] = 1
    net = Network((HetSynLayer("only", params),))
    report = deployment.export(net, tmp_path / "net.net", calibration=x, labels=[0, 1])
    assert report.accuracy == {"float": 1.0, "quantised": 1.0}
    report = deployment.export(net, tmp_path / "net.net", calibration=x, labels=[1, 1])
    assert report.accuracy == {"float": 0.5, "quantised": 0.5}


def test_the_written_report(tmp_path: Path) -> None:
    x, labels = samples()
    report = deployment.export(small(), tmp_path / "net.net", clusters=4, calibration=x, labels=labels)
    text = str(report)
    lines = text.splitlines()
    assert lines[0] == f"{tmp_path / 'net.net'}: 2 layers, cluster form"
    assert lines[1].split("  ")[0] == "layer" and len({len(line) for line in lines[1:4]}) == 1
    assert [line.split()[:4] for line in lines[2:4]] == [["hidden", "2", "6", "4"], ["out", "2", "4", "3"]]
    for said in (
        "12 bits hold 0.12 to 4095 steps (0.12 to 4095 ms)",
        "5 decays of exactly 0 or 1, outside Loihi's own field",
        "clustering moved v by",
        "on 8 samples of 6 steps: 3.0 spikes in",
        "accuracy: float 87.5%, clustered 87.5%, quantised 87.5%",
        "c microcode",
    ):
        assert said in text
    assert "clipped" not in text and "OVERFLOW" not in text


# ---- clusters, forms, units --------------------------------------------------------------------------------------


def drawn(n: int = 6, m: int = 5) -> Network:
    draw = np.random.default_rng(0)
    hidden = HetSynParams(
        draw.normal(0, 0.5, (n, m)),
        draw.uniform(0.1, 0.95, (n, m)),
        recurrent_weight=draw.normal(0, 0.2, (n, n)),
        recurrent_decay=draw.uniform(0.1, 0.95, (n, n)),
        reset_decay=0.8,
    )
    readout = HetSynParams.readout(draw.normal(0, 1, (3, n)), draw.uniform(0.1, 0.95, (3, n)))
    return Network((HetSynLayer("hidden", hidden, dt=1e-3), HetSynLayer("out", readout, dt=1e-3)))


def poisson(m: int = 5) -> Any:
    return np.float64(np.random.default_rng(1).random((40, 30, m)) < 0.3)


def test_clusters_share_decays_and_are_reported(tmp_path: Path) -> None:
    report = deployment.export(drawn(), tmp_path / "net.net", clusters=3, calibration=poisson(), labels=np.zeros(30))
    written = chip_file.read(tmp_path / "net.net")
    for at, layer in zip(report.layers, written.layers, strict=True):
        assert at.clusters == len(layer.params.codebook) == 3
        assert at.clustering is not None and at.clustering.error > 0
    assert set(report.accuracy) == {"float", "clustered", "quantised"}
    before = quantise(drawn())[0]
    for was, now in zip(before.layers, written.layers, strict=True):
        assert np.array_equal(was.params.weight, now.params.weight)


def test_clustering_is_measured_on_the_first_64_samples(tmp_path: Path) -> None:
    x = np.float64(np.random.default_rng(1).random((40, 70, 5)) < 0.3)
    report = deployment.export(drawn(), tmp_path / "net.net", clusters=3, calibration=x)
    _, reports = cluster_network(drawn(), 3, inputs=x[:, :64])
    for at in report.layers:
        assert at.clustering is not None and at.clustering.error == reports[at.name].error
        assert at.clustering.spikes == reports[at.name].spikes


def test_a_tolerance_chooses_the_clusters(tmp_path: Path) -> None:
    rough, fine = (deployment.export(drawn(), tmp_path / "net.net", tolerance=x) for x in (0.3, 0.03))
    for a, b in zip(rough.layers, fine.layers, strict=True):
        assert a.clusters < b.clusters and b.clustering is not None and b.clustering.error <= 0.03


def test_what_is_written_is_what_quantise_makes(tmp_path: Path) -> None:
    for form in ("cluster", "synapse"):
        deployment.export(drawn(), tmp_path / "net.net", form=form)
        want, got = quantise(drawn(), form=form)[0], chip_file.read(tmp_path / "net.net")
        for name, run in want.run(poisson()).items():
            assert np.array_equal(run.v, got.run(poisson())[name].v)
        assert got.layers[0].params.form == form
    assert chip_file.read_dt(tmp_path / "net.net") == 1e-3


def test_units_are_kept_and_unknown_names_refused(tmp_path: Path) -> None:
    deployment.export(drawn(), tmp_path / "net.net", units={"out": 1 / 32})
    hidden, out = chip_file.read(tmp_path / "net.net").layers
    assert out.params.unit == 1 / 32 and hidden.params.unit != 1 / 32
    with pytest.raises(ValueError, match=r"units: expected names of layers \(hidden, out\), got last"):
        deployment.export(drawn(), tmp_path / "net.net", units={"last": 1.0})


# ---- where networks come from ------------------------------------------------------------------------------------


def assert_same_file(path: Path, want: FixedNetwork, x: Any) -> None:
    got = chip_file.read(path).run(x)
    assert len(got) == len(want.layers)
    for a, b in zip(want.run(x).values(), got.values(), strict=True):
        assert np.array_equal(a.v, b.v)


@pytest.mark.parametrize("framework", ["checkpoint", "snntorch", "norse"])
def test_every_source_gives_the_same_file(framework: str, tmp_path: Path) -> None:
    net: Any = tmp_path / "net.safetensors"
    if framework == "checkpoint":
        checkpoint.save(drawn(), net)
    elif not INSTALLED[framework]:
        pytest.skip(f"{framework} is not installed")
    else:
        net = hetsyn_plugins.convert(drawn(), to=framework)
    deployment.export(net, tmp_path / "net.net")
    assert_same_file(tmp_path / "net.net", quantise(drawn())[0], poisson())


class Block:
    """What export asks of a slayer block."""

    def __init__(self, layer: FixedLayer) -> None:
        self.layer = layer

    def to_fixed(self, name: str) -> FixedLayer:
        return FixedLayer(name, self.layer.params, self.layer.always_on, self.layer.delay)

    def to_params(self, hook: bool = True) -> HetSynParams:
        return self.layer.params.to_params()


class Input:
    """Slayer's block of that name, which passes spikes on."""

    neuron = None


def blocks() -> list[Any]:
    hidden, out = quantise(drawn())[0].layers
    hidden = FixedLayer("hidden", hidden.params.replace(unit=1 / 64, weight_exp=1, threshold=64), delay=np.arange(6))
    return [Input(), Block(hidden), Block(out)]


def test_blocks_are_written_as_they_are(tmp_path: Path) -> None:
    """Delays and units too; a module with blocks as well as a list."""
    net_of_blocks = blocks()
    want = FixedNetwork((net_of_blocks[1].to_fixed("1"), net_of_blocks[2].to_fixed("2")))
    for net in (net_of_blocks, SimpleNamespace(blocks=net_of_blocks)):
        report = deployment.export(net, tmp_path / "net.net", calibration=poisson(), labels=np.zeros(30))
        assert_same_file(tmp_path / "net.net", want, poisson())
        back = chip_file.read(tmp_path / "net.net")
        assert back.layers[0].params.unit == 1 / 64 and back.layers[0].delay.tolist() == [0, 1, 2, 3, 4, 5]
        rounding = report.layers[0].rounding
        assert rounding is not None and rounding.clipped_weights == rounding.clipped_taus == 0
        assert set(report.accuracy) == {"float", "quantised"}


def test_blocks_that_are_clustered_keep_weights_delays_and_units(tmp_path: Path) -> None:
    report = deployment.export(blocks(), tmp_path / "net.net", clusters=4)
    for was, now in zip(blocks()[1:], chip_file.read(tmp_path / "net.net").layers, strict=True):
        a, b = was.layer.params, now.params
        assert len(b.codebook) == 4 and b.unit == a.unit
        assert np.array_equal(a.weight << a.weight_exp, b.weight << b.weight_exp)
        assert np.array_equal(a.threshold, b.threshold) and np.array_equal(was.layer.delay, now.delay)
    assert report.layers[0].clusters == 4


def test_blocks_that_compute_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"net: expected HetSyn blocks .*, got Conv as 1"):
        deployment.export([Block(blocks()[1].layer), type("Conv", (), {})()], tmp_path / "net.net")


@pytest.mark.skipif(not INSTALLED["lava"], reason="lava is not installed")
def test_slayers_own_blocks(tmp_path: Path) -> None:
    slayer = pytest.importorskip("hetsyn_plugins.adapters.lava_dl.slayer")
    neuron = {"threshold": 1.0, "reset_decay": 0.5}
    net = torch.nn.Sequential(slayer.Dense(neuron, 5, 4, delay_shift=False), slayer.Affine(neuron, 4, 3))
    deployment.export(net, tmp_path / "net.net")
    want = FixedNetwork((net[0].to_fixed("0"), net[1].to_fixed("1")))
    assert_same_file(tmp_path / "net.net", want, poisson())


# ---- what is refused, and what an option lets through ------------------------------------------------------------


def slow() -> Network:
    """Two taus that 12 bits cannot hold."""
    params = HetSynParams([[1.0, 1.0, 1.0]], [[1 - 1e-5, 1 - 1e-6, 0.5]], reset_decay=0.5)
    return Network((HetSynLayer("slow", params),))


def test_taus_beyond_12_bits_are_refused_or_clipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "net.net"
    with pytest.raises(ValueError, match=r"layer 'slow': params: .* got 2 decays whose tau does not fit 12 bits"):
        deployment.export(slow(), path)
    assert not path.exists()
    (only,) = deployment.export(slow(), path, clip=True).layers
    assert (only.beyond, only.ends, only.rounding.clipped_taus if only.rounding else None) == (2, 2, 2)
    assert chip_file.read(path).layers[0].params.decay.tolist() == [[0, 0, 2048]]
    text = str(deployment.export(slow(), path, clip=True))
    assert "2 taus clipped to 12 bits" in text and "2 trained taus beyond 12 bits" in text


def test_weights_beyond_8_bits_are_refused_or_clipped_and_counted(tmp_path: Path) -> None:
    path, units = tmp_path / "net.net", {"slow": 1 / 2**15}
    net = Network((HetSynLayer("slow", slow().layers[0].params.replace(decay=0.5)),))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"layer 'slow': params: .* got 3 weights that do not fit 8 bits"):
        deployment.export(net, path, units=units)
    assert not path.exists()
    report = deployment.export(net, path, units=units, clip=True)
    assert "3 weights clipped to 8 bits" in str(report)
    assert chip_file.read(path).layers[0].params.weight.tolist() == [[127, 127, 127]]


def test_overflow_is_refused_or_counted(tmp_path: Path) -> None:
    params = HetSynParams.readout([[1.0]], 1.0)
    net, path = Network((HetSynLayer("sum", params),)), tmp_path / "net.net"
    x = np.full((8, 1, 1), 300)  # 127 weight units << 6, 300 times a step: 2^23 is left at the fourth
    with pytest.raises(
        FixedPointOverflow, match="layer 'sum': the synaptic current of neuron 0 left 24 bits at step 3"
    ):
        deployment.export(net, path, calibration=x)
    assert not path.exists()
    report = deployment.export(net, path, calibration=x, allow_overflow=True)
    run = chip_file.read(path).run(x, allow_overflow=True)["sum"]
    assert report.layers[0].overflows == run.overflows > 0 and report.layers[0].headroom is not None
    assert report.layers[0].headroom < 0 and f"{run.overflows} OVERFLOWS, peak {run.peak:,}" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [0]}, "labels: expected together with calibration"),
        ({"calibration": np.zeros((3, 4))}, r"calibration: expected shape \(T, B, M\), none of them 0, got \(3, 4\)"),
        ({"calibration": np.zeros((0, 4, 2))}, r"calibration: expected shape"),
        (
            {"calibration": np.zeros((3, 4, 2)), "labels": [0]},
            r"labels: expected shape \(4,\), one a sample, got \(1,\)$",
        ),
        (
            {"calibration": np.zeros((3, 4, 2)), "labels": [0, 1, 0]},
            r"labels: .* got \(3,\); 3 is T: time and batch look swapped, .* batch_first=True",
        ),
        ({"calibration": np.full((3, 4, 2), 0.5)}, "expected whole numbers"),
        ({"calibration": np.zeros((3, 4, 9))}, r"expected shape \(T, B, 3\)"),
        ({"clusters": 3, "tolerance": 0.1}, "clusters: expected either clusters or tolerance, got clusters=3"),
        ({"form": "sparse"}, "form: expected one of cluster, synapse, got 'sparse'"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deployment.export(small(), tmp_path / "net.net", **options)
    assert not list(tmp_path.iterdir())


def test_what_no_chip_layer_holds_is_refused(tmp_path: Path) -> None:
    net = Network((Linear("fc", np.ones((3, 3))), *small().layers[1:]))
    with pytest.raises(ValueError, match="layer 'fc': expected HetSyn layers only, got a Linear"):
        deployment.export(net, tmp_path / "net.net")
    with pytest.raises(ValueError, match="net: expected a torch module or a Network, got dict"):
        deployment.export({"a": 1}, tmp_path / "net.net")
    with pytest.raises(FileNotFoundError, match="expected a checkpoint of hetsyn_plugins"):
        deployment.export(tmp_path / "no.safetensors", tmp_path / "net.net")
    assert not list(tmp_path.iterdir())


def test_the_always_on_line_decides(tmp_path: Path) -> None:
    """Without it nothing reaches the readouts: they would all be 0, and the first of them decided for."""
    params = HetSynParams.readout([[0.0, 0.0], [0.0, 1.0]], 0.5)
    net = Network((AlwaysOn("on"), HetSynLayer("out", params)))
    report = deployment.export(net, tmp_path / "net.net", calibration=np.zeros((4, 3, 1)), labels=[1, 1, 1])
    assert report.accuracy == {"float": 1.0, "quantised": 1.0}


# ---- bugs planted in the report ----------------------------------------------------------------------------------

STACK, REPORT, EXPORT = (
    "hetsyn_plugins.ops.stack",
    "hetsyn_plugins.deployment.report",
    "hetsyn_plugins.deployment.export",
)


LOSSES = "hetsyn_plugins.deployment.losses"


class Bug(NamedTuple):
    """In `module`, `old` becomes `new`; `check`, a test above, must then fail with a message that has `says` in it."""

    name: str
    module: str
    old: str
    new: str
    check: Callable[[Path], None]
    says: str


BY_HAND, RATES = test_report_has_the_numbers_computed_by_hand, test_rates_and_headroom_are_those_of_the_integer_core
BITS = test_what_eight_bits_did_is_told_as_it_acts
REPORT_BUGS = [
    Bug(
        "spikes before are those after",
        EXPORT,
        "_spikes_a_sample(before.get(was.name))",
        "runs[was.name].spikes.sum() / 2 + 1",
        BITS,
        "spikes before and after",
    ),
    Bug("zeros count as lost", LOSSES, "(weight != 0) & (kept == 0)", "kept == 0", BITS, "of nonzero weights"),
    Bug(
        "spikes of the batch", REPORT, "run.spikes.sum() / run.v.shape[1]", "run.spikes.sum()", RATES, "spikes a sample"
    ),
    Bug(
        "headroom of all bits",
        REPORT,
        "p.state_bits - 1 - log2",
        "p.state_bits - log2",
        RATES,
        "doublings before 24 bits are left",
    ),
    Bug(
        "decides by v where there are spikes",
        EXPORT,
        "run.spikes is None else run.spikes.sum(0)",
        "True else run.spikes.sum(0)",
        test_the_last_layer_may_spike,
        "{'quantised': 0.5} != {'quantised': 1.0}",
    ),
    Bug(
        "decides by the smallest",
        EXPORT,
        "run.v[-1].argmax(1)",
        "run.v[-1].argmin(1)",
        BY_HAND,
        "{'quantised': 0.125} != {'quantised': 0.875}",
    ),
    Bug(
        "taus with the ends",
        REPORT,
        "decays[(decays > 0) & (decays < 1)]",
        "np.clip(decays, 1e-9, 1 - 1e-9)",
        BY_HAND,
        "taus as trained",
    ),
    Bug(
        "ends of r = 1 only",
        REPORT,
        "(decay_to_word(kept_decays) % DECAY_ONE == 0)",
        "(decay_to_word(kept_decays) == 0)",
        BY_HAND,
        "At index 0 diff: 2 != 5",
    ),
    Bug(
        "inputs not counted as traffic",
        REPORT,
        "messages(fixed, x, runs)",
        "spikes / steps",
        RATES,
        "inputs are messages too",
    ),
    Bug(
        "kept taus are the trained ones",
        REPORT,
        "_tau_range(kept_decays)",
        "_tau_range(trained_decays)",
        BY_HAND,
        "taus of the integers",
    ),
    Bug(
        "always-on line forgotten",
        STACK,
        "x.new_ones(",
        "x.new_zeros(",
        test_the_always_on_line_decides,
        "{'float': 0.0} != {'float': 1.0}",
    ),
]


def plant(module: str, old: str, new: str, check: Callable[[], None]) -> None:
    """A check on the modules executed anew from their text with the bug in it."""
    fresh = changed(module, old, new, around=[STACK, LOSSES, REPORT, EXPORT])
    with in_place(fresh), pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployment, "export", fresh[EXPORT].export)
        check()


@pytest.mark.parametrize("bug", REPORT_BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_in_the_report_are_caught(bug: Bug, tmp_path: Path) -> None:
    with caught(bug.says):
        plant(bug.module, bug.old, bug.new, lambda: bug.check(tmp_path))


@pytest.mark.parametrize("check", sorted({bug.check for bug in REPORT_BUGS}, key=lambda check: check.__name__))
def test_planting_breaks_nothing_by_itself(check: Callable[[Path], None], tmp_path: Path) -> None:
    plant(EXPORT, "REPORT_SAMPLES = 64", "REPORT_SAMPLES = 64", lambda: check(tmp_path))


@pytest.mark.skipif(not INSTALLED["lava"], reason="lava is not installed")
@pytest.mark.parametrize("quantised", [False, True])
def test_what_slayers_blocks_lose_is_refused_or_reported(tmp_path: Path, quantised: bool) -> None:
    """The float network of the report is the one that was trained, not its integers once more."""
    slayer = pytest.importorskip("hetsyn_plugins.adapters.lava_dl.slayer")
    options = {"quantised": quantised, "dtype": torch.float64}
    net = torch.nn.Sequential(
        slayer.Dense({"threshold": 1.0, "reset_decay": 0.5}, 5, 4, decay=0.95, **options),
        slayer.Affine({"threshold": 1.0}, 4, 3, decay=0.9999, **options),
    )
    with torch.no_grad():
        net[0].synapse.weight[:2] = 6.5
    with pytest.raises(ValueError, match=r"layer '0': params: .* 10 weights that do not fit 8 bits"):
        deployment.export(net, tmp_path / "net.net")
    assert not (tmp_path / "net.net").exists()
    report = deployment.export(net, tmp_path / "net.net", clip=True)
    first, last = report.layers
    assert first.rounding is not None and first.rounding.clipped_weights == 10
    assert last.rounding is not None and last.rounding.clipped_taus == last.beyond == 12
    assert last.tau_wanted == pytest.approx((9999.5, 9999.5), rel=1e-4) and last.tau_kept is None
    assert "10 weights clipped to 8 bits" in str(report) and "12 taus clipped to 12 bits" in str(report)


def test_blocks_that_are_clustered_share_accumulators(tmp_path: Path) -> None:
    net = blocks()
    for block in net[1:]:
        block.layer = FixedLayer(block.layer.name, block.layer.params.replace(form="synapse", fraction=12))
    assert deployment.export(net, tmp_path / "net.net").form == "synapse"
    assert deployment.export(net, tmp_path / "net.net", clusters=4).form == "cluster"


def test_labels_are_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels: expected whole numbers, the classes, got fractions"):
        deployment.export(drawn(), tmp_path / "net.net", calibration=poisson(), labels=np.full(30, 7.3))


def test_old_names_are_offered() -> None:
    """What stood in the module `hetsyn_plugins.deployment` before it was a package (FEW and OWN under new names)."""
    names = ["DECAY_RANGE", "REPORT_SAMPLES", "LayerReport", "Report", "Source", "decisions", "export"]
    assert names == deployment.__all__
    assert callable(deployment.export) and callable(deployment.decisions)
    assert DECAY_RANGE == (1 / 4096, 4095 / 4096) and deployment.REPORT_SAMPLES == 64
