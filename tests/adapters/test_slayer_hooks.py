"""Hooks of a block's parts: when they fire, what they see, what they may change; pruning and norms through them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, changed, in_place
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.core import reference
from hetsyn_plugins.fixed_point import run as run_integers

pytest.importorskip("lava.lib.dl.slayer", reason="lava-dl is not installed (it ends at Python 3.10)")

import lava.lib.dl.slayer as slayer

from hetsyn_plugins.adapters.lava_dl import slayer as hetsyn

NEURON = {"threshold": 1.0, "reset_decay": 0.9, "bias": np.linspace(-0.1, 0.2, 9)}
KINDS = ("Dense", "Recurrent", "Affine")
PARTS = {
    "Dense": ("synapse", "neuron"),
    "Recurrent": ("input_synapse", "recurrent_synapse", "neuron"),
    "Affine": ("synapse", "neuron"),
}


@pytest.fixture(name="adapter")
def _adapter() -> Any:
    return hetsyn


def spikes_in(batch: int = 3, m: int = 12, steps: int = 40) -> torch.Tensor:
    """(B, M, T), float64."""
    return torch.from_numpy(np.random.default_rng(1).random((batch, m, steps)) < 0.3).double()


def block(adapter: Any, kind: str, neuron: Any = None, **options: Any) -> Any:
    torch.manual_seed(5)
    rng = np.random.default_rng(3)
    options = {"weight_scale": 4, "decay": rng.uniform(0, 1, (9, 12)), "dtype": torch.float64, **options}
    if kind == "Recurrent":
        options.setdefault("recurrent_decay", rng.uniform(0, 1, (9, 9)))
    return getattr(adapter, kind)({**NEURON, **(neuron or {})}, 12, 9, **options)


def listen(b: Any, kind: str) -> dict[str, list[Any]]:
    """What forward hooks of all parts see: part -> a list of (input, output), one a call."""
    seen: dict[str, list[Any]] = {name: [] for name in PARTS[kind]}
    for name, calls in seen.items():
        getattr(b, name).register_forward_hook(lambda _, inputs, output, calls=calls: calls.append((*inputs, output)))
    return seen


def readout_says(weight: Any, decay: Any, x: torch.Tensor) -> torch.Tensor:
    """Sums of currents (B, N, T) by the float64 reference: v of a readout."""
    v = reference.run(HetSynParams.readout(weight, decay), x.permute(2, 0, 1).numpy())[1]
    return torch.from_numpy(v.transpose(1, 2, 0).copy())


def integers_say(b: Any, weight: str, decay: str, x: torch.Tensor) -> torch.Tensor:
    """Likewise, by the integer core."""
    p = b.to_fixed().params
    line = {"weight": getattr(p, weight), "decay": getattr(p, decay), "weight_exp": 1}
    alone = p.replace(
        **line, spiking=False, reset_decay=None, bias=None, recurrent_weight=None, recurrent_decay=None, threshold=1
    )
    v = run_integers(alone, x.permute(2, 0, 1).numpy()).v * (p.unit / (1 << p.fraction))
    return torch.from_numpy(v.transpose(1, 2, 0).copy())


def late(spikes: torch.Tensor) -> torch.Tensor:
    """One step later, zeros first."""
    return torch.cat([torch.zeros_like(spikes[..., :1]), spikes[..., :-1]], -1)


# ---- what a hook sees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [None, "synapse", "cluster"])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_hooks_see_the_currents_and_the_spikes(adapter: Any, kind: str, form: str | None) -> None:
    options = {"quantised": False} if form is None else {"form": form}
    b, x = block(adapter, kind, delay_shift=False, **options), spikes_in()
    unheard = b(x)
    seen = listen(b, kind)
    out = b(x)
    assert torch.equal(out, unheard), "a monitor changes no bit"
    assert all(len(calls) == 1 for calls in seen.values()), "every part is called once"
    (total, left), first = seen["neuron"][0], seen[PARTS[kind][0]][0]
    assert first[0] is x and torch.equal(left, out)
    p = b.to_params()

    def right(weight: str, decay: str, x: torch.Tensor) -> torch.Tensor:
        if form is None:
            return readout_says(getattr(p, weight), getattr(p, decay), x)
        return integers_say(b, weight, decay, x)

    tolerance = {"rtol": 1e-12, "atol": 1e-12} if form is None else {"rtol": 0, "atol": 0}
    parts = right("weight", "decay", x)
    torch.testing.assert_close(first[1].detach(), parts, **tolerance, msg="the currents are the synapses'")
    if kind == "Recurrent":
        before, fed_back = seen["recurrent_synapse"][0]
        assert torch.equal(before, late(out)), "the recurrent synapses get the spikes a step late"
        recurrent = right("recurrent_weight", "recurrent_decay", late(out.detach()))
        torch.testing.assert_close(fed_back.detach(), recurrent, **tolerance)
        parts = parts + recurrent
    # in the cluster form the accumulators that both synapses share are rounded once
    bound = {"rtol": 0, "atol": 30 / 4096} if form == "cluster" and kind == "Recurrent" else tolerance
    torch.testing.assert_close(total.detach(), parts, **bound, msg="the neuron gets all currents")


@pytest.mark.parametrize("quantised", [True, False])
def test_what_goes_in_and_comes_out_of_a_neuron_fits(adapter: Any, quantised: bool) -> None:
    """The neuron by itself makes of the currents that it was seen to get the spikes that it was seen to give."""
    for kind in ("Dense", "Recurrent"):
        b = block(adapter, kind, quantised=quantised)
        seen = listen(b, kind)
        b(spikes_in())
        total, spikes = seen["neuron"][0]
        assert torch.equal(b.neuron.spike(b.neuron.dynamics(total.detach())[1]), spikes)
        assert spikes.any() and not spikes.all()


@pytest.mark.parametrize("form", [None, "synapse", "cluster"])
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_a_block_that_keeps_its_state_see_one_long_sequence(adapter: Any, kind: str, form: str | None) -> None:
    options = {"quantised": False} if form is None else {"form": form}
    names = ("neuron",) if form == "cluster" and kind == "Recurrent" else PARTS[kind]
    x, whole = spikes_in(), {}
    for parts in ([x], [x[..., :15], x[..., 15:]]):
        b = block(adapter, kind, neuron={"persistent_state": True}, **options)
        seen = {name: calls for name, calls in listen(b, kind).items() if name in names}
        for name in set(PARTS[kind]) - set(names):
            getattr(b, name)._forward_hooks.clear()
        for part in parts:
            b(part)
        for name, calls in seen.items():
            joined = [torch.cat(pieces, -1).detach() for pieces in zip(*calls, strict=True)]
            for one, other in zip(joined, whole.setdefault(name, joined), strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-12, msg="in two parts as in one")


def test_one_synapse_of_shared_accumulators_has_no_currents_of_its_own(adapter: Any) -> None:
    b = block(adapter, "Recurrent", neuron={"persistent_state": True}, form="cluster")
    b.input_synapse.register_forward_hook(lambda *_: None)
    b(spikes_in())  # starts from zeros: they are its own
    with pytest.raises(ValueError, match=r"persistent_state: expected False.* hook the neuron"):
        b(spikes_in())


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_see_the_layout_of_the_input(adapter: Any, kind: str) -> None:
    b = block(adapter, kind)
    flat, seen = b(spikes_in()), listen(b, kind)
    out = b(spikes_in().reshape(3, 12, 1, 1, 40))
    assert out.shape == (3, 9, 1, 1, 40) and torch.equal(out[:, :, 0, 0], flat)
    for calls in seen.values():
        assert [tuple(t.shape[2:]) for t in calls[0]] == [(1, 1, 40)] * 2


def test_a_loss_on_the_currents_has_its_gradient(adapter: Any) -> None:
    b = block(adapter, "Dense", quantised=False)
    seen = listen(b, "Dense")
    b(spikes_in())
    seen["synapse"][0][1].square().mean().backward()
    heard = b.synapse.decay.grad.clone()
    b.zero_grad()
    b.synapse(spikes_in()).square().mean().backward()
    assert torch.equal(heard, b.synapse.decay.grad) and heard.any()


def test_recurrent_pre_hooks_see_nan_that_becomes_the_spikes(adapter: Any) -> None:
    b, kept, at_once = block(adapter, "Recurrent"), {}, []
    for name in ("recurrent_synapse", "neuron"):

        def note(_: Any, inputs: Any, name: str = name) -> None:
            kept[name] = inputs[0]
            at_once.append(inputs[0].isnan().all().item())

        getattr(b, name).register_forward_pre_hook(note)
    seen = listen(b, "Recurrent")
    b(spikes_in())
    assert at_once == [True, True], "what is not there yet is not a number"
    for name, tensor in kept.items():
        assert torch.equal(tensor, seen[name][0][0]) and not tensor.isnan().any()


# ---- what a hook may change -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_pre_hook_may_replace_the_input(adapter: Any, kind: str) -> None:
    b = block(adapter, kind)
    want = b(1 - spikes_in())
    getattr(b, PARTS[kind][0]).register_forward_pre_hook(lambda _, inputs: 1 - inputs[0])
    seen = listen(b, kind)
    assert torch.equal(b(spikes_in()), want)
    assert torch.equal(seen[PARTS[kind][0]][0][0], 1 - spikes_in())


def test_a_hook_may_replace_what_leaves_a_feed_forward_neuron(adapter: Any) -> None:
    b = block(adapter, "Dense")
    want = 2 * b(spikes_in())
    b.neuron.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert torch.equal(b(spikes_in()), want), "a replaced output takes effect"
    b.neuron.register_forward_hook(lambda module, inputs, output: output[..., :-1])
    with pytest.raises(ValueError, match=r"neuron: .*expected \(3, 9, 40\), got \(3, 9, 39\)"):
        b(spikes_in())


@pytest.mark.parametrize(
    ("kind", "part", "hook"),
    [
        ("Dense", "synapse", "register_forward_hook"),
        ("Affine", "synapse", "register_forward_hook"),
        ("Recurrent", "input_synapse", "register_forward_hook"),
        ("Recurrent", "recurrent_synapse", "register_forward_hook"),
        ("Recurrent", "neuron", "register_forward_hook"),
        ("Recurrent", "recurrent_synapse", "register_forward_pre_hook"),
        ("Recurrent", "neuron", "register_forward_pre_hook"),
        ("Dense", "neuron", "register_forward_pre_hook"),
    ],
)
def test_what_would_be_ignored_is_refused(adapter: Any, kind: str, part: str, hook: str) -> None:
    b = block(adapter, kind)
    getattr(getattr(b, part), hook)(lambda module, inputs, *output: torch.zeros_like([*inputs, *output][-1]))
    with pytest.raises(ValueError, match=rf"^{part}: expected a forward .*hook that returns None, got another"):
        b(spikes_in())


@pytest.mark.parametrize("kind", KINDS)
def test_backward_hooks_are_refused(adapter: Any, kind: str) -> None:
    for part in PARTS[kind]:
        for register in ("register_full_backward_hook", "register_full_backward_pre_hook"):
            b = block(adapter, kind)
            getattr(getattr(b, part), register)(lambda *_: None)
            with pytest.raises(ValueError, match=rf"^{part}: .*got a backward hook"):
                b(spikes_in())


def test_apart_every_hook_has_its_effect(adapter: Any) -> None:
    """The way out that the messages name."""
    b, gradients = block(adapter, "Dense"), []
    b.synapse.register_full_backward_hook(lambda module, inner, outer: gradients.append(outer[0]))
    b.synapse.register_forward_hook(lambda module, inputs, output: 0.5 * output)
    out = b.neuron(b.synapse(spikes_in()))
    out.sum().backward()
    assert gradients[0].any() and out.mean() < b.neuron(2 * b.synapse(spikes_in())).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_hook_leaves_nothing_behind(adapter: Any, kind: str) -> None:
    b = block(adapter, kind)
    called: list[str] = []
    handle = b.neuron.register_forward_hook(lambda *_: called.append("neuron"))
    b(spikes_in())
    handle.remove()
    copy.deepcopy(b)(spikes_in())
    assert called == ["neuron"]


# ---- torch's tools that live in hooks ---------------------------------------------------------------------------


def pruned(synapse: Any) -> Any:
    return prune.l1_unstructured(synapse, "weight", 0.5)


TOOLS: dict[str, Callable[[Any], Any]] = {
    "prune": pruned,
    "old weight_norm": weight_norm,
    "new weight_norm": parametrizations.weight_norm,
    "old spectral_norm": spectral_norm,
    "new spectral_norm": parametrizations.spectral_norm,
}


def weights_used(b: Any, kind: str) -> list[torch.Tensor]:
    names = ("weight", "recurrent_weight") if kind == "Recurrent" else ("weight",)
    fields = b.fields()
    return [fields[name].detach().clone() for name in names]


@pytest.mark.filterwarnings(
    "ignore:.*weight_norm is deprecated:UserWarning", "ignore:.*weight_norm is deprecated:FutureWarning"
)
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("kind", KINDS)
def test_tools_train_what_the_block_uses(adapter: Any, kind: str, tool: str) -> None:
    """After every step of the optimiser the block computes with what the tool makes of the new parameters."""
    b = block(adapter, kind, quantised=False)
    for name in b.synapses:
        TOOLS[tool](getattr(b, name))
    optimiser = torch.optim.SGD(b.parameters(), 0.05)
    before, seen = weights_used(b, kind), []
    for _ in range(3):
        optimiser.zero_grad()
        out = b(spikes_in())
        seen.append(out.detach())
        (out.mean() - 1).pow(2).backward()
        assert all(getattr(b, name).grad_norm > 0 for name in b.synapses)
        optimiser.step()
    b.eval()  # spectral_norm's vectors move no more
    exported = b.to_params()
    out = b(spikes_in()).detach()
    used = weights_used(b, kind)
    assert all((w != was).any() for w, was in zip(used, before, strict=True)), "the weights move"
    spikes, v, _ = reference.run(b.to_params(), spikes_in().permute(2, 0, 1).numpy())
    right = late(torch.from_numpy((v if spikes is None else spikes).transpose(1, 2, 0).copy()))
    torch.testing.assert_close(out.to(right), right, rtol=1e-9, atol=1e-9, msg="the block is the reference")
    assert np.array_equal(exported.weight, used[0].numpy()), "what is exported is what the next call uses"
    if tool == "prune":
        for name, w in zip(b.synapses, used, strict=True):
            synapse = getattr(b, name)
            assert (
                torch.equal(w, (synapse.weight_orig * synapse.weight_mask).flatten(1))
                and (w == 0).sum() >= w.numel() // 2
            )


def test_pruning_ends_as_slayers_own(adapter: Any) -> None:
    b = block(adapter, "Dense")
    pruned(b.synapse)
    out = b(spikes_in())
    prune.remove(b.synapse, "weight")
    assert torch.equal(b(spikes_in()), out) and isinstance(b.synapse.weight, torch.nn.Parameter)


def test_a_neurons_bias_can_be_pruned(adapter: Any) -> None:
    for kind in KINDS:
        b = block(adapter, kind, quantised=False)
        prune.random_unstructured(b.neuron, "bias", 5)
        b(spikes_in()).sum().backward()
        assert (b.neuron.bias_orig.grad != 0).sum() <= 4 and (b.to_params().bias == 0).sum() >= 5


def test_weights_that_a_hook_makes_are_not_set_in_silence(adapter: Any) -> None:
    b = block(adapter, "Dense")
    parametrizations.weight_norm(b.synapse, "weight")
    b.synapse.set_weight(np.full((9, 12), 0.5))
    np.testing.assert_allclose(b.to_params(hook=False).weight, 0.5, rtol=1e-12)
    b = block(adapter, "Dense")
    pruned(b.synapse)
    with pytest.raises(ValueError, match="set_weight: expected weights of the synapse's own"):
        b.synapse.set_weight(np.full((9, 12), 0.5))


def test_slayers_own_monitor_pattern(adapter: Any) -> None:
    """The same monitor on CUBA's and on ours: as many calls, the same shapes."""
    shapes: dict[str, list[Any]] = {}
    for name in ("cuba", "hetsyn"):
        torch.manual_seed(0)
        if name == "cuba":
            b = slayer.block.cuba.Dense({"threshold": 1.0, "current_decay": 0.5, "voltage_decay": 0.1}, 12, 9)
        else:
            b = adapter.Dense({"threshold": 1.0}, 12, 9)
        for part in (b.synapse, b.neuron):
            part.register_forward_pre_hook(lambda _, i, name=name: shapes.setdefault(name, []).append(i[0].shape))
            part.register_forward_hook(lambda _, i, o, name=name: shapes[name].append(o.shape))
        b(spikes_in().float())
    assert shapes["cuba"] == shapes["hetsyn"]


