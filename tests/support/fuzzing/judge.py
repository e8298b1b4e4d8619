"""What became of mutants: each is read in a child process, whose answer is judged here."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from fuzzing.cases import SECRET, Good, Mutant, kinds_of, mutant
from fuzzing.goods import GOODS, picture

SUPPORT = Path(__file__).resolve().parents[1]
CHILD = ("-m", "fuzzing.child")
SLOW, HUNG = 1.0, 5.0  # seconds of computing, beyond what the good file takes where it is read
CROWDED = 10.0  # times as long by the clock, where others use the machine too
STARTS = 120.0  # seconds in which a child must have imported, and may compile
HEAVY = 200.0  # MB beyond the file's size, and beyond what the good file takes where it is read
GROWN = 150.0  # MB that a child may have kept: what it allocates next would not show

FINE = ("same", "refused", "unchecked", "read")
FAULTS = (
    "other values",
    "unsaid",
    "foreign error",
    "bad message",
    "slow",
    "heavy",
    "hung",
    "crashed",
    "side effect",
)
LEGEND = """same          the values of the good file, all of them
refused       one line, of our family of errors, that names the file
unchecked     a file without a digest, as they were written before: loads, and says that it cannot be checked
read          another valid content, of a format that has no digest: idx, SHD, npz, TOML, a log, a picture
other values  loads with values that were never written, or that no constructor takes
unsaid        a file without a digest loads and does not say so
foreign error an exception that is not ours; bad message: ours, but of several lines, or without the file's name
slow, heavy   more than 1 s, or 200 MB and the file's own size; hung: stopped after 5 s; crashed: the process died
side effect   a payload ran, a link was followed, or what stands in another file came out"""


class Verdict(NamedTuple):
    """What became of a mutant: one of FINE or FAULTS, why, and what it took."""

    mutant: Mutant
    outcome: str
    why: str
    ms: float
    mb: float


class Child:
    """The process that reads; it ends where it dies, hangs or has grown, and is started anew by whoever asks next."""

    def __init__(self, work: Path) -> None:
        self.work, self.at_first, self.pending = work, 0.0, b""
        self.errors = tempfile.TemporaryFile()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it has imported what it needs."""
        paths = os.pathsep.join([str(SUPPORT.parents[1]), str(SUPPORT)])
        command = [sys.executable, *CHILD]
        options: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors, "bufsize": 0}
        environment = {**os.environ, "PYTHONPATH": paths, "MPLBACKEND": "agg"}
        self.process = subprocess.Popen(command, cwd=self.work / "case", env=environment, **options)
        self.at_first, self.pending = 0.0, b""
        if self._answer(STARTS) != {"ready": True}:
            raise RuntimeError(f"the child does not start: {self._last_words()}")

    def ask(self, loader: str, target: str, patience: float) -> dict[str, Any] | str:
        """The child's answer, or "hung", or how it died."""
        assert self.process is not None and self.process.stdin is not None
        request = {"loader": loader, "folder": str(self.work / "case"), "target": target}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        answer = self._answer(patience)
        if isinstance(answer, dict):  # it is read: now all its values are looked at
            answer = self._answer(STARTS)
        if isinstance(answer, dict):
            self.at_first = self.at_first or answer["rss"]
            if answer["rss"] > self.at_first + GROWN:
                self.stop()
        return answer

    def _answer(self, patience: float) -> dict[str, Any] | str:
        assert self.process is not None
        line = self._line(patience)
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        status = "hung" if line is None else f"died with status {self.process.wait(STARTS)}: {self._last_words()}"
        self.stop()
        return status

    def _line(self, patience: float) -> bytes | None:
        """The child's next line, b"" where it has ended, None where it lets us wait."""
        assert self.process is not None and self.process.stdout is not None
        start, busy = time.monotonic(), self._busy()
        while b"\n" not in self.pending:
            if not select.select([self.process.stdout], [], [], 0.5)[0]:
                if self._busy() - busy > patience or time.monotonic() - start > CROWDED * patience:
                    return None
                continue
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                return b""
            self.pending += piece
        line, _, self.pending = self.pending.partition(b"\n")
        return line

    def _busy(self) -> float:
        """The seconds that the child has computed so far: others use the machine too."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            with self.process:  # which closes the pipes
                self.process.kill()
            self.process = None

    def _last_words(self) -> str:
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - 2000))
        lines = self.errors.read().decode("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "")


class Judge:
    """The folder of cases with canaries beside it, and what the good files of a reader are worth."""

    def __init__(self, work: Path) -> None:
        self.work, self.child = work, Child(work)
        (work / "case").mkdir()
        plant_canaries(work)
        self.beside = set(os.listdir(work))
        self.worth: dict[tuple[str, str], dict[str, Any]] = {}

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.stop()
        self.child.errors.close()

    def fuzz(self, reader: str, seed: int, indices: Callable[[Sequence[Good]], Sequence[int]]) -> Iterator[Verdict]:
        """What becomes of mutants of a reader: of those whose numbers `indices` gives, as it is told the good files."""
        goods = goods_of(reader)
        self.look_at_goods(reader, goods)
        for index in indices(goods):
            yield self.verdict(made(reader, goods, seed, index))

    def look_at_goods(self, reader: str, goods: Sequence[Good]) -> None:
        """Read every good file. RuntimeError where one does not read."""
        for good in goods:
            answer = self._read(good, good.data, STARTS)
            if isinstance(answer, str) or answer["error"] is not None:
                raise RuntimeError(f"the good file {good.name!r} of {reader} does not read: {answer}")
            self.worth[reader, good.name] = answer
            (self.work / "whole.h5").write_bytes(good.data)

    def verdict(self, damaged: Mutant) -> Verdict:
        """What becomes of a mutant; one that was slow is read again, because others use the machine too."""
        worth = self.worth[damaged.reader, damaged.good.name]
        patience = HUNG + worth["ms"] / 1e3
        answer = self._read(damaged.good, damaged.data, patience)
        if isinstance(answer, dict) and answer["ms"] > time_for(answer, worth):
            again = self._read(damaged.good, damaged.data, patience)
            if isinstance(again, dict):
                answer["ms"] = min(answer["ms"], again["ms"])
        if isinstance(answer, str):
            return Verdict(damaged, "hung" if answer == "hung" else "crashed", answer, 1e3 * patience, 0.0)
        outcome, why = judged(damaged, answer, worth, set(os.listdir(self.work)) - self.beside)
        self._clean()
        return Verdict(damaged, outcome, why, answer["ms"], answer["mb"])

    def _read(self, good: Good, data: bytes, patience: float) -> dict[str, Any] | str:
        """The child's answer; a new child reads the good file first, with all that is imported and compiled once."""
        if self.child.process is None:
            self.child.start()
            self._lay(good, good.data)
            self.child.ask(good.loader, good.target, STARTS)
        self._lay(good, data)
        return self.child.ask(good.loader, good.target, patience)

    def _lay(self, good: Good, data: bytes) -> None:
        """Nothing is in the folder of the case but the files of the good one, with these bytes for its target."""
        case = self.work / "case"
        for left in case.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        for name, content in good.files.items():
            (case / name).parent.mkdir(parents=True, exist_ok=True)
            (case / name).write_bytes(data if name == good.target else content)

    def _clean(self) -> None:
        for name in set(os.listdir(self.work)) - self.beside:
            (self.work / name).unlink()


