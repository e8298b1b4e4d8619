"""`hetsyn doctor`: what is installed, which kernels run, where caches are, what is missing and the command for it."""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import os
import pkgutil
import platform
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from hetsyn_plugins._version import __version__
from hetsyn_plugins.cli.options import check_file_to_write
from hetsyn_plugins.exchange.frameworks import FRAMEWORKS, adapter

GOOD, BROKEN, MISSING, LOOK = "works", "BROKEN", "missing", "look"  # look: it works, but slower or not everywhere


class Row(NamedTuple):
    """A finding: what of, whether it works, what there is to know, and the command that helps where there is one."""

    section: str
    name: str
    verdict: str
    what: str
    fix: str = ""


class Library(NamedTuple):
    """A distribution: what it is imported as, the extra that installs it (none: the core needs it), what for."""

    distribution: str
    imported_as: str
    extra: str = ""
    purpose: str = ""


LIBRARIES = (
    Library("numpy", "numpy"),
    Library("torch", "torch"),
    Library("numba", "numba"),
    Library("safetensors", "safetensors"),
    Library("h5py", "h5py"),
    Library("triton", "triton", "", "the gpu kernels; comes with torch's CUDA builds"),
    Library("snntorch", "snntorch", "snntorch"),
    Library("norse", "norse", "norse"),
    Library("lava-dl", "lava.lib.dl.slayer", "lava", "Python 3.10 only"),
    Library("nir", "nir", "nir", "nir.NIRGraph"),
    Library("scikit-learn", "sklearn", "data", "the digits of the demo"),
    Library("pooch", "pooch", "data", "hetsyn data get"),
    Library("matplotlib", "matplotlib", "plot", "pictures"),
    Library("tensorboard", "tensorboard", "tensorboard", "hetsyn train --tensorboard"),
    Library("submitit", "submitit", "cluster", "hetsyn train --launcher submitit"),
    Library("huggingface_hub", "huggingface_hub", "hub", "the hub's folders"),
    Library("onnx", "onnx", "onnx", "hetsyn convert --to onnx"),
)
ADAPTERS = {known.extra: name for name, known in FRAMEWORKS.items()}  # which are imported too


def add_doctor(commands: Any) -> None:
    """Add `doctor`."""
    doctor = commands.add_parser("doctor", help="what is installed, which kernels run, where caches are, what to do")
    doctor.add_argument("--json", type=Path, metavar="FILE", help="write the findings there")
    doctor.set_defaults(handler=run_doctor, less="FILE")


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print a line a finding as it is made; 1 where something that is installed does not work."""
    from hetsyn_plugins.core.files import write_json

    check_file_to_write("--json", arguments.json)
    print(f"hetsyn_plugins {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"{'':15} {Path(__file__).parents[1]}, {sys.executable}")
    rows: list[Row] = []
    for row in findings():
        if not rows or rows[-1].section != row.section:
            print(f"\n{row.section}")
        fix = f"\n{'':24} {row.fix}" if row.fix else ""
        print(f"  {row.name:15} {row.verdict:7} {row.what}{fix}", flush=True)
        rows.append(row)
    broken = [row.name for row in rows if row.verdict == BROKEN]
    print(f"\n{', '.join(broken)}: broken" if broken else "\nwhat is installed works")
    if arguments.json is not None:
        write_json(arguments.json, {"version": __version__, "findings": [row._asdict() for row in rows]})
    return 1 if broken else 0


def findings() -> Iterator[Row]:
    """All of them, as they are made."""
    rows = {}
    for library in LIBRARIES:
        rows[library.distribution] = of_library(library)
        yield rows[library.distribution]
    if rows["torch"].verdict == GOOD:
        yield from kernels()
    yield from caches()


def of_library(library: Library) -> Row:
    """Is it there, and can it be imported, by our adapter where there is one?"""
    try:
        version = metadata.version(library.distribution)
    except metadata.PackageNotFoundError:
        version = ""
    name, purpose = library.distribution, f" ({library.purpose})" if library.purpose else ""
    if not version and importlib.util.find_spec(library.imported_as.partition(".")[0]) is None:
        needed = wanted(library)
        if not needed and name != "triton":
            return Row("installed", name, MISSING, f"not for this Python{purpose}")
        must = BROKEN if needed and not library.extra else MISSING
        return Row("installed", name, must, f"not installed{purpose}", pip(needed) if needed else "")
    with quiet():
        try:
            pkgutil.resolve_name(library.imported_as)
            if library.extra in ADAPTERS:
                adapter(ADAPTERS[library.extra])
        except Exception as error:  # many kinds: libraries that do not fit each other, a damaged file
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            return Row("installed", name, BROKEN, f"{version}: {why}", pip([name], "--force-reinstall --no-deps "))
    return Row("installed", name, GOOD, f"{version or 'of an unknown version'}{purpose}")


def wanted(library: Library) -> list[str]:
    """What pip is asked for to have a library on this Python: the requirements of its extra, or its own."""
    try:
        requirements = metadata.requires("hetsyn_plugins") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        requirements = []
    found = []
    for requirement in requirements:
        what, _, marker = requirement.partition(";")
        extra = re.search(r"extra == .(\w+)", marker)
        if (extra.group(1) if extra else "") == library.extra and on_this_python(marker):
            found.append(what.strip())
    if library.extra and found:
        return found
    own = [what for what in found if re.match(rf"{library.distribution}\b", what)]
    known = any(requirement.startswith(library.distribution) for requirement in requirements)
    return own or ([] if known or library.distribution == "triton" else [library.distribution])


def on_this_python(marker: str) -> bool:
    """Does a requirement's marker hold, as far as it speaks of Python's version?"""
    compared = re.search(r"python_version (<|>=) .(\d+)\.(\d+)", marker)
    if compared is None:
        return True
    older = sys.version_info[:2] < (int(compared[2]), int(compared[3]))
    return older if compared[1] == "<" else not older


def pip(requirements: list[str], options: str = "") -> str:
    """The command that installs them here."""
    return f"{shlex.quote(sys.executable)} -m pip install {options}{' '.join(map(shlex.quote, requirements))}"


@contextmanager
def quiet() -> Iterator[None]:
    """What others say while they start is not for here, nor that kernels are compiled."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def kernels() -> Iterator[Row]:
    """Each backend, by a small layer that is run forward and backward and compared with the float64 reference."""
    import torch

    from hetsyn_plugins.ops import dispatch

    with quiet():
        no_cpu = dispatch.why_no_cpu_kernel()
    yield tried("eager", "cpu", "torch's own operations, every device")
    if no_cpu is None:
        from hetsyn_plugins.kernels.cpu.simd import VECTOR_BYTES

        threads = torch.get_num_threads()
        has = f"{threads} {'thread' if threads == 1 else 'threads'}, vectors of {8 * VECTOR_BYTES} bits"
        yield tried("cpu", "cpu", f"{has}, {os.cpu_count()} cores")
    else:
        yield Row("kernels", "cpu", BROKEN, no_cpu, pip(["numba"], "--force-reinstall --no-deps "))
    if not torch.cuda.is_available():
        yield Row("kernels", "gpu", MISSING, "no CUDA device that torch can use: the other kernels need none")
        return
    with quiet():
        no_gpu = dispatch.why_no_gpu_kernel()
    if no_gpu is None:
        yield tried("gpu", "cuda", torch.cuda.get_device_name())
    else:
        yield Row("kernels", "gpu", BROKEN, no_gpu, pip(["triton"]))


