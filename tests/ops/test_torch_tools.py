"""torch's own tools around the layers of both adapters, steps and sequences: right, or refused with the way out.

The judge of what a layer computes is the float64 reference, run on the parameters that the tool should have made.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

pytest.importorskip("snntorch")
pytest.importorskip("norse")

from planting import caught, planted

from hetsyn_plugins import hetsyn_lif
from hetsyn_plugins.adapters import norse as norse_adapter
from hetsyn_plugins.adapters.norse import HetSynLIFParameters
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.core import reference
from hetsyn_plugins.ops import foreign_inputs, operators

T, B, M, N = 12, 3, 6, 5
HALF = (torch.float16, torch.bfloat16)


class Case(NamedTuple):
    """A way to run a layer of one class: how it is built, and whether a call takes a step or a sequence."""

    name: str
    build: Callable[..., Any]
    sequence: bool


def snn_layer(cls: Any, hidden: bool) -> Callable[..., Any]:
    def build(dtype: torch.dtype = torch.float64, **options: Any) -> Any:
        options = {"threshold": 0.4, "learn_beta": True, **options}
        if cls is RHetSynLeaky:
            options["rec_weight"] = weights(dtype)[:, :N]
        return cls(M, N, init_hidden=hidden, weight=weights(dtype), dtype=dtype, **options)

    return build


def norse_layer(name: str) -> Callable[..., Any]:
    def build(dtype: torch.dtype = torch.float64, **options: Any) -> Any:
        p = HetSynLIFParameters(v_th=0.4, learn_reset=True, dtype=torch.float64 if dtype == torch.float64 else None)
        if "Recurrent" in name:
            options["recurrent_weights"] = weights(dtype)[:, :N]
        return getattr(norse_adapter, name)(M, N, p, input_weights=weights(dtype), dtype=dtype, **options)

    return build


def weights(dtype: torch.dtype) -> Tensor:
    return (torch.randn(N, M, generator=torch.Generator().manual_seed(2)) / 2 + 0.1).to(dtype)


def all_cases() -> Iterator[Case]:
    for cls in (HetSynLeaky, RHetSynLeaky):
        for hidden in (False, True):
            for sequence in (False, True):
                name = f"{cls.__name__}{'-hidden' * hidden}-{'sequence' if sequence else 'steps'}"
                yield Case(name, snn_layer(cls, hidden), sequence)
    for name in ("HetSynLIF", "HetSynLIFRecurrent", "HetSynLI"):
        yield Case(name, norse_layer(name), True)
        yield Case(f"{name}Cell", norse_layer(f"{name}Cell"), False)


CASES = list(all_cases())
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
KINDS = ("HetSynLeaky-hidden-steps", "RHetSynLeaky-sequence", "HetSynLIFCell", "HetSynLIFRecurrent")
kinds = pytest.mark.parametrize("case", [c for c in CASES if c.name in KINDS], ids=lambda case: case.name)


def trains(dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.rand(T, B, M, generator=torch.Generator().manual_seed(1)) < 0.5).to(dtype)


def call(layer: Any, x: Tensor, state: Any = ()) -> tuple[Tensor, Any]:
    """One call of any of the layers, with the states that the call before it returned: output, states."""
    if not isinstance(layer, HetSynLeaky):
        out, state = layer(x, state or None)
        return out, state
    if layer.init_hidden:
        return layer(x), ()
    spk, *states = layer(x, *state)
    return spk, (spk, *states) if layer.recurrent else states


def run(case: Case, layer: Any, x: Tensor) -> Tensor:
    """The outputs (T, B, N) of a run from zeros: one call, or a loop over steps."""
    if getattr(layer, "init_hidden", False):
        layer.reset_mem()
    if case.sequence:
        return call(layer, x)[0]
    outs, state = [], ()
    for x_t in x:
        out, state = call(layer, x_t, state)
        outs.append(out)
    return torch.stack(outs)


def places(layer: Any) -> tuple[nn.Module, str, nn.Module, str]:
    """Where the weights are and where the decays of synapses: module and name of each."""
    if isinstance(layer, HetSynLeaky):
        return layer, "weight", layer, "alpha"
    return layer, "input_weights", layer.p, "syn_decay"


def judged(case: Case, layer: Any, weight: Any = None, decay: Any = None) -> None:
    """The layer computes what the reference computes of its parameters, with these in their place."""
    params = layer.to_params()
    expected = {"weight": weight, "decay": decay}
    for name, value in expected.items():
        if value is not None:
            np.testing.assert_array_equal(getattr(params, name), value.detach().numpy(), err_msg=name)
    x = trains()
    spikes, v, _ = reference.run(params, x.numpy())
    out = run(case, layer, x).detach().numpy()
    if spikes is None:
        np.testing.assert_allclose(out, v, rtol=0, atol=1e-12)
    else:
        np.testing.assert_array_equal(out, spikes)
        assert 0.02 < out.mean() < 0.98


# ---- pruned, parametrized, normed ----------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("of", ["weight", "decay"])
def test_a_pruned_layer_trains_what_is_left(case: Case, of: str) -> None:
    layer = case.build()
    home, weight, decays, decay = places(layer)
    module, name = (home, weight) if of == "weight" else (decays, decay)
    prune.random_unstructured(module, name, amount=0.5)
    original, mask = getattr(module, f"{name}_orig"), getattr(module, f"{name}_mask")
    assert mask.sum() == N * M // 2
    optimiser = torch.optim.SGD([original], 1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        run(case, layer, trains()).sum().backward()
        assert original.grad.any() and not original.grad[mask == 0].any()
        optimiser.step()
        judged(case, layer, **{of: original.clamp(0, 1) * mask if of == "decay" else original * mask})
    layer.clamp_()
    prune.remove(module, name)
    judged(case, layer, **{of: original.clamp(0, 1) * mask if of == "decay" else original * mask})


@cases
def test_l1_pruning_and_what_is_read_between_step_and_call(case: Case) -> None:
    """`to_params` after an optimiser's step, before the next call: torch makes the pruned tensor at a call only."""
    layer = case.build()
    module, name, *_ = places(layer)
    prune.l1_unstructured(module, name, amount=0.3)
    with torch.no_grad():
        getattr(module, f"{name}_orig").add_(1.0)
    mask = getattr(module, f"{name}_mask")
    assert np.array_equal(layer.to_params().weight == 0, mask.numpy() == 0)
    np.testing.assert_array_equal(layer.to_params().weight, (getattr(module, f"{name}_orig") * mask).detach().numpy())


