"""Adding our names to a framework's own modules, on request only, and taking them away again."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

FRAMEWORKS = ("snntorch", "norse")


def register(framework: str | None = None) -> tuple[str, ...]:
    """Add HetSyn's names to "snntorch" or "norse" (None: all that are installed); a second call changes nothing.

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
        return tuple(name for name in FRAMEWORKS if importlib.util.find_spec(name))
    if framework not in FRAMEWORKS:
        later = " (Lava-DL is not in this version)" if framework == "lava_dl" else ""
        raise ValueError(f"framework: expected one of {', '.join(FRAMEWORKS)}, got {framework!r}{later}")
    return (framework,)


def _adapter(name: str) -> ModuleType:
    if importlib.util.find_spec(name) is None:
        raise ImportError(f"{name} is not installed: pip install 'hetsyn_plugins[{name}]'")
    return importlib.import_module(f"hetsyn_plugins.adapters.{name}")
