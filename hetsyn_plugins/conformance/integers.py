"""The contract in integers (promise 3): everything that runs an integer network gives the same numbers, bit for bit.

A check is a list of cases; a backend runs them all at once, because Lava takes longer to start than to run. The judge
is the integer core, `FixedNetwork.run`, whose own judges are tables by hand (also here) and plain Python integers
(`tests/fixed_point`). What came of every layer is compared: spikes and, where a backend shows it, v. Several samples
are several rows of the batch; in Lava they follow each other in one run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.conformance.cases import Mismatch
from hetsyn_plugins.conformance.comparison import Tally
from hetsyn_plugins.core import reference
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.fixed_point.network import FixedLayer, FixedNetwork, shifted
from hetsyn_plugins.fixed_point.neuron import DECAY_ONE, FixedParams, FixedPointOverflow, Integers

TIMEOUT = 300.0  # seconds for all cases of a backend in Lava


class Output(NamedTuple):
    """What a layer gave, (T, B, N): spikes (None for a readout), and v in state units (None where it is not shown)."""

    spikes: Any
    v: Any


Outputs = dict[str, Output]


@dataclass(frozen=True)
class Case:
    """A network and its inputs (T, B, M); `want` where the numbers were worked out by hand."""

    label: str
    network: FixedNetwork
    inputs: Integers
    allow_overflow: bool = False
    want: Outputs | None = None


def expected(case: Case) -> Outputs:
    """What the integer core says, or the table."""
    if case.want is not None:
        return case.want
    results = case.network.run(case.inputs, allow_overflow=case.allow_overflow)
    return {name: Output(result.spikes, result.v) for name, result in results.items()}


def expected_a_step_late(case: Case) -> Outputs:
    """What the integer core says where every layer takes a step, as on a chip and in slayer's blocks; v of readouts."""
    results = case.network.run(case.inputs, latency=1, allow_overflow=case.allow_overflow)
    return {name: Output(r.spikes, r.v if r.spikes is None else None) for name, r in results.items()}


def expected_in_float(case: Case) -> Outputs:
    """What `reference.run` says of the same numbers without rounding; v in float units."""
    return _layer_by_layer(case, lambda layer, x: reference.run(layer.params.to_params(), x)[:2])


@dataclass(frozen=True)
class Backend:
    """One way to run integer networks.

    judge          says what must come
    takes          which cases it can run
    known, origin  as of the backends of floats (`cases.Backend`)
    """

    name: str
    run: Callable[[list[Case]], list[Outputs]]
    judge: Callable[[Case], Outputs] = expected
    takes: Callable[[Case], bool] = lambda case: True
    known: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""


# ---- cases --------------------------------------------------------------------------------------------------------

Rng = np.random.Generator
BOTH = ("cluster", "synapse")


# long: half of it says what may be asked for
def draw_layer(
    rng: Rng,
    name: str,
    m: int,
    n: int,
    *,
    words: Any = 3,
    form: str = "cluster",
    recurrent: bool = False,
    adaptation: bool = False,
    bias: bool = False,
    always_on: bool = False,
    delays: int = 0,
    late: int = 0,
    **fields: Any,
) -> FixedLayer:
    """A random layer of n neurons behind m lines; `words` are its decay words, or how many to draw (log-uniform).

    delays, late   how many steps later spikes leave at most, and synapses read at most
    Weights are even multiples of 1 / 64, as slayer's; `fields` replaces fields of FixedParams.
    """
    if isinstance(words, int):
        words = rng.choice(np.unique(np.rint(np.geomspace(80, 3000, 200))), words, replace=False)
    lines, mixed = m + always_on, partial(_mixed, rng, words)
    values: dict[str, Any] = {
        "weight": rng.integers(-60, 100, (n, lines)),
        "decay": mixed((n, lines)),
        "weight_exp": 1,
        "threshold": rng.integers(100, 400, n),
        "reset_decay": rng.integers(200, 2500, n),
        "form": form,
        "unit": 1 / 64,
    }
    if recurrent:
        values |= {"recurrent_weight": rng.integers(-60, 60, (n, n)), "recurrent_decay": mixed((n, n))}
        values["recurrent_exp"] = 1
    if adaptation:
        values["adaptation_decay"] = rng.integers(30, 400, n)
        values["adaptation_strength"] = rng.integers(-500, 4000, n)
    if bias:
        values["bias"] = rng.integers(-1500, 1500, n)
    if late:
        values |= {"delay": rng.integers(0, late + 1, (n, lines))}
    if late and recurrent:
        values |= {"recurrent_delay": rng.integers(0, late + 1, (n, n))}
    if not fields.get("spiking", True):
        values |= {"reset_decay": None, "threshold": 1}
    delay = rng.integers(0, delays + 1, n) if delays else None
    return FixedLayer(name, FixedParams(**{**values, **fields}), always_on, delay)


