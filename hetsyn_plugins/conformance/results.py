"""What came of every check of some backends, floats and integers alike, and whether all that was required did."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hetsyn_plugins.conformance import checks, integers
from hetsyn_plugins.conformance.cases import Backend, Mismatch
from hetsyn_plugins.conformance.comparison import Tally
from hetsyn_plugins.conformance.failures import Failure, check_again
from hetsyn_plugins.conformance.loading import AnyBackend, Known

STATUSES = OK, FAILED, LEFT_OUT, KNOWN = "ok", "FAILED", "left out", "known"


@dataclass(frozen=True)
class Result:
    """What came of a check.

    status   OK; FAILED; LEFT_OUT: the backend can run none of its cases; KNOWN: it fails, as the backend says
    says     what was compared, what went wrong, what the backend lacks, or why it is known to fail
    seconds  that it took
    """

    backend: str
    check: str
    status: str
    says: str
    seconds: float
    tally: Tally | None = None
    failure: Failure | None = None


def checks_of(backend: AnyBackend) -> list[str]:
    """The names of the checks that are for this backend."""
    return list(checks.CHECKS if isinstance(backend, Backend) else integers.CHECKS)


def run(backends: Sequence[AnyBackend], only: list[str] | None = None) -> Iterator[Result]:
    """Run every check (or only these) that is for it over every backend."""
    suites: list[tuple[Any, list[Any]]] = [
        (checks, [backend for backend in backends if isinstance(backend, Backend)]),
        (integers, [backend for backend in backends if isinstance(backend, integers.Backend)]),
    ]
    for suite, chosen in suites:
        for backend in chosen:
            start = time.perf_counter()
            for _, check, came in suite.verify([backend], only):
                yield result_of(backend, check, came, time.perf_counter() - start)
                start = time.perf_counter()


def result_of(backend: AnyBackend, check: str, came: Tally | Mismatch, seconds: float) -> Result:
    """What came of a check, in the light of what the backend says of itself."""
    name, reason = backend.name, backend.known.get(check)
    if isinstance(came, Mismatch):
        status = FAILED if reason is None else KNOWN
        says = f"{came}" if reason is None else f"known not to hold: {reason}"
        failure = came.failure or Failure(f"{came}", None, None, check_again(backend, check))
        return Result(name, check, status, says, seconds, None, failure)
    if came.cases == 0:
        return Result(name, check, LEFT_OUT, f"{came}", seconds, came)
    if reason is not None:
        says = f"holds, but is known not to hold: {reason}; `known` should not have it any more"
        return Result(name, check, FAILED, says, seconds, came)
    return Result(name, check, OK, f"{came}", seconds, came)


def unmet(required: Sequence[str], results: Sequence[Result], known: Known) -> dict[str, str]:
    """Which of the required backends and checks did not run, or were left out, and why."""
    names = [*checks.CHECKS, *integers.CHECKS]
    reasons = {name: _why_no_check(name, results) for name in required if name in names}
    reasons |= {name: _why_no_backend(name, results, known) for name in required if name not in names}
    return {name: reason for name, reason in reasons.items() if reason}


def _why_no_check(name: str, results: Sequence[Result]) -> str:
    """Empty where every backend that the check is for ran it."""
    lines = [result for result in results if result.check == name]
    left_out = [f"{result.backend} ({result.says})" for result in lines if result.status == LEFT_OUT]
    if not lines:
        return "no backend ran this check"
    return f"left out by {', '.join(left_out)}" if left_out else ""


def _why_no_backend(name: str, results: Sequence[Result], known: Known) -> str:
    """Empty where the backend ran a check."""
    lines = [result for result in results if result.backend == name]
    if any(result.status != LEFT_OUT for result in lines):
        return ""
    if lines:
        return "all of its checks are left out"
    if name in known.absent:
        return known.absent[name]
    return "it was not asked for" if name in known.present else "there is no backend or check of this name"
