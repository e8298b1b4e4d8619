"""Checks of settings: a value that is not as expected is told with its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def check(name: str, value: Any, expected: str, holds: bool) -> None:
    """Raise ValueError, saying what was expected, unless it holds."""
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def check_among(name: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError unless the value is one of these words."""
    check(name, value, f"one of {', '.join(known)}", value in known)
