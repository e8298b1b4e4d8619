"""`tools/look_at_pages` sees what must not be on a page, in a window and on a telephone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import browser
from conftest import needs

ROOT = Path(__file__).resolve().parents[2]
HEAD = "<!doctype html><meta name=viewport content='width=device-width'><title>x</title><link rel=icon href='data:,'>"
FAULTS = (
    "<div style='width: 2000px'>wide</div>",
    "<img src='gone.png' alt='gone'>",
    "<p style='color: #bbb; background: #fff'>faint</p>",
    "<script>missing()</script>",
)
SAID = ("reaches out: page", "no picture: gone", "hard to read: p.", "error: ReferenceError")


def look(folder: Path) -> tuple[int, list[str]]:
    command = [sys.executable, str(ROOT / "tools" / "look_at_pages"), "--built", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout.splitlines()


@needs("chromium", browser.find() is not None)
def test_faults_are_told_and_a_page_without_has_none(tmp_path: Path) -> None:
    (tmp_path / "right.html").write_text(f"{HEAD}<p>text</p><pre style='overflow: auto'>{'code ' * 100}</pre>")
    assert look(tmp_path) == (0, ["1 pages, 4 looks each, 0 faults"])
    (tmp_path / "wrong.html").write_text(HEAD + "".join(FAULTS))
    status, lines = look(tmp_path)
    assert status == 1 and not any(line.startswith("right") for line in lines)
    for said in SAID:
        assert any(said in line for line in lines if "1280 px, light" in line), said
