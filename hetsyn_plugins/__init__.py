"""HetSynLIF, the spiking neuron whose every synapse has its own time constant, for snnTorch, Norse and Lava-DL.

Importing this loads nothing else: NumPy, torch and the frameworks are loaded by what needs them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hetsyn_plugins._version import __version__ as __version__

if TYPE_CHECKING:
    from hetsyn_plugins.core.fields import HetSynState, Taus
    from hetsyn_plugins.core.initialisers import (
        ConstantDecay,
        ConstantTau,
        FluctuationDriven,
        LogNormalTau,
        NormalTau,
        UniformDelay,
        UniformTau,
    )
    from hetsyn_plugins.core.params import HetSynParams, decay_to_tau, tau_to_decay
    from hetsyn_plugins.exchange.authors import import_authors
    from hetsyn_plugins.exchange.conversion import convert
    from hetsyn_plugins.exchange.frameworks import register, unregister
    from hetsyn_plugins.ops.dispatch import choose_backend
    from hetsyn_plugins.ops.lif import hetsyn_li, hetsyn_lif, hetsyn_lif_step
    from hetsyn_plugins.ops.pruning import prune_
    from hetsyn_plugins.ops.straight_through import hetsyn_lif_quantised
    from hetsyn_plugins.ops.trainable import clamp_, reassign_, round_delays_

__all__ = [
    "ConstantDecay",
    "ConstantTau",
    "FluctuationDriven",
    "HetSynParams",
    "HetSynState",
    "LogNormalTau",
    "NormalTau",
    "Taus",
    "UniformDelay",
    "UniformTau",
    "choose_backend",
    "clamp_",
    "convert",
    "decay_to_tau",
    "hetsyn_li",
    "hetsyn_lif",
    "hetsyn_lif_quantised",
    "hetsyn_lif_step",
    "import_authors",
    "prune_",
    "reassign_",
    "register",
    "round_delays_",
    "tau_to_decay",
    "unregister",
]

# names whose module is imported at first use: the core needs NumPy, most others torch
_LAZY = {
    **dict.fromkeys(("HetSynState", "Taus"), "core.fields"),
    **dict.fromkeys(
        (
            "ConstantDecay",
            "ConstantTau",
            "FluctuationDriven",
            "LogNormalTau",
            "NormalTau",
            "UniformDelay",
            "UniformTau",
        ),
        "core.initialisers",
    ),
    **dict.fromkeys(("HetSynParams", "decay_to_tau", "tau_to_decay"), "core.params"),
    "convert": "exchange.conversion",
    "choose_backend": "ops.dispatch",
    **dict.fromkeys(("clamp_", "reassign_", "round_delays_"), "ops.trainable"),
    "prune_": "ops.pruning",
    "hetsyn_li": "ops.lif",
    "hetsyn_lif": "ops.lif",
    "hetsyn_lif_quantised": "ops.straight_through",
    "hetsyn_lif_step": "ops.lif",
    "import_authors": "exchange.authors",
    "register": "exchange.frameworks",
    "unregister": "exchange.frameworks",
}

# modules that stood elsewhere once, under the names that code and pickles of that time import
_MOVED = {
    "backends": "conformance.backends",
    "checkpoint": "exchange.checkpoint",
    "clusters": "deployment.clusters",
    "finetune": "deployment.finetune",
    "initialisers": "core.initialisers",
    "loihi": "deployment.chip_file",
    "network": "core.network",
    "nir": "exchange.nir",
    "onnx": "exchange.onnx",
    "params": "core.params",
    "reference": "core.reference",
    "surrogate": "core.surrogate",
    "tasks": "experiments.tasks",
    **{f"tasks.{name}": f"experiments.tasks.{name}" for name in ("dms", "images", "patterns", "speech", "task")},
    **{
        f"{tasks}.{name}": f"experiments.data.{name}"
        for tasks in (
            "tasks",
            "experiments.tasks",
        )  # the second: what `from hetsyn_plugins.tasks import digits` asks for
        for name in ("cochlea", "digits", "idx", "shd", "speakers", "spoken_digits")
    },
}


class _MovedModules(MetaPathFinder, Loader):
    """`import hetsyn_plugins.params` gives the very module that is `hetsyn_plugins.core.params` now."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == __name__ and name in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(f"{__name__}.{_MOVED[spec.name.partition('.')[2]]}")
        spec.loader_state = module.__spec__  # the import system writes its own over it
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its own name; what it is called stays."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


# in front: a moved package's files would be found a second time, under its old name
sys.meta_path.insert(0, _MovedModules())


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return import_module(f"{__name__}.{_MOVED[name]}")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
