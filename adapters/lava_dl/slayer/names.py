"""Arguments that are not there: what they are called here, for a user who comes from slayer's own neurons."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

A_DECAY_EACH = "synapses have a decay each, what a step keeps of a current and not what it loses: the block's decay"
INSTEAD = {
    "current_decay": f"{A_DECAY_EACH}=1 - current_decay",
    "voltage_decay": f"{A_DECAY_EACH}=1 - voltage_decay; the membrane by itself has none",
    "threshold_step": "the threshold stays, a current of adaptation_strength is subtracted",
    "threshold_decay": "adaptation_decay=1 - threshold_decay",
    "refractory_decay": "reset_decay=1 - refractory_decay",
    "shared_param": "the block's share='synapse', 'neuron' or 'layer' says who has a decay of its own",
    "graded_spike": "spikes are 0 or 1; block.hetsyn.Affine gives v",
    "norm": "there is none, the currents that it would normalise exist only inside the block's op; there is a learned "
    "bias in neuron_params, and the block's weight_norm=True",
    "period": "this neuron does not resonate; slayer.block.rf does",
    "log_init": "this neuron does not resonate; slayer.block.rf does",
    "tau": "the block's decay=exp(-dt / tau), or an initialiser of taus (hetsyn_plugins.UniformTau, ...)",
    "v_th": "threshold",
}


def arguments_of(*callables: Any) -> list[str]:
    """The names of the arguments of functions, each once."""
    named = [p for f in callables for p in inspect.signature(f).parameters.values() if p.kind is not p.VAR_KEYWORD]
    return list(dict.fromkeys(p.name for p in named if p.name != "self"))


def signature_of(cls: type, keywords_of: type | None = None) -> inspect.Signature:
    """What a constructor takes, for `help` and editors: its names, and as keywords those of another to which it hands
    the rest; not the **unknown by which it says what there is instead.
    """
    own = [p for p in inspect.signature(cls).parameters.values() if p.kind is not p.VAR_KEYWORD]
    others = [] if keywords_of is None else inspect.signature(keywords_of).parameters.values()
    names = {p.name for p in own}
    return inspect.Signature([*own, *(p for p in others if p.kind is p.KEYWORD_ONLY and p.name not in names)])


def check_names(where: str, given: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str]) -> None:
    """Raise ValueError for a name that is not known, saying what there is instead.

    elsewhere   name -> where it belongs
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(
                f"{where}: expected arguments that it has, got {name!r}: {_advice(name, known, elsewhere)}"
            )


def _advice(name: str, known: list[str], elsewhere: Mapping[str, str]) -> str:
    if name in elsewhere:
        return f"it belongs {elsewhere[name]}"
    if name in INSTEAD:
        return INSTEAD[name]
    near = difflib.get_close_matches(name, [*known, *elsewhere, *INSTEAD], n=1)
    if not near:
        return f"there are {', '.join(known)}"
    meant = near[0]
    return f"did you mean {meant!r}?" if meant in known else f"{meant!r}? {_advice(meant, known, elsewhere)}"


class WithoutNorm:
    """A module in slayer's line that says what there is instead where `norm` is read or set."""

    def __getattr__(self, name: str) -> Any:
        if name == "norm":
            raise AttributeError(f"{type(self).__name__}.norm: {INSTEAD['norm']}")
        return super().__getattr__(name)  # type: ignore[misc]  # nn.Module's

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "norm":
            super().__setattr__(name, value)
        elif value is not None:  # None: what slayer's own constructor sets
            raise ValueError(
                f"{type(self).__name__}.norm: expected None, got {type(value).__name__}: {INSTEAD['norm']}"
            )
