"""What the benchmark compares with: the same neuron written the obvious way, and other libraries' nearest neurons.

Every peer is `build(shape) -> step`: `step()` runs one forward and backward pass of one layer over one batch, with a
gradient of every parameter. The other libraries' neurons have time constants per neuron, not per synapse: a simpler
model, so that only the cost can be compared. A peer that cannot run a shape raises ImportError; what is not installed
`left_out` tells before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from hetsyn_plugins.core.surrogate import MultiGaussian
from hetsyn_plugins.exchange.frameworks import how_to_install
from hetsyn_plugins.experiments import training, variants
from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.model import Model
from hetsyn_plugins.ops.lif import hetsyn_li, hetsyn_lif

Step = Callable[[], None]


@dataclass(frozen=True)
class Shape:
    """One layer and its batch: T, B, M, N, and what it has beside feed-forward synapses.

    readout  a leaky readout of one neuron behind the layer: in ours and in plain autograd only, the others go without
    plain    beside a Linear and the libraries' simplest leaky neuron, as the field's shared benchmark has it
    network  no layer but S-MNIST's network, recurrent layers of `neurons` and `readouts`: a training step of it
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
    plain: bool = False
    network: bool = False

    def spikes(self) -> Tensor:
        """Random 0/1 inputs (T, B, M)."""
        x = (torch.rand(self.steps, self.batch, self.inputs, device=self.device) < self.rate).float()
        return x.requires_grad_(self.input_gradients)

    @property
    def multiply_adds(self) -> float:
        """The fewest of one forward and backward pass: per synapse and step 2 forward, 4 backward, 2 for its source."""
        if self.network:
            synapses = 6 * self.inputs + 8 * (3 * self.neurons + READOUTS)
            return float(self.steps) * self.batch * self.neurons * synapses
        per_input = 8 if self.input_gradients else 6
        synapses = per_input * self.inputs + (8 * self.neurons if self.recurrent else 0)
        return float(self.steps) * self.batch * self.neurons * synapses

    @property
    def plain_bytes(self) -> float:
        """About what plain autograd keeps: the currents before and after the decay, of every step, in float32."""
        synapses = self.inputs + (self.neurons if self.recurrent else 0)
        synapses += 2 * self.neurons + READOUTS if self.network else 0
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
    """`hetsyn_lif`, and `hetsyn_li` for the readout; of a network a step of `hetsyn train`."""
    if shape.network:
        return training_step(shape)
    x, params, readout = shape.spikes(), fields(shape), readout_fields(shape)

    def step() -> None:
        out = our_run(x, params)
        (out if readout is None else hetsyn_li(out, **readout)[0]).sum().backward()

    return step


def training_step(shape: Shape) -> Step:
    """S-MNIST's network in snnTorch's idiom: forward, backward, Adam, decays clamped."""
    config = load_config("images", ["task.order=pixel", f"network.hidden=[{shape.neurons}, {shape.neurons}]"])
    start = variants.build(config.network, shape.inputs, READOUTS, config.task.dt, 0)
    model = Model(start, "snntorch").to(shape.device)
    optimiser = training.make_optimiser(model, config.training)
    x = torch.rand(shape.steps, shape.batch, shape.inputs, device=shape.device)
    target = torch.randint(READOUTS, (shape.batch,), device=shape.device)

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x).readout[-1], target).backward()
        optimiser.step()
        model.clamp_()

    return step


RESET_DECAY, THRESHOLD = 0.9, 1.0
READOUTS = 10


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
    """snn.Linear + Synaptic, or RSynaptic: per-neuron time constants, a loop over time; plain: Leaky."""
    import snntorch as snn

    if shape.plain:
        return loop(nn.Linear(shape.inputs, shape.neurons), snn.Leaky(beta=0.9), shape)
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


def loop(linear: nn.Linear, neuron: Any, shape: Shape) -> Step:
    """A Linear over the whole sequence and a neuron (x, state) -> (spikes, state) over its steps."""
    x, linear, neuron = shape.spikes(), linear.to(shape.device), neuron.to(shape.device)

    def step() -> None:
        state, spikes = getattr(neuron, "reset_mem", lambda: None)(), []  # snnTorch's keeps the last one for itself
        for current in linear(x).unbind(0):
            z, state = neuron(current, state)
            spikes.append(z)
        torch.stack(spikes).sum().backward()

    return step


def norse(shape: Shape) -> Step:
    """norse.torch.LIF behind a Linear, or LIFRecurrent, over the whole sequence; plain: LIFBoxCell."""
    import norse.torch as snn

    if shape.plain:
        return loop(nn.Linear(shape.inputs, shape.neurons), snn.LIFBoxCell(), shape)
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
    """A Linear and a multi-step ParametricLIF (plain: LIF), on a card in Triton; no recurrent one to compare."""
    from spikingjelly.activation_based import layer, neuron

    if shape.recurrent:
        raise ImportError("spikingjelly has no multi-step recurrent layer of this kind")
    linear = layer.Linear(shape.inputs, shape.neurons, bias=False, step_mode="m").to(shape.device)
    lif = (neuron.LIFNode if shape.plain else neuron.ParametricLIFNode)(step_mode="m").to(shape.device)
    if shape.device != "cpu" and "triton" in lif.supported_backends:
        lif.backend = "triton"
    x = shape.spikes()

    def step() -> None:
        lif.reset()
        lif(linear(x)).sum().backward()

    return step


def left_out() -> dict[str, str]:
    """Peers that are not installed, each with what to install."""
    install = {"snnTorch": ("snntorch", how_to_install("snntorch")), "Norse": ("norse", how_to_install("norse"))}
    install |= dict.fromkeys(("lava-dl", "ours in slayer", "... integers"), ("lava", how_to_install("lava_dl")))
    install["SpikingJelly"] = ("spikingjelly", "pip install spikingjelly triton")
    return {name: how for name, (module, how) in install.items() if find_spec(module) is None}


def peers_of(shape: Shape) -> list[str]:
    """Who is measured at a shape, of those that are installed."""
    missing = left_out()
    known = list(PEERS)
    if shape.plain:
        known = ["ours", "snnTorch", "Norse", "SpikingJelly"]
    elif shape.network:
        known = ["ours"]
    return [name for name in known if name not in missing]


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
