"""Results for machines: JSON, and the JUnit XML that continuous integration reads."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from hetsyn_plugins._version import __version__
from hetsyn_plugins.conformance.failures import Failure
from hetsyn_plugins.conformance.results import FAILED, KNOWN, LEFT_OUT, STATUSES, Result

Reasons = Mapping[str, str]
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


def as_json(results: Sequence[Result], absent: Reasons, unmet: Reasons) -> bytes:
    """All results, what is absent, and which requirement is not met; numbers that are not finite are null."""
    content = {
        "hetsyn_plugins": __version__,
        "passed": not unmet and all(result.status != FAILED for result in results),
        "counts": {status: sum(r.status == status for r in results) for status in STATUSES},
        "results": [_plain(result) for result in results],
        "absent": dict(absent),
        "unmet": dict(unmet),
    }
    return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"


def _plain(result: Result) -> dict[str, Any]:
    entry = {name: getattr(result, name) for name in ("backend", "check", "status", "says", "seconds")}
    if result.tally is not None:
        entry["compared"] = {name: _finite(value) for name, value in asdict(result.tally).items()}
    if result.failure is not None:
        entry["failure"] = _plain_failure(result.failure)
    return entry


def _plain_failure(failure: Failure) -> dict[str, Any]:
    place = None if failure.place is None else {n: _finite(v) for n, v in asdict(failure.place).items()}
    return {"says": failure.says, "first_difference": place, "snippet": failure.snippet}


def _finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_junit(results: Sequence[Result], absent: Reasons, unmet: Reasons) -> bytes:
    """A test suite a backend and a test case a check; an absent backend is a case that was skipped.

    It has what the schemas of Ant and of Jenkins ask for. A check that is known not to hold is skipped, with the
    reason; requirements that are not met are failures of a suite of their own.
    """
    root = ET.Element("testsuites")
    for name in dict.fromkeys(result.backend for result in results):
        _add_suite(root, name, [_case(result) for result in results if result.backend == name])
    for name, reason in absent.items():
        _add_suite(root, name, [_element("present", name, 0.0, "skipped", f"absent: {reason}")])
    if unmet:
        _add_suite(root, "required", [_element(n, "required", 0.0, "failure", why) for n, why in unmet.items()])
    ET.indent(root, " ")
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode").encode() + b"\n"


def _case(result: Result) -> ET.Element:
    kind = {FAILED: "failure", LEFT_OUT: "skipped", KNOWN: "skipped"}.get(result.status)
    detail = f"{result.failure}" if result.failure is not None and result.status == FAILED else ""
    return _element(result.check, result.backend, result.seconds, kind, result.says, detail)


def _element(name: str, suite: str, seconds: float, kind: str | None, says: str, detail: str = "") -> ET.Element:
    case = ET.Element("testcase", name=_text(name), classname=_text(f"hetsyn.{suite}"), time=f"{seconds:.3f}")
    if kind is not None:
        more = {"type": "Mismatch"} if kind == "failure" else {}
        ET.SubElement(case, kind, {"message": _text(says), **more}).text = _text(detail) or None
    return case


def _add_suite(root: ET.Element, name: str, cases: list[ET.Element]) -> None:
    counts = {kind: sum(case.find(tag) is not None for case in cases) for kind, tag in KINDS.items()}
    seconds = sum(float(case.attrib["time"]) for case in cases)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    attributes = {"name": _text(name), "package": "hetsyn", "id": f"{len(root)}", "tests": f"{len(cases)}"}
    attributes |= {kind: f"{count}" for kind, count in counts.items()}
    attributes |= {"time": f"{seconds:.3f}", "timestamp": now, "hostname": "localhost"}
    suite = ET.SubElement(root, "testsuite", attributes)
    ET.SubElement(suite, "properties")
    suite.extend(cases)
    for stream in ("system-out", "system-err"):
        ET.SubElement(suite, stream)


KINDS = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def _text(text: str) -> str:
    """Text that XML can hold: other characters as Python writes them."""
    return NO_XML.sub(lambda match: ascii(match.group())[1:-1], text)
