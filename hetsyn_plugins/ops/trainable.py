"""What a layer trains: the fields of HetSynParams as torch parameters, alike in every adapter.

* share: the decays of synapses are one a synapse (N, M), one a neuron (N,), one for the layer (), or the `clusters`
  decays of a codebook (K,), recurrent synapses' too; every synapse then has an index into it, a buffer. With
  reassign=True synapses also keep latent decays of their own, trained straight through the codebook, and `reassign_`
  gives each the decay nearest to its latent one.
* parametrization: the tensor trained is r itself ("decay"), tau in seconds ("tau") or log tau ("log_tau").
* tie_reset: the reset (and a recurrent layer's recurrent synapses) use the decay tensor of the synapses, so that the
  paper's LIF and HetNeuLIF conditions hold through training.
* An optimiser may overshoot: what is used is the stored value bounded to its range, and the gradient of a value
  outside is let through only where a descent step along it leads back in.
* A trained tau has no way back from 0 or below: r = exp(-dt / tau) is flat there, in all its derivatives, and all but
  flat below dt / 10. "log_tau" cannot get there.
* Delays are trained as they are, used bounded to [0, max_delay]: in the shape given, where they are an array; numbers
  and what is drawn are shared as the decays are.
* Masks are buffers: what they take out is 0 where it is used, whatever is stored; `layer.mask = ...` changes them.
  Weights that are drawn have the variance of as many inputs as a neuron has with them.
* Decays and delays stay float32 under .half() and .bfloat16(): bfloat16 cannot tell a tau of 200 steps from one of 500.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf, isclose
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from hetsyn_plugins.core.autograd import differentiable_once, transforming
from hetsyn_plugins.core.codebook import INDICES, Codebook, Scale, check_index
from hetsyn_plugins.core.fields import (
    ARRAYS,
    DECAY,
    DECAYS,
    DELAYS,
    FIELDS,
    MASKS,
    PARAMETRIZATIONS,
    POSITIVE,
    SHARES,
    SYNAPTIC,
)
from hetsyn_plugins.core.initialisers import FluctuationDriven
from hetsyn_plugins.core.masks import as_mask, say_empty_rows
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.validation import (
    check_fields,
    check_has_values,
    check_no_max_delay,
    check_values,
    checked_dt,
    checked_max_delay,
    describe_values,
    expand,
    full_shape,
)
from hetsyn_plugins.ops.arguments import HALF, OP, PRECISE, ArgumentNames
from hetsyn_plugins.ops.codebook import LATENTS, nearest, shared
from hetsyn_plugins.ops.codebook import start as start_codebook
from hetsyn_plugins.ops.copies import Copied
from hetsyn_plugins.ops.foreign_inputs import refuse_transformations

POSITIVES = tuple(name for name, field in FIELDS.items() if field.range is POSITIVE)
# what torch.nn.utils.prune, weight_norm and spectral_norm append to a tensor's name
PIECES = ("_orig", "_mask", "_g", "_v", "_u")


class Bounded(torch.autograd.Function):
    """p clamped to [low, high]; outside, only gradient whose descent step moves p back in is passed on.

    That is decided at every use: of a p that is outside, a loop over single steps, which uses it T times, collects
    another gradient than the one call of a sequence. `clamp_()` after every optimiser step keeps the two equal.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, low: float, high: float) -> Tensor:
        return p.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        p, ctx.low, ctx.high = inputs
        ctx.save_for_backward(p)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (p,) = ctx.saved_tensors
        leads_away = ((p < ctx.low) & (gradient > 0)) | ((p > ctx.high) & (gradient < 0))
        return gradient.masked_fill(leads_away, 0.0), None, None


def bounded(p: Tensor, low: float, high: float) -> Tensor:
    """p clamped to [low, high] out of place, by `Bounded` where it has a gradient; p itself where all of it is inside.

    Inside, `Bounded` is the identity; to look at the least and largest value costs a fraction of a node of the graph.
    """
    if not (p.requires_grad and torch.is_grad_enabled()):
        return p.clamp(low, high)
    if p.device.type == "cpu" and not torch.compiler.is_compiling() and not transforming():
        least, most = torch.aminmax(p.detach())
        if least.item() >= low and most.item() <= high:
            return p
    if torch.compiler.is_compiling():
        refuse_transformations(needs_grad=True)
    result: Tensor = Bounded.apply(p, low, high)
    return result


