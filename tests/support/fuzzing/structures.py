"""Checkpoints of what synapses and layers came to have: masks, codebooks, delays, images; and damage that is signed.

Most damage ends at the digest, behind which nothing is tried: so a part of it gets a digest of its own here, and what
then loads is run, too.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from forging import forge
from networks import M, N, params

from fuzzing import by_bytes, by_safetensors
from fuzzing.by_safetensors import canonical
from fuzzing.cases import Good, Kind
from fuzzing.sealed import saved
from hetsyn_plugins import HetSynParams
from hetsyn_plugins.core.codebook import start
from hetsyn_plugins.core.convolution import Convolution
from hetsyn_plugins.core.network import Flatten, HetSynConv, HetSynLayer, Network, Pool

Change = Callable[[dict[str, Any], dict[str, Any]], Any]
HUGE = (10**12, 2**63, 2**64, 10**400, -1, 1 << 24)


def goods() -> list[Good]:
    """Each network as a file, as what may be made of it in snnTorch, and as what is run."""
    damage = (*by_safetensors.OF_FORMAT, *by_bytes.KINDS)
    behind = [kind for kind in (*by_safetensors.OF_NETWORK, *damage[:-1]) if "digest" not in kind.name]
    found = []
    for name, network in networks().items():
        files = {"network.safetensors": saved(network)}
        signed = (*map(resealed, behind), Kind(f"sealed: claims of {name}", claimed, sealed=True))
        found.append(Good(name, files, "network.safetensors", "checkpoint", (*damage, *signed), True))
        found.append(Good(f"{name}, run", files, "network.safetensors", "checkpoint run", signed, True))
    return found


def networks() -> dict[str, Network]:
    """By what is special in them."""
    rng = np.random.default_rng(5)
    masks = {"mask": rng.random((N, M)) < 0.3, "recurrent_mask": rng.random((N, N)) < 0.3}
    masked = params(np.float32, **masks)
    with np.errstate(divide="ignore"):
        stored = {"decay": np.log(-1 / np.log(masked.decay)).astype(np.float32)}
    stored["decay"][~masks["mask"]] = -np.inf
    masked = masked.replace(decay=np.where(masks["mask"], masked.decay, np.float32(0)))
    full = params()
    book, index = start([full.decay, full.recurrent_decay], [full.weight, full.recurrent_weight], 5)
    shared = {"decay": book[index[0]], "recurrent_decay": book[index[1]]}
    delays = {"delay": rng.uniform(0, 6, (N, M)), "recurrent_delay": np.float64(2.0), "max_delay": 9}
    log_tau = {"parametrization": "log_tau", "stored": stored}
    return {
        "masks": Network((HetSynLayer("a", masked, dt=1e-3, **log_tau),)),
        "a codebook": Network((HetSynLayer("a", params(**shared), dt=1e-3, share="codebook"),)),
        "delays": Network((HetSynLayer("a", params(**delays), dt=1e-3, autapses=True),)),
        "images": images(2),
        "rows": images(1),
    }


def images(axes: int) -> Network:
    """Convolutions with delays and masks on 2 channels of lines or planes of 8, a pool, and a dense layer behind."""
    rng, (one, two, three) = np.random.default_rng(6), ((k,) * axes for k in (1, 2, 3))

    def layer(name: str, shape: tuple[int, int], **more: Any) -> HetSynLayer:
        decay = rng.uniform(0.5, 0.9, shape)
        return HetSynLayer(name, HetSynParams(rng.normal(0, 1, shape), decay, reset_decay=0.8, **more), dt=1e-3)

    first = Convolution(2, 4, three, one, one, one, 2)
    delays = {"mask": rng.random(first.sizes) < 0.7, "delay": rng.uniform(0, 3, first.sizes)}
    second = Convolution(4, 2, two, two, (0,) * axes, one, 1)
    return Network(
        (
            HetSynConv(layer("a", first.sizes, **delays), first),
            Pool("p", "average", two, two, (0,) * axes),
            HetSynConv(layer("b", second.sizes), second),
            Pool("q", "largest", two, one, (0,) * axes),
            Flatten("f"),
            layer("c", (3, 2)),
        )
    )


# ---- damage with a digest ------------------------------------------------------------------------------------------


def resealed(kind: Kind) -> Kind:
    """The same damage, and the digest made to fit it; where nothing can be read any more, as it is."""

    def make(rng: Random, data: bytes, other: bytes) -> bytes:
        return forged(kind.make(rng, data, other), lambda content, arrays: None)

    return Kind(f"{kind.name}, sealed", make, sealed=True, refused=kind.refused)


def forged(data: bytes, change: Change) -> bytes:
    """The file with this change to its content and arrays, and a right digest."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        path.write_bytes(data)
        try:
            forge(path, change)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, json.JSONDecodeError):
            return data
        return canonical(path.read_bytes())


