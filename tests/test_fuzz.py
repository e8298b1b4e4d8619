"""The short form of `tools/fuzz`: every kind of damage once to every reader; and the judge sees each kind of fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fuzzing import judge
from fuzzing.cases import Good, Kind, Mutant
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
    assert len(tally.faults) == 0, judge.in_words(tally)


# ---- the judge itself --------------------------------------------------------------------------------------------

GOOD = GOODS["idx"]()[0]
KIND = Kind("planted", lambda rng, data, other: data)
WORTH = {"value": "abc", "ms": 10.0, "mb": 1.0}
REFUSED = "images: expected an idx file, got none"


def error(kind: str = "FileFormatError", text: str = REFUSED, **changes: Any) -> dict[str, Any]:
    return {"type": kind, "ours": True, "system": False, "value": True, "text": text, **changes}


@pytest.mark.parametrize(
    ("signed", "changes", "outcome"),
    [
        (True, {}, "same"),
        (True, {"value": "x"}, "other values"),
        (True, {"wrong": "dt = nan"}, "other values"),
        (True, {"warnings": [["UncheckedFileWarning", ""]]}, "other values"),
        (False, {"value": "x", "warnings": [["UncheckedFileWarning", ""]]}, "unchecked"),
        (False, {"value": "x"}, "unsaid"),
        (False, {}, "unsaid"),
        (None, {"value": "x"}, "read"),
        (None, {"value": "x", "wrong": "no layers"}, "other values"),
        (True, {"error": error()}, "refused"),
        (True, {"error": error("KeyError", ours=False, value=False)}, "foreign error"),
        (True, {"error": error("UnicodeDecodeError", ours=False)}, "foreign error"),
        (True, {"error": error("FileNotFoundError", system=True)}, "foreign error"),
        (True, {"error": error(text="expected an idx file, got none")}, "bad message"),
        (True, {"error": error(text="images: expected\nan idx file")}, "bad message"),
        (True, {"error": error(text="images: bad magic")}, "bad message"),
        (True, {"error": error(), "ms": 1_001.0}, "slow"),
        (True, {"ms": 1_009.0}, "same"),
        (True, {"error": error(), "mb": 201.0}, "heavy"),
        (True, {"leak": True}, "side effect"),
    ],
)
def test_each_outcome_is_told_from_the_others(signed: bool | None, changes: dict[str, Any], outcome: str) -> None:
    answer = {"value": "abc", "wrong": "", "error": None, "leak": False, "warnings": [], "ms": 1.0, "mb": 1.0} | changes
    damaged = Mutant("idx", 0, 0, KIND, GOOD._replace(signed=signed), GOOD.data)
    assert judge.judged(damaged, answer, WORTH, set())[0] == outcome


def test_payloads_that_ran_and_links_that_were_followed_are_side_effects_and_a_new_digest_is_none() -> None:
    answer = {"value": "abc", "wrong": "", "error": None, "leak": False, "warnings": [], "ms": 1.0, "mb": 1.0}
    damaged = Mutant("idx", 0, 0, KIND, GOOD, GOOD.data)
    assert judge.judged(damaged, answer, WORTH, {"ran"})[0] == "side effect"
    sealed = damaged._replace(kind=KIND._replace(sealed=True), good=GOOD._replace(signed=True))
    assert judge.judged(sealed, {**answer, "value": "x"}, WORTH, set())[0] == "read"
    followed = damaged._replace(kind=KIND._replace(refused=True))
    assert judge.judged(followed, answer, WORTH, set())[0] == "side effect"


PLANTED = """
import ctypes, os, time
from fuzzing import loaders

def planted(folder, target):
    what = (folder / target).read_bytes().decode()
    while what == "hangs":
        time.sleep(0)
    if what == "crashes":
        ctypes.string_at(0)
    if what == "allocates":
        return len(bytearray(b"x") * (300 << 20))
    if what == "runs":
        open("../ran", "w").close()
    if what == "tells":
        raise ValueError((folder / "../canary.txt").read_text())
    return what

loaders.LOADERS["planted"] = planted
from fuzzing import child
child.main()
"""


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ("good", "same"),
        ("hangs", "hung"),
        ("crashes", "crashed"),
        ("allocates", "heavy"),
        ("runs", "side effect"),
        ("tells", "side effect"),
    ],
)
def test_a_child_that_misbehaves_is_seen_and_the_next_file_is_read(
    what: str, outcome: str, planted: tuple[judge.Judge, Good]
) -> None:
    at_work, good = planted
    damaged = Mutant("planted", 0, 0, KIND, good._replace(signed=None), what.encode())
    assert at_work.verdict(damaged).outcome == outcome
    assert at_work.verdict(damaged._replace(data=b"good")).outcome == "same"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[judge.Judge, Good]]:
    """A judge whose child reads with a loader that does what the file says."""
    good = Good("good", {"file": b"good"}, "file", "planted", (), None)
    with pytest.MonkeyPatch.context() as patch, judge.Judge(tmp_path_factory.mktemp("planted")) as at_work:
        patch.setattr(judge, "CHILD", ("-c", PLANTED))
        patch.setattr(judge, "HUNG", 1.0)
        at_work.look_at_goods("planted", [good])
        yield at_work, good


def test_a_mutant_is_the_same_bytes_each_time_and_each_kind_comes_first() -> None:
    goods, again = judge.goods_of("chip"), judge.goods_of("chip")
    indices = judge.every_kind(goods)
    mutants = [judge.made("chip", goods, 0, index) for index in indices]
    assert {damaged.kind.name for damaged in mutants} >= {kind.name for good in goods for kind in good.kinds}
    for damaged in mutants[::7]:
        assert judge.made("chip", again, 0, damaged.index).data == damaged.data
    assert judge.made("chip", goods, 1, 60).data != judge.made("chip", goods, 0, 60).data
