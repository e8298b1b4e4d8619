"""The training loop: killed and resumed to the same bits, stopped where it breaks, schedules, selection, logs."""

import csv
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disks import quota
from planting import caught, changed
from torch import Tensor, nn

from hetsyn_plugins.core import array_file
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.locks import locked
from hetsyn_plugins.core.network import HetSynLayer
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import training, training_state, variants
from hetsyn_plugins.experiments.config import Config, TrainingConfig, load_config, to_toml
from hetsyn_plugins.experiments.run_folder import FAILURE, NETWORK, RESULT, STATE, load_networks
from hetsyn_plugins.experiments.tasks.task import Activity, Batch
from hetsyn_plugins.experiments.training import Trainer, TrainingStopped, schedule, train
from hetsyn_plugins.experiments.training_log import LOG, TABLE, Log, line_of, read_log

SMALL = [
    "network.hidden=[6]", "network.dropout=0.2", "training.iterations=12", "training.batch=4", "training.log_every=1",
    "training.validate_every=4", "training.checkpoint_every=3", "task.test_samples=20", "task.delay=0.1",
]  # fmt: skip


def small(*settings: str, framework: str = "snntorch") -> Config:
    return load_config("dms", [*SMALL, *settings], framework)


def files(folder: Path) -> dict[str, Any]:
    """What a run leaves, but for the times it took."""
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in read_log(folder / LOG)]
    with open(folder / TABLE) as table:
        rows = [row[:-1] for row in csv.reader(table)]
    result = json.loads((folder / RESULT).read_text())
    kept = {k: v for k, v in result.items() if k not in ("seconds", "peak_memory_mb", "digest")}
    return {"network": (folder / NETWORK).read_bytes(), "log": records, "table": rows, "result": kept}


def saved_iteration(path: Path) -> int:
    """How far a training state is."""
    file = array_file.read(path, "a state")
    return int(array_file.checked_content(file, training_state.FORMAT, "a state")["iteration"])


class Killed(BaseException):
    """Nothing catches this."""


def killed_at(config: Config, iteration: int, folder: Path) -> None:
    """Train until an iteration's batch is asked for, as a process that is killed there would have."""
    kind = type(config.task)

    class Dying(kind):  # type: ignore[valid-type, misc]
        def training_batch(self, index: int, batch: int, seed: int) -> Batch:
            if index == iteration:
                raise Killed
            prepared: Batch = super().training_batch(index, batch, seed)
            return prepared

    settings = {field.name: getattr(config.task, field.name) for field in fields(config.task)}
    with pytest.raises(Killed):
        train(replace(config, task=Dying(**settings)), 3, folder, quiet=True)
    assert not (folder / RESULT).exists()


@pytest.mark.parametrize("framework", ["snntorch", "norse", "lava_dl"])
@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_a_killed_run_ends_as_if_it_had_not_been(framework: str, optimiser: str, tmp_path: Path) -> None:
    pytest.importorskip({"lava_dl": "lava.lib.dl.slayer"}.get(framework, framework))
    config = small(f"training.optimiser={optimiser}", "training.schedule=cosine", framework=framework)
    train(config, 3, tmp_path / "unbroken", quiet=True)
    for iteration in (2, 3, 7, 11):
        killed_at(config, iteration, tmp_path / "killed")
        before = len(read_log(tmp_path / "killed" / LOG))
        assert (
            before == iteration + 1
        )  # that of the start too; more than the checkpoint has: they are dropped and written again
    train(config, 3, tmp_path / "killed", quiet=True)
    unbroken, killed = files(tmp_path / "unbroken"), files(tmp_path / "killed")
    assert (
        unbroken["log"] == killed["log"]
        and unbroken["table"] == killed["table"]
        and unbroken["result"] == killed["result"]
    )
    assert unbroken["network"] == killed["network"]