@cases
def test_a_pruned_decay_out_of_range_is_projected_back(case: Case) -> None:
    layer = case.build()
    *_, module, name = places(layer)
    prune.identity(module, name)
    with torch.no_grad():
        getattr(module, f"{name}_orig").add_(1.0)
    layer.clamp_()
    assert (getattr(module, f"{name}_orig") == 1).all()


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2

    def right_inverse(self, x: Tensor) -> Tensor:
        return x * 2


@cases
@pytest.mark.parametrize("of", ["weight", "decay"])
def test_a_parametrized_tensor_is_what_is_used(case: Case, of: str) -> None:
    layer = case.build()
    before = getattr(layer.to_params(), of)
    home, weight, decays, decay = places(layer)
    module, name = (home, weight) if of == "weight" else (decays, decay)
    parametrize.register_parametrization(module, name, Halved())
    original = module.parametrizations[name].original
    run(case, layer, trains()).sum().backward()
    assert original.grad is not None and original.grad.any()
    with torch.no_grad():
        original.mul_(0.75)
    judged(case, layer, **{of: torch.tensor(before * 0.75)})
    copied = copy.deepcopy(layer)
    assert torch.equal(run(case, copied, trains()), run(case, layer, trains()))
    parametrize.remove_parametrizations(module, name)
    judged(case, layer, **{of: torch.tensor(before * 0.75)})


@pytest.mark.parametrize("case", [c for c in CASES if c.sequence], ids=lambda case: case.name)
@pytest.mark.parametrize("of", ["weight", "decay"])
def test_what_goes_wrong_behind_a_parametrization_is_named_at_its_next_use(case: Case, of: str) -> None:
    layer = case.build()
    home, weight, decays, decay = places(layer)
    module, name = (home, weight) if of == "weight" else (decays, decay)
    parametrize.register_parametrization(module, name, Halved())
    for _ in range(3):
        run(case, layer, trains())
    with torch.no_grad():
        module.parametrizations[name].original[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"expected (finite values|decays in .*), got .*1 NaN|got 1 NaN"):
        run(case, layer, trains())


