"""Commands on a full disk and in read-only folders: one line, status 2, nothing half-written, and on from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import quota, small_disk, unprivileged
from fuzzing.structures import images

from hetsyn_plugins import cli
from hetsyn_plugins.benchmark import bench
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments.run_folder import STATE
from hetsyn_plugins.experiments.training_log import LOG, TABLE, Log, read_log

SMALL = [
    "network.hidden=[6]", "training.iterations=12", "training.batch=4", "training.log_every=1",
    "training.validate_every=3", "task.test_samples=20", "task.delay=0.1",
]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:compiled CPU kernels cannot be kept")  # where none are kept yet
TRAIN = ["train", "dms", "--quiet", *(word for text in SMALL for word in ("--set", text)), "--out"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has broken."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert cli.main([*TRAIN, str(folder)]) == 0
    return folder


def is_one_line(captured: pytest.CaptureFixture[str], *pieces: str) -> None:
    """Beside what is said of kernels that are compiled, and find no room either."""
    (said,) = (x for x in captured.readouterr().err.splitlines() if not x.startswith("compiling the CPU kernels"))
    assert all(piece in said for piece in pieces), said


def no_half(folder: Path) -> bool:
    """No temporary file is left, and every line of the logs is whole."""
    names = [path.name for path in folder.rglob("*")]
    logs = [path.read_text() for name in (LOG, TABLE) for path in folder.rglob(name)]
    return not [name for name in names if name.startswith(".")] and all(text[-1:] in ("", "\n") for text in logs)


def same_outcome(run: Path, other: Path) -> bool:
    one, two = (checkpoint.load(folder / "seed-0/network.safetensors") for folder in (run, other))
    records = [[r | {"seconds": 0} for r in read_log(folder / "seed-0" / LOG)] for folder in (run, other)]
    return repr(one) == repr(two) and records[0] == records[1]


# ---- train ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1000, 1500, 5000])
def test_training_goes_on_when_there_is_room(
    size: int, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No room for the configuration, a checkpoint, a longer log, the state."""
    run = tmp_path / "run"
    capsys.readouterr()
    with quota(size):
        assert cli.main([*TRAIN, str(run)]) == 2
    is_one_line(capsys, "hetsyn train: ", "File too large", "make room and give the same command again")
    assert no_half(run)
    assert cli.main([*TRAIN, str(run)]) == 0
    assert same_outcome(run, trained)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    with small_disk(tmp_path / "disk", "256k"):
        yield tmp_path / "disk"


