"""Synapses that share K decays, with inputs that are mostly 0: work is done where an input is not, and nowhere else.

With a codebook c the filters stand behind the sums (letters as in `batch_lanes.py`): k(i, j) is the entry of a synapse,

    f_ik[t] = c_k f_ik[t-1] + sum_{j: k(i,j) = k} w_ij s_j[t]      u_i = sum_k f_ik
    a_ik[t] = g_i[t] + c_k a_ik[t+1]      q_ik[t] = c_k q_ik[t+1] + a_ik[t+1]
    dw_ij   = sum_t s_j a_ik(i,j)         dr_ij   = w_ij sum_t s_j q_ik(i,j)

so that a step costs K multiply-adds a neuron, and what an input adds a vector or two for every event: a triple (row and
step, source, value) of an input that is not 0. Lanes are neurons. f, a and q of eight entries live in vector registers
over all of time; a larger codebook takes its entries eight at a time, a `group`, and goes through the events again.

    starts   [b][t][tile]: where the events of row b at step t begin whose sources are in that tile, so that gradients
             of a tile, of `tile` sources, stay in the L1 cache; `source` and `value` of each event
    rows     of the batch whose events are gone through for one block after the other while they are in the L2 cache
    marks    [group][block][j][8]   bits of the lanes, the neurons of a block, by the entry of their synapse from j, a
             number from 0 to 7 in its group: where its two lower bits are 0, 1, 2 or 3, where its bits 0, 1 and 2 are
             set, and where it is of the group at all
    w        [block][j][lanes]
"""

from __future__ import annotations

from hetsyn_plugins.kernels.cpu.compiled import kernel
from hetsyn_plugins.kernels.cpu.simd import (
    add,
    count_bits,
    first_bit,
    fma,
    get,
    lanes,
    load,
    mul,
    nonzero,
    pick,
    put,
    splat,
    store,
    sub,
)


@kernel
def are_not_zero(x, p):
    """64 bits: which of the numbers of x from p on are not 0."""
    bits = 0
    for first in range(0, 64, lanes(x)):
        bits |= nonzero(load(x, p + first)) << first
    return bits


@kernel
def count_events(x, steps, batch, width, tile, counts, start, stop):
    """How many of x, flat (T, B, M), are not 0, [b][t][tile]; units are steps."""
    tiles = (width + tile - 1) // tile
    for t in range(start, stop):
        for b in range(batch):
            p = (t * batch + b) * width
            for part in range(tiles):
                first, last = part * tile, min(part * tile + tile, width)
                whole = first + (last - first) // 64 * 64
                n = 0
                for j in range(first, whole, 64):
                    n += count_bits(are_not_zero(x, p + j))
                for j in range(whole, last):
                    n += 1 if get(x, p + j) != 0 else 0
                counts[(b * steps + t) * tiles + part] = n


