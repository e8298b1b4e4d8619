"""Files that are whole or not there: a full disk (a quota in a child, a small file system), devices, permissions; and
what killed writers leave beside them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
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


# ---- writers that are killed


WRITE = """
import os, sys, time
from pathlib import Path
from hetsyn_plugins.core import files
def slow(handle):
    print("writing", flush=True)
    time.sleep(600)
os.fsync = slow
files.write_bytes(Path(sys.argv[1]), b"half")
"""


def writer(path: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing a file."""
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def test_what_killed_writers_left_goes_with_the_next_write(tmp_path: Path) -> None:
    path, other = tmp_path / "net[1].net", tmp_path / "net[1].net.bak"
    files.write_bytes(path, b"good")
    for target in (path, other):
        with writer(target) as process:
            process.kill()
    assert path.read_bytes() == b"good" and len(os.listdir(tmp_path)) == 3
    files.write_bytes(path, b"better")
    assert path.read_bytes() == b"better" and len(os.listdir(tmp_path)) == 2  # the other file's is not this one's
    files.clear(tmp_path)
    assert os.listdir(tmp_path) == ["net[1].net"]


def test_what_somebody_writes_just_now_stays(tmp_path: Path) -> None:
    path = tmp_path / "net.net"
    with writer(path) as process:
        try:
            files.write_bytes(path, b"mine")
            files.clear(tmp_path)
            assert len(os.listdir(tmp_path)) == 2
        finally:
            process.kill()


def test_other_hidden_files_stay(tmp_path: Path) -> None:
    for name in (".keep", ".it.0123456789abcdef.txt", "it.0123456789abcdef", ".it.0123456789ABCDEF"):
        (tmp_path / name).write_text("somebody's")
    (tmp_path / ".it.0123456789abcdef").mkdir()
    before = os.listdir(tmp_path)
    files.clear(tmp_path)
    files.write_bytes(tmp_path / "it", b"")
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "it"])


def test_processes_that_write_one_file_at_once_leave_one_of_theirs(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hetsyn_plugins.core.files import write_json\n"
        "for i in range(300): write_json(Path(sys.argv[1]), {'who': sys.argv[2], 'i': i})"
    )
    racing = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "it.json"), who]) for who in "abc"]
    assert [process.wait(120) for process in racing] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["it.json"] and '"i": 299' in (tmp_path / "it.json").read_text()
