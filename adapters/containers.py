"""What stands beside a layer in a container that calls its members one after the other.

A neuron that takes one step a call would read a sequence (T, B, N) as a single step of a batch T. No layer knows what
stands beside it; the container does. So a container that takes in one of our layers gets a forward pre-hook, by torch's
own means, which goes with it into copies and files. Each adapter says what a member takes, and what to do about two
kinds in one container.

Pooling and Flatten() between layers over images would read (T, B, C, H, W) as something else, or refuse it: those in a
container with one of our layers take every step of a sequence by itself.

Not seen: what a user's own forward does between modules; and, until the container takes in a member again, a layer that
came into a container inside it later, or by torch's `insert`, which calls no hook of registration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

STEP, SEQUENCE = "step", "sequence"  # what a member takes a call
EITHER = "either"  # a user's own module, which may make the one of the other
Member = tuple[str, nn.Module]  # its name in the container, and itself
POOLS = {  # axes of an image -> what pools along them
    1: (nn.AvgPool1d, nn.MaxPool1d, nn.LPPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
    2: (nn.AvgPool2d, nn.MaxPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
}


def hang(
    hook: Callable[[nn.Module, Any], None],
    is_ours: Callable[[nn.Module], bool],
    containers: type[nn.Sequential] = nn.Sequential,
    after: Callable[[nn.Module, Any, Any], None] | None = None,
) -> None:
    """From now on every container of this class that takes in one of our layers gets the forward pre-hook, once.

    hook    a function that its module has by name: containers are copied and pickled with it
    after   another, a forward hook: it comes after every call, also one that raised
    """

    def see(container: nn.Module, name: str, module: nn.Module | None) -> None:
        if not isinstance(container, containers) or module is None or not _runs_in_order(container):
            return
        if not any(is_ours(member) for part in (module, container) for _, member in members(part)):
            return
        _take_sequences({**dict(container.named_children()), name: module})  # of which it is not a member yet
        if hook not in container._forward_pre_hooks.values():
            container.register_forward_pre_hook(hook)
            if after is not None:
                container.register_forward_hook(after, always_call=True)

    register_module_module_registration_hook(see)


def mixture(beside: Iterable[Member], takes: Callable[[nn.Module], str | None]) -> tuple[Member, Member] | None:
    """The first member that takes one step and the first that takes a sequence; None where all are of one kind.

    beside  the `members` of a container
    takes   STEP, SEQUENCE, EITHER, at which the comparison starts anew, or None for what does not care about time
    """
    found: dict[str, Member] = {}
    for member in beside:
        kind = takes(member[1])
        if kind == EITHER:
            found.clear()
        elif kind is not None:
            found.setdefault(kind, member)
        if len(found) == 2:
            return found[STEP], found[SEQUENCE]
    return None


def members(module: nn.Module, name: str = "") -> Iterator[Member]:
    """All that a container calls one after the other, at any depth of containers; a module that is none, itself."""
    if not _runs_in_order(module):
        yield name, module
        return
    for own, child in module.named_children():
        yield from members(child, f"{name}.{own}" if name else own)


def whose(cls: type) -> str:
    """The dotted name of the file where the forward of a class stands, so of its library; nothing if it is scripted."""
    return str(getattr(getattr(cls, "forward", None), "__module__", ""))


def _take_sequences(children: Mapping[str, nn.Module]) -> None:
    """Let pooling and Flatten() among a container's children take every step of a sequence by itself.

    A sequence is told from a step by how many axes it has: pooling has its own number, Flatten that of what comes
    before it. A Flatten that does not begin behind the first axis was meant for sequences by who made it.
    """
    rank = 0
    for _, member in (named for child in children.values() for named in members(child)):
        pooled = next((3 + axes for axes, pools in POOLS.items() if isinstance(member, pools)), 0)
        if pooled:
            _step_by_step(member, pooled)
        elif isinstance(member, nn.Flatten) and member.start_dim == 1 and rank > 3:
            _step_by_step(member, rank)
        rank = pooled or getattr(member, "sequence_rank", rank)


def _step_by_step(module: nn.Module, rank: int) -> None:
    """Let a module that takes (B, ...) take sequences, which have so many axes, too."""
    module.__dict__["_sequence_rank"] = rank
    if folded not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(folded)
        module.register_forward_hook(unfolded)


def folded(module: nn.Module, inputs: Any) -> Any:
    """Before the module's call: a sequence (T, B, ...) as (T B, ...)."""
    x = inputs[0]
    is_sequence = isinstance(x, Tensor) and x.ndim == module.__dict__["_sequence_rank"]
    module.__dict__["_steps"] = x.shape[:2] if is_sequence else None
    return x.flatten(0, 1) if is_sequence else None


def unfolded(module: nn.Module, _: Any, output: Any) -> Any:
    """After its call: what came of a sequence as (T, B, ...) again."""
    steps = module.__dict__.pop("_steps")
    return None if steps is None else output.unflatten(0, steps)


def _runs_in_order(module: nn.Module) -> bool:
    """Is this torch's Sequential or Norse's SequentialState, or a subclass with their forward and no other?"""
    return isinstance(module, nn.Sequential) and whose(type(module)).startswith(("torch.", "norse."))
