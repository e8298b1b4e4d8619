"""The parameters of one HetSynLIF layer as data: validated, read-only, with the paper's special cases.

Fields, shapes and units: `fields.py`. Nothing here needs torch.
"""

from __future__ import annotations

import warnings
from dataclasses import KW_ONLY, dataclass, fields
from math import inf
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hetsyn_plugins.core.fields import ARRAYS, DECAY, DECAYS, DELAYS, MASKS, NAMES, NUMBERS, Array, HetSynState, Taus
from hetsyn_plugins.core.masks import as_mask, without_absent
from hetsyn_plugins.core.validation import (
    allowed_shapes,
    as_array,
    as_plain,
    check_fields,
    check_inputs_shape,
    check_no_max_delay,
    check_state,
    check_values,
    checked_bool,
    checked_dt,
    checked_max_delay,
    describe_values,
    expand,
    full_shape,
    host_array,
    state_shapes,
)

__all__ = [  # also what stood here once (`hetsyn_plugins.params`): imports of that time go on
    "ARRAYS",
    "DECAYS",
    "NAMES",
    "Array",
    "HetSynParams",
    "HetSynState",
    "Taus",
    "allowed_shapes",
    "as_array",
    "as_plain",
    "check_fields",
    "check_inputs_shape",
    "check_state",
    "check_values",
    "checked_dt",
    "decay_to_tau",
    "describe_values",
    "expand",
    "full_shape",
    "state_shapes",
    "tau_to_decay",
]


LONGEST_STEPS, LONGEST_SECONDS = 4_000, 1.0  # a usual tau beyond both was meant in milliseconds
SHORTEST_STEPS = 0.1  # and one below, dt: r < 5e-5


def in_steps(delay: Any, dtype: Any) -> Any:
    """A delay in the dtype of a layer, where it is given in whole numbers."""
    if hasattr(delay, "is_floating_point"):
        return delay if delay.is_floating_point() else host_array("delay", delay, dtype)
    is_whole = isinstance(delay, np.ndarray) and delay.dtype.kind in "iu"
    return delay.astype(dtype) if is_whole else delay


def tau_to_decay(tau: ArrayLike, dt: float) -> Array:
    """The decay of one step, r = exp(-dt / tau) (paper, Eq. 2), in float64; tau = 0 gives 0, tau = inf gives 1.

    tau  any shape, seconds, >= 0        dt  seconds, > 0

    Warns where the median of the taus between 0 and infinity is so far from dt that a unit must be wrong.
    """
    tau, dt = np.asarray(tau, np.float64), checked_dt(dt)
    if not (tau >= 0).all():
        raise ValueError(f"tau: expected seconds >= 0, got {describe_values(tau)}")
    between = tau[(tau > 0) & (tau < inf)]
    if between.size:
        warn_of_units("tau", float(np.median(between)), dt)
    return decay_of(tau, dt)


