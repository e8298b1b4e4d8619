"""Configurations that cannot be are refused by key before anything large is made; what works is not."""

import functools
import itertools
import re
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from planting import caught, changed

from hetsyn_plugins import cli
from hetsyn_plugins.experiments import affordable, costs, sweep, training
from hetsyn_plugins.experiments.claims import CLAIMS
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.run_folder import SUMMARY
from hetsyn_plugins.experiments.tasks import TASKS

GIB = 1 << 30
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits hold on Linux")
PAPERS = [task for task in TASKS if task != "own"]
DIGITS = "task.source=digits"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB and 2 cores, wherever the tests run."""
    monkeypatch.setattr(affordable, "available", lambda: 16 * GIB)
    monkeypatch.setattr(affordable, "available_to_all", lambda: 16 * GIB)
    for module in (affordable, costs):
        monkeypatch.setattr(module, "cores", lambda: 2)


# ---- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "setting", "expected"),
    [
        ("dms", "network.hidden=[1000000000]", r"what fits into 16\.0 GiB of memory, got \[1000000000\], which "),
        ("dms", "network.hidden=[50, 40000000]", "what fits into"),
        ("dms", "task.group=2147483648", r"what fits into 16\.0 GiB of memory, got 2147483648, which needs 24.* PiB"),
        ("dms", "task.onset=1e5", r"what fits .*, got 100000\.0, which needs 12\.6 TiB; 50000\.0 needs 6\.3 TiB"),
        ("dms", "task.delay=1e9", "what fits into"),
        ("dms", "network.max_delay=1e4", r"what fits .*, got 10000\.0, which needs 298 GiB; 5000\.0 needs 149 GiB"),
        ("dms", "network.max_delay=1e300", "what fits into 16\\.0 GiB of memory, got 1e\\+300, which needs more than"),
        ("dms", "task.dt=1e-9", "what fits into .*, got 1e-09, which needs .*; 2e-09 needs "),
        ("dms", "task.test_samples=1000000000000", "what fits into"),
        ("dms", "training.batch=1000000000000", r".*, which needs 4\d\d PiB; 500000000000 needs 2\d\d PiB"),
        ("dms", "training.threads=100000000000", "at most 128 on 2 cores, got 100000000000, which needs 1,562,"),
        ("dms", "training.workers=100000", "what fits into .*, which needs 2.* TiB"),
        ("dms", "training.iterations=2147483648", "what may end in 10 days, got 2147483648, which needs 63 days"),
        ("patterns", "task.lines=9223372036854775807", "what fits into .*, which needs more than 1,048,576 EiB"),
        ("patterns", "task.segment=1e7", "what fits into"),
        ("patterns", "task.test_samples=1000000000000", "what may end in 10 days"),
        ("images", "training.epochs=1000000000000", "what may end in 10 days"),
        ("images", "training.batch=1000000000000", "what fits into"),
        ("speech", "task.duration=1e6", "what fits into"),
        ("speech", "network.hidden=[1000000]", "what fits into"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_key(task: str, setting: str, expected: str) -> None:
    config = load_config(task, [setting, *([DIGITS] if task == "images" else [])])
    key = setting.partition("=")[0]
    with pytest.raises(ValueError, match=rf"^{key}: expected {expected}.*; --despite-cost tries it all the same$"):
        affordable.check_costs(config)


def test_of_two_the_one_that_matters_more_is_named() -> None:
    config = load_config("dms", ["training.batch=64", "task.delay=1e6"])
    with pytest.raises(ValueError, match=r"^task\.delay: "):
        affordable.check_costs(config)
    config = load_config("dms", ["training.batch=100000000", "task.delay=0.9"])
    with pytest.raises(ValueError, match=r"^training\.batch: "):
        affordable.check_costs(config)


def test_where_all_is_usual_the_one_to_halve_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affordable, "available", lambda: 1 << 20)
    config = load_config("dms")
    with pytest.raises(ValueError, match=r"; (\S+) needs .*; --despite-cost") as raised:
        affordable.check_costs(config)
    key, _, rest = str(raised.value).partition(": ")
    half = rest.partition("; ")[2].partition(" needs")[0]
    assert costs.memory_needed(load_config("dms", [f"{key}={half}"])) < costs.memory_needed(config)


def test_so_many_jobs_need_so_much_more() -> None:
    config = load_config("dms")
    affordable.check_costs(config, 2)
    with pytest.raises(ValueError, match=r"^--jobs: expected as many as fit into 16\.0 GiB of memory, got 60000, "):
        affordable.check_costs(config, 60000)


# ---- not refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [task for task in PAPERS if task != "speech"])
def test_the_papers_settings_are_let_through_on_a_small_machine(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affordable, "available", lambda: GIB)
    affordable.check_costs(load_config(task, [DIGITS] if task == "images" else []))


def test_no_run_of_a_claim_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory only, where data would have to be read for the number of steps."""
    for arm in itertools.chain.from_iterable(claim.arms.values() for claim in CLAIMS.values()):
        config = load_config(arm.task, arm.settings)
        if arm.task in ("dms", "patterns"):
            affordable.check_costs(config)
        elif arm.task == "speech" and "task.source=fsdd" not in arm.settings:
            affordable.check_memory(config, costs.memory_needed)


