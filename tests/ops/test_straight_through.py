"""The quantised op: its forward is the integer core to the bit, its backward the float64 reference's.

Every check takes the code under test, so that the bugs planted at the end run through the very same checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from planting import caught, planted

from hetsyn_plugins import HetSynParams, HetSynState, fixed_point
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import ARRAYS
from hetsyn_plugins.fixed_point.neuron import FixedPointOverflow
from hetsyn_plugins.kernels.cpu import fixed_point as fixed
from hetsyn_plugins.ops import straight_through as quantised

UNIT = 1 / 64
FORMS = ("cluster", "synapse")
KINDS = ("feed-forward", "recurrent", "readout", "adaptation", "bias", "no reset", "everything", "delays")


class Code(NamedTuple):
    """The two modules under test."""

    fixed: Any = fixed
    quantised: Any = quantised


@pytest.fixture
def code() -> Code:
    return Code()


def layer(kind: str, k: int | None = None, n: int = 11, m: int = 7, seed: int = 0) -> HetSynParams:
    """A float64 layer of a kind, with k different decays in its synapses (None: all different)."""
    rng = np.random.default_rng(seed)

    def decays(*shape: int) -> Any:
        return rng.uniform(0, 1, shape) if k is None else rng.choice(np.linspace(0.3, 0.99, k), shape)

    fields: dict[str, Any] = {"reset_decay": rng.uniform(0.5, 1, n)}
    if kind in ("recurrent", "everything", "delays"):
        fields.update(recurrent_weight=rng.normal(0, 0.3, (n, n)), recurrent_decay=decays(n, n))
    if kind in ("adaptation", "everything"):
        fields.update(adaptation_decay=rng.uniform(0.5, 1, n), adaptation_strength=rng.uniform(0.05, 0.3, n))
    if kind in ("bias", "everything"):
        fields.update(bias=rng.normal(0, 0.1, n))
    if kind == "delays":
        fields.update(delay=rng.choice([0.0, 1.0, 6.0], (n, m)), recurrent_delay=rng.choice([0.0, 2.0, 9.0], (n, n)))
    if kind == "no reset":
        fields.update(reset_decay=None)
    if kind == "readout":
        fields.update(reset_decay=None, spiking=False)
    return HetSynParams(rng.normal(0.1, 0.5, (n, m)), decays(n, m), **fields)


def spikes_in(steps: int = 40, batch: int = 3, m: int = 7, seed: int = 1) -> Any:
    """Spikes, some of them graded, and a silent step."""
    rng = np.random.default_rng(seed)
    x = (rng.random((steps, batch, m)) < 0.3) * rng.choice([1.0, 1.0, 1.0, 2.0, -3.0], (steps, batch, m))
    x[3] = 0
    return x


def tensors(params: HetSynParams, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The fields as leaves that want gradients."""
    arrays = {name: getattr(params, name) for name in ARRAYS}
    leaves = {k: torch.tensor(np.array(a)).to(dtype).requires_grad_() for k, a in arrays.items() if a is not None}
    return {"reset_decay": None, **leaves}


# ---- forward ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_the_integer_core(code: Code, form: str, kind: str) -> None:
    for k in (1, 3, 8, 16, None):
        params, x = layer(kind, k), spikes_in()
        p, _ = fixed_point.quantise(params, form=form, unit=UNIT, clip=True)
        want = fixed_point.run(p, x)
        spikes, v = code.quantised.hetsyn_lif_quantised(
            torch.tensor(x), **tensors(params), spiking=params.spiking, unit=UNIT, form=form
        )
        assert np.array_equal(v.detach().numpy(), want.v * UNIT / (1 << p.fraction))
        if params.spiking:
            assert want.spikes.any() and np.array_equal(spikes.detach().numpy(), want.spikes)
        else:
            assert spikes is None


def test_v_has_all_digits_of_the_layers_dtype(code: Code) -> None:
    """Also where the unit is no power of two, and float32 would round."""
    params, x, unit = layer("readout", 3), spikes_in(), 1.1 * UNIT
    p, _ = fixed_point.quantise(params, unit=unit, clip=True)
    want = fixed_point.run(p, x).v * (unit / (1 << p.fraction))
    for dtype in (torch.float64, torch.float32):
        given = tensors(params, dtype)
        _, v = code.quantised.hetsyn_lif_quantised(torch.tensor(x).to(dtype), **given, spiking=False, unit=unit)
        assert v.dtype == dtype and torch.equal(v.detach(), torch.tensor(want).to(dtype))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["everything", "delays"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (8, 4, 2), (9, 5, 4), (17, 13, 1)])