def _mixed(rng: Rng, words: Any, shape: tuple[int, int]) -> Any:
    """Decay words in this shape, every one of them."""
    return rng.permutation(np.resize(words, shape).ravel()).reshape(shape)


def draw(
    seed: int,
    label: str,
    layers: Sequence[dict[str, Any]],
    *,
    sizes: tuple[int, int, int, int] = (24, 3, 7, 6),
    inputs: Callable[[Rng, tuple[int, ...]], Any] | None = None,
    allow_overflow: bool = False,
) -> Case:
    """A random stack, drawn again until every layer spikes in 2 to 90 % of its neuron-steps and nothing overflows.

    sizes  T, B, M and N, the neurons of every layer
    """
    steps, batch, m, n = sizes
    for attempt in range(100):
        rng = np.random.default_rng([seed, attempt])
        stack, lines = [], m
        for index, options in enumerate(layers):
            stack.append(draw_layer(rng, f"{index} {label}", lines, n, **options))
            lines = n
        shape = (steps, batch, m)
        x = np.asarray((rng.random(shape) < 0.3) if inputs is None else inputs(rng, shape)).astype(np.int64)
        case = Case(label, FixedNetwork(tuple(stack)), x, allow_overflow)
        try:
            outputs = expected(case).values()
        except FixedPointOverflow:
            continue
        if all(out.spikes is None or 0.02 < out.spikes.mean() < 0.9 for out in outputs):
            return case
    raise Mismatch(f"{label}: none of 100 draws spikes in every layer without overflow")


Check = Callable[[], list[Case]]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check under its name, without the leading check_."""
    CHECKS[function.__name__.removeprefix("check_").replace("_", "-")] = function
    return function


@check
def check_hand_table() -> list[Case]:
    """Numbers worked out by hand: rounding toward zero, v == threshold, every term's step, and the wrap at 24 bits.

    Two neurons, 64 state units a weight unit. Neuron 0: weight 4, r = 0, threshold 4, kappa = 1/2; neuron 1's spikes
    reach it with weight 1, r = 0. Neuron 1: no input, threshold 2, kappa = 1; neuron 0's spikes with weight 3, r = 1/2.

        x   I_00   L_01   J_0    v_0    z_0     L_10   J_1   v_1   z_1
        1   256    0      0      256    0       0      0     0     0     v_0 == threshold: silent
        2   512    0      0      512    1       0      0     0     0
        0   0      0      256   -256    0       192    0     192   1     loop and reset act one step later
        0   0      64     128   -64     0       96     128  -32    0
        3   768    0      64     704    1       48     128  -80    0
    """
    both_ways = FixedParams(
        [[4], [0]],
        np.array([[DECAY_ONE], [DECAY_ONE]]),
        threshold=np.array([4, 2]),
        reset_decay=np.array([2048, 0]),
        recurrent_weight=np.array([[0, 1], [3, 0]]),
        recurrent_decay=np.array([[DECAY_ONE, DECAY_ONE], [2048, DECAY_ONE]]),
    )
    tables = [
        ("loop", both_ways, [1, 2, 0, 0, 3], [[256, 0], [512, 0], [-256, 192], [-64, -32], [704, -80]]),
        # half of -5 is -2, not -3
        ("zero", _readout(-5, 2048), [1] + 9 * [0], [[v] for v in (-320, -160, -80, -40, -20, -10, -5, -2, -1, 0)]),
        # 64 * 127 * 128 more at every step, around at 2^23
        ("wrap", _readout(127, 0, 7), 10 * [1], [[k * 1040384 - (k > 8) * (1 << 24)] for k in range(1, 11)]),
    ]
    cases = []
    for name, params, x, v in tables:
        want = np.array(v)[:, None]
        spikes = want > (params.threshold << params.fraction) if params.spiking else None
        network = FixedNetwork((FixedLayer(name, params),))
        outputs = {name: Output(None if spikes is None else spikes.astype(np.int64), want)}
        cases.append(Case(f"by hand: {name}", network, np.array(x).reshape(-1, 1, 1), name == "wrap", outputs))
    return cases


def _readout(weight: int, word: int, exponent: int = 0) -> FixedParams:
    return FixedParams([[weight]], [[word]], weight_exp=exponent, spiking=False)


EVERYTHING: dict[str, Any] = {"recurrent": True, "adaptation": True, "bias": True, "always_on": True}
KINDS: list[dict[str, Any]] = [
    {},
    {"recurrent": True},
    {"adaptation": True},
    EVERYTHING,
    {"reset_decay": None, "recurrent": True},
    {"spiking": False, "bias": True},
]


@check
def check_kinds() -> list[Case]:
    """A stack of feed-forward, recurrent, adaptation, everything with an always-on line, no reset, and a readout."""
    return [draw(1, "kinds", KINDS)]


@check
def check_clusters() -> list[Case]:
    """K = 1, 3, 8 and 16 accumulators a neuron, feed-forward and recurrent."""
    return [draw(2, "clusters", [{"words": k, "recurrent": k in (3, 16)} for k in (1, 3, 8, 16)])]


@check
def check_synapse_form() -> list[Case]:
    """An accumulator a synapse, every kind of layer, also with other fractional bits than the form's own."""
    kinds: list[dict[str, Any]] = [{**kind, "form": "synapse", "words": np.arange(40, 3000, 7)} for kind in KINDS]
    kinds[1] = {**kinds[1], "fraction": 9}
    return [draw(3, "synapse form", kinds)]


