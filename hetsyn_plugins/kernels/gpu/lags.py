"""Recurrent layers of more neurons than one program holds, on a GPU: L steps at a time; Triton, float32.

Letters as in `neurons.py` and `synapses.py`; p, w, L are decays, weights, currents of recurrent synapses, and

    k, i        the neurons that a synapse comes from and goes to        s      sources: s[t] = z[t-1]
    x           L without its weight: x[t] = p x[t-1] + s[t]             t0     the first step of a chunk of steps

A launch for every step would read and write all currents (B, N, N) in each. But spikes of the same chunk reach the
neurons through matrices that all rows share:

    sum_k L[t0 + l] = sum_k w p^l x[t0] + sum_{d < l} W_d s[t0 + l - d],        W_d = w p^d, the lag matrices

so that `state_pass` reads and writes x once a chunk: it adds the sources of the chunk before, and gives the first sum
of every step. The second is one matrix product a step, (B, l N) with (l N, N), in full precision; then comes a kernel
with the neurons' own part. Powers are products of p with itself: p = 0 and p = 1 are exact.

The adjoint a[t] = g[t] + p a[t+1] is the same program with time reversed, g in the place of s, k and i exchanged. What
is owed to the last currents joins a as it is, without a decay.

Two runs give the same bits, as far as the library's products do; a row's may depend on how many rows there are.

These kernels do write numbers that they have read: x, and in a step z, J, A and their adjoints. Tiles have at least as
many numbers as a program has threads, so that each of them is one thread's.

With delays the lag matrices are what a synapse gives of a spike so many steps later, and x is L, with its weight; what
arrives in a chunk of spikes from before it is looked up in rows of spikes, as in `delayed.py`, which end in zeros where
nobody has spiked yet. So do layers of few neurons: their synapses with delays fit the registers of no one program.

Memory: x (B, N, N), lag matrices that take no more than half of it or 32 MB, the parts of the first sums a third.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.kernels.gpu import delayed, neurons
from hetsyn_plugins.kernels.gpu.delayed import Packed, Synapses
from hetsyn_plugins.kernels.gpu.launch import HAS_STAGES, cells, kernel, launch, or_any, pieces, staged_range, whole
from hetsyn_plugins.kernels.gpu.neurons import load_if, soma_bwd, soma_fwd
from hetsyn_plugins.kernels.gpu.precision import full_precision
from hetsyn_plugins.kernels.gpu.surrogates import derivative_bwd
from hetsyn_plugins.kernels.gpu.synapses import currents_step, sum_in_thread, transposed
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.kernels.zeros import is_zero

STEPS = 8  # of a chunk, at most; prototypes on an H100 were slower with 4 and 32, and with 16 at N = 256
MATRIX_FLOATS = 2**23  # that lag matrices may have in any case: 32 MB
TILE = 32  # neurons on both sides of a program's synapses, as in `synapses.py`
TILE_STEP, WARPS_STEP = 128, 4  # neurons of a step's program, one for each thread

if HAS_STAGES:
    range = staged_range


# ---- kernels


# long: a line for every argument and every load, as Triton wants them
@kernel
def state_pass(
    slots,
    initial,
    x_all,
    parts,
    p,
    w,
    before,
    now,
    slots_row,
    B,
    N,
    state_b,
    state_i,
    state_k,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    HAS_CURRENT: tl.constexpr,
    HAS_GRAD_FINAL: tl.constexpr,
    TILE: tl.constexpr,
):
    """x_all (B, k, i) goes through the sources in the first `before` slots, slots_row numbers a row of the batch.

    Then parts[kt, l, b, i] of `now` steps, which get no more sources; p, w are (k, i).
    FIRST  x starts at zeros, or, HAS_CURRENT, at the first currents `initial`, w inside for good; or, HAS_GRAD_FINAL,
           the gradients `initial` are added behind the sources; numbers of neighbours lie state_b, _i, _k apart
    LAST   x_all gets the currents
    """
    # tiles beside each other in memory at the same time, then rows, which share p and w
    tiles = (N + TILE - 1) // TILE
    it, b, kt = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(1).to(tl.int64)
    i, k = it * TILE + tl.arange(0, TILE), kt * TILE + tl.arange(0, TILE)
    in_i, in_k = i < N, k < N
    inside = tl.expand_dims(in_k, 1) & tl.expand_dims(in_i, 0)
    at = tl.expand_dims(k, 1) * N + tl.expand_dims(i, 0)
    initial_at = b * state_b + tl.expand_dims(k, 1) * state_k + tl.expand_dims(i, 0) * state_i
    decay, weight = tl.load(p + at, mask=inside, other=0.0), tl.load(w + at, mask=inside, other=0.0)
    x = tl.zeros((TILE, TILE), tl.float32)
    if FIRST:
        x += load_if(initial, initial_at, inside, HAS_CURRENT)
    else:
        x += tl.load(x_all + b * N * N + at, mask=inside, other=0.0)
    s_at = slots + b * slots_row + k
    for d in range(0, before, num_stages=8):
        source = tl.expand_dims(tl.load(s_at + d * N, mask=in_k, other=0.0), 1)
        x, _ = currents_step(x, decay, weight, source, HAS_CURRENT, False)
    if FIRST:
        x += load_if(initial, initial_at, inside, HAS_GRAD_FINAL)
    current = x
    if not HAS_CURRENT:
        current = weight * x
    if LAST:
        x = current
    # counted from the tile on: the compiler would keep addresses that it has had before for all of the loop
    in_tile = tl.expand_dims(tl.arange(0, TILE), 1) * N + tl.expand_dims(i, 0)
    tl.store(x_all + (b * N + kt * TILE) * N + in_tile, x, mask=inside)
    part_step = B.to(tl.int64) * N
    part_at = parts + kt * now * part_step + b * N + i
    power = tl.full((TILE, TILE), 1.0, tl.float32)
    for _ in range(0, now):
        tl.store(part_at, sum_in_thread(current * power), mask=in_i)
        part_at += part_step
        power *= decay


# long: a line for every argument and every load, as Triton wants them
@kernel
def delayed_state_pass(
    s,
    initial,
    x_all,
    parts,
    p,
    wh,
    wf,
    k,
    step,
    before,
    now,
    B,
    N,
    width,
    front,
    state_b,
    state_i,
    state_k,
    FIRST: tl.constexpr,
    HAS_CURRENT: tl.constexpr,
    TILE: tl.constexpr,
):
    """As `state_pass` for synapses with delays, p, wh, wf, k (source, neuron), and sources as `delayed.pack` has them.

    x_all goes through the last `before` sources that are known, those up to `step`; behind them are zeros.
    """
    tiles = (N + TILE - 1) // TILE
    it, b, kt = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(1)
    i, source = it * TILE + tl.arange(0, TILE), kt * TILE + tl.arange(0, TILE)
    in_i, in_k = i < N, source < N
    inside = tl.expand_dims(in_k, 1) & tl.expand_dims(in_i, 0)
    at = tl.expand_dims(source, 1) * N + tl.expand_dims(i, 0)
    initial_at = b * state_b + tl.expand_dims(source, 1) * state_k + tl.expand_dims(i, 0) * state_i
    decay = tl.load(p + at, mask=inside, other=0.0)
    weight_h, weight_f = tl.load(wh + at, mask=inside, other=0.0), tl.load(wf + at, mask=inside, other=0.0)
    x = tl.zeros((TILE, TILE), tl.float32)
    if FIRST:
        x += load_if(initial, initial_at, inside, HAS_CURRENT)
    else:
        x += tl.load(x_all + (b * N * N + at), mask=inside, other=0.0)
    s_row = s + (b * tiles + kt) * TILE * width
    place = tl.expand_dims(tl.arange(0, TILE), 1) * width + front - whole(tl.load(k + at, mask=inside, other=0.0))
    s_at = s_row + (place + (step - before))
    for d in range(0, before, num_stages=1):
        x = decay * x + weight_f * tl.load(s_at + d) + weight_h * tl.load(s_at + (d + 1))
    in_tile = tl.expand_dims(tl.arange(0, TILE), 1) * N + tl.expand_dims(i, 0)
    tl.store(x_all + (b * N + kt * TILE) * N + in_tile, x, mask=inside)
    part_step = B.to(tl.int64) * N
    part_at = parts + kt * now * part_step + b * N + i
    s_at = s_row + (place + step)
    tl.store(part_at, sum_in_thread(x), mask=in_i & (now > 0))
    for d in range(1, now, num_stages=1):
        x = decay * x + weight_f * tl.load(s_at + (d - 1)) + weight_h * tl.load(s_at + d)
        part_at += part_step
        tl.store(part_at, sum_in_thread(x), mask=in_i)


@kernel
def delayed_matrices(p, wh, wf, k, matrices, lags, N, TILE: tl.constexpr):
    """What synapses p, wh, wf, k (N, N) give of a source, 0 to `lags` - 1 steps later, the latest first."""
    i, j = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.program_id(1) * TILE + tl.arange(0, TILE)
    i, j = tl.expand_dims(i, 0), tl.expand_dims(j, 1)
    inside, at = (i < N) & (j < N), j.to(tl.int64) * N + i
    decay, steps = tl.load(p + at, mask=inside, other=0.0), tl.load(k + at, mask=inside, other=0.0)
    weight_h, weight_f = tl.load(wh + at, mask=inside, other=0.0), tl.load(wf + at, mask=inside, other=0.0)
    x = tl.zeros((TILE, TILE), tl.float32)
    at += (lags - 1) * N * N
    for lag in range(0, lags, num_stages=1):
        x = decay * x + tl.where(steps == lag, weight_h, 0.0) + tl.where(steps + 1 == lag, weight_f, 0.0)
        tl.store(matrices + at, x, mask=inside)
        at -= N * N


@triton.jit
def arriving(parts, new, e, inside, slot, now, tiles, step, HAS_NEW: tl.constexpr):
    """The summed currents of one of a chunk's `now` steps; a step's numbers lie `step` from the next one's."""
    total = (e * 0).to(tl.float32)
    for tile in range(tiles):
        total += tl.load(parts + (tile * now + slot) * step + e, mask=inside, other=0.0)
    if HAS_NEW:
        total += tl.load(new + e, mask=inside, other=0.0)
    return total


