"""Sound to spikes, as an inner ear does it: a filter bank, hair cells and nerve fibres.

    sound (samples,) -> hair_cells -> (frames, channels), a frame a millisecond -> fibres -> spikes (frames, channels)

Filters: gammatone of order 4 with centres evenly spaced on the ERB-rate scale (Glasberg & Moore 1990, Hearing Research
47, 103-138), each the real part of four complex one-pole filters in a row (Hohmann 2002, Acta Acustica 88, 433-442):

    z_k[n] = p z_k[n-1] + (1 - |p|) z_{k-1}[n],  p = exp((-2 pi 1.019 ERB(f) + 2 pi i f) / sample rate),  z_0 the sound

The gain at the centre is 1. Four short filters, because `scipy.signal.gammatone` is one of order 8, whose rounding in
float64 puts its gain at 80 Hz off by a third.

Hair cell: half-wave rectification, mean over each millisecond (a low-pass of 443 Hz), square root.
Nerve fibre: x less a share of its mean over the last 30 ms, then a leaky integrator with 2 ms of refractory time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.kernels.cpu.compiled import kernel

CHANNELS, LOWEST, HIGHEST = 700, 60.0, 7400.0  # centres from and to, Hz
FRAMES = 1000  # a second
REFRACTORY = 2  # frames
ADAPTATION, ADAPTED_SHARE = 30e-3, 0.6  # s; of a constant sound, how much is gone in the end
LEAK, THRESHOLD = 10e-3, 1.2  # s; in units of x, for sounds of root mean square 1


class Spikes(NamedTuple):
    """Times in seconds, float64, in order, and the channel of each, int64: both (spikes,)."""

    times: np.ndarray
    units: np.ndarray


def erb(frequency: Array) -> Array:
    """Equivalent rectangular bandwidth in Hz of the ear's filter at this frequency in Hz: Glasberg & Moore's eq. 3."""
    return 24.7 * (4.37e-3 * frequency + 1)


def centres() -> Array:
    """Centre frequencies (700,) in Hz, rising: equal steps of 21.4 log10(1 + 0.00437 f), Glasberg & Moore's eq. 4."""
    return np.expm1(np.linspace(np.log1p(4.37e-3 * LOWEST), np.log1p(4.37e-3 * HIGHEST), CHANNELS)) / 4.37e-3


def spikes(sound: Array, sample_rate: int) -> Spikes:
    """The spikes that a sound (samples,) causes, whatever its loudness: it is brought to root mean square 1.

    A spike has the time of its frame's end. Raises ValueError for a sound without a whole frame or that is silent.
    """
    if np.ndim(sound) != 1 or len(sound) * FRAMES < sample_rate:
        got = f"{np.shape(sound)} at {sample_rate} Hz"
        raise ValueError(f"sound: expected (samples,) of at least 1 / {FRAMES} s, got {got}")
    loudness = np.sqrt(np.mean(np.square(sound)))
    if not 0 < loudness < np.inf:
        raise ValueError(f"sound: expected one that is neither silent nor infinite, got root mean square {loudness}")
    frames, units = np.nonzero(fibres(hair_cells(sound / loudness, sample_rate, centres())))
    return Spikes((frames + 1) / FRAMES, units)


def hair_cells(sound: Array, sample_rate: int, frequencies: Array) -> Array:
    """Sound (samples,) -> (frames, channels), what hair cells at these centre frequencies in Hz tell their fibres."""
    frames = len(sound) * FRAMES // sample_rate
    edges = np.arange(frames + 1) * sample_rate // FRAMES
    poles = np.exp((-1.019 * erb(frequencies) + 1j * frequencies) * 2 * np.pi / sample_rate)
    rectified = np.empty((frames, len(frequencies)))
    _rectified(np.asarray(sound, np.float64), poles, edges, rectified)
    return np.sqrt(rectified)


@kernel
def _rectified(sound, poles, edges, out):
    for channel, p in enumerate(poles):
        gain = 2 * (1 - abs(p)) ** 4  # 2: a real tone is half of positive and half of negative frequency
        z1 = z2 = z3 = z4 = 0j
        for frame in range(len(out)):
            total = 0.0
            for n in range(edges[frame], edges[frame + 1]):
                z1 = p * z1 + gain * sound[n]
                z2 = p * z2 + z1
                z3 = p * z3 + z2
                z4 = p * z4 + z3
                total += max(z4.real, 0.0)
            out[frame, channel] = total / (edges[frame + 1] - edges[frame])


def fibres(cells: Array) -> np.ndarray:
    """Hair cells (frames, channels) -> spikes (frames, channels), bool."""
    fired = np.zeros(cells.shape, np.bool_)
    _integrate_and_fire(cells, 1 - np.exp(-1 / (FRAMES * ADAPTATION)), np.exp(-1 / (FRAMES * LEAK)), fired)
    return fired


@kernel
def _integrate_and_fire(cells, forget, keep, fired):
    frames, channels = cells.shape
    for channel in range(channels):
        mean = v = 0.0
        ready = 0  # the first frame after the refractory time
        for frame in range(frames):
            x = cells[frame, channel]
            mean += forget * (x - mean)
            if frame < ready:
                continue
            v = keep * v + max(x - ADAPTED_SHARE * mean, 0.0)
            if v >= THRESHOLD:
                fired[frame, channel] = True
                v = 0.0
                ready = frame + REFRACTORY
