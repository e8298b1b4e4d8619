"""A convolutional network of HetSyn neurons on Fashion-MNIST (scikit-learn's digits where it is not there).

python examples/convolutional.py [IMAGES EPOCHS]: 2000 and 2; 60000 and 6 take the whole training set, for minutes
"""

import sys

import torch
from torch import nn

import hetsyn_plugins
from hetsyn_plugins.adapters.snntorch import HetSynConv2d, HetSynLeaky, reset
from hetsyn_plugins.experiments.tasks.images import Images, load_images

DT, STEPS, BATCH = 1e-3, 8, 50
images, epochs = map(int, sys.argv[1:3] or ("2000", "2"))
torch.manual_seed(0)
try:
    data = load_images("fashion_mnist")
except FileNotFoundError:
    data = load_images("digits")


def tensors(part: Images, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 28, 28) in [0, 1], and labels."""
    pixels = torch.tensor(part.images[:count, None] / data.white, dtype=torch.float32)
    return nn.functional.interpolate(pixels, (28, 28)), torch.tensor(part.labels[:count]).long()


def shown(pixels: torch.Tensor) -> torch.Tensor:
    """The same image at every step, (T, B, 1, 28, 28): each pixel is a current."""
    return pixels.expand(STEPS, *pixels.shape)


tau = hetsyn_plugins.NormalTau(5e-3, 2e-3, dt=DT)
net = nn.Sequential(
    HetSynConv2d(1, 8, 5, stride=2, alpha=tau, dt=DT, init_hidden=True),  # (T, B, 8, 12, 12)
    nn.AvgPool2d(2),  # of every step
    HetSynConv2d(8, 16, 3, alpha=tau, dt=DT, init_hidden=True, input_rate=0.2),  # (T, B, 16, 4, 4)
    nn.Flatten(),  # of every step: (T, B, 256)
    HetSynLeaky(256, 10, tau, dt=DT, spiking=False, init_hidden=True),
)
optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
x, labels = tensors(data.train, images)
for epoch in range(epochs):
    for rows in torch.randperm(len(x)).split(BATCH):
        reset(net)
        loss = nn.functional.cross_entropy(net(shown(x[rows])).mean(0), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        hetsyn_plugins.clamp_(net)
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

correct = 0
x, labels = tensors(data.test, 1000)
with torch.no_grad():
    for rows in torch.arange(len(x)).split(BATCH):
        reset(net)
        correct += int((net(shown(x[rows])).mean(0).argmax(1) == labels[rows]).sum())
print(f"{correct / len(x):.1%} of {len(x)} test images")
tau_now = 1e3 * DT / net[0].alpha.log().abs()
print(f"time constants of the first layer's synapses: {tau_now.min():.1f} to {tau_now.max():.1f} ms")
