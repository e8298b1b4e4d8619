"""Which frameworks there are, which are installed, and their adapters: the one place that loads an adapter by name.

An adapter is a module of `hetsyn_plugins.adapters` with `install` and `uninstall`, which add our names to the
framework's own modules and take them away again: on request only.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import NamedTuple


class Framework(NamedTuple):
    """The adapter's module, what the framework is imported as, the extra that installs it, and what to know of it."""

    adapter: str
    imported_as: str
    extra: str
    note: str = ""


WITHOUT_LAVA = (
    "training, clustering, quantisation, chip files (hetsyn_plugins.loihi) and the integer core work without it"
)

FRAMEWORKS = {
    "snntorch": Framework("snntorch", "snntorch", "snntorch"),
    "norse": Framework("norse", "norse", "norse"),
    "lava_dl": Framework("lava_dl.slayer", "lava", "lava", f" (Python 3.10 only); {WITHOUT_LAVA}"),
}
CONVERTIBLE = ("snntorch", "norse")  # whose networks `convert` reads and makes


def register(framework: str | None = None) -> tuple[str, ...]:
    """Add HetSyn's names to "snntorch", "norse" or "lava_dl" (None: all installed); a second call changes nothing.

    Returns the frameworks registered. Raises ValueError for an unknown name, ImportError where it is not installed.
    """
    names = _names(framework)
    for name in names:
        adapter(name).install()
    return names


def unregister(framework: str | None = None) -> tuple[str, ...]:
    """Undo `register`."""
    names = _names(framework)
    for name in names:
        adapter(name).uninstall()
    return names


def is_installed(framework: str) -> bool:
    """Can this framework be imported?"""
    return importlib.util.find_spec(FRAMEWORKS[framework].imported_as) is not None


def why_not_installed(framework: str) -> str | None:
    """None for a framework that can be imported; else what to do about it."""
    return None if is_installed(framework) else how_to_install(framework) + FRAMEWORKS[framework].note


def how_to_install(framework: str) -> str:
    """What is said where a framework is missing."""
    known = FRAMEWORKS[framework]
    return f"{known.imported_as} is not installed: pip install 'hetsyn_plugins[{known.extra}]'"


def require(framework: str) -> None:
    """Raise ImportError, saying what to do, for a framework that is not installed."""
    if reason := why_not_installed(framework):
        raise ImportError(reason)


def adapter(framework: str) -> ModuleType:
    """The adapter of a framework; ImportError where it is not installed."""
    require(framework)
    return importlib.import_module(f"hetsyn_plugins.adapters.{FRAMEWORKS[framework].adapter}")


def _names(framework: str | None) -> tuple[str, ...]:
    if framework is None:
        return tuple(name for name in FRAMEWORKS if is_installed(name))
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework: expected one of {', '.join(FRAMEWORKS)}, got {framework!r}")
    return (framework,)
