"""ONNX models of a step and of a sequence, run by onnxruntime, against the float64 reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import planted

import hetsyn_plugins
from hetsyn_plugins import HetSynParams
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.exchange import onnx as module

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

T, B, M, N, OUT = 200, 3, 7, 6, 4


def network(dtype: Any = np.float64) -> Network:
    """An always-on line and a Linear in front; everything that a layer has; a readout."""
    rng = np.random.default_rng(0)
    hidden = HetSynParams(
        rng.normal(0.1, 0.8, (N, N)),
        rng.uniform(0.3, 0.97, (N, N)),
        recurrent_weight=rng.normal(0, 0.3, (N, N)),
        recurrent_decay=rng.uniform(0.3, 0.97, (N, N)),
        reset_decay=rng.uniform(0.5, 0.9, N),
        threshold=rng.uniform(0.5, 1.5, N),
        adaptation_decay=0.9,
        adaptation_strength=0.05,
        bias=rng.normal(0, 0.1, N),
    )
    plain = HetSynParams(rng.normal(0.1, 0.8, (N, N)), 0.9, reset_decay=None)
    readout = HetSynParams.readout(rng.normal(0, 1, (OUT, N)), rng.uniform(0.3, 0.97, OUT))
    layers = [HetSynLayer(name, params.astype(dtype)) for name, params in
              (("hidden", hidden), ("plain", plain), ("out", readout))]  # fmt: skip
    linear = Linear("fc", rng.normal(0, 1, (N, M + 1)).astype(dtype), rng.normal(0, 0.1, N).astype(dtype))
    return Network((AlwaysOn("on"), linear, layers[0], Dropout("drop", 0.5), *layers[1:]))


def inputs(dtype: Any = np.float64) -> Any:
    return (np.random.default_rng(1).random((T, B, M)) < 0.4).astype(dtype)


def session(path: Path) -> Any:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def zeros(run: Any, dtype: Any = np.float64) -> dict[str, Any]:
    """The states of a fresh start, as the model itself names them."""
    return {at.name: np.zeros([B, *at.shape[1:]], dtype) for at in run.get_inputs() if at.name != "inputs"}


def by_steps(path: Path, x: Any) -> dict[str, Any]:
    run = session(path)
    names, states = [at.name for at in run.get_outputs()], zeros(run, x.dtype)
    record: dict[str, list[Any]] = {name: [] for name in names}
    for step in x:
        made = dict(zip(names, run.run(None, {"inputs": step, **states}), strict=True))
        states = {name: made[f"next.{name}"] for name in states}
        for name, value in made.items():
            record[name].append(value)
    return {name: np.array(values) for name, values in record.items()}


def check_steps(onnx_file: Any, folder: Path) -> None:
    net, x = network(), inputs()
    onnx_file.write(net, folder / "step.onnx")
    made, want = by_steps(folder / "step.onnx", x), net.run(x)
    for name in ("hidden", "plain"):
        spikes = want[name][0]
        assert spikes is not None and 0.05 < spikes.mean() < 0.95
        np.testing.assert_array_equal(made[f"next.{name}.spikes"], spikes, err_msg="spikes")
    np.testing.assert_allclose(made["v"], want["out"][1], rtol=1e-12, atol=1e-12, err_msg="v")
    assert "spikes" not in made


def test_steps_are_those_of_the_reference(tmp_path: Path) -> None:
    check_steps(module, tmp_path)


def test_a_sequence_is_its_steps_and_goes_on_from_its_states(tmp_path: Path) -> None:
    net, x = network(), inputs()
    for name, sequence in (("step", False), ("sequence", True)):
        module.write(net, tmp_path / f"{name}.onnx", sequence=sequence)
    run = session(tmp_path / "sequence.onnx")
    names, steps = [at.name for at in run.get_outputs()], by_steps(tmp_path / "step.onnx", x)
    whole = dict(zip(names, run.run(None, {"inputs": x, **zeros(run)}), strict=True))
    np.testing.assert_array_equal(whole["v"], steps["v"])
    np.testing.assert_array_equal(whole["next.hidden.current"], steps["next.hidden.current"][-1])
    first = dict(zip(names, run.run(None, {"inputs": x[:90], **zeros(run)}), strict=True))
    states = {name.removeprefix("next."): value for name, value in first.items() if name.startswith("next.")}
    rest = dict(zip(names, run.run(None, {"inputs": x[90:], **states}), strict=True))
    np.testing.assert_array_equal(np.concatenate([first["v"], rest["v"]]), whole["v"])


def test_a_net_of_a_host_in_float32_gives_its_spikes(tmp_path: Path) -> None:
    """Drawn so that no v comes near a threshold: rounding is at most 7 lines and 20 steps of it."""
    torch = pytest.importorskip("torch")
    adapter = pytest.importorskip("hetsyn_plugins.adapters.snntorch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(adapter.HetSynLeaky(M, N, input_rate=0.4, init_hidden=True))
    x = inputs(np.float32)[:20]
    hetsyn_plugins.onnx.write(net, tmp_path / "net.onnx", sequence=True)
    run = session(tmp_path / "net.onnx")
    names = [at.name for at in run.get_outputs()]
    made = dict(zip(names, run.run(None, {"inputs": x, **zeros(run, np.float32)}), strict=True))
    exact = hetsyn_plugins.convert(net, to="reference").run(x)["0"]
    assert np.abs(exact[1] - 1.0).min() > 140 * 2.0**-23 * np.abs(exact[1]).max(), "no v near the threshold"
    with torch.no_grad():
        spikes = net(torch.from_numpy(x)).numpy()
    assert spikes.mean() > 0.02
    np.testing.assert_array_equal(made["spikes"], spikes)


def test_what_is_said_of_the_model(tmp_path: Path) -> None:
    module.write(network(), tmp_path / "net.onnx")
    made = onnx.load(tmp_path / "net.onnx")
    assert made.opset_import[0].version == 17 and made.producer_name == "hetsyn_plugins"
    shapes = {at.name: [d.dim_param or d.dim_value for d in at.type.tensor_type.shape.dim] for at in made.graph.input}
    assert shapes["inputs"] == ["B", M] and shapes["hidden.recurrent_current"] == ["B", N, N]
    with pytest.raises(ValueError, match="net: expected at least one HetSyn layer, got none"):
        module.write(Network((Linear("fc", np.ones((2, 2))),)), tmp_path / "other.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"hetsyn_plugins\[onnx\]"):
        module.write(network(), tmp_path / "net.onnx")


BUGS = {
    "the reset comes a step later": ('"reset", p.reset_decay, p.threshold', '"reset", p.reset_decay, 0 * p.threshold'),
    "the threshold of another": ("v, self._number(p.threshold)", "v, self._number(p.threshold[::-1])"),
    "decay of the weight": ('self._number(decay), state', 'self._number(decay**2), state'),
    "no bias": ("if p.bias is not None:", "if False:"),
    "recurrent synapses see the inputs": ("p.recurrent_weight, fired)", "p.recurrent_weight, x)"),
    "the line is always off": ("self._number(0.0)), self._number(1.0)", "self._number(0.0)), self._number(0.0)"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_caught(bug: str, tmp_path: Path) -> None:
    with planted(module.__name__, *BUGS[bug]) as bad, pytest.raises(AssertionError, match=r"spikes|v"):
        check_steps(bad, tmp_path)
