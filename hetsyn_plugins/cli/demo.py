"""The main job, end to end: train on real digits in snnTorch, carry the network to Norse, compare spike by spike; then
bring it to integers for a Loihi-style chip, with the accuracy known before, and run it in Lava where that is installed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hetsyn_plugins.adapters.lava_dl import runtime
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.files import make_folder
from hetsyn_plugins.core.initialisers import LogNormalTau
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.deployment.clusters import cluster_network
from hetsyn_plugins.deployment.export import REPORT_SAMPLES, export
from hetsyn_plugins.deployment.finetune import as_before, fine_tune
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.exchange.conversion import convert
from hetsyn_plugins.experiments import plots
from hetsyn_plugins.experiments.affordable import check_rounds
from hetsyn_plugins.experiments.data import digits
from hetsyn_plugins.ops import devices

DT = 1e-3  # one step is said to last 1 ms, so that time constants can be spoken of in milliseconds
HIDDEN, BATCH = 64, 64
CLUSTERS, TUNING_EPOCHS = 16, 10  # decays a layer on the chip, and epochs of training with them
MIN_ACCURACY = 0.90
MAX_ACCURACY_LOSS = 0.01  # from float to integers
LAVA_SAMPLES, REFERENCE_SAMPLES = 40, 40  # digits that are also run in Lava, and in the float64 reference


def build() -> nn.Sequential:
    """8 lines -> 64 recurrent HetSynLIF neurons -> 10 leaky readouts, every synapse with its own learned decay."""
    tau = LogNormalTau(10e-3, 0.3, dt=DT)
    hidden = RHetSynLeaky(digits.LINES, HIDDEN, alpha=tau, rec_alpha=tau, beta=0.9, init_hidden=True, dt=DT)
    readout = HetSynLeaky(HIDDEN, digits.CLASSES, alpha=tau, spiking=False, init_hidden=True, dt=DT)
    return nn.Sequential(hidden, readout)


def train(net: nn.Sequential, data: digits.Digits, epochs: int, quiet: bool = False) -> None:
    """Cross-entropy on the readout's v at the last step; Adam 5e-3, cosine to 0; decays clamped after each step.

    The digits go to where the network is, all at once.
    """
    device = next(net.parameters()).device
    spikes, labels = (torch.from_numpy(part).to(device) for part in (data.train_spikes, data.train_labels))
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    progress = tqdm(range(epochs), desc="training", unit="epoch", disable=quiet)
    for _ in progress:
        total = 0.0
        for index in torch.randperm(len(labels)).to(device).split(BATCH):
            loss = nn.functional.cross_entropy(output(net, spikes[:, index])[-1], labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            for layer in net:
                layer.clamp_()
            total += loss.item() * len(index)
        schedule.step()
        progress.set_postfix(loss=f"{total / len(labels):.3f}")


def output(net: nn.Sequential, x: Tensor) -> Tensor:
    """The readout's v, (T, B, 10), from fresh states."""
    for layer in net:
        layer.reset_mem()
    v: Tensor = net(x)
    return v


def spikes_and_output(net: Any, x: Tensor) -> tuple[Array, Array]:
    """Hidden spikes and the readout's v, through snnTorch's or Norse's own way to run a stack."""
    with torch.no_grad():
        if isinstance(net[0], HetSynLeaky):
            for layer in net:
                layer.reset_mem()
            z = net[0](x)
            return z.cpu().numpy(), net[1](z).cpu().numpy()
        seen: list[Tensor] = []
        hook = net[0].register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
        v, _ = net(x)
        hook.remove()
        return seen[0].cpu().numpy(), v.cpu().numpy()


def accuracy(v: Array, labels: np.ndarray) -> float:
    """Share of samples whose largest readout at the last step is their label's."""
    return float((v[-1].argmax(1) == labels).mean())


def describe(tau: Array) -> str:
    """Median and quartiles in ms, and what sits at the ends of the range."""
    inside = tau[(tau > 0) & np.isfinite(tau)] * 1e3
    low, middle, high = np.percentile(inside, [25, 50, 75])
    ends = f"{np.mean(tau == 0):.1%} at r = 0, {np.mean(np.isinf(tau)):.1%} at r = 1"
    return f"median {middle:.1f} ms, quartiles {low:.1f} to {high:.1f} ms, {ends}"


def taus(network: Network) -> Array:
    """All synaptic time constants of a network in seconds, in one row."""
    by_layer = [layer.params.tau(DT) for layer in network.layers if isinstance(layer, HetSynLayer)]
    rows = [t for tau in by_layer for t in (tau.decay, tau.recurrent_decay) if t is not None]
    return np.concatenate([t.ravel() for t in rows])


