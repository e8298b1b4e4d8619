"""The part of a HetSyn layer that a synapse has: `slayer.synapse.hetsyn.Dense`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from lava.lib.dl.slayer.synapse.layer import Dense as BaseSynapse
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from hetsyn_plugins.adapters.lava_dl.slayer.arithmetic import Arithmetic, currents, like_input, time_first
from hetsyn_plugins.adapters.lava_dl.slayer.names import arguments_of, check_names, signature_of
from hetsyn_plugins.core.fields import SHARES
from hetsyn_plugins.ops.layer import span
from hetsyn_plugins.ops.trainable import TrainableFields, start_values


class Synapse(TrainableFields, BaseSynapse):
    """Synapses with a decay each: (B, in, T) -> the sums of their currents, (B, out, T); NCHWT in gives NCHWT out.

    in_neurons, out_neurons, weight_scale, weight_norm, pre_hook_fx   as in `slayer.synapse.Dense`; weight (out, in, 1,
                 1, 1). weight_norm is a torch parametrization, so that the module can be copied
    decay        decays r in [0, 1]: a number, an array or tensor, or an initialiser (NormalTau, ...)
    learn_decay  False: they are fixed
    share, parametrization, dt   see `hetsyn_plugins.ops.trainable`
    quantised, form, fraction, scale   see `hetsyn_plugins.fixed_point.neuron`; 1 / scale is the weight unit
    """

    names: ClassVar[Mapping[str, str]] = {"decay": "decay"}
    shares = SHARES[:3]  # a block's synapses are modules of their own, and a codebook is one for all of a layer
    weight: Any  # a Parameter; with weight_norm a tensor made of two

    def __init__(
        self,
        in_neurons: Any,
        out_neurons: int,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable[[Tensor], Tensor] | None = None,
        *,
        decay: Any = 0.9,
        learn_decay: bool = True,
        share: str = "synapse",
        parametrization: str = "decay",
        dt: float | None = None,
        quantised: bool = True,
        form: str = "synapse",
        fraction: int | None = None,
        scale: int = 1 << 6,
        dtype: torch.dtype | None = None,
        **unknown: Any,
    ) -> None:
        check_names("Synapse", unknown, arguments_of(Synapse), {})
        BaseSynapse.__init__(self, in_neurons, out_neurons, weight_scale, False, pre_hook_fx)
        self.set_options(share=share, parametrization=parametrization, tie_reset=False, dt=dt)
        self.arithmetic = Arithmetic(quantised, form, fraction, scale)
        dtype = dtype or torch.get_default_dtype()
        self.weight = nn.Parameter(self.weight.detach().to(dtype))
        flat = self.weight.detach().flatten(1)
        values = {"weight": flat, "decay": decay, "threshold": 1.0}
        sizes = (flat.shape[0], flat.shape[1])
        start = start_values(values, sizes=sizes, spiking=True, share=share, dtype=dtype, dt=dt)
        self.add_fields({"decay": start["decay"]}, {"decay": learn_decay})
        if weight_norm:
            self.enable_weight_norm()

    def extra_repr(self) -> str:
        """What `print` shows: slayer's words, whose decays there are, and from where to where they go."""
        decay = span(functools.partial(self.tensor, "decay"), digits=4)
        return f"{super().extra_repr()}, decay={decay}, share={self.share_shown()}"

    def enable_weight_norm(self) -> None:
        """Learn a length and a direction of each neuron's weights instead of the weights."""
        parametrizations.weight_norm(self, "weight")
        self.weight_norm_enabled = True

    def disable_weight_norm(self) -> None:
        """Learn the weights again."""
        parametrize.remove_parametrizations(self, "weight")
        self.weight_norm_enabled = False

    @property
    def grad_norm(self) -> float:
        """The norm of the gradient of what is learned (weight_norm: of the lengths), by their number, as slayer's."""
        learned = self._learned()
        return 0.0 if learned.grad is None else torch.norm(learned.grad).item() / learned.numel()

    def _learned(self) -> Tensor:
        """The parameter that the weights come from: themselves, or what norms and pruning, old and new, put there."""
        if parametrize.is_parametrized(self, "weight"):
            made_of = self.parametrizations.weight
            learned: Tensor = made_of.original0 if hasattr(made_of, "original0") else made_of.original
            return learned
        replaced = (self._parameters.get(name) for name in ("weight_g", "weight_orig"))
        return next((p for p in replaced if p is not None), self.weight)

    @torch.no_grad()
    def set_weight(self, weight: Any) -> None:
        """Set the weights, (out, in). Raises ValueError where a hook makes them (pruning, the old weight_norm)."""
        value = torch.as_tensor(np.array(weight)).to(self.weight).reshape(self.weight.shape)
        if parametrize.is_parametrized(self, "weight"):
            self.weight = value
        elif isinstance(self.weight, nn.Parameter):
            self.weight.copy_(value)
        else:
            raise ValueError(
                "set_weight: expected weights of the synapse's own, got some that a hook makes before every call; set "
                "them first, or remove the hook (torch.nn.utils.prune.remove, remove_weight_norm)"
            )

    def matrix(self, mask: Tensor | None = None, hook: bool = True) -> Tensor:
        """The weights that are used, (out, in): after pre_hook_fx (unless hook=False) and mask."""
        weight = self.pre_hook_fx(self.weight) if hook and self.pre_hook_fx is not None else self.weight
        return weight.flatten(1) if mask is None else weight.flatten(1) * mask.flatten(1)

    def forward(self, input: Tensor, body: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The currents by themselves; body: what a block computes in their place (`hooks.py`)."""
        if body is not None:
            return body(input)
        weight = self.matrix()
        return like_input(currents(time_first(input, weight), weight, self.tensor("decay"), self.arithmetic), input)


Synapse.__signature__ = signature_of(Synapse)  # what help() and editors read
