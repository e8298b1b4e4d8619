"""Gets a public data set from its publisher, when asked to, and says whether a folder holds one whole.

    get("mnist")                 into `place("mnist")`; what a broken connection left is gone on with
    check(Path("data/mnist"))    what each file lacks

A set is kept as its task reads it: gzipped idx files as they come, of zip files the wanted members. got.json beside
them has the SHA-256 of every file, so that files without a published checksum are pinned to what was got first.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from contextlib import closing
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from hetsyn_plugins.core.bounded import ZIP_ERRORS, checked_members, gunzip, read_bytes
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.files import clear, make_folder, read_json, said_of, user_cache, write_json
from hetsyn_plugins.core.locks import locked
from hetsyn_plugins.experiments.data.publishers import DATA_SETS, DataSet, Published

GOT = "got.json"
PART = ".part"  # behind the name of a file that is on its way
PIECE = 1 << 16  # bytes: what a broken connection may lose
PATIENCE = 30  # s without a byte
VERDICTS = {True: "right", False: "wrong", None: "unknown"}
AGAIN = "the same command goes on from there"


class Finding(NamedTuple):
    """What `check` says of a file: it is right, wrong or missing, or (None) there is nothing to compare it with."""

    name: str
    right: bool | None
    what: str


def place(name: str) -> Path:
    """Where `get` keeps a data set: $HETSYN_CACHE/NAME, or hetsyn_plugins/NAME in $XDG_CACHE_HOME or ~/.cache."""
    folder = os.environ.get("HETSYN_CACHE")
    return (Path(folder) if folder else user_cache()) / name


def get(name: str, folder: Path | None = None, *, quiet: bool = False) -> Path:
    """The folder of a data set, got from its publisher as far as it is not there yet.

    folder   where it is kept; None: `place(name)`
    quiet    no progress bar

    Raises ValueError for another name, or where another process gets it; ImportError without pooch; OSError where
    nobody can be reached, a connection breaks or a disk is full: the same call goes on from there; FileFormatError for
    files that are not those that were published.
    """
    if name not in DATA_SETS:
        raise ValueError(f"NAME: expected one of {', '.join(DATA_SETS)}, got {name!r}")
    data, folder = DATA_SETS[name], place(name) if folder is None else folder
    make_folder(folder, "folder")
    with locked(folder):
        clear(folder)
        got = _got(folder)
        for file in data.files:
            kept = got.get(file.name)
            if not kept or any(_sha256(folder / name) != sha for name, sha in kept.items()):
                path = _transferred(data, file, folder, quiet)
                got[file.name] = _kept(file, path)
                write_json(folder / GOT, {"files": got})  # after each: what is whole is not got again
    for finding in check(folder, name):
        if finding.right is False:
            raise FileFormatError(folder / finding.name, "it as it was published", finding.what, to_do="get it again")
    return folder


RECORDINGS_IN = "recordings"  # where the repository of FSDD has them


def check(folder: Path, name: str | None = None) -> list[Finding]:
    """What is right and wrong with the files of a data set in a folder, of all of its files.

    name   which data set; None: the one that the folder has most files of, and most that are right

    Raises ValueError where it has none of any.
    """
    if name is None:
        have = {known: sum((folder / file).is_file() for file in _names(data)) for known, data in DATA_SETS.items()}
        most = [known for known in have if have[known] == max(have.values())]  # some call their files alike
        if len(most) == len(have) and (folder / RECORDINGS_IN).is_dir():
            return check(folder / RECORDINGS_IN)
        if len(most) == len(have):
            raise ValueError(f"FOLDER: expected files of one of {', '.join(DATA_SETS)}, got {folder}, which has none")
        return max((check(folder, known) for known in most), key=lambda found: sum(map(bool, (f.right for f in found))))
    data, got = DATA_SETS[name], _got(folder)
    pins = {kept: sha for files in got.values() for kept, sha in files.items()}
    if data.digest:
        return [_all_at_once(data, folder)]
    return [_found(folder / kept, file, pins.get(kept), data) for file in data.files for kept in file.kept]


def digest_of(folder: Path, names: Sequence[str]) -> str:
    """SHA-256 over lines of a file's name and the SHA-256 of its contents, in order."""
    lines = (f"{name} {_sha256(folder / name)}\n" for name in sorted(names))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# ---- what is there -------------------------------------------------------------------------------------------------


