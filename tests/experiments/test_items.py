"""Data and runs from Python: items of any Dataset as batches and as files, and what `experiments.train` returns."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planting import changed
from torch.utils.data import DataLoader, Dataset

from hetsyn_plugins import cli, experiments
from hetsyn_plugins.experiments import plots, run_folder
from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.data import items
from hetsyn_plugins.experiments.tasks.own import OwnData

EVENT = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.int8)])
SENSOR = (3, 2, 2)
FAST: dict[str, Any] = {"network.hidden": [4], "training": {"epochs": 1, "batch": 8}}


def events(*rows: tuple[int, int, int, int]) -> np.ndarray:
    """Events (x, y, t in microseconds, p), as tonic has them."""
    return np.array(list(rows), EVENT)


class Taps(Dataset[tuple[np.ndarray, int]]):
    """A sensor is tapped on one of two sides: at module level, for workers."""

    sensor_size = SENSOR

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        rng = np.random.default_rng(index)
        n, label = int(rng.integers(2, 9)), index % 2
        times = np.sort(rng.integers(0, 8000, n))
        return events(*((2 * label, int(rng.integers(2)), int(t), int(rng.integers(2))) for t in times)), label


def test_events_are_lines_in_the_order_of_tonics_frames() -> None:
    first = events((0, 0, 0, 0), (2, 1, 999, 1), (2, 1, 999, 1), (1, 0, 2000, 1))
    batch = items.collate([(first, 3), (events((1, 1, 500, 0)), np.int64(0))], sensor_size=SENSOR)
    frames = np.zeros((3, 2, 2, 2, 3), np.float32)  # T, B, P, H, W
    frames[0, 0, 0, 0, 0] = frames[2, 0, 1, 0, 1] = frames[0, 1, 0, 1, 1] = 1
    frames[0, 0, 1, 1, 2] = 2
    assert (batch.inputs.numpy() == frames.reshape(3, 2, 12)).all()
    assert batch.target.tolist() == [3, 0] and batch.lengths.tolist() == [3, 1]
    assert items.collate([(first, 0)], sensor_size=SENSOR, dt=0.1).inputs.shape == (1, 1, 12)
    cut = items.collate([(first, 0)], sensor_size=SENSOR, steps=2)
    assert cut.inputs.shape == (2, 1, 12) and cut.lengths.tolist() == [2]
    sound = np.array([(5, 0, 1)], [("t", np.int64), ("x", np.int64), ("p", np.int64)])
    assert items.collate([(sound, 0)], sensor_size=(700, 1, 1)).inputs.sum() == 1, "no y, and p says nothing"


def test_frames_of_a_loader_are_padded() -> None:
    frames = [(torch.rand((n, 2, 3)), torch.tensor(n % 2)) for n in (4, 7, 5)]
    (batch,) = DataLoader(frames, batch_size=3, collate_fn=experiments.collate)  # type: ignore[arg-type]
    assert batch.inputs.shape == (7, 3, 6) and batch.lengths.tolist() == [4, 7, 5]
    for i, (frame, label) in enumerate(frames):
        assert torch.equal(batch.inputs[: len(frame), i], frame.flatten(1)) and batch.target[i] == label
        assert not batch.inputs[len(frame) :, i].any()
    loader = DataLoader(Taps(), batch_size=30, collate_fn=partial(experiments.collate, sensor_size=SENSOR))
    assert next(iter(loader)).inputs.sum() == sum(len(content) for content, _ in (Taps()[i] for i in range(30)))


GOOD = (np.ones((3, 2)), 0)
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "no pair": (np.ones((3, 2)), TypeError, r"item 1: expected \(events or array, label\), got ndarray"),
    "rank": ((np.ones(3), 0), ValueError, r"item 1: expected frames \(T, M\).* got shape \(3,\); .*x\[:, None\]"),
    "no step": ((np.ones((0, 2)), 0), ValueError, r"item 1: expected frames .*got shape \(0, 2\)"),
    "texts": ((np.array([["a"]]), 0), TypeError, "item 1: expected numbers"),
    "NaN": ((np.array([[0, 1], [0, np.nan]]), 0), ValueError, r"item 1: expected finite numbers, got nan at \(1, 1\)"),
    "width": ((np.ones((3, 4)), 0), ValueError, "item 1: expected 2 input lines, as item 0 has, got 4"),
    "label below 0": ((np.ones((3, 2)), -1), ValueError, "item 1: expected a label, a whole number from 0, got -1"),
    "half a label": ((np.ones((3, 2)), 0.5), ValueError, "item 1: expected a label, .*, got 0.5"),
    "one-hot": ((np.ones((3, 2)), [0, 1]), ValueError, r"item 1: expected a label, .*, got \[0, 1\]"),
    "events without a sensor": ((events((0, 0, 0, 0)), 0), ValueError, "item 1: expected a sensor_size"),
}


@pytest.mark.parametrize(("item", "error", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_item_is_told(item: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        items.collate([GOOD, item])


WRONG_EVENTS: dict[str, tuple[np.ndarray, str]] = {
    "none": (events(), r"expected at least one event, got \(0,\); leave out"),
    "unsorted": (events((0, 0, 5, 0), (0, 0, 4, 0)), "expected events in the order of t .*got 4 of event 1"),
    "before 0": (events((0, 0, -5, 0)), "expected t from 0.*got -5 of event 0"),
    "x": (events((3, 0, 5, 0)), r"expected x from 0 to 2, as the sensor_size \(3, 2, 2\) has it, got 3 of event 0"),
    "y": (events((0, 0, 5, 0), (0, -1, 5, 0)), "expected y from 0 to 1.*got -1 of event 1"),
    "p": (events((0, 0, 5, 2)), "expected p from 0 to 1.*got 2 of event 0"),
    "no y": (events((0, 0, 5, 0))[["x", "t", "p"]], "expected events with the fields t, x, y, p, got x, t, p"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG_EVENTS.values(), ids=WRONG_EVENTS)
def test_wrong_events_are_told(wrong: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"^item 0: {message}"):
        items.collate([(wrong, 0)], sensor_size=SENSOR)


@pytest.mark.parametrize("size", [12, (3, 2), (3, 2, 0), "3x2", (3.5, 2, 2)])
def test_a_sensor_that_is_none_is_told(size: Any) -> None:
    with pytest.raises(ValueError, match=r"^sensor_size: expected three numbers .* got "):
        items.collate([(events((0, 0, 5, 0)), 0)], sensor_size=size)


@pytest.mark.parametrize("steps", [0, 2.5, "3"])
def test_a_number_of_steps_that_is_none_is_told(steps: Any) -> None:
    with pytest.raises(ValueError, match=r"^steps: expected "):
        items.collate([GOOD], steps=steps)


def test_a_planted_order_of_lines_is_noticed() -> None:
    planted = changed(items.__name__, '("y", height), ("x", width)', '("x", width), ("y", height)')[items.__name__]
    with pytest.raises(AssertionError):
        assert (planted.collate([(events((2, 1, 0, 1)), 0)], sensor_size=SENSOR).inputs[0, 0, 11]) == 1
        assert (planted.collate([(events((1, 0, 0, 0)), 0)], sensor_size=SENSOR).inputs[0, 0, 1]) == 1


def test_a_dataset_is_trained_on_in_a_few_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    result = experiments.train({**FAST, "task.dt": 2e-3}, Taps(), out=out, quiet=True)
    assert result.history[0][-1]["iteration"] == result.summary.seeds[0] + 3 and 0 <= result.test[0] <= 1
    before, after = result.networks[0]
    assert before.layers[0].name == after.layers[0].name == "hidden1"
    drawn, save = {}, plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.setdefault(path.stem, figure) and save(figure, path))
    assert all(path.stat().st_size for path in result.pictures) and len(result.pictures) == 6
    texts = drawn["loss"].findobj(lambda artist: hasattr(artist, "get_text"))
    assert "on the validation set" in [text.get_text() for text in texts]
    task = run_folder.load_run_config(out).task
    assert isinstance(task, OwnData) and (task.lines, task.outputs) == (12, 2)
    batch = task.samples_of(np.arange(30))
    expected = items.collate([Taps()[i] for i in range(30)], sensor_size=SENSOR, dt=2e-3)
    assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))
    again = experiments.train({**FAST, "task.dt": 2e-3}, Taps(), out=out, quiet=True)
    assert again.test == result.test
    activity = result.model(0)(batch.inputs)
    assert activity.readout.shape == (4, 30, 2)
    with pytest.raises(ValueError, match=r"data: expected the samples that are in .*data\.h5, got others"):
        experiments.train({**FAST, "task.dt": 2e-3}, [Taps()[i] for i in range(20)], out=out, sensor_size=SENSOR)


def test_frames_and_a_test_set_are_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [(rng.random((5 + i % 3, 2)), i % 2) for i in range(24)]
    result = experiments.train(FAST, frames, frames[:6], out=tmp_path, quiet=True)
    task = result.config.task
    assert isinstance(task, OwnData) and sum(len(b.target) for b in task.held_out("test", 9, 0)) == 6
    batch = task.samples_of(np.arange(24))
    expected = items.collate(frames)
    assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))


def test_data_of_a_try_that_was_refused_are_not_in_the_way(tmp_path: Path) -> None:
    frames = [(np.eye(6)[[i % 2] * 5], i % 2) for i in range(24)]
    with pytest.raises(ValueError, match="labels: expected every label from 0 to 7"):
        experiments.train(FAST, [*frames, (frames[0][0], 7)], out=tmp_path, quiet=True)
    assert (tmp_path / "data.npz").exists() and not list(tmp_path.glob("seed-*"))
    assert experiments.train(FAST, frames, out=tmp_path, quiet=True).summary.seeds == [0]


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [1 << 32], [0.5], 3, None, ["a"]])
def test_seeds_that_are_none_are_told(seeds: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^seeds: expected whole numbers of 32 bits, one or more, each once, got"):
        experiments.train("dms", out=tmp_path / "run", seeds=seeds)
    assert not (tmp_path / "run").exists()
    assert run_folder.checked_seeds(np.arange(2)) == run_folder.checked_seeds(range(2)) == [0, 1]


def test_a_sweep_from_python_is_that_of_the_command(tmp_path: Path) -> None:
    frames = [(np.eye(6)[[i % 2] * 5], i % 2) for i in range(24)]
    swept = {"network": {"hidden": [[3], [4]]}, "training.lr": np.array([1e-3])}
    found = experiments.train_sweep(FAST, swept, frames, out=tmp_path, quiet=True)
    assert list(found) == ["network.hidden=3,training.lr=0.001", "network.hidden=4,training.lr=0.001"]
    for name, result in found.items():
        assert result.folder == tmp_path / name and run_folder.load_run_config(result.folder) == result.config
        assert result.networks[0][1].layers[0].params.weight.shape == (int(name[15]), 6)  # type: ignore[union-attr]
        alone = experiments.train({**FAST, "network.hidden": [int(name[15])]}, frames, out=tmp_path / "alone" / name)
        assert alone.test == result.test, "the same as by itself"
    words = [word for setting in ("training.epochs=1", "training.batch=8", "task.channels=6")
             for word in ("--set", setting)]  # fmt: skip
    command = ["train", str(tmp_path / "data.npz"), "--sweep", "network.hidden=[3],[4]", "--sweep", "training.lr=1e-3"]
    assert cli.main([*command, *words, "--out", str(tmp_path), "--quiet"]) == 0, "finds its folders done"
    for config in ("dms", load_config("dms")):
        settings = {"training.iterations": [1], "training.batch": [2], "task.test_samples": [2], "task.delay": [0.1]}
        (only,) = experiments.train_sweep(config, settings, out=tmp_path / type(config).__name__, quiet=True).values()
        assert only.config == load_config("dms", ["training.iterations=1", "training.batch=2", "task.test_samples=2",
                                                  "task.delay=0.1"])  # fmt: skip


@pytest.mark.parametrize(
    ("swept", "message"),
    [
        ({}, "sweep: expected settings with the values of each, got {}"),
        ([64, 128], "sweep: expected settings with the values of each, got "),
        ({"training.lr": 1e-3}, "sweep: expected a list of values for training.lr, got 0.001"),
        ({"training.lr": []}, "sweep: expected a list of values for training.lr"),
        ({"network.variant": "hetsyn"}, "sweep: expected a list of values for network.variant, got 'hetsyn'"),
        ({"training.lr": [1e-3, 1e-3]}, "sweep: expected values that differ"),
        ({"training.lrr": [1, 2]}, "setting: expected a known key .* got 'training.lrr'; nearest: training.lr"),
        ({"network.hidden": [[3], [0]]}, "network.hidden: expected at least 1"),
    ],
)
def test_a_sweep_that_is_none_is_told_before_anything_is_made(swept: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        experiments.train_sweep(FAST, swept, [GOOD], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({"task.name": "dms"}, [GOOD]), ValueError, "data: expected none with a task that has its own, got .*'dms'"),
        (({"training.lrr": 1}, [GOOD]), ValueError, "setting: expected a known key .* got 'training.lrr'"),
        (({}, [GOOD, (1, 2, 3)]), TypeError, "item 1: expected"),
        (({}, [GOOD], [(np.ones((3, 4)), 0)]), ValueError, "test: expected frames of 2 input lines, as data are, got"),
        (({}, []), ValueError, "data: expected at least one item"),
        (({}, 5), TypeError, "data: expected a Dataset of .* got int"),
        (({}, {"train": [GOOD]}), TypeError, "data: expected a Dataset of .* got dict"),
        (({"task.name": "dms"}, None, [GOOD]), ValueError, "test: expected with data only"),
        ((3,), TypeError, "config: expected a Config, settings, .* got int"),
    ],
)
def test_nothing_is_written_where_it_is_wrong(
    arguments: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        experiments.train(*arguments, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
