"""HetSynLIF as slayer modules: a synapse, a neuron and the blocks Input, Flatten, Dense, Recurrent and Affine.

Importing this changes nothing in Lava-DL; `hetsyn_plugins.register("lava_dl")` makes them
`slayer.synapse.hetsyn.Dense`, `slayer.neuron.hetsyn.Neuron` and `slayer.block.hetsyn.*`. Only slayer is imported, never
Lava's runtime.

They are used as slayer's CUBA ones: NCT (batch, channel, time), `neuron_params`, pre_hook_fx, a step of delay a layer.
What differs, on purpose:

* A leak belongs to a synapse, so `decay` is an argument of the synapse or block. It is r, what is *kept* in a step, as
  everywhere in this package; slayer's `current_decay` is what is lost, 1 - r.
* A block computes the whole sequence in one op. `quantised=True`: forward in the chip's integers, bit for bit as
  `fixed_point.run`; backward through the float neuron. `quantised=False`: float.
* State is kept between calls only with `persistent_state=True` in neuron_params, recurrent blocks included, and
  `reset()` clears it; it starts from zeros too where the batch size changes, or, in the cluster form, a decay word.
* v of an Affine comes in the block's dtype: float32 holds 24 of the synapse form's 32 bits, so beyond |v| of 64 its
  last ones are rounded (`dtype=torch.float64` keeps them).
* `export_hdf5` leaves the module as it was, and a mask also holds under weight_norm.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import lava.lib.dl.slayer as slayer
import numpy as np
import torch
from lava.lib.dl.slayer.block import base as blocks
from lava.lib.dl.slayer.neuron.base import Neuron as BaseNeuron
from lava.lib.dl.slayer.synapse.layer import Dense as BaseSynapse
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from hetsyn_plugins.core.params import ARRAYS, DECAYS, HetSynParams
from hetsyn_plugins.core.surrogate import Surrogate, resolve
from hetsyn_plugins.fixed_point import neuron as fixed_point
from hetsyn_plugins.fixed_point.network import MAX_DELAY, FixedLayer
from hetsyn_plugins.fixed_point.neuron import FORMS, MANTISSA, ONE, FixedParams, decay_to_word
from hetsyn_plugins.ops import lif as ops
from hetsyn_plugins.ops.straight_through import straight_through
from hetsyn_plugins.ops.trainable import (
    Bounded,
    TrainableFields,
    check_tied,
    share_of,
    start_values,
    to_hetsyn_params,
)

STEP = 2  # weight units: slayer's 8-bit weights are even, a mantissa with exponent 1


@dataclass(frozen=True)
class Arithmetic:
    """How numbers are rounded: not at all, or as `fixed_point` does in a form, with 1 / scale as the weight unit."""

    quantised: bool = True
    form: str = "synapse"
    fraction: int | None = None
    scale: int = 1 << 6

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {self.form!r}")

    @property
    def state_unit(self) -> float:
        """What the last bit of a state is in float units."""
        return 1 / (self.scale << (FORMS[self.form][1] if self.fraction is None else self.fraction))

    def fixed(self, params: HetSynParams) -> FixedParams:
        """A layer in integers, weights as slayer rounds them; what does not fit takes the nearest value that does."""
        unit = 1 / self.scale
        fixed, _ = fixed_point.quantise(params, form=self.form, fraction=self.fraction, unit=unit, clip=True)
        weights = {"weight": params.weight, "recurrent_weight": params.recurrent_weight}
        found = {
            name: None if w is None else np.clip(np.rint(w.astype(np.float64) / (STEP * unit)), *MANTISSA)
            for name, w in weights.items()
        }
        return fixed.replace(**found, weight_exp=1, recurrent_exp=0 if found["recurrent_weight"] is None else 1)

    def bounded(self, weight: Tensor) -> Tensor:
        """Weights kept to 8 bits; beyond them only gradient that leads back."""
        low, high = (STEP * m / self.scale for m in MANTISSA)
        kept: Tensor = Bounded.apply(weight, low, high)
        return kept


@dataclass(frozen=True)
class Scaled(Surrogate):
    """Another surrogate, `tau` times as wide and `scale` times as high: slayer's tau_grad and scale_grad."""

    surrogate: Surrogate
    tau: float
    scale: float

    def derivative(self, d: Any, threshold: Any = 1.0) -> Any:
        return self.scale * self.surrogate.derivative(d / self.tau, threshold)

    def primitive(self, d: Any, threshold: Any = 1.0) -> Any:
        return self.scale * self.tau * self.surrogate.primitive(d / self.tau, threshold)


