"""The GPU kernels (Triton, float32): loops over time with the states in registers; no atomics, so the same bits always.

Sequences are (T, B, K) as torch has them. A program takes a tile of neurons i and sources j of one row b of the batch;
sums over tiles or rows are left to a second pass in torch. For a set of synapses with sources s and c = w a:

    I_ij[t] = r_ij I_ij[t-1] + w_ij s_j[t]       u_i  = sum_j I_ij
    c_ij[t] = r_ij c_ij[t+1] + w_ij g_i[t]       ds_j = sum_i c_ij        (the same scan, backwards, roles exchanged)

Flags are constants to the compiler. Written for Triton 2.3 too: reductions of 2-D tiles only, `tl.expand_dims`, and no
annotations from __future__, which its interpreter does not understand.
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
    b, it, jt = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
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
        if REVERSE:
            if step > 0:
                current = decay * current
        else:
            current = decay * current
        current += weight * source
        tl.store(u + ((jt * T + t) * B + b) * N + i, tl.sum(current, 1), mask=in_i)
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
            now = tl.expand_dims(tl.load(g + (t * B + b) * N + i, mask=in_i, other=0.0), 1)
            if step > 0:
                a = decay * a
            a += now
        tl.store(first + whole, decay * a, mask=inside)


@triton.jit
def fire(u, z0, J0, A0, theta, kick, kappa, strength, rho, T, B, N, BI: tl.constexpr):
    """u becomes v, in place; z0, J0, A0 (B, N) become the last ones. `kick`: what a spike adds to the reset current."""
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BI + tl.arange(0, BI)
    inside, own = i < N, tl.program_id(0).to(tl.int64) * N + i
    th, kk = tl.load(theta + i, mask=inside, other=1.0), tl.load(kick + i, mask=inside, other=0.0)
    kp, st = tl.load(kappa + i, mask=inside, other=0.0), tl.load(strength + i, mask=inside, other=0.0)
    rh = tl.load(rho + i, mask=inside, other=0.0)
    z, J = tl.load(z0 + own, mask=inside, other=0.0), tl.load(J0 + own, mask=inside, other=0.0)
    A = tl.load(A0 + own, mask=inside, other=0.0)
    for t in range(T):
        J = kp * J + kk * z
        A = rh * A + st * z
        v = tl.load(u + (t * B + b) * N + i, mask=inside, other=0.0) - J - A
        z = tl.where(v > th, 1.0, 0.0)
        tl.store(u + (t * B + b) * N + i, v, mask=inside)
    tl.store(z0 + own, z, mask=inside)
    tl.store(J0 + own, J, mask=inside)
    tl.store(A0 + own, A, mask=inside)


@triton.jit
def fire_recurrent(u, L, z0, J0, A0, theta, kick, kappa, strength, rho, p, w, T, B, N, NP: tl.constexpr):
    """As `fire`, with recurrent synapses p, w (N, N) and their currents L (B, N, N), in place; all of N in one tile."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, NP)
    inside, own = i < N, b * N + i
    both = tl.expand_dims(inside, 1) & tl.expand_dims(inside, 0)
    at = tl.expand_dims(i, 1) * N + tl.expand_dims(i, 0)
    decay, weight = tl.load(p + at, mask=both, other=0.0), tl.load(w + at, mask=both, other=0.0)
    current = tl.load(L + b * N * N + at, mask=both, other=0.0)
    th, kk = tl.load(theta + i, mask=inside, other=1.0), tl.load(kick + i, mask=inside, other=0.0)
    kp, st = tl.load(kappa + i, mask=inside, other=0.0), tl.load(strength + i, mask=inside, other=0.0)
    rh = tl.load(rho + i, mask=inside, other=0.0)
    z, J = tl.load(z0 + own, mask=inside, other=0.0), tl.load(J0 + own, mask=inside, other=0.0)
    A = tl.load(A0 + own, mask=inside, other=0.0)
    for t in range(T):
        current = decay * current + weight * tl.expand_dims(z, 0)
        J = kp * J + kk * z
        A = rh * A + st * z
        v = tl.load(u + (t * B + b) * N + i, mask=inside, other=0.0) + tl.sum(current, 1) - J - A
        z = tl.where(v > th, 1.0, 0.0)
        tl.store(u + (t * B + b) * N + i, v, mask=inside)
    tl.store(L + b * N * N + at, current, mask=both)
    tl.store(z0 + own, z, mask=inside)
    tl.store(J0 + own, J, mask=inside)
    tl.store(A0 + own, A, mask=inside)


