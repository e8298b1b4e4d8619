"""Synapses on a GPU: summed currents, and gradients of weights, decays, inputs and first currents; Triton, float32.

    s, r, w     sources (T, B, M), decays, weights           u      summed synaptic currents (T, B, N)
    I           I_ij[t] = r_ij I_ij[t-1] + w_ij s_j[t]       x      I without its weight: x[t] = r x[t-1] + s[t]
    g           dLoss/du (T, B, N)                           a, q   a[t] = g[t] + r a[t+1], q[t] = a[t+1] + r q[t+1]

    u_i  = sum_j w_ij x_ij                                   dw = sum_t s[t] a[t],    dr = w sum_t s[t] q[t]
    ds_j = sum_i w_ij a_ij   (the same scan, backwards, roles exchanged)

The one idea: neurons i lie on the lanes of a warp, sources j in the registers of a thread. A sum over j is then a chain
of multiply-adds in a thread; nothing crosses lanes or warps. A program is one warp with a tile of 32 x 32 synapses, and
where it can it takes two rows of the batch, which share r and w: prototypes of these kernels reached 60 % of an H100's
multiply-adds. To have i on lanes, matrices are (source, neuron) in memory; `transpose` makes them so, once a call.

Tiles write parts (tile, T, B, N), which a second kernel sums in one fixed order, and groups of rows write gradients
(group, M, N), which another sums: no atomics, two runs give the same bits. Parts are made of so many rows at a time
that they take no more memory than s and u together, and 64 MB (`parts_bytes`); groups take up to 35 MB, or what r and w
take. Of its multiply-adds, a gradient can leave out those that silent sources would make: `silence.py`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetsyn_plugins.kernels.gpu import silence
from hetsyn_plugins.kernels.gpu.launch import (
    HAS_STAGES,
    IS_TRITON_3,
    cells,
    kernel,
    launch,
    multiple_of,
    or_any,
    pieces,
    staged_range,
    truth,
)

TILE = 32  # sources and neurons of a program: 32 neurons are the lanes of a warp
SUM_TILE = 1024
PROGRAMS = 16 * 132  # of the gradients: what fills an H100; with many fewer, the last ones leave it idle
SCAN_REGISTERS, GRADIENT_REGISTERS = 168, 224  # 12 and 9 programs of one warp for each multiprocessor
MAX_GRID = 65_535  # in its second and third dimension

if HAS_STAGES:
    range = staged_range


# ---- kernels


@triton.jit
def chain(x):
    """The sum over dimension 0 of a tile, of which a thread holds all: one chain of additions.

    From some version above 3.6 on Triton sums in a tree, and half of the products join no multiply-add. The last of the
    running sums is a chain; to pick it as integers costs nothing, since the zeros beside it can be left out of a sum.
    """
    bits = tl.cumsum(x, 0).to(tl.int32, bitcast=True)
    is_last = tl.expand_dims(tl.arange(0, x.shape[0]) == x.shape[0] - 1, 1)
    return tl.sum(tl.where(is_last, bits, 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def plain_sum(x):
    """The same in Triton 2, whose interpreter has no running sums."""
    return tl.sum(x, 0)


sum_in_thread = chain if IS_TRITON_3 else plain_sum


@triton.jit
def currents_step(x, r, w, s, IS_CURRENT: tl.constexpr, DECAYS_AFTER: tl.constexpr):
    """A step of a tile (sources, neurons): x after it, and the currents, to be summed over sources.

    IS_CURRENT: x is I, w inside; needed where a current is given. DECAYS_AFTER, for what goes backwards: what is given
    joins the first step undecayed.
    """
    if not IS_CURRENT:
        x = r * x + s
        current = w * x
    elif DECAYS_AFTER:
        current = x + w * s
        x = r * current
    else:
        x = r * x + w * s
        current = x
    return x, current


# long: a line for every argument and every load, as Triton wants them
@kernel
def currents_fwd(
    s,
    parts,
    r,
    w,
    bias,
    initial,
    final,
    T,
    B,
    M,
    N,
    first_row,
    rows,
    first_tile,
    state_b,
    state_i,
    state_j,
    REVERSE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    NEEDS_FINAL: tl.constexpr,
    PAIRS: tl.constexpr,
    TILE: tl.constexpr,
):
    """parts[jt, t, b, i], the part of a tile of sources of bias_i + sum_j I_ij[t], for `rows` rows from `first_row` on.

    r, w (M, N). I starts at `initial` (B, N, M), whose numbers lie state_b, state_i and state_j apart, and `final`
    (B, M, N) gets the last. REVERSE runs time backwards: r and w are then those of the layer, (neurons, inputs) =
    (M, N), and `initial` is dLoss/dI of the last step.
    PAIRS: two rows a program; the last pair may be twice the same row, stored twice as the same.
    """
    it, part = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    if PAIRS:
        row = row * 2
    row_1 = tl.where(row + 1 < rows, row + 1, row)
    jt = first_tile + part
    i, j = it * TILE + tl.arange(0, TILE), jt * TILE + tl.arange(0, TILE)
    in_i, in_j = i < N, j < M
    inside = tl.expand_dims(in_j, 1) & tl.expand_dims(in_i, 0)
    at = tl.expand_dims(j, 1) * N + tl.expand_dims(i, 0)
    decay, weight = tl.load(r + at, mask=inside, other=0.0), tl.load(w + at, mask=inside, other=0.0)
    x, x_1 = tl.zeros((TILE, TILE), tl.float32), tl.zeros((TILE, TILE), tl.float32)
    b, b_1 = first_row + row, first_row + row_1
    if HAS_INITIAL:
        state_at = tl.expand_dims(j, 1) * state_j + tl.expand_dims(i, 0) * state_i
        x += tl.load(initial + b * state_b + state_at, mask=inside, other=0.0)
        if REVERSE:
            x *= weight
        if PAIRS:
            x_1 += tl.load(initial + b_1 * state_b + state_at, mask=inside, other=0.0)
            if REVERSE:
                x_1 *= weight
    bias_i = tl.zeros((TILE,), tl.float32)
    if HAS_BIAS:
        bias_i += tl.load(bias + i, mask=in_i & (jt == 0), other=0.0)
    s_at, s_at_1, s_step = s + b * M + j, s + b_1 * M + j, B.to(tl.int64) * M
    parts += part * T * rows * N
    # where to write moves along: computed from t, it would take more instructions, and registers for all stages
    at_i, at_i_1, step_i = parts + row * N + i, parts + row_1 * N + i, rows.to(tl.int64) * N
    if REVERSE:
        at_i += (T - 1) * step_i
        at_i_1 += (T - 1) * step_i
        step_i = -step_i
    for step in range(0, T, num_stages=4):
        t = step
        if REVERSE:
            t = T - 1 - step
        source = tl.expand_dims(tl.load(s_at + t * s_step, mask=in_j, other=0.0), 1)
        x, current = currents_step(x, decay, weight, source, HAS_INITIAL, REVERSE)
        tl.store(at_i, sum_in_thread(current) + bias_i, mask=in_i)
        at_i += step_i
        if PAIRS:
            source = tl.expand_dims(tl.load(s_at_1 + t * s_step, mask=in_j, other=0.0), 1)
            x_1, current = currents_step(x_1, decay, weight, source, HAS_INITIAL, REVERSE)
            tl.store(at_i_1, sum_in_thread(current) + bias_i, mask=in_i)
            at_i_1 += step_i
    if NEEDS_FINAL:
        if not HAS_INITIAL:
            x *= weight
            x_1 *= weight
        # counted from the tile on: the compiler would keep addresses that it has had before for all of the loop
        in_tile = tl.expand_dims(tl.arange(0, TILE), 1) * N + tl.expand_dims(i, 0)
        tl.store(final + (b * M + jt * TILE) * N + in_tile, x, mask=inside)
        if PAIRS:
            tl.store(final + (b_1 * M + jt * TILE) * N + in_tile, x_1, mask=inside)


@kernel
def sum_parts(parts, u, tiles, T, B, N, first_row, rows, ADDS: tl.constexpr, TILE: tl.constexpr):
    """u[t, b, i] = sum over tiles, in order, of parts[tile, t, b, i], for `rows` rows; ADDS: added to what it is."""
    t, e = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside, at = e < rows * N, u + (t * B + first_row) * N + e
    total = tl.zeros((TILE,), tl.float32)
    if ADDS:
        total += tl.load(at, mask=inside, other=0.0)
    for tile in range(tiles):
        total += tl.load(parts + (tile * T + t) * rows * N + e, mask=inside, other=0.0)
    tl.store(at, total, mask=inside)


@kernel
def transpose(r, w, rT, wT, r_i, r_j, w_i, w_j, M, N, TILE: tl.constexpr):
    """rT, wT (M, N) of r, w (N, M), whose neighbouring neurons and sources lie r_i, r_j, w_i, w_j numbers apart."""
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    j = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    i, j = tl.expand_dims(i, 0), tl.expand_dims(j, 1)
    inside = (i < N) & (j < M)
    tl.store(rT + j * N + i, tl.load(r + i * r_i + j * r_j, mask=inside, other=0.0), mask=inside)
    tl.store(wT + j * N + i, tl.load(w + i * w_i + j * w_j, mask=inside, other=0.0), mask=inside)


# long: a line for every argument and every load, as Triton wants them
@kernel
def synapses_bwd(
    s,
    words,
    g,
    r,
    initial,
    grad_final,
    gw,
    gq,
    gr,
    grad_initial,
    T,
    B,
    M,
    N,
    rows,
    initial_b,
    initial_i,
    initial_j,
    final_b,
    final_i,
    final_j,
    SKIPS: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    HAS_GRAD_FINAL: tl.constexpr,
    NEEDS_INITIAL: tl.constexpr,
    TILE_J: tl.constexpr,
    TILE: tl.constexpr,
):
    """Of a group of `rows` rows: gw = sum s a, gq = sum s q, gr = sum I[-1] q[-1], (group, M, N); r is (M, N).

    I[-1] is `initial`, `grad_final` dLoss/dI of the last step, (B, N, M), their numbers initial_b, ... and final_b, ...
    apart; `grad_initial` (B, M, N) gets dLoss/dI[-1].
    SKIPS: the two sums are left as they are where `words` (`silence.activity`) says that no source of the tile is
    active. N is then a multiple of 4, and g lies so that a lane takes four neighbours at once.
    """
    group, jt = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    if SKIPS:
        N = N // 4 * 4  # what the compiler knows from here on
    i, j = tl.program_id(0) * TILE + tl.arange(0, TILE), jt * TILE_J + tl.arange(0, TILE_J)
    in_i, in_j = i < N, j < M
    inside = tl.expand_dims(in_j, 1) & tl.expand_dims(in_i, 0)
    at = tl.expand_dims(j, 1) * N + tl.expand_dims(i, 0)
    initial_at = tl.expand_dims(j, 1) * initial_j + tl.expand_dims(i, 0) * initial_i
    final_at = tl.expand_dims(j, 1) * final_j + tl.expand_dims(i, 0) * final_i
    decay = tl.load(r + at, mask=inside, other=0.0)
    zero = tl.zeros((TILE_J, TILE), tl.float32)
    sum_w, sum_q, sum_r = zero, zero, zero
    g_step, s_step, end = B.to(tl.int64) * N, B.to(tl.int64) * M, (group + 1) * rows
    for b in range(group * rows, tl.where(end < B, end, B)):
        # the last step by itself: nothing of it is decayed yet
        g_at, s_at = g + b * N + i, s + b * M + j
        if SKIPS:
            g_at = multiple_of(g_at, 16)
            words_at = words + (b * tl.cdiv(M, TILE_J) + jt) * tl.cdiv(T, 32)
            word = tl.load(words_at + ((T - 1) >> 5))
        a = zero + tl.expand_dims(tl.load(g_at + (T - 1) * g_step, mask=in_i, other=0.0), 0)
        if HAS_GRAD_FINAL:
            a += tl.load(grad_final + b * final_b + final_at, mask=inside, other=0.0)
        q = zero
        sum_w += tl.expand_dims(tl.load(s_at + (T - 1) * s_step, mask=in_j, other=0.0), 1) * a
        for step in range(1, T, num_stages=4):
            t = T - 1 - step
            g_t = tl.expand_dims(tl.load(g_at + t * g_step, mask=in_i, other=0.0), 0)
            q = decay * q + a
            a = decay * a + g_t
            is_active = True
            if SKIPS:
                if truth((t & 31) == 31):
                    word = tl.load(words_at + (t >> 5))
                is_active = truth((word >> (t & 31)) & 1 != 0)
            # loaded in here: without a load, the compiler would compute both sums at every step, and then choose
            if is_active:
                source = tl.expand_dims(tl.load(s_at + t * s_step, mask=in_j, other=0.0), 1)
                sum_w += source * a
                sum_q += source * q
        # once infinite, they stay so; this spoils the sums wherever a silent source, zero times infinity, would have
        sum_w += 0.0 * a
        sum_q += 0.0 * q
        if HAS_INITIAL:
            sum_r += tl.load(initial + b * initial_b + initial_at, mask=inside, other=0.0) * (decay * q + a)
        if NEEDS_INITIAL:
            tl.store(grad_initial + b * M * N + at, decay * a, mask=inside)
    # counted from the tile on: the compiler would keep addresses that it has had before for all of the loop
    in_tile = tl.expand_dims(tl.arange(0, TILE_J), 1) * N + tl.expand_dims(i, 0)
    group_at = (group * M + jt * TILE_J) * N + in_tile
    tl.store(gw + group_at, sum_w, mask=inside)
    tl.store(gq + group_at, sum_q, mask=inside)
    if HAS_INITIAL:
        tl.store(gr + group_at, sum_r, mask=inside)


@kernel
def sum_groups(
    gw, gq, gr, w, grad_weight, grad_decay, w_i, w_j, groups, M, N, HAS_INITIAL: tl.constexpr, TILE: tl.constexpr
):
    """grad_weight and grad_decay (N, M) of what groups of rows gave, in order; w (N, M), numbers w_i, w_j apart."""
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    j = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    i, j = tl.expand_dims(i, 0), tl.expand_dims(j, 1)
    inside = (i < N) & (j < M)
    zero = tl.zeros((TILE, TILE), tl.float32)
    sum_w, sum_q, sum_r = zero, zero, zero
    for group in range(groups):
        at = group * M * N + j * N + i
        sum_w += tl.load(gw + at, mask=inside, other=0.0)
        sum_q += tl.load(gq + at, mask=inside, other=0.0)
        if HAS_INITIAL:
            sum_r += tl.load(gr + at, mask=inside, other=0.0)
    weight = tl.load(w + i * w_i + j * w_j, mask=inside, other=0.0)
    tl.store(grad_weight + i * M + j, sum_w, mask=inside)
    tl.store(grad_decay + i * M + j, weight * sum_q + sum_r, mask=inside)


# ---- their order


def transposed(r: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """r and w (N, M), of any strides, as (M, N) in memory."""
    n, m = w.shape
    rT, wT = w.new_empty((m, n)), w.new_empty((m, n))
    grid = (cells(n, TILE), cells(m, TILE), 1)
    launch(transpose, grid, r, w, rT, wT, *r.stride(), *w.stride(), m, n, TILE=TILE, num_warps=4)
    return rT, wT


def states(like: Tensor, batch: int, n: int, m: int) -> Tensor:
    """Memory for currents (B, N, M), or their gradients, as tiles have them: neighbouring neurons beside each other."""
    return torch.empty_strided((batch, n, m), (n * m, 1, n), dtype=like.dtype, device=like.device)


def currents(
    s: Tensor, rT: Tensor, wT: Tensor, bias: Tensor | None, initial: Tensor | None, final: Tensor | None
) -> Tensor:
    """u (T, B, N) = bias + summed currents of synapses rT, wT (M, N) with sources s (T, B, M).

    initial, final  (B, N, M)  the first currents, or None: zeros; `states` for the last, or None
    """
    return _scan(s, rT, wT, bias, initial, final, reverse=False)


def input_gradients(g: Tensor, r: Tensor, w: Tensor, grad_final: Tensor | None) -> Tensor:
    """dLoss/ds (T, B, M) of g (T, B, N), and of dLoss/d(last currents) (B, N, M), for synapses r, w (N, M)."""
    return _scan(g, r.contiguous(), w.contiguous(), None, grad_final, None, reverse=True)


def _scan(
    s: Tensor,
    r: Tensor,
    w: Tensor,
    bias: Tensor | None,
    initial: Tensor | None,
    final: Tensor | None,
    reverse: bool,
) -> Tensor:
    """As `currents`, in slices of the batch, and of the sources, such that the parts keep to their memory."""
    s, (steps, batch, m), n = s.contiguous(), s.shape, w.shape[1]
    u, tiles = s.new_empty((steps, batch, n)), cells(m, TILE)
    at_once, rows = slices(steps, batch, n, m)
    # a single part is u
    parts = u if tiles == 1 and rows == batch else s.new_empty((at_once, steps, rows, n))
    arrays = (parts, r, w, or_any(bias, s), or_any(initial, s), or_any(final, s))
    state_strides = or_any(initial, s).stride()
    if reverse:  # the roles of the two are exchanged
        state_strides = (state_strides[0], *state_strides[:0:-1])
    pairs = batch > 1 and initial is None  # a pair with currents of its own spills
    options: dict[str, Any] = {"registers": SCAN_REGISTERS if initial is None else None, "REVERSE": reverse}
    options |= {"HAS_BIAS": bias is not None, "HAS_INITIAL": initial is not None, "NEEDS_FINAL": final is not None}
    for row, here in pieces(batch, rows):
        for tile, count in pieces(tiles, at_once):
            grid = (cells(n, TILE), count, cells(here, 2) if pairs else here)
            sizes = (steps, batch, m, n, row, here, tile)
            launch(currents_fwd, grid, s, *arrays, *sizes, *state_strides, **options, PAIRS=pairs, TILE=TILE)
            if parts is not u:
                grid = (steps, cells(here * n, SUM_TILE), 1)
                arguments = (parts, u, count, steps, batch, n, row, here)
                launch(sum_parts, grid, *arguments, ADDS=tile > 0, TILE=SUM_TILE, num_warps=4)
    return u


def parts_bytes(steps: int, batch: int, n: int, m: int) -> int:
    """What parts may take, bytes: slices of few rows would leave an H100 half idle."""
    return 64 * 2**20 + 4 * steps * batch * (n + m)


def slices(steps: int, batch: int, n: int, m: int) -> tuple[int, int]:
    """How many tiles of sources, and how many rows of the batch, are scanned at a time: first of all, whole rows."""
    tiles, row_bytes = cells(m, TILE), 4 * steps * n
    if tiles == 1:
        return 1, min(batch, MAX_GRID)
    allowed = parts_bytes(steps, batch, n, m)
    rows = min(batch, MAX_GRID, max(2, min(allowed // (tiles * row_bytes), MAX_GRID * SUM_TILE // n)))
    rows = min(batch, 2 * cells(batch, 2 * cells(batch, rows)))  # alike, and pairs
    return min(tiles, MAX_GRID, max(1, allowed // (rows * row_bytes))), rows


def gradients(
    g: Tensor,
    s: Tensor,
    synapses: tuple[Tensor, Tensor],
    ends: tuple[Tensor | None, Tensor | None],
    needs_initial: bool,
    words: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of weight and decay (N, M) and of the first currents (B, N, M), for sources s (T, B, M).

    synapses  decay and weight (N, M)
    ends      the first currents, or None: zeros, and the gradients of the last, or None: zeros; (B, N, M)
    words     of s, by `silence.activity`: to skip what is silent, where `silence.can_skip`; None: dense
    """
    (decay, weight), (_, batch, m), n = synapses, s.shape, g.shape[2]
    has_initial = ends[0] is not None
    # the currents before the first step have to find their place in registers too
    tile_j = TILE // 2 if has_initial or needs_initial else TILE
    # also of those that skip: both make the same sums, in the same order
    rows = rows_of_a_group(batch, cells(n, TILE) * cells(m, tile_j))
    gw = g.new_empty((cells(batch, rows), m, n))
    sums = (gw, torch.empty_like(gw), torch.empty_like(gw) if has_initial else gw)
    grad_initial = states(g, batch, n, m) if needs_initial else None
    rT, _ = transposed(decay, weight)
    tile = (tile_j, TILE) if words is None else (silence.TILE_J, silence.TILE)
    _groups(g, (s, words), rT, ends, sums, grad_initial, rows, tile)
    grad_weight, grad_decay = g.new_empty((n, m)), g.new_empty((n, m))
    arguments = (*sums, weight, grad_weight, grad_decay, *weight.stride(), len(gw), m, n)
    grid = (cells(n, TILE), cells(m, TILE), 1)
    launch(sum_groups, grid, *arguments, HAS_INITIAL=has_initial, TILE=TILE, num_warps=4)
    return grad_weight, grad_decay, grad_initial


