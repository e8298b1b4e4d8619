"""What numba compiles, kept on disk: read where it is whole and of this very source, else compiled and written anew.

numba has a cache of its own, which raises where there is no folder to write to, where the disk is full and where a file
is damaged, runs machine code with a changed byte, and does not see that a kernel calls one of another file that has
changed. So the files are ours: a digest over the code and over all that it was made of, then the code. Where none can
be written, kernels are compiled in every process, which is said once.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import pickle
import platform
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import njit
from numba.core import config
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from hetsyn_plugins.core.files import user_cache, write_bytes

MADE_BY = f"numba {numba.__version__}, llvmlite {llvmlite.__version__}, Python {platform.python_version()}"
DIGEST = hashlib.sha256

_said: list[str] = []  # of this process


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call with each type of arguments; it then runs without the GIL."""
    dispatcher = njit(nogil=True)(function)
    keep(dispatcher)
    return dispatcher


def keep(dispatcher: Any) -> None:
    """Let a compiled function look on the disk before it compiles."""
    if not hasattr(dispatcher, "_cache"):
        _say_once(f"{MADE_BY}: expected Dispatcher._cache, it has moved: CPU kernels are compiled in every process")
    dispatcher._cache = Kept(dispatcher.py_func)


class Kept(NullCache):
    """The compiled code of one function, a file for each type of arguments."""

    def __init__(self, function: Any) -> None:
        self.source = Path(function.__code__.co_filename)
        self.name = f"{self.source.stem}.{function.__qualname__}"

    @property
    def cache_path(self) -> str:
        """The folder that numba's statistics name: the first in which a file is looked for."""
        return str(next(places(self.source.parent)))

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The code for these types of arguments; None where it has to be compiled, which is said once."""
        target_context.refresh()
        name, made_of = self._identity(signature, target_context)
        for folder in places(self.source.parent):
            code = _read(folder / name, made_of)
            if code is not None:
                return CompileResult._rebuild(target_context, *pickle.loads(code))
        _announce()
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Write the code to the first folder that takes it; where none does, say so once and go on without."""
        name, made_of = self._identity(signature, compiled.target_context)
        code = dumps(compiled._reduce())
        failed = []
        for folder in places(self.source.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_bytes(folder / name, DIGEST(made_of + code).digest() + code)
            except (OSError, ValueError) as error:  # no permission, no room, a folder in the place of the file
                why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
                failed.append(f"{folder}: {why}")
            else:
                return
        _say_once(
            f"compiled CPU kernels cannot be kept ({'; '.join(failed)}): every process compiles those that it uses, "
            "about a second each; set NUMBA_CACHE_DIR to a folder that can be written, with room"
        )

    def _identity(self, signature: Any, target_context: Any) -> tuple[str, bytes]:
        """The name of the file, and what the code in it must have been made of."""
        made_for = f"{signature} {target_context.codegen().magic_tuple()} {MADE_BY}"
        made_of = f"{self.name} {made_for} NumPy {np.__version__} {_sources(self.source.parent)}"
        return f"{self.name}-{DIGEST(made_for.encode()).hexdigest()[:16]}.compiled", made_of.encode()


def places(source: Path) -> Iterator[Path]:
    """Where compiled code of this folder's sources may be: in NUMBA_CACHE_DIR alone, if it is given and can be written,
    else beside the sources or in the user's cache."""
    apart = f"{source.name}_{DIGEST(os.fsencode(source)).hexdigest()[:16]}"
    given: str = vars(config)["CACHE_DIR"]
    if given:
        yield Path(given, "hetsyn_plugins", apart)
        if _writable(Path(given)):
            return
    yield source / "__pycache__"
    try:
        yield user_cache() / "kernels" / apart
    except OSError:  # this user has no home
        return


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _read(path: Path, made_of: bytes) -> bytes | None:
    """The code in a file, or None where it is not there, not whole or made of something else."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[: DIGEST().digest_size], content[DIGEST().digest_size :]
    return code if DIGEST(made_of + code).digest() == digest else None


@functools.cache
def _sources(folder: Path) -> str:
    """A digest of the sources in this folder and in the one of the kernels: a kernel may call any of theirs."""
    digest = DIGEST()
    for path in sorted({*folder.glob("*.py"), *Path(__file__).parent.glob("*.py")}):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _announce() -> None:
    logging.getLogger("hetsyn_plugins").warning("compiling the CPU kernels, once: each takes a second at its first use")


def _say_once(what: str) -> None:
    if not _said:
        _said.append(what)
        warnings.warn(what, RuntimeWarning, stacklevel=2)
