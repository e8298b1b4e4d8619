"""Tasks by name, the paper's and one of own data: spikes in time, a loss, a measure, the paper's settings."""

from __future__ import annotations

from hetsyn_plugins.experiments.tasks.dms import DelayedMatchToSample
from hetsyn_plugins.experiments.tasks.images import SequentialImages
from hetsyn_plugins.experiments.tasks.own import OwnData
from hetsyn_plugins.experiments.tasks.patterns import PatternGeneration
from hetsyn_plugins.experiments.tasks.speech import Speech
from hetsyn_plugins.experiments.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (PatternGeneration, DelayedMatchToSample, Speech, SequentialImages, OwnData)
}
