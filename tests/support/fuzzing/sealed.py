"""Files that our own writers make of values that cannot be: what a digest vouches for need not be right."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import plain

from fuzzing.by_safetensors import canonical
from fuzzing.cases import MARKUP, Kind
from fuzzing.loaders import trainer_of
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments.run_folder import CLAIM, RESULT, STATE, ClaimResult, SeedResult, write_content
from hetsyn_plugins.experiments.training_state import Best
from hetsyn_plugins.fixed_point.network import FixedNetwork


def written(name: str, write: Callable[[Path], Any]) -> bytes:
    """The bytes of a file that a writer of ours makes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        return path.read_bytes()


def saved(network: Any) -> bytes:
    """A checkpoint, with its metadata in one order."""
    return canonical(written("n.safetensors", functools.partial(checkpoint.save, network)))


def kind(make_all: Callable[[], Iterator[bytes]], may_be: bool = False) -> Kind:
    """One of these files, whatever the good one was."""
    files = functools.cache(lambda: tuple(make_all()))
    name = f"sealed: values that {'may' if may_be else 'cannot'} be"
    return Kind(name, lambda rng, data, other: rng.choice(files()), sealed=may_be)


def planted(thing: Any, name: str, value: Any) -> Any:
    """A copy of a frozen dataclass with a value that its constructor might refuse."""
    copy = replace(thing)
    object.__setattr__(copy, name, value)
    return copy


def _with(array: Any, value: float) -> Any:
    """The array with one number changed."""
    changed = np.array(array)
    changed.reshape(-1)[0] = value
    return changed


def networks(save: Callable[[Any, Path], Any] = checkpoint.save, name: str = "x.safetensors") -> Iterator[bytes]:
    """Files, checkpoints or what `save` writes, of networks that cannot be."""
    mix, hidden, drop, out = plain().layers
    wrong: list[tuple[Any, ...]] = [()]
    wrong += [(planted(mix, n, _with(getattr(mix, n), v)),) for n in ("weight", "bias") for v in (math.nan, math.inf)]
    fields = [("weight", math.nan), ("decay", 2.0), ("decay", math.nan), ("reset_decay", -0.5), ("threshold", 0.0)]
    fields += [("recurrent_decay", 1.5), ("bias", math.inf), ("adaptation_decay", math.nan)]
    for name, value in fields:
        params = planted(hidden.params, name, _with(getattr(hidden.params, name), value))
        wrong.append((mix, planted(hidden, "params", params), drop, out))
    for dt in (math.nan, -1e-3, 0.0, math.inf, True, "1 ms"):
        wrong.append((mix, planted(hidden, "dt", dt), drop, out))
    options = [("share", "x"), ("parametrization", "x"), ("tie_reset", "yes"), ("autapses", 1), ("name", 5)]
    options += [("stored", {"decay": np.full((6, 7), math.nan)}), ("learned", frozenset({"x"}))]
    wrong += [(mix, planted(hidden, name, value), drop, out) for name, value in options]
    wrong += [(mix, hidden, planted(drop, "p", p), out) for p in (True, math.nan, 2.0, -0.1, "x", None)]
    for layers in wrong:
        network = planted(plain(), "layers", layers)
        yield from _made(name, functools.partial(save, network))


def _made(name: str, write: Callable[[Path], Any]) -> Iterator[bytes]:
    """The file, where the writer does not refuse already what cannot be."""
    try:
        data = written(name, write)
    except (ValueError, TypeError, AttributeError):
        return
    yield canonical(data) if name.endswith("safetensors") else data


