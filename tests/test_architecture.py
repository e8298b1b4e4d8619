"""The order of the rooms: a file imports from its own room or from rooms further left, and never the package's face.

Two openings are by name at run time: `ops/dispatch.py` loads a kernel, `exchange/frameworks.py` an adapter.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    "_version _markers core fixed_point kernels ops exchange deployment adapters conformance testing experiments "
    "benchmark __init__ cli"
).split()
OPENINGS = {
    "ops/dispatch.py": "hetsyn_plugins.kernels.",
    "exchange/frameworks.py": "hetsyn_plugins.adapters.",
    "__init__.py": "{__name__}.",  # the face: lazy names, and modules under their old names
}


def files() -> Iterator[tuple[str, str, ast.Module]]:
    """Path, room and syntax tree of every file of the package."""
    for folder, prefix in ((ROOT / "hetsyn_plugins", ""), (ROOT / "adapters", "adapters/")):
        for path in sorted(folder.rglob("*.py")):
            name = prefix + path.relative_to(folder).as_posix()
            if "hetsyn_plugins/adapters/" not in path.as_posix():
                yield name, name.partition("/")[0].removesuffix(".py"), ast.parse(path.read_text())


FILES = list(files())


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every module of ours that is imported, at the top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
            assert node.level == 0, "imports are absolute here"
            if node.module == "hetsyn_plugins":  # a name of the face, or a whole room
                names = [f"hetsyn_plugins.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.partition(".")[0] == "hetsyn_plugins")


@pytest.mark.parametrize(("name", "room", "tree"), FILES, ids=[name for name, _, _ in FILES])
def test_a_file_imports_from_the_left(name: str, room: str, tree: ast.Module) -> None:
    assert room in ROOMS, f"{name} stands in no room"
    for line, module in imported(tree):
        where = module.partition(".")[2].partition(".")[0]
        if where in ROOMS[:-1] and where != "__init__":
            assert ROOMS.index(where) <= ROOMS.index(room), (
                f"{name}:{line} imports {module}, which stands further right"
            )
        elif where == "cli":
            assert room == "cli", f"{name}:{line} imports {module}"
        else:
            assert room == "cli", f"{name}:{line} imports {module}, the face of the package"


def test_rooms_have_no_circles() -> None:
    """Between files too: an order in which every file comes after what it imports at its top."""
    modules = {f"hetsyn_plugins.{name.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}": tree
               for name, _, tree in FILES}  # fmt: skip
    needs = {name: {m for m in _at_top(tree, modules) if m != name} for name, tree in modules.items()}
    while ready := {name for name, left in needs.items() if not left}:
        needs = {name: left - ready for name, left in needs.items() if name not in ready}
    assert not needs, f"these import each other: {sorted(needs)}"


def _at_top(tree: ast.Module, modules: dict[str, ast.Module]) -> set[str]:
    modules_needed = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules_needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules)
            modules_needed |= submodules or {node.module}
    return modules_needed & set(modules)


def test_only_the_two_openings_load_by_name() -> None:
    """Nothing else imports one of our modules by a string."""
    for name, _, tree in FILES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                loads = OPENINGS.get(name)
                assert loads is not None, f"{name}:{node.lineno} loads a module by name: {ast.unparse(node)}"
                assert loads in ast.unparse(node.args[0]), f"{name}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("room", ["core", "fixed_point"])
def test_a_room_of_numpy_loads_no_torch(room: str) -> None:
    """Alone `core/autograd.py`, which is torch's side of a spike, may."""
    folder = ROOT / "hetsyn_plugins" / room
    names = [f"hetsyn_plugins.{room}.{path.stem}" for path in folder.glob("[!_]*.py") if path.stem != "autograd"]
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules, 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
