"""Runs that are made longer, runs that stop by themselves, and sweeps over settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from planting import changed

from hetsyn_plugins import cli
from hetsyn_plugins.experiments import extension, run_folder, sweep, training
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.grid import points
from hetsyn_plugins.experiments.training_log import LOG, read_log

SMALL = [
    "network.hidden=[4]", "training.batch=4", "training.log_every=1", "training.validate_every=2",
    "task.test_samples=10", "task.delay=0.05",
]  # fmt: skip


def small(*settings: str) -> Config:
    return load_config("dms", [*SMALL, *settings])


def left(folder: Path) -> dict[str, Any]:
    """What a seed left, but for the times that it took."""
    log = [{key: value for key, value in record.items() if key != "seconds"} for record in read_log(folder / LOG)]
    result = json.loads((folder / "result.json").read_text())
    for key in ("seconds", "peak_memory_mb", "digest"):
        result.pop(key)
    return {"log": log, "result": result, "network": (folder / "network.safetensors").read_bytes()}


# ---- longer --------------------------------------------------------------------------------------------------------


def test_a_longer_run_is_what_it_would_have_been_at_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    best = "training.select=best_validation"
    sweep.train_seeds(small("training.iterations=4", best), [0], tmp_path / "two", quiet=True)
    before = (tmp_path / "two/seed-0/result.json").read_bytes()
    words = [word for text in (*SMALL, best, "training.iterations=8") for word in ("--set", text)]
    assert cli.main(["train", "dms", *words, "--out", str(tmp_path / "two"), "--quiet"]) == 0
    sweep.train_seeds(small("training.iterations=8", best), [0], tmp_path / "one", quiet=True)
    assert left(tmp_path / "two/seed-0") == left(tmp_path / "one/seed-0")
    assert (tmp_path / "two/seed-0/result.4.json").read_bytes() == before
    assert run_folder.load_run_config(tmp_path / "two") == small("training.iterations=8", best)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ((), ("training.iterations=3",), r"training.iterations: expected at least the 4 iterations of .*, got 3 "),
        (
            ("training.schedule=cosine",),
            ("training.iterations=9", "training.schedule=cosine"),
            "training.schedule: expected 'constant', 'step', or 'cosine' with a schedule_span: .* got 'cosine'",
        ),
        ((), ("training.iterations=9", "training.lr=0.5"), "--out: expected a new folder .*training.lr = 0.005 there"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_longer_is_left_as_it_is(
    before: tuple[str, ...], after: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    sweep.train_seeds(small("training.iterations=4", *before), [0, 1][:1], tmp_path, quiet=True)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=f"^{message}"):
        sweep.train_seeds(small("training.iterations=4", *after), [0], tmp_path, quiet=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_all_seeds_of_a_run_are_as_long(tmp_path: Path) -> None:
    sweep.train_seeds(small("training.iterations=2"), [0], tmp_path, quiet=True)
    with pytest.raises(ValueError, match="--seeds: expected all that are trained, 0, to train on, got fewer"):
        sweep.train_seeds(small("training.iterations=4"), [1], tmp_path, quiet=True)


def test_a_span_of_its_own_lets_a_cosine_go_on() -> None:
    spans = {span: small("training.schedule=cosine", f"training.schedule_span={span}").training for span in (0, 5)}
    assert [extension.schedule_goes_on(spans[span]) for span in (0, 5)] == [False, True]
    rates = [[training.schedule(spans[span], i, 1, total) for i in range(4)] for span in (0, 5) for total in (4, 9)]
    assert rates[0] != rates[1] and rates[2] == rates[3]


# ---- early stopping ------------------------------------------------------------------------------------------------


class Steady(training.Trainer):
    """Validation has these values, one after another."""

    values = (0.5, 0.6, 0.6, 0.55, 0.6, 0.7, 0.7, 0.7)

    def validate(self) -> float | None:
        real, at = training.evaluate, self.iteration // self.validate_every - 1
        training.evaluate = lambda *_: self.values[at]
        try:
            return super().validate()
        finally:
            training.evaluate = real


def stopped(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Any = Steady) -> Any:
    monkeypatch.setattr(training, "Trainer", kind)
    return training.train(config, 0, folder, quiet=True)


def test_a_run_stops_when_validation_does_not_become_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["training.select=best_validation", "training.iterations=16"]
    for waited, end, best in ((1, 6, 4), (3, 10, 4), (4, 16, 12)):
        result = stopped(small(*settings, f"training.patience={waited}"), tmp_path / f"{waited}", monkeypatch)
        assert (result.iterations, result.selected_iteration) == (end, best)
    (tmp_path / "3/result.json").unlink()  # killed between the checkpoint and the result
    again = stopped(small(*settings, "training.patience=3"), tmp_path / "3", monkeypatch)
    assert (again.iterations, again.selected_iteration) == (10, 4)
    with pytest.raises(ValueError, match=r"training.patience: expected 0 without training\.select="):
        small("training.patience=2")


def test_a_run_that_stopped_by_itself_is_longer_with_more_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["training.select=best_validation", "training.iterations=16"]
    config = small(*settings, "training.patience=1")
    sweep.prepare(tmp_path, config)
    assert stopped(config, tmp_path / "seed-0", monkeypatch).iterations == 6
    for changes, message in {
        ("training.patience=1", "training.iterations=20"): "expected more of it .*seed 0 stopped at iteration 6",
        ("training.patience=0",): None,
    }.items():
        longer = small(*settings, *changes)
        if message is None:
            assert sweep.train_seeds(longer, [0], tmp_path, quiet=True).seeds == [0]
            continue
        with pytest.raises(ValueError, match=f"training.patience: {message}"):
            sweep.train_seeds(longer, [0], tmp_path, quiet=True)
    assert run_folder.load_result(tmp_path / "seed-0").iterations == 16


def test_impatience_that_is_planted_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = changed(training.__name__, "0 < waited <= self", "0 < waited < self")[training.__name__]
    monkeypatch.setattr(Steady, "has_settled", planted.Trainer.has_settled)
    config = small("training.select=best_validation", "training.iterations=16", "training.patience=1")
    assert stopped(config, tmp_path, monkeypatch).iterations != 6


# ---- sweeps --------------------------------------------------------------------------------------------------------


def test_every_combination_has_a_folder() -> None:
    assert points([]) == {"": []}
    assert points(["network.hidden=[64],[128, 32]", "training.lr=1e-3,0.01"]) == {
        "network.hidden=64,training.lr=0.001": ["network.hidden=[64]", "training.lr=0.001"],
        "network.hidden=64,training.lr=0.01": ["network.hidden=[64]", "training.lr=0.01"],
        "network.hidden=128-32,training.lr=0.001": ["network.hidden=[128, 32]", "training.lr=0.001"],
        "network.hidden=128-32,training.lr=0.01": ["network.hidden=[128, 32]", "training.lr=0.01"],
    }
    assert list(points(["network.variant=hetsyn,alif"])) == ["network.variant=hetsyn", "network.variant=alif"]
    assert points(["task.samples=5,none"])["task.samples=none"] == ["task.samples=none"]


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        (["training.lr"], "expected key=value,value, got 'training.lr'"),
        (["training.lr="], "expected key=value,value"),
        (["training.lr=1,2", "training.lr=3"], "expected every setting once"),
        (["training.lr=1,1"], "expected values that differ"),
        (["training.lr=" + ",".join("1" * 1001)], "expected at most 1000 points, got 1001"),
    ],
)
def test_a_sweep_that_is_none_is_told(sweeps: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^(--)?sweep: {message}"):
        points(sweeps)


def test_a_sweep_is_trained_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    words = [word for text in (*SMALL, "training.iterations=2") for word in ("--set", text)]
    command = ["train", "dms", *words, "--out", str(out), "--quiet", "--sweep"]
    assert cli.main([*command, "training.lrr=1,2"]) == 2
    assert "nearest: training.lr" in capsys.readouterr().err and not out.exists()
    assert cli.main([*command, "network.hidden=[3],[0]"]) == 2
    assert "network.hidden: expected at least 1" in capsys.readouterr().err and not out.exists()
    assert cli.main([*command, "network.hidden=[3],[4]", "--sweep", "network.variant=hetsyn"]) == 0
    printed = capsys.readouterr().out
    for n in (3, 4):
        name = f"network.hidden={n},network.variant=hetsyn"
        assert run_folder.load_run_config(out / name).network.hidden == (n,) and name in printed
        assert run_folder.trained_seeds(out / name) == [0]
    assert cli.main(["report", str(out), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert all(f"network.hidden={n},network.variant=hetsyn" in page for n in (3, 4))
