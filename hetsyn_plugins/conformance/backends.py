"""Every way there is here to run the neuron, as backends of the conformance suite: NumPy in, NumPy out.

`available()` lists those that can run, and says of the others why they are absent.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from hetsyn_plugins.conformance.cases import Backend, Case, Outcome
from hetsyn_plugins.core import reference
from hetsyn_plugins.core.codebook import exact
from hetsyn_plugins.core.fields import ARRAYS, NUMBERS, SYNAPTIC, Array, HetSynState
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.reference import Gradients
from hetsyn_plugins.exchange import frameworks


def available() -> tuple[list[Backend], dict[str, str]]:
    """The backends that can run here, and name -> reason for those that cannot."""
    backend = partial(Backend, delays=True, masks=True)
    layers = partial(backend, codebooks=True, convolutions=True)
    backends = [
        backend("reference", lambda case: run_reference(case)),
        backend("eager", lambda case: run_op(case)),
        backend("eager-step", lambda case: run_op_stepwise(case, backend="eager")),
        backend("native-step", lambda case: run_op_stepwise(case, quantise=lambda state: state)),
    ]
    absent = {}
    from hetsyn_plugins.ops import dispatch

    why = dispatch.why_no_cpu_kernel()
    if why is None:
        backends += [
            backend("cpu-batch", lambda case: run_cpu(case, "BatchLanes")),
            backend("cpu-neuron", lambda case: run_cpu(case, "NeuronLanes")),
            backend("cpu-step", lambda case: run_op_stepwise(case, backend="cpu")),
        ]
    else:
        absent["cpu"] = why
    why = _why_no_gpu()
    if why is None:
        backends.append(backend("gpu", run_gpu, dtypes=(np.float32,), codebooks=True))
        backends.append(backend("gpu-step", run_gpu_stepwise, dtypes=(np.float32,)))
    else:
        absent["gpu"] = why
    absent |= {name: why for name in frameworks.CONVERTIBLE if (why := frameworks.why_not_installed(name))}
    if "snntorch" not in absent:
        backends += [
            layers("snntorch", lambda case: run_snntorch(case, sequence=True), z_from_v=True),
            layers("snntorch-step", lambda case: run_snntorch(case, sequence=False), z_from_v=True),
        ]
    if "norse" not in absent:
        backends += [
            layers("norse", lambda case: run_norse(case, sequence=True)),
            layers("norse-cell", lambda case: run_norse(case, sequence=False)),
        ]
    return backends, absent


# Every function finds the modules that it runs at each call: the tests put changed ones in their place.


def run_reference(case: Case) -> Outcome:
    """The judge itself, through the same door as the others."""
    from hetsyn_plugins.conformance import comparison

    return comparison.expected(case)


def run_op(case: Case, backend: str = "eager", device: str = "cpu") -> Outcome:
    """The fused op."""
    from hetsyn_plugins.ops import lif

    x, fields, state = _leaves(case, device)
    if case.params.spiking:
        options = {"surrogate": case.surrogate, "detach_reset": case.detach_reset, "backend": backend}
        options["max_delay"] = case.params.max_delay
        spikes, v, end = lif.hetsyn_lif(x, state=state, **fields, **options)
    else:
        readout = {name: fields[name] for name in ("weight", "decay", "bias", "delay", "mask")}
        spikes, (v, end) = (
            None,
            lif.hetsyn_li(x, state=state, max_delay=case.params.max_delay, **readout, backend=backend),
        )
    return _outcome(case, x, fields, state, spikes, v, end)


def run_cpu(case: Case, lanes: str) -> Outcome:
    """The cpu kernel with one of its two layouts, whatever it would choose itself."""
    from hetsyn_plugins.kernels.cpu import layout

    token = layout.ONLY.set(getattr(layout, lanes))
    try:
        return run_op(case, backend="cpu")
    finally:
        layout.ONLY.reset(token)


def _why_no_gpu() -> str | None:
    """None where there is a GPU and Triton, or Triton's interpreter (TRITON_INTERPRET=1)."""
    import torch

    from hetsyn_plugins.ops import dispatch

    if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
        return "no CUDA device (TRITON_INTERPRET=1 runs its kernels on the CPU, slowly)"
    return dispatch.why_no_gpu_kernel()


