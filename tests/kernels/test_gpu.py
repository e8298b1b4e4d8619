"""The Triton kernels without a GPU: the same checks in Triton's interpreter, planted bugs, and compiled for a GPU.

Triton reads TRITON_INTERPRET when a kernel is decorated: everything here runs in processes of its own. The whole
contract in the interpreter, minutes long, is `TRITON_INTERPRET=1 hetsyn verify --backend gpu`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from hetsyn_plugins.ops import lif as ops

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux only")

TESTS = Path(__file__).resolve().parents[1]


def python(code: str, **environment: str) -> str:
    start = f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / 'kernels')!r}]\n"
    command = [sys.executable, "-W", "ignore", "-c", start + code]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


INTERPRETED = """
import math
import conftest, pytest
from hetsyn_plugins.conformance import backends, cases, checks
conftest.poison_empty(pytest.MonkeyPatch())
# rows are programs of their own: many of them show no more than some
checks.EDGES = [sizes for sizes in checks.EDGES if math.prod(sizes) < 15_000 and sizes[0] < 10 and sizes[1] < 40]
checks.EDGES += [(2, 2, 129, 3), (2, 2, 3, 129), (100, 1, 2, 3)]
for kind in set(cases.KINDS) - {"feed-forward", "adaptation", "everything", "no reset", "readout"}:
    del cases.KINDS[kind]
gpu = [b for b in backends.available()[0] if b.name == "gpu"]
names = ["hand-table", "threshold", "threshold-gradients", "closed-forms"]
names += ["sizes", "arguments-kept", "gradients", "detached-reset"]
results = list(checks.verify(gpu, names))
steps = [b for b in backends.available()[0] if b.name == "gpu-step"]
results += checks.verify(steps, ["threshold", "gradients"])
print(len(results), *[f"{c}: {r}" for _, c, r in results if isinstance(r, cases.Mismatch)])
"""


def test_the_interpreted_kernels_keep_the_contract() -> None:
    assert python(INTERPRETED, TRITON_INTERPRET="1").strip() == "10"


class Bug(NamedTuple):
    """In the kernels, `old`, `times` there, becomes `new`; `check` must then fail with `says` in its message."""

    name: str
    check: str
    says: str
    old: str
    new: str
    times: int = 1


BUGS = [
    Bug(
        "a recurrent current not decayed",
        "random",
        "spikes differ",
        "current = decay * current + weight * tl.expand_dims(z, 1)",
        "current = current + weight * tl.expand_dims(z, 1)",
    ),
    Bug(
        "a missed decay at the edge of a tile",
        "sizes",
        "v is off",
        "        current += weight * source\n",
        "        current = tl.where(tl.expand_dims(j == jt * BJ, 0) & (jt > 0), 0.0, current) + weight * source\n",
    ),
    Bug(
        "a lane off by one",
        "sizes",
        "spikes differ",
        "tl.load(s + (t * B + b) * M + j, mask=in_j",
        "tl.load(s + (t * B + b) * M + j // 2, mask=in_j",
        times=2,
    ),
    Bug(
        "sources of the row before",
        "sizes",
        "spikes differ",
        "tl.load(s + (t * B + b) * M + j",
        "tl.load(s + (t * B + b // 2) * M + j",
        times=2,
    ),
    Bug(
        "an unwritten tail",
        "sizes",
        "spikes differ",
        "tl.sum(current, 1), mask=in_i)",
        "tl.sum(current, 1), mask=i < N // 4 * 4)",
    ),
    Bug(
        "decay gradient one step late",
        "gradients",
        "gradient of decay is off",
        "        y = decay * y + x\n        x = decay * x + source\n",
        "        x = decay * x + source\n        y = decay * y + x\n",
    ),
    Bug(
        "the last tile of lines unread",
        "sizes",
        "spikes differ",
        "in_i, in_j = i < N, j < M\n",
        "in_i, in_j = i < N, j < M // BJ * BJ + 1\n",
        times=2,
    ),
    Bug(
        "the reset gives nothing back",
        "gradients",
        "gradient of inputs is off",
        "return reset_strength * aJ + adaptation_strength * aA, kappa",
        "return adaptation_strength * aA, kappa",
    ),
    Bug(
        "programs of one row read what another has written (a race)",
        "sizes",
        "spikes differ",
        "source = tl.expand_dims(tl.load(z0 + b * N + k",
        "source = tl.expand_dims(tl.load(z1 + b * N + k",
    ),
    Bug(
        "the last spikes go where the first were",
        "arguments-kept",
        "state.spikes was written to",
        "    tl.store(z1 + e, z, mask=inside)\n",
        "    tl.store(z1 + e, z, mask=inside)\n    tl.store(z0 + e, z, mask=inside)\n",
        times=2,
    ),
    Bug(
        "backward writes into the gradient of v",
        "arguments-kept",
        "gradient of v was written to",
        "tl.store(g + q, g_t, mask=inside)\n",
        "tl.store(g + q, g_t, mask=inside)\n        tl.store(gv + q, g_t, mask=inside)\n",
        times=2,
    ),
    Bug(
        "in backward, the reset sees spikes at the threshold",
        "threshold-gradients",
        "gradient of reset_decay is off",
        "other=0.0) > theta_i, 1.0, 0.0)",
        "other=0.0) >= theta_i, 1.0, 0.0)",
    ),
]

PLANTED = """
import importlib.util, pathlib, tempfile
import conftest, planting, pytest
from hetsyn_plugins.conformance import backends, checks
from hetsyn_plugins.kernels.gpu import sequence
import test_gpu
conftest.poison_empty(pytest.MonkeyPatch())
(gpu,) = [b for b in backends.available()[0] if b.name == "gpu"]
checks.EDGES = [(3, 2, 17, 130), (2, 3, 5, 4), (3, 2, 130, 2)]
nothing = test_gpu.BUGS[0]._replace(name="none", check="sizes", new=test_gpu.BUGS[0].old)
for index, bug in enumerate([nothing, *test_gpu.BUGS]):
    # a file of its own: Triton reads a kernel's source again
    path = pathlib.Path(tempfile.mkdtemp()) / f"planted_{index}.py"
    path.write_text(planting.changed_text("hetsyn_plugins.kernels.gpu.kernels", bug.old, bug.new, times=bug.times))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sequence.kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sequence.kernels)
    ((_, _, result),) = checks.verify([gpu], [bug.check])
    print(bug.name, "|", result)
