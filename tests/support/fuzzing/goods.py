"""The files of each reader before they are damaged: made by our own writers, and by hand as others write them."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from networks import plain

from fuzzing import by_bytes, by_hdf5, by_idx, by_safetensors, by_text, by_torch, by_zip, sealed, structures
from fuzzing.cases import Good, Kind
from fuzzing.loaders import SMALL, trainer_of
from fuzzing.sealed import saved, written
from hetsyn_plugins.core.network import HetSynLayer, Linear, Network
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.deployment import chip_file
from hetsyn_plugins.exchange import checkpoint, nir
from hetsyn_plugins.experiments import state_of_before, variants
from hetsyn_plugins.experiments.config import load_config, to_toml
from hetsyn_plugins.experiments.data.own import packed_events
from hetsyn_plugins.experiments.run_folder import (
    STATE,
    ClaimNumbers,
    ClaimResult,
    ClaimRow,
    Failure,
    PictureFile,
    RunNumbers,
    RunSummary,
    SeedResult,
    mean_sd,
    write_content,
)
from hetsyn_plugins.experiments.training import Trainer
from hetsyn_plugins.fixed_point.network import FixedNetwork

BEFORE = Path(__file__).resolve().parents[2] / "data" / "before_rooms"  # written before there were digests
JSON = (*by_text.kinds(by_text.JSON), *by_text.encodings(by_text.JSON), *by_bytes.KINDS)
TOML = (*by_text.kinds(by_text.TOML), *by_text.encodings(by_text.TOML), *by_bytes.KINDS)


def alone(name: str, target: str, data: bytes, loader: str, kinds: Sequence[Kind], signed: bool | None) -> Good:
    """A file that needs no others."""
    return Good(name, {target: data}, target, loader, kinds, signed)


def checkpoints() -> list[Good]:
    kinds = (sealed.kind(sealed.networks), *by_safetensors.KINDS, *by_bytes.KINDS)
    before = (BEFORE / "network.safetensors").read_bytes()
    networks = {"float64": plain(), "float32, log tau": checkpoint.load(BEFORE / "network.safetensors")}
    files = {name: saved(network) for name, network in networks.items()}
    goods = [alone(name, "network.safetensors", data, "checkpoint", kinds, True) for name, data in files.items()]
    goods.append(alone("to snnTorch", "network.safetensors", files["float64"], "checkpoint to snnTorch", kinds, True))
    kinds = (*by_safetensors.KINDS, *by_bytes.KINDS)
    return [*goods, alone("of before", "network.safetensors", before, "checkpoint", kinds, False)]


def chips() -> list[Good]:
    before = (BEFORE / "network.net").read_bytes()
    network = chip_file.read(BEFORE / "network.net")
    kinds = (sealed.kind(lambda: sealed.chips(network)), *by_hdf5.CHIP, *by_bytes.KINDS)
    with_dt = written("n.net", lambda path: chip_file.write(network, path, dt=1e-3))
    bare = written("n.net", lambda path: chip_file.write(network, path))
    first, *others = network.layers
    late = first.params.replace(delay=np.arange(first.params.weight.size).reshape(first.params.weight.shape) % 9)
    delayed = FixedNetwork((replace(first, params=late), *others))
    with_delays = written("n.net", lambda path: chip_file.write(delayed, path))
    return [
        alone("with delays", "network.net", with_delays, "chip", kinds, True),
        alone("with dt", "network.net", with_dt, "chip", kinds, True),
        alone("without dt", "network.net", bare, "chip", kinds, True),
        alone("of before", "network.net", before, "chip", (*by_hdf5.CHIP, *by_bytes.KINDS), False),
    ]


def nir_files() -> list[Good]:
    """Ours in each form, and stock graphs as others write them: a chain, one with weights that lead back, planes."""
    kinds, small = (*by_hdf5.NIR, *by_bytes.KINDS), small_chain()
    ours_too = (sealed.kind(lambda: sealed.networks(nir.write, "x.nir")), *kinds)
    ours = {"loop": plain(), "li_bank": plain(np.float32), "chain": small}
    goods = [
        alone(form, "net.nir", written("n.nir", functools.partial(nir.write, net, form=form)), "nir", ours_too, True)
        for form, net in ours.items()
    ]
    goods.append(alone("checked", "net.nir", goods[0].data, "nir check", kinds, None))
    spikes = np.random.default_rng(3).integers(0, 2, (8, 2, 7))
    recorded = written("d.nir", lambda path: nir.write_recording(plain(), spikes, path))
    goods.append(alone("a recording", "net.nir", recorded, "nir recording", (*by_hdf5.KINDS, *by_bytes.KINDS), None))
    stock = {"a LIF": stock_graph(), "weights that lead back": stock_graph(back=True), "planes": planes()}
    return [*goods, *(alone(name, "net.nir", by_others(node), "nir", kinds, None) for name, node in stock.items())]


def small_chain() -> Network:
    """Neurons without a reset."""
    params = HetSynParams(np.full((3, 4), 0.4), np.array([0.5, 0.7, 0.9]), reset_decay=None)
    return Network((HetSynLayer("a", params), Linear("b", np.eye(3))))


def stock_graph(back: bool = False) -> dict[str, Any]:
    """Affine and LIF, nested, as another exporter writes them."""
    ones = np.ones(3, np.float32)
    neuron = {
        "type": "LIF",
        "tau": 5e-4 * ones,
        "r": ones,
        "v_leak": 0 * ones,
        "v_threshold": ones,
        "v_reset": 0 * ones,
    }
    ends = {"input": {"type": "Input", "shape": np.array([3])}, "output": {"type": "Output", "shape": np.array([3])}}
    nodes, edges = {**ends, "lif": neuron}, [("input", "lif"), ("lif", "output")]
    if back:
        nodes["w_rec"] = {"type": "Linear", "weight": np.eye(3, dtype=np.float32)}
        edges += [("lif", "w_rec"), ("w_rec", "lif")]
    inside = {"type": "NIRGraph", "nodes": nodes, "edges": edges}
    affine = {"type": "Affine", "weight": np.ones((3, 4), np.float32), "bias": ones}
    outer = {"input": {"type": "Input", "shape": np.array([4])}, "fc": affine, "rnn": inside, "output": ends["output"]}
    return {"type": "NIRGraph", "nodes": outer, "edges": [("input", "fc"), ("fc", "rnn"), ("rnn", "output")]}


def planes() -> dict[str, Any]:
    """Conv2d, pooling, Flatten, LI."""
    conv: dict[str, Any] = {"type": "Conv2d", "weight": np.ones((2, 1, 3, 3), np.float32), "bias": np.ones(2)}
    conv |= {"input_shape": np.array([6, 6]), "stride": np.array([1, 1]), "padding": np.array([0, 0])}
    pool = {
        "type": "SumPool2d",
        "kernel_size": np.array([2, 2]),
        "stride": np.array([2, 2]),
        "padding": np.array([0, 0]),
    }
    each = np.ones(8)
    nodes: dict[str, Any] = {
        "0": {"type": "Input", "shape": np.array([1, 6, 6])},
        "1": {**conv, "dilation": np.array([1, 1]), "groups": 1},
        "2": pool,
        "3": {"type": "Flatten", "start_dim": 0, "end_dim": 2, "input_type": np.array([2, 2, 2])},
        "4": {"type": "LI", "tau": 3e-4 * each, "r": each, "v_leak": each},
        "5": {"type": "Output", "shape": np.array([8])},
    }
    return {"type": "NIRGraph", "nodes": nodes, "edges": [(f"{i}", f"{i + 1}") for i in range(5)]}


def by_others(node: dict[str, Any]) -> bytes:
    """A graph as NIR's own writer has it: texts of variable length, arrays packed, no digest."""

    def write(group: Any, content: dict[str, Any]) -> None:
        for name, value in content.items():
            if isinstance(value, dict):
                write(group.create_group(name), value)
            elif isinstance(value, str):
                group.create_dataset(name, data=value, dtype=h5py.string_dtype())
            elif isinstance(value, np.ndarray):
                group.create_dataset(name, data=value, compression="gzip")
            else:
                group.create_dataset(name, data=value)

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("version", data="1.0.8", dtype=h5py.string_dtype())
        write(file.create_group("node"), node)
    return buffer.getvalue()


