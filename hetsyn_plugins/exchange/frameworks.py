"""Adding our names to a framework's own modules, on request only, and taking them away again."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

FRAMEWORKS = ("snntorch", "norse", "lava_dl")
LAVA = (
    "lava is not installed: pip install 'hetsyn_plugins[lava]' (Python 3.10 only); "
    "training, clustering, the integer core and export work without it"
)


def register(framework: str | None = None) -> tuple[str, ...]:
    """Add HetSyn's names to "snntorch", "norse" or "lava_dl" (None: all installed); a second call changes nothing.

    Returns the frameworks registered. Raises ValueError for an unknown name, ImportError where it is not installed.
    """
    names = _names(framework)
    for name in names:
        _adapter(name).install()
    return names


def unregister(framework: str | None = None) -> tuple[str, ...]:
    """Undo `register`."""
    names = _names(framework)
    for name in names:
        _adapter(name).uninstall()
    return names


def _names(framework: str | None) -> tuple[str, ...]:
    if framework is None:
        return tuple(name for name in FRAMEWORKS if _installed(name))
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework: expected one of {', '.join(FRAMEWORKS)}, got {framework!r}")
    return (framework,)


def _adapter(name: str) -> ModuleType:
    if not _installed(name):
        raise ImportError(
            LAVA if name == "lava_dl" else f"{name} is not installed: pip install 'hetsyn_plugins[{name}]'"
        )
    return importlib.import_module(f"hetsyn_plugins.adapters.{'lava_dl.slayer' if name == 'lava_dl' else name}")


def _installed(name: str) -> bool:
    return importlib.util.find_spec("lava" if name == "lava_dl" else name) is not None
