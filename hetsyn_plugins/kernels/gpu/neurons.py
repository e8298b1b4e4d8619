"""What a neuron does for itself on a GPU, forwards and backwards: reset, adaptation, spikes; Triton, float32.

    u           summed synaptic currents                     v = u - J - A     membrane
    z, J, A     spikes, reset and adaptation current         ...0, ...1    before the first step, after the last
    theta, reset_strength, kappa      threshold, what a spike adds to J (theta, or 0 without reset), decay of J
    adaptation_strength, rho          what a spike adds to A, decay of A
    g           dLoss/dv                                     gv, gz        what of dLoss/dv, dLoss/dz comes from outside
    aJ, aA      dLoss/dJ, dLoss/dA
    XJ, XA      dJ/d(reset_strength), dA/d(adaptation_strength)            SJ, SA    dJ/dkappa, dA/drho

Sequences are (T, B, N), states (B, N), what a neuron has once (N,). `soma_fwd` is a step, `soma_bwd` its adjoint; both
are inlined where they are called. Whatever a layer does not have, its flag (HAS_...) says so, and it is not read.

No kernel reads a number that it writes: several warps hold a tensor of fewer numbers than threads, and one of them
could otherwise load what another has stored already.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.kernels.gpu.launch import HAS_STAGES, cells, kernel, launch, or_any, staged_range
from hetsyn_plugins.kernels.gpu.surrogates import GIVEN, derivative_bwd, kind_of
from hetsyn_plugins.kernels.interface import LayerTensors, OutputGradients
from hetsyn_plugins.kernels.zeros import is_zero

TILE = 64  # neurons of a program, two a lane of one warp


if HAS_STAGES:
    range = staged_range


# ---- kernels


@triton.jit
def soma_fwd(u, z, J, A, theta, reset_strength, kappa, adaptation_strength, rho):
    """One step of some neurons: v, and z, J, A after it, from those before it."""
    J = kappa * J + reset_strength * z
    A = rho * A + adaptation_strength * z
    v = u - J - A
    return v, tl.where(v > theta, 1.0, 0.0), J, A


@triton.jit
def soma_bwd(g, aJ, aA, reset_strength, kappa, adaptation_strength, rho):
    """The adjoint of a step with dLoss/dv = g: dLoss/dz of the step before, by way of J and A, and aJ, aA there."""
    aJ, aA = aJ - g, aA - g
    return reset_strength * aJ + adaptation_strength * aA, kappa * aJ, rho * aA


@triton.jit
def load_if(x, at, inside, HAS: tl.constexpr):
    """x at `at`, or zeros where there is no x."""
    out = (at * 0).to(tl.float32)
    if HAS:
        out += tl.load(x + at, mask=inside, other=0.0)
    return out


# long: a line for every argument and every load, as Triton wants them
@kernel
def neurons_fwd(
    u,
    v,
    z0,
    J0,
    A0,
    z1,
    J1,
    A1,
    theta,
    kappa,
    adaptation_strength,
    rho,
    T,
    B,
    N,
    HAS_RESET: tl.constexpr,
    HAS_ADAPTATION: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    TILE: tl.constexpr,
):
    """v of u, from the first z0, J0, A0 to the last z1, J1, A1."""
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside, e = i < N, b * N + i
    theta_i = tl.load(theta + i, mask=inside, other=1.0)
    reset_i, kappa_i = load_if(theta, i, inside, HAS_RESET), load_if(kappa, i, inside, HAS_RESET)
    adapt_i = load_if(adaptation_strength, i, inside, HAS_ADAPTATION)
    rho_i = load_if(rho, i, inside, HAS_ADAPTATION)
    z = load_if(z0, e, inside, HAS_INITIAL)
    J, A = load_if(J0, e, inside, HAS_INITIAL & HAS_RESET), load_if(A0, e, inside, HAS_INITIAL & HAS_ADAPTATION)
    # where to write moves along: computed from t, the place would be carried through all stages of the loop
    u_at, v_at, row_step = u + e, v + e, B.to(tl.int64) * N
    for t in range(0, T, num_stages=8):
        u_t = tl.load(u_at + t * row_step, mask=inside, other=0.0)
        v_t, z, J, A = soma_fwd(u_t, z, J, A, theta_i, reset_i, kappa_i, adapt_i, rho_i)
        tl.store(v_at, v_t, mask=inside)
        v_at += row_step
    tl.store(z1 + e, z, mask=inside)
    if HAS_RESET:
        tl.store(J1 + e, J, mask=inside)
    if HAS_ADAPTATION:
        tl.store(A1 + e, A, mask=inside)


# long: a line for every argument and every load, as Triton wants them
@kernel
def neurons_bwd(
    gv,
    gz,
    v,
    g,
    gz0,
    aJ1,
    aA1,
    aJ0,
    aA0,
    grad_threshold,
    theta,
    kappa,
    adaptation_strength,
    rho,
    first,
    second,
    T,
    B,
    N,
    HAS_GV: tl.constexpr,
    HAS_GZ: tl.constexpr,
    HAS_AJ1: tl.constexpr,
    HAS_AA1: tl.constexpr,
    HAS_RESET: tl.constexpr,
    THROUGH_RESET: tl.constexpr,
    HAS_ADAPTATION: tl.constexpr,
    KIND: tl.constexpr,
    TILE: tl.constexpr,
):
    """g = dLoss/dv: g[t] = gv[t] + d[t] (gz[t] + reset_strength aJ + adaptation_strength aA).

    d is the surrogate's derivative, of KIND and its parameters, at v; KIND "given": v is d. aJ1, aA1 are the gradients
    of the last J and A; gz0, aJ0, aA0 get those of the first z, J and A, `grad_threshold` (B, N) gets -sum_t d (...),
    the part of the threshold's that comes through z. Without THROUGH_RESET nothing goes back to z through J.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside, e = i < N, b * N + i
    theta_i = tl.load(theta + i, mask=inside, other=1.0)
    reset_i, kappa_i = load_if(theta, i, inside, THROUGH_RESET), load_if(kappa, i, inside, HAS_RESET)
    adapt_i = load_if(adaptation_strength, i, inside, HAS_ADAPTATION)
    rho_i = load_if(rho, i, inside, HAS_ADAPTATION)
    aJ, aA = load_if(aJ1, e, inside, HAS_AJ1), load_if(aA1, e, inside, HAS_AA1)
    grad_z_prev, through_z = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    row_step = B.to(tl.int64) * N
    g_at = g + (T - 1) * row_step + e
    for step in range(0, T, num_stages=8):
        q = (T - 1 - step) * row_step
        d = derivative_bwd(tl.load(v + q + e, mask=inside, other=0.0), theta_i, first, second, KIND)
        grad_z_d = (load_if(gz + q, e, inside, HAS_GZ) + grad_z_prev) * d
        g_t = load_if(gv + q, e, inside, HAS_GV) + grad_z_d
        through_z -= grad_z_d
        tl.store(g_at, g_t, mask=inside)
        g_at -= row_step
        grad_z_prev, aJ, aA = soma_bwd(g_t, aJ, aA, reset_i, kappa_i, adapt_i, rho_i)
    tl.store(gz0 + e, grad_z_prev, mask=inside)
    tl.store(grad_threshold + e, through_z, mask=inside)
    if HAS_RESET:
        tl.store(aJ0 + e, aJ, mask=inside)
    if HAS_ADAPTATION:
        tl.store(aA0 + e, aA, mask=inside)


