"""What the neuron is on a Loihi-style chip: HetSynLIF in integers (NumPy int64), the judge of everything deployed.

The equations are those of `reference.py`; what differs is the arithmetic (`f` fractional bits, S state bits):

    decay        r = 1 - d / 4096 with a decay word d of 0..4096; u -> sign(u) * (|u| (4096 - d) >> 12), toward zero
    weight       signed 8-bit mantissa m and an exponent e shared by the matrix: a spike adds (m << e) << f
    currents     wrap around at S bits, as the current u of Lava's LIF does
    v            the clipped sum of the currents, as the voltage of Lava's LIF
    spike        where v > threshold << f, strictly; reset and adaptation act one step later, as currents
    delay        whole steps; a synapse reads its line, or the spikes of the step before, so many steps earlier

Two forms. "cluster": synapses of a neuron with the same decay word share one accumulator, inputs and recurrent ones
alike; 24 bits, 6 of them fractional: what a chip holds. "synapse": every synapse has an accumulator; 32 bits, 12
fractional: simulation only. Rounding toward zero biases every accumulator by less than 4096 / d of its last bit
(`truncation_bound`), hence the finer last bit where there are hundreds of accumulators.

Scale: one weight unit stands for `unit` in the float model; currents and v are in state units, 2^-f weight units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetsyn_plugins.core.fields import DECAYS, DELAYS, FIELDS, PAIRS, STEPS, full_shapes
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.validation import check_inputs_shape, host_array

Integers = NDArray[np.int64]

DECAY_ONE = 4096  # the decay word of r = 0: 12 bits
MANTISSA = (-128, 127)  # signed 8-bit weights
MAX_EXP = 7  # three bits of exponent
MAX_THRESHOLD = (1 << 17) - 1  # weight units, as Lava's 17-bit vth
FORMS = {"cluster": (24, 6), "synapse": (32, 12)}  # state bits, fractional bits
MAX_INPUT = (1 << 23) - 1  # a graded spike's payload; sums of 2^15 lines stay exact in float64
MAX_DELAY = 62  # steps, as Loihi's axons have
CHUNK = 1 << 22  # numbers of input sums made at a time

# what the integers of a field count; the fields' shapes and pairs are those of `core.fields`
WEIGHT_MANTISSAS, WEIGHT_UNITS, STATE_UNITS, DECAY_WORDS = "mantissas", "weight units", "state units", "decay words"
COUNTS = {
    **dict.fromkeys(DECAYS, DECAY_WORDS),
    **dict.fromkeys(DELAYS, STEPS),
    "weight": WEIGHT_MANTISSAS,
    "threshold": WEIGHT_UNITS,
    "recurrent_weight": WEIGHT_MANTISSAS,
    "adaptation_strength": STATE_UNITS,
    "bias": STATE_UNITS,
}
HELD = {name: field for name, field in FIELDS.items() if name in COUNTS}  # what a layer of integers has
EXPONENTS = {"weight": "weight_exp", "recurrent_weight": "recurrent_exp"}  # matrix of mantissas -> its exponent


class FixedPointOverflow(OverflowError):
    """A state left its bits; the message names layer, neuron, row and step."""


@dataclass(frozen=True, eq=False, repr=False)
class FixedParams:
    """One layer in integers; arrays are read-only int64. Raises ValueError naming the field that is out of range.

    weight               (N, M)        mantissas, -128..127
    decay                (N, M)        decay words, 0..4096
    weight_exp           ()            0..7, shared by the matrix
    reset_decay          (N,)          decay words, or None: no reset
    threshold            (N,)          weight units, 1..131071
    recurrent_weight, recurrent_decay  (N, N), recurrent_exp (): as those of the inputs; None: feed-forward
    adaptation_decay     (N,)          decay words; adaptation_strength (N,) in state units; None: no adaptation
    bias                 (N,)          state units, added to v every step, or None
    delay                (N, M)        steps, 0..62, or None; recurrent_delay (N, N): beyond the one that a loop takes
    spiking              False: the leaky readout
    form, fraction       see the module; fraction None: the form's
    unit                 what one weight unit is in the float model
    """

    weight: Any
    decay: Any
    _: KW_ONLY
    weight_exp: int = 0
    reset_decay: Any = None
    threshold: Any = 1
    recurrent_weight: Any = None
    recurrent_decay: Any = None
    recurrent_exp: int = 0
    adaptation_decay: Any = None
    adaptation_strength: Any = None
    bias: Any = None
    delay: Any = None
    recurrent_delay: Any = None
    spiking: bool = True
    form: str = "cluster"
    fraction: Any = None
    unit: float = 1.0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {self.form!r}")
        bits, fraction = FORMS[self.form]
        fraction = fraction if self.fraction is None else self.fraction
        object.__setattr__(self, "fraction", int(checked_integers("fraction", fraction, (0, bits - 9), ())))
        object.__setattr__(self, "unit", checked_unit(self.unit))
        n, m = np.shape(self.weight) if np.ndim(self.weight) == 2 else (0, 0)
        if not n or not m:
            raise ValueError(f"weight: expected shape (N, M), got {np.shape(self.weight)}")
        limit = (1 << (bits - 1)) - 1
        bounds = {
            WEIGHT_MANTISSAS: MANTISSA,
            DECAY_WORDS: (0, DECAY_ONE),
            WEIGHT_UNITS: (1, MAX_THRESHOLD),
            STATE_UNITS: (-limit, limit),
            STEPS: (0, MAX_DELAY),
        }
        shapes = full_shapes(n, m)
        for name, field in HELD.items():
            if getattr(self, name) is not None:
                value = checked_integers(name, getattr(self, name), bounds[COUNTS[name]], shapes[field.axes])
                object.__setattr__(self, name, value)
            if name in EXPONENTS:
                exponent = checked_integers(EXPONENTS[name], getattr(self, EXPONENTS[name]), (0, MAX_EXP), ())
                object.__setattr__(self, EXPONENTS[name], int(exponent))
        for one, other in PAIRS:
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"{other}: expected together with {one}, got one of them")
        if self.recurrent_delay is not None and self.recurrent_weight is None:
            raise ValueError("recurrent_delay: expected None where there is no recurrent_weight, got a value")
        for name, field in HELD.items():
            if field.reads_spikes and not self.spiking and getattr(self, name) is not None:
                raise ValueError(f"{name}: expected None where spiking=False (the readout has no spikes), got a value")

    @property
    def state_bits(self) -> int:
        """How many bits a current has, its sign included."""
        return FORMS[self.form][0]

    @property
    def max_delay(self) -> int:
        """The longest delay of a synapse, in steps: for so many the state keeps what came."""
        delays = (self.delay, self.recurrent_delay)
        return max((int(delay.max()) for delay in delays if delay is not None), default=0)

    @property
    def codebook(self) -> Integers:
        """The decay words that occur in the layer's synapses, (K,), ascending: one accumulator a neuron for each."""
        both = [self.decay.ravel()] + ([] if self.recurrent_decay is None else [self.recurrent_decay.ravel()])
        return np.unique(np.concatenate(both))

    def replace(self, **changes: Any) -> FixedParams:
        """A copy with some fields changed, validated anew."""
        return type(self)(**{**{f.name: getattr(self, f.name) for f in fields(self) if f.init}, **changes})

    def to_params(self) -> HetSynParams:
        """The float neuron with these very numbers, in float64: what the integers would compute without rounding."""
        return HetSynParams(**{name: self._in_float(name) for name in HELD}, spiking=self.spiking)

    def _in_float(self, name: str) -> Any:
        """A field in the float model's units."""
        value, counts = getattr(self, name), COUNTS[name]
        if value is None:
            return None
        if counts == STEPS:
            return value.astype(np.float64)
        if counts == DECAY_WORDS:
            return 1.0 - value / DECAY_ONE
        if counts == WEIGHT_MANTISSAS:
            return value * (float(1 << getattr(self, EXPONENTS[name])) * self.unit)
        return value * (self.unit if counts == WEIGHT_UNITS else self.state_unit)

    @property
    def state_unit(self) -> float:
        """What the last bit of a state is in the float model."""
        return self.unit / (1 << self.fraction)

    def __repr__(self) -> str:
        n, m = self.weight.shape
        kind = "" if self.spiking else ", readout"
        recurrent = "" if self.recurrent_weight is None else ", recurrent"
        return f"FixedParams({m} -> {n}{recurrent}{kind}, {self.form} form, {len(self.codebook)} decay words)"


