"""macOS and Windows: nothing at load asks for what only Linux, or only a Unix, has; what it was for has a plain way.

Here such a system is pretended, once torch and the frameworks, which know it by themselves, are loaded.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hetsyn_plugins.ops import devices
from hetsyn_plugins.ops.dispatch import choose_backend, kernel_for

ROOT = Path(__file__).resolve().parents[1]
PRETENDED = """
import contextlib, ctypes, importlib, importlib.util, multiprocessing.util, os, pathlib, signal, socket, subprocess, sys
import pytest, tqdm.auto, torch, numba, h5py, safetensors.numpy, torch._dynamo
for name in ("snntorch", "norse.torch", "triton", "sklearn.datasets", "pooch", "nir", "matplotlib.pyplot"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty", "syslog"):
    sys.modules[name] = None  # an ImportError for whoever asks
for module, names in {
    os: "fork register_at_fork pread pwrite sched_getaffinity killpg getpgid setsid getuid statvfs set_blocking uname",
    signal: "SIGKILL SIGURG SIGHUP SIGALRM SIGCONT SIGSTOP pthread_kill pthread_sigmask sigwait setitimer",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
os.name = "nt_pretended"
def no_such_library(*arguments, **options):
    raise OSError("no such library here")
ctypes.CDLL = no_such_library
"""
IMPORTS = """
root = pathlib.Path({root!r})
import hetsyn_plugins
hetsyn_plugins.__path__.append(str(root))  # adapters/ is hetsyn_plugins.adapters
for folder, package in ((root / "hetsyn_plugins", "hetsyn_plugins"), (root / "adapters", "hetsyn_plugins.adapters")):
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join((package, *(part for part in parts if part != "__init__")))
        kernels_of_a_card = ".kernels.gpu" in name and importlib.util.find_spec("triton") is None
        if kernels_of_a_card or name.endswith("__main__") or ("lava_dl" in name and "runtime" not in name):
            continue
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            importlib.import_module(name)
print("loaded", sum(name.startswith("hetsyn_plugins.") for name in sys.modules) > 150)
"""
FALLBACKS = """
import warnings
from hetsyn_plugins.cli import signals
from hetsyn_plugins.core import locks, processes
from hetsyn_plugins.kernels.cpu import threads
folder = pathlib.Path({folder!r})
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    with locks.locked(folder):
        print((folder / ".lock").read_text().startswith("process"), "no locks" in str(said[0].message))
with processes.lifeline() as line, processes.deaf_to_ctrl_c():
    print(subprocess.run([sys.executable, "-c", "print(5)"], **line, capture_output=True, text=True).stdout.strip())
signals.handle()
try:
    signal.raise_signal(signal.SIGINT)
except signals.Stopped:
    print(signals.status())
signals.done(0)
import torch
from hetsyn_plugins.ops.lif import hetsyn_lif
spikes, v, _ = hetsyn_lif(torch.ones(3, 1, 2), torch.ones(2, 2), torch.tensor(0.5), reset_decay=None, backend="cpu")
print(v[:, 0, 0].tolist())
"""


def test_modules_load_and_locks_children_and_signals_have_a_plain_way(tmp_path: Path) -> None:
    code = PRETENDED + IMPORTS.format(root=str(ROOT)) + FALLBACKS.format(folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-5:] == ["loaded True", "True True", "5", "130", "[2.0, 3.0, 3.5]"]


class OnMps:
    """A tensor on a device that this machine may not have."""

    device, dtype = torch.device("mps"), torch.float32


def test_tensors_on_mps_take_eager_or_are_refused_by_name() -> None:
    tensor: torch.Tensor = OnMps()  # type: ignore[assignment]
    choice = choose_backend(tensor, tensor)
    assert choice.backend == "eager" and "these are on mps" in choice.reason
    with pytest.raises(ValueError, match=r"backend: expected CPU tensors for 'cpu', got mps; use 'auto' or 'eager'"):
        kernel_for("cpu", tensor, tensor)
    with pytest.raises(ValueError, match=r"--device: expected cpu, cuda or a card by its number, cuda:0, got 'mps'"):
        devices.usable("--device", "mps")
