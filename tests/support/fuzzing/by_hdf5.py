"""Damage to HDF5 files: values, types, shapes, links, and what is stored elsewhere or not at all."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import h5py
import numpy as np

from fuzzing.by_text import is_digest
from fuzzing.cases import MARKUP, Kind

CANARY = "../canary.h5"  # with a dataset "secret"
WHOLE = "../whole.h5"  # a good file
RAW = "../canary.bin"
ZEROS = 1 << 29  # bytes of a bomb


def datasets(file: h5py.File) -> list[str]:
    """The names of all datasets, but for digests."""
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return [name for name in found if not is_digest(name.rpartition("/")[2])]


def of_file(
    name: str, change: Callable[[Random, h5py.File], Any], unsigned: bool = False, refused: bool = False
) -> Kind:
    """Damage that h5py itself can do to a file, which stays a sound one."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        buffer = io.BytesIO(data)
        with h5py.File(buffer, "r+") as file:
            change(rng, file)
        return buffer.getvalue()

    return Kind(f"hdf5: {name}", make, unsigned, refused=refused)


def of_dataset(name: str, change: Callable[[Random, h5py.File, str], Any], refused: bool = False) -> Kind:
    """Damage to one dataset."""
    return of_file(name, lambda rng, file: change(rng, file, rng.choice(datasets(file))), refused=refused)


def replaced(change: Callable[[Random, Any], Any]) -> Callable[[Random, h5py.File, str], Any]:
    """Another content in a dataset's place: change(rng, old) gives what h5py takes as one."""

    def make(rng: Random, file: h5py.File, name: str) -> None:
        old = file[name][()]
        del file[name]
        file[name] = change(rng, old)

    return make


def _off(rng: Random, file: h5py.File, name: str) -> None:
    """One value changed by the least that there is."""
    dataset = file[name]
    if dataset.shape is None or not dataset.size:
        return
    values = dataset[()]
    if isinstance(values, bytes):
        dataset[()] = values[:-1] + b"_"
        return
    flat = np.array(values).reshape(-1)
    at = rng.randrange(len(flat))
    flat[at] = _next(flat[at])
    dataset[()] = flat.reshape(dataset.shape)


def _next(value: Any) -> Any:
    """The next value of its kind."""
    if isinstance(value, np.ndarray):
        return np.array([_next(value[0]), *value[1:]], value.dtype) if len(value) else value
    if isinstance(value, bytes):
        return value[:-1] + b"_"
    if isinstance(value, (bool, np.bool_)):
        return not value
    return np.nextafter(value, value.dtype.type(np.inf)) if value.dtype.kind == "f" else value + 1


def _numbers(old: Any) -> Any:
    """What is there as an array of numbers."""
    return old if isinstance(old, np.ndarray) and old.dtype.kind in "iufb" else np.arange(3.0)


def _odd_type(rng: Random, file: h5py.File, name: str) -> None:
    """A type that nobody expects there."""
    del file[name]
    kind = rng.randrange(9)
    if kind == 0:
        file[name] = np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])
    elif kind == 1:
        file.create_dataset(name, data=np.void(b"opaque"))
    elif kind == 2:
        file.create_dataset(name, data=np.array([0, 1]), dtype=h5py.enum_dtype({"A": 0, "B": 1}))
    elif kind == 3:
        file.create_dataset(name, (2,), h5py.ref_dtype)[0] = file.ref
    elif kind == 4:
        file.create_dataset(name, (2,), h5py.vlen_dtype(np.int32))[0] = np.arange(3)
    elif kind == 5:
        file.create_dataset(name, (2,), h5py.string_dtype())[0] = MARKUP
    elif kind == 6:
        file[name + "_type"] = np.dtype("f8")
        file.create_dataset(name, (3,), dtype=file[name + "_type"])
    elif kind == 7:
        file.create_dataset(name, (2,), np.dtype(("<f4", (3,))))
    else:
        file.create_dataset(name, (2,), h5py.vlen_dtype(h5py.string_dtype()))


