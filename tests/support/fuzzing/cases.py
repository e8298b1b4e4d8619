"""What a good file, a kind of damage and a mutant are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple

SECRET = b"hetsyn-fuzz-canary-5d2c91"  # stands in the files beside the mutant's folder, which no reader may open
MARKUP = '<script>alert("hetsyn-fuzz")</script>'
RAN = "../ran"  # what a payload makes where it runs


class Kind(NamedTuple):
    """A kind of damage. make(rng, data, other) gives the damaged bytes of `data`; `other` is a second good file.

    unsigned   it takes the digest away as if there had never been one: other values may load then, with a warning
    sealed     its digest is made anew: other values may load, if they may be at all
    refused    it leads out of the file or around in it: to be refused, even where the same values would come
    """

    name: str
    make: Callable[[Random, bytes, bytes], bytes]
    unsigned: bool = False
    sealed: bool = False
    refused: bool = False


class Good(NamedTuple):
    """A file that reads, with those that lie beside it: `target` of `files` is what is damaged.

    loader   which of `loaders.LOADERS` reads it
    signed   True: our writer's, with a digest; False: ours of before there were digests; None: of a format without
    """

    name: str
    files: Mapping[str, bytes]
    target: str
    loader: str
    kinds: Sequence[Kind]
    signed: bool | None

    @property
    def data(self) -> bytes:
        """The bytes of the target."""
        return self.files[self.target]


class Mutant(NamedTuple):
    """A damaged file: which, of what, and its bytes."""

    reader: str
    seed: int
    index: int
    kind: Kind
    good: Good
    data: bytes

    @property
    def name(self) -> str:
        """As `tools/fuzz --replay` takes it."""
        return f"{self.reader}:{self.seed}:{self.index}"


WHOLE = Kind("whole", lambda rng, data, other: data)


def kinds_of(goods: Sequence[Good]) -> dict[str, list[Good]]:
    """Kinds of damage by name, each with the goods that it is for; those that know the format come first."""
    found: dict[str, list[Good]] = {}
    for good in goods:
        for kind in good.kinds:
            found.setdefault(kind.name, []).append(good)
    return dict(sorted(found.items(), key=lambda item: item[0].startswith("bytes: ")))


def mutant(reader: str, goods: Sequence[Good], seed: int, index: int) -> Mutant:
    """Mutant `index` of a reader: first the goods as they are, then one of each kind in turn."""
    if index < len(goods):
        return Mutant(reader, seed, index, WHOLE, goods[index], goods[index].data)
    kinds = kinds_of(goods)
    name = list(kinds)[(index - len(goods)) % len(kinds)]
    rng = Random(f"{reader} {seed} {index}")
    good, other = rng.choice(kinds[name]), rng.choice(goods)
    kind = next(kind for kind in good.kinds if kind.name == name)
    return Mutant(reader, seed, index, kind, good, kind.make(rng, good.data, other.data))
