"""Networks in folders as the Hugging Face hub has them: model.safetensors, config.json, README.md.

Nothing here asks a network for anything but for a name that is no folder, and then by `huggingface_hub`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hetsyn_plugins._version import __version__
from hetsyn_plugins.core.files import make_folder, write_bytes
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.exchange.card import FILE, LIBRARY, Measured, card

CONFIG, README = "config.json", "README.md"


def save_pretrained(net: Any, folder: str | os.PathLike[str], *, measured: Measured | None = None) -> None:
    """Write a net that `convert` takes into a folder: a checkpoint, what it is in JSON, and a model card.

    measured   what it was measured to do, for the card
    A README.md that is there already is left as it is. Raises as `checkpoint.save` does.
    """
    folder = Path(folder)
    network = net if isinstance(net, Network) else _convert(net)
    make_folder(folder, "folder")
    checkpoint.save(network, folder / FILE)
    layers = [{"name": layer.name, "type": type(layer).__name__, "widths": layer.widths} for layer in network.layers]
    config = {"library_name": LIBRARY, f"{LIBRARY}_version": __version__, "layers": layers}
    write_bytes(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    if not (folder / README).exists():
        write_bytes(folder / README, card(network, folder.resolve().name, measured).encode())


def from_pretrained(
    source: str | os.PathLike[str],
    to: str = "reference",
    dt: float | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Any:
    """The network of a folder, or of a repository of the hub ("owner/name"), as `checkpoint.load` gives it.

    to, dt   as there
    revision, cache_dir, local_files_only   of the hub, as in `huggingface_hub.hf_hub_download`

    Raises FileNotFoundError where a folder has no model.safetensors, ImportError where huggingface_hub is missing for a
    name that is no folder, and as `checkpoint.load` does.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / FILE).is_file():
            raise FileNotFoundError(f"source: expected a folder with a {FILE}, as save_pretrained writes, got {folder}")
        return checkpoint.load(folder / FILE, to, dt)
    name = os.fspath(source)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"source: expected a folder, or owner/name on the hub, got {name}, which is no folder")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        what = f"huggingface_hub, to get {name}, which is no folder here"
        raise ImportError(f"source: expected {what}, got none: pip install 'hetsyn_plugins[hub]'") from error
    path = hf_hub_download(
        name,
        FILE,
        revision=revision,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        local_files_only=local_files_only,
    )
    return checkpoint.load(path, to, dt)


def _convert(net: Any) -> Network:
    from hetsyn_plugins.exchange.conversion import convert  # plain data need no torch

    network: Network = convert(net, to="reference")
    return network