class DecayFromTau(torch.autograd.Function):
    """r = exp(-dt / tau), computed in float64, of tau >= 0 in seconds or of log tau; 0 and infinity are allowed.

    Gives r and its slope, dr/dp, for the backward pass.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, dt: float, log: bool) -> tuple[Tensor, Tensor]:
        tau = p.double().exp() if log else p.double().clamp(min=0)
        steps = dt / tau
        decay = torch.exp(-steps)
        # dr/dtau = r dt / tau^2 and dr/dlog tau = r dt / tau; both are 0 in the limits where they read 0 * inf
        slope = decay * steps if log else decay * steps / tau
        return decay.to(p.dtype), slope.nan_to_num(0.0).to(p.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, slope = output
        ctx.mark_non_differentiable(slope)
        ctx.save_for_backward(slope, inputs[0])  # p is there so that a second derivative is noticed

    @staticmethod
    @differentiable_once("the decay of a trained tau")
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        slope, _ = ctx.saved_tensors
        return gradient * slope, None, None


def check_share(
    share: str, clusters: int | None = None, reassign: bool = False, shares: tuple[str, ...] = SHARES
) -> None:
    """Raise ValueError for an unknown share, and for clusters that are missing or in the wrong place."""
    if share not in shares:
        raise ValueError(f"share: expected one of {', '.join(shares)}, got {share!r}")
    if share != "codebook" and (clusters is not None or reassign):
        came = "reassign=True" if clusters is None else f"clusters={clusters}"
        raise ValueError(f"share: expected 'codebook' beside {came}, got {share!r}")
    if share == "codebook" and (isinstance(clusters, bool) or not isinstance(clusters, Integral) or clusters < 1):
        raise ValueError(f"clusters: expected a whole number of decays, at least 1, got {clusters!r}")


def decay_from_stored(stored: Tensor, parametrization: str, dt: float | None) -> Tensor:
    """The decay r in [0, 1] that a stored tensor stands for, differentiable, in the stored dtype."""
    if parametrization == "decay":
        return bounded(stored, DECAY.least, DECAY.most)
    if torch.compiler.is_compiling():
        refuse_transformations(needs_grad=True)
    decay, _ = DecayFromTau.apply(stored, checked_dt(dt), parametrization == "log_tau")
    return decay


def stored_from_decay(decay: Tensor, parametrization: str, dt: float | None) -> Tensor:
    """The tensor to store for decays r, in their dtype: of the nearest representable ones, the one that gives r best.

    A second conversion of what `decay_from_stored` gave returns the same r to the bit.
    """
    if parametrization == "decay":
        return decay.detach().clone()
    target = decay.detach()
    tau = checked_dt(dt) / target.double().log().abs()
    best = (tau.log() if parametrization == "log_tau" else tau).to(target.dtype)
    error = _miss(best, target, parametrization, dt)
    start = best
    for direction in (inf, -inf):
        candidate = start
        for _ in range(2):
            candidate = torch.nextafter(candidate, torch.full_like(candidate, direction))
            miss = _miss(candidate, target, parametrization, dt)
            best, error = torch.where(miss < error, candidate, best), torch.minimum(miss, error)
    return best


def _miss(stored: Tensor, target: Tensor, parametrization: str, dt: float | None) -> Tensor:
    with torch.no_grad():
        return (decay_from_stored(stored, parametrization, dt) - target).abs()


class TrainableFields(Copied, nn.Module):
    """A module that holds fields of HetSynParams as parameters (learned) or buffers (fixed).

    A subclass gives `names`: core field -> its own attribute name. A decay is stored under that name, or with
    "_tau" or "_log_tau" appended where that is what is trained; the plain name then reads the decay it stands for.
    """

    names: ClassVar[Mapping[str, str]] = {}
    shares: ClassVar[tuple[str, ...]] = SHARES
    parametrization: str
    share: str
    tie_reset: bool
    dt: float | None
    tied: tuple[str, ...] = ()
    max_delay: int = 0
    clusters: int | None = None
    reassign: bool = False

    def set_options(
        self,
        *,
        share: str,
        parametrization: str,
        tie_reset: bool,
        dt: float | None,
        clusters: int | None = None,
        reassign: bool = False,
    ) -> None:
        """Keep the options, or raise ValueError naming the one that is wrong."""
        check_share(share, clusters, reassign, self.shares)
        if parametrization not in PARAMETRIZATIONS:
            raise ValueError(f"parametrization: expected one of {', '.join(PARAMETRIZATIONS)}, got {parametrization!r}")
        if tie_reset and share in ("synapse", "codebook"):
            raise ValueError(f"tie_reset: expected share='neuron' or 'layer' with it, got share={share!r}")
        if parametrization != "decay" and dt is None:
            raise ValueError(f"dt: expected a step length in seconds for parametrization={parametrization!r}, got None")
        self.share, self.parametrization, self.tie_reset = share, parametrization, tie_reset
        self.clusters, self.reassign = clusters, reassign
        self._name_fields()
        self.dt = None if dt is None else checked_dt(dt)

    def add_fields(self, values: Mapping[str, Tensor | None], learn: Mapping[str, bool]) -> None:
        """Register fields, as `start_values` returns them; `learn` says which are trained (a field not named is)."""
        as_decay: tuple[str, ...] = ("reset_decay", "recurrent_decay") if self.tie_reset else ()
        if self.share == "codebook":
            as_decay = ("recurrent_decay",)
        self.tied = tuple(name for name in as_decay if values.get(name) is not None)
        self._name_fields()
        self._add_indices(values)
        for field, value in values.items():
            if field in self.tied or field not in self.names:
                continue
            if value is not None and field in DECAYS:
                value = stored_from_decay(value, self.parametrization, self.dt)
            if value is not None and field not in MASKS and learn.get(field, True):
                self.register_parameter(self.stored_name(field), nn.Parameter(value))
            else:
                self.register_buffer(self.stored_name(field), value)

    def _add_indices(self, values: Mapping[str, Tensor | None]) -> None:
        """Register who has which decay of the codebook, and the latent decays, where there are any."""
        for field in SYNAPTIC:
            index, latent = values.get(INDICES[field]), values.get(LATENTS[field])
            if self.share == "codebook" and field in self.names:
                self.register_buffer(f"{self.names[field]}_index", index)
                if self.reassign:
                    self.register_parameter(
                        f"{self.names[field]}_latent", None if latent is None else nn.Parameter(latent)
                    )

    def _name_fields(self) -> None:
        """Fix the attribute under which each field is registered."""
        suffix = "" if self.parametrization == "decay" else f"_{self.parametrization}"
        plain = {field: self.names["decay" if field in self.tied else field] for field in self.names}
        if self.share == "codebook":
            plain |= {f: f"{plain[f]}_codebook" for f in SYNAPTIC if f in plain}
        self._stored_names = {f: name + suffix if f in DECAYS else name for f, name in plain.items()}

    def stored_name(self, field: str) -> str:
        """The attribute under which a field is registered."""
        return self._stored_names[field]

    def stored(self, field: str) -> Tensor | None:
        """The tensor that is registered for a field, None where the layer has no such field."""
        name = self._stored_names[field]
        tensor: Tensor | None = self._parameters.get(name)
        if tensor is None:  # looked up where getattr ends too, which takes ten times as long
            tensor = self._buffers[name] if name in self._buffers else getattr(self, name)
        return tensor

    def registered(self) -> list[Tensor | None]:
        """All parameters and buffers that the fields are made from."""
        if self._modules:  # parametrized: what is trained stands deeper
            return [*self.parameters(), *self.buffers()]
        return [*self._parameters.values(), *self._buffers.values()]

    def set_by_hooks(self) -> list[Tensor]:
        """Fields that are no parameter or buffer, and not made from those alone: their values have to be looked at.

        torch's pruning and older norms set them anew before every call; parametrizations of a user's own may draw.
        """
        return values_to_look_at(self, self._stored_names.values())

    def tensor(self, field: str) -> Tensor | None:
        """A field as the op takes it: decays as r in [0, 1], the threshold kept above 0, the rest as stored."""
        stored = self.stored(field)
        return None if stored is None else self._usable(field, stored)

    def index(self, field: str) -> Tensor | None:
        """Which decay of the codebook each synapse has, (N, M) or (N, N); None where the layer has no such decays."""
        index: Tensor | None = self._buffers.get(f"{self.names[field]}_index")
        return index

    def kept_index(self, field: str) -> Tensor | None:
        """`index` as autograd may keep it: DistributedDataParallel writes to buffers at every forward."""
        index = self.index(field)
        return None if index is None else index.clone()

    def kept_codebook(self, dtype: torch.dtype) -> dict[str, Any]:
        """What a kernel takes of a codebook beside each synapse's decay, as autograd may keep it; nothing without."""
        stored = self.stored("decay")
        if self.share != "codebook" or stored is None:
            return {}
        decays = decay_from_stored(stored.detach(), self.parametrization, self.dt)
        indices = {f"{field}_index": self.kept_index(field) for field in SYNAPTIC if field in self.names}
        return {**indices, "codebook": decays.to(dtype)}

    def mask_shown(self, field: str) -> str:
        """What `repr` says of a mask: the part of the synapses that are there; nothing where all are."""
        mask = self.stored(field) if field in self.names else None
        if mask is None:
            return ""
        return "not known" if mask.is_meta or not mask.numel() else f"{float(mask.float().mean()):.3g} of the synapses"

    def share_shown(self) -> str:
        """What `repr` says of the share."""
        return repr(self.share) + (f", clusters={self.clusters}" if self.clusters else "")

    def stored_in_full(self, field: str) -> Tensor | None:
        """What is stored for a field, of a codebook that of each synapse."""
        stored, index = self.stored(field), self.index(field)
        return stored if stored is None or index is None else stored[index.long()]

    def codebook(self) -> Codebook | None:
        """The codebook as plain data, half types as float32; None with another share."""
        decays, indices = self.stored("decay"), [self.index(field) for field in SYNAPTIC if field in self.names]
        if self.share != "codebook" or decays is None:
            return None
        decays = decay_from_stored(decays, self.parametrization, self.dt).detach().cpu()
        arrays: list[Any] = [None if i is None else i.cpu().numpy().copy() for i in indices]
        return Codebook(decays.numpy().copy(), *arrays)

    @torch.no_grad()
    def set_codebook(self, codebook: Codebook) -> None:
        """Take the decays (unless taus are stored, from which they come) and indices of a codebook of the same K."""
        stored = self.stored("decay")
        if stored is not None and self.parametrization == "decay":
            stored.copy_(torch.tensor(codebook.decays))
        for field in SYNAPTIC:
            index, given = self.index(field) if field in self.names else None, getattr(codebook, INDICES[field])
            if index is not None:
                index.copy_(torch.tensor(given))

    def latent(self, field: str) -> Tensor | None:
        """The latent decays of synapses, (N, M) or (N, N); None where there are none."""
        latent: Tensor | None = self._parameters.get(f"{self.names[field]}_latent")
        return latent

    def _usable(self, field: str, stored: Tensor) -> Tensor:
        if self.share == "codebook" and field in SYNAPTIC:
            decays, index = decay_from_stored(stored, self.parametrization, self.dt), self.kept_index(field)
            assert index is not None  # registered together
            try:
                return shared(decays, index, self.latent(field))
            except IndexError:  # it was written to; what is loaded has been looked at
                check_index(f"{self.names[field]}_index", index.cpu().numpy(), index, len(decays))
                raise
        if field in DECAYS:
            if self.parametrization == "decay":
                return bounded(stored, 0.0, 1.0)
            return decay_from_stored(stored, self.parametrization, self.dt)
        if field in POSITIVES:
            return bounded(stored, torch.finfo(stored.dtype).tiny, inf)
        if field in DELAYS:
            return bounded(stored, 0.0, float(self.max_delay))
        # DistributedDataParallel writes to the buffers at every forward, also between two steps of one graph
        return stored if self._stored_names[field] in self._parameters else stored.clone()

    def tensors(self) -> dict[str, Any]:
        """All fields that this module holds, as the op takes them."""
        parameters, buffers = self._parameters, self._buffers
        tensors: dict[str, Any] = {}
        for field, name in self._stored_names.items():  # as `stored`, written out for a step's sake
            stored: Tensor | None = parameters.get(name)
            if stored is None:
                stored = buffers[name] if name in buffers else getattr(self, name)
            tensors[field] = None if stored is None else self._usable(field, stored)
        return tensors

    @torch.no_grad()
    def clamp_(self) -> None:
        """Project what an optimiser pushed out of range back onto it, as the paper does after every step."""
        for field in self.names:
            stored = self.stored(field)
            if stored is None:
                continue
            if field in POSITIVES:
                self._project(field, stored, torch.finfo(stored.dtype).tiny, inf)
            elif field in DECAYS and self.parametrization != "log_tau":  # any log tau is in range
                self._project(field, stored, 0.0, 1.0 if self.parametrization == "decay" else inf)
            elif field in DELAYS:
                self._project(field, stored, 0.0, float(self.max_delay))
        for field in SYNAPTIC:
            latent = self.latent(field) if field in self.names else None
            if latent is not None:
                latent.clamp_(0.0, 1.0)

    @torch.no_grad()
    def round_delays_(self) -> None:
        """Make every delay whole, the nearest step and no longer than max_delay: what integers and chips hold."""
        for field in DELAYS:
            stored = self.stored(field) if field in self.names else None
            if stored is not None:
                stored.copy_(stored.clamp(0.0, float(self.max_delay)).round())

    @torch.no_grad()
    def reassign_(self, steps: int) -> int:
        """Give every synapse the decay of the codebook nearest to its latent one, as far apart as runs of so many steps
        find them (`core.codebook.Scale`); returns how many synapses that moved.

        Raises ValueError for a layer without latent decays.
        """
        if not self.reassign:
            raise ValueError("reassign: expected a layer with share='codebook' and reassign=True, got False")
        stored, scale, changed = self.stored("decay"), Scale(steps), 0
        assert stored is not None  # every layer has decays
        decays = decay_from_stored(stored, self.parametrization, self.dt)
        for field in SYNAPTIC:
            index, latent = (self.index(field), self.latent(field)) if field in self.names else (None, None)
            if index is not None and latent is not None:
                new = nearest(latent, decays, scale)
                changed += int((new != index).sum())
                index.copy_(new)
        return changed

    def _project(self, field: str, stored: Tensor, low: float, high: float) -> None:
        """Clamp in place what is registered: the tensor itself, or, with one of torch's tools around it, theirs."""
        name = self._stored_names[field]
        pruned = self._parameters.get(f"{name}_orig")  # torch.nn.utils.prune's; its mask keeps 0 and the rest apart
        if pruned is not None:
            pruned.clamp_(low, high)
        if not is_parametrized(self, name):
            stored.clamp_(low, high)
        elif not ((stored >= low) & (stored <= high)).all() and _can_be_set(self, name):
            setattr(self, name, stored.clamp(low, high))

    def __getattr__(self, name: str) -> Any:
        # only reached where no such attribute is registered: the decay of a tied or a tau-trained field
        for field, attribute in type(self).names.items():
            if attribute == name and field in DECAYS and "parametrization" in self.__dict__:
                is_shared = self.share == "codebook" and field in SYNAPTIC
                if field in self.tied or is_shared or self.parametrization != "decay":
                    return self.tensor(field)
        return super().__getattr__(name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """As nn.Module's, but decays, delays and their gradients that would become half become float32."""
        kept = {id(t) for p in self._precise_tensors() for t in (p, p.grad) if t is not None}

        def careful(t: Tensor) -> Tensor:
            out = fn(t)
            return t.to(out.device, torch.float32) if id(t) in kept and out.dtype in HALF else out

        return super()._apply(careful, recurse)

    def _precise_tensors(self) -> Iterator[Tensor]:
        """What is registered for decays and delays, also in pieces: of alpha torch makes alpha_orig, alpha_g, ..."""
        parametrized = self._modules.get("parametrizations")
        latents = {f"{self.names[field]}_latent" for field in SYNAPTIC if field in self.names}
        for name in latents | {self.stored_name(field) for field in self.names if field in PRECISE}:
            for key, t in (*self._parameters.items(), *self._buffers.items()):
                if t is not None and (key == name or key in {name + piece for piece in PIECES}):
                    yield t
            if isinstance(parametrized, nn.ModuleDict) and name in parametrized:
                yield from parametrized[name].parameters()
                yield from parametrized[name].buffers()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """As nn.Module's; values that no training can give (NaN, infinite weights) are reported and not loaded."""
        errors: list[str] = args[-1]
        for field in self.names:
            wrong = self._wrong_index(field, state_dict, prefix)
            if wrong is not None:
                errors.append(wrong)
                return
            value = state_dict.get(prefix + self.stored_name(field))
            if value is None or not isinstance(value, Tensor):
                continue
            unbounded = field in DECAYS and self.parametrization != "decay"
            good = ~value.isnan() if unbounded else value.isfinite()
            if field in POSITIVES:
                good = good & (value > 0)
            if not good.all():
                errors.append(
                    f"{prefix}{self.stored_name(field)}: expected finite values, got {describe_values(value)}"
                )
                return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _wrong_index(self, field: str, state_dict: Mapping[str, Any], prefix: str) -> str | None:
        """What is wrong with the index into the codebook that is to be loaded; None where nothing is."""
        index, name = self.index(field), f"{prefix}{self.names[field]}_index"
        value = state_dict.get(name)
        if index is None or not isinstance(value, Tensor) or value.is_meta:
            return None
        try:
            check_index(name, value.detach().cpu().numpy(), index, int(self.clusters or 0))
        except ValueError as error:
            return str(error)
        return None


def _can_be_set(module: nn.Module, name: str) -> bool:
    """Do the parametrizations of a tensor know their inverse? What comes out of others is bounded where it is used."""
    parametrizations: Any = module.parametrizations
    return all(hasattr(one, "right_inverse") for one in parametrizations[name])


def values_to_look_at(module: nn.Module, names: Iterable[str]) -> list[Tensor]:
    """Of these attributes, those that hooks set and those that parametrizations make which are not torch's own."""
    parametrizations: Any = module._modules.get("parametrizations") or {}
    values = []
    for name in dict.fromkeys(names):
        if name in parametrizations:
            kinds = {type(one).__module__ for one in parametrizations[name]}
            values += [] if all(kind.startswith("torch.") for kind in kinds) else [getattr(module, name)]
        elif module.__dict__.get(name) is not None:
            values.append(module.__dict__[name])
    return values


def recompute(module: nn.Module) -> None:
    """Let torch's pruning and older norms put their tensors together again, as they do before a call of the module.

    For a module that is read, or holds tensors and is never called: theirs would be those of an earlier time.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, (BasePruningMethod, WeightNorm, SpectralNorm)):
            hook(module, ())


def fields_of(module: Any) -> TrainableFields:
    """Where a HetSyn layer of any adapter keeps what it trains: in itself, or in its p."""
    fields: TrainableFields = module if isinstance(module, TrainableFields) else module.p
    return fields


def clamp_(net: nn.Module) -> None:
    """Project the decays and thresholds of all HetSyn layers in net back into their range, after an optimiser step.

    net   a network of any framework, at any depth: the layer itself, a Sequential, a DistributedDataParallel, ...
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"net: expected a torch module, got {type(net).__name__}")
    for module in net.modules():
        if isinstance(module, TrainableFields):
            module.clamp_()