# long: a line for every argument and every load, as Triton wants them
@kernel
def soma_parameters_bwd(
    v,
    g,
    z0,
    J0,
    A0,
    aJ1,
    aA1,
    theta,
    kappa,
    adaptation_strength,
    rho,
    out,
    T,
    B,
    N,
    HAS_INITIAL: tl.constexpr,
    HAS_AJ1: tl.constexpr,
    HAS_AA1: tl.constexpr,
    SPIKES: tl.constexpr,
    HAS_RESET: tl.constexpr,
    HAS_ADAPTATION: tl.constexpr,
    TILE: tl.constexpr,
):
    """out (5, B, N): gradients of reset_strength, kappa, adaptation_strength, rho and bias of every row.

    z0, J0, A0 are the first state, aJ1, aA1 the gradients of the last J and A. Without SPIKES: bias alone.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside, e = i < N, b * N + i
    theta_i = load_if(theta, i, inside, SPIKES)
    reset_i, kappa_i = load_if(theta, i, inside, HAS_RESET), load_if(kappa, i, inside, HAS_RESET)
    adapt_i = load_if(adaptation_strength, i, inside, HAS_ADAPTATION)
    rho_i = load_if(rho, i, inside, HAS_ADAPTATION)
    z = load_if(z0, e, inside, HAS_INITIAL)
    J, A = load_if(J0, e, inside, HAS_INITIAL & HAS_RESET), load_if(A0, e, inside, HAS_INITIAL & HAS_ADAPTATION)
    zero = tl.zeros((TILE,), tl.float32)
    XJ, XA, SJ, SA = zero, zero, zero, zero
    g_reset, g_kappa, g_adapt, g_rho, g_bias = zero, zero, zero, zero, zero
    row_step = B.to(tl.int64) * N
    for t in range(0, T, num_stages=8):
        q = t * row_step + e
        SJ, SA = kappa_i * SJ + J, rho_i * SA + A
        XJ, XA = kappa_i * XJ + z, rho_i * XA + z
        _, _, J, A = soma_fwd(zero, z, J, A, theta_i, reset_i, kappa_i, adapt_i, rho_i)
        g_t = tl.load(g + q, mask=inside, other=0.0)
        g_bias += g_t
        g_reset, g_kappa = g_reset - g_t * XJ, g_kappa - g_t * SJ
        g_adapt, g_rho = g_adapt - g_t * XA, g_rho - g_t * SA
        z = tl.where(load_if(v, q, inside, SPIKES) > theta_i, 1.0, 0.0)
    aJ, aA = load_if(aJ1, e, inside, HAS_AJ1), load_if(aA1, e, inside, HAS_AA1)
    tl.store(out + e, g_reset + aJ * XJ, mask=inside)
    tl.store(out + (1 * B + b) * N + i, g_kappa + aJ * SJ, mask=inside)
    tl.store(out + (2 * B + b) * N + i, g_adapt + aA * XA, mask=inside)
    tl.store(out + (3 * B + b) * N + i, g_rho + aA * SA, mask=inside)
    tl.store(out + (4 * B + b) * N + i, g_bias, mask=inside)


# ---- their order


def soma(layer: LayerTensors) -> tuple[tuple[Tensor, ...], dict[str, bool]]:
    """theta, kappa, adaptation_strength, rho of a spiking layer, and the flags that say which of them there are."""
    theta = layer.threshold if layer.threshold is not None else layer.weight
    fields = (theta, layer.reset_decay, layer.adaptation_strength, layer.adaptation_decay)
    flags = {"HAS_RESET": layer.reset_decay is not None, "HAS_ADAPTATION": layer.adaptation_decay is not None}
    return tuple(or_any(x, theta).contiguous() for x in fields), flags


def initial_states(state: HetSynState, like: Tensor) -> tuple[tuple[Tensor, ...], bool]:
    """z, J and A before the first step, and whether there are any but zeros."""
    parts = (state.spikes, state.reset, state.adaptation)
    if all(map(is_zero, parts)):
        return (like, like, like), False
    return tuple(or_any(x, like).contiguous() for x in parts), True


def memory_for(like: Tensor, flags: dict[str, bool]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Memory (B, N) for z, J, A or their gradients, as far as the layer has them, for sequences (T, B, N)."""
    z = torch.empty_like(like[0])
    J = torch.empty_like(z) if flags["HAS_RESET"] else None
    return z, J, torch.empty_like(z) if flags["HAS_ADAPTATION"] else None


