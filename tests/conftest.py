"""What every test file shares: the checkout's adapters, fixed seeds, and memory that shows when it was not written."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Threads that wait sleep: two suites at a time on two cores, each with two threads, would else mostly spin for each
# other (a check of a loop of steps 33 s, not 284). Before torch, which loads what reads it; children inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch
from hypothesis import settings

import hetsyn_plugins
from hetsyn_plugins.kernels.cpu import layout as cpu_layout

ROOT = Path(__file__).resolve().parent.parent

# adapters/ is hetsyn_plugins.adapters (setup.cfg, package_dir): so it is in the checkout too, installed or not.
hetsyn_plugins.__path__.append(str(ROOT))
sys.path.insert(0, str(ROOT / "tests" / "support"))  # what tests start beside themselves

from pretended_card import pretended_card  # noqa: E402  of support

# a property is tried on the same examples in every run: what fails, fails again
settings.register_profile("the same", derandomize=True, deadline=None, database=None)
settings.load_profile("the same")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--device`."""
    what = "where tests marked `card` make their tensors: cpu, cuda, or pretended, a card that is not there"
    parser.addoption("--device", choices=("cpu", "cuda", "pretended"), default="cpu", help=what)


LEFT_OUT = "left out without the package "


def needs(package: str, present: bool) -> pytest.MarkDecorator:
    """Skip a test where a package of the system is missing; the end of the run names all such packages in one line."""
    return pytest.mark.skipif(not present, reason=LEFT_OUT + package)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for all tests that `needs` left out, in the place of one a test."""
    reports = terminalreporter.stats.pop("skipped", [])
    reasons = [str(report.longrepr[2]).partition(LEFT_OUT)[2] for report in reports]
    skipped = [report for report, package in zip(reports, reasons, strict=True) if not package]
    packages = {package: reasons.count(package) for package in sorted(reasons) if package}
    if skipped:
        terminalreporter.stats["skipped"] = skipped
    if packages:
        terminalreporter.stats["left out"] = [report for report in reports if report not in skipped]
        counts = ", ".join(f"{package} ({count} test{'s' * (count > 1)})" for package, count in packages.items())
        terminalreporter.write_line(f"left out: {counts}: apt install {' '.join(packages)}")


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Global generators start alike in every test, so that neither order nor selection changes a result."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  snnTorch, Norse and scikit-learn may draw from the legacy generator


@pytest.fixture(autouse=True)
def on_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a test that is marked `card` make its tensors and layers on the device of `--device`."""
    device = request.config.getoption("--device")
    marks = {mark.name for mark in request.node.iter_markers()}
    if device == "cpu" or "card" not in marks or "cpu_only" in marks:
        yield
        return
    there = pretended_card(monkeypatch) if device == "pretended" else contextlib.nullcontext()
    with there, torch.device("cuda:0"):
        yield


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `poison_empty`."""
    poison_empty(monkeypatch)


def poison_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill memory that torch or a CPU kernel allocates without writing: NaN, and the largest integer of a type.

    A kernel that leaves an element unwritten then fails its comparison, instead of passing on lucky zeros.
    """

    def poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def empty(*args: Any, **kwargs: Any) -> torch.Tensor:
            out = allocate(*args, **kwargs)
            with torch.no_grad():  # also for out.requires_grad: a leaf may only be filled in place outside autograd
                if out.dtype.is_floating_point or out.dtype.is_complex:
                    return out.fill_(float("nan"))
                return out.fill_(True if out.dtype == torch.bool else torch.iinfo(out.dtype).max)

        return empty

    monkeypatch.setattr(cpu_layout.Layout, "empty", lambda at, *sizes: at.zeros(*sizes) + at.dtype.type("nan"))
    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, poisoned(getattr(torch.Tensor, name)))