def _retyped(rng: Random, old: Any) -> Any:
    """The same numbers in another type or byte order."""
    types = (">f4", ">i8", "<f8", "<f2", "i1", "u8", "?", "c16", "<i4", "S5", np.longdouble)
    return _numbers(old).astype(np.dtype(rng.choice(types)))


def _reshaped(rng: Random, old: Any) -> Any:
    numbers = _numbers(old)
    shapes = (
        numbers.T,
        numbers.reshape(-1),
        numbers[None],
        numbers[..., None],
        numbers.reshape(-1)[:0],
        numbers.reshape(-1)[:1],
    )
    return rng.choice((*shapes, h5py.Empty("f4"), np.zeros((0, 3)), np.zeros((3, 0))))  # fmt: skip


def _odd_value(rng: Random, old: Any) -> Any:
    """A value that cannot be, in the type that is there."""
    if isinstance(old, bytes):
        others = (b"", b"\xff\xfe", b"x" * 100_000, b"a\nb", MARKUP.encode(), b"HETSYN\x00x", b"../canary", b"\x1b[31m")
        return np.array(rng.choice(others) or b"\0", h5py.string_dtype("utf-8", 100_000))
    numbers = np.array(_numbers(np.asarray(old)))
    if numbers.dtype.kind == "f":
        numbers[...] = rng.choice((np.nan, np.inf, -np.inf, -1.0, 1e30, 0.0))
    elif numbers.dtype.kind in "iu":
        numbers[...] = rng.choice((np.iinfo(numbers.dtype).min, np.iinfo(numbers.dtype).max, 0, 1, 63, 100))
    return numbers


def _huge(rng: Random, file: h5py.File, name: str) -> None:
    """A shape that was never written, in chunks or in one piece: some bytes of file."""
    dtype = file[name].dtype
    dimensions = max(1, len(file[name].shape or ()))
    del file[name]
    shape = (rng.choice((10**7, 10**9, 2**40)), *[1] * (dimensions - 1))
    chunks = rng.choice((None, (1000, *[1] * (dimensions - 1))))
    file.create_dataset(name, shape, dtype, chunks=chunks)


