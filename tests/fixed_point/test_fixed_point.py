"""The integer core: tables by hand, the neuron in plain Python integers, Lava's own LIF, and what rounding may do.

Every check takes the core as an argument, so that the bugs planted at the end run through the very same checks.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from importlib import import_module
from math import trunc
from typing import Any, NamedTuple

import numpy as np
import pytest
from planting import caught, changed

from hetsyn_plugins import HetSynParams, fixed_point
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.fields import DECAYS, DELAYS, FIELDS, FINITE, NUMBERS
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.fixed_point.neuron import COUNTS, DECAY_WORDS, EXPONENTS, HELD

DECAY_ONE = 4096


class Core(NamedTuple):
    """The modules under test."""

    neuron: Any
    rounding: Any
    network: Any


MODULES = {part: f"hetsyn_plugins.fixed_point.{part}" for part in Core._fields}  # in the order of their imports


@pytest.fixture
def core() -> Core:
    return Core(*map(import_module, MODULES.values()))


def lines(*steps: Any) -> Any:
    """Inputs of one sample: numbers for one line, or a row for each step; (T, 1, M)."""
    return np.array(steps).reshape(len(steps), 1, -1)


def layer(core: Core, seed: int = 0, n: int = 5, m: int = 4, **changes: Any) -> Any:
    """A layer with everything; its decay words come from a codebook of six with both ends in it."""
    rng = np.random.default_rng(seed)
    words = np.array([0, 1, 40, 700, 2500, DECAY_ONE])
    fields: dict[str, Any] = {
        "weight": rng.integers(-60, 100, (n, m)),
        "decay": rng.choice(words, (n, m)),
        "weight_exp": 1,
        "reset_decay": rng.integers(0, DECAY_ONE + 1, n),
        "threshold": rng.integers(100, 300, n),
        "recurrent_weight": rng.integers(-100, 100, (n, n)),
        "recurrent_decay": rng.choice(words, (n, n)),
        "recurrent_exp": 0,
        "adaptation_decay": rng.integers(1, DECAY_ONE, n),
        "adaptation_strength": rng.integers(-500, 3000, n),
        "bias": rng.integers(-500, 500, n),
        **changes,
    }
    return core.neuron.FixedParams(**fields)


def delays(n: int = 5, m: int = 4) -> dict[str, Any]:
    """Delays of synapses: 0, 1 and longer ones, recurrent ones the longest."""
    rng = np.random.default_rng(7)
    return {"delay": rng.choice([0, 1, 2, 7], (n, m)), "recurrent_delay": rng.choice([0, 1, 3, 9], (n, n))}


def inputs(seed: int = 1, steps: int = 40, batch: int = 3, m: int = 4, share: float = 0.3) -> Any:
    return (np.random.default_rng(seed).random((steps, batch, m)) < share).astype(np.int64)


# ---- tables by hand ----------------------------------------------------------------------------------------------


def test_decay_words_by_hand(core: Core) -> None:
    """100 weight units in 1 / 64, three quarters a step: exact down to 2025, then 1518.75 and 1138.5, toward zero."""
    p = core.neuron.FixedParams([[100], [-100]], [[1024], [1024]], spiking=False)
    v = core.neuron.run(p, lines(1, 0, 0, 0, 0, 0)).v[:, 0]
    assert v[:, 0].tolist() == [6400, 4800, 3600, 2700, 2025, 1518]
    assert v[:, 1].tolist() == [-6400, -4800, -3600, -2700, -2025, -1518]


def test_the_longest_tau_loses_one_last_bit_a_step(core: Core) -> None:
    """Word 1: of anything below 4096 exactly one unit goes each step; it ends at zero from either side, never below."""
    p = core.neuron.FixedParams([[1], [-1]], 1, spiking=False)
    v = core.neuron.run(p, lines(1, *[0] * 70)).v[:, 0]
    assert v[:, 0].tolist() == [*range(64, 0, -1), *[0] * 7]
    assert v[:, 1].tolist() == [*range(-64, 0), *[0] * 7]


@pytest.mark.parametrize("form", ["cluster", "synapse"])
def test_the_two_ends_are_exact(core: Core, form: str) -> None:
    """Word 4096 forgets everything, word 0 nothing, however long."""
    p = core.neuron.FixedParams([[7, 0], [0, -7]], [[DECAY_ONE, 0], [0, 0]], spiking=False, form=form, fraction=6)
    v = core.neuron.run(p, np.concatenate([lines([1, 1]), np.zeros((3000, 1, 2), int)])).v[:, 0]
    # not as lists: pytest would look for their difference for minutes
    assert v[0, 0] == 448 and not v[1:, 0].any(), "word 4096 forgets everything"
    assert (v[:, 1] == -448).all() and len(v) == 3001, "word 0 forgets nothing"
    assert core.rounding.decay_to_word([0.0, 1.0, 0.75, 1 - 0.4 / DECAY_ONE, 1 - 0.6 / DECAY_ONE]).tolist() == [
        DECAY_ONE,
        0,
        1024,
        0,
        1,
    ]


def test_the_threshold_itself_does_not_fire(core: Core) -> None:
    p = core.neuron.FixedParams([[10], [11]], DECAY_ONE, threshold=10)
    result = core.neuron.run(p, lines(1, 0))
    assert result.v[0, 0].tolist() == [640, 704]
    assert result.spikes[:, 0].tolist() == [[0, 1], [0, 0]]


def test_reset_by_hand(core: Core) -> None:
    """10 kept for ever, threshold 4, reset halved each step: J = 0, 256, 384, 192, 352 in 1 / 64."""
    p = core.neuron.FixedParams([[10]], 0, threshold=4, reset_decay=2048)
    result = core.neuron.run(p, lines(1, 0, 0, 0, 0))
    assert result.v.ravel().tolist() == [640, 384, 256, 448, 288]
    assert result.spikes.ravel().tolist() == [1, 1, 0, 1, 1]
    assert result.state.reset.tolist() == [[352]]


def test_recurrence_by_hand(core: Core) -> None:
    """Neuron 0 fires at step 1; neuron 1 hears it at step 2, with weight 3 << 1 and a memory of its own; not back."""
    p = core.neuron.FixedParams(
        [[5], [0]],
        DECAY_ONE,
        threshold=[4, 100],
        recurrent_weight=[[0, 0], [3, 0]],
        recurrent_decay=[[0, 0], [2048, 0]],
        recurrent_exp=1,
    )
    result = core.neuron.run(p, lines(0, 1, 0, 0, 0))
    assert result.spikes[:, 0, 0].tolist() == [0, 1, 0, 0, 0]
    assert result.v[:, 0].tolist() == [[0, 0], [320, 0], [0, 384], [0, 192], [0, 96]]


def test_adaptation_and_bias_by_hand(core: Core) -> None:
    """In state units: bias 100 each step, A = 0, 70, 105 (each spike 70, then halved); the current 320 stays."""
    p = core.neuron.FixedParams([[5]], 0, threshold=4, adaptation_decay=2048, adaptation_strength=70, bias=[100])
    result = core.neuron.run(p, lines(0, 1, 0, 0, 0))
    assert result.v.ravel().tolist() == [100, 420, 350, 315, 298]
    assert result.spikes.ravel().tolist() == [0, 1, 1, 1, 1]


def test_a_readout_has_no_spikes(core: Core) -> None:
    p = core.neuron.FixedParams([[100]], 0, threshold=1, spiking=False)
    result = core.neuron.run(p, lines(1, 2, 0))
    assert result.spikes is None and result.state.spikes is None and result.state.reset is None
    assert result.v.ravel().tolist() == [6400, 19200, 19200]


# ---- independent judges ------------------------------------------------------------------------------------------


# long: the whole neuron in one place, to be read beside the text that it judges
def by_hand(p: Any, x: Any, at: int = 0) -> tuple[Any, Any]:
    """The neuron in plain Python integers and fractions, one accumulator at a time, for one sample of x."""
    n, m = p.weight.shape
    recurrent = p.recurrent_weight is not None
    d, e = (None if of is None else of.tolist() for of in (p.delay, p.recurrent_delay))
    bits, one = p.state_bits, 1 << p.fraction
    fields = ("weight", "decay", "threshold", "reset_decay", "recurrent_weight", "recurrent_decay")
    weight, decay, threshold, reset_decay, u, u_decay = (
        None if getattr(p, f) is None else getattr(p, f).tolist() for f in fields
    )
    # which accumulator a synapse adds to: that of its decay word, or its own
    shared = p.form == "cluster"
    of = {("in", i, j): (i, decay[i][j] if shared else ("in", j)) for i in range(n) for j in range(m)}
    word = {of["in", i, j]: decay[i][j] for i in range(n) for j in range(m)}
    if recurrent:
        of |= {("rec", i, k): (i, u_decay[i][k] if shared else ("rec", k)) for i in range(n) for k in range(n)}
        word |= {of["rec", i, k]: u_decay[i][k] for i in range(n) for k in range(n)}
    state: dict[Any, int] = dict.fromkeys(word, 0)
    jump, adapt, z = [0] * n, [0] * n, [0] * n
    vs, zs = [], []

    def left(value: int, word: int) -> int:
        return trunc(value * Fraction(DECAY_ONE - word, DECAY_ONE))

    def around(value: int) -> int:
        value &= (1 << bits) - 1
        return value if value <= 1 << (bits - 1) else value - (1 << bits)

    rows = x[:, at].tolist()
    for t in range(len(rows)):
        state = {key: left(value, word[key]) for key, value in state.items()}
        for i in range(n):
            for j in range(m):
                then = t - (d[i][j] if d else 0)
                came = rows[then][j] if then >= 0 else 0
                state[of["in", i, j]] += (weight[i][j] << p.weight_exp) * came * one
            for k in range(n if recurrent else 0):
                then = t - 1 - (e[i][k] if e else 0)
                came = zs[then][k] if then >= 0 else 0
                state[of["rec", i, k]] += (u[i][k] << p.recurrent_exp) * came * one
        state = {key: around(value) for key, value in state.items()}
        v = []
        for i in range(n):
            total = sum(value for key, value in state.items() if key[0] == i)
            if reset_decay is not None:
                jump[i] = around(left(jump[i], reset_decay[i]) + threshold[i] * one * z[i])
                total -= jump[i]
            if p.adaptation_decay is not None:
                reset_strength = int(p.adaptation_strength[i]) * z[i]
                adapt[i] = around(left(adapt[i], int(p.adaptation_decay[i])) + reset_strength)
                total -= adapt[i]
            total += 0 if p.bias is None else int(p.bias[i])
            limit = (1 << (bits - 1)) - 1
            v.append(max(-limit, min(limit, total)))
        z = [int(p.spiking and v[i] > threshold[i] * one) for i in range(n)]
        vs.append(v)
        zs.append(z)
    return np.array(vs), np.array(zs)


BARE = dict.fromkeys(("reset_decay", "recurrent_weight", "recurrent_decay", "adaptation_decay", "adaptation_strength"))


@pytest.mark.parametrize("form", ["cluster", "synapse"])
@pytest.mark.parametrize("kind", ["everything", "feed-forward", "readout", "delays"])
def test_equals_plain_python_integers(core: Core, form: str, kind: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "everything": {},
        "feed-forward": {**BARE, "reset_decay": 300},
        "readout": {**BARE, "spiking": False},
        "delays": delays(),
    }
    p = layer(core, form=form, **changes[kind])
    x = inputs() * np.random.default_rng(2).integers(-1, 4, inputs().shape)
    result = core.neuron.run(p, x)
    for row in range(x.shape[1]):
        v, z = by_hand(p, x, row)
        np.testing.assert_array_equal(result.v[:, row], v, err_msg=f"v of sample {row}")
        if kind != "readout":
            np.testing.assert_array_equal(result.spikes[:, row], z, err_msg=f"spikes of sample {row}")
    if kind in ("everything", "delays"):
        assert 0.05 < result.spikes.mean() < 0.6


@pytest.mark.parametrize("share", [1, 200_000 // 127], ids=["in range", "wrapping"])
def test_equals_lavas_lif(core: Core, share: int) -> None:
    """One accumulator a neuron and no reset is the current and, with dv = 4096, the voltage of Lava's LIF.

    Its `du` is our word less one (`ds_offset`). Its model is called in this process; no runtime starts.
    """
    pytest.importorskip("lava")
    with pytest.MonkeyPatch.context() as patch:
        # Lava sets it at import and fails where something did before; no process is started here
        patch.setattr(multiprocessing, "set_start_method", lambda method: None)
        models = import_module("lava.proc.lif.models")
    rng = np.random.default_rng(4)
    words = np.array([0, 1, 2, 100, 2000, 4095, DECAY_ONE])
    n, m = len(words), 3
    p = core.neuron.FixedParams(
        rng.integers(-128, 128, (n, m)),
        np.repeat(words[:, None], m, 1),
        threshold=rng.integers(50, 150, n),
        bias=rng.integers(-4096, 4096, n),
    )
    x = inputs(m=m, batch=1, steps=60) * rng.integers(1, share + 1, (60, 1, m))
    result = core.neuron.run(p, x, allow_overflow=True)
    assert (result.overflows > 20) == (share > 1)

    lif = models.PyLifModelBitAcc({})
    lif.u, lif.v = np.zeros(n, np.int32), np.zeros(n, np.int32)
    lif.du, lif.dv, lif.vth = words - 1, DECAY_ONE, p.threshold
    lif.bias_mant, lif.bias_exp = p.bias.astype(np.int16), np.zeros(n, np.int16)
    lif.scale_bias()
    lif.scale_threshold()
    for t in range(len(x)):
        lif.subthr_dynamics(p.weight @ x[t, 0])
        np.testing.assert_array_equal(result.v[t, 0], lif.v, err_msg=f"v of Lava's LIF at step {t}")
        np.testing.assert_array_equal(result.spikes[t, 0], lif.spiking_activation())
    # a neuron's other accumulators stay empty: its current is in the place of its word
    np.testing.assert_array_equal(result.state.current[0][np.arange(n), np.searchsorted(p.codebook, words)], lif.u)


def test_the_forms_agree_where_they_must(core: Core) -> None:
    """In the same fraction and without overflow the forms differ by rounding only: where every synapse of a neuron has
    a word of its own, nothing is shared; where every word is 0 or 4096, nothing is rounded."""
    rng = np.random.default_rng(6)
    n, m = 5, 4
    unshared = np.stack([rng.choice(np.arange(1, DECAY_ONE), m + n, replace=False) for _ in range(n)])
    ends = rng.choice([0, DECAY_ONE], (n, m + n))
    few = rng.choice([3, 30], (n, m + n))
    same = []
    for words in (unshared, ends, few):
        fields = {"decay": words[:, :m], "recurrent_decay": words[:, m:], "fraction": 6}
        cluster, synapse = (core.neuron.run(layer(core, form=f, **fields), inputs()) for f in ("cluster", "synapse"))
        same.append((cluster.v == synapse.v).all() and (cluster.spikes == synapse.spikes).all())
    assert same == [True, True, False]


# ---- bits --------------------------------------------------------------------------------------------------------


def test_currents_wrap_and_v_clips(core: Core) -> None:
    """2^23 itself stands, as in Lava's LIF; beyond it comes around. v stops at 2^23 - 1."""
    half = 1 << 23
    wrapped = core.neuron.wrapped(np.array([half, half + 1, -half, -half - 1, half - 1, 3 * half]), 24)
    assert wrapped.tolist() == [half, 1 - half, half, half - 1, half - 1, half]
    assert core.neuron.wrapped(np.array([1 << 31, (1 << 31) + 1]), 32).tolist() == [1 << 31, 1 - (1 << 31)]
    p = core.neuron.FixedParams([[64, 0], [-64, -64], [64, 64]], [[0, 1], [0, 1], [0, 1]], spiking=False)
    most = half // DECAY_ONE - 1  # graded: 64 units of weight in 1 / 64 are 4096
    result = core.neuron.run(p, lines([most, most], [2, 2]), allow_overflow=True)
    assert result.v[0, 0].tolist() == [most * DECAY_ONE, 1 - half, half - 1]
    assert result.v[1, 0, 0] == (most + 2) * DECAY_ONE - 2 * half
    assert core.neuron.run(p, lines([most, most]), allow_overflow=True).peak == 2 * most * DECAY_ONE


