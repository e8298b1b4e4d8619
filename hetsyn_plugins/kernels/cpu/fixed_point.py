"""The neuron in integers on the CPU: `run` gives what `fixed_point.run` gives, many times faster.

All states are whole numbers held in float64. A step of decay is trunc(u * c) with c = (4096 - d) / 4096: c has 13 bits
and the product, below 2^53, is exact, so this is the integer step; sums are exact in any order. Nothing wraps or clips
here: where the largest state found needs more bits than there are, the integer core runs the layer instead, and raises
or wraps.

    x  inputs                        c  (4096 - d) / 4096 of a decay word d          w, u  weights and synaptic currents
    v  u, then the membrane          z, J, A, theta, reset_strength, adaptation_strength      as in `soma.py`
    c_reset, c_adapt                 c of J and A                peak  the largest |state| so far

Synapse form: lanes = neurons, and a synapse's current stays in a register over all of time; with delays, which are for
simulation there, the integer core runs it. Cluster form: every spike adds its weights to the accumulators of its
synapses, so that silent lines cost nothing. Synapses that read a line with the same delay have an axon of their own,
as on a chip, and a spike comes over each of them.
"""

# mypy: no-check-untyped-defs
# (numba gives the kernels their types)

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetsyn_plugins.core.validation import check_inputs_shape
from hetsyn_plugins.fixed_point import neuron as fixed_point
from hetsyn_plugins.fixed_point.neuron import (
    DECAY_ONE,
    MAX_INPUT,
    FixedParams,
    FixedRun,
    FixedState,
    Integers,
    past_steps,
)
from hetsyn_plugins.kernels.cpu.compiled import kernel
from hetsyn_plugins.kernels.cpu.simd import (
    above,
    add,
    fma,
    get,
    lanes,
    lanes_of,
    larger,
    load,
    magnitude,
    mul,
    put,
    splat,
    store,
    sub,
    trunc,
)
from hetsyn_plugins.kernels.cpu.threads import parallel

Floats = NDArray[np.float64]
LANES = lanes_of(np.dtype(np.float64))


def run(
    params: FixedParams,
    inputs: Any,
    state: FixedState | None = None,
    *,
    name: str = "",
    allow_overflow: bool = False,
    keep_state: bool = True,
) -> FixedRun:
    """As `fixed_point.run`, arguments and result and errors; inputs may also be a tensor.

    keep_state  False: the state returned is None; the currents of every synapse take time to write out
    """
    p, x = params, torch.as_tensor(inputs).detach()
    check_inputs_shape(x, p.weight)
    by_core: dict[str, Any] = {"name": name, "allow_overflow": allow_overflow}
    if 0 in x.shape:
        return fixed_point.run(p, x.numpy(), state)
    if p.form == "synapse" and p.max_delay:
        result = fixed_point.run(p, x.numpy(), state, **by_core)
        return result if keep_state else result._replace(state=None)  # type: ignore[arg-type]  # as below
    initial = None if state is None else fixed_point.fitting_state(p, state, x.shape[1])
    with np.errstate(invalid="ignore"):  # a state that no int64 holds is not used
        v, last, peak = (_clusters if p.form == "cluster" else _synapses)(p, x, initial, keep_state)
    if peak >= 1 << (p.state_bits - 1):
        return fixed_point.run(p, x.numpy(), state, **by_core)
    spikes = (v > (p.threshold << p.fraction)).astype(np.int64) if p.spiking else None
    if last is not None:
        start = fixed_point.zero_state(p, x.shape[1]) if initial is None else initial
        last = _with_spikes(last, start, x, spikes)
    return FixedRun(spikes, v, last, 0, peak)  # type: ignore[arg-type]  # no state where none is to be kept


def _with_spikes(last: FixedState, start: FixedState, x: Tensor, spikes: Any) -> FixedState:
    """The last state with its spikes, and with inputs and spikes of the steps before it where synapses have delays."""
    parts: dict[str, Any] = {}
    if start.past_inputs is not None:
        of_call = x[-len(start.past_inputs) :] if len(start.past_inputs) else x[:0]
        parts["past_inputs"] = _latest(start.past_inputs, of_call.to(torch.int64).numpy())
    if start.past_spikes is not None:
        parts["past_spikes"] = _latest(start.past_spikes, np.concatenate([start.spikes[None], spikes[:-1]]))
    return last._replace(spikes=None if spikes is None else spikes[-1], **parts)


