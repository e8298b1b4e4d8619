"""The host's own tools on nets with HetSyn layers: reset, backprop, surrogates, quantisers, delays, containers, NIR."""

from __future__ import annotations

import copy
import inspect
import io
import operator
import pickle
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

snn = pytest.importorskip("snntorch")

from planting import changed  # noqa: E402
from snntorch import backprop, functional, surrogate, utils  # noqa: E402  after the skip
from snntorch.functional import quant  # noqa: E402

import hetsyn_plugins  # noqa: E402
from hetsyn_plugins import checkpoint  # noqa: E402
from hetsyn_plugins.adapters import containers, snntorch_host  # noqa: E402
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
T, B, M, N = 6, 4, 5, 3


@pytest.fixture(autouse=True)
def _instances() -> Iterator[None]:
    """The host keeps every stock neuron for ever, and resets them all: an unused DeltaLeaky's mem is None."""
    kept = list(snn.SpikingNeuron.instances)
    yield
    snn.SpikingNeuron.instances[:] = kept


def hidden(m: int = M, n: int = N, cls: Any = HetSynLeaky, **options: Any) -> Any:
    """A layer that spikes."""
    layer = cls(m, n, init_hidden=True, **options)
    with torch.no_grad():
        layer.weight.abs_().mul_(2)
    return layer


def inputs(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(*shape) < 0.5).to(dtype)


