"""Files that lie: what a safetensors file of ours says is changed, and the digest made to fit it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from hetsyn_plugins.core import array_file
from hetsyn_plugins.core.file_format import digest


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Write the file anew with its content and arrays changed, in place, and the right digest of what is then there."""
    file = array_file.read(path, "a file to forge")
    content = json.loads(file.metadata[array_file.ENTRY])
    arrays: dict[str, Any] = {name: np.array(array) for name, array in file.arrays.items()}
    del content["digest"]
    change(content, arrays)
    arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
    content["digest"] = digest({"content": content, "arrays": arrays})
    path.write_bytes(save(arrays, {array_file.ENTRY: json.dumps(content)}))


def checkpoint_of_before(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any] | None = None) -> None:
    """Write a checkpoint anew as files of format 1 were, several entries and no digest, maybe with these changed."""
    file = array_file.read(path, "a checkpoint")
    content = json.loads(file.metadata[array_file.ENTRY])
    arrays: dict[str, Any] = {name: np.array(array) for name, array in file.arrays.items()}
    metadata = {
        "format": content["format"],
        "format_version": "1",
        "hetsyn_plugins": content["version"],
        "architecture": content["architecture"],
    }
    if change is not None:
        change(metadata, arrays)
    if not isinstance(metadata.get("architecture", ""), str):
        metadata["architecture"] = json.dumps(metadata["architecture"])
    path.write_bytes(save(arrays, metadata))
