"""HetSynLIF as snnTorch neurons, in its own idiom: `HetSynLeaky`, `RHetSynLeaky`, `HetSynConv1d`, `HetSynConv2d`.

Importing this changes nothing in snnTorch. From the first layer on `snntorch.utils.reset` and `snntorch.backprop` see
ours (`snntorch_host`); `hetsyn_plugins.register("snntorch")` makes them `snn.HetSynLeaky` besides. The equations are
the core's: one step is `ops.lif.run_step`, a whole sequence `ops.lif.run_sequence`.
"""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import snntorch
import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn

from hetsyn_plugins.adapters import snntorch_host
from hetsyn_plugins.adapters.snntorch_host import reset as reset
from hetsyn_plugins.core.autograd import backward_pass, transforming
from hetsyn_plugins.core.convolution import Convolution
from hetsyn_plugins.core.fields import DECAYS, DELAYS, MASKS, HetSynState
from hetsyn_plugins.core.network import HetSynLayer
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.surrogate import Arctan, Foreign, NoGradient, Surrogate, resolve
from hetsyn_plugins.core.validation import checked_size, describe_values
from hetsyn_plugins.kernels.interface import LayerTensors
from hetsyn_plugins.ops.arguments import HALF, ArgumentNames, Caller, compute_dtype
from hetsyn_plugins.ops.convolving import Convolving, in_shape, signature
from hetsyn_plugins.ops.dispatch import check_backend
from hetsyn_plugins.ops.foreign_inputs import is_exporting, outside_of_graph, usable
from hetsyn_plugins.ops.layer import HetSynModule, learned_options, options_from_params, span
from hetsyn_plugins.ops.lengths import at_end, checked_lengths
from hetsyn_plugins.ops.lif import Way
from hetsyn_plugins.ops.rates import watch_rates
from hetsyn_plugins.ops.trainable import TrainableFields, start_max_delay, start_weight

FIELD_NAMES = {
    "weight": "weight",
    "decay": "alpha",
    "reset_decay": "beta",
    "threshold": "threshold",
    "bias": "bias",
    "recurrent_weight": "rec_weight",
    "recurrent_decay": "rec_alpha",
    "adaptation_decay": "adaptation_decay",
    "adaptation_strength": "adaptation_strength",
    "delay": "delay",
    "recurrent_delay": "rec_delay",
    "mask": "mask",
    "recurrent_mask": "rec_mask",
}
STATES = {
    "state.current": "syn",
    "state.recurrent_current": "rec",
    "state.reset": "rst",
    "state.adaptation": "ada",
    "state.v": "mem",
    "state.past_inputs": "past",
    "state.past_spikes": "past_spk",
}


def caller_of(spikes: str) -> Caller:
    """How a layer speaks of its arguments; `spikes` is the state that z[t-1] comes from."""
    names = ArgumentNames({**FIELD_NAMES, **STATES, "inputs": "input_", "state.spikes": spikes})
    hint = "; inside a Sequential every layer but the last needs init_hidden=True"
    return Caller(names, {2: "(B, {m})", 3: "({first}, {m})"}, "{} like the layer,", "layer", hint)


class RecurrentOptions(NamedTuple):
    """What RHetSynLeaky has beside HetSynLeaky's arguments."""

    weight: Any = None
    alpha: Any = None
    learn_alpha: bool = False
    delay: Any = None
    learn_delay: bool = False
    mask: Any = None


Run = tuple[Tensor, Tensor, HetSynState]  # spk, ungraded, and mem of every step, and the state after the last


