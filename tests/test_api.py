"""The public names and their signatures, as `tests/data/public_api.txt` has them.

What a change needs is in CONTRIBUTING.md.

After a change that is meant: `python tests/test_api.py` (Python 3.10, all frameworks) writes the file anew.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parent / "data" / "public_api.txt"
ADAPTERS = {
    "snntorch": "adapters.snntorch",
    "norse": "adapters.norse",
    "lava": "adapters.lava_dl.slayer adapters.lava_dl.netx adapters.lava_dl.runtime adapters.lava_dl.stock",
}
OTHERS = (
    "conformance deployment fixed_point ops testing backends checkpoint clusters finetune initialisers loihi network "
    "nir onnx params reference surrogate tasks experiments"
)
HANDED_ON = ("runtime.isolated", "Backend.draw")  # to a function of the caller's, or of the same name
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def modules() -> list[str]:
    """The public modules whose framework is installed."""
    there = [names for host, names in ADAPTERS.items() if importlib.util.find_spec(host) is not None]
    return ["hetsyn_plugins", *(f"hetsyn_plugins.{name}" for name in " ".join([*there, OTHERS]).split())]


def public(module: Any) -> Iterator[tuple[str, Any]]:
    """Names and what they are: of `__all__`, or, without one, classes and functions that are defined there."""
    names = getattr(module, "__all__", None)
    if names is None:
        here = {n: o for n, o in vars(module).items() if getattr(o, "__module__", None) == module.__name__}
        names = [n for n, o in here.items() if not n.startswith("_") and (inspect.isclass(o) or inspect.isfunction(o))]
    yield from ((name, getattr(module, name)) for name in sorted(names))


def callables() -> Iterator[tuple[str, Any]]:
    """Every public class, function, and method that a public class of ours defines."""
    for module in modules():
        for name, thing in public(importlib.import_module(module)):
            yield f"{module}.{name}", thing
            if inspect.isclass(thing) and thing.__module__.startswith("hetsyn_plugins"):
                methods = [(n, m) for n, m in vars(thing).items() if not n.startswith("_")]
                yield from (
                    (f"{module}.{name}.{n}", getattr(m, "__func__", m))
                    for n, m in sorted(methods, key=lambda method: method[0])
                    if inspect.isfunction(getattr(m, "__func__", m))
                )


def signature(thing: Any) -> str:
    """Names, kinds and defaults; what has none of its own (values, exceptions) shows none."""
    ours = getattr(thing, "__module__", "").startswith("hetsyn_plugins")
    if not ours or not callable(thing) or getattr(thing, "_is_protocol", False):
        return ""
    try:
        found = inspect.signature(thing)
    except ValueError:
        return ""
    plain = [p.replace(annotation=p.empty, default=_stable(p.default)) for p in found.parameters.values()]
    return str(found.replace(parameters=plain, return_annotation=found.empty))


def _stable(default: Any) -> Any:
    """A default whose repr is the same in every process."""
    if isinstance(default, frozenset):
        return sorted(default)
    return default if " at 0x" not in repr(default) else f"<{type(default).__name__}>"


def lines() -> list[str]:
    """The whole list."""
    return [name + signature(thing) for name, thing in callables()]


def constructors_that_hide() -> list[str]:
    """Classes of ours whose constructor does not show every argument by its name."""
    return [
        f"{name}{inspect.signature(thing)}"
        for name, thing in callables()
        if inspect.isclass(thing) and thing.__module__.startswith("hetsyn_plugins") and signature(thing)
        if any(p.kind in VARIABLE for p in inspect.signature(thing).parameters.values())
    ]


def functions_that_say_nothing() -> list[str]:
    """Functions that take anything, of any name."""
    return [
        name
        for name, thing in callables()
        if inspect.isfunction(thing) and not name.endswith(HANDED_ON)
        if {p.kind for p in inspect.signature(thing).parameters.values() if p.name != "self"} == set(VARIABLE)
    ]


@functools.cache
def found() -> dict[str, list[str]]:
    """All of that in a process of its own: Lava cannot be imported where others have started workers."""
    done = subprocess.run([sys.executable, "-W", "ignore", __file__, "--show"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return shown


def test_the_public_names_and_signatures_are_those_of_the_list() -> None:
    kept = FILE.read_text().splitlines()
    there = tuple(f"{module}." for module in modules()[1:])
    absent = tuple(f"hetsyn_plugins.{name}." for names in ADAPTERS.values() for name in names.split())
    kept = [line for line in kept if line.startswith(there) or not line.startswith(absent)]
    diff = list(difflib.unified_diff(kept, found()["lines"], "public_api.txt", "the package", n=0, lineterm=""))
    assert not diff, "\n".join(diff)


def test_no_class_hides_its_arguments() -> None:
    """What `help`, `inspect.signature` and editors show of a constructor of ours has every argument by its name."""
    assert found()["classes"] == []


def test_no_function_takes_anything_and_says_nothing() -> None:
    assert found()["functions"] == []


def test_a_sequence_of_norse_takes_what_its_cell_does_and_three_more() -> None:
    """Its list is written out, for editors that only read."""
    norse = pytest.importorskip("hetsyn_plugins.adapters.norse", reason="norse is not installed")
    for sequence, cell in ((norse.HetSynLIF, norse.HetSynLIFCell), (norse.HetSynLI, norse.HetSynLICell)):
        more, fewer = (inspect.signature(cls.__init__).parameters for cls in (sequence, cell))
        recording = dict.fromkeys(("record_states", "record_current", "batch_first"), False)
        assert {n: p.default for n, p in more.items()} == {**{n: p.default for n, p in fewer.items()}, **recording}
        layer = sequence(3, 2, autapses=True, share="neuron", detach_reset=True, backend="eager", check=False)
        given = (layer.autapses, layer.p.share, layer.detach_reset, layer.backend, layer.check)
        assert given == (True, "neuron", True, "eager", False)


if __name__ == "__main__" and "--show" in sys.argv:
    parts = {"classes": constructors_that_hide(), "functions": functions_that_say_nothing()}
    print(json.dumps({"lines": lines(), **parts}))
elif __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n")
