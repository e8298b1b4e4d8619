"""A failing case made as small as it goes: fewer steps, rows, neurons and lines, no options, round numbers.

What is tried follows from the case alone, so that the same backend gets the same smallest case. A case that stayed
clear of the threshold must go on doing so, or rounding could be what fails in the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from hetsyn_plugins.conformance.cases import Backend, Case, OutputGradients, clear_of_threshold
from hetsyn_plugins.conformance.comparison import Tally, compare
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import ARRAYS, DELAYS, FIELDS, MASKS, NUMBERS, PAIRS, STATE, HetSynState
from hetsyn_plugins.core.surrogate import MultiGaussian

MOST_RUNS = 300  # of a backend, for one failure
AXES = "TBNM"
Fails = Callable[[Case], bool]


def error_of(backend: Backend, case: Case) -> BaseException | None:
    """What goes wrong with this case alone, compared with the reference; None: nothing."""
    try:
        compare(backend, copy.deepcopy(case), Tally())
    except (Exception, SystemExit) as error:
        return error
    return None


def smallest(backend: Backend, case: Case) -> tuple[Case, BaseException] | None:
    """The smallest case found that fails as this one does, and its error; None where this one does not fail alone."""
    first = error_of(backend, case)
    if first is None:
        return None
    clear, runs = _clear(case), 0

    def fails(candidate: Case) -> bool:
        nonlocal runs
        runs += 1
        if runs > MOST_RUNS or (clear and not _clear(candidate)):
            return False
        return type(error_of(backend, candidate)) is type(first)

    before = None
    while before is not case and runs <= MOST_RUNS:
        before = case
        case = _first_that_fails(case, without_options, fails)
        for axis in AXES if case.convolution is None else "TB":
            case = _fewer(case, axis, fails)
        if case.convolution is None:
            case = _first_that_fails(case, lines_alone, fails)
        if clear:  # at the threshold the numbers are what matters
            case = _first_that_fails(case, rounder, fails)
    return case, error_of(backend, case) or first


def _clear(case: Case) -> bool:
    spikes, v, _ = reference.run(case.params, case.inputs, case.state)
    return clear_of_threshold(case, spikes, v)


def _first_that_fails(case: Case, candidates: Callable[[Case], Iterator[Case]], fails: Fails) -> Case:
    """Take the first candidate that fails, and go on from it, until none does."""
    while True:
        found = next((candidate for candidate in candidates(case) if fails(candidate)), None)
        if found is None:
            return case
        case = found


def _fewer(case: Case, axis: str, fails: Fails) -> Case:
    """Leave out what goes of an axis: halves first, then ever smaller parts, single ones in the end."""
    size = sizes(case)[axis]
    part = size // 2
    while part:
        start = 0
        while start < size > 1:
            keep = np.r_[0:start, min(start + part, size) : size]
            candidate = chosen(case, axis, keep) if len(keep) else case
            if len(keep) and fails(candidate):
                case, size = candidate, len(keep)
            else:
                start += part
        part //= 2
    return case


def sizes(case: Case) -> dict[str, int]:
    """Steps, rows, neurons and lines."""
    n, m = case.params.weight.shape
    return {"T": len(case.inputs), "B": case.inputs.shape[1], "N": n, "M": m}


def chosen(case: Case, axis: str, keep: Any) -> Case:
    """The case with these indices of an axis only, in all that has it."""
    size = sizes(case)[axis]

    def of(array: Any, axes: str) -> Any:
        for at, letter in enumerate(axes[: np.ndim(array)] if array is not None else ""):
            if letter == axis and array.shape[at] == size:  # not where it is shared
                array = np.take(array, keep, at)
        return array

    def of_state(state: HetSynState | None) -> HetSynState | None:
        if state is None:
            return None
        axes = {name: f"{'D' if part.kept else ''}B{part.axes}" for name, part in STATE.items()}
        return HetSynState(**{name: of(getattr(state, name), axes[name]) for name in STATE})

    gradients = case.output_gradients
    if gradients is not None:
        gradients = OutputGradients(of(gradients.spikes, "TBN"), of(gradients.v, "TBN"), of_state(gradients.state))
    return replace(
        case,
        params=case.params.replace(**{name: of(getattr(case.params, name), FIELDS[name].axes) for name in ARRAYS}),
        inputs=of(case.inputs, "TBM"),
        state=of_state(case.state),
        output_gradients=gradients,
    )


def without_options(case: Case) -> Iterator[Case]:
    """The case with one option less: gradients, a first state, parts of the layer, float32, a surrogate."""
    gradients = case.output_gradients
    if gradients is not None:
        yield replace(case, output_gradients=None, surrogate=MultiGaussian(), detach_reset=False)
        if gradients.state is not None:
            yield replace(case, output_gradients=replace(gradients, state=None))
        if case.surrogate != MultiGaussian():
            yield replace(case, surrogate=MultiGaussian())
        if case.detach_reset:
            yield replace(case, detach_reset=False)
    if case.state is not None:
        yield replace(case, state=None)
    if case.codebook:
        yield replace(case, codebook=False)
    if case.convolution is not None:
        yield replace(case, convolution=None)
    parts = [*((name,) for name in (*DELAYS, *MASKS)), *PAIRS, ("bias",), ("reset_decay",)]
    for part in parts:
        if getattr(case.params, part[0]) is not None:
            yield without_part(case, part)
    if case.params.weight.dtype != np.float64:
        yield astype(case, np.float64)


def astype(case: Case, dtype: Any) -> Case:
    """The case in another dtype: the same numbers."""

    def of(array: Any) -> Any:
        return None if array is None else array.astype(dtype)

    def of_state(state: HetSynState | None) -> HetSynState | None:
        return None if state is None else HetSynState(*map(of, state))

    gradients = case.output_gradients
    if gradients is not None:
        gradients = OutputGradients(of(gradients.spikes), of(gradients.v), of_state(gradients.state))
    params, state = case.params.astype(dtype), of_state(case.state)
    return replace(case, params=params, inputs=of(case.inputs), state=state, output_gradients=gradients)


def without_part(case: Case, fields: tuple[str, ...]) -> Case:
    """The case of a layer that lacks these fields, what is a part of them, and what of its states goes with them."""
    fields = (*fields, *(name for name, field in FIELDS.items() if field.part_of in fields))
    gone = {name: None for name, part in STATE.items() if part.needs in fields}
    gradients = case.output_gradients
    if gradients is not None and gradients.state is not None:
        gradients = replace(gradients, state=gradients.state._replace(**gone))
    return replace(
        case,
        params=case.params.replace(**dict.fromkeys(fields)),
        state=None if case.state is None else case.state._replace(**gone),
        output_gradients=gradients,
    )


def lines_alone(case: Case) -> Iterator[Case]:
    """One line, stronger: several may have been needed to fire."""
    lines = sizes(case)["M"]
    for line in range(lines if lines > 1 else 0):
        alone = chosen(case, "M", [line])
        for factor in (2, 4):
            yield replace(alone, params=alone.params.replace(weight=factor * alone.params.weight))


def rounder(case: Case) -> Iterator[Case]:
    """The case with simpler numbers: whole ones where it goes, else of one digit or two."""
    for digits in (0, 1, 2):
        for names in [[*NUMBERS, "inputs"], *([name] for name in (*NUMBERS, "inputs"))]:
            yield from _rounded(case, names, digits)


def _rounded(case: Case, names: list[str], digits: int) -> Iterator[Case]:
    """The case with these arrays rounded, where that changes anything and a layer may have them."""
    arrays = {name: case.inputs if name == "inputs" else getattr(case.params, name) for name in names}
    new = {name: np.round(array, digits) for name, array in arrays.items() if array is not None}
    new = {name: array for name, array in new.items() if not np.array_equal(array, arrays[name])}
    if new and all(FIELDS[name].range.holds(array).all() for name, array in new.items() if name in FIELDS):
        inputs = new.pop("inputs", case.inputs)
        yield replace(case, params=case.params.replace(**new), inputs=inputs)
