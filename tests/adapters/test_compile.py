"""torch.compile and torch.export of layers: one graph, equal to eager calls, compiled no more often than needed."""

import copy
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import norse.torch
import pytest
import snntorch
import torch
from snntorch import utils
from torch import Tensor, nn

from hetsyn_plugins.adapters.norse import (
    HetSynLI,
    HetSynLICell,
    HetSynLIF,
    HetSynLIFCell,
    HetSynLIFParameters,
    HetSynLIFRecurrent,
    HetSynLIFRecurrentCell,
)
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.ops import operators

T, B, M, N = 5, 3, 6, 4
in_graph = pytest.mark.skipif(not operators.AVAILABLE, reason="operators need torch 2.4")
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf",  # newer torch's, of any compiled call
    "ignore:Guards may run slower on Python 3.13.0",
)


@pytest.fixture(autouse=True)
def forgets_graphs() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counter:
    """A backend that counts the graphs it was given."""

    def __init__(self, backend: str) -> None:
        self.backend, self.graphs = torch._dynamo.lookup_backend(backend), 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return self.backend(graph, inputs)


def trains(batch: int = B) -> Tensor:
    return (torch.rand(T, batch, M) < 0.4).float()


def first(output: Any) -> Tensor:
    result: Tensor = output if isinstance(output, Tensor) else output[0]
    return result


# ---- how a layer is called ----

Call = Callable[[Any, Tensor], Tensor]


def sequence(net: Any, x: Tensor) -> Tensor:
    return first(net(x))


def hidden(net: Any, x: Tensor) -> Tensor:
    utils.reset(net)
    return torch.stack([first(net(x_t)) for x_t in x])


def hidden_sequence(net: Any, x: Tensor) -> Tensor:
    """Two parts, with the gradient that goes from the second into the first."""
    utils.reset(net)
    return torch.cat([first(net(x[:2])), first(net(x[2:]))])


def explicit(net: Any, x: Tensor) -> Tensor:
    states: list[Tensor] = []
    outs = []
    for x_t in x:
        spk, *states = net(x_t, *states)
        outs.append(spk + 0.1 * states[-1])
    return torch.stack([*outs, states[-2]])


def recurrent(net: Any, x: Tensor) -> Tensor:
    states: list[Tensor] = []
    for x_t in x:
        states = net(x_t, *states)
    return states[0] + states[-1]


def with_state(net: Any, x: Tensor) -> Tensor:
    state, outs = None, []
    for x_t in x:
        z, state = net(x_t, state)
        outs.append(z)
    return torch.stack(outs)


def in_parts(net: Any, x: Tensor) -> Tensor:
    start, state = net(x[:2])
    end, _ = net(x[2:], state)
    return torch.cat([start, end])


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    call: Call


def snn(call: Call, kind: Any = HetSynLeaky, **options: Any) -> Case:
    return Case(lambda: kind(M, N, weight=torch.rand(N, M) * 0.6, **options), call)


def nrs(call: Call, kind: Any, p: dict[str, Any] | None = None, **options: Any) -> Case:
    return Case(lambda: kind(M, N, HetSynLIFParameters(v_th=0.3, **(p or {})), **options), call)


def stack() -> nn.Module:
    first_layer, last = HetSynLeaky(M, 5, weight=torch.rand(5, M), init_hidden=True), torch.rand(N, 5)
    return nn.Sequential(first_layer, nn.Linear(5, 5), HetSynLeaky(5, N, weight=last, init_hidden=True, output=True))


def norse_stack(cells: bool) -> nn.Module:
    kinds = (
        (HetSynLIFCell, HetSynLIFRecurrentCell, HetSynLICell) if cells else (HetSynLIF, HetSynLIFRecurrent, HetSynLI)
    )
    a, b, c = (kind(M, M, HetSynLIFParameters(v_th=0.3)) for kind in kinds)
    return norse.torch.SequentialState(a, nn.Linear(M, M), b, c)


