"""In which order the modules of a net are called: a user's own class, whose forward is code, is run and watched.

A class counts as a chain where its modules are called one after the other, each once with the whole sequence or each
once a step, and where what goes into one is what came out of the one before, to the bit. Anything else between them (an
addition, a skip, a second use of the same weights) is a ValueError that names the module and says what to do.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

STEPS, SAMPLES = 12, 2  # of the inputs that are drawn where none are given
RATE = 0.5
WAY_OUT = (
    "nn.Sequential(layer, ..., layer) says what layers compute in which order; what else forward does stays outside"
)
NOT_RUN = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, AssertionError)
Named = tuple[str, nn.Module]


class Seen(NamedTuple):
    """What went into a module and what came out, step by step: (T, B, ...)."""

    inputs: Tensor
    outputs: Tensor


class Chain(NamedTuple):
    """The modules in their order with their names; of a net that was run, what was seen of each by name."""

    modules: list[Named]
    seen: dict[str, Seen]


def chain_of(net: nn.Module, inputs: Any = None) -> Chain:
    """The modules of a net as they are called: of nested Sequentials in their order; any other net is run.

    inputs   what `net(inputs)` takes, to run it on; None: random numbers for its first layer. What runs is a copy in
             float64 that does not train

    Wrappers (torch.compile's, DataParallel, DistributedDataParallel, AveragedModel) are opened. Raises ValueError for a
    net that is no such chain.
    """
    net = opened(net)
    if isinstance(net, nn.Sequential) or _is_leaf(net):
        return Chain(list(_flat(net)), {})
    chain = _watched(copy.deepcopy(net).double().eval(), inputs)
    real = dict(net.named_modules())
    return Chain([(flat_name(name), real.get(name, module)) for name, module in chain.modules], chain.seen)


def flat_name(path: str) -> str:
    """The name of a layer, of a path to its module."""
    return path.replace(".", "_")


def opened(net: nn.Module) -> nn.Module:
    """The net inside wrappers that only call it."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    wrapped = (
        net.module if isinstance(net, parallel) else getattr(net, "_orig_mod", None)
    )  # the latter: torch.compile's
    return opened(wrapped) if isinstance(wrapped, nn.Module) else net


def _flat(net: nn.Module, name: str = "") -> Iterator[Named]:
    """The modules of nested Sequentials in order, with their names joined."""
    if not isinstance(net, nn.Sequential):
        yield name or "0", net
        return
    for key, child in net.named_children():
        yield from _flat(opened(child), f"{name}_{key}" if name else key)


def _is_leaf(module: nn.Module) -> bool:
    """A layer of ours, or a module without others inside."""
    return hasattr(module, "to_params") or next(module.children(), None) is None


def _leaves(net: nn.Module) -> Iterator[Named]:
    """The modules that compute, each once, with their paths."""
    inside: set[nn.Module] = set()
    for path, module in net.named_modules():
        if module not in inside and _is_leaf(module):
            inside.update(module.modules())
            yield path, module


# ---- watching ------------------------------------------------------------------------------------------------------


def _watched(net: nn.Module, inputs: Any) -> Chain:
    """Run a net and look on; sequences first, then one input that it shows at every step, as tutorials have it."""
    calls: dict[str, list[Seen]] = {}
    for path, leaf in _leaves(net):
        leaf.register_forward_hook(partial(_note, calls, path))
    error: Exception | None = None
    for given in _tries(net, inputs):
        calls.clear()
        try:
            with torch.no_grad():
                for _, leaf in _leaves(net):
                    if hasattr(leaf, "reset_mem"):
                        leaf.reset_mem()
                net(given)
        except NOT_RUN as raised:
            error = raised
            continue
        if not _is_sequence_each_step(calls):
            return _chain(net, calls, given)
    kind = type(net).__name__
    why = f"{type(error).__name__}: {error}" if error else "the whole input went into its first layer at every step"
    raise ValueError(f"inputs: expected an example that {kind}.forward takes, and none was given that it does: {why}")


def _note(calls: dict[str, list[Seen]], path: str, module: nn.Module, given: Any, out: Any) -> Any:
    """A forward hook: writes down, and brings to float64 what stock neurons of snnTorch give in float32."""
    first, *others = out if isinstance(out, tuple) else (out,)
    first = first.double()
    calls.setdefault(path, []).append(Seen(given[0].detach().clone(), first.detach().clone()))
    return (first, *others) if isinstance(out, tuple) else first


def _is_sequence_each_step(calls: dict[str, list[Seen]]) -> bool:
    """Did a drawn sequence (T, B, M) go into the first layer many times, which takes a step (B, M) then?"""
    first = next(iter(calls.values()), [])
    return len(first) > 1 and first[0].inputs.ndim == 3


def _tries(net: nn.Module, inputs: Any) -> Iterator[Tensor]:
    """What to run a net on: what is given, else numbers in the shapes that nets of this field take."""
    if inputs is not None:
        yield torch.as_tensor(inputs).double()
        return
    lines = next((getattr(leaf, "in_features", getattr(leaf, "input_size", None)) for _, leaf in _leaves(net)), None)
    if not isinstance(lines, int):
        raise ValueError("inputs: expected an example of what the net takes, whose first layer says no size, got None")
    draw = partial(torch.rand, STEPS, SAMPLES, lines, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graded = draw() * (draw() < RATE)  # no two alike: what forward makes of its input is seen
    yield graded
    yield graded[0]


# ---- what was seen -------------------------------------------------------------------------------------------------


def _chain(net: nn.Module, calls: dict[str, list[Seen]], given: Tensor) -> Chain:
    """The modules in the order of their first calls. Raises ValueError where this is not all that forward does."""
    if not calls:
        raise ValueError(f"net: expected a {type(net).__name__} that calls modules, got none; {WAY_OUT}")
    leaves, (first, *_) = dict(_leaves(net)), calls
    times = len(calls[first])
    for path, of_one in calls.items():
        if len(of_one) not in (1, times):
            got = f"{len(of_one)} of {path!r}, {times} of {first!r}"
            raise ValueError(f"net: expected as many calls of every module, one or one a step, got {got}; {WAY_OUT}")
    by_step = times > 1 or calls[first][0].inputs.ndim == 2
    seen = {path: _over_steps(of_one, by_step) for path, of_one in calls.items()}
    if not torch.isin(seen[first].inputs, given).all():
        raise ValueError(f"net: expected {first!r} to take what forward is given, got something made of it; {WAY_OUT}")
    modules: list[Named] = []
    for before, path in zip([None, *calls], calls, strict=False):
        if before is not None and _reshaped(seen[before].outputs, seen[path].inputs, before, path):
            modules.append((f"{path}_flatten", nn.Flatten()))
        modules.append((path, leaves[path]))
    return Chain(modules, {flat_name(path): what for path, what in seen.items()})


def _over_steps(calls: list[Seen], by_step: bool) -> Seen:
    """All calls of a module as (T, B, ...)."""
    if by_step:
        return Seen(*(torch.stack(parts) for parts in zip(*calls, strict=True)))
    return calls[0]


def _reshaped(out: Tensor, taken: Tensor, before: str, path: str) -> bool:
    """Whether what comes out of a module was flattened for the next; ValueError where it is not what goes into that."""
    if out.shape == taken.shape and torch.equal(out, taken):
        return False
    if out.shape[:2] == taken.shape[:2] and taken.ndim == 3 and torch.equal(out.flatten(2), taken):
        return True
    raise ValueError(f"net: expected {path!r} to take what comes out of {before!r}, got something else; {WAY_OUT}")
