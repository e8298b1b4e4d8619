"""docs/reference/command.md lists what `hetsyn` lists; the options come in when the pages are built."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from hetsyn_plugins.cli.listing import GROUPS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "reference" / "command.md"


def listed(text: str) -> dict[str, dict[str, tuple[str, str]]]:
    """The tables of a page: group, command, what it is for and an example."""
    groups = re.split(r"^## (.*)\n", text, flags=re.M)[1:]
    rows = {title: re.findall(r"^\| `(.*)` \| (.*) \| `(.*)` \|$", body, flags=re.M)
            for title, body in zip(groups[::2], groups[1::2], strict=True)}  # fmt: skip
    return {title: {name: (what, example) for name, what, example in found} for title, found in rows.items() if found}


def test_the_page_lists_every_command_as_hetsyn_does() -> None:
    assert listed(PAGE.read_text()) == GROUPS


def test_a_command_that_is_missing_is_seen() -> None:
    lines = PAGE.read_text().splitlines(keepends=True)
    assert listed("".join(line for line in lines if not line.startswith("| `bench`"))) != GROUPS


def test_the_options_of_every_command_are_built_in() -> None:
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        import commands
    finally:
        sys.path.pop(0)
    source = [PAGE.read_text()]
    commands.process(None, "reference/command", source)
    headings = re.findall(r"^### hetsyn (\w+)$", source[0], flags=re.M)
    assert headings == [name for group in GROUPS.values() for name in group]
    assert "--clusters K" in source[0] and commands.MARK not in source[0]