def round_delays_(net: nn.Module) -> None:
    """Make the delays of all HetSyn layers in net whole: `round_delays_` of each."""
    if not isinstance(net, nn.Module):
        raise ValueError(f"net: expected a torch module, got {type(net).__name__}")
    for module in net.modules():
        if isinstance(module, TrainableFields):
            module.round_delays_()


def reassign_(net: nn.Module, steps: int) -> int:
    """`reassign_` of all layers in net that have latent decays; returns how many synapses moved.

    net    as in `clamp_`
    steps  of a run
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"net: expected a torch module, got {type(net).__name__}")
    layers = [module for module in net.modules() if isinstance(module, TrainableFields) and module.reassign]
    if not layers:
        raise ValueError("net: expected a layer with share='codebook' and reassign=True, got none")
    return sum(layer.reassign_(steps) for layer in layers)


def all_finite(state_dict: Mapping[str, Any], prefix: str, names: Iterable[str], errors: list[str]) -> bool:
    """For `_load_from_state_dict`: are these entries free of NaN and infinity? One that is not joins the errors."""
    for name in names:
        value = state_dict.get(prefix + name)
        if isinstance(value, Tensor) and not value.isfinite().all():
            errors.append(f"{prefix}{name}: expected finite values, got {describe_values(value)}")
            return False
    return True


def start_values(  # long: half of it says what the arguments are
    values: Mapping[str, Any],
    *,
    sizes: tuple[int, int],
    spiking: bool,
    share: str,
    names: ArgumentNames = OP.names,
    dtype: torch.dtype | None = None,
    device: Any = None,
    tie_reset: bool = False,
    dt: float | None = None,
    clusters: int | None = None,
) -> dict[str, Tensor | None]:
    """Start values as tensors in the shapes to be trained: checked, drawn where they are initialisers, shared.

    values   core field -> number, array, tensor, initialiser or None; `weight` may be None: N(0, 1 / fan_in), and
             `recurrent_weight` may be True: likewise, or fluctuation-driven where the weight is
    sizes    (N, M)
    names    what the layer's arguments are called, for messages
    dtype    None: the widest of the tensors given, else torch's default; decays stay float32 beside half types
    device   None: torch's default, where that is the CPU the given weight's
    dt       the layer's; an initialiser that was made for another step raises ValueError
    clusters   with share="codebook" the number of decays, which are the best ones for those given or drawn; there come
             back beside the fields what `add_fields` takes with them: index, latent_decay, ...

    Numbers, lists and NumPy arrays are rounded to that dtype; a tensor of another dtype raises ValueError.
    """
    check_share(share, clusters)
    _check_steps(values, dt, names)
    driven = _fluctuation_driven(values, names)
    drawn = [*driven, *(field for field in WEIGHTS if field in values and _is_drawn(field, values[field]))]
    dtype = _start_dtype(values, dtype, names)
    device = _start_device(values) if device is None else device
    shapes = torch.empty(sizes, device="meta")
    tensors: dict[str, Tensor | None] = {}
    for field, value in values.items():
        full = full_shape(field, shapes)
        if field in MASKS:
            tensors[field] = None if value is None else torch.from_numpy(as_mask(names[field], value))
        elif field in driven:  # its weights depend on the other fields
            tensors[field] = torch.empty(full, dtype=dtype, device="meta")
        elif field in drawn:
            tensors[field] = _drawn_weight(full, dtype)
        elif value is None:
            tensors[field] = None
        else:
            kept = torch.float32 if field in PRECISE and dtype in HALF else dtype
            trained = _trained_shape(field, full, share)
            tensors[field] = _start_value(names[field], value, trained, kept, field in DELAYS)
    layer: dict[str, Any] = {**dict.fromkeys(ARRAYS), **tensors}
    if tuple(layer["weight"].shape) != sizes:
        raise ValueError(f"{names['weight']}: expected shape {sizes}, got {tuple(layer['weight'].shape)}")
    check_fields(layer, spiking, names)
    check_values({f: None if t is None or t.is_meta else t for f, t in layer.items()}, names)
    say_empty_rows(layer, names)
    for field in DELAYS:
        if layer[field] is not None and layer[field].ndim == 0:
            tensors[field] = layer[field].expand(_trained_shape(field, full_shape(field, shapes), share)).clone()
    for field in SYNAPTIC:
        if layer[field] is not None:
            tensors[field] = _shared(names[field], layer[field], full_shape(field, shapes), share)
    for field, initialiser in driven.items():
        tensors[field] = _driven_weight(field, initialiser, tensors, tie_reset)
    for field in drawn:
        tensors[field] = _as_few_inputs(tensors[field], tensors.get("mask" if field == "weight" else "recurrent_mask"))
    if clusters is not None:
        tensors |= start_codebook(tensors, clusters)
    return {field: None if t is None else t.to(device) for field, t in tensors.items()}


def start_max_delay(max_delay: int | None, start: Mapping[str, Tensor | None], names: ArgumentNames = OP.names) -> int:
    """The longest delay that a layer with these start values may learn; 0 for a layer without delays.

    Raises ValueError where max_delay is no whole number or less than a delay, or comes without delays.
    """
    delays = {field: None if (delay := start.get(field)) is None else delay.detach() for field in DELAYS}
    if any(delay is not None for delay in delays.values()):
        return checked_max_delay(max_delay, delays, names)
    check_no_max_delay(max_delay, names["max_delay"])
    return 0


WEIGHTS = ("weight", "recurrent_weight")
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def start_weight(weight: Any, input_rate: float | None, name: str) -> Any:
    """A layer's weight argument, called `name`, or what its input_rate argument stands for."""
    if input_rate is None:
        return weight
    if weight is not None:
        raise ValueError(f"input_rate: expected None where {name} is given, got {input_rate}")
    try:
        return FluctuationDriven(input_rate)
    except ValueError as error:
        raise ValueError(f"input_{error}") from None


