"""`hetsyn convert`: from file to file to the same bits, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.cli.main import main
from hetsyn_plugins.core.convolution import Convolution
from hetsyn_plugins.core.network import HetSynConv, HetSynLayer, Network
from hetsyn_plugins.exchange import checkpoint, nir
from hetsyn_plugins.exchange.pretrained import save_pretrained


@pytest.fixture
def network() -> Network:
    rng = np.random.default_rng(0)
    params = HetSynParams(rng.normal(0, 1, (3, 4)), rng.uniform(0.3, 0.9, (3, 4)), reset_decay=0.8)
    return Network((HetSynLayer("hidden", params, dt=1e-3),))


def test_there_and_back_is_the_same_file(tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    first, middle, last = (tmp_path / name for name in ("a.safetensors", "b.nir", "c.safetensors"))
    checkpoint.save(network, first)
    assert main(["convert", str(first), str(middle)]) == 0
    assert capsys.readouterr().out == f"{middle}: nir, 1 layer, {middle.stat().st_size:,} bytes\n"
    assert main(["convert", str(middle), str(last)]) == 0
    assert first.read_bytes() == last.read_bytes()


def test_forms_folders_and_kinds_by_name(tmp_path: Path, network: Network) -> None:
    save_pretrained(network, tmp_path / "mine")
    out = tmp_path / "net.h5"
    assert main(["convert", str(tmp_path / "mine"), str(out), "--to", "nir", "--form", "li_bank"]) == 0
    expected = tmp_path / "expected.nir"
    nir.write(network, expected, form="li_bank")
    assert nir.check(out, "norse") == nir.check(expected, "norse")
    np.testing.assert_array_equal(nir.read(out).layers[0].params.decay, network.layers[0].params.decay)  # type: ignore[union-attr]  # a layer


def test_onnx_of_a_sequence(tmp_path: Path, network: Network) -> None:
    onnx = pytest.importorskip("onnx")
    checkpoint.save(network, tmp_path / "a.safetensors")
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.onnx"), "--sequence"]) == 0
    assert [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node] == ["Scan"]


def test_a_convolution_is_unrolled_for_nir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = HetSynParams(np.ones((2, 4)), np.full((2, 4), 0.5), reset_decay=0.8)
    one = (1, 1)
    conv = HetSynConv(HetSynLayer("conv", params, dt=1e-3), Convolution(1, 2, (2, 2), one, (0, 0), one, 1))
    checkpoint.save(Network((conv,)), tmp_path / "a.safetensors")
    words = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.nir")]
    assert main(words) == 2 and "hetsyn convert --unrolled C,H,W" in capsys.readouterr().err
    for shape in ("1,3", "1,3,x", "3"):
        assert main([*words, "--unrolled", shape]) == 2 and "unrolled: expected" in capsys.readouterr().err
    assert main([*words, "--unrolled", "1,3,3"]) == 0
    (layer,) = nir.read(tmp_path / "b.nir").layers
    assert layer.params.weight.shape == (8, 9) and layer.params.weight.sum() == 32  # type: ignore[union-attr]  # dense


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["a.safetensors", "b.bin"], "OUT: expected a name that ends in .safetensors, .nir, .onnx, or --to, got"),
        (["a.safetensors", "b.onnx", "--form", "loop"], "--form: expected it with --to nir, got --to onnx"),
        (["a.safetensors", "b.nir", "--sequence"], "--sequence: expected it with --to onnx, got --to nir"),
        (["a.safetensors", "b.nir", "--form", "other"], "form: expected"),
        (["none.safetensors", "b.nir"], "none.safetensors"),
    ],
)
def test_what_is_refused_leaves_nothing(
    arguments: list[str], says: str, tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(network, tmp_path / "a.safetensors")
    paths = [word if word.startswith("--") or "." not in word else str(tmp_path / word) for word in arguments]
    assert main(["convert", *paths]) == 2
    assert says in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
