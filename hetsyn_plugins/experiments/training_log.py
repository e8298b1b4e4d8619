"""The log of a training run: one record a logged iteration, as JSON lines and as CSV, to TensorBoard if asked for."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, TypedDict

from hetsyn_plugins.core.files import append_line, write_bytes

LOG, TABLE = "log.jsonl", "log.csv"


class Record(TypedDict):
    """A line of the log: loss and score of the batch, the measure on the validation set (None: not measured here)."""

    iteration: int
    epoch: float
    loss: float
    score: float
    validation: float | None
    lr: float
    seconds: float


FIELDS = tuple(Record.__annotations__)


class Log:
    """One record a logged iteration, as JSON lines and as CSV; what is later than the checkpoint is dropped first."""

    def __init__(self, folder: Path, iteration: int, tensorboard: bool) -> None:
        kept = [record for record in read_log(folder / LOG) if record["iteration"] <= iteration]
        self.folder = folder
        rows = [FIELDS, *(record.values() for record in kept)]
        write_bytes(folder / LOG, "".join(json.dumps(record) + "\n" for record in kept).encode())
        write_bytes(folder / TABLE, "".join(_csv(row) + "\n" for row in rows).encode())
        self.board = _board(folder / "tensorboard") if tensorboard else None
        for record in kept:  # TensorBoard writes late, and may not have been asked for until now
            self._show(record)

    def write(self, *values: Any) -> None:
        """Add a record: the values of FIELDS."""
        record: Any = dict(zip(FIELDS, values, strict=True))
        append_line(self.folder / LOG, json.dumps(record))
        append_line(self.folder / TABLE, _csv(values))
        self._show(record)

    def _show(self, record: Record) -> None:
        drawn = {name: record[name] for name in ("loss", "score", "validation", "lr")}
        for name, value in drawn.items():
            if self.board is not None and value is not None:
                self.board.add_scalar(name, value, record["iteration"])

    def close(self) -> None:
        """Write what TensorBoard has not written yet."""
        if self.board is not None:
            self.board.close()


def _csv(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["" if value is None else value for value in values])
    return text.getvalue()


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("--tensorboard needs tensorboard: pip install 'hetsyn_plugins[tensorboard]'") from error
    return SummaryWriter(str(folder), purge_step=0)


def read_log(path: Path) -> list[Record]:
    """The records of a log; a last line that was cut off in the middle is left out."""
    lines = path.read_text().split("\n") if path.exists() else []
    return [json.loads(line) for line in lines[:-1]]