def checked_unit(unit: Any) -> float:
    """The unit as a float, or ValueError where it is no scale."""
    if not isinstance(unit, (int, float, np.number)) or not 0 < unit < np.inf:
        raise ValueError(f"unit: expected a finite number > 0, got {unit!r}")
    return float(unit)


def checked_integers(name: str, value: Any, bounds: tuple[int, int], shape: tuple[int, ...]) -> Any:
    """A read-only int64 copy of whole numbers within bounds, in this shape (or one number for all)."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu" and not (array.dtype.kind == "f" and (array == np.round(array)).all()):
        raise ValueError(f"{name}: expected whole numbers, got {array.dtype} with fractions")
    if array.shape not in (shape, ()):
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    low, high = bounds
    wrong = int(((array < low) | (array > high)).sum())
    if wrong:
        raise ValueError(f"{name}: expected {low}..{high}, got {wrong} outside, from {array.min()} to {array.max()}")
    out = np.broadcast_to(array, shape).astype(np.int64)
    out.flags.writeable = False
    return out


# ---- running ----------------------------------------------------------------------------------------------------


class FixedState(NamedTuple):
    """The state of a layer between two steps, int64; None where the layer has no such part.

    current             cluster form: (B, N, K), in the order of `FixedParams.codebook`; synapse form: (B, N, M)
    recurrent_current   synapse form only: (B, N, N)
    reset, adaptation   (B, N)
    spikes              (B, N)  0 or 1
    past_inputs         (D, B, M)  where inputs have delays: those of the last D = max_delay steps, the latest last
    past_spikes         (D, B, N)  likewise the spikes of the D steps before those in `spikes`
    """

    current: Any
    recurrent_current: Any = None
    reset: Any = None
    adaptation: Any = None
    spikes: Any = None
    past_inputs: Any = None
    past_spikes: Any = None


class FixedRun(NamedTuple):
    """What a run gave.

    spikes     (T, B, N) of 0 and 1, None for a readout
    v          (T, B, N) in state units
    state      after the last step
    overflows  how many times a state left its bits (an error unless allowed)
    peak       the largest |state| before any wrap or clip: what is left of the bits is the headroom
    """

    spikes: Any
    v: Integers
    state: FixedState
    overflows: int
    peak: int


def decayed(u: Integers, word: Integers) -> Integers:
    """u after one step of decay, rounded toward zero."""
    out: Integers = np.sign(u) * (np.abs(u) * (DECAY_ONE - word) >> 12)
    return out


def wrapped(u: Integers, bits: int) -> Integers:
    """Around at `bits` bits into (-2^(bits-1), 2^(bits-1)]: Lava's LIF lets the upper end stand, not the lower."""
    half = 1 << (bits - 1)
    out: Integers = half - (half - u) % (2 * half)
    return out


