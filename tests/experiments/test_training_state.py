"""The state of a run in its folder: damage is seen, what no run could have written is refused, a whole one is left."""

from __future__ import annotations

import copy
import math
import os
import random
import shutil
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forging import forge
from planting import caught, planted

from hetsyn_plugins.core import array_file
from hetsyn_plugins.core.file_format import FileFormatError, UncheckedFileWarning
from hetsyn_plugins.core.files import write_bytes
from hetsyn_plugins.experiments import state_of_before, training_state
from hetsyn_plugins.experiments.config import Config, load_config
from hetsyn_plugins.experiments.run_folder import NETWORK, PREVIOUS_STATE, STATE
from hetsyn_plugins.experiments.training import Trainer, train
from hetsyn_plugins.experiments.training_state import Progress

SETTINGS = [
    "network.hidden=[6]", "training.iterations=6", "training.batch=4", "training.validate_every=2", "task.delay=0.1",
    "training.checkpoint_every=2", "training.select=best_validation", "task.test_samples=20",
]  # fmt: skip
FRAMEWORKS = ["snntorch", "norse", "lava_dl"]


def config(framework: str = "snntorch", *settings: str) -> Config:
    pytest.importorskip({"lava_dl": "lava.lib.dl.slayer"}.get(framework, framework))
    return load_config("dms", [*SETTINGS, *settings], framework)


def trained(folder: Path, framework: str = "snntorch", *settings: str) -> Trainer:
    """A run of six iterations, its states of four and six left."""
    trainer = Trainer(config(framework, *settings), 0, folder)
    trainer.go(quiet=True)
    return trainer


