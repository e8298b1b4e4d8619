"""The GPU kernels (Triton, float32): loops over time with the states in registers; no atomics, so the same bits always.

Sequences are (T, B, K) as torch has them. A program takes a tile of neurons i and sources j of one row b of the batch;
sums over tiles or rows are left to a second pass in torch. For a set of synapses with sources s and c = w a:

    I_ij[t] = r_ij I_ij[t-1] + w_ij s_j[t]       u_i  = sum_j I_ij
    c_ij[t] = r_ij c_ij[t+1] + w_ij g_i[t]       ds_j = sum_i c_ij        (the same scan, backwards, roles exchanged)

No kernel reads a number that it writes: several warps hold a tensor of fewer numbers than threads, and one of them
could otherwise load what another has stored already. Flags are constants to the compiler. Written for Triton 2.3 too:
reductions of 2-D tiles only, `tl.expand_dims`, and no annotations from __future__, which its interpreter does not
understand.
"""

import triton
import triton.language as tl


@triton.jit
def scan(
    s,
    u,
    r,
    w,
    start,
    last,
    T,
    B,
    M,
    N,
    REVERSE: tl.constexpr,
    HAS_START: tl.constexpr,
    WANT_LAST: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
):
    """u[jt, t, b, i], the part of tile jt of sum_j I_ij[t]; I starts at `start` (B, N, M), `last` gets the last.

    REVERSE runs time backwards, and there `start` is added to the first step as it is, not decayed.
    """
    b, it, jt = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    i, j = it * BI + tl.arange(0, BI), jt * BJ + tl.arange(0, BJ)
    in_i, in_j = i < N, j < M
    inside = tl.expand_dims(in_i, 1) & tl.expand_dims(in_j, 0)
    at = tl.expand_dims(i, 1) * M + tl.expand_dims(j, 0)
    decay, weight = tl.load(r + at, mask=inside, other=0.0), tl.load(w + at, mask=inside, other=0.0)
    current = tl.zeros((BI, BJ), tl.float32)
    if HAS_START:
        current += tl.load(start + b * N * M + at, mask=inside, other=0.0)
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
    if WANT_LAST:
        tl.store(last + b * N * M + at, current, mask=inside)


@triton.jit
def gradients(
    s,
    g,
    r,
    w,
    start,
    owed,
    gw,
    gr,
    first,
    T,
    B,
    M,
    N,
    HAS_START: tl.constexpr,
    HAS_OWED: tl.constexpr,
    WANT_FIRST: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
):
    """Of row b: gw = sum_t g x, gr = sum_t g (w y + q), first = dLoss/d(start), all (B, N, M).

    x[t] = r x[t-1] + s[t], y[t] = r y[t-1] + x[t-1]; h[t] = r h[t-1] from `start`, q[t] = r q[t-1] + h[t-1];
    `owed` is dLoss/d(last currents).
    """
    b, it, jt = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    i, j = it * BI + tl.arange(0, BI), jt * BJ + tl.arange(0, BJ)
    in_i, in_j = i < N, j < M
    inside = tl.expand_dims(in_i, 1) & tl.expand_dims(in_j, 0)
    at = tl.expand_dims(i, 1) * M + tl.expand_dims(j, 0)
    whole = b * N * M + at
    decay, weight = tl.load(r + at, mask=inside, other=0.0), tl.load(w + at, mask=inside, other=0.0)
    x, y = tl.zeros((BI, BJ), tl.float32), tl.zeros((BI, BJ), tl.float32)
    h, q = tl.zeros((BI, BJ), tl.float32), tl.zeros((BI, BJ), tl.float32)
    acc_w, acc_r = tl.zeros((BI, BJ), tl.float32), tl.zeros((BI, BJ), tl.float32)
    if HAS_START:
        h += tl.load(start + whole, mask=inside, other=0.0)
    for t in range(T):
        source = tl.expand_dims(tl.load(s + (t * B + b) * M + j, mask=in_j, other=0.0), 0)
        now = tl.expand_dims(tl.load(g + (t * B + b) * N + i, mask=in_i, other=0.0), 1)
        y = decay * y + x
        x = decay * x + source
        if HAS_START:
            q = decay * q + h
            h = decay * h
        acc_w += now * x
        acc_r += now * (weight * y + q)
    a = tl.zeros((BI, BJ), tl.float32)
    if HAS_OWED:
        a += tl.load(owed + whole, mask=inside, other=0.0)
        acc_w += a * x
        acc_r += a * (weight * y + q)
    tl.store(gw + whole, acc_w, mask=inside)
    tl.store(gr + whole, acc_r, mask=inside)
    if WANT_FIRST:
        for step in range(T):
            t = T - 1 - step
            a = decay * (a + tl.expand_dims(tl.load(g + (t * B + b) * N + i, mask=in_i, other=0.0), 1))
        tl.store(first + whole, a, mask=inside)


