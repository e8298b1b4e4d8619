"""The options of every command, as `hetsyn COMMAND --help` lists them, where a page says `<!-- options -->`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

from hetsyn_plugins.cli.listing import GROUPS
from hetsyn_plugins.cli.main import parser

MARK = "<!-- options -->"
COLUMNS = "100"


def setup(app: Any) -> dict[str, Any]:
    """Look at every page before it is read."""
    app.connect("source-read", process)
    return {"parallel_read_safe": True}


def process(app: Any, page: str, source: list[str]) -> None:
    """Replace the text of a page, in place, as Sphinx asks for."""
    if MARK in source[0]:
        source[0] = source[0].replace(MARK, "\n".join(options()))


def options() -> Iterator[str]:
    """Headings and blocks of text, in the order of the list of commands."""
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    with mock.patch.dict(os.environ, COLUMNS=COLUMNS, NO_COLOR="1"):
        for name in (name for group in GROUPS.values() for name in group):
            yield f"\n### hetsyn {name}\n\n```text\n{commands.choices[name].format_help().rstrip()}\n```\n"