def _latest(past: Integers, since: Integers) -> Integers:
    """The last rows, as many as there were, of a past and of what came since."""
    both = np.concatenate([past, since])
    return both[len(both) - len(past) :]


def _synapses(
    p: FixedParams, x: Tensor, initial: FixedState | None, keep: bool
) -> tuple[Integers, FixedState | None, int]:
    """v (T, B, N), the last state (its spikes left out) if kept, and the largest |state|, in the synapse form."""
    steps, batch, lines = x.shape
    soma = _Soma(p, initial, batch)
    sources = np.zeros((batch, _up(lines, 4), steps))
    _gather(x, sources.ravel(), (1, sources[0].size, steps))
    c, w = _blocked(_factor(p.decay), 4), _blocked(p.weight << (p.weight_exp + p.fraction), 4)
    v, units = np.empty((batch, steps, soma.n)), batch * soma.n // LANES
    if initial is None:
        u = np.zeros((units if keep else 0, c.shape[1], LANES))
    else:
        u = _blocked(initial.current, 4)
    peaks = np.zeros((2, units, LANES))
    parallel(currents_fwd, units, *map(np.ravel, (sources, c, w, u, v, peaks[0])), steps, c.shape[1])
    recurrent = [np.zeros((0, 1, LANES))] * 3
    if p.recurrent_weight is not None:
        weight = p.recurrent_weight << (p.recurrent_exp + p.fraction)
        start = np.zeros((batch, soma.neurons, soma.neurons)) if initial is None else initial.recurrent_current
        recurrent = [_blocked(part, LANES) for part in (_factor(p.recurrent_decay), weight, start)]
    parallel(neurons_fwd, batch, *map(np.ravel, (v, *recurrent, *soma.state, *soma.constants, peaks[1])), steps)
    last = None
    if keep:
        current = _unblocked(u, batch, p.weight)
        last = FixedState(current, _unblocked(recurrent[2], batch, p.recurrent_weight), *soma.final())
    return _time_first(v, p), last, int(peaks.max())


def _clusters(
    p: FixedParams, x: Tensor, initial: FixedState | None, keep: bool
) -> tuple[Integers, FixedState | None, int]:
    """The same in the cluster form."""
    steps, batch, lines = x.shape
    words, soma, kept = p.codebook, _Soma(p, initial, batch), past_steps(p)
    u = np.zeros((batch, len(words), soma.n))
    if initial is not None:
        u[:, :, : soma.neurons] = initial.current.transpose(0, 2, 1)
    v, peaks = np.empty((batch, steps, soma.n)), np.zeros((batch, LANES))
    of_inputs = _axons(p.weight << p.weight_exp, p.decay, p.delay, p, soma.n)
    recurrent = of_inputs.none()
    if p.recurrent_weight is not None:
        weight = p.recurrent_weight << p.recurrent_exp
        recurrent = _axons(weight, p.recurrent_decay, p.recurrent_delay, p, soma.n)
    sources = np.zeros((batch, kept + steps, lines))
    if initial is not None and kept:
        sources[:, :kept] = initial.past_inputs.transpose(1, 0, 2)
    _gather(x, sources.ravel()[kept * lines :], (lines, (kept + steps) * lines, 1))
    arrays = (sources, *of_inputs, *recurrent, _factor(words), u, v, *soma.state, *soma.constants, peaks)
    parallel(clusters_fwd, batch, *map(np.ravel, arrays), lines, soma.neurons, kept, soma.rows, steps)
    last = (
        FixedState(u[:, :, : soma.neurons].transpose(0, 2, 1).astype(np.int64), None, *soma.final()) if keep else None
    )
    return _time_first(v, p), last, int(peaks.max())


def _gather(x: Tensor, out: Floats, strides: tuple[int, int, int]) -> None:
    """Copy inputs to where the strides of (T, B, M) say, as float64, flat; ValueError where the core refuses them."""
    x = x if x.dtype in (torch.float32, torch.float64) else x.double()
    flat = x.as_strided((1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)),), (1,)).numpy()
    steps, batch, lines = x.shape
    wrong = np.zeros(batch, np.int64)
    parallel(gather, batch, flat, out, (*x.stride(), *strides), wrong, steps, lines)
    if wrong.any():
        fixed_point.whole_numbers(x.numpy())  # raises, and says what is wrong with them


