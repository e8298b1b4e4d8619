"""The operators that compiled graphs hold: what torch asks of an operator, and the same numbers as eager calls."""

from typing import Any

import pytest
import torch
from planting import caught
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.surrogate import OURS, MultiGaussian, Surrogate
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.ops import lif, operators
from hetsyn_plugins.ops.arguments import ArgumentNames
from hetsyn_plugins.ops.dispatch import Way

pytestmark = [
    pytest.mark.skipif(not operators.AVAILABLE, reason="operators need torch 2.4"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # newer torch's own
]
T, B, N, M = 7, 3, 5, 4


def layer(recurrent: bool = False, spiking: bool = True) -> LayerTensors:
    fields: dict[str, Tensor] = {"weight": torch.randn(N, M), "decay": torch.rand(N, M), "bias": torch.rand(N) * 0.1}
    if spiking:
        fields |= {"threshold": torch.rand(N) * 0.2 + 0.1, "reset_decay": torch.rand(N)}
    if recurrent:
        fields |= {"recurrent_weight": torch.randn(N, N) * 0.3, "recurrent_decay": torch.rand(N, N)}
        fields |= {"adaptation_decay": torch.rand(N), "adaptation_strength": torch.rand(N) * 0.1}
    return LayerTensors(**{name: t.detach().requires_grad_() for name, t in fields.items()})


def state_for(tensors: LayerTensors) -> HetSynState:
    n = torch.rand(B, N)
    return HetSynState(
        torch.randn(B, N, M),
        None if tensors.recurrent_weight is None else torch.randn(B, N, N),
        None if tensors.reset_decay is None else torch.rand(B, N),
        None if tensors.adaptation_decay is None else torch.rand(B, N),
        None if tensors.threshold is None else (n > 0.5).float(),
        n,
    )


def arguments(
    tensors: LayerTensors, state: HetSynState, x: Tensor, lanes: int, backend: str = "auto"
) -> tuple[Any, ...]:
    of_step = () if x.ndim == 3 else (True, True)  # it leaves a record, of inputs too
    return (x, *tensors, *state, "MultiGaussian", [], False, backend, lanes, *of_step, "")


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("name", ["sequence", "step"])
def test_torch_finds_the_operators_sound(name: str, recurrent: bool) -> None:
    tensors, x = layer(recurrent), torch.rand((T, B, M) if name == "sequence" else (B, M)).requires_grad_()
    operator = getattr(torch.ops.hetsyn_plugins, name).default
    for state in (HetSynState(None), state_for(tensors)._replace(v=None)):
        torch.library.opcheck(operator, arguments(tensors, state, x, lanes=0))


def test_a_wrong_shape_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes are said twice, by the kernels and without values: torch's own check must see where the two part."""

    def turned_round(*given: Any) -> tuple[Tensor, ...]:
        *others, reset, adaptation = right(*given)
        return *others, reset.T, adaptation

    right = operators._shapes
    monkeypatch.setattr(operators, "_shapes", turned_round)
    with pytest.raises(Exception, match="test_faketensor"):
        torch.library.opcheck(
            torch.ops.hetsyn_plugins.sequence.default,
            arguments(layer(), HetSynState(None), torch.rand(T, B, M), lanes=0),
            test_utils="test_faketensor",
        )


@pytest.mark.parametrize("batch", [0, 1, 3, 8, 17])
@pytest.mark.parametrize("neurons", [1, 5, 40])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_currents_lie_as_the_graph_was_told(steps: int, batch: int, neurons: int) -> None:
    """For every layout of the CPU kernel what comes out is the memory that it wrote, of the shape that was foretold."""
    x, lanes = torch.rand(steps, batch, M), operators._cpu_lanes(double=False)
    tensors = LayerTensors(torch.randn(neurons, M), torch.rand(neurons, M))
    given = arguments(tensors, HetSynState(None), x, lanes)
    memory = torch.ops.hetsyn_plugins.sequence(*given)[2]
    how = operators._memory(x, tensors.weight, lanes)
    assert tuple(memory.shape) == how.shape and memory.is_contiguous()
    _, _, want = lif.run_sequence(x, tensors, HetSynState(torch.zeros(batch, neurons, M)), Way(MultiGaussian()))
    assert torch.equal(how.view(memory, batch, neurons), want.current)
    plain = torch.ops.hetsyn_plugins.sequence(*arguments(tensors, HetSynState(None), x, 0))[2]
    assert torch.equal(plain, want.current) and plain.is_contiguous()


@pytest.mark.parametrize("kind", list(OURS.values()))
def test_every_surrogate_of_ours_goes_in_by_name_and_numbers(kind: type[Surrogate]) -> None:
    surrogate, x = kind(), torch.rand(T, B, M)
    assert operators.takes(surrogate)
    name, parameters, *_ = operators._options(Way(surrogate), x)
    assert OURS[name](*parameters) == surrogate


def compare_with_eager(recurrent: bool, detach: bool) -> None:
    """Values and gradients of a sequence from a state, to the bit."""
    tensors, x, way = layer(recurrent), torch.rand(T, B, M).requires_grad_(), Way(OURS["Triangular"](), detach)
    state = HetSynState(*(None if part is None else part.requires_grad_() for part in state_for(tensors)))
    leaves = [t for t in (x, *tensors, *state[:5]) if t is not None]
    results = []
    for spikes, v, final in (lif.run_sequence(x, tensors, state, way), operators.sequence(x, tensors, state, way, "")):
        parts = [spikes, v, *(part for part in final[:4] if part is not None)]
        loss = sum((part * torch.arange(part.numel()).reshape(part.shape)).sum() for part in parts if part is not None)
        results.append((*parts, *torch.autograd.grad(loss, leaves)))  # type: ignore[arg-type]  # not 0
    for index, (want, got) in enumerate(zip(*results, strict=True)):
        assert torch.equal(want, got), f"result {index} is another"


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_operators_give_what_eager_calls_give(recurrent: bool, detach: bool) -> None:
    compare_with_eager(recurrent, detach)


def test_a_lost_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        operators.graph_loops, "given", lambda g: None if g is None or (g.ndim == 3 and g.shape[0] != T) else g
    )
    with caught("is another"):
        compare_with_eager(False, False)


