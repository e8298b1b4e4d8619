"""What comes as an input and no kernel can take: named at the door, each with its way out.

Three kinds: tracers, which want to see the operations of a call (jit, ONNX, TensorBoard's graph, torch.fx, export),
inputs that are no plain tensor, and plain ones in another library's layout. Unknown here, they would end in a message
of numba, NumPy or of torch's insides.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._guards import TracingContext
from torch.fx import Proxy
from torch.fx.experimental.proxy_tensor import get_innermost_proxy_mode
from torch.nn.utils.rnn import PackedSequence

IS_EXPORTING: Any = getattr(torch.compiler, "is_exporting", None)  # torch 2.7

NO_TRACE = (
    "HetSyn layers cannot be traced yet (torch.jit.trace, ONNX, TensorBoard's add_graph, torch.fx, make_fx, "
    "torch.export): their loop over time is a compiled kernel; call the layer as it is, keep it with "
    "hetsyn_plugins.checkpoint.save, write it for other runtimes with hetsyn_plugins.onnx.write or nir.write, speed up "
    "what is around it with torch.compile, which breaks its graph there"
)
NO_SCRIPT = (
    "HetSyn layers cannot be scripted (torch.jit.script): their loop over time is a compiled kernel; call the layer as "
    "it is, keep it with hetsyn_plugins.checkpoint.save"
)
NO_TRANSFORMATION = (
    "HetSyn layers: expected no gradient of torch.func (grad, vjp, jacrev) in what torch.compile compiles, and vmap "
    "only where parameters need none (torch.no_grad), got {}: torch cannot trace the gradients of operators there; "
    "call it without torch.compile"
)
PACKED = (
    "; pad it: x, lengths = torch.nn.utils.rnn.pad_packed_sequence(packed) gives (T, B, M), and layer(x, "
    "lengths=lengths) takes it; zeros after a sequence's end change nothing before it"
)
NESTED = "; pad it: torch.nested.to_padded_tensor(x, 0.0).transpose(0, 1) is (T, B, M), zeros after each sequence's end"


def plain_tensor(inputs: Any, name: str, tuple_hint: str) -> Tensor:
    """The inputs, where they are a tensor whose memory holds its values; ValueError with the way out for all others.

    tuple_hint  what to do where a tuple comes, with ";" before it

    Raises RuntimeError where the call is traced instead of run.
    """
    compiling = torch.compiler.is_compiling()  # there inputs are plain tensors, and what is asked here has no graph
    if not compiling:
        refuse_tracers(inputs)
    if not isinstance(inputs, Tensor):
        raise ValueError(f"{name}: expected a torch tensor, got {type(inputs).__name__}{_way_out(inputs, tuple_hint)}")
    if compiling:
        return inputs
    if inputs.is_nested:
        raise ValueError(f"{name}: expected a torch tensor of one shape, got a nested tensor{NESTED}")
    check_layout(inputs, name)
    if inputs.is_quantized:
        raise ValueError(f"{name}: expected a tensor of numbers, got a quantised one; call .dequantize() on it")
    if type(inputs) in (Tensor, nn.Parameter):
        return usable(inputs)
    if type(inputs).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        kind = type(inputs).__name__
        raise ValueError(f"{name}: expected a plain torch tensor, got {kind}, which wraps one; give its values")
    return usable(inputs.as_subclass(Tensor))


def refuse_tracers(inputs: Any) -> None:
    """Raise RuntimeError where the call is recorded instead of run; not for what is compiling."""
    is_tracer = isinstance(inputs, Proxy) or type(inputs).__name__ == "FakeTensor"
    if is_tracer or torch.jit.is_tracing() or get_innermost_proxy_mode() is not None:
        raise RuntimeError(NO_TRACE)


@torch.compiler.assume_constant_result
def refuse_export() -> None:
    """Raise where the call becomes part of a program that is exported; for layers to ask first, while compiling.

    Dynamo does not trace this function, but calls it while it traces (torch.export in strict mode), and what it raises
    for a user to read is its own `Unsupported`, a RuntimeError. Before torch 2.7 an export cannot be told from other
    tracing: under torch.compile the graph breaks here then, and is refused with fullgraph=True.
    """
    if torch.compiler.is_dynamo_compiling():  # it does trace it, by itself, behind such a break
        return
    if IS_EXPORTING is None:
        is_export = torch.compiler.is_compiling() or TracingContext.try_get() is not None
    else:
        is_export = IS_EXPORTING()
    if is_export:
        raise torch._dynamo.exc.Unsupported(NO_TRACE)


def is_exporting() -> bool:
    """Is this call becoming part of a program that is exported? Before torch 2.7 known of export's own tracing only."""
    if IS_EXPORTING is None:
        return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return bool(IS_EXPORTING())


