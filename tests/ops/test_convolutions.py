"""HetSynConv1d and HetSynConv2d in both hosts: the dense layer whose matrix torch's own convolution unrolls."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
import weakref
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
import planting
import pytest
import torch
from torch import Tensor, nn

import hetsyn_plugins
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.ops import convolution, convolving, operators, steps

snn = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")
ours = pytest.importorskip("hetsyn_plugins.adapters.snntorch")
norses = pytest.importorskip("hetsyn_plugins.adapters.norse")

T, B = 11, 3
STEPPED = ("2d stride", "2d groups", "1d", "2d delays", "1d delays, groups")
HOSTS = ("snntorch", "norse")


class Shape(NamedTuple):
    """A convolution, and the size of its images."""

    size: tuple[int, ...]
    channels: tuple[int, int]
    kernel: Any
    options: dict[str, Any] = {}  # noqa: RUF012  read only
    max_delay: int | None = None
    masked: bool = False

    @property
    def weight(self) -> tuple[int, ...]:
        kernel = self.kernel if isinstance(self.kernel, tuple) else (self.kernel,) * len(self.size)
        return (self.channels[1], self.channels[0] // self.options.get("groups", 1), *kernel)

    @property
    def images(self) -> tuple[int, ...]:
        return (self.channels[0], *self.size)

    def plain(self, x: Tensor, kernels: Tensor) -> Tensor:
        """torch's own convolution of (B, C, *size)."""
        conv: Any = nn.functional.conv2d if len(self.size) == 2 else nn.functional.conv1d
        return conv(x, kernels, **self.options)


SHAPES = {
    "2d": Shape((6, 5), (2, 3), 3),
    "2d stride": Shape((7, 6), (2, 3), (3, 2), {"stride": (2, 1)}),
    "2d padding": Shape((4, 4), (1, 4), 3, {"padding": (2, 1)}),
    "2d dilation": Shape((7, 8), (2, 2), 3, {"dilation": (2, 3), "padding": 1}),
    "2d groups": Shape((5, 4), (4, 6), 3, {"groups": 2, "padding": 1, "stride": 2}),
    "2d depthwise": Shape((4, 4), (3, 3), 2, {"groups": 3}),
    "2d one position": Shape((3, 2), (2, 3), (3, 2)),
    "1d": Shape((9,), (3, 4), 4, {"stride": 2, "padding": 1}),
    "1d groups": Shape((8,), (4, 2), 3, {"groups": 2, "dilation": 2}),
    "2d delays": Shape((5, 6), (2, 3), 3, {"padding": 1, "stride": 2}, max_delay=3),
    "1d delays, groups": Shape((7,), (4, 4), 3, {"groups": 2}, max_delay=4),
    "2d masks": Shape((5, 6), (4, 6), 3, {"groups": 2, "padding": 1, "stride": 2}, masked=True),
    "1d masks, delays": Shape((8,), (3, 4), 4, {"dilation": 2, "padding": 1}, max_delay=3, masked=True),
}