@check
def check_decay_words() -> list[Case]:
    """The ends: r = 1 and r = 0 exactly, and the words beside them."""
    ends = np.array([0, 1, DECAY_ONE - 1, DECAY_ONE])
    layer: dict[str, Any] = {"words": ends, "threshold": 600, "recurrent": True, "reset_decay": np.resize(ends, 6)}
    return [draw(4, "decay words", [{**layer, "form": form} for form in BOTH])]


@check
def check_delays() -> list[Case]:
    """Delays of 0 to 9 steps between layers, and some longer than the sample: those spikes never arrive."""
    longer: list[dict[str, Any]] = [{"delays": 62, "bias": True}, {"spiking": False}]
    return [
        draw(5, "delays", [{"delays": 9, "recurrent": True}, {"delays": 3, **EVERYTHING}]),
        draw(6, "long delays", longer),
    ]


@check
def check_delays_of_synapses() -> list[Case]:
    """A delay a synapse, recurrent ones too, in either form, behind delays of the axon; some longer than the sample."""
    stack: list[dict[str, Any]] = [
        {"late": 5, "delays": 4, **EVERYTHING},
        {"late": 7, "form": "synapse", "recurrent": True},
        {"late": 2, "threshold": 150},
        {"late": 40, "spiking": False},
    ]
    return [draw(10, "delays of synapses", stack, sizes=(20, 4, 7, 6), inputs=_rising)]


@check
def check_graded_inputs() -> list[Case]:
    """Counts and negative graded spikes, into either form."""

    def counts(rng: Rng, shape: tuple[int, ...]) -> Any:
        return rng.integers(-3, 5, shape)

    return [draw(7, f"graded, {form} form", [{"form": form}], inputs=counts) for form in BOTH]


@check
def check_samples() -> list[Case]:
    """Five samples, active until their last step, with slow decays: whatever one leaves behind changes the next."""
    slow: dict[str, Any] = {"words": np.array([3, 20, 60]), "reset_decay": 30, "threshold": 800}
    stack: list[dict[str, Any]] = [{**slow, "delays": 5}, {**slow, **EVERYTHING}, {"spiking": False, "words": 1}]
    return [draw(8, "samples", stack, sizes=(16, 5, 7, 6), inputs=_rising)]


def _rising(rng: Rng, shape: tuple[int, ...]) -> Any:
    return rng.random(shape) < np.linspace(0.0, 0.8, shape[0])[:, None, None]


@check
def check_overflow() -> list[Case]:
    """Where states leave their bits and that is allowed: currents wrap, v clips."""
    huge: dict[str, Any] = {"words": np.array([0, 2, 9]), "weight_exp": 7}
    firing = {**huge, "threshold": 10_000, "reset_decay": 0, "bias": True}
    stack = [firing, {**firing, "form": "synapse", "fraction": 16}, {**huge, "spiking": False}]

    def strong(rng: Rng, shape: tuple[int, ...]) -> Any:
        return rng.integers(-20, 40, shape)

    case = draw(9, "overflow", stack, inputs=strong, allow_overflow=True)
    for name, result in case.network.run(case.inputs, allow_overflow=True).items():
        if not result.overflows:
            raise Mismatch(f"overflow: layer {name!r} does not overflow")
    return [case]


