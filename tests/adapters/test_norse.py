"""The Norse modules inside Norse: its containers, hooks, facilities. What they compute: `tests/conformance`."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.card

norse_torch = pytest.importorskip("norse.torch")

from norse.torch import Lift, RegularizationCell, SequentialState  # noqa: E402
from norse.torch.functional.regularization import spike_accumulator, voltage_accumulator  # noqa: E402
from planting import planted  # noqa: E402

import hetsyn_plugins  # noqa: E402
from hetsyn_plugins import HetSynParams  # noqa: E402
from hetsyn_plugins.adapters import norse as adapter  # noqa: E402  after the skip
from hetsyn_plugins.adapters.norse import (  # noqa: E402
    HetSynLI,
    HetSynLICell,
    HetSynLIF,
    HetSynLIFCell,
    HetSynLIFParameters,
    HetSynLIFRecurrent,
    HetSynLIFRecurrentCell,
    HetSynLIFState,
    hetsyn_lif_step,
)
from hetsyn_plugins.core import initialisers, reference, surrogate  # noqa: E402
from hetsyn_plugins.core.fields import ARRAYS  # noqa: E402

T, B, M, N, DT = 12, 3, 6, 5, 1e-3
ROOT = Path(__file__).resolve().parents[2]
CELLS = [HetSynLIFCell, HetSynLIFRecurrentCell, HetSynLICell]
SEQUENCES = [HetSynLIF, HetSynLIFRecurrent, HetSynLI]
PAIRS = list(zip(CELLS, SEQUENCES, strict=True))


def parameters(**changes: Any) -> HetSynLIFParameters:
    return HetSynLIFParameters(**{"v_th": 0.4, "bias": torch.linspace(0, 0.1, N), **changes})


def spike_trains(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(*shape) < 0.5).to(dtype)


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def in_steps(cell: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    outs = []
    for x_t in x:
        out, state = cell(x_t, state)
        outs.append(out)
    return torch.stack(outs), state


# ---- what they compute


@pytest.mark.parametrize("cls", [*CELLS, *SEQUENCES])
@pytest.mark.cpu_only
def test_every_class_equals_the_reference(cls: Any) -> None:
    adapt = {"tau_adapt_inv": 10.0, "adapt_strength": 0.05} if cls.spiking else {}
    p = parameters(**adapt, tau_syn_inv=torch.rand(N, M, dtype=torch.float64) * 200)
    module = cls(M, N, p, DT, dtype=torch.float64)
    x = spike_trains(250, B, M, dtype=torch.float64)
    out, state = module(x) if module.sequential else in_steps(module, x)
    spikes, v, end = reference.run(module.to_params(), x.numpy())
    np.testing.assert_allclose(state.v.detach().numpy(), end.v, atol=1e-12)
    if cls.spiking:
        np.testing.assert_array_equal(out.detach().numpy(), spikes)
        assert 0.02 < spikes.mean() < 0.98
        np.testing.assert_allclose(state.i_adapt.detach().numpy(), end.adaptation, atol=1e-12)
    else:
        np.testing.assert_allclose(out.detach().numpy(), v, atol=1e-12)


@pytest.mark.parametrize(("cell_class", "sequence_class"), PAIRS)
def test_cell_in_a_loop_and_lifted_equals_the_sequence(cell_class: Any, sequence_class: Any) -> None:
    cell = cell_class(M, N, parameters(), DT, dtype=torch.float64)
    layer = sequence_class(M, N, parameters(), DT, dtype=torch.float64)
    layer.load_state_dict(cell.state_dict())
    x = spike_trains(T, B, M, dtype=torch.float64)
    whole, end = layer(x)
    looped, looped_end = in_steps(cell, x)
    lifted, lifted_end = Lift(cell)(x)
    assert type(end) is type(looped_end) is layer.state_class
    for out, state in ((looped, looped_end), (lifted, lifted_end)):
        torch.testing.assert_close(out, whole, rtol=0, atol=1e-13)
        for one, other in zip(state, end, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_functional_step_equals_the_cell() -> None:
    for cls in (HetSynLIFCell, HetSynLIFRecurrentCell):
        cell = cls(M, N, parameters(), DT)
        state: Any = None
        for x in spike_trains(T, B, M):
            z, after = cell(x, state)
            other, other_after = hetsyn_lif_step(x, state, cell.input_weights, cell.recurrent_weights, cell.p, DT)
            assert torch.equal(z, other) and type(after) is type(other_after) and equal(after, other_after)
            state = after
        assert state.z.any()


def test_functional_step_with_fresh_parameters() -> None:
    """p whose shapes were never expanded, and no p at all: the paper's 20 ms."""
    weights = torch.full((N, M), 0.5)
    _, state = hetsyn_lif_step(torch.ones(B, M), None, weights, dt=DT)
    assert isinstance(state, HetSynLIFState) and torch.equal(state.v, torch.full((B, N), 3.0))
    _, after = hetsyn_lif_step(torch.zeros(B, M), state, weights, dt=DT)
    decay = float(np.exp(-DT / 20e-3))
    torch.testing.assert_close(after.v, torch.full((B, N), 3 * decay - 1.0))


@pytest.mark.cpu_only
def test_functional_step_of_float64_weights_needs_no_p() -> None:
    weights = torch.full((N, M), 0.5, dtype=torch.float64)
    x = torch.ones(B, M, dtype=torch.float64)
    _, state = hetsyn_lif_step(x, hetsyn_lif_step(x, None, weights)[1], weights)
    want = 3 * (1 + np.exp(-1e-3 / 20e-3)) - 1
    np.testing.assert_allclose(state.v.detach().numpy(), np.full((B, N), want), rtol=1e-14)


