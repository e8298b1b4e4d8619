"""What a failure shows: the smallest failing case, where it differs first, and code that runs it again."""

from __future__ import annotations

import copy
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hetsyn_plugins.conformance import shrinking
from hetsyn_plugins.conformance.cases import Backend, Case, Mismatch, Outcome, rounding_bound
from hetsyn_plugins.conformance.comparison import Tally, expected, tolerance
from hetsyn_plugins.core.fields import ARRAYS, HetSynState
from hetsyn_plugins.core.surrogate import MultiGaussian

Check = Callable[[Backend], Tally]


@dataclass(frozen=True)
class Place:
    """The first step, row and neuron at which spikes or v differ, what should come there and what came.

    v       the reference's, and what came
    margin  its distance from the threshold in units of what rounding can move it; None for a readout
    """

    step: int
    row: int
    neuron: int
    spikes: tuple[float, float] | None
    v: tuple[float, float]
    threshold: float | None
    margin: float | None

    def __str__(self) -> str:
        at = f"step {self.step}, row {self.row}, neuron {self.neuron}"
        v = f"v expected {self.v[0]:.9g}, got {self.v[1]:.9g}"
        if self.spikes is None:
            return f"{at}: {v}"
        return f"{at}: spike expected {self.spikes[0]:g}, got {self.spikes[1]:g}; {v}\n{self._distance()}"

    def _distance(self) -> str:
        assert self.threshold is not None
        distance = self.v[0] - self.threshold
        if distance == 0:
            return f"v belongs at the threshold {self.threshold:.9g}, to the bit, where nothing fires"
        side = "above" if distance > 0 else "below"
        endless = self.margin == float("inf")
        times = "where rounding moves nothing" if endless else f"{self.margin:.2g} times what rounding can move it"
        return f"v belongs {abs(distance):.3g} {side} the threshold {self.threshold:.9g}, {times}"


@dataclass(frozen=True)
class Failure:
    """What the smallest failing case shows.

    says     what goes wrong with it
    case     None where no single case fails: the check compares runs with each other
    place    None where spikes and v are as they should be, or did not come
    snippet  code that runs it again, and raises what it raised
    """

    says: str
    case: Case | None
    place: Place | None
    snippet: str

    def __str__(self) -> str:
        lines = [self.says]
        if self.case is not None:
            t, b, n, m = shrinking.sizes(self.case).values()
            sizes = f"T {t}, B {b}, N {n}, M {m}, {self.case.params.weight.dtype}"
            lines = [f"smallest failing case ({sizes}): {self.says}"]
        if self.place is not None:
            lines.append(f"first difference at {self.place}")
        return "\n".join([*lines, "to run it again:", textwrap.indent(self.snippet, "    ")])


def watched(backend: Backend, seen: list[Case]) -> Backend:
    """The backend, which notes its last case in `seen` and gives an Outcome of arrays, or raises TypeError."""

    def run(case: Case) -> Outcome:
        seen[:] = [copy.deepcopy(case)]  # before somebody writes to it
        return _checked(backend.run(case))

    return replace(backend, run=run, origin=backend.origin or _global(backend))


def _global(backend: Backend) -> str:
    """Where a backend can be imported: the module of its function, if it has it by a name; else nothing."""
    module = sys.modules.get(getattr(getattr(backend.run, "func", backend.run), "__module__", ""))
    names = [name for name, value in vars(module).items() if _is(value, backend)] if module else []
    return f"{module.__name__}:{names[0]}" if module and names and module.__name__ != "__main__" else ""


def _is(value: Any, backend: Backend) -> bool:
    """Is this the backend, but for what somebody replaced in it?"""
    return isinstance(value, Backend) and value.run is backend.run and value.name == backend.name


def _checked(outcome: Any) -> Outcome:
    if not isinstance(outcome, Outcome):
        raise TypeError(f"run: expected an Outcome, got {type(outcome).__name__}")
    parts = {"spikes": outcome.spikes, "v": outcome.v}
    if outcome.state is not None:
        parts |= {f"state.{name}": part for name, part in outcome.state._asdict().items()}
    if outcome.gradients is not None:
        parts |= {f"gradients.params[{name!r}]": part for name, part in outcome.gradients.params.items()}
        parts["gradients.inputs"] = outcome.gradients.inputs
    for name, value in parts.items():
        if not isinstance(value, np.ndarray) and (name == "v" or value is not None):
            raise TypeError(f"Outcome.{name}: expected a NumPy array, got {type(value).__name__}")
    return outcome


def result_of(check: Check, name: str, backend: Backend) -> Tally | Mismatch:
    """What came of a check; a Mismatch has its failure explained. A crash is a Mismatch too."""
    seen: list[Case] = []
    backend = watched(backend, seen)
    try:
        return check(backend)
    except Mismatch as error:
        mismatch = error
    except (Exception, SystemExit) as error:  # a crash of one backend must not hide the others, nor end them
        mismatch = Mismatch(f"{type(error).__name__}: {error}")
        mismatch.__cause__ = error
    mismatch.failure = explained(backend, name, seen)
    return mismatch


