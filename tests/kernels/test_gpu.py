"""The Triton kernels without a GPU: the same checks in Triton's interpreter, planted bugs, and compiled for a GPU.

Triton reads TRITON_INTERPRET when a kernel is decorated: everything here runs in processes of its own. The whole
contract in the interpreter, minutes long, is `TRITON_INTERPRET=1 hetsyn verify --backend gpu`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from hetsyn_plugins.core import surrogate
from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.kernels import zeros
from hetsyn_plugins.kernels.interface import LayerTensors, NeedsGrad, OutputGradients
from hetsyn_plugins.ops import lif as ops

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux only")

TESTS = Path(__file__).resolve().parents[1]


def python(code: str, **environment: str) -> str:
    start = f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / 'kernels')!r}]\n"
    start += "import interpreting\n" if environment.get("TRITON_INTERPRET") == "1" else ""
    command = [sys.executable, "-W", "ignore", "-c", start + code]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


INTERPRETED = """
import math
from dataclasses import replace
import conftest, pytest, torch
from hetsyn_plugins.conformance import backends, cases, checks
from hetsyn_plugins.core import surrogate
from hetsyn_plugins.ops import lif
conftest.poison_empty(pytest.MonkeyPatch())
# rows are programs of their own: many of them show no more than some
checks.EDGES = [sizes for sizes in checks.EDGES if math.prod(sizes) < 15_000 and sizes[0] < 10 and sizes[1] < 40]
checks.EDGES += [(2, 2, 129, 3), (2, 2, 3, 129), (100, 1, 2, 3)]
for kind in set(cases.KINDS) - {
    "feed-forward", "adaptation", "everything", "no reset", "readout", "tau 0 to infinity", "HetNeuLIF", "delays",
    "masks",
}:
    del cases.KINDS[kind]
# masks are the op's affair, before a kernel: left out here
gpu = [replace(b, masks=False) for b in backends.available()[0] if b.name == "gpu"]
names = ["hand-table", "threshold", "threshold-gradients", "closed-forms"]
names += ["sizes", "states", "arguments-kept", "gradients", "state-gradients", "detached-reset"]
results = list(checks.verify(gpu, names))
steps = [replace(b, masks=False) for b in backends.available()[0] if b.name == "gpu-step"]
results += checks.verify(steps, ["threshold", "state-gradients"])
for kind in set(cases.KINDS) - {"everything"}:
    del cases.KINDS[kind]
results += checks.verify(steps, ["gradients"])  # from zeros too: of 30 steps, a program each
print(len(results), *[f"{c}: {r}" for _, c, r in results if isinstance(r, cases.Mismatch)])


# a surrogate that is not ours, or not quite, goes its own way

class Half(surrogate.Arctan):
    def derivative(self, d, threshold=1.0):
        return super().derivative(d, threshold) / 2

def gradient(spike_grad):
    torch.manual_seed(0)
    x, w = torch.rand(9, 3, 5), torch.rand(4, 5, requires_grad=True)
    options = {"detach_reset": True, "surrogate": spike_grad, "backend": "gpu"}
    lif.hetsyn_lif(x, w, 0.8, reset_decay=0.8, **options)[0].sum().backward()
    return w.grad

ours = gradient(surrogate.Arctan())
for foreign, factor in ((lambda d: surrogate.Arctan()(d), 1.0), (Half(), 0.5)):
    torch.testing.assert_close(gradient(foreign), factor * ours)
"""


def test_the_interpreted_kernels_keep_the_contract() -> None:
    assert python(INTERPRETED, TRITON_INTERPRET="1").strip() == "13"


LARGE = """
from dataclasses import replace
import conftest, pytest, torch
from hetsyn_plugins.conformance import backends, cases, checks
from hetsyn_plugins.kernels.gpu import lags, recurrent
conftest.poison_empty(pytest.MonkeyPatch())
# those with delays have been in chunks already
(gpu,) = [replace(b, masks=False, delays=False) for b in backends.available()[0] if b.name == "gpu"]

# chunks of eight steps, and of fewer, at sizes that need them
checks.EDGES, names = [(10, 1, 129, 2), (1, 2, 160, 2), (3, 1, 256, 2)], ["sizes"]
results = list(checks.verify([gpu], names))

# small layers taken for large ones; products are in full precision whatever a user has said of TF32
product, tf32 = torch.mm, []

def mm(*factors, out):
    tf32.append(torch.backends.cuda.matmul.allow_tf32)
    return product(*factors, out=out)

recurrent.MAX_NEURONS, lags.STEPS, torch.mm = 0, 3, mm
torch.set_float32_matmul_precision("medium")
for kind in set(cases.KINDS) - {
    "everything", "no reset", "adaptation", "tau 0 to infinity", "feed-forward", "readout", "HetNeuLIF", "delays",
    "masks",
}:
    del cases.KINDS[kind]
