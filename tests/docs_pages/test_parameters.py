"""docs/reference/parameters.md: each name and default of the table is the code's, and no field or state is missing."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("snntorch")
pytest.importorskip("norse")

import hetsyn_plugins
from hetsyn_plugins.adapters import norse, snntorch
from hetsyn_plugins.core.fields import FIELDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "parameters.md"
COLUMNS = ("what", "core", "snntorch", "norse", "slayer")
SHAPES = {"NM": "(N, M)", "NN": "(N, N)", "N": "(N,)"}


def rows(text: str) -> list[dict[str, str]]:
    """The rows of the first table, a column each."""
    table = text.split("\n\n| what it is |")[1].split("\n\n")[0].splitlines()[2:]
    return [dict(zip(COLUMNS, (cell.strip() for cell in line.strip("|").split("|")), strict=True)) for line in table]


def named(cell: str) -> list[tuple[str, str, str | None]]:
    """Whose, name and default of what a cell quotes: p.`v_th=1.0`."""
    quoted = re.findall(r"(\b[pn]\.)?`([\w.]+)(?:\(net\)|\(\))?(?:=([^`]+))?`", cell)
    return [(owner, name, default or None) for owner, name, default in quoted]


@functools.cache
def arguments(column: str, owner: str) -> dict[str, Any]:
    """All arguments of what a column speaks of, with their defaults."""
    if column == "slayer":
        from hetsyn_plugins.adapters.lava_dl import slayer

        classes = [slayer.Neuron] if owner else [slayer.Recurrent, slayer.Dense, slayer.Layer]
    else:
        classes = {
            "core": [hetsyn_plugins.hetsyn_lif],
            "snntorch": [snntorch.RHetSynLeaky, snntorch.HetSynLeaky],
            "norse": [norse.HetSynLIFParameters] if owner else [norse.HetSynLIFRecurrent],
        }[column]
    return {name: p.default for cls in classes for name, p in inspect.signature(cls).parameters.items()}


STATES = {
    "core": {name: f"state.{name}" for name in hetsyn_plugins.HetSynState._fields},
    "snntorch": {core.removeprefix("state."): name for core, name in snntorch.STATES.items()},
    "norse": {core: f"state.{name}" for name, core in norse.STATE_FIELDS.items()},
}
ELSEWHERE = {  # what is no argument: found by its own path
    "core": ("FluctuationDriven", "hetsyn_li", "hetsyn_lif_step", "hetsyn_lif_quantised", "Codebook"),
    "snntorch": ("spk", "snntorch.utils.reset"),
    "norse": ("HetSynLI", "Cell"),
    "slayer": ("synapse.weight", "recurrent_synapse.weight", "Affine", "block.reset"),
}


def faults(text: str, columns: tuple[str, ...]) -> list[str]:
    """Names and defaults of a page's table that the code does not have."""
    found = []
    for row in rows(text):
        for column in columns:
            for owner, name, default in named(row[column]):
                if name in ELSEWHERE[column] or name in STATES.get(column, {}).values():
                    continue
                known = arguments(column, owner)
                if name not in known:
                    found.append(f"{column}: {name}")
                elif default is not None and ast.literal_eval(default) != known[name]:
                    found.append(f"{column}: {name}={default}")
    return found


def present() -> tuple[str, ...]:
    return COLUMNS[1:] if importlib.util.find_spec("lava") else COLUMNS[1:-1]


def test_every_name_and_default_is_the_codes() -> None:
    assert faults(PAGE.read_text(), present()) == []


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [("`alpha=0.9`", "`rho=0.9`", "snntorch: rho"), ("p.`v_th=1.0`", "p.`v_th=2.0`", "norse: v_th=2.0")],
)
def test_a_wrong_name_or_default_is_seen(right: str, wrong: str, fault: str) -> None:
    assert faults(PAGE.read_text().replace(right, wrong), ("snntorch", "norse")) == [fault]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_has_its_row_with_symbol_shape_and_names(field: str) -> None:
    row = next(row for row in rows(PAGE.read_text()) if re.match(rf"`{field}(=\w+(\.\d)?)?`$", row["core"]))
    assert FIELDS[field].symbol in row["what"] and SHAPES[FIELDS[field].axes] in row["what"]
    assert [name for _, name, _ in named(row["snntorch"])] == [snntorch.FIELD_NAMES[field]]
    assert [name for _, name, _ in named(row["norse"])] == [norse.FIELD_NAMES[field]]


@pytest.mark.parametrize("state", hetsyn_plugins.HetSynState._fields)
def test_every_state_has_its_row(state: str) -> None:
    row = next(row for row in rows(PAGE.read_text()) if row["core"] == f"`state.{state}`")
    assert f"`{STATES['norse'][state]}`" in row["norse"]
    assert f"`{STATES['snntorch'].get(state, 'spk')}`" in row["snntorch"]
