"""What makes snnTorch's own tools see our neurons: `utils.reset`, `backprop`, names, containers, exporters.

The host finds neurons by lists of its own classes. `see` is called for every layer that comes into being, and from the
first one on `snntorch.utils` sees ours; names are added by `install` alone, and `uninstall` takes only names away.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet, ref

import snntorch
import torch
from snntorch import SpikingNeuron, utils
from torch import Tensor, nn

from hetsyn_plugins.adapters import containers
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.exchange.nir import to_graph
from hetsyn_plugins.ops.layer import HetSynModule

LIVING: WeakSet[Any] = WeakSet()  # every layer that lives, for the host's class-wide idioms


# ---- reset and detach ----


def see(layer: Any) -> None:
    """Let the host see a layer that has just come into being: built, copied or unpickled."""
    LIVING.add(layer)
    _meet_containers()
    _meet_exporter()
    if not hasattr(utils, "_layer_check"):
        _check_reset_by_itself()
    elif not hasattr(utils._layer_check, "sees_hetsyn"):
        utils._layer_check = _seeing(utils._layer_check)
    final = getattr(utils, "_final_layer_check", None)  # only `snntorch.backprop` asks it, which will go
    if final is not None and not hasattr(final, "sees_hetsyn"):
        utils._final_layer_check = _counting(final)


def is_ours(module: Any) -> bool:
    """Is this a HetSyn layer in snnTorch's idiom? Parametrized ones, of a class that torch makes up, too."""
    return isinstance(module, SpikingNeuron) and isinstance(module, HetSynModule)


def reset(net: nn.Module) -> None:
    """Reset and detach the HetSyn neurons inside net, at any depth; needs no registration."""
    for module in net.modules():
        if is_ours(module):
            module.reset_mem()


def living(cls: type) -> list[Any]:
    """The layers of a class that live."""
    return [layer for layer in list(LIVING) if isinstance(layer, cls)]