def zero_state(p: FixedParams, batch: int) -> FixedState:
    """The state before the first step: all zeros."""
    n, m = p.weight.shape
    zeros = np.zeros((batch, n), np.int64)
    columns = len(p.codebook) if p.form == "cluster" else m
    recurrent = p.form == "synapse" and p.recurrent_weight is not None
    return FixedState(
        np.zeros((batch, n, columns), np.int64),
        np.zeros((batch, n, n), np.int64) if recurrent else None,
        None if p.reset_decay is None else zeros,
        None if p.adaptation_decay is None else zeros,
        zeros if p.spiking else None,
        None if p.delay is None else np.zeros((p.max_delay, batch, m), np.int64),
        None if p.recurrent_delay is None else np.zeros((p.max_delay, batch, n), np.int64),
    )


def run(
    params: FixedParams,
    inputs: ArrayLike,
    state: FixedState | None = None,
    *,
    name: str = "",
    allow_overflow: bool = False,
) -> FixedRun:
    """Run T steps.

    inputs  (T, B, M), whole numbers: spikes, counts or graded spikes
    state   as an earlier run returned it, or None: zeros
    name    the layer's, for messages

    Raises ValueError for inputs or a state that do not fit, FixedPointOverflow where a state leaves its bits, unless
    `allow_overflow`: then currents wrap and v clips, as on the chip, and `overflows` counts.
    """
    x = whole_numbers(inputs)
    check_inputs_shape(x, params.weight)
    steps, batch, _ = x.shape
    neurons = Neurons(params, name, allow_overflow)
    s = zero_state(params, batch) if state is None else fitting_state(params, state, batch)
    v = np.zeros((steps, batch, len(params.weight)), np.int64)
    spikes = np.zeros_like(v)
    sources = with_past(s.past_inputs, x)
    for t, drive in enumerate(neurons.synapses.drives(sources)):
        s, v[t] = neurons.step(s, drive, t)
        spikes[t] = 0 if s.spikes is None else s.spikes
    s = s._replace(past_inputs=None if s.past_inputs is None else sources[steps:])
    return FixedRun(spikes if params.spiking else None, v, s, neurons.watch.overflows, neurons.watch.peak)


