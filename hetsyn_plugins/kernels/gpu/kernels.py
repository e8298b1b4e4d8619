"""The GPU kernels (Triton, float32): loops over time with the states in registers; no atomics, so the same bits always.

Sequences are (T, B, K) as torch has them. A program takes a tile of neurons i and sources j of one row b of the batch;
sums over tiles or rows are left to a second pass in torch. For a set of synapses with sources s and c = w a:

    I_ij[t] = r_ij I_ij[t-1] + w_ij s_j[t]       u_i  = sum_j I_ij
    c_ij[t] = r_ij c_ij[t+1] + w_ij g_i[t]       ds_j = sum_i c_ij        (the same scan, backwards, roles exchanged)

The letters (Deng et al. 2025, Eqs. 2 to 5; `core/reference.py` has the equations and their gradients):

    s, r, w     sources, decays, weights of synapses         p, w, L       decays, weights, currents of recurrent ones
    u           summed synaptic currents                     v = u - J - A     membrane
    z, J, A     spikes, reset and adaptation current         ...0, ...1    before the first step, after the last
    theta, reset_strength, kappa      threshold, what a spike adds to J (theta, or 0 without reset), decay of J
    adaptation_strength, rho          what a spike adds to A, decay of A
    d           the surrogate's derivative at v, in the place of dz/dv
    g           dLoss/dv                                     gv, gz        what of dLoss/dv, dLoss/dz comes from outside
    x, y        dI/dw, (dI/dr) / w                           a, aJ, aA     dLoss/dI, dLoss/dJ, dLoss/dA
    XJ, XA      dJ/d(reset_strength), dA/d(adaptation_strength)            SJ, SA    dJ/dkappa, dA/drho

`soma_fwd` is a step of what a neuron does for itself, `soma_bwd` its adjoint; both are inlined where they are called.

No kernel reads a number that it writes: several warps hold a tensor of fewer numbers than threads, and one of them
could otherwise load what another has stored already. Flags are constants to the compiler. Written for Triton 2.3 too:
reductions of 2-D tiles only, `tl.expand_dims`, and no annotations from __future__, which its interpreter does not
understand. Arguments stand one a line, which makes these functions long.
"""

import triton
import triton.language as tl


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
def currents_fwd(
    s,
    u,
    r,
    w,
    initial,
    final,
    T,
    B,
    M,
    N,
    REVERSE: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    NEEDS_FINAL: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
):
    """u[jt, t, b, i], the part of tile jt of sum_j I_ij[t]; I starts at `initial` (B, N, M), `final` gets the last.

    REVERSE runs time backwards, and there `initial` is added to the first step as it is, not decayed.
    """
    b, it, jt = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    i, j = it * BI + tl.arange(0, BI), jt * BJ + tl.arange(0, BJ)
    in_i, in_j = i < N, j < M
    inside = tl.expand_dims(in_i, 1) & tl.expand_dims(in_j, 0)
    at = tl.expand_dims(i, 1) * M + tl.expand_dims(j, 0)
    decay, weight = tl.load(r + at, mask=inside, other=0.0), tl.load(w + at, mask=inside, other=0.0)
    current = tl.zeros((BI, BJ), tl.float32)
    if HAS_INITIAL:
        current += tl.load(initial + b * N * M + at, mask=inside, other=0.0)
    for step in range(T):
        t = step
        if REVERSE:
            t = T - 1 - step
        source = tl.expand_dims(tl.load(s + (t * B + b) * M + j, mask=in_j, other=0.0), 0)
        if not REVERSE:
            current = decay * current
        current += weight * source
        tl.store(u + ((jt * T + t) * B + b) * N + i, tl.sum(current, 1), mask=in_i)
        if REVERSE:
            current = decay * current
    if NEEDS_FINAL:
        tl.store(final + b * N * M + at, current, mask=inside)