def run_gpu(case: Case) -> Outcome:
    """The gpu kernel; the tensors are moved there and back."""
    if case.codebook:
        return run_gpu_codebook(case)
    return run_op(case, backend="gpu", device=_gpu_device())


def run_gpu_codebook(case: Case) -> Outcome:
    """The gpu kernel, told which decays are shared, as layers tell it."""
    import torch

    from hetsyn_plugins.ops import lif
    from hetsyn_plugins.ops.arguments import ArgumentNames, checked_layer, checked_state, steps_kept
    from hetsyn_plugins.ops.codebook import shared

    x, fields, state = _leaves(case, _gpu_device())
    p = case.params.expanded()
    book, *indices = exact(p.decay, p.recurrent_decay, p.decay.dtype)
    decays = torch.from_numpy(book).to(x.device).requires_grad_(x.requires_grad)
    known: dict[str, Any] = {"codebook": decays.detach()}
    for name, index in zip(SYNAPTIC, indices, strict=True):
        if index is not None:
            known[f"{name}_index"] = torch.from_numpy(index).to(x.device)
            fields[name] = shared(decays, known[f"{name}_index"])
    names = ArgumentNames({})
    layer = checked_layer(fields, p.spiking, None, names)
    layer = layer if layer.is_masked else layer._replace(**known)  # as `HetSynModule.layer_tensors`
    initial = checked_state(state, layer, x.shape[1], names, steps_kept(p.max_delay, layer, state, names))
    way = lif.Way(case.surrogate, case.detach_reset, "gpu")
    spikes, v, end = lif.run_sequence(x, layer, initial, way)
    return _outcome(case, x, {**fields, "decay": decays, "recurrent_decay": None}, state, spikes, v, end)


def run_gpu_stepwise(case: Case) -> Outcome:
    """The one-step form on a GPU."""
    return run_op_stepwise(case, device=_gpu_device(), backend="gpu")


def _gpu_device() -> str:
    return "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def run_op_stepwise(case: Case, device: str = "cpu", **options: Any) -> Outcome:
    """The one-step form in a loop over time; with `quantise`, in torch's own operations, as under torch.compile."""
    import torch

    from hetsyn_plugins.ops import lif

    x, fields, state = _leaves(case, device)
    options |= {"surrogate": case.surrogate, "detach_reset": case.detach_reset, "spiking": case.params.spiking}
    options["max_delay"] = case.params.max_delay
    end = state if state is not None else _tensors(reference.zero_state(case.params, x.shape[1]), x, False)
    steps = []
    for x_t in x.unbind(0):
        end = lif.hetsyn_lif_step(x_t, state=end, **fields, **options)
        steps.append(end)
    if not steps:
        empty = torch.zeros((0, x.shape[1], len(case.params.weight)), dtype=x.dtype)
        return _outcome(case, x, fields, state, empty.clone() if case.params.spiking else None, empty, end)
    spikes = torch.stack([s.spikes for s in steps]) if case.params.spiking else None
    return _outcome(case, x, fields, state, spikes, torch.stack([s.v for s in steps]), end)


