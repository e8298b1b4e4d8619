"""Carrying a network from one framework to another: framework -> plain data (`network.py`) -> framework.

What an adapter adds to take part is three functions, `build_layer`, `container` and `merge_stock`, and a layer's method
`why_not_plain`; everything that is plain torch (Linear, Dropout, nesting) is handled here, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hetsyn_plugins.core import network
from hetsyn_plugins.core.fields import ARRAYS, DECAYS, Array
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.core.validation import check_has_values, checked_dt
from hetsyn_plugins.exchange.frameworks import CONVERTIBLE, adapter
from hetsyn_plugins.ops.arguments import HALF
from hetsyn_plugins.ops.trainable import TrainableFields

TARGETS = ("reference", *CONVERTIBLE)


class AlwaysOn(nn.Module):
    """Appends one line that is 1 at every step: (..., M) -> (..., M + 1).

    A Linear's bias in front of a leaky neuron is *filtered* by it; the weight of such a line does the same.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, inputs.new_ones((*inputs.shape[:-1], 1))], dim=-1)


def convert(net: Any, to: str, dt: float | None = None) -> Any:
    """Carry a sequential stack of HetSyn layers and readouts, Linear and Dropout, over to another framework.

    net   a Network, a torch Sequential (nested too), Norse's SequentialState, or one HetSyn layer, on any device
          and on several; in snnTorch stacks
          also stock `nn.Linear` + `snn.Leaky`, which become vanilla HetSyn layers: the Linear's bias is filtered there,
          so it becomes the weight of an always-on line (an AlwaysOn module appears in front). A stock neuron's reset
          has no gradient: they come with detach_reset=True, and have its gradients
    to    "reference" (a Network, plain data that runs in float64), "snntorch" (nn.Sequential, init_hidden layers) or
          "norse" (SequentialState of sequence modules)
    dt    step length in seconds for layers that have none; asked for where the target needs it

    The result takes (T, B, M) and spikes alike: equal in float64, within rounding in float32. Layers with
    batch_first=True stay so, and take (B, T, M); a Network runs on (T, B, M) always. It is new, on the CPU,
    and keeps the dtype of the parameters (half ones become float32, which is exact), what is trained and how, and names
    where the container allows.
    Raises ValueError for what cannot be carried over, naming it; ImportError where the framework is not installed.
    """
    check_target(to, dt)
    plain = _with_dt(net if isinstance(net, Network) else read(net), dt)
    if to == "reference":
        return plain
    target = adapter(to)
    return target.container([(layer.name, _build(layer, target)) for layer in plain.layers])


def check_target(to: str, dt: float | None) -> None:
    """Raise ValueError for arguments that `convert` can do nothing with, whatever the net."""
    if to not in TARGETS:
        raise ValueError(f"to: expected one of {', '.join(TARGETS)}, got {to!r}")
    if dt is not None:
        checked_dt(dt)


def read(net: nn.Module) -> Network:
    """The plain data of a torch module: what `convert` starts from."""
    modules = list(_flat(net))
    for path, tensor in (*net.named_parameters(), *net.named_buffers()):
        check_has_values(f"net: {path}", tensor)
    layers: list[network.Layer | None] = []
    position = 0
    while position < len(modules):
        name, module = modules[position]
        merged = _merge_stock(modules[position : position + 2])
        layers += merged or [_plain(name, module)]
        position += 2 if merged else 1
    return Network(tuple(layer for layer in layers if layer is not None))


