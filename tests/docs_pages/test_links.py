"""Links between our pages lead to files and headings that are there; addresses outside: `tools/check_links`."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool() -> Any:
    """tools/check_links as a module."""
    loader = SourceFileLoader("check_links", str(ROOT / "tools" / "check_links"))
    spec = spec_from_loader("check_links", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


check_links = tool()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "setup.cfg").write_text("")
    (tmp_path / "README.md").write_text("# Top\n\n[x](docs/a.md#two-words) `[y](nothing)`\n\n```python\nf[0](x)\n```\n")
    (tmp_path / "docs" / "a.md").write_text("# A\n\n## Two `words`!\n\n[up](../README.md#top)\n")
    return tmp_path


def test_every_link_inside_the_project_leads_somewhere() -> None:
    assert list(check_links.broken(ROOT)) == []


def test_links_that_are_whole_pass(project: Path) -> None:
    assert list(check_links.broken(project)) == []


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("[x](b.md)", "docs/a.md: b.md: no such file"),
        ("[x](#three)", "docs/a.md: #three: no such heading"),
        ("[x](../README.md#bottom)", "docs/a.md: ../README.md#bottom: no such heading"),
        ("![x](b.png)", "docs/a.md: b.png: no such file"),
    ],
)
def test_a_broken_link_is_seen(project: Path, link: str, fault: str) -> None:
    page = project / "docs" / "a.md"
    page.write_text(page.read_text() + link)
    assert list(check_links.broken(project)) == [fault]


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers with the number that the address ends in."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_an_address_that_is_gone_is_told_with_the_page_that_names_it(project: Path, server: str) -> None:
    page = project / "docs" / "a.md"
    page.write_text(f"[a]({server}/200), <{server}/403>, {server}/404.")
    assert list(check_links.outside(project)) == [f"docs/a.md: {server}/404: 404 Not Found"]
