"""Tasks by name, the paper's, one of own data, and those of one's own by import path: "package.module:Class"."""

from __future__ import annotations

from hetsyn_plugins.experiments.imported import FORM, imported, is_path
from hetsyn_plugins.experiments.tasks.dms import DelayedMatchToSample
from hetsyn_plugins.experiments.tasks.images import SequentialImages
from hetsyn_plugins.experiments.tasks.own import OwnData
from hetsyn_plugins.experiments.tasks.patterns import PatternGeneration
from hetsyn_plugins.experiments.tasks.speech import Speech
from hetsyn_plugins.experiments.tasks.task import DataTask, DrawnTask, Task

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (PatternGeneration, DelayedMatchToSample, Speech, SequentialImages, OwnData)
}
NEEDED: dict[type[Task], tuple[str, ...]] = {  # what a subclass gives
    Task: ("lines", "outputs", "batches", "training_batch", "held_out", "loss", "score"),
    DrawnTask: ("drawn_batch", "test_samples"),
    DataTask: ("split", "samples_of", "noun", "validation", "split_seed", "samples"),
}


def task_class(name: str) -> type[Task]:
    """The task of a name or an import path.

    Raises ValueError for a name that is none, or for a class that is no task, naming what it lacks; ImportError where
    its module cannot be imported.
    """
    if name in TASKS:
        return TASKS[name]
    if not is_path(name):
        raise ValueError(f"task.name: expected one of {', '.join(TASKS)} or {FORM}, got {name!r}")
    kind = imported("task.name", name)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"task.name: expected a subclass of {Task.__module__}:Task, got {name}, which is {kind!r}")
    check_whole(kind, name)
    return kind


def name_of(task: Task) -> str:
    """What `task_class` finds its class by."""
    kind = type(task)
    known = TASKS.get(getattr(kind, "name", ""))
    place = (kind.__module__, kind.__qualname__)
    return kind.name if known and place == (known.__module__, known.__qualname__) else ":".join(place)


def check_whole(kind: type[Task], path: str) -> None:
    """Raise ValueError, naming them, where a class lacks what a task has."""
    lacking = [] if hasattr(kind, "name") else ["name"]
    for base, names in NEEDED.items():
        if issubclass(kind, base):
            lacking += [name for name in names if getattr(kind, name, None) is getattr(base, name, None)]
    if lacking:
        raise ValueError(f"task.name: expected a task with {', '.join(lacking)}, got {path} without")
    settings = [name for name, hint in vars(kind).get("__annotations__", {}).items() if "ClassVar" not in str(hint)]
    if settings and "__dataclass_fields__" not in vars(kind):
        expected = f"@dataclass(frozen=True) above a class with settings, {', '.join(settings)}"
        raise ValueError(f"task.name: expected {expected}, got {path} without")
