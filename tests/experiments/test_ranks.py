"""Several processes that train one network: as one process would, whatever their number, and what ends them."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rank_worker
import torch
from disks import quota

from hetsyn_plugins import cli
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.experiments import ranks
from hetsyn_plugins.experiments.run_folder import NETWORK, RESULT, STATE, load_result
from hetsyn_plugins.experiments.training_log import LOG, read_log

SMALL = ["network.hidden=[6, 5]", "training.log_every=1", "training.iterations=20", "task.test_samples=130"]
DMS = [*SMALL, "task.delay=0.1", "training.lr=0.02"]
CASES = {  # 7 samples do not divide by 2 or 4
    "rate term, dropout, clipping": ("dms", [*DMS, "training.batch=7", "network.dropout=0.3", "training.clip=0.1"]),
    "frozen, batch norm": ("dms", [*DMS, "training.batch=7", "network.frozen=0.5", "network.batch_norm=true"]),
    "a curve": ("patterns", [*SMALL, "training.batch=5", "task.segment=0.05", "task.silence=0.02"]),
}  # fmt: skip
SIZES = (1, 2, 4)
EPS = 2.0**-23


@pytest.fixture(scope="module")
def runs() -> dict[int, list[Any]]:
    """By number of ranks: what each rank has, in float32 and in float64."""
    return {size: rank_worker.together(size, rank_worker.both_trained, CASES) for size in SIZES}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES[1:])
def test_twenty_iterations_in_float64_are_those_of_one_process(size: int, case: str, runs: Any) -> None:
    expected = runs[1][0][1][case]
    for rank in runs[size]:
        found = rank[1][case]
        torch.testing.assert_close(torch.tensor(found["steps"]), torch.tensor(expected["steps"]), rtol=0, atol=1e-9)
        torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=1e-9)
        assert found["validation"] == expected["validation"]
        assert len({step[0] for step in found["steps"]}) == 20, "it learns"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES[1:])
def test_the_first_iteration_in_float32_is_that_of_float64_but_for_rounding(size: int, case: str, runs: Any) -> None:
    """Of the float64 run on other spikes than the float32 one this would not hold: neither has a flip here."""
    (exact, *_), single = runs[1][0][1][case]["steps"], runs[1][0][0][case]
    for rank in runs[size]:
        found = rank[0][case]
        assert found["steps"][0][0] == pytest.approx(exact[0], rel=64 * EPS)
        for name, gradient in single["gradients"].items():
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=0, atol=256 * EPS * norm(gradient))


def norm(gradient: torch.Tensor) -> float:
    """Of what was summed: the largest, times its number."""
    return float(gradient.abs().max()) * math.sqrt(gradient.numel()) + EPS


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES[1:])
def test_all_ranks_have_the_same_bits(size: int, case: str, runs: Any) -> None:
    first, *others = (rank[precision][case] for precision in (0,) for rank in runs[size])
    for other in others:
        assert first["steps"] == other["steps"]
        assert all(torch.equal(tensor, other["weights"][name]) for name, tensor in first["weights"].items())


# ---- planted -----------------------------------------------------------------------------------------------------

RANKS, MODEL = "hetsyn_plugins.experiments.ranks", "hetsyn_plugins.experiments.model"
BUGS = {
    "a rate term of each rank's own": (RANKS, "return sums[:-1] / sums[-1]", "return mean"),
    "its gradient twice": (RANKS, "whole * ctx.share, None", "whole * ctx.share * 2, None"),
    "its gradient of each rank's own": (RANKS, "dist.all_reduce(whole)", "pass"),
    "ranks that weigh the same": (RANKS, "loss * (share.weight * self.size)", "loss"),
    "a loss of sums": (RANKS, "for value in values]) * share.weight", "for value in values])"),
    "everybody's rows from the start": (RANKS, "narrow(axis, self.start,", "narrow(axis, 0,"),
    "a mask of each rank's own": (
        MODEL,
        "steps, share.total, neurons)), 1)",
        "*x.shape)), 1) if False else dropout(x)",
    ),
}


def test_planted_bugs_are_seen(runs: Any) -> None:
    case = "rate term, dropout, clipping"
    exact = torch.tensor(runs[1][0][1][case]["steps"][:3])
    settings = [*CASES[case][1], "training.iterations=3"]
    (found, _) = rank_worker.together(2, rank_worker.trained_with, list(BUGS.values()), "dms", settings)
    for bug, result in zip(BUGS, found, strict=True):
        assert (torch.tensor(result["steps"]) - exact).abs().max() > 1e-6, bug


# ---- whole runs --------------------------------------------------------------------------------------------------

RUN = [*DMS, "training.batch=7", "network.dropout=0.3", "training.select=best_validation", "training.validate_every=5"]


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    one, two = rank_worker.together(2, rank_worker.resumed, "dms", RUN, tmp_path)
    (alone,) = rank_worker.together(1, rank_worker.resumed, "dms", RUN, tmp_path / "alone")
    assert replace(one, seconds=0, peak_memory_mb=0) == replace(two, seconds=0, peak_memory_mb=0)
    assert (one.test, one.validation, one.selected_iteration) == (
        alone.test,
        alone.validation,
        alone.selected_iteration,
    )
    assert load_result(tmp_path) == one
    for mine, theirs in zip(read_log(tmp_path / LOG), read_log(tmp_path / "alone" / LOG), strict=True):
        close = theirs["loss"] and pytest.approx(theirs["loss"], rel=1e-4)  # at iteration 0 there was no step
        assert mine["loss"] == close and mine["validation"] == theirs["validation"]
    (tmp_path / RESULT).unlink()
    (alone,) = rank_worker.together(1, rank_worker.resumed, "dms", RUN, tmp_path)
    assert alone.test == one.test


def test_what_the_first_rank_cannot_read_ends_all(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"damaged")
    first, second = rank_worker.together(2, rank_worker.resumed, "dms", RUN, tmp_path)
    assert isinstance(first, FileFormatError) and ranks.is_lost(second)


def test_a_batch_has_a_sample_for_every_rank(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^batch: expected at least 4 samples in every batch, one a rank, got 3$"):
        ranks.Ranks(0, 4).share(3)
    shares = [ranks.Ranks(index, 4).share(7) for index in range(4)]
    assert [(share.start, share.stop) for share in shares] == [(0, 1), (1, 3), (3, 5), (5, 7)]
    few = [*RUN, "training.batch=1"]
    for error in rank_worker.together(2, rank_worker.resumed, "dms", few, tmp_path / "few"):
        assert str(error) == "training.batch: expected at least 2 samples in every batch, one a rank, got 1"
    assert not (tmp_path / "few").exists()


def test_other_commands_are_not_for_ranks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["claim"]) == 2
    assert capsys.readouterr().err == "hetsyn claim: torchrun: expected with it the command train, got claim\n"


def torchrun(folder: Path, iterations: int) -> "subprocess.Popen[str]":
    """Two ranks that train by the command."""
    settings = [*RUN, f"training.iterations={iterations}"]
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "hetsyn_plugins.cli", "train", "dms", *(word for each in settings for word in ("--set", each))]
    command = [sys.executable, *words, "--seeds", "3", "--out", str(folder), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # else torchrun says that it sets it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, **pipes, text=True)  # type: ignore[call-overload, no-any-return]


def children(process: int) -> dict[str, int]:
    """The processes of ranks, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes().decode(errors="replace").split("\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == process:
            found |= {name[5:]: int(path.name) for name in environment if name.startswith("RANK=")}
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc to see processes in")
def test_a_killed_rank_ends_in_a_message_and_the_restart_goes_on(tmp_path: Path) -> None:
    unbroken = rank_worker.together(2, rank_worker.resumed, "dms", [*RUN, "training.iterations=150"], tmp_path / "one")
    run, until = tmp_path / "run/seed-3", time.monotonic() + 60
    process = torchrun(tmp_path / "run", 150)
    while not (run / STATE).exists() and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(children(process.pid)["1"], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    said = [line for line in errors.splitlines() if line.startswith("hetsyn ")]
    assert process.returncode == 1 and len(said) == 1, errors
    assert said[0].startswith("hetsyn train: ") and said[0].endswith(("the last checkpoint", "goes on from there"))
    assert not (run / RESULT).exists()
    output, errors = torchrun(tmp_path / "run", 150).communicate(timeout=100)
    assert output.count("seed 3") == 1, errors
    assert (run / NETWORK).read_bytes() == (tmp_path / "one" / NETWORK).read_bytes()
    assert load_result(run).test == unbroken[0].test


def test_a_full_disk_of_the_first_rank_ends_in_its_message_and_the_run_goes_on(tmp_path: Path) -> None:
    """Full at the log of iteration 91, which alone of all files grows; the restart is one process."""
    run, settings = tmp_path / "run/seed-3", [*RUN, "training.iterations=100"]
    with quota(18_800):
        process = torchrun(tmp_path / "run", 100)
    _, errors = process.communicate(timeout=100)
    said = [line for line in errors.splitlines() if line.startswith("hetsyn ")]
    assert process.returncode == 1 and len(said) == 1, errors
    assert "File too large" in said[0] and said[0].endswith("make room and give the same command again"), errors
    assert (run / STATE).exists() and not (run / RESULT).exists() and not list(run.glob(".*"))
    logged = read_log(run / LOG)
    assert 80 < len(logged) < 100
    rank_worker.resumed("dms", settings, run)
    assert [record["iteration"] for record in read_log(run / LOG)] == list(range(101))
    assert read_log(run / LOG)[:80] == logged[:80], "it did not begin anew"
