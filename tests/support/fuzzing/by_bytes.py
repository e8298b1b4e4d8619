"""Damage that knows nothing of what it damages: what disks, cables and half-written copies do."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fuzzing.cases import Kind


def flip_a_bit(rng: Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data))
    return _over(data, at, bytes([data[at] ^ 1 << rng.randrange(8)]))


def flip_bits(rng: Random, data: bytes, other: bytes) -> bytes:
    for _ in range(rng.choice((2, 4, 16, 64))):
        data = flip_a_bit(rng, data, other)
    return data


def run_of(value: int) -> Callable[[Random, bytes, bytes], bytes]:
    """Overwrites a run with one value."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        at, length = rng.randrange(len(data)), rng.choice((1, 4, 8, 64, 512, 4096))
        return _over(data, at, bytes([value]) * min(length, len(data) - at))

    return make


def random_run(rng: Random, data: bytes, other: bytes) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice((1, 4, 8, 64, 512))
    return _over(data, at, rng.randbytes(min(length, len(data) - at)))


def cut_the_end(rng: Random, data: bytes, other: bytes) -> bytes:
    near_the_ends = [1, 2, 7, 8, 9, len(data) - 1, len(data) - 2, len(data) // 2, 512, 4096]
    at = rng.choice([*near_the_ends, *(rng.randrange(len(data)) for _ in near_the_ends)])
    return data[: min(at, len(data) - 1)]


def cut_the_beginning(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[rng.choice((1, 8, 512, rng.randrange(len(data)))) :]


def insert(rng: Random, data: bytes, other: bytes) -> bytes:
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 8, 100, 4096))
    return data[:at] + rng.choice((rng.randbytes(length), bytes(length))) + data[at:]


def remove(rng: Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 8, 100, 4096)) :]


def repeat_a_block(rng: Random, data: bytes, other: bytes) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice((8, 64, 512))
    return data[: at + length] + data[at:]


def swap_blocks(rng: Random, data: bytes, other: bytes) -> bytes:
    length = min(rng.choice((8, 64, 512)), len(data) // 2)
    first = rng.randrange(len(data) - 2 * length + 1)
    second = rng.randrange(first + length, len(data) - length + 1)
    one, two = data[first : first + length], data[second : second + length]
    return _over(_over(data, first, two), second, one)


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one, as far as the first byte in which they differ at least, and the end of the other."""
    pairs = zip(data, other, strict=False)
    alike = next((index for index, (a, b) in enumerate(pairs) if a != b), 0)
    at = rng.randrange(min(alike + 1, len(data) - 1), len(data))
    return data[:at] + other[at:]


def append(rng: Random, data: bytes, other: bytes) -> bytes:
    return data + rng.choice((rng.randbytes(rng.choice((1, 100, 5000))), bytes(512), data, other, b"\n"))


def empty(rng: Random, data: bytes, other: bytes) -> bytes:
    return rng.choice((b"", b"\0", b"\n", bytes(4096), b"\xff" * 64))


KINDS = (
    Kind("bytes: a bit flipped", flip_a_bit),
    Kind("bytes: bits flipped", flip_bits),
    Kind("bytes: a run of 00", run_of(0x00)),
    Kind("bytes: a run of ff", run_of(0xFF)),
    Kind("bytes: a run of noise", random_run),
    Kind("bytes: end cut off", cut_the_end),
    Kind("bytes: beginning cut off", cut_the_beginning),
    Kind("bytes: inserted", insert),
    Kind("bytes: removed", remove),
    Kind("bytes: a block twice", repeat_a_block),
    Kind("bytes: blocks swapped", swap_blocks),
    Kind("bytes: two files spliced", splice),
    Kind("bytes: appended", append),
    Kind("bytes: nothing left", empty),
)


def _over(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]