@pytest.mark.parametrize("parametrization", ["decay", "tau", "log_tau"])
def test_functional_step_of_a_cells_p_at_another_dt(parametrization: str) -> None:
    """Two steps of dt are one of 2 dt: all decays squared, whatever is stored."""
    p = HetSynLIFParameters(50.0, tau_reset_inv=100.0, dtype=torch.float64)
    cell = HetSynLIFCell(M, N, p, DT, parametrization=parametrization, dtype=torch.float64)
    one = HetSynLIFState(
        *(torch.rand(B, N, dtype=torch.float64) for _ in range(2)),
        torch.rand(B, N, M, dtype=torch.float64),
        torch.rand(B, N, dtype=torch.float64),
        torch.zeros(B, N, dtype=torch.float64),
    )._replace(z=torch.zeros(B, N, dtype=torch.float64))
    _, after = hetsyn_lif_step(torch.zeros(B, M).double(), one, cell.input_weights, None, cell.p, 2 * DT)
    torch.testing.assert_close(after.i, one.i * np.exp(-50.0 * 2 * DT), rtol=1e-12, atol=0)
    torch.testing.assert_close(after.i_reset, one.i_reset * np.exp(-100.0 * 2 * DT), rtol=1e-12, atol=0)


def test_decay_is_exponential_and_tau_inv_reads_back() -> None:
    cell = HetSynLIFCell(M, N, HetSynLIFParameters(100.0, tau_reset_inv=50.0, dtype=torch.float64), DT)
    assert cell.p.tensor("decay")[0, 0].item() == pytest.approx(np.exp(-0.1), rel=1e-15)
    torch.testing.assert_close(cell.p.tau_syn_inv, torch.full((N, M), 100.0).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(cell.p.tau_reset_inv.reshape(()), torch.tensor(50.0).double(), rtol=1e-12, atol=0)
    assert cell.p.tau_adapt_inv is None and cell.input_weights.dtype == torch.float64
    assert HetSynLIFCell(M, N, dt=DT, dtype=torch.float64).to_params().decay[0, 0] == np.exp(-DT / 20e-3)


@pytest.mark.parametrize("parametrization", ["decay", "tau", "log_tau"])
def test_tau_inv_of_zero_and_infinity_are_r_one_and_zero(parametrization: str) -> None:
    p = HetSynLIFParameters(tau_syn_inv=torch.tensor([0.0, torch.inf, 50.0, 50.0, 50.0]), tau_reset_inv=None)
    cell = HetSynLIFCell(M, N, p, DT, parametrization=parametrization)
    params = cell.to_params()
    assert (params.decay[0] == 1).all() and (params.decay[1] == 0).all() and params.reset_decay is None
    _, state = cell(torch.ones(B, M))
    state.v.sum().backward()
    assert all(torch.isfinite(q.grad).all() for q in cell.parameters() if q.grad is not None)


@pytest.mark.parametrize("method", ["super", "triangle", "tanh", "circ", "heavi_erfc"])
@pytest.mark.cpu_only
def test_norse_methods_give_norse_gradients(method: str) -> None:
    from norse.torch.functional.threshold import threshold

    torch.manual_seed(1)
    own = adapter.surrogate_of(method, 10.0)
    d = torch.randn(50)
    leaf = d.clone().requires_grad_()
    (want,) = torch.autograd.grad(threshold(leaf, method, 10.0).sum(), leaf)
    torch.testing.assert_close(own.derivative(d), want)
    layer = HetSynLIF(M, N, parameters(method=method, alpha=10.0), DT)
    layer(spike_trains(T, B, M))[0].sum().backward()
    assert layer.input_weights.grad is not None and torch.isfinite(layer.input_weights.grad).all()
    assert pickle.loads(pickle.dumps(layer)).surrogate == layer.surrogate
    assert layer.surrogate == own and layer.surrogate.spike_grad.alpha == 10.0  # type: ignore[attr-defined]


# ---- in Norse's containers


@pytest.mark.parametrize("cells", [False, True])
def test_sequential_state(cells: bool) -> None:
    kind = (HetSynLIFCell, HetSynLIFRecurrentCell, HetSynLICell) if cells else (HetSynLIF, HetSynLIFRecurrent, HetSynLI)
    net = SequentialState(
        kind[0](M, N, parameters(), DT), nn.Dropout(0.0), kind[1](N, N, parameters(), DT), kind[2](N, 2)
    )
    x = spike_trains(T, B, M)
    out, state = in_steps(net, x) if cells else net(x)
    assert out.shape == (T, B, 2) and len(state) == 4 and state[1] is None
    assert [type(s).__name__ for s in state if s] == ["HetSynLIFState", "HetSynLIFRecurrentState", "HetSynLIState"]
    h, s0 = in_steps(net[0], x) if cells else net[0](x)
    h, s2 = in_steps(net[2], h) if cells else net[2](h)
    v, s3 = in_steps(net[3], h) if cells else net[3](h)
    assert torch.equal(out, v) and equal(state[0], s0) and equal(state[2], s2) and equal(state[3], s3)
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_stacked_with_stock_layers_and_convolutions() -> None:
    net = SequentialState(nn.Flatten(2), HetSynLIF(M, N, parameters(), DT), norse_torch.LIF(), HetSynLI(N, 3))
    out, _ = net(spike_trains(T, B, 2, 3))
    assert out.shape == (T, B, 3)


def test_cells_of_norse_and_ours_in_one_container_step_as_called_one_by_one() -> None:
    net = SequentialState(
        HetSynLIFCell(M, N, parameters(), DT), norse_torch.LIFBoxCell(), norse_torch.LIFCell(), HetSynLICell(N, 2)
    )
    x = spike_trains(T, B, M)
    out, _ = in_steps(net, x)
    lifted, _ = Lift(net)(x)
    want = x
    for layer in net:
        want, _ = in_steps(layer, want)
    assert torch.equal(out, want) and torch.equal(lifted, want)
    out.sum().backward()
    assert net[0].input_weights.grad is not None and net[0].input_weights.grad.any()


MIXTURES: dict[str, Any] = {
    "a cell behind": lambda: (HetSynLIF(M, N), norse_torch.LIFCell()),
    "a cell in front": lambda: (norse_torch.LIFCell(), HetSynLIF(M, N)),
    "others between": lambda: (HetSynLIF(M, N), nn.Linear(N, N), nn.Dropout(0.1), norse_torch.LIFBoxCell()),
    "a readout cell": lambda: (HetSynLIF(M, N), norse_torch.LILinearCell(N, 3)),
    "our own cell": lambda: (HetSynLIF(M, N), HetSynLICell(N, 3)),
    "a sequence of Norse's behind our cell": lambda: (HetSynLIFCell(M, N), norse_torch.LIF()),
    "containers in it": lambda: (
        SequentialState(HetSynLIF(M, N), nn.Identity()),
        nn.Sequential(nn.ReLU()),
        SequentialState(norse_torch.LIFRecurrentCell(N, 3)),
    ),
}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_steps_and_sequences_in_one_container_are_refused(mixture: str) -> None:
    """A stock cell would take (T, B, N) for one step of a batch T, without a word."""
    net = SequentialState(*MIXTURES[mixture]())
    for each in (net, copy.deepcopy(net), SequentialState(net)):
        with pytest.raises(ValueError, match=r"^net: expected layers of one kind .*takes one step .*takes a sequence"):
            each(spike_trains(T, B, M))


class LastStep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[-1]


def test_what_is_of_one_kind_or_made_so_by_the_user_is_no_mixture() -> None:
    x = spike_trains(T, B, M)
    nets = (
        SequentialState(HetSynLIF(M, N), LastStep(), norse_torch.LIFCell()),
        SequentialState(HetSynLIF(M, N), norse_torch.LIF(), nn.Linear(N, N), HetSynLI(N, 2), nn.RNN(2, 3)),
        SequentialState(Lift(nn.Linear(M, M)), HetSynLIF(M, N)),
        SequentialState(norse_torch.LIF(), norse_torch.LIFCell()),  # none of ours: Norse's own affair
    )
    for net in nets:
        net(x)
    assert not nets[-1]._forward_pre_hooks


def test_a_mixture_is_seen_by_what_is_hung_on_the_container() -> None:
    with planted(adapter.__name__, "if found is not None", "if found is None and net is None") as changed:
        net = SequentialState(HetSynLIF(M, N), norse_torch.LIFCell())
        changed.check_one_kind(net, ())
    with pytest.raises(ValueError, match="of one kind"):
        adapter.check_one_kind(net, ())


@pytest.mark.cpu_only
def test_a_lift_of_a_stateful_cell_in_a_container_is_named() -> None:
    """Norse 1.1 takes a Lift for stateless and hands its pair on."""
    net = SequentialState(Lift(HetSynLIFCell(M, N)), HetSynLI(N, 2))
    with pytest.raises(ValueError, match=r"got tuple; the layer before it returned a pair: .* not that of a Lift"):
        net(spike_trains(T, B, M))


@pytest.mark.filterwarnings("ignore:nirtorch.(extract_nir_graph|load) is being deprecated")
def test_to_nir_and_from_nir_give_the_same_spikes_and_stock_nets_go_as_ever() -> None:
    """With their defaults; a net with what has no counterpart is refused by name."""
    pytest.importorskip("nir")
    cells = SequentialState(HetSynLIFCell(M, N), nn.Linear(N, N), HetSynLIFRecurrentCell(N, 3))
    with torch.no_grad():
        cells[0].input_weights.mul_(3)
        cells[2].input_weights.mul_(3)
    x, state, back_state = spike_trains(T, B, M), None, None
    back = norse_torch.from_nir(norse_torch.to_nir(cells, x[0]), ignore_warnings=True)
    total = 0.0
    for step in x:
        z, state = cells(step, state)
        again, back_state = back(step, back_state)
        assert torch.equal(z, again)
        total += float(z.detach().sum())
    assert total > 10
    with pytest.raises(ValueError, match=r"module '1' is a norse\S+LIFBoxCell"):
        norse_torch.to_nir(SequentialState(HetSynLIFCell(M, N), norse_torch.LIFBoxCell()), x[0])
    x = x[0]
    stock = norse_torch.to_nir(SequentialState(nn.Linear(M, N), norse_torch.LIFBoxCell()), x)
    assert sorted(type(node).__name__ for node in stock.nodes.values()) == ["Affine", "Input", "LIF", "Output"]


def test_norse_is_met_once_and_by_layers_only() -> None:
    """Nothing of Norse's changes at import; two layers, or a thousand, make one change."""
    code = (
        "import norse.torch; from norse.torch.utils import export_nir; stock = export_nir.extract_nir_graph\n"
        "from torch.nn.modules import module\n"
        "from hetsyn_plugins.adapters.norse import HetSynLIF\n"
        "assert export_nir.extract_nir_graph is stock and not module._global_module_registration_hooks\n"
        "HetSynLIF(2, 2)\n"
        "first = export_nir.extract_nir_graph\n"
        "HetSynLIF(2, 2)\n"
        "assert export_nir.extract_nir_graph is first is not stock and first.__wrapped__ is stock\n"
        "assert len(module._global_module_registration_hooks) == 1\n"
    )
    code = f"import sys; sys.path.append('tests'); import conftest\n{code}"  # conftest: the checkout's adapters
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_chunks_through_a_container_equal_the_whole() -> None:
    net = SequentialState(
        HetSynLIFRecurrent(M, N, parameters(), DT, dtype=torch.float64), HetSynLI(N, 2, None, DT, dtype=torch.float64)
    )
    x = spike_trains(T, B, M, dtype=torch.float64)
    whole, end = net(x)
    first, state = net(x[:5])
    second, state = net(x[5:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-13)
    for one, other in zip(state[0], end[0], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_forward_state_hooks_see_every_state() -> None:
    net = SequentialState(HetSynLIFCell(M, N, parameters(), DT), HetSynLICell(N, 2))
    seen: list[Any] = []
    net.register_forward_state_hooks(lambda module, _, out: seen.append((type(module).__name__, out[1])))
    state = None
    for x in spike_trains(3, B, M):
        _, state = net(x, state)
    net.remove_forward_state_hooks()
    names = [name for name, _ in seen]
    assert names.count("HetSynLIFCell") == names.count("HetSynLICell") == 3
    _, state = net(spike_trains(B, M), state)
    assert len(seen) == len(names)


def test_regularization_cells_read_our_states() -> None:
    cell = HetSynLIFCell(M, N, parameters(), DT)
    spikes, voltage = RegularizationCell(spike_accumulator), RegularizationCell(voltage_accumulator)
    fired, membrane, state = torch.zeros(()), torch.zeros(B, N), None
    for x in spike_trains(T, B, M):
        z, state = cell(x, state)
        _, total = spikes(z, state)
        _, total_v = voltage(z, state)
        fired, membrane = fired + z.sum(), membrane + state.v
    assert fired > 0 and torch.equal(total.reshape(()), fired)
    torch.testing.assert_close(total_v, membrane)
    (total + total_v.sum()).sum().backward()
    assert cell.input_weights.grad is not None and cell.input_weights.grad.any()


def test_lift_of_a_container() -> None:
    net = SequentialState(HetSynLIFCell(M, N, parameters(), DT), HetSynLICell(N, 2))
    out, state = Lift(net)(spike_trains(T, B, M))
    assert out.shape == (T, B, 2) and isinstance(state[0], HetSynLIFState)


def test_record_states() -> None:
    x = spike_trains(T, B, M)
    for cls, names in ((HetSynLIF, ("i",)), (HetSynLIFRecurrent, ("i", "i_rec")), (HetSynLI, ("i",))):
        layer = cls(M, N, parameters(), DT, record_states=True)
        out, states = layer(x)
        layer.record_current = True
        _, full = layer(x)
        layer.record_states = False
        plain, end = layer(x)
        torch.testing.assert_close(out, plain)
        for name in states._fields:
            recorded, last = getattr(states, name), getattr(end, name)
            assert recorded.shape == (last.shape if name in names else (T, *last.shape))
            assert getattr(full, name).shape == (T, *last.shape)
            torch.testing.assert_close(getattr(full, name)[-1], last)
        if cls.spiking:
            assert torch.equal(states.z, out)


@pytest.mark.cpu_only
def test_recording_looks_at_the_inputs_once_as_the_fused_run_does() -> None:
    bad = torch.full((T, B, M), torch.nan)
    with pytest.raises(ValueError, match="input_tensor: expected finite values, got 216 NaN"):
        HetSynLIF(M, N, record_states=True)(bad)
    assert HetSynLIF(M, N, record_states=True, check=False)(bad)[1].v.isnan().all()


def test_sequence_gives_membranes_too() -> None:
    layer = HetSynLIF(M, N, parameters(), DT)
    z, v, _ = layer.sequence(spike_trains(T, B, M))
    assert torch.equal(z, (v > layer.p.v_th).float()) and v.shape == (T, B, N)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch 2.15's, at any break
@pytest.mark.parametrize("cells", [False, True])
@pytest.mark.cpu_only
def test_a_whole_container_compiles(cells: bool) -> None:
    kind = (HetSynLIFCell, HetSynLIFRecurrentCell, HetSynLICell) if cells else (HetSynLIF, HetSynLIFRecurrent, HetSynLI)
    net = SequentialState(*(c(M, M, HetSynLIFParameters(v_th=0.4), DT) for c in kind))
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="aot_eager")
    x = spike_trains(B, M) if cells else spike_trains(T, B, M)
    (want, want_state), (got, got_state) = net(x), compiled(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    for one, other in zip(got_state, want_state, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# ---- as nn.Modules


@pytest.mark.parametrize("cls", [*CELLS, *SEQUENCES])
@pytest.mark.cpu_only
def test_deepcopy_and_pickle(cls: Any) -> None:
    module = cls(M, N, parameters(), DT)
    x = spike_trains(T, B, M) if module.sequential else spike_trains(B, M)
    out, state = module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        again, again_state = other(x)
        assert torch.equal(out, again) and equal(state, again_state)
    assert equal(pickle.loads(pickle.dumps(state)), state) and type(pickle.loads(pickle.dumps(state))) is type(state)


@pytest.mark.parametrize("cls", [*CELLS, *SEQUENCES])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_types(cls: Any, half: torch.dtype) -> None:
    module = cls(M, N, parameters(), DT)
    x = (spike_trains(T, B, M) if module.sequential else spike_trains(B, M)).to(half)
    low = copy.deepcopy(module).to(half)
    out, state = low(x)
    assert out.dtype == half and state.v.dtype == torch.float32 and low.p.syn_decay.dtype == torch.float32
    rounded = copy.deepcopy(module).to(half).float()
    want, want_state = rounded(x.float())
    assert torch.equal(out, want.to(half)) and equal(state, want_state)
    again, _ = low(x, state)
    assert again.dtype == half
    double = copy.deepcopy(module).double()
    assert double(x.double())[1].v.dtype == torch.float64


@pytest.mark.cpu_only
def test_repr_has_ranges_threshold_and_surrogate() -> None:
    p = HetSynLIFParameters(
        initialisers.UniformTau(5e-3, 2e-2, DT), 0.0, None, 5.0, 0.1, torch.linspace(0, 1, N), v_th=0.4
    )
    assert "tau_syn=UniformTau(" in repr(p) and "tau_rec=inf ms" in repr(p)
    layer = HetSynLIFRecurrent(M, N, p, DT, share="neuron", parametrization="log_tau")
    with torch.no_grad():
        layer.p.syn_decay_log_tau.copy_(torch.linspace(5e-3, 2e-2, N).log())
    for text in (
        "6, 5, dt=0.001, share='neuron'",
        "tau_syn=5 to 20 ms, tau_rec=inf ms, tau_adapt=200 ms, adapt_strength=0.1, bias=0 to 1, v_th=0.4",
        "method='multi_gaussian', parametrization='log_tau'",
    ):
        assert text in repr(layer)
    assert "tau_reset" not in repr(layer) and "tau_syn=not known" in repr(HetSynLI(M, N, device="meta"))


@pytest.mark.parametrize("cls", [*CELLS, *SEQUENCES])
def test_help_says_how_a_layer_is_called_and_with_what(cls: Any) -> None:
    assert ("z, state = " if cls.spiking else "v, state = ") in cls.__doc__
    signature = inspect.signature(cls)
    assert ("record_states" in signature.parameters) == cls.sequential
    cls(**{name: p.default for name, p in signature.parameters.items()} | {"input_size": M, "hidden_size": N})


def test_parameters_are_where_torch_looks_for_them() -> None:
    p = parameters(
        learn_reset=True, learn_threshold=True, learn_adaptation=True, tau_adapt_inv=10.0, adapt_strength=0.1
    )
    layer = HetSynLIFRecurrent(M, N, p, DT)
    names = {n for n, _ in layer.named_parameters()}
    decays = {"p.syn_decay", "p.rec_decay", "p.reset_decay", "p.adapt_decay"}
    assert names == {"input_weights", "recurrent_weights", "p.v_th", "p.bias", "p.adapt_strength"} | decays
    assert set(layer.state_dict()) == names
    layer(spike_trains(T, B, M))[1].v.sum().backward()
    assert all(q.grad is not None for q in layer.parameters())


def test_p_is_copied_never_shared_or_changed() -> None:
    p = parameters(tau_syn_inv=torch.tensor(77.0))
    before = {n: t.clone() for n, t in p.state_dict().items()}
    one, other = HetSynLIF(M, N, p, DT), HetSynLIF(2 * M, N, p, 2 * DT, parametrization="log_tau")
    with torch.no_grad():
        for q in one.parameters():
            q.fill_(0.123)
    assert all(torch.equal(t, before[n]) for n, t in p.state_dict().items())
    assert one.p is not p and other.p is not one.p and other.p.tau_syn_inv[0, 0].item() == pytest.approx(77.0, rel=1e-6)
    assert other.p.syn_decay.shape == (N, 2 * M)


LEARNED = {"learn_reset": "reset_decay", "learn_threshold": "threshold", "learn_adaptation": "adaptation_decay"}


@pytest.mark.parametrize("chosen", [(), *((option,) for option in LEARNED), tuple(LEARNED)])
@pytest.mark.parametrize("cls", [HetSynLIFCell, HetSynLIFRecurrentCell, HetSynLIF, HetSynLIFRecurrent])
@pytest.mark.cpu_only
def test_what_is_learned_survives_constructors_and_copies(cls: Any, chosen: tuple[str, ...]) -> None:
    values = {"tau_adapt_inv": 5.0, "adapt_strength": 0.1}
    p = HetSynLIFParameters(**values, **dict.fromkeys(chosen, True))
    module = cls(M, N, p, DT)
    again = cls.from_params(module.to_params(), DT, **dict.fromkeys(chosen, True))
    for layer in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module)), again):
        trained = {field for field in (*LEARNED.values(), "adaptation_strength") if layer.stored(field).requires_grad}
        want = {LEARNED[option] for option in chosen}
        assert trained == (want | {"adaptation_strength"} if "learn_adaptation" in chosen else want)


def test_autapses_can_be_masked() -> None:
    layer = HetSynLIFRecurrent(M, N, parameters(), DT, autapses=False)
    assert not np.diag(layer.to_params().recurrent_weight).any()
    layer(spike_trains(T, B, M))[1].v.square().sum().backward()
    assert layer.recurrent_weights is not None and layer.recurrent_weights.grad is not None
    assert not layer.recurrent_weights.grad.diagonal().any() and layer.recurrent_weights.grad.any()


def test_initialisers_and_seeds() -> None:
    p = HetSynLIFParameters(tau_syn_inv=initialisers.NormalTau(20e-3, 4e-3, DT))
    torch.manual_seed(3)
    one = HetSynLIF(M, N, p, DT)
    torch.manual_seed(3)
    other = HetSynLIF(M, N, p, DT)
    assert torch.equal(one.p.syn_decay, other.p.syn_decay) and one.p.syn_decay.unique().numel() == N * M
    assert torch.equal(one.input_weights, other.input_weights)


@pytest.mark.parametrize("share", ["synapse", "neuron", "layer"])
@pytest.mark.parametrize("cls", SEQUENCES)
def test_initialisers_draw_what_is_shared(cls: Any, share: str) -> None:
    p = HetSynLIFParameters(
        initialisers.UniformTau(5e-3, 2e-2, DT), initialisers.NormalTau(2e-2, 5e-3, DT), v_th=0.4, dtype=torch.float64
    )
    layer = cls(M, N, p, DT, share=share, tie_reset=share != "synapse", dtype=torch.float64)
    count = {"synapse": N * M, "neuron": N, "layer": 1}[share]
    assert layer.stored("decay").unique().numel() == layer.stored("decay").numel() == count
    tau = 1 / layer.p.tau_syn_inv
    assert (tau > 5e-3).all() and (tau < 2e-2).all()
    assert torch.isfinite(layer(spike_trains(T, B, M, dtype=torch.float64))[0]).all()


def test_start_weights_have_the_variance_of_their_fan_in() -> None:
    layer = HetSynLIFRecurrent(400, 100)
    assert layer.input_weights.std().item() == pytest.approx(1 / 20, rel=0.02)
    assert layer.recurrent_weights is not None
    assert layer.recurrent_weights.std().item() == pytest.approx(1 / 10, rel=0.04)


@pytest.mark.parametrize("name", ["input_weights", "recurrent_weights", "p.syn_decay"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_no_training_can_give_is_not_loaded(name: str, bad: float) -> None:
    net = SequentialState(HetSynLIFRecurrent(M, N))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(RuntimeError, match=f"0.{name}: expected finite values"):
        net.load_state_dict({**before, f"0.{name}": before[f"0.{name}"] * bad})
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items() if key == f"0.{name}")
    net.load_state_dict(before)


@pytest.mark.parametrize("parametrization", ["decay", "tau", "log_tau"])
def test_overshooting_and_clamp(parametrization: str) -> None:
    layer = HetSynLIF(M, N, parameters(), DT, parametrization=parametrization)
    stored = layer.stored("decay")
    with torch.no_grad():
        stored[0, 0] = -5.0
    z, _ = layer(spike_trains(T, B, M))
    z.sum().backward()
    assert torch.isfinite(stored.grad).all()
    used = layer.to_params().decay
    layer.clamp_()
    np.testing.assert_array_equal(layer.to_params().decay, used)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parametrization", ["decay", "tau", "log_tau"])
def test_params_round_trip(dtype: Any, parametrization: str) -> None:
    rng = np.random.default_rng(0)
    params = HetSynParams(
        rng.normal(size=(N, M)),
        rng.uniform(size=(N, M)),
        reset_decay=rng.uniform(size=N),
        threshold=rng.uniform(0.5, 1, N),
        recurrent_weight=rng.normal(size=(N, N)),
        recurrent_decay=rng.uniform(size=(N, N)),
        adaptation_decay=rng.uniform(size=N),
        adaptation_strength=rng.uniform(size=N),
        bias=rng.normal(size=N),
        delay=rng.uniform(0, 5, (N, M)),
        recurrent_delay=rng.integers(0, 4, (N, N)),
        mask=rng.random((N, M)) < 0.7,
        recurrent_mask=rng.random((N, N)) < 0.7,
        max_delay=9,
    ).astype(dtype)
    first = HetSynLIFRecurrent.from_params(params, DT, parametrization=parametrization).to_params()
    second = HetSynLIFRecurrent.from_params(first, DT, parametrization=parametrization).to_params()
    ulps = {np.float32: 4, np.float64: 2}[dtype]
    limit = 0 if parametrization == "decay" else ulps * np.finfo(dtype).eps
    for name in ARRAYS:
        got, given = (np.float64(getattr(p, name)) for p in (first, params))
        np.testing.assert_allclose(got, given, rtol=0, atol=limit, err_msg=name)
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name), err_msg=name)
    assert first.max_delay == 9


