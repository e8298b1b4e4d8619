"""What makes snnTorch's own tools see our neurons: `utils.reset`, `backprop`, names, containers, exporters.

The host finds neurons by lists of its own classes. `see` is called for every layer that comes into being, and from the
first one on `snntorch.utils` sees ours; names are added by `install` alone, and `uninstall` takes only names away.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet, ref

import snntorch
import torch
from snntorch import SpikingNeuron, utils
from torch import Tensor, nn

from hetsyn_plugins.adapters import callers
from hetsyn_plugins.core.surrogate import Surrogate
from hetsyn_plugins.ops.layer import HetSynModule

LIVING: WeakSet[Any] = WeakSet()  # every layer that lives, for the host's class-wide idioms


# ---- reset and detach ----


def see(layer: Any) -> None:
    """Let the host see a layer that has just come into being: built, copied or unpickled."""
    LIVING.add(layer)
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


# ---- who calls ----


def check_neighbours(sequence: Tensor) -> None:
    """Raise ValueError where a layer gets a sequence (T, B, M) that a neuron beside it takes as one step.

    Seen are Sequentials, one in another too, and, from the second call on, what the user's own forward did. Under
    torch.compile, whose frames are others, nothing is.
    """
    if torch.compiler.is_compiling():
        return
    call = callers.call_above(2)
    containers = callers.sequentials(call)
    if containers:
        wrong = [named for named in callers.parts(containers[-1]) if takes_one_step(named[1])]
    else:
        wrong = _took_sequences(callers.owner(call), *sequence.shape[:2])
    if wrong:
        (name, module), *_ = wrong
        kind = type(module).__name__
        raise ValueError(
            f"input_: expected (B, M), one step, beside {name} ({kind}), got (T, B, M): {kind} takes one step a call "
            "and reads (T, B, N) as a single one. Loop over the steps (net(x[t])), or make it a HetSyn layer "
            "(hetsyn_plugins.convert(net, to='snntorch') for Linear and Leaky, else HetSynLeaky.from_params), or give "
            "it a module of its own that loops"
        )


def _took_sequences(owner: nn.Module | None, steps: int, batch: int) -> list[tuple[str, nn.Module]]:
    """Neurons of one step to which the user's own forward handed a whole sequence: mem, which stays, tells.

    Where T == B, that may be a step of B signals of B channels: not looked at.
    """
    if owner is None or steps == batch:
        return []
    neurons = [(name, module) for name, module in owner.named_modules() if takes_one_step(module)]
    return [(n, m) for n, m in neurons if getattr(getattr(m, "mem", None), "shape", ())[:-1] == (steps, batch)]


def takes_one_step(module: nn.Module) -> bool:
    """Is this a neuron, or another module with a state, that is not ours and means one step by a call?

    snnTorch's own neurons that take whole sequences (StateLeaky, LinearLeaky, AssociativeLeaky) keep no state.
    """
    if isinstance(module, HetSynModule):
        return False
    if callers.keeps_state(module):
        return True
    return isinstance(module, SpikingNeuron) and not type(module).forward.__module__.startswith("snntorch.")


def refuse_nir(layer: nn.Module) -> None:
    """Raise ValueError where `snntorch.export_nir.export_to_nir` asks for a layer, which it cannot export."""
    exporter = "snntorch.export_nir"
    if exporter in sys.modules and callers.is_called_by(exporter, "export_to_nir"):
        raise ValueError(
            f"module: expected layers that NIR has nodes for, got {type(layer).__name__}; its parameters leave by "
            "layer.to_params(), the net by hetsyn_plugins.checkpoint.save or hetsyn_plugins.deployment.export"
        )


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
