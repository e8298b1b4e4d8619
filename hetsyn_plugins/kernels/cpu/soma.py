"""What every neuron does for itself, in vectors of `lanes` neurons or of `lanes` rows of the batch: no synapses here.

The one place in numba where the equations of a neuron stand (Deng et al. 2025, Eqs. 2 to 5; `core/reference.py` has
all of them and their gradients): `soma_fwd` is a step forwards, `soma_bwd` its adjoint, a step backwards.

    u        summed synaptic currents, sum_j I_ij + sum_k L_ik + b_i        v = u - J - A    membrane, in the place of u
    z, J, A  spikes, reset current, adaptation current                      z0, J0, A0       before the first step
    theta, reset_strength, kappa            threshold, what a spike adds to J (theta, or 0 without reset), decay of J
    adaptation_strength, rho                what a spike adds to A, decay of A
    d        the surrogate's derivative at v, in the place of dz/dv
    g        dLoss/dv          gz      dLoss/dz from outside the layer      aJ, aA           dLoss/dJ, dLoss/dA
    XJ, XA   dJ/d(reset_strength), dA/d(adaptation_strength)                SJ, SA           dJ/dkappa, dA/drho

A sequence is packed as [vector / tile][T][tile][lanes]: `tile` vectors side by side, then their next step. The state of
a vector is [vector][lanes]; a parameter is [p][lanes], and vector V has parameter V modulo their number. `q` is where a
step of a vector lies in a sequence, `e` where it lies in a state, `i` where its parameters lie.

Every kernel of the package takes a range of units of work to do, releases the GIL, and writes nothing that another unit
reads: results are the same to the bit for any number of threads.
"""

from __future__ import annotations

from hetsyn_plugins.kernels.cpu.compiled import kernel
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
    put,
    splat,
    store,
    sub,
)


@kernel
def soma_fwd(u, z, J, A, theta, reset_strength, kappa, adaptation_strength, rho):
    """One step of a vector of neurons: v, and z, J, A after it, from those before it."""
    J = fma(kappa, J, mul(reset_strength, z))
    A = fma(rho, A, mul(adaptation_strength, z))
    v = sub(sub(u, J), A)
    return v, above(v, theta), J, A


@kernel
def soma_bwd(g, gz, d, aJ, aA, reset_strength, kappa, adaptation_strength, rho):
    """The adjoint of a step: dLoss/dv whole, the part of it that came through z, dLoss/dz of the step before, aJ, aA.

    g, gz, aJ, aA hold what is known so far of the gradients of v, z, J and A of this step.
    """
    grad_z_d = mul(gz, d)
    g = add(g, grad_z_d)
    aJ, aA = sub(aJ, g), sub(aA, g)
    grad_z_prev = fma(reset_strength, aJ, mul(adaptation_strength, aA))
    return g, grad_z_d, grad_z_prev, mul(kappa, aJ), mul(rho, aA)


@kernel
def load_soma(theta, reset_strength, kappa, adaptation_strength, rho, i):
    """The parameters of a vector of neurons."""
    return load(theta, i), load(reset_strength, i), load(kappa, i), load(adaptation_strength, i), load(rho, i)