@pytest.mark.parametrize("cls", [*CELLS, *SEQUENCES])
def test_from_params_on_every_class(cls: Any) -> None:
    source = cls(M, N, parameters(), DT)
    again = cls.from_params(source.to_params(), DT)
    x = spike_trains(T, B, M) if cls.sequential else spike_trains(B, M)
    assert torch.equal(source(x)[0], again(x)[0])


# ---- sizes and bad input


@pytest.mark.parametrize("cls", SEQUENCES)
@pytest.mark.parametrize("record", [False, True])
def test_no_steps_and_one(cls: Any, record: bool) -> None:
    layer = cls(M, N, parameters(), DT, record_states=record)
    _, state = HetSynLIF.forward(layer, spike_trains(3, B, M)) if not record else (None, None)
    out, end = layer(torch.zeros(0, B, M), state)
    assert out.shape == (0, B, N)
    assert state is None or equal(state, end)
    assert layer(spike_trains(1, 1, M))[0].shape == (1, 1, N)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HetSynLIFCell(M, N)(torch.zeros(T, B, M)), r"input_tensor: expected shape \(B, 6\), one step, got"),
        (lambda: HetSynLIF(M, N)(torch.zeros(B, M)), r"input_tensor: expected shape \(T, B, 6\), a sequence, got"),
        (lambda: HetSynLIF(M, N)(torch.zeros(T, B, M + 1)), r"input_tensor: expected shape .* got \(12, 3, 7\)"),
        (lambda: HetSynLIF(M, N)(torch.zeros(T, B, M) / 0), "input_tensor: expected finite values, got 216 NaN"),
        (lambda: HetSynLIF(M, N)(torch.zeros(T, B, M).double()), "input_tensor: expected the weight's dtype, torch.f"),
        (lambda: HetSynLIFCell(M, N)([0.0]), "input_tensor: expected a torch tensor, got list"),
        (lambda: HetSynLIF(M, N, record_states=True)([0.0]), "input_tensor: expected a torch tensor, got list"),
        (lambda: HetSynLIF(M, N, norse_torch.LIFParameters()), "p: expected HetSynLIFParameters or None, got LIFParam"),
        (lambda: HetSynLIF(2.5, N), "input_size: expected a whole number > 0, got 2.5"),
        (lambda: HetSynLIF(M, 0), "hidden_size: expected a whole number > 0, got 0"),
        (
            lambda: HetSynLIF(M, N, input_weights=torch.ones(N, M).long()),
            "input_weights: expected a floating dtype, got torch.int64",
        ),
        (
            lambda: HetSynLIF(M, N, HetSynLIFParameters(dtype=torch.float64), dtype=torch.float32),
            "v_th: expected torch.float32 like the layer, got torch.float64 in p",
        ),
        (lambda: HetSynLIFParameters(method=3), "method: expected one of multi_gaussian"),
        (
            lambda: hetsyn_lif_step(torch.zeros(B, M + 1), None, torch.ones(N, M)),
            r"input_tensor: expected shape \(B, 6\), one step, got \(3, 7\)",
        ),
        (
            lambda: hetsyn_lif_step(torch.zeros(B, M), torch.zeros(3), torch.ones(N, M)),  # type: ignore[arg-type]
            "state: expected a HetSynLIFState or None, got Tensor",
        ),
        (
            lambda: hetsyn_lif_step(torch.zeros(B, M), None, torch.ones(N, M), p=3),  # type: ignore[arg-type]
            "p: expected HetSynLIFParameters or None, got int",
        ),
        (
            lambda: hetsyn_lif_step(
                torch.zeros(B, M),
                None,
                torch.ones(N, M),
                p=HetSynLIFParameters(tau_syn_inv=initialisers.UniformTau(5e-3, 2e-2, dt=DT)),
            ),
            "p: expected values, got an initialiser for tau_syn_inv",
        ),
        (
            lambda: HetSynLIFCell(M, N)(torch.zeros(B, M), HetSynLIFCell(M, N)(torch.zeros(B, M))),
            r"state: expected a HetSynLIFState or None, got tuple; z, state = layer\(x, state\) returns it; .*pair",
        ),
        (lambda: HetSynLIF(M, N)(torch.zeros(T, B, M), torch.zeros(B, N)), "state: expected a HetSynLIFState or None"),
        (lambda: HetSynLIF(M, N)(torch.zeros(T, B, M), HetSynLI(M, N)(torch.zeros(T, B, M))[1]), "got HetSynLIState"),
        (
            lambda: HetSynLIF(M, N, input_weights=torch.ones(M, N)),
            r"input_weights: expected shape \(5, 6\), got \(6, 5\)",
        ),
        (lambda: HetSynLIF(M, N, recurrent_weights=torch.ones(N, N)), "recurrent_weights: expected None for a layer w"),
        (lambda: HetSynLIF(M, N, HetSynLIFParameters(v_th=-1.0)), "v_th: expected finite values > 0, got -1"),
        (
            lambda: HetSynLIF(M, N, HetSynLIFParameters(tau_syn_inv=torch.ones(M))),
            r"tau_syn_inv: expected shape \(5, 6\)",
        ),
        (lambda: HetSynLIFParameters(tau_syn_inv=-1.0), "tau_syn_inv: expected values >= 0 in 1/s, got -1"),
        (lambda: HetSynLIFParameters(tau_syn_inv="a"), "tau_syn_inv: expected numbers, got 'a'"),
        (lambda: HetSynLIFParameters(v_th=[1, [2]]), "v_th: expected numbers, got "),
        (lambda: HetSynLIFParameters(rec_delay="a"), "rec_delay: expected numbers, got 'a'"),
        (
            lambda: HetSynLIFParameters(tau_reset_inv=float("nan")),
            "tau_reset_inv: expected values >= 0 in 1/s, got nan",
        ),
        (
            lambda: HetSynLIFParameters(method="supper"),
            "method: expected one of multi_gaussian, .* super, .* got 'supper'",
        ),
        (lambda: HetSynLIF(M, N, dt=0.0), "dt: expected a step length in seconds"),
        (lambda: HetSynLIF(M, N, share="line"), "share: expected one of"),
        (lambda: HetSynLIF(M, N, backend="numba"), "backend: expected 'auto'"),
        (
            lambda: HetSynLIF.from_params(HetSynParams.readout(np.ones((N, M)), 0.9)),
            "params: expected those of a HetSynLIF",
        ),
    ],
)
@pytest.mark.cpu_only
def test_wrong_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("cell_class", "sequence_class"), PAIRS)
@pytest.mark.cpu_only
def test_a_state_of_another_batch_is_refused(cell_class: Any, sequence_class: Any) -> None:
    for cls in (cell_class, sequence_class):
        module = cls(M, N, parameters(), DT)
        shape = (T,) if module.sequential else ()
        _, state = module(torch.zeros(*shape, B, M))
        with pytest.raises(ValueError, match=r"state\.i: expected shape \(4, 5, 6\), got \(3, 5, 6\)"):
            module(torch.zeros(*shape, 4, M), state)
        with pytest.raises(ValueError, match=r"state\.i: expected a torch tensor, got ndarray"):
            module(torch.zeros(*shape, B, M), state._replace(i=state.i.detach().numpy()))


