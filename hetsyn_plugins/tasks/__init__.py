"""Data to train networks on, as spikes in time."""

from __future__ import annotations

from importlib import import_module

from hetsyn_plugins.tasks.task import Task

TASKS: dict[str, type[Task]] = {}
for module, name in (("patterns", "PatternGeneration"), ("dms", "DelayedMatchToSample"), ("speech", "Speech"), ("images", "SequentialImages")):
    try:  # TEMPORARY while the tasks are being written
        task = getattr(import_module(f"hetsyn_plugins.tasks.{module}"), name)
        TASKS[task.name] = task
    except (ImportError, AttributeError):
        pass