names = ["threshold-gradients", "states", "arguments-kept", "state-gradients", "detached-reset"]
results += checks.verify([gpu], names)
print(len(results), *[f"{c}: {r}" for _, c, r in results if isinstance(r, cases.Mismatch)])
print(set(tf32), torch.get_float32_matmul_precision())
"""


def test_large_recurrent_layers_keep_the_contract_a_chunk_of_steps_at_a_time() -> None:
    assert python(LARGE, TRITON_INTERPRET="1").split("\n") == ["6", "{False} medium", ""]


@pytest.mark.parametrize("batch", [1, 2, 15, 16, 128])
@pytest.mark.parametrize("n", [129, 256, 1024, 2048, 5000])
def test_the_lag_matrices_are_bounded(n: int, batch: int) -> None:
    """By 32 MB, or half of the state; the parts of the first sums by a third of it."""
    lags = importlib.import_module("hetsyn_plugins.kernels.gpu.lags")
    layer = torch.empty(n, n, device="meta")
    chunk = lags._chunk((layer, layer), 250, batch)
    lag_matrices = chunk.products[0][1].untyped_storage().nbytes()
    assert lag_matrices <= max(32 * 2**20, 2 * batch * n * n)
    assert chunk.parts.nbytes <= 4 * batch * n * n / 3
    assert len(chunk.products) == 8 or batch < 16
    assert lags.steps_at_once(3, batch, n) <= 3


class Bug(NamedTuple):
    """In a file of the kernels `old`, `times` there, becomes `new`; `check` must fail with `says` in its message."""

    name: str
    module: str
    check: str
    says: str
    old: str
    new: str
    times: int = 1


BUGS = [
    Bug(
        "a recurrent current not decayed",
        "recurrent",
        "random",
        "spikes differ",
        "currents_step(x, decay, weight, tl.expand_dims(z, 1)",
        "currents_step(x, decay * 0 + 1, weight, tl.expand_dims(z, 1)",
    ),
    Bug(
        "a missed decay at the edge of a tile",
        "synapses",
        "sizes",
        "spikes differ",
        "        x, current = currents_step(x, decay",
        "        x, current = currents_step(tl.where(tl.expand_dims(j == jt * TILE, 1) & (jt > 0), 0.0, x), decay",
    ),
    Bug(
        "a source off by one",
        "synapses",
        "sizes",
        "spikes differ",
        "s_at, s_at_1, s_step = s + b * M + j,",
        "s_at, s_at_1, s_step = s + b * M + j // 2,",
    ),
    Bug(
        "both rows of a pair with the sources of the first",
        "synapses",
        "sizes",
        "spikes differ",
        "s + b * M + j, s + b_1 * M + j,",
        "s + b * M + j, s + b * M + j,",
    ),
    Bug(
        "an unwritten tail",
        "synapses",
        "sizes",
        "spikes differ",
        "sum_in_thread(current) + bias_i, mask=in_i)",
        "sum_in_thread(current) + bias_i, mask=i < N // 4 * 4)",
        times=2,
    ),
    Bug(
        "every tile adds the bias",
        "synapses",
        "sizes",
        "spikes differ",
        "mask=in_i & (jt == 0)",
        "mask=in_i",
    ),
    Bug(
        "the second slice of the sources forgets the first",
        "synapses",
        "sizes",
        "spikes differ",
        "ADDS=tile > 0",
        "ADDS=False",
    ),
    Bug(
        "every slice of the batch goes where the first went",
        "synapses",
        "sizes",
        "spikes differ",
        "at = e < rows * N, u + (t * B + first_row) * N + e",
        "at = e < rows * N, u + t * B * N + e",
    ),
    Bug(
        "a given current taken for zeros",
        "synapses",
        "states",
        "v is off",
        '"HAS_INITIAL": initial is not None, "NEEDS_FINAL"',
        '"HAS_INITIAL": False, "NEEDS_FINAL"',
    ),
    Bug(
        "decay gradient one step late",
        "synapses",
        "gradients",
        "gradient of decay is off",
        "            q = decay * q + a\n            a = decay * a + g_t\n",
        "            a = decay * a + g_t\n            q = decay * q + a\n",
    ),
    Bug(
        "the gradient of the last current decayed before it counts",
        "synapses",
        "sizes",
        "gradient of weight is off",
        "a += tl.load(grad_final + b * final_b + final_at, mask=inside, other=0.0)",
        "a += decay * tl.load(grad_final + b * final_b + final_at, mask=inside, other=0.0)",
    ),
    Bug(
        "the same on its way to the inputs",
        "synapses",
        "sizes",
        "gradient of inputs is off",
        "        current = x + w * s\n",
        "        current = r * x + w * s\n",
    ),
    Bug(
        "the first current has no part in the decay's gradient",
        "synapses",
        "state-gradients",
        "gradient of decay is off",
        "weight * sum_q + sum_r",
        "weight * sum_q",
    ),
    Bug(
        "the first group of rows not counted",
        "synapses",
        "sizes",
        "gradient of weight is off",
        "for group in range(groups)",
        "for group in range(1, groups)",
    ),
    Bug(
        "the last tile of lines unread",
        "synapses",
        "sizes",
        "spikes differ",
        "in_i, in_j = i < N, j < M\n",
        "in_i, in_j = i < N, j < M // 32 * 32 + 1\n",
        times=2,
    ),
    Bug(
        "the reset gives nothing back",
        "neurons",
        "gradients",
        "gradient of inputs is off",
        "return reset_strength * aJ + adaptation_strength * aA, kappa",
        "return adaptation_strength * aA, kappa",
    ),
    Bug(
        "a detached reset gives something back",
        "neurons",
        "detached-reset",
        "gradient of inputs is off",
        'has["HAS_RESET"] and not detach_reset',
        'has["HAS_RESET"]',
    ),
    Bug(
        "a given first reset taken for zeros",
        "neurons",
        "states",
        "spikes differ",
        "    return tuple(or_any(x, like).contiguous() for x in parts), True",
        "    return tuple(or_any(x, like).contiguous() for x in parts), False",
    ),
    Bug(
        "the last spikes go where the first were",
        "recurrent",
        "arguments-kept",
        "state.spikes was written to",
        "    tl.store(z1 + e, z, mask=inside)\n",
        "    tl.store(z1 + e, z, mask=inside)\n    tl.store(z0 + e, z, mask=inside)\n",
    ),
    Bug(
        "backward writes into the gradient of v",
        "recurrent",
        "arguments-kept",
        "gradient of v was written to",
        "tl.store(g + q, g_t, mask=inside)\n",
        "tl.store(g + q, g_t, mask=inside)\n        tl.store(gv + q, g_t, mask=inside)\n",
    ),
    Bug(
        "in backward, the reset sees spikes at the threshold",
        "neurons",
        "threshold-gradients",
        "gradient of reset_decay is off",
        "SPIKES) > theta_i, 1.0, 0.0)",
        "SPIKES) >= theta_i, 1.0, 0.0)",
    ),
    Bug(
        "a surrogate too wide",
        "surrogates",
        "gradients",
        "gradient of inputs is off",
        "normal(d, -0.5 * 0.15, 0.5, 3.0)",
        "normal(d, -0.5 * 0.15, 0.5, 2.0)",
    ),
    Bug(
        "lag matrices in the wrong order",
        "lags",
        "sizes",
        "spikes differ",
        "in reversed(matrices.unbind())",
        "in matrices.unbind()",
    ),
    Bug(
        "lag matrices of one lag more",
        "lags",
        "sizes",
        "spikes differ",
        "power = matrix.copy_(power) * decay",
        "power = matrix.copy_(power * decay)",
    ),
    Bug(
        "what a chunk sent last is lost",
        "lags",
        "sizes",
        "spikes differ",
        "        before = now\n",
        "        before = max(1, now - 1)\n",
    ),
    Bug(
        "a short last chunk taken for a whole one",
        "lags",
        "sizes",
        "state.recurrent_current is off",
        "        before = now\n",
        "        before = length\n",
    ),
    Bug(
        "the last chunk's sources are not in the last currents",
        "lags",
        "sizes",
        "state.recurrent_current is off",
        "if before > 1 and not reverse:",
        "if before > length and not reverse:",
    ),
    Bug(
        "the state is not carried from chunk to chunk",
        "lags",
        "sizes",
        "spikes differ",
        "x += tl.load(x_all + b * N * N + at",
        "x += 0 * tl.load(x_all + b * N * N + at",
    ),
    Bug(
        "in the first step of a chunk the state has decayed once more",
        "lags",
        "sizes",
        "spikes differ",
        "power = tl.full((TILE, TILE), 1.0, tl.float32)",
        "power = decay",
    ),
    Bug(
        "every step of a chunk with the first sum of the first",
        "lags",
        "sizes",
        "spikes differ",
        "(tile * now + slot)",
        "(tile * now + 0 * slot)",
    ),
    Bug(
        "spikes go to the slot of the next step",
        "lags",
        "sizes",
        "spikes differ",
        "send(slots, z, decays, entries, b * slots_row + slot * N + i,",
        "send(slots, z, decays, entries, b * slots_row + (slot + 1) % now * N + i,",
    ),
    Bug(
        "recurrent sources of the last tile unread",
        "lags",
        "sizes",
        "spikes differ",
        "in_i, in_k = i < N, k < N\n",
        "in_i, in_k = i < N, k < N // 32 * 32\n",
    ),
    Bug(
        "reset and spikes start anew in every step",
        "lags",
        "sizes",
        "spikes differ",
        '{"FIRST": t == 0, "HAS_NEW"',
        '{"FIRST": True, "HAS_NEW"',
    ),
    Bug(
        "a given first recurrent current taken for zeros",
        "lags",
        "states",
        "v is off",
        '"HAS_CURRENT": initial is not None and not reverse',
        '"HAS_CURRENT": False',
    ),
    Bug(
        "the adjoint goes through the synapses forwards",
        "lags",
        "sizes",
        "gradient of",
        "_chunk((layer.recurrent_decay.contiguous(), layer.recurrent_weight.contiguous()), steps, batch)",
        "_chunk(transposed(layer.recurrent_decay, layer.recurrent_weight), steps, batch)",
    ),
    Bug(
        "the adjoint hands on to the next chunk what it never sent",
        "lags",
        "sizes",
        "gradient of",
        "send(slots, g_t, decays,",
        "send(slots, g_t * (slot + 1 < now), decays,",
    ),
    Bug(
        "the gradient of the last recurrent current read with the roles not exchanged",
        "lags",
        "state-gradients",
        "gradient of",
        "state_b, state_k, state_i = or_any",
        "state_b, state_i, state_k = or_any",
    ),
    Bug(
        "the threshold's gradient is that of the first step",
        "lags",
        "sizes",
        "gradient of threshold is off",
        "through_z += tl.load(grad_threshold",
        "through_z += 0 * tl.load(grad_threshold",
    ),
    Bug(
        "nothing comes back to the first spikes",
        "lags",
        "state-gradients",
        "gradient of state.spikes is off",
        '"LAST": t < 0, "HAS_NEW": has_new',
        '"LAST": t < 0, "HAS_NEW": has_new and t >= 0',
    ),
    Bug(
        "a detached reset gives something back, in a large layer",
        "lags",
        "detached-reset",
        "gradient of inputs is off",
        "load_if(theta, i, inside, THROUGH_RESET)",
        "load_if(theta, i, inside, HAS_RESET)",
    ),
    Bug(
        "a delay one step too long",
        "delayed",
        "late",
        "v is off",
        "width + front + first - steps",
        "width + front + first - 1 - steps",
    ),
    Bug(
        "the neighbour of a step is the same step",
        "delayed",
        "late",
        "v is off",
        "        total = sum_in_thread(wf * x)\n        x = r * x + source\n",
        "        x = r * x + source\n        total = sum_in_thread(wf * x)\n",
    ),
    Bug(
        "the last currents without the neighbour of the last step",
        "delayed",
        "late",
        "state.current is off",
        "    current = weight_f * x\n",
        "    current = 0 * weight_f * x\n",
    ),
    Bug(
        "every tile reads the sources of the first",
        "delayed",
        "late",
        "spikes differ",
        "* TILE) + jt * TILE) * width",
        "* TILE) + 0 * jt * TILE) * width",
    ),
    Bug(
        "the past taken for zeros",
        "delayed",
        "late",
        "spikes differ",
        '"HAS_PAST": earlier is not None',
        '"HAS_PAST": False',
    ),
    Bug(
        "from first currents on, nothing comes from the neighbour",
        "delayed",
        "late",
        "spikes differ",
        "x = r * x + wf * before + wh * source",
        "x = r * x + wh * source",
    ),
    Bug(
        "the gradient of a step from the adjoint of the one after",
        "delayed",
        "late",
        "gradient of weight is off",
        "                a = decay * a + tl.expand_dims(g_t, 0)\n                sum_w0 += source * a\n",
        "                sum_w0 += source * a\n                a = decay * a + tl.expand_dims(g_t, 0)\n",
    ),
    Bug(
        "what is left of a delay has no part in the decay's gradient",
        "delayed",
        "late",
        "gradient of decay is off",
        "(w1 + decay * q1) + f * q1",
        "(w1 + decay * q1)",
    ),
    Bug(
        "the past has no part in the decay's gradient",
        "delayed",
        "late",
        "gradient of decay is off",
        "(current - tl.load(wh + at, mask=inside, other=0.0) * of_past)",
        "current",
    ),
    Bug(
        "the past has no part in the delay's gradient",
        "delayed",
        "late",
        "gradient of weight is off",
        "            sum_w1 += of_past * a\n            sum_q1 += of_past * q\n            state_at",
        "            state_at",
    ),
    Bug(
        "a delay's gradient with the other sign",
        "delayed",
        "late",
        "gradient of delay is off",
        "weight * (w1 - w0)",
        "weight * (w0 - w1)",
    ),
    Bug(
        "the inputs' gradient from steps before",
        "delayed",
        "late",
        "gradient of inputs is off",
        "packed(g, synapses.past, reverse=True)",
        "packed(g, synapses.past)",
    ),
    Bug(
        "in its own chunk a spike arrives a step early",
        "lags",
        "late",
        "gradient of inputs is off",
        "tl.where(steps == lag, weight_h, 0.0)",
        "tl.where(steps == lag + 1, weight_h, 0.0)",
    ),
    Bug(
        "in later chunks a spike arrives a step late",
        "lags",
        "late",
        "gradient of inputs is off",
        "late.rows[:, :n, end - before : end] =",
        "late.rows[:, :n, end - before + 1 : end + 1] =",
    ),
    Bug(
        "the adjoint goes through late synapses forwards",
        "lags",
        "late",
        "gradient of inputs is off",
        "_chunk(late.turned.split(),",
        "_chunk(late.split(),",
    ),
    Bug(
        "late synapses forget their first currents",
        "lags",
        "late",
        "v is off",
        '"FIRST": step + 1 == before, "HAS_CURRENT": initial is not None}',
        '"FIRST": step + 1 == before, "HAS_CURRENT": False}',
    ),
]

PLANTED = """
import importlib.util, pathlib, tempfile
import conftest, planting, pytest
from hetsyn_plugins.conformance import backends, cases, checks
from hetsyn_plugins.conformance.comparison import Tally, compare
from hetsyn_plugins.kernels.gpu import delayed, lags, neurons, recurrent, sequence, surrogates, synapses
import test_gpu
modules = delayed, lags, neurons, recurrent, surrogates, synapses
real = {module.__name__.rpartition(".")[2]: module for module in modules}