def _names(data: DataSet) -> list[str]:
    """The files that the whole data set consists of, as they are kept."""
    return [name for file in data.files for name in file.kept]


def _found(path: Path, file: Published, pin: str | None, data: DataSet) -> Finding:
    """What is to be said of one file."""
    if not path.is_file():
        return Finding(path.name, False, "missing")
    if not file.members and _md5(path) == file.md5:
        return Finding(path.name, True, f"md5 as stated by {data.stated}")
    if file.contents and _md5_unpacked(path) == file.contents:
        return Finding(path.name, True, "packed in another way; what it unpacks to has the published md5")
    if not file.members:
        return Finding(path.name, False, f"another md5 than {file.md5}, which {data.stated} state")
    if pin is None:
        return Finding(path.name, None, "there, with nothing to compare it with: it was not got by `hetsyn data get`")
    if _sha256(path) != pin:
        return Finding(path.name, False, "changed since it was got")
    return Finding(path.name, True, "as it was got, when the md5 of its archive was right")


def _all_at_once(data: DataSet, folder: Path) -> Finding:
    names = _names(data)
    missing = [name for name in names if not (folder / name).is_file()]
    what = f"{len(names):,} files"
    if missing:
        return Finding(what, False, f"{len(missing):,} are missing, {missing[0]} the first")
    if digest_of(folder, names) != data.digest:
        return Finding(what, False, "not all are those of the release")
    return Finding(what, True, "those of the release")


