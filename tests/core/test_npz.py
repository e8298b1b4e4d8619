"""Arrays of a .npz file of strangers: as NumPy reads them, or refused before anything is unpacked or allocated."""

from __future__ import annotations

import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import caught, changed

from hetsyn_plugins.core import npz
from hetsyn_plugins.core.file_format import FileFormatError

SHAPE = {"descr": "<f4", "fortran_order": False, "shape": (2, 3)}


@pytest.fixture
def module() -> Any:
    """The module under test; the planted bugs at the end run the same checks on changed ones."""
    return npz


def write(path: Path, header: bytes | str, data: bytes = bytes(24), version: tuple[int, int] = (1, 0)) -> Path:
    """A .npz file whose one array has this header and these bytes."""
    text = header.encode("latin1") if isinstance(header, str) else header
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", b"\x93NUMPY" + bytes(version) + length + text + data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["?", "i1", ">i2", "<u8", "f2", ">f4", "f8"])
def test_arrays_are_those_that_numpy_reads(save: Any, dtype: str, tmp_path: Path, module: Any) -> None:
    whole = np.arange(24).reshape(2, 3, 4)
    arrays = {"a": whole.astype(dtype), "b": np.asfortranarray(whole.astype(dtype)), "c": np.array(3, dtype)}
    save(tmp_path / "it.npz", **arrays, other=np.array(["a text"]))
    read = module.read(tmp_path / "it.npz", ("a", "b", "c", "not there"))
    assert list(read) == ["a", "b", "c"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array.astype(array.dtype.newbyteorder("=")), strict=True)
        assert read[name].flags.writeable