class Half(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def parametrized(layer: Any, name: str = "weight") -> Any:
    parametrize.register_parametrization(layer, name, Half())
    return layer


def through_a_file(net: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    newer = {"weights_only": False} if "weights_only" in inspect.signature(torch.load).parameters else {}
    return torch.load(file, **newer)


# ---- reset -------------------------------------------------------------------------------------------------------

ORIGINS: dict[str, Callable[[nn.Module], Any]] = {
    "built": lambda net: net,
    "converted": lambda net: hetsyn_plugins.convert(net, to="snntorch"),
    "deep copy": copy.deepcopy,
    "unpickled": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.load": through_a_file,
    "parametrized": lambda net: nn.Sequential(parametrized(net[0])),
    "deep copy of a parametrized one": lambda net: copy.deepcopy(nn.Sequential(parametrized(net[0]))),
    "nested": lambda net: nn.Sequential(nn.ModuleList([net])[0], nn.Identity()),
    "bare": lambda net: net[0],
}


@pytest.mark.parametrize("cls", [HetSynLeaky, RHetSynLeaky])
@pytest.mark.parametrize("origin", ORIGINS)
def test_reset_reaches_a_layer_however_it_came(origin: str, cls: Any) -> None:
    net = ORIGINS[origin](nn.Sequential(hidden(cls=cls)))
    other = copy.deepcopy(net)
    for one in (net, other):
        one(inputs(B, M))
    assert not hasattr(snn, "HetSynLeaky"), "not registered"
    utils.reset(net)
    first, second = (next(layer for layer in one.modules() if isinstance(layer, cls)) for one in (net, other))
    for name in first._states:
        assert not getattr(first, name).any() and not getattr(first, name).requires_grad, name
    assert first.mem.shape == (B, N) and second.mem.any(), "another net's states are its own"


def test_reset_reaches_a_layer_that_was_loaded(tmp_path: Path) -> None:
    checkpoint.save(nn.Sequential(hidden()), tmp_path / "net.safetensors")
    net = checkpoint.load(tmp_path / "net.safetensors", to="snntorch")
    net(inputs(B, M))
    assert net[0].mem.any()
    utils.reset(net)
    assert not net[0].mem.any()


def in_a_process(code: str, *arguments: Any) -> str:
    prepare = f"import hetsyn_plugins; hetsyn_plugins.__path__.append({str(ROOT)!r})\n"
    command = [sys.executable, "-c", prepare + code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_reset_reaches_a_layer_unpickled_in_another_process(tmp_path: Path) -> None:
    net = nn.Sequential(hidden())
    net(inputs(B, M))
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(net))
    code = (
        "import pickle, sys; from snntorch import utils; net = pickle.load(open(sys.argv[1], 'rb'));"
        "assert net[0].mem.any(); utils.reset(net); print(net[0].mem.any().item())"
    )
    assert in_a_process(code, tmp_path / "net.pickle") == "False"


def test_importing_changes_nothing_and_the_first_layer_is_seen() -> None:
    code = (
        "import nirtorch; from snntorch import utils; from torch.nn.modules import module\n"
        "host = utils._layer_check, utils._final_layer_check, nirtorch.extract_nir_graph, 0\n"
        "def now():\n"
        "    hooks = len(module._global_module_registration_hooks)\n"
        "    return utils._layer_check, utils._final_layer_check, nirtorch.extract_nir_graph, hooks\n"
        "from hetsyn_plugins.adapters.snntorch import HetSynLeaky\n"
        "assert now() == host\n"
        "hetsyn_plugins.register('snntorch')\n"
        "assert now() == host\n"
        "HetSynLeaky(2, 2)\n"
        "met = now()\n"
        "assert not set(met) & set(host) and met[2].__wrapped__ is host[2] and met[3] == 1\n"
        "HetSynLeaky(2, 2)\n"
        "assert now() == met\n"
    )
    pytest.importorskip("nirtorch")
    in_a_process(code)


def test_living_layers_are_reset_after_unregistration() -> None:
    hetsyn_plugins.register("snntorch")
    net = nn.Sequential(hidden())
    hetsyn_plugins.unregister("snntorch")
    net(inputs(B, M))
    utils.reset(net)
    assert not net[0].mem.any() and not hasattr(snn, "HetSynLeaky")


def test_the_host_is_hooked_once() -> None:
    hidden()
    seen = utils._layer_check, utils._final_layer_check
    hidden()
    copy.deepcopy(hidden())
    assert (utils._layer_check, utils._final_layer_check) == seen


def test_stock_neurons_are_reset_as_ever() -> None:
    net = nn.Sequential(hidden(M, N), nn.Linear(N, N), snn.Leaky(0.9, init_hidden=True))
    net(inputs(B, M))
    utils.reset(net)
    assert not net[0].mem.any() and not net[2].mem.any()


def by_instance(net: nn.Module) -> None:
    """The host's `reset` after 1.0.0: what is inside net, by instance."""
    utils._layer_check(net=net)
    for module in net.modules():
        if isinstance(module, snn.SpikingNeuron):
            module.reset_mem()


def test_a_host_that_resets_by_instance_resets_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(hidden())
    monkeypatch.setattr(utils, "reset", by_instance)
    net(inputs(B, M))
    utils.reset(net)
    assert not net[0].mem.any()


@pytest.fixture
def without_private_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delattr(utils, "_layer_check")
    monkeypatch.delattr(utils, "_final_layer_check")
    snntorch_host._check_reset_by_itself.cache_clear()
    yield
    snntorch_host._check_reset_by_itself.cache_clear()


def test_a_host_without_the_private_name_is_left_alone_where_it_resets_ours(
    without_private_names: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils, "reset", lambda net: [m.reset_mem() for m in net.modules() if hasattr(m, "reset_mem")])
    net = nn.Sequential(hidden())
    net(inputs(B, M))
    utils.reset(net)
    assert not net[0].mem.any() and not hasattr(utils, "_layer_check")


def test_a_host_that_resets_ours_in_no_way_is_named(
    without_private_names: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils, "reset", lambda net: None)
    with pytest.warns(
        RuntimeWarning, match=r"snntorch.utils._layer_check: expected in snntorch, is gone.*reset\(net\)"
    ):
        hidden()


@pytest.mark.parametrize("cls", [HetSynLeaky, RHetSynLeaky])
def test_class_wide_idioms_reach_every_living_layer(cls: Any) -> None:
    layer = hidden(cls=cls)
    layers = [layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), parametrized(hidden(cls=cls))]
    layers.append(copy.deepcopy(layers[-1]))
    for one in layers:
        one(inputs(B, M))
    assert all(one.mem.requires_grad for one in layers)
    cls.detach_hidden()
    assert not any(getattr(one, name).requires_grad for one in layers for name in one._states)
    assert all(one.mem.any() for one in layers)
    cls.reset_hidden()
    assert not any(getattr(one, name).any() for one in layers for name in one._states)


def test_a_parametrized_layer_is_copied_after_a_forward() -> None:
    layer = parametrized(hidden())
    layer(inputs(B, M))
    twin, x = copy.deepcopy(layer), inputs(B, M)
    assert torch.equal(twin.mem, layer.mem) and not twin.mem.requires_grad
    assert torch.equal(twin(x), layer(x)) and twin.parametrizations is not layer.parametrizations


# ---- backprop ----------------------------------------------------------------------------------------------------


def nets() -> dict[str, Callable[[], nn.Module]]:
    last: dict[str, Any] = {"output": True}
    return {
        "one layer": lambda: nn.Sequential(hidden(M, 2, **last)),
        "stack": lambda: nn.Sequential(hidden(M, N), hidden(N, 2, **last)),
        "recurrent below": lambda: nn.Sequential(hidden(M, N, RHetSynLeaky), hidden(N, 2, **last)),
        "readout": lambda: nn.Sequential(hidden(M, N), hidden(N, 2, spiking=False, **last)),
        "adaptive below": lambda: nn.Sequential(
            hidden(M, N, adaptation_decay=0.9, adaptation_strength=0.1, learn_adaptation=True), hidden(N, 2, **last)
        ),
        "stock last": lambda: nn.Sequential(
            hidden(M, N), nn.Linear(N, 2), snn.Leaky(0.8, threshold=0.3, init_hidden=True, output=True)
        ),
        "stock first": lambda: nn.Sequential(
            nn.Linear(M, N), snn.Leaky(0.8, threshold=0.1, init_hidden=True), hidden(N, 2, **last)
        ),
        "nested": lambda: nn.Sequential(nn.Sequential(hidden(M, N)), nn.Sequential(hidden(N, 2, **last))),
        "parametrized": lambda: nn.Sequential(parametrized(hidden(M, N)), parametrized(hidden(N, 2, **last))),
    }


METHODS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "BPTT": (backprop.BPTT, {}, T),
    "RTRL": (backprop.RTRL, {}, 1),
    "TBPTT, K divides T": (backprop.TBPTT, {"K": 3}, 3),
    "TBPTT, a rest": (backprop.TBPTT, {"K": 4}, 4),
}


def by_hand(net: Any, data: Any, optimiser: Any, steps: int) -> None:
    """Truncated backpropagation written out: states that nobody hands on, an update every `steps` steps."""
    criterion = functional.mse_membrane_loss()
    for x, targets in data:
        for module in net.modules():
            if isinstance(module, snn.SpikingNeuron):
                module.reset_mem()
        mems: list[Tensor] = []
        for t in range(T):
            mems.append(net(x)[-1])
            if len(mems) == steps or t == T - 1:
                optimiser.zero_grad()
                criterion(torch.stack(mems), targets).backward()
                optimiser.step()
                mems = []
                for module in net.modules():
                    if isinstance(module, HetSynLeaky):
                        module._detach()
                    elif isinstance(module, snn.SpikingNeuron):
                        module.mem = module.mem.detach()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("which", nets())
