"""A snnTorch network of HetSyn neurons, trained for a few steps to tell which of two lines spikes first."""

import snntorch as snn
import torch
from torch import nn

import hetsyn_plugins

hetsyn_plugins.register("snntorch")
torch.manual_seed(0)

steps, batch = 40, 64
labels = torch.randint(2, (batch,))
inputs = torch.zeros(steps, batch, 2)
inputs[5, torch.arange(batch), labels] = 1.0  # the first spike says the class,
inputs[20, torch.arange(batch), 1 - labels] = 1.0  # the second one comes from the other line

net = nn.Sequential(
    snn.HetSynLeaky(2, 16, alpha=0.95, init_hidden=True),
    snn.HetSynLeaky(16, 2, alpha=0.95, spiking=False, init_hidden=True),
)
optimiser = torch.optim.Adam(net.parameters(), lr=2e-2)
for step in range(60):
    snn.utils.reset(net)
    v = net(inputs)  # (T, B, 2): the whole sequence at once
    loss = nn.functional.cross_entropy(v[-1], labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    hetsyn_plugins.clamp_(net)
    if step % 20 == 19:
        accuracy = (v[-1].argmax(1) == labels).float().mean()
        print(f"step {step + 1}: loss {loss.item():.3f}, accuracy {accuracy:.0%}")
alpha = net[0].alpha
print(f"decays now spread from {alpha.min().item():.3f} to {alpha.max().item():.3f}; all began at 0.950")