def resumed(folder: Path, framework: str = "snntorch", *settings: str) -> Trainer:
    """A run that goes on from what is in the folder."""
    trainer = Trainer(config(framework, *settings), 0, folder)
    trainer.log.close()
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained run, which tests copy."""
    folder = tmp_path_factory.mktemp("run")
    trained(folder)
    return folder


def content_of(trainer: Trainer) -> dict[str, Any]:
    """What a state holds, as it is in the trainer."""
    best = trainer.best
    numbers = (trainer.iteration, trainer.seconds, trainer.first_loss, best and (best.merit, best.iteration))
    return {
        "numbers": numbers,
        "model": {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()},
        "best": {} if best is None else best.model,
        "moments": copy.deepcopy(trainer.optimiser.state_dict()),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    "settings",
    [(), ("network.parametrization=log_tau",), ("network.variant=single_tau",), ("network.variant=alif",)],
)
def test_a_state_is_read_as_it_was(framework: str, settings: tuple[str, ...], tmp_path: Path) -> None:
    before = trained(tmp_path, framework, *settings)
    assert same(content_of(resumed(tmp_path, framework, *settings)), content_of(before))


# ---- kept ----------------------------------------------------------------------------------------------------------


def iteration_of(path: Path) -> int:
    content = array_file.checked_content(array_file.read(path, "a state"), training_state.FORMAT, "a state")
    return int(content["iteration"])


def test_the_one_before_is_kept(run: Path) -> None:
    assert (iteration_of(run / STATE), iteration_of(run / PREVIOUS_STATE)) == (6, 4)


def test_a_damaged_state_says_how_to_go_on(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / STATE).write_bytes((run / STATE).read_bytes()[:-1])
    want = rf"{STATE}: .*; delete it to go on from iteration 4, in {PREVIOUS_STATE}, or both to train from the start"
    with pytest.raises(FileFormatError, match=want):
        resumed(folder)
    (folder / STATE).unlink()
    assert resumed(folder).iteration == 4
    train(config(), 0, folder, quiet=True)
    train(config(), 0, run, quiet=True)
    assert (folder / NETWORK).read_bytes() == (run / NETWORK).read_bytes()
    (run / NETWORK).unlink()
    (run / "result.json").unlink()


def test_where_both_are_damaged_it_starts_anew(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for name in (STATE, PREVIOUS_STATE):
        (folder / name).write_bytes(b"x" * 100)
    for name in (STATE, PREVIOUS_STATE):
        with pytest.raises(FileFormatError, match=rf"{name}: .*; delete it to train from the start"):
            resumed(folder)
        (folder / name).unlink()
    assert resumed(folder).iteration == 0


class Killed(BaseException):
    """Nothing catches this."""


def steps_of_saving(folder: Path, patch: pytest.MonkeyPatch, kill_at: int) -> int:
    """Save a state, of 999 s, such that its `kill_at`-th change to the folder is the last; how many there were."""
    trainer, steps = resumed(folder), 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > kill_at:
                raise Killed
            return real(*arguments, **options)

        return step

    progress = Progress(6, 999.0, 0.5, trainer.best)
    for name in ("replace", "unlink", "rename", "open", "link"):
        patch.setattr(os, name, counted(getattr(os, name)))
    patch.setattr(training_state.array_file, "write_bytes", counted(write_bytes))
    try:
        training_state.save(folder, progress, trainer.run)
    except Killed:
        pass
    return steps


def test_a_kill_between_any_two_steps_leaves_a_whole_state(run: Path, tmp_path: Path) -> None:
    kill_at, found = 0, []
    while True:
        folder = tmp_path / f"{kill_at}"
        shutil.copytree(run, folder)
        with pytest.MonkeyPatch.context() as patch:
            steps = steps_of_saving(folder, patch, kill_at)
        found.append(resumed(folder).seconds == 999)
        if steps <= kill_at:
            break
        kill_at += 1
    assert len(found) > 3 and found[-1] and found == sorted(found)  # the old one, until the new one is in its place
    assert iteration_of(tmp_path / f"{kill_at}" / PREVIOUS_STATE) == 6


# ---- damage --------------------------------------------------------------------------------------------------------


def damaged_bytes(whole: bytes, seed: int) -> bytes:
    rng, raw = random.Random(seed), bytearray(whole)
    at = rng.randrange(len(raw))
    if seed % 4 == 0:
        del raw[at:]
    elif seed % 4 == 1:
        raw[at : at + 8] = rng.randbytes(8)
    else:
        for _ in range(seed % 4 - 1):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def check_damage(module: Any, folder: Path) -> None:
    """Of 320 damaged states, as were tried on the format of before, none is taken."""
    trainer = resumed(folder)
    whole, taken = (folder / STATE).read_bytes(), 0
    for seed in range(320):
        (folder / STATE).write_bytes(raw := damaged_bytes(whole, seed))
        try:
            module.load(folder, trainer.run)
        except FileFormatError as error:
            assert STATE in str(error) and "delete it to go on from iteration 4" in str(error)
        else:
            taken += raw != whole
    assert taken == 0, f"{taken} damaged states were taken"


def test_damage_is_seen(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    check_damage(training_state, tmp_path / "run")


def test_a_planted_bug_is_caught(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    old, new = "check_digest(file.path", "(lambda *content, to_do: None)(file.path"
    around = [array_file.__name__, training_state.__name__]
    with planted(array_file.__name__, old, new, around=around), caught("damaged states were taken"):
        import sys

        check_damage(sys.modules[training_state.__name__], tmp_path / "run")


# ---- states that no run of this could have written -----------------------------------------------------------------


def number(name: str, value: Any) -> Any:
    return lambda content, arrays: content.update({name: value})


def best(**changes: Any) -> Any:
    return lambda content, arrays: content["best"].update(changes)


def array(name: str, value: Any) -> Any:
    """An array put in the place of another, made of it by a function, or None: taken out."""

    def change(content: Any, arrays: Any) -> None:
        new = value(arrays[name]) if callable(value) else value
        arrays.pop(name, None)
        if new is not None:
            arrays[name] = new

    return change


def spoilt(value: float) -> Any:
    def spoil(old: Any) -> Any:
        new = old.copy()
        new.reshape(-1)[0] = value
        return new

    return spoil


WEIGHT, DECAY = "model.net.hidden1.weight", "model.net.hidden1.alpha"
LIES = [
    (number("iteration", "x"), "iteration: expected a whole number from 1 to 6, as this run has it, got 'x'"),
    (number("iteration", 7), "iteration: expected a whole number from 1 to 6"),
    (number("iteration", 0), "iteration: expected a whole number"),
    (number("iteration", -1), "iteration: expected a whole number"),
    (number("iteration", True), "iteration: expected a whole number"),
    (number("iteration", 4.0), "iteration: expected a whole number"),
    (number("iteration", None), "iteration: expected a whole number"),
    (number("seed", 3), "seed: expected 0, as this run has it, got 3"),
    (number("seconds", -1.0), "seconds: expected a finite number >= 0"),
    (number("seconds", math.inf), "seconds: expected a finite number"),
    (number("seconds", "1"), "seconds: expected a finite number"),
    (number("first_loss", math.nan), "first_loss: expected finite"),
    (number("first_loss", None), "first_loss: expected finite"),
    (number("best", 3), "best: expected merit and iteration, got 3"),
    (number("best", None), "best.net.* expected no such array"),
    (best(merit=math.nan), "best.merit: expected finite"),
    (best(merit="x"), "best.merit: expected finite"),
    (best(iteration=7), "best.iteration: expected a whole number from 1 to 6"),
    (best(iteration="1"), "best.iteration: expected a whole number"),
    (array(WEIGHT, None), f"{WEIGHT}: expected an array in this run, got none"),
    (array("model.net.hidden2.weight", np.ones(2)), "model.net.hidden2.weight: expected no such array"),
    (array("optimiser.9.step", np.array(1.0)), "optimiser.9.step: expected no such array"),
    (array("optimiser.0.step", None), "optimiser.0.step: expected an array"),
    (array("optimiser.0.exp_avg", None), "optimiser.0.exp_avg: expected an array"),
    (array("optimiser.1.exp_avg_sq", None), "optimiser.1.exp_avg_sq: expected an array"),
    (array(WEIGHT, lambda old: old[:-1]), f"{WEIGHT}: expected shape"),
    (array(WEIGHT, lambda old: old.astype(float)), f"{WEIGHT}: expected torch.float32, got torch.float64"),
    (array(WEIGHT, spoilt(math.nan)), "model: expected weights that the layers take"),
    (array(WEIGHT, spoilt(math.inf)), "model: expected weights that the layers take"),
    (array(DECAY, spoilt(math.nan)), "model: expected weights that the layers take"),
    (array(DECAY, spoilt(1.5)), f"{DECAY}: expected values in range"),
    (array("best.net.hidden1.alpha", spoilt(-0.5)), "best.net.hidden1.alpha: expected values in range"),
    (array("best.net.hidden1.weight", spoilt(math.nan)), "best: expected weights that the layers take"),
    (array("model.net.hidden1.threshold", lambda old: -old), "model: expected weights that the layers take"),
    (array("model.net.hidden1.reset_mechanism_val", lambda old: old + 1), "reset_mechanism_val: expected 0, which is"),
    (array("optimiser.0.step", np.array(7, np.float32)), "optimiser.0.step: expected a whole number from 1 to 6"),
    (array("optimiser.0.step", np.array(0, np.float32)), "optimiser.0.step: expected a whole number from 1 to 6"),
    (array("optimiser.0.step", np.array(1.5, np.float32)), "optimiser.0.step: expected a whole number from 1 to 6"),
    (array("optimiser.0.step", np.array(np.nan, np.float32)), "optimiser.0.step: expected finite"),
    (array("optimiser.0.step", np.ones(1, np.float32)), "optimiser.0.step: expected shape"),
    (array("optimiser.0.step", np.array(1)), "optimiser.0.step: expected torch.float32, got torch.int64"),
    (array("optimiser.0.exp_avg", spoilt(math.nan)), "optimiser.0.exp_avg: expected finite values"),
    (array("optimiser.0.exp_avg", spoilt(math.inf)), "optimiser.0.exp_avg: expected finite values"),
    (array("optimiser.0.exp_avg", lambda old: old.T), "optimiser.0.exp_avg: expected shape"),
    (array("optimiser.0.exp_avg_sq", spoilt(-1.0)), "optimiser.0.exp_avg_sq: expected finite values"),
    (array("optimiser.0.exp_avg_sq", lambda old: old[:0]), "optimiser.0.exp_avg_sq: expected shape"),
]


@pytest.mark.parametrize(("change", "message"), LIES)
def test_what_no_run_could_have_written_is_refused(change: Any, message: str, run: Path, tmp_path: Path) -> None:
    """Also where the digest fits."""
    shutil.copytree(run, tmp_path / "run")
    forge(tmp_path / "run" / STATE, change)
    with pytest.raises(FileFormatError, match=rf"{STATE}: .*{message}"):
        resumed(tmp_path / "run")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_parameter_is_looked_at(framework: str, value: float, tmp_path: Path) -> None:
    """NaN and infinity in each of the arrays of each framework."""
    trainer = trained(tmp_path, framework)
    whole = (tmp_path / STATE).read_bytes()
    names = [name for name, one in array_file.read(tmp_path / STATE, "it").arrays.items() if one.dtype.kind == "f"]
    assert len(names) > 20
    for name in names:
        (tmp_path / STATE).write_bytes(whole)
        forge(tmp_path / STATE, array(name, spoilt(value)))
        with pytest.raises(FileFormatError):
            training_state.load(tmp_path, trainer.run)


@pytest.mark.parametrize("settings", [("network.hidden=[5]",), ("network.hidden=[6, 6]",), ("network.variant=homneu",)])
def test_the_state_of_another_run_is_refused(settings: tuple[str, ...], run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    with pytest.raises(FileFormatError, match=f"{STATE}: .*in this run|{STATE}: .*expected shape"):
        resumed(tmp_path / "run", "snntorch", *settings)


def test_a_run_that_keeps_the_last_has_no_best(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    with pytest.raises(FileFormatError, match=f"{STATE}: best: expected none in a run that keeps the last, got"):
        resumed(tmp_path / "run", "snntorch", "training.select=last")


# ---- states of before ----------------------------------------------------------------------------------------------


def nested(folder: Path) -> dict[str, Any]:
    """The state of a folder as it was written before: torch's tensors in dicts."""
    trainer = resumed(folder)
    assert trainer.best is not None
    return {
        "iteration": trainer.iteration,
        "seconds": trainer.seconds,
        "first_loss": trainer.first_loss,
        "model": trainer.model.state_dict(),
        "optimiser": trainer.optimiser.state_dict(),
        "best": trainer.best._asdict(),
    }