def _got(folder: Path) -> dict[str, dict[str, str]]:
    """By published file, the files that came of it and their SHA-256; {} where got.json is not there or damaged."""
    try:
        files: dict[str, dict[str, str]] = read_json(folder / GOT, "what was got", to_do="delete it")["files"]
        return {str(name): {str(kept): str(sha) for kept, sha in of.items()} for name, of in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _sha256(path: Path) -> str | None:
    """None where there is no such file."""
    return _sum(hashlib.sha256(), path) if path.is_file() else None


def _md5(path: Path) -> str:
    return _sum(hashlib.md5(usedforsecurity=False), path)


def _md5_unpacked(path: Path) -> str:
    packed = read_bytes(path, 1 << 28, "a gzipped file")
    try:
        return hashlib.md5(gunzip(path, packed), usedforsecurity=False).hexdigest()
    except FileFormatError:
        return ""


def _sum(algorithm: Any, path: Path) -> str:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            algorithm.update(piece)
    return str(algorithm.hexdigest())


# ---- on its way ----------------------------------------------------------------------------------------------------


def _transferred(data: DataSet, file: Published, folder: Path, quiet: bool) -> Path:
    """The file as it was published, from the first host that gives it."""
    try:
        import pooch
    except ImportError as error:
        raise ImportError("data sets are got by pooch: pip install 'hetsyn_plugins[data]'") from error
    pooch.get_logger().setLevel("WARNING")
    failed: list[str] = []
    for host in data.hosts:
        known = f"md5:{file.md5}" if file.md5 else None
        try:
            got = pooch.retrieve(host + file.name, known, file.name, folder, downloader=_Resuming(file, folder, quiet))
            return Path(got)
        except _Broken as error:
            failed.append(str(error))
        except FileFormatError:
            raise
        except ValueError as error:  # as pooch says it
            expected = f"md5 {file.md5}, as stated by {data.stated}"
            to_do = "nothing is kept of it: try again, and if it stays so the publisher has changed the file"
            raise FileFormatError(folder / file.name, expected, f"other contents from {host}", to_do=to_do) from error
    raise OSError(f"{file.name}: expected a host that gives it, got {'; '.join(failed)}; {AGAIN}")


class _Broken(Exception):
    """A host does not give a file, or not to its end."""


class _Resuming:
    """What pooch calls to transfer a file: goes on with the part that an earlier call left beside it."""

    def __init__(self, file: Published, folder: Path, quiet: bool) -> None:
        self.file, self.part, self.quiet = file, folder / (file.name + PART), quiet

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        import requests

        begun = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Range": f"bytes={begun}-"} if begun else {}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as response:
                if response.status_code != requests.codes.requested_range_not_satisfiable:  # else it is there already
                    self._take(response, begun)
        except requests.RequestException as error:
            raise _Broken(f"{url}: {_reason(error)}") from error
        os.replace(self.part, output_file)

    def _take(self, response: Any, begun: int) -> None:
        """Write what comes behind what is there, or from the start where the host knows no ranges."""
        response.raise_for_status()
        goes_on = response.status_code == 206
        total = (begun if goes_on else 0) + int(response.headers.get("Content-Length", 0))
        with (
            self.part.open("ab" if goes_on else "wb", buffering=0) as out,
            tqdm(
                desc=self.file.name, initial=out.tell(), total=total or None, unit="B", unit_scale=True,
                disable=self.quiet,
            ) as bar,
        ):  # fmt: skip
            for piece in response.iter_content(PIECE):
                _write(piece, out, self.part)
                bar.update(len(piece))
                if out.tell() > 2 * self.file.size:
                    self.part.unlink()
                    raise FileFormatError(self.part, f"about {self.file.size:,} bytes", "more than twice as many")
            if total and out.tell() != total:
                raise _Broken(f"{response.url}: the connection ended after {out.tell():,} of {total:,} bytes")


def _write(piece: bytes, out: FileIO, path: Path) -> None:
    """Write all of a piece; OSError names the file, of which a full disk keeps the beginning."""
    left = memoryview(piece)
    with said_of(path, "what came is kept"):
        while left:
            left = left[out.write(left) :]


def _reason(error: Exception) -> str:
    """What went wrong, in a few words: the innermost of requests' errors says it."""
    while (inner := error.__cause__ or error.__context__ or getattr(error, "reason", None)) is not None:
        if not isinstance(inner, Exception):
            break
        error = inner
    return f"{type(error).__name__}: {error}".splitlines()[0]


# ---- as it is kept -------------------------------------------------------------------------------------------------


def _kept(file: Published, path: Path) -> dict[str, str]:
    """What stays of a file that was transferred, with its SHA-256: itself, or of a zip file the wanted members."""
    if file.members:
        _unpack(path, set(file.members))
        path.unlink()
    return {name: str(_sha256(path.parent / name)) for name in file.kept}


def _unpack(path: Path, wanted: set[str]) -> None:
    """Write the wanted members beside the zip file, each whole or not at all."""
    with closing(checked_members(path, lambda name: name.rpartition("/")[2] in wanted)) as file:
        members = {entry.filename.rpartition("/")[2]: entry for entry in file.infolist()}
        for name in sorted(wanted):
            if name not in members:
                raise FileFormatError(path, f"a member {name}", "none")
            _write_member(file, members[name], path.with_name(name), path)


def _write_member(file: zipfile.ZipFile, entry: zipfile.ZipInfo, out: Path, path: Path) -> None:
    part = out.with_name(out.name + PART)
    try:
        with file.open(entry) as member, part.open("wb", buffering=0) as written:
            while piece := member.read(PIECE):
                _write(piece, written, part)
                if written.tell() > entry.file_size:
                    raise FileFormatError(path, f"{entry.file_size} bytes", "more", field=entry.filename)
    except ZIP_ERRORS as error:
        if isinstance(error, OSError):
            raise
        raise FileFormatError(path, "a whole member", f"one that does not unpack: {error}", field=out.name) from error
    os.replace(part, out)


# ---- in words ------------------------------------------------------------------------------------------------------


def told(name: str, folder: Path | None = None) -> str:
    """What is to be known before a data set is got, in lines."""
    data = DATA_SETS[name]
    size = sum(file.size for file in data.files)
    where = place(name) if folder is None else folder
    return f"{data.title}\nlicence: {data.licence}\nabout {size / 1e6:,.0f} MB from {data.hosts[0]} into {where}"


def is_here(name: str) -> bool:
    """Whether all files of a data set are where `get` puts them; `check` says whether they are right."""
    return all((place(name) / file).is_file() for file in _names(DATA_SETS[name]))