@pytest.mark.parametrize("cls", [HetSynLIFCell, HetSynLIF])
@pytest.mark.cpu_only
def test_currents_that_the_layer_does_not_have_are_refused(cls: Any) -> None:
    """The state of a layer with reset and adaptation, given to one without: nothing is silently dropped."""
    x = torch.ones(T, B, M)[() if cls.sequential else 0]
    full = cls(M, N, parameters(tau_adapt_inv=10.0, adapt_strength=0.1, v_th=1e-3, bias=torch.ones(N)), DT)
    _, state = full(x, full(x)[1])
    no_adaptation, no_reset = cls(M, N, parameters(), DT), cls(M, N, parameters(tau_reset_inv=None), DT)
    with pytest.raises(ValueError, match=r"state\.i_adapt: expected zeros, the layer has no such current"):
        no_adaptation(x, state)
    with pytest.raises(ValueError, match=r"state\.i_reset: expected zeros, the layer has no such current"):
        no_reset(x, state)
    no_adaptation(x, state._replace(i_adapt=torch.zeros(B, N)))
    with pytest.raises(ValueError, match=r"state\.i_adapt: expected zeros"):
        hetsyn_lif_step(x[-1] if cls.sequential else x, state, full.input_weights)


def test_initial_state_is_zeros_of_this_class() -> None:
    for cls in CELLS:
        module = cls(M, N, parameters(), DT)
        x = spike_trains(B, M)
        state = module.initial_state(x)
        assert type(state) is module.state_class and not any(s.any() for s in state)
        (a, after), (b, other) = module(x), module(x, state)
        assert torch.equal(a, b) and equal(after, other)