def rows_of_a_group(batch: int, tiles: int) -> int:
    """How many rows a program takes, a power of two: so many that there are PROGRAMS of them, or up to twice that."""
    rows = max(1, batch * tiles // PROGRAMS)
    return max(1 << (rows.bit_length() - 1), cells(batch, MAX_GRID))


def _groups(
    g: Tensor,
    sources: tuple[Tensor, Tensor | None],
    rT: Tensor,
    ends: tuple[Tensor | None, Tensor | None],
    sums: tuple[Tensor, ...],
    grad_initial: Tensor | None,
    rows: int,
    tile: tuple[int, int],
) -> None:
    """Start `synapses_bwd`; the arguments are those of `gradients`, s with its words, and its own."""
    s, words = sources
    (steps, batch, m), n, (initial, grad_final), (tile_j, tile_i) = s.shape, g.shape[2], ends, tile
    states = (or_any(initial, g), or_any(grad_final, g))
    arguments = (s, or_any(words, s), g, rT, *states, *sums, or_any(grad_initial, g), steps, batch, m, n, rows)
    strides = (*states[0].stride(), *states[1].stride())
    flags = {"SKIPS": words is not None, "HAS_INITIAL": initial is not None, "HAS_GRAD_FINAL": grad_final is not None}
    flags["NEEDS_INITIAL"] = grad_initial is not None
    grid = (cells(n, tile_i), cells(m, tile_j), len(sums[0]))
    options = {"registers": GRADIENT_REGISTERS, "TILE_J": tile_j, "TILE": tile_i}
    launch(synapses_bwd, grid, *arguments, *strides, **flags, **options)