# long: a line for every argument and every load, as Triton wants them
@triton.jit
def synapses_bwd(
    s,
    g,
    r,
    w,
    initial,
    grad_final,
    gw,
    gr,
    grad_initial,
    T,
    B,
    M,
    N,
    HAS_INITIAL: tl.constexpr,
    HAS_GRAD_FINAL: tl.constexpr,
    NEEDS_INITIAL: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
):
    """Of row b: gw = sum_t g x, gr = sum_t g (w y + q), grad_initial = dLoss/d(initial), all (B, N, M).

    x[t] = r x[t-1] + s[t], y[t] = r y[t-1] + x[t-1]; h[t] = r h[t-1] from `initial`, q[t] = r q[t-1] + h[t-1];
    `grad_final` is dLoss/d(last currents).
    """
    b, it, jt = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    i, j = it * BI + tl.arange(0, BI), jt * BJ + tl.arange(0, BJ)
    in_i, in_j = i < N, j < M
    inside = tl.expand_dims(in_i, 1) & tl.expand_dims(in_j, 0)
    at = tl.expand_dims(i, 1) * M + tl.expand_dims(j, 0)
    b_at = b * N * M + at
    decay, weight = tl.load(r + at, mask=inside, other=0.0), tl.load(w + at, mask=inside, other=0.0)
    x, y = tl.zeros((BI, BJ), tl.float32), tl.zeros((BI, BJ), tl.float32)
    h, q = tl.zeros((BI, BJ), tl.float32), tl.zeros((BI, BJ), tl.float32)
    acc_w, acc_r = tl.zeros((BI, BJ), tl.float32), tl.zeros((BI, BJ), tl.float32)
    if HAS_INITIAL:
        h += tl.load(initial + b_at, mask=inside, other=0.0)
    for t in range(T):
        source = tl.expand_dims(tl.load(s + (t * B + b) * M + j, mask=in_j, other=0.0), 0)
        g_t = tl.expand_dims(tl.load(g + (t * B + b) * N + i, mask=in_i, other=0.0), 1)
        y = decay * y + x
        x = decay * x + source
        if HAS_INITIAL:
            q = decay * q + h
            h = decay * h
        acc_w += g_t * x
        acc_r += g_t * (weight * y + q)
    a = tl.zeros((BI, BJ), tl.float32)
    if HAS_GRAD_FINAL:
        a += tl.load(grad_final + b_at, mask=inside, other=0.0)
        acc_w += a * x
        acc_r += a * (weight * y + q)
    tl.store(gw + b_at, acc_w, mask=inside)
    tl.store(gr + b_at, acc_r, mask=inside)
    if NEEDS_INITIAL:
        for step in range(T):
            t = T - 1 - step
            a = decay * (a + tl.expand_dims(tl.load(g + (t * B + b) * N + i, mask=in_i, other=0.0), 1))
        tl.store(grad_initial + b_at, a, mask=inside)


@triton.jit
def neurons_fwd(
    u, v, z0, J0, A0, z1, J1, A1, theta, reset_strength, kappa, adaptation_strength, rho, T, B, N, BI: tl.constexpr
):
    """v (T, B, N) of u, from the first z0, J0, A0 (B, N) to the last z1, J1, A1."""
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BI + tl.arange(0, BI)
    inside, e = i < N, b * N + i
    theta_i, reset_i = tl.load(theta + i, mask=inside, other=1.0), tl.load(reset_strength + i, mask=inside, other=0.0)
    kappa_i, rho_i = tl.load(kappa + i, mask=inside, other=0.0), tl.load(rho + i, mask=inside, other=0.0)
    adapt_i = tl.load(adaptation_strength + i, mask=inside, other=0.0)
    z, J = tl.load(z0 + e, mask=inside, other=0.0), tl.load(J0 + e, mask=inside, other=0.0)
    A = tl.load(A0 + e, mask=inside, other=0.0)
    for t in range(T):
        q = (t * B + b) * N + i
        u_t = tl.load(u + q, mask=inside, other=0.0)
        v_t, z, J, A = soma_fwd(u_t, z, J, A, theta_i, reset_i, kappa_i, adapt_i, rho_i)
        tl.store(v + q, v_t, mask=inside)
    tl.store(z1 + e, z, mask=inside)
    tl.store(J1 + e, J, mask=inside)
    tl.store(A1 + e, A, mask=inside)


