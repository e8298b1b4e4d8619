"""Bugs planted on purpose: each replaces a piece of real source text, runs, and must be caught by the check it names.

A module is executed anew from its changed text, under its own name but beside the real one, so the bug sits in the very
code that ships; a piece of text that is no longer there is an error, so that the list cannot rot.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from hetsyn_plugins.conformance import backends, cases, comparison
from hetsyn_plugins.conformance import checks as conformance
from hetsyn_plugins.conformance.cases import Backend


@dataclass(frozen=True)
class Bug:
    """In `module`, `old` (which must occur) becomes `new`; `check` must then fail for `backend`."""

    name: str
    backend: str
    check: str
    module: str
    old: str
    new: str


REFERENCE, EAGER, OPS = "hetsyn_plugins.core.reference", "hetsyn_plugins.kernels.eager", "hetsyn_plugins.ops.lif"
SURROGATE = "hetsyn_plugins.core.surrogate"
SNNTORCH, NORSE = "hetsyn_plugins.adapters.snntorch", "hetsyn_plugins.adapters.norse"
TRAINABLE = "hetsyn_plugins.ops.trainable"
CPU = "hetsyn_plugins.kernels.cpu.sequence"
CPU_COMMON, CPU_BATCH, CPU_NEURON, CPU_LAYOUT = (
    f"hetsyn_plugins.kernels.cpu.{part}" for part in ("soma", "batch_lanes", "neuron_lanes", "layout")
)

BUGS = [
    Bug("reference: >= for >", "reference", "hand-table", REFERENCE, "(v > p.threshold)", "(v >= p.threshold)"),
    Bug(
        "reference: decay after the input",
        "reference",
        "closed-forms",
        REFERENCE,
        "current = p.decay * state.current + p.weight * x[:, None, :]",
        "current = p.decay * (state.current + p.weight * x[:, None, :])",
    ),
    Bug(
        "reference: reset ignores the threshold",
        "reference",
        "hand-table",
        REFERENCE,
        "reset = p.reset_decay * state.reset + p.threshold * state.spikes",
        "reset = p.reset_decay * state.reset + state.spikes",
    ),
    Bug("eager: >= for >", "eager", "threshold", EAGER, "return (d > 0).to(d.dtype)", "return (d >= 0).to(d.dtype)"),
    Bug(
        "eager: output fires at the threshold",
        "eager",
        "threshold",
        EAGER,
        "torch.gt(v, threshold",
        "torch.ge(v, threshold",
    ),
    Bug(
        "eager: decay applied after the input",
        "eager",
        "random",
        EAGER,
        "torch.addcmul(p.decay * state.current, p.weight, x[:, None, :])",
        "p.decay * torch.addcmul(state.current, p.weight, x[:, None, :])",
    ),
    Bug(
        "eager: a 1 % leak",
        "eager",
        "thousand-steps",
        EAGER,
        "torch.addcmul(p.decay * state.current, p.weight",
        "torch.addcmul(0.99 * p.decay * state.current, p.weight",
    ),
    Bug(
        "eager: reset one step late",
        "eager",
        "special-cases",
        EAGER,
        "        v = v - reset\n",
        "        v = v - state.reset\n",
    ),
    Bug(
        "eager: reset decays the new spike too (order)",
        "eager",
        "hand-table",
        EAGER,
        "reset = q(p.reset_decay * state.reset + p.threshold * (z.detach() if detach_reset else z))",
        "reset = q(p.reset_decay * (state.reset + p.threshold * (z.detach() if detach_reset else z)))",
    ),
    Bug("eager: reset detached", "eager-step", "gradients", EAGER, "z.detach() if detach_reset else z", "z.detach()"),
    Bug(
        "eager: detach_reset ignored",
        "eager",
        "detached-reset",
        EAGER,
        'elif name == "adaptation" or not detach_reset:',
        "else:",
    ),
    Bug(
        "eager: adaptation detached with the reset",
        "eager",
        "detached-reset",
        EAGER,
        'elif name == "adaptation" or not detach_reset:',
        "elif not detach_reset:",
    ),
    Bug(
        "eager: recurrent spikes from the wrong side of u",
        "eager",
        "random",
        EAGER,
        "p.recurrent_weight, z[:, None, :])",
        "p.recurrent_weight, z[:, :, None])",
    ),
    Bug(
        "eager: recurrent weight transposed",
        "eager",
        "hand-table",
        EAGER,
        "state.recurrent_current, p.recurrent_weight,",
        "state.recurrent_current, p.recurrent_weight.T,",
    ),
    Bug("eager: adaptation not carried", "eager", "random", EAGER, "p.adaptation_decay * state.adaptation + ", ""),
    Bug("eager: adaptation has the wrong sign", "eager", "random", EAGER, "v = v - adaptation", "v = v + adaptation"),
    Bug("eager: bias filtered", "eager", "closed-forms", EAGER, "v = v + p.bias", "v = v + p.bias * 2"),
    Bug(
        "eager: the first state's currents are dropped",
        "eager",
        "states",
        EAGER,
        "    v = inputs.new_empty((*inputs.shape[:2], len(p.weight)))\n",
        "    v = inputs.new_empty((*inputs.shape[:2], len(p.weight)))\n"
        "    state = state._replace(current=torch.zeros_like(state.current))\n",
    ),
    Bug(
        "eager: the first state's spikes are dropped",
        "eager",
        "chunks",
        EAGER,
        "    v = inputs.new_empty((*inputs.shape[:2], len(p.weight)))\n",
        "    v = inputs.new_empty((*inputs.shape[:2], len(p.weight)))\n"
        "    state = state._replace(spikes=torch.zeros_like(state.spikes) if state.spikes is not None else None)\n",
    ),
    Bug(
        "eager: rows of a batch mixed",
        "eager",
        "rows",
        EAGER,
        "    v = current.sum(-1)\n",
        "    v = current.sum(-1) + 0.01 * current.sum((0, 2))\n",
    ),
    Bug(
        "eager: input one step late",
        "eager",
        "rows",
        EAGER,
        "    v = current.sum(-1)\n",
        "    v = state.current.sum(-1)\n",
    ),
    Bug(
        "eager: float32 inside a float64 run",
        "eager",
        "thousand-steps",
        EAGER,
        "    v = current.sum(-1)\n",
        "    current = current.float().to(current.dtype)\n    v = current.sum(-1)\n",
    ),
    Bug(
        "eager: half precision sums",
        "eager",
        "float32",
        EAGER,
        "    v = current.sum(-1)\n",
        "    v = current.bfloat16().sum(-1).to(current.dtype)\n",
    ),
    Bug(
        "ops: writes to the inputs",
        "eager",
        "arguments-kept",
        OPS,
        "    return inputs.to(dtype)\n",
        "    return inputs.detach().mul_(1.0 + 1e-15) + 0 * inputs\n",
    ),
    Bug(
        "ops: no gradient of the inputs",
        "eager",
        "gradients",
        OPS,
        "    return inputs.to(dtype)\n",
        "    return inputs.to(dtype).detach()\n",
    ),
    Bug("ops: a run of one step is skipped", "eager", "sizes", OPS, "if len(x) == 0:", "if len(x) <= 1:"),
    Bug(
        "ops: spikes of the state are those of the first step",
        "eager",
        "states",
        OPS,
        "None if spikes is None else spikes[-1]",
        "None if spikes is None else spikes[0]",
    ),
    Bug("ops: v of the state is not the last", "eager", "states", OPS, "last, v[-1])", "last, v[0])"),
    Bug(
        "backward: the adjoint is not decayed",
        "eager",
        "gradients",
        EAGER,
        "self.adjoint = self.decay * at_t",
        "self.adjoint = at_t",
    ),
    Bug(
        "backward: decay gradient one step late",
        "eager",
        "gradients",
        EAGER,
        "            current = torch.addcmul(self.decay * current, self.weight, s)\n            trace",
        "            trace",
    ),
    Bug("backward: reset path cut", "eager", "gradients", EAGER, "gz_before += (weight * at_t)[:, :, 0]", "pass"),
    Bug(
        "backward: recurrent path cut",
        "eager",
        "gradients",
        EAGER,
        'gz_before += torch.einsum("bnk,nk->bk", at_t, weight)',
        "pass",
    ),
    Bug(
        "backward: threshold only through the spike",
        "eager",
        "gradients",
        EAGER,
        'fired + g["threshold"] if "threshold" in g else fired',
        "fired",
    ),
    Bug(
        "backward: gradient of the returned current lost",
        "eager",
        "gradients",
        EAGER,
        "torch.zeros_like(start) if owed is None else owed.clone()",
        "torch.zeros_like(start)",
    ),
    Bug(
        "backward: what is owed is forgotten by the weights",
        "eager",
        "gradients",
        EAGER,
        "g_weight += (self.owed * trace).sum(0)",
        "pass",
    ),
    Bug(
        "backward: first state gets no gradient through its spikes",
        "eager",
        "state-gradients",
        EAGER,
        '"spikes": gz_first}',
        '"spikes": 0 * gz_first}',
    ),
    Bug(
        "backward: first current not counted in the decay's gradient",
        "eager",
        "state-gradients",
        EAGER,
        "current, trace, sensitivity = self.start,",
        "current, trace, sensitivity = torch.zeros_like(self.start),",
    ),
    Bug(
        "backward: bias gradient of the last step only",
        "eager",
        "float32-gradients",
        EAGER,
        'g["bias"] = gv.sum((0, 1))',
        'g["bias"] = gv[-1].sum(0)',
    ),
    Bug(
        "surrogate: triangular ignores the threshold",
        "eager",
        "surrogates",
        SURROGATE,
        "rest = 1 - abs(d) / (self.zeta * threshold)",
        "rest = 1 - abs(d) / self.zeta",
    ),
    Bug(
        "surrogate: multi-Gaussian of twice the width",
        "eager",
        "gradients",
        SURROGATE,
        "(0.5 * 1.15, 0.0, 0.5)",
        "(0.5 * 1.15, 0.0, 1.0)",
    ),
    # ---- adapters
    Bug(
        "snntorch: states are not carried from step to step",
        "snntorch-step",
        "random",
        SNNTORCH,
        "state=self._core_state(before, fields),\n            surrogate",
        "state=None,\n            surrogate",
    ),
    Bug(
        "snntorch: recurrence sees z[t] fired again, not the spikes given",
        "snntorch-step",
        "states",
        SNNTORCH,
        'self._ungraded(before["spk"], mem.dtype) if self.recurrent else',
        'torch.zeros_like(before["spk"]) if self.recurrent else',
    ),
    Bug(
        "snntorch: z[t-1] fires at the threshold",
        "snntorch-step",
        "threshold",
        SNNTORCH,
        "spikes: Tensor = self._used_surrogate(mem - theta, theta)",
        "spikes: Tensor = self._used_surrogate(mem - theta + 1e-30, theta)",
    ),
    Bug(
        "snntorch: z[t-1] with a surrogate as wide as 1, not as the threshold",
        "snntorch-step",
        "surrogates",
        SNNTORCH,
        "spikes: Tensor = self._used_surrogate(mem - theta, theta)",
        "spikes: Tensor = self._used_surrogate(mem - theta, torch.ones_like(theta))",
    ),
    Bug(
        "snntorch: ada is rst",
        "snntorch",
        "random",
        SNNTORCH,
        '"ada": state.adaptation,',
        '"ada": None if state.adaptation is None else rst,',
    ),
    Bug(
        "snntorch: the sequence ignores detach_reset",
        "snntorch",
        "detached-reset",
        SNNTORCH,
        '"surrogate": self._used_surrogate, "detach_reset": self.detach_reset}',
        '"surrogate": self._used_surrogate}',
    ),
    Bug(
        "snntorch: the default surrogate, whatever is given",
        "snntorch",
        "surrogates",
        SNNTORCH,
        'spike_grad=resolve(spike_grad, "spike_grad"),',
        "spike_grad=resolve(None),",
    ),
    Bug(
        "snntorch: threshold of from_params forgotten",
        "snntorch",
        "random",
        SNNTORCH,
        "threshold=params.threshold,",
        "threshold=1.0,",
    ),
    Bug(
        "trainable: half the gradient",
        "snntorch",
        "gradients",
        TRAINABLE,
        "return gradient.mask",
        "return 0.5 * gradient.mask",
    ),
    Bug(
        "trainable: decays rounded to float32",
        "norse",
        "thousand-steps",
        TRAINABLE,
        "return torch.tensor(np.array(array, np.float64), dtype=dtype)",
        "return torch.tensor(np.array(array, np.float32), dtype=dtype)",
    ),
    Bug(
        "norse: states are not carried from step to step",
        "norse-cell",
        "random",
        NORSE,
        "state=None if state is None else self.to_core(state),\n            surrogate",
        "state=None,\n            surrogate",
    ),
    Bug(
        "norse: the sequence starts anew",
        "norse",
        "chunks",
        NORSE,
        "core = None if state is None else self.to_core(state)",
        "core = None",
    ),
    Bug(
        "norse: reset and adaptation exchanged",
        "norse",
        "arguments-kept",
        NORSE,
        '"i_reset": "reset",\n    "i_adapt": "adaptation",',
        '"i_reset": "adaptation",\n    "i_adapt": "reset",',
    ),
    Bug(
        "norse: recurrent weights transposed",
        "norse",
        "random",
        NORSE,
        '"weight": self.input_weights, "recurrent_weight": weight}',
        '"weight": self.input_weights, "recurrent_weight": weight if weight is None else weight.T}',
    ),
    Bug(
        "norse: the returned state is not differentiable",
        "norse-cell",
        "state-gradients",
        NORSE,
        "values = {name: getattr(state, FIELDS[name]) for name in kind._fields}",
        "values = {n: None if (s := getattr(state, FIELDS[n])) is None else s.detach() for n in kind._fields}",
    ),
    # ---- the compiled kernels
    Bug(
        "cpu: a lane off by one in packing",
        "cpu-batch",
        "sizes",
        CPU_BATCH,
        "put(out, q + lane, get(x, p)), put(",
        "put(out, q + (lane + 1) % L, get(x, p)), put(",
    ),
    Bug(
        "cpu: an unwritten tail",
        "cpu-batch",
        "sizes",
        CPU_BATCH,
        "in range((width + 3) // 4):",
        "in range(width // 4):",
    ),
    Bug(
        "cpu: the last step of a chunk unwritten",
        "cpu-batch",
        "random",
        CPU_BATCH,
        "min(t0 + CHUNK, s",
        "min(t0 + CHUNK - 1, s",
    ),
    Bug("cpu: a missed decay in a tile", "cpu-batch", "random", CPU_BATCH, "fma(r10, x10, s0)", "add(x10, s0)"),
    Bug(
        "cpu: the last tile of a group forgotten",
        "cpu-batch",
        "gradients",
        CPU_BATCH,
        "min(jt0 + group, M // 4)",
        "min(jt0 + group, M // 4 - 1)",
    ),
    Bug(
        "cpu: gradients of the first block only",
        "cpu-batch",
        "sizes",
        CPU_BATCH,
        "for block in range(blocks):\n            for it",
        "for block in range(1):\n            for it",
    ),
    Bug(
        "cpu: blocks share their recurrent traces (a race)",
        "cpu-batch",
        "sizes",
        CPU_BATCH,
        "n0, x0 = block * N * L, block * N * N * L",
        "n0, x0 = block * N * L, 0",
    ),
    Bug(
        "cpu: a first state decays before it counts",
        "cpu-batch",
        "state-gradients",
        CPU_BATCH,
        "q = fma(decay, q, h)\n                    h = mul(decay, h)",
        "h = mul(decay, h)\n                    q = fma(decay, q, h)",
    ),
    Bug(
        "cpu: bias gradient of one lane",
        "cpu-batch",
        "sizes",
        CPU_LAYOUT,
        "self.lanes).sum((0, 2))",
        "self.lanes)[:, :, 0].sum(0)",
    ),
    Bug(
        "cpu: the last neuron's currents unwritten",
        "cpu-neuron",
        "states",
        CPU_NEURON,
        "for lane in range(min(L, neurons - i)):",
        "for lane in range(min(L, neurons - i) - 1):",
    ),
    Bug(
        "cpu: one source in four owes nothing",
        "cpu-neuron",
        "gradients",
        CPU_NEURON,
        "fma(load(w, e + 3 * N), a3, s3)",
        "s3",
    ),
    Bug(
        "cpu: decay gradient of the first row only",
        "cpu-neuron",
        "gradients",
        CPU_NEURON,
        "y0, y1, y2, y3 = fma(r0, y0, x0)",
        "y0, y1, y2, y3 = y0",
    ),
    Bug(
        "cpu: sources one line off",
        "cpu-neuron",
        "random",
        CPU_NEURON,
        "return (b * (rows // L) + k // L) * steps * L + k % L",
        "return (b * (rows // L) + k // L) * steps * L + (k + 1) % L",
    ),
    Bug(
        "cpu: recurrent gradients from z[t]",
        "cpu-neuron",
        "gradients",
        CPU_COMMON,
        "store(out, q, z)\n            z = above(load(v, q), th)",
        "z = above(load(v, q), th)\n            store(out, q, z)",
    ),
    Bug(
        "cpu: one side of the multi-Gaussian twice",
        "cpu-batch",
        "gradients",
        CPU_COMMON,
        "left, right = add(x, c4), sub(x, c4)",
        "left, right = add(x, c4), add(x, c4)",
    ),
    Bug(
        "cpu: the reset keeps its spike",
        "cpu-neuron",
        "random",
        CPU_COMMON,
        "J = fma(kp, J, mul(kk, z))\n            A",
        "J = fma(kp, add(J, mul(kk, z)), sub(A, A))\n            A",
    ),
]


def planted(bug: Bug) -> Backend:
    """The backend of the bug's name with the bug in it; skipped frameworks are the caller's business."""
    changed = _changed_modules(bug)
    run: dict[str, Callable[[cases.Case], cases.Outcome]] = {
        "reference": lambda case: _expected_by(changed[REFERENCE], _own(case, changed)),
        "eager": lambda case: backends.run_op(_own(case, changed), changed[OPS]),
        "eager-step": lambda case: backends.run_op_stepwise(_own(case, changed), changed[OPS]),
        "cpu-batch": lambda case: _with_kernels(changed, lambda: backends.run_cpu(case, "BatchLanes")),
        "cpu-neuron": lambda case: _with_kernels(changed, lambda: backends.run_cpu(case, "NeuronLanes")),
        "snntorch": lambda case: backends.run_snntorch(case, sequence=True, adapter=changed[SNNTORCH]),
        "snntorch-step": lambda case: backends.run_snntorch(case, sequence=False, adapter=changed[SNNTORCH]),
        "norse": lambda case: backends.run_norse(case, sequence=True, adapter=changed[NORSE]),
        "norse-cell": lambda case: backends.run_norse(case, sequence=False, adapter=changed[NORSE]),
    }
    return Backend(bug.backend, run[bug.backend], z_from_v=bug.backend.startswith("snntorch"))


# what has to be executed anew around a changed module, in the order of their imports
CORE = [SURROGATE, REFERENCE, EAGER, OPS]
KERNELS = [CPU_COMMON, CPU_BATCH, CPU_NEURON, CPU_LAYOUT, CPU]
REBUILT = {"cpu": KERNELS, "snntorch": [*CORE, TRAINABLE, SNNTORCH], "norse": [*CORE, TRAINABLE, NORSE]}


def _changed_modules(bug: Bug) -> dict[str, types.ModuleType]:
    """All modules from the changed one on, executed anew; sys.modules is left as it was."""
    needed = REBUILT.get(bug.backend.split("-")[0], CORE)
    kept = {name: import_module(name) for name in needed}
    fresh: dict[str, types.ModuleType] = {}
    try:
        for name in needed:
            source = Path(str(kept[name].__file__)).read_text()
            if name == bug.module:
                if bug.old not in source:
                    raise LookupError(f"{bug.name}: {bug.old!r} is not in {name} any more")
                source = source.replace(bug.old, bug.new)
            source = source.replace("cache=True", "cache=False")  # numba keeps what it compiles by file
            fresh[name] = module = types.ModuleType(name)
            module.__file__ = kept[name].__file__
            _put(name, module)
            exec(compile(source, f"<{bug.name}>", "exec"), module.__dict__)
    finally:
        for name, module in kept.items():
            _put(name, module)
    return fresh


def _with_kernels(changed: dict[str, types.ModuleType], run: Callable[[], cases.Outcome]) -> cases.Outcome:
    """Run with the changed kernels in the place of the real ones, which are looked up at each call."""
    kept = {name: import_module(name) for name in KERNELS}
    try:
        for name in KERNELS:
            _put(name, changed[name])
        return run()
    finally:
        for name, module in kept.items():
            _put(name, module)


def _put(name: str, module: types.ModuleType) -> None:
    """Make `module` what an import of `name` finds, as an entry and as an attribute of its package."""
    sys.modules[name] = module
    package, _, attribute = name.rpartition(".")
    setattr(sys.modules[package], attribute, module)


def _own(case: cases.Case, changed: dict[str, types.ModuleType]) -> cases.Case:
    """The case with its surrogate made by the changed module (its classes are executed anew too)."""
    name, values = type(case.surrogate).__name__, vars(case.surrogate)
    return dataclasses.replace(case, surrogate=getattr(changed[SURROGATE], name)(**values))


def _expected_by(reference: types.ModuleType, case: cases.Case) -> cases.Outcome:
    """What a changed reference says."""
    real, conformance.reference = conformance.reference, reference
    try:
        return comparison.expected(case)
    finally:
        conformance.reference = real
