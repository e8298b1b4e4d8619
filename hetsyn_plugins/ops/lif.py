"""The neuron as a torch op over a whole sequence: checks, autograd, choice of kernel.

`hetsyn_lif` mirrors `reference.run` argument by argument, `hetsyn_li` is the leaky readout, `hetsyn_lif_step` the
one-step form. Nothing of shape (T, B, N, M) is kept between forward and backward: memory is O(B T (N + M) + B N M).

dtypes: everything float32 or everything float64. Half inputs and weights (float16, bfloat16) run in float32 on the
rounded values, with decays and states in float32, and give half spikes and v. Under autocast any float is cast here.
bool and uint8 inputs count as 0/1 or counts. Other mixtures raise ValueError, as do mixed devices.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hetsyn_plugins.core.params import (
    ARRAYS,
    DECAYS,
    HetSynState,
    check_fields,
    check_inputs_shape,
    check_state,
    check_values,
    expand,
    full_shape,
    state_shapes,
)
from hetsyn_plugins.core.surrogate import Surrogate, resolve
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.cpu.threads import check_fork
from hetsyn_plugins.kernels.eager import Terms, differentiable_once

HALF = (torch.float16, torch.bfloat16)
MODULES = {"eager": "eager", "cpu": "cpu.sequence", "gpu": "gpu.sequence"}  # backend -> module in kernels/


class Choice(NamedTuple):
    """A backend and why it was chosen."""

    backend: str
    reason: str


def choose_backend(inputs: Tensor, weight: Tensor) -> Choice:
    """What backend="auto" takes for these tensors, and why."""
    device = weight.device.type
    if device == "cpu":
        missing = why_no_cpu_kernel()
        return Choice("eager", missing) if missing else Choice("cpu", "CPU tensors: the compiled kernel")
    if device != "cuda":
        return Choice("eager", f"there are kernels for cpu and cuda tensors, these are on {device}")
    if weight.dtype == torch.float64:
        return Choice("eager", "the gpu kernel is float32 only, these tensors are float64")
    missing = why_no_gpu_kernel()
    return Choice("eager", missing) if missing else Choice("gpu", "CUDA tensors: the Triton kernel")


@functools.cache
def why_no_cpu_kernel() -> str | None:
    """None where the cpu kernel works here; else what is wrong, said once as a warning too."""
    return _why_not("cpu", "numba")


@functools.cache
def why_no_gpu_kernel() -> str | None:
    """None where the gpu kernel can be loaded; else what is wrong, said once as a warning too."""
    return _why_not("gpu", "triton")


def _why_not(backend: str, library: str) -> str | None:
    try:
        kernel = importlib.import_module(f"hetsyn_plugins.kernels.{MODULES[backend]}")
        if backend == "gpu" and torch.cuda.is_available():
            kernel.trial()  # Triton imports where nothing can be compiled, or on a card that it does not know
    except Exception as error:  # many kinds: missing, broken, no place for a cache
        why = f"{type(error).__name__}: {error}"
        reason = f"the {backend} kernel needs {library}, which does not work here: {why}"
        warnings.warn(f"{reason}; backend='eager' is used instead", RuntimeWarning, stacklevel=5)
        return reason
    return None


def check_backend(backend: str) -> None:
    """Raise ValueError for a name that is no backend."""
    if backend not in ("auto", "eager", "cpu", "gpu"):
        raise ValueError(f"backend: expected 'auto', 'eager', 'cpu' or 'gpu', got {backend!r}")


def _kernel(backend: str, inputs: Tensor, weight: Tensor) -> ModuleType:
    """The module that computes a backend, or ValueError where it cannot run what it is given."""
    check_backend(backend)
    if backend == "auto":
        backend = choose_backend(inputs, weight).backend
    elif backend == "cpu":
        if weight.device.type != "cpu":
            raise ValueError(f"backend: expected CPU tensors for 'cpu', got {weight.device}; use 'auto' or 'eager'")
        if missing := why_no_cpu_kernel():
            raise ValueError(f"backend: 'cpu' cannot run, {missing}; use 'auto' or 'eager'")
    elif backend == "gpu":
        _check_gpu(weight)
    return importlib.import_module(f"hetsyn_plugins.kernels.{MODULES[backend]}")


def _check_gpu(weight: Tensor) -> None:
    if weight.dtype == torch.float64:
        raise ValueError("backend: expected float32 or half tensors for 'gpu', got float64; use 'auto' or 'eager'")
    if missing := why_no_gpu_kernel():
        raise ValueError(f"backend: 'gpu' cannot run, {missing}; use 'auto' or 'eager'")
    interpreted = importlib.import_module("hetsyn_plugins.kernels.gpu.sequence").interpreted()
    if weight.device.type != ("cpu" if interpreted else "cuda"):
        kind = "CPU tensors for 'gpu' in Triton's interpreter" if interpreted else "CUDA tensors for 'gpu'"
        raise ValueError(f"backend: expected {kind}, got {weight.device}; use 'auto' or 'eager'")


@torch.compiler.disable  # a clean graph break: the loop over time is the kernel's, not the compiler's
def hetsyn_lif(
    inputs: Tensor,
    weight: Tensor,
    decay: Tensor | float,
    *,
    reset_decay: Tensor | float | None,
    threshold: Tensor | float = 1.0,
    recurrent_weight: Tensor | None = None,
    recurrent_decay: Tensor | float | None = None,
    adaptation_decay: Tensor | float | None = None,
    adaptation_strength: Tensor | float | None = None,
    bias: Tensor | None = None,
    state: HetSynState | None = None,
    surrogate: Any = None,
    detach_reset: bool = False,
    backend: str = "auto",
    check: bool | None = None,
    called: Mapping[str, str] | None = None,
) -> tuple[Tensor, Tensor, HetSynState]:
    """A HetSynLIF layer over a sequence (Deng et al. 2025, Eqs. 2 to 5; equations in `reference.py`).

    inputs        (T, B, M), spikes or any graded values
    weight ... bias   shapes and units as in `params.py`: decays in [0, 1], (N, M) or shared; threshold > 0
    state         HetSynState of tensors from an earlier call, or None: zeros
    surrogate     a Surrogate, its name, or another library's spike function; None: the paper's multi-Gaussian
    detach_reset  no gradient through z in the reset current
    backend       "auto", "eager", "cpu" or "gpu" (`choose_backend` tells what "auto" takes, and why)
    check         look for NaN and infinity in inputs and for values out of range in parameters;
                  None: on the CPU
    called        what the caller's own arguments are called, for messages: "inputs", "state.reset", ... -> name

    Returns spikes (T, B, N), v (T, B, N) and the state after the last step, all differentiable once.
    Raises ValueError naming the argument, what was expected and what came.
    """
    given = {
        "weight": weight,
        "decay": decay,
        "reset_decay": reset_decay,
        "threshold": threshold,
        "recurrent_weight": recurrent_weight,
        "recurrent_decay": recurrent_decay,
        "adaptation_decay": adaptation_decay,
        "adaptation_strength": adaptation_strength,
        "bias": bias,
    }
    spikes, v, state = _run(inputs, given, True, state, resolve(surrogate), detach_reset, backend, check, called)
    assert spikes is not None  # only the readout has none
    return spikes, v, state


@torch.compiler.disable
def hetsyn_li(
    inputs: Tensor,
    weight: Tensor,
    decay: Tensor | float,
    *,
    bias: Tensor | None = None,
    state: HetSynState | None = None,
    backend: str = "auto",
    check: bool | None = None,
    called: Mapping[str, str] | None = None,
) -> tuple[Tensor, HetSynState]:
    """The leaky readout over a sequence: v[t] = sum_j I_ij[t] + b_i, no spike, no reset.

    Arguments as in `hetsyn_lif`. Returns v (T, B, N) and the state after the last step.
    """
    given = {**dict.fromkeys(ARRAYS), "weight": weight, "decay": decay, "threshold": 1.0, "bias": bias}
    _, v, state = _run(inputs, given, False, state, resolve(None), False, backend, check, called)
    return v, state


def hetsyn_lif_step(
    inputs: Tensor,
    weight: Tensor,
    decay: Tensor | float,
    *,
    reset_decay: Tensor | float | None,
    threshold: Tensor | float = 1.0,
    recurrent_weight: Tensor | None = None,
    recurrent_decay: Tensor | float | None = None,
    adaptation_decay: Tensor | float | None = None,
    adaptation_strength: Tensor | float | None = None,
    bias: Tensor | None = None,
    spiking: bool = True,
    state: HetSynState | None = None,
    surrogate: Any = None,
    detach_reset: bool = False,
    check: bool | None = False,
    quantise: Callable[[Tensor], Tensor] | None = None,
    called: Mapping[str, str] | None = None,
) -> HetSynState:
    """One step in native torch: inputs (B, M) and the state before it (None: zeros) give the state after it.

    Arguments as in `hetsyn_lif`; `spiking=False` is the readout; `quantise` is applied to every state. The state
    returned holds the output: `.spikes` and
    `.v`, (B, N), in the states' dtype. Autograd keeps the currents, (B, N, M), of every step: where the whole
    sequence is known, `hetsyn_lif` needs T times less.
    """
    given = {
        "weight": weight,
        "decay": decay,
        "reset_decay": reset_decay,
        "threshold": threshold,
        "recurrent_weight": recurrent_weight,
        "recurrent_decay": recurrent_decay,
        "adaptation_decay": adaptation_decay,
        "adaptation_strength": adaptation_strength,
        "bias": bias,
    }
    x, terms, start = prepare(inputs, given, spiking, state, check, called, one_step=True)
    with torch.autocast(x.device.type, enabled=False):
        return eager.step(x[0], start, terms, resolve(surrogate), detach_reset, quantise)


def _run(
    inputs: Tensor,
    given: dict[str, Any],
    spiking: bool,
    state: HetSynState | None,
    surrogate: Surrogate,
    detach_reset: bool,
    backend: str,
    check: bool | None,
    called: Mapping[str, str] | None,
) -> tuple[Tensor | None, Tensor, HetSynState]:
    check_fork()
    x, terms, start = prepare(inputs, given, spiking, state, check, called)
    kernel = _kernel(backend, inputs, given["weight"])
    spikes, v, end = _sequence(kernel, x, terms, start, surrogate, detach_reset)
    out = output_dtype(inputs, given["weight"])
    return (None if spikes is None else spikes.to(out)), v.to(out), end


def output_dtype(inputs: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of spikes and v: half for half inputs (for bool and uint8 inputs: half weights), else the weight's."""
    if inputs.dtype.is_floating_point and inputs.dtype in HALF:
        return inputs.dtype
    if inputs.dtype.is_floating_point and weight.dtype in HALF:  # under autocast
        return compute_dtype(weight)
    return weight.dtype


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of states, decays and arithmetic: float64 for float64 weights, else float32."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def prepare(
    inputs: Tensor,
    given: dict[str, Any],
    spiking: bool,
    state: HetSynState | None,
    check: bool | None,
    called: Mapping[str, str] | None = None,
    one_step: bool = False,
) -> tuple[Tensor, Terms, HetSynState]:
    """Check all arguments of a call; return inputs (T, B, M), expanded terms and first state in one dtype.

    one_step  the inputs given are (B, M): T = 1;  `called` as in `hetsyn_lif`
    """
    try:
        return _prepare(inputs, given, spiking, state, check, one_step)
    except ValueError as error:
        name, colon, rest = str(error).partition(":")
        if called is None or name not in called:
            raise
        raise ValueError(f"{called[name]}{colon}{rest}") from None