class Neurons:
    """A layer made ready to run: its synapses in the form that it has, and a watch over its bits."""

    def __init__(self, params: FixedParams, name: str = "", allow_overflow: bool = False) -> None:
        self.params = params
        self.synapses = Accumulators(params) if params.form == "cluster" else Synapses(params)
        self.watch = Watch(params, name, allow_overflow)

    def advance(self, s: FixedState, x: Integers, t: int) -> tuple[FixedState, Integers]:
        """Step t: inputs (B, M) and the state before give the state after, and v (B, N)."""
        sources = with_past(s.past_inputs, x[None])
        after, v = self.step(s, self.synapses.drive(sources), t)
        return after._replace(past_inputs=None if s.past_inputs is None else sources[1:]), v

    def step(self, s: FixedState, drive: Integers, t: int) -> tuple[FixedState, Integers]:
        """The same with what the inputs add (`synapses.drive`) in their place; past inputs stay as they were."""
        p, watch = self.params, self.watch
        current, recurrent = self.synapses.step(s, drive, watch, t)
        total = current.sum(-1) if recurrent is None else current.sum(-1) + recurrent.sum(-1)
        reset = adaptation = None
        if p.reset_decay is not None:
            jump = (p.threshold << p.fraction) * s.spikes
            reset = watch.wrap(decayed(s.reset, p.reset_decay) + jump, "reset current", t)
            total = total - reset
        if p.adaptation_decay is not None:
            jump = p.adaptation_strength * s.spikes
            adaptation = watch.wrap(decayed(s.adaptation, p.adaptation_decay) + jump, "adaptation current", t)
            total = total - adaptation
        v = watch.clip(total if p.bias is None else total + p.bias, t)
        spikes = (v > (p.threshold << p.fraction)).astype(np.int64) if p.spiking else None
        past_spikes = None if s.past_spikes is None else fired(s)[1:]
        return FixedState(current, recurrent, reset, adaptation, spikes, s.past_inputs, past_spikes), v


def with_past(past: Integers | None, latest: Integers) -> Integers:
    """What synapses read: rows of now, (T, B, lines), behind those of earlier steps where there are any."""
    return latest if past is None else np.concatenate([past, latest])


def fired(s: FixedState) -> Integers:
    """What recurrent synapses read: the spikes of the step before, behind those of the steps before it."""
    return with_past(s.past_spikes, s.spikes[None])


def arrived(sources: Integers, delay: Integers | None) -> Integers:
    """What arrives at each synapse at the last of the steps (rows, B, lines): (B, N, lines), or (B, 1, lines)."""
    if delay is None:
        return sources[-1][:, None, :]
    return np.moveaxis(sources[len(sources) - 1 - delay, :, np.arange(sources.shape[2])], 2, 0)


def past_steps(p: FixedParams) -> int:
    """How many steps of inputs stand in front of those that come, D or 0."""
    return 0 if p.delay is None else p.max_delay


def each_step(sources: Integers, steps: int) -> Iterator[Integers]:
    """The sources up to each of the last so many steps."""
    return (sources[:end] for end in range(len(sources) - steps + 1, len(sources) + 1))


class Accumulators:
    """The cluster form: one current for each decay word of a neuron, (B, N, K)."""

    def __init__(self, p: FixedParams) -> None:
        self.words, self.fraction, self.past = p.codebook, p.fraction, past_steps(p)
        self.inputs = self._sums(p.weight << p.weight_exp, p.decay, p.delay)
        self.recurrent = None
        if p.recurrent_weight is not None:
            weight = p.recurrent_weight << p.recurrent_exp
            self.recurrent = self._sums(weight, p.recurrent_decay, p.recurrent_delay)

    def _sums(self, weight: Integers, decay: Integers, delay: Any) -> Products | DelayedSums:
        word, many = np.searchsorted(self.words, decay), len(self.words)
        return Products(weight, word, many) if delay is None else DelayedSums(weight, word, many, delay)

    def drive(self, x: Integers) -> Integers:
        """What inputs (1, B, M) of one step add, (B, N, K); with delays (D + 1, B, M), those of before in front."""
        return self.inputs.of(x) << self.fraction

    def drives(self, x: Integers) -> Iterator[Integers]:
        """The same of each step of (T, B, M), or of (D + T, B, M)."""
        return (added << self.fraction for added in self.inputs.each(x, len(x) - self.past))

    def step(self, s: FixedState, drive: Integers, watch: Watch, t: int) -> tuple[Integers, None]:
        u = decayed(s.current, self.words) + drive
        if self.recurrent is not None:
            u += self.recurrent.of(fired(s)) << self.fraction
        return watch.wrap(u, "synaptic current", t), None