@torch.compiler.assume_constant_result
def refuse_in_graph(message: str) -> None:
    """Refuse what no graph can hold: with fullgraph=True an error, else the graph breaks here, and this does nothing.

    Dynamo calls it as in `refuse_export`, while it traces.
    """
    if TracingContext.try_get() is not None:
        raise torch._dynamo.exc.Unsupported(message)


@torch.compiler.assume_constant_result
def refuse_transformations(needs_grad: bool) -> None:
    """Refuse a call in a graph whose gradients torch.func has to have: an error with and without fullgraph=True.

    needs_grad  does what is called have gradients of its own? No vmap goes around that in a graph

    Dynamo calls it as in `refuse_export`, while it traces; a break of the graph would be inside the transformation.
    """
    if torch.compiler.is_dynamo_compiling():  # it does trace it, by itself, behind a break
        return
    stack: Any = torch._C._functorch.get_interpreter_stack()
    around = [name for one in stack or () if (name := one.key().name) in ("Vmap", "Grad", "Jvp")]
    if "Grad" in around or (needs_grad and around):
        raise torch._dynamo.exc.TorchRuntimeError(NO_TRANSFORMATION.format(", ".join(around)))


@torch.compiler.disable
def outside_of_graph(call: Any, *arguments: Any, **named: Any) -> Any:
    """A call that is run as it is, behind a clean break of the graph."""
    return call(*arguments, **named)


def check_layout(t: Tensor, name: str) -> None:
    """Raise ValueError for a sparse tensor and its like."""
    if t.layout != torch.strided:
        layout = str(t.layout).removeprefix("torch.").lstrip("_")
        raise ValueError(f"{name}: expected a dense tensor, got one of layout {layout}; call .to_dense() on it")


def usable(t: Tensor) -> Tensor:
    """A tensor that training can use: one made in inference mode is copied where that is over."""
    if torch.compiler.is_compiling() or not t.is_inference() or torch.is_inference_mode_enabled():
        return t
    return t.clone()


def _way_out(inputs: Any, tuple_hint: str) -> str:
    if isinstance(inputs, PackedSequence):
        return PACKED
    if isinstance(inputs, tuple):
        return tuple_hint
    if isinstance(inputs, np.ndarray):
        return "; torch.as_tensor(x) makes one"
    if isinstance(inputs, list):
        return "; torch.stack(x) makes one of a list of tensors, torch.tensor(x) of numbers"
    return ""


def shape_hint(shape: tuple[int, ...], m: int, first: str, ranks: tuple[int, ...]) -> str:
    """What to do with inputs of a shape that does not fit, where it looks like a known one; with ";" before it.

    m       lines of the layer
    first   "T, B" or "B, T", how it takes sequences
    ranks   2 where it takes single steps, 3 where it takes sequences
    """
    if shape == (m,) and 2 in ranks:
        return "; one row: x.unsqueeze(0)"
    if len(shape) == 2 and shape[1] == m:
        return "; one step of a sequence: x.unsqueeze(0)" if first == "T, B" else "; one step: x.unsqueeze(1)"
    if len(shape) == 3 and shape[2] == m:
        return "; a step is x[t]: loop over them, or take a layer for sequences"
    for kept in (1, 2):  # axes before those of an image
        if kept + 1 in ranks and len(shape) > kept + 1 and prod(shape[kept:]) == m:
            return f"; x.flatten({kept}) is {'(B' if kept == 1 else '(' + first}, {m})"
    if len(shape) == 3 and 3 in ranks and shape[1] == m:
        return f"; this looks like (B, {m}, T): x.{'permute(2, 0, 1)' if first == 'T, B' else 'transpose(1, 2)'}"
    if len(shape) == 2 and m == 1 and 3 in ranks:
        return f"; if these are ({first}), of one line: x.unsqueeze(-1)"
    return ""
