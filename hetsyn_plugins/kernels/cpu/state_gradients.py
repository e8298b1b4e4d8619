"""Gradients of first currents and through last ones, (B, N, K): what sequences that are trained in chunks need.

With I0 the first currents, lam = dLoss/dI[T-1] the gradient of the last, and the x, y, a, h of `batch_lanes.py`:

    a_ij[T-1] = g_i[T-1] + lam_ij      dI0_ij = r_ij a_ij[0]
    h[t] = r h[t-1], h[-1] = I0        q[t] = r q[t-1] + h[t-1]
    dw_ij += lam_ij x_ij[T-1]          dr_ij += lam_ij (w_ij y_ij + q_ij)[T-1]
    ds_j[t] += sum_i w_ij r_ij^(T-1-t) lam_ij

Lanes = sources: sequences are packed as in `neuron_lanes.py`, r and w are (N, K) flat, K
padded, currents (B, N, K) flat.
"""

from __future__ import annotations

from hetsyn_plugins.kernels.cpu.compiled import kernel
from hetsyn_plugins.kernels.cpu.neuron_lanes import place
from hetsyn_plugins.kernels.cpu.simd import add, fma, get, lanes, load, mul, splat, store, sub


@kernel
def currents_bwd(s, g, r, w, I0, lam, dI0, gw, gr, rows, steps, batch, start, stop):
    """dI0, and what lam adds to the gradients of w and r; units are neurons, `rows` of them in g."""
    L = lanes(s)
    K = len(s) // (batch * steps)
    N = len(r) // K
    for i in range(start, stop):
        for j in range(0, K, L):
            decay, weight = load(r, i * K + j), load(w, i * K + j)
            acc_w = acc_r = sub(decay, decay)
            for b in range(batch):
                e = (b * N + i) * K + j
                lam_ij, h = load(lam, e), load(I0, e)
                x = y = q = sub(decay, decay)
                p, p_g = place(b, j, K, steps, L), place(b, i, rows, steps, L)
                for t in range(steps):
                    y, q = fma(decay, y, x), fma(decay, q, h)
                    x, h = fma(decay, x, load(s, p + t * L)), mul(decay, h)
                acc_w = fma(lam_ij, x, acc_w)
                acc_r = fma(lam_ij, fma(weight, y, q), acc_r)
                a = add(lam_ij, splat(get(g, p_g + (steps - 1) * L)))
                for t in range(steps - 2, -1, -1):
                    a = fma(decay, a, splat(get(g, p_g + t * L)))
                store(dI0, e, mul(decay, a))
            store(gw, i * K + j, acc_w)
            store(gr, i * K + j, acc_r)


@kernel
def sources_bwd(lam, r, w, ds, steps, sources, start, stop):
    """ds[t] = sum_i w_ij r_ij^(T-1-t) lam_ij; units are (b, vector of sources)."""
    L = lanes(ds)
    K = sources
    N = len(r) // K
    for unit in range(start, stop):
        b, j = unit // (K // L), unit % (K // L) * L
        zero = sub(load(r, j), load(r, j))
        for t in range(steps):
            store(ds, (unit * steps + t) * L, zero)
        for i in range(N):
            decay, h = load(r, i * K + j), mul(load(w, i * K + j), load(lam, (b * N + i) * K + j))
            for t in range(steps - 1, -1, -1):
                q = (unit * steps + t) * L
                store(ds, q, add(load(ds, q), h))
                h = mul(decay, h)
