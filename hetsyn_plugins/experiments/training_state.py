"""The state of a training run in its folder: written while it trains, read where it goes on.

    state.safetensors            the last one: weights, moments of the optimiser, the best network so far, and numbers
    state.previous.safetensors   the one before, which stands in where there is no last one
    state.pt                     the last one as torch wrote it before there was a digest: read with a warning

What is read is compared with the run's own model and optimiser before any of it is used. What the configuration says
(rates, betas) is not in the file.

    model.<name>, best.<name>    as in the model's state_dict
    optimiser.<i>.<name>         step, exp_avg and exp_avg_sq of parameter i
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetsyn_plugins.core import array_file
from hetsyn_plugins.core.fields import FINITE, Range
from hetsyn_plugins.core.file_format import FileFormatError, check_digest, from_check
from hetsyn_plugins.core.masks import as_mask
from hetsyn_plugins.core.validation import checked_number, describe_values
from hetsyn_plugins.experiments import state_of_before
from hetsyn_plugins.experiments.model import Model
from hetsyn_plugins.experiments.run_folder import PREVIOUS_STATE, STATE

FORMAT, WHAT = "hetsyn_plugins training state", "a training state of this run"
NEXT = "state.next.safetensors"  # whole, on its way to be STATE
NOT_NEGATIVE = Range(0.0, sys.float_info.max, True, "a finite number >= 0")
Array = NDArray[Any]
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of Adam and AdamW


class Best(NamedTuple):
    """The network that is kept where one is to be selected: how good, of which iteration, its state_dict."""

    merit: float
    iteration: int
    model: dict[str, Tensor]


class Progress(NamedTuple):
    """How far a run is: iterations done, seconds taken, the first loss, the best network if one is selected."""

    iteration: int
    seconds: float
    first_loss: float
    best: Best | None


class Run(NamedTuple):
    """What a state is of: the seed, the iterations in all, does it keep the best network, does it prune, and what is
    trained."""

    seed: int
    total: int
    selects: bool
    prunes: bool
    model: Model
    optimiser: torch.optim.Optimizer


def save(folder: Path, progress: Progress, run: Run) -> None:
    """Write the state; the one that was there becomes the previous one. A kill at any moment leaves a whole one."""
    best = progress.best
    arrays = {f"model.{name}": _array(tensor) for name, tensor in run.model.state_dict().items()}
    arrays |= {f"best.{name}": _array(tensor) for name, tensor in (best.model if best else {}).items()}
    for index, moments in run.optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser.{index}.{name}": _array(tensor) for name, tensor in moments.items()}
    content = {
        "seed": run.seed,
        "iteration": progress.iteration,
        "seconds": progress.seconds,
        "first_loss": progress.first_loss,
        "best": best and {"merit": best.merit, "iteration": best.iteration},
    }
    (folder / NEXT).unlink(missing_ok=True)  # of a run that was killed: it takes room
    array_file.write(folder / NEXT, FORMAT, content, arrays)
    if (folder / STATE).exists():
        os.replace(folder / STATE, folder / PREVIOUS_STATE)
    os.replace(folder / NEXT, folder / STATE)


def load(folder: Path, run: Run) -> Progress | None:
    """Bring a run's model and optimiser to its last state, and return how far that is; None where there is none.

    Raises FileFormatError, which says how to go on, where the state is damaged or another run's.
    """
    for name in (STATE, PREVIOUS_STATE, state_of_before.STATE):
        if (folder / name).exists():
            try:
                return _load(folder / name, run)
            except FileFormatError as error:
                to_do = _way_on(folder, name)
                raise FileFormatError(error.path, error.expected, error.got, field=error.field, to_do=to_do) from error
    return None


def _way_on(folder: Path, damaged: str) -> str:
    """What to do about a state that cannot be used."""
    anew = "delete it to train from the start"
    if damaged != STATE:
        return anew
    try:
        file = array_file.read(folder / PREVIOUS_STATE, WHAT)
        iteration = array_file.checked_content(file, FORMAT, WHAT).get("iteration")
    except (FileNotFoundError, FileFormatError):
        return anew
    return f"delete it to go on from iteration {iteration}, in {PREVIOUS_STATE}, or both to train from the start"


def _load(path: Path, run: Run) -> Progress:
    is_checked = path.name != state_of_before.STATE
    if is_checked:
        file = array_file.read(path, WHAT)
        content = array_file.checked_content(file, FORMAT, WHAT)
    else:
        file, content = state_of_before.read(path, WHAT)
    try:
        progress = _taken(content, file.arrays, run)
    except ValueError as error:
        raise from_check(path, error) from error
    if not is_checked:
        check_digest(path, None, None, to_do="")
    return progress


def _taken(content: Mapping[str, Any], arrays: Mapping[str, Array], run: Run) -> Progress:
    """How far a state is, whose weights and moments the run takes over. Raises ValueError where they do not fit it."""
    _whole("seed", content.get("seed", run.seed), run.seed, run.seed)
    iteration = _whole("iteration", content.get("iteration"), 1, run.total)
    seconds = checked_number("seconds", content.get("seconds"), NOT_NEGATIVE)
    first_loss = checked_number("first_loss", content.get("first_loss"), FINITE)
    kept = content.get("best")
    if kept is not None and not (isinstance(kept, dict) and run.selects):
        expected = "merit and iteration" if run.selects else "none in a run that keeps the last"
        raise ValueError(f"best: expected {expected}, got {kept!r}")
    if run.prunes:
        arrays = {**_masks_before(run.model, kept is not None), **arrays}
    _check_names(arrays, run, best=kept is not None)
    best = None
    if kept is not None:
        merit = checked_number("best.merit", kept.get("merit"), FINITE)
        best_iteration = _whole("best.iteration", kept.get("iteration"), 1, iteration)
        best = Best(merit, best_iteration, _set_weights(run, arrays, "best"))
    _set_weights(run, arrays, "model")
    _set_moments(run.optimiser, arrays, iteration)
    return Progress(iteration, seconds, first_loss, best)


def _masks_before(model: Model, best: bool) -> dict[str, Array]:
    """Masks that are all there, as the model has them: those of a training that was not to prune, and is now."""
    masks = {name: _array(tensor) for name, tensor in model.state_dict().items() if tensor.dtype == torch.bool}
    return {f"{prefix}.{name}": mask for prefix in ("model", "best")[: 1 + best] for name, mask in masks.items()}


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        expected = f"{least}" if least == most else f"a whole number from {least} to {most}"
        raise ValueError(f"{name}: expected {expected}, as this run has it, got {value!r}")
    return value


def _check_names(arrays: Mapping[str, Array], run: Run, *, best: bool) -> None:
    """Raise ValueError unless these are the arrays of this model and optimiser, no more and no less."""
    prefixes = ("model", "best") if best else ("model",)
    names = {f"{prefix}.{name}" for prefix in prefixes for name in run.model.state_dict()}
    names |= {f"optimiser.{i}.{name}" for i in range(len(_parameters(run.optimiser))) for name in MOMENTS}
    for name in sorted(names ^ set(arrays)):
        expected, got = ("an array", "none") if name in names else ("no such array", "one")
        raise ValueError(f"{name}: expected {expected} in this run, got {got}")


def _set_weights(run: Run, arrays: Mapping[str, Array], prefix: str) -> dict[str, Tensor]:
    """Load weights that are in range, into the model; returns them. ValueError where it would not have come to them."""
    weights, model = {}, run.model
    for name, tensor in model.state_dict().items():
        weights[name] = new = _tensor(f"{prefix}.{name}", arrays, tensor)
        if run.prunes and tensor.dtype == torch.bool:
            if bool((new & ~tensor).any()):
                raise ValueError(f"{prefix}.{name}: expected no synapse that was taken out before, got some")
        elif not tensor.is_floating_point() and not torch.equal(new, tensor):
            raise ValueError(f"{prefix}.{name}: expected {tensor.tolist()}, which is not trained, got {new.tolist()}")
    try:
        model.load_state_dict(weights)
        model.to_network()  # whose values are checked
    except RuntimeError as error:  # torch's, with what the layers say
        raise ValueError(f"{prefix}: expected weights that the layers take, got others: {error}") from error
    except ValueError as error:
        raise ValueError(f"{prefix}.{error}") from error
    model.clamp_()  # as after every step: it changes none of them
    for name, tensor in model.state_dict().items():
        if not torch.equal(weights[name], tensor):
            raise ValueError(f"{prefix}.{name}: expected values in range, got {describe_values(weights[name])}")
    return weights


def _set_moments(optimiser: torch.optim.Optimizer, arrays: Mapping[str, Array], iteration: int) -> None:
    """Load the moments of the optimiser. Raises ValueError for those that it cannot have after so many steps."""
    state: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(_parameters(optimiser)):
        like = dict.fromkeys(MOMENTS, parameter) | {"step": torch.zeros(())}
        state[index] = {name: _tensor(f"optimiser.{index}.{name}", arrays, like[name]) for name in MOMENTS}
        for name, tensor in state[index].items():
            least = -math.inf if name == "exp_avg" else 0.0
            if not bool(tensor.isfinite().all()) or bool((tensor < least).any()):
                raise ValueError(f"optimiser.{index}.{name}: expected finite values, got {describe_values(tensor)}")
        _whole(f"optimiser.{index}.step", _as_whole(state[index]["step"]), 1, iteration)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """What it optimises, in the order in which its state_dict counts."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _as_whole(step: Tensor) -> int | float:
    value = step.item()
    return int(value) if value == int(value) else value


def _array(tensor: Tensor) -> Array:
    """What the file has of a tensor: of masks bytes, 0 and 1."""
    array: Array = tensor.detach().cpu().numpy()
    return array.astype(np.uint8) if array.dtype == bool else array


def _tensor(name: str, arrays: Mapping[str, Array], like: Tensor) -> Tensor:
    """A copy of an array that has the shape and the dtype of a tensor, on its device."""
    array = arrays[name]
    if array.shape != tuple(like.shape):
        raise ValueError(f"{name}: expected shape {tuple(like.shape)}, got {array.shape}")
    if like.dtype == torch.bool and array.dtype == np.uint8:
        array = as_mask(name, array)
    tensor = torch.tensor(np.array(array), device=like.device)
    if tensor.dtype != like.dtype:
        raise ValueError(f"{name}: expected {like.dtype}, got {tensor.dtype}")
    return tensor
