"""Hooks of a block's parts, which fire although the block computes a whole sequence in one op.

A block calls its parts only where somebody hooked one: each then once a call of the block, as torch calls any module,
so that what pruning, weight_norm and spectral_norm make anew before a call is made before it is used. What a hook sees,
in the layout of the block's input:

    part                    input                                    output
    synapse, input_synapse  the block's input                        the sums of its currents, (B, N, T)
    recurrent_synapse       the neurons' spikes, a step late         the sums of its currents, (B, N, T)
    neuron                  the currents of all synapses, (B, N, T)  spikes after dropout; v of an Affine

* Before the delays and `delay_shift`; where the block is quantised in what its integers stand for.
* A monitor changes no bit: the block's output is that of the op, and the currents are computed beside it, only where a
  hook sees them. A loss on them has its gradient; the block's output has none with respect to them.
* What a recurrent block feeds back exists only after it ran: the inputs that forward pre-hooks of its neuron and its
  recurrent_synapse see are full of NaN, and hold the true values once the call is over.
* A forward pre-hook may replace the block's input, a forward hook the output of a feed-forward block's neuron.
  Another replacement, and any backward hook, is a ValueError; `block.neuron(block.synapse(x))` calls the parts of a
  feed-forward block one by one, and there every hook has its effect.
* Hooks for all modules at once see the blocks, and the parts of those of which a part has a hook of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from hetsyn_plugins.adapters.lava_dl.slayer.arithmetic import currents, like_input, time_first
from hetsyn_plugins.core.validation import expand

Body = Callable[[Tensor], Tensor]  # what a part computes of its input inside a block
RECURRENT = "recurrent_"  # how the fields of recurrent synapses begin
WAY_OUT = "a block computes in one op; block.neuron(block.synapse(x)) calls the parts of a feed-forward block apart"
WEIGHT_MAKERS = (prune.BasePruningMethod, WeightNorm, SpectralNorm)  # torch's hooks that make a tensor before a call


def hooked(part: nn.Module) -> bool:
    """Whether a part has a hook of its own."""
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def remake(part: nn.Module) -> None:
    """Make anew what torch's pruning and norms make before a call, after a step of the optimiser behind that call."""
    for hook in part._forward_pre_hooks.values():
        if isinstance(hook, WEIGHT_MAKERS):
            hook(part, ())


class HookedCall:
    """One call of a block through its parts: `out` is what leaves the neuron, `run` what the op gave."""

    def __init__(self, block: Any, x: Tensor) -> None:
        self.block, self.layout = block, x
        self.synapse, *recurrent = (getattr(block, name) for name in block.synapses)
        self.run: Any = None
        self.late: Any = None
        self.sources = [self.synapse, *recurrent]
        total = self._call(block.synapses[0], x, self._input_currents)
        if not recurrent:
            self.out = self._call("neuron", total, self._spikes, replaceable=True)
            return
        self.late, self.total = self._not_yet(), self._not_yet()
        self._call(block.synapses[1], like_input(self.late, x), self._recurrent_currents)

    def _call(self, name: str, given: Tensor, body: Body, replaceable: bool = False) -> Tensor:
        """Call a part, whose hooks fire around `body`; raise ValueError for one that would be ignored."""
        part, seen = getattr(self.block, name), []
        if part._backward_hooks or part._backward_pre_hooks:
            raise ValueError(f"{name}: expected forward hooks and forward pre-hooks, got a backward hook: {WAY_OUT}")

        def noted(received: Tensor) -> Tensor:
            if received is not given and part is not self.synapse:
                raise ValueError(f"{name}: expected a forward pre-hook that returns None, got another input: {WAY_OUT}")
            seen.append(body(received))
            return seen[0]

        output: Tensor = part(given, body=noted)
        if output is not seen[0] and not replaceable:
            raise ValueError(f"{name}: expected a forward hook that returns None, got another output: {WAY_OUT}")
        if output.shape != seen[0].shape:
            shapes = f"expected {tuple(seen[0].shape)}, got {tuple(output.shape)}"
            raise ValueError(f"{name}: the output of a forward hook: {shapes}")
        return output

    # ---- what the parts compute: each after its own forward pre-hooks and before its forward hooks ----

    def _input_currents(self, x: Tensor) -> Tensor:
        self.x, self.kept = x, self.block.kept_state(x)
        feeds_hooked_neuron = len(self.sources) == 1 and hooked(self.block.neuron)
        if self.synapse._forward_hooks or feeds_hooked_neuron:
            return self._currents("")
        return x  # nobody sees it

    def _recurrent_currents(self, late: Tensor) -> Tensor:
        self.out = self._call("neuron", like_input(self.total, self.layout), self._spikes)
        if self.sources[1]._forward_hooks:
            return self._currents(RECURRENT)
        return late  # nobody sees it

    def _spikes(self, total: Tensor) -> Tensor:
        self.run = self.block.run(self.x)
        if len(self.sources) > 1:
            z = self.run.spikes
            before = torch.zeros_like(z[:1]) if self.kept is None else torch.as_tensor(self.kept.spikes).to(z)[None]
            self.late.copy_(torch.cat([before, z[:-1]]).permute(1, 2, 0))
            if hooked(self.block.neuron):
                self.total.copy_(self._currents("", RECURRENT).flatten(1, -2))
        return like_input(self.run.out, self.layout)

    def _currents(self, *prefixes: str) -> Tensor:
        """Sums of the currents of the synapses of the block's input ("") and of the recurrent ones ("recurrent_")."""
        fields, inputs = self.block.fields(), {"": self.x, RECURRENT: self.late}
        weight = torch.cat([fields[f"{prefix}weight"] for prefix in prefixes], 1)
        decay = torch.cat([expand(fields[f"{p}decay"], fields[f"{p}weight"].shape) for p in prefixes], 1)
        x = torch.cat([time_first(inputs[prefix], fields[f"{prefix}weight"]) for prefix in prefixes], -1)
        sums = currents(x, weight, decay, self.block.neuron.arithmetic, self._state(prefixes))
        return like_input(sums, self.layout)

    def _state(self, prefixes: tuple[str, ...]) -> Any:
        """What synapses start from, as a readout's state: their part of the state that the block kept."""
        if self.kept is None:
            return None
        if self.block.neuron.arithmetic.shares_accumulators:
            if len(prefixes) < len(self.sources):
                raise ValueError(
                    "persistent_state: expected False where a synapse of a Recurrent block in the cluster form has a "
                    "forward hook, got True: the accumulators that were kept are of both synapses; hook the neuron"
                )
            kept = self.kept.current
        else:
            parts = [torch.as_tensor(getattr(self.kept, f"{prefix}current")) for prefix in prefixes]
            joined = torch.cat(parts, -1)
            kept = joined if isinstance(self.kept.current, Tensor) else joined.numpy()
        of_spikes = dict.fromkeys(("recurrent_current", "reset", "adaptation", "spikes"))
        return self.kept._replace(current=kept, **of_spikes)

    def _not_yet(self) -> Tensor:
        """(B, N, T) of NaN, to be filled in when the block has run."""
        batch, *_, steps = self.x.shape
        weight = self.synapse.weight
        return torch.full((batch, len(weight), steps), torch.nan, dtype=weight.dtype, device=weight.device)