def test_backprop_trains_as_a_loop_written_out(which: str, method: str) -> None:
    """Weights after two batches, by losses on the membrane, which are there for a readout too."""
    run, options, steps = METHODS[method]
    torch.manual_seed(3)
    net = nets()[which]()
    twin = copy.deepcopy(net)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    data = [(torch.rand(B, M), torch.randint(0, 2, (B,))) for _ in range(2)]
    loss = run(
        net,
        data,
        torch.optim.SGD(net.parameters(), lr=0.05),
        functional.mse_membrane_loss(),
        num_steps=T,
        time_var=False,
        **options,
    )
    by_hand(twin, data, torch.optim.SGD(twin.parameters(), lr=0.05), steps)
    assert loss.isfinite()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-6, atol=1e-6, msg=name)
    assert any((value != start[name]).any() for name, value in net.state_dict().items())


def test_the_flag_of_truncation_keeps_no_net_alive() -> None:
    net = nn.Sequential(hidden())
    utils.reset(net)
    flag = utils.is_linearleaky
    assert not flag and flag.net() is net
    del net
    assert flag.net() is None and not flag


# ---- surrogates --------------------------------------------------------------------------------------------------

SURROGATES = {name: make for name, make in vars(surrogate).items() if inspect.isfunction(make)}
MADE = {"custom_surrogate": lambda: surrogate.custom_surrogate(lambda d, grad, out: grad * (d.abs() < 1) / 2)}
FAULTS = {
    "SSO": (ValueError, r"snntorch\.surrogate\.SSO is stochastic"),
    "LSO": (ValueError, r"snntorch\.surrogate\.LSO fails itself: .*'variance'"),
    "sigmoid": (UserWarning, r"the derivative of snntorch\.surrogate\.sigmoid is NaN or infinite"),
    "triangular": (UserWarning, r"snntorch\.surrogate\.triangular has derivatives from -1 to 1, .*detach_reset=True"),
    "spike_rate_escape": (UserWarning, r"spike_rate_escape has derivatives from 1.24 to 25, .*detach_reset=True"),
}


def spike_function(name: str) -> Any:
    return MADE.get(name, SURROGATES[name])()


@pytest.mark.parametrize("name", SURROGATES)
def test_what_is_wrong_with_a_surrogate_is_said_when_a_layer_is_built(name: str) -> None:
    error, message = FAULTS.get(name, (None, ""))
    if error is None:
        assert f"spike_grad=snntorch.surrogate.{name}" in repr(HetSynLeaky(M, N, spike_grad=spike_function(name)))
    elif issubclass(error, Warning):
        with pytest.warns(error, match=message):
            HetSynLeaky(M, N, spike_grad=spike_function(name))
    else:
        with pytest.raises(error, match=f"spike_grad: .*{message}"):
            HetSynLeaky(M, N, spike_grad=spike_function(name))


@pytest.mark.parametrize("name", ["triangular", "spike_rate_escape"])
@pytest.mark.parametrize("options", [{"detach_reset": True}, {"reset_mechanism": "none"}, {"spiking": False}])
def test_a_surrogate_that_only_the_reset_multiplies_is_fine_without_that_path(name: str, options: Any) -> None:
    """As a stock neuron trains with it: finite, where the gradient through the reset makes 1e30 or NaN of it."""
    torch.manual_seed(0)
    layer = hidden(spike_grad=spike_function(name), **options)
    layer(inputs(100, B, M)).sum().backward()
    assert layer.weight.grad.abs().max() < 1e6
    if "detach_reset" in options:
        layer.detach_reset = False
        layer.weight.grad = None
        utils.reset(layer)
        layer(inputs(100, B, M)).sum().backward()
        assert not layer.weight.grad.abs().max() < 1e12


def test_the_surrogates_with_faults_are_the_hosts() -> None:
    """What is said of a surrogate is true of the host's, so that the list cannot rot."""
    assert FAULTS.keys() < SURROGATES.keys() and MADE.keys() < SURROGATES.keys()
    d = torch.tensor([-10.0], requires_grad=True)
    surrogate.sigmoid()(d).sum().backward()
    assert d.grad is not None and d.grad.isnan().all()
    with pytest.raises(TypeError, match="variance"):
        surrogate.LSO()(d)


