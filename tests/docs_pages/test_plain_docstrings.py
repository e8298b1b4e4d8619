"""Docstrings become what Sphinx reads: names and what they are, lists, drawings, examples, no mark by accident."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def extension(name: str) -> Any:
    """A module of docs/_ext, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain_docstrings, outside = extension("plain_docstrings"), extension("outside")


def rst(text: str) -> str:
    return "\n".join(plain_docstrings.to_rst(text.split("\n"))).strip("\n")


def test_names_and_what_they_are_become_definitions_and_go_on_indented() -> None:
    assert rst("weight, u   (N, M)\n    or drawn\nx  inputs") == "``weight, u``\n    (N, M) or drawn\n``x``\n    inputs"


def test_a_text_in_front_of_names_stands_alone() -> None:
    assert rst("A layer.\nx   inputs") == "A layer.\n\n``x``\n    inputs"


def test_what_is_indented_is_drawn_as_it_stands() -> None:
    assert (
        rst("As so:\n\n    v = *w x*\n    z = |v|")
        == "As so:\n\n.. code-block:: text\n\n        v = *w x*\n        z = |v|"
    )


def test_an_example_is_code() -> None:
    assert rst("Example:\n    >>> f(x)\n    3") == "Example:\n\n.. code-block:: pycon\n\n        >>> f(x)\n        3"


def test_a_list_goes_on_indented_and_begins_after_an_empty_line() -> None:
    assert rst("Inputs: x\n    - **x** (B, M),\n      one step\n    - y") == (
        "Inputs: x\n\n- **x** (B, M), one step\n- y"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`clamp_` and B * N * M of mem_", r"``clamp_`` and B \* N \* M of mem\_"),
        ("at |v|, in tau_..._inv", r"at \|v\|, in tau\_..._inv"),
        ("in_features stay", "in_features stay"),
    ],
)
def test_only_backticks_mark(text: str, expected: str) -> None:
    assert rst(text) == expected


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("RESULTS", "[c](../CONTRIBUTING.md#rules)", "[c](howto/contributing.md#rules)"),
        ("explanation/more", "[c](../../CHANGELOG.md)", "[c](../reference/changelog.md)"),
        ("explanation/more", "[c](../RESULTS.md) [d](https://a.b)", "[c](../RESULTS.md) [d](https://a.b)"),
    ],
)
def test_links_to_files_that_pages_include_lead_to_those_pages(page: str, text: str, expected: str) -> None:
    assert outside.inside(text, page) == expected
