"""A network of HetSyn neurons as a module of PyTorch Lightning, whose decays come back into range after every step."""

import logging
from typing import Any

import lightning as L
import torch
from torch import nn

import hetsyn_plugins
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, reset

STEPS, LINES = 40, 8


def order_of_two(samples: int) -> torch.utils.data.TensorDataset:
    """Lines 0 and 1 fire once each, the others are noise: samples (T, M), and which was first."""
    first = torch.randint(2, (samples,))
    x = (torch.rand(samples, STEPS, LINES) < 0.05).float()
    x[:, :, :2] = 0.0
    x[torch.arange(samples), 5, first] = 1.0
    x[torch.arange(samples), 20, 1 - first] = 1.0
    return torch.utils.data.TensorDataset(x, first)


class Order(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        tau = hetsyn_plugins.NormalTau(20e-3, 5e-3, dt=1e-3)
        self.net = nn.Sequential(
            HetSynLeaky(LINES, 32, tau, input_rate=0.05, batch_first=True, init_hidden=True),
            HetSynLeaky(32, 2, tau, spiking=False, batch_first=True, init_hidden=True),
        )

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        x, first = batch  # (B, T, M), as a DataLoader stacks them
        reset(self.net)
        v = self.net(x)[:, -1]
        self.accuracy = (v.argmax(1) == first).float().mean().item()
        return nn.functional.cross_entropy(v, first)

    def on_train_batch_end(self, *_: Any) -> None:
        hetsyn_plugins.clamp_(self.net)  # the optimiser's step is behind us: back onto the range what left it

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.manual_seed(0)
quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
module = Order()
trainer = L.Trainer(max_epochs=2, accelerator="cpu", devices=1, **quiet)
trainer.fit(module, torch.utils.data.DataLoader(order_of_two(4000), batch_size=64, shuffle=True))
alpha = module.net[0].alpha.detach()
assert 0 <= alpha.min() and alpha.max() <= 1
print(f"{trainer.global_step} steps, accuracy of the last batch {module.accuracy:.0%}")
print(
    f"decays from {alpha.min().item():.3f} to {alpha.max().item():.3f}, {int((alpha == 1).sum())} of them at the bound"
)
