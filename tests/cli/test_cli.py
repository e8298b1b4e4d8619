"""The command line: exit statuses, what is printed, and a short run of the demo."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.adapters.lava_dl import runtime
from hetsyn_plugins.cli import demo
from hetsyn_plugins.cli.main import differing, main
from hetsyn_plugins.conformance import backends, cases, comparison
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import plots
from hetsyn_plugins.experiments.data import digits


def test_verify_prints_a_line_a_check_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--backend", "eager", "--check", "hand-table", "--check", "threshold"]) == 0
    out = capsys.readouterr().out
    assert "eager          hand-table" in out and "2 of 2 passed" in out


def test_verify_fails_where_a_backend_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(case: cases.Case) -> cases.Outcome:
        right = comparison.expected(case)
        return cases.Outcome(right.spikes, right.v + 1e-3, right.state, right.gradients)

    absent = {"norse": "norse is not installed"}
    monkeypatch.setattr(backends, "available", lambda: ([comparison.Backend("wrong", wrong)], absent))
    assert main(["verify", "--check", "random"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out and "off by 1.0" in out and "absent: norse is not installed" in out


def test_unknown_names_are_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--backend", "brian2"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("hetsyn verify: --backend: expected one of reference, eager") and err.count("\n") == 1
    assert main(["demo", "--epochs", "0"]) == 2


def test_verify_says_why_a_backend_is_absent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hetsyn_plugins.conformance.backends._why_no_gpu", lambda: "no CUDA device")
    assert main(["verify", "--backend", "gpu"]) == 2
    expected = "hetsyn verify: --backend: expected one that runs here, got 'gpu': no CUDA device\n"
    assert capsys.readouterr().err == expected


def test_demo_runs_and_leaves_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it on fewer digits: 64 to test, 4 in Lava."""
    pytest.importorskip("snntorch")
    pytest.importorskip("norse")
    monkeypatch.setattr(demo, "LAVA_SAMPLES", 4)
    data = digits.load_spikes()
    few = data._replace(test_spikes=data.test_spikes[:, :64], test_labels=data.test_labels[:64])
    monkeypatch.setattr(digits, "load_spikes", lambda seed: few)
    assert main(["demo", "--out", str(tmp_path / "out"), "--epochs", "1", "--samples", "128"]) == 0
    out = capsys.readouterr().out
    assert "Norse, float64" in out and " 0 of 131,072 spikes differ from snnTorch's" in out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "raster.png",
        "neuron.png",
        "taus.png",
        "digits.safetensors",
        "digits.net",
    }
    assert len(checkpoint.load(tmp_path / "out" / "digits.safetensors").layers) == 2


def test_digits_are_coded_as_described() -> None:
    image = np.zeros((1, 8, 8))
    image[0, 3, 5], image[0, 0, 0] = 16.0, 3.0  # full: all four steps; 3 / 16 > 1/8 only: one step
    spikes = digits.encode(image)
    assert spikes.shape == (32, 1, 8)
    assert {tuple(at) for at in np.argwhere(spikes[:, 0])} == {(0, 0), (12, 5), (13, 5), (14, 5), (15, 5)}


def test_digits_are_split_without_overlap_and_by_seed() -> None:
    pytest.importorskip("sklearn")
    data, again, other = digits.load_spikes(0), digits.load_spikes(0), digits.load_spikes(1)
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert np.array_equal(data.test_spikes, again.test_spikes)
    assert not np.array_equal(data.test_labels, other.test_labels)


def test_plots_draw_the_numbers_they_are_given() -> None:
    pytest.importorskip("matplotlib")
    spikes = np.zeros((10, 3))
    spikes[4, 1] = spikes[7, 2] = 1
    assert plots.raster(spikes).collections[0].get_offsets().tolist() == [[4, 1], [7, 2]]
    v = np.linspace(0, 2, 10)
    ax = plots.membrane(v, np.float64(v > 1), 1.0)
    assert np.array_equal(ax.lines[0].get_ydata(), v) and set(ax.lines[1].get_ydata()) == {1.0}
    assert plots.traces(np.ones((5, 2)), ax) is ax
    histogram = plots.tau_histogram({"all": np.array([0.0, 0.01, 0.02, np.inf])})
    assert sum(p.get_height() for p in histogram.patches) == 2
    assert "25.0% at r = 0, 25.0% at r = 1" in histogram.get_legend().get_texts()[0].get_text()


