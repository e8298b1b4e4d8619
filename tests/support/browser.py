"""A page in headless Chromium: what it asks for, what goes wrong, what overflows, and pictures of it.

Chromium is driven over two pipes (`--remote-debugging-pipe`: JSON messages that end in a zero byte, on its file
descriptors 3 and 4), so that no port is opened and nothing but Python is needed.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = f"none of {', '.join(NAMES)} is on the PATH: apt install chromium"

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever a page asks for, nothing leaves the machine
    "--remote-debugging-pipe",
)


def find() -> str | None:
    """The browser's path, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


# Moves the two pipes to where Chromium looks for them; through high numbers, as one of them may be 3 or 4 already.
LAUNCH = """
import fcntl, os, sys
receive, send = (fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3])
os.dup2(receive, 3)
os.dup2(send, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Findings(NamedTuple):
    """What is wrong with a page at one width; all empty where it is right.

    errors     exceptions, console errors and warnings, and what the browser logs of its own
    requests   addresses it asked for beside its own
    overflow   elements that reach past the window (but inside a container that scrolls) or spill out of their parents
    broken     pictures without pixels
    contrast   text that stands out from its background by less than 4.5 to 1 (WCAG 2.2, 1.4.3)
    small      text below 11 px
    """

    errors: list[str]
    requests: list[str]
    overflow: list[str]
    broken: list[str]
    contrast: list[str]
    small: list[str]


class Browser:
    """One running Chromium with one tab; `running` makes and ends it."""

    def __init__(self, send: int, receive: int, deadline: float) -> None:
        self._send, self._receive, self._deadline = send, receive, deadline
        self._buffer, self._count, self._session = b"", 0, ""
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def inspect(self, page: Path, width: int, *, dark: bool = False) -> Findings:
        """Open the page as a telephone or a window of this width in CSS pixels would, everything unfolded, and look."""
        self.open(page, width, dark=dark)
        seen = self.evaluate(f"({LOOK})({width})")
        return Findings(self._errors(), self._requests(page), **seen)

    def screenshot(self, page: Path, width: int, out: Path, *, dark: bool = False, unfold: bool = False) -> None:
        """The whole page, from its head to its foot, as a PNG."""
        self.open(page, width, dark=dark, unfold=unfold)
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        out.write_bytes(base64.b64decode(picture))

    def open(self, page: Path, width: int, *, dark: bool = False, unfold: bool = True) -> None:
        """Load the page, wait until its pictures are decoded, and open every <details> if asked to."""
        self._events.clear()
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        self.evaluate("Promise.all([...document.images].map(i => i.decode().catch(() => 0))).then(() => 0)")
        if unfold:
            self.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")

    def evaluate(self, script: str) -> Any:
        """The value of an expression (or of the promise that it is) in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"the script failed in the page: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer; events that come meanwhile are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = self._deadline - time.monotonic()
            if left <= 0 or not select.select([self._receive], [], [], left)[0]:
                raise TimeoutError("the browser did not answer in time")
            new = os.read(self._receive, 1 << 20)
            if not new:
                raise RuntimeError("the browser ended")
            self._buffer += new
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _errors(self) -> list[str]:
        problems = []
        for event in self._events:
            params = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                problems.append(params["exceptionDetails"]["exception"].get("description", "exception"))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                problems.append(" ".join(str(argument.get("value")) for argument in params["args"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')[:100]}")
        return problems

    def _requests(self, page: Path) -> list[str]:
        sent = [e["params"]["request"]["url"] for e in self._events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if url != page.resolve().as_uri() and not url.startswith("data:")]


@contextmanager
def running(timeout: float = 60) -> Iterator[Browser]:
    """A Chromium with a profile of its own, gone afterwards; all waits together last at most `timeout` seconds."""
    path = find()
    if path is None:
        raise FileNotFoundError(MISSING)
    profile = tempfile.mkdtemp(prefix="hetsyn-browser-")
    to_browser, from_browser = os.pipe(), os.pipe()
    theirs = (to_browser[0], from_browser[1])
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *map(str, theirs), path, f"--user-data-dir={profile}", *FLAGS],
        pass_fds=theirs,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that its children can be ended with it
    )
    try:
        for end in theirs:
            os.close(end)
        yield Browser(to_browser[1], from_browser[0], time.monotonic() + timeout)
    finally:
        for end in (to_browser[1], from_browser[0]):
            os.close(end)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        shutil.rmtree(profile, ignore_errors=True)


# In the page. An element is named by its tag, class and the start of its text.
LOOK = r"""
wanted => {
  const name = e => `${e.tagName.toLowerCase()}.${e.className} "${e.textContent.trim().slice(0, 40)}"`;
  const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const inScroller = e => e.parentElement && (scrolls(e.parentElement) || inScroller(e.parentElement));
  const root = document.documentElement, width = root.clientWidth, all = [...document.body.querySelectorAll("*")];
  const outside = e => e.getBoundingClientRect().right > width + 0.5 || e.getBoundingClientRect().left < -0.5;
  const spills = e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth && getComputedStyle(e).display != "inline";
  const overflow = all.filter(e => outside(e) && !inScroller(e)).map(name);
  overflow.push(...all.filter(e => spills(e) && !scrolls(e)).map(e => name(e) + " spills"));
  if (root.scrollWidth > width) overflow.push(`page ${root.scrollWidth} > ${width}`);
  if (innerWidth > wanted) overflow.push(`laid out for ${innerWidth} px`);
  const broken = [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt || i.src.slice(0, 60));

  const numbers = c => c.match(/[\d.]+/g).map(Number);
  const light = c => numbers(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const backdrop = e => {
    for (let p = e; p; p = p.parentElement) {
      const c = getComputedStyle(p).backgroundColor;
      if (numbers(c)[3] !== 0) return c;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = all.filter(e => e.getClientRects().length
    && [...e.childNodes].some(n => n.nodeType == Node.TEXT_NODE && n.textContent.trim()));
  const contrast = texts.filter(e => {
    const [dark, bright] = [light(getComputedStyle(e).color), light(backdrop(e))].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05) < 4.5;
  }).map(name);
  const small = texts.filter(e => parseFloat(getComputedStyle(e).fontSize) < 11).map(name);
  return {overflow, broken, contrast, small};
}
"""
