"""The CPU kernels: loops over time with the states in vector registers, lanes = rows of the batch.

Sequences are packed as [block][K / 4][T][4][lanes]: a block is `lanes` rows of the batch, K is padded to a multiple of
4, and what an inner loop reads is contiguous. Every kernel takes a range of units of work to do, releases the GIL, and
writes nothing that another unit reads: results are the same to the bit for any number of threads.

With g[t] = dLoss/dv[t], per sample (see `eager.py` for where this comes from):

    x_ij[t] = r_ij x_ij[t-1] + s_j[t]        v_i    = sum_j w_ij x_ij + ...
    y_ij[t] = r_ij y_ij[t-1] + x_ij[t-1]     dw_ij  = sum_t g_i x_ij          dr_ij = w_ij sum_t g_i y_ij
    a_ij[t] = g_i[t] + r_ij a_ij[t+1]        ds_j   = sum_i w_ij a_ij         (a scan with the roles exchanged)
"""

from __future__ import annotations

from numba import njit

from hetsyn_plugins.kernels.simd import above, add, fma, lanes, load, mul, splat, store, sub, total

kernel = njit(nogil=True, cache=True)


@kernel
def pack(x, rows, out, start, stop):
    """x (T, B, K) -> packed with K = rows; units are (block, t)."""
    L = lanes(out)
    steps, batch, width = x.shape
    for unit in range(start, stop):
        block, t = unit // steps, unit % steps
        full = (block + 1) * L <= batch
        for tile in range(rows // 4):
            base = ((block * (rows // 4) + tile) * steps + t) * 4 * L
            for lane in range(L):
                for k in range(4):
                    inside = tile * 4 + k < width and (full or block * L + lane < batch)
                    out[base + k * L + lane] = x[t, block * L + lane, tile * 4 + k] if inside else 0


@kernel
def unpack(packed, rows, x, start, stop):
    """The inverse of `pack`; units are (block, t)."""
    L = lanes(packed)
    steps, batch, width = x.shape
    for unit in range(start, stop):
        block, t = unit // steps, unit % steps
        for lane in range(min(L, batch - block * L)):
            for column in range(width):
                base = ((block * (rows // 4) + column // 4) * steps + t) * 4 * L
                x[t, block * L + lane, column] = packed[base + (column % 4) * L + lane]


@kernel
def scan(s, u, r, w, bias, ends, want_ends, steps, group, reverse, start, stop):
    """u_i[t] = bias_i + sum_j w_ij x_ij[t]; units are (block, group of i tiles).

    A group's u stays in the L2 cache while the tiles of s pass by. `reverse` runs time backwards. `ends` gets the last
    x, [block][i][j][lanes], where `want_ends`.
    """
    L = lanes(s)
    N, M = r.shape
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
                if want_ends:
                    e = ((block * N + i) * M + j) * L
                    (
                        store(ends, e, x00),
                        store(ends, e + L, x01),
                        store(ends, e + 2 * L, x02),
                        store(ends, e + 3 * L, x03),
                    )
                    e += M * L
                    (
                        store(ends, e, x10),
                        store(ends, e + L, x11),
                        store(ends, e + 2 * L, x12),
                        store(ends, e + 3 * L, x13),
                    )


@kernel
def unpack_state(ends, w, state, start, stop):
    """state (B, N, M) = w_ij x_ij from the ends of a scan; units are (block, i)."""
    L = lanes(ends)
    batch, N, M = state.shape
    rows, columns = w.shape
    for unit in range(start, stop):
        block, i = unit // N, unit % N
        for j in range(M):
            base = ((block * rows + i) * columns + j) * L
            for lane in range(min(L, batch - block * L)):
                state[block * L + lane, i, j] = w[i, j] * ends[base + lane]


@kernel
def free_decay(state, u, r, steps, start, stop):
    """u_i[t] += sum_j h_ij[t], h[t] = r h[t-1], h[-1] the first state [block][i][j][lanes]; units are (block, i)."""
    L = lanes(u)
    N, M = r.shape
    for unit in range(start, stop):
        block, i = unit // N, unit % N
        u0 = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L
        for j in range(M):
            h, decay = load(state, (unit * M + j) * L), splat(r[i, j])
            for t in range(steps):
                h = mul(decay, h)
                q = u0 + t * 4 * L
                store(u, q, add(load(u, q), h))


@kernel
def free_decay_gradients(state, g, r, gr, steps, blocks, start, stop):
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


@kernel
def gradients(s, g, r, gw, gr, steps, blocks, start, stop):
    """gw_ij = sum g_i x_ij and gr_ij = sum g_i y_ij; units are (i tile, j tile)."""
    L = lanes(s)
    N, M = r.shape
    for unit in range(start, stop):
        it, jt = unit // (M // 4), unit % (M // 4)
        for quarter in range(4):
            di, dj = quarter // 2 * 2, quarter % 2 * 2
            i, j = it * 4 + di, jt * 4 + dj
            r00, r01, r10, r11 = splat(r[i, j]), splat(r[i, j + 1]), splat(r[i + 1, j]), splat(r[i + 1, j + 1])
            zero = sub(r00, r00)
            a00 = a01 = a10 = a11 = c00 = c01 = c10 = c11 = zero
            for block in range(blocks):
                x00 = x01 = x10 = x11 = y00 = y01 = y10 = y11 = zero
                p = (block * (M // 4) + jt) * steps * 4 * L + dj * L
                q = (block * (N // 4) + it) * steps * 4 * L + di * L
                for _ in range(steps):
                    s0, s1, g0, g1 = load(s, p), load(s, p + L), load(g, q), load(g, q + L)
                    y00, y01, y10, y11 = fma(r00, y00, x00), fma(r01, y01, x01), fma(r10, y10, x10), fma(r11, y11, x11)
                    x00, x01, x10, x11 = fma(r00, x00, s0), fma(r01, x01, s1), fma(r10, x10, s0), fma(r11, x11, s1)
                    a00, a01, a10, a11 = fma(g0, x00, a00), fma(g0, x01, a01), fma(g1, x10, a10), fma(g1, x11, a11)
                    c00, c01, c10, c11 = fma(g0, y00, c00), fma(g0, y01, c01), fma(g1, y10, c10), fma(g1, y11, c11)
                    p += 4 * L
                    q += 4 * L
            gw[i, j], gw[i, j + 1], gw[i + 1, j], gw[i + 1, j + 1] = total(a00), total(a01), total(a10), total(a11)
            gr[i, j], gr[i, j + 1], gr[i + 1, j], gr[i + 1, j + 1] = total(c00), total(c01), total(c10), total(c11)


@kernel
def fire(u, z0, J0, A0, theta, kick, kappa, strength, rho, steps, start, stop):
    """u becomes v, in place; z0, J0, A0 [block][i][lanes] become the last ones; units are (block, i).

    `kick` is what a spike adds to the reset current: the threshold, or 0 where there is no reset.
    """
    L = lanes(u)
    N = len(theta)
    for unit in range(start, stop):
        block, i = unit // N, unit % N
        z, J, A = load(z0, unit * L), load(J0, unit * L), load(A0, unit * L)
        th, kk, kp, st, rh = splat(theta[i]), splat(kick[i]), splat(kappa[i]), splat(strength[i]), splat(rho[i])
        q = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L
        for _ in range(steps):
            J = fma(kp, J, mul(kk, z))
            A = fma(rh, A, mul(st, z))
            v = sub(sub(load(u, q), J), A)
            z = above(v, th)
            store(u, q, v)
            q += 4 * L
        store(z0, unit * L, z), store(J0, unit * L, J), store(A0, unit * L, A)


@kernel
def fire_recurrent(u, X, z0, J0, A0, theta, kick, kappa, strength, rho, p, w, steps, start, stop):
    """As `fire`, with recurrent synapses p, w (N, N); X [block][i tile][k][4][lanes], zeros, becomes the last traces.

    Units are blocks: every neuron of a row needs the last spikes of all.
    """
    L = lanes(u)
    N = len(theta)
    for block in range(start, stop):
        n0, x0 = block * N * L, block * N * N * L
        for t in range(steps):
            for i in range(0, N, 4):
                q = ((block * (N // 4) + i // 4) * steps + t) * 4 * L
                u0, u1, u2, u3 = load(u, q), load(u, q + L), load(u, q + 2 * L), load(u, q + 3 * L)
                x = x0 + i * N * L
                for k in range(N):
                    z = load(z0, n0 + k * L)
                    t0 = fma(splat(p[i, k]), load(X, x), z)
                    t1 = fma(splat(p[i + 1, k]), load(X, x + L), z)
                    t2 = fma(splat(p[i + 2, k]), load(X, x + 2 * L), z)
                    t3 = fma(splat(p[i + 3, k]), load(X, x + 3 * L), z)
                    store(X, x, t0), store(X, x + L, t1), store(X, x + 2 * L, t2), store(X, x + 3 * L, t3)
                    u0, u1 = fma(splat(w[i, k]), t0, u0), fma(splat(w[i + 1, k]), t1, u1)
                    u2, u3 = fma(splat(w[i + 2, k]), t2, u2), fma(splat(w[i + 3, k]), t3, u3)
                    x += 4 * L
                store(u, q, u0), store(u, q + L, u1), store(u, q + 2 * L, u2), store(u, q + 3 * L, u3)
            for i in range(N):
                q = ((block * (N // 4) + i // 4) * steps + t) * 4 * L + i % 4 * L
                z = load(z0, n0 + i * L)
                J = fma(splat(kappa[i]), load(J0, n0 + i * L), mul(splat(kick[i]), z))
                A = fma(splat(rho[i]), load(A0, n0 + i * L), mul(splat(strength[i]), z))
                v = sub(sub(load(u, q), J), A)
                store(u, q, v), store(J0, n0 + i * L, J), store(A0, n0 + i * L, A)
                store(z0, n0 + i * L, above(v, splat(theta[i])))


@kernel
def adjoint(g, gz, d, gz0, aJ0, aA0, fired, kick, kappa, strength, rho, steps, start, stop):
    """g becomes dLoss/dv, in place: g[t] += gz[t] d[t], gz[t-1] += kick aJ + strength aA; units are (block, i).

    gz0 gets the gradient of the spikes before the first step; aJ0, aA0 hold what is owed to the last J and A and become
    the gradients of the first; `fired` gets -sum_t gz d, the threshold's part.
    """
    L = lanes(g)
    N = len(kick)
    for unit in range(start, stop):
        block, i = unit // N, unit % N
        kk, kp, st, rh = splat(kick[i]), splat(kappa[i]), splat(strength[i]), splat(rho[i])
        aJ, aA = load(aJ0, unit * L), load(aA0, unit * L)
        carry = sub(kk, kk)
        lost = carry
        for t in range(steps - 1, -1, -1):
            q = ((block * (N // 4) + i // 4) * steps + t) * 4 * L + i % 4 * L
            through = mul(add(load(gz, q), carry), load(d, q))
            now = add(load(g, q), through)
            lost = sub(lost, through)
            store(g, q, now)
            bJ, bA = sub(aJ, now), sub(aA, now)
            carry = fma(kk, bJ, mul(st, bA))
            aJ, aA = mul(kp, bJ), mul(rh, bA)
        store(gz0, unit * L, carry), store(aJ0, unit * L, aJ), store(aA0, unit * L, aA), store(fired, unit * L, lost)


@kernel
def adjoint_recurrent(g, gz, d, a, gz0, aJ0, aA0, fired, kick, kappa, strength, rho, p, w, steps, start, stop):
    """As `adjoint`, with recurrent synapses; a [block][i tile][k][4][lanes] is scratch, zeros. Units: blocks."""
    L = lanes(g)
    N = len(kick)
    for block in range(start, stop):
        n0 = block * N * L
        for t in range(steps - 1, -1, -1):
            for i in range(N):
                q = ((block * (N // 4) + i // 4) * steps + t) * 4 * L + i % 4 * L
                e = n0 + i * L
                through = mul(add(load(gz, q), load(gz0, e)), load(d, q))
                now = add(load(g, q), through)
                store(g, q, now), store(fired, e, sub(load(fired, e), through))
                bJ, bA = sub(load(aJ0, e), now), sub(load(aA0, e), now)
                store(gz0, e, fma(splat(kick[i]), bJ, mul(splat(strength[i]), bA)))
                store(aJ0, e, mul(splat(kappa[i]), bJ)), store(aA0, e, mul(splat(rho[i]), bA))
            for i in range(0, N, 4):
                q = ((block * (N // 4) + i // 4) * steps + t) * 4 * L
                g0, g1, g2, g3 = load(g, q), load(g, q + L), load(g, q + 2 * L), load(g, q + 3 * L)
                x = block * N * N * L + i * N * L
                for k in range(N):
                    a0 = fma(splat(p[i, k]), load(a, x), g0)
                    a1 = fma(splat(p[i + 1, k]), load(a, x + L), g1)
                    a2 = fma(splat(p[i + 2, k]), load(a, x + 2 * L), g2)
                    a3 = fma(splat(p[i + 3, k]), load(a, x + 3 * L), g3)
                    store(a, x, a0), store(a, x + L, a1), store(a, x + 2 * L, a2), store(a, x + 3 * L, a3)
                    sum01 = fma(splat(w[i, k]), a0, mul(splat(w[i + 1, k]), a1))
                    sum23 = fma(splat(w[i + 2, k]), a2, mul(splat(w[i + 3, k]), a3))
                    store(gz0, n0 + k * L, add(load(gz0, n0 + k * L), add(sum01, sum23)))
                    x += 4 * L


@kernel
def own_gradients(v, g, z0, J0, A0, oJ, oA, theta, kick, kappa, strength, rho, out, steps, blocks, start, stop):
    """out (5, N): gradients of kick, kappa, strength, rho and bias; units are i.

    z0, J0, A0 are the first state, oJ, oA what is owed to the last J and A, all [block][i][lanes].
    """
    L = lanes(g)
    N = len(theta)
    for i in range(start, stop):
        th, kk, kp, st, rh = splat(theta[i]), splat(kick[i]), splat(kappa[i]), splat(strength[i]), splat(rho[i])
        zero = sub(th, th)
        g_kick = g_kappa = g_strength = g_rho = g_bias = zero
        for block in range(blocks):
            e = (block * N + i) * L
            z, J, A = load(z0, e), load(J0, e), load(A0, e)
            XJ = XA = SJ = SA = zero
            q = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L
            for _ in range(steps):
                SJ, SA = fma(kp, SJ, J), fma(rh, SA, A)
                J, A = fma(kp, J, mul(kk, z)), fma(rh, A, mul(st, z))
                XJ, XA = fma(kp, XJ, z), fma(rh, XA, z)
                now = load(g, q)
                g_bias = add(g_bias, now)
                g_kick, g_kappa = sub(g_kick, mul(now, XJ)), sub(g_kappa, mul(now, SJ))
                g_strength, g_rho = sub(g_strength, mul(now, XA)), sub(g_rho, mul(now, SA))
                z = above(load(v, q), th)
                q += 4 * L
            lJ, lA = load(oJ, e), load(oA, e)
            g_kick, g_kappa = fma(lJ, XJ, g_kick), fma(lJ, SJ, g_kappa)
            g_strength, g_rho = fma(lA, XA, g_strength), fma(lA, SA, g_rho)
        out[0, i], out[1, i], out[2, i] = total(g_kick), total(g_kappa), total(g_strength)
        out[3, i], out[4, i] = total(g_rho), total(g_bias)
