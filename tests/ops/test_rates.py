"""What is said of a layer that stays silent, or fires at every step, while it is trained; and of what nothing is."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("snntorch")

from planting import caught, planted

from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.ops import rates

SILENT, SATURATED = "did not fire once", "fired at every step"


@pytest.fixture(autouse=True)
def _nothing_said() -> Iterator[None]:
    rates._said.clear()
    yield
    rates._said.clear()


def inputs(steps: int = 40, batch: int = 8, lines: int = 20) -> Tensor:
    return torch.ones(steps, batch, lines)


def layer(weight: float, kind: Any = HetSynLeaky, **options: Any) -> Any:
    """20 -> 10, every weight the same: -1 never fires, 1 always does."""
    options.setdefault("init_hidden", True)
    return kind(20, 10, 0.9, 0.5, weight=torch.full((10, 20), weight), **options)


def said(run: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run()
    return [str(one.message) for one in seen if "fire" in str(one.message)]


def norse_layer(weight: float) -> nn.Module:
    norse = pytest.importorskip("hetsyn_plugins.adapters.norse")
    made: nn.Module = norse.HetSynLIF(20, 10, input_weights=torch.full((10, 20), weight))
    return made


def slayer_layer(weight: float) -> nn.Module:
    slayer = pytest.importorskip("hetsyn_plugins.adapters.lava_dl.slayer")
    block = slayer.Dense({"threshold": 1.0, "reset_decay": 0.5}, 20, 10, decay=0.9)
    block.synapse.set_weight(torch.full((10, 20), weight).numpy())
    return nn.Sequential(Turn(), block)


class Turn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(1, 2, 0)


@pytest.mark.parametrize(("weight", "what"), [(-1.0, SILENT), (1.0, SATURATED)])
@pytest.mark.parametrize("build", [layer, norse_layer, slayer_layer])
def test_a_layer_without_a_difference_says_so_once(build: Any, weight: float, what: str) -> None:
    net = build(weight)
    first, second = said(lambda: net(inputs())), said(lambda: net(inputs()))
    assert len(first) == 1 and not second
    assert f"of 10 neurons {what} in a sequence of 40 steps and 8 samples" in first[0] and "input_rate=" in first[0]


def test_a_copy_is_told_with_the_layer_and_a_process_not_without_end() -> None:
    one = layer(-1.0)
    assert said(lambda: one(inputs())) and not said(lambda: copy.deepcopy(one)(inputs()))
    more = [said(lambda: layer(-1.0)(inputs())) for _ in range(2 * rates.MAX_MESSAGES)]
    assert sum(map(len, more)) == rates.MAX_MESSAGES - 1


def test_one_spike_or_one_pause_is_enough() -> None:
    for weight, other in ((-1.0, 2.0), (1.0, -1.0)):
        net = layer(weight)
        with torch.no_grad():
            net.weight[3] = other
        assert not said(lambda net=net: net(inputs())) and not said(lambda net=net: hidden_loop(net))
    x = inputs()
    x[:, :7] = -x[:, :7]  # the first sample is silent, the last fires
    assert not said(lambda: layer(1.0)(x)) and not said(lambda: hidden_loop(layer(1.0), x))


def test_where_nobody_trains_nothing_is_said() -> None:
    net = layer(-1.0)
    with torch.no_grad():
        assert not said(lambda: net(inputs()))
    with torch.inference_mode():
        assert not said(lambda: net(inputs()))
    assert not said(lambda: copy.deepcopy(net).eval()(inputs()))
    assert not said(lambda: copy.deepcopy(net).requires_grad_(False)(inputs()))


def test_silent_inputs_short_sequences_and_readouts_are_no_fault() -> None:
    assert not said(lambda: layer(-1.0)(torch.zeros(40, 8, 20)))
    assert not said(lambda: layer(-1.0)(inputs(steps=9, batch=100)))
    assert not said(lambda: layer(-1.0)(inputs(steps=12, batch=8))), "960 places: few enough to be silent by chance"
    assert not said(lambda: layer(-1.0, spiking=False)(inputs()))
    assert not said(lambda: hidden_loop(layer(-1.0), inputs(steps=1, batch=200))), "one step"


def test_recurrent_layers_are_watched_too() -> None:
    assert said(lambda: layer(-1.0, RHetSynLeaky)(inputs()))
    assert said(lambda: hidden_loop(layer(-1.0, RHetSynLeaky)))


def hidden_loop(net: Any, x: Tensor | None = None) -> None:
    """A loop over the steps of x, the states kept in the layer, and its backward pass."""
    outputs = [net(step) for step in (inputs() if x is None else x)]
    torch.stack(outputs).sum().backward()


def explicit_loop(net: Any, x: Tensor | None = None) -> None:
    """The same, the states going in and out."""
    total, states = torch.zeros(()), ()
    for step in inputs() if x is None else x:
        spk, *states = net(step, *states)
        total = total + spk.sum()
    total.backward()


def cell_loop(net: Any, x: Tensor | None = None) -> None:
    """The same in Norse's idiom."""
    total, state = torch.zeros(()), None
    for step in inputs() if x is None else x:
        z, state = net(step, state)
        total = total + z.sum()
    total.backward()


