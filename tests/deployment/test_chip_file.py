"""Files of integer networks: what stands in them, exact round trips, stock netx, damage, and bugs planted on purpose.

The judges: h5py reading what was written, and the integer core run before and after. The checks take the module as an
argument, so that the bugs planted at the end run through the very same ones.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from disks import quota
from planting import caught, planted

from hetsyn_plugins.core import fields as core_fields
from hetsyn_plugins.core.file_format import FileFormatError, UncheckedFileWarning
from hetsyn_plugins.core.hdf5 import DIGEST
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.fixed_point.network import FixedLayer, FixedNetwork
from hetsyn_plugins.fixed_point.neuron import HELD, FixedParams

STOCK = ("dense", "dense_rec")


def params(seed: int, n: int, m: int, *, recurrent: bool = False, spiking: bool = True, **others: Any) -> FixedParams:
    """A layer whose every field differs from every other and from its transpose."""
    draw = np.random.default_rng(seed)

    def mantissas(*shape: int) -> Any:
        drawn = draw.integers(-128, 128, shape)
        drawn.ravel()[:2] = (-128, 127)
        return drawn

    def words(*shape: int) -> Any:
        drawn = draw.integers(0, 4097, shape)
        drawn.ravel()[:2] = (4096, 0)
        return drawn

    values: dict[str, Any] = {"weight_exp": 2, "unit": 0.1 + seed / 7}
    if spiking:
        values |= {"reset_decay": words(n), "threshold": draw.integers(1, 400, n)}
    if recurrent:
        values |= {"recurrent_weight": mantissas(n, n), "recurrent_decay": words(n, n), "recurrent_exp": 1}
    return FixedParams(mantissas(n, m), words(n, m), **{**values, "spiking": spiking, **others})


def network(seed: int = 0) -> FixedNetwork:
    """Every kind of layer: feed-forward, recurrent, delays, adaptation, bias, always-on, no reset, readout.

    The second has delays of inputs and recurrent synapses, the last of its synapses alone: both of version 3.
    """
    late = {"delay": np.arange(16).reshape(4, 4) * 4 % 23, "recurrent_delay": np.arange(16).reshape(4, 4) * 62 // 15}
    adapting = {"adaptation_decay": [5, 4096, 0], "adaptation_strength": [-(2**23) + 1, 3, 2**23 - 1]}
    return FixedNetwork(
        (
            FixedLayer("first", params(seed, 4, 3), delay=[0, 40, 1, 7]),
            FixedLayer("räckt/2", params(seed + 1, 4, 4, recurrent=True, **late)),
            FixedLayer("adapting", params(seed + 2, 3, 5, recurrent=True, **adapting), always_on=True),
            FixedLayer("biased", params(seed + 3, 3, 3, bias=[1, -(2**23) + 1, 7], reset_decay=None, weight_exp=0)),
            FixedLayer("out", params(seed + 4, 2, 3, spiking=False, weight_exp=7, fraction=3, delay=[[0, 1, 62]] * 2)),
        )
    )


def synapse_form() -> FixedNetwork:
    """The other form, with its own and with another fraction."""
    return FixedNetwork(
        (
            FixedLayer("a", params(7, 3, 3, recurrent=True, form="synapse")),
            FixedLayer("b", params(8, 2, 3, spiking=False, form="synapse", fraction=0, bias=[2**31 - 1, 0])),
        )
    )


NETWORKS = {"cluster": network, "synapse": synapse_form}


# ---- what is written ---------------------------------------------------------------------------------------------


# long: a line for each dataset
def check_datasets(module: Any, path: Path) -> None:
    """What h5py reads, field by field, is what the layout says, computed here in another way."""
    net = network()
    module.write(net, path, dt=2e-3)
    with h5py.File(path) as file:
        assert set(file) == {"dt", "layer"} and file["dt"][()].item() == 2e-3
        assert set(file["layer"]) == {"0", "1", "2", "3", "4"}
        for index, layer in enumerate(net.layers):
            p, group = layer.params, file[f"layer/{index}"]
            n, m = p.weight.shape
            recurrent = p.recurrent_weight is not None
            assert group["type"].dtype == "S10"
            assert group["type"][()].tolist() == [STOCK[recurrent].encode()]
            assert group["shape"][()].tolist() == [n] and group["weight"].dtype == np.float32
            assert (group["inFeatures"][()], group["outFeatures"][()]) == (m, n)
            assert group["neuron/type"][()] == b"HETSYN" and group["name"][()].decode() == layer.name
            assert group["neuron/refDelay"][()] == 1 and not group["neuron/gradedSpike"][()]
            assert bool(group["alwaysOn"][()]) == layer.always_on, "alwaysOn"
            assert bool(group["neuron/spiking"][()]) == p.spiking
            assert group["neuron/form"][()].decode() == p.form and group["neuron/fraction"][()] == p.fraction
            # as a Python number: NumPy 2 would compare a float32 and a number in float32
            assert group["neuron/unit"][()].item() == p.unit, "neuron/unit"
            assert group["version"][()] == (2 if p.delay is None else 3)
            assert group["neuron/vThMant"][()].tolist() == p.threshold.tolist()
            assert ("weight_rec" in group, "delay" in group) == (recurrent, layer.delay is not None)
            for i in range(n):
                for j in range(m):
                    assert group["weight"][i, j] == int(p.weight[i, j]) * 2**p.weight_exp, "weight"
                    assert group["synapse/decay"][i, j] == p.decay[i, j], "synapse/decay"
                for k in range(n if recurrent else 0):
                    assert group["weight_rec"][i, k] == int(p.recurrent_weight[i, k]) * 2**p.recurrent_exp, "weight_rec"
                    assert group["synapse/decay_rec"][i, k] == p.recurrent_decay[i, k]
            assert group["synapse/decay"].dtype == np.int16
            optional = {
                "neuron/resetDecay": p.reset_decay,
                "neuron/adaptationDecay": p.adaptation_decay,
                "neuron/adaptationStrength": p.adaptation_strength,
                "neuron/bias": p.bias,
            }
            if p.delay is not None:
                optional |= {"synapse/delay": p.delay, "synapse/delay_rec": p.recurrent_delay}
            for dataset, value in optional.items():
                shape = group[dataset].shape
                assert (shape is None) == (value is None), dataset
                assert value is None or group[dataset][()].tolist() == value.tolist(), dataset
            assert layer.delay is None or group["delay"][()].tolist() == layer.delay.tolist()


def check_round_trip(module: Any, path: Path) -> None:
    """Every field of every layer comes back, of the same type; the integer core gives the same in every bin."""
    for made in (network(), synapse_form()):
        module.write(made, path)
        back = module.read(path)
        assert [at.name for at in back.layers] == [at.name for at in made.layers]
        for was, now in zip(made.layers, back.layers, strict=True):
            assert now.always_on is was.always_on
            assert np.array_equal(now.delay, was.delay) and (now.delay is None) == (was.delay is None), "delay"
            for field in fields(FixedParams):
                a, b = getattr(was.params, field.name), getattr(now.params, field.name)
                assert type(a) is type(b), field.name
                assert np.array_equal(a, b), field.name
        x = np.random.default_rng(1).integers(0, 2, (50, 3, 3))
        before, after = made.run(x, allow_overflow=True), back.run(x, allow_overflow=True)
        assert sum(0 if run.spikes is None else int(run.spikes.sum()) for run in before.values()) > 50
        for name, run in before.items():
            assert np.array_equal(run.v, after[name].v)


def test_datasets_are_those_of_the_layout(tmp_path: Path) -> None:
    check_datasets(chip_file, tmp_path / "net.net")


def test_round_trip_is_exact(tmp_path: Path) -> None:
    check_round_trip(chip_file, tmp_path / "net.net")


def test_dt_comes_back_and_may_be_missing(tmp_path: Path) -> None:
    chip_file.write(network(), tmp_path / "with.net", dt=1e-3)
    chip_file.write(network(), tmp_path / "without.net")
    assert chip_file.read_dt(tmp_path / "with.net") == 1e-3
    assert chip_file.read_dt(tmp_path / "without.net") is None
    with pytest.raises(ValueError, match="dt: expected a step length"):
        chip_file.write(network(), tmp_path / "with.net", dt=0.0)


def test_a_layer_in_a_group_of_a_users_own_file(tmp_path: Path) -> None:
    """As slayer's blocks are exported: any group, in memory or in a file."""
    (layer, *_) = network().layers
    with h5py.File(tmp_path / "own.h5", "w") as file:
        chip_file.write_layer(file.create_group("some/where"), layer)
        assert np.array_equal(chip_file.read_layer(file["some/where"]).params.weight, layer.params.weight)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    swap(path, "layer/0/weight", lambda old: old.astype(">f4"))
    swap(path, "layer/0/synapse/decay", lambda old: old.astype(">i2"))
    assert np.array_equal(chip_file.read(path).layers[0].params.weight, network().layers[0].params.weight)


