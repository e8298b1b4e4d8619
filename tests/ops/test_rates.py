"""What is said of a layer that stays silent, or fires at every step, while it is trained; and of what nothing is."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

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
        assert not said(lambda net=net: net(inputs()))
    x = inputs()
    x[:, :7] = -x[:, :7]  # the first sample is silent, the last fires
    assert not said(lambda: layer(1.0)(x))


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
    assert not said(lambda: layer(-1.0, init_hidden=False)(inputs()[0])), "one step"


def test_recurrent_layers_are_watched_too() -> None:
    assert said(lambda: layer(-1.0, RHetSynLeaky)(inputs()))


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


def test_the_watch_is_right() -> None:
    check_silent(rates)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("most.item() == 0", "most.item() < 0", "a silent layer is told"),
        ("or not inputs.any()", "", "silent inputs are not told"),
        ("layer.training and ", "", "evaluation is not told"),
        ("fault(z[:, 0]) and fault(z)", "fault(z[:, 0])", "all samples count"),
        ('layer.__dict__["_rate_was_said"] = True', "pass", "once"),
    ],
)
def test_planted_watches_are_caught(old: str, new: str, says: str) -> None:
    with planted(rates.__name__, old, new) as module, caught(says):
        check_silent(module)