def _check_steps(values: Mapping[str, Any], dt: float | None, names: ArgumentNames) -> None:
    """Raise ValueError where initialisers were made for another step than the layer's, or than each other."""
    whose = "the layer"
    for field, value in values.items():
        other = None if isinstance(value, Tensor) else getattr(value, "dt", None)
        if other is None:
            continue
        if dt is not None and not isclose(other, dt, rel_tol=1e-9):
            raise ValueError(f"{names[field]}: expected an initialiser with dt={dt} like {whose}, got dt={other}")
        if dt is None:
            dt, whose = other, names[field]


def _fluctuation_driven(values: Mapping[str, Any], names: ArgumentNames) -> dict[str, FluctuationDriven]:
    """The weights that are to be drawn from the other fields, and how."""
    driven = {field: value for field, value in values.items() if isinstance(value, FluctuationDriven)}
    for field in driven:
        if field not in WEIGHTS:
            raise ValueError(f"{names[field]}: expected no FluctuationDriven, which is for weights")
    if "weight" in driven and values.get("recurrent_weight") is True:
        driven["recurrent_weight"] = driven["weight"].recurrent()
    return driven


def _driven_weight(
    field: str, initialiser: FluctuationDriven, tensors: Mapping[str, Tensor | None], tie_reset: bool
) -> Tensor:
    """Weights that depend on the other start values; where these have no values (meta) they have none either."""
    weight, part = tensors[field], 1.0
    decay = tensors["recurrent_decay" if field == "recurrent_weight" else "decay"]
    assert weight is not None  # a place that holds shape and dtype
    assert decay is not None
    if decay.is_meta:
        return weight
    if tensors.get("recurrent_weight") is not None:
        part = initialiser.recurrent_part
        part = part if field == "recurrent_weight" else 1 - part
    fields = ("threshold", "reset_decay", "adaptation_decay", "adaptation_strength")
    soma = {name: None if (t := tensors.get(name)) is None else t.double().cpu().numpy() for name in fields}
    r = decay.double().cpu().numpy()
    if tie_reset and soma["reset_decay"] is not None:
        soma["reset_decay"] = r
    drawn = initialiser(tuple(weight.shape), torch.default_generator, decay=r, part=part, **soma)  # type: ignore[arg-type]  # a threshold
    return torch.tensor(drawn, dtype=weight.dtype)