HEADERS = {
    "objects": (
        str(SHAPE | {"descr": "|O"}),
        "a: descr: expected numbers or truth values of up to 8 bytes, got |O; rows of unequal length are padded",
    ),
    "texts": (
        str(SHAPE | {"descr": "<U6"}),
        "a: descr: expected numbers or truth values of up to 8 bytes, got <U6; np.unique(texts, return_inverse=True)",
    ),
    "dates": (
        str(SHAPE | {"descr": "<M8[s]"}),
        "a: descr: expected numbers or truth values of up to 8 bytes, got <M8[s]",
    ),
    "complex": (
        str(SHAPE | {"descr": "<c8"}),
        "a: descr: expected numbers or truth values of up to 8 bytes, got <c8; take real and imaginary part",
    ),
    "fields": (str(SHAPE | {"descr": [("x", "<f4")]}), "a: descr: expected numbers or truth values"),
    "much promised": (str(SHAPE | {"shape": (10**9, 10**6)}), "a: expected 4000000000000000 bytes for the shape"),
    "more than numbers can say": (str(SHAPE | {"shape": (10**4000,) * 2}), "a: shape: expected up to 8 sizes"),
    "less than there is": (str(SHAPE | {"shape": (2, 2)}), "a: expected 16 bytes for the shape (2, 2), got 24"),
    "nothing": (str(SHAPE | {"shape": (0, 2)}), "a: shape: expected up to 8 sizes from 1, got (0, 2)"),
    "below nothing": (str(SHAPE | {"shape": (-2, -3)}), "a: shape: expected up to 8 sizes from 1, got (-2, -3)"),
    "truth values for sizes": (str(SHAPE | {"shape": (True, 6)}), "a: shape: expected up to 8 sizes from 1"),
    "very many axes": (str(SHAPE | {"shape": (1,) * 70 + (6,)}), "a: shape: expected up to 8 sizes from 1"),
    "an order that is none": (str(SHAPE | {"fortran_order": 0}), "a: fortran_order: expected True or False, got 0"),
    "more entries": (str(SHAPE | {"x": 0}), "a: expected a header with descr, fortran_order, shape"),
    "a list": ("[]", "a: expected a header with descr, fortran_order, shape, got []"),
    "no value": ("{'descr': ", "a: expected a header, got what cannot be read"),
    "an unhashable key": ("{[]: 1}", "a: expected a header, got what cannot be read"),
    "a call": ("__import__('os').getcwd()", "a: expected a header, got what cannot be read"),
    "nested": ("(" * 5000, "a: expected a header, got what cannot be read"),
    "minus": ("-" * 5000 + "1", "a: expected a header, got what cannot be read"),
    "long": (" " * 10_001 + str(SHAPE), "a: expected a header of at most 10000 bytes, got 1"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_lies_is_told(kind: str, tmp_path: Path, module: Any) -> None:
    header, says = HEADERS[kind]
    path = write(tmp_path / "it.npz", header)
    with pytest.raises(FileFormatError) as raised:
        module.read(path, ("a",))
    assert str(raised.value).startswith(f"{path}: {says}")


def test_what_is_no_array_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"a: expected an array of numbers as numpy\.save writes it"):
        npz.read(write(tmp_path / "it.npz", str(SHAPE), version=(3, 0)), ("a",))
    with pytest.raises(FileFormatError, match="a: expected truth values of 0 and 1, got others"):
        npz.read(write(tmp_path / "it.npz", str(SHAPE | {"descr": "|b1", "shape": (24,)}), b"\2" * 24), ("a",))
    with zipfile.ZipFile(tmp_path / "it.npz", "w") as file:
        file.writestr("a.npy", "a text")
    with pytest.raises(FileFormatError, match=r"a: expected an array of numbers as numpy\.save writes it"):
        npz.read(tmp_path / "it.npz", ("a",))
    with zipfile.ZipFile(tmp_path / "it.npz", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("a.npy", bytes(100))
    with pytest.raises(FileFormatError, match=r"a\.npy: expected a whole member, got .*another way than deflated"):
        npz.read(tmp_path / "it.npz", ("a",))
    with pytest.raises(FileNotFoundError, match="which is no file"):
        npz.read(tmp_path, ("a",))


def test_only_what_is_asked_for_is_unpacked(tmp_path: Path, module: Any) -> None:
    """A member of gigabytes that nobody asks for costs nothing; one that is asked for is refused."""
    path = tmp_path / "it.npz"
    np.savez_compressed(path, a=np.arange(3), bomb=np.zeros(70_000_000, np.uint8))
    np.testing.assert_array_equal(module.read(path, ("a",))["a"], [0, 1, 2])
    with pytest.raises(FileFormatError, match="expected what unpacks to at most 64000000 bytes, got 70000"):
        module.read(path, ("a", "bomb"))
    small = path.read_bytes().replace(struct.pack("<I", 70_000_128), struct.pack("<I", 1000))
    path.write_bytes(small)
    with pytest.raises(FileFormatError, match=r"bomb\.npy: expected"):
        module.read(path, ("a", "bomb"))


def test_no_cut_or_changed_byte_gives_other_numbers(tmp_path: Path) -> None:
    path, array = tmp_path / "it.npz", np.arange(6.0)
    np.savez_compressed(path, a=array)
    whole = path.read_bytes()
    changes = [whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in (1, 128)]
    for content in (*changes, *(whole[:at] for at in range(len(whole)))):
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read = npz.read(path, ("a",))
            except FileFormatError:
                continue
        assert not read or np.array_equal(read["a"], array)


# ---- planted bugs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "check", "says"),
    [
        ('order="F" if fortran else "C"', 'order="C"', "numpy", "Arrays are not equal"),
        ("members.__contains__", "lambda name: False", "asked", "DID NOT RAISE"),
        ("0 < size", "0 <= size", "sizes", "a: expected 0 bytes for the shape (0, 2), got 24"),
    ],
)
def test_planted_bugs_are_caught(old: str, new: str, check: str, says: str, tmp_path: Path) -> None:
    fresh = changed("hetsyn_plugins.core.npz", old, new)["hetsyn_plugins.core.npz"]
    checks = {
        "numpy": lambda: test_arrays_are_those_that_numpy_reads(np.savez, "f8", tmp_path, fresh),
        "asked": lambda: test_only_what_is_asked_for_is_unpacked(tmp_path, fresh),
        "sizes": lambda: test_a_header_that_lies_is_told("nothing", tmp_path, fresh),
    }
    with caught(says, pytest.fail.Exception if check == "asked" else AssertionError):
        checks[check]()