@triton.jit
def fire_step(
    u, L, z, z_new, J0, A0, theta, kick, kappa, strength, rho, p, w, t, B, N, BI: tl.constexpr, BK: tl.constexpr
):
    """Step t of `fire_recurrent` for any N: reads all z (B, N) of the step before, writes its own z_new."""
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BI + tl.arange(0, BI)
    inside, own = i < N, tl.program_id(0).to(tl.int64) * N + i
    total = tl.zeros((BI,), tl.float32)
    for k0 in range(0, N, BK):
        k = k0 + tl.arange(0, BK)
        both = tl.expand_dims(inside, 1) & tl.expand_dims(k < N, 0)
        at = tl.expand_dims(i, 1) * N + tl.expand_dims(k, 0)
        source = tl.expand_dims(tl.load(z + b * N + k, mask=k < N, other=0.0), 0)
        current = tl.load(L + b * N * N + at, mask=both, other=0.0) * tl.load(p + at, mask=both, other=0.0)
        current += tl.load(w + at, mask=both, other=0.0) * source
        tl.store(L + b * N * N + at, current, mask=both)
        total += tl.sum(current, 1)
    before = tl.load(z + own, mask=inside, other=0.0)
    J = tl.load(kappa + i, mask=inside, other=0.0) * tl.load(J0 + own, mask=inside, other=0.0)
    J += tl.load(kick + i, mask=inside, other=0.0) * before
    A = tl.load(rho + i, mask=inside, other=0.0) * tl.load(A0 + own, mask=inside, other=0.0)
    A += tl.load(strength + i, mask=inside, other=0.0) * before
    v = tl.load(u + (t * B + b) * N + i, mask=inside, other=0.0) + total - J - A
    tl.store(u + (t * B + b) * N + i, v, mask=inside)
    tl.store(J0 + own, J, mask=inside)
    tl.store(A0 + own, A, mask=inside)
    tl.store(z_new + own, tl.where(v > tl.load(theta + i, mask=inside, other=1.0), 1.0, 0.0), mask=inside)


@triton.jit
def adjoint(g, gz, d, gz0, aJ0, aA0, fired, kick, kappa, strength, rho, T, B, N, BI: tl.constexpr):
    """g becomes dLoss/dv, in place: g[t] += gz[t] d[t], gz[t-1] += kick aJ + strength aA.

    gz0 (B, N) gets the gradient of the spikes before the first step; aJ0, aA0 hold what is owed to the last J and A and
    become the gradients of the first; `fired` gets -sum_t gz d, the threshold's part.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BI + tl.arange(0, BI)
    inside, own = i < N, tl.program_id(0).to(tl.int64) * N + i
    kk, kp = tl.load(kick + i, mask=inside, other=0.0), tl.load(kappa + i, mask=inside, other=0.0)
    st, rh = tl.load(strength + i, mask=inside, other=0.0), tl.load(rho + i, mask=inside, other=0.0)
    aJ, aA = tl.load(aJ0 + own, mask=inside, other=0.0), tl.load(aA0 + own, mask=inside, other=0.0)
    carry, lost = tl.zeros((BI,), tl.float32), tl.zeros((BI,), tl.float32)
    for step in range(T):
        q = ((T - 1 - step) * B + b) * N + i
        through = tl.load(gz + q, mask=inside, other=0.0) + carry
        through = through * tl.load(d + q, mask=inside, other=0.0)
        now = tl.load(g + q, mask=inside, other=0.0) + through
        lost -= through
        tl.store(g + q, now, mask=inside)
        aJ, aA = aJ - now, aA - now
        carry = kk * aJ + st * aA
        aJ, aA = kp * aJ, rh * aA
    tl.store(gz0 + own, carry, mask=inside)
    tl.store(aJ0 + own, aJ, mask=inside)
    tl.store(aA0 + own, aA, mask=inside)
    tl.store(fired + own, lost, mask=inside)


@triton.jit
def adjoint_recurrent(g, gz, d, c, gz0, aJ0, aA0, fired, kick, kappa, strength, rho, p, w, T, B, N, NP: tl.constexpr):
    """As `adjoint`, with recurrent synapses; c (B, N, N) is w times what is owed to the last recurrent currents."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, NP)
    inside, own = i < N, b * N + i
    both = tl.expand_dims(inside, 1) & tl.expand_dims(inside, 0)
    at = tl.expand_dims(i, 1) * N + tl.expand_dims(i, 0)
    decay, weight = tl.load(p + at, mask=both, other=0.0), tl.load(w + at, mask=both, other=0.0)
    current = tl.load(c + b * N * N + at, mask=both, other=0.0)
    kk, kp = tl.load(kick + i, mask=inside, other=0.0), tl.load(kappa + i, mask=inside, other=0.0)
    st, rh = tl.load(strength + i, mask=inside, other=0.0), tl.load(rho + i, mask=inside, other=0.0)
    aJ, aA = tl.load(aJ0 + own, mask=inside, other=0.0), tl.load(aA0 + own, mask=inside, other=0.0)
    carry, lost = tl.zeros((NP,), tl.float32), tl.zeros((NP,), tl.float32)
    for step in range(T):
        q = ((T - 1 - step) * B + b) * N + i
        through = tl.load(gz + q, mask=inside, other=0.0) + carry
        through = through * tl.load(d + q, mask=inside, other=0.0)
        now = tl.load(g + q, mask=inside, other=0.0) + through
        lost -= through
        tl.store(g + q, now, mask=inside)
        if step > 0:
            current = decay * current
        current += weight * tl.expand_dims(now, 1)
        aJ, aA = aJ - now, aA - now
        carry = kk * aJ + st * aA + tl.sum(current, 0)
        aJ, aA = kp * aJ, rh * aA
    tl.store(gz0 + own, carry, mask=inside)
    tl.store(aJ0 + own, aJ, mask=inside)
    tl.store(aA0 + own, aA, mask=inside)
    tl.store(fired + own, lost, mask=inside)