@triton.jit
def fire(u, v, z0, J0, A0, z1, J1, A1, theta, reset_strength, kappa, strength, rho, T, B, N, BI: tl.constexpr):
    """v (T, B, N) of u, from the first z0, J0, A0 (B, N) to the last z1, J1, A1.

    `reset_strength` is what a spike adds to the reset current: the threshold, or 0 where there is no reset.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BI + tl.arange(0, BI)
    inside, own = i < N, b * N + i
    th, kk = tl.load(theta + i, mask=inside, other=1.0), tl.load(reset_strength + i, mask=inside, other=0.0)
    kp, st = tl.load(kappa + i, mask=inside, other=0.0), tl.load(strength + i, mask=inside, other=0.0)
    rh = tl.load(rho + i, mask=inside, other=0.0)
    z, J = tl.load(z0 + own, mask=inside, other=0.0), tl.load(J0 + own, mask=inside, other=0.0)
    A = tl.load(A0 + own, mask=inside, other=0.0)
    for t in range(T):
        J = kp * J + kk * z
        A = rh * A + st * z
        now = tl.load(u + (t * B + b) * N + i, mask=inside, other=0.0) - J - A
        z = tl.where(now > th, 1.0, 0.0)
        tl.store(v + (t * B + b) * N + i, now, mask=inside)
    tl.store(z1 + own, z, mask=inside)
    tl.store(J1 + own, J, mask=inside)
    tl.store(A1 + own, A, mask=inside)


@triton.jit
def fire_recurrent(
    u, v, z0, J0, A0, z1, J1, A1, theta, reset_strength, kappa, strength, rho, L0, L1, pT, wT, T, B, N, NP: tl.constexpr
):
    """As `fire`, with recurrent synapses, all of them in one program, N padded to NP.

    Matrices are (source, neuron): pT, wT (NP, NP), currents L0, L1 (B, NP, NP); what a neuron has once is (NP,). Sums
    over sources, and not over neurons, leave a neuron's own numbers in few registers; padding needs no masks.
    """
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, NP)
    inside, own = i < N, b * N + i
    at = tl.expand_dims(i, 1) * NP + tl.expand_dims(i, 0)
    decay, weight, current = tl.load(pT + at), tl.load(wT + at), tl.load(L0 + b * NP * NP + at)
    th, kk, kp, st = tl.load(theta + i), tl.load(reset_strength + i), tl.load(kappa + i), tl.load(strength + i)
    rh = tl.load(rho + i)
    z, J = tl.load(z0 + own, mask=inside, other=0.0), tl.load(J0 + own, mask=inside, other=0.0)
    A = tl.load(A0 + own, mask=inside, other=0.0)
    for t in range(T):
        current = decay * current + weight * tl.expand_dims(z, 1)
        J = kp * J + kk * z
        A = rh * A + st * z
        now = tl.load(u + (t * B + b) * N + i, mask=inside, other=0.0) + tl.sum(current, 0) - J - A
        z = tl.where(now > th, 1.0, 0.0)
        tl.store(v + (t * B + b) * N + i, now, mask=inside)
    tl.store(L1 + b * NP * NP + at, current)
    tl.store(z1 + own, z, mask=inside)
    tl.store(J1 + own, J, mask=inside)
    tl.store(A1 + own, A, mask=inside)


@triton.jit(do_not_specialize=["t"])
def fire_step(
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
    strength,
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
    """Step t of `fire_recurrent` for any N, from one set of states to another; p, w (N, N), L0, L1 (B, N, N)."""
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64) * BI + tl.arange(0, BI)
    inside, own = i < N, b * N + i
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
    before = tl.load(z0 + own, mask=inside, other=0.0)
    J = tl.load(kappa + i, mask=inside, other=0.0) * tl.load(J0 + own, mask=inside, other=0.0)
    J += tl.load(reset_strength + i, mask=inside, other=0.0) * before
    A = tl.load(rho + i, mask=inside, other=0.0) * tl.load(A0 + own, mask=inside, other=0.0)
    A += tl.load(strength + i, mask=inside, other=0.0) * before
    now = tl.load(u + (t * B + b) * N + i, mask=inside, other=0.0) + total - J - A
    tl.store(v + (t * B + b) * N + i, now, mask=inside)
    tl.store(J1 + own, J, mask=inside)
    tl.store(A1 + own, A, mask=inside)
    tl.store(z1 + own, tl.where(now > tl.load(theta + i, mask=inside, other=1.0), 1.0, 0.0), mask=inside)


@triton.jit
def adjoint(ov, oz, d, g, z0, J1, A1, J0, A0, fired, reset_strength, kappa, strength, rho, T, B, N, BI: tl.constexpr):
    """g = dLoss/dv (T, B, N): g[t] = ov[t] + d[t] (oz[t] + reset_strength aJ + strength aA), ov, oz what is owed to v and spikes.

    J1, A1 (B, N) are owed to the last J and A; z0, J0, A0 get what is owed to the first, `fired` -sum_t d (...), the
    threshold's part.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BI + tl.arange(0, BI)
    inside, own = i < N, b * N + i
    kk, kp = tl.load(reset_strength + i, mask=inside, other=0.0), tl.load(kappa + i, mask=inside, other=0.0)
    st, rh = tl.load(strength + i, mask=inside, other=0.0), tl.load(rho + i, mask=inside, other=0.0)
    aJ, aA = tl.load(J1 + own, mask=inside, other=0.0), tl.load(A1 + own, mask=inside, other=0.0)
    carry, lost = tl.zeros((BI,), tl.float32), tl.zeros((BI,), tl.float32)
    for step in range(T):
        q = ((T - 1 - step) * B + b) * N + i
        through = tl.load(oz + q, mask=inside, other=0.0) + carry
        through = through * tl.load(d + q, mask=inside, other=0.0)
        now = tl.load(ov + q, mask=inside, other=0.0) + through
        lost -= through
        tl.store(g + q, now, mask=inside)
        aJ, aA = aJ - now, aA - now
        carry = kk * aJ + st * aA
        aJ, aA = kp * aJ, rh * aA
    tl.store(z0 + own, carry, mask=inside)
    tl.store(J0 + own, aJ, mask=inside)
    tl.store(A0 + own, aA, mask=inside)
    tl.store(fired + own, lost, mask=inside)


