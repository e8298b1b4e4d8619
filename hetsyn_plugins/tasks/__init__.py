"""The paper's tasks, by name: data as spikes in time, a loss, a measure, the paper's settings."""

from __future__ import annotations

from hetsyn_plugins.tasks.dms import DelayedMatchToSample
from hetsyn_plugins.tasks.images import SequentialImages
from hetsyn_plugins.tasks.patterns import PatternGeneration
from hetsyn_plugins.tasks.speech import Speech
from hetsyn_plugins.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (PatternGeneration, DelayedMatchToSample, Speech, SequentialImages)
}