# long: a line for every argument and every load, as Triton wants them
@triton.jit
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
    reset_strength,
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
    NP: tl.constexpr,
):
    """As `neurons_fwd`, with recurrent synapses, all of them in one program, N padded to NP.

    Matrices are (source, neuron): pT, wT (NP, NP), currents L0, L1 (B, NP, NP); what a neuron has once is (NP,). Sums
    over sources, and not over neurons, leave a neuron's numbers in few registers; padding needs no masks.
    """
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, NP)
    inside, e = i < N, b * N + i
    at = tl.expand_dims(i, 1) * NP + tl.expand_dims(i, 0)
    decay, weight, current = tl.load(pT + at), tl.load(wT + at), tl.load(L0 + b * NP * NP + at)
    theta_i, reset_i, kappa_i = tl.load(theta + i), tl.load(reset_strength + i), tl.load(kappa + i)
    adapt_i, rho_i = tl.load(adaptation_strength + i), tl.load(rho + i)
    z, J = tl.load(z0 + e, mask=inside, other=0.0), tl.load(J0 + e, mask=inside, other=0.0)
    A = tl.load(A0 + e, mask=inside, other=0.0)
    for t in range(T):
        current = decay * current + weight * tl.expand_dims(z, 1)
        q = (t * B + b) * N + i
        u_t = tl.load(u + q, mask=inside, other=0.0) + tl.sum(current, 0)
        v_t, z, J, A = soma_fwd(u_t, z, J, A, theta_i, reset_i, kappa_i, adapt_i, rho_i)
        tl.store(v + q, v_t, mask=inside)
    tl.store(L1 + b * NP * NP + at, current)
    tl.store(z1 + e, z, mask=inside)
    tl.store(J1 + e, J, mask=inside)
    tl.store(A1 + e, A, mask=inside)


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