def _start_dtype(values: Mapping[str, Any], dtype: torch.dtype | None, names: ArgumentNames) -> torch.dtype:
    """The dtype of a layer with these start values: the one asked for, or the widest of the tensors given."""
    for field in WEIGHTS:
        weight = values.get(field)
        if isinstance(weight, Tensor) and not weight.dtype.is_floating_point:
            raise ValueError(f"{names[field]}: expected a floating dtype, got {weight.dtype}")
    dtype = dtype or _widest(values)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating dtype, got {dtype}")
    return dtype


def _start_device(values: Mapping[str, Any]) -> torch.device:
    weight, default = values.get("weight"), torch.empty(0).device  # torch.get_default_device() sees no context in 2.3
    return weight.device if isinstance(weight, Tensor) and default.type == "cpu" else default


def _drawn_weight(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """N(0, 1 / fan_in), as in the paper; half types are rounded from float32."""
    drawn = torch.randn(shape, dtype=torch.float32 if dtype in HALF else dtype)
    return drawn.div(shape[1] ** 0.5).to(dtype)


def _is_drawn(field: str, value: Any) -> bool:
    return field in WEIGHTS and (value is True or (value is None and field == "weight"))


def _as_few_inputs(weight: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Drawn weights with the variance of as many inputs as each neuron has."""
    if weight is None or mask is None or weight.is_meta:
        return weight
    share = mask.double().mean(1, keepdim=True).clamp(min=1 / mask.shape[1])
    return (weight / share.sqrt()).to(weight.dtype)


def to_hetsyn_params(tensors: Mapping[str, Tensor | None], spiking: bool, max_delay: int | None = None) -> HetSynParams:
    """HetSynParams of a layer's tensors; half ones become float32, which is exact."""
    arrays: dict[str, Any] = {}
    for field in ARRAYS:
        t = tensors.get(field)
        if t is not None:
            check_has_values(field, t)
            t = t.detach().cpu()
            arrays[field] = (t.float() if t.dtype in HALF else t).numpy()
        elif field != "threshold":
            arrays[field] = None
    return HetSynParams(**arrays, spiking=spiking, max_delay=max_delay)


def share_of(params: HetSynParams) -> str:
    """The share that keeps the number of decays of these parameters; one a presynaptic line becomes one a synapse."""
    decays = [getattr(params, field) for field in SYNAPTIC]
    shapes = {np.shape(decay) for decay in decays if decay is not None}
    n = len(params.weight)
    if shapes == {()}:
        return "layer"
    return "neuron" if shapes <= {(n,), (n, 1), ()} else "synapse"


def check_tied(params: HetSynParams) -> None:
    """Raise ValueError unless every neuron's synapses decay as its reset does: what tie_reset would keep true."""
    full = params.expanded()
    decays = [decay for decay in (getattr(full, field) for field in SYNAPTIC) if decay is not None]
    if full.reset_decay is None or not all((decay == full.reset_decay[:, None]).all() for decay in decays):
        raise ValueError("tie_reset: expected one decay a neuron for synapses and reset, got different ones")


def _widest(values: Mapping[str, Any]) -> torch.dtype:
    """float64 if any tensor is; else the weight's dtype, or torch's default where there is none."""
    if any(isinstance(v, Tensor) and v.dtype == torch.float64 for v in values.values()):
        return torch.float64
    weight = values.get("weight")
    if isinstance(weight, Tensor):
        return weight.dtype
    return torch.get_default_dtype()


def _trained_shape(field: str, full: tuple[int, ...], share: str) -> tuple[int, ...]:
    """The shape in which a field is trained, and so drawn by an initialiser."""
    if field not in SYNAPTIC and field not in DELAYS:
        return full
    return {"neuron": full[:1], "layer": ()}.get(share, full)


def _start_value(
    name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype, takes_whole: bool = False
) -> Tensor:
    """takes_whole: arrays and tensors of whole numbers too"""
    if callable(value) and not isinstance(value, Tensor):
        value = value(shape, torch.default_generator)
    if isinstance(value, Tensor):
        if value.dtype != dtype and not (takes_whole and value.dtype in WHOLE):
            raise ValueError(f"{name}: expected {dtype} like the layer, got a tensor of {value.dtype}")
        return value.detach().to(dtype, copy=True)
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or (array.dtype.kind in "iu" and array.ndim > 0 and not takes_whole):
        raise ValueError(f"{name}: expected floating-point numbers, got {array.dtype}")
    return torch.tensor(np.array(array, np.float64), dtype=dtype)


def _shared(name: str, decay: Tensor, full: tuple[int, ...], share: str) -> Tensor:
    """The decay in the shape that `share` trains."""
    if share in ("synapse", "codebook"):
        return expand(decay, full).clone()
    if share == "layer" and decay.ndim == 0:
        return decay
    if share == "neuron" and tuple(decay.shape) in ((), full[:1], (full[0], 1)):
        return decay.reshape(-1).expand(full[:1]).clone()
    expected = "()" if share == "layer" else f"() or {full[:1]}"
    raise ValueError(f"{name}: expected shape {expected} with share={share!r}, got {tuple(decay.shape)}")