def plant_canaries(work: Path) -> None:
    """Files that no reader may open, for a file in `case` has no business with them."""
    (work / "canary.txt").write_bytes(SECRET * 20)
    (work / "canary.bin").write_bytes(SECRET * 5_000)
    (work / "canary.png").write_bytes(picture() + SECRET)
    (work / "whole.h5").write_bytes(b"")  # becomes a good file of the reader, to which links may lead
    with h5py.File(work / "canary.h5", "w") as file:
        file["secret"] = np.frombuffer(SECRET * 50, "S1")
        file["labels"] = file["type"] = np.array([SECRET], "S64")


def judged(damaged: Mutant, answer: dict[str, Any], worth: dict[str, Any], made: set[str]) -> tuple[str, str]:
    """One of FINE or FAULTS, the gravest first, and why."""
    if made or answer["leak"]:
        return "side effect", f"made {', '.join(sorted(made))}" if made else "the canary's secret came out"
    error = answer["error"]
    if damaged.kind.refused and error is None:
        return "side effect", f"a file with an {damaged.kind.name} was read"
    fault, why = _of_error(damaged, error) if error is not None else _of_value(damaged, answer, worth)
    if fault in ("other values", "foreign error"):
        return fault, why
    if answer["mb"] > HEAVY + len(damaged.data) / 2**20 + (worth["mb"] if error is None else 0.0):
        return "heavy", f"{answer['mb']:.0f} MB: {why}"
    if answer["ms"] > time_for(answer, worth):
        return "slow", f"{answer['ms']:.0f} ms: {why}"
    return fault, why


