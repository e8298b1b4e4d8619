"""Sequential images: idx files byte by byte, which pixel is shown when, and which images are in which batch."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import needs

from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.files import read_json
from hetsyn_plugins.experiments import sweep, variants
from hetsyn_plugins.experiments.config import load_config
from hetsyn_plugins.experiments.data import digits, idx
from hetsyn_plugins.experiments.model import Model
from hetsyn_plugins.experiments.tasks import images
from hetsyn_plugins.experiments.tasks.images import SequentialImages
from hetsyn_plugins.experiments.tasks.task import Activity, Batch

ROOT = Path(__file__).resolve().parents[2]
FILES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
TRAIN, TEST, HEIGHT, WIDTH = 50, 12, 4, 6  # not square, so that rows and columns cannot be mistaken


def packed(array: Any) -> bytes:
    """An idx file of uint8, written by the format's description."""
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return idx_files(tmp_path)


def idx_files(folder: Path) -> Path:
    """MNIST's four files, small: image i of a split begins with the pixel i, its label is i % 10; two are gzipped."""
    rng = np.random.default_rng(3)
    for split, count, zipped in (("train", TRAIN, True), ("t10k", TEST, False)):
        pixels = rng.integers(0, 256, (count, HEIGHT, WIDTH))
        pixels[:, 0, 0] = np.arange(count)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", np.arange(count) % 10)):
            name, data = f"{split}-{kind}-ubyte", packed(array)
            (folder / f"{name}.gz").write_bytes(gzip.compress(data)) if zipped else (folder / name).write_bytes(data)
    return folder


def pixels(folder: Path, split: str) -> np.ndarray:
    """The images of a split, straight from the file's bytes: 16 of header, then one after another."""
    path = folder / f"{split}-images-idx3-ubyte"
    data = path.read_bytes() if path.exists() else gzip.decompress((folder / f"{path.name}.gz").read_bytes())
    count, height, width = struct.unpack(">3I", data[4:16])
    return np.array(list(data[16:])).reshape(count, height, width)


def numbers(batch: Batch) -> list[int]:
    """Which images of the small folder are in a batch: their first pixel says so."""
    return (batch.inputs[0, :, 0] * 255).round().int().tolist()


# --- idx files


@pytest.mark.parametrize("name", ["plain", "zipped.gz", "zipped without saying so"])
def test_an_idx_file_is_read_byte_for_byte(tmp_path: Path, name: str) -> None:
    data = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 250, 5, 6])
    (tmp_path / name).write_bytes(gzip.compress(data) if "zipped" in name else data)
    array = idx.read_idx(tmp_path / name)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, [[1, 2, 3], [250, 5, 6]])