def test_the_kernel_gives_all_that_the_core_gives(
    code: Code, form: str, sizes: tuple[int, int, int], kind: str
) -> None:
    n, m, batch = sizes
    p, _ = fixed_point.quantise(layer(kind, None, n, m), form=form)
    x = spikes_in(30, batch, m)
    want, got = fixed_point.run(p, x), code.fixed.run(p, x)
    for one, other in zip((*want[:2], *want.state, want.peak), (*got[:2], *got.state, got.peak), strict=True):
        assert (one is None and other is None) or np.array_equal(one, other)
    first = code.fixed.run(p, x[:11])
    second = code.fixed.run(p, x[11:], first.state, keep_state=False)
    assert second.state is None and np.array_equal(np.concatenate([first.v, second.v]), want.v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool])
def test_inputs_of_any_dtype_and_stride(code: Code, dtype: torch.dtype) -> None:
    params = layer("recurrent", 3)
    x = (torch.rand(3, 7, 40) < 0.3).to(dtype).permute(2, 0, 1)
    p, _ = fixed_point.quantise(params.astype(np.float32), unit=UNIT, clip=True)
    spikes, _ = code.quantised.hetsyn_lif_quantised(x, **tensors(params, torch.float32), unit=UNIT)
    assert spikes.dtype == torch.float32
    assert np.array_equal(spikes.detach().numpy(), fixed_point.run(p, x.numpy().astype(int)).spikes)