def zeros(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """A dataset of zeros in gzipped chunks, written packed: a bomb of ZEROS bytes is some hundreds of kilobytes."""
    if name in file:
        del file[name]
    dtype = np.dtype(dtype)
    rows = max(1, (1 << 20) // (dtype.itemsize * int(np.prod(shape[1:]))))
    chunks = (rows, *shape[1:])
    dataset = file.create_dataset(name, shape, dtype, chunks=chunks, compression="gzip", compression_opts=9)
    packed = zlib.compress(bytes(int(np.prod(chunks)) * dtype.itemsize), 9)
    for row in range(0, shape[0], rows):
        dataset.id.write_direct_chunk((row, *[0] * (len(shape) - 1)), packed)


def _bomb(rng: Random, file: h5py.File, name: str) -> None:
    dataset = file[name]
    dtype = dataset.dtype if dataset.dtype.kind in "iuf" else np.dtype("f4")
    size = ZEROS // dtype.itemsize
    zeros(file, name, (size,) if len(dataset.shape or ()) < 2 else (size >> 10, 1 << 10), dtype)


def _external_link(rng: Random, file: h5py.File, name: str) -> None:
    """A dataset, or the group it is in, stands in another file."""
    path = rng.choice((name, name.split("/")[0]))
    del file[path]
    file[path] = h5py.ExternalLink(
        rng.choice((CANARY, "/etc/passwd", "missing.h5")), rng.choice(("/secret", "/", path))
    )


def _soft_link(rng: Random, file: h5py.File, name: str) -> None:
    """A dataset is a link: to another one, to nothing, to itself, in a circle."""
    other = rng.choice(datasets(file))
    del file[name]
    target = rng.choice(("/" + other, "/nothing", "/" + name, "/circle", "."))
    file["circle"] = h5py.SoftLink("/" + name)
    file[name] = h5py.SoftLink(target)


def _moved_behind_link(rng: Random, file: h5py.File, name: str) -> None:
    """The same values, but behind a soft link."""
    file.move(name, "elsewhere")
    file[name] = h5py.SoftLink("/elsewhere")


def _circle(rng: Random, file: h5py.File) -> None:
    """A group that holds itself."""
    group = file[rng.choice(datasets(file)).rpartition("/")[0] or "/"]
    group["again"] = group
    file["and again"] = file["/"]


def _external_storage(rng: Random, file: h5py.File, name: str) -> None:
    """The numbers of a dataset stand in another file."""
    dataset = file[name]
    dtype = dataset.dtype if dataset.dtype.kind in "iufS" else np.dtype("S64")
    shape = dataset.shape or (1,)
    del file[name]
    size = int(np.prod(shape)) * dtype.itemsize
    file.create_dataset(name, shape, dtype, external=[(rng.choice((RAW, "/etc/passwd")), 0, max(size, 1))])


def _virtual(rng: Random, file: h5py.File, name: str) -> None:
    """A dataset is put together of another file's."""
    dataset = file[name]
    dtype, shape = dataset.dtype, dataset.shape or (1,)
    if dtype.kind not in "iufS":
        dtype = np.dtype("S64")
    del file[name]
    options, space = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.create_simple(shape)
    options.set_obj_track_times(False)  # or the bytes would be others at another time
    options.set_virtual(space, rng.choice((CANARY, ".", WHOLE)).encode(), rng.choice(("secret", name)).encode(), space)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, options)


def _deep(rng: Random, file: h5py.File) -> None:
    """Groups in groups."""
    group = file[rng.choice(("/", datasets(file)[0].rpartition("/")[0] or "/"))]
    for _ in range(rng.choice((40, 3_000))):
        group = group.create_group("g")


def _many(rng: Random, file: h5py.File) -> None:
    """Groups by the thousand."""
    names = (f"layer/{i}" for i in range(100, 5_100)) if "layer" in file else (f"g{i}" for i in range(5_000))
    for name in names:
        file.create_group(name)


def _attributes(rng: Random, file: h5py.File) -> None:
    """Attributes gone, others there, some large."""
    for item in (file, *(file[name] for name in datasets(file))):
        for name in [name for name in item.attrs if not is_digest(name)]:
            del item.attrs[name]
        item.attrs["x"] = rng.choice((np.zeros(5_000), MARKUP, h5py.Empty("f4")))


def without_digest(file: h5py.File) -> None:
    """As if there had never been a digest."""
    found: list[str] = []
    file.visit(lambda name: found.append(name) if is_digest(name.rpartition("/")[2]) else None)
    for name in found:
        del file[name]
    for item in (file, *(file[name] for name in datasets(file))):
        for name in [name for name in item.attrs if is_digest(name)]:
            del item.attrs[name]


def _without_digest_one_off(rng: Random, file: h5py.File) -> None:
    without_digest(file)
    _off(rng, file, rng.choice(datasets(file)))


def _damaged_digest(rng: Random, file: h5py.File) -> None:
    """Another digest and, so that it shows, another value."""
    others = ("", "0" * 64, 0, b"\xff", h5py.Empty("S64"))
    for name in [name for name in file if is_digest(name)]:
        del file[name]
        file[name] = rng.choice(others)
    for name in [name for name in file.attrs if is_digest(name)]:
        file.attrs[name] = rng.choice(others)
    _off(rng, file, rng.choice(datasets(file)))


def _filters(rng: Random, file: h5py.File, name: str) -> None:
    """The same values in chunks, packed and checked."""
    values = np.atleast_1d(_numbers(file[name][()]))
    del file[name]
    options = (
        {"compression": "gzip"},
        {"compression": "lzf"},
        {"shuffle": True},
        {"fletcher32": True},
        {"scaleoffset": 0},
    )
    option = rng.choice(options[:4] if values.dtype.kind not in "iu" else options)
    file.create_dataset(name, data=values, chunks=True, **option)  # fmt: skip


def _unknown_filter(rng: Random, data: bytes, other: bytes) -> bytes:
    """A filter that this HDF5 does not have: LZF's number becomes another one."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        name = rng.choice(datasets(file))
        values = np.atleast_1d(_numbers(file[name][()]))
        del file[name]
        file.create_dataset(name, data=values, chunks=True, compression="lzf")
    return buffer.getvalue().replace(struct.pack("<H", 32000), struct.pack("<H", 32001))


def _unwritten(rng: Random, file: h5py.File, name: str) -> None:
    """A dataset of the right shape and type that nobody wrote: its fill value stands for all."""
    dataset = file[name]
    shape, dtype = dataset.shape, dataset.dtype
    if shape is None or dtype.kind not in "iuf":
        return
    del file[name]
    file.create_dataset(name, shape, dtype, fillvalue=rng.choice((0, 1, 100)))


def _renamed(rng: Random, file: h5py.File, name: str) -> None:
    file.move(name, rng.choice((name + "_", name.upper(), "x", "a/" + name)))


def _more(rng: Random, file: h5py.File, name: str) -> None:
    """A dataset, or a group, that nobody reads."""
    above = name.rpartition("/")[0]
    file[f"{above}/more"] = rng.choice((1.0, MARKUP, np.zeros(3)))


def _a_group(rng: Random, file: h5py.File, name: str) -> None:
    del file[name]
    file.create_group(name)


def _emptied(rng: Random, file: h5py.File) -> None:
    for name in list(file):
        del file[name]


def _as_latest(rng: Random, data: bytes, other: bytes) -> bytes:
    """The same content as another version of HDF5 writes it, or behind a block of the user's."""
    buffer = io.BytesIO()
    with h5py.File(io.BytesIO(data), "r") as old:
        options = rng.choice(({"libver": "latest"}, {"userblock_size": 512}, {"track_order": True}))
        with h5py.File(buffer, "w", **options) as new:
            for name in old:
                old.copy(name, new)
            for name, value in old.attrs.items():
                new.attrs[name] = value
    return buffer.getvalue()


KINDS = (
    of_dataset("value a bit off", _off),
    of_file("digest away", lambda rng, file: without_digest(file), unsigned=True),
    of_file("digest away and a value off", _without_digest_one_off, unsigned=True),
    of_file("digest damaged", _damaged_digest),
    of_dataset("value that cannot be", replaced(_odd_value)),
    of_dataset("dtype", replaced(_retyped)),
    of_dataset("odd dtype", _odd_type),
    of_dataset("shape", replaced(_reshaped)),
    of_dataset("dataset missing", lambda rng, file, name: file.__delitem__(name)),
    of_dataset("dataset renamed", _renamed),
    of_dataset("dataset more", _more),
    of_dataset("dataset a group", _a_group),
    of_dataset("huge shape, nothing written", _huge),
    of_dataset("bomb", _bomb),
    of_dataset("never written", _unwritten),
    of_dataset("filters", _filters),
    Kind("hdf5: unknown filter", _unknown_filter),
    of_dataset("external link", _external_link, refused=True),
    of_dataset("soft link", _soft_link, refused=True),
    of_dataset("behind a soft link", _moved_behind_link, refused=True),
    of_dataset("external storage", _external_storage, refused=True),
    of_dataset("virtual dataset", _virtual, refused=True),
    of_file("group in itself", _circle),
    of_file("groups deep", _deep),
    of_file("groups by the thousand", _many),
    of_file("attributes", _attributes),
    of_file("emptied", _emptied),
    Kind("hdf5: as another version writes it", _as_latest),
)


# ---- chip files --------------------------------------------------------------------------------------------------


def _consistent_bomb(rng: Random, file: h5py.File) -> None:
    """A layer of 8,192 x 16,384 zeros, in all datasets that say how large it is."""
    n, m = 8_192, 16_384
    layer = file["layer/1"]
    old = layer["weight"].shape[0]
    sizes = {"shape": np.array([n]), "inFeatures": np.int64(m), "outFeatures": np.int64(n)}
    for name in datasets(layer):
        dataset = layer[name]
        if dataset.shape is not None and len(dataset.shape) == 2:
            zeros(layer, name, (n, m), dataset.dtype)
        elif dataset.shape == (old,) or name in sizes:
            value = sizes.get(name, np.ones(n, dataset.dtype))
            del layer[name]
            layer[name] = value


def _dt(rng: Random, file: h5py.File) -> None:
    """A length of a step that cannot be."""
    if "dt" in file:
        del file["dt"]
    file["dt"] = rng.choice((np.nan, -1e-3, 0.0, np.inf, "x", [1e-3, 2e-3], np.bool_(True), 1, 1e300, np.complex64(1)))


def _text(rng: Random, file: h5py.File) -> None:
    """A text of variable length, whose heap is damaged or not."""
    name = rng.choice([n for n in datasets(file) if n.rpartition("/")[2] in ("type", "name", "form")])
    old = np.ravel(file[name][()])[0]
    del file[name]
    others = (old, "x" * 1_000_000, "", "é" * 50, "a\nb", MARKUP, b"\xff\xfe")
    file.create_dataset(name, (), h5py.string_dtype())[()] = rng.choice(others)


CHIP = (
    *KINDS,
    of_file("layer of zeros that says so", _consistent_bomb),
    of_file("dt", _dt),
    of_file("text of variable length", _text),
)


# ---- rows of variable length -------------------------------------------------------------------------------------


def _promised_rows(rng: Random, file: h5py.File) -> None:
    """Columns that promise so many rows and hold none."""
    rows = rng.choice((10**6, 10**7, 10**9))
    for name in datasets(file):
        dtype = file[name].dtype
        del file[name]
        file.create_dataset(name, (rows,), dtype, chunks=(1_000,))


def _references(
    change: Callable[[Random, int, int, int], tuple[int, int, int]],
) -> Callable[[Random, bytes, bytes], bytes]:
    """Damage to the references (length, heap, object) of one column's rows, or of one row."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        with h5py.File(io.BytesIO(data), "r") as file:
            column = file[rng.choice(("spikes/times", "spikes/units"))]
            start, rows = column.id.get_offset(), len(column)
        if start is None:  # in chunks
            return data
        for row in rng.choice(([rng.randrange(rows)], range(rows))):
            at = start + 16 * row
            new = change(rng, *struct.unpack("<IQI", data[at : at + 16]))
            data = data[:at] + struct.pack("<IQI", *new) + data[at + 16 :]
        return data

    return make  # fmt: skip


def _length(rng: Random, n: int, heap: int, at: int) -> tuple[int, int, int]:
    return rng.choice((0, 1, n + 1, 10**6, 2**32 - 1)), heap, at


def _elsewhere(rng: Random, n: int, heap: int, at: int) -> tuple[int, int, int]:
    return n, rng.choice((0, 8, heap + 8, 2**40, 2**64 - 1)), at


def _object(rng: Random, n: int, heap: int, at: int) -> tuple[int, int, int]:
    return n, heap, rng.choice((0, at + 1, 1, 65535, 2**31))


def _heap(rng: Random, data: bytes, other: bytes) -> bytes:
    """The heap in which the rows stand: its size, an object's size, or bytes near its beginning."""
    heaps = [at for at in range(len(data)) if data.startswith(b"GCOL", at)]
    if not heaps:
        return data
    at = rng.choice(heaps) + rng.choice((4, 8, 16, 18, 24, rng.randrange(4, 64)))
    new = rng.choice((bytes(8), b"\xff" * 8, struct.pack("<Q", 2**31), rng.randbytes(2), b"\xff\xff"))
    return data[:at] + new + data[at + len(new) :]


def _one_row_for_all(rng: Random, file: h5py.File) -> None:
    """Rows by the thousand that all show the same megabytes."""
    rows, spikes = 2_000, 500_000
    for name, dtype in (("spikes/times", np.float16), ("spikes/units", np.uint16)):
        del file[name]
        column = file.create_dataset(name, (rows,), h5py.vlen_dtype(dtype))
        column[0] = np.zeros(spikes, dtype)
    for name in [name for name in datasets(file) if not name.startswith("spikes/")]:
        del file[name]
        file[name] = np.zeros(rows, np.uint16)


def _shared_rows(rng: Random, data: bytes, other: bytes) -> bytes:
    data = of_file("", _one_row_for_all).make(rng, data, other)
    with h5py.File(io.BytesIO(data), "r") as file:
        starts = [(file[name].id.get_offset(), len(file[name])) for name in ("spikes/times", "spikes/units")]
    changed = bytearray(data)
    for start, rows in starts:
        changed[start : start + 16 * rows] = changed[start : start + 16] * rows
    return bytes(changed)


def _row(rng: Random, file: h5py.File) -> None:
    """A row whose values cannot be, or which is longer or shorter than its pair."""
    name = rng.choice(("spikes/times", "spikes/units"))
    row = rng.randrange(len(file[name]))
    old = file[name][row]
    wrong = {"f": (np.nan, -1.0, np.inf), "i": (700, 30_000, -1), "u": (700, 701, 60_000)}[old.dtype.kind]
    longer = np.append(old, old.dtype.type(rng.choice(wrong)))
    file[name][row] = rng.choice((old[:-1], longer, longer[::-1][: max(1, len(old))], np.zeros(100_000, old.dtype)))


SHD = (
    *KINDS,
    of_file("rows promised, none written", _promised_rows),
    of_file("row that cannot be", _row),
    Kind("vlen: lengths lie", _references(_length)),
    Kind("vlen: heap elsewhere", _references(_elsewhere)),
    Kind("vlen: object elsewhere", _references(_object)),
    Kind("vlen: heap damaged", _heap),
    Kind("vlen: all rows one", _shared_rows),
)  # fmt: skip


# ---- NIR files ---------------------------------------------------------------------------------------------------


def _edges(rng: Random, file: h5py.File) -> None:
    """Edges that are missing, twice, the other way round, or to what is not there."""
    name = rng.choice([name for name in datasets(file) if name.endswith("edges")])
    pairs = [[_word(end) for end in pair] for pair in file[name][()]]
    at = rng.randrange(len(pairs))
    start, end = pairs[at]
    others = ([], [[start, end]] * 2, [[end, start]], [[start, "nobody"]], [[start, start]], [["", MARKUP]])
    pairs[at : at + 1] = rng.choice(others)
    del file[name]
    file.create_dataset(name, data=pairs or np.zeros((0, 2)), dtype=h5py.string_dtype() if pairs else "f8")


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _another_type(rng: Random, file: h5py.File) -> None:
    """A node of another type."""
    name = rng.choice([name for name in datasets(file) if name.endswith("/type")])
    del file[name]
    file[name] = rng.choice(
        ("LI", "LIF", "CubaLIF", "Conv2d", "NIRGraph", "Input", "Output", "Delay", "I", "", "__all__")
    )


def _group_away(rng: Random, file: h5py.File) -> None:
    """A node, metadata or all nodes away, or in a group of its own."""
    groups: list[str] = []
    file.visititems(lambda name, item: groups.append(name) if isinstance(item, h5py.Group) else None)
    name = rng.choice(groups)
    file.move(name, "elsewhere")
    if rng.random() < 0.5:
        file[f"{name}/more"] = 1


NIR = (
    *KINDS,
    of_file("text of variable length", _text),
    of_file("edges", _edges),
    of_file("another type", _another_type),
    of_file("group away", _group_away),
    Kind("vlen: heap damaged", _heap),
)