# ---- comparing ----------------------------------------------------------------------------------------------------


def compare(case: Case, got: Outputs, want: Outputs, tally: Tally) -> None:
    """Every layer's spikes, and v where it is shown, must be equal, every one."""
    if list(got) != list(want):
        raise Mismatch(f"{case.label}: expected layers {', '.join(want)}, got {', '.join(got)}")
    tally.cases += 1
    for name in want:
        for what, one, other in zip(Output._fields, got[name], want[name], strict=True):
            if what == "v" and one is None and other is not None and got[name].spikes is not None:
                continue  # not shown
            if (one is None) != (other is None):
                raise Mismatch(f"{name}: {what} expected {'none' if other is None else 'some'}, got the opposite")
            if other is not None:
                _same(f"{name}: {what}", np.asarray(one), np.asarray(other))
                tally.spikes += other.size if what == "spikes" else 0


def _same(label: str, got: Any, want: Any) -> None:
    if got.shape != want.shape:
        raise Mismatch(f"{label} has shape {got.shape}, expected {want.shape}")
    wrong = np.argwhere(~(got == want))
    if len(wrong):
        t, b, n = wrong[0]
        first = f"the first at step {t}, sample {b}, neuron {n}: expected {want[t, b, n]}, got {got[t, b, n]}"
        raise Mismatch(f"{label}: {len(wrong)} of {want.size} bins differ, {first}")


def verify(backends: list[Backend], only: list[str] | None = None) -> Iterator[tuple[str, str, Tally | Mismatch]]:
    """Run every check (or only these) over every backend; yields backend, check and what came of it."""
    cases = {name: function() for name, function in CHECKS.items() if only is None or name in only}
    for backend in backends:
        taken = {name: [case for case in listed if backend.takes(case)] for name, listed in cases.items()}
        try:
            results = iter(backend.run([case for listed in taken.values() for case in listed]))
        except Exception as error:  # a crash of one backend must not hide the others
            for name in taken:
                yield backend.name, name, Mismatch(f"{type(error).__name__}: {error}")
            continue
        for name, listed in taken.items():
            pairs = [(case, next(results)) for case in listed]
            yield backend.name, name, _tallied(backend, pairs, left_out=len(cases[name]) - len(listed))


def _tallied(backend: Backend, pairs: list[tuple[Case, Outputs]], left_out: int) -> Tally | Mismatch:
    tally = Tally(left_out={"no such numbers": left_out} if left_out else {})
    try:
        for case, got in pairs:
            compare(case, got, backend.judge(case), tally)
    except Mismatch as mismatch:
        return mismatch
    return tally


# ---- backends -----------------------------------------------------------------------------------------------------


def available() -> tuple[list[Backend], dict[str, str]]:
    """The backends that can run here, and name -> reason for those that cannot."""
    backends = [Backend("fixed", run_core), Backend("quantised", run_quantised)]
    why = _why_no_lava()
    if why is not None:
        return backends, {name: why for name in ("slayer", "lava", "netx", "lava-float")}
    backends += [
        Backend("slayer", run_slayer, judge=expected_a_step_late, takes=fits_slayer),
        Backend("lava", partial(run_lava, precision="fixed_pt")),
        Backend("netx", partial(run_lava, precision="fixed_pt", as_file=True)),
        Backend(
            "lava-float",
            partial(run_lava, precision="floating_pt"),
            judge=expected_in_float,
            takes=lambda case: not case.allow_overflow,
        ),
    ]
    return backends, {}


def _why_no_lava() -> str | None:
    from hetsyn_plugins.adapters.lava_dl import runtime

    why: str | None = runtime.why_no_lava()
    return why


def run_core(cases: list[Case], network: Any = FixedNetwork) -> list[Outputs]:
    """The integer core itself; `network` is the class to use (the tests pass one with a planted bug)."""
    results = [network(c.network.layers).run(c.inputs, allow_overflow=c.allow_overflow) for c in cases]
    return [{name: Output(r.spikes, r.v) for name, r in result.items()} for result in results]