def run_snntorch(case: Case, sequence: bool) -> Outcome:
    """The snnTorch layers: the whole sequence in one call, or their one-step idiom with explicit states."""
    import torch

    if case.convolution is not None:
        return run_convolution(case, "snntorch", sequence)
    adapter = frameworks.adapter("snntorch")
    p, recurrent = case.params, case.params.recurrent_weight is not None
    layer = (adapter.RHetSynLeaky if recurrent else adapter.HetSynLeaky).from_params(
        p,
        share=_share(case),
        spike_grad=case.surrogate,
        detach_reset=case.detach_reset,
        learn_beta=True,
        learn_threshold=True,
        learn_adaptation=True,
    )
    x, _, state = _leaves(case)
    order = ["spikes"] * recurrent + ["current"] + ["recurrent_current"] * recurrent + ["reset"]
    order += ["adaptation"] * (p.adaptation_decay is not None)
    order += ["past_inputs"] * (p.delay is not None) + ["past_spikes"] * (p.recurrent_delay is not None) + ["v"]
    # a layer without reset still has its place in the tuple: zeros
    placeholder = x.new_zeros((x.shape[1], len(p.weight)))
    parts = [] if state is None else [getattr(state, name) for name in order]
    states = [placeholder if part is None else part for part in parts]

    def last(spikes: Any, *others: Any) -> HetSynState:
        values = dict(zip(order, ([spikes] if recurrent else []) + list(others), strict=True)) | {"spikes": spikes}
        kept = {k: t for k, t in values.items() if not (k == "reset" and p.reset_decay is None)}
        return HetSynState(**{**kept, "spikes": spikes if p.spiking else None})

    if sequence or len(x) == 0:
        spikes, *others, v = layer(x, *states)
        end = last(spikes[-1], *others, v[-1]) if len(x) else state or last(placeholder, *others, placeholder)
    else:
        steps, current = [], states
        for x_t in x.unbind(0):
            out = layer(x_t, *current)
            steps.append(out)
            current = list(out) if recurrent else list(out[1:])
        spikes, v = torch.stack([s[0] for s in steps]), torch.stack([s[-1] for s in steps])
        end = last(out[0], *out[1:])
    return _outcome(case, x, _stored(layer, p), state, spikes if p.spiking else None, v, end)


# long: what the parts of a state are called, and two ways to run
def run_norse(case: Case, sequence: bool) -> Outcome:
    """The Norse modules: the sequence ones, or the cells in a loop over time."""
    import torch

    if case.convolution is not None:
        return run_convolution(case, "norse", sequence)
    adapter = frameworks.adapter("norse")
    p = case.params
    spiking_kind = "HetSynLIF" if p.recurrent_weight is None else "HetSynLIFRecurrent"
    kind = spiking_kind if p.spiking else "HetSynLI"
    layer = getattr(adapter, kind if sequence else f"{kind}Cell").from_params(
        p,
        share=_share(case),
        method=case.surrogate,
        detach_reset=case.detach_reset,
        learn_reset=True,
        learn_threshold=True,
        learn_adaptation=True,
    )
    x, _, first = _leaves(case)
    # by the names that users read, not by the adapter's own way from state to state
    names = {"z": "spikes", "v": "v", "i": "current", "i_rec": "recurrent_current"}
    names |= {"i_reset": "reset", "i_adapt": "adaptation", "past_input": "past_inputs", "past_z": "past_spikes"}
    parts = {n: names[n] for n in layer.state_class._fields}
    lacks = {"reset": p.reset_decay is None, "adaptation": p.adaptation_decay is None}
    lacks |= {"past_inputs": p.delay is None, "past_spikes": p.recurrent_delay is None}
    state = None
    if first is not None:
        values = {n: getattr(first, part) for n, part in parts.items()}
        of_no_step = first.v.new_zeros((0, *first.v.shape))
        lacking = {n: of_no_step if n.startswith("past_") else torch.zeros_like(first.v) for n in values}
        state = layer.state_class(**{n: lacking[n] if a is None else a for n, a in values.items()})
    if sequence:
        out, out_v, end = layer.sequence(x, state)
        out = out_v if out is None else out
    else:
        outs, end = [], layer.initial_state(x[0]) if len(x) and state is None else state
        for x_t in x.unbind(0):
            out, end = layer(x_t, end)
            outs.append((out, end.v))
        if not outs:
            return run_norse(case, sequence=True)
        out = torch.stack([o for o, _ in outs])
    core = HetSynState(**{part: None if lacks.get(part) else getattr(end, n) for n, part in parts.items()})
    if not p.spiking:
        return _outcome(case, x, _stored(layer, p), first, None, out, core)
    v = out_v if sequence else torch.stack([v for _, v in outs])
    return _outcome(case, x, _stored(layer, p), first, out, v, core)