def of_before(run: Path, folder: Path, change: Callable[[dict[str, Any]], Any] | None = None) -> Path:
    """The folder of a run with its state as it was written before; the path of that state."""
    shutil.copytree(run, folder)
    state = nested(folder)
    if change is not None:
        change(state)
    for name in (STATE, PREVIOUS_STATE):
        (folder / name).unlink()
    torch.save(state, folder / state_of_before.STATE)
    return folder / state_of_before.STATE


def test_a_state_of_before_is_read_as_it_was(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "now")
    of_before(run, tmp_path / "before")
    with pytest.warns(UncheckedFileWarning, match=r"state\.pt"):
        before = resumed(tmp_path / "before")
    assert same(content_of(before), content_of(resumed(tmp_path / "now")))


def test_views_of_one_storage_and_turned_ones_are_read(run: Path, tmp_path: Path) -> None:
    """As torch writes tensors that are parts of others."""

    def views(state: Any) -> None:
        moments = state["optimiser"]["state"][0]
        both = torch.stack([moments["exp_avg"].T, moments["exp_avg_sq"].T])
        moments["exp_avg"], moments["exp_avg_sq"] = both[0].T, both[1].T

    of_before(run, tmp_path / "before", views)
    shutil.copytree(run, tmp_path / "now")
    with pytest.warns(UncheckedFileWarning):
        before = resumed(tmp_path / "before")
    assert same(content_of(before), content_of(resumed(tmp_path / "now")))


