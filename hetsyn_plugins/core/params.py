"""The parameters and the state of one HetSynLIF layer: fields, shapes, units, validation, special cases.

Notation of the paper (Deng et al., "HetSyn", NeurIPS 2025), N neurons with M inputs each, step length dt:

    field                  symbol     shape                            unit
    weight                 w_ij       (N, M)                           threshold's
    decay                  r_ij       (N, M), or shared (below)        exp(-dt / tau), in [0, 1]
    recurrent_weight       u_ik       (N, N)                           threshold's
    recurrent_decay        p_ik       (N, N), or shared                exp(-dt / tau), in [0, 1]
    reset_decay            kappa_i    () or (N,); None: no reset       exp(-dt / tau), in [0, 1]
    threshold              theta_i    () or (N,)                       > 0
    adaptation_decay       rho_a,i    () or (N,)                       exp(-dt / tau), in [0, 1]
    adaptation_strength    a_i        () or (N,)                       threshold's
    bias                   b_i        (N,)                             threshold's, added to v every step, unfiltered

A decay is shared by its shape: () for the whole layer, (N,) or (N, 1) a neuron, (1, M) a presynaptic line.
Nothing here needs torch; the shape checks also serve torch tensors, because they use attributes and operators only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]

DECAYS = ("decay", "recurrent_decay", "reset_decay", "adaptation_decay")


def tau_to_decay(tau: ArrayLike, dt: float) -> Array:
    """The decay of one step, r = exp(-dt / tau) (paper, Eq. 2), in float64; tau = 0 gives 0, tau = inf gives 1.

    tau  any shape, seconds, >= 0        dt  seconds, > 0
    """
    tau, dt = np.asarray(tau, np.float64), checked_dt(dt)
    if not (tau >= 0).all():
        raise ValueError(f"tau: expected seconds >= 0, got {describe_values(tau)}")
    with np.errstate(divide="ignore", over="ignore"):
        return np.exp(-dt / tau)


def decay_to_tau(decay: ArrayLike, dt: float) -> Array:
    """The inverse of `tau_to_decay`: tau = -dt / log(r) in seconds, in float64; r = 0 gives 0, r = 1 gives inf."""
    decay, dt = np.asarray(decay, np.float64), checked_dt(dt)
    if not ((decay >= 0) & (decay <= 1)).all():
        raise ValueError(f"decay: expected values in [0, 1], got {describe_values(decay)}")
    with np.errstate(divide="ignore"):
        return np.asarray(dt / np.abs(np.log(decay)))


def checked_dt(dt: float | None) -> float:
    """Return dt, in seconds, or raise where it is missing, not finite or not positive."""
    if dt is None or not 0 < float(dt) < inf:
        raise ValueError(f"dt: expected a step length in seconds, finite and > 0, got {dt}")
    return float(dt)


class Taus(NamedTuple):
    """Time constants in seconds, in the shapes of the decays they belong to; None where there is no such decay."""

    decay: Array
    recurrent_decay: Array | None
    reset_decay: Array | None
    adaptation_decay: Array | None


class HetSynState(NamedTuple):
    """The state of a layer between two steps; NumPy arrays or torch tensors; None where the layer has no such part.

    current             I  (B, N, M)   synaptic currents
    recurrent_current   L  (B, N, N)   recurrent synaptic currents
    reset               J  (B, N)      reset current
    adaptation          A  (B, N)      adaptation current
    spikes              z  (B, N)      spikes of the last step: what recurrence, reset and adaptation see next
    v                      (B, N)      membrane of the last step: the next step does not depend on it
    """

    current: Any
    recurrent_current: Any = None
    reset: Any = None
    adaptation: Any = None
    spikes: Any = None
    v: Any = None


@dataclass(frozen=True, eq=False, repr=False)
class HetSynParams:
    """The parameters of one HetSynLIF layer, as read-only NumPy arrays of one dtype (float32 or float64).

    Fields, shapes and units: see the module's docstring. `spiking=False` is the leaky readout: no spike, no reset
    (`reset_decay=None`). The shapes given are kept. An array's own dtype must be the weight's; Python numbers and
    lists are taken in the weight's dtype; a decay may also be an initialiser (`hetsyn_plugins.core.initialisers`).

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
    spiking: bool = True

    def __post_init__(self) -> None:
        weight = as_array("weight", self.weight, None)
        given: dict[str, Any] = {"weight": weight}
        for name in ARRAYS[1:]:
            value = getattr(self, name)
            if callable(value):
                value = value(full_shape(name, weight)).astype(weight.dtype)
            given[name] = None if value is None else as_array(name, value, weight.dtype)
        check_fields(given, self.spiking)
        check_values(given)
        for name, array in given.items():
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
        full = self.expanded()
        decays = [full.decay] if full.recurrent_decay is None else [full.decay, full.recurrent_decay]
        alike = all((d == full.reset_decay[:, None]).all() for d in decays)
        unfiltered = full.bias is not None and full.bias.any()
        return bool(alike and (not unfiltered or not full.reset_decay.any()))

    def _one_value(self) -> bool:
        return bool(np.all(self.reset_decay == np.ravel(self.reset_decay)[:1]))

    def tau(self, dt: float) -> Taus:
        """The time constants in seconds for a step of dt seconds, in float64 and in the decays' shapes."""
        taus = {name: getattr(self, name) for name in DECAYS}
        found: dict[str, Any] = {name: None if r is None else decay_to_tau(r, dt) for name, r in taus.items()}
        return Taus(**found)

    def expanded(self) -> HetSynParams:
        """The same layer with every shared field written out: (N, M), (N, N) and (N,)."""

        def full(name: str) -> Array | None:
            value = getattr(self, name)
            return None if value is None else expand(name, value, full_shape(name, self.weight))

        return self.replace(**{name: full(name) for name in ARRAYS})

    def replace(self, **changes: Any) -> HetSynParams:
        """A copy with some fields changed, validated anew."""
        return type(self)(**{**{f.name: getattr(self, f.name) for f in fields(self) if f.init}, **changes})

    def astype(self, dtype: Any) -> HetSynParams:
        """The same values in another floating dtype."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return self.replace(**{name: None if a is None else a.astype(dtype) for name, a in arrays.items()})

    def __repr__(self) -> str:
        n, m = self.weight.shape
        parts = [f"{name} {getattr(self, name).shape}" for name in ARRAYS[1:] if getattr(self, name) is not None]
        kind = "" if self.spiking else ", readout"
        return f"HetSynParams({m} -> {n}{kind}, {self.weight.dtype}, {', '.join(parts)})"


ARRAYS = tuple(f.name for f in fields(HetSynParams) if f.init and f.name != "spiking")
NAMES = {name: name for name in ARRAYS}


def full_shape(name: str, weight: Any) -> tuple[int, ...]:
    """The shape of a field when nothing is shared, for a weight of shape (N, M)."""
    n, m = weight.shape
    return {"weight": (n, m), "decay": (n, m), "recurrent_weight": (n, n), "recurrent_decay": (n, n)}.get(name, (n,))


def expand(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """A field written out to its full shape; a one-dimensional decay of a synapse means one a neuron."""
    if len(shape) == 2 and value.ndim == 1:
        value = value[:, None]
    return np.broadcast_to(value, shape) if isinstance(value, np.ndarray) else value.expand(shape)


def as_array(name: str, value: Any, dtype: Any) -> Array:
    """A copy of the value as float32 or float64; `dtype` is that of the weight, None for the weight itself."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    typed = isinstance(value, np.ndarray)
    array = np.array(value, None if typed or dtype is None else dtype)
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name}: expected float32 or float64 numbers, got {array.dtype}")
    if dtype is not None and array.dtype != dtype:
        raise ValueError(f"{name}: expected the weight's dtype, {dtype}, got {array.dtype}")
    return array


