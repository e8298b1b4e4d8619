"""A Norse network of HetSyn neurons: sequence modules in a SequentialState, time constants in 1/s."""

import norse.torch
import torch

import hetsyn_plugins

hetsyn_plugins.register("norse")
torch.manual_seed(0)

p = norse.torch.HetSynLIFParameters(tau_syn_inv=hetsyn_plugins.NormalTau(20e-3, 5e-3, dt=1e-3))
net = norse.torch.SequentialState(
    norse.torch.HetSynLIFRecurrent(50, 20, p),
    norse.torch.HetSynLI(20, 2),
)
inputs = (torch.rand(100, 8, 50) < 0.1).float()  # 100 steps of 1 ms, 8 samples, 100 Hz
v, state = net(inputs)
v[-1].sum().backward()
print(f"output {tuple(v.shape)}, hidden v {tuple(state[0].v.shape)}")
tau = 1e3 / net[0].p.tau_syn_inv
print(f"synaptic time constants: mean {tau.mean().item():.1f} ms, s.d. {tau.std().item():.1f} ms")
print(f"gradient of the decays: {tuple(net[0].p.syn_decay.grad.shape)}")
