"""Run scripts one after the other in this process, each in a folder and a namespace of its own: FOLDER of their files.

What each printed, and how it failed, is written beside it as soon as it is known. What scripts import is imported once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path

import hetsyn_plugins

ADAPTERS = {"snntorch": "snntorch", "norse": "norse", "lava_dl": "lava_dl.slayer"}


def run(file: Path) -> dict[str, str]:
    """What a script printed, and the traceback where it failed."""
    folder = file.with_suffix("")
    folder.mkdir()
    os.chdir(folder)
    sys.argv = [str(file)]  # as if it was started alone
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(file.read_text(), str(file), "exec"), {"__name__": "__main__"})
    except BaseException:  # a SystemExit too is a failure of that script
        return {"printed": printed.getvalue(), "failed": traceback.format_exc()}
    finally:
        forget()
    return {"printed": printed.getvalue(), "failed": ""}


def forget() -> None:
    """Take our names from the frameworks that are loaded, or the next script would have what it forgot to ask for."""
    for framework, module in ADAPTERS.items():
        if f"hetsyn_plugins.adapters.{module}" in sys.modules:
            hetsyn_plugins.unregister(framework)


if __name__ == "__main__":
    root, scripts = map(Path, sys.argv[1:])
    hetsyn_plugins.__path__.append(str(root))  # where adapters/ is, if this is no installed package
    for file in sorted(scripts.glob("*.py")):
        file.with_suffix(".json").write_text(json.dumps(run(file)))
