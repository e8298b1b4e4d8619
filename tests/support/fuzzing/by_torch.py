"""Damage to what torch.save writes: pickles that do things, tensors that are not what they were."""

from __future__ import annotations

import copy
import io
import math
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import torch

from fuzzing.by_text import OTHERS, a_bit_off, is_digest, without_digest
from fuzzing.by_zip import Members, Payload, members, zipped
from fuzzing.cases import RAN, Kind

Path = tuple[Any, ...]


class Shell:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return subprocess.check_output, (["touch", RAN],)


class Evaluated:
    """Evaluates a text where it is unpickled."""

    def __reduce__(self) -> Any:
        return eval, (f"open({RAN!r}, 'w')",)


def loaded(data: bytes) -> Any:
    """The tree that torch.save was given."""
    return torch.load(io.BytesIO(data), weights_only=True)


def saved(tree: Any, **options: Any) -> bytes:
    """As torch.save writes it."""
    out = io.BytesIO()
    torch.save(tree, out, **options)
    return out.getvalue()


def places(tree: Any, path: Path = ()) -> list[Path]:
    """The paths to all values that hold no others, but for digests."""
    if isinstance(tree, dict):
        return [p for key, value in tree.items() if not is_digest(key) for p in places(value, (*path, key))]
    if isinstance(tree, (list, tuple)):
        return [p for index, value in enumerate(tree) for p in places(value, (*path, index))]
    return [path]


def put(tree: Any, path: Path, value: Any) -> Any:
    """A copy of the tree with another value there; tensors are not copied."""
    if not path:
        return value
    changed = dict(tree) if isinstance(tree, dict) else list(tree)
    changed[path[0]] = put(tree[path[0]], path[1:], value)
    return tuple(changed) if isinstance(tree, tuple) else changed


def at(tree: Any, path: Path) -> Any:
    """The value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def of_tree(name: str, change: Callable[[Random, Any], Any], unsigned: bool = False) -> Kind:
    """Damage to what is saved, which torch then writes itself."""
    return Kind(f"torch: {name}", lambda rng, data, other: saved(change(rng, loaded(data))), unsigned)


def of_tensor(name: str, change: Callable[[Random, torch.Tensor], Any]) -> Kind:
    """Damage to one tensor."""

    def make(rng: Random, tree: Any) -> Any:
        path = rng.choice([p for p in places(tree) if isinstance(at(tree, p), torch.Tensor)])
        return put(tree, path, change(rng, at(tree, path).clone()))

    return of_tree(name, make)


def of_pickle(name: str, change: Callable[[Random, bytes], bytes]) -> Kind:
    """Damage to the pickle in the zip."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        parts = members(data)
        name = next(name for name in parts if name.endswith("data.pkl"))
        return zipped({**parts, name: change(rng, parts[name])})

    return Kind(f"pickle: {name}", make)


def _scalars(tree: Any) -> list[Path]:
    return [path for path in places(tree) if not isinstance(at(tree, path), torch.Tensor)]


def _one_off(rng: Random, tree: Any) -> Any:
    """The lowest bit of a number in a tensor, or a number beside them."""
    path = rng.choice(places(tree))
    value = at(tree, path)
    if not isinstance(value, torch.Tensor):
        return put(tree, path, a_bit_off(rng, value))
    return put(tree, path, _low_bit(rng, value.clone()))


