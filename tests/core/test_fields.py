"""The one table of fields against everything that lists them: classes, signatures, adapters, files, its own legend."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields as dataclass_fields
from importlib import import_module
from math import inf
from typing import Any, get_type_hints

import numpy as np
import pytest
from planting import caught, changed

from hetsyn_plugins.core import fields, params, validation
from hetsyn_plugins.core.fields import (
    ARRAYS,
    BOOLEAN,
    DECAY,
    DECAYS,
    DELAY,
    DELAYS,
    FIELDS,
    FINITE,
    MASKS,
    MATRICES,
    NUMBERS,
    PAIRS,
    POSITIVE,
    STATE,
)

N, M = 3, 4


def rows(legend: str, names: Any) -> dict[str, list[str]]:
    """The lines of a legend that begin with one of the names, cut where two blanks stand."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in legend.splitlines()]
    return {first: rest for first, *rest in cells if first in names}


# ---- the table itself ---------------------------------------------------------------------------------------------


def test_the_legend_is_the_table() -> None:
    """Field by field, in order: symbol, shapes, range and unit as the docstring of fields.py writes them."""
    legend = rows(str(fields.__doc__), FIELDS)
    assert list(legend) == list(FIELDS)
    ranges = {FINITE: "finite", POSITIVE: "> 0", DECAY: "[0, 1]", DELAY: ">= 0", BOOLEAN: "0 or 1"}
    for name, field in FIELDS.items():
        shape = "(" + ", ".join(field.axes) + (",)" if len(field.axes) == 1 else ")")
        if field.shared:
            shape += ", or shared" if len(field.axes) == 2 else " or ()"
        if not field.required:
            shape += ", or None"
        assert legend[name] == [field.symbol, shape, ranges[field.range], field.unit], name


def test_the_state_is_its_table() -> None:
    legend = rows(str(fields.HetSynState.__doc__), STATE)
    assert list(legend) == list(STATE) == list(fields.HetSynState._fields)
    for name, part in STATE.items():
        symbol, shape, _ = legend[name]
        assert (symbol, shape) == (part.symbol, f"({'D, ' if part.kept else ''}B, {', '.join(part.axes)})"), name
        assert part.needs in FIELDS or part.needs == "spiking"


def test_what_derives_from_the_table() -> None:
    """Names, pairs and shapes, written out once more here: the paper's layer as it is."""
    assert ARRAYS == (
        "weight", "decay", "reset_decay", "threshold", "recurrent_weight", "recurrent_decay", "adaptation_decay",
        "adaptation_strength", "bias", "delay", "recurrent_delay", "mask", "recurrent_mask",
    )  # fmt: skip
    assert DECAYS == ("decay", "recurrent_decay", "reset_decay", "adaptation_decay")
    assert set(DECAYS) == {name for name, field in FIELDS.items() if field.range is DECAY}
    assert DELAYS == ("delay", "recurrent_delay") and tuple(MASKS) == ("mask", "recurrent_mask")
    assert NUMBERS == tuple(name for name in ARRAYS if name not in MASKS)
    assert MATRICES == ("weight", "decay", "recurrent_weight", "recurrent_decay", *DELAYS, *MASKS)
    assert PAIRS == (("recurrent_weight", "recurrent_decay"), ("adaptation_decay", "adaptation_strength"))
    assert {name for name, field in FIELDS.items() if field.required} == {"weight", "decay", "threshold"}
    assert {name for name, field in FIELDS.items() if field.reads_spikes} == {
        "reset_decay", *PAIRS[0], *PAIRS[1], "recurrent_delay", "recurrent_mask"
    }  # fmt: skip
    assert {name: field.part_of for name, field in FIELDS.items() if field.part_of} == {
        "recurrent_delay": "recurrent_weight",
        "recurrent_mask": "recurrent_weight",
    }
    for one, field in FIELDS.items():
        assert field.beside is None or FIELDS[field.beside].beside == one
    shapes = {name: fields.full_shapes(N, M)[field.axes] for name, field in FIELDS.items()}
    assert [shapes[name] for name in MATRICES] == [(N, M), (N, M), *[(N, N), (N, N)], *[(N, M), (N, N)] * 2]
    assert {shapes[name] for name in ARRAYS if name not in MATRICES} == {(N,)}
    assert [field.symbol for field in FIELDS.values()] == [
        "w_ij", "r_ij", "kappa_i", "theta_i", "u_ik", "p_ik", "rho_i", "a_i", "b_i", "d_ij", "e_ik", "c_ij", "h_ik",
    ]  # fmt: skip