def late(backend):
    tally = Tally()
    for sizes, with_state in (((7, 1, 3, 35), False), ((5, 2, 3, 3), True)):
        options = {"sizes": sizes, "with_state": with_state, "with_gradients": True}
        compare(backend, backend.draw(1, "delays", "graded", **options), tally)
    return tally

checks.CHECKS["late"] = late
synapses.parts_bytes = lambda *sizes: 300  # slices, of the batch and of the sources
conftest.poison_empty(pytest.MonkeyPatch())
(gpu,) = [b for b in backends.available()[0] if b.name == "gpu"]
checks.EDGES = [(3, 2, 17, 130), (2, 5, 5, 40), (3, 2, 130, 2)]
small, long = checks.EDGES, [(8, 2, 33, 2), (7, 1, 5, 2)]  # of two chunks and a short one, and of one step
lags.STEPS = 3
nothing = test_gpu.BUGS[0]._replace(name="none", check="sizes", new=test_gpu.BUGS[0].old)
for index, bug in enumerate([nothing, *test_gpu.BUGS]):
    # a file of its own: Triton reads a kernel's source again
    path = pathlib.Path(tempfile.mkdtemp()) / f"planted_{index}.py"
    name = f"hetsyn_plugins.kernels.gpu.{bug.module}"
    path.write_text(planting.changed_text(name, bug.old, bug.new, times=bug.times))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    changed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(changed)
    for name, module in real.items():
        setattr(sequence, name, module)
    changed.parts_bytes, changed.STEPS = synapses.parts_bytes, lags.STEPS
    setattr(sequence, bug.module, changed)
    # bugs of large layers are found in small ones that are taken for large
    sequence.recurrent.MAX_NEURONS, checks.EDGES = (0, long) if bug.module == "lags" else (128, small)
    neurons.derivative_bwd = (changed if bug.module == "surrogates" else surrogates).derivative_bwd
    try:  # not by `verify`, which makes a failing case small: that takes most of the time
        result = checks.CHECKS[bug.check](gpu)
    except cases.Mismatch as mismatch:
        result = mismatch
    print(bug.name, "|", result)