def run_quantised(cases: list[Case]) -> list[Outputs]:
    """The quantised training op, layer by layer, on the float parameters of each."""
    import torch

    from hetsyn_plugins.core.fields import ARRAYS
    from hetsyn_plugins.ops.straight_through import hetsyn_lif_quantised

    def run_layer(case: Case, layer: FixedLayer, x: Integers) -> tuple[Any, Any]:
        p = layer.params
        floats = p.to_params()
        arrays = {name: getattr(floats, name) for name in ARRAYS}
        tensors = {name: None if a is None else torch.tensor(np.array(a)) for name, a in arrays.items()}
        spikes, v = hetsyn_lif_quantised(
            torch.tensor(x, dtype=torch.float64),
            **tensors,
            spiking=p.spiking,
            unit=p.unit,
            form=p.form,
            fraction=p.fraction,
            allow_overflow=case.allow_overflow,
        )
        return (None if spikes is None else spikes.numpy()), v.numpy() * ((1 << p.fraction) / p.unit)

    return [_layer_by_layer(case, partial(run_layer, case)) for case in cases]


def fits_slayer(case: Case) -> bool:
    """Whether no synapse has a delay, every weight is even and none wraps: slayer's weights have an exponent of 1."""
    params = [layer.params for layer in case.network.layers]
    return not any(p.delay is not None for p in params) and all(
        p.weight_exp == 1 and (p.recurrent_weight is None or p.recurrent_exp == 1) for p in params
    )


def run_slayer(cases: list[Case]) -> list[Outputs]:
    """slayer's quantised blocks behind each other, each a step late; an always-on line is an input of ones."""
    import torch

    from hetsyn_plugins.adapters.lava_dl import slayer

    def run_layer(case: Case, layer: FixedLayer, x: Any) -> tuple[Any, Any]:
        p = layer.params
        spiking_kind = slayer.Dense if p.recurrent_weight is None else slayer.Recurrent
        kind = spiking_kind if p.spiking else slayer.Affine
        block = kind.from_params(
            p.to_params(),
            neuron_params={"scale": int(1 / p.unit)},
            delay=layer.delay is not None,
            quantised=True,
            form=p.form,
            fraction=p.fraction,
            allow_overflow=case.allow_overflow,
        )
        if layer.delay is not None:
            block.delay.delay.data = torch.tensor(layer.delay).to(block.delay.delay)
        with torch.no_grad():
            out = block(torch.tensor(x, dtype=torch.float64).permute(1, 2, 0)).permute(2, 0, 1).numpy()
        return (out, None) if p.spiking else (None, out * ((1 << p.fraction) / p.unit))

    return [_layer_by_layer(case, partial(run_layer, case), delays=False) for case in cases]


def _layer_by_layer(
    case: Case, run_layer: Callable[[FixedLayer, Any], tuple[Any, Any]], delays: bool = True
) -> Outputs:
    """A stack out of something that gives the spikes and v of one layer; `delays`: it does not delay them itself."""
    x: Any = case.inputs
    outputs = {}
    for layer in case.network.layers:
        x = np.concatenate([x, np.ones((*x.shape[:2], 1), x.dtype)], axis=2) if layer.always_on else x
        spikes, v = run_layer(layer, x)
        if spikes is not None and layer.delay is not None and delays:
            spikes = shifted(spikes.astype(np.int64), layer.delay)
        outputs[layer.name] = Output(spikes, v)
        x = v if spikes is None else spikes
    return outputs


def run_lava(cases: list[Case], *, precision: str, as_file: bool = False) -> list[Outputs]:
    """Lava's runtime, all cases in one child process; `as_file`: by way of a file and netx."""
    from hetsyn_plugins.adapters.lava_dl import runtime

    outputs: list[Outputs] = runtime.isolated(in_lava, cases, precision, as_file, timeout=TIMEOUT)
    return outputs


def in_lava(cases: list[Case], precision: str, as_file: bool = False) -> list[Outputs]:
    """What `run_lava` does in its child process."""
    from hetsyn_plugins.adapters.lava_dl import runtime

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            network: Any = case.network
            if as_file:
                network = Path(folder, "case.net")
                chip_file.write(case.network, network)
            layers = runtime.simulate(network, case.inputs, precision, case.allow_overflow, TIMEOUT)
            readouts = {layer.name for layer in case.network.layers if not layer.params.spiking}
            results.append({n: Output(None, a) if n in readouts else Output(a, None) for n, a in layers.items()})
    return results
