"""Synapses with delays, with lanes = rows of the batch: each of them reads its source of some steps ago.

As `batch_lanes.py`, which has the legend, with a delay d = k + f for every synapse (`core/reference.py`, `taps`):

    x_ij[t] = r_ij x_ij[t-1] + (1 - f_ij) s_j[t-k_ij] + f_ij s_j[t-k_ij-1]       dd_ij = w_ij sum_t g_i (x1_ij - x0_ij)
    x0, x1    traces of the two steps alone: x = (1 - f) x0 + f x1

    k    whole steps        f    what is left, in [0, 1]        h    1 - f        D    how many steps are kept

Sources are packed as [block][K / 4][D + T][4][lanes], D steps of the past in front; gradients, which are read backwards
in time, have D steps of zeros behind. Whole delays (f = 0) have kernels of their own, with half the work.
"""

from __future__ import annotations

from hetsyn_plugins.kernels.cpu.batch_lanes import soma_step_bwd, soma_step_fwd
from hetsyn_plugins.kernels.cpu.compiled import kernel
from hetsyn_plugins.kernels.cpu.simd import add, fma, lanes, load, mul, splat, store, sub, total


@kernel
def start_values(u, bias, block, tile0, tile1, N, steps):
    """u of the tiles tile0 to tile1 becomes the bias."""
    L = lanes(u)
    for i in range(tile0 * 4, tile1 * 4):
        value = splat(bias[i])
        q = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L
        for t in range(steps):
            store(u, q + t * 4 * L, value)


