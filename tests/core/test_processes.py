"""Children end with their parent, however it went, and do not hear what a terminal says to it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hetsyn_plugins.core import processes
from hetsyn_plugins.core.processes import LIFELINE, deaf_to_ctrl_c, lifeline

CHILD = r"""
import time
from hetsyn_plugins.core.processes import LIFELINE, end_with_parent
import os
end_with_parent()
assert LIFELINE not in os.environ
os.write(1, f"{os.getpid()}\n".encode())  # at once: another one writes there too
time.sleep(600)
"""
HOLDS_ALL = (
    "import re; re.match('(a?){40}a{40}', 'a' * 40)"  # hours in C, which no thread interrupts: as an import does
)
PARENT = """
import subprocess, sys, time
from hetsyn_plugins.core.processes import lifeline
with lifeline() as line:
    for _ in range(2):
        subprocess.Popen([sys.executable, "-c", sys.argv[1]], **line)
    time.sleep(600)
"""
SPAWNING = """
import time
from torch.utils.data import DataLoader
from hetsyn_plugins.core.processes import deaf_to_ctrl_c, worker_ends_with_parent

class Pids:
    def __len__(self):
        return 4
    def __getitem__(self, index):
        import os
        return os.getpid()

if __name__ == "__main__":
    options = dict(num_workers=2, multiprocessing_context="spawn", worker_init_fn=worker_ends_with_parent)
    with deaf_to_ctrl_c():
        items = iter(DataLoader(Pids(), batch_size=None, **options))
    print(*{next(items) for _ in range(4)}, sep="\\n", flush=True)
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Is there such a process, and not only what is left of it until somebody asks?"""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def until_gone(*pids: int) -> float:
    """The seconds until they are."""
    start = time.monotonic()
    while any(map(alive, pids)):
        assert time.monotonic() - start < 10, "they are there for ever"
        time.sleep(0.02)
    return time.monotonic() - start


@pytest.mark.parametrize("child", [CHILD, CHILD.replace("time.sleep(600)", HOLDS_ALL)], ids=["waiting", "importing"])
def test_children_end_when_their_parent_is_killed(child: str) -> None:
    if child != CHILD and sys.platform != "linux":
        pytest.skip("a thread has to see it here")
    command = [sys.executable, "-c", PARENT, child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            pids = [int(parent.stdout.readline()) for _ in range(2)]
            assert all(map(alive, pids))
        finally:
            parent.kill()
    assert until_gone(*pids) < 4


def test_workers_that_were_spawned_end_too_and_do_not_hear_ctrl_c(tmp_path: Path) -> None:
    """torch's own watch over its workers takes up to five seconds."""
    (tmp_path / "spawning.py").write_text(SPAWNING)
    command = [sys.executable, tmp_path / "spawning.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as parent:  # type: ignore[call-overload]
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
        assert all(map(alive, pids))
        parent.kill()
        assert until_gone(*pids) < 4
        assert "Traceback" not in parent.stderr.read()


def test_children_end_with_the_block() -> None:
    with lifeline() as line:
        child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, **line)
        assert child.stdout is not None and int(child.stdout.readline()) == child.pid
    with child:
        assert child.wait(10) == 1


def test_without_a_parent_that_asks_for_it_nobody_ends() -> None:
    code = "from hetsyn_plugins.core.processes import end_with_parent; import time; end_with_parent(); time.sleep(0.2)"
    assert LIFELINE not in os.environ
    assert subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("deaf", [True, False])
def test_deaf_children_do_not_hear_ctrl_c(deaf: bool) -> None:
    # a shell that puts the suite into the background has it ignore Ctrl-C, and its children with it
    hears = "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{hears}; print(flush=True); time.sleep({0.5 if deaf else 60})"
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    if deaf:
        with deaf_to_ctrl_c():
            child = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
    else:
        child = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
    with child:
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert (child.wait(10) == 0) == deaf
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(
    "environment, first",
    [({}, True), ({"RANK": "0", "WORLD_SIZE": "2"}, True), ({"RANK": "1", "WORLD_SIZE": "2"}, False)],
)
def test_the_first_of_several_ranks_speaks(
    environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in processes.RANKED:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.is_first() == first