def norse_cell(weight: float) -> nn.Module:
    norse = pytest.importorskip("hetsyn_plugins.adapters.norse")
    made: nn.Module = norse.HetSynLIFCell(20, 10, input_weights=torch.full((10, 20), weight))
    return made


LOOPS = {
    "hidden": (layer, hidden_loop),
    "explicit": (lambda weight: layer(weight, init_hidden=False), explicit_loop),
    "norse": (norse_cell, cell_loop),
}


@pytest.mark.parametrize(("weight", "what"), [(-1.0, SILENT), (1.0, SATURATED)])
@pytest.mark.parametrize("idiom", LOOPS)
def test_loops_of_steps_say_so_once_too(idiom: str, weight: float, what: str) -> None:
    build, loop = LOOPS[idiom]
    net: Any = build(weight)
    first = said(lambda: loop(net))
    if idiom == "hidden":
        net.reset_mem()
    assert not said(lambda: loop(net))
    assert len(first) == 1 and "input_rate=" in first[0]
    assert f"a {type(net).__name__} of 20 -> 10 neurons {what} in a loop of 40 steps and 8 samples" in first[0]


@pytest.mark.parametrize("idiom", LOOPS)
def test_loops_that_are_no_training_say_nothing(idiom: str) -> None:
    build, loop = LOOPS[idiom]
    net: Any = build(-1.0)
    assert not said(lambda: loop(copy.deepcopy(net), torch.zeros(40, 8, 20))), "silent inputs"
    assert not said(lambda: loop(copy.deepcopy(net), inputs(steps=9, batch=100))), "short"
    assert not said(lambda: loop(copy.deepcopy(net), inputs(steps=12, batch=8))), "few places"
    assert not said(lambda: loop(copy.deepcopy(net).eval())), "evaluation"


def test_of_a_loop_that_is_cut_into_backward_passes_each_is_looked_at() -> None:
    net = layer(-1.0)
    for part in inputs().split(9):
        assert not said(lambda part=part: hidden_loop(net, part)), "nine steps"
        net.detach_hidden()
    assert said(lambda: hidden_loop(net, inputs(steps=20)))


def test_readouts_and_inhibited_layers_in_a_loop_are_not_watched() -> None:
    assert not said(lambda: hidden_loop(layer(-1.0, spiking=False)))
    assert not said(lambda: hidden_loop(layer(1.0, inhibition=True))), "one neuron a sample fires, the others do not"


def test_a_loop_keeps_no_layer_alive_and_goes_into_no_copy() -> None:
    net = layer(-1.0)
    spikes = [net(step) for step in inputs()]
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert said(lambda twin=twin: (twin.reset_mem(), hidden_loop(twin)))
    alive = ref(net)
    del net, twin
    gc.collect()
    assert alive() is None
    assert not said(lambda: torch.stack(spikes).sum().backward()), "of a layer that is no more nothing is said"


def test_values_that_nobody_may_see_are_not_looked_at() -> None:
    with torch.device("meta"):
        rates.watch_rates(HetSynLeaky(20, 10, check=True), inputs(), torch.zeros(40, 8, 10).requires_grad_())
    off = torch.zeros((), requires_grad=True)
    both = torch.func.vmap(lambda x: (rates.watch_rates(net, x, x[..., :10] * off), x)[1])
    net = layer(-1.0)
    assert not said(lambda: both(torch.ones(2, 40, 8, 20))) and not rates._said


def check_silent(module: Any) -> None:
    spikes = torch.zeros(40, 8, 10, requires_grad=True)
    net = layer(-1.0)
    first = said(lambda: module.watch_rates(net, inputs(), spikes))
    assert first and SILENT in first[0], "a silent layer is told"
    assert not said(lambda: module.watch_rates(net, inputs(), spikes)), "once"
    assert not said(lambda: module.watch_rates(layer(-1.0), 0 * inputs(), spikes)), "silent inputs are not told"
    assert not said(lambda: module.watch_rates(layer(-1.0).eval(), inputs(), spikes)), "evaluation is not told"
    late = spikes.detach().clone()
    late[:, 5] = 1.0
    late[0, 5] = 0.0
    assert not said(lambda: module.watch_rates(layer(-1.0), inputs(), late.requires_grad_())), "all samples count"
    v, threshold = torch.tensor([-0.5, 0.5]).repeat(40, 40, 5), torch.ones(10)
    assert said(lambda: module.watch_loop(layer(-1.0), inputs(), v, threshold)), "v below threshold is silence"
    assert not said(lambda: module.watch_loop(layer(-1.0), inputs(), v[:9], threshold)), "nine steps are too few"


def test_the_watch_is_right() -> None:
    check_silent(rates)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("most.item() == 0", "most.item() < 0", "a silent layer is told"),
        ("or not inputs.any()", "", "silent inputs are not told"),
        ("not layer.training or ", "", "evaluation is not told"),
        ("fault(spikes[:, 0]) and fault(spikes)", "fault(spikes[:, 0])", "all samples count"),
        ('layer.__dict__["_rate_was_said"] = True', "pass", "once"),
        ("v > threshold", "v > 0", "v below threshold is silence"),
        ("len(of_spikes) >= MIN_STEPS and ", "", "nine steps are too few"),
    ],
)
def test_planted_watches_are_caught(old: str, new: str, says: str) -> None:
    with planted(rates.__name__, old, new) as module, caught(says):
        check_silent(module)
