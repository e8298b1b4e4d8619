"""Bugs planted on purpose: a piece of real source text is replaced, the module runs with it, and a check must notice.

A module is executed anew from its changed text, under its own name but beside the real one, so that the bug sits in the
very code that ships. A piece of text that is not there as often as was said is an error (LookupError), as is one that
does not compile: the lists cannot rot, and what merely crashes is no catch, because every bug names the error that must
come and a piece of its message.
"""

from __future__ import annotations

import ast
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
            source = changed_text(module, old, new, times=times) if name == module else Path(path).read_text()
            fresh[name] = types.ModuleType(name)
            fresh[name].__file__ = path
            fresh[name].__package__ = real[name].__package__
            _put(name, fresh[name])
            with _nothing_cached():
                exec(compile(source, path, "exec"), fresh[name].__dict__)
    _share_compiled(real, fresh, module, old)
    return fresh


def changed_text(module: str, old: str, new: str, *, times: int = 1) -> str:
    """The module's source with its `times` occurrences of `old` replaced."""
    source = Path(str(import_module(module).__file__)).read_text()
    if source.count(old) != times:
        raise LookupError(f"{module}: expected {old!r} {times} times, found {source.count(old)}")
    return source.replace(old, new)


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


# ---- compiled kernels


@contextmanager
def _nothing_cached() -> Iterator[None]:
    """Compiled code is kept on disk by the name of its file: changed kernels must neither find nor leave any there."""
    compiled = sys.modules.get("hetsyn_plugins.kernels.cpu.compiled")
    if compiled is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "keep", lambda dispatcher: None)
        yield


def _share_compiled(
    real: Mapping[str, types.ModuleType], fresh: Mapping[str, types.ModuleType], module: str, old: str
) -> None:
    """Give the fresh modules the real ones' compiled kernels where the change does not reach: compiling takes seconds.

    It reaches what it stands in, and whatever mentions that, in the module or in one that imports it.
    """
    reached: dict[str, set[str]] = {}
    for name, copy in fresh.items():
        source = Path(str(copy.__file__)).read_text()
        statements = ast.parse(source).body
        seeds = _standing_in(source, statements, old) if name == module else set()
        for node in statements:
            if isinstance(node, ast.ImportFrom):
                names = {a.asname or a.name: a.name for a in node.names}
                seeds |= {here for here, there in names.items() if there in reached.get(str(node.module), ())}
                seeds |= {here for here, there in names.items() if f"{node.module}.{there}" in fresh}
        reached[name] = _mentioning(statements, seeds)
        kernels = {n: x for n, x in vars(real[name]).items() if hasattr(x, "py_func") and x.__module__ == name}
        vars(copy).update({n: kernel for n, kernel in kernels.items() if n not in reached[name]})


def _standing_in(source: str, statements: Sequence[ast.stmt], old: str) -> set[str]:
    """The names that the statements bind in which `old` occurs."""
    starts = [match.start() for match in re.finditer(re.escape(old), source)]
    lines = [(source.count("\n", 0, at) + 1, source.count("\n", 0, at + len(old)) + 1) for at in starts]
    inside = [
        s for s in statements if any(s.lineno <= last and first <= int(s.end_lineno or 0) for first, last in lines)
    ]
    return set().union(*map(_bound, inside))


def _bound(statement: ast.stmt) -> set[str]:
    names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return {statement.name} if isinstance(statement, ast.FunctionDef | ast.ClassDef) else names


def _mentioning(statements: Sequence[ast.stmt], names: set[str]) -> set[str]:
    """These names and all whose statements mention one of them, directly or by way of others."""
    while True:
        mentions = [s for s in statements if {n.id for n in ast.walk(s) if isinstance(n, ast.Name)} & names]
        more = names.union(*map(_bound, mentions))
        if more == names:
            return names
        names = more


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
