"""What every neuron does for itself, in vectors of `lanes` neurons or of `lanes` rows of the batch: no synapses here.

A sequence is packed as [vector / tile][T][tile][lanes]: `tile` vectors side by side, then their next step. The state of
a vector is [vector][lanes]; a parameter is [p][lanes], and vector V has parameter V modulo their number.

Every kernel of the package takes a range of units of work to do, releases the GIL, and writes nothing that another unit
reads: results are the same to the bit for any number of threads.
"""

from __future__ import annotations

from numba import njit

from hetsyn_plugins.kernels.cpu.simd import (
    above,
    add,
    div,
    exponential,
    fma,
    get,
    lanes,
    load,
    magnitude,
    mul,
    splat,
    store,
    sub,
)

kernel = njit(nogil=True, cache=True)


@kernel
def fire(u, z0, J0, A0, theta, reset_strength, kappa, strength, rho, steps, tile, start, stop):
    """u becomes v, in place; z0, J0, A0 become the last ones; units are vectors.

    `reset_strength` is what a spike adds to the reset current: the threshold, or 0 where there is no reset.
    """
    L = lanes(u)
    for unit in range(start, stop):
        own = unit * L % len(theta)
        th, kk, kp, st, rh = (
            load(theta, own),
            load(reset_strength, own),
            load(kappa, own),
            load(strength, own),
            load(rho, own),
        )
        z, J, A = load(z0, unit * L), load(J0, unit * L), load(A0, unit * L)
        q = (unit // tile * steps * tile + unit % tile) * L
        for _ in range(steps):
            J = fma(kp, J, mul(kk, z))
            A = fma(rh, A, mul(st, z))
            v = sub(sub(load(u, q), J), A)
            z = above(v, th)
            store(u, q, v)
            q += tile * L
        store(z0, unit * L, z), store(J0, unit * L, J), store(A0, unit * L, A)


@kernel
def heaviside(v, theta, out, start, stop):
    """out = 1 where v > theta, else 0; v and out flat (rows, N), units are rows."""
    N = len(theta)
    for unit in range(start, stop):
        for i in range(N):
            out[unit * N + i] = 1 if get(v, unit * N + i) > get(theta, i) else 0


@kernel
def previous(v, z0, theta, out, steps, tile, start, stop):
    """out[t] = z[t-1], z0 before the first step; units are vectors."""
    L = lanes(v)
    for unit in range(start, stop):
        th, z = load(theta, unit * L % len(theta)), load(z0, unit * L)
        q = (unit // tile * steps * tile + unit % tile) * L
        for _ in range(steps):
            store(out, q, z)
            z = above(load(v, q), th)
            q += tile * L


MULTI_GAUSSIAN, TRIANGULAR, ARCTAN, FAST_SIGMOID, SIGMOID = range(5)


@kernel
def derivative(kind, c, v, theta, d, steps, tile, start, stop):
    """d = the surrogate's derivative at v - theta (`surrogate.py`), c its constants; units are vectors."""
    L = lanes(v)
    c0, c1, c2, c3, c4 = splat(c[0]), splat(c[1]), splat(c[2]), splat(c[3]), splat(c[4])
    zero = sub(c0, c0)
    one = above(c4, zero)
    for unit in range(start, stop):
        th = load(theta, unit * L % len(theta))
        q = (unit // tile * steps * tile + unit % tile) * L
        for _ in range(steps):
            x = sub(load(v, q), th)
            if kind == MULTI_GAUSSIAN:  # c0 exp(c1 x^2) + c2 (exp(c3 (x - 1/2)^2) + exp(c3 (x + 1/2)^2))
                left, right = add(x, c4), sub(x, c4)
                wide = add(exponential(mul(c3, mul(left, left))), exponential(mul(c3, mul(right, right))))
                out = fma(c0, exponential(mul(c1, mul(x, x))), mul(c2, wide))
            elif kind == TRIANGULAR:  # c0 max(0, 1 - |x| / (c1 theta))
                rest = sub(one, div(magnitude(x), mul(c1, th)))
                out = mul(c0, mul(rest, above(rest, zero)))
            elif kind == ARCTAN:  # c0 / (1 + (c1 x)^2)
                scaled = mul(c1, x)
                out = div(c0, fma(scaled, scaled, one))
            elif kind == FAST_SIGMOID:  # 1 / (1 + c0 |x|)^2
                near = fma(c0, magnitude(x), one)
                out = div(one, mul(near, near))
            else:  # SIGMOID: c0 e / (1 + e)^2, e = exp(-c0 |x|)
                e = exponential(sub(zero, mul(c0, magnitude(x))))
                out = div(mul(c0, e), mul(add(one, e), add(one, e)))
            store(d, q, out)
            q += tile * L


@kernel
def adjoint(g, gz, d, gz0, aJ0, aA0, fired, reset_strength, kappa, strength, rho, steps, tile, start, stop):
    """g becomes dLoss/dv, in place: g[t] += gz[t] d[t], gz[t-1] += reset_strength aJ + strength aA; units are vectors.

    gz0 gets the gradient of the spikes before the first step; aJ0, aA0 hold what is owed to the last J and A and become
    the gradients of the first; `fired` gets -sum_t gz d, the threshold's part.
    """
    L = lanes(g)
    for unit in range(start, stop):
        own = unit * L % len(reset_strength)
        kk, kp, st, rh = load(reset_strength, own), load(kappa, own), load(strength, own), load(rho, own)
        aJ, aA = load(aJ0, unit * L), load(aA0, unit * L)
        carry = lost = sub(kk, kk)
        q = (unit // tile * steps * tile + unit % tile + (steps - 1) * tile) * L
        for _ in range(steps):
            through = mul(add(load(gz, q), carry), load(d, q))
            now = add(load(g, q), through)
            lost = sub(lost, through)
            store(g, q, now)
            bJ, bA = sub(aJ, now), sub(aA, now)
            carry = fma(kk, bJ, mul(st, bA))
            aJ, aA = mul(kp, bJ), mul(rh, bA)
            q -= tile * L
        store(gz0, unit * L, carry), store(aJ0, unit * L, aJ), store(aA0, unit * L, aA), store(fired, unit * L, lost)


@kernel
def own_gradients(v, g, z0, J0, A0, oJ, oA, theta, reset_strength, kappa, strength, rho, out, steps, tile, start, stop):
    """out [5][vector][lanes]: gradients of reset_strength, kappa, strength, rho and bias, one a lane; units are vectors.

    z0, J0, A0 are the first state, oJ, oA what is owed to the last J and A.
    """
    L = lanes(g)
    size = len(z0)
    for unit in range(start, stop):
        own, e = unit * L % len(theta), unit * L
        th, kk, kp, st, rh = (
            load(theta, own),
            load(reset_strength, own),
            load(kappa, own),
            load(strength, own),
            load(rho, own),
        )
        z, J, A = load(z0, e), load(J0, e), load(A0, e)
        zero = sub(th, th)
        g_kick = g_kappa = g_strength = g_rho = g_bias = XJ = XA = SJ = SA = zero
        q = (unit // tile * steps * tile + unit % tile) * L
        for _ in range(steps):
            SJ, SA = fma(kp, SJ, J), fma(rh, SA, A)
            J, A = fma(kp, J, mul(kk, z)), fma(rh, A, mul(st, z))
            XJ, XA = fma(kp, XJ, z), fma(rh, XA, z)
            now = load(g, q)
            g_bias = add(g_bias, now)
            g_kick, g_kappa = sub(g_kick, mul(now, XJ)), sub(g_kappa, mul(now, SJ))
            g_strength, g_rho = sub(g_strength, mul(now, XA)), sub(g_rho, mul(now, SA))
            z = above(load(v, q), th)
            q += tile * L
        lJ, lA = load(oJ, e), load(oA, e)
        store(out, e, fma(lJ, XJ, g_kick)), store(out, size + e, fma(lJ, SJ, g_kappa))
        store(out, 2 * size + e, fma(lA, XA, g_strength)), store(out, 3 * size + e, fma(lA, SA, g_rho))
        store(out, 4 * size + e, g_bias)


@kernel
def multiply_adds(out, count, start, stop):
    """12 * count vector multiply-adds a unit that wait for nothing: what the benchmark takes as the machine's limit."""
    L = lanes(out)
    for unit in range(start, stop):
        e = unit * 12 * L
        a, b = splat(out[0]), splat(out[1])
        x0 = x1 = x2 = x3 = x4 = x5 = x6 = x7 = x8 = x9 = x10 = x11 = a
        for _ in range(count):
            x0, x1, x2, x3 = fma(x0, a, b), fma(x1, a, b), fma(x2, a, b), fma(x3, a, b)
            x4, x5, x6, x7 = fma(x4, a, b), fma(x5, a, b), fma(x6, a, b), fma(x7, a, b)
            x8, x9, x10, x11 = fma(x8, a, b), fma(x9, a, b), fma(x10, a, b), fma(x11, a, b)
        store(out, e, add(add(add(x0, x1), add(x2, x3)), add(add(x4, x5), add(x6, x7))))
        store(out, e + L, add(add(x8, x9), add(x10, x11)))
