"""Data of one's own: what files say, how they are split, what is refused, and sequences of unequal length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from planting import changed
from torch import Tensor

from hetsyn_plugins import cli
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.experiments import analyse, run_folder, training, variants
from hetsyn_plugins.experiments.batch_norm import BatchNorm
from hetsyn_plugins.experiments.batches import OnCard
from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.tasks import evidence, task
from hetsyn_plugins.experiments.tasks.own import OwnData
from hetsyn_plugins.experiments.tasks.task import Activity, AnyBatch, rate_penalty
from hetsyn_plugins.ops import rates

T, B, M, CLASSES = 12, 40, 5, 3
SMALL = ["network.hidden=[6]", "training.epochs=1", "training.batch=8"]


def arrays(seed: int = 0, samples: int = B, *, lengths: bool = False) -> dict[str, np.ndarray]:
    """Spikes whose busiest line is the label; what stands behind an end is as busy."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % CLASSES
    inputs = rng.random((T, samples, M)) < 0.1 + 0.5 * (np.arange(M) == labels[:, None])
    found = {"inputs": inputs.astype(np.uint8), "labels": labels}
    return found | ({"lengths": rng.integers(3, T + 1, samples)} if lengths else {})


def written(folder: Path, name: str = "mine.npz", **changes: Any) -> Path:
    """A file of them, with other arrays in the place of some; None: without."""
    content = {**arrays(), **changes}
    np.savez(folder / name, **{key: value for key, value in content.items() if value is not None})
    return folder / name