# ---- other readers and writers -----------------------------------------------------------------------------------

# In a process of its own: Lava sets multiprocessing's start method at import, and must be first to do so.
NETX = """
import sys
from lava.lib.dl.netx.hdf5 import Network
for path in sys.argv[1:]:
    try:
        Network(net_config=path)
    except Exception as error:
        print("RAISED", type(error).__name__)
    else:
        print("BUILT")
"""


@pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava is not installed")
def test_stock_netx_raises_for_every_kind_of_layer(tmp_path: Path) -> None:
    """It would drop a layer type that it does not know without a word."""
    paths = []
    for index, layer in enumerate(network().layers):
        paths.append(str(tmp_path / f"{index}.net"))
        chip_file.write(FixedNetwork((layer,)), paths[-1])
    run = subprocess.run([sys.executable, "-c", NETX, *paths], capture_output=True, text=True, timeout=120)
    said = [line for line in run.stdout.splitlines() if line.startswith(("RAISED", "BUILT"))]
    assert said == ["RAISED AttributeError"] * 5, run.stdout + run.stderr


def with_groups_in_front(tmp_path: Path, *groups: tuple[str, dict[str, Any]]) -> Path:
    """A file whose layers stand behind other groups, as slayer writes them."""
    path = tmp_path / "net.net"
    with h5py.File(path, "w") as file:
        for index, (kind, datasets) in enumerate(groups):
            group = file.create_group(f"layer/{index}")
            group.create_dataset("type", (1,), "S10", [kind.encode()])
            for name, value in datasets.items():
                group[name] = value
        for index, layer in enumerate(network().layers):
            chip_file.write_layer(file.create_group(f"layer/{len(groups) + index}"), layer)
    return path


