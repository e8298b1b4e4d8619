"""The part of a HetSyn layer that a neuron has once: `slayer.neuron.hetsyn.Neuron`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import lava.lib.dl.slayer as slayer
import numpy as np
import torch
from lava.lib.dl.slayer.neuron.base import Neuron as BaseNeuron
from torch import Tensor

from hetsyn_plugins.adapters.lava_dl.slayer.arithmetic import WEIGHT_STEP, Arithmetic, Scaled
from hetsyn_plugins.adapters.lava_dl.slayer.names import WithoutNorm, arguments_of, check_names, signature_of
from hetsyn_plugins.core.fields import HetSynState
from hetsyn_plugins.core.surrogate import resolve
from hetsyn_plugins.fixed_point.neuron import COUNTS, DECAY_ONE, DECAY_WORDS, STATE_UNITS, WEIGHT_UNITS
from hetsyn_plugins.fixed_point.rounding import decay_to_word
from hetsyn_plugins.kernels import eager
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.ops.layer import span
from hetsyn_plugins.ops.trainable import TrainableFields, start_values

OF_SYNAPSES = ("decay", "recurrent_decay", "learn_decay", "share", "tie_reset")  # arguments that a neuron has not

NO_GRADIENT = 1e-3  # of the surrogate's derivative at the threshold


class Neuron(WithoutNorm, TrainableFields, BaseNeuron):
    """The part of a HetSyn layer that a neuron has once: summed synaptic currents (B, N, T) -> spikes (B, N, T).

    v[t] = input[t] - J[t] - A[t] + bias; z = v > threshold;  J[t] = reset_decay J[t-1] + threshold z[t-1];  A likewise.

    threshold             (), or (N,) to have one a neuron
    reset_decay           decay r of the reset current, () or (N,); None: no reset
    tau_grad, scale_grad  stretch and scale the surrogate's derivative; 1: as it is. CUBA's own tau_grad counts in
                          hundreds of thresholds: its 0.03 is about 3 thresholds here, and 0.03 here is a UserWarning,
                          because a neuron at rest gets no gradient
    scale                 1 / scale is one weight unit
    dropout               a `slayer.neuron.Dropout`, applied to the spikes; quantised, those kept are not scaled up
    persistent_state      a block keeps its state from call to call (a neuron by itself starts from zeros)
    requires_grad         learn reset and adaptation
    adaptation_decay, adaptation_strength   () or (N,), or None
    bias                  (N,), learned, added to v at every step, or None
    surrogate, detach_reset   see `hetsyn_plugins.ops.hetsyn_lif`; None: the paper's multi-Gaussian. CUBA's reset has no
                              gradient, which is detach_reset=True; by default it has one here
    parametrization, dt       see `hetsyn_plugins.ops.trainable`
    quantised, form, fraction see `hetsyn_plugins.fixed_point.neuron`

    There is no `norm`: the mean over currents that only exist inside the op. A bias does what it is exported as.
    Raises ValueError for an argument that it does not have, CUBA's among them, saying what there is instead.
    """

    names: ClassVar[Mapping[str, str]] = {
        "threshold": "v_th",  # slayer's own `threshold` is a property
        "reset_decay": "reset_decay",
        "adaptation_decay": "adaptation_decay",
        "adaptation_strength": "adaptation_strength",
        "bias": "bias",
    }

    def __init__(  # longer than a screen: half of it is the list of arguments
        self,
        threshold: Any,
        reset_decay: Any = 0.9,
        tau_grad: float = 1,
        scale_grad: float = 1,
        scale: int = 1 << 6,
        dropout: Callable[[Tensor], Tensor] | None = None,
        persistent_state: bool = False,
        requires_grad: bool = False,
        *,
        adaptation_decay: Any = None,
        adaptation_strength: Any = None,
        bias: Any = None,
        surrogate: Any = None,
        detach_reset: bool = False,
        parametrization: str = "decay",
        dt: float | None = None,
        quantised: bool = True,
        form: str = "synapse",
        fraction: int | None = None,
        dtype: torch.dtype | None = None,
        **unknown: Any,
    ) -> None:
        check_names("Neuron", unknown, arguments_of(Neuron), dict.fromkeys(OF_SYNAPSES, "in the block or synapse"))
        BaseNeuron.__init__(
            self,
            threshold=1,
            tau_grad=tau_grad,
            scale_grad=scale_grad,
            p_scale=DECAY_ONE,
            w_scale=scale,
            s_scale=scale << 6,
            dropout=dropout,
            persistent_state=persistent_state,
            requires_grad=requires_grad,
        )
        self.set_options(share="synapse", parametrization=parametrization, tie_reset=False, dt=dt)
        self.arithmetic = Arithmetic(quantised, form, fraction, int(scale))
        unscaled = resolve(surrogate)
        self.surrogate = unscaled if tau_grad == scale_grad == 1 else Scaled(unscaled, tau_grad, scale_grad)
        self.detach_reset = detach_reset
        values = {
            "threshold": threshold,
            "reset_decay": reset_decay,
            "adaptation_decay": adaptation_decay,
            "adaptation_strength": adaptation_strength,
            "bias": bias,
        }
        self._add_values(values, requires_grad, dtype or torch.get_default_dtype())
        if tau_grad != 1:
            self._warn_if_narrow(tau_grad)

    def extra_repr(self) -> str:
        """What `print` shows: the ranges of its fields, the surrogate, and whether it computes in integers."""
        spans = {name: span(functools.partial(self.tensor, field), digits=4) for field, name in self.names.items()}
        fields = [f"{name.replace('v_th', 'threshold')}={text}" for name, text in spans.items() if text]
        return ", ".join((*fields, f"surrogate={self.surrogate!r}", f"quantised={self.arithmetic.quantised}"))

    def _warn_if_narrow(self, tau_grad: float) -> None:
        """Warn where a neuron at v = 0 gets less than a thousandth of the gradient of one at the threshold."""
        theta = float(np.min(self.threshold))
        at_rest, at_threshold = self.surrogate.derivative(torch.tensor([-theta, 0.0]), theta).abs().tolist()
        if at_rest < NO_GRADIENT * at_threshold:
            warnings.warn(
                f"tau_grad: {tau_grad:g} makes the surrogate so narrow that neurons at rest get no gradient, and a "
                "silent layer stays silent; here 1 leaves it as it is, and as wide as slayer's CUBA neuron makes its "
                f"own by {tau_grad:g} it is by about {100 * tau_grad * theta:.3g}",
                stacklevel=3,
            )

    def _add_values(self, values: Mapping[str, Any], requires_grad: bool, dtype: torch.dtype) -> None:
        """Check and register the fields that a neuron has once, beside one synapse, which others hold."""
        sizes = [len(value) for value in values.values() if np.ndim(value) == 1]
        n = sizes[0] if sizes else 1
        layer = {"weight": np.zeros((n, 1)), "decay": 0.0, **values}
        start = start_values(layer, sizes=(n, 1), spiking=True, share="layer", dtype=dtype, dt=self.dt)
        learn = dict.fromkeys(("reset_decay", "adaptation_decay", "adaptation_strength"), requires_grad)
        self.add_fields({name: start[name] for name in values}, {**learn, "threshold": False})

    @property
    def threshold(self) -> Any:
        """The threshold in float units: a number, or an array where neurons have different ones."""
        theta = self.v_th.detach().cpu().numpy()
        return theta.item() if theta.ndim == 0 else theta

    @property
    def v_th_mant(self) -> Any:
        """The threshold in weight units."""
        return np.rint(np.float64(self.threshold) * self.scale).astype(int)

    @property
    def cx_reset_decay(self) -> Any:
        """The decay words of the reset current, 0..4096, or None."""
        decay = self.tensor("reset_decay")
        return None if decay is None else decay_to_word(decay.detach().cpu().numpy())

    @property
    def scale(self) -> int:
        """What slayer's numbers are multiplied by to give weight units."""
        return self.arithmetic.scale

    @property
    def device(self) -> torch.device:
        """Where the neuron's tensors are."""
        device: torch.device = self.v_th.device
        return device

    @property
    def device_params(self) -> dict[str, Any]:
        """Threshold and reset as the chip has them; `neuron_params` is the inverse."""
        params = {"type": "HETSYN", "vThMant": self.v_th_mant, "refDelay": 1, "gradedSpike": False}
        reset = self.cx_reset_decay
        return params if reset is None else {**params, "resetDecay": reset}

    def quantize_8bit(self, weight: Tensor, descale: bool = False) -> Tensor:
        """As slayer's, but a weight beyond 8 bits still gets the gradient that leads back."""
        step = WEIGHT_STEP / self.scale
        rounded: Tensor = slayer.utils.quantize(self.arithmetic.bounded(weight), step=step)
        return rounded * self.scale if descale else rounded

    def clamp(self) -> None:
        """Project what an optimiser pushed out of range back onto it."""
        self.clamp_()

    def dynamics(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """The reset current and v for summed currents (B, N, ..., T), step by step (blocks have a faster way)."""
        self.shape = input.shape[1:-1]
        fields = {name: self._per_neuron(name, t, input) for name, t in self.tensors().items() if t is not None}
        currents = input.to(fields["threshold"]).unbind(-1)
        zero = torch.zeros_like(currents[0])
        no_synapses = zero.new_empty((zero.shape[1], 0))
        layer, state = LayerTensors(no_synapses, no_synapses, **fields), HetSynState(None, None, zero, zero, zero)
        resets, voltages = [], []
        for x in currents:
            soma = eager.soma_step(x, state, layer, self.surrogate, self.detach_reset, leak=self._leak)
            state = HetSynState(None, None, *soma)
            resets.append(zero if state.reset is None else state.reset)
            voltages.append(state.v)
        return torch.stack(resets, -1), torch.stack(voltages, -1)

    def spike(self, voltage: Tensor) -> Tensor:
        """The spikes of v (B, N, ..., T), after dropout."""
        theta = self._per_neuron("threshold", self.tensor("threshold"), voltage)[..., None].to(voltage)
        return self.drop_out(self.surrogate(voltage - theta, theta))

    def drop_out(self, spikes: Tensor) -> Tensor:
        """Spikes after dropout, where there is one; quantised, those kept stay 1: a chip's spikes are whole numbers."""
        if self.drop is None:
            return spikes
        return spikes * (self.drop(torch.ones_like(spikes)) != 0) if self.arithmetic.quantised else self.drop(spikes)

    def forward(self, input: Tensor, body: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The spikes of summed currents; body: what a block computes in their place (`hooks.py`)."""
        if body is not None:
            return body(input)
        _, voltage = self.dynamics(input)
        return self.spike(voltage).to(input)

    def _per_neuron(self, name: str, field: Any, input: Tensor) -> Tensor:
        """A field against (B, N, ...), without time; where quantised in float64 and rounded, straight through."""
        field = field.reshape(-1, *[1] * (input.ndim - 3))
        if not self.arithmetic.quantised:
            return field
        last_bits = {DECAY_WORDS: 1 / DECAY_ONE, WEIGHT_UNITS: 1 / self.scale, STATE_UNITS: self.arithmetic.state_unit}
        last_bit = last_bits[COUNTS[name]]
        return _through(field.double(), torch.round, last_bit)

    def _leak(self, decay: Tensor, current: Tensor) -> Tensor:
        """What is left of a current after a step; where quantised, rounded toward zero as on the chip."""
        left = decay * current
        return _through(left, torch.trunc, self.arithmetic.state_unit) if self.arithmetic.quantised else left


Neuron.__signature__ = signature_of(Neuron)  # what help() and editors read


def _through(x: Tensor, rounding: Callable[[Tensor], Tensor], last_bit: float) -> Tensor:
    """x rounded to multiples of the last bit, with the gradient of x."""
    return x + (rounding(x / last_bit) * last_bit - x).detach()


def neuron_params(device_params: Mapping[str, Any], scale: int = 1 << 6, p_scale: int = DECAY_ONE) -> dict[str, Any]:
    """The arguments of a `Neuron` that has these `device_params`."""
    reset = device_params.get("resetDecay")
    return {
        "threshold": device_params["vThMant"] / scale,
        "reset_decay": None if reset is None else 1 - reset / p_scale,
    }