def overflowing(where: str, form: str) -> tuple[Any, Any]:
    """A layer and inputs with which just one kind of state leaves its bits."""
    big = {"weight_exp": 7, "threshold": 131071, "form": form}
    if where == "synaptic":  # a spike at every step is never forgotten
        return fixed_point.FixedParams([[127]], 0, **big), np.ones((2000, 1, 1), int) * 2
    if where == "v":  # each current fits, their sum does not
        lines = 10 if form == "cluster" else 40
        return fixed_point.FixedParams([[127] * lines], [[4096, 4095] * (lines // 2)], **big), np.ones((1, 1, lines))
    p = fixed_point.FixedParams([[127]], 4096, weight_exp=7, threshold=16000, reset_decay=0, form=form)
    p = p.replace(adaptation_decay=0, adaptation_strength=[-16000 << p.fraction])  # v stays, the two others grow
    return p, np.ones((2000, 1, 1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["synaptic", "v", "reset"])
def test_overflow_is_the_cores(code: Code, form: str, where: str) -> None:
    p, x = overflowing(where, form)
    for run in (fixed_point.run, code.fixed.run):
        with pytest.raises(FixedPointOverflow, match=f"layer 'a': the .*{where}.*of neuron 0"):
            run(p, x, name="a")
    want, got = (run(p, x, allow_overflow=True) for run in (fixed_point.run, code.fixed.run))
    assert want.overflows == got.overflows > 0 and np.array_equal(want.v, got.v)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", [0.5, float("nan"), float("inf"), 1e300])
def test_fractions_are_refused(code: Code, form: str, wrong: float) -> None:
    p, _ = fixed_point.quantise(layer("feed-forward", 3), form=form)
    x = spikes_in()
    x[-1, 2, 6] = wrong  # the very last one
    with pytest.raises(ValueError, match=r"inputs: expected (whole numbers|graded spikes of at most 24 bits)"):
        code.fixed.run(p, x)


def test_a_layer_of_no_steps(code: Code) -> None:
    spikes, v = code.quantised.hetsyn_lif_quantised(
        torch.zeros(0, 3, 7, dtype=torch.float64), **tensors(layer("recurrent")), unit=UNIT
    )
    assert spikes.shape == v.shape == (0, 3, 11)


# ---- backward ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("detach_reset", [False, True])
def test_gradients_are_the_references_at_the_rounded_parameters(
    code: Code, form: str, kind: str, detach_reset: bool
) -> None:
    """With many fractional bits v is almost the float neuron's, so that nothing but the parameters is rounded."""
    params, x = layer(kind, 5), spikes_in()
    p, _ = fixed_point.quantise(params, form=form, unit=UNIT, fraction=11, clip=True)
    t, inputs = tensors(params), torch.tensor(x).requires_grad_()
    spikes, v = code.quantised.hetsyn_lif_quantised(
        inputs, **t, spiking=params.spiking, unit=UNIT, form=form, fraction=11, detach_reset=detach_reset
    )
    rng = np.random.default_rng(2)
    g_spikes, g_v = rng.normal(size=v.shape), rng.normal(size=v.shape)
    loss = (v * torch.tensor(g_v)).sum()
    (loss if spikes is None else loss + (spikes * torch.tensor(g_spikes)).sum()).backward()
    rounded = p.to_params()
    want = reference.gradients(
        rounded,
        x,
        grad_spikes=g_spikes if params.spiking else None,
        grad_v=g_v,
        detach_reset=detach_reset,
    )
    if params.spiking:  # the same spikes, so the same gradients but for the last bits
        assert np.array_equal(reference.run(rounded, x)[0], spikes.detach().numpy())
    for name, leaf in [*t.items(), ("inputs", inputs)]:
        if leaf is None or leaf.grad is None:
            assert leaf is None or (name == "threshold" and not params.spiking)
            continue
        grad = want.inputs if name == "inputs" else want.params[name]
        grad = grad.sum() if leaf.grad.ndim == 0 else grad
        np.testing.assert_allclose(leaf.grad.numpy(), grad, rtol=2e-3, atol=2e-3 * abs(grad).max())


def test_the_decay_gradient_is_the_slope_of_the_float_twin(code: Code) -> None:
    """A readout is smooth: finite differences of the float neuron at the rounded decays."""
    params, x = layer("readout", 4), spikes_in()
    t = tensors(params)
    _, v = code.quantised.hetsyn_lif_quantised(torch.tensor(x), **t, spiking=False, unit=UNIT)
    weights = np.random.default_rng(0).normal(size=v.shape)
    (v * torch.tensor(weights)).sum().backward()
    rounded, h = fixed_point.quantise(params, unit=UNIT, clip=True)[0].to_params(), 1e-6
    for i, j in ((0, 0), (3, 5), (10, 6)):
        both = []
        for sign in (1, -1):
            decay = np.array(rounded.decay)
            decay[i, j] += sign * h
            both.append((reference.run(rounded.replace(decay=decay), x)[1] * weights).sum())
        slope = (both[0] - both[1]) / (2 * h)
        assert t["decay"].grad[i, j].item() == pytest.approx(slope, rel=1e-6)


def test_shared_decays_get_the_sum(code: Code) -> None:
    params = layer("recurrent", 1).replace(decay=0.9, recurrent_decay=np.full(11, 0.8), reset_decay=0.7)
    t, full = tensors(params), tensors(params.expanded())
    for leaves in (t, full):
        spikes, _ = code.quantised.hetsyn_lif_quantised(torch.tensor(spikes_in()), **leaves, unit=UNIT)
        (spikes * torch.linspace(0, 1, 11, dtype=torch.float64)).sum().backward()
    torch.testing.assert_close(t["decay"].grad, full["decay"].grad.sum())
    torch.testing.assert_close(t["recurrent_decay"].grad, full["recurrent_decay"].grad.sum(1))


def test_a_weight_beyond_eight_bits_is_only_moved_back(code: Code) -> None:
    weight = torch.full((2, 3), 0.5, dtype=torch.float64)
    weight[0, 0], weight[1, 0] = 300.0, -300.0  # 8 bits, exponent 7 and a unit of 1 / 64: up to 254
    inputs = torch.ones(5, 1, 3, dtype=torch.float64)
    for sign, kept in ((1, [False, True]), (-1, [True, False])):
        leaf = weight.clone().requires_grad_()
        _, v = code.quantised.hetsyn_lif_quantised(
            inputs, leaf, 0.5, reset_decay=None, spiking=False, unit=UNIT, form="synapse"
        )
        assert v[0, 0, 0].item() == pytest.approx(127 * 128 * UNIT, rel=0.01)
        (sign * v).sum().backward()  # descent moves weights by -sign
        assert leaf.grad is not None and (leaf.grad[:, 1:] != 0).all()
        assert (leaf.grad[:, 0] != 0).tolist() == [not k for k in kept]


def test_float32_backward_sees_the_spikes_of_the_integers(code: Code) -> None:
    """One last bit above a threshold of 2^29: float32 puts v on the threshold, where no float neuron fires."""
    p = fixed_point.FixedParams([[127, 1]], 4096, weight_exp=7, threshold=127 << 7, reset_decay=0, form="synapse")
    p = p.replace(bias=[1], fraction=15)
    layer = quantised._rounded_layer(p, torch.zeros(1))
    leaves = [None if a is None else a.clone().requires_grad_() for a in layer]
    x = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    spikes, v, _ = code.quantised.straight_through(
        p, x, quantised.LayerTensors(*leaves), surrogate=quantised.resolve("triangular"), detach_reset=True
    )
    assert spikes[0] == 1 and v[0] == layer.threshold
    v[1].sum().backward()  # the reset current of that spike
    assert leaves[3].grad.item() == pytest.approx(-1)


def test_a_state_goes_on(code: Code) -> None:
    for form in FORMS:
        p, _ = fixed_point.quantise(layer("everything", 3), form=form, unit=UNIT, clip=True)
        x = torch.tensor(spikes_in())
        leaves = quantised.LayerTensors(
            *(None if a is None else a.requires_grad_() for a in quantised._rounded_layer(p, x))
        )
        options = {"surrogate": quantised.resolve(None), "keep_state": True}
        _, whole, _ = code.quantised.straight_through(p, x, leaves, **options)
        _, _, state = code.quantised.straight_through(p, x[:15], leaves, **options)
        spikes, rest, _ = code.quantised.straight_through(p, x[15:], leaves, state=state, **options)
        assert torch.equal(whole[15:], rest)
        if form == "cluster":  # its currents are no synapse's own: the reference cannot start from them
            continue
        (spikes.sum() + rest.sum()).backward()
        parts = [None if part is None else part * UNIT / (1 << p.fraction) for part in state[:4]]
        start = reference.zero_state(p.to_params(), 3)
        start = HetSynState(*parts, state.spikes, start.v)
        ones = np.ones(rest.shape)
        want = reference.gradients(p.to_params(), x[15:].numpy(), start, grad_spikes=ones, grad_v=ones)
        for name, leaf in leaves._asdict().items():
            if leaf is None:  # a delay, or the index of a codebook
                continue
            grad = want.params[name]
            np.testing.assert_allclose(leaf.grad.numpy(), grad, rtol=2e-3, atol=2e-3 * abs(grad).max())


# ---- planted bugs: the checks above must see them ---------------------------------------------------------------


class Bug(NamedTuple):
    """In `module`, `old` becomes `new`; the check must then fail with `says` in its message."""

    name: str
    module: str
    old: str
    new: str
    check: Callable[[Code], None]
    says: str
    error: type[BaseException] = AssertionError


FIXED, QUANTISED = "hetsyn_plugins.kernels.cpu.fixed_point", "hetsyn_plugins.ops.straight_through"
SOMA = "hetsyn_plugins.kernels.cpu.soma"


def forward_of(form: str, kind: str) -> Callable[[Code], None]:
    return lambda code: test_forward_is_the_integer_core(code, form, kind)


def backward_of(form: str, kind: str, detach: bool = False) -> Callable[[Code], None]:
    return lambda code: test_gradients_are_the_references_at_the_rounded_parameters(code, form, kind, detach)


BUGS = [
    Bug("rounds down, not to zero", FIXED, "trunc(mul(c0, u0))", "trunc(sub(mul(c0, u0), splat(0.5)))",
        forward_of("synapse", "feed-forward"),
        "FixedParams(7 -> 11, synapse form, 1 decay words)"),
    Bug("fires at the threshold", FIXED, "(v > (p", "(v >= (p", lambda c: test_float32_backward_at_threshold(c),
        "FixedRun(spikes=array([[[1]]"),
    Bug("the reset decays its spike", FIXED, "load(c_reset, i), load(J, e)", "load(c_adapt, i), load(J, e)",
        forward_of("cluster", "feed-forward"),
        "FixedParams(7 -> 11, cluster form, 1 decay words)"),
    Bug("no bias", FIXED, "adapt), load(bias, i))", "adapt), sub(reset, reset))", forward_of("cluster", "bias"),
        "FixedParams(7 -> 11, cluster form, 1 decay words)"),
    Bug("the last lines unread", FIXED, "for j in range(0, lines, 4):", "for j in range(0, lines - 4, 4):",
        forward_of("synapse", "readout"),
        "FixedParams(7 -> 11, readout, synapse form"),
    Bug("recurrent spikes of the first row", FIXED, "at = (b * rows + (t", "at = ((t",
        forward_of("cluster", "recurrent"),
        "FixedParams(7 -> 11, recurrent, cluster form"),
    Bug("delays of inputs one short", FIXED, "kept + t - delay)", "kept + t - max(delay - 1, 0))",
        forward_of("cluster", "delays"),
        "FixedParams(7 -> 11, recurrent, cluster form"),
    Bug("recurrent delays count from the step itself", FIXED, "(t + rows - delay)",
        "(t + rows - delay + (rows > 1))", forward_of("cluster", "delays"),
        "FixedParams(7 -> 11, recurrent, cluster form"),
    Bug("no past in front of the inputs", FIXED, "if initial is not None and kept:", "if False:",
        lambda c: test_the_kernel_gives_all_that_the_core_gives(c, "cluster", (9, 5, 4), "delays"),
        "array_equal"),
    Bug("blind to overflow of v", FIXED, "larger(magnitude(reset), magnitude(adapt)), magnitude(membrane))",
        "magnitude(reset), magnitude(adapt))", lambda c: test_overflow_is_the_cores(c, "cluster", "v"),
        "FixedPointOverflow", pytest.fail.Exception),
    Bug("blind to overflow of the reset", FIXED,
        "larger(larger(magnitude(reset), magnitude(adapt)), magnitude(membrane))", "magnitude(membrane)",
        lambda c: test_overflow_is_the_cores(c, "synapse", "reset"),
        "FixedPointOverflow", pytest.fail.Exception),
    Bug("fractions pass", FIXED, "if wrong.any():", "if wrong.all():",
        lambda c: test_fractions_are_refused(c, "synapse", 0.5),
        "ValueError", pytest.fail.Exception),
    Bug("backward at the unrounded v", QUANTISED, "(result.v * (fixed.unit / (1 << fixed.fraction)))",
        "(result.v * fixed.unit)", forward_of("cluster", "readout"),
        "FixedParams(7 -> 11, readout, cluster form"),
    Bug("a decay is what is lost", QUANTISED, "layer = _rounded_layer(ctx.fixed, inputs)",
        "layer = _rounded_layer(ctx.fixed, inputs)\n        layer = layer._replace(decay=1 - layer.decay)",
        test_the_decay_gradient_is_the_slope_of_the_float_twin,
        "Expected: 76.5195"),
    Bug("slayer's sign of the decay gradient", QUANTISED, "grads = (g.inputs,",
        "g.layer['decay'] = -g.layer['decay']\n        grads = (g.inputs,",
        backward_of("cluster", "feed-forward"),
        "Mismatched elements: 65 / 77"),
    Bug("reset path never cut", QUANTISED, "ctx.surrogate, ctx.detach_reset, needs_grad",
        "ctx.surrogate, False, needs_grad", backward_of("cluster", "feed-forward", True),
        "Mismatched elements: 9 / 11"),
    Bug("clipped weights stay", QUANTISED, "name: Bounded.apply(w, low, high) for", "name: w for",
        test_a_weight_beyond_eight_bits_is_only_moved_back,
        "assert [True, True] == [True, False]"),
    Bug("float32 forgets a spike", QUANTISED, "v = _agreeing(v, spikes, layer.threshold)", "pass",
        test_float32_backward_sees_the_spikes_of_the_integers,
        "assert 0.0 == -1"),
    Bug("a state is forgotten", QUANTISED, ".run(fixed, x, state, keep_state", ".run(fixed, x, None, keep_state",
        test_a_state_goes_on,
        "built-in method equal"),
]  # fmt: skip


def test_float32_backward_at_threshold(code: Code) -> None:
    """v on the threshold itself does not fire."""
    p = fixed_point.FixedParams([[64]], 4096, threshold=64, form="synapse")
    assert not code.fixed.run(p, np.ones((2, 1, 1))).spikes.any()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug) -> None:
    # with the file of `kernel`, which keeps what is compiled on disk by the name of the source
    around = [SOMA, FIXED] if bug.module == FIXED else [bug.module]
    with planted(bug.module, bug.old, bug.new, around=around) as module, caught(bug.says, bug.error):
        bug.check(Code(fixed=module) if bug.module == FIXED else Code(quantised=module))