FULL = {"adaptation_decay": 0.8, "adaptation_strength": 0.2, "bias": True, "learn_beta": True, "learn_threshold": True}
TIED = {"share": "neuron", "tie_reset": True, "parametrization": "log_tau", "dt": 1e-3}
CASES = {
    "hidden steps": snn(hidden, init_hidden=True, **FULL),
    "hidden steps, tied log tau": snn(hidden, init_hidden=True, **TIED),
    "hidden steps, readout": snn(hidden, init_hidden=True, spiking=False),
    "hidden steps, recurrent": snn(hidden, RHetSynLeaky, init_hidden=True, **FULL),
    "hidden steps, a net": Case(stack, hidden),
    "hidden sequences, a net": Case(stack, hidden_sequence),
    "hidden steps, graded, detached": snn(hidden, init_hidden=True, detach_reset=True, graded_spikes_factor=0.5),
    "steps": snn(explicit, **FULL),
    "steps, no reset": snn(explicit, reset_mechanism="none"),
    "steps, recurrent": snn(recurrent, RHetSynLeaky),
    "sequence": snn(sequence, share="layer", **FULL),
    "sequence, recurrent": snn(sequence, RHetSynLeaky, check=True),
    "sequence, batch first": snn(lambda net, x: first(net(x.transpose(0, 1))), batch_first=True),
    "Norse cell": nrs(with_state, HetSynLIFCell, {"learn_reset": True}, parametrization="tau"),
    "Norse recurrent cell": nrs(with_state, HetSynLIFRecurrentCell, {"tau_adapt_inv": 20.0, "adapt_strength": 0.2}),
    "Norse cells": Case(lambda: norse_stack(cells=True), with_state),
    "Norse sequences": Case(lambda: norse_stack(cells=False), in_parts),
    "Norse, recorded": nrs(sequence, HetSynLIF, record_states=True),
}

# of these the backward pass is a graph too, which takes twice as long; of all others, eager autograd's
DIFFERENTIATED = ("hidden steps", "steps", "sequence, recurrent", "Norse cell", "Norse, recorded")


def compare(case: Case, backend: str, batches: tuple[int, ...]) -> list[int]:
    """Spikes to the bit, gradients in rounding, compiled beside eager; how many graphs there were after each batch."""
    net = case.build()
    twin, counter = copy.deepcopy(net), Counter(backend)
    compiled, graphs = torch.compile(net, fullgraph=True, backend=counter), []
    for batch in batches:
        x = trains(batch)
        want, got = case.call(twin, x), case.call(compiled, x)
        assert torch.equal(got, want), "the values are others"
        weights = torch.randn(want.shape)
        pairs = zip(
            *(torch.autograd.grad((o * weights).sum(), list(m.parameters())) for o, m in ((want, twin), (got, net))),
            strict=True,
        )
        for one, other in pairs:
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
        graphs.append(counter.graphs)
    return graphs


@in_graph
@pytest.mark.parametrize("name", CASES)
def test_one_graph_gives_what_eager_calls_give(name: str) -> None:
    """And is compiled once for the first call and once for those that go on from a state, however many there are."""
    backend = "aot_eager" if name in DIFFERENTIATED else "eager"
    once, again, other_batch, another = compare(CASES[name], backend, (B, B, B + 2, B + 3))
    assert once <= 2 and again == once
    assert other_batch <= 2 * once and another == other_batch  # sizes that vary


@in_graph
@pytest.mark.parametrize("name", ["hidden steps", "Norse recurrent cell", "sequence"])
def test_the_default_backend_too(name: str) -> None:
    compare(CASES[name], "inductor", (B,))


# ---- what a graph cannot hold ----


