"""A card that is not there: tensors that say they are on "cuda:0", have their values on the CPU, and keep apart.

An operation whose operands are on different devices raises, as on a card, and `numpy()` does; what a program forgets to
move is found without one. It says nothing of kernels: they are eager's, by torch's own operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from hetsyn_plugins.exchange import frameworks
from hetsyn_plugins.ops import arguments, devices, dispatch

CARD = torch.device("cuda:0")
COPIES = ("aten::_to_copy", "aten::copy_")  # the two that may have operands on both sides
INDEXING = ("aten::index.Tensor", "aten::index_put_", "aten::index")  # indices may be on the CPU


class OnCard(Tensor):
    """A tensor of the card; torch is told "meta", whose gradients need no thread of a card."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor, requires_grad: bool = False) -> OnCard:
        options: dict[str, Any] = {"dtype": values.dtype, "strides": values.stride(), "requires_grad": requires_grad}
        options |= {"storage_offset": values.storage_offset(), "device": "meta"}
        made = Tensor._make_wrapper_subclass(cls, values.size(), **options)
        made.values = values
        return made  # type: ignore[no-any-return]

    device = property(lambda self: CARD)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnCard({self.values!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copy = OnCard(self.values.clone(), self.requires_grad)
        memo[id(self)] = copy = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise NotImplementedError("a pretended card's tensors cannot be pickled")

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def tolist(self) -> Any:
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: checked, run on the CPU, its results put where they would be."""
    name = func._schema.name
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    here = [t for t in tensors if isinstance(t, OnCard)]
    away = [t for t in tensors if not isinstance(t, OnCard) and t.ndim]
    if here and away and name not in (*COPIES, *INDEXING):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, got cuda:0 and cpu")
    device = kwargs.get("device")
    on_card = (
        bool(here) if device is None else torch.device(device).type in ("cuda", "meta")
    )  # .to(tensor) asks torch where that is
    if name == "aten::copy_":
        on_card = isinstance(args[0], OnCard)
    host = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
    values = tree_map(lambda x: x.values if isinstance(x, OnCard) else x, (args, host))
    result = func(*values[0], **values[1])
    known = {id(t.values): t for t in here}  # what was changed in place is the same tensor

    def placed(x: Any) -> Any:
        if not isinstance(x, Tensor) or not on_card:
            return x
        return known.get(id(x)) if id(x) in known else OnCard(x)

    return tree_map(placed, result)


class Card(TorchDispatchMode):
    """Inside, what is made for the card, or moved there, is on it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def made_here_first(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.tensor or as_tensor, on the CPU and then moved."""

    def made(data: Any, device: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:
        if device is None:
            device = data.device if isinstance(data, Tensor) else torch.empty(0).device
        tensor = make(data.cpu() if isinstance(data, Tensor) else data, device="cpu", **options).to(device)
        return tensor.requires_grad_() if requires_grad else tensor

    return made


@contextlib.contextmanager
def pretended_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the package find a card, cuda:0, whose kernels do not work, so that eager runs on it and on the CPU."""
    monkeypatch.setattr(devices, "usable", lambda argument, name: torch.device("cpu" if name == "cpu" else CARD))
    monkeypatch.setattr(devices, "free", lambda device: 1 << 30)
    monkeypatch.setattr(devices, "described", str)
    monkeypatch.setattr(devices, "peak_megabytes", lambda device: 1.5)
    for why_not in ("why_no_gpu_kernel", "why_no_cpu_kernel"):
        monkeypatch.setattr(dispatch, why_not, lambda: "a pretended one")
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(arguments, "plain_tensor", lambda inputs, *_: inputs)  # which refuses what wraps a tensor
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    for framework in filter(frameworks.is_installed, frameworks.CONVERTIBLE):
        frameworks.adapter(framework)  # now: Norse compiles what it finds in torch
    for name in ("tensor", "as_tensor"):  # they ask for the driver before anybody else is asked
        monkeypatch.setattr(torch, name, made_here_first(getattr(torch, name)))
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(
        True
    )  # a parameter that is moved stays the same, as on a card
    try:
        with Card():
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
