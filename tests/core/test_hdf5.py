"""HDF5 files that reach out of themselves or promise more than they hold: refused before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from hetsyn_plugins.core import hdf5
from hetsyn_plugins.core.file_format import FileFormatError

SECRET = b"nobody-may-see-this"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Another file, HDF5 with a data set x, whose content nobody may see through the one that is read."""
    path = tmp_path / "elsewhere.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.frombuffer(SECRET, np.uint8)
    return path


def external_link(file: h5py.File, other: Path) -> None:
    file["group/x"] = h5py.ExternalLink(str(other), "x")


def soft_link(file: h5py.File, other: Path) -> None:
    file["there"] = np.zeros(2)
    file["group/x"] = h5py.SoftLink("/there")


def circle(file: h5py.File, other: Path) -> None:
    file["group/x"] = h5py.SoftLink("/group")


def hard_circle(file: h5py.File, other: Path) -> None:
    file["group/x/y"] = 1
    file["group/x/z"] = file["group"]


def external_storage(file: h5py.File, other: Path) -> None:
    size = other.stat().st_size
    file.create_dataset("group/x", (size,), np.uint8, external=[(str(other), 0, size)])


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((len(SECRET),), np.uint8)
    layout[:] = h5py.VirtualSource(str(other), "x", (len(SECRET),))
    file.create_virtual_dataset("group/x", layout)


def without_end(file: h5py.File, other: Path) -> None:
    file.create_dataset("group/x", (10**9,), np.float64)


def without_end_in_chunks(file: h5py.File, other: Path) -> None:
    file.create_dataset("group/x", (10**12,), np.float64, chunks=(10**4,), compression="gzip")


def many_of_them(file: h5py.File, other: Path) -> None:
    for index in range(20):
        file.create_dataset(f"group/{index}", (10**6,), np.float64, chunks=(10**4,))


def deep(file: h5py.File, other: Path) -> None:
    file["/".join("a" * 50)] = 1


def broad(file: h5py.File, other: Path) -> None:
    for index in range(hdf5.MOST + 1):
        file.create_group(f"group/{index}")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (external_link, "group/x"),
        (soft_link, "group/x"),
        (circle, "group/x"),
        (hard_circle, "group/x/z/x/"),
        (external_storage, "group/x: expected data in the file itself"),
        (virtual, "group/x: expected data in the file itself"),
        (without_end, "group/x"),
        (without_end_in_chunks, "data of at most"),
        (many_of_them, "data of at most"),
        (deep, "a/a/a/a"),
        (broad, "group/"),
    ],
)
def test_what_reaches_out_is_refused_unread(
    make: Callable[[h5py.File, Path], None], field: str, elsewhere: Path, tmp_path: Path
) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        make(file, elsewhere)
    read: list[str] = []
    with pytest.raises(FileFormatError, match=field) as caught:
        hdf5.opened(path, "a file", lambda file: read.append("read"))
    assert not read
    assert str(caught.value).startswith(f"{path}: ")
    assert "nobody-may" not in str(caught.value)


def test_an_ordinary_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file["a/b/c"] = np.arange(3)
        file["packed"] = 1.5
        file["empty"] = h5py.Empty("f4")
        file.create_dataset("chunks", data=np.ones((100, 100)), chunks=(10, 10), compression="gzip")
        file.create_dataset("rows", (3,), h5py.vlen_dtype(np.uint16))[1] = [1, 2]
    assert hdf5.opened(path, "a file", lambda file: file["a/b/c"][:].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("error", [OSError("x"), RuntimeError("x"), KeyError("x"), TypeError("x"), ValueError("x")])
def test_what_the_library_raises_names_the_file(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    h5py.File(path, "w").close()

    def reader(file: h5py.File) -> None:
        raise error

    with pytest.raises(FileFormatError, match=r"file\.h5: expected a file, got one that cannot be read: x$"):
        hdf5.opened(path, "a file", reader)


@pytest.mark.parametrize("stated", [3, b"x", np.bytes_("0" * 63), np.array([b"0" * 64] * 2), h5py.Empty("S64")])
def test_a_digest_that_is_none_is_told(stated: object, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        hdf5.write_digest(file, [1, 2])
        hdf5.check_written(file, [1, 2], to_do="copy it anew")
        file.attrs[hdf5.DIGEST] = stated
        with pytest.raises(FileFormatError, match=r"not one.*copy it anew"):
            hdf5.check_written(file, [1, 2], to_do="copy it anew")


def test_what_is_no_hdf5_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    path.write_bytes(b"no such thing")
    with pytest.raises(FileFormatError, match=r"file\.h5: expected a file, got one that cannot be read"):
        hdf5.opened(path, "a file", lambda file: None)
    with pytest.raises(FileFormatError, match="what is no file"):
        hdf5.opened(tmp_path, "a file", lambda file: None)
    with pytest.raises(FileNotFoundError, match=r"path: expected a file, got .*none\.h5, which does not exist"):
        hdf5.opened(tmp_path / "none.h5", "a file", lambda file: None)
