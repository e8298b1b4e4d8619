"""`convert` of classes as users write them: a chain, the hosts' tutorials' loops, convolutions in front, wrappers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from planting import caught, planted
from torch import Tensor, nn

import hetsyn_plugins
from hetsyn_plugins.exchange import calls

snn = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

from hetsyn_plugins.adapters.norse import HetSynLIFCell  # noqa: E402  after the skip
from hetsyn_plugins.adapters.snntorch import HetSynLeaky  # noqa: E402  after the skip

T, B, M, N, OUT = 30, 3, 7, 6, 4


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Tutorial(nn.Module):
    """snnTorch's tutorial 5: one input at all steps, stock neurons, two records stacked; HetSyn in the middle."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(M, N), snn.Leaky(beta=0.9)
        self.hidden = HetSynLeaky(N, N)
        self.fc2, self.lif2 = nn.Linear(N, OUT), snn.Leaky(beta=0.8, **options)

    def forward(self, x: Tensor) -> Any:
        mem1, mem2, state = self.lif1.init_leaky(), self.lif2.init_leaky(), self.hidden.reset_mem()
        spk_rec, mem_rec = [], []
        for _ in range(T):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk, *state = self.hidden(spk1.to(x), *state)
            spk2, mem2 = self.lif2(self.fc2(spk), mem2)
            spk_rec.append(spk2)
            mem_rec.append(mem2)
        return torch.stack(spk_rec), torch.stack(mem_rec)


class Loop(nn.Module):
    """A loop over the steps of its input, batch first; states passed on by the layers themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([HetSynLeaky(M, N, init_hidden=True), HetSynLeaky(N, OUT, init_hidden=True)])
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            layer.reset_mem()
        return torch.stack([self.layers[1](self.drop(self.layers[0](x[:, t]))) for t in range(x.shape[1])], 1)


class Sequences(nn.Module):
    """A chain on the whole sequence; its output is made a rate, which stays outside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = HetSynLeaky(M, N, init_hidden=True), HetSynLeaky(N, OUT, init_hidden=True)
        self.inner = nn.Sequential(nn.Identity(), self.second)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.first(x)).mean(0)