@pytest.mark.parametrize("form", ["steps", "sequence"])
@pytest.mark.parametrize("name", [name for name in SURROGATES if FAULTS.get(name, (None,))[0] is not ValueError])
@pytest.mark.filterwarnings("ignore:spike_grad")
def test_a_surrogate_gives_the_gradients_that_it_gives_a_stock_neuron(name: str, form: str) -> None:
    """The stock Leaky is our special case: one decay, a reset without gradient. 3/4 is exact in its float32 spikes."""
    torch.manual_seed(1)
    spike_grad = spike_function(name)
    decay, threshold = (torch.tensor(value, dtype=torch.float64) for value in (0.9, 0.75))
    linear = nn.Linear(M, N, bias=False).double()
    stock = snn.Leaky(decay, threshold=threshold, spike_grad=spike_grad)
    options: dict[str, Any] = {"alpha": decay, "beta": decay, "threshold": threshold, "dtype": torch.float64}
    ours = HetSynLeaky(M, N, weight=linear.weight, spike_grad=spike_grad, detach_reset=True, **options)
    x, mem, states = inputs(20, B, M, dtype=torch.float64), stock.reset_mem(), ()
    loss = own = torch.zeros((), dtype=torch.float64)
    spikes = []
    for x_t in x:
        spk, mem = stock(linear(x_t), mem)
        loss = loss + spk.sum()
        spikes.append(spk)
        if form == "steps":
            mine, *states = ours(x_t, *states)
            own = own + mine.sum()
    if form == "sequence":
        own = ours(x)[0].sum()
    assert own == loss and 0.05 < torch.stack(spikes).mean() < 0.95
    (want,) = torch.autograd.grad(loss, linear.weight)
    (got,) = torch.autograd.grad(own, ours.weight)
    assert want.any() or name == "SFS"  # which has a derivative from 1 above the threshold on only
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_a_surrogate_can_be_taken_under_inference_mode_and_on_the_meta_device() -> None:
    with torch.inference_mode(), torch.device("meta"):
        layer = HetSynLeaky(M, N, spike_grad=surrogate.atan())
    assert layer.weight.is_meta and "alpha=?" in repr(layer)


# ---- quantisers --------------------------------------------------------------------------------------------------

QUANTISERS: list[dict[str, Any]] = [
    {"num_bits": 4},
    {"num_bits": 8, "uniform": False},
    {"num_bits": 4, "uniform": False, "thr_centered": False},
]


@pytest.mark.parametrize("options", QUANTISERS)
def test_a_quantised_layer_equals_the_stock_neuron_where_it_is_one(options: dict[str, Any]) -> None:
    """One input, no reset: the one current is mem. Values and gradients (straight through) are the stock neuron's."""
    torch.manual_seed(0)
    state_quant, linear = quant.state_quant(**options), nn.Linear(1, N, bias=False)
    nn.init.uniform_(linear.weight, 0.1, 0.9)
    same: dict[str, Any] = {"beta": 0.9, "reset_mechanism": "none", "spike_grad": surrogate.atan()}
    stock = snn.Leaky(**same, state_quant=state_quant)
    ours = HetSynLeaky(1, N, alpha=0.9, weight=linear.weight, state_quant=state_quant, **same)
    x, mem, spks, mems = inputs(30, B, 1), stock.reset_mem(), [], []
    for x_t in x:
        spk, mem = stock(linear(x_t), mem)
        spks.append(spk)
        mems.append(mem)
    spk, *_, mem = ours(x)
    assert torch.equal(spk, torch.stack(spks)) and torch.equal(mem, torch.stack(mems)) and 0 < spk.mean() < 1
    (want,) = torch.autograd.grad(torch.stack(mems).sum() + torch.stack(spks).sum(), linear.weight)
    (got,) = torch.autograd.grad(mem.sum() + spk.sum(), ours.weight)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("cls", [HetSynLeaky, RHetSynLeaky])
def test_a_quantised_layer_trains_in_every_dtype(cls: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = hidden(cls=cls, state_quant=quant.state_quant(num_bits=6), learn_beta=True).to(dtype)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.01)
    start = [p.detach().clone() for p in layer.parameters()]
    for _ in range(2):
        utils.reset(layer)
        optimiser.zero_grad()
        torch.stack([layer(x_t) for x_t in inputs(T, B, M, dtype=dtype)]).sum().backward()
        optimiser.step()
    assert all((p != before).any() for p, before in zip(layer.parameters(), start, strict=True))
    assert layer.mem.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)


# ---- what takes one step beside what takes a sequence ---------------------------------------------------------------


class Delay(nn.Module):
    """As the host's SynapticDelay: channels arrive `delays` steps late; one step (B, N), or (T, B, N) at once."""

    def __init__(self, delays: Tensor, step_mode: bool = True) -> None:
        super().__init__()
        self.delays, self.step_mode = delays, step_mode
        self.reset_delay()

    def reset_delay(self) -> None:
        self.past: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.step_mode:
            self.reset_delay()
            return torch.stack([self.step(x_t) for x_t in x])
        return self.step(x)

    def step(self, x: Tensor) -> Tensor:
        self.past.insert(0, x)
        late = [self.past[d][..., c] if d < len(self.past) else 0 * x[..., c] for c, d in enumerate(self.delays)]
        return torch.stack(late, -1)


class OwnNeuron(snn.SpikingNeuron):
    """A user's neuron, without a method that forgets."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 1).float()


class OverTime(nn.Module):
    """A way out: a module that loops by itself."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.neuron(x_t) for x_t in x])