def _prepare(
    inputs: Tensor,
    given: dict[str, Any],
    spiking: bool,
    state: HetSynState | None,
    check: bool | None,
    one_step: bool,
) -> tuple[Tensor, Terms, HetSynState]:
    weight = given["weight"]
    for name, value in (("inputs", inputs), ("weight", weight)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}: expected a torch tensor, got {type(value).__name__}")
    if not weight.dtype.is_floating_point:
        raise ValueError(f"weight: expected a floating dtype, got {weight.dtype}")
    dtype, autocast = compute_dtype(weight), autocast_enabled(weight.device)
    tensors = {name: _as_tensor(name, value, weight, dtype, autocast) for name, value in given.items()}
    check_fields(tensors, spiking)
    if one_step:
        if inputs.ndim != 2 or inputs.shape[1] != weight.shape[1]:
            raise ValueError(f"inputs: expected shape (B, {weight.shape[1]}), one step, got {tuple(inputs.shape)}")
        inputs = inputs[None]
    check_inputs_shape(inputs, weight)
    x = _cast_inputs(inputs, weight, dtype, autocast)
    shapes = state_shapes(tensors, spiking, inputs.shape[1])
    if state is None:
        state = HetSynState(
            **{k: None if s is None else weight.new_zeros((), dtype=dtype).expand(s) for k, s in shapes.items()}
        )
    else:
        _check_state_tensors(state, shapes, weight, dtype)
    if check or (check is None and weight.device.type == "cpu"):
        check_values({name: None if t is None else _plain(t) for name, t in tensors.items()})
        _check_finite(x, "inputs")
    if not spiking:
        tensors["threshold"] = None
    full = {k: None if t is None else expand(k, t, full_shape(k, weight)).to(dtype) for k, t in tensors.items()}
    return x, Terms(**full), state  # type: ignore[arg-type]  # weight and decay are never None


