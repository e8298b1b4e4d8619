"""Large recurrent layers with a codebook on a GPU, in Triton's interpreter; the reference in float64 is the judge."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_gpu import Bug, python

from hetsyn_plugins.conformance import cases
from hetsyn_plugins.conformance.cases import Backend
from hetsyn_plugins.conformance.comparison import Tally, compare
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.kernels.interface import LayerTensors

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux only")


@pytest.mark.parametrize(
    ("entries", "batch", "steps", "served"),
    [
        (16, 64, 9, True),
        (16, 63, 9, False),
        (17, 1000, 9, False),
        (16, 64, 8, False),  # a chunk of `lags.py`
        (1, 4, 9, True),
        (1, 3, 9, False),
        (None, 64, 9, False),
    ],
)
def test_few_decays_for_many_rows_and_steps(entries: int | None, batch: int, steps: int, served: bool) -> None:
    codebook: Any = importlib.import_module("hetsyn_plugins.kernels.gpu.codebook")
    some = torch.empty(129, 129, device="meta")
    layer = LayerTensors(some, some, recurrent_weight=some, recurrent_decay=some)
    if entries is not None:
        layer = layer._replace(recurrent_decay_index=some.int(), codebook=some[0, :entries])
    assert codebook.serves(steps, batch, layer) is served
    assert codebook.serves(steps, batch, layer._replace(recurrent_decay_index=None)) is False


# ---- in the interpreter


def _both_ends(rng: np.random.Generator, n: int, m: int) -> HetSynParams:
    drawn = cases.DRAWS["recurrent codebook"](rng, n, m)
    return drawn.replace(recurrent_decay=rng.choice([0.0, 0.6, 1.0], (n, n)), bias=rng.normal(0, 0.05, n))


def _one_decay(rng: np.random.Generator, n: int, m: int) -> HetSynParams:
    drawn = cases.DRAWS["recurrent codebook"](rng, n, m)
    return drawn.replace(decay=np.full((n, m), 0.7), recurrent_decay=np.full((n, n), 0.7), reset_decay=None)


def small(backend: Backend) -> Tally:
    """Small layers, to be taken for large ones: with a first state, through which gradients come; one step; K = 1."""
    cases.DRAWS |= {"both ends": _both_ends, "one decay": _one_decay}
    tally, state = Tally(), {"with_state": True, "through_state": True}
    for kind, sizes, options in (
        ("both ends", (5, 2, 5, 2), state),
        ("both ends", (4, 1, 35, 1), {"detach_reset": True}),
        ("both ends", (1, 2, 3, 2), state),
        ("one decay", (5, 2, 4, 2), {}),
    ):
        case = backend.draw(1, kind, "graded", sizes=sizes, with_gradients=True, **options)
        gradients = case.output_gradients
        assert gradients is not None
        if gradients.state is not None:  # that of the last currents would be for `lags.py`
            gradients = replace(gradients, state=gradients.state._replace(recurrent_current=None))
        compare(backend, replace(case, codebook=True, output_gradients=gradients), tally)
    return tally


START = """
import conftest, pytest, torch
from hetsyn_plugins.conformance import backends, cases, checks
from hetsyn_plugins.kernels.gpu import codebook, lags, recurrent, sequence
import test_gpu_codebook as here
conftest.poison_empty(pytest.MonkeyPatch())
(gpu,) = [b for b in backends.available()[0] if b.name == "gpu"]
"""

CONTRACT = """
# of the size for which they are taken, without the gradients' minutes: those are of small ones
used, product = [], torch.mm

def counted(of, name):
    return lambda *arguments: used.append(name) or of(*arguments)

def mm(*factors, out):
    used.append(torch.backends.cuda.matmul.allow_tf32)
    return product(*factors, out=out)

codebook.forward, codebook.backward = counted(codebook.forward, "forward"), counted(codebook.backward, "backward")
lags.backward = counted(lags.backward, "lags")
torch.mm = mm
torch.set_float32_matmul_precision("medium")
checks.SHARED = checks.SHARED[-1:]
print(checks.check_codebook(here.replace(gpu, gradients=False)).cases, used)
print(torch.get_float32_matmul_precision())
used.clear()
recurrent.MAX_NEURONS, codebook.serves = 0, lambda steps, batch, layer: layer.codebook is not None
print(here.small(gpu).cases, [name for name in used if name])
used.clear()
case = gpu.draw(1, "recurrent codebook", sizes=(4, 2, 5, 3), with_state=True, with_gradients=True, through_state=True)
here.compare(gpu, here.replace(case, codebook=True), here.Tally())
print([name for name in used if name])

