"""Ctrl-C and SIGTERM, for a process that is the command: once it stops in order, twice at once.

Once is an exception in the main thread, which ends children and removes what is half-written on its way. Twice is seen
by a thread of its own, since the main one may be inside a kernel for seconds. What is left then are hidden files that
the next start removes; children end by themselves (`core/processes.py`).

While a module is imported the exception waits for the import's end: C++ that starts up, torch's for one, ends the
process where it meets one.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NUDGE = 0.1  # seconds after which the main thread is told again


class Stopped(KeyboardInterrupt):
    """Somebody asked this process to stop."""


_asked: list[int] = []  # signals that this process has got
_put_off: list[int] = []  # those that came inside of an import


def handle() -> None:
    """From now on signals mean the above."""
    for number in SIGNALS:
        signal.signal(number, _once)
    sys.unraisablehook = _unraisable
    if not hasattr(signal, "pthread_kill"):  # not a Unix: once only, and imports break off
        return
    signal.signal(signal.SIGURG, _again)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # written to at once, wherever the main thread is
    threading.Thread(target=_twice, args=(reading,), name="hetsyn_signals", daemon=True).start()


def asked() -> bool:
    """Was this process asked to stop?"""
    return bool(_asked)


def status() -> int:
    """The exit status of what was stopped, as shells have it."""
    return 128 + (*_asked, *_put_off, signal.SIGINT)[0]


def done(exit_status: int) -> None:
    """All is done but for the interpreter's end, which no signal shall fill with messages."""
    for number in (*SIGNALS, *_nudges()):
        signal.signal(number, lambda *_: os._exit(exit_status))


def _nudges() -> tuple[int, ...]:
    """The signal by which the thread below tells the main one again, where there are such (Unix)."""
    return (signal.SIGURG,) if hasattr(signal, "pthread_kill") else ()


def _once(number: int, frame: FrameType | None) -> None:
    if asked() or _put_off:  # here at once: a second exception would come anywhere, into the first one's message say
        os._exit(status())
    if _nudges() and _importing(frame):
        _put_off.append(number)
        return
    _asked.append(number)
    raise Stopped


def _again(number: int, frame: FrameType | None) -> None:
    """The nudge itself ends a wait of the main thread, which then sees the others; what was put off may be due."""
    if _put_off and not asked() and not _importing(frame):
        _asked.append(_put_off[0])
        raise Stopped


def _importing(frame: FrameType | None) -> bool:
    """Is a module being imported where the main thread is?"""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _twice(reading: int) -> None:
    heard = 0
    while True:
        untold = heard > 0 and not asked()  # a signal just before the main thread waits does not wake it
        if select.select([reading], [], [], NUDGE if untold else None)[0]:
            heard += sum(number in SIGNALS for number in os.read(reading, 64))
        elif untold:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)
        if heard > 1:
            os._exit(status())


def _unraisable(what: Any) -> None:
    """A stop that came where Python cannot raise, in a destructor for one, would be lost."""
    if isinstance(what.exc_value, Stopped):
        os._exit(status())
    sys.__unraisablehook__(what)
