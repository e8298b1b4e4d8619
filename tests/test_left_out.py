"""What the end of a run says of tests that lack a package of the system: one line, and none a test."""

from types import SimpleNamespace
from typing import Any

import conftest
import pytest
from conftest import LEFT_OUT, needs, pytest_terminal_summary


class Reporter:
    """As much of pytest's terminal as the hook asks for."""

    def __init__(self, *reasons: str) -> None:
        reports = [SimpleNamespace(longrepr=("file.py", 1, f"Skipped: {reason}")) for reason in reasons]
        self.stats: dict[str, list[Any]] = {"skipped": reports} if reports else {}
        self.lines: list[str] = []

    def write_line(self, line: str) -> None:
        self.lines.append(line)


def test_one_line_names_every_package_and_how_many_tests_it_lacks() -> None:
    reporter = Reporter(LEFT_OUT + "chromium", "no GPU", LEFT_OUT + "espeak-ng", LEFT_OUT + "chromium")
    pytest_terminal_summary(reporter)
    assert reporter.lines == ["left out: chromium (2 tests), espeak-ng (1 test): apt install chromium espeak-ng"]
    assert [report.longrepr[2] for report in reporter.stats["skipped"]] == ["Skipped: no GPU"], "the others stay"
    assert len(reporter.stats["left out"]) == 3, "they are counted"


@pytest.mark.parametrize("reasons", [(), ("no GPU",)])
def test_a_run_that_lacks_nothing_says_nothing(reasons: tuple[str, ...]) -> None:
    reporter = Reporter(*reasons)
    pytest_terminal_summary(reporter)
    assert reporter.lines == [] and "left out" not in reporter.stats
    assert len(reporter.stats.get("skipped", [])) == len(reasons)


def test_a_test_is_left_out_only_where_its_package_is_missing() -> None:
    assert [needs("chromium", present).args for present in (True, False)] == [(False,), (True,)]
    assert needs("chromium", False).kwargs == {"reason": f"{conftest.LEFT_OUT}chromium"}
