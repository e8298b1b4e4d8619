"""An allocation that fails, told in one line: how much was asked for, for what, and what asks for less.

NumPy, torch (on a CPU and on a card) and Python each fail in their own way. Commands tell it in ours; who calls layers
and operations gets the error as it was raised.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hetsyn_plugins.core.memory import size_text

ASKED = re.compile(r"(?:tried|unable) to allocate (\d+\.?\d*) ?(bytes|[KMGTPE]iB)", re.IGNORECASE)
OTHERS = re.compile(
    r"bad_alloc|can't start new thread|cannot allocate memory|killed by signal: Killed|"
    r"CUDA (error|out)\b.*out of memory|Triton Error \[CUDA\]: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
SIZE = r"(\d+\.?\d* (?:bytes|[KMGTPE]iB))"
CARD = re.compile(rf"(GPU \d+) has a total capacity of {SIZE} of which {SIZE} is free")
OURS = re.compile(rf"Of the allocated memory {SIZE} is allocated by PyTorch")


class OutOfMemory(MemoryError):
    """Memory that could not be had: says how much, for what, and which setting asks for less."""


@contextmanager
def told(what: str, advice: Callable[[], str]) -> Iterator[None]:
    """Inside, an allocation that fails is an OutOfMemory that says what was done and the advice; other errors pass.

    The innermost of several says it, because it knows best.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except (MemoryError, RuntimeError, OSError) as error:
        asked = asked_for(error)
        if asked is None:
            raise
        raise OutOfMemory(f"{what}: expected {asked}, got none; {advice()}") from error


def _of_card(message: str) -> str:
    """ " on GPU 0, of whose 79.1 GiB 1.2 GiB is free and 70.3 GiB is this process's": as far as torch says it."""
    card, ours = CARD.search(message), OURS.search(message)
    if card is None:
        return ""
    holds = f" and {ours[1]} is this process's" if ours else ""
    return f" on {card[1]}, of whose {card[2]} {card[3]} is free{holds}"


def asked_for(error: BaseException) -> str | None:
    """What an allocation that failed asked for: "3.7 GiB more memory", maybe without a size; None for other errors."""
    asked = ASKED.search(str(error))
    if asked:
        number, unit = asked.groups()
        size = size_text(int(number)) if unit.lower() == "bytes" else f"{number.rstrip('.')} {unit}"
        return f"{size} more memory{_of_card(str(error))}"
    if isinstance(error, OSError):
        failed = error.errno == errno.ENOMEM
    else:
        failed = isinstance(error, MemoryError) or OTHERS.search(str(error)) is not None
    return "more memory" if failed else None
