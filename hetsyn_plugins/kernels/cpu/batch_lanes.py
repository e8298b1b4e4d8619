"""Synapses with lanes = rows of the batch: what large batches use. States live in vector registers over all of time.

The currents I_ij (Deng et al. 2025, Eqs. 2 to 5; `core/reference.py`) are held as w_ij x_ij, and per sample, with
g[t] = dLoss/dv[t] (see `eager.py` for where this comes from):

    x_ij[t] = r_ij x_ij[t-1] + s_j[t]        u_i    = sum_j w_ij x_ij + ...
    y_ij[t] = r_ij y_ij[t-1] + x_ij[t-1]     dw_ij  = sum_t g_i x_ij          dr_ij = w_ij sum_t g_i y_ij
    a_ij[t] = g_i[t] + r_ij a_ij[t+1]        ds_j   = sum_i w_ij a_ij         (a scan with the roles exchanged)

    s        sources: the inputs, or for recurrent synapses z[t-1]      r, w      decays and weights of synapses (N, M)
    p, w     the same of recurrent synapses (N, N)                      u         sums of the synaptic currents
    h        what is left of first currents, r^t I[-1]                  X         traces x of recurrent synapses
    L        lanes       N, M   neurons and sources, padded             q, e, i   as in `soma.py`, as z, J, A, d, g

Sequences are packed as [block][K / 4][T][4][lanes]: a block is `lanes` rows of the batch, K is padded to a multiple of
4, and what an inner loop reads is contiguous. r and w are padded with zeros. `soma.py` says what every kernel keeps to.
Kernels are unrolled by fours by hand, for registers: that makes them longer than other functions.
"""

from __future__ import annotations

from hetsyn_plugins.kernels.cpu.compiled import kernel
from hetsyn_plugins.kernels.cpu.simd import add, fma, get, lanes, load, mul, put, splat, store, sub, total, turn
from hetsyn_plugins.kernels.cpu.soma import load_soma, soma_bwd, soma_fwd

CHUNK = 8  # steps packed at a time: what is written together is contiguous