@pytest.mark.parametrize(("form", "graded"), [("cluster", 1040), ("synapse", 4200)])
def test_overflow_says_where(core: Core, form: str, graded: int) -> None:
    """The third neuron's current leaves its bits at step 2 in row 1: said, unless allowed, and then counted."""
    p = core.neuron.FixedParams([[1], [-1], [126]], 0, threshold=131071, form=form)
    x = np.zeros((4, 2, 1), int)
    x[1:3, 1] = graded // 2 + 1
    bits = {"cluster": 24, "synapse": 32}[form]
    with pytest.raises(core.neuron.FixedPointOverflow) as error:
        core.neuron.run(p, x, name="hidden")
    words = f"layer 'hidden': the synaptic current of neuron 2 left {bits} bits at step 2 (row 1 of the batch"
    assert str(error.value)[: len(words)] == words
    result = core.neuron.run(p, x, allow_overflow=True)
    assert result.overflows == 1 and result.v[2, 1, 2] < 0, "one overflow is counted, and wraps"
    assert core.neuron.run(p, x // 2).overflows == 0


def test_v_and_the_other_currents_overflow_too(core: Core) -> None:
    def message(p: Any, *steps: Any) -> str:
        with pytest.raises(core.neuron.FixedPointOverflow) as error:
            core.neuron.run(p, lines(*steps))
        return str(error.value).partition(" left")[0]

    big = 1 << 22
    base = {"weight": [[127]], "decay": DECAY_ONE, "threshold": 100}
    make = core.neuron.FixedParams
    assert message(make(**base, bias=(1 << 23) - 1), 1) == "the v of neuron 0"
    adaptation = {"adaptation_decay": 0, "adaptation_strength": -big}
    assert message(make(**base, **adaptation), 1, 1, 1, 1) == "the adaptation current of neuron 0"
    both = {"weight": [[1, 1]], "decay": [[0, DECAY_ONE]], "threshold": 131071, "bias": 63, "reset_decay": 0}
    assert message(make(**both), [131071, 0], [0, 131071], [0, 131071]) == "the reset current of neuron 0"
    recurrent = {
        "recurrent_weight": [[127]],
        "recurrent_decay": 0,
        "recurrent_exp": 7,
        "form": "synapse",
        "fraction": 20,
    }
    assert message(make(**base, **recurrent), 1, 1, 1) == "the recurrent synaptic current of neuron 0"


# ---- what rounding toward zero may do ----------------------------------------------------------------------------


def float_v(p: Any, x: Any, spikes: Any) -> Any:
    """v in state units of the float64 neuron with the same numbers and the same spikes."""
    params = p.to_params()
    state = reference.zero_state(params, x.shape[1])
    v = []
    for t in range(len(x)):
        state = reference.step(params, x[t], state)
        v.append(state.v)
        if spikes is not None:
            state = state._replace(spikes=spikes[t].astype(np.float64))
    return np.array(v) / (p.unit / (1 << p.fraction))


@pytest.mark.parametrize("form", ["cluster", "synapse"])
def test_rounding_stays_below_its_bound(core: Core, form: str) -> None:
    for seed in range(5):
        p = layer(core, seed, n=4, m=9, form=form, unit=0.037)
        x = inputs(seed, steps=150, m=9)
        result = core.neuron.run(p, x)
        error = np.abs(result.v - float_v(p, x, result.spikes)).max((0, 1))
        bound = core.neuron.truncation_bound(p, len(x))
        assert result.spikes.any() and error.max() > 3
        assert (error <= bound * (1 + 1e-9)).all(), (error, bound)


def test_the_bound_is_met_almost(core: Core) -> None:
    """One unit in 1 / 64 with word 1 loses 1 - u / 4096 a step: 49.2 of at most 49.7 within 50 steps."""
    p = core.neuron.FixedParams([[1]], 1, spiking=False)
    x = lines(1, *[0] * 50)
    error = np.abs(core.neuron.run(p, x).v - float_v(p, x, None)).max()
    (bound,) = core.neuron.truncation_bound(p, 50)
    assert 0.98 * bound < error, "the bound is met almost"
    assert error <= bound, "the bound holds"


def test_the_finer_fraction_of_the_synapse_form_is_needed(core: Core) -> None:
    """700 synapses with taus of 20 to 100 steps: at most 8 % of a threshold of 100 is lost with 12 fractional bits,
    while with 6 the loss is beyond that bound: the bound is no excuse for a coarse last bit."""
    rng = np.random.default_rng(0)
    m = 700
    words = core.rounding.decay_to_word(np.exp(-1 / rng.uniform(20, 100, (2, m))))
    fields: dict[str, Any] = {"weight": rng.integers(1, 60, (2, m)), "decay": words, "spiking": False}
    x = inputs(steps=250, batch=2, m=m, share=0.05)
    lost = {}
    for fraction in (None, 6):
        p = core.neuron.FixedParams(**fields, form="synapse", fraction=fraction)
        error = np.abs(core.neuron.run(p, x).v - float_v(p, x, None)).max((0, 1))
        lost[fraction] = error / (1 << p.fraction)
        assert (error <= core.neuron.truncation_bound(p, len(x))).all()
    fine = core.neuron.truncation_bound(core.neuron.FixedParams(**fields, form="synapse"), len(x)) / DECAY_ONE
    assert (lost[None] < fine).all() and (fine < 12).all() and (lost[6] > 5 * fine / 2).all(), "12 bits are fine"
    assert (lost[None] > fine / 4).all()


# ---- state and inputs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cluster", "synapse"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "with delays"])
def test_chunks_are_the_whole(core: Core, form: str, late: bool) -> None:
    """The past of synapses with delays is as long as the longest of them, longer than some chunks."""
    p, x = layer(core, form=form, **(delays() if late else {})), inputs()
    unbroken = core.neuron.run(p, x)
    state, v, spikes = None, [], []
    for part in np.split(x, [1, 7, 25]):
        result = core.neuron.run(p, part, state)
        state = result.state
        v.append(result.v)
        spikes.append(result.spikes)
    np.testing.assert_array_equal(np.concatenate(v), unbroken.v)
    np.testing.assert_array_equal(np.concatenate(spikes), unbroken.spikes)
    for one, other in zip(state, unbroken.state, strict=True):
        np.testing.assert_array_equal(one, other)
    if late:
        assert state.past_inputs.shape == (9, 3, 4) and state.past_spikes.shape == (9, 3, 5)
        np.testing.assert_array_equal(state.past_spikes, unbroken.spikes[-10:-1])
    assert core.neuron.run(p, x[:0], state).state.reset is not None
    neurons, one = core.neuron.Neurons(p), core.neuron.zero_state(p, 3)
    for t, spikes_in in enumerate(x):
        one, v_of_one = neurons.advance(one, spikes_in, t)
        np.testing.assert_array_equal(v_of_one, unbroken.v[t])
    nobody = core.neuron.run(p, x[:, :0])
    assert nobody.v.shape == nobody.spikes.shape == (40, 0, 5) and nobody.state.current.shape[0] == 0


def test_sums_made_in_pieces_are_the_same(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    p, x = layer(core), inputs()
    unbroken = core.neuron.run(p, x).v
    a_step = x.shape[1] * 5 * len(p.codebook)
    monkeypatch.setattr(core.neuron, "CHUNK", 4 * a_step - 1)
    np.testing.assert_array_equal(core.neuron.run(p, x).v, unbroken)
    made = [sums.base.size for sums in core.neuron.Accumulators(p).inputs.each(x, len(x))]
    assert made == [3 * a_step] * 39 + [a_step]  # of 40 steps: as many at a time as stay below the limit


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((5, 3)), r"inputs: expected shape \(T, B, 4\)"),
        (np.full((5, 3, 4), 0.5), "inputs: expected whole numbers .* got fractions or NaN"),
        (np.full((5, 3, 4), np.nan), "inputs: expected whole numbers .* got fractions or NaN"),
        (np.zeros((5, 3, 4), complex), "inputs: expected whole numbers, got complex128"),
    ],
)
def test_wrong_inputs(core: Core, x: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        core.neuron.run(layer(core), x)


def test_wrong_states(core: Core) -> None:
    p, x = layer(core), inputs()
    with pytest.raises(ValueError, match="state: expected a FixedState or None, got tuple"):
        core.neuron.run(p, x, (0, 1))
    with pytest.raises(ValueError, match=r"state.current: expected shape \(3, 5, 6\), got \(2, 5, 6\)"):
        core.neuron.run(p, x, core.neuron.zero_state(p, 2))
    other = core.neuron.zero_state(p.replace(adaptation_decay=None, adaptation_strength=None), 3)
    with pytest.raises(ValueError, match=r"state.adaptation: expected shape \(3, 5\), got None"):
        core.neuron.run(p, x, other)


def test_bool_and_whole_floats_are_inputs(core: Core) -> None:
    p, x = layer(core), inputs()
    for dtype in (bool, np.uint8, np.float32):
        np.testing.assert_array_equal(core.neuron.run(p, x.astype(dtype)).v, core.neuron.run(p, x).v)


# ---- the fields --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight": np.full((5, 4), 128)}, "weight: expected -128..127, got 20 outside, from 128 to 128"),
        ({"weight": np.zeros(4, int)}, r"weight: expected shape \(N, M\), got \(4,\)"),
        ({"weight": np.zeros((1, 5, 4), int)}, r"weight: expected shape \(N, M\), got \(1, 5, 4\)"),
        ({"weight": np.zeros((0, 4), int)}, r"weight: expected shape \(N, M\), got \(0, 4\)"),
        ({"weight": np.full((5, 4), 0.5)}, "weight: expected whole numbers, got float64 with fractions"),
        ({"decay": np.full((5, 4), 4097)}, "decay: expected 0..4096, got 20 outside"),
        ({"decay": -1}, "decay: expected 0..4096, got 1 outside"),
        ({"decay": np.zeros(5, int)}, r"decay: expected shape \(5, 4\), got \(5,\)"),
        ({"weight_exp": 8}, "weight_exp: expected 0..7"),
        ({"recurrent_exp": -1}, "recurrent_exp: expected 0..7"),
        ({"threshold": 0}, "threshold: expected 1..131071"),
        ({"threshold": 1 << 17}, "threshold: expected 1..131071"),
        ({"reset_decay": [1, 2]}, r"reset_decay: expected shape \(5,\), got \(2,\)"),
        ({"recurrent_decay": None}, "recurrent_decay: expected together with recurrent_weight, got one of them"),
        ({"adaptation_strength": None}, "adaptation_strength: expected together with adaptation_decay"),
        ({"spiking": False}, "reset_decay: expected None where spiking=False"),
        ({"delay": np.full((5, 4), 63)}, "delay: expected 0..62, got 20 outside, from 63 to 63"),
        ({"recurrent_delay": -1}, "recurrent_delay: expected 0..62"),
        ({"delay": 0.5}, "delay: expected whole numbers"),
        (
            {"recurrent_weight": None, "recurrent_decay": None, "recurrent_delay": 1},
            "recurrent_delay: expected None where there is no recurrent_weight, got a value",
        ),
        ({"bias": 1 << 23}, "bias: expected -8388607..8388607"),
        ({"form": "synaps"}, "form: expected one of cluster, synapse, got 'synaps'"),
        ({"fraction": 16}, "fraction: expected 0..15"),
        ({"unit": 0.0}, "unit: expected a finite number > 0, got 0.0"),
        ({"unit": np.inf}, "unit: expected a finite number > 0, got inf"),
    ],
)
def test_wrong_fields(core: Core, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        layer(core, **changes)


def test_fields_are_the_layers_own(core: Core) -> None:
    weight = np.ones((2, 3), int)
    p = core.neuron.FixedParams(weight, 5, threshold=7.0)
    weight[:] = 0
    assert p.weight.tolist() == [[1, 1, 1]] * 2 and p.decay.tolist() == [[5] * 3] * 2 and p.threshold.tolist() == [7, 7]
    with pytest.raises(ValueError, match="read-only"):
        p.weight[0] = 0
    assert repr(layer(core)) == "FixedParams(4 -> 5, recurrent, cluster form, 6 decay words)"


def test_to_params_are_the_same_numbers(core: Core) -> None:
    p = layer(core, unit=0.25, **delays())
    result = p.to_params()
    np.testing.assert_array_equal(result.weight, p.weight * 0.5)
    np.testing.assert_array_equal(result.recurrent_weight, p.recurrent_weight * 0.25)
    np.testing.assert_array_equal(result.decay, (DECAY_ONE - p.decay) / DECAY_ONE)
    np.testing.assert_array_equal(result.threshold, p.threshold / 4)
    np.testing.assert_array_equal(result.bias, p.bias / 256)
    np.testing.assert_array_equal(result.adaptation_strength, p.adaptation_strength / 256)
    back, rounding = core.rounding.quantise(result, unit=0.25)
    assert rounding == (0, 0, 0.0, 0.0)
    assert result.max_delay == 9 and back.delay.dtype == np.int64
    for name in ("decay", "reset_decay", "recurrent_decay", "adaptation_decay", "threshold", "bias", *DELAYS):
        np.testing.assert_array_equal(getattr(back, name), getattr(p, name), err_msg=name)


# ---- from float to integers --------------------------------------------------------------------------------------


def floats(**changes: Any) -> HetSynParams:
    rng = np.random.default_rng(3)
    fields: dict[str, Any] = {
        "weight": rng.normal(0, 0.5, (6, 5)),
        "decay": rng.uniform(0.5, 0.99, (6, 5)),
        "reset_decay": 0.8,
        "recurrent_weight": rng.normal(0, 0.1, (6, 6)),
        "recurrent_decay": 0.9,
        **changes,
    }
    return HetSynParams(**fields)


def test_quantise_takes_the_largest_unit_that_fits(core: Core) -> None:
    """The larger matrix fills 127 << e, the smaller 64..127 in the same unit with its own exponent."""
    params = floats()
    p, rounding = core.rounding.quantise(params)
    ratio = np.abs(params.weight).max() / np.abs(params.recurrent_weight).max()
    assert ratio > 2 and p.weight_exp == int(np.log2(ratio)) and p.recurrent_exp == 0
    assert np.abs(p.weight).max() == 127 and 63 <= np.abs(p.recurrent_weight).max() <= 127
    assert p.unit == np.abs(params.weight).max() / (127 << p.weight_exp)
    rounded = p.to_params()
    np.testing.assert_allclose(rounded.weight, params.weight, rtol=0, atol=p.unit * (1 << p.weight_exp) / 2 * 1.001)
    np.testing.assert_allclose(rounded.recurrent_weight, params.recurrent_weight, rtol=0, atol=p.unit / 2 * 1.001)
    np.testing.assert_allclose(rounded.threshold, 1.0, rtol=0, atol=p.unit / 2)
    assert np.abs(rounded.decay - params.decay).max() == rounding.decay_error <= 1 / 8192
    assert 0 < rounding.weight_error <= 0.5 / 127, "half a bit of the largest weight at most is lost"
    assert rounding.clipped_weights == rounding.clipped_taus == 0


def test_quantise_with_a_threshold_far_above_every_weight(core: Core) -> None:
    p, _ = core.rounding.quantise(floats(threshold=1e6))
    assert p.threshold.tolist() == [131071] * 6


def test_quantise_without_weights(core: Core) -> None:
    p, rounding = core.rounding.quantise(
        floats(weight=np.zeros((2, 2)), decay=0.5, recurrent_weight=None, recurrent_decay=None)
    )
    assert p.threshold.tolist() == [64, 64]
    assert not p.weight.any() and rounding.weight_error == 0


def test_quantise_refuses_what_does_not_fit_or_clips_and_counts(core: Core) -> None:
    weight = floats().weight.copy()
    weight[0, :3] = [40.0, -50.0, 60.0]
    with pytest.raises(ValueError, match="got 3 weights that do not fit 8 bits; clip=True takes the nearest"):
        core.rounding.quantise(floats(weight=weight), unit=1 / 1024)
    p, rounding = core.rounding.quantise(floats(weight=weight), unit=1 / 1024, clip=True)
    assert p.weight_exp == 7 and p.weight[0, :3].tolist() == [127, -128, 127] and rounding.clipped_weights == 3
    np.testing.assert_allclose(rounding.weight_error, (60 - 127 / 8) / 60)

    decay = np.full((6, 5), 0.9)
    decay[0, :4] = [1e-5, 1 - 1e-5, 0.0, 1.0]  # two that 12 bits cannot hold, and the two ends, which they hold
    with pytest.raises(ValueError, match="got 2 decays whose tau does not fit 12 bits"):
        core.rounding.quantise(floats(decay=decay))
    p, rounding = core.rounding.quantise(floats(decay=decay), clip=True)
    assert p.decay[0, :4].tolist() == [DECAY_ONE, 0, DECAY_ONE, 0] and rounding.clipped_taus == 2


def test_quantise_rounds_no_delay(core: Core) -> None:
    """Whole ones are taken as they are; what is to be done about others is the user's to say."""
    fixed, _ = core.rounding.quantise(floats(delay=np.float64(62.0)))
    assert fixed.delay.tolist() == np.full(fixed.weight.shape, 62).tolist()
    with pytest.raises(
        ValueError, match=r"delay: expected whole steps for integers, got 1.5; round_delays_\(net\) makes"
    ):
        core.rounding.quantise(floats(delay=1.5))
    with pytest.raises(
        ValueError, match=r"delay: expected at most 62 steps, as a chip's axons delay, got 63; train with"
    ):
        core.rounding.quantise(floats(delay=63.0))
    recurrent = {"recurrent_weight": np.ones((6, 6)), "recurrent_decay": 0.5, "recurrent_delay": 0.25}
    with pytest.raises(ValueError, match="recurrent_delay: expected whole steps"):
        core.rounding.quantise(floats(**recurrent))


def test_quantise_rejects_wrong_options(core: Core) -> None:
    with pytest.raises(ValueError, match="form: expected one of cluster, synapse, got 'x'"):
        core.rounding.quantise(floats(), form="x")
    with pytest.raises(ValueError, match=r"threshold: expected more than half a weight unit of 3, got 1; the largest"):
        core.rounding.quantise(floats(), unit=3.0)


def test_a_fine_unit_and_long_taus_give_the_float_neuron(core: Core) -> None:
    """Weights and decays that the integers hold exactly: the synapse form with 16 fractional bits spikes as float64."""
    exact = layer(core, form="synapse", fraction=16, unit=1 / 64, reset_decay=2500, bias=1 << 18)
    x = inputs()
    spikes, v, _ = reference.run(exact.to_params(), x)
    result = core.neuron.run(exact, x)
    np.testing.assert_array_equal(result.spikes, spikes)
    np.testing.assert_allclose(result.v * (exact.unit / 2**16), v, rtol=0, atol=1e-4)


# ---- a stack -----------------------------------------------------------------------------------------------------


def stack(core: Core, delay: Any = None, always_on: bool = False) -> Any:
    hidden = core.network.FixedLayer("hidden", layer(core, m=4), always_on, delay)
    out = core.neuron.FixedParams([[1, 2, 3, 4, 5]], DECAY_ONE, spiking=False)
    return core.network.FixedNetwork((hidden, core.network.FixedLayer("out", out)))


def test_a_stack_passes_spikes_on(core: Core) -> None:
    net, x = stack(core), inputs()
    result = net.run(x)
    alone = core.neuron.run(net.layers[0].params, x)
    np.testing.assert_array_equal(result["hidden"].spikes, alone.spikes)
    np.testing.assert_array_equal(result["out"].v[..., 0], (alone.spikes * [1, 2, 3, 4, 5]).sum(-1) * 64)
    np.testing.assert_array_equal(net.output(x), result["out"].v)
    assert list(result) == ["hidden", "out"]


def test_delays_are_of_the_axon(core: Core) -> None:
    """Spikes leave later; the neuron itself (recurrence, reset) knows nothing of it."""
    delay = [0, 3, 1, 62, 2]
    plain, delayed = (net.run(inputs()) for net in (stack(core), stack(core, delay)))
    np.testing.assert_array_equal(delayed["hidden"].v, plain["hidden"].v)
    steps = len(inputs())
    for neuron, by in enumerate(delay):
        came = delayed["hidden"].spikes[:, :, neuron]
        assert not came[:by].any(), f"nothing leaves before {by} steps"
        want = plain["hidden"].spikes[: max(steps - by, 0), :, neuron]
        np.testing.assert_array_equal(came[by:], want, err_msg=f"spikes {by} steps later")
    assert (delayed["out"].v != plain["out"].v).any()


def test_latency_moves_everything_by_a_step_a_layer(core: Core) -> None:
    now, later = stack(core).run(inputs()), stack(core).run(inputs(), latency=1)
    np.testing.assert_array_equal(later["hidden"].v[1:], now["hidden"].v[:-1], err_msg="v a step later")
    np.testing.assert_array_equal(later["hidden"].spikes[1:], now["hidden"].spikes[:-1])
    np.testing.assert_array_equal(later["out"].v[2:], now["out"].v[:-2])
    assert not later["out"].v[:2].any() and not later["hidden"].spikes[0].any()


def test_the_always_on_line_is_one_at_every_step(core: Core) -> None:
    net, x = stack(core, always_on=True), inputs(m=3)
    assert net.layers[0].widths == (3, 5)
    by_line = core.neuron.run(net.layers[0].params, np.concatenate([x, np.ones((40, 3, 1), int)], 2))
    np.testing.assert_array_equal(net.run(x)["hidden"].v, by_line.v, err_msg="v with a line of ones")


def test_overflow_in_a_stack_names_the_layer(core: Core) -> None:
    big = core.neuron.FixedParams([[127]], 0, weight_exp=7, spiking=False)
    net = core.network.FixedNetwork((core.network.FixedLayer("loud", big),))
    with pytest.raises(
        core.neuron.FixedPointOverflow, match="layer 'loud': the synaptic current of neuron 0 left 24 bits at step 8 "
    ):
        net.run(np.ones((20, 1, 1), int))
    assert net.run(np.ones((20, 1, 1), int), allow_overflow=True)["loud"].overflows > 0


def test_stacks_that_do_not_fit(core: Core) -> None:
    layer_of, net_of = core.network.FixedLayer, core.network.FixedNetwork
    out = layer_of("out", core.neuron.FixedParams([[1]], 0, spiking=False))
    wide = layer_of("wide", core.neuron.FixedParams([[1, 1]], 0))
    cases: list[tuple[Any, str]] = [
        (lambda: net_of(()), "layers: expected at least one, got none"),
        (lambda: net_of((wide, wide)), "layers: expected different names, got wide, wide"),
        (lambda: net_of((out, wide)), "layer 'out': expected the readout to be the last layer"),
        (lambda: net_of((layer_of("a", wide.params), wide)), "layer 'wide': expected 2 lines in, 1 come out of 'a'"),
        (lambda: layer_of("", wide.params), "name: expected a printable text, got ''"),
        (lambda: layer_of("out", out.params, delay=1), "layer 'out': delay: expected None for a readout"),
        (lambda: layer_of("wide", wide.params, delay=63), "layer 'wide': delay: expected 0..62"),
        (lambda: layer_of("wide", wide.params, delay=[1, 2]), r"layer 'wide': delay: expected shape \(1,\)"),
        (
            lambda: net_of((layer_of("wide", wide.params, delay=60), layer_of("b", out.params.replace(delay=3)))),
            "layer 'b': delay: expected at most 62 steps together with those .* of 'wide' leave later, got 63",
        ),
    ]
    for make, words in cases:
        with pytest.raises(ValueError, match=words):
            make()


def test_quantise_a_network(core: Core) -> None:
    """Every layer in its own unit, the always-on line inside the layer behind it; run beside the float network."""
    rng = np.random.default_rng(5)
    on = HetSynParams(rng.normal(0.2, 0.4, (8, 4)), rng.uniform(0.5, 0.95, (8, 4)), reset_decay=0.8)
    out = HetSynParams.readout(rng.normal(0, 1, (2, 8)), 0.9)
    net = Network((AlwaysOn("on"), HetSynLayer("hidden", on), Dropout("drop", 0.5), HetSynLayer("out", out)))
    fixed, reports = core.network.quantise(net, form="synapse")
    assert [each.name for each in fixed.layers] == ["hidden", "out"] == list(reports)
    assert [each.always_on for each in fixed.layers] == [True, False]
    assert fixed.layers[0].params.form == "synapse" and not fixed.layers[1].params.spiking
    x = inputs(m=3)
    want, result = net.run(x), fixed.run(x)
    assert want["hidden"][0] is not None and want["hidden"][0].mean() > 0.05
    assert (result["hidden"].spikes != want["hidden"][0]).mean() < 0.04

    chosen, reports = core.network.quantise(net, units={"hidden": 1 / 80}, clip=True)
    assert chosen.layers[0].params.unit == 1 / 80 and chosen.layers[1].params.unit == fixed.layers[1].params.unit
    assert chosen.layers[0].params.threshold.tolist() == [80] * 8
    with pytest.raises(ValueError, match=r"layer 'out': params: .* weights that do not fit 8 bits"):
        core.network.quantise(net, units={"out": 1e-6})
    with pytest.raises(ValueError, match=r"units: expected names of layers \(hidden, out\), got elsewhere"):
        core.network.quantise(net, units={"elsewhere": 1.0})

    wrong: list[tuple[Any, str]] = [
        (
            (Linear("mix", np.ones((4, 4))), HetSynLayer("hidden", on)),
            "layer 'mix': expected HetSyn layers only, got a Linear",
        ),
        ((HetSynLayer("hidden", on), AlwaysOn("on")), "network: expected a HetSyn layer behind the last AlwaysOn"),
        (
            (AlwaysOn("a"), AlwaysOn("b"), HetSynLayer("hidden", on)),
            "layer 'b': expected HetSyn layers only, got a AlwaysOn",
        ),
    ]
    for layers, words in wrong:
        with pytest.raises(ValueError, match=words):
            core.network.quantise(Network(layers))


# ---- on both sides of a limit, and what nobody saw once ---------------------------------------------------------


def test_every_delay_is_exact(core: Core) -> None:
    """Neuron d fires at step 0 and leaves d steps later, 0 to 62: never a step sooner, in the layer behind too."""
    n = core.network.MAX_DELAY + 1
    fire = core.neuron.FixedParams([[2]] * n, DECAY_ONE, threshold=1)
    out = core.neuron.FixedParams(np.eye(n, dtype=int), DECAY_ONE, spiking=False)
    layers = core.network.FixedLayer("fire", fire, delay=np.arange(n)), core.network.FixedLayer("out", out)
    runs = core.network.FixedNetwork(layers).run(lines(1, *[0] * 70))
    steps, neurons = np.nonzero(runs["fire"].spikes[:, 0])
    assert n == 63 and neurons.tolist() == list(range(n))
    assert steps.tolist() == list(range(n)), "a spike leaves after its delay"
    assert np.argmax(runs["out"].v[:, 0], axis=0).tolist() == list(range(n))


def test_decay_words_round_ties_to_even(core: Core) -> None:
    """d = 4096 (1 - r) half way between two words, exactly: r = 1 - d / 4096 has no rounding of its own."""
    d = np.array([0.5, 1.5, 2.5, 3.5, 1000.5, 1001.5, 4094.5, 4095.5])
    r = 1 - d / DECAY_ONE
    assert (DECAY_ONE * (1 - r) == d).all()
    assert core.rounding.decay_to_word(r).tolist() == [0, 2, 2, 4, 1000, 1002, 4094, 4096]
    assert core.rounding.decay_to_word(1 - (d + 1e-6) / DECAY_ONE).tolist() == [1, 2, 3, 4, 1001, 1002, 4095, 4096]
    assert core.rounding.decay_to_word(1 - (d - 1e-6) / DECAY_ONE).tolist() == [0, 1, 2, 3, 1000, 1001, 4094, 4095]


def test_the_weight_error_is_that_of_recurrent_weights_too(core: Core) -> None:
    """In units of 1: 1 and 10 fit; of 0.25 a quarter is lost, of 10.5 a half (ties to even); the largest is 10.5."""
    both = {"weight": [[1.0, 10.0]], "reset_decay": 0.5, "recurrent_decay": 0.5, "decay": 0.5}
    _, small = core.rounding.quantise(HetSynParams(**both, recurrent_weight=[[0.25]]), unit=1.0)
    _, large = core.rounding.quantise(HetSynParams(**both, recurrent_weight=[[10.5]]), unit=1.0)
    assert small.weight_error == 0.25 / 10, "the recurrent weight's error"
    assert large.weight_error == 0.5 / 10.5 and large.clipped_weights == 0


@pytest.mark.parametrize("name", ["weight", "recurrent_weight"])
def test_the_largest_weight_and_the_next_one(core: Core, name: str) -> None:
    """In steps of 2^7 units, the largest exponent: what is nearer to 127 or -128 than half a step fits, exactly half
    too (it is rounded to where it would go anyway); the next is counted as clipped."""
    table = [
        (127.0, 127, 0),
        (127.5, 127, 0),
        (127.51, 127, 1),
        (-128.0, -128, 0),
        (-128.5, -128, 0),
        (-128.51, -128, 1),
    ]
    for steps, mantissa, clipped in table:
        weights = {"weight": [[1.0]], "recurrent_weight": [[1.0]], name: [[steps * 128]]}
        params = HetSynParams(**weights, decay=0.5, recurrent_decay=0.5, reset_decay=0.5)
        p, report = core.rounding.quantise(params, unit=1.0, clip=True)
        assert getattr(p, name).tolist() == [[mantissa]], f"the mantissa of {steps}"
        assert report.clipped_weights == clipped, f"is {steps} clipped"
        if clipped:
            with pytest.raises(ValueError, match="got 1 weights that do not fit 8 bits"):
                core.rounding.quantise(params, unit=1.0)


# ---- planted bugs ------------------------------------------------------------------------------------------------


class Bug(NamedTuple):
    """In a module of the core, `old` becomes `new`; `check` must then fail with an error that says `says`."""

    name: str
    old: str
    new: str
    check: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    module: str = "neuron"
    says: str = ""
    error: type[BaseException] = AssertionError


TRUNCATION = "np.sign(u) * (np.abs(u) * (DECAY_ONE - word) >> 12)"
BUGS = [
    Bug(
        "decay toward minus infinity",
        TRUNCATION,
        "u * (DECAY_ONE - word) >> 12",
        test_decay_words_by_hand,
        says="At index 5 diff: -1519 != -1518",
    ),
    Bug(
        "decay to the nearest",
        "(DECAY_ONE - word) >> 12",
        "(DECAY_ONE - word) + 2048 >> 12",
        test_decay_words_by_hand,
        says="At index 5 diff: 1519 != 1518",
    ),
    Bug(
        "decay of r = 1 - d / 4095",
        "(DECAY_ONE - word) >> 12",
        "(DECAY_ONE - 1 - word) >> 12",
        test_the_two_ends_are_exact,
        ("cluster",),
        says="word 4096 forgets everything",
    ),
    Bug(
        "word 4096 is 4095",
        "np.rint(DECAY_ONE * (1.0",
        "np.rint((DECAY_ONE - 1) * (1.0",
        test_the_two_ends_are_exact,
        ("cluster",),
        module="rounding",
        says="At index 0 diff: 4095 != 4096",
    ),
    Bug(
        "fires at the threshold",
        "(v > (",
        "(v >= (",
        test_the_threshold_itself_does_not_fire,
        says="At index 0 diff: [1, 1] != [0, 1]",
    ),
    Bug(
        "the new reset is decayed too",
        "decayed(s.reset, p.reset_decay) + jump",
        "decayed(s.reset + jump, p.reset_decay)",
        test_reset_by_hand,
        says="At index 1 diff: 512 != 384",
    ),
    Bug(
        "no reset by the threshold itself",
        "(p.threshold << p.fraction) * s.spikes",
        "p.threshold * s.spikes",
        test_reset_by_hand,
        says="At index 1 diff: 636 != 384",
    ),
    Bug(
        "the loop is transposed",
        "weight = p.recurrent_weight << p.recurrent_exp\n",
        "weight = p.recurrent_weight.T << p.recurrent_exp\n",
        test_recurrence_by_hand,
        says="At index 2 diff: [0, 0] != [0, 384]",
    ),
    Bug(
        "the loop has the inputs' exponent",
        "p.recurrent_weight << (p.recurrent_exp",
        "p.recurrent_weight << (p.weight_exp",
        test_equals_plain_python_integers,
        ("synapse", "everything"),
        says="v of sample 0",
    ),
    Bug(
        "adaptation helps",
        "total = total - adaptation",
        "total = total + adaptation",
        test_adaptation_and_bias_by_hand,
        says="At index 2 diff: 490 != 350",
    ),
    Bug(
        "bias in weight units",
        "total + p.bias",
        "total + (p.bias << p.fraction)",
        test_adaptation_and_bias_by_hand,
        says="At index 0 diff: 6400 != 100",
    ),
    Bug(
        "accumulators mixed up",
        "np.searchsorted(self.words, decay)",
        "np.searchsorted(-self.words[::-1], -decay)",
        test_equals_plain_python_integers,
        ("cluster", "readout"),
        says="v of sample 0",
    ),
    Bug(
        "the lower end stands",
        "half - (half - u) % (2 * half)",
        "(u + half) % (2 * half) - half",
        test_currents_wrap_and_v_clips,
        says="At index 0 diff: -8388608 != 8388608",
    ),
    Bug(
        "v clips at the lower end",
        "np.clip(v, -limit, limit)",
        "np.clip(v, -limit - 1, limit)",
        test_currents_wrap_and_v_clips,
        says="At index 1 diff: -8388608 != -8388607",
    ),
    Bug(
        "currents clip",
        "return wrapped(u, self.bits)",
        "return self.clip(u, t)",
        test_equals_lavas_lif,
        (1574,),
        says="v of Lava's LIF at step ",
    ),
    Bug(
        "an overflow is silent",
        "if not self.allow:",
        "if False:",
        test_overflow_says_where,
        ("cluster", 1040),
        says="DID NOT RAISE",
        error=pytest.fail.Exception,
    ),
    Bug(
        "an overflow is not counted",
        "self.overflows += len(beyond)",
        "pass",
        test_overflow_says_where,
        ("synapse", 4200),
        says="one overflow is counted, and wraps",
    ),
    Bug(
        "row and neuron swapped",
        "row, neuron = beyond",
        "neuron, row = beyond",
        test_overflow_says_where,
        ("cluster", 1040),
        says="neuron 1 left 24 bits at step 2 (row 2 of the batch",
    ),
    Bug(
        "spikes are not carried",
        "reset, adaptation, spikes, s.past",
        "reset, adaptation, None if spikes is None else 0 * spikes, s.past",
        test_reset_by_hand,
        says="At index 1 diff: 640 != 384",
    ),
    Bug(
        "a coarse last bit",
        '"synapse": (32, 12)',
        '"synapse": (32, 6)',
        test_the_finer_fraction_of_the_synapse_form_is_needed,
        says="12 bits are fine",
    ),
    Bug(
        "a bound that is half of it",
        "np.where(inside, (1 - r**steps)",
        "np.where(inside, 0.5 * (1 - r**steps)",
        test_the_bound_is_met_almost,
        says="the bound holds",
    ),
    Bug(
        "a bound that holds for ever",
        "np.where(inside, (1 - r**steps)",
        "np.where(inside, (1 + 0 * r)",
        test_the_bound_is_met_almost,
        says="the bound is met almost",
    ),
    Bug(
        "inputs' exponent forgotten",
        "self._sums(p.weight << p.weight_exp,",
        "self._sums(p.weight,",
        test_equals_plain_python_integers,
        ("cluster", "feed-forward"),
        says="v of sample 0",
    ),
    Bug(
        "what rounding does to weights not seen",
        "error = np.abs(weight - getattr(rounded, name))",
        "error = 0 * weight",
        test_quantise_takes_the_largest_unit_that_fits,
        module="rounding",
        says="half a bit of the largest weight at most is lost",
    ),
    Bug(
        "clips unasked",
        "if not clip:",
        "if False:",
        test_quantise_refuses_what_does_not_fit_or_clips_and_counts,
        module="rounding",
        says="DID NOT RAISE",
        error=pytest.fail.Exception,
    ),
    Bug(
        "the two ends refused",
        "& (decay > 0) & (decay < 1)",
        "",
        test_quantise_refuses_what_does_not_fit_or_clips_and_counts,
        module="rounding",
        says="got 4 decays whose tau does not fit 12 bits",
    ),
    Bug(
        "threshold in state units",
        "unit if counts == WEIGHT_UNITS else unit",
        "unit",
        test_quantise_without_weights,
        module="rounding",
        says="At index 0 diff: 4096 != 64",
    ),
    Bug(
        "the axon's delay in the neuron",
        "shifted(spikes, latency + delay)",
        "shifted(spikes, latency)",
        test_delays_are_of_the_axon,
        (),
        "network",
        says="spikes 3 steps later",
    ),
    Bug(
        "latency of spikes only",
        "shifted(result.v, latency)",
        "result.v",
        test_latency_moves_everything_by_a_step_a_layer,
        (),
        "network",
        says="v a step later",
    ),
    Bug(
        "always off",
        "np.ones((*x.shape[:2], 1)",
        "np.zeros((*x.shape[:2], 1)",
        test_the_always_on_line_is_one_at_every_step,
        (),
        "network",
        says="v with a line of ones",
    ),
    Bug(
        "always on forgotten",
        "layer.name, fixed, always_on)",
        "layer.name, fixed)",
        test_quantise_a_network,
        (),
        "network",
        says="At index 0 diff: False != True",
    ),
    Bug(
        "nameless layers",
        "name=layer.name, allow",
        "allow",
        test_overflow_in_a_stack_names_the_layer,
        (),
        "network",
        says="Regex pattern did not match",
    ),
    Bug(
        "delays above 1 are one short",
        "latency + delay)",
        "latency + delay - (np.asarray(delay) > 1))",
        test_every_delay_is_exact,
        module="network",
        says="a spike leaves after its delay",
    ),
    Bug(
        "delays of synapses are one short",
        "len(sources) - 1 - delay",
        "len(sources) - 1 - np.maximum(delay - 1, 0)",
        test_equals_plain_python_integers,
        ("synapse", "delays"),
        says="v of sample 0",
    ),
    Bug(
        "recurrent delays count from the step itself",
        "self.recurrent.of(fired(s))",
        "self.recurrent.of(np.concatenate([fired(s)[1:], fired(s)[-1:]]))",
        test_equals_plain_python_integers,
        ("cluster", "delays"),
        says="v of sample 0",
    ),
    Bug(
        "the past of inputs is not kept",
        "None if s.past_inputs is None else sources[steps:]",
        "None if s.past_inputs is None else 0 * sources[steps:]",
        test_chunks_are_the_whole,
        ("cluster", True),
        says="Arrays are not equal",
    ),
    Bug(
        "the past of spikes is a step late",
        "past_spikes = None if s.past_spikes is None else fired(s)[1:]",
        "past_spikes = None if s.past_spikes is None else fired(s)[:-1]",
        test_equals_plain_python_integers,
        ("synapse", "delays"),
        says="v of sample 0",
    ),
    Bug(
        "synapses with delays in another's accumulator",
        "(word + np.arange(n)[:, None] * words)",
        "(word + np.arange(n)[::-1, None] * words)",
        test_equals_plain_python_integers,
        ("cluster", "delays"),
        says="v of sample 0",
    ),
    Bug(
        "delays are rounded in silence",
        "if (delay != np.rint(delay)).any():",
        "if False:",
        test_quantise_rounds_no_delay,
        module="rounding",
        says="Regex pattern did not match",
    ),
    Bug(
        "the longest axon is of 63 steps",
        "if longest > MAX_DELAY:",
        "if longest > MAX_DELAY + 1:",
        test_stacks_that_do_not_fit,
        module="network",
        says="DID NOT RAISE",
        error=pytest.fail.Exception,
    ),
    Bug(
        "decay words round ties up",
        "np.rint(DECAY_ONE * (1.0 - np.asarray(decay, np.float64)))",
        "np.floor(DECAY_ONE * (1.0 - np.asarray(decay, np.float64)) + 0.5)",
        test_decay_words_round_ties_to_even,
        module="rounding",
        says="At index 0 diff: 1 != 0",
    ),
    Bug(
        "the weight error of inputs only",
        "for name, exponent in EXPONENTS.items():",
        'for name, exponent in (("weight", "weight_exp"),):',
        test_the_weight_error_is_that_of_recurrent_weights_too,
        module="rounding",
        says="the recurrent weight's error",
    ),
    Bug(
        "-128 is not used",
        "np.clip(mantissas, *MANTISSA)",
        "np.clip(mantissas, -127, 127)",
        test_the_largest_weight_and_the_next_one,
        ("weight",),
        module="rounding",
        says="the mantissa of -128.0",
    ),
    Bug(
        "a weight just too large is not counted",
        "0.5 * fixed.unit * (1 <<",
        "0.6 * fixed.unit * (1 <<",
        test_the_largest_weight_and_the_next_one,
        ("recurrent_weight",),
        module="rounding",
        says="is 127.51 clipped",
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug) -> None:
    fresh = changed(MODULES[bug.module], bug.old, bug.new, around=list(MODULES.values()))
    with caught(bug.says, bug.error):
        bug.check(Core(*fresh.values()), *bug.arguments)


@pytest.mark.parametrize("value", [2.0**23, -(2.0**57), 1e300, np.inf])
def test_inputs_that_no_graded_spike_holds_are_refused(value: float) -> None:
    """They would wrap in int64, silently."""
    p = fixed_point.FixedParams([[127]], 0, spiking=False)
    with pytest.raises(ValueError, match=r"inputs: expected graded spikes of at most 24 bits, 8388607 or less, got"):
        fixed_point.run(p, np.full((1, 1, 1), value))


@pytest.mark.parametrize("unit", [0.0, -1.0, np.nan, np.inf, "a"])
def test_a_unit_that_is_no_scale_is_named(unit: object) -> None:
    params = HetSynParams([[0.5]], 0.5, reset_decay=None)
    for call in (lambda: fixed_point.quantise(params, unit=unit), lambda: fixed_point.FixedParams([[1]], 0, unit=unit)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="unit: expected a finite number > 0, got"):
            call()


def test_a_fraction_of_a_bit_is_named() -> None:
    with pytest.raises(ValueError, match="fraction: expected whole numbers"):
        fixed_point.quantise(HetSynParams([[0.5]], 0.5, reset_decay=None), fraction=1.5)  # type: ignore[arg-type]


def test_the_lowest_mantissa_is_used() -> None:
    """-128 is one of the 8 bits' values: a weight there must not cost the others a bit."""
    fixed, _ = fixed_point.quantise(HetSynParams([[-4.0, 6 / 64]], 0.5, reset_decay=0.5), unit=1 / 64)
    assert fixed.weight_exp == 1 and fixed.weight.tolist() == [[-128, 3]]


def test_the_fields_are_those_of_the_core() -> None:
    """FixedParams has the fields of the core's table but masks, in order, and the exponents of its two matrices."""
    names = [field.name for field in fields(fixed_point.FixedParams)]
    ours = [name for name in names if name in FIELDS]
    assert ours == list(NUMBERS) == list(HELD) == sorted(COUNTS, key=list(FIELDS).index)
    assert set(names) - set(ours) == {*EXPONENTS.values(), "spiking", "form", "fraction", "unit"}
    legend = str(fixed_point.FixedParams.__doc__).partition("int64.")[2]
    assert all(re.search(rf"\b{name}\b", legend) for name in HELD)
    assert [name for name, counts in COUNTS.items() if counts == DECAY_WORDS] == list(DECAYS)
    assert set(EXPONENTS) == {name for name, field in FIELDS.items() if len(field.axes) == 2 and field.range is FINITE}


def test_old_names_are_offered() -> None:
    """What stood in the module `hetsyn_plugins.fixed_point` before it was a package; only ONE is DECAY_ONE now."""
    names = """Accumulators CHUNK DECAY_ONE FORMS FixedParams FixedPointOverflow FixedRun FixedState Integers MANTISSA
        MAX_EXP MAX_INPUT MAX_THRESHOLD Neurons Rounding Synapses Watch decay_to_word decayed fitting_state quantise
        refuse_clipped rounding run truncation_bound whole_numbers wrapped zero_state""".split()
    assert set(names) == set(fixed_point.__all__)
    assert all(hasattr(fixed_point, name) for name in names)
    assert callable(fixed_point.rounding) and fixed_point.DECAY_ONE == 4096