def _plain(t: Tensor) -> Any:
    """What a check reads: NumPy for CPU tensors, since torch's threads would spin on into the kernel's first part."""
    t = t.detach()
    return t if t.device.type != "cpu" else (t.float() if t.dtype in HALF else t).numpy()


def check_inputs(x: Tensor, name: str = "inputs") -> None:
    """Raise ValueError for NaN or infinity in a whole sequence on the CPU: for layers that then go step by step.

    As for a sequence with check=None, nothing is looked at on other devices, nor under torch.compile.
    """
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_finite(x.detach(), name)


def _check_finite(x: Tensor, name: str) -> None:
    """Raise ValueError for NaN or infinity: one of them makes the sum so, which is one pass and no copy."""
    plain = _plain(x)
    with np.errstate(all="ignore"):
        if np.isfinite(float(plain.sum())):
            return
    wrong = int((~torch.isfinite(x)).sum())
    if wrong:
        raise ValueError(f"{name}: expected finite values, got {wrong} NaN or infinite")


def _autocast_takes_a_device() -> bool:
    try:
        ask: Any = torch.is_autocast_enabled  # its argument came with torch 2.4
        ask("cpu")
        return True
    except TypeError:
        return False


# asked once, here: torch.compile cannot trace the question where it raises
_AUTOCAST_TAKES_A_DEVICE = _autocast_takes_a_device()