# ---- synapse and neuron -----------------------------------------------------------------------------------------


class Synapse(TrainableFields, BaseSynapse):
    """Synapses with a decay each: (B, in, T) -> the sums of their currents, (B, out, T); NCHWT in gives NCHWT out.

    in_neurons, out_neurons, weight_scale, weight_norm, pre_hook_fx   as in `slayer.synapse.Dense`; weight (out, in, 1,
                 1, 1). weight_norm is a torch parametrization, so that the module can be copied
    decay        decays r in [0, 1]: a number, an array or tensor, or an initialiser (NormalTau, ...)
    learn_decay  False: they are fixed
    share, parametrization, dt   see `hetsyn_plugins.ops.trainable`
    quantised, form, fraction, scale   see `hetsyn_plugins.fixed_point.neuron`; 1 / scale is the weight unit
    """

    names: ClassVar[Mapping[str, str]] = {"decay": "decay"}
    weight: Any  # a Parameter; with weight_norm a tensor made of two

    def __init__(
        self,
        in_neurons: Any,
        out_neurons: int,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable[[Tensor], Tensor] | None = None,
        *,
        decay: Any = 0.9,
        learn_decay: bool = True,
        share: str = "synapse",
        parametrization: str = "decay",
        dt: float | None = None,
        quantised: bool = True,
        form: str = "synapse",
        fraction: int | None = None,
        scale: int = 1 << 6,
        dtype: torch.dtype | None = None,
    ) -> None:
        BaseSynapse.__init__(self, in_neurons, out_neurons, weight_scale, False, pre_hook_fx)
        self.set_options(share=share, parametrization=parametrization, tie_reset=False, dt=dt)
        self.arithmetic = Arithmetic(quantised, form, fraction, scale)
        dtype = dtype or torch.get_default_dtype()
        self.weight = nn.Parameter(self.weight.detach().to(dtype))
        flat = self.weight.detach().flatten(1)
        values = {"weight": flat, "decay": decay, "threshold": 1.0}
        sizes = (flat.shape[0], flat.shape[1])
        start = start_values(values, sizes=sizes, spiking=True, share=share, called={}, dtype=dtype)
        self.add_fields({"decay": start["decay"]}, {"decay": learn_decay})
        if weight_norm:
            self.enable_weight_norm()

    def enable_weight_norm(self) -> None:
        """Learn a length and a direction of each neuron's weights instead of the weights."""
        parametrizations.weight_norm(self, "weight")
        self.weight_norm_enabled = True

    def disable_weight_norm(self) -> None:
        """Learn the weights again."""
        parametrize.remove_parametrizations(self, "weight")
        self.weight_norm_enabled = False

    @property
    def grad_norm(self) -> float:
        """The norm of the gradient of what is learned (weight_norm: of the lengths), by their number, as slayer's."""
        learned = self.parametrizations.weight.original0 if self.weight_norm_enabled else self.weight
        return 0.0 if learned.grad is None else torch.norm(learned.grad).item() / learned.numel()

    @torch.no_grad()
    def set_weight(self, weight: Any) -> None:
        """Set the weights, (out, in)."""
        value = torch.as_tensor(np.array(weight)).to(self.weight).reshape(self.weight.shape)
        if self.weight_norm_enabled:
            self.weight = value
        else:
            self.weight.copy_(value)

    def matrix(self, mask: Tensor | None = None, hook: bool = True) -> Tensor:
        """The weights that are used, (out, in): after pre_hook_fx (unless hook=False) and mask."""
        weight = self.pre_hook_fx(self.weight) if hook and self.pre_hook_fx is not None else self.weight
        return weight.flatten(1) if mask is None else weight.flatten(1) * mask.flatten(1)

    def forward(self, input: Tensor) -> Tensor:
        fields: dict[str, Any] = {
            **dict.fromkeys(ARRAYS),
            "weight": self.matrix(),
            "decay": self.tensor("decay"),
            "threshold": 1.0,
        }
        _, v, _ = _run(_time_first(input, fields["weight"]), fields, False, self.arithmetic)
        return _like(v.permute(1, 2, 0), input)


