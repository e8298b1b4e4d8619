"""Carrying a network from one framework to another: framework -> plain data (`network.py`) -> framework.

What an adapter adds to take part is three functions, `build_layer`, `container` and `merge_stock`, and a layer's method
`why_not_plain`; everything that is plain torch (Linear, Dropout, nesting) is handled here, once.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import takewhile
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hetsyn_plugins.core import network
from hetsyn_plugins.core.convolution import Convolution, checked_size
from hetsyn_plugins.core.fields import ARRAYS, DECAYS, Array
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.core.unrolling import unrolled as unrolled_network
from hetsyn_plugins.core.validation import check_has_values, checked_dt
from hetsyn_plugins.exchange.calls import WAY_OUT, Named, Seen, chain_of
from hetsyn_plugins.exchange.frameworks import CONVERTIBLE, adapter
from hetsyn_plugins.exchange.over_steps import OverSteps
from hetsyn_plugins.fixed_point.network import FixedNetwork, quantise
from hetsyn_plugins.ops.arguments import HALF
from hetsyn_plugins.ops.trainable import fields_of

TARGETS = ("reference", *CONVERTIBLE, "lava_dl", "fixed_point")
# what may stand in front of the first layer and is kept as it is
FRONT = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Flatten, nn.ReLU),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)
CLOSE = 1e-9  # v in float64, both summed over some thousand synapses and steps at most


class AlwaysOn(nn.Module):
    """Appends one line that is 1 at every step: (..., M) -> (..., M + 1).

    A Linear's bias in front of a leaky neuron is *filtered* by it; the weight of such a line does the same.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, inputs.new_ones((*inputs.shape[:-1], 1))], dim=-1)


def convert(net: Any, to: str, dt: float | None = None, *, inputs: Any = None, unrolled: Any = None) -> Any:
    """Carry a chain of HetSyn layers and readouts, Linear and Dropout, over to another framework.

    net   a Network, a torch Sequential (nested too), Norse's SequentialState, or one HetSyn layer, on any device
          and on several; or a class of one's own whose forward calls such modules one after the other, on the whole
          sequence or in a loop over steps. It is run to see in which order, and what is read must spike as it did
          (`calls`); wrappers (torch.compile's, DataParallel, ...) are opened.
          Convolutions, pooling and the like in front of the first layer are kept as they are, over all steps. Batch
          norm behind a Linear is folded into it, as it is when nobody trains. In snnTorch stacks
          also stock `nn.Linear` + `snn.Leaky` (or a Synaptic with alpha = 0), which become vanilla HetSyn layers: the
          Linear's bias is filtered there, so it becomes the weight of an always-on line (an AlwaysOn module appears in
          front). A stock neuron's reset has no gradient: they come with detach_reset=True, and have its gradients
    to    "reference" (a Network, plain data that runs in float64), "snntorch" (nn.Sequential, init_hidden layers),
          "norse" (SequentialState of sequence modules), "lava_dl" (nn.Sequential of slayer's blocks in float without a
          step of delay: (B, M, T)) or "fixed_point" (a FixedNetwork: the chip's integers, rounded as by
          `deployment.export`, which reports what that costs)
    dt    step length in seconds for layers that have none; asked for where the target needs it
    inputs   an example of what a class of one's own takes, where its first layer does not tell: (T, B, C, H, W), say
    unrolled   the shape (C, H, W) or (C, L) of images: convolutions become the dense layers that they are on these,
          averages of windows that do not overlap go into the weights behind them. The result takes (T, B, C * H * W),
          and goes where lines alone are known: the integers, NIR, slayer, ONNX. None: they stay convolutions

    The result takes (T, B, M) and spikes alike (but for "fixed_point", which rounds): equal in float64, within rounding
    in float32. Layers with
    batch_first=True stay so, and take (B, T, M); a Network runs on (T, B, M) always. It is new, on the CPU,
    and keeps the dtype of the parameters (half ones become float32, which is exact), what is trained and how, and names
    where the container allows.
    Raises ValueError for what cannot be carried over, naming it; ImportError where the framework is not installed.
    """
    check_target(to, dt)
    if to == "fixed_point":
        return _integers(net, inputs, unrolled)
    front, plain = ([], net) if isinstance(net, Network) else parts_of(net, inputs)
    plain = _with_dt(plain, dt)
    if unrolled is not None:
        _check_all_is_plain(front)
        plain = unrolled_network(plain, unrolled)
    if to == "reference":
        _check_all_is_plain(front)
        return plain
    target = adapter(to)
    if to == "lava_dl":
        network.check_flat(plain, "slayer")
    kept = [(name, OverSteps(copy.deepcopy(module))) for name, module in front]
    return target.container([*kept, *((layer.name, _build(layer, target)) for layer in plain.layers)])


