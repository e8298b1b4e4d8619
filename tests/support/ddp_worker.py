"""One rank of the DistributedDataParallel test; a module of its own because a spawned process imports it."""

from __future__ import annotations

import os
from typing import Any

import conftest  # noqa: F401  puts the checkout's adapters in their place
import torch
import torch.distributed as dist
from torch import Tensor, nn

STEPS, BATCH, WIDTH = 12, 6, 5


def network(init_hidden: bool) -> nn.Module:
    from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky

    torch.manual_seed(0)
    adaptation: dict[str, Any] = {"adaptation_decay": 0.9, "adaptation_strength": 0.1}  # buffers, which DDP rewrites
    net = nn.Sequential(
        RHetSynLeaky(
            WIDTH, 8, threshold=0.3, learn_beta=True, init_hidden=init_hidden, output=not init_hidden, **adaptation
        ),
        HetSynLeaky(8, 3, spiking=False, init_hidden=True),
    )
    return (net if init_hidden else net[0]).double()


def data() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(2, STEPS, BATCH, WIDTH, generator=generator) < 0.5).double()


def run(net: Any, x: Tensor, stepwise: bool) -> Tensor:
    """The last output of every step: of the whole sequence at once, or of one call a step."""
    if not stepwise:
        out = net(x)
        return out[-1] if isinstance(out, tuple) else out
    outs, states = [], ()
    for x_t in x:
        out = net(x_t, *states)
        states, out = (out, out[-1]) if isinstance(out, tuple) else ((), out)
        outs.append(out)
    return torch.stack(outs)


def train(net: Any, batches: Tensor) -> None:
    """Two optimiser steps, of a batch as one sequence and of one step by step, each from zero states."""
    from hetsyn_plugins.adapters import snntorch as adapter

    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    for index, x in enumerate(batches):
        adapter.reset(net)
        loss = (run(net, x, stepwise=index == 1) - 0.5).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def rank(index: int, size: int, folder: str, init_hidden: bool) -> None:
    """Train on this rank's share of every batch, with DDP's default settings; leave the parameters in the folder."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=size)
    try:
        net = network(init_hidden)
        wrapped = nn.parallel.DistributedDataParallel(net)
        share = BATCH // size
        train(wrapped, data()[:, :, index * share : (index + 1) * share])
        torch.save(net.state_dict(), f"{folder}/{index}.pt")
        dist.barrier()  # nobody leaves while another still talks to it
    finally:
        dist.destroy_process_group()
    # at once: a thread of gloo's that still runs when C++ tidies up ends the process with std::terminate, now and then
    os._exit(0)
