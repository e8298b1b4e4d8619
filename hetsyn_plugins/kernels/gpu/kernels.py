"""Recurrent layers of any size on a GPU: a launch a step; Triton, float32.

Letters as in `neurons.py`, and

    p, w, L     decays, weights, currents of recurrent synapses          ...0, ...1    before a step, after it

No kernel reads a number that it writes: programs of one row would read what another has stored already.
"""

import triton
import triton.language as tl

from hetsyn_plugins.kernels.gpu.neurons import soma_bwd


# long: a line for every argument and every load, as Triton wants them
@triton.jit(do_not_specialize=["t"])
def recurrent_step_fwd(
    u,
    v,
    z0,
    J0,
    A0,
    z1,
    J1,
    A1,
    theta,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    L0,
    L1,
    p,
    w,
    t,
    B,
    N,
    BI: tl.constexpr,
    BK: tl.constexpr,
):
    """Step t of `recurrent_fwd` for any N, from one set of states to another; p, w (N, N), L0, L1 (B, N, N)."""
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64) * BI + tl.arange(0, BI)
    inside, e = i < N, b * N + i
    total = tl.zeros((BI,), tl.float32)
    for k0 in range(0, N, BK):
        k = k0 + tl.arange(0, BK)
        both = tl.expand_dims(inside, 1) & tl.expand_dims(k < N, 0)
        at = tl.expand_dims(i, 1) * N + tl.expand_dims(k, 0)
        source = tl.expand_dims(tl.load(z0 + b * N + k, mask=k < N, other=0.0), 0)
        current = tl.load(L0 + b * N * N + at, mask=both, other=0.0) * tl.load(p + at, mask=both, other=0.0)
        current += tl.load(w + at, mask=both, other=0.0) * source
        tl.store(L1 + b * N * N + at, current, mask=both)
        total += tl.sum(current, 1)
    # `soma_fwd`, each coefficient loaded where it is used: loaded before a call, they take 139 registers and not 96
    z = tl.load(z0 + e, mask=inside, other=0.0)
    J = tl.load(kappa + i, mask=inside, other=0.0) * tl.load(J0 + e, mask=inside, other=0.0)
    J += tl.load(reset_strength + i, mask=inside, other=0.0) * z
    A = tl.load(rho + i, mask=inside, other=0.0) * tl.load(A0 + e, mask=inside, other=0.0)
    A += tl.load(adaptation_strength + i, mask=inside, other=0.0) * z
    v_t = tl.load(u + (t * B + b) * N + i, mask=inside, other=0.0) + total - J - A
    tl.store(v + (t * B + b) * N + i, v_t, mask=inside)
    tl.store(J1 + e, J, mask=inside)
    tl.store(A1 + e, A, mask=inside)
    tl.store(z1 + e, tl.where(v_t > tl.load(theta + i, mask=inside, other=1.0), 1.0, 0.0), mask=inside)


# long: a line for every argument and every load, as Triton wants them
@triton.jit(do_not_specialize=["t"])
def recurrent_step_bwd(
    gv,
    gz,
    d,
    g,
    gz0,
    aJ1,
    aA1,
    aJ0,
    aA0,
    grad_threshold1,
    grad_threshold0,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    c1,
    c0,
    p,
    w,
    t,
    B,
    N,
    BI: tl.constexpr,
    BK: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Step t of `recurrent_bwd` for any N, from the states ...1 to ...0: with g[t] done, g[t-1] of this program's
    neurons, or gz0 where FIRST (t = 0). c1 and c0 (B, N, N) are w a, decayed to the step that reads them.
    """
    b, k = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64) * BK + tl.arange(0, BK)
    inside, e = k < N, b * N + k
    total = tl.zeros((BK,), tl.float32)
    for i0 in range(0, N, BI):
        i = i0 + tl.arange(0, BI)
        both = tl.expand_dims(i < N, 1) & tl.expand_dims(inside, 0)
        at = tl.expand_dims(i, 1).to(tl.int64) * N + tl.expand_dims(k, 0)
        g_i = tl.expand_dims(tl.load(g + (t * B + b) * N + i, mask=i < N, other=0.0), 1)
        current = tl.load(c1 + b * N * N + at, mask=both, other=0.0)
        current += tl.load(w + at, mask=both, other=0.0) * g_i
        total += tl.sum(current, 0)
        tl.store(c0 + b * N * N + at, tl.load(p + at, mask=both, other=0.0) * current, mask=both)
    reset_k, kappa_k = tl.load(reset_strength + k, mask=inside, other=0.0), tl.load(kappa + k, mask=inside, other=0.0)
    adapt_k = tl.load(adaptation_strength + k, mask=inside, other=0.0)
    rho_k = tl.load(rho + k, mask=inside, other=0.0)
    aJ, aA = tl.load(aJ1 + e, mask=inside, other=0.0), tl.load(aA1 + e, mask=inside, other=0.0)
    g_t = tl.load(g + (t * B + b) * N + k, mask=inside, other=0.0)
    grad_z_prev, aJ, aA = soma_bwd(g_t, aJ, aA, reset_k, kappa_k, adapt_k, rho_k)
    grad_z_prev += total
    tl.store(aJ0 + e, aJ, mask=inside)
    tl.store(aA0 + e, aA, mask=inside)
    through_z = tl.load(grad_threshold1 + e, mask=inside, other=0.0)
    if FIRST:
        tl.store(gz0 + e, grad_z_prev, mask=inside)
    else:
        q = ((t - 1) * B + b) * N + k
        grad_z_d = (tl.load(gz + q, mask=inside, other=0.0) + grad_z_prev) * tl.load(d + q, mask=inside, other=0.0)
        tl.store(g + q, tl.load(gv + q, mask=inside, other=0.0) + grad_z_d, mask=inside)
        through_z -= grad_z_d
    tl.store(grad_threshold0 + e, through_z, mask=inside)