def events(folder: Path, name: str = "mine.h5", **changes: Any) -> Path:
    """A file of 24 recordings of up to 9 events in 7 units, by four speakers."""
    rng = np.random.default_rng(1)
    times = [np.sort(rng.random(rng.integers(1, 10))) * 0.02 for _ in range(24)]
    units = [rng.integers(0, 7, len(row)) for row in times]
    columns = {"times": times, "units": units, "labels": np.arange(24) % 2, "speaker": np.arange(24) // 6} | changes
    with h5py.File(folder / name, "w") as file:
        for key, kind in (("times", np.float32), ("units", np.int32)):
            rows = file.create_dataset(f"spikes/{key}", len(columns[key]), h5py.vlen_dtype(kind))
            for i, row in enumerate(columns[key]):
                rows[i] = np.asarray(row, kind)
        file["labels"], file["extra/speaker"] = columns["labels"], columns["speaker"]
    return folder / name


def sets(own: OwnData) -> dict[str, list[AnyBatch]]:
    """All batches of each set, of one sample each."""
    training_set = [own.samples_of(row[None]) for row in own.split[0]]
    return {"train": training_set, **{split: list(own.held_out(split, 1, 0)) for split in ("validation", "test")}}


# ---- what is read and how it is split ------------------------------------------------------------------------------


def test_a_file_is_split_by_the_seed_into_three_that_do_not_meet(tmp_path: Path) -> None:
    source = str(written(tmp_path))
    split = sets(OwnData(source=source))
    assert {name: len(batches) for name, batches in split.items()} == {"train": 29, "validation": 3, "test": 8}
    seen = sorted(b.inputs.numpy().tobytes() for batches in split.values() for b in batches)
    given = arrays()["inputs"].astype(np.float32)
    assert seen == sorted(given[:, i : i + 1].tobytes() for i in range(B)), "every sample, each once"
    few = OwnData(source=source, samples=5)
    assert len(few.split[0]) == 5 and (few.split[1] == OwnData(source=source).split[1]).all()
    other = OwnData(source=source, split_seed=1)
    assert sorted(other.split[0]) != sorted(OwnData(source=source).split[0])


def test_one_class_alone_is_nothing_to_learn(tmp_path: Path) -> None:
    of_one = OwnData(source=str(written(tmp_path, labels=np.zeros(B, int))))
    with pytest.raises(ValueError, match="labels: expected two classes or more to train on, got class 0 alone"):
        assert of_one.split
    with pytest.raises(ValueError, match="labels: expected two classes or more"):
        assert of_one.chance


def test_sets_that_are_given_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {f"{key}{which}": value for seed, which in ((1, "_validation"), (2, "_test"))
            for key, value in arrays(seed, 6).items()}  # fmt: skip
    own = OwnData(source=str(written(tmp_path, **more)))
    assert len(own.split[0]) == B and not len(own.split[1])
    for seed, split in ((1, "validation"), (2, "test")):
        (batch,) = own.held_out(split, 9, 0)
        assert (batch.inputs.numpy() == arrays(seed, 6)["inputs"]).all()
    written(tmp_path, "other.npz", **arrays(3, 9))
    monkeypatch.chdir(tmp_path)
    apart = OwnData(source=str(written(tmp_path)), test_source="other.npz")
    monkeypatch.chdir("/")
    (batch,) = apart.held_out("test", 9, 0)
    assert (batch.inputs.numpy() == arrays(3, 9)["inputs"]).all() and len(apart.split[0]) == 36


def test_whole_groups_are_held_out(tmp_path: Path) -> None:
    groups = np.arange(B) // 4
    own = OwnData(source=str(written(tmp_path, groups=groups)), validation=0.2)
    train, validation, test = (set(groups[rows]) for rows in (*own.split, own._rest_and_test[1]))
    assert len(test) == len(validation) == 2 and len(train | validation | test) == len(train) + 4
    assert OwnData(source=str(events(tmp_path))).data.train.groups is not None


def test_events_are_counted_in_bins_up_to_the_last_one(tmp_path: Path) -> None:
    times, units = [[0.0, 0.003, 0.003, 0.0099], [0.001], [0.02, 0.025]], [[1, 2, 2, 0], [6], [0, 3]]
    path = events(tmp_path, times=times, units=units, labels=[0, 1, 0], speaker=[0, 0, 0])
    own = OwnData(source=str(path), dt=0.01, test=0.4, validation=0.0)
    batch = own.samples_of(np.arange(3))
    expected = np.zeros((3, 3, 7))
    expected[0, 0, [1, 2, 0]] = 1, 2, 1
    expected[0, 1, 6] = expected[2, 2, 0] = expected[2, 2, 3] = 1
    assert (batch.inputs.numpy() == expected).all() and batch.lengths is not None
    assert batch.lengths.tolist() == [1, 1, 3] and own.lines == 7
    cut = OwnData(source=str(path), dt=0.01, duration=0.02, channels=9).samples_of(np.arange(3))
    assert cut.inputs.shape == (2, 3, 9) and cut.lengths is not None and cut.lengths.tolist() == [1, 1, 2]


def test_chance_is_the_most_frequent_class(tmp_path: Path) -> None:
    labels = (np.arange(B) % 10 == 0).astype(int)
    own = OwnData(source=str(written(tmp_path, labels=labels)))
    (batch,) = own.held_out("test", 99, 0)
    assert own.chance == (batch.target == 0).double().mean().item()
    own = OwnData(source=str(written(tmp_path, labels=np.arange(B) % 4)))
    assert own.chance >= 0.25, "what guessing gives"


# ---- what is refused -----------------------------------------------------------------------------------------------

HOLE = arrays()["inputs"].astype(float)
HOLE[3, 7, 2] = np.nan
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"inputs": np.ones((T, B))}, r"inputs: expected shape \(T, B, M\).*got \(12, 40\).*\[:, :, None\]"),
    "no inputs": ({"inputs": None, "x": np.ones(3)}, "inputs: expected an array of this name.*got only labels, x"),
    "no labels": ({"labels": None}, "expected labels beside inputs, got none"),
    "swapped": ({"labels": np.zeros(T, int)}, r"labels: expected shape \(40,\).*got \(12,\).*swapped"),
    "NaN": ({"inputs": HOLE}, "inputs: expected finite numbers.*nan in sample 7, step 3, line 2"),
    "a label that is not trained on": (
        {f"{name}_test": array for name, array in (arrays() | {"labels": np.arange(B) % 3 + 1}).items()},
        "labels_test: expected labels from 0 to 2, as the training set has them, got 3 of sample 2",
    ),
    "labels below 0": ({"labels": np.arange(B) % 3 - 1}, "labels: expected labels from 0, got -1 of sample 0"),
    "labels from 1": ({"labels": np.arange(B) % 3 + 1}, "every label from 0 to 3.*no sample of 0.*task.classes"),
    "labels that are halves": ({"labels": np.arange(B) / 2}, "labels: expected whole numbers, got 0.5 of sample 1"),
    "labels that are NaN": ({"labels": np.full(B, np.nan)}, "labels: expected whole numbers, got nan of sample 0"),
    "too long": ({"lengths": np.full(B, T + 1)}, "lengths: expected 1 to T = 12 steps, got 13 of sample 0"),
    "no step": ({"lengths": np.arange(B) % T}, "lengths: expected 1 to T = 12 steps, got 0 of sample 0"),
    "another width": (
        {"inputs_test": np.ones((T, 4, M + 1)), "labels_test": np.zeros(4)},
        "inputs_test: expected 5 lines, as for training, got 6",
    ),
    "a test set's label": (
        {"inputs_test": np.ones((T, 2, M)), "labels_test": np.array([0, -2])},
        "labels_test: expected labels from 0, got -2 of sample 1",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_told_with_the_sample(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    own = OwnData(source=str(written(tmp_path, **changes)))
    with pytest.raises(FileFormatError, match=rf"mine\.npz: .*{message}"):
        _ = own.outputs


WRONG_EVENTS: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"times": [[0.1], []], "units": [[1], []]}, "at least one event in every recording, got none in.* 1"),
    "unsorted": ({"times": [[0.1], [0.2, 0.1]], "units": [[1], [0, 1]]}, "in the order of their times, .* recording 1"),
    "negative": ({"times": [[0.1], [-0.1]], "units": [[1], [0]]}, "finite times >= 0, in seconds, .* recording 1"),
    "beyond": ({"times": [[0.1], [0.2]], "units": [[1], [8]]}, "input lines 0 to 6, .*=7 has it, got 8 in recording 1"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_EVENTS.values(), ids=WRONG_EVENTS)