def drawn(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    """Fields of a layer that spikes, float64, those of synapses in the kernel's shape."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)

    n, fan_in = shape.channels[1], prod(shape.weight[1:])
    delay = {} if shape.max_delay is None else {"delay": uniform(0.0, shape.max_delay, *shape.weight)}
    fields = delay | {
        "weight": torch.randn(shape.weight, generator=generator, dtype=torch.float64) * (2 / fan_in**0.5) + 0.1,
        "decay": uniform(0.3, 0.98, *shape.weight),
        "reset_decay": uniform(0.5, 0.95, n),
        "threshold": uniform(0.6, 1.4, n),
        "bias": uniform(-0.1, 0.1, n),
        "adaptation_decay": uniform(0.5, 0.95, n),
        "adaptation_strength": uniform(0.0, 0.3, n),
    }
    return fields | ({"mask": uniform(0, 1, *shape.weight) < 0.6} if shape.masked else {})


def spikes_in(shape: Shape, steps: int = T, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, B, *shape.images, generator=generator) < 0.4).double()


def layer_of(host: str, shape: Shape, form: str = "sequence", mask: Any = None, **options: Any) -> Any:
    """A layer of this host with the drawn fields, or another mask; form "step" is Norse's cell."""
    fields: dict[str, Any] = drawn(shape) | ({} if mask is None else {"mask": mask})
    axes, (n_in, n_out) = len(shape.size), shape.channels
    if host == "snntorch":
        cls = ours.HetSynConv2d if axes == 2 else ours.HetSynConv1d
        names = {**ours.FIELD_NAMES}
        values = {names[field]: value for field, value in fields.items()}
        options |= {"learn_beta": True, "learn_threshold": True, "max_delay": shape.max_delay}
        return cls(n_in, n_out, shape.kernel, **shape.options, **values, **options)
    dt = 1e-3
    p = norse_p(fields, dt, shape.max_delay)
    cell = "Cell" if form == "step" else ""
    cls = getattr(norses, f"HetSynConv{axes}d{cell}")
    return cls(n_in, n_out, shape.kernel, **shape.options, p=p, dt=dt, input_weights=fields["weight"], **options)


def norse_p(fields: dict[str, Any], dt: float, max_delay: int | None) -> Any:
    inverse = {name: -fields[f"{name}_decay" if name else "decay"].log() / dt for name in ("", "reset", "adaptation")}
    return norses.HetSynLIFParameters(
        tau_syn_inv=inverse[""],
        tau_reset_inv=inverse["reset"],
        tau_adapt_inv=inverse["adaptation"],
        adapt_strength=fields["adaptation_strength"],
        bias=fields["bias"],
        v_th=fields["threshold"],
        dtype=torch.float64,
        learn_reset=True,
        learn_threshold=True,
        learn_adaptation=True,
        delay=fields.get("delay"),
        max_delay=max_delay,
        mask=fields.get("mask"),
    )


def run(host: str, layer: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Tensor, Any]:
    """Spikes and v of every step of a sequence, and what is handed on."""
    if host == "snntorch":
        spk, *states, mem = layer(x, *(state or ()))
        return spk, mem, (*states, mem[-1])
    layer.record_states = True
    z, recorded = layer(x, state)
    last = {name: getattr(recorded, name)[-1] for name in recorded._fields if name not in ("i", "past_input")}
    return z, recorded.v, recorded._replace(**last)


def in_steps(host: str, layer: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Tensor, Any]:
    """The same, a call a step."""
    spikes, v = [], []
    for x_t in x:
        if host == "snntorch":
            z, *state = layer(x_t, *(state or ()))
            v.append(state[-1])
        else:
            z, state = layer(x_t, state)
            v.append(state.v)
        spikes.append(z)
    return torch.stack(spikes), torch.stack(v), state


def unrolled(shape: Shape, kernels: Tensor) -> Tensor:
    """The matrix (N P, C H W) of a convolution, by torch's own of every image with one pixel; differentiable."""
    lines = prod(shape.images)
    columns = shape.plain(torch.eye(lines, dtype=kernels.dtype).reshape(lines, *shape.images), kernels)
    return columns.flatten(1).T


def dense(shape: Shape, fields: dict[str, Tensor]) -> tuple[HetSynParams, dict[str, Tensor]]:
    """The unrolled layer as parameters for the reference, and as tensors that lead back to the fields."""
    matrices = {name: unrolled(shape, fields[name]) for name in ("weight", "decay", "delay") if name in fields}
    positions = len(matrices["weight"]) // shape.channels[1]
    somata = {name: t.repeat_interleave(positions) for name, t in fields.items() if name not in (*matrices, "mask")}
    tensors = {**matrices, **somata}
    arrays = {name: t.detach().numpy() for name, t in tensors.items()}
    mask = unrolled(shape, fields["mask"].double()).numpy() if shape.masked else None
    return HetSynParams(**arrays, max_delay=shape.max_delay, mask=mask), tensors


# ---- equal to the dense layer


def leaf(t: Tensor) -> Tensor:
    """To be asked for a gradient, if it can have one."""
    return t.requires_grad_(t.is_floating_point())


def check_equal(
    host: str, shape: Shape, run_it: Callable[..., Any] = run, form: str = "sequence", **options: Any
) -> None:
    """Spikes exactly, v, last states and gradients of inputs and fields as the reference has them, in float64."""
    layer, x = layer_of(host, shape, form, **options), spikes_in(shape).requires_grad_()
    spikes, v, _ = run_it(host, layer, x)
    params, tensors = dense(shape, fields := {name: leaf(t) for name, t in drawn(shape).items()})
    flat = x.detach().flatten(2).numpy()
    want_spikes, want_v, _ = reference.run(params, flat)
    assert 0.02 < want_spikes.mean() < 0.9
    assert spikes.shape[2:] == shape.plain(x[0], fields["weight"]).shape[1:], "images differ"
    assert np.array_equal(spikes.detach().flatten(2).numpy(), want_spikes), "spikes differ"
    np.testing.assert_allclose(v.detach().flatten(2).numpy(), want_v, rtol=0, atol=1e-11, err_msg="v")

    weights = torch.randn(spikes.shape, dtype=torch.float64)
    of_v = torch.randn(v.shape, dtype=torch.float64)
    ((spikes * weights).sum() + (v * of_v).sum()).backward()
    g = reference.gradients(
        params, flat, grad_spikes=weights.flatten(2).numpy(), grad_v=of_v.flatten(2).numpy(), detach_reset=False
    )
    leaves = [fields[name] for name in tensors]
    wanted = dict(zip(tensors, torch.autograd.grad(
        [tensors[name] for name in tensors], leaves, [torch.tensor(g.params[name]) for name in tensors]
    ), strict=True))  # fmt: skip
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(x.grad.flatten(2), torch.tensor(g.inputs), **close, msg="inputs")
    for name, want in wanted.items():
        stored = layer.stored(name)
        if stored.requires_grad:
            torch.testing.assert_close(stored.grad, want, **close, msg=name)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("host", HOSTS)
def test_a_sequence_is_that_of_the_dense_layer(host: str, shape: Shape) -> None:
    check_equal(host, shape)


@pytest.mark.parametrize("shape", [SHAPES[name] for name in STEPPED], ids=STEPPED)
@pytest.mark.parametrize("host", HOSTS)
def test_steps_are_those_of_the_dense_layer(host: str, shape: Shape) -> None:
    check_equal(host, shape, in_steps, "step")


def test_the_eager_backend_has_the_same() -> None:
    check_equal("snntorch", SHAPES["2d groups"], backend="eager")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_to_dense_gives_the_unrolled_matrix(shape: Shape) -> None:
    params, _ = dense(shape, drawn(shape))
    for host in HOSTS:
        made = layer_of(host, shape).to_dense(shape.size if len(shape.size) == 2 else shape.size[0])
        for name in ("weight", "decay", "threshold", "bias", "reset_decay", "adaptation_strength"):
            np.testing.assert_allclose(getattr(made, name), getattr(params, name), rtol=1e-13, atol=0, err_msg=name)
        if shape.max_delay is not None:
            np.testing.assert_allclose(made.delay, params.delay, rtol=1e-13, atol=0)
            assert made.max_delay == shape.max_delay
        there = drawn(shape).get("mask", torch.ones(shape.weight)).double()  # what lies outside is no synapse either
        np.testing.assert_array_equal(made.mask, unrolled(shape, there).numpy() != 0)


@pytest.mark.parametrize("host", HOSTS)
def test_the_dense_layer_of_the_host_is_equal(host: str) -> None:
    shape = SHAPES["2d groups"]
    layer, x = layer_of(host, shape), spikes_in(shape)
    cls = ours.HetSynLeaky if host == "snntorch" else norses.HetSynLIF
    spikes, v, _ = run(host, layer, x)
    same, same_v, _ = run(host, cls.from_params(layer.to_dense((5, 4))), x.flatten(2))
    assert torch.equal(spikes.flatten(2), same)
    torch.testing.assert_close(v.flatten(2), same_v, rtol=0, atol=1e-12)


# ---- masks


@pytest.mark.parametrize("host", HOSTS)
def test_a_mask_has_the_kernels_shape_and_may_change(host: str) -> None:
    shape = SHAPES["2d masks"]
    for wrong in (np.ones((6, 18)), np.ones((6, 2, 3, 2), bool)):
        says = rf"mask: expected shape \(6, 2, 3, 3\), got {re.escape(str(wrong.shape))}"
        with pytest.raises(ValueError, match=says):
            layer_of(host, shape, mask=wrong)
    layer, x = layer_of(host, shape), spikes_in(shape)
    masked, _, _ = run(host, layer, x)
    holder = layer if host == "snntorch" else layer.p
    there = drawn(shape)["mask"]
    holder.mask = None
    whole, _, _ = run(host, layer, x)
    holder.mask = there.float()
    again, _, _ = run(host, layer, x)
    assert torch.equal(again, masked) and not torch.equal(whole, masked)
    assert "mask=" in repr(layer) and layer.stored("mask").shape == shape.weight


@pytest.mark.parametrize("host", HOSTS)
def test_kernels_are_pruned(host: str) -> None:
    layer = layer_of(host, SHAPES["2d groups"])
    weight = layer.stored("weight").detach().abs()
    assert hetsyn_plugins.prune_(layer, 0.25) == weight.numel() // 4
    mask, x = layer.stored("mask"), spikes_in(SHAPES["2d groups"])
    assert mask.shape == weight.shape and weight[mask].min() > weight[~mask].max()
    again = layer_of(host, SHAPES["2d groups"], mask=torch.ones(weight.shape))
    again.load_state_dict(layer.state_dict())
    assert torch.equal(run(host, again, x)[0], run(host, layer, x)[0])


# ---- states


def check_pieces(host: str, shape: Shape) -> None:
    """Chunked = whole, with gradients through the states."""
    x = spikes_in(shape)
    results = []
    for cuts in ((T,), (4, 1, T - 5)):
        layer, state, outs, vs = layer_of(host, shape), None, [], []
        for piece in x.split(cuts):
            z, v, state = run(host, layer, piece, state)
            outs.append(z)
            vs.append(v)
        spikes, v = torch.cat(outs), torch.cat(vs)
        (spikes * torch.linspace(-1, 1, spikes.numel()).reshape(spikes.shape)).sum().backward()
        results.append((spikes.detach(), v.detach(), {n: p.grad for n, p in layer.named_parameters()}))
    (spikes, v, gradients), (pieces, v_pieces, of_pieces) = results
    assert spikes.any() and torch.equal(spikes, pieces), "pieces differ"
    torch.testing.assert_close(v, v_pieces, rtol=0, atol=1e-12)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_pieces[parameter], rtol=1e-9, atol=1e-9, msg=parameter)