def idx_files() -> list[Good]:
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (5, 28, 28), np.uint8), draw.integers(0, 10, 5, np.uint8)

    def idx(array: Any) -> bytes:
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()

    data = idx(images)
    files = {"images": data, "labels": idx(labels), "images, gzipped": by_idx.packed(data)}
    files["images, gzipped in parts"] = by_idx.packed(data[:100]) + by_idx.packed(data[100:])
    kinds = (*by_idx.KINDS, *by_bytes.KINDS)
    return [alone(name, "images", content, "idx", kinds, None) for name, content in files.items()]


def recordings() -> list[Good]:
    kinds = (*by_hdf5.SHD, *by_bytes.KINDS)
    files = {
        "as SHD's": recorded(np.float16, np.uint16, np.uint16, True),
        "other widths": recorded(np.float64, np.int64, ">i8", True),
        "no speakers, packed": recorded(np.float32, np.uint32, np.uint8, False, compression="gzip", chunks=(4,)),
    }
    goods = [alone(name, "shd.h5", data, "shd", kinds, None) for name, data in files.items()]
    draw = np.random.default_rng(7)
    times = [np.sort(draw.uniform(0, 1, count)) for count in (40, 3, 17)]
    own = packed_events(times, [draw.integers(0, 9, len(row)) for row in times], np.array([0, 1, 2]))
    return [*goods, alone("own events", "shd.h5", own, "own", kinds, None)]