ONE_STEP: dict[str, Callable[[], nn.Module]] = {
    "Leaky": lambda: snn.Leaky(0.9, init_hidden=True),
    "DeltaLeaky": lambda: snn.DeltaLeaky(beta=0.9, init_hidden=True),
    "Synaptic": lambda: snn.Synaptic(0.9, 0.8, init_hidden=True),
    "Alpha": lambda: snn.Alpha(0.9, 0.8, init_hidden=True),
    "Lapicque": lambda: snn.Lapicque(0.9, init_hidden=True),
    "RLeaky": lambda: snn.RLeaky(0.9, linear_features=N, init_hidden=True),
    "RSynaptic": lambda: snn.RSynaptic(0.9, 0.8, linear_features=N, init_hidden=True),
    "SLSTM": lambda: snn.SLSTM(N, N, init_hidden=True),
    "ParametrizedLeaky": lambda: parametrized(snn.Leaky(0.9, learn_beta=True, init_hidden=True), "beta"),
    "OwnNeuron": OwnNeuron,
    "Delay": lambda: Delay(torch.tensor([0, 1, 3])),
}
PLACES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "between": lambda other: nn.Sequential(hidden(M, N), nn.Linear(N, N), other, hidden(N, 2)),
    "last": lambda other: nn.Sequential(hidden(M, N), nn.Linear(N, N), other),
    "behind a recurrent one": lambda other: nn.Sequential(hidden(M, N, RHetSynLeaky), other),
    "inner": lambda other: nn.Sequential(hidden(M, N), nn.Sequential(nn.Linear(N, N), other), hidden(N, 2)),
    "outer": lambda other: nn.Sequential(nn.Sequential(hidden(M, N), nn.Identity()), other),
    "inner twice": lambda other: nn.Sequential(nn.Sequential(nn.Sequential(hidden(M, N))), nn.Sequential(other)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ONE_STEP)
def test_a_sequence_beside_what_takes_one_step_is_refused(kind: str, place: str, training: bool) -> None:
    net = PLACES[place](ONE_STEP[kind]())
    with (
        torch.set_grad_enabled(training),
        pytest.raises(ValueError, match=rf"\d \({kind}\), got \(T, B, M\): .*one step"),
    ):
        net(inputs(T, B, M))


def test_a_cell_of_another_framework_is_refused_and_its_sequence_layer_is_not() -> None:
    norse = pytest.importorskip("norse.torch")
    with pytest.raises(ValueError, match=r"beside 1 \(LIFCell\)"):
        nn.Sequential(hidden(M, N), norse.LIFCell())(inputs(T, B, M))
    assert nn.Sequential(hidden(M, N), norse.LIF())(inputs(T, B, M))[0].shape == (T, B, N)


def test_a_stock_neuron_in_front_is_refused_too() -> None:
    net = nn.Sequential(nn.Linear(M, N), snn.Leaky(0.9, init_hidden=True), hidden(N, 2))
    net[2].register_forward_hook(lambda *_: None)  # torch calls a module with hooks another way
    with pytest.raises(ValueError, match=r"beside 1 \(Leaky\)"):
        net(inputs(T, B, M))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "RLeaky", "ParametrizedLeaky", "Delay"])
def test_steps_are_never_refused(kind: str, place: str) -> None:
    net = PLACES[place](ONE_STEP[kind]())
    for x_t in inputs(T, B, M):
        net(x_t)


def test_what_takes_sequences_is_not_refused() -> None:
    linear = nn.Linear(N, 2)
    for other in (
        OverTime(snn.Leaky(0.9, init_hidden=True)),
        snn.StateLeaky(0.9, channels=N, output=False),
        snn.LinearLeaky(0.9, N, N, output=False),
        Delay(torch.tensor([0, 1, 2]), step_mode=False),
        nn.Dropout(0.5),
        torch.jit.script(nn.Linear(N, N)),
    ):
        out = nn.Sequential(hidden(M, N), other, linear, hidden(2, 2))(inputs(T, B, M))
        assert out.shape == (T, B, 2)


def test_stock_nets_are_left_alone() -> None:
    """A batch of signals (B, C, L) is a step; so it is in a net beside one of ours."""
    stock = nn.Sequential(nn.Conv1d(2, N, 3), snn.Leaky(0.9, init_hidden=True))
    ours = nn.Sequential(hidden())
    for _ in range(3):
        assert stock(torch.rand(T, 2, 7)).shape == (T, N, 5)
        assert ours(inputs(T, 2, M)).shape[:2] == (T, 2)


class Own(nn.Module):
    """A user's net: the sequence of a HetSyn layer handed to a stock neuron, at once or step by step."""

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        self.first, self.linear, self.leaky = hidden(M, N), nn.Linear(N, N), snn.Leaky(0.9)
        self.at_once = at_once

    def forward(self, x: Tensor) -> Tensor:
        current, mem = self.linear(self.first(x)), self.leaky.reset_mem()
        if self.at_once:
            return self.leaky(current, mem)[0]
        spikes = []
        for step in current:
            spk, mem = self.leaky(step, mem)
            spikes.append(spk)
        return torch.stack(spikes)


def test_a_forward_of_ones_own_is_not_looked_at() -> None:
    """No container sees it: the docstring says so."""
    for at_once in (True, False):
        net = Own(at_once)
        for _ in range(3):
            assert net(inputs(T, B, M)).shape == (T, B, N)
    assert "what a forward of your own hands from layer to" in str(HetSynLeaky.__doc__)


def leaky() -> nn.Module:
    """A stock neuron that can be pickled: the host's own surrogates cannot."""
    module: nn.Module = snn.Leaky(0.9, spike_grad=torch.sigmoid, init_hidden=True)
    return module


class Renamed(nn.Sequential):
    """A subclass with Sequential's forward."""