@kernel
def whole_fwd(s, u, r, w, k, f, h, bias, state, sizes, steps, past, group, reverse, start, stop):
    """u_i[t] = bias_i + sum_j w_ij x_ij[t] for whole delays; the rest as in `batch_lanes.currents_fwd`.

    past   D; f and h are not read
    """
    L = lanes(s)
    N, M = r.shape
    blocks, neurons, width = sizes
    groups = (N // 4 + group - 1) // group
    stride = -4 * L if reverse else 4 * L
    for unit in range(start, stop):
        block, tile0 = unit // groups, unit % groups * group
        tile1 = min(tile0 + group, N // 4)
        start_values(u, bias, block, tile0, tile1, N, steps)
        for j in range(0, M, 4):
            p0 = (block * (M // 4) + j // 4) * (steps + past) * 4 * L + ((steps - 1) if reverse else past) * 4 * L
            for i in range(tile0 * 4, tile1 * 4):
                r0, r1, r2, r3 = splat(r[i, j]), splat(r[i, j + 1]), splat(r[i, j + 2]), splat(r[i, j + 3])
                w0, w1, w2, w3 = splat(w[i, j]), splat(w[i, j + 1]), splat(w[i, j + 2]), splat(w[i, j + 3])
                x0 = x1 = x2 = x3 = sub(r0, r0)
                a, b = p0 - k[i, j] * stride, p0 - k[i, j + 1] * stride + L
                c, d = p0 - k[i, j + 2] * stride + 2 * L, p0 - k[i, j + 3] * stride + 3 * L
                q = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L + ((steps - 1) * 4 * L if reverse else 0)
                for _ in range(steps):
                    x0, x1 = fma(r0, x0, load(s, a)), fma(r1, x1, load(s, b))
                    x2, x3 = fma(r2, x2, load(s, c)), fma(r3, x3, load(s, d))
                    store(u, q, add(fma(w1, x1, fma(w0, x0, load(u, q))), fma(w3, x3, mul(w2, x2))))
                    a += stride
                    b += stride
                    c += stride
                    d += stride
                    q += stride
                if i < neurons:
                    store_currents(
                        state, i, j, width, blocks, block, mul(w0, x0), mul(w1, x1), mul(w2, x2), mul(w3, x3)
                    )


@kernel
def store_currents(state, i, j, width, blocks, block, x0, x1, x2, x3):
    """The last currents of four synapses, as far as they are there."""
    L = lanes(state)
    e = ((i * width + j) * blocks + block) * L
    if j < width:
        store(state, e, x0)
    if j + 1 < width:
        store(state, e + blocks * L, x1)
    if j + 2 < width:
        store(state, e + 2 * blocks * L, x2)
    if j + 3 < width:
        store(state, e + 3 * blocks * L, x3)


# long: unrolled by fours, one statement a line
@kernel
def fractional_fwd(s, u, r, w, k, f, h, bias, state, sizes, steps, past, group, reverse, start, stop):
    """As `whole_fwd`, for delays that are not whole: the source of the step before is the one read last."""
    L = lanes(s)
    N, M = r.shape
    blocks, neurons, width = sizes
    groups = (N // 4 + group - 1) // group
    stride = -4 * L if reverse else 4 * L
    for unit in range(start, stop):
        block, tile0 = unit // groups, unit % groups * group
        tile1 = min(tile0 + group, N // 4)
        start_values(u, bias, block, tile0, tile1, N, steps)
        for j in range(0, M, 4):
            p0 = (block * (M // 4) + j // 4) * (steps + past) * 4 * L + ((steps - 1) if reverse else past) * 4 * L
            for i in range(tile0 * 4, tile1 * 4):
                r0, r1, r2, r3 = splat(r[i, j]), splat(r[i, j + 1]), splat(r[i, j + 2]), splat(r[i, j + 3])
                w0, w1, w2, w3 = splat(w[i, j]), splat(w[i, j + 1]), splat(w[i, j + 2]), splat(w[i, j + 3])
                f0, f1, f2, f3 = splat(f[i, j]), splat(f[i, j + 1]), splat(f[i, j + 2]), splat(f[i, j + 3])
                h0, h1, h2, h3 = splat(h[i, j]), splat(h[i, j + 1]), splat(h[i, j + 2]), splat(h[i, j + 3])
                x0 = x1 = x2 = x3 = sub(r0, r0)
                a, b = p0 - k[i, j] * stride, p0 - k[i, j + 1] * stride + L
                c, d = p0 - k[i, j + 2] * stride + 2 * L, p0 - k[i, j + 3] * stride + 3 * L
                a0, a1, a2, a3 = load(s, a - stride), load(s, b - stride), load(s, c - stride), load(s, d - stride)
                q = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L + ((steps - 1) * 4 * L if reverse else 0)
                for _ in range(steps):
                    s0, s1, s2, s3 = load(s, a), load(s, b), load(s, c), load(s, d)
                    x0, x1 = fma(r0, x0, fma(f0, a0, mul(h0, s0))), fma(r1, x1, fma(f1, a1, mul(h1, s1)))
                    x2, x3 = fma(r2, x2, fma(f2, a2, mul(h2, s2))), fma(r3, x3, fma(f3, a3, mul(h3, s3)))
                    store(u, q, add(fma(w1, x1, fma(w0, x0, load(u, q))), fma(w3, x3, mul(w2, x2))))
                    a0, a1, a2, a3 = s0, s1, s2, s3
                    a += stride
                    b += stride
                    c += stride
                    d += stride
                    q += stride
                if i < neurons:
                    store_currents(
                        state, i, j, width, blocks, block, mul(w0, x0), mul(w1, x1), mul(w2, x2), mul(w3, x3)
                    )


# long: unrolled by fours, one statement a line
@kernel
def whole_bwd(s, g, r, k, f, h, gw, gr, gd, steps, past, blocks, group, start, stop):
    """gw_ij += sum g_i x_ij and gr_ij += sum g_i y_ij for whole delays; units as `batch_lanes.synapses_bwd`."""
    L = lanes(s)
    N, M = r.shape
    columns = (M // 4 + group - 1) // group
    for unit in range(start, stop):
        it0, jt0 = unit // columns * group, unit % columns * group
        for block in range(blocks):
            for i in range(it0 * 4, min(it0 + group, N // 4) * 4):
                for jt in range(jt0, min(jt0 + group, M // 4)):
                    j = jt * 4
                    r0, r1, r2, r3 = splat(r[i, j]), splat(r[i, j + 1]), splat(r[i, j + 2]), splat(r[i, j + 3])
                    x0 = x1 = x2 = x3 = y0 = y1 = y2 = y3 = sub(r0, r0)
                    w0 = w1 = w2 = w3 = c0 = c1 = c2 = c3 = x0
                    p0 = ((block * (M // 4) + jt) * (steps + past) + past) * 4 * L
                    a, b = p0 - k[i, j] * 4 * L, p0 - k[i, j + 1] * 4 * L + L
                    c, d = p0 - k[i, j + 2] * 4 * L + 2 * L, p0 - k[i, j + 3] * 4 * L + 3 * L
                    q = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L
                    for _ in range(steps):
                        g_t = load(g, q)
                        y0, y1, y2, y3 = fma(r0, y0, x0), fma(r1, y1, x1), fma(r2, y2, x2), fma(r3, y3, x3)
                        x0, x1 = fma(r0, x0, load(s, a)), fma(r1, x1, load(s, b))
                        x2, x3 = fma(r2, x2, load(s, c)), fma(r3, x3, load(s, d))
                        w0, w1, w2, w3 = fma(g_t, x0, w0), fma(g_t, x1, w1), fma(g_t, x2, w2), fma(g_t, x3, w3)
                        c0, c1, c2, c3 = fma(g_t, y0, c0), fma(g_t, y1, c1), fma(g_t, y2, c2), fma(g_t, y3, c3)
                        a += 4 * L
                        b += 4 * L
                        c += 4 * L
                        d += 4 * L
                        q += 4 * L
                    add_totals(gw, i, j, w0, w1, w2, w3)
                    add_totals(gr, i, j, c0, c1, c2, c3)


@kernel
def add_totals(out, i, j, x0, x1, x2, x3):
    """out[i, j] to out[i, j + 3] get the sums of the lanes."""
    out[i, j] += total(x0)
    out[i, j + 1] += total(x1)
    out[i, j + 2] += total(x2)
    out[i, j + 3] += total(x3)


# long: unrolled by twos, one statement a line
@kernel
def fractional_bwd(s, g, r, k, f, h, gw, gr, gd, steps, past, blocks, group, start, stop):
    """As `whole_bwd`, for delays that are not whole, and gd_ij += sum g_i (x1_ij - x0_ij)."""
    L = lanes(s)
    N, M = r.shape
    columns = (M // 4 + group - 1) // group
    for unit in range(start, stop):
        it0, jt0 = unit // columns * group, unit % columns * group
        for block in range(blocks):
            for i in range(it0 * 4, min(it0 + group, N // 4) * 4):
                for j in range(jt0 * 4, min(jt0 + group, M // 4) * 4, 2):
                    r0, r1, f0, f1 = splat(r[i, j]), splat(r[i, j + 1]), splat(f[i, j]), splat(f[i, j + 1])
                    h0, h1 = splat(h[i, j]), splat(h[i, j + 1])
                    x0 = x1 = z0 = z1 = y0 = y1 = sub(r0, r0)  # x0 and z0 are x0 and x1 of the first synapse
                    w0 = w1 = v0 = v1 = c0 = c1 = x0
                    p0 = ((block * (M // 4) + j // 4) * (steps + past) + past) * 4 * L + j % 4 * L
                    a, b = p0 - k[i, j] * 4 * L, p0 - k[i, j + 1] * 4 * L + L
                    a0, a1 = load(s, a - 4 * L), load(s, b - 4 * L)
                    q = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L
                    for _ in range(steps):
                        g_t, s0, s1 = load(g, q), load(s, a), load(s, b)
                        y0, y1 = fma(r0, y0, fma(f0, z0, mul(h0, x0))), fma(r1, y1, fma(f1, z1, mul(h1, x1)))
                        x0, x1, z0, z1 = fma(r0, x0, s0), fma(r1, x1, s1), fma(r0, z0, a0), fma(r1, z1, a1)
                        w0, w1, v0, v1 = fma(g_t, x0, w0), fma(g_t, x1, w1), fma(g_t, z0, v0), fma(g_t, z1, v1)
                        c0, c1 = fma(g_t, y0, c0), fma(g_t, y1, c1)
                        a0, a1 = s0, s1
                        a += 4 * L
                        b += 4 * L
                        q += 4 * L
                    gw[i, j] += total(fma(f0, v0, mul(h0, w0)))
                    gw[i, j + 1] += total(fma(f1, v1, mul(h1, w1)))
                    gr[i, j] += total(c0)
                    gr[i, j + 1] += total(c1)
                    gd[i, j] += total(sub(v0, w0))
                    gd[i, j + 1] += total(sub(v1, w1))


# ---- recurrent synapses
#
# Every neuron needs the spikes of all, of up to D + 1 steps ago, so these are kept as rows [step][block][N][lanes], and
# the traces pass through the cache at every step. Backwards g takes the place of the spikes.


@kernel
def delayed_step(X, x0, rows, at, n0, width, p, w, k, f, h, i, u, q):
    """Traces of the synapses of tile i, X at x0 [k][4][lanes], move on a step, and `u` at q gets w x.

    rows   sources, flat [step][width]; the step of delay 0 begins at `at`; later delays lie `width` before
    """
    L = lanes(X)
    u0, u1, u2, u3 = load(u, q), load(u, q + L), load(u, q + 2 * L), load(u, q + 3 * L)
    x = x0
    for j in range(len(p)):
        e = at + n0 + j * L
        a, b = e - k[i, j] * width, e - k[i + 1, j] * width
        c, d = e - k[i + 2, j] * width, e - k[i + 3, j] * width
        s0 = fma(splat(f[i, j]), load(rows, a - width), mul(splat(h[i, j]), load(rows, a)))
        s1 = fma(splat(f[i + 1, j]), load(rows, b - width), mul(splat(h[i + 1, j]), load(rows, b)))
        s2 = fma(splat(f[i + 2, j]), load(rows, c - width), mul(splat(h[i + 2, j]), load(rows, c)))
        s3 = fma(splat(f[i + 3, j]), load(rows, d - width), mul(splat(h[i + 3, j]), load(rows, d)))
        s0, s1 = fma(splat(p[i, j]), load(X, x), s0), fma(splat(p[i + 1, j]), load(X, x + L), s1)
        s2, s3 = fma(splat(p[i + 2, j]), load(X, x + 2 * L), s2), fma(splat(p[i + 3, j]), load(X, x + 3 * L), s3)
        store(X, x, s0)
        store(X, x + L, s1)
        store(X, x + 2 * L, s2)
        store(X, x + 3 * L, s3)
        u0, u1 = fma(splat(w[i, j]), s0, u0), fma(splat(w[i + 1, j]), s1, u1)
        u2, u3 = fma(splat(w[i + 2, j]), s2, u2), fma(splat(w[i + 3, j]), s3, u3)
        x += 4 * L
    store(u, q, u0)
    store(u, q + L, u1)
    store(u, q + 2 * L, u2)
    store(u, q + 3 * L, u3)


@kernel
def recurrent_fwd(
    u, X, Z, z0, J0, A0, theta, reset_strength, kappa, adaptation_strength, rho, p, w, k, f, h, steps, past, start, stop
):
    """As `batch_lanes.recurrent_fwd`; units are blocks.

    Z    [1 + D + 1 + T][block][N][lanes]: a row that only f = 0 reads, D + 1 steps of spikes before the first, zeros
    z0   becomes the last spikes
    """
    L = lanes(u)
    N = len(p)
    rows, width = Z.ravel(), Z.shape[1]
    soma = (J0, A0, theta, reset_strength, kappa, adaptation_strength, rho)
    for block in range(start, stop):
        n0, x0 = block * N * L, block * N * N * L
        for t in range(steps):
            now = 1 + past + t  # the row of z[t-1]
            for i in range(0, N, 4):
                q = ((block * (N // 4) + i // 4) * steps + t) * 4 * L
                delayed_step(X, x0 + i * N * L, rows, now * width, n0, width, p, w, k, f, h, i, u, q)
            soma_step_fwd(u, block, t, Z[now], Z[now + 1], *soma, steps, N)
        for i in range(N):
            store(z0, n0 + i * L, load(Z[1 + past + steps], n0 + i * L))


# long: a line for every array
@kernel
def recurrent_bwd(
    g,
    gz,
    d,
    a,
    G,
    gz_t,
    gz_prev,
    gz0,
    aJ0,
    aA0,
    grad_threshold,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    pT,
    wT,
    kT,
    fT,
    hT,
    steps,
    past,
    start,
    stop,
):
    """As `batch_lanes.recurrent_bwd`; units are blocks.

    G              [1 + D + T][block][N][lanes]: zeros, of which row D + T - t becomes g[t]; row 0 only f = 0 reads
    gz_t, gz_prev  [block][N][lanes], zeros: dLoss/dz of the step and of the one before it
    """
    L = lanes(g)
    N = len(pT)
    rows, width = G.ravel(), G.shape[1]
    soma = (aJ0, aA0, grad_threshold, reset_strength, kappa, adaptation_strength, rho)
    for block in range(start, stop):
        n0, x0 = block * N * L, block * N * N * L
        for t in range(steps - 1, -1, -1):
            now = 1 + past + steps - 1 - t
            soma_step_bwd(g, gz, d, block, t, gz_t, gz_prev, G[now], *soma, steps, N)
            for i in range(0, N, 4):
                e = n0 + i * L
                delayed_step(a, x0 + i * N * L, rows, now * width, n0, width, pT, wT, kT, fT, hT, i, gz_prev, e)
            for i in range(N):  # on to the step before
                e = n0 + i * L
                store(gz_t, e, load(gz_prev, e))
                store(gz_prev, e, sub(load(gz_t, e), load(gz_t, e)))
        for i in range(N):
            store(gz0, n0 + i * L, load(gz_t, n0 + i * L))
