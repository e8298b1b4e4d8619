"""What a layer trains: shares, parametrizations, bounds, dtypes. Both adapters are made of it; here: snnTorch's."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import prune

pytest.importorskip("snntorch")

import hetsyn_plugins
from hetsyn_plugins import HetSynParams
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.core import initialisers
from hetsyn_plugins.ops import trainable
from hetsyn_plugins.ops.trainable import (
    PARAMETRIZATIONS,
    Bounded,
    bounded,
    check_tied,
    decay_from_stored,
    share_of,
    stored_from_decay,
)

N, M, DT = 5, 4, 1e-3


# ---- the decay that a stored tensor stands for


@pytest.mark.parametrize("log", [False, True])
def test_gradient_of_tau_is_its_finite_difference(log: bool) -> None:
    """Central differences of exp(-dt / tau) in float64; h = 1e-6 relative: truncation and rounding below 1e-8."""
    tau = torch.tensor([2e-4, 1e-3, 20e-3, 0.7, 30.0], dtype=torch.float64)
    p = (tau.log() if log else tau).requires_grad_()
    decay = decay_from_stored(p, "log_tau" if log else "tau", DT)
    (slope,) = torch.autograd.grad(decay.sum(), p)
    h = 1e-6 * (torch.ones_like(tau) if log else tau)

    def r(stored: Tensor) -> Tensor:
        return torch.exp(-DT / (stored.exp() if log else stored))

    numeric = (r(p.detach() + h) - r(p.detach() - h)) / (2 * h)
    torch.testing.assert_close(slope, numeric, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tau_zero_and_infinity_are_r_zero_and_one_with_finite_gradients(dtype: torch.dtype) -> None:
    ends = torch.tensor([0.0, torch.inf], dtype=dtype)
    for log, p in ((False, ends), (True, ends.log())):
        p = p.clone().requires_grad_()
        r = decay_from_stored(p, "log_tau" if log else "tau", DT)
        assert r.tolist() == [0.0, 1.0]
        (slope,) = torch.autograd.grad(r.sum(), p)
        assert slope.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize(("dtype", "steps"), [(torch.float32, 4), (torch.float64, 2)])
def test_a_decay_survives_every_parametrization(parametrization: str, dtype: torch.dtype, steps: int) -> None:
    """Within 4 ulp of 1 (float32) or 2 (float64); a second conversion returns the same bits. Ends are exact."""
    ends = torch.tensor([0.0, 1.0, 0.5], dtype=dtype)
    decay = torch.cat([torch.rand(20_000, dtype=dtype), 1 - torch.rand(20_000, dtype=dtype) ** 8, ends])
    stored = stored_from_decay(decay, parametrization, DT)
    again = decay_from_stored(stored, parametrization, DT)
    assert (again - decay).abs().max() <= steps * torch.finfo(dtype).eps
    assert torch.equal(again[-3:-1], decay[-3:-1])
    twice = decay_from_stored(stored_from_decay(again, parametrization, DT), parametrization, DT)
    assert torch.equal(twice, again)


def test_bounded_lets_only_the_way_back_through() -> None:
    p = torch.tensor([-0.5, -0.5, 0.5, 0.5, 1.5, 1.5], requires_grad=True)
    push = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])  # a descent step moves p by minus this
    r = Bounded.apply(p, 0.0, 1.0)
    assert r.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    (gradient,) = torch.autograd.grad((r * push).sum(), p)
    assert gradient.tolist() == [0, -1, 1, -1, 1, 0]


@pytest.mark.parametrize("outside", [False, True])
def test_values_on_the_bounds_are_free_in_both_directions(outside: bool) -> None:
    """r = 0 and r = 1 are allowed values: no gradient is taken from them, whether others are out of range or not."""
    p = torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0 if outside else 0.5], requires_grad=True)
    push = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    (gradient,) = torch.autograd.grad((bounded(p, 0.0, 1.0) * push).sum(), p)
    assert torch.equal(gradient, push)
    assert bounded(p, 0.0, 1.0).tolist() == [0, 0, 1, 1, 1 if outside else 0.5]


def test_what_is_inside_is_handed_on_itself() -> None:
    """No node of the graph, which a step would pay for; nor is anything looked at where torch is compiling."""
    p = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    assert bounded(p, 0.0, 1.0) is p and bounded(p, -1.0, 2.0) is p
    assert bounded(p, 0.1, 1.0) is not p and bounded(p, 0.0, 0.9) is not p


def test_a_batch_of_layers_is_bounded_one_by_one() -> None:
    """vmap has no values to look at."""
    p = torch.tensor([[-0.5, 0.5, 1.5], [0.0, 0.5, 1.0]])
    push = torch.tensor([1.0, 1.0, -1.0])
    many = torch.func.vmap(torch.func.grad(lambda row: (bounded(row, 0.0, 1.0) * push).sum()))(p)
    assert many.tolist() == [[0, 1, 0], [1, 1, -1]]


def test_nan_is_not_inside() -> None:
    p = torch.tensor([0.5, torch.nan, 1.5], requires_grad=True)
    assert bounded(p, 0.0, 1.0)[::2].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("log", [False, True])
def test_the_decay_of_a_float32_tau_is_rounded_once(log: bool) -> None:
    """exp(-dt / tau) in float64, then float32: in float32 throughout, long taus lose their last bits."""
    tau = torch.logspace(-4, 2, 601, dtype=torch.float64)
    stored = (tau.log() if log else tau).float()
    exact = np.exp(-DT / (np.exp(stored.double().numpy()) if log else stored.double().numpy()))
    got = decay_from_stored(stored, "log_tau" if log else "tau", DT).numpy()
    np.testing.assert_array_equal(got, exact.astype(np.float32))


# ---- layers


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize(
    ("share", "decay", "shape"),
    [
        ("synapse", 0.9, (N, M)),
        ("synapse", torch.rand(1, M), (N, M)),
        ("synapse", torch.rand(N), (N, M)),
        ("neuron", 0.9, (N,)),
        ("neuron", torch.rand(N, 1), (N,)),
        ("layer", 0.9, ()),
    ],
)
def test_what_is_trained_has_the_shape_of_its_share(
    share: str, decay: Any, shape: tuple[int, ...], parametrization: str
) -> None:
    layer = HetSynLeaky(M, N, alpha=decay, share=share, parametrization=parametrization, dt=DT)
    suffix = "" if parametrization == "decay" else f"_{parametrization}"
    trained = dict(layer.named_parameters())
    assert set(trained) == {"weight", f"alpha{suffix}"} and trained[f"alpha{suffix}"].shape == shape
    expected = torch.as_tensor(decay, dtype=torch.float32)
    expected = expected[:, None] if expected.ndim == 1 else expected
    full = torch.from_numpy(layer.to_params().expanded().decay.copy())
    # 4 ulp of a number below 1, as promised for a changed parametrization; r itself keeps its bits
    limit = 0 if parametrization == "decay" else 4 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(full, expected.expand(N, M), rtol=0, atol=limit)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_the_gradient_reaches_what_is_stored(parametrization: str) -> None:
    """dLoss/dstored = dLoss/dr dr/dstored, the first factor from a layer that trains r itself."""
    plain = HetSynLeaky(M, N, alpha=torch.rand(N, M, dtype=torch.float64) * 0.8 + 0.1)
    layer = HetSynLeaky.from_params(plain.to_params(), parametrization=parametrization, dt=DT)
    x = (torch.rand(20, 3, M) < 0.5).double()
    for one in (plain, layer):
        one(x)[-1].square().sum().backward()
    stored = layer.stored("decay")
    assert plain.alpha.grad is not None and stored.grad is not None
    r = plain.alpha.detach()
    tau = -DT / r.log()
    slope = {"decay": torch.ones_like(r), "tau": r * DT / tau**2, "log_tau": r * DT / tau}[parametrization]
    torch.testing.assert_close(stored.grad, plain.alpha.grad * slope, rtol=1e-9, atol=1e-9 * float(slope.max()))


def test_learn_flags_make_parameters_or_buffers() -> None:
    every = {"beta", "threshold", "rec_alpha", "adaptation_decay", "adaptation_strength", "alpha"}
    options: dict[str, Any] = {"adaptation_decay": 0.9, "adaptation_strength": 0.1, "bias": True}
    fixed = RHetSynLeaky(M, N, learn_alpha=False, learn_rec_alpha=False, **options)
    assert {n for n, _ in fixed.named_parameters()} == {"weight", "rec_weight", "bias"}
    assert every <= {n for n, _ in fixed.named_buffers()}
    trained = RHetSynLeaky(M, N, learn_beta=True, learn_threshold=True, learn_adaptation=True, **options)
    assert every <= {n for n, _ in trained.named_parameters()}
    trained(torch.rand(20, 2, M) * 3)[-1].sum().backward()
    assert all(p.grad is not None for p in trained.parameters())


@pytest.mark.parametrize("share", ["neuron", "layer"])
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_tied_resets_stay_tied(share: str, parametrization: str) -> None:
    layer = RHetSynLeaky(M, N, share=share, tie_reset=True, parametrization=parametrization, dt=DT)
    check_tied(layer.to_params())
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-4 if parametrization == "tau" else 1e-3)
    before = layer.to_params().decay.copy()
    for _ in range(5):
        optimiser.zero_grad()
        layer(torch.rand(20, 2, M) * 2)[-1].square().sum().backward()
        optimiser.step()
        params = layer.to_params()
        check_tied(params)
        assert params.is_neuron_heterogeneous()
    assert (params.decay != before).any() and params.is_lif() == (share == "layer")
    assert "beta" not in dict(layer.named_parameters()) and "beta" not in layer.state_dict()


def test_tie_reset_needs_one_decay_a_neuron() -> None:
    with pytest.raises(ValueError, match="tie_reset: expected share='neuron' or 'layer' with it, got share='synapse'"):
        HetSynLeaky(M, N, tie_reset=True)
    different = HetSynParams(np.ones((N, M)), 0.9, reset_decay=0.8)
    with pytest.raises(
        ValueError, match="tie_reset: expected one decay a neuron for synapses and reset, got different"
    ):
        HetSynLeaky.from_params(different, share="layer", tie_reset=True)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_clamp_projects_back_into_range(parametrization: str) -> None:
    layer = HetSynLeaky(M, N, learn_threshold=True, parametrization=parametrization, dt=DT)
    with torch.no_grad():
        layer.stored("decay")[0, :2] = torch.tensor([-3.0, 3.0])
        layer.threshold.fill_(-1.0)
    used = layer.to_params()  # never raises: what is used is in range before the projection too
    layer.clamp_()
    for field in ("decay", "threshold"):
        np.testing.assert_array_equal(getattr(layer.to_params(), field), getattr(used, field))
    assert layer.threshold > 0
    low = layer.stored("decay")[0, 0]
    assert low == {"decay": 0, "tau": 0, "log_tau": -3}[parametrization]


def test_clamp_projects_every_decay() -> None:
    adaptation: dict[str, Any] = {"adaptation_decay": 0.9, "adaptation_strength": 0.1, "learn_adaptation": True}
    layer = RHetSynLeaky(M, N, learn_beta=True, **adaptation)
    decays = [layer.stored(field) for field in ("decay", "recurrent_decay", "reset_decay", "adaptation_decay")]
    with torch.no_grad():
        for decay in decays:
            decay.fill_(1.5)
    layer.clamp_()
    assert all((decay == 1).all() for decay in decays)


def test_second_derivatives_through_tau_are_refused() -> None:
    """The slope is a saved number: differentiated again it would be a constant, which is wrong."""
    tau = torch.tensor(20e-3, requires_grad=True)
    (slope,) = torch.autograd.grad(decay_from_stored(tau, "tau", DT), tau, create_graph=True)
    with pytest.raises(RuntimeError, match="trained tau: its gradients cannot be differentiated again"):
        slope.backward()


# ---- start values


@pytest.mark.parametrize(("share", "shape", "recurrent"), [("neuron", (N,), (N,)), ("layer", (), ())])
@pytest.mark.parametrize("tie_reset", [False, True])
@pytest.mark.parametrize("kind", [initialisers.UniformTau, initialisers.NormalTau, initialisers.LogNormalTau])
def test_initialisers_draw_what_is_shared(
    kind: Any, tie_reset: bool, share: str, shape: tuple[int, ...], recurrent: tuple[int, ...]
) -> None:
    start = kind(5e-3, 20e-3, DT)
    layer = RHetSynLeaky(M, N, alpha=start, rec_alpha=start, beta=start, share=share, tie_reset=tie_reset)
    assert layer.alpha.shape == shape and layer.rec_alpha.shape == recurrent
    assert ((layer.alpha > 0) & (layer.alpha < 1)).all() and len(layer.alpha.unique()) == layer.alpha.numel()
    params = layer.to_params()
    assert params.is_neuron_heterogeneous() == tie_reset


def test_weights_start_with_the_variance_of_their_fan_in() -> None:
    """N(0, 1 / fan_in); the tolerance is five standard errors of a standard deviation, 1 / sqrt(2 n)."""
    torch.manual_seed(0)
    n, m = 40, 1000
    layer = RHetSynLeaky(m, n)
    for weight, fan_in in ((layer.weight, m), (layer.rec_weight, n)):
        expected = fan_in**-0.5
        assert abs(weight.std().item() - expected) < 5 * expected / (2 * weight.numel()) ** 0.5
        assert abs(weight.mean().item()) < 5 * expected / weight.numel() ** 0.5


# ---- dtypes


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_decays_stay_float32_in_half_layers(half: torch.dtype, parametrization: str) -> None:
    layer = RHetSynLeaky(
        M, N, parametrization=parametrization, dt=DT, adaptation_decay=0.99, adaptation_strength=0.1, bias=True
    )
    layer(torch.rand(3, 2, M))[-1].sum().backward()
    before = layer.to_params()
    for convert in (lambda m: m.to(half), lambda m: m.half() if half == torch.float16 else m.bfloat16()):
        other = convert(copy.deepcopy(layer))
        kinds = {n: t.dtype for n, t in other.state_dict().items()}
        decays = {n for n in kinds if n.startswith(("alpha", "beta", "rec_alpha", "adaptation_decay"))}
        assert len(decays) == 4 and {kinds[n] for n in decays} == {torch.float32}
        assert {kinds[n] for n in ("weight", "rec_weight", "threshold", "bias")} == {half}
        np.testing.assert_array_equal(other.to_params().decay, before.decay)
        stored = other.stored("decay")
        assert stored.grad is None or stored.grad.dtype == torch.float32
    assert layer.double().stored("decay").dtype == torch.float64


def test_a_half_layer_from_the_start() -> None:
    layer = HetSynLeaky(M, N, dtype=torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16 and layer.alpha.dtype == torch.float32
    spk, *_, mem = layer(torch.rand(3, 2, M).bfloat16())
    assert spk.dtype == torch.bfloat16 and torch.isfinite(mem.float()).all()


def test_dtype_follows_the_widest_tensor_and_numbers_are_rounded_to_it() -> None:
    assert HetSynLeaky(M, N, weight=torch.ones(N, M).double(), alpha=0.1).alpha.dtype == torch.float64
    assert HetSynLeaky(M, N, alpha=np.full((N, M), 0.1)).alpha.dtype == torch.float32
    assert HetSynLeaky(M, N, alpha=initialisers.ConstantDecay(0.1), dtype=torch.float64).weight.dtype == torch.float64
    assert torch.equal(HetSynLeaky(M, N, threshold=2).threshold, HetSynLeaky(M, N, threshold=2.0).threshold)
    with pytest.raises(
        ValueError, match=r"alpha: expected torch.float64 like the layer, got a tensor of torch.float32"
    ):
        HetSynLeaky(M, N, alpha=torch.full((), 0.1), weight=torch.ones(N, M).double())


# ---- state_dict


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_state_dict_returns_the_same_bits(parametrization: str) -> None:
    start = initialisers.LogNormalTau(20e-3, 1.0, DT)
    one, other = (
        RHetSynLeaky(M, N, alpha=start, rec_alpha=start, parametrization=parametrization, dt=DT) for _ in range(2)
    )
    other.load_state_dict(one.state_dict())
    for field, value in one.tensors().items():
        assert value is None or torch.equal(value, other.tensors()[field])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", torch.nan),
        ("alpha", torch.inf),  # only a tau, or its logarithm, may be infinite
        ("weight", torch.inf),
        ("threshold", -1.0),
        ("beta", torch.nan),
    ],
)
def test_values_that_no_training_gives_are_not_loaded(name: str, value: float) -> None:
    layer = HetSynLeaky(M, N)
    before = {n: t.clone() for n, t in layer.state_dict().items()}
    broken = {**before, name: torch.full_like(before[name], value)}
    with pytest.raises(RuntimeError, match=f"{name}: expected finite values, got"):
        layer.load_state_dict(broken)
    assert all(torch.equal(t, before[n]) for n, t in layer.state_dict().items()), "nothing is loaded by half"


def test_entries_of_ones_own_are_looked_through_for_what_is_not_finite() -> None:
    errors: list[str] = []
    entries = {"a.x": torch.zeros(2), "a.note": "no tensor", "a.y": torch.tensor([1.0, torch.inf]), "y": torch.zeros(1)}
    assert trainable.all_finite(entries, "a.", ("x", "note", "missing"), errors) and errors == []
    assert not trainable.all_finite(entries, "a.", ("x", "y"), errors)
    assert len(errors) == 1 and errors[0].startswith("a.y: expected finite values, got ")


def test_an_overshot_decay_is_loaded_as_it_was_trained() -> None:
    layer, other = HetSynLeaky(M, N), HetSynLeaky(M, N)
    with torch.no_grad():
        layer.alpha[0, 0] = 1.25
    other.load_state_dict(layer.state_dict())
    assert other.alpha[0, 0] == 1.25 and other.to_params().decay[0, 0] == 1.0


# ---- wrong options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"share": "line"}, ValueError, "share: expected one of synapse, neuron, layer, codebook, got 'line'"),
        ({"parametrization": "tau"}, ValueError, "dt: expected a step length in seconds for parametrization='tau'"),
        ({"parametrization": "r"}, ValueError, "parametrization: expected one of decay, tau, log_tau, got 'r'"),
        ({"dt": -1.0}, ValueError, "dt: expected a step length in seconds, finite and > 0, got -1"),
        (
            {"share": "neuron", "alpha": torch.rand(N, M)},
            ValueError,
            r"alpha: expected shape \(\) or \(5,\) with share",
        ),
        ({"share": "layer", "alpha": torch.rand(N)}, ValueError, r"alpha: expected shape \(\) with share='layer'"),
        ({"alpha": torch.rand(M)}, ValueError, r"alpha: expected shape \(5, 4\)"),
        ({"alpha": 2.0}, ValueError, r"alpha: expected decays in \[0, 1\], got 2"),
        ({"beta": -1.0}, ValueError, r"beta: expected decays in \[0, 1\], got -1"),
        ({"threshold": 0.0}, ValueError, "threshold: expected finite values > 0, got 0"),
        ({"weight": torch.ones(M, N)}, ValueError, r"weight: expected shape \(5, 4\), got \(4, 5\)"),
        (
            {"weight": torch.ones(N, M).long()},
            ValueError,
            "weight: expected a floating dtype, got torch.int64",
        ),
        ({"dtype": torch.int64}, ValueError, r"dtype: expected a floating dtype, got torch\.int64"),
        ({"weight": np.ones((N, M), int)}, ValueError, "weight: expected floating-point numbers, got int64"),
        ({"adaptation_decay": 0.9}, ValueError, "adaptation_strength: expected together with adaptation_decay"),
        ({"rec_alpha": 0.9}, TypeError, "rec_alpha"),
        ({"aplha": 0.9}, TypeError, "aplha"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HetSynLeaky(M, N, **options)


def test_share_of_keeps_the_number_of_decays() -> None:
    weight, square = np.ones((N, M)), np.ones((N, N))
    for decay, recurrent, share in [
        (0.5, None, "layer"),
        (np.full(N, 0.5), None, "neuron"),
        (np.full((N, 1), 0.5), None, "neuron"),
        (np.full((1, M), 0.5), None, "synapse"),
        (np.full((N, M), 0.5), 0.5, "synapse"),
        (0.5, np.full(N, 0.5), "neuron"),
    ]:
        extra = {} if recurrent is None else {"recurrent_weight": square, "recurrent_decay": recurrent}
        assert share_of(HetSynParams(weight, decay, reset_decay=0.5, **extra)) == share


# ---- an initialiser's step and the layer's


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: HetSynLeaky(M, N, initialisers.NormalTau(20e-3, 5e-3, 5e-3), dt=1e-3),
            "alpha: expected an initialiser with dt=0.001 like the layer, got dt=0.005",
        ),
        (
            lambda: HetSynLeaky(
                M, N, initialisers.ConstantTau(20e-3, 1e-3), beta=initialisers.ConstantTau(20e-3, 4e-3)
            ),
            "beta: expected an initialiser with dt=0.001 like alpha, got dt=0.004",
        ),
        (
            lambda: RHetSynLeaky(M, N, rec_alpha=initialisers.UniformTau(0.0, 20e-3, 5e-3), dt=1e-3),
            "rec_alpha: expected an initialiser with dt=0.001 like the layer, got dt=0.005",
        ),
    ],
)
def test_initialisers_of_another_step_are_refused(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_initialisers_of_another_step_are_refused_by_the_others_too() -> None:
    norse = pytest.importorskip("hetsyn_plugins.adapters.norse")
    p = norse.HetSynLIFParameters(tau_syn_inv=initialisers.NormalTau(20e-3, 5e-3, 5e-3))
    with pytest.raises(
        ValueError, match=r"tau_syn_inv: expected an initialiser with dt=0.001 like the layer, got dt=0"
    ):
        norse.HetSynLIF(M, N, p)
    norse.HetSynLIF(M, N, p, dt=5e-3)
    slayer = pytest.importorskip("hetsyn_plugins.adapters.lava_dl.slayer")
    with pytest.raises(ValueError, match=r"decay: expected an initialiser with dt=0.001 like the layer, got dt=0.005"):
        slayer.Dense({"threshold": 1.0}, M, N, decay=initialisers.NormalTau(20e-3, 5e-3, 5e-3), dt=1e-3)


# ---- clamp_ of a whole network


def pushed_out(net: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for p in net.parameters():
            p.add_(3.0)
    return net


def largest_decays(net: torch.nn.Module) -> list[float]:
    """Of what is stored, not of what is used."""
    held = [part for part in net.modules() if isinstance(part, trainable.TrainableFields)]
    return [part.stored("decay").max().item() for part in held if "decay" in part.names]


def test_a_whole_network_is_clamped() -> None:
    norse = pytest.importorskip("hetsyn_plugins.adapters.norse")
    inner = torch.nn.ModuleDict({"a": RHetSynLeaky(M, N), "b": torch.nn.Linear(3, 3)})
    net = torch.nn.Sequential(HetSynLeaky(M, N), torch.nn.Sequential(inner), norse.HetSynLIFCell(M, N))
    assert min(largest_decays(pushed_out(net))) > 3
    assert hetsyn_plugins.clamp_(net) is None
    assert largest_decays(net) == [1.0, 1.0, 1.0]
    hetsyn_plugins.clamp_(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="net: expected a torch module, got list"):
        hetsyn_plugins.clamp_([net])  # type: ignore[arg-type]


def test_a_block_of_slayer_is_clamped() -> None:
    slayer = pytest.importorskip("hetsyn_plugins.adapters.lava_dl.slayer")
    net = pushed_out(
        torch.nn.Sequential(slayer.Recurrent({"threshold": 1.0}, M, N), slayer.Affine({"threshold": 1.0}, N, 2))
    )
    assert len(largest_decays(net)) == 3 and min(largest_decays(net)) > 3
    hetsyn_plugins.clamp_(net)
    assert largest_decays(net) == [1.0, 1.0, 1.0]


def test_what_torchs_tools_hold_is_clamped() -> None:
    """Pruned decays, weights with a norm of their own, decays behind a parametrization with and without an inverse."""
    pruned = HetSynLeaky(M, N)
    prune.l1_unstructured(pruned, "alpha", 5)
    normed = torch.nn.utils.parametrizations.weight_norm(HetSynLeaky(M, N), "weight")
    halved, one_way = HetSynLeaky(M, N), HetSynLeaky(M, N)
    torch.nn.utils.parametrize.register_parametrization(halved, "alpha", Halved())
    torch.nn.utils.parametrize.register_parametrization(one_way, "alpha", OneWay())
    net = pushed_out(torch.nn.Sequential(pruned, normed, halved, one_way))
    hetsyn_plugins.clamp_(net)
    assert pruned.alpha_orig.max() == 1.0 and normed.alpha.max() == 1.0
    assert halved.alpha.max() == 1.0 and halved.parametrizations.alpha.original.max() == 2.0
    assert one_way.tensor("decay").max() == 1.0, "bounded where it is used"


def test_what_torchs_tools_make_before_a_call_is_made_anew_and_no_more() -> None:
    layer, calls = HetSynLeaky(M, N), []
    prune.l1_unstructured(layer, "weight", 5)
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        layer.weight_orig.mul_(2)
    trainable.recompute(layer)
    assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask) and not calls


class OneWay(torch.nn.Module):
    def forward(self, p: Tensor) -> Tensor:
        return p / 2


class Halved(OneWay):
    def right_inverse(self, value: Tensor) -> Tensor:
        return value * 2
