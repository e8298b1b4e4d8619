"""Damage to safetensors files: their header, which is JSON, the metadata in it, and the numbers after it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from fuzzing.by_text import JSON_RAW, Text, at, json_dumps, kinds, put, without_digest
from fuzzing.cases import Kind

METADATA = "__metadata__"
SAME_WIDTH = {"F64": ("I64", "U64"), "I64": ("F64", "U64"), "F32": ("I32", "U32"), "F16": ("BF16", "I16")}
SAME_WIDTH |= {"I32": ("F32", "U32"), "U8": ("BOOL", "I8")}
NARROWER = {"F64": "F32", "I64": "I32", "F32": "F16", "I32": "I16", "U8": "F4"}
DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the numbers."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), data[end:]


def joined(header: bytes, numbers: bytes) -> bytes:
    """A file of both, with the header's true length, filled up as the format wants it."""
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + numbers


def canonical(data: bytes) -> bytes:
    """The same file with its metadata in one order: the library writes several entries in any."""
    header, numbers = split(data)
    ordered = {key: dict(sorted(value.items())) if key == METADATA else value for key, value in header.items()}
    return joined(json.dumps(ordered, separators=(",", ":")).encode(), numbers)


def _header_text(data: bytes) -> str:
    return json_dumps(split(data)[0])


def _with_header(data: bytes, text: str) -> bytes:
    return joined(text.encode("utf-8", "surrogatepass"), split(data)[1])


def _longest(data: bytes) -> str:
    """The name of the metadata entry that holds the most: a JSON text."""
    metadata = split(data)[0][METADATA]
    return max(metadata, key=lambda name: len(metadata[name]))


def _metadata_text(data: bytes) -> str:
    return json_dumps(json.loads(split(data)[0][METADATA][_longest(data)]))


def _with_metadata(data: bytes, text: str) -> bytes:
    header, numbers = split(data)
    header[METADATA][_longest(data)] = text
    return joined(json.dumps(header).encode(), numbers)


HEADER = Text("header", _header_text, _with_header, json.loads, json_dumps, JSON_RAW, "//")
NETWORK = Text("metadata", _metadata_text, _with_metadata, json.loads, json_dumps, JSON_RAW, "//")


def of_header(name: str, change: Callable[[Random, dict[str, Any]], Any], unsigned: bool = False) -> Kind:
    """A kind of damage to the header alone."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        header, numbers = split(data)
        return joined(json_dumps(change(rng, header)).encode(), numbers)

    return Kind(f"safetensors: {name}", make, unsigned)


def of_numbers(name: str, change: Callable[[Random, Any], Any]) -> Kind:
    """A kind of damage to one array, whose header stays."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        header, numbers = split(data)
        entry = header[rng.choice(_arrays(header))]
        start, end = entry["data_offsets"]
        array = np.frombuffer(numbers[start:end], DTYPES[entry["dtype"]]).copy()
        return joined(json.dumps(header).encode(), numbers[:start] + change(rng, array).tobytes() + numbers[end:])

    return Kind(f"safetensors: {name}", make)


def _arrays(header: dict[str, Any]) -> list[str]:
    return [name for name in header if name != METADATA]


def _dtype(rng: Random, header: dict[str, Any]) -> Any:
    name = rng.choice(_arrays(header))
    return put(header, (name, "dtype"), rng.choice((*SAME_WIDTH[header[name]["dtype"]], "F8_E4M3", "BOOL", "X", 5)))


def _half_width(rng: Random, header: dict[str, Any]) -> Any:
    """Twice as many numbers of half the width, or the other way round: the sizes agree."""
    name = rng.choice([n for n in _arrays(header) if header[n]["shape"]] or _arrays(header))
    shape = header[name]["shape"] or [1]
    header = put(header, (name, "dtype"), NARROWER[header[name]["dtype"]])
    return put(header, (name, "shape"), [*shape[:-1], shape[-1] * 2])


def _shape(rng: Random, header: dict[str, Any]) -> Any:
    name = rng.choice(_arrays(header))
    shape = header[name]["shape"]
    size = int(np.prod(shape))
    others = [shape[::-1], [size], [1, *shape], [*shape, 1], [size, 1], [2**62], [2**32, 2**32], [0], [-1], [2**64], []]
    return put(header, (name, "shape"), rng.choice(others))