def test_sizes_are_big_endian(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\0\0\x08\x01" + b"\0\0\x01\x02" + bytes(258))
    assert idx.read_idx(tmp_path / "f").shape == (258,)


WHOLE = packed(np.arange(12).reshape(3, 2, 2))
ZIPPED = gzip.compress(WHOLE)
DAMAGE = {
    "empty": (b"", "expected an idx file of uint8, .* got an empty file"),
    "short magic": (b"\0\0", "got 00 00"),
    "foreign": (b"PK\3\4" + WHOLE, "expected an idx file of uint8, .* got 50 4b 03 04"),
    "floats": (b"\0\0\x0d\x01" + struct.pack(">If", 1, 0.5), "expected an idx file of uint8, .* got 00 00 0d 01"),
    "header cut": (WHOLE[:9], "expected 1 to 8 sizes, and the bytes of their header, got 3 sizes in 9"),
    "data cut": (WHOLE[:-1], r"expected 12 bytes of data \(3 x 2 x 2\), got 11"),
    "trailing": (WHOLE + b"\0", "expected 12 bytes of data .* got 13"),
    "sizes too large": (b"\0\0\x08\x03" + b"\xff" * 12 + bytes(9), "expected 79228162458924105385300197375 bytes"),
    "gzip cut": (ZIPPED[:-12], "expected a whole gzip file"),
    "gzip cut to its magic": (ZIPPED[:2], "expected a whole gzip file"),
    "gzip wrong checksum": (ZIPPED[:-8] + bytes([ZIPPED[-8] ^ 1]) + ZIPPED[-7:], "expected a whole gzip file"),
    "gzip damaged inside": (ZIPPED[:10] + b"\xff" * 8 + ZIPPED[18:], "expected a whole gzip file"),
    "gzip with something behind": (ZIPPED + b"more", "expected a whole gzip file"),
    "gzip of a short idx file": (gzip.compress(WHOLE[:-1]), "expected 12 bytes of data"),
    "gzip of gigabytes": (gzip.compress(bytes(65_000_000), 1), "expected what unpacks to at most 64000000 bytes"),
    "gzip of very many": (gzip.compress(b"") * 1000, "expected at most 100 gzip members"),
    "no sizes": (b"\0\0\x08\0a", "expected 1 to 8 sizes, .* got 0 sizes in 5 bytes"),
    "very many sizes": (b"\0\0\x08\x40" + b"\0\0\0\1" * 64 + b"a", "expected 1 to 8 sizes, .* got 64 sizes"),
    "nothing in it": (b"\0\0\x08\x02" + b"\xff" * 4 + bytes(4), "expected sizes from 1, got 4294967295 x 0"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named_with_what_was_expected(tmp_path: Path, kind: str) -> None:
    data, message = DAMAGE[kind]
    path = tmp_path / "the-file"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=message) as raised:
        idx.read_idx(path)
    assert str(raised.value).startswith(f"{path}: expected ")


def test_a_folder_and_a_missing_file_are_not_idx_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{tmp_path}: expected an idx file, got what is no file"):
        idx.read_idx(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        idx.read_idx(tmp_path / "nowhere")


# --- which pixel is shown when


def test_row_by_row_shows_row_t_at_step_t(folder: Path) -> None:
    task = SequentialImages(source=str(folder))
    batch = task.training_batch(0, 7, seed=1)
    assert task.lines == WIDTH and batch.inputs.shape == (HEIGHT, 7, WIDTH)
    assert batch.inputs.dtype == torch.float32 and batch.inputs.is_contiguous()
    raw = pixels(folder, "train")
    for b, i in enumerate(numbers(batch)):
        assert batch.target[b] == i % 10
        for t in range(HEIGHT):
            for line in range(WIDTH):
                assert batch.inputs[t, b, line].item() == pytest.approx(raw[i, t, line] / 255, rel=1e-6)


def test_pixel_by_pixel_shows_row_after_row(folder: Path) -> None:
    task = SequentialImages(source=str(folder), order="pixel")
    batch = task.training_batch(0, 7, seed=1)
    assert task.lines == 1 and batch.inputs.shape == (HEIGHT * WIDTH, 7, 1)
    assert batch.inputs.dtype == torch.float32 and batch.inputs.is_contiguous()
    raw = pixels(folder, "train")
    for b, i in enumerate(numbers(batch)):
        assert batch.target[b] == i % 10
        for t in range(HEIGHT * WIDTH):
            assert batch.inputs[t, b, 0].item() == pytest.approx(raw[i, t // WIDTH, t % WIDTH] / 255, rel=1e-6)


def test_permuted_shows_each_pixel_once_in_the_order_that_is_written_down(folder: Path) -> None:
    task = SequentialImages(source=str(folder), order="permuted", order_seed=5)
    plain = SequentialImages(source=str(folder), order="pixel").training_batch(2, 7, seed=1)
    order = task.drawn_once["permutation"]
    assert task.lines == 1 and sorted(order) == list(range(HEIGHT * WIDTH)) and order != sorted(order)
    batch = task.training_batch(2, 7, seed=1)
    torch.testing.assert_close(batch.inputs, plain.inputs[torch.tensor(order)], rtol=0, atol=0)
    (held_out,) = task.held_out("test", 100, 0)
    np.testing.assert_allclose(
        held_out.inputs[:, :, 0].T, pixels(folder, "t10k").reshape(TEST, -1)[:, order] / 255, rtol=1e-6
    )
    assert SequentialImages(source=str(folder), order="pixel").drawn_once == {}


def test_the_permutation_lies_beside_the_results(folder: Path, tmp_path: Path) -> None:
    for order, files in (("permuted", {"config.toml", "inputs.json"}), ("pixel", {"config.toml"})):
        config = load_config("images", [f"task.source={folder}", f"task.order={order}"])
        sweep.prepare(tmp_path / order, config)
        assert {path.name for path in (tmp_path / order).iterdir()} == files
    written = read_json(tmp_path / "permuted" / "inputs.json", "inputs", to_do="")
    assert written["permutation"] == images.permutation(HEIGHT * WIDTH, 0).tolist()


def test_a_permutation_is_its_seeds_for_ever() -> None:
    """By sha256sum, of "5 0" to "5 7"; another one would make networks of before read noise."""
    keys = {hashlib.sha256(f"5 {pixel}".encode()).hexdigest(): pixel for pixel in range(8)}
    assert images.permutation(8, 5).tolist() == [keys[key] for key in sorted(keys)] == [1, 3, 4, 6, 7, 5, 2, 0]
    assert images.permutation(8, 6).tolist() != images.permutation(8, 5).tolist()


def test_labels_are_int64_and_intensities_reach_0_and_1(folder: Path) -> None:
    batch = next(SequentialImages(source=str(folder), order="pixel").held_out("test", 100, 0))
    assert batch.target.dtype == torch.int64
    (folder / "t10k-images-idx3-ubyte").write_bytes(packed(np.full((TEST, HEIGHT, WIDTH), 255)))
    images._folder.cache_clear()
    batch = next(SequentialImages(source=str(folder)).held_out("test", 100, 0))
    assert (batch.inputs == 1).all()


# --- which images are in which batch


def test_an_epoch_visits_each_training_image_once(folder: Path) -> None:
    task = SequentialImages(source=str(folder), validation=0.2)
    assert task.batches(16) == 3
    epochs = []
    for epoch in range(3):
        batches = [task.training_batch(3 * epoch + k, 16, seed=0) for k in range(3)]
        assert [batch.inputs.shape[1] for batch in batches] == [16, 16, 8]
        epochs.append([i for batch in batches for i in numbers(batch)])
    assert len(set(epochs[0])) == 40 and all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    other = [i for k in range(3) for i in numbers(task.training_batch(k, 16, seed=1))]
    assert sorted(other) == sorted(epochs[0]) and other != epochs[0]


@pytest.mark.parametrize("share, count", [(0.02, 1), (0.1, 5), (0.5, 25), (0.98, 49)])
def test_the_split_covers_everything_once(folder: Path, share: float, count: int) -> None:
    task = SequentialImages(source=str(folder), validation=share)
    train = [i for k in range(task.batches(16)) for i in numbers(task.training_batch(k, 16, 0))]
    held_out = [i for batch in task.held_out("validation", 3, 0) for i in numbers(batch)]
    assert len(held_out) == count and sorted(train + held_out) == list(range(TRAIN))


def test_the_split_depends_on_split_seed_only(folder: Path) -> None:
    def held_out(seed: int, **settings: Any) -> list[int]:
        batches = SequentialImages(source=str(folder), validation=0.2, **settings).held_out("validation", 4, seed)
        return [i for batch in batches for i in numbers(batch)]

    assert held_out(0) == held_out(7) == held_out(0, samples=5)
    assert sorted(held_out(0)) != sorted(held_out(0, split_seed=1))


def test_samples_limits_what_is_trained_on(folder: Path) -> None:
    few, more = (SequentialImages(source=str(folder), samples=n) for n in (8, 20))
    seen = [{i for k in range(task.batches(5)) for i in numbers(task.training_batch(k, 5, 0))} for task in (few, more)]
    assert few.batches(5) == 2 and [len(s) for s in seen] == [8, 20] and seen[0] < seen[1]
    assert sum(len(batch.target) for batch in few.held_out("test", 5, 0)) == TEST


def test_the_test_set_is_all_of_t10k_in_its_order(folder: Path) -> None:
    batches = list(SequentialImages(source=str(folder)).held_out("test", 5, 3))
    assert [batch.inputs.shape[1] for batch in batches] == [5, 5, 2]
    inputs, labels = torch.cat([b.inputs for b in batches], 1), torch.cat([b.target for b in batches])
    np.testing.assert_allclose(inputs.permute(1, 0, 2).numpy(), pixels(folder, "t10k") / 255, rtol=1e-6)
    assert labels.tolist() == [i % 10 for i in range(TEST)]
    with pytest.raises(ValueError, match=r"^split: expected validation or test, got 'train'"):
        SequentialImages(source=str(folder)).held_out("train", 5, 0)


def test_data_are_loaded_once_and_only_when_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path, original: Callable[[Path], np.ndarray] = idx.read_idx) -> np.ndarray:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(idx, "read_idx", counted)
    task, again = SequentialImages(source=str(folder)), SequentialImages(source=str(folder), order="pixel")
    assert not read
    for each in (task, again):
        each.training_batch(0, 16, 0)
        list(each.held_out("test", 5, 0))
        assert each.lines in (1, WIDTH) and each.outputs == 10
    assert len(read) == 4
    assert task.data.train.images.dtype == np.uint8


# --- loss and score


def test_the_decision_is_the_largest_v_at_the_last_step() -> None:
    v = torch.zeros(3, 2, 10)
    v[:2, :, 9] = 50.0  # what was large before does not count
    v[2, 0, 4] = v[2, 1, 7] = 2.0
    activity, target = Activity(v, ()), torch.tensor([4, 8])
    task = SequentialImages()
    assert task.score(activity, target).tolist() == [1.0, 0.0]
    rest = np.log(np.exp(2) + 9)  # log of the sum of exponentials of one 2 and nine 0
    assert task.loss(activity, target).item() == pytest.approx(((rest - 2) + rest) / 2, rel=1e-6)


@pytest.mark.parametrize("readout", ["last", "mean", "softmax", "counts"])
def test_each_readout_decides_by_what_it_says(readout: str) -> None:
    rng = np.random.default_rng(2)
    output = rng.integers(0, 2, (6, 5, 10)) if readout == "counts" else rng.normal(0, 3, (6, 5, 10))
    exponentials = np.exp(output)
    evidence = {
        "last": output[5],
        "mean": sum(output) / 6,
        "softmax": sum(exponentials / exponentials.sum(2, keepdims=True)),
        "counts": sum(output),
    }[readout]
    target = rng.integers(0, 10, 5)
    task, activity = SequentialImages(readout=readout), Activity(torch.tensor(output, dtype=torch.float64), ())
    right = [float(evidence[b].argmax() == target[b]) for b in range(5)]
    assert task.score(activity, torch.tensor(target)).tolist() == right
    surprise = np.log(np.exp(evidence).sum(1)) - evidence[range(5), target]
    assert task.loss(activity, torch.tensor(target)).item() == pytest.approx(surprise.mean(), rel=1e-12)


def test_counted_output_neurons_spike_and_have_no_recurrence(folder: Path) -> None:
    config = load_config("images", [f"task.source={folder}"], preset="paper")
    network = variants.build_for(config.task, config.network, 0)
    *hidden, output = network.layers
    assert output.params.spiking and output.params.recurrent_weight is None and len(output.params.weight) == 10
    assert all(layer.params.recurrent_weight is not None for layer in hidden)
    model = Model(network, "snntorch")
    activity = model(torch.rand(HEIGHT * WIDTH, 3, 1) * 20)
    assert set(activity.readout.unique().tolist()) == {0.0, 1.0} and len(activity.spikes) == 2
    assert not variants.build_for(SequentialImages(source=str(folder)), config.network, 0).layers[-1].params.spiking


# --- bad settings and bad folders


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"order": "column"}, "^order: expected one of row, pixel, permuted, got 'column'"),
        ({"order_seed": -1}, "^order_seed: expected at least 0, got -1"),
        ({"readout": "sum"}, "^readout: expected one of last, mean, softmax, counts, got 'sum'"),
        ({"validation": 1.0}, "^validation: expected a share from 0 to below 1, got 1.0"),
        ({"validation": -0.1}, "^validation: "),
        ({"validation": float("nan")}, "^validation: "),
        ({"split_seed": -1}, "^split_seed: expected at least 0, got -1"),
        ({"samples": 0}, "^samples: "),
        ({"dt": 0.0}, "^dt: "),
    ],
)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequentialImages(**settings)


