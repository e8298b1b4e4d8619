"""The commands of networks in files: `hetsyn convert` and `hetsyn card`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetsyn_plugins.core.network import Network

SUFFIXES = {"checkpoint": ".safetensors", "nir": ".nir", "onnx": ".onnx"}
NIR_ENDS = (".nir", ".h5", ".hdf5")


def add_commands(commands: Any) -> None:
    """Add them to the parser's commands; each sets `handler` and `less` as in `main.parser`."""
    convert = commands.add_parser("convert", help="bring a network from one kind of file to another")
    convert.add_argument(
        "source", type=Path, metavar="IN", help="a checkpoint, a NIR file, or a folder of a pretrained net"
    )
    convert.add_argument("out", type=Path, metavar="OUT")
    convert.add_argument("--to", choices=SUFFIXES, help="the kind of OUT (as its name ends)")
    convert.add_argument("--form", help="of NIR: loop, li_bank or chain")
    convert.add_argument("--sequence", action="store_true", help="of ONNX: whole sequences instead of a step")
    what = "convolutions become the dense layers that they are on images of this shape: for NIR and ONNX"
    convert.add_argument("--unrolled", metavar="C,H,W", help=what)
    convert.add_argument("--dt", type=float, help="seconds of a step, for layers that have none")
    convert.set_defaults(handler=run_convert, less="IN")

    card = commands.add_parser("card", help="write a model card: what a checkpoint is and was measured to do")
    card.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="in a run's folder it tells of the run too")
    card.add_argument("--name", help="of the model (that of its run and seed, or of the file)")
    card.add_argument("-o", "--out", type=Path, default=Path("README.md"), metavar="FILE")
    card.set_defaults(handler=run_card, less="CHECKPOINT")


def run_convert(arguments: argparse.Namespace) -> int:
    """Read, write, and say what was written; nothing is trained or rounded."""
    to = arguments.to or next((kind for kind, end in SUFFIXES.items() if arguments.out.suffix == end), None)
    if to is None:
        ends = ", ".join(SUFFIXES.values())
        raise ValueError(f"OUT: expected a name that ends in {ends}, or --to, got {arguments.out}")
    for option, value, kind in (("--form", arguments.form, "nir"), ("--sequence", arguments.sequence, "onnx")):
        if value and to != kind:
            raise ValueError(f"{option}: expected it with --to {kind}, got --to {to}")
    network = read(arguments.source, arguments.dt)
    if arguments.unrolled is not None:
        from hetsyn_plugins.core.unrolling import unrolled

        network = unrolled(network, _shape("--unrolled", arguments.unrolled))
    if to == "nir":
        from hetsyn_plugins.exchange import nir

        nir.write(network, arguments.out, **({"form": arguments.form} if arguments.form else {}))
    elif to == "onnx":
        from hetsyn_plugins.exchange import onnx

        onnx.write(network, arguments.out, sequence=arguments.sequence)
    else:
        from hetsyn_plugins.exchange import checkpoint

        checkpoint.save(network, arguments.out)
    count, size = len(network.layers), arguments.out.stat().st_size
    print(f"{arguments.out}: {to}, {count} {'layer' if count == 1 else 'layers'}, {size:,} bytes")
    return 0


def _shape(option: str, text: str) -> tuple[int, ...]:
    """ "1,28,28" as numbers."""
    parts = text.split(",")
    if len(parts) not in (2, 3) or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"{option}: expected C,H,W or C,L, as in 1,28,28, got {text!r}")
    return tuple(map(int, parts))


def read(source: Path, dt: float | None = None) -> Network:
    """The network of a file or folder, as plain data."""
    from hetsyn_plugins.exchange import checkpoint, nir
    from hetsyn_plugins.exchange.pretrained import from_pretrained

    if source.is_dir():
        network: Network = from_pretrained(source, dt=dt)
    elif source.suffix in NIR_ENDS:
        network = nir.read(source, dt=dt)
    else:
        network = checkpoint.load(source, dt=dt)
    return network


def run_card(arguments: argparse.Namespace) -> int:
    """Write the card; a file that is there stays."""
    from hetsyn_plugins.core.files import write_bytes
    from hetsyn_plugins.experiments.cards import card_of

    text = card_of(arguments.checkpoint, arguments.name)
    if arguments.out.exists():
        raise ValueError(f"--out: expected a file that is not there yet, got {arguments.out}")
    write_bytes(arguments.out, text.encode())
    print(f"card: {arguments.out}")
    return 0