class _Soma:
    """What a neuron has once, padded to n neurons: its state, (B, n), which the kernels update, and its parameters.

    Of the spikes there are so many rows, (B, rows, n), the last ones in turn: those of step t - 1 in row t % rows.
    """

    def __init__(self, p: FixedParams, initial: FixedState | None, batch: int) -> None:
        self.neurons = len(p.weight)
        self.n = _up(self.neurons, LANES)
        self.parts = (p.reset_decay is not None, p.adaptation_decay is not None)
        self.rows = 1 if p.recurrent_delay is None else 1 + p.max_delay
        spikes = np.zeros((batch, self.rows, self.n))
        parts = (None, None) if initial is None else (initial.reset, initial.adaptation)
        if initial is not None and initial.spikes is not None:
            spikes[:, 0, : self.neurons] = initial.spikes
        if initial is not None and initial.past_spikes is not None:
            spikes[:, 1:, : self.neurons] = initial.past_spikes.transpose(1, 0, 2)
        self.state = [spikes, *(self._rows(part, batch) for part in parts)]
        theta = p.threshold << p.fraction
        self.constants = [
            self._row(p.bias),
            self._row(theta if p.spiking else None, fill=np.inf),
            *(self._row(part) for part in (_factor(p.reset_decay), None if p.reset_decay is None else theta)),
            *(self._row(part) for part in (_factor(p.adaptation_decay), p.adaptation_strength)),
        ]

    def _row(self, values: Any, fill: float = 0.0) -> Floats:
        row = np.full(self.n, fill)
        if values is not None:
            row[: self.neurons] = values
        return row

    def _rows(self, values: Any, batch: int) -> Floats:
        rows = np.zeros((batch, self.n))
        if values is not None:
            rows[:, : self.neurons] = values
        return rows

    def final(self) -> list[Any]:
        """Reset and adaptation currents after the last step, None where the layer has none."""
        arrays = [a[:, : self.neurons].astype(np.int64) for a in self.state[1:]]
        return [a if has else None for a, has in zip(arrays, self.parts, strict=True)]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _factor(words: Any) -> Any:
    """What a step of decay multiplies by."""
    return None if words is None else (DECAY_ONE - words) / DECAY_ONE


def _blocked(matrix: Any, multiple: int) -> Floats:
    """(..., N, K) -> (... * N / LANES, K, LANES), both sizes padded with zeros, K to the multiple."""
    *outer, n, k = matrix.shape
    full = np.zeros((*outer, _up(n, LANES), _up(k, multiple)))
    full[..., :n, :k] = matrix
    return np.ascontiguousarray(full.reshape(-1, LANES, full.shape[-1]).transpose(0, 2, 1))


def _unblocked(blocks: Floats, batch: int, weight: Any) -> Any:
    """The inverse of `_blocked`, integers (B, N, K) for a weight of (N, K), or None."""
    if weight is None:
        return None
    n, k = weight.shape
    full = blocks.transpose(0, 2, 1).reshape(batch, -1, blocks.shape[1])
    return full[:, :n, :k].astype(np.int64)


class _Axons(NamedTuple):
    """The synapses of a matrix, axon by axon; an axon has all that read a line with one delay.

    where, adds   (S,) of each synapse: where its accumulator is in [word][n], and what a spike adds to it
    first         (delays * lines + 1,) where the synapses of each delay and line begin
    """

    where: Any
    adds: Any
    first: Any

    def none(self) -> _Axons:
        """No axon, in arrays of the same types."""
        return _Axons(self.where[:0], self.adds[:0], self.first[:1])


def _axons(weight: Integers, decay: Integers, delay: Any, p: FixedParams, n: int) -> _Axons:
    """8-bit mantissas times powers of two: exact in float32, half the memory to go through for each spike."""
    neurons, lines = weight.shape
    where = np.searchsorted(p.codebook, decay) * n + np.arange(neurons)[:, None]
    adds = weight.astype(np.float32) * np.float32(1 << p.fraction)
    delay = np.zeros_like(weight) if delay is None else delay
    axon = (np.arange(lines) + delay * lines).T.ravel()
    order, first = np.argsort(axon, kind="stable"), np.zeros((delay.max() + 1) * lines + 1, np.int64)
    first[1:] = np.bincount(axon, minlength=len(first) - 1).cumsum()
    return _Axons(where.T.ravel()[order].astype(np.int32), adds.T.ravel()[order], first)


