"""What slayer's blocks compute with: integers of a form, straight through the rounding, or floats; a whole sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hetsyn_plugins.core.fields import ARRAYS
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import Surrogate, resolve
from hetsyn_plugins.fixed_point.neuron import EXPONENTS, FORMS, MANTISSA, FixedParams
from hetsyn_plugins.fixed_point.rounding import quantise
from hetsyn_plugins.ops import arguments, stack
from hetsyn_plugins.ops.straight_through import straight_through
from hetsyn_plugins.ops.trainable import Bounded, to_hetsyn_params

WEIGHT_STEP = 2  # weight units: slayer's 8-bit weights are even, a mantissa with exponent 1


@dataclass(frozen=True)
class Arithmetic:
    """How numbers are rounded: not at all, or as `fixed_point` does in a form, with 1 / scale as the weight unit."""

    quantised: bool = True
    form: str = "synapse"
    fraction: int | None = None
    scale: int = 1 << 6

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {self.form!r}")

    @property
    def state_unit(self) -> float:
        """What the last bit of a state is in float units."""
        return 1 / (self.scale << (FORMS[self.form][1] if self.fraction is None else self.fraction))

    @property
    def shares_accumulators(self) -> bool:
        """Whether synapses of a neuron with the same decay word have one current between them."""
        return self.quantised and self.form == "cluster"

    def fixed(self, params: HetSynParams) -> FixedParams:
        """A layer in integers, weights as slayer rounds them; what does not fit takes the nearest value that does."""
        unit = 1 / self.scale
        fixed, _ = quantise(params, form=self.form, fraction=self.fraction, unit=unit, clip=True)
        mantissas: dict[str, Any] = {}
        for name, exponent in EXPONENTS.items():
            weight = getattr(params, name)
            if weight is not None:
                even = np.rint(weight.astype(np.float64) / (WEIGHT_STEP * unit))
                mantissas |= {name: np.clip(even, *MANTISSA), exponent: 1}
        return fixed.replace(**mantissas)

    def bounded(self, weight: Tensor) -> Tensor:
        """Weights kept to 8 bits; beyond them only gradient that leads back."""
        low, high = (WEIGHT_STEP * m / self.scale for m in MANTISSA)
        kept: Tensor = Bounded.apply(weight, low, high)
        return kept


@dataclass(frozen=True)
class Scaled(Surrogate):
    """Another surrogate, `tau` times as wide and `scale` times as high: slayer's tau_grad and scale_grad."""

    surrogate: Surrogate
    tau: float
    scale: float

    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        return self.scale * self.surrogate.derivative(d / self.tau, threshold)

    def primitive(self, d: Any, threshold: Any = 1.0) -> Any:
        return self.scale * self.tau * self.surrogate.primitive(d / self.tau, threshold)


def time_first(x: Tensor, weight: Tensor) -> Tensor:
    """NCT or NCHWT -> (T, B, M), or ValueError where that is not what came."""
    m = weight.shape[1]
    if x.ndim not in (3, 5) or math.prod(x.shape[1:-1]) != m:
        raise ValueError(f"input: expected shape (B, {m}, T) or (B, C, H, W, T) of {m} neurons, got {tuple(x.shape)}")
    return x.flatten(1, -2).permute(2, 0, 1)


def like_input(out: Tensor, x: Tensor) -> Tensor:
    """(B, N, T) as NCHWT where x is."""
    return out if x.ndim == 3 else out[:, :, None, None, :]


def run_layer(
    x: Tensor,
    fields: Mapping[str, Any],
    spiking: bool,
    arithmetic: Arithmetic,
    *,
    surrogate: Surrogate | None = None,
    detach_reset: bool = False,
    state: Any = None,
    keep_state: bool = False,
    allow_overflow: bool = False,
) -> tuple[Tensor | None, Tensor, Any]:
    """Spikes and v (T, B, N) of inputs (T, B, M), and the state after them: in integers or in float."""
    surrogate = resolve(surrogate)
    if arithmetic.quantised:
        layer = arguments.checked_layer(fields, spiking, None, arguments.OP.names)
        fixed = arithmetic.fixed(to_hetsyn_params(layer._asdict(), spiking))
        return straight_through(
            fixed,
            arguments.checked_inputs(x, fields["weight"], None, arguments.OP),
            layer,
            surrogate=surrogate,
            detach_reset=detach_reset,
            state=state,
            keep_state=keep_state,
            allow_overflow=allow_overflow,
        )
    options = {"state": state, "surrogate": surrogate, "detach_reset": detach_reset}
    spikes, v, final_state = stack.run_layer(x, dict(fields), spiking, **options)
    return spikes, v, type(final_state)(*(None if part is None else part.detach() for part in final_state))


def currents(x: Tensor, weight: Tensor, decay: Tensor | None, arithmetic: Arithmetic, state: Any = None) -> Tensor:
    """What synapses bring to their neurons, summed, (B, N, T), of inputs (T, B, M): a readout without a bias.

    state   a readout's, to go on from. Integers that leave their bits wrap: the layer that they belong to counts them
    """
    fields = {**dict.fromkeys(ARRAYS), "weight": weight, "decay": decay, "threshold": 1.0}
    _, v, _ = run_layer(x, fields, False, arithmetic, state=state, allow_overflow=True)
    return v.permute(1, 2, 0)