@LINUX
@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("dms", ["training.batch=800", "task.test_samples=10"]),
        ("dms", ["training.batch=150", "task.group=1", "network.hidden=[400]", "task.test_samples=10"]),
        ("patterns", ["training.batch=50", "task.test_samples=2"]),
    ],
)
def test_the_estimate_is_near_what_a_run_takes(task: str, settings: list[str]) -> None:
    """Real runs, less the smallest one of its kind: within a factor of two."""
    small = ["training.iterations=2", "training.validate_every=9"]
    smallest = ["training.batch=1", "task.test_samples=1", *(["task.group=1"] if task == "dms" else [])]
    peaks = [peak(task, (*small, *changed)) for changed in (smallest, settings)]
    estimate = costs.memory_needed(load_config(task, [*small, *settings])) / 1e6
    assert 0.5 < estimate / (peaks[1] - peaks[0]) < 2, (estimate, peaks)


@functools.cache  # the smallest run is asked for more than once
def peak(task: str, settings: tuple[str, ...]) -> float:
    """MB at the worst moment of a run in a process of its own."""
    code = """
import sys, pathlib
from hetsyn_plugins.experiments import training
from hetsyn_plugins.experiments.config import load_config
config = load_config(sys.argv[1], sys.argv[3:])
print(training.train(config, 0, pathlib.Path(sys.argv[2]), quiet=True).peak_memory_mb)
"""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-W", "ignore", "-c", code, task, folder, *settings]
        return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


# ---- every numeric setting ---------------------------------------------------------------------------------------