NORMS: list[Callable[..., Any]] = [
    nn.utils.weight_norm,
    nn.utils.spectral_norm,
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@cases
@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"{norm.__module__.split('.')[-1]}.{norm.__name__}")
def test_norms_of_weights_give_what_they_give_a_linear(case: Case, norm: Any) -> None:
    """Of the same weights, seen at the same number of calls: a Linear is the judge of the norm."""
    layer, linear = case.build(), nn.Linear(M, N, bias=False, dtype=torch.float64)
    module, name, *_ = places(layer)
    with torch.no_grad():
        linear.weight.copy_(getattr(module, name))
    for m, n in ((module, name), (linear, "weight")):
        torch.manual_seed(5)
        norm(m, n)
    run(case, layer, trains()).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in layer.parameters())
    layer.eval()
    linear.eval()
    run(case, layer, trains())
    if "spectral" in norm.__name__:  # its power iteration comes nearer at every call, of which steps make more
        got = layer.to_params().weight
        np.testing.assert_allclose(
            got / weights(torch.float64).numpy(), got[0, 0] / weights(torch.float64)[0, 0].item()
        )
        assert np.linalg.norm(got, 2) == pytest.approx(1, rel=0.3)
        return judged(case, layer)
    linear(torch.zeros(1, M, dtype=torch.float64))
    judged(case, layer, weight=linear.weight)


# ---- half types ----------------------------------------------------------------------------------------------------


def wrapped(module: nn.Module, name: str, how: str) -> None:
    tools: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "pruned": lambda: prune.random_unstructured(module, name, amount=0.2),
        "parametrized": lambda: parametrize.register_parametrization(module, name, Halved()),
        "weight_norm": lambda: nn.utils.weight_norm(module, name),
        "new weight_norm": lambda: parametrizations.weight_norm(module, name),
        "spectral_norm": lambda: nn.utils.spectral_norm(module, name),
    }
    tools[how]()


CONVERSIONS: dict[str, Callable[[nn.Module], Any]] = {
    "half": lambda net: net.half(),
    "bfloat16": lambda net: net.bfloat16(),
    "to": lambda net: net.to(torch.bfloat16),
    "to device": lambda net: net.to("cpu", torch.float16),
    "apply to each": lambda net: [m.half() for m in net.children()],
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, of an old norm's
@kinds
@pytest.mark.parametrize(
    "how", ["nothing", "pruned", "parametrized", "weight_norm", "new weight_norm", "spectral_norm"]
)
@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_decays_stay_float32_whatever_wraps_them(case: Case, how: str, conversion: str) -> None:
    layer = case.build(torch.float32)
    *_, module, name = places(layer)
    wrapped(module, name, how)
    run(case, layer, trains(torch.float32))
    module.eval()  # spectral_norm's power iteration would go on
    before = layer.to_params().decay
    net = nn.ModuleDict({"outer": nn.ModuleList([layer])})
    CONVERSIONS[conversion](net)
    weight = layer.stored("weight")
    assert weight.dtype in HALF and layer.tensors()["decay"].dtype == torch.float32
    np.testing.assert_array_equal(layer.to_params().decay, before)
    out = run(case, layer, trains(weight.dtype))
    assert out.dtype == weight.dtype
    out.sum().backward()
    held = [t for n, t in net.named_parameters() if name in n]
    assert held and all(t.dtype == torch.float32 for t in held)
    net.double()
    run(case, layer, trains())  # torch puts what is pruned or normed together at a call
    assert layer.tensors()["decay"].dtype == torch.float64


# ---- copies --------------------------------------------------------------------------------------------------------


def saved_whole(layer: Any) -> Any:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@cases
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), saved_whole])
def test_a_copy_after_a_call_goes_on_where_the_layer_stood(case: Case, pruned: bool, how: Any) -> None:
    layer = case.build()
    module, name, *_ = places(layer)
    if pruned:
        prune.l1_unstructured(module, name, amount=0.2)
    run(case, layer, trains()).sum()  # not backward: the graph is there
    copied = how(layer)
    x = trains() if case.sequence else trains()[0]
    assert torch.equal(call(copied, x)[0], call(layer, x)[0])  # hidden states as they stood
    for hidden in ("syn", "mem", "rst", "spk"):
        state = vars(copied).get(hidden)
        assert state is None or state.grad_fn is None or state is not vars(layer)[hidden]
    run(case, copied, trains()).sum().backward()
    assert not any(p.grad is not None for p in layer.parameters())