"""


def test_planted_bugs_are_caught() -> None:
    none, *lines = python(PLANTED, TRITON_INTERPRET="1").splitlines()
    assert none.startswith("none | 6 cases")
    for bug, line in zip(BUGS, lines, strict=True):
        assert line.startswith(f"{bug.name} | ") and bug.says in line, line


COMPILED = """
import glob, os, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hetsyn_plugins.kernels.gpu import sequence as gpu
from hetsyn_plugins.kernels.gpu import kernels

def build(kernel, num_warps=4, **constants):
    names = kernel.arg_names
    integers = {"T", "B", "M", "N", "t"}
    kinds = {n: "constexpr" if n in constants else "i32" if n in integers else "*fp32" for n in names}
    source = ASTSource(kernel, kinds, {(names.index(n),): v for n, v in constants.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
    print(kernel.__name__, *constants.values(), spilled(compiled.asm["ptx"]))

def spilled(ptx):
    folder = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "ptxas*")
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        for assembler in sorted(glob.glob(folder)):
            command = [assembler, "-v", "--gpu-name=sm_90a", file.name, "-o", os.devnull]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return int(re.search(r"([0-9]+) bytes spill stores", done.stderr).group(1))
        return done.stderr

tile = {"BI": gpu.TILE_I, "BJ": gpu.TILE_J}
for flag in (False, True):
    build(kernels.currents_fwd, REVERSE=flag, HAS_INITIAL=flag, NEEDS_FINAL=not flag, **tile)
    build(kernels.synapses_bwd, HAS_INITIAL=flag, HAS_GRAD_FINAL=flag, NEEDS_INITIAL=flag, **tile)
    step = {"BI": gpu.TILE_STEP, "BK": gpu.TILE_STEP}
    build(kernels.recurrent_step_bwd, FIRST=flag, **step)
build(kernels.recurrent_step_fwd, **step)
for kernel in (kernels.neurons_fwd, kernels.neurons_bwd, kernels.soma_parameters_bwd):
    build(kernel, BI=gpu.TILE_NEURONS, num_warps=gpu.NEURON_WARPS)
for kernel in (kernels.recurrent_fwd, kernels.recurrent_bwd):
    for n in (5, 64, gpu.MAX_FUSED_NEURONS):
        build(kernel, **gpu._fused(n))
"""


def test_every_kernel_compiles_for_a_gpu_and_keeps_its_states_in_registers(tmp_path: Path) -> None:
    """To machine code for compute capability 9.0, with Triton's own assembler: no GPU is needed for that.

    A state that does not fit the registers goes through memory at every step ("spills", bytes a thread). Three matrices
    of 128 x 128 are 384 bytes a thread of 8 warps: a spill of some tens is what surrounds them.
    """
    try:
        from triton.backends.compiler import GPUTarget  # noqa: F401  what the code above needs
    except ImportError:
        pytest.skip("this Triton compiles only where it finds a GPU")
    lines = python(COMPILED, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0").splitlines()
    spills = {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in lines}
    assert len(spills) == 16
    assert {name: bytes_ for name, bytes_ in spills.items() if bytes_ > 64} == {}


# ---- what a user is told


def test_requests_that_cannot_be_met_say_what_to_do() -> None:
    x, weight = torch.zeros(3, 2, 4), torch.zeros(5, 4)
    with pytest.raises(ValueError, match=r"backend: expected CUDA tensors for 'gpu', got cpu; use 'auto' or 'eager'"):
        ops.hetsyn_lif(x, weight, 0.9, reset_decay=0.9, backend="gpu")
    with pytest.raises(ValueError, match="backend: expected float32 or half tensors for 'gpu', got float64"):
        ops.hetsyn_lif(x.double(), weight.double(), 0.9, reset_decay=0.9, backend="gpu")


NO_TRITON = """
import sys, warnings
sys.modules["triton"] = None
warnings.simplefilter("always")
from hetsyn_plugins.ops import lif as ops
from hetsyn_plugins.ops import dispatch
print(dispatch.why_no_gpu_kernel(), file=sys.stderr)
print(dispatch.why_no_gpu_kernel() == dispatch.why_no_gpu_kernel())
"""


def test_without_triton_one_warning_says_so() -> None:
    command = [sys.executable, "-c", NO_TRITON]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=TESTS.parent)
    assert done.stdout.strip() == "True", done.stderr
    assert done.stderr.count("backend='eager' is used instead") == 1 and "triton" in done.stderr
