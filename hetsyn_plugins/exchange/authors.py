"""Networks that the paper's public training script has trained (Deng et al. 2025, github.com/dzcgood/HetSyn).

Only what its files hold is known here, names and shapes of a state_dict:

    LAYER.layer_in.w, .rho, .b     (N, M) weights, decays r and constant inputs; rho and b are (N,) where a neuron's
                                   synapses share a decay
    LAYER.layer_rec.w, .rho, .b    the same of recurrent synapses

for hidden layers in the order in which they come (layer_hidden1, layer_hidden2, ...) and for the readout, layer_out.
The same tensors come once more under other names, which are passed over. Thresholds, the reset's time constant and the
length of a step are in the script and not in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hetsyn_plugins.core.fields import Array
from hetsyn_plugins.core.network import AlwaysOn, HetSynLayer, Layer, Network
from hetsyn_plugins.core.params import HetSynParams, tau_to_decay
from hetsyn_plugins.core.validation import host_array

INPUT, RECURRENT, READOUT = ".layer_in.", ".layer_rec.", "layer_out"
PARTS = ("w", "rho", "b")


def import_authors(
    state_dict: Mapping[str, Any], *, dt: float = 1e-3, threshold: float = 1.0, tau_reset: float = 20e-3
) -> Network:
    """The network of a state_dict of the paper's script; `convert` brings it into any framework.

    state_dict   name -> tensor or array; torch.load(path, weights_only=True, map_location="cpu") reads it from a file
    dt, threshold, tau_reset   of the script that trained it: seconds, 1, seconds

    A bias that a neuron has once goes through its leak: it becomes the weight of an always-on line. Raises ValueError
    for other names and shapes, decays outside [0, 1], and a bias that a synapse has for itself unless it is 0: a layer
    here has no constant input to a single synapse.
    """
    names = list(dict.fromkeys(name.partition(INPUT)[0] for name in state_dict if INPUT in name))
    if not names:
        came = ", ".join(list(state_dict)[:4]) or "nothing"
        raise ValueError(f"state_dict: expected LAYER.layer_in.w, .rho and .b of one layer or more, got {came}")
    readouts = [name for name in names if name.rpartition(".")[2] == READOUT]
    layers: list[Layer] = []
    for name in [name for name in names if name not in readouts] + readouts:
        part = {field: _array(state_dict, f"{name}{INPUT}{field}") for field in PARTS}
        recurrent = {}
        if f"{name}{RECURRENT}w" in state_dict:
            recurrent = {field: _array(state_dict, f"{name}{RECURRENT}{field}") for field in PARTS}
        layers += _layer(name, part, recurrent, dt, None if name in readouts else (threshold, tau_reset))
    return Network(tuple(layers))


def _layer(
    name: str, part: Mapping[str, Array], recurrent: Mapping[str, Array], dt: float, fires: tuple[float, float] | None
) -> list[Layer]:
    """A layer, with the always-on line in front that its bias needs; `fires`: threshold and tau of the reset."""
    weight, rho, bias = _checked(name + INPUT, part)
    fields: dict[str, Any] = {}
    if recurrent:
        fields["recurrent_weight"], fields["recurrent_decay"], more = _checked(name + RECURRENT, recurrent)
        bias = bias + more
        if rho.ndim != fields["recurrent_decay"].ndim or (
            more.any() and not np.array_equal(rho, fields["recurrent_decay"])
        ):
            raise ValueError(f"{name}{RECURRENT}: expected decays shared as those of the inputs, got others")
    in_front: list[Layer] = []
    if bias.any():
        weight = np.concatenate([weight, bias[:, None]], axis=1)
        in_front = [AlwaysOn(f"{name}_always_on".replace(".", "_"))]
    if fires is None:
        params = HetSynParams.readout(weight, rho)
    else:
        reset = weight.dtype.type(tau_to_decay(fires[1], dt))
        params = HetSynParams(weight, rho, threshold=weight.dtype.type(fires[0]), reset_decay=reset, **fields)
    share = "neuron" if rho.ndim == 1 else "synapse"
    return [*in_front, HetSynLayer(name.replace(".", "_"), params, dt=dt, share=share)]


def _checked(prefix: str, part: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """Weights (N, M), decays (N, M) or (N,), and a bias (N,)."""
    weight, rho, bias = (part[field] for field in PARTS)
    if weight.ndim != 2 or rho.shape not in (weight.shape, weight.shape[:1]):
        expected = "(N, M) and (N, M) or (N,)"
        raise ValueError(f"{prefix}w, {prefix}rho: expected shapes {expected}, got {weight.shape} and {rho.shape}")
    if bias.shape != rho.shape:
        raise ValueError(f"{prefix}b: expected shape {rho.shape}, as rho has, got {bias.shape}")
    if bias.ndim == 2 and bias.any():
        count = np.count_nonzero(bias)
        raise ValueError(f"{prefix}b: expected 0, a synapse here has no constant input of its own, got {count} others")
    return weight, rho, bias if bias.ndim == 1 else np.zeros(len(weight), weight.dtype)


def _array(state_dict: Mapping[str, Any], name: str) -> Array:
    """A tensor of the state_dict as an array of floats."""
    if name not in state_dict:
        raise ValueError(f"state_dict: expected {name}, got none")
    array = host_array(name, state_dict[name])
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite floats, got {array.dtype}")
    return array.astype(np.float32) if array.dtype == np.float16 else array