def in_another_process(name: str, layer: Any, queue: Any) -> None:
    case = next(case for case in CASES if case.name == name)
    out = run(case, layer, trains())
    out.sum().backward()
    queue.put(out.detach().numpy().tolist())


@pytest.mark.parametrize("name", ["HetSynLeaky-hidden-steps", "HetSynLIFCell"])
def test_a_spawned_process_gets_the_layer(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    layer = case.build()
    prune.l1_unstructured(*places(layer)[:2], amount=0.2)
    out = run(case, layer, trains())
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=in_another_process, args=(name, layer, queue))
    process.start()
    got = queue.get()
    process.join()
    assert process.exitcode == 0 and np.array_equal(np.array(got), out.detach().numpy())


@cases
def test_replicas_start_from_zeros_and_keep_their_states(case: Case) -> None:
    """DataParallel replicates at every call: a replica's states are its own, and those of its part of the batch."""
    layer = case.build()
    x = trains()
    run(case, layer, x)
    kept = {name: vars(layer)[name] for name in ("syn", "rec", "rst", "mem", "spk") if name in vars(layer)}
    replica = layer._replicate_for_data_parallel()
    replica._modules = {name: child._replicate_for_data_parallel() for name, child in layer.named_children()}
    for module, of in zip(replica.modules(), layer.modules(), strict=True):
        for name, p in of._parameters.items():
            setattr(module, name, None if p is None else p * 1)  # as torch.nn.parallel.replicate does
    outs, state = [], ()
    for x_t in [x] if case.sequence else x:  # without a reset: run has one
        out, state = call(replica, x_t, state)
        outs.append(out)
    outs = torch.cat(outs) if case.sequence else torch.stack(outs)
    assert torch.equal(outs, run(case, copy.deepcopy(layer), x))
    outs.sum().backward()
    weight = layer.stored("weight")
    assert weight.grad is not None and weight.grad.any()
    assert all(vars(layer)[name] is state for name, state in kept.items())


@cases
def test_averaged_models_and_optimisers_are_copied(case: Case) -> None:
    layer = case.build()
    mean, ema = AveragedModel(layer), AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    start = layer.stored("weight").detach().clone()
    optimiser = torch.optim.Adam(layer.parameters(), 1e-2)
    seen = []
    for _ in range(2):
        optimiser.zero_grad()
        run(case, layer, trains()).sum().backward()
        optimiser.step()
        mean.update_parameters(layer)
        ema.update_parameters(layer)
        seen.append(layer.stored("weight").detach().clone())
    torch.testing.assert_close(mean.module.stored("weight"), sum(seen) / 2)
    torch.testing.assert_close(ema.module.stored("weight"), seen[0] * 0.5 + seen[1] * 0.5)
    assert not torch.equal(start, seen[0])
    update_bn([trains() if case.sequence else trains()[0]], mean)
    judged(case, mean.module)
    again = torch.optim.Adam(case.build().parameters(), 1e-2)
    again.load_state_dict(optimiser.state_dict())
    copied = copy.deepcopy(optimiser)
    for other in (again, copied):
        assert all(
            torch.equal(a["exp_avg"], b["exp_avg"])
            for a, b in zip(other.state.values(), optimiser.state.values(), strict=True)
        )


@cases
def test_functional_call_takes_all_or_some_parameters(case: Case) -> None:
    layer, other = case.build(), case.build()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.9)
    x = trains() if case.sequence else trains()[0]
    new = {name: p.detach().clone().requires_grad_() for name, p in other.named_parameters()}
    for names in (list(new), [places(layer)[1]]):
        given = {name: new[name] for name in names}
        mixed = copy.deepcopy(layer)
        mixed.load_state_dict({**layer.state_dict(), **{name: p.detach() for name, p in given.items()}})
        for module in (layer, mixed) if getattr(layer, "init_hidden", False) else ():
            module.reset_mem()
        out = torch.func.functional_call(layer, given, (x,))
        want = call(mixed, x)[0]
        out = out if isinstance(out, Tensor) else out[0]
        assert torch.equal(out, want)
        grads = torch.autograd.grad(out.sum(), list(given.values()), allow_unused=True)
        wanted = torch.autograd.grad(want.sum(), [dict(mixed.named_parameters())[n] for n in names], allow_unused=True)
        for one, two in zip(grads, wanted, strict=True):
            assert (one is None and two is None) or torch.equal(one, two)
    judged(case, layer)