class HetSynLeaky(TrainableFields, HetSynModule, SpikingNeuron):
    """A layer of HetSynLIF neurons with its own weights: every synapse has its own decay alpha (Deng et al. 2025).

    v[t] = sum_j I_ij[t] - rst_i[t] (- ada_i[t]) (+ b_i), I_ij[t] = alpha_ij I_ij[t-1] + w_ij x_j[t],
    rst_i[t] = beta rst_i[t-1] + threshold z_i[t-1]; a spike where v > threshold. Unlike a stock Leaky's, the reset path
    carries gradient, as in the paper's code, and the default surrogate is the paper's: `detach_reset=True` and the same
    spike_grad give a stock neuron's gradients.

    Example:
        >>> lif = HetSynLeaky(784, 128, init_hidden=True)
        >>> spk = lif(torch.rand(25, 32, 784))      # the whole sequence (T, B, M), fused
        >>> spk.shape
        torch.Size([25, 32, 128])

    in_features, out_features  M and N
    alpha        synaptic decays in [0, 1]: a number, an array or tensor, or an initialiser (NormalTau, ...)
    beta         reset decay, () or (N,); with tie_reset it is the alpha tensor and the value given here is not used
    reset_mechanism  "subtract", or "none": it still spikes, and is not reset ("zero" has no meaning for currents)
    spiking      False: the leaky readout; spk is all zeros in tuples, init_hidden without output returns mem
    weight       (N, M), or an initialiser (FluctuationDriven); None: N(0, 1 / M), as in the paper
    input_rate   spikes an input line and step: weight=FluctuationDriven(input_rate), with which the layer fires at
                 first; 0.05 behind a layer that was made so
    graded_spikes_factor   () or (N,): what a spike is in the output; reset and recurrence see z = 1
    surrogate_disable      no gradient through spikes
    state_quant            applied to every current and to mem; a stock Leaky, whose one state it is applied to, has the
                           same values where there is one input and no reset
    delay        steps from an input to the synapse, >= 0, whole or not, in the shapes of alpha: a number, an array, or
                 a function (shape, generator) -> array; None: none. Trained where learn_delay
    max_delay    no delay becomes longer; as many inputs are kept from step to step, as the state **past**; None: as
                 the longest delay asks for
    mask         (N, M) booleans, 0 and 1, or a sparse tensor: which synapses there are; None: all. A buffer, which may
                 be replaced, `layer.mask = ...`, between sequences; weights that are drawn are so for these inputs
    share, clusters, reassign, parametrization, tie_reset, dt   see `hetsyn_plugins.ops.trainable`
    detach_reset, backend, check            see `hetsyn_plugins.ops.hetsyn_lif`
    batch_first            sequences are (B, T, M) in and (B, T, N) out, as in torch.nn.RNN; single steps and all other
                           states stay as they are, so continue with mem[:, -1]. snnTorch's functional losses want
                           (T, B, N): spk.transpose(0, 1)

    Inputs: input_, syn, rst, (ada,) mem
        - **input_** (B, in_features), one step, or (T, B, in_features), the whole sequence at once (between layers that
          do not care about time: HetSyn, Linear, Dropout). A stock neuron in the same nn.Sequential, or in one inside
          it, would take (T, B, N) as one step: ValueError. Not seen are: what a forward of your own hands from layer to
          layer; anything under torch.compile; a layer that came by Sequential.insert, or into an inner Sequential
          after that was put into the outer one. Nor can a layer see (B, T, M) that came without batch_first=True:
          labels (B,) beside it show it, unless B = T
        - **syn** (B, out_features, in_features), **rst**, **ada**, **mem** (B, out_features), with delays
          **past** (max_delay, B, in_features) in front of mem; left out: zeros
    Outputs: spk, syn, rst, (ada,) mem
        - for one step (B, out_features); for a sequence spk and mem are (T, B, out_features), the other states those
          after the last step: continue with mem[-1]
    Learnable Parameters: weight (N, M), alpha (as `share` says), and beta, threshold, bias where learned.

    Memory: neither form keeps syn, B * N * M numbers, for the backward pass. Steps that go on from states as they were
    returned are one loop; a syn that was replaced or written to in between is kept.
    """

    names = FIELD_NAMES
    recurrent = False
    _caller = caller_of("mem")

    @torch.inference_mode(False)  # or what is made in inference mode could never be trained
    def __init__(  # long for its arguments, which are the host's idiom: every one is seen in a signature
        self,
        in_features: int,
        out_features: int,
        alpha: Any = 0.9,
        beta: Any = 0.9,
        threshold: Any = 1.0,
        spike_grad: Any = None,
        init_hidden: bool = False,
        learn_alpha: bool = True,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        output: bool = False,
        bias: Any = False,
        adaptation_decay: Any = None,
        adaptation_strength: Any = None,
        spiking: bool = True,
        *,
        surrogate_disable: bool = False,
        inhibition: bool = False,
        state_quant: Callable[[Tensor], Tensor] | bool = False,
        graded_spikes_factor: Any = 1.0,
        learn_graded_spikes_factor: bool = False,
        reset_delay: bool = True,
        learn_adaptation: bool = False,
        weight: Any = None,
        input_rate: float | None = None,
        delay: Any = None,
        max_delay: int | None = None,
        learn_delay: bool = True,
        mask: Any = None,
        share: str = "synapse",
        clusters: int | None = None,
        reassign: bool = False,
        parametrization: str = "decay",
        tie_reset: bool = False,
        detach_reset: bool = False,
        dt: float | None = None,
        backend: str = "auto",
        check: bool | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        _recurrent: RecurrentOptions | None = None,  # RHetSynLeaky's
    ) -> None:
        _check_reset(reset_mechanism, reset_delay)
        check_backend(backend)
        of_recurrence = _recurrent or RecurrentOptions()
        n, m = checked_size("out_features", out_features), checked_size("in_features", in_features)
        fields = {
            "weight": start_weight(weight, input_rate, "weight"),
            "decay": alpha,
            "reset_decay": beta if spiking and reset_mechanism == "subtract" else None,
            "threshold": threshold,
            "bias": [0.0] * n if bias is True else bias,
            "recurrent_weight": of_recurrence.weight,
            "recurrent_decay": of_recurrence.alpha,
            "adaptation_decay": adaptation_decay,
            "adaptation_strength": adaptation_strength,
            "delay": delay,
            "recurrent_delay": of_recurrence.delay,
            "mask": mask,
            "recurrent_mask": of_recurrence.mask,
        }
        if bias is False:
            fields["bias"] = None
        start: dict[str, Any] = self.start_values(
            fields,
            sizes=(n, m),
            spiking=spiking,
            share=share,
            names=self._caller.names,
            dtype=dtype,
            device=device,
            tie_reset=tie_reset,
            dt=dt,
            clusters=clusters,
        )
        SpikingNeuron.__init__(
            self,
            threshold=1.0,
            spike_grad=resolve(spike_grad, "spike_grad"),
            surrogate_disable=False,
            init_hidden=init_hidden,
            inhibition=inhibition,
            reset_mechanism=reset_mechanism,
            state_quant=state_quant,
            output=output,
            graded_spikes_factor=_start_factor(graded_spikes_factor, start["weight"]),
            learn_graded_spikes_factor=learn_graded_spikes_factor,
        )
        SpikingNeuron.instances.remove(self)  # a strong list would keep every layer ever made alive
        snntorch_host.see(self)
        del self.threshold  # a field of ours
        options: dict[str, Any] = {"share": share, "clusters": clusters, "reassign": reassign}
        self.set_options(**options, parametrization=parametrization, tie_reset=tie_reset, dt=dt)
        self.in_features, self.out_features, self.spiking = m, n, spiking
        self.max_delay = start_max_delay(max_delay, start, self._caller.names)
        self.has_delays = any(start[field] is not None for field in DELAYS)
        self.surrogate, self.surrogate_disable = self.spike_grad, surrogate_disable
        self.detach_reset, self.backend, self.check, self.batch_first = detach_reset, backend, check, batch_first
        if isinstance(self.surrogate, Foreign) and fields["reset_decay"] is not None and not detach_reset:
            snntorch_host.check_surrogate(self.surrogate)
        learn = {
            "decay": learn_alpha,
            "reset_decay": learn_beta,
            "threshold": learn_threshold,
            "recurrent_decay": of_recurrence.learn_alpha,
            "adaptation_decay": learn_adaptation,
            "adaptation_strength": learn_adaptation,
            "delay": learn_delay,
            "recurrent_delay": of_recurrence.learn_delay,
        }
        self.add_fields(start, learn)
        spk, rec = (("spk",), ("rec",)) if self.recurrent else ((), ())
        ada = () if start["adaptation_decay"] is None else ("ada",)
        past = () if start["delay"] is None else ("past",)
        past_spk = () if start["recurrent_delay"] is None else ("past_spk",)
        self._states: tuple[str, ...] = (*spk, "syn", *rec, "rst", *ada, *past, *past_spk, "mem")
        self._clear()

    # ---- states: plain attributes, since buffers would be broadcast by DistributedDataParallel ----

    def _clear(self) -> None:
        for name in ("spk", "syn", "rec", "rst", "ada", "past", "past_spk", "mem"):
            self.__dict__[name] = torch.zeros(0)
        self._is_zero = True  # known without a look at the states
        self._left_in = -1  # the backward pass in which they were computed: a checkpoint's recomputation

    def __getattr__(self, name: str) -> Any:
        # snntorch.functional.probe calls this by name, also for plain attributes
        if name in self.__dict__:
            return self.__dict__[name]
        if name.startswith("init_") and name != "init_hidden":
            line = f"{', '.join(self._states)} = layer.reset_mem()"
            raise AttributeError(f"{type(self).__name__} has no {name}; its states of zeros come from {line}")
        return super().__getattr__(name)

    def _one_call(self) -> str:
        """How one step is called, for messages."""
        states = ", ".join(self._states)
        return f"{'' if self.recurrent else 'spk, '}{states} = layer(x, {states})"

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_states", ()):
            self.__dict__["_is_zero"] = False
        super().__setattr__(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        snntorch_host.see(self)

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()
        replica._clear()  # the states are those of the whole batch, and this layer's
        return replica

    @property
    def reset_mechanism(self) -> str:
        """ "subtract" or "none"; which fields the layer has depends on it, so it is fixed."""
        return self._reset_mechanism

    @reset_mechanism.setter
    def reset_mechanism(self, value: str) -> None:
        if value != self._reset_mechanism:
            built = self._reset_mechanism
            raise ValueError(f"reset_mechanism: expected {built!r}, as the layer was built, got {value!r}")

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = self.weight.device, self.weight.dtype
        super()._apply(fn, recurse)
        if before != (self.weight.device, self.weight.dtype):
            self._clear()
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        errors: list[str] = args[-1]
        try:
            _check_factor(state_dict.get(f"{prefix}graded_spikes_factor"))
        except ValueError as error:
            errors.append(f"{prefix}{error}")
        else:
            super()._load_from_state_dict(state_dict, prefix, *args)

    def reset_mem(self) -> Any:
        """Set the states to zeros of their present shape and return them, in the order of the outputs.

        The graph of a compiled layer's first step reads none: a start of your own is assigned, `layer.mem = x`, and not
        written into them.
        """
        for name in self._states:
            state = self.__dict__[name]
            is_current = name in ("syn", "rec")
            zero = state.new_zeros(()).expand(state.shape) if is_current else torch.zeros_like(state)
            self.__dict__[name] = zero  # currents of synapses are not written out: a reset costs nothing
        self._is_zero = True
        states = tuple(self.__dict__[name] for name in self._states)
        return states

    def init_hetsynleaky(self) -> Any:
        """As `reset_mem`: what the host calls init_leaky for its Leaky."""
        return self.reset_mem()

    @classmethod
    def detach_hidden(cls) -> None:
        """Cut the hidden states of all living layers of this class out of their graph (truncated BPTT)."""
        for layer in snntorch_host.living(cls):
            layer._detach()

    @classmethod
    def reset_hidden(cls) -> None:
        """Set the hidden states of all living layers of this class to zero."""
        for layer in snntorch_host.living(cls):
            layer.reset_mem()

    def _detach(self) -> None:
        for name in self._states:
            self.__dict__[name] = self.__dict__[name].detach()

    # ---- forward ----

    # long for its docstring
    def forward(self, input_: Tensor, *states: Tensor | None, lengths: Any = None, **named: Tensor | None) -> Any:
        """One step (B, M), or a whole sequence (T, B, M): spk, syn, rst, (ada,) mem = layer(x, syn, rst, (ada,) mem).

        Recurrent layers: spk, syn, rec, rst, (ada,) mem = layer(x, spk, syn, rec, rst, (ada,) mem). States may be given
        by name, and left out at the first step. A layer with init_hidden=True keeps them: spk = layer(x), and with
        output=True all of them come out. A stock neuron's `spk, mem = layer(x, mem)` has too few names for these.

        lengths  (B,) integers from 1 to T: how many steps of each row of a sequence are valid, the rest being padding,
                 which may hold anything and has no gradient. Behind a row's end spk is 0 and mem stays what it was: so
                 mem[-1] is each row's own last one, of a readout too. All other states are those after the last valid
                 step; of a recurrent layer's spk these are spk[lengths - 1, torch.arange(B)]. What it costs is in
                 `hetsyn_plugins.ops.lengths`. In a Sequential, which hands on one input, hidden layers need none: what
                 comes behind a row's end changes nothing before it
        """
        is_sequence = isinstance(input_, Tensor) and input_.ndim == self.sequence_rank
        in_steps = not is_sequence or self.inhibition or bool(self.state_quant)
        if torch.compiler.is_compiling() and self.keeps_out_of_graph(lengths, in_steps):
            return outside_of_graph(self.forward, input_, *states, lengths=lengths, **named)
        beside = snntorch_host.beside(self)
        weight: Any = self.stored("weight")
        x = self.checked_inputs(input_, self.checks_values(is_sequence, lengths), self.speaking(self._caller))
        if named:
            states = self._in_order(states, named)
        if states and isinstance(states[0], tuple):
            raise ValueError(f"states: expected tensors one by one, got a tuple; {self._one_call()}")
        if is_sequence and beside is not None:
            snntorch_host.refuse_sequence(*beside, self.batch_first)
        x = self.swapped(x) if is_sequence else x
        if lengths is not None:
            lengths = checked_lengths(lengths, x.flatten(2 if is_sequence else 1))
        if self.init_hidden:
            if any(s is not None for s in states):
                raise TypeError(
                    "states should not be passed as arguments while `init_hidden=True`: the layer keeps them, "
                    f"spk = layer(x); without init_hidden {self._one_call()}"
                )
            states = self._hidden(x, weight)
        if not is_sequence:
            spk, mem, final = self._one_step(x, states)
        elif self.inhibition or self.state_quant or len(x) == 0:
            spk, mem, final = self._over_time(self._loop, x, states, lengths)
        else:
            spk, mem, final = self._sequence(x, states, lengths)
            watch_rates(self, x, spk)
        spk = self._graded(spk.to(input_.dtype if input_.dtype.is_floating_point else weight.dtype))
        rst = torch.zeros_like(final.v) if final.reset is None else final.reset
        others = (final.current, final.recurrent_current, rst, final.adaptation, final.past_inputs, final.past_spikes)
        after = [s for s in others if s is not None]
        if self.init_hidden and self.recurrent and not (torch.compiler.is_compiling() and is_exporting()):
            self.__dict__["spk"] = self._last_output(spk, final, is_sequence, lengths)
        if is_sequence:
            spk, mem = self.swapped(spk), self.swapped(mem)
        if not self.init_hidden:
            return (spk, *after, mem)
        if not (torch.compiler.is_compiling() and is_exporting()):
            self._keep((*after, final.v))
        if self.output:
            return (spk, *after, mem)
        return spk if self.spiking else mem

    def _keep(self, states: tuple[Tensor, ...]) -> None:
        """Keep the states for the next call; a recurrent layer's spk has its own way."""
        self.__dict__.update(zip(self._states[self.recurrent :], states, strict=True))
        self.__dict__["_is_zero"] = False
        self._left_in = backward_pass()

    def _in_order(self, states: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        positional = dict(zip(self._states, states, strict=False))
        wrong = [name for name in named if name not in self._states or name in positional]
        if wrong:
            raise TypeError(f"forward: expected states {', '.join(self._states)}, each once, got {', '.join(wrong)}")
        return tuple({**positional, **named}.get(name) for name in self._states)

    def _hidden(self, x: Tensor, weight: Tensor) -> tuple[Tensor | None, ...]:
        """The states kept from the last call; none of them where batch size, device, dtype (or image size) changed."""
        if torch.compiler.is_compiling():
            if self._is_zero or is_exporting():  # a program has no state from before
                return ()
        mem: Tensor = self.__dict__["mem"]
        syn: Tensor = self.__dict__["syn"]
        if backward_pass() not in (-1, self._left_in) and syn.numel() > 0 and any(syn.stride()):
            raise RuntimeError(
                "HetSynLeaky: torch.utils.checkpoint computes this call again, but its hidden states have moved on: "
                "reset them inside the function that is checkpointed, or pass states in and out (init_hidden=False)"
            )
        past: Tensor = self.__dict__["past"]
        fits = mem.shape == self.soma_shape(x) and mem.device == weight.device
        fits = fits and (past.numel() == 0 or past.shape[1:] == self.step_shape(x))
        return tuple(map(self.__dict__.get, self._states)) if fits and mem.dtype == compute_dtype(weight) else ()

    def _initial_state(self, states: tuple[Tensor | None, ...], layer: LayerTensors, x: Tensor) -> HetSynState:
        """The core's state, for inputs x; zeros where none is given.

        A mixture, or one that does not fit, raises ValueError.
        """
        names = self._states
        given: Any = zip(names, states, strict=False)
        values: dict[str, Any] = {n: usable(s) for n, s in given if _is_state(n, s)}
        if not values:
            return self.checked_state(None, layer, x, self._caller.names)
        if len(values) != len(names) or len(states) != len(names):
            count = max(len(values), len(states) if len(states) > len(names) else 0)
            hint = "; spk is no state of this layer" if len(states) > len(names) and not self.recurrent else ""
            raise ValueError(
                f"states: expected all of {', '.join(names)} or none, got {count}{hint}; {self._one_call()}"
            )
        mem, rst = values["mem"], values["rst"]
        spk = values.get("spk", mem)  # z itself, or that from which it is fired
        if spk.dtype in HALF:
            spk = spk.to(layer.weight.dtype)
        if layer.reset_decay is None:
            if rst.shape != mem.shape:
                want, came = tuple(mem.shape), tuple(rst.shape)
                raise ValueError(f"rst: expected shape {want}, got {came}; is the state another layer's or batch's?")
            rst = None
        z = spk if self.spiking else None
        state = HetSynState(values["syn"], values.get("rec"), rst, values.get("ada"), z, mem)
        state = state._replace(past_inputs=values.get("past"), past_spikes=values.get("past_spk"))
        state = self.checked_state(state, layer, x, self._caller.names)
        return state._replace(spikes=self._last_spikes(spk, mem, layer)) if self.spiking else state

    def _last_spikes(self, spk: Tensor, mem: Tensor, layer: LayerTensors) -> Tensor | None:
        """z[t-1], fired from mem, or as it came out where spk is a state (recurrent layers).

        None: the operator of a compiled graph fires it.
        """
        if self.recurrent:
            return self._ungraded(spk)
        if torch.compiler.is_compiling() and not self.state_quant:
            return None
        assert layer.threshold is not None  # of a layer that spikes
        threshold = self.beside_soma(layer.threshold)
        if mem.requires_grad and torch.is_grad_enabled():
            return self.way().surrogate(mem - threshold, threshold)
        return (mem > threshold).to(mem.dtype)  # mem is a plain value (zeros, detached): nothing for theta

    def way(self) -> Way:
        surrogate = NoGradient() if self.surrogate_disable else self.surrogate
        return Way(surrogate, self.detach_reset, self.backend)

    def _factor(self, dtype: torch.dtype) -> Tensor:
        factor: Any = self._buffers.get("graded_spikes_factor")  # where getattr ends too, ten times as slowly
        factor = self.graded_spikes_factor if factor is None else factor
        factor = factor if isinstance(factor, nn.Parameter) else factor.clone()  # see TrainableFields.tensor
        return self.beside_soma(factor.to(dtype))

    def _graded(self, spk: Tensor) -> Tensor:
        """What comes out for spikes of 0 and 1."""
        factor = self._buffers.get("graded_spikes_factor")
        if not self.spiking or (factor is not None and _is_one(factor)):
            return spk
        return spk * self._factor(spk.dtype)

    def _ungraded(self, spk: Tensor) -> Tensor:
        """z[t-1] = 0 or 1 from the spk that came out, with the gradient of spk / factor, which half types round."""
        z = spk / self._factor(spk.dtype)
        return z + ((spk != 0).to(spk.dtype) - z).detach()

    def _last_output(self, spk: Tensor, final: HetSynState, is_sequence: bool, lengths: Tensor | None) -> Tensor:
        """The spk of the last step, or, after no step at all, the one before."""
        if is_sequence:
            return at_end(spk, lengths) if len(spk) > 0 else self._graded(final.spikes)
        return spk

    def _one_step(self, x: Tensor, states: tuple[Tensor | None, ...]) -> Run:
        current = states[self.recurrent] if len(states) > self.recurrent else None
        layer, origin = self.step_layer(current, self._caller.names)
        if self.check:
            self.check_changed(layer, self._caller.names)
        start = self._returned(states, layer, x) or self._initial_state(states, layer, x)
        spk, final = self._step(x, layer, start, origin)
        return spk, final.v, final

    def _returned(self, states: tuple[Tensor | None, ...], layer: LayerTensors, x: Tensor) -> HetSynState | None:
        """The state as the core has it where it is what the last step returned, which needs no more checks."""
        if len(states) != len(self._states):
            return None
        values: dict[str, Any] = dict(zip(self._states, states, strict=True))
        mark = self.mark_of(values["syn"])
        if mark is None or mark.state.v.shape != self.soma_shape(x):
            return None
        rst = None if layer.reset_decay is None else values["rst"]
        z = values["spk"] if self.recurrent else mark.state.spikes  # fired from mem, as the step did
        state = HetSynState(values["syn"], values.get("rec"), rst, values.get("ada"), z, values["mem"])
        state = state._replace(past_inputs=values.get("past"), past_spikes=values.get("past_spk"))
        return state if mark.goes_on(state, layer, self.way()) else None

    def _step(
        self, x: Tensor, layer: LayerTensors, start: HetSynState, origin: Any = None
    ) -> tuple[Tensor, HetSynState]:
        """spk (B, N), ungraded, and the state after it."""
        quantise = snntorch_host.quantiser(self.state_quant)
        module = None if self.inhibition else self  # of which not every spike leaves the layer
        checked = self.checked(self._caller.names) if torch.compiler.is_compiling() else ""
        final = self.run_step(
            x, layer, start, self.way(), quantise=quantise, owner=origin, module=module, checked=checked
        )
        if not self.spiking:
            return torch.zeros_like(final.v), final
        spk: Tensor = final.spikes
        if spk.requires_grad and not final.v.requires_grad:
            # only theta is trained: mem must not look like a plain value to the next step's _last_spikes
            final = final._replace(v=final.v + 0 * self.beside_soma(layer.threshold))  # type: ignore[arg-type]  # it spikes
        if self.inhibition:
            winner = (final.v - self.beside_soma(layer.threshold)).argmax(1, keepdim=True)  # type: ignore[arg-type]
            spk = spk * torch.zeros_like(spk).scatter_(1, winner, 1.0)
        return spk, final

    def _over_time(
        self, run: Callable[..., Run], x: Tensor, states: tuple[Tensor | None, ...], lengths: Tensor | None
    ) -> Run:
        """spk, ungraded, and mem (T, B, N), and the state after the last step, or after each row's last valid one."""
        layer = self.layer_tensors(self._caller.names)
        start = self._initial_state(states, layer, x)
        result: Run = self.run_rows(functools.partial(run, layer), x, start, lengths, self._caller)
        return result

    def _sequence(self, x: Tensor, states: tuple[Tensor | None, ...], lengths: Tensor | None) -> Run:
        return self._over_time(self._fused, x, states, lengths)

    def _fused(self, layer: LayerTensors, x: Tensor, start: HetSynState) -> Run:
        self.check_changed(layer, self._caller.names)
        spk, v, final = self.run_sequence(x, layer, start, self.way(), self.checked(self._caller.names))
        return (torch.zeros_like(v) if spk is None else spk), v, final

    def _loop(self, layer: LayerTensors, x: Tensor, final: HetSynState) -> Run:
        """Step by step: what quantised or inhibited layers need, and T = 0."""
        spks: list[Tensor] = []
        mems: list[Tensor] = []
        for x_t in x.unbind(0):
            if spks and self.spiking:
                final = final._replace(spikes=self._last_spikes(self._graded(spks[-1]), final.v, layer))
            spk, final = self._step(x_t, layer, final)
            spks.append(spk)
            mems.append(final.v)
        if spks:
            return torch.stack(spks), torch.stack(mems), final
        empty = final.v.new_zeros((0, *final.v.shape))
        own = HetSynState(*(None if part is None else part.clone() for part in final))  # zeros are everybody's
        return empty, empty.clone(), own

    # ---- parameters in and out ----

    @classmethod
    def from_params(
        cls,
        params: HetSynParams,
        *,
        share: str | None = None,
        clusters: int | None = None,
        parametrization: str = "decay",
        tie_reset: bool = False,
        dt: float | None = None,
        **options: Any,
    ) -> Any:
        """A layer with these parameters and their dtype; `options` as in the class; share None keeps the shapes."""
        recurrent = params.recurrent_weight is not None
        if recurrent != cls.recurrent:
            other = "RHetSynLeaky" if recurrent else "HetSynLeaky"
            raise ValueError(f"params: expected {'' if cls.recurrent else 'no '}recurrent weights; use {other}")
        sizes: Any = options.pop("_sizes", params.weight.shape[::-1])  # of a convolution all of it
        make: Any = cls
        values = in_shape({field: getattr(params, field) for field in FIELD_NAMES}, sizes)
        fields = {name: values[field] for field, name in FIELD_NAMES.items()}
        if not recurrent:
            del fields["rec_weight"], fields["rec_alpha"], fields["rec_delay"], fields["rec_mask"]
        if params.reset_decay is None:
            fields["beta"] = 0.9
        if params.bias is None:
            fields["bias"] = False
        if params.max_delay:
            fields["max_delay"] = params.max_delay
        return make(
            *sizes,
            reset_mechanism="none" if params.reset_decay is None else "subtract",
            spiking=params.spiking,
            parametrization=parametrization,
            dt=dt,
            **fields,
            **options_from_params(params, share, tie_reset, clusters),
            **options,
        )

    def codebook_tensors(self, dtype: torch.dtype) -> dict[str, Any]:
        """See `HetSynModule`."""
        return self.kept_codebook(dtype)

    def why_not_plain(self) -> str | None:
        """What of this layer plain data has no place for; None where there is nothing."""
        return why_not_plain(self)

    def extra_repr(self) -> str:
        """What `print(layer)` shows."""
        trained = "" if self.parametrization == "decay" else f", parametrization={self.parametrization!r}, dt={self.dt}"
        surrogate = repr(self.surrogate) if self.spiking else "None, spiking=False"
        return (
            f"{self.shape_shown()}, share={self.share_shown()}{trained}, {', '.join(self._ranges())}, "
            f"spike_grad={surrogate}, reset_mechanism={self.reset_mechanism!r}, init_hidden={self.init_hidden}, "
            f"output={self.output}{self.layout_shown()}"
        )

    def _ranges(self) -> list[str]:
        """What synapses and thresholds are, from least to most; a trained tau in seconds."""
        ranges = []
        for field in ("decay", "recurrent_decay", "delay", "recurrent_delay", "threshold"):
            values, name = self.stored(field), FIELD_NAMES[field]
            if values is None:
                continue
            if field in DECAYS and self.parametrization != "decay":
                name = name.replace("alpha", "tau")
                values = values.exp() if self.parametrization == "log_tau" else values
            ranges.append(f"{name}={span(values.clone, digits=4, unknown='?')}")
        return ranges + [f"{FIELD_NAMES[field]}={shown}" for field in MASKS if (shown := self.mask_shown(field))]


def _is_state(name: str, state: Any) -> bool:
    """Is this a state, and not None or the empty tensor that stands for none?"""
    if state is None:
        return False
    if not isinstance(state, Tensor):
        raise ValueError(f"{name}: expected a torch tensor or None, got {type(state).__name__}")
    return state.numel() > 0


def _check_reset(reset_mechanism: str, reset_delay: bool) -> None:
    """Raise ValueError for a reset that the neuron does not have."""
    if reset_mechanism == "zero":
        raise ValueError("reset_mechanism: expected 'subtract' or 'none', got 'zero': synaptic currents have no zero")
    if not reset_delay:
        raise ValueError("reset_delay: expected True, the neuron resets one step after its spike, got False")


def _is_one(factor: Tensor) -> bool:
    """Is this the number 1? Looked at on the CPU only, where it costs nothing."""
    if factor.device.type != "cpu" or factor.numel() != 1 or torch.compiler.is_compiling() or transforming():
        return False
    return factor.item() == 1


def _start_factor(value: Any, weight: Tensor) -> Tensor:
    """A graded_spikes_factor as a tensor of the layer's dtype and device, or ValueError."""
    factor = torch.as_tensor(value).detach().to(weight, copy=True)
    if tuple(factor.shape) not in ((), (1,), (len(weight),)):
        expected = f"() or ({len(weight)},)"
        raise ValueError(f"graded_spikes_factor: expected shape {expected}, got {tuple(factor.shape)}")
    _check_factor(factor)
    return factor


def _check_factor(factor: Any) -> None:
    """Raise ValueError for NaN and infinity, and for 0, which no spike can be told from."""
    if isinstance(factor, Tensor) and not factor.is_meta and not (factor.isfinite() & (factor != 0)).all():
        raise ValueError(f"graded_spikes_factor: expected finite values other than 0, got {describe_values(factor)}")


class RHetSynLeaky(HetSynLeaky):
    """`HetSynLeaky` with recurrent synapses, each with its own decay: spk, syn, rec, rst, (ada,) mem = lif(x, ...).

    Further arguments: rec_alpha=0.9 (as alpha), learn_rec_alpha=True, rec_weight=None (as weight: N(0, 1 / N), or with
    input_rate fluctuation-driven), rec_delay=None (as delay, steps beyond the one that recurrence takes),
    learn_rec_delay=True, rec_mask=None (as mask); in and out also
    **spk** (B, N), what recurrence and reset see next, **rec** (B, N, N), the recurrent currents, and with rec_delay
    **past_spk** (max_delay, B, N), just in front of mem.
    """

    recurrent = True
    _caller = caller_of("spk")

    def __init__(
        self,
        *args: Any,
        rec_alpha: Any = 0.9,
        learn_rec_alpha: bool = True,
        rec_weight: Any = None,
        rec_delay: Any = None,
        learn_rec_delay: bool = True,
        rec_mask: Any = None,
        **options: Any,
    ) -> None:
        weight = True if rec_weight is None else rec_weight
        recurrent = RecurrentOptions(weight, rec_alpha, learn_rec_alpha, rec_delay, learn_rec_delay, rec_mask)
        super().__init__(*args, _recurrent=recurrent, **options)

    def init_rhetsynleaky(self) -> Any:
        """As `reset_mem`: what the host calls init_rleaky for its RLeaky."""
        return self.reset_mem()


class HetSynConv2d(Convolving, HetSynLeaky):
    """HetSynLIF neurons over images: a convolution whose synapses have each a decay, shared by all positions.

    Every position of every channel is a neuron that sees its patch as a `HetSynLeaky` does, whose arguments follow the
    convolution's: alpha, beta, threshold and so on. It is not a `torch.nn.Conv2d` in front of a neuron: no sum comes
    before the decays.

    Example:
        >>> conv = HetSynConv2d(1, 8, 5, stride=2, init_hidden=True)
        >>> spk = conv(torch.rand(25, 32, 1, 28, 28))      # the whole sequence (T, B, C, H, W), fused
        >>> spk.shape
        torch.Size([25, 32, 8, 12, 12])

    in_channels, out_channels, kernel_size, stride, padding, dilation, groups   as in torch.nn.Conv2d
    weight, alpha, delay   (out_channels, in_channels / groups, k, k); alpha and delay also () or one a channel,
                    (out_channels,), as `share` says ("neuron": one a channel). Others, beta say, () or one a channel
    inhibition      one winner at each position

    Inputs and outputs as of HetSynLeaky: **input_** (B, C, H, W) or (T, B, C, H, W); **syn** (B, the weight's shape,
    H', W'); **past** (max_delay, B, C, H, W); spk, **rst**, **ada**, **mem** (B, out_channels, H', W'). In a Sequential
    pooling and Flatten() between such layers take each step of a sequence by itself.
    `to_dense((H, W))` gives the parameters of the dense layer that this one is; there is no recurrent form.

    Memory: the current, B * H' * W' numbers for each weight, is a state and stays after a call; patches take T * B *
    H' * W' numbers for each weight of one channel out, while it runs, and small ones until the backward pass.
    """

    axes = 2


class HetSynConv1d(Convolving, HetSynLeaky):
    """`HetSynConv2d` over sequences of (B, C, L), L a length in space: (T, B, C, L) -> (T, B, out_channels, L')."""

    axes = 1


def _show_signatures() -> None:
    """Let `inspect.signature` and `help` say what the constructors take: arguments of this file's own are left out."""
    own = inspect.signature(HetSynLeaky.__init__)
    shared = [parameter for name, parameter in own.parameters.items() if name != "_recurrent"]
    more = [p for p in inspect.signature(RHetSynLeaky.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
    HetSynLeaky.__init__.__signature__ = own.replace(parameters=shared)  # type: ignore[attr-defined]
    RHetSynLeaky.__init__.__signature__ = own.replace(parameters=[*shared, *more])  # type: ignore[attr-defined]
    for conv in (HetSynConv1d, HetSynConv2d):
        conv.__signature__ = signature(HetSynLeaky)


_show_signatures()


# ---- registration ----

_ours = {cls.__name__: cls for cls in (HetSynLeaky, RHetSynLeaky, HetSynConv1d, HetSynConv2d)}


def install() -> None:
    """Add the neurons to `snntorch`; may be called again."""
    snntorch_host.install(_ours)


def uninstall() -> None:
    """Undo `install`."""
    snntorch_host.uninstall(_ours)


# ---- conversion (`hetsyn_plugins.exchange.conversion`) ----


def build_layer(layer: HetSynLayer, convolution: Convolution | None = None) -> HetSynLeaky:
    """The init_hidden layer for a layer of plain data; with a convolution that whose neurons these are."""
    flags = {
        "learn_alpha": "decay",
        "learn_beta": "reset_decay",
        "learn_threshold": "threshold",
        "learn_delay": "delay",
    }
    cls = HetSynLeaky
    if layer.params.recurrent_weight is not None:
        cls, flags = RHetSynLeaky, {**flags, "learn_rec_alpha": "recurrent_decay", "learn_rec_delay": "recurrent_delay"}
    make: Any = cls.from_params
    if convolution is not None:
        over_images = {1: HetSynConv1d, 2: HetSynConv2d}[convolution.axes]
        make = functools.partial(over_images.from_position, convolution=convolution)
    built: HetSynLeaky = make(
        layer.params,
        spike_grad=layer.surrogate,
        init_hidden=True,
        learn_adaptation=not layer.learned.isdisjoint({"adaptation_decay", "adaptation_strength"}),
        **learned_options(layer, **flags),
        **layer.options,
    )
    return built


def container(layers: list[tuple[str, nn.Module]]) -> nn.Sequential:
    """What holds the layers of a network; ValueError where torch does not take a name for a module."""
    try:
        return nn.Sequential(OrderedDict(layers))
    except KeyError as error:
        raise ValueError(
            f"layers: expected names that modules can have, got one that torch refuses: {error}"
        ) from error


def why_not_plain(neuron: Any) -> str | None:
    """What of a HetSyn layer, or of a stock neuron, plain data has no place for; None where there is nothing."""
    factor = neuron.graded_spikes_factor
    options = {
        "graded_spikes_factor": bool((factor != 1).any()) and factor.tolist(),
        "learn_graded_spikes_factor": factor.requires_grad,
        "inhibition": neuron.inhibition,
        "state_quant": neuron.state_quant,
        "surrogate_disable": neuron.surrogate_disable,
    }
    return ", ".join(f"{name} {value}" for name, value in options.items() if value) or None


def merge_stock(linear: nn.Linear, neuron: nn.Module) -> tuple[HetSynParams, frozenset[str], Surrogate] | None:
    """The vanilla HetSyn layer that a Linear and a stock Leaky (or Synaptic without alpha) are; None for other neurons.

    With what of it is learned (core fields), and its surrogate. A bias becomes the weight of an always-on last line,
    since the neuron filters it. A stock neuron's reset has no gradient: `detach_reset=True` gives the same gradients.
    """
    if type(neuron) not in (snntorch.Leaky, snntorch.Synaptic):
        return None
    why_not = why_not_plain(neuron)
    if isinstance(neuron, snntorch.Synaptic) and bool((neuron.alpha != 0).any()):
        why_not = f"alpha of {neuron.alpha.max():.4g}, a synaptic current that is filtered once more by the membrane,"
    if neuron.reset_mechanism == "zero":
        why_not = "reset_mechanism 'zero'"
    elif not neuron.reset_delay:
        why_not = "reset_delay False"
    if why_not is not None:
        raise ValueError(f"net: a snn.{type(neuron).__name__}'s {why_not} cannot be carried over")
    if linear.bias is not None and linear.bias.requires_grad != linear.weight.requires_grad:
        raise ValueError("net: a Linear in front of a snn.Leaky, expected weight and bias both learned or both not")
    weight = linear.weight if linear.bias is None else torch.cat([linear.weight, linear.bias[:, None]], 1)
    weight = weight.float() if weight.dtype in HALF else weight
    n = len(weight)
    beta, theta = (t.detach().to(weight.dtype).flatten() for t in (neuron.beta.clamp(0, 1), neuron.threshold))
    decay, theta = (t.reshape(()) if t.numel() == 1 else t.expand(n) for t in (beta, theta))
    reset = None if neuron.reset_mechanism == "none" else decay
    learned = {
        "weight": linear.weight.requires_grad,
        "decay": neuron.beta.requires_grad,
        "reset_decay": neuron.beta.requires_grad and reset is not None,
        "threshold": neuron.threshold.requires_grad,
    }
    params = HetSynParams(weight, decay, reset_decay=reset, threshold=theta)
    return params, frozenset(name for name, is_learned in learned.items() if is_learned), _surrogate_of(neuron)


def _surrogate_of(neuron: Any) -> Surrogate:
    """A stock neuron's surrogate; snnTorch's default, a function without a name, as ours, which files can hold."""
    surrogate = resolve(neuron.spike_grad, "spike_grad")
    d = torch.linspace(-4, 4, 81, dtype=torch.float64)
    default = Arctan(2.0)
    return default if torch.allclose(surrogate.derivative(d), default.derivative(d), rtol=1e-12) else surrogate
