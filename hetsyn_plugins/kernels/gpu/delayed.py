"""Synapses with delays on a GPU: what `synapses.py` does, each synapse reading its source of some steps ago; Triton.

Letters as there, and d = k + f, the delay of a synapse: k whole steps and what is left, f in [0, 1], h = 1 - f

    x, I     x_ij[t] = r_ij x_ij[t-1] + s_j[t-k_ij],     I_ij[t] = w_ij (h_ij x_ij[t] + f_ij x_ij[t-1])

    W0, W1   sum_t s[t-k] a[t],  sum_t s[t-k-1] a[t]     dw = h W0 + f W1,    dd = w (W1 - W0)
    Q0, Q1   sum_t s[t-k] q[t],  sum_t s[t-k-1] q[t]     dr = w (h Q0 + f Q1),    Q0 = W1 + r Q1
    ds_j     = sum_i w_ij (h a_ij[t+k] + f a_ij[t+k+1]): the same scan, backwards, roles exchanged

The one idea: what a synapse reads is looked up, and neighbouring lanes find it beside each other. `pack` lays the steps
of a source in a row, (B, M, width), with those of the past in front; the 32 neurons on a program's lanes then read some
32 numbers, a cache line or two, and go on reading them for as many steps. So a step costs a synapse one load, beside
three multiply-adds (currents) or five (gradients): what the step before has left, x as it was, is the other neighbour.
Rows begin at multiples of 128 bytes, so that all sources of a program need a new line in the same step. Steps are taken
by threes, whose places differ by constants; zeros in front of the first, or behind the last, make up for missing ones.

Where there are first currents or a past, I takes the place of x. Gradients through states are left to `eager.py`, in
plain torch. Memory is that of `synapses.py`, and a packed copy of s, or of dLoss/du.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.kernels.gpu.launch import (
    HAS_STAGES,
    cells,
    kernel,
    launch,
    or_any,
    pieces,
    staged_range,
    unrolled,
    whole,
)
from hetsyn_plugins.kernels.gpu.synapses import SUM_TILE, TILE, rows_of_a_group, slices, sum_in_thread, sum_parts
from hetsyn_plugins.kernels.interface import LayerTensors

AT_ONCE = 3  # steps of a group; with four, a scan's loop fits no registers
TILE_J = 16  # sources of a gradient's program, which has seven numbers a synapse
GRADIENT_REGISTERS = 168  # 12 programs of one warp for each multiprocessor; the scan takes all that there are: 8
LINE = 32  # numbers of a cache line

if HAS_STAGES:
    range = staged_range


# ---- kernels


@triton.jit
def split(delay, past):
    """k and f of delays; k is within the `past` steps that are kept, whatever nobody has looked at."""
    k = tl.where(delay > 0.0, delay, 0.0)
    k = whole(tl.where(k < past - 1, k, past - 1.0)).to(tl.float32)
    return k, delay - k


@kernel
def split_delays(r, w, d, rT, wh, wf, k, r_i, r_j, w_i, w_j, d_i, d_j, past, M, N, TILE: tl.constexpr):
    """rT, wh = w h, wf = w f, k (M, N) of r, w, d (N, M), whose neighbours lie r_i, r_j, ... numbers apart."""
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    j = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    i, j = tl.expand_dims(i, 0), tl.expand_dims(j, 1)
    inside, at = (i < N) & (j < M), j * N + i
    steps, fraction = split(tl.load(d + i * d_i + j * d_j, mask=inside, other=0.0), past)
    weight = tl.load(w + i * w_i + j * w_j, mask=inside, other=0.0)
    tl.store(rT + at, tl.load(r + i * r_i + j * r_j, mask=inside, other=0.0), mask=inside)
    tl.store(wh + at, weight * (1.0 - fraction), mask=inside)
    tl.store(wf + at, weight * fraction, mask=inside)
    tl.store(k + at, steps, mask=inside)


@kernel
def pack(
    s, earlier, packed, T, B, M, width, front, past, REVERSE: tl.constexpr, HAS_PAST: tl.constexpr, TILE: tl.constexpr
):
    """packed (B, rows of sources, width): step t of s (T, B, M) at `front` + t, `earlier` (past, B, M) in front of it.

    All else is zeros. REVERSE: the last step comes first.
    """
    columns = tl.cdiv(width, TILE)
    b, column = (tl.program_id(0) // columns).to(tl.int64), tl.program_id(0) % columns
    j, at = tl.program_id(1) * TILE + tl.arange(0, TILE), column * TILE + tl.arange(0, TILE)
    t = tl.expand_dims(at - front, 1)
    line, step = tl.expand_dims(j, 0), t.to(tl.int64)
    if REVERSE:
        step = T - 1 - step
    x = tl.load(s + (step * B + b) * M + line, mask=(line < M) & (t >= 0) & (t < T), other=0.0)
    if HAS_PAST:
        at_past = ((t + past).to(tl.int64) * B + b) * M + line
        x += tl.load(earlier + at_past, mask=(line < M) & (t < 0) & (t + past >= 0), other=0.0)
    row = b * (tl.cdiv(M, TILE) * TILE) + line
    tl.store(packed + row * width + tl.expand_dims(at, 1), x, mask=tl.expand_dims(at, 1) < width)


@triton.jit
def delayed_step(x, before, r, wh, wf, s_at, IS_CURRENT: tl.constexpr):
    """A step of a tile (sources, neurons): x after it, what it has read, and the summed currents.

    IS_CURRENT: x is I; `before` is what the step before has read. Else two sums: all that is added is a product.
    """
    source = tl.load(s_at)
    if IS_CURRENT:
        x = r * x + wf * before + wh * source
        total = sum_in_thread(x)
    else:
        total = sum_in_thread(wf * x)
        x = r * x + source
        total += sum_in_thread(wh * x)
    return x, source, total


# long: a line for every argument and every load, as Triton wants them
@kernel
def delayed_fwd(
    s,
    parts,
    r,
    wh,
    wf,
    k,
    bias,
    initial,
    final,
    T,
    B,
    M,
    N,
    width,
    front,
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
    AT_ONCE: tl.constexpr,
    TILE: tl.constexpr,
):
    """As `currents_fwd`, of packed sources; r, wh, wf, k (M, N). REVERSE: the last step was packed first.

    HAS_INITIAL: I starts at `initial`, and the past may be other than zeros; AT_ONCE is 1 then.
    """
    it, row = tl.program_id(0), tl.program_id(2).to(tl.int64)
    jt = first_tile + tl.program_id(1)
    b, i, j = first_row + row, it * TILE + tl.arange(0, TILE), jt * TILE + tl.arange(0, TILE)
    in_i, in_j = i < N, j < M
    inside = tl.expand_dims(in_j, 1) & tl.expand_dims(in_i, 0)
    at = tl.expand_dims(j, 1) * N + tl.expand_dims(i, 0)
    decay = tl.load(r + at, mask=inside, other=0.0)
    weight_h, weight_f = tl.load(wh + at, mask=inside, other=0.0), tl.load(wf + at, mask=inside, other=0.0)
    x = tl.zeros((TILE, TILE), tl.float32)
    bias_i = tl.zeros((TILE,), tl.float32)
    if HAS_BIAS:
        bias_i += tl.load(bias + i, mask=in_i & (jt == 0), other=0.0)
    # all but the last step in groups, the first of which begins as many steps early as are missing
    groups = tl.cdiv(T - 1, AT_ONCE)
    first = T - 1 - groups * AT_ONCE
    s_row = s + (b * (tl.cdiv(M, TILE) * TILE) + jt * TILE) * width
    steps = whole(tl.load(k + at, mask=inside, other=0.0))
    place = tl.expand_dims(tl.arange(0, TILE), 1) * width + front + first - steps
    before = x
    if HAS_INITIAL:
        state_at = b * state_b + tl.expand_dims(j, 1) * state_j + tl.expand_dims(i, 0) * state_i
        x += tl.load(initial + state_at, mask=inside, other=0.0)
        before += tl.load(s_row + (place - 1))
    # where to write moves along: computed from t, it would take more instructions
    step_i = rows.to(tl.int64) * N
    at_i = parts + (tl.program_id(1).to(tl.int64) * T * rows + row) * N + i
    if REVERSE:
        at_i += (T - 1) * step_i
        step_i = -step_i
    at_i += first * step_i
    for group in range(0, groups, num_stages=1):
        s_at = s_row + place
        for n in unrolled(AT_ONCE):
            x, before, total = delayed_step(x, before, decay, weight_h, weight_f, s_at + n, HAS_INITIAL)
            tl.store(at_i, total + bias_i, mask=in_i & (first + group * AT_ONCE + n >= 0))
            at_i += step_i
        s_row += AT_ONCE
    current = weight_f * x
    x, _, total = delayed_step(x, before, decay, weight_h, weight_f, s_row + place, HAS_INITIAL)
    tl.store(at_i, total + bias_i, mask=in_i)
    if NEEDS_FINAL:
        if HAS_INITIAL:
            current = x
        else:
            current += weight_h * x
        # counted from the tile on: the compiler would keep addresses that it has had before for all of the loop
        in_tile = tl.expand_dims(tl.arange(0, TILE), 1) * N + tl.expand_dims(i, 0)
        tl.store(final + (b * M + jt * TILE) * N + in_tile, current, mask=inside)


# long: a line for every argument and every load, as Triton wants them
@kernel
def delayed_bwd(
    s,
    g,
    r,
    wh,
    k,
    initial,
    gw0,
    gw1,
    gq1,
    gr,
    T,
    B,
    M,
    N,
    width,
    front,
    rows,
    initial_b,
    initial_i,
    initial_j,
    HAS_INITIAL: tl.constexpr,
    AT_ONCE: tl.constexpr,
    TILE_J: tl.constexpr,
    TILE: tl.constexpr,
):
    """W0, W1, Q1 of a group of `rows` rows, (group, M, N), of packed sources; r, wh, k are (M, N).

    HAS_INITIAL: gr = sum (I[-1] - w h s[-1-k]) q[-1], what the first currents and the past give the decay
    """
    group, jt = tl.program_id(2).to(tl.int64), tl.program_id(1)
    i, j = tl.program_id(0) * TILE + tl.arange(0, TILE), jt * TILE_J + tl.arange(0, TILE_J)
    in_i, in_j = i < N, j < M
    inside = tl.expand_dims(in_j, 1) & tl.expand_dims(in_i, 0)
    at = tl.expand_dims(j, 1) * N + tl.expand_dims(i, 0)
    decay = tl.load(r + at, mask=inside, other=0.0)
    zero = tl.zeros((TILE_J, TILE), tl.float32)
    sum_w0, sum_w1, sum_q1, sum_r = zero, zero, zero, zero
    groups = tl.cdiv(T, AT_ONCE)
    place = tl.expand_dims(tl.arange(0, TILE_J), 1) * width + front - whole(tl.load(k + at, mask=inside, other=0.0))
    end = (group + 1) * rows
    for b in range(group * rows, tl.where(end < B, end, B), num_stages=1):
        s_row = s + (b * (tl.cdiv(M, TILE) * TILE) + jt * TILE_J) * width
        a, q = zero, zero
        for step in range(0, groups, num_stages=1):
            last = (groups - 1 - step) * AT_ONCE + AT_ONCE - 1
            s_at = s_row + (place + last)
            for n in unrolled(AT_ONCE):
                t = last - n
                g_t = tl.load(g + (t.to(tl.int64) * B + b) * N + i, mask=in_i & (t < T), other=0.0)
                source = tl.load(s_at + -n)
                sum_w1 += source * a
                sum_q1 += source * q
                q = decay * q + a
                a = decay * a + tl.expand_dims(g_t, 0)
                sum_w0 += source * a
        if HAS_INITIAL:  # another name than in the loop, which Triton 2 would fail to compile
            of_past = tl.load(s_row + (place - 1))
            sum_w1 += of_past * a
            sum_q1 += of_past * q
            state_at = b * initial_b + tl.expand_dims(j, 1) * initial_j + tl.expand_dims(i, 0) * initial_i
            current = tl.load(initial + state_at, mask=inside, other=0.0)
            sum_r += (current - tl.load(wh + at, mask=inside, other=0.0) * of_past) * (decay * q + a)
    # counted from the tile on: the compiler would keep addresses that it has had before for all of the loop
    in_tile = tl.expand_dims(tl.arange(0, TILE_J), 1) * N + tl.expand_dims(i, 0)
    group_at = (group * M + jt * TILE_J) * N + in_tile
    tl.store(gw0 + group_at, sum_w0, mask=inside)
    tl.store(gw1 + group_at, sum_w1, mask=inside)
    tl.store(gq1 + group_at, sum_q1, mask=inside)
    if HAS_INITIAL:
        tl.store(gr + group_at, sum_r, mask=inside)


# long: a line for every argument and every load, as Triton wants them
@kernel
def sum_delayed_groups(
    gw0,
    gw1,
    gq1,
    gr,
    r,
    w,
    d,
    grad_weight,
    grad_decay,
    grad_delay,
    r_i,
    r_j,
    w_i,
    w_j,
    d_i,
    d_j,
    groups,
    past,
    M,
    N,
    HAS_INITIAL: tl.constexpr,
    TILE: tl.constexpr,
):
    """Gradients (N, M) of what groups of rows gave, in order; r, w, d (N, M), numbers r_i, r_j, ... apart."""
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    j = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    i, j = tl.expand_dims(i, 0), tl.expand_dims(j, 1)
    inside = (i < N) & (j < M)
    zero = tl.zeros((TILE, TILE), tl.float32)
    w0, w1, q1, of_initial = zero, zero, zero, zero
    for group in range(groups):
        at = group * M * N + j * N + i
        w0 += tl.load(gw0 + at, mask=inside, other=0.0)
        w1 += tl.load(gw1 + at, mask=inside, other=0.0)
        q1 += tl.load(gq1 + at, mask=inside, other=0.0)
        if HAS_INITIAL:
            of_initial += tl.load(gr + at, mask=inside, other=0.0)
    decay = tl.load(r + i * r_i + j * r_j, mask=inside, other=0.0)
    weight = tl.load(w + i * w_i + j * w_j, mask=inside, other=0.0)
    _, f = split(tl.load(d + i * d_i + j * d_j, mask=inside, other=0.0), past)
    of_decay = (1.0 - f) * (w1 + decay * q1) + f * q1
    tl.store(grad_weight + i * M + j, (1.0 - f) * w0 + f * w1, mask=inside)
    tl.store(grad_decay + i * M + j, weight * of_decay + of_initial, mask=inside)
    tl.store(grad_delay + i * M + j, weight * (w1 - w0), mask=inside)


# ---- their order


class Delayed(NamedTuple):
    """Synapses as a kernel takes them, all (M, N): decays, weights w h and w f, whole steps."""

    decay: Tensor
    weight_h: Tensor
    weight_f: Tensor
    steps: Tensor


class Synapses(NamedTuple):
    """Decays, weights and delays (N, M), of any strides, and of how many steps sources are kept."""

    decay: Tensor
    weight: Tensor
    delay: Tensor
    past: int

    @property
    def turned(self) -> "Synapses":
        """With the roles of sources and neurons exchanged."""
        return Synapses(self.decay.T, self.weight.T, self.delay.T, self.past)

    @property
    def strides(self) -> tuple[int, ...]:
        """How far apart neighbouring neurons and sources lie, in each."""
        return (*self.decay.stride(), *self.weight.stride(), *self.delay.stride())

    def split(self) -> Delayed:
        """As (M, N) in memory, delays in whole steps and what is left."""
        n, m = self.weight.shape
        new = self.weight.new_empty
        out = Delayed(new((m, n)), new((m, n)), new((m, n)), new((m, n)))
        grid = (cells(n, TILE), cells(m, TILE), 1)
        sizes = (*self.strides, self.past, m, n)
        launch(split_delays, grid, *self[:3], *out, *sizes, TILE=TILE, num_warps=4)
        return out


def of(name: str, layer: LayerTensors, state: HetSynState) -> Synapses | None:
    """The synapses whose fields begin with `name`, if any of them can be late."""
    decay, weight, delay = (getattr(layer, f"{name}{field}") for field in ("decay", "weight", "delay"))
    past = state.past_spikes if name else state.past_inputs
    return None if delay is None or past is None or len(past) == 0 else Synapses(decay, weight, delay, len(past))


class Packed(NamedTuple):
    """Sources (B, M up to a multiple of TILE, width): step t of a source at `front` + t of its row."""

    rows: Tensor
    front: int

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.rows.shape[2]


def packed(s: Tensor, past: Tensor | int, reverse: bool = False) -> Packed:
    """The sources s (T, B, M) behind those of the past (D, B, M), or behind D steps of zeros; `reverse`: last first."""
    s, (steps, batch, m) = s.contiguous(), s.shape
    earlier, most = (None, past) if isinstance(past, int) else (past.contiguous(), len(past))
    front = most + AT_ONCE - 1
    rows = s.new_empty((batch, TILE * cells(m, TILE), LINE * cells(front + steps + AT_ONCE - 1, LINE)))
    sources = Packed(rows, front)
    sizes = (steps, batch, m, sources.width, front, most)
    grid = (batch * cells(sources.width, TILE), cells(m, TILE), 1)
    flags = {"REVERSE": reverse, "HAS_PAST": earlier is not None}
    launch(pack, grid, s, or_any(earlier, s), rows, *sizes, **flags, TILE=TILE, num_warps=4)
    return sources


def to_be_filled(synapses: Synapses, like: Tensor, past: Tensor | None) -> Packed:
    """Rows for the steps of `like` (T, B, N), zeros so far, behind those of the past (D, B, N), or zeros."""
    (steps, batch, n), front = like.shape, synapses.past + AT_ONCE - 1
    rows = like.new_zeros((batch, TILE * cells(n, TILE), LINE * cells(front + steps + AT_ONCE - 1, LINE)))
    if past is not None:
        rows[:, :n, front - synapses.past : front] = past.permute(1, 2, 0)
    return Packed(rows, front)


def currents(
    sources: Packed, steps: int, synapses: Delayed, bias: Tensor | None, initial: Tensor | None, final: Tensor | None
) -> Tensor:
    """As `synapses.currents`, for so many steps of sources; with a past, `initial` is given."""
    return _scan(sources, steps, synapses, bias, initial, final, reverse=False)


def input_gradients(g: Tensor, synapses: Synapses) -> Tensor:
    """dLoss/ds (T, B, M) of g (T, B, N)."""
    sources = packed(g, synapses.past, reverse=True)
    return _scan(sources, len(g), synapses.turned.split(), None, None, None, reverse=True)


def _scan(
    sources: Packed,
    steps: int,
    synapses: Delayed,
    bias: Tensor | None,
    initial: Tensor | None,
    final: Tensor | None,
    reverse: bool,
) -> Tensor:
    """As `synapses._scan`, with the parts in the same memory."""
    batch, (m, n) = len(sources.rows), synapses.decay.shape
    u, tiles = sources.rows.new_empty((steps, batch, n)), cells(m, TILE)
    at_once, rows = slices(steps, batch, n, m)
    # a single part is u
    parts = u if tiles == 1 and rows == batch else u.new_empty((at_once, steps, rows, n))
    arrays = (parts, *synapses, *(or_any(x, u) for x in (bias, initial, final)))
    options: dict[str, Any] = {"REVERSE": reverse, "HAS_BIAS": bias is not None, "HAS_INITIAL": initial is not None}
    options |= {"NEEDS_FINAL": final is not None, "AT_ONCE": AT_ONCE if initial is None else 1}
    for row, here in pieces(batch, rows):
        for tile, count in pieces(tiles, at_once):
            sizes = (steps, batch, m, n, sources.width, sources.front, row, here, tile)
            grid = (cells(n, TILE), count, here)
            launch(delayed_fwd, grid, sources.rows, *arrays, *sizes, *or_any(initial, u).stride(), **options, TILE=TILE)
            if parts is not u:
                grid = (steps, cells(here * n, SUM_TILE), 1)
                arguments = (parts, u, count, steps, batch, n, row, here)
                launch(sum_parts, grid, *arguments, ADDS=tile > 0, TILE=SUM_TILE, num_warps=4)
    return u


def gradients(g: Tensor, sources: Packed, synapses: Synapses, initial: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight, decay and delay (N, M); with a past, the first currents (B, N, M) are given."""
    (steps, batch, n), m, split = g.shape, synapses.weight.shape[1], synapses.split()
    rows = rows_of_a_group(batch, cells(n, TILE) * cells(m, TILE_J))
    g = g.contiguous()
    w0 = g.new_empty((cells(batch, rows), m, n))
    sums = (w0, torch.empty_like(w0), torch.empty_like(w0), w0 if initial is None else torch.empty_like(w0))
    flags = {"HAS_INITIAL": initial is not None}
    arrays = (sources.rows, g, split.decay, split.weight_h, split.steps, or_any(initial, g))
    sizes = (steps, batch, m, n, sources.width, sources.front, rows, *or_any(initial, g).stride())
    grid = (cells(n, TILE), cells(m, TILE_J), len(w0))
    tile = {"AT_ONCE": AT_ONCE, "TILE_J": TILE_J, "TILE": TILE}
    registers = GRADIENT_REGISTERS if initial is None else None
    launch(delayed_bwd, grid, *arrays, *sums, *sizes, registers=registers, **flags, **tile)
    out = (g.new_empty((n, m)), g.new_empty((n, m)), g.new_empty((n, m)))
    sizes = (*synapses.strides, len(w0), synapses.past, m, n)
    grid = (cells(n, TILE), cells(m, TILE), 1)
    launch(sum_delayed_groups, grid, *sums, *synapses[:3], *out, *sizes, **flags, TILE=TILE, num_warps=4)
    return out