# ---- inference mode, devices, dtypes -------------------------------------------------------------------------------


@cases
def test_inference_mode_around_anything_then_training(case: Case) -> None:
    x = trains()
    with torch.inference_mode():
        layer, x_made_there = case.build(), x.clone()
        out = run(case, layer, x)
    want = case.build()
    assert torch.equal(run(case, want, x), out)
    state: Any = ()
    for inference in (True, False, True, False):  # states go from one mode to the other
        with torch.inference_mode(inference):
            out, state = call(layer, x_made_there if case.sequence else x_made_there[0], _last(state))
        if not inference:
            out.sum().backward(retain_graph=True)
    assert all(p.grad is not None for n, p in layer.named_parameters() if "weight" in n)
    with torch.inference_mode():
        if getattr(layer, "init_hidden", False):
            layer.reset_mem()
            type(layer).reset_hidden()
    optimiser = torch.optim.SGD(layer.parameters(), 1e-3)
    run(case, layer, x).sum().backward()
    optimiser.step()
    judged(case, layer)


def _last(state: Any) -> Any:
    """What a sequence of snnTorch's layers is continued with: of what is given a step, the last one."""
    if isinstance(state, list):
        return [s[-1] if s.ndim == 3 and s.shape[0] == T else s for s in state]
    if type(state) is tuple:
        return tuple(s[-1] if s.ndim == 3 and s.shape[0] == T else s for s in state)
    return state


@cases
def test_device_contexts_hold_for_layers_and_leave_their_runs_alone(case: Case) -> None:
    layer = case.build()
    want, x = run(case, layer, trains()), trains()
    with torch.device("meta"):
        made = case.build()
        if getattr(layer, "init_hidden", False):
            layer._clear()
        given = call(layer, x if case.sequence else x[0])[0]
    assert all(t.is_meta for t in (*made.parameters(), *made.buffers()))
    assert torch.equal(given, want if case.sequence else want[0])
    shape = call(made, x.to("meta") if case.sequence else x[0].to("meta"))[0].shape
    assert shape == given.shape
    filled = made.to_empty(device="cpu")
    filled.load_state_dict(layer.state_dict())
    assert torch.equal(run(case, filled, x), want)


def test_a_device_context_takes_start_values_from_outside_along() -> None:
    p = HetSynLIFParameters(torch.full((N, M), 50.0))
    decays = torch.full((N, M), 0.9)
    with torch.device("meta"):
        layers = (norse_adapter.HetSynLIF(M, N, p), HetSynLeaky(M, N, alpha=decays))
    assert all(t.is_meta for layer in layers for t in (*layer.parameters(), *layer.buffers()))


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_is_the_layers(default_dtype: Callable[[torch.dtype], None], dtype: torch.dtype) -> None:
    default_dtype(dtype)
    kept = torch.float32 if dtype in HALF else dtype
    for layer in (HetSynLeaky(M, N), norse_adapter.HetSynLIF(M, N), norse_adapter.HetSynLIFRecurrent(M, N)):
        assert layer.stored("weight").dtype == dtype and layer.stored("decay").dtype == kept
        assert layer(torch.rand(T, B, M))[0].dtype == dtype


# ---- what is no plain tensor ---------------------------------------------------------------------------------------


class Marked(Tensor):
    """A harmless subclass, as tv_tensors are."""


ODD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "packed": (
        lambda x: nn.utils.rnn.pack_sequence([torch.rand(n, M) for n in (5, 3)]),
        "got PackedSequence; pad it: x, lengths = torch.nn.utils.rnn.pad_packed_sequence(packed)",
    ),
    "nested": (lambda x: torch.nested.nested_tensor([x[0], x[0][:2]]), "got a nested tensor; pad it"),
    "coo": (lambda x: x.to_sparse(), "layout sparse_coo; call .to_dense() on it"),
    "csr": (lambda x: x.reshape(-1, M).to_sparse_csr(), "layout sparse_csr; call .to_dense() on it"),
    "mkldnn": (lambda x: x.float().to_mkldnn(), "layout mkldnn; call .to_dense() on it"),
    "quantised": (
        lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8),
        "got a quantised one; call .dequantize() on it",
    ),
    "masked": (lambda x: torch.masked.masked_tensor(x, x > 0), "got MaskedTensor, which wraps one"),
    "array": (lambda x: x.numpy(), "got ndarray; torch.as_tensor(x) makes one"),
    "list": (lambda x: list(x), "got list; torch.stack(x) makes one of a list of tensors"),
    "nothing": (lambda x: None, "got NoneType"),
}