HOSTILE = (
    "0", "-1", "2147483648", "9223372036854775807", "9223372036854775808", "1000000000000", "1" + "0" * 30, "1e308",
    "-1e308", "1e-300", "nan", "inf", "-inf", "1e30", "9" * 5000,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*is one in milliseconds")
@pytest.mark.parametrize("task", PAPERS)
def test_hostile_numbers_end_in_a_message_with_the_key_or_pass(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every numeric setting there is: ValueError and nothing else, at once; that is also so of several together."""
    monkeypatch.setattr(TASKS["speech"], "batches", lambda task, batch: 100)  # its data take minutes to make
    source = {"images": [DIGITS]}.get(task, [])
    settings, refusals = hostile(load_config(task, source)), 0
    for setting in settings:
        message = refusal(task, [setting, *source])
        refusals += message is not None
        assert message is None or setting.partition("=")[0].partition(".")[2] in message, message
    assert refusals > len(settings) / 2
    for first, second in zip(settings, settings[len(HOSTILE) + 1 :], strict=False):
        refusal(task, [first, second, *source])


def hostile(config: Config) -> list[str]:
    """Every numeric setting with every hostile value."""
    settings = []
    for setting in affordable.numeric_settings(config):
        for value in HOSTILE:
            several = isinstance(setting.value, tuple)
            values = f"[{', '.join([value] * len(setting.value))}]" if several else value
            settings.append(f"{setting.key}={values}")
    return settings


def refusal(task: str, settings: list[str]) -> str | None:
    """What is said of a configuration, in one line; None where it may be trained."""
    try:
        affordable.check_costs(load_config(task, settings))
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 500, settings
        return str(error)
    return None


@pytest.mark.parametrize("task", ["dms", "patterns"])
def test_every_numeric_setting_is_looked_at(task: str) -> None:
    config = load_config(task)
    seen = {setting.key for setting in affordable.numeric_settings(config)}
    for table in ("task", "network", "training"):
        part: Any = getattr(config, table)
        for field in fields(part):
            number = isinstance(getattr(part, field.name), (int, float, tuple))
            assert (f"{table}.{field.name}" in seen) == (number and "bool" not in str(field.type))


# ---- where it is asked -------------------------------------------------------------------------------------------

HUGE = "network.hidden=[1000000000]"


@pytest.mark.parametrize("jobs", [[], ["--seeds", "0-3", "--jobs", "2"]])
def test_train_refuses_before_it_makes_a_folder(jobs: list[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    assert cli.main(["train", "dms", "--set", HUGE, "--out", str(out), *jobs]) == 2
    assert capsys.readouterr().err.startswith("hetsyn train: network.hidden: expected what fits into 16.0 GiB")
    assert not out.exists()
    with pytest.raises(ValueError, match=r"^network\.hidden: "):
        training.train(load_config("dms", [HUGE]), 0, out)
    assert not out.exists()


def test_a_claim_refuses_before_its_first_run(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["claim", "dms-delay", "--set", "task.onset=1e5", "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("hetsyn claim: task.onset: expected what fits into") and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_is_trained_already_is_not_asked_for_its_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("dms", ["network.hidden=[4]", "training.iterations=2", "task.test_samples=4"])
    summary = sweep.train_seeds(config, [0], tmp_path, quiet=True)
    monkeypatch.setattr(affordable, "available", lambda: 1)
    assert sweep.train_seeds(config, [0], tmp_path, quiet=True) == summary
    assert training.train(config, 0, tmp_path / "seed-0", quiet=True).test == summary.test.values[0]
    with pytest.raises(ValueError, match="expected what fits into 1 bytes"):
        sweep.train_seeds(config, [1], tmp_path, quiet=True)


def test_despite_its_cost_it_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """By this process, and by those that it starts, which must not ask again."""
    monkeypatch.setattr(affordable, "available", lambda: 1)
    settings = ["network.hidden=[4]", "training.iterations=2", "task.test_samples=4", "training.batch=2"]
    words = [
        "train",
        "dms",
        *(word for text in settings for word in ("--set", text)),
        "--out",
        str(tmp_path),
        "--quiet",
    ]
    assert cli.main(words) == 2
    assert cli.main([*words, "--despite-cost"]) == 0
    assert (tmp_path / SUMMARY).exists()
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert cli.main(["evaluate", str(tmp_path), "--despite-cost"]) == 0


def test_evaluate_is_refused_what_it_cannot_hold(tmp_path: Path, capsys: Any) -> None:
    config = load_config("dms", ["network.hidden=[4]", "training.iterations=2", "task.test_samples=4"])
    sweep.train_seeds(config, [0], tmp_path, quiet=True)
    for setting in ("task.delay=1e6", "task.test_samples=1000000000"):
        assert cli.main(["evaluate", str(tmp_path), "--set", setting]) == 2
        key = setting.partition("=")[0]
        assert f"hetsyn evaluate: {key}: expected what fits into" in capsys.readouterr().err


def test_rounds_without_end_are_refused(tmp_path: Path, capsys: Any) -> None:
    for words, option in ((["demo", "--epochs"], "--epochs"), (["bench", "--runs"], "--runs")):
        assert cli.main([*words, str(10**30), "--out", str(tmp_path / "out")]) == 2
        assert f"{option}: expected what may end in 10 days, got 1000000" in capsys.readouterr().err
    assert cli.main(["demo", "--seed", str(10**30), "--out", str(tmp_path / "out")]) == 2
    assert "--seed: expected a number of 64 bits, got one of 100" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- memory that runs out all the same ---------------------------------------------------------------------------

LIMITED = """
import resource, sys
from hetsyn_plugins import cli
import hetsyn_plugins.experiments.training, hetsyn_plugins.adapters.snntorch
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
sys.exit(cli.main(sys.argv[1:]))
"""


@LINUX
@pytest.mark.parametrize(
    ("setting", "what", "advice"),
    [
        ("training.batch=40000", "making training batches: expected 1.88 GiB", "40000 needs about .*; 20000 needs "),
        ("task.test_samples=60000", "validation: expected 2.82 GiB", "60000 needs about .*; 30000 needs "),
        ("network.hidden=[40000]", "building the network: expected 11.9 GiB", r"\[40000\] needs .*; \[20000\] needs "),
    ],
)  # fmt: skip
def test_memory_that_runs_out_is_told_in_a_line(setting: str, what: str, advice: str, tmp_path: Path) -> None:
    words = ["train", "dms", "--set", setting, "--set", "training.iterations=2", "--out", str(tmp_path), "--quiet"]
    code = [sys.executable, "-W", "ignore", "-c", LIMITED, *words, "--despite-cost"]
    done = subprocess.run(code, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"hetsyn train: {what} more memory, got none; ")
    assert re.search(rf"{setting.partition('=')[0]}: {advice}", line), line


# ---- planted bugs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "old", "new", "says"),
    [
        ("costs", "(n if layer.recurrent else 0)", "0", "recurrent"),
        ("costs", "steps * sources))", "0))", "max_delay"),
        ("costs", "* task.longest * line_bytes", "* 0", "test_samples"),
        ("costs", "settings.batch * (task.steps", "1 * (task.steps", "batch"),
        ("affordable", "return min(usual, now), halved", "return halved, usual", "named"),
    ],
)
def test_planted_bugs_are_caught(module: str, old: str, new: str, says: str) -> None:
    around = [f"hetsyn_plugins.experiments.{name}" for name in ("costs", "affordable")]
    fresh = changed(f"hetsyn_plugins.experiments.{module}", old, new, around=around)
    with caught(says):
        check_estimate(*map(fresh.__getitem__, around))


def check_estimate(costs: Any, affordable: Any) -> None:
    """What every part of the estimate must do."""

    def needs(*settings: str) -> int:
        return costs.memory_needed(load_config("dms", settings))

    wide = "network.hidden=[100000]"
    assert needs(wide) > 100 * needs(wide, "network.recurrent=false"), "recurrent"
    assert needs("task.test_samples=1000000") > 100 * needs(), "test_samples"
    assert needs("training.batch=1000000") > 100 * needs(), "batch"
    assert needs("network.max_delay=10000") > 100 * needs(), "max_delay"
    config = load_config("dms", ["training.batch=1000000000", "network.hidden=[2000]", "task.delay=0"])
    assert affordable.heaviest(config, costs.memory_needed).key == "training.batch", "named"


def test_the_check_of_the_estimate_holds() -> None:
    check_estimate(costs, affordable)