# ---- registration


@pytest.fixture
def registered() -> Iterator[None]:
    hetsyn_plugins.register("norse")
    yield
    hetsyn_plugins.unregister("norse")


def test_registered_names(registered: None) -> None:
    assert norse_torch.HetSynLIFCell is HetSynLIFCell
    hetsyn_plugins.register("norse")
    assert norse_torch.HetSynLIFCell(M, N).__module__ == "hetsyn_plugins.adapters.norse"
    hetsyn_plugins.unregister("norse")
    assert not hasattr(norse_torch, "HetSynLIFCell")


def test_a_taken_name_is_refused_and_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norse_torch, "HetSynLI", object(), raising=False)
    with pytest.raises(ValueError, match=r"norse.torch.HetSynLI: expected to be free, is already"):
        hetsyn_plugins.register("norse")
    assert not hasattr(norse_torch, "HetSynLIFCell")


def test_methods_are_ours_or_norses() -> None:
    assert HetSynLIF(M, N).surrogate == surrogate.MultiGaussian()
    assert HetSynLIF(M, N, HetSynLIFParameters(method="arctan")).surrogate == surrogate.Arctan()
    own = surrogate.Triangular(0.3)
    assert HetSynLIF(M, N, HetSynLIFParameters(method=own)).surrogate == own


