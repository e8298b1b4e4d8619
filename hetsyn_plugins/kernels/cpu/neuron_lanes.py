"""Synapses with lanes = neurons: what small batches use, whose rows would not fill a vector.

The recursions, their letters and their gradients are those of `batch_lanes.py` and `soma.py`.

Sequences are packed as [b][K / lanes][T][lanes], K padded to a multiple of 4 and of the lanes. Synaptic matrices are
laid out with the neurons of the lanes contiguous, flat: `rT` is (K sources, N neurons of the lanes).
"""

from __future__ import annotations

from hetsyn_plugins.kernels.cpu.compiled import kernel
from hetsyn_plugins.kernels.cpu.simd import add, fma, get, lanes, load, mul, put, splat, store, sub
from hetsyn_plugins.kernels.cpu.soma import load_soma, soma_bwd, soma_fwd


@kernel
def pack(x, steps, batch, width, rows, out, start, stop):
    """x, flat (T, B, K), -> packed with K = rows; units are rows of the batch."""
    L = lanes(out)
    for b in range(start, stop):
        for vector in range(rows // L):
            inside = min(L, width - vector * L)
            q = (b * (rows // L) + vector) * steps * L
            for t in range(steps):
                p = (t * batch + b) * width + vector * L
                if inside == L:
                    store(out, q + t * L, load(x, p))
                else:
                    for lane in range(L):
                        out[q + t * L + lane] = x[p + lane] if lane < inside else 0


@kernel
def unpack(packed, rows, x, steps, batch, width, start, stop):
    """The inverse of `pack`."""
    L = lanes(packed)
    for b in range(start, stop):
        for vector in range((width + L - 1) // L):
            inside = min(L, width - vector * L)
            q = (b * (rows // L) + vector) * steps * L
            for t in range(steps):
                p = (t * batch + b) * width + vector * L
                for lane in range(inside):
                    put(x, p + lane, get(packed, q + t * L + lane))


@kernel
def currents_fwd(s, u, rT, wT, bias, state, width, sources, steps, reverse, start, stop):
    """u_i[t] = bias_i + sum_j w_ij x_ij[t]; units are vectors of u. The rest as in `batch_lanes.currents_fwd`, but for
    the last currents: the first `width` sources', flat [b][source][N].
    """
    L = lanes(s)
    K, N = sources, len(bias)
    first, stride = ((steps - 1) * L, -L) if reverse else (0, L)
    for unit in range(start, stop):
        b, i = unit // (N // L), unit % (N // L) * L
        q0 = unit * steps * L
        start_value = load(bias, i)
        for t in range(steps):
            store(u, q0 + t * L, start_value)
        for j in range(0, K, 4):
            e = j * N + i
            r0, r1, r2, r3 = load(rT, e), load(rT, e + N), load(rT, e + 2 * N), load(rT, e + 3 * N)
            w0, w1, w2, w3 = load(wT, e), load(wT, e + N), load(wT, e + 2 * N), load(wT, e + 3 * N)
            x0 = x1 = x2 = x3 = sub(r0, r0)
            p0, p1 = place(b, j, K, steps, L) + first, place(b, j + 1, K, steps, L) + first
            p2, p3 = place(b, j + 2, K, steps, L) + first, place(b, j + 3, K, steps, L) + first
            q = q0 + first
            for _ in range(steps):
                x0, x1 = fma(r0, x0, splat(get(s, p0))), fma(r1, x1, splat(get(s, p1)))
                x2, x3 = fma(r2, x2, splat(get(s, p2))), fma(r3, x3, splat(get(s, p3)))
                store(u, q, fma(w3, x3, fma(w2, x2, fma(w1, x1, fma(w0, x0, load(u, q))))))
                p0, p1, p2, p3, q = p0 + stride, p1 + stride, p2 + stride, p3 + stride, q + stride
            for dj in range(min(4, width - j)):
                if dj == 0:
                    x = mul(w0, x0)
                elif dj == 1:
                    x = mul(w1, x1)
                elif dj == 2:
                    x = mul(w2, x2)
                else:
                    x = mul(w3, x3)
                store(state, (b * width + j + dj) * N + i, x)


@kernel
def place(b, k, rows, steps, L):
    """Where the sequence of line k of row b starts."""
    return (b * (rows // L) + k // L) * steps * L + k % L


@kernel
def initial_current_fwd(state, u, rT, sources, steps, start, stop):
    """u_i[t] += sum_j h_ij[t], h[t] = r h[t-1], h[-1] the first state (B, K, N) flat; units are vectors of u."""
    L = lanes(u)
    N = len(rT) // sources
    for unit in range(start, stop):
        b, i = unit // (N // L), unit % (N // L) * L
        for j in range(0, sources, 4):
            e, f = j * N + i, (b * sources + j) * N + i
            r0, r1, r2, r3 = load(rT, e), load(rT, e + N), load(rT, e + 2 * N), load(rT, e + 3 * N)
            h0, h1, h2, h3 = load(state, f), load(state, f + N), load(state, f + 2 * N), load(state, f + 3 * N)
            for t in range(steps):
                h0, h1, h2, h3 = mul(r0, h0), mul(r1, h1), mul(r2, h2), mul(r3, h3)
                q = (unit * steps + t) * L
                store(u, q, add(load(u, q), add(add(h0, h1), add(h2, h3))))


@kernel
def initial_current_bwd(state, g, rT, grT, sources, steps, batch, start, stop):
    """grT_ji += sum_t g_i q_ij, q[t] = r q[t-1] + h[t-1]: what the first state adds; units are vectors of neurons."""
    L = lanes(g)
    N = len(rT) // sources
    for unit in range(start, stop):
        for j in range(sources):
            e = j * N + unit * L
            decay, acc = load(rT, e), load(grT, e)
            for b in range(batch):
                h = load(state, (b * sources + j) * N + unit * L)
                q = sub(h, h)
                p = (b * (N // L) + unit) * steps * L
                for _ in range(steps):
                    q = fma(decay, q, h)
                    h = mul(decay, h)
                    acc = fma(load(g, p), q, acc)
                    p += L
            store(grT, e, acc)


@kernel
def synapses_bwd(s, g, rT, gwT, grT, sources, steps, batch, start, stop):
    """gw_ij = sum g_i x_ij and gr_ij = sum g_i y_ij; units are (4 sources, vector of neurons)."""
    L = lanes(s)
    K = sources
    N = len(rT) // K
    for unit in range(start, stop):
        j, i = unit // (N // L) * 4, unit % (N // L) * L
        e = j * N + i
        r0, r1, r2, r3 = load(rT, e), load(rT, e + N), load(rT, e + 2 * N), load(rT, e + 3 * N)
        zero = sub(r0, r0)
        a0 = a1 = a2 = a3 = c0 = c1 = c2 = c3 = zero
        for b in range(batch):
            x0 = x1 = x2 = x3 = y0 = y1 = y2 = y3 = zero
            p0, p1 = place(b, j, K, steps, L), place(b, j + 1, K, steps, L)
            p2, p3 = place(b, j + 2, K, steps, L), place(b, j + 3, K, steps, L)
            q = place(b, i, N, steps, L)
            for _ in range(steps):
                y0, y1, y2, y3 = fma(r0, y0, x0), fma(r1, y1, x1), fma(r2, y2, x2), fma(r3, y3, x3)
                x0, x1 = fma(r0, x0, splat(get(s, p0))), fma(r1, x1, splat(get(s, p1)))
                x2, x3 = fma(r2, x2, splat(get(s, p2))), fma(r3, x3, splat(get(s, p3)))
                g_t = load(g, q)
                a0, a1, a2, a3 = fma(g_t, x0, a0), fma(g_t, x1, a1), fma(g_t, x2, a2), fma(g_t, x3, a3)
                c0, c1, c2, c3 = fma(g_t, y0, c0), fma(g_t, y1, c1), fma(g_t, y2, c2), fma(g_t, y3, c3)
                p0, p1, p2, p3, q = p0 + L, p1 + L, p2 + L, p3 + L, q + L
        store(gwT, e, a0)
        store(gwT, e + N, a1)
        store(gwT, e + 2 * N, a2)
        store(gwT, e + 3 * N, a3)
        store(grT, e, c0)
        store(grT, e + N, c1)
        store(grT, e + 2 * N, c2)
        store(grT, e + 3 * N, c3)


@kernel
def recurrent_fwd(u, X, z0, J0, A0, theta, reset_strength, kappa, adaptation_strength, rho, pT, wT, steps, start, stop):
    """As `soma.neurons_fwd`, with recurrent synapses; X [b][k][N], zeros, becomes the last traces. Units: rows."""
    L = lanes(u)
    N = len(theta)
    for b in range(start, stop):
        for t in range(steps):
            for i in range(0, N, L):
                q = ((b * (N // L) + i // L) * steps + t) * L
                e, x = i, b * N * N + i
                u0 = load(u, q)
                u1 = u2 = u3 = sub(u0, u0)
                for k in range(b * N, (b + 1) * N, 4):
                    x0 = fma(load(pT, e), load(X, x), splat(get(z0, k)))
                    x1 = fma(load(pT, e + N), load(X, x + N), splat(get(z0, k + 1)))
                    x2 = fma(load(pT, e + 2 * N), load(X, x + 2 * N), splat(get(z0, k + 2)))
                    x3 = fma(load(pT, e + 3 * N), load(X, x + 3 * N), splat(get(z0, k + 3)))
                    store(X, x, x0)
                    store(X, x + N, x1)
                    store(X, x + 2 * N, x2)
                    store(X, x + 3 * N, x3)
                    u0, u1 = fma(load(wT, e), x0, u0), fma(load(wT, e + N), x1, u1)
                    u2, u3 = fma(load(wT, e + 2 * N), x2, u2), fma(load(wT, e + 3 * N), x3, u3)
                    e, x = e + 4 * N, x + 4 * N
                store(u, q, add(add(u0, u1), add(u2, u3)))
            for i in range(0, N, L):
                q, e = ((b * (N // L) + i // L) * steps + t) * L, b * N + i
                constants = load_soma(theta, reset_strength, kappa, adaptation_strength, rho, i)
                v, z, J, A = soma_fwd(load(u, q), load(z0, e), load(J0, e), load(A0, e), *constants)
                store(u, q, v)
                store(J0, e, J)
                store(A0, e, A)
                store(z0, e, z)


# long: unrolled by fours, one statement a line
@kernel
def recurrent_bwd(
    g,
    gz,
    d,
    a,
    gz0,
    aJ0,
    aA0,
    grad_threshold,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    p,
    w,
    steps,
    start,
    stop,
):
    """As `soma.neurons_bwd`, with recurrent synapses p, w (N neurons, N sources: here the lanes); a [b][i][k] is
    zeros. Units: rows.
    """
    L = lanes(g)
    N = len(reset_strength)
    for b in range(start, stop):
        for t in range(steps - 1, -1, -1):
            for i in range(0, N, L):
                q, e = ((b * (N // L) + i // L) * steps + t) * L, b * N + i
                constants = load(reset_strength, i), load(kappa, i), load(adaptation_strength, i), load(rho, i)
                gz_t = add(load(gz, q), load(gz0, e))
                g_t, grad_z_d, grad_z_prev, aJ, aA = soma_bwd(
                    load(g, q), gz_t, load(d, q), load(aJ0, e), load(aA0, e), *constants
                )
                store(g, q, g_t)
                store(grad_threshold, e, sub(load(grad_threshold, e), grad_z_d))
                store(gz0, e, grad_z_prev)
                store(aJ0, e, aJ)
                store(aA0, e, aA)
            for k in range(0, N, L):
                e, x = k, b * N * N + k
                s0 = load(gz0, b * N + k)
                s1 = s2 = s3 = sub(s0, s0)
                for i in range(0, N, 4):
                    g0, g1 = get(g, place(b, i, N, steps, L) + t * L), get(g, place(b, i + 1, N, steps, L) + t * L)
                    g2, g3 = get(g, place(b, i + 2, N, steps, L) + t * L), get(g, place(b, i + 3, N, steps, L) + t * L)
                    a0 = fma(load(p, e), load(a, x), splat(g0))
                    a1 = fma(load(p, e + N), load(a, x + N), splat(g1))
                    a2 = fma(load(p, e + 2 * N), load(a, x + 2 * N), splat(g2))
                    a3 = fma(load(p, e + 3 * N), load(a, x + 3 * N), splat(g3))
                    store(a, x, a0)
                    store(a, x + N, a1)
                    store(a, x + 2 * N, a2)
                    store(a, x + 3 * N, a3)
                    s0, s1 = fma(load(w, e), a0, s0), fma(load(w, e + N), a1, s1)
                    s2, s3 = fma(load(w, e + 2 * N), a2, s2), fma(load(w, e + 3 * N), a3, s3)
                    e, x = e + 4 * N, x + 4 * N
                store(gz0, b * N + k, add(add(s0, s1), add(s2, s3)))