@pytest.mark.filterwarnings("ignore:.*(prototype|beta) ")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor.* deprecated")
@kinds
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_plain_tensor_is_refused_with_the_way_out(case: Case, kind: str) -> None:
    make, says = ODD[kind]
    with caught(says, ValueError):
        case.build()(make(trains() if case.sequence else trains()[0]))


@cases
def test_a_tuple_is_what_a_layer_before_returned(case: Case) -> None:
    layer = case.build()
    x = trains() if case.sequence else trains()[0]
    says = "init_hidden=True" if isinstance(layer, HetSynLeaky) else "z, state = layer(x, state)"
    with caught(says, ValueError):
        layer((x, x))


@kinds
@pytest.mark.parametrize("make", [lambda x: x.as_subclass(Marked), nn.Parameter, lambda x: x.T.contiguous().T])
@pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors of dimension other than 2")
def test_harmless_kinds_of_tensors_are_taken_and_become_plain(case: Case, make: Any) -> None:
    layer = case.build()
    x = trains() if case.sequence else trains()[0]
    out, state = call(layer, make(x))
    want, _ = call(case.build(), x)
    assert torch.equal(out, want) and type(out) is Tensor
    assert all(type(s) is Tensor for s in state)


def test_sparse_states_are_refused_by_name() -> None:
    cell, layer, x = norse_adapter.HetSynLIFCell(M, N), HetSynLeaky(M, N), torch.rand(B, M)
    _, state = cell(x)
    with caught("state.v: expected a dense tensor, got one of layout sparse_coo", ValueError):
        cell(x, state._replace(v=state.v.to_sparse()))
    with caught("syn: expected a dense tensor, got one of layout sparse_coo", ValueError):
        layer(x, *(s.to_sparse() for s in layer(x)[1:]))


def test_the_op_takes_fields_made_in_inference_mode() -> None:
    with torch.inference_mode():
        weight, decay = weights(torch.float64), torch.full((N, M), 0.9, dtype=torch.float64)
    x = trains().requires_grad_()
    hetsyn_lif(x, weight, decay, reset_decay=0.9)[1].sum().backward()
    assert x.grad is not None and x.grad.any()


def test_a_packed_sequence_is_told_apart_by_the_check() -> None:
    with planted("hetsyn_plugins.ops.foreign_inputs", "isinstance(inputs, PackedSequence)", "False") as changed:
        packed = nn.utils.rnn.pack_sequence([torch.rand(3, M)])
        with pytest.raises(ValueError) as error:
            changed.plain_tensor(packed, "x", "; a hint for tuples")
        assert "pad" not in str(error.value)


# ---- tracers -------------------------------------------------------------------------------------------------------


def trace(layer: Any, x: Tensor) -> None:
    torch.jit.trace(layer, (x,), strict=False, check_trace=False)


def onnx(layer: Any, x: Tensor) -> None:
    torch.onnx.export(layer, (x,), io.BytesIO(), opset_version=17, **OLD_EXPORTER)


OLD_EXPORTER: dict[str, Any] = {"dynamo": False} if torch.__version__ >= "2.5" else {}


