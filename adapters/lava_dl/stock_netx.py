"""Stock netx that knows our layers: `lava.lib.dl.netx.hdf5.Network` builds processes of ours where neurons are HETSYN.

`install` does not import netx, which sets multiprocessing's start method: where it is not imported yet, its class is
changed when it is. Stock layers are built as before. What our own `netx.Network` can do beyond (samples that share
nothing, overflow that is let pass, messages for damaged stock layers) stays there.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from hetsyn_plugins.deployment import chip_file

READER = "lava.lib.dl.netx.hdf5"


class _AtImport(MetaPathFinder):
    """Finds netx as Python does, and changes it once it has run."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == READER else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            _teach(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # this loader is of this import alone
        return spec


_finder = _AtImport()


def install() -> None:
    """Make stock netx know our layers, now or when it is imported; may be called again."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    if READER in sys.modules:
        _teach(sys.modules[READER])


def uninstall() -> None:
    """Undo `install`."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    network = getattr(sys.modules.get(READER), "Network", None)
    if network is not None and (stock := getattr(network.create_dense, "stock", None)) is not None:
        network.create_dense = staticmethod(stock)


def _teach(netx: ModuleType) -> None:
    """Let `create_dense`, which stock netx calls for every dense layer, build ours."""
    stock: Callable[..., Any] = netx.Network.create_dense
    if hasattr(stock, "stock"):
        return
    signature = inspect.signature(stock)

    def create_dense(*arguments: Any, **options: Any) -> Any:
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        group = bound.arguments["layer_config"].f
        if "neuron/type" not in group or chip_file.read_text(group, "neuron/type") != chip_file.NEURON:
            return stock(*arguments, **options)
        from hetsyn_plugins.adapters.lava_dl.proc.network.process import hetsyn_process

        when = {name: bound.arguments[name] for name in ("reset_interval", "reset_offset")}
        return hetsyn_process(chip_file.read_layer(group), **when)

    create_dense.stock = stock  # type: ignore[attr-defined]
    netx.Network.create_dense = staticmethod(create_dense)