def recorded(times: Any, units: Any, labels: Any, speakers: bool, **options: Any) -> bytes:
    """Six recordings in the layout of SHD."""
    draw, buffer = np.random.default_rng(1), io.BytesIO()
    counts = (40, 0, 17, 300, 5, 80)
    with h5py.File(buffer, "w") as file:
        for name, dtype in (("times", times), ("units", units)):
            rows = file.create_dataset(f"spikes/{name}", (len(counts),), h5py.vlen_dtype(np.dtype(dtype)), **options)
            for row, count in enumerate(counts):
                values = draw.uniform(0, 1, count) if name == "times" else draw.integers(0, 700, count)
                rows[row] = values.astype(dtype)
        file["labels"] = np.arange(6).astype(labels)
        if speakers:
            file["extra/speaker"] = np.arange(6).astype(labels)
    return buffer.getvalue()


def npz_files() -> list[Good]:
    draw = np.random.default_rng(2)
    inputs, labels = (draw.random((4, 3, 2)) < 0.5).astype(np.uint8), draw.integers(0, 2, 3)
    kinds = (*by_zip.CONTAINER, *by_zip.NPY, *by_bytes.KINDS)
    files = {
        "stored": npz(np.savez, inputs=inputs, labels=labels),
        "packed, with more": npz(
            np.savez_compressed, inputs=inputs.astype(np.float32), labels=labels, more=np.zeros(9)
        ),
        "inputs only": npz(np.savez_compressed, inputs=np.asfortranarray(inputs.astype(float))),
    }
    more = {"lengths": np.array([4, 2, 1]), "groups": np.array([7, 7, 2])}
    own = npz(np.savez, inputs=inputs, labels=labels, inputs_test=inputs, labels_test=labels, **more)
    goods = [alone(name, "data.npz", data, "npz", kinds, None) for name, data in files.items()]
    return [*goods, alone("own data", "data.npz", own, "own", kinds, None)]


def npz(save: Callable[..., None], **arrays: Any) -> bytes:
    """What NumPy writes."""
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def configurations() -> list[Good]:
    by_hand = '# ours\nframework = "norse"\n[task]\nname = "dms"\ndelay = 1\n\n[network]\nhidden = [5, 6,]\n'
    files = {name: to_toml(load_config(name)) for name in ("dms", "patterns")}
    files |= {"small": to_toml(load_config("dms", SMALL)), "by hand": by_hand}
    return [alone(name, "config.toml", text.encode(), "toml", TOML, None) for name, text in files.items()]


STRUCTURE = "training.density=0.25 training.prune_until=4 network.max_delay=0.02 network.clusters=3"