"""


def test_planted_bugs_are_caught() -> None:
    none, *lines = python(PLANTED, TRITON_INTERPRET="1").splitlines()
    assert none.startswith("none | 6 cases")
    for bug, line in zip(BUGS, lines, strict=True):
        assert line.startswith(f"{bug.name} | ") and bug.says in line, line


ARGUMENTS = """
import collections, json, os, re, subprocess, tempfile
import triton
from triton.compiler import ASTSource
from hetsyn_plugins.kernels.gpu import codebook, delayed, lags, neurons, recurrent, silence, synapses

FLOATS, INTEGERS = {"first", "second"}, {"words", "counts", "code"}
POINTERS = "s u v r w p g z0 z1 J0 J1 A0 A1 L0 L1 gv gz gw gq gr rT wT pT gz0 aJ0 aJ1 aA0 aA1 theta kappa rho"
POINTERS += " initial final grad_final grad_initial grad_weight grad_decay grad_threshold parts bias out"
POINTERS += " adaptation_strength slots new x_all d k wh wf earlier packed gw0 gw1 gq1 grad_delay matrices"
POINTERS += " u_all x decays powers"

def kind_of(name, constants):
    if name in constants:
        return "constexpr"
    if name in INTEGERS:
        return "*i32"
    return "*fp32" if name in POINTERS.split() else "fp32" if name in FLOATS else "i32"

def signature(kernel, constants):
    names = kernel.arg_names
    constants = {p.name: False for p in kernel.params if p.is_constexpr} | constants
    return names, constants, {n: kind_of(n, constants) for n in names}
"""

TRITON_3 = """
from triton.backends.compiler import GPUTarget

TOOLS = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")

def build(kernel, registers=None, num_warps=1, **constants):
    names, constants, kinds = signature(kernel, constants)
    source = ASTSource(kernel, kinds, {(names.index(n),): v for n, v in constants.items()})
    options = {"num_warps": num_warps} | ({"maxnreg": registers} if registers else {})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = run("cuobjdump", "-res-usage", file.name)
        code = run("nvdisasm", "-c", file.name)
    registers, stack = map(int, re.search(r"REG:([0-9]+) STACK:([0-9]+)", usage).groups())
    given = [name if value is True else value for name, value in constants.items() if value is not False]
    name = " ".join(map(str, [kernel.__name__, *given]))
    print(json.dumps([name, registers, stack, *whole_and_inner_loops(code)]))