def test_a_split_that_leaves_no_images_is_refused(folder: Path) -> None:
    for share in (0.001, 0.999):
        with pytest.raises(ValueError, match=f"^validation: expected a share of 50 images .* got {share}"):
            SequentialImages(source=str(folder), validation=share).batches(5)
    with pytest.raises(ValueError, match=r"^samples: expected at most 45 images, got 46"):
        SequentialImages(source=str(folder), samples=46).batches(5)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_says_where_it_was_looked_for_and_what_else_there_is(folder: Path, name: str) -> None:
    for path in folder.glob(f"{name}*"):
        path.unlink()
    with pytest.raises(FileNotFoundError) as raised:
        SequentialImages(source=str(folder)).training_batch(0, 5, 0)
    message = str(raised.value)
    assert message.startswith(f"source: expected {name} or {name}.gz in {folder}, got neither; ")
    for hint in ("apt install dataset-fashion-mnist", "task.source=FOLDER", "task.source=digits"):
        assert hint in message


def test_the_default_is_debians_folder_then_what_was_got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "installed").mkdir()
    monkeypatch.setattr(images, "FASHION_MNIST", tmp_path / "installed")
    monkeypatch.setenv("HETSYN_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"in {tmp_path / 'installed'}, got neither"):
        assert SequentialImages().lines
    (tmp_path / "installed").rmdir()
    for source in ("fashion_mnist", "mnist"):
        with pytest.raises(FileNotFoundError, match=f"in {tmp_path / source}, got neither; hetsyn data get mnist"):
            assert SequentialImages(source=source).lines
        (tmp_path / source).mkdir()
        idx_files(tmp_path / source)
        assert SequentialImages(source=source).lines == WIDTH


def test_a_home_or_relative_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    for source in (".", f"~/{folder.name}"):
        assert SequentialImages(source=source).lines == WIDTH


def test_a_damaged_file_in_the_folder_is_named(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"^{path}: expected a whole gzip file"):
        assert SequentialImages(source=str(folder)).lines


BAD_CONTENT: dict[str, tuple[str, Any, str]] = {
    "flat images": (FILES[2], np.zeros((TEST, 24)), r"expected images \(n, height, width\), got the shape \(12, 24\)"),
    "no images": (FILES[2], np.zeros((0, 4, 6)), "expected sizes from 1, got 0 x 4 x 6"),
    "a label too few": (FILES[3], np.zeros(11), r"expected a label for each of 12 images, got the shape \(11,\)"),
    "labels of two numbers": (FILES[3], np.zeros((12, 2)), r"expected a label for each .* got the shape \(12, 2\)"),
    "label 10": (FILES[3], [*range(10), 10, 0], "expected labels 0 to 9, got 10"),
}


@pytest.mark.parametrize("kind", BAD_CONTENT)
def test_files_that_do_not_fit_are_named(folder: Path, kind: str) -> None:
    name, array, message = BAD_CONTENT[kind]
    (folder / name).write_bytes(packed(array))
    with pytest.raises(ValueError, match=f"^{folder / name}: {message}"):
        assert SequentialImages(source=str(folder)).lines


def test_test_images_of_another_size_are_refused(folder: Path) -> None:
    (folder / FILES[2]).write_bytes(packed(np.zeros((TEST, 6, 4))))
    with pytest.raises(ValueError, match=rf"^{folder}: source: expected test images of 4 x 6 pixels.* got 6 x 4"):
        assert SequentialImages(source=str(folder)).lines


# --- the real data sets


def test_the_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    raw, labels = load_digits(return_X_y=True)
    task = SequentialImages(source="digits", validation=0.1)
    assert task.lines == 8 and SequentialImages(source="digits", order="pixel").lines == 1
    train = [task.training_batch(k, 256, 0) for k in range(task.batches(256))]
    validation, test = (list(task.held_out(split, 256, 0)) for split in ("validation", "test"))
    assert [sum(len(batch.target) for batch in part) for part in (train, validation, test)] == [1213, 135, 449]
    shown: dict[bytes, int] = {}
    for inputs, target in train + validation + test:
        shown |= {(inputs[:, i].flatten() * 16).numpy().tobytes(): int(label) for i, label in enumerate(target)}
    assert shown == {x.astype(np.float32).tobytes(): int(y) for x, y in zip(raw, labels, strict=True)}


def test_the_digits_spike_coding_has_the_same_test_images() -> None:
    """`digits.load` and this task cut the digits alike, so that nobody trains on the other's test images."""
    task = SequentialImages(source="digits")
    (batch,) = task.held_out("test", 1000, 0)
    spikes = digits.encode(batch.inputs.permute(1, 0, 2).numpy() * 16)
    np.testing.assert_array_equal(spikes, digits.load_spikes().test_spikes)


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    images._digits.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'hetsyn_plugins\[data\]'"):
        assert SequentialImages(source="digits").lines


@needs("dataset-fashion-mnist", (images.FASHION_MNIST / f"{FILES[0]}.gz").exists())
def test_debians_fashion_mnist() -> None:
    task = SequentialImages()
    assert task.lines == 28 and task.batches(256) == 211
    np.testing.assert_array_equal(np.bincount(task.data.train.labels), np.full(10, 6000))
    np.testing.assert_array_equal(np.bincount(task.data.test.labels), np.full(10, 1000))
    assert sum(len(batch.target) for batch in task.held_out("validation", 1000, 0)) == 6000
    batch = task.training_batch(210, 256, 0)
    assert batch.inputs.shape == (28, 54000 - 210 * 256, 28) and 0 <= batch.inputs.min() and batch.inputs.max() == 1
    # the first test image is an ankle boot (9), its top rows empty; a pixel of it, straight from the unpacked file
    first = next(task.held_out("test", 1, 0))
    with gzip.open(images.FASHION_MNIST / "t10k-images-idx3-ubyte.gz") as file:
        raw = file.read(16 + 784)[16:]
    assert first.target.item() == 9 and not first.inputs[0].any()
    np.testing.assert_allclose(first.inputs[20, 0] * 255, list(raw[20 * 28 : 21 * 28]), rtol=1e-6)