@triton.jit
def adjoint_recurrent(
    ov, oz, d, g, z0, J1, A1, J0, A0, fired, reset_strength, kappa, strength, rho, c1, p, w, T, B, N, NP: tl.constexpr
):
    """As `adjoint`, with recurrent synapses p, w (NP, NP), all in one program; what a neuron has once is (NP,).

    c1 (B, NP, NP) is w times what is owed to the last recurrent currents.
    """
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, NP)
    inside, own = i < N, b * N + i
    at = tl.expand_dims(i, 1) * NP + tl.expand_dims(i, 0)
    decay, weight, current = tl.load(p + at), tl.load(w + at), tl.load(c1 + b * NP * NP + at)
    kk, kp, st, rh = tl.load(reset_strength + i), tl.load(kappa + i), tl.load(strength + i), tl.load(rho + i)
    aJ, aA = tl.load(J1 + own, mask=inside, other=0.0), tl.load(A1 + own, mask=inside, other=0.0)
    carry, lost = tl.zeros((NP,), tl.float32), tl.zeros((NP,), tl.float32)
    for step in range(T):
        q = ((T - 1 - step) * B + b) * N + i
        through = tl.load(oz + q, mask=inside, other=0.0) + carry
        through = through * tl.load(d + q, mask=inside, other=0.0)
        now = tl.load(ov + q, mask=inside, other=0.0) + through
        lost -= through
        tl.store(g + q, now, mask=inside)
        current += weight * tl.expand_dims(now, 1)
        aJ, aA = aJ - now, aA - now
        carry = kk * aJ + st * aA + tl.sum(current, 0)
        current = decay * current
        aJ, aA = kp * aJ, rh * aA
    tl.store(z0 + own, carry, mask=inside)
    tl.store(J0 + own, aJ, mask=inside)
    tl.store(A0 + own, aA, mask=inside)
    tl.store(fired + own, lost, mask=inside)