def changes_of_before() -> Iterator[tuple[Callable[[dict[str, Any]], Any], str]]:
    """What torch.load takes, and nobody wrote."""
    wide = torch.zeros(1).expand(6, 30)
    yield lambda state: state["model"].update({"net.hidden1.weight": wide}), "data.pkl: .* in a storage of 1"
    yield lambda state: state["model"].update({"net.hidden1.weight": torch.zeros(6, 30).half()}), "data.pkl: expected"
    yield lambda state: state.update(iteration="x"), "iteration: expected a whole number .* got 'str'"
    yield lambda state: state.update(iteration=[[]]), "iteration: expected a whole number"
    yield lambda state: state.update(iteration=True), "iteration: expected a whole number"
    yield lambda state: state.update(iteration=7), "iteration: expected a whole number"
    yield lambda state: state.update(iteration=10**300), "iteration: expected a whole number"
    yield lambda state: state.pop("seconds"), "data.pkl: expected a training state"
    yield lambda state: state.update(more=1), "data.pkl: expected a training state"
    yield lambda state: state.update(model=[]), "model: expected tensors by name"
    yield lambda state: state.update(model={}), "expected an array in this run, got none"
    yield lambda state: state.update(optimiser=3), "optimiser.0.exp_avg: expected an array"
    yield lambda state: state["optimiser"].update(state=[1]), "optimiser.0.exp_avg: expected an array"
    yield lambda state: state["optimiser"]["state"].update({0: 1}), "optimiser.0: expected tensors by name"
    yield lambda state: state["optimiser"]["state"][0].pop("exp_avg"), "optimiser.0.exp_avg: expected an array"
    yield lambda state: state["optimiser"]["state"][0].update(step=3), "optimiser.0: expected tensors by name"
    yield lambda state: state["optimiser"]["state"][0]["exp_avg"].fill_(math.nan), "optimiser.0.exp_avg: expected"
    yield lambda state: state.update(best=[1]), "best: expected tensors by name"
    yield lambda state: state["best"].pop("merit"), "best.merit: expected finite values"
    yield lambda state: state.update(best=torch.zeros(2)), "best: expected tensors by name"
    yield lambda state: state["best"].update(model=[torch.zeros(2)]), "best: expected tensors by name"
    yield lambda state: state["best"].update(merit=torch.zeros(2)), "best.merit: expected finite values"
    yield lambda state: state.update(best={1, 2}), "data.pkl: expected a training state"
    yield lambda state: state.update(best=bytearray(9)), "data.pkl: expected a training state"
    yield lambda state: state.update(best=torch.nn.Parameter(torch.zeros(2))), "data.pkl: expected a training state"
    yield lambda state: state["model"].update({("a",): torch.zeros(2)}), "data.pkl: .* not of a dict by name"