def tried(backend: str, device: str, what: str) -> Row:
    """A backend's verdict after a small layer: spikes as the reference's, gradients that are finite numbers."""
    import numpy as np
    import torch

    from hetsyn_plugins.core import reference
    from hetsyn_plugins.core.params import HetSynParams
    from hetsyn_plugins.ops.lif import hetsyn_lif

    # dyadic numbers: every order of summation gives the same
    weight, decay = np.array([[0.75, -0.25], [0.5, 0.5]], np.float32), np.array([[0.5, 0.25], [0.75, 0.5]], np.float32)
    inputs = np.array([[[1, 0]], [[1, 1]], [[0, 1]], [[1, 1]]], np.float32)
    expected, _, _ = reference.run(HetSynParams(weight, decay, reset_decay=np.float32(0.5)), inputs)
    try:
        with quiet():
            given = [torch.tensor(a, device=device) for a in (inputs, weight, decay)]
            trained = [tensor.requires_grad_() for tensor in given[1:]]
            reset = torch.tensor(0.5, device=device)
            spikes, v, _ = hetsyn_lif(given[0], *trained, reset_decay=reset, backend=backend)
            (spikes.sum() + v.sum()).backward()
        right = bool((spikes.detach().cpu().numpy() == expected).all())
        right = right and all(bool(t.grad is not None and t.grad.isfinite().all()) for t in trained)
        why = f"{what}; forward and backward" if right else "other spikes than the reference's, or gradients of NaN"
    except Exception as error:  # of a compiler, a driver, memory
        right, why = False, f"{type(error).__name__}: {error}".partition("\n")[0]
    return Row("kernels", backend, GOOD if right else BROKEN, why)


def caches() -> Iterator[Row]:
    """Where compiled kernels and data sets are kept, how much that is, and whether more can be written."""
    from hetsyn_plugins.experiments.data.get import place

    if all(importlib.util.find_spec(name) is not None for name in ("numba", "torch")):
        yield of_kernels()
    try:
        folder = place("mnist").parent
    except OSError as error:  # this user has no home
        yield Row("caches", "data sets", LOOK, str(error), "export HETSYN_CACHE=FOLDER")
        return
    fix = "" if writable(folder) else "export HETSYN_CACHE=FOLDER"
    yield Row("caches", "data sets", LOOK if fix else GOOD, described([folder], "*"), fix)


def of_kernels() -> Row:
    """The folder that takes compiled kernels, which are looked for in all of them."""
    from hetsyn_plugins.kernels import cpu

    try:
        with quiet():
            from hetsyn_plugins.kernels.cpu.compiled import places
    except Exception as error:  # as the cpu kernel's own finding says at length
        return Row("caches", "kernels", BROKEN, f"{type(error).__name__}: {error}".partition("\n")[0])
    folders = list(places(Path(cpu.__path__[0])))
    takes = [folder for folder in folders if writable(folder)]
    if takes:
        return Row("caches", "kernels", GOOD, described(takes[:1], "*.compiled"))
    why = f"{described(folders, '*.compiled')}: every process compiles anew"
    return Row("caches", "kernels", LOOK, why, "export NUMBA_CACHE_DIR=FOLDER")


def described(folders: list[Path], pattern: str) -> str:
    """Paths, their size, and whether they can be written."""
    files = [file for folder in folders if folder.is_dir() for file in folder.rglob(pattern) if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    can = "can be written" if any(map(writable, folders)) else "cannot be written"
    return f"{', '.join(map(str, folders))}: {len(files)} files, {size:,.1f} MB, {can}"


def writable(folder: Path) -> bool:
    """Could a file be written there, after making the folder if it is not there?"""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
