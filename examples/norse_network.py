"""A Norse network of HetSyn neurons: sequence modules in a SequentialState, time constants in 1/s, one step of Adam."""

import norse.torch
import torch

import hetsyn_plugins

hetsyn_plugins.register("norse")
torch.manual_seed(0)

p = norse.torch.HetSynLIFParameters(tau_syn_inv=hetsyn_plugins.NormalTau(20e-3, 5e-3, dt=1e-3))
net = norse.torch.SequentialState(
    norse.torch.HetSynLIFRecurrent(50, 20, p, input_rate=0.1),  # weights with which it fires at such inputs
    norse.torch.HetSynLI(20, 2),
)
optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
inputs = (torch.rand(100, 8, 50) < 0.1).float()  # 100 steps of 1 ms, 8 samples, 100 Hz
v, state = net(inputs)
v[-1].sum().backward()
optimiser.step()
hetsyn_plugins.clamp_(net)  # what the step pushed out of range, back onto it
print(f"output {tuple(v.shape)}, hidden v {tuple(state[0].v.shape)}")
tau = 1e3 / net[0].p.tau_syn_inv
print(f"synaptic time constants: mean {tau.mean().item():.1f} ms, s.d. {tau.std().item():.1f} ms")
print(f"gradient of the decays: {tuple(net[0].p.syn_decay.grad.shape)}")
