"""Masks of synapses in both hosts: absent ones have no current and no gradient, and a mask may change."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hetsyn_plugins import HetSynParams, ops, prune_
from hetsyn_plugins.core import masks, reference
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.ops.pruning import density_of

T, B, N, M = 20, 17, 9, 12
HOSTS = {"snntorch": "snntorch", "norse": "norse"}


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(HOSTS[request.param])
    return import_module(f"hetsyn_plugins.adapters.{request.param}")


def inputs() -> Tensor:
    return (torch.rand((T, B, M), generator=torch.Generator().manual_seed(1)) < 0.4).float()


def params(**more: Any) -> HetSynParams:
    rng = np.random.default_rng(0)
    fields = {
        "weight": rng.normal(0.2, 1, (N, M)),
        "decay": rng.uniform(0.3, 0.98, (N, M)),
        "reset_decay": rng.uniform(0.5, 0.95, N),
        "recurrent_weight": rng.normal(0, 0.5, (N, N)),
        "recurrent_decay": rng.uniform(0.3, 0.95, (N, N)),
    }
    masks = {"mask": rng.random((N, M)) < 0.3, "recurrent_mask": rng.random((N, N)) < 0.3}
    for mask in masks.values():
        mask[:, 0] = True
    return HetSynParams(**{**fields, **masks, **more}).astype(np.float32)


def built(host: Any, p: HetSynParams) -> Any:
    return (host.RHetSynLeaky if hasattr(host, "RHetSynLeaky") else host.HetSynLIFRecurrent).from_params(p)


def spikes(layer: Any, x: Tensor) -> Tensor:
    out: Tensor = layer(x)[0]
    return out


def holder(layer: Any) -> Any:
    """What has the masks: the layer, or its p in Norse."""
    return getattr(layer, "p", layer)


def test_the_layer_is_the_masked_neuron(host: Any) -> None:
    p, x = params(), inputs()
    layer = built(host, p)
    want, _, _ = reference.run(p, x.numpy())
    assert want is not None and want.any()
    np.testing.assert_array_equal(spikes(layer, x).detach(), want)
    spikes(layer, x).sum().backward()
    for field, mask in (("weight", p.mask), ("decay", p.mask), ("recurrent_weight", p.recurrent_mask)):
        gradient = layer.stored(field).grad
        assert not gradient[~torch.tensor(mask)].any() and gradient.any(), field
    np.testing.assert_array_equal(layer.to_params().mask, p.mask)


def test_all_there_is_the_layer_without_masks_to_the_bit(host: Any) -> None:
    p, x = params(mask=None, recurrent_mask=None), inputs()
    layers = [built(host, p), built(host, p.replace(mask=np.ones((N, M)), recurrent_mask=np.ones((N, N))))]
    results = []
    for layer in layers:
        out = spikes(layer, x)
        out.sum().backward()
        results.append([out, *(layer.stored(field).grad for field in ("weight", "decay", "recurrent_weight"))])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_mask_may_change_between_calls(host: Any) -> None:
    """What was stored of a synapse comes back with it."""
    p, x = params(mask=None, recurrent_mask=None), inputs()
    layer, other = built(host, p), np.random.default_rng(5).random((N, M)) < 0.5
    whole = spikes(layer, x)
    holder(layer).mask = torch.tensor(other)
    np.testing.assert_array_equal(spikes(layer, x).detach(), reference.run(p.replace(mask=other), x.numpy())[0])
    holder(layer).mask = torch.ones(N, M)  # numbers do as well
    assert torch.equal(spikes(layer, x), whole)
    holder(layer).mask = torch.ones(M, N, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"mask: expected shape \({N}, {M}\), got \({M}, {N}\)"):
        layer(x)


def test_steps_are_the_sequence(host: Any) -> None:
    p, x = params(), inputs()
    if hasattr(host, "RHetSynLeaky"):
        layer: Any = host.RHetSynLeaky.from_params(p, init_hidden=True)
        steps = torch.stack([layer(x_t) for x_t in x])
    else:
        layer, state = host.HetSynLIFRecurrentCell.from_params(p), None
        outs = []
        for x_t in x:
            z, state = layer(x_t, state)
            outs.append(z)
        steps = torch.stack(outs)
    assert torch.equal(steps, spikes(built(host, p), x))
    steps.sum().backward()
    sequence = built(host, p)
    spikes(sequence, x).sum().backward()
    assert torch.allclose(layer.stored("weight").grad, sequence.stored("weight").grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (np.ones((M, N), bool), rf"mask: expected shape \({N}, {M}\)"),
        (np.full((N, M), 0.5), r"mask: expected booleans, or 0 and 1, got values from 0\.5 to 0\.5"),
        (np.full((N, M), "x"), r"mask: expected booleans, or 0 and 1, got <U1"),
    ],
)
def test_masks_that_are_none(host: Any, mask: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        if hasattr(host, "HetSynLeaky"):
            host.HetSynLeaky(M, N, mask=mask)
        else:
            host.HetSynLIF(M, N, host.HetSynLIFParameters(mask=mask))


NAMED = {
    "mask": ("mask", "mask"),
    "recurrent_mask": ("rec_mask", "rec_mask"),
    "delay": ("delay", "delay"),
    "recurrent_delay": ("rec_delay", "rec_delay"),
    "decay": ("alpha", "tau_syn_inv"),
    "recurrent_decay": ("rec_alpha", "tau_rec_inv"),
    "recurrent_weight": ("rec_weight", "recurrent_weights"),
    "reset_decay": ("beta", "tau_reset_inv"),
}


@pytest.mark.parametrize("field", NAMED)
def test_what_is_wrong_on_a_layer_that_is_built_has_its_hosts_name(host: Any, field: str) -> None:
    layer = built(host, params(delay=np.ones((N, M)), recurrent_delay=np.ones((N, N))))
    called = NAMED[field][list(HOSTS).index(host.__name__.rsplit(".", 1)[-1])]
    owner = layer if field == "recurrent_weight" else holder(layer)
    name, like = called if owner is layer else owner.stored_name(field), layer.stored(field)
    for wrong, says in ((torch.ones(7, 7), "expected shape .*, got \\(7, 7\\)"), (like * torch.nan, "expected .* NaN")):
        setattr(owner, name, torch.nn.Parameter(wrong) if isinstance(like, torch.nn.Parameter) else wrong)
        with pytest.raises(ValueError, match=f"^{called}: {says}"):
            layer(inputs())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_tensors_say_where_synapses_are(host: Any) -> None:
    dense = torch.zeros(N, M)
    dense[:, 3] = -2.5
    for kind in (dense.to_sparse(), dense.to_sparse_csr()):
        if hasattr(host, "HetSynLeaky"):
            layer = host.HetSynLeaky(M, N, mask=kind)
        else:
            layer = host.HetSynLIF(M, N, host.HetSynLIFParameters(mask=kind))
        assert torch.equal(holder(layer).mask, dense != 0)
        assert "mask=0.0833 of the synapses" in repr(layer)
    assert "mask=not known" in repr(layer.to("meta"))


def test_drawn_weights_are_for_the_inputs_that_there_are(host: Any) -> None:
    """The variance of a sum of K inputs is that of all M: M / K times the variance a weight."""
    mask = torch.zeros(400, 500, dtype=torch.bool)
    mask[:, ::10] = True
    torch.manual_seed(0)
    if hasattr(host, "HetSynLeaky"):
        layer = host.HetSynLeaky(500, 400, mask=mask)
    else:
        layer = host.HetSynLIF(500, 400, host.HetSynLIFParameters(mask=mask))
    there = layer.stored("weight").detach()[mask]
    # 20,000 draws: the variance is known to 1 %, its s.d. sqrt(2 / n); five of these
    assert float(there.var() * 50) == pytest.approx(1, abs=0.05)


def test_neurons_without_a_synapse_are_said_once() -> None:
    adapter = pytest.importorskip("hetsyn_plugins.adapters.snntorch")
    mask = np.ones((N, M), bool)
    mask[:2] = False
    with pytest.warns(UserWarning, match=f"mask: 2 of {N} neurons have no synapse in it"):
        layer = adapter.HetSynLeaky(M, N, mask=mask)
    adapter.HetSynLeaky(M, N, mask=mask)  # a warning would be an error
    _, *_, v = layer(inputs())
    assert not v[:, :, :2].any() and v[:, :, 2:].any()


def test_the_op_says_neurons_without_a_synapse_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_said", set())
    mask = torch.ones(N, M, dtype=torch.bool)
    mask[2] = False
    with pytest.warns(UserWarning, match=f"mask: 1 of {N} neurons have no synapse in it: nothing reaches them there"):
        ops.hetsyn_lif(inputs(), torch.ones(N, M), 0.5, reset_decay=0.5, mask=mask)
    ops.hetsyn_lif(inputs(), torch.ones(N, M), 0.5, reset_decay=0.5, mask=mask)  # a warning would be an error


@pytest.mark.parametrize("parametrization", ["decay", "tau", "log_tau"])
def test_checkpoints_keep_what_is_there(host: Any, parametrization: str, tmp_path: Path) -> None:
    """Of the synapses that are there every bit; of the others not a byte."""
    torch.manual_seed(0)
    mask = torch.rand(60, 101) < 0.1
    mask[:, 0] = True
    if hasattr(host, "HetSynLeaky"):
        layer = host.HetSynLeaky(101, 60, mask=mask, parametrization=parametrization, dt=1e-3, init_hidden=True)
        net: Any = torch.nn.Sequential(layer)
    else:
        p = host.HetSynLIFParameters(mask=mask)
        norse = pytest.importorskip("norse.torch")
        net = norse.SequentialState(host.HetSynLIF(101, 60, p, dt=1e-3, parametrization=parametrization))
        layer = net[0]
    x, path, sizes = torch.rand(15, 20, 101), tmp_path / "net.safetensors", []
    checkpoint.save(net, path)
    again = checkpoint.load(path, to=host.__name__.rsplit(".", 1)[-1])
    outs = [out[0] if isinstance(out, tuple) else out for out in (net(x), again(x))]
    assert torch.equal(*outs) and outs[0].any()
    for field in ("weight", "decay"):
        stored = [each.stored(field).detach()[mask] for each in (layer, again[0])]
        assert torch.equal(*stored), field
    assert torch.equal(holder(again[0]).mask, mask)
    sizes.append(path.stat().st_size)
    holder(layer).mask = None
    checkpoint.save(net, path)
    assert sizes[0] < path.stat().st_size / 4


def test_a_checkpoint_whose_values_are_not_the_masks(tmp_path: Path) -> None:
    adapter = pytest.importorskip("hetsyn_plugins.adapters.snntorch")
    parts: dict[str, Any] = {}
    network = adapter.HetSynLeaky(M, N, mask=np.eye(N, M), init_hidden=True)
    from hetsyn_plugins.exchange.conversion import convert

    (layer,) = convert(network, to="reference").layers
    entry = checkpoint.describe(0, layer, parts)
    arrays = {name.removeprefix("0."): array for name, array in parts.items()}
    for name, value in (("values.weight", np.zeros(3, np.float32)), ("mask", np.zeros((N, 7), np.uint8))):
        with pytest.raises(ValueError, match=rf"^{name}: expected"):
            checkpoint._hetsyn(dict(entry), {**arrays, name: value})


@pytest.mark.filterwarnings("ignore:.*have no synapse in it")
@pytest.mark.parametrize("by", ["magnitude", "gain"])
def test_pruning_keeps_the_strongest(host: Any, by: str) -> None:
    """Of those that are there; what was out before stays out, and a second call goes on from the first."""
    p = params(recurrent_mask=None)
    layer = built(host, p)
    strength = np.abs(np.float64(p.weight)) / (1 if by == "magnitude" else 1 - np.float64(p.decay))
    strength = np.where(p.mask, strength, -1)
    for count in (20, 5):
        left = prune_(torch.nn.Sequential(layer), count / (N * M), by)
        want = strength >= np.sort(strength.ravel())[-count]
        np.testing.assert_array_equal(holder(layer).mask.numpy(), want)
        recurrent = layer.to_params().recurrent_mask
        assert left == count + recurrent.sum() and recurrent.sum() == round(count / (N * M) * N * N)
    assert prune_(layer, 1.0) == left, "what is out comes back by hand only"
    whole = built(host, p.replace(mask=None))
    assert density_of(whole) == 1
    assert density_of(torch.nn.ModuleList([layer, whole])) == (left + N * (M + N)) / (2 * N * (M + N))
    spikes(layer, inputs()).sum().backward()
    assert not layer.stored("weight").grad[~torch.tensor(want)].any()


@pytest.mark.parametrize(
    ("net", "density", "by", "says"),
    [
        (torch.nn.Linear(3, 2), 0.5, "magnitude", "net: expected a torch module with HetSyn layers"),
        (None, 0.5, "magnitude", "net: expected a torch module with HetSyn layers"),
        (None, 0.0, "gain", "density: expected a part of the synapses, > 0 and at most 1, got 0.0"),
        (None, 0.5, "size", "by: expected one of magnitude, gain, got 'size'"),
    ],
)
def test_what_cannot_be_pruned(net: Any, density: float, by: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        prune_(net, density, by)