def check_limits(fields_module: Any, dtype: Any) -> None:
    """What each range holds on both sides of its limits."""
    tiny, most = np.finfo(dtype).tiny, np.finfo(dtype).max
    above, below = np.nextafter(dtype(1), dtype(2)), np.nextafter(dtype(0), dtype(-1))
    held = {
        "decays": (fields_module.DECAY, [0.0, -0.0, tiny, 1.0], [below, above, -1.0, inf, np.nan]),
        "thresholds": (fields_module.POSITIVE, [tiny, 1.0, most], [0.0, -0.0, -1.0, inf, np.nan]),
        "delays": (fields_module.DELAY, [0.0, -0.0, tiny, 1.5, 1e6], [below, -1.0, inf, np.nan]),
        "weights": (fields_module.FINITE, [0.0, -most, most], [inf, -inf, np.nan]),
    }
    for what, (allowed, inside, outside) in held.items():
        assert allowed.holds(np.array(inside, dtype)).all(), f"{what} on their limits"
        assert not allowed.holds(np.array(outside, dtype)).any(), f"{what} beyond their limits"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranges_on_both_sides_of_their_limits(dtype: Any) -> None:
    check_limits(fields, dtype)


LIMIT_BUGS = [
    ("r = 0 is refused", "(values >= self.least)", "(values > self.least)", "decays on their limits"),
    (
        "r just above 1 is taken",
        "DECAY = Range(0.0, 1.0, True",
        "DECAY = Range(0.0, 1.0001, True",
        "decays beyond their limits",
    ),
    (
        "a threshold of 0 is taken",
        "POSITIVE = Range(0.0, inf, F",
        "POSITIVE = Range(-1e-9, inf, F",
        "thresholds beyond",
    ),
    ("infinite weights are taken", "FINITE = Range(-inf, inf, F", "FINITE = Range(-inf, inf, not F", "weights beyond"),
]


@pytest.mark.parametrize(("name", "old", "new", "says"), LIMIT_BUGS, ids=[bug[0] for bug in LIMIT_BUGS])
def test_planted_limits_are_caught(name: str, old: str, new: str, says: str) -> None:
    module = changed(fields.__name__, old, new)[fields.__name__]
    with caught(says):
        check_limits(module, np.float64)


# ---- whoever lists the fields -------------------------------------------------------------------------------------


def test_the_parameters_have_every_field_in_this_order() -> None:
    names = [field.name for field in dataclass_fields(params.HetSynParams) if field.init]
    assert names == [*ARRAYS, "spiking", "max_delay"]
    optional = {field.name for field in dataclass_fields(params.HetSynParams) if field.default is None}
    # a reset is never left out unsaid
    expected = {name for name, field in FIELDS.items() if not field.required} - {"reset_decay"} | {"max_delay"}
    assert optional == expected
    assert tuple(get_type_hints(fields.Taus)) == DECAYS


@pytest.mark.parametrize("module", ["hetsyn_plugins.kernels.interface"])
def test_kernels_take_every_field_in_this_order(module: str) -> None:
    tensors = import_module(module).LayerTensors
    of_codebook = ("decay_index", "recurrent_decay_index", "codebook")  # which a kernel may leave alone
    assert tensors._fields == (*ARRAYS, *of_codebook)
    # what a kernel may do without: all that a layer may, and the threshold of a readout
    optional = {name for name, field in FIELDS.items() if not field.required}
    assert set(tensors._field_defaults) == {*optional, "threshold", *of_codebook}