@kernel
def pack(x, steps, batch, width, rows, out, start, stop):
    """x, flat (T, B, K), -> packed with K = rows; units are (block, chunk of steps)."""
    L = lanes(out)
    chunks = (steps + CHUNK - 1) // CHUNK
    for unit in range(start, stop):
        block, t0 = unit // chunks, unit % chunks * CHUNK
        here = min(L, batch - block * L)
        turned = width // L * L if here == L else 0
        for k in range(0, turned, L):
            for t in range(t0, min(t0 + CHUNK, steps)):
                q = ((block * (rows // 4) + k // 4) * steps + t) * 4 * L + k % 4 * L  # two lanes are half a tile
                turn(x, (t * batch + block * L) * width + k, 4 * width, width, out, q, steps * 4 * L, L)
        for tile in range(turned // 4, rows // 4):
            inside = min(4, width - tile * 4)
            for t in range(t0, min(t0 + CHUNK, steps)):
                q = ((block * (rows // 4) + tile) * steps + t) * 4 * L
                p = (t * batch + block * L) * width + tile * 4
                if here == L and inside == 4:
                    for lane in range(L):
                        put(out, q + lane, get(x, p))
                        put(out, q + L + lane, get(x, p + 1))
                        put(out, q + 2 * L + lane, get(x, p + 2))
                        put(out, q + 3 * L + lane, get(x, p + 3))
                        p += width
                else:
                    for k in range(4):
                        for lane in range(L):
                            known = k < inside and lane < here
                            out[q + k * L + lane] = x[p + lane * width + k] if known else 0


@kernel
def unpack(packed, rows, x, steps, batch, width, start, stop):
    """The inverse of `pack`."""
    L = lanes(packed)
    chunks = (steps + CHUNK - 1) // CHUNK
    for unit in range(start, stop):
        block, t0 = unit // chunks, unit % chunks * CHUNK
        turned = width // L * L if batch - block * L >= L else 0
        for k in range(0, turned, L):
            for t in range(t0, min(t0 + CHUNK, steps)):
                q = ((block * (rows // 4) + k // 4) * steps + t) * 4 * L + k % 4 * L  # two lanes are half a tile
                turn(packed, q, steps * 4 * L, L, x, (t * batch + block * L) * width + k, 4 * width, width)
        for tile in range(turned // 4, (width + 3) // 4):
            inside = min(4, width - tile * 4)
            for t in range(t0, min(t0 + CHUNK, steps)):
                q = ((block * (rows // 4) + tile) * steps + t) * 4 * L
                p = (t * batch + block * L) * width + tile * 4
                for lane in range(min(L, batch - block * L)):
                    for k in range(inside):
                        put(x, p + lane * width + k, get(packed, q + k * L + lane))


# long: unrolled by fours, one statement a line
@kernel
def currents_fwd(s, u, r, w, bias, state, sizes, steps, group, reverse, start, stop):
    """u_i[t] = bias_i + sum_j w_ij x_ij[t]; units are (block, group of i tiles).

    A group's u stays in the L2 cache while the tiles of s pass by. `reverse` runs time backwards. `state`, flat
    [N][M][block][lanes] with sizes = (blocks, N, M), gets the last currents w_ij x_ij; nothing where sizes are 0.
    """
    L = lanes(s)
    N, M = r.shape
    blocks, neurons, width = sizes
    groups = (N // 4 + group - 1) // group
    first, stride = ((steps - 1) * 4 * L, -4 * L) if reverse else (0, 4 * L)
    for unit in range(start, stop):
        block, tile0 = unit // groups, unit % groups * group
        tile1 = min(tile0 + group, N // 4)
        for i in range(tile0 * 4, tile1 * 4):
            start_value = splat(bias[i])
            u0 = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L
            for t in range(steps):
                store(u, u0 + t * 4 * L, start_value)
        for j in range(0, M, 4):
            for i in range(tile0 * 4, tile1 * 4, 2):
                r00, r01, r02, r03 = splat(r[i, j]), splat(r[i, j + 1]), splat(r[i, j + 2]), splat(r[i, j + 3])
                w00, w01, w02, w03 = splat(w[i, j]), splat(w[i, j + 1]), splat(w[i, j + 2]), splat(w[i, j + 3])
                k = i + 1
                r10, r11, r12, r13 = splat(r[k, j]), splat(r[k, j + 1]), splat(r[k, j + 2]), splat(r[k, j + 3])
                w10, w11, w12, w13 = splat(w[k, j]), splat(w[k, j + 1]), splat(w[k, j + 2]), splat(w[k, j + 3])
                x00 = x01 = x02 = x03 = x10 = x11 = x12 = x13 = sub(r00, r00)
                p = (block * (M // 4) + j // 4) * steps * 4 * L + first
                q = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L + first
                for _ in range(steps):
                    s0, s1, s2, s3 = load(s, p), load(s, p + L), load(s, p + 2 * L), load(s, p + 3 * L)
                    x00, x01, x02, x03 = fma(r00, x00, s0), fma(r01, x01, s1), fma(r02, x02, s2), fma(r03, x03, s3)
                    x10, x11, x12, x13 = fma(r10, x10, s0), fma(r11, x11, s1), fma(r12, x12, s2), fma(r13, x13, s3)
                    store(u, q, fma(w03, x03, fma(w02, x02, fma(w01, x01, fma(w00, x00, load(u, q))))))
                    store(u, q + L, fma(w13, x13, fma(w12, x12, fma(w11, x11, fma(w10, x10, load(u, q + L))))))
                    p += stride
                    q += stride
                if j >= width:
                    continue
                e = ((i * width + j) * blocks + block) * L
                for di in range(min(2, neurons - i)):
                    rest = width - j
                    if di == 0:
                        x0, x1, x2, x3 = mul(w00, x00), mul(w01, x01), mul(w02, x02), mul(w03, x03)
                    else:
                        x0, x1, x2, x3 = mul(w10, x10), mul(w11, x11), mul(w12, x12), mul(w13, x13)
                    store(state, e, x0)
                    if rest > 1:
                        store(state, e + blocks * L, x1)
                    if rest > 2:
                        store(state, e + 2 * blocks * L, x2)
                    if rest > 3:
                        store(state, e + 3 * blocks * L, x3)
                    e += width * blocks * L


@kernel
def initial_current_fwd(state, u, r, steps, start, stop):
    """u_i[t] += sum_j h_ij[t], h[t] = r h[t-1], h[-1] the first state [block][i][j][lanes]; units are (block, i)."""
    L = lanes(u)
    N, M = r.shape
    for unit in range(start, stop):
        block, i = unit // N, unit % N
        u0 = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L
        for j in range(0, M, 4):
            e = (unit * M + j) * L
            h0, h1, h2, h3 = load(state, e), load(state, e + L), load(state, e + 2 * L), load(state, e + 3 * L)
            r0, r1, r2, r3 = splat(r[i, j]), splat(r[i, j + 1]), splat(r[i, j + 2]), splat(r[i, j + 3])
            for t in range(steps):
                h0, h1, h2, h3 = mul(r0, h0), mul(r1, h1), mul(r2, h2), mul(r3, h3)
                q = u0 + t * 4 * L
                store(u, q, add(load(u, q), add(add(h0, h1), add(h2, h3))))


@kernel
def initial_current_bwd(state, g, r, gr, steps, blocks, start, stop):
    """gr_ij += sum_t g_i q_ij, q[t] = r q[t-1] + h[t-1]: what the first state adds; units are i."""
    L = lanes(g)
    N, M = r.shape
    for i in range(start, stop):
        for j in range(M):
            decay = splat(r[i, j])
            acc = sub(decay, decay)
            for block in range(blocks):
                h = load(state, ((block * N + i) * M + j) * L)
                q = sub(h, h)
                p = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L
                for _ in range(steps):
                    q = fma(decay, q, h)
                    h = mul(decay, h)
                    acc = fma(load(g, p), q, acc)
                    p += 4 * L
            gr[i, j] += total(acc)


# long: unrolled by fours, one statement a line
@kernel
def synapses_bwd(s, g, r, gw, gr, steps, blocks, group, start, stop):
    """gw_ij += sum g_i x_ij and gr_ij += sum g_i y_ij; units are (group of i tiles, group of j tiles).

    A group's tiles of s and g, of one block, stay in the L2 cache together.
    """
    L = lanes(s)
    N, M = r.shape
    columns = (M // 4 + group - 1) // group
    for unit in range(start, stop):
        it0, jt0 = unit // columns * group, unit % columns * group
        for block in range(blocks):
            for it in range(it0, min(it0 + group, N // 4)):
                for jt in range(jt0, min(jt0 + group, M // 4)):
                    for quarter in range(4):
                        di, dj = quarter // 2 * 2, quarter % 2 * 2
                        i, j = it * 4 + di, jt * 4 + dj
                        r00, r01, r10, r11 = (
                            splat(r[i, j]),
                            splat(r[i, j + 1]),
                            splat(r[i + 1, j]),
                            splat(r[i + 1, j + 1]),
                        )
                        x00 = x01 = x10 = x11 = y00 = y01 = y10 = y11 = sub(r00, r00)
                        a00 = a01 = a10 = a11 = c00 = c01 = c10 = c11 = x00
                        p = (block * (M // 4) + jt) * steps * 4 * L + dj * L
                        q = (block * (N // 4) + it) * steps * 4 * L + di * L
                        for _ in range(steps):
                            s0, s1, g0, g1 = load(s, p), load(s, p + L), load(g, q), load(g, q + L)
                            y00, y01 = fma(r00, y00, x00), fma(r01, y01, x01)
                            y10, y11 = fma(r10, y10, x10), fma(r11, y11, x11)
                            x00, x01 = fma(r00, x00, s0), fma(r01, x01, s1)
                            x10, x11 = fma(r10, x10, s0), fma(r11, x11, s1)
                            a00, a01, a10, a11 = (
                                fma(g0, x00, a00),
                                fma(g0, x01, a01),
                                fma(g1, x10, a10),
                                fma(g1, x11, a11),
                            )
                            c00, c01, c10, c11 = (
                                fma(g0, y00, c00),
                                fma(g0, y01, c01),
                                fma(g1, y10, c10),
                                fma(g1, y11, c11),
                            )
                            p += 4 * L
                            q += 4 * L
                        gw[i, j] += total(a00)
                        gw[i, j + 1] += total(a01)
                        gw[i + 1, j] += total(a10)
                        gw[i + 1, j + 1] += total(a11)
                        gr[i, j] += total(c00)
                        gr[i, j + 1] += total(c01)
                        gr[i + 1, j] += total(c10)
                        gr[i + 1, j + 1] += total(c11)


# ---- recurrent synapses
#
# Every neuron of a row needs the last spikes of all, so a unit of work is a block of rows, and its traces, N * N
# vectors, pass through the cache at every step: that, not arithmetic, is what a step costs. So they pass once for two
# steps. What is kept is Y[t] = p x[t], which lacks the spike that comes to it, x[t+1] = Y[t] + z[t], because that is
# not yet known. `z_now` is that spike, `z_next` the one after it:
#
#     x[t] = p (Y + z_now) + z_next    v[t]   += w x[t]
#     Y    = p x[t]                    v[t+1] += w Y          and w z[t], once v[t] has fired
#
# Backwards the same two steps serve, with a in the place of x and g in that of the spikes.


@kernel
def two_steps(X, x, z_now, z_next, n0, p, w, i, u, at, v, at_next):
    """x[t] and Y of the synapses of tile i; `u` at `at` gets w x[t], `v` at `at_next` w Y; X at x [k][4][lanes]."""
    L = lanes(X)
    u0, u1, u2, u3 = load(u, at), load(u, at + L), load(u, at + 2 * L), load(u, at + 3 * L)
    v0, v1, v2, v3 = (
        load(v, at_next),
        load(v, at_next + L),
        load(v, at_next + 2 * L),
        load(v, at_next + 3 * L),
    )
    for k in range(len(p)):
        a, b = load(z_now, n0 + k * L), load(z_next, n0 + k * L)
        p0, p1, p2, p3 = splat(p[i, k]), splat(p[i + 1, k]), splat(p[i + 2, k]), splat(p[i + 3, k])
        w0, w1, w2, w3 = splat(w[i, k]), splat(w[i + 1, k]), splat(w[i + 2, k]), splat(w[i + 3, k])
        x0, x1 = fma(p0, add(load(X, x), a), b), fma(p1, add(load(X, x + L), a), b)
        x2, x3 = fma(p2, add(load(X, x + 2 * L), a), b), fma(p3, add(load(X, x + 3 * L), a), b)
        u0, u1, u2, u3 = fma(w0, x0, u0), fma(w1, x1, u1), fma(w2, x2, u2), fma(w3, x3, u3)
        x0, x1, x2, x3 = mul(p0, x0), mul(p1, x1), mul(p2, x2), mul(p3, x3)
        store(X, x, x0)
        store(X, x + L, x1)
        store(X, x + 2 * L, x2)
        store(X, x + 3 * L, x3)
        v0, v1, v2, v3 = fma(w0, x0, v0), fma(w1, x1, v1), fma(w2, x2, v2), fma(w3, x3, v3)
        x += 4 * L
    store(u, at, u0)
    store(u, at + L, u1)
    store(u, at + 2 * L, u2)
    store(u, at + 3 * L, u3)
    store(v, at_next, v0)
    store(v, at_next + L, v1)
    store(v, at_next + 2 * L, v2)
    store(v, at_next + 3 * L, v3)


@kernel
def one_step(X, x, z_now, z_next, n0, p, w, i, u, at):
    """The last of an odd number of steps: X becomes x[t]."""
    L = lanes(X)
    for row in range(4):
        acc = load(u, at + row * L)
        for k in range(len(p)):
            e = x + (k * 4 + row) * L
            trace = fma(splat(p[i + row, k]), add(load(X, e), load(z_now, n0 + k * L)), load(z_next, n0 + k * L))
            store(X, e, trace)
            acc = fma(splat(w[i + row, k]), trace, acc)
        store(u, at + row * L, acc)


@kernel
def add_spikes(z, n0, w, i, u, at):
    """`u` at `at` gets w z: what the step before has just fired."""
    L = lanes(u)
    u0, u1, u2, u3 = load(u, at), load(u, at + L), load(u, at + 2 * L), load(u, at + 3 * L)
    for k in range(len(w)):
        zk = load(z, n0 + k * L)
        u0, u1 = fma(splat(w[i, k]), zk, u0), fma(splat(w[i + 1, k]), zk, u1)
        u2, u3 = fma(splat(w[i + 2, k]), zk, u2), fma(splat(w[i + 3, k]), zk, u3)
    store(u, at, u0)
    store(u, at + L, u1)
    store(u, at + 2 * L, u2)
    store(u, at + 3 * L, u3)


@kernel
def soma_step_fwd(u, block, t, z_prev, z, J0, A0, theta, reset_strength, kappa, adaptation_strength, rho, steps, N):
    """`soma_fwd` for step t of a block: `z_prev` holds z[t-1], z gets z[t]."""
    L = lanes(u)
    for i in range(N):
        q = ((block * (N // 4) + i // 4) * steps + t) * 4 * L + i % 4 * L
        e = (block * N + i) * L
        constants = load_soma(theta, reset_strength, kappa, adaptation_strength, rho, i * L)
        v, z_t, J, A = soma_fwd(load(u, q), load(z_prev, e), load(J0, e), load(A0, e), *constants)
        store(u, q, v)
        store(J0, e, J)
        store(A0, e, A)
        store(z, e, z_t)


@kernel
def recurrent_fwd(
    u, X, z_odd, z_even, J0, A0, theta, reset_strength, kappa, adaptation_strength, rho, p, w, steps, start, stop
):
    """As `soma.neurons_fwd`, with recurrent synapses p, w (N, N). Units are blocks.

    X     [block][i tile][k][4][lanes]   zeros, becomes the last traces
    z_even, z_odd   [block][N][lanes]    the first spikes, which become the last; zeros
    """
    L = lanes(u)
    N = len(p)
    for block in range(start, stop):
        n0, x0 = block * N * L, block * N * N * L
        soma = (J0, A0, theta, reset_strength, kappa, adaptation_strength, rho)
        for t in range(0, steps - 1, 2):
            for i in range(0, N, 4):
                q = ((block * (N // 4) + i // 4) * steps + t) * 4 * L
                two_steps(X, x0 + i * N * L, z_odd, z_even, n0, p, w, i, u, q, u, q + 4 * L)
            soma_step_fwd(u, block, t, z_even, z_odd, *soma, steps, N)
            for i in range(0, N, 4):
                q = ((block * (N // 4) + i // 4) * steps + t + 1) * 4 * L
                add_spikes(z_odd, n0, w, i, u, q)
            soma_step_fwd(u, block, t + 1, z_odd, z_even, *soma, steps, N)
        if steps % 2:
            for i in range(0, N, 4):
                q = ((block * (N // 4) + i // 4) * steps + steps - 1) * 4 * L
                one_step(X, x0 + i * N * L, z_odd, z_even, n0, p, w, i, u, q)
            soma_step_fwd(u, block, steps - 1, z_even, z_even, *soma, steps, N)
        else:
            for k in range(N):
                z = load(z_odd, n0 + k * L)
                for i in range(0, N, 4):
                    e = x0 + (i * N + k * 4) * L
                    for row in range(4):
                        store(X, e + row * L, add(load(X, e + row * L), z))


@kernel
def soma_step_bwd(
    g,
    gz,
    d,
    block,
    t,
    gz_t,
    gz_prev,
    g_t,
    aJ0,
    aA0,
    grad_threshold,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    steps,
    N,
):
    """`soma_bwd` for step t of a block: `gz_t` holds what later steps gave dLoss/dz[t], and is zeroed; `gz_prev` gets
    what J and A give dLoss/dz[t-1]; `g_t` gets g[t].
    """
    L = lanes(g)
    for i in range(N):
        q = ((block * (N // 4) + i // 4) * steps + t) * 4 * L + i % 4 * L
        e, i0 = (block * N + i) * L, i * L
        constants = load(reset_strength, i0), load(kappa, i0), load(adaptation_strength, i0), load(rho, i0)
        grad_z = add(load(gz, q), load(gz_t, e))
        g_i, grad_z_d, grad_z_prev, aJ, aA = soma_bwd(
            load(g, q), grad_z, load(d, q), load(aJ0, e), load(aA0, e), *constants
        )
        store(g, q, g_i)
        store(g_t, e, g_i)
        store(grad_threshold, e, sub(load(grad_threshold, e), grad_z_d))
        store(gz_t, e, sub(grad_z_d, grad_z_d))
        store(gz_prev, e, add(load(gz_prev, e), grad_z_prev))
        store(aJ0, e, aJ)
        store(aA0, e, aA)


# long: unrolled by fours, one statement a line
@kernel
def recurrent_bwd(
    g,
    gz,
    d,
    a,
    g_odd,
    g_even,
    gz_even,
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
    steps,
    start,
    stop,
):
    """As `soma.neurons_bwd`, with recurrent synapses pT, wT (k, i): the traces are a[t] = p a[t+1] + g[t], time runs
    backwards, and step t gives sum_i w a[t] to dLoss/dz[t-1]. Units are blocks.

    a                            [block][k tile][i][4][lanes]   zeros
    g_even, g_odd, gz0, gz_even  [block][N][lanes]              zeros: g of a step, dLoss/dz of the one before it
    """
    L = lanes(g)
    N = len(pT)
    for block in range(start, stop):
        n0, x0 = block * N * L, block * N * N * L
        soma = (aJ0, aA0, grad_threshold, reset_strength, kappa, adaptation_strength, rho)
        soma_step_bwd(g, gz, d, block, steps - 1, gz_even, gz0, g_even, *soma, steps, N)
        for t in range(steps - 1, 0, -2):  # gz0 is of z[t-1], gz_even of z[t-2]
            for k in range(0, N, 4):
                q = n0 + k * L
                two_steps(a, x0 + k * N * L, g_odd, g_even, n0, pT, wT, k, gz0, q, gz_even, q)
            soma_step_bwd(g, gz, d, block, t - 1, gz0, gz_even, g_odd, *soma, steps, N)
            for k in range(0, N, 4):
                add_spikes(g_odd, n0, wT, k, gz_even, n0 + k * L)
            if t > 1:
                soma_step_bwd(g, gz, d, block, t - 2, gz_even, gz0, g_even, *soma, steps, N)
        if steps % 2:
            for k in range(0, N, 4):
                one_step(a, x0 + k * N * L, g_odd, g_even, n0, pT, wT, k, gz0, n0 + k * L)
        else:
            for k in range(N):
                store(gz0, n0 + k * L, load(gz_even, n0 + k * L))