@triton.jit
def adjoint_step(
    g,
    gz,
    d,
    c,
    gz0,
    aJ0,
    aA0,
    fired,
    kick,
    kappa,
    strength,
    rho,
    p,
    w,
    t,
    B,
    N,
    BI: tl.constexpr,
    BK: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
):
    """Step t of `adjoint_recurrent` for any N: with g[t] done, g[t-1] of this program's neurons (or, at t = 0, gz0)."""
    b, k = tl.program_id(0).to(tl.int64), tl.program_id(1) * BK + tl.arange(0, BK)
    inside, own = k < N, tl.program_id(0).to(tl.int64) * N + k
    total = tl.zeros((BK,), tl.float32)
    for i0 in range(0, N, BI):
        i = i0 + tl.arange(0, BI)
        both = tl.expand_dims(i < N, 1) & tl.expand_dims(inside, 0)
        at = tl.expand_dims(i, 1) * N + tl.expand_dims(k, 0)
        now = tl.expand_dims(tl.load(g + (t * B + b) * N + i, mask=i < N, other=0.0), 1)
        current = tl.load(c + b * N * N + at, mask=both, other=0.0)
        if not LAST:
            current = tl.load(p + at, mask=both, other=0.0) * current
        current += tl.load(w + at, mask=both, other=0.0) * now
        tl.store(c + b * N * N + at, current, mask=both)
        total += tl.sum(current, 0)
    now = tl.load(g + (t * B + b) * N + k, mask=inside, other=0.0)
    aJ = tl.load(aJ0 + own, mask=inside, other=0.0) - now
    aA = tl.load(aA0 + own, mask=inside, other=0.0) - now
    total += tl.load(kick + k, mask=inside, other=0.0) * aJ + tl.load(strength + k, mask=inside, other=0.0) * aA
    tl.store(aJ0 + own, tl.load(kappa + k, mask=inside, other=0.0) * aJ, mask=inside)
    tl.store(aA0 + own, tl.load(rho + k, mask=inside, other=0.0) * aA, mask=inside)
    if FIRST:
        tl.store(gz0 + own, total, mask=inside)
    else:
        q = ((t - 1) * B + b) * N + k
        through = (tl.load(gz + q, mask=inside, other=0.0) + total) * tl.load(d + q, mask=inside, other=0.0)
        tl.store(g + q, tl.load(g + q, mask=inside, other=0.0) + through, mask=inside)
        tl.store(fired + own, tl.load(fired + own, mask=inside, other=0.0) - through, mask=inside)


@triton.jit
def own_gradients(v, g, z0, J0, A0, oJ, oA, theta, kick, kappa, strength, rho, out, T, B, N, BI: tl.constexpr):
    """out (5, B, N): gradients of kick, kappa, strength, rho and bias of every row.

    z0, J0, A0 are the first state, oJ, oA what is owed to the last J and A.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BI + tl.arange(0, BI)
    inside, own = i < N, tl.program_id(0).to(tl.int64) * N + i
    th, kk = tl.load(theta + i, mask=inside, other=1.0), tl.load(kick + i, mask=inside, other=0.0)
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
    tl.store(out + B * N + own, g_kappa + lJ * SJ, mask=inside)
    tl.store(out + 2 * B * N + own, g_strength + lA * XA, mask=inside)
    tl.store(out + 3 * B * N + own, g_rho + lA * SA, mask=inside)
    tl.store(out + 4 * B * N + own, g_bias, mask=inside)
