"""Our docstrings, which are plain text, as what autodoc reads (reStructuredText).

A docstring is sentences; lines `name   what it is`, two blanks or more between, which go on indented; lists; equations,
indented; and examples at `>>>`. Names stand in single backticks, as in comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

NAMED = re.compile(r"(\S.*?) {2,}(\S.*)")
BULLET = re.compile(r"([*-]) +(\S.*)")


def setup(app: Any) -> dict[str, Any]:
    """Let autodoc hand every docstring over."""
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines of a docstring, in place, as autodoc asks for."""
    lines[:] = to_rst(lines)


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out the fields of NamedTuples, of which Python says "Alias for field number 0": their class says more."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText."""
    return [line for block in blocks(lines) for line in (*rendered(block), "")]


def blocks(lines: list[str]) -> Iterator[list[str]]:
    """What stands between empty lines; an indented block belongs to the text in front, if an example, or is drawn."""
    for is_empty, block in groupby(lines, key=lambda line: not line.strip()):
        if not is_empty:
            yield from parts(list(block))


def parts(block: list[str]) -> Iterator[list[str]]:
    """A block in pieces of one kind: each begins at a line that is not indented and is of another kind than before."""
    piece: list[str] = []
    for line in block:
        starts = not line.startswith(" ") and (not piece or kind(line) != kind(piece[0]))
        if starts and piece:
            yield piece
            piece = []
        piece.append(line)
    yield piece


def kind(line: str) -> str:
    """What a line, the first of a piece, begins."""
    if line.startswith(" "):
        return "drawn"
    if BULLET.match(line):
        return "list"
    if line.rstrip().endswith(":") and not line.startswith("`") and len(line.split()) <= 3:
        return "heading"
    return "names" if NAMED.match(line) else "text"


def rendered(piece: list[str]) -> list[str]:
    """One piece as reStructuredText."""
    what = kind(piece[0])
    if what == "drawn":
        return code("text", piece)
    if what == "heading" and any(">>>" in line for line in piece):
        return [piece[0], "", *code("pycon", piece[1:])]
    if what == "names":
        return list(definitions(piece))
    return [escaped(line.lstrip()) for line in joined(piece)]


def code(language: str, lines: list[str]) -> list[str]:
    """Lines as they stand."""
    return [f".. code-block:: {language}", "", *(f"    {line}" for line in lines)]


def joined(piece: list[str]) -> Iterator[str]:
    """Lines that belong together as one: a sentence, an item of a list with all that goes on indented."""
    whole = ""
    for line in piece:
        if whole and not BULLET.match(line.lstrip()):
            whole += " " + line.strip()
            continue
        if whole:
            yield whole
            if not BULLET.match(whole.lstrip()):
                yield ""  # a list begins
        whole = line
    yield whole


def definitions(piece: list[str]) -> Iterator[str]:
    """Lines `name   what it is` as a list of definitions."""
    for line in joined_names(piece):
        name, text = NAMED.fullmatch(line).groups()  # type: ignore[union-attr]  # it is one
        yield from (f"``{name.replace('`', '')}``", f"    {escaped(text)}")


def joined_names(piece: list[str]) -> Iterator[str]:
    """Each name with all that is said of it as one line."""
    whole = ""
    for line in piece:
        if line.startswith(" ") or not NAMED.fullmatch(line):
            whole += " " + line.strip()
            continue
        if whole:
            yield whole
        whole = line
    yield whole


def escaped(text: str) -> str:
    """Text whose only marks are `names`, **bold** and bullets."""
    bullet = BULLET.match(text)
    if bullet:
        return f"{bullet[1]} {escaped(bullet[2])}"
    pieces = re.split(r"(`[^`]*`|\*\*\w+\*\*)", text)
    pieces[::2] = map(plain, pieces[::2])
    pieces[1::2] = (re.sub("`", "``", marked) for marked in pieces[1::2])
    return "".join(pieces)


def plain(text: str) -> str:
    """Text without any mark."""
    return re.sub(r"([\\*|`]|_(?=\W|$))", r"\\\1", text)