@pytest.mark.parametrize("room", [0, 4, 8, 16, 36])
def test_training_on_a_full_file_system(
    room: int, trained: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`room` kB are free: for nothing, the configuration, the start, the logs, the first checkpoint."""
    (disk / "filler").write_bytes(bytes(256 - room << 10))
    capsys.readouterr()
    assert cli.main([*TRAIN, str(disk / "run")]) == 2
    is_one_line(capsys, "hetsyn train: ", "No space left on device", "make room and give the same command again")
    assert no_half(disk) and (disk / "run/seed-0" / STATE).exists() == (room == 36)
    (disk / "filler").unlink()
    assert cli.main([*TRAIN, str(disk / "run")]) == 0
    assert same_outcome(disk / "run", trained)


def test_curves_for_tensorboard_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its thread meets the full disk: we say it once, and of the folder."""
    pytest.importorskip("tensorboard")
    before = threading.excepthook
    log = Log(tmp_path, 0, tensorboard=True)
    where = f"File too large .*'{tmp_path / 'tensorboard'}'"
    with quota(8000), pytest.raises(OSError, match=where):  # log.jsonl stays below, the curves do not
        try:
            for i in range(1, 51):
                log.write(i, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
        finally:
            log.close()
    assert threading.excepthook is before and capsys.readouterr().err == ""
    assert len(read_log(tmp_path / LOG)) > 0


# ---- what other commands write -------------------------------------------------------------------------------------


def test_export_leaves_the_file_of_before(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, words = tmp_path / "chip.net", ["export", str(trained / "seed-0/network.safetensors"), "-o"]
    assert cli.main([*words, str(net)]) == 0
    before = net.read_bytes()
    capsys.readouterr()
    with quota(1000):
        assert cli.main([*words, str(net), "--clusters", "2"]) == 2
    is_one_line(capsys, "hetsyn export: ", f"'{net}'", "make room")
    assert net.read_bytes() == before and os.listdir(tmp_path) == ["chip.net"]


@pytest.mark.parametrize("end", ["safetensors", "nir"])
def test_conversions_leave_the_file_of_before(end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of images unrolled, into a checkpoint whose masks are bits, or NIR."""
    source, out = tmp_path / "conv.safetensors", tmp_path / f"dense.{end}"
    checkpoint.save(Network((images(2).layers[2],)), source)
    words = ["convert", str(source), str(out), "--unrolled", "4,8,8"]
    assert cli.main(words) == 0
    before = out.read_bytes()
    capsys.readouterr()
    with quota(1000):
        assert cli.main(words) == 2
    is_one_line(capsys, "hetsyn convert: ", "File too large", f"'{out}'", "make room")
    assert out.read_bytes() == before and sorted(os.listdir(tmp_path)) == sorted([source.name, out.name])


def test_pruning_leaves_the_files_of_before(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network, and a run whose seeds come one after another: with room the same command ends as one undisturbed."""
    net, out = trained / "seed-0/network.safetensors", tmp_path / "pruned.safetensors"
    alone, all_seeds = ["prune", str(net), "-o", str(out)], ["prune", str(trained), "-o", str(tmp_path / "run")]
    for words, written in ((alone, out), (all_seeds, tmp_path / "run/seed-0.safetensors")):
        assert cli.main([*words, "--density", "0.2"]) == 0
        before = written.read_bytes()
        capsys.readouterr()
        with quota(1000):
            assert cli.main([*words, "--density", "0.5"]) == 2
        is_one_line(capsys, "hetsyn prune: ", "File too large", f"'{written}'", "make room")
        assert written.read_bytes() == before and no_half(tmp_path)
        assert cli.main([*words, "--density", "0.5"]) == 0
        assert len(written.read_bytes()) > len(before), "more synapses are left"


def test_reports_and_analyses_are_whole_or_not_there(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with quota(1000):
        assert cli.main(["report", str(trained), "-o", str(tmp_path / "page.html")]) == 2
        is_one_line(capsys, "hetsyn report: ", f"'{tmp_path / 'page.html'}'")
        assert cli.main(["analyse", str(trained), "--out", str(tmp_path / "pictures")]) == 2
        is_one_line(capsys, "hetsyn analyse: ", f"'{tmp_path / 'pictures/taus.png'}'")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["pictures"]


def test_a_demo_without_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("snntorch")
    with quota(1000):
        assert cli.main(["demo", "--epochs", "1", "--samples", "20", "--out", str(tmp_path)]) == 2
    assert "\nhetsyn demo: [Errno 27] File too large" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_benchmark_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "shapes_on", lambda device: {})
    monkeypatch.setattr(bench, "chip_rates", lambda: None)  # Lava takes its time
    command = ["bench", "--runs", "1", "--no-memory", "--no-scaling", "--out", str(tmp_path)]
    assert cli.main(command) == 0  # kernels are compiled and kept
    (tmp_path / "bench.csv").unlink()
    capsys.readouterr()
    with quota(10):
        assert cli.main(command) == 2
    is_one_line(capsys, "hetsyn bench: ", f"'{tmp_path / 'bench.csv'}'", "make room")
    assert os.listdir(tmp_path) == []


# ---- read-only folders ---------------------------------------------------------------------------------------------


COMMANDS = """
import json, sys
from hetsyn_plugins import cli
print(json.dumps([cli.main(words) for words in json.loads(sys.argv[1])]))
"""


def test_a_read_only_run_is_analysed_and_reported_elsewhere(trained: Path, tmp_path: Path) -> None:
    """In a process of its own, without root's right to write everywhere."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for path in (run, *run.rglob("*")):
        path.chmod(0o555)
    wrong = {
        "--out: expected a folder to write to, got run/analysis: Permission denied": ["analyse", "run"],
        "Permission denied (": ["report", "run", "-o", "run/page.html"],
        "--out: expected a folder to write to, got run: Permission denied": [*TRAIN, "run", "--seeds", "1,2"],
    }
    right = [["analyse", "run", "--out", "else"], ["report", "run", "-o", "page.html"], ["evaluate", "run"]]
    words = [*unprivileged(), sys.executable, "-c", COMMANDS, json.dumps([*right, *wrong.values()])]
    try:
        done = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True)
    finally:
        run.chmod(0o755)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 2, 2, 2]"
    assert all(text in line for text, line in zip(wrong, done.stderr.splitlines(), strict=True)), done.stderr
    assert (tmp_path / "page.html").exists() and (tmp_path / "else/taus.png").exists()


# ---- what is printed -----------------------------------------------------------------------------------------------

SHOW = [sys.executable, "-m", "hetsyn_plugins.cli", "train", "patterns", "--show"]
HELP = [*SHOW[:3], "--help"]
needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")


@needs_dev_full
@pytest.mark.parametrize(("words", "unbuffered"), [(SHOW, ""), (SHOW, "1"), (HELP, "")])
def test_a_full_standard_output_is_one_line(words: list[str], unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr and done.stderr.count("\n") == 1


@needs_dev_full
def test_a_full_standard_error_changes_no_status() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*SHOW, "--set", "task.none=1"], stdout=full, stderr=full, check=False)
    assert done.returncode == 2


@pytest.mark.parametrize("words", [SHOW, HELP], ids=["show", "help"])
def test_a_closed_pipe_ends_a_command_without_a_word(words: list[str]) -> None:
    """`hetsyn ... | head -1`: as a shell says of a process that SIGPIPE has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # else argparse says nothing of it, from Python 3.12 on
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_closed_standard_output_is_no_harm() -> None:
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *SHOW]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
