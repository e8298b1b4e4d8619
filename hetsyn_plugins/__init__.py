"""HetSynLIF, the spiking neuron whose every synapse has its own time constant, for snnTorch, Norse and Lava-DL.

Importing this loads NumPy only; torch and the frameworks are loaded by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hetsyn_plugins.initialisers import ConstantDecay, ConstantTau, LogNormalTau, NormalTau, UniformTau
from hetsyn_plugins.params import HetSynParams, HetSynState, Taus, decay_to_tau, tau_to_decay

if TYPE_CHECKING:
    from hetsyn_plugins.conversion import convert
    from hetsyn_plugins.ops import choose_backend, hetsyn_li, hetsyn_lif, hetsyn_lif_step
    from hetsyn_plugins.quantised import hetsyn_lif_quantised
    from hetsyn_plugins.registration import register, unregister

__version__ = "0.1.0"

__all__ = [
    "ConstantDecay",
    "ConstantTau",
    "HetSynParams",
    "HetSynState",
    "LogNormalTau",
    "NormalTau",
    "Taus",
    "UniformTau",
    "choose_backend",
    "convert",
    "decay_to_tau",
    "hetsyn_li",
    "hetsyn_lif",
    "hetsyn_lif_quantised",
    "hetsyn_lif_step",
    "register",
    "tau_to_decay",
    "unregister",
]

# names whose module needs torch, imported at first use
_LAZY = {
    "convert": "conversion",
    "choose_backend": "ops",
    "hetsyn_li": "ops",
    "hetsyn_lif": "ops",
    "hetsyn_lif_quantised": "quantised",
    "hetsyn_lif_step": "ops",
    "register": "registration",
    "unregister": "registration",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
