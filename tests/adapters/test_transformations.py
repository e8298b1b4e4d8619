"""torch.func and torch.utils.checkpoint over layers, cells and loops of steps: right, or refused by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from hetsyn_plugins.kernels import zeros
from hetsyn_plugins.ops import arguments

T, B, M, N = 5, 3, 6, 4

snntorch_adapter = pytest.importorskip("hetsyn_plugins.adapters.snntorch")
norse_adapter = pytest.importorskip("hetsyn_plugins.adapters.norse")


def snntorch_layer(recurrent: bool = False, **options: Any) -> nn.Module:
    cls = snntorch_adapter.RHetSynLeaky if recurrent else snntorch_adapter.HetSynLeaky
    layer: nn.Module = cls(M, N, weight=0.6 * torch.rand(N, M), learn_beta=True, learn_threshold=True, **options)
    return layer


class Whole(nn.Module):
    """A layer on a whole sequence: spikes (T, B, N)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.layer(x)[0]
        return spikes


class Loop(Whole):
    """The same step by step; `many`: states are passed as separate arguments, snnTorch's way."""

    def __init__(self, layer: nn.Module, many: bool) -> None:
        super().__init__(layer)
        self.many = many

    def forward(self, x: Tensor) -> Tensor:
        states: Any = ()
        spikes = []
        for x_t in x.unbind(0):
            z, *after = self.layer(x_t, *states)
            states = (z, *after) if self.many and getattr(self.layer, "recurrent", False) else after
            spikes.append(z)
        return torch.stack(spikes)


def norse_parameters() -> Any:
    return norse_adapter.HetSynLIFParameters(tau_syn_inv=100.0, learn_reset=True, v_th=0.4)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "snntorch sequence": lambda: Whole(snntorch_layer()),
    "snntorch steps": lambda: Loop(snntorch_layer(), many=True),
    "snntorch recurrent sequence": lambda: Whole(snntorch_layer(recurrent=True)),
    "snntorch recurrent steps": lambda: Loop(snntorch_layer(recurrent=True), many=True),
    "snntorch log tau sequence": lambda: Whole(snntorch_layer(parametrization="log_tau", dt=1e-3)),
    "norse sequence": lambda: Whole(norse_adapter.HetSynLIF(M, N, norse_parameters(), input_weights=torch.rand(N, M))),
    "norse recurrent sequence": lambda: Whole(norse_adapter.HetSynLIFRecurrent(M, N, norse_parameters())),
    "norse readout": lambda: Whole(norse_adapter.HetSynLI(M, N)),
    "norse steps": lambda: Loop(
        norse_adapter.HetSynLIFCell(M, N, norse_parameters(), input_weights=torch.rand(N, M)), many=False
    ),
}


@pytest.fixture(params=MODULES)
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(3)
    return MODULES[request.param]()


def inputs() -> Tensor:
    return (torch.rand(T, B, M, generator=torch.Generator().manual_seed(5)) < 0.6).float()


def weights() -> Tensor:
    return torch.randn(T, B, N, generator=torch.Generator().manual_seed(6))


def values(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in net.named_parameters()}


def loss_of(net: nn.Module, parameters: dict[str, Tensor], x: Tensor, of: Tensor) -> Tensor:
    out: Tensor = functional_call(net, parameters, (x,))
    return (out * of).sum()