def test_spikes_are_fired_from_v_with_its_gradient() -> None:
    """A state without spikes: those of its v, with the surrogate's derivative, as `surrogate(v - threshold)` has it."""
    tensors, x, way = layer(), torch.rand(B, M), Way(MultiGaussian())
    state = state_for(tensors)
    v = (torch.rand(B, N) * 0.4).requires_grad_()
    leaves = [t for t in (*tensors, v) if t is not None]
    results = []
    for z in (way.surrogate(v - tensors.threshold, tensors.threshold), None):
        after = operators.step(x, tensors, state._replace(spikes=z, v=v), way, "")
        results.append([after.v, *torch.autograd.grad((after.v * torch.arange(N)).sum(), leaves)])
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_inputs_and_parameters_are_looked_at_where_the_graph_was_told_to() -> None:
    checked = operators.names_to_check(True, ArgumentNames(inputs="input_", decay="alpha"))
    x, tensors = torch.rand(T, B, M), layer()
    x[1, 2, 0] = float("nan")
    operators.sequence(x, tensors, HetSynState(None), Way(MultiGaussian()), "")
    with pytest.raises(ValueError, match="input_: expected finite values, got 1 NaN"):
        operators.sequence(x, tensors, HetSynState(None), Way(MultiGaussian()), checked)
    bad = tensors._replace(decay=tensors.decay.detach() + 1)
    with pytest.raises(ValueError, match="alpha: expected decays in"):
        operators.sequence(x.nan_to_num(), bad, HetSynState(None), Way(MultiGaussian()), checked)


