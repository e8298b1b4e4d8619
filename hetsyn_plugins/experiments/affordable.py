"""Configurations that cannot be are refused before they train, by the setting that matters most; and where memory runs
out all the same, that setting is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import MISSING, fields, replace
from functools import partial
from typing import Any, NamedTuple

from hetsyn_plugins.core.allocations import told
from hetsyn_plugins.core.memory import available, available_to_all, size_text
from hetsyn_plugins.experiments.batches import KEPT
from hetsyn_plugins.experiments.config import Config, toml_value
from hetsyn_plugins.experiments.costs import (
    CONTEXT,
    DAY,
    ITERATION,
    LONGEST,
    PROCESS,
    cores,
    evaluation_time,
    memory_needed,
    training_time,
)
from hetsyn_plugins.ops import devices

THREADS_A_CORE = 64  # a large machine's configuration runs on a small one; thousands of threads end the process
LONG = 60  # characters of a value
MAY_END = f"what may end in {LONGEST // DAY} days"
OVERRIDE = "--despite-cost tries it all the same"
Cost = Callable[[Config], int]


class Setting(NamedTuple):
    """A setting that is a number or several, and what the task has for it otherwise."""

    key: str
    value: Any
    usual: Any


def check_costs(config: Config, jobs: int = 1) -> None:
    """Raise ValueError, naming the setting that matters most, where training needs what there is not.

    jobs   seeds at a time, each in a process of its own
    """
    check_threads(config.training.threads)
    check_memory(config, memory_needed)
    card = on_card(config)
    there, each = (available_to_all(), PROCESS) if card is None else (card, CONTEXT)
    each += memory_needed(config)
    if jobs > 1 and jobs * each > there:
        need = f"{size_text(jobs * each)}, {size_text(each)} each"
        refusal = _refusal("--jobs", f"as many as fit into {size_text(there)} of {memory_of(config)}", jobs, need)
        raise ValueError(f"{refusal}; {OVERRIDE}")
    check_time(config, training_time)


def check_evaluation(config: Config) -> None:
    """Raise ValueError, likewise, where the test set of a trained network needs what there is not."""
    check_memory(config, partial(memory_needed, trains=False))
    check_time(config, evaluation_time)


def check_threads(threads: int) -> None:
    """Raise ValueError for more threads than the cores have a use for."""
    most = THREADS_A_CORE * cores()
    if threads > most:
        need = f"{threads // THREADS_A_CORE:,} cores"
        refusal = _refusal("training.threads", f"at most {most} on {cores()} cores", threads, need)
        raise ValueError(f"{refusal}; {OVERRIDE}")


def check_memory(config: Config, cost: Cost) -> None:
    """Raise ValueError where a configuration needs more memory than there is, on a card: than is free on that."""
    card, need = on_card(config), cost(config)
    there = available() if card is None else card
    if need > there:
        setting = heaviest(config, cost)
        what = size_text(need) + less(config, setting, cost, size_text)
        refusal = _refusal(
            setting.key, f"what fits into {size_text(there)} of {memory_of(config)}", setting.value, what
        )
        raise ValueError(f"{refusal}; {OVERRIDE}")


def on_card(config: Config) -> int | None:
    """Bytes of the card that a network can have, beside the data that stay there; None where none is to be used."""
    if config.training.device == "cpu":
        return None
    free = devices.free(devices.usable("training.device", config.training.device))
    return free - free // KEPT


def memory_of(config: Config) -> str:
    """Whose memory it is, in words."""
    return "memory" if config.training.device == "cpu" else f"memory on {config.training.device}"


def check_time(config: Config, cost: Cost) -> None:
    """Raise ValueError where a configuration takes longer than anybody waits."""
    least = cost(config)
    if least > LONGEST:
        setting = heaviest(config, cost)
        need = days_text(least) + less(config, setting, cost, days_text)
        raise ValueError(f"{_refusal(setting.key, MAY_END, setting.value, need)}; {OVERRIDE}")


def check_rounds(option: str, value: int) -> None:
    """Raise ValueError where an option asks for so many rounds that they take longer than anybody waits."""
    if value * ITERATION > LONGEST:
        raise ValueError(_refusal(option, MAY_END, value, days_text(value * ITERATION)))


def _refusal(key: str, expected: str, value: Any, need: str) -> str:
    return f"{key}: expected {expected}, got {value_text(value)}, which needs {need}"


def spending(config: Config, what: str) -> AbstractContextManager[None]:
    """Inside, an allocation that fails is told with what was done and what would need less (`allocations.told`)."""
    return told(what, lambda: advice(config))


def advice(config: Config) -> str:
    """Which setting to change where memory ran out."""
    setting = heaviest(config, memory_needed)
    needs = f"{value_text(setting.value)} needs about {size_text(memory_needed(config))}"
    return f"{setting.key}: {needs}{less(config, setting, memory_needed, size_text)}"


# ---- which setting -----------------------------------------------------------------------------------------------


def heaviest(config: Config, cost: Cost) -> Setting:
    """The setting whose usual value would save most; where that is none, or several, the one to halve or double."""

    def costs(setting: Setting) -> tuple[int, int]:
        halved = min((cost for _, cost in with_values(config, setting.key, halves(setting.value), cost)), default=now)
        usual = min((cost for _, cost in with_values(config, setting.key, [setting.usual], cost)), default=now)
        return min(usual, now), halved

    now = cost(config)
    return min(numeric_settings(config), key=costs)


def numeric_settings(config: Config) -> Iterator[Setting]:
    """Every setting that is a number, or a list of numbers."""
    for table in ("task", "network", "training"):
        part: Any = getattr(config, table)
        for field in fields(part):
            key, value = f"{table}.{field.name}", getattr(part, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers):
                usual = config.task.paper.get(key, value if field.default is MISSING else field.default)
                yield Setting(key, value, tuple(usual) if isinstance(usual, list) else usual)


def less(config: Config, setting: Setting, cost: Cost, say: Callable[[int], str]) -> str:
    """ "; 1000 needs 1.1 GiB": what half of the setting needs, or the double, or what is usual; "" where not less."""
    values, now = [*halves(setting.value), setting.usual], cost(config)
    for value, need in with_values(config, setting.key, values, cost):
        if need < now:
            return f"; {value_text(value)} needs {say(need)}"
    return ""


def with_values(config: Config, key: str, values: Sequence[Any], cost: Cost) -> Iterator[tuple[Any, int]]:
    """What the configuration costs with each of these values of a setting, those left out that it may not have."""
    table, _, name = key.partition(".")
    for value in values:
        try:
            part: Any = replace(getattr(config, table), **{name: value})
            yield value, cost(replace(config, **{table: part}))
        except ValueError:
            continue


def halves(value: Any) -> list[Any]:
    """Half and double of a number, or of each number of a list."""
    if isinstance(value, tuple):
        return list(map(tuple, zip(*map(halves, value), strict=True)))
    return [value // 2 if isinstance(value, int) else value / 2, value * 2]


# ---- words -------------------------------------------------------------------------------------------------------


def value_text(value: Any) -> str:
    """A value as it is set; of a long list the start."""
    text = toml_value(value)
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def days_text(microseconds: int) -> str:
    """Days for a reader."""
    days = microseconds // DAY
    return f"{days:,} days" if days < 10**9 else "more than 10^9 days"