class Products:
    """Weights summed over the lines that are not silent, neuron by neuron and word by word: a matrix product.

    Sums of whole numbers below 2^53 are exact in float64, whose matrix product is the fast one.
    """

    def __init__(self, weight: Integers, word: Integers, words: int) -> None:
        n, lines = weight.shape
        self.shape = (n, words)
        out = np.zeros((lines, n, words))
        neuron, line = np.indices(weight.shape)
        out[line, neuron, word] = weight  # 0 where the synapse has another word
        self.weight = out.reshape(lines, -1)

    def of(self, sources: Integers) -> Integers:
        """At the last step, (B, N, K). Of a single row only the lines that are not silent are read: few, mostly."""
        x = sources[-1]
        active = np.flatnonzero(x[0]) if len(x) == 1 else slice(None)
        added = x[:, active].astype(np.float64) @ self.weight[active]
        return added.astype(np.int64).reshape(-1, *self.shape)

    def each(self, sources: Integers, steps: int) -> Iterator[Integers]:
        """At each of the last so many steps; many of them at a time."""
        x = sources[len(sources) - steps :]
        at_once = max(1, CHUNK // (x.shape[1] * self.weight.shape[1] or 1))
        for t in range(0, steps, at_once):
            part = x[t : t + at_once].astype(np.float64) @ self.weight
            yield from part.astype(np.int64).reshape(len(part), -1, *self.shape)


class DelayedSums:
    """The same where every synapse reads its line so many steps earlier: synapse by synapse, then summed."""

    def __init__(self, weight: Integers, word: Integers, words: int, delay: Integers) -> None:
        n, _ = weight.shape
        self.shape, self.weight, self.delay = (n, words), weight, delay
        cell = (word + np.arange(n)[:, None] * words).ravel()
        self.order = np.argsort(cell, kind="stable")
        self.cells, self.starts = np.unique(cell[self.order], return_index=True)

    def of(self, sources: Integers) -> Integers:
        """At the last step, (B, N, K)."""
        added = self.weight * arrived(sources, self.delay)
        out = np.zeros((len(added), self.shape[0] * self.shape[1]), np.int64)
        flat = added.reshape(len(added), self.order.size)
        out[:, self.cells] = np.add.reduceat(flat[:, self.order], self.starts, axis=1)
        return out.reshape(-1, *self.shape)

    def each(self, sources: Integers, steps: int) -> Iterator[Integers]:
        """At each of the last so many steps."""
        return map(self.of, each_step(sources, steps))


class Synapses:
    """The synapse form: one current for each synapse, (B, N, M) and (B, N, N)."""

    def __init__(self, p: FixedParams) -> None:
        self.p, self.past = p, past_steps(p)
        self.weight = p.weight << (p.weight_exp + p.fraction)
        self.recurrent_weight = None
        if p.recurrent_weight is not None:
            self.recurrent_weight = p.recurrent_weight << (p.recurrent_exp + p.fraction)

    def drive(self, x: Integers) -> Integers:
        """What inputs (1, B, M) of one step add, (B, N, M); with delays (D + 1, B, M), those of before in front."""
        out: Integers = self.weight * arrived(x, self.p.delay)
        return out

    def drives(self, x: Integers) -> Iterator[Integers]:
        """The same of each step of (T, B, M), or of (D + T, B, M)."""
        return map(self.drive, each_step(x, len(x) - self.past))

    def step(self, s: FixedState, drive: Integers, watch: Watch, t: int) -> tuple[Integers, Integers | None]:
        current = watch.wrap(decayed(s.current, self.p.decay) + drive, "synaptic current", t)
        if self.recurrent_weight is None:
            return current, None
        added = self.recurrent_weight * arrived(fired(s), self.p.recurrent_delay)
        recurrent = decayed(s.recurrent_current, self.p.recurrent_decay) + added
        return current, watch.wrap(recurrent, "recurrent synaptic current", t)


class Watch:
    """Wraps, clips, and tells of what did not fit."""

    def __init__(self, p: FixedParams, name: str, allow: bool) -> None:
        self.bits, self.name, self.allow = p.state_bits, name, allow
        self.overflows = self.peak = 0

    def wrap(self, u: Integers, what: str, t: int) -> Integers:
        return wrapped(u, self.bits) if self._beyond(u, what, t) else u

    def clip(self, v: Integers, t: int) -> Integers:
        limit = (1 << (self.bits - 1)) - 1
        return np.clip(v, -limit, limit) if self._beyond(v, "v", t) else v

    def _beyond(self, u: Integers, what: str, t: int) -> bool:
        largest = max(int(u.max(initial=0)), -int(u.min(initial=0)))
        self.peak = max(self.peak, largest)
        if largest < 1 << (self.bits - 1):
            return False
        beyond = np.argwhere(np.abs(u) >= 1 << (self.bits - 1))
        self.overflows += len(beyond)
        if not self.allow:
            row, neuron = beyond[0][:2]
            where = f"layer {self.name!r}: " if self.name else ""
            raise FixedPointOverflow(
                f"{where}the {what} of neuron {neuron} left {self.bits} bits at step {t} (row {row} of the batch, "
                f"{largest} at most): a larger unit or smaller weights, or allow_overflow=True to let it wrap"
            )
        return True


def whole_numbers(inputs: ArrayLike) -> Integers:
    """Inputs as int64, or ValueError where they are not whole, or larger than a graded spike can be."""
    x = host_array("inputs", inputs)
    if x.dtype.kind == "f" and not (x == np.rint(x)).all():
        raise ValueError("inputs: expected whole numbers (spikes, counts, graded spikes), got fractions or NaN")
    if x.dtype.kind not in "biuf":
        raise ValueError(f"inputs: expected whole numbers, got {x.dtype}")
    largest = max(float(x.max(initial=0)), -float(x.min(initial=0)))
    if largest > MAX_INPUT:
        raise ValueError(f"inputs: expected graded spikes of at most 24 bits, {MAX_INPUT} or less, got {largest:g}")
    return x.astype(np.int64)


def fitting_state(p: FixedParams, state: FixedState, batch: int) -> FixedState:
    """The state as int64, or ValueError where it is another layer's or batch's."""
    if not isinstance(state, FixedState):
        raise ValueError(f"state: expected a FixedState or None, got {type(state).__name__}")
    for name, zero, value in zip(FixedState._fields, zero_state(p, batch), state, strict=True):
        expected, got = (None if a is None else np.shape(a) for a in (zero, value))
        if expected != got:
            raise ValueError(f"state.{name}: expected shape {expected}, got {got}; another layer's or batch's?")
    return FixedState(*(None if a is None else np.asarray(a, np.int64) for a in state))


def truncation_bound(params: FixedParams, steps: int) -> NDArray[np.float64]:
    """How far rounding toward zero can move v of each neuron within so many steps, (N,), in state units.

    An accumulator with decay r = 1 - d / 4096 loses less than one unit a step and keeps r of what it lost before:
    less than (1 - r^T) / (1 - r) units in all, below 4096 / d. Decays of exactly 0 and 1 lose nothing. This holds for
    the same spikes in both and without overflow; what is summed is one term an accumulator: K of them, or M + N.
    """
    p = params

    def largest_loss(words: Any) -> NDArray[np.float64]:
        r = 1.0 - np.asarray(words) / DECAY_ONE
        inside = (r > 0) & (r < 1)
        return np.where(inside, (1 - r**steps) / np.where(inside, 1 - r, 1.0), 0.0)

    if p.form == "cluster":
        present = np.zeros((len(p.weight), len(p.codebook)), bool)
        for weight, decay in ((p.weight, p.decay), (p.recurrent_weight, p.recurrent_decay)):
            if weight is not None:
                neuron, line = np.nonzero(weight)
                present[neuron, np.searchsorted(p.codebook, decay[neuron, line])] = True
        total = (present * largest_loss(p.codebook)).sum(1)
    else:
        total = largest_loss(p.decay).sum(1)
        if p.recurrent_decay is not None:
            total = total + largest_loss(p.recurrent_decay).sum(1)
    for words in (p.reset_decay, p.adaptation_decay):
        if words is not None:
            total = total + largest_loss(words)
    return np.asarray(total)
