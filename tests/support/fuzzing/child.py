"""The process in which files are read: a line of JSON in, what became of the file as a line of JSON out."""

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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
MEMORY = 4 << 30  # bytes beyond what the imports took: a bomb ends in MemoryError, not with the machine


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
        answer = read(loaders.LOADERS[request["loader"]], folder, request["target"])
        print(json.dumps(answer), file=answers, flush=True)


def read(loader: Any, folder: Path, target: str) -> dict[str, Any]:
    """One file: its values' fingerprint or the error, the warnings, time in ms and memory in MB."""
    from fuzzing import content

    gc.collect()
    before = _reset_peak()
    answer: dict[str, Any] = {"value": None, "wrong": "", "error": None, "leak": False}
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            value = loader(folder, target)
        except BaseException as error:
            answer["ms"], answer["mb"] = _spent(start, before)
            answer["error"] = _described(error)
            answer["leak"] = content.leaks("".join(traceback.format_exception(error)).encode("utf-8", "replace"))
        else:
            answer["ms"], answer["mb"] = _spent(start, before)
            answer["value"], answer["wrong"] = content.fingerprint(value), content.wrong(value)
            answer["leak"] = content.leaks(value)
            del value
    answer["warnings"] = [[type(w.message).__name__, str(w.message)] for w in said]
    answer["leak"] |= any(content.leaks(text.encode("utf-8", "replace")) for _, text in answer["warnings"])
    answer["rss"] = int(_status("VmRSS")) / 1024
    return answer


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


def _spent(start: float, before: int) -> tuple[float, float]:
    milliseconds = 1e3 * (time.perf_counter() - start)
    return milliseconds, (int(_status("VmHWM")) - before) / 1024


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