def autocast_enabled(device: torch.device) -> bool:
    """Is autocast on for this device? Before torch 2.4 the question had one function a device."""
    if _AUTOCAST_TAKES_A_DEVICE:
        ask: Any = torch.is_autocast_enabled
        enabled: bool = ask(device.type)
        return enabled
    return torch.is_autocast_cpu_enabled() if device.type == "cpu" else torch.is_autocast_enabled()


def _as_tensor(name: str, value: Any, weight: Tensor, dtype: torch.dtype, autocast: bool) -> Tensor | None:
    if value is None:
        return None
    if not isinstance(value, Tensor):
        try:
            return torch.tensor(value, dtype=dtype, device=weight.device)
        except (TypeError, ValueError, RuntimeError):
            hint = ": draw from an initialiser once, with its shape" if callable(value) else ""
            raise ValueError(f"{name}: expected a number or a torch tensor, got {type(value).__name__}{hint}") from None
    if value.device != weight.device:
        raise ValueError(f"{name}: expected on the weight's device, {weight.device}, got {value.device}")
    allowed = {dtype} if name in DECAYS else {dtype, weight.dtype}
    if value.dtype not in allowed and not (autocast and value.dtype.is_floating_point and name not in DECAYS):
        names = " or ".join(sorted(str(d) for d in allowed))
        raise ValueError(f"{name}: expected {names} beside a weight of {weight.dtype}, got {value.dtype}")
    return value


