"""Disks that are full: a quota, which works everywhere, and a small file system, where this user may mount one."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def quota(size: int) -> Iterator[None]:
    """No file that this process or its children write may grow beyond `size` bytes: EFBIG, "File too large"."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system of this size at `place`; skips the test where none may be mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here; the tests with a quota do without")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def unprivileged() -> list[str]:
    """What to put before a command so that it heeds the modes of files, which root does not; skips without setpriv."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("this is root, and there is no setpriv to be less")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
