"""HetSyn layers lowered to stock Lava processes: the proof that a Loihi compiler needs nothing of ours. Floating point.

A layer with K decays is accumulators behind a memoryless soma, all of them Lava's own:

    S4d    accumulators: K a neuron (synapses of a decay share one, inputs and recurrent ones alike), one each for the
           reset current and the adaptation current
    LIF    the soma (of a readout an S4d): du = dv = 1, so its v is what arrives in this step, plus the bias
    Dense  "direct": weights into the soma;  Sparse "spread": the same weights into the accumulators;
    Sparse "relay": accumulators into the soma, times their decay

A synapse takes a step, accumulators and relay two: what was accumulated until step t - 1 arrives, decayed once more,
together with the direct input of step t. So the sum is the current of step t, with latency 1, in recurrent synapses and
in the soft reset too. Every weight stands twice for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetsyn_plugins.adapters.lava_dl import runtime
from hetsyn_plugins.core.fields import DECAYS, Array
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.validation import check_inputs_shape
from hetsyn_plugins.fixed_point.neuron import DECAY_ONE

BITS = 24  # of a message, so that spikes may be graded


class Lowered(NamedTuple):
    """A layer as stock processes: the in ports that all take the layer's input, and the out port."""

    inputs: tuple[Any, ...]
    out: Any


def lower(params: HetSynParams, *, nearest: bool = False) -> Lowered:
    """Build the stock processes of a layer, connected with each other.

    nearest  take r = 1 / 4096 for 0 and 4095 / 4096 for 1, which a Loihi's 12-bit decay does not hold; else refused

    Raises ValueError for such decays, for a bias above its threshold (the soma would fire before the first input came)
    and for a bias of a readout (no stock process adds a constant to a graded spike); ImportError without Lava.
    """
    runtime.require_lava()
    from lava.proc.dense.process import Dense
    from lava.proc.s4d.process import S4d
    from lava.proc.sparse.process import Sparse

    p = representable(params, nearest)
    wiring = _wiring(p)
    decay = wiring.decay
    # S4d sends twice its c times the state
    accumulators = S4d(shape=decay.shape, a=decay, b=np.ones_like(decay), c=np.full_like(decay, 0.5))
    soma = _soma(p)
    relay = Sparse(weights=wiring.relay * decay, num_message_bits=BITS)
    accumulators.s_out.connect(relay.s_in)
    relay.a_out.connect(soma.a_in)

    def two_ways(to_soma: Array, to_accumulators: Array) -> tuple[Any, Any]:
        direct = Dense(weights=to_soma, num_message_bits=BITS)
        spread = Sparse(weights=to_accumulators, num_message_bits=BITS)
        direct.a_out.connect(soma.a_in)
        spread.a_out.connect(accumulators.a_in)
        return direct.s_in, spread.s_in

    inputs = two_ways(p.weight, wiring.input_spread)
    if wiring.direct.any():
        for port in two_ways(wiring.direct, wiring.spread):
            soma.s_out.connect(port)
    return Lowered(inputs, soma.s_out)


class _Wiring(NamedTuple):
    """What connects a layer's A accumulators, K a neuron and then those of reset and adaptation, with its N somas.

    decay         (A,)    of the accumulators
    relay         (N, A)  accumulators into their soma, before they are multiplied by their decay
    input_spread  (A, M)  weights of the inputs into the accumulators
    direct        (N, N)  of the soma's spikes into somas
    spread        (A, N)  of the soma's spikes into accumulators
    """

    decay: Array
    relay: Array
    input_spread: Array
    direct: Array
    spread: Array


def _wiring(p: HetSynParams) -> _Wiring:
    neurons, every = len(p.weight), np.eye(len(p.weight))
    decays_used = [d.ravel() for d in (p.decay, p.recurrent_decay) if d is not None]
    words = np.unique(np.concatenate(decays_used))
    synaptic = np.repeat(every, len(words), axis=1)  # (N, N * K): which accumulators belong to which soma
    decays, relay = [np.tile(words, neurons)], [synaptic]
    direct, spread = np.zeros((neurons, neurons)), [np.zeros((synaptic.shape[1], neurons))]
    if p.recurrent_weight is not None:
        direct, spread = p.recurrent_weight.copy(), [_by_word(p.recurrent_weight, p.recurrent_decay, words)]
    for decay, strength in ((p.reset_decay, p.threshold), (p.adaptation_decay, p.adaptation_strength)):
        if decay is not None:
            direct = direct - every * strength
            decays, relay, spread = [*decays, decay], [*relay, -every], [*spread, every * strength]
    decay = np.concatenate(decays)
    silent = np.zeros((len(decay) - synaptic.shape[1], p.weight.shape[1]))  # inputs do not reach reset and adaptation
    input_spread = np.vstack([_by_word(p.weight, p.decay, words), silent])
    return _Wiring(decay, np.hstack(relay), input_spread, direct, np.vstack(spread))