class Between(nn.Module):
    """A layer with something to compile in front and behind."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.front = layer, nn.Linear(M, M)

    def forward(self, x: Tensor) -> Tensor:
        return first(self.layer(self.front(x).relu())) * 2


def foreign() -> nn.Module:
    return HetSynLeaky(M, N, spike_grad=snntorch.surrogate.fast_sigmoid(), detach_reset=True)


@in_graph
def test_a_foreign_surrogate_is_refused_by_name_in_one_graph() -> None:
    says = r"^surrogate: expected one of hetsyn_plugins.surrogate .*got snntorch.surrogate.fast_sigmoid, .*fullgraph"
    for x in (trains(), trains()[0]):
        with pytest.raises(RuntimeError, match=says):
            torch.compile(foreign(), fullgraph=True, backend="eager")(x)


BROKEN: dict[str, Callable[[], nn.Module]] = {"a foreign surrogate": foreign}
if not operators.AVAILABLE:
    BROKEN |= {"snnTorch": lambda: HetSynLeaky(M, N), "Norse": lambda: HetSynLIF(M, N)}
    BROKEN |= {
        "snnTorch, hidden": lambda: HetSynLeaky(M, N, init_hidden=True),
        "Norse cell": lambda: HetSynLIFCell(M, N),
    }


@pytest.mark.parametrize("name", BROKEN)
def test_where_a_graph_breaks_it_breaks_once_a_layer(name: str) -> None:
    net, x = Between(BROKEN[name]()), trains()[0] if "cell" in name else trains()
    twin = copy.deepcopy(net)
    assert torch._dynamo.explain(net)(x).graph_count == 2
    torch._dynamo.reset()
    utils.reset(net)
    assert torch.equal(torch.compile(net, backend="aot_eager")(x), twin(x))


@in_graph
@pytest.mark.parametrize("fullgraph", [True, False])
def test_gradients_of_transformations_are_refused_by_name_in_a_graph(fullgraph: bool) -> None:
    layer = HetSynLIF(M, N)

    def slopes(x: Tensor) -> Tensor:
        return torch.func.grad(lambda given: layer(given)[0].sum())(x)

    def samples(xs: Tensor) -> Tensor:
        return torch.vmap(lambda x: layer(x)[0])(xs)

    xs = torch.stack([trains(), trains()])
    for function, given, got in ((slopes, xs[0], "Grad"), (samples, xs, "Vmap")):
        with pytest.raises(RuntimeError, match=f"^HetSyn layers: expected no gradient of torch.func .*got {got}:"):
            torch.compile(function, fullgraph=fullgraph, backend="eager")(given)
    with torch.no_grad():
        got = torch.compile(samples, fullgraph=fullgraph, backend="eager")(xs)
        assert torch.equal(got, samples(xs))


@in_graph
def test_rows_with_lengths_are_left_out_of_the_graph() -> None:
    layer, x, lengths = HetSynLIF(M, N), trains(), torch.tensor([T, 4, 2])
    compiled = torch.compile(layer, backend="aot_eager")
    assert torch.equal(compiled(x, lengths=lengths)[0], layer(x, lengths=lengths)[0])


# ---- around it ----


@in_graph
def test_values_are_looked_at_in_a_graph_with_check() -> None:
    x = trains()
    x[3, 1, 2] = float("nan")
    for layer in (HetSynLeaky(M, N, check=True), HetSynLIF(M, N, check=True)):
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        with pytest.raises(ValueError, match="expected finite values, got 1 NaN"):
            compiled(x)


@in_graph
def test_a_state_that_was_assigned_is_seen() -> None:
    layer = HetSynLeaky(M, N, init_hidden=True)
    compiled, x = torch.compile(layer, fullgraph=True, backend="aot_eager"), torch.zeros(B, M)
    for _ in range(2):
        compiled(x)
        layer.reset_mem()
        layer.rst = torch.ones(B, N)
        assert torch.equal(compiled(x), torch.zeros(B, N)) and (layer.mem < 0).all()


@in_graph
def test_a_convolution_in_front_hands_over_what_it_has() -> None:
    """Channels last and not contiguous, into one copy at most."""
    front, layer = nn.Conv2d(1, 3, 3, padding=1).to(memory_format=torch.channels_last), HetSynLIF(3 * 16, N)

    def net(images: Tensor) -> Tensor:
        maps = front(images.flatten(0, 1).to(memory_format=torch.channels_last))
        return first(layer(maps.flatten(1).unflatten(0, images.shape[:2])))

    images = torch.rand(T, B, 1, 4, 4)
    want, got = net(images), torch.compile(net, fullgraph=True, backend="aot_eager")(images)
    assert torch.equal(got, want)
    weights = [*front.parameters(), *layer.parameters()]
    for one, other in zip(*(torch.autograd.grad(o.sum(), weights) for o in (want, got)), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@in_graph
@pytest.mark.parametrize("build", [lambda: HetSynLeaky(M, N), lambda: HetSynLIFRecurrent(M, N)])
def test_half_precision_comes_out_as_in_eager_calls(build: Any) -> None:
    layer, x = build(), trains()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want, got = layer(x.bfloat16())[0], compiled(x.bfloat16())[0]
    assert got.dtype == want.dtype and torch.equal(got, want)
    half = copy.deepcopy(layer).bfloat16()
    torch._dynamo.reset()
    want, got = half(x.bfloat16())[0], torch.compile(half, fullgraph=True, backend="aot_eager")(x.bfloat16())[0]
    assert got.dtype == want.dtype == torch.bfloat16 and torch.equal(got, want)


# ---- torch.export ----


class Spikes(nn.Module):
    """What comes out of a net first: torch cannot write down that a state is one of Norse's named tuples."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return first(self.net(x))


@in_graph
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's, of its own parts
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("build", [stack, lambda: norse_stack(cells=False)], ids=["snnTorch", "Norse"])
def test_an_exported_net_is_the_net(build: Callable[[], nn.Module], strict: bool) -> None:
    """Saved, loaded and run, from states of zeros; and the net itself goes on as it was."""
    net, x, file = Spikes(build()).eval(), trains(), io.BytesIO()
    with torch.no_grad():
        program = torch.export.export(net, (x,), strict=strict)
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file).module()
        utils.reset(net)
        want = net(x)
        assert torch.equal(loaded(x), want)
        utils.reset(net)
        assert torch.equal(net(x), want)
        assert torch.equal(loaded(x), want)  # nothing is kept from call to call