def _offsets(rng: Random, header: dict[str, Any]) -> Any:
    """Offsets that overlap, leave a gap, go backwards or beyond the end, or belong to another array."""
    name, other = rng.choice(_arrays(header)), rng.choice(_arrays(header))
    start, end = header[name]["data_offsets"]
    lies = [[start - 8, end - 8], [start + 8, end + 8], [end, start], [2**63, 2**63 + end - start], [0, 2**64 - 1]]
    lies += [header[other]["data_offsets"], [start, end + 8], [-8, end], [start], [start, end, end], [0.0, 8.5]]
    return put(header, (name, "data_offsets"), rng.choice(lies))


def _exchanged(rng: Random, header: dict[str, Any]) -> Any:
    """Two arrays of one size and shape have each other's numbers."""
    pairs = [(a, b) for a in _arrays(header) for b in _arrays(header) if a < b]
    alike = [(a, b) for a, b in pairs if header[a]["shape"] == header[b]["shape"]] or pairs
    a, b = rng.choice(alike)
    header = put(
        put(header, (a, "data_offsets"), header[b]["data_offsets"]),
        (b, "data_offsets"),
        at(header, (a, "data_offsets")),
    )
    return header  # fmt: skip


def _renamed(rng: Random, header: dict[str, Any]) -> Any:
    name = rng.choice(_arrays(header))
    names = (
        name + "x",
        "0." + name,
        name.split(".")[0],
        "",
        "é",
        name.replace("0", "00"),
        "0.stored.decay",
        "9.weight",
    )
    return {rng.choice(names) if key == name else key: value for key, value in header.items()}


def _metadata(rng: Random, header: dict[str, Any]) -> Any:
    """Metadata that are no strings, or other strings, or none."""
    names = list(header.get(METADATA) or {})
    if not names or rng.random() < 0.2:
        return {key: value for key, value in header.items() if key != METADATA} | rng.choice(({}, {METADATA: 5}))
    others = (5, None, [], {}, "", "x", "-1", "²", "\uff11", "1.0", "9" * 5000, "99", "null", "[]", "{}", "NaN", "[[]]")
    return put(header, (METADATA, rng.choice(names)), rng.choice(others))


def _without_digest(rng: Random, header: dict[str, Any]) -> Any:
    header = without_digest(header)
    for name, text in list(header[METADATA].items()):
        try:
            header[METADATA][name] = json.dumps(without_digest(json.loads(text)))
        except ValueError:  # no JSON: a version, say
            continue
    return header


def _length(rng: Random, data: bytes, other: bytes) -> bytes:
    true = struct.unpack("<Q", data[:8])[0]
    lies = (0, 1, true - 1, true + 1, true + 8, len(data), len(data) - 8, 10**8, 10**8 + 1, 2**31, 2**63, 2**64 - 1)
    return struct.pack("<Q", rng.choice(lies)) + data[8:]


def _large(rng: Random, data: bytes, other: bytes) -> bytes:
    """A header of many megabytes, of entries that hold nothing."""
    header, numbers = split(data)
    more = ",".join(f'"{i}.x":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(300_000))
    return joined(f"{{{more},{json.dumps(header)[1:]}".encode(), numbers)


def _low_bits(rng: Random, array: Any) -> Any:
    """The least that a number can change by, in one place."""
    raw = array.view(f"u{array.itemsize}")
    raw[rng.randrange(len(raw))] ^= raw.dtype.type(1)
    return array


def _planted(rng: Random, array: Any) -> Any:
    """One number that cannot be, or all of them."""
    floats = (np.nan, np.inf, -np.inf, 2.0, -1.0, 1e300, -0.0, 5e-324)
    ends = () if array.dtype.kind not in "iu" else (np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
    value = rng.choice((ends[0], 1, 2, ends[1]) if ends else floats)
    array[rng.choice((rng.randrange(len(array)), slice(None)))] = value
    return array


OF_FORMAT = (
    of_header("dtype", _dtype),
    of_header("dtype of another width", _half_width),
    of_header("shape", _shape),
    of_header("offsets", _offsets),
    of_header("arrays exchanged", _exchanged),
    of_header("array renamed", _renamed),
    of_header("metadata", _metadata),
    of_header("digest away", _without_digest, unsigned=True),
    Kind("safetensors: length of the header", _length),
    Kind("safetensors: header of megabytes", _large),
    of_numbers("lowest bit of a number", _low_bits),
    of_numbers("number that cannot be", _planted),
)
OF_HEADER = tuple(kind for kind in kinds(HEADER) if "digest" not in kind.name)  # it stands in the metadata's text
OF_NETWORK = tuple(kinds(NETWORK))
KINDS = (*OF_NETWORK, *OF_HEADER, *OF_FORMAT)
