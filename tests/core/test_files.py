"""Files that are whole or not there: a full disk (a quota in a child, a small file system), devices, permissions."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import quota, small_disk

from hetsyn_plugins.core import files


def test_a_file_that_does_not_fit_leaves_the_one_of_before(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    files.write_bytes(path, b"before")
    with quota(1000), pytest.raises(OSError, match=f"2,000 bytes to write; what was there before stays.*'{path}'") as e:
        files.write_bytes(path, bytes(2000))
    assert e.value.errno == errno.EFBIG
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["state.pt"]


def test_a_file_that_does_not_fit_is_not_there(tmp_path: Path) -> None:
    with quota(1000), pytest.raises(OSError, match=f"'{tmp_path / 'new'}'"):
        files.write_json(tmp_path / "new", {"text": "x" * 2000})
    assert os.listdir(tmp_path) == []


def test_a_line_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "log"
    files.append_line(path, "x" * 899)
    with quota(1000), pytest.raises(OSError, match=f"File too large .*'{path}'"):
        files.append_line(path, "y" * 200)
    assert path.read_text() == "x" * 899 + "\n"
    files.append_line(path, "z")
    assert path.read_text() == "x" * 899 + "\nz\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    with small_disk(tmp_path / "disk", "64k"):
        yield tmp_path / "disk"


def test_a_full_file_system_is_met_like_a_quota(disk: Path) -> None:
    files.write_bytes(disk / "state.pt", b"before")
    (disk / "log").write_bytes(bytes(50_000))
    with pytest.raises(OSError, match=r"No space left on device .*state.pt") as raised:
        files.write_bytes(disk / "state.pt", bytes(30_000))
    assert raised.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match=r"No space left on device .*log"):
        files.append_line(disk / "log", "x" * 30_000)
    assert (disk / "state.pt").read_bytes() == b"before"
    assert (disk / "log").stat().st_size == 50_000
    assert sorted(os.listdir(disk)) == ["log", "state.pt"]
    (disk / "log").unlink()
    files.write_bytes(disk / "state.pt", bytes(30_000))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_a_device_is_written_to_and_not_replaced() -> None:
    with pytest.raises(OSError, match=r"No space left on device .*'/dev/full'"):
        files.write_bytes(Path("/dev/full"), b"x")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_file_gets_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_bytes(tmp_path / "new", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: expected a file, got .*which is a folder"):
        files.write_bytes(tmp_path, b"")
    with pytest.raises(FileNotFoundError, match="whose folder does not exist"):
        files.write_bytes(tmp_path / "none" / "file", b"")
