"""Initialisers by themselves: what they refuse, and that driven weights give v the spread that they promise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hetsyn_plugins.core.initialisers import FluctuationDriven, UniformDelay, UniformTau

N, M = 4, 30
RATE, STEPS, DT = 0.3, 20, 1e-3


@pytest.mark.parametrize(
    ("fields", "own_rate", "strength"),
    [
        ({}, RATE, 0.0),
        ({"adaptation_decay": 0.95, "adaptation_strength": 0.2}, RATE, 0.2),
        ({"adaptation_decay": 0.95, "adaptation_strength": -0.2}, 0.02, 0.0),  # what pushes up holds nothing down
        ({"adaptation_decay": 0.95, "adaptation_strength": 0.2, "part": 0.25}, 0.02, 0.2),
    ],
)
def test_v_is_as_wide_as_what_it_has_to_reach(fields: dict[str, float], own_rate: float, strength: float) -> None:
    """Sums written out, term by term: E v = 0, and xi s.d.(v) is the threshold and what own spikes take away of it."""
    rng = np.random.default_rng(0)
    r, beta, theta, xi = rng.uniform(0.5, 0.99, (N, M)), rng.uniform(0.5, 0.99, N), rng.uniform(0.5, 2, N), 1.5
    driven = FluctuationDriven(RATE, xi, None if own_rate == RATE else own_rate, STEPS, generator=rng)
    weight = driven((N, M), decay=r, threshold=theta, reset_decay=beta, **fields)
    responses = sum(weight * r**s for s in range(STEPS))
    np.testing.assert_allclose(responses.sum(1), 0, atol=1e-12 * np.abs(responses).sum())
    variance = RATE * (1 - RATE) * sum((weight * r**s) ** 2 for s in range(STEPS)).sum(1)
    away = theta * sum(beta**s for s in range(STEPS)) + strength * sum(0.95**s for s in range(STEPS))
    expected = fields.get("part", 1.0) * ((theta + own_rate * away) / xi) ** 2
    np.testing.assert_allclose(variance, expected, rtol=1e-12)


@pytest.mark.parametrize("endless", [math.inf, float("inf"), np.float64("inf")])
def test_a_decay_of_one_gathers_without_end(endless: float) -> None:
    with pytest.raises(ValueError, match="steps: expected a finite number beside a decay of 1"):
        FluctuationDriven(RATE, steps=endless)((N, M), decay=1.0)


@pytest.mark.parametrize("rate", [0, 0.0, 1.0, -0.1, math.nan])
def test_an_own_rate_is_a_rate(rate: float) -> None:
    with pytest.raises(ValueError, match="own_rate: expected a number above 0 and below 1, or None, got"):
        FluctuationDriven(RATE, own_rate=rate)


@pytest.mark.parametrize("ends", [(-0.5, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
@pytest.mark.parametrize("kind", [lambda low, high: UniformTau(low, high, DT), UniformDelay], ids=["tau", "delay"])
def test_ends_are_in_order_and_no_time_is_negative(kind: Any, ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="low, high: expected 0 <= low <= high in s"):
        kind(*ends)
    assert 0 <= kind(0.0, 1.0)((100,), np.random.default_rng(0)).min()
