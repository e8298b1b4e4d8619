"""Adding our names to slayer's own modules and our layers to stock netx, and taking them away again."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import lava.lib.dl.slayer as slayer

from hetsyn_plugins.adapters.lava_dl import stock_netx
from hetsyn_plugins.adapters.lava_dl.slayer.block import Affine, Dense, Flatten, Input, Recurrent
from hetsyn_plugins.adapters.lava_dl.slayer.convolution import Conv, Pool
from hetsyn_plugins.adapters.lava_dl.slayer.neuron import Neuron, neuron_params
from hetsyn_plugins.adapters.lava_dl.slayer.synapse import Synapse

_added: dict[str, ModuleType] = {}


def install() -> None:
    """Add `hetsyn` to slayer's `synapse`, `neuron` and `block`, and HETSYN neurons to netx; may be called again."""
    ours: dict[str, dict[str, Any]] = {
        "synapse": {"Dense": Synapse},
        "neuron": {"Neuron": Neuron, "neuron_params": neuron_params},
        "block": {cls.__name__: cls for cls in (Input, Flatten, Dense, Recurrent, Affine, Conv, Pool)},
    }
    for part in ours:
        there = getattr(getattr(slayer, part), "hetsyn", None)
        if there is not None and there is not _added.get(part):
            raise ValueError(f"lava.lib.dl.slayer.{part}.hetsyn: expected to be free, is already {there!r}")
    for part, names in ours.items():
        if part not in _added:
            module = ModuleType(f"lava.lib.dl.slayer.{part}.hetsyn", f"HetSynLIF: {', '.join(names)}.")
            module.__dict__.update(names)
            _added[part] = sys.modules[module.__name__] = module
            setattr(getattr(slayer, part), "hetsyn", module)  # noqa: B010  the framework's module has no such name
    stock_netx.install()


def uninstall() -> None:
    """Undo `install`."""
    for part, module in _added.items():
        if getattr(getattr(slayer, part), "hetsyn", None) is module:
            delattr(getattr(slayer, part), "hetsyn")
        if sys.modules.get(module.__name__) is module:
            del sys.modules[module.__name__]
    _added.clear()
    stock_netx.uninstall()