def test_vmap_runs_one_call_a_sample() -> None:
    tensors, xs = (
        LayerTensors(torch.randn(N, M), torch.rand(N, M), torch.rand(N), torch.rand(N)),
        torch.rand(2, T, B, M),
    )
    given = arguments(tensors, HetSynState(None), xs[0], 0)[1:]
    spikes = torch.vmap(lambda x: torch.ops.hetsyn_plugins.sequence(x, *given)[0])(xs)
    want = torch.stack([torch.ops.hetsyn_plugins.sequence(x, *given)[0] for x in xs])
    assert torch.equal(spikes, want)


# ---- the functions of tensors, under torch.compile ----


def lif_twice(x: Tensor, weight: Tensor, decay: Tensor, **options: Any) -> Tensor:
    """The second call goes on from the first one's state."""
    spikes, v, state = lif.hetsyn_lif(x, weight, decay, reset_decay=0.9, threshold=0.5, **options)
    again, _, _ = lif.hetsyn_lif(x * 2, weight, decay, reset_decay=0.9, state=state, **options)
    return spikes.sum() + v.sum() + 2 * again.sum()


def li(x: Tensor, weight: Tensor, decay: Tensor) -> Tensor:
    return lif.hetsyn_li(x, weight, decay, bias=weight[:, 0])[0].square().sum()


def lif_steps(x: Tensor, weight: Tensor, decay: Tensor) -> Tensor:
    state, total = None, x.new_zeros(())
    for x_t in x:
        state = lif.hetsyn_lif_step(x_t, weight, decay, reset_decay=0.9, surrogate="triangular", state=state)
        total = total + state.v.square().sum()
    return total


@pytest.mark.parametrize("function", [lif_twice, li, lif_steps])
def test_functions_of_tensors_are_one_graph(function: Any) -> None:
    torch._dynamo.reset()
    leaves = torch.rand(T, B, M).requires_grad_(), torch.rand(N, M).requires_grad_(), torch.rand(N, 1).requires_grad_()
    want, got = function(*leaves), torch.compile(function, fullgraph=True, backend="aot_eager")(*leaves)
    assert torch.equal(got, want)
    for one, other in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_functions_look_at_values_in_a_graph_with_check() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lif_twice, fullgraph=True, backend="eager")
    with pytest.raises(ValueError, match=f"x: expected finite values, got {T} NaN"):
        compiled(torch.full((T, 1, 1), torch.inf), *torch.rand(2, N, 1), check=True, argument_names={"inputs": "x"})


def test_a_foreign_surrogate_is_refused_by_name_by_functions_too() -> None:
    def boxcar(d: Tensor) -> Tensor:
        return (d > 0).to(d.dtype)

    torch._dynamo.reset()
    given = torch.rand(T, B, M), torch.rand(N, M), torch.rand(N, M)
    with pytest.raises(RuntimeError, match=r"^surrogate: expected one of hetsyn_plugins.surrogate .*got .*boxcar"):
        torch.compile(lif_twice, fullgraph=True, backend="eager")(*given, surrogate=boxcar)


@pytest.mark.parametrize("axes", ["BNM", "NMB"])
def test_currents_that_lie_in_their_memory_are_not_copied(axes: str) -> None:
    sizes = {"B": B, "N": N, "M": M}
    memory = operators.Memory(tuple(sizes[axis] for axis in axes), axes)  # type: ignore[arg-type]
    flat = torch.randn(memory.shape)
    currents = memory.view(flat, B, N)
    assert currents.shape == (B, N, M) and memory.of(currents).data_ptr() == flat.data_ptr()
    for other in (currents.clone().transpose(0, 1).contiguous().transpose(0, 1), torch.cat([currents] * 2)[:B]):
        assert torch.equal(memory.of(other), flat) and memory.of(other).data_ptr() != other.data_ptr()