def states() -> list[Good]:
    """Two steps of training, whose time is set: it would be another one each time."""
    kinds = (*by_safetensors.KINDS, *by_bytes.KINDS)
    kinds_of_before = (*by_torch.KINDS, *by_zip.CONTAINER, *by_bytes.KINDS)
    goods = []
    for select, more in (("last", ""), ("best_validation", ""), ("last", STRUCTURE)):
        with tempfile.TemporaryDirectory() as folder:
            trainer = trained(Path(folder), f"{select} {more}")
            data = by_safetensors.canonical(Path(folder, STATE).read_bytes())
        name = "masks, delays, a codebook" if more else select
        settings = {"select.txt": f"{select} {more}".encode()}
        own = (sealed.kind(functools.partial(sealed.states, data)), *kinds) if name == "last" else kinds
        goods.append(Good(name, {**settings, STATE: data}, STATE, "state", own, True))
        if not more:  # of which there were none before
            old, files = state_of_before.STATE, {**settings, state_of_before.STATE: as_before(trainer)}
            goods.append(Good(f"{select}, of before", files, old, "state", kinds_of_before, False))
    return goods


def trained(folder: Path, settings: str) -> Trainer:
    """A run after two steps, its state in the folder."""
    trainer = trainer_of(folder, settings)
    for index in range(2):  # as `train` does
        trainer.step(trainer.config.task.training_batch(index, trainer.config.training.batch, 0))
        trainer.iteration += 1
        trainer.prune()
    trainer.validate()
    trainer.seconds = 1.5
    trainer._save()
    trainer.log.close()
    return trainer


def as_before(trainer: Trainer) -> bytes:
    """The state of a run as it was saved before there were digests."""
    best = trainer.best
    return by_torch.saved({
        "iteration": trainer.iteration,
        "seconds": trainer.seconds,
        "first_loss": trainer.first_loss,
        "model": trainer.model.state_dict(),
        "optimiser": trainer.optimiser.state_dict(),
        "best": {"merit": best.merit, "iteration": best.iteration, "model": best.model} if best else {},
    })  # fmt: skip


# ---- results and pages -------------------------------------------------------------------------------------------


def seed_result() -> SeedResult:
    return SeedResult(
        seed=0, measure="accuracy", test=0.65, validation=0.4, iterations=4, selected_iteration=4, select="last",
        seconds=5.3, peak_memory_mb=624.6, threads=1, framework="snntorch", parameters=288,
        versions={"python": "3.10.13", "torch": "2.3.1"},
    )  # fmt: skip


def claim_result() -> ClaimResult:
    rows = [
        ClaimRow("tau of cue channels, mean", 154.38, 136.41, 9.73, 5, "ms", True, "up from 100 ms"),
        ClaimRow("accuracy after reset", 75.68, 49.72, None, 5, "%", False, ""),
        ClaimRow("tau of noise channels", None, 97.28, 3.16, 5),
    ]
    return ClaimResult(
        name="table4", title="Long time constants are needed", statement="Training lengthens them.",
        command="hetsyn claim table4", rows=rows, verdict="As in the paper.", tried="",
        pictures=[PictureFile("p.png", "Time constants")], runs=["../run"],
    )  # fmt: skip


@functools.cache
def picture() -> bytes:
    """A PNG of one pixel."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0\0")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def content(value: Any) -> bytes:
    """One of our JSON files."""
    return written("x.json", lambda path: write_content(path, value))


def results() -> list[Good]:
    kinds = (sealed.kind(lambda: sealed.results(seed_result())), *JSON)
    before = (BEFORE / "run/seed-0/result.json").read_bytes()
    return [
        alone("a result", "result.json", content(seed_result()), "result", kinds, True),
        alone("of before", "result.json", before, "result", JSON, False),
    ]


def claims() -> list[Good]:
    kinds = (*sealed_claims(), *JSON)
    files = {"p.png": picture(), "claim.json": content(claim_result())}
    before = {**files, "claim.json": (json.dumps(asdict(claim_result()), indent=1) + "\n").encode()}
    return [
        Good("a claim", files, "claim.json", "claim", kinds, True),
        Good("of before", before, "claim.json", "claim", JSON, False),
        Good("its picture", files, "p.png", "claim", by_bytes.KINDS, None),
    ]


def numbers() -> list[Good]:
    """What was measured of a claim's runs."""
    runs = [RunNumbers(f"{seed:016x}", "dms", seed, 5.5, "cpu", {"test": 0.5, "delay 0.2": 1.0}) for seed in (0, 1)]
    return [alone("runs in numbers", "claim/results.json", content(ClaimNumbers(runs)), "numbers", JSON, True)]