def _low_bit(rng: Random, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.numel() or tensor.dtype != torch.float32:
        return tensor
    flat = tensor.contiguous().view(-1)
    flat.view(torch.int32)[rng.randrange(len(flat))] ^= 1
    return flat.view(tensor.shape)


def _planted(rng: Random, tensor: torch.Tensor) -> torch.Tensor:
    floats = (math.nan, math.inf, -math.inf, 2.0, -1.0, 1e30)
    value = rng.choice(floats if tensor.is_floating_point() else (-(2**63), -1, 2, 2**63 - 1))
    if tensor.dim() and rng.random() < 0.7:
        tensor.view(-1)[rng.randrange(tensor.numel())] = value
        return tensor
    return tensor.fill_(value)


def _iteration(rng: Random, tree: Any) -> Any:
    others = ("x", "1", -1, 10**30, 2**63, True, 1.5, math.nan, None, [1], 10**9, torch.tensor(1), b"1")
    name = rng.choice([name for name in ("iteration", "seconds", "first_loss", "best") if name in tree])
    return {**tree, name: rng.choice(others)}


def _damaged_digest(rng: Random, tree: Any) -> Any:
    found = [key for key in tree if is_digest(key)]
    return _one_off(rng, {**tree, **{key: rng.choice((None, "", 0, "0" * 64)) for key in found}})


def _other_type(rng: Random, tree: Any) -> Any:
    return put(tree, rng.choice(places(tree)), rng.choice((*OTHERS, b"x", 1j, {1, 2}, torch.zeros(2), (1,))))


def _without_one(rng: Random, tree: Any) -> Any:
    """A key less, at the top or in the first tables below."""
    tables = [(), *((key,) for key in tree if isinstance(tree[key], dict) and tree[key])]
    path = rng.choice(tables)
    table = at(tree, path)
    gone = rng.choice(list(table))
    return put(tree, path, {key: value for key, value in table.items() if key != gone})


def _shared(rng: Random, tree: Any) -> Any:
    """Two tensors of the model are one storage."""
    names = list(tree["model"])
    one, two = rng.choice(names), rng.choice(names)
    return {**tree, "model": {**tree["model"], one: tree["model"][two]}}


def _deep(rng: Random, tree: Any) -> Any:
    """A text, which torch takes as it is, in the place of which stands a nest."""
    nest: Any = 1
    for _ in range(300):
        nest = [nest]
    return {**tree, rng.choice(("first_loss", "best", "x")): nest}


def _pickle_deep(rng: Random, data: bytes) -> bytes:
    return b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."


def _pickle_huge(rng: Random, data: bytes) -> bytes:
    """Promises: a text of gigabytes, a memo far away, a list multiplied."""
    return rng.choice((
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"abc.",
        b"\x80\x02]r\xff\xff\xff\xff.",
        b"\x80\x02" + b"(" * 1_000_000 + b".",
        b"\x80\x02N" + b"2" * 5_000_000 + b".",
    ))  # fmt: skip


def _payload(rng: Random, data: bytes) -> bytes:
    return pickle.dumps({"iteration": rng.choice((Payload(), Shell(), Evaluated()))}, protocol=2)


def _no_zip(rng: Random, data: bytes, other: bytes) -> bytes:
    """What torch.load takes beside its zip files: its old format, bare pickles, TorchScript, tar."""
    tree = loaded(data)
    module, linear = io.BytesIO(), torch.nn.Linear(2, 2)
    for parameter in linear.parameters():
        torch.nn.init.zeros_(parameter)
    torch.jit.save(torch.jit.script(linear), module)
    return rng.choice((
        saved({**tree, "model": {}, "optimiser": {}, "best": {}}, _use_new_zipfile_serialization=False),
        pickle.dumps(rng.choice((Payload(), Shell(), Evaluated())), protocol=2),
        saved({"iteration": Payload()}, _use_new_zipfile_serialization=False),
        saved(linear),
        module.getvalue(),
        saved([tree]),
        saved({}),
        saved(None),
    ))  # fmt: skip


def _numbers(rng: Random, parts: Members) -> Members:
    """A storage that is shorter, longer, or has one bit changed; the zip's CRC is right."""
    name = rng.choice([name for name in parts if "/data/" in name])
    old = parts[name]
    turned = bytes([old[0] ^ 1]) + old[1:]
    return {**parts, name: rng.choice((old[:-1], old[: len(old) // 2], b"", old + bytes(8), turned, turned, turned))}


def _numbers_changed(rng: Random, data: bytes, other: bytes) -> bytes:
    return zipped(_numbers(rng, members(data)), zipfile.ZIP_STORED)


TYPES = (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64, torch.bfloat16)
KINDS = (
    of_tree("value a bit off", _one_off),
    of_tree("another type", _other_type),
    of_tree("iteration, seconds, loss", _iteration),
    of_tree("digest away", lambda rng, tree: without_digest(copy.copy(tree)), unsigned=True),
    of_tree("digest away and a value off", lambda rng, tree: _one_off(rng, without_digest(tree)), unsigned=True),
    of_tree("digest damaged", _damaged_digest),
    of_tree("key missing", _without_one),
    of_tree("key more", lambda rng, tree: {**tree, "x": rng.choice(OTHERS)}),
    of_tree("storage shared", _shared),
    of_tree("nested", _deep),
    of_tree("huge text", lambda rng, tree: {**tree, "x": "y" * 50_000_000}),
    of_tensor("lowest bit", _low_bit),
    of_tensor("number that cannot be", _planted),
    of_tensor("another dtype", lambda rng, t: t.to(rng.choice(TYPES))),
    of_tensor("another shape", lambda rng, t: rng.choice((t.reshape(-1), t[None], t.new_zeros(3, 3), t.new_zeros(0)))),
    of_tensor("stride 0, huge", lambda rng, t: t.new_zeros(1).expand(rng.choice((10**8, 10**10)))),
    of_tensor("stride 0, same shape", lambda rng, t: t.new_zeros(()).expand(t.shape)),
    of_tensor("transposed", lambda rng, t: t.t().contiguous().t() if t.dim() == 2 else t),
    of_tensor("sparse, quantised, meta", lambda rng, t: rng.choice((
        t.to_sparse(),
        torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
        t.to("meta"),
        torch.nn.Parameter(t, requires_grad=False),
    ))),
    of_pickle("that calls", _payload),
    of_pickle("nested deep", _pickle_deep),
    of_pickle("that promises", _pickle_huge),
    of_pickle("a byte off", lambda rng, data: _byte_off(rng, data)),
    Kind("torch: no zip of ours", _no_zip),
    Kind("torch: storage changed, CRC right", _numbers_changed),
)  # fmt: skip


def _byte_off(rng: Random, data: bytes) -> bytes:
    index = rng.randrange(len(data))
    return data[:index] + rng.randbytes(1) + data[index + 1 :]