@pytest.mark.parametrize("select", ["last", "best_validation", "best_test"])
@pytest.mark.parametrize(
    "settings", [(), ("network.frozen=0.5", "network.batch_norm=true"), ("network.variant=single_tau",)]
)
def test_a_killed_run_keeps_the_best_and_what_is_frozen(select: str, settings: tuple[str], tmp_path: Path) -> None:
    config = small(f"training.select={select}", "training.validate_every=1", *settings)
    train(config, 3, tmp_path / "unbroken", quiet=True)
    killed_at(config, 11, tmp_path / "killed")
    train(config, 3, tmp_path / "killed", quiet=True)
    unbroken, killed = files(tmp_path / "unbroken"), files(tmp_path / "killed")
    assert unbroken["result"] == killed["result"] and unbroken["network"] == killed["network"]


def test_sigkill_at_any_moment(tmp_path: Path) -> None:
    """A real process, killed while it trains and writes; `tools/kills` does so again and again."""
    options = ["training.iterations=60", "training.checkpoint_every=1"]
    config = small(*options)
    train(config, 3, tmp_path / "unbroken", quiet=True)
    folder = tmp_path / "killed"
    (tmp_path / "config.toml").write_text(to_toml(config))
    code = (
        "import sys; from pathlib import Path; from hetsyn_plugins.experiments import config, training; "
        "training.train(config.load_config(sys.argv[1]), 3, Path(sys.argv[2]), quiet=True)"
    )
    kills = 0
    for attempt in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "config.toml"), str(folder)])
        deadline, seen = time.time() + 60, len(read_log(folder / LOG))
        try:
            while attempt < 1 and process.poll() is None and time.time() < deadline:
                if len(read_log(folder / LOG)) > seen + 3 + attempt:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.001)
            process.wait(60)
        finally:
            process.kill()
        assert not list(folder.glob(f"{NETWORK}*")) or process.returncode == 0
    assert process.returncode == 0 and kills >= 1
    assert files(folder)["network"] == files(tmp_path / "unbroken")["network"]
    assert files(folder)["log"] == files(tmp_path / "unbroken")["log"]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    config = small()
    first = train(config, 3, tmp_path, quiet=True)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert train(config, 3, tmp_path, quiet=True) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_workers_change_nothing(tmp_path: Path) -> None:
    train(small(), 3, tmp_path / "0", quiet=True)
    killed_at(small(), 7, tmp_path / "1")  # and go on with a worker
    train(small("training.workers=1"), 3, tmp_path / "1", quiet=True)
    assert files(tmp_path / "0")["network"] == files(tmp_path / "1")["network"]


def test_the_result_says_what_the_network_does(tmp_path: Path) -> None:
    """The test accuracy of result.json, judged by the reference on the network that was written."""
    config = small()
    result = train(config, 3, tmp_path, quiet=True)
    network = checkpoint.load(tmp_path / NETWORK)
    right = []
    for x, labels in config.task.held_out("test", 7, 3):
        *_, (_, v) = network.run(x.numpy()).values()
        right += list(v[-1].argmax(1) == labels.numpy())
    assert result.test == np.mean(right) and len(right) == 20
    assert (result.iterations, result.selected_iteration, result.select) == (12, 12, "last")
    n = 6 * 30 + 6 * 6 + 2 * 6
    assert result.parameters == 2 * n  # a weight and a decay each


@pytest.mark.filterwarnings("ignore:.*did not fire once")  # the rate is high, on purpose
def test_the_best_network_is_kept(tmp_path: Path) -> None:
    config = small("training.select=best_validation", "training.validate_every=1", "training.lr=0.05")
    result = train(config, 3, tmp_path, quiet=True)
    validations = [record["validation"] for record in read_log(tmp_path / LOG)][1:]  # without that of the start
    first_best = validations.index(max(validations)) + 1
    assert result.selected_iteration == first_best != 12
    assert result.validation == max(validations)


@pytest.mark.filterwarnings("ignore:.*did not fire once")  # the rate is high, on purpose
def test_the_papers_way_takes_the_best_on_the_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures: dict[str, list[float]] = {"validation": [], "test": []}
    evaluate = training.evaluate

    def kept(model: Any, task: Any, split: str, seed: int, *found: Any) -> Any:
        measures[split].append(evaluate(model, task, split, seed, *found))  # type: ignore[arg-type]
        return measures[split][-1]

    monkeypatch.setattr(training, "evaluate", kept)
    config = small("training.select=best_test", "training.validate_every=1", "training.lr=0.05")
    result = train(config, 3, tmp_path, quiet=True)
    tests, validations = measures["test"][:12], measures["validation"][1:13]  # without that of the start
    assert result.selected_iteration == tests.index(max(tests)) + 1 != validations.index(max(validations)) + 1
    assert result.test == max(tests) and result.select == "best_test"