# all sixteen decays, in no order, and a few of them nobody's
from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.interface import LayerTensors
torch.manual_seed(0)
n, batch, steps, decays = 9, 2, 6, torch.rand(16)
code = torch.randint(16, (n, n), dtype=torch.int32)
code[(code == 0) | (code == 7) | (code == 15)] = 3
one, w = torch.ones(n), torch.randn(n, n)
layer = LayerTensors(one[:, None], one[:, None] / 2, one / 2, one, w, decays[code.long()])
zero = HetSynState(torch.zeros(batch, n, 1), torch.zeros(batch, n, n), *torch.zeros(4, batch, n))
x = torch.rand(steps, batch, 1) * 2

def doubled(tensors):
    return type(tensors)(*(None if t is None else t.double() for t in tensors))

want, last = eager.forward(x.double(), doubled(layer), doubled(zero))
got, end = sequence.forward(x, layer._replace(recurrent_decay_index=code, codebook=decays), zero)
spikes = (want > 1).sum().item()
assert (got > 1).equal(want > 1) and 9 < spikes < 99, spikes
torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=1e-5)  # sums of up to 10 numbers below 8, 6 steps
torch.testing.assert_close(end.recurrent_current, last.recurrent_current.float(), rtol=1e-5, atol=1e-5)
"""


BUGS = [
    Bug(
        "all traces decay as the first",
        "lags",
        "small",
        "spikes differ",
        "tl.load(decays + entry) * tl.load(x_at",
        "tl.load(decays) * tl.load(x_at",
    ),
    Bug(
        "a synapse has the traces before its own as well",
        "codebook",
        "small",
        "spikes differ",
        "torch.where(code == entry, weight",
        "torch.where(code >= entry, weight",
    ),
    Bug(
        "codes of the synapse the other way",
        "codebook",
        "small",
        "spikes differ",
        "weight.T.contiguous(), code.T.contiguous()",
        "weight.T.contiguous(), code.contiguous()",
    ),
    Bug(
        "the first spikes are nobody's source",
        "codebook",
        "small",
        "spikes differ",
        "    if has_initial:\n",
        "    if not has_initial:\n",
    ),
    Bug(
        "the first currents do not decay",
        "codebook",
        "small",
        "spikes differ",
        "        h *= decay\n",
        "        h *= tl.where(decay > 0, 1.0, 0.0)\n",
    ),
    Bug(
        "the first currents of the synapse the other way",
        "codebook",
        "small",
        "spikes differ",
        "*sizes, **options)\n    return u_all",
        "*sizes[:-2], *sizes[:-3:-1], **options)\n    return u_all",
    ),
    Bug(
        "in the last currents the first have decayed a step less",
        "codebook",
        "small",
        "state.recurrent_current is off",
        "decays**steps",
        "decays ** (steps - 1)",
    ),
    Bug(
        "the last currents have spikes that arrive a step later",
        "codebook",
        "small",
        "state.recurrent_current is off",
        "len(decays) if t < steps - 1 else 0",
        "len(decays)",
    ),
    Bug(
        "the adjoint goes through synapses forwards",
        "codebook",
        "small",
        "gradient of inputs is off",
        "W = matrices(weight, code, len(decays))  #",
        "W = matrices(weight.T, code.T, len(decays))  #",
    ),
    Bug(
        "the adjoint stops before the first spikes",
        "codebook",
        "small",
        "gradient of state.reset is off",
        "for later, _ in pieces(steps, 1)",
        "for later, _ in pieces(steps - 1, 1)",
    ),
]

PLANTED = """
import importlib.util, pathlib, tempfile
import planting
nothing = here.BUGS[1]._replace(name="none", new=here.BUGS[1].old)
real = {"lags": lags, "codebook": codebook}
for index, bug in enumerate([nothing, *here.BUGS]):
    # a file of its own: Triton reads a kernel's source again
    path = pathlib.Path(tempfile.mkdtemp()) / f"planted_{index}.py"
    path.write_text(planting.changed_text(f"hetsyn_plugins.kernels.gpu.{bug.module}", bug.old, bug.new))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    changed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(changed)
    ours = real | {bug.module: changed}
    sequence.codebook = ours["codebook"]
    sequence.codebook.serves = lambda steps, batch, layer: layer.codebook is not None
    for name in ("lag_step_fwd", "lag_step_bwd"):
        setattr(ours["codebook"], name, getattr(ours["lags"], name))
    try:
        result = here.small(gpu)
    except cases.Mismatch as mismatch:
        result = mismatch
    print(bug.name, "|", result)
"""


def test_layers_with_a_codebook_keep_the_contract_and_planted_bugs_are_caught() -> None:
    lines = python(START + CONTRACT + PLANTED, TRITON_INTERPRET="1").splitlines()
    assert lines[:2] == [f"1 {['forward', *[False] * 9]}", "medium"], "a product a step, none in TF32"
    assert lines[2] == f"4 {['forward', 'backward'] * 4}"
    assert lines[3] == "['forward', 'lags']", "gradients of last currents"
    assert lines[4].startswith("none | 4 cases")
    for bug, line in zip(BUGS, lines[5:], strict=True):
        assert line.startswith(f"{bug.name} | ") and bug.says in line, line