def sealed_claims() -> tuple[Kind, Kind]:
    """Kinds of claims with a digest of their own."""
    cannot_be = sealed.kind(lambda: sealed.claims(claim_result()))
    return cannot_be, sealed.kind(lambda: sealed.other_claims(claim_result()), may_be=True)


def pages() -> list[Good]:
    """A claim and a run, of which one file is damaged; with logs and networks, or without what takes time to draw."""
    bare, log, networks = bare_run(), log_of_run(), networks_of_run()
    # one of each sort: a page takes its time
    sorts = ("type", "literal", "off", "missing", "deep", "huge list", "huge string", "inside", "after the end")
    lines = [
        kind for kind in by_text.kinds(by_text.JSON_LINE) if kind.name.endswith(sorts) and "digest" not in kind.name
    ]
    tables = [kind for kind in by_text.kinds(by_text.TOML) if kind.name.endswith(sorts) and "digest" not in kind.name]
    json_files = [kind for kind in JSON if "order" not in kind.name]  # a page lists entries as the file does
    targets: list[tuple[str, dict[str, bytes], Sequence[Kind], bool | None]] = [
        ("claim/claim.json", bare, (*sealed_claims(), *json_files), True),
        ("claim/p.png", bare, by_bytes.KINDS, None),
        ("run/config.toml", bare, (*tables, *by_bytes.KINDS), None),
        ("run/summary.json", bare, json_files, True),
        ("run/seed-0/result.json", bare, json_files, True),
        ("run/seed-1/failure.json", bare, json_files, True),
        ("run/seed-0/log.jsonl", {**bare, **log}, (*lines, *by_bytes.KINDS), None),
        ("run/seed-0/network.safetensors", {**bare, **networks}, by_bytes.KINDS, True),
    ]
    return [Good(target, files, target, "page", kinds, signed) for target, files, kinds, signed in targets]


def bare_run() -> dict[str, bytes]:
    """The files of a claim and of a run of two seeds, one of which failed."""
    summary = RunSummary(
        task="dms", variant="hetsyn", measure="accuracy", select="last", seeds=[0], test=mean_sd([0.65]),
        validation=mean_sd([0.4]), seconds=mean_sd([5.3]), peak_memory_mb=624.6, command="hetsyn train dms",
    )  # fmt: skip
    return {
        "claim/claim.json": content(claim_result()),
        "claim/p.png": picture(),
        "run/config.toml": to_toml(load_config("dms", SMALL)).encode(),
        "run/summary.json": content(summary),
        "run/seed-0/result.json": content(seed_result()),
        "run/seed-1/failure.json": content(Failure(3, "iteration 4: the loss is nan")),
    }


def log_of_run() -> dict[str, bytes]:
    """The log of its first seed."""
    record = {"epoch": 1.0, "loss": 0.7, "score": 0.5, "validation": 0.5, "lr": 0.005, "seconds": 0.1}
    lines = [json.dumps({"iteration": i, **record}) for i in (10, 20, 30, 40)]
    return {"run/seed-0/log.jsonl": ("\n".join(lines) + "\n").encode()}


def networks_of_run() -> dict[str, bytes]:
    """The networks of its first seed."""
    config = load_config("dms", SMALL)
    task = config.task
    start, end = (variants.build(config.network, task.lines, task.outputs, task.dt, seed) for seed in (0, 1))
    return {"run/seed-0/start.safetensors": saved(start), "run/seed-0/network.safetensors": saved(end)}


GOODS: dict[str, Callable[[], list[Good]]] = {
    "checkpoint": checkpoints,
    "structure": structures.goods,
    "chip": chips,
    "nir": nir_files,
    "idx": idx_files,
    "shd": recordings,
    "npz": npz_files,
    "toml": configurations,
    "state": states,
    "result": results,
    "claim": claims,
    "numbers": numbers,
    "page": pages,
}
