"""From trained parameters to the integers nearest to them, and what that lost."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hetsyn_plugins.core.fields import DECAYS, DELAYS, STEPS
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.validation import describe_values
from hetsyn_plugins.fixed_point.neuron import (
    COUNTS,
    DECAY_ONE,
    DECAY_WORDS,
    EXPONENTS,
    FORMS,
    HELD,
    MANTISSA,
    MAX_DELAY,
    MAX_EXP,
    MAX_THRESHOLD,
    WEIGHT_MANTISSAS,
    WEIGHT_UNITS,
    FixedParams,
    Integers,
    checked_integers,
    checked_unit,
)


class Rounding(NamedTuple):
    """What rounding a layer to integers did.

    clipped_weights  weights that did not fit 8 bits and were set to the nearest that does (auto units: 0)
    clipped_taus     synapses whose tau 12 bits cannot hold, though it is neither 0 nor infinite: they became so
    weight_error     largest |weight - its rounded value| over the largest |weight|
    decay_error      largest |r - its rounded value|: at most 1 / 8192 where nothing was clipped
    """

    clipped_weights: int
    clipped_taus: int
    weight_error: float
    decay_error: float


def decay_to_word(decay: ArrayLike) -> Integers:
    """The decay word of r in [0, 1]: d = round(4096 (1 - r)), so that 0 and 4096 are exactly r = 1 and r = 0."""
    return np.rint(DECAY_ONE * (1.0 - np.asarray(decay, np.float64))).astype(np.int64)


def quantise(
    params: HetSynParams,
    *,
    form: str = "cluster",
    fraction: int | None = None,
    unit: float | None = None,
    clip: bool = False,
) -> tuple[FixedParams, Rounding]:
    """Round a layer to integers.

    unit   what one weight unit stands for; None: the largest that lets every weight fit, so that nothing is clipped
    clip   take the nearest value where a weight does not fit 8 bits or a tau 12 bits (r in (0, 1) that rounds to 0 or
           1); otherwise that raises ValueError with the number of them

    In the cluster form every distinct decay word is an accumulator: cluster the decays first (`clusters.py`). Delays
    are never rounded here: ValueError where they are not whole, or longer than an axon's 62 steps.
    """
    check_delays(params)
    params = params.with_decays_there()
    p = params.astype(np.float64).expanded()
    unit = _largest_unit(p) if unit is None else checked_unit(unit)
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    bits, form_fraction = FORMS[form]
    fraction = form_fraction if fraction is None else fraction
    fraction = int(checked_integers("fraction", fraction, (0, bits - 9), ()))
    integers = _integers(p, unit, fraction)
    if not p.spiking:
        integers["threshold"] = 1  # a readout's is never compared
    if not np.all(integers["threshold"]):
        raise ValueError(_lost_threshold(p, unit))
    fixed = FixedParams(**integers, spiking=p.spiking, form=form, fraction=fraction, unit=unit)
    report = rounding(params, fixed)
    if not clip:
        refuse_clipped(report)
    return fixed, report


def _integers(p: HetSynParams, unit: float, fraction: int) -> dict[str, Any]:
    """The fields of FixedParams that a layer has, clipped where they do not fit, with the exponents of its matrices."""
    integers: dict[str, Any] = {}
    for name in HELD:
        value, counts = getattr(p, name), COUNTS[name]
        if value is None:
            continue
        if counts == WEIGHT_MANTISSAS:
            mantissas, integers[EXPONENTS[name]] = _mantissas(value, unit)
            integers[name] = np.clip(mantissas, *MANTISSA)
        elif counts == DECAY_WORDS:
            integers[name] = decay_to_word(value)
        elif counts == STEPS:
            integers[name] = value
        else:
            integers[name] = np.rint(value / (unit if counts == WEIGHT_UNITS else unit / (1 << fraction)))
    return integers


def check_delays(params: HetSynParams) -> None:
    """Raise ValueError where integers cannot hold the delays of a layer as they are."""
    for name in DELAYS:
        delay = getattr(params, name)
        if delay is None:
            continue
        if (delay != np.rint(delay)).any():
            raise ValueError(
                f"{name}: expected whole steps for integers, got {describe_values(delay)}; round_delays_(net) makes "
                "them whole, which changes what the network does: look at its accuracy, or train on with them fixed"
            )
        if delay.max() > MAX_DELAY:
            raise ValueError(
                f"{name}: expected at most {MAX_DELAY} steps, as a chip's axons delay, got {delay.max():g}; train with "
                f"max_delay={MAX_DELAY}, or take longer steps (dt)"
            )


def _lost_threshold(p: HetSynParams, unit: float) -> str:
    """What to say of a threshold that would round to 0."""
    least = float(np.min(p.threshold))
    largest = max(float(np.abs(w).max()) for w in (p.weight, p.recurrent_weight) if w is not None)
    expected = f"threshold: expected more than half a weight unit of {unit:.3g}, got {least:.3g}"
    return f"{expected}; the largest weight is {largest:.3g}: give a smaller unit or bring that weight down"


def refuse_clipped(report: Rounding) -> None:
    """Raise ValueError where rounding had to clip."""
    weights, taus = "weights that do not fit 8 bits", "decays whose tau does not fit 12 bits"
    for count, what in ((report.clipped_weights, weights), (report.clipped_taus, taus)):
        if count:
            raise ValueError(
                f"params: expected values that a chip holds, got {count} {what}; clip=True takes the nearest"
            )


def rounding(params: HetSynParams, fixed: FixedParams) -> Rounding:
    """What became of a layer's numbers in integers made of it. A weight further than half its last bit was clipped."""
    p, rounded = params.astype(np.float64).expanded(), fixed.to_params()
    clipped_weights, weight_error, largest = 0, 0.0, 0.0
    for name, exponent in EXPONENTS.items():
        weight = getattr(p, name)
        if weight is not None:
            error = np.abs(weight - getattr(rounded, name))
            half = 0.5 * fixed.unit * (1 << getattr(fixed, exponent)) * (1 + 1e-9)
            clipped_weights += int((error > half).sum())
            weight_error = max(weight_error, float(error.max()))
            largest = max(largest, float(np.abs(weight).max()))
    decays = [getattr(p, name) for name in DECAYS if getattr(p, name) is not None]
    return Rounding(
        clipped_weights,
        sum(int(beyond_words(d).sum()) for d in decays),
        weight_error / (largest or 1.0),
        max(float(np.abs(d - (1 - decay_to_word(d) / DECAY_ONE)).max()) for d in decays),
    )


