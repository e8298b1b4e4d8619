"""Folders that one process holds: who else is refused, whose it is, and that the dead hold nothing."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from planting import caught

from hetsyn_plugins.core.locks import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from hetsyn_plugins.core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    {then}
"""
FORK = "import os; os.fork(); time.sleep(600)"
REFUSED = "folder: expected one that nobody else trains in, got "


def holder(folder: Path, then: str = "time.sleep(600)") -> "subprocess.Popen[str]":
    """A process that holds the folder."""
    command = [sys.executable, "-c", HOLD.format(then=then), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_is_held_is_refused_and_its_owner_named(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        try:
            with caught(f"{REFUSED}{tmp_path}, in use by process {process.pid} on ", ValueError), locked(tmp_path):
                pass
        finally:
            process.kill()


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert not list(tmp_path.iterdir())


def test_a_forked_child_does_not_hold_what_its_dead_parent_held(tmp_path: Path) -> None:
    with holder(tmp_path, FORK) as process:
        try:
            time.sleep(0.3)
            process.kill()
            process.wait()
            with locked(tmp_path):
                pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the child


def test_a_forked_child_that_leaves_the_block_leaves_the_folder_to_its_parent(tmp_path: Path) -> None:
    then = "child = os.fork(); os.waitpid(child, 0) if child else sys.exit(); print((folder / '.lock').exists())"
    with holder(tmp_path, f"import os; folder = Path(sys.argv[1]); {then}") as process:
        assert process.stdout is not None and process.stdout.read() == "True\n"
    assert process.returncode == 0 and not list(tmp_path.iterdir())


def test_one_of_many_gets_it_whenever_it_is_free(tmp_path: Path) -> None:
    """Each takes the lock's file away when it goes: nobody may hold one that is no longer there."""
    inside, most, done = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, done
        for _ in range(200):
            try:
                with locked(tmp_path):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0)
                    inside -= 1
                    done += 1
            except ValueError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and done > 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_the_work_goes_on_with_a_warning(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, what: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="its file system has no locks; two processes"), locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
