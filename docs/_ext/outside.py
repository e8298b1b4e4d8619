"""Links from a page to the files beside docs/ lead, on the built pages, to the pages that include those files.

So do links from a notebook, which is a copy of one beside docs/, to a page.
"""

from __future__ import annotations

import os
import re
from typing import Any

INCLUDED = {
    "CONTRIBUTING.md": "howto/contributing.md",
    "CHANGELOG.md": "reference/changelog.md",
    "README.md": "index.md",
}


def setup(app: Any) -> dict[str, Any]:
    """Look at every page before it is read."""
    app.connect("source-read", process)
    return {"parallel_read_safe": True}


def process(app: Any, page: str, source: list[str]) -> None:
    """Replace the text of a page, in place, as Sphinx asks for."""
    source[0] = inside(source[0], page)


def inside(text: str, page: str) -> str:
    """The text of a page, such as "howto/index", with links to included files turned to the pages that include them."""
    folder = os.path.dirname(page)
    if folder == "notebooks":
        return text.replace("](../docs/", "](../")

    def turned(link: re.Match[str]) -> str:
        outside = os.path.normpath(os.path.join("docs", folder, link[1]))
        target = outside if outside.startswith("notebooks/") else INCLUDED.get(outside)
        return f"]({os.path.relpath(target, folder)}" if target and page != target.removesuffix(".md") else link[0]

    return re.sub(r"\]\(([^)#\s]+)", turned, text)
