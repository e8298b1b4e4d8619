"""Synapses of which most are absent, with inputs of 0 and 1: a step of a source is a bit for each row of the batch.

As `sparse.py`, which takes any inputs. Synapses that are picked one by one read a source each. As numbers those of a
block do not stay in a core's cache, as bits they do, so traces and sums live in registers over all of time. Gradients
come from the traces of what a neuron gets, which run backwards, added up where a source was 1:

    a_ij[t] = g_i[t] + r_ij a_ij[t+1]       b_ij[t] = r_ij b_ij[t+1] + a_ij[t+1]
    dw_ij   = sum_t s_j a_ij                dr_ij   = w_ij sum_t s_j b_ij

    bits     [block][source][T]: the lowest bit of a number is the first of the rows
    line     where those of a synapse's source begin in a block, [quad][4]; its neuron has the quads first[i] to
             first[i + 1]
"""

from __future__ import annotations

from hetsyn_plugins.kernels.cpu.compiled import kernel
from hetsyn_plugins.kernels.cpu.simd import (
    add,
    fma,
    get,
    lanes,
    load,
    magnitude,
    mul,
    nonzero,
    pick,
    put_whole,
    splat,
    store,
    sub,
    total,
)
from hetsyn_plugins.kernels.cpu.sparse import places, splat_four

CHUNK = 32  # steps packed at a time: a line of the cache of every source


@kernel
def pack(x, steps, batch, width, bits, numbers, graded, start, stop):
    """x, flat (T, B, M), -> bits, M no less than the lanes; units are (block, chunk of steps).

    numbers  [unit][M and the lanes]: room for those of a step
    graded   [unit]: 0 where all inputs are 0 or 1; else the unit is left before its end
    """
    L = lanes(x)
    one = splat(x.dtype.type(1))
    zero = sub(one, one)
    chunks = (steps + CHUNK - 1) // CHUNK
    for unit in range(start, stop):
        block, t0 = unit // chunks, unit % chunks * CHUNK
        n0, others = unit * (width + L), zero
        for t in range(t0, min(t0 + CHUNK, steps)):
            for row in range(min(L, batch - block * L)):
                p, bit = (t * batch + block * L + row) * width, splat(x.dtype.type(1 << row))
                for k in range(0, width, L):
                    value = load(x, p + min(k, width - L))  # the last ones may be packed twice
                    store(numbers, n0 + k, fma(value, bit, load(numbers, n0 + k) if row > 0 else zero))
                    others = add(others, magnitude(mul(value, sub(value, one))))
            for k in range(0, width, L):
                q = (block * width + min(k, width - L)) * steps + t
                put_whole(bits, q, steps, load(numbers, n0 + k))
            graded[unit] = nonzero(others)
            if graded[unit] != 0:
                break


@kernel
def currents_fwd(bits, u, first, line, r, w, bias, target, current, sources, steps, blocks, start, stop):
    """u_i[t] = bias_i + sum_j w_ij x_ij[t], and the last currents w x; units are (neuron, block).

    target   which of (N, M) a synapse is; below 0 it is none
    current  [target][block][lanes], written where there is a synapse
    """
    L = lanes(u)
    N = len(bias)
    one = splat(u.dtype.type(1))
    zero = sub(one, one)
    for unit in range(start, stop):
        i, block = unit // blocks, unit % blocks
        u0 = (block * (N // 4) + i // 4) * steps * 4 * L + i % 4 * L
        value = splat(bias[i])
        for t in range(steps):
            store(u, u0 + t * 4 * L, value)
        for quad in range(first[i], first[i + 1]):
            e, q = quad * 4, u0
            r0, r1, r2, r3 = splat_four(r, e)
            w0, w1, w2, w3 = splat_four(w, e)
            a, b, c, d = places(line, e, block * sources * steps)
            x0 = x1 = x2 = x3 = zero
            for t in range(steps):
                x0, x1 = fma(r0, x0, pick(get(bits, a + t), one, zero)), fma(r1, x1, pick(get(bits, b + t), one, zero))
                x2, x3 = fma(r2, x2, pick(get(bits, c + t), one, zero)), fma(r3, x3, pick(get(bits, d + t), one, zero))
                store(u, q, add(fma(w1, x1, fma(w0, x0, load(u, q))), fma(w3, x3, mul(w2, x2))))
                q += 4 * L
            for k, x in enumerate((mul(w0, x0), mul(w1, x1), mul(w2, x2), mul(w3, x3))):
                if target[e + k] >= 0:
                    store(current, (target[e + k] * blocks + block) * L, x)


@kernel
def gated(bits, p, sum0, sum1, value0, value1):
    """Both sums, with both values added in the lanes whose bit at p is set."""
    here = get(bits, p)
    return pick(here, add(sum0, value0), sum0), pick(here, add(sum1, value1), sum1)


@kernel
def synapses_bwd(bits, g, first, line, r, gw, gr, sources, steps, blocks, start, stop):
    """gw = sum s_j a_ij and gr = sum s_j b_ij of each synapse in the list; units are neurons."""
    L = lanes(g)
    N = len(first) - 1
    for i in range(start, stop):
        for quad in range(first[i], first[i + 1]):
            e = quad * 4
            r0, r1, r2, r3 = splat_four(r, e)
            gw0 = gw1 = gw2 = gw3 = gr0 = gr1 = gr2 = gr3 = sub(r0, r0)
            for block in range(blocks):
                p0, p1, p2, p3 = places(line, e, block * sources * steps)
                q = ((block * (N // 4) + i // 4) * steps + steps - 1) * 4 * L + i % 4 * L
                a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = sub(r0, r0)
                for t in range(steps - 1, -1, -1):
                    b0, b1, b2, b3 = fma(r0, b0, a0), fma(r1, b1, a1), fma(r2, b2, a2), fma(r3, b3, a3)
                    g_t = load(g, q)
                    a0, a1, a2, a3 = fma(r0, a0, g_t), fma(r1, a1, g_t), fma(r2, a2, g_t), fma(r3, a3, g_t)
                    gw0, gr0 = gated(bits, p0 + t, gw0, gr0, a0, b0)
                    gw1, gr1 = gated(bits, p1 + t, gw1, gr1, a1, b1)
                    gw2, gr2 = gated(bits, p2 + t, gw2, gr2, a2, b2)
                    gw3, gr3 = gated(bits, p3 + t, gw3, gr3, a3, b3)
                    q -= 4 * L
            gw[e], gw[e + 1], gw[e + 2], gw[e + 3] = total(gw0), total(gw1), total(gw2), total(gw3)
            gr[e], gr[e + 1], gr[e + 2], gr[e + 3] = total(gr0), total(gr1), total(gr2), total(gr3)