# ---- export and simulate -----------------------------------------------------------------------------------------


def exported(folder: Path, *options: str) -> int:
    """A network of 3 lines, 4 neurons, 2 readouts; its checkpoint, data and file in the folder."""
    draw = np.random.default_rng(0)
    hidden = HetSynParams(draw.normal(0, 1, (4, 3)), draw.uniform(0.2, 0.95, (4, 3)), reset_decay=0.5)
    readout = HetSynParams.readout(draw.normal(0, 1, (2, 4)), draw.uniform(0.2, 0.95, (2, 4)))
    layers = (HetSynLayer("hidden", hidden, dt=1e-3), HetSynLayer("out", readout, dt=1e-3))
    checkpoint.save(Network(layers), folder / "net.safetensors")
    x = np.float32(draw.random((20, 10, 3)) < 0.4)
    np.savez(folder / "data.npz", inputs=x, labels=np.arange(10) % 2)
    return main(["export", str(folder / "net.safetensors"), "-o", str(folder / "net.net"), *options])


def test_export_prints_the_report_and_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(tmp_path) == 0
    assert exported(tmp_path, "--clusters", "3", "--data", str(tmp_path / "data.npz"), "--samples", "6") == 0
    out = capsys.readouterr().out
    assert "no calibration data" in out and "on 6 samples of 20 steps" in out and "accuracy: float" in out
    assert [len(layer.params.codebook) for layer in chip_file.read(tmp_path / "net.net").layers] == [3, 3]
    assert exported(tmp_path, "--form", "synapse", "--tolerance", "0.5") == 0
    assert chip_file.read(tmp_path / "net.net").layers[0].params.form == "synapse"


def test_simulate_prints_what_the_integer_core_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(tmp_path, "--clusters", "3")
    capsys.readouterr()
    assert main(["simulate", str(tmp_path / "net.net"), "--data", str(tmp_path / "data.npz")]) == 0
    out = capsys.readouterr().out
    data = np.load(tmp_path / "data.npz")
    hidden, readout = chip_file.read(tmp_path / "net.net").run(data["inputs"]).values()
    fired, right = hidden.spikes.sum(), (readout.v[-1].argmax(1) == data["labels"]).mean()
    assert fired > 10 and f"{fired} spikes, {fired / 10:.1f} a sample" in out
    assert f"accuracy       {right:.1%}" in out and "steps/s" in out and "2 layers, 10 samples of 20 steps" in out
    assert main(["simulate", str(tmp_path / "net.net"), "--data", str(tmp_path / "data.npz"), "--samples", "2"]) == 0
    assert "2 samples of 20 steps" in capsys.readouterr().out


def test_export_and_simulate_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    params = HetSynParams.readout(np.ones((10, 8)), 0.5)
    checkpoint.save(Network((HetSynLayer("out", params),)), tmp_path / "net.safetensors")
    net = str(tmp_path / "net.net")
    assert main(["export", str(tmp_path / "net.safetensors"), "--data", "digits", "-o", net]) == 0
    assert "on 449 samples of 32 steps" in capsys.readouterr().out
    assert main(["simulate", net, "--data", "digits", "--samples", "7"]) == 0
    assert "7 samples of 32 steps" in capsys.readouterr().out


