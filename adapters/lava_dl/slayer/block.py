"""The blocks: `slayer.block.hetsyn.Input`, `Flatten`, `Dense`, `Recurrent`, `Affine`.

Their lists of arguments are slayer's, place by place, and so are written out in each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import lava.lib.dl.slayer as slayer
import torch
from lava.lib.dl.slayer.block import base as blocks
from torch import Tensor, nn

from hetsyn_plugins.adapters.lava_dl.slayer.arithmetic import like_input, run_layer, time_first
from hetsyn_plugins.adapters.lava_dl.slayer.hooks import HookedCall, hooked, remake
from hetsyn_plugins.adapters.lava_dl.slayer.names import WithoutNorm, arguments_of, check_names, signature_of
from hetsyn_plugins.adapters.lava_dl.slayer.neuron import Neuron
from hetsyn_plugins.adapters.lava_dl.slayer.synapse import Synapse
from hetsyn_plugins.core.fields import DELAYS, MASKS
from hetsyn_plugins.core.masks import as_mask, say_empty_rows
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.core.validation import checked_bool
from hetsyn_plugins.fixed_point.network import MAX_DELAY, FixedLayer
from hetsyn_plugins.fixed_point.rounding import rounding
from hetsyn_plugins.ops.foreign_inputs import refuse_export, refuse_tracers
from hetsyn_plugins.ops.layer import options_from_params
from hetsyn_plugins.ops.rates import watch_rates
from hetsyn_plugins.ops.trainable import start_values, start_weight, to_hetsyn_params

# arguments of a block that it hands to its neuron and its synapses alike
FOR_ALL_PARTS = ("parametrization", "dt", "dtype", "quantised", "form", "fraction")


class Run(NamedTuple):
    """What leaves the neurons, (B, N, T), their spikes before dropout, (T, B, N) or None, and the state it began in."""

    out: Tensor
    spikes: Tensor | None
    kept: Any


class Layer(WithoutNorm, nn.Module):
    """What Dense, Recurrent and Affine share: one HetSyn layer, (B, in, T) -> (B, out, T).

    neuron_params   arguments of `Neuron`; the dict is not changed
    in_neurons, out_neurons, weight_scale, weight_norm   as in slayer's blocks
    input_rate      spikes an input line and step: the weights are drawn as `hetsyn_plugins.FluctuationDriven(rate)`
                    does, with which the layer fires at first; 0.05 behind a layer that was made so. Where quantised
                    they are rounded to steps of 2 / scale (neuron_params), which should be less than their size
    pre_hook_fx     applied to the weights before use; None: slayer's 8 bits where quantised, nothing in float
    delay           learnable axonal delays of 0..62 steps, one a neuron
    delay_shift     the output comes one step later, as from layer to layer on a chip
    mask            (out, in), zeros where there is no synapse
    count_log       forward also returns the mean number of spikes a neuron and step (None of a readout)
    decay, learn_decay, share, parametrization, dt   see `Synapse`
    tie_reset       the reset (and recurrent synapses) use the decay of the input synapses; share "neuron" or "layer"
    quantised, form, fraction   see the module's docstring and `hetsyn_plugins.fixed_point.neuron`
    allow_overflow  let integers wrap instead of raising FixedPointOverflow

    Raises ValueError for an argument or key of neuron_params that there is not, CUBA's among them: it says what to use.

    Forward hooks and forward pre-hooks of `neuron` and of the synapses fire once a call; `hooks.py` says what they see.
    """

    spiking = True
    synapses: ClassVar[tuple[str, ...]] = ("synapse",)
    state: Any
    last_output: Tensor | None
    words: list[int] | None  # the codebook of a kept state
    mask: Tensor | None

    def __init__(  # longer than a screen: half of it is the list of arguments
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
        input_rate: float | None = None,
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
        **unknown: Any,
    ) -> None:
        self._check_names(neuron_params, unknown)
        super().__init__()
        if tie_reset and share == "synapse":
            raise ValueError("tie_reset: expected share='neuron' or 'layer' with it, got share='synapse'")
        dtype = dtype or torch.get_default_dtype()
        options: dict[str, Any] = {"parametrization": parametrization, "dt": dt, "dtype": dtype}
        options.update(quantised=quantised, form=form, fraction=fraction)
        self.neuron = Neuron(**{**neuron_params, **options})
        self._check_neuron_fields(int(out_neurons))
        self.neuron.shape = torch.Size([int(out_neurons)])
        hook = self.neuron.quantize_8bit if pre_hook_fx is None and quantised else pre_hook_fx
        options.update(learn_decay=learn_decay, share=share, scale=self.neuron.scale)
        lines = zip((in_neurons, out_neurons), (decay, recurrent_decay), self.synapses, strict=False)
        for sources, start, name in lines:
            synapse = Synapse(sources, out_neurons, weight_scale, weight_norm, hook, decay=start, **options)
            setattr(self, name, synapse)
        self.tie_reset = tie_reset
        if tie_reset:
            self._tie()
        self.delay_shift, self.count_log, self.allow_overflow = delay_shift, count_log, allow_overflow
        self.delay = _delays(int(out_neurons)) if checked_bool("delay", delay) else None
        self.register_buffer("mask", None if mask is None else _mask(mask, self._input.weight.flatten(1)))
        if input_rate is not None:
            self._draw_weights(input_rate, share, weight_scale)
        self.reset()

    def _draw_weights(self, input_rate: float, share: str, weight_scale: float) -> None:
        """Set the weights to fluctuation-driven ones for the layer's own fields."""
        for name, given in (("mask", self.mask is not None), ("weight_scale", weight_scale != 1)):
            if given:  # neither is known to what draws the weights
                raise ValueError(f"input_rate: expected None beside a {name}, got {input_rate}")
        fields = {**self.fields(hook=False), "weight": start_weight(None, input_rate, "weight")}
        if self._others:
            fields["recurrent_weight"] = True
        sizes = tuple(self._input.weight.flatten(1).shape)
        drawn = start_values(fields, sizes=sizes, spiking=self.spiking, share=share, dtype=self._input.weight.dtype)
        for synapse, field in zip((self._input, *self._others), ("weight", "recurrent_weight"), strict=False):
            synapse.set_weight(drawn[field])

    @classmethod
    def _check_names(cls, neuron_params: Mapping[str, Any], unknown: Iterable[str]) -> None:
        """Raise ValueError for arguments, or keys of neuron_params, that are not there or belong to the other."""
        of_block, of_neuron = arguments_of(cls, Layer), arguments_of(Neuron)
        check_names(cls.__name__, unknown, of_block, dict.fromkeys(of_neuron, "in neuron_params"))
        if not isinstance(neuron_params, Mapping):
            came = type(neuron_params).__name__
            raise ValueError(f"neuron_params: expected a dict of the neuron's arguments, got {came}")
        own = [name for name in of_neuron if name not in FOR_ALL_PARTS]
        check_names("neuron_params", neuron_params, own, dict.fromkeys(of_block, f"to {cls.__name__} itself"))
        if "threshold" not in neuron_params:
            raise ValueError(f"neuron_params: expected a threshold in it, got {sorted(neuron_params)}")

    def _check_neuron_fields(self, n: int) -> None:
        """Raise ValueError where a field that a neuron has once has another number of neurons."""
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
        fields = self.neuron.tensors()
        if not self.spiking:
            fields = {**dict.fromkeys(fields), "threshold": 1.0, "bias": fields["bias"]}
        fields.update(weight=self._input.matrix(self.mask, hook), decay=self._input.tensor("decay"))
        absent = ("recurrent_weight", "recurrent_decay", *DELAYS, *MASKS)  # a mask of its own is in the weight
        fields.update(dict.fromkeys(absent))
        for synapse in self._others:
            fields.update(recurrent_weight=synapse.matrix(hook=hook), recurrent_decay=synapse.tensor("decay"))
        return fields

    def forward(self, x: Tensor) -> Any:
        """(B, in, T) -> (B, out, T), or NCHWT -> (B, out, 1, 1, T); with count_log also the mean spike rate."""
        if torch.compiler.is_compiling():
            refuse_export()
        else:
            refuse_tracers(x)
        last = self.last_output
        parts = (self.neuron, self._input, *self._others)
        if any(hooked(part) for part in parts):
            call = HookedCall(self, x)
            out, run = call.out.flatten(1, -2), call.run
        else:
            run = self.run(x)
            out = run.out
        watch_rates(self, x, run.spikes)
        before = None if run.kept is None else last
        if self.neuron.persistent_state:
            self.last_output = out[..., -1:].detach()
        if self.delay_shift:
            out = torch.cat([torch.zeros_like(out[..., :1]) if before is None else before, out[..., :-1]], -1)
        out = like_input(out if self.delay is None else self.delay(out), x)
        if not self.count_log:
            return out
        return out, (out > 0).to(out).mean() if self.spiking else None

    def run(self, x: Tensor) -> Run:
        """One sequence in one op, up to what leaves the neurons, and the state kept where it is to be."""
        fields, persistent = self.fields(), self.neuron.persistent_state
        codebook, kept = self._codebook(), self.kept_state(x)
        spikes, v, state = run_layer(
            time_first(x, fields["weight"]),
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
        if persistent:
            self.state, self.words = state, codebook
        return Run(out, spikes, kept)

    def kept_state(self, x: Tensor) -> Any:
        """The state to go on from, None where none is to be kept or the batch, device, dtype or codebook changed."""
        last = self.last_output
        if last is None or not self.neuron.persistent_state:
            return None
        fits = last.shape[0] == x.shape[0] and last.device == x.device and last.dtype == self._input.weight.dtype
        return self.state if fits and self.words == self._codebook() else None

    def _codebook(self) -> list[int] | None:
        """The decay words that the accumulators of a kept state belong to; None where it has none."""
        arithmetic = self.neuron.arithmetic
        if not (self.neuron.persistent_state and arithmetic.shares_accumulators):
            return None
        words: list[int] = arithmetic.fixed(self.own_params()).codebook.tolist()
        return words

    # ---- parameters in and out ----

    def to_params(self, hook: bool = True) -> HetSynParams:
        """The layer as the core has it, in float: weights as they are used, after pre_hook_fx and mask.

        hook=False: weights before pre_hook_fx, which rounds and clips them where the block is quantised
        """
        return self.own_params(hook)

    def own_params(self, hook: bool = True) -> HetSynParams:
        """Those that the op computes with: `to_params`, but for blocks that stand for a larger dense layer."""
        for part in (self.neuron, self._input, *self._others):
            remake(part)
        fields = {**self.fields(hook), "mask": self.mask}
        return to_hetsyn_params({k: v for k, v in fields.items() if isinstance(v, Tensor)}, self.spiking)

    def to_fixed(self, name: str = "layer") -> FixedLayer:
        """The layer in integers, what the quantised forward computes and `export_hdf5` writes."""
        return FixedLayer(name, self.neuron.arithmetic.fixed(self.to_params()), delay=self.axon_delays())

    def axon_delays(self) -> Any:
        """Whole steps, one a neuron, as the chip has them; None without."""
        if self.delay is None:
            return None
        return self.delay.delay.detach().clamp(0, MAX_DELAY).floor().long().cpu().numpy()

    def export_hdf5(self, handle: Any) -> None:
        """Write the layer in integers into an h5py group (`deployment.chip_file`); the module stays as it is.

        Weights that do not fit 8 bits and taus that do not fit 12 become the nearest that do, as in the quantised
        forward pass, with a warning that counts them (`deployment.export` refuses them, or reports). Of a float block
        it also warns of weights and time constants that rounding lost (`deployment.losses`).
        """
        from hetsyn_plugins.deployment import chip_file  # h5py is not needed before a file is written
        from hetsyn_plugins.deployment.losses import losses

        layer = self.to_fixed(handle.name.strip("/").replace("/", "_") or "layer")
        report = rounding(self.to_params(hook=False), layer.params)
        if report.clipped_weights or report.clipped_taus:
            what = f"{report.clipped_weights} weights to 8 bits and {report.clipped_taus} taus to 12 bits"
            warnings.warn(f"{layer.name}: clipped {what}", stacklevel=2)
        for sentence in losses(self.to_params(), layer.params):
            warnings.warn(f"{layer.name}: {sentence}", stacklevel=2)
        chip_file.write_layer(handle, layer)

    @classmethod
    def from_params(
        cls, params: HetSynParams, *, neuron_params: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """A block with these parameters, in their dtype.

        neuron_params   further arguments of `Neuron` (persistent_state, scale, ...)
        options         as in the class; share: what keeps the number of decays, unless given

        With quantised=False, `to_params` gives the same numbers back.
        """
        recurrent = len(cls.synapses) > 1
        if params.spiking != cls.spiking or (params.recurrent_weight is not None) != recurrent:
            neurons = "recurrent neurons" if recurrent else "feed-forward neurons"
            kind = neurons if cls.spiking else "a readout"
            raise ValueError(f"params: expected {kind} for {cls.__name__}, got {params}")
        params.refuse_delays("a block of slayer's (which delays whole axons)")
        n, m = params.weight.shape
        fields = {name: getattr(params, name) for name in Neuron.names}
        derived = options_from_params(params, options.get("share"), options.get("tie_reset", False))
        del derived["clusters"]  # no codebook: `Synapse.shares`
        derived["decay"] = params.decay
        if params.recurrent_mask is not None:
            hint = "replace(recurrent_mask=None) keeps absent weights at 0, from where they train"
            raise ValueError(f"recurrent_mask: expected None for a block of slayer's, got one; {hint}")
        if params.mask is not None:
            derived["mask"] = torch.from_numpy(params.mask)
        if params.recurrent_weight is not None:
            derived["recurrent_decay"] = params.recurrent_decay
        block = cls({**fields, **(neuron_params or {})}, m, n, **{**derived, **options})
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
        options.update(delay=delay, delay_shift=delay_shift, mask=mask, count_log=count_log)
        super().__init__(neuron_params, in_neurons, out_neurons, weight_scale, weight_norm, pre_hook_fx, **options)


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
        options.update(delay=delay, delay_shift=delay_shift, count_log=count_log)
        super().__init__(neuron_params, in_neurons, out_neurons, weight_scale, weight_norm, pre_hook_fx, **options)
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
        options.update(mask=mask, count_log=count_log)
        if not dynamics:
            options.update(decay=0.0, learn_decay=False, share="layer", parametrization="decay")
        self.dynamics = dynamics
        super().__init__(neuron_params, in_neurons, out_neurons, weight_scale, weight_norm, pre_hook_fx, **options)


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
        **unknown: Any,
    ) -> None:
        check_names("Input", unknown, arguments_of(Input), dict.fromkeys(arguments_of(Neuron), "in neuron_params"))
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


_block: Any
for _block in (Dense, Recurrent, Affine):
    _block.__signature__ = signature_of(_block, Layer)  # what help() and editors read
for _block in (Layer, Input):
    _block.__signature__ = signature_of(_block)


def _mask(mask: Any, weight: Tensor) -> Tensor:
    """0 and 1 in the shape (out, in) and the type of the weights; neurons that are left without synapses are told."""
    present = torch.from_numpy(as_mask("mask", mask))
    if tuple(present.shape[:2]) != tuple(weight.shape):
        raise ValueError(f"mask: expected shape {tuple(weight.shape)}, got {tuple(present.shape)}")
    present = present.reshape(weight.shape)
    say_empty_rows({"mask": present})
    return present.to(weight)


def _delays(n: int) -> Any:
    """slayer's learnable delays, started here and not at the first call, which would overwrite what was loaded."""
    delays: Any = slayer.axon.Delay(max_delay=MAX_DELAY)
    delays.delay = nn.Parameter(torch.rand(n))
    delays.init = True
    return delays
