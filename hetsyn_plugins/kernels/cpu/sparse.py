"""Synapses of which most are absent, with lanes = rows of the batch: work is done for those that are there.

As `batch_lanes.py`, which has the legend. The synapses that are there come as lists, four of them at a time, a `quad`;
what fills up the last one has r = w = 0. Time is cut into chunks, so that what many synapses read of it stays in the
cache; traces wait in memory between two chunks.

    place    where the line of a synapse's source begins in a block of a packed sequence, [quad][4]
    r, w     of these synapses, [quad][4]
"""

from __future__ import annotations

from hetsyn_plugins.kernels.cpu.batch_lanes import soma_step_bwd, soma_step_fwd
from hetsyn_plugins.kernels.cpu.compiled import kernel
from hetsyn_plugins.kernels.cpu.simd import add, fma, lanes, load, mul, splat, store, sub, total


@kernel
def load_four(x, e):
    """Four vectors that follow one another."""
    L = lanes(x)
    return load(x, e), load(x, e + L), load(x, e + 2 * L), load(x, e + 3 * L)


@kernel
def store_four(x, e, x0, x1, x2, x3):
    """Write four vectors that follow one another."""
    L = lanes(x)
    store(x, e, x0)
    store(x, e + L, x1)
    store(x, e + 2 * L, x2)
    store(x, e + 3 * L, x3)


@kernel
def splat_four(x, e):
    """A vector for each of four numbers."""
    return splat(x[e]), splat(x[e + 1]), splat(x[e + 2]), splat(x[e + 3])


@kernel
def places(place, e, at):
    """Where four lines are that begin at these places behind `at`."""
    return at + place[e], at + place[e + 1], at + place[e + 2], at + place[e + 3]


# long: unrolled by fours, one statement a line
@kernel
def currents_fwd(s, u, first, place, r, w, X, bias, sources, steps, chunk, group, reverse, start, stop):
    """u_i[t] = bias_i + sum_j w_ij x_ij[t]; units are (block, `group` neurons). `reverse` runs time backwards.

    first    neuron i has the quads first[i] to first[i + 1]        sources   how many there are, padded
    X        [block][quad][4][lanes]: becomes the last traces
    """
    L = lanes(s)
    N = len(bias)
    groups, stride = (N + group - 1) // group, -4 * L if reverse else 4 * L
    for unit in range(start, stop):
        block, i0 = unit // groups, unit % groups * group
        s0 = block * sources * steps * L
        for t0 in range(0, steps, chunk):
            count = min(chunk, steps - t0)
            at = (steps - 1 - t0) * 4 * L if reverse else t0 * 4 * L
            for i in range(i0, min(i0 + group, N)):
                q0 = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L + at
                value = splat(bias[i])
                for t in range(count):
                    store(u, q0 + t * stride, value)
                for quad in range(first[i], first[i + 1]):
                    e, q = quad * 4, q0
                    r0, r1, r2, r3 = splat_four(r, e)
                    w0, w1, w2, w3 = splat_four(w, e)
                    a, b, c, d = places(place, e, s0 + at)
                    x = (block * len(r) + e) * L
                    x0 = x1 = x2 = x3 = sub(r0, r0)
                    if t0 > 0:
                        x0, x1, x2, x3 = load_four(X, x)
                    for _ in range(count):
                        x0, x1 = fma(r0, x0, load(s, a)), fma(r1, x1, load(s, b))
                        x2, x3 = fma(r2, x2, load(s, c)), fma(r3, x3, load(s, d))
                        store(u, q, add(fma(w1, x1, fma(w0, x0, load(u, q))), fma(w3, x3, mul(w2, x2))))
                        a, b, c, d, q = a + stride, b + stride, c + stride, d + stride, q + stride
                    store_four(X, x, x0, x1, x2, x3)


@kernel
def last_currents(X, w, target, out, blocks, start, stop):
    """out[target][block][lanes] = w x of every synapse, of traces [block][synapse][lanes]; units are synapses.

    target  which of (N, M) a synapse is; below 0 it is none
    """
    L = lanes(X)
    for e in range(start, stop):
        if target[e] >= 0:
            for block in range(blocks):
                store(out, (target[e] * blocks + block) * L, mul(splat(w[e]), load(X, (block * len(w) + e) * L)))