def chips(good: FixedNetwork) -> Iterator[bytes]:
    """Chip files of networks that cannot be."""
    first, *others = good.layers
    values = [("threshold", 0), ("decay", 4097), ("decay", -1), ("reset_decay", 9_999)]
    fields = [(name, _with(getattr(first.params, name), value)) for name, value in values]
    fields += [
        ("unit", math.nan),
        ("unit", -1.0),
        ("fraction", 99),
        ("form", "x"),
        ("weight_exp", 8),
        ("weight_exp", 99),
    ]
    for name, value in fields:
        layer = planted(first, "params", planted(first.params, name, value))
        yield from _made("x.net", functools.partial(chip_file.write, planted(good, "layers", (layer, *others))))
    delayed = planted(first, "delay", np.full(len(first.params.weight), -3))
    for layers in ((), (delayed, *others), (first, first), (first, planted(others[0], "name", ""))):
        yield from _made("x.net", functools.partial(chip_file.write, planted(good, "layers", layers)))


def states(good: bytes) -> Iterator[bytes]:
    """States of training that cannot be, of runs that go on from a good one."""
    changes: list[Callable[[Any], Any]] = [
        *(functools.partial(_set, "iteration", value) for value in ("x", -1, 10**9, True, 1.5)),
        *(functools.partial(_set, "seconds", value) for value in (math.nan, -1.0, "x")),
        *(functools.partial(_set, "first_loss", value) for value in (math.nan, "x", [1])),
        *(
            functools.partial(_set, "best", value)
            for value in (Best(math.nan, 1, {}), Best(0.5, 9, {}), Best(0.5, 1, {}))
        ),
        *(functools.partial(_fill, value) for value in (math.nan, math.inf)),
    ]
    for change in changes:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, STATE).write_bytes(good)
            trainer = trainer_of(Path(folder), "last")
            trainer.log.close()
            change(trainer)
            try:
                trainer._save()
            except (ValueError, TypeError):  # the writer looks too
                continue
            yield canonical(Path(folder, STATE).read_bytes())


def _set(name: str, value: Any, trainer: Any) -> None:
    setattr(trainer, name, value)


def _fill(value: float, trainer: Any) -> None:
    with torch.no_grad():
        next(trainer.model.parameters()).view(-1)[0] = value


def results(good: SeedResult) -> Iterator[bytes]:
    """Results whose entries have another type."""
    for name, value in (("versions", {"python": 3}), ("seed", True), ("test", "x"), ("select", None)):
        yield from _made(RESULT, functools.partial(_write, planted(good, name, value)))


def claims(good: ClaimResult) -> Iterator[bytes]:
    """Claims whose pictures lie elsewhere, and whose entries have another type."""
    elsewhere = ("../canary.png", "/etc/passwd", "../../etc/passwd", "", ".", "p.png\0", "p.png/", "x/../../canary.png")
    for file in elsewhere:
        yield from _made(
            CLAIM, functools.partial(_write, planted(good, "pictures", [replace(good.pictures[0], file=file)]))
        )
    for name, value in (("runs", [5]), ("rows", [5]), ("pictures", {}), ("title", None)):
        yield from _made(CLAIM, functools.partial(_write, planted(good, name, value)))
    for name, value in (("ours", "x"), ("n", True), ("holds", 1), ("label", 5), ("unit", None)):
        row = planted(good.rows[0], name, value)
        yield from _made(CLAIM, functools.partial(_write, planted(good, "rows", [row])))


def other_claims(good: ClaimResult) -> Iterator[bytes]:
    """Claims that say something else, which a page must show as it is."""
    texts = (MARKUP, "\ud800", "a\nb", "{{ 7*7 }}", "</td></table>", "")
    values = [(name, text) for name in ("title", "statement", "command", "verdict") for text in texts]
    for name, value in [*values, ("rows", []), ("pictures", []), ("runs", [])]:
        yield from _made(CLAIM, functools.partial(_write, planted(good, name, value)))
    for name, value in (("ours", math.nan), ("ours", math.inf), ("paper", 10**400), ("sd", -1.0), ("label", MARKUP)):
        row = planted(good.rows[0], name, value)
        yield from _made(CLAIM, functools.partial(_write, planted(good, "rows", [row])))


def _write(content: Any, path: Path) -> None:
    write_content(path, content)
