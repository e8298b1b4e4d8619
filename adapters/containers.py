"""What stands beside a layer in a container that calls its members one after the other.

A neuron that takes one step a call would read a sequence (T, B, N) as a single step of a batch T. No layer knows what
stands beside it; the container does. So a container that takes in one of our layers gets a forward pre-hook, by torch's
own means, which goes with it into copies and files. Each adapter says what a member takes, and what to do about two
kinds in one container.

Not seen: what a user's own forward does between modules; and, until the container takes in a member again, a layer that
came into a container inside it later, or by torch's `insert`, which calls no hook of registration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

STEP, SEQUENCE = "step", "sequence"  # what a member takes a call
EITHER = "either"  # a user's own module, which may make the one of the other
Member = tuple[str, nn.Module]  # its name in the container, and itself


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
        if hook in container._forward_pre_hooks.values():
            return
        if any(is_ours(member) for part in (module, container) for _, member in members(part)):
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


def _runs_in_order(module: nn.Module) -> bool:
    """Is this torch's Sequential or Norse's SequentialState, or a subclass with their forward and no other?"""
    return isinstance(module, nn.Sequential) and whose(type(module)).startswith(("torch.", "norse."))
