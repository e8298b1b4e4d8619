"""The pictures of a claim, as they come into the page: PNG files in the claim's own folder, whole."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from hetsyn_plugins.core.bounded import read_bytes
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.experiments.run_folder import CLAIM

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST = 8_000_000  # bytes: what a page can hold a few of
WIDEST, LARGEST = 20_000, 50_000_000  # pixels: of a side, in all
HEADER = b"\0\0\0\x0dIHDR"  # length and kind of the first part, which has the sizes


def read(folder: Path, name: str) -> bytes:
    """The bytes of the PNG of this name in this folder.

    Raises FileNotFoundError, or FileFormatError where it lies elsewhere, by its name or by a link, or is no whole PNG.
    """
    path = folder / name
    if Path(name).name != name or "\\" in name or path.resolve().parent != folder.resolve():
        raise FileFormatError(
            folder / CLAIM, "pictures in its folder", f"{name!r}, outside its folder", field="pictures"
        )
    content = read_bytes(path, LONGEST, "a picture that claim.json names")
    _check_parts(content, path)
    width, height = size(content)
    if not (1 <= width <= WIDEST and 1 <= height <= WIDEST and width * height <= LARGEST):
        expected = f"a picture of up to {WIDEST} pixels a side, {LARGEST} in all"
        raise FileFormatError(path, expected, f"{width} x {height}")
    return content


def size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def _check_parts(content: bytes, path: Path) -> None:
    """Raise FileFormatError unless it is header, data and end, each part with its checksum, and nothing behind."""
    if not content.startswith(SIGNATURE + HEADER):
        raise FileFormatError(path, "a PNG", "a file that does not begin as one")
    at, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        length = int.from_bytes(content[at : at + 4], "big")
        kind, end = content[at + 4 : at + 8], at + 8 + length
        if content[end : end + 4] != zlib.crc32(content[at + 4 : end]).to_bytes(4, "big"):
            raise FileFormatError(path, "a whole PNG", f"one that is damaged or cut at byte {at}")
        at = end + 4
    if at != len(content):
        raise FileFormatError(path, "a PNG that ends at its end", f"{len(content) - at} bytes behind it")