def decay_of(tau: ArrayLike, dt: float) -> Array:
    """`tau_to_decay` of taus that were looked at before, or drawn."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(np.exp(-dt / np.asarray(tau, np.float64)))


def warn_of_units(name: str, tau: float, dt: float) -> None:
    """Warn of a tau that was hardly meant in seconds, or beside a dt that was not; 0 and infinity mean r = 0 and 1."""
    if is_unlikely(tau, dt):
        what = f"{tau:.6g} with dt={dt:.6g}, {tau / dt:.3g} steps"
        warnings.warn(f"{name}: expected seconds, as dt, got {what}; is one in milliseconds?", stacklevel=4)


def is_unlikely(tau: float, dt: float) -> bool:
    """Is a usual tau so many steps of dt, or so few, that one of the two is in another unit than meant?"""
    steps = tau / dt
    return tau < inf and ((steps > LONGEST_STEPS and tau > LONGEST_SECONDS) or 0 < steps < SHORTEST_STEPS)


def decay_to_tau(decay: ArrayLike, dt: float) -> Array:
    """The inverse of `tau_to_decay`: tau = -dt / log(r) in seconds, in float64; r = 0 gives 0, r = 1 gives inf."""
    decay, dt = np.asarray(decay, np.float64), checked_dt(dt)
    if not DECAY.holds(decay).all():
        hint = "after an optimiser step, clamp_() of the layer, or hetsyn_plugins.clamp_(net), brings them back"
        raise ValueError(f"decay: expected values in [0, 1], got {describe_values(decay)}; {hint}")
    with np.errstate(divide="ignore"):
        return np.asarray(dt / np.abs(np.log(decay)))


@dataclass(frozen=True, eq=False, repr=False)
class HetSynParams:
    """The parameters of one HetSynLIF layer, as read-only NumPy arrays of one dtype (float32 or float64).

    Fields, shapes and units: see `fields.py`. `spiking=False` is the leaky readout: no spike, no reset
    (`reset_decay=None`). The shapes given are kept. An array's own dtype must be the weight's; Python numbers and
    lists are taken in the weight's dtype; a decay may also be an initialiser (`hetsyn_plugins.core.initialisers`).
    `max_delay` is for how many steps the state keeps inputs and spikes, at least the longest delay; None: that.
    Masks are booleans, 0 and 1, or a sparse tensor; weights of absent synapses become 0.

    Raises ValueError naming the field, what was expected and what came.
    """

    weight: Any
    decay: Any
    _: KW_ONLY
    reset_decay: Any
    threshold: Any = 1.0
    recurrent_weight: Any = None
    recurrent_decay: Any = None
    adaptation_decay: Any = None
    adaptation_strength: Any = None
    bias: Any = None
    delay: Any = None
    recurrent_delay: Any = None
    mask: Any = None
    recurrent_mask: Any = None
    spiking: bool = True
    max_delay: Any = None

    def __post_init__(self) -> None:
        weight = as_array("weight", self.weight, None)
        arrays: dict[str, Any] = {"weight": weight}
        for name in NUMBERS[1:]:
            value = getattr(self, name)
            if callable(value):
                value = value(full_shape(name, weight)).astype(weight.dtype)
            value = in_steps(value, weight.dtype) if name in DELAYS else value
            arrays[name] = None if value is None else as_array(name, value, weight.dtype)
        for name in MASKS:
            value = getattr(self, name)
            arrays[name] = None if value is None else as_mask(name, value)
        object.__setattr__(self, "spiking", checked_bool("spiking", self.spiking))
        check_fields(arrays, self.spiking)
        check_values(arrays)
        arrays = without_absent(arrays)
        delays = {name: arrays[name] for name in DELAYS}
        has_delays = any(delay is not None for delay in delays.values())
        if not has_delays:
            check_no_max_delay(self.max_delay, "max_delay")
        object.__setattr__(self, "max_delay", checked_max_delay(self.max_delay, delays) if has_delays else 0)
        for name, array in arrays.items():
            if array is not None:
                array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def from_tau(
        cls,
        weight: ArrayLike,
        tau: ArrayLike,
        *,
        dt: float,
        reset_tau: ArrayLike | None,
        recurrent_tau: ArrayLike | None = None,
        adaptation_tau: ArrayLike | None = None,
        **others: Any,
    ) -> HetSynParams:
        """The same from time constants in seconds (0 to inf), in the shapes of the decays; `others` as in the class.

        r = exp(-dt / tau) is computed in float64 and rounded once to the weight's dtype.
        """
        dtype = as_array("weight", weight, None).dtype

        def decay(tau: ArrayLike | None) -> Array | None:
            return None if tau is None else tau_to_decay(tau, dt).astype(dtype)

        return cls(
            weight,
            decay(tau),
            reset_decay=decay(reset_tau),
            recurrent_decay=decay(recurrent_tau),
            adaptation_decay=decay(adaptation_tau),
            **others,
        )

    @classmethod
    def lif(cls, weight: ArrayLike, decay: ArrayLike, **others: Any) -> HetSynParams:
        """HomNeuLIF, the vanilla LIF (paper, Proposition 1): one decay () for synapses, recurrence and reset."""
        if np.ndim(decay) != 0:
            raise ValueError(f"decay: expected one number for a vanilla LIF, got shape {np.shape(decay)}")
        return cls._one_decay(weight, decay, **others)

    @classmethod
    def alif(
        cls,
        weight: ArrayLike,
        decay: ArrayLike,
        *,
        adaptation_decay: ArrayLike,
        adaptation_strength: ArrayLike,
        **others: Any,
    ) -> HetSynParams:
        """HomNeuALIF (paper, Proposition 2): a vanilla LIF plus the adaptation current."""
        adaptation = {"adaptation_decay": adaptation_decay, "adaptation_strength": adaptation_strength}
        return cls.lif(weight, decay, **adaptation, **others)

    @classmethod
    def neuron_heterogeneous(cls, weight: ArrayLike, decay: ArrayLike, **others: Any) -> HetSynParams:
        """HetNeuLIF (paper, Proposition 3): one decay a neuron, (N,), for its synapses, recurrence and reset."""
        if np.shape(decay) != np.shape(weight)[:1]:
            expected = np.shape(weight)[:1]
            raise ValueError(f"decay: expected one a neuron, shape {expected}, got shape {np.shape(decay)}")
        return cls._one_decay(weight, decay, **others)

    @classmethod
    def readout(cls, weight: ArrayLike, decay: ArrayLike, *, bias: ArrayLike | None = None) -> HetSynParams:
        """The leaky readout: v[t] = sum_j I_ij[t], no spike, no reset."""
        return cls(weight, decay, reset_decay=None, bias=bias, spiking=False)

    @classmethod
    def _one_decay(
        cls, weight: ArrayLike, decay: ArrayLike, *, recurrent_weight: ArrayLike | None = None, **others: Any
    ) -> HetSynParams:
        recurrent_decay = None if recurrent_weight is None else decay
        recurrent: dict[str, Any] = {"recurrent_weight": recurrent_weight, "recurrent_decay": recurrent_decay}
        return cls(weight, decay, reset_decay=decay, **recurrent, **others)

    def is_lif(self) -> bool:
        """Is this a vanilla LIF, v[t] = rho v[t-1] + W x[t] + U z[t-1] - theta z[t-1]?

        One decay everywhere, a reset, no adaptation, and no bias, unless nothing is remembered (every decay 0):
        the bias of a HetSyn layer is not filtered, that of a Linear in front of a LIF is.
        """
        return self.adaptation_decay is None and self._one_membrane() and self._one_value()

    def has_delays(self) -> bool:
        """Does a synapse take any of its inputs from an earlier step?"""
        return any((delay := getattr(self, name)) is not None and bool(delay.any()) for name in DELAYS)

    def refuse_delays(self, what: str) -> None:
        """Raise ValueError where the layer has delays: `what` holds none."""
        for name in DELAYS:
            delay = getattr(self, name)
            if delay is not None:
                hint = "without them it is another network: replace(delay=None, recurrent_delay=None), and train it"
                if not any(np.any(d) for d in (self.delay, self.recurrent_delay) if d is not None):
                    hint = "all are 0: replace(delay=None, recurrent_delay=None) is the same network"
                raise ValueError(f"{name}: expected None for {what}, got {describe_values(delay)} steps; {hint}")

    def is_alif(self) -> bool:
        """Is this a vanilla LIF plus the adaptation current?"""
        return self.adaptation_decay is not None and self._one_membrane() and self._one_value()

    def is_neuron_heterogeneous(self) -> bool:
        """Is this a HetNeuLIF: a LIF whose every neuron has one decay of its own (or a vanilla LIF)?"""
        return self.adaptation_decay is None and self._one_membrane()

    def _one_membrane(self) -> bool:
        """Do all currents of a neuron decay alike, so that their sum is one leaky membrane?"""
        if self.reset_decay is None:
            return False
        if self.has_delays():
            return False
        full = self.expanded()
        decays = [full.decay] if full.recurrent_decay is None else [full.decay, full.recurrent_decay]
        alike = all((d == full.reset_decay[:, None]).all() for d in decays)
        unfiltered = full.bias is not None and full.bias.any()
        return bool(alike and (not unfiltered or not full.reset_decay.any()))

    def _one_value(self) -> bool:
        return bool(np.all(self.reset_decay == np.ravel(self.reset_decay)[:1]))

    def tau(self, dt: float) -> Taus:
        """The time constants in seconds for a step of dt seconds, in float64 and in the decays' shapes."""
        decays = {name: getattr(self, name) for name in DECAYS}
        taus: dict[str, Any] = {name: None if r is None else decay_to_tau(r, dt) for name, r in decays.items()}
        return Taus(**taus)

    def expanded(self) -> HetSynParams:
        """The same layer with every shared field written out: (N, M), (N, N) and (N,)."""

        def full(name: str) -> Array | None:
            value = getattr(self, name)
            return None if value is None else expand(value, full_shape(name, self.weight))

        return self.replace(**{name: full(name) for name in ARRAYS})

    def with_decays_there(self) -> HetSynParams:
        """The same layer, where absent synapses have the decay of one that is there: on a chip each decay costs."""
        changes = {}
        for name, kind in MASKS.items():
            mask, decay = getattr(self, name), getattr(self, f"{kind}decay")
            if mask is not None and mask.any() and decay.shape == mask.shape:  # shared ones are there anyway
                changes[f"{kind}decay"] = np.where(mask, decay, decay[mask][0])
        return self.replace(**changes) if changes else self

    def replace(self, **changes: Any) -> HetSynParams:
        """A copy with some fields changed, validated anew; new delays set max_delay where there were none."""
        present = {**{f.name: getattr(self, f.name) for f in fields(self) if f.init}, **changes}
        has_delays = any(present[name] is not None for name in DELAYS)
        if "max_delay" not in changes and not (has_delays and self.max_delay):
            present["max_delay"] = None
        return type(self)(**present)

    def astype(self, dtype: Any) -> HetSynParams:
        """The same values in another floating dtype."""
        arrays = {name: getattr(self, name) for name in NUMBERS}
        return self.replace(**{name: None if a is None else a.astype(dtype) for name, a in arrays.items()})

    def __repr__(self) -> str:
        n, m = self.weight.shape
        arrays = {name: getattr(self, name) for name in ARRAYS[1:]}
        parts = [f"{name} {a.shape} {_span(a)}" for name, a in arrays.items() if a is not None]
        kind = "" if self.spiking else ", readout"
        return f"HetSynParams({m} -> {n}{kind}, {self.weight.dtype}, {', '.join(parts)})"


def _span(array: Array) -> str:
    """Its least and largest value for a repr, one of them where they read alike."""
    if array.size == 0:
        return "empty"
    least, most = f"{array.min():.4g}", f"{array.max():.4g}"
    return least if least == most else f"{least} to {most}"
