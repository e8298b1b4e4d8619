"""What the benchmark compares with: the same neuron written the obvious way, and other libraries' nearest neurons.

Every peer is `build(shape) -> step`: `step()` runs one forward and backward pass of one layer over one batch, with a
gradient of every parameter. The other libraries' neurons have time constants per neuron, not per synapse: a simpler
model, so that only the cost can be compared. A peer that cannot run raises ImportError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hetsyn_plugins.core.surrogate import MultiGaussian
from hetsyn_plugins.ops.lif import hetsyn_li, hetsyn_lif

Step = Callable[[], None]


@dataclass(frozen=True)
class Shape:
    """One layer and its batch: T, B, M, N, and what it has beside feed-forward synapses.

    readout  a leaky readout of one neuron behind the layer: in ours and in plain autograd only, the others go without
    """

    steps: int
    batch: int
    inputs: int
    neurons: int
    recurrent: bool = False
    input_gradients: bool = False
    rate: float = 0.02
    readout: bool = False
    device: str = "cpu"

    def spikes(self) -> Tensor:
        """Random 0/1 inputs (T, B, M)."""
        x = (torch.rand(self.steps, self.batch, self.inputs, device=self.device) < self.rate).float()
        return x.requires_grad_(self.input_gradients)

    @property
    def multiply_adds(self) -> float:
        """The fewest of one forward and backward pass: per synapse and step 2 forward, 4 backward, 2 for its source."""
        per_input = 8 if self.input_gradients else 6
        synapses = per_input * self.inputs + (8 * self.neurons if self.recurrent else 0)
        return float(self.steps) * self.batch * self.neurons * synapses

    @property
    def plain_bytes(self) -> float:
        """About what plain autograd keeps: the currents before and after the decay, of every step, in float32."""
        synapses = self.inputs + (self.neurons if self.recurrent else 0)
        return 16.0 * self.steps * self.batch * self.neurons * synapses


def fields(shape: Shape) -> dict[str, Any]:
    """Parameters of a HetSyn layer of this shape that spikes."""
    n, m = shape.neurons, shape.inputs
    params: dict[str, Any] = {"weight": torch.randn(n, m) * (2 / m**0.5), "decay": torch.rand(n, m) * 0.2 + 0.75}
    if shape.recurrent:
        params |= {"recurrent_weight": torch.randn(n, n) / n**0.5, "recurrent_decay": torch.rand(n, n) * 0.2 + 0.75}
    return {name: t.to(shape.device).requires_grad_() for name, t in params.items()}


def readout_fields(shape: Shape) -> dict[str, Any] | None:
    """Parameters of the readout behind the layer, None where there is none."""
    return fields(Shape(shape.steps, shape.batch, shape.neurons, 1, device=shape.device)) if shape.readout else None


def ours(shape: Shape) -> Step:
    """`hetsyn_lif`, and `hetsyn_li` for the readout."""
    x, params, readout = shape.spikes(), fields(shape), readout_fields(shape)

    def step() -> None:
        out = our_run(x, params)
        (out if readout is None else hetsyn_li(out, **readout)[0]).sum().backward()

    return step


RESET_DECAY, THRESHOLD = 0.9, 1.0


def our_run(x: Tensor, params: dict[str, Any]) -> Tensor:
    """The spikes of the op."""
    return hetsyn_lif(x, **params, reset_decay=RESET_DECAY, threshold=THRESHOLD)[0]


def plain_run(x: Tensor, params: dict[str, Any]) -> Tensor:
    """The equations as one would write them first: (B, N, M) currents, one step after another.

    A second one on purpose: the gate compares with what shares nothing with the kernels.
    """
    spike = MultiGaussian()
    batch, n = x.shape[1], len(params["weight"])
    current = x.new_zeros(batch, *params["weight"].shape)
    recurrent = x.new_zeros(batch, n, n)
    reset = z = x.new_zeros(batch, n)
    spikes = []
    for x_t in x.unbind(0):
        current = params["decay"] * current + params["weight"] * x_t[:, None, :]
        v = current.sum(-1)
        if "recurrent_weight" in params:
            recurrent = params["recurrent_decay"] * recurrent + params["recurrent_weight"] * z[:, None, :]
            v = v + recurrent.sum(-1)
        reset = RESET_DECAY * reset + THRESHOLD * z
        z = spike(v - reset - THRESHOLD)
        spikes.append(z)
    return torch.stack(spikes)


def plain(shape: Shape) -> Step:
    """The same neuron by plain autograd."""
    x, params, readout = shape.spikes(), fields(shape), readout_fields(shape)

    def step() -> None:
        out = plain_run(x, params)
        (out if readout is None else plain_readout(out, readout)).sum().backward()

    return step


def plain_readout(x: Tensor, params: dict[str, Any]) -> Tensor:
    """The leaky readout, likewise."""
    current, v = x.new_zeros(x.shape[1], *params["weight"].shape), []
    for x_t in x.unbind(0):
        current = params["decay"] * current + params["weight"] * x_t[:, None, :]
        v.append(current.sum(-1))
    return torch.stack(v)


def snntorch(shape: Shape) -> Step:
    """snn.Linear + Synaptic, or RSynaptic: per-neuron time constants, a loop over time."""
    import snntorch as snn

    linear = nn.Linear(shape.inputs, shape.neurons, bias=False)
    constants: dict[str, Any] = {
        "alpha": torch.full((shape.neurons,), 0.9),
        "beta": torch.full((shape.neurons,), 0.8),
        "learn_alpha": True,
        "learn_beta": True,
    }
    if shape.recurrent:
        neuron = snn.RSynaptic(**constants, all_to_all=True, linear_features=shape.neurons)
    else:
        neuron = snn.Synaptic(**constants)
    x, linear, neuron = shape.spikes(), linear.to(shape.device), neuron.to(shape.device)

    def step() -> None:
        states, spikes = neuron.reset_mem(), []
        for current in linear(x).unbind(0):
            states = neuron(current, *states[-3:]) if shape.recurrent else neuron(current, *states[-2:])
            spikes.append(states[0])
        torch.stack(spikes).sum().backward()

    return step


def norse(shape: Shape) -> Step:
    """norse.torch.LIF behind a Linear, or LIFRecurrent, over the whole sequence."""
    import norse.torch as snn

    device = shape.device
    p = snn.LIFParameters(tau_syn_inv=torch.full((shape.neurons,), 200.0, device=device, requires_grad=True))
    x = shape.spikes()
    if shape.recurrent:
        recurrent = snn.LIFRecurrent(shape.inputs, shape.neurons, p=p).to(device)
        return lambda: recurrent(x)[0].sum().backward()
    linear, lif = nn.Linear(shape.inputs, shape.neurons, bias=False).to(device), snn.LIF(p=p)
    return lambda: lif(linear(x))[0].sum().backward()


def lava_dl(shape: Shape) -> Step:
    """slayer.block.cuba.Dense or Recurrent, (B, C, T)."""
    import lava.lib.dl.slayer as slayer

    if shape.device != "cpu":
        raise ImportError("lava-dl compiles its CUDA kernels with nvcc: measured on the CPU only")
    constants = {"threshold": 1.0, "current_decay": 0.2, "voltage_decay": 0.1, "requires_grad": True}
    kind = slayer.block.cuba.Recurrent if shape.recurrent else slayer.block.cuba.Dense
    block = kind(constants, shape.inputs, shape.neurons)
    x = shape.spikes().detach().permute(1, 2, 0).contiguous().requires_grad_(shape.input_gradients)
    return lambda: block(x).sum().backward()


def ours_in_slayer(shape: Shape, quantised: bool = False) -> Step:
    """The same of `slayer.block.hetsyn`, in floats or with the chip's integers in the forward pass."""
    import lava.lib.dl.slayer  # noqa: F401  the ImportError that says what is missing

    from hetsyn_plugins.adapters.lava_dl.slayer import Dense, Recurrent

    if shape.device != "cpu":
        raise ImportError("measured on the CPU only, beside lava-dl")
    kind = Recurrent if shape.recurrent else Dense
    block = kind({"threshold": 1.0, "reset_decay": 0.9}, shape.inputs, shape.neurons, quantised=quantised)
    x = shape.spikes().detach().permute(1, 2, 0).contiguous().requires_grad_(shape.input_gradients)
    return lambda: block(x).sum().backward()


def spikingjelly(shape: Shape) -> Step:
    """A Linear and a multi-step ParametricLIF (its CuPy or Triton kernel on a GPU); no recurrent one to compare."""
    from spikingjelly.activation_based import layer, neuron

    if shape.recurrent:
        raise ImportError("spikingjelly has no multi-step recurrent layer of this kind")
    linear = layer.Linear(shape.inputs, shape.neurons, bias=False, step_mode="m").to(shape.device)
    lif = neuron.ParametricLIFNode(step_mode="m").to(shape.device)
    x = shape.spikes()

    def step() -> None:
        lif.reset()
        lif(linear(x)).sum().backward()

    return step


PEERS: dict[str, Callable[[Shape], Step]] = {
    "plain autograd": plain,
    "ours": ours,
    "snnTorch": snntorch,
    "Norse": norse,
    "lava-dl": lava_dl,
    "ours in slayer": ours_in_slayer,
    "... integers": lambda shape: ours_in_slayer(shape, quantised=True),
    "SpikingJelly": spikingjelly,
}