def check_target(to: str, dt: float | None) -> None:
    """Raise ValueError for arguments that `convert` can do nothing with, whatever the net."""
    if to not in TARGETS:
        raise ValueError(f"to: expected one of {', '.join(TARGETS)}, got {to!r}")
    if dt is not None:
        checked_dt(dt)


def _integers(net: Any, inputs: Any, unrolled: Any) -> FixedNetwork:
    """The integers of a net: of quantised blocks of slayer their own, of anything else those of its plain data."""
    flat = [] if isinstance(net, Network) or not isinstance(net, nn.Module) else chain_of(net, inputs).modules
    if flat and all(hasattr(module, "to_fixed") for _, module in flat):
        return FixedNetwork(tuple(module.to_fixed(name) for name, module in flat))
    fixed, _ = quantise(convert(net, to="reference", inputs=inputs, unrolled=unrolled))
    return fixed


def parts_of(net: Any, inputs: Any = None) -> tuple[list[Named], Network]:
    """A net as the modules that stand in front and stay as they are, and the plain data of the rest."""
    if not isinstance(net, nn.Module):
        raise ValueError(f"net: expected a torch module or a Network, got {type(net).__name__}")
    for path, tensor in (*net.named_parameters(), *net.named_buffers()):
        check_has_values(f"net: {path}", tensor)
    chain = chain_of(net, inputs)
    front = list(takewhile(lambda named: isinstance(named[1], FRONT), chain.modules))
    if len(front) == len(chain.modules):
        name, module = front[-1]
        raise ValueError(f"net: expected at least one layer behind {name!r}, a {type(module).__name__}, got none")
    modules = _folded([named for named in chain.modules[len(front) :]])
    if not any(hasattr(module, "of_a_position") for _, module in modules):  # lines are flat already
        modules = [named for named in modules if not isinstance(named[1], nn.Flatten)]
    layers: list[network.Layer | None] = []
    position = 0
    while position < len(modules):
        name, module = modules[position]
        merged = _merge_stock(modules[position : position + 2])
        layers += merged or [_plain(name, module)]
        position += 2 if merged else 1
    plain = Network(tuple(layer for layer in layers if layer is not None))
    if chain.seen:
        _check_spikes(plain, chain.seen, chain.modules[len(front)][0])
    return [(name, _flattening(module)) for name, module in front], plain


def _check_all_is_plain(front: list[Named]) -> None:
    """Raise ValueError for a module in front that plain data, which take (T, B, M), have no place for."""
    for name, module in front:
        if not isinstance(module, nn.Flatten):
            kind = f"{type(module).__module__}.{type(module).__qualname__}"
            raise ValueError(
                f"net: expected a sequential stack of HetSyn layers, Linear and Dropout; module {name!r} is a {kind}, "
                "which only networks of a framework keep in front: convert what comes behind it by itself"
            )


def _check_spikes(plain: Network, seen: dict[str, Seen], first: str) -> None:
    """Raise ValueError where a network does not do what its net was seen to do, in float64."""
    for name, (spikes, v) in plain.run(seen[first].inputs.numpy()).items():
        outputs = seen[name].outputs.numpy()
        same = np.array_equal(outputs, spikes) if spikes is not None else np.allclose(outputs, v, CLOSE, CLOSE)
        if not same:
            what = "spikes" if spikes is not None else "v"
            raise ValueError(
                f"net: expected {name!r} to give, from reset states, the {what} of the layer that it is, got others: "
                f"forward calls it otherwise, with a state or an option of its own; {WAY_OUT}"
            )


def _flattening(module: nn.Module) -> nn.Module:
    """The module as it is on (B, ...): Flatten may have been meant for (T, B, ...)."""
    return nn.Flatten() if isinstance(module, nn.Flatten) else module


def _folded(modules: list[Named]) -> list[Named]:
    """The modules, with batch norm behind a Linear in its weights, as it is when nobody trains."""
    folded: list[Named] = []
    for name, module in modules:
        before = folded[-1][1] if folded else None
        if isinstance(module, nn.BatchNorm1d) and isinstance(before, nn.Linear) and module.running_var is not None:
            fused = nn.utils.fusion.fuse_linear_bn_eval(copy.deepcopy(before).eval(), module.eval())
            folded[-1] = (folded[-1][0], fused)
        else:
            folded.append((name, module))
    return folded


def _plain(name: str, module: nn.Module) -> network.Layer | None:
    if hasattr(module, "to_fixed"):
        return adapter("lava_dl").plain_layer(name, module)
    if hasattr(module, "of_a_position"):
        return network.HetSynConv(_hetsyn_layer(name, module), Convolution(*module.convolution))
    if hasattr(module, "to_params"):
        return _hetsyn_layer(name, module)
    if isinstance(module, POOLS):
        return _pool(name, module)
    if isinstance(module, nn.Flatten):
        if module.start_dim not in (1, 2) or module.end_dim != -1:
            raise ValueError(f"net: module {name!r}: expected a Flatten of whole images, got {module}")
        return network.Flatten(name)
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


POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.MaxPool1d, nn.MaxPool2d)
USUAL = {  # options of pooling that plain data have no place for
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
    "dilation": (1,),
    "return_indices": False,
}


def _pool(name: str, module: Any) -> network.Pool:
    """Pooling as plain data; ValueError for options that these have no place for."""
    axes = 1 if isinstance(module, (nn.AvgPool1d, nn.MaxPool1d)) else 2
    for option, usual in USUAL.items():
        given: Any = getattr(module, option, usual)
        if given != usual and not (option == "dilation" and set(np.ravel(given)) == {1}):
            raise ValueError(f"net: module {name!r}: expected {option}={usual}, got {given}")
    kind = "average" if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d)) else "largest"
    names = ("kernel_size", "stride", "padding")
    return network.Pool(name, kind, *(checked_size(o, getattr(module, o), axes, o != "padding") for o in names))


def _hetsyn_layer(name: str, module: Any) -> network.HetSynLayer:
    why_not = getattr(module, "why_not_plain", None)
    if why_not is not None and (reason := why_not()) is not None:
        raise ValueError(f"net: module {name!r}, a {type(module).__name__}, cannot be carried over: {reason}")
    fields = fields_of(module)
    stored = {field: module.stored(field) for field in ARRAYS if field not in fields.tied}
    learned = {field for field, tensor in stored.items() if tensor is not None and tensor.requires_grad}
    trained = {} if fields.parametrization == "decay" else {f: stored[f] for f in DECAYS if stored.get(f) is not None}
    over_images = hasattr(module, "of_a_position")  # kernels are lines there
    return network.HetSynLayer(
        name,
        module.of_a_position() if over_images else module.to_params(),
        dt=fields.dt,
        share=fields.share,
        parametrization=fields.parametrization,
        tie_reset=fields.tie_reset,
        detach_reset=module.detach_reset,
        surrogate=module.surrogate,
        learned=frozenset(learned),
        stored={f: _array(t.flatten(1) if t.ndim > 2 else t) for f, t in trained.items() if t is not None},
        autapses=stored["recurrent_weight"] is None or getattr(module, "autapses", True),
        batch_first=getattr(module, "batch_first", False),
        codebook=fields.codebook(),
    )


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

    def timed(layer: network.Layer) -> network.Layer:
        if isinstance(layer, network.HetSynConv):
            neurons: Any = timed(layer.layer)
            return replace(layer, layer=neurons)
        return replace(layer, dt=dt) if isinstance(layer, network.HetSynLayer) and layer.dt is None else layer

    return Network(tuple(map(timed, plain.layers)))


def _build(layer: network.Layer, target: ModuleType) -> nn.Module:
    if isinstance(layer, network.HetSynLayer):
        return _build_hetsyn(layer, target)
    if isinstance(layer, network.HetSynConv):
        return _build_hetsyn(layer.layer, target, convolution=layer.convolution)
    if isinstance(layer, network.Pool):
        average, largest = {1: (nn.AvgPool1d, nn.MaxPool1d), 2: (nn.AvgPool2d, nn.MaxPool2d)}[len(layer.kernel_size)]
        return (average if layer.kind == "average" else largest)(layer.kernel_size, layer.stride, layer.padding)
    if isinstance(layer, network.Flatten):
        return nn.Flatten()
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


def _build_hetsyn(layer: network.HetSynLayer, target: ModuleType, **over_images: Any) -> nn.Module:
    module: Any = target.build_layer(layer, **over_images)
    if hasattr(module, "to_fixed"):  # a block, whose parts hold the fields
        target.carry_training(layer, module)
        return module
    if not layer.autapses and getattr(module, "autapses", True):
        raise ValueError(
            f"net: layer {layer.name!r} has autapses=False, which a {type(module).__name__} has no option for; "
            "dataclasses.replace(layer, autapses=True) in the Network of to='reference' lets the diagonal train"
        )
    fields = fields_of(module)
    with torch.no_grad():
        for field, array in layer.stored.items():
            stored = getattr(fields, fields.stored_name(field))
            stored.copy_(torch.tensor(np.array(array)).reshape(stored.shape))
        if layer.codebook is not None:
            fields.set_codebook(layer.codebook)
    for field in ARRAYS:
        stored = None if field in fields.tied else module.stored(field)
        if isinstance(stored, nn.Parameter):
            stored.requires_grad_(field in layer.learned)
    return module


def _array(tensor: Tensor) -> Array:
    """A NumPy copy; half types become float32, which is exact."""
    plain = tensor.detach().cpu()
    return np.array((plain.float() if plain.dtype in HALF else plain).numpy())
