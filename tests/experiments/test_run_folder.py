"""The files of runs and claims: seeds as a user writes them, and one shape for who writes and who reads."""

from __future__ import annotations

import contextlib
import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from planting import caught, changed

from hetsyn_plugins.core.declared import checked, parse
from hetsyn_plugins.core.file_format import FileFormatError, UncheckedFileWarning, unchecked_told_once
from hetsyn_plugins.core.files import write_json
from hetsyn_plugins.experiments import run_folder
from hetsyn_plugins.experiments.run_folder import (
    ClaimResult,
    ClaimRow,
    Failure,
    MeanSd,
    PictureFile,
    RunSummary,
    SeedResult,
    mean_sd,
    read_content,
    write_content,
)

MODULE = "hetsyn_plugins.experiments.run_folder"
RESULT = SeedResult(3, "MSE", None, 0.25, 7, 6, "last", 1.5, 300.5, 1, "norse", 12, {"python": "3.10"})
SUMMARY = RunSummary(
    "dms", "alif", "MSE", "last", [3], MeanSd(0.25, None, 0.25, [0.25]), mean_sd([]), mean_sd([1, 2]), 1.0, "hetsyn"
)
ROW = ClaimRow("a", None, 0.5, 0.1, 2, "%", None, "n")
CLAIM = ClaimResult("n", "t", "s", "c", [ROW, replace(ROW, holds=False)], "v", "", [PictureFile("f", "c")], ["../r"])


@pytest.fixture
def module() -> Any:
    """The module under test; the planted bugs at the end run the same checks on changed ones."""
    return run_folder


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [3]), ("0-3", [0, 1, 2, 3]), ("0,2,5-7", [0, 2, 5, 6, 7]), ("4-4", [4])]
)
def test_seeds_are_read_and_written(text: str, seeds: list[int]) -> None:
    assert run_folder.parse_seeds(text) == seeds
    assert run_folder.parse_seeds(run_folder.seeds_text(seeds)) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "3-1", "1,1", "0-3,2", "1.5", "0--2", "5000000000"])