def allowed_shapes(name: str, weight: Any) -> list[tuple[int, ...]]:
    """The shapes that a field may have beside a weight of shape (N, M)."""
    full = full_shape(name, weight)
    if name in ("weight", "recurrent_weight", "bias"):
        return [full]
    n = full[0]
    return [full, (), (n,), (n, 1), (1, full[1])] if len(full) == 2 else [full, ()]


def check_fields(given: Mapping[str, Any], spiking: bool, called: Mapping[str, str] = NAMES) -> None:
    """Raise ValueError unless the fields belong together and have shapes that fit the weight's (N, M).

    called  what the caller's arguments are called, field -> name
    """
    weight = given["weight"]
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"{called['weight']}: expected shape (N, M), got {tuple(weight.shape)}")
    if given["decay"] is None:
        raise ValueError(f"{called['decay']}: expected a number, an array or an initialiser, got None")
    for first, second in (("recurrent_weight", "recurrent_decay"), ("adaptation_decay", "adaptation_strength")):
        if (given[first] is None) != (given[second] is None):
            missing, present = (first, second) if given[first] is None else (second, first)
            raise ValueError(f"{called[missing]}: expected together with {called[present]}, got None")
    if given["threshold"] is None:
        raise ValueError(f"{called['threshold']}: expected a number > 0, got None")
    if not spiking:
        for name in ("reset_decay", "recurrent_weight", "adaptation_decay"):
            if given[name] is not None:
                why = "expected None where spiking=False (the readout has no spikes), got a value"
                raise ValueError(f"{called[name]}: {why}")
    for name in ARRAYS[1:]:
        value, allowed = given[name], allowed_shapes(name, weight)
        if value is not None and tuple(value.shape) not in allowed:
            shapes = " or ".join(dict.fromkeys(str(shape) for shape in allowed))
            beside = f"beside a weight of {tuple(weight.shape)}"
            raise ValueError(f"{called[name]}: expected shape {shapes} {beside}, got {tuple(value.shape)}")