@kernel
def list_events(x, steps, batch, width, tiles, starts, source, value, start, stop):
    """The events of x, as `count_events` counted them; units are steps."""
    for t in range(start, stop):
        for b in range(batch):
            p, e = (t * batch + b) * width, starts[(b * steps + t) * tiles]
            for first in range(0, width - 63, 64):
                bits = are_not_zero(x, p + first)
                while bits != 0:
                    j = first + first_bit(bits)
                    put(source, e, j)
                    put(value, e, get(x, p + j))
                    bits &= bits - 1
                    e += 1
            for j in range(width // 64 * 64, width):
                if get(x, p + j) != 0:
                    put(source, e, j)
                    put(value, e, get(x, p + j))
                    e += 1


@kernel
def mark(index, marks, neurons, blocks, count, start, stop):
    """Write `marks`, zeros, of an index (M, N), flat, with `count` lanes a block; units are sources."""
    width = len(index) // neurons
    for j in range(start, stop):
        for i in range(neurons):
            k, bit = index[j * neurons + i], 1 << (i % count)
            m = ((k // 8 * blocks + i // count) * width + j) * 8
            marks[m + k % 4] |= bit
            marks[m + 4] |= bit * (k & 1)
            marks[m + 5] |= bit * (k >> 1 & 1)
            marks[m + 6] |= bit * (k >> 2 & 1)
            marks[m + 7] |= bit


@kernel
def chosen(bits0, bits1, bits2, a0, a1, a2, a3, a4, a5, a6, a7):
    """Of eight vectors, in each lane the one of its number, whose bits these are."""
    a0, a2, a4, a6 = pick(bits0, a1, a0), pick(bits0, a3, a2), pick(bits0, a5, a4), pick(bits0, a7, a6)
    a0, a4 = pick(bits1, a2, a0), pick(bits1, a6, a4)
    return pick(bits2, a4, a0)


@kernel
def currents_fwd(starts, source, value, w, marks, c, bias, u, steps, batch, width, tiles, rows, start, stop):
    """u_i[t] = bias_i + sum_k f_ik[t], [b][block][T][lanes]; units are (some rows, block, one of these rows)."""
    L = lanes(u)
    blocks, groups = len(bias) // L, len(c) // 8
    for unit in range(start, stop):
        b0 = unit // (blocks * rows) * rows
        inside = min(rows, batch - b0)
        block, b = (unit - b0 * blocks) // inside, b0 + (unit - b0 * blocks) % inside
        w0 = block * width * L
        for group in range(groups):
            k, m0 = group * 8, (group * blocks + block) * width * 8
            c0, c1, c2, c3 = splat(c[k]), splat(c[k + 1]), splat(c[k + 2]), splat(c[k + 3])
            c4, c5, c6, c7 = splat(c[k + 4]), splat(c[k + 5]), splat(c[k + 6]), splat(c[k + 7])
            zero = sub(c0, c0)
            f0 = f1 = f2 = f3 = f4 = f5 = f6 = f7 = zero
            q = (b * blocks + block) * steps * L
            for t in range(steps):
                row = (b * steps + t) * tiles
                f0, f1, f2, f3 = mul(c0, f0), mul(c1, f1), mul(c2, f2), mul(c3, f3)
                f4, f5, f6, f7 = mul(c4, f4), mul(c5, f5), mul(c6, f6), mul(c7, f7)
                for e in range(get(starts, row), get(starts, row + tiles)):
                    j = get(source, e)
                    x, m = mul(splat(get(value, e)), load(w, w0 + j * L)), m0 + j * 8
                    is_high = get(marks, m + 6)
                    low, high = pick(is_high, zero, x), pick(is_high, x, zero)
                    m1, m2, m3 = m + 1, m + 2, m + 3
                    f0, f4 = pick(get(marks, m), add(f0, low), f0), pick(get(marks, m), add(f4, high), f4)
                    f1, f5 = pick(get(marks, m1), add(f1, low), f1), pick(get(marks, m1), add(f5, high), f5)
                    f2, f6 = pick(get(marks, m2), add(f2, low), f2), pick(get(marks, m2), add(f6, high), f6)
                    f3, f7 = pick(get(marks, m3), add(f3, low), f3), pick(get(marks, m3), add(f7, high), f7)
                sums = add(add(add(f0, f1), add(f2, f3)), add(add(f4, f5), add(f6, f7)))
                before = load(bias, block * L) if group == 0 else load(u, q)
                store(u, q, add(before, sums))
                q += L


@kernel
def synapses_bwd(starts, source, value, g, marks, c, gw, gr, steps, batch, width, tiles, rows, start, stop):
    """gw_ij += sum s a and gr_ij += sum s q, [block][j][lanes], zeros; units are (block, tile)."""
    L = lanes(g)
    blocks, groups, count = len(gw) // (width * L), len(c) // 8, stop - start
    for some in range((batch + rows - 1) // rows * count):
        unit, b0 = start + some % count, some // count * rows
        block, tile = unit // tiles, unit % tiles
        e0 = block * width * L
        for group in range(groups):
            k, m0 = group * 8, (group * blocks + block) * width * 8
            c0, c1, c2, c3 = splat(c[k]), splat(c[k + 1]), splat(c[k + 2]), splat(c[k + 3])
            c4, c5, c6, c7 = splat(c[k + 4]), splat(c[k + 5]), splat(c[k + 6]), splat(c[k + 7])
            for b in range(b0, min(b0 + rows, batch)):
                a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = sub(c0, c0)
                q0 = q1 = q2 = q3 = q4 = q5 = q6 = q7 = a0
                for t in range(steps - 1, -1, -1):
                    g_t = load(g, ((b * blocks + block) * steps + t) * L)
                    q0, q1, q2, q3 = fma(c0, q0, a0), fma(c1, q1, a1), fma(c2, q2, a2), fma(c3, q3, a3)
                    q4, q5, q6, q7 = fma(c4, q4, a4), fma(c5, q5, a5), fma(c6, q6, a6), fma(c7, q7, a7)
                    a0, a1, a2, a3 = fma(c0, a0, g_t), fma(c1, a1, g_t), fma(c2, a2, g_t), fma(c3, a3, g_t)
                    a4, a5, a6, a7 = fma(c4, a4, g_t), fma(c5, a5, g_t), fma(c6, a6, g_t), fma(c7, a7, g_t)
                    row = (b * steps + t) * tiles + tile
                    for e in range(get(starts, row), get(starts, row + 1)):
                        j = get(source, e)
                        s, m, p = splat(get(value, e)), m0 + j * 8, e0 + j * L
                        bits = get(marks, m + 4), get(marks, m + 5), get(marks, m + 6)
                        inside = get(marks, m + 7)
                        x, y = load(gw, p), load(gr, p)
                        a = chosen(*bits, a0, a1, a2, a3, a4, a5, a6, a7)
                        store(gw, p, pick(inside, fma(s, a, x), x))
                        store(gr, p, pick(inside, fma(s, chosen(*bits, q0, q1, q2, q3, q4, q5, q6, q7), y), y))


@kernel
def last_traces(starts, source, value, c, X, steps, width, tiles, start, stop):
    """X[b][j][k] += sum_t c_k^(T-1-t) s_j[t], zeros, k in vectors; units are rows of the batch."""
    L = lanes(X)
    padded = len(c)
    for b in range(start, stop):
        for k in range(0, padded, L):
            decay = load(c, k)
            power = sub(decay, decay)
            power = add(power, splat(c.dtype.type(1)))
            for t in range(steps - 1, -1, -1):
                row = (b * steps + t) * tiles
                for e in range(get(starts, row), get(starts, row + tiles)):
                    p = (b * width + get(source, e)) * padded + k
                    store(X, p, fma(splat(get(value, e)), power, load(X, p)))
                power = mul(power, decay)


@kernel
def last_currents(X, w, marks, out, width, padded, blocks, start, stop):
    """w_ij X_kj, [b][j][N], of traces [b][j][padded]; units are rows of the batch."""
    L = lanes(out)
    groups = len(marks) // (blocks * width * 8)
    for b in range(start, stop):
        for j in range(width):
            for group in range(groups):
                k = (b * width + j) * padded + group * 8
                x0, x1, x2, x3 = splat(get(X, k)), splat(get(X, k + 1)), splat(get(X, k + 2)), splat(get(X, k + 3))
                x4, x5, x6, x7 = splat(get(X, k + 4)), splat(get(X, k + 5)), splat(get(X, k + 6)), splat(get(X, k + 7))
                for block in range(blocks):
                    m = ((group * blocks + block) * width + j) * 8
                    p = ((b * width + j) * blocks + block) * L
                    bits = get(marks, m + 4), get(marks, m + 5), get(marks, m + 6)
                    x = mul(load(w, (block * width + j) * L), chosen(*bits, x0, x1, x2, x3, x4, x5, x6, x7))
                    store(out, p, x if group == 0 else pick(get(marks, m + 7), x, load(out, p)))