def _time_first(v: Floats, p: FixedParams) -> Integers:
    return np.ascontiguousarray(v[:, :, : len(p.weight)].transpose(1, 0, 2)).astype(np.int64)


# ---- kernels: arrays are flat, only what belongs to the units start..stop is written (see `soma.py`) ---------


@kernel
def gather(x, out, strides, wrong, steps, lines, start, stop):
    """Copy from one layout to another: strides of (T, B, M) in x, then in out; units are rows of the batch."""
    for b in range(start, stop):
        for j in range(lines):
            p, q = b * strides[1] + j * strides[2], b * strides[4] + j * strides[5]
            for _ in range(steps):
                value = np.float64(get(x, p))
                put(out, q, value)
                wrong[b] += value - np.trunc(value) != 0 or abs(value) > MAX_INPUT  # NaN too
                p, q = p + strides[0], q + strides[3]


@kernel
def currents_fwd(x, c, w, u, v, peaks, steps, lines, start, stop):
    """v (B, T, N) = the sums of the synaptic currents; u, the first ones, become the last; x (B, lines, T).

    c, w, u are blocked; u may be empty: zeros, and nothing is kept. Units are (row, vector of neurons).
    """
    L = lanes(v)
    vectors = len(c) // (lines * L)
    total = np.empty(steps * L)
    for unit in range(start, stop):
        b, vector = unit // vectors, unit % vectors
        peak = splat(0.0)
        for t in range(steps):
            store(total, t * L, peak)
        for j in range(0, lines, 4):
            e, f, p = (vector * lines + j) * L, (unit * lines + j) * L, (b * lines + j) * steps
            c0, c1, c2, c3 = load(c, e), load(c, e + L), load(c, e + 2 * L), load(c, e + 3 * L)
            w0, w1, w2, w3 = load(w, e), load(w, e + L), load(w, e + 2 * L), load(w, e + 3 * L)
            u0 = u1 = u2 = u3 = splat(0.0)
            if len(u) > 0:
                u0, u1, u2, u3 = load(u, f), load(u, f + L), load(u, f + 2 * L), load(u, f + 3 * L)
            for t in range(p, p + steps):
                u0 = fma(w0, splat(get(x, t)), trunc(mul(c0, u0)))
                u1 = fma(w1, splat(get(x, t + steps)), trunc(mul(c1, u1)))
                u2 = fma(w2, splat(get(x, t + 2 * steps)), trunc(mul(c2, u2)))
                u3 = fma(w3, splat(get(x, t + 3 * steps)), trunc(mul(c3, u3)))
                q = (t - p) * L
                store(total, q, add(add(add(u0, u1), add(u2, u3)), load(total, q)))
                peak = larger(peak, larger(larger(magnitude(u0), magnitude(u1)), larger(magnitude(u2), magnitude(u3))))
            if len(u) > 0:
                store(u, f, u0)
                store(u, f + L, u1)
                store(u, f + 2 * L, u2)
                store(u, f + 3 * L, u3)
        for t in range(steps):
            store(v, ((b * steps + t) * vectors + vector) * L, load(total, t * L))
        store(peaks, unit * L, peak)


@kernel
def soma_fwd(v, q, z, before, now, J, A, row, bias, theta, c_reset, reset_strength, c_adapt, adaptation_strength, peak):
    """One step of one row: v, the summed synaptic currents, becomes v; J, A move on; the peak is returned.

    before, now   where the spikes of the step before are in z, and where those of this one go
    """
    L = lanes(v)
    for i in range(0, len(theta), L):
        e = row + i
        spike = load(z, before + i)
        reset = fma(load(reset_strength, i), spike, trunc(mul(load(c_reset, i), load(J, e))))
        adapt = fma(load(adaptation_strength, i), spike, trunc(mul(load(c_adapt, i), load(A, e))))
        membrane = add(sub(sub(load(v, q + i), reset), adapt), load(bias, i))
        store(v, q + i, membrane)
        store(J, e, reset)
        store(A, e, adapt)
        store(z, now + i, above(membrane, load(theta, i)))
        peak = larger(peak, larger(larger(magnitude(reset), magnitude(adapt)), magnitude(membrane)))
    return peak