@pytest.mark.filterwarnings("ignore:a RHetSynLeaky of 6 neurons did not fire")  # said in training, thrice a process
def test_a_layer_that_is_silent_at_validation_is_named_once(tmp_path: Path) -> None:
    config = small("training.validate_every=1", "training.lr=1e-6")
    trainer = training.Trainer(config, 3, tmp_path)
    assert trainer.model.spiking == ["hidden1"]
    with torch.no_grad():
        trainer.model.net[0].weight.fill_(-1.0)
        trainer.model.net[0].rec_weight.zero_()
    with pytest.warns(UserWarning, match="layer 'hidden1' did not fire once in the validation set") as seen:
        trainer.go(quiet=True)
    assert len([one for one in seen if "validation" in str(one.message)]) == 1


def test_without_validation_samples_there_is_none(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    settings = ["task.source=digits", "task.validation=0.0", "task.samples=40", "network.hidden=[5]"]
    settings += ["training.epochs=3", "training.batch=64", "training.log_every=1"]
    result = train(load_config("images", [*settings, "training.select=last"]), 0, tmp_path / "last", quiet=True)
    assert result.validation is None and 0 <= result.test <= 1
    assert [r["validation"] for r in read_log(tmp_path / "last" / LOG)] == [None] * 4  # an epoch is one batch
    with pytest.raises(ValueError, match=r"training\.select: expected 'last' without validation samples"):
        train(load_config("images", [*settings, "training.select=best_validation"]), 0, tmp_path / "best", quiet=True)


def test_integers_are_trained_through_lava_dl(tmp_path: Path) -> None:
    pytest.importorskip("lava.lib.dl.slayer")
    settings = ["network.quantised=true", "network.dropout=0.0"]
    result = train(small(*settings, framework="lava_dl"), 3, tmp_path / "integers", quiet=True)
    floats = train(small("network.dropout=0.0", framework="lava_dl"), 3, tmp_path / "floats", quiet=True)
    assert result.framework == floats.framework == "lava_dl"
    assert files(tmp_path / "integers")["network"] != files(tmp_path / "floats")["network"]


@pytest.mark.filterwarnings("ignore:.*did not fire once")  # the rate is high, on purpose
def test_of_errors_the_least_is_the_best(tmp_path: Path) -> None:
    settings = ["network.hidden=[5]", "training.iterations=8", "training.validate_every=1", "training.lr=0.1"]
    config = load_config("patterns", [*settings, "training.select=best_validation", "task.test_samples=2"])
    result = train(config, 1, tmp_path, quiet=True)
    validations = [record["validation"] for record in read_log(tmp_path / LOG)]
    assert result.validation == min(validations) < validations[-1]


class Scored:
    """A task whose held-out samples come in batches of these scores."""

    label_count = None

    def __init__(self, *batches: list[float]) -> None:
        self.batches = [torch.tensor(scores) for scores in batches]

    def held_out(self, split: str, batch: int, seed: int) -> Any:
        return iter(Batch(scores[None, :, None], scores) for scores in self.batches)

    def score(self, activity: Tensor, target: Tensor) -> Tensor:
        return target


def check_mean(module: Any) -> None:
    """Every sample counts once, also where the last batch is shorter than the others."""
    assert module.evaluate(nn.Identity(), Scored([1.0, 1.0, 1.0], [0.0]), "test", 0) == 0.75, "a mean over samples"
    assert module.evaluate(nn.Identity(), Scored([0.0, 0.5], [0.25, 0.25], [1.0]), "test", 0) == 0.4, "over samples"
    assert module.evaluate(nn.Identity(), Scored(), "test", 0) is None


def test_a_measure_is_a_mean_over_samples_and_not_over_batches() -> None:
    check_mean(training)


def test_a_mean_of_batch_means_is_caught() -> None:
    name = training.__name__
    old, new = "torch.cat(scores).double().mean()", "torch.stack([s.double().mean() for s in scores]).mean()"
    with caught("a mean over samples"):
        check_mean(changed(name, old, new)[name])


@pytest.mark.parametrize("at_a_time", [1, 7, 100])
def test_how_many_samples_are_evaluated_at_a_time_changes_nothing(
    at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "AT_A_TIME", at_a_time)
    result = train(small("training.iterations=40", "training.validate_every=40"), 3, tmp_path, quiet=True)
    right = []
    for x, labels in small().task.held_out("test", 20, 3):
        *_, (_, v) = checkpoint.load(tmp_path / NETWORK).run(x.numpy()).values()
        right += list(v[-1].argmax(1) == labels.numpy())
    assert result.test == np.mean(right)


# ---- settings that switch something off --------------------------------------------------------------------------


def test_no_dropout_where_a_network_is_judged_and_some_in_the_step_after(tmp_path: Path) -> None:
    trainer = Trainer(small("network.dropout=0.9"), 0, tmp_path)
    task, (x, labels) = trainer.config.task, next(trainer.config.task.held_out("test", 20, 0))
    measures = {training.evaluate(trainer.model, task, "test", 0) for _ in range(3)}
    *_, (_, v) = trainer.model.to_network().run(x.numpy()).values()
    assert measures == {np.mean(v[-1].argmax(1) == labels.numpy())}
    batch = task.training_batch(0, 4, 0)
    trainer.step(batch)
    assert trainer.model.training, "after it was judged"
    with torch.no_grad():
        assert len({trainer.model(x).readout.sum().item() for _ in range(4)}) > 1
    trainer.log.close()


def test_what_is_off_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Nothing frozen, not clipped, the last network kept, no schedule, no TensorBoard, no progress bar."""
    settings = ["network.frozen=0.0", "training.clip=0.0", "training.select=last", "training.schedule=constant"]
    (tmp_path / "steps").mkdir()
    trainer = Trainer(small(*settings, "network.dropout=0.0"), 0, tmp_path / "steps")
    assert trainer.frozen.held == []
    trainer.optimiser = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
    trainer.optimiser.param_groups[0]["base"] = 1.0
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    batch = trainer.config.task.training_batch(0, 4, 0)
    loss = trainer.config.task.loss(trainer.model(batch.inputs), batch.target)
    gradients = torch.autograd.grad(loss, parameters)
    trainer.step(batch)
    for p, start, gradient in zip(parameters, before, gradients, strict=True):
        expected = start - gradient
        if not p.equal(expected):  # a decay, put back into its range
            torch.testing.assert_close(p.detach(), expected.clamp(0, 1))
    trainer.validate()
    assert trainer.best is None
    trainer.log.close()
    result = train(small(*settings), 3, tmp_path / "run", quiet=True)
    assert result.selected_iteration == result.iterations
    assert {record["lr"] for record in read_log(tmp_path / "run" / LOG)} == {5e-3}
    assert not (tmp_path / "run/tensorboard").exists() and capsys.readouterr().err == ""


@pytest.mark.parametrize("variant", ["hetsyn", "hetneu", "single_tau", "homneu", "alif"])
def test_without_recurrence_no_layer_has_recurrent_synapses(variant: str) -> None:
    config = small(f"network.variant={variant}", "network.recurrent=false", "network.hidden=[4, 3]")
    network = variants.build(config.network, 30, 2, 5e-3, 0)
    layers = [layer for layer in network.layers if isinstance(layer, HetSynLayer)]
    for layer in layers:
        assert layer.params.recurrent_weight is None and layer.params.recurrent_decay is None
        assert not {"recurrent_weight", "recurrent_decay"} & layer.learned
        assert (layer.params.adaptation_strength is not None) == (variant == "alif" and layer.params.spiking)


# ---- what goes wrong ---------------------------------------------------------------------------------------------


class Breaking:
    """A loss that is a task's config until an iteration, and then something else."""

    def __init__(self, config: Config, iteration: int, breaks: Any) -> None:
        self.calls, self.at, self.breaks, self.loss = 0, iteration, breaks, type(config.task).loss

    def __call__(self, task: Any, activity: Activity, target: Tensor) -> Tensor:
        self.calls += torch.is_grad_enabled()  # not where it is validated
        loss: Tensor = self.loss(task, activity, target)
        return self.breaks(loss, activity) if self.calls == self.at else loss


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (
            lambda loss, a: loss * math.nan,
            r"iteration 8: the loss is nan .* in layer 'hidden1' is not finite; last good",
        ),
        (lambda loss, a: loss * 1e9, r"iteration 8: the loss is .*e\+0[89] .*: the largest gradient is .* in layer '"),
        (lambda loss, a: loss + a.readout.sum() * math.inf * 0, "iteration 8: .* is not finite"),
    ],
)
def test_a_broken_step_stops_and_leaves_the_last_good_checkpoint(
    breaks: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("network.dropout=0.0")
    train(config, 3, tmp_path / "unbroken", quiet=True)
    breaking = Breaking(config, 8, breaks)
    with monkeypatch.context() as patched:
        patched.setattr(type(config.task), "loss", lambda *args: breaking(*args))
        with pytest.raises(TrainingStopped, match=message):
            train(config, 3, tmp_path / "run", quiet=True)
    failure = json.loads((tmp_path / "run" / FAILURE).read_text())
    assert failure["iteration"] == 7 and "last good checkpoint: of iteration 6" in failure["message"]
    assert saved_iteration(tmp_path / "run" / STATE) == 6
    train(config, 3, tmp_path / "run", quiet=True)  # what broke it is gone: it goes on from the checkpoint
    assert not (tmp_path / "run" / FAILURE).exists()
    assert files(tmp_path / "run")["network"] == files(tmp_path / "unbroken")["network"]


def test_a_broken_parameter_names_its_layer(tmp_path: Path) -> None:
    trainer = Trainer(small("network.hidden=[6, 5]"), 0, tmp_path)
    with torch.no_grad():
        trainer.model.get_submodule("net.hidden2").get_parameter("weight")[0, 0] = math.nan
    readout = torch.full((1, 1, 2), math.nan)
    want = "the value of weight in layer 'hidden2' is not finite, and v of the readout is not finite"
    assert training.culprit(trainer.model, readout) == want
    trainer.log.close()


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_broken_gradient_names_its_layer(clip: float, tmp_path: Path) -> None:
    """Only the readout's: clipping must not have spread it before it is looked for."""
    trainer = Trainer(small(f"training.clip={clip}"), 0, tmp_path)
    trainer.model.get_submodule("net.readout").get_parameter("weight").register_hook(lambda g: g * math.nan)
    with pytest.raises(TrainingStopped, match=r"the gradient of weight in layer 'readout' is not finite; last good"):
        trainer.step(trainer.config.task.training_batch(0, 4, 0))
    trainer.log.close()


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / f".{STATE}.0123456789abcdef").write_bytes(b"half")
    (tmp_path / FAILURE).write_text('{"iteration": 1, "message": "an old one"}')
    (tmp_path / STATE).write_bytes(b"damaged")
    with pytest.raises(FileFormatError, match=rf"{STATE}: expected a whole .*; delete it to train from the start"):
        train(small(), 3, tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(ValueError, match="folder: expected one that nobody else trains in"),
    ):
        train(small(), 3, tmp_path, quiet=True)
    train(small(), 3, tmp_path, quiet=True)


