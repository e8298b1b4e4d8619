"""SECURITY.md's promises, kept by reading our own source: no pickle from files, no network unasked."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    path.relative_to(ROOT).as_posix(): path
    for folder in ("hetsyn_plugins", "adapters", "examples", "tools")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and "hetsyn_plugins/adapters/" not in path.as_posix()
    if path.suffix == ".py" or path.read_bytes().startswith((b"#!/usr/bin/env python", b"#!/usr/bin/python"))
}
# calls by which bytes become code or objects, and modules that reach out; where each is meant, and why
CALLS = ("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "eval", "exec", "torch.load", "yaml.load")
NETWORK = (
    "requests",
    "urllib.request",
    "http",
    "ftplib",
    "socket",
    "aiohttp",
    "httpx",
    "pooch",
    "smtplib",
    "huggingface_hub",
)
MEANT = {
    "hetsyn_plugins/kernels/cpu/compiled.py": {"pickle.loads"},  # numba's code of this user's own cache
    "adapters/lava_dl/runtime.py": {"pickle.loads"},  # between this process and its child
    "hetsyn_plugins/experiments/ranks.py": {"torch.load"},  # between ranks of one run
    "hetsyn_plugins/core/locks.py": {"socket"},  # the name of this machine
    "hetsyn_plugins/experiments/data/get.py": {"requests", "pooch"},  # `hetsyn data get`
    "hetsyn_plugins/exchange/pretrained.py": {"huggingface_hub"},  # a name of the hub's, which is no folder
    "tools/check_links": {"urllib.request"},  # asks the addresses that the pages name, when it is called
}


def dangers(source: str) -> Iterator[str]:
    """What of the above a file calls or imports; torch.load with weights_only=True, np.load as it is, are none."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in CALLS and options.get("weights_only") != "True":
                yield name
            if options.get("allow_pickle", "False") != "False" or options.get("shell", "False") != "False":
                yield f"{name} with allow_pickle or shell"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _reaches_out(alias.name))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}" in CALLS)
            if _reaches_out(module) or any(_reaches_out(f"{module}.{alias.name}") for alias in node.names):
                yield module


def _reaches_out(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in NETWORK)


def test_files_call_what_is_meant_and_no_more() -> None:
    found = {name: set(dangers(path.read_text())) for name, path in SOURCES.items()}
    assert {name: calls for name, calls in found.items() if calls} == MEANT
    assert len(found) > 250


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import pickle; pickle.load(file)", "pickle.load"),
        ("from pickle import loads", "pickle.loads"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "np.load with allow_pickle or shell"),
        ("subprocess.run(line, shell=True)", "subprocess.run with allow_pickle or shell"),
        ("from urllib.request import urlopen", "urllib.request"),
        ("from urllib import request", "urllib"),
        ("def get():\n    import http.client", "http.client"),
    ],
)
def test_dangers_are_seen(source: str, danger: str) -> None:
    assert list(dangers(source)) == [danger]


def test_what_is_no_danger_is_none() -> None:
    assert not list(dangers("torch.load(path, weights_only=True); np.load(path); pickle.dumps(x); model.eval()"))


def test_import_and_a_call_ask_for_no_connection() -> None:
    """Any socket that is connected raises, of whatever library."""
    code = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"asked for {event} {arguments}")
sys.addaudithook(refuse)
import hetsyn_plugins
hetsyn_plugins.__path__.append(".")  # adapters/ is hetsyn_plugins.adapters
from hetsyn_plugins.cli.main import main
sys.exit(main(["verify", "--backend", "eager", "--check", "hand-table"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