class Outcome(NamedTuple):
    """Accuracies on the test digits, and in how many spikes and bins frameworks and Lava differ from our cores."""

    as_trained: float
    clustered: float
    integers: float
    differing: int

    @property
    def holds(self) -> bool:
        """What is promised of a training on all digits."""
        return self.as_trained >= MIN_ACCURACY and self.lost <= MAX_ACCURACY_LOSS

    @property
    def lost(self) -> float:
        """Accuracy lost on the way to integers."""
        return self.as_trained - self.integers


def demo(
    out: Path,
    epochs: int = 50,
    seed: int = 0,
    samples: int | None = None,
    quiet: bool = False,
    device: str = "cpu",
) -> int:
    """Run the demo, print what came of it, write pictures, checkpoint and chip file to `out`; 0 where all held.

    device   where it trains, and what it trained is carried from
    """
    where = devices.usable("--device", device)
    if samples is not None and samples < 1:
        raise ValueError(f"--samples: expected at least 1, got {samples}")
    if seed < 0:
        raise ValueError(f"--seed: expected at least 0, got {seed}")
    if seed >= 1 << 64:
        raise ValueError(f"--seed: expected a number of 64 bits, got one of {seed.bit_length()}")
    check_rounds("--epochs", epochs)
    start = time.perf_counter()
    make_folder(out, "--out")
    torch.manual_seed(seed)
    data = digits.load_spikes(seed)
    if samples is not None:
        data = data._replace(train_spikes=data.train_spikes[:, :samples], train_labels=data.train_labels[:samples])
    print(f"digits: {len(data.train_labels)} to train, {len(data.test_labels)} to test")
    print(
        f"coding: one row of 8 pixels after another, {digits.STEPS_PER_ROW} steps a row; brighter pixels spike longer"
    )
    outcome = all_the_way(data, out, epochs, TUNING_EPOCHS if samples is None else 1, quiet, where)
    print(
        f"test digits right: {outcome.as_trained:.1%} as trained, {outcome.clustered:.1%} clustered, "
        f"{outcome.integers:.1%} on the chip's integers"
    )
    print(f"{time.perf_counter() - start:.0f} s")
    if outcome.differing or (samples is None and not outcome.holds):
        print(
            f"NOT AS PROMISED: {outcome.differing} spikes differ, accuracy {outcome.as_trained:.1%} (promised "
            f"{MIN_ACCURACY:.0%}), {outcome.lost:.1%} lost on the way to integers (promised at most "
            f"{MAX_ACCURACY_LOSS:.0%})"
        )
        return 1
    return 0


def all_the_way(
    data: digits.Digits, out: Path, epochs: int, tuning_epochs: int, quiet: bool, device: torch.device
) -> Outcome:
    """From training to integers."""
    net = build().to(device)
    before = taus(convert(net, to="reference"))
    train(net, data, epochs, quiet)
    x, labels = torch.from_numpy(data.test_spikes), data.test_labels
    float32 = accuracy(spikes_and_output(net, x.to(device))[1], labels)
    print(f"snnTorch, float32: {float32:.1%} of the test digits right")

    network32, double = convert(net, to="reference"), net.cpu().double()
    network = convert(double, to="reference")
    differing = compare(double, network, x.double(), labels)
    after = taus(network)
    print(f"time constants before: {describe(before)}")
    print(f"time constants after:  {describe(after)}")
    checkpoint.save(network, out / "digits.safetensors")
    for name in pictures(network, data.test_spikes[:, :1], before, after, out):
        print(f"picture: {out / name}")
    print(f"checkpoint: {out / 'digits.safetensors'}")

    clustered, fixed, wrong = deploy(network32, data, out, tuning_epochs)
    return Outcome(float32, clustered, fixed, differing + wrong)


def deploy(network: Network, data: digits.Digits, out: Path, epochs: int) -> tuple[float, float, int]:
    """Cluster the decays, train on with integers in the loop, write the chip's file, and run that.

    Returns the accuracy on the test digits, clustered and in integers, and in how many bins Lava and the core differ.
    """
    x, labels = data.test_spikes, data.test_labels
    calibration = data.train_spikes[:, :REPORT_SAMPLES]
    clustered, reports = cluster_network(network, CLUSTERS, inputs=calibration)
    moved = ", ".join(f"{name}: v moved by {r.error:.1%}" for name, r in reports.items())
    before = accuracy(readout(clustered, x), labels)
    print(f"clustered to {CLUSTERS} decays a layer: {before:.1%} ({moved} of its deviation)")
    aim = torch.from_numpy(readout(network, data.train_spikes)[-1])
    tuned = fine_tune(clustered, lambda: batches(data, aim), epochs=epochs, loss=as_before, lr=1e-3, decay_lr=1e-4)
    print(f"trained on for {epochs} epochs, integers in the forward pass, towards the float network's own readouts")
    path = out / "digits.net"
    report = export(tuned.network, path, units=tuned.units, clip=True, calibration=x, labels=labels)
    print(report)
    print(f"chip file: {path}")
    return before, report.accuracy["quantised"], compare_with_lava(path, x[:, :LAVA_SAMPLES])


