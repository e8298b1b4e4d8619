"""HetSynLIF as Norse modules: cells (one step) and sequence modules (fused), in Norse's own idiom.

Importing this changes nothing in Norse; `hetsyn_plugins.register("norse")` makes them `norse.torch.HetSynLIFCell` and
so on. The equations are the core's: one step is `ops.lif.run_step`, a sequence `ops.lif.run_sequence`. Decays are
exp(-dt * tau_inv), as in the paper, not Norse's Euler step 1 - dt * tau_inv.

Neither keeps the currents, B * N * M numbers, for the backward pass: cells that get their states as they were returned
are one loop (`ops/steps.py`); a current that was replaced or written to in between is kept.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import norse.torch
import numpy as np
import torch
from norse.torch.functional.threshold import threshold as norse_threshold
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from norse.torch.utils import export_nir
from torch import Tensor, nn

from hetsyn_plugins.adapters import containers
from hetsyn_plugins.core.autograd import transforming
from hetsyn_plugins.core.convolution import Convolution
from hetsyn_plugins.core.fields import DECAYS, DELAYS, MASKS, HetSynState
from hetsyn_plugins.core.masks import as_mask
from hetsyn_plugins.core.network import HetSynLayer
from hetsyn_plugins.core.params import HetSynParams, is_unlikely
from hetsyn_plugins.core.surrogate import NAMED, Foreign, Surrogate, resolve
from hetsyn_plugins.core.validation import checked_size, describe_values
from hetsyn_plugins.exchange.nir import to_graph
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.ops import lif
from hetsyn_plugins.ops.arguments import (
    HALF,
    PRECISE,
    ArgumentNames,
    Caller,
    compute_dtype,
    output_dtype,
)
from hetsyn_plugins.ops.convolving import Convolving, in_shape, signature
from hetsyn_plugins.ops.dispatch import check_backend
from hetsyn_plugins.ops.foreign_inputs import outside_of_graph
from hetsyn_plugins.ops.layer import HetSynModule, learned_options, options_from_params, span
from hetsyn_plugins.ops.lengths import checked_lengths
from hetsyn_plugins.ops.rates import watch_rates
from hetsyn_plugins.ops.trainable import (
    TrainableFields,
    all_finite,
    decay_from_stored,
    recompute,
    start_max_delay,
    start_weight,
    values_to_look_at,
)

# what the core's fields are called as arguments here
FIELD_NAMES = {
    "weight": "input_weights",
    "recurrent_weight": "recurrent_weights",
    "decay": "tau_syn_inv",
    "recurrent_decay": "tau_rec_inv",
    "reset_decay": "tau_reset_inv",
    "adaptation_decay": "tau_adapt_inv",
    "adaptation_strength": "adapt_strength",
    "threshold": "v_th",
    "bias": "bias",
    "delay": "delay",
    "recurrent_delay": "rec_delay",
    "mask": "mask",
    "recurrent_mask": "rec_mask",
}
DEFAULT_TAU_INV = 1 / 20e-3  # 1/s: the paper's 20 ms


class HetSynLIFState(NamedTuple):
    """State of a feed-forward layer: z, v, i_reset, i_adapt (B, N), i (B, N, M); i_adapt is zero without adaptation."""

    z: Tensor
    v: Tensor
    i: Tensor
    i_reset: Tensor
    i_adapt: Tensor


class HetSynLIFRecurrentState(NamedTuple):
    """State of a recurrent layer: as HetSynLIFState, and i_rec (B, N, N)."""

    z: Tensor
    v: Tensor
    i: Tensor
    i_rec: Tensor
    i_reset: Tensor
    i_adapt: Tensor


class HetSynLIState(NamedTuple):
    """State of a leaky readout: v (B, N), i (B, N, M)."""

    v: Tensor
    i: Tensor


class HetSynLIFDelayState(NamedTuple):
    """As HetSynLIFState, and the inputs of the last max_delay steps, past_input (max_delay, B, M), the latest last."""

    z: Tensor
    v: Tensor
    i: Tensor
    i_reset: Tensor
    i_adapt: Tensor
    past_input: Tensor


class HetSynLIFRecurrentDelayState(NamedTuple):
    """As HetSynLIFRecurrentState, and past_input (max_delay, B, M), past_z (max_delay, B, N), the spikes before z.

    Without delays of its own, a kind of synapses has no steps there.
    """

    z: Tensor
    v: Tensor
    i: Tensor
    i_rec: Tensor
    i_reset: Tensor
    i_adapt: Tensor
    past_input: Tensor
    past_z: Tensor


class HetSynLIDelayState(NamedTuple):
    """As HetSynLIState, and past_input (max_delay, B, M)."""

    v: Tensor
    i: Tensor
    past_input: Tensor


WITH_DELAYS: dict[Any, Any] = {
    HetSynLIFState: HetSynLIFDelayState,
    HetSynLIFRecurrentState: HetSynLIFRecurrentDelayState,
    HetSynLIState: HetSynLIDelayState,
}

# the states' fields -> the core's
STATE_FIELDS = {
    "z": "spikes",
    "v": "v",
    "i": "current",
    "i_rec": "recurrent_current",
    "i_reset": "reset",
    "i_adapt": "adaptation",
    "past_input": "past_inputs",
    "past_z": "past_spikes",
}
STATE_NAMES = {f"state.{core}": f"state.{name}" for name, core in STATE_FIELDS.items()}
ARGUMENT_NAMES = ArgumentNames({**FIELD_NAMES, **STATE_NAMES, "inputs": "input_tensor"})
PAIR = (
    "; the layer before it returned a pair: z, state = layer(x, state), or a SequentialState, which keeps the states "
    "of its layers, but not that of a Lift"
)
CELL = Caller(ARGUMENT_NAMES, {2: "(B, {m}), one step"}, tuple_hint=PAIR)
SEQUENCE = Caller(ARGUMENT_NAMES, {3: "({first}, {m}), a sequence"}, tuple_hint=PAIR)


class NorseThreshold:
    """One of Norse's own spike functions, picklable: `norse.torch.functional.threshold(x, method, alpha)`."""

    def __init__(self, method: str, alpha: float) -> None:
        self.method, self.alpha = method, float(alpha)

    def __call__(self, x: Tensor) -> Tensor:
        spikes: Tensor = norse_threshold(x, self.method, self.alpha)
        return spikes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NorseThreshold) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.method, self.alpha))

    def __repr__(self) -> str:
        return f"NorseThreshold({self.method!r}, alpha={self.alpha})"


