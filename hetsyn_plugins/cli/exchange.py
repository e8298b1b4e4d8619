"""The commands of networks in files: `hetsyn card`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add them to the parser's commands; each sets `handler` and `less` as in `main.parser`."""
    card = commands.add_parser("card", help="write a model card: what a checkpoint is and was measured to do")
    card.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="in a run's folder it tells of the run too")
    card.add_argument("--name", help="of the model (that of the checkpoint's folder)")
    card.add_argument("-o", "--out", type=Path, default=Path("README.md"), metavar="FILE")
    card.set_defaults(handler=run_card, less="CHECKPOINT")


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
