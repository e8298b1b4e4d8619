"""Compiled code on the disk: damaged, stale, read-only, with no place; kernels run, and run right, all the same.

Most of it with a kernel of two lines, which compiles in a third of a second.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disks import quota, unprivileged
from numba.core import config

from hetsyn_plugins.kernels.cpu import compiled
from hetsyn_plugins.kernels.cpu.compiled import kernel


def scale(values, factor):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        values[i] *= factor


def scaled(function: Any) -> list[float]:
    """1, 2, 3 times two, by this kernel."""
    values = np.array([1.0, 2.0, 3.0])
    function(values, 2.0)
    return values.tolist()


def found(function: Any) -> int:
    """How often a kernel's code was found on the disk."""
    return sum(function.stats.cache_hits.values())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for this process."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "_said", [])
    return tmp_path / "cache"


def filled(folder: Path) -> Path:
    """The one file of a cache into which the kernel was compiled."""
    assert scaled(kernel(scale)) == [2, 4, 6]
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    return file


def test_code_is_found_again(folder: Path) -> None:
    file = filled(folder)
    before = file.stat().st_mtime_ns
    again = kernel(scale)
    assert scaled(again) == [2, 4, 6] and found(again) == 1 and file.stat().st_mtime_ns == before


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut off": lambda whole: whole[: len(whole) // 2],
    "cut off in the digest": lambda whole: whole[:9],
    "garbage": lambda whole: bytes(range(256)) * 40,
    "a pickle of something else": lambda whole: b"\x80\x04]\x94.",
    "something added": lambda whole: whole + b"\0",
    **{f"a bit of byte {i} / 16": lambda whole, i=i: flipped(whole, len(whole) * i // 16) for i in range(16)},
}


def flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_code_is_made_anew(damage: str, folder: Path) -> None:
    file = filled(folder)
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage](whole))
    again, third = kernel(scale), kernel(scale)
    assert scaled(again) == [2, 4, 6] and found(again) == 0
    assert scaled(third) == [2, 4, 6] and found(third) == 1


def test_a_folder_in_the_place_of_the_file_is_no_harm(folder: Path) -> None:
    file = filled(folder)
    file.unlink()
    file.mkdir()
    with pytest.warns(RuntimeWarning, match=r"cannot be kept \(.*, which is a folder\)"):
        assert scaled(kernel(scale)) == [2, 4, 6]


def test_code_of_another_version_is_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(folder)
    for name, value in (("MADE_BY", "numba 9"), ("np", type("numpy", (), {"__version__": "9"}))):
        with monkeypatch.context() as patch:
            patch.setattr(compiled, name, value)
            other = kernel(scale)
            assert scaled(other) == [2, 4, 6] and found(other) == 0


def test_a_changed_kernel_changes_those_that_call_it(folder: Path, tmp_path: Path) -> None:
    """In another file too, which numba's own cache does not see."""
    head = "from hetsyn_plugins.kernels.cpu.compiled import kernel\n"
    (tmp_path / "inner.py").write_text(head + "@kernel\ndef times(x):\n    return 2.0 * x\n")
    outer = "from inner import times\n@kernel\ndef run(x):\n    return times(x) + 1.0\nprint(run(10.0))\n"
    (tmp_path / "outer.py").write_text(head + outer)
    printed, said = child(tmp_path, NUMBA_CACHE_DIR=str(folder))
    assert printed == "21.0\n" and "compiling the CPU kernels, once" in said
    assert child(tmp_path, NUMBA_CACHE_DIR=str(folder)) == ("21.0\n", "")
    (tmp_path / "inner.py").write_text(head + "@kernel\ndef times(x):\n    return 3.0 * x\n")
    assert child(tmp_path, NUMBA_CACHE_DIR=str(folder))[0] == "31.0\n"


def child(folder: Path, words: Sequence[str] = (), **environment: str) -> tuple[str, str]:
    """What `outer.py` of a folder prints and says in a process of its own."""
    command, names = [*words, sys.executable, str(folder / "outer.py")], {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=names)
    return done.stdout, done.stderr


def test_without_room_kernels_run_and_it_is_said_once(folder: Path) -> None:
    with quota(1000), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert scaled(kernel(scale)) == scaled(kernel(scale)) == [2, 4, 6]
    (said,) = (str(warning.message) for warning in caught)
    assert f"({folder}" in said and ": File too large): every process compiles those that it uses" in said
    assert "set NUMBA_CACHE_DIR to a folder that can be written, with room" in said
    assert not [path for path in folder.rglob("*") if path.is_file()]


TWICE = """
from hetsyn_plugins.kernels.cpu.compiled import kernel
@kernel
def double(x):
    return 2 * x
@kernel
def triple(x):
    return 3 * x
print(double(1.0), triple(1.0))
"""


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment whose only place for compiled code is beside `outer.py`, in a folder of this test."""
    (tmp_path / "file").touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "outer.py").write_text(TWICE)
    return {"NUMBA_CACHE_DIR": str(tmp_path / "file" / "x"), "XDG_CACHE_HOME": str(tmp_path / "file" / "y")}


def test_with_no_place_to_write_kernels_run_and_it_is_said_once(tmp_path: Path, nowhere: dict[str, str]) -> None:
    (tmp_path / "package" / "__pycache__").touch()  # a file: nobody can make a folder of it, not even root
    printed, said = child(tmp_path / "package", **nowhere)
    assert printed == "2.0 3.0\n" and said.count("RuntimeWarning: compiled CPU kernels cannot be kept") == 1
    for place in ("file/x", "package/__pycache__", "file/y"):
        assert str(tmp_path / place) in said


def test_code_in_a_read_only_folder_is_used(tmp_path: Path, nowhere: dict[str, str]) -> None:
    words = unprivileged()
    assert child(tmp_path / "package", words, **nowhere)[0] == "2.0 3.0\n"
    for path in (tmp_path / "package" / "__pycache__", tmp_path / "package"):
        path.chmod(0o555)
    try:
        assert child(tmp_path / "package", words, **nowhere) == ("2.0 3.0\n", "")
        shutil.copytree(tmp_path / "package", tmp_path / "other")
        other = child(tmp_path / "other", words, **nowhere)
    finally:
        (tmp_path / "package").chmod(0o755)
    assert other == ("2.0 3.0\n", "")  # found by what it is of, not by where it lies


def test_a_user_without_a_home_is_no_harm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    assert [place.name for place in compiled.places(Path(__file__).parent)] == ["__pycache__"]
