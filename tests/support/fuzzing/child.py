"""The process in which files are read: a line of JSON in; out a line when the file is read, and one with what it was.

The first may take as long as a reader may, the second as long as it takes to look at every value.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
MEMORY = 2 << 30  # bytes beyond what the imports took: a bomb ends in MemoryError, not with the machine


def main() -> None:
    """Answer until there are no more files."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not speak in between
    import hetsyn_plugins

    hetsyn_plugins.__path__.append(str(ROOT))  # adapters/ is hetsyn_plugins.adapters
    from fuzzing import loaders  # with all that it imports: not to be counted as a file's

    size = int(_status("VmSize")) << 10
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.collect()
    gc.freeze()  # what the imports made need not be looked through after every file
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        folder = Path(request["folder"])
        os.chdir(folder)  # where relative paths in a file would lead
        for answer in read(loaders.LOADERS[request["loader"]], folder, request["target"]):
            print(json.dumps(answer), file=answers, flush=True)


def read(loader: Any, folder: Path, target: str) -> Iterator[dict[str, Any]]:
    """One file: time in ms and memory in MB; then its values' fingerprint or the error, and the warnings, too."""
    from fuzzing import content

    gc.collect()
    before = _reset_peak()
    answer: dict[str, Any] = {"value": None, "wrong": "", "error": None, "leak": False}
    start, busy = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            value, error = loader(folder, target), None
        except BaseException as raised:
            value, error = None, raised
        # others use the machine too: what they took from us is not the reader's
        seconds = min(time.perf_counter() - start, time.process_time() - busy)
        peak = int(_status("VmHWM"))
    answer |= {"ms": 1e3 * seconds, "mb": (peak - before) / 1024}
    yield answer
    if error is None:
        answer |= {"value": content.fingerprint(value), "wrong": content.wrong(value), "leak": content.leaks(value)}
    else:
        answer |= {"error": _described(error), "leak": content.leaks("".join(traceback.format_exception(error)))}
    answer["warnings"] = [[type(w.message).__name__, str(w.message)] for w in said]
    answer["leak"] |= content.leaks(answer["warnings"])
    del value, error
    answer["rss"] = int(_status("VmRSS")) / 1024
    yield answer


def _described(error: BaseException) -> dict[str, Any]:
    """Type and message, and whether the type is Python's own or ours."""
    kind = type(error)
    return {
        "type": kind.__name__,
        "ours": kind.__module__.startswith("hetsyn_plugins") or kind in (ValueError, FileNotFoundError),
        "system": getattr(error, "errno", None) is not None,  # the system's, raised by open() and the like
        "value": isinstance(error, (ValueError, FileNotFoundError)),
        "text": str(error).encode("utf-8", "backslashreplace").decode()[:2000],
    }


def _reset_peak() -> int:
    """Begin to measure the peak anew; what is resident now, kB."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(_status("VmRSS"))


def _status(name: str) -> str:
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return found[1]


if __name__ == "__main__":
    main()