def explained(backend: Backend, check: str, seen: list[Case]) -> Failure:
    """What the case that was run last shows, made small."""
    last = replace(seen[-1], label="smallest failing case") if seen else None
    found = None if last is None else shrinking.smallest(backend, last)
    if found is None:
        says = "no single case fails alone: the check compares runs, or the backend remembers earlier ones"
        return Failure(says, None, None, check_again(backend, check))
    case, error = found
    crash = "" if isinstance(error, Mismatch) else f"{type(error).__name__}: "
    says = crash + str(error).removeprefix(f"{case.label}: ")
    return Failure(says, case, place_of(backend, case), case_again(backend, case))


def place_of(backend: Backend, case: Case) -> Place | None:
    """Where spikes or v differ first; None where they do not, or have another shape."""
    want = expected(replace(copy.deepcopy(case), output_gradients=None))
    try:
        got = backend.run(copy.deepcopy(case))
    except (Exception, SystemExit):  # it is what goes wrong: nothing came
        return None
    shapes = [None if outcome.spikes is None else outcome.spikes.shape for outcome in (got, want)]
    if got.v.shape != want.v.shape or shapes[0] != shapes[1]:
        return None
    differs = ~(np.abs(got.v - want.v) <= tolerance(case) * np.maximum(1.0, np.abs(want.v)))
    if want.spikes is not None and got.spikes is not None:
        differs |= ~(got.spikes == want.spikes)
    if not differs.any():
        return None
    t, b, n = (int(index) for index in np.argwhere(differs)[0])
    v = (float(want.v[t, b, n]), float(got.v[t, b, n]))
    if want.spikes is None or got.spikes is None:
        return Place(t, b, n, None, v, None, None)
    threshold = float(np.broadcast_to(case.params.threshold, want.v.shape[2:])[n])
    bound = float(rounding_bound(case, want.spikes)[t, b, n])
    distance = abs(v[0] - threshold)
    margin = distance / bound if bound else float("inf")
    return Place(t, b, n, (float(want.spikes[t, b, n]), float(got.spikes[t, b, n])), v, threshold, margin)


# ---- code ---------------------------------------------------------------------------------------------------------


def check_again(backend: Any, check: str) -> str:
    """Code that runs a check over the backend, which may be one of integers."""
    head = "from hetsyn_plugins.testing import load_backend, run_check\n\n"
    return f'{head}{_loaded(backend)}\nrun_check(backend, "{check}")\n'


def case_again(backend: Backend, case: Case) -> str:
    """Code that runs a case and compares it with the reference."""
    names = ["Case", "check_case", "load_backend"]
    names += ["HetSynState"] if case.state is not None else []
    arguments = [f"params={_params(case)}", f"inputs={_array(case.inputs)}"]
    if case.state is not None:
        arguments.append(f"state={_state(case.state)}")
    gradients = case.output_gradients
    head = ["import numpy as np", ""]
    if gradients is not None:
        names += ["OutputGradients"]
        values = [_array(gradients.spikes), _array(gradients.v), _state(gradients.state)]
        arguments.append(f"output_gradients=OutputGradients({', '.join(values)})")
        names += ["HetSynState"] if gradients.state is not None else []
        if case.surrogate != MultiGaussian():
            head.append(f"from hetsyn_plugins.core.surrogate import {type(case.surrogate).__name__}")
            arguments.append(f"surrogate={case.surrogate!r}")
        arguments += ["detach_reset=True"] if case.detach_reset else []
    arguments += ["codebook=True"] if case.codebook else []
    if case.convolution is not None:
        head += ["from hetsyn_plugins.conformance.convolutions import Over"]
        head += ["from hetsyn_plugins.core.convolution import Convolution"]
        convolution, size = case.convolution
        arguments.append(f"convolution=Over(Convolution(*{tuple(convolution)}), {size})")
    head += ["from hetsyn_plugins import HetSynParams"]
    head += [f"from hetsyn_plugins.testing import {', '.join(sorted(set(names)))}", ""]
    body = ",\n    ".join(['"smallest failing case"', *arguments])
    return "\n".join([*head, f"case = Case(\n    {body},\n)", _loaded(backend), "check_case(backend, case)", ""])


def _loaded(backend: Any) -> str:
    """The line that makes the backend."""
    hint = "" if backend.origin else "  # or where it is, package.module:attribute"
    return f'backend = load_backend("{backend.origin or backend.name}"){hint}'


def _params(case: Case) -> str:
    """The layer; None and the default are left out, but the reset must be said."""
    arrays = {name: getattr(case.params, name) for name in ARRAYS}
    parts = [f"{n}={_array(array)}" for n, array in arrays.items() if array is not None or n == "reset_decay"]
    parts += [] if case.params.spiking else ["spiking=False"]
    return "HetSynParams(\n" + "".join(f"        {part},\n" for part in parts) + "    )"


def _state(state: HetSynState | None) -> str:
    if state is None:
        return "None"
    parts = [f"{name}={_array(array)}" for name, array in state._asdict().items() if array is not None]
    return f"HetSynState({', '.join(parts)})"


def _array(array: Any) -> str:
    """An array as code, to the bit."""
    if array is None:
        return "None"
    options: Any = {"separator": ", ", "floatmode": "unique", "threshold": sys.maxsize, "max_line_width": sys.maxsize}
    numbers = " ".join(np.array2string(array, **options).split())
    shape = "" if array.size else f".reshape({array.shape})"
    return f"np.array({numbers}, np.{array.dtype}){shape}"