def by_backward(net: nn.Module, x: Tensor, of: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    (net(x) * of).sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert any(g.any() for g in grads.values())
    return grads


def assert_equal(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, g in result.items():
        want = expected.get(name, torch.zeros_like(g))
        # float32: two orders of summation of at most T B N M = 360 terms, 2e-5 of the largest
        torch.testing.assert_close(g, want, rtol=0, atol=5e-5 * float(want.abs().max()) + 1e-30)


def test_func_grad_is_backward(net: nn.Module) -> None:
    result = grad(lambda p: loss_of(net, p, inputs(), weights()))(values(net))
    assert_equal(result, by_backward(net, inputs(), weights()))


def test_gradients_of_every_sample_by_vmap(net: nn.Module) -> None:
    x, of = inputs(), weights()

    def of_one(p: dict[str, Tensor], x_b: Tensor, of_b: Tensor) -> Tensor:
        return loss_of(net, p, x_b[:, None], of_b[:, None])

    every = vmap(grad(of_one), in_dims=(None, 1, 1))(values(net), x, of)
    for b in range(B):
        expected = by_backward(net, x[:, b : b + 1], of[:, b : b + 1])
        assert_equal({name: g[b] for name, g in every.items()}, expected)


def test_an_ensemble_by_vmap(request: pytest.FixtureRequest) -> None:
    for make in MODULES.values():
        nets = [make(), make()]
        parameters, buffers = stack_module_state(nets)  # type: ignore[arg-type]  # a list of modules it is
        call = lambda p, b, x, net=nets[0]: functional_call(net, (p, b), (x,))  # noqa: E731  # bound in this turn
        together = vmap(call, in_dims=(0, 0, None))(parameters, buffers, inputs())
        for out, net in zip(together, nets, strict=True):
            torch.testing.assert_close(out, net(inputs()))


def test_jacrev_is_a_backward_for_every_output(net: nn.Module) -> None:
    p, x = values(net), inputs()
    jacobian = jacrev(lambda q: functional_call(net, q, (x,))[-1, 0])(p)
    for n in range(N):
        of = torch.zeros(T, B, N)
        of[-1, 0, n] = 1
        net.zero_grad()
        (net(x) * of).sum().backward()
        assert_equal(
            {name: j[n] for name, j in jacobian.items()},
            {name: q.grad for name, q in net.named_parameters() if q.grad is not None},
        )


def test_forward_mode_and_second_derivatives_are_refused_by_name(net: nn.Module) -> None:
    p, x = values(net), inputs()
    with pytest.raises(RuntimeError, match=r"HetSyn|hetsyn"):
        jacfwd(lambda q: functional_call(net, q, (x,)).sum())(p)

    def squares(q: dict[str, Tensor]) -> Tensor:
        grads = grad(lambda r: loss_of(net, r, x, weights()))(q)
        return sum((g.square().sum() for g in grads.values()), torch.zeros(()))

    with pytest.raises(RuntimeError, match=r"cannot be differentiated again"):
        grad(squares)(p)


# ---- checkpoints ----


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_of_layers_without_hidden_states_have_the_same_gradients(net: nn.Module, reentrant: bool) -> None:
    x = inputs().requires_grad_()
    want = by_backward(net, x, weights())
    g_x, x.grad = x.grad, None
    net.zero_grad()
    (checkpoint(net, x, use_reentrant=reentrant) * weights()).sum().backward()
    assert_equal({name: p.grad for name, p in net.named_parameters() if p.grad is not None}, want)
    assert g_x is not None and x.grad is not None
    torch.testing.assert_close(x.grad, g_x)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("steps_a_piece", [1, 2, T])
def test_checkpoints_of_pieces_of_a_loop_hand_states_on(reentrant: bool, steps_a_piece: int) -> None:
    torch.manual_seed(3)
    cell: Any = norse_adapter.HetSynLIFRecurrentCell(M, N, norse_parameters(), input_weights=torch.rand(N, M))
    x = inputs().requires_grad_()

    def piece(x: Tensor, *state: Tensor) -> Any:
        s = cell.state_class(*state) if state else None
        spikes = []
        for x_t in x.unbind(0):
            z, s = cell(x_t, s)
            spikes.append(z)
        return torch.stack(spikes), *s

    def run(call: Callable[..., Any]) -> dict[str, Tensor]:
        cell.zero_grad()
        x.grad = None
        state: Any = ()
        spikes = []
        for part in x.split(steps_a_piece):
            out, *state = call(part, *state)
            spikes.append(out)
        (torch.cat(spikes) * weights()).sum().backward()
        assert x.grad is not None
        return {"x": x.grad.clone(), **{n: p.grad.clone() for n, p in cell.named_parameters() if p.grad is not None}}

    want = run(piece)
    assert_equal(run(lambda *a: checkpoint(piece, *a, use_reentrant=reentrant)), want)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("whole", [False, True], ids=["steps", "sequence"])
def test_a_checkpoint_over_hidden_states_is_refused_unless_it_resets_them(reentrant: bool, whole: bool) -> None:
    torch.manual_seed(3)
    layer: Any = snntorch_layer(init_hidden=True)
    x = inputs().requires_grad_()

    def run(x: Tensor) -> Tensor:
        out: Tensor = layer(x) if whole else torch.stack([layer(x_t) for x_t in x.unbind(0)])
        return out

    def from_zero(x: Tensor) -> Tensor:
        layer.reset_mem()
        return run(x)

    want = by_backward(layer, x, weights())
    layer.zero_grad()
    (checkpoint(from_zero, x, use_reentrant=reentrant) * weights()).sum().backward()
    assert_equal({name: p.grad for name, p in layer.named_parameters() if p.grad is not None}, want)
    layer.reset_mem()
    out = checkpoint(run, x, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match=r"HetSynLeaky: torch.utils.checkpoint .*reset them inside"):
        (out * weights()).sum().backward()


# ---- torch.compile ----

FIRST_USE = """
import torch
from hetsyn_plugins.adapters.snntorch import HetSynLeaky
layer = HetSynLeaky(6, 4, init_hidden=True)
x = torch.rand(5, 3, 6)
out = torch.compile(torch.nn.Sequential(layer), backend="eager")(x)
assert torch.equal(out, HetSynLeaky(6, 4, init_hidden=True, weight=layer.stored("weight"))(x))
print("equal")
"""


def test_a_compiled_sequence_may_be_the_first_that_a_process_computes(tmp_path: Path) -> None:
    """The compiler must not see numba start: once it is awake, a test in this process could not tell.

    One host is enough: what starts is behind the operator, which both call.
    """
    command = [sys.executable, "-W", "ignore", "-c", FIRST_USE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.parametrize("transformation", [grad, jacrev])
def test_zeros_that_a_transformation_is_the_first_to_need_are_no_part_of_it(transformation: Any) -> None:
    """They are kept for every later call, where a tensor of a transformation that is over is of no use to a graph."""
    arguments._kept_zeros.cache_clear()
    zeros._kept.cache_clear()
    layer, x = snntorch_layer(), torch.rand(T, B, M)
    transformation(lambda x: layer(x)[0].sum())(x)
    assert zeros.is_zero(None) and zeros.zero(x.dtype, x.device).item() == 0.0
    layer(x)
    kept = arguments._kept_zeros(N, M, B, (True, False, True), True, x.dtype, x.device)
    for part in (zeros.zero(x.dtype, x.device), *kept):
        assert part is None or "Tracking" not in repr(part)


@pytest.mark.parametrize("transformation", [grad, jacrev])
def test_the_zero_itself_may_be_made_first_in_one(transformation: Any) -> None:
    zeros._kept.cache_clear()
    x = torch.rand(3)
    transformation(lambda x: x.sum() + zeros.zero(x.dtype, x.device))(x)
    assert "Tracking" not in repr(zeros.zero(x.dtype, x.device))
