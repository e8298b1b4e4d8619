"""Neurons with recurrent synapses on a GPU, up to 128 of them: one program a row of the batch; Triton, float32.

Letters as in `neurons.py`, and

    p, w, L     decays, weights, currents of recurrent synapses          k    the neuron that a synapse comes from

All synapses of a row lie in the registers of one program, those that are summed over in a thread as far as they fit,
the others on its lanes, as in `synapses.py`. Sources are padded to a power of two.
"""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.kernels.gpu import neurons
from hetsyn_plugins.kernels.gpu.launch import kernel, launch, or_any
from hetsyn_plugins.kernels.gpu.neurons import load_if, soma_bwd, soma_fwd
from hetsyn_plugins.kernels.gpu.surrogates import derivative_bwd
from hetsyn_plugins.kernels.gpu.synapses import currents_step, states, transposed
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.kernels.zeros import is_zero

MAX_NEURONS = 128  # three matrices of 128 x 128 numbers fit the registers of a program: 192 of 256 KB


# ---- kernels


# long: a line for every argument and every load, as Triton wants them
@kernel
def recurrent_fwd(
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
    L0,
    L1,
    pT,
    wT,
    T,
    B,
    N,
    state_b,
    state_i,
    state_k,
    HAS_RESET: tl.constexpr,
    HAS_ADAPTATION: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    HAS_CURRENT: tl.constexpr,
    TILE: tl.constexpr,
):
    """As `neurons_fwd`, with recurrent synapses pT, wT (source, neuron), from currents L0 to L1.

    L0 (B, N, N) has its numbers state_b, state_i and state_k apart; L1 is (B, source, neuron).
    """
    b, i = tl.program_id(0).to(tl.int64), tl.arange(0, TILE)
    inside, e = i < N, b * N + i
    both = tl.expand_dims(inside, 1) & tl.expand_dims(inside, 0)
    at = tl.expand_dims(i, 1).to(tl.int64) * N + tl.expand_dims(i, 0)
    state_at = b * state_b + tl.expand_dims(i, 0) * state_i + tl.expand_dims(i, 1) * state_k
    decay, weight = tl.load(pT + at, mask=both, other=0.0), tl.load(wT + at, mask=both, other=0.0)
    x = load_if(L0, state_at, both, HAS_CURRENT)
    theta_i = tl.load(theta + i, mask=inside, other=1.0)
    reset_i, kappa_i = load_if(theta, i, inside, HAS_RESET), load_if(kappa, i, inside, HAS_RESET)
    adapt_i = load_if(adaptation_strength, i, inside, HAS_ADAPTATION)
    rho_i = load_if(rho, i, inside, HAS_ADAPTATION)
    z = load_if(z0, e, inside, HAS_INITIAL)
    J, A = load_if(J0, e, inside, HAS_INITIAL & HAS_RESET), load_if(A0, e, inside, HAS_INITIAL & HAS_ADAPTATION)
    row_step = B.to(tl.int64) * N
    for t in range(T):
        q = t * row_step + e
        x, current = currents_step(x, decay, weight, tl.expand_dims(z, 1), HAS_CURRENT, False)
        u_t = tl.load(u + q, mask=inside, other=0.0) + tl.sum(current, 0)
        v_t, z, J, A = soma_fwd(u_t, z, J, A, theta_i, reset_i, kappa_i, adapt_i, rho_i)
        tl.store(v + q, v_t, mask=inside)
    if not HAS_CURRENT:
        x *= weight
    # counted from the row on: the compiler would keep addresses that it has had before for all of the loop
    tl.store(L1 + b * N * N + (tl.expand_dims(i, 1) * N + tl.expand_dims(i, 0)), x, mask=both)
    tl.store(z1 + e, z, mask=inside)
    if HAS_RESET:
        tl.store(J1 + e, J, mask=inside)
    if HAS_ADAPTATION:
        tl.store(A1 + e, A, mask=inside)


