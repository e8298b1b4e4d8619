"""Eight decays a layer, trained from the start, and as they are on a chip's integers: no clustering, no fine-tuning.

The network and the digits are those of `hetsyn demo`. Arguments: epochs (50 in the demo) and a seed.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetsyn_plugins import LogNormalTau, deployment
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.cli.demo import DT, train
from hetsyn_plugins.experiments.data import digits

epochs, seed = (int(word) for word in [*sys.argv[1:], *("2", "0")[len(sys.argv) - 1 :]])
torch.manual_seed(seed)
data = digits.load_spikes(seed)
tau = LogNormalTau(10e-3, 0.3, dt=DT)
shared: dict[str, Any] = {"share": "codebook", "clusters": 8, "init_hidden": True, "dt": DT}
net = nn.Sequential(
    RHetSynLeaky(digits.LINES, 64, alpha=tau, rec_alpha=tau, beta=0.9, **shared),
    HetSynLeaky(64, digits.CLASSES, alpha=tau, spiking=False, **shared),
)
train(net, data, epochs, quiet=True)
with tempfile.TemporaryDirectory() as folder:
    report = deployment.export(
        net, Path(folder, "digits.net"), clip=True, calibration=data.test_spikes, labels=data.test_labels
    )
decays = [layer.clusters for layer in report.layers]
print(f"{decays} decays; of {len(data.test_labels)} test digits right:", end=" ")
print(", ".join(f"{share:.1%} {name}" for name, share in report.accuracy.items()))