def claimed(rng: Random, data: bytes, other: bytes) -> bytes:
    """The file claims what it does not hold: one of the claims that can be made of it."""
    every = list(claims())
    return next(lie for change in rng.sample(every, len(every)) if (lie := forged(data, change)) != data)


def claims() -> Iterator[Change]:
    """What a file may claim, each by itself, where it has such a part."""
    yield from (_entry("max_delay", value) for value in (*HUGE[:-1], 9, 100, 1.5, None, True))
    yield from (_entry("inputs", value) for value in (*HUGE, 0, M + 1, M - 1, 8, 9, None, True, 1.0))
    yield from (_array(field, change) for field in ("mask", "recurrent_mask") for change in (_wider, _taller, _nothing))
    yield _all_out
    yield from (_array(field, _off_the_end) for field in ("codebook.input_index", "codebook.recurrent_index"))
    yield from (_array("codebook.decays", change) for change in (_nothing, _too_few, lambda a: a * 0 + 2.0))
    yield from (_array(field, lambda a: a * 0 + 1e30) for field in ("delay", "values.delay", "recurrent_delay"))
    yield from (_array(field, _too_few) for field in ("values.weight", "values.stored.decay", "values.decay"))
    for option in Convolution._fields:
        yield from (_convolution(option, value) for value in (*HUGE, 0, 2, [1 << 19] * 2, [1 << 19], [0, 0], None))
    for layer in (1, 3):
        for option in ("kernel_size", "stride", "padding"):
            yield from (_entry(option, value, layer) for value in (*HUGE, [1 << 19] * 2, [1 << 19], [0, 0], [1, 1, 1]))
        yield from (_entry("kind", value, layer) for value in ("x", None, "largest", "average"))


def _entry(option: str, value: Any, layer: int = 0) -> Change:
    def change(content: dict[str, Any], arrays: dict[str, Any]) -> None:
        content["architecture"][layer][option] = value

    return change


def _convolution(option: str, value: Any) -> Change:
    def change(content: dict[str, Any], arrays: dict[str, Any]) -> None:
        content["architecture"][0]["convolution"][option] = value

    return change


def _array(field: str, make: Callable[[Any], Any]) -> Change:
    def change(content: dict[str, Any], arrays: dict[str, Any]) -> None:
        arrays[f"0.{field}"] = make(arrays[f"0.{field}"])

    return change


def _wider(array: Any) -> Any:
    return np.pad(array, ((0, 0), (0, 100_000)))


def _taller(array: Any) -> Any:
    return np.pad(array, ((0, 100_000), (0, 0)))


def _nothing(array: Any) -> Any:
    return array[..., :0]


def _too_few(array: Any) -> Any:
    return array[:-1]


def _off_the_end(array: Any) -> Any:
    return array * 0 + np.iinfo(array.dtype).max


def _all_out(content: dict[str, Any], arrays: dict[str, Any]) -> None:
    """A layer of 240 million synapses of which none is there: thirty megabytes, several gigabytes as matrices."""
    rows, columns, _ = 6, 40_000_000, arrays["0.values.weight"]  # no claim of a layer that has no mask
    content["architecture"][0]["inputs"] = columns
    arrays["0.mask"] = np.zeros((rows, columns // 8), np.uint8)
    arrays |= {name: arrays[name][:0] for name in arrays if name.startswith("0.values") and "recurrent" not in name}
