"""The claims as commands: what they run, what they say of it, and that they say it plainly where it differs."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hetsyn_plugins import cli
from hetsyn_plugins.core.files import write_json
from hetsyn_plugins.experiments import plots, run_folder, sweep, training
from hetsyn_plugins.experiments.analysis import reset_long_taus, taus
from hetsyn_plugins.experiments.claims import CLAIMS, dms, voices
from hetsyn_plugins.experiments.claims import claim as claim_module
from hetsyn_plugins.experiments.claims.claim import Claim, Picture, Short, check_claim, per_cent, time_needed, verdict
from hetsyn_plugins.experiments.claims.evidence import Arm, Evidence, fingerprint, read_recorded, record
from hetsyn_plugins.experiments.claims.patterns import figure
from hetsyn_plugins.experiments.claims.speech import under
from hetsyn_plugins.experiments.config import changed_config, load_config
from hetsyn_plugins.experiments.run_folder import ClaimRow, RunNumbers, load_networks, load_run_config, seed_folder

# the networks here are trained for an iteration or two, on a few samples
pytestmark = pytest.mark.filterwarnings("ignore:.*did not fire once")

TINY = ["training.iterations=3", "training.batch=2", "training.validate_every=3"]
SOURCES = {
    "dms": ["task.test_samples=6"],
    "patterns": ["task.test_samples=2", "task.dt=5e-3", "network.hidden=[8]"],
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few recordings in SHD's layout, of two speakers."""
    folder, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    for name in ("shd_train.h5", "shd_test.h5"):
        with h5py.File(folder / name, "w") as file:
            for key, kind in (("times", np.float16), ("units", np.uint16)):
                file.create_dataset(f"spikes/{key}", (20,), h5py.vlen_dtype(kind))
            file["labels"] = np.arange(20).astype(np.uint16)
            file["extra/speaker"] = (np.arange(20) % 3).astype(np.uint16)
            for index in range(20):
                file["spikes/times"][index] = np.sort(rng.random(800)).astype(np.float16)
                file["spikes/units"][index] = rng.integers(0, 700, 800).astype(np.uint16)
    return folder


def tiny(claim: Claim, speech: Path) -> Claim:
    """The claim with runs that take a moment, and two folds at most; of delays the smallest, and one kind of speech."""
    sources = {**SOURCES, "speech": [f'task.source="{speech}"', "task.dt=0.02"],
               "images": ["task.source=digits", "task.samples=20", "training.batch=64"]}  # fmt: skip
    arms = {
        name: arm._replace(settings=(*arm.settings, *TINY, *sources[arm.task]))
        for name, arm in claim.arms.items()
        if not re.match(r"fsdd-[2-9]|delays-(digits|\w+-\d0000)|delays-.*-[1-9]$", name)
    }
    return replace(claim, arms=arms, pictures=[p for p in claim.pictures if p.file != "digits.png"])


# their runs are others', under other settings: of `smnist-pixel`, and of `fsdd-robustness`
ALIKE = ("smnist-permuted", "smnist-row", "fsdd-speed")


def test_arms_of_one_name_are_one_run() -> None:
    """The runs are shared by all claims."""
    seen: dict[str, Arm] = {}
    for claim in CLAIMS.values():
        for name, arm in claim.arms.items():
            assert seen.setdefault(name, arm) == arm
            load_config(arm.task, arm.settings)