def forward(u: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, tuple[Any, ...]]:
    """v of u (T, B, N), and the last z, J, A."""
    (steps, batch, n), v = u.shape, torch.empty_like(u)
    arrays, flags = soma(layer)
    initial, has_initial = initial_states(state, u)
    final = memory_for(u, flags)
    outputs = (or_any(x, u) for x in final)
    flags["HAS_INITIAL"] = has_initial
    grid = (batch, cells(n, TILE), 1)
    launch(neurons_fwd, grid, u, v, *initial, *outputs, *arrays, steps, batch, n, **flags, TILE=TILE)
    return v, final


class Backwards(NamedTuple):
    """The arguments of a kernel that goes backwards through the neurons, and what it writes."""

    sequences: tuple[Tensor, ...]  # gv, gz, v or d, g
    states: tuple[Tensor, ...]  # gz0, aJ1, aA1, aJ0, aA0, grad_threshold
    soma: tuple[Any, ...]  # theta, kappa, adaptation_strength, rho, parameters of the surrogate
    flags: dict[str, Any]
    grads_initial: dict[str, Tensor]

    @property
    def g(self) -> Tensor:
        """dLoss/dv (T, B, N)."""
        return self.sequences[3]

    @property
    def grad_threshold(self) -> Tensor:
        """The threshold's gradient through the spikes, of every row: (B, N)."""
        return self.states[5]


