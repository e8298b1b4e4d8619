"""Ctrl-C and SIGTERM, sent to real processes: once in order, twice at once, a line and no traceback."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMAND = """
import hashlib, signal, sys, time
import hetsyn_plugins.cli
command, verify = sys.modules["hetsyn_plugins.cli.main"], sys.modules["hetsyn_plugins.cli.verify"]

class Slow:
    def __del__(self):
        print("working", flush=True)
        time.sleep(600)

def say():
    print("working", flush=True)

def work(arguments):
    try:
        {body}
    finally:
        {end}
        print("cleaned", flush=True)

verify.run_verify = work
sys.argv = ["hetsyn", "verify"]
sys.exit(command.main())
"""
IN_C = "say(); hashlib.pbkdf2_hmac('sha256', b'', b'', 1 << 28)"  # minutes without a look at signals
SAID = "hetsyn verify: stopped; the same command starts anew\n"


@contextmanager
def started(body: str, end: str = "pass") -> "Iterator[subprocess.Popen[str]]":
    """A command in the middle of its work."""
    code = COMMAND.format(body=body, end=end)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes, text=True) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "working\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_once_stops_in_order(number: int, status: int) -> None:
    with started("say(); time.sleep(600)") as process:
        process.send_signal(number)
        assert process.communicate(timeout=10) == ("cleaned\n", SAID)
    assert process.returncode == status


def test_twice_stops_at_once_even_while_cleaning_up() -> None:
    with started("say(); time.sleep(600)", end="print('cleaning', flush=True); time.sleep(600)") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None and process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 130


def test_twice_stops_at_once_even_inside_a_kernel() -> None:
    with started(IN_C) as process:
        time.sleep(1)  # until it is in there
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 130


def test_a_signal_that_does_not_wake_the_main_thread_stops_it_too() -> None:
    """One just before a wait begins; here one that another thread gets."""
    with started("signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}); say(); time.sleep(600)") as process:
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("cleaned\n", SAID)
    assert process.returncode == 130


@pytest.mark.parametrize(
    "body",
    [
        "Slow(); time.sleep(600)",  # Python cannot raise out of a destructor
        "say()\n        try: time.sleep(600)\n        except KeyboardInterrupt: raise ImportError('of numpy')",
        "say()\n        try: time.sleep(600)\n        except KeyboardInterrupt: raise SystemError('of C')",
    ],
)
def test_a_stop_is_not_lost_and_not_told_as_something_else(body: str) -> None:
    with started(body) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
        assert said in ("", SAID)
    assert process.returncode == 130


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.5])
def test_a_stop_inside_imports_is_a_line_too(delay: float) -> None:
    with started("say(); import numpy, torch, numba; time.sleep(600)") as process:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("cleaned\n", SAID)
    assert process.returncode == 130


def test_a_stop_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    """C++ that starts up ends the process where it meets an exception; here Python that would tell of one."""
    slow = "print('working', flush=True)\nimport time\ntry: time.sleep(1)\nfinally: print('imported', flush=True)"
    (tmp_path / "slow_to_import.py").write_text(slow + "\nprint('whole', flush=True)")
    body = f"sys.path.insert(0, {str(tmp_path)!r}); import slow_to_import; time.sleep(600)"
    with started(body) as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("imported\nwhole\ncleaned\n", SAID)
    assert process.returncode == 130


def test_nothing_heavy_is_imported_before_signals_are_taken() -> None:
    """Until then a Ctrl-C is Python's, with a traceback."""
    code = "import sys, hetsyn_plugins.cli; print('numpy' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
