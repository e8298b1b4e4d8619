"""Networks in files: the same bits, no pickle, whole or not at all, and damage told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disks import quota
from networks import OUT, M, N, params, plain, run_hidden, spike_trains, trained
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

import hetsyn_plugins
from hetsyn_plugins import NormalTau
from hetsyn_plugins.core.network import HetSynLayer, Linear, Network
from hetsyn_plugins.core.surrogate import Arctan, Surrogate
from hetsyn_plugins.exchange import checkpoint

snn = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

from hetsyn_plugins.adapters import snntorch as snntorch_adapter  # noqa: E402  after the skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_checkpoint_returns_the_same_bits(tmp_path: Path, dtype: Any) -> None:
    network, path = plain(dtype), tmp_path / "net.safetensors"
    checkpoint.save(network, path)
    loaded = checkpoint.load(path)
    x = spike_trains().numpy()
    for name, (spikes, v) in network.run(x).items():
        np.testing.assert_array_equal(loaded.run(x)[name][1], v)
        assert spikes is None or (loaded.run(x)[name][0] == spikes).all()
    for was, now in zip(network.layers, loaded.layers, strict=True):
        assert type(was) is type(now) and was.name == now.name
        if isinstance(was, HetSynLayer):
            for option in ("dt", "share", "parametrization", "tie_reset", "detach_reset", "surrogate", "learned"):
                assert getattr(was, option) == getattr(now, option), option
            assert now.params.weight.dtype == dtype


def test_checkpoint_of_a_trained_net_loads_into_both_frameworks(tmp_path: Path) -> None:
    alpha = NormalTau(20e-3, 5e-3, dt=1e-3)
    net = nn.Sequential(
        snntorch_adapter.RHetSynLeaky(
            M, N, alpha=alpha, parametrization="tau", dt=1e-3, init_hidden=True, dtype=torch.float64
        ),
        snntorch_adapter.HetSynLeaky(N, OUT, spiking=False, dt=1e-3, init_hidden=True, dtype=torch.float64),
    )
    path = tmp_path / "net.safetensors"
    checkpoint.save(net, path)
    x = spike_trains()
    want = run_hidden(net, x)
    for framework in ("snntorch", "norse"):
        got = run_hidden(checkpoint.load(path, to=framework), x)
        assert torch.equal(got[0][0], want[0][0]) and torch.equal(got[1], want[1]), framework
    back = checkpoint.load(path, to="snntorch")
    assert torch.equal(back[0].alpha_tau, net[0].alpha_tau)


def test_checkpoint_keeps_options_that_are_not_the_defaults(tmp_path: Path) -> None:
    one_decay = np.random.default_rng(0).uniform(0.5, 0.97, N)
    shared = params(decay=one_decay, recurrent_decay=one_decay, reset_decay=one_decay)
    layer = HetSynLayer(
        "a",
        shared,
        dt=2e-3,
        share="neuron",
        parametrization="tau",
        tie_reset=True,
        detach_reset=True,
        surrogate=Arctan(np.float32(3.0)),  # type: ignore[arg-type]  # a NumPy number, as a search over values gives
        learned=frozenset({"weight"}),
        stored={"decay": np.full(N, 123.456789)},  # no rounding of the decays gives it back
    )
    linear = Linear("b", np.ones((OUT, N)), np.ones(OUT), learned=frozenset({"bias"}))
    path = tmp_path / "net.safetensors"
    checkpoint.save(Network((layer, linear)), path)
    loaded = checkpoint.load(path).layers
    for option in ("dt", "share", "parametrization", "tie_reset", "detach_reset", "surrogate", "learned"):
        assert getattr(loaded[0], option) == getattr(layer, option), option
    np.testing.assert_array_equal(loaded[0].stored["decay"], layer.stored["decay"])
    assert loaded[1].learned == {"bias"}
    back = checkpoint.load(path, to="snntorch")
    assert trained(back) == {"a.weight", "b.bias"}
    assert (back[0].alpha_tau == 123.456789).all()


def test_checkpoints_written_before_there_was_more_to_say_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    with safe_open(path, framework="numpy") as file:
        metadata, arrays = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
    entries = json.loads(metadata["architecture"])
    del entries[0]["learned"], entries[1]["autapses"]
    save_file(arrays, path, {**metadata, "architecture": json.dumps(entries)})
    loaded = checkpoint.load(path).layers
    assert loaded[0].learned == {"weight", "bias"} and loaded[1].autapses


@pytest.mark.skipif(os.name != "posix", reason="file modes and the umask are POSIX")
def test_the_umask_decides_who_may_read_a_checkpoint(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint.save(plain(), tmp_path / "net.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o640


def test_checkpoint_has_architecture_dt_and_version_and_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["hetsyn_plugins"] == hetsyn_plugins.__version__
    hidden = json.loads(metadata["architecture"])[1]
    assert hidden["dt"] == 1e-3 and hidden["name"] == "hidden"
    code = f"from hetsyn_plugins import checkpoint; print(checkpoint.load({str(path)!r}).layers[1].params)"
    guard = "import pickle; pickle.Unpickler = pickle.loads = pickle.load = None; "
    out = subprocess.run([sys.executable, "-c", guard + code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("HetSynParams(7 -> 6")


def test_a_failed_save_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    before = path.read_bytes()
    with quota(len(before) // 4), pytest.raises(OSError, match=f"File too large .*'{path}'"):
        checkpoint.save(plain(np.float32), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(FileNotFoundError, match="expected a checkpoint file"):
        checkpoint.load(path)
    checkpoint.save(plain(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="expected a whole safetensors file"):
        checkpoint.load(path)
    save_file({"x": np.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="expected a checkpoint of hetsyn_plugins"):
        checkpoint.load(path)
    with pytest.raises(ValueError, match=r"path: expected a checkpoint file, got .*, which is no file"):
        checkpoint.load(tmp_path)


def test_changed_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    with safe_open(path, framework="numpy") as file:
        metadata, arrays = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
    save_file(arrays, path, {**metadata, "format_version": "2"})
    with pytest.raises(ValueError, match="expected format 1 or earlier, got 2"):
        checkpoint.load(path)
    save_file(arrays, path, {**metadata, "format_version": "x"})
    with pytest.raises(ValueError, match="path: expected format 1 or earlier, got x"):
        checkpoint.load(path)
    save_file(arrays, path, {**metadata, "architecture": metadata["architecture"][:-5]})
    with pytest.raises(ValueError, match=r"path: expected an architecture in JSON, got .* damaged"):
        checkpoint.load(path)
    save_file(arrays, path, {k: v for k, v in metadata.items() if k != "architecture"})
    with pytest.raises(ValueError, match=r"path: expected a complete checkpoint, got .* lacks 'architecture'"):
        checkpoint.load(path)
    save_file({k: a for k, a in arrays.items() if k != "1.weight"}, path, metadata)
    with pytest.raises(ValueError, match="weight"):
        checkpoint.load(path)
    save_file({**arrays, "1.decay": arrays["1.decay"] + 1}, path, metadata)
    with pytest.raises(ValueError, match=r"decay: expected decays in \[0, 1\]"):
        checkpoint.load(path)


def test_a_foreign_surrogate_is_left_out_with_a_warning(tmp_path: Path) -> None:
    net = nn.Sequential(snntorch_adapter.HetSynLeaky(M, N, spike_grad=snn.surrogate.atan(), init_hidden=True))
    with pytest.warns(UserWarning, match="is not written to the checkpoint"):
        checkpoint.save(net, tmp_path / "net.safetensors")
    assert checkpoint.load(tmp_path / "net.safetensors").layers[0].surrogate == hetsyn_plugins.surrogate.MultiGaussian()


class OwnSurrogate(Surrogate):
    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        return 1 / (1 + d * d)


class OwnArctan(Arctan):
    """Even a subclass of ours is code that another process may not have."""


@pytest.mark.parametrize("own", [OwnSurrogate(), OwnArctan(3.0)])
def test_a_users_own_surrogate_is_left_out_with_a_warning(tmp_path: Path, own: Surrogate) -> None:
    net = nn.Sequential(snntorch_adapter.HetSynLeaky(M, N, spike_grad=own, init_hidden=True))
    with pytest.warns(UserWarning, match=f"{type(own).__name__}.* is not written to the checkpoint"):
        checkpoint.save(net, tmp_path / "net.safetensors")
    assert checkpoint.load(tmp_path / "net.safetensors").layers[0].surrogate == hetsyn_plugins.surrogate.MultiGaussian()