@pytest.mark.parametrize("name", ["2d groups", "2d padding", "1d", "2d delays", "1d delays, groups"])
@pytest.mark.parametrize("host", HOSTS)
def test_pieces_are_the_whole_with_gradients_through_the_state(host: str, name: str) -> None:
    check_pieces(host, SHAPES[name])


@pytest.mark.parametrize("name", ["2d stride", "2d groups"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_loop_of_steps_is_one_loop_that_keeps_no_currents(
    host: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, made = SHAPES[name], []
    plain = steps.Loop.__init__

    def counted(loop: Any, *arguments: Any) -> None:
        made.append(loop)
        plain(loop, *arguments)

    monkeypatch.setattr(steps.Loop, "__init__", counted)
    spikes, _, _ = in_steps(host, layer_of(host, shape, "step"), spikes_in(shape))
    assert len(made) == shape.options.get("groups", 1) and all(loop.length == T for loop in made)
    assert spikes.requires_grad


@pytest.mark.parametrize("host", HOSTS)
def test_a_state_that_was_written_to_or_watched_starts_a_new_loop_with_its_values(host: str) -> None:
    shape = SHAPES["2d groups"]
    x = spikes_in(shape, 3)
    for spoil in (lambda v: v.detach().mul_(0), lambda v: v.register_hook(lambda g: None), lambda v: v.retain_grad()):
        layer = layer_of(host, shape, "step")
        _, _, state = in_steps(host, layer, x[:2])
        currents = state[0] if host == "snntorch" else state.i
        spoil(currents)
        out, v, _ = in_steps(host, layer, x[2:], state)
        again = layer_of(host, shape, "step")
        as_values = tuple(s.detach().clone() for s in state)
        as_values = as_values if host == "snntorch" else type(state)(*as_values)
        want, want_v, _ = in_steps(host, again, x[2:], as_values)
        assert torch.equal(out, want)
        torch.testing.assert_close(v, want_v, rtol=0, atol=1e-13)


@pytest.mark.parametrize("host", HOSTS)
def test_large_patches_are_made_anew_for_the_backward_pass_and_not_kept(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, made = SHAPES["2d groups"], []
    plain = convolution.Patching.patches

    def seen(self: Any, x: Tensor) -> Tensor:
        patches = plain(self, x)
        made.append(weakref.ref(patches.untyped_storage()))
        return patches

    monkeypatch.setattr(convolution.Patching, "patches", seen)
    spikes, _, _ = run(host, layer_of(host, shape, "sequence"), spikes_in(shape))
    count = len(made)
    spikes.sum().backward()
    assert len(made) == (count if host == "snntorch" else 2 * count), "small ones of sequences are kept; of steps none"
    monkeypatch.setattr(convolving, "LARGE", 0)
    for form, run_it in (("sequence", run), ("step", in_steps)):
        made.clear()
        x = spikes_in(shape)
        spikes, _, _ = run_it(host, layer_of(host, shape, form), x)
        count = len(made)
        assert count > 0 and not any(storage() for storage in made)
        spikes.sum().backward(retain_graph=True)
        assert len(made) == 2 * count
        x.mul_(0)
        with pytest.raises(RuntimeError, match="were modified by an inplace operation before its backward"):
            spikes.sum().backward()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("form", ["sequence", "step"])
def test_what_is_dropped_before_its_backward_goes(host: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that keeps an output of its own as it is would stay for ever, with all steps before."""
    monkeypatch.setattr(convolving, "LARGE", 0)  # patches of sequences are made anew too
    shape, counts = SHAPES["2d groups"], []
    gc.freeze()  # what the tests before left need not be looked at again and again
    try:
        for _ in range(4):
            (run if form == "sequence" else in_steps)(host, layer_of(host, shape, form), spikes_in(shape))
            gc.collect()
            counts.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
    finally:
        gc.unfreeze()
    assert counts[1] == counts[2] == counts[3]


@pytest.mark.card
def test_a_current_that_is_watched_gets_its_whole_gradient() -> None:
    """v[t] has r I[t-1] in it, and a spike of t none of it."""
    shape = SHAPES["2d groups"]
    layer, x = layer_of("snntorch", shape), spikes_in(shape, 3)
    _, _, state = in_steps("snntorch", layer, x[:2])
    state[0].retain_grad()
    layer(x[2], *state)[-1].sum().backward()
    want = layer.alpha.detach()[None, ..., None, None].expand(state[0].shape)
    torch.testing.assert_close(state[0].grad, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["2d", "2d groups"])
def test_a_time_constant_that_changes_between_two_steps_is_used_at_the_next(name: str) -> None:
    shape = SHAPES[name]
    (n_in, n_out), options = shape.channels, {**shape.options, "parametrization": "tau", "dt": 1e-3}
    weight, x = torch.rand(shape.weight), spikes_in(shape, 3).float()
    layer, other = (ours.HetSynConv2d(n_in, n_out, shape.kernel, weight=weight, **options) for _ in range(2))
    _, *state = layer(x[0])
    for one in (layer, other):
        one.alpha_tau.detach().mul_(3.0)
    changed, fresh = layer(x[1], *state), other(x[1], *(s.detach() for s in state))
    for got, want in zip(changed, fresh, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_hidden_states_are_images_and_start_anew_for_another_batch_or_size() -> None:
    conv = ours.HetSynConv2d(2, 3, 3, init_hidden=True, alpha=1.0, weight=torch.ones(3, 2, 3, 3), threshold=100.0)
    conv(torch.ones(4, 2, 6, 5))
    conv(torch.ones(4, 2, 6, 5))
    assert conv.mem.shape == (4, 3, 4, 3) and conv.syn.shape == (4, 3, 2, 3, 3, 4, 3) and (conv.mem == 36).all()
    conv(torch.ones(4, 2, 5, 5))
    assert conv.mem.shape == (4, 3, 3, 3) and (conv.mem == 18).all()
    conv(torch.ones(2, 2, 5, 5))
    assert (conv.mem == 18).all()
    snn.utils.reset(nn.Sequential(conv))
    assert conv.mem.shape == (2, 3, 3, 3) and not conv.mem.any() and not conv.syn.any()
    conv.mem.add_(1)  # of its own memory


def test_a_past_of_images_of_another_size_is_not_gone_on_with() -> None:
    """7 and 8 pixels have as many positions with stride 2, so mem looks alike."""
    conv = ours.HetSynConv1d(1, 2, 3, stride=2, delay=2.0, alpha=0.0, weight=torch.ones(2, 1, 3), init_hidden=True)
    conv(torch.ones(3, 4, 1, 7))
    assert conv.past.shape == (2, 4, 1, 7)
    conv(torch.ones(4, 1, 8))
    assert conv.past.shape == (2, 4, 1, 8) and not conv.mem.any()


def test_lengths_and_batch_first_are_those_of_dense_layers() -> None:
    shape = SHAPES["2d groups"]
    x, lengths = spikes_in(shape), [T, 4, 7]
    for host in HOSTS:
        layer = layer_of(host, shape, batch_first=True)
        whole = layer(x.transpose(0, 1))[0]
        padded = layer(x.transpose(0, 1), lengths=lengths)[0]
        assert whole.shape[:2] == (B, T) and torch.equal(whole.transpose(0, 1), layer_of(host, shape)(x)[0])
        for row, length in enumerate(lengths):
            assert torch.equal(padded[row, :length], whole[row, :length]) and not padded[row, length:].any()
        wrong = x.transpose(0, 1)[:, 0] if host == "snntorch" else x[:, :, 0]
        with pytest.raises(ValueError, match=r"lengths: expected with a sequence only|input_tensor: expected shape"):
            layer(wrong, lengths=lengths)


# ---- the special case of stock neurons


def test_with_one_decay_it_is_conv2d_and_a_leaky() -> None:
    """Of snnTorch: mem = beta mem + conv(x) - reset theta, the reset without gradient."""
    torch.manual_seed(3)
    stock = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False).double()
    leaky = snn.Leaky(0.875, threshold=0.25, spike_grad=snn.surrogate.fast_sigmoid()).double()
    conv = ours.HetSynConv2d(
        *(2, 4, 3, 2, 1),
        alpha=0.875,
        beta=0.875,
        threshold=0.25,
        weight=stock.weight.detach().clone(),
        spike_grad=snn.surrogate.fast_sigmoid(),
        detach_reset=True,
        share="layer",
    )
    x = spikes_in(Shape((7, 6), (2, 4), 3))
    mem, spikes = leaky.reset_mem(), []
    for x_t in x:
        spk, mem = leaky(stock(x_t), mem)
        spikes.append(spk)
    theirs, mine = torch.stack(spikes).double(), conv(x)[0]
    assert theirs.mean() > 0.05 and torch.equal(mine, theirs)
    loss = torch.randn(theirs.shape, dtype=torch.float64)
    (theirs * loss).sum().backward()
    (mine * loss).sum().backward()
    torch.testing.assert_close(conv.weight.grad, stock.weight.grad, rtol=1e-5, atol=1e-5)  # theirs are float32 inside


def test_with_one_decay_norses_is_conv2d_and_its_euler_step() -> None:
    """Of Norse: v += dt tau_inv i, a LIFBox without reset, which is a leaky integrator of conv(x) times dt tau_inv."""
    torch.manual_seed(3)
    stock, rate = nn.Conv2d(2, 4, 3, bias=False).double(), 0.125
    box = norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(rate * 1e3), v_th=torch.tensor(1e6)))
    p = norses.HetSynLIFParameters(-np.log(1 - rate) * 1e3, tau_reset_inv=None, v_th=1e6, dtype=torch.float64)
    layer = norses.HetSynConv2d(2, 4, 3, p=p, input_weights=stock.weight.detach() * rate).eval()
    x, state = spikes_in(Shape((5, 6), (2, 4), 3)), None
    for x_t in x:
        _, state = box(stock(x_t), state)
    torch.testing.assert_close(layer(x)[1].v, state.v, rtol=1e-12, atol=1e-12)


# ---- in containers


def net_of(host: str, form: str = "sequence") -> Any:
    """Two convolutions with pooling and Flatten between, and a readout; images (1, 12, 12)."""
    first, second = torch.rand(3, 1, 3, 3), torch.rand(4, 3, 2, 2)
    if host == "snntorch":
        hidden = {"init_hidden": True}
        return nn.Sequential(
            ours.HetSynConv2d(1, 3, 3, weight=first, **hidden),
            nn.AvgPool2d(2),
            nn.Sequential(ours.HetSynConv2d(3, 4, 2, weight=second, **hidden), nn.MaxPool2d(2)),
            nn.Flatten(),
            ours.HetSynLeaky(16, 5, spiking=False, **hidden),
        )
    cell = "Cell" if form == "step" else ""
    conv, readout = getattr(norses, f"HetSynConv2d{cell}"), getattr(norses, f"HetSynLI{cell}")
    return norse.SequentialState(
        conv(1, 3, 3, input_weights=first),
        nn.AvgPool2d(2),
        conv(3, 4, 2, input_weights=second),
        nn.MaxPool2d(2),
        nn.Flatten(),
        readout(16, 5),
    )


@pytest.mark.card
@pytest.mark.parametrize("host", HOSTS)
def test_pooling_and_flatten_take_sequences_and_steps(host: str) -> None:
    net = net_of(host)
    x = (torch.rand(6, 2, 1, 12, 12) < 0.4).float()
    whole = net(x) if host == "snntorch" else net(x)[0]
    assert whole.shape == (6, 2, 5) and whole.abs().max() > 0.1
    steps = []
    if host == "snntorch":
        snn.utils.reset(net)
        steps = [net(x_t) for x_t in x]
    else:
        cells, state = net_of(host, "step"), None
        cells.load_state_dict(net.state_dict())
        for x_t in x:
            v, state = cells(x_t, state)
            steps.append(v)
    torch.testing.assert_close(torch.stack(steps), whole, rtol=0, atol=1e-5)


@pytest.mark.card
def test_one_sample_is_no_step_of_a_batch() -> None:
    """Of (T, 1, C, H, W) Flatten alone would make (T, C H W), which looks like one step."""
    net = net_of("snntorch")
    assert net(torch.rand(6, 1, 1, 12, 12)).shape == (6, 1, 5)
    assert net(torch.rand(1, 1, 12, 12)).shape == (1, 5)


@pytest.mark.parametrize("pool", [nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(3), nn.LPPool1d(2, 2)])
def test_one_axis_is_pooled_too(pool: nn.Module) -> None:
    net = nn.Sequential(ours.HetSynConv1d(2, 3, 3, init_hidden=True), pool, nn.Flatten(), nn.Linear(9, 4))
    assert net(torch.rand(5, 2, 2, 8)).shape == (5, 2, 4) and net(torch.rand(7, 2, 8)).shape == (7, 4)


def test_pooling_in_front_replaced_copied_and_pickled_is_pooling_all_the_same() -> None:
    net = nn.Sequential(nn.MaxPool2d(2), nn.Identity(), nn.Flatten(), ours.HetSynLeaky(8, 3, init_hidden=True))
    x = torch.rand(6, 2, 2, 4, 4)
    net[1] = nn.AvgPool2d(1)
    for made in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert made(x).shape == (6, 2, 3)


def test_what_does_not_stand_beside_our_layers_and_a_flatten_for_sequences_stay_as_they_are() -> None:
    pool = nn.AvgPool2d(2)
    nn.Sequential(pool, nn.Flatten())
    with pytest.raises(RuntimeError, match=r"[Ee]xpected"):
        pool(torch.rand(2, 2, 1, 4, 4))
    net = nn.Sequential(ours.HetSynConv2d(1, 2, 3, init_hidden=True), nn.Flatten(2), nn.Linear(8, 3))
    assert net(torch.rand(5, 2, 1, 4, 4)).shape == (5, 2, 3)
    assert nn.Sequential(nn.Flatten(), ours.HetSynLeaky(3, 2))[0](torch.rand(2, 3, 4)).shape == (2, 12)


@pytest.mark.skipif(not operators.AVAILABLE, reason="operators need torch 2.4")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf", "ignore:Guards may run slower on Python 3.13.0"
)
@pytest.mark.parametrize("build", [lambda: net_of("snntorch"), lambda: layer_of("norse", SHAPES["2d delays"])])
def test_a_graph_holds_convolutions_and_pooling(build: Callable[[], Any]) -> None:
    torch._dynamo.reset()
    net, gradients = build(), []
    shape = (5, 2, 1, 12, 12) if isinstance(net, nn.Sequential) else (5, 2, 2, 5, 6)
    x = (torch.rand(shape) < 0.5).to(next(net.parameters()).dtype)
    for call in (copy.deepcopy(net), copy.deepcopy(net)):
        made = call if not gradients else torch.compile(call, backend="aot_eager", fullgraph=True)
        out = made(x) if isinstance(net, nn.Sequential) else made(x)[0]
        (out * torch.linspace(0, 1, out.numel()).reshape(out.shape)).sum().backward()
        gradients.append([out.detach(), *(p.grad for p in call.parameters())])
    torch._dynamo.reset()
    assert gradients[0][0].any()
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)


# ---- what users do with layers


@pytest.mark.parametrize("host", HOSTS)
def test_clamp_and_state_dict(host: str) -> None:
    shape = SHAPES["2d groups"]
    layer = layer_of(host, shape)
    decay = layer.stored("decay")
    assert decay.shape == shape.weight == layer.stored("weight").shape
    with torch.no_grad():
        decay.add_(1.0)
        decay[0, 0, 0, 0] = -0.5
    hetsyn_plugins.clamp_(nn.Sequential(layer))
    assert decay.min() == 0 and decay.max() == 1
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    other = layer_of(host, shape)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    x = spikes_in(shape)
    assert torch.equal(run(host, layer, x)[0], run(host, other, x)[0])


@pytest.mark.parametrize(("share", "size"), [("neuron", (6,)), ("layer", ())])
def test_decays_are_shared_by_a_channel_or_all(share: str, size: tuple[int, ...]) -> None:
    conv = ours.HetSynConv2d(4, 6, 3, groups=2, alpha=0.8, share=share, parametrization="tau", dt=1e-3, tie_reset=True)
    assert conv.alpha_tau.shape == size
    conv(spikes_in(SHAPES["2d groups"]).float())[0].sum().backward()
    assert conv.alpha_tau.grad.shape == size
    layer = norses.HetSynConv2d(4, 6, 3, share=share, parametrization="log_tau")
    assert layer.p.syn_decay_log_tau.shape == size


def test_initialisers_draw_for_a_patch() -> None:
    conv = ours.HetSynConv2d(4, 6, 3, alpha=hetsyn_plugins.NormalTau(20e-3, 5e-3, dt=1e-3), input_rate=0.1)
    assert conv.alpha.shape == conv.weight.shape == (6, 4, 3, 3) and conv.alpha.std() > 0
    plain = ours.HetSynConv2d(16, 64, 5)
    assert plain.weight.std().item() == pytest.approx(1 / 20, rel=0.05)  # N(0, 1 / fan_in), of 16 * 25 lines


@pytest.mark.card
def test_graded_spikes_inhibition_and_a_readout() -> None:
    x = torch.rand(4, 2, 1, 5, 5)
    options: dict[str, Any] = {"weight": torch.rand(3, 1, 3, 3), "threshold": 0.2}
    plain = ours.HetSynConv2d(1, 3, 3, **options)(x)[0]
    graded = ours.HetSynConv2d(1, 3, 3, **options, graded_spikes_factor=[1.0, 2.0, 3.0])(x)[0]
    assert torch.equal(graded, plain * torch.tensor([1.0, 2.0, 3.0])[:, None, None])
    with pytest.warns(UserWarning, match="Inhibition"):  # the host's own
        winners = ours.HetSynConv2d(1, 3, 3, **options, inhibition=True)(x)[0]
    assert winners.any() and winners.sum(2).max() == 1  # of the channels at a position
    readout = ours.HetSynConv2d(1, 3, 3, **options, spiking=False, init_hidden=True)
    assert readout(x).shape == (4, 2, 3, 3, 3) and readout.mem.max() > 0.2


def test_names_are_registered_and_shown() -> None:
    hetsyn_plugins.register("snntorch")
    hetsyn_plugins.register("norse")
    try:
        assert snn.HetSynConv2d is ours.HetSynConv2d and norse.HetSynConv1dCell is norses.HetSynConv1dCell
    finally:
        hetsyn_plugins.unregister("snntorch")
        hetsyn_plugins.unregister("norse")
    shown = "HetSynConv2d(4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), groups=2, "
    assert all(repr(layer_of(host, SHAPES["2d groups"])).replace("\n  ", "").startswith(shown) for host in HOSTS)


@pytest.mark.parametrize("host", HOSTS)
def test_half_types_and_an_empty_sequence(host: str) -> None:
    layer = layer_of(host, SHAPES["2d"]).bfloat16()
    assert layer.stored("decay").dtype == torch.float32
    x = spikes_in(SHAPES["2d"])
    spikes, _ = layer(x.bfloat16())[:2]
    assert spikes.dtype == torch.bfloat16 and spikes.any()
    assert layer(x[:0].bfloat16())[0].shape == (0, B, 3, 4, 3)


# ---- what is refused


def built(host: str, *arguments: Any, **options: Any) -> Any:
    return (ours if host == "snntorch" else norses).HetSynConv2d(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((3, 4, 3), {"groups": 2}, "groups: expected a divisor of in_channels, 3, got 2"),
        ((4, 3, 3), {"groups": 2}, "groups: expected a divisor of out_channels, 3, got 2"),
        ((2, 4, (3, 3, 3)), {}, r"kernel_size: expected a whole number, or 2 of them, got \(3, 3, 3\)"),
        ((2, 4, 0), {}, "kernel_size: expected a whole number >= 1, got 0"),
        ((2, 4, 3), {"stride": 0}, "stride: expected a whole number >= 1, got 0"),
        ((2, 4, 3), {"padding": -1}, "padding: expected a whole number >= 0, got -1"),
        ((2, 4, 3), {"padding": "same"}, "padding: expected a whole number >= 0, got 'same'"),
        ((2, 4, 3), {"dilation": 1.5}, "dilation: expected a whole number >= 1, got 1.5"),
        ((0, 4, 3), {}, "in_channels: expected a whole number >= 1, got 0"),
    ],
)
@pytest.mark.parametrize("host", HOSTS)
def test_a_convolution_that_is_none_is_refused(host: str, arguments: Any, options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        built(host, *arguments, **options)


def test_fields_of_another_shape_are_refused() -> None:
    weight, decay = torch.rand(4, 2, 3, 2), torch.rand(4, 18)
    with pytest.raises(ValueError, match=r"^weight: expected shape \(4, 2, 3, 3\), got \(4, 2, 3, 2\)"):
        ours.HetSynConv2d(2, 4, 3, weight=weight)
    with pytest.raises(ValueError, match=r"^alpha: expected shape \(4, 2, 3, 3\) or \(\) or \(4,\), got \(4, 18\)"):
        ours.HetSynConv2d(2, 4, 3, alpha=decay)
    with pytest.raises(ValueError, match=r"^input_weights: expected shape \(4, 2, 3, 3\), got \(4, 2, 3, 2\)"):
        norses.HetSynConv2d(2, 4, 3, input_weights=weight)
    with pytest.raises(ValueError, match=r"^tau_syn_inv: expected shape .* got \(4, 18\)"):
        norses.HetSynConv2d(2, 4, 3, p=norses.HetSynLIFParameters(50 * decay + 10))


INPUTS = {
    "channels": ((5, 2, 3, 6, 6), r"expected shape .*T, B, 2, H, W\), got \(5, 2, 3, 6, 6\)"),
    "rank": ((5, 2, 72), r"expected shape .*T, B, 2, H, W\), got \(5, 2, 72\); an image is \(2, H, W\): x.unflatten"),
    "image": (
        (2, 6, 6),
        r"expected shape .*T, B, 2, H, W\), got \(2, 6, 6\); one image: x(.unsqueeze\(0\)|\[None, None\])",
    ),
    "small": ((5, 2, 2, 6, 2), r"kernel_size: expected at most the padded input, \(6, 2\), got \(3, 3\)"),
}


@pytest.mark.parametrize(("size", "says"), INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("host", HOSTS)
def test_inputs_that_do_not_fit_are_refused(host: str, size: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        built(host, 2, 4, 3)(torch.rand(size))


def test_a_step_where_a_sequence_is_expected_and_the_other_way_round_is_said() -> None:
    with pytest.raises(ValueError, match=r"\(T, B, 2, H, W\), got .*; one step of a sequence: x.unsqueeze\(0\)"):
        norses.HetSynConv2d(2, 4, 3)(torch.rand(5, 2, 6, 6))
    with pytest.raises(ValueError, match=r"\(B, 2, H, W\), got .*; a step is x\[t\]: loop over them"):
        norses.HetSynConv2dCell(2, 4, 3)(torch.rand(3, 5, 2, 6, 6))


def test_a_dilated_kernel_says_what_it_spans() -> None:
    with pytest.raises(ValueError, match=r"padded input, \(6, 6\), got \(3, 3\), \(7, 7\) with dilation \(3, 3\)"):
        ours.HetSynConv2d(2, 4, 3, dilation=3)(torch.rand(1, 2, 6, 6))


@pytest.mark.parametrize("host", HOSTS)
def test_inputs_with_nan_or_of_another_dtype_are_refused(host: str) -> None:
    layer, x = built(host, 1, 2, 2), torch.rand(3, 1, 1, 4, 4)
    with pytest.raises(ValueError, match="expected finite values, got 1 NaN or infinite"):
        layer(x.index_put((torch.tensor(0),) * 5, torch.tensor(float("nan"))))
    with pytest.raises(ValueError, match=r"torch.float32.* or bool or uint8, got torch.float64"):
        layer(x.double())
    spikes = x > 0.5
    assert torch.equal(layer(spikes)[0], layer(spikes.float())[0])


def test_states_of_another_size_are_refused() -> None:
    conv = ours.HetSynConv2d(1, 2, 2)
    _, syn, rst, mem = conv(torch.rand(3, 1, 5, 5))
    with pytest.raises(ValueError, match=r"^syn: expected shape \(3, 2, 1, 2, 2, 5, 5\), got \(3, 2, 1, 2, 2, 4, 4\)"):
        conv(torch.rand(3, 1, 6, 6), syn, rst, mem)
    with pytest.raises(ValueError, match=r"^rst: expected shape \(3, 2, 4, 4\), got \(3, 2\)"):
        conv(torch.rand(3, 1, 5, 5), syn, rst[:, :, 0, 0], mem)
    cell = norses.HetSynConv2dCell(1, 2, 2)
    _, state = cell(torch.rand(3, 1, 5, 5))
    with pytest.raises(ValueError, match=r"^state.i: expected shape .* got \(3, 2, 1, 2, 2, 4, 4\)"):
        cell(torch.rand(3, 1, 6, 6), state)
    with pytest.raises(ValueError, match=r"^state.v: expected shape \(3, 2, 4, 4\), got \(3, 2, 4, 3\)"):
        cell(torch.rand(3, 1, 5, 5), state._replace(v=state.v[..., 1:]))


def test_there_is_no_recurrent_form() -> None:
    with pytest.raises(TypeError, match="rec_alpha"):
        ours.HetSynConv2d(1, 2, 2, rec_alpha=0.9)
    with pytest.raises(ValueError, match=r"^recurrent_weights: expected None for a layer without recurrence"):
        norses.HetSynConv2d(1, 2, 2, recurrent_weights=torch.eye(2))


@pytest.mark.parametrize("host", HOSTS)
def test_what_has_no_place_for_a_convolution_says_what_can_be_done(host: str) -> None:
    net = net_of(host)
    with pytest.raises(ValueError, match=r"got a HetSynConv over images; convert\(.*, unrolled=\(C, H, W\)\)"):
        hetsyn_plugins.nir.to_graph(net, dt=1e-3)
    with pytest.raises(ValueError, match=r"^HetSynConv2d: .*to_dense\(\(H, W\)\)"):
        net[0].to_params()
    with pytest.raises(ValueError, match=r"^HetSynConv2d: expected weights and decays as arguments"):
        type(net[0]).from_params(net[0].to_dense((12, 12)))
    with pytest.raises(ValueError, match=r"^input_size: expected a whole number, or 2 of them, got"):
        net[0].to_dense((12, 12, 12))
    with pytest.raises(ValueError, match=r"^kernel_size: expected at most the padded input"):
        net[0].to_dense((2, 12))


# ---- planted bugs

CONVOLUTION, CONVOLVING = "hetsyn_plugins.ops.convolution", "hetsyn_plugins.ops.convolving"
BUGS = {
    "padding of the axes is swapped": (
        *(CONVOLUTION, "for padding in reversed(self.padding)", "for padding in self.padding"),
        *("2d padding", "spikes differ"),
    ),
    "dilation is forgotten": (
        *(CONVOLUTION, "[..., ::dilation]", "[..., : self.kernel_size[axis]]"),
        *("2d dilation", "spikes differ"),
    ),
    "kernels lie transposed": (CONVOLUTION, "*at, 2, *under)", "*at, 2, *reversed(under))", "2d", "spikes differ"),
    "positions lie transposed": (
        *(CONVOLVING, "batch, *size, rows.shape[-1])", "batch, *size[::-1], rows.shape[-1])"),
        *("2d", "images differ"),
    ),
    "every group sees the channels of the first": (
        *(
            CONVOLVING,
            "patches = self.convolution.patches(images)\n",
            "patches = self.convolution.patches(by_group[0])\n",
        ),
        *("2d groups", "spikes differ"),
    ),
    "states of the groups are swapped": (
        *(CONVOLVING, 'images.pop("current")', 'images.pop("current").flip(1)'),
        *("2d groups", "pieces differ"),
    ),
    "the past is that of other images": (
        *(
            CONVOLVING,
            "map(self.convolution.patches, self.convolution.by_group(images))",
            "map(self.convolution.patches, self.convolution.by_group(images.flip(1)))",
        ),
        *("2d delays", "pieces differ"),
    ),
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_planted_bugs_are_caught(bug: tuple[str, str, str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    *change, name, says = bug
    adapter = "hetsyn_plugins.adapters.snntorch"
    with planting.planted(*change, around=[CONVOLUTION, CONVOLVING, adapter]):
        monkeypatch.setattr(f"{__name__}.ours", planting.import_module(adapter))
        with planting.caught(says):
            check_equal("snntorch", SHAPES[name])
            check_pieces("snntorch", SHAPES[name])