def check_values(given: Mapping[str, Any], called: Mapping[str, str] = NAMES) -> None:
    """Raise ValueError unless decays lie in [0, 1], thresholds are > 0 and all numbers finite."""
    for name in ARRAYS:
        value = given[name]
        if value is None:
            continue
        if name in DECAYS:
            good, expected = (value >= 0) & (value <= 1), "decays in [0, 1]"
        elif name == "threshold":
            good, expected = (value > 0) & (value < inf), "finite values > 0"
        else:
            good, expected = abs(value) < inf, "finite values"
        if not good.all():
            raise ValueError(f"{called[name]}: expected {expected}, got {describe_values(value)}")


def describe_values(value: Any) -> str:
    """What came, in few words: the number itself or how many are NaN and the range of the rest."""
    array = as_plain(value)
    if array.size == 1:
        return str(array.item())
    nan = int(np.isnan(array).sum())
    rest = array[~np.isnan(array)]
    spread = f"values from {rest.min():.6g} to {rest.max():.6g}" if rest.size else "no number"
    return f"{spread} and {nan} NaN" if nan else spread


def as_plain(value: Any) -> Array:
    """A float64 NumPy view of an array or tensor, for messages."""
    return np.asarray(value.detach().double().cpu() if hasattr(value, "detach") else value, np.float64)


def state_shapes(given: Mapping[str, Any], spiking: bool, batch: int) -> dict[str, tuple[int, ...] | None]:
    """The shape of every field of a HetSynState for these parameters; None where the layer has no such part."""
    n, m = given["weight"].shape
    return {
        "current": (batch, n, m),
        "recurrent_current": None if given["recurrent_weight"] is None else (batch, n, n),
        "reset": None if given["reset_decay"] is None else (batch, n),
        "adaptation": None if given["adaptation_decay"] is None else (batch, n),
        "spikes": (batch, n) if spiking else None,
        "v": (batch, n),
    }


def check_state(state: Any, shapes: Mapping[str, tuple[int, ...] | None]) -> None:
    """Raise ValueError unless the state is a HetSynState of this layer and of the inputs' batch."""
    if not isinstance(state, HetSynState):
        raise ValueError(f"state: expected a HetSynState or None, got {type(state).__name__}")
    for name, shape in shapes.items():
        value = getattr(state, name)
        got = None if value is None else tuple(value.shape)
        if got != shape:
            raise ValueError(
                f"state.{name}: expected shape {shape}, got {got}; is the state another layer's or batch's?"
            )


def check_inputs_shape(inputs: Any, weight: Any) -> None:
    """Raise ValueError unless the inputs are (T, B, M) with the weight's M."""
    m = weight.shape[1]
    if inputs.ndim != 3 or inputs.shape[2] != m:
        raise ValueError(f"inputs: expected shape (T, B, {m}), time first, got {tuple(inputs.shape)}")