@pytest.mark.parametrize("name", [name for name in CLAIMS if name not in ALIKE])
def test_every_claim_runs_to_its_table_and_pictures(
    name: str,
    speech: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path_factory.getbasetemp() / "claims"  # shared, as a user's are
    monkeypatch.setitem(CLAIMS, name, tiny(CLAIMS[name], speech))
    monkeypatch.setattr(voices, "FOLDS", range(2))
    assert cli.main(["claim", name, "--seeds", "0", "--jobs", "1", "--out", str(out), "--quiet"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((out / name / "claim.json").read_text())
    assert result["title"] in printed and result["statement"] in printed and result["verdict"] in printed
    for row in result["rows"]:
        assert row["label"] in printed and np.isfinite(row["ours"])
        folds = 2 if name.startswith("fsdd") else 1
        assert (row["n"], row["sd"] is None) == (folds, folds == 1)
        assert row["holds"] is None or name.startswith("fsdd")  # one run decides nothing
    assert len(result["pictures"]) == len(CLAIMS[name].pictures)
    for picture in result["pictures"]:
        assert (out / name / picture["file"]).read_bytes()[:4] == b"\x89PNG"
    for run in result["runs"]:
        assert run_folder.trained_seeds((out / name / run).resolve()) == [0]


def rows_of(claim: Claim, values: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch) -> dict[str, ClaimRow]:
    """The rows of a claim whose runs came out so."""
    monkeypatch.setattr(Evidence, "values", lambda self, arm: np.array(values[arm]))
    return {row.label: row for row in claim.rows(Evidence(Path("none"), claim.arms, range(5)))}


@pytest.mark.parametrize(("shift", "holds"), [(-0.01, True), (0.01, None), (0.5, False)])
def test_patterns_are_compared_seed_by_seed(shift: float, holds: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = CLAIMS["patterns"]
    theirs = np.array([0.2, 0.3, 0.4, 0.3, 0.2, 0.3])
    values = {arm: list(theirs) for arm in claim.arms}
    shifts = np.full(6, shift) if holds is False else np.array([-0.01, -0.01, -0.01, -0.01, -0.01, shift])
    values["patterns-F-hetsyn-2hz"] = list(theirs + shifts)

    def figure(evidence: Evidence, name: str, what: str) -> np.ndarray:
        if what == "MSE":
            return evidence.values(name)
        return np.full(6, 0.5 if "hetsyn" in name else 0.1)

    monkeypatch.setattr("hetsyn_plugins.experiments.claims.patterns.figure", figure)
    row = rows_of(claim, values, monkeypatch)["F-HomNeuLIF: MSE"]
    assert row.holds is holds and row.undecided is (True if holds is None else None)
    assert f"better than HomNeuLIF in {(shifts < 0).sum()} of 6 pairs" in row.note
    assert row.ours == pytest.approx(theirs.mean()) and row.sd == pytest.approx(theirs.std(ddof=1))


def test_an_order_within_the_spread_is_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "speech-hetsyn": [0.9, 0.8, 0.85] * 2,
        "speech-hetneu": [0.9, 0.8, 0.84] * 2,  # not told apart
        "speech-alif": [0.3, 0.31, 0.3] * 2,
        "speech-homneu": [0.5, 0.51, 0.5] * 2,  # above alif
        "speech-single_tau": [0.1, 0.1, 0.1] * 2,
    }
    rows = rows_of(CLAIMS["speech"], values, monkeypatch)
    judged = {label.partition(":")[0]: row.holds for label, row in rows.items()}
    assert judged == {
        "HetSynLIF": None,
        "HetNeuLIF": True,
        "HomNeuALIF": False,
        "HomNeuLIF": None,
        "one learned tau": None,
    }
    assert rows["HetSynLIF: accuracy"].undecided and not rows["one learned tau: accuracy"].undecided
    assert "better than HetNeuLIF in 2 of 6 pairs, p = 0.5; the paper's 92.36 %" in rows["HetSynLIF: accuracy"].note


@pytest.mark.parametrize(
    ("accuracies", "holds"), [([1.0] * 9 + [0.5], True), ([0.97] * 10, False), ([1.0, 1, 1, 1, 0.97], None)]
)
def test_dms_is_judged_by_how_many_runs_reach_the_mark(
    accuracies: list[float], holds: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = CLAIMS["dms"]
    rows = rows_of(claim, {arm: accuracies for arm in claim.arms}, monkeypatch)
    assert rows["HetSynLIF: runs that reach 99 %"].holds is holds
    assert rows["HetSynLIF: runs that reach 99 %"].ours == pytest.approx(100 * np.mean(np.array(accuracies) >= 0.99))
    successes = np.mean(np.array(accuracies) >= 0.9) * 100
    assert rows["HetSynLIF: successful runs"].ours == pytest.approx(successes)


@pytest.mark.parametrize(
    ("cue", "noise", "accuracy", "after", "holds"),
    [
        (0.15, 0.09, 1.0, 0.75, (True, True, True, True, True, True)),
        (0.09, 0.11, 1.0, 0.75, (False, False, False, False, True, True)),
        (0.11, 0.09, 0.98, 0.9, (False, True, True, True, False, False)),
        (0.19, 0.09, 1.0, 0.5, (False, True, True, True, True, False)),  # far above, far below: differs as well
    ],
)
def test_table_4_is_judged_by_its_figures_and_their_directions(
    cue: float, noise: float, accuracy: float, after: float, holds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = CLAIMS["dms-table4"]
    means = {"cue": cue, "noise": noise}
    monkeypatch.setattr(dms, "tau_figure", lambda evidence, name, group, what: np.full(5, means[group]))
    monkeypatch.setattr(dms, "after_reset", lambda *arguments: np.full(5, after))
    monkeypatch.setattr(dms, "long_share", lambda *arguments: np.full(5, 0.05))
    rows = rows_of(claim, {arm: [accuracy] * 5 for arm in claim.arms}, monkeypatch)
    labels = (
        "mean tau, cue",
        "cue slower by",
        "mean tau, noise",
        "noise faster by",
        "accuracy",
        "accuracy, those reset",
    )
    assert tuple(rows[f"start 100 ms: {label}"].holds for label in labels) == holds
    assert rows["start 100 ms: mean tau, cue"].ours == pytest.approx(cue * 1e3)
    assert rows["start 100 ms: mean tau, cue"].paper == 154.38


def test_the_verdict_is_plain() -> None:
    row = ClaimRow("a", 1.0, 2.0, None, 1, holds=True)
    open_row = replace(row, label="c", holds=None, undecided=True)
    assert verdict([row]) == "Of 1 comparisons: as in the paper in 1."
    mixed = verdict([row, replace(row, label="b", holds=False), open_row])
    assert mixed == "Of 3 comparisons: as in the paper in 1, differs in 1 (b), undecided in 1 (c)."
    assert verdict([replace(row, holds=None)]) == "Not judged: the paper has no numbers for this."


def test_iterations_to_an_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of five logged batches; a single good one is luck."""
    scores = {0: [0.5, 1.0, 0.9, 0.9, 0.9, 1.0, 1.0, 0.95, 1.0], 1: [0.5] * 9, 2: [0.5] * 4 + [1.0] * 5}
    records = {
        s: [{"iteration": 10 * i, "score": v} for i, v in enumerate(by_batch, 1)] for s, by_batch in scores.items()
    }
    monkeypatch.setattr(Evidence, "log", lambda self, arm, seed: records[seed])
    evidence = Evidence(Path("none"), {"arm": Arm("dms")}, (0, 1, 2))
    assert list(dms.iterations_to(evidence, "arm")) == [80, np.inf, 90]  # in the last one is not never


def test_table_4_is_of_the_trained_networks(tmp_path: Path) -> None:
    """Means over the lines that carry cues and noise, and the accuracy after the reset, judged by the reference."""
    settings = ["network.tau_start=[0.65, 0.1]", "network.hidden=[9]", "task.test_samples=40", "task.delay=0.2"]
    arm = Arm("dms", ("network.parametrization=tau", "training.decay_lr=1e-2", "training.iterations=150", *settings))
    config = load_config(arm.task, arm.settings)
    evidence = Evidence(tmp_path, {"arm": arm}, [2])
    sweep.train_seeds(config, [2], evidence.folder_of("arm"), quiet=True)
    _, trained = load_networks(seed_folder(evidence.folder_of("arm"), 2))
    tau = trained.layers[0].params.tau(5e-3).decay  # type: ignore[union-attr]
    for group, lines in (("cue", tau[:, :20]), ("noise", tau[:, 20:])):
        assert dms.tau_figure(evidence, "arm", group, "mean") == pytest.approx([lines.mean()])
    reset = reset_long_taus(trained, 0.7, 0.65)
    ((x, labels),) = config.task.held_out("test", 40, 2)
    accuracy = [np.mean(v[-1].argmax(1) == labels.numpy()) for *_, (_, v) in
                (net.run(x.numpy()).values() for net in (trained, reset))]  # fmt: skip
    assert list(dms.after_reset(evidence, "arm", 0.65)) == [accuracy[1]] and accuracy[0] != accuracy[1]
    everywhere = np.concatenate([part.ravel() for part in taus(trained).values()])
    assert dms.long_share(evidence, "arm") == pytest.approx([np.mean(everywhere > 0.7)])


def test_silences_and_distances_are_the_networks(tmp_path: Path) -> None:
    arm = Arm("patterns", ("network.hidden=[8]", "training.iterations=2", "task.test_samples=2"))
    config, evidence = load_config(arm.task, arm.settings), Evidence(tmp_path, {"arm": arm}, [1])
    sweep.train_seeds(config, [1], evidence.folder_of("arm"), quiet=True)
    ((x, target),) = config.task.held_out("test", 2, 1)
    *_, (_, y) = load_networks(seed_folder(evidence.folder_of("arm"), 1))[1].run(x.numpy()).values()
    gaps = [np.abs(y[at]).mean() for at in (slice(500, 750), slice(1250, 1500))]
    assert figure(evidence, "arm", "silences") == pytest.approx([np.mean(gaps)], rel=1e-4)
    pairs = [(0, 750), (0, 1500), (750, 1500)]
    between = [
        sum(((c[a : a + 500] - c[b : b + 500]) ** 2).mean((0, 2)) for a, b in pairs) for c in (y, target.numpy())
    ]
    assert figure(evidence, "arm", "distance") == pytest.approx([np.mean(between[0] / between[1])], rel=1e-4)


def test_robustness_is_measured_on_the_changed_test_set(speech: Path, tmp_path: Path) -> None:
    arm = Arm("speech", (f'task.source="{speech}"', "task.dt=0.02", "network.hidden=[20]", "training.iterations=60"))
    config, evidence = load_config(arm.task, arm.settings), Evidence(tmp_path, {"speech-hetsyn": arm}, [0])
    sweep.train_seeds(config, [0], evidence.folder_of("speech-hetsyn"), quiet=True)
    network, outcomes = load_networks(seed_folder(evidence.folder_of("speech-hetsyn"), 0))[1], []
    for settings in (["task.test_deletion=0.9"], ["task.test_warp=1.5"]):
        right: list[bool] = []
        for x, labels in changed_config(config, settings).task.held_out("test", 30, 0):
            *_, (_, v) = network.run(x.numpy()).values()
            share = np.exp(v) / np.exp(v).sum(2, keepdims=True)
            right += list(share.sum(0).argmax(1) == labels.numpy())
        name, _, value = settings[0].removeprefix("task.").partition("=")
        assert list(under(evidence, "hetsyn", **{name: float(value)})) == [np.mean(right)]
        outcomes.append((np.mean(right), tuple(right)))
    assert outcomes[0] != outcomes[1]


def test_a_run_that_fails_does_not_keep_the_others_from_being_trained(tmp_path: Path) -> None:
    settings = ("network.hidden=[5]", "task.test_samples=4", *TINY)
    arms = {"good": Arm("dms", settings), "bad": Arm("dms", (*settings, "network.surrogate=triangular")),
            "last": Arm("dms", (*settings, "network.recurrent=false"))}  # fmt: skip
    claim = Claim("t", "s", arms, [0], lambda evidence: [], short=Short([0]))
    (tmp_path / "runs/bad/seed-0").mkdir(parents=True)
    (tmp_path / "runs/bad/seed-0" / run_folder.STATE).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"1 of 3 runs failed\nbad: seed 0: .*{run_folder.STATE}: expected a whole"):
        check_claim("claim", claim, tmp_path, quiet=True, jobs=1)
    assert run_folder.trained_seeds(tmp_path / "runs/good") == run_folder.trained_seeds(tmp_path / "runs/last") == [0]


# ---- results that are kept -----------------------------------------------------------------------------------------

SMALL = ("network.hidden=[5]", "task.test_samples=4", *TINY)


def of_two_arms(rows: Any = None) -> Claim:
    """The accuracy of two small networks."""
    arms = {"one": Arm("dms", SMALL), "other": Arm("dms", (*SMALL, "network.recurrent=false"))}

    def draw(evidence: Evidence) -> Any:
        logs = {name: [evidence.log(name, seed) for seed in evidence.seeds] for name in arms}
        return plots.learning_curves(logs, "score", ylabel="y")

    drawn = Picture("learning.png", "c", draw)
    rows = rows or (lambda evidence: [per_cent(name, evidence.values(name)) for name in arms])
    return Claim("t", "s", arms, [0, 1], rows, [drawn], short=Short([0], ("network.hidden=[3]",), "a moment"))


def test_what_is_recorded_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers go from one machine to another, runs need not."""
    first = check_claim("claim", of_two_arms(), tmp_path, quiet=True, jobs=1)
    picture = (tmp_path / "claim/learning.png").read_bytes()
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr(training, "train", lambda *args, **options: pytest.fail("trained"))
    again = check_claim("claim", of_two_arms(), tmp_path, quiet=True, jobs=1)
    assert again == replace(first, runs=[]) and (tmp_path / "claim/learning.png").read_bytes() == picture
    elsewhere = check_claim("another", of_two_arms(), tmp_path, quiet=True, jobs=1)  # what one claim has, all have
    assert elsewhere.rows == first.rows and elsewhere.pictures == []


def test_a_run_of_which_too_little_is_recorded_is_run_again(tmp_path: Path) -> None:
    check_claim("claim", of_two_arms(), tmp_path, quiet=True, jobs=1)
    shutil.rmtree(tmp_path / "runs")

    def rows(evidence: Evidence) -> list[ClaimRow]:
        return [per_cent("other", evidence.each("other", "new", lambda seed: evidence.result("other", seed).seconds))]

    check_claim("claim", of_two_arms(rows), tmp_path, quiet=True, jobs=1)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]
    recorded = {(run.arm, run.seed): run.numbers for run in read_recorded(tmp_path).values()}
    assert sorted(recorded) == [("one", 0), ("one", 1), ("other", 0), ("other", 1)]
    assert "new" in recorded["other", 1] and set(recorded["one", 0]) == {"test", "parameters"}


def test_what_ended_is_recorded_where_another_run_failed(tmp_path: Path) -> None:
    (tmp_path / "runs/other/seed-1").mkdir(parents=True)
    (tmp_path / "runs/other/seed-1" / run_folder.STATE).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="1 of 4 runs failed\nother: seed 1: "):
        check_claim("claim", of_two_arms(), tmp_path, quiet=True, jobs=1)
    runs = sorted((run.arm, run.seed) for run in read_recorded(tmp_path).values())
    assert runs == [("one", 0), ("one", 1), ("other", 0)]


def test_what_is_recorded_of_other_seeds_and_settings_stays(tmp_path: Path) -> None:
    for seeds, settings in (([0], []), ([1], []), ([0], ["task.delay=0.2"])):
        check_claim("claim", of_two_arms(), tmp_path, seeds, settings=settings, quiet=True, jobs=1)
    assert len(read_recorded(tmp_path)) == 6


def test_a_mark_that_was_never_reached_is_null_and_no_json_of_python_s_own(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path, {"one": Arm("dms"), "other": Arm("dms", ("task.delay=0.1",))}, [0])
    for arm, number in (("one", np.inf), ("other", 0.5)):
        run = RunNumbers(fingerprint(evidence.configs[arm], 0), arm, 0, 1.0, "cpu", {"mark": number, "test": 1.0})
        evidence.recorded[run.fingerprint] = run
    path = tmp_path / "claim" / run_folder.NUMBERS
    path.parent.mkdir()
    record(evidence, path)
    numbers = {run["arm"]: run["numbers"] for run in json.loads(path.read_text(), parse_constant=pytest.fail)["runs"]}
    assert numbers == {"one": {"mark": None, "test": 1.0}, "other": {"mark": 0.5, "test": 1.0}}
    before = {
        "runs": [run | {"numbers": {"mark": np.inf, "test": 1.0}} for run in json.loads(path.read_text())["runs"]]
    }
    for content in (None, before):  # what versions before this one wrote is read too, and mended
        if content is not None:
            write_json(path, content)
            assert "Infinity" in path.read_text()
        again = replace(evidence, recorded=read_recorded(tmp_path), _cache={})
        assert again.each("one", "mark", pytest.fail) == np.inf
        record(again, path)
        assert "Infinity" not in path.read_text()


@pytest.mark.parametrize(
    ("settings", "is_same"),
    [
        (["training.device=cuda", "training.threads=2", "training.workers=1"], True),
        (["task.delay=0.8"], True),  # as it is anyway
        (["task.delay=0.7"], False),
        (["network.variant=homneu"], False),
        (["training.log_every=20"], False),  # what is read from the log depends on it
    ],
)
def test_a_fingerprint_is_of_what_a_result_depends_on(settings: list[str], is_same: bool) -> None:
    mark = fingerprint(load_config("dms"), 3)
    assert (fingerprint(load_config("dms", settings), 3) == mark) is is_same
    assert fingerprint(load_config("dms"), 4) != mark


def test_a_fingerprint_stays() -> None:
    """What is recorded of a run is found by it: it may not change from version to version."""
    assert fingerprint(load_config("dms", ["task.delay=2.5"]), 3) == "59d9314cfd0fb311"


def test_the_short_form_has_its_own_seeds_settings_and_folder(tmp_path: Path) -> None:
    result = check_claim("claim", of_two_arms(), tmp_path, short=True, quiet=True, jobs=1)
    assert result.command == "hetsyn claim claim --short" and result.rows[0].n == 1
    assert result.verdict.endswith("But with the short form, network.hidden=[3].")
    assert (tmp_path / "claim-short/claim.json").exists()
    configs = [load_run_config(tmp_path / "claim-short" / run) for run in result.runs]
    assert [config.network.hidden for config in configs] == [(3,), (3,)]


def test_what_takes_long_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "train_runs", lambda *args, **options: {})
    monkeypatch.setattr(claim_module, "LONG", 0.001)
    said: list[str] = []
    claim = of_two_arms(lambda evidence: [])
    check_claim("claim", claim, tmp_path, say=said.append)
    assert re.fullmatch(
        "claim: 4 runs, 0 of them done; the others take about 0 min here; "
        "stopped, it goes on with the same command; --short: a moment",
        said[0],
    )
    monkeypatch.setattr(claim_module, "LONG", 600)
    check_claim("claim", claim, tmp_path, say=said.append)
    assert len(said) == 1


def test_a_short_form_takes_at_most_an_hour_on_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of claims whose data are drawn; the others' data are not here."""
    monkeypatch.setattr(sweep, "default_jobs", lambda config: 2)
    for name, claim in CLAIMS.items():
        assert claim.short.what, name
        if {arm.task for arm in claim.arms.values()} <= {"dms", "patterns"}:
            evidence = Evidence(Path("none"), claim.arms, claim.short.seeds, claim.short.settings)
            assert time_needed(evidence, evidence.missing()) < 3600, name


def test_claims_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["claim"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed and claim.title in printed for name, claim in CLAIMS.items())
