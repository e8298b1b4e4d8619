"""Backends by name: those here, those of installed distributions, and any that can be imported.

A name is one of `known()`, or an import path `package.module:attribute`, where the attribute is a backend, a factory of
one, or an object with `run(case)`. Distributions name theirs in the entry-point group `hetsyn_plugins.backends`:

    [options.entry_points]
    hetsyn_plugins.backends =
        mine = package.module:attribute
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.conformance import backends, checks, integers
from hetsyn_plugins.conformance.cases import Backend

GROUP = "hetsyn_plugins.backends"
DTYPES: tuple[type, ...] = (np.float64, np.float32)
AnyBackend = Backend | integers.Backend


class Known(NamedTuple):
    """The backends that can run, floats first, and name -> reason for those that cannot."""

    present: dict[str, AnyBackend]
    absent: dict[str, str]


def known() -> Known:
    """All that is here or installed. One that cannot be loaded, or has the name of another, is absent, and why."""
    floats, absent_floats = backends.available()
    whole, absent_whole = integers.available()
    present: dict[str, AnyBackend] = {backend.name: backend for backend in floats}
    present |= {backend.name: backend for backend in whole}
    absent = {**absent_floats, **absent_whole}
    for point in entry_points(group=GROUP):
        owner = f"entry point {point.name!r} of {point.dist.name if point.dist else 'a distribution'}"
        if point.name in present or point.name in absent:
            absent[f"{point.name} ({point.value})"] = f"{owner}: expected a name of its own, got one that is taken"
            continue
        try:
            present[point.name] = replace(_loaded(owner, point), name=point.name)
        except ValueError as error:
            absent[point.name] = str(error)
    return Known(present, absent)


def load(name: str, argument: str = "backend", among: Known | None = None) -> AnyBackend:
    """The backend of this name or import path; modules are looked for in the current folder too.

    among  what `known()` gave, if that was asked before

    Raises ValueError, which begins with `argument`, where there is none: what was expected, and what came.
    """
    if ":" in name:
        return at_path(name, argument)
    present, absent = among or known()
    if name in absent:
        raise ValueError(f"{argument}: expected one that runs here, got {name!r}: {absent[name]}")
    if name not in present:
        hint = f"; an import path has a colon, {':'.join(name.rsplit('.', 1))}" if "." in name else ""
        expected = f"one of {', '.join(present)}, or package.module:attribute"
        raise ValueError(f"{argument}: expected {expected}, got {name!r}{hint}")
    return present[name]


def at_path(path: str, argument: str = "backend") -> AnyBackend:
    """The backend at an import path; its name is its own, or the attribute's."""
    module, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        raise ValueError(f"{argument}: expected package.module:attribute, got {path!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the folder of `python -m`, which a console script lacks
    return _loaded(f"{argument} {path!r}", EntryPoint(attribute, path, GROUP))


def _loaded(what: str, point: EntryPoint) -> AnyBackend:
    """What an entry point leads to, as a backend. Raises ValueError, which begins with `what`."""
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        if isinstance(error, AttributeError) and point.module in sys.modules:
            raise ValueError(f"{what}: expected {point.attr} in {point.module}, got none{_meant(point)}") from error
        raise ValueError(f"{what}: expected a module to import, got {type(error).__name__}: {error}") from error
    return replace(as_backend(found, point.attr, what), origin=point.value)


def _meant(point: EntryPoint) -> str:
    """What of a similar name is in the module."""
    close = difflib.get_close_matches(point.attr, dir(sys.modules[point.module]))
    return f"; there is {', '.join(close)}" if close else ""


def as_backend(found: Any, name: str, what: str) -> AnyBackend:
    """A backend of a backend, of a factory of one, or of an object with `run(case)`.

    An object's attributes of the names of `Backend`'s fields are those fields: `name`, `dtypes`, `gradients`, ...
    Raises ValueError, which begins with `what`.
    """
    made_by = ""
    if inspect.isclass(found) or (callable(found) and not _runs(found)):
        found, made_by = _made(found, what), f" from {name}()"
    if isinstance(found, AnyBackend):
        checked(found, what)
        return found
    if not _runs(found):
        expected = "a Backend, or an object with a method run(case)"
        lacks = "" if found is None else ", which has no run"
        raise ValueError(f"{what}: expected {expected}, got {_kind(found)}{made_by}{lacks}")
    fields = [field.name for field in dataclasses.fields(Backend) if hasattr(found, field.name)]
    backend = Backend(**{"name": name, **{field: getattr(found, field) for field in fields}})
    checked(backend, what)
    return backend


def _runs(found: Any) -> bool:
    return callable(getattr(found, "run", None))


def _made(factory: Callable[[], Any], what: str) -> Any:
    """What a factory gives."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # of something written in C
        signature = inspect.Signature()
    try:
        signature.bind()
    except TypeError as error:
        got = f"{getattr(factory, '__name__', type(factory).__name__)}{signature}"
        hint = "one that runs cases becomes one with Backend(name, run)"
        raise ValueError(f"{what}: expected a factory without arguments, got {got}; {hint}") from error
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what}: expected a backend from it, got {type(error).__name__}: {error}") from error


def _kind(found: Any) -> str:
    return "None" if found is None else type(found).__name__


def checked(backend: AnyBackend, what: str) -> None:
    """Raise ValueError, which begins with `what`, where a field of a backend cannot be meant."""
    if not isinstance(backend.name, str) or not backend.name:
        raise ValueError(f"{what}: name: expected a text, got {backend.name!r}")
    if not callable(backend.run):
        raise ValueError(f"{what}: run: expected a function of a case, got {backend.run!r}")
    names = checks.CHECKS if isinstance(backend, Backend) else integers.CHECKS
    if not isinstance(backend.known, Mapping):
        raise ValueError(f"{what}: known: expected a dict, check -> why it does not hold, got {backend.known!r}")
    for name in backend.known:
        if name not in names:
            raise ValueError(f"{what}: known: expected checks ({', '.join(names)}), got {name!r}")
    if isinstance(backend, Backend):
        _check_options(backend, what)


def _check_options(backend: Backend, what: str) -> None:
    if not backend.dtypes or not set(backend.dtypes) <= set(DTYPES):
        raise ValueError(f"{what}: dtypes: expected of numpy.float64 and numpy.float32, got {backend.dtypes!r}")
    for option in ("gradients", "states", "delays", "masks", "codebooks", "convolutions", "z_from_v"):
        if not isinstance(getattr(backend, option), bool):
            raise ValueError(f"{what}: {option}: expected True or False, got {getattr(backend, option)!r}")
    if backend.takes is not None and not callable(backend.takes):
        raise ValueError(f"{what}: takes: expected a function of a case or None, got {backend.takes!r}")
