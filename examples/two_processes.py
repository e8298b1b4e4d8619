"""DistributedDataParallel on the CPU: two processes train one network, each on half of every batch.

Layers are ordinary modules to DDP. The optimiser's step is the same in both, and so is what `clamp_` does after it.
"""

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import hetsyn_plugins
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, reset

RANKS, STEPS, BATCH, LINES = 2, 20, 16, 10


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which half of the lines is busier? Spikes (T, B, M) and labels (B,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (BATCH,), generator=generator)
    rates = 0.1 + 0.2 * nn.functional.one_hot(labels, 2).repeat_interleave(LINES // 2, 1)
    return torch.rand(STEPS, BATCH, LINES, generator=generator).lt(rates).float(), labels


def train(rank: int, folder: str) -> None:
    """What each process does."""
    dist.init_process_group("gloo", init_method=Path(folder, "meet").as_uri(), rank=rank, world_size=RANKS)
    torch.manual_seed(rank)  # DDP begins with the weights of rank 0
    hidden = HetSynLeaky(LINES, 32, input_rate=0.2, init_hidden=True)
    net = nn.parallel.DistributedDataParallel(
        nn.Sequential(hidden, HetSynLeaky(32, 2, spiking=False, init_hidden=True))
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(30):
        x, labels = batch(step)
        reset(net)
        loss = nn.functional.cross_entropy(net(x[:, rank::RANKS])[-1], labels[rank::RANKS])
        optimiser.zero_grad()
        loss.backward()  # DDP takes the mean of the gradients here
        optimiser.step()
        hetsyn_plugins.clamp_(net)
    weights = torch.cat([value.detach().flatten() for value in net.parameters()])
    both = [torch.empty_like(weights) for _ in range(RANKS)]
    dist.all_gather(both, weights)
    assert torch.equal(both[0], both[1])
    if rank == 0:
        decays = hidden.alpha
        print(f"{RANKS} ranks, loss {loss.item():.3f}: all {len(weights)} weights and decays are equal bit by bit")
        print(f"decays from {decays.min().item():.3f} to {decays.max().item():.3f}", flush=True)
    dist.barrier()  # nobody leaves while another still talks to it
    dist.destroy_process_group()
    os._exit(0)  # at once: threads of gloo's that outlive C++'s tidying up end a process with an error, now and then


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (folder,), nprocs=RANKS)