def time_for(answer: dict[str, Any], worth: dict[str, Any]) -> float:
    """The ms that it may take to refuse a file, or to read one."""
    return 1e3 * SLOW + (worth["ms"] if answer["error"] is None else 0.0)


def _of_error(damaged: Mutant, error: dict[str, Any]) -> tuple[str, str]:
    text, target = error["text"], Path(damaged.good.target).name
    said = f"{error['type']}: {text[:300]!r}"
    if not error["ours"] or not error["value"] or error["system"]:
        return "foreign error", said
    if "\n" in text or target not in text or "expected" not in text:
        return "bad message", said
    return "refused", said


def _of_value(damaged: Mutant, answer: dict[str, Any], worth: dict[str, Any]) -> tuple[str, str]:
    """What it means that a file was read."""
    same = answer["value"] == worth["value"]
    warned = any(name == "UncheckedFileWarning" for name, _ in answer["warnings"])
    signed = damaged.good.signed
    if signed is not None and (damaged.kind.unsigned or damaged.kind.sealed):
        signed = None if damaged.kind.sealed else False
    if answer["wrong"]:
        return "other values", answer["wrong"]
    if signed is None:
        return ("same" if same else "read"), ""
    if not signed:
        return ("unchecked", "") if warned else ("unsaid", "no warning that it cannot be checked")
    if warned:
        return "other values", "loads as if it had never had a digest"
    return ("same", "") if same else ("other values", "other than those that were written")


# ---- all of them -------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the mutants of a reader."""

    reader: str
    counts: Counter[str] = field(default_factory=Counter)
    ms: float = 0.0
    mb: float = 0.0
    faults: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Count one more."""
        self.counts[verdict.outcome] += 1
        self.ms, self.mb = max(self.ms, verdict.ms), max(self.mb, verdict.mb)
        if verdict.outcome in FAULTS:
            self.faults.append(verdict)


def goods_of(reader: str) -> list[Good]:
    """The good files of a reader; that those of before cannot be checked is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GOODS[reader]()


def every_kind(goods: Sequence[Good]) -> Sequence[int]:
    """The numbers of as many mutants as have each kind of damage once, at least 40."""
    return range(max(40, len(goods) + len(kinds_of(goods))))


def made(reader: str, goods: Sequence[Good], seed: int, index: int) -> Mutant:
    """A mutant; what NumPy, h5py and torch say while they are misused is no affair of anybody's."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return mutant(reader, goods, seed, index)


def table(tallies: Sequence[Tally]) -> str:
    """A line a reader."""
    columns = [*FINE, *FAULTS]
    heads = ["mutants", *columns, "worst ms", "worst MB"]
    rows = []
    for tally in tallies:
        counts = [tally.counts[name] for name in columns]
        rows.append([f"{sum(counts):,}", *map(str, counts), f"{tally.ms:,.0f}", f"{tally.mb:,.0f}"])
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    names = [tally.reader for tally in tallies]
    first = max(map(len, ["reader", *names]))
    lines = [f"{'reader':{first}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(heads, widths, strict=True))]
    for name, row in zip(names, rows, strict=True):
        lines.append(f"{name:{first}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)))
    return "\n".join(lines)


def in_words(tally: Tally) -> str:
    """The faults of a reader: how often each kind of damage led to each, and one of them."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in tally.faults:
        groups.setdefault((verdict.outcome, verdict.mutant.kind.name), []).append(verdict)
    lines = [f"{tally.reader}: {len(tally.faults)} faults"]
    for (outcome, kind), found in sorted(groups.items()):
        lines.append(f"  {outcome:13} {len(found):4} x {kind}, as {found[0].mutant.name}: {found[0].why[:200]}")
    return "\n".join(lines)