@triton.jit
def send(slots, s, decays, entries, at, inside, N, HAS_TRACES: tl.constexpr):
    """What some neurons send, s, goes into their slot; or, HAS_TRACES, into `entries` traces x = c x + s, N apart."""
    if HAS_TRACES:
        for entry in range(entries):
            x_at = slots + at + entry * N
            x = tl.load(decays + entry) * tl.load(x_at, mask=inside, other=0.0) + s
            tl.store(x_at, x, mask=inside)
    else:
        tl.store(slots + at, s, mask=inside)


# long: a line for every argument and every load, as Triton wants them
@kernel
def lag_step_fwd(
    u,
    v,
    z0,
    J0,
    A0,
    z1,
    J1,
    A1,
    theta,
    kappa,
    adaptation_strength,
    rho,
    parts,
    new,
    slots,
    decays,
    t,
    slot,
    now,
    tiles,
    slots_row,
    entries,
    B,
    N,
    FIRST: tl.constexpr,
    HAS_NEW: tl.constexpr,
    HAS_TRACES: tl.constexpr,
    HAS_RESET: tl.constexpr,
    HAS_ADAPTATION: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    TILE: tl.constexpr,
):
    """Step t, one of `now` in a chunk: v, and from z1, J1, A1 of the step before (FIRST: z0, J0, A0) those after it.

    Spikes go to that slot of their row in `slots` (B, ..., N) too; HAS_TRACES: into their traces there, from slot on.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside, e, step = i < N, b * N + i, B.to(tl.int64) * N
    theta_i = tl.load(theta + i, mask=inside, other=1.0)
    reset_i, kappa_i = load_if(theta, i, inside, HAS_RESET), load_if(kappa, i, inside, HAS_RESET)
    adapt_i = load_if(adaptation_strength, i, inside, HAS_ADAPTATION)
    rho_i = load_if(rho, i, inside, HAS_ADAPTATION)
    if FIRST:
        z = load_if(z0, e, inside, HAS_INITIAL)
        J, A = load_if(J0, e, inside, HAS_INITIAL & HAS_RESET), load_if(A0, e, inside, HAS_INITIAL & HAS_ADAPTATION)
    else:
        z = tl.load(z1 + e, mask=inside, other=0.0)
        J, A = load_if(J1, e, inside, HAS_RESET), load_if(A1, e, inside, HAS_ADAPTATION)
    u_t = tl.load(u + t * step + e, mask=inside, other=0.0)
    u_t += arriving(parts, new, e, inside, slot, now, tiles, step, HAS_NEW)
    v_t, z, J, A = soma_fwd(u_t, z, J, A, theta_i, reset_i, kappa_i, adapt_i, rho_i)
    tl.store(v + t * step + e, v_t, mask=inside)
    send(slots, z, decays, entries, b * slots_row + slot * N + i, inside, N, HAS_TRACES)
    tl.store(z1 + e, z, mask=inside)
    if HAS_RESET:
        tl.store(J1 + e, J, mask=inside)
    if HAS_ADAPTATION:
        tl.store(A1 + e, A, mask=inside)


# long: a line for every argument and every load, as Triton wants them
@kernel
def lag_step_bwd(
    gv,
    gz,
    v,
    g,
    gz0,
    aJ1,
    aA1,
    aJ0,
    aA0,
    grad_threshold,
    theta,
    kappa,
    adaptation_strength,
    rho,
    first,
    second,
    parts,
    new,
    slots,
    decays,
    t,
    slot,
    now,
    tiles,
    slots_row,
    entries,
    B,
    N,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    HAS_NEW: tl.constexpr,
    HAS_TRACES: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_GZ: tl.constexpr,
    HAS_AJ1: tl.constexpr,
    HAS_AA1: tl.constexpr,
    HAS_RESET: tl.constexpr,
    HAS_ADAPTATION: tl.constexpr,
    THROUGH_RESET: tl.constexpr,
    KIND: tl.constexpr,
    TILE: tl.constexpr,
):
    """g[t], with arguments as in `neurons_bwd`, from g[t+1] and what has arrived; it goes to that slot of its row too.

    FIRST  t is the last step: nothing comes from a later one, aJ and aA are those that are owed to the last J and A
    LAST   t is -1: what has arrived belongs to the first spikes, gz0
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside, e, step = i < N, b * N + i, B.to(tl.int64) * N
    theta_i = tl.load(theta + i, mask=inside, other=1.0)
    reset_i, kappa_i = load_if(theta, i, inside, THROUGH_RESET), load_if(kappa, i, inside, HAS_RESET)
    adapt_i = load_if(adaptation_strength, i, inside, HAS_ADAPTATION)
    rho_i = load_if(rho, i, inside, HAS_ADAPTATION)
    grad_z, through_z = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    q = t * step + e
    if FIRST:
        aJ, aA = load_if(aJ1, e, inside, HAS_AJ1), load_if(aA1, e, inside, HAS_AA1)
    else:
        aJ, aA = load_if(aJ0, e, inside, HAS_RESET), load_if(aA0, e, inside, HAS_ADAPTATION)
        g_after = tl.load(g + q + step, mask=inside, other=0.0)
        grad_z, aJ, aA = soma_bwd(g_after, aJ, aA, reset_i, kappa_i, adapt_i, rho_i)
        grad_z += arriving(parts, new, e, inside, slot, now, tiles, step, HAS_NEW)
        through_z += tl.load(grad_threshold + e, mask=inside, other=0.0)
    if LAST:
        tl.store(gz0 + e, grad_z, mask=inside)
    else:
        d = derivative_bwd(tl.load(v + q, mask=inside, other=0.0), theta_i, first, second, KIND)
        grad_z_d = (load_if(gz, q, inside, HAS_GZ) + grad_z) * d
        g_t = load_if(gv, q, inside, HAS_GV) + grad_z_d
        tl.store(g + q, g_t, mask=inside)
        send(slots, g_t, decays, entries, b * slots_row + slot * N + i, inside, N, HAS_TRACES)
        tl.store(grad_threshold + e, through_z - grad_z_d, mask=inside)
    if HAS_RESET:
        tl.store(aJ0 + e, aJ, mask=inside)
    if HAS_ADAPTATION:
        tl.store(aA0 + e, aA, mask=inside)