# ---- planted bugs -----------------------------------------------------------------------------------------------

MODULES = [f"hetsyn_plugins.adapters.lava_dl.slayer.{name}" for name in ("hooks", "block")]  # in the order of imports
BUGS: list[tuple[str, str, Callable[[Any], None], str]] = [
    (
        "self.sources[1]._forward_hooks:\n            return self._currents(RECURRENT)",
        "self.sources[1]._forward_hooks:\n            return late",
        lambda a: test_forward_hooks_see_the_currents_and_the_spikes(a, "Recurrent", None),
        "Tensor-likes are not close",
    ),
    (
        "torch.cat([before, z[:-1]])",
        "z",
        lambda a: test_forward_hooks_see_the_currents_and_the_spikes(a, "Recurrent", None),
        "the recurrent synapses get the spikes a step late",
    ),
    (
        'self.total.copy_(self._currents("", RECURRENT)',
        'self.total.copy_(self._currents("")',
        lambda a: test_forward_hooks_see_the_currents_and_the_spikes(a, "Recurrent", "synapse"),
        "the neuron gets all currents",
    ),
    (
        "if self.kept is None:\n            return None",
        "if self.kept is not self:\n            return None",
        lambda a: test_hooks_of_a_block_that_keeps_its_state_see_one_long_sequence(a, "Dense", "synapse"),
        "in two parts as in one",
    ),
    (
        "hook(part, ())",
        "pass",
        lambda a: test_tools_train_what_the_block_uses(a, "Dense", "prune"),
        "what is exported is what the next call uses",
    ),
    (
        "torch.nan, dtype",
        "0.0, dtype",
        test_recurrent_pre_hooks_see_nan_that_becomes_the_spikes,
        "what is not there yet is not a number",
    ),
]


@pytest.mark.parametrize(("old", "new", "check", "says"), BUGS, ids=[says for *_, says in BUGS])
def test_planted_bugs_are_caught(old: str, new: str, check: Callable[[Any], None], says: str) -> None:
    fresh = changed(MODULES[0], old, new, around=MODULES)
    blocks = SimpleNamespace(**{kind: getattr(fresh[MODULES[1]], kind) for kind in KINDS})
    with in_place(fresh), caught(says):
        check(blocks)