def run(tool, *arguments):
    return subprocess.run([os.path.join(TOOLS, tool), *arguments], capture_output=True, text=True, check=True).stdout

def whole_and_inner_loops(code):
    # how often each instruction stands in it, and in its loops that hold no other, those with many multiply-adds last
    instructions, labels, loops = [], {}, []
    for line in code.splitlines():
        if label := re.match(r"\\s*([.]L_x_[0-9]+):", line):
            labels[label.group(1)] = len(instructions)
        elif instruction := re.match(r"\\s*/[*][0-9a-f]+[*]/\\s+(?:@!?U?P[0-9T]+\\s+)?(.*?);", line):
            instructions.append(instruction.group(1))
    for end, text in enumerate(instructions):
        label = re.search(r"BRA.*`\\((.*)\\)", text)
        start = labels.get(label.group(1), end) if label else end
        if start < end and not any(start <= first for first, _ in loops):
            loops.append((start, end))
    loops.append((0, len(instructions)))
    counts = [collections.Counter(re.split("[ .]", text)[0] for text in instructions[a : b + 1]) for a, b in loops]
    return counts.pop(), sorted(counts, key=lambda c: c["FFMA"])
"""

TRITON_2 = """
done = set()

def build(kernel, registers=None, num_warps=1, **constants):
    if kernel.__name__ in done:
        return  # one of each
    done.add(kernel.__name__)
    names, constants, kinds = signature(kernel, constants)
    kinds = {names.index(n): kind for n, kind in kinds.items() if kind != "constexpr"}
    source = ASTSource(kernel, kinds, {names.index(n): v for n, v in constants.items()})
    try:
        triton.compile(source, target=("cuda", 90), options={"num_warps": num_warps})
    except AssertionError as error:
        if "libcuda.so" not in str(error):  # wanted for its launcher, once all is compiled
            raise
    print(kernel.__name__)
"""

BUILDS = """
for pairs in (False, True):
    for reverse in (False, True):
        flags = {"REVERSE": reverse, "NEEDS_FINAL": not reverse, "PAIRS": pairs, "TILE": synapses.TILE}
        build(synapses.currents_fwd, synapses.SCAN_REGISTERS, **flags)