def _soma(p: HetSynParams) -> Any:
    """A memoryless neuron: a LIF whose v is what arrives in this step, plus the bias; of a readout an S4d."""
    from lava.proc.lif.process import LIF
    from lava.proc.s4d.process import S4d

    neurons = len(p.weight)
    if not p.spiking:
        return S4d(shape=(neurons,), a=np.zeros(neurons), b=np.ones(neurons), c=np.full(neurons, 0.5))
    bias = np.zeros(neurons) if p.bias is None else p.bias
    return LIF(shape=(neurons,), du=1.0, dv=1.0, vth=p.threshold, bias_mant=bias)


def representable(params: HetSynParams, nearest: bool = False) -> HetSynParams:
    """The layer in float64, written out, with decays that a 12-bit field holds; ValueError as `lower` says."""
    params.refuse_delays("stock processes (runtime.run_network and chip files hold whole ones)")
    p = params.astype(np.float64).expanded()
    decays = {name: getattr(p, name) for name in DECAYS if getattr(p, name) is not None}
    ends = sum(int(((d == 0) | (d == 1)).sum()) for d in decays.values())
    if ends and not nearest:
        raise ValueError(
            f"params: expected decays inside (0, 1), as a 12-bit field holds them, got {ends} of exactly 0 or 1; "
            f"nearest=True takes 1 / {DECAY_ONE} and {DECAY_ONE - 1} / {DECAY_ONE}"
        )
    inside = {name: np.clip(d, 1 / DECAY_ONE, 1 - 1 / DECAY_ONE) if nearest else d for name, d in decays.items()}
    if p.bias is not None and not p.spiking:
        raise ValueError("params.bias: expected None for a readout of stock processes, got a value")
    if p.bias is not None and (p.bias > p.threshold).any():
        raise ValueError("params.bias: expected none above its threshold, where the soma fires without input")
    return p.replace(**inside)


def _by_word(weight: Array, decay: Array, words: Array) -> Array:
    """(N * K, M): each weight in the row of its neuron and its decay."""
    neurons, lines = weight.shape
    out = np.zeros((neurons, len(words), lines))
    neuron, line = np.indices(weight.shape)
    out[neuron, np.searchsorted(words, decay), line] = weight
    return out.reshape(-1, lines)


def run(
    layers: Sequence[HetSynParams], inputs: ArrayLike, *, nearest: bool = False, timeout: float = 120.0
) -> list[NDArray[np.float64]]:
    """Run a stack of layers as stock processes in a child process.

    inputs  (T, 1, M): stock accumulators cannot be reset, so one sample a run

    Returns spikes, or v of a readout, (T, 1, N), of every layer, aligned with its input as `reference.run` gives them.
    """
    x = np.asarray(inputs, np.float64)
    check_inputs_shape(x, layers[0].weight)
    if x.shape[1] != 1 or not len(x):
        raise ValueError(f"inputs: expected one sample, (T, 1, M), got {x.shape}")
    runtime.require_lava()
    outputs: list[NDArray[np.float64]] = runtime.isolated(simulate, list(layers), x, nearest, timeout, timeout=timeout)
    return outputs


def simulate(layers: list[HetSynParams], x: Array, nearest: bool, timeout: float) -> list[Array]:
    """What `run` does in its child process."""
    from hetsyn_plugins.adapters.lava_dl.proc.io.process import Sink, Source

    steps = len(x) + len(layers)
    source = Source(x[:, 0])
    port, sinks = source.out, []
    for params in layers:
        lowered = lower(params, nearest=nearest)
        for entry in lowered.inputs:
            port.connect(entry)
        port = lowered.out
        sinks.append(Sink(len(params.weight), steps))
        port.connect(sinks[-1].inp)
    with runtime.running(source, "floating_pt", timeout) as run_steps:
        run_steps(steps)
    return [sink.data[1 + index :][: len(x), None].copy() for index, sink in enumerate(sinks)]