def test_wrong_seeds_are_told(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds: expected"):
        run_folder.parse_seeds(text)


# ---- the files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [RESULT, SUMMARY, CLAIM, Failure(3, "nan")], ids=lambda c: type(c).__name__)
def test_what_is_written_is_read_back_as_it_was(content: Any, tmp_path: Path) -> None:
    write_content(tmp_path / "it.json", content)
    loaded = json.loads((tmp_path / "it.json").read_text())
    own = {key: loaded.pop(key) for key in ("digest", "file_format")}
    assert loaded == asdict(content), "keys and values of the file are those of the fields"
    assert (len(own["digest"]), own["file_format"]) == (64, 2)
    assert read_content(type(content), tmp_path / "it.json") == content
    write_json(tmp_path / "it.json", {**loaded, "of a later version": 1})
    assert read_content(type(content), tmp_path / "it.json") == content


@pytest.mark.parametrize("content", [RESULT, SUMMARY, CLAIM, Failure(3, "nan")], ids=lambda c: type(c).__name__)
def test_what_was_written_before_is_read_and_said(content: Any, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text(json.dumps(asdict(content)))
    with pytest.warns(UncheckedFileWarning, match=r"it\.json: written before files carried a digest"):
        assert read_content(type(content), tmp_path / "it.json") == content


def test_another_value_in_a_file_is_damage_and_what_mends_it_is_told(tmp_path: Path, module: Any) -> None:
    write_content(tmp_path / "result.json", RESULT)
    text = (tmp_path / "result.json").read_text()
    says = "result.json: digest: expected the content that it was written with"
    stated = text[text.index('"digest": ') + 10 : text.rindex("\n}")]
    changes = [("0.25", "0.75"), ('"norse"', '"Norse"'), ("file_format", "file_formay"), ("digest", "digesu")]
    for old, new in (*changes, (stated, "null"), (stated, "[]")):
        (tmp_path / "result.json").write_text(text.replace(old, new))
        with caught(says, ValueError):
            module.load_result(tmp_path)
    (tmp_path / "result.json").write_text(text[:40])
    with pytest.raises(FileFormatError, match=r"result\.json: expected .*; delete it to finish the seed"):
        module.load_result(tmp_path)
    write_json(tmp_path / "result.json", asdict(RESULT) | {"test": "x"})
    with pytest.raises(FileFormatError, match=r"result\.json: test: expected .*; delete it to finish the seed"):
        module.load_result(tmp_path)


def is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("content", [RESULT, Failure(3, "nan")], ids=lambda c: type(c).__name__)
def test_no_gap_in_a_file_makes_it_one_of_before(content: Any, tmp_path: Path) -> None:
    """However a piece is lost, within texts too: it never takes what says that there is a digest, and the digest."""
    path = tmp_path / "it.json"
    write_content(path, content)
    whole = path.read_bytes()
    for start in range(len(whole)):
        for end in range(start + 1, len(whole), 7):
            left = whole[:start] + whole[end:]
            if not is_json(left):  # the most of them: no reader takes those
                continue
            path.write_bytes(left)
            with contextlib.suppress(FileFormatError), warnings.catch_warnings():
                warnings.simplefilter("ignore", UncheckedFileWarning)  # of nothing but the braces
                assert read_content(type(content), path) == content


def test_seeds_of_before_are_told_of_once(tmp_path: Path) -> None:
    for seed in range(3):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}/result.json").write_text(json.dumps(asdict(RESULT)))
    with pytest.warns(UncheckedFileWarning) as told, unchecked_told_once():
        for seed in run_folder.trained_seeds(tmp_path):
            run_folder.load_result(tmp_path / f"seed-{seed}")
    assert [str(warning.message).partition(":")[0] for warning in told] == [f"{tmp_path}/seed-0/result.json and 2 more"]


@pytest.mark.parametrize(
    ("kind", "content", "changes", "says"),
    [
        (SeedResult, RESULT, {"test": None}, "FILE: test: expected a number, got None"),
        (SeedResult, RESULT, {"test": "1"}, "FILE: test: expected a number, got 1"),
        (SeedResult, RESULT, {"test": True}, "FILE: test: expected a number, got True"),
        (SeedResult, RESULT, {"test": 1e101}, "FILE: test: expected a number, got 1e+101"),
        (SeedResult, RESULT, {"seconds": float("nan")}, "FILE: seconds: expected a finite number, got nan"),
        (SeedResult, RESULT, {"seed": 1.0}, "FILE: seed: expected a whole number of 64 bits, got 1.0"),
        (SeedResult, RESULT, {"seed": -1}, "FILE: seed: expected a whole number from 0, got -1"),
        (SeedResult, RESULT, {"iterations": 10**30}, "FILE: iterations: expected a whole number of 64 bits, got 1000"),
        (SeedResult, RESULT, {"versions": []}, "FILE: versions: expected an object, got []"),
        (SeedResult, RESULT, {"versions": {"torch": 2.3}}, "FILE: versions.torch: expected a text, got 2.3"),
        (SeedResult, RESULT, {"measure": "a\nb"}, "FILE: measure: expected a word of up to 200 characters, got a"),
        (RunSummary, SUMMARY, {"seeds": [1, [2]]}, "FILE: seeds[1]: expected a whole number of 64 bits, got [2]"),
        (RunSummary, SUMMARY, {"test": {"mean": 1.0}}, "FILE: test.sd: expected a number or null, got nothing"),
        (RunSummary, SUMMARY, {"test": 1.0}, "FILE: test: expected an object, got 1.0"),
        (RunSummary, SUMMARY, {"test": {**asdict(SUMMARY.test), "values": [0.5, {}]}}, "FILE: test.values[1]: "),
        (ClaimResult, CLAIM, {"rows": [asdict(ROW), 3]}, "FILE: rows[1]: expected an object, got 3"),
        (ClaimResult, CLAIM, {"rows": [{**asdict(ROW), "holds": 1}]}, "FILE: rows[0].holds: expected true or false"),
        (ClaimResult, CLAIM, {"pictures": [{"file": "f"}]}, "FILE: pictures[0].caption: expected a text, got nothing"),
        (ClaimResult, CLAIM, {"runs": [["x"]]}, "FILE: runs[0]: expected a text, got ['x']"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_told(kind: Any, content: Any, changes: dict[str, Any], says: str) -> None:
    with caught(says, FileFormatError):
        parse(kind, asdict(content) | changes, Path("FILE"))


def test_a_missing_key_is_told() -> None:
    for key in asdict(RESULT):
        content = {name: value for name, value in asdict(RESULT).items() if name != key}
        with caught(f"FILE: {key}: expected ", FileFormatError):
            parse(SeedResult, content, Path("FILE"))


def test_what_a_reader_does_not_need_may_be_missing_but_not_wrong() -> None:
    content = {"test": 0.5, "seed": 3}
    assert parse(SeedResult, content, Path("FILE"), needed=["test"]) == SeedResult(3, *[None] * 2, 0.5, *[None] * 9)
    with caught("FILE: seed: expected a whole number", FileFormatError):
        parse(SeedResult, content | {"seed": "3"}, Path("FILE"), needed=["test"])


def test_a_claim_of_before_judgements_could_be_undecided_is_read() -> None:
    line = {"label": "a", "paper": None, "ours": 1.0, "sd": None, "n": 1, "unit": "%", "holds": True, "note": ""}
    assert checked(list[ClaimRow], [line], Path("FILE"), "rows") == [ClaimRow("a", None, 1.0, None, 1, "%", True)]
    with caught("FILE: rows[0].n: expected a whole number", FileFormatError):
        checked(list[ClaimRow], [{key: v for key, v in line.items() if key != "n"}], Path("FILE"), "rows")


def test_seeds_are_in_the_order_of_numbers(tmp_path: Path, module: Any) -> None:
    """Ten and more: as text, 10 comes before 2. What is no number, or has no result, is no seed."""
    for name in ("10", "2", "1", "11", "0", "9", "x", "7"):
        (tmp_path / f"seed-{name}").mkdir()
        if name != "7":
            (tmp_path / f"seed-{name}" / "result.json").write_text("{}")
    assert module.trained_seeds(tmp_path) == [0, 1, 2, 9, 10, 11]


def test_mean_and_sd_by_hand(module: Any) -> None:
    assert asdict(module.mean_sd([1.0, 2.0, 6.0])) == {
        "mean": 3.0,
        "sd": pytest.approx(7**0.5),
        "median": 2.0,
        "values": [1.0, 2.0, 6.0],
    }
    assert asdict(module.mean_sd([4.0])) == {"mean": 4.0, "sd": None, "median": 4.0, "values": [4.0]}
    assert asdict(module.mean_sd([])) == {"mean": None, "sd": None, "median": None, "values": []}


# ---- planted bugs ----------------------------------------------------------------------------------------------------

ORDER, MEAN = test_seeds_are_in_the_order_of_numbers, test_mean_and_sd_by_hand


BUGS = {
    "seeds sorted as text": (
        "sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))",
        "[int(name) for name in sorted(names) if name.isdecimal()]",
        ORDER,
        "[0, 1, 10, 11, 2, 9] == [0, 1, 2, 9, 10, 11]",
    ),
    "seeds that have no result": ('f"seed-*/{RESULT}"', '"seed-*/"', ORDER, " == [0, 1, 2, 9, 10, 11]"),
    "the s.d. of the population": ("ddof=1)) if", "ddof=0)) if", MEAN, "'sd': 2.16"),
    "the median is the mean": ("float(np.median(values))", "float(np.mean(values))", MEAN, "'median': 3.0"),
}


@pytest.mark.parametrize(("old", "new", "check", "says"), BUGS.values(), ids=BUGS)
def test_planted_bugs_are_caught(old: str, new: str, check: Any, says: str, tmp_path: Path) -> None:
    fresh = changed(MODULE, old, new)[MODULE]
    with caught(says):
        check(tmp_path, fresh) if check is ORDER else check(fresh)