def run_convolution(case: Case, host: str, sequence: bool) -> Outcome:
    """The layers over images of both hosts, from zeros: the whole sequence in one call, or a step a call."""
    import torch

    over, (build, call, parts_of) = case.convolution, CONVOLUTIONS[host]
    x, _, _ = _leaves(case)
    layer, images, state = build(case, sequence), x.unflatten(2, over.images), None
    outs = []
    for part in (images,) if sequence else images:
        *out, state = call(layer, part, state)
        outs.append(out)
    spikes, v = outs[0] if sequence else map(torch.stack, zip(*outs, strict=True))
    end = HetSynState(**parts_of(case, state), spikes=spikes[-1], v=v[-1])
    outcome = _outcome(case, x, _stored(layer, case.params), None, spikes.flatten(2), v.flatten(2), end)
    return replace(outcome, state=over.dense_state(outcome.state))


def _snntorch_convolution(case: Case, sequence: bool) -> Any:
    adapter, convolution = frameworks.adapter("snntorch"), case.convolution.convolution
    fields = {adapter.FIELD_NAMES[name]: value for name, value in _kernels(case).items()}
    learned = {"learn_beta": True, "learn_threshold": True, "learn_adaptation": True}
    options = {"spike_grad": case.surrogate, "max_delay": case.params.max_delay or None}
    return getattr(adapter, f"HetSynConv{convolution.axes}d")(*convolution, **fields, **learned, **options)


def _snntorch_call(layer: Any, images: Any, state: Any) -> Any:
    """Spikes, v, and what the next call gets."""
    spikes, *state = layer(images, *(state or ()))
    return spikes, state[-1], state


def _snntorch_parts(case: Case, state: Any) -> dict[str, Any]:
    names = ["current", "reset", "adaptation"] + ["past_inputs"] * (case.params.delay is not None)
    return dict(zip(names, state[:-1], strict=True))


def _norse_convolution(case: Case, sequence: bool) -> Any:
    adapter, convolution = frameworks.adapter("norse"), case.convolution.convolution
    dt, fields = 1e-3, _kernels(case)
    names = {"decay": "tau_syn_inv", "reset_decay": "tau_reset_inv", "adaptation_decay": "tau_adapt_inv"}
    taus = {name: -fields.pop(field).log() / dt for field, name in names.items()}
    weight, options = fields.pop("weight"), {"method": case.surrogate, "max_delay": case.params.max_delay or None}
    learned = {"learn_reset": True, "learn_threshold": True, "learn_adaptation": True, "dtype": weight.dtype}
    others = {adapter.HetSynLIFParameters.names[name]: value for name, value in fields.items()}
    p = adapter.HetSynLIFParameters(**taus, **others, **options, **learned)
    kind = f"HetSynConv{convolution.axes}d{'' if sequence else 'Cell'}"
    return getattr(adapter, kind)(*convolution, p=p, dt=dt, input_weights=weight)


def _norse_call(layer: Any, images: Any, state: Any) -> Any:
    """Spikes, v, and the state."""
    if hasattr(layer, "record_states"):
        return layer.sequence(images, state)
    spikes, state = layer(images, state)
    return spikes, state.v, state


def _norse_parts(case: Case, state: Any) -> dict[str, Any]:
    names = {"i": "current", "i_reset": "reset", "i_adapt": "adaptation", "past_input": "past_inputs"}
    return {names[name]: getattr(state, name) for name in state._fields if name in names}


CONVOLUTIONS = {
    "snntorch": (_snntorch_convolution, _snntorch_call, _snntorch_parts),
    "norse": (_norse_convolution, _norse_call, _norse_parts),
}


