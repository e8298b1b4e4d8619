"""tools/gpu_check without a card: it says so in a line; its page and exit status, with parts that are made up."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_card import pretended_card

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "gpu_check"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    loader = importlib.machinery.SourceFileLoader("gpu_check", str(TOOL))
    spec = importlib.util.spec_from_loader("gpu_check", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_check", module)
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which it adds
    loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    return module


def test_without_a_card_it_is_one_line(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tool.main() == 2
    out, said = capsys.readouterr()
    assert (
        out == "" and said.startswith("gpu_check: card: expected a CUDA device, got none: ") and said.count("\n") == 1
    )


def made_up(tool: Any, monkeypatch: pytest.MonkeyPatch, **codes: str) -> None:
    """Parts that are these programs, a second each."""
    made = {name: tool.Part([sys.executable, "-c", code], 1, tool.failures_and_last) for name, code in codes.items()}
    monkeypatch.setattr(tool, "machine", lambda: "a card")
    monkeypatch.setattr(tool, "parts", lambda folder: made)
    monkeypatch.setattr(sys, "argv", ["gpu_check", *(word for name in codes for word in ("--only", name))])


def test_all_that_holds_is_a_page(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up(tool, monkeypatch, contract="print('gpu a ok\\ngpu b ok\\n2 of 2 passed')", graph="print('weights')")
    assert tool.main() == 0
    page = capsys.readouterr().out.splitlines()
    assert page[0] == "a card" and "  2 of 2 passed" in page and not any("gpu a ok" in line for line in page)
    assert page[-1].startswith("all held; ")


def test_what_fails_or_takes_too_long_is_wrong(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = "import sys; print('gpu a FAILED 3 spikes differ\\n1 of 2 passed'); sys.exit(1)"
    made_up(tool, monkeypatch, contract=fails, training="import time; time.sleep(9)", graph="print(1)")
    began = time.monotonic()
    assert tool.main() == 1 and time.monotonic() - began < 8
    page = capsys.readouterr().out
    assert "  gpu a FAILED 3 spikes differ\n" in page and "ended: it took more than 1 s" in page
    assert "WRONG: contract, training; " in page.splitlines()[-1]


def test_the_benchmark_stands_beside_what_was_aimed_at(tool: Any, tmp_path: Path) -> None:
    head = "shape,peer,median,least,most,memory,times_ours,memory_times_ours,share,note,card\n"
    ours, other = "A,ours,0.5,0.4,0.6,91.0,1.0,1.0,0.33,,0.38\n", "A,snnTorch,20.0,19,21,50,40.0,0.5,,,19.5\n"
    (tmp_path / "bench.csv").write_text(f"{head}{ours}{other}A,lava-dl,,,,,,,,CPU only,\n")
    gradients = "gradients A, 2% spikes: dense 0.217 ms, skipping 0.195 ms"
    said = f"gate: equal\n{gradients}\nSpikingJelly left out: pip install spikingjelly\nA   ours\n"
    _, both, missing, line = tool.benchmark(said, tmp_path / "bench.csv")
    assert "left out" in missing and line.split() == (
        "A 0.50 ms, card 0.38 aim 0.65 33% of float32 91 MB snnTorch x 40.0".split()
    )
    assert (
        list(tool.benchmark(said, tmp_path / "none.csv")) == ["gate: equal", gradients, missing] and both == gradients
    )


def test_what_is_marked_runs_on_a_card() -> None:
    """A few of them, on one that is not there."""
    few = "batch_first_stack or given_states or goes_on_from_the_state or graded_spikes_go_on"
    words = [sys.executable, "-m", "pytest", "-c", str(ROOT / "setup.cfg"), "--rootdir", str(ROOT), "-q", "-p"]
    words += ["no:cacheprovider", "--device", "pretended", "-m", "card and not cpu_only", "-k", few]
    words += [str(ROOT / "tests" / "ops" / f"test_{name}.py") for name in ("padded", "steps_of_layers")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretended_card(monkeypatch):
        yield


def test_the_training_that_it_judges_runs(
    tool: Any, card: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a card that is not there, with fewer and shorter samples."""
    small = '"task.test_samples=4", "task.delay=0.01", "task.cue=0.01", "task.onset=0.01", "network.hidden=[4]"'
    code = tool.TRAINING.replace('"task.test_samples=200"', small).replace("iterations=20", "iterations=6")
    code = (
        code.replace("total = 10", "total = 5").replace("sys.exit(not (", "assert (").replace("<= 0.02))", "<= 0.02)")
    )
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path)])
    exec(code, {})
    assert capsys.readouterr().out.count("the same bits") == 2
