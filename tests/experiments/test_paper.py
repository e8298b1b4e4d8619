"""The paper's numbers, written out a second time: an exchanged digit must be exchanged in both places to pass."""

from typing import Any

import pytest

from hetsyn_plugins.experiments.claims import CLAIMS, paper
from hetsyn_plugins.experiments.config import load_config

TABLE4 = """
    start                        100      200      400
    cue                       154.38   252.43   430.70
    noise                      85.59   181.93   382.29
    long                        5.25     6.05     5.80
    accuracy                   99.97   100.00    99.87
    accuracy_after_reset       75.68    76.47    77.15
"""


def test_table_4() -> None:
    rows = {name: [float(number) for number in numbers] for name, *numbers in map(str.split, TABLE4.split("\n")[1:-1])}
    assert list(paper.TABLE4) == rows.pop("start")
    assert {name: [getattr(column, name) for column in paper.TABLE4.values()] for name in rows} == rows


def test_reported_accuracies_and_conditions() -> None:
    reported = (paper.FROZEN, paper.DELAY, paper.NOISE, paper.SHD, paper.S_MNIST)
    assert [accuracy.percent for accuracy in reported] == [100.0, 100.0, 80.0, 92.36, 98.93]
    assert all(len(accuracy.source) > 20 for accuracy in reported)
    assert (paper.SUCCESS, paper.SMALLEST, paper.WARP) == (90.0, 5, 0.5)
    assert paper.DELETION == (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
    assert paper.ORDER == ("hetsyn", "hetneu", "alif", "homneu")


def test_the_numbers_reach_what_is_said() -> None:
    assert "(SHD: 92.36 %)" in CLAIMS["speech"].statement
    assert "HetSynLIF > HetNeuLIF > HomNeuALIF > HomNeuLIF" in CLAIMS["speech"].statement
    assert "(S-MNIST: 98.93 %)" in CLAIMS["visual"].statement
    for name, setting in {
        "dms-frozen": "network.frozen=0.8",
        "dms-delay": "task.delay=2.5",
        "dms-noise": "task.noise_rate=20.0",
    }.items():
        assert setting in CLAIMS[name].arms[name].settings


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        (
            "patterns",
            {
                "lines": 100, "hidden": (100,), "recurrent": False, "segment": 0.5, "silence": 0.25, "dt": 1e-3,
                "segment_rate": 10.0, "noise_rate": 2.0, "tau_distribution": "normal", "tau_start": (20e-3, 5e-3),
                "tau_reset": 20e-3, "tau_adaptation": 500e-3, "adaptation": 0.01, "surrogate": "triangular",
                "optimiser": "adam", "lr": 1e-3, "schedule": "step", "schedule_every": 100, "schedule_factor": 0.8,
                "iterations": 1000, "batch": 1,
            },
        ),
        (
            "dms",
            {
                "group": 10, "hidden": (50,), "recurrent": True, "dt": 5e-3, "onset": 50e-3, "cue": 0.1, "delay": 0.8,
                "cue_rate": 40.0, "noise_rate": 10.0, "tau_distribution": "normal", "tau_start": (40e-3, 4e-3),
                "tau_reset": 40e-3, "tau_adaptation": 800e-3, "adaptation": 0.15, "surrogate": "triangular",
                "optimiser": "adam", "lr": 5e-3, "schedule": "step", "schedule_every": 100, "schedule_factor": 0.8,
                "iterations": 1000, "batch": 32,
            },
        ),
        (
            "images",
            {
                "hidden": (64, 64), "recurrent": True, "tau_distribution": "uniform", "tau_start": (5e-3, 20e-3),
                "tau_reset": 20e-3, "surrogate": "multi_gaussian", "batch": 256, "weight_decay": 0.0,
            },
        ),
        (
            "speech",  # in real time: four times what the paper's labels say
            {
                "hidden": (128, 64), "recurrent": True, "dropout": 0.2, "dt": 4e-3, "duration": 1.0,
                "tau_distribution": "uniform", "tau_start": (20e-3, 80e-3), "tau_reset": 80e-3,
                "tau_adaptation": 400e-3, "adaptation": 0.05, "surrogate": "multi_gaussian", "optimiser": "adamw",
                "weight_decay": 4e-3, "schedule": "cosine", "warmup": 0.05, "batch": 32,
            },
        ),
    ],
)  # fmt: skip
def test_a_task_has_the_papers_settings(task: str, settings: dict[str, Any]) -> None:
    config = load_config(task)
    for name, number in settings.items():
        (part,) = (part for part in (config.task, config.network, config.training) if hasattr(part, name))
        assert getattr(part, name) == number, name


def test_files_of_recordings_are_trained_on_as_the_paper_says() -> None:
    training = load_config("speech", ["task.source=some/folder"]).training
    assert (training.epochs, training.lr, training.decay_lr, training.weight_decay) == (100, 2e-3, 4e-3, 4e-3)
    assert training.schedule_span == 40