# long: unrolled by fours, one statement a line
@kernel
def synapses_bwd(s, g, place, neuron, r, S, gw, gr, sources, neurons, steps, blocks, chunk, group, start, stop):
    """gw += sum g_i x_ij and gr += sum g_i y_ij of each synapse in the list; units are `group` quads.

    neuron   where the line of a synapse's neuron begins in a block of g, as `place` does in one of s
    S        [quad][16][lanes]: x, y, and the sums of both gradients, between two chunks
    """
    L = lanes(s)
    quads = len(r) // 4
    for unit in range(start, stop):
        for block in range(blocks):
            s0, g0 = block * sources * steps * L, block * neurons * steps * L
            for t0 in range(0, steps, chunk):
                is_first = block == 0 and t0 == 0
                for quad in range(unit * group, min(unit * group + group, quads)):
                    e, at = quad * 4, t0 * 4 * L
                    x = e * 4 * L
                    r0, r1, r2, r3 = splat_four(r, e)
                    x0 = x1 = x2 = x3 = y0 = y1 = y2 = y3 = sub(r0, r0)
                    a0 = a1 = a2 = a3 = c0 = c1 = c2 = c3 = x0
                    if t0 > 0:
                        x0, x1, x2, x3 = load_four(S, x)
                        y0, y1, y2, y3 = load_four(S, x + 4 * L)
                    if not is_first:
                        a0, a1, a2, a3 = load_four(S, x + 8 * L)
                        c0, c1, c2, c3 = load_four(S, x + 12 * L)
                    p0, p1, p2, p3 = places(place, e, s0 + at)
                    q0, q1, q2, q3 = places(neuron, e, g0 + at)
                    for _ in range(min(chunk, steps - t0)):
                        y0, y1, y2, y3 = fma(r0, y0, x0), fma(r1, y1, x1), fma(r2, y2, x2), fma(r3, y3, x3)
                        x0, x1 = fma(r0, x0, load(s, p0)), fma(r1, x1, load(s, p1))
                        x2, x3 = fma(r2, x2, load(s, p2)), fma(r3, x3, load(s, p3))
                        g_0, g_1, g_2, g_3 = load(g, q0), load(g, q1), load(g, q2), load(g, q3)
                        a0, a1, a2, a3 = fma(g_0, x0, a0), fma(g_1, x1, a1), fma(g_2, x2, a2), fma(g_3, x3, a3)
                        c0, c1, c2, c3 = fma(g_0, y0, c0), fma(g_1, y1, c1), fma(g_2, y2, c2), fma(g_3, y3, c3)
                        p0, p1, p2, p3 = p0 + 4 * L, p1 + 4 * L, p2 + 4 * L, p3 + 4 * L
                        q0, q1, q2, q3 = q0 + 4 * L, q1 + 4 * L, q2 + 4 * L, q3 + 4 * L
                    store_four(S, x, x0, x1, x2, x3)
                    store_four(S, x + 4 * L, y0, y1, y2, y3)
                    store_four(S, x + 8 * L, a0, a1, a2, a3)
                    store_four(S, x + 12 * L, c0, c1, c2, c3)
        for e in range(unit * group * 4, min(unit * group + group, quads) * 4):
            k = (e // 4 * 16 + e % 4) * L
            gw[e], gr[e] = total(load(S, k + 8 * L)), total(load(S, k + 12 * L))


# ---- recurrent synapses: what a step fires is what the next one reads, so all traces pass at every step


@kernel
def sparse_step(X, at, z, n0, first, place, r, w, i, u, q):
    """Traces of neuron i's synapses, X at `at` [quad][4][lanes], move on a step, and `u` at q gets w x.

    z   the sources of this step, [K][lanes] from n0 on, in which `place` says where each lies
    """
    L = lanes(X)
    acc = load(u, q)
    for quad in range(first[i], first[i + 1]):
        e = quad * 4
        x = at + e * L
        x0, x1, x2, x3 = load_four(X, x)
        r0, r1, r2, r3 = splat_four(r, e)
        w0, w1, w2, w3 = splat_four(w, e)
        x0, x1 = fma(r0, x0, load(z, n0 + place[e])), fma(r1, x1, load(z, n0 + place[e + 1]))
        x2, x3 = fma(r2, x2, load(z, n0 + place[e + 2])), fma(r3, x3, load(z, n0 + place[e + 3]))
        store_four(X, x, x0, x1, x2, x3)
        acc = add(fma(w1, x1, fma(w0, x0, acc)), fma(w3, x3, mul(w2, x2)))
    store(u, q, acc)


# long: a line for every array
@kernel
def recurrent_fwd(
    u,
    X,
    z_next,
    z0,
    J0,
    A0,
    theta,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    first,
    place,
    r,
    w,
    steps,
    start,
    stop,
):
    """As `batch_lanes.recurrent_fwd`; units are blocks.

    X           [block][quad][4][lanes]: zeros, becomes the last traces
    z0, z_next  [block][N][lanes]: the first spikes, which become the last; room for those of a step
    """
    L = lanes(u)
    N = len(first) - 1
    soma = (J0, A0, theta, reset_strength, kappa, adaptation_strength, rho)
    for block in range(start, stop):
        n0, x0, now, after = block * N * L, block * len(r) * L, z0, z_next
        for t in range(steps):
            for i in range(N):
                q = ((block * (N // 4) + i // 4) * steps + t) * 4 * L + i % 4 * L
                sparse_step(X, x0, now, n0, first, place, r, w, i, u, q)
            soma_step_fwd(u, block, t, now, after, *soma, steps, N)
            now, after = after, now
        for e in range(n0, n0 + N * L, L):
            store(z0, e, load(now, e))


# long: a line for every array
@kernel
def recurrent_bwd(
    g,
    gz,
    d,
    a,
    g_now,
    gz_next,
    gz0,
    aJ0,
    aA0,
    grad_threshold,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    first,
    place,
    r,
    w,
    steps,
    start,
    stop,
):
    """As `batch_lanes.recurrent_bwd`, with the synapses listed by their sources; units are blocks.

    a                    [block][quad][4][lanes]   zeros
    g_now, gz0, gz_next  [block][N][lanes]         zeros
    """
    L = lanes(g)
    N = len(first) - 1
    soma = (aJ0, aA0, grad_threshold, reset_strength, kappa, adaptation_strength, rho)
    for block in range(start, stop):
        n0, x0, now, before = block * N * L, block * len(r) * L, gz_next, gz0
        for t in range(steps - 1, -1, -1):
            soma_step_bwd(g, gz, d, block, t, now, before, g_now, *soma, steps, N)
            for k in range(N):
                sparse_step(a, x0, g_now, n0, first, place, r, w, k, before, n0 + k * L)
            now, before = before, now
        for e in range(n0, n0 + N * L, L):
            store(gz0, e, load(now, e))
