"""Layers with share="codebook" outside of a framework: plain data, conversion, files, and the chip's integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forging import forge
from networks import OUT, M, N, params, run_hidden, spike_trains

from hetsyn_plugins import HetSynParams, convert
from hetsyn_plugins.core.codebook import Codebook
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.deployment.clusters import cluster_network
from hetsyn_plugins.deployment.export import export
from hetsyn_plugins.deployment.finetune import fine_tune, from_network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.exchange.frameworks import is_installed
from hetsyn_plugins.fixed_point.network import quantise

K = 5
DECAYS = np.array([0.25, 0.5, 0.75, 0.875, 0.9375])  # decay words; the fourth is nobody's


def codebook() -> Codebook:
    rng = np.random.default_rng(5)
    used = np.array([0, 1, 2, 4], np.int32)
    return Codebook(DECAYS, used[rng.integers(0, 4, (N, M))], used[rng.integers(0, 4, (N, N))])


def layer(**options: Any) -> HetSynLayer:
    book = codebook()
    p = params(decay=DECAYS[book.input_index], recurrent_decay=DECAYS[book.recurrent_index])
    return HetSynLayer("hidden", p, **{"dt": 1e-3, "share": "codebook", "codebook": book, **options})


def network(**options: Any) -> Network:
    readout = HetSynParams.readout(np.random.default_rng(2).normal(0, 0.5, (OUT, N)), 0.5)
    return Network((layer(**options), HetSynLayer("out", readout, dt=1e-3, share="codebook")))


def same(a: Codebook, b: Codebook) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# ---- plain data


def test_a_codebook_is_that_of_the_params_unless_it_is_given() -> None:
    given, derived = layer(), layer(codebook=None)
    assert given.codebook is not None and derived.codebook is not None
    assert same(given.codebook, codebook()) and given.options["clusters"] == K
    np.testing.assert_array_equal(derived.codebook.decays, np.delete(DECAYS, 3))
    np.testing.assert_array_equal(derived.codebook.decays[derived.codebook.input_index], derived.params.decay)
    assert replace(given, share="synapse").codebook is None, "another share has none"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decays": np.array([0.25, 0.5, 0.75, 1.5, 0.9375])}, r"codebook.decays: expected shape \(K,\) and decays in"),
        ({"decays": DECAYS[:, None]}, r"codebook.decays: expected shape \(K,\)"),
        (
            {"decays": DECAYS[:3]},
            "codebook.input_index: expected numbers of the codebook's 3 decays, 0 to 2, got 0 to 4",
        ),
        ({"input_index": codebook().input_index - 1}, "codebook.input_index: expected numbers of .* got -1 to"),
        ({"input_index": codebook().input_index.T}, r"codebook.input_index: expected whole numbers of shape \(6, 7\)"),
        ({"input_index": codebook().input_index + 0.5}, "codebook.input_index: expected whole numbers"),
        ({"recurrent_index": None}, "codebook.recurrent_index: expected one, as the layer's decays, got none"),
        (
            {"recurrent_index": codebook().recurrent_index * 0},
            "codebook.recurrent_index: expected the decays of params",
        ),
    ],
)
def test_a_codebook_that_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(codebook=codebook()._replace(**change))


# ---- conversion and files


@pytest.mark.parametrize("framework", ["snntorch", "norse"])
@pytest.mark.parametrize("parametrization", ["decay", "log_tau"])
def test_codebook_and_index_come_through_every_framework_and_file(
    framework: str, parametrization: str, tmp_path: Path
) -> None:
    pytest.importorskip(framework)
    stored = {} if parametrization == "decay" else {"decay": np.log(-1e-3 / np.log(DECAYS))}
    plain = network(parametrization=parametrization, stored=stored)
    hidden = plain.layers[0]
    assert isinstance(hidden, HetSynLayer)
    there = convert(plain, to=framework)
    back = convert(there, to="reference").layers[0]
    assert back.share == "codebook" and back.codebook.decays.shape == (K,)
    np.testing.assert_array_equal(back.codebook.input_index, codebook().input_index)
    np.testing.assert_array_equal(back.codebook.recurrent_index, codebook().recurrent_index)
    np.testing.assert_allclose(back.codebook.decays, DECAYS, rtol=0, atol=4e-16)
    if parametrization == "decay":
        np.testing.assert_array_equal(back.params.decay, hidden.params.decay)
    x = spike_trains()
    expected = plain.run(x.numpy())
    got = run_hidden(there, x)
    np.testing.assert_array_equal(got[0][0].detach(), expected["hidden"][0])
    checkpoint.save(there, tmp_path / "net.safetensors")
    loaded = checkpoint.load(tmp_path / "net.safetensors").layers[0]
    assert same(loaded.codebook, back.codebook)
    np.testing.assert_array_equal(loaded.params.decay, back.params.decay)
    for name, array in back.stored.items():
        np.testing.assert_array_equal(loaded.stored[name], array)
    again = checkpoint.load(tmp_path / "net.safetensors", to=framework)
    np.testing.assert_array_equal(run_hidden(again, x)[1].detach(), got[1].detach())


def test_a_file_has_a_byte_a_synapse_for_its_decays(tmp_path: Path) -> None:
    sizes = []
    for share in ("codebook", "synapse"):
        plain = Network((replace(layer(), share=share),))
        checkpoint.save(plain, tmp_path / share)
        sizes.append((tmp_path / share).stat().st_size)
    assert sizes[1] - sizes[0] > 6 * (N * M + N * N) - 400, "an index of one byte in the place of eight"


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("0.codebook.input_index", np.zeros((N, 0), np.uint8), r"decay: expected shape .*, got \(6, 0\)"),
        ("0.codebook.decays", DECAYS[:2], "codebook.input_index: expected numbers of the codebook's 2 decays, 0 to 1"),
        ("0.codebook.decays", None, r"codebook.decays: expected floating-point numbers of shape \(K,\), got none"),
        ("0.codebook.decays", DECAYS[:, None], r"codebook.decays: expected floating-point numbers of shape \(K,\)"),
        ("0.codebook.decays", DECAYS * 2, r"decay: expected decays in \[0, 1\]"),
        ("0.codebook.input_index", np.full((N, M), 5, np.uint8), "codebook.input_index: expected numbers of"),
        ("0.codebook.input_index", np.full((N, M), -1), "codebook.input_index: expected numbers of"),
        ("0.codebook.input_index", np.full((N, M), 0.5), "codebook.input_index: expected whole numbers"),
        ("0.codebook.input_index", np.zeros((N, 2), np.int64), "decay: expected shape"),
        ("0.codebook.recurrent_index", None, "recurrent_decay"),
    ],
)
def test_a_damaged_codebook_is_named(name: str, array: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    checkpoint.save(network(), path)

    def change(content: Any, arrays: dict[str, Any]) -> None:
        arrays.pop(name)
        arrays.update({} if array is None else {name: array})

    forge(path, change)
    with pytest.raises(FileFormatError, match=message):
        checkpoint.load(path)


def test_slayers_blocks_refuse_it_by_name() -> None:
    if not is_installed("lava_dl"):
        pytest.skip("lava-dl is not installed")
    with pytest.raises(
        ValueError, match="layer 'hidden' has share='codebook', which slayer's blocks have no option for"
    ):
        convert(network(), to="lava_dl")
    convert(Network((replace(layer(), share="synapse"),)), to="lava_dl")


# ---- the chip


def test_it_is_deployable_as_it_stands(tmp_path: Path) -> None:
    """No clustering step: the integers have the codebook's words, and are those of a clustering that finds nothing."""
    plain = network()
    fixed, _ = quantise(plain, form="cluster", clip=True)
    words = 4096 * (1 - np.delete(DECAYS, 3))
    assert set(fixed.layers[0].params.codebook) == set(words)
    clustered, _ = cluster_network(plain, K)
    again, _ = quantise(clustered, form="cluster", clip=True)
    for a, b in zip(fixed.layers, again.layers, strict=True):
        np.testing.assert_array_equal(a.params.decay, b.params.decay)
        np.testing.assert_array_equal(a.params.weight, b.params.weight)
    report = export(plain, tmp_path / "chip.h5", clip=True)
    assert (tmp_path / "chip.h5").exists() and [row.name for row in report.layers] == ["hidden", "out"]


def test_it_is_fine_tuned_without_a_clustering_and_stays_a_codebook() -> None:
    plain = network()
    net = from_network(plain)
    assert net[0].decay_codebook.shape == (K,)
    np.testing.assert_array_equal(net[0].decay_index, codebook().input_index)
    x = spike_trains(dtype=torch.float32)
    labels = torch.arange(x.shape[1]) % OUT
    tuned = fine_tune(plain, lambda: [(x, labels)], epochs=1, lr=0.01, decay_lr=0.01)
    after = tuned.network.layers[0]
    assert isinstance(after, HetSynLayer) and after.share == "codebook" and after.codebook is not None
    assert len(after.codebook.decays) <= K and (4096 * (1 - after.codebook.decays) % 1 == 0).all()
