"""Bugs planted on purpose: a piece of real source text is replaced, the module runs with it, and a check must notice.

A module is executed anew from its changed text, under its own name but beside the real one, so that the bug sits in the
very code that ships. A piece of text that is not there as often as was said is an error (LookupError), as is one that
does not compile: the lists cannot rot, and what merely crashes is no catch, because every bug names the error that must
come and a piece of its message.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


def changed(
    module: str, old: str, new: str, *, around: Sequence[str] = (), times: int = 1
) -> dict[str, types.ModuleType]:
    """The module with its `times` occurrences of `old` replaced, by name; `sys.modules` is left as it was.

    around  modules to be executed anew with it, in the order of their imports, `module` among them: those that import
            it by name and would go on with the real one
    """
    names = list(around) or [module]
    assert module in names, f"around: expected {module} among {names}"
    real = {name: import_module(name) for name in names}
    fresh: dict[str, types.ModuleType] = {}
    with _restored(names):
        for name in names:
            path = str(real[name].__file__)
            source = Path(path).read_text()
            if name == module:
                if source.count(old) != times:
                    raise LookupError(f"{name}: expected {old!r} {times} times, found {source.count(old)}")
                source = source.replace(old, new)
            code = compile(source.replace("cache=True", "cache=False"), path, "exec")  # numba caches by file
            fresh[name] = types.ModuleType(name)
            fresh[name].__file__ = path
            fresh[name].__package__ = real[name].__package__
            _put(name, fresh[name])
            exec(code, fresh[name].__dict__)
    return fresh


@contextmanager
def in_place(modules: Mapping[str, types.ModuleType]) -> Iterator[None]:
    """These modules are what an import of their names finds, until the end of the block."""
    with _restored(modules):
        for name, module in modules.items():
            _put(name, module)
        yield


@contextmanager
def planted(
    module: str, old: str, new: str, *, around: Sequence[str] = (), times: int = 1
) -> Iterator[types.ModuleType]:
    """`changed`, in the place of the real modules until the end of the block; gives the changed module."""
    fresh = changed(module, old, new, around=around, times=times)
    with in_place(fresh):
        yield fresh[module]


def caught(says: str, error: type[BaseException] = AssertionError) -> Any:
    """The block must raise this very error, with this piece of text in its message."""
    return pytest.raises(error, match=re.escape(says))


@contextmanager
def _restored(names: Any) -> Iterator[None]:
    """At the end these names are what they were: in a package a module may stand behind a function of its name."""
    kept = {name: (import_module(name), _attribute(name)) for name in names}
    try:
        yield
    finally:
        for name, (module, attribute) in kept.items():
            _put(name, module)
            package, _, last = name.rpartition(".")
            setattr(sys.modules[package], last, attribute)


def _attribute(name: str) -> Any:
    package, _, last = name.rpartition(".")
    return getattr(sys.modules[package], last)


def _put(name: str, module: types.ModuleType) -> None:
    """Make `module` what an import of `name` finds, as an entry and as an attribute of its package."""
    sys.modules[name] = module
    package, _, attribute = name.rpartition(".")
    setattr(sys.modules[package], attribute, module)
