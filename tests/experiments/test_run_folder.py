"""The files of runs and claims: seeds as a user writes them, and one shape for who writes and who reads."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from planting import caught, changed

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
    parse,
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
    assert loaded == asdict(content), "keys and values of the file are those of the fields"
    assert parse(type(content), loaded, tmp_path, "it") == content
    assert parse(type(content), {**loaded, "of a later version": 1}, tmp_path, "it") == content


@pytest.mark.parametrize(
    ("kind", "content", "changes", "says"),
    [
        (SeedResult, RESULT, {"test": None}, "it: expected test to be int or float in FILE, got None"),
        (SeedResult, RESULT, {"test": "1"}, "it: expected test to be int or float in FILE, got '1'"),
        (SeedResult, RESULT, {"test": True}, "it: expected test to be int or float in FILE, got True"),
        (SeedResult, RESULT, {"seed": 1.0}, "it: expected seed to be int in FILE, got 1.0"),
        (SeedResult, RESULT, {"versions": []}, "it: expected versions to be dict in FILE, got []"),
        (RunSummary, SUMMARY, {"test": {"mean": 1.0}}, "it: expected test.sd to be int or float or nothing in FILE"),
        (RunSummary, SUMMARY, {"test": 1.0}, "it: expected test to be dict in FILE, got 1.0"),
        (ClaimResult, CLAIM, {"rows": [asdict(ROW), 3]}, "it: expected an object rows[1]. in FILE, got 3"),
        (ClaimResult, CLAIM, {"rows": [{**asdict(ROW), "holds": 1}]}, "expected rows[0].holds to be bool or nothing"),
        (ClaimResult, CLAIM, {"pictures": [{"file": "f"}]}, "expected pictures[0].caption to be str in FILE"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_told(
    kind: Any, content: Any, changes: dict[str, Any], says: str, module: Any
) -> None:
    with caught(says, ValueError):
        module.parse(getattr(module, kind.__name__), asdict(content) | changes, Path("FILE"), "it")


def test_a_missing_key_is_told(module: Any) -> None:
    for key in asdict(RESULT):
        content = {name: value for name, value in asdict(RESULT).items() if name != key}
        with caught(f"it: expected {key} to be ", ValueError):
            module.parse(module.SeedResult, content, Path("FILE"), "it")


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
        "sorted(int(name) for name in names if name.isdecimal())",
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
