"""Delayed match-to-sample (Deng et al. 2025): train it, see the time constants move, send it to a simulated chip."""

import tempfile
from pathlib import Path

import torch
from torch import nn

import hetsyn_plugins
from hetsyn_plugins import NormalTau, tau_to_decay
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.core.surrogate import Triangular
from hetsyn_plugins.deployment import export
from hetsyn_plugins.deployment.clusters import cluster_network
from hetsyn_plugins.deployment.finetune import fine_tune
from hetsyn_plugins.experiments.tasks import dms

DT, HIDDEN, ITERATIONS = 5e-3, 50, 300


def batch(seed: int, samples: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    data = dms.draw(samples, seed, dt=DT)
    return torch.from_numpy(data.spikes), torch.from_numpy(data.labels)


def long_taus(net: nn.Sequential) -> str:
    tau = hetsyn_plugins.convert(net, to="reference").layers[0].params.tau(DT).decay * 1e3
    return f"{(tau > 200).mean():.1%} of the input synapses have a tau above 200 ms"


torch.manual_seed(0)
tau = NormalTau(40e-3, 4e-3, dt=DT)
reset = float(tau_to_decay(40e-3, DT))
hidden = RHetSynLeaky(30, HIDDEN, tau, reset, spike_grad=Triangular(), rec_alpha=tau, init_hidden=True, dt=DT)
net = nn.Sequential(hidden, HetSynLeaky(HIDDEN, 2, tau, spiking=False, init_hidden=True, dt=DT))
print("before:", long_taus(net))
optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
schedule = torch.optim.lr_scheduler.StepLR(optimiser, 100, 0.8)
for iteration in range(ITERATIONS):
    x, labels = batch(1 + iteration)
    for layer in net:
        layer.reset_mem()
    loss = nn.functional.cross_entropy(net(x)[-1], labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
    hetsyn_plugins.clamp_(net)
print("after: ", long_taus(net))

clustered, _ = cluster_network(hetsyn_plugins.convert(net, to="reference"), 8)
tuned = fine_tune(clustered, lambda: (batch(10_000 + i) for i in range(20)), epochs=2)
x, labels = batch(0, samples=500)
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "dms.net")
    options = {"units": tuned.units, "clip": True, "calibration": x.numpy(), "labels": labels.numpy()}
    print(export(tuned.network, file, **options))
