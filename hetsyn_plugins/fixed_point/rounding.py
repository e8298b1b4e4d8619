"""From trained parameters to the integers nearest to them, and what that lost."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.fixed_point.neuron import (
    DECAY_ONE,
    FORMS,
    MANTISSA,
    MAX_EXP,
    MAX_THRESHOLD,
    FixedParams,
    Integers,
    _checked_unit,
    _within,
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

    In the cluster form every distinct decay word is an accumulator: cluster the decays first (`clusters.py`).
    """
    p = params.astype(np.float64).expanded()
    matrices = [w for w in (p.weight, p.recurrent_weight) if w is not None]
    unit = _largest_unit(p, matrices) if unit is None else _checked_unit(unit)
    (weight, weight_exp), *loop = (_mantissas(w, unit) for w in matrices)
    recurrent_weight, recurrent_exp = loop[0] if loop else (None, 0)
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    bits, own_fraction = FORMS[form]
    fraction = int(_within("fraction", own_fraction if fraction is None else fraction, (0, bits - 9), ()))
    state_unit = unit / (1 << fraction)

    def constant(value: Any, scale: float) -> Any:
        return None if value is None else np.rint(value / scale)

    fixed = FixedParams(
        np.clip(weight, *MANTISSA),
        decay_to_word(p.decay),
        weight_exp=weight_exp,
        reset_decay=None if p.reset_decay is None else decay_to_word(p.reset_decay),
        threshold=np.rint(p.threshold / unit) if p.spiking else 1,
        recurrent_weight=None if recurrent_weight is None else np.clip(recurrent_weight, *MANTISSA),
        recurrent_decay=None if p.recurrent_decay is None else decay_to_word(p.recurrent_decay),
        recurrent_exp=recurrent_exp,
        adaptation_decay=None if p.adaptation_decay is None else decay_to_word(p.adaptation_decay),
        adaptation_strength=constant(p.adaptation_strength, state_unit),
        bias=constant(p.bias, state_unit),
        spiking=p.spiking,
        form=form,
        fraction=fraction,
        unit=unit,
    )
    found = rounding(params, fixed)
    if not clip:
        refuse_clipped(found)
    return fixed, found


def refuse_clipped(found: Rounding) -> None:
    """Raise ValueError where rounding had to clip."""
    weights, taus = "weights that do not fit 8 bits", "decays whose tau does not fit 12 bits"
    for count, what in ((found.clipped_weights, weights), (found.clipped_taus, taus)):
        if count:
            raise ValueError(
                f"params: expected values that a chip holds, got {count} {what}; clip=True takes the nearest"
            )


def rounding(params: HetSynParams, fixed: FixedParams) -> Rounding:
    """What became of a layer's numbers in integers made of it. A weight further than half its last bit was clipped."""
    p, rounded = params.astype(np.float64).expanded(), fixed.to_params()
    matrices = [(p.weight, rounded.weight, fixed.weight_exp)]
    if p.recurrent_weight is not None:
        matrices.append((p.recurrent_weight, rounded.recurrent_weight, fixed.recurrent_exp))
    decays = [d for d in (p.decay, p.recurrent_decay, p.reset_decay, p.adaptation_decay) if d is not None]
    off = [np.abs(before - after) for before, after, _ in matrices]
    half = [0.5 * fixed.unit * (1 << exponent) * (1 + 1e-9) for _, _, exponent in matrices]
    return Rounding(
        sum(int((o > h).sum()) for o, h in zip(off, half, strict=True)),
        sum(int(((decay_to_word(d) % DECAY_ONE == 0) & (d > 0) & (d < 1)).sum()) for d in decays),
        max(float(o.max()) for o in off) / (max(float(np.abs(w).max()) for w, _, _ in matrices) or 1.0),
        max(float(np.abs(d - (1 - decay_to_word(d) / DECAY_ONE)).max()) for d in decays),
    )


def _largest_unit(p: HetSynParams, matrices: list[Any]) -> float:
    """The unit in which the smaller matrix fills 8 bits and the larger one 8 bits with an exponent of at most 7."""
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
