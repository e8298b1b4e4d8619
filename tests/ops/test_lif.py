"""The torch op: what torch users do to an operation, on every kernel. What it computes: `conformance/`."""

from __future__ import annotations

import contextlib
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from hetsyn_plugins import HetSynParams, HetSynState, UniformTau
from hetsyn_plugins.conformance import cases
from hetsyn_plugins.core import reference, validation
from hetsyn_plugins.core.fields import ARRAYS
from hetsyn_plugins.ops import arguments, dispatch
from hetsyn_plugins.ops import lif as ops

T, B, N, M = 7, 3, 5, 4
BACKENDS = ["eager", "cpu"]


def fields(kind: str = "everything", dtype: torch.dtype = torch.float64, n: int = N, m: int = M) -> dict[str, Any]:
    """A layer's arguments as leaves."""
    params = cases.KINDS[kind](np.random.default_rng(3), n, m)
    arrays = {name: getattr(params, name) for name in ARRAYS}
    return {k: None if a is None else torch.tensor(a, dtype=dtype, requires_grad=True) for k, a in arrays.items()}


def core(given: dict[str, Any]) -> HetSynParams:
    def numpy(t: Any) -> Any:
        return None if t is None else t.detach().numpy()

    return HetSynParams(**{name: numpy(t) for name, t in given.items()})


def train(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.rand(*shape) < 0.5).to(dtype)


def gradients(out: Any, leaves: dict[str, Any]) -> dict[str, Tensor]:
    spikes, v, state = out
    weights = torch.linspace(0.5, 1.5, v.numel(), dtype=v.dtype).reshape(v.shape)
    loss = (v * weights).sum() + (spikes * weights.flip(0)).sum() + sum(s.sum() for s in state if s is not None)
    names = [name for name, t in leaves.items() if t is not None]
    return dict(zip(names, torch.autograd.grad(loss, [leaves[n] for n in names]), strict=True))


def same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, msg=name)


# ---- layouts, dtypes, sizes


@pytest.mark.parametrize("backend", BACKENDS)
def test_layout_of_the_arguments_does_not_matter(backend: str, poisoned_empty: None) -> None:
    """Transposed inputs, weights and states, expanded ones, and slices of larger tensors."""
    params, x = fields(), train(T, B, M)
    _, _, start = ops.hetsyn_lif(x, **params)
    start = HetSynState(*(None if s is None else s.detach() for s in start))
    expected = ops.hetsyn_lif(x, **params, state=start, backend=backend)
    want = gradients(expected, params)
    strided = {k: t if t is None or t.ndim < 2 else t.T.contiguous().T for k, t in params.items()}
    state = HetSynState(*(None if s is None else s.transpose(0, 1).contiguous().transpose(0, 1) for s in start))
    for inputs in (x.permute(2, 1, 0).contiguous().permute(2, 1, 0), torch.cat([x, x], 2)[..., :M]):
        assert not inputs.is_contiguous()
        got = ops.hetsyn_lif(inputs, **strided, state=state, backend=backend)
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
        same(gradients(got, params), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_expanded_gradient_is_taken(backend: str) -> None:
    """`sum().backward()` gives a gradient of stride 0, a weighted sum with ones a dense one."""
    params, x = fields(), train(T, B, M)
    spikes, v, _ = ops.hetsyn_lif(x, **params, backend=backend)
    (got,) = torch.autograd.grad(v.sum() + spikes.sum(), params["weight"])
    spikes, v, _ = ops.hetsyn_lif(x, **params, backend=backend)
    (want,) = torch.autograd.grad([v, spikes], params["weight"], [torch.ones_like(v), torch.ones_like(v)])
    assert torch.equal(got, want) and got.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_bool_and_uint8_inputs_count_as_numbers(backend: str, dtype: torch.dtype) -> None:
    params = fields(dtype=torch.float32)
    x = (torch.rand(T, B, M) * (2 if dtype == torch.bool else 4)).to(torch.uint8).to(dtype)
    expected = ops.hetsyn_lif(x.float(), **params, backend=backend)
    got = ops.hetsyn_lif(x, **params, backend=backend)
    assert got[0].dtype == got[1].dtype == torch.float32
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    same(gradients(got, params), gradients(expected, params))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_inputs_equal_the_float32_run_on_rounded_values(backend: str, half: torch.dtype) -> None:
    params = {k: None if t is None else t.detach() for k, t in fields(dtype=torch.float32).items()}
    halves = {k: t if t is None or "decay" in k else t.to(half) for k, t in params.items()}
    rounded = {k: t if t is None or "decay" in k else t.to(half).float() for k, t in params.items()}
    x = torch.randn(T, B, M).to(half)
    spikes, v, state = ops.hetsyn_lif(x, **halves, backend=backend)
    expected = ops.hetsyn_lif(x.float(), **rounded, backend=backend)
    assert spikes.dtype == v.dtype == half and state.current.dtype == torch.float32
    assert torch.equal(spikes.float(), expected[0]) and torch.equal(v, expected[1].to(half))
    assert torch.equal(state.current, expected[2].current)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_weights_get_half_gradients(backend: str) -> None:
    weight = torch.randn(N, M).bfloat16().requires_grad_()
    decay = torch.full((N, M), 0.9, requires_grad=True)
    spikes, v, _ = ops.hetsyn_lif(train(T, B, M).bfloat16(), weight, decay, reset_decay=0.8, backend=backend)
    (v + spikes).float().sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.bfloat16 and weight.grad.any()
    assert decay.grad is not None and decay.grad.dtype == torch.float32 and decay.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["everything", "no reset", "feed-forward"])