build(synapses.currents_fwd, HAS_INITIAL=True, HAS_BIAS=True, NEEDS_FINAL=True, TILE=synapses.TILE)
build(synapses.currents_fwd, HAS_INITIAL=True, REVERSE=True, TILE=synapses.TILE)
tile = {"TILE_J": synapses.TILE, "TILE": synapses.TILE}
build(synapses.synapses_bwd, synapses.GRADIENT_REGISTERS, **tile)
build(synapses.synapses_bwd, synapses.GRADIENT_REGISTERS, HAS_GRAD_FINAL=True, **tile)
flags = {"HAS_INITIAL": True, "NEEDS_INITIAL": True, "HAS_GRAD_FINAL": True, "TILE_J": synapses.TILE // 2}
build(synapses.synapses_bwd, synapses.GRADIENT_REGISTERS, **flags, TILE=synapses.TILE)
ends, skips = {"HAS_INITIAL": True, "NEEDS_INITIAL": True, "HAS_GRAD_FINAL": True}, {"SKIPS": True}
tile = {"TILE_J": silence.TILE_J, "TILE": silence.TILE}
for flags in ({}, {"HAS_GRAD_FINAL": True}, ends):
    build(synapses.synapses_bwd, synapses.GRADIENT_REGISTERS, **skips, **flags, **tile)
build(silence.activity, num_warps=4, STEPS=silence.STEPS, TILES=silence.TILES, TILE_J=silence.TILE_J)
build(synapses.sum_parts, num_warps=4, ADDS=True, TILE=synapses.SUM_TILE)
build(synapses.transpose, num_warps=4, TILE=synapses.TILE)
build(synapses.sum_groups, num_warps=4, HAS_INITIAL=True, TILE=synapses.TILE)
neuron = {"HAS_RESET": True, "HAS_ADAPTATION": True}
ends = {"HAS_GV": True, "HAS_GZ": True, "HAS_AJ1": True, "HAS_AA1": True, "THROUGH_RESET": True}
build(neurons.neurons_fwd, HAS_INITIAL=True, **neuron, TILE=neurons.TILE)
for kind in ("given", "no_gradient", "multi_gaussian", "triangular", "arctan", "fast_sigmoid", "sigmoid"):
    build(neurons.neurons_bwd, **neuron, **ends, KIND=kind, TILE=neurons.TILE)
more = {"HAS_INITIAL": True, "HAS_AJ1": True, "HAS_AA1": True, "SPIKES": True}
build(neurons.soma_parameters_bwd, **neuron, **more, TILE=neurons.TILE)
for n in (5, 64, recurrent.MAX_NEURONS):
    build(recurrent.recurrent_fwd, HAS_RESET=True, **recurrent.compiled_for(n))
    build(recurrent.recurrent_fwd, HAS_INITIAL=True, HAS_CURRENT=True, **neuron, **recurrent.compiled_for(n))
    for final in (False, True):
        flags = neuron | ends | {"KIND": "multi_gaussian", "HAS_GRAD_FINAL": final}
        build(recurrent.recurrent_bwd, **flags, **recurrent.compiled_for(n))
chunk = {"TILE": lags.TILE}
for flags in ({}, {"FIRST": True}, {"FIRST": True, "HAS_GRAD_FINAL": True}, {"LAST": True}):
    build(lags.state_pass, **flags, **chunk)
for flags in ({"FIRST": True}, {}, {"LAST": True}):
    build(lags.state_pass, HAS_CURRENT=True, **flags, **chunk)
for flags in ({"FIRST": True, "HAS_CURRENT": True}, {}):
    build(lags.delayed_state_pass, **flags, **chunk)
build(lags.delayed_matrices, num_warps=4, **chunk)
build(delayed.split_delays, num_warps=4, TILE=delayed.TILE)
build(delayed.pack, num_warps=4, HAS_PAST=True, TILE=delayed.TILE)
tile = {"TILE": delayed.TILE}
build(delayed.delayed_fwd, HAS_BIAS=True, NEEDS_FINAL=True, AT_ONCE=delayed.AT_ONCE, **tile)
build(delayed.delayed_fwd, REVERSE=True, AT_ONCE=delayed.AT_ONCE, **tile)
build(delayed.delayed_fwd, HAS_BIAS=True, HAS_INITIAL=True, NEEDS_FINAL=True, AT_ONCE=1, **tile)
tile = {"AT_ONCE": delayed.AT_ONCE, "TILE_J": delayed.TILE_J, "TILE": delayed.TILE}
build(delayed.delayed_bwd, delayed.GRADIENT_REGISTERS, **tile)
build(delayed.delayed_bwd, HAS_INITIAL=True, **tile)
build(delayed.sum_delayed_groups, num_warps=4, HAS_INITIAL=True, TILE=delayed.TILE)
step = neuron | {"num_warps": lags.WARPS_STEP, "TILE": lags.TILE_STEP}
build(lags.lag_step_fwd, HAS_NEW=True, HAS_TRACES=True, **step)
build(lags.lag_step_bwd, HAS_NEW=True, HAS_TRACES=True, **step, **ends, KIND="multi_gaussian")
for first in (True, False):
    build(lags.lag_step_fwd, FIRST=first, HAS_NEW=not first, HAS_INITIAL=True, **step)
for flags in ({"FIRST": True}, {"HAS_NEW": True}, {"LAST": True}):
    build(lags.lag_step_bwd, **flags, **step, **ends, KIND="multi_gaussian")
tile = {"MAX_ENTRIES": codebook.MAX_ENTRIES, "TILE": lags.TILE_STEP}
build(codebook.first_currents_fwd, num_warps=lags.WARPS_STEP, **tile)
for current in (False, True):
    build(codebook.last_currents_fwd, num_warps=4, HAS_CURRENT=current, TILE=lags.TILE)
"""


# Longer than a screen: a third of it says where the figures come from.
def test_every_kernel_compiles_for_a_gpu_and_its_loop_is_arithmetic(tmp_path: Path) -> None:
    """To machine code for compute capability 9.0, with Triton's own assembler: no GPU is needed for that.

    What the prototypes' speed came from is visible there. No loop over time touches memory of a thread's own (LDL,
    STL), to which a state that fits no registers would go ("spills"). In those with synapses the sum over sources
    crosses no lanes (SHFL), sources are copied to shared memory ahead (LDGSTS), and there are few instructions beside
    the multiply-adds: with Triton 3.8 two rows of the scan are 200 with 126 multiply-adds, the gradients 193 with 128,
    both within the registers that 12 and 9 programs a multiprocessor leave; prototypes had 190 and 173.

    With delays a loop has three steps, in each of which a synapse loads one number. A row and step of the scan's 32
    sources are 153 instructions, 100 without delays; those of a gradient's 16 sources 133, and 193 for 32 without.

    Gradients that skip jump over half of theirs (a second BRA): where all is silent they are about 130 instructions,
    with 206 registers, as prototypes had 204. For a synapse both kinds have as many multiply-adds and products that
    join no sum: so both round alike.
    """
    if not hasattr(importlib.import_module("triton.language"), "range"):
        pytest.skip("Triton 2 compiles otherwise: the test below")
    lines = python(ARGUMENTS + TRITON_3 + BUILDS, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0").splitlines()
    kernels = list(map(json.loads, lines))
    found = {name: (registers, stack, loops) for name, registers, stack, _, loops in kernels}
    assert len(found) == len(lines) == 65
    for name, (registers, stack, loops) in found.items():
        assert registers <= 255, name
        assert not {"LDL", "STL"} & set().union(*loops), (name, stack, loops)
        if name.startswith(("currents_fwd", "synapses_bwd", "state_pass")):
            assert "SHFL" not in set().union(*loops) and "LDGSTS" in loops[-1], (name, loops)
        if name.startswith("synapses_bwd"):
            assert loops[-1]["BRA"] == 1 + ("SKIPS" in name), (name, loops)
        if name.startswith(("delayed_fwd", "delayed_bwd", "delayed_state_pass")):
            assert "SHFL" not in set().union(*loops), (name, loops)
    for name, registers, loads in (
        ("delayed_fwd HAS_BIAS NEEDS_FINAL 3 32", 255, 3 * 32),
        ("delayed_fwd REVERSE 3 32", 255, 3 * 32),
        ("delayed_bwd 3 16 32", 168, 3 * (16 + 1)),  # and one of dLoss/du
    ):
        loop = found[name][2][-1]
        assert found[name][0] <= registers and loop["LDG"] == loads, (name, found[name])
        assert sum(loop.values()) <= 1.8 * loop["FFMA"], (name, loop)
    for name, limit, ratio in (
        ("currents_fwd NEEDS_FINAL PAIRS 32", 168, 1.65),
        ("currents_fwd REVERSE PAIRS 32", 168, 1.75),
        ("synapses_bwd 32 32", 224, 1.6),
        ("synapses_bwd SKIPS 8 128", 208, 1.7),
        ("synapses_bwd SKIPS HAS_GRAD_FINAL 8 128", 224, 1.75),
        ("state_pass 32", 192, 2.3),
        ("state_pass FIRST HAS_GRAD_FINAL 32", 192, 2.3),
    ):
        registers, stack, loops = found[name]
        assert (registers <= limit, stack) == (True, 0), (name, registers, stack)
        assert sum(loops[-1].values()) <= ratio * loops[-1]["FFMA"], (name, loops)
    whole = {name: (counts.get("FFMA"), counts.get("FMUL", 0)) for name, _, _, counts, _ in kernels}
    ends = "HAS_INITIAL HAS_GRAD_FINAL NEEDS_INITIAL"
    assert whole["synapses_bwd SKIPS 8 128"] == whole["synapses_bwd 32 32"]
    assert whole["synapses_bwd SKIPS HAS_GRAD_FINAL 8 128"] == whole["synapses_bwd HAS_GRAD_FINAL 32 32"]
    of_half = whole[f"synapses_bwd {ends} 16 32"]
    assert whole[f"synapses_bwd SKIPS {ends} 8 128"] == (2 * of_half[0], 2 * of_half[1])


def test_every_kernel_compiles_with_triton_2(tmp_path: Path) -> None:
    """It knows no loop with stages, and no other name for a loop than `range`; how fast it is, nobody has measured."""
    if hasattr(importlib.import_module("triton.language"), "range"):
        pytest.skip("this is Triton 3: the test above")
    names = python(ARGUMENTS + TRITON_2 + BUILDS, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0").split()
    assert len(set(names)) == 23
    compiled = [path.stem for path in tmp_path.rglob("*.cubin")]
    assert sorted(compiled) == sorted(names)


# ---- how kernels are started


class Started:
    """What stands in the place of a kernel and of what becomes of it: notes how it is started."""

    arg_names = ("array", "size", "A", "B")

    def __init__(self) -> None:
        self.fn = self
        self.calls: list[Any] = []
        self.compiled: Started | None = None

    def __getitem__(self, grid: Any) -> Any:
        def start(*arguments: Any, **options: Any) -> Any:
            self.calls.append((grid, arguments, options))
            self.compiled = Started()
            return self.compiled

        return start


def test_a_compiled_kernel_is_kept_for_its_constants_and_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = importlib.import_module("hetsyn_plugins.kernels.gpu.launch")
    device = [0]
    monkeypatch.setattr(launch, "_KEPT", {})
    monkeypatch.setattr(launch, "KEEPS_COMPILED", True)
    monkeypatch.setattr(launch, "IS_TRITON_3", True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: device[0])
    kernel = Started()
    launch.launch(kernel, (3, 1, 1), "x", 5, registers=64, A=True, B=2)
    assert kernel.calls == [((3, 1, 1), ("x", 5), {"A": True, "B": 2, "num_warps": 1, "maxnreg": 64})]
    kept = kernel.compiled
    launch.launch(kernel, (4, 1, 1), "y", 6, registers=64, A=True, B=2)
    assert len(kernel.calls) == 1 and kept is not None
    of_other_order = Started()
    for _ in range(2):
        launch.launch(of_other_order, (3, 1, 1), "x", 5, B=2, A=True)
    assert of_other_order.compiled is not None
    assert of_other_order.compiled.calls == [((3, 1, 1), ("x", 5, True, 2), {})], "as the kernel has them"
    assert kept.calls == [((4, 1, 1), ("y", 6, True, 2), {})]
    changes: list[dict[str, Any]] = [{"A": False}, {"B": 3}, {"num_warps": 4}, {"registers": 32}]
    for compiled, change in enumerate(changes, start=2):
        launch.launch(kernel, (4, 1, 1), "y", 6, **{"registers": 64, "A": True, "B": 2} | change)
        assert len(kernel.calls) == compiled, change
    device[0] = 1
    launch.launch(kernel, (4, 1, 1), "y", 6, registers=64, A=True, B=2)
    assert len(kernel.calls) == 6 and len(kept.calls) == 1


def test_triton_looks_at_the_constants_of_a_kernel_only() -> None:
    """Else the key above would have to hold whatever else it compiles for: sizes, and how memory is aligned."""
    code = """
    from hetsyn_plugins.kernels.gpu import codebook, delayed, lags, neurons, recurrent, silence, synapses
    kernels = [synapses.currents_fwd, synapses.sum_parts, synapses.transpose, synapses.synapses_bwd]
    kernels += [synapses.sum_groups, neurons.neurons_fwd, neurons.neurons_bwd, neurons.soma_parameters_bwd]
    kernels += [silence.activity, recurrent.recurrent_fwd, recurrent.recurrent_bwd]
    kernels += [lags.state_pass, lags.lag_step_fwd, lags.lag_step_bwd]
    kernels += [delayed.split_delays, delayed.pack, delayed.delayed_fwd, delayed.delayed_bwd]
    kernels += [delayed.sum_delayed_groups, lags.delayed_state_pass, lags.delayed_matrices]
    kernels += [codebook.first_currents_fwd, codebook.last_currents_fwd]
    print(*[p.name for k in kernels for p in k.params if p.is_constexpr == p.do_not_specialize])
    """
    assert python(textwrap.dedent(code), TRITON_INTERPRET="0").strip() == ""


@pytest.mark.parametrize("batch", [1, 2, 3, 256, 70_000])
@pytest.mark.parametrize(("steps", "m", "n"), [(250, 700, 512), (1, 1, 1), (784, 700, 1024), (100_000, 5_000, 300)])
def test_the_parts_of_a_scan_are_bounded(steps: int, m: int, n: int, batch: int) -> None:
    """By inputs and result together, and 64 MB."""
    synapses = importlib.import_module("hetsyn_plugins.kernels.gpu.synapses")
    at_once, rows = synapses.slices(steps, batch, n, m)
    tiles = -(-m // synapses.TILE)
    assert 1 <= at_once <= min(tiles, 65_535) and 1 <= rows <= min(batch, 65_535)
    assert 4 * at_once * rows * steps * n <= 64 * 2**20 + 4 * steps * batch * (n + m)


def test_every_surrogate_of_ours_is_inside_the_kernels() -> None:
    surrogates = importlib.import_module("hetsyn_plugins.kernels.gpu.surrogates")
    ours = {c for c in vars(surrogate).values() if isinstance(c, type) and issubclass(c, surrogate.Surrogate)}
    assert set(surrogates.KINDS) == ours - {surrogate.Surrogate, surrogate.Foreign}
    assert surrogates.kind_of(surrogate.Triangular(0.5, 2.0)) == ("triangular", 0.5, 2.0)
    assert surrogates.kind_of(surrogate.MultiGaussian()) == ("multi_gaussian", 0.0, 0.0)


# of a step at T 250, B 256, M 700, N 512 (or 128 or 256, recurrent): what is started, in order
SCAN = ["currents_fwd", "sum_parts"]
SYNAPSES_BWD = ["transpose", "synapses_bwd", "sum_groups"]
LAGS = ["state_pass", *["step"] * 8] * 31 + ["state_pass", "step", "step"]
LATE_SCAN = ["delayed_fwd", "sum_parts"]
LATE_BWD = ["pack", "split_delays", "delayed_bwd", "sum_delayed_groups"]
LATE_LAGS = [name.replace("state_pass", "delayed_state_pass") for name in LAGS]
STEPS = {  # of N neurons, with delays of up to so many steps, and whether synapses share eight decays
    (512, 0, False): (["transpose", *SCAN * 8, "neurons_fwd"], ["neurons_bwd", *SYNAPSES_BWD, *SCAN * 8]),
    (256, 0, True): (
        ["transpose", *SCAN * 5, *["step"] * 250, "last_currents_fwd"],
        ["step", *["step"] * 250, *SYNAPSES_BWD, *SYNAPSES_BWD, *SCAN * 5],
    ),
    (256, 0, False): (
        ["transpose", *SCAN * 5, "transpose", *LAGS, "state_pass"],
        ["step", *LAGS, *SYNAPSES_BWD, *SYNAPSES_BWD, *SCAN * 5],
    ),
    (128, 0, True): (
        ["transpose", *SCAN * 3, "transpose", "recurrent_fwd"],
        ["recurrent_bwd", *SYNAPSES_BWD, *SYNAPSES_BWD, *SCAN * 3],
    ),
    (512, 30, False): (
        ["pack", "split_delays", *LATE_SCAN * 8, "neurons_fwd"],
        ["neurons_bwd", *LATE_BWD, "pack", "split_delays", *LATE_SCAN * 8],
    ),
    (128, 30, True): (
        ["pack", "split_delays", *LATE_SCAN * 3, "split_delays", "delayed_matrices", *LATE_LAGS, "delayed_state_pass"],
        ["split_delays", "delayed_matrices", "step", *LATE_LAGS, *LATE_BWD * 2, "pack", "split_delays", *LATE_SCAN * 3],
    ),
}


@pytest.mark.parametrize(("n", "past", "shares"), STEPS)
def test_a_step_starts_these_kernels_in_bounded_memory_and_waits_for_none(
    monkeypatch: pytest.MonkeyPatch, n: int, past: int, shares: bool
) -> None:
    """On tensors without memory, whose values nobody can read: what needs one fails, as in a CUDA graph."""
    names = ("launch", "codebook", "delayed", "lags", "neurons", "recurrent", "sequence", "synapses")
    files = {name: importlib.import_module(f"hetsyn_plugins.kernels.gpu.{name}") for name in names}
    started: list[str] = []

    def launch(kernel: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        started.append(re.sub("lag_step_.wd", "step", kernel.fn.__name__))
        assert max(grid[1:]) <= 65_535
        if started[-1] in ("currents_fwd", "delayed_fwd", "sum_groups", "sum_delayed_groups"):
            on_top = (arguments[1] if started[-1].endswith("fwd") else arguments[0]).nbytes
            assert on_top <= 64 * 2**20 + x.nbytes + 4 * steps * batch * n
        if started[-1] == "pack":  # up to 32 sources and steps more than there are
            lines = arguments[0].shape[2]
            assert arguments[2].nbytes <= 4 * batch * (lines + 31) * (steps + past + 4 + 31)

    for name in ("codebook", "delayed", "lags", "neurons", "recurrent", "synapses"):
        monkeypatch.setattr(files[name], "launch", launch)
    steps, batch, m = 250, 256, 700
    x, zero = torch.empty(steps, batch, m, device="meta"), zeros.zero(torch.float32, torch.device("meta"))
    weight, recurrent_weight, one = (torch.empty(*s, device="meta") for s in ((n, m), (n, n), (n,)))
    fields = (recurrent_weight, recurrent_weight) if n < 512 else (None, None)
    late = (weight, fields[0]) if past else (None, None)
    layer = LayerTensors(weight, weight[:, :1].expand(n, m), one, one, *fields, delay=late[0], recurrent_delay=late[1])
    if shares:
        layer = layer._replace(recurrent_decay_index=recurrent_weight.int(), codebook=one[:8])
    states = (zero.expand(batch, n, m), zero.expand(batch, n, n), *(zero.expand(batch, n) for _ in range(4)))
    states += (zero.expand(past, batch, m), zero.expand(past, batch, n)) if past else ()
    v, _ = files["sequence"].forward(x, layer, HetSynState(*states))
    forward, started = started, []
    gradients = OutputGradients(v, None, HetSynState(None))
    needs = NeedsGrad(inputs=True, weight=True, decay=True, delay=past > 0, recurrent_weight=n < 512)
    arguments = (x, layer, HetSynState(*states), v, gradients, surrogate.MultiGaussian(), False, needs)
    files["sequence"].backward(*arguments)
    assert (forward, started) == STEPS[n, past, shares]


SPLIT = """
import torch
from hetsyn_plugins.kernels import delays
from hetsyn_plugins.kernels.gpu import delayed
nan, inf = float("nan"), float("inf")
d = torch.tensor([[0.0, 0.25, 1.0, 2.5, 3.0, 2.9999998], [-7.0, -0.5, 3.5, 1e30, inf, nan]])
w, r = torch.full((2, 6), 2.0), torch.rand(2, 6)
split = delayed.Synapses(r, w, d, 3).split()
k, f = (x.T for x in delays.pieces(d[:1], 3))
print(torch.equal(split.steps[:, :1], k.float()), torch.equal(split.decay, r.T), split.steps[:, 1].tolist())
print(torch.equal(split.weight_f[:, :1], 2 * f), torch.equal(split.weight_h[:, :1], 2 * (1 - f)))
print(split.weight_f[5, 1].isnan().item(), split.weight_f[1, 1].item())
"""


def test_delays_that_nobody_has_looked_at_stay_inside_of_memory() -> None:
    """The longest is the end of a piece, as in torch; what no layer takes reads of the past; NaN comes out as NaN."""
    said = python(SPLIT, TRITON_INTERPRET="1").splitlines()
    assert said == ["True True [0.0, 0.0, 2.0, 2.0, 2.0, 0.0]", "True True", "True -1.0"]


def test_nothing_is_read_back_to_the_host() -> None:
    """A value that is waited for would break the capture of a step in a CUDA graph."""
    folder = Path(str(importlib.import_module("hetsyn_plugins.kernels.gpu").__file__)).parent
    for path in [*folder.glob("*.py"), folder.parent / "zeros.py"]:
        found = re.findall(r"[.](?:item|tolist|cpu|numpy|any|all|nonzero|synchronize)[(]", path.read_text())
        assert found == [], path.name


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