@pytest.mark.parametrize("name", ["lif.hetsyn_lif", "lif.hetsyn_lif_step", "straight_through.hetsyn_lif_quantised"])
def test_the_op_takes_every_field_in_this_order(name: str) -> None:
    module, _, function = name.partition(".")
    parameters = inspect.signature(getattr(import_module(f"hetsyn_plugins.ops.{module}"), function)).parameters
    assert [p for p in parameters if p in FIELDS] == list(ARRAYS)
    defaults = {p: parameters[p].default for p in ARRAYS if parameters[p].default is not inspect.Parameter.empty}
    optional = {p for p, field in FIELDS.items() if not field.required} - {"reset_decay"}
    assert defaults == {**dict.fromkeys(optional), "threshold": 1.0}


@pytest.mark.parametrize(
    ("module", "table", "missing"),
    [
        ("snntorch", "FIELD_NAMES", ()),
        ("norse", "FIELD_NAMES", ()),
        ("norse", "HetSynLIFParameters.names", ("weight", "recurrent_weight")),  # which the cells have
    ],
)
def test_adapters_name_every_field(module: str, table: str, missing: tuple[str, ...]) -> None:
    pytest.importorskip({"norse": "norse.torch"}.get(module, module))
    names: Any = import_module(f"hetsyn_plugins.adapters.{module}")
    for part in table.split("."):
        names = getattr(names, part)
    assert {*names, *missing} == set(FIELDS) and not set(names) & set(missing)
    assert len(set(names.values())) == len(names)


def test_slayers_neuron_and_synapse_share_the_fields() -> None:
    pytest.importorskip("lava.lib.dl.slayer")
    slayer = import_module("hetsyn_plugins.adapters.lava_dl.slayer")
    of_a_neuron = {name for name, field in FIELDS.items() if field.axes == "N"}
    assert set(slayer.Neuron.names) == of_a_neuron
    assert set(slayer.Synapse.names) == {"decay"}  # of inputs, or in a second synapse of recurrent lines
    block = slayer.Recurrent({"threshold": 1.0}, 2, 3)
    assert set(block.fields()) == set(FIELDS)


# ---- names of before ----------------------------------------------------------------------------------------------


def test_params_offers_what_stood_there_once() -> None:
    """The public names of the module `hetsyn_plugins.params` before it was split."""
    names = """ARRAYS Array DECAYS HetSynParams HetSynState NAMES Taus allowed_shapes as_array as_plain check_fields
        check_inputs_shape check_state check_values checked_dt decay_to_tau describe_values expand full_shape
        state_shapes tau_to_decay""".split()
    assert sorted(params.__all__) == names
    assert import_module("hetsyn_plugins.params") is params
    assert params.NAMES == {name: name for name in FIELDS} and params.check_fields is validation.check_fields


def test_a_check_calls_things_as_its_caller_does() -> None:
    """Names that the caller does not give are ours."""
    layer = {**dict.fromkeys(ARRAYS), "weight": np.ones((N, M)), "decay": np.array(0.5), "threshold": np.array(-1.0)}
    with pytest.raises(ValueError, match=r"^v_th: expected finite values > 0, got -1\.0$"):
        validation.check_values(layer, {"threshold": "v_th"})
    with pytest.raises(ValueError, match=r"^threshold: expected finite values > 0"):
        validation.check_values(layer, {})
    with pytest.raises(ValueError, match=r"^rec: expected together with recurrent_decay, got None"):
        validation.check_fields({**layer, "recurrent_decay": np.array(0.5)}, True, {"recurrent_weight": "rec"})
    value, shapes = np.zeros((2, N, M + 1)), validation.state_shapes(layer, True, 2)
    for names, argument in (({"state.current": "syn"}, "syn"), ({}, "state.current"), (None, "state.current")):
        with pytest.raises(ValueError, match=rf"^{argument}: expected shape \(2, 3, 4\), got \(2, 3, 5\)"):
            validation.check_part(names, "current", value, shapes["current"])
