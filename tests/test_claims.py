"""The claims as commands: what they run, what they say of it, and that they say it plainly where it differs."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hetsyn_plugins import cli, config, runs
from hetsyn_plugins.claims import CLAIMS, claim, dms
from hetsyn_plugins.claims.claim import Arm, Claim, Evidence, Row

TINY = ["training.iterations=3", "training.batch=2", "training.validate_every=3"]
SOURCES = {"dms": ["task.test_samples=6"], "patterns": ["task.test_samples=2"]}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few recordings in SHD's layout."""
    folder, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    for name in ("shd_train.h5", "shd_test.h5"):
        with h5py.File(folder / name, "w") as file:
            for key, kind in (("times", np.float16), ("units", np.uint16)):
                file.create_dataset(f"spikes/{key}", (20,), h5py.vlen_dtype(kind))
            file["labels"] = np.arange(20).astype(np.uint16)
            for index in range(20):
                file["spikes/times"][index] = np.sort(rng.random(50)).astype(np.float16)
                file["spikes/units"][index] = rng.integers(0, 700, 50).astype(np.uint16)
    return folder


def settings(name: str, speech: Path) -> list[str]:
    """What makes a claim's runs take a moment."""
    task = next(iter(CLAIMS[name].arms.values())).task
    sources = {**SOURCES, "speech": [f'task.source="{speech}"', "task.dt=0.02"], "images": ["task.source=digits"]}
    return [*TINY, *sources[task], *(["task.samples=20", "training.batch=64"] if task == "images" else [])]


def test_arms_of_one_name_are_one_run() -> None:
    """The runs are shared by all claims."""
    seen: dict[str, Arm] = {}
    for own in CLAIMS.values():
        for name, arm in own.arms.items():
            assert seen.setdefault(name, arm) == arm
            config.load(arm.task, arm.settings)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_runs_to_its_table_and_pictures(
    name: str, speech: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path_factory.getbasetemp() / "claims"  # shared, as a user's are
    words = [word for text in settings(name, speech) for word in ("--set", text)]
    assert cli.main(["claim", name, "--seeds", "0", "--out", str(out), "--quiet", *words]) == 0
    printed = capsys.readouterr().out
    result = json.loads((out / name / "claim.json").read_text())
    assert result["title"] in printed and result["statement"] in printed and result["verdict"] in printed
    for row in result["rows"]:
        assert row["label"] in printed and np.isfinite(row["ours"]) and row["n"] == 1 and row["sd"] is None
    for picture in result["pictures"]:
        assert (out / name / picture["file"]).read_bytes()[:4] == b"\x89PNG"
    for run in result["runs"]:
        assert runs.trained((out / name / run).resolve()) == [0]


def rows_of(own: Claim, values: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch) -> dict[str, Row]:
    """The rows of a claim whose runs came out so."""
    monkeypatch.setattr(Evidence, "values", lambda self, arm: np.array(values[arm]))
    return {row.label: row for row in own.rows(Evidence(Path("none"), own.arms, range(5)))}


@pytest.mark.parametrize(("shift", "holds"), [(-0.01, True), (0.01, False)])
def test_patterns_need_every_seed_below(shift: float, holds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    own = CLAIMS["patterns"]
    values = {arm: [0.2, 0.3, 0.4, 0.3, 0.2] for arm in own.arms}
    values["patterns-F-hetsyn-2hz"] = [0.1, 0.1, 0.1, 0.1, 0.2 + shift]
    monkeypatch.setattr("hetsyn_plugins.claims.patterns.figure", lambda *arguments: np.zeros(5))
    row = rows_of(own, values, monkeypatch)["F-HomNeuLIF: MSE"]
    assert row.holds is holds and f"below on {5 if holds else 4} of 5 seeds" in row.note
    assert row.ours == pytest.approx(0.28) and row.sd == pytest.approx(np.std([0.2, 0.3, 0.4, 0.3, 0.2], ddof=1))


@pytest.mark.parametrize(("accuracies", "holds"), [([1.0, 1, 1, 1, 0.5], True), ([0.97] * 5, False)])
def test_dms_is_judged_by_its_median(accuracies: list[float], holds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    own = CLAIMS["dms"]
    rows = rows_of(own, {arm: accuracies for arm in own.arms}, monkeypatch)
    assert rows["HetSynLIF: median accuracy"].holds is holds
    assert rows["HetSynLIF: median accuracy"].ours == pytest.approx(np.median(accuracies) * 100)
    successes = np.mean(np.array(accuracies) >= 0.9) * 100
    assert rows["HetSynLIF: successful runs"].ours == pytest.approx(successes)


@pytest.mark.parametrize(
    ("cue", "noise", "accuracy", "after", "holds"),
    [
        (0.11, 0.09, 1.0, 0.75, (True, True, True, True)),
        (0.09, 0.11, 1.0, 0.75, (False, False, True, True)),
        (0.11, 0.09, 0.98, 0.9, (True, True, False, False)),
    ],
)
def test_table_4_is_judged_by_directions_and_drop(
    cue: float, noise: float, accuracy: float, after: float, holds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = CLAIMS["dms-table4"]
    means = {"cue": cue, "noise": noise}
    monkeypatch.setattr(dms, "tau_figure", lambda evidence, name, group, what: np.full(5, means[group]))
    monkeypatch.setattr(dms, "after_reset", lambda *arguments: np.full(5, after))
    monkeypatch.setattr(dms, "long_share", lambda *arguments: np.full(5, 0.05))
    rows = rows_of(own, {arm: [accuracy] * 5 for arm in own.arms}, monkeypatch)
    labels = ("mean tau, cue", "mean tau, noise", "accuracy", "accuracy, those reset")
    assert tuple(rows[f"start 100 ms: {label}"].holds for label in labels) == holds
    assert rows["start 100 ms: mean tau, cue"].ours == pytest.approx(cue * 1e3)
    assert rows["start 100 ms: mean tau, cue"].paper == 154.38


def test_the_verdict_is_plain() -> None:
    row = Row("a", 1.0, 2.0, None, 1, holds=True)
    assert claim.verdict([row]) == "As in the paper, in all 1 comparisons."
    differs = claim.verdict([row, row._replace(label="b", holds=False)])
    assert differs == "Differs from the paper in 1 of 2 comparisons: b."
    assert claim.verdict([row._replace(holds=None)]) == "Nothing in the paper to compare these numbers with."


def test_iterations_to_an_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = {
        0: [(100, 0.5), (150, None), (200, 0.96), (300, 0.99)],
        1: [(100, 0.5), (200, 0.6), (300, 0.7)],
    }
    records = {s: [{"iteration": i, "validation": v} for i, v in log] for s, log in logs.items()}
    monkeypatch.setattr(Evidence, "log", lambda self, arm, seed: records[seed])
    evidence = Evidence(Path("none"), {}, (0, 1))
    assert list(dms.iterations_to(evidence, "arm", 0.95)) == [200, 300]


def test_claims_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["claim"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed and own.title in printed for name, own in CLAIMS.items())