def test_input_and_flatten_that_pass_spikes_on_are_skipped(tmp_path: Path) -> None:
    path = with_groups_in_front(tmp_path, ("input", {"shape": [1, 3, 1]}), ("flatten", {"shape": [3]}))
    assert [layer.name for layer in chip_file.read(path).layers] == [layer.name for layer in network().layers]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (("input", {"shape": [3], "neuron/type": "CUBA"}), "layer/0: neuron: expected an input that only passes"),
        (("input", {"shape": [3], "bias": [0.5]}), "layer/0: bias: expected an input that only passes"),
        (("input", {"shape": [4]}), "layer/0: shape: expected 3 lines, as go into the next layer, got [4]"),
        (("flatten", {}), "shape: expected a dataset, got nothing"),
        (("pool", {"shape": [3]}), "layer/0: type: expected dense or dense_rec"),
    ],
)
def test_groups_in_front_that_compute_are_refused(tmp_path: Path, group: Any, message: str) -> None:
    path = with_groups_in_front(tmp_path, group)
    with pytest.raises(ValueError) as caught:
        chip_file.read(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


# ---- bad files ---------------------------------------------------------------------------------------------------


def written(tmp_path: Path) -> Path:
    path = tmp_path / "net.net"
    chip_file.write(network(), path, dt=1e-3)
    return path


def swap(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Put another dataset in the place of one."""
    with h5py.File(path, "r+") as file:
        old = file[name][()]
        del file[name]
        file[name] = change(old)


def entry(index: tuple[int, ...], value: Any) -> Callable[[Any], Any]:
    def change(old: Any) -> Any:
        new = np.array(old)
        new[index] = value
        return new

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("type", lambda old: np.array([b"dense_new"], "S10"), "type: expected dense or dense_rec"),
        ("type", lambda old: 3, "type: expected one string, got int64"),
        ("type", lambda old: np.array([b"dense"], "S10"), "weight_rec: expected no such dataset in a dense layer"),
        ("neuron/type", lambda old: "CUBA", "neuron/type: expected HETSYN, got CUBA"),
        ("neuron/form", lambda old: "microcode", "neuron/form: expected one of cluster, synapse, got 'microcode'"),
        ("version", lambda old: np.int64(4), "version: expected 1, 2 or 3, got 4"),
        ("version", lambda old: np.int64(2), "synapse/delay: expected no such dataset in a dense_rec layer"),
        ("synapse/delay", entry((0, 1), 63), "synapse/delay: expected 0..62, got 1 outside, from 0 to 63"),
        ("synapse/delay_rec", lambda old: old[:2], "synapse/delay_rec: expected shape (4, 4), got (2, 4)"),
        ("synapse/delay", lambda old: old.astype("f4"), "synapse/delay: expected int16, got float32"),
        ("shape", lambda old: np.array([5]), "shape: expected [4] beside a weight of (4, 4), got [5]"),
        ("inFeatures", lambda old: np.int64(5), "inFeatures: expected 4 beside a weight of (4, 4), got 5"),
        ("neuron/refDelay", lambda old: np.int64(2), "neuron/refDelay: expected 1"),
        ("neuron/gradedSpike", lambda old: np.bool_(True), "neuron/gradedSpike: expected False"),
        ("synapse/decay", entry((2, 1), 4097), "synapse/decay: expected 0..4096, got 1 outside, from 0 to 4097"),
        ("synapse/decay_rec", entry((0, 0), -1), "synapse/decay_rec: expected 0..4096, got 1 outside, from -1"),
        ("neuron/resetDecay", entry((0,), 5000), "neuron/resetDecay: expected 0..4096"),
        ("synapse/decay", lambda old: old[:, :3], "synapse/decay: expected shape (4, 4), got (4, 3)"),
        ("synapse/decay", lambda old: old.T[None], "synapse/decay: expected shape (4, 4), got (1, 4, 4)"),
        ("synapse/decay", lambda old: old.astype("f4"), "synapse/decay: expected int16, got float32"),
        ("synapse/decay", lambda old: h5py.Empty("i2"), "synapse/decay: expected shape (4, 4), got None"),
        ("synapse/decay_rec", lambda old: h5py.Empty("i2"), "recurrent_weight, got one of them"),
        ("weight", entry((1, 2), 6.5), "weight: expected mantissas -128..127 << 2, got 1 others, first 6.5"),
        ("weight", entry((1, 2), 6.0), "weight: expected mantissas -128..127 << 2, got 1 others, first 6.0"),
        ("weight", entry((1, 2), 512.0), "weight: expected mantissas -128..127 << 2, got 1 others, first 512.0"),
        ("weight", entry((1, 2), np.nan), "weight: expected mantissas -128..127 << 2, got 1 others, first nan"),
        ("weight_rec", entry((1, 2), 1.0), "weight_rec: expected mantissas -128..127 << 1, got 1 others, first 1.0"),
        ("weight", lambda old: old.astype("f8"), "weight: expected float32, got float64"),
        ("weight", lambda old: old[0], "weight: expected shape (N, M), got (4,)"),
        ("weight_rec", lambda old: old[:2], "weight_rec: expected shape (4, 4), got (2, 4)"),
        ("synapse/exponent", lambda old: np.int64(8), "weight: expected an exponent of 0..7 beside it, got 8"),
        ("synapse/exponent", lambda old: np.int64(-1), "weight: expected an exponent of 0..7 beside it, got -1"),
        ("synapse/exponent_rec", lambda old: np.int64(10**9), "weight_rec: expected an exponent of 0..7"),
        ("neuron/vThMant", entry((3,), 0), "neuron/vThMant: expected 1..131071, got 1 outside"),
        ("neuron/vThMant", lambda old: np.int64(64), "neuron/vThMant: expected shape (4,), got ()"),
        ("neuron/fraction", lambda old: np.int64(16), "neuron/fraction: expected 0..15"),
        ("neuron/unit", lambda old: -1.0, "neuron/unit: expected a finite number > 0, got -1.0"),
        ("neuron/spiking", lambda old: np.bool_(False), "neuron/resetDecay: expected None where spiking=False"),
        ("neuron/spiking", lambda old: np.int64(1), "neuron/spiking: expected bool, got int64"),
        ("name", lambda old: "first", "expected different names, got first, first"),
        ("name", lambda old: b"\xff", "name: expected UTF-8, got b'\\xff'"),
    ],
)
def test_a_wrong_dataset_is_named(tmp_path: Path, name: str, change: Callable[[Any], Any], message: str) -> None:
    """Of the recurrent layer, layer/1; the others are as they were."""
    path = written(tmp_path)
    swap(path, f"layer/1/{name}", change)
    with pytest.raises(ValueError) as caught:
        chip_file.read(path)
    where = "" if message.startswith("expected different names") else "layer/1: "
    assert str(caught.value).startswith(f"{path}: {where}") and message in str(caught.value)


def test_every_dataset_is_missed_where_it_is_missing(tmp_path: Path) -> None:
    """The delay alone may be missing, as in stock files: there is none then."""
    path = written(tmp_path)
    names: list[str] = []
    with h5py.File(path) as file:
        file["layer/2"].visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    assert len(names) > 20
    for name in names:
        path = written(tmp_path)
        with h5py.File(path, "r+") as file:
            del file[f"layer/2/{name}"]
        with pytest.raises(ValueError) as caught:
            chip_file.read(path)
        assert str(caught.value).startswith(f"{path}: layer/2: {name}: expected ") or name == "type", name
        assert f"{name}: expected " in str(caught.value)


def test_an_unknown_dataset_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    with h5py.File(path, "r+") as file:
        file["layer/3/neuron/iDecay"] = 1024
    with pytest.raises(ValueError, match="layer/3: neuron/iDecay: expected no such dataset in a dense layer of HETSYN"):
        chip_file.read(path)


def test_delays_out_of_range_are_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    swap(path, "layer/0/delay", entry((1,), 63.0))
    with pytest.raises(ValueError, match=r"layer/0: layer 'first': delay: expected 0..62, got 1 outside"):
        chip_file.read(path)
    swap(path, "layer/0/delay", entry((1,), 50.0))
    with pytest.raises(ValueError, match=r"layer 'räckt/2': delay: expected at most 62 steps together with .* got 70"):
        chip_file.read(path)
    swap(path, "layer/0/delay", entry((1,), 0.5))
    with pytest.raises(ValueError, match=r"layer/0: layer 'first': delay: expected whole numbers"):
        chip_file.read(path)


def test_gaps_and_other_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["layer/1"]
    with pytest.raises(ValueError, match="expected groups 0 to 3, got 0, 2, 3, 4"):
        chip_file.read(path)
    for content in ({}, {"layer": 3}):
        with h5py.File(path, "w") as file:
            for name, value in content.items():
                file[name] = value
        with pytest.raises(ValueError, match=r"expected groups layer/0, layer/1, .* as netx reads them, got none"):
            chip_file.read(path)
    path = with_groups_in_front(tmp_path, ("input", {"shape": [3]}))
    with h5py.File(path, "r+") as file:
        for index in range(1, 6):
            del file[f"layer/{index}"]
    with pytest.raises(ValueError, match=r"net\.net: layers: expected at least one, got none"):
        chip_file.read(path)


def test_missing_files_and_what_is_not_hdf5(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"path: expected a network file, got .*none\.net, which does not exist"
    ):
        chip_file.read(tmp_path / "none.net")
    text = tmp_path / "text.net"
    for content in (b"", b"not HDF5 at all", os.urandom(5000)):
        text.write_bytes(content)
        with pytest.raises(ValueError, match=r"text\.net: expected a network file, got one that cannot be read"):
            chip_file.read(text)
    with pytest.raises(ValueError, match="expected a network file, got what is no file"):
        chip_file.read(tmp_path)


def test_truncated_files_are_refused_wherever_they_end(tmp_path: Path) -> None:
    unbroken = written(tmp_path).read_bytes()
    cut = tmp_path / "cut.net"
    for end in range(0, len(unbroken), 997):
        cut.write_bytes(unbroken[:end])
        with pytest.raises(ValueError, match=r"cut\.net"):
            chip_file.read(cut)


def test_damaged_bytes_are_a_value_error_or_nothing(tmp_path: Path) -> None:
    """Never another exception, never a hang: HDF5 raises many kinds of its own, and each must be told as ours."""
    unbroken, damaged = written(tmp_path).read_bytes(), tmp_path / "damaged.net"
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(120):
        content = bytearray(unbroken)
        for at in draw.integers(0, len(unbroken), 3):
            content[at] = draw.integers(256)
        damaged.write_bytes(content)
        try:
            chip_file.read(damaged)
        except ValueError as error:
            refused += 1
            assert str(damaged) in str(error)
    assert refused > 40


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    with quota(len(before) // 2), pytest.raises(OSError, match=f"File too large .*'{path}'"):
        chip_file.write(network(5), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["net.net"]


def test_wrong_arguments_of_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="network: expected a FixedNetwork, got FixedParams"):
        chip_file.write(params(0, 3, 3), tmp_path / "net.net")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="whose folder does not exist"):
        chip_file.write(network(), tmp_path / "no" / "net.net")
    assert not list(tmp_path.iterdir())


# ---- the digest --------------------------------------------------------------------------------------------------


def change(name: str, new: Callable[[Any], Any]) -> Callable[[h5py.File], None]:
    """Another value of a dataset, where it stands."""

    def changed(file: h5py.File) -> None:
        file[name][...] = new(file[name][()])

    return changed


def swap_layers(file: h5py.File) -> None:
    """Two layers that fit in each other's place."""
    file.move("layer/0", "layer/x")
    file.move("layer/1", "layer/0")
    file.move("layer/x", "layer/1")


def without_last(file: h5py.File) -> None:
    del file["layer/2"]


def without_dt(file: h5py.File) -> None:
    del file["dt"]


def more(file: h5py.File) -> None:
    file["more"] = 1


def another_type(file: h5py.File) -> None:
    old = file["layer/1/neuron/bias"].dtype
    del file["layer/1/neuron/bias"]
    file["layer/1/neuron/bias"] = np.zeros(3, old)


def as_of_before(file: h5py.File) -> None:
    for layer in file["layer"].values():
        layer["version"][()] = 1


def without_digest(file: h5py.File) -> None:
    del file.attrs[DIGEST]


def another_digest(value: Any) -> Callable[[h5py.File], None]:
    def changed(file: h5py.File) -> None:
        file.attrs[DIGEST] = value

    return changed


CHANGES: dict[str, Callable[[h5py.File], None]] = {
    "weight": change("layer/1/weight", lambda old: old[::-1]),
    "decay": change("layer/0/synapse/decay", lambda old: old[::-1]),
    "threshold": change("layer/1/neuron/vThMant", lambda old: old + 1),
    "unit": change("layer/2/neuron/unit", lambda old: old * 2),
    "name": change("layer/1/name", lambda old: b"tow"),
    "dt": change("dt", lambda old: 2 * old),
    "no dt": without_dt,
    "swapped": swap_layers,
    "cut": without_last,
    "more": more,
    "a bias of zeros": another_type,
    "an older version": as_of_before,
    "no digest": without_digest,
    "a digest as a text of any length": another_digest("0" * 64),
    "a digest of numbers": another_digest(np.zeros(64, np.uint8)),
    "another digest": another_digest(np.bytes_("é".encode() * 32)),
}


def three_alike() -> FixedNetwork:
    """Layers that each fit in any place, so that only a digest tells them apart."""
    return FixedNetwork(tuple(FixedLayer(name, params(seed, 3, 3)) for seed, name in enumerate(("one", "two", "six"))))


def check_change(module: Any, path: Path, name: str) -> None:
    module.write(three_alike(), path, dt=1e-3)
    with h5py.File(path, "r+") as file:
        CHANGES[name](file)
    with pytest.raises(FileFormatError, match=r"net\.net: digest: expected the content .*; export the network anew$"):
        module.read(path)


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_as_it_was_written_is_refused(tmp_path: Path, name: str) -> None:
    check_change(chip_file, tmp_path / "net.net", name)


def own_layers(module: Any, path: Path) -> Path:
    """A file that slayer's blocks write, layer after layer, and nobody of us sees as a whole."""
    with h5py.File(path, "w") as file:
        for index, layer in enumerate(three_alike().layers):
            module.write_layer(file.create_group(f"layer/{index}"), layer)
    return path


def check_own_layers(module: Any, path: Path) -> None:
    read = module.read(own_layers(module, path))
    assert [layer.name for layer in read.layers] == ["one", "two", "six"]
    for name in ("weight", "decay", "threshold", "swapped", "a bias of zeros"):
        own_layers(module, path)
        with h5py.File(path, "r+") as file:
            CHANGES[name](file)
        with pytest.raises(FileFormatError, match=r"net\.net: digest: expected the content"):
            module.read(path)
    own_layers(module, path)
    with h5py.File(path, "r+") as file:
        del file["layer/1"].attrs[DIGEST]
        module.read_layer(file["layer/0"])
        with pytest.raises(FileFormatError, match=r"net\.net: digest: expected the content"):
            module.read_layer(file["layer/1"])


def test_a_layer_of_a_file_of_others_vouches_for_itself(tmp_path: Path) -> None:
    check_own_layers(chip_file, tmp_path / "net.net")


def test_files_of_before_are_read_with_one_warning(tmp_path: Path) -> None:
    path = own_layers(chip_file, tmp_path / "net.net")
    with h5py.File(path, "r+") as file:
        as_of_before(file)
        for layer in file["layer"].values():
            del layer.attrs[DIGEST]
    with pytest.warns(UncheckedFileWarning, match=r"net\.net: written before files carried a digest") as warned:
        read = chip_file.read(path)
    assert len(warned) == 1 and [layer.name for layer in read.layers] == ["one", "two", "six"]


def test_the_digest_does_not_depend_on_how_the_file_keeps_the_values(tmp_path: Path) -> None:
    path = tmp_path / "net.net"
    chip_file.write(three_alike(), path)
    with h5py.File(path, "r+") as file:
        for name in ("weight", "synapse/decay"):
            old = file[f"layer/1/{name}"][()]
            del file[f"layer/1/{name}"]
            kept = {"chunks": (1, 3), "compression": "gzip", "dtype": old.dtype.newbyteorder(">")}
            file.create_dataset(f"layer/1/{name}", data=old, **kept)
    assert np.array_equal(chip_file.read(path).layers[1].params.decay, three_alike().layers[1].params.decay)


# ---- what no file may do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [-1e-3, 0.0, np.nan, np.inf, "1 ms", [1e-3], h5py.Empty("f8"), 1])
def test_a_dt_that_cannot_be_is_refused(tmp_path: Path, dt: Any) -> None:
    path = written(tmp_path)
    swap(path, "dt", lambda old: dt)
    for reader in (chip_file.read, chip_file.read_dt):
        with pytest.raises(FileFormatError, match=r"net\.net: dt: expected (a step length in seconds|float64|shape)"):
            reader(path)


def test_no_word_of_another_file_gets_into_a_message(tmp_path: Path) -> None:
    """A name that is a link into another file, or whose bytes lie there, would stand in the message about it."""
    secret, path = tmp_path / "secret", written(tmp_path)
    with h5py.File(secret, "w") as file:
        file["name"] = np.bytes_(b"nobody-may-see-this\xff")
    for name in ("layer/0/name", "layer/0/neuron/type"):
        for there in ("link", "storage"):
            path = written(tmp_path)
            with h5py.File(path, "r+") as file:
                del file[name]
                if there == "link":
                    file[name] = h5py.ExternalLink(str(secret), "name")
                else:
                    file.create_dataset(name, (1,), "S2000", external=[(str(secret), 0, 2000)])
            with pytest.raises(
                FileFormatError, match=f"{name}: expected (what lies in the file|data in the file)"
            ) as e:
                chip_file.read(path)
            assert "nobody" not in str(e.value)


def test_texts_of_any_length_are_read_and_their_damage_is_seen(tmp_path: Path) -> None:
    """As h5py writes a str. HDF5 follows a damaged one into gigabytes."""
    path = tmp_path / "net.net"
    with h5py.File(path, "w") as file:
        chip_file.write_layer(file.create_group("layer/0"), three_alike().layers[0])
        file["layer/1/type"] = "pööl"
    with pytest.raises(FileFormatError, match=r"layer/1: type: expected dense or dense_rec .*, got 'pööl'"):
        chip_file.read(path)
    whole = path.read_bytes()
    heap = whole.index(b"GCOL")
    for at in (0, 4, 8, 9, 15, 16, 24, 31):
        damaged = bytearray(whole)
        damaged[heap + at] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=r"net\.net: layer/1"):
            chip_file.read(path)


# ---- planted bugs ------------------------------------------------------------------------------------------------


class Bug(NamedTuple):
    """In chip_file.py `old` becomes `new`; `check` must then fail with an error that says `says`."""

    name: str
    old: str
    new: str
    check: Callable[[Any, Path], None]
    says: str
    error: type[BaseException] = AssertionError


def cut(module: Any, path: Path) -> None:
    check_change(module, path, "cut")


MISSED = ("DID NOT RAISE", pytest.fail.Exception)

BUGS = [
    Bug(
        "writer transposes",
        "(p.recurrent_weight << p.recurrent_exp)",
        "(p.recurrent_weight.T << p.recurrent_exp)",
        check_datasets,
        "weight_rec",
    ),
    Bug(
        "writer forgets the exponent", "(p.weight << p.weight_exp)", "(p.weight << 0)", check_datasets, "weight\nassert"
    ),
    Bug(
        "loop written with the other exponent", "<< p.recurrent_exp)", "<< p.weight_exp)", check_datasets, "weight_rec"
    ),
    Bug(
        "words off by one",
        "np.asarray(value, at.dtype)",
        "np.asarray(value - (name == 'decay'), at.dtype)",
        check_datasets,
        "synapse/decay",
    ),
    Bug(
        "always-on forgotten by the reader",
        'bool(_array(group, "alwaysOn", np.dtype(bool), ()))',
        "False",
        check_round_trip,
        "layer 'adapting': expected 5 lines in, 4 come out of 'räckt/2'",
        ValueError,
    ),
    Bug("always-on forgotten by the writer", "bool(layer.always_on)", "False", check_datasets, "alwaysOn"),
    Bug(
        "name and form exchanged",
        '("neuron/form", p.form)',
        '("neuron/form", "cluster")',
        check_round_trip,
        "layer/1: neuron/bias: expected -8388607..8388607, got 1 outside",
        ValueError,
    ),
    Bug(
        "reader drops the exponent",
        "mantissa = weight / np.float64(1 << exponent)",
        "mantissa = weight / 8.0",
        check_round_trip,
        "layer/0: weight: expected mantissas -128..127 << 2, got 7 others",
        ValueError,
    ),
    Bug(
        "reader transposes",
        "return mantissa.astype(np.int64)",
        "return mantissa.astype(np.int64)[::-1]",
        check_round_trip,
        "weight\nassert",
    ),
    Bug(
        "delays of synapses dropped",
        "p.delay is None and p.recurrent_delay is None",
        "True",
        check_round_trip,
        "delay\nassert",
    ),
    Bug(
        "synapses a step later",
        "np.asarray(value, at.dtype)",
        "np.asarray(value + (name == 'recurrent_delay'), at.dtype)",
        check_datasets,
        "synapse/delay_rec",
    ),
    Bug("delay dropped", "if layer.delay is not None:", "if False:", check_datasets, "At index 1 diff: False != True"),
    Bug(
        "delay read without being there",
        'if "delay" in group else None',
        "if False else None",
        check_round_trip,
        "delay\nassert",
    ),
    Bug(
        "unit in float32",
        '"unit": Dataset("neuron/unit", "float64")',
        '"unit": Dataset("neuron/unit", "float32")',
        check_datasets,
        "neuron/unit",
    ),
    Bug(
        "fraction not read",
        "return value.item() if",
        "return (6 if at.path[-4:] == 'tion' else value.item()) if",
        check_round_trip,
        "fraction\nassert",
    ),
    Bug(
        "reset and adaptation exchanged",
        "getattr(p, name)",
        "getattr(p, {'reset_decay': 'adaptation_decay', 'adaptation_decay': 'reset_decay'}.get(name, name))",
        check_datasets,
        "neuron/resetDecay",
    ),
    Bug(
        "strength in 16 bits",
        '"neuron/adaptationStrength", "int64"',
        '"neuron/adaptationStrength", "int16"',
        check_datasets,
        "neuron/adaptationStrength",
    ),
    Bug(
        "type says dense for a loop",
        "TYPES[p.recurrent_weight is not None]",
        "TYPES[0]",
        check_datasets,
        "At index 0 diff: b'dense' != b'dense_rec'",
    ),
    Bug(
        "a layer does not know its place",
        '"at": group.name,',
        '"at": "",',
        check_own_layers,
        *MISSED,
    ),
    Bug("nothing is checked", "if owner not in before:", "if False:", check_own_layers, *MISSED),
    Bug("the digest is of nothing", '"datasets": hdf5.contents(group)', '"datasets": {}', cut, *MISSED),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug, tmp_path: Path) -> None:
    """By the datasets or by the round trip: a failed comparison, or an error of the reader that names what is wrong."""
    with planted(chip_file.__name__, bug.old, bug.new) as module, caught(bug.says, bug.error):
        bug.check(module, tmp_path / "net.net")


def test_planting_breaks_nothing_by_itself(tmp_path: Path) -> None:
    with planted(chip_file.__name__, "VERSION, DELAYED = 1, 2, 3", "VERSION, DELAYED = 1, 2, 3") as module:
        check_datasets(module, tmp_path / "a.net")
        check_round_trip(module, tmp_path / "b.net")


@pytest.mark.skipif(not hasattr(os, "umask"), reason="no file modes on this system")
def test_a_file_has_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    network, before = FixedNetwork((FixedLayer("one", FixedParams([[1]], [[5]])),)), os.umask(0o027)
    try:
        chip_file.write(network, tmp_path / "net.net")
    finally:
        os.umask(before)
    assert (tmp_path / "net.net").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    network = FixedNetwork((FixedLayer("one", FixedParams([[1]], [[5]])),))
    with pytest.raises(ValueError, match=r"path: expected a file, got .*, which is a folder"):
        chip_file.write(network, tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_field_of_the_core_has_its_dataset() -> None:
    """Each in its full shape; what a layer may lack may be empty; with what only integers have, it is FixedParams."""
    ours = {**chip_file.FIELDS, **chip_file.DELAYS, **chip_file.WEIGHTS}
    assert set(ours) | {"form"} == {field.name for field in fields(FixedParams)} and len(HELD) == 11
    assert set(core_fields.NUMBERS) == set(HELD) <= set(ours)
    optional = {name for name, field in HELD.items() if not field.required}
    assert chip_file.OPTIONAL == optional - {"recurrent_weight"}  # whose dataset, netx's, is not there then
    assert len({at.path for at in ours.values()}) == len(ours)
