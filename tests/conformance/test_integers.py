"""Everything that runs integer networks passes every check; planted bugs are caught by the checks they name.

Bugs in the core are planted in its text and run here. Bugs in what Lava runs are planted in a child process, where Lava
finds them as the module: the workers are forked with the bug in them, so it sits in the real runtime.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import planting
import pytest

from hetsyn_plugins.adapters.lava_dl import runtime
from hetsyn_plugins.conformance import integers
from hetsyn_plugins.conformance.cases import Mismatch
from hetsyn_plugins.conformance.comparison import Tally
from hetsyn_plugins.conformance.integers import Backend, Case, Output, Outputs

AVAILABLE, ABSENT = integers.available()
BACKENDS = {backend.name: backend for backend in AVAILABLE}
POINT, STACK = "hetsyn_plugins.fixed_point.neuron", "hetsyn_plugins.fixed_point.network"
MODELS, RUNTIME = "hetsyn_plugins.adapters.lava_dl.proc.hetsyn.models", "hetsyn_plugins.adapters.lava_dl.runtime"


@cache
def verdicts(backend: str) -> dict[str, Tally | Mismatch]:
    """What came of every check, from one run of the backend: Lava takes longer to start than to run."""
    return {check: result for _, check, result in integers.verify([BACKENDS[backend]])}


@pytest.mark.parametrize("check", integers.CHECKS)
@pytest.mark.parametrize("backend", [*BACKENDS, *ABSENT])
def test_backend_keeps_the_contract(backend: str, check: str) -> None:
    if backend in ABSENT:
        pytest.skip(ABSENT[backend])
    result = verdicts(backend)[check]
    assert isinstance(result, Tally), result
    if result.cases == 0:
        assert not any(map(BACKENDS[backend].takes, integers.CHECKS[check]()))
        pytest.skip(f"{backend} has no such numbers")


def test_the_checks_hold_what_they_say() -> None:
    cases = {name: function() for name, function in integers.CHECKS.items()}
    (clusters,) = cases["clusters"]
    assert [len(layer.params.codebook) for layer in clusters.network.layers] == [1, 3, 8, 16]
    assert all(case.inputs.shape[1] > 1 for name, listed in cases.items() if name != "hand-table" for case in listed)
    (samples,) = cases["samples"]
    assert samples.inputs[-1].mean() > 0.5
    assert {layer.params.form for case in cases["overflow"] for layer in case.network.layers} == {"cluster", "synapse"}
    assert sum(integers.fits_slayer(case) for listed in cases.values() for case in listed) >= 8


def test_a_crash_is_a_mismatch_and_hides_nobody() -> None:
    def crash(cases: list[Case]) -> list[Outputs]:
        raise RuntimeError("out of order")

    results = list(integers.verify([Backend("crash", crash), BACKENDS["fixed"]], ["kinds", "delays"]))
    assert [name for name, _, _ in results] == ["crash", "crash", "fixed", "fixed"]
    assert str(results[0][2]) == "RuntimeError: out of order" and isinstance(results[2][2], Tally)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("one bin", "v: 1 of 432 bins differ, the first at step 3, sample 1, neuron 2"),
        ("shape", "spikes has shape (23, 3, 6), expected (24, 3, 6)"),
        ("no layer", "kinds: expected layers 0 kinds, 1 kinds"),
        ("no spikes", "spikes expected some, got the opposite"),
        ("no v of a readout", "v expected some, got the opposite"),
    ],
)
def test_every_difference_is_found(kind: str, says: str) -> None:
    (case,) = integers.CHECKS["kinds"]()
    want = integers.expected(case)
    got = {name: Output(*(None if a is None else a.copy() for a in output)) for name, output in want.items()}
    first, last = next(iter(got)), list(got)[-1]
    integers.compare(case, got, want, Tally())
    if kind == "one bin":
        got[last].v[3, 1, 2] += 1
    elif kind == "shape":
        got[first] = Output(got[first].spikes[:-1], None)
    elif kind == "no layer":
        del got[first]
    elif kind == "no spikes":
        got[first] = Output(None, got[first].v)
    else:
        got[last] = Output(None, None)
    with planting.caught(says, Mismatch):
        integers.compare(case, got, want, Tally())


# ---- planted bugs -------------------------------------------------------------------------------------------------


class Bug(NamedTuple):
    """In `module`, `old` becomes `new`; `check` must then fail with `says` in its message."""

    name: str
    check: str
    module: str
    old: str
    new: str
    says: str = "bins differ"


CORE = [
    Bug("floor, not toward zero", "hand-table", POINT, "np.sign(u) * (np.abs(u) * (", "(u * ("),
    Bug(">= for >", "hand-table", POINT, "(v > (p.threshold", "(v >= (p.threshold"),
    Bug("no wrap", "hand-table", POINT, "wrapped(u, self.bits) if", "u if"),
    Bug("wrap in the synapse form at 24 bits", "overflow", POINT, "wrapped(u, self.bits)", "wrapped(u, 24)"),
    Bug("no clip", "overflow", POINT, "np.clip(v, -limit, limit) if", "v if"),
    Bug("words off by one", "decay-words", POINT, "- word) >> 12", "- np.minimum(word + 1, DECAY_ONE)) >> 12"),
    Bug("reset one step late", "hand-table", POINT, "total = total - reset", "total = total - s.reset"),
    Bug("no adaptation", "kinds", POINT, "total = total - adaptation", "total = total + 0"),
    Bug("bias in the readout only", "kinds", POINT, "if p.bias is None else", "if p.bias is None or p.spiking else"),
    Bug(
        "recurrence from z[t]",
        "kinds",
        POINT,
        "        total = current.sum(-1) if",
        "        early = s._replace(spikes=(current.sum(-1) > p.threshold << p.fraction).astype(np.int64))\n"
        "        if p.recurrent_weight is not None:\n"
        "            current, recurrent = self.synapses.step(early, drive, watch, t)\n"
        "        total = current.sum(-1) if",
    ),
    Bug("two clusters in one", "clusters", POINT, "(self.words, decay), len", "(self.words, decay) // 2, len"),
    Bug("always 12 fractional bits", "synapse-form", POINT, "(p.weight_exp + p.fraction)", "(p.weight_exp + 12)"),
    Bug("graded spikes as spikes", "graded-inputs", POINT, "return sources[-1][:", "return np.sign(sources)[-1][:"),
    Bug("spikes of another sample", "samples", POINT, "s.spikes[None])", "s.spikes[None, ::-1])"),
    Bug("delays off by one", "delays", STACK, "latency + delay)", "latency + delay + 1)"),
    Bug("synapses a step later", "delays-of-synapses", POINT, "- 1 - delay,", "- 1 - np.maximum(delay - 1, 0),"),
    Bug(
        "recurrent delays from z[t]",
        "delays-of-synapses",
        POINT,
        "self.recurrent.of(fired(s))",
        "self.recurrent.of(np.concatenate([fired(s)[1:], fired(s)[-1:]]))",
    ),
    Bug("the past of spikes a step late", "delays-of-synapses", POINT, "else fired(s)[1:]", "else fired(s)[:-1]"),
    Bug("the always-on line is off", "kinds", STACK, "np.ones(", "np.zeros("),
]  # fmt: skip
IN_LAVA = [
    Bug("state kept between samples", "samples", MODELS, "            self.zero()\n", ""),
    Bug("spikes on their way kept between samples", "delays", MODELS, "            self.leaving[:] = 0\n", ""),
    Bug("states reset one step late", "samples", MODELS, '(t - self.proc_params["', '(t - 1 - self.proc_params["'),
    Bug("reset in all layers at once", "samples", RUNTIME, '"reset_offset": 1 + index}', '"reset_offset": 1}'),
    Bug("samples in the wrong order", "samples", RUNTIME, "inputs.transpose(", "inputs[:, ::-1].transpose("),
    Bug("read a step early", "kinds", RUNTIME, "sink.data[tap.latency :]", "sink.data[tap.latency - 1 :]"),
    Bug("the always-on line is off", "kinds", MODELS, "np.append(x, 1)", "np.append(x, 0)"),
    Bug("graded spikes as spikes", "graded-inputs", MODELS, "self.state, x[None]", "self.state, np.sign(x)[None]"),
    Bug("the state is not carried", "kinds", MODELS, "self.state, v = self.core", "_, v = self.core"),
    Bug("inputs of before kept between samples", "delays-of-synapses", MODELS,
        "self.state = neuron.zero_state(self.layer.params, batch=1)",
        "past = getattr(self, 'state', neuron.zero_state(self.layer.params, batch=1)).past_inputs\n"
        "        self.state = neuron.zero_state(self.layer.params, batch=1)._replace(past_inputs=past)"),
    Bug("spikes of before kept between samples", "delays-of-synapses", MODELS,
        "self.state = neuron.zero_state(self.layer.params, batch=1)",
        "past = getattr(self, 'state', neuron.zero_state(self.layer.params, batch=1)).past_spikes\n"
        "        self.state = neuron.zero_state(self.layer.params, batch=1)._replace(past_spikes=past)"),
    Bug("the past is not carried", "delays-of-synapses", MODELS, "self.core.advance(self.state,",
        "self.core.advance(self.state._replace(past_inputs=neuron.zero_state(self.layer.params, 1).past_inputs),"),
    Bug("no delays", "delays", MODELS, "(t + 1 + self.delay)", "(t + 1 + 0 * self.delay)"),
]  # fmt: skip
IN_FLOAT = [
    Bug("float state kept between samples", "samples", MODELS, "            self.zero()\n", ""),
    Bug(
        "rounded decays",
        "kinds",
        MODELS,
        "p.to_params() if",
        "p.replace(reset_decay=None).to_params() if",
    ),
]


def cases_of(bug: Bug) -> list[Case]:
    return integers.CHECKS[bug.check]()


def compare_all(cases: list[Case], results: list[Outputs], judge: Any = integers.expected) -> None:
    for case, got in zip(cases, results, strict=True):
        integers.compare(case, got, judge(case), Tally())


@pytest.mark.parametrize("bug", CORE, ids=lambda bug: bug.name)
def test_a_bug_in_the_core_is_caught(bug: Bug) -> None:
    cases = cases_of(bug)
    changed = planting.changed(bug.module, bug.old, bug.new, around=(POINT, STACK))[STACK]
    with planting.caught(bug.says, Mismatch):
        compare_all(cases, integers.run_core(cases, changed.FixedNetwork))
    compare_all(cases, integers.run_core(cases))


def in_child_planted(bugs: list[Bug], precision: str) -> list[list[Outputs]]:
    """What Lava makes of the cases of each bug's check, with the bug in it."""
    results = []
    for bug in bugs:
        cases = [case for case in cases_of(bug) if precision == "fixed_pt" or not case.allow_overflow]
        with planting.planted(bug.module, bug.old, bug.new, around=(MODELS, RUNTIME)):
            results.append(integers.in_lava(cases, precision))
    return results


