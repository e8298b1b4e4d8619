"""Loops of single steps through the adapters: one loop of the op each, whatever torch has put around the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from hetsyn_plugins.ops import steps

pytestmark = pytest.mark.card

snntorch_adapter = pytest.importorskip("hetsyn_plugins.adapters.snntorch")
norse_adapter = pytest.importorskip("hetsyn_plugins.adapters.norse")

T, B, M, N = 7, 3, 6, 4


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[steps.Loop]]:
    made: list[steps.Loop] = []
    born = steps.Loop.__init__

    def counted(loop: steps.Loop, *arguments: Any) -> None:
        born(loop, *arguments)
        made.append(loop)

    monkeypatch.setattr(steps.Loop, "__init__", counted)
    yield made


def pruned(layer: nn.Module, name: str) -> nn.Module:
    return prune.l1_unstructured(layer, name, amount=0.3)


AROUND: dict[str, Callable[[nn.Module, str], nn.Module]] = {
    "nothing": lambda layer, name: layer,
    "prune": pruned,
    "weight_norm": lambda layer, name: weight_norm(layer, name),
    "parametrized weight_norm": lambda layer, name: parametrizations.weight_norm(layer, name),
}


def hidden(layer: Any, x: Tensor) -> Tensor:
    layer.reset_mem()
    return torch.stack([layer(x_t) for x_t in x.unbind(0)])


def passed_on(layer: Any, x: Tensor) -> Tensor:
    states: Any = ()
    out = []
    for x_t in x.unbind(0):
        spk, *states = layer(x_t, *states)
        states = (spk, *states) if layer.recurrent else states
        out.append(spk)
    return torch.stack(out)


def cells(layer: Any, x: Tensor) -> Tensor:
    state, out = None, []
    for x_t in x.unbind(0):
        z, state = layer(x_t, state)
        out.append(z)
    return torch.stack(out)


def leaky(**options: Any) -> Any:
    return snntorch_adapter.HetSynLeaky(M, N, weight=torch.rand(N, M), **options)


def recurrent_leaky(**options: Any) -> Any:
    return snntorch_adapter.RHetSynLeaky(M, N, weight=torch.rand(N, M), **options)


def cell(recurrent: bool, **options: Any) -> Any:
    cls = norse_adapter.HetSynLIFRecurrentCell if recurrent else norse_adapter.HetSynLIFCell
    return cls(M, N, norse_adapter.HetSynLIFParameters(100.0, v_th=0.5), input_weights=torch.rand(N, M), **options)


LAYERS: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Tensor], str]] = {
    "snntorch hidden": (lambda: leaky(init_hidden=True), hidden, "weight"),
    "snntorch passed on": (leaky, passed_on, "weight"),
    "snntorch recurrent hidden": (lambda: recurrent_leaky(init_hidden=True), hidden, "weight"),
    "snntorch recurrent passed on": (recurrent_leaky, passed_on, "weight"),
    "snntorch log tau": (lambda: leaky(init_hidden=True, parametrization="log_tau", dt=1e-3), hidden, "weight"),
    "snntorch half": (lambda: leaky(init_hidden=True).bfloat16(), hidden, "weight"),
    "snntorch tied": (lambda: leaky(init_hidden=True, share="neuron", tie_reset=True), hidden, "weight"),
    "snntorch without reset": (lambda: leaky(reset_mechanism="none"), passed_on, "weight"),
    "snntorch readout": (lambda: leaky(init_hidden=True, spiking=False), hidden, "weight"),
    "norse cell": (lambda: cell(False), cells, "input_weights"),
    "norse recurrent cell": (lambda: cell(True, autapses=False), cells, "input_weights"),
    "norse cell, tau": (lambda: cell(False, parametrization="tau"), cells, "input_weights"),
}


# torch's parametrized weight_norm has no bfloat16 on the CPU before 2.4
PAIRS = [(name, around) for name in LAYERS for around in AROUND if "half" not in name or "parametrized" not in around]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(("name", "around"), PAIRS)
@pytest.mark.cpu_only
def test_a_loop_of_a_layer_is_one_loop_of_the_op_in_every_epoch(
    name: str, around: str, loops: list[steps.Loop]
) -> None:
    make, run, weight = LAYERS[name]
    torch.manual_seed(0)
    layer = AROUND[around](make(), weight)
    dtype = torch.bfloat16 if "half" in name else torch.float32
    optimiser = torch.optim.SGD(layer.parameters(), 1e-3)
    for epoch in range(3):
        x = (torch.rand(T, B, M) < 0.5).to(dtype)
        optimiser.zero_grad()
        run(layer, x).float().square().sum().backward()
        assert all(p.grad is not None for p in layer.parameters())
        optimiser.step()
        assert len(loops) == epoch + 1, "a loop broke"


def test_a_layer_changed_between_two_steps_computes_anew_and_refuses_to_go_back() -> None:
    layer = leaky(init_hidden=True, spiking=False)
    x = torch.rand(2, B, M)
    first = layer(x[0])
    with torch.no_grad():
        layer.alpha.mul_(0.5)
    second = layer(x[1])
    want = layer.alpha * (x[0][:, None] * layer.weight) + x[1][:, None] * layer.weight
    torch.testing.assert_close(second, want.sum(-1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (first + second).sum().backward()


class Noisy(nn.Module):
    """DropConnect as a parametrization: another weight at every look."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (torch.rand_like(weight) < 0.5)


class Scaled(nn.Module):
    """A parametrization with a number of its own that may change."""

    scale = 1.0

    def forward(self, weight: Tensor) -> Tensor:
        return self.scale * weight


@pytest.mark.parametrize("name", ["snntorch hidden", "norse cell"])
def test_parametrizations_of_ones_own_are_looked_at_in_every_step(name: str, loops: list[steps.Loop]) -> None:
    make, _, weight = LAYERS[name]
    layer, scaled = make(), Scaled()
    parametrize.register_parametrization(layer, weight, scaled)
    plain = getattr(layer, weight).detach()
    x, state = torch.ones(B, M), ()
    totals = []
    for scaled.scale in (1.0, 1.0, 3.0):
        if name.startswith("norse"):
            _, state = layer(x, state or None)
            totals.append(state.i.sum(-1))
        else:
            layer(x)
            totals.append(layer.syn.sum(-1))
    assert len(loops) == 2
    decay = layer.tensors()["decay"]
    want = decay * (decay * plain + plain) + 3 * plain
    torch.testing.assert_close(totals[-1][0], want.sum(-1))
    parametrize.register_parametrization(layer, weight, Noisy())
    x = torch.rand(4, B, M)
    run = cells if name.startswith("norse") else hidden
    run(layer, x).sum().backward()
    assert len(loops) == 2 + 4


def test_graded_spikes_go_on_as_they_came_out(loops: list[steps.Loop]) -> None:
    """A recurrent layer whose spikes come out scaled: its loop breaks, its gradients do not."""
    torch.manual_seed(0)
    layer = recurrent_leaky(graded_spikes_factor=2.0)
    x = (torch.rand(T, B, M) < 0.5).float()
    passed_on(layer, x).sum().backward()
    by_steps = layer.weight.grad.clone()
    layer.zero_grad()
    layer(x)[0].sum().backward()
    torch.testing.assert_close(by_steps, layer.weight.grad, rtol=0, atol=1e-5 * float(by_steps.abs().max()))