def _kernels(case: Case) -> dict[str, Any]:
    """The fields of the convolution that the case's dense layer unrolls, as tensors; only those that there are."""
    import torch

    arrays = {name: case.convolution.field(name, getattr(case.params, name)) for name in ARRAYS}
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items() if array is not None}


def _share(case: Case) -> str | None:
    """What synapses share; None: what keeps the shapes of the parameters."""
    return "codebook" if case.codebook else None


def _stored(fields: Any, params: HetSynParams) -> dict[str, Any]:
    """What a layer trains, by core field; None where it has no such field."""
    return {name: fields.stored(name) for name in ARRAYS}


def _leaves(case: Case, device: str = "cpu") -> tuple[Any, dict[str, Any], HetSynState | None]:
    """Inputs, fields and state as tensors that collect gradients where the case asks for them."""
    needs_grad = case.output_gradients is not None
    x = _shared(case.inputs, device).requires_grad_(needs_grad)
    arrays = {name: getattr(case.params, name) for name in ARRAYS}
    fields = {k: None if a is None else _shared(a, device) for k, a in arrays.items()}
    for name in NUMBERS:
        if (field := fields[name]) is not None:
            field.requires_grad_(needs_grad)
    through_state = case.output_gradients is not None and case.output_gradients.state is not None
    return x, fields, None if case.state is None else _tensors(case.state, x, through_state)


def _shared(array: Any, device: Any = "cpu") -> Any:
    """A tensor on the memory of the array, where it can be: so a strided view stays strided, and a check sees whether
    it was written to.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of arrays that are read-only: just what nobody may do
        return torch.from_numpy(array).to(device)


def _tensors(state: HetSynState, like: Any, needs_grad: bool) -> HetSynState:
    def tensor(a: Array | None) -> Any:
        return None if a is None else _shared(a).to(like).requires_grad_(needs_grad)

    return HetSynState(*map(tensor, state))


def _outcome(
    case: Case, x: Any, fields: Mapping[str, Any], state: HetSynState | None, spikes: Any, v: Any, end: HetSynState
) -> Outcome:
    """Back to NumPy, after the backward pass from the case's gradients of the outputs."""
    plain = Outcome(_numpy(spikes), _numpy(v), HetSynState(*map(_numpy, end)))
    if case.output_gradients is None:
        return plain
    backpropagate(case, spikes, v, end)
    of_fields = {name: None if field is None else _numpy(field.grad) for name, field in fields.items()}
    as_stored = SYNAPTIC if case.codebook else ()
    as_stored = as_stored if case.convolution is None else ARRAYS
    params = {
        name: g if name in as_stored else _in_shape(g, getattr(case.params, name)) for name, g in of_fields.items()
    }
    first = HetSynState(*(None if s is None else _numpy(s.grad) for s in state or HetSynState(None)))
    return Outcome(plain.spikes, plain.v, plain.state, Gradients(_numpy(x.grad), params, first))


def _in_shape(gradient: Array | None, field: Array | None) -> Array | None:
    """A layer's gradient in the shape of the field: layers write (N, 1) as (N,), and (1, M) out."""
    if gradient is None or field is None or gradient.shape == field.shape:
        return gradient
    return gradient.reshape(field.shape) if gradient.size == field.size else gradient.sum(0, keepdims=True)


def backpropagate(case: Case, spikes: Any, v: Any, end: HetSynState) -> None:
    """The backward pass from the case's gradients of the outputs, handed over as they are: see `_shared`."""
    import torch

    gradients = case.output_gradients
    assert gradients is not None
    pairs = [(spikes, gradients.spikes), (v, gradients.v), *zip(end, gradients.state or HetSynState(None), strict=True)]
    pairs = [(out, g) for out, g in pairs if out is not None and g is not None and out.requires_grad]
    if pairs:
        torch.autograd.backward([out for out, _ in pairs], [_shared(g).to(out) for out, g in pairs])


def _numpy(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach().cpu().numpy().copy()