@kernel
def neurons_fwd(u, z0, J0, A0, theta, reset_strength, kappa, adaptation_strength, rho, steps, tile, start, stop):
    """u becomes v, in place; z0, J0, A0 become the last ones; units are vectors."""
    L = lanes(u)
    for unit in range(start, stop):
        i, e = unit * L % len(theta), unit * L
        constants = load_soma(theta, reset_strength, kappa, adaptation_strength, rho, i)
        z, J, A = load(z0, e), load(J0, e), load(A0, e)
        q = (unit // tile * steps * tile + unit % tile) * L
        for _ in range(steps):
            v, z, J, A = soma_fwd(load(u, q), z, J, A, *constants)
            store(u, q, v)
            q += tile * L
        store(z0, e, z)
        store(J0, e, J)
        store(A0, e, A)


@kernel
def spikes_fwd(v, theta, out, start, stop):
    """out = 1 where v > theta, else 0; v and out flat (rows, N), units are rows."""
    L, N = lanes(v), len(theta)
    for p in range(start * N, stop * N, N):
        for i in range(0, N - L + 1, L):
            store(out, p + i, above(load(v, p + i), load(theta, i)))
        for i in range(N // L * L, N):
            put(out, p + i, 1 if get(v, p + i) > get(theta, i) else 0)


@kernel
def shifted_spikes(v, z0, theta, out, steps, tile, start, stop):
    """out[t] = z[t-1], z0 before the first step; units are vectors."""
    L = lanes(v)
    for unit in range(start, stop):
        theta_i, z = load(theta, unit * L % len(theta)), load(z0, unit * L)
        q = (unit // tile * steps * tile + unit % tile) * L
        for _ in range(steps):
            store(out, q, z)
            z = above(load(v, q), theta_i)
            q += tile * L


MULTI_GAUSSIAN, TRIANGULAR, ARCTAN, FAST_SIGMOID, SIGMOID = range(5)


@kernel
def surrogate_bwd(kind, c, v, theta, d, steps, tile, start, stop):
    """d = the surrogate's derivative at v - theta (`surrogate.py`), c its constants; units are vectors."""
    L = lanes(v)
    c0, c1, c2, c3, c4 = splat(c[0]), splat(c[1]), splat(c[2]), splat(c[3]), splat(c[4])
    zero = sub(c0, c0)
    one = above(c4, zero)
    for unit in range(start, stop):
        theta_i = load(theta, unit * L % len(theta))
        q = (unit // tile * steps * tile + unit % tile) * L
        for _ in range(steps):
            x = sub(load(v, q), theta_i)
            if kind == MULTI_GAUSSIAN:  # c0 exp(c1 x^2) + c2 (exp(c3 (x - 1/2)^2) + exp(c3 (x + 1/2)^2))
                left, right = add(x, c4), sub(x, c4)
                wide = add(exponential(mul(c3, mul(left, left))), exponential(mul(c3, mul(right, right))))
                out = fma(c0, exponential(mul(c1, mul(x, x))), mul(c2, wide))
            elif kind == TRIANGULAR:  # c0 max(0, 1 - |x| / (c1 theta))
                rest = sub(one, div(magnitude(x), mul(c1, theta_i)))
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
def neurons_bwd(
    g, gz, d, gz0, aJ0, aA0, grad_threshold, reset_strength, kappa, adaptation_strength, rho, steps, tile, start, stop
):
    """g becomes dLoss/dv whole, in place; units are vectors.

    gz0 gets the gradient of the spikes before the first step; aJ0, aA0 hold the gradients of the last J and A and
    become those of the first; `grad_threshold` gets -sum_t gz d, the part of the threshold's that comes through z.
    """
    L = lanes(g)
    for unit in range(start, stop):
        i, e = unit * L % len(reset_strength), unit * L
        constants = load(reset_strength, i), load(kappa, i), load(adaptation_strength, i), load(rho, i)
        aJ, aA = load(aJ0, e), load(aA0, e)
        grad_z_prev = through_z = sub(aJ, aJ)
        q = (unit // tile * steps * tile + unit % tile + (steps - 1) * tile) * L
        for _ in range(steps):
            gz_t = add(load(gz, q), grad_z_prev)
            g_t, grad_z_d, grad_z_prev, aJ, aA = soma_bwd(load(g, q), gz_t, load(d, q), aJ, aA, *constants)
            through_z = sub(through_z, grad_z_d)
            store(g, q, g_t)
            q -= tile * L
        store(gz0, e, grad_z_prev)
        store(aJ0, e, aJ)
        store(aA0, e, aA)
        store(grad_threshold, e, through_z)


# long: a line for every array that is read and every sum that is kept
@kernel
def soma_parameters_bwd(
    v,
    g,
    z0,
    J0,
    A0,
    aJ,
    aA,
    theta,
    reset_strength,
    kappa,
    adaptation_strength,
    rho,
    out,
    steps,
    tile,
    start,
    stop,
):
    """out [5][vector][lanes]: gradients of reset_strength, kappa, adaptation_strength, rho and bias; units are vectors.

    aJ, aA are the gradients of the last J and A.
    """
    L = lanes(g)
    size = len(z0)
    for unit in range(start, stop):
        i, e = unit * L % len(theta), unit * L
        theta_i, reset_i, kappa_i, adapt_i, rho_i = load_soma(theta, reset_strength, kappa, adaptation_strength, rho, i)
        z, J, A = load(z0, e), load(J0, e), load(A0, e)
        zero = sub(theta_i, theta_i)
        g_reset = g_kappa = g_adapt = g_rho = g_bias = XJ = XA = SJ = SA = zero
        q = (unit // tile * steps * tile + unit % tile) * L
        for _ in range(steps):
            SJ, SA = fma(kappa_i, SJ, J), fma(rho_i, SA, A)
            XJ, XA = fma(kappa_i, XJ, z), fma(rho_i, XA, z)
            _, _, J, A = soma_fwd(zero, z, J, A, theta_i, reset_i, kappa_i, adapt_i, rho_i)
            g_t = load(g, q)
            g_bias = add(g_bias, g_t)
            g_reset, g_kappa = sub(g_reset, mul(g_t, XJ)), sub(g_kappa, mul(g_t, SJ))
            g_adapt, g_rho = sub(g_adapt, mul(g_t, XA)), sub(g_rho, mul(g_t, SA))
            z = above(load(v, q), theta_i)
            q += tile * L
        from_J, from_A = load(aJ, e), load(aA, e)
        store(out, e, fma(from_J, XJ, g_reset))
        store(out, size + e, fma(from_J, SJ, g_kappa))
        store(out, 2 * size + e, fma(from_A, XA, g_adapt))
        store(out, 3 * size + e, fma(from_A, SA, g_rho))
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
