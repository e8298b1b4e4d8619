"""What a stock neuron's node comes to with Euler steps of dt: exponential paths from what comes in to v.

    LI, LIF        v[t] = d v[t-1] + dt/tau (r x[t] + v_leak),     d = 1 - dt / tau
    CubaLI(F)      i[t] = e i[t-1] + dt/tau_syn w_in x[t],         the same of r i[t]
    I, IF          v[t] = v[t-1] + r x[t], as readers take it (their words have a dt, which none of them uses)
    Threshold      v[t] = x[t]

Two leaks one behind the other are two side by side: the response to one spike, sum_s d^(n-s) e^s, is
(e e^n - d d^n) / (e - d), unless e and d are the same, or so near that the difference is rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.exchange.nir.nodes import Node

NEURONS = ("LI", "LIF", "CubaLI", "CubaLIF", "I", "IF", "Threshold")
NEAREST = 1e-3  # of two decays that are told apart


class Path(NamedTuple):
    """A current c[t] = decay c[t-1] + gain x[t] that v is a sum of; both (N,)."""

    decay: Array
    gain: Array


class Membrane(NamedTuple):
    """A stock neuron: v is the sum of its paths, of a constant that the last of them filters, and of the bias.

    paths       one or two
    leak, bias  (N,)
    threshold   (N,); None: no spikes
    resets      its spikes do something to v
    """

    paths: tuple[Path, ...]
    leak: Array
    bias: Array
    threshold: Array | None
    resets: bool


def membrane_of(node: Node, n: int, dt: float) -> Membrane:
    """The arithmetic of N neurons. Raises ValueError for fields that are missing, of other sizes, or cannot be."""
    zero, kind = np.zeros(n), node["type"]
    if kind == "Threshold":
        return Membrane((Path(zero, zero + 1),), zero, zero, each(node, "threshold", n), False)
    threshold = each(node, "v_threshold", n) if kind.endswith("IF") else None
    if kind in ("I", "IF"):
        return Membrane((Path(zero + 1, each(node, "r", n)),), zero, zero, threshold, threshold is not None)
    step = dt / _tau(node, "tau_mem" if "Cuba" in kind else "tau", n, dt)
    decay, gain, leak = 1 - step, step * each(node, "r", n), each(node, "v_leak", n)
    resets = threshold is not None and bool(decay.any())
    if resets and "v_reset" in node and each(node, "v_reset", n).any():
        raise ValueError(f"v_reset: expected 0, got {node['v_reset']}")
    if "Cuba" not in kind:
        return Membrane((Path(decay, gain),), step * leak, zero, threshold, resets)
    synapse = dt / _tau(node, "tau_syn", n, dt)
    gain = gain * synapse * (each(node, "w_in", n) if "w_in" in node else 1.0)
    paths = _in_series(Path(1 - synapse, gain), decay)
    if decay.any():
        return Membrane(paths, step * leak, zero, threshold, resets)
    return Membrane(paths, zero, step * leak, threshold, False)


def _in_series(synapse: Path, decay: Array) -> tuple[Path, ...]:
    """A synapse in front of a membrane, as paths side by side."""
    if not decay.any():
        return (synapse,)
    if not synapse.decay.any():
        return (Path(decay, synapse.gain),)
    apart = synapse.decay - decay
    if (np.abs(apart) < NEAREST).any():
        raise ValueError(
            f"tau_syn, tau_mem: expected decays {NEAREST} apart, or one of tau = dt, got two alike, whose response is "
            "no sum of exponentials"
        )
    return Path(synapse.decay, synapse.gain * synapse.decay / apart), Path(decay, -synapse.gain * decay / apart)


def _tau(node: Node, name: str, n: int, dt: float) -> Array:
    """A time constant of at least dt: shorter ones have no Euler step."""
    tau = each(node, name, n)
    if not (tau >= dt * (1 - 1e-6)).all():
        raise ValueError(f"{name}: expected at least dt = {dt:g} s, got {tau.min():g}")
    return np.maximum(tau, dt)


def each(node: Node, name: str, n: int) -> Array:
    """A field of a node in float64, (N,): one for all, or one each."""
    values = numbers(node, name).astype(np.float64).ravel()
    if values.size not in (1, n):
        raise ValueError(f"{name}: expected 1 or {n} values, got {values.size}")
    return np.broadcast_to(values, (n,)).copy()


def numbers(node: Node, name: str) -> Array:
    """A field of a node: finite numbers, in float32 where they are, else in float64."""
    value: Any = node.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected numbers, got {'none' if value is None else value!r}")
    array: Array = value.astype(np.float32 if value.dtype.kind == "f" and value.dtype.itemsize <= 4 else np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got others or none")
    return array