@pytest.mark.parametrize(("change", "message"), list(changes_of_before()))
def test_states_of_before_that_lie_are_refused(change: Any, message: str, run: Path, tmp_path: Path) -> None:
    path = of_before(run, tmp_path / "run", change)
    with pytest.raises(FileFormatError, match=rf"{path.name}: .*{message}.*; delete it to train from the start"):
        resumed(tmp_path / "run")


def with_pickle(path: Path, raw: bytes, packed: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", packed) as file:
        file.writestr("state/data.pkl", raw)
        for name, content in members.items():
            file.writestr(f"state/{name.replace('__', '/')}", content)


def storage(count: int, kind: bytes = b"FloatStorage", member: bytes = b"0") -> bytes:
    """What a storage's persistent id is, as a pickle."""
    said = b"(X\x07\0\0\0storagectorch\n" + kind + b"\nX\1\0\0\0" + member + b"X\3\0\0\0cpu"
    return said + b"\x8a\x06" + count.to_bytes(6, "little") + b"tQ"


def tuples(depth: int) -> bytes:
    """Tuples of the one before, twice: as a value of no size, for who goes through them of 2^depth parts."""
    return b")q\0" + b"h\0h\0\x86q\0" * depth


def tensor(shape: bytes, strides: bytes = b")", offset: bytes = b"K\0") -> bytes:
    call = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return call + storage(2) + offset + shape + strides + b"\x89ccollections\nOrderedDict\n)RtR"


PICKLES = [
    b"\x80\2.",
    b"\x80\2",
    b"",
    b"\x80\2]" + b"h\0" * 9 + b".",
    b"\x80\2cos\nsystem\nX\2\0\0\0lsq\0\x85R.",
    b"\x80\2cos\nsystem\n(X\2\0\0\0lstR.",
    b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n)R.",
    b"\x80\2cbuiltins\nbytearray\n\x8a\6\0\0\0\0\0\1\x85R.",
    b"\x80\2]\x94.",
    b"\x80\2]r\xff\xff\xff\x7f.",  # the pickle module would make room for two milliards of entries
    b"\x80\2B\xff\xff\xff\x7fabc.",
    b"\x80\2X\xff\xff\xff\x7fabc.",
    b"\x80\2\x8b\xff\xff\xff\x7f.",
    b"\x80\2" + b"]" * 200_000 + b".",
    b"\x80\2" + b"(" * 200_000 + b"t" * 200_000 + b".",
    b"\x80\2" + tuples(200) + b".",
    b"\x80\2}" + tuples(200) + b"K\1s.",
    b"\x80\2}X\1\0\0\0a" + tuples(200) + b"s.",
    b"\x80\2" + tuples(200) + b"Q.",
    b"\x80\2ccollections\nOrderedDict\n" + tuples(200) + b"R.",
    b"\x80\2]q\0h\0a" + b"h\0a" * 99 + b".",
    b"\x80\2K\1K\2b.",
    b"\x80\2ccollections\nOrderedDict\n}X\1\0\0\0aK\1sb.",
    b"\x80\2" + storage(2) + b".",
    b"\x80\2" + storage(10**12) + b".",
    b"\x80\2" + storage(2, b"HalfStorage") + b".",
    b"\x80\2" + storage(2, member=b"1") + b".",
    b"\x80\2" + tensor(b"K\2\x85", b"K\1\x85") + b".",
    b"\x80\2" + tensor(b"K\2\x85") + b".",
    b"\x80\2" + tensor(b"K\3\x85", b"K\0\x85") + b".",
    b"\x80\2" + tensor(b"K\2\x85", b"K\2\x85") + b".",
    b"\x80\2" + tensor(b"K\2\x85", b"K\1\x85", b"K\1") + b".",
    b"\x80\2" + tensor(b"J\xff\xff\xff\xff\x85", b"K\1\x85") + b".",
    b"\x80\2" + tensor(b"K\0\x8a\5\0\0\0\0\1\x8a\5\0\0\0\0\1\x87", b"K\1K\1K\1\x87") + b".",
    b"\x80\2" + b"cbuiltins\nexec\n" * 9000 + b".",
    b"I" + b"9" * 100_000 + b"\n.",
    b"\x80\2K\1" + b"0" * 9 + b".",
    b"\x80\2" + b"(" * 100_000 + b"l" * 100_000 + b".",
    b"\x80\2" + b" " * 300_000,
]