NORSE_METHODS = ("super", "triangle", "tanh", "circ", "heavi_erfc")


def surrogate_of(method: Any, alpha: float) -> Surrogate:
    """Our surrogate of that name (or a Surrogate, or a spike function), else Norse's own method with its alpha."""
    if isinstance(method, str) and method not in NAMED:
        if method not in NORSE_METHODS:
            names = ", ".join((*NAMED, *NORSE_METHODS))
            raise ValueError(f"method: expected one of {names}, got {method!r}")
        return Foreign(NorseThreshold(method, alpha))
    return resolve(method, "method")


class HetSynLIFParameters(TrainableFields):
    """Parameters of a HetSynLIF layer, an nn.Module: in `.parameters()`, `state_dict`, `.to()`.

    tau_syn_inv, tau_rec_inv   1/s; number, tensor () or (N,) or (N, M), or an initialiser; 0 is r = 1, inf is r = 0
    tau_reset_inv, tau_adapt_inv   1/s, () or (N,); None: no reset, no adaptation
    adapt_strength, bias, v_th     () or (N,); bias (N,); v_th > 0
    delay, rec_delay   steps from an input (a spike) to the synapse, >= 0, whole or not, in the shapes of tau_syn_inv,
                       or a function (shape, generator) -> array; None: none
    max_delay          no delay becomes longer, so many steps are kept in the state; None: as the longest asks for
    mask, rec_mask     booleans (N, M) and (N, N), 0 and 1, or sparse tensors: which synapses there are; None: all.
                       Weights that a layer draws are so for these inputs; `cell.p.mask = ...` replaces it later
    method, alpha   a surrogate (`hetsyn_plugins.core.surrogate`), its name, or a method of Norse's with its alpha
    dtype   None: torch's default for numbers; a float64 layer from numbers wants float64 here too
    learn_...       what is trained beside the synaptic decays and the bias

    Time constants are stored in seconds here; a cell copies them, in its own shapes, dt and parametrization. The
    properties tau_..._inv are computed from what is stored.
    """

    names = {  # noqa: RUF012  declared as a ClassVar where it comes from
        "decay": "syn_decay",
        "recurrent_decay": "rec_decay",
        "reset_decay": "reset_decay",
        "adaptation_decay": "adapt_decay",
        "adaptation_strength": "adapt_strength",
        "threshold": "v_th",
        "bias": "bias",
        "delay": "delay",
        "recurrent_delay": "rec_delay",
        "mask": "mask",
        "recurrent_mask": "rec_mask",
    }

    @torch.inference_mode(False)  # or what is made in inference mode could never be trained
    def __init__(  # long for its arguments
        self,
        tau_syn_inv: Any = DEFAULT_TAU_INV,
        tau_rec_inv: Any = DEFAULT_TAU_INV,
        tau_reset_inv: Any = DEFAULT_TAU_INV,
        tau_adapt_inv: Any = None,
        adapt_strength: Any = None,
        bias: Any = None,
        v_th: Any = 1.0,
        method: Any = "multi_gaussian",
        alpha: float = 100.0,
        *,
        learn_reset: bool = False,
        learn_threshold: bool = False,
        learn_adaptation: bool = False,
        delay: Any = None,
        rec_delay: Any = None,
        max_delay: int | None = None,
        learn_delay: bool = True,
        mask: Any = None,
        rec_mask: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.set_options(share="synapse", parametrization="tau", tie_reset=False, dt=0.001)
        self._describe(method, alpha, learn_reset, learn_threshold, learn_adaptation, learn_delay)
        inverse = {
            "decay": tau_syn_inv,
            "recurrent_decay": tau_rec_inv,
            "reset_decay": tau_reset_inv,
            "adaptation_decay": tau_adapt_inv,
        }
        others = {"adapt_strength": adapt_strength, "bias": bias, "v_th": v_th, "delay": delay, "rec_delay": rec_delay}
        _warn_of_copies({**{FIELD_NAMES[field]: value for field, value in inverse.items()}, **others})
        delays = {"delay": delay, "recurrent_delay": rec_delay}
        drawn = {**inverse, **delays}
        self.initialisers = {f: v for f, v in drawn.items() if callable(v) and not isinstance(v, Tensor)}
        for field, value in inverse.items():
            tau = None
            if value is not None and field not in self.initialisers:
                value = _tensor(FIELD_NAMES[field], value, dtype)
                if not value.is_meta and not (value >= 0).all():
                    raise ValueError(f"{FIELD_NAMES[field]}: expected values >= 0 in 1/s, got {describe_values(value)}")
                tau = 1 / value
            self._register(field, tau)
        for field, value in (("adaptation_strength", adapt_strength), ("bias", bias), ("threshold", v_th)):
            self._register(field, None if value is None else _tensor(FIELD_NAMES[field], value, dtype))
        for field, value in delays.items():
            given = value is not None and field not in self.initialisers
            self._register(field, _steps(FIELD_NAMES[field], value, dtype) if given else None)
        for field, value in (("mask", mask), ("recurrent_mask", rec_mask)):
            own = None if value is None else torch.from_numpy(as_mask(FIELD_NAMES[field], value))
            self.register_buffer(self.stored_name(field), own)
        self.given_max_delay = max_delay  # which layers have, where it is None, depends on what they draw
        start = {field: self.stored(field) for field in delays}
        known = not any(field in self.initialisers for field in delays)
        self.max_delay = start_max_delay(max_delay, start, ARGUMENT_NAMES) if known else max_delay or 0

    def _describe(self, method: Any, alpha: float, reset: bool, threshold: bool, adaptation: bool, delay: bool) -> None:
        self.method, self.alpha, self.surrogate = method, alpha, surrogate_of(method, alpha)
        self.learn = {"reset_decay": reset, "threshold": threshold}
        self.learn |= dict.fromkeys(("adaptation_decay", "adaptation_strength"), adaptation)
        self.learn |= dict.fromkeys(DELAYS, delay)

    def _register(self, field: str, value: Tensor | None) -> None:
        if value is not None and self.learn.get(field, True):
            self.register_parameter(self.stored_name(field), nn.Parameter(value))
        else:
            self.register_buffer(self.stored_name(field), value)

    def decays(self, dt: float) -> dict[str, Any]:
        """The decays for a step of dt seconds, exp(-dt * tau_inv); initialisers as they are."""
        decays: dict[str, Any] = {}
        for field in DECAYS:
            stored = self.stored(field)
            if field in self.initialisers:
                decays[field] = self.initialisers[field]
            elif stored is None:
                decays[field] = None
            elif self.parametrization == "decay":
                decay = decay_from_stored(stored, "decay", None)
                decays[field] = decay if dt == self.dt else decay ** (dt / float(self.dt or dt))
            else:
                decays[field] = decay_from_stored(stored, self.parametrization, dt)
        return decays

    def copy_for(self, values: dict[str, Tensor | None], **options: Any) -> HetSynLIFParameters:
        """The same surrogate and flags with these fields, expanded, decays as r, for a cell with these options."""
        copy = HetSynLIFParameters.__new__(HetSynLIFParameters)
        nn.Module.__init__(copy)
        copy.initialisers = {}
        copy.set_options(**options)
        learn = self.learn
        flags = (learn[field] for field in ("reset_decay", "threshold", "adaptation_decay", "delay"))
        copy._describe(self.method, self.alpha, *flags)
        copy.given_max_delay = self.given_max_delay
        copy.max_delay = start_max_delay(self.given_max_delay, values, ARGUMENT_NAMES)
        copy.add_fields({**dict.fromkeys(self.names), **values}, learn)
        return copy

    def _tau_inv(self, field: str) -> Tensor | None:
        if field in self.initialisers:
            return None
        decay = self.tensor(field)
        if decay is None:
            return None
        if self.parametrization == "tau":
            stored = self.stored_in_full(field)
            return None if stored is None else 1 / stored
        return -decay.double().log() / float(self.dt or 0.001)

    def _tau_ms(self, field: str) -> Tensor | None:
        tau_inv = self._tau_inv(field)
        return None if tau_inv is None else 1e3 / tau_inv.abs()  # no time constant of -0

    @property
    def tau_syn_inv(self) -> Tensor | None:
        """1/s, of the synapses."""
        return self._tau_inv("decay")

    @property
    def tau_rec_inv(self) -> Tensor | None:
        """1/s, of the recurrent synapses."""
        return self._tau_inv("recurrent_decay")

    @property
    def tau_reset_inv(self) -> Tensor | None:
        """1/s, of the reset current; None without reset."""
        return self._tau_inv("reset_decay")

    @property
    def tau_adapt_inv(self) -> Tensor | None:
        """1/s, of the adaptation current; None without adaptation."""
        return self._tau_inv("adaptation_decay")

    def extra_repr(self) -> str:
        """What `print` shows: time constants as the ranges of their values, the threshold, the surrogate."""
        shown = {}
        for field in DECAYS:
            name = FIELD_NAMES[field].removesuffix("_inv")
            if field in self.initialisers:
                shown[name] = repr(self.initialisers[field])
            elif text := span(functools.partial(self._tau_ms, field), " ms"):
                shown[name] = text
        for field in (field for field in DELAYS if field in self.initialisers):
            shown[FIELD_NAMES[field]] = repr(self.initialisers[field])
        for field in ("adaptation_strength", "bias", *DELAYS, "threshold"):
            if text := span(functools.partial(self.tensor, field)):
                shown[FIELD_NAMES[field]] = text
        shown |= {FIELD_NAMES[field]: part for field in MASKS if (part := self.mask_shown(field))}
        surrogate = f"method={self.method!r}, parametrization={self.parametrization!r}"
        return ", ".join((*(f"{name}={text}" for name, text in shown.items()), surrogate))


def _warn_of_copies(values: Mapping[str, Any]) -> None:
    """Warn of parameters of the user's own, which stay as they are: what is trained is the copy of a layer."""
    names = [name for name, value in values.items() if isinstance(value, Tensor) and value.requires_grad]
    if names:
        warnings.warn(
            f"{', '.join(names)}: copied, the tensor given gets no gradient; what is trained is the layer's own p "
            "(learn_reset=True, learn_threshold=True, learn_adaptation=True; synaptic decays always)",
            stacklevel=3,
        )


def _warn_of_units(p: HetSynLIFParameters, fields: Iterable[str], dt: float, stacklevel: int) -> None:
    """Warn of decays whose 1/s, by their median, were hardly meant so; initialisers have looked at theirs."""
    for field in fields:
        tau = p.stored(field)
        if p.parametrization != "tau" or tau is None or tau.is_meta:  # another layer's p
            continue
        between = tau.detach()[(tau > 0) & tau.isfinite()]
        if between.numel() > 0 and is_unlikely(usual := between.median().item(), dt):
            warnings.warn(
                f"{FIELD_NAMES[field]}: expected 1/s, and dt in seconds, got {1 / usual:.6g} with dt={dt:.6g}, a time "
                f"constant of {usual / dt:.3g} steps; is it one per millisecond, or the time constant itself?",
                stacklevel=stacklevel,
            )


def _steps(name: str, value: Any, dtype: torch.dtype | None) -> Tensor:
    """Delays, whole numbers among them, as floats."""
    t = _tensor(name, value, dtype)
    return t if t.is_floating_point() else t.to(dtype or torch.get_default_dtype())


def _tensor(name: str, value: Any, dtype: torch.dtype | None) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().clone() if dtype is None else value.detach().clone().to(dtype)
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers, got {value!r}: {error}") from error
    return torch.tensor(numbers, dtype=dtype or torch.get_default_dtype())


def hetsyn_lif_step(
    input_tensor: Tensor,
    state: HetSynLIFState | HetSynLIFRecurrentState | None,
    input_weights: Tensor,
    recurrent_weights: Tensor | None = None,
    p: HetSynLIFParameters | None = None,
    dt: float = 0.001,
) -> tuple[Tensor, HetSynLIFState | HetSynLIFRecurrentState]:
    """One step in functional form: input (B, M) and the state before it give z (B, N) and the state after it.

    input_weights (N, M); recurrent_weights (N, N) or None; state None: zeros. dt in seconds.
    """
    kind: Any = HetSynLIFState if recurrent_weights is None else HetSynLIFRecurrentState
    p = _checked_p(p, compute_dtype(input_weights) if isinstance(input_weights, Tensor) else None)
    if p.initialisers:
        names = ", ".join(FIELD_NAMES[field] for field in p.initialisers)
        raise ValueError(f"p: expected values, got an initialiser for {names}, which only a layer can draw from")
    fields = {**p.tensors(), **p.decays(dt), "weight": input_weights, "recurrent_weight": recurrent_weights}
    if recurrent_weights is None:
        fields |= dict.fromkeys(("recurrent_decay", "recurrent_delay", "recurrent_mask"))
    has_delays = any(fields[field] is not None for field in DELAYS)
    kind = WITH_DELAYS[kind] if has_delays else kind
    start = None if state is None else _to_core(state, kind, fields)
    after = lif.hetsyn_lif_step(
        input_tensor,
        **fields,
        max_delay=p.max_delay if has_delays else None,
        state=start,
        surrogate=p.surrogate,
        argument_names=ARGUMENT_NAMES,
    )
    result = _from_core(after, kind)
    return result.z.to(input_weights.dtype), result


def _checked_p(p: Any, dtype: torch.dtype | None) -> HetSynLIFParameters:
    """The parameters given, or those of the paper in this dtype."""
    if p is None:
        return HetSynLIFParameters(dtype=dtype)
    if not isinstance(p, HetSynLIFParameters):
        raise ValueError(f"p: expected HetSynLIFParameters or None, got {type(p).__name__}")
    return p


# currents that every state has, also of a layer that lacks them -> the field that the layer then lacks
UNUSED = {
    "i_reset": "reset_decay",
    "i_adapt": "adaptation_decay",
    "past_input": "delay",
    "past_z": "recurrent_delay",
}


def _to_core(state: Any, kind: Any, fields: Mapping[str, Any]) -> HetSynState:
    """The state as the core has it; `fields` says which currents the layer has."""
    if not isinstance(state, kind):
        want, got = kind.__name__, type(state).__name__
        hint = "z, state = layer(x, state) returns it; is this one another layer's, or the whole pair?"
        raise ValueError(f"state: expected a {want} or None, got {got}; {hint}")
    parts: dict[str, Any] = {}
    for name, value in zip(kind._fields, state, strict=True):
        if name in UNUSED and fields[UNUSED[name]] is None:
            _check_unused(name, value)
        else:
            parts[STATE_FIELDS[name]] = value
    return HetSynState(**parts)


def _check_unused(name: str, current: Any) -> None:
    """Raise ValueError for a current that this layer does not have; like all values, looked at on the CPU only."""
    if not isinstance(current, Tensor):
        raise ValueError(f"state.{name}: expected a torch tensor, got {type(current).__name__}")
    looked_at = current.device.type == "cpu" and not torch.compiler.is_compiling() and not transforming()
    if looked_at and current.any():
        raise ValueError(f"state.{name}: expected zeros, the layer has no such current; is the state another layer's?")


def _from_core(state: HetSynState, kind: Any) -> Any:
    """The core's state as this kind has it; currents that the layer lacks are zero, a past that it lacks is no step."""
    parts = {name: getattr(state, STATE_FIELDS[name]) for name in kind._fields}
    for name, part in parts.items():
        if part is None:
            parts[name] = state.v.new_zeros((0, *state.v.shape) if name.startswith("past_") else state.v.shape)
    return kind(**parts)


class _HetSynModule(HetSynModule, nn.Module):
    """What the six classes share; each says which kind of layer it is and whether it takes a step or a sequence."""

    recurrent, spiking, sequential = False, True, False
    state_class: Any = HetSynLIFState
    recurrent_weights: Tensor | None

    @torch.inference_mode(False)  # see HetSynLIFParameters
    def __init__(  # long for its arguments, every one of which is seen in a signature
        self,
        input_size: int,
        hidden_size: int,
        p: HetSynLIFParameters | None = None,
        dt: float = 0.001,
        *,
        input_weights: Any = None,
        recurrent_weights: Any = None,
        input_rate: float | None = None,
        autapses: bool = True,
        share: str = "synapse",
        clusters: int | None = None,
        reassign: bool = False,
        parametrization: str = "decay",
        tie_reset: bool = False,
        detach_reset: bool = False,
        backend: str = "auto",
        check: bool | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        meet_norse()
        if recurrent_weights is not None and not self.recurrent:
            raise ValueError("recurrent_weights: expected None for a layer without recurrence, got weights")
        check_backend(backend)
        p = _checked_p(p, torch.float32 if dtype in HALF else dtype)
        self.input_size = checked_size("input_size", input_size)
        self.hidden_size = checked_size("hidden_size", hidden_size)
        self.dt, self.detach_reset, self.backend, self.check = float(dt), detach_reset, backend, check
        fields: dict[str, Any] = {
            **{f: p.initialisers.get(f, p.stored(f)) for f in p.names if f not in DECAYS},
            **p.decays(dt),
            "weight": start_weight(input_weights, input_rate, "input_weights"),
            "recurrent_weight": True if recurrent_weights is None else recurrent_weights,
        }
        if not self.recurrent:
            fields |= dict.fromkeys(("recurrent_weight", "recurrent_decay", "recurrent_delay", "recurrent_mask"))
        if not self.spiking:
            fields |= dict.fromkeys(("reset_decay", "adaptation_decay", "adaptation_strength"))
        _warn_of_units(p, [field for field in DECAYS if fields[field] is not None], self.dt, 4 + self.sequential)
        shared = {"share": share, "clusters": clusters, "reassign": reassign}
        self._build(p, fields, shared, parametrization, tie_reset, device, dtype)
        self.autapses = autapses
        mask = None if autapses or not self.recurrent else 1.0 - torch.eye(self.hidden_size, device=device)
        self.register_buffer("recurrent_mask", mask, persistent=False)

    def _build(
        self,
        p: HetSynLIFParameters,
        fields: dict[str, Any],
        shared: dict[str, Any],
        parametrization: str,
        tie: bool,
        device: Any,
        dtype: Any,
    ) -> None:
        wide = dtype or _dtype_of(fields)
        kept = torch.float32 if wide in HALF else wide
        for field, value in fields.items():  # p's own tensors follow the layer's dtype: they are start values
            if isinstance(value, Tensor) and field not in ("weight", "recurrent_weight", *MASKS):
                if value.dtype == torch.float64 != wide:
                    raise ValueError(f"{FIELD_NAMES[field]}: expected {kept} like the layer, got {value.dtype} in p")
                fields[field] = value.detach().to(kept if field in PRECISE else wide)
        values: dict[str, Any] = self.start_values(
            fields,
            sizes=(self.hidden_size, self.input_size),
            spiking=self.spiking,
            share=shared["share"],
            names=ARGUMENT_NAMES,
            dtype=wide,
            device=device,
            tie_reset=tie,
            dt=self.dt,
            clusters=shared["clusters"],
        )
        self.input_weights = nn.Parameter(values.pop("weight"))
        recurrent_weight = values.pop("recurrent_weight")
        self.recurrent_weights = None if recurrent_weight is None else nn.Parameter(recurrent_weight)
        options = {**shared, "parametrization": parametrization, "tie_reset": tie, "dt": self.dt}
        self.p = p.copy_for(values, **options)
        self.max_delay = self.p.max_delay
        self.has_delays = any(values[field] is not None for field in DELAYS)
        if self.has_delays:
            self.state_class = WITH_DELAYS[type(self).state_class]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        meet_norse()

    @property
    def surrogate(self) -> Surrogate:  # type: ignore[override]  # p holds it
        """The surrogate derivative in use."""
        return self.p.surrogate

    def codebook_tensors(self, dtype: torch.dtype) -> dict[str, Any]:
        """See `HetSynModule`."""
        return self.p.kept_codebook(dtype)

    def tensors(self) -> dict[str, Any]:
        """All fields as the op takes them."""
        recompute(self.p)  # it is never called
        weight = self.recurrent_weights
        if weight is not None and self.recurrent_mask is not None:
            weight = weight * self.recurrent_mask.clone()  # DistributedDataParallel rewrites buffers at every call
        return {**self.p.tensors(), "weight": self.input_weights, "recurrent_weight": weight}

    def stored(self, field: str) -> Tensor | None:
        """The tensor that is trained for a field of HetSynParams."""
        if field == "weight":
            return self.input_weights
        return self.recurrent_weights if field == "recurrent_weight" else self.p.stored(field)

    def registered(self) -> list[Tensor | None]:
        if self._modules.keys() != {"p"}:  # parametrized: what is trained stands deeper
            return [*self.parameters(), *self.buffers()]
        return [*self._parameters.values(), *self._buffers.values(), *self.p.registered()]

    def set_by_hooks(self) -> list[Tensor]:
        return [*values_to_look_at(self, ("input_weights", "recurrent_weights")), *self.p.set_by_hooks()]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """As nn.Module's; weights with NaN or infinity are reported and not loaded (p does so for its own)."""
        if all_finite(state_dict, prefix, ("input_weights", "recurrent_weights"), args[-1]):
            super()._load_from_state_dict(state_dict, prefix, *args)

    def clamp_(self) -> None:
        """Project what an optimiser pushed out of range back onto it."""
        self.p.clamp_()

    def initial_state(self, input_tensor: Tensor) -> Any:
        """Zeros for the input's batch: the state before the first step."""
        x = self.swapped(input_tensor)
        batch, n, *size = shape = self.soma_shape(x)
        dtype = compute_dtype(self.input_weights)
        zeros = {name: self.input_weights.new_zeros(shape, dtype=dtype) for name in self.state_class._fields}
        zero = self.input_weights.new_zeros((), dtype=dtype)
        # currents of synapses are not written out: a reset costs nothing
        zeros |= {"i": zero.expand(batch, *self.input_weights.shape, *size)}
        zeros |= {"i_rec": zero.expand(batch, n, n)} if self.recurrent else {}
        for name, past in (("past_input", self.step_shape(x)), ("past_z", shape)):
            if name in zeros:
                steps = 0 if self.p.stored(UNUSED[name]) is None else self.max_delay
                zeros[name] = zero.expand(steps, *past)
        return self.state_class(**zeros)

    def initial(self, state: Any, layer: LayerTensors, x: Tensor) -> HetSynState:
        """The state before the first step as the core has it, for inputs x; None: zeros."""
        core = None if state is None else _to_core(state, self.state_class, layer._asdict())
        return self.checked_state(core, layer, x, ARGUMENT_NAMES)

    def _returned(self, state: Any, layer: LayerTensors, x: Tensor) -> HetSynState | None:
        """The state as the core has it where it is what the last step returned, which needs no more checks."""
        mark = self.mark_of(getattr(state, "i", None))
        if mark is None or type(state) is not self.state_class or mark.state.v.shape != self.soma_shape(x):
            return None
        parts = {STATE_FIELDS[name]: part for name, part in zip(state._fields, state, strict=True)}
        for name, field in UNUSED.items():
            if getattr(layer, field) is None:
                parts.pop(STATE_FIELDS[name], None)
        core = HetSynState(**parts)
        return core if mark.goes_on(core, layer, self.way()) else None

    def step(self, input_tensor: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step: z (or v) (B, N) and the state after it."""
        weight = self.input_weights
        x = self.checked_inputs(input_tensor, bool(self.check), CELL)
        layer, origin = self.step_layer(getattr(state, "i", None), ARGUMENT_NAMES)
        if self.check:
            self.check_changed(layer, ARGUMENT_NAMES)
        before = self._returned(state, layer, x) or self.initial(state, layer, x)
        checked = self.checked(ARGUMENT_NAMES) if torch.compiler.is_compiling() else ""
        after = self.run_step(x, layer, before, self.way(), owner=origin, module=self, checked=checked)
        out = after.spikes if self.spiking else after.v
        return out.to(output_dtype(input_tensor, weight)), _from_core(after, self.state_class)

    def sequence(
        self, input_tensor: Tensor, state: Any = None, lengths: Any = None
    ) -> tuple[Tensor | None, Tensor, Any]:
        """The whole sequence, fused: z (None for a readout) and v of every step, and the last state; see `forward`."""
        weight = self.input_weights
        x, lengths = self._checked_rows(input_tensor, lengths)
        layer = self.layer_tensors(ARGUMENT_NAMES)
        self.check_changed(layer, ARGUMENT_NAMES)

        def run(rows: Tensor, start: HetSynState) -> tuple[Tensor | None, Tensor, HetSynState]:
            return self.run_sequence(rows, layer, start, self.way(), self.checked(ARGUMENT_NAMES))

        z, v, final = self.run_rows(run, x, self.initial(state, layer, x), lengths, SEQUENCE)
        out = output_dtype(input_tensor, weight)
        z = None if z is None else self.swapped(z.to(out))
        return z, self.swapped(v.to(out)), _from_core(final, self.state_class)

    def _checked_rows(self, input_tensor: Tensor, lengths: Any) -> tuple[Tensor, Tensor | None]:
        """A sequence, time first, in the dtype of the arithmetic, and the lengths of its rows, if there are any."""
        caller = self.speaking(SEQUENCE)
        x = self.swapped(self.checked_inputs(input_tensor, self.checks_values(True, lengths), caller))
        return x, None if lengths is None else checked_lengths(lengths, x.flatten(2))

    @classmethod
    def from_params(
        cls,
        params: HetSynParams,
        dt: float = 0.001,
        *,
        share: str | None = None,
        clusters: int | None = None,
        reassign: bool = False,
        parametrization: str = "decay",
        tie_reset: bool = False,
        method: Any = "multi_gaussian",
        alpha: float = 100.0,
        learn_reset: bool = False,
        learn_threshold: bool = False,
        learn_adaptation: bool = False,
        learn_delay: bool = True,
        **options: Any,
    ) -> Any:
        """A module with these parameters and their dtype; share None keeps the shapes."""
        if (cls.spiking, cls.recurrent) != (params.spiking, params.recurrent_weight is not None):
            right = _sequence_class(params).__name__
            raise ValueError(f"params: expected those of a {cls.__name__}, got others; use {right} or {right}Cell")
        sizes = options.pop("_sizes", params.weight.shape[::-1])  # of a convolution all of it
        layout = options_from_params(params, share, tie_reset, clusters)
        p = HetSynLIFParameters(
            tau_syn_inv=0.0,  # none, as the others: `_build` puts decays there
            tau_rec_inv=0.0,
            tau_reset_inv=0.0,
            method=method,
            alpha=alpha,
            learn_reset=learn_reset,
            learn_threshold=learn_threshold,
            learn_adaptation=learn_adaptation,
            learn_delay=learn_delay,
            dtype=layout["dtype"],
        )
        shared = {"share": layout["share"], "clusters": layout["clusters"], "reassign": reassign}
        make: Any = cls
        module = make(*sizes, p, dt, parametrization=parametrization, **layout, reassign=reassign, **options)
        fields = in_shape({f: getattr(params, f) for f in (*p.names, "weight", "recurrent_weight")}, sizes)
        p.given_max_delay = params.max_delay or None
        module._build(p, fields, shared, parametrization, tie_reset, options.get("device"), layout["dtype"])
        return module

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.shape_shown()}, dt={self.dt}, share={self.p.share_shown()}{self.layout_shown()}"


def _dtype_of(fields: dict[str, Any]) -> torch.dtype:
    dtypes = [v.dtype for v in fields.values() if isinstance(v, Tensor)]
    weights = [v.dtype for v in (fields["weight"], fields["recurrent_weight"]) if isinstance(v, Tensor)]
    if torch.float64 in dtypes:
        return torch.float64
    return weights[0] if weights and weights[0].is_floating_point else torch.get_default_dtype()


class _Cell(_HetSynModule):
    def forward(self, input_tensor: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One step: input (B, M) -> z (B, N) (a readout: v) and the state after it; state None: zeros."""
        if torch.compiler.is_compiling() and self.keeps_out_of_graph(None, in_steps=True):
            return outside_of_graph(self.forward, input_tensor, state)
        return self.step(input_tensor, state)


class _Sequence(_HetSynModule):
    sequential = True

    def __init__(  # long for its arguments: the cells' and three more, written out for editors
        self,
        input_size: int,
        hidden_size: int,
        p: HetSynLIFParameters | None = None,
        dt: float = 0.001,
        *,
        input_weights: Any = None,
        recurrent_weights: Any = None,
        input_rate: float | None = None,
        autapses: bool = True,
        share: str = "synapse",
        clusters: int | None = None,
        reassign: bool = False,
        parametrization: str = "decay",
        tie_reset: bool = False,
        detach_reset: bool = False,
        backend: str = "auto",
        check: bool | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        record_states: bool = False,
        record_current: bool = False,
        batch_first: bool = False,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            p,
            dt,
            input_weights=input_weights,
            recurrent_weights=recurrent_weights,
            input_rate=input_rate,
            autapses=autapses,
            share=share,
            clusters=clusters,
            reassign=reassign,
            parametrization=parametrization,
            tie_reset=tie_reset,
            detach_reset=detach_reset,
            backend=backend,
            check=check,
            device=device,
            dtype=dtype,
        )
        self.record_states, self.record_current, self.batch_first = record_states, record_current, batch_first

    def forward(self, input_tensor: Tensor, state: Any = None, lengths: Any = None) -> tuple[Tensor, Any]:
        """The whole sequence: input (T, B, M) -> z (T, B, N) (a readout: v) and the state after the last step.

        With record_states the state's fields have a leading T, step by step with the memory of the cells; the currents
        of synapses, i and i_rec, only with record_current (else they are the last ones, as past_input and past_z are).

        batch_first  (an option of the class) sequences are (B, T, M) in, (B, T, N) out, and states with a leading T
                     have a leading (B, T); without it a layer cannot see that (B, T, M) came: labels (B,) beside it
                     show it, unless B = T
        lengths      (B,) integers from 1 to T: how many steps of each row are valid, the rest being padding, which may
                     hold anything and has no gradient. The state is that after each row's last valid step; behind it z
                     is 0, and v and recorded states stay what they were: so a readout's v[-1] is each row's own last
                     one. What it costs is in `hetsyn_plugins.ops.lengths`. SequentialState does not hand it on: hidden
                     layers need none, since what comes behind a row's end changes nothing before it
        """
        if torch.compiler.is_compiling() and self.keeps_out_of_graph(lengths, in_steps=self.record_states):
            return outside_of_graph(self.forward, input_tensor, state, lengths)
        if self.record_states:
            x, rows = self._checked_rows(input_tensor, lengths)
            if len(x) > 0:
                return self._recorded(self.swapped(input_tensor), state, rows)
        z, v, final = self.sequence(input_tensor, state, lengths)
        watch_rates(self, input_tensor, None if z is None else self.swapped(z))
        return (v if z is None else z), final

    def _recorded(self, x: Tensor, state: Any, lengths: Tensor | None) -> tuple[Tensor, Any]:
        fields = self.state_class._fields
        currents = () if self.record_current else ("i", "i_rec")
        recorded = [name for name in fields if name not in (*currents, "past_input", "past_z")]
        if lengths is not None:
            self.initial(state, self.layer_tensors(ARGUMENT_NAMES), x)  # that it is of this batch

        def run(rows: Tensor, state: Any) -> tuple[Any, ...]:
            outs, states = [], []
            for x_t in rows.unbind(0):
                out, state = self.step(x_t, state)
                outs.append(out)
                states.append([getattr(state, name) for name in recorded])
            columns = map(torch.stack, zip(*states, strict=True))
            return torch.stack(outs) if self.spiking else None, *columns, state

        z, *columns, final = self.run_rows(run, x, state, lengths, SEQUENCE)
        states = final._replace(**dict(zip(recorded, map(self.swapped, columns), strict=True)))
        return states.v.to(output_dtype(x, self.input_weights)) if z is None else self.swapped(z), states


class HetSynLIFCell(_Cell):
    """A layer of HetSynLIF neurons, one step a call: z, state = cell(x, state), x (B, M), z (B, N).

    Norse's own neurons cut the gradient through their reset; here it carries one, as in the paper's code, unless
    detach_reset=True.

    input_size, hidden_size   M, N
    p       HetSynLIFParameters, copied and expanded to this layer's shapes; None: the paper's 20 ms everywhere
    dt      seconds
    input_weights (N, M), recurrent_weights (N, N)   start values, or initialisers (FluctuationDriven); None:
            N(0, 1 / fan_in), as in the paper
    input_rate   spikes an input line and step: input_weights=FluctuationDriven(input_rate), with which the layer fires
            at first; 0.05 behind a layer that was made so
    autapses   False: neurons have no synapse to themselves (a mask)
    share, clusters, reassign, parametrization, tie_reset   see `hetsyn_plugins.ops.trainable`
    detach_reset, backend, check            see `hetsyn_plugins.ops.hetsyn_lif`

    Example:
        >>> cell = HetSynLIFCell(100, 20)
        >>> z, state = cell(torch.rand(8, 100))
        >>> z.shape, state.v.shape
        (torch.Size([8, 20]), torch.Size([8, 20]))
    """


class HetSynLIFRecurrentCell(_Cell):
    """A recurrent layer, every synapse with its own decay, one step a call: z, state = cell(x, state).

    Arguments as `HetSynLIFCell`; the state has also i_rec (B, N, N), the currents of the recurrent synapses.
    """

    recurrent, state_class = True, HetSynLIFRecurrentState


class HetSynLICell(_Cell):
    """The leaky readout, one step a call: v, state = cell(x, state), x (B, M), v (B, N); it neither spikes nor resets.

    Arguments as `HetSynLIFCell`; of p only tau_syn_inv and bias are used.
    """

    spiking, state_class = False, HetSynLIState


class HetSynLIF(_Sequence):
    """A layer of HetSynLIF neurons over a whole sequence, fused: z, state = layer(x, state), x (T, B, M).

    Arguments as `HetSynLIFCell`, and record_states, record_current, batch_first (see forward).

    Example:
        >>> layer = HetSynLIF(100, 20, HetSynLIFParameters(tau_syn_inv=50.0))
        >>> z, state = layer(torch.rand(25, 8, 100))
        >>> z.shape, state.v.shape
        (torch.Size([25, 8, 20]), torch.Size([8, 20]))
    """


class HetSynLIFRecurrent(_Sequence):
    """A recurrent layer over a whole sequence, every synapse with its own decay: z, state = layer(x, state).

    Arguments as `HetSynLIF`; the state has also i_rec (B, N, N), the currents of the recurrent synapses.
    """

    recurrent, state_class = True, HetSynLIFRecurrentState


class HetSynLI(_Sequence):
    """The leaky readout over a whole sequence: v, state = layer(x, state), x (T, B, M), v (T, B, N).

    Arguments as `HetSynLIF`; of p only tau_syn_inv and bias are used.
    """

    spiking, state_class = False, HetSynLIState


class HetSynConv2dCell(Convolving, _Cell):
    """HetSynLIF neurons over images, one step a call: z, state = cell(x, state), x (B, C, H, W), z (B, N, H', W').

    Every position of every channel is a neuron that sees its patch as one of a `HetSynLIFCell` does, whose arguments
    follow the convolution's: p, dt and so on. Not a `torch.nn.Conv2d` in front of a cell: there is no sum before the
    decays.

    in_channels, out_channels, kernel_size, stride, padding, dilation, groups   as in torch.nn.Conv2d; N is out_channels
    p               tau_syn_inv, delay a number, (N,) or of the kernel's shape, (N, C / groups, k, k); others () or (N,)
    input_weights   (N, C / groups, k, k)

    The state is a HetSynLIFState of images: i is (B, the weights' shape, H', W'), all others (B, N, H', W'), but for
    past_input, with delays, which is (max_delay, B, C, H, W).
    `to_dense((H, W))` gives the parameters of the dense layer that this one is; there is no recurrent form.
    """

    axes = 2


class HetSynConv1dCell(Convolving, _Cell):
    """`HetSynConv2dCell` over (B, C, L), L a length in space: z is (B, N, L')."""

    axes = 1


class HetSynConv2d(Convolving, _Sequence):
    """`HetSynConv2dCell` over a whole sequence, fused: z, state = layer(x, state), x (T, B, C, H, W).

    Also record_states, record_current, batch_first, as `HetSynLIF`. In a SequentialState pooling and Flatten() between
    such layers take each step by itself.

    Memory: the current, B * H' * W' numbers for each weight, is in the state; patches take T * B * H' * W' numbers for
    each weight of one channel out, while it runs, and small ones until the backward pass.

    Example:
        >>> layer = HetSynConv2d(1, 8, 5, stride=2)
        >>> z, state = layer(torch.rand(25, 32, 1, 28, 28))
        >>> z.shape, state.v.shape
        (torch.Size([25, 32, 8, 12, 12]), torch.Size([32, 8, 12, 12]))
    """

    axes = 2


class HetSynConv1d(Convolving, _Sequence):
    """`HetSynConv2d` over (T, B, C, L), L a length in space: z is (T, B, N, L')."""

    axes = 1


RECURRENT_ONLY = ("recurrent_weights", "autapses")
for _layer, _dense in (
    (HetSynConv1d, HetSynLIF),
    (HetSynConv2d, HetSynLIF),
    (HetSynConv1dCell, HetSynLIFCell),
    (HetSynConv2dCell, HetSynLIFCell),
):
    _layer.__signature__ = signature(_dense, RECURRENT_ONLY)  # type: ignore[union-attr]


# ---- in Norse's containers and exporters

ONE_STEP = (_Cell, SNNCell, SNNRecurrentCell, norse.torch.CobaLIFCell, norse.torch.LILinearCell)
WHOLE_SEQUENCE = (_Sequence, SNN, SNNRecurrent, nn.RNNBase)
KNOWN = ("torch.", "norse.")  # whose other modules change no step into a sequence and no sequence into a step


@functools.cache
def meet_norse() -> None:
    """Let containers look at what they hold, and `to_nir` at what it exports; done when the first layer is made.

    A SequentialState that takes in one of our layers gets a hook, by torch's own means. `to_nir` calls `nirtorch` by a
    name in its own module, which is the one thing that is replaced.
    """
    containers.hang(check_one_kind, lambda module: isinstance(module, _HetSynModule), norse.torch.SequentialState)
    extract = getattr(export_nir, "extract_nir_graph", None)
    if extract is not None:  # Norse after 1.1 may export by torch.fx, which our layers refuse themselves
        export_nir.extract_nir_graph = functools.wraps(extract)(functools.partial(_extract, extract))


def _extract(extract: Any, model: nn.Module, model_map: Any, *args: Any, **options: Any) -> Any:
    """`nirtorch.extract_nir_graph`, which would write None for a layer of ours.

    Nets with such go by the plain data of all their modules, which must be such as `convert` takes.
    """
    if not any(isinstance(module, _HetSynModule) for module in model.modules()):
        return extract(model, model_map, *args, **options)
    dt = getattr(model_map, "keywords", {}).get("dt")
    if dt is None:
        raise RuntimeError(
            "norse.torch.to_nir: expected to hand its dt on with its map of modules, as in Norse 1.1, and does not; "
            "hetsyn_plugins.nir.to_graph(net, dt=...) makes the graph"
        )
    return to_graph(model, dt=dt)


def check_one_kind(net: nn.Module, _: Any) -> None:
    """Before a SequentialState is called: raise ValueError where one layer takes a step, another a whole sequence.

    Norse's own cells would take (T, B, N) for one step without a word. A module of the user's own between the two may
    make the one of the other, so it ends the comparison.
    """
    found = containers.mixture(containers.members(net), _takes)
    if found is not None:
        step, sequence = (f"layer {name!r}, a {type(module).__name__}" for name, module in found)
        raise ValueError(
            f"net: expected layers of one kind in a SequentialState, got {step}, which takes one step (B, N) a "
            f"call, and {sequence}, which takes a sequence (T, B, N); for sequences use LIF for LIFCell, HetSynLIF "
            "for HetSynLIFCell and so on (a cell without such a form: norse.torch.Lift(cell), between two "
            "containers), in a loop over steps HetSynLIFCell for HetSynLIF"
        )


def _takes(module: nn.Module) -> str | None:
    """What a member of a container takes a call."""
    if isinstance(module, ONE_STEP):
        return containers.STEP
    if isinstance(module, WHOLE_SEQUENCE):
        return containers.SEQUENCE
    return None if containers.whose(type(module)).startswith(KNOWN) else containers.EITHER


# ---- registration

_ours: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        HetSynLIFCell,
        HetSynLIFRecurrentCell,
        HetSynLICell,
        HetSynLIF,
        HetSynLIFRecurrent,
        HetSynLI,
        HetSynConv1dCell,
        HetSynConv2dCell,
        HetSynConv1d,
        HetSynConv2d,
        HetSynLIFParameters,
        HetSynLIFState,
        HetSynLIFRecurrentState,
        HetSynLIState,
        *WITH_DELAYS.values(),
        hetsyn_lif_step,
    )
}


def install() -> None:
    """Add our names to `norse.torch`; a second call changes nothing."""
    for name, ours in _ours.items():
        if getattr(norse.torch, name, ours) is not ours:
            raise ValueError(f"norse.torch.{name}: expected to be free, is already {getattr(norse.torch, name)!r}")
    for name, ours in _ours.items():
        setattr(norse.torch, name, ours)


def uninstall() -> None:
    """Undo `install`."""
    for name, ours in _ours.items():
        if getattr(norse.torch, name, None) is ours:
            delattr(norse.torch, name)


def build_layer(layer: HetSynLayer, convolution: Convolution | None = None) -> Any:
    """The sequence module for a layer of plain data; Norse speaks of seconds, so dt must be known. With a convolution
    that whose neurons these are."""
    if layer.dt is None:
        raise ValueError(f"dt: expected a step length in seconds for layer {layer.name!r}, which Norse needs, got None")
    make: Any = functools.partial(_sequence_class(layer.params).from_params, autapses=layer.autapses)
    if convolution is not None:
        over_images: Any = {1: HetSynConv1d, 2: HetSynConv2d}[convolution.axes]
        make = functools.partial(over_images.from_position, convolution=convolution)
    return make(
        layer.params,
        method=layer.surrogate,
        learn_adaptation=not layer.learned.isdisjoint({"adaptation_decay", "adaptation_strength"}),
        **learned_options(layer, learn_reset="reset_decay", learn_threshold="threshold"),
        **layer.options,
    )


def _sequence_class(params: HetSynParams) -> Any:
    """The sequence module for these parameters."""
    if not params.spiking:
        return HetSynLI
    return HetSynLIF if params.recurrent_weight is None else HetSynLIFRecurrent


def container(layers: list[tuple[str, nn.Module]]) -> Any:
    """What holds the layers of a network; SequentialState names them by position."""
    return norse.torch.SequentialState(*(module for _, module in layers))


def merge_stock(linear: nn.Linear, neuron: nn.Module) -> tuple[HetSynParams, frozenset[str], Surrogate] | None:
    """None; ValueError for a neuron of Norse's own, because no HetSyn layer is exactly one of them."""
    if not type(neuron).__module__.startswith("norse.torch.module.l"):  # lif, lif_adex, leaky_integrator, ...
        return None
    kind = type(neuron).__name__
    raise ValueError(
        f"net: a {kind} of Norse's own steps by Euler, v + dt tau_mem_inv ((v_leak - v) + i), and filters its input "
        "twice, which no HetSyn layer does; put norse.torch.HetSynLIF in its place and train it"
    )
