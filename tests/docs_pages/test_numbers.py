"""Pages that retell measurements say no number that the pages where they were measured do not have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
MEASURED = ("RESULTS", "DELAYS", "CODEBOOK", "CONVOLUTIONS")
RETELLING = ("explanation/steps", "explanation/performance", "explanation/equivalence", "reference/ledger")
NUMBER = r"(?<![\w.])(\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?)"
UNIT = r" ?(?:ms|us|MB|GB|GiB|bytes|x|times|%|points)\b|(?= ?%)|(?= \(\d)|(?= to \d[\d.]* ?(?:x|times|%|GB))"


def measurements(text: str) -> set[str]:
    """Numbers with a unit or with a deviation in brackets, counts of thousands and tiny distances; outside of code."""
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    return set(re.findall(f"{NUMBER}(?:{UNIT})", prose)) | {n for n in numbers(prose) if re.search(",|e-1[1-9]", n)}


def numbers(text: str) -> set[str]:
    """All numbers."""
    return set(re.findall(NUMBER, text))


def invented(text: str) -> list[str]:
    """Measurements that no page of measurements has."""
    known = set().union(*(numbers((DOCS / f"{name}.md").read_text()) for name in MEASURED))
    return sorted(measurements(text) - known)


@pytest.mark.parametrize("page", RETELLING)
def test_a_page_says_only_what_was_measured(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    assert len(measurements(text)) >= 3
    assert invented(text) == []


def test_a_number_that_nobody_measured_is_seen() -> None:
    text = (DOCS / "explanation" / "steps.md").read_text()
    assert invented(text.replace("69.3 ms", "69.9 ms")) == ["69.9"]