@pytest.mark.parametrize("raw", PICKLES, ids=range(len(PICKLES)))
def test_pickles_that_lie_are_refused(raw: bytes, tmp_path: Path) -> None:
    """Nothing is called, nothing grows beyond the file, nothing is gone through for ever."""
    path = tmp_path / state_of_before.STATE
    with_pickle(path, raw, data__0=b"12345678")
    began = time.process_time()
    with pytest.raises(FileFormatError, match=r"state\.pt: "):
        state_of_before.read(path, "a state")
    assert time.process_time() - began < 3  # a tenth of it where the machine is quiet
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError):
            state_of_before.read(path, "a state")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_zip_files_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / state_of_before.STATE
    with_pickle(path, b"\x80\2}.", zipfile.ZIP_DEFLATED, data__0=b"\0" * 10_000_000)
    with pytest.raises(FileFormatError, match="expected members with different names, not packed"):
        state_of_before.read(path, "a state")
    with_pickle(path, b"\x80\2}.")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("state/data.pkl", b"\x80\2}.")
    with pytest.raises(FileFormatError, match="expected members with different names"):
        state_of_before.read(path, "a state")
    with_pickle(path, b"\x80\2}.", byteorder=b"big")
    with pytest.raises(FileFormatError, match="byteorder: expected little-endian numbers"):
        state_of_before.read(path, "a state")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("state/other", b"")
    with pytest.raises(FileFormatError, match=r"data\.pkl: expected a pickle"):
        state_of_before.read(path, "a state")
    path.write_bytes(b"no zip")
    with pytest.raises(FileFormatError, match="expected a whole zip file"):
        state_of_before.read(path, "a state")


def test_damage_to_a_state_of_before_is_mostly_seen(run: Path, tmp_path: Path) -> None:
    """By the zip's checksums, which torch does not look at: no other values are taken."""
    path = of_before(run, tmp_path / "run")
    whole, want = path.read_bytes(), content_of(resumed_with_warning(tmp_path / "run"))
    trainer, taken = resumed_with_warning(tmp_path / "run"), 0
    for seed in range(320):
        path.write_bytes(damaged_bytes(whole, seed))
        try:
            with pytest.warns(UncheckedFileWarning):
                progress = training_state.load(tmp_path / "run", trainer.run)
        except (FileFormatError, pytest.fail.Exception):
            continue
        assert progress is not None
        taken += 1
        trainer.iteration, trainer.seconds, trainer.first_loss, trainer.best = progress
        assert same(content_of(trainer), want)
    assert taken < 200  # what torch puts between the members is not looked at


def resumed_with_warning(folder: Path) -> Trainer:
    with pytest.warns(UncheckedFileWarning):
        return resumed(folder)
