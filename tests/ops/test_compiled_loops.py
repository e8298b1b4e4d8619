"""Loops around a compiled step: whatever is done to the states between, values and gradients are those of eager calls.

And as long as nothing is, the steps are one loop: none but the first computes gradients of the layer.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from planting import caught
from torch import Tensor

from hetsyn_plugins.adapters.norse import HetSynLICell, HetSynLIFParameters, HetSynLIFRecurrentCell
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.ops import graph_loops, operators

pytestmark = [
    pytest.mark.skipif(not operators.AVAILABLE, reason="operators need torch 2.4"),
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf",
        "ignore:Guards may run slower on Python 3.13.0",
    ),
]
T, B, M, N = 6, 3, 5, 4
Between = Callable[[int, list[Tensor]], list[Tensor]]


class Trebled(torch.autograd.Function):
    """A state that looks the same and has another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * gradient


def written_to(t: int, states: list[Tensor]) -> list[Tensor]:
    if t == 2:
        with torch.no_grad():
            states[0].mul_(0.5)
    return states


def watched(t: int, states: list[Tensor]) -> list[Tensor]:
    if t == 2:
        states[0].register_hook(lambda gradient: gradient * 2)
    return states


# what is done to syn, rst, ada and mem after every step, and how many steps of T go on with a loop
BETWEEN: dict[str, tuple[Between, int]] = {
    "nothing": (lambda t, s: s, T - 1),
    "scaled": (lambda t, s: [s[0] * 0.9, *s[1:]] if t == 3 else s, T - 2),
    "a row reset": (lambda t, s: [s[0] * torch.tensor([1.0, 0, 1]).view(B, 1, 1), *s[1:]] if t == 1 else s, T - 2),
    "all detached": (lambda t, s: [state.detach() for state in s] if t == 2 else s, T - 2),
    "syn detached": (lambda t, s: [s[0].detach(), *s[1:]] if t == 2 else s, T - 2),
    "rst detached": (lambda t, s: [s[0], s[1].detach(), *s[2:]] if t == 2 else s, T - 2),
    "written to": (written_to, T - 2),
    "watched": (watched, T - 2),
    "another gradient": (lambda t, s: [Trebled.apply(s[0]), *s[1:]] if t in (1, 2) else s, T - 3),
}


def looped(layer: Any, x: Tensor, between: Between) -> Tensor:
    """A loss of all that comes out of every step."""
    states: list[Tensor] = []
    total = torch.zeros(())
    for t in range(T):
        spk, *states = layer(x[t], *states)
        total = total + (spk * (t + 1)).sum() + sum((s * torch.arange(s.numel()).view(s.shape)).sum() for s in states)
        states = between(t, states)
    return total


def spikes_alone(layer: Any, x: Tensor) -> Tensor:
    states: list[Tensor] = []
    outs = []
    for x_t in x:
        spk, *states = layer(x_t, *states)
        outs.append(spk)
    return torch.stack(outs).mul(torch.arange(T).view(T, 1, 1)).sum()


def forked(layer: Any, x: Tensor) -> Tensor:
    """Two steps from one state."""
    one = layer(x[1], *layer(x[0])[1:])
    ends = layer(x[2], *one[1:]), layer(x[4], *layer(x[3], *one[1:])[1:])
    return torch.stack([part.sum() for end in ends for part in end]).sum()


class Pair(NamedTuple):
    """A layer, and its twin that is compiled."""

    layer: Any
    twin: Any
    compiled: Any


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    torch._dynamo.reset()
    options: dict[str, Any] = {"learn_beta": True, "adaptation_decay": 0.8, "adaptation_strength": 0.2}
    layer = HetSynLeaky(M, N, weight=torch.rand(N, M) * 0.6, learn_threshold=True, **options)
    twin = copy.deepcopy(layer)
    yield Pair(layer, twin, torch.compile(twin, fullgraph=True, backend="aot_eager"))
    torch._dynamo.reset()


