"""Large recurrent layers whose synapses share K decays, on a GPU: K traces of every neuron; Triton, float32.

Letters as in `lags.py`, and

    c, K        the decays that are shared, a codebook, and how many         entry   a place in it, from 0 to K - 1
    code        the entry of every synapse                                   L0      the first currents
    x           (B, K, N)  x[t] = c x[t-1] + s[t] of every neuron for every decay, its traces
    W           (K, N, N)  W[entry] = w where that is the code, else 0

Of the sources a synapse keeps the trace of its decay. With one trace for all synapses that share it, the state is
(B, K, N) and no longer (B, N, N), and what arrives at a step is one matrix product for all rows,

    sum_k L[t] = x[t] W, (B, K N) with (K N, N), in full precision

behind which comes the step's kernel of `lags.py`: the neurons' own part, and their spikes into their traces. The
adjoint a[t] = g[t] + p a[t+1] is the same program with time reversed, g in the place of s, k and i exchanged.

Currents (B, N, N) are looked at twice. Of the first ones only sums over sources with the same decay are needed, which
decay by themselves: they join u before the first step. The last ones are L = w x[code] + c^T L0, made once at the end.

Filters behind the product, f[t] = c f[t-1] + s[t] W, are as many multiply-adds. Their factor s is exact in bfloat16,
so that three pieces of W on tensor cores would do forwards: by arithmetic a fifth of a product's time at N 1024, B 256,
K 8. But backwards is another program then, the last currents need the traces too, and nobody has been able to try it.

Memory: W, K N N numbers, 33 MB for 1024 neurons and 8 decays, and next to it x. Where `serves` chooses this, W is no
more than a quarter of the last currents. First currents that are given take another u.
"""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.kernels.gpu import lags, neurons
from hetsyn_plugins.kernels.gpu.lags import TILE, TILE_STEP, WARPS_STEP, lag_step_bwd, lag_step_fwd
from hetsyn_plugins.kernels.gpu.launch import HAS_STAGES, cells, kernel, launch, or_any, pieces, staged_range
from hetsyn_plugins.kernels.gpu.precision import full_precision
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.kernels.zeros import is_zero

MAX_ENTRIES = 16
ROWS_FOR_EACH = 4

if HAS_STAGES:
    range = staged_range


