"""Results, requirements, and the files for machines; JUnit's is held against what the schemas of its readers ask."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import planting
import pytest

from hetsyn_plugins.conformance import integers, reports, results
from hetsyn_plugins.conformance.cases import Backend, Case, Outcome
from hetsyn_plugins.conformance.comparison import expected
from hetsyn_plugins.conformance.integers import Output
from hetsyn_plugins.conformance.loading import Known
from hetsyn_plugins.conformance.results import FAILED, KNOWN, LEFT_OUT, OK, Result


def off(case: Case) -> Outcome:
    right = expected(case)
    return replace(right, v=right.v + 1e-3)


RIGHT = Backend("right", expected, gradients=False)
WRONG = Backend("wrong", off, gradients=False)
CHECKS = ["hand-table", "gradients"]


def test_a_check_is_ok_wrong_left_out_or_known() -> None:
    known = replace(WRONG, name="known", known={"hand-table": "a bit off"})
    found = {(r.backend, r.check): r for r in results.run([RIGHT, WRONG, known], CHECKS)}
    assert [result.status for result in found.values()] == [OK, LEFT_OUT, FAILED, LEFT_OUT, KNOWN, LEFT_OUT]
    assert found["right", "gradients"].says == "32 left out: no gradients"
    assert found["known", "hand-table"].says == "known not to hold: a bit off"
    assert found["wrong", "hand-table"].failure is not None


def test_a_known_failure_that_holds_is_a_failure() -> None:
    (result,) = results.run([replace(RIGHT, known={"hand-table": "was off once"})], ["hand-table"])
    assert result.status == FAILED
    assert result.says == "holds, but is known not to hold: was off once; `known` should not have it any more"


def test_backends_of_integers_have_checks_of_their_own() -> None:
    core = integers.Backend("core", integers.run_core, takes=lambda case: not case.allow_overflow)
    found = list(results.run([RIGHT, core], ["delays", "overflow", "threshold"]))
    assert [(r.backend, r.check, r.status) for r in found] == [
        ("right", "threshold", OK),
        ("core", "delays", OK),
        ("core", "overflow", LEFT_OUT),
    ]
    assert found[-1].says == "1 left out: no such numbers"


def test_a_failure_in_integers_is_shown_with_what_runs_its_check_again() -> None:
    def run(cases: list[integers.Case]) -> list[integers.Outputs]:
        return [{name: Output(None, v + 1) for name, (_, v) in got.items()} for got in integers.run_core(cases)]

    (result,) = results.run([integers.Backend("one too many", run)], ["delays"])
    assert result.status == FAILED and "spikes expected some, got the opposite" in result.says
    assert 'run_check(backend, "delays")' in str(result.failure)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("right", ""),
        ("hand-table", ""),
        ("gradients", "left out by right (32 left out: no gradients)"),
        ("sizes", "no backend ran this check"),
        ("empty", "all of its checks are left out"),
        ("norse", "norse is not installed"),
        ("eager", "it was not asked for"),
        ("brian2", "there is no backend or check of this name"),
    ],
)
def test_a_requirement_that_is_not_met_says_why(name: str, why: str) -> None:
    left_out = Result("empty", "random", LEFT_OUT, "1 left out", 0.0)
    found = [*results.run([RIGHT], CHECKS), left_out]
    known = Known({"eager": RIGHT}, {"norse": "norse is not installed"})
    assert results.unmet([name], found, known) == ({name: why} if why else {})


# ---- files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> list[Result]:
    known = replace(WRONG, name="known", known={"hand-table": "a bit off"})
    return list(results.run([RIGHT, WRONG, known], CHECKS))


ABSENT, UNMET = {"norse": "not installed: <pip>"}, {"norse": "not installed: \x1b[31mno\x00"}


def test_json_has_all_that_was_printed(found: list[Result]) -> None:
    content: Any = json.loads(reports.as_json(found, ABSENT, UNMET))
    assert content["passed"] is False and content["counts"] == {OK: 1, FAILED: 1, LEFT_OUT: 3, KNOWN: 1}
    assert (content["absent"], content["unmet"]) == (ABSENT, UNMET)
    wrong = content["results"][2]
    assert wrong["says"] == found[2].says and wrong["failure"]["first_difference"]["neuron"] == 0
    assert "check_case(backend, case)" in wrong["failure"]["snippet"]
    assert content["results"][0]["compared"]["spikes"] == 16
    passed: Any = json.loads(reports.as_json(found[:2], {}, {}))
    assert passed["passed"] is True


def test_a_number_that_is_not_finite_is_null(found: list[Result]) -> None:
    """JSON has no infinity: v of a silent layer is exact, and then any distance is infinitely many bounds."""
    failure = found[2].failure
    assert failure is not None and failure.place is not None
    place = replace(failure.place, margin=float("inf"), v=(0.0, float("nan")))
    endless = replace(found[2], failure=replace(failure, place=place))
    difference = json.loads(reports.as_json([endless], {}, {}))["results"][0]["failure"]["first_difference"]
    assert difference["margin"] is None and difference["v"] == [0.0, None]


# Ant's schema (strict: required attributes, elements in this order) and Jenkins' (names only) agree on these
REQUIRED = {
    "testsuite": {"name", "timestamp", "hostname", "tests", "failures", "errors", "time", "id", "package"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type"},
}
ALLOWED = {"testsuite": {"skipped"}, "failure": {"message"}, "skipped": {"message"}}
INSIDE = {
    "testsuites": "(testsuite )*",
    "testsuite": "properties (testcase )*system-out system-err ",
    "testcase": "(skipped |error |failure )?",
}
NUMBERS = {"tests": r"\d+", "failures": r"\d+", "errors": r"\d+", "skipped": r"\d+", "id": r"\d+", "time": r"\d+\.\d+"}
NUMBERS["timestamp"] = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"


def check_schema(element: ET.Element) -> None:
    """Raise AssertionError where an element is not as the schemas have it."""
    tag, attributes = element.tag, set(element.attrib)
    required = REQUIRED.get(tag, set())
    assert required <= attributes <= required | ALLOWED.get(tag, set()), f"{tag} has {sorted(attributes)}"
    children = "".join(f"{child.tag} " for child in element)
    assert re.fullmatch(INSIDE.get(tag, ""), children), f"{tag} has {children}"
    for name, pattern in NUMBERS.items():
        assert re.fullmatch(pattern, element.get(name, "1.0" if name == "time" else "1")) or name not in attributes
    for child in element:
        check_schema(child)


def test_junit_is_what_its_schemas_ask_for(found: list[Result]) -> None:
    written = reports.as_junit(found, ABSENT, UNMET)
    assert written.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n')
    root = ET.fromstring(written)
    assert root.tag == "testsuites"
    check_schema(root)
    for suite in root:
        cases = suite.findall("testcase")
        counts = {name: str(sum(case.find(tag) is not None for case in cases)) for name, tag in reports.KINDS.items()}
        assert {name: suite.get(name) for name in counts} == counts and suite.get("tests") == str(len(cases))
        assert float(suite.get("time", "")) == pytest.approx(sum(float(case.get("time", "")) for case in cases))
    assert [suite.get("name") for suite in root] == ["right", "wrong", "known", "norse", "required"]


def test_junit_tells_what_failed_and_what_was_skipped(found: list[Result]) -> None:
    root = ET.fromstring(reports.as_junit(found, ABSENT, UNMET))
    said = {}
    for case in root.iter("testcase"):
        (outcome,) = [*case] or [ET.Element("passed")]
        said[case.get("classname"), case.get("name")] = outcome.tag, outcome.get("message"), outcome.text or ""
    assert said["hetsyn.right", "hand-table"][0] == "passed"
    assert said["hetsyn.right", "gradients"][:2] == ("skipped", "32 left out: no gradients")
    assert said["hetsyn.known", "hand-table"][:2] == ("skipped", "known not to hold: a bit off")
    tag, message, text = said["hetsyn.wrong", "hand-table"]
    assert (tag, message) == ("failure", found[2].says) and "smallest failing case" in text
    assert said["hetsyn.norse", "present"][:2] == ("skipped", "absent: not installed: <pip>")
    assert said["hetsyn.required", "norse"][:2] == ("failure", "not installed: \\x1b[31mno\\x00")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"package": "hetsyn", ', "", "testsuite has"),
        ('for stream in ("system-out", "system-err")', 'for stream in ("system-err", "system-out")', "testsuite has"),
        ('more = {"type": "Mismatch"} if kind == "failure" else {}', "more = {}", "failure has"),
    ],
)
def test_what_is_against_the_schemas_is_seen(found: list[Result], old: str, new: str, says: str) -> None:
    with planting.planted("hetsyn_plugins.conformance.reports", old, new) as changed, planting.caught(says):
        check_schema(ET.fromstring(changed.as_junit(found, ABSENT, UNMET)))