def beyond_words(decay: Any) -> Any:
    """Where the tau of a decay is neither 0 nor infinite, and 12 bits make it so."""
    return (decay_to_word(decay) % DECAY_ONE == 0) & (decay > 0) & (decay < 1)


def _largest_unit(p: HetSynParams) -> float:
    """The unit in which the smaller matrix fills 8 bits and the larger one 8 bits with an exponent of at most 7."""
    matrices = [w for w in (p.weight, p.recurrent_weight) if w is not None]
    largest = [float(np.abs(w).max()) for w in matrices if np.abs(w).max() > 0]
    if not largest:
        return 1.0 / 64
    exponent = min(MAX_EXP, int(np.log2(max(largest) / min(largest))))
    unit = max(largest) / (MANTISSA[1] << exponent)
    if p.spiking:  # a threshold far above every weight must fit too
        unit = max(unit, float(np.max(p.threshold)) / MAX_THRESHOLD)
    return unit


def _mantissas(weight: Any, unit: float) -> tuple[Any, int]:
    """Mantissas (not clipped) and the smallest exponent with which every weight fits 8 bits."""
    for exponent in range(MAX_EXP + 1):
        mantissas = np.rint(weight / (unit * (1 << exponent)))
        if mantissas.min() >= MANTISSA[0] and mantissas.max() <= MANTISSA[1]:
            break
    return mantissas, exponent