@cache
def planted_in_lava(precision: str) -> dict[str, list[Outputs]]:
    bugs = IN_LAVA if precision == "fixed_pt" else IN_FLOAT
    nothing = bugs[0]._replace(name="nothing", check="kinds", new=bugs[0].old)
    results = runtime.isolated(in_child_planted, [nothing, *bugs], precision, timeout=120.0)
    return {bug.name: result for bug, result in zip([nothing, *bugs], results, strict=True)}


@pytest.mark.skipif("lava" in ABSENT, reason=ABSENT.get("lava", ""))
@pytest.mark.parametrize("bug", IN_LAVA, ids=lambda bug: bug.name)
def test_a_bug_in_lavas_workers_is_caught(bug: Bug) -> None:
    results = planted_in_lava("fixed_pt")[bug.name]
    with planting.caught(bug.says, Mismatch):
        compare_all(cases_of(bug), results)


@pytest.mark.skipif("lava" in ABSENT, reason=ABSENT.get("lava", ""))
@pytest.mark.parametrize("bug", IN_FLOAT, ids=lambda bug: bug.name)
def test_a_bug_in_the_float_process_is_caught(bug: Bug) -> None:
    results = planted_in_lava("floating_pt")[bug.name]
    with planting.caught(bug.says, Mismatch):
        compare_all(cases_of(bug), results, integers.expected_in_float)


@pytest.mark.skipif("lava" in ABSENT, reason=ABSENT.get("lava", ""))
def test_planting_itself_breaks_nothing() -> None:
    cases = integers.CHECKS["kinds"]()
    compare_all(cases, planted_in_lava("fixed_pt")["nothing"])
    compare_all(cases, planted_in_lava("floating_pt")["nothing"], integers.expected_in_float)


def test_every_check_is_tripped_by_a_planted_bug() -> None:
    assert set(integers.CHECKS) == {bug.check for bug in CORE}
    assert len({bug.name for bug in CORE}) == len(CORE)
    assert np.all([len({bug.name for bug in bugs}) == len(bugs) for bugs in (IN_LAVA, IN_FLOAT)])
