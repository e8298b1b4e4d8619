"""Networks in files: the same bits, no pickle, whole or not at all, and damage told."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disks import quota
from forging import checkpoint_of_before, forge
from networks import OUT, M, N, params, plain, run_hidden, spike_trains, trained
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

import hetsyn_plugins
from hetsyn_plugins import HetSynParams, NormalTau
from hetsyn_plugins.core.file_format import FileFormatError, UncheckedFileWarning
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.core.surrogate import Arctan, Surrogate, Triangular
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

    def first(metadata: Any, arrays: Any) -> None:
        entries = metadata["architecture"]
        del entries[0]["learned"], entries[1]["autapses"], entries[1]["batch_first"]

    checkpoint.save(plain(), path)
    checkpoint_of_before(path, first)
    with pytest.warns(UncheckedFileWarning, match="net.safetensors.*before files carried a digest"):
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
        (entry,) = file.metadata().values()
    content = json.loads(entry)
    assert content["version"] == hetsyn_plugins.__version__
    hidden = content["architecture"][1]
    assert hidden["dt"] == 1e-3 and hidden["name"] == "hidden"
    code = f"from hetsyn_plugins import checkpoint; print(checkpoint.load({str(path)!r}).layers[1].params)"
    guard = "import pickle; pickle.Unpickler = pickle.loads = pickle.load = None; "
    out = subprocess.run([sys.executable, "-c", guard + code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("HetSynParams(7 -> 6")


def test_the_same_network_is_the_same_file_in_every_process(tmp_path: Path) -> None:
    """Sets of strings have another order in each."""
    code = (
        "import pathlib, sys; sys.path.append(sys.argv[2]); from networks import plain; "
        "from hetsyn_plugins import checkpoint; checkpoint.save(plain(), pathlib.Path(sys.argv[1]))"
    )
    for seed in range(2):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, "-c", code, str(tmp_path / f"{seed}"), str(Path(__file__).parents[1] / "support")]
        subprocess.run(command, check=True, env=environment)
    checkpoint.save(checkpoint.load(tmp_path / "0"), tmp_path / "again")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


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
    with pytest.raises(FileNotFoundError, match="expected a checkpoint of hetsyn_plugins"):
        checkpoint.load(path)
    checkpoint.save(plain(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match="expected a whole safetensors file"):
        checkpoint.load(path)
    save_file({"x": np.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(FileFormatError, match="expected a checkpoint of hetsyn_plugins"):
        checkpoint.load(path)
    with pytest.raises(FileFormatError, match=r"expected a checkpoint of hetsyn_plugins, got what is no file"):
        checkpoint.load(tmp_path)


# ---- files that lie ------------------------------------------------------------------------------------------------


def layered() -> Network:
    """Every kind of layer, taus that are stored and biases."""
    rng = np.random.default_rng(3)
    tau = np.exp(rng.normal(3, 0.3, (N, M)))
    recurrent_tau = np.exp(rng.normal(3, 0.3, (N, N)))
    hidden = params(decay=np.exp(-1 / tau), recurrent_decay=np.exp(-1 / recurrent_tau))
    stored = {"decay": tau, "recurrent_decay": recurrent_tau}
    return Network(
        (
            Linear("mix", rng.normal(0, 0.5, (M - 1, M - 1)), rng.normal(0, 0.2, M - 1)),
            AlwaysOn("on"),
            HetSynLayer("hidden", hidden, dt=1.0, parametrization="tau", surrogate=Triangular(0.5), stored=stored),
            Dropout("drop", 0.25),
            HetSynLayer("out", HetSynParams.readout(rng.normal(0, 0.5, (OUT, N)), 0.9), dt=1.0),
        )
    )


def in_layer(index: int, **changes: Any) -> Any:
    return lambda content, arrays: content["architecture"][index].update(changes)


def in_arrays(**changes: Any) -> Any:
    """Arrays by name ("__" for the point), put in the place of others; None: taken out."""

    def change(content: Any, arrays: Any) -> None:
        for name, value in changes.items():
            name = name.replace("__", ".")[1:]
            arrays.pop(name, None)
            if value is not None:
                arrays[name] = value

    return change


def spoilt(index: str, value: float) -> Any:
    def change(content: Any, arrays: Any) -> None:
        arrays[index].flat[1] = value

    return change


def without(index: int, name: str) -> Any:
    return lambda content, arrays: content["architecture"][index].pop(name)


LIES = [
    (spoilt("0.weight", math.nan), "layer 0: weight: expected finite values"),
    (spoilt("0.weight", math.inf), "layer 0: weight: expected finite values"),
    (spoilt("0.bias", -math.inf), "layer 0: bias: expected finite values"),
    (spoilt("2.weight", math.nan), "layer 2: weight: expected finite values"),
    (spoilt("2.decay", 1.0000001), r"layer 2: decay: expected decays in \[0, 1\]"),
    (spoilt("2.threshold", 0.0), "layer 2: threshold: expected finite values > 0"),
    (spoilt("2.stored.decay", math.nan), "layer 2: stored decay: expected finite values"),
    (spoilt("2.stored.decay", math.inf), "layer 2: stored decay: expected finite values"),
    (spoilt("2.stored.recurrent_decay", -math.inf), "layer 2: stored recurrent_decay: expected finite values"),
    (in_arrays(_2__stored__decay=np.ones(N)), "layer 2: stored decay: expected shape"),
    (in_arrays(_2__stored__decay=np.ones((N, M), np.float32)), "layer 2: stored decay: expected the weight's dtype"),
    (in_arrays(_2__stored__weight=np.ones((N, M))), "2.stored.weight: expected an array of a layer, got one that no"),
    (in_arrays(_4__stored__decay=np.ones((OUT, N))), "layer 4: stored: expected decays that are trained"),
    (in_arrays(_2__other=np.ones(2)), "2.other: expected an array of a layer"),
    (in_arrays(_7__weight=np.ones((2, 2))), "7.weight: expected an array of a layer"),
    (in_arrays(_02__weight=np.ones((2, 2))), "02.weight: expected an array of a layer"),
    (in_arrays(_=np.ones(2)), r"\.: expected an array of a layer"),
    (in_arrays(_1__weight=np.ones((2, 2))), "1.weight: expected an array of a layer"),
    (in_arrays(_2__weight=None), "layer 2: weight: expected float32 or float64 numbers, got None"),
    (in_arrays(_0__weight=None), "layer 0: weight: expected float32 or float64 numbers, got None"),
    (in_arrays(_2__decay=None), "layer 2: decay: expected a number, an array"),
    (in_arrays(_2__recurrent_decay=None), "layer 2: recurrent_decay: expected together with recurrent_weight"),
    (in_arrays(_0__weight=np.ones((6, 6), np.float32)), "layer 0: bias: expected the weight's dtype"),
    (in_arrays(_0__weight=np.ones((6, 6), int)), "layer 0: weight: expected float32 or float64 numbers, got int64"),
    (in_arrays(_0__bias=np.ones(5)), r"layer 0: bias: expected shape \(6,\)"),
    (in_arrays(_0__weight=np.ones((6, 0))), r"layer 0: weight: expected shape \(N, M\)"),
    (in_arrays(_0__weight=np.ones((6, 5))), ""),  # what comes before the first layer is not known
    (in_arrays(_0__weight=np.ones((5, 6)), _0__bias=np.ones(5)), "layer 'hidden': expected 6 lines in"),
    (in_layer(0, name=3), "layer 0: name: expected a printable text, got 3"),
    (in_layer(0, name=""), "layer 0: name: expected a printable text"),
    (in_layer(0, name="a\n"), "layer 0: name: expected a printable text"),
    (in_layer(0, name="\ud800"), "layer 0: name: expected a printable text"),
    (in_layer(0, name=None), "layer 0: name: expected a printable text"),
    (in_layer(0, name="out"), "layers: expected different names"),
    (in_layer(0, learned=["weights"]), "layer 0: learned: expected"),
    (in_layer(0, learned="weight"), "layer 0: learned: expected a list of names"),
    (in_layer(0, learned=None), "layer 0: learned: expected a list of names"),
    (in_layer(0, learned=[["weight"]]), "layer 0: learned: expected a list of names"),
    (in_layer(2, learned=["weight", "stored"]), "layer 2: learned: expected"),
    (in_layer(2, learned={}), "layer 2: learned: expected a list of names"),
    (in_layer(3, p=True), r"layer 3: p: expected a probability in \[0, 1\], got True"),
    (in_layer(3, p="x"), "layer 3: p: expected a probability"),
    (in_layer(3, p="0.5"), "layer 3: p: expected a probability"),
    (in_layer(3, p=1.5), "layer 3: p: expected a probability"),
    (in_layer(3, p=math.nan), "layer 3: p: expected a probability"),
    (in_layer(3, p=None), "layer 3: p: expected a probability"),
    (in_layer(3, p=[0.5]), "layer 3: p: expected a probability"),
    (in_layer(3, p=10**400), "layer 3: p: expected a probability"),
    (in_layer(2, dt=math.nan), "layer 2: dt: expected a step length in seconds"),
    (in_layer(2, dt=-1e-3), "layer 2: dt: expected a step length"),
    (in_layer(2, dt=0), "layer 2: dt: expected a step length"),
    (in_layer(2, dt="0.001"), "layer 2: dt: expected a step length"),
    (in_layer(2, dt=True), "layer 2: dt: expected a step length"),
    (in_layer(2, dt=math.inf), "layer 2: dt: expected a step length"),
    (in_layer(2, dt=[1]), "layer 2: dt: expected a step length"),
    (in_layer(2, share="all"), "layer 2: share: expected one of synapse, neuron, layer, codebook, got 'all'"),
    (in_layer(2, share=["synapse"]), "layer 2: share: expected one of"),
    (in_layer(2, parametrization="r"), "layer 2: parametrization: expected one of"),
    (in_layer(2, parametrization={}), "layer 2: parametrization: expected one of"),
    (in_layer(2, parametrization="decay"), "layer 2: stored: expected decays that are trained"),
    (in_layer(2, tie_reset=1), "layer 2: tie_reset: expected True or False, got 1"),
    (in_layer(2, detach_reset="no"), "layer 2: detach_reset: expected True or False"),
    (in_layer(2, autapses=None), "layer 2: autapses: expected True or False"),
    (in_layer(2, autapses=False), "layer 2: layer 'hidden': expected a zero diagonal"),
    (in_layer(2, batch_first=0), "layer 2: batch_first: expected True or False"),
    (in_layer(2, spiking="x"), "layer 2: spiking: expected True or False"),
    (in_layer(2, spiking=False), "layer 2: reset_decay: expected None where spiking=False"),
    (in_layer(2, surrogate="Triangular"), "layer 2: surrogate: expected None or one of type"),
    (in_layer(2, surrogate={"type": "Foreign", "spike_grad": "x"}), "layer 2: surrogate: expected None or one of"),
    (in_layer(2, surrogate={"type": ["Arctan"]}), "layer 2: surrogate: expected None or one of type"),
    (in_layer(2, surrogate={"type": "Arctan"}), "layer 2: surrogate: expected Arctan with alpha"),
    (in_layer(2, surrogate={"type": "Arctan", "alpha": 0}), "layer 2: alpha: expected finite values > 0, got 0"),
    (in_layer(2, surrogate={"type": "Arctan", "alpha": "2"}), "layer 2: alpha: expected finite values > 0, got '2'"),
    (in_layer(2, surrogate={"type": "Arctan", "alpha": math.nan}), "layer 2: alpha: expected finite values > 0"),
    (in_layer(2, surrogate={"type": "Sigmoid", "slope": -1}), "layer 2: slope: expected finite values > 0"),
    (in_layer(2, surrogate={"type": "FastSigmoid", "slope": True}), "layer 2: slope: expected finite values > 0"),
    (in_layer(2, surrogate={"type": "Triangular", "gamma": 1, "zeta": 1e999}), "layer 2: zeta: expected finite"),
    (
        in_layer(2, surrogate={"type": "Arctan", "alpha": 2, "derivative": 3}),
        "layer 2: surrogate: expected Arctan with",
    ),
    (in_layer(2, type="Layer"), "layer 2: expected a layer of type HetSynLayer, Linear, Dropout, AlwaysOn"),
    (in_layer(2, type=["Linear"]), "layer 2: expected a layer of type"),
    (in_layer(2, type="Linear"), "layer 2: expected type, name, learned, got"),
    (in_layer(1, more=1), "layer 1: expected type, name, got"),
    (without(3, "p"), "layer 3: expected type, name, p, got"),
    (without(2, "type"), "layer 2: expected a layer of type"),
    (without(2, "surrogate"), "layer 2: expected type, name, dt"),
    (lambda content, arrays: content.update(architecture=None), "architecture: expected a list of layers, got None"),
    (lambda content, arrays: content.update(architecture={}), "architecture: expected a list of layers"),
    (lambda content, arrays: content.update(architecture=[3]), "layer 0: expected a layer of type"),
    (lambda content, arrays: content["architecture"].insert(0, None), "layer 0: expected a layer of type"),
    (lambda content, arrays: (content.update(architecture=[]), arrays.clear()), "layers: expected a tuple of one"),
]


@pytest.mark.parametrize(("change", "message"), LIES)
@pytest.mark.parametrize("of_before", [False, True])
def test_values_are_checked_as_at_construction(change: Any, message: str, of_before: bool, tmp_path: Path) -> None:
    """Also where the digest fits, and in files that have none."""
    path = tmp_path / "net.safetensors"
    checkpoint.save(layered(), path)
    write = checkpoint_of_before if of_before else forge
    write(path, change)
    if not message:
        return
    with pytest.raises(FileFormatError, match=f"net.safetensors: {message}"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": "3"}, "format_version: expected format 1, .* got 3; .* another version"),
        ({"format_version": "x"}, "format_version: expected format 1, .* got x"),
        ({"format_version": "\u0661"}, "format_version: expected format 1"),
        ({"format_version": "1" * 5000}, "format_version: expected format 1"),
        ({"format": "hetsyn"}, "expected a checkpoint of hetsyn_plugins, got"),
        ({"architecture": "[{"}, "architecture: expected an architecture in JSON, got what cannot be read"),
        ({"architecture": "[" * 5000}, "of at most 32 levels"),
        ({"architecture": "3"}, "architecture: expected a list of layers, got 3"),
        ({"more": ""}, "__metadata__: expected format, format_version, hetsyn_plugins and architecture, got"),
    ],
)
def test_changed_checkpoints_of_before_are_refused(changes: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    checkpoint_of_before(path, lambda metadata, arrays: metadata.update(changes))
    with pytest.raises(FileFormatError, match=message):
        checkpoint.load(path)


@pytest.mark.parametrize("name", ["architecture", "format_version", "hetsyn_plugins", "format"])
def test_checkpoints_of_before_that_lack_something_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(plain(), path)
    checkpoint_of_before(path, lambda metadata, arrays: metadata.pop(name))
    with pytest.raises(FileFormatError):
        checkpoint.load(path)


def test_damage_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(layered(), path)
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(len(whole), size=200):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(FileFormatError, match=r"net\.safetensors"):
            checkpoint.load(path)


@pytest.mark.parametrize("framework", ["snntorch", "norse"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_layer(2, dt=None), "net.safetensors: dt: expected a step length in seconds"),
        (in_layer(2, tie_reset=True, parametrization="decay"), "net.safetensors: tie_reset: expected"),
        (in_layer(2, share="layer", parametrization="decay"), "net.safetensors: .*: expected shape"),
    ],
)
def test_what_a_framework_cannot_have_names_the_file(framework: str, change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(layered(), path)

    def changed(content: Any, arrays: Any) -> None:
        change(content, arrays)
        for name in [name for name in arrays if ".stored." in name]:
            del arrays[name]

    forge(path, changed)
    checkpoint.load(path)
    with pytest.raises(FileFormatError, match=message):
        checkpoint.load(path, to=framework)


@pytest.mark.parametrize("name", ["a.b", "forward", "training"])
def test_a_name_that_no_module_can_have_names_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(layered(), path)
    forge(path, in_layer(2, name=name))
    assert checkpoint.load(path).layers[2].name == name
    with pytest.raises(FileFormatError, match=r"net.safetensors: layers: expected names that modules can have"):
        checkpoint.load(path, to="snntorch")


def test_wrong_arguments_are_not_the_files_fault(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(layered(), path)
    for arguments in ({"to": "tensorflow"}, {"dt": -1.0}):
        with pytest.raises(ValueError, match=r"^(to|dt): expected") as error:
            checkpoint.load(path, **arguments)
        assert not isinstance(error.value, FileFormatError)


# ---- surrogates ----------------------------------------------------------------------------------------------------


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
