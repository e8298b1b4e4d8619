"""What a user finds after installing the wheel; run with `python -I` from another folder than the checkout."""

import importlib
import importlib.util
import sys
from importlib.metadata import files, version
from pathlib import Path

import torch

import hetsyn_plugins
from hetsyn_plugins.ops import lif as ops

site_packages = Path(hetsyn_plugins.__file__).parent.parent
assert Path(sys.prefix) in site_packages.parents, f"hetsyn_plugins comes from {site_packages}, not from the wheel"

brought = {file.parts[0] for file in files("hetsyn_plugins") or [] if file.parts[0] != ".."}  # "..": bin/hetsyn
expected = {"hetsyn_plugins", f"hetsyn_plugins-{version('hetsyn_plugins')}.dist-info"}
assert brought == expected, f"the wheel brought {sorted(brought)} to the top level, not {sorted(expected)}"

adapters = [name for name in ("snntorch", "norse") if importlib.util.find_spec(name) is not None]
assert adapters, "neither snnTorch nor Norse is installed"
for adapter in adapters:
    module = importlib.import_module(f"hetsyn_plugins.adapters.{adapter}")
    assert Path(module.__file__ or "").parent == site_packages / "hetsyn_plugins" / "adapters"

# One synapse of weight 1 and decay 0.5, no reset: v = 1, 0.5, 0.25 after one input spike; v == threshold is no spike.
inputs = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
spikes, v, _ = ops.hetsyn_lif(inputs, torch.ones(1, 1), torch.tensor(0.5), reset_decay=None)
assert v.flatten().tolist() == [1.0, 0.5, 0.25] and not spikes.any()
print(f"hetsyn_plugins {version('hetsyn_plugins')} from {site_packages}: imports, one op and {adapters} are fine")
