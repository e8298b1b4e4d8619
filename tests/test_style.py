"""Rules that a parser can see: one statement a line, no conditional inside another, long functions say why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCREEN = 45
FILES = [
    path
    for folder in ("hetsyn_plugins", "adapters", "docs", "tests", "tools", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "hetsyn_plugins/adapters/" not in path.as_posix()
] + [
    ROOT / "tools" / name
    for name in ("check_links", "fuzz", "look_at_pages", "mutants", "notebooks", "release_check", "soak")
]


def faults(source: str) -> Iterator[str]:
    """What in a file is against the rules, with its line."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Tuple):
            yield f"{node.lineno}: a tuple of calls as a statement"
        if isinstance(node, ast.IfExp) and any(isinstance(inner, ast.IfExp) for inner in list(ast.walk(node))[1:]):
            yield f"{node.lineno}: a conditional inside a conditional"
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            above = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 2
            says_why = "#" in lines[node.lineno - 1] or lines[above].lstrip().startswith("# ")
            if length > SCREEN and not says_why:
                yield f"{node.lineno}: {node.name} has {length} lines and no comment, at its head, that says why"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_keeps_the_rules(path: Path) -> None:
    assert list(faults(path.read_text())) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("f(), g()", "1: a tuple of calls as a statement"),
        ("x = 1 if a else (2 if b else 3)", "1: a conditional inside a conditional"),
        ("x = [1 if a else 2 for a in b] if c else d", "1: a conditional inside a conditional"),
        ("\n\ndef f():\n" + "    x = 1\n" * 45, "3: f has 46 lines and no comment, at its head, that says why"),
    ],
)
def test_faults_are_seen(source: str, fault: str) -> None:
    assert list(faults(source)) == [fault]