def test_a_full_disk_leaves_the_good_checkpoint(tmp_path: Path) -> None:
    config = small()
    train(config, 3, tmp_path / "unbroken", quiet=True)
    killed_at(config, 7, tmp_path / "run")
    size = (tmp_path / "run" / STATE).stat().st_size
    with quota(size // 2), pytest.raises(OSError, match=f"File too large .*{training_state.NEXT}"):
        train(config, 3, tmp_path / "run", quiet=True)
    assert saved_iteration(tmp_path / "run" / STATE) == 6
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    train(config, 3, tmp_path / "run", quiet=True)
    assert files(tmp_path / "run")["network"] == files(tmp_path / "unbroken")["network"]


def test_a_log_that_was_cut_off_is_mended(tmp_path: Path) -> None:
    config = small()
    train(config, 3, tmp_path / "unbroken", quiet=True)
    killed_at(config, 8, tmp_path / "run")
    for name in (LOG, TABLE):
        text = (tmp_path / "run" / name).read_text()
        (tmp_path / "run" / name).write_text(text[:-9])
    train(config, 3, tmp_path / "run", quiet=True)
    assert files(tmp_path / "run")["log"] == files(tmp_path / "unbroken")["log"]
    assert files(tmp_path / "run")["table"] == files(tmp_path / "unbroken")["table"]


def test_the_log_begins_with_the_network_as_it_starts(tmp_path: Path) -> None:
    """Losses by an independent sum: of the first batch, and of the validation set."""
    config = small("training.log_every=5", "network.dropout=0.0")
    train(config, 3, tmp_path, quiet=True)
    records = {record["iteration"]: record for record in read_log(tmp_path / LOG)}
    assert sorted(records) == [0, 1, 4, 5, 8, 10, 12] and records[0]["loss"] is None
    model = training.model_of(load_networks(tmp_path)[0], config).eval()
    with torch.no_grad():
        x, target = config.task.training_batch(0, config.training.batch, 3)
        assert records[1]["loss"] == pytest.approx(float(config.task.loss(model(x), target)), rel=1e-5)
        ((x, target),) = config.task.held_out("validation", 100, 3)
        assert records[0]["validation_loss"] == pytest.approx(float(config.task.loss(model(x), target)), rel=1e-5)
        assert records[0]["validation"] == pytest.approx(float(config.task.score(model(x), target).mean()))
    assert [i for i, record in records.items() if record["validation_loss"] is not None] == [0, 4, 8, 12]


def test_a_log_of_before_has_no_validation_loss_and_density(tmp_path: Path) -> None:
    before = {"iteration": 10, "epoch": 1.0, "loss": 0.7, "score": 0.5, "validation": 0.5, "lr": 0.005, "seconds": 0.1}
    (tmp_path / LOG).write_text(line_of(before) + "\n")  # type: ignore[arg-type]
    assert read_log(tmp_path / LOG) == [{**before, "validation_loss": None, "density": None}]


# ---- rates, groups, logs -----------------------------------------------------------------------------------------


def test_schedules_have_their_closed_forms() -> None:
    step = TrainingConfig(schedule="step", schedule_every=100, schedule_factor=0.8)
    assert [schedule(step, i, 1, 1000) for i in (0, 99, 100, 250, 999)] == [1, 1, 0.8, 0.8**2, 0.8**9]
    assert {schedule(TrainingConfig(), i, 7, 50) for i in range(50)} == {1.0}
    cosine = TrainingConfig(schedule="cosine", warmup=0.05, schedule_span=40, schedule_floor=0.1)
    per_epoch = 10  # 400 iterations of it: 20 up, 380 down, then constant
    rates = [schedule(cosine, i, per_epoch, 1000) for i in range(1000)]
    assert np.all(np.diff(rates[:21]) > 0) and rates[20] == 1.0 and rates[0] == 1 / 21
    assert rates[210] == pytest.approx(0.1 + 0.9 * 0.5, abs=1e-12)  # half way down
    assert np.all(np.diff(rates[20:401]) < 0) and {rates[i] for i in range(400, 1000)} == {0.1}
    full_span = TrainingConfig(schedule="cosine", schedule_floor=0.0)
    assert schedule(full_span, 25, 1, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_the_schedule_and_a_new_dropout_mask_reach_every_step(tmp_path: Path) -> None:
    trainer = Trainer(small("training.schedule=step", "training.schedule_every=2", "training.lr=1e-9"), 0, tmp_path)
    batch, losses, rates = trainer.config.task.training_batch(0, 4, 0), [], []
    for iteration in (0, 1, 5, 1):
        trainer.iteration = iteration
        losses.append(trainer.step(batch)[0])
        rates.append([group["lr"] for group in trainer.optimiser.param_groups])
    assert rates == [[1e-9 * 0.8 ** (i // 2)] * 2 for i in (0, 1, 5, 1)]
    assert len(set(losses[:3])) == 3 and losses[3] == pytest.approx(losses[1], rel=1e-5)
    trainer.log.close()


def test_decays_have_a_group_with_a_rate_and_a_weight_decay_of_their_own() -> None:
    config = small("training.weight_decay=0.01", "training.decay_lr=0.02", "training.lr=0.005", "network.hidden=[6, 5]")
    start = Trainer.__new__(Trainer)  # only its model and optimiser are asked for
    start.model = training.model_of(variants.build(config.network, 30, 2, 5e-3, 0), config)
    weights, decays = training.make_optimiser(start.model, config.training).param_groups
    assert (weights["lr"], weights["weight_decay"], decays["lr"], decays["weight_decay"]) == (0.005, 0.01, 0.02, 0.0)
    names = {id(p): name for name, p in start.model.named_parameters()}
    assert all("alpha" in names[id(p)] for p in decays["params"]) and len(decays["params"]) == 5
    assert all("weight" in names[id(p)] for p in weights["params"]) and len(weights["params"]) == 5
    plain = training.make_optimiser(start.model, replace(config.training, decay_lr=0.0))
    assert plain.param_groups[1]["lr"] == 0.005


def test_decays_are_in_range_after_every_step(tmp_path: Path) -> None:
    trainer = Trainer(small("training.lr=0.5"), 0, tmp_path)
    for index in range(4):
        trainer.step(trainer.config.task.training_batch(index, 4, 0))
        for _, _, tensor in trainer.model.decays():
            assert 0 <= tensor.min() and tensor.max() <= 1
    assert any((tensor == 1).any() for _, _, tensor in trainer.model.decays())  # it did overshoot
    trainer.log.close()


def test_frozen_taus_stay_under_weight_decay(tmp_path: Path) -> None:
    """Their gradient is zero, but AdamW shrinks what has none: every step puts them back."""
    config = small("network.frozen=0.5", "training.optimiser=adamw", "training.decay_weight_decay=0.1")
    trainer = Trainer(config, 0, tmp_path)
    for index in range(3):
        trainer.step(config.task.training_batch(index, 4, 0))
    for tensor, stays, start in trainer.frozen.held:
        assert torch.equal(tensor[stays], start[stays]) and not torch.equal(tensor[~stays], start[~stays])
    trainer.log.close()


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    """With plain gradients in Adam's place, a step is as long as the bound times the rate."""
    trainer = Trainer(small("training.clip=0.01", "network.variant=homneu"), 0, tmp_path)
    trainer.optimiser = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
    trainer.optimiser.param_groups[0]["base"] = 1.0
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.step(trainer.config.task.training_batch(0, 4, 0))
    moved = math.sqrt(
        sum(float((p.detach() - q).square().sum()) for p, q in zip(trainer.model.parameters(), before, strict=True))
    )
    assert moved == pytest.approx(0.01, rel=1e-3)
    trainer.log.close()


def test_tensorboard_gets_the_log(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = small()
    train(config, 3, tmp_path, quiet=True, tensorboard=True)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    written = {event.step: event.value for event in events.Scalars("loss")}
    records = [record for record in read_log(tmp_path / LOG) if record["loss"] is not None]
    assert written == {record["iteration"]: np.float32(record["loss"]) for record in records}
    assert [event.step for event in events.Scalars("validation")] == [0, 4, 8, 12]
    assert [event.step for event in events.Scalars("validation_loss")] == [0, 4, 8, 12]


def test_tensorboard_asked_for_late_gets_the_whole_log(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    killed_at(small(), 8, tmp_path)
    train(small(), 3, tmp_path, quiet=True, tensorboard=True)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, tensorboard=False)
    log.write(0, 0.0, None, None, 0.5, 2.5, 1e-3, None, 0.0)
    log.write(1, 0.5, 0.25, 1.0, None, None, 1e-3, 0.5, 2.0)
    log.write(2, 1.0, 0.125, 0.5, 0.75, 0.5, 1e-3, 0.25, 3.0)
    log.close()
    with open(tmp_path / TABLE) as table:
        rows = list(csv.DictReader(table))
    for record, row in zip(read_log(tmp_path / LOG), rows, strict=True):
        assert {k: None if v == "" else float(v) for k, v in row.items()} == record