def serves(steps: int, batch: int, layer: LayerTensors) -> bool:
    """Is this worth its while for a large layer without recurrent delays?

    By arithmetic, of figures that an H100 gave for `lags.py`; nobody has timed it. A step of K entries costs K B N N
    multiply-adds, at 26 T/s, and reads K N N numbers, where a chunk's step costs, for B N N each, about 8 multiply-adds
    and a byte of the currents, at 2.6 TB/s: together as much as 17 to 25 entries. With few rows both only read
    matrices, a chunk's step as many numbers as 4 entries and a quarter for each row. A sequence no longer than a chunk
    passes over the currents once or twice, as this does.
    """
    if layer.codebook is None or layer.recurrent_decay_index is None:
        return False
    return steps > lags.STEPS and len(layer.codebook) <= min(MAX_ENTRIES, batch // ROWS_FOR_EACH)


# ---- kernels


@kernel
def first_currents_fwd(
    u,
    u_all,
    initial,
    code,
    decays,
    T,
    B,
    N,
    entries,
    state_b,
    state_i,
    state_k,
    MAX_ENTRIES: tl.constexpr,
    TILE: tl.constexpr,
):
    """u_all (T, B, N) = u + what is left of the first currents `initial`, whose numbers lie state_b, _i, _k apart.

    code (source, neuron); of `initial` the sums over the sources of each entry are kept, h.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    entry, inside = tl.arange(0, MAX_ENTRIES), i < N
    h = tl.zeros((MAX_ENTRIES, TILE), tl.float32)
    initial_at, code_at = initial + b * state_b + i * state_i, code + i
    for k in range(0, N, num_stages=4):
        current = tl.expand_dims(tl.load(initial_at + k * state_k, mask=inside, other=0.0), 0)
        code_i = tl.expand_dims(tl.load(code_at + k * N, mask=inside, other=0), 0)
        h += tl.where(code_i == tl.expand_dims(entry, 1), current, 0.0)
    decay = tl.expand_dims(tl.load(decays + entry, mask=entry < entries, other=0.0), 1)
    e, step = b * N + i, B.to(tl.int64) * N
    for t in range(0, T, num_stages=4):
        h *= decay
        u_t = tl.load(u + t * step + e, mask=inside, other=0.0)
        tl.store(u_all + t * step + e, u_t + tl.sum(h, 0), mask=inside)


@kernel
def last_currents_fwd(
    x,
    initial,
    final,
    w,
    code,
    powers,
    N,
    entries,
    state_b,
    state_i,
    state_k,
    HAS_CURRENT: tl.constexpr,
    TILE: tl.constexpr,
):
    """final (B, source, neuron) = w x[code], and, HAS_CURRENT, `initial` times powers[code]; w, code (source, neuron).

    The numbers of `initial` (B, N, N) lie state_b, _i, _k apart.
    """
    tiles = (N + TILE - 1) // TILE
    it, b, kt = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(1)
    i, k = it * TILE + tl.arange(0, TILE), kt * TILE + tl.arange(0, TILE)
    in_i, in_k = i < N, k < N
    inside = tl.expand_dims(in_k, 1) & tl.expand_dims(in_i, 0)
    at = tl.expand_dims(k, 1) * N + tl.expand_dims(i, 0)
    codes, weight = tl.load(code + at, mask=inside, other=0), tl.load(w + at, mask=inside, other=0.0)
    trace, power = tl.zeros((TILE, TILE), tl.float32), tl.zeros((TILE, TILE), tl.float32)
    for entry in range(entries):
        x_k = tl.expand_dims(tl.load(x + (b * entries + entry) * N + k, mask=in_k, other=0.0), 1)
        trace = tl.where(codes == entry, x_k, trace)
        if HAS_CURRENT:
            power = tl.where(codes == entry, tl.load(powers + entry), power)
    current = weight * trace
    if HAS_CURRENT:
        initial_at = b * state_b + tl.expand_dims(k, 1) * state_k + tl.expand_dims(i, 0) * state_i
        current += power * tl.load(initial + initial_at, mask=inside, other=0.0)
    tl.store(final + b * N * N + at, current, mask=inside)


# ---- their order


def matrices(weight: Tensor, code: Tensor, entries: int) -> Tensor:
    """(K N, N): for each entry the weights that have it, and zeros in the place of the others."""
    entry = torch.arange(entries, dtype=code.dtype, device=code.device).view(-1, 1, 1)
    return torch.where(code == entry, weight, 0.0).reshape(-1, weight.shape[1])


def forward(u: Tensor, layer: LayerTensors, state: HetSynState) -> tuple[Tensor, tuple[Any, ...], Tensor]:
    """v of u (T, B, N), the last z, J, A, and the last recurrent currents (B, N, N)."""
    (steps, batch, n), v = u.shape, torch.empty_like(u)
    arrays, has = neurons.soma(layer)
    initial, has_initial = neurons.initial_states(state, u)
    final = neurons.memory_for(u, has)
    weight, code, decays = _shared(layer)
    weight, code = weight.T.contiguous(), code.T.contiguous()
    L = None if is_zero(state.recurrent_current) else state.recurrent_current
    u = u if L is None else _with_first_currents(u, L, code, decays)
    x, new, W = u.new_zeros((batch, len(decays), n)), u.new_empty((batch, n)), matrices(weight, code, len(decays))
    if has_initial:
        x += initial[0].unsqueeze(1)
    arguments = (u, v, *initial, *(or_any(part, u) for part in final), *arrays, new, new, x, decays)
    flags = {"HAS_TRACES": True, **has, "HAS_INITIAL": has_initial, "TILE": TILE_STEP}
    grid = (batch, cells(n, TILE_STEP), 1)
    with full_precision():
        for t, _ in pieces(steps, 1):
            torch.mm(x.view(batch, -1), W, out=new)  # with `out`, autocast leaves it alone
            # what the last step's spikes add is for the step after it
            of_step = (0, 0, 0, x.stride(0), len(decays) if t < steps - 1 else 0, batch, n)
            options = {"FIRST": t == 0, "HAS_NEW": True, **flags}
            launch(lag_step_fwd, grid, *arguments, t, *of_step, num_warps=WARPS_STEP, **options)
    return v, final, _last_currents(x, L, weight, code, decays, steps)


def _shared(layer: LayerTensors) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and codes (N, N) of recurrent synapses, and the decays (K,)."""
    code, decays = layer.recurrent_decay_index, layer.codebook
    assert layer.recurrent_weight is not None and code is not None and decays is not None
    return layer.recurrent_weight, code.to(torch.int32), decays.contiguous()


def _with_first_currents(u: Tensor, initial: Tensor, code: Tensor, decays: Tensor) -> Tensor:
    """u (T, B, N) and what is left of the first currents (B, N, N), of which no spike knows; code (source, neuron)."""
    (steps, batch, n), u_all = u.shape, torch.empty_like(u)
    sizes = (steps, batch, n, len(decays), *initial.stride())
    grid = (batch, cells(n, TILE_STEP), 1)
    options = {"MAX_ENTRIES": MAX_ENTRIES, "TILE": TILE_STEP, "num_warps": WARPS_STEP}
    launch(first_currents_fwd, grid, u, u_all, initial, code, decays, *sizes, **options)
    return u_all


def _last_currents(
    x: Tensor, initial: Tensor | None, weight: Tensor, code: Tensor, decays: Tensor, steps: int
) -> Tensor:
    """(B, N, N) of traces of so many steps and the first currents; weight, code (source, neuron)."""
    (batch, entries, n), tiles = x.shape, cells(x.shape[2], TILE)
    current = x.new_empty((batch, n, n))
    arguments = (x, or_any(initial, x), current, weight, code, decays**steps)
    sizes = (n, entries, *or_any(initial, x).stride())
    flags = {"HAS_CURRENT": initial is not None, "TILE": TILE, "num_warps": 4}
    launch(last_currents_fwd, (batch * tiles, tiles, 1), *arguments, *sizes, **flags)
    return current.transpose(1, 2)


def backward(call: neurons.Backwards, layer: LayerTensors) -> None:
    """As `neurons.backward`, with recurrent synapses whose last currents have no gradient."""
    steps, batch, n = call.g.shape
    weight, code, decays = _shared(layer)
    a, new = call.g.new_zeros((batch, len(decays), n)), call.g.new_empty((batch, n))
    W = matrices(weight, code, len(decays))  # (entry, neuron, source): the synapses the other way
    arguments = (*call.sequences, *call.states, *call.soma, new, new, a, decays)
    of_step, grid = (0, 0, 0, a.stride(0), len(decays), batch, n), (batch, cells(n, TILE_STEP), 1)
    flags = call.flags | {"HAS_TRACES": True, "TILE": TILE_STEP}
    options = {"LAST": False, "HAS_NEW": False, **flags}
    launch(lag_step_bwd, grid, *arguments, steps - 1, *of_step, num_warps=WARPS_STEP, FIRST=True, **options)
    with full_precision():
        for later, _ in pieces(steps, 1):
            torch.mm(a.view(batch, -1), W, out=new)
            t = steps - 2 - later
            options = {"FIRST": False, "LAST": t < 0, "HAS_NEW": True, **flags}
            launch(lag_step_bwd, grid, *arguments, t, *of_step, num_warps=WARPS_STEP, **options)
