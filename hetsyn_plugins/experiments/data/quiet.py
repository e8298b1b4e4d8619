"""Quiet for what is made at the first use of data, far below the command that was asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_asked = ContextVar("quiet", default=False)


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Within it data are heard and spoken without a bar, if so asked."""
    token = _asked.set(quiet or _asked.get())
    try:
        yield
    finally:
        _asked.reset(token)


def is_quiet() -> bool:
    """Whether it was asked for."""
    return _asked.get()
