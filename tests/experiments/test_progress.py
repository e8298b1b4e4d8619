"""The bar over seeds that take differently long: it counts runs, and weighs them by what they take."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetsyn_plugins.experiments import progress
from hetsyn_plugins.experiments.progress import Expected, Progress, share_done
from hetsyn_plugins.experiments.training_log import LOG


def test_the_bar_weighs_runs_and_follows_those_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    short, long = tmp_path / "short", tmp_path / "long"
    with Progress("claim", {short: Expected(100.0, 10), long: Expected(300.0, 1000)}, done=2) as bar:
        bar.ended(short)
        assert bar.bar.n == 100
        long.mkdir()
        (long / LOG).write_text('{"iteration": 300}\n{"iteration": 500}\n{"iterat')  # of which a line is being written
        bar.look([long])
        assert bar.bar.n == 250
    assert "2 of 4 runs" in (shown := capsys.readouterr().err) and "3 of 4 runs" in shown and " 62%" in shown


@pytest.mark.parametrize("content", [None, "", "{}\n", "[1]\n", "x\n", '{"iteration": "x"}\n'])
def test_a_log_that_cannot_be_read_is_no_share(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / LOG).write_text(content)
    assert share_done(tmp_path, 10) == 0.0