class Looping(nn.Sequential):
    """A way out: a container that loops by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super(Looping, self).forward(x_t) for x_t in x])


def appended() -> nn.Sequential:
    net = nn.Sequential(leaky())
    return net.append(hidden())


def moved() -> nn.Sequential:
    """A neuron that stands where another stood, after members went."""
    net = nn.Sequential(nn.Identity(), snn.Leaky(0.9, init_hidden=True), nn.Identity(), hidden())
    del net[0]
    net[0] = nn.Linear(M, M)
    del net[0:2]
    return net.insert(-1, leaky())


def assigned() -> nn.Sequential:
    net = nn.Sequential(nn.Identity(), leaky())
    net[0] = hidden()
    return net


def added() -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("first", hidden())
    net.second = leaky()
    return net


def inner_later() -> nn.Sequential:
    """The outer one takes in a member after the inner one took in the layer."""
    inner: nn.Sequential = nn.Sequential()
    net = nn.Sequential(inner)
    inner.append(hidden())
    return net.append(leaky())


def in_a_module_list() -> nn.Module:
    modules = nn.ModuleList([hidden(), leaky()])
    assert not modules._forward_pre_hooks
    return nn.Sequential(*modules)


BUILT: dict[str, Callable[[], nn.Module]] = {
    "append": appended,
    "extend": lambda: nn.Sequential(leaky()).extend([hidden()]),
    "insert of the neuron": lambda: nn.Sequential(hidden()).insert(1, leaky()),
    "insert into an inner one": lambda: nn.Sequential(nn.Sequential(nn.Identity()).insert(1, hidden()), leaky()),
    "insert, then append": lambda: nn.Sequential(nn.Identity()).insert(0, hidden()).append(leaky()),
    "delete and insert": moved,
    "in-place sum": lambda: operator.iadd(nn.Sequential(leaky()), nn.Sequential(hidden())),
    "item": assigned,
    "add_module and setattr": added,
    "named": lambda: nn.Sequential(OrderedDict(first=hidden(), second=leaky())),
    "sum": lambda: nn.Sequential(hidden()) + nn.Sequential(leaky()),
    "slice": lambda: nn.Sequential(nn.Identity(), hidden(), leaky())[1:],
    "subclass": lambda: Renamed(hidden(), leaky()),
    "of a module list": in_a_module_list,
    "inner later": inner_later,
    "parametrized": lambda: nn.Sequential(parametrized(hidden()), leaky()),
    "deep copy": lambda: copy.deepcopy(appended()),
    "unpickled": lambda: pickle.loads(pickle.dumps(appended())),
    "torch.load": lambda: through_a_file(appended()),
    "copy that grew": lambda: copy.deepcopy(nn.Sequential(hidden())).append(leaky()),
    "inside a module": lambda: nn.Sequential(OverTime(nn.Identity()), Renamed(leaky(), hidden(N, N))),
}


@pytest.mark.parametrize("how", BUILT)
def test_a_container_is_seen_however_it_was_built(how: str) -> None:
    net = BUILT[how]()
    x = inputs(T, B, N if how == "inside a module" else M)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"^input_: expected \(B, M\), one step, beside [\w.]+ \(Leaky\), got \(T, B"
        ):
            net(x)
    if how in ("add_module and setattr", "named", "inner later", "parametrized"):
        for x_t in x:
            net(x_t)


def test_a_container_unpickled_in_another_process_refuses_a_sequence(tmp_path: Path) -> None:
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(nn.Sequential(hidden(), leaky())))
    code = (
        "import pickle, sys, torch; net = pickle.load(open(sys.argv[1], 'rb')); print(net(torch.ones(4, 5)).shape)\n"
        "try: net(torch.ones(6, 4, 5))\n"
        "except ValueError as error: print(error)\n"
    )
    shape, _, message = in_a_process(code, tmp_path / "net.pickle").partition("\n")
    assert shape == "torch.Size([4, 3])" and message.startswith("input_: expected (B, M), one step, beside 1 (Leaky)")


def test_a_layer_that_is_batch_first_says_so() -> None:
    net = nn.Sequential(hidden(batch_first=True), leaky())
    with pytest.raises(ValueError, match=r"got \(B, T, M\): .* reads \(B, T, N\) as .*net\(x\[:, t\]\)"):
        net(inputs(B, T, M))


def test_what_a_layer_gets_decides_and_not_what_the_net_gets() -> None:
    """Images and signals (B, C, L) are steps behind a Flatten, words (T, B) are a sequence behind an Embedding."""
    nn.Sequential(nn.Flatten(), hidden(4 * M), leaky())(inputs(B, 4, M))
    nn.Sequential(nn.Conv1d(2, N, 3), leaky(), nn.Flatten(), hidden(5 * N))(torch.rand(B, 2, 7))
    for net, x in (
        (nn.Sequential(nn.Embedding(9, M), hidden(), leaky()), torch.ones(T, B, dtype=torch.long)),
        (nn.Sequential(nn.Flatten(2), hidden(4 * M), leaky()), inputs(T, B, 4, M)),
    ):
        with pytest.raises(ValueError, match=r"beside 2 \(Leaky\)"):
            net(x)


def test_a_layer_called_by_itself_or_in_a_loop_of_the_users_is_free() -> None:
    net = nn.Sequential(hidden(), nn.Linear(N, N), leaky())
    net(inputs(B, M))
    assert net[0](inputs(T, B, M)).shape == (T, B, N)
    with pytest.raises(ValueError, match=r"beside 2 \(Leaky\)"):
        net(inputs(T, B, M))
    assert net[0](inputs(T, B, M)).shape == (T, B, N), "what was said of one call holds for that call"
    with pytest.raises(ValueError, match=r"beside 1 \(Leaky\)"):
        (late := nn.Sequential(hidden(), leaky(), hidden(N, N)))(inputs(T, B, M))
    assert late[2](inputs(T, B, N)).shape == (T, B, N), "a call that did not come so far is over as well"
    assert Looping(hidden(), leaky())(inputs(T, B, M)).shape == (T, B, N)
    assert nn.Sequential(Looping(hidden(), leaky()), hidden(N, 2))(inputs(T, B, M)).shape == (T, B, 2)


def test_a_container_has_one_hook_and_others_have_none() -> None:
    net = nn.Sequential(hidden(), hidden(N, N)).append(hidden(N, 2)).append(nn.Sequential(hidden(2, 2)))
    twin = copy.deepcopy(net).append(hidden(2, 2))
    for one in (net, net[3], twin, twin[3]):
        assert list(one._forward_pre_hooks.values()) == [snntorch_host.tell_layers]
        assert list(one._forward_hooks.values()) == [snntorch_host.forget]
    for other in (nn.Sequential(nn.Linear(M, N), leaky()), Looping(hidden()), nn.ModuleDict({"a": hidden()}), net[0]):
        assert not other._forward_pre_hooks and not other._forward_hooks


def test_a_container_of_ours_compiles_into_one_graph() -> None:
    net, x = nn.Sequential(hidden(), nn.Linear(N, N), nn.Sequential(hidden(N, 2))), inputs(B, M)
    plain = nn.Sequential(nn.Linear(M, N), nn.Linear(N, 2))
    plain.register_forward_pre_hook(snntorch_host.tell_layers)
    plain.register_forward_hook(snntorch_host.forget, always_call=True)
    torch.compile(plain, fullgraph=True, backend="eager")(x)
    want = net(x)
    utils.reset(net)
    torch.testing.assert_close(torch.compile(net, backend="eager")(x), want)


def test_a_mixture_is_seen_by_what_is_hung_on_the_container() -> None:
    net, layer = nn.Sequential(hidden(), leaky()), snntorch_host.beside
    for module, old, new in (
        (snntorch_host.__name__, "if is_ours(layer)]", "if is_ours(layer) and not net]"),
        (snntorch_host.__name__, '"reset_mem", "reset_hidden", ', ""),
        (containers.__name__, "if len(found) == 2", "if len(found) == 3"),
    ):
        around = [containers.__name__, snntorch_host.__name__]
        fresh = changed(module, old, new, around=around)[snntorch_host.__name__]
        fresh.tell_layers(net, ())
        assert layer(net[0]) is None, old
    snntorch_host.tell_layers(net, ())
    assert layer(net[0]) == ("1", "Leaky")


def test_the_way_out_that_is_named_is_one() -> None:
    """`convert` makes HetSyn layers of Linear and Leaky; the sequence then equals the loop."""
    torch.manual_seed(0)
    stock = snn.Leaky(0.9, threshold=0.4, init_hidden=True)
    net = nn.Sequential(hidden(M, N), nn.Linear(N, N), stock, hidden(N, 2))
    with torch.no_grad():
        net[1].weight.abs_()
        net[1].bias.abs_()
        x = inputs(20, B, M)
        steps = torch.stack([net(x_t) for x_t in x])
        utils.reset(net)
        converted = hetsyn_plugins.convert(net, to="snntorch")
        assert torch.equal(converted(x), steps) and 0 < steps.mean() < 1


@pytest.mark.parametrize("behind", [True, False])
def test_delays_in_one_sequential_with_our_layers(behind: bool) -> None:
    """Step by step and, in their sequence mode, at once: the same; the judge shifts the channels by hand."""
    torch.manual_seed(0)
    delays = torch.tensor([0, 2, 1, 3, 1] if not behind else [0, 2, 1])
    layer, after = hidden(M, N), hidden(N, 2)

    def net(step_mode: bool) -> nn.Sequential:
        delay = Delay(delays, step_mode)
        return nn.Sequential(layer, delay, after) if behind else nn.Sequential(delay, layer, after)

    def shifted(x: Tensor) -> Tensor:
        late = torch.zeros_like(x)
        for channel, d in enumerate(delays):
            late[d:, :, channel] = x[: len(x) - d, :, channel]
        return late

    x = inputs(12, B, M)
    want = after(shifted(layer(x))) if behind else after(layer(shifted(x)))
    for step_mode in (True, False):
        utils.reset(nn.Sequential(layer, after))
        one = net(step_mode)
        got = torch.stack([one(x_t) for x_t in x]) if step_mode else one(x)
        assert torch.equal(got, want) and want.any()


# ---- NIR ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated")
@pytest.mark.parametrize("cls", [HetSynLeaky, RHetSynLeaky])
@pytest.mark.parametrize("place", ["first", "behind", "nested", "bare"])
def test_the_exporter_to_nir_writes_what_the_importer_runs_with_the_same_spikes(
    cls: Any, place: str, capsys: Any
) -> None:
    pytest.importorskip("nirtorch")
    from snntorch.export_nir import export_to_nir
    from snntorch.import_nir import import_from_nir

    torch.manual_seed(0)
    net = {
        "first": lambda: nn.Sequential(hidden(M, N, cls), nn.Linear(N, 2), hidden(2, 2)),
        "behind": lambda: nn.Sequential(nn.Linear(M, M), snn.Leaky(0.9, init_hidden=True), hidden(M, N, cls)),
        "nested": lambda: nn.Sequential(nn.Linear(M, M), nn.Sequential(hidden(M, N, cls))),
        "bare": lambda: hidden(M, N, cls),
    }[place]()
    for linear in (module for module in net.modules() if isinstance(module, nn.Linear)):
        linear.weight.data.abs_()
    x, state = (torch.rand(30, B, M) < 0.5).float() * 3, None
    back = import_from_nir(export_to_nir(net, x[0]))
    total = 0.0
    for step in x:
        spikes, (again, state) = net(step), back(step, state)
        spikes = spikes[0] if isinstance(spikes, tuple) else spikes
        assert torch.equal(spikes, again)
        total += float(spikes.detach().sum())
    assert total > 10


def test_other_nets_are_exported_as_ever() -> None:
    pytest.importorskip("nirtorch")
    from snntorch.export_nir import export_to_nir

    hidden()
    each = torch.ones(N)
    net = nn.Sequential(nn.Linear(M, N), snn.Leaky(0.9 * each, threshold=each, init_hidden=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = export_to_nir(net, inputs(M))
    assert len(graph.nodes) == 4


@pytest.mark.parametrize("imported", ["before", "behind"])
def test_the_exporter_knows_them_whether_imported_before_the_first_layer_or_behind_it(imported: str) -> None:
    pytest.importorskip("nirtorch")
    lines = ["from snntorch.export_nir import export_to_nir", "net = torch.nn.Sequential(HetSynLeaky(2, 2))"]
    code = [
        "import torch; from hetsyn_plugins.adapters.snntorch import HetSynLeaky",
        *(lines if imported == "before" else lines[::-1]),
        "print(list(export_to_nir(net, torch.ones(1, 2)).nodes))",
        "net.append(torch.nn.ReLU())",
        "try: export_to_nir(net, torch.ones(1, 2))",
        "except ValueError as error: print(error)",
    ]
    said = in_a_process("\n".join(code))
    assert "['input', 'n0_0', 'output']" in said and "module '1' is a torch.nn.modules.activation.ReLU" in said


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated")
def test_who_exports_with_a_map_of_his_own_is_let_through() -> None:
    nir, nirtorch = pytest.importorskip("nir"), pytest.importorskip("nirtorch")
    layer = hidden()
    graph = nirtorch.extract_nir_graph(layer, lambda m: nir.Linear(m.weight.detach().numpy()), inputs(B, M))
    assert [type(node).__name__ for node in graph.nodes.values()] == ["Input", "Linear", "Output"]


# ---- words -------------------------------------------------------------------------------------------------------


def test_signatures_are_real() -> None:
    ours, recurrent = (inspect.signature(cls).parameters for cls in (HetSynLeaky, RHetSynLeaky))
    assert list(ours)[:3] == ["in_features", "out_features", "alpha"] and ours["alpha"].default == 0.9
    of_recurrence = {"rec_alpha", "learn_rec_alpha", "rec_weight", "rec_delay", "learn_rec_delay", "rec_mask"}
    assert set(recurrent) - set(ours) == of_recurrence
    assert not any(name.startswith("_") or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for name, p in recurrent.items())
    RHetSynLeaky(
        **{name: p.default for name, p in recurrent.items() if p.default is not p.empty}, in_features=M, out_features=N
    )


def test_states_of_zeros_come_as_from_the_hosts_own() -> None:
    layer, recurrent = HetSynLeaky(M, N), RHetSynLeaky(M, N)
    layer(inputs(B, M), *layer.init_hetsynleaky())
    recurrent(inputs(B, M), *recurrent.init_rhetsynleaky())
    with pytest.raises(AttributeError, match=r"HetSynLeaky has no init_leaky; .* syn, rst, mem = layer.reset_mem\(\)"):
        layer.init_leaky()
    assert not hasattr(layer, "init_synaptic") and layer.init_hidden is False


def test_who_ports_a_stock_neuron_is_told_what_comes() -> None:
    x, mem = inputs(B, M), torch.zeros(B, N)
    call = r"spk, syn, rst, mem = layer\(x, syn, rst, mem\)"
    with pytest.raises(ValueError, match=f"states: expected all of syn, rst, mem or none, got 1; {call}"):
        HetSynLeaky(M, N)(x, mem)
    with pytest.raises(ValueError, match=f"states: expected tensors one by one, got a tuple; {call}"):
        HetSynLeaky(M, N)(x, HetSynLeaky(M, N).reset_mem())
    with pytest.raises(ValueError, match=r"spk, syn, rec, rst, mem = layer\(x, spk, syn, rec, rst, mem\)"):
        RHetSynLeaky(M, N)(x, mem)
    with pytest.raises(TypeError, match=rf"init_hidden=True.*spk = layer\(x\); without init_hidden {call}"):
        hidden()(x, mem)
    assert "spk, syn, rst, (ada,) mem = layer(x" in str(HetSynLeaky.forward.__doc__)


def test_repr_tells_ranges_thresholds_and_the_surrogate() -> None:
    alpha = torch.linspace(0.5, 0.9, N * M).reshape(N, M)
    layer = RHetSynLeaky(M, N, alpha=alpha, rec_alpha=0.8, threshold=torch.tensor([0.5, 1.0, 2.0]), spike_grad="arctan")
    text = repr(layer)
    assert "alpha=0.5 to 0.9, rec_alpha=0.8, threshold=0.5 to 2, spike_grad=Arctan(alpha=2.0)" in text
    taus = HetSynLeaky(M, N, alpha=0.5, parametrization="log_tau", dt=1e-3)
    assert "dt=0.001, tau=0.001443, threshold=1" in repr(taus)
    assert "spiking=False" in repr(HetSynLeaky(M, N, spiking=False))