def test_labels_that_fit_the_steps_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(tmp_path)
    np.savez(tmp_path / "labels.npz", inputs=np.zeros((3, 4, 3)), labels=np.zeros(3))
    assert main(["simulate", str(tmp_path / "net.net"), "--data", str(tmp_path / "labels.npz")]) == 2
    assert "got (3,); 3 is T: time and batch look swapped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"inputs": np.full((3, 4, 3), np.nan)}, "inputs: expected finite numbers, got NaN or infinity"),
        ({"inputs": np.zeros((3, 4, 3)), "labels": np.full(4, 0.5)}, "labels: expected whole numbers, got others"),
        ({"inputs": np.zeros((3, 4, 3)), "labels": np.full(4, "a")}, "labels: descr: expected numbers or truth values"),
        ({"inputs": np.full((3, 4, 3), None)}, "inputs: descr: expected numbers or truth values"),
    ],
)  # fmt: skip
def test_data_that_are_no_samples_are_told(
    arrays: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path)
    np.savez(tmp_path / "it.npz", **arrays)
    assert main(["simulate", str(tmp_path / "net.net"), "--data", str(tmp_path / "it.npz")]) == 2
    assert f"{tmp_path}/it.npz: {says}" in capsys.readouterr().err


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw[:-9] + b"x" + raw[-8:]])
def test_a_damaged_checkpoint_is_one_line(spoil: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.safetensors"
    params = HetSynParams(np.ones((2, 3)), 0.5, reset_decay=0.5)
    checkpoint.save(Network((HetSynLayer("out", params),)), net)
    net.write_bytes(spoil(net.read_bytes()))
    assert main(["export", str(net), "-o", str(tmp_path / "net.net")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"hetsyn export: {net}: ") and "expected" in err and err.count("\n") == 1, err
    assert not (tmp_path / "net.net").exists()


def test_wrong_requests_of_export_and_simulate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, status 2, and no file where there was none."""
    exported(tmp_path)
    net, data = str(tmp_path / "net.net"), str(tmp_path / "data.npz")
    np.savez(tmp_path / "flat.npz", inputs=np.zeros((3, 4)))
    np.savez(tmp_path / "labels.npz", inputs=np.zeros((3, 4, 3)), labels=np.zeros(3))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "wide.npz", inputs=np.zeros((3, 4, 9)))
    np.savez(tmp_path / "loud.npz", inputs=np.full((30, 1, 3), 10000))
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:300])
    capsys.readouterr()

    def refused(command: list[str], message: str) -> None:
        assert main(command) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"hetsyn {command[0]}: ") and message in err and err.count("\n") == 1, err

    refused(["simulate", str(tmp_path / "no.net"), "--data", data], "no.net, which does not exist")
    refused(["simulate", data, "--data", data], "data.npz: expected a network file, got one that cannot be read")
    refused(["simulate", net, "--data", str(tmp_path / "no.npz")], "--data: expected 'digits' or a .npz file")
    for name in ("text.npz", "cut.npz"):
        refused(["simulate", net, "--data", str(tmp_path / name)], f"{name}: expected a whole zip file")
    refused(["simulate", net, "--data", str(tmp_path / "single.npy")], "single.npy: expected a whole zip file")
    refused(["simulate", net, "--data", str(tmp_path / "other.npz")], "other.npz: inputs: expected inputs (T, B, M)")
    refused(["simulate", net, "--data", str(tmp_path / "flat.npz")], "got shape (3, 4)")
    refused(["simulate", net, "--data", str(tmp_path / "labels.npz")], "labels of shape (4,)")
    refused(["simulate", net, "--data", str(tmp_path / "wide.npz")], "inputs: expected shape (T, B, 3)")
    refused(["simulate", net, "--data", data, "--samples", "0"], "--samples: expected at least 1, got 0")
    refused(["simulate", net, "--data", str(tmp_path / "loud.npz")], "left 24 bits at step")
    missing = str(tmp_path / "new.net")
    checkpoint_path = str(tmp_path / "net.safetensors")
    refused(["export", str(tmp_path / "no.safetensors"), "-o", missing], "no.safetensors, which does not exist")
    refused(
        ["export", checkpoint_path, "-o", missing, "--clusters", "0"],
        "clusters: expected a whole number of decays, at least 1",
    )
    refused(["export", checkpoint_path, "-o", missing, "--data", str(tmp_path / "loud.npz")], "left 24 bits at step")
    refused(["export", checkpoint_path, "-o", str(tmp_path / "no" / "net.net")], "whose folder does not exist")
    assert not Path(missing).exists()
    loud = ["--data", str(tmp_path / "loud.npz"), "--allow-overflow"]
    assert main(["simulate", net, *loud]) == 0 and " overflows" in capsys.readouterr().out
    assert main(["export", checkpoint_path, "-o", missing, *loud]) == 0 and "OVERFLOWS" in capsys.readouterr().out


def test_export_clips_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = HetSynParams.readout([[1.0, 1.0]], [[1 - 1e-6, 0.5]])
    checkpoint.save(Network((HetSynLayer("slow", params),)), tmp_path / "net.safetensors")
    command = ["export", str(tmp_path / "net.safetensors"), "-o", str(tmp_path / "net.net")]
    assert main(command) == 2 and "1 decays whose tau does not fit 12 bits" in capsys.readouterr().err
    assert main([*command, "--clip"]) == 0 and "1 taus clipped to 12 bits" in capsys.readouterr().out


class FakeLava:
    """What `simulate --lava` asks of the runtime; the answers are given."""

    class LavaError(RuntimeError):
        pass

    def __init__(self, answer: Any) -> None:
        self.answer, self.require_lava, self.checked_timeout = answer, lambda: None, runtime.checked_timeout

    def run_file(self, path: Path, inputs: Any, *, timeout: float, allow_overflow: bool) -> Any:
        assert (timeout, allow_overflow) == (7.0, False)
        if isinstance(self.answer, Exception):
            raise self.answer
        runs = chip_file.read(path).run(inputs)
        return self.answer({name: (run.v if run.spikes is None else run.spikes).copy() for name, run in runs.items()})


def flipped(outputs: dict[str, Any]) -> dict[str, Any]:
    outputs["hidden"][3, 2, 1] ^= 1
    return outputs


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (lambda outputs: outputs, 0, "0 of 1,200 bins differ"),
        (flipped, 1, "FAILED         hidden: 1 of 800"),
        (lambda outputs: {"hidden": outputs["hidden"]}, 1, "FAILED         out: 400 of 400"),
        (FakeLava.LavaError("a worker died"), 1, "FAILED: a worker died"),
    ],
)
def test_simulate_compares_lava_bin_by_bin(
    answer: Any, status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """In the place of Lava's runtime stands one whose answers are right, wrong in a bin, incomplete, or an error."""
    import hetsyn_plugins.adapters.lava_dl as package

    monkeypatch.setattr(package, "runtime", fake := FakeLava(answer), raising=False)
    monkeypatch.setitem(sys.modules, "hetsyn_plugins.adapters.lava_dl.runtime", fake)
    exported(tmp_path)
    data = ["--data", str(tmp_path / "data.npz"), "--timeout", "7"]
    assert main(["simulate", str(tmp_path / "net.net"), *data, "--lava"]) == status
    assert said in capsys.readouterr().out


def test_simulate_in_lava_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(tmp_path, "--clusters", "3")
    command = ["simulate", str(tmp_path / "net.net"), "--data", str(tmp_path / "data.npz"), "--samples", "3", "--lava"]
    installed = importlib.util.find_spec("lava") is not None and sys.version_info < (3, 11)
    assert main(command) == (0 if installed else 2)
    said = capsys.readouterr()
    assert "0 of 360 bins differ" in said.out if installed else "hetsyn_plugins[lava]" in said.err


def test_differing_counts_bins() -> None:
    expected = np.zeros((2, 3, 4), np.int64)
    other = expected.copy()
    other[1, 2, 3] = other[0, 0, 0] = 1
    assert (differing(expected, expected), differing(other, expected)) == (0, 2)
    assert differing(None, expected) == differing(expected[:1], expected) == 24
