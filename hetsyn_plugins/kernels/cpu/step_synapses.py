"""Synapses in one step by itself: each current passes through the processor once, forwards and backwards.

The recursions are those of `batch_lanes.py`, with T = 1 and the currents as they are, I_ij, since they come from
outside and go there:

    I_ij' = r_ij I_ij + w_ij s_j      u_i += sum_j I_ij'
    a_ij  = lam_ij + g_i              dI_ij = r_ij a_ij      ds_j = sum_i w_ij a_ij
                                      dw_ij = sum_b a_ij s_j      dr_ij = sum_b a_ij I_ij

    s    sources (B, K)               r, w   decays and weights (N, K)   I, lam   currents before, dLoss/dI' (B, N, K)
    g    dLoss/dv (B, padded N)       u      the sums, likewise          L        lanes

Arrays are flat. Lanes = sources, which lie side by side in a current; those that fill no vector are done one by one.
Four rows of the batch share what is loaded of r and w. `soma.py` says what every kernel keeps to.
"""

from __future__ import annotations

from hetsyn_plugins.kernels.cpu.compiled import kernel
from hetsyn_plugins.kernels.cpu.simd import add, fma, get, lanes, load, mul, put, splat, store, sub, total

ROWS, NEURONS = 4, 32  # what a unit of work has at most


@kernel
def row_fwd(s, current, r, w, out, p, q, e, K, fresh):
    """One row and neuron: the new currents into `out`; returns their sum."""
    L = lanes(r)
    whole = K - K % L
    acc = sub(splat(r[0]), splat(r[0]))
    for j in range(0, whole, L):
        x = mul(load(w, p + j), load(s, q + j))
        if not fresh:
            x = fma(load(r, p + j), load(current, e + j), x)
        store(out, e + j, x)
        acc = add(acc, x)
    rest = total(acc)
    for j in range(whole, K):
        y = get(w, p + j) * get(s, q + j)
        if not fresh:
            y += get(r, p + j) * get(current, e + j)
        put(out, e + j, y)
        rest += y
    return rest


# long: unrolled by four rows, one statement a line
@kernel
def synapses_fwd(s, current, r, w, out, u, batch, neurons, padded, K, fresh, start, stop):
    """`out` gets the currents after the step, u their sums on top; `fresh`: those before it are zero, and not read.

    Units are (ROWS rows, NEURONS neurons).
    """
    L = lanes(r)
    blocks = (neurons + NEURONS - 1) // NEURONS
    whole, row = K - K % L, neurons * K
    for unit in range(start, stop):
        b = unit // blocks * ROWS
        i0 = unit % blocks * NEURONS
        for i in range(i0, min(i0 + NEURONS, neurons)):
            p, q, e, f = i * K, b * K, (b * neurons + i) * K, b * padded + i
            if b + ROWS > batch:
                for k in range(batch - b):
                    u[f + k * padded] += row_fwd(s, current, r, w, out, p, q + k * K, e + k * row, K, fresh)
                continue
            u0 = u1 = u2 = u3 = sub(splat(r[0]), splat(r[0]))
            for j in range(0, whole, L):
                decay, weight = load(r, p + j), load(w, p + j)
                x0, x1 = mul(weight, load(s, q + j)), mul(weight, load(s, q + K + j))
                x2, x3 = mul(weight, load(s, q + 2 * K + j)), mul(weight, load(s, q + 3 * K + j))
                if not fresh:
                    x0 = fma(decay, load(current, e + j), x0)
                    x1 = fma(decay, load(current, e + row + j), x1)
                    x2 = fma(decay, load(current, e + 2 * row + j), x2)
                    x3 = fma(decay, load(current, e + 3 * row + j), x3)
                store(out, e + j, x0)
                store(out, e + row + j, x1)
                store(out, e + 2 * row + j, x2)
                store(out, e + 3 * row + j, x3)
                u0, u1, u2, u3 = add(u0, x0), add(u1, x1), add(u2, x2), add(u3, x3)
            y0, y1, y2, y3 = total(u0), total(u1), total(u2), total(u3)
            for j in range(whole, K):
                decay_j, weight_j = get(r, p + j), get(w, p + j)
                z0, z1 = weight_j * get(s, q + j), weight_j * get(s, q + K + j)
                z2, z3 = weight_j * get(s, q + 2 * K + j), weight_j * get(s, q + 3 * K + j)
                if not fresh:
                    z0 += decay_j * get(current, e + j)
                    z1 += decay_j * get(current, e + row + j)
                    z2 += decay_j * get(current, e + 2 * row + j)
                    z3 += decay_j * get(current, e + 3 * row + j)
                put(out, e + j, z0)
                put(out, e + row + j, z1)
                put(out, e + 2 * row + j, z2)
                put(out, e + 3 * row + j, z3)
                y0, y1, y2, y3 = y0 + z0, y1 + z1, y2 + z2, y3 + z3
            u[f] += y0
            u[f + padded] += y1
            u[f + 2 * padded] += y2
            u[f + 3 * padded] += y3


@kernel
def synapses_bwd(g, lam, r, w, out, ds, batch, neurons, padded, K, last, start, stop):
    """`out` gets dI = r a, ds (B, K), zeros, gets sum_i w a; `last`: lam is zero, and not read. Units are rows."""
    L = lanes(r)
    whole = K - K % L
    for b in range(start, stop):
        q = b * K
        for i in range(neurons):
            p, e, g_i = i * K, (b * neurons + i) * K, get(g, b * padded + i)
            g_vector = splat(g_i)
            for j in range(0, whole, L):
                a = g_vector if last else add(load(lam, e + j), g_vector)
                store(out, e + j, mul(load(r, p + j), a))
                store(ds, q + j, fma(load(w, p + j), a, load(ds, q + j)))
            for j in range(whole, K):
                a_j = g_i if last else get(lam, e + j) + g_i
                put(out, e + j, get(r, p + j) * a_j)
                put(ds, q + j, get(ds, q + j) + get(w, p + j) * a_j)


@kernel
def parameters_bwd(g, lam, s, current, gw, gr, batch, neurons, padded, K, last, fresh, start, stop):
    """gw = sum_b a s and gr = sum_b a I, (N, K); `last`, `fresh`: lam, the currents, are zero. Units are neurons."""
    L = lanes(gw)
    whole = K - K % L
    for i in range(start, stop):
        for j in range(0, whole, L):
            acc_w = acc_r = sub(splat(gw[0]), splat(gw[0]))
            for b in range(batch):
                e, a = (b * neurons + i) * K + j, splat(get(g, b * padded + i))
                if not last:
                    a = add(load(lam, e), a)
                acc_w = fma(a, load(s, b * K + j), acc_w)
                if not fresh:
                    acc_r = fma(a, load(current, e), acc_r)
            store(gw, i * K + j, acc_w)
            store(gr, i * K + j, acc_r)
        for j in range(whole, K):
            sum_w = sum_r = get(gw, 0) - get(gw, 0)
            for b in range(batch):
                e, a_j = (b * neurons + i) * K + j, get(g, b * padded + i)
                if not last:
                    a_j += get(lam, e)
                sum_w += a_j * get(s, b * K + j)
                if not fresh:
                    sum_r += a_j * get(current, e)
            put(gw, i * K + j, sum_w)
            put(gr, i * K + j, sum_r)