# long: a line for every argument and every load, as Triton wants them
@kernel
def recurrent_bwd(
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
    grad_final,
    p,
    w,
    T,
    B,
    N,
    final_b,
    final_i,
    final_k,
    HAS_GV: tl.constexpr,
    HAS_GZ: tl.constexpr,
    HAS_AJ1: tl.constexpr,
    HAS_AA1: tl.constexpr,
    HAS_RESET: tl.constexpr,
    THROUGH_RESET: tl.constexpr,
    HAS_ADAPTATION: tl.constexpr,
    KIND: tl.constexpr,
    HAS_GRAD_FINAL: tl.constexpr,
    TILE: tl.constexpr,
):
    """As `neurons_bwd`, with recurrent synapses p, w (N, N).

    `grad_final` (B, N, N) is dLoss/dL of the last step, its numbers final_b, final_i and final_k apart.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.arange(0, TILE)
    inside, e = i < N, b * N + i
    both = tl.expand_dims(inside, 1) & tl.expand_dims(inside, 0)
    at = tl.expand_dims(i, 1) * N + tl.expand_dims(i, 0)
    decay, weight = tl.load(p + at, mask=both, other=0.0), tl.load(w + at, mask=both, other=0.0)
    final_at = b * final_b + tl.expand_dims(i, 1) * final_i + tl.expand_dims(i, 0) * final_k
    x = load_if(grad_final, final_at, both, HAS_GRAD_FINAL) * weight
    theta_i = tl.load(theta + i, mask=inside, other=1.0)
    reset_i, kappa_i = load_if(theta, i, inside, THROUGH_RESET), load_if(kappa, i, inside, HAS_RESET)
    adapt_i = load_if(adaptation_strength, i, inside, HAS_ADAPTATION)
    rho_i = load_if(rho, i, inside, HAS_ADAPTATION)
    aJ, aA = load_if(aJ1, e, inside, HAS_AJ1), load_if(aA1, e, inside, HAS_AA1)
    grad_z_prev, through_z = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    row_step = B.to(tl.int64) * N
    for step in range(T):
        q = (T - 1 - step) * row_step + e
        d = derivative_bwd(tl.load(v + q, mask=inside, other=0.0), theta_i, first, second, KIND)
        grad_z_d = (load_if(gz, q, inside, HAS_GZ) + grad_z_prev) * d
        g_t = load_if(gv, q, inside, HAS_GV) + grad_z_d
        through_z -= grad_z_d
        tl.store(g + q, g_t, mask=inside)
        x, current = currents_step(x, decay, weight, tl.expand_dims(g_t, 1), HAS_GRAD_FINAL, True)
        grad_z_prev, aJ, aA = soma_bwd(g_t, aJ, aA, reset_i, kappa_i, adapt_i, rho_i)
        grad_z_prev += tl.sum(current, 0)
    tl.store(gz0 + e, grad_z_prev, mask=inside)
    tl.store(grad_threshold + e, through_z, mask=inside)
    if HAS_RESET:
        tl.store(aJ0 + e, aJ, mask=inside)
    if HAS_ADAPTATION:
        tl.store(aA0 + e, aA, mask=inside)


# ---- their order


def compiled_for(n: int) -> dict[str, int]:
    """How a program with all recurrent synapses of n neurons is compiled: as many warps as need no spills."""
    size = max(16, 1 << (n - 1).bit_length())
    return {"TILE": size, "num_warps": 8 if size > 64 else 4}


def forward(u: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, tuple[Any, ...], Tensor]:
    """v of u (T, B, N), the last z, J, A, and the last recurrent currents (B, N, N)."""
    (steps, batch, n), v = u.shape, torch.empty_like(u)
    arrays, flags = neurons.soma(layer)
    initial, has_initial = neurons.initial_states(state, u)
    final, current = neurons.memory_for(u, flags), states(u, batch, n, n)
    assert layer.recurrent_decay is not None and layer.recurrent_weight is not None
    L = None if is_zero(state.recurrent_current) else state.recurrent_current
    synapses = transposed(layer.recurrent_decay, layer.recurrent_weight)
    arguments = (u, v, *initial, *(or_any(x, u) for x in final), *arrays, or_any(L, u), current, *synapses)
    flags |= {"HAS_INITIAL": has_initial, "HAS_CURRENT": L is not None}
    launch(
        recurrent_fwd, (batch, 1, 1), *arguments, steps, batch, n, *or_any(L, u).stride(), **flags, **compiled_for(n)
    )
    return v, final, current


def backward(call: neurons.Backwards, layer: LayerTensors, grad_final: Tensor | None) -> None:
    """As `neurons.backward`, with recurrent synapses; `grad_final` (B, N, N) is that of their last currents."""
    steps, batch, n = call.g.shape
    assert layer.recurrent_decay is not None and layer.recurrent_weight is not None
    synapses = (layer.recurrent_decay.contiguous(), layer.recurrent_weight.contiguous())
    arguments = (*call.sequences, *call.states, *call.soma, or_any(grad_final, call.g), *synapses)
    flags = call.flags | {"HAS_GRAD_FINAL": grad_final is not None}
    sizes = (steps, batch, n, *or_any(grad_final, call.g).stride())
    launch(recurrent_bwd, (batch, 1, 1), *arguments, *sizes, **flags, **compiled_for(n))