def test_a_mask_that_is_rewritten_between_steps_does_not_break_the_backward_pass() -> None:
    """DistributedDataParallel copies rank 0's buffers into every rank's at every call: autograd must not hold them."""
    cell, state, total = HetSynLIFRecurrentCell(6, 5, autapses=False), None, torch.zeros(())
    for _ in range(3):
        _, state = cell((torch.rand(2, 6) < 0.5).float() * 3, state)
        total = total + state.v.sum()
        for buffer in cell.buffers():
            buffer.copy_(buffer.clone())
    total.backward()
    assert cell.recurrent_weights.grad is not None


def test_a_parameter_of_the_users_own_that_is_copied_is_told() -> None:
    with pytest.warns(UserWarning, match=r"tau_reset_inv, v_th: copied, .* learn_threshold=True"):
        HetSynLIFParameters(tau_reset_inv=nn.Parameter(torch.tensor(50.0)), v_th=nn.Parameter(torch.tensor(1.0)))


# ---- units


@pytest.mark.parametrize(
    ("given", "dt", "said"),
    [
        (5e-3, 1e-3, "got 0.005 with dt=0.001, a time constant of 2e+05 steps"),  # tau in seconds, no inverse
        (0.05, 1e-3, "got 0.05 with dt=0.001, a time constant of 2e+04 steps"),  # per millisecond
        (50.0, 1.0, "got 50 with dt=1, a time constant of 0.02 steps"),  # dt in milliseconds
        (torch.tensor([0.0, 5e-3, 6e-3, 7e-3, float("inf")]), 1e-3, "got 0.006"),
    ],
)
@pytest.mark.parametrize("cls", [HetSynLIFCell, HetSynLIFRecurrent, HetSynLI])
def test_an_inverse_time_constant_in_another_unit_is_told(cls: Any, given: Any, dt: float, said: str) -> None:
    p = HetSynLIFParameters(given, tau_rec_inv=1 / (20 * dt), tau_reset_inv=1 / (20 * dt))
    with pytest.warns(UserWarning, match="tau_syn_inv: expected 1/s, and dt in seconds, ") as told:
        cls(M, N, p, dt)
    assert [said in str(one.message) and one.filename == __file__ for one in told] == [True]


def test_likely_time_constants_and_those_of_other_layers_are_not() -> None:
    for given in (0.0, float("inf"), 1.0, 200.0, torch.tensor([5e-3] + [200.0] * (N - 1))):
        HetSynLIFCell(M, N, HetSynLIFParameters(given), 1e-3)
    strange = HetSynLIFParameters(tau_reset_inv=5e-3)
    assert HetSynLI(M, N, HetSynLIFParameters(tau_reset_inv=5e-3)).dt == 1e-3, "a readout has no reset"
    with pytest.warns(UserWarning, match="tau_reset_inv"):
        cell = HetSynLIFCell(M, N, strange)
    HetSynLIFCell.from_params(cell.to_params(), 10.0)
    HetSynLIFCell(M, N, cell.p)