class Cells(nn.Module):
    """Norse's form: cells and their states."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.fc = HetSynLIFCell(M, N, dt=1e-3), nn.Linear(N, OUT)
        self.out = HetSynLIFCell(OUT, OUT, dt=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        s1 = s2 = None
        record = []
        for step in x:
            z, s1 = self.cell(step, s1)
            z, s2 = self.out(self.fc(z), s2)
            record.append(z)
        return torch.stack(record)


class Convolved(nn.Module):
    """A convolution, pooling and batch norm in front, flattened by hand, at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.AvgPool2d(2)
        self.fc, self.bn, self.lif = nn.Linear(18, N), nn.BatchNorm1d(N), snn.Leaky(beta=0.9)
        self.out = HetSynLeaky(N, OUT, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        mem, record = self.lif.init_leaky(), []
        self.out.reset_mem()
        for step in x:
            pooled = self.pool(self.norm(self.conv(step)))
            spk, mem = self.lif(self.bn(self.fc(pooled.view(len(step), -1))), mem)
            record.append(self.out(spk.to(x)))
        return torch.stack(record)


def louder(net: nn.Module) -> nn.Module:
    """In float64, with weights at which neurons fire, and batch norms that have seen something."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(3)
            if hasattr(module, "to_params"):
                module.stored("weight").mul_(2)
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 2.0)
                module.bias.uniform_(0.0, 0.5)
    return net.double().eval()


def spikes_of(net: nn.Module, x: Tensor) -> Tensor:
    """What a converted network of either host gives for a sequence."""
    net.eval()
    for module in net.modules():
        if hasattr(module, "reset_mem"):
            module.reset_mem()
    out = net(x)
    return out[0] if isinstance(out, tuple) else out


def sequence(*shape: int) -> Tensor:
    return (torch.rand(T, B, *shape, dtype=torch.float64) < 0.4).double()


FORMS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "tutorial": (Tutorial, lambda net, x: net(x[0])[0]),
    "loop, batch first": (Loop, lambda net, x: net(x.transpose(0, 1)).transpose(0, 1)),
    "sequences": (Sequences, lambda net, x: net.inner(net.first(x))),
    "cells": (Cells, lambda net, x: net(x)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("to", ["snntorch", "norse", "reference"])
def test_a_class_spikes_as_before(form: str, to: str) -> None:
    make, run = FORMS[form]
    net, x = louder(make()), sequence(M)
    x = x[:1].expand_as(x) if form == "tutorial" else x
    with torch.no_grad():
        want = run(net, x)
        converted = hetsyn_plugins.convert(net, to=to, dt=1e-3)
        got = spikes_of(converted, x) if to != "reference" else next(reversed(converted.run(x.numpy()).values()))[0]
    assert 0.02 < want.mean() < 0.98
    np.testing.assert_array_equal(np.asarray(got), want.numpy())


@pytest.mark.parametrize("to", ["snntorch", "norse"])
def test_convolutions_in_front_are_kept_and_batch_norm_is_folded(to: str) -> None:
    net, x = louder(Convolved()), 8 * torch.rand(T, B, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        want = net(x)
        converted = hetsyn_plugins.convert(net, to=to, dt=1e-3, inputs=x)
        assert 0.02 < want.mean() < 0.98 and torch.equal(spikes_of(converted, x), want)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in converted.modules())
    assert all(parameter.requires_grad for parameter in next(converted.children()).parameters())
    with pytest.raises(
        ValueError, match=r"module 'conv' is a torch\.nn\.modules\.conv\.Conv2d, which only networks of a"
    ):
        hetsyn_plugins.convert(net, to="reference", inputs=x)


@pytest.mark.parametrize(
    "wrap",
    [torch.compile, nn.DataParallel, torch.optim.swa_utils.AveragedModel],
)
@pytest.mark.parametrize("inside", [False, True])
def test_wrappers_are_opened(wrap: Any, inside: bool) -> None:
    inner, x = nn.Sequential(HetSynLeaky(M, N, init_hidden=True)), sequence(M)
    want = hetsyn_plugins.convert(inner, to="reference").run(x.numpy())["0"][0]
    ((got, _),) = (
        hetsyn_plugins.convert(nn.Sequential(wrap(inner)) if inside else wrap(inner), to="reference")
        .run(x.numpy())
        .values()
    )
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("start", [1, 2])
def test_flatten_in_front_is_of_a_step_or_of_a_sequence(start: int) -> None:
    """As it was written: nn.Flatten(1) for (B, ...), nn.Flatten(2) for (T, B, ...)."""
    layer, x = HetSynLeaky(M, N, init_hidden=True).double(), sequence(1, M)
    converted = hetsyn_plugins.convert(nn.Sequential(nn.Flatten(start), layer), to="snntorch")
    assert torch.equal(spikes_of(converted, x), spikes_of(layer, x.flatten(2)))


def test_the_net_itself_is_left_as_it_was() -> None:
    net = Loop().train()
    net(torch.zeros(1, 2, M))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    mem = net.layers[0].mem
    hetsyn_plugins.convert(net, to="norse", dt=1e-3)
    assert net.training and net.layers[0].mem is mem and not net.layers[0]._forward_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


class Odd(nn.Module):
    """A chain but for one thing."""

    def __init__(self, odd: str) -> None:
        super().__init__()
        self.odd = odd
        self.a, self.b = HetSynLeaky(M, M, init_hidden=True), HetSynLeaky(M, M, init_hidden=True)
        self.state = HetSynLeaky(M, M)

    def forward(self, x: Tensor) -> Any:
        if self.odd == "twice":
            return torch.stack([self.b(self.a(self.a(step))) for step in x])
        y = self.a(2 * x if self.odd == "input" else x)
        if self.odd == "skip":
            return self.b(x + y)
        return self.b(y)


@pytest.mark.parametrize(
    "net, says",
    [
        (lambda: Odd("skip"), "expected 'b' to take what comes out of 'a', got something else"),
        (lambda: Odd("twice"), "expected as many calls of every module, one or one a step, got 12 of 'b', 24 of 'a'"),
        (lambda: Odd("input"), "expected 'a' to take what forward is given, got something made of it"),
        (lambda: Tutorial(reset_mechanism="zero").double(), "a snn.Leaky's reset_mechanism 'zero' cannot be carried"),
        (Convolved, "inputs: expected an example of what the net takes"),
        (lambda: nn.Sequential(nn.Linear(3, 3), snn.Synaptic(0.5, 0.9)), "a snn.Synaptic's alpha of 0.5"),
        (lambda: nn.Sequential(nn.Linear(3, 3), norse.LIFCell()), "a LIFCell of Norse's own steps by Euler"),
    ],
)  # fmt: skip
def test_what_is_no_chain_is_refused_by_name(net: Callable[[], nn.Module], says: str) -> None:
    with caught(says, ValueError):
        hetsyn_plugins.convert(net(), to="reference")


def test_the_message_shows_the_way_out() -> None:
    with caught("nn.Sequential(layer, ..., layer)", ValueError):
        hetsyn_plugins.convert(Odd("skip"), to="norse", dt=1e-3)


def test_a_layer_that_forward_resets_at_every_step_is_refused() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = HetSynLeaky(M, N, init_hidden=True)

        def forward(self, x: Tensor) -> Tensor:
            out = []
            for step in x:
                self.a.reset_mem()
                out.append(self.a(step))
            return torch.stack(out)

    net = Forgetful()
    with torch.no_grad():
        net.a.stored("weight").mul_(5)
    with caught("expected 'a' to give, from reset states, the spikes of the layer that it is", ValueError):
        hetsyn_plugins.convert(net, to="reference")


def test_a_synaptic_without_alpha_is_a_leaky() -> None:
    nets = []
    for neuron in (snn.Leaky(0.9), snn.Synaptic(0.0, 0.9)):
        torch.manual_seed(1)
        nets.append(nn.Sequential(nn.Linear(M, N), neuron).double())
    x = sequence(M)
    ours = hetsyn_plugins.convert(nets[1], to="reference").run(x.numpy())["1"][0]
    syn, mem, record = *nets[1][1].init_synaptic(), []
    with torch.no_grad():
        for step in x:
            spk, syn, mem = nets[1][1](nets[1][0](step), syn, mem)
            record.append(spk)
    np.testing.assert_array_equal(ours, torch.stack(record).numpy())


@pytest.mark.parametrize(
    "old, new, odd",
    [
        ("out.shape == taken.shape and torch.equal(out, taken)", "out.shape == taken.shape", "skip"),
        ("if not torch.isin(seen[first].inputs, given).all():", "if False:", "input"),
    ],
)
def test_planted_bugs_let_a_net_through_that_is_no_chain(old: str, new: str, odd: str) -> None:
    """Without these lines the run alone tells, or nothing does."""
    with planted(calls.__name__, old, new) as bad:
        chain = bad.chain_of(Odd(odd))
    assert [name for name, _ in chain.modules] == ["a", "b"]