class _DetachedWhenAsked:
    """A flag of `snntorch.utils` that is false, and cuts a net's hidden states out of their graph when it is asked.

    TBPTT keeps the flags of `utils` as the keys of a dict from which it chooses the classes to detach, and asks them
    after every update of the weights. A class of ours has no place there; a key has.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = ref(net)

    def __bool__(self) -> bool:
        net = self.net()
        for module in () if net is None else net.modules():
            if is_ours(module):
                module._detach()
        return False


def _seeing(host_check: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    @functools.wraps(host_check)
    def _layer_check(net: nn.Module) -> None:
        host_check(net)
        if any(map(is_ours, net.modules())):
            reset(net)
            # the flag of a neuron without hidden states, which the host never detaches
            utils.is_linearleaky = _DetachedWhenAsked(net)

    _layer_check.sees_hetsyn = True  # type: ignore[attr-defined]
    return _layer_check


def _counting(host_check: Callable[[nn.Module], int]) -> Callable[[nn.Module], int]:
    @functools.wraps(host_check)
    def _final_layer_check(net: nn.Module) -> int:
        last = net
        while last._modules and not isinstance(last, SpikingNeuron):
            last = list(last.children())[-1]
        return _count_returned(last) if is_ours(last) else host_check(net)

    _final_layer_check.sees_hetsyn = True  # type: ignore[attr-defined]
    return _final_layer_check


def _count_returned(last: Any) -> int:
    """How many values a HetSyn layer returns to `snntorch.backprop`, or ValueError where it can take none of them."""
    for option in ("init_hidden", "output"):
        if not getattr(last, option):
            expected = f"a last layer with {option}=True for snntorch.backprop"
            raise ValueError(f"net: expected {expected}, got {option}=False")
    count: int = 1 + len(last._states) - last.recurrent
    if count > 4:
        raise ValueError(f"net: expected a last layer that returns 2 to 4 values (snntorch.backprop), got {count}")
    return count


class _Probe(SpikingNeuron):
    """A neuron that says whether `utils.reset` reached it."""

    was_reset = False

    def reset_mem(self) -> None:
        self.was_reset = True


@functools.cache
def _check_reset_by_itself() -> None:
    """Warn, once, where `utils.reset` has neither the function that we know nor a way of its own to any neuron."""
    probe = _Probe()
    SpikingNeuron.instances.remove(probe)
    utils.reset(nn.Sequential(probe))
    if not probe.was_reset:
        warnings.warn(
            "snntorch.utils._layer_check: expected in snntorch, is gone; snntorch.utils.reset does not see HetSyn "
            "layers: use hetsyn_plugins.adapters.snntorch.reset(net)",
            RuntimeWarning,
            stacklevel=4,
        )


# ---- names ----


def install(neurons: Mapping[str, type]) -> None:
    """Add neurons to `snntorch` under their names; ValueError for a name that is taken by something else."""
    for name, cls in neurons.items():
        if getattr(snntorch, name, cls) is not cls:
            raise ValueError(f"snntorch.{name}: expected to be free, is already {getattr(snntorch, name)!r}")
    for name, cls in neurons.items():
        setattr(snntorch, name, cls)


def uninstall(neurons: Mapping[str, type]) -> None:
    """Take the names away again; layers that live go on being reset."""
    for name, cls in neurons.items():
        if getattr(snntorch, name, None) is cls:
            delattr(snntorch, name)


# ---- containers ----

# What keeps something from one step to the next says how to forget it: snnTorch's neurons and its SynapticDelay,
# SpikingJelly's neurons. (nn.Module's own are reset_parameters and reset_running_stats.)
_FORGETS = ("reset_mem", "reset_hidden", "reset_delay", "reset_state", "reset")
_CELLS = ("SNNCell", "SNNRecurrentCell")  # Norse's base classes of what takes one step


@functools.cache
def _meet_containers() -> None:
    containers.hang(tell_layers, is_ours, after=forget)


def tell_layers(net: nn.Module, _: Any) -> None:
    """Before a container is called: tell the HetSyn layers in it of a neuron of one step that stands beside them.

    Whether a sequence comes is seen in the layer alone: the net's input may be images, or words. Under torch.compile
    nothing is told.
    """
    if torch.compiler.is_compiling():
        return
    members = list(containers.members(net))
    found = containers.mixture(members, _takes)
    if found is not None:
        (name, neuron), _ = found
        told = [layer for _, layer in members if is_ours(layer)]
        for layer in told:
            layer.__dict__["_beside"] = name, type(neuron).__name__
        net.__dict__["_told"] = told


def forget(net: nn.Module, *_: Any) -> None:
    """After a container was called: what its layers were told holds no more, also where a call did not get to them."""
    if torch.compiler.is_compiling():
        return
    for layer in net.__dict__.pop("_told", ()):
        layer.__dict__.pop("_beside", None)


def beside(layer: nn.Module) -> tuple[str, str] | None:
    """Name and kind of the neuron of one step of which the layer was told for this call; it is told once a call."""
    return None if torch.compiler.is_compiling() else layer.__dict__.pop("_beside", None)


def refuse_sequence(name: str, kind: str, batch_first: bool) -> None:
    """Raise ValueError for a sequence (T, B, M) that the neuron beside the layer would take as one step."""
    axes, step = ("B, T", "x[:, t]") if batch_first else ("T, B", "x[t]")
    raise ValueError(
        f"input_: expected (B, M), one step, beside {name} ({kind}), got ({axes}, M): {kind} takes one step a call "
        f"and reads ({axes}, N) as a single one. Loop over the steps (net({step})), or make it a HetSyn layer "
        "(hetsyn_plugins.convert(net, to='snntorch') for Linear and Leaky, else HetSynLeaky.from_params), or give "
        "it a module of its own that loops"
    )


def _takes(module: nn.Module) -> str | None:
    """What a member of a container takes a call; a layer of ours a sequence, if one comes.

    snnTorch's own neurons that take whole sequences (StateLeaky, LinearLeaky, AssociativeLeaky) keep no state.
    """
    if isinstance(module, HetSynModule):
        return containers.SEQUENCE
    if not _means_steps(type(module)):
        return None
    # snnTorch's SynapticDelay and SpikingJelly's neurons can be told to take whole sequences
    return None if getattr(module, "step_mode", True) in (False, "m") else containers.STEP


def _means_steps(cls: type) -> bool:
    """Does a class that is not ours mean one step by a call, since it keeps a state or is a user's own neuron?

    The class is asked, not the module, which would look through parameters, buffers and modules first.
    """
    library = containers.whose(cls)
    if library.startswith("torch."):
        return False
    forgets = any(callable(getattr(cls, name, None)) for name in _FORGETS)
    is_cell = any(base.__name__ in _CELLS for base in cls.__mro__)
    return forgets or is_cell or (issubclass(cls, SpikingNeuron) and not library.startswith("snntorch."))


# ---- the exporter to NIR ----


@functools.cache
def _meet_exporter() -> None:
    """Let `snntorch.export_nir` export our layers, whether it is imported before or after them.

    It calls `nirtorch.extract_nir_graph` by that name, which is the one thing that is replaced; what others export with
    a map of their own is left alone.
    """
    try:
        import nirtorch
    except Exception:  # absent, or broken: the exporter cannot run either
        return
    extract = getattr(nirtorch, "extract_nir_graph", None)
    if extract is not None:  # deprecated; its successor works by torch.fx, which our layers refuse themselves
        nirtorch.extract_nir_graph = functools.wraps(extract)(functools.partial(_extract, extract))


def _extract(extract: Any, model: nn.Module, model_map: Any, *args: Any, **options: Any) -> Any:
    """`nirtorch.extract_nir_graph`, which with snnTorch's map would make None of a layer of ours.

    Nets with such go by the plain data of all their modules, which must be such as `convert` takes.
    """
    is_hosts = getattr(model_map, "__module__", None) == "snntorch.export_nir"
    if is_hosts and any(isinstance(module, HetSynModule) for module in model.modules()):
        return to_graph(model)
    return extract(model, model_map, *args, **options)


# ---- surrogates and quantisers ----


def check_surrogate(surrogate: Surrogate) -> None:
    """Warn where gradients grow without bound through the reset path, which a stock neuron has none through.

    From step to step rst passes on beta - threshold h, h the derivative: for thresholds about 1, more than 1 where h is
    negative or above 2. A peak at the threshold is harmless, a tenth of all d within 2 of it is not.
    """
    with torch.inference_mode(False):
        d = torch.linspace(-2, 2, 81, device="cpu")
        h = surrogate.derivative(d)
    if ((h < 0) | (h > 2)).float().mean() > 0.1:
        warnings.warn(
            f"spike_grad: {surrogate!r} has derivatives from {h.min():.3g} to {h.max():.3g}, with which the gradient "
            "through the reset grows from step to step (to 1e29 and NaN); a stock neuron cuts it: detach_reset=True "
            "trains as that does",
            stacklevel=3,
        )


def quantiser(state_quant: Any) -> Callable[[Tensor], Tensor] | None:
    """What quantises a state and keeps its dtype (the host's levels are float32); None where nothing does."""
    if not state_quant:
        return None
    return lambda state: state_quant(state).to(state.dtype)