# ---- their order


class Chunk(NamedTuple):
    """Memory for a chunk of L steps, and what it is computed of.

    synapses  decay and weight     (source, neuron); with delays, a `Delayed`
    x         (B, source, neuron)
    slots     (B, L, N)            what the neurons send in the steps of the chunk
    parts     L (tiles, B, N)      the first sums of its steps
    new       (B, N)               the second sum of a step
    products  for l = 0, ...       its factors: (B, l N) of the slots, (l N, N) of the lag matrices, the longest first
    late      with delays, what the neurons have sent so far, and zeros
    """

    synapses: tuple[Tensor, ...]
    x: Tensor
    slots: Tensor
    parts: Tensor
    new: Tensor
    products: list[tuple[Tensor, Tensor]]
    late: Packed | None = None

    @property
    def of_step(self) -> tuple[Tensor, ...]:
        """What a step reads of it, and where it writes; it has no traces, and no decays of theirs."""
        return self.parts, self.new, self.slots, self.new


def steps_at_once(steps: int, batch: int, n: int) -> int:
    """How many steps a chunk has: fewer where the lag matrices, one less, would take too much memory."""
    return min(steps, STEPS, 1 + max(batch // 2, MATRIX_FLOATS // n**2))


def _chunk(synapses: tuple[Tensor, ...], steps: int, batch: int, late: Packed | None = None) -> Chunk:
    """Memory for a chunk, and the lag matrices."""
    n, new = len(synapses[0]), synapses[0].new_empty
    length = steps_at_once(steps, batch, n)
    matrices = new((length - 1, n, n))
    if late is not None:
        grid = (cells(n, TILE), cells(n, TILE), 1)
        launch(delayed_matrices, grid, *synapses, matrices, length - 1, n, TILE=TILE, num_warps=4)
    else:
        decay, power = synapses
        for matrix in reversed(matrices.unbind()):
            power = matrix.copy_(power) * decay
    slots, factors = new((batch, length, n)), matrices.view(-1, n)
    sources = slots.view(batch, -1)
    products = [(sources[:, :first], factors[len(factors) - first :]) for first, _ in pieces(length * n, n)]
    parts = new((cells(n, TILE), length, batch, n))
    return Chunk(synapses, new((batch, n, n)), slots, parts, new((batch, n)), products, late)


def _pass(chunk: Chunk, initial: Tensor | None, strides: tuple[int, ...], before: int, now: int, **flags: bool) -> None:
    """Start `state_pass`; the arguments are its own."""
    tiles, length, batch, n = chunk.parts.shape
    arguments = (chunk.slots, or_any(initial, chunk.new), chunk.x, chunk.parts, *chunk.synapses)
    sizes = (before, now, length * n, batch, n, *strides)
    launch(state_pass, (batch * tiles, tiles, 1), *arguments, *sizes, **flags, TILE=TILE)


def _late_pass(
    chunk: Chunk, late: Packed, initial: Tensor | None, strides: tuple[int, ...], step: int, before: int, now: int
) -> None:
    """Start `delayed_state_pass`, with the slots' sources up to `step` in their rows; the arguments are its own."""
    tiles, _, batch, n = chunk.parts.shape
    end = late.front + step + 1
    late.rows[:, :n, end - before : end] = chunk.slots[:, :before].transpose(1, 2)
    arguments = (late.rows, or_any(initial, chunk.new), chunk.x, chunk.parts, *chunk.synapses)
    sizes = (step, before, now, batch, n, late.width, late.front, *strides)
    flags = {"FIRST": step + 1 == before, "HAS_CURRENT": initial is not None}
    launch(delayed_state_pass, (batch * tiles, tiles, 1), *arguments, *sizes, **flags, TILE=TILE)


def _steps(
    chunk: Chunk, steps: int, initial: Tensor | None, strides: tuple[int, ...], reverse: bool
) -> Iterator[tuple[int, tuple[int, ...], bool]]:
    """For each step in turn, when what arrives in it is there: its number, arguments, and whether it has a second sum.

    Whoever asks for the next step has put into this one's slot what the neurons send, and at first, into slot 0, what
    arrives in the first step. `initial` and its strides are those of `state_pass`. At the end x are the currents, or,
    `reverse`, something of no use.
    """
    tiles, length, batch, n = chunk.parts.shape
    flags = {"HAS_CURRENT": initial is not None and not reverse}
    flags["HAS_GRAD_FINAL"] = initial is not None and reverse
    before = 1
    for first, now in pieces(steps, length):
        is_last = first == steps - 1 and not reverse
        if chunk.late is not None:
            _late_pass(chunk, chunk.late, initial, strides, first, before, now)
        else:
            _pass(chunk, initial, strides, before, now, FIRST=first == 0, LAST=is_last, **flags)
        for slot, (sources, matrices) in enumerate(chunk.products[:now]):
            if slot > 0:
                torch.mm(sources, matrices, out=chunk.new)  # with `out`, autocast leaves it alone
            yield first + slot, (slot, now, tiles, length * n, 0, batch, n), slot > 0
        before = now
    if before > 1 and not reverse and chunk.late is not None:
        _late_pass(chunk, chunk.late, initial, strides, steps - 1, before - 1, 0)
    elif before > 1 and not reverse:
        _pass(chunk, initial, strides, before - 1, 0, FIRST=False, LAST=True, **flags)


def forward(u: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, tuple[Any, ...], Tensor]:
    """v of u (T, B, N), the last z, J, A, and the last recurrent currents (B, N, N)."""
    (steps, batch, n), v = u.shape, torch.empty_like(u)
    arrays, has = neurons.soma(layer)
    initial, has_initial = neurons.initial_states(state, u)
    final = neurons.memory_for(u, has)
    assert layer.recurrent_decay is not None and layer.recurrent_weight is not None
    L = None if is_zero(state.recurrent_current) else state.recurrent_current
    late = delayed.of("recurrent_", layer, state)
    if late is None:
        chunk = _chunk(transposed(layer.recurrent_decay, layer.recurrent_weight), steps, batch)
    else:
        chunk = _chunk(late.split(), steps, batch, delayed.to_be_filled(late, u, state.past_spikes))
    chunk.slots[:, 0] = initial[0] if has_initial else 0
    arguments = (u, v, *initial, *(or_any(x, u) for x in final), *arrays, *chunk.of_step)
    flags = {"HAS_TRACES": False, **has, "HAS_INITIAL": has_initial, "TILE": TILE_STEP}
    grid = (batch, cells(n, TILE_STEP), 1)
    with full_precision():
        for t, of_step, has_new in _steps(chunk, steps, L, or_any(L, chunk.x).stride(), reverse=False):
            options = {"FIRST": t == 0, "HAS_NEW": has_new, **flags}
            launch(lag_step_fwd, grid, *arguments, t, *of_step, num_warps=WARPS_STEP, **options)
    return v, final, chunk.x.transpose(1, 2)


def backward(
    call: neurons.Backwards, layer: LayerTensors, grad_final: Tensor | None, late: Synapses | None = None
) -> None:
    """As `neurons.backward`, with recurrent synapses; `grad_final` (B, N, N) is that of their last currents.

    late  the synapses, where they have delays; `grad_final` is None then
    """
    steps, batch, n = call.g.shape
    assert layer.recurrent_decay is not None and layer.recurrent_weight is not None
    if late is None:
        chunk = _chunk((layer.recurrent_decay.contiguous(), layer.recurrent_weight.contiguous()), steps, batch)
    else:
        chunk = _chunk(late.turned.split(), steps, batch, delayed.to_be_filled(late, call.g, None))
    arguments = (*call.sequences, *call.states, *call.soma, *chunk.of_step)
    flags, grid = call.flags | {"HAS_TRACES": False, "TILE": TILE_STEP}, (batch, cells(n, TILE_STEP), 1)
    of_first = (0, 0, 0, chunk.slots.stride(0), 0, batch, n)
    options = {"LAST": False, "HAS_NEW": False, **flags}
    launch(lag_step_bwd, grid, *arguments, steps - 1, *of_first, num_warps=WARPS_STEP, FIRST=True, **options)
    state_b, state_k, state_i = or_any(grad_final, chunk.x).stride()
    with full_precision():
        for later, of_step, has_new in _steps(chunk, steps, grad_final, (state_b, state_i, state_k), reverse=True):
            t = steps - 2 - later
            options = {"FIRST": False, "LAST": t < 0, "HAS_NEW": has_new, **flags}
            launch(lag_step_bwd, grid, *arguments, t, *of_step, num_warps=WARPS_STEP, **options)
