"""The log of a training run: one record a logged iteration, as JSON lines and as CSV, to TensorBoard if asked for.

Each JSON line carries a digest of its record: {"iteration": 10, ..., "digest": "1f0c22ab"}.
"""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from hetsyn_plugins.core.bounded import parse_json
from hetsyn_plugins.core.declared import Count, Finite, checked
from hetsyn_plugins.core.file_format import FileFormatError, check_digest, digest, mended_by
from hetsyn_plugins.core.files import DIGEST, append_line, said_of, write_bytes

LOG, TABLE = "log.jsonl", "log.csv"
LONGEST_LINE, MOST_LINES = 1_000, 1_000_000  # bytes; a line takes a third of them
DIGITS = 8  # of a line's digest
TO_DO = "delete the file: training goes on without what was logged"


class Record(TypedDict):
    """A line of the log, of so many updates: 0 is the network as it starts, of which nothing was trained.

    loss, score                   of the batch of the last update, before it; None at 0
    validation, validation_loss   the measure and the loss on the validation set; None: not measured here
    density                       what part of the synapses is there; None: nothing was pruned yet
    """

    iteration: Count
    epoch: Finite
    loss: float | None
    score: float | None
    validation: float | None
    validation_loss: float | None
    lr: Finite
    density: Finite | None
    seconds: Finite


LATER = {"validation_loss": None, "density": None}  # what a log of before does not have
CURVES = ("loss", "score", "validation", "validation_loss", "lr", "density")  # of TensorBoard
HINTS = get_type_hints(Record, include_extras=True)
FIELDS = tuple(HINTS)


class Log:
    """One record a logged iteration, as JSON lines and as CSV; what is later than the checkpoint is dropped first."""

    def __init__(self, folder: Path, iteration: int, tensorboard: bool) -> None:
        before = read_log(folder / LOG) if iteration else []  # a training that begins anew writes all of it
        kept = [record for record in before if record["iteration"] <= iteration]
        self.folder = folder
        rows = [FIELDS, *(record.values() for record in kept)]
        write_bytes(folder / LOG, "".join(line_of(record) + "\n" for record in kept).encode())
        write_bytes(folder / TABLE, "".join(_csv(row) + "\n" for row in rows).encode())
        self.board = Board(folder / "tensorboard") if tensorboard else None
        for record in kept:  # TensorBoard writes late, and may not have been asked for until now
            self._show(record)

    def write(self, *values: Any) -> None:
        """Add a record: the values of FIELDS."""
        record: Any = dict(zip(FIELDS, values, strict=True))
        append_line(self.folder / LOG, line_of(record))
        append_line(self.folder / TABLE, _csv(values))
        self._show(record)

    def _show(self, record: Record) -> None:
        values: Mapping[str, Any] = record
        for name, value in ((name, values[name]) for name in CURVES):
            if self.board is not None and value is not None:
                self.board.add(name, value, record["iteration"])

    def close(self) -> None:
        """Write what TensorBoard has not written yet."""
        if self.board is not None:
            self.board.close()


def _csv(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["" if value is None else value for value in values])
    return text.getvalue()


class Board:
    """TensorBoard's writer. What its thread cannot write is raised by the next call here, and not printed as well."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("--tensorboard needs tensorboard: pip install 'hetsyn_plugins[tensorboard]'") from error
        self.folder, self.hook = folder, threading.excepthook
        self.writer = SummaryWriter(str(folder), purge_step=0)
        threading.excepthook = self._in_a_thread

    def _in_a_thread(self, raised: threading.ExceptHookArgs) -> None:
        if not isinstance(raised.exc_value, OSError):
            self.hook(raised)

    def add(self, name: str, value: float, iteration: int) -> None:
        """Add a point of a curve."""
        with said_of(self.folder, "a curve to write"):
            self.writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Write what is not written yet."""
        try:
            with said_of(self.folder, "curves to write"):
                self.writer.close()
        finally:
            threading.excepthook = self.hook


# ---- lines ---------------------------------------------------------------------------------------------------------


def line_of(record: Record) -> str:
    """A record as a line that vouches for itself."""
    plain = json.loads(json.dumps(record))  # as it will be read
    return json.dumps({**plain, DIGEST: digest(plain)[:DIGITS]})


def read_log(path: Path) -> list[Record]:
    """The records of a log, none where there is no file; a last line that was cut off in the middle is left out.

    Raises FileFormatError, naming the line, where one is damaged, no record, or not later than the one before. A log of
    before, whose lines carry no digest, is taken with an UncheckedFileWarning.
    """
    with mended_by(TO_DO):
        records, with_digest = _records(path)
    if records and not with_digest:
        check_digest(path, records, None, to_do=TO_DO)
    return records


def _records(path: Path) -> tuple[list[Record], int]:
    """The records, and how many of them carry a digest: all or none."""
    records: list[Record] = []
    with_digest, last = 0, -1
    for field, line in _lines(path):
        record, has_digest = _parsed(line, path, field)
        if record["iteration"] <= last:
            raise FileFormatError(path, f"an iteration after {last}", record["iteration"], field=f"{field}: iteration")
        records.append(record)
        with_digest, last = with_digest + has_digest, record["iteration"]
    if with_digest not in (0, len(records)):
        raise FileFormatError(path, f"a digest in all {len(records)} lines", f"{with_digest}")
    return records, with_digest


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The whole lines of a log one by one, each with its number in words."""
    if not path.exists():
        return
    if not path.is_file():
        raise FileFormatError(path, "a log", "what is no file")
    with path.open("rb") as file:
        for number in range(1, MOST_LINES + 2):
            line, field = file.readline(LONGEST_LINE + 1), f"line {number}"
            if len(line) > LONGEST_LINE or (line and number > MOST_LINES):
                bounds = f"at most {MOST_LINES} lines of {LONGEST_LINE} bytes"
                raise FileFormatError(path, bounds, "more", field=field)
            if not line.endswith(b"\n"):
                return
            yield field, line


def _parsed(line: bytes, path: Path, field: str) -> tuple[Record, bool]:
    """The record of a line, and whether a digest vouches for it."""
    try:
        content = parse_json(line.decode(), path, "a record in JSON", field)
    except UnicodeDecodeError as error:
        raise FileFormatError(path, "a record in UTF-8", f"other bytes: {error}", field=field) from error
    stated = content.pop(DIGEST, None) if isinstance(content, dict) else None
    if not isinstance(content, dict) or set(content | LATER) != set(FIELDS):
        raise FileFormatError(path, f"an object of {', '.join(FIELDS)}", line.decode(), field=field)
    if stated is not None and stated != digest(content)[:DIGITS]:
        raise FileFormatError(path, "the record that it was written with", "another", field=field)
    content = LATER | content
    record: Any = {key: checked(HINTS[key], content[key], path, f"{field}: {key}") for key in FIELDS}
    return record, stated is not None