def _cast_inputs(inputs: Tensor, weight: Tensor, dtype: torch.dtype, autocast: bool) -> Tensor:
    if inputs.device != weight.device:
        raise ValueError(f"inputs: expected on the weight's device, {weight.device}, got {inputs.device}")
    counts = inputs.dtype in (torch.bool, torch.uint8)
    if not counts and inputs.dtype != weight.dtype and not (autocast and inputs.dtype.is_floating_point):
        raise ValueError(f"inputs: expected the weight's dtype, {weight.dtype}, or bool or uint8, got {inputs.dtype}")
    return inputs.to(dtype)


def _check_state_tensors(state: Any, shapes: dict[str, Any], weight: Tensor, dtype: torch.dtype) -> None:
    if isinstance(state, HetSynState):
        for name, value in state._asdict().items():
            if value is not None and not isinstance(value, Tensor):
                raise ValueError(f"state.{name}: expected a torch tensor, got {type(value).__name__}")
    check_state(state, shapes)
    for name, value in state._asdict().items():
        if value is not None and (value.dtype != dtype or value.device != weight.device):
            came = f"{value.dtype} on {value.device}"
            raise ValueError(f"state.{name}: expected {dtype} on {weight.device}, got {came}")


def _sequence(
    kernel: ModuleType, x: Tensor, terms: Terms, start: HetSynState, surrogate: Surrogate, detach_reset: bool
) -> tuple[Tensor | None, Tensor, HetSynState]:
    """Spikes and v of every step and the last state; the spikes and v of a state are those of its last step."""
    if len(x) == 0:
        v = x.new_zeros((0, x.shape[1], len(terms.weight)))
        return (None if terms.threshold is None else v.clone()), v, start
    with torch.autocast(x.device.type, enabled=False):
        spikes, v, *currents = Sequence.apply(kernel, surrogate, detach_reset, x, *terms, *start)
    current, recurrent, reset, adaptation = currents
    last = None if spikes is None else spikes[-1]
    return spikes, v, HetSynState(current, recurrent, reset, adaptation, last, v[-1])


class Sequence(torch.autograd.Function):
    """A whole sequence as one node of the graph; its backward recomputes what it needs (see the kernels)."""

    @staticmethod
    def forward(
        ctx: Any, kernel: ModuleType, surrogate: Surrogate, detach_reset: bool, inputs: Tensor, *rest: Tensor | None
    ) -> Any:
        terms, start = Terms(*rest[: len(Terms._fields)]), HetSynState(*rest[len(Terms._fields) :])  # type: ignore[arg-type]
        v, end = kernel.forward(inputs, terms, start, surrogate)
        ctx.kernel, ctx.surrogate, ctx.detach_reset = kernel, surrogate, detach_reset
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs, v, *rest)
        spikes = None if terms.threshold is None else kernel.fire(v, terms.threshold)
        return spikes, v, *end[:4]

    @staticmethod
    @differentiable_once("hetsyn_lif / hetsyn_li")
    def backward(ctx: Any, owed_spikes: Tensor | None, owed_v: Tensor | None, *owed: Tensor | None) -> Any:
        inputs, v, *rest = ctx.saved_tensors
        cut = len(Terms._fields)
        terms, start = Terms(*rest[:cut]), HetSynState(*rest[cut:])
        _, _, _, wants_inputs, *wants = ctx.needs_input_grad
        wanted = eager.Gradients(wants_inputs, Terms(*wants[:cut]), HetSynState(*wants[cut:]))
        g = ctx.kernel.backward(
            inputs,
            terms,
            start,
            v,
            owed_spikes,
            owed_v,
            HetSynState(*owed),
            ctx.surrogate,
            ctx.detach_reset,
            wanted,
        )
        found = (g.inputs, *g.terms, *g.state)
        return None, None, None, *(x if want else None for x, want in zip(found, ctx.needs_input_grad[3:], strict=True))