@triton.jit(do_not_specialize=["t"])
def adjoint_step(
    ov,
    oz,
    d,
    g,
    z0,
    J1,
    A1,
    J0,
    A0,
    fired1,
    fired0,
    reset_strength,
    kappa,
    strength,
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
    """Step t of `adjoint_recurrent` for any N, from the states ...1 to ...0: with g[t] done, g[t-1] of this program's
    neurons, or z0 where FIRST (t = 0). c1 and c0 (B, N, N) are w a, decayed to the step that reads them.
    """
    b, k = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64) * BK + tl.arange(0, BK)
    inside, own = k < N, b * N + k
    total = tl.zeros((BK,), tl.float32)
    for i0 in range(0, N, BI):
        i = i0 + tl.arange(0, BI)
        both = tl.expand_dims(i < N, 1) & tl.expand_dims(inside, 0)
        at = tl.expand_dims(i, 1).to(tl.int64) * N + tl.expand_dims(k, 0)
        now = tl.expand_dims(tl.load(g + (t * B + b) * N + i, mask=i < N, other=0.0), 1)
        current = tl.load(c1 + b * N * N + at, mask=both, other=0.0)
        current += tl.load(w + at, mask=both, other=0.0) * now
        total += tl.sum(current, 0)
        tl.store(c0 + b * N * N + at, tl.load(p + at, mask=both, other=0.0) * current, mask=both)
    now = tl.load(g + (t * B + b) * N + k, mask=inside, other=0.0)
    aJ = tl.load(J1 + own, mask=inside, other=0.0) - now
    aA = tl.load(A1 + own, mask=inside, other=0.0) - now
    total += (
        tl.load(reset_strength + k, mask=inside, other=0.0) * aJ + tl.load(strength + k, mask=inside, other=0.0) * aA
    )
    tl.store(J0 + own, tl.load(kappa + k, mask=inside, other=0.0) * aJ, mask=inside)
    tl.store(A0 + own, tl.load(rho + k, mask=inside, other=0.0) * aA, mask=inside)
    lost = tl.load(fired1 + own, mask=inside, other=0.0)
    if FIRST:
        tl.store(z0 + own, total, mask=inside)
    else:
        q = ((t - 1) * B + b) * N + k
        through = (tl.load(oz + q, mask=inside, other=0.0) + total) * tl.load(d + q, mask=inside, other=0.0)
        tl.store(g + q, tl.load(ov + q, mask=inside, other=0.0) + through, mask=inside)
        lost -= through
    tl.store(fired0 + own, lost, mask=inside)


@triton.jit
def own_gradients(
    v, g, z0, J0, A0, oJ, oA, theta, reset_strength, kappa, strength, rho, out, T, B, N, BI: tl.constexpr
):
    """out (5, B, N): gradients of reset_strength, kappa, strength, rho and bias of every row.

    z0, J0, A0 are the first state, oJ, oA what is owed to the last J and A.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BI + tl.arange(0, BI)
    inside, own = i < N, tl.program_id(0).to(tl.int64) * N + i
    th, kk = tl.load(theta + i, mask=inside, other=1.0), tl.load(reset_strength + i, mask=inside, other=0.0)
    kp, st = tl.load(kappa + i, mask=inside, other=0.0), tl.load(strength + i, mask=inside, other=0.0)
    rh = tl.load(rho + i, mask=inside, other=0.0)
    z, J = tl.load(z0 + own, mask=inside, other=0.0), tl.load(J0 + own, mask=inside, other=0.0)
    A = tl.load(A0 + own, mask=inside, other=0.0)
    XJ, XA = tl.zeros((BI,), tl.float32), tl.zeros((BI,), tl.float32)
    SJ, SA = tl.zeros((BI,), tl.float32), tl.zeros((BI,), tl.float32)
    g_kick, g_kappa = tl.zeros((BI,), tl.float32), tl.zeros((BI,), tl.float32)
    g_strength, g_rho = tl.zeros((BI,), tl.float32), tl.zeros((BI,), tl.float32)
    g_bias = tl.zeros((BI,), tl.float32)
    for t in range(T):
        SJ, SA = kp * SJ + J, rh * SA + A
        J, A = kp * J + kk * z, rh * A + st * z
        XJ, XA = kp * XJ + z, rh * XA + z
        now = tl.load(g + (t * B + b) * N + i, mask=inside, other=0.0)
        g_bias += now
        g_kick, g_kappa = g_kick - now * XJ, g_kappa - now * SJ
        g_strength, g_rho = g_strength - now * XA, g_rho - now * SA
        z = tl.where(tl.load(v + (t * B + b) * N + i, mask=inside, other=0.0) > th, 1.0, 0.0)
    lJ, lA = tl.load(oJ + own, mask=inside, other=0.0), tl.load(oA + own, mask=inside, other=0.0)
    tl.store(out + own, g_kick + lJ * XJ, mask=inside)
    tl.store(out + (1 * B + b) * N + i, g_kappa + lJ * SJ, mask=inside)
    tl.store(out + (2 * B + b) * N + i, g_strength + lA * XA, mask=inside)
    tl.store(out + (3 * B + b) * N + i, g_rho + lA * SA, mask=inside)
    tl.store(out + (4 * B + b) * N + i, g_bias, mask=inside)