@kernel
def neurons_fwd(
    v, c, w, u, z, J, A, bias, theta, c_reset, reset_strength, c_adapt, adaptation_strength, peaks, steps, start, stop
):
    """v, the sums of the input currents, becomes v; recurrent synapses c, w, u are blocked or empty. Units: rows."""
    L = lanes(v)
    N = len(theta)
    for b in range(start, stop):
        peak = splat(0.0)
        for t in range(steps):
            q = (b * steps + t) * N
            if len(c) > 0:
                for vector in range(N // L):
                    e, f = vector * N * L, (b * (N // L) + vector) * N * L
                    even, odd = load(v, q + vector * L), splat(0.0)
                    for k in range(b * N, b * N + N, 2):
                        u0 = fma(load(w, e), splat(get(z, k)), trunc(mul(load(c, e), load(u, f))))
                        u1 = fma(load(w, e + L), splat(get(z, k + 1)), trunc(mul(load(c, e + L), load(u, f + L))))
                        store(u, f, u0)
                        store(u, f + L, u1)
                        even, odd = add(even, u0), add(odd, u1)
                        peak = larger(peak, larger(magnitude(u0), magnitude(u1)))
                        e, f = e + 2 * L, f + 2 * L
                    store(v, q + vector * L, add(even, odd))
            row = b * N
            peak = soma_fwd(
                v, q, z, row, row, J, A, row, bias, theta, c_reset, reset_strength, c_adapt, adaptation_strength, peak
            )
        store(peaks, b * L, peak)


@kernel
def add_spikes(u, row, sources, at, lines, where, adds, first, delay):
    """Add what the spikes of one step, sources[at : at + lines], add so many steps later."""
    for j in range(lines):
        spike = get(sources, at + j)
        if spike != 0:
            axon = delay * lines + j
            for e in range(get(first, axon), get(first, axon + 1)):
                to = row + get(where, e)
                put(u, to, get(u, to) + get(adds, e) * spike)


# long: unrolled, one statement a line
@kernel
def clusters_fwd(
    x,
    where,
    adds,
    first,
    recurrent_where,
    recurrent_adds,
    recurrent_first,
    c,
    u,
    v,
    z,
    J,
    A,
    bias,
    theta,
    c_reset,
    reset_strength,
    c_adapt,
    adaptation_strength,
    peaks,
    lines,
    neurons,
    kept,
    rows,
    steps,
    start,
    stop,
):
    """v (B, T, N) of clustered synapses, c (K,), u (B, K, N). Units are rows of the batch.

    x  (B, kept + T, lines), `kept` steps of the past in front        z  (B, rows, N), see `_Soma`
    """
    L = lanes(v)
    N, K = len(theta), len(c)
    delays, recurrent_delays = (len(first) - 1) // lines, (len(recurrent_first) - 1) // neurons
    for b in range(start, stop):
        peak = splat(0.0)
        row = b * K * N
        for t in range(steps):
            for k in range(K):
                decay = splat(get(c, k))
                for e in range(row + k * N, row + (k + 1) * N, L):
                    store(u, e, trunc(mul(decay, load(u, e))))
            for delay in range(delays):
                at = (b * (kept + steps) + kept + t - delay) * lines
                add_spikes(u, row, x, at, lines, where, adds, first, delay)
            for delay in range(recurrent_delays):
                at = (b * rows + (t + rows - delay) % rows) * N
                add_spikes(u, row, z, at, neurons, recurrent_where, recurrent_adds, recurrent_first, delay)
            q = (b * steps + t) * N
            for i in range(0, N, L):
                total = splat(0.0)
                for k in range(K):
                    one = load(u, row + k * N + i)
                    total, peak = add(total, one), larger(peak, magnitude(one))
                store(v, q + i, total)
            before, after = (b * rows + t % rows) * N, (b * rows + (t + 1) % rows) * N
            peak = soma_fwd(
                v,
                q,
                z,
                before,
                after,
                J,
                A,
                b * N,
                bias,
                theta,
                c_reset,
                reset_strength,
                c_adapt,
                adaptation_strength,
                peak,
            )
        store(peaks, b * L, peak)