def test_wrong_events_are_told_with_the_recording(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    own = OwnData(source=str(events(tmp_path, **changes, labels=[0, 1], speaker=[0, 1])), channels=7)
    with pytest.raises(FileFormatError, match=rf"mine\.h5: .*{message}"):
        _ = own.steps


def test_a_file_that_is_missing_or_of_another_kind_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(FileNotFoundError, match=r"source: expected a file of data, .*none\.npz, which does not exist"):
        load_config(str(tmp_path / "none.npz"))
    with pytest.raises(ValueError, match="source: expected a file"):
        _ = OwnData().lines
    (tmp_path / "mine.csv").write_text("1,2")
    with pytest.raises(FileFormatError, match=r"mine\.csv: .* TOML.*; data of your own are taken from \.npz, \.h5"):
        load_config(tmp_path / "mine.csv")
    (tmp_path / "mine.h5").write_bytes(b"no HDF5")
    assert cli.main(["train", str(tmp_path / "mine.h5"), "--out", str(tmp_path / "run")]) == 2
    assert "mine.h5: expected a whole HDF5 file" in capsys.readouterr().err and not (tmp_path / "run").exists()


# ---- a run of it ---------------------------------------------------------------------------------------------------


def test_a_file_is_trained_on_and_judged_and_changed_data_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, out = written(tmp_path, **arrays(lengths=True)), tmp_path / "run"
    words = [word for setting in SMALL for word in ("--set", setting)]
    command = ["train", str(source), *words, "--out", str(out), "--quiet"]
    assert cli.main(command) == 0
    assert "chance " in capsys.readouterr().out
    config = run_folder.load_run_config(out)
    assert isinstance(config.task, OwnData) and config.task.source == str(source) and len(config.task.checksum) == 64
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert cli.main(["evaluate", str(out)]) == 0
    assert cli.main(["analyse", str(out), "--out", str(tmp_path / "analysis")]) == 0
    assert cli.main(["report", str(out), "-o", str(tmp_path / "page.html")]) == 0
    written(tmp_path, **arrays(1, lengths=True))
    assert cli.main([*command, "--seeds", "1"]) == 2
    assert "task.checksum = " in capsys.readouterr().err
    for again in (["evaluate", str(out)], ["train", str(out / "config.toml"), "--out", str(out), "--seeds", "1"]):
        assert cli.main(again) == 2
        assert "expected the data that the run is of" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert cli.main(["evaluate", str(out), "--set", "task.checksum=none"]) == 0


# ---- lengths -------------------------------------------------------------------------------------------------------


def loss_of(config: Any, batch: AnyBatch) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Loss, scores, spikes of the hidden layer row by row, and gradients, of a network in float64."""
    model = training.model_of(variants.build_for(config.task, config.network, 0), config).double()
    activity = model(batch.inputs.double(), lengths=batch.lengths)
    loss = config.task.loss(activity, batch.target)
    loss.backward()
    lengths = [len(batch.inputs)] * len(batch.target) if batch.lengths is None else batch.lengths.tolist()
    spikes = [activity.spikes[0][:n, i].detach() for i, n in enumerate(lengths)]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return loss.detach(), config.task.score(activity, batch.target), spikes, gradients


def alone(batch: AnyBatch) -> list[AnyBatch]:
    """Every sample by itself, as long as it is."""
    assert batch.lengths is not None
    return [
        task.Batch(batch.inputs[:n, i : i + 1], batch.target[i : i + 1]) for i, n in enumerate(batch.lengths.tolist())
    ]


def check_lengths(config: Any, batch: AnyBatch) -> None:
    """A padded batch is what its samples are alone: spikes exactly, mean of losses and gradients to rounding."""
    loss, score, spikes, gradients = loss_of(config, batch)
    singles = [loss_of(config, single) for single in alone(batch)]
    for padded, single in zip(spikes, singles, strict=True):
        torch.testing.assert_close(padded, single[2][0], rtol=0, atol=0)
    assert score.tolist() == [single[1].item() for single in singles]
    torch.testing.assert_close(loss, torch.stack([single[0] for single in singles]).mean(), rtol=1e-10, atol=0)
    for i, gradient in enumerate(gradients):
        mean = torch.stack([single[3][i] for single in singles]).mean(0)
        torch.testing.assert_close(gradient, mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("readout", evidence.READOUTS)
def test_padded_samples_train_as_they_do_alone(readout: str, tmp_path: Path) -> None:
    source = str(written(tmp_path, **arrays(lengths=True)))
    config = load_config(source, [*SMALL, f"task.readout={readout}", "network.tau_start=[3e-3, 0.5]"])
    batch = config.task.training_batch(0, 7, 0)
    assert batch.lengths is not None and len(batch.lengths.unique()) > 2
    check_lengths(config, batch)


def test_rates_are_those_of_the_steps_that_count() -> None:
    rng = torch.Generator().manual_seed(0)
    spikes = (torch.rand((9, 3, 4), generator=rng) < 0.3).double()
    lengths = torch.tensor([9, 2, 5])
    valid = torch.cat([spikes[:n, i] for i, n in enumerate(lengths)])
    expected = ((valid.mean(0) / 1e-3 - 10) / 10).square().mean()
    torch.testing.assert_close(rate_penalty((spikes,), 1e-3, lengths=lengths), expected)
    whole = torch.full((3,), 9)
    torch.testing.assert_close(rate_penalty((spikes,), 1e-3, lengths=whole), rate_penalty((spikes,), 1e-3))
    always = (torch.arange(9)[:, None, None] < lengths[:, None]).double()
    assert rates.fault(always) is None and rates.fault(always, lengths) == "fired at every step"
    assert rates.fault(1 - always) is None and rates.fault(1 - always, lengths) == "did not fire once"


def test_batch_norm_scales_by_the_steps_that_count() -> None:
    x, lengths = torch.rand((9, 3, 4), generator=torch.Generator().manual_seed(0)), torch.tensor([9, 2, 5])
    norm = BatchNorm(4)
    valid = torch.cat([x[:n, i] for i, n in enumerate(lengths)])
    scaled = norm(x, lengths)
    torch.testing.assert_close(scaled, x / (valid.square().mean(0) + 1e-3).sqrt())


PLANTED = [
    ("the last step of all", "if readout == \"last\":", "if readout == \"nothing\":", "last"),
    ("a mean over padding", "total / lengths[:, None]", "total / len(output)", "mean"),
    ("padding in the softmax", ".masked_fill(past, 0.0) if", " if", "softmax"),
    ("spikes behind the end", "valid = output.masked_fill(past, 0.0)", "valid = output", "counts"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "readout"), [p[1:] for p in PLANTED], ids=[p[0] for p in PLANTED])
def test_steps_that_leak_in_are_noticed(old: str, new: str, readout: str) -> None:
    bad = changed(evidence.__name__, old, new)[evidence.__name__]
    v, lengths = torch.rand((5, 2, 3), generator=torch.Generator().manual_seed(0)), torch.tensor([2, 5])
    right = torch.stack([evidence.READOUTS[readout](v[:n, i : i + 1])[0] for i, n in enumerate(lengths)])
    torch.testing.assert_close(evidence.evidence(readout, v, lengths), right)
    assert not torch.allclose(bad.evidence(readout, v, lengths), right)


def test_controls_leave_spikes_within_the_length(tmp_path: Path) -> None:
    """Steps in another order, or backwards here, are a sample's own."""
    own = OwnData(source=str(written(tmp_path, **arrays(lengths=True))))
    batch = own.samples_of(np.arange(B))
    assert batch.lengths is not None
    backwards = analyse._changed(batch, lambda inputs: inputs[::-1].copy())
    for i, n in enumerate(batch.lengths.tolist()):
        assert torch.equal(backwards[:n, i], batch.inputs[:n, i].flip(0)) and not backwards[n:, i].any()


def test_padded_samples_stay_on_a_card_with_their_lengths(tmp_path: Path) -> None:
    config = load_config(str(written(tmp_path, **arrays(lengths=True))), SMALL)
    on_card = OnCard(config.task, torch.device("cpu"), room=1 << 30)
    picked = next(on_card.training(config.training, 3, 1, 2))
    expected = config.task.training_batch(1, 8, 3)
    assert all(torch.equal(a, b) for a, b in zip(picked, expected, strict=True)) and len(picked) == 3


def test_an_activity_without_lengths_is_judged_whole() -> None:
    own = OwnData(readout="mean", rate_weight=0.5)
    v, z = torch.rand((4, 2, 3)), torch.rand((4, 2, 5))
    target = torch.tensor([0, 2])
    whole = own.loss(Activity(v, (z,), torch.tensor([4, 4])), target)
    torch.testing.assert_close(own.loss(Activity(v, (z,)), target), whole)