def _flat(net: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of nested Sequentials in order, with their names joined."""
    if not isinstance(net, nn.Module):
        raise ValueError(f"net: expected a torch module or a Network, got {type(net).__name__}")
    if not isinstance(net, nn.Sequential):
        yield name or "0", net
        return
    for key, child in net.named_children():
        yield from _flat(child, f"{name}_{key}" if name else key)


def _plain(name: str, module: nn.Module) -> network.Layer | None:
    if hasattr(module, "to_params"):
        return _hetsyn_layer(name, module)
    if isinstance(module, nn.Linear):
        bias = None if module.bias is None else _array(module.bias)
        learned = frozenset(field for field, tensor in module.named_parameters() if tensor.requires_grad)
        return network.Linear(name, _array(module.weight), bias, learned)
    if isinstance(module, nn.Dropout):
        return network.Dropout(name, module.p)
    if isinstance(module, AlwaysOn):
        return network.AlwaysOn(name)
    if isinstance(module, nn.Identity):
        return None
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    raise ValueError(
        f"net: expected a sequential stack of HetSyn layers, Linear and Dropout; module {name!r} is a {kind}"
    )


def _hetsyn_layer(name: str, module: Any) -> network.HetSynLayer:
    why_not = getattr(module, "why_not_plain", None)
    if why_not is not None and (reason := why_not()) is not None:
        raise ValueError(f"net: module {name!r}, a {type(module).__name__}, cannot be carried over: {reason}")
    fields = _fields(module)
    stored = {field: module.stored(field) for field in ARRAYS if field not in fields.tied}
    learned = {field for field, tensor in stored.items() if tensor is not None and tensor.requires_grad}
    trained = {} if fields.parametrization == "decay" else {f: stored[f] for f in DECAYS if stored.get(f) is not None}
    return network.HetSynLayer(
        name,
        module.to_params(),
        dt=fields.dt,
        share=fields.share,
        parametrization=fields.parametrization,
        tie_reset=fields.tie_reset,
        detach_reset=module.detach_reset,
        surrogate=module.surrogate,
        learned=frozenset(learned),
        stored={field: _array(tensor) for field, tensor in trained.items() if tensor is not None},
        autapses=stored["recurrent_weight"] is None or getattr(module, "autapses", True),
        batch_first=getattr(module, "batch_first", False),
    )


def _fields(module: Any) -> TrainableFields:
    """Where a HetSyn layer of any adapter keeps what it trains."""
    fields: TrainableFields = module if isinstance(module, TrainableFields) else module.p
    return fields


def _merge_stock(pair: list[tuple[str, nn.Module]]) -> list[network.Layer]:
    """The layers that a Linear and a stock leaky neuron right behind it are together; none if they are not such."""
    if len(pair) < 2 or not isinstance(pair[0][1], nn.Linear):
        return []
    framework = type(pair[1][1]).__module__.partition(".")[0]
    if framework not in TARGETS:
        return []
    (_, linear), (name, neuron) = pair
    merged = adapter(framework).merge_stock(linear, neuron)
    if merged is None:
        return []
    params, learned, surrogate = merged
    share = "neuron" if np.ndim(params.decay) else "layer"
    layer = network.HetSynLayer(
        name,
        params,
        share=share,
        tie_reset=params.reset_decay is not None,
        detach_reset=True,  # the reset of stock leaky neurons has no gradient
        surrogate=surrogate,
        learned=learned,
    )
    return [layer] if linear.bias is None else [network.AlwaysOn(f"{name}_always_on"), layer]


def _with_dt(plain: Network, dt: float | None) -> Network:
    """The same network with dt where a layer has none; a layer's own dt stays (its taus are in those seconds)."""
    layers = [
        replace(layer, dt=dt) if isinstance(layer, network.HetSynLayer) and layer.dt is None else layer
        for layer in plain.layers
    ]
    return Network(tuple(layers))


def _build(layer: network.Layer, target: ModuleType) -> nn.Module:
    if isinstance(layer, network.HetSynLayer):
        return _build_hetsyn(layer, target)
    if isinstance(layer, network.Linear):
        n, m = layer.weight.shape
        linear = nn.Linear(m, n, bias=layer.bias is not None, dtype=torch.tensor(np.array(layer.weight)).dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(np.array(layer.weight)))
            if layer.bias is not None:
                linear.bias.copy_(torch.tensor(np.array(layer.bias)))
        for field, tensor in linear.named_parameters():
            tensor.requires_grad_(field in layer.learned)
        return linear
    return nn.Dropout(layer.p) if isinstance(layer, network.Dropout) else AlwaysOn()


def _build_hetsyn(layer: network.HetSynLayer, target: ModuleType) -> nn.Module:
    module: Any = target.build_layer(layer)
    if not layer.autapses and getattr(module, "autapses", True):
        raise ValueError(
            f"net: layer {layer.name!r} has autapses=False, which a {type(module).__name__} has no option for; "
            "dataclasses.replace(layer, autapses=True) in the Network of to='reference' lets the diagonal train"
        )
    fields = _fields(module)
    with torch.no_grad():
        for field, array in layer.stored.items():
            getattr(fields, fields.stored_name(field)).copy_(torch.tensor(np.array(array)))
    for field in ARRAYS:
        stored = None if field in fields.tied else module.stored(field)
        if isinstance(stored, nn.Parameter):
            stored.requires_grad_(field in layer.learned)
    return module


def _array(tensor: Tensor) -> Array:
    """A NumPy copy; half types become float32, which is exact."""
    plain = tensor.detach().cpu()
    return np.array((plain.float() if plain.dtype in HALF else plain).numpy())
