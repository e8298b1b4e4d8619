"""share="codebook": K decays that the synapses of a layer share, in both adapters, against the layer written out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("snntorch")
pytest.importorskip("norse")

import hetsyn_plugins
from hetsyn_plugins.adapters.norse import HetSynLIF, HetSynLIFRecurrent
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.codebook import Codebook, Scale
from hetsyn_plugins.core.surrogate import MultiGaussian
from hetsyn_plugins.ops import trainable
from hetsyn_plugins.ops.arguments import OP
from hetsyn_plugins.ops.codebook import shared
from hetsyn_plugins.ops.trainable import PARAMETRIZATIONS, decay_from_stored

T, B, M, N, K, DT = 25, 3, 7, 5, 4, 1e-3
FLOAT64 = torch.float64


def start(**options: Any) -> dict[str, Any]:
    """A drawn recurrent layer, in float64."""
    generator = torch.Generator().manual_seed(3)
    drawn = {
        "weight": torch.randn(N, M, generator=generator, dtype=FLOAT64) * 0.6,
        "decay": torch.rand(N, M, generator=generator, dtype=FLOAT64) * 0.7 + 0.29,
        "recurrent_weight": torch.randn(N, N, generator=generator, dtype=FLOAT64) * 0.3,
        "recurrent_decay": torch.rand(N, N, generator=generator, dtype=FLOAT64) * 0.7 + 0.29,
    }
    return {**drawn, "share": "codebook", "clusters": K, "dt": DT, **options}


def in_snntorch(**options: Any) -> Any:
    names = {"decay": "alpha", "recurrent_weight": "rec_weight", "recurrent_decay": "rec_alpha"}
    layer = {names.get(name, name): value for name, value in start(**options).items()}
    return RHetSynLeaky(M, N, init_hidden=True, **layer)


def in_norse(**options: Any) -> Any:
    fields = start(**options)
    inverse = {name: -fields.pop(name).log() / DT for name in ("decay", "recurrent_decay")}
    p = hetsyn_plugins.adapters.norse.HetSynLIFParameters(
        inverse["decay"], inverse["recurrent_decay"], -np.log(0.9) / DT, dtype=FLOAT64
    )
    renamed = {"weight": "input_weights", "recurrent_weight": "recurrent_weights"}
    return HetSynLIFRecurrent(M, N, p, **{renamed.get(name, name): value for name, value in fields.items()})


def fields_of(layer: Any) -> Any:
    return getattr(layer, "p", layer)


def spikes_of(layer: Any, x: torch.Tensor) -> torch.Tensor:
    out = layer(x)
    return out[0] if isinstance(out, tuple) else out


BOTH = pytest.mark.parametrize("make", [in_snntorch, in_norse], ids=["snntorch", "norse"])


@BOTH
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_it_is_the_layer_written_out_and_gradients_are_sums(make: Any, parametrization: str) -> None:
    """Spikes exactly; of each shared decay the sum over the entries that share it, in the reference's gradients."""
    torch.manual_seed(0)
    layer = make(parametrization=parametrization)
    fields, x, grad = fields_of(layer), (torch.rand(T, B, M) < 0.3).double(), torch.randn(T, B, N, dtype=FLOAT64)
    params = layer.to_params()
    assert len(np.unique(np.append(params.decay, params.recurrent_decay))) == K
    spikes = spikes_of(layer, x)
    np.testing.assert_array_equal(spikes.detach().numpy(), reference.run(params, x.numpy())[0])
    assert spikes.any()
    spikes.backward(grad)
    expected = reference.gradients(params, x.numpy(), grad_spikes=grad.numpy(), surrogate=MultiGaussian())
    by_decay = torch.zeros(K, dtype=FLOAT64)
    for field in ("decay", "recurrent_decay"):
        by_decay.index_add_(0, fields.index(field).long().flatten(), torch.from_numpy(expected.params[field]).flatten())
    stored = fields.stored("decay")
    assert stored is fields.stored("recurrent_decay") and stored.shape == (K,)
    p = stored.detach().clone().requires_grad_()
    decay_from_stored(p, parametrization, DT).backward(by_decay)
    torch.testing.assert_close(stored.grad, p.grad, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(
        layer.stored("weight").grad, torch.from_numpy(expected.params["weight"]), rtol=1e-9, atol=1e-10
    )


@BOTH
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_the_plain_name_reads_the_decay_of_every_synapse(make: Any, parametrization: str) -> None:
    layer = make(parametrization=parametrization)
    fields = fields_of(layer)
    name = fields.names["decay"]
    decay, index = getattr(fields, name), fields.index("decay")
    suffix = "" if parametrization == "decay" else f"_{parametrization}"
    trained = {key for key, _ in fields.named_parameters()} - {"weight", "rec_weight"}
    assert trained == {f"{name}_codebook{suffix}"}
    assert decay.shape == index.shape == (N, M) and index.dtype == torch.int32
    assert not index.is_floating_point() and f"{name}_index" in dict(fields.named_buffers())
    book = decay_from_stored(fields.stored("decay"), parametrization, DT)
    torch.testing.assert_close(decay, book[index.long()], rtol=0, atol=0)
    assert f"share='codebook', clusters={K}" in repr(layer)


@BOTH
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_kernels_are_told_which_decays_are_shared(make: Any, parametrization: str) -> None:
    """In memory of their own: what is stored may be written to before the backward pass."""
    layer = make(parametrization=parametrization, reassign=True)
    for told in (layer.layer_tensors(OP.names), layer.float().bfloat16().layer_tensors(OP.names)):
        assert told.codebook.shape == (K,) and not told.codebook.requires_grad
        assert told.codebook.dtype == told.decay.dtype
        assert torch.equal(told.codebook[told.decay_index.long()], told.decay)
        assert torch.equal(told.codebook[told.recurrent_decay_index.long()], told.recurrent_decay)
        stored = (
            fields_of(layer).stored("decay"),
            fields_of(layer).index("decay"),
            fields_of(layer).index("recurrent_decay"),
        )
        kept = told.codebook, told.decay_index, told.recurrent_decay_index
        assert not {t.data_ptr() for t in stored} & {t.data_ptr() for t in kept}
    other = make(share="synapse", clusters=None).layer_tensors(OP.names)
    masked = in_snntorch(mask=torch.rand(N, M) < 0.5).layer_tensors(OP.names)
    assert {x for told in (other, masked) for x in (told.decay_index, told.recurrent_decay_index, told.codebook)} == {
        None
    }


def test_steps_and_norses_time_constants_are_those_of_every_synapse() -> None:
    for parametrization in PARAMETRIZATIONS:
        layer = in_norse(parametrization=parametrization)
        tau_inv = layer.p.tau_syn_inv.detach()
        assert tau_inv.shape == (N, M)
        torch.testing.assert_close(torch.exp(-DT * tau_inv), layer.p.tensor("decay").detach())
    layer = in_snntorch()
    x = (torch.rand(T, B, M) < 0.3).double()
    whole, by_steps = layer(x), copy.deepcopy(layer)
    by_steps.reset_mem()
    stepped = torch.stack([by_steps(x_t) for x_t in x])
    assert torch.equal(whole, stepped)
    whole.sum().backward()
    stepped.sum().backward()
    torch.testing.assert_close(by_steps.alpha_codebook.grad, layer.alpha_codebook.grad, rtol=1e-9, atol=1e-10)


def test_an_optimiser_that_overshoots_is_bounded_and_clamped() -> None:
    layer = in_snntorch()
    with torch.no_grad():
        layer.alpha_codebook[0], layer.alpha_codebook[-1] = -0.3, 1.4
    assert layer.alpha.min() == 0 and layer.alpha.max() <= 1
    hetsyn_plugins.clamp_(layer)
    assert layer.alpha_codebook.min() == 0 and layer.alpha_codebook.max() == 1
    layer = in_snntorch(reassign=True)
    with torch.no_grad():
        layer.alpha_latent[0, 0], layer.rec_alpha_latent[0, 0] = -0.3, 1.4
    hetsyn_plugins.clamp_(layer)
    assert layer.alpha_latent[0, 0] == 0 and layer.rec_alpha_latent[0, 0] == 1


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_the_codebook_as_plain_data_is_that_of_every_synapse(parametrization: str) -> None:
    layer = in_snntorch(parametrization=parametrization)
    codebook = layer.codebook()
    assert codebook.decays.shape == (K,)
    assert np.array_equal(codebook.decays[codebook.input_index], layer.alpha.detach().numpy())
    assert np.array_equal(codebook.decays[codebook.recurrent_index], layer.rec_alpha.detach().numpy())
    assert in_snntorch(share="synapse", clusters=None).codebook() is None

    turned = Codebook(codebook.decays[::-1].copy(), *(K - 1 - index for index in codebook[1:]))
    layer.set_codebook(turned)
    kept = turned.decays if parametrization == "decay" else codebook.decays  # the decays of taus come with the taus
    for given, found in zip((kept, *turned[1:]), layer.codebook(), strict=True):
        np.testing.assert_array_equal(found, given)


def test_half_layers_keep_their_codebook_and_latent_decays_in_float32() -> None:
    layer = HetSynLeaky(M, N, share="codebook", clusters=K, reassign=True).bfloat16()
    assert layer.weight.dtype == torch.bfloat16
    assert layer.alpha_codebook.dtype == layer.alpha_latent.dtype == torch.float32
    assert layer.double().alpha_codebook.dtype == FLOAT64 and layer.alpha_index.dtype == torch.int32


def test_the_state_dict_brings_codebook_and_index_back() -> None:
    layer, other = in_snntorch(), in_snntorch(decay=0.5, recurrent_decay=0.6)
    assert not torch.equal(other.alpha_index, layer.alpha_index)
    other.load_state_dict(layer.state_dict())
    x = (torch.rand(T, B, M) < 0.3).double()
    assert torch.equal(other(x), layer(x)) and torch.equal(other.alpha_index, layer.alpha_index)


@pytest.mark.parametrize("wrong", [K, -1])
@pytest.mark.parametrize("name", ["alpha_index", "rec_alpha_index"])
def test_an_index_that_was_written_to_is_refused_by_name(name: str, wrong: int) -> None:
    layer = in_snntorch()
    getattr(layer, name)[2, 3] = wrong
    with pytest.raises(ValueError, match=f"^{name}: expected numbers of the codebook's {K} decays, 0 to {K - 1}, got"):
        layer((torch.rand(T, B, M) < 0.3).double())


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("alpha_index", K, rf"alpha_index: expected numbers of the codebook's {K} decays, 0 to {K - 1}, got 0 to {K}"),
        ("rec_alpha_index", -1, rf"rec_alpha_index: expected numbers of the codebook's {K} decays, .* got -1 to "),
        ("alpha_index", 0.5, r"alpha_index: expected whole numbers of shape \(5, 7\), got float32"),
        ("alpha_codebook", torch.nan, "alpha_codebook: expected finite values, got"),
    ],
)
def test_a_state_dict_with_a_wrong_index_is_refused(name: str, wrong: Any, message: str) -> None:
    layer = in_snntorch()
    state = layer.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    bad = state[name].float() if isinstance(wrong, float) and "index" in name else state[name].clone()
    bad.view(-1)[-1] = wrong
    bad.view(-1)[0] = 0
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict({**state, name: bad})
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} is as it was"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": None}, "clusters: expected a whole number of decays, at least 1, got None"),
        ({"clusters": 0}, "clusters: expected a whole number of decays, at least 1, got 0"),
        ({"clusters": 2.5}, "clusters: expected a whole number of decays, at least 1, got 2.5"),
        ({"clusters": True}, "clusters: expected a whole number of decays, at least 1, got True"),
        (
            {"clusters": N * M + N * N + 1},
            f"clusters: expected at most {N * M + N * N}, as many as there are synapses, got {N * M + N * N + 1}",
        ),
        ({"share": "synapse"}, f"share: expected 'codebook' beside clusters={K}, got 'synapse'"),
        (
            {"share": "neuron", "clusters": None, "reassign": True, "decay": 0.5, "recurrent_decay": 0.5},
            "share: expected 'codebook' beside reassign=True, got 'neuron'",
        ),
        ({"tie_reset": True}, "tie_reset: expected share='neuron' or 'layer' with it, got share='codebook'"),
        ({"decay": 1.5}, r"(alpha|tau_syn_inv): expected"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        in_snntorch(**options)
    if "decay" not in options:
        with pytest.raises(ValueError, match=message):
            in_norse(**options)


def masked_in_snntorch(mask: torch.Tensor, clusters: int) -> Any:
    return HetSynLeaky(M, N, alpha=0.5, mask=mask, share="codebook", clusters=clusters)


def masked_in_norse(mask: torch.Tensor, clusters: int) -> Any:
    p = hetsyn_plugins.adapters.norse.HetSynLIFParameters(mask=mask)
    return HetSynLIF(M, N, p, share="codebook", clusters=clusters)


@pytest.mark.parametrize("host", [masked_in_snntorch, masked_in_norse])
def test_more_clusters_than_a_mask_leaves_synapses_are_refused(host: Any) -> None:
    mask = torch.eye(N, M) == 1
    host(mask, N)
    with pytest.raises(ValueError, match=f"clusters: expected at most {N}, as many as there are synapses, got {N + 1}"):
        host(mask, N + 1)


# ---- where training begins, and who has which decay


def test_every_synapse_begins_with_the_nearest_of_the_best_decays() -> None:
    layer, drawn = in_snntorch(reassign=True), start()
    assert torch.equal(layer.alpha_latent, drawn["decay"]) and torch.equal(
        layer.rec_alpha_latent, drawn["recurrent_decay"]
    )
    assert layer.reassign_(256) == 0
    far = in_snntorch(clusters=N * M + N * N)
    torch.testing.assert_close(far.alpha, drawn["decay"], rtol=0, atol=0)


def test_one_decay_for_all_is_there_k_times_and_grows_apart() -> None:
    torch.manual_seed(0)
    layer = HetSynLeaky(M, N, share="codebook", clusters=K, init_hidden=True)
    assert layer.alpha_codebook.tolist() == [pytest.approx(0.9)] * K
    layer((torch.rand(T, B, M) < 0.3).float()).square().sum().backward()
    assert len(layer.alpha_codebook.grad.unique()) == K


@BOTH
def test_latent_decays_are_trained_straight_through_and_move_their_synapses(make: Any) -> None:
    """Their gradient is that of a decay of the synapse's own; values are those of the codebook until `reassign_`."""
    torch.manual_seed(0)
    layer, without = make(reassign=True), make()
    x, grad = (torch.rand(T, B, M) < 0.3).double(), torch.randn(T, B, N, dtype=FLOAT64)
    for each in (layer, without):
        spikes_of(each, x).backward(grad)
    fields = fields_of(layer)
    book = fields.stored("decay")
    torch.testing.assert_close(book.grad, fields_of(without).stored("decay").grad, rtol=1e-9, atol=1e-10)
    for k in range(K):
        total = sum(fields.latent(f).grad[fields.index(f) == k].sum() for f in ("decay", "recurrent_decay"))
        torch.testing.assert_close(book.grad[k], total, rtol=1e-9, atol=1e-10)
    with torch.no_grad():  # the codebook moves, out of order too
        book[:2] = torch.tensor([0.97, 0.55])
        fields.latent("decay")[2, 3] = 0.001
    moved = hetsyn_plugins.reassign_(layer, T)
    scale, decays = Scale(T), book.detach().numpy()
    assert moved > 0 and hetsyn_plugins.reassign_(layer, T) == 0
    for field in ("decay", "recurrent_decay"):
        latent = fields.latent(field).detach().numpy()
        want = np.abs(scale.place(decays) - scale.place(latent)[..., None]).argmin(-1)
        np.testing.assert_array_equal(fields.index(field), want)
        np.testing.assert_array_equal(fields.tensor(field).detach(), decays[want])


def test_nothing_to_reassign_is_said() -> None:
    with pytest.raises(ValueError, match="net: expected a layer with share='codebook' and reassign=True, got none"):
        hetsyn_plugins.reassign_(in_snntorch(), T)
    with pytest.raises(
        ValueError, match="reassign: expected a layer with share='codebook' and reassign=True, got False"
    ):
        in_snntorch().reassign_(T)
    with pytest.raises(ValueError, match="net: expected a torch module, got int"):
        trainable.reassign_(3, T)  # type: ignore[arg-type]  # what is tested


def test_from_params_takes_the_decays_as_they_are() -> None:
    params = in_snntorch().to_params()
    layer = RHetSynLeaky.from_params(params, share="codebook")
    assert layer.clusters == K
    np.testing.assert_array_equal(layer.to_params().decay, params.decay)
    np.testing.assert_array_equal(layer.to_params().recurrent_decay, params.recurrent_decay)
    with pytest.raises(ValueError, match="clusters: expected at most"):
        RHetSynLeaky.from_params(params, share="codebook", clusters=1000)


# ---- sums over those who share


def test_sums_are_added_up_in_float64() -> None:
    """100,000 gradients of about 1: in float32 one after the other they would lose five digits."""
    index = torch.randint(0, 3, (100_000,), dtype=torch.int32)
    decays = torch.rand(3, requires_grad=True)
    gradient = torch.rand(100_000) + 0.5
    shared(decays, index).backward(gradient)
    for k in range(3):
        torch.testing.assert_close(decays.grad[k].double(), gradient[index == k].double().sum(), rtol=1e-7, atol=0)


def test_gradients_of_every_row_are_those_of_the_rows(make: Any = HetSynLeaky) -> None:
    """torch.func: one gradient of the codebook for each row of the batch."""
    layer = make(M, N, share="codebook", clusters=K, init_hidden=False)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    x = (torch.rand(T, B, M) < 0.4).float()

    def loss(parameters: Any, rows: torch.Tensor) -> torch.Tensor:
        spikes, *_ = torch.func.functional_call(layer, parameters, (rows[:, None],))
        return spikes.square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, x)["alpha_codebook"]
    for row in range(B):
        alone = torch.func.grad(loss)(parameters, x[:, row])["alpha_codebook"]
        torch.testing.assert_close(each[row], alone)
