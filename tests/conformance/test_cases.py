"""Cases that leave no field out: a backend that has forgotten one must meet a layer that has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.conformance import cases, integers
from hetsyn_plugins.core.fields import DELAYS, FIELDS, MASKS
from hetsyn_plugins.fixed_point.neuron import HELD

PARTS_OF_A_LIF = {"reset_decay", "recurrent_weight", "recurrent_decay", *MASKS}
OTHERS = [name for name, field in FIELDS.items() if not field.required and name not in PARTS_OF_A_LIF]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_occurs_in_floats(name: str) -> None:
    values = [getattr(cases.draw(3, kind).params, name) for kind in cases.KINDS]
    assert any(value is not None and np.any(value) for value in values)


@pytest.mark.parametrize("name", HELD)
def test_every_field_occurs_in_integers(name: str) -> None:
    rng = np.random.default_rng(0)
    layers = [
        integers.draw_layer(rng, "a", 4, 3, **kind).params for kind in (*integers.KINDS, {"late": 4, "recurrent": True})
    ]
    assert any(getattr(params, name) is not None and np.any(getattr(params, name)) for params in layers)


@pytest.mark.parametrize("name", OTHERS)
def test_a_vanilla_lif_has_no_other_part(name: str) -> None:
    """What is no part of v = rho v + W x + U z - theta z makes another neuron of it."""
    beside = FIELDS[name].beside
    more: dict[str, Any] = {part: np.full(2, 0.5) for part in (name, beside) if part is not None}
    plain = HetSynParams.lif(np.ones((2, 3)), 0.9, recurrent_weight=np.ones((2, 2)))
    more = {part: value[:, None] if part in DELAYS else value for part, value in more.items()}
    assert plain.is_lif() and not plain.replace(**more).is_lif()