def graph_for_tensorboard(layer: Any, x: Tensor, folder: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(folder) as writer:
        writer.add_graph(layer, x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer torch's, of its old exporters
@kinds
@pytest.mark.parametrize("tool", ["trace", "script", "onnx", "onnx of the layer", "add_graph", "fx"])
def test_tracers_are_told_in_one_sentence(case: Case, tool: str, tmp_path: Path) -> None:
    layer = case.build().eval()
    net, x = nn.Sequential(layer), trains() if case.sequence else trains()[0]
    jobs: dict[str, Callable[[], Any]] = {
        "trace": lambda: trace(net, x),
        "script": lambda: torch.jit.script(net),
        "onnx": lambda: onnx(net, x),
        "onnx of the layer": lambda: onnx(layer, x),  # which is given its default arguments by position
        "add_graph": lambda: graph_for_tensorboard(net, x, tmp_path),
        "fx": lambda: torch.fx.symbolic_trace(layer),
    }
    with pytest.raises(RuntimeError, match=r"^HetSyn layers cannot be (traced|scripted).*checkpoint.save") as error:
        jobs[tool]()
    assert "\n" not in str(error.value)
    assert torch.equal(run(case, layer, trains()), run(case, case.build(), trains()))  # and it runs on


# from torch 2.4 on layers can be exported (test_compile.py)
EXPORTS = [] if operators.AVAILABLE else ["export", "strict export", "export without dynamo"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # newer torch's, of its own parts
@kinds
@pytest.mark.parametrize("tool", [*EXPORTS, "make_fx", "make_fx of training"])
def test_exports_are_told_in_the_same_sentence(case: Case, tool: str) -> None:
    layer = case.build()
    net, x = nn.Sequential(layer), trains() if case.sequence else trains()[0]
    jobs: dict[str, Callable[[], Any]] = {
        "export": lambda: torch.export.export(net, (x,)),
        "strict export": lambda: torch.export.export(net, (x,), strict=True),
        "export without dynamo": lambda: torch.export.export(net, (x,), strict=False),
        "make_fx": lambda: make_fx(net)(x),
        "make_fx of training": lambda: make_fx(lambda x: torch.autograd.grad(first(net(x)).sum(), x))(x),
    }
    with pytest.raises(RuntimeError) as error:
        jobs[tool]()
    told, *rest = str(error.value).split("\n")
    assert told == foreign_inputs.NO_TRACE
    assert not rest or rest[1] == "from user code:"  # where Dynamo was when it was told
    torch._dynamo.reset()
    assert torch.equal(run(case, layer, trains()), run(case, case.build(), trains()))  # and it runs on


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The .grad attribute")
@kinds
def test_a_graph_that_may_break_compiles(case: Case) -> None:
    layer, x = case.build(), trains() if case.sequence else trains()[0]
    torch._dynamo.reset()
    torch.testing.assert_close(first(torch.compile(layer, backend="eager")(x)), first(case.build()(x)))
    torch._dynamo.reset()


def first(outputs: Any) -> Tensor:
    """The spikes of what a layer returns."""
    spikes: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return spikes


def check_told(module: Any) -> None:
    """Is a call that make_fx records refused?"""
    with pytest.raises(RuntimeError) as error:
        make_fx(lambda x: module.plain_tensor(x, "x", "").sum().item())(torch.ones(3))
    assert "HetSyn" in str(error.value), "make_fx was not told"


def test_make_fx_is_told_apart_by_the_check() -> None:
    check_told(foreign_inputs)
    check = "get_innermost_proxy_mode() is not None"
    with planted(foreign_inputs.__name__, check, "False") as changed, caught("make_fx was not told"):
        check_told(changed)


# ---- what Lightning's Trainer does to a module ---------------------------------------------------------------------


class Lit(nn.Module):
    """A module as Lightning has them: layers, a training step, an optimiser."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, self.layer = case, case.build(torch.float32)

    def loss(self, x: Tensor) -> Tensor:
        return (run(self.case, self.layer, x).mean() - 0.3).square()


@cases
def test_fit_checkpoint_load_as_lightning_does(case: Case, tmp_path: Path) -> None:
    net, x = Lit(case), trains(torch.float32)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    calls: list[int] = []
    handle = net.layer.register_forward_hook(lambda *_: calls.append(1))
    net.to("cpu").train()

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = net.loss(x)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        return loss

    net.eval()
    with torch.inference_mode():  # the sanity check before training
        first = net.loss(x)
    for _ in range(3):
        net.train()
        optimiser.step(closure)
        net.eval()
        with torch.inference_mode():
            last = net.loss(x)
    assert last < first and len(calls) > 0
    handle.remove()
    torch.save({"state_dict": net.state_dict(), "optimizer": optimiser.state_dict()}, tmp_path / "epoch.ckpt")
    stored = torch.load(tmp_path / "epoch.ckpt", weights_only=True)
    other = Lit(case)
    other.load_state_dict(stored["state_dict"], strict=True)
    optimiser.load_state_dict(stored["optimizer"])
    assert torch.equal(run(case, other.layer, x), run(case, net.layer, x))
    best = copy.deepcopy(net)
    optimiser.step(closure)
    assert torch.equal(run(case, best.layer, x), run(case, other.layer, x))