class Neuron(TrainableFields, BaseNeuron):
    """The part of a HetSyn layer that a neuron has once: summed synaptic currents (B, N, T) -> spikes (B, N, T).

    v[t] = input[t] - J[t] - A[t] + bias; z = v > threshold;  J[t] = reset_decay J[t-1] + threshold z[t-1];  A likewise.

    threshold             (), or (N,) to have one a neuron
    reset_decay           decay r of the reset current, () or (N,); None: no reset
    tau_grad, scale_grad  stretch and scale the surrogate's derivative; 1: as it is
    scale                 1 / scale is one weight unit
    dropout               a `slayer.neuron.Dropout`, applied to the spikes; quantised, those kept are not scaled up
    persistent_state      a block keeps its state from call to call (a neuron by itself starts from zeros)
    requires_grad         learn reset and adaptation
    adaptation_decay, adaptation_strength   () or (N,), or None
    bias                  (N,), learned, added to v at every step, or None
    surrogate, detach_reset   see `hetsyn_plugins.ops.hetsyn_lif`; None: the paper's multi-Gaussian
    parametrization, dt       see `hetsyn_plugins.ops.trainable`
    quantised, form, fraction see `hetsyn_plugins.fixed_point.neuron`

    There is no `norm`: the mean over currents that only exist inside the op. A bias does what it is exported as.
    """

    names: ClassVar[Mapping[str, str]] = {
        "threshold": "v_th",  # slayer's own `threshold` is a property
        "reset_decay": "reset_decay",
        "adaptation_decay": "adaptation_decay",
        "adaptation_strength": "adaptation_strength",
        "bias": "bias",
    }

    def __init__(
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
    ) -> None:
        BaseNeuron.__init__(
            self,
            threshold=1,
            tau_grad=tau_grad,
            scale_grad=scale_grad,
            p_scale=ONE,
            w_scale=scale,
            s_scale=scale << 6,
            dropout=dropout,
            persistent_state=persistent_state,
            requires_grad=requires_grad,
        )
        self.set_options(share="synapse", parametrization=parametrization, tie_reset=False, dt=dt)
        self.arithmetic = Arithmetic(quantised, form, fraction, int(scale))
        found = resolve(surrogate)
        self.surrogate = found if tau_grad == scale_grad == 1 else Scaled(found, tau_grad, scale_grad)
        self.detach_reset = detach_reset
        own = {
            "threshold": threshold,
            "reset_decay": reset_decay,
            "adaptation_decay": adaptation_decay,
            "adaptation_strength": adaptation_strength,
            "bias": bias,
        }
        sizes = [len(value) for value in own.values() if np.ndim(value) == 1]
        n = sizes[0] if sizes else 1
        values = {"weight": np.zeros((n, 1)), "decay": 0.0, **own}
        start = start_values(
            values,
            sizes=(n, 1),
            spiking=True,
            share="layer",
            called={},
            dtype=dtype or torch.get_default_dtype(),
        )
        learn = dict.fromkeys(("reset_decay", "adaptation_decay", "adaptation_strength"), requires_grad)
        self.add_fields({name: start[name] for name in own}, {**learn, "threshold": False})

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
        found = {"type": "HETSYN", "vThMant": self.v_th_mant, "refDelay": 1, "gradedSpike": False}
        reset = self.cx_reset_decay
        return found if reset is None else {**found, "resetDecay": reset}

    def quantize_8bit(self, weight: Tensor, descale: bool = False) -> Tensor:
        """As slayer's, but a weight beyond 8 bits still gets the gradient that leads back."""
        step = STEP / self.scale
        rounded: Tensor = slayer.utils.quantize(self.arithmetic.bounded(weight), step=step)
        return rounded * self.scale if descale else rounded

    def clamp(self) -> None:
        """Project what an optimiser pushed out of range back onto it."""
        self.clamp_()

    def dynamics(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """The reset current and v for summed currents (B, N, ..., T), step by step (blocks have a faster way)."""
        self.shape = input.shape[1:-1]
        f = {name: self._per_neuron(name, t, input) for name, t in self.tensors().items() if t is not None}
        theta = f["threshold"]
        J = A = z = torch.zeros_like(input[..., 0]).to(theta)
        resets, voltages = [], []
        for x in input.unbind(-1):
            back = z.detach() if self.detach_reset else z
            J = self._leak(f["reset_decay"], J) + theta * back if "reset_decay" in f else J
            if "adaptation_decay" in f:
                A = self._leak(f["adaptation_decay"], A) + f["adaptation_strength"] * z
            v = x - J - A + f.get("bias", 0.0)
            z = self.surrogate(v - theta, theta)
            resets.append(J)
            voltages.append(v)
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

    def forward(self, input: Tensor) -> Tensor:
        _, voltage = self.dynamics(input)
        return self.spike(voltage).to(input)

    def _per_neuron(self, name: str, field: Any, input: Tensor) -> Tensor:
        """A field against (B, N, ...), without time; where quantised in float64 and rounded, straight through."""
        field = field.reshape(-1, *[1] * (input.ndim - 3))
        if not self.arithmetic.quantised:
            return field
        last_bit = 1 / ONE if name in DECAYS else 1 / self.scale if name == "threshold" else self.arithmetic.state_unit
        return _through(field.double(), torch.round, last_bit)

    def _leak(self, decay: Tensor, current: Tensor) -> Tensor:
        left = decay * current
        return _through(left, torch.trunc, self.arithmetic.state_unit) if self.arithmetic.quantised else left


def _through(x: Tensor, rounding: Callable[[Tensor], Tensor], last_bit: float) -> Tensor:
    """x rounded to multiples of the last bit, with the gradient of x."""
    return x + (rounding(x / last_bit) * last_bit - x).detach()


def neuron_params(device_params: Mapping[str, Any], scale: int = 1 << 6, p_scale: int = ONE) -> dict[str, Any]:
    """The arguments of a `Neuron` that has these `device_params`."""
    reset = device_params.get("resetDecay")
    return {
        "threshold": device_params["vThMant"] / scale,
        "reset_decay": None if reset is None else 1 - reset / p_scale,
    }


# ---- blocks -----------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """What Dense, Recurrent and Affine share: one HetSyn layer, (B, in, T) -> (B, out, T).

    neuron_params   arguments of `Neuron`; the dict is not changed
    in_neurons, out_neurons, weight_scale, weight_norm   as in slayer's blocks
    pre_hook_fx     applied to the weights before use; None: slayer's 8 bits where quantised, nothing in float
    delay           learnable axonal delays of 0..62 steps, one a neuron
    delay_shift     the output comes one step later, as from layer to layer on a chip
    mask            (out, in), zeros where there is no synapse
    count_log       forward also returns the mean number of spikes a neuron and step (None of a readout)
    decay, learn_decay, share, parametrization, dt   see `Synapse`
    tie_reset       the reset (and recurrent synapses) use the decay of the input synapses; share "neuron" or "layer"
    quantised, form, fraction   see the module's docstring and `hetsyn_plugins.fixed_point.neuron`
    allow_overflow  let integers wrap instead of raising FixedPointOverflow
    """

    spiking = True
    synapses: ClassVar[tuple[str, ...]] = ("synapse",)
    state: Any
    last_output: Tensor | None
    words: list[int] | None  # the codebook of a kept state
    mask: Tensor | None

    def __init__(
        self,
        neuron_params: Mapping[str, Any],
        in_neurons: Any,
        out_neurons: int,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable[[Tensor], Tensor] | None = None,
        *,
        delay: bool = False,
        delay_shift: bool = True,
        mask: Tensor | None = None,
        count_log: bool = False,
        decay: Any = 0.9,
        recurrent_decay: Any = 0.9,
        learn_decay: bool = True,
        share: str = "synapse",
        parametrization: str = "decay",
        tie_reset: bool = False,
        dt: float | None = None,
        quantised: bool = True,
        form: str = "synapse",
        fraction: int | None = None,
        allow_overflow: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if tie_reset and share == "synapse":
            raise ValueError("tie_reset: expected share='neuron' or 'layer' with it, got share='synapse'")
        dtype = dtype or torch.get_default_dtype()
        both: dict[str, Any] = {"parametrization": parametrization, "dt": dt, "dtype": dtype}
        both.update(quantised=quantised, form=form, fraction=fraction)
        self.neuron = Neuron(**{**neuron_params, **both})
        self._check_per_neuron(int(out_neurons))
        self.neuron.shape = torch.Size([int(out_neurons)])
        hook = self.neuron.quantize_8bit if pre_hook_fx is None and quantised else pre_hook_fx
        for name in self.synapses:
            sources, start = (in_neurons, decay) if name == self.synapses[0] else (out_neurons, recurrent_decay)
            own: dict[str, Any] = {"decay": start, "learn_decay": learn_decay, "share": share, **both}
            synapse = Synapse(sources, out_neurons, weight_scale, weight_norm, hook, scale=self.neuron.scale, **own)
            setattr(self, name, synapse)
        self.tie_reset = tie_reset
        if tie_reset:
            self._tie()
        self.delay_shift, self.count_log, self.allow_overflow = delay_shift, count_log, allow_overflow
        self.delay = _delays(int(out_neurons)) if delay else None
        shape = self._input.weight.flatten(1).shape
        if mask is not None and tuple(mask.shape[:2]) != tuple(shape):
            raise ValueError(f"mask: expected shape {tuple(shape)}, got {tuple(mask.shape)}")
        self.register_buffer("mask", None if mask is None else mask.to(dtype).reshape(shape))
        self.reset()

    def _check_per_neuron(self, n: int) -> None:
        for field, name in self.neuron.names.items():
            stored = self.neuron.stored(field)
            if stored is not None and tuple(stored.shape) not in ((), (n,)):
                shape = tuple(stored.shape)
                raise ValueError(f"neuron_params: {name}: expected a number or shape ({n},), got {shape}")

    def _tie(self) -> None:
        """One tensor, registered in every module that uses it."""
        source = self._input.stored("decay")
        for module, field in ((self.neuron, "reset_decay"), *((s, "decay") for s in self._others)):
            name = module.stored_name(field)
            module._parameters.pop(name, None)
            module._buffers.pop(name, None)
            if isinstance(source, nn.Parameter):
                module.register_parameter(name, source)
            else:
                module.register_buffer(name, source)

    @property
    def _input(self) -> Synapse:
        synapse: Synapse = getattr(self, self.synapses[0])
        return synapse

    @property
    def _others(self) -> list[Synapse]:
        return [getattr(self, name) for name in self.synapses[1:]]

    @property
    def shape(self) -> torch.Size:
        """Shape of the output without batch and time."""
        shape: torch.Size = self.neuron.shape
        return shape

    @property
    def surrogate(self) -> Surrogate:
        """The surrogate of the spike."""
        surrogate: Surrogate = self.neuron.surrogate
        return surrogate

    def reset(self) -> None:
        """Forget the state that is kept with persistent_state."""
        self.state = self.last_output = self.words = None

    def clamp_(self) -> None:
        """Project what an optimiser pushed out of range back onto it, as the paper does after every step."""
        for module in (self.neuron, self._input, *self._others):
            module.clamp_()

    def fields(self, hook: bool = True) -> dict[str, Any]:
        """All fields of the layer as the op takes them, differentiable; hook=False: weights before pre_hook_fx."""
        own = self.neuron.tensors()
        if not self.spiking:
            own = {**dict.fromkeys(own), "threshold": 1.0, "bias": own["bias"]}
        found = {**own, "weight": self._input.matrix(self.mask, hook), "decay": self._input.tensor("decay")}
        loop = self._others[0] if self._others else None
        found["recurrent_weight"] = None if loop is None else loop.matrix(hook=hook)
        found["recurrent_decay"] = None if loop is None else loop.tensor("decay")
        return found

    def forward(self, x: Tensor) -> Any:
        """(B, in, T) -> (B, out, T), or NCHWT -> (B, out, 1, 1, T); with count_log also the mean spike rate."""
        fields, persistent = self.fields(), self.neuron.persistent_state
        codebook, kept = self._codebook(), self._kept(x)
        spikes, v, state = _run(
            _time_first(x, fields["weight"]),
            fields,
            self.spiking,
            self.neuron.arithmetic,
            surrogate=self.surrogate,
            detach_reset=self.neuron.detach_reset,
            state=kept,
            keep_state=persistent,
            allow_overflow=self.allow_overflow,
        )
        out = v.permute(1, 2, 0) if spikes is None else self.neuron.drop_out(spikes.permute(1, 2, 0))
        before = None if kept is None else self.last_output
        if persistent:
            self.state, self.last_output, self.words = state, out[..., -1:].detach(), codebook
        if self.delay_shift:
            out = torch.cat([torch.zeros_like(out[..., :1]) if before is None else before, out[..., :-1]], -1)
        out = _like(out if self.delay is None else self.delay(out), x)
        if not self.count_log:
            return out
        return out, (out > 0).to(out).mean() if self.spiking else None

    def _kept(self, x: Tensor) -> Any:
        """The state to go on from, None where none is to be kept or the batch, device, dtype or codebook changed."""
        last = self.last_output
        if last is None or not self.neuron.persistent_state:
            return None
        fits = last.shape[0] == x.shape[0] and last.device == x.device and last.dtype == self._input.weight.dtype
        return self.state if fits and self.words == self._codebook() else None

    def _codebook(self) -> list[int] | None:
        """The decay words that the accumulators of a kept state belong to; None where it has none."""
        arithmetic = self.neuron.arithmetic
        if not (self.neuron.persistent_state and arithmetic.quantised and arithmetic.form == "cluster"):
            return None
        words: list[int] = arithmetic.fixed(self.to_params()).codebook.tolist()
        return words

    # ---- parameters in and out ----

    def to_params(self, hook: bool = True) -> HetSynParams:
        """The layer as the core has it, in float: weights as they are used, after pre_hook_fx and mask.

        hook=False: weights before pre_hook_fx, which rounds and clips them where the block is quantised
        """
        return to_hetsyn_params({k: v for k, v in self.fields(hook).items() if isinstance(v, Tensor)}, self.spiking)

    def to_fixed(self, name: str = "layer") -> FixedLayer:
        """The layer in integers, what the quantised forward computes and `export_hdf5` writes."""
        delay = None
        if self.delay is not None:
            delay = self.delay.delay.detach().clamp(0, MAX_DELAY).floor().long().cpu().numpy()
        return FixedLayer(name, self.neuron.arithmetic.fixed(self.to_params()), delay=delay)

    def export_hdf5(self, handle: Any) -> None:
        """Write the layer in integers into an h5py group (`deployment.chip_file`); the module stays as it is.

        Weights that do not fit 8 bits and taus that do not fit 12 become the nearest that do, as in the quantised
        forward pass, with a warning that counts them (`deployment.export` refuses them, or reports).
        """
        from hetsyn_plugins.deployment import chip_file as loihi

        layer = self.to_fixed(handle.name.strip("/").replace("/", "_") or "layer")
        lost = fixed_point.rounding(self.to_params(hook=False), layer.params)
        if lost.clipped_weights or lost.clipped_taus:
            what = f"{lost.clipped_weights} weights to 8 bits and {lost.clipped_taus} taus to 12 bits"
            warnings.warn(f"{layer.name}: clipped {what}", stacklevel=2)
        loihi.write_layer(handle, layer)

    @classmethod
    def from_params(
        cls, params: HetSynParams, *, neuron_params: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """A block with these parameters, in their dtype.

        neuron_params   further arguments of `Neuron` (persistent_state, scale, ...)
        options         as in the class; share: what keeps the number of decays, unless given

        With quantised=False, `to_params` gives the same numbers back.
        """
        if params.spiking != cls.spiking or (params.recurrent_weight is not None) != (len(cls.synapses) > 1):
            kind = (
                "recurrent neurons" if len(cls.synapses) > 1 else "feed-forward neurons" if cls.spiking else "a readout"
            )
            raise ValueError(f"params: expected {kind} for {cls.__name__}, got {params}")
        if options.get("tie_reset"):
            check_tied(params)
        n, m = params.weight.shape
        own = {name: getattr(params, name) for name in Neuron.names}
        decays = {"decay": params.decay}
        if params.recurrent_weight is not None:
            decays["recurrent_decay"] = params.recurrent_decay
        given = {"share": share_of(params), "dtype": getattr(torch, str(params.weight.dtype)), **decays, **options}
        block = cls({**own, **(neuron_params or {})}, m, n, **given)
        weights = (params.weight, params.recurrent_weight)
        for synapse, weight in zip((block._input, *block._others), weights, strict=False):
            synapse.set_weight(weight)
        return block


class Dense(Layer):
    """HetSyn neurons, all inputs to all neurons; arguments as slayer's and, by keyword, those of `Layer`.

    Example:
        >>> block = Dense({"threshold": 1.0, "reset_decay": 0.9}, 700, 128, decay=0.95)
        >>> block(torch.zeros(32, 700, 250)).shape
        torch.Size([32, 128, 250])
    """

    def __init__(
        self,
        neuron_params: Mapping[str, Any],
        in_neurons: Any,
        out_neurons: int,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable[[Tensor], Tensor] | None = None,
        delay: bool = False,
        delay_shift: bool = True,
        mask: Tensor | None = None,
        count_log: bool = False,
        **options: Any,
    ) -> None:
        given: dict[str, Any] = {"delay": delay, "delay_shift": delay_shift, "mask": mask, "count_log": count_log}
        super().__init__(
            neuron_params, in_neurons, out_neurons, weight_scale, weight_norm, pre_hook_fx, **given, **options
        )


class Recurrent(Layer):
    """HetSyn neurons with recurrent synapses; arguments as slayer's and, by keyword, those of `Layer`.

    requires_grad     False: the recurrent synapses are not learned
    recurrent_decay   as decay
    """

    synapses = ("input_synapse", "recurrent_synapse")

    def __init__(
        self,
        neuron_params: Mapping[str, Any],
        in_neurons: Any,
        out_neurons: int,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable[[Tensor], Tensor] | None = None,
        requires_grad: bool = True,
        delay: bool = False,
        delay_shift: bool = True,
        count_log: bool = False,
        **options: Any,
    ) -> None:
        given: dict[str, Any] = {"delay": delay, "delay_shift": delay_shift, "count_log": count_log}
        super().__init__(
            neuron_params, in_neurons, out_neurons, weight_scale, weight_norm, pre_hook_fx, **given, **options
        )
        self._others[0].requires_grad_(requires_grad)


class Affine(Layer):
    """The leaky readout: v, no spike, no reset; of neuron_params only bias, scale and persistent_state matter.

    dynamics   False: no leak, W x alone; the decays are 0 and fixed

    Unlike slayer's, it has delay_shift, so that a net of blocks is one step a layer late throughout, as on a chip.
    """

    spiking = False

    def __init__(
        self,
        neuron_params: Mapping[str, Any],
        in_neurons: Any,
        out_neurons: int,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable[[Tensor], Tensor] | None = None,
        dynamics: bool = True,
        mask: Tensor | None = None,
        count_log: bool = False,
        **options: Any,
    ) -> None:
        if not dynamics:
            options = {**options, "decay": 0.0, "learn_decay": False, "share": "layer", "parametrization": "decay"}
        self.dynamics = dynamics
        super().__init__(
            neuron_params, in_neurons, out_neurons, weight_scale, weight_norm, pre_hook_fx,
            mask=mask, count_log=count_log, **options,
        )  # fmt: skip


class Input(blocks.AbstractInput):
    """What stands in front: passes spikes on, one step later with delay_shift, or makes them with a neuron.

    neuron_params, weight, bias, delay_shift, count_log   as in slayer; with neuron_params: neuron(weight x + bias)
    """

    def __init__(
        self,
        neuron_params: Mapping[str, Any] | None = None,
        weight: float | None = None,
        bias: float | None = None,
        delay_shift: bool = True,
        count_log: bool = False,
    ) -> None:
        super().__init__(None, weight, bias, delay_shift, count_log)
        self.neuron = None if neuron_params is None else Neuron(**neuron_params)
        if self.neuron is not None:
            self.pre_hook_fx: Any = self.neuron.quantize_8bit

    def forward(self, x: Tensor) -> Any:
        if self.neuron is not None:
            z = self.pre_hook_fx(x)
            z = z if self.weight is None else z * self.pre_hook_fx(self.weight)
            x = self.neuron(z if self.bias is None else z + self.pre_hook_fx(self.bias))
        self.input_shape = x.shape[1:-1]
        if self.delay_shift:
            x = torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], -1)
        return (x, (x > 0).to(torch.float32).mean()) if self.count_log else x

    def export_hdf5(self, handle: Any) -> None:
        """Write the shape into an h5py group. A block with a neuron raises ValueError: the chip gets spikes."""
        if self.neuron is not None:
            raise ValueError("neuron_params: expected None for an Input block that is exported, got a neuron")
        super().export_hdf5(handle)


class Flatten(blocks.AbstractFlatten):
    """NCHWT -> NCT; as slayer's."""


def _delays(n: int) -> Any:
    """slayer's learnable delays, started here and not at the first call, which would overwrite what was loaded."""
    delays: Any = slayer.axon.Delay(max_delay=MAX_DELAY)
    delays.delay = nn.Parameter(torch.rand(n))
    delays.init = True
    return delays


def _time_first(x: Tensor, weight: Tensor) -> Tensor:
    """NCT or NCHWT -> (T, B, M), or ValueError where that is not what came."""
    m = weight.shape[1]
    if x.ndim not in (3, 5) or math.prod(x.shape[1:-1]) != m:
        raise ValueError(f"input: expected shape (B, {m}, T) or (B, C, H, W, T) of {m} neurons, got {tuple(x.shape)}")
    return x.flatten(1, -2).permute(2, 0, 1)


def _like(out: Tensor, x: Tensor) -> Tensor:
    """(B, N, T) as NCHWT where x is."""
    return out if x.ndim == 3 else out[:, :, None, None, :]


def _run(
    x: Tensor,
    fields: Mapping[str, Any],
    spiking: bool,
    arithmetic: Arithmetic,
    *,
    surrogate: Surrogate | None = None,
    detach_reset: bool = False,
    state: Any = None,
    keep_state: bool = False,
    allow_overflow: bool = False,
) -> tuple[Tensor | None, Tensor, Any]:
    """Spikes and v (T, B, N) of inputs (T, B, M), and the state after them: in integers or in float."""
    surrogate = resolve(surrogate)
    if arithmetic.quantised:
        cast, terms, _ = ops.prepare(x, dict(fields), spiking, None, None)
        fixed = arithmetic.fixed(to_hetsyn_params(terms._asdict(), spiking))
        return straight_through(
            fixed,
            cast,
            terms,
            surrogate=surrogate,
            detach_reset=detach_reset,
            state=state,
            keep_state=keep_state,
            allow_overflow=allow_overflow,
        )
    if spiking:
        spikes, v, end = ops.hetsyn_lif(x, **fields, state=state, surrogate=surrogate, detach_reset=detach_reset)
    else:
        own = {name: fields[name] for name in ("weight", "decay", "bias")}
        spikes, (v, end) = None, ops.hetsyn_li(x, **own, state=state)
    return spikes, v, type(end)(*(None if part is None else part.detach() for part in end))


# ---- registration -----------------------------------------------------------------------------------------------

_added: dict[str, ModuleType] = {}


def install() -> None:
    """Add `hetsyn` to slayer's `synapse`, `neuron` and `block`; may be called again."""
    ours: dict[str, dict[str, Any]] = {
        "synapse": {"Dense": Synapse},
        "neuron": {"Neuron": Neuron, "neuron_params": neuron_params},
        "block": {cls.__name__: cls for cls in (Input, Flatten, Dense, Recurrent, Affine)},
    }
    for part in ours:
        there = getattr(getattr(slayer, part), "hetsyn", None)
        if there is not None and there is not _added.get(part):
            raise ValueError(f"lava.lib.dl.slayer.{part}.hetsyn: expected to be free, is already {there!r}")
    for part, names in ours.items():
        if part not in _added:
            module = ModuleType(f"lava.lib.dl.slayer.{part}.hetsyn", f"HetSynLIF: {', '.join(names)}.")
            module.__dict__.update(names)
            _added[part] = sys.modules[module.__name__] = module
            setattr(getattr(slayer, part), "hetsyn", module)  # noqa: B010  the framework's module has no such name


def uninstall() -> None:
    """Undo `install`."""
    for part, module in _added.items():
        if getattr(getattr(slayer, part), "hetsyn", None) is module:
            delattr(getattr(slayer, part), "hetsyn")
        if sys.modules.get(module.__name__) is module:
            del sys.modules[module.__name__]
    _added.clear()


# ---- conversion (`exchange.conversion`) ---------------------------------------------------------------------


def why_not_plain(module: nn.Module) -> str:
    """Why `convert` does not read a block: it is NCT, has delays, and a step between layers that others lack."""
    return "slayer's blocks go to a chip (deployment.export); for another framework take from_params(block.to_params())"
