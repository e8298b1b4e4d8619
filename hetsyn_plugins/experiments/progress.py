"""A bar over seeds of runs that take differently long: how many are done, of how many, and the time that is left."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tqdm import tqdm

from hetsyn_plugins.experiments.training_log import LOG, LONGEST_LINE

EVERY = 2.0  # seconds between looks at the logs
FORM = "{desc}{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"  # the description ends in ": "


class Expected(NamedTuple):
    """What the training of a seed takes: seconds, as estimated, and iterations."""

    seconds: float
    iterations: int


class Progress:
    """Seeds by their folders, with what each is expected to take; those on their way are followed by their logs.

    done   seeds that are done already, which count, but take no time
    """

    def __init__(self, name: str, expected: Mapping[Path, Expected], *, done: int = 0, quiet: bool = False) -> None:
        self.expected, self.done, self.all = expected, done, done + len(expected)
        self.name, self.shares = name, dict.fromkeys(expected, 0.0)
        self.looked = time.monotonic()
        self.bar = tqdm(total=sum(each.seconds for each in expected.values()), bar_format=FORM, disable=quiet)
        self._show()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def ended(self, folder: Path) -> None:
        """A seed is over."""
        self.shares[folder] = 1.0
        self.done += 1
        self._show()

    def look(self, folders: list[Path]) -> None:
        """See how far these seeds are, now and then."""
        if time.monotonic() - self.looked >= EVERY:
            self.looked = time.monotonic()
            for folder in folders:
                self.shares[folder] = max(self.shares[folder], share_done(folder, self.expected[folder].iterations))
            self._show()

    def _show(self) -> None:
        self.bar.set_description(f"{self.name}, {self.done} of {self.all} runs", refresh=False)
        now = sum(self.shares[folder] * each.seconds for folder, each in self.expected.items())
        self.bar.update(now - self.bar.n)
        self.bar.refresh()


def share_done(folder: Path, iterations: int) -> float:
    """How much of its training a seed has behind it, by the last whole line of its log; 0 where that cannot be read."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2 * LONGEST_LINE))
            last = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
        return float(min(1.0, json.loads(last)["iteration"] / iterations))
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):  # it is being written, or not begun
        return 0.0