def backwards(
    v: Tensor, layer: LayerTensors, gradients: OutputGradients, surrogate: Surrogate, detach_reset: bool
) -> Backwards:
    """What `neurons_bwd` and `recurrent_bwd` are given."""
    arrays, has = soma(layer)
    kind, *parameters = kind_of(surrogate)
    if kind == GIVEN:
        v = surrogate.derivative(v - layer.threshold, layer.threshold)
    final, v = gradients.state, v.contiguous()
    z, J, A = memory_for(v, has)
    ends = (final.reset, final.adaptation)
    given = {"HAS_GV": gradients.v, "HAS_GZ": gradients.spikes, "HAS_AJ1": final.reset, "HAS_AA1": final.adaptation}
    flags: dict[str, Any] = {name: x is not None for name, x in given.items()}
    flags |= has | {"THROUGH_RESET": has["HAS_RESET"] and not detach_reset, "KIND": kind}
    sequences = (*(or_any(x, v).contiguous() for x in (gradients.v, gradients.spikes)), v, torch.empty_like(v))
    states = (z, *(or_any(x, v).contiguous() for x in ends), or_any(J, v), or_any(A, v), torch.empty_like(z))
    grads_initial = {name: x for name, x in (("spikes", z), ("reset", J), ("adaptation", A)) if x is not None}
    return Backwards(sequences, states, (*arrays, *parameters), flags, grads_initial)


def backward(call: Backwards) -> None:
    """g, the gradients of the first state, and the threshold's, of a layer without recurrent synapses."""
    steps, batch, n = call.g.shape
    arguments = (*call.sequences, *call.states, *call.soma, steps, batch, n)
    launch(neurons_bwd, (batch, cells(n, TILE), 1), *arguments, **call.flags, TILE=TILE)


def parameter_gradients(
    g: Tensor, layer: LayerTensors, state: HetSynState, v: Tensor, grad_state: HetSynState
) -> Tensor:
    """(5, N): gradients of reset_strength, reset_decay, adaptation_strength, adaptation_decay, bias."""
    steps, batch, n = v.shape
    arrays, has = soma(layer)
    initial, has_initial = initial_states(state, v)
    ends = (grad_state.reset, grad_state.adaptation)
    out = v.new_empty((5, batch, n))
    flags = {"HAS_INITIAL": has_initial and layer.threshold is not None}
    flags |= {"HAS_AJ1": ends[0] is not None, "HAS_AA1": ends[1] is not None, "SPIKES": layer.threshold is not None}
    arguments = (v.contiguous(), g, *initial, *(or_any(x, v).contiguous() for x in ends), *arrays, out)
    grid = (batch, cells(n, TILE), 1)
    launch(soma_parameters_bwd, grid, *arguments, steps, batch, n, **flags, **has, TILE=TILE)
    return out.sum(1)