def batches(data: digits.Digits, aim: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The training digits in a random order, BATCH at a time, each with its aim."""
    spikes = torch.from_numpy(data.train_spikes)
    for index in torch.randperm(len(aim)).split(BATCH):
        yield spikes[:, index], aim[index]


def readout(network: Network, x: Array) -> Array:
    """The readout's v, (T, B, 10), of a network of plain data."""
    net = convert(network, to="snntorch")
    return spikes_and_output(net, torch.from_numpy(x))[1]


def compare_with_lava(path: Path, x: Array) -> int:
    """Run the file in Lava's runtime and count the bins in which it differs from the integer core."""
    try:
        start = time.perf_counter()
        in_lava = runtime.run_file(path, x)
    except ImportError as error:
        print(f"Lava left out: {error}")
        return 0
    ours = {name: run.v if run.spikes is None else run.spikes for name, run in chip_file.read(path).run(x).items()}
    wrong = sum(int((in_lava[name] != bins).sum()) for name, bins in ours.items())
    total = sum(bins.size for bins in ours.values())
    print(f"Lava's runtime, {x.shape[1]} digits in {time.perf_counter() - start:.0f} s: ", end="")
    print(f"{wrong} of {total:,} bins differ from the integer core")
    return wrong


def compare(net: nn.Sequential, network: Network, x: Tensor, labels: np.ndarray) -> int:
    """Run the test set in every framework there is, in float64, and count the hidden spikes that differ."""
    z, v = spikes_and_output(net, x)
    print(f"snnTorch, float64: {accuracy(v, labels):.1%}, {z.mean():.1%} of {z.size:,} neuron-steps spike")
    (judge, _), _ = network.run(x[:, :REFERENCE_SAMPLES].numpy()).values()
    assert judge is not None  # the hidden layer spikes
    differing = int((judge != z[:, :REFERENCE_SAMPLES]).sum())
    print(f"reference, float64: {differing} of {judge.size:,} spikes differ (the first {REFERENCE_SAMPLES} digits)")
    try:
        carried = convert(network, to="norse")
    except ImportError as error:
        print(f"Norse left out: {error}")
        return differing
    z_norse, v_norse = spikes_and_output(carried, x)
    wrong = int((z != z_norse).sum())
    print(f"Norse, float64: {accuracy(v_norse, labels):.1%}, {wrong} of {z.size:,} spikes differ from snnTorch's")
    return differing + wrong


def pictures(network: Network, x: Array, before: Array, after: Array, out: Path) -> list[str]:
    """Raster of one digit, the inside of one neuron, and the time constants; returns the files' names."""
    from matplotlib.figure import Figure

    (hidden, _), (z, v), (_, readout) = network.layers[:2], *network.run(x).values()
    assert isinstance(hidden, HetSynLayer) and z is not None
    figure = Figure(figsize=(7, 7), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1, 3, 2))
    plots.raster(x[:, 0], top, "one digit, row after row").set_ylabel("line")
    plots.raster(z[:, 0], middle, "hidden neurons")
    plots.traces(readout[:, 0], bottom, [str(k) for k in range(digits.CLASSES)], "readouts")
    bottom.set_xlabel("step (1 ms)")
    plots.save(figure, out / "raster.png")

    neuron = int(np.abs(z[:, 0].mean(0) - 0.25).argmin())  # neither silent nor firing all the time
    figure = Figure(figsize=(7, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    currents, _ = currents_of(hidden, x, neuron)
    tau = hidden.params.tau(DT).decay[neuron] * 1e3
    labels = [f"line {j}, {t:.1f} ms" for j, t in enumerate(tau)]
    plots.traces(currents, top, labels, f"synaptic currents of neuron {neuron}", "I")
    theta = float(np.broadcast_to(hidden.params.threshold, z.shape[2])[neuron])
    plots.membrane(v[:, 0, neuron], z[:, 0, neuron], theta, bottom)
    bottom.set_xlabel("step (1 ms)")
    plots.save(figure, out / "neuron.png")

    ax = plots.tau_histogram({"before training": before, "after training": after}, title="synaptic time constants")
    plots.save(ax.figure, out / "taus.png")
    return ["raster.png", "neuron.png", "taus.png"]


def currents_of(layer: HetSynLayer, x: Array, neuron: int) -> tuple[Array, Array]:
    """Synaptic currents (T, M) and v (T,) of one neuron for one sample x (T, 1, M)."""
    v, states = reference.trajectory(layer.params, x)
    return np.array([s.current[0, neuron] for s in states[1:]]), v[:, 0, neuron]