def test_no_steps(backend: str, kind: str) -> None:
    params = fields(kind)
    _, _, start = ops.hetsyn_lif(train(T, B, M), **params)
    spikes, v, end = ops.hetsyn_lif(torch.zeros(0, B, M).double(), **params, state=start, backend=backend)
    assert spikes.shape == v.shape == (0, B, N)
    for one, other in zip(start, end, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    end.current.sum().backward()
    assert params["weight"].grad is not None  # through the state that was passed on


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend: str) -> None:
    params = fields()
    spikes, v, end = ops.hetsyn_lif(torch.zeros(T, 0, M).double(), **params, backend=backend)
    assert spikes.shape == v.shape == (T, 0, N) and end.current.shape == (0, N, M)
    v.sum().backward()
    assert params["weight"].grad is not None and not params["weight"].grad.any()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 9), st.integers(1, 18), st.integers(1, 19)),
    kind=st.sampled_from(sorted(cases.KINDS)),
    dtype=st.sampled_from([np.float64, np.float32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_kernels_agree_at_any_size(sizes: tuple[int, int, int, int], kind: str, dtype: Any, seed: int) -> None:
    """cpu against eager on the same drawn case: spikes exactly, values within the rounding of promise 2."""
    case = cases.draw(seed, kind, sizes=sizes, dtype=dtype, with_gradients=True)
    from hetsyn_plugins.conformance.backends import run_op

    cpu, eager = run_op(case, backend="cpu"), run_op(case, backend="eager")
    tolerance = 400 * float(np.finfo(dtype).eps) * sizes[0]
    if cpu.spikes is not None:
        np.testing.assert_array_equal(cpu.spikes, eager.spikes)
    np.testing.assert_allclose(cpu.v, eager.v, atol=tolerance * max(1.0, float(np.abs(eager.v).max())))
    assert cpu.gradients is not None and eager.gradients is not None
    for name, want in eager.gradients.params.items():
        if want is not None:
            got = cpu.gradients.params[name]
            np.testing.assert_allclose(got, want, atol=tolerance * max(1.0, float(np.abs(want).max())), err_msg=name)


# ---- autograd


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", ["inputs", "weight", "decay", "reset_decay", "threshold", "recurrent_decay"])
def test_gradients_only_where_required(backend: str, wanted: str) -> None:
    """One leaf at a time gets what it gets among all, and the others nothing."""
    leaves = {"inputs": torch.randn(T, B, M, dtype=torch.float64, requires_grad=True), **fields()}
    among_all = gradients(ops.hetsyn_lif(**leaves, backend=backend), leaves)[wanted]
    alone = {k: None if t is None else t.detach().requires_grad_(k == wanted) for k, t in leaves.items()}
    spikes, v, state = ops.hetsyn_lif(**alone, backend=backend)
    got = gradients((spikes, v, state), {wanted: alone[wanted]})[wanted]
    torch.testing.assert_close(got, among_all, rtol=1e-12, atol=1e-12)
    assert got.any() and all(t is None or t.grad is None for t in alone.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_graph_where_nothing_is_required(backend: str) -> None:
    params = {k: None if t is None else t.detach() for k, t in fields().items()}
    spikes, v, end = ops.hetsyn_lif(train(T, B, M), **params, backend=backend)
    assert not spikes.requires_grad and not v.requires_grad and not end.current.requires_grad
    with torch.no_grad():
        assert not ops.hetsyn_lif(train(T, B, M), **fields(), backend=backend)[1].requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_double_backward_raises(backend: str) -> None:
    params = fields()
    v = ops.hetsyn_lif(train(T, B, M), **params, backend=backend)[1]
    (g,) = torch.autograd.grad(v.square().sum(), params["weight"], create_graph=True)
    with pytest.raises(RuntimeError, match="hetsyn_lif / hetsyn_li: its gradients cannot be differentiated again"):
        g.sum().backward()
    v = ops.hetsyn_lif(train(T, B, M), **params, backend=backend)[1]
    (g,) = torch.autograd.grad(v.sum(), params["weight"], create_graph=True)  # what comes in is a constant: no excuse
    with pytest.raises(RuntimeError, match=r"detach them, or call backward\(\) and grad\(\) without create_graph"):
        (g.square().sum() + params["weight"].sum()).backward()


def test_double_backward_through_a_spike_of_a_step_raises() -> None:
    params = fields()
    spikes = ops.hetsyn_lif_step(torch.ones(B, M).double(), **params).spikes
    (g,) = torch.autograd.grad(spikes.sum(), params["weight"], create_graph=True)
    with pytest.raises(RuntimeError, match="a loop of HetSyn steps: its gradients cannot be differentiated again"):
        g.square().sum().backward()


def test_create_graph_alone_changes_no_gradient() -> None:
    params, x = fields(), train(T, B, M)

    def grads_of(create_graph: bool) -> Any:
        spikes, v, _ = ops.hetsyn_lif(x, **params)
        leaves = [t for t in params.values() if t is not None]
        return torch.autograd.grad(spikes.sum() + v.square().sum(), leaves, create_graph=create_graph)

    assert all(torch.equal(one, other) for one, other in zip(grads_of(True), grads_of(False), strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(backend: str, reentrant: bool) -> None:
    leaves = {**fields(), "inputs": torch.randn(T, B, M, dtype=torch.float64, requires_grad=True)}

    def run(inputs: Tensor, weight: Tensor, decay: Tensor) -> Any:
        others = {k: t for k, t in leaves.items() if k not in ("inputs", "weight", "decay")}
        return ops.hetsyn_lif(inputs, weight, decay, **others, backend=backend)[1]

    arguments = [leaves[k] for k in ("inputs", "weight", "decay")]
    whole = torch.autograd.grad(run(*arguments).square().sum(), arguments)
    run_again: Any = checkpoint(run, *arguments, use_reentrant=reentrant)
    run_again.square().sum().backward()
    for leaf, want in zip(arguments, whole, strict=True):
        assert torch.equal(leaf.grad, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["everything", "readout"])
def test_chunks_give_the_whole_and_its_gradients(backend: str, kind: str) -> None:
    params, x = fields(kind), torch.randn(T, B, M, dtype=torch.float64)
    if kind == "readout":
        params = {k: params[k] for k in ("weight", "decay", "bias")}

    def run(inputs: Tensor, state: Any) -> Any:
        if kind == "readout":
            v, end = ops.hetsyn_li(inputs, **params, state=state, backend=backend)
            return torch.zeros_like(v), v, end
        return ops.hetsyn_lif(inputs, **params, state=state, backend=backend)

    whole = run(x, None)
    first = run(x[:3], None)
    second = run(x[3:], first[2])
    joined = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]), second[2]
    torch.testing.assert_close(joined[1], whole[1], rtol=1e-13, atol=1e-13)
    a, b = gradients(joined, params), gradients(whole, params)
    for name in b:
        torch.testing.assert_close(a[name], b[name], rtol=1e-11, atol=1e-11, msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_arguments_changed_in_place_before_backward_are_noticed(backend: str) -> None:
    params = fields()
    v = ops.hetsyn_lif(train(T, B, M), **params, backend=backend)[1]
    with torch.no_grad():
        params["weight"].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        v.sum().backward()


class Live(TorchDispatchMode):
    """The largest number of elements alive at once among tensors made while it is on, and the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.largest = 0
        self.known: set[int] = set()

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, Tensor) and t._base is None and id(t) not in self.known:
                self.known.add(id(t))
                self.alive += t.numel()
                self.largest, self.peak = max(self.largest, t.numel()), max(self.peak, self.alive)
                weakref.finalize(t, self._gone, id(t), t.numel())
        return out


@pytest.mark.parametrize("kind", ["feed-forward", "everything"])
def test_eager_never_holds_the_currents_of_all_steps(kind: str) -> None:
    """Twice the steps cost O(T B (N + M)) more, not O(T B N M): for N = M = 60 that is 30 times less."""

    def peak(steps: int) -> int:
        params, x = fields(kind, n=60, m=60), torch.randn(steps, 2, 60, dtype=torch.float64, requires_grad=True)
        gc.collect()
        with Live() as live:
            spikes, v, _ = ops.hetsyn_lif(x, **params, backend="eager")
            (spikes.sum() + v.sum()).backward()
        assert live.largest < steps * 2 * 60 * 60
        return live.peak

    growth = (peak(120) - peak(60)) / 60
    assert growth < 2 * 60 * 60 / 3, "elements a step: the currents of one step alone are 7,200"


@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_for_backward_is_inputs_v_and_parameters(backend: str) -> None:
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
        ops.hetsyn_lif(torch.randn(50, 2, 30, dtype=torch.float64), **fields(n=20, m=30), backend=backend)
    parameters = 2 * (20 * 30 + 20 * 20) + 5 * 20
    states = 2 * (20 * 30 + 20 * 20 + 4 * 20)
    assert sum(saved) <= 50 * 2 * (20 + 30) + 2 * parameters + states


# ---- autocast and compile


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_casts_inside_and_keeps_states_float32(backend: str) -> None:
    """A Linear under autocast gives bfloat16; the op behind it computes in float32 with its own parameters."""
    params = fields(dtype=torch.float32)
    linear, x = nn.Linear(M, M), torch.rand(T, B, M)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = linear(x)
        spikes, v, state = ops.hetsyn_lif(hidden, **params, backend=backend)
    assert hidden.dtype == v.dtype == torch.bfloat16 and state.current.dtype == torch.float32
    expected = ops.hetsyn_lif(hidden.float(), **params, backend=backend)
    assert torch.equal(spikes.float(), expected[0]) and torch.equal(v, expected[1].bfloat16())
    (v.float().sum() + spikes.float().sum()).backward()
    assert all(t is None or t.grad is None or t.grad.dtype == torch.float32 for t in params.values())
    assert linear.weight.grad is not None and linear.weight.grad.any()


class Layer(nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.linear, self.backend = nn.Linear(M, M), backend
        self.weight = nn.Parameter(torch.randn(N, M))
        self.decay = nn.Parameter(torch.rand(N, M))

    def forward(self, x: Tensor) -> Tensor:
        spikes, v, _ = ops.hetsyn_lif(
            self.linear(x).relu(), self.weight, self.decay, reset_decay=0.9, backend=self.backend
        )
        return spikes + 0.1 * v


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch 2.15's, at any break
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_module_gives_the_same(backend: str) -> None:
    layer, x = Layer(backend), torch.randn(T, B, M)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager")
    expected = layer(x)
    got = compiled(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    want = torch.autograd.grad(expected.sum(), list(layer.parameters()))
    for one, other in zip(torch.autograd.grad(got.sum(), list(layer.parameters())), want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# ---- choosing a kernel


def test_auto_takes_the_compiled_kernel_for_cpu_tensors_and_says_why() -> None:
    choice = dispatch.choose_backend(torch.zeros(T, B, M), torch.zeros(N, M))
    assert choice.backend == "cpu" and choice.reason
    on_meta = torch.zeros(N, M, device="meta")
    assert dispatch.choose_backend(torch.zeros(T, B, M, device="meta"), on_meta).backend == "eager"


def test_without_numba_auto_takes_eager_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    params, x = fields(), train(T, B, M)
    real = dispatch.importlib.import_module

    def broken(name: str) -> Any:
        if name == "hetsyn_plugins.kernels.cpu.sequence":
            raise ImportError("no numba here")
        return real(name)

    monkeypatch.setattr(dispatch.importlib, "import_module", broken)
    dispatch.why_no_cpu_kernel.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="no numba here; backend='eager' is used instead"):
            got = ops.hetsyn_lif(x, **params)
        assert torch.equal(got[0], ops.hetsyn_lif(x, **params, backend="eager")[0])  # and no second warning
        assert "no numba here" in dispatch.choose_backend(x, params["weight"]).reason
        with pytest.raises(ValueError, match=r"backend: 'cpu' cannot run.*no numba here.*use 'auto' or 'eager'"):
            ops.hetsyn_lif(x, **params, backend="cpu")
    finally:
        dispatch.why_no_cpu_kernel.cache_clear()


def test_the_global_random_generators_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    out = ops.hetsyn_lif(train(T, B, M).detach(), **fields(), surrogate="arctan")
    torch_before = torch.get_rng_state()
    out[1].sum().backward()
    assert torch.equal(torch.get_rng_state(), torch_before) and torch_state is not None
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


# ---- bad input

GOOD = {"weight": torch.ones(N, M), "decay": 0.9, "reset_decay": 0.8}
ZERO = torch.zeros(T, B, M)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": torch.zeros(T, M)}, r"inputs: expected shape \(T, B, 4\), time first, got \(7, 4\)"),
        ({"inputs": torch.zeros(T, B, M + 1)}, r"inputs: expected shape \(T, B, 4\), time first, got \(7, 3, 5\)"),
        ({"inputs": np.zeros((T, B, M))}, "inputs: expected a torch tensor, got ndarray"),
        ({"inputs": ZERO.double()}, "inputs: expected the weight's dtype, torch.float32, or bool or uint8, got"),
        ({"inputs": ZERO.long()}, "inputs: expected the weight's dtype, torch.float32, or bool or uint8, got"),
        ({"inputs": ZERO.to("meta")}, "inputs: expected on the weight's device, cpu, got meta"),
        ({"inputs": ZERO / 0}, "inputs: expected finite values, got 84 NaN or infinite"),
        ({"inputs": ZERO + torch.inf}, "inputs: expected finite values"),
        ({"weight": torch.ones(N, M).long()}, "weight: expected a floating dtype, got torch.int64"),
        ({"weight": torch.ones(N)}, r"weight: expected shape \(N, M\), got \(5,\)"),
        ({"weight": torch.ones(0, M)}, r"weight: expected shape \(N, M\), got \(0, 4\)"),
        ({"weight": [[1.0]]}, "weight: expected a torch tensor, got list"),
        ({"weight": torch.full((N, M), torch.nan)}, "weight: expected finite values, got no number and 20 NaN"),
        ({"decay": "0.9"}, "decay: expected a number or a torch tensor, got str"),
        (
            {"decay": UniformTau(5e-3, 2e-2, dt=1e-3)},
            "decay: expected a number or a torch tensor, got UniformTau: draw from an initialiser once",
        ),
        ({"decay": 1.5}, r"decay: expected decays in \[0, 1\], got 1.5"),
        ({"decay": torch.nan}, r"decay: expected decays in \[0, 1\], got nan"),
        ({"decay": torch.ones(M)}, r"decay: expected shape \(5, 4\) or .* got \(4,\)"),
        ({"decay": torch.ones(N, M).double()}, "decay: expected torch.float32 beside a weight of torch.float32, got"),
        ({"decay": torch.ones(N, M).half()}, "decay: expected torch.float32 beside a weight of torch.float32, got"),
        ({"decay": torch.ones(N, M, device="meta")}, "decay: expected on the weight's device, cpu, got meta"),
        ({"reset_decay": torch.ones(N, 1)}, r"reset_decay: expected shape \(5,\) or \(\)"),
        ({"threshold": 0.0}, "threshold: expected finite values > 0, got 0"),
        ({"threshold": torch.ones(N) * -1}, "threshold: expected finite values > 0, got values from -1 to -1"),
        ({"recurrent_weight": torch.ones(N, N)}, "recurrent_decay: expected together with recurrent_weight, got None"),
        ({"adaptation_strength": 0.1}, "adaptation_decay: expected together with adaptation_strength, got None"),
        ({"bias": torch.ones(1)}, r"bias: expected shape \(5,\)"),
        ({"surrogate": "multigauss"}, "surrogate: expected one of multi_gaussian"),
        ({"backend": "numba"}, "backend: expected 'auto', 'eager', 'cpu' or 'gpu', got 'numba'"),
        ({"state": (1, 2)}, "state: expected a HetSynState or None, got tuple"),
        ({"state": HetSynState(np.zeros((B, N, M)))}, "state.current: expected a torch tensor, got ndarray"),
        ({"state": HetSynState([0.0])}, "state.current: expected a torch tensor, got list"),
        ({"state": HetSynState(torch.zeros(B, N, M + 1))}, r"state.current: expected shape \(3, 5, 4\), got"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str, backend: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.hetsyn_lif(**{"inputs": ZERO, "backend": backend, **GOOD, **changes})


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_of_other_batches_dtypes_and_layers_are_refused(backend: str) -> None:
    _, _, state = ops.hetsyn_lif(ZERO, **GOOD)
    with pytest.raises(ValueError, match=r"state.current: expected shape \(4, 5, 4\), got \(3, 5, 4\); is the state"):
        ops.hetsyn_lif(torch.zeros(T, 4, M), **GOOD, state=state, backend=backend)
    with pytest.raises(ValueError, match=r"state.current: expected torch.float64 on cpu, got torch.float32 on cpu"):
        wide = {**GOOD, "weight": GOOD["weight"].double()}
        ops.hetsyn_lif(ZERO.double(), **wide, state=state, backend=backend)
    with pytest.raises(ValueError, match=r"state.reset: expected shape None, got \(3, 5\); is the state another"):
        ops.hetsyn_lif(ZERO, **{**GOOD, "reset_decay": None}, state=state, backend=backend)
    with pytest.raises(ValueError, match=r"state.spikes: expected shape None"):
        ops.hetsyn_li(ZERO, GOOD["weight"], 0.9, state=state._replace(reset=None), backend=backend)


def test_values_are_checked_only_where_the_contract_says() -> None:
    bad = torch.full((B, M), torch.nan)
    assert ops.hetsyn_lif_step(bad, **GOOD).v.isnan().all()
    with pytest.raises(ValueError, match="inputs: expected finite values"):
        ops.hetsyn_lif_step(bad, **GOOD, check=True)
    assert ops.hetsyn_lif(ZERO / 0, **GOOD, check=False, backend="eager")[1].isnan().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ZERO}, r"inputs: expected shape \(B, 4\), one step, got \(7, 3, 4\)"),
        ({"inputs": torch.zeros(B, M + 1)}, r"inputs: expected shape \(B, 4\), one step, got \(3, 5\)"),
        ({"inputs": [0.0]}, "inputs: expected a torch tensor, got list"),
        ({"weight": [[1.0]]}, "weight: expected a torch tensor, got list"),
        ({"weight": torch.ones(N)}, r"weight: expected shape \(N, M\), got \(5,\)"),
    ],
)
def test_wrong_arguments_of_a_step_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.hetsyn_lif_step(**{"inputs": torch.zeros(B, M), **GOOD, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ZERO / 0}, "x: expected finite values"),
        ({"decay": 1.5}, "alpha: expected decays in"),
        ({"state": HetSynState(torch.zeros(B, N, M + 1))}, "state.syn: expected shape"),
        ({"weight": torch.ones(N, M).long()}, "weight: expected a floating dtype"),
    ],
)
def test_messages_use_the_callers_names(changes: dict[str, Any], message: str) -> None:
    argument_names = {"inputs": "x", "decay": "alpha", "state.current": "state.syn"}
    with pytest.raises(ValueError, match=f"^{message}"):
        ops.hetsyn_lif(**{"inputs": ZERO, **GOOD, **changes}, argument_names=argument_names)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_check_inputs_looks_once_on_the_cpu(bad: float) -> None:
    x = ZERO.clone().requires_grad_()
    arguments.check_inputs(x)
    arguments.check_inputs(ZERO.bfloat16())
    arguments.check_inputs(ZERO.to(torch.uint8))
    wrong = x.detach() + bad
    arguments.check_inputs(wrong.to("meta"))
    with pytest.raises(ValueError, match="input_: expected finite values, got 84 NaN or infinite"):
        arguments.check_inputs(wrong.requires_grad_(), "input_")


def test_autocast_off_mixed_dtypes_raise_on_raise_nothing() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        ops.hetsyn_lif(ZERO.bfloat16(), **GOOD)
    with pytest.raises(ValueError, match="inputs: expected the weight's dtype"):
        ops.hetsyn_lif(ZERO.bfloat16(), **GOOD)


def test_the_op_equals_the_reference_on_what_a_user_types() -> None:
    """The ten lines of the README, checked."""
    params = fields("recurrent")
    x = train(250, B, M)
    spikes, v, _ = ops.hetsyn_lif(x, **params)
    expected = reference.run(core(params), x.numpy())
    np.testing.assert_array_equal(spikes.detach().numpy(), expected[0])
    np.testing.assert_allclose(v.detach().numpy(), expected[1], atol=1e-11)


# ---- the zeros that calls share -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("sizes", [(B, N, M), (1, 1, 1)])
def test_zeros_have_the_shapes_of_the_state(kind: str, sizes: tuple[int, int, int]) -> None:
    batch, n, m = sizes
    layer = arguments.in_full(fields(kind, n=n, m=m), kind != "readout", arguments.OP.names)
    zeros = arguments.checked_state(None, layer, batch, arguments.OP.names)
    shapes = validation.state_shapes(layer._asdict(), layer.threshold is not None, batch)
    assert [None if part is None else tuple(part.shape) for part in zeros] == list(shapes.values())
    assert not any(part.any() for part in zeros if part is not None)


@pytest.mark.parametrize("sizes", [(B, N, M), (1, 1, 1), (1, 1, 3)])
def test_what_is_written_to_a_state_is_in_no_later_one(sizes: tuple[int, int, int]) -> None:
    batch, n, m = sizes
    given = fields(n=n, m=m)
    layer = arguments.in_full(given, True, arguments.OP.names)
    for _ in range(2):
        # a sequence of no steps gives back the state it began with
        *_, final = ops.hetsyn_lif(train(0, batch, m), **given)
        both = (*final, *arguments.checked_state(None, layer, batch, arguments.OP.names))
        parts = [part for part in both if part is not None]
        assert not any(part.any() for part in parts)
        for part in parts:
            with contextlib.suppress(RuntimeError), torch.no_grad():  # torch refuses where numbers share memory
                part.add_(1.0)


def test_zeros_kept_in_inference_mode_serve_training() -> None:
    given, x = fields(m=M + 3), train(T, B, M + 3)
    with torch.inference_mode():
        ops.hetsyn_lif(x, **given)
    spikes, v, _ = ops.hetsyn_lif(x, **given)
    (spikes.sum() + v.sum()).backward()
    assert given["weight"].grad.any()
