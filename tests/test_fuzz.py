"""The short form of `tools/fuzz`: every kind of damage once to every reader; and the judge sees each kind of fault."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzzing import judge
from fuzzing.goods import GOODS


@pytest.fixture(scope="module")
def at_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[judge.Judge]:
    """One child reads for all tests."""
    with judge.Judge(tmp_path_factory.mktemp("fuzz")) as found:
        yield found


@pytest.mark.parametrize("reader", GOODS)
def test_damaged_files_are_refused_or_read_as_they_were(reader: str, at_work: judge.Judge) -> None:
    tally = judge.Tally(reader)
    for verdict in at_work.fuzz(reader, 0, judge.every_kind):
        tally.add(verdict)
    assert tally.counts["same"] + tally.counts["read"] > 0 and tally.counts["refused"] > 0
    assert not tally.faults, judge.in_words(tally)
