"""What a configuration needs, known before it trains: memory, and the least time that it can take.

Memory of a run, beside the imports (430 MB) and the compiled kernels (some 180 MB), is the sum of

    SYNAPSE           bytes a synapse: weight, decay, gradients, two moments each, copies that are drawn, saved, kept
    NEURON            bytes a neuron, step and sample: what the forward pass keeps and the backward pass makes
    STATE             bytes a synapse and sample, of the layer with most of them: its state, and that one's gradient
    PAST              bytes an input of the synapses, step of the longest delay and sample: what a state keeps of it
    Task.line_bytes   bytes an input line, step and sample

over a batch, or over the samples of an evaluation where they need more. Measured (the peak, less that of a smallest
run) and estimated, MB:

    dms        training.batch=2000                                    1003   1103
               training.batch=2000 network.recurrent=false             837   1062
               training.batch=2000 task.group=1                        745    854
               training.batch=500 task.group=1 network.hidden=[500]   2715   2942
               training.batch=2 network.hidden=[5000]                 3845   5423
               task.test_samples=20000                                2128   2543
               task.delay=0 network.hidden=[2000]                     3907   3951
               training.batch=200 network.max_delay=15                1219   1350
    patterns   training.batch=200                                     1534   1792
               task.test_samples=200                                   563    533
    images     training.batch=5000, Fashion-MNIST                      931   1055
    speech     training.batch=800                                     2195   3340

On a card the same is held against what is free there, where the data that stay (`batches.KEPT`) leave three quarters.
It is refused only where it is more than there is. A batch counts as it is asked for, also where the data are fewer.

Time is what no machine falls below: ITERATION for every step, and ten times the speed of a core of ours. More than
LONGEST is refused: some months in truth. What a run likely takes (`likely_time`) is that speed itself; measured and
estimated, s: dms 19 and 17, patterns 16 and 14, an epoch of S-MNIST on one core 190 and 172.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

from hetsyn_plugins.core.network import HetSynLayer
from hetsyn_plugins.experiments.builder import built
from hetsyn_plugins.experiments.config import Config
from hetsyn_plugins.experiments.tasks.task import AT_A_TIME, DRAWN_EPOCH, DataTask, DrawnTask
from hetsyn_plugins.experiments.variants import steps_of

SYNAPSE, NEURON, STATE, PAST = 128, 36, 8, 20  # bytes
PROCESS = 256 << 20  # bytes of another process with the imports, as far as processes do not share them
CONTEXT = 512 << 20  # bytes of a card that a process takes for itself; not measured here
ITERATION = 1_500  # microseconds that an iteration takes at least, measured 2,200 (one neuron, 52 steps)
USUAL_ITERATION = 4_000  # microseconds that it takes beside the passing of its samples
USUAL_SPEED = 10  # times slower than SPEED is a core of ours
SPEED = 100_000  # synapse-steps a microsecond and thread, measured 10,000
DRAWING = 500  # random numbers a microsecond, measured 170
DAY = 24 * 3600 * 1_000_000  # microseconds
LONGEST = 10 * DAY


def memory_needed(config: Config, trains: bool = True) -> int:
    """Bytes at the worst moment of a run, or where it is not trained of its evaluation; in integers: none overflows."""
    task, settings = config.task, config.training
    layers = layer_sizes(config)
    neurons, synapses = sum(size.neurons for size in layers), [size.synapses for size in layers]
    of_state = max(size.synapses * STATE + size.past * PAST for size in layers)
    line_bytes = task.lines * task.line_bytes
    samples = min(AT_A_TIME, task.test_samples) if isinstance(task, DrawnTask) else AT_A_TIME

    held = task.held_at_once(samples) * task.longest * line_bytes
    evaluation = samples * (task.longest * neurons * NEURON // 2 + of_state) + held
    if not trains:
        return sum(synapses) * SYNAPSE // 4 + evaluation
    step = settings.batch * (task.steps * (neurons * NEURON + line_bytes) + of_state)
    ahead = settings.workers * (PROCESS + 2 * settings.batch * task.steps * line_bytes)
    return sum(synapses) * SYNAPSE + max(step, evaluation) + ahead


class Size(NamedTuple):
    """Of a layer; synapses with learned delays count twice, which is what they cost in time.

    past  numbers of a sample that its state keeps for delays
    """

    neurons: int
    synapses: int
    past: int = 0


def layer_sizes(config: Config) -> list[Size]:
    """Of each layer, the readout last."""
    task, lines, sizes = config.task, config.task.lines, []
    if config.network.builder:
        return _built_sizes(config.network.builder, task.lines, task.outputs, task.dt, task.spiking_output)
    for layer in config.network.stack:
        (n,) = layer.hidden
        sources = lines + (n if layer.recurrent else 0)
        steps = steps_of(layer.max_delay, task.dt) if layer.max_delay else 0
        sizes.append(Size(n, n * sources * (2 if steps else 1), steps * sources))
        lines = n
    return [*sizes, Size(task.outputs, lines * task.outputs)]


@lru_cache(maxsize=8)
def _built_sizes(path: str, lines: int, outputs: int, dt: float, spiking_output: bool) -> list[Size]:
    """Of a network that its builder alone knows."""
    network = built(path, lines, outputs, dt, 0, spiking_output=spiking_output)
    sizes = []
    for params in (layer.params for layer in network.layers if isinstance(layer, HetSynLayer)):
        n, m = params.weight.shape
        kept = m * (params.delay is not None) + n * (params.recurrent_delay is not None)
        synapses = n * m + (0 if params.recurrent_weight is None else n * n)
        sizes.append(Size(n, synapses, params.max_delay * kept))
    return sizes


def training_time(config: Config) -> int:
    """Microseconds that the training of one seed takes at least."""
    iterations = iterations_of(config)
    steps = iterations * (ITERATION + 3 * passing_time(config, config.training.batch))  # backward is twice forward
    return steps + evaluations_of(config) * evaluation_time(config)


def likely_time(config: Config) -> int:
    """Microseconds that the training of one seed takes on a core of ours, within a factor of two; reads the data."""
    task, samples = config.task, 0
    if isinstance(task, DrawnTask):
        samples = task.test_samples
    elif isinstance(task, DataTask):
        samples = len(task.split[1])
    passing = 3 * passing_time(config, config.training.batch) * iterations_of(config)
    passing += evaluations_of(config) * passing_time(config, samples)
    return iterations_of(config) * USUAL_ITERATION + USUAL_SPEED * passing


def iterations_of(config: Config) -> int:
    """Optimiser steps of a training."""
    return config.training.iterations or config.training.epochs * config.task.batches(config.training.batch)


def evaluations_of(config: Config) -> int:
    """How often a network is run on held-out samples in its training and at the end."""
    task, settings = config.task, config.training
    every = settings.validate_every or (DRAWN_EPOCH if task.drawn else task.batches(settings.batch))
    return iterations_of(config) // every + 2


def evaluation_time(config: Config) -> int:
    """Microseconds that the validation or test set takes at least; that of data, which have an end, counts as none."""
    task = config.task
    if not isinstance(task, DrawnTask):
        return 0
    drawing = task.test_samples * task.steps * task.lines // DRAWING
    return drawing + passing_time(config, task.test_samples)


def passing_time(config: Config, samples: int) -> int:
    """Microseconds that so many samples take at least to pass through the network."""
    work = samples * config.task.steps * (config.task.lines + sum(size.synapses for size in layer_sizes(config)))
    return work // (SPEED * min(config.training.threads, cores()))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