def compare(pair: Pair, run: Callable[[Any, Tensor], Tensor], passes: int = 1) -> None:
    x = (torch.rand(T, B, M) < 0.4).float().requires_grad_()
    results = []
    for layer, call in ((pair.layer, pair.layer), (pair.twin, pair.compiled)):
        loss, leaves = run(call, x), [*layer.parameters(), x]
        gradients = [torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(passes)]
        results.append((loss.detach(), *(g for each in gradients for g in each)))
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4, msg="a gradient is another")


@pytest.fixture
def went_on(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every compiled step: did it go on with a loop?"""
    steps: list[bool] = []

    def goes_on(*given: Any) -> Any:
        link = found(*given)
        steps.append(link is not None)
        return link

    found = graph_loops._goes_on
    monkeypatch.setattr(graph_loops, "_goes_on", goes_on)
    return steps


@pytest.mark.parametrize("name", BETWEEN)
def test_states_may_be_changed_between_the_steps(pair: Pair, name: str, went_on: list[bool]) -> None:
    between, count = BETWEEN[name]
    compare(pair, lambda layer, x: looped(layer, x, between))
    assert sum(went_on) == count and len(went_on) == T


@pytest.mark.parametrize("run", [spikes_alone, forked])
def test_states_may_be_dropped_or_used_twice(pair: Pair, run: Any) -> None:
    compare(pair, run, passes=2)


@pytest.mark.parametrize("name", ["weight", "alpha"])
def test_a_step_beside_changed_parameters_starts_anew(pair: Pair, name: str, went_on: list[bool]) -> None:
    _, *states = pair.compiled(torch.ones(B, M).requires_grad_())
    with torch.no_grad():
        getattr(pair.twin, name).mul_(0.99)
        getattr(pair.layer, name).mul_(0.99)
    pair.compiled(torch.ones(B, M).requires_grad_(), *states)
    assert went_on == [False, False]


KINDS: dict[str, Callable[[], Any]] = {
    "snnTorch, hidden": lambda: HetSynLeaky(M, N, weight=torch.rand(N, M), init_hidden=True),
    "snnTorch, recurrent": lambda: RHetSynLeaky(M, N, weight=torch.rand(N, M)),
    "Norse, recurrent": lambda: HetSynLIFRecurrentCell(
        M, N, HetSynLIFParameters(v_th=0.3, tau_adapt_inv=20.0, adapt_strength=0.2)
    ),
    "Norse, a readout": lambda: HetSynLICell(M, N),
}


def in_idiom(name: str) -> Callable[[Any, Tensor], Tensor]:
    def run(layer: Any, x: Tensor) -> Tensor:
        outs, states = [], () if name.startswith("snn") else (None,)
        for x_t in x:
            out = layer(x_t, *states)
            if not isinstance(out, Tensor):
                out, states = out[0], out if "snnTorch" in name else out[1:]
            outs.append(out)
        return torch.stack(outs).mul(torch.arange(1, T + 1).view(T, 1, 1)).sum()

    return run


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_step(name: str, went_on: list[bool]) -> None:
    torch._dynamo.reset()
    layer = KINDS[name]()
    twin = copy.deepcopy(layer)
    compare(Pair(layer, twin, torch.compile(twin, fullgraph=True, backend="aot_eager")), in_idiom(name))
    # the spk of a recurrent layer of snnTorch's is graded, and made 0 or 1 again in the graph
    assert sum(went_on) == (0 if name == "snnTorch, recurrent" else T - 1)


def test_a_state_written_to_is_seen(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    place = graph_loops._place
    monkeypatch.setattr(graph_loops, "_place", lambda t: None if t is None else place(t)[:1])  # type: ignore[index]
    with caught("a gradient is another"):
        compare(pair, lambda layer, x: looped(layer, x, written_to))


def test_a_gradient_that_is_not_taken_is_seen(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    given = graph_loops.given
    monkeypatch.setattr(graph_loops, "given", lambda g: None if g is not None and g.ndim == 3 else given(g))
    with caught("a gradient is another"):
        compare(pair, lambda layer, x: looped(layer, x, BETWEEN["nothing"][0]))
