"""state.pt, the training state as torch.save wrote it before there was a digest: read without torch and without pickle.

It is a zip file of a pickle and of the bytes of tensors. What such a pickle says is carried out here as data: dicts,
lists, texts, numbers, and tensors that become views of bytes which are there. Nothing is called, nothing allocated that
the file's size does not explain, and the zip's checksums, which torch does not look at, are compared.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hetsyn_plugins.core.array_file import MOST_AXES, ArrayFile
from hetsyn_plugins.core.bounded import checked_members, read_member
from hetsyn_plugins.core.file_format import FileFormatError

STATE = "state.pt"
LONGEST_PICKLE = 250_000  # bytes: a hundred layers have one of these
DTYPES: dict[str, np.dtype[Any]] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch LongStorage": np.dtype("<i8"),
}
# what a state holds, and the operations of the pickle that it is written with
ENTRIES = {"iteration", "seconds", "first_loss", "model", "optimiser", "best"}
PUTS = ("BINPUT", "LONG_BINPUT")
GETS = ("BINGET", "LONG_BINGET")
VALUES = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
SHORT_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read(path: Path, what: str) -> tuple[ArrayFile, dict[str, Any]]:
    """The arrays and the numbers of a state, as `training_state` has them. Raises FileFormatError for anything else."""
    with checked_members(path) as file:
        members = {member.filename.partition("/")[2]: member for member in file.infolist()}
        _check_members(file, members, path)
        storages = {
            name.removeprefix("data/"): read_member(file, member.filename, path)
            for name, member in members.items()
            if name.startswith("data/")
        }
        raw = read_member(file, members["data.pkl"].filename, path)
    try:
        state = _Pickle(storages).carried_out(raw)
    except (ValueError, LookupError, TypeError) as error:
        raise FileFormatError(path, what, f"a pickle of something else: {error}", field="data.pkl") from error
    return _flat(state, path, what)


def _check_members(file: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: Path) -> None:
    """Raise FileFormatError unless the zip file is as torch writes them: nothing packed, nothing twice."""
    every, size = file.infolist(), path.stat().st_size
    total = sum(member.file_size for member in every)
    if len(every) != len(members) or any(member.compress_type != zipfile.ZIP_STORED for member in every):
        raise FileFormatError(path, "members with different names, not packed", "others")
    if total > size:
        raise FileFormatError(path, f"members of at most {size} bytes in all", f"{total}")
    if "data.pkl" not in members or members["data.pkl"].file_size > LONGEST_PICKLE:
        raise FileFormatError(path, f"a pickle of at most {LONGEST_PICKLE} bytes", "none or more", field="data.pkl")
    if "byteorder" in members and read_member(file, members["byteorder"].filename, path) != b"little":
        raise FileFormatError(path, "little-endian numbers", "others", field="byteorder")


class _Name(NamedTuple):
    """A class or function of Python, "module name", of which only the name is used."""

    text: str


class _Storage(NamedTuple):
    """The numbers that tensors are views of."""

    numbers: NDArray[Any]


class _Pickle:
    """The machine that a pickle is a program of, as far as a state needs it.

    Raises ValueError, LookupError or TypeError for any other program.
    """

    def __init__(self, storages: dict[str, bytes]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}

    def carried_out(self, raw: bytes) -> Any:
        """What the pickle stands for."""
        for operation, argument, _ in pickletools.genops(raw):
            if operation.name == "STOP":
                return self.stack.pop()
            self._push(operation.name, argument)
        raise ValueError("it has no end")

    def _push(self, name: str, argument: Any) -> None:  # long: one branch an operation
        stack = self.stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name == "TUPLE":
            items = self._since_mark()
            self.stack.append(tuple(items))
        elif name in SHORT_TUPLES:
            self._replace(SHORT_TUPLES[name], tuple)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._since_mark()
            _update(self.stack[-1], items)
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._since_mark()
            _extend(self.stack[-1], items)
        elif name in PUTS:
            self.memo[argument] = stack[-1]
        elif name in GETS:
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            self._replace(2, lambda called: _result(*called))
        elif name == "BUILD":
            stack.pop()  # attributes of a dict of torch's: the versions of its modules
        elif name != "PROTO":
            raise ValueError(f"the operation {name}")

    def _since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def _replace(self, count: int, make: Callable[[list[Any]], Any]) -> None:
        """Put what is made of the last values in their place."""
        at = len(self.stack) - count
        if at < 0:
            raise ValueError("too few values")
        self.stack[at:] = [make(self.stack[at:])]

    def _storage(self, said: Any) -> _Storage:
        """The bytes of a member as numbers: ("storage", type, member, device, how many)."""
        _, kind, member, _, count = said
        if not isinstance(kind, _Name) or type(member) is not str or type(count) is not int:
            raise TypeError("a storage of another form")
        raw, dtype = self.storages[member], DTYPES[kind.text]
        if len(raw) != count * dtype.itemsize:
            raise ValueError(f"{count} numbers in {len(raw)} bytes")
        return _Storage(np.ndarray((count,), dtype, raw))


def _update(target: Any, items: list[Any]) -> None:
    """Set items of a dict, by names and numbers only: a key of tuples within tuples takes for ever to be hashed."""
    keys, values = items[::2], items[1::2]
    if type(target) is not dict or not all(type(key) in (str, int) for key in keys):
        raise TypeError("items that are not of a dict by name")
    target.update(zip(keys, values, strict=True))


def _extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise TypeError("values added to what is no list")
    target += items


def _result(function: Any, arguments: Any) -> Any:
    """What a call stands for: an empty dict, or a tensor."""
    if not isinstance(function, _Name) or type(arguments) is not tuple:
        raise TypeError("a call of what is no function")
    if function.text == "collections OrderedDict" and not arguments:
        return {}
    if function.text == "torch._utils _rebuild_tensor_v2":
        return _view(*arguments[:4])
    raise ValueError(f"a call of {function.text}")


def _view(storage: Any, offset: Any, shape: Any, strides: Any) -> NDArray[Any]:
    """A tensor as a view of its storage, which it must lie in and have no more entries than."""
    if not isinstance(storage, _Storage) or not _sizes((offset,)) or not _sizes(shape) or not _sizes(strides):
        raise TypeError("a tensor of another form")
    count, numbers = math.prod(shape), storage.numbers
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if count > numbers.size or (count and last >= numbers.size):
        raise ValueError(f"a tensor of shape {shape} in a storage of {numbers.size}")
    if not count:
        return np.zeros(shape, numbers.dtype)
    in_bytes = [stride * numbers.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, in_bytes, writeable=False)


def _sizes(values: Any) -> bool:
    return (
        type(values) is tuple and len(values) <= MOST_AXES and all(type(n) is int and 0 <= n < 1 << 48 for n in values)
    )


def _flat(state: Any, path: Path, what: str) -> tuple[ArrayFile, dict[str, Any]]:
    """Arrays by name and the rest, of a state in which they are nested."""
    if type(state) is not dict or set(state) != ENTRIES:
        raise FileFormatError(path, what, "a pickle of something else", field="data.pkl")
    best, optimiser = state["best"], state["optimiser"]
    parts = {"model": state["model"]}
    if has_best := not (best is None or (type(best) is dict and not best)):
        parts["best"] = best.get("model") if type(best) is dict else None
    moments = optimiser.get("state") if type(optimiser) is dict else None
    parts |= {f"optimiser.{index}": each for index, each in (moments if type(moments) is dict else {}).items()}
    for prefix, part in parts.items():
        if type(part) is not dict or not all(isinstance(array, np.ndarray) for array in part.values()):
            raise FileFormatError(path, "tensors by name", type(part).__name__, field=prefix)
    arrays = {f"{prefix}.{name}": array for prefix, part in parts.items() for name, array in part.items()}
    content = {name: _number(state[name]) for name in ("iteration", "seconds", "first_loss")}
    kept = {name: _number(best.get(name)) for name in ("merit", "iteration")} if has_best else None
    return ArrayFile(path, {}, arrays), {**content, "best": kept}


def _number(value: Any) -> Any:
    """The value, or what it is where it is no number: it may be nested such that it cannot be shown."""
    return value if type(value) in (int, float) else type(value).__name__