@triton.jit
def neurons_bwd(
    gv,
    gz,
    d,
    g,
    gz0,
    aJ1,
    aA1,
    aJ0,
    aA0,
    grad_threshold,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    T,
    B,
    N,
    BI: tl.constexpr,
):
    """g = dLoss/dv (T, B, N): g[t] = gv[t] + d[t] (gz[t] + reset_strength aJ + adaptation_strength aA).

    aJ1, aA1 (B, N) are the gradients of the last J and A; gz0, aJ0, aA0 get those of the first z, J and A,
    `grad_threshold` -sum_t d (...), the part of the threshold's that comes through z.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BI + tl.arange(0, BI)
    inside, e = i < N, b * N + i
    reset_i, kappa_i = tl.load(reset_strength + i, mask=inside, other=0.0), tl.load(kappa + i, mask=inside, other=0.0)
    adapt_i = tl.load(adaptation_strength + i, mask=inside, other=0.0)
    rho_i = tl.load(rho + i, mask=inside, other=0.0)
    aJ, aA = tl.load(aJ1 + e, mask=inside, other=0.0), tl.load(aA1 + e, mask=inside, other=0.0)
    grad_z_prev, through_z = tl.zeros((BI,), tl.float32), tl.zeros((BI,), tl.float32)
    for step in range(T):
        q = ((T - 1 - step) * B + b) * N + i
        grad_z_d = tl.load(gz + q, mask=inside, other=0.0) + grad_z_prev
        grad_z_d = grad_z_d * tl.load(d + q, mask=inside, other=0.0)
        g_t = tl.load(gv + q, mask=inside, other=0.0) + grad_z_d
        through_z -= grad_z_d
        tl.store(g + q, g_t, mask=inside)
        grad_z_prev, aJ, aA = soma_bwd(g_t, aJ, aA, reset_i, kappa_i, adapt_i, rho_i)
    tl.store(gz0 + e, grad_z_prev, mask=inside)
    tl.store(aJ0 + e, aJ, mask=inside)
    tl.store(aA0 + e, aA, mask=inside)
    tl.store(grad_threshold + e, through_z, mask=inside)


# long: a line for every argument and every load, as Triton wants them
@triton.jit
def recurrent_bwd(
    gv,
    gz,
    d,
    g,
    gz0,
    aJ1,
    aA1,
    aJ0,
    aA0,
    grad_threshold,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    c1,
    p,
    w,
    T,
    B,
    N,
    NP: tl.constexpr,
):
    """As `neurons_bwd`, with recurrent synapses p, w (NP, NP), all in one program; what a neuron has once is (NP,).

    c1 (B, NP, NP) is w times the gradients of the last recurrent currents.
    """
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, NP)
    inside, e = i < N, b * N + i
    at = tl.expand_dims(i, 1) * NP + tl.expand_dims(i, 0)
    decay, weight, current = tl.load(p + at), tl.load(w + at), tl.load(c1 + b * NP * NP + at)
    reset_i, kappa_i = tl.load(reset_strength + i), tl.load(kappa + i)
    adapt_i, rho_i = tl.load(adaptation_strength + i), tl.load(rho + i)
    aJ, aA = tl.load(aJ1 + e, mask=inside, other=0.0), tl.load(aA1 + e, mask=inside, other=0.0)
    grad_z_prev, through_z = tl.zeros((NP,), tl.float32), tl.zeros((NP,), tl.float32)
    for step in range(T):
        q = ((T - 1 - step) * B + b) * N + i
        grad_z_d = tl.load(gz + q, mask=inside, other=0.0) + grad_z_prev
        grad_z_d = grad_z_d * tl.load(d + q, mask=inside, other=0.0)
        g_t = tl.load(gv + q, mask=inside, other=0.0) + grad_z_d
        through_z -= grad_z_d
        tl.store(g + q, g_t, mask=inside)
        current += weight * tl.expand_dims(g_t, 1)
        grad_z_prev, aJ, aA = soma_bwd(g_t, aJ, aA, reset_i, kappa_i, adapt_i, rho_i)
        grad_z_prev += tl.sum(current, 0)
        current = decay * current
    tl.store(gz0 + e, grad_z_prev, mask=inside)
    tl.store(aJ0 + e, aJ, mask=inside)
    tl.store(aA0 + e, aA, mask=inside)
    tl.store(grad_threshold + e, through_z, mask=inside)


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


# long: a line for every argument and every load, as Triton wants them
@triton.jit
def soma_parameters_bwd(
    v,
    g,
    z0,
    J0,
    A0,
    aJ1,
    aA1,
    theta,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    out,
    T,
    B,
    N,
    BI: tl.constexpr,
):
    """out (5, B, N): gradients of reset_strength, kappa, adaptation_strength, rho and bias of every row.

    z0, J0, A0 are the first state, aJ1, aA1 the gradients of the last J and A.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BI + tl.arange(0, BI)
    inside, e = i < N, tl.program_id(0).to(tl.int64) * N + i
    theta_i, reset_i = tl.load(theta + i, mask=inside, other=1.0), tl.load(reset_strength + i, mask=inside, other=0.0)
    kappa_i, rho_i = tl.load(kappa + i, mask=inside, other=0.0), tl.load(rho + i, mask=inside, other=0.0)
    adapt_i = tl.load(adaptation_strength + i, mask=inside, other=0.0)
    z, J = tl.load(z0 + e, mask=inside, other=0.0), tl.load(J0 + e, mask=inside, other=0.0)
    A = tl.load(A0 + e, mask=inside, other=0.0)
    zero = tl.zeros((BI,), tl.float32)
    XJ, XA, SJ, SA = zero, zero, zero, zero
    g_reset, g_kappa, g_adapt, g_rho, g_bias = zero, zero, zero, zero, zero
    for t in range(T):
        q = (t * B + b) * N + i
        SJ, SA = kappa_i * SJ + J, rho_i * SA + A
        XJ, XA = kappa_i * XJ + z, rho_i * XA + z
        _, _, J, A = soma_fwd(zero, z, J, A, theta_i, reset_i, kappa_i, adapt_i, rho_i)
        g_t = tl.load(g + q, mask=inside, other=0.0)
        g_bias += g_t
        g_reset, g_kappa = g_reset - g_t * XJ, g_kappa - g_t * SJ
        g_adapt, g_rho = g_adapt - g_t * XA, g_rho - g_t * SA
        z = tl.where(tl.load(v + q, mask=inside, other=0.0) > theta_i, 1.0, 0.0)
    aJ, aA = tl.load(aJ1 + e, mask=inside, other=0.0), tl.load(aA1 + e, mask=inside, other=0.0)
    tl.store(out + e, g_reset + aJ * XJ, mask=inside)
    tl.store(out + (1 * B + b) * N + i, g_kappa + aJ * SJ, mask=inside)
    tl.store(out + (2 * B + b) * N + i, g_adapt + aA * XA, mask=inside)
    tl.store(out + (3 * B + b) * N + i, g_rho + aA * SA, mask=inside)
    tl.store(out + (4 * B + b) * N + i, g_bias, mask=inside)
